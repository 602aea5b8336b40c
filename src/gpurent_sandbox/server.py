"""Running the sandbox: one thread with one event loop for the API and all hosts, and a janitor for the worst case."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import uvicorn

from gpurent.clock import Clock, SystemClock
from gpurent.errors import UsageError
from gpurent.localfiles import private_folder
from gpurent.money import Usd
from gpurent.play import ACCOUNT_KEYS
from gpurent_sandbox.address import SandboxAddress, discover, withdraw
from gpurent_sandbox.alike import Front
from gpurent_sandbox.api import Context, Keys, build_api
from gpurent_sandbox.catalogue import Machine, default_machines
from gpurent_sandbox.faults import Faults, Rule
from gpurent_sandbox.hosts import Callbacks, Hosts
from gpurent_sandbox.images import IMAGES, Furnishing, Trait
from gpurent_sandbox.installed import LOOK_ALIKES
from gpurent_sandbox.janitor import KEEP
from gpurent_sandbox.journal import Journal
from gpurent_sandbox.lookalike import LookAlike, fault_kinds
from gpurent_sandbox.market import Market
from gpurent_sandbox.processes import kill_under
from gpurent_sandbox.wire import CuttableProtocol, Wire

TICK_S = 0.05
START_S = 20.0
STOP_S = 60.0
"""The longest wait for all hosts to be killed, and for the janitor."""
DEPOSIT = Usd.parse("100")


@dataclass(frozen=True, slots=True)
class Alive:
    """One instance that really exists, whatever listings say."""

    ref: str
    label: str
    processes: int
    billing: bool


class Sandbox:
    """A marketplace on loopback, as a context manager.

    ``boot_s`` overrides the boot time of every machine; ``seed`` fixes prices, identifiers and random faults.
    A temporary ``state_dir`` is made and removed unless one is given. ``engine`` is a command that hosts run in place
    of ``python3 -m gpurent_engine train``, for tests in which nothing has to be learnt; it gets the same arguments.
    ``hosts`` is what machines are made by, ``look_alikes`` the services that it can pass for.
    """

    def __init__(
        self,
        *,
        clock: Clock | None = None,
        state_dir: Path | None = None,
        port: int = 0,
        machines: Sequence[Machine] | None = None,
        balance: Usd = DEPOSIT,
        boot_s: float | None = None,
        seed: int | None = None,
        keep_hosts: bool = False,
        engine: Sequence[str] = (),
        hosts: type[Hosts] = Hosts,
        look_alikes: Sequence[LookAlike] = LOOK_ALIKES,
    ) -> None:
        rng = random.Random(seed)
        self._own_dir = state_dir is None
        self.state_dir = Path(tempfile.mkdtemp(prefix="gpurent-sandbox-")) if state_dir is None else state_dir.resolve()
        private_folder(self.state_dir)
        self._hosts_dir = self.state_dir / "hosts"
        self._keep_hosts = keep_hosts
        self._engine = engine
        self._made_by = hosts
        self._port = port
        prefixes = (ACCOUNT_KEYS[0], "sbxc_", ACCOUNT_KEYS[1])
        self._keys = Keys(*(f"{prefix}{secrets.token_hex(16)}" for prefix in prefixes))
        self._look_alikes = look_alikes
        self.faults = Faults(rng, fault_kinds(look_alikes))
        self.market = Market(
            default_machines(rng) if machines is None else machines,
            clock=clock or SystemClock(),
            faults=self.faults,
            rng=rng,
            balance=balance,
            boot_s=boot_s,
        )
        self.journal = Journal(self.state_dir / "journal.jsonl", self._secrets)
        self.url = ""
        self._hosts: Hosts | None = None
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._server: uvicorn.Server | None = None
        self._janitor: subprocess.Popen[bytes] | None = None
        self._ready = threading.Event()
        self._stopping: asyncio.Event | None = None
        self._failure: BaseException | None = None

    def __repr__(self) -> str:
        return f"Sandbox({self.url!r})"

    def _secrets(self) -> list[str]:
        return [self._keys.account, self._keys.control, self._keys.other, *self.market.keys()]

    @property
    def account_key(self) -> str:
        """Opens everything but ``/control`` and what the other account rented."""
        return self._keys.account

    @property
    def other_account_key(self) -> str:
        """Opens a second account, which rents from the same machines."""
        return self._keys.other

    @property
    def control_key(self) -> str:
        """Opens ``/control``."""
        return self._keys.control

    @property
    def address(self) -> SandboxAddress:
        """Where it answers, and its keys."""
        return SandboxAddress(self.url, self.account_key, self.control_key, os.getpid())

    def env(self) -> dict[str, str]:
        """Environment variables that point the adapter here."""
        return self.address.env()

    def truth(self) -> list[Alive]:
        """Every instance that still bills or still has a process, with the number of its processes."""
        assert self._hosts is not None, "the sandbox is not running"
        billing = {held.id: held.order.label for held in self.market.alive()}
        counted = {ref: self._hosts.process_count(ref) for ref in {*billing, *self._hosts.live}}
        return [
            Alive(ref, billing.get(ref, ""), count, ref in billing)
            for ref, count in sorted(counted.items())
            if count or ref in billing
        ]

    def furnish(self, machine_id: str, image: str = "", traits: Iterable[Trait | str] = ()) -> None:
        """Give a machine, or every one (``*``), an image of its own or traits; for what is rented from now on.

        Raises:
            ValueError: there is no such machine, image or trait.
        """
        if image and image not in IMAGES:
            raise ValueError(f"there is no image {image!r}; there are {', '.join(IMAGES)}")
        self.market.furnish(machine_id, Furnishing(image, frozenset(map(Trait, traits))))

    def start(self) -> Self:
        """Start to serve; returns when requests are answered.

        Raises:
            UsageError: the port is taken, or another sandbox runs with this state folder.
        """
        if discover(self.state_dir) is not None:
            raise UsageError(f"a sandbox is already running with {self.state_dir}", hint="stop it with Ctrl-C first")
        self._clear_leftovers()
        listener = socket.socket(proto=socket.IPPROTO_TCP)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("127.0.0.1", self._port))
        except OSError as error:
            listener.close()
            raise UsageError(f"port {self._port} is taken: {error.strerror}", hint="choose another --port") from error
        self.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        self._janitor = subprocess.Popen(
            [sys.executable, "-m", "gpurent_sandbox.janitor", str(self._hosts_dir)],
            stdin=subprocess.PIPE,
            start_new_session=True,
        )
        self._thread = threading.Thread(target=self._run, args=(listener,), name="sandbox", daemon=True)
        self._thread.start()
        if not self._ready.wait(START_S) or self._failure is not None:
            self.stop()
            raise RuntimeError("the sandbox did not start") from self._failure
        self.address.write(self.state_dir)
        return self

    def _clear_leftovers(self) -> None:
        """A sandbox that died with its janitor may have left processes: their marker still tells them."""
        kill_under(self._hosts_dir)
        if not self._keep_hosts:
            shutil.rmtree(self._hosts_dir, ignore_errors=True)
        self._hosts_dir.mkdir(exist_ok=True)

    def stop(self) -> None:
        """Destroy everything and stop to serve. May be called twice."""
        if self._loop is not None and self._stopping is not None:
            with contextlib.suppress(RuntimeError):  # the loop has already ended
                self._loop.call_soon_threadsafe(self._stopping.set)
        if self._thread is not None:
            self._thread.join(STOP_S)  # a daemon: what it leaves behind, the janitor clears up
            self._thread = None
        if self._janitor is not None:
            try:
                self._janitor.communicate(KEEP if self._keep_hosts else b"", timeout=STOP_S)
            except subprocess.TimeoutExpired:
                self._janitor.kill()
                self._janitor.communicate()
            self._janitor = None
        withdraw(self.state_dir)
        if self._own_dir and not self._keep_hosts:
            shutil.rmtree(self.state_dir, ignore_errors=True)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _run(self, listener: socket.socket) -> None:
        try:
            asyncio.run(self._serve(listener))
        except BaseException as error:  # noqa: BLE001  handed to the thread that waits in start()
            self._failure = error
        finally:
            self._ready.set()

    async def _serve(self, listener: socket.socket) -> None:
        self._loop = asyncio.get_running_loop()
        self._stopping = asyncio.Event()
        market = self.market
        callbacks = Callbacks(
            booted=market.booted,
            traffic=lambda ref, i, o: market.traffic(ref, in_bytes=i, out_bytes=o),
            now=market.now,
            admitted=market.admitted,
        )
        self._hosts = self._made_by(
            self._hosts_dir, self.faults, callbacks, self.url, keep=self._keep_hosts, engine=self._engine
        )
        context = Context(market, self.faults, self._keys, self._hosts.kill, self._hosts.log)
        front = Front(build_api(context), [look_alike.serve(context) for look_alike in self._look_alikes])
        config = uvicorn.Config(
            Wire(front, faults=self.faults, journal=self.journal, now=market.now, dress=front.dress),
            http=CuttableProtocol,
            ws="none",
            date_header=False,
            log_config=None,
            access_log=False,
            lifespan="off",
            timeout_graceful_shutdown=1,
        )
        self._server = uvicorn.Server(config)
        serving = asyncio.create_task(self._server.serve(sockets=[listener]))
        try:
            await self._tend(serving)
        finally:
            self._server.should_exit = True
            await self._hosts.kill_all()
            await serving

    async def _tend(self, serving: asyncio.Task[None]) -> None:
        """Keep hosts in step with the market until told to stop."""
        assert self._stopping is not None and self._server is not None and self._hosts is not None
        while not self._stopping.is_set() and not serving.done():
            await self._reconcile(self._hosts)
            if self._server.started:
                self._ready.set()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), TICK_S)

    async def _reconcile(self, hosts: Hosts) -> None:
        wanted = {held.id: held for held in self.market.wanted()}
        # One that was stopped and resumed between two looks has been idle since its host booted: it boots again.
        idle = {ref: held.idle_s for ref, held in wanted.items()}
        for ref in [ref for ref, host in hosts.live.items() if host.held.idle_s != idle.get(ref)]:
            await hosts.kill(ref)
        for ref in self.market.ended():
            await hosts.kill(ref)
            self.market.forget(ref)
        for ref, held in wanted.items():
            if ref not in hosts.live and held.port is None:
                hosts.start(held)
        for host in hosts.live.values():
            host.link.break_now()
            host.link.freeze_or_thaw()


def run_forever(
    *,
    port: int,
    state_dir: Path,
    faults: Sequence[Rule] = (),
    balance: Usd = DEPOSIT,
    furnishings: Sequence[tuple[str, Furnishing]] = (),
    on_ready: Callable[[Sandbox], None] = lambda _: None,
) -> None:
    """Serve until SIGINT or SIGTERM, then destroy everything. Must be called in the main thread.

    ``on_ready`` is called once requests are answered.

    Raises:
        UsageError: as ``Sandbox.start``, or there is no such machine to furnish.
    """
    done = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: done.set())
    sandbox = Sandbox(port=port, state_dir=state_dir, balance=balance)
    for rule in faults:
        sandbox.faults.set(rule.fault, times=rule.times, p=rule.p, value=rule.value, on=rule.on)
    for machine, furnishing in furnishings:
        try:
            sandbox.market.furnish(machine, furnishing)
        except ValueError as error:
            raise UsageError(str(error)) from error
    with sandbox:
        on_ready(sandbox)
        while not done.wait(3600):
            pass
