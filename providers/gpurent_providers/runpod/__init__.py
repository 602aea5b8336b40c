"""The adapter for RunPod."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from gpurent.clock import Clock
from gpurent.errors import MissingCredentials
from gpurent.spi import SPI_VERSION, Facts, Provider, ProviderPlugin, Setting

URL = Setting("url", "RUNPOD_API_BASE_URL", "Where RunPod's API answers.", default="https://api.runpod.io")
KEY = Setting("key", "RUNPOD_API_KEY", "API key with read and write access to pods.", secret=True, required=True)


def open_runpod(settings: Mapping[str, str], clock: Clock) -> Provider:
    """Build the adapter; without a key in the settings, RunPod's own configuration file is asked.

    Raises:
        MissingCredentials: there is no key, or that file cannot be read.
    """
    from gpurent_providers.runpod.keyfile import key_in_file
    from gpurent_providers.runpod.provider import RunPodProvider  # the HTTP stack loads on first use only

    key = settings.get(KEY.name) or key_in_file(Path("~/.runpod/config.toml").expanduser())
    if not key:
        raise MissingCredentials(
            "no API key for RunPod", provider="runpod", hint="Set RUNPOD_API_KEY; see docs/how-to/runpod.md."
        )
    return RunPodProvider(settings.get(URL.name) or URL.default, key, clock)


PLUGIN = ProviderPlugin(
    name="runpod",
    spi_version=SPI_VERSION,
    settings=(URL, KEY),
    facts=Facts(billing_granularity_s=1, minimum_s=0, boot_s=180.0),
    open=open_runpod,
)
