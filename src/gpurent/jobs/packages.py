"""The engine's packages on a host: in the image, or installed into an environment of ours, never into the system.

The environment sees the packages of the image's Python (torch among them), also where that Python belongs to a virtual
environment itself. Nothing is installed without its digest, and nothing that the lock does not name: no torch for
another CUDA comes in as a dependency.
"""

from __future__ import annotations

import posixpath
import shlex
from collections.abc import Callable, Collection

from gpurent.errors import HostUnfit
from gpurent.spi import Host, Runtime
from gpurent.untrusted.text import quoted

CHECK_S = 60.0
VENV = ".gpurent/venv"

_PARENT = """\
import sys, sysconfig
target = sys.argv[1]
if sys.prefix != sys.base_prefix:
    paths = dict.fromkeys(sysconfig.get_path(name) for name in ("purelib", "platlib"))
    lines = ["import site; site.addsitedir(%r)" % path for path in paths]
    where = "%s/lib/python%d.%d/site-packages/gpurent-parent.pth" % (target, *sys.version_info[:2])
    open(where, "w").write("\\n".join(lines) + "\\n")
"""
"""A virtual environment made from another one sees the system's packages, not its parent's: tell it where those are."""

_INSTALL = """\
set -e
cd @HOME@
if [ ! -e @VENV@/ready ]; then
  rm -rf @VENV@
  @PYTHON@ -m venv --without-pip --system-site-packages @VENV@
  @PYTHON@ -c @PARENT@ @VENV@
fi
if ! @VENV@/bin/python -m pip --version > /dev/null 2>&1; then
  @VENV@/bin/python -m ensurepip > /dev/null 2>&1 || { echo "gpurent: the image has no pip"; exit 91; }
fi
unset PIP_CONSTRAINT PIP_REQUIREMENT PIP_USER PIP_TARGET PIP_PREFIX PIP_ROOT PIP_REQUIRE_VIRTUALENV PIP_DRY_RUN
@VENV@/bin/python -m pip install --quiet --no-input --disable-pip-version-check --no-deps --only-binary=:all: \\
  --require-hashes -r @LOCK@
: > @VENV@/ready
"""
NO_PIP = 91
"""Exit status of the script where there is none."""


def check(engine: str, runtime: Runtime, also: Collection[str] = ()) -> str:
    """A command that succeeds if nothing is lacking, and else names what is; ``also`` is what a dataset needs."""
    words = [runtime.python, "-m", "gpurent_engine", "doctor", "--quick"]
    words += [word for name in sorted(also) for word in ("--also", name)]
    return f"PYTHONPATH={shlex.quote(engine)} {shlex.join(words)}"


def install(engine: str, runtime: Runtime) -> str:
    """A script for ``sh`` that installs what is lacking, for a Python of the image; may be run again.

    Args:
        engine: folder of the engine, absolute.
        runtime: the Python whose packages it adds to.
    """
    words = {
        "HOME": shlex.quote(runtime.home), "VENV": VENV, "PYTHON": shlex.quote(runtime.python),
        "PARENT": shlex.quote(_PARENT),
        "LOCK": shlex.quote(posixpath.join(engine, "gpurent_engine", "requirements.lock")),
    }  # fmt: skip
    script = _INSTALL
    for name, word in words.items():
        script = script.replace(f"@{name}@", word)
    return script


def unfit(status: int, said: str) -> HostUnfit:
    """What an installation that failed says of the machine or its image."""
    tail = quoted(said, 400, end=True)
    if status == NO_PIP:
        return HostUnfit("no_pip", "the image has no pip, and the engine's packages are not in it", image=True)
    if any(words in said for words in ("name resolution", "Network is unreachable", "Name or service not known")):
        return HostUnfit("no_network", f"the machine cannot reach the package index; it says {tail}")
    if "No matching distribution" in said or "Could not find a version" in said:
        why = f"the engine's packages do not fit the image's Python; pip says {tail}"
        return HostUnfit("packages", why, image=True)
    return HostUnfit("packages", f"the engine's packages could not be installed; the machine says {tail}")


def lacking(host: Host, engine: str, runtime: Runtime, also: Collection[str] = ()) -> bool:
    """Whether a package is missing or too old."""
    return host.run(check(engine, runtime, also), timeout=CHECK_S).status != 0


def prepare(
    host: Host,
    engine: str,
    run: Callable[[str], tuple[int, str]],
    announce: Callable[[], None],
    *,
    also: Collection[str] = (),
) -> bool:
    """See that the host can run the engine, installing what its image lacks; True if anything was installed.

    Args:
        engine: folder of the engine, absolute.
        run: runs a script detached, minding what is to be minded; its status and last words.
        announce: told before an installation.
        also: packages that the dataset needs.

    Raises:
        HostUnfit: a package is lacking and cannot be installed.
    """
    runtime = host.runtime()
    if not lacking(host, engine, runtime, also):
        return False
    announce()
    status, said = run(install(engine, runtime))
    if status != 0:
        raise unfit(status, said)
    runtime = host.runtime(again=True)
    ended = host.run(check(engine, runtime, also), timeout=CHECK_S)
    if ended.status != 0:
        why = f"the engine's packages were installed and are not found; the machine says {quoted(ended.stdout)}"
        raise HostUnfit("packages", why, image=True)
    return True
