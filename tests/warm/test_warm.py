"""A command that was forked is like one that was started afresh."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.session.world import wait_for
from tests.warm import client as warm

PROGRAM = Path(sys.executable).parent / "gpurent"


def show() -> None:
    """What a process can tell of itself."""
    print(sys.argv, Path.cwd(), sorted(os.environ.items()), os.getsid(0) == os.getpid())
    print(sys.stdin.read(), file=sys.stderr)
    sys.exit(7)


def sleep() -> None:
    print("ready", flush=True)
    time.sleep(60)


def interrupted(command: warm.Command) -> str:
    assert command.stdout is not None and command.stdout.readline() == "ready\n"
    command.send_signal(signal.SIGINT)
    return command.communicate(timeout=60)[0]


def env(tmp_path: Path) -> dict[str, str]:
    return {**os.environ, "GPURENT_STATE_DIR": str(tmp_path), "COLUMNS": "80"}


def test_it_has_arguments_environment_folder_and_input_as_given(tmp_path: Path) -> None:
    """And the exit status and both outputs come back."""
    given = {name: os.environ[name] for name in warm.EARLY if name in os.environ} | {"A": "ä"}
    ended = warm.run(["x", "y"], cwd=tmp_path, env=given, main=f"{__name__}:show", typed="hello ö", timeout=60)
    assert ended.stdout == f"{['x', 'y']} {tmp_path} {sorted(given.items())} False\n"
    assert (ended.stderr, ended.returncode) == ("hello ö\n", 7)


@pytest.mark.parametrize("arguments", [["--version"], ["status"], ["tarin"], ["train"], ["quote", "--help"]])
def test_a_command_says_what_it_says_when_it_is_started_again(tmp_path: Path, arguments: list[str]) -> None:
    """Outputs and exit status agree, help and errors included."""
    argv = [str(PROGRAM), *arguments]
    alone = subprocess.run(argv, cwd=tmp_path, env=env(tmp_path), capture_output=True, text=True, check=False)
    forked = warm.run(argv, cwd=tmp_path, env=env(tmp_path), timeout=60)
    assert (forked.returncode, forked.stdout, forked.stderr) == (alone.returncode, alone.stdout, alone.stderr)


def test_it_dies_of_signals_as_any_process(tmp_path: Path) -> None:
    """Nothing is caught that the command does not catch itself."""
    command = warm.start(["x"], cwd=tmp_path, env=env(tmp_path), main=f"{__name__}:sleep", stdout=subprocess.PIPE,
                         stderr=subprocess.STDOUT, start_new_session=True)  # fmt: skip
    wait_for(lambda: os.getsid(command.pid) == command.pid, "a session of its own", 10)
    assert command.poll() is None
    assert "KeyboardInterrupt" in interrupted(command) and command.returncode == -signal.SIGINT
    killed = warm.start(["x"], cwd=tmp_path, env=env(tmp_path), main=f"{__name__}:sleep", stdout=subprocess.DEVNULL)
    with pytest.raises(subprocess.TimeoutExpired):
        killed.wait(0.1)
    killed.kill()
    assert killed.wait(60) == -signal.SIGKILL and killed.poll() == -signal.SIGKILL


def test_a_terminal_controls_it(tmp_path: Path) -> None:
    """Ctrl-C is a key there like any other."""
    ours, theirs = pty.openpty()
    command = warm.start(["x"], cwd=tmp_path, env=env(tmp_path), main=f"{__name__}:sleep", stdin=theirs, stdout=theirs,
                         stderr=theirs, start_new_session=True, terminal=True)  # fmt: skip
    os.close(theirs)
    assert os.read(ours, 100) == b"ready\r\n"
    os.write(ours, b"\x03")
    assert command.wait(60) == -signal.SIGINT
    os.close(ours)


def test_what_python_reads_as_it_starts_cannot_be_changed(tmp_path: Path) -> None:
    """Such a command is started afresh."""
    with pytest.raises(AssertionError, match="afresh"):
        warm.run(["x"], cwd=tmp_path, env={**env(tmp_path), "LC_ALL": "C", "PYTHONUTF8": "0"}, timeout=60)
