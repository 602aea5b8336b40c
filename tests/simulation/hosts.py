"""Rented machines in memory: the real dead-man switch on virtual time, files, an engine, and a link that fails."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from tests.simulation.clock import VirtualClock
from tests.simulation.engine import Course, Engine
from tests.simulation.fate import Fate
from tests.simulation.service import URL, Service

from gpurent.errors import HostUnreachable, TransferFailed
from gpurent.model import Endpoint, Fuse, Identity, SelfDestruct
from gpurent.sandbox.faults import Fault, Faults
from gpurent.sandbox.held import Held, State
from gpurent.sandbox.market import Market
from gpurent.spi import Completed, Host, LocalFile
from gpurent_deadman.deadman import Switch

ORDER, ALIVE = ".gpurent/deadman/order.json", ".gpurent/deadman/alive.json"
TURN_S = 10.0
"""Between two looks of the switch; it looks at once at an order."""
CHUNK = 1 << 18
NETWORK_S_PER_MB = 0.1
OVERHEAD_PERMILLE = 1050
"""What SSH adds to the bytes that the service counts."""


@dataclass
class Machine:
    """One host that has begun to boot."""

    held: Held
    clock: VirtualClock
    market: Market
    service: Service
    course: Course
    cut_off: bool
    """Cannot reach its provider's API."""
    switch: Switch | None = None
    order: SelfDestruct | None = None
    files: dict[str, bytes] = field(default_factory=dict)
    engine: Engine | None = None
    job_id: str = ""
    _pause: float = 1.0

    @property
    def alive(self) -> bool:
        """Whether its provider still runs it."""
        return any(one.id == self.held.id and one.active for one in self.market.alive())

    def boot(self) -> None:
        """Run the start-up script: start the switch."""
        script = json.loads(self.held.order.startup)
        if script["self_destruct"] is not None:
            fuse = Fuse(**script["fuse"])
            self.order = SelfDestruct(**script["self_destruct"])
            first = min(fuse.first_s, max(0.0, fuse.at - self.clock.now()))
            self.switch = Switch(self.clock.now(), fuse.after_s, first, fuse.hold_s)
            self._turn()

    def _turn(self) -> None:
        if not self.alive or self.switch is None:
            return
        now = self.clock.now()
        left = self.switch.left(now, self._busy())
        self.files[ALIVE] = json.dumps(
            {"pid": 1, "left": left, "nonce": self.switch.nonce, "armed": not self.held.troubles.no_key}
        ).encode()
        if left <= 0:
            self._destroy()
        else:
            self.clock.at(now + min(left, TURN_S), self._turn)

    def _busy(self) -> bool:
        return self.engine is not None and self.engine.working(self.clock.now())

    def obey(self) -> None:
        """The client wrote an order."""
        if self.switch is not None:
            self.switch.obey(json.loads(self.files[ORDER]), self.clock.now())
            left = self.switch.left(self.clock.now(), self._busy())
            state = {"pid": 1, "left": left, "nonce": self.switch.nonce, "armed": not self.held.troubles.no_key}
            self.files[ALIVE] = json.dumps(state).encode()

    def _destroy(self) -> None:
        if not self.alive or self.order is None:
            return
        status = -1
        if not self.cut_off and not self.held.troubles.no_key:
            path = urlsplit(self.order.url.format(SANDBOX_API_URL=URL, SANDBOX_INSTANCE_ID=self.held.id)).path
            headers = {name: value.format(SANDBOX_INSTANCE_KEY=self.held.key) for name, value in self.order.headers}
            status, _, _ = self.service.ask(self.order.method, path, headers, b"")
        self._pause = 30.0 if 200 <= status < 300 else min(60.0, self._pause * 2)
        self.clock.at(self.clock.now() + self._pause + (20.0 if status == -1 else 0.0), self._destroy)


@dataclass
class Network:
    """All machines, and the state of the client's own line."""

    clock: VirtualClock
    market: Market
    service: Service
    course: Callable[[], Course]
    faults: Faults
    cut_off: bool
    machines: dict[str, Machine] = field(default_factory=dict)
    down_until: float = 0.0
    _ports: int = 20_000

    def notice(self) -> None:
        """Start hosts for instances that are due; called after every request."""
        for held in self.market.alive():
            if held.id not in self.machines:
                machine = Machine(held, self.clock, self.market, self.service, self.course(), self.cut_off)
                self.machines[held.id] = machine
                self.clock.at(held.created_at + held.boot_s * 0.5, lambda machine=machine: self._boot(machine))  # type: ignore[misc]

    def _boot(self, machine: Machine) -> None:
        if machine.alive and not machine.held.troubles.boot_stuck:
            machine.boot()
            self._move(machine)
            moves = machine.held.troubles.move_after_s
            if moves is not None:
                self.clock.at(self.clock.now() + machine.held.boot_s + moves, lambda: self._move(machine))

    def _move(self, machine: Machine) -> None:
        self._ports += 1
        if machine.alive:
            self.market.booted(machine.held.id, self._ports)

    def answering(self, port: int) -> Machine:
        """The machine behind ``port``. Raises HostUnreachable."""
        now = self.clock.now()
        if now >= self.down_until and self.faults.take(Fault.DROP_SSH) is None:
            for held in self.market.alive():
                up = held.state(now) is State.RUNNING and not held.troubles.no_sshd
                if up and held.port == port and now >= held.created_at + held.boot_s + held.troubles.refuse_key_s:
                    return self.machines[held.id]
        self.clock.sleep(5.0)
        raise HostUnreachable("connection refused")


