"""What the jobs of one rental share on its machine: whatever is there already is neither sent nor installed again."""

from __future__ import annotations

from dataclasses import dataclass, field

from gpurent.jobs.serving import EngineServer


@dataclass
class Traffic:
    """Running totals of bytes in and out of the host."""

    bytes_in: int = 0
    bytes_out: int = 0


@dataclass
class Premises:
    """A machine as this client has left it so far. A client that takes the rental over begins with an empty one."""

    traffic: Traffic = field(default_factory=Traffic)
    sent: set[str] = field(default_factory=set)
    """Folders of ``dataset.content`` that are complete there."""
    packages: frozenset[str] | None = None
    """The engine's packages are there, and these that some datasets need; None: nobody has looked yet."""
    bases: set[str] = field(default_factory=set)
    """Base models that it has downloaded."""
    server: EngineServer | None = None
    """The engine's process that takes job after job; None: each job has one of its own."""

    def equipped(self, also: frozenset[str]) -> bool:
        """Whether the engine's packages are there, and those that a dataset needs besides."""
        return self.packages is not None and also <= self.packages
