"""Compile every kernel for GPUs, without one. ``python -m tests.step.kernel_builds 80 120`` prints a line for each."""

from __future__ import annotations

import json
import sys
from typing import Any

import triton as typed_triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from gpurent_engine.step.kernels import adamw, layernorm, pointwise
from gpurent_engine.step.kernels import groupnorm_programs as programs

triton: Any = typed_triton
HALF, SINGLE, COUNT = "*bf16", "*fp32", "i32"
FLOATS = ("eps", "beta1", "beta2", "decay")
SINGLES = (
    "scale", "offset", "first", "second", "mean", "rstd", "sums", "dshift", "constant", "slope", "masters", "rates",
    "factors", "skip", "corrections",
)  # fmt: skip
UNALIGNED = ("HW", "ROWS_EACH", "PARTS", "CG", "T", "GROUPS", *FLOATS)
ALL: tuple[tuple[Any, dict[str, Any], bool], ...] = (
    (programs.channel_sums, {"BACKWARD": False, "ACT": False, "BR": 32, "BC": 128}, True),
    (programs.channel_sums, {"BACKWARD": True, "ACT": True, "BR": 32, "BC": 128}, True),
    (programs.coefficients, {"SHIFTED": True, "SUMS": True, "BP": 16, "BG": 64}, False),
    (programs.gradient_coefficients, {"SHIFTED": True, "SUMS": True, "BP": 16, "BG": 64}, False),
    (programs.apply, {"ACT": True, "BR": 32, "BC": 128}, True),
    (programs.apply_gradient, {"ACT": True, "PASS1": True, "PASS2": True, "BR": 32, "BC": 128}, True),
    (layernorm._forward, {"ADD": True, "BC": 2048}, True),
    (layernorm._backward, {"RESIDUAL": True, "BC": 2048}, True),
    (pointwise._geglu, {"BR": 8, "BC": 256}, True),
    (pointwise._geglu_gradient, {"BR": 8, "BC": 256}, True),
    (pointwise._add, {"BIAS": True, "BR": 8, "BC": 256}, True),
    (pointwise._pack3, {"BR": 8, "BC": 256}, True),
    (adamw._adamw, {"FIELDS": 7, "BLOCK": 2048, "HALF": 1, "ALIGNED": True}, True),
)
"""Kernel, constants, and whether it streams tensors through."""


def kind(kernel: str, name: str) -> str:
    if name == "table":
        return "*i64"
    if name in FLOATS:
        return "fp32"
    if name in SINGLES and not (kernel == "_forward" and name == "scale"):
        return SINGLE
    return COUNT if name.isupper() or name in ("C1", "C2") else HALF


def build(function: Any, constants: dict[str, Any], target: int) -> Any:
    names = function.arg_names
    signature = {name: "constexpr" if name in constants else kind(function.__name__, name) for name in names}
    values = {(names.index(name),): value for name, value in constants.items()}
    aligned = {(i,): [["tt.divisibility", 16]] for i, name in enumerate(names) if name not in (*constants, *UNALIGNED)}
    return triton.compile(ASTSource(function, signature, values, aligned), target=GPUTarget("cuda", target, 32))


if __name__ == "__main__":
    for target in map(int, sys.argv[1:]):
        for function, constants, streams in ALL:
            built = build(function, constants, target)
            wide = ".v4." in built.asm["ptx"]
            found = {"kernel": function.__name__, "target": target, "bytes": len(built.asm["cubin"]), "wide": wide}
            print(json.dumps({**found, "streams": streams}), flush=True)
