"""Which files are sent, and their digests: each read once more inside its folder, and looked at for secrets."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from gpurent.dataset.bounds import Bounds, Outside
from gpurent.dataset.secrets import portion, secret_in, secret_name
from gpurent.errors import SourceChanged
from gpurent.localfiles import Stamp
from gpurent.spi import LocalFile
from gpurent.tasks import parallel

BLOCK = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Source:
    """A file of a job: where it lies as a person sees it, its target on the host, and the folder it belongs to."""

    path: Path
    target: str
    bounds: Bounds


@dataclass(frozen=True, slots=True)
class Suspect:
    """What a file that must not be sent looks like."""

    path: Path
    what: str


def suspicious(sources: Iterable[Source]) -> list[Suspect]:
    """Files that look like keys, tokens or credentials, by their name or by what they hold.

    Raises:
        Outside, OSError: one cannot be opened.
    """
    return [looks for looks in parallel(_looks, sources) if looks is not None]


def _looks(source: Source) -> Suspect | None:
    with source.bounds.open(source.bounds.real(source.path)) as file:
        what = _secret(source.path.name, file.read(portion(source.path.name, Stamp.of(file).size)))
    return Suspect(source.path, what) if what else None


def _secret(name: str, content: bytes) -> str | None:
    return "a file of keys or credentials" if secret_name(name) else secret_in(content)


def listed(sources: Iterable[Source], on_bytes: Callable[[int], None] = lambda _count: None) -> tuple[LocalFile, ...]:
    """Size and sha256 of every file, hashed side by side.

    Args:
        sources: the files.
        on_bytes: called from this thread with the bytes hashed since the last call.

    Raises:
        SourceChanged: a file has gone, leads elsewhere now, or has come to look like a secret.
    """
    found: list[LocalFile] = []
    for file in parallel(_listed, sources):
        found.append(file)
        on_bytes(file.size)
    return tuple(found)


def _listed(source: Source) -> LocalFile:
    try:
        real = source.bounds.real(source.path)
        with source.bounds.open(real) as file:
            stamp = Stamp.of(file)
            head = file.read(portion(source.path.name, stamp.size))
            what = _secret(source.path.name, head)
            digest = hashlib.sha256(head)
            while block := file.read(BLOCK):
                digest.update(block)
            if what or Stamp.of(file) != stamp:
                raise SourceChanged(f"{source.path} has changed since it was checked; it was not sent.")
    except (OSError, Outside) as error:
        raise SourceChanged(
            f"{source.path} cannot be read any more: {error}", hint="Leave the files alone and start again."
        ) from error
    root = source.bounds.root if real.is_relative_to(source.bounds.root) else real.parent
    return LocalFile(
        source=real, target=source.target, size=stamp.size, sha256=digest.hexdigest(), root=root, stamp=stamp
    )
