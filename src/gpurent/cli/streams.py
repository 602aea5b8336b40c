"""Standard output and standard error, before anything is written to them."""

from __future__ import annotations

import io
import sys


def forgive() -> None:
    """Let a console or pipe whose encoding lacks a sign (Windows' code pages do) show another one, and not an error."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and not stream.encoding.lower().startswith("utf"):
            stream.reconfigure(errors="backslashreplace" if stream is sys.stderr else "replace")
