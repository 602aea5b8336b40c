"""A rented sandbox machine is a real one: real sshd, real shell, real files, and really gone."""

from __future__ import annotations

import os
from pathlib import Path

import asyncssh
import paramiko
import psutil
import pytest
from tests.sandbox.conftest import Customer, eventually, new_key

from gpurent_sandbox.hosts import THREADS


def alive(pid: int) -> bool:
    """Whether it runs; a corpse that nobody has buried yet does not."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def pairs(text: str) -> dict[str, str]:
    """An environment as ``env`` prints it."""
    found: dict[str, str] = {}
    for line in text.splitlines():
        name, _, value = line.partition("=")
        found[name] = value
    return found


def test_a_command_gets_input_output_errors_and_status(customer: Customer) -> None:
    """Standard input, both outputs and the exit status cross the wire."""
    client = customer.login(customer.rent())
    assert customer.run(client, "cat; echo oops >&2; exit 3", b"abc\n") == (3, "abc\n", "oops\n")


def test_a_killed_command_tells_its_signal(customer: Customer) -> None:
    """A command that dies of a signal has no exit status."""
    client = customer.login(customer.rent())
    assert customer.run(client, "kill -KILL $$")[0] == -1


def test_the_environment_is_the_hosts_own(customer: Customer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of the user's environment reaches a host. Its first process has what was ordered, what the image puts
    there and the instance's own key; a session has none of it, and sshd's own PATH."""
    monkeypatch.setenv("MY_SECRET", "x")
    ref = customer.rent(env={"COLOUR": "green"}, image="pytorch/pytorch:2.8.0-cuda12.8-cudnn9-runtime")
    client = customer.login(ref)
    _, out, _ = customer.run(client, "env")
    session = pairs(out)
    common = {"PATH", "HOME", "TMPDIR", "LANG", "GPURENT_ROOT", "GPURENT_SANDBOX_HOST"} | set(THREADS) & set(os.environ)
    assert set(session) - {"PWD", "OLDPWD", "SHLVL", "_"} == common
    root = session["GPURENT_ROOT"]
    assert session["PATH"].startswith(f"{root}/usr/local/sbin:{root}/usr/local/bin:{root}/usr/sbin:{root}/usr/bin:")
    _, text, _ = customer.run(client, "tr '\\0' '\\n' < $GPURENT_ROOT/proc/1/environ")
    first = pairs(text)
    assert first["SANDBOX_INSTANCE_ID"] == ref and first["COLOUR"] == "green" and "MY_SECRET" not in first
    assert first["PATH"].startswith(f"{root}/opt/conda/bin:") and first["PATH"].endswith(session["PATH"])


def test_python_is_where_the_image_has_it(customer: Customer) -> None:
    """Out of reach for a session that does not know where; it can import what the sandbox can."""
    client = customer.login(customer.rent())
    assert customer.run(client, "python3 -V")[0] == 127
    program = '"$GPURENT_ROOT/opt/conda/bin/python3" -c "import psutil; print(6*7)"'
    assert customer.run(client, program)[:2] == (0, "42\n")


def test_sftp_starts_in_the_login_folder_and_renames_over(customer: Customer) -> None:
    """Relative paths start in HOME, a rename replaces, and nothing outside the host can be named."""
    client = customer.login(customer.rent())
    sftp = client.open_sftp()
    data = os.urandom(200_000)
    for name, content in (("old.bin", b"x"), ("new.part", data)):
        with sftp.open(name, "wb") as file:
            file.write(content)
    sftp.posix_rename("new.part", "old.bin")
    assert customer.run(client, "wc -c < old.bin; pwd") == (0, f"200000\n{sftp.normalize('.')}\n", "")
    with sftp.open("old.bin", "rb") as file:
        assert file.read() == data
    with pytest.raises(PermissionError):
        sftp.stat("/etc/passwd")


