"""Several services at one address: a request goes to the look-alike whose paths it uses, else to the sandbox's API."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from gpurent_sandbox.wire import Dress


def answering(worded: Callable[[Any], Response]) -> Callable[[Request, Any], Awaitable[Response]]:
    """A handler of errors for Starlette: an error becomes what the service answers."""

    async def answer(_request: Request, error: Any) -> Response:
        return worded(error)

    return answer


@dataclass(frozen=True, slots=True)
class Alike:
    """A look-alike: the paths it answers (by prefix), and how it words errors that strike before a handler runs."""

    prefixes: tuple[str, ...]
    app: ASGIApp
    dress: Dress


class Front:
    """The ASGI application of all of them."""

    def __init__(self, own: ASGIApp, alikes: Sequence[Alike]) -> None:
        self._own = own
        self._alikes = alikes

    def _find(self, path: str) -> Alike | None:
        return next((alike for alike in self._alikes if path.startswith(alike.prefixes)), None)

    def dress(self, path: str, status: int) -> tuple[str, bytes] | None:
        """How the service of ``path`` words an error; None for the sandbox's own way."""
        found = self._find(path)
        return None if found is None else found.dress(path, status)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        found = self._find(scope["path"])
        await (self._own if found is None else found.app)(scope, receive, send)
