"""``gpurent``: the commands and their options. Everything heavy is imported by the command that needs it."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup
from typer.main import get_command_name
from typer.models import CommandInfo

from gpurent.cli import exits, lora, sandbox, session, streams
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
    NoGrid,
    OnOverrun,
    RunId,
    StopAt,
    TrustedOnly,
    Unguarded,
    Yes,
    how,
)

if TYPE_CHECKING:
    from gpurent.jobs.options import OnFailure as Failing
    from gpurent.report.costs import By

_EXIT_STATUS = "\n\n".join(f"{code}  {meaning}" for code, meaning in exits.CODES)


_SILENT = (
    ("sandbox", "up"),
    ("watchdog", "run"),
    ("watchdog", "tend"),
    ("session", "keep"),
    ("login",),
    ("lora",),
    ("grid",),
    ("help",),
)
"""Commands that are not about rentals at all, or that go on and on: every other ends by naming what may still run."""


class _Commands(TyperGroup):
    """Every command ends here: its result or error becomes the exit code."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Remember which command it is."""
        ctx.meta[__name__] = not any(tuple(args[: len(words)]) == words for words in _SILENT)
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        """Run the command that was chosen."""
        as_json = "--json" in sys.argv

        def told(ended: exits.Ended) -> int:
            return exits.after(ended, as_json=as_json) if ctx.meta.get(__name__, True) else ended.code

        try:
            ended = exits.run(lambda: super(_Commands, self).invoke(ctx), as_json=as_json)
        except Exception as error:
            if getattr(error, "exit_code", None) == 2:  # typer's own usage errors, which it shows itself
                told(exits.Ended(2))
            raise
        raise typer.Exit(told(ended))


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
app.add_typer(sandbox.app, name="sandbox")
app.add_typer(lora.app, name="lora")
app.add_typer(session.app, name="session")


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
def check(
    config: Annotated[
        Path | None,
        typer.Argument(help="kohya training_config.toml, or a folder with one; default: the one in this folder."),
    ] = None,
    dataset: Dataset = None,
    sheet: Annotated[
        Path | None, typer.Option(help="Also draw every picture as it is trained on, with its caption, into this file.")
    ] = None,
    json: Json = False,
) -> int:
    """Say everything about configuration, base model and dataset. Spends nothing; 2 if it cannot be trained."""
    from gpurent.cli import check as command

    return command.run(command.CheckOptions(config, dataset, sheet, json))


@app.command()
def quote(
    *,
    gpu: Gpu = None,
    images: Annotated[int | None, typer.Option(min=1, help="Quote a typical job of so many images.")] = None,
    family: Annotated[str, typer.Option(help="With --images: sd15, sd2 or sdxl.")] = "sd15",
    config: Config = None,
    dataset: Dataset = None,
    budget: Budget = None,
    max_price: MaxPrice = None,
    min_vram: MinVram = None,
    trusted_only: TrustedOnly = False,
    interruptible: Interruptible = False,
    no_grid: NoGrid = False,
    limit: Annotated[int, typer.Option(min=1, help="Rows to show.")] = 10,
    why_not: Annotated[bool, typer.Option("--why-not", help="Also say why other offers were left out.")] = False,
    json: Json = False,
) -> int:
    """Say which machine, how long and how much. Needs no key and no network; spends nothing."""
    from gpurent.cli import quote as command

    need = command.NeedOptions(
        gpu=gpu, max_price=max_price, min_vram=min_vram, trusted_only=trusted_only, interruptible=interruptible
    )
    return command.run(
        command.QuoteOptions(
            images=images,
            family=family,
            config=config,
            dataset=dataset,
            budget=budget,
            need=need,
            limit=limit,
            why_not=why_not,
            as_json=json,
            no_grid=no_grid,
        )
    )


@app.command()
def train(
    *,
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
    interruptible: Interruptible = False,
    hold: Hold = None,
    max_hours: MaxHours = None,
    on_overrun: OnOverrun = None,
    stop_at: StopAt = None,
    no_grid: NoGrid = False,
    unguarded: Unguarded = False,
    dry_run: DryRun = False,
    yes: Yes = False,
    json: Json = False,
) -> int:
    """Rent, train, collect, destroy; never more than the budget."""
    from gpurent.cli import train as command
    from gpurent.cli.quote import NeedOptions

    need = NeedOptions(gpu, max_price, min_vram, trusted_only, interruptible)
    return command.run(
        command.TrainOptions(
            budget=budget,
            config=config,
            dataset=dataset,
            output=output,
            need=need,
            dry_run=dry_run,
            yes=yes,
            as_json=json,
            run=how(unguarded, hold, max_hours, on_overrun, stop_at=stop_at, no_grid=no_grid),
        )
    )


