"""The training, top to bottom: load, cache, inject, loop, save.

Order of random draws, so that anyone can repeat a run: torch's global generator, seeded with ``seed``, initialises the
LoRA layers of the UNet, then of the text encoder. A second CPU generator with the same seed then draws for each batch:
posterior noise, diffusion noise, [noise offset,] timesteps.
"""

from __future__ import annotations

import hashlib
import json
import math
import threading
import time
import uuid
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch.nn.functional import mse_loss

from gpurent_engine import (
    buckets,
    captions,
    checkpoint,
    data,
    device,
    export,
    families,
    latents,
    lora,
    optim,
    schedule,
    text,
)
from gpurent_engine.checkpoint import Position
from gpurent_engine.events import EventWriter
from gpurent_engine.spec import SpecError, TrainSpec

MAX_BAD_LOSSES = 3


class NotANumber(Exception):
    """The loss is NaN or infinite again and again."""


@dataclass(frozen=True)
class Order:
    """One training: what, from where, to where."""

    spec: TrainSpec
    base_model: str
    data_dir: Path
    out_dir: Path
    stop_file: Path | None = None
    resume: bool = False
    plan_file: Path | None = None
    """Once it is there: how many steps there shall be, fewer than planned."""


@dataclass
class Run:
    """Everything the loop works with."""

    order: Order
    parts: families.Parts
    posteriors: list[latents.Posterior]
    facts: export.RunFacts
    length: buckets.Length
    choice: device.Choice
    accelerator: Accelerator
    parameters: list[torch.nn.Parameter]
    optimizer: Any
    warmup: int
    generator: torch.Generator
    position: Position
    losses: deque[float]
    fingerprint: str
    snr: torch.Tensor
    remembered: dict[str, torch.Tensor] | None


@dataclass(frozen=True)
class Result:
    """How a training ended."""

    steps: int
    stopped: bool
    files: list[str]
    final_loss: float


def train(order: Order, out: EventWriter, stop: threading.Event) -> Result:
    """Train one LoRA and return what came of it; everything on the way is said through ``out``.

    Raises:
        DataError, SpecError: dataset or configuration cannot be trained on.
        NotANumber, NotFinite: the training diverged.
        ModelError: the base model cannot be loaded.
        StateMismatch: the saved state belongs to another run.
        OSError: a file cannot be written.
        torch.cuda.OutOfMemoryError: the GPU is too small for this batch.
    """
    started = time.monotonic()
    run = prepare(order, out)
    spec = order.spec
    out.emit("phase", name="train")
    files: list[str] = []
    pending: list[torch.Tensor] = []
    bad, step, first_step = 0, run.position.step, run.position.step
    begun = time.monotonic()
    stopped = False
    epoch, first_batch = run.position.epoch, run.position.batch
    replan(run, out, step)
    while step < run.length.steps and not stopped:
        batches = buckets.epoch_batches(
            [one.bucket for one in run.facts.placements],
            run.facts.dataset.repeats,
            spec.train_batch_size,
            spec.seed,
            epoch,
        )
        for index in range(first_batch, len(batches)):
            loss = train_batch(run, batches[index], epoch, index, step, last=index == len(batches) - 1)
            pending.append(loss.detach())
            if not run.accelerator.sync_gradients:
                continue
            step += 1
            stopped = stop.is_set() or (order.stop_file is not None and order.stop_file.exists())
            replan(run, out, step)
            ending = stopped or step == run.length.steps
            if out.step_due(step, run.length.steps) or ending:
                bad = fetch(run, pending, bad)
                report(run, out, step, epoch, first_step, begun)
                if bad >= MAX_BAD_LOSSES:
                    raise NotANumber(f"the loss is not a number at step {step}")
            run.position = (
                Position(step, epoch, index + 1) if index + 1 < len(batches) else Position(step, epoch + 1, 0)
            )
            if spec.save_every_n_steps and step % spec.save_every_n_steps == 0 and not ending:
                bad = fetch(run, pending, bad)
                files.append(keep(run, out, checkpoint.step_name(spec.output_name, step), step, epoch, final=False))
            if ending:
                break
        if not stopped and step < run.length.steps:
            epoch, first_batch = epoch + 1, 0
            if spec.save_every_n_epochs and epoch % spec.save_every_n_epochs == 0:
                bad = fetch(run, pending, bad)
                files.append(keep(run, out, checkpoint.epoch_name(spec.output_name, epoch), step, epoch, final=False))
    stopped = stopped and step < run.length.steps
    name = checkpoint.step_name(spec.output_name, step) if stopped else f"{spec.output_name}.safetensors"
    files.append(keep(run, out, name, step, run.position.epoch, final=not stopped))
    final = sum(run.losses) / len(run.losses) if run.losses else math.nan
    out.emit("phase", name="done")
    out.emit("done", steps=step, elapsed_s=time.monotonic() - started, stopped=stopped, files=files, final_loss=final)
    return Result(step, stopped, files, final)


