"""``python -m gpurent_engine``: ``train``, ``serve``, ``doctor``, ``grid``, ``bench``.

Exit status of ``train``: 0 done, 1 failed, 2 configuration or dataset, 4 stopped on request. Events go to the file
that was named; standard output stays empty.
"""

from __future__ import annotations

import argparse
import faulthandler
import importlib.metadata
import json
import os
import platform
import re
import shutil
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gpurent_engine import PROTOCOL, __version__, launch, loracli, prompts, serve, thumbnail, training
from gpurent_engine.bench import options as bench_options
from gpurent_engine.formats import datasets
from gpurent_engine.pictures import HEIC_PACKAGE
from gpurent_engine.reading import load_spec
from gpurent_engine.spec import SpecError

LEAST: dict[str, tuple[int, ...]] = {
    "accelerate": (1, 0), "diffusers": (0, 35), "numpy": (1, 26), "peft": (0, 17), "pillow": (11, 3),
    "safetensors": (0, 4, 3), "torch": (2, 6), "transformers": (4, 53),
}  # fmt: skip
"""The oldest releases that the engine runs on. transformers 5.23 ignores a torch before 2.6."""
LEAST_WITH_CUDA: dict[str, tuple[int, ...]] = {"bitsandbytes": (0, 45)}
"""What it asks for besides where torch is built for CUDA."""
LEAST_ON_DEMAND: dict[str, tuple[int, ...]] = {HEIC_PACKAGE: (1, 0)}
"""What only some datasets need."""


def main(arguments: list[str] | None = None) -> int:
    """Run one command; return its exit status."""
    options = _parser().parse_args(arguments)
    # Nobody waits for these on a rented machine; a hub id that is not cached still downloads.
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    # Threads that spin at each barrier train four times as slowly where others use the processor too: rented machines
    # share theirs. Read by OpenMP when torch is loaded, which is later.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    status: int = options.run(options)
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="gpurent_engine", description="Train Stable Diffusion LoRAs.")
    commands = parser.add_subparsers(required=True)
    train = commands.add_parser("train", help="train one LoRA")
    source = train.add_mutually_exclusive_group(required=True)
    source.add_argument("--job", type=Path, help="job.json as the client writes it")
    source.add_argument(
        "--pack", type=Path, nargs="+", metavar="JOB", help="several job.json on one base model, trained at once"
    )
    source.add_argument("--config", type=Path, help="training_config.toml")
    train.add_argument("--data", type=Path, help="overrides train_data_dir")
    train.add_argument("--out", type=Path, help="overrides output_dir")
    train.add_argument("--events", type=Path, help="where events go; default OUT/events.jsonl")
    train.add_argument("--resume", action="store_true", help="go on from the state in OUT")
    train.add_argument(
        "--step", default="", metavar="LEVEL", help="how a step is computed: plain, merged, stacked+graph …; see bench"
    )
    train.add_argument(
        "--deterministic",
        action="store_true",
        help="the same numbers in every run on this machine, bit for bit; slower",
    )
    train.add_argument("--cache", type=Path, help="keep latents and embeddings here for the next training")
    train.add_argument(
        "--processes", type=int, default=0, metavar="N", help="one for each GPU; default: the job's, or 1"
    )
    train.set_defaults(run=_train)
    serving = commands.add_parser("serve", help="train what is ordered, job after job, in this process")
    serving.add_argument("--orders", type=Path, required=True, metavar="FOLDER", help="where 1.json, 2.json … appear")
    serving.add_argument(
        "--idle", type=serve.seconds, default=serve.IDLE_S, metavar="SECONDS", help="ends after so long without a job"
    )
    serving.set_defaults(run=_serve)
    doctor = commands.add_parser("doctor", help="say whether this machine can train")
    doctor.add_argument("--json", action="store_true")
    doctor.add_argument("--quick", action="store_true", help="only whether the packages are there; imports nothing")
    doctor.add_argument(
        "--also", action="append", default=[], choices=sorted(LEAST_ON_DEMAND), help="a package that this dataset needs"
    )
    doctor.set_defaults(run=_doctor)
    loracli.add(commands)
    grid = commands.add_parser("grid", help="draw base and LoRA side by side")
    grid.add_argument("--base", required=True)
    grid.add_argument("--lora", type=Path, required=True)
    grid.add_argument("--prompts", type=Path, required=True)
    grid.add_argument("--strengths", default="0.5,0.7,0.8,1.0")
    grid.add_argument("--out", type=Path, required=True)
    grid.set_defaults(run=_grid)
    bench = commands.add_parser("bench", help="measure training steps on this machine")
    bench_options.arguments(bench)
    bench.set_defaults(run=_bench)
    return parser


