"""How the command starts, what it loads, and how it fits into a shell."""

from __future__ import annotations

import re
import statistics
import subprocess
import sys
import time
from importlib import metadata

import pytest
from tests.cli.world import COMMAND, Terminal
from tests.session.world import make_job

from gpurent.cli import exits

HEAVY = {
    "torch", "diffusers", "transformers", "numpy", "paramiko", "fabric", "sqlalchemy", "httpx", "PIL",
    "gpurent_providers", "gpurent_remote", "gpurent_engine",
}  # fmt: skip
PROVIDER_COMMANDS = ("train", "status", "logs", "attach", "stop", "reap", "receipt", "providers", "doctor", "init")


def loaded(*arguments: str) -> set[str]:
    """Top-level packages in the process of a command, as it ends."""
    code = (
        "import sys, atexit\n"
        "atexit.register(lambda: print(*{name.split('.')[0] for name in sys.modules}, file=sys.stderr))\n"
        f"sys.argv = ['gpurent', *{list(arguments)!r}]\n"
        "from gpurent.cli.app import main\n"
        "main()\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    return set(ended.stderr.split())


@pytest.mark.parametrize("arguments", [("--help",), ("quote", "--help"), ("train", "--help"), ("--version",)])
def test_help_loads_nothing_heavy(arguments: tuple[str, ...]) -> None:
    """Neither torch nor SSH nor an adapter is imported to print a page of help."""
    assert loaded(*arguments) & HEAVY == set()


def test_help_takes_little_longer_than_typer_itself() -> None:
    """Side by side with an interpreter that only imports typer, the help page takes less than five times as long."""

    def seconds(*argv: str) -> float:
        start = time.perf_counter()
        subprocess.run(argv, check=True, capture_output=True)
        return time.perf_counter() - start

    pairs = [(seconds(COMMAND, "--help"), seconds(sys.executable, "-c", "import typer")) for _ in range(5)]
    assert statistics.median(ours / bare for ours, bare in pairs) < 5


def test_help_lists_every_exit_code(alone: Terminal) -> None:
    """A script's author finds the codes without leaving the terminal; no command's summary is cut short."""
    shown = alone.run("--help").stdout
    flowing = " ".join(shown.split())
    for code, meaning in exits.CODES:
        assert f"{code} {meaning}" in flowing
    assert "..." not in shown.replace("COMMAND [ARGS]...", "")


@pytest.mark.parametrize("command", [*PROVIDER_COMMANDS, "quote", "demo", "sandbox", "sandbox up", "sandbox env"])
def test_every_command_explains_itself(alone: Terminal, command: str) -> None:
    """--help and -h work everywhere and exit 0."""
    long, short = alone.run(*command.split(), "--help"), alone.run(*command.split(), "-h")
    assert long.returncode == short.returncode == 0
    assert long.stdout == short.stdout
    assert f"Usage: gpurent {command} " in long.stdout


def test_the_version_is_the_installed_one(alone: Terminal) -> None:
    """--version answers what a bug report asks for."""
    assert alone.run("--version").stdout == f"gpurent {metadata.version('gpurent')}\n"


def test_the_shell_completes_commands_and_options(alone: Terminal) -> None:
    """The script that --show-completion prints is valid bash, and what it calls knows commands and options."""
    script = alone.run(_GPURENT_COMPLETE="source_bash").stdout
    assert "complete -o default -F _gpurent_completion gpurent" in script
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)

    def completed(line: str) -> list[str]:
        words = str(len(line.split(" ")) - 1)
        answer = alone.run(_GPURENT_COMPLETE="complete_bash", COMP_WORDS=line, COMP_CWORD=words)
        return answer.stdout.split()

    assert completed("gpurent st") == ["status", "stop"]
    assert completed("gpurent train --bu") == ["--budget"]
    assert completed("gpurent sandbox ") == ["up", "env"]


@pytest.mark.parametrize(
    "arguments",
    [
        ("quote", "--gpu", "4090", "--images", "50"),
        ("status",),
        ("doctor",),
        ("providers",),
        ("train",),
        ("receipt", "x"),
    ],
)
def test_piped_output_has_no_escape_codes(alone: Terminal, arguments: tuple[str, ...]) -> None:
    """What goes into a file or through grep is text and nothing but text, without padding at the ends of sentences."""
    ended = alone.run(*arguments)
    assert "\x1b" not in ended.stdout + ended.stderr
    assert ended.stdout + ended.stderr


def test_no_color_is_honoured_on_a_screen(alone: Terminal) -> None:
    """On a terminal there is style; with NO_COLOR there is none, in tables and in errors."""
    table = ("quote", "--gpu", "4090", "--images", "50")
    assert "\x1b[" in alone.on_screen(*table)[1]
    assert "\x1b" not in alone.on_screen(*table, NO_COLOR="1")[1]
    assert "\x1b[" in alone.on_screen("train")[1]
    assert "\x1b" not in alone.on_screen("train", NO_COLOR="1")[1]


def test_the_quote_fits_an_old_terminal(alone: Terminal) -> None:
    """No line of the table is wider than 80 columns, and nothing is cut."""
    shown = re.sub(r"\x1b\[[0-9;]*m", "", alone.on_screen("quote", "--images", "50")[1])
    assert max(len(line.rstrip()) for line in shown.splitlines()) <= 80
    assert "…" not in shown.replace("… and ", "")


def test_brackets_in_names_are_shown_as_they_are(alone: Terminal) -> None:
    """A folder called [red] is neither markup nor lost."""
    folder = alone.folder / "[red] :cat:"
    folder.mkdir()
    make_job(folder)
    (folder / "training_data" / "2_colours" / "red.png").write_bytes(b"")
    ended = alone.run("train", "--budget", "1", "--config", f"{folder}/training_config.toml",
                      "--dataset", f"{folder}/training_data", "--dry-run")  # fmt: skip
    assert "[red] :cat:/training_data/2_colours/red.png" in ended.stderr