@app.command("continue")
def continue_(
    *,
    run_id: RunId = None,
    budget: Budget = None,
    job: Annotated[
        str | None, typer.Option(help="Name of a job of a batch; default: the only one with a state.")
    ] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Train so many epochs in all, instead of before.")] = None,
    gpu: Gpu = None,
    max_price: MaxPrice = None,
    trusted_only: TrustedOnly = False,
    stop_at: StopAt = None,
    hold: Hold = None,
    max_hours: MaxHours = None,
    on_overrun: OnOverrun = None,
    no_grid: NoGrid = False,
    unguarded: Unguarded = False,
    dry_run: DryRun = False,
    yes: Yes = False,
    json: Json = False,
) -> int:
    """Go on with a run that was stopped or lost its machine.

    It goes on exactly where its state is, on any machine.
    """
    from gpurent.cli import train as command
    from gpurent.cli.quote import NeedOptions

    need = NeedOptions(gpu, max_price, None, trusted_only, False)
    options = how(unguarded, hold, max_hours, on_overrun, stop_at=stop_at, no_grid=no_grid)
    return command.go_on(
        run_id,
        job,
        epochs,
        command.TrainOptions(
            budget=budget,
            config=None,
            dataset=None,
            output=None,
            need=need,
            dry_run=dry_run,
            yes=yes,
            as_json=json,
            run=options,
        ),
    )


class OnFailure(StrEnum):
    """Values of ``--on-failure``."""

    CONTINUE = "continue"
    STOP = "stop"


FAILURES: Mapping[OnFailure, Failing] = {OnFailure.CONTINUE: "continue", OnFailure.STOP: "stop"}


@app.command()
def batch(
    *,
    paths: Annotated[
        list[Path],
        typer.Argument(metavar="FILE|FOLDER|CONFIG...", help="Batch files, configurations, folders of them."),
    ],
    budget: Budget = None,
    gpu: Gpu = None,
    max_price: MaxPrice = None,
    min_vram: MinVram = None,
    trusted_only: TrustedOnly = False,
    interruptible: Interruptible = False,
    on_failure: Annotated[
        OnFailure, typer.Option(help="When a job fails by its own fault: continue with the next, or stop.")
    ] = OnFailure.CONTINUE,
    again: Annotated[bool, typer.Option("--again", help="Train what has a verified result already.")] = False,
    in_order: Annotated[
        bool, typer.Option("--in-order", help="As given, instead of by base model and the shortest first.")
    ] = False,
    rentals: Annotated[
        str, typer.Option(help="Machines at the same time; auto: as many as the budget pays for and make it faster.")
    ] = "1",
    partial: Annotated[
        bool, typer.Option("--partial", help="Begin although the budget surely pays for the first jobs only.")
    ] = False,
    hold: Hold = None,
    max_hours: MaxHours = None,
    on_overrun: OnOverrun = None,
    no_grid: NoGrid = False,
    unguarded: Unguarded = False,
    dry_run: DryRun = False,
    yes: Yes = False,
    json: Json = False,
) -> int:
    """Train several LoRAs on one rental, under one budget. Done is done: run it again, and it goes on."""
    from gpurent.cli import batch as command
    from gpurent.cli.quote import NeedOptions
    from gpurent.jobs.options import BatchOptions

    need = NeedOptions(gpu, max_price, min_vram, trusted_only, interruptible)
    return command.run(
        command.Options(
            paths=tuple(paths),
            budget=budget,
            need=need,
            dry_run=dry_run,
            yes=yes,
            as_json=json,
            run=how(unguarded, hold, max_hours, on_overrun, no_grid=no_grid),
            batch=BatchOptions(
                on_failure=FAILURES[on_failure],
                again=again,
                in_order=in_order,
                rentals=command.count_of(rentals),
                partial=partial,
            ),
        )
    )


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
    *,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done.")] = False,
    all_accounts: Annotated[
        bool, typer.Option("--all-accounts", help="Also what carries our tag but is not in this ledger; asks first.")
    ] = False,
    same_account: Annotated[
        bool,
        typer.Option(
            "--same-account",
            help="The keys in use are of the accounts that rented: for providers that do not tell their account.",
        ),
    ] = False,
    yes: Yes = False,
    json: Json = False,
) -> int:
    """Destroy rentals that nobody looks after; confirm them gone."""
    from gpurent.cli import reap as command

    return command.run(dry_run=dry_run, as_json=json, all_accounts=all_accounts, same_account=same_account, yes=yes)


@app.command()
def receipt(run_id: RunId = None, json: Json = False) -> int:
    """Show what a run cost, as estimated and as billed."""
    from gpurent.cli import receipt as command

    return command.run(run_id, as_json=json)


