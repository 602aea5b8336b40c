"""What a pod runs: our start-up script, then whatever makes sshd listen in that image. Pure.

RunPod's own images have ``/start.sh``, which starts sshd; any other image gets OpenSSH's server from its package index.
``args`` as JSON names entry point and command, each word by itself: an image's own entry point is overridden, and no
splitter has to understand quotes. It replaces the image's default command, so this must do what that did. RunPod starts
a container again when it ends, so all of it may run more than once.
"""

from __future__ import annotations

import base64
import json

_AFTER = """
cd /
if [ -x "${GPURENT_ROOT:-}/start.sh" ]; then exec "${GPURENT_ROOT:-}/start.sh"; fi
if ! command -v sshd > /dev/null; then
  export DEBIAN_FRONTEND=noninteractive
  apt-get update -qq && apt-get install -y -qq --no-install-recommends openssh-server
fi
mkdir -p "${GPURENT_ROOT:-}/run/sshd"
exec "$(command -v sshd)" -D -e
"""


def args(startup: str) -> str:
    """The container's arguments for a start-up script, in JSON.

    The script travels as base64, without a character that anything on the way could mistake. RunPod refuses requests
    above 102,400 bytes, and Linux arguments above 128 KiB: far from what a script of at most 4096 bytes needs.
    """
    packed = base64.b64encode(f"{startup}\n{_AFTER}".encode()).decode()
    return json.dumps({"entrypoint": ["bash", "-c"], "cmd": [f"exec bash <(echo {packed} | base64 -d)"]})
