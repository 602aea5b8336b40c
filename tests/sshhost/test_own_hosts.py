"""What holds for machines of your own beyond the common contract."""

from __future__ import annotations

import signal
import socket
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import paramiko
import pytest
from paramiko.common import AUTH_FAILED
from tests.plan.world import JOB
from tests.sshhost.machine import Machine, keygen, machine

from gpurent.clock import ManualClock, SystemClock
from gpurent.errors import AuthFailed, OfferGone, ProviderError, Unavailable
from gpurent.hosts import load_hosts, save_host
from gpurent.model import Instance, Launch, Need, Price
from gpurent.money import ZERO
from gpurent.plan.quote import make_quote
from gpurent_providers.sshhost.provider import SshHostProvider

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f run"


def order(tag: str, lifetime_s: int | None = None) -> Launch:
    return Launch(tag, "", 10, KEY, "touch /never", lifetime_s=lifetime_s)


class Slow(paramiko.ServerInterface):
    """Thinks about every key for longer than anybody waits."""

    def check_auth_publickey(self, username: str, key: paramiko.PKey) -> int:
        time.sleep(8)
        return AUTH_FAILED


def serve_slowly(listener: socket.socket, host_key: paramiko.PKey) -> paramiko.Transport:
    link, _ = listener.accept()
    transport = paramiko.Transport(link)
    transport.add_server_key(host_key)
    transport.start_server(server=Slow())
    return transport


def start_job(machine: Machine, tag: str) -> subprocess.Popen[bytes]:
    """A job as a session leaves it: its own process group, and a pid file."""
    folder = machine.home / ".gpurent" / "jobs" / tag
    folder.mkdir(parents=True)
    job = subprocess.Popen(["sleep", "300"], start_new_session=True)
    (folder / "pid").write_text(str(job.pid))
    return job


def test_two_runs_never_share_a_machine(listed: Path, machines: list[Machine]) -> None:
    """Ten at once, as from ten computers: one gets the lease, and its key alone is admitted."""
    provider = SshHostProvider(listed, SystemClock(), timeout=30)
    offer = provider.offers(Need())[0]

    def attempt(number: int) -> Instance | ProviderError:
        try:
            return provider.create(offer, order(f"tag-{number}"))
        except ProviderError as error:
            return error

    with ThreadPoolExecutor(10) as pool:
        answers = list(pool.map(attempt, range(10)))
    won = [one for one in answers if isinstance(one, Instance)]
    assert len(won) == 1 and {type(one) for one in answers if one not in won} == {OfferGone}
    admitted = (machines[0].home / ".ssh" / "authorized_keys").read_text().splitlines()
    assert len(admitted) == 2 and admitted[1].endswith(f"gpurent:{won[0].tag}")
    assert offer.id not in {one.id for one in provider.offers(Need())}


def test_a_machine_lost_before_the_lease_is_no_rental_in_doubt(tmp_path: Path) -> None:
    """It answers once and never again: nothing was run there, so the next offer may be taken at once."""
    with machine(tmp_path) as one:
        save_host(tmp_path / "hosts.toml", "box0", one.entry())
        provider = SshHostProvider(tmp_path / "hosts.toml", SystemClock(), timeout=5)
        offer = provider.offers(Need())[0]
        one.order("last")
        with pytest.raises(OfferGone, match="port"):
            provider.create(offer, order("tag-1"))
        assert one.lease() == ""


def test_a_machine_too_busy_for_our_key_has_not_refused_it(listed: Path, machines: list[Machine]) -> None:
    """A login that takes too long is a machine that cannot be reached, not a wrong key."""
    machine = machines[0]
    host_key = paramiko.Ed25519Key.from_private_key_file(str(machine.folder / "host_key"))
    with socket.create_server(("127.0.0.1", 0)) as busy, ThreadPoolExecutor(1) as pool:
        save_host(listed, "busy", machine.entry(port=busy.getsockname()[1]))
        serving = pool.submit(serve_slowly, busy, host_key)
        with pytest.raises(Unavailable, match="timeout"):
            SshHostProvider(listed, SystemClock(), timeout=4).get("busy/tag")
        serving.result().close()


def test_a_link_that_is_cut_in_the_middle_of_a_command_is_called_that(
    provider: SshHostProvider, machines: list[Machine]
) -> None:
    """Not by a number that only a library knows; and the next step is named."""
    machines[0].order("cut")
    with pytest.raises(Unavailable, match="link ended") as caught:
        provider.get("box0/tag")
    assert "ssh" in caught.value.hint


def test_destroy_ends_our_processes_and_leaves_everything_else(
    provider: SshHostProvider, machines: list[Machine]
) -> None:
    """Job, files, key and lease are gone; the user's files, keys and processes are as they were."""
    machine = machines[0]
    (machine.home / "thesis.tex").write_text("mine")
    keys = (machine.home / ".ssh" / "authorized_keys").read_text()
    made = provider.create(provider.offers(Need())[0], order("tag-1"))
    theirs = subprocess.Popen(["sleep", "300"])
    job = start_job(machine, "tag-1")
    provider.destroy(made.ref)
    assert job.wait(10) == -signal.SIGTERM and theirs.poll() is None
    theirs.kill()
    theirs.wait()
    assert not (machine.home / ".gpurent").exists()
    assert (machine.home / ".ssh" / "authorized_keys").read_text().strip() == keys
    assert (machine.home / "thesis.tex").read_text() == "mine"


