"""Facts for a bug report: numbers and words of ours only, nothing that a person, a service or a machine chose. Pure.

No keys, addresses, identifiers, names of jobs, paths or texts of errors: of an error its class is told, of a machine
that failed the trait by which it did.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from gpurent.budget.spend import estimated
from gpurent.budget.state import Run
from gpurent.model import Offer
from gpurent.plan.gpus import find

FIELDS = ("capability", "cuda", "ram_mb", "cpus", "region", "machine_id", "max_duration_s", "boot_s")
"""Of an offer, where a service may tell them or not."""
GPUS = 30


def service(found: Sequence[Offer] | Exception) -> dict[str, object]:
    """How a provider answered a search: how many offers, how many of them tell what, and which known cards."""
    if isinstance(found, Exception):
        return {"error": type(found).__name__}
    told = {name: sum(getattr(one, name) not in (None, "") for one in found) for name in FIELDS}
    known = [card for one in found if (card := find(one.gpu)) is not None]
    return {
        "offers": len(found),
        "tell": told,
        "gpus": dict(Counter(card.name for card in known).most_common(GPUS)),
        "unknown_gpus": len(found) - len(known),
        "slowest_mbps": min((round(one.down_mbps) for one in found), default=None),
    }


def facts_of(run: Run, now: float) -> dict[str, object]:
    """What became of a run."""
    return {
        "outcome": run.outcome,
        "play_money": run.play,
        "anomalies": len(run.anomalies),
        "files": len(run.artefacts),
        "rentals": [
            {
                "provider": rental.provider,
                "gpu": card.name if (card := find(rental.offer.gpu)) else "unknown",
                "state": str(rental.state),
                "seconds": round(max(0.0, (rental.gone_at or now) - rental.intent_at)),
                "trained": rental.job_id is not None,
                "failed_by": rental.trait,
                "estimate_micros": estimated(rental, now).total.micros,
                "billed_micros": None if rental.charged is None else rental.charged.total.micros,
            }
            for rental in run.rentals
        ],
    }
