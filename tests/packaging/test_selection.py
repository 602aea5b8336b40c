"""Tests that ``make test`` leaves out are run by another command, in CI as well."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.thorough import check, often


def recipe(repository: Path, target: str) -> str:
    """The lines of the Makefile that make it."""
    makefile = (repository / "Makefile").read_text(encoding="utf-8")
    return makefile.partition(f"\n{target}: ")[2].partition("\n\n")[0]


def test_what_make_test_leaves_out_is_what_make_thorough_runs(repository: Path) -> None:
    test, thorough = recipe(repository, "test"), recipe(repository, "thorough")
    assert '-m "not thorough"' in test and "-m thorough" in thorough
    assert test.partition("python -m")[2].replace('"not thorough"', "thorough") == thorough.partition("python -m")[2]


def test_ci_runs_both(repository: Path) -> None:
    script = (repository / ".ci" / "run").read_text(encoding="utf-8")
    assert '"${contained[*]}" make test\n' in script and '"${contained[*]}" make thorough\n' in script


def test_a_matrix_is_never_left_out_as_a_whole() -> None:
    """Nor does a name that it does not have count."""
    assert [bool(one.marks) for one in often(["a", "b", "c"], ["b"])] == [True, False, True]
    for usual in ([], ["d"]):
        with pytest.raises(ValueError, match="is not a sample"):
            often(["a", "b", "c"], usual)


@pytest.mark.parametrize("shown_by", ["", "tests/nowhere.py::test_x", "tests/packaging/test_selection.py::test_y"])
def test_a_test_that_is_left_out_names_the_one_that_shows_the_same(
    request: pytest.FixtureRequest, shown_by: str
) -> None:
    def left_out() -> None: ...

    item = pytest.Function.from_parent(request.node.parent, name="left_out", callobj=left_out)
    item.add_marker(pytest.mark.thorough(shown_by=shown_by))
    with pytest.raises(pytest.UsageError, match="must name the test that is always run"):
        check([item])
