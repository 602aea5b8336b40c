"""A job that stops making progress while its machine answers: when that is noticed, and what is done about it. Pure.

How long an engine may be silent follows from how long it usually is. While it trains it reports every half second, or
after each step where steps take longer; in other phases it says nothing until the phase is over.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from types import MappingProxyType

from gpurent.jobs import events

USUAL_S = 10.0
"""Shortest silence that counts as usual: hosts stutter, and so do their disks."""
FACTOR = 3.0
"""So many times its usual silence, and a job is asked what it does."""
WARM_UP_S = 600.0
"""Until the first step has been reported: kernels are compiled and measured."""
PHASES: Mapping[str, float] = MappingProxyType(
    {"start": 300.0, "load": 1800.0, "cache": 1800.0, "save": 600.0, "prove": 600.0, "done": 600.0}
)
"""Longest silence of phases that have no steps, in seconds. Loading may download the base model."""


class Alarm(IntEnum):
    """What silence has come to."""

    NONE = 0
    LOOK = 1
    """Say so, look at the machine, and wake the job in case that it was stopped."""
    SAVE = 2
    """Ask it to save what it has, and to end."""
    END = 3
    """Nothing helps: the machine is given back."""


@dataclass
class Silence:
    """How long nothing was heard of a job, beside what is usual. Times are seconds of a steady clock."""

    since: float
    """When it was last heard of."""
    phase: str = "start"
    usual_s: float = USUAL_S
    stepped: bool = False
    """Its last word was about a step."""
    alarm: Alarm = Alarm.NONE

    def heard(self, event: events.EngineEvent | None, now: float) -> None:
        """Take note of a sign of life."""
        match event:
            case events.PhaseStarted(name=name):
                self.phase, self.stepped = name, False
            case events.Step() as step:
                if self.stepped and self.alarm is Alarm.NONE:
                    self.usual_s = max(self.usual_s, now - self.since)
                if step.it_s > 0:
                    self.usual_s = max(self.usual_s, 1 / step.it_s)
                self.phase, self.stepped = "train", True
        self.since, self.alarm = now, Alarm.NONE

    def excuse(self, now: float) -> None:
        """It could not be heard: the link was dead."""
        self.since, self.alarm = now, Alarm.NONE

    @property
    def limit_s(self) -> float:
        """The longest silence that raises no alarm."""
        if self.phase != "train":
            return PHASES.get(self.phase, WARM_UP_S)
        return FACTOR * self.usual_s if self.stepped else WARM_UP_S

    def raised(self, now: float) -> Alarm:
        """The next alarm if it is due, each once: after the limit, after half of it again, and after twice the limit.

        The last one waits long enough for a job that has been woken to save.
        """
        due = (self.limit_s, 1.5 * self.limit_s, 2 * self.limit_s)
        if self.alarm is Alarm.END or now - self.since < due[self.alarm]:
            return Alarm.NONE
        self.alarm = Alarm(self.alarm + 1)
        return self.alarm


WAKE = """\
cd @FOLDER@ 2>/dev/null && [ -s pid ] || exit 0
g=$(cat pid)
for d in /proc/[0-9]*; do
  p=${d#/proc/}
  [ "$(sed 's/.*) //' $d/stat 2>/dev/null | cut -d ' ' -f 3)" = "$g" ] || continue
  s=$(sed -n 's/^State:[[:space:]]*//p' /proc/$p/status 2>/dev/null) || continue
  echo "process $p: $s, waits in $(cat /proc/$p/wchan 2>/dev/null || echo '?'), $(tr '\\0' ' ' < /proc/$p/cmdline)"
  c=$(sed -n 's/^SigCgt:[[:space:]]*//p' /proc/$p/status 2>/dev/null)
  m=$(printf %s "$c" | sed 's/.*\\(.\\)..$/\\1/')
  case $m in 2|3|6|7|a|b|e|f|A|B|E|F) kill -s USR1 $p ;; esac
done
kill -s CONT -- "-$g" 2>/dev/null || true
"""
"""Says what a job's processes do, has those that can write where they are into their log, and wakes stopped ones.

USR1 is signal 10: bit 9 of the mask of caught signals, whose third hexadecimal digit from the right holds bits 8 to 11.
"""


def wake(folder: str) -> str:
    """The script for a job's folder, below the login folder."""
    return WAKE.replace("@FOLDER@", folder)
