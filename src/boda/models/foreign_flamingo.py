"""OpenFlamingo's and OpenFlaminKO's checkpoints taken apart, and open_clip's vision transformers under transformers' names."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

import torch

from boda.errors import BodaError
from boda.files import read_json
from boda.models.vocabulary import add_token

Weights = dict[str, torch.Tensor]

# The tokens that each project adds, in its order; then `<PAD>`, where the tokenizer has no pad token.
TOKENS = {
    "OpenFlaminKO": ("<|endofchunk|>", "<|sep|>", "<|acc|>", "<|tel|>", "<|rrn|>", "<image>"),
    "OpenFlamingo": ("<|endofchunk|>", "<image>"),
}
# Part -> how its keys begin, and what is left of them is the name in the part. The first that fits takes a key.
KEYS = {
    "vision": r"vision_encoder\.(?:visual\.)?",
    "resampler": r"perceiver\.",
    "twice": r"lang_encoder\.(?:old_decoder_blocks|gated_cross_attn_layers)\.",  # other names of what the layers hold
    "blocks": r"lang_encoder\.(?:\w+\.)+?(?=\d+\.gated_cross_attn_layer\.)",
    "language": r"lang_encoder\.",
}
BUFFERS = r"\.(attention|attn)\.(masked_)?bias$"  # of causal masks, which old versions of transformers saved
# open_clip's names -> those of transformers' CLIP.
CLIP_NAMES = {
    r"^conv1\.": "embeddings.patch_embedding.", r"^class_embedding$": "embeddings.class_embedding",
    r"^positional_embedding$": "embeddings.position_embedding.weight", r"^ln_pre\.": "pre_layrnorm.",
    r"^ln_post\.": "post_layernorm.", r"^transformer\.resblocks\.": "encoder.layers.", r"\.ln_([12])\.": r".layer_norm\1.",
    r"\.attn\.": ".self_attn.", r"\.c_fc\.": ".fc1.", r"\.c_proj\.": ".fc2.",
}  # fmt: skip


def without_wrapper(weights: Weights) -> Weights:
    """The tensors under the names that they have outside of DistributedDataParallel."""
    return {key.removeprefix("module."): tensor for key, tensor in weights.items()}


def settings_of(resampler: Weights, blocks: Weights, path: Path) -> tuple[dict, str]:
    """The settings that a flamingo's shapes and keys show, and how its heads were told. Raises BodaError where they show none."""
    query = resampler.get("layers.0.0.to_q.weight")
    if query is None or "latents" not in resampler or not blocks:
        raise BodaError(
            f"{path} has no perceiver.* and gated_cross_attn_layer.*, or not all of them: no OpenFlamingo's checkpoint"
        )
    numbers = sorted({int(key.partition(".")[0]) for key in blocks})
    every, inner = numbers[0] + 1, len(query)
    if numbers != list(range(numbers[0], numbers[-1] + 1, every)):
        raise BodaError(f"{path} has cross-attention before the layers {numbers}, which is not before every n-th one")
    head_dim = 64 if inner % 64 == 0 else inner // 8
    if not head_dim or inner % head_dim:
        raise BodaError(f"the resampler in {path} attends with {inner} numbers, which are neither heads of 64 nor 8 heads")
    heads, why = inner // head_dim, "as published" if head_dim == 64 else f"8 as published, as 64 does not divide {inner}"
    depth = 1 + max(int(key.split(".")[1]) for key in resampler if key.startswith("layers."))
    settings = {"depth": depth, "num_latents": len(resampler["latents"]), "heads": heads, "head_dim": head_dim, "every": every}
    return settings, f"attention: {heads} heads of {head_dim} ({why})"


def language_weights(weights: Weights) -> Weights:
    """What is left of the language model, under its own names."""
    named = {key.replace(".decoder_layer.", "."): tensor for key, tensor in weights.items()}
    return {key: tensor for key, tensor in named.items() if not re.search(BUFFERS, key)}


