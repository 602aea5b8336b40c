"""What a batch is made of: configurations, folders of them, and files that list jobs with what they change.

::

    config = "training_config.toml"      # of every job that names no other
    learning_rate = 1e-4                 # any key of a configuration, for all jobs

    [matrix]                             # every job once for each combination
    network_dim = [16, 32]

    [[job]]
    name = "cat"
    dataset = "cats"

    [[job]]
    name = "dog"
    dataset = "dogs"
    max_train_epochs = 12
"""

from __future__ import annotations

import difflib
import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpurent.dataset.configfile import MOST as LARGEST
from gpurent.dataset.job import Job
from gpurent.errors import ConfigError, UsageError, all_of
from gpurent.localfiles import read_text
from gpurent.settings import FILE
from gpurent_engine.reading import nearest, read_document
from gpurent_engine.spec import SpecError

OWN = ("name", "config", "dataset", "output", "matrix")
"""Keys of a job that are not keys of its configuration."""
MOST = 500
"""Jobs of one batch: a matrix grows faster than people think."""
NOT_OURS = (FILE, "pyproject.toml")


@dataclass(frozen=True, slots=True)
class Wanted:
    """One job as it was asked for; nothing of it was read yet."""

    source: Path
    """The file that asks for it."""
    config: Path
    name: str | None = None
    dataset: Path | None = None
    output: Path | None = None
    changes: tuple[tuple[str, Any], ...] = ()
    """Keys of the configuration with other values."""

    @property
    def title(self) -> str:
        """For people."""
        return self.name or self.config.name


def wanted(paths: Sequence[Path], left_out: Callable[[Path], None] = lambda _path: None) -> tuple[Wanted, ...]:
    """What files and folders ask for, in their order.

    Args:
        paths: batch files, configurations, folders of them.
        left_out: told of each file in a folder that names no base model, as sample prompts do not: it is not a job.

    Raises:
        ConfigError: a file cannot be read, or lists jobs in another way.
        UsageError: a path is not there, a folder holds no configuration, or there are too many jobs.
    """
    found: list[Wanted] = []
    for path in paths:
        if path.is_dir():
            inside = sorted(entry for entry in path.iterdir() if entry.suffix in (".toml", ".json") and entry.is_file())
            files = [entry for entry in inside if entry.name not in NOT_OURS]
            if not files:
                raise UsageError(f"{path} holds no .toml or .json file.", hint="Name configurations or batch files.")
        elif path.is_file():
            files = [path]
        else:
            why = "is neither a file nor a folder" if path.exists() else "does not exist"
            raise UsageError(f"{path} {why}.", hint="Name configurations, folders of them, or batch files.")
        for file in files:
            document = _read(file.absolute())
            if path.is_dir() and not _lists_jobs(document) and not _names_base(document):
                left_out(file)
                continue
            found += _of_file(file.absolute(), document)
    if len(found) > MOST:
        raise UsageError(f"{len(found)} jobs are more than the {MOST} of one batch.", hint="Make the matrix smaller.")
    return tuple(found)


def checked(jobs: Sequence[Wanted], on_checked: Callable[[int, int], None] = lambda _done, _all: None) -> list[Job]:
    """Read and check every job, with all its pictures.

    Args:
        jobs: as ``wanted`` found them.
        on_checked: called with jobs checked so far and in all.

    Raises:
        ConfigError: at least one cannot run; all that cannot are named, each with all its reasons.
    """
    found: list[Job] = []
    wrong: list[UsageError] = []
    unfit = 0
    for number, job in enumerate(jobs, start=1):
        try:
            found.append(
                Job.from_config(
                    job.config, dataset=job.dataset, output=job.output, name=job.name, changes=dict(job.changes)
                )
            )
        except UsageError as error:
            unfit += 1
            where = job.title if job.source == job.config else f"{job.title} in {job.source.name}"
            wrong += [UsageError(f"{where}: {part}", hint=part.hint) for part in error.parts or (error,)]
        on_checked(number, len(jobs))
    if wrong:
        count = f"{unfit} of {len(jobs)} jobs" if len(jobs) > 1 else "The job"
        said = " ".join(f"({number}) {error}" for number, error in enumerate(wrong, start=1))
        raise ConfigError(f"{count} cannot run; nothing was rented. {said}", hint=wrong[0].hint, parts=wrong)
    return found


