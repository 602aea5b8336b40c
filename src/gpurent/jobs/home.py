"""This computer's half of a session: files, log and ledger lines. A full disk here must not cost a training there."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from gpurent.budget.errors import LedgerError
from gpurent.budget.events import Kind
from gpurent.budget.ledger import Ledger
from gpurent.clock import Clock
from gpurent.errors import BadHostData, HomeFull, HostError
from gpurent.expected import Expected
from gpurent.jobs import events, statefile
from gpurent.jobs.allowance import Allowance
from gpurent.jobs.landing import Landing
from gpurent.jobs.premises import Traffic
from gpurent.jobs.progress import Collected, Notice, Stage, StageMoved, StageStarted
from gpurent.jobs.watch import Tell
from gpurent.spi import Host
from gpurent.tensorfile import tensor_names
from gpurent.untrusted.data import Malformed, parse
from gpurent.untrusted.text import block, clean, quoted

T = TypeVar("T")
LOG_HEAD, LOG_TAIL = 64 * 1024, 192 * 1024
"""What is kept of an engine's log: how it began, and how it ended."""
LORA_HEADER = 8 * 1024 * 1024
"""Bytes of the header of a LoRA: some thousand tensors, and metadata that repeats the words of its captions."""
PNG = b"\x89PNG\r\n\x1a\n"
AGAIN_S = 5.0
"""Between two tries while the disk is full or the ledger out of reach."""


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
    expected: Expected
    mind: Callable[[], None]
    """Minds deadlines, money and the user's wish, and shows the machine a sign of life; may raise."""
    hold_s: float
    """How long a full disk, or a ledger out of reach, is waited for."""
    traffic: Traffic = field(default_factory=Traffic)
    allowance: Allowance = field(init=False)
    landing: Landing = field(init=False)
    _missed: set[str] = field(default_factory=set, init=False)

    def __post_init__(self) -> None:
        self.allowance = Allowance(self.expected)
        self.landing = Landing(self.output_dir, self.job_id.removeprefix("gpurent-"))

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
        """Keep the engine's events for ``gpurent logs``: as JSON in ASCII, whatever the host sent."""
        try:
            with (self.run_dir / "events.jsonl").open("a", encoding="ascii") as file:
                file.writelines(_as_json(line) + "\n" for line in lines)
        except OSError as error:
            self._miss("events", f"The engine's events are not kept: {error}")

    def collect(self, checkpoint: events.Checkpoint) -> Path | None:
        """Bring a checkpoint home, verified, and record it; None for one that was brought before.

        Raises:
            BadHostData: the plan foresees no such file, or what came is not a LoRA.
            HostUnreachable, TransferFailed, Halt.
            HomeFull, LedgerError: this computer had no room for ``hold_s``.
        """
        if not self.allowance.wants(checkpoint):
            return None
        self.tell(StageStarted(Stage.COLLECT, checkpoint.path, checkpoint.size))
        best = 0

        def reached(done: int) -> None:
            nonlocal best
            self.traffic.bytes_out += max(0, done - best)
            best = max(best, done)
            self.tell(StageMoved(Stage.COLLECT, best, checkpoint.size))
            self.mind()

        target = self._patiently(lambda: self._bring(checkpoint, reached))
        self.record(
            Kind.CHECKPOINT_HOME, path=target, size=checkpoint.size, sha256=checkpoint.sha256, final=checkpoint.final,
            step=checkpoint.step, epoch=checkpoint.epoch,
        )  # fmt: skip
        self.allowance.brought(checkpoint)
        self.tell(Collected(target, checkpoint.size, checkpoint.sha256, checkpoint.final))
        return target

    def _bring(self, checkpoint: events.Checkpoint, reached: Callable[[int], None]) -> Path:
        name, size = checkpoint.path, checkpoint.size
        if self.landing.holds(name, size, checkpoint.sha256):
            return self.output_dir / name
        done = 0

        def moved(count: int) -> None:
            nonlocal done
            done += count
            reached(done)

        self.host.fetch(
            f"{self.folder}/out/{name}", self.landing.place(name), sha256=checkpoint.sha256, size=size,
            on_bytes=moved, accept=_check_lora,
        )  # fmt: skip
        return self.landing.publish(name)

    def bring_sample(self, picture: events.SamplePicture) -> Path | None:
        """Bring a sample picture home; None for one that was brought before, or that finds no room here.

        Raises:
            BadHostData: the plan foresees no such picture, or what came is none.
            HostUnreachable, TransferFailed, Halt.
        """
        if not self.allowance.draws(picture):
            return None
        target = self.output_dir / picture.path
        if not self.landing.holds(picture.path, picture.size, picture.sha256):
            try:
                target.parent.mkdir(parents=True, exist_ok=True)
                self.host.fetch(
                    f"{self.folder}/out/{picture.path}", self.landing.place(target.name), sha256=picture.sha256,
                    size=picture.size, on_bytes=self._moved, accept=_check_png,
                )  # fmt: skip
                self.landing.publish(target.name, picture.path)
            except (HomeFull, OSError) as error:
                self._miss("samples", f"Sample pictures are not kept: {error}")
                return None
        self.allowance.drawn(picture)
        return target

    def _moved(self, count: int) -> None:
        self.traffic.bytes_out += count
        self.mind()

    def bring_state(
        self, state: events.State, name: str, *, steps: int, key: str, go_on: Callable[[], object] = lambda: None
    ) -> statefile.StateFile:
        """Bring a state into the run's folder, verified; it takes the place of the one that is there.

        Args:
            state: as the host announced it.
            name: of its file in the output folder on the host.
            steps: of the whole training.
            key: digest of what decides its result.
            go_on: called again and again; ends the transfer by raising.

        Raises:
            BadHostData: it is larger than such a state can be, or none.
            HostUnreachable, TransferFailed, HomeFull, Halt, OSError.
        """
        if state.path != statefile.FILE or state.size > statefile.PER_FILE * self.expected.file_bytes:
            raise BadHostData(f"the host offers {quoted(state.path, 80)} of {state.size} bytes as a state")
        self.tell(StageStarted(Stage.COLLECT, "the state to go on from", state.size))
        done = 0

        def moved(count: int) -> None:
            nonlocal done
            done += count
            self.traffic.bytes_out += count
            self.tell(StageMoved(Stage.COLLECT, done, state.size))
            self.mind()
            go_on()

        target = statefile.place(self.run_dir, state.sha256)
        self.host.fetch(
            f"{self.folder}/out/{name}", target, sha256=state.sha256, size=state.size, on_bytes=moved,
            accept=statefile.check,
        )  # fmt: skip
        found = statefile.StateFile(
            path=target, sha256=state.sha256, size=state.size, step=state.step, steps=steps, key=key
        )
        found.keep()
        return found

    def keep_log(self) -> None:
        """Keep how the engine's log begins and ends. A run does not fail because of it."""
        try:
            text = block(read_log(self.host, f"{self.folder}/log.txt"), LOG_HEAD + LOG_TAIL + 1000)
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


