"""A machine whose line is far slower than offered: kept where that does not matter, given back where it does."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable, Iterator

import pytest
from tests.hub import Hub, serving
from tests.session.test_images import failures
from tests.session.world import ROOT, Cli, make_job, wait_for

from gpurent.budget.events import Kind
from gpurent_sandbox.images import Trait
from gpurent_sandbox.server import Sandbox

TINY = ROOT / "examples" / "tiny-sd"
BASE = "stable-diffusion-v1-5/stable-diffusion-v1-5"
UNET = "unet/diffusion_pytorch_model.safetensors"
NEED = '[need]\ngpu = ["L40S", "A100 PCIE"]\n'
"""Machines with wide lines: they pull their image in seconds, so that another one is soon there."""


@pytest.fixture
def hub() -> Iterator[Hub]:
    """A base model of 250 MB, which takes 80 s over 25 Mbit/s and a second over the lines that are offered."""
    files = {one.relative_to(TINY).as_posix(): one.read_bytes() for one in TINY.rglob("*") if one.is_file()}
    with serving(Hub({**files, UNET: bytes(250_000_000)}, BASE)) as made:
        yield made


@pytest.fixture
def job(cli: Cli, hub: Hub) -> Callable[[], None]:
    def write() -> None:
        config = make_job(cli.folder)
        config.write_text(config.read_text(encoding="utf-8").replace(str(TINY), BASE), encoding="utf-8")
        (cli.folder / "gpurent.toml").write_text(f'{NEED}[job]\nhubs = ["{hub.url}"]\n', encoding="utf-8")

    return write


def test_a_slow_machine_is_given_back_and_the_second_that_shows_the_same_is_kept(
    cli: Cli, sandbox: Sandbox, hub: Hub, job: Callable[[], None]
) -> None:
    """What it reads from the hub shows that its line is slow, not ours. When another one shows the same, hub or home
    are slow, and a third would not change that."""
    job()
    sandbox.furnish("*", traits=[Trait.SLOW_LINK])
    client = cli.start("train", "--budget", "1", "--yes")
    wait_for(
        lambda: sum("/tree/" in path for path, _, _ in hub.requests) == 2, "the download"
    )  # the first look is ours
    for _ in range(2):
        client.send_signal(signal.SIGINT)
        time.sleep(0.3)
    said, _ = client.communicate(timeout=60)
    ((trait, why),) = failures(cli)
    assert trait == "slow_line" and "from the hub" in why and sandbox.truth() == []
    assert not any(one.kind is Kind.PREPARED for one in cli.events())
    given_back, _ = json.loads(cli.run("receipt", "--json").stdout)["rentals"]
    assert given_back["failed"] and "offered" in given_back["cause"] and given_back["cost_micros"] > 0
    told = [line for line in said.splitlines() if "The line carries" in line]
    assert len(told) == 2 and all("from the hub" in one for one in told), said
