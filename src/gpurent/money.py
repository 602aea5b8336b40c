"""Money: integer micro-dollars, never a float.

One US dollar is 1,000,000 micros. Prices of cloud services have at most six decimals, so every listed
price is exact; products with time round *up*, because a budget must never be exceeded by rounding.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import ROUND_CEILING, Context, Decimal, InvalidOperation, localcontext

MICROS = 1_000_000
HOUR_S = 3600
MOST = 10**12
"""Dollars: nobody owes more, and an exponent from outside must not become a number of a billion digits."""
_LONGEST = 64
MONTH_S = 30 * 24 * HOUR_S
"""Seconds in a billing month. Vast.ai and RunPod both quote storage per GB and month; 30 days is the dearer reading."""


@dataclass(frozen=True, slots=True, init=False)
class Usd:
    """An amount of US dollars as integer micro-dollars."""

    micros: int

    def __init__(self, micros: int) -> None:
        if type(micros) is not int:
            raise TypeError(f"micro-dollars are an int, not {type(micros).__name__}")
        object.__setattr__(self, "micros", micros)

    @classmethod
    def parse(cls, text: str | int | Decimal) -> Usd:
        """Read dollars such as ``"10"``, ``"$0.35"`` or ``Decimal("0.1")``; more than six decimals round up.

        Raises:
            ValueError: the text is not a finite decimal number, has more than 64 characters, or exceeds ``MOST``.
        """
        if isinstance(text, (bool, float)):
            raise TypeError("a float is not money; pass a string or a Decimal")
        if isinstance(text, str) and len(text) > _LONGEST:
            raise ValueError(f"{text[:16]!r}… is not an amount of dollars")
        cleaned = text.strip().removeprefix("$").replace("_", "") if isinstance(text, str) else text
        try:
            value = Decimal(cleaned)
        except InvalidOperation as error:
            raise ValueError(f"{text!r} is not an amount of dollars") from error
        if not value.is_finite():
            raise ValueError(f"{text!r} is not a finite amount of dollars")
        if abs(value) > MOST:
            raise ValueError("an amount of dollars beyond all bounds")
        with localcontext(Context(prec=2 * _LONGEST)):
            return cls(int((value * MICROS).to_integral_value(rounding=ROUND_CEILING)))

    @classmethod
    def from_wire(cls, number: float | str) -> Usd:
        """Read a price as a JSON number; binary noise below a micro-dollar is dropped before rounding up.

        Raises:
            ValueError: as ``parse``.
        """
        try:
            return cls.parse(Decimal(str(number)).quantize(Decimal("1e-9")))
        except InvalidOperation as error:
            raise ValueError("not an amount of dollars") from error

    @classmethod
    def total(cls, amounts: list[Usd] | tuple[Usd, ...]) -> Usd:
        """Sum exactly; the empty sum is zero."""
        return cls(sum(amount.micros for amount in amounts))

    def __add__(self, other: Usd) -> Usd:
        return Usd(self.micros + other.micros)

    def __sub__(self, other: Usd) -> Usd:
        return Usd(self.micros - other.micros)

    def __neg__(self) -> Usd:
        return Usd(-self.micros)

    def __mul__(self, times: int) -> Usd:
        if type(times) is not int:
            raise TypeError("money is multiplied by whole numbers; use Usd.scaled for fractions")
        return Usd(self.micros * times)

    __rmul__ = __mul__

    def __lt__(self, other: Usd) -> bool:
        return self.micros < other.micros

    def __le__(self, other: Usd) -> bool:
        return self.micros <= other.micros

    def __gt__(self, other: Usd) -> bool:
        return self.micros > other.micros

    def __ge__(self, other: Usd) -> bool:
        return self.micros >= other.micros

    def __bool__(self) -> bool:
        return self.micros != 0

    def scaled(self, numerator: int, denominator: int) -> Usd:
        """Return ``self × numerator / denominator``, rounded up to a micro-dollar."""
        if denominator <= 0:
            raise ValueError("the denominator must be positive")
        return Usd(-(-self.micros * numerator // denominator))

    def decimal(self) -> Decimal:
        """Return dollars as an exact decimal."""
        return Decimal(self.micros) / MICROS

    def __str__(self) -> str:
        sign = "-" if self.micros < 0 else ""
        dollars, rest = divmod(abs(self.micros), MICROS)
        digits = f"{rest:06d}"
        kept = digits[:2] + digits[2:].rstrip("0")
        return f"{sign}${dollars}.{kept}"

    def rounded(self, places: int = 2) -> str:
        """Format for people: at least one cent is shown for any non-zero amount, rounded up (``$0.07``)."""
        unit = 10 ** (6 - places)
        up = -(-abs(self.micros) // unit)
        sign = "-" if self.micros < 0 else ""
        return f"{sign}${up // 10**places}.{up % 10**places:0{places}d}"


ZERO = Usd(0)


def per_hour(rate: Usd, milliseconds: int) -> Usd:
    """Cost of ``milliseconds`` at ``rate`` per hour, rounded up."""
    return rate.scaled(milliseconds, HOUR_S * 1000)


def affordable_ms(amount: Usd, rate: Usd) -> int:
    """Milliseconds that ``amount`` pays for at ``rate`` per hour, rounded down; the rate must be positive.

    ``per_hour(rate, affordable_ms(amount, rate)) <= amount`` holds for every non-negative amount.
    """
    if rate.micros <= 0:
        raise ValueError("a free machine has no affordable time; it has no limit")
    return max(0, amount.micros) * HOUR_S * 1000 // rate.micros
