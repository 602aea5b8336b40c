"""Look at everything a training needs before anything is rented, and gather all that is wrong, not just the first."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from gpurent.dataset import base, configfile, extras, leftout, pictures, wording
from gpurent.dataset.bounds import NAMED, Outside, strays
from gpurent.dataset.job import Job, Progressed, data_sources
from gpurent.dataset.leftout import LeftOut
from gpurent.dataset.manifest import Source, suspicious
from gpurent.dataset.naming import listed
from gpurent.dataset.secrets import secret_name
from gpurent.errors import ConfigError, DatasetError, UsageError, all_of
from gpurent.words import counted
from gpurent_engine import captionfile, data, prompts, suited, thumbnail
from gpurent_engine.buckets import Placement
from gpurent_engine.families import bpe, detect
from gpurent_engine.filenames import good_name
from gpurent_engine.formats import datasets
from gpurent_engine.spec import SpecError, TrainSpec

T = TypeVar("T")
IDLE = " has no effect here: "
"""In what ``reading`` says of a key without effect."""
FEW_NOTES = 3
FEW = 15
"""Pictures below which a simple concept is rarely learnt."""
SMALL = 0.8
"""Share of the training area below which enlarging shows."""


@dataclass(frozen=True)
class Survey:
    """What was found. ``errors`` come most important first; without any there is a job."""

    config: Path
    errors: tuple[UsageError, ...]
    warnings: tuple[str, ...]
    spec: TrainSpec | None = None
    dataset: data.Dataset | None = None
    placements: tuple[Placement, ...] = ()
    left_out: tuple[LeftOut, ...] = ()
    shared: tuple[wording.Shared, ...] = ()
    job: Job | None = None

    def result(self) -> Job:
        """The job.

        Raises:
            ConfigError, DatasetError: it cannot be trained; ``parts`` has every reason.
        """
        if self.job is None:
            raise all_of(self.errors)
        return self.job


def survey(
    config_path: str | Path, *, dataset: str | Path | None = None, output: str | Path | None = None,
    name: str | None = None, changes: Mapping[str, object] = configfile.NO_CHANGES,
    on_checked: Progressed = lambda _done, _total: None,
) -> Survey:  # fmt: skip
    """Check a configuration, its base and its dataset. Arguments are those of ``Job.from_config``."""
    config = Path(config_path).absolute()
    look = _Look(config, on_checked)
    spec = look.configuration(name, dataset, changes)
    return Survey(config, tuple(look.errors), ()) if spec is None else _all_of(look, spec, output)


def _all_of(look: _Look, given: TrainSpec, output: str | Path | None) -> Survey:
    config, here = look.config, look.config.parent
    named = look.tried(lambda: extras.named(given, here, config))
    spec, files = named or (given, ())
    half = spec.mixed_precision != "no"
    model = look.tried(lambda: base.resolve(spec.pretrained_model_name_or_path, here, config, half=half))
    found = look.pictures(spec)
    placements = () if found is None else suited.placed(found, spec)
    agreed = look.fitting(spec, found, placements, model)
    if found is not None:
        look.tried(lambda: _refuse_secrets((*data_sources(found, spec), *files, *(model.sources if model else ()))))
    if found is not None:
        counter = base.counter(model)
        look.of_dataset(found, spec, placements, counter)
    notes = look.of_configuration(spec, agreed, model)
    job = None
    if not look.errors and found is not None and model is not None:
        target = Path(output) if output else here / Path(spec.output_dir).expanduser()
        whole = Job(
            name=spec.output_name,
            config_path=config,
            spec=spec,
            dataset=found,
            base_model=model,
            output_dir=target.absolute(),
            warnings=(),
            files=files,
        )
        length = look.tried(lambda: whole.length)
        if length is not None:
            notes = [*folded(suited.doubts(spec, length)), *notes]
            job = replace(whole, warnings=tuple(dict.fromkeys((*look.warnings, *notes))))
    warnings = job.warnings if job else tuple(dict.fromkeys((*look.warnings, *notes)))
    shared = () if found is None else tuple(wording.shared(folder, spec) for folder in found.folders)
    return Survey(
        config=config,
        errors=tuple(look.errors),
        warnings=warnings,
        spec=spec,
        dataset=found,
        placements=placements,
        left_out=tuple(look.left_out),
        shared=shared,
        job=job,
    )


class _Look:
    """Gathers errors and warnings on the way."""

    def __init__(self, config: Path, on_checked: Progressed) -> None:
        self.config = config
        self.errors: list[UsageError] = []
        self.warnings: list[str] = []
        self.left_out: list[LeftOut] = []
        self._wrong: set[Path] = set()
        """Files that errors name."""
        self._guessed = False
        """Whether defaults stand in for values that are wrong."""
        self._on_checked = on_checked

    def tried(self, act: Callable[[], T]) -> T | None:
        """What ``act`` returns; None, and its errors among ours, if it raises."""
        try:
            return act()
        except UsageError as error:
            self.errors += error.parts or (error,)
        except SpecError as error:
            self.errors += configfile.refused(self.config, [error])
        return None

    def configuration(
        self, name: str | None, dataset: str | Path | None, changes: Mapping[str, object]
    ) -> TrainSpec | None:
        """The training, its folders named where a dataset configuration names them."""
        read, wrong = configfile.try_spec(self.config, changes)
        self.errors += wrong
        self._guessed = bool(wrong)
        if read is None:
            return None
        here = self.config.parent
        named = self.tried(lambda: _named(read, name)) or read
        pictured = self.tried(lambda: thumbnail.embed(named, here)) or named
        spec = self.tried(lambda: prompts.embed(pictured, here)) or pictured
        if dataset:
            return replace(spec, train_data_dir=str(Path(dataset).absolute()), dataset_config="", subsets=())
        return self.tried(lambda: datasets.resolve(spec, here)) or spec

    def pictures(self, spec: TrainSpec) -> data.Dataset | None:
        """The dataset, scanned and decoded; None where it cannot be."""
        if not spec.subsets and not spec.train_data_dir:
            if not spec.dataset_config and not any("subset" in str(error) for error in self.errors):
                text = f"{self.config}: train_data_dir is missing."
                self.errors.append(ConfigError(text, hint="Set it, or pass --dataset FOLDER."))
            return None
        here = self.config.parent
        root = here if spec.subsets else (here / Path(spec.train_data_dir).expanduser()).absolute()
        before = len(self.errors)
        self.tried(lambda: _refuse_strays(root, spec))
        if len(self.errors) > before:
            return None
        wrong: list[data.DataError] = []
        try:
            found = data.scan(root, spec.caption_extension, spec, wrong)
        except data.DataError as error:
            self.errors += grouped([error])
            return None
        except OSError as error:
            self.errors.append(DatasetError(f"{root} cannot be read: {error}", hint="Check who may read it."))
            return None
        if names := leftout.unsendable(found):
            hint = (
                "Rename them: a backslash, a control character or bytes that are no Unicode mean something else "
                "elsewhere."
            )
            said = f"{root}: these names cannot be sent to another computer: {listed(names)}"
            self.errors.append(DatasetError(said, hint=hint))
        decoded = pictures.decode(found, self._on_checked)
        wrong += pictures.errors(decoded)
        self.errors += grouped(wrong)
        self._wrong = {image.path for image in wrong}
        self.warnings += pictures.remarks(decoded)
        return found

    def fitting(
        self, spec: TrainSpec, found: data.Dataset | None, placements: Sequence[Placement], model: base.BaseModel | None
    ) -> tuple[tuple[str, str], ...]:
        """What configuration, pictures and base come to together; notes of keys and messages."""
        factor = model.found.factor if model else detect.FACTOR
        wrong: list[SpecError] = []
        notes: tuple[tuple[str, str], ...] = ()
        if model is not None:
            try:
                notes = detect.agree(model.found, spec).notes
            except SpecError as error:
                wrong.append(error)
            wrong += suited.layers(spec, model.found.layers)
            wrong += suited.sizes(placements, spec, factor)
        self.errors += configfile.refused(self.config, wrong)
        if found is not None:
            self.errors += grouped(suited.errors(found, placements, factor))
        return notes

    def of_dataset(
        self, found: data.Dataset, spec: TrainSpec, placements: Sequence[Placement], counter: bpe.Counter
    ) -> None:
        """Remarks on captions, on what is left out and on sizes, before those on single pictures."""
        self.left_out = leftout.left_out(found, self._wrong)
        bare = [image.path.name for image in found.images if image.caption_path is None]
        said = []
        if bare:
            count = counted(len(bare), "image")
            said.append(f"{count} without a caption: the folder's name is used for {listed(bare)}.")
        said += wording.remarks(found.folders, spec, counter)
        said += leftout.told(self.left_out)
        self.warnings = [*said, *self.warnings, *([] if self._guessed else _sizes(found, spec, placements))]

    def of_configuration(
        self, spec: TrainSpec, agreed: tuple[tuple[str, str], ...], model: base.BaseModel | None
    ) -> list[str]:
        """Remarks on the configuration and the base; those on keys without effect last."""
        notes = folded((*spec.warnings, *agreed))
        idle = [note for note in notes if IDLE in note or note.endswith("no effect here.")]
        said = [note for note in notes if note not in idle]
        if isinstance(model, base.HubId) and model.remark:
            said.append(model.remark)
        if spec.mixed_precision == "no":
            said.append('mixed_precision is "no": float32 needs twice the memory and more than twice the time.')
        return [*said, *idle]


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
    return [*said, f"{len(idle)} keys have no effect here (`gpurent help training-config` says why): {names}."]


def grouped(errors: Sequence[data.DataError]) -> list[DatasetError]:
    """One sentence for all files with the same mistake."""
    groups: dict[str, list[data.DataError]] = {}
    for error in errors:
        for one in (error, *error.others):
            groups.setdefault(one.message.partition(" (")[0], []).append(one)
    said = []
    for first, *rest in groups.values():
        more = f" So {'is' if len(rest) == 1 else 'are'} {listed([one.path.name for one in rest])}." if rest else ""
        said.append(DatasetError(f"{first.path}: {first.message}{more}", hint=first.hint))
    return said


def _named(spec: TrainSpec, name: str | None) -> TrainSpec:
    if name is None:
        return spec
    if not good_name(name):
        raise ConfigError(f"{name!r} is not a name for a LoRA.", hint="Give a plain file name without folders.")
    return replace(spec, output_name=name)


def _refuse_secrets(sources: Iterable[Source]) -> None:
    """A stranger's dataset may hold what its user never meant to send."""
    try:
        found = suspicious(sources)
    except (Outside, OSError) as error:
        raise DatasetError(f"{error}.", hint="It was there a moment ago; start again.") from error
    if found:
        names = ", ".join(f"{file.path} looks like {file.what}" for file in found[:NAMED])
        rest = f", and {len(found) - NAMED} more do" if len(found) > NAMED else ""
        raise DatasetError(
            f"{names}{rest}. Nothing was sent.", hint="Remove it; if it is a real key, find out how it came there."
        )


