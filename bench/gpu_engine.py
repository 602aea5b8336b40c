"""Whole trainings on a GPU: ``python -m gpurent_engine train`` on random weights at the real shapes.

``python -m bench.gpu_engine --out DIR [--only NAMES] [--tiny]`` prints one JSON line a check: seconds from the start of
the process to each phase and to the first step, steps and pictures a second, and whether a run that was stopped and
resumed, cut into micro-batches, or computed by the plain step learns the same.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw
from safetensors.torch import load_file, save_file

from gpurent_engine import families
from gpurent_engine.bench.base import LAYERS, TINY, UNETS
from gpurent_engine.families import bpe, tokenizer

CUDA = torch.cuda.is_available()
DEVICE = torch.device("cuda" if CUDA else "cpu")
LIMIT_S = 100
"""A training that takes longer is cut off."""
VAE: dict[str, Any] = {
    "block_out_channels": (128, 256, 512, 512), "layers_per_block": 2, "latent_channels": 4,
    "down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4,
}  # fmt: skip
Result = dict[str, Any]


def base(folder: Path, family: str, tiny: bool) -> Path:
    """A diffusers folder with random weights, UNet and text encoders in fp16."""
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    torch.manual_seed(0)
    record = families.get(family)
    sizes: dict[str, Any] = dict(VAE, scaling_factor=record.latent_scale)
    if tiny:
        sizes |= {"block_out_channels": (32, 32, 32, 32), "layers_per_block": 1}
    with DEVICE:
        unet: Any = UNet2DConditionModel(**(TINY if tiny else UNETS)[family])
        vae: Any = AutoencoderKL(**sizes)
    _save(folder / "unet", unet.half(), "diffusion_pytorch_model")
    _save(folder / "vae", vae, "diffusion_pytorch_model")
    for index, facts in enumerate(record.text_encoders):
        width, heads = (32 if index == 0 else 16, 4) if tiny else (facts.width, facts.heads)
        config = CLIPTextConfig(
            vocab_size=49408, hidden_size=width, intermediate_size=4 * width, num_attention_heads=heads,
            num_hidden_layers=2 if tiny else LAYERS[family][index], projection_dim=16 if tiny else width,
            hidden_act=facts.activation, bos_token_id=49406, eos_token_id=49407, pad_token_id=49407,
        )  # fmt: skip
        kind: Any = CLIPTextModelWithProjection if facts.pooled else CLIPTextModel
        with DEVICE:
            model = kind(config)
        _save(folder / facts.folder, model.half(), "model")
        words = folder / facts.tokenizer
        words.mkdir()
        packed = files("gpurent_engine.families").joinpath("clip_merges.txt.gz").read_bytes()
        merges = gzip.decompress(packed).decode("utf-8")
        (words / "merges.txt").write_text("#version: 0.2\n" + merges)
        letters = bpe.byte_letters().values()
        tokens = [
            *letters,
            *(f"{one}</w>" for one in letters),
            *(line.replace(" ", "") for line in merges.splitlines()),
        ]
        table = {token: i for i, token in enumerate([*tokens, tokenizer.START, tokenizer.END])}
        (words / "vocab.json").write_text(json.dumps(table))
    (folder / "scheduler").mkdir()
    (folder / "scheduler" / "scheduler_config.json").write_text('{"beta_schedule": "scaled_linear"}')
    (folder / "model_index.json").write_text(json.dumps({"_class_name": record.pipelines[0]}))
    return folder


def _save(folder: Path, model: Any, name: str) -> None:
    folder.mkdir(parents=True)
    save_file({key: one.contiguous() for key, one in model.state_dict().items()}, folder / f"{name}.safetensors")
    config = dict(model.config) if isinstance(model.config, dict) else model.config.to_dict()
    text = json.dumps({key: value for key, value in config.items() if not key.startswith("_")}, default=str)
    (folder / "config.json").write_text(text)


def pictures(root: Path, side: int, count: int) -> Path:
    """Discs and boxes, two thirds of them square, the rest upright, each with a caption."""
    folder = root / "2_disc"
    folder.mkdir(parents=True)
    for i in range(count):
        size = (side, side if i % 3 else side * 3 // 2)
        picture = Image.effect_noise(size, 90).convert("RGB")
        colour = ("red", "green", "blue", "gold", "teal")[i % 5]
        ImageDraw.Draw(picture).ellipse((side // 8, side // 8, side * 3 // 4, side * 3 // 4), fill=colour)
        picture.save(folder / f"{i:03d}.png", compress_level=1)
        (folder / f"{i:03d}.txt").write_text(f"zq style, a {colour} disc, number {i}")
    return root


class Place:
    """Where the trainings of a family run."""

    def __init__(self, folder: Path, family: str, *, tiny: bool, deadline: float = float("inf")) -> None:
        self.folder, self.family, self.tiny, self.deadline = folder, family, tiny, deadline
        self.side = 64 if tiny else families.get(family).side
        begun = time.monotonic()
        self.base = base(folder / f"{family}-base", family, tiny)
        self.data = pictures(folder / f"{family}-data", self.side, 9 if tiny else 24)
        self.made_s = time.monotonic() - begun

    def train(
        self, name: str, *, level: str = "", memory_gb: float = 0.0, stop_at: int = 0, resume: bool = False,
        deterministic: bool = False, cold: bool = False, **keys: object,
    ) -> Result:  # fmt: skip
        """One training in a process of its own; what it said, in seconds since that process began.

        ``cold``: no kernel has been compiled before.
        """
        out = self.folder / f"{self.family}-{name}"
        out.mkdir(exist_ok=True)
        settings: dict[str, object] = {
            "pretrained_model_name_or_path": str(self.base), "resolution": self.side, "enable_bucket": True,
            "train_batch_size": 2, "network_dim": 32, "network_alpha": 16, "unet_lr": 1e-4, "text_encoder_lr": 1e-5,
            "mixed_precision": "bf16" if CUDA else "no", "max_train_steps": 24, "seed": 7, "output_name": "x",
            "save_precision": "float", "optimizer_type": "AdamW", "min_bucket_reso": self.side // 2,
            "max_bucket_reso": 2 * self.side, **keys,
        }  # fmt: skip
        (out / "config.json").write_text(json.dumps(settings))
        program = "import sys, torch; from gpurent_engine.__main__ import main; "
        if memory_gb and CUDA:
            share = memory_gb * 2**30 / torch.cuda.get_device_properties(0).total_memory
            program += f"torch.cuda.set_per_process_memory_fraction({share}); "
        command = [sys.executable, "-W", "ignore", "-c", program + "sys.exit(main(sys.argv[1:]))"]
        if not memory_gb:
            command = [sys.executable, "-W", "ignore", "-m", "gpurent_engine"]
        command += ["train", "--config", str(out / "config.json"), "--data", str(self.data), "--out", str(out)]
        command += [*(["--step", level] if level else []), *(["--resume"] if resume else [])]
        command += ["--deterministic"] if deterministic else []
        events = out / "events.jsonl"
        known = len(events.read_text().splitlines()) if events.exists() else 0
        cache = {"TRITON_CACHE_DIR": str(out / "triton")} if cold else {}
        begun = time.time()
        end = begun + min(LIMIT_S, self.deadline + 15 - time.monotonic())
        with (out / "log").open("a") as log:
            engine = subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, **cache})
            while engine.poll() is None and time.time() < end:
                if stop_at and _last_step(events) >= stop_at:
                    engine.terminate()
                time.sleep(0.02)
            if engine.poll() is None:
                engine.kill()
            status = engine.wait()
        said = [json.loads(line) for line in events.read_text().splitlines()[known:]] if events.exists() else []
        return _summary(said, begun, status, out)


def _last_step(events: Path) -> int:
    if not events.exists():
        return 0
    steps = [line for line in events.read_text().splitlines() if '"event":"step"' in line.replace(" ", "")]
    return int(json.loads(steps[-1])["step"]) if steps else 0


def _summary(said: list[Result], begun: float, status: int, out: Path) -> Result:
    """Seconds to each phase, the rate behind the first reports, what was warned of."""
    found: Result = {"status": status, "out": str(out)}
    for one in said:
        if one["event"] == "hello":
            found["hello_s"] = one["t"] - begun
        if one["event"] == "phase":
            found.setdefault(f"{one['name']}_s", one["t"] - begun)
        if one["event"] == "stepper":
            found["level"], found["reason"] = one["level"], one["reason"]
        if one["event"] == "error":
            found["error"] = f"{one['code']}: {one['message']}"[:300]
        if one["event"] == "proof":
            found["proof"] = {key: one.get(key) for key in ("ok", "problems", "prediction_change", "image_change")}
    steps = [one for one in said if one["event"] == "step"]
    if steps:
        found["first_step_s"], found["losses"] = steps[0]["t"] - begun, [one["loss"] for one in steps[-2:]]
        found["loss"], found["peak_gb"] = steps[-1]["avg_loss"], steps[-1]["peak_mem_mb"] / 1024
        late = [one for one in steps if one["step"] >= steps[-1]["step"] * 0.5]
        if len(late) > 1:
            count = late[-1]["step"] - late[0]["step"]
            found["it_s"] = count / max(1e-9, late[-1]["elapsed_s"] - late[0]["elapsed_s"])
    found["warnings"] = [f"{one['key']}: {one['message']}"[:200] for one in said if one["event"] == "warning"]
    found["whole_s"] = time.time() - begun
    if status not in (0, 4):
        found["log"] = (out / "log").read_text()[-1500:]
    return found


def trained(result: Result) -> dict[str, torch.Tensor]:
    """The LoRA that a training left."""
    return load_file(Path(result["out"]) / "x.safetensors")


def apart(mine: Result, theirs: Result) -> dict[str, float]:
    """How far two LoRAs are from each other, relative to how far the second is from where ``up`` began: zero."""
    a, b = trained(mine), trained(theirs)
    ups = [name for name in b if "lora_up" in name]
    square = sum(float((a[name] - b[name]).double().square().sum()) for name in ups)
    whole = sum(float(b[name].double().square().sum()) for name in ups)
    return {"up": (square / whole) ** 0.5, "equal": float(all(torch.equal(a[name], b[name]) for name in b))}


def sd15(place: Place) -> Iterator[Result]:
    """The order is that of worth."""
    first = place.train("cold", cold=True, max_train_steps=120)
    yield {"check": "cold start", **first, "ok": first["status"] == 0}
    straight = place.train("straight", deterministic=True)
    place.train("resumed", deterministic=True, stop_at=1, max_train_steps=24)
    second = place.train("resumed", deterministic=True, resume=True)
    found = apart(second, straight)
    yield {"check": "resumed, deterministic", **second, **found, "ok": bool(found["equal"])}
    whole = place.train("whole", train_batch_size=8, max_train_steps=12)
    yield {"check": "batch 8", **whole, "ok": whole["status"] == 0}
    small = place.train("small", train_batch_size=8, max_train_steps=12, memory_gb=5.0)
    found = apart(small, whole)
    cut = any("at a time" in one for one in small["warnings"]) or not CUDA
    yield {"check": "batch 8 in 5 GB", **small, **found, "ok": cut and found["up"] < 0.2}
    plain = place.train("plain", level="plain", train_batch_size=8, max_train_steps=12)
    found = apart(whole, plain)
    yield {"check": "plain and fast", **plain, **found, "ok": found["up"] < 0.2}
    half = place.train("fp16", mixed_precision="fp16" if CUDA else "no")
    yield {"check": "fp16", **half, "ok": half["status"] == 0}
    bare = place.train("merged", level="merged+graph", max_train_steps=60)
    yield {"check": "without a compiler", **bare, "ok": bare["status"] == 0}


def sdxl(place: Place) -> Iterator[Result]:
    """With gradients through both text encoders, then without."""
    first = place.train("cold", cold=True, train_batch_size=1, network_train_unet_only=True, max_train_steps=60)
    yield {"check": "cold start", **first, "ok": first["status"] == 0}
    text = place.train("text", train_batch_size=1, max_train_steps=24)
    yield {"check": "text encoders", **text, "ok": text["status"] == 0}
    small = place.train("small", train_batch_size=4, network_train_unet_only=True, max_train_steps=6, memory_gb=12.0)
    yield {"check": "batch 4 in 12 GB", **small, "ok": small["status"] == 0}


CHECKS: dict[str, Callable[[Place], Iterator[Result]]] = {"sd15": sd15, "sdxl": sdxl}


def run(
    say: Callable[[Result], None], folder: Path, *, only: Sequence[str] = tuple(CHECKS), tiny: bool = False,
    deadline: float = float("inf"),
) -> None:  # fmt: skip
    """All checks of the families ``only``; none begins after ``deadline`` (``time.monotonic``)."""
    for family in only:
        if time.monotonic() > deadline:
            say({"check": f"engine: {family}", "skipped": "deadline"})
            continue
        try:
            place = Place(folder, family, tiny=tiny, deadline=deadline)
            say({"check": f"engine: {family} base written", "ok": True, "s": place.made_s})
            for found in CHECKS[family](place):
                say({**found, "check": f"engine: {family} {found['check']}"})
                if time.monotonic() > deadline:
                    say({"check": f"engine: {family}", "skipped": "the rest, deadline"})
                    break
        except Exception as error:  # noqa: BLE001  # one family must not take the other with it
            say({"check": f"engine: {family}", "ok": False, "error": f"{type(error).__name__}: {error}"[:500]})
        finally:
            shutil.rmtree(folder / f"{family}-base", ignore_errors=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="an empty folder with 20 GB of room")
    parser.add_argument("--only", default=",".join(CHECKS), help="families, with commas")
    parser.add_argument("--tiny", action="store_true", help="tiny models, to try the script itself on a CPU")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    run(
        lambda found: print(json.dumps(found), flush=True), options.out, only=options.only.split(","), tiny=options.tiny
    )


if __name__ == "__main__":
    main()
