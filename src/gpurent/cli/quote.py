"""``gpurent quote``."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from gpurent.broker import Broker
from gpurent.cli import output
from gpurent.cli.common import open_broker, read_job
from gpurent.dataset.job import Job
from gpurent.errors import ConfigError, DatasetError, UsageError
from gpurent.model import Need, Workload
from gpurent.money import Usd
from gpurent.plan.quote import require_offer
from gpurent.plan.typical import typical_workload
from gpurent.settings import vram_mb
from gpurent.words import counted


@dataclass(frozen=True)
class NeedOptions:
    """What the command line asks of a machine; None leaves it to ``gpurent.toml``."""

    gpu: list[str] | None
    max_price: Usd | None
    min_vram: int | None
    trusted_only: bool
    interruptible: bool

    def over(self, need: Need) -> Need:
        """``need`` with these on top."""
        return replace(
            need,
            gpus=tuple(self.gpu) if self.gpu else need.gpus,
            max_hourly=self.max_price or need.max_hourly,
            min_vram_mb=vram_mb(self.min_vram) if self.min_vram else need.min_vram_mb,
            trusted_only=self.trusted_only or need.trusted_only,
            interruptible=self.interruptible or need.interruptible,
        )


@dataclass(frozen=True)
class QuoteOptions:
    """Options of the command."""

    images: int | None
    family: str
    config: Path | None
    dataset: Path | None
    budget: Usd | None
    need: NeedOptions
    limit: int
    why_not: bool
    as_json: bool
    no_grid: bool = False


def run(options: QuoteOptions) -> int:
    """Quote, show, and with a budget say whether it suffices."""
    with open_broker() as broker:
        job = _job(broker, options)
        wanted = False if options.no_grid else None
        job = broker.drawing(job, wanted) if isinstance(job, Job) else job
        if options.no_grid and isinstance(job, Workload):
            job = replace(job, grid=None)
        found = broker.quote(job, options.need.over(broker.need), budget=options.budget)
        if options.as_json:
            remarks = list(job.warnings) if isinstance(job, Job) else []
            output.print_json({**output.quote_dict(found, options.limit), "remarks": remarks})
        else:
            if isinstance(job, Job) and job.warnings:
                output.console.print(f"{counted(len(job.warnings), 'remark')}: `gpurent check` shows them", style="dim")
            output.print_quote(found, options.limit)
            if options.why_not:
                output.print_rejected(found)
        if options.budget is not None or not found.rows:
            require_offer(found, options.budget or Usd(0))
    return 0


def _job(broker: Broker, options: QuoteOptions) -> Job | Workload:
    if options.images is None:
        try:
            return read_job(
                broker, options.config, options.dataset, None, quiet=options.as_json, names_unused=True
            )  # fmt: skip
        except (ConfigError, DatasetError):
            raise
        except UsageError as error:
            raise UsageError(
                str(error), hint=f"{error.hint} `gpurent quote --images 50` quotes without either."
            ) from error
    if options.config or options.dataset:
        raise UsageError(
            "--images describes a typical job; it cannot be combined with --config or --dataset.",
            hint="Leave out --images to quote the job of this folder.",
        )
    try:
        return typical_workload(options.images, options.family)
    except ValueError as error:
        raise UsageError(str(error)) from error
