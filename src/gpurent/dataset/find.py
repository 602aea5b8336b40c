"""Find the job of a working folder, or say exactly what is missing."""

from __future__ import annotations

from pathlib import Path

from gpurent.dataset.configfile import try_spec
from gpurent.dataset.job import Job, Progressed
from gpurent.dataset.survey import Survey, survey
from gpurent.errors import UsageError
from gpurent.settings import FILE, JobSection, Settings, load_settings


def find_job(
    folder: Path, *, settings: Settings | None = None, config: Path | None = None, dataset: Path | None = None,
    output: Path | None = None, on_checked: Progressed = lambda _done, _total: None,
) -> Job:  # fmt: skip
    """The job of a folder, if nothing is wrong with it. Arguments and errors are those of ``look``, and:

    Raises:
        ConfigError, DatasetError: as ``Job.from_config``.
    """
    return look(
        folder, settings=settings, config=config, dataset=dataset, output=output, on_checked=on_checked
    ).result()  # fmt: skip


def look(
    folder: Path, *, settings: Settings | None = None, config: Path | None = None, dataset: Path | None = None,
    output: Path | None = None, name: str | None = None, on_checked: Progressed = lambda _done, _total: None,
) -> Survey:  # fmt: skip
    """Check the job that ``gpurent.toml`` in ``folder`` names, or else ``training_config.toml`` there.

    Args:
        folder: the working folder; relative paths in ``gpurent.toml`` start here.
        settings: what ``gpurent.toml`` holds; read from ``folder`` when left out.
        config, dataset, output, name: win over ``gpurent.toml``; relative paths start at ``folder`` as well.
        on_checked: called with pictures decoded so far and in all.

    Raises:
        UsageError: configuration or dataset is not there: says where each was looked for.
    """
    wanted = (settings or load_settings(folder)).job
    file = folder / (config or Path(wanted.config)).expanduser()
    given = _under(folder, dataset, wanted.dataset)
    pictures = given or _named_dataset(file, folder)
    missing: list[str] = []
    hints: list[str] = []
    if not file.is_file():
        from_toml = config is None and wanted.config != JobSection().config
        missing.append(f"no training configuration at {file.absolute()}{_source(folder, from_toml)}{_others(folder)}")
        hints.append("`gpurent init` writes a configuration to start from.")
    if pictures is not None and not pictures.is_dir():
        from_toml = dataset is None and bool(wanted.dataset)
        missing.append(f"no dataset at {pictures.absolute()}{_source(folder, from_toml)}")
        hints.append(f"Put images with captions into {pictures.name}/10_my_concept/, or pass --dataset FOLDER.")
    if missing:
        raise UsageError(_sentence(missing), hint=" ".join(hints))
    target = _under(folder, output, wanted.output)
    return survey(file, dataset=given, output=target, name=name or wanted.name or None, on_checked=on_checked)


def _under(folder: Path, given: Path | None, wanted: str) -> Path | None:
    """What the caller gave, else what the settings want, else None."""
    path = given or (Path(wanted) if wanted else None)
    return None if path is None else folder / path.expanduser()


def _source(folder: Path, from_toml: bool) -> str:
    return f", as [job] of {folder / FILE} says" if from_toml else ""


def _named_dataset(config: Path, folder: Path) -> Path | None:
    """None where the configuration does not name one folder, or is wrong: then the survey tells all that is."""
    if not config.is_file():
        return folder / "training_data"
    spec, wrong = try_spec(config)
    if spec is None or wrong or spec.dataset_config or spec.subsets:
        return None
    return config.parent / Path(spec.train_data_dir).expanduser() if spec.train_data_dir else folder / "training_data"


def _others(folder: Path) -> str:
    found = sorted(path.name for path in folder.glob("*.toml") if path.name not in (FILE, "pyproject.toml"))
    return f" (there is {', '.join(found[:3])}: pass --config)" if found else ""


def _sentence(missing: list[str]) -> str:
    first, *rest = missing
    return f"{first[0].upper()}{first[1:]}{''.join(f', and {one}' for one in rest)}."
