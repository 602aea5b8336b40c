"""Everything before the first step: read the dataset, load the base, cache latents, add adapters, restore a state."""

from __future__ import annotations

import json
import time
import uuid
from collections import deque
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from gpurent_engine import (
    augment,
    buckets,
    data,
    device,
    latents,
    networkargs,
    networks,
    optim,
    schedule,
    starting,
    states,
    suited,
    validation,
)
from gpurent_engine.basefile import BaseHashes
from gpurent_engine.bases import Opener, opened
from gpurent_engine.checkpoint import Position
from gpurent_engine.diffusion import Diffusion, diffusion
from gpurent_engine.distributed import ALONE, Group, SharedStepper
from gpurent_engine.events import EventWriter
from gpurent_engine.families import detect
from gpurent_engine.families.parts import Parts
from gpurent_engine.feed import Feed
from gpurent_engine.fitting import FittingStepper
from gpurent_engine.live import LiveEncoder
from gpurent_engine.metadata import RunFacts
from gpurent_engine.networks.plan import UNET, Plan
from gpurent_engine.plain import PlainStepper
from gpurent_engine.spec import TrainSpec
from gpurent_engine.step.build import UnsupportedError
from gpurent_engine.step.switches import PLAIN
from gpurent_engine.stepper import Stepper
from gpurent_engine.store import Store
from gpurent_engine.text import Conditioner
from gpurent_engine.watching import Watched

if TYPE_CHECKING:
    from gpurent_engine.pack import Pack


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
    step: str = ""
    """How a step is computed: ``plain``, or a level of the fast step as ``step.switches.Switches.parse`` reads it;
    empty for the best that runs here."""
    stop_at: int | None = None
    """Step after which it stops as if it had been asked to: the schedule is that of the whole run."""
    cache_dir: Path | None = None
    """Where latents and embeddings are kept for the next training on this machine."""


@dataclass
class Course:
    """How long the run is and how its learning rates go; a plan file may shorten it on the way."""

    spec: TrainSpec
    base_rates: tuple[float, ...]
    length: buckets.Length
    warmup: int
    factors: list[float] = field(default_factory=list)
    """By step, where a class of torch's decides."""

    def rates(self, step: int) -> list[float]:
        """Learning rate of each group at optimiser step ``step`` (0-based)."""
        if self.spec.lr_scheduler_type:
            if len(self.factors) < self.length.steps:
                self.factors = schedule.torch_factors(self.spec, self.length.steps)
            return [base * self.factors[step] for base in self.base_rates]
        return [
            base * schedule.of(self.spec, step, self.length.steps, base) if base else 0.0 for base in self.base_rates
        ]

    def shorten(self, steps: int) -> None:
        """Take fewer steps; the curve of the rates is that of the shorter run from here on."""
        self.length = buckets.shortened(self.length, steps)
        self.warmup = schedule.warmup_steps(self.spec.lr_warmup_steps, steps)


@dataclass
class Run:
    """Everything the loop works with."""

    order: Order
    parts: Parts
    plan: Plan
    diffusion: Diffusion
    course: Course
    feed: Feed
    stepper: Stepper
    position: Position
    randomness: torch.Tensor
    """The generator's state at ``position``: a step that fails has drawn already."""
    epoch: int
    """The epoch under way, or the last one finished, counted from 1 as kohya's trainer does."""
    losses: deque[float]
    """Of the last epoch's length."""
    held: Feed | None
    """Of the pictures that are not trained on; None where there are none."""
    facts: RunFacts
    identity: dict[str, str]
    """What a saved state must have been made with."""
    device: torch.device
    group: Group
    packed: bool
    """Whether other trainings use the same base: it must stay as it is until the last has ended."""
    watched: Watched = field(default_factory=Watched)


@dataclass(frozen=True)
class Loaded:
    """Dataset and base, and what they come to together."""

    whole: data.Dataset
    """All pictures."""
    everywhere: tuple[buckets.Placement, ...]
    """Where each of them goes."""
    trained: list[int]
    """Positions of those that are trained on."""
    held: list[int]
    """Positions of those that are not: see ``validation``."""
    length: buckets.Length
    parts: Parts
    agreed: detect.Agreed
    hashes: BaseHashes

    @property
    def dataset(self) -> data.Dataset:
        """What is trained on."""
        return validation.only(self.whole, self.trained)

    @property
    def placements(self) -> tuple[buckets.Placement, ...]:
        """Of its pictures."""
        return tuple(self.everywhere[i] for i in self.trained)


