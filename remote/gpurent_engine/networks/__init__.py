"""Adapters: which layers get one (``plan``), what kinds there are (``lora``), what all have in common (``network``)."""

from __future__ import annotations

from gpurent_engine.networks.lora import attach, detach
from gpurent_engine.networks.network import Network
from gpurent_engine.networks.plan import Group, Layer, Plan, plan

__all__ = ["Group", "Layer", "Network", "Plan", "attach", "detach", "plan"]
