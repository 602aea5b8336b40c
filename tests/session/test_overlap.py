"""Packages, base model and dataset come to a machine side by side: the longest of them is waited for, not all."""

from __future__ import annotations

import signal
import threading
import time
from pathlib import Path

from tests.hub import Hub, serving
from tests.session.world import ROOT, Cli, make_job, wait_for

from gpurent_sandbox.images import Trait
from gpurent_sandbox.server import Sandbox

TINY = ROOT / "examples" / "tiny-sd"
BASE = "stable-diffusion-v1-5/stable-diffusion-v1-5"
LONGEST_S = 60.0


class Meeting:
    """Answers to a machine's package installation and to its download of the base model wait for each other, and for
    the dataset to be complete there. What comes one after the other never meets."""

    def __init__(self, machines: Path) -> None:
        self.machines = machines
        self.met: list[str] = []
        self.all_there = threading.Event()
        self._listings = 0

    def __call__(self, path: str) -> None:
        self._listings += "/tree/" in path  # the first is this computer's look at the hub, the second the machine's
        if path.startswith("/simple/"):
            self._wait("packages")
        elif "/resolve/" in path and self._listings >= 2:
            self._wait("base model")

    def _wait(self, who: str) -> None:
        if who not in self.met:
            self.met.append(who)
        until = time.monotonic() + LONGEST_S
        while not self.all_there.is_set() and time.monotonic() < until:
            if {"packages", "base model"} <= set(self.met) and len(list(self.machines.rglob("data/*/*.png"))) == 4:
                self.met.append("dataset")
                self.all_there.set()
            time.sleep(0.05)


def begun_and_sent(machines: Path) -> tuple[int, int]:
    """When the later of the two jobs was started, and when the first picture was there, by the machine's files."""
    jobs = [one for what in ("install", "base") for one in machines.rglob(f"jobs/*-{what}/pid")]
    assert len(jobs) == 2
    pictures = [one.stat().st_mtime_ns for one in machines.rglob("data/*/*.png")]
    return max(one.stat().st_mtime_ns for one in jobs), min(pictures)


def test_packages_base_model_and_dataset_arrive_side_by_side(cli: Cli, sandbox: Sandbox) -> None:
    """While pip waits for its index and the download for the hub, the dataset is sent to the end."""
    files = {one.relative_to(TINY).as_posix(): one.read_bytes() for one in TINY.rglob("*") if one.is_file()}
    machines = sandbox.state_dir / "hosts"
    meeting = Meeting(machines)
    with serving(Hub(files, BASE, before=meeting)) as hub:
        config = make_job(cli.folder)
        config.write_text(config.read_text(encoding="utf-8").replace(str(TINY), BASE), encoding="utf-8")
        (cli.folder / "gpurent.toml").write_text(f'[job]\nhubs = ["{hub.url}"]\n', encoding="utf-8")
        sandbox.furnish("*", traits=[Trait.NO_PACKAGES])
        client = cli.start("train", "--budget", "1", "--yes")
        wait_for(lambda: any(machines.glob("*/root")), "a machine")
        for home in machines.glob("*/root"):
            (home / ".config/pip").mkdir(parents=True)
            (home / ".config/pip/pip.conf").write_text(f"[global]\nindex-url = {hub.url}/simple/\n", encoding="utf-8")
        met = meeting.all_there.wait(LONGEST_S)
        begun, sent = begun_and_sent(machines)
        for _ in range(2):
            client.send_signal(signal.SIGINT)
            time.sleep(0.3)
        said, _ = client.communicate(timeout=60)
    assert met, f"only {meeting.met} came: {said}"
    assert sandbox.truth() == []
    assert begun < sent, "the dataset was there before the machine had begun with anything else"
