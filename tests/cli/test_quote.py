"""``gpurent quote`` and everything else that spends nothing."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest
from tests.cli.world import Terminal
from tests.session.world import make_job

import gpurent.plan

pytestmark = pytest.mark.usefixtures("nothing_rented")
TABLE = Path(gpurent.plan.__file__).with_name("prices.toml")


def parsed(terminal: Terminal, *arguments: str, code: int = 0) -> Any:
    """Standard output of a command as the one JSON document that it has to be."""
    ended = terminal.run(*arguments)
    assert ended.returncode == code, ended.stderr
    return json.loads(ended.stdout)


def test_a_quote_needs_no_key_and_no_network(alone: Terminal) -> None:
    """The built-in table answers; that it is one, and of which day, is said before any number."""
    dated = str(tomllib.loads(TABLE.read_text(encoding="utf-8"))["dated"])
    ended = alone.run("quote", "--gpu", "4090", "--images", "50")
    assert ended.returncode == 0, ended.stderr
    first, second, *rows = ended.stdout.splitlines()
    assert first.startswith("50 images, ")
    assert second == f"TYPICAL PRICES of {dated}; nothing here can be rented"
    assert sum("RTX 4090" in row for row in rows) >= 2
    assert "3090" not in ended.stdout


def test_a_quote_says_why_other_offers_were_left_out(alone: Terminal) -> None:
    """Each kind of card with the first reason, and how many offers that concerns."""
    ended = alone.run("quote", "--gpu", "4090", "--images", "50", "--why-not")
    assert ended.returncode == 0, ended.stderr
    left_out = ended.stdout.partition("left out because")[2]
    assert "RTX 3090" in left_out and "not 4090" in left_out


def test_the_same_as_json(alone: Terminal) -> None:
    """Whole micro-dollars, seconds, and the source of the prices."""
    quote = parsed(alone, "quote", "--gpu", "4090", "--images", "50", "--json")
    assert quote["source"] == "table" and quote["dated"]
    assert {offer["gpu"] for offer in quote["offers"]} == {"RTX 4090"}
    for offer in quote["offers"]:
        low, mid, high = offer["cost_micros"]
        assert type(mid) is int and 0 < low <= mid <= high <= offer["budget_asked_micros"]
    assert all(one["reason"] for one in quote["rejected"])


def test_the_sandbox_is_quoted_as_play_money(terminal: Terminal) -> None:
    """Prices that buy nothing real are marked as such, in the table and in JSON."""
    make_job(terminal.folder)
    assert "PLAY MONEY on the local sandbox" in terminal.run("quote").stdout
    quote = parsed(terminal, "quote", "--json", "--limit", "3")
    assert quote["source"] == "sandbox" and quote["dated"] is None
    assert len(quote["offers"]) == 3
    assert quote["workload"] == {"name": "swatch", "images": 4, "steps": 4}


def test_limit_says_how_many_rows_are_left_out(alone: Terminal) -> None:
    """The best come first; the rest is counted, not hidden."""
    everything = parsed(alone, "quote", "--images", "50", "--limit", "1000", "--json")["offers"]
    shown = alone.run("quote", "--images", "50", "--limit", "2").stdout
    assert f"… and {len(everything) - 2} more (--limit)" in shown
    assert parsed(alone, "quote", "--images", "50", "--limit", "2", "--json")["offers"] == everything[:2]


def test_a_dry_run_checks_quotes_and_rents_nothing(terminal: Terminal) -> None:
    """Job, notes and table as train shows them, and no run in the ledger afterwards."""
    make_job(terminal.folder)
    ended = terminal.run("train", "--budget", "1", "--dry-run")
    assert ended.returncode == 0, ended.stderr
    assert "swatch: 4 images, " in ended.stdout and "all-in cost" in ended.stdout
    assert parsed(terminal, "train", "--budget", "1", "--dry-run", "--json")["offers"]
    assert parsed(terminal, "status", "--all", "--json")["runs"] == []


def test_a_file_that_would_be_replaced_is_named_before_it_costs_anything(terminal: Terminal) -> None:
    """An earlier LoRA of this name is somebody's money too."""
    earlier = make_job(terminal.folder).parent / "output" / "swatch.safetensors"
    assert "will be replaced" not in terminal.run("train", "--budget", "1", "--dry-run").stdout
    earlier.parent.mkdir(exist_ok=True)
    earlier.write_bytes(b"mine")
    assert f"{earlier} will be replaced" in terminal.run("train", "--budget", "1", "--dry-run").stdout


def test_without_a_terminal_consent_is_given_beforehand_or_not_at_all(terminal: Terminal) -> None:
    """Nobody is there to be asked: the error says how to agree beforehand."""
    make_job(terminal.folder)
    piped = terminal.run("train", "--budget", "1")
    assert piped.returncode == 2
    assert "Nobody is there to be asked" in piped.stderr and "Add --yes" in piped.stderr
    as_json = terminal.run("train", "--budget", "1", "--json")
    assert (as_json.returncode, as_json.stdout) == (2, "")
    assert json.loads(as_json.stderr)["hint"] == "Add --yes to agree beforehand."


def test_no_is_an_answer(terminal: Terminal) -> None:
    """On a terminal the question names machine and cap; declining rents nothing, exit 130."""
    make_job(terminal.folder)
    code, shown = terminal.on_screen("train", "--budget", "1", keys="n\n")
    assert code == 130
    assert "Nothing was rented." in shown
    assert "at most $1.00?" in " ".join(shown.split())


def test_without_a_provider_train_says_how_to_get_one(alone: Terminal) -> None:
    """A table of typical prices is no offer."""
    make_job(alone.folder)
    ended = alone.run("train", "--budget", "1", "--yes")
    assert ended.returncode == 2
    assert "no provider can be used" in ended.stderr and "gpurent doctor" in ended.stderr


def test_what_init_writes_is_accepted(terminal: Terminal) -> None:
    """init, pictures, dry run: the files are a start that works as it is; nothing is overwritten unasked."""
    assert terminal.run("init").returncode == 0
    missing = terminal.run("train", "--budget", "10", "--dry-run")
    assert missing.returncode == 2
    assert missing.stderr.startswith(f"error: No dataset at {terminal.folder / 'training_data'}.")
    make_job(terminal.folder / "other")
    (terminal.folder / "other" / "training_data").rename(terminal.folder / "training_data")
    ended = terminal.run("train", "--budget", "10", "--dry-run")
    assert ended.returncode == 0, ended.stderr
    assert "my_lora: 4 images" in ended.stdout
    written = (terminal.folder / "training_config.toml").read_text(encoding="utf-8")
    again = terminal.run("init")
    assert again.returncode == 2
    assert "gpurent.toml and training_config.toml" in again.stderr and "--force" in again.stderr
    assert terminal.run("init", "--force").returncode == 0
    assert (terminal.folder / "training_config.toml").read_text(encoding="utf-8") == written


def test_init_in_another_folder_says_where(alone: Terminal) -> None:
    """The folder is made; the paths that were written are printed."""
    ended = alone.run("init", "cats")
    assert ended.returncode == 0
    assert "wrote cats/gpurent.toml\nwrote cats/training_config.toml\n" in ended.stdout
    assert (alone.folder / "cats" / "gpurent.toml").is_file()
