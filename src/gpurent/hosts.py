"""``hosts.toml``: machines of your own, or rented by hand. Read strictly, edited in place."""

from __future__ import annotations

import base64
import difflib
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import tomlkit
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from tomlkit.exceptions import TOMLKitError

from gpurent.errors import ConfigError, UsageError
from gpurent.localfiles import private_folder, read_text
from gpurent.money import ZERO, Usd
from gpurent.settings import MAX_BYTES, config_dir

FILE = "hosts.toml"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,40}")


def _price(value: object) -> Usd:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError('an amount of dollars per hour such as "0.35" is expected')
    try:
        amount = Usd.parse(str(value))
    except ValueError as error:
        raise ValueError('an amount of dollars per hour such as "0.35" is expected') from error
    if amount < ZERO:
        raise ValueError("a price is not negative")
    return amount


def _moment(value: object) -> datetime:
    if not isinstance(value, datetime):
        raise ValueError("a moment such as 2026-12-01T18:00:00Z is expected")
    return value if value.tzinfo else value.replace(tzinfo=UTC)


KINDS = ("ssh-ed25519", "ecdsa-sha2-nistp256", "ecdsa-sha2-nistp384", "ecdsa-sha2-nistp521", "ssh-rsa")
_EXPECTED = "one line of a host key such as `ssh-ed25519 AAAA…` is expected"


def _key_line(value: str) -> str:
    fields = value.split()
    if not value:
        return ""
    if len(fields) < 2:
        raise ValueError(_EXPECTED)
    kind, blob = fields[:2]
    if kind not in KINDS:
        close = difflib.get_close_matches(kind, KINDS, n=1)
        raise ValueError(
            f"{kind} is not a kind of host key that is known here; {close[0] if close else ', '.join(KINDS)}"
        )
    try:
        data = base64.b64decode(blob, validate=True)
    except ValueError as error:
        raise ValueError(f"{_EXPECTED}; what follows {kind} is not base64") from error
    size = int.from_bytes(data[:4], "big")
    if data[4 : 4 + size] != kind.encode() or (kind == "ssh-ed25519" and len(data) != 51):
        raise ValueError(f"{_EXPECTED}; what follows {kind} is not a whole key of that kind")
    return f"{kind} {blob}"


class OwnHost(BaseModel):
    """One machine that SSH reaches and nobody has to rent for us."""

    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)

    address: str = Field(min_length=1, pattern=r"^[A-Za-z0-9.:_-]+$", description="host name or IP address")
    gpu: str = Field(min_length=1, description="name of its GPU, e.g. `RTX 3090`")
    vram_gb: float = Field(gt=0, le=1000, description="memory of one GPU, in GiB")
    user: str = Field(default="root", min_length=1, pattern=r"^[A-Za-z0-9._-]+$", description="login name")
    port: int = Field(default=22, ge=1, le=65535, description="of its SSH server")
    key: str = Field(default="", description="private key file; empty: the SSH agent and the usual files")
    gpu_count: int = Field(default=1, ge=1, le=64, description="GPUs of that kind")
    disk_gb: int = Field(default=50, ge=1, description="room for dataset, base model and results")
    price: Annotated[Usd, BeforeValidator(_price)] = Field(default=ZERO, description="dollars per hour, 0 for your own")
    until: Annotated[datetime, BeforeValidator(_moment)] | None = Field(
        default=None, description="when a rental made by hand ends"
    )
    note: str = Field(default="", description="for yourself")
    host_key: Annotated[str, AfterValidator(_key_line)] = Field(
        default="", description="pinned at first use by `gpurent hosts add` or `test`, and enforced from then on"
    )

    def shown(self) -> dict[str, object]:
        """As plain data, for ``--json``; the price in micro-dollars."""
        rest = self.model_dump(mode="json", exclude={"price"})
        return {**rest, "price_micros": self.price.micros}


def hosts_file() -> Path:
    """Where it lies."""
    return config_dir() / FILE


def load_hosts(path: Path) -> dict[str, OwnHost]:
    """All machines by name; none if there is no file.

    Raises:
        ConfigError: naming file, line, key, and the nearest valid spelling.
    """
    text, document = _read(path)
    unknown = [key for key in document if key != "hosts"]
    if unknown:
        raise ConfigError(f"{path}, line {_line(text, unknown[0])}: {unknown[0]} is not a known table.",
                          hint=f"Machines are tables such as [hosts.{unknown[0]}].")  # fmt: skip
    found: dict[str, OwnHost] = {}
    for name, table in _tables(path, text, document).items():
        if not _NAME.fullmatch(name):
            raise ConfigError(
                f"{path}, line {_line(text, name) or '?'}: {name!r} is not a name for a machine.", hint=_NAMES
            )
        try:
            found[name] = OwnHost.model_validate(table)
        except ValidationError as error:
            raise _explained(path, text, name, error) from error
    return found


