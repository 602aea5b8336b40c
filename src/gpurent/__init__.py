"""gpurent: rent the right GPU, train a LoRA on it, bring the file home, destroy the rental, inside a hard budget.

::

    from gpurent import Broker, Job, Usd

    job = Job.from_config("training_config.toml")
    with Broker() as broker:
        print(broker.quote(job).rows[0].mid.total)
        trained = broker.train(job, budget=Usd.parse("10"))
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gpurent.money import Usd

if TYPE_CHECKING:
    from gpurent.broker import Broker
    from gpurent.dataset.job import Job
    from gpurent.jobs.options import BatchOptions, RunOptions, SessionOptions
    from gpurent.model import Need
    from gpurent.verbs.sessions import Session

    __version__: str

__all__ = ["BatchOptions", "Broker", "Job", "Need", "RunOptions", "Session", "SessionOptions", "Usd", "__version__"]
_HOMES = {
    "BatchOptions": "gpurent.jobs.options",
    "Broker": "gpurent.broker",
    "Job": "gpurent.dataset.job",
    "Need": "gpurent.model",
    "RunOptions": "gpurent.jobs.options",
    "Session": "gpurent.verbs.sessions",
    "SessionOptions": "gpurent.jobs.options",
}


def __getattr__(name: str) -> Any:
    """Load the heavier parts on first use: ``import gpurent`` stays instant."""
    from importlib import import_module, metadata

    if name == "__version__":
        return metadata.version("gpurent")
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'gpurent' has no attribute {name!r}")
