"""A host downloads the base model by itself, from the hubs that are configured, while it is sent the dataset."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from tests.hub import Hub, serving
from tests.session.test_images import train
from tests.session.world import ROOT, Cli, make_job
from tests.thorough import THE_REST

from gpurent_sandbox.images import Trait
from gpurent_sandbox.server import Sandbox

TINY = ROOT / "examples" / "tiny-sd"


@pytest.fixture
def hub() -> Iterator[Hub]:
    """It holds the tiny model under the name of the usual base."""
    files = {one.relative_to(TINY).as_posix(): one.read_bytes() for one in TINY.rglob("*") if one.is_file()}
    with serving(Hub(files, "stable-diffusion-v1-5/stable-diffusion-v1-5")) as made:
        yield made


@pytest.fixture
def from_hub(cli: Cli, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """A job whose base is named as the guide names it; nothing else of its configuration matters here."""

    def write(base: str = "./models/sd/v1-5-pruned.safetensors", token: str = "") -> None:
        config = make_job(cli.folder)
        text = config.read_text(encoding="utf-8").replace(str(TINY), base)
        config.write_text(text, encoding="utf-8")
        (cli.folder / "gpurent.toml").write_text(f'[job]\nhubs = ["{hub.url}"]\n', encoding="utf-8")
        if token:
            monkeypatch.setenv("HF_TOKEN", token)

    monkeypatch.delenv("HF_TOKEN", raising=False)
    return write


@pytest.mark.parametrize("_engine", ["stub", pytest.param("real", marks=[pytest.mark.real_engine, THE_REST])])
def test_the_guides_base_model_is_downloaded_and_trained(
    cli: Cli, sandbox: Sandbox, hub: Hub, from_hub: Callable[..., None], _engine: str
) -> None:
    """Its file name means a repository; the real engine loads what was downloaded."""
    from_hub()
    ended = cli.run("train", "--budget", "1", "--yes")
    assert ended.returncode == 0 and "is not on this computer" in ended.stdout + ended.stderr, ended.stderr
    assert (cli.folder / "output/swatch.safetensors").exists()
    assert any("/resolve/" in path for path, _, _ in hub.requests) and sandbox.truth() == []


def test_a_gated_model_wants_a_token_and_costs_no_machine(
    cli: Cli, sandbox: Sandbox, hub: Hub, from_hub: Callable[..., None]
) -> None:
    """One look at home is enough; the hint says what to do."""
    hub.token = "hf_right"
    from_hub()
    status, receipt, said = train(cli)
    assert status == 2 and "gated or private" in said and "HF_TOKEN" in said
    assert receipt == {} and sandbox.truth() == []


def test_a_token_reaches_the_hub_and_stays_nowhere(
    cli: Cli, sandbox: Sandbox, hub: Hub, from_hub: Callable[..., None], tmp_path: Path
) -> None:
    """In no log, ledger or file of the run, and in no file of the machine while it trains."""
    hub.token = "hf_right_and_long_enough"
    from_hub(token=hub.token)
    client = cli.begin()
    hosts = [one for one in sandbox.state_dir.rglob("*") if one.is_file() and not one.is_symlink()]
    held = []
    for one in hosts:
        with suppress(FileNotFoundError):  # it trains meanwhile: parts of files are renamed
            held += [one] if hub.token.encode() in one.read_bytes() else []
    assert held == []
    out, _ = client.communicate(timeout=120)
    assert client.returncode == 0, out
    kept = [one for one in tmp_path.rglob("*") if one.is_file()]
    assert [one for one in kept if hub.token.encode() in one.read_bytes()] == []


def test_a_machine_that_cannot_reach_the_hub_is_given_back(
    cli: Cli, sandbox: Sandbox, hub: Hub, from_hub: Callable[..., None]
) -> None:
    """It cannot look the hub's name up, which is found out before anything is sent to it."""
    from_hub()
    settings = cli.folder / "gpurent.toml"
    settings.write_text(settings.read_text().replace("127.0.0.1", "hub.localhost.invalid"), encoding="utf-8")
    sandbox.furnish("*", traits=[Trait.NO_DNS])
    status, _, said = train(cli)
    assert status == 1 and "it cannot look up" in said and "hub.localhost.invalid" in said and sandbox.truth() == []
