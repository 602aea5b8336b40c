"""The rented machines: each is a folder, a start-up script and a real SSH server on loopback.

Runs on the event loop of ``server.py``. What a host runs are real processes of this computer, with an environment
of their own; they are not confined, so rent the sandbox to nobody but yourself.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import asyncssh

from gpurent_sandbox import furnish, images
from gpurent_sandbox.faults import Faults
from gpurent_sandbox.held import Held
from gpurent_sandbox.images import Trait
from gpurent_sandbox.link import Link
from gpurent_sandbox.processes import kill_under, processes_under
from gpurent_sandbox.sshd import HostServer, Noisy, serve_command, sftp_factory

HOST_KEY = "etc/ssh/ssh_host_ed25519_key"
STARTUP_LOG = "var/startup.log"

TOOLS = ".tools"

THREADS = ("OMP_NUM_THREADS",)
"""Machines share this computer's cores: a limit on threads holds for them as well."""


@dataclass(frozen=True, slots=True)
class Callbacks:
    """How hosts report to the market."""

    booted: Callable[[str, int], None]
    traffic: Callable[[str, int, int], None]
    now: Callable[[], float]
    admitted: Callable[[str], Sequence[str]]


@dataclass
class Host:
    """One live host: what to close and what to kill."""

    held: Held
    root: Path
    link: Link
    reserved: socket.socket
    boot: asyncio.Task[None] | None = None
    acceptor: asyncssh.SSHAcceptor | None = None
    sshd_since: float | None = field(default=None)

    port_number: int = 0

    def __post_init__(self) -> None:
        self.port_number = self.port

    @property
    def port(self) -> int:
        """The port of its sshd."""
        number: int = self.reserved.getsockname()[1]
        return number


class Hosts:
    """All live hosts of one sandbox, below one folder."""

    def __init__(
        self, folder: Path, faults: Faults, callbacks: Callbacks, api_url: str, *, keep: bool, engine: Sequence[str]
    ) -> None:
        self._folder = folder
        self._faults = faults
        self._callbacks = callbacks
        self._api_url = api_url
        self._keep = keep
        self._engine = engine
        self._live: dict[str, Host] = {}

    @property
    def live(self) -> Mapping[str, Host]:
        """Hosts by instance."""
        return self._live

    def start(self, held: Held) -> None:
        """Make the folder, reserve the port, and boot in the background."""
        root = self._folder / held.id
        _furnish(root, held, self._environment(held, root))
        if self._engine:
            (root / furnish.PROGRAM).write_text(furnish.python(self._engine), encoding="utf-8")
        furnish.lay_out(root, _image(held))
        furnish.hardware(root, held.machine, held.gpu, held.gpu_count, traits=held.furnishing.traits)
        rate = furnish.SLOW_BYTES_S if Trait.SLOW_LINK in held.furnishing.traits else None
        link = Link(self._faults, lambda i, o: self._callbacks.traffic(held.id, i, o), rate)
        host = Host(held, root, link, _reserve())
        self._live[held.id] = host
        host.boot = asyncio.create_task(self._boot(host))
        self._callbacks.booted(held.id, host.port)

    def _environment(self, held: Held, root: Path) -> dict[str, str]:
        given = {key: value for key, value in held.order.env.items() if key != "GPURENT_ROOT"}
        own = {
            "SANDBOX_INSTANCE_ID": held.id,
            **({} if held.troubles.no_key else {"SANDBOX_INSTANCE_KEY": held.key}),
            "SANDBOX_API_URL": self._api_url,
        }
        image = _image(held)
        usual = {**self._basics(held, root), **image.env}
        path = ":".join([*(f"{root}/{folder}" for folder in image.path), usual["PATH"]])
        return {**usual, "PATH": path, **given, **held.injected, **_marks(held, root), **own}

    def _session_environment(self, held: Held, root: Path) -> dict[str, str]:
        """What sshd gives a session: nothing of the image's environment."""
        home = {"HOME": f"{root}/{_home(held)}"}
        return {**self._basics(held, root), **_marks(held, root), **home}

    def _basics(self, held: Held, root: Path) -> dict[str, str]:
        """What every process of a machine has. This computer's own programs stand in for those of an image."""
        tools = furnish.toolbox(self._folder / TOOLS, _image(held))
        return {
            "PATH": ":".join([*(f"{root}/{folder}" for folder in furnish.SSHD_PATH), str(tools)]),
            **{name: os.environ[name] for name in THREADS if name in os.environ},
            "HOME": f"{root}/root",
            "TMPDIR": str(root / "tmp"),
            "LANG": "C.UTF-8",
        }

    async def _boot(self, host: Host) -> None:
        environment = self._environment(host.held, host.root)
        session = self._session_environment(host.held, host.root)
        if host.held.troubles.sshd_first_s:
            await self._early(host, session)
        with (host.root / STARTUP_LOG).open("wb") as log:
            script = await asyncio.create_subprocess_exec(
                "/bin/sh",
                str(host.root / "var/startup.sh"),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
                cwd=host.root / "root",
                start_new_session=True,
            )
            status = await script.wait()
            log.write(f"[startup ended with status {status}]\n".encode())
        wanted = host.held.order.sshd_after
        if host.held.troubles.no_sshd or (wanted and not (host.root / wanted).exists()):
            return
        await self._listen(host, session)
        if host.held.troubles.move_after_s is not None:
            await asyncio.sleep(host.held.troubles.move_after_s)
            await self._move(host, session)

    async def _early(self, host: Host, environment: Mapping[str, str]) -> None:
        """Answer with a key that nobody ordered, until the start-up script comes to put its own there."""
        await self._listen(host, environment)
        await asyncio.sleep(host.held.troubles.sshd_first_s)
        if host.acceptor is not None:
            host.acceptor.close()
            await host.acceptor.wait_closed()
        host.link.cut()
        host.reserved = _reserve(host.port_number)

    async def _move(self, host: Host, environment: Mapping[str, str]) -> None:
        """Give the same machine another port, as after a restart of its container."""
        if host.acceptor is not None:
            host.acceptor.close()
        host.link.cut()
        host.reserved = _reserve()
        await self._listen(host, environment)
        self._callbacks.booted(host.held.id, host.port)

    async def _listen(self, host: Host, environment: Mapping[str, str]) -> None:
        try:
            key = _host_key(host.root)
        except (asyncssh.KeyImportError, OSError) as error:
            (host.root / "var/sshd.log").write_text(f"sshd: no usable host key: {error}\n", encoding="utf-8")
            return  # as with a real sshd: nothing listens

        traits, home = host.held.furnishing.traits, host.root / _home(host.held)
        user, motd = host.held.login, _image(host.held).motd

        async def run(process: asyncssh.SSHServerProcess[bytes]) -> None:
            if motd:
                process.stderr.write(f"{motd}\n".encode())
            noisy = Noisy(process) if Trait.NOISE in traits else process
            await serve_command(noisy, host.link, environment, home)

        host.acceptor = await asyncssh.listen(
            sock=host.reserved,
            backlog=20,
            server_host_keys=[key],
            encoding=None,
            line_editor=False,
            allow_scp=False,
            server_factory=lambda: HostServer(lambda: self._admitted(host), host.link, user),
            process_factory=run,
            sftp_factory=None if Trait.NO_SFTP in traits else sftp_factory(host.root, host.link, _home(host.held)),
        )
        host.sshd_since = self._callbacks.now()

    def _admitted(self, host: Host) -> list[str]:
        since = host.sshd_since
        if since is None or self._callbacks.now() < since + host.held.troubles.refuse_key_s:
            return []
        lines = [host.held.order.public_key, *self._callbacks.admitted(host.held.id)]
        file = host.root / "root/.ssh/authorized_keys"
        if file.is_file():
            lines += file.read_text(encoding="utf-8", errors="replace").splitlines()
        return lines

    async def kill(self, ref: str) -> None:
        """Close connections, kill every process, wipe the folder. Harmless for a host that is not there."""
        host = self._live.pop(ref, None)
        if host is None:
            return
        if host.boot is not None:
            host.boot.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await host.boot
        if host.acceptor is not None:
            host.acceptor.close()
        host.link.cut()
        host.reserved.close()
        await asyncio.to_thread(kill_under, host.root)
        if not self._keep:
            await asyncio.to_thread(shutil.rmtree, host.root, ignore_errors=True)

    async def kill_all(self) -> None:
        """Kill every host."""
        await asyncio.gather(*(self.kill(ref) for ref in list(self._live)))

    def log(self, ref: str) -> str:
        """What the start-up script of a host has printed so far; empty for one that has not started."""
        file = self._folder / ref / STARTUP_LOG
        return file.read_text(encoding="utf-8", errors="replace") if file.is_file() else ""

    def process_count(self, ref: str) -> int:
        """Live processes of a host."""
        return len(processes_under(self._folder / ref))


