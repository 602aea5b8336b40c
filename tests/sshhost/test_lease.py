"""Whatever a machine of one's own answers instead of its lease is an error of that machine, and a typed one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpurent.untrusted.data import Malformed
from gpurent_providers.sshhost.lease import Lease


@pytest.mark.parametrize(
    ("line", "lease"),
    [
        ("lease gpurent-7f3a-1 1800000000", Lease("gpurent-7f3a-1", 1_800_000_000.0)),
        ("lease tag-1 0", Lease("tag-1", None)),
        ("lease ? 0", Lease("?", None)),
    ],
)
def test_a_lease_says_who_and_since_when(line: str, lease: Lease) -> None:
    """0 is what a machine writes that does not know, and a question mark stands for a text that was lost."""
    assert Lease.read(line) == lease


@pytest.mark.parametrize(
    "line",
    ["", "lease", "lease tag-1", "lease tag-1 ", "lease tag-1 x", "lease tag-1 -1", "lease tag-1 1.5", "lease tag-1 ²",
     "lease tag-1 ٣", "lease tag-1 " + "9" * 400, "lease a b 1", "lease \x1b[2J 1", "taken", "lease tag-1 1\n"],
)  # fmt: skip
def test_anything_else_is_refused(line: str) -> None:
    """Python reads more than that as a number."""
    with pytest.raises(Malformed) as caught:
        Lease.read(line)
    assert str(caught.value).isprintable() and len(str(caught.value)) < 120


@given(st.text())
def test_no_text_raises_anything_else(text: str) -> None:
    """In the place of the whole line, of the tag and of the moment."""
    for line in (text, f"lease {text} 1", f"lease tag-1 {text}"):
        try:
            Lease.read(line)
        except Malformed:
            continue
