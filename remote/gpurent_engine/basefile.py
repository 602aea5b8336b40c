"""Digests of the base, computed beside everything else: they take seconds and are wanted at the first save."""

from __future__ import annotations

import hashlib
import threading
from dataclasses import dataclass
from pathlib import Path

WINDOW_AT, WINDOW = 0x100000, 0x10000


@dataclass(frozen=True)
class BaseFile:
    """The base as the metadata names it. Hashes are of a single file; a folder and a hub id have none."""

    name: str
    legacy_hash: str | None = None
    """First 8 hex digits over 64 KiB at 1 MiB, by which old versions of AUTOMATIC1111's program know a model."""
    sha256: str | None = None


class BaseHashes:
    """Reads a single file in the background. hashlib lets other threads run while it works."""

    def __init__(self, base_model: str) -> None:
        self._path = Path(base_model)
        self._found = BaseFile(base_model if not self._path.exists() else self._path.name)
        self._thread: threading.Thread | None = None
        if self._path.is_file():
            self._thread = threading.Thread(target=self._read, name="hash", daemon=True)
            self._thread.start()

    def _read(self) -> None:
        whole = hashlib.sha256()
        try:
            with self._path.open("rb") as file:
                file.seek(WINDOW_AT)
                legacy = hashlib.sha256(file.read(WINDOW)).hexdigest()[:8]
                file.seek(0)
                while block := file.read(1 << 22):
                    whole.update(block)
        except OSError:
            return  # it was readable a moment ago, and is loaded already; the metadata goes without
        self._found = BaseFile(self._path.name, legacy, whole.hexdigest())

    def result(self) -> BaseFile:
        """Name and digests; waits for them."""
        if self._thread is not None:
            self._thread.join()
        return self._found
