"""A job: one LoRA to train, checked completely before anything is rented."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Self

from gpurent.dataset import base, extras, pictures
from gpurent.dataset.bounds import NAMED, Bounds, Outside, strays
from gpurent.dataset.leftout import left_out, unsendable
from gpurent.dataset.manifest import Source, listed, suspicious
from gpurent.dataset.secrets import secret_name
from gpurent.errors import ConfigError, DatasetError
from gpurent.expected import MIB, Expected
from gpurent.localfiles import read_text
from gpurent.model import Workload
from gpurent.spi import LocalFile
from gpurent_engine import buckets, data, networkargs, thumbnail
from gpurent_engine.families import SDXL, detect
from gpurent_engine.filenames import good_name
from gpurent_engine.formats import datasets
from gpurent_engine.reading import load_spec
from gpurent_engine.spec import SpecError, TrainSpec
from gpurent_engine.step.heeded import unheeded

Progressed = Callable[[int, int], None]
MAX_CONFIG = 1024 * 1024
IDLE = " has no effect here: "
"""In what ``reading`` says of a key without effect."""
FEW_NOTES = 3
MASKS = ".masks"
"""End of the folder on the host that holds a subset's masks."""


def _quiet(*_numbers: int) -> None:
    """Tell nobody."""


@dataclass(frozen=True)
class Report:
    """Facts about a checked job, for people."""

    concepts: tuple[tuple[str, int, int], ...]
    """Name, repeats and images of each folder."""
    images: int
    captions: int
    smallest: tuple[int, int]
    """Width and height of the image with the fewest pixels."""
    largest: tuple[int, int]
    epochs: int
    steps: int
    base_model: str
    upload_bytes: int
    download_bytes: int
    """What the host pulls by itself."""
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class Job:
    """What to train, from which files, and where results go. Build it with ``from_config`` or ``find_job``."""

    name: str
    config_path: Path
    spec: TrainSpec
    dataset: data.Dataset
    base_model: base.BaseModel
    output_dir: Path
    warnings: tuple[str, ...] = ()
    files: tuple[Source, ...] = ()
    """What the configuration names besides: see ``extras``."""

    @classmethod
    def from_config(
        cls, config_path: str | Path, *, dataset: str | Path | None = None, output: str | Path | None = None,
        name: str | None = None, on_checked: Progressed = _quiet,
    ) -> Self:  # fmt: skip
        """Read and check everything. Relative paths in the file start at the file's folder.

        Args:
            config_path: a kohya ``training_config.toml``.
            dataset: instead of ``train_data_dir``.
            output: instead of ``output_dir``.
            name: instead of ``output_name``.
            on_checked: called with pictures decoded so far and in all.

        Raises:
            ConfigError: the file is missing, a key is wrong, or the base model is not what it has to be.
            DatasetError: folder, picture or caption is missing or cannot be read.
        """
        config = Path(config_path).absolute()
        here = config.parent
        spec = _illustrated(_named(read_spec(config), name), here, config)
        if dataset:
            spec = replace(spec, train_data_dir=str(Path(dataset).absolute()), dataset_config="", subsets=())
        spec, files = extras.named(_resolved(spec, here, config), here, config)
        model = base.resolve(spec.pretrained_model_name_or_path, here, config, half=spec.mixed_precision != "no")
        if not spec.subsets and not spec.train_data_dir:
            raise ConfigError(f"{config}: train_data_dir is missing.", hint="Set it, or pass --dataset FOLDER.")
        root = here if spec.subsets else (here / Path(spec.train_data_dir).expanduser()).absolute()
        found = _scanned(root, spec)
        _refuse_secrets((*_data_sources(found, spec), *files, *model.sources))
        warnings = folded((*spec.warnings, *_agreed(model, spec, config)))
        if isinstance(model, base.HubId) and model.remark:
            warnings.append(model.remark)
        if spec.mixed_precision == "no":
            warnings.append('mixed_precision is "no": float32 needs twice the memory and more than twice the time.')
        warnings += left_out(found)
        warnings += pictures.check(found, spec, on_checked)
        target = Path(output) if output else here / Path(spec.output_dir).expanduser()
        return cls(
            spec.output_name, config, spec, found, model, target.absolute(), tuple(dict.fromkeys(warnings)), files
        )  # fmt: skip

    @property
    def data_dir(self) -> Path:
        """The parent of the ``<repeats>_<concept>`` folders."""
        return self.dataset.root

    @property
    def base_target(self) -> str | None:
        """Where the base model lies below the job's folder on the host; None when the host pulls it itself."""
        return self.base_model.target

    @property
    def base_model_id(self) -> str:
        """Hub id for a base model that the host pulls itself."""
        return self.base_model.name

    @cached_property
    def length(self) -> buckets.Length:
        """Batches, epochs and optimiser steps."""
        sizes = [(one.width, one.height) for one in self.dataset.images]
        return buckets.length(self.spec, sizes, self.dataset.repeats, self.dataset.kinds)

    @cached_property
    def sources(self) -> tuple[Source, ...]:
        """Every file to send, with its target relative to the job's folder on the host."""
        return (*_data_sources(self.dataset, self.spec), *self.files, *self.base_model.sources)

    @property
    def sent_spec(self) -> TrainSpec:
        """The training as the host reads it: with its own paths instead of this computer's."""
        subsets = tuple(
            replace(one, folder=str(number), mask_folder=f"{number}{MASKS}" if one.mask_folder else "")
            for number, one in enumerate(self.spec.subsets)
        )
        empty = {"train_data_dir": "", "reg_data_dir": "", "dataset_config": "", "conditioning_data_dir": ""}
        name = self.base_model.name
        return replace(
            self.spec, subsets=subsets, output_dir="output", pretrained_model_name_or_path=name, **empty  # type: ignore[arg-type]
        )  # fmt: skip

    @cached_property
    def upload_bytes(self) -> int:
        """Bytes of everything to send."""
        return sum(source.path.stat().st_size for source in self.sources)

    def upload_files(self, on_bytes: Callable[[int], None] = _quiet) -> tuple[LocalFile, ...]:
        """The manifest: dataset and, if it comes from here, base model, with digests.

        Args:
            on_bytes: called with bytes hashed since the last call; ``upload_bytes`` is the sum.

        Raises:
            SourceChanged: a file is not any more what it was when it was checked.
        """
        return listed(self.sources, on_bytes)

    @cached_property
    def expected(self) -> Expected:
        """What the training may send home: its metadata repeats words of captions and names of folders."""
        spec = self.spec
        words = sum(len(one.caption) + len(one.path.name) for one in self.dataset.images)
        return Expected(
            self.name, self.length.steps, self.length.epochs, spec.save_every_n_epochs, spec.save_every_n_steps,
            2 * self._lora_bytes + MIB + 8 * words,
        )  # fmt: skip

    @property
    def _lora_bytes(self) -> int:
        full = 2 if self.spec.save_precision == "float" else 1
        return networkargs.equivalent_rank(self.spec) * self.base_model.found.family.bytes_per_rank * full

    @property
    def workload(self) -> Workload:
        """What planning needs to know."""
        spec, length, family = self.spec, self.length, self.base_model.found.family
        saved = _checkpoints(spec, length)
        specs = [spec.of(folder.settings) for folder in self.dataset.folders]
        width, height = max((one.resolution for one in specs), key=lambda size: size[0] * size[1])
        return Workload(
            name=self.name, family=family.name, images=len(self.dataset.images),
            steps=length.steps * spec.gradient_accumulation_steps, epochs=length.epochs,
            batch_size=max(one.train_batch_size for one in specs), width=width, height=height,
            network_dim=networkargs.equivalent_rank(spec), train_text_encoder=spec.train_text_encoder,
            gradient_checkpointing=spec.gradient_checkpointing, checkpoints=saved,
            checkpoint_bytes=saved * self._lora_bytes,
            upload_bytes=self.upload_bytes, base_download_bytes=self.base_model.download_bytes,
            base_bytes=sum(one.path.stat().st_size for one in self.base_model.sources),
            half_precision=spec.mixed_precision != "no",
            fast_step=not unheeded(spec, sdxl=family.name == SDXL.name),
        )  # fmt: skip

    @property
    def report(self) -> Report:
        """Facts for people."""
        images = self.dataset.images
        sizes = sorted(((one.width, one.height) for one in images), key=lambda size: size[0] * size[1])
        return Report(
            tuple((one.concept, one.repeats, len(one.images)) for one in self.dataset.folders), len(images),
            sum(one.caption_path is not None for one in images), sizes[0], sizes[-1], self.length.epochs,
            self.length.steps, self.base_model.name, self.upload_bytes, self.base_model.download_bytes, self.warnings,
        )  # fmt: skip