def prepare(
    order: Order, out: EventWriter, group: Group = ALONE, *, opener: Opener = opened, pack: Pack | None = None
) -> Run:
    """Set up a run and say what it will do.

    Args:
        order: what to train.
        out: told.
        group: the processes that train it together.
        opener: reads its base model.
        pack: the trainings that share its base and its steps.

    Raises:
        DataError, SpecError, ModelError, StateMismatch: see ``loop.train``.
        UnsupportedError: it does not go into this pack.
    """
    spec = order.spec
    choice = device.choose(spec.mixed_precision)
    for key, message in (*spec.warnings, *((("mixed_precision", choice.note),) if choice.note else ())):
        out.emit("warning", key=key, message=message)
    out.emit("phase", name="load")
    first = pack is None or pack.parts is None
    loaded = _load(order, choice, out, opener if pack is None else pack.opener(opener))
    if pack is not None:
        pack.parts = loaded.parts
    parts, length = loaded.parts, loaded.length

    out.emit("phase", name="cache")
    kept = Store(order.cache_dir)
    specs = [spec.of(folder.settings) for folder in loaded.whole.owners]
    posteriors = latents.encode_all(
        parts.vae, loaded.whole.images, loaded.everywhere, choice.device, batch_size=spec.vae_batch_size,
        specs=specs, masked=spec.masks, kept=kept,
    )  # fmt: skip
    encoder = None
    if any(augment.live(own, item.path) for own, item in zip(specs, loaded.whole.images, strict=True)):
        encoder = LiveEncoder(parts.vae.to(choice.device), choice.device, spec.vae_batch_size, spec.masks)
    elif pack is None:
        parts.vae.to("cpu")
    _tell(kept, len(posteriors), out)

    identity = states.identity(spec, loaded.dataset, parts.unet)  # before a stepper rebuilds the base for its needs
    for note in starting.merge_base(parts, spec, order.data_dir) if first else ():
        out.emit("warning", key="base_weights", message=note)
    plan = networks.plan(parts, spec, starting.ranks(parts, spec, order.data_dir))
    process = diffusion(
        parts.alphas_cumprod, loaded.agreed.prediction, choice.device, zero_terminal=loaded.agreed.zero_terminal_snr
    )
    stepper, optimizer = _stepper(order, loaded, plan, choice, process=process, out=out, group=group, pack=pack)
    course = Course(
        spec, _rates(spec, plan), length,
        schedule.warmup_steps(spec.lr_warmup_steps, length.steps),
    )  # fmt: skip
    generator = torch.Generator().manual_seed(spec.seed)
    conditioner = _conditioner(parts, plan, spec, choice, kept=kept)

    def feed(positions: list[int]) -> Feed:
        return Feed(
            spec=spec,
            dataset=validation.only(loaded.whole, positions),
            placements=tuple(loaded.everywhere[i] for i in positions),
            posteriors=[posteriors[i] for i in positions],
            conditioner=conditioner,
            diffusion=process,
            generator=generator,
            device=choice.device,
            sized=parts.family.size_conditioning,
            vae_scale=parts.vae_scale,
            steps_in_all=length.steps,
            encoder=encoder,
            random_network=not networkargs.read(spec, parts.family.sgm_names).quiet,
        )

    run = Run(
        order=order,
        parts=parts,
        plan=plan,
        diffusion=process,
        course=course,
        feed=feed(loaded.trained),
        held=feed(loaded.held) if loaded.held else None,
        stepper=stepper,
        position=Position(0, length.skipped, 0),
        randomness=generator.get_state(),
        epoch=0,
        losses=deque(maxlen=length.batches_per_epoch),
        facts=_facts(loaded, course, optimizer),
        identity=identity,
        device=choice.device,
        group=group,
        packed=pack is not None,
    )
    if order.resume and (order.out_dir / states.FILE).exists():
        _restore(run)
    _announce(run, out)
    if choice.device.type == "cuda":
        rehearse(run)
    return run


def rehearse(run: Run) -> None:
    """See that the largest step fits before the first is taken: memory that runs out in an hour is found out now."""
    largest = run.feed.largest()
    if largest is not None:
        run.stepper.rehearse([largest])


