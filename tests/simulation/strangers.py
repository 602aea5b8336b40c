"""Machines of others that listings show beside ours, or under the number of one of ours that ended."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.simulation.clock import VirtualClock
from tests.simulation.schedule import Schedule

from gpurent_sandbox.market import Market

if TYPE_CHECKING:
    from gpurent_sandbox.held import Held

REUSED_AFTER_S = 120.0
"""No number is given away sooner: an order that is repeated because its answer was lost has to hit nobody."""
FRESH_S = 100.0
"""From the answer that says whose a number is to the last repetition of the order that follows it: the number may be
given away meanwhile."""
TURN_S = 60.0
"""Strangers come and go this often."""
PATH = "/v1/instances"
INSTANCES = f"{PATH}/"


Answer = tuple[int, Sequence[tuple[bytes, bytes]], bytes]
"""Status, headers and body."""
JSON = ((b"content-type", b"application/json"),)


@dataclass(frozen=True)
class Stranger:
    """One machine that is not ours."""

    ref: str
    label: str
    created_at: float

    def shown(self) -> dict[str, object]:
        """As its owner sees it, who shares the account with us."""
        price = {"gpu_hour": "1.000000", "disk_gb_month": "0.000000", "in_gb": "0.000000", "out_gb": "0.000000"}
        return {
            "id": self.ref, "label": self.label, "state": "running", "machine_id": "m99", "gpu": "RTX 4090",
            "image": "", "disk_gb": 10, "price": price, "created_at": self.created_at, "ssh": None, "message": "",
        }  # fmt: skip


@dataclass(frozen=True)
class Sight:
    """What a process can know of whose a number is. Who has not looked may not give the order."""

    looked_at: Sequence[float]
    """When it was answered, lately: by a listing, or about an instance."""
    woke: bool = False
    """It was stopped when it was about to send, and sends now."""

    def could_know(self, stranger: Stranger, now: float) -> bool:
        """Whether a look showed it the stranger's machine, or would have, had it looked."""
        right_before = any(now - FRESH_S < looked < stranger.created_at for looked in self.looked_at)
        return not self.woke and not right_before


class Strangers:
    """All of them. Nobody of ours may end one."""

    def __init__(
        self, plan: Schedule, clock: VirtualClock, market: Market, lies: list[str], struck: Counter[str]
    ) -> None:
        self._plan, self._clock, self._market, self._lies, self._struck = plan, clock, market, lies, struck
        self._began = clock.now()
        self.active = bool(plan.strangers) or plan.reused

    def present(self) -> list[Stranger]:
        """Those that a listing shows now."""
        now = self._clock.now()
        turn = int((now - self._began) // TURN_S)
        rng = random.Random(self._plan.seed * 1_000_003 + turn)
        own = [
            Stranger(f"s-{number}", f"gpurent-20200101-000000-far{number}-1", self._began - 1000.0 * number)
            for number in range(self._plan.strangers)
            if rng.random() < 0.7
        ]
        return own + [one for held in self._market.history("sandbox") if (one := self._reused(held)) is not None]

    def _reused(self, held: Held) -> Stranger | None:
        """The machine that has the number of ``held`` by now."""
        given = None if held.ended_at is None else held.ended_at + REUSED_AFTER_S
        if not self._plan.reused or given is None or not held.gone or self._clock.now() < given:
            return None
        return Stranger(held.id, "my-notebook", given)

    def among(self, answer: Answer) -> Answer:
        """The last page of a listing with them on it."""
        if not self.active:
            return answer
        status, headers, body = answer
        if not body.startswith(b"{"):
            return answer  # garbage
        value = json.loads(body)
        present = self.present() if value["next_cursor"] is None else []
        if present:
            self._struck["strangers' machines are listed"] += bool(self._plan.strangers)
            self._struck["a number was given away"] += any(one.label == "my-notebook" for one in present)
            value["instances"] += [one.shown() for one in present]
        return status, _sized(headers), json.dumps(value).encode()

    def took(self, method: str, path: str, sight: Sight) -> Answer | None:
        """What becomes of a request for one of theirs; None where it is for one of ours."""
        if not self.active or not path.startswith(INSTANCES):
            return None
        ref = path.removeprefix(INSTANCES)
        found = next((one for one in self.present() if one.ref == ref), None)
        if found is None:
            return None
        if method == "DELETE" and not sight.could_know(found, self._clock.now()):
            self._struck["an order to a number of which nobody could tell whose it was"] += 1
        elif method == "DELETE":
            self._lies.append(f"an order to destroy the stranger's machine {ref} ({found.label}) was sent")
        if method == "DELETE":
            return 202, JSON, b'{"accepted": true}'
        return 200, JSON, json.dumps({"instance": found.shown()}).encode()


def _sized(headers: Sequence[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """Without the length of the body that was replaced."""
    return [pair for pair in headers if pair[0] != b"content-length"]