_NAMES = "Letters, digits, dot, dash and underscore."


def _tables(path: Path, text: str, document: tomlkit.TOMLDocument) -> dict[str, Any]:
    tables = document.unwrap().get("hosts", {})
    if not isinstance(tables, dict):
        raise ConfigError(
            f"{path}, line {_line(text, 'hosts') or '?'}: hosts is a table of machines, not {tables!r}.",
            hint="A machine is a table such as [hosts.workstation].",
        )
    return tables


def check_name(name: str) -> None:
    """Raise UsageError unless ``name`` can name a machine."""
    if not _NAME.fullmatch(name):
        raise UsageError(f"{name!r} is not a name for a machine", hint=_NAMES)


def save_host(path: Path, name: str, given: dict[str, Any]) -> OwnHost:
    """Add a machine, or change what is given of it; comments and all else in the file stay.

    Raises:
        ConfigError: a value is wrong; nothing was written.
    """
    check_name(name)
    text, document = _read(path)
    _tables(path, text, document)
    hosts = document.setdefault("hosts", tomlkit.table(is_super_table=True))
    table = hosts.setdefault(name, tomlkit.table())
    table.update({key: value for key, value in given.items() if value is not None})
    try:
        made = OwnHost.model_validate(table.unwrap())
    except ValidationError as error:
        raise _explained(path, text, name, error) from error
    _write(path, document)
    return made


def remove_host(path: Path, name: str) -> None:
    """Forget a machine. Raises UsageError if there is none of that name."""
    text, document = _read(path)
    known = _tables(path, text, document)
    if name not in known:
        raise UsageError(f"there is no machine {name!r}", hint=nearest(name, known))
    hosts: Any = document["hosts"]
    hosts.remove(name)
    _write(path, document)


def nearest(name: str, known: Any) -> str:
    """A hint: the nearest known name, or all."""
    if not known:
        return "No machine is listed; `gpurent hosts add --help` says how to list one."
    close = difflib.get_close_matches(name, known, n=1)
    return f"Did you mean {close[0]!r}?" if close else f"Known: {', '.join(known)}."


def _read(path: Path) -> tuple[str, tomlkit.TOMLDocument]:
    try:
        text = read_text(path, MAX_BYTES) if path.exists() else ""
        return text, tomlkit.parse(text)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read: {error}.", hint="It must be a UTF-8 text file.") from error
    except (TOMLKitError, ValueError, RecursionError) as error:
        raise ConfigError(
            f"{path} is not valid TOML: {error}.", hint="`gpurent hosts add` writes valid entries."
        ) from error


def _write(path: Path, document: tomlkit.TOMLDocument) -> None:
    private_folder(path.parent)
    part = path.with_suffix(".part")
    part.write_text(tomlkit.dumps(document), encoding="utf-8")
    part.replace(path)


def _explained(path: Path, text: str, name: str, error: ValidationError) -> ConfigError:
    first = error.errors(include_url=False)[0]
    key = str(first["loc"][0]) if first["loc"] else ""
    line = _line(text, name, key)
    place = f"{path}{f', line {line}' if line else ''}: hosts.{name}{'.' if key else ''}{key}"
    if not key:
        return ConfigError(
            f"{place} is a table, not {first['input']!r}.", hint=f"Write [hosts.{name}] and keys below it."
        )
    if first["type"] == "extra_forbidden":
        return ConfigError(f"{place} is not a known key.", hint=nearest(key, list(OwnHost.model_fields)))
    if first["type"] == "missing":
        return ConfigError(f"{place} is missing.", hint=f"`gpurent hosts add {name} --help` says what a machine needs.")
    return ConfigError(f"{place}: {first['msg'].removeprefix('Value error, ')}, not {first['input']!r}.")


def _line(text: str, name: str, key: str = "") -> int | None:
    """Line of a key below ``[hosts.name]``, else of the table; counted from 1."""
    at, mine = None, False
    for number, line in enumerate(text.splitlines(), start=1):
        bare = line.strip()
        left = bare.partition("=")[0].strip()
        if bare.startswith("["):
            mine = name in bare
            at = number if mine else at
        elif (mine and key and left == key) or left == name:
            return number
    return at
