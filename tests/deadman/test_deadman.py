"""The switch on the host: the real program against a real HTTP server."""

from __future__ import annotations

import argparse
import ast
import json
import os
import resource
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpurent_deadman import deadman

KEY = "instance-scoped-key-4711"


@dataclass
class Service:
    """Answers with the given codes, then with 200, and remembers what was asked and when."""

    codes: list[int] = field(default_factory=list)
    asked: list[tuple[float, str, str, str | None]] = field(default_factory=list)
    url: str = ""
    slow_s: float = 0.0
    """By how much its clock is behind the one here, as a host whose clock is ahead sees it."""

    def wait(self, count: int) -> None:
        until = time.monotonic() + 30
        while len(self.asked) < count:
            assert time.monotonic() < until, f"{len(self.asked)} of {count} requests came"
            time.sleep(0.02)


@pytest.fixture
def service() -> Iterator[Service]:
    told = Service()

    class Handler(BaseHTTPRequestHandler):
        def do_DELETE(self) -> None:
            told.asked.append((time.monotonic(), self.command, self.path, self.headers["Authorization"]))
            self.send_response(told.codes.pop(0) if told.codes else 200)
            self.end_headers()

        def do_GET(self) -> None:
            """It tells the time, as any answer does, and refuses."""
            self.send_response(404)
            self.end_headers()

        def date_time_string(self, timestamp: float | None = None) -> str:
            return super().date_time_string((timestamp or time.time()) - told.slow_s)

        def log_message(self, format: str, *args: object) -> None: ...  # noqa: A002 - its name in the base class

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    told.url = f"http://127.0.0.1:{server.server_port}"
    yield told
    server.shutdown()
    server.server_close()


@contextmanager
def switch(
    repository: Path, folder: Path, service: Service, after: float, *, full: bool = False, **more: str
) -> Iterator[subprocess.Popen[bytes]]:
    """The program as the start-up script runs it."""
    program = repository / "remote" / "gpurent_deadman" / "deadman.py"
    arguments = [
        "--after",
        str(after),
        "--url",
        service.url + "/instances/{CONTAINER_ID}/",
        "--header",
        "Authorization=Bearer {CONTAINER_API_KEY}",
    ]
    for name, value in more.items():
        arguments += [f"--{name}", value]
    environ = {"PATH": os.environ["PATH"], "CONTAINER_ID": "i-77"}
    if "init" not in more:
        environ["CONTAINER_API_KEY"] = KEY
    limit = (resource.RLIMIT_FSIZE, (0, 0) if full else resource.getrlimit(resource.RLIMIT_FSIZE))
    with (folder / "log.txt").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-I", str(program), *arguments],
            cwd=folder,
            env=environ,
            stdout=log,
            stderr=log,
            preexec_fn=lambda: resource.setrlimit(*limit),
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def test_it_destroys_at_the_deadline_and_not_before(repository: Path, tmp_path: Path, service: Service) -> None:
    """One request for this instance with the instance's own key, when time is up."""
    begun = time.monotonic()
    with switch(repository, tmp_path, service, 1.0):
        service.wait(1)
    when, method, path, authorization = service.asked[0]
    assert when - begun >= 1.0
    assert (method, path, authorization) == ("DELETE", "/instances/i-77/", f"Bearer {KEY}")


def test_it_asks_again_until_the_service_accepts(repository: Path, tmp_path: Path, service: Service) -> None:
    """A service that fails is asked again."""
    service.codes = [500, 429]
    with switch(repository, tmp_path, service, 0.0):
        service.wait(3)
    assert service.codes == []


