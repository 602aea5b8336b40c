"""A fake of ACME that keeps state and fails to order, over real HTTP on loopback."""

from __future__ import annotations

import json
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

PAGE = 3
KEY = "acme-secret-key"
OTHER_KEY = "acme-other-secret"
ACCOUNTS = {KEY: "ann", OTHER_KEY: "bob"}
SILENCE_S = 1.0


@dataclass
class State:
    """What the service knows, and what it was told to do wrong next."""

    machines: dict[str, dict[str, Any]] = field(default_factory=dict)
    taken: set[str] = field(default_factory=set)
    made: int = 0
    requests: int = 0
    creates: int = 0
    next_failure: str = ""
    next_create: str = ""
    dearer: bool = False
    odd: bool = False

    def offers(self) -> list[dict[str, Any]]:
        """Offers that nobody took; broken ones among them when told so."""
        rows: list[dict[str, Any]] = [
            {"id": f"o{number}", "gpu": gpu, "vram_mb": vram, "usd_hour": price, "usd_gb_month": 0.1, "disk_gb": 200}
            for number, (gpu, vram, price) in enumerate(
                [("RTX 3090", 24576, 0.2), ("RTX 4090", 24576, 0.35), ("L40S", 46068, 0.6), ("A100", 81920, 1.1)] * 2
            )
        ]
        if self.odd:
            rows[0] |= {"usd_hour": None}
            rows[1] |= {"vram_mb": "much"}
            rows[2] |= {"colour": "blue", "gpu": rows[2]["gpu"]}
        return [row for row in rows if row["id"] not in self.taken]


class Handler(BaseHTTPRequestHandler):
    """One request; the server's ``state`` decides."""

    protocol_version = "HTTP/1.1"
    wbufsize = 65536

    @property
    def state(self) -> State:
        """Shared by all requests."""
        state: State = self.server.state  # type: ignore[attr-defined]
        return state

    def do_GET(self) -> None:
        """Offers, machines, one machine."""
        if not self._admitted():
            return None
        path, _, query = self.path.partition("?")
        if path == "/offers":
            return self._reply(200, {"offers": self.state.offers()})
        if path == "/account":
            return self._reply(200, {"account": self._account})
        if path == "/machines":
            start = int(query.partition("=")[2] or 0)
            rows = [row for row in self.state.machines.values() if row["account"] == self._account]
            more = str(start + PAGE) if start + PAGE < len(rows) else ""
            return self._reply(200, {"machines": rows[start : start + PAGE], "next": more})
        found = self._own(path)
        return self._reply(200, found) if found else self._reply(404, {"error": "no such machine"})

    def do_POST(self) -> None:
        """Rent."""
        self.state.creates += 1
        body = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))))
        if not self._admitted():
            return None
        offer = next((one for one in self.state.offers() if one["id"] == body["offer"]), None)
        if offer is None:
            return self._reply(409, {"error": "the offer is gone"})
        self.state.made += 1
        self.state.taken.add(offer["id"])
        ref = f"m{self.state.made}"
        price = offer["usd_hour"] * (1.5 if self.state.dearer else 1)
        self.state.machines[ref] = {
            **offer, "id": ref, "label": body["label"], "disk_gb": body["disk_gb"], "state": "booting",
            "usd_hour": price, "host": "", "port": None, "account": self._account,
        }  # fmt: skip
        how, self.state.next_create = self.state.next_create, ""
        if how == "reply_lost":
            return self._hang_up()
        return self._reply(500, {"error": "oops", "made": ref}) if how else self._reply(201, self.state.machines[ref])

    def do_DELETE(self) -> None:
        """End."""
        if not self._admitted():
            return
        known = self._own(self.path)
        if known:
            del self.state.machines[known["id"]]
        self._reply(200 if known else 404, {} if known else {"error": "no such machine"})

    @property
    def _account(self) -> str:
        """Whose key came with the request; empty for none of ours."""
        return ACCOUNTS.get(self.headers.get("Authorization", "").removeprefix("Bearer "), "")

    def _own(self, path: str) -> dict[str, Any] | None:
        """The machine that a path names, if it is of the account that asks."""
        found = self.state.machines.get(path.rpartition("/")[2])
        return found if found and found["account"] == self._account else None

    def _admitted(self) -> bool:
        self.state.requests += 1
        how, self.state.next_failure = self.state.next_failure, ""
        if how == "timeout":
            time.sleep(SILENCE_S)
        if how in ("timeout", "reset"):
            self._hang_up()
        elif how == "garbage":
            self._send(200, b"<html>", {})
        elif how:
            self._send({"rate_limit": 429, "server_error": 500}[how], b"{}", {"Retry-After": "7"})
        elif not self._account:
            self._reply(401, {"error": "who are you?"})
        else:
            return True
        return False

    def _hang_up(self) -> None:
        self.close_connection = True
        self.connection.close()

    def _reply(self, status: int, value: object) -> None:
        self._send(status, json.dumps(value).encode(), {})

    def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, text in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, text)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002
        """Say nothing."""


class Server(ThreadingHTTPServer):
    """The fake, running until it is closed."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.state = State()
        self._thread = threading.Thread(target=self.serve_forever, args=(0.02,))
        self._thread.start()

    @property
    def url(self) -> str:
        """Where it answers."""
        return f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that we hung up on is not an error."""

    def stop(self) -> None:
        """End it."""
        self.shutdown()
        self._thread.join()
        self.server_close()
