"""Base, adapters, loss and optimiser behind two calls, ``micro`` and ``update``; each a CUDA graph where that is on."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from gpurent_engine.step.bank import Bank, Site
from gpurent_engine.step.build import Builder, Recompute
from gpurent_engine.step.clip import TextEncoder
from gpurent_engine.step.graph import Recorder, Static, Tensors, signature
from gpurent_engine.step.kernels.backend import kernels
from gpurent_engine.step.objective import Inputs, Objective
from gpurent_engine.step.switches import Switches
from gpurent_engine.step.unet import UNet
from gpurent_engine.step.update import Hyper, Updater

_BACKENDS = {
    "flash": SDPBackend.FLASH_ATTENTION, "efficient": SDPBackend.EFFICIENT_ATTENTION, "math": SDPBackend.MATH,
    "cudnn": getattr(SDPBackend, "CUDNN_ATTENTION", SDPBackend.FLASH_ATTENTION),
}  # fmt: skip
_PRIORITISED = "set_priority" in inspect.signature(sdpa_kernel).parameters
"""torch 2.6 and newer take a list of backends as an order of preference."""


@dataclass(frozen=True)
class TrainedText:
    """A text encoder that carries adapters; ``part`` names it in ``Site.part``, the rest is ``clip.TextEncoder``'s."""

    model: torch.nn.Module
    part: str
    layer: int = 1
    normed: bool = True
    projection: torch.nn.Linear | None = None


