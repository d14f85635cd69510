"""A tiny OpenFlamingo of known parts, written the way OpenFlamingo's and OpenFlaminKO's own code write theirs.

Keys are spelled out here from those projects' files, and so is the arithmetic, which knows nothing of the library's.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer, CLIPVisionModel

from tests import tiny

LANGUAGE_SIZE, LATENTS, DEPTH = 48, 5, 2
PUBLISHED = {
    "OpenFlaminKO": ["<|endofchunk|>", "<|sep|>", "<|acc|>", "<|tel|>", "<|rrn|>", "<image>"],
    "OpenFlamingo": ["<|endofchunk|>", "<image>"],
}
LAYERS = {"gpt_neox": "gpt_neox.layers", "llama": "model.layers", "llama3": "model.layers"}
TABLES = {"gpt_neox": ("gpt_neox.embed_in.weight", "embed_out.weight")}


def norm(values: torch.Tensor, weights: dict, name: str) -> torch.Tensor:
    centred = values - values.mean(-1, keepdim=True)
    spread = (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    return centred / spread * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def feed_forward(values: torch.Tensor, weights: dict, name: str) -> torch.Tensor:
    inner = F.gelu(norm(values, weights, f"{name}.0") @ weights[f"{name}.1.weight"].T)
    return inner @ weights[f"{name}.3.weight"].T


class Flamingo:
    """The parts: a language model resized as the published code resizes it, a whole CLIP tower, and what is trained.

    `every`: as of `cross_attn_every_n_layers`; `heads`, `head_dim`: of both attentions.
    """

    def __init__(
        self,
        language: str = "gpt_neox",
        project: str = "OpenFlaminKO",
        every: int = 1,
        heads: int = 2,
        head_dim: int = 64,
        vision_folder: Path | None = None,
    ):
        self.language, self.heads, self.head_dim = language, heads, head_dim
        self.language_folder = tiny.language_folder(language)
        self.vision_folder = vision_folder or tiny.vision_folder("clip_vision")
        self.tower = CLIPVisionModel.from_pretrained(self.vision_folder).eval()
        self.vision_size = self.tower.config.hidden_size
        self.tokenizer = AutoTokenizer.from_pretrained(self.language_folder)
        self.tokenizer.add_special_tokens({"additional_special_tokens": PUBLISHED[project]})
        if self.tokenizer.pad_token is None:
            self.tokenizer.add_special_tokens({"pad_token": "<PAD>"})
        self.model = AutoModelForCausalLM.from_pretrained(self.language_folder, dtype=torch.float32).eval()
        random = torch.Generator().manual_seed(3)
        self.draw = lambda *shape: torch.randn(shape, generator=random) * 0.2
        self.model.resize_token_embeddings(len(self.tokenizer), mean_resizing=False)
        with torch.no_grad():  # as trained: every row that is there is the checkpoint's own
            for table in self.model.parameters():  # a tied one is there once
                if table.shape[0] == len(self.tokenizer):
                    table += self.draw(*table.shape)
        self.perceiver = self._perceiver()
        self.blocks = {number: self._block() for number in range(every - 1, self.model.config.num_hidden_layers, every)}

    def _norm(self, name: str, size: int) -> dict:
        return {f"{name}.weight": 1 + self.draw(size), f"{name}.bias": self.draw(size)}

    def _feed_forward(self, name: str, size: int) -> dict:
        matrices = {f"{name}.1.weight": self.draw(4 * size, size), f"{name}.3.weight": self.draw(size, 4 * size)}
        return self._norm(f"{name}.0", size) | matrices

    def _perceiver(self) -> dict:
        size, inner = self.vision_size, self.heads * self.head_dim
        weights = {"latents": self.draw(LATENTS, size)}
        for layer in range(DEPTH):
            weights |= self._norm(f"layers.{layer}.0.norm_media", size) | self._norm(f"layers.{layer}.0.norm_latents", size)
            weights |= {f"layers.{layer}.0.to_q.weight": self.draw(inner, size)}
            weights |= {f"layers.{layer}.0.to_kv.weight": self.draw(2 * inner, size)}
            weights |= {f"layers.{layer}.0.to_out.weight": self.draw(size, inner)} | self._feed_forward(
                f"layers.{layer}.1", size
            )
        return weights | self._norm("norm", size)

    def _block(self) -> dict:
        size, inner = LANGUAGE_SIZE, self.heads * self.head_dim
        weights = {"attn_gate": torch.tensor([0.7]), "ff_gate": torch.tensor([-0.4])} | self._norm("attn.norm", size)
        weights |= {"attn.to_q.weight": self.draw(inner, size), "attn.to_kv.weight": self.draw(2 * inner, self.vision_size)}
        return weights | {"attn.to_out.weight": self.draw(size, inner)} | self._feed_forward("ff", size)

    # ------------------------------------------------------------ the published arithmetic

    def _split(self, values: torch.Tensor) -> torch.Tensor:
        return values.view(*values.shape[:-1], self.heads, self.head_dim).transpose(-2, -3)  # (..., H, L, d)

    def resampled(self, pixels: torch.Tensor) -> torch.Tensor:
        """(I, 3, H, W) -> (I, M, D): the tower's last hidden state, without class token and last norm, through the perceiver."""
        features = self.tower(pixels, output_hidden_states=True).hidden_states[-1][:, 1:]
        return self.perceive(features)

    def perceive(self, features: torch.Tensor) -> torch.Tensor:
        given = self.perceiver
        latents = given["latents"].expand(len(features), -1, -1)
        for layer in range(DEPTH):
            name = f"layers.{layer}.0"
            media, own = norm(features, given, f"{name}.norm_media"), norm(latents, given, f"{name}.norm_latents")
            query = self._split(own @ given[f"{name}.to_q.weight"].T) * self.head_dim**-0.5
            key, value = (torch.cat([media, own], dim=1) @ given[f"{name}.to_kv.weight"].T).chunk(2, dim=-1)
            scores = query @ self._split(key).transpose(-1, -2)
            found = (scores - scores.amax(-1, keepdim=True)).softmax(-1) @ self._split(value)
            latents = found.transpose(1, 2).flatten(2) @ given[f"{name}.to_out.weight"].T + latents
            latents = feed_forward(latents, given, f"layers.{layer}.1") + latents
        return norm(latents, given, "norm")

    def cross(self, hidden: torch.Tensor, media: torch.Tensor, locations: torch.Tensor, weights: dict) -> torch.Tensor:
        """(B, L, D), the rows' pictures (B, T, M, D_vision), where they stand (B, L) -> (B, L, D), before the gate."""
        _, pictures, latents, _ = media.shape
        query = self._split(norm(hidden, weights, "attn.norm") @ weights["attn.to_q.weight"].T) * self.head_dim**-0.5
        key, value = (media.flatten(1, 2) @ weights["attn.to_kv.weight"].T).chunk(2, dim=-1)
        scores = query @ self._split(key).transpose(-1, -2)  # (B, H, L, T * M)
        text_time = locations.cumsum(dim=-1)
        media_time = (torch.arange(pictures) + 1).repeat_interleave(latents)
        scores = scores.masked_fill(text_time[:, None, :, None] != media_time, -torch.finfo(scores.dtype).max)
        attention = (scores - scores.amax(-1, keepdim=True)).softmax(-1)
        attention = attention.masked_fill((text_time == 0)[:, None, :, None], 0.0)
        return (attention @ self._split(value)).transpose(1, 2).flatten(2) @ weights["attn.to_out.weight"].T

    @torch.no_grad()
    def logits(self, ids: torch.Tensor, pixels: list[torch.Tensor] | None = None) -> torch.Tensor:
        """(B, L) ids and each row's pixels (T, 3, H, W), as many in every row (a shorter one ends on blank ones) -> (B, L, V)."""
        if pixels is None:
            pixels = [torch.zeros(1, 3, 56, 56)] * len(ids)
        media = torch.stack([self.resampled(row) for row in pixels])  # (B, T, M, D)
        locations = ids == self.tokenizer.convert_tokens_to_ids("<image>")

        def before(weights, module, arguments):
            hidden, *rest = arguments
            hidden = self.cross(hidden, media, locations, weights) * weights["attn_gate"].tanh() + hidden
            return feed_forward(hidden, weights, "ff") * weights["ff_gate"].tanh() + hidden, *rest

        layers = self.model.get_submodule(LAYERS[self.language])
        hooks = [
            layers[number].register_forward_pre_hook(lambda *given, weights=weights: before(weights, *given))
            for number, weights in self.blocks.items()
        ]
        try:
            return self.model(input_ids=ids, use_cache=False).logits
        finally:
            for hook in hooks:
                hook.remove()

    # ------------------------------------------------------------ files

    def state_dict(self, prefix: str = "", vision: dict | None = None, decoder: bool = False) -> dict[str, torch.Tensor]:
        """What the published code saves; `vision`: tensors under vision_encoder., which it leaves out; `decoder`: the language
        model's layers too, with the buffers that old versions of transformers had."""
        own, layers = self.model.state_dict(), LAYERS[self.language]
        found = {f"perceiver.{key}": value for key, value in self.perceiver.items()}
        for number, block in self.blocks.items():
            found |= {f"lang_encoder.{layers}.{number}.gated_cross_attn_layer.{key}": value for key, value in block.items()}
        tables = (self.model.get_input_embeddings().weight, self.model.get_output_embeddings().weight)
        names = TABLES.get(self.language, ("model.embed_tokens.weight", "lm_head.weight"))
        found |= {f"lang_encoder.{name}": table.detach() for name, table in zip(names, tables)}
        for key, value in own.items() if decoder else ():
            number, _, rest = key.removeprefix(f"{layers}.").partition(".")
            if number.isdigit():
                found[f"lang_encoder.{layers}.{number}.decoder_layer.{rest}"] = value
        if self.language == "gpt_neox":
            for number in range(self.model.config.num_hidden_layers):
                place = f"lang_encoder.gpt_neox.layers.{number}.decoder_layer.attention"
                found |= {f"{place}.bias": torch.ones(1, 1, 8, 8).tril().bool(), f"{place}.masked_bias": torch.tensor(-1e9)}
                found[f"{place}.rotary_emb.inv_freq"] = torch.ones(4)
        found |= {f"vision_encoder.{key}": value for key, value in (vision or {}).items()}
        return {f"{prefix}{key}": value.clone() for key, value in found.items()}

    def write(self, path: Path, training: bool = False, **changes) -> Path:
        """A released file, a bare state dict; or what training leaves, its own state beside the weights."""
        path.parent.mkdir(parents=True, exist_ok=True)
        weights = self.state_dict(**changes)
        optimizer = torch.optim.AdamW([nn.Parameter(torch.zeros(2))])
        state = {"epoch": 3, "model_state_dict": weights, "optimizer_state_dict": optimizer.state_dict()}
        torch.save(state | {"lr_scheduler_state_dict": {"_step_count": 1}} if training else weights, path)
        return path


