"""``gpurent session``: what stands on the command line. What it does is in ``sessionclient`` and ``sessionkeeper``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gpurent.cli.flags import (
    Budget,
    Config,
    Dataset,
    DryRun,
    Gpu,
    Hold,
    Interruptible,
    Json,
    MaxHours,
    MaxPrice,
    MinVram,
    TrustedOnly,
    Unguarded,
    Yes,
    how,
)

app = typer.Typer(
    help="One rented machine for job after job, under one budget.", no_args_is_help=True, rich_markup_mode=None
)
SessionId = Annotated[str | None, typer.Argument(help="Session; default: the one that is open.")]


@app.command("open")
def open_(
    *,
    budget: Budget = None,
    idle: Annotated[
        float,
        typer.Option(min=0.05, max=240, metavar="MINUTES", help="Terminate a machine without a job after so long."),
    ] = 10.0,
    base_model: Annotated[
        str | None, typer.Option(metavar="MODEL", help="Path or hub id for all jobs; default: the first job's.")
    ] = None,
    config: Config = None,
    gpu: Gpu = None,
    max_price: MaxPrice = None,
    min_vram: MinVram = None,
    trusted_only: TrustedOnly = False,
    interruptible: Interruptible = False,
    hold: Hold = None,
    max_hours: MaxHours = None,
    unguarded: Unguarded = False,
    dry_run: DryRun = False,
    yes: Yes = False,
    json: Json = False,
) -> int:
    """Open a session that outlives this command. Nothing is rented before its first job."""
    from gpurent.cli import sessionclient as command
    from gpurent.cli.quote import NeedOptions

    options = command.OpenOptions(
        budget=budget,
        idle_minutes=idle,
        base_model=base_model,
        config=config,
        need=NeedOptions(gpu, max_price, min_vram, trusted_only, interruptible),
        run=how(unguarded, hold, max_hours, None),
        dry_run=dry_run,
        yes=yes,
        as_json=json,
    )
    return command.open_session(options)


@app.command()
def run(
    *,
    config: Annotated[
        Path | None, typer.Argument(help="kohya training_config.toml; default: the one in this folder.")
    ] = None,
    session: Annotated[str | None, typer.Option(help="Session; default: the one that is open.")] = None,
    dataset: Dataset = None,
    output: Annotated[
        Path | None, typer.Option(help="Where results go; default: output_dir of the configuration.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name of the LoRA, in place of output_name.")] = None,
    dry_run: DryRun = False,
    yes: Yes = False,
    json: Json = False,
) -> int:
    """Train one more LoRA in an open session, and bring it home. Ctrl-C leaves; the training goes on."""
    from gpurent.cli import sessionclient as command

    options = command.RunOne(
        session=session,
        config=config,
        dataset=dataset,
        output=output,
        name=name,
        dry_run=dry_run,
        yes=yes,
        as_json=json,
    )
    return command.run(options)


@app.command()
def status(run_id: SessionId = None, json: Json = False) -> int:
    """Show a session's machine, its money and its jobs."""
    from gpurent.cli import sessionclient as command

    return command.status(run_id, as_json=json)


@app.command()
def close(run_id: SessionId = None, json: Json = False) -> int:
    """Terminate a session's machine; a job that trains saves and comes home first."""
    from gpurent.cli import sessionclient as command

    return command.close(run_id, as_json=json)


@app.command(hidden=True)
def keep(opening: Annotated[Path, typer.Argument()]) -> int:
    """Hold a session open; started by `session open`."""
    from gpurent.cli import sessionkeeper as command

    return command.keep(opening)
