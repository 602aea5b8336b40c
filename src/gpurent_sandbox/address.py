"""How other processes find a running sandbox: ``sandbox.json`` in its state folder. Imports nothing heavy."""

from __future__ import annotations

import contextlib
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

FILE = "sandbox.json"


@dataclass(frozen=True, slots=True)
class SandboxAddress:
    """Where a sandbox answers, and its keys."""

    url: str
    account_key: str
    control_key: str
    pid: int

    def __repr__(self) -> str:
        return f"SandboxAddress({self.url!r}, pid={self.pid})"

    def env(self) -> dict[str, str]:
        """Environment variables that point the sandbox adapter here."""
        return {"GPURENT_SANDBOX_URL": self.url, "GPURENT_SANDBOX_KEY": self.account_key}

    def write(self, state_dir: Path) -> None:
        """Publish, readable by the owner only."""
        draft = state_dir / f"{FILE}.{os.getpid()}"
        draft.touch(mode=0o600)
        draft.write_text(json.dumps(asdict(self)), encoding="utf-8")
        draft.replace(state_dir / FILE)


def usual_dir() -> Path:
    """State folder of the sandbox that ``gpurent sandbox up`` runs."""
    from gpurent.settings import state_dir  # not needed by most who import this

    return state_dir() / "sandbox"


def discover(state_dir: Path) -> SandboxAddress | None:
    """The sandbox that runs with this state folder; None when there is none or it has died."""
    try:
        given = json.loads((state_dir / FILE).read_text(encoding="utf-8"))
        address = SandboxAddress(str(given["url"]), str(given["account_key"]), str(given["control_key"]), given["pid"])
        os.kill(address.pid, 0)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return address


def withdraw(state_dir: Path) -> None:
    """Remove the file if this process wrote it."""
    address = discover(state_dir)
    if address is not None and address.pid == os.getpid():
        with contextlib.suppress(FileNotFoundError):
            (state_dir / FILE).unlink()
