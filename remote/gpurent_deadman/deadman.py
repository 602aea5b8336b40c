"""Destroys the machine it runs on when time is up, whoever else is alive. Standard library only."""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import time
import urllib.request
from pathlib import Path


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
        nonce, seconds, hold = str(order.get("nonce", "")), order.get("seconds"), order.get("hold")
        if not nonce or nonce == self.nonce or not isinstance(seconds, int) or not isinstance(hold, int):
            return
        self.nonce, self.heard, self.hold = nonce, now, hold
        self.end = min(self.cap, now + seconds)

    def left(self, now: float, busy: bool) -> float:
        """Seconds until the end."""
        if busy:
            self.heard = now
        return min(self.end, self.heard + self.hold) - now


def steady() -> float:
    """Seconds that also pass while the machine is suspended."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


def busy(jobs: Path) -> bool:
    """Whether a job of ours is at work."""
    for pid in jobs.glob("*/pid"):
        try:
            os.kill(int(pid.read_text()), 0)
        except (OSError, ValueError):
            continue
        if not (pid.parent / "status").exists():
            return True
    return False


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
    for header in ["User-Agent=gpurent-deadman/2", *options.header]:
        name, value = header.split("=", 1)
        made.add_header(name, fill(value, values))
    return made


def destroy(options: argparse.Namespace) -> bool:
    """Ask the provider for our end; True when it accepted."""
    try:
        with urllib.request.urlopen(request(options), timeout=20) as reply:  # noqa: S310
            return bool(reply.status < 300)
    except Exception as error:  # noqa: BLE001 - an answer that nobody foresaw must not end the switch before the machine
        print(type(error).__name__, getattr(error, "code", ""), file=sys.stderr, flush=True)
        return False


def armed(options: argparse.Namespace) -> bool:
    """Whether everything that the request needs is there."""
    try:
        request(options)
    except (ValueError, KeyError):
        return False
    return True


def order() -> object:
    """What the client wrote last."""
    try:
        return json.loads(Path("order.json").read_bytes())
    except (OSError, ValueError):
        return None


def show(state: dict[str, object]) -> None:
    """Tell the client how things stand; a full disk must not end us."""
    try:
        Path("alive.part").write_text(json.dumps(state))
        Path("alive.part").replace("alive.json")
    except OSError as error:
        print(type(error).__name__, file=sys.stderr, flush=True)


def main() -> None:
    """Wait, answering every order; then destroy until this process is destroyed itself."""
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
    options = parser.parse_args()
    first = min(options.first, max(0.0, options.at - time.time()))
    switch = Switch(steady(), options.after, first, options.hold)
    while True:
        switch.obey(order(), steady())
        left = switch.left(steady(), busy(options.jobs))
        show({"pid": os.getpid(), "left": round(left, 1), "nonce": switch.nonce, "armed": armed(options)})
        if left <= 0:
            break
        time.sleep(min(left, 1.0))
    pause = 1.0
    while True:
        pause = 30.0 if destroy(options) else min(60.0, pause * 2)
        time.sleep(pause)


if __name__ == "__main__":
    main()
