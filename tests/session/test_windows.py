"""What of Windows can be proven here: no module of POSIX alone, and a console whose encoding lacks most signs."""

from __future__ import annotations

import os
import subprocess
import sys

from tests.session.world import Cli, make_job
from tests.stub.control import StubEngine

PROGRAM = """
import builtins, importlib, pkgutil, sys

POSIX_ONLY = {"fcntl", "grp", "pty", "pwd", "readline", "resource", "syslog", "termios", "tty"}
given = builtins.__import__

def refusing(name, globals=None, locals=None, fromlist=(), level=0):
    asks = (globals or {}).get("__name__", "")
    if asks.split(".")[0].startswith("gpurent") and name in POSIX_ONLY:
        raise ImportError(f"{asks} imports {name}, which Windows has not")
    return given(name, globals, locals, fromlist, level)

builtins.__import__ = refusing
seen = 0
for top in ("gpurent", "gpurent_providers", "gpurent_remote", "gpurent_sandbox.adapter"):
    for one in pkgutil.walk_packages(importlib.import_module(top).__path__, top + "."):
        if not one.name.startswith(("gpurent.testing.", "gpurent.cli.demo", "gpurent.cli.sandbox")):
            importlib.import_module(one.name)
            seen += 1
assert seen > 100, seen
sys.argv = ["gpurent", "train", "--budget", "1", "--yes"]
from gpurent.cli.app import main
main()
"""


def test_a_training_needs_no_module_that_windows_lacks(cli: Cli, stub: StubEngine) -> None:
    """Every module of the client is imported, and a run goes from quote to file on a console of code page 437."""
    make_job(cli.folder)
    ended = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=cli.folder, capture_output=True, check=False, timeout=180,
        env={**cli.env, "PYTHONIOENCODING": "cp437:strict", "PATH": os.environ["PATH"]},
    )  # fmt: skip
    said = (ended.stdout + ended.stderr).decode("cp437")
    assert ended.returncode == 0, said
    assert list((cli.folder / "output").glob("swatch.safetensors")) and cli.sandbox.truth() == []
