"""What the documentation shows is run; what it links to exists; what is generated is in step.

A block after ``<!-- not run: reason -->`` or ``<!-- from: file -->`` is only checked for commands and options that
exist. In expected output every number stands for any number, and a line ``…`` for any lines.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
import typer
from tests.session.world import Cli, make_job
from tests.stub.control import StubEngine
from tests.stub.engine import Orders
from tests.thorough import often
from tools import docs as generated

from gpurent.cli.app import app
from gpurent.settings import load_settings
from gpurent_sandbox.server import Sandbox

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted(
    [
        ROOT / "README.md",
        ROOT / "README.ko.md",
        ROOT / "CONTRIBUTING.md",
        *ROOT.glob("docs/**/*.md"),
        *ROOT.glob("examples/*/*.md"),
    ]
)
BLOCK = re.compile(r"(<!-- (?:not run|from): (?P<why>[^>]+?) -->\n)?[ ]*```(?P<kind>\w+)\n(?P<text>.*?)```", re.DOTALL)
LINK = re.compile(r"\]\((?!https?:)([^)#\s]+)")


@dataclass(frozen=True)
class Block:
    """One fenced block of a page."""

    page: Path
    kind: str
    text: str
    run: bool


def blocks(kind: str) -> list[Block]:
    return [
        Block(page, kind, dedent(match["text"]), match["why"] is None)
        for page in PAGES
        for match in BLOCK.finditer(page.read_text(encoding="utf-8"))
        if match["kind"] == kind
    ]


def name(block: Block) -> str:
    return f"{block.page.stem}-{block.text.splitlines()[0][:30]}"


@pytest.fixture(scope="module")
def market(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    """The stub engine says what the pages show of a training; ``tests/cli/test_demo.py`` trains the example."""
    stub = StubEngine(tmp_path_factory.mktemp("stub"))
    stub.order(Orders(step_s=0.01))
    with Sandbox(boot_s=0.2, seed=7, engine=stub.command) as running:
        yield running


@pytest.fixture
def cli(tmp_path: Path, market: Sandbox) -> Cli:
    """A folder with a job, and the examples as in a clone."""
    make_job(tmp_path, steps=3)
    for example in ("fluent-style", "tiny-sd"):
        shutil.copytree(ROOT / "examples" / example, tmp_path / "examples" / example)
    return Cli(tmp_path, market)


def pattern(line: str) -> str:
    return re.sub(r"\d+(\.\d+)?", "N", " ".join(line.split()))


LONG = ("first-lora", "continue")
"""Pages whose commands rent one machine after the other."""


def shell(cli: Cli, command: str, folder: Path) -> str:
    environ = cli.env | {"COLUMNS": "120", "PATH": f"{Path(sys.executable).parent}:{cli.env['PATH']}"}
    ended = subprocess.run(
        ["bash", "-c", command], cwd=folder, env=environ, capture_output=True, text=True, timeout=300
    )
    assert ended.returncode == 0, f"$ {command}\n{ended.stdout}{ended.stderr}"
    return ended.stdout


@pytest.mark.parametrize(
    "page",
    often(sorted({block.page for block in blocks("console")}), lambda page: page.stem not in LONG),
    ids=lambda page: page.stem,
)
def test_commands_print_what_the_page_shows(page: Path, cli: Cli) -> None:
    """All commands of a page run in order in one folder."""
    folder, printed = cli.folder, ""
    for block in (one for one in blocks("console") if one.page == page and one.run):
        for line in block.text.splitlines():
            if line.startswith("$ make "):
                target = line.split()[-1]
                assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
            elif line.startswith("$ cd "):
                folder = folder / line.removeprefix("$ cd ")
            elif line.startswith("$ gpurent init"):
                (empty := cli.folder / "empty").mkdir()
                printed = shell(cli, line.removeprefix("$ "), empty)
            elif line.startswith("$ "):
                printed = shell(cli, line.removeprefix("$ "), folder)
            elif line != "…":
                assert pattern(line) in {pattern(one) for one in printed.splitlines()}, f"{line}\nnot in\n{printed}"


def test_the_korean_readme_shows_the_same_commands_as_the_english_one() -> None:
    """And the same code: what one of them promises, the other does."""
    shown = [
        [
            (block.kind, block.text, block.run)
            for kind in ("console", "python")
            for block in blocks(kind)
            if block.page == page
        ]
        for page in (ROOT / "README.md", ROOT / "README.ko.md")
    ]
    assert shown[0] == shown[1] != []


@pytest.mark.parametrize("block", [one for one in blocks("console") if not one.run], ids=name)
def test_commands_that_are_not_run_exist(block: Block) -> None:
    """A command or option that was renamed is found here."""
    commands: Any = typer.main.get_command(app)
    for words in (line.split()[2:] for line in block.text.splitlines() if line.startswith("$ gpurent ")):
        command, rest = commands, list(words)
        while rest and rest[0] in getattr(command, "commands", {}):
            command = command.commands[rest.pop(0)]
        known = {option for parameter in command.params for option in parameter.opts}
        assert command is not commands and {word for word in rest if word.startswith("--")} <= known


@pytest.mark.parametrize(
    "block", often(blocks("python"), lambda block: block.page.stem in ("README", "python", "batch")), ids=name
)
def test_python_examples_run(block: Block, cli: Cli) -> None:
    """In a folder with a job, against the sandbox; what is not run at least compiles."""
    code = compile(block.text, str(block.page), "exec")
    assert code.co_names
    if block.run:
        ended = subprocess.run(
            [sys.executable, "-c", block.text], cwd=cli.folder, env=cli.env, capture_output=True, text=True, timeout=300
        )
        assert ended.returncode == 0, ended.stderr


@pytest.mark.parametrize("block", blocks("toml"), ids=name)
def test_configuration_examples_are_accepted(block: Block, tmp_path: Path) -> None:
    """gpurent.toml by its own reader, anything else as TOML."""
    assert tomllib.loads(block.text)
    if block.text.startswith("# gpurent.toml"):
        (tmp_path / "gpurent.toml").write_text(block.text, encoding="utf-8")
        load_settings(tmp_path)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    """Relative links and pictures exist, and every page of docs can be reached from its index."""
    missing = [link for link in LINK.findall(page.read_text(encoding="utf-8")) if not (page.parent / link).exists()]
    assert missing == []


def test_every_page_is_in_an_index() -> None:
    """docs/README.md or docs/adr/README.md names it."""
    indexed = {
        (index.parent / link).resolve()
        for index in (ROOT / "docs/README.md", ROOT / "docs/adr/README.md")
        for link in LINK.findall(index.read_text(encoding="utf-8"))
    }
    pages = {page.resolve() for page in ROOT.glob("docs/**/*.md")} - {ROOT / "docs/README.md"}
    assert pages <= indexed


def test_generated_pages_are_in_step() -> None:
    """`make docs` has nothing to write."""
    assert generated.stale() == []


def test_every_trouble_of_this_computer_names_a_test_that_exists() -> None:
    """Each row of the table says what is done, and which test orders exactly that."""
    page = (ROOT / "docs/why/money.md").read_text(encoding="utf-8")
    named = re.findall(r"^\|.*`(\S+)::(\S+)` \|$", page, re.MULTILINE)
    assert len(named) >= 12
    for where, test in named:
        assert f"def {test}(" in (ROOT / "tests" / where).read_text(encoding="utf-8"), test


def test_every_leak_names_a_test_that_exists() -> None:
    """All 47 are there, and what is said to keep them out is really run."""
    rows = (ROOT / "docs/why/leaks.md").read_text(encoding="utf-8").splitlines()
    table = [row.split("|") for row in rows if re.match(r"\| [\d, ]+ \|", row)]
    assert sorted(int(n) for row in table for n in row[1].split(",")) == list(range(1, 48))
    suite = (ROOT / "src/gpurent/testing/conformance.py").read_text(encoding="utf-8")
    for row in table:
        for named in re.findall(r"`([^`]+)`", row[5]):
            where, _, test = named.partition("::") if "::" in named else ("", "", named.removeprefix("conformance: "))
            source = (ROOT / "tests" / where).read_text(encoding="utf-8") if where else suite
            assert f"def {test}(" in source, named
