"""The engine as one content-addressed zip: equal sources give equal bytes and an equal name, from wheel or checkout."""

from __future__ import annotations

import hashlib
import io
import zipfile
from dataclasses import dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable

_EPOCH = (1980, 1, 1, 0, 0, 0)
_SKIP = ("__pycache__", ".DS_Store")


@dataclass(frozen=True)
class Bundle:
    """``digest`` names the contents (sha256 over sorted paths and their digests), not the zip."""

    digest: str
    data: bytes


def build(package: str = "gpurent_engine") -> Bundle:
    """Zip a package, uncompressed, with fixed dates and modes."""
    contents = dict(_walk(files(package), package))
    listing = "".join(f"{path}\0{hashlib.sha256(data).hexdigest()}\n" for path, data in sorted(contents.items()))
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for path, data in sorted(contents.items()):
            entry = zipfile.ZipInfo(path, _EPOCH)
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, data)
    return Bundle(hashlib.sha256(listing.encode()).hexdigest(), buffer.getvalue())


def _walk(node: Traversable, path: str) -> list[tuple[str, bytes]]:
    found = []
    for child in node.iterdir():
        if child.name in _SKIP or child.name.endswith(".pyc"):
            continue
        below = f"{path}/{child.name}"
        found += _walk(child, below) if child.is_dir() else [(below, child.read_bytes())]
    return found
