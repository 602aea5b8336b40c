"""A number that is honest about what is not known."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Range:
    """Low, expected and high value of one quantity, in the same unit."""

    low: float
    mid: float
    high: float

    def __post_init__(self) -> None:
        if not self.low <= self.mid <= self.high:
            raise ValueError(f"a range runs upwards: {self.low}, {self.mid}, {self.high}")

    @classmethod
    def around(cls, mid: float, down: float, up: float) -> Range:
        """A range given by factors of its middle: ``down`` at most 1, ``up`` at least 1."""
        return cls(mid * down, mid, mid * up)

    def __add__(self, other: Range) -> Range:
        return Range(self.low + other.low, self.mid + other.mid, self.high + other.high)

    def times(self, factor: float) -> Range:
        """All three values times a factor that is not negative."""
        return Range(self.low * factor, self.mid * factor, self.high * factor)

    def beside(self, other: Range) -> Range:
        """Two things that happen at the same time: the longer counts."""
        return Range(max(self.low, other.low), max(self.mid, other.mid), max(self.high, other.high))
