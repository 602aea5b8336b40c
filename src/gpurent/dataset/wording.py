"""What captions have in common: the trigger, captions that lack it, and what is learnt together with it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from gpurent.dataset.naming import listed, noted
from gpurent.words import counted
from gpurent_engine import captions, emphasis
from gpurent_engine.data import Folder, ImageItem
from gpurent_engine.families.bpe import BODY, Counter
from gpurent_engine.spec import TrainSpec

ALL = 0.9
"""Share of captions that counts as nearly all."""
LEAST = 4
"""Captions below which nothing is said of what they share."""
_WEIGHT = re.compile(r"\([^()]*:\s*[0-9.]+\)")
_WILDCARD = re.compile(r"\{[^{}]*\|[^{}]*\}|__[\w/-]+__")
_WORD = re.compile(r"\w+")
_SMALL = frozenset((
    "a", "an", "the", "of", "on", "in", "at", "by", "to", "and", "or", "with", "for", "from", "as", "is", "are", "it",
    "its", "this", "that", "his", "her", "their", "there",
))  # fmt: skip
"""Words that every English caption has."""


@dataclass(frozen=True)
class Shared:
    """What the captions of one folder have in common."""

    folder: str
    trigger: str
    """Empty where nothing is in most of them."""
    lacking: tuple[str, ...]
    """Pictures whose caption lacks it."""
    fused: tuple[str, ...]
    """What is in nearly all of them besides."""


def shared(folder: Folder, spec: TrainSpec) -> Shared:
    """Find the phrase that most captions of a folder have, wherever it stands in them.

    Several may be in most captions. The trigger is what the configuration calls so, else what has a word of the
    folder's name in it, else what stands first in most captions, else what most have.
    """
    own = [image for image in folder.images if image.caption_path is not None]
    if len(own) < LEAST:
        return Shared(folder.name, "", (), ())
    texts = [image.caption.casefold() for image in own]
    counts = _tags(own, spec.caption_separator) or _words(texts)
    most = {phrase: count for phrase, count in counts.items() if count * 2 > len(own)}
    trigger = spec.metadata_trigger_phrase.split(",")[0].strip()
    if not trigger and most:
        named = set(_WORD.findall(folder.concept.replace("_", " ").casefold())) - _SMALL
        firsts = [text.split(spec.caption_separator)[0].strip() for text in texts]

        def rank(phrase: str) -> tuple[bool, bool, int]:
            in_name = bool(named & set(_WORD.findall(phrase)))
            return in_name, firsts.count(phrase) * 2 > len(firsts), most[phrase]

        trigger = max(most, key=rank)  # the first of equals: phrases come in the order of the captions
    if not trigger:
        return Shared(folder.name, "", (), ())
    wanted = trigger.casefold()
    lacking = tuple(one.path.name for one, text in zip(own, texts, strict=True) if wanted not in text)
    fused = tuple(word for word in most if most[word] >= ALL * len(own) and word not in wanted and wanted not in word)
    shown = next((image.caption for image in own if wanted in image.caption.casefold()), "")
    at = shown.casefold().find(wanted)
    return Shared(folder.name, shown[at : at + len(trigger)] if at >= 0 else trigger, lacking, fused)


def _tags(images: Sequence[ImageItem], separator: str) -> dict[str, int]:
    """In how many captions each tag is; empty where hardly any tag is in two of them: they are prose."""
    counts: dict[str, int] = {}
    for image in images:
        for tag in dict.fromkeys(captions.split(image.caption.casefold(), separator)):
            counts[tag] = counts.get(tag, 0) + 1
    return counts if any(count * 2 > len(images) for count in counts.values()) else {}


def _words(texts: Sequence[str]) -> dict[str, int]:
    """In how many captions each word is, small words left out; words that always stand together are one phrase."""
    words = [list(_WORD.findall(text)) for text in texts]
    counts: dict[str, int] = {}
    for one in words:
        for word in dict.fromkeys(one):
            counts[word] = counts.get(word, 0) + 1
    common = [word for word, count in counts.items() if count * 2 > len(texts) and word not in _SMALL]
    found: dict[str, int] = {}
    for word in common:
        last = next(reversed(found), "")
        joined = f"{last} {word}"
        together = sum(joined in " ".join(caption) for caption in words)
        if last and together == counts[word] == found[last]:
            del found[last]
            found[joined] = together
        else:
            found[word] = counts[word]
    return found


def remarks(folders: Sequence[Folder], spec: TrainSpec, counter: Counter) -> list[str]:
    """Sentences on the captions of a dataset."""
    images = [image for folder in folders for image in folder.images]
    said = _odd_files(images) + _too_long(images, spec, counter) + _marks(images, spec)
    for folder in folders:
        if folder.regular:
            continue
        found = shared(folder, spec)
        if found.lacking:
            count = counted(len(found.lacking), "caption")
            said.append(
                f"The trigger phrase {found.trigger!r} is missing from {count} of {folder.name}: "
                f"{listed(found.lacking)}."
            )
        if found.fused:
            names = ", ".join(map(repr, found.fused[:5]))
            said.append(
                f"Nearly every caption of {folder.name} has {names} beside {found.trigger!r}: what is always there is "
                "learnt as one, and cannot be prompted apart later."
            )
    return said


def _odd_files(images: Sequence[ImageItem]) -> list[str]:
    by_note: dict[str, list[str]] = {}
    for image in images:
        for note in image.caption_notes if image.caption_path else ():
            by_note.setdefault(note, []).append(f"{image.path.parent.name}/{image.caption_path.name}")  # type: ignore[union-attr]
    return [noted(names, note) for note, names in by_note.items()]


def _too_long(images: Sequence[ImageItem], spec: TrainSpec, counter: Counter) -> list[str]:
    room = spec.text_chunks * BODY
    parts = [part for part in (spec.caption_prefix, spec.caption_suffix) if part]
    long = []
    for image in images:
        # of lines and alternatives one is chosen: the longest that can come
        lines = image.caption.split("\n") if spec.enable_wildcard else [image.caption]
        count = max(_tokens(" ".join([*parts, line]), spec, counter) for line in lines)
        if count > room:
            long.append(f"{image.path.name} ({count})")
    if not long:
        return []
    verb, more = ("has", "its") if len(long) == 1 else ("have", "their")
    longer = next((length for length in (150, 225) if length > room), None)
    remedy = f" max_token_length = {longer} keeps more." if longer else ""
    said = f"{counted(len(long), 'caption')} {verb} over {room} tokens, and {more} end is cut off"
    return [f"{said}: {listed(long)}.{remedy}"]


def _tokens(text: str, spec: TrainSpec, counter: Counter) -> int:
    pieces = [piece for piece, _ in emphasis.parse(text)] if spec.weighted_captions else [text]
    return sum(map(counter.tokens, pieces))


def _marks(images: Sequence[ImageItem], spec: TrainSpec) -> list[str]:
    said = []
    for pattern, off, key, what in (
        (_WEIGHT, not spec.weighted_captions, "weighted_captions", "weights such as (word:1.2)"),
        (_WILDCARD, not spec.enable_wildcard, "enable_wildcard", "choices such as {red|blue}"),
    ):
        names = [image.path.name for image in images if off and pattern.search(image.caption)]
        if names:
            said.append(f"Captions with {what} are learnt letter by letter unless {key} = true: {listed(names)}.")
    return said
