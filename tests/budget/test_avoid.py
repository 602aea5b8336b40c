"""Machines that failed are left out for a while, by machine and not by offer."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from tests.plan.world import JOB, OFFER

from gpurent import Broker
from gpurent.budget.avoid import avoided
from gpurent.budget.events import Kind
from gpurent.budget.ledger import Ledger
from gpurent.clock import Clock, ManualClock, SystemClock
from gpurent.model import Need
from gpurent.money import Usd
from gpurent.plan.quote import Quote, make_quote
from gpurent.registry import Opened
from gpurent.settings import Settings
from gpurent.spi import Facts
from gpurent_sandbox.adapter.provider import SandboxProvider
from gpurent_sandbox.server import Sandbox

BAD = replace(OFFER, provider="p", machine_id="m7")


def told(folder: Path, clock: Clock, *, machine: str = "m7", provider: str = "p") -> Ledger:
    ledger = Ledger.open(folder / "ledger.db", clock)
    run = ledger.open_run("job", Usd.parse("5"), output_dir=folder, config={})
    offer = replace(BAD, machine_id=machine, provider=provider)
    ledger.append(
        run, Kind.INTENT, tag="t", provider=provider, offer=offer, price=offer.price, disk_gb=10, hourly_micros=1,
        reserved_micros=1, soft_deadline=1.0, hard_deadline=2.0,
    )  # fmt: skip
    ledger.append(run, Kind.CREATED, tag="t", ref="1")
    ledger.append(run, Kind.MACHINE_FAILED, tag="t", reason="no SSH")
    return ledger


@pytest.mark.parametrize(("hours", "later", "left_out"), [(24, 23, True), (24, 25, False), (0, 0, False)])
def test_a_failed_machine_is_left_out_until_its_time_is_over(
    tmp_path: Path, hours: float, later: float, left_out: bool
) -> None:
    """Under whatever number it is offered; the quote says why."""
    clock = ManualClock()
    with closing(told(tmp_path, clock)) as ledger:
        clock.sleep(later * 3600)
        avoid = avoided(ledger.runs(), clock.now(), hours)
    quote = make_quote(JOB, Need(), [replace(BAD, id="another number")], avoid=avoid)
    assert bool(quote.rejected) == left_out
    assert all("no SSH" in one.reason for one in quote.rejected)


def test_machines_without_a_name_and_other_providers_are_not_concerned(tmp_path: Path) -> None:
    """An empty name would mean every machine of that provider."""
    clock = ManualClock()
    with closing(told(tmp_path, clock, machine="")) as ledger:
        assert avoided(ledger.runs(), clock.now(), 24) == {}
    quote = make_quote(JOB, Need(), [replace(BAD, provider="q")], avoid={("p", "m7"): "failed"})
    assert not quote.rejected


def test_a_shared_ledger_counts_before_anything_has_opened_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A colleague's bad machine is left out of the first quote on this computer, which has no ledger of its own."""
    shared = tmp_path / "shared"
    shared.mkdir()
    with Sandbox(boot_s=0.2, seed=7) as sandbox:

        def quote() -> Quote:
            provider = SandboxProvider(sandbox.url, sandbox.account_key, SystemClock())
            opened = {"sandbox": Opened("sandbox", provider, Facts(play_money=True))}
            with Broker(settings=Settings(), home=tmp_path / "home", providers=opened) as broker:
                return broker.quote(JOB)

        bad = quote().rows[0].offer
        told(shared, SystemClock(), machine=bad.machine_id, provider="sandbox").close()
        monkeypatch.setenv("GPURENT_LEDGER_URL", f"sqlite:///{shared}/ledger.db")
        warned = quote()
        assert bad.machine_id not in {row.offer.machine_id for row in warned.rows}
        assert any("no SSH" in one.reason for one in warned.rejected)
        (shared / "ledger.db").write_bytes(b"no database" * 1000)
        blind = quote()
        assert blind.rows and any("failed lately" in note for note in blind.notes)
