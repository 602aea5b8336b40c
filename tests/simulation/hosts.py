"""Rented machines in memory: the real dead-man program on virtual time, files, an engine, and a link that fails."""

from __future__ import annotations

import argparse
import hashlib
import http.client
import json
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field
from email.message import Message
from functools import partial
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from tests.simulation.computer import MortalClock
from tests.simulation.engine import STATE, Easel, Engine, step_of
from tests.simulation.schedule import NEVER
from tests.simulation.service import CUT_OFF, TRICKLE, URL

from gpurent.errors import HomeFull, HostUnreachable, TransferFailed
from gpurent.jobs.carrying import KEPT
from gpurent.model import Endpoint, Fuse, Identity, Line, SelfDestruct
from gpurent.spi import Completed, Host, LocalFile, Runtime
from gpurent.tasks import Overdue
from gpurent_deadman import deadman
from gpurent_remote.host import Waits
from gpurent_remote.startup import arguments
from gpurent_sandbox.faults import Fault
from gpurent_sandbox.held import Held, State

if TYPE_CHECKING:
    from tests.simulation.world import World

ORDER, ALIVE = ".gpurent/deadman/order.json", ".gpurent/deadman/alive.json"
TURN_S = 30.0
"""Between two looks of the switch; it looks at once at an order."""
CHUNK = 1 << 14
LINE_BYTES = 500_000
"""For measuring a line."""
NETWORK_S_PER_MB = 0.1
REFUSED_S = 5.0
TRICKLED_S = deadman.Program.patience
"""What the switch waits for an answer of which a byte comes every four seconds."""
FROZEN_S = Waits().patience_s + Waits().reply_s
"""How long the real adapter waits for a line that is open and silent."""
OVERHEAD_PERMILLE = 1050
"""What SSH adds to the bytes that the service counts."""
GOOD = json.dumps({
    "machine": "x86_64", "torch": "2.8.0", "built_for": "12.8", "cuda": True, "product": "right", "disk_free_mb": 10**6,
    "ram_mb": 64_000, "arch": ["sm_80"], "driver_cuda": "12.8",
    "devices": [{"name": "GPU", "capability": [8, 6], "vram_mb": 10**6, "free_mb": 10**6}],
})  # fmt: skip
"""What a good machine says of itself."""
NONSENSE = (
    http.client.BadStatusLine("\0\xff"), http.client.RemoteDisconnected("closed"), http.client.IncompleteRead(b"<html"),
    UnicodeDecodeError("ascii", b"\xff", 0, 1, "not in range"), ConnectionResetError(104, "reset"),
)  # fmt: skip
"""What the standard library makes of a connection that is cut, or of an answer that is not HTTP."""


class Program(deadman.Program):
    """The program as it runs on a machine of this world: files in memory, requests to this world's market."""

    every = TURN_S

    def __init__(self, machine: Machine, options: argparse.Namespace, now: float, wall: float) -> None:
        self.machine = machine
        super().__init__(options, now, wall)

    def read(self, name: str) -> object:
        data = self.machine.files.get(f".gpurent/deadman/{name}", b"")
        try:
            return json.loads(data)
        except ValueError:
            return None

    def show(self, state: dict[str, object]) -> None:
        self.machine.files[ALIVE] = json.dumps(state).encode()

    def busy(self) -> bool:
        return self.machine.busy()

    def destroy(self) -> bool:
        return deadman.destroy(self.options, self.machine.send)


