"""Ports that a container opens besides SSH's, written as Docker's options in ``env``. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

MOST = 64
IDENTICAL = 70_000
"""From here on a number is not a port: it asks for one that is the same inside and outside."""
FIRST, ROOM = 40_000, 20_000
_OPTION = re.compile(r"-p\s+(\d{1,6}):(\d{1,6})(?:/(tcp|udp))?")


@dataclass(frozen=True, slots=True)
class Mapped:
    """One port of a container; ``asked`` is what its request called it."""

    asked: int
    inside: int
    outside: int
    protocol: str


def wrong(env: Mapping[str, str]) -> str | None:
    """What is wrong with the options for ports, if anything."""
    given = [key for key in env if key.split(maxsplit=1)[:1] == ["-p"]]
    unread = [key for key in given if _OPTION.fullmatch(key) is None]
    if unread:
        return f"{unread[0]!r} opens no port: -p OUTSIDE:INSIDE, with /tcp or /udp"
    return f"a container has at most {MOST} ports" if len(given) > MOST else None


def mapped(env: Sequence[Sequence[str]], contract: int) -> list[Mapped]:
    """The ports of a contract: what is outside is chosen by the service, whatever the option says."""
    found = [match for key, _ in env if (match := _OPTION.fullmatch(key)) is not None]
    made = []
    for place, match in enumerate(found):
        asked, outside = int(match[2]), FIRST + (contract * MOST + place) % ROOM
        made.append(Mapped(asked, outside if asked >= IDENTICAL else asked, outside, match[3] or "tcp"))
    return made


def shown(ports: Sequence[Mapped]) -> dict[str, list[dict[str, str]]]:
    """As an instance shows them."""
    return {f"{port.inside}/{port.protocol}": _both(port.outside) for port in ports}


def _both(outside: int) -> list[dict[str, str]]:
    return [{"HostIp": address, "HostPort": str(outside)} for address in ("0.0.0.0", "::")]  # noqa: S104


def variables(ports: Sequence[Mapped]) -> dict[str, str]:
    """As the container's environment has them."""
    return {f"VAST_{port.protocol.upper()}_PORT_{port.asked}": str(port.outside) for port in ports}
