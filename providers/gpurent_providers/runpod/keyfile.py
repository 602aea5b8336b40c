"""The API key that RunPod's own tools keep in ``~/.runpod/config.toml``."""

from __future__ import annotations

import tomllib
from pathlib import Path

from gpurent.errors import MissingCredentials
from gpurent.localfiles import read_text

MAX_BYTES = 1024 * 1024
NAMES = ("apikey", "api_key", "apiKey")


def key_in_file(path: Path) -> str:
    """The key that ``runpodctl`` (top level) or the Python SDK (profile ``default``) wrote; empty without one.

    Raises:
        MissingCredentials: there is a file, and it cannot be read.
    """
    try:
        given = tomllib.loads(read_text(path, MAX_BYTES))
    except FileNotFoundError:
        return ""
    except (OSError, ValueError, RecursionError) as error:
        # The parser's message may quote the line with the key, and so may a chained exception.
        raise MissingCredentials(
            f"{path} cannot be read ({type(error).__name__})", provider="runpod", hint="Mend it, or set RUNPOD_API_KEY."
        ) from None
    profile = given.get("default")
    for holder in (given, profile if isinstance(profile, dict) else {}):
        for name in NAMES:
            key = holder.get(name)
            if isinstance(key, str) and key.strip():
                return key.strip()
    return ""
