"""Digests of files to send."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from gpurent.spi import LocalFile


def listed(paths: Mapping[Path, str]) -> tuple[LocalFile, ...]:
    """Size and sha256 of every file, hashed side by side; values are targets on the host."""
    with ThreadPoolExecutor() as pool:
        return tuple(pool.map(lambda item: _listed(*item), paths.items()))


def _listed(path: Path, target: str) -> LocalFile:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        size = file.tell()
    return LocalFile(path, target, size, digest)
