"""Files both ways over SFTP: whole and verified, or absent; a cut transfer goes on where it stopped."""

from __future__ import annotations

import errno
import hashlib
import json
import posixpath
import stat
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, TypeVar

import paramiko
from pydantic import Field, TypeAdapter

from gpurent.errors import BadHostData, HomeFull, SourceChanged, TransferFailed
from gpurent.sending import open_checked
from gpurent.spi import LocalFile
from gpurent.untrusted.data import Malformed, fitted, parse
from gpurent.untrusted.text import quoted

T = TypeVar("T")

BLOCK = 256 * 1024
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

# Runs on the host: for each path says sha256 and length of the file and of its .part, null where there is none.
SURVEY = """\
import hashlib,json,os,sys
def digest(p):
    h=hashlib.sha256()
    with open(p,'rb') as f:
        for b in iter(lambda:f.read(1<<20),b''):h.update(b)
    return h.hexdigest(),os.path.getsize(p)
r={}
for p in json.load(sys.stdin):
    r[p]=[digest(q) if os.path.isfile(q) else None for q in (p,p+'.part')]
json.dump(r,sys.stdout)
"""

# Runs on the host: verifies every .part and gives it its name, all in one go.
SETTLE = """\
import hashlib,json,os,sys
bad=[]
for p,want in json.load(sys.stdin):
    h=hashlib.sha256()
    with open(p+'.part','rb') as f:
        for b in iter(lambda:f.read(1<<20),b''):h.update(b)
    if h.hexdigest()==want:
        os.replace(p+'.part',p)
    else:
        os.unlink(p+'.part');bad.append(p)
json.dump(bad,sys.stdout)
"""

# Runs on the host: takes whole small files from standard input, one after another as the first line lists them, and
# gives each its name if it has its digest.
RECEIVE = """\
import hashlib,json,os,sys
os.umask(0o077)
s=sys.stdin.buffer
bad=[]
for p,size,want in json.loads(s.readline()):
    b=s.read(size)
    if hashlib.sha256(b).hexdigest()!=want:
        bad.append(p);continue
    os.makedirs(os.path.dirname(p) or '.',exist_ok=True)
    with open(p+'.part','wb') as f:f.write(b)
    os.replace(p+'.part',p)
json.dump(bad,sys.stdout)
"""

HostPython = Callable[[str, bytes, int], bytes]
"""Runs a script with the host's Python, feeding standard input; returns its output, of so many bytes at most."""

