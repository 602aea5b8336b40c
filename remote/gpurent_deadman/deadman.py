"""Destroys the machine it runs on when time is up, no matter who else is alive. Standard library only."""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Sequence
from contextlib import suppress
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

AGENT = "gpurent-deadman/2"
YEAR = 31_536_000
RIGHT_S = 120.0
"""A clock that is off by less counts as right."""


class Switch:
    """When to end, in seconds of any steady clock.

    Three ends, the earliest counts: ``end``, which only an order moves and never beyond ``cap``; and ``hold`` seconds
    after the last sign of life, which is an order with a new nonce or a job at work.
    """

    def __init__(self, now: float, after: float, first: float, hold: float) -> None:
        self.cap = now + after
        self.end = now + min(after, first)
        self.hold = hold
        self.heard = now
        self.nonce = ""

    def obey(self, order: object, now: float) -> None:
        """Take a client's order: how many seconds are left, and for how long results are kept without it."""
        if not isinstance(order, dict):
            return
        nonce, seconds, hold = order.get("nonce"), order.get("seconds"), order.get("hold")
        if not isinstance(nonce, str) or not isinstance(seconds, int) or not isinstance(hold, int):
            return
        if nonce in ("", self.nonce):
            return
        self.nonce, self.heard, self.hold = nonce, now, max(0, min(hold, YEAR))
        self.end = min(self.cap, now + max(0, min(seconds, YEAR)))

    def left(self, now: float, busy: bool) -> float:
        """Seconds until the end."""
        if busy:
            self.heard = now
        return min(self.end, self.heard + self.hold) - now


def begin(options: argparse.Namespace, now: float, wall: float, shown: object) -> Switch:
    """The switch at a start of this program; ``shown`` is what an earlier one showed last: a restart never lengthens.

    ``--at`` counts from creation, and holds if this clock is right; ``--after`` counts from here, whatever it says.
    ``--first`` is an end that comes by so much earlier than ``--after``, by either count.
    """
    cap, end = wall + options.after, min(wall, options.at - options.after) + options.first
    if isinstance(shown, dict) and isinstance(shown.get("cap"), float) and isinstance(shown.get("end"), float):
        cap, end = min(cap, shown["cap"]), shown["end"]
    cap = min(cap, options.at)
    return Switch(now, max(0.0, cap - wall), max(0.0, end - wall), options.hold)


class Program:
    """The switch at work, turn after turn."""

    every = 1.0
    """Most seconds between two looks for an order."""
    patience = 30.0
    """Most seconds for an answer."""

    def __init__(self, options: argparse.Namespace, now: float, wall: float) -> None:
        self.options = options
        self.switch = begin(options, now, wall, self.read("alive.json"))
        self.pause = 1.0
        self.over = False

    def turn(self, now: float, wall: float) -> float:
        """Do what is due now; return for how many seconds nothing is."""
        if not self.over:
            switch = self.switch
            switch.obey(self.read("order.json"), now)
            left = switch.left(now, self.busy())
            self.show(
                {
                    "pid": os.getpid(),
                    "left": round(left, 1),
                    "ends": round(switch.end - now, 1),
                    "nonce": switch.nonce,
                    "armed": armed(self.options),
                    "cap": switch.cap - now + wall,
                    "end": switch.end - now + wall,
                }
            )
            if left > 0:
                return min(left, self.every)
            self.over = True
        self.pause = 30.0 if self.destroy() else min(60.0, self.pause * 2)
        return self.pause

    def read(self, name: str) -> object:
        """What a file holds; None for one that is missing, damaged or not ours."""
        try:
            with Path(name).open("rb") as file:
                return json.loads(file.read(4096))
        except (OSError, ValueError, RecursionError):
            return None

    def show(self, state: dict[str, object]) -> None:
        """Tell the client how things stand; a full disk must not end us."""
        try:
            Path("alive.part").write_text(json.dumps(state))
            Path("alive.part").replace("alive.json")
        except OSError as error:
            complain(error)

    def busy(self) -> bool:
        """Whether a job of ours is at work."""
        for pid in self.options.jobs.glob("*/pid"):
            try:
                os.kill(int(pid.read_text()), 0)
            except (OSError, ValueError, OverflowError):
                continue
            if not (pid.parent / "status").exists():
                return True
        return False

    def destroy(self) -> bool:
        """Ask the provider for our end."""
        return within(self.patience, lambda: destroy(self.options)) is True


