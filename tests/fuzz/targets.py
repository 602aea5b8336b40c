"""Every parser of text from outside, what is fed to it, and the errors that it may raise."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from hypothesis import strategies as st
from PIL import Image
from tests.fuzz.inputs import ODD, bytes_like, text_like, value_like
from tests.vast.samples import REPLIES as VAST

from gpurent import convert, fields, http, settings
from gpurent.budget.database import Database
from gpurent.budget.errors import LedgerError
from gpurent.clock import ManualClock
from gpurent.dataset import base, secrets
from gpurent.dataset.bounds import Bounds
from gpurent.dataset.configfile import read_spec
from gpurent.errors import BadHostData, BadReply, ConfigError, GpurentError, MissingCredentials
from gpurent.hosts import load_hosts
from gpurent.jobs import events, follow, postmortem
from gpurent.model import Need, cuda_of
from gpurent.money import Usd
from gpurent.tensorfile import tensor_names
from gpurent.untrusted import data, text
from gpurent_deadman import deadman
from gpurent_engine.data import DataError
from gpurent_engine.data import _size as picture_size
from gpurent_engine.pictures import Unreadable
from gpurent_engine.pictures import read as read_picture
from gpurent_engine.reading import parse_spec
from gpurent_engine.spec import SpecError
from gpurent_providers.runpod import keyfile as runpod_keyfile
from gpurent_providers.runpod import wire as runpod
from gpurent_providers.sshhost.lease import Lease
from gpurent_providers.vastai import bills as vast_bills
from gpurent_providers.vastai import keyfile as vast_keyfile
from gpurent_providers.vastai import wire as vast
from gpurent_providers.vastai.provider import VastProvider
from gpurent_remote import upload
from gpurent_sandbox.adapter import wire as sandbox

RUNPOD: dict[str, Any] = json.loads((Path(__file__).parents[1] / "runpod" / "data" / "replies.json").read_text())
NOW = 1_800_000_000.0


@dataclass(frozen=True)
class Target:
    """One parser. ``act`` gets an input and a folder of its own."""

    name: str
    inputs: st.SearchStrategy[Any]
    act: Callable[[Any, Path], object]
    errors: tuple[type[Exception], ...] = ()


def _file(name: str, read: Callable[[Path], object]) -> Callable[[bytes, Path], object]:
    """Put the input into a file, and read that."""

    def act(content: bytes, folder: Path) -> object:
        path = folder / name
        path.write_bytes(content)
        return read(path)

    return act


def _trained(given: Any, _: Path) -> object:
    return parse_spec(given if isinstance(given, dict) else {"a": given})


def _converted(given: Any, folder: Path) -> object:
    path = folder / "a.json"
    path.write_text(json.dumps(given, default=str), encoding="utf-8")
    return convert.toml(convert.convert(path), "d.toml")


def _picture(form: str, mode: str = "RGB", **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, (8, 6)).save(buffer, form, **options)
    return buffer.getvalue()


def _exif() -> Image.Exif:
    made = Image.Exif()
    made[0x0112] = 6
    return made


TRAININGS: tuple[dict[str, Any], ...] = (
    {"pretrained_model_name_or_path": "b", "network_args": ["conv_dim=4", "algo=lokr"], "optimizer_args": ["a=1"]},
    {
        "LoRA_type": "Standard",
        "max_resolution": "512,512",
        "epoch": 3,
        "lr_warmup": 10,
        "additional_parameters": "--a 1",
    },
    {"pretrained_model_name_or_path": "b", "datasets": [{"resolution": 512, "subsets": [{"image_dir": "a"}]}]},
)
FOREIGN: tuple[dict[str, Any], ...] = (
    {
        "config": {
            "name": "a",
            "process": [{"train": {"lr": 1e-4}, "datasets": [{"folder_path": "x", "resolution": [512]}]}],
        }
    },
    {
        "training_method": "LORA",
        "base_model_name": "b",
        "optimizer": {"optimizer": "ADAMW"},
        "concepts": [{"path": "a"}],
    },
)
PICTURES = (
    _picture("PNG"), _picture("PNG", "P"), _picture("PNG", "I;16"), _picture("JPEG"), _picture("JPEG", exif=_exif()),
    _picture("WEBP"), _picture("BMP"), _picture("JPEG", "CMYK"),
)  # fmt: skip
TENSORS = (
    (lambda text: len(text).to_bytes(8, "little") + text + b"\0" * 8)(
        b'{"__metadata__": {"a": "b"}, "lora_x": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}'
    ),
)
TRAINING = b"""\
[model]
pretrained_model_name_or_path = "x/y"
[dataset]
train_data_dir = "data"
resolution = "512,768"
[training]
output_name = "cat"
learning_rate = 1e-4
lr_warmup_steps = 0.1
text_encoder_lr = [5e-5]
max_train_epochs = 10
save_every_n_epochs = 2
network_dim = 32
optimizer_type = "AdamW8bit"
"""
SETTINGS = b"""\
[job]
config = "training_config.toml"
[budget]
max = "10.50"
max_hours = 2.5
[need]
gpu = ["4090", "A5000"]
max_hourly = 0.80
[limits]
per_day = "$20"
[providers]
enabled = ["vastai"]
[providers.vastai]
url = "https://example.invalid"
unverified = true
"""
OWN_HOSTS = b"""\
[hosts.box]
address = "192.168.1.20"
gpu = "RTX 3090"
vram_gb = 24
port = 22
price = "0.35"
until = 2026-12-01T18:00:00Z
host_key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f"
"""
EVENT = (
    b'{"event": "hello", "protocol": 1, "engine": "0.1", "torch": "2.8", "device": "cuda"}',
    b'{"event": "step", "step": 1, "total": 100, "epoch": 1, "epochs": 4, "loss": 0.1, "avg_loss": null, "it_s": 1.5}',
    b'{"event": "checkpoint", "path": "a.safetensors", "sha256": "' + b"0" * 64 + b'", "size": 10, "final": true}',
    b'{"event": "error", "code": "oom", "message": "m", "remedy": "r"}',
)
REPLY = (b'{"retry_after": 3}', b'{"offers": [{"id": 1, "dph_base": 0.35}], "success": true}')


def _vast(value: Any, _folder: Path) -> None:
    """Everything that reads a reply of Vast.ai; each raises by itself what it may."""
    rows = fields.rows(fields.mapping(value).get("offers"))
    for row in rows or [value]:
        found = vast.offer(fields.mapping(row))
        assert found is None or Need().accepts(found) in (True, False)
        vast.fits(fields.mapping(row), unverified=False)
    vast.matching(value, Need(gpus=("4090",)))
    vast.contract(value)
    vast.problem(value)
    vast_bills.statement([value, *fields.rows(fields.mapping(value).get("results"))])
    for read in (vast.show, vast.instance, vast.page, vast_bills.charges_page, vast_bills.balance):
        _typed(read, value)
    _typed(lambda given: vast_bills.bill(list(fields.rows(fields.mapping(given).get("results"))), "1"), value)


def _runpod(value: Any, _folder: Path) -> None:
    for cloud in runpod.CLOUDS:
        _typed(partial(runpod.offers, cloud=cloud), value)
    runpod.problem(value)
    runpod.named_in(value)
    runpod.ended(value)
    for read in (runpod.instance, runpod.page, runpod.balance, runpod.statement, lambda given: runpod.bill(given, "p")):
        _typed(read, value)


def _sandbox(value: Any, _folder: Path) -> None:
    sandbox.offer(value)
    sandbox.created_ref(value)
    for read in (
        sandbox.instance, sandbox.charges, lambda given: sandbox.page(given, "offers"),
        lambda given: sandbox.amount(given, "balance"),
    ):  # fmt: skip
        _typed(read, value)


def _typed(read: Callable[[Any], object], value: Any) -> None:
    try:
        read(value)
    except BadReply:
        return


def _headers(given: tuple[str, str, str, bytes], _folder: Path) -> None:
    after, reset, quota, body = given
    headers = {"Retry-After": after, "X-RateLimit-Reset": reset, "RateLimit": quota}
    for seconds in (
        http.parse_retry_after(after, NOW), http.asked_to_wait(headers, body, NOW), http.asked_to_wait({}, body, NOW),
    ):  # fmt: skip
        assert seconds is None or 0 <= seconds <= http.MAX_RETRY_AFTER_S
    assert http.used_up_for(quota) >= 0


def _reply(body: bytes, _folder: Path) -> object:
    reply = http.Reply("x", "GET /", 200, body, http.Redactor(["secret"]))
    assert reply.excerpt.isprintable() and str(reply.error()).isprintable()
    return reply.json()


def _survey(body: bytes, _folder: Path) -> object:
    return upload.Upload({}, print, ManualClock())._missing(body)


def _switch(value: Any, _folder: Path) -> None:
    """The dead-man switch reads its orders, and what it said itself, on a machine that anybody may write to."""
    options = deadman.parse(["--after", "100", "--at", "1800000000", "--first", "50", "--hold", "10", "--url", "x"])
    switch = deadman.begin(options, 0.0, NOW, value)
    switch.obey(value, 1.0)
    assert switch.end <= switch.cap <= 100 and switch.left(1.0, busy=False) <= 100


def _vast_url(url: str, _folder: Path) -> None:
    VastProvider(url, "key", ManualClock()).close()


def _ledger_url(url: str, _folder: Path) -> object:
    return None if "sqlite" in url.lower() else Database.at_url(url)


def _shown(given: str, _folder: Path) -> None:
    for made in (text.clean(given), text.quoted(given), text.clean(given, 40, end=True)):
        assert made.isprintable() and len(made) <= text.LINE + 2
    assert all(line.isprintable() for line in text.block(given, 10_000).split("\n"))


def _number(given: Any, _folder: Path) -> None:
    for read in (fields.usd, fields.whole, fields.moment, fields.text, fields.prose, vast.number_of):
        read(given)


def _training(path: Path) -> object:
    return read_spec(path)


TARGETS = (
    Target("JSON", bytes_like(*EVENT, *REPLY), lambda given, _: data.parse(given, most=10_000), (data.Malformed,)),
    Target("number", text_like("12", "-1", "255"), lambda given, _: data.whole(given, -1, 255), (data.Malformed,)),
    Target("words", text_like("pulling 3 %\r\x1b[31mdone\x1b[0m", "\x1b]0;t\x07x"), _shown),
    Target("fields", ODD, _number),
    Target("events", text_like(*(one.decode() for one in EVENT)), lambda given, _: events.parse(given), (BadHostData,)),
    Target(
        "event stream",
        bytes_like(b"\n".join(EVENT) + b"\n"),
        lambda given, _: follow.LineBuffer(100_000).feed(given),
        (BadHostData,),
    ),
    Target(
        "survey of files",
        bytes_like(b'{"a/b": [["' + b"0" * 64 + b'", 10], null]}'),
        _survey,
        (BadHostData,),
    ),
    Target(
        "lease",
        text_like("lease gpurent-1-1 1800000000", "lease ? 0"),
        lambda given, _: Lease.read(given),
        (data.Malformed,),
    ),
    Target("switch", value_like({"nonce": "1", "seconds": 5, "hold": 3}, {"cap": 1.0, "end": 2.0}), _switch),
    Target(
        "HTTP headers",
        st.tuples(
            text_like("120", "Thu, 26 Nov 2026 10:00:00 GMT", "1.5"),
            text_like("1800000000"),
            text_like('"minute";r=0;t=12, "day";r=5;t=100'),
            bytes_like(*REPLY),
        ),
        _headers,
    ),
    Target("HTTP body", bytes_like(*REPLY), _reply, (BadReply,)),
    Target("Vast.ai", value_like(*VAST.values()), _vast),
    Target("RunPod", value_like(*RUNPOD.values()), _runpod),
    Target(
        "sandbox",
        value_like(
            {"id": "m1", "gpu": "x", "vram_mb": 1, "price": {"gpu_hour": "0.35"}},
            {"id": "i1", "state": "running", "ssh": {"host": "h", "port": 1}, "created_at": 1.5},
            {"charges": {"gpu": "1", "disk": 0, "in": 0, "out": 0}, "balance": "5"},
            {"offers": [], "next_cursor": "x"},
        ),
        _sandbox,
    ),
    Target("offer of Vast.ai", text_like("123", "123@45"), lambda given, _: vast.Ask.parse(given), (BadReply,)),
    Target(
        "offer of RunPod",
        text_like("SECURE/EU/x", "COMMUNITY//x"),
        lambda given, _: runpod.Place.parse(given),
        (BadReply,),
    ),
    Target("money", text_like("10", "$0.35", "1_000", "1e3"), lambda given, _: Usd.parse(given), (ValueError,)),
    Target(
        "price", st.floats() | st.integers() | text_like("0.35"), lambda given, _: Usd.from_wire(given), (ValueError,)
    ),
    Target("amount in settings", ODD, lambda given, _: settings.dollars(given), (ValueError,)),
    Target("CUDA of an image", text_like("a/b:2.8.0-cuda12.8-cudnn9"), lambda given, _: cuda_of(given)),
    Target("training_config.toml", bytes_like(TRAINING), _file("training_config.toml", _training), (ConfigError,)),
    Target(
        "training_config.json",
        bytes_like(b'{"pretrained_model_name_or_path": "x/y", "resolution": 512}'),
        _file("training_config.json", _training),
        (ConfigError,),
    ),
    Target(
        "gpurent.toml",
        bytes_like(SETTINGS),
        _file("gpurent.toml", lambda path: settings.load_settings(path.parent, {})),
        (ConfigError,),
    ),
    Target("hosts.toml", bytes_like(OWN_HOSTS), _file("hosts.toml", load_hosts), (ConfigError,)),
    Target(
        "key of RunPod",
        bytes_like(b'apikey = "rpa_1"\n[default]\napi_key = "x"'),
        _file("config.toml", runpod_keyfile.key_in_file),
        (MissingCredentials,),
    ),
    Target(
        "key of Vast.ai",
        bytes_like(b"0123456789abcdef\n"),
        _file(".vast_api_key", lambda path: vast_keyfile.key_in_files({}, path.parent)),
        (MissingCredentials,),
    ),
    Target("safetensors", bytes_like(*TENSORS), _file("a.safetensors", tensor_names), (ValueError,)),
    Target("pictures", bytes_like(*PICTURES), _file("a.png", picture_size), (DataError,)),
    Target("decoded pictures", bytes_like(*PICTURES), _file("a.png", read_picture), (Unreadable,)),
    Target("training configuration", value_like(*TRAININGS), _trained, (SpecError,)),
    Target("configuration of another trainer", value_like(*FOREIGN), _converted, (ConfigError,)),
    Target(
        "model_index.json",
        bytes_like(b'{"_class_name": "StableDiffusionPipeline"}'),
        _file("model_index.json", lambda path: base._json(Bounds.around(path.parent), path, path)),
        (ConfigError,),
    ),
    Target(
        "secrets", bytes_like(b"VAST_API_KEY=0123456789", b"sks cat, hf_"), lambda given, _: secrets.secret_in(given)
    ),
    Target(
        "report of a failure",
        bytes_like(b'{"run_id": "1", "error": "x", "files": []}'),
        _file(postmortem.FILE, lambda path: postmortem.read(path.parent)),
    ),
    Target(
        "URL of a service", text_like("https://console.vast.ai", "http://127.0.0.1:80/x"), _vast_url, (GpurentError,)
    ),
    Target(
        "URL of a ledger", text_like("postgresql://me:secret@host:5432/db?sslmode=require"), _ledger_url, (LedgerError,)
    ),
)
