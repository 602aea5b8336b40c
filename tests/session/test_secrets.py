"""No key anywhere: every output, log, file, command line and environment of a whole run is searched for all of them."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from tests.session.world import Cli, make_job, reachable, wait_for
from tests.stub.control import StubEngine

from gpurent_sandbox.address import SandboxAddress
from gpurent_sandbox.faults import Fault
from gpurent_sandbox.runpod import RUNPOD
from gpurent_sandbox.server import Sandbox
from gpurent_sandbox.vast import VAST

SERVICES: dict[str, Callable[[SandboxAddress], dict[str, str]]] = {
    "runpod": RUNPOD.env,
    "vastai": VAST.env,
}


@dataclass
class Watcher:
    """Notes, again and again, what every process of this computer shows of itself."""

    hosts: Path
    lines: set[bytes] = field(default_factory=set)
    environments: set[bytes] = field(default_factory=set)
    over: threading.Event = field(default_factory=threading.Event)

    def watch(self) -> None:
        """An environment is that of a command line, and read with it: five looks a second leave time for the run."""
        seen: set[tuple[str, bytes]] = set()
        root = b"GPURENT_ROOT=" + os.fsencode(self.hosts)
        while not self.over.wait(0.2):
            for process in filter(str.isdigit, os.listdir("/proc")):  # noqa: PTH208
                with suppress(OSError):  # it ended, or is none of ours
                    line = Path("/proc", process, "cmdline").read_bytes()
                    if (process, line) in seen:
                        continue
                    environ = Path("/proc", process, "environ").read_bytes()
                    seen.add((process, line))
                    self.lines.add(line)
                    if any(one.startswith(root) for one in environ.split(b"\0")):
                        self.environments.add(environ)


@pytest.fixture(params=SERVICES)
def user(tmp_path: Path, stub: StubEngine, request: pytest.FixtureRequest) -> Iterator[Cli]:
    state_dir = tmp_path / "sandbox"
    machines = reachable(7)
    with Sandbox(
        boot_s=0.2, seed=7, keep_hosts=True, state_dir=state_dir, engine=stub.command, machines=machines
    ) as sandbox:
        yield Cli(tmp_path / "user", sandbox, SERVICES[request.param])


@pytest.fixture
def watched(user: Cli) -> Iterator[tuple[Cli, Watcher]]:
    watcher = Watcher(user.sandbox.state_dir / "hosts")
    thread = threading.Thread(target=watcher.watch)
    thread.start()
    try:
        yield replace(user, afresh=True), watcher
    finally:
        watcher.over.set()
        thread.join()


def held_by(folder: Path, secrets: dict[str, str], allowed: Callable[[Path, str], bool]) -> list[tuple[str, str]]:
    """Files that hold a secret, and which."""
    files = [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    assert files
    return [
        (str(path), name) for path in files for name, secret in secrets.items()
        if secret.encode() in path.read_bytes() and not allowed(path, name)
    ]  # fmt: skip


def test_no_secret_is_anywhere_but_where_it_belongs(watched: tuple[Cli, Watcher]) -> None:
    """Account key, control key and instance key: not in outputs, ledger, logs, command lines, nor on the machine.

    A machine's own key is in its own PID 1's environment and nowhere else; its SSH keys are in our key folder (0600)
    and, for the half that it needs, on it.
    """
    cli, watcher = watched
    make_job(cli.folder)
    cli.sandbox.faults.set(Fault.HTTP_500, times=2)
    outputs = []
    outputs.append(cli.run("doctor").stdout)
    client = cli.begin()
    state = cli.folder / "state"
    keys = {path: path.read_bytes() for path in state.rglob("id_ed25519") if path.is_file()}
    assert keys and all(path.stat().st_mode & 0o077 == 0 for path in keys)
    outputs.append(client.communicate(timeout=240)[0])
    outputs.append(cli.run("logs").stdout)
    (held,) = [one for api in ("runpod", "vast") for one in cli.sandbox.market.history(api)]
    wait_for(lambda: len(watcher.environments) > 0, "a look at the machine's processes", 10)
    secrets = {"account": cli.sandbox.account_key, "control": cli.sandbox.control_key, "instance": held.key}
    assert [name for name, secret in secrets.items() for text in outputs if secret in text] == []
    assert [name for name, secret in secrets.items() for line in watcher.lines if secret.encode() in line] == []
    ours = {"account": secrets["account"], "control": secrets["control"]}
    assert [name for name, secret in ours.items() for text in watcher.environments if secret.encode() in text] == []
    assert held_by(cli.folder, secrets, lambda _path, _name: False) == []
    first = Path("proc/1/environ")
    hosts = watcher.hosts
    assert held_by(hosts, secrets, lambda path, name: name == "instance" and path.match(str(first))) == []
    private = next(iter(keys.values())).splitlines()[3]  # the first lines are the same in all such files
    assert not [path for path in hosts.rglob("*") if path.is_file() and private in path.read_bytes()]
    # paths hold the user's name
    orders = [path for path in hosts.rglob("job.json") if "/root/" in str(path)]
    assert orders and all(str(cli.folder) not in path.read_text(encoding="utf-8") for path in orders)
    # the machine is gone for good, and its keys with it
    assert not [path for path in state.rglob("*") if path.is_file() and private in path.read_bytes()]
    assert not list(state.rglob("*_ed25519*"))


def test_a_failure_shows_no_secret_either(user: Cli) -> None:
    """A broken answer and an API that was switched off end in messages without a key."""
    cli = user
    make_job(cli.folder)
    shown = ""
    for fault in (Fault.GARBAGE_REPLY, Fault.HTTP_410):
        cli.sandbox.faults.set(fault, times=3)
        for arguments in (("train", "--budget", "1", "--yes", "--dry-run"), ("doctor",)):
            ended = cli.run(*arguments)
            shown += ended.stdout + ended.stderr
        cli.sandbox.faults.clear()
    assert shown and cli.sandbox.account_key not in shown
