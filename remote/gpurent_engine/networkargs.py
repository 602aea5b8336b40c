"""``network_args``: what kind of adapter each layer gets, as kohya's networks and LyCORIS read it. Torch-free.

Sources: kohya-ss/sd-scripts ``networks/lora.py`` (create_network, get_block_lr_weight, get_block_index);
KohakuBlueleaf/LyCORIS ``lycoris/kohya.py`` and ``lycoris/config.py`` (PRESET).
"""

from __future__ import annotations

import difflib
import math
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

from gpurent_engine.spec import SpecError, TrainSpec

Algo = Literal["lora", "loha", "lokr"]
KEY = "network_args"
BLOCKS = {False: (12, 1), True: (9, 3)}
"""Blocks on the way down (and up) and in the middle, as kohya counts them; True is SDXL."""
PRESETS = ("full", "full-lin", "attn-mlp", "attn-only", "unet-only", "unet-transformer-only", "unet-convblock-only")
_KNOWN = (
    "algo", "preset", "conv_dim", "conv_alpha", "rank_dropout", "module_dropout", "dropout", "dora_wd", "wd_on_output",
    "factor", "decompose_both", "block_dims", "block_alphas", "conv_block_dims", "conv_block_alphas", "down_lr_weight",
    "mid_lr_weight", "up_lr_weight", "block_lr_zero_threshold", "loraplus_lr_ratio", "loraplus_unet_lr_ratio",
    "loraplus_text_encoder_lr_ratio",
)  # fmt: skip
_IDLE = {
    "train_norm": "norms are not trained", "use_tucker": "", "use_cp": "", "use_scalar": "", "rank_dropout_scale": "",
    "bypass_mode": "it only changes how the same is computed", "full_matrix": "", "unbalanced_factorization": "",
    "rs_lora": "", "train_on_input": "it belongs to IA³", "block_size": "it belongs to DyLoRA",
    "constraint": "it belongs to OFT", "rescaled": "it belongs to OFT", "disable_conv_cp": "",
}  # fmt: skip
"""Arguments that LyCORIS knows: fine while they are off. With a reason, they mean nothing for our kinds."""
_OFF = ("", "false", "none", "0", "0.0")
_OTHERS = frozenset(("oft", "diag-oft", "boft", "ia3", "dylora", "full", "glora", "tlora"))
"""Kinds of LyCORIS that are refused."""
_ALGOS: dict[str, Algo] = {"lora": "lora", "locon": "lora", "loha": "loha", "lokr": "lokr"}


@dataclass(frozen=True)
class NetworkArgs:
    """A network, before the base is known."""

    algo: Algo = "lora"
    lycoris: bool = False
    """Whether LyCORIS' rules of targets and names hold instead of those of kohya's own networks."""
    preset: str = "full"
    conv_dim: int = 0
    """Rank in 3×3 convolutions; 0 leaves resnets and samplers out."""
    conv_alpha: float = 1.0
    dropout: float = 0.0
    rank_dropout: float = 0.0
    module_dropout: float = 0.0
    dora: bool = False
    """DoRA: learn the length of each weight vector apart from its direction."""
    dora_on_output: bool = True
    factor: int = -1
    decompose_both: bool = False
    block_dims: tuple[int, ...] = ()
    block_alphas: tuple[float, ...] = ()
    conv_block_dims: tuple[int, ...] = ()
    conv_block_alphas: tuple[float, ...] = ()
    block_rates: tuple[float, ...] = ()
    """Factors of the learning rate for each block, counted as kohya does."""
    plus_unet: float = 1.0
    """LoRA+ (Hayou et al. 2024): rate of the up matrices ÷ rate of the down matrices."""
    plus_text: float = 1.0

    @property
    def convolutions(self) -> bool:
        """Whether resnets and samplers get adapters."""
        return self.conv_dim > 0 or any(self.conv_block_dims)

    @property
    def quiet(self) -> bool:
        """Whether nothing in the network is drawn at random."""
        return not (self.dropout or self.rank_dropout or self.module_dropout)

    @property
    def plain(self) -> bool:
        """Whether every adapter is a LoRA without anything random in it."""
        return self.algo == "lora" and not self.dora and self.quiet


