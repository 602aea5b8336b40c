"""The engine's process that takes job after job of one rental, as its client sees it.

The other end is ``gpurent_engine.serve``. A job is handed over by a hard link to a name that must not exist yet: only
one of both sides gets it, the client for an order or the engine for its end, whatever the link between them does.
"""

from __future__ import annotations

import json
import posixpath
from dataclasses import dataclass, field
from typing import Literal

from gpurent.spi import Host, Runtime

Kind = Literal["job", "grid"]
IDLE_S = 300.0
"""After so long without a job the process ends. Until then the dead-man switch takes the machine for one that works."""
GIVE_S = 30.0

_GIVE = """\
{ ln @ORDER@.new @ORDER@ 2>/dev/null || cmp -s @ORDER@.new @ORDER@; } && mkdir -p @JOB@/started &&
if [ -s @ENGINE@/pid ]; then cp @ENGINE@/pid @JOB@/pid.part && mv @JOB@/pid.part @JOB@/pid; fi
"""
"""May be repeated: an order that is there already has to be this one.

With ``started`` and the process's ``pid`` the job is asked after as one that has a process of its own.
"""


@dataclass
class EngineServer:
    """Which process of a rental takes jobs, and how many it was given."""

    tag: str
    idle_s: float = IDLE_S
    _begun: int = field(default=0, init=False)
    """Processes so far."""
    _given: int = field(default=0, init=False)
    """Jobs that the last of them was given."""
    _fit: bool = field(default=False, init=False)
    """Whether it is to be given another one."""

    @property
    def job_id(self) -> str:
        """Of the process, on the host."""
        return f"{self.tag}-engine-{self._begun}"

    def drop(self) -> None:
        """A job has failed in it: the next one gets a process of its own, and this one ends."""
        self._fit = False

    def end(self, host: Host) -> None:
        """End the process, if there is one. Raises HostError."""
        if self._fit:
            self._fit = False
            host.kill_job(self.job_id)

    def give(self, host: Host, job_id: str, engine: str, runtime: Runtime, *, kind: Kind = "job") -> bool:
        """Hand over the job whose ``job.json`` lies in its folder; start a process where there is none.

        Args:
            host: where to.
            job_id: of the job.
            engine: folder of the engine, absolute.
            runtime: the Python to run it with.
            kind: ``grid`` for one that lies there as ``grid.json``.

        Returns:
            Whether one has it. A host without hard links never has.

        Raises:
            HostError: as ``Host.run``.
        """
        for _ in range(2):
            if not (self._fit and host.job_status(self.job_id) is None):
                self._start(host, engine, runtime)
            if self._handed(host, job_id, runtime, kind):
                self._given += 1
                return True
            self._fit = False  # it has just ended for want of work
        return False

    def _start(self, host: Host, engine: str, runtime: Runtime) -> None:
        self._begun, self._given, self._fit = self._begun + 1, 0, True
        orders = posixpath.join(runtime.home, self._orders)
        host.start_job(
            self.job_id,
            [runtime.python, "-m", "gpurent_engine", "serve", "--orders", orders, "--idle", f"{self.idle_s:g}"],
            {"PYTHONPATH": engine, "PYTHONUNBUFFERED": "1"},
        )

    @property
    def _orders(self) -> str:
        return f".gpurent/jobs/{self.job_id}/orders"

    def _handed(self, host: Host, job_id: str, runtime: Runtime, kind: Kind) -> bool:
        folder = f".gpurent/jobs/{job_id}"
        order = f"{self._orders}/{self._given + 1}.json"
        wanted = json.dumps({kind: posixpath.join(runtime.home, folder, f"{kind}.json")})
        host.put_bytes(wanted.encode(), f"{order}.new")
        words = {"ORDER": order, "JOB": folder, "ENGINE": f".gpurent/jobs/{self.job_id}"}
        script = _GIVE
        for name, word in words.items():
            script = script.replace(f"@{name}@", word)
        return host.run(script, timeout=GIVE_S).status == 0
