"""What a shell says to a session: open it, hand in a job and follow it, ask how it stands, close it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from rich.table import Table
from rich.text import Text

from gpurent.broker import Broker
from gpurent.budget.events import Kind
from gpurent.budget.state import Run
from gpurent.cli import output, sessionkeeper
from gpurent.cli.asking import confirm
from gpurent.cli.common import open_broker, read_job
from gpurent.cli.live import JsonView, LiveView
from gpurent.cli.quote import NeedOptions
from gpurent.cli.renting import agreed, require_budget, require_consent, warn_of_doubt
from gpurent.cli.train import describe
from gpurent.dataset.job import Job
from gpurent.errors import InDoubt, Interrupted, UsageError
from gpurent.jobs import hublook, orders
from gpurent.jobs.basemodel import Hubs
from gpurent.jobs.options import RunOptions, SessionOptions
from gpurent.jobs.orders import Answer, Order, Reply
from gpurent.model import Need
from gpurent.money import Usd, per_hour
from gpurent.plan.leftover import idle_cost
from gpurent.plan.quote import Quote, QuoteRow, require_offer
from gpurent.report.session import SessionStatus, is_session, need_of, session_status
from gpurent.verbs.sessions import named
from gpurent.words import counted

LOOK_S = 0.3
CLOSE_S = 1800.0
"""For a session to save, collect and destroy, after it was asked to."""


@dataclass(frozen=True)
class OpenOptions:
    """Options of ``session open``."""

    budget: Usd | None
    idle_minutes: float
    base_model: str | None
    config: Path | None
    need: NeedOptions
    run: RunOptions
    dry_run: bool
    yes: bool
    as_json: bool


@dataclass(frozen=True)
class RunOne:
    """Options of ``session run``."""

    session: str | None
    config: Path | None
    dataset: Path | None
    output: Path | None
    name: str | None
    dry_run: bool
    yes: bool
    as_json: bool


def open_session(options: OpenOptions) -> int:
    """Say what it may cost, ask, and start the process that holds it."""
    idle_s = SessionOptions(options.idle_minutes).idle_s
    base = None if options.base_model is None else named(options.base_model)
    with open_broker() as broker:
        budget = require_budget(broker, options.budget, "session open")
        need = options.need.over(broker.need)
        quote = None
        if options.config is not None or (Path.cwd() / broker.settings.job.config).is_file():
            job = read_job(broker, options.config, None, None, quiet=options.as_json)
            quote = broker.quote(job, need, budget=budget)
        if options.dry_run:
            _say_quote(quote, idle_s, as_json=options.as_json)
            if quote is not None:
                require_offer(quote, budget)
            return 0
        if not options.as_json:
            warn_of_doubt(broker)
            _say_quote(quote, idle_s, as_json=False)
        require_consent(yes=options.yes, as_json=options.as_json)
        what = f"Open a session, which may spend at most {budget.rounded()}, waiting included?"
        if not options.yes and not confirm(Text(what), output.console):
            raise Interrupted("No session was opened.")
        opening = sessionkeeper.Opening(budget.micros, need, base, options.run, options.idle_minutes)
        run_id = sessionkeeper.begin(broker.home, opening, broker.clock)
    if options.as_json:
        output.print_json({"run_id": run_id, "budget_micros": budget.micros, "idle_s": idle_s})
        return 0
    output.console.print(f"Session {run_id} is open; nothing is rented yet.")
    output.console.print(
        "`gpurent session run CONFIG` trains a LoRA in it, `gpurent session close` ends it.", soft_wrap=True
    )
    return 0


def _say_quote(quote: Quote | None, idle_s: float, *, as_json: bool) -> None:
    row = quote.rows[0] if quote is not None and quote.rows else None
    waiting = None if row is None else idle_cost(row.hourly, idle_s)
    if as_json:
        told = None if quote is None else output.quote_dict(quote, 5)
        output.print_json({"quote": told, "idle_s": idle_s, "idle_micros": None if waiting is None else waiting.micros})
        return
    if quote is not None:
        output.print_quote(quote, 5)
    cost = "" if waiting is None else f", for {waiting.rounded(4)} each time on the first offer"
    output.console.print(
        f"Between two jobs the machine waits for up to {idle_s / 60:g} min{cost}; then it is terminated, and the next "
        "job rents another one.",
        soft_wrap=True,
    )


def run(options: RunOne) -> int:
    """Check the job here, ask, hand it in, and follow it."""
    with open_broker() as broker:
        session = _the_session(broker, options.session)
        job = _job(broker, options)
        now = session_status(session, broker.clock.now())
        if not options.as_json:
            describe(job)
        if not _asked(broker, job, now, options, need=need_of(session)):
            return 0
        order = Order(
            str(job.config_path.absolute()),
            str(Path.cwd()),
            dataset=None if options.dataset is None else str(options.dataset.absolute()),
            output=None if options.output is None else str(options.output.absolute()),
            name=options.name,
        )
        run_dir = broker.run_dir(session.id)
        reply = Reply(run_dir, orders.hand_in(run_dir, order))
        made = _followed(broker, session.id, Answer(reply), as_json=options.as_json)
    return _shown(made, as_json=options.as_json)


def _job(broker: Broker, options: RunOne) -> Job:
    job = read_job(broker, options.config, options.dataset, options.output, quiet=options.as_json, name=options.name)
    return hublook.look(job, Hubs.of(tuple(broker.settings.job.hubs), os.environ))


def _asked(broker: Broker, job: Job, now: SessionStatus, options: RunOne, *, need: Need | None) -> bool:
    """Show what the job may cost, and ask; False where nothing is to be done. Raises as ``agreed``."""
    if now.machine:
        price = f"{now.hourly.rounded(3)}/h; {now.left.rounded(4)} are left"
        text = f"{job.name} is trained on the session's {now.machine} at {price}."
        if options.dry_run:
            output.print_json(now.to_dict()) if options.as_json else output.console.print(text, soft_wrap=True)
            return False
        require_consent(yes=options.yes, as_json=options.as_json)
        if not options.as_json:
            output.console.print(text, soft_wrap=True)
        if not options.yes and not confirm(Text(f"Train {job.name}?"), output.console):
            raise Interrupted("Nothing was begun.")
        return True
    quote = broker.quote(job, need, budget=now.left)
    if options.dry_run:
        output.print_json(output.quote_dict(quote, 5)) if options.as_json else output.print_quote(quote, 5)
        require_offer(quote, now.left)
        return False
    best: QuoteRow = require_offer(quote, now.left)
    show = partial(output.print_quote, quote, 5)
    if not agreed(best, now.left, f" for {job.name}", show, yes=options.yes, as_json=options.as_json):
        raise Interrupted("Nothing was rented.")
    return True


def _followed(broker: Broker, run_id: str, answer: Answer, *, as_json: bool) -> dict[str, object]:
    """Show what happens until the result is there. Ctrl-C leaves: the session goes on."""
    view = JsonView() if as_json else LiveView()
    hint = f"`gpurent session status {run_id}` shows it, `gpurent session close {run_id}` saves and ends it."
    try:
        with view:
            while answer.result is None:
                gone = run_id not in broker.live_runs()
                for event in answer.events():
                    view(event)
                if answer.result is None and gone:
                    raise InDoubt(
                        "The session's process is gone.", refs=(run_id,), hint="`gpurent reap` ends what runs."
                    )
                broker.clock.sleep(LOOK_S)
    except KeyboardInterrupt:
        raise InDoubt("You left; the session goes on with the job.", refs=(run_id,), hint=hint) from None
    return answer.result


def _shown(made: dict[str, object], *, as_json: bool) -> int:
    if as_json:
        output.print_json_line("trained", made)
    else:
        files, money = made["files"], [Usd(int(str(made[f"{one}_micros"]))) for one in ("training", "setup", "left")]
        for path in files if isinstance(files, list) else ():
            output.console.print(str(path), soft_wrap=True)
        trained, setup, left = (one.rounded(4) for one in money)
        output.console.print(f"Training cost {trained}, set-up so far {setup}; {left} are left of the session.")
    return 130 if made["stopped"] else 0


def status(run_id: str | None, *, as_json: bool) -> int:
    """From the ledger: any shell may ask."""
    with open_broker() as broker:
        run = broker.ledger.run(run_id) if run_id else _the_session(broker, None)
        if not is_session(run):
            raise UsageError(
                f"{run.id} is not a session", hint=f"`gpurent status` shows it, or `gpurent receipt {run.id}`."
            )
        now = session_status(run, broker.clock.now())
        alive = run.id in broker.live_runs()
        if as_json:
            output.print_json({**now.to_dict(), "client_alive": alive})
            return 0
        _print_status(now, broker.clock.now(), alive=alive)
    return 0


def _print_status(now: SessionStatus, at: float, *, alive: bool) -> None:
    gone = "" if alive or now.state == "closed" else ", its process is gone"
    output.console.print(
        f"{now.run_id}  {now.state}{gone}  {now.spent.rounded(4)} of {now.budget.rounded()} spent, "
        f"{now.left.rounded(4)} left",
        soft_wrap=True,
    )
    if now.machine:
        output.console.print(f"  {now.machine} at {now.hourly.rounded(3)}/h")
    if now.idle_until is not None:
        left_s = max(0.0, now.idle_until - at)
        cost = per_hour(now.hourly, round(left_s * 1000)).rounded(4)
        output.console.print(f"  waits for a job for {output.duration(left_s)} more, for {cost}; then it is terminated")
    if now.jobs:
        table = Table(show_header=False, box=None, pad_edge=False, padding=(0, 2, 0, 2))
        for one in now.jobs:
            table.add_row(one.name, one.state)
        output.console.print(table)


def close(run_id: str | None, *, as_json: bool) -> int:
    """Ask the session's own process, or do it here when that is gone; wait for the end."""
    with open_broker() as broker:
        run = broker.ledger.run(run_id) if run_id else _the_session(broker, None)
        if run.outcome is None:
            _end(broker, run)
        receipt = broker.receipt(run.id)
        if as_json:
            output.print_json(receipt.to_dict())
        else:
            output.print_receipt(receipt)
            output.console.print(f"Session {run.id} is closed; {counted(len(receipt.jobs), 'job')} ran in it.")
    return 0


