"""``gpurent.toml``: what the user wants every time. Read strictly: a mistyped key is an error that names the nearest.

What the command line says wins over the environment (``GPURENT_BUDGET_MAX``), that over the file, that over defaults.
"""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

from platformdirs import user_config_path, user_state_path
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic.fields import FieldInfo

from gpurent.errors import ConfigError
from gpurent.localfiles import read_text
from gpurent.model import Need, OnOverrun, capabilities_of, cuda_of
from gpurent.money import ZERO, Usd

FILE = "gpurent.toml"
REFERENCE = "`gpurent help configuration`"
MAX_BYTES = 1024 * 1024
"""Of a configuration file."""
DEFAULT_IMAGE = "pytorch/pytorch:2.8.0-cuda12.8-cudnn9-runtime"
MIB_PER_SOLD_GB = 940
"""A card sold as 24 GB lists 22,600 (with error correction) to 24,576 MiB; one sold as 20 GB lists 20,470 at most."""


class _Exact(float):
    """A TOML float that remembers its text, so that money in it stays exact."""

    text = ""


_EXPECTED = 'an amount of dollars such as 10 or "0.50" is expected'


def dollars(value: object) -> Usd:
    """Read ``10``, ``"10"`` or ``"$0.50"`` as a positive amount; raises ValueError."""
    if isinstance(value, Usd):
        return value
    exact = value.text if isinstance(value, _Exact) else value
    if isinstance(exact, bool) or not isinstance(exact, int | str | Decimal):
        raise ValueError(_EXPECTED)
    try:
        amount = Usd.parse(exact)
    except ValueError as error:
        raise ValueError(_EXPECTED) from error
    if amount <= ZERO:
        raise ValueError("an amount of dollars must be positive")
    return amount


def _one_or_more(value: object) -> object:
    return [value] if isinstance(value, str) else value


Dollars = Annotated[Usd, BeforeValidator(dollars)]
Names = Annotated[list[str], BeforeValidator(_one_or_more)]
Options = dict[str, str | int | float | bool]
_TABLES = "*"
"""Under this name the ``[providers.NAME]`` tables are set apart from the keys of ``[providers]``."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True, strict=True)


class JobSection(_Section):
    """Which configuration and dataset to use; relative paths start at this file's folder."""

    config: str = Field(default="training_config.toml", description="kohya training configuration")
    dataset: str = Field(
        default="",
        description="folder of `<repeats>_<concept>` folders; empty: `train_data_dir` of the training configuration",
    )
    output: str = Field(default="", description="where results go; empty: `output_dir` of the training configuration")
    name: str = Field(default="", description="name of the LoRA; empty: `output_name` of the training configuration")
    grid: bool = Field(
        default=True,
        description="draw a grid of each LoRA on the rented machine, once the LoRA is at home; `--no-grid` draws none",
    )
    hubs: Names = Field(
        default=[],
        description="where hosts download base models, tried in this order; empty: `HF_ENDPOINT`, else huggingface.co",
    )


class BudgetSection(_Section):
    """The hard cap of one run."""

    max: Dollars | None = Field(default=None, description="what `--budget` would say")
    max_hours: float | None = Field(
        default=None,
        gt=0,
        allow_inf_nan=False,
        description="end a rental after so many hours whatever the budget; "
        "default: three times the high estimate of the quote, and at least one hour",
    )
    on_overrun: OnOverrun = Field(
        default="stop",
        description="when the measured speed says that the job will not fit: `stop` ends it at the deadline, `shrink` "
        "lowers its epochs to what fits, `ask` asks",
    )
    hold_minutes: float = Field(
        default=30, ge=1, le=1440,
        description="how long results stay on the machine when this computer is gone for good; within the budget",
    )  # fmt: skip
    watchdog: bool = Field(
        default=True, description="let a detached process look after rentals when the command or its terminal dies"
    )


