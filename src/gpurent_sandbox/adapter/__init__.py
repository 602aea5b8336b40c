"""The adapter for the local sandbox market: play money, real SSH."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from gpurent.clock import Clock
from gpurent.errors import MissingCredentials
from gpurent.spi import SPI_VERSION, Facts, Provider, ProviderPlugin, Setting
from gpurent_sandbox.address import FILE, discover, usual_dir


def _url() -> tuple[str, Path] | None:
    address = discover(usual_dir())
    return None if address is None else (address.url, usual_dir() / FILE)


def _key() -> tuple[str, Path] | None:
    address = discover(usual_dir())
    return None if address is None else (address.account_key, usual_dir() / FILE)


URL = Setting(
    "url",
    "GPURENT_SANDBOX_URL",
    "Address of a running sandbox, as `gpurent sandbox up` prints it.",
    required=True,
    own_file=_url,
)
KEY = Setting("key", "GPURENT_SANDBOX_KEY", "Account key of that sandbox.", secret=True, required=True, own_file=_key)


def open_sandbox(settings: Mapping[str, str], clock: Clock) -> Provider:
    """Build the adapter from the environment, else from ``settings``.

    Raises:
        MissingCredentials: no sandbox is named.
    """
    from gpurent_sandbox.adapter.provider import SandboxProvider  # the HTTP stack loads on first use only

    url, key = (os.environ.get(setting.env) or settings.get(setting.name, "") for setting in (URL, KEY))
    if not url or not key:
        raise MissingCredentials(
            "no sandbox is running", provider="sandbox", hint="`gpurent sandbox up` starts one; it costs nothing."
        )
    return SandboxProvider(url, key, clock)


PLUGIN = ProviderPlugin(
    name="sandbox",
    spi_version=SPI_VERSION,
    settings=(URL, KEY),
    facts=Facts(billing_granularity_s=1, minimum_s=0, boot_s=2.0, play_money=True, lasting_refs=True),
    open=open_sandbox,
)
