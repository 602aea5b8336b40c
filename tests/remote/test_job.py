"""A job that does not care whether we are connected, and the engine that travels to it."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from contextlib import closing

import pytest
from tests.remote.conftest import Rented

from gpurent.spi import Host
from gpurent_remote import bundle, job
from gpurent_sandbox.faults import Fault


def eventually(what: Callable[[], bool]) -> None:
    until = time.monotonic() + 20
    while not what():
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.05)


@pytest.mark.cuts_links
def test_a_command_whose_link_dies_is_not_taken_for_one_that_failed(rented: Rented, host: Host) -> None:
    """When the connection is cut before a command has ended, it is run again and its own status comes back."""

    def cut() -> None:
        eventually(lambda: any(rented.sandbox.state_dir.glob("hosts/*/root/runs")))
        rented.sandbox.faults.set(Fault.DROP_SSH)

    cutting = threading.Thread(target=cut)
    cutting.start()
    ended = host.run("echo x >> runs; while [ $(wc -l < runs) -lt 2 ]; do sleep 0.1; done; wc -l < runs")
    cutting.join()
    assert (ended.status, ended.stdout.strip()) == (0, "2")


def test_a_command_killed_by_a_signal_is_not_taken_for_a_dead_link(host: Host) -> None:
    """Its status is not a success, and it is not run again."""
    assert host.run("kill -9 $$").status != 0


def test_a_job_outlives_its_connection(rented: Rented, host: Host) -> None:
    """Started over one connection that is then closed, it ends by itself; another one reads log and status."""
    with closing(rented.host()) as first:
        first.start_job("outlives", ["sh", "-c", 'sleep 0.5; echo "$WORD"; exit 7'], {"WORD": "it's done"})
        assert first.job_status("outlives") is None
    eventually(lambda: host.job_status("outlives") == 7)
    assert host.read(".gpurent/jobs/outlives/log.txt", 0, 100) == b"it's done\n"


def test_a_second_start_does_nothing(host: Host) -> None:
    """A start that is repeated because its answer was lost does not run the job twice."""
    for _ in range(3):
        host.start_job("once", ["sh", "-c", "echo ran >> ../../../once.txt"], {})
    eventually(lambda: host.job_status("once") == 0)
    assert host.read("once.txt", 0, 100) == b"ran\n"


def test_kill_ends_the_whole_group(host: Host) -> None:
    """Children go with their parent, and those that ignore the request are made to."""
    long = 100_000 + os.getpid()  # nobody else's: a computer may run these tests twice at a time
    host.start_job("group", ["sh", "-c", f"trap '' TERM; sleep {long} & sleep {long}"], {})
    eventually(lambda: f"sleep {long}" in host.run(f"pgrep -af '[s]leep {long}'").stdout)
    host.kill_job("group")
    eventually(lambda: host.run(f"pgrep -f '[s]leep {long}'").stdout == "")
    eventually(lambda: host.job_status("group") not in (None, 0))
    host.kill_job("group")


def test_a_job_that_vanished_has_status_minus_one(host: Host) -> None:
    """Its process is gone and left no status: out of memory, or the machine was restarted."""
    host.start_job("vanished", ["sleep", "300"], {})
    eventually(lambda: host.read(".gpurent/jobs/vanished/pid", 0, 20) != b"")
    host.run("kill -s KILL -- -$(cat .gpurent/jobs/vanished/pid)")
    eventually(lambda: host.job_status("vanished") == -1)
    assert host.job_status("never-started") == -1


@pytest.mark.parametrize("name", ["", "../up", "a b", "a;b", ".hidden", "x" * 81])
def test_a_job_id_is_a_plain_name(name: str) -> None:
    """It becomes part of shell texts and paths."""
    with pytest.raises(ValueError, match="not a job id"):
        job.folder(name)


def test_equal_sources_make_an_equal_bundle() -> None:
    """Content names it, so a host that has it needs no second copy."""
    assert bundle.build() == bundle.build()
    assert bundle.build("gpurent_deadman").digest != bundle.build().digest


def test_the_engine_is_sent_once_and_runs_there(host: Host) -> None:
    """The second call finds the folder and leaves it alone."""
    folder = host.ship_engine()
    inode = host.run(f"stat -c %i {folder}/gpurent_engine/__main__.py").stdout
    assert host.ship_engine() == folder and bundle.build().digest in folder
    assert host.run(f"stat -c %i {folder}/gpurent_engine/__main__.py").stdout == inode
    program = "-c 'import gpurent_engine.spec as s; print(s.__file__)'"
    ended = host.run(f"PYTHONPATH={folder} {host.runtime().python} {program}")
    assert folder in ended.stdout, ended.stderr
