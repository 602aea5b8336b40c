"""A small job and a command line against a sandbox."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

from PIL import Image
from tests.warm import client as warm
from tests.warm.client import Command, Process

from gpurent.budget.events import Event, Kind
from gpurent.budget.ledger import Ledger
from gpurent.clock import SystemClock
from gpurent_sandbox.address import SandboxAddress
from gpurent_sandbox.catalogue import Machine, default_machines
from gpurent_sandbox.journal import VIOLATIONS
from gpurent_sandbox.server import Sandbox

ROOT = Path(__file__).resolve().parents[2]
STARTED: list[Command] = []


def reachable(seed: int) -> list[Machine]:
    """The sandbox's usual machines, each with an address: outside of data centres, RunPod's seldom have one."""
    return [replace(one, open_ports=True) for one in default_machines(random.Random(seed))]


def make_job(folder: Path, *, steps: int = 4, extra: str = "") -> Path:
    """Write a dataset of four pictures and a configuration; return its path."""
    pictures = folder / "training_data" / "2_colours"
    pictures.mkdir(parents=True)
    for number, colour in enumerate(("red", "green", "blue", "gold")):
        Image.new("RGB", (64, 64), colour).save(pictures / f"{colour}.png")
        (pictures / f"{colour}.txt").write_text(f"swatch, {colour} heart {number}", encoding="utf-8")
    config = folder / "training_config.toml"
    config.write_text(
        f"""
[model]
pretrained_model_name_or_path = "{ROOT / "examples" / "tiny-sd"}"
[dataset]
train_data_dir = "training_data"
resolution = 64
batch_size = 4
[training]
output_dir = "output"
output_name = "swatch"
max_train_steps = {steps}
network_dim = 2
network_alpha = 2
learning_rate = 1e-3
{extra}
""",
        encoding="utf-8",
    )
    return config


@dataclass
class Cli:
    """Runs the real command line as a process of its own. ``leads``: how an adapter is led to the sandbox."""

    folder: Path
    sandbox: Sandbox
    leads: Callable[[SandboxAddress], dict[str, str]] = SandboxAddress.env
    watchdog: str = "false"
    state: Path | None = None
    """Of ledger and runs; below ``folder`` when left out."""
    grids: bool = False
    """Whether each training ends with a grid, which most tests have no use for."""
    afresh: bool = False
    """Started afresh for each command, which takes most of a second: for tests that look into ``/proc``."""

    @property
    def env(self) -> dict[str, str]:
        foreign = ("GPURENT_", "VAST_", "RUNPOD_")
        inherited = {
            name: value for name, value in os.environ.items() if not name.startswith(foreign) or name == VIOLATIONS
        }
        return {
            **inherited,
            **self.leads(self.sandbox.address),
            "GPURENT_STATE_DIR": str(self.home),
            "OMP_NUM_THREADS": "1",
            "GPURENT_BUDGET_WATCHDOG": self.watchdog,
            "GPURENT_JOB_GRID": str(self.grids).lower(),
        }

    @property
    def home(self) -> Path:
        return self.state or self.folder / "state"

    def argv(self, *arguments: str) -> list[str]:
        return [str(Path(sys.executable).parent / "gpurent"), *arguments]

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        if not self.afresh:
            return warm.run(self.argv(*arguments), cwd=self.folder, env=self.env, timeout=240)
        return subprocess.run(
            self.argv(*arguments), cwd=self.folder, env=self.env, capture_output=True, text=True, check=False,
            timeout=240,
        )  # fmt: skip

    def start(self, *arguments: str) -> Command:
        started = warm.start(
            self.argv(*arguments), cwd=self.folder, env=self.env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            start_new_session=True,
        )  # fmt: skip
        STARTED.append(started)
        return started

    def begin(self, moment: Kind = Kind.PROGRESS) -> Command:
        """A run in a process of its own that has come as far as ``moment``."""
        client = self.start("train", "--budget", "1", "--yes")
        self.wait(moment)
        return client

    def wait(self, moment: Kind) -> None:
        """Until the ledger has a line of this kind."""
        wait_for(lambda: self._written(moment), str(moment))

    def _written(self, kind: Kind) -> bool:
        """Asked twenty times a second: SQL costs a tenth of what it takes to open the ledger and to read its lines."""
        path = self.home / "ledger.db"
        if not path.exists():
            return False
        with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as database:
            try:
                found = database.execute("SELECT 1 FROM events WHERE kind = ? LIMIT 1", (kind.value,)).fetchone()
            except sqlite3.OperationalError:  # its table is being made, or it is locked
                return False
        return found is not None

    def events(self) -> list[Event]:
        path = self.home / "ledger.db"
        if not path.exists():
            return []
        ledger = Ledger.open(path, SystemClock())
        try:
            return ledger.events()
        finally:
            ledger.close()


def wait_for(condition: Callable[[], bool], what: str, seconds: float = 180.0, every_s: float = 0.05) -> None:
    """Poll; fail loudly."""
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, f"{what} did not happen within {seconds} s"
        time.sleep(every_s)


def end_started() -> None:
    """A test that fails leaves its commands behind; none is to disturb the next test."""
    while STARTED:
        process = STARTED.pop()
        if process.poll() is None:
            kill(process)
        if process.stdout is not None:
            process.stdout.close()


def kill(process: Process) -> None:
    """kill -9, and wait for the corpse."""
    process.send_signal(signal.SIGKILL)
    process.communicate()
