"""A model hub on loopback: lists repositories, sends ranges of files, redirects to another host, and fails to order."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

LARGE = 1000
"""Bytes from which a file is kept as git LFS does, and so listed with its sha256."""


@dataclass
class Hub:
    """What it holds and what it does wrong. ``requests`` are method, path, range and token of each request."""

    files: dict[str, bytes]
    repository: str = "someone/model"
    token: str = ""
    """Without which it answers 401."""
    busy: int = 0
    """So many answers are 429 before others."""
    cut: int = 0
    """Each of so many answers ends after half of its bytes."""
    damaged: bool = False
    """Sends other bytes than it lists."""
    ranges: bool = True
    before: Callable[[str], None] = lambda _path: None
    """Called with the path of each request before it is answered."""
    url: str = ""
    elsewhere: str = ""
    """Where files are redirected to: the same server under another name."""
    requests: list[tuple[str, str, str]] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def take(self, name: str) -> bool:
        """Whether one of a counted trouble is left."""
        with self.lock:
            left: int = getattr(self, name)
            setattr(self, name, max(0, left - 1))
            return left > 0

    def rows(self) -> list[dict[str, object]]:
        """The listing."""
        found: list[dict[str, object]] = [{"type": "directory", "path": "unet", "oid": "0", "size": 0}]
        for path, data in self.files.items():
            blob = hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()
            row: dict[str, object] = {"type": "file", "path": path, "oid": blob, "size": len(data)}
            if len(data) >= LARGE:
                row |= {"oid": "pointer", "lfs": {"oid": hashlib.sha256(data).hexdigest(), "size": len(data)}}
            found.append(row)
        return found


@contextmanager
def serving(hub: Hub) -> Iterator[Hub]:
    """Answer on a free port while this block runs."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *_: object) -> None:  # noqa: A002 - as it is called there
            """Say nothing."""

        def do_GET(self) -> None:
            path = unquote(urlsplit(self.path).path)
            hub.requests.append((path, self.headers.get("Range", ""), self.headers.get("Authorization", "")))
            hub.before(path)
            moved = path.startswith("/blobs/")
            if hub.take("busy"):
                return self._send(429, b"", {"Retry-After": "0"})
            if hub.token and not moved and self.headers.get("Authorization") != f"Bearer {hub.token}":
                return self._send(401, b"gated")
            if path.startswith(f"/api/models/{hub.repository}/tree/"):
                return self._send(200, json.dumps(hub.rows()).encode())
            name = path.partition("/resolve/")[2].partition("/")[2] or path.removeprefix("/blobs/")
            if name not in hub.files:
                return self._send(404, b"not found")
            if not moved and hub.elsewhere:
                return self._send(302, b"", {"Location": f"{hub.elsewhere}/blobs/{name}"})
            return self._file(hub.files[name])

        def _file(self, data: bytes) -> None:
            wanted = self.headers.get("Range", "").removeprefix("bytes=")
            status, part = 200, data
            if wanted and hub.ranges:
                first, _, last = wanted.partition("-")
                status, part = 206, data[int(first) : int(last) + 1]
            if hub.damaged:
                part = bytes(byte ^ 1 for byte in part)
            if len(part) > 1 and hub.take("cut"):
                self.send_response(status)
                self.send_header("Content-Length", str(len(part)))
                self.end_headers()
                self.wfile.write(part[: len(part) // 2])
                self.close_connection = True
                return
            self._send(status, part)

        def _send(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
            self.send_response(status)
            for name, value in {**(headers or {}), "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
