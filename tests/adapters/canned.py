"""A service that gives one answer to everything, over real HTTP."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread


@dataclass
class Canned:
    """A service that gives one answer to everything, but for methods that have their own, and counts."""

    status: int = 200
    body: bytes = b"{}"
    own: dict[str, tuple[int, bytes]] = field(default_factory=dict)
    asked: int = 0
    url: str = ""


@contextmanager
def serving() -> Iterator[Canned]:
    answer = Canned()

    class Service(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = 65536  # one packet: else each answer waits for the acknowledgement of its headers

        def do_GET(self) -> None:
            answer.asked += 1
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            status, body = answer.own.get(self.command, (answer.status, answer.body))
            body = b"" if status == 204 else body
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_PUT = do_DELETE = do_GET

        def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Service) as server:
        server.daemon_threads = True
        thread = Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        answer.url = f"http://127.0.0.1:{server.server_port}"
        yield answer
        server.shutdown()
        thread.join()
