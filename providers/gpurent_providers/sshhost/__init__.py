"""The adapter for machines of your own: nothing is rented, one job at a time."""

from __future__ import annotations

from collections.abc import Mapping

from gpurent.clock import Clock
from gpurent.errors import MissingCredentials
from gpurent.hosts import hosts_file, load_hosts
from gpurent.spi import SPI_VERSION, Facts, Provider, ProviderPlugin, Setting

HOSTS = Setting("hosts", "GPURENT_HOSTS_FILE", "File that lists your machines; `gpurent hosts add` writes it.")


def open_sshhost(settings: Mapping[str, str], clock: Clock) -> Provider:
    """Build the adapter from ``hosts.toml``.

    Raises:
        MissingCredentials: no machine is listed.
        ConfigError: the file is wrong.
    """
    from pathlib import Path

    from gpurent_providers.sshhost.provider import SshHostProvider  # paramiko loads on first use only

    path = Path(settings["hosts"]).expanduser() if "hosts" in settings else hosts_file()
    if not load_hosts(path):
        raise MissingCredentials("no machine of yours is listed", provider="ssh", hint="`gpurent hosts add` lists one.")
    return SshHostProvider(path, clock)


PLUGIN = ProviderPlugin(
    name="ssh",
    spi_version=SPI_VERSION,
    settings=(HOSTS,),
    facts=Facts(billing_granularity_s=1, minimum_s=0, boot_s=5.0, owned=True, lasting_refs=True),
    open=open_sshhost,
)
