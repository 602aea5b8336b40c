"""``python -m gpurent_engine``: ``train``, ``doctor``, ``grid``, ``bench``.

Exit status of ``train``: 0 done, 1 failed, 2 configuration or dataset, 4 stopped on request. Events go to the file
that was named; standard output stays empty.
"""

from __future__ import annotations

import argparse
import errno
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
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gpurent_engine import PROTOCOL, __version__, launch, loracli, prompts, thumbnail
from gpurent_engine.bench import options as bench_options
from gpurent_engine.data import DataError
from gpurent_engine.events import EventWriter
from gpurent_engine.formats import datasets
from gpurent_engine.pictures import HEIC_PACKAGE
from gpurent_engine.reading import load_spec
from gpurent_engine.spec import SpecError, TrainSpec
from gpurent_engine.step.switches import PLAIN, Switches

LEAST: dict[str, tuple[int, ...]] = {
    "accelerate": (1, 0), "diffusers": (0, 35), "numpy": (1, 26), "peft": (0, 17), "pillow": (11, 3),
    "safetensors": (0, 4, 3), "torch": (2, 6), "transformers": (4, 53),
}  # fmt: skip
"""The oldest releases that the engine runs on. transformers 5.23 ignores a torch before 2.6."""
LEAST_WITH_CUDA: dict[str, tuple[int, ...]] = {"bitsandbytes": (0, 45)}
"""What it asks for besides where torch is built for CUDA."""
LEAST_ON_DEMAND: dict[str, tuple[int, ...]] = {HEIC_PACKAGE: (1, 0)}
"""What only some datasets need."""
OOM_REMEDY = (
    "Use a smaller train_batch_size, gradient_checkpointing = true, a lower resolution, or a GPU with more memory "
    "(--min-vram)."
)


def main(arguments: list[str] | None = None) -> int:
    """Run one command; return its exit status."""
    options = _parser().parse_args(arguments)
    # Nobody waits for these on a rented machine; a hub id that is not cached still downloads.
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    status: int = options.run(options)
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="gpurent_engine", description="Train Stable Diffusion LoRAs.")
    commands = parser.add_subparsers(required=True)
    train = commands.add_parser("train", help="train one LoRA")
    source = train.add_mutually_exclusive_group(required=True)
    source.add_argument("--job", type=Path, help="job.json as the client writes it")
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
        try:
            job = json.loads(options.job.read_text(encoding="utf-8"))
        except ValueError as error:
            raise SpecError(options.job.name, f"is no valid JSON: {error}.") from error
        missing = {"protocol", "spec", "base_model", "data_dir", "out_dir", "events"} - set(job)
        if missing:
            raise SpecError(sorted(missing)[0], f"is missing in {options.job}.")
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
    try:
        job, path = _order(options)
    except (SpecError, OSError) as error:
        print(f"gpurent_engine: {error}", file=sys.stderr)
        return 2
    rank, size = (int(os.environ.get(name) or least) for name, least in (("RANK", 0), ("WORLD_SIZE", 1)))
    if size == 1:
        count = _processes(job)
        if count > 1:
            return launch.run(count, path)
    stop = threading.Event()
    faulthandler.register(signal.SIGUSR1, all_threads=True)  # into the log: whoever follows asks where it hangs
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    with EventWriter(launch.beside(path, rank) if rank else path) as out:
        try:
            return _run(job, out, stop)
        except (SpecError, DataError) as error:
            code = "spec" if isinstance(error, SpecError) else "data"
            out.emit("error", code=code, message=str(error), remedy=getattr(error, "hint", ""))
            return 2
        except Exception as error:  # noqa: BLE001
            # The last line of defence: whatever it was, the client has to hear of it, and the log has the rest.
            traceback.print_exc()
            code, message, remedy = (rank == 0 and launch.cause(path, size)) or _diagnose(error)
            out.emit("error", code=code, message=message, remedy=remedy)
            return 1


def _processes(job: Mapping[str, Any]) -> int:
    """How many processes train: as many as were asked for, if a step has a picture for each."""
    spec = job["spec"]
    wanted = int(job.get("processes") or 1)
    return max(1, min(wanted, int(spec.get("train_batch_size", 1)) * int(spec.get("gradient_accumulation_steps", 1))))


def _run(job: dict[str, Any], out: EventWriter, stop: threading.Event) -> int:
    import torch

    from gpurent_engine import device, distributed, loop

    if job["protocol"] != PROTOCOL:
        raise SpecError("protocol", f"the client speaks {job['protocol']}, this engine {PROTOCOL}.")
    spec = TrainSpec.from_dict(job["spec"])
    step = str(job.get("step") or "")
    if step not in ("", PLAIN):
        try:
            Switches.parse(step)
        except ValueError as error:
            raise SpecError("step", f"{error}; or {PLAIN}.") from error
    if job.get("deterministic"):
        device.deterministic()
    group = distributed.join()
    choice = device.choose(spec.mixed_precision)
    out.emit(
        "hello", protocol=PROTOCOL, engine=__version__, python=platform.python_version(), torch=torch.__version__,
        device=str(choice.device), device_name=choice.name, pid=os.getpid(),
        processes=group.size,
    )  # fmt: skip
    wanted = int(job.get("processes") or 1)
    if group.size < wanted:
        pictures = spec.train_batch_size * spec.gradient_accumulation_steps
        said = f"Of {wanted} GPUs {group.size} are used: a step has {pictures} pictures. A larger train_batch_size"
        out.emit("warning", key="train_batch_size", message=f"{said} keeps more of them busy.")
    order = loop.Order(
        spec, job["base_model"], Path(job["data_dir"]), Path(job["out_dir"]),
        Path(job["stop_file"]) if job.get("stop_file") else None, bool(job.get("resume")),
        Path(job["plan_file"]) if job.get("plan_file") else None, step, job.get("stop_at"),
        Path(job["cache_dir"]) if job.get("cache_dir") else None,
    )  # fmt: skip
    result = loop.train(order, out, stop, group)
    distributed.leave()  # not after a failure, when the others may never answer
    return 4 if result.stopped else 0


def _diagnose(error: Exception) -> tuple[str, str, str]:
    if isinstance(error, ImportError):
        return "no_packages", str(error), "Choose an image with torch >= 2.6 for its GPU driver: [need] image."
    import torch

    from gpurent_engine import device
    from gpurent_engine.export import NotFinite
    from gpurent_engine.families.parts import ModelError
    from gpurent_engine.loop import NotANumber, NothingLearnt
    from gpurent_engine.states import StateMismatch

    if device.out_of_memory(error):
        where = "GPU" if isinstance(error, torch.OutOfMemoryError) or "CU" in str(error) else "machine"
        return "oom", f"The {where} ran out of memory.", OOM_REMEDY
    if isinstance(error, NotANumber | NotFinite):
        return "nan", str(error), 'Lower unet_lr and text_encoder_lr; with fp16, try mixed_precision = "bf16".'
    if isinstance(error, NothingLearnt):
        return "nothing_learnt", str(error), "Look at learning rates, masks and transparent pictures."
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return "disk_full", "The host's disk is full.", "Ask for more with [need] disk_gb, or save less often."
    if isinstance(error, ModelError):
        return "model", str(error), "Check pretrained_model_name_or_path; a hub id must exist and be public."
    if isinstance(error, StateMismatch):
        return "spec", str(error), "Start without --resume, or in another output folder."
    return "internal", f"{type(error).__name__}: {error}", "The engine's log has the details."


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
