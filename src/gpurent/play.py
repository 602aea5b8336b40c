"""Telling play money from real: keys of a sandbox say so themselves. Pure."""

from __future__ import annotations

from ipaddress import ip_address
from urllib.parse import urlsplit

ACCOUNT_KEYS = ("sbxa_", "sbxb_")
"""What the keys of a sandbox's two accounts begin with; no service's do."""


def is_loopback(url: str) -> bool:
    """Whether an address is on this computer: then no proxy is asked, and nothing needs to be encrypted."""
    try:
        host = urlsplit(url).hostname or ""
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def leads_to_sandbox(url: str, key: str) -> bool:
    """Whether an adapter with these settings talks to a sandbox on this computer.

    Both have to say so: a proxy to a real service may listen on this computer as well.
    """
    return key.startswith(ACCOUNT_KEYS) and is_loopback(url)