def folded(notes: Iterable[tuple[str, str]]) -> list[str]:
    """One sentence for each note; those on keys without effect in one together, last, where there are several."""
    said: list[str] = []
    idle: dict[str, str] = {}
    for key, message in notes:
        if IDLE in message:
            idle[key] = message
        else:
            said.append(message)
    if len(idle) < FEW_NOTES:
        return [*said, *idle.values()]
    names = ", ".join(idle)
    return [*said, f"{len(idle)} keys have no effect here (docs/reference/training-config.md says why): {names}."]


def _checkpoints(spec: TrainSpec, length: buckets.Length) -> int:
    by_epoch = (length.epochs - 1) // spec.save_every_n_epochs if spec.save_every_n_epochs else 0
    by_step = (length.steps - 1) // spec.save_every_n_steps if spec.save_every_n_steps else 0
    return 1 + by_epoch + by_step


def _named(spec: TrainSpec, name: str | None) -> TrainSpec:
    if name is None:
        return spec
    if not good_name(name):
        raise ConfigError(f"{name!r} is no name for a LoRA.", hint="Give a plain file name without folders.")
    return replace(spec, output_name=name)


def _data_sources(dataset: data.Dataset, spec: TrainSpec) -> list[Source]:
    found: list[Source] = []
    for number, folder in enumerate(dataset.folders):
        bounds = pictures.bounds_of(dataset, folder)
        place = str(number) if spec.subsets else folder.name
        for image in folder.images:
            paths = (image.path,) if image.caption_path is None else (image.path, image.caption_path)
            found += [Source(path, f"data/{place}/{path.name}", bounds) for path in paths]
            if image.mask_path is not None:
                masks = Bounds.around(image.mask_path.parent)
                found.append(Source(image.mask_path, f"data/{place}{MASKS}/{image.mask_path.name}", masks))
    return found


