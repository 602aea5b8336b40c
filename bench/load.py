"""Long ledgers, long listings, large datasets, each against the plain way to do it. ``python -m bench.load``

* a run that is read once a second: only new lines are added up, against adding up all of them;
* ``gpurent status`` over 100,000 lines, against an interpreter that only reads and parses them;
* 500 machines through each look-alike, against httpx fetching the same pages one after the other;
* checking pictures, against a loop that decodes and hashes one after the other.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
from PIL import Image

from bench.measure import compare, say
from gpurent.budget.events import Kind, encode
from gpurent.budget.ledger import Ledger
from gpurent.budget.state import fold
from gpurent.clock import ManualClock, SystemClock
from gpurent.dataset import pictures
from gpurent.model import Offer, Price
from gpurent.money import Usd
from gpurent.spi import Provider
from gpurent_engine.data import scan
from gpurent_providers.runpod.provider import RunPodProvider
from gpurent_providers.vastai.provider import VastProvider
from gpurent_sandbox.catalogue import default_machines
from gpurent_sandbox.held import Order
from gpurent_sandbox.server import Sandbox

LINES, A_RUN, MACHINES, PICTURES, ROUNDS = 100_000, 2_500, 500, 600, 3
OFFER = Offer("cloud", "o1", "RTX 4090", 24_000, Price(Usd.parse("0.4")))
PARSE = """
import json, sqlite3, sys
for (data,) in sqlite3.connect(sys.argv[1]).execute("SELECT data FROM events ORDER BY seq"):
    json.loads(data)
"""
SHOWN: dict[str, dict[str, Any]] = {
    "vast": {"runtype": "ssh_direct", "env": [], "args": [], "direct": True},
    "runpod": {"args": "", "ports": ["22/tcp"]},
}


def write(path: Path, count: int) -> str:
    """A ledger of finished trainings with so many lines; the last run's id."""
    Ledger.open(path, ManualClock()).close()
    raw, at, run = sqlite3.connect(path), 1.8e9, ""
    for number in range(count // A_RUN):
        run = f"20270115-{number:06d}-aaaa"
        tag = f"gpurent-{run}-1"
        client = {"pid": 1, "start": 1.0, "host": "h"}
        lines: list[tuple[str | None, Kind, dict[str, object]]] = [
            (None, Kind.RUN_OPENED, {"name": "cat", "budget_micros": 1, "output_dir": "out", "client": client}),
            (tag, Kind.INTENT, {"provider": "cloud", "offer": OFFER, "price": OFFER.price, "disk_gb": 20,
                                "hourly_micros": 1, "reserved_micros": 0, "soft_deadline": at, "hard_deadline": at}),
            (tag, Kind.CREATED, {"ref": "i-1"}),
            (tag, Kind.REACHABLE, {}),
            (tag, Kind.JOB_STARTED, {"job_id": tag}),
            *((tag, Kind.PROGRESS, {"job_id": tag, "step": step, "total": A_RUN, "avg_loss": 0.1, "it_s": 3.2,
                                    "bytes_in": 10**9, "bytes_out": 10**7}) for step in range(A_RUN - 7)),
            (tag, Kind.GONE, {}),
            (None, Kind.RUN_CLOSED, {"outcome": "done"}),
        ]  # fmt: skip
        rows = [(at + n, run, one, kind.value, encode(kind, data)) for n, (one, kind, data) in enumerate(lines)]
        raw.executemany("INSERT INTO events (at, run_id, tag, kind, data) VALUES (?, ?, ?, ?, ?)", rows)
        at += len(rows)
    raw.commit()
    raw.close()
    return run


def ledger(folder: Path) -> None:
    path = folder / "ledger.db"
    run = write(path, LINES)
    with closing(Ledger.open(path, ManualClock())) as opened:
        opened.run(run)
        found = compare(lambda: opened.run(run), lambda: fold(opened.events(run)), ROUNDS)
        say(f"a run of {A_RUN} lines, read again", found, "all its lines added up")
    command, environ = str(Path(sys.executable).parent / "gpurent"), {**os.environ, "GPURENT_STATE_DIR": str(folder)}
    found = compare(
        lambda: subprocess.run([command, "status"], env=environ, check=True, capture_output=True),
        lambda: subprocess.run([sys.executable, "-c", PARSE, str(path)], check=True),
        ROUNDS,
    )
    say(f"gpurent status over {LINES} lines", found, "python reads and parses them")


def pages(url: str, key: str, path: str, token: str, *, name: str, query: dict[str, str]) -> Callable[[], object]:
    """The plain way: one page after the other, as fast as the service answers."""

    def fetch() -> int:
        count, after = 0, None
        with httpx.Client(base_url=url, headers={"Authorization": f"Bearer {key}"}, timeout=60) as client:
            while True:
                found = client.get(path, params={**query, **({token: after} if after else {})}).json()
                count += len(found[name])
                after = found.get("next_token") or found.get("pagination", {}).get("nextCursor")
                if not after:
                    return count

    return fetch


def listing(api: str, make: Callable[[str, str, SystemClock], Provider], plain: dict[str, str]) -> None:
    machine = replace(default_machines(random.Random(1))[0], stock=2 * MACHINES, boot_s=3600.0)
    with Sandbox(machines=[machine], seed=1) as sandbox:
        for number in range(MACHINES):
            order = Order(machine.id, f"gpurent-x-{number}", "image", 10, "", api=api, shown=SHOWN[api])
            sandbox.market.create(order)
        with closing(make(sandbox.url, sandbox.account_key, SystemClock())) as provider:
            assert len(provider.instances()) == MACHINES
            query = json.loads(plain["query"])
            fetch = pages(sandbox.url, sandbox.account_key, plain["path"], plain["token"], plain["name"], query)
            say(f"{MACHINES} machines of {api}", compare(provider.instances, fetch, ROUNDS), "httpx, the same pages")


def dataset(folder: Path) -> None:
    concept = folder / "data" / "1_cat"
    concept.mkdir(parents=True)
    noise = random.Random(1)
    for number in range(PICTURES):
        small = Image.frombytes("RGB", (16, 16), noise.randbytes(768))
        small.resize((768, 768)).save(concept / f"{number}.jpg")
        (concept / f"{number}.txt").write_text(f"zqx cat, {number}")
    found = scan(folder / "data")

    def plainly() -> None:
        for image in found.images:
            with Image.open(image.path) as picture:
                picture.verify()
            with Image.open(image.path) as picture:
                picture.load()
            hashlib.sha256(image.path.read_bytes()).hexdigest()

    ours = compare(lambda: pictures.decode(found, lambda _done, _total: None), plainly, ROUNDS)
    say(f"{PICTURES} pictures checked", ours, "one after the other")


def main() -> None:
    with tempfile.TemporaryDirectory() as scratch:
        ledger(Path(scratch))
        dataset(Path(scratch))
    order = {"select_filters": "{}", "order_by": '[{"col":"id","dir":"asc"}]', "limit": "25"}
    vast = {"path": "/api/v1/instances/", "token": "after_token", "name": "instances", "query": json.dumps(order)}
    listing("vast", VastProvider, vast)
    listing("runpod", RunPodProvider, {"path": "/v2/pods", "token": "cursor", "name": "pods", "query": "{}"})


if __name__ == "__main__":
    main()
