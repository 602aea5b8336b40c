"""One rental from quote to receipt, through the real command line, over real HTTP and SSH, with the real engine."""

from __future__ import annotations

import hashlib
import json
import signal

import pytest

from gpurent import Broker, Job, Usd
from gpurent.budget.events import Kind
from gpurent.clock import SystemClock
from gpurent.errors import BudgetReached, HostError, InDoubt, JobFailed, NoOffer
from gpurent.jobs.progress import Progress, Spending
from gpurent.jobs.rental import Patience
from gpurent.sandbox.faults import Fault
from gpurent.sandbox.server import Sandbox
from tests.session.world import Cli, kill, make_job, wait_for

QUICK = Patience(boot_s=4, poll_s=0.1, connect_s=2, search_s=3, destroy_s=30, confirm_every_s=0.1)


@pytest.fixture
def broker(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> Broker:
    for name, value in cli.sandbox.env().items():
        monkeypatch.setenv(name, value)
    return Broker(home=cli.folder / "state", patience=QUICK)


def test_train_brings_verified_files_home_and_leaves_nothing_running(cli: Cli) -> None:
    """With nothing but a budget, train finds configuration and dataset in the working folder and does all the rest."""
    make_job(cli.folder)
    ended = cli.run("train", "--budget", "1", "--yes", "--json")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    result = json.loads(ended.stdout[ended.stdout.index("\n{\n") :])
    (artefact,) = result["receipt"]["artefacts"]
    data = (cli.folder / "output" / "swatch.safetensors").read_bytes()
    assert artefact["sha256"] == hashlib.sha256(data).hexdigest()
    assert result["receipt"]["settled"] and 0 < result["receipt"]["total_micros"] < 1_000_000
    assert cli.sandbox.truth() == []
    assert not any((cli.folder / "output").glob("*.part"))


def test_the_ledger_knows_every_step_before_it_is_taken(cli: Cli) -> None:
    """Intent precedes create, and gone follows a destroy that was accepted and absence in several listings."""
    make_job(cli.folder)
    assert cli.run("train", "--budget", "1", "--yes").returncode == 0
    kinds = [event.kind for event in cli.events()]
    order = [Kind.RUN_OPENED, Kind.INTENT, Kind.CREATED, Kind.REACHABLE, Kind.JOB_STARTED, Kind.CHECKPOINT_HOME,
             Kind.JOB_DONE, Kind.DESTROY_SENT, Kind.DESTROY_ACCEPTED, Kind.SEEN_ABSENT, Kind.GONE, Kind.RUN_CLOSED]  # fmt: skip
    assert [kinds.index(kind) for kind in order] == sorted(kinds.index(kind) for kind in order)
    assert kinds.count(Kind.SEEN_ABSENT) >= 3


def test_no_account_key_reaches_the_host_or_the_logs(cli: Cli) -> None:
    """Neither the start-up script nor anything in the run folder holds the account key."""
    make_job(cli.folder)
    ended = cli.run("train", "--budget", "1", "--yes")
    key = cli.sandbox.account_key
    assert key not in ended.stdout + ended.stderr
    for path in (cli.folder / "state").rglob("*"):
        assert not path.is_file() or key.encode() not in path.read_bytes(), path
    journal = (cli.sandbox.state_dir / "journal.jsonl").read_text(encoding="utf-8")
    assert "gpurent-" in journal and key not in journal


@pytest.mark.parametrize("moment", [Kind.INTENT, Kind.CREATED, Kind.JOB_STARTED, Kind.PROGRESS, Kind.DESTROY_SENT])
def test_kill_9_is_found_by_status_and_mended_by_reap(cli: Cli, moment: Kind) -> None:
    """Wherever the client dies, status tells the truth, reap destroys, and nothing runs."""
    make_job(cli.folder, steps=400 if moment is Kind.PROGRESS else 3)
    client = cli.start("train", "--budget", "1", "--yes")
    wait_for(lambda: any(event.kind is moment for event in cli.events()), f"{moment}")
    kill(client)
    status = cli.run("status", "--json")
    shown = json.loads(status.stdout)
    if cli.sandbox.truth():
        assert status.returncode == 5
        assert shown["in_doubt"] and not shown["runs"][0]["client_alive"]
    reaped = cli.run("reap")
    assert cli.sandbox.truth() == [], reaped.stdout + reaped.stderr
    if moment is not Kind.INTENT:  # an unanswered create is watched for ten minutes
        assert reaped.returncode == 0, reaped.stdout + reaped.stderr
        assert cli.run("status").returncode == 0


def test_attach_goes_on_where_a_killed_client_left_off(cli: Cli) -> None:
    """Training outlives its client; attach collects the result, destroys, and the run ends as done."""
    make_job(cli.folder, steps=60)
    client = cli.start("train", "--budget", "1", "--yes")
    wait_for(lambda: any(event.kind is Kind.PROGRESS for event in cli.events()), "training")
    kill(client)
    attached = cli.run("attach")
    assert attached.returncode == 0, attached.stdout + attached.stderr
    assert (cli.folder / "output" / "swatch.safetensors").is_file()
    assert cli.sandbox.truth() == []


def test_one_interrupt_saves_collects_and_destroys(cli: Cli) -> None:
    """Ctrl-C loses nothing that was learnt: a checkpoint comes home before the rental ends; exit 130."""
    make_job(cli.folder, steps=4000)
    client = cli.start("train", "--budget", "1", "--yes")
    wait_for(lambda: any(event.kind is Kind.PROGRESS for event in cli.events()), "training")
    client.send_signal(signal.SIGINT)
    out, _ = client.communicate(timeout=120)
    assert client.returncode == 130, out
    assert list((cli.folder / "output").glob("swatch-step*.safetensors"))
    assert cli.sandbox.truth() == []


def test_stop_from_another_terminal_ends_a_run_in_order(cli: Cli) -> None:
    """gpurent stop tells the live client, which saves, collects and destroys."""
    make_job(cli.folder, steps=4000)
    client = cli.start("train", "--budget", "1", "--yes")
    wait_for(lambda: any(event.kind is Kind.PROGRESS for event in cli.events()), "training")
    assert cli.run("stop").returncode == 0
    client.communicate(timeout=120)
    assert list((cli.folder / "output").glob("swatch-step*.safetensors"))
    assert cli.sandbox.truth() == []


def test_logs_print_what_the_engine_said(cli: Cli) -> None:
    """After the run its events are still there, from hello to done."""
    make_job(cli.folder)
    cli.run("train", "--budget", "1", "--yes")
    kinds = [json.loads(line)["event"] for line in cli.run("logs").stdout.splitlines()]
    assert kinds[0] == "hello" and kinds[-1] == "done" and "step" in kinds
    assert json.loads(cli.run("receipt", "--json").stdout)["outcome"] == "done"


def test_an_offer_that_is_gone_is_followed_by_the_next(cli: Cli, broker: Broker) -> None:
    """A machine on which SSH never answers is destroyed, and the next offer does the job within the same budget."""
    cli.sandbox.faults.set(Fault.NO_SSHD, times=1)
    with broker:
        trained = broker.train(Job.from_config(make_job(cli.folder)), budget=Usd.parse("1"))
    assert len(trained.receipt.lines) == 2 and trained.receipt.lines[0].failed
    assert trained.receipt.total <= Usd.parse("1")
    assert cli.sandbox.truth() == []


def test_a_lost_reply_to_create_is_found_by_its_tag(cli: Cli, broker: Broker) -> None:
    """The instance that create made although its reply was lost is adopted, used and destroyed; there is no second."""
    cli.sandbox.faults.set(Fault.CREATE_REPLY_LOST, times=1)
    with broker:
        trained = broker.train(Job.from_config(make_job(cli.folder)), budget=Usd.parse("1"))
    assert len(trained.receipt.lines) == 1
    assert any(event.kind is Kind.ADOPTED for event in cli.events())
    assert cli.sandbox.truth() == []


def test_a_machine_dearer_than_its_offer_is_given_back(cli: Cli, broker: Broker) -> None:
    """The price is compared after create; what costs more than agreed is destroyed before anything is uploaded."""
    cli.sandbox.faults.set(Fault.WRONG_PRICE, times=1)
    with broker:
        trained = broker.train(Job.from_config(make_job(cli.folder)), budget=Usd.parse("1"))
    assert len(trained.receipt.lines) == 2
    assert cli.sandbox.truth() == []


def test_training_outlives_a_cut_connection(cli: Cli, broker: Broker) -> None:
    """When every SSH connection is cut in mid-training, the session reconnects and loses no event."""
    seen: list[int] = []

    def tell(event: Progress) -> None:
        step = getattr(event, "step", None)
        if isinstance(step, int):
            if not seen:
                cli.sandbox.faults.set(Fault.DROP_SSH, times=1)
            seen.append(step)

    with broker:
        trained = broker.train(Job.from_config(make_job(cli.folder, steps=80)), budget=Usd.parse("1"), tell=tell)
    assert seen == sorted(set(seen)) and seen[-1] == 80
    assert [path.name for path in trained.files] == ["swatch.safetensors"]


def test_the_soft_deadline_brings_a_checkpoint_home(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """When time for the budget is up, training stops by itself, its state comes home, and nothing runs."""
    for name, value in cli.sandbox.env().items():
        monkeypatch.setenv(name, value)
    (cli.folder / "gpurent.toml").write_text("[budget]\nmax_hours = 0.03\n", encoding="utf-8")
    monkeypatch.chdir(cli.folder)
    with Broker(home=cli.folder / "state", patience=QUICK) as broker:
        job = Job.from_config(make_job(cli.folder, steps=100_000))
        stopped = None
        try:
            stopped = broker.train(job, budget=Usd.parse("50"))
        except NoOffer as error:
            assert error.enough is not None
            stopped = broker.train(job, budget=Usd(error.enough))
        except BudgetReached:
            pytest.fail("the checkpoint was lost")
    assert stopped.stopped and stopped.receipt.outcome == "budget"
    assert list((cli.folder / "output").glob("swatch-step*.safetensors"))
    assert cli.sandbox.truth() == []


def test_the_money_spent_is_always_told_and_never_falls(cli: Cli, broker: Broker) -> None:
    """Spending is reported about once a second and grows."""
    amounts: list[Usd] = []
    with broker:
        broker.train(
            Job.from_config(make_job(cli.folder, steps=40)), budget=Usd.parse("1"),
            tell=lambda event: amounts.append(event.spent) if isinstance(event, Spending) else None,
        )  # fmt: skip
    assert len(amounts) > 3 and amounts == sorted(amounts)


def test_an_engine_that_fails_names_the_cause_and_the_rental_is_gone(cli: Cli, broker: Broker) -> None:
    """A learning rate that diverges ends as JobFailed with the engine's code; log and events are kept."""
    job = Job.from_config(
        make_job(cli.folder, steps=300, extra="unet_lr = 1e18\ntext_encoder_lr = 1e18\nmax_grad_norm = 0\n")
    )
    with broker, pytest.raises(JobFailed) as caught:
        broker.train(job, budget=Usd.parse("1"))
    assert caught.value.code == "nan"
    assert list((cli.folder / "state").rglob("engine.log"))
    assert cli.sandbox.truth() == []


def test_a_destroy_that_is_ignored_is_asked_for_again(cli: Cli, broker: Broker) -> None:
    """An accepted destroy proves nothing: it is repeated until the machine is absent."""
    cli.sandbox.faults.set(Fault.DESTROY_IGNORED, times=2)
    with broker:
        broker.train(Job.from_config(make_job(cli.folder)), budget=Usd.parse("1"))
    assert cli.sandbox.truth() == []


def test_a_rental_that_cannot_be_confirmed_gone_is_in_doubt(cli: Cli, broker: Broker) -> None:
    """When the service never lets go, the error says what may run, and a later reap ends it."""
    cli.sandbox.faults.set(Fault.DESTROY_IGNORED, times=100_000)
    broker._patience = Patience(boot_s=4, poll_s=0.1, connect_s=2, search_s=1, destroy_s=2, confirm_every_s=0.2)
    with broker:
        with pytest.raises(InDoubt) as caught:
            broker.train(Job.from_config(make_job(cli.folder)), budget=Usd.parse("1"))
        assert caught.value.refs
        cli.sandbox.faults.clear(Fault.DESTROY_IGNORED)
        broker.reap(every_s=0.1)
    assert cli.sandbox.truth() == []


def test_a_host_that_vanishes_in_training_is_reported_and_settled(cli: Cli, broker: Broker) -> None:
    """When the machine is simply gone, the run fails with a host error and the ledger is closed."""
    fired: list[int] = []

    def tell(event: Progress) -> None:
        if getattr(event, "step", None) and not fired:
            fired.append(1)
            for alive in cli.sandbox.truth():
                cli.sandbox.market.destroy(alive.ref)

    with broker, pytest.raises((HostError, JobFailed)):
        broker._connector = __import__("gpurent_remote").SshConnector(SystemClock(), patience_s=1.0)
        broker.train(Job.from_config(make_job(cli.folder, steps=4000)), budget=Usd.parse("1"), tell=tell)
    assert cli.sandbox.truth() == []
    assert not broker.ledger.open_rentals()


def test_sandbox_is_the_only_market(sandbox: Sandbox) -> None:
    """The back door starts empty: what later tests find there was left by what they ran."""
    assert sandbox.truth() == []
