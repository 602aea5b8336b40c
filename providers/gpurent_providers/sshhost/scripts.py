"""What runs on a machine of yours, in POSIX shell, from the login folder. Everything of ours is below ``.gpurent``.

The lease is a file that only one can create. It holds the tag of the run that uses the machine, and since when.
"""

from __future__ import annotations

import shlex

LOOK = """\
echo gpurent-host 1
if [ -s .gpurent/lease ]; then echo "lease $(cat .gpurent/lease)"; elif [ -e .gpurent/lease ]; then echo "lease ? 0"; fi
"""

_CREATE = """\
echo gpurent-host 1
mkdir -p .gpurent .ssh && chmod 700 .gpurent .ssh || exit 9
# A lease without a text is from a machine that lost power while it was written.
[ -e .gpurent/lease ] && [ ! -s .gpurent/lease ] && [ -n "$(find .gpurent/lease -mmin +1)" ] && rm -f .gpurent/lease
if ! (set -C; echo "$T $(date +%s)" > .gpurent/lease) 2> /dev/null; then echo taken; exit 0; fi
F=.ssh/authorized_keys
[ -s $F ] && [ -n "$(tail -c 1 $F)" ] && echo >> $F
echo "$K gpurent:$T" >> $F && chmod 600 $F || exit 9
if [ -n "$L" ]; then
  setsid sh -c "echo \\$\\$ > .gpurent/sleeper; sleep $L; $E" > /dev/null 2>&1 < /dev/null &
fi
echo "lease $(cat .gpurent/lease)"
"""

_END = """\
[ "$(cut -d" " -f1 .gpurent/lease 2> /dev/null)" = "$T" ] || exit 0
for s in TERM KILL; do
  n=0
  for f in .gpurent/jobs/*/pid; do
    [ -s "$f" ] && kill -s $s -- "-$(cat "$f")" 2> /dev/null && n=1
  done
  [ $n = 1 ] && [ $s = TERM ] && sleep 1
done
F=.ssh/authorized_keys
if [ -s $F ]; then grep -v " gpurent:$T\\$" $F > .gpurent/keys; cat .gpurent/keys > $F; fi
P=$(cat .gpurent/sleeper 2> /dev/null)
rm -rf .gpurent/jobs .gpurent/content .gpurent/cache .gpurent/engine .gpurent/sleeper .gpurent/keys .gpurent/enter*
rm -f .gpurent/lease
rmdir .gpurent 2> /dev/null
[ -n "$P" ] && [ "$P" != "$$" ] && kill -s KILL -- "-$P" 2> /dev/null
true
"""

PROBE = """\
echo gpurent-host 1
echo "python $(python3 -c 'import sys; print("%d.%d.%d" % sys.version_info[:3])' 2> /dev/null || echo none)"
echo "torch $(python3 -c 'import importlib.metadata as m; print(m.version("torch"))' 2> /dev/null || echo none)"
echo "disk $(df -Pk . | awk 'NR==2 {print $4}')"
nvidia-smi --query-gpu=name,memory.total,driver_version --format=csv,noheader 2> /dev/null | sed 's/^/gpu /'
"""


def create(tag: str, public_key: str, lifetime_s: int | None) -> str:
    """Take the lease, admit the run's key, and set a sleeper that ends it all after ``lifetime_s``."""
    ending = f"T={shlex.quote(tag)}; {_END}"
    values = {"T": tag, "K": " ".join(public_key.split()[:2]), "L": "" if lifetime_s is None else str(lifetime_s)}
    given = "".join(f"{name}={shlex.quote(value)}\n" for name, value in values.items())
    return f"{given}E={shlex.quote(ending)}\n{_CREATE}"


def end(tag: str) -> str:
    """Stop the processes of this tag, remove our files, give the lease back; nothing if another run holds it."""
    return f"echo gpurent-host 1\nT={shlex.quote(tag)}\n{_END}"
