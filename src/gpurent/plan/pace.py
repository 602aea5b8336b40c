"""How long the next job of a batch will take on this machine, from what the jobs before it took. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from gpurent.plan.timeline import Timeline


@dataclass
class Pace:
    """Seconds that jobs took, against the seconds that had been estimated for them."""

    planned_s: float = 0.0
    spent_s: float = 0.0

    def took(self, timeline: Timeline, seconds: float) -> None:
        """A job of this estimate took so many seconds from its upload to its last file."""
        self.planned_s += _middle(timeline)
        self.spent_s += seconds

    def forecast(self, timeline: Timeline) -> float:
        """Seconds for a job; its estimate as it stands until a job has been measured."""
        return _middle(timeline) * (self.spent_s / self.planned_s if self.planned_s else 1.0)


def _middle(one: Timeline) -> float:
    return one.upload_s.mid + one.base_model_s.mid + one.train_s.mid + one.collect_s.mid + one.draw_s.mid