def _rates(spec: TrainSpec, plan: Plan) -> tuple[float, ...]:
    rates = tuple(group.rate for group in plan.groups)
    return (rates[0],) * len(rates) if optim.one_rate(spec) else rates


def _load(order: Order, choice: device.Choice, out: EventWriter, opener: Opener) -> Loaded:
    """Read dataset and base; whatever does not fit together is an error before anything is computed."""
    spec = order.spec
    found = data.scan(order.data_dir, spec.caption_extension, spec)
    for name in found.skipped:
        out.emit("warning", key="train_data_dir", message=f"{name} is left out: {data.why_skipped(name)}.")
    vae = str(starting.located(order.data_dir, spec.vae)) if spec.vae else ""
    base = opener(order.base_model, choice.mixed_precision != "no", vae, choice.base_dtype)
    parts = base.parts
    agreed = detect.agree(parts.found, spec)
    for key, message in agreed.notes:
        out.emit("warning", key=key, message=message)
    depth = min(len(encoder.inner.encoder.layers) for encoder in parts.text_encoders)
    placements = suited.checked(found, spec, parts.vae_factor, depth)
    trained, held = validation.split(found, spec)
    length = validation.length(found, trained, spec)
    return Loaded(
        whole=found,
        everywhere=placements,
        trained=trained,
        held=held,
        length=length,
        parts=parts,
        agreed=agreed,
        hashes=base.hashes,
    )


def _stepper(
    order: Order,
    loaded: Loaded,
    plan: Plan,
    choice: device.Choice,
    *,
    process: Diffusion,
    out: EventWriter,
    group: Group,
    pack: Pack | None,
) -> tuple[Stepper, str]:
    """The fast step where it can, else the plain one, which can do everything; and the optimiser's name for the
    metadata."""

    def tell(message: str) -> None:
        out.emit("warning", key="train_batch_size", message=message)

    def shared(stepper: Stepper) -> Stepper:
        free = (lambda: device.free_bytes(choice.device)) if choice.device.type == "cuda" else None
        fitting = FittingStepper(stepper, tell, free=free)
        return fitting if group.size == 1 else SharedStepper(fitting, group)

    spec, wanted = order.spec, order.step
    _place(loaded.parts, choice)
    why = ""
    if pack is not None:
        from gpurent_engine.step.choose import optimizer_name

        lane = pack.join(loaded.parts, plan, process, spec, device=choice.device)
        return shared(lane), optimizer_name(spec)
    if wanted != PLAIN and (wanted or choice.device.type == "cuda"):
        from gpurent_engine.step.choose import fast_stepper  # with Triton, which the plain step does without

        try:
            found = fast_stepper(loaded.parts, plan, process, spec, choice.device, wanted=wanted, group=group)
        except UnsupportedError as error:
            why = f"The fast step cannot be taken: {error}."
            out.emit("warning", key="step", message=f"{why} The plain step is taken, which is slower.")
        else:
            out.emit("stepper", level=found.level, reason=" ".join(found.notes))
            return shared(found.stepper), found.optimizer
    elif not wanted:
        why = "There is no GPU."
    stepper, optimizer = _plain(order, loaded, plan, choice, process=process, out=out, group=group)
    out.emit("stepper", level=PLAIN, reason=why)
    return shared(stepper), optimizer


def _plain(
    order: Order,
    loaded: Loaded,
    plan: Plan,
    choice: device.Choice,
    *,
    process: Diffusion,
    out: EventWriter,
    group: Group,
) -> tuple[Stepper, str]:
    """Adapters in the base and an optimiser over them."""
    from accelerate import Accelerator

    spec = order.spec
    if spec.gradient_checkpointing:
        for model in (loaded.parts.unet, *(encoder.model for encoder in loaded.parts.text_encoders)):
            model.train()  # it only works on a module in training mode
        loaded.parts.unet.enable_gradient_checkpointing()
    network = networks.attach(loaded.parts, plan, torch.Generator().manual_seed(spec.seed), spec)
    if spec.network_weights:
        for note in starting.go_on(network, plan, loaded.parts, spec, data_dir=order.data_dir):
            out.emit("warning", key="network_weights", message=note)
    groups = [(one.parameters, plan.groups[one.group].rate * one.factor) for one in network.shares()]
    optimizer, note = optim.make(spec, groups, choice.device)
    if note:
        out.emit("warning", key="optimizer_type", message=note)
    accelerator = Accelerator(mixed_precision=choice.mixed_precision, cpu=choice.device.type == "cpu")
    stepper = PlainStepper(
        loaded.parts, network, optimizer, process, accelerator=accelerator, spec=spec, reduce=group.sum
    )
    return stepper, optim.described(optimizer, spec)


