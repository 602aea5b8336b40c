"""Captions to hidden states, the way Stable Diffusion 1.x conditions its UNet."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch


def tokenise(tokenizer: Any, captions: Sequence[str]) -> torch.Tensor:
    """Token ids, int64 ``[n, 77]``, padded with the end token; longer captions are cut."""
    ids: torch.Tensor = tokenizer(
        list(captions),
        padding="max_length",
        truncation=True,
        max_length=tokenizer.model_max_length,
        return_tensors="pt",
    ).input_ids
    return ids


def encode(text_encoder: Any, ids: torch.Tensor, clip_skip: int | None) -> torch.Tensor:
    """Hidden states ``[n, 77, width]``: the last layer, or the ``clip_skip``-th from the end, after the final norm."""
    if clip_skip is None or clip_skip == 1:
        last: torch.Tensor = text_encoder(ids).last_hidden_state
        return last
    hidden = text_encoder(ids, output_hidden_states=True).hidden_states[-clip_skip]
    # transformers 5.6 dropped the inner ``text_model`` of CLIPTextModel
    inner = getattr(text_encoder, "text_model", text_encoder)
    normed: torch.Tensor = inner.final_layer_norm(hidden)
    return normed


def encode_captions(
    text_encoder: Any, tokenizer: Any, captions: Sequence[str], clip_skip: int | None, device: torch.device,
    remembered: dict[str, torch.Tensor] | None,
) -> torch.Tensor:  # fmt: skip
    """Hidden states of a batch; a frozen encoder's are computed once a caption and kept in ``remembered``."""
    if remembered is None:
        return encode(text_encoder, tokenise(tokenizer, captions).to(device), clip_skip)
    new = [caption for caption in dict.fromkeys(captions) if caption not in remembered]
    if new:
        with torch.no_grad():
            states = encode(text_encoder, tokenise(tokenizer, new).to(device), clip_skip)
        remembered.update(zip(new, states, strict=True))
    return torch.stack([remembered[caption] for caption in captions])
