"""What a person needs when a run has failed, in one folder: ``runs/<id>/``."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from gpurent.budget.ledger import Ledger
from gpurent.errors import GpurentError, HostUnfit
from gpurent.localfiles import private_folder
from gpurent.report.failures import UNFIT, UNKNOWN, Failure, diagnose
from gpurent.spi import Host
from gpurent.untrusted.text import block

FILE = "postmortem.json"
TAIL = 20_000
SMI = "command -v nvidia-smi > /dev/null && nvidia-smi; df -h . /tmp; free -m; tail -n 5 /proc/loadavg"


@dataclass(frozen=True, slots=True)
class Postmortem:
    """Why a run failed, and what to do next."""

    run_id: str
    error: str
    message: str
    failure: str
    """Code of a known failure, or ``unknown``."""
    cause: str
    remedy: str
    command: str
    files: tuple[str, ...]
    """What else lies in the run's folder."""


def look_at_host(host: Host, run_dir: Path) -> None:
    """Keep what the machine says of its GPU, disk and memory. Raises HostError when it does not answer."""
    shown = host.run(SMI, timeout=20.0)
    (run_dir / "host.txt").write_text(block(shown.stdout + shown.stderr, TAIL), encoding="utf-8")


def write(ledger: Ledger, run_id: str, run_dir: Path, error: GpurentError) -> Postmortem:
    """Diagnose, and write diagnosis and the run's lines of the ledger into its folder."""
    private_folder(run_dir)
    lines = [
        json.dumps({"seq": one.seq, "at": one.at, "tag": one.tag, "kind": one.kind, "data": dict(one.data)})
        for one in ledger.events()
        if one.run_id == run_id
    ]
    (run_dir / "ledger.jsonl").write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    log = _tail(run_dir / "engine.log")
    found: Failure = diagnose(f"{error}\n{log}", getattr(error, "code", "") or getattr(error, "trait", ""))
    if found is UNKNOWN and isinstance(error, HostUnfit):
        found = UNFIT
    known = found is not UNKNOWN and getattr(error, "code", "") == "internal"  # the engine itself knew no remedy
    remedy = found.remedy if known else error.hint or found.remedy
    files = tuple(sorted(path.name for path in run_dir.iterdir() if path.is_file() and path.suffix != ".lock"))
    made = Postmortem(
        run_id=run_id,
        error=type(error).__name__,
        message=str(error),
        failure=found.code,
        cause=found.cause,
        remedy=remedy,
        command=found.command,
        files=files,
    )
    (run_dir / FILE).write_text(json.dumps(asdict(made), indent=2) + "\n", encoding="utf-8")
    return made


def read(run_dir: Path) -> Postmortem | None:
    """What ``write`` left; None when the run did not fail, or its folder is gone."""
    try:
        given = json.loads((run_dir / FILE).read_text(encoding="utf-8"))
        return Postmortem(**{**given, "files": tuple(given["files"])})
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _tail(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")[-TAIL:]
    except OSError:
        return ""  # no engine has run