def _order(options: argparse.Namespace) -> tuple[dict[str, Any], Path]:
    if options.job is not None:
        job = training.read_order(options.job)
        job |= {"step": options.step or job.get("step", ""), "deterministic": options.deterministic}
        job |= {"processes": options.processes or job.get("processes", 1)}
        job |= {"cache_dir": str(options.cache or job.get("cache_dir") or "")}
        return job, Path(job["events"])
    here = options.config.parent
    spec = datasets.resolve(prompts.embed(thumbnail.embed(load_spec(options.config), here), here), here)
    out = options.out or here / spec.output_dir
    base = here / spec.pretrained_model_name_or_path
    job = {
        "protocol": PROTOCOL, "spec": spec.to_dict(),
        "data_dir": str(options.data or (here if spec.subsets else here / spec.train_data_dir)), "out_dir": str(out),
        "base_model": str(base) if base.exists() else spec.pretrained_model_name_or_path,
        "resume": options.resume, "step": options.step, "deterministic": options.deterministic,
        "processes": options.processes or 1, "cache_dir": str(options.cache or ""),
    }  # fmt: skip
    return job, options.events or out / "events.jsonl"


def _train(options: argparse.Namespace) -> int:
    if options.pack:
        return _train_pack(options)
    try:
        job, path = _order(options)
    except (SpecError, OSError) as error:
        print(f"gpurent_engine: {error}", file=sys.stderr)
        return training.REFUSED
    if training.ranks() == (0, 1):
        count = training.processes(job)
        if count > 1:
            return launch.run(count, path)
    return training.train(job, path, _stoppable())


def _train_pack(options: argparse.Namespace) -> int:
    own = [name for name in ("data", "out", "events", "resume") if getattr(options, name)]
    if own:
        print(f"gpurent_engine: --{own[0]} is for one training; with --pack each job.json says it.", file=sys.stderr)
        return training.REFUSED
    jobs = []
    for path in options.pack:
        try:
            job = training.read_order(path)
        except (SpecError, OSError) as error:
            print(f"gpurent_engine: {path}: {error}", file=sys.stderr)
            return training.REFUSED
        jobs.append(job | {"step": options.step or job.get("step", ""), "deterministic": options.deterministic})
    folders = [str(Path(job["out_dir"]).resolve()) for job in jobs]
    if len(set(folders)) < len(folders):
        print("gpurent_engine: --pack: two trainings would write into one out_dir.", file=sys.stderr)
        return training.REFUSED
    return training.train_pack(jobs, _stoppable())


def _stoppable() -> threading.Event:
    """Set when the process is asked to end."""
    stop = threading.Event()
    faulthandler.register(signal.SIGUSR1, all_threads=True)  # into the log: the client that follows asks where it hangs
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    return stop


def _serve(options: argparse.Namespace) -> int:
    return serve.serve(options.orders, options.idle)


def _lacking(also: Sequence[str] = ()) -> list[str]:
    """What is not installed, or only in an older version; imports nothing, which would take long."""
    least_of = LEAST if _without_cuda() else LEAST | LEAST_WITH_CUDA
    least_of = least_of | {name: LEAST_ON_DEMAND[name] for name in also}
    wanted = {name: ".".join(map(str, least)) for name, least in least_of.items() if _version(name) < least}
    return [f"{name}>={least}" for name, least in wanted.items()]


def _without_cuda() -> bool:
    """Whether torch says by its version that it is built for CPUs only."""
    try:
        return importlib.metadata.version("torch").endswith("+cpu")
    except importlib.metadata.PackageNotFoundError:
        return True


def _version(name: str) -> tuple[int, ...]:
    try:
        return _numbers(importlib.metadata.version(name))
    except importlib.metadata.PackageNotFoundError:
        return ()


def _numbers(version: str) -> tuple[int, ...]:
    """``2.13.0+cpu`` as (2, 13, 0)."""
    return tuple(int(part) for part in re.findall(r"[0-9]+", version.partition("+")[0])[:3])


def _doctor(options: argparse.Namespace) -> int:
    facts: dict[str, Any] = {"engine": __version__, "protocol": PROTOCOL, "python": platform.python_version()}
    if options.quick:
        lacking = _lacking(options.also)
        print(f"not installed: {', '.join(lacking)}" if lacking else "all packages are there")
        return 1 if lacking else 0
    try:
        import accelerate
        import diffusers
        import peft
        import safetensors
        import torch
        import transformers
    except ImportError as error:
        facts["missing"] = str(error)
    else:
        for module in (accelerate, diffusers, peft, safetensors, torch, transformers):
            facts[module.__name__] = module.__version__
        facts["cuda"] = torch.cuda.is_available()
        facts["device"] = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    facts["disk_free_gb"] = round(shutil.disk_usage(Path.cwd()).free / 1e9, 1)
    print(json.dumps(facts) if options.json else "\n".join(f"{key}: {value}" for key, value in facts.items()))
    return 1 if "missing" in facts else 0


def _grid(options: argparse.Namespace) -> int:
    from gpurent_engine import sample

    prompts, settings = sample.read_prompts(options.prompts)
    strengths = [float(one) for one in options.strengths.split(",")]
    picture = sample.grid(
        options.base,
        options.lora,
        prompts,
        strengths,
        settings,
        lambda label: print(label, file=sys.stderr, flush=True),
    )
    options.out.parent.mkdir(parents=True, exist_ok=True)
    picture.save(options.out)
    print(options.out)
    return 0


def _bench(options: argparse.Namespace) -> int:
    from gpurent_engine.bench import measure

    return measure.run(options)


if __name__ == "__main__":
    sys.exit(main())