class NeedSection(_Section):
    """What a machine must offer."""

    gpu: Names = Field(default=[], description='any of these, such as `["4090", "A5000"]`; empty: any GPU')
    min_vram_gb: int = Field(default=0, ge=0, le=1000, description="as cards are sold; 0: estimated from the job")
    disk_gb: int = Field(default=20, ge=1, le=100_000, description="disk to rent")
    max_hourly: Dollars | None = Field(default=None, description="GPU and disk, per hour")
    min_reliability: float = Field(default=0.95, ge=0, le=1, description="lowest reliability a host may list")
    trusted_only: bool = Field(default=False, description="data centres and secure clouds only")
    region: Names = Field(
        default=[], description='any of these, such as `["EU"]`, `["DE", "NL"]` or `["US-GA"]`; empty: anywhere'
    )
    min_down_mbps: float = Field(
        default=10,
        ge=0,
        allow_inf_nan=False,
        description="slowest line that may receive image, base model and data; what slow lines cost is in every quote",
    )
    min_up_mbps: float = Field(default=5, ge=0, allow_inf_nan=False, description="slowest line that may send results")
    min_ram_gb: float = Field(
        default=0, ge=0, le=10_000, allow_inf_nan=False, description="main memory; 0: estimated from the job"
    )
    interruptible: bool = Field(
        default=False, description="also machines at a lower price that a higher bid may take away"
    )
    avoid_failed_hours: float = Field(
        default=24, ge=0, le=8760, allow_inf_nan=False,
        description="leave a machine out for so long after it failed before training; 0: never",
    )  # fmt: skip
    image: str = Field(default=DEFAULT_IMAGE, description="container image with Python >= 3.11 and torch >= 2.6")

    def as_need(self) -> Need:
        """The same for planning."""
        return Need(
            gpus=tuple(name.lower() for name in self.gpu),
            min_vram_mb=vram_mb(self.min_vram_gb),
            disk_gb=self.disk_gb,
            max_hourly=self.max_hourly,
            min_reliability=self.min_reliability,
            trusted_only=self.trusted_only,
            min_cuda=cuda_of(self.image),
            interruptible=self.interruptible,
            capabilities=capabilities_of(self.image),
            min_ram_mb=round(self.min_ram_gb * 1024),
            min_down_mbps=self.min_down_mbps,
            min_up_mbps=self.min_up_mbps,
            regions=tuple(self.region),
        )


class LimitsSection(_Section):
    """Over all runs of the ledger."""

    per_day: Dollars | None = Field(default=None, description="in 24 hours")
    per_month: Dollars | None = Field(default=None, description="in 30 days")


class ProvidersSection(_Section):
    """Who is asked. `[providers.NAME]` holds a provider's own settings; keys are better kept in the environment."""

    enabled: Names = Field(default=[], description="names; empty: every provider that has a key")
    tables: dict[str, Options] = Field(default={}, alias="*")

    def options(self) -> dict[str, dict[str, str]]:
        """Every ``[providers.NAME]`` table by name, values as text."""
        return {name: {key: _toml(value) for key, value in table.items()} for name, table in self.tables.items()}


class Settings(_Section):
    """All of ``gpurent.toml``."""

    job: JobSection = JobSection()
    budget: BudgetSection = BudgetSection()
    need: NeedSection = NeedSection()
    limits: LimitsSection = LimitsSection()
    providers: ProvidersSection = ProvidersSection()


def config_dir() -> Path:
    """Folder of what is configured for all runs: ``GPURENT_CONFIG_DIR``, else the platform's configuration folder."""
    override = os.environ.get("GPURENT_CONFIG_DIR")
    return Path(override).expanduser() if override else user_config_path("gpurent", appauthor=False)