# ---------------------------------------------------------------- open_clip


def open_clip_tower(folder: Path) -> dict[str, torch.Tensor]:
    """A CLIP tower of transformers as open_clip saves it, without `visual.` before its keys."""
    given = load_file(folder / "model.safetensors")
    found = {
        "class_embedding": given["embeddings.class_embedding"],
        "positional_embedding": given["embeddings.position_embedding.weight"],
        "conv1.weight": given["embeddings.patch_embedding.weight"],
        "proj": torch.ones(len(given["embeddings.class_embedding"]), 24),
    }
    for ours, theirs in (("pre_layrnorm", "ln_pre"), ("post_layernorm", "ln_post")):
        found |= {f"{theirs}.{end}": given[f"{ours}.{end}"] for end in ("weight", "bias")}
    names = {
        "layer_norm1": "ln_1", "layer_norm2": "ln_2", "self_attn.out_proj": "attn.out_proj",
        "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj",
    }  # fmt: skip
    for layer in range(json.loads((folder / "config.json").read_text())["num_hidden_layers"]):
        for end in ("weight", "bias"):
            own, theirs = f"encoder.layers.{layer}", f"transformer.resblocks.{layer}"
            found |= {f"{theirs}.{name}.{end}": given[f"{own}.{key}.{end}"] for key, name in names.items()}
            parts = [given[f"{own}.self_attn.{part}_proj.{end}"] for part in "qkv"]
            found[f"{theirs}.attn.in_proj_{end}"] = torch.cat(parts)
    return copy.deepcopy(found)


