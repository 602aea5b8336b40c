"""What was computed once and may be wanted again, kept on disk between trainings: latents and embeddings.

A name is a digest of everything that the content depends on, so nothing in here can be out of date. A file carries the
digest of its numbers; one that is damaged is deleted and computed again.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from gpurent_engine import checkpoint

LIMIT_BYTES = 8 * 10**9
"""A machine of one's own keeps the folder for ever: beyond this, what was used longest ago goes."""
SUFFIX = ".safetensors"


class Store:
    """A folder of small safetensors files.

    Args:
        folder: made on demand, for this user only; None keeps nothing.
        limit: bytes that the folder may hold; looked at once, here.
    """

    def __init__(self, folder: Path | None, *, limit: int = LIMIT_BYTES) -> None:
        self._folder = folder
        self.read = 0
        """How many entries were found."""
        self.damaged: list[str] = []
        """Files that did not hold what they said."""
        self.failure = ""
        """Why nothing more is written, if something went wrong."""
        if folder is not None:
            self._prune(folder, limit)

    @property
    def on(self) -> bool:
        """Whether anything is kept."""
        return self._folder is not None

    def get(self, key: str) -> dict[str, torch.Tensor] | None:
        """Tensors on the CPU, or None where there are none."""
        if self._folder is None:
            return None
        path = self._folder / f"{key}{SUFFIX}"
        if not path.is_file():
            return None
        try:
            with safe_open(path, "pt") as file:
                said = (file.metadata() or {}).get("sha256")
                found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
            sound = said == _digest(found)
        except (SafetensorError, OSError, ValueError):
            sound, found = False, {}
        if not sound:
            self.damaged.append(path.name)
            path.unlink(missing_ok=True)
            return None
        os.utime(path)  # it is used; see ``_prune``
        self.read += 1
        return found

    def put(self, key: str, tensors: Mapping[str, torch.Tensor]) -> None:
        """Keep tensors; a disk that is full or refuses costs nothing but the next training's time."""
        if self._folder is None or self.failure:
            return
        held = {name: one.detach().cpu().contiguous() for name, one in tensors.items()}
        part = self._folder / f".{key}.{os.getpid()}.part"
        try:
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            with part.open("wb") as file:
                file.writelines(checkpoint.safetensors(held, {"sha256": _digest(held)}))
            part.replace(self._folder / f"{key}{SUFFIX}")
        except OSError as error:
            with suppress(OSError):
                part.unlink(missing_ok=True)
            self.failure = "the disk is full" if error.errno == errno.ENOSPC else str(error)

    @staticmethod
    def _prune(folder: Path, limit: int) -> None:
        found = []
        for path in folder.iterdir() if folder.is_dir() else ():
            try:
                facts = path.stat()
            except OSError:
                continue  # another training has just deleted it
            found.append((facts.st_mtime, facts.st_size, path))
        held = sum(size for _, size, _ in found)
        for _, size, path in sorted(found):
            if held <= limit:
                return
            path.unlink(missing_ok=True)
            held -= size


def key(*parts: object) -> str:
    """A name from everything that decides the content: JSON-ready values."""
    return hashlib.sha256(json.dumps(parts, separators=(",", ":"), default=str).encode()).hexdigest()


def weights(modules: Iterable[torch.nn.Module]) -> str:
    """A digest of all numbers of some modules, and of their format."""
    tensors = [one for module in modules for one in module.state_dict().items()]

    def of(item: tuple[str, torch.Tensor]) -> str:
        return f"{item[0]} {_digest({'': item[1].detach().cpu().contiguous()})}"

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:  # hashlib lets other threads run while it works
        return hashlib.sha256("\n".join(pool.map(of, tensors)).encode()).hexdigest()


def _digest(tensors: Mapping[str, torch.Tensor]) -> str:
    found = hashlib.sha256()
    for name, one in sorted(tensors.items()):
        found.update(f"{name} {one.dtype} {tuple(one.shape)} ".encode())
        if one.numel():
            numbers: Any = one.reshape(-1).view(torch.uint8).numpy()
            found.update(memoryview(numbers))
    return found.hexdigest()
