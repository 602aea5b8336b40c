"""``python -m gpurent_engine``: ``train``, ``serve``, ``doctor``, ``lora``, ``grid``, ``bench``."""

from __future__ import annotations

import argparse
import os
import sys

from gpurent_engine import doctor


def main(arguments: list[str] | None = None) -> int:
    """Run one command; return its exit status."""
    given = sys.argv[1:] if arguments is None else arguments
    options = _parser(only_doctor=given[:1] == ["doctor"]).parse_args(given)
    # Nobody waits for these on a rented machine; a hub id that is not cached still downloads.
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    # Threads that spin at each barrier train four times as slowly where others use the processor too: rented machines
    # share theirs. Read by OpenMP when torch is loaded, which is later.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    status: int = options.run(options)
    return status


def _parser(*, only_doctor: bool) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="gpurent_engine", description="Train Stable Diffusion LoRAs.")
    added = parser.add_subparsers(required=True)
    if not only_doctor:  # each rented machine is asked for its packages first: that waits for no import of the engine
        from gpurent_engine import commands

        commands.add(added)
    doctor.add(added)
    return parser


if __name__ == "__main__":
    sys.exit(main())
