"""A job: one LoRA to train, checked completely before anything is rented."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Self

from gpurent.dataset import base, pictures
from gpurent.dataset.manifest import listed
from gpurent.errors import ConfigError, DatasetError, UsageError
from gpurent.model import Workload
from gpurent.plan.typical import BYTES_PER_RANK
from gpurent.spi import LocalFile
from gpurent_engine import buckets, data
from gpurent_engine.spec import SpecError, TrainSpec, load_spec

CONFIG_NAMES = ("training_config.toml",)
Progressed = Callable[[int, int], None]


@dataclass(frozen=True)
class Job:
    """What to train, from which files, and where results go. Build it with ``from_config`` or ``find``."""

    name: str
    config_path: Path
    spec: TrainSpec
    dataset: data.Dataset
    base_model: base.BaseModel
    output_dir: Path
    warnings: tuple[str, ...] = field(default=())

    @classmethod
    def from_config(
        cls, config: Path, *, dataset: Path | None = None, output: Path | None = None,
        on_checked: Progressed = lambda _done, _total: None,
    ) -> Self:  # fmt: skip
        """Read and check everything. Relative paths in the file start at the file's folder.

        Args:
            config: a kohya ``training_config.toml``.
            dataset, output: override ``train_data_dir`` and ``output_dir``.
            on_checked: called with pictures decoded so far and in all.

        Raises:
            ConfigError: the file is missing, a key is wrong, or the base model is not where it says.
            DatasetError: folder, picture or caption is missing or cannot be read.
        """
        spec = read_spec(config)
        here = config.resolve().parent
        root = dataset or (here / spec.train_data_dir if spec.train_data_dir else None)
        if root is None:
            raise ConfigError(
                f"{config} names no dataset: train_data_dir is missing.", hint="Set it, or pass --dataset FOLDER."
            )
        try:
            found = data.scan(root.resolve(), spec.caption_extension)
        except data.DataError as error:
            raise DatasetError(f"{error.path}: {error.message}", hint=error.hint) from error
        model = base.resolve(spec.pretrained_model_name_or_path, here, config)
        warnings = [message for _, message in spec.warnings]
        warnings += pictures.check(found, spec, on_checked)
        return cls(
            spec.output_name, config.resolve(), spec, found, model, (output or here / spec.output_dir).resolve(),
            tuple(warnings),
        )  # fmt: skip

    @classmethod
    def find(cls, folder: Path, *, on_checked: Progressed = lambda _done, _total: None) -> Self:
        """Use the configuration that lies in ``folder``.

        Raises:
            UsageError: there is none; says what was looked for.
        """
        return cls.from_config(find_config(folder), on_checked=on_checked)

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
        images = self.dataset.images
        return buckets.length(self.spec, [(one.width, one.height) for one in images], self.dataset.repeats)

    def upload_files(self) -> tuple[LocalFile, ...]:
        """Dataset and, if it comes from here, base model, with digests; targets are relative to the job's folder."""
        paths = {path: f"data/{path.relative_to(self.data_dir).as_posix()}" for path in self._data_paths()}
        paths |= {path: f"{self.base_target}/{inside}".rstrip("/") for path, inside in self.base_model.files}
        return listed(paths)

    def _data_paths(self) -> list[Path]:
        captions = [image.caption_path for image in self.dataset.images if image.caption_path is not None]
        return [*(image.path for image in self.dataset.images), *captions]

    @property
    def workload(self) -> Workload:
        """What planning needs to know."""
        spec, length = self.spec, self.length
        every = spec.save_every_n_epochs
        saved = 1 + ((length.epochs - 1) // every if every else 0)
        if spec.save_every_n_steps:
            saved += (length.steps - 1) // spec.save_every_n_steps
        family = self.base_model.family
        upload = sum(path.stat().st_size for path in self._data_paths())
        upload += sum(path.stat().st_size for path, _ in self.base_model.files)
        return Workload(
            name=self.name, family=family, images=len(self.dataset.images), steps=length.steps, epochs=length.epochs,
            batch_size=spec.train_batch_size * spec.gradient_accumulation_steps, width=spec.resolution[0],
            height=spec.resolution[1], network_dim=spec.network_dim, train_text_encoder=spec.train_text_encoder,
            gradient_checkpointing=spec.gradient_checkpointing, checkpoints=saved,
            checkpoint_bytes=saved * spec.network_dim * BYTES_PER_RANK[family], upload_bytes=upload,
            base_download_bytes=self.base_model.download_bytes,
        )  # fmt: skip


def read_spec(config: Path) -> TrainSpec:
    """Read a training configuration. Raises ConfigError naming file, key and nearest spelling."""
    try:
        return load_spec(config)
    except SpecError as error:
        did_you_mean = (
            f"Did you mean {error.suggestion!r}?" if error.suggestion else "See docs/reference/training-config.md."
        )
        raise ConfigError(f"{config}: {error.key}: {error.message}", hint=did_you_mean) from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"{config} cannot be read: {error}", hint="`gpurent init` writes one to start from."
        ) from error


def find_config(folder: Path) -> Path:
    """The training configuration of a working folder. Raises UsageError saying what is missing."""
    for name in CONFIG_NAMES:
        if (folder / name).is_file():
            return folder / name
    others = sorted(path.name for path in folder.glob("*.toml") if path.name not in ("gpurent.toml", "pyproject.toml"))
    hint = (
        f"Pass --config {others[0]}." if others else "`gpurent init` writes one to start from, or pass --config FILE."
    )
    raise UsageError(f"no training_config.toml in {folder.resolve()}", hint=hint)
