"""How fast a machine's line is, measured over the connection that everything else will take."""

from __future__ import annotations

import socket
from contextlib import closing

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.remote.conftest import Rented

from gpurent.clock import SystemClock
from gpurent.errors import BadHostData, HostUnreachable
from gpurent.spi import Host
from gpurent_remote import speed
from gpurent_sandbox.faults import Fault

MARK = b"gpurent-0123"


def test_a_line_is_measured_both_ways(host: Host) -> None:
    """With at most eight megabytes each way, and every byte counted."""
    found = host.line()
    assert found.up_mbps > 0 and found.down_mbps > 0
    for moved in (found.up_bytes, found.down_bytes):
        assert speed.ROUNDS[0] <= moved <= sum(speed.ROUNDS)


@pytest.mark.cuts_links
def test_a_slow_line_is_measured_as_slow_with_little(rented: Rented) -> None:
    """4 Mbit/s, whatever else this computer does: no more than that, and not eight megabytes of it."""
    rented.sandbox.faults.set(Fault.SLOW_LINK, value=500_000)
    try:
        with closing(rented.host()) as host:
            found = host.line()
    finally:
        rented.sandbox.faults.clear(Fault.SLOW_LINK)
    assert found.up_mbps < 6 and found.down_mbps < 6
    assert found.up_bytes < sum(speed.ROUNDS) and found.down_bytes < sum(speed.ROUNDS)


@given(st.integers(1, 2**22), st.floats(1e-6, 100), st.floats(0, 100))
def test_a_round_trip_is_no_fault_of_a_lines_width(size: int, took: float, trip: float) -> None:
    """But counts for half of the time at most, however slow the first answer was."""
    plain = size * 8e-6 / took
    assert plain * 0.999 <= speed.rate_mbps(size, took, trip) <= 2.001 * plain


@pytest.mark.parametrize(
    ("answers", "error", "words"),
    [
        (b"", HostUnreachable, "stopped"),
        (b"x" * 5000, BadHostData, "something else"),
        (b"Welcome\n" + MARK + b"\n7\n", BadHostData, '"7" of 0 bytes'),
        (MARK + b"\n0\n0\n", HostUnreachable, "stopped"),
        (MARK + b"\n0\n0\n16384\n", HostUnreachable, "stopped"),
    ],
)
def test_a_machine_that_answers_nonsense_or_nothing_is_not_waited_for(
    answers: bytes, error: type[Exception], words: str
) -> None:
    """Over a real socket: what is wrong is said as soon as it is known."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(answers)
        with pytest.raises(error, match=words):
            speed.timed(ours, MARK.decode(), SystemClock(), within_s=0.2)


def test_a_program_that_ends_is_not_waited_for() -> None:
    """Python may be killed there."""
    ours, theirs = socket.socketpair()
    with ours:
        theirs.close()
        with pytest.raises(HostUnreachable, match="ended"):
            speed.timed(ours, MARK.decode(), SystemClock())