def within(patience: float, ask: Callable[[], float]) -> float | None:
    """An answer. One that trickles, or a name that nobody looks up, is not waited for."""
    found: list[float] = []
    asking = threading.Thread(target=lambda: found.append(ask()), daemon=True)
    asking.start()
    asking.join(patience)
    return found[0] if found else None


def complain(error: Exception) -> None:
    """Leave a word in the log, if that can be written: the disk may be full. What errors say may hold the key."""
    with suppress(OSError, ValueError):
        print(type(error).__name__, getattr(error, "code", ""), file=sys.stderr, flush=True)


def steady() -> float:
    """Seconds that also pass while the machine is suspended."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


def environment(init: str) -> dict[str, str]:
    """Our variables; those of process 1 (where services put the instance's own key) fill the gaps."""
    try:
        pairs = Path(init).read_bytes().decode(errors="replace").split("\0")
    except OSError:
        pairs = []
    return {**dict(pair.split("=", 1) for pair in pairs if "=" in pair), **os.environ}


def fill(template: str, values: dict[str, str]) -> str:
    """Replace every {NAME}; raises KeyError for one that is not set."""
    return re.sub(r"\{([A-Z0-9_]+)\}", lambda match: values[match[1]], template)


def request(options: argparse.Namespace) -> urllib.request.Request:
    """What ends us; raises KeyError when a variable is missing."""
    values = environment(options.init)
    url, data = fill(options.url, values), options.body.encode() or None
    made = urllib.request.Request(url, data, method=options.method)  # noqa: S310 - the URL is our own adapter's
    for header in ["User-Agent=" + AGENT, *options.header]:
        name, value = header.split("=", 1)
        made.add_header(name, fill(value, values))
    return made


def ahead(options: argparse.Namespace) -> float:
    """By how many seconds this machine's clock is ahead of the service's; 0 if the service does not tell the time."""
    try:
        made = request(options)
        asked = urllib.request.Request(f"{made.type}://{made.host}/", headers={"User-Agent": AGENT})  # noqa: S310
        reply: Any
        try:
            reply = urllib.request.urlopen(asked, timeout=20)  # noqa: S310 - the URL is our own adapter's
        except OSError as error:
            reply = error  # one that is an answer of HTTP tells the time all the same
        seconds = time.time() - parsedate_to_datetime(reply.headers["Date"]).timestamp()
        return seconds if seconds > RIGHT_S else 0.0
    except Exception as error:  # noqa: BLE001 - whatever comes, the switch goes on without it
        complain(error)
        return 0.0


def destroy(options: argparse.Namespace, send: Callable[..., Any] = urllib.request.urlopen) -> bool:  # noqa: S310
    """Ask the provider for our end; True when it accepted."""
    try:
        with send(request(options), timeout=20) as reply:
            return bool(reply.status < 300)
    except Exception as error:  # noqa: BLE001 - an answer that nobody foresaw must not end the switch before the machine
        complain(error)
        return False


def armed(options: argparse.Namespace) -> bool:
    """Whether everything that the request needs is there."""
    try:
        request(options)
    except (ValueError, KeyError):
        return False
    return True


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """What the start-up script says."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--after", type=float, required=True)
    parser.add_argument("--at", type=float, default=float("inf"))
    parser.add_argument("--first", type=float, default=float("inf"))
    parser.add_argument("--hold", type=float, default=float("inf"))
    parser.add_argument("--method", default="DELETE")
    parser.add_argument("--url", required=True)
    parser.add_argument("--header", action="append", default=[])
    parser.add_argument("--body", default="")
    parser.add_argument("--init", default="/proc/1/environ")
    parser.add_argument("--jobs", type=Path, default=Path("../jobs"))
    return parser.parse_args(arguments)


def main() -> None:
    """Wait, answering every order; then destroy until this process is destroyed itself."""
    options = parse()
    # Up at once: the container was started again too late, or the host's clock is hours ahead. The service, which has
    # to answer anyway before anything can end, knows the time.
    if begin(options, 0.0, time.time(), None).left(0.0, busy=False) <= 0:
        options.at += within(30, lambda: ahead(options)) or 0.0
    program = Program(options, steady(), time.time())
    while True:
        time.sleep(program.turn(steady(), time.time()))


if __name__ == "__main__":
    main()
