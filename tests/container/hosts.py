"""Sandbox machines as containers with a real OpenSSH server: what a session sees there is what OpenSSH gives it.

A machine's file system is this computer's own, read through an overlay from which every Python and compiler was taken
away; what an image brings is laid over it. Its processes have a PID namespace of their own, so that process 1 is the
image's first process, whose environment holds the image's ``ENV``.
"""

from __future__ import annotations

import asyncio
import shlex
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

from gpurent_sandbox.furnish import SIMULATED
from gpurent_sandbox.hosts import STARTUP_LOG, Host, Hosts

SSHD = shutil.which("sshd", path="/usr/sbin:/usr/bin") or ""
BROUGHT = ("opt", "venv", "workspace", "sys", "etc/gpu.json", "usr/local/bin", "usr/bin", SIMULATED, "usr/lib")
"""What ``furnish`` lays below a machine's root, as far as an image brings it."""
CONFIG = """\
Port {port}
ListenAddress 127.0.0.1
HostKey /etc/ssh/ssh_host_ed25519_key
PidFile /run/sshd.pid
PasswordAuthentication no
UsePAM no
Subsystem sftp internal-sftp
"""
BUILD = """\
set -e
mount -t tmpfs none {mount}
mkdir {mount}/up {mount}/work {mount}/root
mount -t overlay none -o lowerdir=/,upperdir={mount}/up,workdir={mount}/work {mount}/root
cd {mount}/root
for d in usr/bin usr/local/bin usr/sbin; do
  for p in python pip apt conda gcc g++ cc c++ cpp make nvcc nvidia-smi; do
    for f in $d/$p $d/$p[0-9.-]*; do if [ "/$f" != {python} ]; then rm -rf "$f"; fi; done
  done
done
for d in root tmp run home mnt {hidden}; do mkdir -p $d; mount -t tmpfs none $d; done
mount --bind /dev dev
mount -t proc none proc
for d in {visible}; do
  mkdir -p .$d
  mount --bind $d .$d
done
mount --bind {root}/root root
for d in {under_root}; do mkdir -p .$d; mount --bind $d .$d; done
rm -f etc/ssh/ssh_host_* etc/environment
mkdir -p run/sshd
for p in {brought}; do
  if [ -e {root}/$p ]; then mkdir -p $(dirname $p); cp -a {root}/$p $(dirname $p)/; fi
done
cat > etc/ssh/sshd_config
cp {root}/var/startup.sh run/startup.sh
exec env -i {environment} chroot . /bin/sh -c '
  cd /root; sh /run/startup.sh > {log} 2>&1; echo "[startup ended with status $?]" >> {log}; exec {sshd} -D -e 2>> {log}
'
"""


@cache
def why_not() -> str:
    """Why no container can be made here; empty where it can."""
    if not SSHD:
        return "OpenSSH's server is missing: apt-get install openssh-server"
    with tempfile.TemporaryDirectory() as folder:
        script = (
            f"mount -t tmpfs none {folder} && cd {folder} && mkdir up work root && "
            "mount -t overlay none -o lowerdir=/,upperdir=up,workdir=work root && chroot root /bin/true"
        )
        try:
            ended = subprocess.run(_isolated(script), capture_output=True, text=True, check=False)
        except FileNotFoundError as error:
            return str(error)
    return "" if ended.returncode == 0 else f"no container can be made here: {ended.stderr.strip()}"


def _isolated(script: str) -> list[str]:
    return ["unshare", "--mount", "--pid", "--fork", "--kill-child", "/bin/sh", "-c", script]


class ContainedHosts(Hosts):
    """Hosts whose start-up script and SSH server run in a container."""

    async def _boot(self, host: Host) -> None:
        """Begin the container; the port answers when its start-up script is through."""
        root = host.root
        port = host.port
        host.reserved.close()
        (root / "mount").mkdir()
        given = self._environment(host.held, root)
        marks = {name: given[name] for name in ("GPURENT_ROOT", "GPURENT_SANDBOX_HOST")}
        script = self._script(host, {name: text for name, text in given.items() if name not in marks})
        with (root / "var/container.log").open("wb") as log:
            process = await asyncio.create_subprocess_exec(
                *_isolated(script), stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.DEVNULL, stderr=log,
                env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", **marks}, start_new_session=True,
            )  # fmt: skip
        assert process.stdin is not None
        process.stdin.write(CONFIG.format(port=port).encode())
        process.stdin.close()
        host.sshd_since = self._callbacks.now()

    def _script(self, host: Host, environment: dict[str, str]) -> str:
        root = host.root
        path = [one.removeprefix(str(root)) for one in environment["PATH"].split(":") if one.startswith(f"{root}/")]
        environment |= {"PATH": ":".join([*path, "/sbin", "/bin"]), "HOME": "/root", "TMPDIR": "/tmp"}
        program = [Path(word).parent for word in self._engine if word.startswith("/") and Path(word).exists()]
        orders = [Path(word).parent for word in self._engine if word.endswith(".json")]
        wanted = dict.fromkeys(map(str, (root, sys.prefix, sys.base_prefix, *program, *orders)))
        hidden = {f"{Path(one).parts[1]}" for one in wanted} - {"root", "tmp", "home", "usr", "opt", "mnt"}
        return BUILD.format(
            mount=root / "mount", root=root, python=shlex.quote(str(Path(sys.executable).resolve())),
            hidden=shlex.join(sorted(hidden)),
            visible=shlex.join(one for one in wanted if not one.startswith("/root/")),
            under_root=shlex.join(one for one in wanted if one.startswith("/root/")),
            brought=shlex.join(BROUGHT), sshd=SSHD, log=f"{root}/{STARTUP_LOG}",
            environment=shlex.join(f"{name}={text}" for name, text in environment.items()),
        )  # fmt: skip

    async def _listen(self, host: Host, environment: object) -> None:
        raise AssertionError("the container has a server of its own")
