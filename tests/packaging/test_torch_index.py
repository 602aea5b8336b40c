"""Which build of torch a fresh computer installs."""

from __future__ import annotations

import http.server
import threading
import time
from collections.abc import Iterator

import pytest
from tools import torch_index


class _Index(http.server.BaseHTTPRequestHandler):
    """Knows ``/cpu/torch/`` and nothing else; ``/slow`` takes too long."""

    def do_HEAD(self) -> None:
        if self.path.startswith("/slow"):
            time.sleep(torch_index.PROBE_S * 3)
        self.send_response(200 if self.path == "/cpu/torch/" else 404)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Say nothing."""


@pytest.fixture(scope="module")
def index() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Index)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def test_linux_without_a_card_takes_the_cpu_build(index: str) -> None:
    """From the index that has it."""
    assert torch_index.chosen("Linux", nvidia=False, index=f"{index}/cpu") == f"--no-deps --index-url {index}/cpu"


@pytest.mark.parametrize(("system", "nvidia"), [("Linux", True), ("Darwin", False), ("Windows", False)])
def test_others_take_what_the_package_index_has(index: str, system: str, nvidia: bool) -> None:
    """A card can use the build with CUDA; other systems have small builds there."""
    assert torch_index.chosen(system, nvidia=nvidia, index=f"{index}/cpu") == ""


@pytest.mark.parametrize("path", ["/gone", "/slow"])
def test_an_index_that_does_not_answer_is_left_alone(index: str, path: str) -> None:
    """Set-up goes on as before, a second later."""
    assert torch_index.chosen("Linux", nvidia=False, index=index + path) == ""
