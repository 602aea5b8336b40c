"""What a host sends as a result: a LoRA of this job, or nothing at all."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from gpurent.budget.events import Kind
from gpurent.budget.ledger import Ledger
from gpurent.clock import SystemClock
from gpurent.errors import TransferFailed
from gpurent.jobs.events import Checkpoint
from gpurent.jobs.home import Home
from gpurent.model import Offer, Price
from gpurent.money import Usd
from gpurent.spi import Host

JOB = "job-1"
TAG = "gpurent-x-1"


def lora(end: int = 4, name: str = "lora_unet_x.alpha") -> bytes:
    header = json.dumps({name: {"dtype": "F32", "shape": [1], "data_offsets": [0, end]}}).encode()
    return len(header).to_bytes(8, "little") + header + b"\0" * 4


@pytest.fixture
def home(host: Host, tmp_path: Path) -> Iterator[Home]:
    clock = SystemClock()
    ledger = Ledger.open(tmp_path / "ledger.db", clock)
    run_id = ledger.open_run("cat", Usd.parse("1"), output_dir=tmp_path / "out", config={})
    price = Price(Usd.parse("0.1"))
    ledger.append(
        run_id, Kind.INTENT, tag=TAG, provider="sandbox", offer=Offer("sandbox", "m01", "RTX 4090", 24_000, price),
        price=price, disk_gb=10, hourly_micros=1, reserved_micros=1, soft_deadline=0.0, hard_deadline=0.0,
    )  # fmt: skip
    ledger.append(run_id, Kind.CREATED, tag=TAG, ref="i-1", created_at=0.0)
    yield Home(
        host, f".gpurent/jobs/{JOB}", tmp_path / "out", tmp_path, run_id, TAG, JOB, ledger, clock,
        lambda _event: None, "cat", lambda: None, hold_s=1.0,
    )  # fmt: skip
    ledger.close()


def announce(host: Host, name: str, data: bytes) -> Checkpoint:
    host.run(f"mkdir -p .gpurent/jobs/{JOB}/out")
    host.put_bytes(data, f".gpurent/jobs/{JOB}/out/{name.rpartition('/')[2]}")
    return Checkpoint(event="checkpoint", path=name, sha256=hashlib.sha256(data).hexdigest(), size=len(data), step=1)


@pytest.mark.parametrize("name", ["cat.safetensors", "cat-step00000004.safetensors"])
def test_a_lora_of_this_job_comes_home(home: Home, host: Host, name: str) -> None:
    """It lies in the output folder under its name, and in the ledger."""
    path = home.collect(announce(host, name, lora()))
    assert path == home.output_dir / name and path.read_bytes() == lora()
    assert [one.path for one in home.ledger.run(home.run_id).artefacts] == [path]


@pytest.mark.parametrize("name", ["settings.toml", "dog.safetensors", "sub/cat.safetensors", "cat.safetensors.sh"])
def test_a_file_of_another_name_is_not_fetched(home: Home, host: Host, name: str) -> None:
    """A host could otherwise write over whatever else lies in the output folder."""
    with pytest.raises(TransferFailed, match="no file of cat"):
        home.collect(announce(host, name, lora()))
    assert not home.output_dir.exists()


@pytest.mark.parametrize(
    "data",
    [b"", b"\x80\x04pickle", lora(end=5), (2**60).to_bytes(8, "little") + b"{}", b"\x02" + b"\0" * 7 + b"[]", lora(-1)],
    ids=["empty", "pickle", "cut short", "endless header", "no object", "nowhere"],
)
def test_what_is_no_safetensors_file_does_not_stay(home: Home, host: Host, data: bytes) -> None:
    """Digest and length are the host's own words; the header is read here, and nothing is loaded."""
    with pytest.raises(TransferFailed, match="no LoRA"):
        home.collect(announce(host, "cat.safetensors", data))
    assert list(home.output_dir.iterdir()) == []


@pytest.mark.parametrize("lie", ["no lora", "digest", "size"])
def test_a_broken_file_does_not_cost_an_earlier_lora_of_that_name(home: Home, host: Host, lie: str) -> None:
    """Only what was verified takes the place of what was made before; no piece of the rest stays."""
    earlier = home.collect(announce(host, "cat.safetensors", lora()))
    promised = announce(host, "cat.safetensors", b"junk" if lie == "no lora" else lora(end=8) + b"later")
    if lie == "digest":
        promised = promised.model_copy(update={"sha256": "0" * 64})
    if lie == "size":
        promised = promised.model_copy(update={"size": promised.size + 1})
    with pytest.raises(TransferFailed):
        home.collect(promised)
    assert earlier.read_bytes() == lora() and list(home.output_dir.iterdir()) == [earlier]
