"""One SSH connection with the host key pinned before the first byte."""

from __future__ import annotations

import base64
from typing import Any

import paramiko
from fabric import Config, Connection

from gpurent.clock import Clock
from gpurent.errors import HostUnreachable
from gpurent.model import Endpoint, Identity
from gpurent.sockets import Wire
from gpurent_remote.bounded import BoundedTransport
from gpurent_remote.edge import translated
from gpurent_remote.link import Link

KEEPALIVE_S = 10
STAGES = 2
"""A login has several stages, of which each may take ``timeout`` seconds, and all of them so many times that."""


def connect(endpoint: Endpoint, identity: Identity, timeout: float, clock: Clock) -> Link:
    """Log in with the rental's own key; agents, the user's keys, config files and known_hosts play no part.

    Raises:
        HostKeyMismatch: another machine answers; nothing was sent to it.
        HostUnreachable: no answer in ``timeout`` seconds (``STAGES`` times that in all), or our key is refused.
    """
    wire = Wire()
    task = clock.begin(lambda: _connect(endpoint, identity, timeout, wire))
    with translated(f"connecting to {endpoint.host}:{endpoint.port}"):
        return Link(task.result(STAGES * timeout, wire.cut), wire)


def _connect(endpoint: Endpoint, identity: Identity, timeout: float, wire: Wire) -> Connection:
    with translated(f"connecting to {endpoint.host}:{endpoint.port}"):
        key = paramiko.Ed25519Key.from_private_key_file(str(identity.private_key))
        connection: Any = Connection(
            endpoint.host,
            user=endpoint.user,
            port=endpoint.port,
            connect_timeout=timeout,
            config=Config(lazy=True, overrides={"load_ssh_configs": False}),
            connect_kwargs={
                "pkey": key,
                "allow_agent": False,
                "look_for_keys": False,
                "banner_timeout": timeout,
                "auth_timeout": timeout,
                "channel_timeout": timeout,
                "transport_factory": BoundedTransport,
            },
        )
        client: paramiko.SSHClient = connection.client
        client.set_missing_host_key_policy(paramiko.RejectPolicy())
        kind, blob = (endpoint.host_key or identity.host_public_key).split()[:2]
        pinned = paramiko.PKey.from_type_string(kind, base64.b64decode(blob))
        name = endpoint.host if endpoint.port == 22 else f"[{endpoint.host}]:{endpoint.port}"
        client.get_host_keys().add(name, kind, pinned)
        try:
            connection.connect_kwargs["sock"] = wire.open(endpoint.host, endpoint.port, timeout)
            connection.open()
        except BaseException:
            connection.close()
            raise
        transport = connection.transport
        if transport is None:
            raise HostUnreachable(f"{endpoint.host}:{endpoint.port} closed the connection")
        transport.set_keepalive(KEEPALIVE_S)
        return connection
