"""Find the job of a working folder, or say exactly what is missing."""

from __future__ import annotations

from pathlib import Path

from gpurent.dataset.job import Job, Progressed, read_spec
from gpurent.errors import UsageError
from gpurent.settings import FILE, JobSection, Settings, load_settings


def find_job(
    folder: Path, *, settings: Settings | None = None, on_checked: Progressed = lambda _done, _total: None
) -> Job:
    """Check the job that ``gpurent.toml`` in ``folder`` names, or else ``training_config.toml`` there.

    Args:
        folder: the working folder; relative paths in ``gpurent.toml`` start here.
        settings: what ``gpurent.toml`` holds; read from ``folder`` when left out.
        on_checked: called with pictures decoded so far and in all.

    Raises:
        UsageError: configuration or dataset is not there: says where each was looked for.
        ConfigError, DatasetError: as ``Job.from_config``.
    """
    wanted = (settings or load_settings(folder)).job
    config = folder / Path(wanted.config).expanduser()
    missing = [] if config.is_file() else [f"no training configuration at {config.absolute()}{_others(folder)}"]
    dataset = folder / Path(wanted.dataset).expanduser() if wanted.dataset else None
    looked = dataset or _named_dataset(config, folder)
    if not looked.is_dir():
        missing.append(f"no dataset at {looked.absolute()}")
    if missing:
        raise UsageError(_sentence(missing, folder, wanted), hint="`gpurent init` prepares a folder to start from.")
    return Job.from_config(
        config,
        dataset=dataset,
        output=folder / Path(wanted.output).expanduser() if wanted.output else None,
        name=wanted.name or None,
        on_checked=on_checked,
    )


def _named_dataset(config: Path, folder: Path) -> Path:
    named = read_spec(config).train_data_dir if config.is_file() else ""
    return config.parent / Path(named).expanduser() if named else folder / "training_data"


def _others(folder: Path) -> str:
    found = sorted(path.name for path in folder.glob("*.toml") if path.name not in (FILE, "pyproject.toml"))
    return f" (there is {', '.join(found[:3])}: pass --config)" if found else ""


def _sentence(missing: list[str], folder: Path, wanted: JobSection) -> str:
    said = f", as [job] of {folder / FILE} says" if wanted != JobSection() else ""
    first, *rest = missing
    return f"{first[0].upper()}{first[1:]}{''.join(f', and {one}' for one in rest)}{said}."