@lru_cache(maxsize=64)
def read(spec: TrainSpec, sdxl: bool = False) -> NetworkArgs:
    """What ``network_module`` and ``network_args`` ask for.

    Args:
        spec: the configuration.
        sdxl: whether the base is SDXL, whose blocks are counted otherwise.

    Raises:
        SpecError: an argument is unknown, wrong, or asks for what is not done.
    """
    given = _given(spec.network_args)
    lycoris = spec.network_module == "lycoris.kohya"
    algo = _algo(spec, given)
    for name in given:
        _check_known(name, given[name])
    preset = given.get("preset", "full")
    if lycoris and preset not in PRESETS:
        raise _wrong("preset", f"must be one of {', '.join(PRESETS)}, not {preset!r}", preset, PRESETS)
    alpha = spec.network_alpha or float(spec.network_dim)
    # LyCORIS gives convolutions the rank of linear layers unless told otherwise, kohya's own networks none
    conv_dim = _whole(given, "conv_dim", spec.network_dim if lycoris else 0)
    if lycoris:
        conv_dim = 0 if preset in ("full-lin", "attn-mlp", "attn-only", "unet-transformer-only") else conv_dim
    blocks = _blocks(spec, given, sdxl, alpha)
    plus = [_plus(given, part, algo) for part in ("unet", "text_encoder")]
    return NetworkArgs(
        algo=algo,
        lycoris=lycoris,
        preset=preset if lycoris else "full",
        conv_dim=conv_dim,
        conv_alpha=_number(given, "conv_alpha", alpha if lycoris else 1.0) or float(conv_dim),
        dropout=spec.network_dropout or _share(given, "dropout"),
        rank_dropout=_share(given, "rank_dropout"),
        module_dropout=_share(given, "module_dropout"),
        dora=_flag(given, "dora_wd"),
        dora_on_output=_flag(given, "wd_on_output", True),
        factor=_whole(given, "factor", -1),
        decompose_both=_flag(given, "decompose_both"),
        plus_unet=plus[0],
        plus_text=plus[1],
        **blocks,
    )


FULL = 1700
"""Rank at which a plain LoRA has as many numbers as all layers that it is put on: SD 1.5 has 1660, SDXL 950."""


