"""What happens to a run when the trouble is on this computer: its disk, its clock, its terminal, its reader."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from tests.session.world import Cli, make_job, wait_for
from tests.stub.control import StubEngine
from tests.stub.engine import Orders
from tests.thorough import often

from gpurent import Broker, Job, Usd
from gpurent.budget.events import Kind
from gpurent.clock import SystemClock
from gpurent.errors import InDoubt
from gpurent.jobs.boot import Patience
from gpurent.jobs.options import RunOptions
from gpurent.jobs.progress import Notice, Progress, Trained
from gpurent_remote import SshConnector
from gpurent_remote.host import Waits
from gpurent_sandbox.faults import Fault

QUICK = Patience(boot_s=15, poll_s=0.1, connect_s=15, search_s=3, destroy_s=30, confirm_every_s=0.1)
FULL = "No space left on device"


class Disk:
    """A real file system that is nearly too small."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def ballast(self) -> Path:
        return self.folder / "ballast"

    def fill(self) -> None:
        """Not a byte more fits, a block of a file that is there already included."""
        with self.ballast.open("ab", buffering=0) as file:
            try:
                while True:
                    file.write(b"\0" * 4096)
            except OSError as error:
                assert error.strerror == FULL

    def free(self) -> None:
        self.ballast.unlink()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    if os.geteuid() != 0:
        pytest.skip("mounting a small disk takes root")
    folder = tmp_path / "small"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", folder], check=True)
    try:
        yield Disk(folder)
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.fixture
def market(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in cli.sandbox.env().items():
        monkeypatch.setenv(name, value)


class Listener:
    """Acts once at the first step of the training, and once at a notice; remembers what was said."""

    def __init__(self, at_step: Callable[[], None], text: str = "", at_text: Callable[[], None] | None = None) -> None:
        self.said: list[str] = []
        self._at_step: Callable[[], None] | None = at_step
        self._text, self._at_text = text, at_text

    def __call__(self, event: Progress) -> None:
        if isinstance(event, Trained) and self._at_step is not None:
            act, self._at_step = self._at_step, None
            act()
        if isinstance(event, Notice):
            self.said.append(event.message)
            if self._at_text is not None and self._text in event.message:
                act, self._at_text = self._at_text, None
                act()


@pytest.mark.usefixtures("market")
def test_a_full_disk_for_results_is_waited_for(cli: Cli, disk: Disk) -> None:
    """The machine keeps the file; once there is room it comes home, whole, and the run ends as any other."""
    job = Job.from_config(make_job(cli.folder), output=disk.folder / "output")
    listener = Listener(disk.fill, FULL, disk.free)
    with Broker(home=cli.folder / "state", patience=QUICK) as broker:
        trained = broker.train(job, budget=Usd.parse("1"), tell=listener)
    assert [path.name for path in trained.files] == ["swatch.safetensors"] and trained.files[0].is_file()
    assert trained.receipt.outcome == "done" and not disk.ballast.exists()
    assert cli.sandbox.truth() == []


@pytest.mark.usefixtures("market")
def test_a_full_disk_for_the_ledger_costs_no_training(cli: Cli, disk: Disk) -> None:
    """Progress goes unrecorded, and is told of once; what has to be recorded is waited for."""
    listener = Listener(disk.fill, "It is tried again", disk.free)
    with Broker(home=disk.folder / "state", patience=QUICK) as broker:
        trained = broker.train(Job.from_config(make_job(cli.folder, steps=40)), budget=Usd.parse("1"), tell=listener)
        run = broker.ledger.run(trained.run_id)
    assert sum("Progress is not recorded" in one for one in listener.said) == 1
    assert trained.receipt.outcome == "done" and not run.anomalies and len(run.artefacts) == 1
    assert cli.sandbox.truth() == []


@pytest.mark.usefixtures("market")
def test_a_ledger_that_cannot_be_written_stops_no_destroy(cli: Cli, disk: Disk) -> None:
    """The machine is ended all the same, the error says that nobody recorded it, and a later reap closes the books."""
    with Broker(home=disk.folder / "state", patience=replace(QUICK, destroy_s=3)) as broker:
        with pytest.raises(InDoubt):
            job = Job.from_config(make_job(cli.folder, steps=40))
            broker.train(job, budget=Usd.parse("1"), options=RunOptions(hold_minutes=0.02), tell=Listener(disk.fill))
        assert cli.sandbox.truth() == []
        assert broker.ledger.open_rentals()
        disk.free()
        broker.reap(every_s=0.1)
        assert not broker.ledger.open_rentals()


@pytest.mark.parametrize("number", often([signal.SIGINT, signal.SIGTERM, signal.SIGHUP], [signal.SIGTERM]))
def test_a_signal_saves_collects_and_destroys(cli: Cli, number: signal.Signals) -> None:
    """Ctrl-C, a shutdown, a lost login: nothing that was learnt is lost; exit 130."""
    make_job(cli.folder, steps=4000)
    client = cli.begin()
    client.send_signal(number)
    printed, _ = client.communicate(timeout=120)
    assert client.returncode == 130, printed
    assert "Stopping: saving, collecting, destroying" in printed
    assert list((cli.folder / "output").glob("swatch-step*.safetensors"))
    assert cli.sandbox.truth() == []


def test_a_second_signal_destroys_at_once(cli: Cli) -> None:
    """A user in a hurry is obeyed: nothing is collected, nothing runs."""
    make_job(cli.folder, steps=4000)
    client = cli.begin()
    client.send_signal(signal.SIGTERM)
    client.send_signal(signal.SIGINT)
    printed, _ = client.communicate(timeout=60)
    assert client.returncode == 130, printed
    assert cli.sandbox.truth() == []


@pytest.mark.thorough(shown_by="tests/session/test_own_troubles.py::test_a_signal_saves_collects_and_destroys")
def test_a_terminal_that_is_closed_saves_collects_and_destroys(cli: Cli) -> None:
    """The window is shut: the kernel hangs up on the command, and nothing can be written any more."""
    make_job(cli.folder, steps=4000)
    ours, theirs = pty.openpty()
    client = subprocess.Popen(
        cli.argv("train", "--budget", "1", "--yes"), cwd=cli.folder, env={**cli.env, "TERM": "xterm"},
        stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True,
        preexec_fn=lambda: os.close(os.open(os.ttyname(theirs), os.O_RDWR)),
    )  # fmt: skip
    os.close(theirs)
    os.set_blocking(ours, False)

    def looked() -> bool:
        try:
            while os.read(ours, 65536):
                pass
        except BlockingIOError:
            pass
        return any(event.kind is Kind.PROGRESS for event in cli.events())

    wait_for(looked, "training")
    os.close(ours)
    assert client.wait(timeout=120) == 130
    assert list((cli.folder / "output").glob("swatch-step*.safetensors"))
    assert cli.sandbox.truth() == []


def test_a_reader_that_leaves_ends_the_run_in_order(cli: Cli) -> None:
    """``gpurent train --json | head`` is somebody who lost interest, not a reason to throw a training away."""
    make_job(cli.folder, steps=4000)
    client = cli.start("train", "--budget", "1", "--yes", "--json")
    cli.wait(Kind.PROGRESS)
    assert client.stdout is not None
    client.stdout.close()
    assert client.wait(timeout=120) == 130
    assert list((cli.folder / "output").glob("swatch-step*.safetensors"))
    assert cli.sandbox.truth() == []


@pytest.mark.thorough(shown_by="tests/session/test_own_troubles.py::test_a_signal_saves_collects_and_destroys")
def test_what_nohup_protects_goes_on(cli: Cli) -> None:
    """A hang-up that the user had ignored before the command began stays ignored."""
    make_job(cli.folder, steps=60)
    client = subprocess.Popen(
        ["nohup", *cli.argv("train", "--budget", "1", "--yes")], cwd=cli.folder, env=cli.env,
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    cli.wait(Kind.PROGRESS)
    client.send_signal(signal.SIGHUP)
    assert client.wait(timeout=120) == 0
    assert (cli.folder / "output" / "swatch.safetensors").is_file()
    assert cli.sandbox.truth() == []


def test_a_clock_that_is_set_back_lengthens_no_deadline() -> None:
    """What passed has passed, whatever the wall says; a clock that is set forward is believed."""
    wall, elapsed = [1_800_000_000.0], [50.0]
    clock = SystemClock(lambda: wall[0], lambda: elapsed[0])
    began = clock.now()
    wall[0], elapsed[0] = began - 7200, elapsed[0] + 60
    assert clock.now() == began + 60
    wall[0] = began + 7200
    assert clock.now() == began + 7200


def test_sleep_of_the_computer_is_time_that_passed() -> None:
    """Without a jump, the clock is the wall's."""
    wall, elapsed = [1_800_000_000.0], [50.0]
    clock = SystemClock(lambda: wall[0], lambda: elapsed[0])
    wall[0], elapsed[0] = wall[0] + 3600, elapsed[0] + 3600
    assert clock.now() == wall[0]


@pytest.mark.usefixtures("market")
def test_a_network_that_is_gone_is_waited_for(cli: Cli, stub: StubEngine) -> None:
    """Neither the machine nor its provider can be reached: training goes on there, and is followed again afterwards."""
    stub.order(Orders(step_s=0.1))
    faults = cli.sandbox.faults

    def cut() -> None:
        faults.set(Fault.DROP_SSH, times=1_000_000)
        faults.set(Fault.HTTP_RESET, p=1.0)

    def mend() -> None:
        faults.clear()

    listener = Listener(cut, "Lost the host", mend)
    with Broker(
        home=cli.folder / "state", patience=QUICK, connector=SshConnector(waits=Waits(patience_s=0.5))
    ) as broker:
        trained = broker.train(Job.from_config(make_job(cli.folder, steps=60)), budget=Usd.parse("1"), tell=listener)
    assert any("Lost the host" in one for one in listener.said)
    assert trained.receipt.outcome == "done" and trained.files[0].is_file()
    assert cli.sandbox.truth() == []


def test_a_laptop_that_sleeps_finds_its_result_when_it_wakes(cli: Cli) -> None:
    """The command stands still while training ends on the machine, which keeps what it made; then it goes on."""
    make_job(cli.folder, steps=60)
    client = cli.begin()
    client.send_signal(signal.SIGSTOP)
    out = cli.sandbox.state_dir / "hosts"
    wait_for(lambda: any(out.rglob("out/swatch.safetensors")), "the end of the training")
    client.send_signal(signal.SIGCONT)
    printed, _ = client.communicate(timeout=120)
    assert client.returncode == 0, printed
    assert (cli.folder / "output" / "swatch.safetensors").is_file()
    assert cli.sandbox.truth() == []


def test_a_third_signal_leaves_and_says_what_runs(cli: Cli) -> None:
    """A user who insists gets the prompt back: exit 5, the machine by name, and the command that ends it."""
    cli.sandbox.faults.set(Fault.DESTROY_IGNORED, times=1_000_000)
    make_job(cli.folder, steps=4000)
    client = cli.begin()
    assert client.stdout is not None
    printed = ""
    for heard in ("Stopping:", "Destroying at once", "gpurent reap"):
        client.send_signal(signal.SIGINT)
        while heard not in printed:
            line = client.stdout.readline()
            assert line, printed
            printed += line
    printed += client.stdout.read()
    client.wait(timeout=60)
    (held,) = cli.sandbox.truth()
    assert client.returncode == 5, printed
    assert held.ref in printed and "gpurent reap" in printed
    cli.sandbox.faults.clear()
    assert cli.run("reap").returncode == 0 and cli.sandbox.truth() == []
