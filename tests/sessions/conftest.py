"""As for batches: a sandbox whose engine learns nothing, and jobs that share a dataset and a base model."""

from __future__ import annotations

from tests.batch.conftest import cli, ground, sandbox

__all__ = ["cli", "ground", "sandbox"]