def read_log(host: Host, path: str) -> str:
    """The first 64 KiB and the last 192 KiB of a log on the host. Raises HostError."""
    whole = LOG_HEAD + LOG_TAIL
    head = host.read(path, 0, whole)[:whole]
    if len(head) == whole:
        tail = host.read(path, -LOG_TAIL, LOG_TAIL)[:LOG_TAIL]
        head = head[:LOG_HEAD] + b"\n[what stood here was left out]\n" + tail
    return head.decode("utf-8", errors="replace")


def _as_json(line: str) -> str:
    try:
        return json.dumps(parse(line, most=events.MAX_LINE))
    except Malformed:
        return json.dumps({"event": "unreadable", "text": clean(line)})


def _check_png(path: Path) -> None:
    """By its first bytes; nothing here decodes it."""
    with path.open("rb") as file:
        if file.read(len(PNG)) != PNG:
            raise BadHostData("what the host sent is not a picture")


def _check_lora(path: Path) -> None:
    """Before it gets its name: an earlier LoRA of that name is lost to a better one only."""
    try:
        names = tensor_names(path, most=LORA_HEADER)
    except ValueError as error:
        raise BadHostData(f"what the host sent is not a LoRA: {error}") from error
    if not any(name.startswith("lora_") for name in names):
        raise BadHostData("what the host sent is not a LoRA: it holds no tensor of one")