_State = tuple[Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")], Annotated[int, Field(ge=0, le=2**53)]]
_Surveyed = TypeAdapter(dict[str, tuple[_State | None, _State | None]])
_Settled = TypeAdapter(list[str])
SMALL = 2 * 1024 * 1024
"""A file of up to so many bytes travels with others in one stream: over SFTP each costs several round trips."""
BATCH_LEAST, BATCH_MOST = 1024 * 1024, 32 * 1024 * 1024
"""Bytes of a stream; the next is larger after one of less than ``BATCH_S``, else smaller: slow lines show progress."""
BATCH_S = 4.0
ANSWER = 4096
"""Bytes of a script's answer, beside what it says of each file."""
ANSWER_FILE = 256
AHEAD = 128
"""Blocks of 32 KiB that are asked for ahead: 4 MiB, enough for 320 Mbit/s over 100 ms."""


def check_target(path: str) -> str:
    """Refuse what would leave the destination folder."""
    parts = PurePosixPath(path).parts
    if not parts or path.startswith("/") or ".." in parts or "\0" in path or "\\" in path:
        raise TransferFailed(f"{path!r} is not a path below the destination folder")
    return path


def put(
    sftp: paramiko.SFTPClient,
    python: HostPython,
    files: Sequence[LocalFile],
    folder: str,
    on_bytes: Callable[[int], None],
    monotonic: Callable[[], float] = time.monotonic,
) -> None:
    """Send ``files`` below ``folder``: one survey, the missing bytes, one verification for all.

    Small files go in streams, many in one, and large ones over SFTP, where a cut one is resumed.

    Raises:
        TransferFailed: a local file changed meanwhile, or bytes arrived wrong.
    """
    targets = {f"{folder}/{check_target(file.target)}": file for file in files}
    most = ANSWER + sum(ANSWER_FILE + 6 * len(path) for path in targets)
    survey = _answer(_Surveyed, python(SURVEY, json.dumps(sorted(targets)).encode(), most))
    made: set[str] = set()
    sent: list[tuple[str, str]] = []
    small: list[tuple[str, LocalFile]] = []
    for path, file in targets.items():
        whole, part = survey.get(path, (None, None))
        if whole is not None and whole[0] == file.sha256:
            on_bytes(file.size)
            continue
        if file.size <= SMALL:
            small.append((path, file))
            continue
        make_folders(sftp, posixpath.dirname(path), made)
        start = _resumable(file, part)
        if start:
            on_bytes(start)
        _send(sftp, file, path, start, on_bytes)
        sent.append((path, file.sha256))
    _stream(python, small, on_bytes, monotonic)
    if sent:
        bad = _answer(_Settled, python(SETTLE, json.dumps(sent).encode(), most))
        if bad:
            raise TransferFailed(f"{len(bad)} of {len(sent)} files arrived damaged, the first is {quoted(bad[0])}")


def _stream(
    python: HostPython, files: Sequence[tuple[str, LocalFile]], on_bytes: Callable[[int], None],
    monotonic: Callable[[], float],
) -> None:  # fmt: skip
    """Send small files, as many at a time as the line takes in a moment."""
    left, most = list(files), BATCH_LEAST
    while left:
        batch: list[tuple[str, LocalFile]] = []
        size = 0
        while left and (not batch or size + left[0][1].size <= most):
            batch.append(left.pop(0))
            size += batch[-1][1].size
        listed = [(path, file.size, file.sha256) for path, file in batch]
        stdin = json.dumps(listed).encode() + b"\n" + b"".join(_whole(file) for _, file in batch)
        since = monotonic()
        bad = _answer(_Settled, python(RECEIVE, stdin, ANSWER + sum(ANSWER_FILE + 6 * len(path) for path, _ in batch)))
        if bad:
            raise TransferFailed(f"{len(bad)} of {len(batch)} files arrived damaged, the first is {quoted(bad[0])}")
        on_bytes(size)
        quick = monotonic() - since < BATCH_S
        most = min(BATCH_MOST, 4 * most) if quick else max(BATCH_LEAST, most // 4)


def _whole(file: LocalFile) -> bytes:
    with open_checked(file) as source:
        data = source.read(file.size)
    if len(data) < file.size:
        raise SourceChanged(f"{file.source} became shorter while it was sent")
    return data


def _answer(model: TypeAdapter[T], data: bytes) -> T:
    try:
        return fitted(model, parse(data, most=len(data)))
    except Malformed as error:
        raise BadHostData(f"what the host says of our files cannot be read: {error}") from error


def _resumable(file: LocalFile, part: tuple[str, int] | None) -> int:
    """Bytes of a partial file that are ours for certain: its digest equals that of our own prefix."""
    if part is None or not 0 < part[1] <= file.size:
        return 0
    digest, left = hashlib.sha256(), part[1]
    with open_checked(file) as source:
        while left and (block := source.read(min(BLOCK, left))):
            digest.update(block)
            left -= len(block)
    return part[1] if digest.hexdigest() == part[0] else 0


def _send(sftp: paramiko.SFTPClient, file: LocalFile, path: str, start: int, on_bytes: Callable[[int], None]) -> None:
    with open_checked(file) as source, sftp.open(f"{path}.part", "r+b" if start else "wb") as target:
        target.set_pipelined(True)
        source.seek(start)
        target.seek(start)
        left = file.size - start
        while left and (block := source.read(min(BLOCK, left))):
            target.write(block)
            on_bytes(len(block))
            left -= len(block)
    if left:
        raise SourceChanged(f"{file.source} became shorter while it was sent")


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
    sftp: paramiko.SFTPClient, path: str, target: Path, sha256: str, size: int,
    on_bytes: Callable[[int], None], accept: Callable[[Path], None],
) -> None:  # fmt: skip
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
        if start:  # the part was of another file: its name is no proof
            fetch(sftp, path, target, sha256, size, lambda _count: None, accept)
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
    """A full disk here is no trouble of the host's, though both look alike from below."""
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
