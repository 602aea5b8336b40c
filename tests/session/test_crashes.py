"""The real client, killed by ``kill -9`` exactly at a line of the ledger; every kind of line has its turn."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from tests.session.world import Cli, kill, make_job, wait_for
from tests.stub.control import StubEngine
from tests.stub.engine import Orders
from tests.thorough import often
from tests.warm import client as warm

from gpurent.budget.events import Kind
from gpurent.budget.guard import PRICE_TOLERANCE_PERCENT
from gpurent.budget.ledger import Ledger
from gpurent.clock import SystemClock
from gpurent.dataset.job import Job
from gpurent.jobs.detached import guarding
from gpurent.model import Need, Offer, Price
from gpurent.money import ZERO, Usd, per_hour
from gpurent.plan.quote import make_quote
from gpurent.plan.timeline import DESTROY_S, predict
from gpurent_sandbox.catalogue import Machine
from gpurent_sandbox.faults import Fault, Rule


@dataclass(frozen=True)
class Death:
    """What makes a run write the line at which its client dies."""

    rule: Rule | None = None
    orders: Orders = field(default_factory=Orders)
    """To the engine."""
    steps: int = 4
    budget: str = ""
    """More keys of ``[budget]``."""
    home: bool = False
    """A checkpoint was finished before: it must be at home in the end."""
    listed: bool = True
    """What was rented is found by its tag; else only time can tell that nothing was."""


DEATHS: dict[Kind, Death] = {
    Kind.RUN_OPENED: Death(),
    Kind.INTENT: Death(listed=False),
    Kind.CREATED: Death(),
    Kind.CREATE_REFUSED: Death(Rule(Fault.OFFER_TAKEN), listed=False),
    Kind.CREATE_UNCLEAR: Death(Rule(Fault.CREATE_REPLY_LOST)),
    Kind.ADOPTED: Death(Rule(Fault.CREATE_REPLY_LOST)),
    Kind.REACHABLE: Death(),
    Kind.PREPARED: Death(),
    Kind.JOB_STARTED: Death(),
    Kind.PROGRESS: Death(),
    Kind.CHECKPOINT_HOME: Death(home=True),
    Kind.REPLANNED: Death(
        steps=20_000, budget='max_hours = 0.04\non_overrun = "shrink"', orders=Orders(step_s=0.01, says_s=1.0)
    ),
    Kind.JOB_DONE: Death(home=True),
    Kind.JOB_FAILED: Death(orders=Orders(fail_at=2)),
    Kind.DESTROY_SENT: Death(home=True),
    Kind.DESTROY_ACCEPTED: Death(home=True),
    Kind.DESTROY_FAILED: Death(Rule(Fault.HTTP_500, times=3, on="DELETE"), home=True),
    Kind.SEEN_ABSENT: Death(home=True),
    Kind.MACHINE_FAILED: Death(Rule(Fault.NO_INSTANCE_KEY)),
    Kind.CHARGED: Death(home=True),
    Kind.GONE: Death(home=True),
    Kind.RUN_CLOSED: Death(home=True),
}
DONE = (Kind.CREATED, Kind.CREATE_UNCLEAR, Kind.CHECKPOINT_HOME, Kind.DESTROY_ACCEPTED, Kind.GONE)
"""Lines that say what was done already: death in between is the moment that nobody has written down."""
USUAL = (
    (Kind.INTENT, "after"), (Kind.CREATED, "before"), (Kind.CREATE_UNCLEAR, "after"),
    (Kind.CHECKPOINT_HOME, "after"), (Kind.DESTROY_SENT, "after"),
)  # fmt: skip
"""One for each state that a death leaves behind; the simulation kills clients at every line. Death while it trains is
in ``test_commands``."""
NOT_BY_TRAIN = {
    Kind.STOP_REQUESTED: "written by `gpurent stop`, whose own death changes nothing for the client that obeys",
    Kind.METERED: "written by any process that looks at the traffic, ten seconds into a rental at the earliest",
    Kind.JOB_CLAIMED: "written by `gpurent batch`, whose clients the simulation kills",
    Kind.JOB_RELEASED: "as JOB_CLAIMED",
    Kind.JOB_ADDED: "written by sessions, see tests/sessions",
    Kind.IDLE: "as JOB_ADDED",
    Kind.IDLE_OVER: "as JOB_ADDED",
    Kind.NOTE: "for readers of the ledger",
}


def test_no_kind_of_line_is_forgotten() -> None:
    """A new one needs a death of its own, or a reason."""
    assert set(DEATHS) | set(NOT_BY_TRAIN) == set(Kind) and not set(DEATHS) & set(NOT_BY_TRAIN)


@pytest.mark.parametrize(
    ("kind", "when"), often([*((kind, "after") for kind in DEATHS), *((kind, "before") for kind in DONE)], USUAL)
)
def test_a_client_that_dies_at_a_line_leaves_nothing_running(cli: Cli, stub: StubEngine, kind: Kind, when: str) -> None:
    """Killed right before or right after the line is committed: reap ends what runs and brings home what was done."""
    death = DEATHS[kind]
    stub.order(death.orders)
    make_job(cli.folder, steps=death.steps)
    (cli.folder / "gpurent.toml").write_text(f"[budget]\n{death.budget}\n", encoding="utf-8")
    if death.rule is not None:
        cli.sandbox.faults.set(death.rule.fault, times=death.rule.times, on=death.rule.on)
    died = warm.run(
        ["gpurent", kind.value, when, "train", "--budget", "1", "--yes"], cwd=cli.folder, env=cli.env,
        main="tests.session.mortal:start", timeout=120,
    )  # fmt: skip
    assert died.returncode == -signal.SIGKILL, died.stdout + died.stderr
    cli.sandbox.faults.clear()
    reaped = cli.run("reap")
    assert cli.sandbox.truth() == [], reaped.stdout + reaped.stderr
    if death.listed:
        assert reaped.returncode == 0, reaped.stdout + reaped.stderr
        assert cli.run("status").returncode == 0
    if death.home:
        assert (cli.folder / "output" / "swatch.safetensors").is_file()
    with closing(Ledger.open(cli.home / "ledger.db", SystemClock())) as ledger:
        assert [odd for run in ledger.runs() for odd in run.anomalies] == []
    assert len(cli.sandbox.market.history("sandbox")) <= 1


def watched(cli: Cli) -> Cli:
    return replace(cli, watchdog="true")


def end_watchdog(home: Path) -> None:
    """kill -9, until none guards; one that has just begun does not say at once who it is."""

    def gone() -> bool:
        told = guarding(home)
        with suppress(ProcessLookupError):
            if told is not None and told.pid:
                os.kill(told.pid, signal.SIGKILL)
        return told is None

    wait_for(gone, "the end of the watchdog")


@pytest.mark.thorough(shown_by="tests/session/test_crashes.py::test_a_watchdog_needs_no_working_folder")
def test_a_watchdog_sees_a_dead_clients_training_to_its_end(cli: Cli) -> None:
    """The command and its terminal are gone; the files come home all the same, and the rental ends."""
    cli = watched(cli)
    make_job(cli.folder, steps=60)
    client = cli.start("train", "--budget", "1", "--yes")
    try:
        cli.wait(Kind.PROGRESS)
        assert '"running": true' in cli.run("watchdog", "status", "--json").stdout
        client.send_signal(signal.SIGKILL)  # first: one that hears the hang-up would still save and stop
        with suppress(ProcessLookupError):  # nothing is left of its group
            os.killpg(client.pid, signal.SIGHUP)
        client.communicate()
        cli.wait(Kind.RUN_CLOSED)
        assert (cli.folder / "output" / "swatch.safetensors").is_file()
        assert cli.sandbox.truth() == []
        assert cli.run("watchdog", "status").returncode == 0
    finally:
        end_watchdog(cli.folder / "state")


@pytest.mark.parametrize("how", often(["gone", "its gpurent.toml broken"], ["gone"]))
def test_a_watchdog_needs_no_working_folder(cli: Cli, tmp_path: Path, how: str) -> None:
    """Whatever happened to the folder in which the command was started: the files come home, the machine ends."""
    work = replace(watched(cli), folder=tmp_path / "work", state=tmp_path / "state")
    work.folder.mkdir()
    make_job(work.folder, steps=60)
    client = work.start("train", "--budget", "1", "--yes")
    try:
        work.wait(Kind.PROGRESS)
        kill(client)
        if how == "gone":
            shutil.rmtree(work.folder)
        else:
            (work.folder / "gpurent.toml").write_text("[budget", encoding="utf-8")
        work.wait(Kind.RUN_CLOSED)
        assert (work.folder / "output" / "swatch.safetensors").is_file()
        assert cli.sandbox.truth() == []
    finally:
        end_watchdog(work.home)


def test_a_watchdog_that_died_is_started_again_by_the_next_rental_that_lives(cli: Cli) -> None:
    """The client looks after its guard as the guard looks after the client."""
    cli = watched(cli)
    make_job(cli.folder, steps=4000)
    client = cli.start("train", "--budget", "1", "--yes")
    try:
        cli.wait(Kind.PROGRESS)
        first = guarding(cli.home)
        assert first is not None
        end_watchdog(cli.home)
        wait_for(lambda: (now := guarding(cli.home)) is not None and now.pid not in (0, first.pid), "another watchdog")
        client.send_signal(signal.SIGINT)
        client.communicate(timeout=120)
        assert cli.sandbox.truth() == []
    finally:
        kill(client)
        end_watchdog(cli.home)


def test_a_watchdog_without_the_key_is_started_again_with_it(cli: Cli) -> None:
    """A key that appeared since: the client has every key that it had, so nothing is lost."""
    cli = watched(cli)
    make_job(cli.folder)
    keyless = {name: value for name, value in cli.env.items() if not name.startswith("GPURENT_SANDBOX")}
    other = subprocess.Popen(cli.argv("watchdog", "run"), cwd=cli.folder, env=keyless, stdout=subprocess.DEVNULL)
    try:
        wait_for(lambda: (told := guarding(cli.home)) is not None and told.pid != 0, "a watchdog")
        ended = cli.run("train", "--budget", "1", "--yes")
        assert ended.returncode == 0, ended.stdout + ended.stderr
        assert "it is started again with it" in ended.stdout
        assert "it is ended by: this client, watchdog, dead-man switch." in ended.stdout
        assert (told := guarding(cli.home)) is not None and told.providers == ("sandbox",)
        assert other.wait(timeout=30) != 0
    finally:
        other.kill()
        other.wait()
        end_watchdog(cli.home)


def test_a_watchdog_with_a_key_that_the_client_lacks_is_left_alone(cli: Cli) -> None:
    """Replacing it would take that guard from another terminal's rentals; the command says what it does not guard."""
    cli = watched(cli)
    make_job(cli.folder)
    other_key = {"RUNPOD_API_KEY": "rpa_another", "RUNPOD_API_BASE_URL": "http://127.0.0.1:9"}
    env = {name: value for name, value in cli.env.items() if not name.startswith("GPURENT_SANDBOX")} | other_key
    other = subprocess.Popen(cli.argv("watchdog", "run"), cwd=cli.folder, env=env, stdout=subprocess.DEVNULL)
    try:
        wait_for(lambda: (told := guarding(cli.home)) is not None and told.pid != 0, "a watchdog")
        ended = cli.run("train", "--budget", "1", "--yes")
        assert ended.returncode == 0, ended.stdout + ended.stderr
        assert "started without a key for sandbox" in ended.stdout
        assert "it is ended by: this client, dead-man switch." in ended.stdout
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()


