"""Where files of a run arrive: in a folder of the run beside their place, which they take whole, verified and last."""

from __future__ import annotations

import hashlib
import os
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from gpurent.errors import HomeFull


@dataclass(frozen=True)
class Landing:
    """The folder of one job on one machine inside the output folder: on the same disk, so that a rename is all or
    nothing."""

    output_dir: Path
    job: str

    @property
    def folder(self) -> Path:
        """Of what has not been verified yet."""
        return self.output_dir / f".gpurent-{self.job}"

    def place(self, name: str) -> Path:
        """Where a file lands. Raises HomeFull when the folder cannot be made."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise HomeFull(f"the folder {self.folder} cannot be made: {error.strerror}") from error
        return self.folder / name

    def holds(self, name: str, size: int, sha256: str) -> bool:
        """Whether exactly this file lies in its place already."""
        target = self.output_dir / name
        if not target.is_file() or target.stat().st_size != size:
            return False
        with target.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == sha256

    def publish(self, name: str, target_name: str = "") -> Path:
        """Give a verified file its name, on disk to stay: the machine that has the only other copy is destroyed next.

        ``target_name``: below the output folder, where it is not ``name``.

        Raises:
            HomeFull: this computer does not take it.
        """
        landed, target = self.folder / name, self.output_dir / (target_name or name)
        try:
            _sync(landed)
            landed.replace(target)
            _sync(target.parent)
        except OSError as error:
            raise HomeFull(f"{target} cannot be written: {error.strerror}") from error
        return target

    def clear(self) -> None:
        """Remove the folder with whatever was not verified."""
        with suppress(OSError):  # nothing rests on it: what is left over is a hidden folder of unfinished pieces
            for path in self.folder.iterdir():
                path.unlink()
            self.folder.rmdir()


def _sync(path: Path) -> None:
    """Onto the disk, a folder with the names in it. Windows keeps those by itself, and syncs only what it may write."""
    if sys.platform == "win32" and path.is_dir():
        return
    handle = os.open(path, os.O_RDWR if sys.platform == "win32" else os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