@dataclass
class Machine:
    """One host that has begun to boot."""

    held: Held
    world: World
    program: Program | None = None
    files: dict[str, bytes] = field(default_factory=dict)
    engines: dict[str, Engine | Easel] = field(default_factory=dict)
    """By job."""
    servers: dict[str, list[str]] = field(default_factory=dict)
    """Processes that take job after job, and the jobs that each was given."""
    fired_at: float | None = None
    """When its switch decided that time is up."""
    fired_busy: bool = False
    guarded: list[tuple[float, float]] = field(default_factory=list)
    """From when until when its switch ran."""
    heard_no: list[float] = field(default_factory=list)
    """When it asked its provider for its end in vain."""

    @property
    def alive(self) -> bool:
        """Whether its provider still runs it."""
        return any(one.id == self.held.id and one.active for one in self.world.market.alive())

    def boot(self) -> None:
        """Run the start-up script: start the switch. Also what a restart of its container does."""
        script = json.loads(self.held.order.startup)
        if script["self_destruct"] is None:
            return
        argv = arguments(SelfDestruct(**script["self_destruct"]), Fuse(**script["fuse"]))
        options = deadman.parse([*argv, "--init", self.held.id])
        self.files.pop(ORDER, None)
        self._unguarded()
        self.guarded.append((self.world.clock.now(), NEVER))
        if self.world.schedule.host_skew:
            self.world.tally.faults["a machine's clock is wrong"] += 1
        self.program = Program(self, options, *self._clocks())
        self.world.clock.spawn(partial(self._run, self.program))

    @property
    def environment(self) -> dict[str, str]:
        """What its provider puts into the environment of its first process."""
        key = {} if self.held.troubles.no_key else {"SANDBOX_INSTANCE_KEY": self.held.key}
        return {"SANDBOX_API_URL": URL, "SANDBOX_INSTANCE_ID": self.held.id, **key}

    def _clocks(self) -> tuple[float, float]:
        """A steady clock, and the wall's, which may be wrong here."""
        now = self.world.clock.now()
        return now, now + self.world.schedule.host_skew

    def _run(self, program: Program) -> None:
        while program is self.program and self.alive:
            self.world.clock.sleep(self._look(program))

    def kill_switch(self) -> None:
        """Its owner ends our program: only that, and nothing tells."""
        if self.alive and self.program is not None:
            self.world.tally.faults["the switch was killed by the host"] += 1
            self._unguarded()

    def _unguarded(self) -> None:
        """Its switch runs no more."""
        if self.program is not None:
            self.program = None
            self.guarded[-1] = (self.guarded[-1][0], self.world.clock.now())

    def _look(self, program: Program) -> float:
        busy = self.busy()
        now, wall = self._clocks()
        if not program.over and program.switch.left(now, busy) <= 0 and self.fired_at is None:
            self.world.note(None, f"the switch of {self.held.id} fires{', its job at work' if busy else ''}")
            self.fired_at, self.fired_busy = now, busy
        return program.turn(now, wall)

    def busy(self) -> bool:
        """Whether an engine is at work."""
        return any(one.working(self.world.clock.now()) for one in self.engines.values())

    def obey(self) -> None:
        """The client wrote an order: the program looks every second."""
        if self.program is not None and not self.program.over and self.alive:
            self._look(self.program)

    def restart(self, *, loses_job: bool) -> None:
        """Its container restarts: the start-up script again, and what ran is gone or goes on."""
        self.world.tally.faults["a container restarts" + (", its job is lost" if loses_job else "")] += 1
        for engine in self.engines.values() if loses_job else ():
            engine.kill(self.world.clock.now())
        self.boot()

    def send(self, request: urllib.request.Request, timeout: float) -> AbstractContextManager[SimpleNamespace]:
        """What ``urllib.request.urlopen`` does here."""
        world = self.world
        if world.schedule.cut_off:
            world.tally.faults["machine cut off from its provider"] += 1
            self._refused()
            raise urllib.error.URLError("no route to host")
        headers = dict(request.header_items())
        path = urlsplit(request.full_url).path
        world.note(None, f"the switch of {self.held.id} asks for its end")
        status = CUT_OFF
        if len(self.heard_no) >= world.schedule.nonsense:
            status, _, _ = world.service.ask(request.get_method(), path, headers, b"")
        if status == TRICKLE:
            world.clock.sleep(TRICKLED_S)
            raise TimeoutError("no end of the answer")
        if not 200 <= status < 300:
            self._refused()
        if status == -1:
            world.clock.sleep(timeout)
            raise TimeoutError("timed out")
        if status == CUT_OFF:
            world.tally.faults["answer to a machine that is not HTTP"] += 1
            raise NONSENSE[len(self.heard_no) % len(NONSENSE)]
        if status >= 300:
            raise urllib.error.HTTPError(request.full_url, status, "", Message(), BytesIO())
        return nullcontext(SimpleNamespace(status=status))

    def _refused(self) -> None:
        self.heard_no.append(self.world.clock.now())


