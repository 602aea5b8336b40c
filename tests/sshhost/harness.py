"""Own machines behind the conformance suite's back door."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from tests.sshhost.machine import Machine, keygen

from gpurent.clock import SystemClock
from gpurent.hosts import load_hosts, save_host
from gpurent.spi import Provider
from gpurent.testing.harness import Failure, HalfSuccess
from gpurent_providers.sshhost.provider import SshHostProvider

TROUBLES = {
    Failure.RATE_LIMIT: "error",
    Failure.SERVER_ERROR: "error",
    Failure.TIMEOUT: "hang",
    Failure.RESET: "cut",
    Failure.GARBAGE: "garbage",
}


class SshHarness:
    """One adapter before three machines."""

    page_size = 2

    def __init__(self, machines: list[Machine], listed: Path) -> None:
        self._machines = machines
        self._listed = listed
        self.provider: Provider = SshHostProvider(listed, SystemClock(), timeout=8.0)
        self.secrets = tuple(one.key.read_text(encoding="utf-8").splitlines()[2] for one in machines)

    def with_wrong_key(self) -> Provider:
        other = self._listed.parent / "other_key"
        keygen(other)
        path = self._listed.parent / "wrong.toml"
        for name, host in load_hosts(self._listed).items():
            given = host.model_dump(exclude={"until", "price"}, exclude_defaults=True)
            save_host(path, name, {**given, "key": str(other), "price": "0.1"})
        return SshHostProvider(path, SystemClock(), timeout=5)

    def with_other_account(self) -> None:
        """Own machines belong to no account."""

    def machines(self) -> Mapping[str, str]:
        return {f"box{n}/{one.lease()}": one.lease() for n, one in enumerate(self._machines) if one.lease()}

    def create_requests(self) -> int:
        return sum(1 for one in self._machines if one.lease())

    def requests(self) -> int:
        return sum(one.logins for one in self._machines)

    def vanish(self, ref: str) -> None:
        (self._machine(ref).home / ".gpurent" / "lease").unlink()

    def fail_next(self, failure: Failure) -> None:
        for one in self._machines:
            one.order(TROUBLES[failure])

    def fail_next_create(self, how: HalfSuccess) -> None:
        """Create looks before it takes: the second command is the one."""
        for one in self._machines:
            one.order("none", "cut-after" if how is HalfSuccess.REPLY_LOST else "error-after")

    def fail_taking(self, failure: Failure) -> None:
        for one in self._machines:
            one.order("none", TROUBLES[failure])

    def raise_next_price(self) -> None:
        for name in load_hosts(self._listed):
            save_host(self._listed, name, {"price": "0.9"})

    def spoil_offers(self) -> None:
        self._machines[0].order("garbage")

    def boot(self) -> None: ...

    def _machine(self, ref: str) -> Machine:
        return self._machines[int(ref.partition("/")[0].removeprefix("box"))]