def _end(broker: Broker, run: Run) -> None:
    if run.id not in broker.live_runs():
        if run.open_rentals:
            broker.stop(run.id)
        else:
            broker.reap()
        return
    broker.ledger.append(run.id, Kind.STOP_REQUESTED)
    until = broker.clock.monotonic() + CLOSE_S
    while broker.ledger.run(run.id).outcome is None:
        if run.id not in broker.live_runs():
            broker.reap()
            return
        if broker.clock.monotonic() >= until:
            raise InDoubt(
                "The session has not ended.", refs=(run.id,), hint=f"`gpurent stop {run.id}`, `gpurent reap`."
            )
        broker.clock.sleep(LOOK_S)


def _the_session(broker: Broker, run_id: str | None) -> Run:
    """The one that is named, or the only open one. Raises UsageError."""
    if run_id is not None:
        run = broker.ledger.run(run_id)
        if not is_session(run):
            raise UsageError(f"{run_id} is not a session", hint="`gpurent session open` opens one.")
        if run.outcome is not None:
            raise UsageError(f"the session {run_id} is closed", hint="`gpurent session open` opens another one.")
        return run
    found = [run for run in broker.ledger.open_runs() if is_session(run) and run.outcome is None]
    if not found:
        raise UsageError("No session is open.", hint="`gpurent session open --budget 5` opens one.")
    if len(found) > 1:
        names = ", ".join(run.id for run in found)
        raise UsageError(
            f"Several sessions are open: {names}.", hint="Name one of them: `--session`, or after `status` and `close`."
        )
    return found[0]
