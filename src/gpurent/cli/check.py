"""``gpurent check``: everything found about a training, on one page."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from gpurent.cli import output
from gpurent.cli.common import checking
from gpurent.dataset import base, sheet
from gpurent.dataset.find import look
from gpurent.dataset.job import Job
from gpurent.dataset.survey import Survey
from gpurent.errors import ConfigError
from gpurent.jobs import hublook
from gpurent.jobs.basemodel import Hubs
from gpurent.plan.vram import memory
from gpurent.settings import load_settings
from gpurent.words import counted

SHAPES = 12
"""Bucket sizes that are listed."""


@dataclass(frozen=True)
class CheckOptions:
    """Options of the command."""

    config: Path | None
    dataset: Path | None
    sheet: Path | None
    as_json: bool


def run(options: CheckOptions) -> int:
    """Look, say what was found, draw the sheet; 2 if it cannot be trained."""
    folder, config = Path.cwd(), options.config
    if config is not None and config.is_dir():
        folder, config = config.absolute(), None
    settings = load_settings(folder)
    with checking(quiet=options.as_json) as progress:
        found = look(folder, settings=settings, config=config, dataset=options.dataset, on_checked=progress)
    found = _looked_up(found, Hubs.of(tuple(settings.job.hubs), os.environ))
    drawn = sheet.write(found, options.sheet) if options.sheet and found.dataset and found.dataset.images else None
    if options.as_json:
        output.print_json(document(found) | ({"sheet": str(drawn.path)} if drawn else {}))
    else:
        _print(found, drawn)
    return 2 if found.errors else 0


def _looked_up(found: Survey, hubs: Hubs) -> Survey:
    """With what the hub says of a base that a host would download."""
    if found.job is None:
        return found
    try:
        job = hublook.look(found.job, hubs)
    except ConfigError as error:
        return replace(found, job=None, errors=(error,))
    return replace(found, job=job, warnings=job.warnings)


def document(found: Survey) -> dict[str, Any]:
    """JSON of a survey; sizes are bytes and pixels."""
    return {
        "ok": not found.errors,
        "config": str(found.config),
        "errors": [{"message": str(one), "hint": one.hint} for one in found.errors],
        "warnings": list(found.warnings),
        "left_out": [
            {"path": str(one.path), "why": one.why, "remedy": one.remedy, "pictures": one.pictures}
            for one in found.left_out
        ],
        "facts": facts(found),
    }


def facts(found: Survey) -> dict[str, Any]:
    """What was understood, as far as it could be."""
    known: dict[str, Any] = {}
    if found.dataset is not None:
        triggers = {one.folder: one.trigger for one in found.shared}
        known["folders"] = [
            {
                "name": one.name, "repeats": one.repeats, "regular": one.regular, "pictures": len(one.images),
                "captions": sum(image.caption_path is not None for image in one.images),
                "trigger": triggers.get(one.name, ""),
            }
            for one in found.dataset.folders
        ]  # fmt: skip
        shapes = Counter(one.bucket for one in found.placements)
        known["buckets"] = [{"size": list(size), "pictures": count} for size, count in sorted(shapes.items())]
        known["files"] = [
            {"picture": str(one.path), "caption": str(one.caption_path) if one.caption_path else None}
            for one in found.dataset.images
        ]
    if found.job is not None:
        known |= _of_job(found.job)
    return known


def _of_job(job: Job) -> dict[str, Any]:
    length, work, found = job.length, job.workload, job.base_model.found
    return {
        "name": job.name, "output_dir": str(job.output_dir), "base_model": job.base_model.name,
        "family": found.family.title, "base_is_sent": not isinstance(job.base_model, base.HubId),
        "epochs": length.epochs, "steps": length.steps, "batch_size": work.batch_size,
        "network": job.spec.network_module, "network_dim": job.spec.network_dim,
        "optimizer": job.spec.optimizer_type, "trains_unet": job.spec.train_unet,
        "trains_text_encoder": work.train_text_encoder,
        "fast_step": work.fast_step, "upload_bytes": job.upload_bytes,
        "download_bytes": job.base_model.download_bytes, "memory_mb": memory(work).need,
    }  # fmt: skip


def _print(found: Survey, drawn: sheet.Sheet | None) -> None:
    console, number = output.console, len(found.errors)
    if number:
        said = f"{found.config.name} cannot be trained: {counted(number, 'mistake')}."
        console.print(said, style="bold red")
    else:
        console.print(f"{found.config.name} can be trained.", style="bold green")
    for error in found.errors:
        console.print(Text.assemble(("error: ", "bold red"), str(error)), soft_wrap=True)
        if error.hint:
            console.print(Text(f"       {error.hint}", style="dim"), soft_wrap=True)
    for warning in found.warnings:
        console.print(Text.assemble(("warning: ", "yellow"), warning), soft_wrap=True)
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True, style="dim")
    table.add_column()
    for name, text in rows(facts(found)):
        table.add_row(name, text)
    console.print(table)
    if drawn is not None:
        more = f" (the first {drawn.drawn}; {drawn.left} more are not on it)" if drawn.left else ""
        console.print(f"Contact sheet: {drawn.path}{more}", soft_wrap=True)
        if drawn.unknown:
            console.print("No font on this computer has all letters of the captions.", style="dim")


def rows(known: dict[str, Any]) -> list[tuple[str, str]]:
    """The facts in words."""
    said = []
    for one in known.get("folders", ()):
        trigger = f", trigger {one['trigger']!r}" if one["trigger"] else ""
        what = "regularisation images" if one["regular"] else "pictures"
        captions = counted(one["captions"], "caption")
        said.append((one["name"], f"{one['pictures']} {what} × {one['repeats']}, {captions}{trigger}"))
    if shapes := known.get("buckets"):
        shown = ", ".join(f"{one['size'][0]}×{one['size'][1]} ({one['pictures']})" for one in shapes[:SHAPES])
        rest = f" and {len(shapes) - SHAPES} more" if len(shapes) > SHAPES else ""
        said.append(("sizes", f"{shown}{rest}"))
    if "steps" not in known:
        return said
    where = "sent from here" if known["base_is_sent"] else "downloaded by the host"
    size = known["download_bytes"] or known["upload_bytes"]
    steps = f"{counted(known['steps'], 'step')} of {known['batch_size']}"
    speed = "the fast step" if known["fast_step"] else "the plain step, which is slower"
    parts = {"UNet": known["trains_unet"], "text encoder": known["trains_text_encoder"]}
    text = " and ".join(part for part, trained in parts.items() if trained)
    return [
        *said,
        ("base model", f"{known['base_model']} ({known['family']}, {where}, {size / 1e6:,.0f} MB)"),
        ("training", f"{counted(known['epochs'], 'epoch')}, {steps}, {known['optimizer']}; {speed}"),
        ("LoRA", f"{known['name']}: {known['network']}, rank {known['network_dim']}, {text}"),
        ("upload", f"{known['upload_bytes'] / 1e6:,.1f} MB"),
        ("GPU memory", f"{known['memory_mb'] / 1024:.1f} GB"),
    ]
