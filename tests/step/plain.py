"""The same training as anyone would write it with diffusers, transformers and peft."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import diffusers as typed_diffusers
import torch
from peft import LoraConfig, inject_adapter_in_model

from gpurent_engine.step.bank import Site

diffusers: Any = typed_diffusers
Values = dict[str, tuple[torch.Tensor, torch.Tensor]]
Batch = dict[str, torch.Tensor]


class Plain:
    """A copy of the models with peft's layers, AdamW and gradient clipping; float32."""

    def __init__(
        self,
        unet: Any,
        sites: Sequence[Site],
        *,
        texts: dict[str, Callable[[Any, torch.Tensor], Any]] | None = None,
        encoders: dict[str, Any] | None = None,
        prediction: str = "epsilon",
        rates: Sequence[float] = (1e-2,),
        max_norm: float = 1.0,
        latent_scale: float = 0.18215,
    ) -> None:
        self.models: dict[str, Any] = {"unet": copy.deepcopy(unet)}
        self.models.update({part: copy.deepcopy(model) for part, model in (encoders or {}).items()})
        self.texts, self.max_norm, self.latent_scale = texts or {}, max_norm, latent_scale
        self.sites = list(sites)
        self.layers: dict[str, Any] = {}
        for part, model in self.models.items():
            self._inject(model, [site for site in sites if site.part == part])
        groups = [
            {"params": [p for site in sites if site.group == i for p in self._pair(site.key)], "lr": rate}
            for i, rate in enumerate(rates)
        ]
        self.optimizer = torch.optim.AdamW(groups, weight_decay=0.01)
        self.scheduler: Any = diffusers.DDPMScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", prediction_type=prediction
        )

    def _inject(self, model: Any, sites: Sequence[Site]) -> None:
        if not sites:
            return
        model = getattr(model, "text_model", model)  # the encoder inside CLIPTextModelWithProjection
        settings: dict[str, Any] = {
            "r": sites[0].rank,
            "lora_alpha": sites[0].scale * sites[0].rank,
            "target_modules": [site.name for site in sites],
            "rank_pattern": {f"^{site.name}$": site.rank for site in sites},
            "alpha_pattern": {f"^{site.name}$": site.scale * site.rank for site in sites},
        }
        inject_adapter_in_model(LoraConfig(**settings), model)
        for site in sites:
            self.layers[site.key] = model.get_submodule(site.name)
            for parameter in self._pair(site.key):
                parameter.requires_grad_(True)

    def _pair(self, key: str) -> tuple[torch.nn.Parameter, torch.nn.Parameter]:
        layer = self.layers[key]
        return layer.lora_A["default"].weight, layer.lora_B["default"].weight

    def start(self, seed: int = 5) -> Values:
        """Fill every adapter with numbers, ``up`` included, so that nothing hides behind a zero."""
        draw = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for key in self.layers:
                down, up = self._pair(key)
                down.copy_(torch.empty(down.shape).uniform_(-0.2, 0.2, generator=draw))
                up.copy_(torch.empty(up.shape).normal_(0, 0.02, generator=draw))
        return self.values()

    def load(self, values: Values) -> None:
        with torch.no_grad():
            for key, pair in values.items():
                for mine, given in zip(self._pair(key), pair, strict=True):
                    mine.copy_(given)

    def values(self) -> Values:
        return {key: tuple(one.detach().clone() for one in self._pair(key)) for key in self.layers}  # type: ignore[misc]

    def gradients(self) -> Values:
        found: Values = {}
        for key in self.layers:
            down, up = self._pair(key)
            if down.grad is not None and up.grad is not None:
                found[key] = (down.grad.clone(), up.grad.clone())
        return found

    def forward(self, x: Batch) -> torch.Tensor:
        clean = (x["mean"] + x["std"] * x["jitter"]) * self.latent_scale
        noisy = self.scheduler.add_noise(clean, x["noise"], x["times"])
        target = x["noise"]
        if self.scheduler.config.prediction_type == "v_prediction":
            target = self.scheduler.get_velocity(clean, x["noise"], x["times"])
        hidden, pooled = x.get("text"), x.get("pooled")
        if self.texts:
            states = []
            for part, encode in self.texts.items():
                found, projected = encode(self.models[part], x[f"ids.{part}"][:, 0])
                states.append(found)
                pooled = pooled if projected is None else projected
            hidden = torch.cat(states, dim=-1)
        extra = {"added_cond_kwargs": {"text_embeds": pooled, "time_ids": x["sizes"]}} if "sizes" in x else {}
        predicted = self.models["unet"](noisy, x["times"], hidden, return_dict=False, **extra)[0]
        loss: torch.Tensor = ((predicted - target).square().mean(dim=(1, 2, 3)) * x["weight"]).mean()
        return loss

    def step(self, batches: Sequence[Batch]) -> torch.Tensor:
        """One optimiser step; returns each micro-batch's loss."""
        self.optimizer.zero_grad()
        losses = []
        for x in batches:
            loss = self.forward(x)
            (loss / len(batches)).backward()
            losses.append(loss.detach())
        self.last = self.gradients()
        if self.max_norm:
            torch.nn.utils.clip_grad_norm_([p for key in self.layers for p in self._pair(key)], self.max_norm)
        self.optimizer.step()
        return torch.stack(losses)
