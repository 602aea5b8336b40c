"""Finding the image's Python over SSH, where a session sees nothing of the image's environment.

An image puts its interpreter into ``PATH`` through ``ENV``, which only the first process has. Our start-up script runs
as its child and writes that environment down; a session reads it back, and looks for the interpreter that has torch:

1. our own environment, if packages were installed on this machine before;
2. ``PATH`` of the image's environment, of process 1, and of the session;
3. virtual environments and conda at their usual places;
4. the system's own.

What was chosen is written to ``.gpurent/enter``, which every later command reads.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from gpurent.errors import HostUnfit
from gpurent.spi import Runtime

LEAST_PYTHON = (3, 11)
"""diffusers 0.42 and transformers 5.23 require it, and ``requirements.lock`` starts there."""
LEAST_TORCH = (2, 6)
"""transformers 5.23 ignores an older torch."""
ENTER = ".gpurent/enter"
VENV = ".gpurent/venv"
VENV_READY = f"{VENV}/ready"
"""Written when everything was installed."""
MAX_PATH = 400
MOST = 16
"""Interpreters looked at; the search ends with the first that suffices."""

_CHECK = f"""\
import sys, re, importlib.metadata as m
try: t = m.version('torch')
except Exception: t = '-'
v = tuple(map(int, re.findall('[0-9]+', t)[:2]))
enough = sys.version_info >= {LEAST_PYTHON} and v >= {LEAST_TORCH}
print('enough' if enough else 'python', '%d.%d' % sys.version_info[:2], t)"""

_FIND = """\
echo @MARK@
R="${GPURENT_ROOT:-}"
H=$(pwd)
echo "home $H"
echo "user $(id -un 2>/dev/null || id -u)"
S=$PATH
I=$(tr '\\0' '\\n' < "$R/proc/1/environ" 2>/dev/null | sed -n 's/^PATH=//p')
if [ -r "$H/.gpurent/env" ]; then
  echo "started 1"
  E=$(. "$H/.gpurent/env" > /dev/null 2>&1; printf %s "$PATH")
fi
[ -e "$H/@READY@" ] && V="$H/@VENV@/bin"
n=0
seen=:
try() {
  [ -x "$1" ] && [ $n -lt @MOST@ ] || return 0
  case $seen in *":$1:"*) return 0 ;; esac
  seen="$seen$1:"
  n=$((n + 1))
  f=$(PYTHONDONTWRITEBYTECODE=1 "$1" -c "$C" 2>/dev/null < /dev/null) || return 0
  echo "$f $1"
  case $f in "enough "*) echo end; exit 0 ;; esac
}
C=@CHECK@
IFS=:
for d in $V $E $I $S "$R/venv/main/bin" "$R/opt/venv/bin" "$R/opt/python-venv/bin" "$R/workspace/venv/bin" \\
  "$H/venv/bin" "$H/.venv/bin" "$R/opt/conda/bin" "$R/opt/miniconda3/bin" "$R/opt/anaconda3/bin" \\
  "$H/miniconda3/bin" "$H/anaconda3/bin" "$R/usr/local/bin" "$R/usr/bin"; do
  for p in python3 python python3.13 python3.12 python3.11; do try "$d/$p"; done
done
echo end
"""

_ENTER = """\
h=$HOME
if [ -r "$h/.gpurent/env" ]; then . "$h/.gpurent/env"; fi
HOME=$h; export HOME; cd .
s='KEY\\|TOKEN\\|SECRET\\|PASS'
for n in $(env | sed -n "s/^\\([A-Za-z0-9_]*\\($s\\)[A-Za-z0-9_]*\\)=.*/\\1/p"); do unset "$n"; done
unset n s h OLDPWD
GPURENT_PYTHON=@PYTHON@
"""

_LINE = re.compile(r"(?:python|enough) ([0-9]{1,2})\.([0-9]{1,3}) (\S{1,60}) (/[^\x00-\x1f\x7f]{1,400})")


@dataclass(frozen=True, slots=True)
class Interpreter:
    """One Python of a machine. ``torch`` is its version, empty where there is none."""

    path: str
    version: tuple[int, int]
    torch: str

    @property
    def place(self) -> int:
        """0 for one that can train, then by what is missing; the order of the search decides among equals."""
        if self.version < LEAST_PYTHON:
            return 3
        if not self.torch:
            return 2
        return 0 if numbers(self.torch) >= LEAST_TORCH else 1


def numbers(version: str) -> tuple[int, ...]:
    """``2.13.0+cpu`` as (2, 13, 0)."""
    return tuple(int(part) for part in re.findall(r"[0-9]{1,9}", version.partition("+")[0])[:3])


def find(mark: str) -> str:
    """The search, as a script for ``sh -s``."""
    values = {"MARK": mark, "READY": VENV_READY, "VENV": VENV, "MOST": str(MOST), "CHECK": shlex.quote(_CHECK)}
    return _filled(_FIND, values)


def enter(python: str) -> str:
    """What a command reads first: the image's environment without its secrets, and where Python is."""
    return _filled(_ENTER, {"PYTHON": shlex.quote(python)})


def _filled(text: str, values: dict[str, str]) -> str:
    for name, value in values.items():
        text = text.replace(f"@{name}@", value)
    return text


def read(lines: Sequence[str]) -> Runtime:
    """What the search found.

    Raises:
        HostUnfit: no Python there can run the engine, or the answer is not complete.
    """
    if not lines or lines[-1] != "end":
        raise HostUnfit("shell", "the machine's shell broke off our search for Python")
    told = dict(line.split(" ", 1) for line in lines if line.startswith(("home ", "user ", "started ")))
    home = told.get("home", "")
    if not home.startswith("/") or not home.isprintable() or len(home) > MAX_PATH or ".." in home:
        raise HostUnfit("shell", "the machine does not say where its login folder is")
    found = [
        Interpreter(match[4], (int(match[1]), int(match[2])), "" if match[3] == "-" else match[3])
        for line in lines
        if (match := _LINE.fullmatch(line))
    ]
    best = min(found, key=lambda runtime: runtime.place, default=None)
    if best is None:
        raise HostUnfit("no_python", "the image has no Python", image=True)
    if best.place == 3:
        has = f"{'.'.join(map(str, best.version))} at {best.path}"
        raise HostUnfit("old_python", f"the image's newest Python is {has}", image=True)
    return Runtime(
        python=best.path,
        version=best.version,
        torch=best.torch,
        home=home,
        user=told.get("user", ""),
        started="started" in told,
    )
