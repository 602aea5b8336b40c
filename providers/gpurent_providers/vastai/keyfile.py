"""The API key that Vast.ai's own client keeps in a file."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from gpurent.errors import MissingCredentials
from gpurent.localfiles import read_text

MAX_BYTES = 64 * 1024


def key_files(environ: Mapping[str, str], home: Path) -> tuple[Path, ...]:
    """Where ``vastai set api-key`` writes: today's place, then that of old versions."""
    config = Path(environ.get("XDG_CONFIG_HOME") or home / ".config")
    return config / "vastai" / "vast_api_key", home / ".vast_api_key"


def key_in_files(environ: Mapping[str, str] | None = None, home: Path | None = None) -> tuple[str, Path] | None:
    """The key in the first of those files that holds one, and the file.

    Raises:
        MissingCredentials: there is a file, and it cannot be read.
    """
    for path in key_files(os.environ if environ is None else environ, home or Path.home()):
        try:
            if key := read_text(path, MAX_BYTES).strip():
                return key, path
        except FileNotFoundError:
            continue
        except (OSError, ValueError) as error:
            raise MissingCredentials(
                f"{path} cannot be read ({type(error).__name__})",
                provider="vastai",
                hint="Mend it, or set VAST_API_KEY.",
            ) from None
    return None
