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


def environment(init: str) -> dict[str, str]:
    """Our variables; those of process 1 (where services put the instance's own key) fill the gaps."""
    try:
        pairs = Path(init).read_bytes().decode(errors="replace").split("\0")
    except OSError:
        pairs = []
    return {**dict(pair.split("=", 1) for pair in pairs if "=" in pair), **os.environ}


def fill(template: str, values: dict[str, str]) -> str:
    """Replace every {NAME}."""
    return re.sub(r"\{([A-Z0-9_]+)\}", lambda match: values.get(match[1], ""), template)


def destroy(options: argparse.Namespace) -> bool:
    """Ask the provider for our end; True when it accepted."""
    values = environment(options.init)
    data = options.body.encode() or None
    request = urllib.request.Request(fill(options.url, values), data, method=options.method)  # noqa: S310
    for header in options.header:
        name, value = header.split("=", 1)
        request.add_header(name, fill(value, values))
    request.add_header("User-Agent", "gpurent-deadman/1")
    try:
        with urllib.request.urlopen(request, timeout=20) as reply:  # noqa: S310 - the URL is our own adapter's
            return bool(reply.status < 300)
    except (OSError, ValueError) as error:
        print(type(error).__name__, getattr(error, "code", ""), file=sys.stderr, flush=True)
        return False


def main() -> None:
    """Wait, then destroy until this process is destroyed itself."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--after", type=float, required=True)
    parser.add_argument("--method", default="DELETE")
    parser.add_argument("--url", required=True)
    parser.add_argument("--header", action="append", default=[])
    parser.add_argument("--body", default="")
    parser.add_argument("--init", default="/proc/1/environ")
    options = parser.parse_args()
    end = time.monotonic() + options.after
    while (left := end - time.monotonic()) > 0:
        Path("alive.part").write_text(json.dumps({"pid": os.getpid(), "seconds_left": round(left, 1)}))
        Path("alive.part").replace("alive.json")
        time.sleep(min(left, 5.0))
    pause = 1.0
    while True:
        pause = 30.0 if destroy(options) else min(60.0, pause * 2)
        time.sleep(pause)


if __name__ == "__main__":
    main()
