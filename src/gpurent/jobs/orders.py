"""Jobs that shells hand in to a session of another process, and what comes back: files of a folder.

``ID.json`` is an order, which appears whole; the session's process renames it to ``ID.taken``. What happens is written
to ``ID.jsonl``, one JSON object a line, and the last line is the result or the error.
"""

from __future__ import annotations

import json
import uuid
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, get_args

from pydantic import TypeAdapter, ValidationError

from gpurent import errors
from gpurent.budget import errors as budget_errors
from gpurent.errors import GpurentError, UsageError
from gpurent.jobs.progress import Progress
from gpurent.localfiles import private_folder

WORDY = (errors.HostUnfit,)
"""Errors that are made of more than words; what they say stands in their message."""
KINDS: dict[str, type[Progress]] = {kind.__name__: kind for kind in get_args(Progress)}


@dataclass(frozen=True, slots=True)
class Order:
    """A job that is to be trained. Paths are absolute."""

    config: str
    folder: str
    """Where it was ordered: its ``gpurent.toml`` holds."""
    dataset: str | None = None
    output: str | None = None
    name: str | None = None


def folder(run_dir: Path) -> Path:
    """Where the orders of a run lie."""
    return run_dir / "orders"


def hand_in(run_dir: Path, order: Order) -> str:
    """Leave an order; return its id."""
    number = uuid.uuid4().hex
    _write(private_folder(folder(run_dir)) / f"{number}.json", json.dumps(asdict(order)))
    return number


def take(run_dir: Path) -> list[tuple[str, Order | UsageError]]:
    """The orders that nobody has taken yet, oldest first; for one that cannot be read, why."""
    found: list[tuple[str, Order | UsageError]] = []
    for path in sorted(folder(run_dir).glob("*.json"), key=lambda one: one.stat().st_mtime):
        taken = path.rename(path.with_suffix(".taken"))
        try:
            found.append((path.stem, TypeAdapter(Order).validate_json(taken.read_bytes())))
        except (ValidationError, OSError) as error:
            found.append((path.stem, UsageError(f"the order {taken} cannot be read: {error}")))
    return found


def _write(path: Path, text: str) -> None:
    part = path.with_suffix(".part")
    part.write_text(text, encoding="utf-8")
    part.replace(path)


@dataclass
class Reply:
    """What the session says about one order."""

    run_dir: Path
    number: str

    @property
    def path(self) -> Path:
        """Its lines."""
        return folder(self.run_dir) / f"{self.number}.jsonl"

    def say(self, event: Progress) -> None:
        """Pass on what happens."""
        self._line({"event": type(event).__name__, "data": TypeAdapter(type(event)).dump_python(event, mode="json")})

    def done(self, result: dict[str, Any]) -> None:
        """The last line of a job that was trained."""
        self._line({"result": result})

    def failed(self, error: GpurentError) -> None:
        """The last line of a job that was not."""
        kind = type(error).__name__
        self._line({"error": kind, "message": str(error), "hint": error.hint, "code": getattr(error, "code", "")})

    def _line(self, line: dict[str, Any]) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


@dataclass
class Answer:
    """Reads a reply as it is written."""

    reply: Reply
    result: dict[str, Any] | None = None
    _offset: int = field(default=0, init=False)

    def events(self) -> list[Progress]:
        """What has happened since the last call. Raises the error that the job ended with."""
        if not self.reply.path.exists():
            return []
        with self.reply.path.open("rb") as file:
            file.seek(self._offset)
            data = file.read()
        whole = data[: data.rfind(b"\n") + 1]
        self._offset += len(whole)
        found: list[Progress] = []
        for line in whole.splitlines():
            told = json.loads(line)
            if "result" in told:
                self.result = told["result"]
            elif "error" in told:
                raise _error(told)
            else:
                found.append(TypeAdapter(KINDS[told["event"]]).validate_python(told["data"]))
        return found


def _error(told: dict[str, Any]) -> GpurentError:
    """As it was raised in the other process, as far as its words go."""
    kind = getattr(errors, told["error"], None) or getattr(budget_errors, told["error"], GpurentError)
    message, hint = str(told["message"]), str(told["hint"])
    if kind is errors.JobFailed:
        return errors.JobFailed(message, code=str(told["code"]), hint=hint)
    if not (isinstance(kind, type) and issubclass(kind, GpurentError)) or kind in WORDY:
        kind = GpurentError
    return kind(message, hint=hint)
