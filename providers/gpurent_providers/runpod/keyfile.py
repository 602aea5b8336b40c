"""The API key that RunPod's own tools keep in ``~/.runpod/config.toml``."""

from __future__ import annotations

import tomllib
from pathlib import Path

NAMES = ("apikey", "api_key", "apiKey")


def key_in_file(path: Path | None = None) -> str:
    """The key that ``runpodctl`` (top level) or the Python SDK (profile ``default``) wrote; empty without one."""
    try:
        given = tomllib.loads((path or Path.home() / ".runpod" / "config.toml").read_text(encoding="utf-8"))
    except (OSError, ValueError, RuntimeError):
        return ""
    profile = given.get("default")
    for holder in (given, profile if isinstance(profile, dict) else {}):
        for name in NAMES:
            key = holder.get(name)
            if isinstance(key, str) and key.strip():
                return key.strip()
    return ""
