"""What adapters of services over HTTP have in common."""

from __future__ import annotations

from gpurent.clock import Clock
from gpurent.errors import ConfigError
from gpurent.http import Api, Policy
from gpurent.play import is_loopback


class HttpAdapter:
    """Talks to one service through one ``Api``, under the name that the service is registered by."""

    def __init__(self, api: Api) -> None:
        self._api = api

    @property
    def name(self) -> str:
        """Its registered name."""
        return self._api.provider

    def close(self) -> None:
        """Release connections."""
        self._api.close()


def bearer_api(provider: str, url: str, key: str, clock: Clock, *, policy: Policy, url_from: str) -> Api:
    """A client that shows ``key`` with every request.

    Args:
        provider: the registered name.
        url: of the service.
        key: its account key.
        clock: for pauses and deadlines.
        policy: how often and how patiently it is asked.
        url_from: the environment variable that may hold another ``url``.

    Raises:
        ConfigError: ``url`` would send the key unencrypted over a network.
    """
    if not url.startswith("https://") and not is_loopback(url):
        raise ConfigError(f"{url!r} is not a https address", hint=f"Set {url_from} to one, or leave it out.")
    return Api(
        provider,
        url.rstrip("/"),
        headers={"Authorization": f"Bearer {key}"},
        secrets=(key,),
        clock=clock,
        policy=policy,
        use_proxies=not is_loopback(url),
    )