def test_an_answer_that_trickles_does_not_keep_it_from_asking_again() -> None:
    """One byte now and then keeps the standard library waiting for as long as there are bytes."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        asked: list[bytes] = []
        over = threading.Event()

        def trickle() -> None:
            for _ in range(2):
                with server.accept()[0] as link, suppress(OSError):
                    asked.append(link.recv(1000))
                    for byte in b"HTTP/1.1 200 OK\r\n":
                        link.sendall(bytes([byte]))
                        over.wait(0.3)

        serving = threading.Thread(target=trickle)
        serving.start()
        options = deadman.parse(["--after", "0", "--url", f"http://127.0.0.1:{server.getsockname()[1]}/x"])
        program = deadman.Program(options, 0.0, 0.0)
        program.patience = 0.2
        assert [program.destroy(), program.destroy()] == [False, False]
        over.set()
        serving.join(30)
    assert len(asked) == 2 and all(one.startswith(b"DELETE /x") for one in asked)


def test_its_key_comes_from_process_one_and_is_nowhere_to_be_seen(
    repository: Path, tmp_path: Path, service: Service
) -> None:
    """Services give the key to the container's first process; it is in no command line and in no log."""
    init = tmp_path / "environ"
    init.write_bytes(f"HOME=/root\0CONTAINER_API_KEY={KEY}\0".encode())
    service.codes = [403]
    with switch(repository, tmp_path, service, 0.5, init=str(init)) as process:
        assert KEY not in Path(f"/proc/{process.pid}/cmdline").read_text()
        service.wait(2)
    assert service.asked[0][3] == f"Bearer {KEY}"
    assert KEY not in (tmp_path / "log.txt").read_text()


NONSENSE = (
    b"",
    b"\0\xff garbage\r\n\r\n",
    b"HTTP/1.1 twohundred OK\r\n\r\n",
    b"HTTP/1.1 200" + b" x" * 40_000,
    b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 500,
    b"HTTP/1.1 302 Found\r\nLocation: gopher://[::1\r\n\r\n",
    b"<!doctype html><title>Maintenance</title>",
)


@contextmanager
def babbler(answers: Sequence[bytes]) -> Iterator[tuple[str, list[float]]]:
    """A port that answers with these bytes, one after the other, and hangs up."""
    asked: list[float] = []
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            for answer in answers:
                talk, _ = listening.accept()
                with talk:
                    talk.recv(65536)
                    asked.append(time.monotonic())
                    with suppress(OSError):
                        talk.sendall(answer)

        threading.Thread(target=serve, daemon=True).start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}", asked


@pytest.mark.parametrize("answer", NONSENSE, ids=range(len(NONSENSE)))
def test_an_answer_that_is_no_http_is_a_failure_like_any_other(answer: bytes) -> None:
    """Whatever comes back, asking ends in no: never in an error that would end the switch before its machine."""
    with babbler([answer]) as (url, asked):
        assert not deadman.destroy(deadman.parse(["--after", "0", "--url", url]))
    assert len(asked) == 1


def test_it_outlives_answers_that_are_no_http(repository: Path, tmp_path: Path) -> None:
    """The real program goes on asking after garbage, and after a service that only hangs up."""
    with babbler([NONSENSE[1], NONSENSE[0]]) as (url, asked), switch(repository, tmp_path, Service(url=url), 0.0):
        until = time.monotonic() + 30
        while len(asked) < 2:
            assert time.monotonic() < until, "it asked once and never again"
            time.sleep(0.02)


def test_it_outlives_a_full_disk(repository: Path, tmp_path: Path, service: Service) -> None:
    """Not a byte of state or log can be written, and it destroys in time all the same, a refusal in between."""
    service.codes = [500]
    with switch(repository, tmp_path, service, 1.5, full=True) as process:
        service.wait(2)
        assert process.poll() is None
    assert not (tmp_path / "alive.json").exists() and (tmp_path / "log.txt").read_bytes() == b""


def test_it_shows_that_it_lives(repository: Path, tmp_path: Path, service: Service) -> None:
    """alive.json names process and seconds left."""
    with switch(repository, tmp_path, service, 300.0) as process:
        until = time.monotonic() + 20
        while not (tmp_path / "alive.json").exists():
            assert time.monotonic() < until
            time.sleep(0.02)
        assert str(process.pid) in (tmp_path / "alive.json").read_text()
    assert service.asked == []


