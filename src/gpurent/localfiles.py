"""Open files of this computer without being led elsewhere, and without waiting for pipes and devices."""

from __future__ import annotations

import os
import stat
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import BinaryIO, Self

NO_LINK = getattr(os, "O_NOFOLLOW", 0)
NO_WAIT = getattr(os, "O_NONBLOCK", 0)
"""A pipe without a writer would be waited for."""
_BINARY = getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)
_FOLDER = getattr(os, "O_DIRECTORY", 0)
_WALKS = os.open in os.supports_dir_fd and bool(NO_LINK)


@dataclass(frozen=True, slots=True)
class Stamp:
    """Which file it is and in which state, as the operating system tells of one that is open."""

    device: int
    inode: int
    size: int
    changed_ns: int

    @classmethod
    def of(cls, file: BinaryIO) -> Self:
        """Of an open file."""
        found = os.fstat(file.fileno())
        return cls(found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)


def open_regular(path: Path) -> BufferedReader:
    """Open a regular file, following links. Never waits.

    Raises:
        OSError: it cannot be opened, or is a pipe, a device, a socket or a folder.
    """
    return _regular(os.open(path, os.O_RDONLY | NO_WAIT | _BINARY), path)


def open_beneath(root: Path, path: Path) -> BufferedReader:
    """Open a regular file in or below the folder ``root`` without following a single link on the way.

    Args:
        root: without links (``Path.resolve``).
        path: below ``root``, without links; one that has become a link meanwhile is not followed.

    Raises:
        OSError: as ``open_regular``, or a part of the path is a link.
        ValueError: ``path`` is not below ``root``.
    """
    parts = path.relative_to(root).parts
    if not parts or ".." in parts:
        raise ValueError(f"{path} is not below {root}")
    if not _WALKS:  # Windows: what was opened is compared with what a look without following links shows
        return _compared(path)
    with ExitStack() as folders:

        def enter(name: str | Path, above: int | None) -> int:
            folder = os.open(name, os.O_RDONLY | _FOLDER | NO_LINK | _BINARY, dir_fd=above)
            folders.callback(os.close, folder)
            return folder

        above = enter(root, None)
        for part in parts[:-1]:
            above = enter(part, above)
        return _regular(os.open(parts[-1], os.O_RDONLY | NO_LINK | NO_WAIT | _BINARY, dir_fd=above), path)


def read_text(path: Path, most: int) -> str:
    """A UTF-8 text of at most ``most`` bytes, with or without a byte order mark.

    Raises:
        OSError: as ``open_regular``, or it is larger.
        UnicodeDecodeError: it is not UTF-8.
    """
    with open_regular(path) as file:
        data = file.read(most + 1)
    if len(data) > most:
        raise OSError(f"it is larger than {most >> 10} KiB")
    return data.decode("utf-8-sig")


def private_folder(path: Path) -> Path:
    """Make a folder that only its owner may enter, and every missing folder above it likewise; return it.

    One that is there already is left as it is: it may be a folder that a person shares on purpose.

    Raises:
        OSError: it cannot be made.
    """
    missing = [one for one in (path, *path.parents) if not one.exists()]
    for one in reversed(missing):
        one.mkdir(mode=0o700, exist_ok=True)
    if not path.is_dir():
        raise NotADirectoryError(f"{path} is not a folder")
    return path


def _regular(descriptor: int, path: Path) -> BufferedReader:
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(f"{path} is not a regular file")
        return os.fdopen(descriptor, "rb")
    except BaseException:
        with suppress(OSError):
            os.close(descriptor)
        raise


def _compared(path: Path) -> BufferedReader:
    file = open_regular(path)
    seen, shown = os.fstat(file.fileno()), path.lstat()
    if stat.S_ISLNK(shown.st_mode) or (seen.st_dev, seen.st_ino) != (shown.st_dev, shown.st_ino):
        file.close()
        raise OSError(f"{path} is a link")
    return file
