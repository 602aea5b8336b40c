"""A whole run on machines with a real OpenSSH server, whose sessions see what OpenSSH gives them and nothing else."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.container.hosts import ContainedHosts, why_not
from tests.session.world import Cli, make_job
from tests.stub.control import StubEngine
from tests.thorough import often

from gpurent.budget.events import Kind
from gpurent.tensorfile import tensor_shapes
from gpurent_remote.identity import CLIENT
from gpurent_sandbox.server import Sandbox


@pytest.fixture
def sandbox(stub: StubEngine, request: pytest.FixtureRequest) -> Iterator[Sandbox]:
    if why_not():
        pytest.skip(why_not())
    real = request.node.get_closest_marker("real_engine") is not None
    with Sandbox(boot_s=0.2, seed=7, engine=() if real else stub.command, hosts=ContainedHosts) as running:
        yield running


@pytest.fixture
def cli(tmp_path: Path, sandbox: Sandbox) -> Cli:
    return Cli(tmp_path, sandbox)


@pytest.mark.parametrize("image", often(["pytorch-runtime", "runpod-pytorch", "vastai-pytorch"], ["runpod-pytorch"]))
def test_a_run_through_openssh_brings_its_lora_home(cli: Cli, sandbox: Sandbox, image: str) -> None:
    """From the start-up script to the file at home: no session has the image's Python in its PATH."""
    make_job(cli.folder)
    sandbox.furnish("*", image)
    ended = cli.run("train", "--budget", "1", "--yes")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert (cli.folder / "output/swatch.safetensors").stat().st_size > 0
    assert sum(one.kind is Kind.CREATED for one in cli.events()) == 1
    assert sandbox.truth() == []


@pytest.mark.real_engine
@pytest.mark.thorough(shown_by="tests/container/test_openssh.py::test_a_run_through_openssh_brings_its_lora_home")
def test_the_real_engine_trains_behind_openssh(cli: Cli, sandbox: Sandbox) -> None:
    """torch is found although only the environment of process 1 tells where its Python is."""
    make_job(cli.folder, steps=2)
    ended = cli.run("train", "--budget", "1", "--yes")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert tensor_shapes(cli.folder / "output/swatch.safetensors")
    assert sandbox.truth() == []


def test_a_session_sees_the_path_of_sshd_and_no_python(cli: Cli, sandbox: Sandbox) -> None:
    """The machine is what it is taken for: real OpenSSH, ``PATH`` without the image's, no interpreter.

    The image's is in what the start-up script wrote down: sshd, as process 1, writes its title over its environment.
    """
    make_job(cli.folder, steps=400)
    client = cli.begin()
    (host,) = sandbox._hosts.live.values()  # type: ignore[union-attr]
    key = next((cli.home / "runs").glob(f"*/keys/*/{CLIENT}"))
    said = subprocess.run(
        ["ssh", "-F", "none", "-i", str(key), "-p", str(host.port_number), "-o", "StrictHostKeyChecking=no",
         "-o", f"UserKnownHostsFile={cli.folder}/known", "root@127.0.0.1",
         "echo $PATH; command -v python3 python gcc; grep ' PATH=' .gpurent/env"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    path, *found = said.stdout.splitlines()
    assert "conda" not in path and len(found) == 1 and "/opt/conda/bin" in found[0], said
    client.send_signal(signal.SIGINT)
    assert client.wait(timeout=120) == 130
