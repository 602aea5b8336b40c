"""One job on one host: upload, prepare, start detached, follow, collect.

It writes what happens into the ledger and is told when to stop; prices, budgets and providers are decided elsewhere.
"""

from __future__ import annotations

import json
import posixpath
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from gpurent.budget.events import Kind
from gpurent.budget.ledger import Ledger
from gpurent.budget.state import RentalState
from gpurent.clock import Clock
from gpurent.dataset.content import Content, key
from gpurent.dataset.job import Job
from gpurent.errors import BadHostData, HostError, HostUnfit, HostUnreachable, JobFailed
from gpurent.expected import Expected
from gpurent.jobs import basemodel, events, packages, scalars, statefile
from gpurent.jobs.ahead import Ahead
from gpurent.jobs.basemodel import FETCH_S, Hubs
from gpurent.jobs.carrying import Carrier
from gpurent.jobs.deadman import DeadMan
from gpurent.jobs.follow import EventFollower
from gpurent.jobs.home import Home, read_log
from gpurent.jobs.interrupt import Stop
from gpurent.jobs.lifecycle import Machine, Step
from gpurent.jobs.postmortem import look_at_host
from gpurent.jobs.premises import Premises
from gpurent.jobs.progress import Notice, Stage, StageMoved, StageStarted, Trained
from gpurent.jobs.replan import Replanner, shorten
from gpurent.jobs.scalars import Scalars
from gpurent.jobs.stall import USUAL_S, Alarm, Silence, wake
from gpurent.jobs.statefile import StateFile
from gpurent.jobs.waits import CALLED_S, WISH_S
from gpurent.jobs.watch import Halt, Tell, Watch
from gpurent.money import ZERO, per_hour
from gpurent.plan.cost import ENVIRONMENT_BYTES, GB
from gpurent.plan.timeline import HOST_MBPS_AT_MOST
from gpurent.plan.travel import Travel
from gpurent.spi import Host
from gpurent.tasks import minding
from gpurent.untrusted.text import clean, quoted

PREPARE_S = 1200.0
"""How long installing the engine's packages may take."""
RECORD_S = 1.0
"""Between two reports of a step that are recorded; each costs a write to the disk."""
STATE_MBPS, STATE_START_S = 8.0, 10.0
"""A slow line: a state is only fetched if even that would do."""


class _Called(Exception):
    """There is something to tell the host, and it is slow to answer something else."""


@dataclass
class Outcome:
    """How the engine ended."""

    finished: bool = False
    stopped: bool = False
    final_loss: float | None = None
    files: list[Path] = field(default_factory=list)
    partial: bool = False
    """Of a batch: not every job is done."""
    paused: bool = False
    """It stopped where it was meant to stop."""
    state: Path | None = None
    """What it can go on from, at home."""
    grid: Path | None = None
    """The picture that was drawn of it, at home."""


