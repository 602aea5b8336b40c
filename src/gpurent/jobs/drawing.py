"""The grid of a LoRA that is at home, drawn on the machine that trained it while that is still rented.

It may cost its own seconds and nothing else. Whatever goes wrong here is told and left: the LoRA is at home, and the
job is done.
"""

from __future__ import annotations

import json
import posixpath
import shlex
import struct
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from gpurent.budget.events import Kind
from gpurent.dataset.grid import Grid, picture_of
from gpurent.dataset.job import Job
from gpurent.errors import BadHostData, GpurentError, HostError, HostUnreachable
from gpurent.jobs import events
from gpurent.jobs.follow import EventFollower
from gpurent.jobs.lifecycle import Step
from gpurent.jobs.progress import Collected, Notice, Stage, StageMoved, StageStarted
from gpurent.jobs.session import Outcome, Session
from gpurent.jobs.watch import Halt
from gpurent.money import Usd
from gpurent.plan.cost import GB
from gpurent.plan.ranges import Range
from gpurent.untrusted.text import quoted

LONGEST_S = 1800.0
"""For any grid; one that would take longer is not begun."""
GRACE_S = 30.0
"""So much longer than estimated at most, and so much longer the engine is waited for."""
SHORTEST_S = 5.0
EVENT_BYTES = 1 << 20
FETCH_MBPS = 8.0
"""A slow line."""
PNG = b"\x89PNG\r\n\x1a\n"


class _NotDrawn(GpurentError):
    """There will be no picture."""


def draw(session: Session, job: Job, outcome: Outcome, estimate: Range, *, kept_s: float = 0.0) -> Path | None:
    """Draw the grid of what a session has just brought home, and bring it home as well.

    Args:
        session: it has come to its end.
        job: what it trained.
        outcome: of it.
        estimate: seconds that the grid takes.
        kept_s: seconds of the rental that jobs behind it need.

    Returns:
        The picture; None where none was wanted, or none was drawn, of which the user is told.

    Raises:
        Halt: the user leaves.
    """
    grid, lora = job.grid, _last(outcome)
    if grid is None or lora is None:
        if job.draws:
            session.tell(Notice("No grid is drawn of it: only of LoRAs that diffusers loads onto the base as it is."))
        return None
    easel = _Easel(session, grid, lora.name, session.watch.deadlines.soft - session.clock.now() - kept_s)
    try:
        return easel.draw(estimate)
    except (GpurentError, OSError) as error:
        if isinstance(error, Halt) and error.leave:
            raise
        if not isinstance(error, Halt | HostUnreachable):
            easel.end()
        command = shlex.join(["gpurent", "grid", str(lora), "--base", job.spec.pretrained_model_name_or_path])
        hint = f"`{command}` draws one on a computer with a GPU."
        session.tell(Notice(f"No grid was drawn: {error}. The LoRA is at home. {hint}", warning=True))
        return None
    finally:
        session.home.landing.clear()


def _last(outcome: Outcome) -> Path | None:
    """The LoRA with which a training has ended."""
    return outcome.files[-1] if outcome.files else None


