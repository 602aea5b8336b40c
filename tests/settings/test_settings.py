"""``gpurent.toml``: read strictly, money exactly, every mistake named with its place and its remedy."""

from __future__ import annotations

import re
import tomllib
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpurent.errors import ConfigError
from gpurent.model import Need, Offer, Price, cuda_of
from gpurent.money import ZERO, Usd
from gpurent.settings import (
    FILE,
    TEMPLATE,
    Settings,
    describe,
    dollars,
    environment_names,
    load_settings,
    state_dir,
    vram_mb,
)

ROOT = Path(__file__).parents[2]
DOLLARS = 'an amount of dollars such as 10 or "0.50" is expected'


def load(folder: Path, text: str, **environ: str) -> Settings:
    (folder / FILE).write_text(text, encoding="utf-8")
    return load_settings(folder, environ)


def test_without_a_file_defaults_hold(tmp_path: Path) -> None:
    """No gpurent.toml is not a mistake."""
    assert load_settings(tmp_path, {}) == Settings()


def test_the_template_is_valid_and_says_the_defaults(tmp_path: Path) -> None:
    """What `gpurent init` writes changes nothing until it is edited."""
    assert load(tmp_path, TEMPLATE) == Settings()


def test_every_commented_line_of_the_template_is_valid_too(tmp_path: Path) -> None:
    """Taking away a comment sign gives a working setting."""
    settings = load(tmp_path, re.sub(r"^# (\w+ = )", r"\1", TEMPLATE, flags=re.MULTILINE))
    assert settings.budget.max == Usd.parse("10")
    assert settings.limits.per_month == Usd.parse("100")
    assert settings.need.max_hourly == Usd.parse("0.80")
    assert settings.job.name == "my_lora"
    for section, outer in tomllib.loads(TEMPLATE).items():
        assert set(outer) <= set(getattr(settings, section).model_dump())


def test_everything_can_be_set(tmp_path: Path) -> None:
    """One file with every section, as a user writes it."""
    settings = load(
        tmp_path,
        """
        [job]
        config = "a.toml"
        [budget]
        max = 7.5
        max_hours = 3
        [need]
        gpu = "RTX 4090"
        min_vram_gb = 24
        max_hourly = "$0.60"
        min_reliability = 1
        trusted_only = true
        region = ["EU", "US-GA"]
        min_ram_gb = 32
        min_down_mbps = 250
        min_up_mbps = 50
        [limits]
        per_day = 20
        [providers]
        enabled = ["vastai", "sshhost"]
        [providers.sshhost]
        host = "10.0.0.1"
        port = 2222
        strict = true
        """,
    )
    assert settings.budget.max == Usd.parse("7.5")
    assert settings.budget.max_hours == 3
    cuda = cuda_of(settings.need.image)
    assert settings.need.as_need() == Need(
        ("rtx 4090",), vram_mb(24), 20, Usd.parse("0.60"), 1.0, True, cuda,
        capabilities=((7, 0), (99, 0)), min_ram_mb=32 * 1024, min_down_mbps=250, min_up_mbps=50,
        regions=("EU", "US-GA"),
    )  # fmt: skip
    assert cuda > (12, 0)
    assert settings.providers.enabled == ["vastai", "sshhost"]
    assert settings.providers.options() == {"sshhost": {"host": "10.0.0.1", "port": "2222", "strict": "true"}}


@given(st.decimals(min_value=Decimal("0.000001"), max_value=10**6, places=6))
def test_money_is_kept_exactly(amount: Decimal) -> None:
    """A number in TOML is read as it is written; binary fractions never come in."""
    wanted = int(amount * 10**6)
    assert dollars(f"{amount:f}").micros == wanted
    assert dollars(amount).micros == wanted


@pytest.mark.parametrize(
    ("text", "micros"), [("0.1", 100_000), ("8.000001", 8_000_001), ("3", 3_000_000), ("1e1", 10_000_000)]
)
def test_a_toml_number_is_exact_money(tmp_path: Path, text: str, micros: int) -> None:
    """Also where the nearest float is not the number that was written."""
    assert load(tmp_path, f"[budget]\nmax = {text}\n").budget.max == Usd(micros)


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("[budgt]\nmax = 5", "line 1: budgt is not a known key.", "Did you mean 'budget'?"),
        ("[need]\ndisk_gb = 20\ngpus = []", "line 3: need.gpus is not a known key.", "Did you mean 'gpu'?"),
        ("need.gpus = []", "line 1: need.gpus is not a known key.", "Did you mean 'gpu'?"),
        ("[limits]\nweekly = 3", "line 2: limits.weekly is not a known key.", "Known here: per_day, per_month."),
        ("[providers]\nenable = []", "line 2: providers.enable is not a known key.", "Did you mean 'enabled'?"),
        ("\n[need]\ndisk_gb = '20'", "line 3: need.disk_gb: a valid integer, not '20'.", ""),
        ("[need]\ntrusted_only = 1", "line 2: need.trusted_only: a valid boolean, not 1.", ""),
        ("[need]\nmin_reliability = 95", "line 2: need.min_reliability: less than or equal to 1, not 95.", ""),
        ("[need]\ngpu = [4090]", "line 2: need.gpu.0: a valid string, not 4090.", ""),
        ("[budget]\nmax = true", "line 2: budget.max: an amount of dollars such as 10", ""),
        ("[budget]\nmax = 0", "line 2: budget.max: an amount of dollars must be positive, not 0.", ""),
        ("[budget]\nmax = -1.5", "line 2: budget.max: an amount of dollars must be positive, not -1.5.", ""),
        ("[budget]\nmax = 'ten'", f"line 2: budget.max: {DOLLARS}, not 'ten'.", ""),
        ("[budget]\nmax = nan", f"line 2: budget.max: {DOLLARS}, not nan.", ""),
        ("[budget]\nmax_hours = inf", "line 2: budget.max_hours: a finite number, not inf.", ""),
        ("budget = 10", "line 1: budget: a valid dictionary or instance of BudgetSection, not 10.", ""),
        ("[providers.vastai]\nkey = []", "line 2: providers.vastai.key", ""),
    ],
)
def test_a_mistake_is_named_with_line_key_and_remedy(tmp_path: Path, text: str, message: str, hint: str) -> None:
    """Nobody has to search for what is wrong."""
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text)
    assert str(caught.value).startswith(f"{tmp_path / FILE}, {message}")
    assert caught.value.hint == (hint or "See `gpurent help configuration`.")