@dataclass
class Network:
    """All machines, and the state of the client's own line."""

    world: World
    machines: dict[str, Machine] = field(default_factory=dict)
    down: list[tuple[float, float]] = field(default_factory=list)
    """When the line was dead, and until when."""
    frozen: list[tuple[float, float]] = field(default_factory=list)
    """When it was open, and silent."""
    fetches: int = 0
    _ports: int = 20_000

    def cut(self, seconds: float) -> None:
        """The client's line dies for a while."""
        now = self.world.clock.now()
        self.world.note(None, f"the line is dead for {seconds:.0f} s")
        self.down.append((now, now + seconds))

    def freeze(self, seconds: float) -> None:
        """It stays open and passes nothing."""
        now = self.world.clock.now()
        self.world.note(None, f"the line is frozen for {seconds:.0f} s")
        self.frozen.append((now, now + seconds))

    def repair(self) -> None:
        """From now on nothing is wrong with it."""
        now = self.world.clock.now()
        self.down = [(begun, min(over, now)) for begun, over in self.down]
        self.frozen = [(begun, min(over, now)) for begun, over in self.frozen]

    def silent(self) -> bool:
        """Whether it is open and passes nothing."""
        now = self.world.clock.now()
        return any(begun <= now < over for begun, over in self.frozen)

    def notice(self) -> None:
        """Start hosts for instances that are due; called after every request."""
        for held in self.world.market.alive():
            if held.id not in self.machines:
                machine = Machine(held, self.world)
                self.machines[held.id] = machine
                self.world.clock.at(held.created_at + held.boot_s * 0.5, lambda machine=machine: self._boot(machine))  # type: ignore[misc]

    def _boot(self, machine: Machine) -> None:
        if not machine.alive or machine.held.troubles.boot_stuck:
            return
        machine.boot()
        self._move(machine)
        plan = self.world.schedule
        if (moves := machine.held.troubles.move_after_s) is not None:
            self._after(machine, moves, lambda: self._restart(machine, moved=True, loses_job=False))
        if plan.restarts is not None:
            after, loses_job = plan.restarts
            self._after(machine, after, lambda: self._restart(machine, moved=False, loses_job=loses_job))
        if plan.switch_dies_after_s is not None:
            self._after(machine, plan.switch_dies_after_s, machine.kill_switch)

    def _after(self, machine: Machine, seconds: float, act: Callable[[], None]) -> None:
        """Counted from when it runs."""
        clock = self.world.clock
        clock.at(clock.now() + machine.held.boot_s + seconds, lambda: None if self.world.over else act())

    def _restart(self, machine: Machine, *, moved: bool, loses_job: bool) -> None:
        if machine.alive:
            machine.restart(loses_job=loses_job)
            if moved:
                self._move(machine)

    def _move(self, machine: Machine) -> None:
        self._ports += 1
        if machine.alive:
            self.world.market.booted(machine.held.id, self._ports)

    def answering(self, port: int) -> Machine:
        """The machine behind ``port``. Raises HostUnreachable."""
        now = self.world.clock.now()
        if any(begun <= now < over for begun, over in self.down):
            self.world.tally.faults["link to the machines down"] += 1
        elif self.world.faults.take(Fault.DROP_SSH) is None:
            for held in self.world.market.alive():
                up = held.state(now) is State.RUNNING and not held.troubles.no_sshd
                if up and held.port == port and now >= held.created_at + held.boot_s + held.troubles.refuse_key_s:
                    return self.machines[held.id]
        raise HostUnreachable("connection refused")


def _listen(network: Network, clock: MortalClock) -> None:
    """Wait for a line that is open and silent, for as long as the real adapter does. Raises HostUnreachable."""
    world, process = network.world, clock.process
    process.call_host()
    if process.computer.offline:
        raise HostUnreachable("no route")
    if network.silent():
        world.tally.faults["link frozen: open and silent"] += 1
        try:
            clock.begin(lambda: world.clock.sleep(NEVER)).result(FROZEN_S)
        except Overdue:
            raise HostUnreachable(f"the host has not answered for {FROZEN_S:.0f} s") from None


def _job(path: str) -> str:
    """The job to whose folder a path on a machine leads."""
    parts = path.split("/")
    return parts[2] if parts[:2] == [".gpurent", "jobs"] else ""


