"""The parts of the model, each a standard diffusers or transformers class."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import diffusers as typed_diffusers
from tokenizers import Tokenizer
from tokenizers.models import BPE
from tokenizers.normalizers import Lowercase
from tokenizers.pre_tokenizers import ByteLevel, Sequence, Split
from tokenizers.trainers import BpeTrainer
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

diffusers: Any = typed_diffusers  # its annotations contradict its own defaults

WIDTH = 128
VOCABULARY = 1024
START, END = "<|startoftext|>", "<|endoftext|>"


def autoencoder() -> Any:
    """Three levels: 64×64 pixels to 16×16 latents of four channels; 0.8 M parameters."""
    return diffusers.AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(32, 48, 64),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=8,
        mid_block_add_attention=False,
        sample_size=64,
    )


def unet() -> Any:
    """Two cross-attention levels of 64 and 128 channels; 4.3 M parameters."""
    return diffusers.UNet2DConditionModel(
        sample_size=16,
        in_channels=4,
        out_channels=4,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        mid_block_type="UNetMidBlock2DCrossAttn",
        block_out_channels=(64, 128),
        layers_per_block=1,
        cross_attention_dim=WIDTH,
        attention_head_dim=4,
        norm_num_groups=16,
    )


def text_encoder(tokenizer: Any) -> Any:
    """CLIP text model, 128 wide, two layers."""
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=WIDTH,
            intermediate_size=4 * WIDTH,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=77,
            projection_dim=WIDTH,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def scheduler() -> Any:
    """Stable Diffusion's noise schedule."""
    return diffusers.DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type="epsilon",
    )


def make_tokenizer(captions: list[str], folder: Path) -> Any:
    """Train byte-pair merges on the captions and save them the way CLIP does (``vocab.json``, ``merges.txt``)."""
    core = Tokenizer(BPE(end_of_word_suffix="</w>", unk_token=END))
    core.normalizer = Lowercase()
    words = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
    core.pre_tokenizer = Sequence([Split(_regex(words), "removed", invert=True), ByteLevel(add_prefix_space=False)])
    alphabet = sorted(ByteLevel.alphabet())
    core.train_from_iterator(
        captions, BpeTrainer(vocab_size=VOCABULARY, end_of_word_suffix="</w>", initial_alphabet=alphabet)
    )
    model = json.loads(core.to_str())["model"]
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"]]
    vocabulary = alphabet + [letter + "</w>" for letter in alphabet]
    merged = ("".join(merge.split()) for merge in merges)
    vocabulary += [token for token in dict.fromkeys(merged) if token not in vocabulary]
    vocabulary += [START, END]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(vocabulary)}), encoding="utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n", encoding="utf-8")
    tokenizer = CLIPTokenizer(
        vocab=str(folder / "vocab.json"),
        merges=str(folder / "merges.txt"),
        bos_token=START, eos_token=END, unk_token=END, pad_token=END, model_max_length=77,
    )  # fmt: skip
    tokenizer.save_pretrained(folder)
    return tokenizer


def _regex(pattern: str) -> Any:
    from tokenizers import Regex

    return Regex(pattern)
