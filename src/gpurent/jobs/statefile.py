"""The state of a stopped training, at home: what a later run goes on from, on whatever machine."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path

from gpurent.errors import BadHostData, UsageError
from gpurent.spi import LocalFile
from gpurent.tensorfile import tensor_names

FILE, FACTS = "state.safetensors", "state.json"
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
        """Write down what it belongs to, beside it. Raises OSError."""
        facts = {**asdict(self), "path": self.path.name}
        self.path.with_name(FACTS).write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")


def found(folder: Path) -> StateFile | None:
    """The state in a folder of a run; None where none came home.

    Raises:
        UsageError: it is not any more what came home.
    """
    try:
        facts = json.loads((folder / FACTS).read_text(encoding="utf-8"))
        state = StateFile(**{**facts, "path": folder / FILE})
        with state.path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError) as error:
        raise UsageError(f"the state in {folder} cannot be read: {error}", hint="Train from the start.") from error
    if digest != state.sha256:
        raise UsageError(f"{state.path} is not what came home", hint="Restore it from a backup, or train anew.")
    return state


def check(path: Path) -> None:
    """Before it gets its name. Raises BadHostData."""
    try:
        tensor_names(path, most=HEADER)
    except ValueError as error:
        raise BadHostData(f"what the host sent is no state: {error}") from error
