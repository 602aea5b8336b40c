"""``gpurent hosts``: machines of your own, or rented by hand from a service without an API."""

from __future__ import annotations

import sys
from dataclasses import asdict
from typing import Any

from rich.prompt import Confirm
from rich.table import Table

from gpurent import registry
from gpurent.cli import output
from gpurent.clock import SystemClock
from gpurent.errors import UsageError
from gpurent.hosts import OwnHost, hosts_file, load_hosts, nearest, remove_host, save_host
from gpurent.spi import SupportsProbe


def add(name: str, given: dict[str, Any], *, yes: bool, as_json: bool) -> int:
    """List a machine, and pin the key with which it answers."""
    if name in load_hosts(hosts_file()):
        raise UsageError(f"{name} is listed already", hint=f"`gpurent hosts remove {name}` first, or edit the file.")
    save_host(hosts_file(), name, given)
    return test(name, pin=True, yes=yes, as_json=as_json)


def remove(name: str, *, force: bool) -> int:
    """Forget a machine that no run uses."""
    host = _host(name)
    lease = _prober().probe(name).lease if host.host_key and not force else ""
    if lease:
        raise UsageError(f"{name} is in use by {lease}", hint="`gpurent status`, `gpurent reap`.")
    remove_host(hosts_file(), name)
    output.console.print(f"{name} is forgotten.")
    return 0


def listing(*, as_json: bool) -> int:
    """Show what is listed; nothing is asked."""
    hosts = load_hosts(hosts_file())
    if as_json:
        output.print_json({name: host.shown() for name, host in hosts.items()})
        return 0
    if not hosts:
        output.console.print("No machine is listed; `gpurent hosts add --help` says how to list one.")
        return 0
    table = Table("name", "address", "GPU", "GiB", "$/h", "until", "pinned", "note")
    for name, host in hosts.items():
        until = "" if host.until is None else host.until.strftime("%Y-%m-%d %H:%M")
        pinned = "yes" if host.host_key else "no"
        where = f"{host.user}@{host.address}:{host.port}"
        table.add_row(name, where, host.gpu, f"{host.vram_gb:g}", str(host.price), until, pinned, host.note)
    output.console.print(table)
    return 0


def test(name: str, *, pin: bool, yes: bool, as_json: bool) -> int:
    """Log in and say what is there. The first time, or with ``pin``, its host key is shown and pinned."""
    host, prober = _host(name), _prober()
    if not host.host_key or pin:
        shown = prober.identify(name)
        if not as_json:
            output.console.print(f"{name} identifies itself with {shown.fingerprint} ({shown.host_key.split()[0]}).")
        if shown.host_key != host.host_key:
            _agree(yes)
            save_host(hosts_file(), name, {"host_key": shown.host_key})
    found = prober.probe(name)
    if as_json:
        output.print_json(asdict(found))
        return 0
    gpus = "; ".join(found.gpus) or "nvidia-smi finds none"
    output.console.print(f"GPU: {gpus}")
    output.console.print(f"Python {found.python}, torch {found.torch}, {found.free_disk_gb} GB free.")
    output.console.print(f"In use by {found.lease}." if found.lease else "Nobody uses it.")
    return 0


def _agree(yes: bool) -> None:
    if yes:
        return
    if not sys.stdin.isatty():
        raise UsageError("Nobody is there to compare the fingerprint.", hint="Add --yes to pin it unseen.")
    if not Confirm.ask("Is that the machine? It is pinned from now on"):
        raise UsageError("Nothing was pinned.", hint="Ask whoever runs the machine for its fingerprint.")


def _host(name: str) -> OwnHost:
    hosts = load_hosts(hosts_file())
    if name not in hosts:
        raise UsageError(f"there is no machine {name!r}", hint=nearest(name, hosts))
    return hosts[name]


def _prober() -> SupportsProbe:
    opened, problems = registry.load(["ssh"], clock=SystemClock())
    if "ssh" in opened and isinstance(opened["ssh"].provider, SupportsProbe):
        return opened["ssh"].provider
    raise UsageError(f"own machines cannot be used: {'; '.join(one.message for one in problems)}")
