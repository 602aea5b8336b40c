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
    def around(cls, mid: float, down: float = 0.7, up: float = 1.6) -> Range:
        """A range given by factors of its middle."""
        return cls(mid * down, mid, mid * up)

    def __add__(self, other: Range) -> Range:
        return Range(self.low + other.low, self.mid + other.mid, self.high + other.high)


ZERO = Range(0.0, 0.0, 0.0)