def _facts(loaded: Loaded, course: Course, optimizer: str) -> RunFacts:
    return RunFacts(
        family=loaded.parts.family,
        agreed=loaded.agreed,
        dataset=loaded.dataset,
        placements=loaded.placements,
        length=loaded.length,
        warmup=course.warmup,
        optimizer=optimizer,
        started_at=time.time(),
        session_id=str(uuid.uuid4().int % 2**32),
        base=loaded.hashes,
        held=len(loaded.held),
    )


def _place(parts: Parts, choice: device.Choice) -> None:
    """Move what takes part in a step to the device."""
    for model in (parts.unet, *(encoder.model for encoder in parts.text_encoders)):
        model.requires_grad_(False).to(choice.device).eval()


def _tell(kept: Store, pictures: int, out: EventWriter) -> None:
    """Say what was computed and what an earlier training had left; a damaged file is not a secret."""
    out.emit("cached", pictures=pictures, read=kept.read)
    if kept.damaged:
        said = f"Damaged files of the cache were computed again: {len(kept.damaged)}, such as {kept.damaged[0]}."
        out.emit("warning", key="cache", message=said)
    if kept.failure:
        said = f"Latents are not kept for the next training: {kept.failure}."
        out.emit("warning", key="cache", message=said)


def _conditioner(parts: Parts, plan: Plan, spec: TrainSpec, choice: device.Choice, *, kept: Store) -> Conditioner:
    trained = [plan.trains(encoder.facts.folder) for encoder in parts.text_encoders]
    return Conditioner(
        parts.text_encoders,
        trained,
        chunks=spec.text_chunks,
        clip_skip=spec.clip_skip,
        device=choice.device,
        weighted=spec.weighted_captions,
        kept=kept,
    )


def _restore(run: Run) -> None:
    saved = states.load(run.order.out_dir)
    states.check(saved, run.identity)
    run.feed.generator.set_state(saved.generator)
    run.randomness = saved.generator
    run.stepper.restore(saved.stepper)
    run.position = states.carried_over(saved, run.course.length, run.order.spec)
    run.epoch = run.position.epoch + bool(run.position.batch)
    run.losses.extend(saved.losses)
    run.watched = Watched(list(saved.looks), dict(saved.best))


def _announce(run: Run, out: EventWriter) -> None:
    found, length = run.feed.dataset, run.course.length
    modules = {group.part: len(group.layers) for group in run.plan.groups}
    out.emit(
        "plan", images=len(found.images), repeats_total=sum(found.repeats), batches_per_epoch=length.batches_per_epoch,
        total_steps=length.steps, epochs=length.epochs, start_step=run.position.step,
        network_params=sum(one.numel() for one in run.stepper.adapters().values()), unet_modules=modules.pop(UNET, 0),
        text_encoder_modules=sum(modules.values()),
    )  # fmt: skip


def replan(run: Run, out: EventWriter, step: int) -> None:
    """Shorten the run if the plan file says so."""
    (wanted,) = run.group.agree(_wanted(run))
    if not step < wanted < run.course.length.steps:
        return
    run.course.shorten(wanted)
    run.facts = replace(run.facts, length=run.course.length, warmup=run.course.warmup)
    out.emit("replanned", steps=wanted, epochs=run.course.length.epochs)


def _wanted(run: Run) -> int:
    """Steps that the plan file asks for, 0 if it does not."""
    file = run.order.plan_file
    if file is None or not run.group.first or not file.exists():
        return 0
    try:
        wanted = json.loads(file.read_text(encoding="utf-8"))["steps"]
    except (ValueError, KeyError, TypeError):
        return 0  # half written: read again after the next step
    return wanted if isinstance(wanted, int) and not isinstance(wanted, bool) and 0 < wanted < 2**62 else 0