def load_settings(folder: Path, environ: Mapping[str, str] | None = None) -> Settings:
    """Read ``folder/gpurent.toml`` and what the environment overrides; defaults where neither says anything.

    Args:
        folder: the working folder.
        environ: instead of the process's environment.

    Raises:
        ConfigError: naming file and line (or variable), key, what was expected and the nearest known key.
    """
    path = folder / FILE
    text = _read(path)
    try:
        document = tomllib.loads(text, parse_float=_number)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path} is not valid TOML: {error}.", hint="`gpurent init` writes a valid one.") from error
    variables: dict[tuple[str, ...], str] = {}
    for section, key, variable in environment_names():
        raw = (os.environ if environ is None else environ).get(variable, "")
        table = document.setdefault(section, {})
        if raw and isinstance(table, dict):
            table[key] = _from_environment(section, key, raw)
            variables[section, key] = variable
    providers = document["providers"]
    if isinstance(providers, dict):
        tables = {name: providers.pop(name) for name in [*providers] if isinstance(providers[name], dict)}
        providers[_TABLES] = tables
    try:
        return Settings.model_validate(document)
    except ValidationError as error:
        raise _explained(path, text, variables, error) from error


def environment_names() -> list[tuple[str, str, str]]:
    """Section, key and environment variable of every setting."""
    return [
        (section, key, f"GPURENT_{section}_{key}".upper())
        for section, outer in Settings.model_fields.items()
        for key in _keys(outer.annotation)
    ]


def _keys(section: Any) -> dict[str, FieldInfo]:
    return {key: field for key, field in _model(section).model_fields.items() if field.alias is None}


def _read(path: Path) -> str:
    try:
        return read_text(path, MAX_BYTES) if path.exists() else ""
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read: {error}.", hint="It must be a UTF-8 text file.") from error


def _number(text: str) -> _Exact:
    exact = _Exact(text)
    exact.text = text
    return exact


def _from_environment(section: str, key: str, raw: str) -> object:
    """Give a variable's text the type that its setting has; what does not fit is left for validation to refuse."""
    annotation = _model(Settings.model_fields[section].annotation).model_fields[key].annotation
    kinds = {annotation, *get_args(annotation)}
    if any(getattr(kind, "__origin__", kind) is list for kind in kinds):
        return [name.strip() for name in raw.split(",") if name.strip()]
    if bool in kinds:
        return {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}.get(raw.lower(), raw)
    for kind in (int, float):
        if kind in kinds:
            try:
                return kind(raw)
            except ValueError:
                return raw
    return raw


def _model(annotation: Any) -> type[BaseModel]:
    if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
        raise TypeError(f"{annotation!r} is not a section")
    return annotation


def _explained(path: Path, text: str, variables: Mapping[tuple[str, ...], str], error: ValidationError) -> ConfigError:
    first = error.errors(include_url=False)[0]
    where = tuple(str(part) for part in first["loc"] if part != _TABLES)
    variable = variables.get(where[:2])
    if variable:
        place = f"environment variable {variable}"
    else:
        line = _line(text, where)
        place = f"{path}, line {line}: {'.'.join(where)}" if line else f"{path}: {'.'.join(where)}"
    if first["type"] != "extra_forbidden":
        expected = first["msg"].removeprefix("Value error, ").removeprefix("Input should be ").rstrip(".")
        return ConfigError(f"{place}: {expected}, not {first['input']!r}.", hint=f"See {REFERENCE}.")
    *outer, key = where
    known = _keys(Settings.model_fields[outer[0]].annotation) if outer else Settings.model_fields
    close = difflib.get_close_matches(key, known, n=1)
    hint = f"Did you mean {close[0]!r}?" if close else f"Known here: {', '.join(known)}."
    return ConfigError(f"{place} is not a known key.", hint=hint)


_HEADER = re.compile(r"\s*\[\s*([\w.\"' -]+?)\s*\]")
_KEY = re.compile(r"\s*([\w.\"' -]+?)\s*=")


