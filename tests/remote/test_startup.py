"""The script that a rented machine runs before SSH answers."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from gpurent.model import Fuse, SelfDestruct
from gpurent_remote import SshConnector
from gpurent_remote.startup import MAX_BYTES, script

ORDER = SelfDestruct(
    "DELETE",
    "https://console.example.ai/api/v0/instances/{CONTAINER_ID}/",
    (("Authorization", "Bearer {CONTAINER_API_KEY}"),),
)

FUSE = Fuse(after_s=86_400, at=1_900_000_000, first_s=43_200, hold_s=1800)


@pytest.mark.parametrize("shell", ["dash", "bash"])
def test_it_makes_the_machine_answer_with_our_keys(tmp_path: Path, shell: str) -> None:
    """Host key, authorized key and modes are as sshd wants them; a second run does no harm."""
    identity = SshConnector().new_identity(tmp_path / "keys")
    root = tmp_path / "root"
    program = shutil.which(shell)
    assert program is not None
    for _ in range(2):
        subprocess.run(
            [program, "-eu"],
            input=script(identity, None, FUSE),
            text=True,
            check=True,
            env={"PATH": "/usr/bin:/bin", "GPURENT_ROOT": str(root)},
        )
    key = root / "etc/ssh/ssh_host_ed25519_key"
    assert key.read_text().strip() == identity.host_private_key.strip()
    assert key.stat().st_mode & 0o777 == 0o600
    assert identity.public_key in (root / "root/.ssh/authorized_keys").read_text()
    assert (root / "root/.ssh").stat().st_mode & 0o777 == 0o700


def test_it_fits_the_tightest_service_and_holds_no_key_of_ours(tmp_path: Path) -> None:
    """Under 4096 bytes with a dead-man switch; the client's private key stays at home."""
    identity = SshConnector().new_identity(tmp_path)
    text = script(identity, ORDER, FUSE)
    assert len(text.encode()) < MAX_BYTES
    assert identity.private_key.read_text().splitlines()[2] not in text
    assert "{CONTAINER_API_KEY}" in text


def test_one_that_would_not_fit_is_refused_before_it_is_sent(tmp_path: Path) -> None:
    """Services cut longer scripts silently, and half a script is not a dead-man switch."""
    long = SelfDestruct("DELETE", "https://example.ai/" + "x" * 4000, ())
    with pytest.raises(ValueError, match="more than 4096"):
        script(SshConnector().new_identity(tmp_path), long, FUSE)


def test_a_container_that_starts_again_forgets_the_orders_of_before(tmp_path: Path) -> None:
    """What a client ordered before the restart is stale: its seconds counted from another moment."""
    root = tmp_path / "root"
    folder = root / "root/.gpurent/deadman"
    folder.mkdir(parents=True)
    (folder / "order.json").write_text('{"nonce": "stale", "seconds": 80000, "hold": 80000}')
    identity = SshConnector().new_identity(tmp_path / "keys")
    subprocess.run(
        ["sh", "-eu"],
        input=script(identity, ORDER, FUSE),
        text=True,
        check=True,
        env={"PATH": os.environ["PATH"], "GPURENT_ROOT": str(root)},
    )
    assert not (folder / "order.json").exists()
    until = time.monotonic() + 20
    while not (folder / "alive.json").exists():
        assert time.monotonic() < until
        time.sleep(0.02)
    state = json.loads((folder / "alive.json").read_text())
    os.kill(state["pid"], signal.SIGKILL)
    assert state["nonce"] == "" and state["left"] <= FUSE.hold_s
