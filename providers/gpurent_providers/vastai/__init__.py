"""The adapter for Vast.ai."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from gpurent.clock import Clock
from gpurent.errors import MissingCredentials
from gpurent.play import leads_to_sandbox
from gpurent.spi import SPI_VERSION, Facts, Provider, ProviderPlugin, Setting

URL = Setting("url", "VAST_URL", "Where Vast.ai's API answers.", leads=True, default="https://console.vast.ai")


def _own_file() -> tuple[str, Path] | None:
    from gpurent_providers.vastai.keyfile import key_in_files

    return key_in_files()


KEY = Setting(
    "key",
    "VAST_API_KEY",
    "API key with misc, user_read, instance_read, instance_write and billing_read.",
    secret=True,
    required=True,
    own_file=_own_file,
)
UNVERIFIED = Setting("unverified", "GPURENT_VASTAI_UNVERIFIED", "true: hosts that Vast.ai has not verified as well.")


def open_vastai(settings: Mapping[str, str], clock: Clock) -> Provider:
    """Build the adapter.

    Raises:
        MissingCredentials: there is no key.
    """
    from gpurent_providers.vastai.provider import VastProvider  # the HTTP stack loads on first use only

    key = settings.get(KEY.name)
    if not key:
        raise MissingCredentials(
            "no API key for Vast.ai",
            provider="vastai",
            hint="`gpurent login vastai` keeps one, or set VAST_API_KEY; see `gpurent help vast`.",
        )
    unverified = settings.get(UNVERIFIED.name, "").lower() in ("1", "true", "yes")
    return VastProvider(settings.get(URL.name) or URL.default, key, clock, unverified=unverified)


PLUGIN = ProviderPlugin(
    name="vastai",
    spi_version=SPI_VERSION,
    settings=(URL, KEY, UNVERIFIED),
    facts=Facts(billing_granularity_s=1, minimum_s=0, boot_s=180.0, lasting_refs=True),
    open=open_vastai,
    plays=lambda settings: leads_to_sandbox(settings.get(URL.name) or URL.default, settings.get(KEY.name, "")),
)
