"""Which state of a repository a hub id means, for the repositories that most trainings start from. Torch-free.

A revision is a commit of the repository, and commits name their files by digest; a repository that somebody takes over
cannot change what is loaded. The digests are of the single files of the same models. Both are as published by the
repositories and repeated in many public manifests (November 2026); what is not here is loaded as it is today.
"""

from __future__ import annotations

REVISIONS = {
    "stable-diffusion-v1-5/stable-diffusion-v1-5": "451f4fe16113bff5a5d2269ed5ad43b0592e9a14",
    "stabilityai/stable-diffusion-xl-base-1.0": "462165984030d82259a11f4367a4eed129e94a7b",
}
"""Commit by hub id."""

SHA256 = {
    "v1-5-pruned-emaonly.safetensors": "6ce0161689b3853acaa03779ec93eafe75a02f4ced659bee03f50797806fa2fa",
    "sd_xl_base_1.0.safetensors": "31e35c80fc4829d14f90153f4c74cd59c90b779f6afe05a74cd6120b893f7e5b",
}
"""Digest by file name, in those repositories."""


def revision(repository: str) -> str | None:
    """The commit to load; None for the newest, where none is known."""
    return REVISIONS.get(repository)
