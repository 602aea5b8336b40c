"""A client of the Model Context Protocol over a server's standard input and output: JSON-RPC, one message a line."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from threading import Timer
from types import TracebackType
from typing import Any, Self

LONGEST_S = 60.0


@dataclass(frozen=True)
class Answer:
    """What a tool said; ``failed`` is the server's own verdict."""

    failed: bool
    text: str

    def json(self) -> Any:
        """The text as JSON."""
        assert not self.failed, self.text
        return json.loads(self.text)


class McpServer:
    """A server as a process of its own; silence for a minute ends it, and the test with it."""

    def __init__(self, argv: Sequence[str], env: Mapping[str, str], *, name: str, version: str) -> None:
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(argv, env=dict(env), stdin=pipe, stdout=pipe, stderr=pipe, text=True)
        self._count = 0
        who = {"name": name, "version": version}
        self._ask("initialize", {"protocolVersion": "2024-11-05", "capabilities": {}, "clientInfo": who})
        self._write({"method": "notifications/initialized", "params": {}})

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.communicate()

    def call(self, tool: str, **arguments: object) -> Answer:
        """Call a tool and wait for what it says."""
        result = self._ask("tools/call", {"name": tool, "arguments": arguments})
        return Answer(result.get("isError", False), "".join(part["text"] for part in result["content"]))

    def _write(self, message: Mapping[str, object]) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"jsonrpc": "2.0", **message}) + "\n")
        self._process.stdin.flush()

    def _ask(self, method: str, params: Mapping[str, object]) -> dict[str, Any]:
        assert self._process.stdout is not None and self._process.stderr is not None
        self._count += 1
        self._write({"id": self._count, "method": method, "params": params})
        watch = Timer(LONGEST_S, self._process.kill)
        watch.start()
        try:
            for line in self._process.stdout:
                reply = json.loads(line)
                if reply.get("id") == self._count:
                    assert "error" not in reply, reply
                    result: dict[str, Any] = reply["result"]
                    return result
        finally:
            watch.cancel()
        raise AssertionError(f"{method}: the server fell silent: {self._process.stderr.read()}")
