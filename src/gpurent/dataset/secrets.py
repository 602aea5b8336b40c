"""Tell keys, tokens and credentials from captions and model files, before anything leaves this computer. Pure.

A stranger's dataset may hold a copy of, or a hard link to, what was never meant to be sent. The prefixes are those
that the services publish for their tokens.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

HEAD = 64 * 1024
"""Bytes of a picture or of weights that are looked at; keys begin at the beginning of a file."""
WHOLE = 8 * 1024 * 1024
"""Of any other file."""
BINARY = (".safetensors", ".png", ".jpg", ".jpeg", ".webp", ".bmp")

_NAMES = re.compile(
    r"id_(rsa|dsa|ecdsa|ed25519)(_sk)?(\..*)?|\.env(\..*)?|.*\.env|\.?netrc|_netrc|\.pgpass|\.npmrc|\.pypirc|\.dockercfg|"
    r"\.git-credentials|credentials(\..*)?|client_secret.*\.json|service[_-]account.*\.json|"
    r".*\.(pem|key|ppk|p12|pfx|kdbx|jks|keystore|asc|gpg)|vast_api_key|\.runpod\.toml|known_hosts|authorized_keys",
    re.IGNORECASE,
)
"""Files whose very purpose is a secret."""


@dataclass(frozen=True, slots=True)
class _Sign:
    """``pattern`` is searched for only in texts that hold a plain ``needle``: texts of megabytes are usual."""

    what: str
    needles: tuple[bytes, ...]
    pattern: re.Pattern[bytes]

    def seen_in(self, content: bytes) -> bool:
        return any(needle in content for needle in self.needles) and self.pattern.search(content) is not None


def _sign(what: str, needles: str, pattern: bytes, flags: int = 0) -> _Sign:
    return _Sign(what, tuple(needles.encode().split(b"|")), re.compile(pattern, flags))


_SIGNS = (
    _sign("a private key", "PRIVATE KEY", rb"-----BEGIN (?:[A-Z0-9]{1,20} ){0,4}PRIVATE KEY(?: BLOCK)?-----"),
    _sign("a PuTTY private key", "PuTTY-User-Key-File", rb"\APuTTY-User-Key-File-\d"),
    _sign("an age key", "AGE-SECRET-KEY-1", rb"AGE-SECRET-KEY-1[0-9A-Z]{20}"),
    _sign("a Hugging Face token", "hf_", rb"\bhf_[A-Za-z0-9]{30,40}\b"),
    _sign("a GitHub token", "ghp_|gho_|ghu_|ghs_|ghr_", rb"\bgh[pousr]_[A-Za-z0-9]{36}"),
    _sign("a GitHub token", "github_pat_", rb"\bgithub_pat_[A-Za-z0-9_]{50,}"),
    _sign("a GitLab token", "glpat-", rb"\bglpat-[A-Za-z0-9_-]{20}"),
    _sign("a RunPod key", "rpa_", rb"\brpa_[A-Za-z0-9]{30,60}\b"),
    _sign("an API key", "sk-", rb"\bsk-(?:ant-|proj-|or-v1-|live-)?[A-Za-z0-9_-]{32,}"),
    _sign("a Stripe key", "_live_", rb"\b[sr]k_live_[A-Za-z0-9]{20,}"),
    _sign("an AWS access key", "AKIA|ASIA", rb"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b"),
    _sign("a Google API key", "AIza", rb"\bAIza[A-Za-z0-9_-]{35}"),
    _sign("a Slack token", "xox", rb"\bxox[abeoprs]-[A-Za-z0-9-]{20,}"),
    _sign("an npm token", "npm_", rb"\bnpm_[A-Za-z0-9]{36}\b"),
    _sign("a PyPI token", "pypi-AgEI", rb"\bpypi-AgEI[A-Za-z0-9_-]{20,}"),
    _sign("a Replicate token", "r8_", rb"\br8_[A-Za-z0-9]{30,40}\b"),
    _sign("a signed web token", "eyJ", rb"\beyJ[\w-]{10,4000}\.eyJ[\w-]{10,4000}\.[\w-]{10}"),
    _sign(
        "credentials", "private_key|client_secret|refresh_token|access_token|api_key|apikey|secret_access_key",
        rb'"(?:private_key|client_secret|refresh_token|access_token|api_?key|aws_secret_access_key)"'
        rb'\s{0,20}:\s{0,20}"[^"\s]{8}',
    ),
    _sign(
        "credentials", "SECRET|TOKEN|PASSWORD|PASSWD|API_KEY|APIKEY|ACCESS_KEY",
        rb"^(?:export )?[A-Z0-9_]{0,40}(?:SECRET|TOKEN|PASSWORD|PASSWD|API_?KEY|ACCESS_KEY)[A-Z0-9_]{0,40}"
        rb" ?[=:] ?\S{8}",
        re.MULTILINE,
    ),
    _sign("credentials", "machine ", rb"^machine \S{1,200}\s{1,20}login \S{1,200}\s{1,20}password \S", re.MULTILINE),
    _sign("AWS credentials", "aws_secret_access_key", rb"^aws_secret_access_key\s{0,10}=", re.MULTILINE),
)  # fmt: skip
_BARE = re.compile(rb"\s*[0-9a-f]{64}\s*")
"""Vast.ai's keys are nothing but digits."""


def secret_name(name: str) -> bool:
    """Whether a file of this name is one that holds keys or credentials."""
    return _NAMES.fullmatch(name) is not None


def secret_in(content: bytes) -> str | None:
    """What a text or the beginning of a file looks like: ``a private key``; None for anything harmless."""
    if len(content) < 100 and _BARE.fullmatch(content):
        return "an API key"
    return next((sign.what for sign in _SIGNS if sign.seen_in(content)), None)


def portion(name: str, size: int) -> int:
    """How many bytes of a file are to be looked at."""
    return min(size, HEAD if name.lower().endswith(BINARY) else WHOLE)
