"""``hosts.toml``: what is wrong in it is told by file, line and key, and what the documentation shows is right."""

from __future__ import annotations

import base64
import re
import struct
from pathlib import Path

import pytest
from tests.session.world import ROOT

from gpurent.clock import SystemClock
from gpurent.errors import ConfigError
from gpurent.hosts import load_hosts, remove_host, save_host
from gpurent_providers.sshhost import shell

GOOD = {"address": "10.0.0.1", "gpu": "A100", "vram_gb": 80}


def blob(kind: str, *parts: bytes) -> str:
    return base64.b64encode(b"".join(struct.pack(">I", len(one)) + one for one in (kind.encode(), *parts))).decode()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("hosts = 3", "line 1: hosts is a table"),
        ("[hosts]\nlab = 3", "line 2: hosts.lab is a table, not 3"),
        ("[desk]\naddress = 'a'", "line 1: desk is not a known table"),
        ('[hosts."my lab"]\naddress = "a"', "line 1: 'my lab' is not a name"),
        ("[[hosts]]\naddress = 'a'", "hosts is a table"),
    ],
)
def test_what_is_no_machine_is_named(tmp_path: Path, text: str, said: str) -> None:
    """File, line and key; reading, adding and removing say the same, and leave the file as it was."""
    path = tmp_path / "hosts.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=re.escape(said)) as caught:
        load_hosts(path)
    assert str(path) in str(caught.value) and caught.value.hint
    if "hosts is a table" in said:
        with pytest.raises(ConfigError, match=re.escape(said)):
            save_host(path, "lab", dict(GOOD))
        with pytest.raises(ConfigError, match=re.escape(said)):
            remove_host(path, "lab")
    assert path.read_text(encoding="utf-8") == text


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("ssh-ed25519", "one line of a host key"),
        ("ssh-ed25519 A", "not base64"),
        ("ssh-ed25519 ....", "not base64"),
        ("ssh-ed2551 AAAA", "ssh-ed25519"),
        ("ssh-dss AAAA", "not a kind of host key"),
        ("ssh-ed25519 AAAA", "not a whole key"),
        (f"ssh-ed25519 {blob('ssh-rsa', bytes(32))}", "not a whole key"),
        (f"ssh-ed25519 {blob('ssh-ed25519', bytes(31))}", "not a whole key"),
    ],
)
def test_a_host_key_that_is_none_is_named(tmp_path: Path, key: str, said: str) -> None:
    """Cut off when it was pasted, or of a kind that nobody here speaks."""
    path = tmp_path / "hosts.toml"
    path.write_text(f'[hosts.lab]\naddress = "a"\ngpu = "A100"\nvram_gb = 80\nhost_key = "{key}"\n', encoding="utf-8")
    with pytest.raises(ConfigError, match=re.escape(said)) as caught:
        load_hosts(path)
    assert f"{path}, line 5: hosts.lab.host_key" in str(caught.value)


def test_a_host_key_that_only_cryptography_can_refuse_is_named(tmp_path: Path) -> None:
    """A point that is not on the curve: told as a mistake in the file, no matter who finds it."""
    path = tmp_path / "hosts.toml"
    kind = "ecdsa-sha2-nistp256"
    host = save_host(path, "lab", {**GOOD, "host_key": f"{kind} {blob(kind, b'nistp256', bytes(65))}"})
    with pytest.raises(ConfigError, match=r"host_key of 10\.0\.0\.1"):
        shell.run(host, "true", SystemClock(), timeout=1)


def test_what_the_page_shows_is_valid(tmp_path: Path) -> None:
    """Every TOML block of the how-to is a file that is read."""
    page = (ROOT / "docs" / "how-to" / "own-hosts.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```toml\n(.*?)```", page, re.DOTALL)
    assert blocks
    for number, block in enumerate(blocks):
        path = tmp_path / f"{number}.toml"
        path.write_text(block, encoding="utf-8")
        assert load_hosts(path)