@app.command()
def why(run_id: RunId = None, json: Json = False) -> int:
    """Say why a run failed, and what to do about it."""
    from gpurent.cli import why as command

    return command.run(run_id, as_json=json)


class Group(StrEnum):
    """Values of ``--by``."""

    MONTH = "month"
    PROVIDER = "provider"
    GPU = "gpu"
    JOB = "job"


GROUPS: Mapping[Group, By] = {Group.MONTH: "month", Group.PROVIDER: "provider", Group.GPU: "gpu", Group.JOB: "job"}


@app.command()
def costs(
    by: Annotated[Group, typer.Option(help="How to group.")] = Group.MONTH,
    offline: Annotated[bool, typer.Option("--offline", help="Ask no provider for bills.")] = False,
    json: Json = False,
) -> int:
    """Show what all runs cost, and charges that nothing explains."""
    from gpurent.cli import costs as command

    return command.run(GROUPS[by], offline=offline, as_json=json)


@app.command()
def providers(json: Json = False) -> int:
    """List providers, and why one cannot be used."""
    from gpurent.cli import providers as command

    return command.run(as_json=json)


@app.command()
def doctor(
    json: Json = False,
    report: Annotated[
        bool, typer.Option("--report", help="Print facts for a bug report: no keys, addresses, names or paths.")
    ] = False,
) -> int:
    """Check computer, ledger and every provider's key."""
    from gpurent.cli import doctor as command

    return command.report() if report else command.run(as_json=json)


@app.command()
def init(
    folder: Annotated[Path, typer.Argument(help="Where to write.")] = Path(),
    force: Annotated[bool, typer.Option("--force", help="Overwrite existing files.")] = False,
    source: Annotated[
        Path | None,
        typer.Option("--from", help="Convert a file of ai-toolkit, OneTrainer or kohya's trainer.", exists=True),
    ] = None,
    export: Annotated[
        Path | None,
        typer.Option("--export-kohya", help="Write this configuration back for kohya's own trainer.", exists=True),
    ] = None,
) -> int:
    """Write a gpurent.toml and a training_config.toml to start from."""
    from gpurent.cli import init as command

    return command.run(folder, force=force, source=source, export=export)


@app.command()
def grid(
    *,
    file: Annotated[Path, typer.Argument(help="A LoRA in .safetensors.")],
    base: Annotated[str, typer.Option(help="Base model: a folder, a .safetensors file, or a hub id.")],
    trigger: Annotated[str, typer.Option(help="Word of the captions; it is put at start, middle and end.")] = "",
    prompt: Annotated[list[str] | None, typer.Option(help="Around the trigger; may be given several times.")] = None,
    negative: Annotated[
        str, typer.Option(help="Each prompt is drawn with and without it; '' for without only.")
    ] = "blurry, deformed, low quality, watermark, text",
    strengths: Annotated[str, typer.Option(help="Of the LoRA, with commas between.")] = "0.5,0.7,0.8,1.0",
    seeds: Annotated[str, typer.Option(help="With commas between.")] = "1,2",
    steps: Annotated[int, typer.Option(help="Of the sampler.")] = 30,
    out: Annotated[Path | None, typer.Option(help="The picture; default: FILE-grid.png beside the file.")] = None,
    json: Json = False,
) -> int:
    """Draw a LoRA here, base and strengths side by side.

    A row for each prompt and seed.
    """
    from gpurent.cli import grid as command

    return command.run(
        command.GridOptions(
            file=file,
            base=base,
            trigger=trigger,
            prompts=tuple(prompt or ()),
            negative=negative,
            strengths=strengths,
            seeds=seeds,
            steps=steps,
            out=out,
            as_json=json,
        )
    )


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


@app.command("help")
def show_page(
    topic: Annotated[str | None, typer.Argument(help="Name of a page; all are listed without one.")] = None,
) -> int:
    """Show a page of the documentation.

    How to do something, what a file may hold, why it is so.
    """
    from gpurent.cli import help as command

    return command.show(topic)


ProviderName = Annotated[str, typer.Argument(help="A provider, as `gpurent providers` lists them.")]


@app.command()
def login(
    provider: ProviderName,
    stdin: Annotated[bool, typer.Option("--stdin", help="Read the key from standard input.")] = False,
    no_check: Annotated[bool, typer.Option("--no-check", help="Keep it without trying it.")] = False,
) -> int:
    """Keep a provider's key in the system keyring. The key is asked for, never given as an argument."""
    from gpurent.cli import login as command

    return command.login(provider, stdin=stdin, check=not no_check)


