"""Files both ways over SFTP: whole and verified, or absent; a cut transfer goes on where it stopped."""

from __future__ import annotations

import errno
import hashlib
import posixpath
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import Any

import paramiko

from gpurent.errors import HomeFull, TransferFailed

BLOCK = 256 * 1024
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
AHEAD = 128
"""Blocks of 32 KiB that are asked for ahead: 4 MiB, enough for 320 Mbit/s over 100 ms."""


def check_target(path: str) -> str:
    """Refuse what would leave the destination folder."""
    parts = PurePosixPath(path).parts
    if not parts or path.startswith("/") or ".." in parts or "\0" in path or "\\" in path:
        raise TransferFailed(f"{path!r} is not a path below the destination folder")
    return path


def make_folders(sftp: paramiko.SFTPClient, folder: str, made: set[str]) -> None:
    """``mkdir -p``, remembering what exists."""
    path = "/" if folder.startswith("/") else ""
    for name in PurePosixPath(folder).parts:
        path = posixpath.join(path, name)
        if path in made or path == "/":
            continue
        try:
            sftp.mkdir(path, 0o700)
        except OSError:
            if not stat.S_ISDIR(sftp.stat(path).st_mode or 0):
                raise
        made.add(path)


def put_bytes(sftp: paramiko.SFTPClient, data: bytes, path: str, mode: int) -> None:
    """Write a small file under another name, then rename it over the old one."""
    make_folders(sftp, posixpath.dirname(path), set())
    with sftp.open(f"{path}.part", "wb") as target:
        target.chmod(mode)
        target.write(data)
    sftp.posix_rename(f"{path}.part", path)


def fetch(
    sftp: paramiko.SFTPClient,
    path: str,
    target: Path,
    sha256: str,
    *,
    size: int,
    on_bytes: Callable[[int], None],
    accept: Callable[[Path], None],
) -> None:
    """Bring one file home; see ``spi.Host.fetch``."""
    if target.is_file() and target.stat().st_size == size and _digest(target) == sha256:
        accept(target)
        on_bytes(size)
        return
    part = target.with_name(f"{target.name}.part")
    start = part.stat().st_size if part.is_file() else 0
    if start > size:
        part.unlink()
        start = 0
    if start:
        on_bytes(start)
    with sftp.open(path, "rb") as source:
        length = source.stat().st_size
        if length != size:
            raise TransferFailed(f"{path} has {length} bytes, not the {size} that were announced")
        source.seek(start)
        _ask_ahead(source, size)
        left = size - start
        with _room(part), part.open("ab") as sink:
            while left and (block := source.read(min(BLOCK, left))):
                sink.write(block)
                on_bytes(len(block))
                left -= len(block)
    if left:
        raise TransferFailed(f"{path} ended {left} bytes early")
    if _digest(part) != sha256:
        part.unlink()
        if start:  # the part was of another file: its name is not proof
            fetch(sftp, path, target, sha256, size=size, on_bytes=lambda _count: None, accept=accept)
            return
        raise TransferFailed(f"{path} does not have the digest that was announced; it was thrown away")
    try:
        accept(part)
    except BaseException:
        part.unlink()
        raise
    part.replace(target)


def _ask_ahead(source: Any, size: int) -> None:
    """Keep the link busy. paramiko asks in a thread of its own, where nobody would catch that the link has ended: it
    would print a traceback onto the user's screen. The reader meets the same end, and deals with it."""
    ask = source._prefetch_thread  # noqa: SLF001  # nothing public stands between that thread and its death

    def quietly(*arguments: Any) -> None:
        with suppress(OSError, EOFError, paramiko.SSHException):
            ask(*arguments)

    source._prefetch_thread = quietly  # noqa: SLF001
    source.prefetch(size, AHEAD)


@contextmanager
def _room(part: Path) -> Iterator[None]:
    """A full disk here is not a trouble of the host's, though both look alike from below."""
    try:
        yield
    except OSError as error:
        if error.errno in FULL:
            raise HomeFull(
                f"no room in {part.parent} on this computer: {error.strerror}", hint="Free some space there."
            ) from error
        raise


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read(sftp: paramiko.SFTPClient, path: str, offset: int, limit: int) -> bytes:
    """Up to ``limit`` bytes from ``offset``, from the end where that is negative; a missing file is empty."""
    try:
        with sftp.open(path, "rb") as source:
            size = source.stat().st_size or 0 if offset < 0 else 0
            source.seek(max(0, size + offset))
            return source.read(limit)
    except FileNotFoundError:
        return b""