class Core:
    """Trains adapters on a frozen base.

    Args:
        unet: a diffusers UNet on its device, in the format to compute in, frozen. Its weights are shared.
        sites: where adapters sit, in ``unet`` (part ``unet``) and in the text encoders.
        objective: noise schedule, prediction and loss.
        hyper: of the optimiser.
        switches: which parts are fast.
        texts: text encoders that train.
        encoders: names of all text encoders in the order of their hidden states; by default those that train.
        adapters: how many are trained at once; a batch holds the samples of the first, then of the second and so on.
        groups: number of learning rates.
        accumulate: whether several micro-batches make a step.

    Raises:
        UnsupportedError: the model or an adapter is not one that the fast step knows.
    """

    def __init__(
        self,
        unet: torch.nn.Module,
        sites: Sequence[Site],
        *,
        objective: Objective,
        hyper: Hyper,
        switches: Switches,
        texts: Sequence[TrainedText] = (),
        encoders: Sequence[str] = (),
        adapters: int = 1,
        groups: int = 1,
        accumulate: bool = False,
    ) -> None:
        first = next(unet.parameters())
        self.device, self.dtype = first.device, first.dtype
        self.switches, self.objective = switches, objective
        if self.device.type == "cuda" and not torch.are_deterministic_algorithms_enabled():
            torch.backends.cudnn.benchmark = True  # few shapes, many steps: trying cuDNN's algorithms pays
        anchor = torch.zeros((), device=self.device, requires_grad=True)
        stacked = switches.stacked and adapters == 1
        self.recompute = Recompute(switches.checkpoint)
        builder = Builder(unet, "unet", sites, anchor, stacked=stacked, recompute=self.recompute)
        self.unet = UNet(builder)
        regions = builder.finish()
        self.texts: dict[str, TextEncoder] = {}
        self.encoders = tuple(encoders) or tuple(text.part for text in texts)
        for text in texts:
            builder = Builder(text.model, text.part, sites, anchor, stacked=stacked)
            encoder = TextEncoder(builder, layer=text.layer, normed=text.normed, projection=text.projection)
            self.texts[text.part] = encoder
            regions += builder.finish()
        self.bank = Bank(regions, adapters=adapters, device=self.device, dtype=self.dtype)
        with kernels(switches.kernels):
            self.updater = Updater(
                self.bank, hyper, groups=groups, accumulate=accumulate, scaled=self.dtype == torch.float16
            )
        self.share = torch.ones((), device=self.device)
        self.recorder = Recorder(self.device) if switches.graph and self.device.type == "cuda" else None
        self._visits: dict[Any, int] = {}
        self._graphs: dict[Any, tuple[torch.cuda.CUDAGraph, Static, torch.Tensor]] = {}
        self._update: torch.cuda.CUDAGraph | None = None
        self._updates = 0
        self.reduce: Callable[[torch.Tensor], None] | None = None
        """Sums the gradients ``[adapters, size]`` over several processes before an update; needs ``accumulate``."""
        self.worth: Callable[[Any], bool] = lambda _signature: True
        """Asked before a graph is recorded for a signature of inputs (``graph.signature``)."""

    def micro(self, inputs: Inputs, share: float = 1.0) -> torch.Tensor:
        """Forward and backward for one micro-batch; gradients wait in the bank for ``update``.

        Args:
            inputs: see ``objective.Inputs``.
            share: what the loss is multiplied by for the gradients: one over the micro-batches of the step.

        Returns:
            Each adapter's mean loss, float32 ``[adapters]``, on the device; nothing has waited for it.
        """
        self.share.fill_(share)
        if self.recorder is None:
            return self._run(inputs)
        key = signature(inputs)
        recorded = self._graphs.get(key)
        if recorded is None:
            self._visits[key] = self._visits.get(key, 0) + 1
            if self._visits[key] == 1 or not self.worth(key):
                with self.recorder.aside():
                    return self._run(inputs)
            recorded = self._graphs[key] = self._record(inputs)
        graph, static, losses = recorded
        static.fill(inputs)
        graph.replay()
        return losses.clone()

    @torch.no_grad()
    def examine(self, inputs: Inputs) -> torch.Tensor:
        """The losses that ``micro`` would return; no gradients, no graph."""
        with self.recorder.aside() if self.recorder is not None else nullcontext():
            return self._losses(inputs)

    @torch.no_grad()
    def predict(self, noisy: torch.Tensor, times: torch.Tensor, conditions: Tensors) -> torch.Tensor:
        """What the UNet says to noisy latents ``[b, 4, h, w]`` at ``times`` ``[b]``; no graph."""
        aside = self.recorder.aside() if self.recorder is not None else nullcontext()
        with aside, kernels(self.switches.kernels), self._attention():
            text, pooled = self._text(conditions)
            latents = noisy.permute(0, 2, 3, 1).to(self.dtype).contiguous()
            found: torch.Tensor = self.unet(latents, times, text, pooled, conditions.get("sizes"))
            return found.permute(0, 3, 1, 2)

    def _record(self, inputs: Tensors) -> tuple[torch.cuda.CUDAGraph, Static, torch.Tensor]:
        assert self.recorder is not None
        static, losses = Static(inputs), torch.zeros(self.bank.adapters, device=self.device)

        def work() -> None:
            losses.copy_(self._run(static.tensors))

        return self.recorder.record(work), static, losses

    def _run(self, x: Inputs) -> torch.Tensor:
        with kernels(self.switches.kernels), self._attention():
            losses = self._losses(x)
            total = losses.sum() * self.share
            if self.updater.scale is not None:
                total = total * self.updater.scale.scale
            total.backward()
            self.updater.gather()
        return losses.detach()

    def _losses(self, x: Inputs) -> torch.Tensor:
        with kernels(self.switches.kernels), self._attention():
            noisy, target = self.objective.noisy(x)
            text, pooled = self._text(x)
            predicted = self.unet(noisy.to(self.dtype).contiguous(), x["times"], text, pooled, x.get("sizes"))
            each: torch.Tensor = self.objective.losses(predicted, target, x).unflatten(0, (self.bank.adapters, -1))
            return each.mean(1)

    def _text(self, x: Inputs) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Hidden states and pooled text: given, or from the encoders that train."""
        if not self.texts:
            return x["text"], x.get("pooled")
        pooled = x.get("pooled")
        hidden = []
        for part in self.encoders:
            if part not in self.texts:
                hidden.append(x[f"hidden.{part}"])
                continue
            ids = x[f"ids.{part}"]
            states, found = self.texts[part](ids.flatten(0, 1))
            chunks: torch.Tensor = states.unflatten(0, ids.shape[:2])
            hidden.append(torch.cat([chunks[:, 0, :1], chunks[:, :, 1:-1].flatten(1, 2), chunks[:, -1, -1:]], dim=1))
            pooled = pooled if found is None else found.unflatten(0, ids.shape[:2])[:, 0]
        return hidden[0] if len(hidden) == 1 else torch.cat(hidden, dim=-1), pooled

    @contextmanager
    def _attention(self) -> Iterator[None]:
        if self.switches.attention == "auto":
            yield
            return
        wanted = _BACKENDS[self.switches.attention]
        # not every backend takes every head size; the others stand behind it
        order = [wanted, *(one for one in _BACKENDS.values() if one != wanted)]
        with sdpa_kernel(order, set_priority=True) if _PRIORITISED else sdpa_kernel(wanted):
            yield

    def update(self, rates: Sequence[Sequence[float]]) -> None:
        """One optimiser step with the learning rates ``[adapters][groups]``; nothing waits for it."""
        self.updater.set_rates(rates)
        if self.reduce is not None:
            assert self.updater.accumulate and self.updater.total is not None
            self.reduce(self.updater.total)
        if self.recorder is None:
            self._step()
            return
        self._updates += 1
        if self._updates == 1:
            with self.recorder.aside():
                self._step()
            return
        if self._update is None:
            self._update = self.recorder.record(self._step)
        self._update.replay()

    def forget(self) -> None:
        """Drop all graphs and what an unfinished step has gathered; steps are recorded again as they come."""
        self._graphs.clear()
        self._visits.clear()
        self._update, self._updates = None, 0
        self.updater.drop()
        if self.recorder is not None:
            self.recorder.pool = None

    def gather(self) -> None:
        """Let several micro-batches make a step from now on."""
        self.forget()
        self.updater.start_gathering()

    def _step(self) -> None:
        with kernels(self.switches.kernels):
            self.updater.step()
