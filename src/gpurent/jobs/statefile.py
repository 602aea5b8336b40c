"""The state of a training, at home: what it goes on from on another machine, after a stop or the loss of its own."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path

from gpurent.errors import BadHostData, UsageError
from gpurent.spi import LocalFile
from gpurent.tensorfile import tensor_names

FILE, FACTS = "state.safetensors", "state.json"
"""Name of a state on a host, and of what is written down about the one that is at home."""
PER_FILE = 32
"""A state is at most so many times as large as the largest file of its training: masters and moments in float32."""
HEADER = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class StateFile:
    """One state and what it belongs to."""

    path: Path
    sha256: str
    size: int
    step: int
    steps: int
    key: str
    """Digest of what decided the result of its training, as the ledger has it."""

    @property
    def sent(self) -> LocalFile:
        """To be sent into the output folder of a job."""
        return LocalFile(self.path, FILE, self.size, self.sha256)

    def keep(self) -> None:
        """Make it the state of its folder; an earlier one is not needed any more, and is removed. Raises OSError."""
        facts = {**asdict(self), "path": self.path.name}
        part = self.path.with_name(f"{FACTS}.part")
        part.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
        part.replace(self.path.with_name(FACTS))
        for other in self.path.parent.glob("state*.safetensors*"):
            if other != self.path:
                other.unlink(missing_ok=True)


def forget(folder: Path) -> None:
    """The training has come to its end: nothing goes on from here. Raises OSError."""
    for path in (folder / FACTS, *folder.glob("state*.safetensors*")):
        path.unlink(missing_ok=True)


def place(folder: Path, sha256: str) -> Path:
    """Where a state lands: under a name of its own, so that the one before it stays until this one is complete."""
    return folder / f"state-{sha256[:16]}.safetensors"


def found(folder: Path) -> StateFile | None:
    """The state in a folder of a run; None where none came home.

    Raises:
        UsageError: it is not any more what came home.
    """
    try:
        facts = json.loads((folder / FACTS).read_text(encoding="utf-8"))
        state = StateFile(**{**facts, "path": folder / Path(facts["path"]).name})
        with state.path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UsageError(f"the state in {folder} cannot be read: {error}", hint="Train from the start.") from error
    if digest != state.sha256:
        raise UsageError(
            f"{state.path} is not what came home", hint="Restore it from a backup, or train from the start."
        )
    return state


def check(path: Path) -> None:
    """Before it gets its name. Raises BadHostData."""
    try:
        tensor_names(path, most=HEADER)
    except ValueError as error:
        raise BadHostData(f"what the host sent is not a state: {error}") from error
