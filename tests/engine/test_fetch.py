"""A base model is downloaded whole, compared with the hub's digests, and resumed; and why it is not is told."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.hub import Hub, serving

from gpurent_engine import fetch
from gpurent_engine.fetch import DAMAGED, GATED, MISSING, UNREACHABLE, FetchError, Order, wanted

FILES = {
    "model_index.json": b"{}", "scheduler/scheduler_config.json": b'{"x": 1}', "tokenizer/vocab.json": b"{}",
    "unet/config.json": b"{}", "unet/diffusion_pytorch_model.safetensors": b"u" * 5000,
    "unet/diffusion_pytorch_model.fp16.safetensors": b"h" * 2500,
    "unet/diffusion_pytorch_model.bin": b"p" * 5000,
    "vae/config.json": b"{}", "vae/diffusion_pytorch_model.safetensors": b"v" * 3000,
    "vae/diffusion_pytorch_model.fp16.safetensors": b"w" * 1500,
    "text_encoder/config.json": b"{}", "text_encoder/model.safetensors": b"t" * 1200,
    "safety_checker/model.safetensors": b"s" * 9000, "v1-5-pruned.safetensors": b"x" * 9000, "README.md": b"read",
}  # fmt: skip
USED = {
    "model_index.json", "scheduler/scheduler_config.json", "tokenizer/vocab.json", "unet/config.json",
    "unet/diffusion_pytorch_model.fp16.safetensors", "vae/config.json", "vae/diffusion_pytorch_model.safetensors",
    "text_encoder/config.json", "text_encoder/model.safetensors",
}  # fmt: skip


@pytest.fixture
def hub() -> Iterator[Hub]:
    with serving(Hub(dict(FILES))) as made:
        yield made


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small segments, short pauses, and no models of this computer."""
    monkeypatch.setattr(fetch, "SEGMENT", 700)
    monkeypatch.setattr(fetch, "PAUSE_S", 0.001)
    monkeypatch.setattr(fetch, "PLACES", ())
    monkeypatch.delenv("HF_HOME", raising=False)


def order(hub: Hub, folder: Path, **changes: object) -> Order:
    return replace(Order(hub.repository, folder / "model", endpoints=(hub.url,)), **changes)  # type: ignore[arg-type]


def files(folder: Path) -> dict[str, bytes]:
    root = folder / "model"
    return {one.relative_to(root).as_posix(): one.read_bytes() for one in root.rglob("*") if one.is_file()}


def test_only_what_training_uses_is_loaded(hub: Hub, tmp_path: Path) -> None:
    """fp16 weights where there are some, the VAE in float32; no pickles, no safety checker, no whole checkpoints."""
    count = fetch.fetch(order(hub, tmp_path))
    assert files(tmp_path) == {path: FILES[path] for path in USED}
    assert count == sum(len(FILES[path]) for path in USED)


def test_a_second_time_nothing_is_loaded(hub: Hub, tmp_path: Path) -> None:
    """A machine that trained already has it."""
    fetch.fetch(order(hub, tmp_path))
    assert fetch.fetch(order(hub, tmp_path)) == 0


@pytest.mark.parametrize("ranges", [True, False])
def test_a_download_goes_on_after_cuts(hub: Hub, tmp_path: Path, ranges: bool) -> None:
    """From where it broke off, also at a server that knows no ranges."""
    hub.cut, hub.ranges = 8, ranges
    fetch.fetch(order(hub, tmp_path))
    assert files(tmp_path) == {path: FILES[path] for path in USED}


def test_large_files_are_loaded_by_several_streams(hub: Hub, tmp_path: Path) -> None:
    """In ranges that do not overlap."""
    fetch.fetch(order(hub, tmp_path))
    asked = {span for path, span, _ in hub.requests if path.endswith("unet/diffusion_pytorch_model.fp16.safetensors")}
    assert asked == {"bytes=0-699", "bytes=700-1399", "bytes=1400-2099", "bytes=2100-2499"}


def test_a_hub_that_is_busy_is_asked_again(hub: Hub, tmp_path: Path) -> None:
    """429 with the pause that it names."""
    hub.busy = 5
    assert fetch.fetch(order(hub, tmp_path)) > 0


def test_bytes_that_are_not_the_listed_ones_do_not_stay(hub: Hub, tmp_path: Path) -> None:
    """No matter who sends them."""
    hub.damaged = True
    with pytest.raises(FetchError, match="digest") as failed:
        fetch.fetch(order(hub, tmp_path))
    assert failed.value.status == DAMAGED and files(tmp_path) == {}