def test_there_is_one_watchdog_for_all_runs(cli: Cli) -> None:
    """A second one steps back at once."""
    cli = watched(cli)
    first = cli.start("watchdog", "run")
    try:
        wait_for(lambda: guarding(cli.folder / "state") is not None, "a watchdog")
        second = cli.run("watchdog", "run")
        assert second.returncode == 0 and "Another watchdog" in second.stderr + second.stdout
    finally:
        kill(first)
    assert guarding(cli.folder / "state") is None


HOURLY = Usd.parse("6")
LIFE_S = 55.0
"""From the creation to the hard deadline, as far as the budget says."""


def tight(cli: Cli, job: Job, life_s: float = LIFE_S, machines: int = 1) -> Usd:
    """Put machines on the market whose own quote, taken as the budget, pays for ``life_s``.

    A quote covers slow boots and installations, so that budgets are never tight: here a price of traffic that nearly
    all of it has to be kept back for makes them so. The line is slow, so that little is kept for others' traffic.
    """
    reserved = job.workload.upload_bytes * 2 + job.workload.base_download_bytes + 500_000_000
    kept = 100 + PRICE_TOLERANCE_PERCENT  # deadlines are computed from the highest price that is accepted
    spare = int(100 * predict(job.workload, OFFER).total_s.high - kept * (DESTROY_S.high + life_s))
    sent = job.workload.upload_bytes + job.workload.base_download_bytes
    per_gb = HOURLY.scaled(spare, 3600).scaled(1_000_000_000, kept * reserved - 100 * sent)
    price = Price(HOURLY, ZERO, per_gb, ZERO)
    for number in range(machines):
        cli.sandbox.market.add_machine(
            Machine(f"tight{number}", OFFER.gpu, OFFER.vram_mb, price, down_mbps=SLOW, boot_s=0.2)
        )
    quote = make_quote(job.workload, Need(gpus=(OFFER.gpu,)), [replace(OFFER, price=price)])
    (row,) = quote.rows
    kept_for_others = row.surge.scaled(kept, 100)
    return row.high.total + kept_for_others + Usd(9_999)  # the budget that is asked for is rounded up to the cent


