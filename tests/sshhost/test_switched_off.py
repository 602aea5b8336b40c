"""One machine that does not answer is not a trouble of the others, and what may be on it is never held for gone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.sshhost.machine import Machine

from gpurent import Broker
from gpurent.budget.events import Kind
from gpurent.budget.state import Rental
from gpurent.clock import SystemClock
from gpurent.errors import InDoubt
from gpurent.hosts import load_hosts, save_host
from gpurent.jobs.progress import Notice, Progress
from gpurent.jobs.teardown import Teardown
from gpurent.model import Launch, Need
from gpurent.money import ZERO, Usd
from gpurent.registry import Opened
from gpurent.settings import Settings
from gpurent.spi import Facts
from gpurent_providers.sshhost.provider import SshHostProvider

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f run"


class Owner:
    """Somebody with three machines and a ledger, who can switch machines off."""

    def __init__(self, listed: Path, home: Path) -> None:
        self.listed = listed
        self.provider = SshHostProvider(listed, SystemClock(), timeout=5)
        opened = {"ssh": Opened("ssh", self.provider, Facts(owned=True))}
        self.broker = Broker(settings=Settings(), home=home, providers=opened)
        self.said: list[str] = []

    def tell(self, event: Progress) -> None:
        if isinstance(event, Notice):
            self.said.append(event.message)

    def switch_off(self, name: str) -> None:
        """Nothing listens there any more."""
        save_host(self.listed, name, {"port": 1})

    def switch_on(self, name: str, machine: Machine) -> None:
        save_host(self.listed, name, {"port": machine.port})

    def use(self, name: str) -> Rental:
        """A run takes a machine, and its client dies."""
        ledger, now = self.broker.ledger, self.broker.clock.now()
        run_id = ledger.open_run("cat", Usd.parse("1"), output_dir=self.listed.parent, config={})
        tag = f"gpurent-{run_id}-1"
        (offer,) = [one for one in self.provider.offers(Need()) if one.id == name]
        ledger.append(
            run_id, Kind.INTENT, tag=tag, provider="ssh", offer=offer, price=offer.price, disk_gb=10, hourly_micros=0,
            reserved_micros=0, soft_deadline=now + 3600, hard_deadline=now + 3600,
        )  # fmt: skip
        made = self.provider.create(offer, Launch(tag, "", 10, KEY, ""))
        ledger.append(run_id, Kind.CREATED, tag=tag, ref=made.ref)
        return self.rental(tag)

    def rental(self, tag: str) -> Rental:
        return next(one for run in self.broker.ledger.runs() for one in run.rentals if one.tag == tag)


@pytest.fixture
def owner(listed: Path, tmp_path: Path) -> Iterator[Owner]:
    made = Owner(listed, tmp_path / "state")
    yield made
    made.broker.close()


def test_a_run_ends_although_another_machine_is_off_and_one_was_never_pinned(
    owner: Owner, machines: list[Machine]
) -> None:
    """Neither can hold anything of this run: its end is confirmed, and nobody is told of them."""
    rental = owner.use("box0")
    owner.switch_off("box1")
    save_host(owner.listed, "box2", {"host_key": ""})
    teardown = Teardown(
        owner.broker.ledger, owner.broker.providers, owner.broker.clock, owner.tell, owner.broker.accounts
    )
    teardown.finish(rental.run_id, rental.tag, every_s=0.05, patience_s=20)
    assert owner.rental(rental.tag).state.over and machines[0].lease() == ""
    assert not [said for said in owner.said if "answer" in said or "listed" in said]


def test_a_run_on_a_machine_that_went_off_stays_in_doubt(owner: Owner) -> None:
    """Nothing is concluded from the silence of the one machine that matters."""
    rental = owner.use("box0")
    owner.switch_off("box0")
    teardown = Teardown(
        owner.broker.ledger, owner.broker.providers, owner.broker.clock, owner.tell, owner.broker.accounts
    )
    with pytest.raises(InDoubt):
        teardown.finish(rental.run_id, rental.tag, every_s=0.05, patience_s=3)
    assert not owner.rental(rental.tag).state.over
    assert any("box0" in said and "does not answer" in said for said in owner.said)


def test_reap_ends_what_it_reaches_and_comes_back_for_the_rest(owner: Owner, machines: list[Machine]) -> None:
    """Of two abandoned runs the one on the machine that answers is ended; the other when its machine is back."""
    here, away = owner.use("box0"), owner.use("box1")
    owner.switch_off("box1")
    owner.broker.reap(patience_s=15, every_s=0.05, tell=owner.tell)
    assert owner.rental(here.tag).state.over and not owner.rental(away.tag).state.over
    assert machines[0].lease() == "" and machines[1].lease() == away.tag
    owner.switch_on("box1", machines[1])
    owner.broker.reap(patience_s=60, every_s=0.05)
    assert owner.rental(away.tag).state.over and machines[1].lease() == ""


def test_a_lost_create_is_looked_for_on_its_own_machine(owner: Owner) -> None:
    """An intent without an answer is sought where it was meant to be, no matter who else is off."""
    rental = owner.use("box2")
    owner.switch_off("box0")
    found = owner.provider.survey([rental.offer.id])
    assert [one.tag for one in found.instances] == [rental.tag] and not found.silent
    asked = owner.provider.survey(["box0"], everywhere=True)
    assert set(asked.silent) == {"box0"} and [one.tag for one in asked.instances] == [rental.tag]
    assert load_hosts(owner.listed)["box0"].price > ZERO
