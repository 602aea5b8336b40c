"""``gpurent.toml``: what the user wants every time. Read strictly: a mistyped key is an error that names the nearest."""

from __future__ import annotations

import difflib
import os
import tomllib
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any

from platformdirs import user_state_path
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from gpurent.errors import ConfigError
from gpurent.money import ZERO, Usd

FILE = "gpurent.toml"
DEFAULT_IMAGE = "pytorch/pytorch:2.8.0-cuda12.8-cudnn9-runtime"


class _Exact(float):
    """A TOML float that remembers its text, so that money in it stays exact."""

    text = ""


def dollars(value: object) -> Usd:
    """Read ``10``, ``"10"`` or ``"$0.50"`` as a positive amount; raises ValueError."""
    if isinstance(value, Usd):
        return value
    exact = value.text if isinstance(value, _Exact) else value
    if isinstance(exact, bool) or not isinstance(exact, int | str | Decimal):
        raise ValueError(f'{value!r} is not an amount of dollars such as 10 or "0.50"')
    amount = Usd.parse(exact)
    if amount <= ZERO:
        raise ValueError(f"{value} is not a positive amount of dollars")
    return amount


Dollars = Annotated[Usd, BeforeValidator(dollars)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True, strict=True)


class JobSection(_Section):
    """[job]: which configuration and dataset to use."""

    config: str = Field("training_config.toml", description="kohya training configuration")
    dataset: str = Field(
        "", description="folder of <repeats>_<concept> folders; empty: train_data_dir of the configuration"
    )
    output: str = Field("", description="where results go; empty: output_dir of the configuration")


class BudgetSection(_Section):
    """[budget]: the hard cap of one run."""

    max: Dollars | None = Field(None, description="dollars, used when --budget is not given")
    max_hours: float | None = Field(None, gt=0, description="end a rental after so many hours whatever the budget")


class NeedSection(_Section):
    """[need]: what a machine must offer."""

    gpu: list[str] = Field([], description='any of these, e.g. ["4090", "A5000"]; empty: any GPU')
    min_vram_gb: int = Field(0, ge=0, description="0: computed from the job")
    disk_gb: int = Field(20, ge=1, description="disk to rent")
    max_hourly: Dollars | None = Field(None, description="dollars per hour, GPU and disk")
    min_reliability: float = Field(0.95, ge=0, le=1, description="lowest reliability a host may have")
    trusted_only: bool = Field(False, description="data centres and secure clouds only")
    image: str = Field(DEFAULT_IMAGE, description="container image with Python >= 3.10 and torch >= 2.4")


class LimitsSection(_Section):
    """[limits]: over all runs of this ledger."""

    per_day: Dollars | None = Field(None, description="dollars in 24 hours")
    per_month: Dollars | None = Field(None, description="dollars in 30 days")


class ProvidersSection(_Section):
    """[providers]: who is asked."""

    enabled: list[str] = Field([], description="names; empty: every provider that has a key")


class Settings(_Section):
    """All of ``gpurent.toml``."""

    job: JobSection = JobSection()  # type: ignore[call-arg]
    budget: BudgetSection = BudgetSection()  # type: ignore[call-arg]
    need: NeedSection = NeedSection()  # type: ignore[call-arg]
    limits: LimitsSection = LimitsSection()  # type: ignore[call-arg]
    providers: ProvidersSection = ProvidersSection()  # type: ignore[call-arg]


def load_settings(folder: Path) -> Settings:
    """Read ``folder/gpurent.toml``; defaults where there is none.

    Raises:
        ConfigError: naming file, key, what was expected and the nearest known key.
    """
    path = folder / FILE
    if not path.is_file():
        return Settings()
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8-sig"), parse_float=_number)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is no valid TOML: {error}", hint="`gpurent init` writes a valid one.") from error
    try:
        return Settings.model_validate(document)
    except ValidationError as error:
        raise _explained(path, error) from error


def _number(text: str) -> _Exact:
    exact = _Exact(text)
    exact.text = text
    return exact


def _explained(path: Path, error: ValidationError) -> ConfigError:
    first = error.errors(include_url=False)[0]
    where = [str(part) for part in first["loc"]]
    key = ".".join(where)
    if first["type"] != "extra_forbidden":
        return ConfigError(
            f"{path}: {key}: {first['msg']}, not {first['input']!r}.", hint="See docs/reference/configuration.md."
        )
    model: Any = Settings
    for part in where[:-1]:
        model = model.model_fields[part].annotation
    close = difflib.get_close_matches(where[-1], model.model_fields, n=1)
    hint = f"Did you mean {close[0]!r}?" if close else f"Known here: {', '.join(model.model_fields)}."
    return ConfigError(f"{path}: {key} is not a known key.", hint=hint)


def state_dir() -> Path:
    """Where ledger and runs live: ``GPURENT_STATE_DIR``, else the platform's state folder."""
    override = os.environ.get("GPURENT_STATE_DIR")
    return Path(override).expanduser() if override else user_state_path("gpurent", appauthor=False)


def describe() -> str:
    """Reference of all keys as Markdown, generated for the documentation."""
    lines: list[str] = []
    for section, outer in Settings.model_fields.items():
        model: Any = outer.annotation
        lines += [
            f"## `[{section}]`",
            "",
            f"{(model.__doc__ or '').split(': ', 1)[-1].capitalize()}",
            "",
            "| key | default | meaning |",
            "| --- | --- | --- |",
        ]
        for key, inner in model.model_fields.items():
            default = (
                ""
                if inner.default in (None, "")
                else f"`{inner.default!r}`".replace("'", '"').replace("False", "false")
            )
            lines.append(f"| `{key}` | {default} | {inner.description} |")
        lines.append("")
    return "\n".join(lines).rstrip() + "\n"


TEMPLATE = """\
# What gpurent uses when you run it in this folder. Every key is optional; the values shown are the defaults.

[job]
config = "training_config.toml"   # kohya training configuration
# dataset = "training_data"       # instead of train_data_dir in that file
# output = "output"               # instead of output_dir in that file

[budget]
# max = "10"                      # dollars; what --budget would say. Never more than this is spent on a run.
# max_hours = 6.0

[need]
gpu = []                          # e.g. ["4090", "A5000"]; empty: any that fits
disk_gb = 20
min_reliability = 0.95
trusted_only = false              # true: data centres and secure clouds only
# max_hourly = "0.80"             # dollars per hour, GPU and disk

[limits]
# per_day = "20"                  # over all runs
# per_month = "100"

[providers]
enabled = []                      # empty: every provider that has a key
"""
