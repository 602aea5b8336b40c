"""Whether a training fits is foretold from its measured speed; what would fit does."""

from __future__ import annotations

from hypothesis import assume, given
from hypothesis import strategies as st

from gpurent.plan.overrun import SETTLED_S, SETTLED_STEPS, SPARE_S, overrun

steps = st.integers(SETTLED_STEPS, 5000)
rates = st.floats(0.05, 50)
lefts = st.floats(-100, 20_000)


@given(steps, st.integers(1, 20_000), st.integers(1, 50), rates, lefts)
def test_what_would_fit_is_over_before_the_deadline(
    step: int, more: int, epochs: int, rate: float, left: float
) -> None:
    """At the measured speed the shortened training ends in time, is shorter than planned and not shorter than done."""
    total = step + more
    found = overrun(step=step, total=total, epochs=epochs, it_s=rate, elapsed_s=60, now=1000, soft=1000 + left)
    if found is None:
        assert more / rate <= left
        return
    assert step <= found.steps < total
    assert found.steps == step or (found.steps - step) / rate <= left - SPARE_S
    assert found.late_s > 0


@given(st.integers(1, 400), st.integers(2, 40), rates)
def test_whole_epochs_are_kept_where_one_fits(per_epoch: int, epochs: int, rate: float) -> None:
    """A cut in the middle of an epoch shows some pictures less often than others."""
    total, step = per_epoch * epochs, SETTLED_STEPS
    assume(total > 4 * step and per_epoch > step)
    left = 0.6 * (total - step) / rate
    found = overrun(step=step, total=total, epochs=epochs, it_s=rate, elapsed_s=60, now=0, soft=left)
    assert found is not None
    within = step + int(rate * max(0, min(left - SPARE_S, left * 0.97)))
    assert found.steps % per_epoch == 0 if within >= per_epoch else found.steps == within


def test_nothing_is_said_before_the_speed_has_settled() -> None:
    """The first steps of a GPU are its slowest."""
    late = {"total": 10_000, "epochs": 10, "it_s": 0.01, "now": 0.0, "soft": 60.0}
    assert overrun(step=SETTLED_STEPS - 1, elapsed_s=60, **late) is None  # type: ignore[arg-type]
    assert overrun(step=SETTLED_STEPS, elapsed_s=SETTLED_S - 1, **late) is None  # type: ignore[arg-type]
    assert overrun(step=SETTLED_STEPS, elapsed_s=SETTLED_S, **late) is not None  # type: ignore[arg-type]