@dataclass
class Session:
    """The conversation with one host about one job. ``attach`` builds it again and goes on with ``follow``."""

    host: Host
    job_id: str
    output_dir: Path
    run_id: str
    tag: str
    ledger: Ledger
    clock: Clock
    watch: Watch
    tell: Tell
    run_dir: Path
    lost_s: float
    """How long training is believed to go on behind a dead link before the rental is given up."""
    follow_s: float
    """Between two looks at the host."""
    exists: Callable[[], bool]
    """Asks the provider, when the link is dead, whether the machine is there at all."""
    hold_s: float
    """How long a full disk at home is waited for."""
    expected: Expected
    taken_over: bool = False
    """Another client began it, and may have ordered it to stop."""
    usual_silence_s: float = USUAL_S
    """Shortest silence of the engine that counts as usual."""
    paid_gpu: bool = True
    """Training on the CPU is no use: a GPU is paid for."""
    hubs: Hubs = field(default_factory=Hubs)
    gpu_count: int = 1
    """Each trains in a process of its own."""
    guard: DeadMan | None = None
    replan: Replanner | None = None
    premises: Premises = field(default_factory=Premises)
    resume: StateFile | None = None
    """What the training goes on from."""
    stop_at: int | None = None
    """Step after which it is to stop."""
    travel: Travel = field(default_factory=lambda: Travel(0, HOST_MBPS_AT_MOST, ZERO, ZERO, 0.0))
    """How often states are worth their way home."""
    key: str = ""
    """Digest of what decides the job's result; known of a job that another client began."""
    scalars: Scalars | None = None
    """Where TensorBoard looks."""
    ahead: Ahead | None = None
    """Sends the next job's files while this one trains."""
    home: Home = field(init=False)
    _content: Content = field(init=False)
    """Of the job that was uploaded last."""
    _lines: deque[str] = field(default_factory=deque, init=False)
    """Of the engine, not yet acted upon."""
    _carrier: Carrier = field(init=False)
    _state: events.State | None = field(default=None, init=False)
    """The last one that was announced."""
    _stop_sent: bool = field(default=False, init=False)
    _wished_since: float | None = field(default=None, init=False)
    """When a host that did not answer was first asked in vain to save, at the user's wish."""
    _record_due: float = field(default=float("-inf"), init=False)
    _recorded: int = field(default=-1, init=False)
    _stalled: bool = field(default=False, init=False)
    """It was asked to save since it made no progress."""
    _silence: Silence = field(init=False)
    """Of the engine, while its machine answers."""

    def __post_init__(self) -> None:
        self.home = Home(
            host=self.host,
            folder=self.folder,
            output_dir=self.output_dir,
            run_dir=self.run_dir,
            run_id=self.run_id,
            tag=self.tag,
            job_id=self.job_id,
            ledger=self.ledger,
            clock=self.clock,
            tell=self.tell,
            expected=self.expected,
            mind=self._mind,
            hold_s=self.hold_s,
            traffic=self.premises.traffic,
        )
        self._silence = Silence(self.clock.monotonic(), usual_s=self.usual_silence_s)

    @property
    def content(self) -> Content:
        """The files of the job that was uploaded last."""
        return self._content

    @property
    def folder(self) -> str:
        """Where the job lives on the host."""
        return f".gpurent/jobs/{self.job_id}"

    def upload(self, job: Job, content: Content | None = None) -> str:
        """Send engine, dataset and, if it comes from here, the base model; return the engine's folder.

        What an earlier job of this rental has sent is not sent again. ``content``: the job's files, if it is known.
        """
        self._content = content or Content.of(job, job.upload_files())
        parcels = [one for one in self._content.parcels if one.folder not in self.premises.sent]
        total = sum(one.size for one in parcels) + (self.resume.size if self.resume else 0)
        self.tell(StageStarted(Stage.UPLOAD, f"{sum(len(one.files) for one in parcels)} files", total))
        engine = self.host.ship_engine()
        self._begin_beside(job, self._absolute(engine))
        done = 0

        def moved(count: int) -> None:
            nonlocal done
            done += count
            self.home.traffic.bytes_in += count
            self.tell(StageMoved(Stage.UPLOAD, done, total))
            self._mind()

        for parcel in parcels:
            self.host.put(parcel.files, parcel.folder, moved)
            self.premises.sent.add(parcel.folder)
        if self.resume is not None:
            self.host.put([self.resume.sent], f"{self.folder}/out", moved)
        self.tell(StageMoved(Stage.UPLOAD, total, total))
        return engine

    def prepare(self, job: Job, engine: str, wanted: Callable[[], bool] = lambda: True) -> bool:
        """See that the host can train, installing what the image lacks, and start the engine detached.

        Args:
            job, engine: what is trained, and the folder of the engine on the host.
            wanted: asked last of all, whether the engine is to start.

        Returns:
            Whether it was started.

        Raises:
            CommandFailed: Python or a package is missing and cannot be installed.
        """
        self.tell(StageStarted(Stage.PREPARE, "checking the host's environment"))
        self._environment(engine, job.packages)
        self._mind()
        self._base_model(job)
        self.host.put_bytes(json.dumps(self._order(job)).encode(), f"{self.folder}/job.json")
        bytes_in = self.home.traffic.bytes_in
        if not wanted():
            return False
        self.key = key(job, self._content)
        self.ledger.append(self.run_id, Kind.PREPARED, tag=self.tag, bytes_in=bytes_in)
        self.ledger.append(
            self.run_id, Kind.JOB_STARTED, tag=self.tag, job_id=self.job_id, name=job.name, bytes_in=bytes_in,
            key=self.key,
        )  # fmt: skip
        runtime, server = self.host.runtime(), self.premises.server
        alone = self.gpu_count == 1  # one process for each GPU is started afresh for every job
        if server is not None and alone and server.give(self.host, self.job_id, self._absolute(engine), runtime):
            return True
        self.host.start_job(
            self.job_id,
            [runtime.python, "-m", "gpurent_engine", "train", "--job", self._absolute(f"{self.folder}/job.json")],
            {"PYTHONPATH": self._absolute(engine), "PYTHONUNBUFFERED": "1"},
        )
        return True

    def _mind(self) -> None:
        """Watch money, time and the user's wish, show a sign of life, and have the engine save when that is due."""
        decision = self.watch.tick()
        if self.guard is not None:
            self.guard.beat()
        if decision.step is Step.SAVE and not self._stop_sent:
            self.tell(Notice(f"{decision.why[0].upper()}{decision.why[1:]}: saving a checkpoint.", warning=True))
            self.host.put_bytes(b"", f"{self.folder}/stop")
            self._stop_sent = True

    def _begin_beside(self, job: Job, engine: str) -> None:
        """Have the host install packages and download the base model while it is sent the dataset."""
        runtime = self.host.runtime()
        if not self.premises.equipped(job.packages) and packages.lacking(self.host, engine, runtime, job.packages):
            self.host.start_job(f"{self.job_id}-install", ["sh", "-c", packages.install(engine, runtime)], {})
        if job.base_target is None and self._downloaded(job) not in self.premises.bases:
            self._start_download(job, engine)

    def _start_download(self, job: Job, engine: str) -> None:
        name = f"{self.job_id}-base"
        path = f"{self.folder}/base.json"
        self.host.put_bytes(basemodel.order(job, self.hubs, self._absolute("")), path)
        self.tell(Notice(f"The machine downloads {job.base_model_id} from {', '.join(self.hubs.endpoints)}."))
        command = basemodel.command(self.host.runtime(), self._absolute(path))
        self.host.start_job(name, command, {"PYTHONPATH": engine})

    def _base_model(self, job: Job) -> None:
        """Wait for the base model, where the host downloads it.

        Raises:
            JobFailed: the hub does not give it to anybody, or not without a token.
            HostUnfit: this machine cannot download it.
        """
        if job.base_target is not None or self._downloaded(job) in self.premises.bases:
            return
        name = f"{self.job_id}-base"
        if self.host.job_status(name) is None:
            self.tell(StageStarted(Stage.PREPARE, f"downloading {job.base_model_id}"))
        status, said = self._ended(name, FETCH_S)
        if status != 0:
            raise basemodel.failed(status, said)
        self.premises.bases.add(self._downloaded(job))
        self.home.traffic.bytes_in += job.workload.base_download_bytes  # the host pulled it by itself

    def _environment(self, engine: str, also: frozenset[str] = frozenset()) -> None:
        if self.premises.equipped(also):
            return

        def announce() -> None:
            self.tell(StageStarted(Stage.PREPARE, "installing the engine's packages"))

        def run(script: str) -> tuple[int, str]:
            return self._detached(f"{self.job_id}-install", script)

        if packages.prepare(self.host, self._absolute(engine), run, announce, also=also):
            self.home.traffic.bytes_in += ENVIRONMENT_BYTES
        self.premises.packages = (self.premises.packages or frozenset()) | also

    def _detached(self, job_id: str, command: str) -> tuple[int, str]:
        """Run what may take minutes; its status and last words."""
        self.host.start_job(job_id, ["sh", "-c", command], {})
        return self._ended(job_id, PREPARE_S)

    def _ended(self, job_id: str, within_s: float) -> tuple[int, str]:
        """Wait for a job without losing sight of money, time and the user; its status and last words."""
        until = self.clock.monotonic() + within_s
        while (status := self.host.job_status(job_id)) is None:
            if self.clock.monotonic() >= until:
                self.host.kill_job(job_id)
                return -1, f"it took longer than {within_s:.0f} s"
            self._mind()
            self.clock.sleep(self.follow_s)
        return status, clean(read_log(self.host, f".gpurent/jobs/{job_id}/log.txt"), 4000, end=True)

    def _absolute(self, path: str) -> str:
        return posixpath.join(self.host.runtime().home, path).rstrip("/")

    def _order(self, job: Job) -> dict[str, object]:
        base = self._absolute(self.folder)
        return {
            "protocol": events.PROTOCOL,
            "spec": job.sent_spec.to_dict(),
            "base_model": f"{self._absolute(self._content.base.folder)}/{job.base_target}"
            if job.base_target
            else self._downloaded(job),
            "data_dir": f"{self._absolute(self._content.dataset.folder)}/data",
            "out_dir": f"{base}/out",
            "events": f"{base}/events.jsonl",
            "stop_file": f"{base}/stop",
            "plan_file": f"{base}/plan.json",
            "resume": self.resume is not None,
            "stop_at": self.stop_at,
            "processes": self.gpu_count,
            "cache_dir": self._absolute(".gpurent/cache"),
        }

    def _downloaded(self, job: Job) -> str:
        return basemodel.folder(job, self._absolute(""))

    def follow(self) -> Outcome:
        """Follow the engine to its end, collecting every checkpoint as it is written.

        Raises:
            JobFailed: the engine gave up; its log is in the run folder.
            HostUnreachable: the link stayed dead for longer than ``lost_s``, or the machine is gone.
            BadHostData: the host sent what the protocol or the plan does not allow, or not the file it promised.
            Halt: the hard deadline, or the user's second Ctrl-C.
        """
        self.tell(StageStarted(Stage.TRAIN, "starting the engine"))
        self.watch.state = RentalState.TRAINING
        self._silence = Silence(self.clock.monotonic(), usual_s=self.usual_silence_s)
        self._carrier = Carrier(
            home=self.home,
            clock=self.clock,
            tell=self.tell,
            travel=self.travel,
            affords=self.watch.affords,
            stopping=lambda: self._stop_sent,
            key=self.key,
            steps=self.expected.steps,
        )
        follower = EventFollower(self.host, f"{self.folder}/events.jsonl", self.expected.event_bytes)
        outcome, lost_since = Outcome(), None
        if self.guard is not None:
            self.guard.preparing = False
        try:
            while True:
                try:
                    self._mind()
                    with minding(self._unless_called()):
                        ended, lines = self.host.job_status(self.job_id), follower.poll()
                    finished = self._take(lines, outcome)
                    if finished or (ended is not None and not follower.behind):
                        outcome = self._finish(ended, outcome)
                        break
                    lost_since = None
                    self._heed_silence()
                    if not follower.behind:
                        self._carrier.turn()
                    self._send_ahead()
                except HostUnreachable as error:
                    lost_since = self._lost(error, lost_since)
                    self._silence.excuse(self.clock.monotonic())
                except _Called:
                    continue
                if not follower.behind:
                    self.clock.sleep(self.follow_s)
        except (Halt, HostUnreachable):
            raise  # the machine is to end now, or does not answer
        except BadHostData as error:
            self._give_up("bad_host", str(error))
            self.home.keep_log()
            raise
        except Exception:
            self.home.keep_log()
            raise
        finally:
            self.home.landing.clear()
            if self.scalars is not None:
                self.scalars.close()
        self.home.keep_log()
        return outcome

    def _send_ahead(self) -> None:
        """Between two looks, a little of what the next job needs, once this one has shown that it trains."""
        if self.ahead is not None and self._silence.stepped and not self._stop_sent:
            self.ahead.send(self.host, self._mind)

    def _unless_called(self) -> Callable[[], None]:
        """Ends what is asked of the host by the way if it does not answer while there is something to tell it."""
        since = self.clock.monotonic()

        def look() -> None:
            waited = self.clock.monotonic() - since
            if not self._stop_sent and waited > CALLED_S and self.watch.tick().step is Step.SAVE:
                raise _Called

        return look

    def _lost(self, error: HostUnreachable, since: float | None) -> float:
        """The link is dead: wait, unless the provider says that there is nothing to wait for."""
        now = self.clock.monotonic()
        since = now if since is None else since
        wished = self.watch.interrupt.level >= Stop.ORDERLY
        if wished and self._wished_since is None:
            self._wished_since = now
        waited, patience = now - since, self.lost_s
        if self._wished_since is not None:
            waited, patience = now - max(since, self._wished_since), min(WISH_S, self.lost_s)
        machine = Machine.LISTED if self.exists() else Machine.MISSING
        try:
            self.watch.tick(machine, silent_s=waited, patience_s=patience)
        except HostUnreachable as over:
            raise HostUnreachable(f"{over}: {error}") from error
        doing = "trying again, to save what it made" if wished else "training goes on there, trying again"
        self.tell(Notice(f"Lost the host ({error}); {doing}.", warning=True))
        return since

    def _finish(self, ended: int | None, outcome: Outcome) -> Outcome:
        """The end is believed when the file that goes with it is home."""
        if not outcome.finished:
            self._fail("internal", f"the engine ended with status {ended} and did not say why", "see engine.log")
        outcome.paused = outcome.stopped and self.stop_at is not None and not self._stop_sent
        if outcome.stopped and not (self._stop_sent or self.taken_over or outcome.paused):
            raise BadHostData("the host says that training was stopped, and nobody had stopped it")
        if not self.home.allowance.complete(stopped=outcome.stopped):
            raise BadHostData(f"the host says that training is done, and sent no {self.expected.final}")
        if outcome.stopped and self._stalled:
            self._bring_state(outcome)
            why = "it made no progress, and ended when it was asked to; what it saved is at home"
            self._give_up("stalled", why)
            raise HostUnfit("stalled", why)
        self.home.record(Kind.JOB_DONE)
        if outcome.stopped:
            self._bring_state(outcome)
        return outcome

    def _bring_state(self, outcome: Outcome) -> None:
        """What a stopped training can go on from, if time and money for it are left. The LoRA is home already."""
        state = self._state
        if state is None:
            return
        seconds = STATE_START_S + state.size * 8 / 1e6 / STATE_MBPS
        if not self.watch.affords(seconds, self.travel.out_gb.scaled(state.size, GB)):
            self.tell(Notice("There is no money left to bring home the last state to go on from.", warning=True))
            return
        try:
            found = self.home.bring_state(state, statefile.FILE, steps=self.expected.steps, key=self.key)
        except (HostError, OSError, Halt) as error:
            if isinstance(error, Halt) and error.leave:
                raise
            self.tell(Notice(f"The state to go on from could not be brought home: {error}", warning=True))
            return
        outcome.state = found.path

    def _take(self, lines: list[str], outcome: Outcome) -> bool:
        """Act on the engine's lines; one that could not be acted upon, since the link died, comes up again."""
        if lines:
            self.home.mirror(lines)
            self._lines.extend(lines)
            self.home.allowance.count(len(lines))
        while self._lines and not outcome.finished:
            self._mind()  # a flood of lines keeps nobody from the deadline, nor from Ctrl-C
            event = events.parse(self._lines[0])
            self._act(event, outcome)
            self._silence.heard(event, self.clock.monotonic())
            self._lines.popleft()
        return outcome.finished

    def _heed_silence(self) -> None:
        """An engine that says nothing for too long is looked at, asked to save, and given up, in this order.

        Raises:
            HostUnfit: nothing helped.
        """
        now = self.clock.monotonic()
        silent_s = now - self._silence.since
        alarm = self._silence.raised(now)
        if alarm is Alarm.NONE:
            return
        cost = per_hour(self.watch.hourly, round(silent_s * 1000)).rounded(4)
        what = f"The engine has said nothing for {silent_s:.0f} s (phase {self._silence.phase}), which cost {cost}"
        if alarm is Alarm.LOOK:
            self.tell(Notice(f"{what}; looking at the machine and waking the engine.", warning=True))
            self._look_at_engine()
        elif alarm is Alarm.SAVE:
            self.tell(Notice(f"{what}; asking it to save and to end.", warning=True))
            self.host.put_bytes(b"", f"{self.folder}/stop")
            self._stop_sent = self._stalled = True
        else:
            self._give_up("stalled", f"the engine said nothing for {silent_s:.0f} s")
            self.host.kill_job(self.job_id)
            raise HostUnfit("stalled", f"the job made no progress for {silent_s:.0f} s, which cost {cost}")

    def _look_at_engine(self) -> None:
        """Tell what the machine says of the engine's processes and of its GPU, and keep both."""
        shown = self.host.run(wake(self.folder), timeout=20.0)
        for line in shown.stdout.splitlines()[:4]:
            self.tell(Notice(f"The machine says: {quoted(line, 200)}"))
        try:
            look_at_host(self.host, self.run_dir)
        except OSError as error:
            self.tell(Notice(f"What the machine says of itself could not be kept: {error}"))

    def _act(self, event: events.EngineEvent | None, outcome: Outcome) -> None:
        match event:
            case events.Hello(protocol=protocol) if protocol != events.PROTOCOL:
                self._fail("protocol", f"the engine speaks protocol {protocol}, not {events.PROTOCOL}", "")
            case events.Hello() as hello:
                self._check_device(hello)
                engine, torch = quoted(hello.engine, 40), quoted(hello.torch, 40)
                device = quoted(hello.device_name or hello.device, 80)
                self.tell(Notice(f"The host runs engine {engine} with torch {torch} on {device}."))
            case events.PhaseStarted() as phase:
                self.tell(StageStarted(Stage.TRAIN, phase.name))
            case events.Plan() as plan:
                self.tell(StageStarted(Stage.TRAIN, f"{plan.images} images", plan.total_steps))
            case events.Step() as step:
                self._stepped(step)
            case events.Checkpoint() as checkpoint:
                path = self.home.collect(checkpoint)
                outcome.files += [] if path is None else [path]
            case events.State() as state:
                self._state = state
                self._carrier.announced(state)
            case events.Proof() as proof:
                if proof.ok:  # what is wrong comes as a warning
                    self.tell(Notice(proof.sentence))
            case events.Validation() as look:
                self.tell(Notice(look.sentence))
                if self.scalars is not None and look.loss is not None:
                    self.scalars.add(look.step, {"loss/validation": look.loss})
            case events.Verdict() as verdict:
                said = f"The engine says at step {verdict.step}: {quoted(verdict.message, 500)}"
                advice = f" It advises: {quoted(verdict.advice, 500)}" if verdict.advice else ""
                self.tell(Notice(said + advice, warning=True))
            case events.EarlyStop() as early:
                self.tell(Notice(early.sentence))
            case events.SamplePicture() as picture:
                drawn = self.home.bring_sample(picture)
                if drawn is not None:
                    self.tell(Notice(f"Step {picture.step}: sample picture {drawn}"))
            case events.EngineWarning() as warning:
                self.tell(Notice(f"The engine warns: {quoted(warning.message, 1000)}", warning=True))
            case events.EngineFault() as fault:
                remedy = f"The engine advises: {quoted(fault.remedy, 500)}" if fault.remedy else ""
                self._fail(fault.code, quoted(fault.message, 1000), remedy)
            case events.Done() as done:
                outcome.stopped, outcome.final_loss, outcome.finished = done.stopped, done.final_loss, True
            case None:
                pass

    def _check_device(self, hello: events.Hello) -> None:
        """Never train on a CPU while a GPU is paid for, whatever the machine showed before."""
        if not hello.device.startswith("cpu"):
            return
        if self.paid_gpu:
            self.host.kill_job(self.job_id)
            raise HostUnfit("no_gpu", "no GPU can be used on it: the engine came up on its CPU")
        self.tell(Notice("Warning: there is no GPU here; training runs on this machine's CPU.", warning=True))

    def _stepped(self, step: events.Step) -> None:
        self._carrier.stepped(step)
        self.tell(
            Trained(
                step=step.step,
                total=step.total,
                epoch=step.epoch,
                epochs=step.epochs,
                loss=step.loss,
                avg_loss=step.avg_loss,
                it_s=step.it_s,
                peak_mem_mb=step.peak_mem_mb,
                elapsed_s=step.elapsed_s,
            )
        )
        if self.scalars is not None:
            self.scalars.add(step.step, scalars.of_step(step))
        last = step.step == step.total and step.step != self._recorded
        if self.clock.monotonic() >= self._record_due or last:
            self._record_due, self._recorded = self.clock.monotonic() + RECORD_S, step.step
            self.home.mention(
                Kind.PROGRESS, step=step.step, total=step.total, epoch=step.epoch, epochs=step.epochs, loss=step.loss,
                avg_loss=step.avg_loss, it_s=step.it_s, peak_mem_mb=step.peak_mem_mb, elapsed_s=step.elapsed_s,
            )  # fmt: skip
        if self.replan is None or self._stop_sent:
            return
        shorter = self.replan.wanted(step, self.expected.skipped)
        if shorter is not None:
            shorten(self.home, shorter)
            self.replan.ordered(shorter)

    def _fail(self, code: str, message: str, remedy: str) -> None:
        self._give_up(code, message)
        raise JobFailed(f"training failed ({code}): {message}", code=code, hint=remedy)

    def _give_up(self, code: str, reason: str) -> None:
        self.home.record(Kind.JOB_FAILED, code=code, reason=reason)
        try:
            look_at_host(self.host, self.run_dir)
        except (HostError, OSError) as error:
            self.tell(Notice(f"What the machine says of itself could not be kept: {error}"))
