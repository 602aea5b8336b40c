"""Key pairs of one rental: ours, and the one the machine is told to answer with."""

from __future__ import annotations

import os
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from gpurent.errors import HostError
from gpurent.localfiles import private_folder
from gpurent.model import Identity

CLIENT, HOST = "id_ed25519", "host_ed25519"


def create(folder: Path) -> Identity:
    """Make both pairs and keep the private halves in ``folder`` with mode 0600."""
    private_folder(folder)
    for name in (CLIENT, HOST):
        key = Ed25519PrivateKey.generate()
        private = key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
        public = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
        handle = os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(handle, "wb") as file:
            file.write(private)
        (folder / f"{name}.pub").write_bytes(public + b"\n")
    return load(folder)


def load(folder: Path) -> Identity:
    """Read what ``create`` left. Raises HostError when a file is missing."""
    try:
        return Identity(
            private_key=folder / CLIENT,
            public_key=(folder / f"{CLIENT}.pub").read_text(encoding="ascii").strip(),
            host_private_key=(folder / HOST).read_text(encoding="ascii"),
            host_public_key=(folder / f"{HOST}.pub").read_text(encoding="ascii").strip(),
        )
    except OSError as error:
        raise HostError(
            f"the keys of this rental are gone: {error}", hint="`gpurent reap` destroys it without them."
        ) from error
