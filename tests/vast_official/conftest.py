"""Vast.ai's own client from PyPI, once for all runs in a folder that git does not see, before our look-alike."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import venv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from tests.vast.harness import machines
from tests.warm.client import EARLY, Nest, run

from gpurent_sandbox.server import Sandbox
from gpurent_sandbox.vast import VAST

VERSION = "1.9.1"
DATA = Path(__file__).parent / "data"
LIBRARIES = ("aiohttp.web", "requests", "setuptools.dist", "distutils.util")
"""What the client imports that takes most of the time in which it starts."""


@dataclass(frozen=True)
class Client:
    """``vastai``, unchanged: nothing but its own environment variables lead it to the sandbox."""

    program: Path
    home: Path
    sandbox: Sandbox

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run one command."""
        env = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.home),
            "VASTAI_NO_UPDATE_CHECK": "1",
            "NO_COLOR": "1",
            **{f"XDG_{name}_HOME": str(self.home / name.lower()) for name in ("CONFIG", "CACHE", "STATE", "DATA")},
            **VAST.env(self.sandbox.address),
            **{name: os.environ[name] for name in EARLY if name in os.environ},
        }
        nest = Nest(str(self.program.with_name("python")), LIBRARIES)
        argv = [str(self.program), *arguments]
        return run(argv, cwd=self.home, env=env, main="vastai.cli.main:main", timeout=60, nest=nest)

    def json(self, *arguments: str) -> Any:
        """What a command prints with ``--raw``."""
        ended = self.run(*arguments, "--raw")
        assert ended.stdout.strip(), ended.stderr
        return json.loads(ended.stdout)

    def requests(self, *arguments: str) -> list[dict[str, Any]]:
        """What a command asks of the service."""
        before = len(self.sandbox.journal.entries())
        self.run(*arguments)
        return [
            {
                "method": one.method,
                "path": one.path,
                "body": json.loads(one.body) if one.body else None,
                "query": dict(_pairs(one.query)),
            }
            for one in self.sandbox.journal.entries()[before:]
        ]


def _pairs(query: str) -> list[tuple[str, str]]:
    from urllib.parse import parse_qsl

    return parse_qsl(query)


@pytest.fixture(scope="session")
def program() -> Path:
    """The client's entry, downloaded if it is not there yet."""
    folder = Path(__file__).resolve().parents[2] / ".cache" / f"vastai-{VERSION}"
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / "lock"):
        if not (folder / "complete").exists():
            venv.create(folder / "venv", symlinks=True, clear=True)
            subprocess.run(
                [
                    sys.executable,
                    "-m",
                    "pip",
                    "--python",
                    str(folder / "venv/bin/python"),
                    "install",
                    "--quiet",
                    "--no-compile",
                    "--constraint",
                    str(DATA / "constraints.txt"),
                    f"vastai=={VERSION}",
                ],
                check=True,
                timeout=400,
            )
            (folder / "complete").touch()
    return folder / "venv" / "bin" / "vastai"


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(boot_s=0.2, seed=3, machines=machines(30)) as running:
        yield running
        assert running.truth() == []


@pytest.fixture(scope="module")
def client(program: Path, sandbox: Sandbox, tmp_path_factory: pytest.TempPathFactory) -> Client:
    made = Client(program, tmp_path_factory.mktemp("vast-home"), sandbox)
    made.run("show", "user", "--raw")  # the first command asks more than the others
    return made