def add_published_tokens(tokenizer, rows: int) -> tuple[str, tuple[str, ...]]:
    """Gives a tokenizer the tokens of the project after which it has as many as a table has rows: (the project, its tokens).

    Raises BodaError, with the numbers, where that is neither.
    """
    known, counts, has_pad = tokenizer.get_vocab(), {}, tokenizer.pad_token is not None
    for project, tokens in TOKENS.items():
        wanted = tokens if has_pad else (*tokens, "<PAD>")
        counts[project] = len(tokenizer) + sum(token not in known for token in wanted)
        if counts[project] == rows:
            for token in wanted:
                add_token(tokenizer, token)
            if not has_pad:
                tokenizer.pad_token = "<PAD>"
            return project, tokens
    would = " and ".join(f"{count} with {project}'s {len(TOKENS[project])} tokens" for project, count in counts.items())
    raise BodaError(
        f"the checkpoint has {rows} rows in its table of tokens, and the tokenizer would have {would}: "
        "it was trained with another; name that language model with --language"
    )


def open_clip_weights(weights: Weights) -> Weights:
    """open_clip's vision transformer, its keys without `visual.`, under the names of transformers' CLIP."""
    renamed: Weights = {}
    for key, tensor in weights.items():
        for pattern, name in CLIP_NAMES.items():
            key = re.sub(pattern, name, key)
        if ".in_proj_" in key:
            for part, third in zip("qkv", tensor.chunk(3)):
                renamed[key.replace("in_proj_", f"{part}_proj.")] = third
        elif key != "proj":  # to CLIP's common space, behind the features
            renamed[key] = tensor
    return {f"vision_model.{key}": tensor for key, tensor in renamed.items()}  # as published, which every version reads


class OpenClip(NamedTuple):
    """What transformers needs to know of a tower: its config, mean and std of its pictures, and what was taken for the user."""

    config: dict
    colours: dict
    note: str


def open_clip_config(weights: Weights, file: Path) -> OpenClip:
    """Of open_clip's vision transformer. What shapes do not show, an open_clip_config.json beside the file says; without one, heads
    are 64 wide and the activation is that of OpenAI's weights. Raises BodaError for other kinds of tower.
    """
    if missing := [key for key in ("conv1.weight", "positional_embedding") if key not in weights]:
        raise BodaError(f"the tower in {file} has no {missing[0]}; of open_clip's, plain vision transformers can be imported")
    said = read_json(file.with_name("open_clip_config.json"))
    model = said.get("model_cfg", {})
    (width, _, _, patch), places = weights["conv1.weight"].shape, len(weights["positional_embedding"])
    head, grid = model.get("vision_cfg", {}).get("head_width", 64), round((places - 1) ** 0.5)
    if width % head or grid**2 + 1 != places:
        why = f"is {width} wide with {places} places: no heads of {head}, or no square of patches and a class token"
        raise BodaError(f"the tower in {file} {why}; an open_clip_config.json beside it may say more")
    activation = "quick_gelu" if model.get("quick_gelu", not said) else "gelu"
    inner = [len(tensor) for key, tensor in weights.items() if key.endswith(".mlp.c_fc.bias")]  # of each layer
    config = {
        "model_type": "clip_vision_model", "hidden_size": width, "num_hidden_layers": len(inner), "intermediate_size": max(inner or [0]),
        "num_attention_heads": width // head, "patch_size": patch, "image_size": grid * patch, "hidden_act": activation,
    }  # fmt: skip
    colours = {name: tuple(value) for name, value in said.get("preprocess_cfg", {}).items() if name in ("mean", "std")}
    why = "open_clip_config.json" if said else "as OpenAI's weights; no open_clip_config.json says otherwise"
    return OpenClip(config, colours, f"vision tower: activation {activation}, heads of {head} ({why})")
