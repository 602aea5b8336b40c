"""Options that several commands have."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gpurent.money import ZERO, Usd

if TYPE_CHECKING:
    from gpurent import model
    from gpurent.jobs.options import RunOptions


def _dollars(text: str) -> Usd:
    try:
        amount = Usd.parse(text)
    except (ValueError, TypeError) as error:
        raise typer.BadParameter(f"{text!r} is not an amount of dollars such as 10 or 0.50.") from error
    if amount <= ZERO:
        raise typer.BadParameter(f"{text} is not more than 0; give an amount of dollars such as 10 or 0.50.")
    return amount


def _share(text: str) -> float:
    try:
        percent = float(text.removesuffix("%"))
    except ValueError as error:
        raise typer.BadParameter(f"{text!r} is not a percentage such as 60%.") from error
    if not 0 < percent < 100:
        raise typer.BadParameter(f"{text} is not between 0 and 100 percent.")
    return percent / 100


Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
Budget = Annotated[
    Usd | None, typer.Option(parser=_dollars, metavar="DOLLARS", help="Hard cap in dollars, everything included.")
]
Gpu = Annotated[list[str] | None, typer.Option(help="Accept this GPU, e.g. 4090; may be repeated.")]
MaxPrice = Annotated[
    Usd | None, typer.Option(parser=_dollars, metavar="DOLLARS", help="Highest price per hour, GPU and disk.")
]
MinVram = Annotated[
    int | None, typer.Option(min=1, help="Least GPU memory in GB; computed from the job when left out.")
]
TrustedOnly = Annotated[bool, typer.Option("--trusted-only", help="Data centres and secure clouds only.")]
Interruptible = Annotated[
    bool, typer.Option("--interruptible", help="Also cheaper machines that a higher bid may take away.")
]


class Overrun(StrEnum):
    """Values of ``--on-overrun``."""

    STOP = "stop"
    SHRINK = "shrink"
    ASK = "ask"


OVERRUNS: Mapping[Overrun, model.OnOverrun] = {
    Overrun.STOP: "stop",
    Overrun.SHRINK: "shrink",
    Overrun.ASK: "ask",
}


Hold = Annotated[
    float | None,
    typer.Option(min=1, max=1440, metavar="MINUTES", help="Keep results on the machine so long if we vanish."),
]
MaxHours = Annotated[
    float | None, typer.Option(min=0.001, metavar="HOURS", help="End a rental after so long, whatever the budget.")
]
OnOverrun = Annotated[
    Overrun | None,
    typer.Option(help="If it will not fit: stop at the deadline, shrink to fewer epochs, or ask. Default: stop."),
]
Unguarded = Annotated[bool, typer.Option("--unguarded", help="Rent even where the machine cannot end itself.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Check and quote only; rent nothing.")]
NoGrid = Annotated[bool, typer.Option("--no-grid", help="Draw no grid of the LoRA on the rented machine.")]
StopAt = Annotated[
    float | None,
    typer.Option(
        parser=_share, metavar="PERCENT", help="Train so far with the schedule of the whole; `continue` goes on."
    ),
]
Config = Annotated[Path | None, typer.Option(help="kohya training_config.toml; default: the one in this folder.")]
Dataset = Annotated[Path | None, typer.Option(help="Folder of <repeats>_<concept> folders.")]
RunId = Annotated[str | None, typer.Argument(help="Run; default: the latest.")]


def how(
    unguarded: bool,
    hold: float | None,
    max_hours: float | None,
    on_overrun: Overrun | None,
    *,
    stop_at: float | None = None,
    no_grid: bool = False,
) -> RunOptions:
    """What these say about a run."""
    from gpurent.jobs.options import RunOptions

    choice = None if on_overrun is None else OVERRUNS[on_overrun]
    return RunOptions(
        need=None,
        unguarded=unguarded,
        hold_minutes=hold,
        max_hours=max_hours,
        on_overrun=choice,
        stop_at=stop_at,
        grid=False if no_grid else None,
    )
