"""Texts and pictures -> vectors of one space, by any pair model: what classification, search and evaluation stand on."""

from __future__ import annotations

import hashlib
import unicodedata
import warnings
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from boda.errors import BodaError
from boda.models.checkpoints import first_position, is_pair, load, load_config, locate
from boda.models.pairing import pooled

WHOLE_LENGTH = ("siglip", "siglip2")  # they read the padding too, without a mask, so every text is as long as in training
PATCH_ATTENTION = "boda_patches"


class Encoder:
    """A pair model that gives vectors: KoCLIP, or any ready model with `get_text_features` and `get_image_features`.

    `dim`: numbers in a vector. `max_length`: tokens that a text may have; `cut`: texts that were longer so far. `fingerprint`:
    tells one model's weights from another's, in any type. Cosine * `logit_scale` + `logit_bias` are the logits (the model's
    parameter is the scale's logarithm); `is_sigmoid`: each pair has a probability of its own (SigLIP).
    """

    def __init__(self, model, processor, name: str = ""):
        self.model, self.processor, self.name = model.eval(), processor, name
        scale, bias = getattr(model, "logit_scale", None), getattr(model, "logit_bias", None)
        self.logit_scale = 1.0 if scale is None else float(scale.detach().float().exp())
        self.is_sigmoid, self.logit_bias = bias is not None, 0.0 if bias is None else float(bias.detach())
        places = getattr(getattr(model.config, "text_config", None), "max_position_embeddings", None) or 8192
        self.max_length = min(places - first_position(getattr(model, "text_model", None)), processor.tokenizer.model_max_length)
        self.cut = 0
        self.fingerprint = fingerprint(model)
        self.dim = self.texts(["가"]).shape[1]

    @classmethod
    def load(cls, name: str | Path, device=None, dtype=None) -> Encoder:
        """Raises BodaError where there is no model, or one that does not compare pictures with texts."""
        config = load_config(locate(name))
        if not is_pair(config):
            raise BodaError(
                f"'{name}' is a {config.model_type} model; one that compares pictures with texts is needed (CLIP, ...)"
            )
        model, processor = load(name, device, dtype)
        return cls(model, processor, str(name))

    @torch.inference_mode()
    def texts(self, texts: list[str], batch: int = 256) -> np.ndarray:
        """Texts -> vectors (N, dim), float32, of length 1. One that is too long is cut: counted in `cut`, said the first time.

        Raises BodaError for a text without a visible letter.
        """
        texts, tokenizer = [unicodedata.normalize("NFC", text) for text in texts], self.processor.tokenizer
        if blank := [number for number, text in enumerate(texts) if not text.strip()]:
            raise BodaError(f"text {blank[0] + 1} of {len(texts)} is empty; give it at least one letter")
        if not texts:
            return np.zeros((0, self.dim), np.float32)
        lengths = [len(ids) for ids in tokenizer(texts, verbose=False)["input_ids"]]
        longer = sum(length > self.max_length for length in lengths)
        if longer and not self.cut:
            warnings.warn(f"{longer} of {len(texts)} texts are longer than {self.max_length} tokens and were cut", stacklevel=3)
        self.cut += longer
        options = {"truncation": True, "max_length": self.max_length, "return_tensors": "pt"}
        is_whole = self.model.config.model_type in WHOLE_LENGTH
        options["padding"] = "max_length" if is_whole else True
        order, found = np.argsort(lengths, kind="stable"), []  # like lengths together: little padding
        for start in range(0, len(texts), batch):
            inputs = tokenizer([texts[index] for index in order[start : start + batch]], **options).to(self.model.device)
            inputs.pop("token_type_ids", None)  # all zero for single texts, and unknown to some towers
            if is_whole:
                inputs.pop("attention_mask", None)
            found.append(_unit(pooled(self.model.get_text_features(**inputs))))
        return np.concatenate(found)[np.argsort(order)]

    @torch.inference_mode()
    def images(self, images: Iterable[Any], batch: int = 64) -> np.ndarray:
        """PIL pictures -> vectors (N, dim), float32, of length 1; they are taken as they come, `batch` at a time."""
        images, found = iter(images), [np.zeros((0, self.dim), np.float32)]
        while chosen := list(islice(images, batch)):
            found.append(_unit(pooled(self.model.get_image_features(**self._pixels(chosen)))))
        return np.concatenate(found)

    def _pixels(self, images: list[Any]):
        inputs = self.processor.image_processor([image.convert("RGB") for image in images], return_tensors="pt")
        return inputs.to(self.model.device).to(self.model.dtype)

    @torch.inference_mode()
    def patches(self, image) -> np.ndarray:
        """A PIL picture -> the vectors (rows, columns, dim) of its parts, of length 1, to compare with texts.

        Of a convolutional tower, whose features at a place tell of all around it, each part is shown by itself where it lies, the
        rest in the picture's median colour. In a transformer the last layer's patches look at themselves only (MaskCLIP,
        https://arxiv.org/abs/2112.01071), then each is pooled and projected as if it were the picture.

        Raises BodaError for a tower whose features are no such grid.
        """
        tower = getattr(self.model, "vision_model", None)
        inputs = self._pixels([image])
        if tower is None or set(inputs) != {"pixel_values"}:
            raise BodaError(f"'{self.name}' does not give one square grid of patches for a picture; CLIP, SigLIP, ViT, ... do")
        before, left = tower.config._attn_implementation, getattr(tower.config, "num_hidden_layers", 0)

        def attention(module, query, key, value, *rest, **options):
            nonlocal left
            left -= 1
            if left > 0:
                return sdpa_attention_forward(module, query, key, value, *rest, **options)
            return value.transpose(1, 2).contiguous(), None

        AttentionInterface.register(PATCH_ATTENTION, attention)
        try:
            if left:
                tower.set_attn_implementation(PATCH_ATTENTION)
            states = tower(**inputs, return_dict=True).last_hidden_state
        finally:
            tower.set_attn_implementation(before)
        if states.ndim == 4:
            rows, columns = states.shape[2:]
            alone = shown_alone(inputs["pixel_values"][0], rows, columns).split(64)
            return np.concatenate([_unit(pooled(self.model.get_image_features(pixel_values=some))) for some in alone]).reshape(
                rows, columns, -1
            )
        rows, columns = (side // tower.config.patch_size for side in inputs["pixel_values"].shape[2:])
        vectors = pool_alone(tower, states[0, -rows * columns :, None])
        return _unit(getattr(self.model, "visual_projection", torch.nn.Identity())(vectors)).reshape(rows, columns, -1)

    def probabilities(self, image_vectors: np.ndarray, text_vectors: np.ndarray) -> np.ndarray:
        """Vectors (I, dim) and (T, dim) -> probabilities (I, T): over the texts, or of each pair alone (sigmoid models)."""
        logits = torch.from_numpy(image_vectors @ text_vectors.T * self.logit_scale + self.logit_bias)
        return (logits.sigmoid() if self.is_sigmoid else logits.softmax(-1)).numpy()


def shown_alone(pixels: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
    """A picture (3, H, W) -> (rows * columns, 3, H, W): of each only one part, the rest in the picture's median colour."""
    high, wide = pixels.shape[1] // rows, pixels.shape[2] // columns
    parts = pixels.flatten(1).median(1).values[:, None, None].expand_as(pixels).repeat(rows * columns, 1, 1, 1)
    for place, part in enumerate(parts):
        down, across = (place // columns) * high, (place % columns) * wide
        at = (slice(None), slice(down, down + high), slice(across, across + wide))
        part[at] = pixels[at]
    return parts


def pool_alone(tower, tokens: torch.Tensor) -> torch.Tensor:
    """Last features (N, 1, D) -> the vectors (N, D) that the tower would give of pictures of only one of them."""
    tower = getattr(tower, "vision_model", tower)  # before transformers 5.20 CLIP and SigLIP were wrapped once more
    if getattr(tower, "head", None) is not None:  # SigLIP: attention over the tokens
        return tower.head(tokens)
    if hasattr(tower, "post_layernorm"):  # CLIP
        return tower.post_layernorm(tokens[:, 0])
    is_dense = hasattr(getattr(tower, "pooler", None), "dense")  # ViT
    return tower.pooler(tokens) if is_dense else tokens[:, 0]


def fingerprint(model) -> str:
    """A hash of numbers from every tensor, rounded to bf16; names and order are left out, they change with versions."""
    found = []
    for weight in model.parameters():
        some = weight.detach().flatten()[:: max(1, weight.numel() // 16)].to("cpu", torch.bfloat16).float()
        found.append(f"{tuple(weight.shape)}{some.tolist()}")
    return hashlib.sha256("".join(sorted(found)).encode()).hexdigest()[:16]


def _unit(vectors: torch.Tensor) -> np.ndarray:
    return F.normalize(vectors.float(), dim=-1).cpu().numpy()
