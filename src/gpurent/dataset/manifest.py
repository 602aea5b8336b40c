"""Digests of files to send."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path

from gpurent.errors import DatasetError
from gpurent.spi import LocalFile
from gpurent.tasks import parallel


def digest(path: Path) -> str:
    """Sha256 of a file, as lower-case hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def listed(paths: Mapping[Path, str], on_bytes: Callable[[int], None] = lambda _count: None) -> tuple[LocalFile, ...]:
    """Size and sha256 of every file, hashed side by side.

    Args:
        paths: each file's target on the host.
        on_bytes: called from this thread with the bytes hashed since the last call.

    Raises:
        DatasetError: a file has gone or cannot be read any more.
    """
    found: list[LocalFile] = []
    for file in parallel(lambda item: _listed(*item), paths.items()):
        found.append(file)
        on_bytes(file.size)
    return tuple(found)


def _listed(path: Path, target: str) -> LocalFile:
    try:
        return LocalFile(path, target, path.stat().st_size, digest(path))
    except OSError as error:
        raise DatasetError(f"{path} cannot be read: {error}", hint="It was there a moment ago; start again.") from error
