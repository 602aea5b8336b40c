"""Files to a host: a survey of what is there, the missing pieces over several lanes, each file verified there.

Where the program at the other end of a lane cannot do its work, files travel over SFTP.
"""

from __future__ import annotations

import hashlib
import posixpath
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Annotated, Self

import paramiko
from pydantic import Field, TypeAdapter

from gpurent.clock import Clock
from gpurent.errors import BadHostData, SourceChanged, TransferFailed
from gpurent.sending import open_checked
from gpurent.spi import LocalFile
from gpurent.untrusted.data import Malformed, fitted, parse
from gpurent_remote.files import check_target, make_folders
from gpurent_remote.lanes import BLOCK, SMALL, Lane, Lanes, Piece
from gpurent_remote.receiver import HINT, Heard, order

Receiver = Callable[[bytes, int], bytes]
"""Runs the receiver with these orders; returns its output, of so many bytes at most."""

_Digest = Annotated[str, Field(pattern=r"^([0-9a-f]{64})?$")]
_Hint = Annotated[str, Field(pattern=r"^([0-9a-f]{16})?$")]
_Survey = TypeAdapter(dict[str, tuple[_Digest, list[_Hint]]])
ANSWER = 4096
"""Bytes of a survey, beside what it says of each file and each block."""
ANSWER_FILE = 256
ANSWER_BLOCK = HINT + 4


@dataclass(frozen=True, slots=True)
class Missing:
    """A file that has to be sent, by the pieces that are not there."""

    path: str
    file: LocalFile
    pieces: tuple[Piece, ...]

    @property
    def large(self) -> bool:
        """Whether it arrives in blocks, and is verified when all are there."""
        return self.file.size > SMALL


@dataclass(frozen=True)
class Upload:
    """Files for a folder of a host."""

    targets: Mapping[str, LocalFile]
    """By path on the host."""
    on_bytes: Callable[[int], None]
    """Told of bytes that are there, and of signs of life (0)."""
    clock: Clock

    @classmethod
    def to(cls, folder: str, files: Sequence[LocalFile], on_bytes: Callable[[int], None], clock: Clock) -> Self:
        """Raises TransferFailed for a target outside the folder."""
        return cls({f"{folder}/{check_target(file.target)}": file for file in files}, on_bytes, clock)

    def over_lanes(self, lane: Callable[[], Lane]) -> None:
        """Send what is missing over lanes that this opens.

        Raises:
            TransferFailed: bytes arrived wrong.
            SourceChanged: a local file changed meanwhile.
            StreamBroken: lanes do not work there.
            CommandFailed, BadHostData: the host cannot write, or answers nonsense.
        """
        with closing(Lanes(lane, self.on_bytes, self.clock)) as lanes:
            missing = self._missing(lanes.ask(self._survey, "the survey", self._most))
            pieces = [piece for upload in missing for piece in upload.pieces]
            self.on_bytes(sum(upload.file.size for upload in missing) - sum(piece.length for piece in pieces))
            lanes.send(pieces)
            lanes.settle((upload.path, upload.file) for upload in missing if upload.large)

    def over_sftp(self, sftp: paramiko.SFTPClient, receiver: Receiver) -> None:
        """The same over SFTP, one file after another. Raises as ``over_lanes``."""
        missing = self._missing(self._once(receiver, self._survey).found or b"")
        made: set[str] = set()
        for upload in missing:
            make_folders(sftp, posixpath.dirname(upload.path), made)
            start = upload.pieces[0].start if upload.pieces else upload.file.size
            self.on_bytes(start)
            _write(sftp, upload.file, upload.path, start, on_bytes=self.on_bytes)
        settle = (order("settle", upload.path, upload.file.size, upload.file.sha256) for upload in missing)
        bad = self._once(receiver, b"".join(settle)).bad
        if bad is not None:
            name = missing[bad].file.source if bad < len(missing) else "a file"
            raise TransferFailed(f"{name} arrived damaged on the host")

    def _once(self, receiver: Receiver, orders: bytes) -> Heard:
        heard = Heard(most=self._most)
        heard.feed(receiver(orders, self._most))
        if not heard.ended:
            raise BadHostData("the host does not say what became of our files")
        return heard

    @property
    def _survey(self) -> bytes:
        return order("survey", BLOCK, SMALL, {path: file.size for path, file in sorted(self.targets.items())})

    @property
    def _most(self) -> int:
        return ANSWER + sum(
            ANSWER_FILE + 6 * len(path) + ANSWER_BLOCK * (file.size // BLOCK) for path, file in self.targets.items()
        )

    def _missing(self, found: bytes) -> list[Missing]:
        """What is to be sent; of what is there, the bytes are told. Large files come first: small ones keep all lanes
        busy to the end."""
        try:
            survey = fitted(_Survey, parse(found, most=len(found)))
        except Malformed as error:
            raise BadHostData(f"what the host says of our files cannot be read: {error}") from error
        missing = []
        for path, file in self.targets.items():
            whole, hints = survey.get(path, ("", []))
            if whole == file.sha256:
                self.on_bytes(file.size)
            else:
                missing.append(Missing(path, file, tuple(_lacking(path, file, hints))))
        return sorted(missing, key=lambda upload: not upload.large)


def _lacking(path: str, file: LocalFile, hints: Sequence[str]) -> Iterator[Piece]:
    """The pieces that are not there: of a large file the blocks whose digests are not those of our own."""
    if file.size <= SMALL:
        yield Piece(file, path, 0, file.size)
        return
    with open_checked(file) as source:
        for number, start in enumerate(range(0, file.size, BLOCK)):
            length = min(BLOCK, file.size - start)
            if number < len(hints) and hashlib.sha256(source.read(length)).hexdigest()[:HINT] == hints[number]:
                continue
            yield Piece(file, path, start, length)


def _write(
    sftp: paramiko.SFTPClient, file: LocalFile, path: str, start: int, *, on_bytes: Callable[[int], None]
) -> None:
    """Write a file's ``.part`` from ``start`` on."""
    with open_checked(file) as source, sftp.open(f"{path}.part", "r+b" if start else "wb") as target:
        target.set_pipelined(True)
        source.seek(start)
        target.seek(start)
        left = file.size - start
        while left and (block := source.read(min(BLOCK, left))):
            target.write(block)
            on_bytes(len(block))
            left -= len(block)
        if start:
            target.truncate(file.size)
    if left:
        raise SourceChanged(f"{file.source} became shorter while it was sent")
