"""The reference stepper: torch, peft, autocast. Every faster one has to agree with it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

from gpurent_engine.diffusion import Diffusion
from gpurent_engine.families.parts import Parts
from gpurent_engine.networks import Network, detach, limit_norms
from gpurent_engine.objective import losses
from gpurent_engine.spec import TrainSpec
from gpurent_engine.stepper import Batch, StepperState, undoing
from gpurent_engine.text import TextInput, encode

if TYPE_CHECKING:
    from accelerate import Accelerator


class PlainStepper:
    """Computes steps eagerly; accelerate does mixed precision and, in fp16, the scaling of gradients.

    ``reduce`` sums gradients over the processes that share a step (``distributed.Group.sum``).
    """

    def __init__(
        self, parts: Parts, network: Network, optimizer: Any, diffusion: Diffusion, *, accelerator: Accelerator,
        spec: TrainSpec, reduce: Callable[[Iterable[torch.Tensor]], None] = lambda _gradients: None,
    ) -> None:  # fmt: skip
        self._parts = parts
        self._network = network
        self._shares = network.shares()
        self._raw = optimizer
        self._optimizer = accelerator.prepare(optimizer)
        self._diffusion = diffusion
        self._accelerator = accelerator
        self._spec = spec
        self._clip_skip = spec.clip_skip
        self._max_grad_norm = spec.max_grad_norm
        self._reduce = reduce

    def step(self, batches: Sequence[Batch], rates: Sequence[float]) -> torch.Tensor:
        """See ``Stepper.step``."""
        accelerator, optimizer = self._accelerator, self._optimizer
        found = self._backward(batches)
        self._reduce(one.grad for one in self._network.parameters.values() if one.grad is not None)
        if self._max_grad_norm:
            accelerator.clip_grad_norm_(list(self._network.parameters.values()), self._max_grad_norm)
        for group, share in zip(optimizer.param_groups, self._shares, strict=True):
            group["lr"] = rates[share.group] * share.factor
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if self._spec.scale_weight_norms:
            limit_norms(self._network, self._spec.scale_weight_norms)
        return torch.stack(found)

    def _backward(self, batches: Sequence[Batch]) -> list[torch.Tensor]:
        """Gradients of the mean over these batches, and each one's loss."""
        found = []
        self._network.mode.training = True
        try:
            with undoing(self._optimizer.zero_grad):
                for batch in batches:
                    if batch.seed:
                        torch.manual_seed(batch.seed)
                    loss = self.loss(batch)
                    self._accelerator.backward(loss / len(batches))
                    found.append(loss.detach())
        finally:
            self._network.mode.training = False
        return found

    def rehearse(self, batches: Sequence[Batch]) -> None:
        """See ``Stepper.rehearse``."""
        self._backward(batches)
        self._optimizer.zero_grad(set_to_none=True)

    def examine(self, batches: Sequence[Batch]) -> torch.Tensor:
        """See ``Stepper.examine``."""
        with torch.no_grad(), self._judged(), undoing(lambda: None):
            return torch.stack([self.loss(batch) for batch in batches])

    def loss(self, batch: Batch) -> torch.Tensor:
        """Weighted mean of the pictures' losses: noise the latents, predict, compare."""
        clean = (batch.mean + batch.std * batch.jitter) * self._parts.vae_scale
        added = batch.noise if batch.added is None else batch.added
        noisy = self._diffusion.noised(clean, added, batch.times)
        with self._accelerator.autocast():
            predicted = self._predict(noisy, batch.times, batch.text, batch.sizes)
        target = self._diffusion.target(clean, batch.noise, batch.times)
        each = losses(predicted, target, batch.times, self._diffusion, spec=self._spec, mask=batch.mask)
        return (each * batch.weight).mean()

    def predict(
        self, noisy: torch.Tensor, times: torch.Tensor, text: TextInput, sizes: torch.Tensor | None
    ) -> torch.Tensor:
        """See ``Stepper.predict``."""
        with torch.no_grad(), self._judged(), self._accelerator.autocast():
            return self._predict(noisy, times, text, sizes)

    def _predict(
        self, noisy: torch.Tensor, times: torch.Tensor, text: TextInput, sizes: torch.Tensor | None
    ) -> torch.Tensor:
        hidden, pooled = self.condition(text)
        extra = {} if sizes is None else {"text_embeds": pooled, "time_ids": sizes}
        predicted: torch.Tensor = self._parts.unet(noisy, times, hidden, added_cond_kwargs=extra or None).sample
        return predicted

    def condition(self, text: TextInput) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Hidden states of all encoders side by side ``[b, n, width]``, and the pooled text of the one that pools."""
        found, pooled = [], text.pooled
        weights = text.weights or (None,) * len(text.tokens)
        for encoder, tokens, hidden, weight in zip(
            self._parts.text_encoders, text.tokens, text.hidden, weights, strict=True
        ):
            if tokens is not None:
                hidden, its_pooled = encode(encoder, tokens, self._clip_skip)
                hidden = hidden if weight is None else hidden * weight[..., None].to(hidden.dtype)
                pooled = pooled if its_pooled is None else its_pooled
            found.append(hidden)
        return torch.cat([one for one in found if one is not None], dim=-1), pooled

    def lighten(self) -> str:
        """See ``Stepper.lighten``."""
        if self._parts.unet.is_gradient_checkpointing:
            return ""
        self._parts.unet.train()  # diffusers checkpoints in training mode only; there is no dropout in these models
        self._parts.unet.enable_gradient_checkpointing()
        return "activations are computed twice"

    def adapters(self) -> Mapping[str, torch.Tensor]:
        """See ``Stepper.adapters``."""
        if not hasattr(self._raw, "eval"):
            return self._masters()
        with self._judged():
            return {name: one.clone() for name, one in self._masters().items()}

    @contextmanager
    def _judged(self) -> Iterator[None]:
        """A schedule-free optimiser trains at one point and is judged at another. Going there and back would round."""
        if not hasattr(self._raw, "eval"):
            yield
            return
        kept = {name: one.clone() for name, one in self._masters().items()}
        self._raw.eval()
        try:
            yield
        finally:
            self._raw.train()
            with torch.no_grad():
                for name, one in self._network.parameters.items():
                    one.copy_(kept[name])

    def _masters(self) -> dict[str, torch.Tensor]:
        return {name: one.detach() for name, one in self._network.parameters.items()}

    def state(self) -> StepperState:
        """See ``Stepper.state``."""
        tensors = {f"parameter.{name}": one for name, one in self._masters().items()}
        scalars: dict[str, Any] = {"optimizer": {}, "groups": [], "scaler": None}
        for name, one in self._network.parameters.items():
            for key, value in self._optimizer.state.get(one, {}).items():
                if isinstance(value, torch.Tensor):
                    tensors[f"optimizer.{name}.{key}"] = value.detach()
                else:
                    scalars["optimizer"][f"{name}.{key}"] = in_json(key, value)
        for number, group in enumerate(self._optimizer.param_groups):
            settings = {}
            for key, value in group.items():
                if isinstance(value, torch.Tensor):  # Prodigy and its like keep a distance for each group
                    tensors[f"group.{number}.{key}"] = value.detach()
                elif key not in ("params", "lr"):
                    settings[key] = in_json(key, value)
            scalars["groups"].append(settings)
        if self._accelerator.scaler is not None:
            scalars["scaler"] = self._accelerator.scaler.state_dict()
        return StepperState(tensors, scalars)

    def restore(self, state: StepperState) -> None:
        """See ``Stepper.restore``."""
        optimizer = self._optimizer
        kept: dict[str, dict[str, Any]] = {name: {} for name in self._network.parameters}
        for key, value in state.tensors.items():
            kind, _, rest = key.partition(".")
            name, _, what = rest.rpartition(".")
            if kind == "optimizer":
                kept[name][what] = value
        for key, scalar in state.scalars["optimizer"].items():
            name, _, what = key.rpartition(".")
            kept[name][what] = scalar
        with torch.no_grad():
            for name, one in self._network.parameters.items():
                one.copy_(state.tensors[f"parameter.{name}"].to(one.device))
                if kept[name]:
                    optimizer.state[one] = {
                        # AdamW counts steps in a tensor on the CPU, whatever the device of the rest
                        what: value.to(one.device) if isinstance(value, torch.Tensor) and value.dim() else value
                        for what, value in kept[name].items()
                    }
        for number, (group, settings) in enumerate(zip(optimizer.param_groups, state.scalars["groups"], strict=True)):
            for key, value in settings.items():
                group[key] = tuple(value) if isinstance(value, list) and isinstance(group.get(key), tuple) else value
            for key, value in group.items():
                if isinstance(value, torch.Tensor):
                    value.copy_(state.tensors[f"group.{number}.{key}"])
        if self._accelerator.scaler is not None and state.scalars["scaler"] is not None:
            self._accelerator.scaler.load_state_dict(state.scalars["scaler"])

    def release(self) -> None:
        """See ``Stepper.release``."""
        detach(self._parts, self._network)


def in_json(key: str, value: Any) -> Any:
    """A setting of an optimiser as JSON has it: a number, a text, or a list of numbers.

    Raises:
        TypeError: it is anything else; a state without it would go on differently, and nobody would know.
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list | tuple) and all(isinstance(one, bool | int | float) for one in value):
        return list(value)
    raise TypeError(f"the optimiser keeps {key} as {type(value).__name__}, which a state cannot hold")
