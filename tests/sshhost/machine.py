"""A real OpenSSH server on loopback, with a home of its own and troubles to order."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from getpass import getuser
from pathlib import Path

import pytest

SSHD = shutil.which("sshd", path="/usr/sbin:/usr/bin") or ""
SFTP = shutil.which("sftp-server", path="/usr/lib/openssh:/usr/libexec/openssh:/usr/lib/ssh") or ""

GPU = "NVIDIA GeForce RTX 3090, 24576 MiB, 570.86\n"
"""What its nvidia-smi says: no machine of the tests has a GPU."""
ROOMY_KB = 200 * 1024**2
"""Free disk that its df tells, however full the disk of these tests is."""

_CONFIG = """\
Port {port}
ListenAddress 127.0.0.1
HostKey {folder}/host_key
PidFile {folder}/sshd.pid
UsePAM no
StrictModes no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
AuthorizedKeysFile {home}/.ssh/authorized_keys
Subsystem sftp {sftp} -d {home}
ForceCommand {folder}/enter
"""
# Every login lands here: the account's own home is never touched, and a trouble strikes the next command.
_ENTER = """\
#!/bin/sh
cd {home} || exit 1
export HOME={home} PATH={path} OMP_NUM_THREADS=1
echo >> {folder}/logins
trouble=$(head -n 1 {folder}/trouble 2> /dev/null); sed -i 1d {folder}/trouble 2> /dev/null
case "$trouble" in
  garbage) echo "Welcome to the cluster"; exit 0 ;;
  error) echo "no space left" >&2; exit 1 ;;
  hang) exec sleep 20 ;;
  last) sh -c "$SSH_ORIGINAL_COMMAND"; kill "$(cat {folder}/sshd.pid)"
    while [ -e {folder}/sshd.pid ]; do sleep 0.05; done; exit 0 ;; # its pid file goes after its port
  linger) echo "gpurent-host 1"; exec sleep 30 > /dev/null 2>&1 < /dev/null ;;
  cut) kill -9 $PPID; exit 0 ;;
  error-after) sh -c "$SSH_ORIGINAL_COMMAND" > /dev/null; exit 1 ;;
  cut-after) sh -c "$SSH_ORIGINAL_COMMAND" > /dev/null; kill -9 $PPID; exit 0 ;;
esac
exec sh -c "$SSH_ORIGINAL_COMMAND"
"""


@dataclass(frozen=True)
class Machine:
    """Where it answers, and what it keeps."""

    folder: Path
    port: int
    key: Path
    """The user's private key that it admits."""

    @property
    def home(self) -> Path:
        return self.folder / "home"

    @property
    def host_key(self) -> str:
        return " ".join((self.folder / "host_key.pub").read_text(encoding="utf-8").split()[:2])

    @property
    def logins(self) -> int:
        path = self.folder / "logins"
        return len(path.read_text(encoding="utf-8").splitlines()) if path.exists() else 0

    def order(self, *troubles: str) -> None:
        """Let the next commands meet trouble, one each: none, or a case of the script above."""
        (self.folder / "trouble").write_text("".join(f"{one}\n" for one in troubles), encoding="utf-8")

    def lease(self) -> str:
        path = self.home / ".gpurent" / "lease"
        return path.read_text(encoding="utf-8").split()[0] if path.exists() else ""

    def entry(self, **more: object) -> dict[str, object]:
        return {"address": "127.0.0.1", "port": self.port, "user": getuser(), "key": str(self.key),
                "gpu": "RTX 3090", "vram_gb": 24, "host_key": self.host_key, **more}  # fmt: skip


def keygen(path: Path) -> None:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)], check=True)


@contextmanager
def machine(folder: Path) -> Iterator[Machine]:
    """Start one. Without OpenSSH's server, which ``.ci/run`` installs, the test is skipped."""
    if not (SSHD and SFTP):
        pytest.skip("OpenSSH's server is missing: apt-get install openssh-server")
    home = folder / "home"
    (home / ".ssh").mkdir(parents=True)
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)
    for name in ("host_key", "user_key"):
        keygen(folder / name)
    (home / ".ssh" / "authorized_keys").write_text((folder / "user_key.pub").read_text().rstrip("\n"), encoding="utf-8")
    tools = folder / "tools"
    tools.mkdir()
    df = f'#!/bin/sh\necho "Filesystem 1024-blocks Used Available"; echo "disk 0 0 $(cat {folder}/free_kb)"\n'
    for name, script in {"nvidia-smi": f"#!/bin/sh\ncat {folder}/gpus 2> /dev/null\n", "df": df}.items():
        (tools / name).write_text(script, encoding="utf-8")
        (tools / name).chmod(0o755)
    (folder / "gpus").write_text(GPU, encoding="utf-8")
    (folder / "free_kb").write_text(f"{ROOMY_KB}\n", encoding="utf-8")
    path = f"{tools}:{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin"
    (folder / "enter").write_text(_ENTER.format(folder=folder, home=home, path=path), encoding="utf-8")
    (folder / "enter").chmod(0o755)
    server, port = _serve(folder)
    try:
        yield Machine(folder, port, folder / "user_key")
    finally:
        server.terminate()
        server.wait()


def _serve(folder: Path) -> tuple[subprocess.Popen[bytes], int]:
    """Start sshd at a free port; if somebody else takes it meanwhile, at another one."""
    until = time.monotonic() + 30
    config, log = folder / "sshd_config", folder / "sshd.log"
    while True:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = int(free.getsockname()[1])
        config.write_text(_CONFIG.format(folder=folder, home=folder / "home", port=port, sftp=SFTP), encoding="utf-8")
        with log.open("wb") as told:
            server = subprocess.Popen([SSHD, "-D", "-e", "-f", str(config)], stderr=told)
        while server.poll() is None:
            if (folder / "sshd.pid").exists():  # written once it listens
                return server, port
            assert time.monotonic() < until, log.read_text(encoding="utf-8")
            time.sleep(0.05)
        assert time.monotonic() < until, log.read_text(encoding="utf-8")