def _marks(held: Held, root: Path) -> dict[str, str]:
    """What tells a host's processes from others."""
    return {"GPURENT_ROOT": str(root), "GPURENT_SANDBOX_HOST": held.id}


def _reserve(port: int = 0) -> socket.socket:
    """A port that is bound but not listening: refused until sshd is up, as with a real machine."""
    reserved = socket.socket()
    reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    reserved.bind(("127.0.0.1", port))
    return reserved


def _image(held: Held) -> images.Image:
    return images.chosen(held.furnishing, held.order.image)


def _home(held: Held) -> str:
    """The login folder, below the machine's root."""
    return "root" if held.login == "root" else f"home/{held.login}"


def _furnish(root: Path, held: Held, environment: Mapping[str, str]) -> None:
    for name in ("root/.ssh", "bin", "tmp", "var", "etc/ssh", "proc/1", _home(held)):
        (root / name).mkdir(parents=True, exist_ok=True)
    shim = root / furnish.PROGRAM
    shim.write_text(furnish.python(()), encoding="utf-8")
    shim.chmod(0o755)
    (root / "root/.ssh").chmod(0o700)
    (root / "var/startup.sh").write_text(held.order.startup + "\n", encoding="utf-8")
    # Scripts read the environment of PID 1 through the same prefix as every other system path.
    first = root / "proc/1/environ"
    first.write_bytes(b"".join(f"{key}={value}\0".encode() for key, value in environment.items()))
    first.chmod(0o400)


def _host_key(root: Path) -> asyncssh.SSHKey:
    path = root / HOST_KEY
    if not path.exists():
        made = asyncssh.generate_private_key("ssh-ed25519")
        path.write_bytes(made.export_private_key())
        path.chmod(0o600)
    return asyncssh.read_private_key(path)
