"""Several LoRAs at once over one frozen base: one batch holds the pictures of all of them.

A card that one LoRA leaves half idle trains four in little more time. Each training has its own loop, in a thread of
its own: data order, rates, seed, losses, files and end are those of a training by itself. One thread runs at a time.
Where a loop takes a step it waits until all the others want one, too, or have ended; then the steps whose batches are
of the same size are computed as one, and the rest wait for their turn.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch

from gpurent_engine.bases import Base, Opener
from gpurent_engine.diffusion import Diffusion
from gpurent_engine.families.parts import Parts
from gpurent_engine.networks.plan import Plan
from gpurent_engine.spec import TrainSpec
from gpurent_engine.step.build import UnsupportedError
from gpurent_engine.step.choose import fast_stepper, first_values, refuse_unknown
from gpurent_engine.step.fast import FastStepper, sites
from gpurent_engine.step.graph import signature
from gpurent_engine.stepper import Batch, NoMemory, PassingOn, StepperState

COMMON = (
    "pretrained_model_name_or_path", "vae", "v2", "v_parameterization", "zero_terminal_snr", "base_weights",
    "base_weights_multiplier", "optimizer_type", "optimizer_args", "weight_decay", "max_grad_norm", "mixed_precision",
    "gradient_checkpointing", "clip_skip",
)  # fmt: skip
"""Keys in which all trainings of a pack are equal, besides where their adapters sit and of which rank they are."""


@dataclass
class _Wish:
    """A step that a lane waits for, and what came of it."""

    batches: Sequence[Batch]
    rates: Sequence[float]
    losses: torch.Tensor | None = None
    error: Exception | None = None

    @property
    def open(self) -> bool:
        """Whether it has not been computed."""
        return self.losses is None and self.error is None


@dataclass
class Pack:
    """The trainings that share a step.

    ``baton`` is held by the one thread that runs; a lane gives it away while it waits.
    """

    level: str
    """Of the fast step, or "" for the best that runs here."""
    parts: Parts | None = None
    """The base, as soon as the first training has loaded it."""
    lanes: list[Lane] = field(default_factory=list)
    """Those that have not ended."""
    baton: threading.Condition = field(default_factory=threading.Condition)
    tightened: int = 0
    """How many steps have failed for want of memory."""
    _base: Base | None = None
    _core: FastStepper | None = None
    _lightened: tuple[int, str] = (-1, "")

    def opener(self, opener: Opener) -> Opener:
        """Reads the base model once, and gives the same to each training."""

        def shared(base_model: str, half: bool, vae: str, dtype: torch.dtype) -> Base:
            if self._base is None:
                self._base = opener(base_model, half, vae, dtype)
            return self._base

        return shared

    def join(self, parts: Parts, plan: Plan, diffusion: Diffusion, spec: TrainSpec, *, device: torch.device) -> Lane:
        """A stepper for one more training; computes once ``build`` was called.

        Raises:
            UnsupportedError: it cannot be packed, or not with those that are there.
        """
        refuse_unknown(spec, plan)
        lane = Lane(self, plan, diffusion, spec, device=device)
        if self.lanes:
            lane.check(self.lanes[0])
        values = first_values(parts, plan, spec.seed)
        lane.kept = StepperState({f"parameter.{name}": one for name, one in values.items()})
        self.lanes.append(lane)
        return lane

    def build(self) -> tuple[str, tuple[str, ...]]:
        """Make the step for the lanes that are there; its level, and notes for the user.

        Raises:
            UnsupportedError: the base is not one that the fast step knows.
        """
        assert self.parts is not None
        first = self.lanes[0]
        for lane in self.lanes:
            lane.keep()
        self._core = None  # its tables are freed before the next ones are made
        chosen = fast_stepper(
            self.parts, first.plan, first.diffusion, first.spec, first.device, wanted=self.level,
            adapters=len(self.lanes),
        )  # fmt: skip
        self._core = chosen.stepper
        for position, lane in enumerate(self.lanes):
            lane.take(chosen.stepper.of(position))
        return chosen.level, chosen.notes

    def leave(self, lane: Lane) -> None:
        """A training has ended, in whatever way; those that waited for it alone go on."""
        with self.baton:
            self.lanes.remove(lane)
            self._turn()

    def wait(self, lane: Lane, wish: _Wish) -> torch.Tensor:
        """Take a step together with the others; with the baton in hand."""
        lane.wish = wish
        self._turn()
        while wish.open:
            self.baton.wait()
        lane.wish = None
        if wish.error is not None:
            raise wish.error
        assert wish.losses is not None
        return wish.losses

    def lighten(self) -> str:
        """See ``Stepper.lighten``: once for all lanes that the same step did not fit for."""
        assert self._core is not None
        if self._lightened[0] != self.tightened:
            self._lightened = self.tightened, self._core.lighten()
        return self._lightened[1]

    def _turn(self) -> None:
        """Compute the steps of one size, if every lane waits for one."""
        waiting = [(lane, lane.wish) for lane in self.lanes if lane.wish is not None and lane.wish.open]
        if not waiting or len(waiting) < len(self.lanes):
            return
        groups: dict[object, list[tuple[Lane, _Wish]]] = {}
        try:
            if self._core is None or self._core.core.bank.adapters != len(self.lanes):
                self.build()
            for lane, wish in waiting:
                size = tuple(signature(lane.inner.inputs(batch)) for batch in wish.batches)
                groups.setdefault(size, []).append((lane, wish))
            chosen = max(groups.values(), key=len)
            self._compute({lane.inner.adapter: wish for lane, wish in chosen})
        except Exception as error:  # noqa: BLE001 - each training says by itself why it ends
            self.tightened += isinstance(error, NoMemory)
            for _, wish in max(groups.values(), key=len) if groups else waiting:
                wish.error = error
        self.baton.notify_all()

    def _compute(self, wishes: Mapping[int, _Wish]) -> None:
        assert self._core is not None
        fast, count = self._core, len(self.lanes)
        example = next(iter(wishes.values()))
        packed = []
        for at in range(len(example.batches)):
            idle = fast.inputs(example.batches[at])
            idle["weight"] = torch.zeros_like(idle["weight"])
            rows = [fast.inputs(wishes[i].batches[at]) if i in wishes else idle for i in range(count)]
            packed.append({name: torch.cat([one[name] for one in rows]) for name in idle})
        rates = [list(wishes[i].rates) if i in wishes else [0.0] * len(example.rates) for i in range(count)]
        losses = fast.step_packed(packed, rates, resting=[i not in wishes for i in range(count)])
        for position, wish in wishes.items():
            wish.losses = losses[:, position]


class Lane(PassingOn[FastStepper]):
    """``gpurent_engine.stepper.Stepper`` of one training in a pack."""

    def __init__(
        self, pack: Pack, plan: Plan, diffusion: Diffusion, spec: TrainSpec, *, device: torch.device
    ) -> None:  # fmt: skip
        self.pack, self.plan, self.diffusion, self.spec, self.device = pack, plan, diffusion, spec, device
        self.wish: _Wish | None = None
        self.kept: StepperState | None = None
        """While no step is built."""
        self.built = False
        """Whether there is a step, and this lane's adapters in it are ``inner``."""

    def check(self, other: Lane) -> None:
        """Raise UnsupportedError where two trainings cannot share a step, naming what differs."""
        for key in COMMON:
            if getattr(self.spec, key) != getattr(other.spec, key):
                mine, theirs = getattr(self.spec, key), getattr(other.spec, key)
                raise UnsupportedError(f"trainings in one pack have the same {key}, and it is {theirs} and {mine}")
        if sites(self.plan) != sites(other.plan):
            raise UnsupportedError("trainings in one pack train the same layers with the same rank and alpha")

    def keep(self) -> None:
        """Copy the state out of a step that is about to be replaced."""
        if self.built:
            state = self.inner.state()
            self.kept = StepperState({name: one.clone() for name, one in state.tensors.items()}, state.scalars)
            self.built = False
            del self.inner

    def take(self, inner: FastStepper) -> None:
        """Go on in a new step."""
        assert self.kept is not None
        self.inner, self.built = inner, True
        inner.restore(self.kept)
        self.kept = None

    def step(self, batches: Sequence[Batch], rates: Sequence[float]) -> torch.Tensor:
        """See ``Stepper.step``."""
        return self.pack.wait(self, _Wish(batches, rates))

    def rehearse(self, batches: Sequence[Batch]) -> None:
        """Nothing: the others are not there yet."""

    def lighten(self) -> str:
        """See ``Stepper.lighten``."""
        return self.pack.lighten()

    def adapters(self) -> Mapping[str, torch.Tensor]:
        """See ``Stepper.adapters``."""
        if self.kept is None:
            return self.inner.adapters()
        prefix = "parameter."
        return {key.removeprefix(prefix): one for key, one in self.kept.tensors.items() if key.startswith(prefix)}

    def state(self) -> StepperState:
        """See ``Stepper.state``."""
        return self.inner.state() if self.kept is None else self.kept

    def restore(self, state: StepperState) -> None:
        """See ``Stepper.restore``."""
        missing = {f"parameter.{name}" for name in self.adapters()} - set(state.tensors)
        if missing:
            raise KeyError(min(missing))
        if self.built:
            self.inner.restore(state)
        else:
            self.kept = state

    def release(self) -> None:
        """See ``Stepper.release``; the others still need the step."""
