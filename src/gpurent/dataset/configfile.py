"""A training configuration on disk: read, with every mistake in it as a sentence that names file and line."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType

from gpurent.errors import ConfigError, all_of
from gpurent.localfiles import open_regular
from gpurent_engine import encodings
from gpurent_engine.reading import attempt, read_document
from gpurent_engine.spec import SpecError, TrainSpec

MOST = 1024 * 1024
NO_CHANGES: Mapping[str, object] = MappingProxyType({})
HINT = "`gpurent help training-config` lists all keys."


def read_spec(config: Path) -> TrainSpec:
    """Read a training configuration. Raises ConfigError naming file, line, key and nearest spelling."""
    spec, wrong = try_spec(config)
    if spec is None or wrong:
        raise all_of(wrong)
    return spec


def try_spec(config: Path, changes: Mapping[str, object] = NO_CHANGES) -> tuple[TrainSpec | None, list[ConfigError]]:
    """What can be made of a configuration, with defaults in the place of what is wrong; and all mistakes in it.

    ``changes`` win over what the file says.
    """
    try:
        with open_regular(config) as file:  # a pipe is not waited for, and nothing endless is read
            if len(file.read(MOST + 1)) > MOST:
                raise OSError(f"it is larger than {MOST} bytes")
        spec, wrong = attempt(read_document(config), changes)
    except SpecError as error:
        return None, refused(config, [error])
    except OSError as error:
        return None, [ConfigError(f"{config} cannot be read: {error}", hint="`gpurent init` writes one to start from.")]
    return spec, refused(config, wrong)


def refused(config: Path, errors: Iterable[SpecError]) -> list[ConfigError]:
    """Each of these mistakes, and of those in them, as the user reads it."""
    return [_said(config, one) for error in errors for one in (error, *error.others)]


def _said(config: Path, error: SpecError) -> ConfigError:
    hint = f"Did you mean {error.suggestion!r}?" if error.suggestion else HINT
    line = _line(config, error.key)
    place = f"{config}, line {line}" if line else f"{config}"
    subject = "" if error.key == config.name else f": {error.key}"
    return ConfigError(f"{place}{subject} {error.message}", hint=hint)


def _line(config: Path, key: str) -> int | None:
    """Line on which a key is written for the last time, which is the one that counts; None where it is not."""
    written = re.compile(rf"""\s*["']?{re.escape(key)}["']?\s*[=:]""")
    try:
        lines = encodings.utf8(config.read_bytes()).splitlines()
    except (OSError, UnicodeDecodeError):
        return None
    return max((number for number, line in enumerate(lines, start=1) if written.match(line)), default=None)