SLOW = 10.0
OFFER = Offer(
    "sandbox", "tight0", "RTX 6000 Ada", 49152, Price(HOURLY, ZERO, ZERO, ZERO), down_mbps=SLOW, boot_s=0.2
)  # fmt: skip


def test_with_client_and_watchdog_dead_the_machine_ends_itself_in_time(
    cli: Cli, record_property: Callable[[str, object], None]
) -> None:
    """The real switch destroys it over HTTP by the hard deadline, which the budget alone sets; nothing over budget."""
    cli = watched(cli)
    budget = tight(cli, Job.from_config(make_job(cli.folder, steps=20_000)))
    client = cli.start("train", "--budget", str(budget.decimal()), "--gpu", OFFER.gpu, "--yes")
    try:
        cli.wait(Kind.JOB_STARTED)
    finally:
        kill(client)  # before its watchdog, which it would start again
        end_watchdog(cli.folder / "state")
    wait_for(lambda: cli.sandbox.truth() == [], "the end of the machine", LIFE_S + 60, every_s=0.5)
    (intent,) = [event.data for event in cli.events() if event.kind is Kind.INTENT]
    (held,) = cli.sandbox.market.history("sandbox")
    hard = intent["hard_deadline"]
    assert held.ended_at is not None and isinstance(hard, float)
    bill = cli.sandbox.market.charges(held.id)
    late_s, planned = held.ended_at - hard, per_hour(HOURLY, round((hard - held.created_at) * 1000))
    over = max(ZERO, bill.gpu + bill.disk - planned)
    record_property(
        "measured",
        f"the switch alone ended it {late_s:+.2f} s after the hard deadline ({hard - held.created_at:.1f} s after its "
        f"creation): {bill.gpu + bill.disk} for time, {over} over the planned {planned}; {bill.total} of {budget}",
    )
    assert 30 < hard - held.created_at < 2 * LIFE_S, "the budget was to set the deadline"
    assert late_s < 3 and over <= per_hour(HOURLY, 4000) and bill.total <= budget
