"""Where exceptions of paramiko, fabric, invoke and sockets become ours; nowhere else."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager

import paramiko
from invoke.exceptions import CommandTimedOut, Failure, ThreadException, UnexpectedExit
from paramiko import ssh_exception
from paramiko.pkey import UnknownKeyType

from gpurent.errors import BadHostData, HostError, HostKeyMismatch, HostUnreachable
from gpurent.untrusted.text import quoted

# The most specific class of an exception's ancestry decides.
MAP: dict[type[BaseException], type[HostError]] = {
    paramiko.BadHostKeyException: HostKeyMismatch,
    ssh_exception.SSHException: HostUnreachable,
    paramiko.SFTPError: BadHostData,
    ssh_exception.NoValidConnectionsError: HostUnreachable,
    ssh_exception.ConfigParseError: HostError,
    ssh_exception.CouldNotCanonicalize: HostUnreachable,
    UnknownKeyType: HostError,
    CommandTimedOut: HostUnreachable,
    ThreadException: HostUnreachable,
    UnexpectedExit: HostError,
    Failure: HostError,
    socket.timeout: HostUnreachable,
    EOFError: HostUnreachable,
    ConnectionError: HostUnreachable,
    socket.gaierror: HostUnreachable,
    OSError: HostUnreachable,
}


@contextmanager
def translated(what: str) -> Iterator[None]:
    """Turn what the libraries below raise into one of our errors, saying what was being done."""
    try:
        yield
    except HostError:
        raise
    except tuple(MAP) as error:
        kind = next(MAP[ancestor] for ancestor in type(error).__mro__ if ancestor in MAP)
        # what the libraries quote may be the words of the server
        raise kind(f"{what}: {quoted(str(error) or type(error).__name__)}") from error