def test_the_end_of_one_run_is_not_the_end_of_another(provider: SshHostProvider, machines: list[Machine]) -> None:
    """Destroying a run that lost its lease long ago touches nothing of the one that holds it now."""
    made = provider.create(provider.offers(Need())[0], order("tag-2"))
    job = start_job(machines[0], "tag-2")
    provider.destroy(made.ref.replace("tag-2", "tag-1"))
    assert job.poll() is None and machines[0].lease() == "tag-2"
    job.kill()
    job.wait()


def test_a_machine_frees_itself_when_time_is_up(provider: SshHostProvider, machines: list[Machine]) -> None:
    """Without anybody's help: at the end of the lifetime the job is stopped and the lease given back."""
    offer = provider.offers(Need())[0]
    job = start_job(machines[0], "tag-1")
    provider.create(offer, order("tag-1", lifetime_s=1))
    assert job.wait(20) == -signal.SIGTERM
    until = time.monotonic() + 20
    while (machines[0].home / ".gpurent").exists():  # the lease lies in it
        assert time.monotonic() < until
        time.sleep(0.05)


def test_another_machine_under_the_same_address_gets_nothing(listed: Path, tmp_path: Path) -> None:
    """The pinned key is enforced, and the error shows what answered instead."""
    keygen(tmp_path / "other")
    save_host(listed, "box0", {"host_key": (tmp_path / "other.pub").read_text().rsplit(" ", 1)[0]})
    with pytest.raises(AuthFailed, match="not the machine that was pinned") as caught:
        SshHostProvider(listed, SystemClock(), timeout=5).get("box0/tag")
    assert "--pin" in caught.value.hint


def test_a_machine_without_a_pinned_key_is_not_used(listed: Path) -> None:
    """Trust begins with a person who looked."""
    save_host(listed, "box0", {"host_key": ""})
    provider = SshHostProvider(listed, SystemClock(), timeout=5)
    assert "box0" not in {offer.id for offer in provider.offers(Need())}


def test_a_rental_made_by_hand_ends_when_it_ends(listed: Path) -> None:
    """Its end time limits the offer; after that it is none."""
    clock = ManualClock()
    end = datetime.fromtimestamp(clock.now() + 3600, UTC)
    save_host(listed, "box1", {"until": end})
    provider = SshHostProvider(listed, clock, timeout=5)
    (offer,) = [offer for offer in provider.offers(Need()) if offer.id == "box1"]
    assert offer.max_duration_s == 3600 and str(offer.price.gpu_hour) == "$0.20"
    clock.advance(3600)
    assert "box1" not in {offer.id for offer in provider.offers(Need())}


def test_no_job_is_started_that_would_outlive_the_rental(listed: Path) -> None:
    """The quote leaves a machine out whose end comes before the job's, says so, and takes it for a shorter job."""
    clock = ManualClock()
    save_host(listed, "box1", {"until": datetime.fromtimestamp(clock.now() + 3600, UTC)})
    provider = SshHostProvider(listed, clock, timeout=5)
    offers = [replace(offer, price=Price(ZERO)) for offer in provider.offers(Need())]
    long, short = (make_quote(replace(JOB, steps=steps), Need(disk_gb=10), offers) for steps in (200_000, 100))
    assert {row.offer.id for row in long.rows} == {"box0", "box2"}
    (rejected,) = [one for one in long.rejected if one.offer.id == "box1"]
    assert "available for at most 1.0 h" in rejected.reason
    assert "box1" in {row.offer.id for row in short.rows}


def test_a_machine_that_is_switched_off_is_no_offer(listed: Path) -> None:
    """The others are offered all the same."""
    save_host(listed, "off", {**load_hosts(listed)["box0"].model_dump(exclude={"until", "price"}), "port": 1})
    names = {offer.id for offer in SshHostProvider(listed, SystemClock(), timeout=5).offers(Need())}
    assert names == {"box0", "box1", "box2"}


def test_probe_tells_what_is_there(provider: SshHostProvider) -> None:
    """Python, torch, disk and who uses it."""
    provider.create(provider.offers(Need())[0], order("tag-1"))
    found = provider.probe("box0")
    assert found.python.startswith("3.") and found.torch[0].isdigit()
    assert found.free_disk_gb > 0 and found.lease == "tag-1"


def test_a_command_that_says_all_and_never_ends_is_not_waited_for(
    provider: SshHostProvider, machines: list[Machine]
) -> None:
    """Its output is closed and no exit status comes: that is no answer, in the time that any answer is given."""
    machines[0].order("linger")
    before = time.monotonic()
    with pytest.raises(Unavailable, match="no exit status"):
        provider.get("box0/tag")
    assert time.monotonic() - before < 20
