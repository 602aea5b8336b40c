"""A sandbox whose engine learns nothing, and jobs that share a dataset and a base model."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.session.conftest import cli, sandbox
from tests.session.world import Cli, make_job

from gpurent import Broker, Job
from gpurent.clock import SystemClock
from gpurent.jobs.boot import Patience
from gpurent.jobs.progress import Progress
from gpurent_remote import SshConnector
from gpurent_remote.host import Waits

__all__ = ["cli", "sandbox"]
QUICK = Patience(
    boot_s=15, poll_s=0.1, connect_s=15, search_s=3, destroy_s=30, confirm_every_s=0.1, follow_s=0.1, state_s=0.2
)


@dataclass
class Ground:
    """A broker in this process, and what it said."""

    cli: Cli
    broker: Broker
    said: list[Progress]
    config: Path

    def jobs(self, *names: str, steps: int = 4) -> list[Job]:
        """Jobs that differ in their names, and in how long they are: the first is the shortest."""
        return [self.job(name, f"max_train_steps = {steps + index}") for index, name in enumerate(names)]

    def job(self, name: str, *lines: str) -> Job:
        """One job of its own configuration file; the last of two equal keys wins, as in any table of kohya's."""
        text = self.config.read_text(encoding="utf-8")
        keys = {line.partition(" =")[0] for line in lines}
        kept = [line for line in text.splitlines() if line.partition(" =")[0] not in keys]
        path = self.config.with_name(f"{name}.toml")
        path.write_text("\n".join([*kept, *lines, ""]), encoding="utf-8")
        return Job.from_config(path, name=name)

    def tell(self, event: Progress) -> None:
        self.said.append(event)


@pytest.fixture
def ground(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ground]:
    for name, value in cli.sandbox.env().items():
        monkeypatch.setenv(name, value)
    impatient = SshConnector(SystemClock(), Waits(patience_s=1.0))
    with Broker(home=cli.home, patience=QUICK, connector=impatient) as broker:
        yield Ground(cli, broker, [], make_job(cli.folder))
