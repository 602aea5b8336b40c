"""Ctrl-C in every state: one ends in order, two destroy at once, three leave and say what still runs.

Nothing here waits for the deadline of what it is waiting for: those are minutes away.
"""

from __future__ import annotations

import os
import pty
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from tests.session.world import Cli, kill, make_job, wait_for
from tests.stub.control import StubEngine
from tests.stub.engine import Orders
from tests.warm.client import Process

from gpurent.budget.events import Kind
from gpurent_sandbox.faults import Fault

SOON_S = 25.0
"""Long for a busy computer, short beside every deadline that is met here. What it really took is printed."""
Record = Callable[[str, object], None]


def press(client: Process, times: int = 1) -> float:
    for _ in range(times):
        client.send_signal(signal.SIGINT)
        time.sleep(0.1)  # two signals at once are one
    return time.monotonic()


def leaves(client: Process, pressed: float, what: str, record: Record) -> str:
    """It ends soon; everything that it printed."""
    printed, _ = client.communicate(timeout=SOON_S)
    record("measured", f"{what}: ended {time.monotonic() - pressed:.1f} s after Ctrl-C")
    return printed


def asking(cli: Cli) -> Process:
    cli.sandbox.faults.set(Fault.HTTP_TRICKLE, p=1.0, on="GET /v1/instances/")
    return cli.begin(Kind.CREATED)


def connecting(cli: Cli) -> Process:
    cli.sandbox.faults.set(Fault.LINK_FROZEN)
    return cli.begin(Kind.CREATED)


def uploading(cli: Cli) -> Process:
    cli.sandbox.faults.set(Fault.SLOW_LINK, value=20_000)
    client = cli.begin(Kind.REACHABLE)
    cli.sandbox.faults.set(Fault.LINK_FROZEN)
    return client


@pytest.mark.parametrize("state", [asking, connecting, uploading])
def test_before_training_the_first_one_destroys(
    cli: Cli, state: Callable[[Cli], subprocess.Popen[str]], record_property: Record
) -> None:
    """There is nothing to save: a boot, a look-up, a login or an upload that hangs is left at once."""
    make_job(cli.folder)
    client = state(cli)
    pressed = press(client)
    printed = leaves(client, pressed, state.__name__, record_property)
    assert client.returncode == 130, printed
    assert cli.sandbox.truth() == []


def test_a_frozen_training_is_called_and_then_destroyed(cli: Cli, record_property: Record) -> None:
    """One: the link that hangs is given up to reach the machine over another. Two: destroyed."""
    make_job(cli.folder, steps=100_000)
    client = cli.begin(Kind.PROGRESS)
    cli.sandbox.faults.set(Fault.LINK_FROZEN)
    time.sleep(1.0)  # so that it waits for an answer
    press(client)
    pressed = press(client)
    printed = leaves(client, pressed, "destroyed at once", record_property)
    assert client.returncode == 130, printed
    assert "Stopping" in printed and "Destroying at once" in printed
    assert cli.sandbox.truth() == []


def test_one_ctrl_c_saves_over_another_link(cli: Cli, record_property: Record) -> None:
    """What is frozen is only the link that was open: the training is saved all the same."""
    make_job(cli.folder, steps=100_000)
    client = cli.begin(Kind.PROGRESS)
    cli.sandbox.faults.set(Fault.LINK_FROZEN)
    time.sleep(1.0)
    pressed = press(client)
    time.sleep(1.0)
    cli.sandbox.faults.clear(Fault.LINK_FROZEN)
    printed = leaves(client, pressed, "saved", record_property)
    assert client.returncode == 130, printed
    assert list((cli.folder / "output").glob("swatch-step*.safetensors"))
    assert cli.sandbox.truth() == []


def test_three_leave_a_machine_whose_end_is_not_confirmed(cli: Cli, record_property: Record) -> None:
    """The answer to destroy trickles, and the machine is named: exit 5."""
    make_job(cli.folder, steps=100_000)
    client = cli.begin(Kind.PROGRESS)
    cli.sandbox.faults.set(Fault.HTTP_TRICKLE, p=1.0, on="DELETE")
    ref = next(event.data["ref"] for event in cli.events() if event.kind is Kind.CREATED)
    press(client, 2)
    cli.wait(Kind.DESTROY_SENT)
    pressed = press(client)
    printed = leaves(client, pressed, "left", record_property)
    assert client.returncode == 5, printed
    assert str(ref) in printed and "gpurent reap" in printed
    cli.sandbox.faults.clear()


