"""The start-up script of a rented machine: dead-man switch first, then keys.

It runs as root before SSH answers, and writes down the environment that the image gave it, without keys and tokens:
sessions do not see that (``runtime`` says how they find it again). ``GPURENT_ROOT`` moves absolute paths below a
folder: that is how the sandbox, whose machines share one file system, runs the very same script.
"""

from __future__ import annotations

import ast
import base64
import shlex
import zlib
from importlib.resources import files

from gpurent.model import Fuse, Identity, SelfDestruct

MAX_BYTES = 4096
"""The tightest limit of the services (Vast.ai's ``onstart``)."""

_SCRIPT = r"""umask 077
R="${{GPURENT_ROOT:-}}"
D="$R/root/.gpurent/deadman"
mkdir -p "$D" "$R/etc/ssh" "$R/root/.ssh"
sh -c 'unset x $(env|grep -Eo "^[A-Z]\w*(KEY|TOKEN|SECRET|PASS)\w*");export -p'>"$D/../env"
{deadman}
cat > "$R/etc/ssh/ssh_host_ed25519_key" <<'K'
{host_key}
K
echo {host_public} > "$R/etc/ssh/ssh_host_ed25519_key.pub"
echo {client} >> "$R/root/.ssh/authorized_keys"
chmod 700 "$R/root" "$R/root/.ssh"
[ "$R" ] || pkill -HUP -x sshd || :
"""
_DEADMAN = """\
for P in python3 python "$R/opt/conda/bin/python" "$R/venv/main/bin/python"; do "$P" -c 0 && break; done
U='import base64,sys,zlib;sys.stdout.buffer.write(zlib.decompress(base64.b85decode(sys.stdin.read().strip())))'
echo {source} | "$P" -c "$U" > "$D/new" && mv "$D/new" "$D/deadman.py"
rm -f "$D/order.json"
(cd "$D" && setsid "$P" deadman.py {arguments} > log.txt 2>&1 < /dev/null &)"""


def script(identity: Identity, self_destruct: SelfDestruct | None, fuse: Fuse) -> str:
    """Write the script. With no ``self_destruct`` there is no dead-man switch to start.

    Raises:
        ValueError: the script would exceed what services accept.
    """
    text = _SCRIPT.format(
        deadman=_deadman(self_destruct, fuse) if self_destruct else ":",
        host_key=identity.host_private_key.strip(),
        host_public=shlex.quote(identity.host_public_key),
        client=shlex.quote(identity.public_key),
    )
    if len(text.encode()) > MAX_BYTES:
        raise ValueError(f"the start-up script has {len(text.encode())} bytes, more than {MAX_BYTES}")
    return text


def arguments(order: SelfDestruct, fuse: Fuse) -> list[str]:
    """What the dead-man switch of a machine is started with."""
    made = [
        "--after", str(fuse.after_s), "--at", str(fuse.at), "--first", str(fuse.first_s), "--hold", str(fuse.hold_s),
        "--method", order.method, "--url", order.url,
    ]  # fmt: skip
    for name, value in order.headers:
        made += ["--header", f"{name}={value}"]
    return [*made, "--body", order.body] if order.body else made


def _deadman(order: SelfDestruct, fuse: Fuse) -> str:
    packed = base64.b85encode(zlib.compress(_source(), 9)).decode()
    return _DEADMAN.format(source=shlex.quote(packed), arguments=shlex.join(arguments(order, fuse)))


def _source() -> bytes:
    """The switch without comments and types: every byte counts here, and the host does not read."""
    tree = ast.parse((files("gpurent_deadman") / "deadman.py").read_bytes())
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            node.returns = None
        if isinstance(node, ast.arg):
            node.annotation = None
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
            node.body = node.body[1:]
    return ast.unparse(tree).encode()
