"""A job: one LoRA to train, checked completely before anything is rented."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from gpurent.dataset import base, pictures
from gpurent.dataset.bounds import Bounds
from gpurent.dataset.configfile import NO_CHANGES
from gpurent.dataset.grid import Grid, planned
from gpurent.dataset.manifest import Source, listed
from gpurent.expected import MIB, Expected, Pictures
from gpurent.model import Workload
from gpurent.spi import LocalFile
from gpurent_engine import augment, buckets, data, networkargs, prompts, validation
from gpurent_engine.families import SDXL
from gpurent_engine.pictures import HEIC, HEIC_PACKAGE
from gpurent_engine.spec import TrainSpec
from gpurent_engine.step.heeded import unheeded

Progressed = Callable[[int, int], None]
LONGEST_SENT = 240
"""Bytes of a name."""
CAPTIONS = ".captions.json"
RUN = "{run}"
"""Stands for the run's id."""
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
    changes: tuple[tuple[str, object], ...] = ()
    """Keys that were given other values than the configuration has."""
    draws: bool = True
    """Whether a grid of it is wanted at its end."""

    @staticmethod
    def from_config(
        config_path: str | Path, *, dataset: str | Path | None = None, output: str | Path | None = None,
        name: str | None = None, changes: Mapping[str, object] = NO_CHANGES, on_checked: Progressed = _quiet,
    ) -> Job:  # fmt: skip
        """Read and check everything. Relative paths in the file start at the file's folder.

        Args:
            config_path: a kohya ``training_config.toml``.
            dataset: instead of ``train_data_dir``.
            output: instead of ``output_dir``.
            name: instead of ``output_name``.
            changes: keys of the configuration with other values than in the file.
            on_checked: called with pictures decoded so far and in all.

        Raises:
            ConfigError: the file is missing, a key is wrong, or the base model is not what it has to be.
            DatasetError: folder, picture or caption is missing or cannot be read. ``parts`` of either has all mistakes.
        """
        from gpurent.dataset.survey import survey  # it makes jobs of what it finds

        found = survey(
            config_path, dataset=dataset, output=output, name=name, changes=changes, on_checked=on_checked
        ).result()
        return replace(found, changes=tuple(changes.items()))

    @property
    def data_dir(self) -> Path:
        """The parent of the ``<repeats>_<concept>`` folders."""
        return self.dataset.root

    @property
    def packages(self) -> frozenset[str]:
        """What its pictures need on a host besides the engine's own packages."""
        phones = any(image.path.suffix.lower() in HEIC for image in self.dataset.images)
        return frozenset((HEIC_PACKAGE,)) if phones else frozenset()

    @property
    def base_target(self) -> str | None:
        """Where the base model lies below the job's folder on the host; None when the host pulls it itself."""
        return self.base_model.target

    @property
    def base_model_id(self) -> str:
        """Hub id for a base model that the host pulls itself."""
        return self.base_model.name

    def without_grid(self) -> Job:
        """The same job, of which nothing is drawn at its end."""
        return replace(self, draws=False)

    @cached_property
    def grid(self) -> Grid | None:
        """What is drawn of it at its end."""
        return planned(self.dataset, self.spec, self.base_model.found.family) if self.draws else None

    @cached_property
    def length(self) -> buckets.Length:
        """Batches, epochs and optimiser steps."""
        trained, _ = validation.split(self.dataset, self.spec)
        return validation.length(self.dataset, trained, self.spec)

    @cached_property
    def sources(self) -> tuple[Source, ...]:
        """Every file to send, with its target relative to the job's folder on the host."""
        return (*data_sources(self.dataset, self.spec), *self.files, *self.base_model.sources)

    @property
    def sent_spec(self) -> TrainSpec:
        """The training as the host reads it: with its own paths instead of this computer's."""
        subsets = tuple(
            replace(
                subset,
                folder=str(number),
                mask_folder=f"{number}{MASKS}" if subset.mask_folder else "",
                metadata_file=f"{number}{CAPTIONS}" if subset.metadata_file else "",
            )
            for number, subset in enumerate(self.spec.subsets)
        )
        empty = {"train_data_dir": "", "reg_data_dir": "", "dataset_config": "", "conditioning_data_dir": ""}
        empty |= {"in_json": "", "logging_dir": "", "log_with": "", "log_prefix": "", "log_tracker_name": ""}
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
        words = sum(len(image.caption) + len(image.path.name) for image in self.dataset.images)
        return Expected(
            name=self.name,
            steps=self.length.steps,
            epochs=self.length.epochs,
            every_epochs=spec.save_every_n_epochs,
            every_steps=spec.save_every_n_steps,
            file_bytes=2 * self._lora_bytes + MIB + 8 * words,
            best=self._validated,
            pictures=Pictures(
                len(spec.samples),
                spec.sample_every_n_epochs,
                spec.sample_every_n_steps,
                spec.sample_at_first,
                max((sample.width * sample.height for sample in spec.samples), default=0),
            ),
            skipped=self.length.skipped,
        )

    @property
    def _validated(self) -> bool:
        """Whether any picture is held out."""
        return bool(validation.split(self.dataset, self.spec)[1])

    @property
    def logs(self) -> str:
        """Folder for TensorBoard, with a place for the run's id, as kohya's trainer has one for the time; or empty."""
        spec = self.spec
        if not spec.logging_dir:
            return ""
        folder = self.config_path.parent / Path(spec.logging_dir).expanduser()
        tracker = spec.log_tracker_name or "network_train"
        return str(folder.absolute() / f"{spec.log_prefix}{RUN}-{self.name}" / tracker)

    @property
    def _lora_bytes(self) -> int:
        full = 2 if self.spec.save_precision == "float" else 1
        return networkargs.equivalent_rank(self.spec) * self.base_model.found.family.bytes_per_rank * full

    @property
    def workload(self) -> Workload:
        """What planning needs to know."""
        spec, length, family = self.spec, self.length, self.base_model.found.family
        saved = _checkpoints(spec, length) + self._validated
        specs = [spec.of(folder.settings) for folder in self.dataset.folders]
        width, height = max((spec.resolution for spec in specs), key=lambda size: size[0] * size[1])
        return Workload(
            name=self.name, family=family.name, images=len(self.dataset.images),
            steps=length.steps * spec.gradient_accumulation_steps, epochs=length.rounds,
            batch_size=max(spec.train_batch_size for spec in specs), width=width, height=height,
            network_dim=networkargs.equivalent_rank(spec), train_text_encoder=spec.train_text_encoder,
            gradient_checkpointing=spec.gradient_checkpointing, checkpoints=saved,
            checkpoint_bytes=saved * self._lora_bytes,
            upload_bytes=self.upload_bytes, base_download_bytes=self.base_model.download_bytes,
            base_bytes=sum(source.path.stat().st_size for source in self.base_model.sources),
            half_precision=spec.mixed_precision != "no",
            fast_step=not unheeded(spec, sdxl=family.name == SDXL.name),
            predictions=self._predictions(width * height), encodings=self._encodings,
            grid=None if self.grid is None else self.grid.drawing,
        )  # fmt: skip

    def _predictions(self, pixels: int) -> float:
        """Predictions for held-out and sample pictures, counted in pictures of ``pixels``."""
        spec, length = self.spec, self.length
        held = len(validation.split(self.dataset, spec)[1])
        looks = 1 + length.rounds // (spec.validate_every_n_epochs or 1)
        looks += length.steps // spec.validate_every_n_steps if spec.validate_every_n_steps else 0
        if spec.max_validation_steps is not None:
            held = min(held, spec.max_validation_steps * spec.train_batch_size)
        # with guidance and without, at each step of the sampler
        drawn = sum(2 * sample.steps * sample.width * sample.height / pixels for sample in spec.samples)
        return held * validation.TIMES * looks + drawn * prompts.times(spec, length.steps, length.rounds)

    @property
    def _encodings(self) -> int:
        """Pictures that are shown with another crop or other colours each time."""
        own = [self.spec.of(folder.settings) for folder in self.dataset.owners]
        shown = zip(self.dataset.images, self.dataset.repeats, own, strict=True)
        repeats = sum(times for image, times, spec in shown if augment.live(spec, image.path))
        return repeats * self.length.rounds

    @property
    def report(self) -> Report:
        """Facts for people."""
        images = self.dataset.images
        sizes = sorted(((image.width, image.height) for image in images), key=lambda size: size[0] * size[1])
        return Report(
            concepts=tuple((folder.concept, folder.repeats, len(folder.images)) for folder in self.dataset.folders),
            images=len(images),
            captions=sum(image.caption_path is not None for image in images),
            smallest=sizes[0],
            largest=sizes[-1],
            epochs=self.length.epochs,
            steps=self.length.steps,
            base_model=self.base_model.name,
            upload_bytes=self.upload_bytes,
            download_bytes=self.base_model.download_bytes,
            warnings=self.warnings,
        )


