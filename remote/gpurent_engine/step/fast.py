"""The fast step as the loop sees it: ``gpurent_engine.stepper.Stepper`` over ``core.Core``."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from gpurent_engine.device import sent
from gpurent_engine.diffusion import Diffusion
from gpurent_engine.families.parts import Encoder, Parts
from gpurent_engine.networks.plan import Plan
from gpurent_engine.step.bank import Site
from gpurent_engine.step.core import Core, TrainedText
from gpurent_engine.step.graph import Tensors
from gpurent_engine.step.objective import Objective
from gpurent_engine.step.switches import CHECKPOINTS, Switches
from gpurent_engine.step.update import BACKOFF, GROWTH, GROWTH_INTERVAL, Hyper
from gpurent_engine.stepper import Batch, StepperState, undoing
from gpurent_engine.text import TextInput

DOWN, UP = "lora_down.weight", "lora_up.weight"


class FastStepper:
    """Plain LoRA and LoCon with AdamW, computed by ``core.Core``.

    Args:
        parts: the frozen base, on its device and in the format to compute in.
        plan: which layers get an adapter.
        diffusion: noise schedule and prediction.
        hyper: of AdamW.
        switches: which parts are fast.
        clip_skip: as in the configuration.
        accumulate: whether several micro-batches make a step.
        adapters: how many are trained at once; more than one by ``step_packed``.

    Raises:
        UnsupportedError: this base or network is not one that the fast step knows.
    """

    def __init__(
        self,
        parts: Parts,
        plan: Plan,
        diffusion: Diffusion,
        hyper: Hyper,
        *,
        switches: Switches,
        clip_skip: int | None,
        accumulate: bool,
        adapters: int = 1,
    ) -> None:
        self.adapter = 0
        """Which of the core's adapters this is."""
        self._encoders = [encoder.facts.folder for encoder in parts.text_encoders]
        trained = [encoder for encoder in parts.text_encoders if plan.trains(encoder.facts.folder)]
        self._groups = len(plan.groups)
        self.core = Core(
            parts.unet,
            sites(plan),
            objective=Objective(diffusion, parts.vae_scale),
            hyper=hyper,
            switches=switches,
            texts=[_text(encoder, clip_skip) for encoder in trained],
            encoders=self._encoders if trained else (),
            groups=self._groups,
            accumulate=accumulate,
            adapters=adapters,
        )

    def of(self, adapter: int) -> FastStepper:
        """The same step, as the owner of one of its adapters sees it."""
        found = copy.copy(self)
        found.adapter = adapter
        return found

    def step_packed(
        self, packed: Sequence[Tensors], rates: Sequence[Sequence[float]], resting: Sequence[bool]
    ) -> torch.Tensor:
        """One optimiser step of several adapters.

        Args:
            packed: micro-batches, the samples of the first adapter, then of the second, and so on, of equal number.
            rates: ``[adapters][groups]``.
            resting: which adapters take no step; their samples weigh nothing.

        Raises:
            NoMemory: as ``Stepper.step``.

        Returns:
            Losses ``[micro-batches, adapters]``.
        """
        core = self.core
        if len(packed) > 1 and not core.updater.accumulate:
            core.gather()
        core.updater.skip.copy_(sent(torch.tensor(resting, dtype=torch.float32), core.device))
        with undoing(core.forget):
            losses = [core.micro(inputs, 1 / len(packed)) for inputs in packed]
        core.update(rates)
        return torch.stack(losses)

    def start(self, values: Mapping[str, torch.Tensor]) -> None:
        """Put first values into the adapters, by their names in the LoRA file.

        Raises:
            KeyError: a tensor is missing.
        """
        mine = self._named(self.core.bank.masters)
        with torch.no_grad():
            for name, one in mine.items():
                one.copy_(values[name].reshape(one.shape))
        self.core.bank.refresh()

    def step(self, batches: Sequence[Batch], rates: Sequence[float]) -> torch.Tensor:
        """See ``Stepper.step``."""
        core, share = self.core, 1 / len(batches)
        if len(batches) > 1 and not core.updater.accumulate:
            core.gather()
        with undoing(core.forget):
            losses = [core.micro(self.inputs(batch), share) for batch in batches]
        core.update([rates])
        return torch.cat(losses)

    def rehearse(self, batches: Sequence[Batch]) -> None:
        """See ``Stepper.rehearse``; without a graph, which needs no more memory than that."""
        with undoing(self.core.forget):
            for batch in batches:
                self.core.micro(self.inputs(batch))
                self.core.forget()

    def examine(self, batches: Sequence[Batch]) -> torch.Tensor:
        """See ``Stepper.examine``."""
        with undoing(self.core.forget):
            found = [self.core.examine(self._everywhere(self.inputs(batch))) for batch in batches]
            return torch.stack([one[self.adapter] for one in found])

    def _everywhere(self, inputs: Tensors) -> Tensors:
        """The same samples for every adapter of a pack, which is asked for the answer of one."""
        count = self.core.bank.adapters
        return inputs if count == 1 else {name: torch.cat([one] * count) for name, one in inputs.items()}

    def predict(
        self, noisy: torch.Tensor, times: torch.Tensor, text: TextInput, sizes: torch.Tensor | None
    ) -> torch.Tensor:
        """See ``Stepper.predict``."""
        found = self._conditions(text)
        if sizes is not None:
            found["sizes"] = sizes
        count, size = self.core.bank.adapters, len(noisy)
        if count > 1:
            noisy, times, found = torch.cat([noisy] * count), times.repeat(count), dict(self._everywhere(found))
        return self.core.predict(noisy, times, found)[self.adapter * size : (self.adapter + 1) * size]

    def lighten(self) -> str:
        """See ``Stepper.lighten``."""
        levels = CHECKPOINTS[CHECKPOINTS.index(self.core.recompute.what) + 1 :]
        if not levels:
            return ""
        self.core.forget()
        self.core.recompute.what = levels[0]
        return f"activations of {levels[0].replace('blocks', 'whole blocks')} are computed twice"

    def release(self) -> None:
        """See ``Stepper.release``; the base's weights lie in tables of ours now, with the same numbers."""
        self.core.forget()

    def inputs(self, batch: Batch) -> dict[str, torch.Tensor]:
        """A micro-batch as the core takes it."""
        found = {
            "mean": batch.mean,
            "std": batch.std,
            "jitter": batch.jitter,
            "noise": batch.noise,
            "times": batch.times,
            "weight": batch.weight,
            **self._conditions(batch.text),
        }
        if batch.sizes is not None:
            found["sizes"] = batch.sizes
        return found

    def _conditions(self, text: TextInput) -> dict[str, torch.Tensor]:
        """Text as the core takes it."""
        found: dict[str, torch.Tensor] = {}
        if self.core.texts:
            for part, tokens, hidden in zip(self._encoders, text.tokens, text.hidden, strict=True):
                if tokens is not None:
                    found[f"ids.{part}"] = tokens
                elif hidden is not None:
                    found[f"hidden.{part}"] = hidden.to(self.core.dtype)
        else:
            states = [hidden.to(self.core.dtype) for hidden in text.hidden if hidden is not None]
            found["text"] = states[0] if len(states) == 1 else torch.cat(states, dim=-1)
        if text.pooled is not None:
            found["pooled"] = text.pooled.to(self.core.dtype)
        return found

    def _named(self, buffer: torch.Tensor) -> dict[str, torch.Tensor]:
        """Views of a flat buffer by their names in the LoRA file."""
        found: dict[str, torch.Tensor] = {}
        for key, (down, up) in self.core.bank.tensors(buffer, self.adapter).items():
            found[f"{key}.{DOWN}"], found[f"{key}.{UP}"] = down, up
        return found

    def _active(self, buffer: torch.Tensor) -> dict[str, torch.Tensor]:
        """Those that are trained: the optimiser keeps nothing for the others."""
        idle = {site.key for region in self.core.bank.regions if region.idle for site in region.sites}
        return {name: one for name, one in self._named(buffer).items() if name.partition(".")[0] not in idle}

    def adapters(self) -> Mapping[str, torch.Tensor]:
        """See ``Stepper.adapters``."""
        return self._named(self.core.bank.masters)

    def state(self) -> StepperState:
        """See ``Stepper.state``; the same names as AdamW's state has in ``plain.PlainStepper``."""
        updater = self.core.updater
        tensors = {f"parameter.{name}": one for name, one in self.adapters().items()}
        step = updater.steps[self.adapter, 0].clone() if updater.steps.numel() else torch.zeros(())
        if float(step):
            for what, buffer in zip(("exp_avg", "exp_avg_sq"), updater.moments, strict=True):
                tensors |= {f"optimizer.{name}.{what}": one for name, one in self._active(buffer).items()}
            tensors |= {f"optimizer.{name}.step": step for name in self._active(self.core.bank.masters)}
        scaler = None
        if updater.scale is not None:
            scaler = {
                "scale": float(updater.scale.scale),
                "growth_factor": GROWTH,
                "backoff_factor": BACKOFF,
                "growth_interval": GROWTH_INTERVAL,
                "_growth_tracker": int(updater.scale.good),
            }
        groups: list[dict[str, Any]] = [{} for _ in range(self._groups)]
        return StepperState(tensors, {"optimizer": {}, "groups": groups, "scaler": scaler})

    @torch.no_grad()
    def restore(self, state: StepperState) -> None:
        """See ``Stepper.restore``."""
        updater, tensors = self.core.updater, state.tensors
        self.start({name: tensors[f"parameter.{name}"] for name in self.adapters()})
        steps = [one for name, one in tensors.items() if name.startswith("optimizer.") and name.endswith(".step")]
        if steps:
            for what, buffer in zip(("exp_avg", "exp_avg_sq"), updater.moments, strict=True):
                for name, one in self._active(buffer).items():
                    one.copy_(tensors[f"optimizer.{name}.{what}"].reshape(one.shape))
            updater.steps[self.adapter].fill_(float(steps[0]))
        scaler = state.scalars.get("scaler")
        if updater.scale is not None and scaler is not None:
            updater.scale.scale.fill_(scaler["scale"])
            updater.scale.good.fill_(scaler["_growth_tracker"])


def sites(plan: Plan) -> list[Site]:
    """The plan's layers as sites."""
    return [
        Site(
            key=layer.key,
            part=layer.part,
            name=layer.module,
            rank=layer.rank,
            scale=layer.alpha / layer.rank,
            group=group,
        )
        for group, members in enumerate(plan.groups)
        for layer in members.layers
    ]


def _text(encoder: Encoder, clip_skip: int | None) -> TrainedText:
    """The layer is chosen as in ``text.encode``."""
    facts = encoder.facts
    return TrainedText(
        encoder.inner,
        facts.folder,
        layer=clip_skip if clip_skip and facts.normed else facts.layer,
        normed=facts.normed,
        projection=encoder.model.text_projection if facts.pooled else None,
    )