def _line(text: str, where: tuple[str, ...]) -> int | None:
    """Line on which a key, or failing that its table, is written; counted from 1."""
    table: tuple[str, ...] = ()
    of_table = None
    for number, line in enumerate(text.splitlines(), start=1):
        if header := _HEADER.match(line):
            table = _parts(header[1])
            if table == where[: len(table)]:
                of_table = number
        elif key := _KEY.match(line):
            path = (*table, *_parts(key[1]))
            if path == where[: len(path)]:
                return number
    return of_table


def _parts(dotted: str) -> tuple[str, ...]:
    return tuple(part.strip(" \"'") for part in dotted.split("."))


def vram_mb(sold_gb: int) -> int:
    """MiB that a card sold with ``sold_gb`` GB lists at least."""
    return sold_gb * MIB_PER_SOLD_GB


def state_dir() -> Path:
    """Where ledger and runs live: ``GPURENT_STATE_DIR``, else the platform's state folder."""
    override = os.environ.get("GPURENT_STATE_DIR")
    return Path(override).expanduser() if override else user_state_path("gpurent", appauthor=False)


LEDGER_FILE = "ledger.db"
"""The ledger's name in the state folder."""


def ledger_url() -> str:
    """Where the ledger lies instead of the state folder: ``GPURENT_LEDGER_URL``; empty when it is not set.

    Not a key of ``gpurent.toml``: it may hold a password, and that file is shared.
    """
    return os.environ.get("GPURENT_LEDGER_URL", "").strip()


def describe() -> str:
    """Reference of all keys as Markdown, generated for the documentation."""
    lines = [
        "# `gpurent.toml`",
        "",
        "<!-- generated by gpurent.settings.describe(); a test keeps it in step -->",
        "",
        "Every key is optional. An unknown key is an error. The environment variable wins over the file, and the",
        "command line over both. Dollars may be a number or a string and are kept exactly.",
        "`GPURENT_STATE_DIR` moves the ledger and the runs; `GPURENT_LEDGER_URL` puts the ledger into a database that",
        "[several computers share](../how-to/share-a-budget.md).",
    ]
    variables = {(section, key): variable for section, key, variable in environment_names()}
    for section, outer in Settings.model_fields.items():
        model = _model(outer.annotation)
        lines += ["", f"## `[{section}]`", "", f"{model.__doc__}", ""]
        lines += ["| key | value | default | meaning | environment |", "| --- | --- | --- | --- | --- |"]
        for key, inner in _keys(model).items():
            kind = _kind(inner.annotation)
            default = "" if inner.default in (None, "") else f"`{_toml(inner.default)}`"
            lines.append(f"| `{key}` | {kind} | {default} | {inner.description} | `{variables[section, key]}` |")
    return "\n".join(lines) + "\n"


def _kind(annotation: Any) -> str:
    kinds = {annotation, *get_args(annotation)}
    text = " ".join(map(str, kinds))
    if "Usd" in text:
        return "dollars"
    if "list" in text:
        return "list of text"
    if get_origin(annotation) is Literal:
        return " or ".join(f"`{word}`" for word in get_args(annotation))
    return {str: "text", int: "whole number", bool: "true or false"}.get(annotation, "number")


def _toml(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


TEMPLATE = """\
# What gpurent uses when you run it in this folder. Every key is optional; the values shown are the defaults.
# A key that is commented out has no default.

[job]
config = "training_config.toml"   # kohya training configuration
# dataset = "training_data"       # instead of train_data_dir in that file
# output = "output"               # instead of output_dir in that file
# name = "my_lora"                # instead of output_name in that file

[budget]
# max = "10"                      # dollars; what --budget would say. Never more than this is spent on a run.
# max_hours = 6.0

[need]
gpu = []                          # e.g. ["4090", "A5000"]; empty: any that fits
min_vram_gb = 0                   # 0: estimated from the job
disk_gb = 20
min_reliability = 0.95
trusted_only = false              # true: data centres and secure clouds only
# max_hourly = "0.80"             # dollars per hour, GPU and disk

[limits]
# per_day = "20"                  # dollars over all runs
# per_month = "100"

[providers]
enabled = []                      # empty: every provider that has a key
"""
