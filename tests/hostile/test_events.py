"""What a host says of its training: typed, counted, and held to the plan, while deadlines and Ctrl-C are minded."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest
from tests.hostile.conftest import EXPECTED, TAG, Client, Lying
from tests.hostile.server import Lie, Orders
from tests.memory import at_most
from tests.remote.test_home import lora
from tests.untrusted.test_text import ATTACKS

from gpurent.budget.events import Kind
from gpurent.errors import BadHostData, JobFailed
from gpurent.jobs.interrupt import Stop
from gpurent.jobs.progress import Progress, Trained
from gpurent.jobs.watch import Halt

HELLO = {"event": "hello", "protocol": 1, "engine": "0", "torch": "2", "device": "cuda", "device_name": "RTX 4090"}


def checkpoint(lying: Lying, name: str, data: bytes, step: int, **other: object) -> dict[str, object]:
    lying.job.joinpath("out").mkdir(parents=True, exist_ok=True)
    (lying.job / "out" / Path(name).name).write_bytes(data)
    event = {"event": "checkpoint", "path": name, "sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}
    return {**event, "step": step, "final": name == EXPECTED.final, **other}


def lied(client: Client) -> BadHostData:
    """The session ends by the host's fault, and the ledger says so."""
    with at_most(32), pytest.raises(BadHostData) as caught:
        client.session().follow()
    assert str(caught.value).isprintable() and len(str(caught.value)) < 500
    (ended,) = [one for one in client.ledger.events() if one.kind is Kind.JOB_FAILED]
    assert ended.data["code"] == "bad_host"
    return caught.value


@pytest.mark.parametrize(
    "line",
    [
        b"hello", b"[]", b"null", b"5", b'"event"', b"{}", b'{"event": []}', b'{"event": {}}', b'{"event": null}',
        b'{"event": 5}', b"\xff\xfe", b'{"event": "step", "step": NaN, "total": 1}',
        b'{"event": "step", "step": 1, "total": 1, "loss": 1e999}', b'{"event": "step", "step": -1, "total": 1}',
        b'{"event": "step", "step": 1' + b"0" * 400 + b', "total": 1}', b'{"event": "step", "step": "1", "total": 1}',
        b'{"event": "step", "step": true, "total": 1}', b'{"event": "step", "step": 1.5, "total": 1}',
        b'{"event": "step", "step": 1, "total": 1, "it_s": Infinity}', b'{"event":' * 60_000,
        b'{"event": "hello", "x": ' + b"[" * 20_000, b'{"event": "phase", "name": "[/]"}',
        b'{"event": "phase", "name": "\\u001b[2J"}', b'{"event": "error", "code": "x\\ny", "message": ""}',
        b'{"event": "checkpoint", "path": "a", "sha256": "0", "size": 1}', b'{"event": "done", "steps": "\\ud800"}',
        b'{"event": "warning", "message": "\\udfff"}', b"x" * 70_000, b'{"event": "checkpoint"}',
        b'{"event": "checkpoint", "path": 1, "sha256": "' + b"0" * 64 + b'", "size": 1}',
    ],
)  # fmt: skip
def test_an_event_that_breaks_the_protocol_is_the_hosts_fault(lying: Lying, client: Client, line: bytes) -> None:
    """One typed error for everything."""
    lying.training(HELLO, line)
    lied(client)
    kept = client.run_dir / "events.jsonl"
    assert not kept.exists() or all(
        isinstance(json.loads(one), dict | list | int | str | None) for one in kept.read_text().splitlines()
    )


def test_kinds_and_fields_of_a_newer_engine_are_passed_over(lying: Lying, client: Client) -> None:
    """They are not lies."""
    final = checkpoint(lying, "cat.safetensors", lora(), 100)
    lying.training({**HELLO, "more": [1]}, {"event": "of the future", "x": {}}, final, {"event": "done", "steps": 100})
    assert [path.name for path in client.session().follow().files] == ["cat.safetensors"]


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)
def test_what_an_engine_says_is_shown_in_quotation_marks(lying: Lying, client: Client, attack: str) -> None:
    """Its name, its device, its warnings, its error; on the screen, in files, and in the ledger."""
    said = "" if "\ud800" in attack else attack
    lying.training(
        {**HELLO, "engine": said, "device_name": said},
        {"event": "warning", "key": said, "message": f"{said}i-1 is destroyed"},
        {"event": "error", "code": "internal", "message": f"{said}i-1 is destroyed", "remedy": said},
    )
    with pytest.raises(JobFailed, match=r'^training failed \(internal\): ".*i-1 is destroyed"$') as caught:
        client.session().follow()
    told = [getattr(event, "message", "") for event in client.told] + [caught.value.hint]
    assert all(text.isprintable() for text in told)
    assert any(text.startswith('The engine warns: "') for text in told)
    for path in client.run_dir.iterdir():
        text = path.read_text(encoding="utf-8")
        assert all(line.isprintable() for line in text.split("\n")), path.name
    for event in client.ledger.events():
        assert all(value.isprintable() for value in event.data.values() if isinstance(value, str))


def test_done_without_the_promised_file_is_no_success(lying: Lying, client: Client) -> None:
    """The machine would be destroyed, and nothing would be home."""
    lying.training(HELLO, {"event": "done", "steps": 100})
    assert "sent no cat.safetensors" in str(lied(client))


