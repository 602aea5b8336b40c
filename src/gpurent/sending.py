"""Open files that are to be sent, so that what was checked is what is sent."""

from __future__ import annotations

import hashlib
import io
from typing import BinaryIO

from gpurent.errors import SourceChanged
from gpurent.localfiles import Stamp, open_beneath, open_regular
from gpurent.spi import LocalFile

AT_ONCE = 4 * 1024 * 1024
"""Up to this size a file is read and compared with its digest before the first byte is sent; a larger one has to be the
same file, unchanged since it was digested."""


def open_checked(file: LocalFile) -> BinaryIO:
    """Open a file of a job for reading. No link is followed that has come since it was checked.

    Raises:
        SourceChanged: it is gone, was replaced, or holds something else.
    """
    try:
        source = open_regular(file.source) if file.root is None else open_beneath(file.root, file.source)
    except OSError as error:
        raise _changed(file, f"cannot be read any more ({error.strerror or error})") from error
    try:
        found = Stamp.of(source)
        if found.size != file.size or (file.stamp is not None and found != file.stamp):
            raise _changed(file, "has changed since it was checked")
        if file.size > AT_ONCE:
            return source
        data = source.read(AT_ONCE + 1)
    except BaseException:
        source.close()
        raise
    source.close()
    if hashlib.sha256(data).hexdigest() != file.sha256:
        raise _changed(file, "has changed since it was checked")
    return io.BytesIO(data)


def _changed(file: LocalFile, how: str) -> SourceChanged:
    return SourceChanged(f"{file.source} {how}; it was not sent.", hint="Leave the files alone and start again.")