@pytest.mark.parametrize("package", ["gpurent_deadman", "gpurent_engine"])
def test_what_runs_on_hosts_is_python_3_10(repository: Path, package: str) -> None:
    """Rented images still carry it."""
    sources = sorted((repository / "remote" / package).rglob("*.py"))
    assert sources
    for source in sources:
        ast.parse(source.read_text(encoding="utf-8"), str(source), feature_version=(3, 10))


def test_the_switch_needs_the_standard_library_only(repository: Path) -> None:
    """It has to run on a machine where nothing was installed yet."""
    tree = ast.parse((repository / "remote" / "gpurent_deadman" / "deadman.py").read_text(encoding="utf-8"))
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {name.split(".")[0] for name in names} <= sys.stdlib_module_names


@given(
    after=st.integers(0, 10**6),
    first=st.integers(0, 10**6),
    hold=st.integers(0, 10**6),
    orders=st.lists(st.tuples(st.integers(0, 1000), st.integers(-10, 10**7), st.integers(0, 10**7), st.booleans())),
)
def test_no_order_moves_the_end_beyond_the_budget(
    after: int, first: int, hold: int, orders: list[tuple[int, int, int, bool]]
) -> None:
    """Whatever a client, or somebody who claims to be one, writes: the cap of the start stands."""
    switch = deadman.Switch(0.0, after, first, hold)
    now = 0.0
    for number, (wait, seconds, kept, working) in enumerate(orders):
        now += wait
        switch.obey({"nonce": f"n{number}", "seconds": seconds, "hold": kept}, now)
        assert now + switch.left(now, working) <= after
    assert switch.left(after, busy=True) <= 0


def test_without_an_order_it_ends_early() -> None:
    """Nobody has compared the real price with the agreed one yet, so only part of the time is given."""
    switch = deadman.Switch(0.0, 3600, 1800, 10_000)
    assert switch.left(0.0, busy=False) == 1800
    switch.obey({"nonce": "a", "seconds": 3500, "hold": 10_000}, 60.0)
    assert switch.left(60.0, busy=False) == 3500


def test_a_client_that_falls_silent_leaves_time_for_the_job_and_then_for_its_results() -> None:
    """While a job works the switch waits; ``hold`` seconds after its end nobody has come, and it ends the machine."""
    switch = deadman.Switch(0.0, 10_000, 10_000, 600)
    switch.obey({"nonce": "a", "seconds": 9000, "hold": 300}, 10.0)
    assert switch.left(1000.0, busy=True) == 300
    assert switch.left(1299.0, busy=False) == 1
    assert switch.left(1301.0, busy=False) < 0


@pytest.mark.parametrize(
    "order",
    [
        None, [], "x", {}, {"nonce": "a"}, {"nonce": "a", "seconds": "9", "hold": 1}, {"nonce": "a", "seconds": None},
        {"nonce": 10**5000, "seconds": 9, "hold": 9}, {"nonce": "a", "seconds": float("nan"), "hold": 9},
    ],
)  # fmt: skip
def test_an_order_that_makes_no_sense_changes_nothing(order: object) -> None:
    """Half a file, another file, other types: the former order stands."""
    switch = deadman.Switch(0.0, 100, 100, 50)
    switch.obey(order, 10.0)
    assert switch.left(10.0, busy=False) == 40 and switch.nonce == ""


def test_the_same_order_is_no_new_sign_of_life() -> None:
    """A file that merely lies there does not keep a machine alive."""
    switch = deadman.Switch(0.0, 1000, 1000, 50)
    for now in (10.0, 40.0):
        switch.obey({"nonce": "a", "seconds": 900, "hold": 50}, now)
    assert switch.left(40.0, busy=False) == 20


def test_it_answers_an_order_and_obeys_it(repository: Path, tmp_path: Path, service: Service) -> None:
    """The real program: a nonce comes back with the new time left, and the machine is destroyed by then."""
    with switch(repository, tmp_path, service, 300.0):
        order = {"nonce": "n-1", "seconds": 2, "hold": 600}
        (tmp_path / "order.part").write_text(json.dumps(order))
        (tmp_path / "order.part").replace(tmp_path / "order.json")
        began = time.monotonic()
        service.wait(1)
        assert service.asked[0][0] - began < 30
    state = json.loads((tmp_path / "alive.json").read_text())
    assert state["nonce"] == "n-1" and state["armed"] is True and state["left"] <= 0