def equivalent_rank(spec: TrainSpec) -> int:
    """Rank of a plain LoRA that is at least as large as this network: for sizes of files and memory."""
    args = read(spec) if not _counted_by_block(spec) else _without_blocks(spec)
    rank = max((spec.network_dim, *_largest(spec, "block_dims")))
    conv = max((args.conv_dim, *_largest(spec, "conv_block_dims")))
    # 3×3 convolutions: 0.71 million numbers a rank in SD 1.5, against 0.59 of all linear layers
    total = rank + 2 * conv + (2 if args.dora else 0)
    if args.algo == "loha":
        return 2 * total
    if args.algo == "lokr":
        factor = args.factor if args.factor > 0 else 8
        return min(total, 2 * FULL // factor**2 + 16)
    return total


def _plus(given: dict[str, str], part: str, algo: Algo) -> float:
    """LoRA+'s ratio for a part; its own argument goes before that for all."""
    for name in (f"loraplus_{part}_lr_ratio", "loraplus_lr_ratio"):
        if given.get(name, "").lower() not in _OFF:
            found = _number(given, name, 1.0)
            if found != 1 and algo != "lora":
                raise SpecError(KEY, f"{name} is for LoRA layers; {algo} has no up matrices.")
            return found
    return 1.0


def _counted_by_block(spec: TrainSpec) -> bool:
    return any(one.partition("=")[0].strip() in _PER_BLOCK for one in spec.network_args)


_PER_BLOCK = frozenset((
    "block_dims", "block_alphas", "conv_block_dims", "conv_block_alphas", "down_lr_weight", "mid_lr_weight",
    "up_lr_weight", "block_lr_zero_threshold",
))  # fmt: skip


def _without_blocks(spec: TrainSpec) -> NetworkArgs:
    rest = tuple(one for one in spec.network_args if one.partition("=")[0].strip() not in _PER_BLOCK)
    return read(replace(spec, network_args=rest))


def _largest(spec: TrainSpec, name: str) -> tuple[int, ...]:
    text = _given(spec.network_args).get(name, "")
    return tuple(int(one) for one in _numbers(name, text)) if text else ()


def _given(arguments: tuple[str, ...]) -> dict[str, str]:
    found = {}
    for one in arguments:
        name, equals, value = one.partition("=")
        if not equals or not name.strip():
            raise SpecError(KEY, f'must be a list of "name=value", not {one!r}.')
        found[name.strip()] = value.strip().strip("\"'")
    return found


def _algo(spec: TrainSpec, given: dict[str, str]) -> Algo:
    own = {"networks.loha": "loha", "networks.lokr": "lokr"}.get(spec.network_module, "lora")
    name = given.get("algo", "lora" if spec.network_module == "lycoris.kohya" else own).lower()
    if name in _OTHERS:
        raise SpecError(KEY, f"algo={name} is not trained here; lora, loha and lokr are, each also with dora_wd=True.")
    if name not in _ALGOS:
        raise _wrong("algo", f"{name} is not one that can be trained: {', '.join(_ALGOS)}", name, tuple(_ALGOS))
    return _ALGOS[name]


def _check_known(name: str, value: str) -> None:
    if name in _KNOWN:
        return
    if name in _IDLE:
        if _IDLE[name] or value.lower() in _OFF:
            return
        raise SpecError(KEY, f"{name}={value} would change the result, and this version does not do it.")
    raise _wrong(name, "is not a known argument", name, (*_KNOWN, *_IDLE))


def _blocks(spec: TrainSpec, given: dict[str, str], sdxl: bool, alpha: float) -> dict[str, tuple]:  # type: ignore[type-arg]
    side, middle = BLOCKS[sdxl]
    total = side * 2 + middle + (2 if sdxl else 0)
    rates = _block_rates(given, side, middle, sdxl)
    if "block_dims" not in given and not rates:
        return {}
    ranks = _list(given, "block_dims", total, spec.network_dim)
    conv = _whole(given, "conv_dim", 0)
    conv_ranks = _list(given, "conv_block_dims", total, conv) if "conv_block_dims" in given or conv else ()
    for at, rate in enumerate(rates):  # a block without a rate gets no adapters, as in kohya's trainer
        if not rate:
            ranks = (*ranks[:at], 0.0, *ranks[at + 1 :])
            conv_ranks = (*conv_ranks[:at], 0.0, *conv_ranks[at + 1 :]) if conv_ranks else ()
    return {
        "block_dims": tuple(int(one) for one in ranks),
        "block_alphas": _list(given, "block_alphas", total, alpha),
        "conv_block_dims": tuple(int(one) for one in conv_ranks),
        "conv_block_alphas": _list(given, "conv_block_alphas", total, _number(given, "conv_alpha", 1.0))
        if conv_ranks
        else (),
        "block_rates": rates,
    }


def _block_rates(given: dict[str, str], side: int, middle: int, sdxl: bool) -> tuple[float, ...]:
    if not {"down_lr_weight", "mid_lr_weight", "up_lr_weight"} & set(given):
        return ()
    least = _number(given, "block_lr_zero_threshold", 0.0)
    down = _weights(given, "down_lr_weight", side)
    mid = _weights(given, "mid_lr_weight", middle)
    up = _weights(given, "up_lr_weight", side)
    found = tuple(one if one > least else 0.0 for one in (*down, *mid, *up))
    return (1.0, *found, 1.0) if sdxl else found


def _weights(given: dict[str, str], name: str, count: int) -> tuple[float, ...]:
    """A list of numbers, or a curve such as ``cosine+.25``; short lists are filled with 1, long ones cut."""
    text = given.get(name, "")
    if not text:
        return (1.0,) * count
    curve, _, base = text.partition("+")
    part = [i / (count - 1) if count > 1 else 0.0 for i in range(count)]
    rising = {
        "sine": [math.sin(math.pi * one / 2) for one in part],
        "linear": part,
        "zeros": [0.0] * count,
    }
    curves = {**rising, "cosine": rising["sine"][::-1], "reverse_linear": part[::-1]}
    if curve in curves:
        try:
            return tuple(one + float(base or 0) for one in curves[curve])
        except ValueError:
            raise SpecError(KEY, f"{name}={text}: {base!r} is not a number.") from None
    numbers = _numbers(name, text)
    return (*numbers, *(1.0,) * count)[:count]


def _list(given: dict[str, str], name: str, count: int, default: float) -> tuple[float, ...]:
    if name not in given:
        return (float(default),) * count
    numbers = _numbers(name, given[name])
    if len(numbers) != count:
        raise SpecError(KEY, f"{name} must have {count} numbers for this base, not {len(numbers)}.")
    return numbers


def _numbers(name: str, text: str) -> tuple[float, ...]:
    try:
        return tuple(float(one) for one in text.split(","))
    except ValueError:
        raise SpecError(KEY, f"{name} must be numbers with commas between them, not {text!r}.") from None


def _number(given: dict[str, str], name: str, default: float) -> float:
    try:
        value = float(given[name]) if given.get(name) else default
    except ValueError:
        raise SpecError(KEY, f"{name} must be a number, not {given[name]!r}.") from None
    if not math.isfinite(value) or (value < 0 and name != "factor"):
        raise SpecError(KEY, f"{name} must be a finite number that is not negative.")
    return value


def _whole(given: dict[str, str], name: str, default: int) -> int:
    value = _number(given, name, default)
    if value != int(value):
        raise SpecError(KEY, f"{name} must be a whole number, not {given[name]!r}.")
    return int(value)


def _share(given: dict[str, str], name: str) -> float:
    text = given.get(name, "")
    value = 0.0 if text.lower() == "none" else _number(given, name, 0.0)
    if not 0 <= value < 1:
        raise SpecError(KEY, f"{name} must be at least 0 and less than 1.")
    return value


def _flag(given: dict[str, str], name: str, default: bool = False) -> bool:
    text = given.get(name, str(default)).lower()
    if text not in ("true", "false", "1", "0", "yes", "no", ""):
        raise SpecError(KEY, f"{name} must be True or False, not {given[name]!r}.")
    return text in ("true", "1", "yes")


def _wrong(name: str, why: str, value: str, known: tuple[str, ...]) -> SpecError:
    close = difflib.get_close_matches(value, known, n=1, cutoff=0.7)
    return SpecError(KEY, f"{name} {why}." if name != "algo" else f"{why}.", close[0] if close else "")


def block_of(sgm: str, module: str, sdxl: bool) -> int:
    """Number of the block that a layer of the UNet belongs to, as kohya counts them.

    Args:
        sgm: the layer's path in Stability's own code, ``input_blocks.4.1.proj_in``.
        module: its path in diffusers, ``down_blocks.1.attentions.0.proj_in``.
        sdxl: counted by the first; other bases by the second.
    """
    if sdxl:
        place, number, *_ = sgm.split(".")
        return {"input_blocks": 1, "middle_block": 10, "output_blocks": 13}[place] + int(number)
    place, number, *rest = module.split(".")
    side, _ = BLOCKS[False]
    if place == "mid_block":
        return side
    at = 3 * int(number) + (2 if rest[0] in ("upsamplers", "downsamplers") else int(rest[1]))
    return at + 1 if place == "down_blocks" else side + 1 + at
