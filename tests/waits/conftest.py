"""The command line and sandbox of the session tests."""

from __future__ import annotations

from tests.session.conftest import cli, sandbox

__all__ = ["cli", "sandbox"]
