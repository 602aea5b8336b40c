"""One lying host for all tests here, and the real client's parts that talk to it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from tests.hostile.server import Orders

from gpurent.budget.events import Kind
from gpurent.budget.guard import Deadlines
from gpurent.budget.ledger import Ledger
from gpurent.clock import SystemClock
from gpurent.expected import Expected
from gpurent.jobs.interrupt import Interrupt
from gpurent.jobs.progress import Progress
from gpurent.jobs.session import Session
from gpurent.jobs.watch import Watch
from gpurent.model import Endpoint, Identity, Offer, Price
from gpurent.money import Usd
from gpurent.spi import Host
from gpurent_remote import SshConnector
from gpurent_remote.host import Waits

JOB, TAG = "job-1", "gpurent-x-1"
EXPECTED = Expected("cat", steps=100, epochs=4, every_epochs=2, every_steps=None, file_bytes=100_000)


@dataclass(frozen=True)
class Lying:
    """The host, and what it is told to do."""

    folder: Path
    endpoint: Endpoint
    banner: Endpoint
    """Where a server never comes to the point."""
    identity: Identity

    def order(self, orders: Orders) -> None:
        """From now on."""
        orders.write(self.folder / "orders.json")

    @property
    def home(self) -> Path:
        """Its login folder."""
        return self.folder / "host" / "root"

    @property
    def job(self) -> Path:
        """Where the job lives."""
        return self.home / ".gpurent" / "jobs" / JOB

    def connect(self, patience_s: float = 0.0) -> Host:
        """A connection of the real client."""
        return SshConnector(SystemClock(), Waits(patience_s)).connect(self.endpoint, self.identity, timeout=15)

    def training(self, *events: object) -> None:
        """Furnish a job that goes on, with these events."""
        (self.job / "out").mkdir(parents=True, exist_ok=True)
        (self.job / "pid").write_text(str(os.getpid()))
        lines = [one if isinstance(one, bytes) else json.dumps(one).encode() for one in events]
        (self.job / "events.jsonl").write_bytes(b"".join(line + b"\n" for line in lines))


@pytest.fixture(scope="package")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lying]:
    folder = tmp_path_factory.mktemp("lying")
    identity = SshConnector().new_identity(folder / "keys")
    (folder / "host" / "root").mkdir(parents=True)
    (folder / "client.pub").write_text(identity.public_key)
    (folder / "host_key").write_text(identity.host_private_key)
    (folder / "host_key").chmod(0o600)
    Orders().write(folder / "orders.json")
    with subprocess.Popen(
        [sys.executable, "-m", "tests.hostile.server", str(folder)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        port, banner = map(int, process.stdout.readline().split())
        yield Lying(folder, Endpoint("127.0.0.1", port), Endpoint("127.0.0.1", banner), identity)
        process.kill()


@pytest.fixture
def lying(server: Lying) -> Lying:
    """Honest so far, and with nothing on it."""
    server.order(Orders())
    shutil.rmtree(server.home)
    server.home.mkdir()
    return server


@pytest.fixture
def host(lying: Lying) -> Iterator[Host]:
    with closing(lying.connect()) as connected:
        yield connected


@dataclass
class Client:
    """One run of the real client, up to its session with the host."""

    folder: Path
    host: Host
    expected: Expected = EXPECTED
    clock: SystemClock = field(default_factory=SystemClock)
    interrupt: Interrupt = field(default_factory=Interrupt)
    told: list[Progress] = field(default_factory=list)
    hear: Callable[[Progress], None] = lambda _event: None
    hard_s: float = 600.0

    def __post_init__(self) -> None:
        self.ledger = Ledger.open(self.folder / "ledger.db", self.clock)
        self.output_dir, self.run_dir = self.folder / "out", self.folder / "run"
        self.run_dir.mkdir()
        self.run_id = self.ledger.open_run("cat", Usd.parse("1"), output_dir=self.output_dir, config={})
        price = Price(Usd.parse("0.1"))
        offer = Offer("sandbox", "m", "RTX 4090", 24_000, price)
        self.ledger.append(
            self.run_id, Kind.INTENT, tag=TAG, provider="sandbox", offer=offer, price=price, disk_gb=10,
            hourly_micros=1, reserved_micros=1, soft_deadline=0.0, hard_deadline=0.0,
        )  # fmt: skip
        self.ledger.append(self.run_id, Kind.CREATED, tag=TAG, ref="i-1", created_at=0.0)
        self.ledger.append(self.run_id, Kind.REACHABLE, tag=TAG)
        self.ledger.append(self.run_id, Kind.JOB_STARTED, tag=TAG, job_id=JOB, name="cat")

    def tell(self, event: Progress) -> None:
        self.told.append(event)
        self.hear(event)

    def session(self) -> Session:
        """As the broker makes it."""
        now = self.clock.now()
        watch = Watch(
            self.ledger,
            self.run_id,
            Deadlines(now + self.hard_s, now + self.hard_s),
            self.clock,
            self.interrupt,
            self.tell,
        )
        return Session(
            self.host, JOB, self.output_dir, self.run_id, TAG, self.ledger, self.clock, watch, self.tell, self.run_dir,
            lost_s=2.0, follow_s=0.05, exists=lambda: True, hold_s=1.0, expected=self.expected,
        )  # fmt: skip

    def shown(self) -> str:
        """Everything that a user would be told."""
        return "\n".join(map(str, self.told))

    def files(self) -> list[str]:
        """What lies in the output folder, hidden or not."""
        return sorted(path.name for path in self.output_dir.iterdir()) if self.output_dir.exists() else []

    def disk(self) -> int:
        """Bytes that the host has caused to be written here, the ledger included."""
        return sum(path.stat().st_size for path in self.folder.rglob("*") if path.is_file())


@pytest.fixture
def client(tmp_path: Path, host: Host) -> Iterator[Client]:
    made = Client(tmp_path, host)
    yield made
    made.ledger.close()
