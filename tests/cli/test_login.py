"""Keys: where they are looked for, how they are kept, and that a refused one is not."""

from __future__ import annotations

import json
import os
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from tests.session.world import ROOT
from tests.warm import client as warm

from gpurent_sandbox.server import Sandbox
from gpurent_sandbox.vast.faults import VastFault


@dataclass
class Person:
    """Somebody with a home, a keyring that is a file, and the command line."""

    home: Path
    sandbox: Sandbox
    env: dict[str, str] = field(default_factory=dict)

    def run(self, *arguments: str, stdin: str = "", **extra: str) -> subprocess.CompletedProcess[str]:
        """Run ``gpurent`` with nothing of this process's credentials."""
        env = {
            **{name: os.environ[name] for name in ("PATH", *warm.EARLY) if name in os.environ},
            "HOME": str(self.home), "GPURENT_STATE_DIR": str(self.home / "state"),
            "GPURENT_CONFIG_DIR": str(self.home / "config"), "VAST_URL": self.sandbox.url,
            "RUNPOD_API_BASE_URL": self.sandbox.url, "XDG_DATA_HOME": str(self.home / "data"),
            "PYTHON_KEYRING_BACKEND": "keyrings.alt.file.PlaintextKeyring", **self.env, **extra,
        }  # fmt: skip
        return warm.run(["gpurent", *arguments], cwd=self.home, env=env, typed=stdin, timeout=120)

    def doctor(self, provider: str, **extra: str) -> str:
        """What the doctor says of a provider."""
        shown = json.loads(self.run("doctor", "--json", **extra).stdout)
        return str(next(one["detail"] for one in shown if one["check"] == provider))


@pytest.fixture(scope="module")
def market() -> Iterator[Sandbox]:
    with Sandbox(seed=7) as sandbox:
        yield sandbox


@pytest.fixture
def person(tmp_path: Path, market: Sandbox) -> Person:
    assert (ROOT / "pyproject.toml").exists()
    return Person(tmp_path, market)


@pytest.mark.parametrize("provider", ["vastai", "runpod"])
def test_a_key_that_was_kept_is_found_until_it_is_forgotten(person: Person, provider: str) -> None:
    """Asked for, tried, kept; the doctor says where it came from; no file of ours and no output holds it."""
    key = person.sandbox.account_key
    kept = person.run("login", provider, "--stdin", stdin=key + "\n")
    assert kept.returncode == 0, kept.stderr
    assert "system keyring" in person.doctor(provider)
    assert key not in kept.stdout + kept.stderr
    ours = [path for name in ("state", "config") for path in (person.home / name).rglob("*") if path.is_file()]
    assert ours and not [path for path in ours if key.encode() in path.read_bytes()]
    assert person.run("logout", provider).returncode == 0
    assert "no API key" in person.doctor(provider) and "gpurent login" in person.doctor(provider)


def test_a_refused_key_is_not_kept(person: Person) -> None:
    """It is tried first; ``--no-check`` keeps it all the same."""
    refused = person.run("login", "vastai", "--stdin", stdin="wrong\n")
    assert refused.returncode == 2 and "Nothing was stored" in refused.stderr
    assert "no API key" in person.doctor("vastai")
    assert person.run("login", "vastai", "--stdin", "--no-check", stdin="wrong\n").returncode == 0
    assert "system keyring" in person.doctor("vastai")


def test_a_key_is_taken_from_the_first_place_that_has_one(person: Person) -> None:
    """Environment, gpurent.toml, keyring, the service's own file: in this order."""
    key = person.sandbox.account_key
    own = person.home / ".config" / "vastai" / "vast_api_key"
    own.parent.mkdir(parents=True)
    own.write_text(key, encoding="utf-8")
    assert str(own) in person.doctor("vastai")
    assert person.run("login", "vastai", "--stdin", stdin=key).returncode == 0
    assert "system keyring" in person.doctor("vastai")
    (person.home / "gpurent.toml").write_text(f'[providers.vastai]\nkey = "{key}"\n', encoding="utf-8")
    assert "gpurent.toml" in person.doctor("vastai")
    assert "VAST_API_KEY" in person.doctor("vastai", VAST_API_KEY=key)