def _sent_as(path: Path, picture: Path) -> str:
    """The name of a picture, its caption or its mask on the host: their own, but shorter if there were no room for the
    ending that a file has while it is sent. File systems take 255 bytes."""
    if max(len(path.name.encode()), len(picture.name.encode())) <= LONGEST_SENT:
        return path.name
    digest = hashlib.sha256(picture.name.encode()).hexdigest()[:16]
    start = picture.stem.encode()[: LONGEST_SENT // 2].decode(errors="ignore")
    return f"{start}-{digest}{path.suffix}"


def _checkpoints(spec: TrainSpec, length: buckets.Length) -> int:
    every = spec.save_every_n_epochs
    by_epoch = (length.epochs - 1) // every - length.skipped // every if every else 0
    by_step = (length.steps - 1) // spec.save_every_n_steps if spec.save_every_n_steps else 0
    return 1 + by_epoch + by_step


def data_sources(dataset: data.Dataset, spec: TrainSpec) -> list[Source]:
    """Pictures, captions and masks, each with its target on the host."""
    found: list[Source] = []
    for number, folder in enumerate(dataset.folders):
        bounds = pictures.bounds_of(dataset, folder)
        place = str(number) if spec.subsets else folder.name
        if folder.captions is not None:
            found.append(Source(folder.captions, f"data/{place}{CAPTIONS}", Bounds.around(folder.captions.parent)))
        for image in folder.images:
            beside = image.caption_path if folder.captions is None else None
            paths = (image.path,) if beside is None else (image.path, beside)
            found += [Source(path, f"data/{place}/{_sent_as(path, image.path)}", bounds) for path in paths]
            if image.mask_path is not None:
                masks = Bounds.around(image.mask_path.parent)
                found.append(
                    Source(image.mask_path, f"data/{place}{MASKS}/{_sent_as(image.mask_path, image.path)}", masks)
                )
    return found
