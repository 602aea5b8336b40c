"""Every request the sandbox saw, in memory and in ``journal.jsonl``; keys never reach either."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

SECRET_HEADERS = frozenset({"authorization", "x-api-key", "api-key", "cookie", "proxy-authorization"})
BODY_LIMIT = 65536
VIOLATIONS = "GPURENT_SANDBOX_VIOLATIONS"
"""Names a file to which every sandbox on this computer adds the requests that break a service's specification."""

OWN_REPLY = "the look-alike's own reply"
"""Begins a violation that is not a client's: the look-alike itself does not keep to its service's specification."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One request. ``status`` is 0 when no answer was sent."""

    at: float
    method: str
    path: str
    query: str
    status: int
    headers: dict[str, str]
    body: str
    violations: tuple[str, ...] = ()
    """How the request breaks the specification of the service that it was sent to."""


class Journal:
    """Append-only and thread-safe."""

    def __init__(self, path: Path, secrets: Callable[[], Iterable[str]]) -> None:
        self._path = path
        self._secrets = secrets
        self._entries: list[Entry] = []
        self._lock = threading.Lock()

    def arrived(self, at: float, method: str, path: str, query: str, *, headers: Mapping[str, str], body: bytes) -> int:
        """Record a request before it is handled, headers and body (up to 64 KiB) redacted; return its number."""
        shown = {
            name: "[redacted]" if name.lower() in SECRET_HEADERS else self._clean(value)
            for name, value in headers.items()
        }
        text = self._clean(body[:BODY_LIMIT].decode("utf-8", "replace"))
        entry = Entry(at=at, method=method, path=path, query=self._clean(query), status=0, headers=shown, body=text)
        with self._lock:
            self._entries.append(entry)
            return len(self._entries) - 1

    def answered(self, number: int, status: int, violations: Sequence[str] = ()) -> None:
        """Complete a record, before the answer is sent (0: none will be), and write it to the file."""
        shown = tuple(self._clean(text) for text in violations)
        with self._lock:
            entry = self._entries[number] = replace(self._entries[number], status=status, violations=shown)
            line = json.dumps(asdict(entry), ensure_ascii=False) + "\n"
            files = [self._path]
            if shown and (wanted := os.environ.get(VIOLATIONS)):
                files.append(Path(wanted))
            for path in files:
                with path.open("a", encoding="utf-8") as file:
                    file.write(line)

    def _clean(self, text: str) -> str:
        for secret in self._secrets():
            text = text.replace(secret, "[redacted]")
        return text

    def entries(self, method: str = "", path: str = "") -> list[Entry]:
        """Requests in order, narrowed to a method and to paths that start with ``path``."""
        with self._lock:
            return [entry for entry in self._entries if entry.path.startswith(path) and method in ("", entry.method)]