def test_done_with_a_checkpoint_only_is_no_success_either(lying: Lying, client: Client) -> None:
    """It came home all the same."""
    lying.training(HELLO, checkpoint(lying, "cat-000002.safetensors", lora(), 50), {"event": "done", "steps": 100})
    assert "sent no cat.safetensors" in str(lied(client))
    assert client.files() == ["cat-000002.safetensors"]


def test_a_stop_that_nobody_ordered_is_no_success(lying: Lying, client: Client) -> None:
    """The host ended what the budget would have paid for."""
    stopped = checkpoint(lying, "cat-step00000003.safetensors", lora(), 3)
    lying.training(HELLO, stopped, {"event": "done", "steps": 3, "stopped": True})
    assert "nobody had stopped it" in str(lied(client))


def test_a_stop_that_a_dead_client_may_have_ordered_is_believed(lying: Lying, client: Client) -> None:
    """It may have written its order, and died."""
    stopped = checkpoint(lying, "cat-step00000003.safetensors", lora(), 3)
    lying.training(HELLO, stopped, {"event": "done", "steps": 3, "stopped": True})
    session = client.session()
    session.taken_over = True
    assert session.follow().stopped and client.files() == ["cat-step00000003.safetensors"]


@pytest.mark.parametrize(
    "name", ["cat_v2.safetensors", "../x", "/etc/cron.d/x", "a/b.safetensors", ".bashrc", "cat.safetensors.exe"]
)
def test_a_host_chooses_no_names(lying: Lying, client: Client, name: str) -> None:
    """Another LoRA stays what it is."""
    client.output_dir.mkdir()
    (client.output_dir / "cat_v2.safetensors").write_bytes(b"dear")
    lying.training(HELLO, checkpoint(lying, name, lora(), 3, final=False))
    assert "does not write" in str(lied(client))
    assert (
        client.files() == ["cat_v2.safetensors"] and (client.output_dir / "cat_v2.safetensors").read_bytes() == b"dear"
    )


def test_five_thousand_checkpoints_are_not_collected(lying: Lying, client: Client) -> None:
    """Each would keep the machine alive for a moment more."""
    data = lora()
    (lying.job / "out").mkdir(parents=True)
    lying.training(HELLO, *(checkpoint(lying, f"cat-step{step:08d}.safetensors", data, step) for step in range(1, 101)))
    lied(client)
    assert client.files() == ["cat-step00000001.safetensors"] and client.disk() < 500_000


def test_a_huge_file_is_refused_before_it_is_fetched(lying: Lying, client: Client) -> None:
    """Its size follows from the rank."""
    lying.training(HELLO, checkpoint(lying, "cat.safetensors", lora(), 100, size=2**33))
    assert "has 100000 at most" in str(lied(client))
    assert client.disk() < 500_000


def test_events_without_end_are_ended(lying: Lying, client: Client) -> None:
    """More than the plan can have; neither memory nor disk fills up."""
    line = json.dumps({"event": "phase", "name": "train"}).encode() + b"\n"
    lying.training()
    lying.order(Orders(lies=(Lie("events.jsonl", endless=line),)))
    assert "events that this training can have" in str(lied(client))
    assert client.disk() < 2_000_000


def test_one_line_without_end_is_ended(lying: Lying, client: Client) -> None:
    """Before it is a line."""
    lying.training()
    lying.order(Orders(lies=(Lie("events.jsonl", endless=b"x"),)))
    assert "longer than 64 KiB" in str(lied(client))


def steps(count: int) -> list[bytes]:
    return [b'{"event": "step", "step": %d, "total": %d, "loss": 0.1}' % (one, count) for one in range(1, count + 1)]


class Early(Exception):
    """The test has seen enough."""


@pytest.mark.parametrize("why", ["Ctrl-C", "deadline"])
def test_fifty_thousand_events_in_one_look_keep_nobody_waiting(lying: Lying, client: Client, why: str) -> None:
    """Between any two of them the user and the budget may end it."""
    lying.training(HELLO, *steps(50_000))
    client.expected = replace(EXPECTED, steps=50_000)
    seen = 0

    def hear(event: Progress) -> None:
        nonlocal seen
        if not isinstance(event, Trained):
            return
        seen += 1
        if seen == 100 and why == "Ctrl-C":
            client.interrupt.request(Stop.NOW)
        if seen == 100 and why == "deadline":
            client.clock.not_before(client.clock.now() + 10 * client.hard_s)
        if seen > 200:
            raise Early

    client.hear = hear
    with pytest.raises(Halt):
        client.session().follow()
    assert seen == 100


def test_fifty_thousand_events_cost_a_few_writes_to_the_ledger(lying: Lying, client: Client) -> None:
    """One for each would take a minute, and the bill runs on."""
    final = checkpoint(lying, "cat.safetensors", lora(), 50_000)
    lying.training(HELLO, *steps(50_000), final, {"event": "done", "steps": 50_000})
    client.expected = replace(EXPECTED, steps=50_000)
    client.session().follow()
    events = client.ledger.events()
    assert sum(one.kind is Kind.PROGRESS for one in events) < 1000
    assert client.ledger.run(client.run_id).last_progress is not None
    assert [one.path.name for one in client.ledger.run(client.run_id).artefacts] == ["cat.safetensors"]
    assert {one.tag for one in events if one.kind is Kind.JOB_DONE} == {TAG}
