"""Replies of Vast.ai as they were published, and offers made from them."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

DATA = Path(__file__).parent / "data"
REPLIES: dict[str, Any] = json.loads((DATA / "replies.json").read_text(encoding="utf-8"))


def row(number: int = 0, /, **changes: object) -> dict[str, Any]:
    """A known offer with other fields."""
    known: dict[str, Any] = copy.deepcopy(REPLIES["offers"]["offers"][number])
    return known | changes
