"""Where ``GPURENT_LEDGER_URL`` points: what it may say, and that no message repeats its password."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from gpurent.broker import Broker
from gpurent.budget.errors import LedgerError
from gpurent.budget.ledger import Ledger
from gpurent.clock import ManualClock
from gpurent.money import Usd
from gpurent.settings import Settings

SECRET = "s3cretpassword"
WITHOUT_DRIVER = """
import sys
sys.modules["psycopg"] = None  # what an import of a package that is not installed meets
from gpurent.budget.errors import LedgerError
from gpurent.budget.ledger import Ledger
from gpurent.clock import SystemClock
try:
    Ledger.open_url(sys.argv[1], SystemClock())
except LedgerError as error:
    print(error, error.hint, repr(error))
"""


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql+psycopg://anna:{SECRET}@host:{SECRET}/team",
        f"mysql://anna:{SECRET}@host/team",
        f"postgresql://anna:{SECRET}@host",
        f"anna:{SECRET}@host/team",
        "sqlite://",
        "sqlite:///:memory:",
        "sqlite:////tmp/ledger.db?mode=ro",
        "",
    ],
)
def test_a_url_that_names_no_ledger_is_refused(url: str) -> None:
    """A ledger in memory would forget; the error shows the forms that are understood, and never the URL."""
    with pytest.raises(LedgerError) as refused:
        Ledger.open_url(url, ManualClock())
    assert "postgresql+psycopg://" in refused.value.hint and "sqlite:///" in refused.value.hint
    assert SECRET not in f"{refused.value!r} {refused.value} {refused.value.__cause__!r}"


def test_a_missing_driver_is_named() -> None:
    """The error says what to install, not which module could not be imported."""
    url = f"postgresql://anna:{SECRET}@127.0.0.1/team"
    said = subprocess.run([sys.executable, "-c", WITHOUT_DRIVER, url], capture_output=True, text=True, check=True)
    assert "pip install 'gpurent[postgres]'" in said.stdout
    assert SECRET not in said.stdout + said.stderr


def test_the_environment_moves_the_ledger_of_every_broker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two state folders, one ledger; the folders get none of their own."""
    monkeypatch.setenv("GPURENT_LEDGER_URL", f"sqlite:///{tmp_path}/shared/ledger.db")
    with (
        Broker(home=tmp_path / "a", settings=Settings(), providers={}) as one,
        Broker(home=tmp_path / "b", settings=Settings(), providers={}) as other,
    ):
        run_id = one.ledger.open_run("cat", Usd.parse(1), output_dir=tmp_path, config={})
        assert [run.id for run in other.ledger.runs()] == [run_id]
    assert not (tmp_path / "a" / "ledger.db").exists()
    assert (tmp_path / "shared" / "ledger.db").exists()


def test_a_ledger_below_a_file_is_refused(tmp_path: Path) -> None:
    """A folder that cannot be made is named, with the variables that name another."""
    (tmp_path / "file").touch()
    with pytest.raises(LedgerError, match="cannot be made") as refused:
        Ledger.open(tmp_path / "file" / "ledger.db", ManualClock())
    assert "GPURENT_STATE_DIR" in refused.value.hint
