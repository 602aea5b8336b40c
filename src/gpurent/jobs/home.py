"""This computer's half of a session: files, log and ledger lines. A full disk here must not cost a training there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TypeVar

from gpurent.budget.errors import LedgerError
from gpurent.budget.events import Kind
from gpurent.budget.ledger import Ledger
from gpurent.clock import Clock
from gpurent.errors import HomeFull, HostError, TransferFailed
from gpurent.jobs import events
from gpurent.jobs.progress import Collected, Notice, Stage, StageMoved, StageStarted
from gpurent.jobs.watch import Tell
from gpurent.spi import Host
from gpurent.tensorfile import tensor_names

T = TypeVar("T")
LOG_TAIL = 64 * 1024
AGAIN_S = 5.0
"""Between two tries while the disk is full or the ledger out of reach."""


@dataclass
class Traffic:
    """Running totals of bytes in and out of the host."""

    bytes_in: int = 0
    bytes_out: int = 0


@dataclass
class Home:
    """Where one job's results and records go. What is needed is waited for; what is only useful is told and left."""

    host: Host
    folder: str
    """Of the job, on the host."""
    output_dir: Path
    run_dir: Path
    run_id: str
    tag: str
    job_id: str
    ledger: Ledger
    clock: Clock
    tell: Tell
    name: str
    """Of the LoRA: what every file that comes home is called, but for its step."""
    mind: Callable[[], None]
    """Minds deadlines, money and the user's wish, and shows the machine a sign of life; may raise."""
    hold_s: float
    """How long a full disk, or a ledger out of reach, is waited for."""
    traffic: Traffic = field(default_factory=Traffic)
    _missed: set[str] = field(default_factory=set, init=False)

    def record(self, kind: Kind, **data: object) -> None:
        """Write a line that later decisions rest on.

        Raises:
            LedgerError: it could not be written within ``hold_s``, or never can be.
            Halt, HostUnreachable: meanwhile.
        """
        self._patiently(lambda: self._append(kind, data))

    def mention(self, kind: Kind, **data: object) -> None:
        """Write a line that nothing but reports depends on: one that cannot be written is told of once."""
        try:
            self._append(kind, data)
        except LedgerError as error:
            if not error.passing:
                raise
            self._miss("ledger", f"Progress is not recorded: {error}. {error.hint}")

    def _append(self, kind: Kind, data: dict[str, object]) -> None:
        moved = {"bytes_in": self.traffic.bytes_in, "bytes_out": self.traffic.bytes_out}
        self.ledger.append(self.run_id, kind, tag=self.tag, job_id=self.job_id, **{**moved, **data})

    def mirror(self, lines: Sequence[str]) -> None:
        """Keep the engine's events for ``gpurent logs``."""
        try:
            with (self.run_dir / "events.jsonl").open("a", encoding="utf-8") as file:
                file.writelines(line + "\n" for line in lines)
        except OSError as error:
            self._miss("events", f"The engine's events are not kept: {error}")

    def collect(self, checkpoint: events.Checkpoint) -> Path:
        """Bring a checkpoint home, verified, and record it.

        Raises:
            HostUnreachable, TransferFailed, Halt.
            HomeFull, LedgerError: this computer had no room for ``hold_s``.
        """
        path = PurePosixPath(checkpoint.path)
        if path.suffix != ".safetensors" or path.parent.name or not path.name.startswith(self.name):
            raise TransferFailed(f"the host offers {checkpoint.path}, which is no file of {self.name}")
        target = self.output_dir / path
        self.tell(StageStarted(Stage.COLLECT, target.name, checkpoint.size))
        best = 0

        def fetch() -> None:
            done = 0
            try:
                target.parent.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise HomeFull(f"the folder {target.parent} cannot be made: {error.strerror}") from error

            def moved(count: int) -> None:
                nonlocal done, best
                done += count
                self.traffic.bytes_out += max(0, done - best)
                best = max(best, done)
                self.tell(StageMoved(Stage.COLLECT, best, checkpoint.size))
                self.mind()

            remote = f"{self.folder}/out/{checkpoint.path}"
            self.host.fetch(
                remote, target, sha256=checkpoint.sha256, size=checkpoint.size, on_bytes=moved, accept=_check_lora
            )

        self._patiently(fetch)
        self.record(
            Kind.CHECKPOINT_HOME, path=target, size=checkpoint.size, sha256=checkpoint.sha256, final=checkpoint.final,
            step=checkpoint.step, epoch=checkpoint.epoch,
        )  # fmt: skip
        self.tell(Collected(target, checkpoint.size, checkpoint.sha256, checkpoint.final))
        return target

    def keep_log(self) -> None:
        """Keep the end of what the engine printed. It is no reason for a run to fail."""
        try:
            log = self.host.read(f"{self.folder}/log.txt", 0, LOG_TAIL)
            text = events.plain(log.decode("utf-8", errors="replace"))
            (self.run_dir / "engine.log").write_text(text, encoding="utf-8")
        except (HostError, OSError) as error:
            self.tell(Notice(f"The engine's log could not be kept: {error}", warning=True))

    def _patiently(self, act: Callable[[], T]) -> T:
        until: float | None = None
        while True:
            try:
                return act()
            except (HomeFull, LedgerError) as error:
                if isinstance(error, LedgerError) and not error.passing:
                    raise
                now = self.clock.monotonic()
                if until is None:
                    until = now + self.hold_s
                    wait = f"It is tried again for {self.hold_s / 60:.0f} minutes; the machine keeps what it made."
                    self.tell(Notice(f"{error}. {error.hint} {wait}", warning=True))
                if now >= until:
                    raise
            self.mind()
            self.clock.sleep(AGAIN_S)

    def _miss(self, what: str, why: str) -> None:
        if what not in self._missed:
            self._missed.add(what)
            self.tell(Notice(why, warning=True))


def _check_lora(path: Path) -> None:
    """Before it gets its name: an earlier LoRA of that name is lost to a better one only."""
    try:
        tensor_names(path)
    except ValueError as error:
        raise TransferFailed(f"what the host sent is no LoRA: {error}") from error