@dataclass
class _Easel:
    """Draws one grid."""

    session: Session
    grid: Grid
    lora: str
    left_s: float
    """Until the money is needed for something else."""

    @property
    def job_id(self) -> str:
        """Of the drawing, on the host."""
        return f"{self.session.job_id}-grid"

    @property
    def folder(self) -> str:
        """Of the drawing, on the host."""
        return f".gpurent/jobs/{self.job_id}"

    def draw(self, estimate: Range) -> Path:
        """Raises _NotDrawn, HostError, HomeFull, LedgerError, Halt."""
        session, grid = self.session, self.grid
        if estimate.mid > self.left_s or not session.watch.affords(estimate.mid, self._traffic(grid.most_bytes)):
            raise _NotDrawn(f"it takes about {estimate.mid:.0f} s, and the money left does not pay for them")
        if estimate.mid > LONGEST_S:
            raise _NotDrawn(f"it takes about {estimate.mid / 60:.0f} min on this machine")
        # where no GPU is paid for, it may be drawn on a CPU, of which the estimate knows nothing
        longest_s = min(estimate.high + GRACE_S, LONGEST_S) if session.paid_gpu else LONGEST_S
        within_s = min(longest_s, max(SHORTEST_S, self.left_s))
        session.tell(StageStarted(Stage.DRAW, f"a grid of {grid.pictures} pictures", grid.pictures))
        self._start(within_s)
        return self._bring(self._followed(within_s))

    def end(self) -> None:
        """End the process that draws; the next job gets another one."""
        if self.session.premises.server is not None:
            self.session.premises.server.drop()
        try:
            self.session.host.kill_job(self.job_id)
        except HostError as error:
            self.session.tell(Notice(f"The drawing of the grid could not be ended: {error}", warning=True))

    def _start(self, within_s: float) -> None:
        session, host = self.session, self.session.host
        runtime, engine = host.runtime(), host.ship_engine()
        home = runtime.home
        order = {
            "job": posixpath.join(home, session.folder, "job.json"),
            "events": posixpath.join(home, self.folder, "events.jsonl"),
            "lora": self.lora,
            "picture": picture_of(self.lora),
            "rows": [{**asdict(row), "label": row.label} for row in self.grid.rows],
            "strengths": list(self.grid.strengths),
            "steps": self.grid.steps,
            "side": self.grid.side,
            "within_s": round(within_s, 1),
        }
        host.put_bytes(json.dumps(order).encode(), f"{self.folder}/grid.json")
        server, alone = session.premises.server, session.gpu_count == 1
        engine = posixpath.join(home, engine).rstrip("/")
        if server is not None and alone and server.give(host, self.job_id, engine, runtime, kind="grid"):
            return
        path = posixpath.join(home, self.folder, "grid.json")
        environment: Mapping[str, str] = {"PYTHONPATH": engine, "PYTHONUNBUFFERED": "1"}
        host.start_job(
            self.job_id, [runtime.python, "-m", "gpurent_engine", "grid", "--order", path], environment
        )  # fmt: skip

    def _followed(self, within_s: float) -> events.GridPicture:
        """What the host says that it has drawn."""
        session = self.session
        follower = EventFollower(session.host, f"{self.folder}/events.jsonl", EVENT_BYTES)
        until = session.clock.monotonic() + within_s + GRACE_S
        while session.clock.monotonic() < until:
            self._mind()
            ended, lines = session.host.job_status(self.job_id), follower.poll()
            for event in map(events.parse_grid, lines):
                match event:
                    case events.Drawn(done=done):
                        session.tell(StageMoved(Stage.DRAW, min(done, self.grid.pictures), self.grid.pictures))
                    case events.EngineFault(message=message):
                        raise _NotDrawn(f"the engine says {quoted(message, 500)}")
                    case events.GridPicture():
                        return event
                    case None:
                        pass
            if ended is not None and not follower.behind:
                raise _NotDrawn(f"the engine ended with status {ended}")
            if not follower.behind:
                session.clock.sleep(session.follow_s)
        raise _NotDrawn(f"it took longer than {within_s + GRACE_S:.0f} s")

    def _bring(self, picture: events.GridPicture) -> Path:
        session, home, name = self.session, self.session.home, picture_of(self.lora)
        if picture.path != name or picture.size > self.grid.most_bytes:
            raise BadHostData(f"the host offers {quoted(picture.path, 80)} of {picture.size} bytes as the grid")
        seconds = picture.size * 8 / 1e6 / FETCH_MBPS
        if not session.watch.affords(seconds, self._traffic(picture.size)):
            raise _NotDrawn("there is no money left to bring it home")

        def moved(count: int) -> None:
            home.traffic.bytes_out += count
            self._mind()

        session.host.fetch(
            f"{session.folder}/out/{name}", home.landing.place(name), sha256=picture.sha256, size=picture.size,
            on_bytes=moved, accept=self._check,
        )  # fmt: skip
        target = home.landing.publish(name)
        home.mention(Kind.CHECKPOINT_HOME, path=target, size=picture.size, sha256=picture.sha256, final=False)
        session.tell(Collected(target, picture.size, picture.sha256, final=False))
        return target

    def _traffic(self, size: int) -> Usd:
        return self.session.travel.out_gb.scaled(size, GB)

    def _check(self, path: Path) -> None:
        """By its first bytes; nothing here decodes it."""
        with path.open("rb") as file:
            start = file.read(24)
        if len(start) < 24 or not start.startswith(PNG) or struct.unpack(">II", start[16:24]) != self.grid.size:
            raise BadHostData("what the host sent is not the picture of the grid")

    def _mind(self) -> None:
        """Whatever would have a training saved ends a drawing. Raises Halt, _NotDrawn."""
        decision = self.session.watch.tick()
        if self.session.guard is not None:
            self.session.guard.beat()
        if decision.step is Step.SAVE:
            raise _NotDrawn(decision.why)
