"""The process that holds a session open for shells: detached, it takes orders from the run's folder until the end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import uuid
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter

from gpurent.broker import Broker, Trained
from gpurent.cli.common import open_broker
from gpurent.clock import Clock
from gpurent.dataset.find import look
from gpurent.dataset.job import Job
from gpurent.errors import GpurentError, InDoubt, UsageError
from gpurent.jobs import hublook, orders
from gpurent.jobs.basemodel import Hubs
from gpurent.jobs.detached import APART
from gpurent.jobs.options import RunOptions, SessionOptions
from gpurent.jobs.orders import Order, Reply
from gpurent.jobs.signals import HANGUP
from gpurent.localfiles import private_folder
from gpurent.model import Need
from gpurent.money import Usd
from gpurent.settings import load_settings
from gpurent.verbs.sessions import Session

LOOK_S = 0.3
LINGER_MINUTES = 60.0
"""A session without a machine closes by itself after so long: nobody sees it any more."""
OPEN_S = 60.0
"""For the process to say that it has opened a session."""


@dataclass(frozen=True, slots=True)
class Opening:
    """What a session is to be opened with."""

    budget_micros: int
    need: Need
    base_model: str | None
    options: RunOptions
    idle_minutes: float


def begin(home: Path, opening: Opening, clock: Clock) -> str:
    """Start a process that outlives this one, with a session; return the session's id.

    Raises:
        UsageError: it could not be opened, and nothing was reserved.
        InDoubt: the process does not say what it does.
    """
    path = private_folder(home / "sessions") / f"{uuid.uuid4().hex}.json"
    path.write_bytes(TypeAdapter(Opening).dump_json(opening))
    with path.with_suffix(".log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "gpurent.cli.app", "session", "keep", str(path)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            creationflags=APART,
            env={**os.environ, "GPURENT_STATE_DIR": str(home)},
        )
    told, until = path.with_suffix(".opened"), clock.monotonic() + OPEN_S
    while not told.exists() and process.poll() is None and clock.monotonic() < until:
        clock.sleep(0.1)
    if not told.exists():
        log_path = path.with_suffix(".log")
        raise InDoubt(f"The session did not open; {log_path} says more.", hint="`gpurent session status` shows it.")
    said = json.loads(told.read_text(encoding="utf-8"))
    told.unlink()
    if "error" in said:
        raise UsageError(said["error"], hint=said["hint"])
    return str(said["run_id"])


def keep(path: Path) -> int:
    """Open the session that ``path`` describes, and serve its orders until it ends."""
    if HANGUP is not None:
        signal.signal(HANGUP, signal.SIG_IGN)
    opening = TypeAdapter(Opening).validate_json(path.read_bytes())
    path.unlink()
    with open_broker() as broker:
        try:
            session = broker.session(
                opening.need,
                opening.base_model,
                budget=Usd(opening.budget_micros),
                options=opening.options,
                session=SessionOptions(opening.idle_minutes, LINGER_MINUTES),
                tell=lambda event: print(event, flush=True),
            )
        except GpurentError as error:
            _tell(path, {"error": str(error), "hint": error.hint})
            return 2
        _tell(path, {"run_id": session.run_id})
        asked = _Asked()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, asked)
        _serve(broker, session, asked)
        session.close()
    return 0


def _tell(path: Path, said: dict[str, str]) -> None:
    part = path.with_suffix(".part")
    part.write_text(json.dumps(said), encoding="utf-8")
    part.replace(path.with_suffix(".opened"))


@dataclass
class _Asked:
    """Whether a signal asks the session to end. A handler may start no thread: its caller may hold what that needs."""

    signals: int = 0

    def __call__(self, *_: object) -> None:
        """As a handler of signals."""
        self.signals += 1


def _serve(broker: Broker, session: Session, asked: _Asked) -> None:
    run_dir = broker.run_dir(session.run_id)
    threads: list[threading.Thread] = []
    closing: threading.Thread | None = None
    while not session.over:
        if asked.signals and closing is None:
            closing = threading.Thread(target=session.close, kwargs={"save": True}, daemon=True)
            closing.start()
        _answer(broker, session, threads)
        broker.clock.sleep(LOOK_S)
    for thread in threads:
        thread.join(OPEN_S)
    for number, _ in orders.take(run_dir):
        Reply(run_dir, number).failed(UsageError("the session is closed", hint="`gpurent session open` opens one."))


def _answer(broker: Broker, session: Session, threads: list[threading.Thread]) -> None:
    run_dir = broker.run_dir(session.run_id)
    for number, order in orders.take(run_dir):
        reply = Reply(run_dir, number)
        if isinstance(order, UsageError):
            reply.failed(order)
            continue
        thread = threading.Thread(target=_train, args=(broker, session, order, reply), daemon=True)
        thread.start()
        threads.append(thread)


def _train(broker: Broker, session: Session, order: Order, reply: Reply) -> None:
    try:
        made = session.train(read(order, broker), tell=reply.say)
        reply.done(result_of(made, session.left))
    except GpurentError as error:
        reply.failed(error)
    except Exception as error:  # noqa: BLE001  who waits is told; the session goes on
        print(f"order {reply.number}: {type(error).__name__}: {error}", flush=True)
        reply.failed(UsageError(f"the session could not train it: {type(error).__name__}: {error}"))


def read(order: Order, broker: Broker) -> Job:
    """The job of an order, checked. Raises UsageError."""
    here = Path(order.folder)
    job = look(
        here,
        settings=load_settings(here),
        config=Path(order.config),
        dataset=None if order.dataset is None else Path(order.dataset),
        output=None if order.output is None else Path(order.output),
        name=order.name,
    ).result()
    return hublook.look(job, Hubs.of(tuple(broker.settings.job.hubs), os.environ))


def result_of(made: Trained, left: Usd) -> dict[str, object]:
    """JSON of what one job brought."""
    share = made.share
    return {
        "run_id": made.run_id,
        "files": [str(path) for path in made.files],
        "final_loss": made.final_loss,
        "stopped": made.stopped,
        "setup_micros": 0 if share is None else share.setup.micros,
        "training_micros": 0 if share is None else share.training.micros,
        "left_micros": left.micros,
    }
