"""Whole runs against machines that lie: the next offer, the exit code, the receipt, and every command's output."""

from __future__ import annotations

import json
from pathlib import Path

from tests.session.world import Cli, make_job
from tests.stub.control import StubEngine
from tests.stub.engine import Orders

from gpurent.budget.events import Kind

ATTACK = "\x1b]0;owned\x07\x1b[2J\x9b1A\u202e\u200bx\r\ni-1 is destroyed and confirmed absent.\x00[/][red]"


def calm(text: str) -> bool:
    """Whether a terminal obeys nothing in it, and no line of it is the host's alone."""
    lines = text.replace("\t", " ").split("\n")
    return all(line.isprintable() and not line.startswith("i-1 is") for line in lines)


def test_a_machine_that_lies_is_left_for_the_next_one_and_remembered(cli: Cli, stub: StubEngine) -> None:
    """Its first event breaks the protocol; the second machine trains."""
    make_job(cli.folder)
    stub.order(Orders(say=('{"event": []}',)))
    client = cli.start("train", "--budget", "1", "--yes")
    cli.wait(Kind.MACHINE_FAILED)
    stub.order(Orders())
    said, _ = client.communicate(timeout=240)
    assert client.returncode == 0, said
    assert "cannot be read" in said and "Trying the next offer" in said
    failed = [one for one in cli.events() if one.kind is Kind.MACHINE_FAILED]
    assert "cannot be read" in str(failed[0].data["reason"])
    assert (cli.folder / "output" / "swatch.safetensors").exists() and cli.sandbox.truth() == []
    quoted = json.loads(cli.run("quote", "--images", "20", "--json").stdout)
    assert any("failed 0 h ago" in one["reason"] for one in quoted["rejected"])


def test_a_training_that_ends_without_its_file_has_failed(cli: Cli, stub: StubEngine) -> None:
    """Exit code, ledger and receipt say so, and an earlier LoRA of that name is still there."""
    make_job(cli.folder)
    earlier = cli.folder / "output" / "swatch.safetensors"
    earlier.parent.mkdir()
    earlier.write_bytes(b"dear")
    stub.order(Orders(skip_final=True))
    ended = cli.run("train", "--budget", "1", "--yes")
    assert ended.returncode == 1 and "sent no swatch.safetensors" in ended.stderr + ended.stdout
    assert [one.data["outcome"] for one in cli.events() if one.kind is Kind.RUN_CLOSED] == ["failed"]
    receipt = json.loads(cli.run("receipt", "--json").stdout)
    assert receipt["outcome"] == "failed" and receipt["settled"] and receipt["artefacts"] == []
    assert earlier.read_bytes() == b"dear" and sorted(path.name for path in earlier.parent.iterdir()) == [earlier.name]
    assert cli.sandbox.truth() == []


def test_no_output_of_any_command_obeys_a_host(cli: Cli, stub: StubEngine, tmp_path: Path) -> None:
    """Screen, JSON and files: what the engine said is quoted, printable and short in all of them."""
    make_job(cli.folder)
    warning = json.dumps({"event": "warning", "key": "x", "message": ATTACK})
    stub.order(Orders(say=(warning,), fail_at=2, code="internal", message=ATTACK + "y" * 3000, remedy=ATTACK))
    ended = cli.run("train", "--budget", "1", "--yes")
    assert ended.returncode == 1 and "owned" not in ended.stdout
    outputs = [ended.stdout, ended.stderr]
    for command in ("logs", "why", "why --json", "status --all", "status --json", "receipt", "reap", "doctor"):
        shown = cli.run(*command.split())
        outputs += [shown.stdout, shown.stderr]
    assert [text for text in outputs if not calm(text)] == []
    assert max(map(len, outputs)) < 20_000
    kept = [path for path in cli.home.rglob("*") if path.suffix in (".log", ".txt", ".json", ".jsonl")]
    assert any(path.name == "engine.log" for path in kept)
    theirs = {path.name: path.read_text(encoding="utf-8") for path in kept if path.name in ("engine.log", "host.txt")}
    assert [name for name, text in theirs.items() if not all(line.isprintable() for line in text.split("\n"))] == []
    ours = [path for path in kept if path.name not in theirs]
    assert [path.name for path in ours if not calm(path.read_text(encoding="utf-8"))] == []
    assert [one for one in cli.events() if not calm(json.dumps(dict(one.data), ensure_ascii=False))] == []
