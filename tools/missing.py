"""Say which tests this computer cannot run, and what would make it able to: ``python -m tools.missing``."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

OLDEST_NODE = 20
POSTGRESQL = Path("/usr/lib/postgresql")  # Debian keeps the server's programs out of PATH


def missing() -> Iterator[tuple[str, str]]:
    """What is not tested here, and how to change that."""
    if not (shutil.which("npm") and _node() >= OLDEST_NODE):
        yield "RunPod's own client", f"node {OLDEST_NODE} or newer, with npm: https://nodejs.org/en/download"
    if not shutil.which("sshd", path=f"/usr/sbin:{os.environ.get('PATH', '')}"):
        yield "machines of your own, and hosts with OpenSSH's server", "apt-get install openssh-server"
    elif os.geteuid() != 0:
        yield "hosts in containers, and disks that are full", "run as root, on a kernel that mounts overlays"
    if not (shutil.which("initdb") or any(POSTGRESQL.glob("*/bin/initdb"))):
        yield "ledgers on PostgreSQL", "apt-get install postgresql"
    elif importlib.util.find_spec("psycopg") is None:
        yield "ledgers on PostgreSQL", ".venv/bin/pip install --editable '.[postgres]'"
    if not Path(".venv-oldest/.ready").exists():
        yield "the oldest packages that the engine runs on", "make oldest"


def _node() -> int:
    """Major version; 0 where there is none."""
    if shutil.which("node") is None:
        return 0
    said = subprocess.run(["node", "--version"], capture_output=True, text=True, check=False, timeout=30).stdout
    found = re.match(r"v(\d+)", said)
    return int(found[1]) if found else 0


def main() -> None:
    found = list(missing())
    if found:
        print("Not tested on this computer:")
    for what, remedy in found:
        print(f"  {what}. To test it: {remedy}")
    if found:
        print("`.ci/run` installs all of it on Debian, and lets no test be skipped.", flush=True)


if __name__ == "__main__":
    main()
