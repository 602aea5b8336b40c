"""What the files of a training are called. Torch-free: the client expects exactly these names. They are kohya's."""

from __future__ import annotations

import unicodedata

_TURNS = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
LONGEST = 200
"""Bytes of a LoRA's name; file systems take 255 for all of a file's name."""


def final_name(name: str) -> str:
    """The finished LoRA."""
    return f"{name}.safetensors"


def epoch_name(name: str, epoch: int) -> str:
    """The checkpoint after ``epoch``."""
    return f"{name}-{epoch:06d}.safetensors"


def step_name(name: str, step: int) -> str:
    """The checkpoint after optimiser step ``step``."""
    return f"{name}-step{step:08d}.safetensors"


def best_name(name: str) -> str:
    """The LoRA with the lowest loss of held-out pictures, where that is not the finished one."""
    return f"{name}-best.safetensors"


def sample_name(name: str, at: int, index: int, *, by_epoch: bool) -> str:
    """A sample picture of the ``index``-th prompt, drawn after epoch or step ``at``. kohya's names, without its clock
    and seed."""
    return f"{name}_{'e' * by_epoch}{at:06d}_{index:02d}.png"


def meant(name: str) -> bool:
    """Whether a name can be sent and shown as it is: no control characters, no turns of the writing direction, and
    nothing that is not an Unicode. Spaces of any script and the joiners inside emoji are fine."""
    return not any(unicodedata.category(one) in ("Cc", "Cs", "Zl", "Zp") or one in _TURNS for one in name)


def good_name(name: str) -> bool:
    """Whether a LoRA may be called so: a plain file name, on every system and in every terminal."""
    plain = meant(name) and name == name.strip() and not name.startswith(".")
    return plain and 0 < len(name.encode()) <= LONGEST and not set(name) & set('/\\:*?"<>|')
