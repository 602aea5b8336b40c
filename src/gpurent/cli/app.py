"""``gpurent``: the commands and their options. Everything heavy is imported by the command that needs it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from gpurent.cli import exits
from gpurent.money import ZERO, Usd

_EXIT_STATUS = "\n\n".join(f"{code}  {meaning}" for code, meaning in exits.CODES)


class _Commands(TyperGroup):
    """Every command ends here: its result or error becomes the exit code."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command that was chosen."""
        raise typer.Exit(exits.run(lambda: super(_Commands, self).invoke(ctx), as_json="--json" in sys.argv))


app = typer.Typer(
    name="gpurent",
    help="Rent the right GPU, train a Stable Diffusion LoRA on it, bring the file home and destroy the rental, "
    "inside a hard budget.",
    epilog=f"EXIT STATUS\n\n{_EXIT_STATUS}",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    cls=_Commands,
)
sandbox_app = typer.Typer(
    help="A GPU market on this computer: play money, real SSH.", no_args_is_help=True, rich_markup_mode=None
)
app.add_typer(sandbox_app, name="sandbox")


def _dollars(text: str) -> Usd:
    try:
        amount = Usd.parse(text)
    except (ValueError, TypeError) as error:
        raise typer.BadParameter(f"{text!r} is not an amount of dollars such as 10 or 0.50.") from error
    if amount <= ZERO:
        raise typer.BadParameter(f"{text} is not more than 0; give an amount of dollars such as 10 or 0.50.")
    return amount


Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before money is spent.")]
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
Config = Annotated[Path | None, typer.Option(help="kohya training_config.toml; default: the one in this folder.")]
Dataset = Annotated[Path | None, typer.Option(help="Folder of <repeats>_<concept> folders.")]
RunId = Annotated[str | None, typer.Argument(help="Run; default: the latest.")]


def _print_version(wanted: bool) -> None:
    if wanted:
        from gpurent import __version__

        print(f"gpurent {__version__}")
        raise typer.Exit


@app.callback()
def gpurent(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """What comes before the command's name."""


@app.command()
def quote(
    gpu: Gpu = None,
    images: Annotated[int | None, typer.Option(min=1, help="Quote a typical job of so many images.")] = None,
    family: Annotated[str, typer.Option(help="With --images: sd15 or sdxl.")] = "sd15",
    config: Config = None,
    dataset: Dataset = None,
    budget: Budget = None,
    max_price: MaxPrice = None,
    min_vram: MinVram = None,
    trusted_only: TrustedOnly = False,
    limit: Annotated[int, typer.Option(min=1, help="Rows to show.")] = 10,
    json: Json = False,
) -> int:
    """Say which machine, how long and how much. Needs no key and no network; spends nothing."""
    from gpurent.cli import quote as command

    need = command.NeedOptions(gpu, max_price, min_vram, trusted_only)
    return command.run(command.QuoteOptions(images, family, config, dataset, budget, need, limit, json))


@app.command()
def train(
    budget: Budget = None,
    config: Config = None,
    dataset: Dataset = None,
    output: Annotated[
        Path | None, typer.Option(help="Where results go; default: output_dir of the configuration.")
    ] = None,
    gpu: Gpu = None,
    max_price: MaxPrice = None,
    min_vram: MinVram = None,
    trusted_only: TrustedOnly = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check and quote only; rent nothing.")] = False,
    yes: Yes = False,
    json: Json = False,
) -> int:
    """Rent, train, collect, destroy; never more than the budget."""
    from gpurent.cli import train as command
    from gpurent.cli.quote import NeedOptions

    need = NeedOptions(gpu, max_price, min_vram, trusted_only)
    return command.run(command.TrainOptions(budget, config, dataset, output, need, dry_run, yes, json))


@app.command()
def status(
    all_runs: Annotated[bool, typer.Option("--all", help="Show finished runs as well.")] = False, json: Json = False
) -> int:
    """Show what runs, what may run, and what it costs."""
    from gpurent.cli import status as command

    return command.run(all_runs=all_runs, as_json=json)


@app.command()
def logs(
    run_id: RunId = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the run ends.")] = False,
) -> int:
    """Print the engine's events of a run."""
    from gpurent.cli import logs as command

    return command.run(run_id, follow=follow)


@app.command()
def attach(run_id: RunId = None, json: Json = False) -> int:
    """Take over a run whose terminal died: follow, collect, destroy."""
    from gpurent.cli import attach as command

    return command.run(run_id, as_json=json)


@app.command()
def stop(run_id: RunId = None, json: Json = False) -> int:
    """Save a checkpoint, collect it and destroy the rental."""
    from gpurent.cli import stop as command

    return command.run(run_id, as_json=json)


@app.command()
def reap(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done.")] = False, json: Json = False
) -> int:
    """Destroy rentals that nobody looks after; confirm them gone."""
    from gpurent.cli import reap as command

    return command.run(dry_run=dry_run, as_json=json)


@app.command()
def receipt(run_id: RunId = None, json: Json = False) -> int:
    """Show what a run cost, by our reckoning and as billed."""
    from gpurent.cli import receipt as command

    return command.run(run_id, as_json=json)


@app.command()
def providers(json: Json = False) -> int:
    """List providers, and why one cannot be used."""
    from gpurent.cli import providers as command

    return command.run(as_json=json)


@app.command()
def doctor(json: Json = False) -> int:
    """Check this computer, the ledger and every provider's key."""
    from gpurent.cli import doctor as command

    return command.run(as_json=json)


@app.command()
def init(
    folder: Annotated[Path, typer.Argument(help="Where to write.")] = Path(),
    force: Annotated[bool, typer.Option("--force", help="Overwrite existing files.")] = False,
) -> int:
    """Write a gpurent.toml and a training_config.toml to start from."""
    from gpurent.cli import init as command

    return command.run(folder, force=force)


@app.command()
def demo(
    example: Annotated[Path, typer.Option(help="Folder with dataset, configuration and prompts.")] = Path(
        "examples/fluent-style"
    ),
    output: Annotated[Path, typer.Option(help="Where results go.")] = Path("demo-output"),
) -> int:
    """Train the example on the sandbox; draw what it learnt."""
    from gpurent.cli import demo as command

    return command.run(example, output)


@sandbox_app.command("up")
def sandbox_up(
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any free port.")] = 0,
    fault: Annotated[list[str] | None, typer.Option(help="NAME, NAME:TIMES or NAME:p=0.1; may be repeated.")] = None,
    vast: Annotated[bool, typer.Option("--vast", help="Also print what leads Vast.ai's clients to it.")] = False,
    runpod: Annotated[bool, typer.Option("--runpod", help="Also print what leads RunPod's clients to it.")] = False,
) -> int:
    """Serve a market on this computer until Ctrl-C."""
    from gpurent.cli import sandbox as command

    return command.up(port, fault or [], command.chosen(vast=vast, runpod=runpod))


@sandbox_app.command("env")
def sandbox_env(
    vast: Annotated[bool, typer.Option("--vast", help="Also those that lead Vast.ai's clients to it.")] = False,
    runpod: Annotated[bool, typer.Option("--runpod", help="Also those that lead RunPod's clients to it.")] = False,
) -> int:
    """Print the environment variables that lead to the sandbox."""
    from gpurent.cli import sandbox as command

    return command.env(command.chosen(vast=vast, runpod=runpod))


def main() -> None:
    """Entry point: parse, run, exit."""
    app()