@pytest.mark.parametrize("content", [b"[budget\n", b"max = = 3", b"\xff\xfe\x00"])
def test_a_file_that_is_no_toml_is_named(tmp_path: Path, content: bytes) -> None:
    """Broken syntax and broken encoding are configuration errors too."""
    (tmp_path / FILE).write_bytes(content)
    with pytest.raises(ConfigError, match=FILE) as caught:
        load_settings(tmp_path, {})
    assert caught.value.hint


def test_a_folder_in_the_files_place_is_named(tmp_path: Path) -> None:
    """Even that is a sentence and not a traceback."""
    (tmp_path / FILE).mkdir()
    with pytest.raises(ConfigError, match="cannot be read"):
        load_settings(tmp_path, {})


def test_a_file_with_a_byte_order_mark_is_read(tmp_path: Path) -> None:
    """Windows editors write one."""
    (tmp_path / FILE).write_text("[need]\ndisk_gb = 33\n", encoding="utf-8-sig")
    assert load_settings(tmp_path, {}).need.disk_gb == 33


def test_the_environment_wins_over_the_file(tmp_path: Path) -> None:
    """Every kind of value can be given as text; empty variables count as unset."""
    settings = load(
        tmp_path,
        "[budget]\nmax = 10\n[need]\ndisk_gb = 50\n",
        GPURENT_BUDGET_MAX="2.50", GPURENT_NEED_GPU="4090, A5000", GPURENT_NEED_TRUSTED_ONLY="yes",
        GPURENT_NEED_MIN_VRAM_GB="24", GPURENT_BUDGET_MAX_HOURS="1.5", GPURENT_NEED_DISK_GB="",
    )  # fmt: skip
    assert settings.budget.max == Usd.parse("2.5")
    assert settings.budget.max_hours == 1.5
    assert settings.need.gpu == ["4090", "A5000"]
    assert (settings.need.trusted_only, settings.need.min_vram_gb, settings.need.disk_gb) == (True, 24, 50)


@pytest.mark.parametrize(
    ("variable", "text"),
    [("GPURENT_BUDGET_MAX", "much"), ("GPURENT_NEED_DISK_GB", "big"), ("GPURENT_NEED_TRUSTED_ONLY", "maybe")],
)
def test_a_wrong_variable_is_named(tmp_path: Path, variable: str, text: str) -> None:
    """The mistake is looked for where it was made."""
    with pytest.raises(ConfigError, match=f"^environment variable {variable}: ") as caught:
        load_settings(tmp_path, {variable: text})
    assert repr(text) in str(caught.value)


def test_state_lives_where_the_variable_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``GPURENT_STATE_DIR`` wins; without it the platform decides."""
    monkeypatch.setenv("GPURENT_STATE_DIR", str(tmp_path / "state"))
    assert state_dir() == tmp_path / "state"
    monkeypatch.delenv("GPURENT_STATE_DIR")
    assert state_dir().name == "gpurent"


@pytest.mark.parametrize(
    ("sold", "listed", "fits"),
    [
        (24, 24564, True),
        (24, 24576, True),
        (24, 23028, True),
        (24, 20475, False),
        (80, 81559, True),
        (16, 12282, False),
    ],
)
def test_a_card_counts_by_the_size_it_is_sold_with(sold: int, listed: int, fits: bool) -> None:
    """Listings differ by what error correction and drivers keep for themselves."""
    offer = Offer("cloud", "1", "any", listed, Price(ZERO))
    assert Need(min_vram_mb=vram_mb(sold)).accepts(offer) is fits


def test_the_reference_is_what_the_code_says() -> None:
    """The page is generated: it holds what ``describe()`` returns, byte for byte."""
    assert (ROOT / "docs/reference/configuration.md").read_text(encoding="utf-8") == describe()


def test_the_reference_names_every_key_and_variable() -> None:
    """Nothing can be set that is not described."""
    text = describe()
    for _section, key, variable in environment_names():
        assert f"| `{key}` |" in text
        assert f"`{variable}`" in text
