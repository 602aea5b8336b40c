"""Vast.ai's bills, statements and accounts as our values. Pure; nothing but typed errors is ever raised."""

from __future__ import annotations

from gpurent.errors import BadReply
from gpurent.fields import mapping, rows, text, usd, whole
from gpurent.model import Charges
from gpurent.money import ZERO, Usd
from gpurent.spi import Billed
from gpurent_providers.vastai import wire


def bill(found: list[object], ref: str) -> Charges | None:
    """The sum of an instance's rows, up to the end of the last one; None when there is none.

    Raises:
        BadReply: an amount or a time is missing: half a bill is worse than none.
    """
    own = [mapping(row) for row in found if mapping(row).get("source") == f"instance-{ref}"]
    if not own:
        return None
    parts = dict.fromkeys(("gpu", "disk", "bwd", "bwu"), ZERO)
    for row in own:
        whole_row, named = usd(row.get("amount")), ZERO
        if whole_row is None:
            raise BadReply("vastai: a charge without an amount", provider=wire.PROVIDER)
        for item in rows(row.get("items")):
            kind, amount = mapping(item).get("type"), usd(mapping(item).get("amount"))
            if isinstance(kind, str) and kind in parts and amount is not None:
                parts[kind] += amount
                named += amount
        parts["gpu"] += whole_row - named  # the row is what was paid, whatever its parts are called
    ends = [wire.number_of(row.get("end")) for row in own]
    until = [end for end in ends if end is not None]
    if len(until) < len(own):
        raise BadReply("vastai: a charge without an end", provider=wire.PROVIDER)
    return Charges(parts["gpu"], parts["disk"], parts["bwd"], parts["bwu"], final=False, until=max(until))


def statement(found: list[object]) -> list[Billed]:
    """Every instance with what it was billed and its label; rows without an amount or a name are left out."""
    totals: dict[str, Billed] = {}
    for row in map(mapping, found):
        kind, _, ref = text(row.get("source")).partition("-")
        amount = usd(row.get("amount"))
        if kind == "instance" and ref and amount is not None:
            before = totals.get(ref, Billed(ref, ZERO))
            totals[ref] = Billed(
                ref, before.total + amount, before.tag or text(mapping(row.get("metadata")).get("label"))
            )
    return list(totals.values())


def charges_page(value: object) -> tuple[list[object], str | None]:
    """Rows of one page of charges and the token of the next. Raises BadReply as ``wire.page``."""
    given = mapping(value)
    return wire.page({**given, "instances": given.get("results")})


def account(value: object) -> str:
    """The number of an account.

    Raises:
        BadReply: it is not there.
    """
    number = whole(mapping(value).get("id"))
    if number is None or number <= 0:
        raise BadReply("vastai: an account without an id", provider=wire.PROVIDER)
    return str(number)


def balance(value: object) -> Usd:
    """What can be spent; ``balance`` beside it often reads 0 in spite of credit.

    Raises:
        BadReply: it is not there.
    """
    amount = usd(mapping(value).get("credit"))
    if amount is None:
        raise BadReply("vastai: an account without credit", provider=wire.PROVIDER)
    return amount