def test_the_doctor_is_not_green_when_the_key_opens_nothing(person: Person) -> None:
    """Vast.ai's search needs no key: a key that wants a second factor, or is wrong, fails its check all the same."""
    env = {"VAST_API_KEY": person.sandbox.account_key, "GPURENT_PROVIDERS": "vastai"}
    person.sandbox.faults.set(VastFault.SECOND_FACTOR, p=1.0)
    try:
        locked = person.run("doctor", **env)
    finally:
        person.sandbox.faults.clear()
    assert locked.returncode == 1 and "--  vastai" in locked.stdout and "second factor" in locked.stdout
    assert person.run("doctor", **{**env, "VAST_API_KEY": "f" * 64}).returncode == 1
    before = len(person.sandbox.journal.entries())
    well = person.run("doctor", **env)
    assert well.returncode == 0 and "ok  vastai: answers, balance" in well.stdout
    asked = [f"{one.method} {one.path}" for one in person.sandbox.journal.entries()[before:]]
    assert len(asked) <= 2 and not any("bundles" in one for one in asked), asked


URLS = {"vastai": ("VAST_API_KEY", "VAST_URL"), "runpod": ("RUNPOD_API_KEY", "RUNPOD_API_BASE_URL")}


class Thief:
    """Listens on loopback and remembers every header it is sent."""

    def __init__(self) -> None:
        heard: list[str] = []

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                heard.append(str(self.headers))
                self.send_response(200)
                self.end_headers()
                self.wfile.write(b"{}")

            do_POST = do_GET

            def log_message(self, format: str, *args: object) -> None: ...  # noqa: A002

        self.heard = heard
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}"


@pytest.fixture
def thief() -> Iterator[Thief]:
    made = Thief()
    yield made
    made.server.shutdown()
    made.server.server_close()


@pytest.mark.parametrize("place", ["environment", "keyring", "own file"])
@pytest.mark.parametrize("provider", ["vastai", "runpod"])
def test_a_folder_cannot_lead_a_key_away(person: Person, thief: Thief, provider: str, place: str) -> None:
    """A gpurent.toml that came with a download names an address: no key that it does not hold is sent there."""
    variable, url = URLS[provider]
    key, env = person.sandbox.account_key, {url: ""}
    if place == "environment":
        env[variable] = key
    elif place == "keyring":
        assert person.run("login", provider, "--stdin", stdin=key).returncode == 0
    else:
        own = {"vastai": (".config/vastai/vast_api_key", key), "runpod": (".runpod/config.toml", f'apikey = "{key}"')}
        path = person.home / own[provider][0]
        path.parent.mkdir(parents=True)
        path.write_text(own[provider][1], encoding="utf-8")
    (person.home / "gpurent.toml").write_text(f'[providers.{provider}]\nurl = "{thief.url}"\n', encoding="utf-8")
    told = person.doctor(provider, **env)
    assert f"gpurent.toml: providers.{provider}.url" in told and url in told
    person.run("quote", "--images", "5", **env)
    assert thief.heard == []


def test_a_folder_may_lead_its_own_key(person: Person) -> None:
    """Address and key from the same file belong together; with another key from the environment they do not."""
    key = person.sandbox.account_key
    (person.home / "gpurent.toml").write_text(
        f'[providers.vastai]\nurl = "{person.sandbox.url}"\nkey = "{key}"\n', encoding="utf-8"
    )
    assert "answers" in person.doctor("vastai", VAST_URL="")
    assert "VAST_API_KEY" in person.doctor("vastai", VAST_URL="", VAST_API_KEY="mine")


def test_a_key_is_not_tried_where_a_folder_says(person: Person, thief: Thief) -> None:
    """``login`` keeps a key for every folder, and tries it at the service's own address."""
    (person.home / "gpurent.toml").write_text(f'[providers.vastai]\nurl = "{thief.url}"\n', encoding="utf-8")
    kept = person.run("login", "vastai", "--stdin", stdin=person.sandbox.account_key)
    assert kept.returncode == 0 and thief.heard == []
    person.run("login", "vastai", "--stdin", stdin="x", VAST_URL="", HTTPS_PROXY="http://127.0.0.1:9")
    assert thief.heard == []


def test_without_a_keyring_login_says_what_to_do_instead(person: Person) -> None:
    """A server without a desktop has none."""
    ended = person.run(
        "login", "runpod", "--stdin", stdin=person.sandbox.account_key,
        PYTHON_KEYRING_BACKEND="keyring.backends.fail.Keyring",
    )  # fmt: skip
    assert ended.returncode == 2 and "RUNPOD_API_KEY" in ended.stderr
    assert person.sandbox.account_key not in ended.stdout + ended.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [(("login", "vast"), "vastai"), (("login", "ssh"), "needs no key"), (("logout", "vastai"), "No key"),
     (("login", "vastai", "--stdin"), "no key was given")],
)  # fmt: skip
def test_mistakes_are_told(person: Person, arguments: tuple[str, ...], said: str) -> None:
    """An unknown provider, one without a key, and nothing typed."""
    ended = person.run(*arguments)
    assert said in ended.stdout + ended.stderr
