"""Commands for a login shell that may be anything: bash, tcsh, one that greets every login.

Every command of ours is POSIX sh. The account's login shell only has to start ``/bin/sh``, and what it prints by itself
is told from our output by a marker that nobody can guess.
"""

from __future__ import annotations

import base64
import re
import secrets
import shlex

from gpurent.errors import HostUnfit

_TRICKY = re.compile(r"\n|!(?![\s=(])")
"""What csh does not leave alone between single quotes: line breaks, and the history of commands."""
SHOWN = 200


def posix(command: str) -> str:
    """``command`` for ``/bin/sh``, quoted so that every login shell passes it on unchanged."""
    if _TRICKY.search(command):
        octal = "".join(f"\\0{byte:03o}" for byte in command.encode())
        command = f'eval "$(printf %b "{octal}")"'
    return f"exec /bin/sh -c {shlex.quote(command)}"


def program(source: str) -> str:
    """A Python program as one word of a command line, without a character that a shell could mistake."""
    return f"'import base64;exec(base64.b64decode(\"{base64.b64encode(source.encode()).decode()}\"))'"


def marker() -> str:
    """The line after which a command's own output begins."""
    return f"gpurent-{secrets.token_hex(8)}"


def marked(command: str, mark: str) -> str:
    """``command``, announced by its marker."""
    return posix(f"echo {mark}; {command}")


def after(output: str, mark: str) -> str:
    """What a command printed itself: everything after its marker.

    Raises:
        HostUnfit: the marker is missing, so the login shell did not run the command.
    """
    _, found, own = output.partition(f"{mark}\n")
    if not found:
        said = " ".join(output.split())[:SHOWN]
        raise HostUnfit(
            "shell",
            f"the machine's login shell does not run commands{f'; it says {said!r}' if said else ''}",
            hint="Log in with ssh and look at what its shell does.",
        )
    return own
