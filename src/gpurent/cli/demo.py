"""``gpurent demo``: the main job, all of it real but the money."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from gpurent.broker import Broker
from gpurent.cli import grid, output
from gpurent.cli.conducting import conduct
from gpurent.cli.sandbox import sandboxes
from gpurent.cli.train import describe
from gpurent.dataset.base import LocalFolder
from gpurent.dataset.job import Job
from gpurent.errors import UsageError
from gpurent.jobs.options import RunOptions
from gpurent.money import Usd
from gpurent.plan.quote import Quote, QuoteRow
from gpurent.settings import Settings, load_settings

BUDGET = Usd.parse("1")
PLAY = "sandbox"
STRENGTHS = "0.5,0.7,0.8,1.0"
WITHOUT_GRID = RunOptions(grid=False)
"""The demonstration draws prompts of its own in the end."""
DRAW_S = 1800.0
"""The longest that drawing may take, on a slow computer."""


def run(example: Path, target: Path) -> int:
    """Sandbox up, quote, train, receipt, picture, sandbox down."""
    prompts = example / "prompts.toml"
    if not prompts.is_file():
        raise UsageError(
            f"{prompts} does not exist", hint="Run `make demo` in a checkout of gpurent, or pass --example."
        )
    new_sandbox = sandboxes()
    target = target.resolve()
    job = Job.from_config(example / "training_config.toml", output=target)
    describe(job)
    alone = _alone(load_settings(Path.cwd()))
    with new_sandbox() as sandbox:
        os.environ.update(sandbox.env())
        with Broker(home=target / "state", settings=alone) as broker:
            status = conduct(
                broker,
                lambda front: broker.train(
                    job, budget=BUDGET, options=WITHOUT_GRID, consent=_show, tell=front.tell, interrupt=front.interrupt
                ),
                as_json=False,
            )
        alive = sandbox.truth()
    if status != 0:
        return status
    output.console.print(f"The market's own books: {len(alive)} instances alive.")
    picture = target / "grid.png"
    _draw(job, target / f"{job.name}.safetensors", prompts, picture)
    output.console.print(f"Base and LoRA side by side: {picture}", soft_wrap=True)
    _open(picture)
    return 0


def _alone(settings: Settings) -> Settings:
    """Only play money is spent, whatever keys there are; the market dies with this process, and needs no watchdog."""
    budget = settings.budget.model_copy(update={"watchdog": False})
    providers = settings.providers.model_copy(update={"enabled": [PLAY]})
    return settings.model_copy(update={"budget": budget, "providers": providers})


def _show(quote: Quote, _best: QuoteRow) -> bool:
    output.print_quote(quote, 5)
    return True


def _draw(job: Job, lora: Path, prompts: Path, picture: Path) -> None:
    """In a process of its own: only the engine knows torch."""
    base = job.base_model.path if isinstance(job.base_model, LocalFolder) else job.base_model.name
    output.console.print("Drawing five prompts at five strengths through diffusers …")
    grid.draw(str(base), lora, prompts, STRENGTHS, picture=picture, within_s=DRAW_S)


def _open(picture: Path) -> None:
    """Show it where there is a screen; the path was printed anyway."""
    opener = {"darwin": ["open"], "win32": ["explorer"]}.get(sys.platform, ["xdg-open"])
    if sys.platform == "linux" and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        return
    try:
        subprocess.Popen([*opener, str(picture)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    except OSError as error:
        output.notes.print(f"It could not be opened here: {error}", style="dim")
