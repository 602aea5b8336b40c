"""A machine is looked for in the account that rented it: another account's listing says nothing about it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from threading import Event

import pytest
from tests.session.world import Cli

from gpurent import Broker
from gpurent.budget.events import Kind
from gpurent.budget.reaper import Leave
from gpurent.budget.state import Rental
from gpurent.clock import SystemClock
from gpurent.errors import UsageError
from gpurent.jobs.accounts import Accounts
from gpurent.jobs.progress import Notice, Progress
from gpurent.model import Launch, Need
from gpurent.money import Usd
from gpurent.registry import Opened
from gpurent.settings import Settings
from gpurent.spi import Facts
from gpurent_sandbox.adapter.provider import SandboxProvider

Open = Callable[[str], Broker]


@pytest.fixture
def opened(cli: Cli) -> Iterator[Open]:
    """Brokers of one ledger, each with a key of its own."""
    made: list[Broker] = []

    def with_key(key: str) -> Broker:
        provider = SandboxProvider(cli.sandbox.url, key, SystemClock())
        facts = Facts(play_money=True)
        made.append(
            Broker(settings=Settings(), home=cli.home, providers={"sandbox": Opened("sandbox", provider, facts)})
        )
        return made[-1]

    yield with_key
    for broker in made:
        broker.close()


def abandoned(broker: Broker, account: str | None) -> Rental:
    """A machine whose client died while it was training."""
    provider = broker.providers["sandbox"]
    now, offer = broker.clock.now(), provider.offers(Need())[0]
    run_id = broker.ledger.open_run("cat", Usd.parse("1"), output_dir=broker.home, config={})
    tag = f"gpurent-{run_id}-1"
    broker.ledger.append(
        run_id, Kind.INTENT, tag=tag, provider="sandbox", offer=offer, price=offer.price, disk_gb=10,
        hourly_micros=offer.price.hourly(10).micros, reserved_micros=0, soft_deadline=now + 3600,
        hard_deadline=now + 3600, account=account,
    )  # fmt: skip
    made = provider.create(offer, Launch(tag, "", 10, "ssh-ed25519 AAAA x", ":"))
    broker.ledger.append(run_id, Kind.CREATED, tag=tag, ref=made.ref)
    return broker.ledger.run(run_id).rentals[0]


def quickly(broker: Broker, *, same_account: bool = False, patience_s: float = 1.0) -> list[object]:
    return list(broker.reap(patience_s=patience_s, every_s=0.05, same_account=same_account))


def test_another_accounts_key_closes_nothing_and_is_told_which_is_wanted(cli: Cli, opened: Open) -> None:
    """The machine lives, the ledger keeps it open, and the message names the account and how to give its key."""
    owner, stranger = opened(cli.sandbox.account_key), opened(cli.sandbox.other_account_key)
    rental = abandoned(owner, owner.accounts.of("sandbox").id)
    (left,) = quickly(stranger)
    assert isinstance(left, Leave)
    assert "account acc-1 of sandbox rented it, and the key in use opens acc-2" in left.reason
    assert "gpurent login sandbox" in left.reason
    assert [one.ref for one in cli.sandbox.truth()] == [rental.ref] and owner.ledger.open_rentals()
    assert not [one for one in cli.sandbox.journal.entries() if one.method == "DELETE"]
    owner.ledger.append(rental.run_id, Kind.DESTROY_SENT, tag=rental.tag)
    owner.ledger.append(rental.run_id, Kind.DESTROY_ACCEPTED, tag=rental.tag)
    assert [type(one) for one in quickly(stranger, same_account=True)] == [Leave]
    quickly(owner, patience_s=60)
    assert cli.sandbox.truth() == [] and not owner.ledger.open_rentals()


def test_another_accounts_key_attaches_to_nothing(cli: Cli, opened: Open) -> None:
    """With it the machine would look gone, and its results would be given up."""
    owner, stranger = opened(cli.sandbox.account_key), opened(cli.sandbox.other_account_key)
    rental = abandoned(owner, "acc-1")
    endpoint = {"host": "127.0.0.1", "port": 1}
    owner.ledger.append(rental.run_id, Kind.REACHABLE, tag=rental.tag, endpoint=endpoint)
    owner.ledger.append(rental.run_id, Kind.JOB_STARTED, tag=rental.tag, job_id=rental.tag)
    with pytest.raises(UsageError, match="opens acc-2"):
        stranger.attach(rental.run_id)
    assert [one.ref for one in cli.sandbox.truth()] == [rental.ref]


def test_a_rental_from_before_accounts_were_recorded_is_judged_as_it_was(cli: Cli, opened: Open) -> None:
    """An old ledger names no account: any listing counts."""
    owner, stranger = opened(cli.sandbox.account_key), opened(cli.sandbox.other_account_key)
    abandoned(owner, None)
    stranger.reap(patience_s=3.0, every_s=0.05)
    quickly(owner, patience_s=60)
    assert cli.sandbox.truth() == []


class Slow(SandboxProvider):
    """A service that answers everything but the question for its account."""

    asked = 0
    answer = Event()

    def account(self) -> str:
        Slow.asked += 1
        self.answer.wait(10)
        return super().account()


def test_an_account_that_is_not_told_in_time_is_asked_for_once(cli: Cli) -> None:
    """An order to destroy may wait for it, but not at every look."""
    clock = SystemClock()
    with closing(Slow(cli.sandbox.url, cli.sandbox.account_key, clock)) as provider:
        accounts = Accounts({"sandbox": provider}, clock)
        account = accounts.afresh("sandbox", within=0.1)
        assert account.id == "" and account.why.startswith("sandbox does not tell which account the key opens")
        assert accounts.of("sandbox") == account and Slow.asked == 1
        Slow.answer.set()
        assert accounts.afresh("sandbox").id and accounts.of("sandbox").id and Slow.asked == 2


class Mute(SandboxProvider):
    """An adapter that cannot tell its account."""

    account = None  # type: ignore[assignment]


def test_an_adapter_that_cannot_tell_its_account_says_so_and_needs_the_users_word(
    cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A later client destroys the machine, but holds it for gone only when the user vouches for the key."""
    said: list[str] = []

    def tell(event: Progress) -> None:
        if isinstance(event, Notice):
            said.append(event.message)

    provider = Mute(cli.sandbox.url, cli.sandbox.account_key, SystemClock())
    with closing(
        Broker(settings=Settings(), home=cli.home, providers={"sandbox": Opened("sandbox", provider, Facts())})
    ) as broker:
        account = broker.accounts.of("sandbox")
        assert (account.id, account.why) == ("", "sandbox does not tell which account a key opens")
        rental = abandoned(broker, "")
        (left,) = broker.reap(patience_s=3.0, every_s=0.05, tell=tell)
        assert isinstance(left, Leave) and "gpurent reap --same-account" in left.reason
        assert cli.sandbox.truth() == [] and broker.ledger.run(rental.run_id).open_rentals
        broker.reap(patience_s=60, every_s=0.05, same_account=True)
        assert not broker.ledger.run(rental.run_id).open_rentals