def test_a_reader_that_does_not_read_holds_up_neither_destroy_nor_leaving(
    cli: Cli, stub: StubEngine, record_property: Record
) -> None:
    """The command hangs in its own output, where nothing of ours can reach it: two destroy, three leave."""
    stub.order(Orders(flood=200))
    make_job(cli.folder, steps=100_000)
    client = cli.start("train", "--budget", "1", "--yes", "--json")
    cli.wait(Kind.PROGRESS)
    wait_for(lambda: blocked(client), "a full pipe")
    press(client, 2)
    wait_for(lambda: cli.sandbox.market.alive() == [], "the end of the machine", 60)
    pressed = press(client)
    assert client.wait(timeout=SOON_S) == 5
    record_property("measured", f"a full pipe: left {time.monotonic() - pressed:.1f} s after Ctrl-C")


def blocked(client: Process) -> bool:
    """Whether it waits in a write to a pipe, by its own kernel's word."""
    return "pipe_write" in Path(f"/proc/{client.pid}/wchan").read_text(encoding="ascii")


def test_commands_that_wait_for_a_service_end_at_the_first(cli: Cli, record_property: Record) -> None:
    """Nothing is rented yet: every answer trickles, and nobody has to wait for it."""
    make_job(cli.folder, steps=100_000)
    cli.sandbox.faults.set(Fault.HTTP_TRICKLE, p=1.0)
    commands = (("train", "--budget", "1", "--yes"), ("quote",), ("doctor",))
    clients = [cli.start(*command) for command in commands]
    wait_for(lambda: len(cli.sandbox.journal.entries()) >= len(clients), "a request of each")
    for client, command in zip(clients, commands, strict=True):
        printed = leaves(client, press(client), " ".join(command), record_property)
        assert client.returncode == 130, printed
        assert "Traceback" not in printed
    assert cli.sandbox.market.history("sandbox") == []


def test_a_ledger_that_hangs_holds_up_no_ctrl_c(cli: Cli, record_property: Record) -> None:
    """Its server accepts and says nothing; that nobody knows what runs is said, and is exit 5."""
    pytest.importorskip("psycopg")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"postgresql+psycopg://anna:secret@127.0.0.1:{silent.getsockname()[1]}/team"
        client = replace(cli, leads=lambda address: {**address.env(), "GPURENT_LEDGER_URL": url}).start("status")
        silent.settimeout(SOON_S)
        with silent.accept()[0]:
            printed = leaves(client, press(client), "status", record_property)
    assert client.returncode == 5, printed
    assert "does not say in time" in printed and "secret" not in printed


def test_reap_leaves_at_the_first(cli: Cli, record_property: Record) -> None:
    """What it could not confirm is named: exit 5."""
    make_job(cli.folder, steps=100_000)
    kill(cli.begin(Kind.PROGRESS))
    seen = len(cli.sandbox.journal.entries())
    cli.sandbox.faults.set(Fault.HTTP_TRICKLE, p=1.0)
    client = cli.start("reap")
    wait_for(lambda: len(cli.sandbox.journal.entries()) > seen, "a request")
    printed = leaves(client, press(client), "reap", record_property)
    assert client.returncode == 5, printed
    assert "Traceback" not in printed and "gpurent reap" in printed
    cli.sandbox.faults.clear()


def test_the_question_ends_at_the_first(cli: Cli, record_property: Record) -> None:
    """Ctrl-C at the question means no as well; nothing is rented."""
    make_job(cli.folder)
    ours, theirs = pty.openpty()
    client = subprocess.Popen(
        cli.argv("train", "--budget", "1"), cwd=cli.folder, env={**cli.env, "TERM": "dumb"},
        stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True,
    )  # fmt: skip
    os.close(theirs)
    seen = b""
    while b"[y/n]" not in seen:
        seen += os.read(ours, 65536)
    client.send_signal(signal.SIGINT)
    pressed = time.monotonic()
    with suppress(OSError):  # how a terminal ends
        while os.read(ours, 65536):
            pass
    assert client.wait(timeout=SOON_S) == 130
    record_property("measured", f"the question: ended {time.monotonic() - pressed:.1f} s after Ctrl-C")
    os.close(ours)
    assert cli.sandbox.market.history("sandbox") == []


def test_whoever_takes_over_a_silent_machine_can_end_it(cli: Cli, record_property: Record) -> None:
    """Its login hangs; the second Ctrl-C destroys it, as it does for the command that rented it."""
    make_job(cli.folder, steps=100_000)
    kill(cli.begin(Kind.PROGRESS))
    cli.sandbox.faults.set(Fault.LINK_FROZEN)
    client = cli.start("stop")
    assert client.stdout is not None
    while "waiting for SSH" not in (line := client.stdout.readline()):
        assert line
    printed = leaves(client, press(client, 2), "stop", record_property)
    assert client.returncode == 130, printed
    assert cli.sandbox.truth() == []
