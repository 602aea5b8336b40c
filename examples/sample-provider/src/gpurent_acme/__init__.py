"""The plug-in: what gpurent reads without importing anything heavy."""

from __future__ import annotations

from collections.abc import Mapping

from gpurent.clock import Clock
from gpurent.errors import MissingCredentials
from gpurent.spi import SPI_VERSION, Facts, Provider, ProviderPlugin, Setting

URL = Setting("url", "ACME_URL", "Where ACME's API answers.", default="https://api.acme.example")
KEY = Setting("key", "ACME_API_KEY", "API key of acme.example.", secret=True, required=True)


def open_acme(settings: Mapping[str, str], clock: Clock) -> Provider:
    """Build the adapter. Raises MissingCredentials."""
    from gpurent_acme.provider import AcmeProvider

    if not settings.get(KEY.name):
        raise MissingCredentials("no API key for ACME", provider="acme", hint="`gpurent login acme` keeps one.")
    return AcmeProvider(settings[URL.name], settings[KEY.name], clock)


PLUGIN = ProviderPlugin(
    name="acme",
    spi_version=SPI_VERSION,
    settings=(URL, KEY),
    facts=Facts(billing_granularity_s=60, minimum_s=60, boot_s=120.0),
    open=open_acme,
)