def open_clip_tokens(weights: dict[str, torch.Tensor], pixels: torch.Tensor, heads: int, quick: bool) -> torch.Tensor:
    """open_clip's forward pass (its version 2, `output_tokens`): pixels (I, 3, H, W) -> patch tokens (I, N, D)."""
    patches = F.conv2d(pixels, weights["conv1.weight"], stride=weights["conv1.weight"].shape[-1]).flatten(2).transpose(1, 2)
    states = (
        torch.cat([weights["class_embedding"].expand(len(pixels), 1, -1), patches], dim=1) + weights["positional_embedding"]
    )
    states = norm(states, weights, "ln_pre")
    layer = 0
    while f"transformer.resblocks.{layer}.ln_1.weight" in weights:
        name = f"transformer.resblocks.{layer}"
        attention = nn.MultiheadAttention(states.shape[-1], heads, batch_first=True)
        own = {key.removeprefix(f"{name}.attn."): value for key, value in weights.items() if key.startswith(f"{name}.attn.")}
        attention.load_state_dict(own)
        normed = norm(states, weights, f"{name}.ln_1")
        states = states + attention(normed, normed, normed, need_weights=False)[0]
        inner = F.linear(
            norm(states, weights, f"{name}.ln_2"), *(weights[f"{name}.mlp.c_fc.{end}"] for end in ("weight", "bias"))
        )
        inner = inner * torch.sigmoid(1.702 * inner) if quick else F.gelu(inner)
        states = states + F.linear(inner, *(weights[f"{name}.mlp.c_proj.{end}"] for end in ("weight", "bias")))
        layer += 1
    return states[:, 1:].detach()
