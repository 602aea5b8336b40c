"""Latents and embeddings that are kept between trainings: computed once, never wrong, never in the way."""

from __future__ import annotations

import os
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from tests.engine.run import Heard, events, spec

from gpurent_engine.loop import Order, train
from gpurent_engine.setup import prepare
from gpurent_engine.store import Store


@contextmanager
def counted() -> Iterator[Counter[str]]:
    """How often each kind of module has run."""
    found: Counter[str] = Counter()
    handle = torch.nn.modules.module.register_module_forward_pre_hook(
        lambda module, _inputs: found.update([type(module).__name__])
    )
    try:
        yield found
    finally:
        handle.remove()


def order(base: Path, pictures: Path, out: Path, **keys: object) -> Order:
    the_spec = spec(network_train_unet_only=True, flip_aug=True, max_train_epochs=1, **keys)
    return Order(the_spec, str(base), pictures, out, cache_dir=out.parent / "cache")


def trained(the_order: Order) -> tuple[dict[str, torch.Tensor], list[dict[str, Any]], Counter[str]]:
    """The file, the events, and what ran before the proof at the end, which draws a picture."""
    before: Counter[str] = Counter()
    with counted() as ran:

        def look(event: dict[str, Any]) -> None:
            if event["event"] == "phase" and event["name"] == "prove":
                before.update(ran)

        with Heard(the_order.out_dir / "events.jsonl", look) as out:
            train(the_order, out, threading.Event())
    said = events(the_order.out_dir / "events.jsonl")
    return load_file(the_order.out_dir / "disc.safetensors"), said, before


def test_a_second_training_needs_neither_vae_nor_text_encoder(base_model: Path, pictures: Path, tmp_path: Path) -> None:
    """The first encodes six pictures and their mirror images; the second reads everything, and learns the same bits."""
    first, said, ran = trained(order(base_model, pictures, tmp_path / "one"))
    assert ran["Encoder"] > 0 and ran["CLIPEncoder"] > 0
    assert [(one["pictures"], one["read"]) for one in said if one["event"] == "cached"] == [(6, 0)]
    second, said, ran = trained(order(base_model, pictures, tmp_path / "two"))
    assert ran["Encoder"] == 0 and ran["CLIPEncoder"] == 0 and ran["UNet2DConditionModel"] > 0
    assert [(one["pictures"], one["read"]) for one in said if one["event"] == "cached"] == [(6, 6)]
    assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_another_size_or_a_damaged_file_is_encoded_again(base_model: Path, pictures: Path, tmp_path: Path) -> None:
    """What does not fit, or no longer holds what it says, is never used; damage is said."""
    one = order(base_model, pictures, tmp_path / "one")

    def read(the_order: Order) -> list[dict[str, Any]]:
        with Heard(the_order.out_dir / "events.jsonl", lambda _event: None) as out:
            prepare(the_order, out)
        return events(the_order.out_dir / "events.jsonl")

    read(one)
    larger = replace(one, spec=replace(one.spec, resolution=(64, 64)), out_dir=tmp_path / "two")
    assert [event["read"] for event in read(larger) if event["event"] == "cached"] == [0]
    damaged = sorted((tmp_path / "cache").iterdir())[0]
    content = bytearray(damaged.read_bytes())
    content[-1] ^= 1
    damaged.write_bytes(content)
    said = [*read(replace(one, out_dir=tmp_path / "three")), *read(replace(larger, out_dir=tmp_path / "four"))]
    assert sorted(event["read"] for event in said if event["event"] == "cached") == [5, 6]
    assert [event["message"] for event in said if event["event"] == "warning"] == [
        f"Damaged files of the cache were computed again: 1, such as {damaged.name}."
    ]


def test_what_was_used_longest_ago_goes_first(tmp_path: Path) -> None:
    """A folder over its limit is brought below it at the next start; reading counts as use."""
    store = Store(tmp_path / "kept")
    for number in range(4):
        store.put(str(number), {"a": torch.full((100,), float(number))})
        os.utime(tmp_path / "kept" / f"{number}.safetensors", (number, number))
    assert store.get("0") is not None
    size = (tmp_path / "kept" / "0.safetensors").stat().st_size
    left = Store(tmp_path / "kept", limit=2 * size)
    assert [name for name in "0123" if left.get(name) is not None] == ["0", "3"]


def test_a_folder_that_cannot_be_written_costs_nothing(tmp_path: Path) -> None:
    """What is in the way is named once, and nothing is kept."""
    (tmp_path / "kept").touch()
    store = Store(tmp_path / "kept")
    store.put("a", {"a": torch.zeros(1)})
    assert store.failure and store.get("a") is None
