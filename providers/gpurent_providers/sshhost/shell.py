"""One command on one of your machines, over SSH with its key pinned; every failure is a typed error."""

from __future__ import annotations

import base64
import hashlib
import socket
import threading
from contextlib import closing, suppress
from pathlib import Path

import paramiko
from paramiko.pkey import UnknownKeyType
from paramiko.ssh_exception import NoValidConnectionsError

from gpurent.clock import Clock
from gpurent.errors import AuthFailed, BadReply, ConfigError, Unavailable
from gpurent.hosts import OwnHost
from gpurent.sockets import Wire
from gpurent.tasks import Overdue
from gpurent.untrusted.text import quoted

PROVIDER = "ssh"
LIMIT = 64 * 1024
STAGES = 2
"""A question has several stages, of which each may take ``timeout`` seconds, and all of them so many times that."""


class Unreached(Unavailable):
    """No login came about, so nothing was run there."""


def fingerprint(line: str) -> str:
    """SHA256 fingerprint of a public key line, as ``ssh-keygen -l`` shows it."""
    digest = hashlib.sha256(base64.b64decode(line.split()[1])).digest()
    return "SHA256:" + base64.b64encode(digest).decode().rstrip("=")


def host_key(host: OwnHost, clock: Clock, timeout: float) -> str:
    """The key with which a machine answers now, unchecked: to be shown to a person. Raises Unavailable."""
    wire = Wire()

    def ask() -> paramiko.PKey:
        with wire.open(host.address, host.port, timeout) as link:
            transport = paramiko.Transport(link)
            try:
                transport.start_client(timeout=timeout)
                return transport.get_remote_server_key()
            finally:
                transport.close()

    try:
        key = clock.begin(ask).result(STAGES * timeout, wire.cut)
    except (OSError, EOFError, paramiko.SSHException) as error:
        raise _unavailable(host, error, Unreached) from error
    return _line(key)


def run(host: OwnHost, script: str, clock: Clock, *, timeout: float) -> list[str]:
    """Run ``script`` with ``sh`` and return its lines after the greeting.

    Raises:
        AuthFailed: the machine refuses our key, or is not the one that was pinned; nothing was run.
        Unreached: no login in ``timeout`` seconds; nothing was run.
        Unavailable: no answer in ``timeout`` seconds (``STAGES`` times that in all), a cut link, or the script failed.
        BadReply: something else answered.
    """
    if not host.host_key:
        raise AuthFailed(
            f"{host.address} has no pinned host key", provider=PROVIDER, hint="`gpurent hosts test` pins it."
        )
    wire, admitted = Wire(), threading.Event()

    def ask() -> list[str]:
        with closing(paramiko.SSHClient()) as client:
            _login(host, client, timeout, wire)
            admitted.set()
            try:
                return _talk(host, client, script, timeout)
            except (OSError, EOFError, paramiko.SSHException) as error:
                raise _unavailable(host, error, Unavailable) from error

    try:
        return clock.begin(ask).result(STAGES * timeout, wire.cut)
    except Overdue as error:
        raise _unavailable(host, error, Unavailable if admitted.is_set() else Unreached) from error