def _read(path: Path) -> Mapping[str, Any]:
    try:
        read_text(path, LARGEST)
        return read_document(path)
    except SpecError as error:
        raise ConfigError(f"{path} {error.message}", hint="See `gpurent help batch`.") from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from error


def _lists_jobs(document: Mapping[str, Any]) -> bool:
    return isinstance(document.get("matrix"), dict) or _tables(document.get("job", document.get("jobs")))


def _names_base(document: Mapping[str, Any]) -> bool:
    sections = (document, *(part for part in document.values() if isinstance(part, dict)))
    return any("pretrained_model_name_or_path" in section for section in sections)


def _of_file(path: Path, document: Mapping[str, Any]) -> list[Wanted]:
    if not _lists_jobs(document):
        return [Wanted(path, path)]
    tables = document.get("job", document.get("jobs"))
    general = {key: value for key, value in document.items() if key not in ("job", "jobs")}
    if tables is not None and not _tables(tables):
        raise ConfigError(f"{path}: job must be a list of tables: [[job]].", hint="See `gpurent help batch`.")
    found: list[Wanted] = []
    wrong: list[UsageError] = []
    for number, table in enumerate(tables or [{}], start=1):
        try:
            found += _of_table(path, f"job {table.get('name', number)}", general, table)
        except ConfigError as error:
            wrong.append(error)
    if wrong:
        raise all_of(wrong)
    return found


def _tables(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(row, dict) for row in value)


def _of_table(path: Path, where: str, general: Mapping[str, Any], table: Mapping[str, Any]) -> list[Wanted]:
    """The jobs that one table asks for: one, or as many as its matrix has combinations."""
    matrix = {**_matrix(path, "matrix", general), **_matrix(path, where, table)}
    changes = {**_changes(path, where, general), **_changes(path, where, table)}
    own = {key: table.get(key, general.get(key)) for key in ("config", "dataset", "output")}
    own["name"] = table.get("name")
    for key, value in own.items():
        if value is not None and (not isinstance(value, str) or not value):
            raise ConfigError(f"{path}: {where}: {key} must be a text, not {value!r}.")
    if own["config"] is None:
        raise ConfigError(f"{path}: {where}: config is missing.", hint='Name a configuration: config = "…toml".')
    config = _under(path, own["config"])
    made = []
    for values in itertools.product(*matrix.values()):
        combination = dict(zip(matrix, values, strict=True))
        name = own["name"]
        if combination:
            stem = name or Path(own["config"]).stem
            name = "-".join([stem, *(f"{key}{_word(value)}" for key, value in combination.items())])
        made.append(
            Wanted(
                source=path,
                config=config,
                name=name,
                dataset=_below(path, own["dataset"]),
                output=_below(path, own["output"]),
                changes=tuple({**changes, **combination}.items()),
            )
        )
    return made


def _matrix(path: Path, where: str, table: Mapping[str, Any]) -> dict[str, list[Any]]:
    found = table.get("matrix", {})
    if not isinstance(found, dict):
        raise ConfigError(f"{path}: {where}: matrix must be a table: network_dim = [16, 32].")
    for key, values in found.items():
        if not isinstance(values, list) or not values:
            raise ConfigError(f"{path}: {where}: {key} in matrix must be a list of values, such as [16, 32].")
    return dict(found)


def _changes(path: Path, where: str, table: Mapping[str, Any]) -> dict[str, Any]:
    """Keys of the configuration; a misspelt key of ours is named, the others are left to the reader of all keys."""
    found = {key: value for key, value in table.items() if key not in OWN}
    for key in found:
        near = difflib.get_close_matches(key, OWN, n=1, cutoff=0.75)
        if near and nearest(key) != key:
            raise ConfigError(f"{path}: {where}: {key} is not a known key.", hint=f"Did you mean {near[0]!r}?")
    return found


def _word(value: object) -> str:
    """A value as a part of a file's name."""
    return re.sub(r"[^A-Za-z0-9._-]+", "_", str(value))


def _under(path: Path, text: str) -> Path:
    return path.parent / Path(text).expanduser()


def _below(path: Path, text: str | None) -> Path | None:
    return None if text is None else _under(path, text)
