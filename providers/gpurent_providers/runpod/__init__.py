"""The adapter for RunPod."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from gpurent.clock import Clock
from gpurent.errors import MissingCredentials
from gpurent.play import leads_to_sandbox
from gpurent.spi import SPI_VERSION, Facts, Provider, ProviderPlugin, Setting

URL = Setting("url", "RUNPOD_API_BASE_URL", "Where RunPod's API answers.", leads=True, default="https://api.runpod.io")


def _own_file() -> tuple[str, Path] | None:
    from gpurent_providers.runpod.keyfile import key_in_file

    path = Path("~/.runpod/config.toml").expanduser()
    key = key_in_file(path)
    return (key, path) if key else None


KEY = Setting(
    "key",
    "RUNPOD_API_KEY",
    "API key with read and write access to pods.",
    secret=True,
    required=True,
    own_file=_own_file,
)


def open_runpod(settings: Mapping[str, str], clock: Clock) -> Provider:
    """Build the adapter.

    Raises:
        MissingCredentials: there is no key.
    """
    from gpurent_providers.runpod.provider import RunPodProvider  # the HTTP stack loads on first use only

    key = settings.get(KEY.name)
    if not key:
        raise MissingCredentials(
            "no API key for RunPod",
            provider="runpod",
            hint="`gpurent login runpod` keeps one, or set RUNPOD_API_KEY; see `gpurent help runpod`.",
        )
    return RunPodProvider(settings.get(URL.name) or URL.default, key, clock)


PLUGIN = ProviderPlugin(
    name="runpod",
    spi_version=SPI_VERSION,
    settings=(URL, KEY),
    facts=Facts(billing_granularity_s=1, minimum_s=0, boot_s=180.0, lasting_refs=True),
    open=open_runpod,
    plays=lambda settings: leads_to_sandbox(settings.get(URL.name) or URL.default, settings.get(KEY.name, "")),
)