def _login(host: OwnHost, client: paramiko.SSHClient, timeout: float, wire: Wire) -> None:
    name = host.address if host.port == 22 else f"[{host.address}]:{host.port}"
    client.get_host_keys().add(name, host.host_key.split()[0], _pinned(host))
    client.set_missing_host_key_policy(paramiko.RejectPolicy())
    try:
        client.connect(
            host.address,
            host.port,
            host.user,
            key_filename=str(Path(host.key).expanduser()) if host.key else None,
            allow_agent=not host.key,
            look_for_keys=not host.key,
            timeout=timeout,
            banner_timeout=timeout,
            auth_timeout=timeout,
            channel_timeout=timeout,
            sock=wire.open(host.address, host.port, timeout),
        )
    except paramiko.BadHostKeyException as error:
        raise AuthFailed(
            f"{host.address}:{host.port} is not the machine that was pinned: it shows {fingerprint(_line(error.key))}",
            provider=PROVIDER,
            hint="If you know why, `gpurent hosts test --pin` pins the new key.",
        ) from error
    except (paramiko.AuthenticationException, paramiko.PasswordRequiredException) as error:
        if "timeout" in str(error):  # paramiko's word for a machine too busy to look at our key
            raise _unavailable(host, TimeoutError(str(error)), Unreached) from error
        raise AuthFailed(
            f"{host.user}@{host.address}:{host.port} refuses our key: {quoted(str(error))}",
            provider=PROVIDER,
            hint="`key` in hosts.toml names the private key; its public half belongs into authorized_keys there.",
        ) from error
    except (OSError, EOFError, paramiko.SSHException) as error:
        raise _unavailable(host, error, Unreached) from error


def _talk(host: OwnHost, client: paramiko.SSHClient, script: str, timeout: float) -> list[str]:
    stdin, stdout, stderr = client.exec_command("sh -s", timeout=timeout)
    with suppress(OSError):  # a shell that does not wait for our script has ended already: what it says is read below
        stdin.write(script)
        stdin.channel.shutdown_write()
    text = stdout.read(LIMIT).decode("utf-8", "replace")
    status = _status(stdout.channel, timeout)
    if status < 0:  # paramiko's word for none: a link that was cut, or a shell that was killed
        raise Unavailable(
            f"{host.user}@{host.address}:{host.port}: the link ended before the command had answered",
            provider=PROVIDER,
            hint="Is the machine still on? `ssh` with the same address, port and user tells more.",
        )
    if status != 0:
        said = stderr.read(2000).decode("utf-8", "replace").strip()
        text = f"{host.address}: the shell ended with status {status} and said {quoted(said, 200)}"
        raise Unavailable(text, provider=PROVIDER)
    lines = text.splitlines()
    if not lines or lines[0] != "gpurent-host 1":
        raise BadReply(
            f"{host.address} answered {text[:80]!r}",
            provider=PROVIDER,
            hint="The login shell must not print anything by itself.",
        )
    return lines[1:]


def _status(channel: paramiko.Channel, timeout: float) -> int:
    """How the command ended; paramiko's own call waits for ever on a link that has died."""
    if not channel.status_event.wait(timeout):
        raise TimeoutError(f"no exit status in {timeout:g} s")
    return channel.recv_exit_status()


def _pinned(host: OwnHost) -> paramiko.PKey:
    kind, blob = host.host_key.split()
    try:
        return paramiko.PKey.from_type_string(kind, base64.b64decode(blob))
    except (paramiko.SSHException, UnknownKeyType, ValueError) as error:
        raise ConfigError(
            f"hosts.toml: host_key of {host.address} is not an usable key: {str(error) or type(error).__name__}",
            hint="`gpurent hosts test NAME --pin` pins the one that the machine shows.",
        ) from error


def _line(key: paramiko.PKey) -> str:
    return f"{key.get_name()} {key.get_base64()}"


def _unavailable(host: OwnHost, error: Exception, kind: type[Unavailable]) -> Unavailable:
    if isinstance(error, socket.gaierror):
        hint = "Nobody knows that name; is `address` right?"
    elif isinstance(error, ConnectionRefusedError | NoValidConnectionsError):
        hint = f"Nothing listens at port {host.port} there: does its SSH server run, and is `port` right?"
    elif isinstance(error, TimeoutError):
        hint = "Is it on, and does the network reach it? `ssh` with the same address and port tells more."
    else:
        hint = "`ssh -v` with the same address, port and user tells more."
    told = quoted(str(error) or type(error).__name__)  # it may hold words of the server
    if isinstance(error, ConnectionRefusedError):
        told = f"port {host.port} refuses the connection"
    return kind(f"{host.user}@{host.address}:{host.port}: {told}", provider=PROVIDER, hint=hint)
