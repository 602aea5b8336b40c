"""A whole run on every kind of image and machine: trained where it can be, refused by name where it cannot."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tests.session.world import Cli, make_job
from tests.thorough import often

from gpurent.budget.events import Kind
from gpurent_sandbox.images import IMAGES, Trait
from gpurent_sandbox.runpod import RUNPOD
from gpurent_sandbox.server import Sandbox
from gpurent_sandbox.vast import VAST

FITS = (
    Trait.SLOW_LINK, Trait.READ_ONLY_WORKSPACE, Trait.CLOCK_AHEAD, Trait.CLOCK_BEHIND, Trait.NO_DNS, Trait.NOISE,
)  # fmt: skip
"""What does not keep a machine from training a job that comes from here."""
REFUSED = {
    Trait.NO_CUDA: "no GPU can be used on it",
    Trait.OLD_DRIVER: 'driver "470.256.02" runs CUDA "11.4"',
    Trait.CAPABILITY_6_1: "compute capability 6.1",
    Trait.WRONG_RESULT: "its GPU computes wrongly",
    Trait.VRAM_IN_USE: "0.5 GB of its GPU's",
    Trait.RAM_2_GB: "2.0 GB of main memory",
    Trait.NOT_ROOT: "is not the one that our start-up script prepared",
    Trait.NO_SFTP: "no SFTP",
}


def best(cli: Cli) -> str:
    """The machine that a run here rents first."""
    offers = json.loads(cli.run("quote", "--json").stdout)["offers"]
    return str(offers[0]["id"])


def train(cli: Cli) -> tuple[int, dict[str, Any], str]:
    ended = cli.run("train", "--budget", "1", "--yes", "--json")
    lines = [json.loads(line) for line in ended.stdout.splitlines()]
    receipt: dict[str, Any] = next((line["receipt"] for line in lines if line["event"] == "receipt"), {})
    return ended.returncode, receipt, ended.stdout + ended.stderr


def failures(cli: Cli) -> list[tuple[str, str]]:
    return [
        (str(one.data.get("detail", {}).get("trait")), str(one.data["reason"]))  # type: ignore[union-attr]
        for one in cli.events()
        if one.kind is Kind.MACHINE_FAILED
    ]


@pytest.mark.parametrize("image", often([name for name in IMAGES if name != "bare"], ["vastai-pytorch"]))
def test_every_image_with_torch_trains(cli: Cli, sandbox: Sandbox, image: str) -> None:
    """Wherever its Python is, and whatever a session's PATH and a login's greeting are."""
    make_job(cli.folder)
    sandbox.furnish("*", image)
    status, receipt, said = train(cli)
    assert status == 0, said
    assert [line["failed"] for line in receipt["rentals"]] == [False]


@pytest.mark.parametrize("trait", often(FITS, [Trait.READ_ONLY_WORKSPACE, Trait.NOISE]))
def test_a_trait_that_does_not_matter_does_not_stop_a_run(cli: Cli, sandbox: Sandbox, trait: Trait) -> None:
    """Noise before every command, a slow line, a clock that is hours off: the first machine trains."""
    make_job(cli.folder)
    sandbox.furnish("*", traits=[trait])
    status, receipt, said = train(cli)
    assert status == 0, said
    assert [line["failed"] for line in receipt["rentals"]] == [False]


@pytest.mark.parametrize("trait", often(REFUSED, [Trait.OLD_DRIVER, Trait.NO_SFTP]))
def test_a_machine_that_cannot_train_is_given_back_and_the_next_one_trains(
    cli: Cli, sandbox: Sandbox, trait: Trait
) -> None:
    """Named, with what the attempt cost; nothing was sent to it, and the next run leaves it out if it is to blame."""
    make_job(cli.folder)
    first = best(cli)
    sandbox.furnish(first, traits=[trait])
    status, receipt, said = train(cli)
    assert status == 0, said
    given_back, trained = receipt["rentals"]
    assert given_back["failed"] and REFUSED[trait] in given_back["cause"] and given_back["cost_micros"] > 0
    assert not trained["failed"] and trained["cause"] == ""
    ((named, _),) = failures(cli)
    assert named not in ("None", "")
    assert not any(one.kind is Kind.PREPARED and str(one.tag).endswith("-1") for one in cli.events())
    assert (best(cli) == first) is (trait is Trait.NO_SFTP)  # which is the image's fault
    assert sandbox.truth() == []


def test_a_bad_image_costs_two_machines_and_no_good_name(cli: Cli, sandbox: Sandbox) -> None:
    """Two that show the same are proof enough; neither is left out of the next run."""
    make_job(cli.folder)
    first = best(cli)
    sandbox.furnish("*", "bare")
    status, _, said = train(cli)
    assert status == 1 and "torch cannot be imported" in said and "[need] image" in said
    assert [trait for trait, _ in failures(cli)] == ["no_torch", "no_torch"]
    assert best(cli) == first and sandbox.truth() == []


@pytest.mark.parametrize("leads", often([VAST.env, RUNPOD.env], [RUNPOD.env]))
def test_a_look_alike_says_that_its_gpu_is_simulated(cli: Cli, leads: Any) -> None:
    """What trains on a CPU is never silent about it."""
    make_job(cli.folder)
    cli.leads = leads
    status, _, said = train(cli)
    assert status == 0 and "Warning: there is no GPU here" in said