class SimHost:
    """A connection to a machine."""

    def __init__(self, network: Network, port: int, clock: MortalClock, moved: Callable[[], Endpoint | None]) -> None:
        self._network = network
        self._world = network.world
        self._port = port
        self._moved_to = moved
        self._clock = clock
        self._process = clock.process

    def _machine(self, what: str) -> Machine:
        """The machine, once it answers. Raises HostUnreachable."""
        self._process.step(what)
        _listen(self._network, self._clock)
        try:
            return self._network.answering(self._port)
        except HostUnreachable:
            self._clock.sleep(REFUSED_S)
            now = self._moved_to()
            if now is None:
                raise
            self._port = now.port
            return self._network.answering(self._port)

    def _moved(self, machine: Machine, count: int, *, out: bool) -> None:
        wire = -(-count * OVERHEAD_PERMILLE // 1000)
        self._world.market.traffic(machine.held.id, **{"out_bytes" if out else "in_bytes": wire})
        slow = self._world.faults.take(Fault.SLOW_LINK)
        self._world.clock.sleep(count / slow.amount if slow else count / 1e6 * NETWORK_S_PER_MB)

    def run(self, command: str, *, stdin: bytes | None = None, timeout: float = 60.0) -> Completed:
        machine = self._machine("run")
        if command.startswith("{ ln "):
            return self._handed_over(machine, command)
        self._world.clock.sleep(2.0)
        if "sha256sum" not in command:
            return Completed(0, "{}", "")
        files = machine.engines[_job(command.split()[1])].files
        if STATE not in files:
            return Completed(1, "", "no such file")
        files[KEPT] = files[STATE]
        return Completed(0, f"{hashlib.sha256(files[KEPT][0]).hexdigest()}  {KEPT}", "")

    def _handed_over(self, machine: Machine, command: str) -> Completed:
        """The order that a name is given to begins, once."""
        order = command.split()[3]
        server = machine.servers[_job(order)]
        (named,) = json.loads(machine.files[f"{order}.new"]).values()
        job_id = _job(named.removeprefix("/root/"))
        if job_id not in server:
            if self._server_status(machine, _job(order)) is not None:
                return Completed(1, "", "")
            server.append(job_id)
            self._begin(machine, job_id)
        self._process.step("handed over a job")
        return Completed(0, "", "")

    def _begin(self, machine: Machine, job_id: str) -> None:
        if drawing := machine.files.get(f".gpurent/jobs/{job_id}/grid.json"):
            takes_s = (5.0, 40.0, 1e9)[self._world.schedule.seed % 3]
            training = machine.engines[job_id.removesuffix("-grid")]
            machine.engines[job_id] = Easel(
                json.loads(drawing), self._world.clock.now(), takes_s=takes_s, files=training.files, name=training.name
            )
            return
        order = json.loads(machine.files[f".gpurent/jobs/{job_id}/job.json"])
        now, name = self._world.clock.now(), order["spec"]["output_name"]
        state = machine.files.get(f".gpurent/jobs/{job_id}/out/{STATE}") if order["resume"] else None
        begun = 0 if state is None else step_of(state)
        machine.engines[job_id] = Engine(self._world.course, name, now, epochs=4, from_step=begun)
        if begun:
            self._world.resumed(name, begun)

    def _server_status(self, machine: Machine, job_id: str) -> int | None:
        """A process that takes job after job lives as long as none of them has failed."""
        for one in machine.servers[job_id]:
            machine.engines[one].advance(self._world.clock.now())
            if machine.engines[one].status() not in (0, None):
                return 1
        return None

    def runtime(self, *, again: bool = False) -> Runtime:
        return Runtime("/usr/bin/python3", (3, 12), "2.8.0", "/root", "root", True)

    def python(self, source: str, *, stdin: bytes = b"", timeout: float = 60.0) -> Completed:
        self.run(source, stdin=stdin, timeout=timeout)
        return Completed(0, GOOD if "def graphics" in source else "", "")

    def line(self) -> Line:
        machine = self._machine("line")
        self._moved(machine, LINE_BYTES, out=False)
        self._moved(machine, LINE_BYTES, out=True)
        return Line(80.0, 80.0, LINE_BYTES, LINE_BYTES)

    def put(
        self, files: Sequence[LocalFile], folder: str, on_bytes: Callable[[int], None] = lambda _count: None
    ) -> None:
        for file in files:
            machine = self._machine("put")
            if file.target == STATE:
                machine.files[f"{folder}/{STATE}"] = file.source.read_bytes()
            self._moved(machine, file.size, out=False)
            on_bytes(file.size)

    def put_bytes(self, data: bytes, path: str, mode: int = 0o600) -> None:
        machine = self._machine(f"write {path.rpartition('/')[2]}")
        machine.files[path] = data
        self._moved(machine, len(data), out=False)
        if path == ORDER:
            machine.obey()
        engine = machine.engines.get(_job(path))
        if path.endswith("/stop") and engine is not None and engine.stop_at is None:
            engine.stop_at = self._world.clock.now()
        if path.endswith("/plan.json") and engine is not None:
            engine.shorter = int(json.loads(data)["steps"])

    def fetch(
        self, path: str, target: Path, *, sha256: str, size: int,
        on_bytes: Callable[[int], None] = lambda _count: None, accept: Callable[[Path], None] = lambda _path: None,
    ) -> None:  # fmt: skip
        machine = self._machine("fetch")
        data, _ = machine.engines[_job(path)].files[path.rpartition("/")[2]]
        self._network.fetches += 1
        dies = self._world.schedule.cut_in_fetch
        for start in range(0, len(data), CHUNK):
            if start and dies is not None and dies[0] == self._network.fetches:
                self._world.tally.faults["link died in a fetch"] += 1
                self._network.cut(dies[1])
                raise HostUnreachable("the link died in the middle of a file")
            self._moved(machine, len(data[start : start + CHUNK]), out=True)
            on_bytes(len(data[start : start + CHUNK]))
        self._process.step("fetched")
        if self._process.computer.unwritable:
            self._world.tally.faults["disk for results full"] += 1
            raise HomeFull("no space left on device")
        if hashlib.sha256(data).hexdigest() != sha256 or len(data) != size:
            raise TransferFailed("damaged")
        part = target.with_name(f"{target.name}.part")
        part.write_bytes(data)
        accept(part)
        part.replace(target)

    def read(self, path: str, offset: int, limit: int) -> bytes:
        machine = self._machine("read")
        engine = machine.engines.get(_job(path))
        if path.endswith("events.jsonl") and engine is not None:
            engine.advance(self._world.clock.now())
            machine.files[path] = engine.log
        return machine.files.get(path, b"")[offset : offset + limit]

    def start_job(self, job_id: str, argv: Sequence[str], env: Mapping[str, str]) -> None:
        machine = self._machine("start_job")
        if "serve" in argv:
            machine.servers.setdefault(job_id, [])
        elif job_id not in machine.engines:
            self._begin(machine, job_id)
        self._process.step("started job")

    def job_status(self, job_id: str) -> int | None:
        machine = self._machine("job_status")
        if job_id in machine.servers:
            return self._server_status(machine, job_id)
        engine = machine.engines.get(job_id)
        if engine is None:
            return -1
        engine.advance(self._world.clock.now())
        return engine.status()

    def kill_job(self, job_id: str) -> None:
        self._machine("kill_job")

    def ship_engine(self) -> str:
        machine = self._machine("ship_engine")
        self._moved(machine, 200_000, out=False)
        return ".gpurent/engine/sim"

    def close(self) -> None: ...


class SimConnector:
    """Reaches machines of a ``Network``."""

    def __init__(self, network: Network, clock: MortalClock) -> None:
        self._network = network
        self._clock = clock

    def new_identity(self, folder: Path) -> Identity:
        return Identity(folder / "id", "ssh-ed25519 AAAA client", "host key", "ssh-ed25519 AAAA host")

    def load_identity(self, folder: Path) -> Identity:
        return self.new_identity(folder)

    def startup(self, identity: Identity, self_destruct: SelfDestruct | None, fuse: Fuse) -> str:
        destruct = None if self_destruct is None else asdict(self_destruct)
        return json.dumps({"fuse": asdict(fuse), "self_destruct": destruct})

    def connect(
        self, endpoint: Endpoint, identity: Identity, *, timeout: float,
        moved: Callable[[], Endpoint | None] = lambda: None,
    ) -> Host:  # fmt: skip
        self._clock.process.step("connect")
        _listen(self._network, self._clock)
        try:
            self._network.answering(endpoint.port)
        except HostUnreachable:
            self._clock.sleep(REFUSED_S)
            raise
        return SimHost(self._network, endpoint.port, self._clock, moved)