def _refuse_strays(root: Path, spec: TrainSpec) -> None:
    suffixes = captionfile.suffixes(spec.caption_extension)
    secret = [suffix for suffix in suffixes if secret_name(f"x{suffix}")]
    if secret:
        raise ConfigError(f"caption_extension: files that end in {secret[0]} hold keys, and no captions.")
    wanted = data.SUFFIXES | {suffix.lower() for suffix in suffixes}
    roots = {root / folder: None for subset in spec.subsets for folder in (subset.folder, subset.mask_folder) if folder}
    found = [stray for folder in roots or {root: None} for stray in strays(folder, wanted)]
    if found:
        named = ", ".join(map(str, found[:NAMED]))
        rest = f", and {len(found) - NAMED} more" if len(found) > NAMED else ""
        raise DatasetError(
            f"{named}{rest}. Only files inside the dataset are read.",
            hint="Put the files themselves there, or name their real folder with --dataset.",
        )


def _sizes(found: data.Dataset, spec: TrainSpec, placements: Sequence[Placement]) -> list[str]:
    """Remarks on pictures that are few, small or cropped to little of them."""
    images, said = found.images, []
    cut = [f"{image.path.name} ({share:.0%})" for image, share in suited.cropped(found, placements)]
    if cut:
        verb, more = ("loses", "its") if len(cut) == 1 else ("lose", "their")
        remedy = "" if spec.enable_bucket else " enable_bucket = true keeps shapes."
        said.append(f"{counted(len(cut), 'image')} {verb} over half of {more} area to the crop: {listed(cut)}.{remedy}")
    width, height = spec.resolution
    small = [image.path.name for image in images if image.width * image.height < width * height * SMALL]
    if small and not (spec.enable_bucket and spec.bucket_no_upscale):
        verb = "is" if len(small) == 1 else "are"
        text = f"{counted(len(small), 'image')} {verb} smaller than {width}×{height} and will look soft"
        said.append(f"{text}: {listed(small)}.")
    if len(images) < FEW:
        said.append(f"Only {counted(len(images), 'image')}: 20 to 40 are usual for a simple concept.")
    return said