@app.command()
def logout(provider: ProviderName) -> int:
    """Forget a key that `gpurent login` kept."""
    from gpurent.cli import login as command

    return command.logout(provider)


hosts_app = typer.Typer(help="Machines of your own, or rented by hand.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(hosts_app, name="hosts")
HostName = Annotated[str, typer.Argument(help="What you call the machine.")]


@hosts_app.command("add")
def hosts_add(
    *,
    name: HostName,
    address: Annotated[str, typer.Option(help="Host name or IP address.")],
    gpu: Annotated[str, typer.Option(help="Name of its GPU, e.g. 'RTX 3090'.")],
    vram: Annotated[float, typer.Option(min=0.1, help="Memory of one GPU in GiB.")],
    user: Annotated[str | None, typer.Option(help="Login name; default: root.")] = None,
    port: Annotated[int | None, typer.Option(min=1, max=65535, help="Of its SSH server; default: 22.")] = None,
    key: Annotated[Path | None, typer.Option(help="Private key file; default: the agent and the usual files.")] = None,
    price: Annotated[str | None, typer.Option(metavar="DOLLARS", help="Per hour; default: 0.")] = None,
    disk: Annotated[int | None, typer.Option(min=1, help="GB to use; default: 50, or what is free.")] = None,
    gpu_count: Annotated[int | None, typer.Option(min=1, max=64, help="GPUs of that kind; default: 1.")] = None,
    until: Annotated[datetime | None, typer.Option(help="When a rental made by hand ends, UTC.")] = None,
    note: Annotated[str | None, typer.Option(help="For yourself.")] = None,
    yes: Yes = False,
    json: Json = False,
) -> int:
    """List a machine, show its fingerprint, pin it, and say what is there."""
    from gpurent.cli import hosts as command

    given = {
        "address": address, "gpu": gpu, "vram_gb": vram, "user": user, "port": port, "price": price,
        "key": None if key is None else str(key.expanduser().absolute()), "disk_gb": disk, "until": until, "note": note,
        "gpu_count": gpu_count,
    }  # fmt: skip
    return command.add(name, given, yes=yes, as_json=json)


@hosts_app.command("list")
def hosts_list(json: Json = False) -> int:
    """Show the machines that are listed."""
    from gpurent.cli import hosts as command

    return command.listing(as_json=json)


@hosts_app.command("test")
def hosts_test(
    name: HostName,
    pin: Annotated[bool, typer.Option("--pin", help="Pin the key that it shows now, whatever it was.")] = False,
    yes: Yes = False,
    json: Json = False,
) -> int:
    """Log in and say what is there: GPU, Python, torch, disk, and who uses it."""
    from gpurent.cli import hosts as command

    return command.test(name, pin=pin, yes=yes, as_json=json)


@hosts_app.command("remove")
def hosts_remove(
    name: HostName,
    force: Annotated[bool, typer.Option("--force", help="Without asking the machine whether it is in use.")] = False,
) -> int:
    """Forget a machine that no run uses."""
    from gpurent.cli import hosts as command

    return command.remove(name, force=force)


watchdog_app = typer.Typer(
    help="The process that looks after rentals whose command died.", no_args_is_help=True, rich_markup_mode=None
)
app.add_typer(watchdog_app, name="watchdog")


@watchdog_app.command("status")
def watchdog_status(json: Json = False) -> int:
    """Say whether a watchdog guards this computer's rentals, and which."""
    from gpurent.cli import watchdog as command

    return command.status(as_json=json)


@watchdog_app.command("run")
def watchdog_run() -> int:
    """Guard until nothing has been rented for two minutes; `train` starts this by itself."""
    from gpurent.cli import watchdog as command

    return command.run()


@watchdog_app.command("tend", hidden=True)
def watchdog_tend(run_id: Annotated[str, typer.Argument()], folder: Annotated[Path, typer.Option()]) -> int:
    """See one run to its end; started by the watchdog."""
    from gpurent.cli import watchdog as command

    return command.tend_run(run_id, folder)


def _leave_out_what_is_not_asked_for(name: str) -> None:
    """typer reads the options of every command before it looks which is asked for: half of a short command's time."""
    commands = [one for one in app.registered_commands if _name(one) == name]
    groups = [one for one in app.registered_groups if one.name == name]
    if commands or groups:
        app.registered_commands, app.registered_groups = commands, groups


def _name(command: CommandInfo) -> str | None:
    return command.name or (get_command_name(command.callback.__name__) if command.callback else None)


def main() -> None:
    """Entry point: parse, run, exit."""
    streams.forgive()
    _leave_out_what_is_not_asked_for(next(iter(sys.argv[1:]), ""))
    app()


if __name__ == "__main__":
    main()