def test_it_says_when_it_has_no_key(repository: Path, tmp_path: Path, service: Service) -> None:
    """A service that did not put the instance's own key into the environment: not armed, and honest about it."""
    init = tmp_path / "environ"
    init.write_bytes(b"HOME=/root\0")
    with switch(repository, tmp_path, service, 300.0, init=str(init)):
        until = time.monotonic() + 20
        while not (tmp_path / "alive.json").exists():
            assert time.monotonic() < until
            time.sleep(0.02)
        assert json.loads((tmp_path / "alive.json").read_text())["armed"] is False


@pytest.mark.parametrize("seconds", [10**400, -(10**400)])
@pytest.mark.parametrize("hold", [10**400, -(10**400)])
def test_numbers_that_no_clock_knows_are_cut_to_what_it_does(seconds: int, hold: int) -> None:
    """An order of absurd size neither ends the switch with an error nor moves the end beyond the budget."""
    switch = deadman.Switch(0.0, 1000, 1000, 50)
    switch.obey({"nonce": "a", "seconds": seconds, "hold": hold}, 10.0)
    assert switch.nonce == "a" and -10.0 <= switch.left(10.0, busy=False) <= 990


def options(after: int, at: float, first: int, hold: int) -> argparse.Namespace:
    fuse = ["--after", str(after), "--at", str(at), "--first", str(first), "--hold", str(hold)]
    return deadman.parse([*fuse, "--url", "http://127.0.0.1:1/"])


@given(
    after=st.integers(0, 10**6),
    late=st.integers(-(10**6), 10**6),
    first=st.integers(0, 10**6),
    skew=st.integers(-(10**6), 10**6),
)
def test_no_start_reaches_beyond_the_wall_clock_or_its_own_seconds(
    after: int, late: int, first: int, skew: int
) -> None:
    """Creation counts, not boot, where the host's clock is right; a wrong one never lengthens beyond boot + after."""
    created = 1_800_000_000.0
    at, booted = created + after, created + late
    switch = deadman.begin(options(after, at, first, 10**7), 50.0, booted + skew, None)
    unproven = switch.left(50.0, busy=True)
    assert unproven <= first
    assert unproven <= max(0.0, created + first - booted - skew)
    switch.obey({"nonce": "a", "seconds": 10**7, "hold": 10**7}, 50.0)
    left = switch.left(50.0, busy=True)
    assert left <= after
    assert left <= max(0.0, at - booted - skew)


@given(
    after=st.integers(1, 10**5),
    first=st.integers(1, 10**5),
    skew=st.integers(-(10**6), 10**6),
    lives=st.lists(st.tuples(st.integers(0, 5000), st.integers(0, 5000), st.booleans()), max_size=8),
)
def test_no_number_of_restarts_lengthens_anything(
    after: int, first: int, skew: int, lives: list[tuple[int, int, bool]]
) -> None:
    """A container that restarts again and again ends when its first start said, even where the clock is wrong."""
    begun = wall = 1_800_000_000.0
    said: object = None
    until = begun + min(after, first)
    for number, (down, up, ordered) in enumerate(lives):
        wall += down if said is not None else 0
        switch = deadman.begin(options(after, begun + after, first, 10**7), 0.0, wall + skew, said)
        assert wall + switch.left(0.0, busy=True) <= max(until, wall) + 1e-3
        wall += up
        if ordered:
            switch.obey({"nonce": f"n{number}", "seconds": 10**7, "hold": 10**7}, up)
            until = max(until, begun + after)
        assert wall + switch.left(up, busy=True) <= max(until, wall) + 1e-3
        said = {"cap": switch.cap - up + wall + skew, "end": switch.end - up + wall + skew}
    assert until <= begun + after