class SimHost:
    """A connection to a machine."""

    def __init__(self, network: Network, port: int, fate: Fate, moved: Callable[[], Endpoint | None]) -> None:
        self._network = network
        self._port = port
        self._moved_to = moved
        self._fate = fate

    def _machine(self, what: str) -> Machine:
        self._fate.step(what)
        try:
            return self._network.answering(self._port)
        except HostUnreachable:
            now = self._moved_to()
            if now is None:
                raise
            self._port = now.port
            return self._network.answering(self._port)

    def _moved(self, machine: Machine, count: int, *, out: bool) -> None:
        wire = -(-count * OVERHEAD_PERMILLE // 1000)
        self._network.market.traffic(machine.held.id, **{"out_bytes" if out else "in_bytes": wire})
        slow = self._network.faults.take(Fault.SLOW_LINK)
        self._network.clock.sleep(count / slow.amount if slow else count / 1e6 * NETWORK_S_PER_MB)

    def run(self, command: str, *, stdin: bytes | None = None, timeout: float = 60.0) -> Completed:
        self._machine("run")
        self._network.clock.sleep(2.0)
        return Completed(0, "/root\n" if command == "pwd" else "{}", "")

    def put(
        self, files: Sequence[LocalFile], folder: str, on_bytes: Callable[[int], None] = lambda _count: None
    ) -> None:
        for file in files:
            machine = self._machine("put")
            self._moved(machine, file.size, out=False)
            on_bytes(file.size)

    def put_bytes(self, data: bytes, path: str, mode: int = 0o600) -> None:
        machine = self._machine(f"write {path.rpartition('/')[2]}")
        machine.files[path] = data
        self._moved(machine, len(data), out=False)
        if path == ORDER:
            machine.obey()
        if path.endswith("/stop") and machine.engine is not None and machine.engine.stop_at is None:
            machine.engine.stop_at = self._network.clock.now()
        if path.endswith("/plan.json") and machine.engine is not None:
            machine.engine.shorter = int(json.loads(data)["steps"])

    def fetch(
        self, path: str, target: Path, *, sha256: str, size: int, on_bytes: Callable[[int], None] = lambda _count: None
    ) -> None:
        machine = self._machine("fetch")
        assert machine.engine is not None
        data, _ = machine.engine.files[path.rpartition("/")[2]]
        self._moved(machine, len(data), out=True)
        on_bytes(len(data))
        self._fate.step("fetched")
        if hashlib.sha256(data).hexdigest() != sha256 or len(data) != size:
            raise TransferFailed("damaged")
        target.write_bytes(data)

    def read(self, path: str, offset: int, limit: int) -> bytes:
        machine = self._machine("read")
        if path.endswith("events.jsonl") and machine.engine is not None:
            machine.engine.advance(self._network.clock.now())
            machine.files[path] = machine.engine.log
        return machine.files.get(path, b"")[offset : offset + limit]

    def start_job(self, job_id: str, argv: Sequence[str], env: Mapping[str, str]) -> None:
        machine = self._machine("start_job")
        if machine.engine is None:
            machine.job_id = job_id
            machine.engine = Engine(machine.course, "swatch", self._network.clock.now(), epochs=4)
        self._fate.step("started job")

    def job_status(self, job_id: str) -> int | None:
        machine = self._machine("job_status")
        if machine.engine is None:
            return -1
        machine.engine.advance(self._network.clock.now())
        return machine.engine.status()

    def kill_job(self, job_id: str) -> None:
        self._machine("kill_job")

    def ship_engine(self) -> str:
        machine = self._machine("ship_engine")
        self._moved(machine, 200_000, out=False)
        return ".gpurent/engine/sim"

    def close(self) -> None: ...


class SimConnector:
    """Reaches machines of a ``Network``."""

    def __init__(self, network: Network, fate: Fate) -> None:
        self._network = network
        self._fate = fate

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
        self._fate.step("connect")
        self._network.answering(endpoint.port)
        return SimHost(self._network, endpoint.port, self._fate, moved)
