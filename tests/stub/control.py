"""What a test orders of the stub engine on its hosts."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path

from tests.stub.engine import Orders

SCRIPT = Path(__file__).parent / "engine.py"


class StubEngine:
    """The stub engine of one sandbox: ``Sandbox(engine=stub.command)``."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "engine-orders.json"

    @property
    def command(self) -> list[str]:
        """What hosts run in place of the real one; -I and -S keep every installed package out."""
        return [sys.executable, "-I", "-S", str(SCRIPT), "--orders", str(self._path)]

    def order(self, orders: Orders) -> None:
        """From now on, for the training that runs and for all that follow."""
        part = self._path.with_suffix(".part")
        part.write_text(json.dumps(asdict(orders)), encoding="utf-8")
        part.replace(self._path)