@pytest.mark.parametrize("shown", [None, [], {"cap": "x", "end": 1.0}, {"cap": 10**400, "end": 10**400}, {"end": 5.0}])
def test_what_an_earlier_start_left_damaged_changes_nothing(shown: object) -> None:
    """Half a file, or one of an older version: as if the machine had just started."""
    switch = deadman.begin(options(100, 1000.0, 60, 10**6), 5.0, 900.0, shown)
    assert switch.left(5.0, busy=True) == 60
    assert switch.cap == 105.0


def alive(folder: Path, process: subprocess.Popen[bytes]) -> dict[str, object]:
    """What this very process shows."""
    until = time.monotonic() + 20
    while True:
        try:
            state = json.loads((folder / "alive.json").read_text())
        except (OSError, ValueError):
            state = {}
        if state.get("pid") == process.pid:
            assert isinstance(state, dict)
            return state
        assert time.monotonic() < until
        time.sleep(0.02)


def test_a_container_that_starts_again_is_not_given_the_time_again(
    repository: Path, tmp_path: Path, service: Service
) -> None:
    """The real program, twice: an order that lies there from before the restart lengthens nothing."""
    at = time.time() + 600
    (tmp_path / "order.json").write_text(json.dumps({"nonce": "before", "seconds": 3600, "hold": 3600}))
    with switch(repository, tmp_path, service, 3600.0, at=str(at)) as process:
        left = alive(tmp_path, process)["left"]
        assert isinstance(left, float) and 500 < left <= 600
    (tmp_path / "order.json").write_text(json.dumps({"nonce": "after", "seconds": 3600, "hold": 3600}))
    with switch(repository, tmp_path, service, 3600.0, at=str(at)) as process:
        state = alive(tmp_path, process)
        assert isinstance(state["end"], float) and state["end"] <= at + 0.1
    assert service.asked == []


def test_a_restart_where_the_clock_is_wrong_is_not_given_the_time_again(
    repository: Path, tmp_path: Path, service: Service
) -> None:
    """The host believes in another day: what the first start showed holds for the second."""
    with switch(repository, tmp_path, service, 8.0, at=str(time.time() + 10**6)) as process:
        first = alive(tmp_path, process)["end"]
    time.sleep(1.0)
    with switch(repository, tmp_path, service, 8.0, at=str(time.time() + 10**6)) as process:
        second = alive(tmp_path, process)["end"]
        assert isinstance(first, float) and isinstance(second, float) and second <= first + 0.1
        service.wait(1)


def test_the_bill_starts_before_the_switch_does(repository: Path, tmp_path: Path, service: Service) -> None:
    """A machine that took long to boot has that much less time: the moment itself is given too."""
    with switch(repository, tmp_path, service, 300.0, at=str(time.time() + 1)):
        service.wait(1)


def test_a_host_whose_clock_is_hours_ahead_has_its_time(repository: Path, tmp_path: Path, service: Service) -> None:
    """By its own clock time is up before it begins; the service, which knows the time, says how much is left."""
    service.slow_s = 3 * 3600.0
    with switch(repository, tmp_path, service, 3600.0, at=str(time.time() - service.slow_s + 600)) as process:
        left = alive(tmp_path, process)["left"]
        assert isinstance(left, float) and 500 < left <= 601 and service.asked == []


@pytest.mark.parametrize("slow_s", [0.0, 60.0, 600.0])
def test_time_that_is_up_by_the_service_s_clock_too_is_up(
    repository: Path, tmp_path: Path, service: Service, slow_s: float
) -> None:
    """A container that was started again after its deadline; a clock that is a little off changes nothing."""
    service.slow_s = slow_s
    with switch(repository, tmp_path, service, 3600.0, at=str(time.time() - 601)):
        service.wait(1)


def test_a_clock_that_nobody_can_correct_counts(repository: Path, tmp_path: Path) -> None:
    """No service answers: the switch sets about ending the machine, which needs the service all the same."""
    nobody = Service(url="http://127.0.0.1:9")
    with switch(repository, tmp_path, nobody, 3600.0, at=str(time.time() - 601)) as process:
        assert alive(tmp_path, process)["left"] == 0.0
