"""The verbs of gpurent: ``quote``, ``train``, ``attach``, ``stop``, ``reap``. Each reads as a story, top to bottom.

The broker knows ports only: providers come from the registry, the SSH link through a ``Connector``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Self

from gpurent.budget.client import ClientLock, is_alive
from gpurent.budget.events import Kind
from gpurent.budget.guard import Deadlines, deadlines
from gpurent.budget.ledger import Ledger
from gpurent.budget.reaper import Action, Destroy, reconcile
from gpurent.budget.spend import run_spent
from gpurent.budget.state import Rental, Run
from gpurent.clock import Clock, SystemClock
from gpurent.dataset.job import Job
from gpurent.errors import (
    BudgetReached,
    GpurentError,
    HostError,
    InDoubt,
    Interrupted,
    NoCapacity,
    NoOffer,
    OfferGone,
    ProviderError,
    UsageError,
)
from gpurent.jobs.interrupt import Interrupt, Stop
from gpurent.jobs.progress import Notice, Progress, Stage, StageStarted
from gpurent.jobs.rental import Held, LaunchOrder, Patience, Rentals
from gpurent.jobs.session import Outcome, Session
from gpurent.jobs.watch import Halt, Tell, Watch
from gpurent.model import Instance, Need, Offer, Workload
from gpurent.money import ZERO, Usd
from gpurent.plan.quote import Quote, QuoteRow, affordable_rows, make_quote
from gpurent.registry import Opened, open_connector, open_providers
from gpurent.report.receipt import Receipt, make_receipt
from gpurent.settings import Settings, load_settings, state_dir