def replan(run: Run, out: EventWriter, step: int) -> None:
    """Take fewer steps if the plan file says so; the learning rate's curve is that of the shorter run from here on."""
    file = run.order.plan_file
    if file is None or not file.exists():
        return
    try:
        wanted = json.loads(file.read_text(encoding="utf-8"))["steps"]
    except (ValueError, KeyError, TypeError):
        return  # half written: read again after the next step
    if not isinstance(wanted, int) or not step < wanted < run.length.steps:
        return
    run.length = buckets.shortened(run.length, wanted)
    run.warmup = schedule.warmup_steps(run.order.spec.lr_warmup_steps, wanted)
    run.facts = replace(run.facts, epochs=run.length.epochs, max_steps=wanted, warmup=run.warmup)
    out.emit("replanned", steps=wanted, epochs=run.length.epochs)


def train_batch(run: Run, members: Sequence[int], epoch: int, index: int, step: int, *, last: bool) -> torch.Tensor:
    """One micro-batch forward and backward; an optimiser step when enough are gathered. Returns the loss, on device."""
    spec, parts, accelerator = run.order.spec, run.parts, run.accelerator
    where = run.choice.device
    gather = spec.gradient_accumulation_steps
    accelerator.sync_gradients = last or (index + 1) % gather == 0
    size = min(gather, run.length.batches_per_epoch - index // gather * gather)

    mean = torch.stack([run.posteriors[i].mean for i in members])
    std = torch.stack([run.posteriors[i].std for i in members])
    shape = mean.shape
    clean = (mean + std * torch.randn(shape, generator=run.generator).to(where)) * parts.vae_scale
    noise = torch.randn(shape, generator=run.generator).to(where)
    if spec.noise_offset:
        noise = noise + spec.noise_offset * torch.randn((*shape[:2], 1, 1), generator=run.generator).to(where)
    steps = parts.scheduler.config.num_train_timesteps
    times = torch.randint(0, steps, (shape[0],), generator=run.generator).to(where)
    noisy = parts.scheduler.add_noise(clean, noise, times)

    images = run.facts.dataset.images
    words = [
        captions.draw(images[i].caption, spec, epoch, index * spec.train_batch_size + k) for k, i in enumerate(members)
    ]
    with accelerator.autocast():
        hidden = text.encode_captions(parts.text_encoder, parts.tokenizer, words, spec.clip_skip, where, run.remembered)
        predicted = parts.unet(noisy, times, hidden).sample
    each = mse_loss(predicted.float(), noise.float(), reduction="none").mean(dim=(1, 2, 3))
    if spec.min_snr_gamma is not None:
        # Hang et al. 2023, "Efficient Diffusion Training via Min-SNR Weighting", for epsilon prediction
        snr = run.snr.to(where)[times]
        each = each * (snr.clamp(max=spec.min_snr_gamma) / snr)
    loss = each.mean()
    accelerator.backward(loss / size)
    if accelerator.sync_gradients:
        if spec.max_grad_norm:
            accelerator.clip_grad_norm_(run.parameters, spec.max_grad_norm)
        set_rates(run, step)
        run.optimizer.step()
        run.optimizer.zero_grad(set_to_none=True)
    return loss


def fetch(run: Run, pending: list[torch.Tensor], bad: int) -> int:
    """Bring the losses over from the device, the loop's only wait for it; returns how many last ones are not finite."""
    if pending:
        fresh: list[float] = torch.stack(pending).tolist()
        pending.clear()
        run.losses.extend(fresh)
        for one in fresh:
            bad = 0 if math.isfinite(one) else bad + 1
    return bad


def set_rates(run: Run, step: int) -> None:
    """Set each group's learning rate for optimiser step ``step`` (0-based)."""
    spec = run.order.spec
    for group in run.optimizer.param_groups:
        group["lr"] = group["initial_lr"] * schedule.factor(
            spec.lr_scheduler, step, warmup=run.warmup, total=run.length.steps, cycles=spec.lr_scheduler_num_cycles,
            power=spec.lr_scheduler_power, base=group["initial_lr"],
        )  # fmt: skip


def report(run: Run, out: EventWriter, step: int, epoch: int, first_step: int, begun: float) -> None:
    """Say how far the run is; ``avg_loss`` is the mean over the last epoch's length, as kohya shows it."""
    elapsed = max(1e-9, time.monotonic() - begun)
    rate = (step - first_step) / elapsed
    out.emit(
        "step", step=step, total=run.length.steps, epoch=epoch + 1, epochs=run.length.epochs, loss=run.losses[-1],
        avg_loss=sum(run.losses) / len(run.losses), lr=run.optimizer.param_groups[0]["lr"], it_s=rate,
        images_s=rate * run.order.spec.train_batch_size * run.order.spec.gradient_accumulation_steps,
        peak_mem_mb=device.peak_memory_mb(run.choice.device), elapsed_s=elapsed,
    )  # fmt: skip


def keep(run: Run, out: EventWriter, name: str, step: int, epoch: int, *, final: bool) -> str:
    """Write LoRA and resumable state; only then say so."""
    out.emit("phase", name="save")
    spec, now = run.order.spec, time.time()
    found = export.tensors(run.parts.unet, run.parts.text_encoder, spec.network_alpha, spec.save_precision)
    written = checkpoint.write(
        run.order.out_dir, name, export.serialise(found, spec, run.facts, step=step, epoch=epoch, finished_at=now)
    )
    out.emit("checkpoint", path=name, sha256=written.sha256, size=written.size, epoch=epoch, step=step, final=final)
    state = checkpoint.save_state(
        run.order.out_dir, run.parameters, run.optimizer, run.generator, run.position, run.fingerprint,
        list(run.losses), run.accelerator.scaler,
    )  # fmt: skip
    out.emit("state", path=state.path, sha256=state.sha256, size=state.size, epoch=epoch, step=step)
    if not final:
        out.emit("phase", name="train")
    return name


def prepare(order: Order, out: EventWriter) -> Run:
    """Load the base, cache latents, add the LoRA layers, restore a saved state."""
    spec = order.spec
    choice = device.choose(spec.mixed_precision)
    for key, message in (*spec.warnings, *((("mixed_precision", choice.note),) if choice.note else ())):
        out.emit("warning", key=key, message=message)
    out.emit("phase", name="load")
    found = data.scan(order.data_dir, spec.caption_extension)
    for name in found.skipped:
        out.emit("warning", key="train_data_dir", message=f"{name} is left out: no <repeats>_<concept>.")
    families.family_of(order.base_model)
    parts = families.load(order.base_model)
    placements = tuple(buckets.place((image.width, image.height), spec) for image in found.images)
    if any(side % parts.vae_factor for one in placements for side in one.bucket):
        raise SpecError("resolution", f"sizes must be multiples of {parts.vae_factor} for this base model.")
    length = buckets.length(spec, [(image.width, image.height) for image in found.images], found.repeats)

    out.emit("phase", name="cache")
    parts.vae.to(choice.device)
    posteriors = latents.encode_all(parts.vae, found.images, placements, choice.device, spec.vae_batch_size)
    parts.vae.to("cpu")

    accelerator = Accelerator(mixed_precision=choice.mixed_precision, cpu=choice.device.type == "cpu")
    torch.manual_seed(spec.seed)
    groups = []
    unet_layers = lora.unet_targets(parts.unet) if spec.train_unet else []
    text_layers = lora.text_targets(parts.text_encoder) if spec.train_text_encoder else []
    for model, layers, rate in (
        (parts.unet, unet_layers, spec.lr_of_unet), (parts.text_encoder, text_layers, spec.lr_of_text_encoder),
    ):  # fmt: skip
        model.requires_grad_(False).to(choice.device, choice.base_dtype)
        if layers:
            groups.append((lora.inject(model, layers, spec.network_dim, spec.network_alpha), rate))
        model.train(spec.gradient_checkpointing)
    if spec.gradient_checkpointing:
        parts.unet.enable_gradient_checkpointing()
    optimizer, note = optim.make(spec, groups, choice.device)
    if note:
        out.emit("warning", key="optimizer_type", message=note)
    for group in optimizer.param_groups:
        group["initial_lr"] = group["lr"]
    warmup = schedule.warmup_steps(spec.lr_warmup_steps, length.steps)
    parameters = [parameter for parameters, _ in groups for parameter in parameters]
    facts = export.RunFacts(
        found, placements, length.batches_per_epoch, length.epochs, length.steps, warmup,
        optim.described(optimizer, spec), time.time(), str(uuid.uuid4().int % 2**32), Path(order.base_model).name,
    )  # fmt: skip
    signal = parts.scheduler.alphas_cumprod
    run = Run(
        order, parts, posteriors, facts, length, choice, accelerator, parameters, accelerator.prepare(optimizer),
        warmup, torch.Generator().manual_seed(spec.seed), Position(0, 0, 0), deque(maxlen=length.batches_per_epoch),
        fingerprint(order, found), signal / (1 - signal), None if spec.train_text_encoder else {},
    )  # fmt: skip
    if order.resume and (order.out_dir / f"{checkpoint.STATE}.safetensors").exists():
        run.position, losses = checkpoint.load_state(
            order.out_dir, parameters, optimizer, run.generator, run.fingerprint, accelerator.scaler
        )
        run.losses.extend(losses)
    out.emit(
        "plan", images=len(found.images), repeats_total=sum(found.repeats), batches_per_epoch=length.batches_per_epoch,
        total_steps=length.steps, epochs=length.epochs, start_step=run.position.step,
        network_params=sum(parameter.numel() for parameter in parameters), unet_modules=len(unet_layers),
        text_encoder_modules=len(text_layers),
    )  # fmt: skip
    return run


def fingerprint(order: Order, found: data.Dataset) -> str:
    """Digest of what must be equal for a saved state to fit: configuration, and names and captions of the dataset."""
    spec = {
        key: value
        for key, value in order.spec.to_dict().items()
        if key not in ("output_dir", "train_data_dir", "warnings")
    }
    images = [(image.path.name, image.caption) for image in found.images]
    return hashlib.sha256(json.dumps([spec, images], sort_keys=True, default=str).encode()).hexdigest()
