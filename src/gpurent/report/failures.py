"""Known ways in which a run fails: what its texts look like, what they mean, what to do. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass

ENGINE_CODES = {
    "oom": "cuda_out_of_memory", "nan": "not_a_number", "nothing_learnt": "nothing_learnt",
    "disk_full": "disk_full_on_host", "spec": "configuration", "data": "dataset", "model": "base_model",
    "protocol": "versions_differ", "no_packages": "no_packages", "no_gpu": "no_gpu", "old_driver": "driver_too_old",
    "capability": "driver_too_old", "no_torch": "no_packages", "old_python": "no_packages",
    "no_python": "no_packages", "cpu_torch": "no_packages", "disk": "disk_full_on_host",
    "no_network": "download_blocked", "no_address": "no_address",
}  # fmt: skip
"""Codes of the engine's own ``error`` event, and traits of unfit machines, that name a failure below."""


@dataclass(frozen=True, slots=True)
class Failure:
    """One known failure. ``signs`` is searched for in error text and log, in the order of the table."""

    code: str
    signs: str
    cause: str
    remedy: str
    command: str

    def seen_in(self, text: str) -> bool:
        """Whether its signs are there."""
        return bool(self.signs) and re.search(self.signs, text, re.IGNORECASE) is not None


TABLE: tuple[Failure, ...] = (
    Failure(
        "cuda_out_of_memory", r"CUDA out of memory|OutOfMemoryError|CUBLAS_STATUS_ALLOC_FAILED|HIP out of memory",
        "The GPU has too little memory for this batch.",
        "Set gradient_checkpointing = true, lower train_batch_size or resolution, or rent a larger card.",
        "gpurent train --min-vram 24 --budget …",
    ),
    Failure(
        "driver_too_old",
        r"NVIDIA driver on your system is too old|CUDA driver version is insufficient|"
        r"no kernel image is available for execution|unsatisfied condition: cuda ?>=|"
        r"forward compatibility was attempted",
        "The host's NVIDIA driver or card does not run the CUDA version of the image.",
        "Another machine has another driver: try again, or choose an image for an older CUDA under [need] image.",
        "gpurent train --budget …",
    ),
    Failure(
        "no_gpu", r"No CUDA GPUs are available|Found no NVIDIA driver|NVIDIA-SMI has failed|no NVIDIA GPU device",
        "The container sees no GPU.", "The machine is broken: it is left out for a day. Try again.",
        "gpurent train --budget …",
    ),
    Failure(
        "not_a_number", r"loss is not a number|NotANumber|NotFinite|not finite",
        "The training diverged.",
        "Lower the learning rates, unet_lr and text_encoder_lr; with fp16, try mixed_precision = \"bf16\".",
        "edit training_config.toml",
    ),
    Failure(
        "nothing_learnt", "",
        "The training ran to its end and learnt nothing.",
        "Look at learning rates, masks and transparent pictures; `gpurent check --sheet sheet.png` shows the pictures.",
        "gpurent check --sheet sheet.png",
    ),
    Failure(
        "disk_full_at_home", r"no room in .{1,300} on this computer|ledger .{1,300} cannot be written",
        "The disk of this computer is full.", "Free some space; `gpurent status` says what is still rented.",
        "gpurent reap",
    ),
    Failure(
        "disk_full_on_host", r"No space left on device|Errno 28|disk quota exceeded",
        "The rented disk is full.", "Rent a larger one: [need] disk_gb in gpurent.toml.", "gpurent train --budget …",
    ),
    Failure(
        "download_refused", r"GatedRepoError|401 Client Error|403 Client Error|Access to model .{1,200} is restricted",
        "The model hub wants an account that may load the base model.",
        "Accept its licence there and give a local copy: pretrained_model_name_or_path = a folder.",
        "edit training_config.toml",
    ),
    Failure(
        "download_blocked",
        r"Max retries exceeded with url|Name or service not known|Temporary failure in name resolution|"
        r"LocalEntryNotFoundError|Failed to resolve|couldn't connect to 'https://huggingface|Network is unreachable",
        "The host cannot reach the model hub or the package index.",
        "Use a base model on your own disk, which is uploaded, or another machine.", "gpurent train --budget …",
    ),
    Failure(
        "no_packages", r"cannot run the engine|No module named|Could not find a version that satisfies",
        "The image lacks what the engine needs, and it could not be installed.",
        "Choose an image with Python 3.11 or newer and torch 2.6 or newer: [need] image in gpurent.toml.",
        "gpurent train --budget …",
    ),
    Failure(
        "stalled", r"made no progress",
        "The job stopped making progress although its machine answered.",
        "Try again: another machine is chosen. engine.log and host.txt in the run's folder say where it hung.",
        "gpurent train --budget …",
    ),
    Failure(
        "killed", r"exit code -9|status -9|status 137|Out of memory: Killed process|SIGKILL",
        "The host ended the training: as a rule its main memory was used up.",
        "Rent a machine with more, or lower vae_batch_size.", "gpurent train --budget …",
    ),
    Failure(
        "guard_failed", r"dead-man switch|cannot end themselves",
        "The machine could not be made to end itself in time, so it was not used.",
        "Try again: the machine is left out for a day. --unguarded rents such machines all the same.",
        "gpurent train --budget …",
    ),
    Failure(
        "another_machine", r"host key|HostKeyMismatch",
        "Another machine answered than the one that was rented.", "Nothing was sent to it. Try again.",
        "gpurent train --budget …",
    ),
    Failure(
        "no_credit", r"balance .{0,60}used up|insufficient (balance|credit)|lacks credit",
        "The prepaid balance of the account is used up, so the service stopped the machine.",
        "Top it up. What was saved is at home.", "gpurent train --budget …",
    ),
    Failure(
        "no_address", "", "The machine ran where nobody can reach it: it has no public address for SSH.",
        "Try again: data centres come first then. --trusted-only rents nothing else.",
        "gpurent train --trusted-only --budget …",
    ),
    Failure(
        "ssh_lost",
        r"no SSH on|Lost the host|machine is gone|machine has not answered|machine was stopped|HostUnreachable|"
        r"connection .{0,40}(lost|reset|timed out)",
        "The machine could not be reached any more.",
        "What was saved is at home. Another machine is chosen the next time.", "gpurent train --budget …",
    ),
    Failure("configuration", "", "This configuration cannot be used.", "Correct it.", "edit training_config.toml"),
    Failure("dataset", "", "The dataset cannot be trained on.", "Correct it.", "gpurent train --dry-run --budget …"),
    Failure(
        "base_model", "", "The base model cannot be loaded.",
        "Use a Stable Diffusion 1.x, 2.x or XL model; `gpurent check` says what is wrong with this one.",
        "edit training_config.toml",
    ),
    Failure(
        "versions_differ", "", "Client and engine are of different versions.", "Reinstall gpurent.",
        "pip install --upgrade gpurent",
    ),
)  # fmt: skip
UNFIT = Failure(
    "unfit", "", "The machine or its image cannot run a training.", "Try again: another machine is chosen.",
    "gpurent train --budget …",
)  # fmt: skip
UNKNOWN = Failure(
    "unknown", "", "No known failure.", "engine.log and events.jsonl in the run's folder say more.", "gpurent why"
)


def diagnose(text: str, code: str = "") -> Failure:
    """The known failure that an error text with its log shows; the engine's own ``code`` goes before all signs."""
    by_code = next((cause for cause in TABLE if cause.code == ENGINE_CODES.get(code)), None)
    return by_code or next((cause for cause in TABLE if cause.seen_in(text)), UNKNOWN)
