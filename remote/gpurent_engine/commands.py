"""The commands of ``python -m gpurent_engine`` that import the engine: all but ``doctor``.

Exit status of ``train``: 0 done, 1 failed, 2 configuration or dataset, 4 stopped on request. Events go to the file
that was named; standard output stays empty.
"""

from __future__ import annotations

import argparse
import faulthandler
import signal
import sys
import threading
from pathlib import Path
from typing import Any

from gpurent_engine import PROTOCOL, gridjob, launch, loracli, prompts, serve, thumbnail, training
from gpurent_engine.bench import options as bench_options
from gpurent_engine.formats import datasets
from gpurent_engine.reading import load_spec
from gpurent_engine.spec import SpecError


def add(commands: Any) -> None:
    """Each command, to the subparsers of ``argparse``."""
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
    loracli.add(commands)
    grid = commands.add_parser("grid", help="draw base and LoRA side by side")
    grid.add_argument("--order", type=Path, help="grid.json as the client writes it; everything is in there")
    grid.add_argument("--base")
    grid.add_argument("--lora", type=Path)
    grid.add_argument("--prompts", type=Path)
    grid.add_argument("--strengths", default="0.5,0.7,0.8,1.0")
    grid.add_argument("--out", type=Path)
    grid.set_defaults(run=_grid)
    bench = commands.add_parser("bench", help="measure training steps on this machine")
    bench_options.arguments(bench)
    bench.set_defaults(run=_bench)


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


def _grid(options: argparse.Namespace) -> int:
    if options.order is not None:
        return gridjob.run(options.order)
    lacking = [name for name in ("base", "lora", "prompts", "out") if getattr(options, name) is None]
    if lacking:
        print(f"gpurent_engine: grid needs --{lacking[0]}, or --order.", file=sys.stderr)
        return training.REFUSED
    from gpurent_engine import sample

    prompts, settings = sample.read_prompts(options.prompts)
    strengths = [float(one) for one in options.strengths.split(",")]
    picture = sample.grid(
        sample.usual(options.base),
        options.lora,
        prompts,
        strengths,
        settings=settings,
        on_drawn=lambda done, total: print(f"{done:.0f} of {total}", file=sys.stderr, flush=True),
    )
    options.out.parent.mkdir(parents=True, exist_ok=True)
    picture.save(options.out)
    print(options.out)
    return 0


def _bench(options: argparse.Namespace) -> int:
    from gpurent_engine.bench import measure

    return measure.run(options)