def _refuse_secrets(sources: Iterable[Source]) -> None:
    """A stranger's dataset may hold what its user never meant to send."""
    try:
        found = suspicious(sources)
    except (Outside, OSError) as error:
        raise DatasetError(f"{error}.", hint="It was there a moment ago; start again.") from error
    if found:
        names = ", ".join(f"{one.path} looks like {one.what}" for one in found[:NAMED])
        rest = f", and {len(found) - NAMED} more do" if len(found) > NAMED else ""
        raise DatasetError(
            f"{names}{rest}. Nothing was sent.", hint="Remove it; if it is a real key, find out how it came there."
        )


def _resolved(spec: TrainSpec, here: Path, config: Path) -> TrainSpec:
    try:
        return datasets.resolve(spec, here)
    except SpecError as error:
        raise _refused(config, error) from error


def _refuse_strays(root: Path, spec: TrainSpec) -> None:
    suffixes = data.caption_suffixes(spec.caption_extension)
    secret = [suffix for suffix in suffixes if secret_name(f"x{suffix}")]
    if secret:
        raise ConfigError(f"caption_extension: files that end in {secret[0]} hold keys, and no captions.")
    wanted = data.SUFFIXES | {suffix.lower() for suffix in suffixes}
    roots = {root / folder: None for one in spec.subsets for folder in (one.folder, one.mask_folder) if folder}
    found = [stray for folder in roots or {root: None} for stray in strays(folder, wanted)]
    if found:
        named = ", ".join(map(str, found[:NAMED]))
        rest = f", and {len(found) - NAMED} more" if len(found) > NAMED else ""
        raise DatasetError(
            f"{named}{rest}. Only files inside the dataset are read.",
            hint="Put the files themselves there, or name their real folder with --dataset.",
        )


