"""Where the files of a job may come from: its dataset folder and its base model, and nothing else that a link names."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Self

from gpurent.localfiles import open_beneath

NAMED = 5
_FOLDER = re.compile(r"\d+_.*")


class Outside(Exception):
    """A path leads out of its folder, or nowhere; ``str()`` says how."""

    def __init__(self, path: Path, why: str) -> None:
        super().__init__(f"{path} {why}")
        self.path = path


@dataclass(frozen=True)
class Bounds:
    """A folder that a person named. Links inside it are followed as far as they stay in it.

    A model in the hub's cache is spread over two folders: its snapshot holds links to blobs beside it
    (https://huggingface.co/docs/huggingface_hub/guides/manage-cache). Those blobs belong to it.
    """

    root: Path
    """Without links."""
    blobs: Path | None = None

    @classmethod
    def around(cls, folder: Path) -> Self:
        """The bounds of a folder; the folder itself may be reached through a link, since a person named it.

        Raises:
            OSError: it is not there.
        """
        root = folder.resolve(strict=True)
        return cls(root, _blobs_of(root))

    def real(self, path: Path) -> Path:
        """Where a file of the folder really lies.

        Raises:
            Outside: not in the folder.
        """
        try:
            real = Path(os.path.realpath(path, strict=True))
        except OSError as error:
            raise Outside(path, f"cannot be followed: {error.strerror or error}") from error
        if real.is_relative_to(self.root) or (self.blobs is not None and real.parent == self.blobs):
            return real
        raise Outside(path, f"is a link that leads out of its folder, to {real}")

    def open(self, path: Path) -> BufferedReader:
        """Open what ``real`` returned, without following any link that has come since.

        Raises:
            OSError: it cannot be opened so.
        """
        return open_beneath(self.root if path.is_relative_to(self.root) else path.parent, path)


def _blobs_of(root: Path) -> Path | None:
    for revision in (root, *root.parents):
        if revision.parent.name == "snapshots":
            blobs = revision.parent.parent / "blobs"
            return blobs if blobs.is_dir() and not blobs.is_symlink() else None
    return None


def strays(root: Path, suffixes: frozenset[str]) -> list[Outside]:
    """What in a dataset would be read and must not be: links that lead out of it or nowhere, pipes and devices.

    Args:
        root: the parent of the ``<repeats>_<concept>`` folders.
        suffixes: of pictures and captions, in lower case.
    """
    try:
        bounds = Bounds.around(root)
        entries = sorted(os.scandir(root), key=lambda entry: entry.name)
    except OSError:
        return []  # said where the folder is looked for
    wanted = [entry for entry in entries if _FOLDER.fullmatch(entry.name) or _suffix(entry) in suffixes]
    return [stray for entry in wanted for stray in _strays(bounds, entry, suffixes)]


def _strays(bounds: Bounds, entry: os.DirEntry[str], suffixes: frozenset[str]) -> list[Outside]:
    path = Path(entry.path)
    if entry.is_symlink():
        try:
            bounds.real(path)
        except Outside as stray:
            return [stray]
    if entry.is_dir():
        with os.scandir(path) as inside:
            below = sorted((entry for entry in inside if _suffix(entry) in suffixes), key=lambda entry: entry.name)
        return [stray for entry in below for stray in _strays(bounds, entry, frozenset())]
    return [] if entry.is_file() else [Outside(path, "is neither a file nor a folder")]


def _suffix(entry: os.DirEntry[str]) -> str:
    return Path(entry.name).suffix.lower()
