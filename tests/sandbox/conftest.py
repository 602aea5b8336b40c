"""A sandbox, a key pair, and real SSH logins with paramiko."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import httpx
import paramiko
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from gpurent_sandbox.server import Sandbox

PATIENCE_S = 20.0


def eventually(what: Callable[[], bool]) -> None:
    """Wait until it holds; fail after twenty seconds."""
    until = time.monotonic() + PATIENCE_S
    while not what():
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.02)


@dataclass
class Customer:
    """Someone who rents from the sandbox over its API and logs in over SSH."""

    sandbox: Sandbox
    key: paramiko.Ed25519Key
    api: httpx.Client
    logins: list[paramiko.SSHClient] = field(default_factory=list)

    @property
    def public_key(self) -> str:
        return f"ssh-ed25519 {self.key.get_base64()} customer"

    def rent(self, **more: object) -> str:
        offer = self.api.get("/v1/offers").json()["offers"][0]
        body = {"offer_id": offer["id"], "label": "tag", "disk_gb": 10, "ssh_public_key": self.public_key, **more}
        reply = self.api.post("/v1/instances", json=body)
        assert reply.status_code == 201, reply.text
        ref: str = reply.json()["instance"]["id"]
        return ref

    def port(self, ref: str) -> int:
        def ssh() -> object:
            return self.api.get(f"/v1/instances/{ref}").json()["instance"]["ssh"]

        eventually(lambda: ssh() is not None)
        address = ssh()
        assert isinstance(address, dict)
        return int(address["port"])

    def try_login(self, port: int, key: paramiko.Ed25519Key | None = None, user: str = "root") -> paramiko.SSHClient:
        client = paramiko.SSHClient()
        client.set_missing_host_key_policy(paramiko.AutoAddPolicy())
        try:
            client.connect(
                "127.0.0.1", port, user, pkey=key or self.key, allow_agent=False, look_for_keys=False, timeout=5
            )
        except BaseException:
            client.close()
            raise
        self.logins.append(client)
        return client

    def login(self, ref: str) -> paramiko.SSHClient:
        port = self.port(ref)
        until = time.monotonic() + PATIENCE_S
        while True:
            try:
                return self.try_login(port)
            except (paramiko.SSHException, OSError):
                assert time.monotonic() < until, "no login"
                time.sleep(0.05)

    def run(self, client: paramiko.SSHClient, command: str, stdin: bytes = b"") -> tuple[int, str, str]:
        pipe, out, err = client.exec_command(command, timeout=20)
        pipe.write(stdin)
        pipe.channel.shutdown_write()
        return out.channel.recv_exit_status(), out.read().decode(), err.read().decode()


def new_key() -> paramiko.Ed25519Key:
    text = Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()).decode()
    return paramiko.Ed25519Key.from_private_key(io.StringIO(text))


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(boot_s=0.1, seed=7) as running:
        yield running


@pytest.fixture
def customer(sandbox: Sandbox) -> Iterator[Customer]:
    headers = {"Authorization": f"Bearer {sandbox.account_key}"}
    with httpx.Client(base_url=sandbox.url, headers=headers, timeout=10, trust_env=False) as api:
        made = Customer(sandbox, new_key(), api)
        yield made
        for client in made.logins:
            client.close()