def _illustrated(spec: TrainSpec, here: Path, config: Path) -> TrainSpec:
    """With the thumbnail in it instead of a path that means nothing on a host."""
    try:
        return thumbnail.embed(spec, here)
    except SpecError as error:
        raise _refused(config, error) from error


def _scanned(root: Path, spec: TrainSpec) -> data.Dataset:
    _refuse_strays(root, spec)
    try:
        found = data.scan(root, spec.caption_extension, spec)
    except data.DataError as error:
        raise DatasetError(f"{error.path}: {error.message}", hint=error.hint) from error
    except OSError as error:
        raise DatasetError(f"{root} cannot be read: {error}", hint="Check who may read it.") from error
    if names := unsendable(found):
        hint = (
            "Rename them: a backslash, a control character or bytes that are no Unicode mean something else elsewhere."
        )
        raise DatasetError(f"{root}: these names cannot be sent to another computer: {', '.join(names[:5])}", hint=hint)
    return found


def _agreed(model: base.BaseModel, spec: TrainSpec, config: Path) -> tuple[tuple[str, str], ...]:
    """What the engine will say about the base and the configuration together."""
    try:
        return detect.agree(model.found, spec).notes
    except SpecError as error:
        raise _refused(config, error) from error


def read_spec(config: Path) -> TrainSpec:
    """Read a training configuration. Raises ConfigError naming file, line, key and nearest spelling."""
    try:
        read_text(config, MAX_CONFIG)  # a pipe is not waited for, and nothing endless is read
        return load_spec(config)
    except SpecError as error:
        raise _refused(config, error) from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"{config} cannot be read: {error}", hint="`gpurent init` writes one to start from."
        ) from error


def _refused(config: Path, error: SpecError) -> ConfigError:
    """All errors of a configuration in one, the most important first."""
    said = [_place(config, one) for one in (error, *error.others)]
    if len(said) > 1:
        numbered = " ".join(f"({number}) {one}" for number, one in enumerate(said, start=1))
        message = f"{config}: {len(said)} things are wrong. {numbered}"
        return ConfigError(message, hint="See docs/reference/training-config.md.")
    hint = f"Did you mean {error.suggestion!r}?" if error.suggestion else "See docs/reference/training-config.md."
    line = _line(config, error.key)
    place = f"{config}, line {line}" if line else f"{config}"
    subject = "" if error.key == config.name else f": {error.key}"
    return ConfigError(f"{place}{subject} {error.message}", hint=hint)


def _place(config: Path, error: SpecError) -> str:
    line = _line(config, error.key)
    near = f" Did you mean {error.suggestion!r}?" if error.suggestion else ""
    return f"{f'line {line}, ' if line else ''}{error.key} {error.message}{near}"


def _line(config: Path, key: str) -> int | None:
    """Line on which a key is written for the last time, which is the one that counts; None where it is not."""
    written = re.compile(rf"""\s*["']?{re.escape(key)}["']?\s*[=:]""")
    lines = config.read_text(encoding="utf-8-sig").splitlines()
    return max((number for number, line in enumerate(lines, start=1) if written.match(line)), default=None)