@pytest.mark.parametrize(("token", "said"), [("", "set HF_TOKEN"), ("hf_wrong", "the token has no access")])
def test_a_gated_repository_says_what_it_wants(hub: Hub, tmp_path: Path, token: str, said: str) -> None:
    """Without a token, and with one that does not help."""
    hub.token = "hf_right"
    with pytest.raises(FetchError, match=said) as failed:
        fetch.fetch(order(hub, tmp_path, token=token))
    assert failed.value.status == GATED


def test_a_token_goes_to_the_hub_and_not_to_where_it_redirects(hub: Hub, tmp_path: Path) -> None:
    """Files come from another host, which gets no token."""
    hub.token = "hf_right"
    hub.elsewhere = hub.url.replace("127.0.0.1", "localhost")
    fetch.fetch(order(hub, tmp_path, token="hf_right"))
    tokens = {path.startswith("/blobs/"): token for path, _, token in hub.requests}
    assert tokens == {False: "Bearer hf_right", True: ""}


def test_a_mirror_is_taken_where_the_hub_does_not_answer(hub: Hub, tmp_path: Path) -> None:
    """In the order of the configuration."""
    fetch.fetch(order(hub, tmp_path, endpoints=("http://127.0.0.1:9", hub.url)))
    assert files(tmp_path).keys() == USED


def test_a_repository_that_is_not_there_or_holds_nothing_is_named(hub: Hub, tmp_path: Path) -> None:
    """Nothing is waited for."""
    with pytest.raises(FetchError, match="there is no some/other") as failed:
        fetch.fetch(order(hub, tmp_path, repository="some/other"))
    assert failed.value.status == MISSING
    hub.files = {"README.md": b"read"}
    with pytest.raises(FetchError, match="no diffusers model") as failed:
        fetch.fetch(order(hub, tmp_path))
    assert failed.value.status == MISSING


def test_what_lies_on_the_machine_is_linked(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a folder of models or a cache of the hub, if it has the right digests; what has not is loaded."""
    place = tmp_path / "models" / "someone" / "model"
    for path in USED:
        (place / path).parent.mkdir(parents=True, exist_ok=True)
        (place / path).write_bytes(FILES[path])
    (place / "vae/diffusion_pytorch_model.safetensors").write_bytes(b"!" * 3000)
    monkeypatch.setattr(fetch, "PLACES", (str(tmp_path / "models"),))
    assert fetch.fetch(order(hub, tmp_path)) == 3000
    assert files(tmp_path) == {path: FILES[path] for path in USED}


def test_a_listing_cannot_name_a_file_outside(hub: Hub, tmp_path: Path) -> None:
    """A hub is a stranger, too."""
    hub.files["unet/../../../evil.json"] = b"{}"
    fetch.fetch(order(hub, tmp_path))
    assert not list(tmp_path.parent.glob("evil.json")) and files(tmp_path).keys() == USED


@given(st.lists(st.sampled_from(sorted(FILES)), unique=True), st.booleans())
def test_what_is_wanted_is_a_part_of_what_there_is(paths: list[str], half: bool) -> None:
    """Never a pickle, never twice."""
    chosen = wanted(paths, half=half)
    assert set(chosen) <= set(paths) and len(chosen) == len(set(chosen))
    assert not any(path.endswith(".bin") or "safety" in path for path in chosen)


def test_the_command_says_how_it_went_and_leaves_no_token(hub: Hub, tmp_path: Path) -> None:
    """The order's file is gone before anything is loaded."""
    given = {"repository": hub.repository, "folder": str(tmp_path / "model"), "endpoints": [hub.url], "token": "hf_x"}

    def run() -> tuple[int, str]:
        path = tmp_path / "order.json"
        path.write_text(json.dumps(given), encoding="utf-8")
        ended = subprocess.run(
            [sys.executable, "-S", "-m", "gpurent_engine.fetch", str(path)], capture_output=True, text=True,
            check=False,            env={"PYTHONPATH": str(Path(fetch.__file__).parents[1])},
        )  # fmt: skip
        assert not path.exists() and "hf_x" not in ended.stdout + ended.stderr
        return ended.returncode, ended.stdout

    status, said = run()
    assert status == 0 and "someone/model" in said
    given["endpoints"] = ["file:///etc"]
    assert run()[0] == UNREACHABLE
