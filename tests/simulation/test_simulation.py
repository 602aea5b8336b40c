"""A few hundred lives of the whole broker; ``make simulate`` plays thirty thousand."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import islice

import pytest
from tests.simulation.campaign import Findings, Stage, play, stage
from tests.simulation.coverage import possible
from tests.simulation.drawing import PAIRS, TROUBLES, draw
from tests.simulation.kept import KEPT
from tests.simulation.mutants import MUTANTS, shown
from tests.simulation.schedule import ELSEWHERE, FAULTS, NEVER, Schedule, parts
from tests.simulation.shrink import literal, shrink
from tests.simulation.strangers import Sight, Stranger

from gpurent.budget.events import Kind
from gpurent_sandbox.installed import LOOK_ALIKES
from gpurent_sandbox.lookalike import fault_kinds

LIVES = 240


@pytest.fixture(scope="module")
def found() -> Findings:
    return play(range(LIVES))


@pytest.fixture
def here() -> Iterator[Stage]:
    with stage() as made:
        yield made


def test_no_life_breaks_an_invariant(found: Findings) -> None:
    """Nothing alive, within the budget, no lost result, books that agree, one rental an intent; whatever went wrong."""
    assert found.broken == []


def test_no_life_of_a_batch_trains_what_is_home_or_spends_more() -> None:
    """Every run is a batch of three jobs, run again on the good day until it is done; one cap holds for all of it."""
    found = play(range(16), batch=3)
    assert found.broken == []
    assert found.tally.checked["batches that were run again until they were done"] > 8
    assert found.tally.checked["jobs of batches that were begun"] > 24


def test_most_lives_rent_and_train(found: Findings) -> None:
    """A market in which nothing suits breaks nothing, and shows nothing. About half of the drawn lives end before
    a job starts."""
    assert found.tally.lines[Kind.CREATED] > LIVES * 2 / 3 and found.tally.lines[Kind.JOB_STARTED] > LIVES * 0.45
    assert found.tally.endings["NoOffer"] < LIVES / 5


@pytest.mark.parametrize("name", KEPT)
def test_a_life_that_once_broke_holds(here: Stage, name: str) -> None:
    """Found by seeds that nobody had played before; kept as they were drawn. Nobody is out of reach in them."""
    verdict = here.play(KEPT[name])
    assert verdict.violations == [] and not verdict.tally.apart


def test_every_fault_struck(found: Findings) -> None:
    """What never happened was not tried; faults that cannot strike here are named with the reason."""
    rare = [fault for fault in FAULTS if not found.tally.faults[fault]]
    assert len(rare) <= 3, rare
    assert set(FAULTS) | set(ELSEWHERE) == set(fault_kinds(LOOK_ALIKES)) and not set(FAULTS) & set(ELSEWHERE)


def test_no_step_of_the_ledger_is_forgotten(found: Findings) -> None:
    """Steps are enumerated from the code that folds them: each is taken here, ruled out with a reason, or rare."""
    tried, ruled_out = possible()
    assert found.surprises == []
    assert not tried & set(ruled_out) and all(ruled_out.values())
    rare = set(found.never) & tried
    assert len(rare) < len(tried) / 2, f"of {len(tried)} steps {len(rare)} were never taken"


def test_every_pair_of_troubles_comes_up(found: Findings) -> None:
    """Rare together, they are drawn together in turn: two lives for each pair hold all of them."""
    drawn = {pair for seed in range(2 * len(PAIRS)) if seed % 2 for pair in [PAIRS[seed // 2 % len(PAIRS)]]}
    assert len(drawn) == len(TROUBLES) * (len(TROUBLES) - 1) / 2
    assert found.tally.pairs


def test_two_runs_side_by_side_are_a_life_too(here: Stage) -> None:
    """Processes and their threads take turns in virtual time, so that a seed plays them alike."""
    plans = (plan for seed in range(1000) if (plan := draw(seed)).second is not None and plan.crash_at is None)
    both = next(life for plan in plans if (life := here.play(plan)).tally.lines[Kind.RUN_OPENED] == 2)
    assert here.play(draw(both.seed)) == both


def test_two_computers_are_a_life_too(here: Stage) -> None:
    """They share the ledger, and rent through it."""
    plans = (
        plan for seed in range(1000) if (plan := draw(seed)).second is not None and plan.second.apart_s is not None
    )
    lines = Counter[str]()
    for plan in islice(plans, 10):
        lines += here.play(plan).tally.lines
    assert lines[Kind.RUN_OPENED] > 10 and lines[Kind.CREATED] > 5


def test_a_seed_is_a_life(here: Stage) -> None:
    """The same seed gives the same lines, deaths and faults."""
    first, second = (here.play(draw(30)) for _ in range(2))
    assert first == second and first.tally.lines


@pytest.mark.parametrize("seed", [3, 11, 24])
def test_what_is_left_out_for_speed_changes_no_life(here: Stage, seed: int) -> None:
    """Requests that go through httpx itself are answered alike."""
    assert here.play(draw(seed), with_httpx=True) == here.play(draw(seed))


@pytest.mark.parametrize(
    ("looked_at", "woke", "knows"),
    [((), False, True), ((), True, False), ((99.0,), False, False), ((1.0,), False, True), ((101.0,), False, True)],
)
def test_who_orders_a_number_to_end_has_to_know_whose_it_is(
    looked_at: tuple[float, ...], woke: bool, knows: bool
) -> None:
    """Nobody can who was stopped with the order in hand, or whose number was given away right after a look."""
    stranger = Stranger("i-1", "my-notebook", created_at=100.0)
    assert Sight(looked_at, woke).could_know(stranger, now=102.0) == knows


def test_a_broken_life_is_reduced_to_what_breaks_it() -> None:
    """Whatever does not matter is left out; what is left can be kept as it is printed."""
    plan = next(plan for seed in range(1000) if len((plan := draw(seed)).rules) > 2 and plan.naps)
    rule = plan.rules[1]

    def breaks(one: Schedule) -> bool:
        return rule in one.rules and bool(one.naps)

    fewest = shrink(plan, breaks)
    assert fewest.rules == (rule,) and len(fewest.naps) == 1 and not any(map(breaks, parts(fewest)))
    names = {
        one.__name__: one for one in (Schedule, type(plan.budget), type(plan.course), type(rule), type(rule.fault))
    }
    assert eval(literal(fewest), {**names, "NEVER": NEVER}) == fewest


@pytest.mark.parametrize("name", MUTANTS)
def test_a_broker_without_one_of_its_guarantees_is_found_out(name: str) -> None:
    """Without any of them a life breaks that holds with it: see ``mutants``.

    Every change of the product changes lives: where the kept seed shows nothing any more, others are tried.
    """
    found = play([shown()[name], *range(400)], name, stop_at_first=True)
    assert found.broken, f"a life without {name} showed nothing: `python -m tests.simulation --mutants --keep`"
