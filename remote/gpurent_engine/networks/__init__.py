"""Adapters: which layers get one (``plan``), the kinds (``lora``, ``weights``), what all share (``network``)."""

from __future__ import annotations

from gpurent_engine.networks.attach import attach, detach, limit_norms, start_from
from gpurent_engine.networks.network import Network
from gpurent_engine.networks.plan import Group, Layer, Plan, plan

__all__ = ["Group", "Layer", "Network", "Plan", "attach", "detach", "limit_norms", "plan", "start_from"]
