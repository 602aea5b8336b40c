"""The start-up script of a rented machine: dead-man switch first, then keys.

It runs as root before SSH answers, and writes down the environment that the image gave it, without keys and tokens:
sessions do not see that (``runtime`` says how they find it again). ``GPURENT_ROOT`` moves absolute paths below a
folder: that is how the sandbox, whose machines share one file system, runs the very same script.
"""

from __future__ import annotations

import ast
import base64
import builtins
import re
import shlex
import string
import zlib
from functools import cache
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


@cache
def _source() -> bytes:
    """The switch without comments and types: every byte counts here, and the host does not read."""
    tree = _Shortened().visit(ast.parse((files("gpurent_deadman") / "deadman.py").read_bytes()))
    text = ast.unparse(_Renamed(tree).visit(tree))
    return re.sub(r"^(?:    )+", lambda indent: " " * (len(indent[0]) // 4), text, flags=re.MULTILINE).encode()


class _Shortened(ast.NodeTransformer):
    """Nothing that only readers and type checkers need."""

    def visit_ImportFrom(self, node: ast.ImportFrom) -> ast.AST | None:
        return None if node.module in ("__future__", "collections.abc", "typing") else node

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        node.returns = None
        return self.generic_visit(node)

    def visit_arg(self, node: ast.arg) -> ast.AST:
        node.annotation = None
        return node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST | None:
        return None if node.value is None else ast.copy_location(ast.Assign([node.target], node.value), node)

    def visit_Expr(self, node: ast.Expr) -> ast.AST | None:
        documents = isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        return None if documents else node


class _Renamed(ast.NodeTransformer):
    """Names of parameters and local variables as letters; those that are also passed or known by name stay."""

    def __init__(self, tree: ast.Module) -> None:
        nodes = list(ast.walk(tree))
        local = {node.arg for node in nodes if isinstance(node, ast.arg)}
        for function in (node for node in nodes if isinstance(node, ast.FunctionDef)):
            inside = [inner for inner in ast.walk(function) if isinstance(inner, ast.Name)]
            local |= {inner.id for inner in inside if isinstance(inner.ctx, ast.Store)}
        kept = {node.arg for node in nodes if isinstance(node, ast.keyword)} | set(dir(builtins)) | {"self"}
        kept |= {node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.ClassDef)}
        kept |= {node.asname or node.name.partition(".")[0] for node in nodes if isinstance(node, ast.alias)}
        kept |= {node.name for node in nodes if isinstance(node, ast.ExceptHandler) and node.name}
        for outer in (node for node in nodes if isinstance(node, ast.Module | ast.ClassDef)):
            assigned = [
                target for statement in outer.body if isinstance(statement, ast.Assign) for target in statement.targets
            ]
            kept |= {target.id for target in assigned if isinstance(target, ast.Name)}
        kept |= {node.id for node in nodes if isinstance(node, ast.Name)} & set(string.ascii_letters)
        letters = (letter for letter in string.ascii_letters if letter not in kept)
        self._names = dict(zip(sorted(local - kept), letters, strict=False))

    def visit_arg(self, node: ast.arg) -> ast.AST:
        node.arg = self._names.get(node.arg, node.arg)
        return node

    def visit_Name(self, node: ast.Name) -> ast.AST:
        node.id = self._names.get(node.id, node.id)
        return node