def test_only_the_ordered_key_and_the_scripts_keys_get_in(customer: Customer) -> None:
    """A stranger's key is refused; a key that the start-up script admits is not; only root may log in."""
    friend, stranger = new_key(), new_key()
    line = f"ssh-ed25519 {friend.get_base64()}"
    ref = customer.rent(startup=f'echo "{line}" >> "${{GPURENT_ROOT:-}}/root/.ssh/authorized_keys"')
    customer.login(ref)
    port = customer.port(ref)
    customer.try_login(port, friend)
    with pytest.raises(paramiko.AuthenticationException):
        customer.try_login(port, stranger)
    with pytest.raises(paramiko.AuthenticationException):
        customer.try_login(port, user="admin")


def test_sshd_uses_the_host_key_that_the_script_wrote(customer: Customer) -> None:
    """A host key installed by the start-up script is the one that answers."""
    key = asyncssh.generate_private_key("ssh-ed25519")
    text = key.export_private_key().decode()
    script = f"cat > \"${{GPURENT_ROOT:-}}/etc/ssh/ssh_host_ed25519_key\" <<'KEY'\n{text}KEY\n"
    client = customer.login(customer.rent(startup=script))
    transport = client.get_transport()
    assert transport is not None
    assert transport.get_remote_server_key().get_base64() == key.export_public_key().split()[1].decode()


def test_the_script_runs_before_ssh_answers(customer: Customer) -> None:
    """After a login the start-up script has finished, and its output kept."""
    client = customer.login(customer.rent(startup="sleep 0.4; echo made it; touch done"))
    assert customer.run(client, "test -e done && cat ../var/startup.log")[1].splitlines()[0] == "made it"


def test_destroy_kills_detached_processes_and_wipes(customer: Customer) -> None:
    """After destroy no process of the host lives, not even one in a session of its own, and its folder is gone."""
    ref = customer.rent(startup="setsid sh -c 'sleep 1000; :' >/dev/null 2>&1 </dev/null &")
    client = customer.login(ref)
    _, out, _ = customer.run(client, "setsid nohup sleep 1000 >/dev/null 2>&1 </dev/null & echo $! $GPURENT_ROOT")
    pid, root = out.split()
    eventually(lambda: customer.sandbox.truth()[0].processes >= 3)
    assert alive(int(pid))
    assert customer.api.delete(f"/v1/instances/{ref}").status_code == 202
    assert customer.sandbox.truth() == []
    assert not alive(int(pid))
    assert not Path(root).exists()


def test_a_host_destroys_itself_with_its_own_key(customer: Customer) -> None:
    """The request of the dead-man switch, sent from inside, ends the instance."""
    program = (
        "import os, urllib.request as u; e = os.environ; "
        "u.urlopen(u.Request(e['SANDBOX_API_URL'] + '/v1/instances/' + e['SANDBOX_INSTANCE_ID'], method='DELETE', "
        "headers={'Authorization': 'Bearer ' + e['SANDBOX_INSTANCE_KEY']}))"
    )
    customer.rent(startup=f'python3 -c "{program}"')
    eventually(lambda: customer.sandbox.truth() == [])
    eventually(lambda: customer.api.get("/v1/instances").json()["instances"] == [])


def test_traffic_is_counted_and_billed(customer: Customer) -> None:
    """Bytes through SFTP and commands appear on the bill, in and out."""
    ref = customer.rent()
    client = customer.login(ref)
    with client.open_sftp().open("up.bin", "wb") as file:
        file.write(bytes(3_000_000))
    customer.run(client, "head -c 2000000 /dev/zero")
    customer.api.delete(f"/v1/instances/{ref}")
    bill = customer.api.get(f"/v1/instances/{ref}/charges").json()["charges"]
    held = customer.sandbox.market
    charges = held.charges(ref)
    assert bill["final"] is True
    price = next(m.price for m in held.offers() if m.id == "m02")
    assert charges.traffic_in == price.in_gb.scaled(3_000_000, 10**9)
    assert charges.traffic_out == price.out_gb.scaled(2_000_000, 10**9)
