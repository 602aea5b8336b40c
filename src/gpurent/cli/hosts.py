"""``gpurent hosts``: machines of your own, or rented by hand from a service without an API."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.table import Table

from gpurent import registry
from gpurent.cli import output
from gpurent.cli.asking import confirm
from gpurent.clock import SystemClock
from gpurent.errors import ProviderError, UsageError
from gpurent.hosts import OwnHost, hosts_file, load_hosts, nearest, remove_host, save_host
from gpurent.model import squash
from gpurent.plan import gpus
from gpurent.settings import vram_mb
from gpurent.spi import Probe, SupportsProbe

COLUMNS = ("name", "address", "GPU", "GiB", "$/h", "until", "pinned", "note")


def add(name: str, given: dict[str, Any], *, yes: bool, as_json: bool) -> int:
    """List a machine, and pin the key with which it answers. What fails leaves the list as it was."""
    if name in load_hosts(hosts_file()):
        raise UsageError(f"{name} is listed already", hint=f"`gpurent hosts remove {name}` first, or edit the file.")
    _readable(given.get("key"))
    save_host(hosts_file(), name, given)
    code = 1
    try:
        code = test(name, pin=True, yes=yes, as_json=as_json, fit_disk=given.get("disk_gb") is None)
    finally:
        if code:
            remove_host(hosts_file(), name)
    return code


def _readable(key: object) -> None:
    """A key file that cannot be read now will not be readable in the night either."""
    if key is None:
        return
    try:
        with Path(str(key)).open("rb"):
            pass
    except OSError as error:
        hint = "`ssh-keygen -t ed25519` makes one; left out, the agent and the usual files are used."
        raise UsageError(f"--key {key} cannot be read: {error.strerror}", hint=hint) from error


def remove(name: str, *, force: bool) -> int:
    """Forget a machine that no run uses."""
    host = _host(name)
    lease = "" if force or not host.host_key else _lease(name)
    if lease:
        raise UsageError(f"{name} is in use by {lease}", hint="`gpurent status`, `gpurent reap`.")
    remove_host(hosts_file(), name)
    output.console.print(f"{name} is forgotten.")
    return 0


def _lease(name: str) -> str:
    try:
        return _prober().probe(name).lease
    except ProviderError as error:
        raise UsageError(
            f"{name} does not say whether a run uses it: {error}",
            hint=f"`gpurent hosts remove {name} --force` forgets it without asking.",
        ) from error


def listing(*, as_json: bool) -> int:
    """Show what is listed; nothing is asked."""
    hosts = load_hosts(hosts_file())
    if as_json:
        output.print_json({name: host.shown() for name, host in hosts.items()})
        return 0
    if not hosts:
        output.console.print("No machine is listed; `gpurent hosts add --help` says how to list one.")
        return 0
    table = Table(*COLUMNS)
    for name, host in hosts.items():
        until = "" if host.until is None else host.until.strftime("%Y-%m-%d %H:%M")
        pinned = "yes" if host.host_key else "no"
        where = f"{host.user}@{host.address}:{host.port}"
        what = (host.gpu, f"{host.vram_gb:g}", str(host.price))
        when = (until, pinned, host.note)
        table.add_row(name, where, *what, *when)
    output.console.print(table)
    return 0


def test(name: str, *, pin: bool, yes: bool, as_json: bool, fit_disk: bool = False) -> int:
    """Log in and say what is there; 1 when something is missing. The first time, or with ``pin``, its key is pinned.

    ``fit_disk`` lists a machine that has less than the usual room free with what it has.
    """
    host, prober = _host(name), _prober()
    if not host.host_key or pin:
        shown = prober.identify(name)
        if not as_json:
            output.console.print(f"{name} identifies itself with {shown.fingerprint} ({shown.host_key.split()[0]}).")
        if shown.host_key != host.host_key:
            _agree(shown.fingerprint, yes=yes, as_json=as_json)
            save_host(hosts_file(), name, {"host_key": shown.host_key})
    found = prober.probe(name)
    if fit_disk and 0 < found.free_disk_gb < host.disk_gb:
        save_host(hosts_file(), name, {"disk_gb": found.free_disk_gb})
        host = _host(name)
    troubles = missing(host, found)
    if as_json:
        output.print_json({**asdict(found), "missing": troubles})
        return 1 if troubles else 0
    output.console.print(f"GPU: {'; '.join(found.gpus) or 'nvidia-smi finds none'}")
    output.console.print(f"Python {found.python}, torch {found.torch}, {found.free_disk_gb} GB free.")
    output.console.print(f"In use by {found.lease}." if found.lease else "Nobody uses it.")
    for trouble in troubles:
        output.notes.print(f"missing: {trouble}", style="yellow")
    return 1 if troubles else 0


def missing(host: OwnHost, found: Probe) -> list[str]:
    """What a machine lacks for a run, or lacks of what it is listed with."""
    troubles: list[str] = []
    if not found.gpus:
        troubles.append(f"a GPU: nvidia-smi shows none, listed is {host.gpu}")
    elif len(found.gpus) < host.gpu_count:
        troubles.append(f"GPUs: {len(found.gpus)} of the {host.gpu_count} listed")
    for line in found.gpus[: host.gpu_count]:
        name, _, rest = line.partition(",")
        if not _same(host.gpu, name):
            troubles.append(f"the GPU that is listed, {host.gpu}: there is {name.strip()}; correct `gpu`")
        mib = rest.split()[0] if rest.split() else ""
        if mib.isdigit() and int(mib) < vram_mb(int(host.vram_gb)):
            troubles.append(f"GPU memory: {int(mib) / 1024:.0f} GiB, listed are {host.vram_gb:g}; correct `vram_gb`")
    version = tuple(int(part) for part in found.python.split(".")[:2] if part.isdigit())
    if version < (3, 10):
        troubles.append(f"Python 3.10 or newer: python3 is {found.python or 'none'}")
    if found.free_disk_gb < host.disk_gb:
        troubles.append(f"disk: {found.free_disk_gb} GB are free, listed are {host.disk_gb}; correct `disk_gb`")
    return troubles


def _same(listed: str, shown: str) -> bool:
    ours, theirs = gpus.find(listed), gpus.find(shown)
    return ours is theirs if ours and theirs else squash(listed) in squash(shown)


def _agree(fingerprint: str, *, yes: bool, as_json: bool) -> None:
    if yes:
        return
    if as_json:
        raise UsageError(f"With --json nobody is asked; it shows {fingerprint}.", hint="Compare it, then add --yes.")
    if not sys.stdin.isatty():
        raise UsageError("Nobody is there to compare the fingerprint.", hint="Add --yes to pin it unseen.")
    if not confirm("Is that the machine? It is pinned from now on"):
        raise UsageError("Nothing was pinned.", hint="Ask the person who runs the machine for its fingerprint.")


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
