"""Image tower + text tower -> one pair model, and its two halves apart: vectors of pictures, vectors of packed texts.

transformers' VisionTextDualEncoderModel is used wherever it gives the right numbers; otherwise BodaDualEncoderModel.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from tokenizers.processors import TemplateProcessing
from torch import nn
from transformers import (
    AutoModel,
    CLIPVisionModelWithProjection,
    VisionTextDualEncoderConfig,
    VisionTextDualEncoderModel,
    VisionTextDualEncoderProcessor,
)

from boda.errors import BodaError
from boda.models.assemble import Assembled, change_before, load_tower
from boda.models.attention import ATTENTION_NAME
from boda.models.checkpoints import first_position, save_folder
from boda.models.dual_encoder import BodaDualEncoderConfig, BodaDualEncoderModel
from boda.models.loading import config_from, load_model, load_whole, open_part, seeded
from boda.models.vocabulary import give_pad_token

JOINT = {"siglip_vision_model", "siglip2_vision_model"}
PROJECTION_DIM = 512
START_SCALE = {"softmax": math.log(1 / 0.07), "sigmoid": math.log(10)}  # CLIP's, SigLIP's; SigLIP's bias starts at -10
START, END = "<|im_start|>", "<|im_end|>"  # around texts, where the tokenizer puts nothing around them


def assemble_pair(spec, tokenizer, seed: int = 0, revisions: dict[str, str | None] | None = None) -> Assembled:
    """Parts named by a recipe's `model` block of kind clip -> one model. Raises BodaError: a part is missing or no encoder.

    From `seed` come the projections (but a CLIP checkpoint's own is taken where it has the width asked for) and poolers that a
    checkpoint lacks. `revisions`: exact hub revisions to take, as a run recorded them.
    """
    revisions = revisions or {}
    tower = load_tower(spec.vision, -1, spec.image_size, seed, revisions.get("vision"), whole=True)
    frame_texts(tokenizer)
    text, text_revision = load_text_tower(spec.language, tokenizer, seed, revisions.get("language"))
    model = join_pair(tower.module, text, tower.image_size, spec.projection_dim, spec.logit_scale, spec.contrast, seed)
    if isinstance(spec.vision, str):
        config = config_from(spec.vision, "vision", tower.revision)
        if config.model_type == "clip" and config.projection_dim == model.config.projection_dim:
            kind = CLIPVisionModelWithProjection
            own = open_part("vision", load_whole, spec.vision, auto_class=kind, revision=tower.revision).visual_projection
            model.visual_projection.weight.data.copy_(own.weight)
    found = {"vision": tower.revision, "language": text_revision}
    return Assembled(model, tokenizer, found, tower.image_processor, tower.image_size)


def load_text_tower(language: str | dict, tokenizer, seed: int = 0, revision: str | None = None):
    """A text encoder from the hub, a folder, or a config: (model, revision). A pooler that the checkpoint lacks is new."""
    if isinstance(language, dict):
        sizes = {"pad_token_id": tokenizer.pad_token_id, "vocab_size": len(tokenizer)}
        language = {"bos_token_id": None, "eos_token_id": None, **language, **sizes}
    config = config_from(language, "language", revision)
    if not hasattr(type(config)(), "vocab_size") or getattr(config, "is_encoder_decoder", False):
        raise BodaError(f"model.language: a {config.model_type} model is no text encoder; BERT, RoBERTa, ModernBERT, ... are")
    with seeded(seed + 1):
        model = load_model(language, "language", AutoModel, config, ("pooler",), revision)
        if len(tokenizer) > config.vocab_size:
            model.resize_token_embeddings(len(tokenizer))
    return model.eval(), getattr(model.config, "_commit_hash", None)


def frame_texts(tokenizer) -> None:
    """Gives a tokenizer without them a pad token, and marks before and after every text, as Boda's own is trained to have."""
    give_pad_token(tokenizer)
    if tokenizer.num_special_tokens_to_add() == 0 and {START, END} <= set(tokenizer.get_vocab()):
        marks = [(token, tokenizer.convert_tokens_to_ids(token)) for token in (START, END)]
        tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single=f"{START} $A {END}", special_tokens=marks)


@torch.no_grad()
def join_pair(
    vision,
    text,
    image_size: int,
    width: int | None = None,
    scale: float | None = None,
    contrast: str = "softmax",
    seed: int = 0,
):
    """Two towers and new projections to `width` -> the stock class where it is right, else Boda's; in evaluation mode.

    How a tower is pooled shows when it is tried: its own pooled vector, else the mean of its features; of a text tower that
    does not read ahead, the last token. Raises BodaError for a tower that gives no features.
    """
    if getattr(vision.config, "hidden_sizes", None):
        vision.config.hidden_size = vision.config.hidden_sizes[-1]  # what the stock class reads
    seen = vision(torch.zeros(1, 3, image_size, image_size, dtype=vision.dtype), return_dict=True)
    shown, width = getattr(seen, "pooler_output", None), width or PROJECTION_DIM
    reads_ahead = change_before(text, text.config)[1] > 1e-5
    text_pooling = "pooler" if getattr(text, "pooler", None) is not None else "mean" if reads_ahead else "last"
    common = {"vision_config": vision.config, "text_config": text.config, "projection_dim": width}
    common["logit_scale_init_value"] = START_SCALE[contrast] if scale is None else float(scale)
    cls, config = VisionTextDualEncoderModel, VisionTextDualEncoderConfig(**common)
    if text_pooling != "pooler" or shown is None or shown.ndim > 2 or contrast == "sigmoid":
        poolings = {"text_pooling": text_pooling, "vision_pooling": "mean" if shown is None else "pooler"}
        config = BodaDualEncoderConfig(**common, **poolings, has_logit_bias=contrast == "sigmoid")
        cls = BodaDualEncoderModel
    with torch.device("meta"):
        model = cls(config)
    model.vision_model, model.text_model = vision, text
    with seeded(seed + 2):
        for name, tower in (("visual_projection", vision), ("text_projection", text)):
            weight = torch.empty(width, tower.config.hidden_size).normal_(std=0.02)  # as KoCLIP's
            # SigLIP compares its pooled vectors themselves, so a locked tower must keep them.
            is_joint = name == "visual_projection" and vision.config.model_type in JOINT and weight.shape[0] == weight.shape[1]
            getattr(model, name).weight = nn.Parameter(torch.eye(width) if is_joint else weight)
    model.logit_scale = nn.Parameter(torch.tensor(config.logit_scale_init_value))
    if contrast == "sigmoid":
        model.logit_bias = nn.Parameter(torch.tensor(-10.0))
    return model.eval()


def write_pair(assembled: Assembled, spec: Any, folder: Path, info: dict) -> Path:
    """Writes a complete pair model in the type it has; `spec.to_processor()` gives what pictures go through."""
    processor = VisionTextDualEncoderProcessor(spec.to_processor(), assembled.tokenizer)
    return save_folder(assembled.model, processor, folder, info)


# ---------------------------------------------------------------- vectors


def pooled(features) -> torch.Tensor:
    """What `get_image_features` or `get_text_features` gives, as a tensor: transformers 5 wraps it for some models."""
    return features if isinstance(features, torch.Tensor) else features.pooler_output


def image_vectors(model, pixel_values: torch.Tensor) -> torch.Tensor:
    """Pixels (I, 3, H, W) -> vectors (I, P), not normalised."""
    if model.vision_model.config._attn_implementation == "sdpa":
        model.vision_model.set_attn_implementation(ATTENTION_NAME)  # the same, and faster with few tokens in bf16 on a CPU
    return pooled(model.get_image_features(pixel_values=pixel_values))


def text_positions(model, lengths: list[int]) -> torch.Tensor:
    """Position ids (1, L) of texts packed into a row: each counts from the text tower's first place."""
    first = first_position(model.text_model)
    return torch.cat([torch.arange(first, first + length) for length in lengths])[None]


def text_vectors(model, input_ids: torch.Tensor, cu_seq_lens: torch.Tensor, position_ids=None) -> torch.Tensor:
    """Texts packed into one row (1, L), with borders (S+1,) and position ids (1, L) -> vectors (S, P), not normalised.

    Equal to `get_text_features` of the padded texts, without the padding's work. A tower whose layers do not go through
    transformers' attention interface (tried once) is given padded texts.
    """
    if packs_texts(model):
        if position_ids is None:
            position_ids = text_positions(model, cu_seq_lens.diff().tolist()).to(input_ids.device)
        return model.text_projection(_packed(model, input_ids, cu_seq_lens, position_ids))
    lengths = cu_seq_lens.diff()
    real = torch.arange(int(lengths.max()), device=input_ids.device) < lengths[:, None]
    padded = torch.full(real.shape, model.config.text_config.pad_token_id or 0, device=input_ids.device)
    return pooled(model.get_text_features(padded.masked_scatter(real, input_ids), attention_mask=real.long()))


def _packed(model, input_ids, cu_seq_lens, position_ids) -> torch.Tensor:
    """The pooled vector (S, D_text) of every text of a row."""
    tower, how = model.text_model, getattr(model.config, "text_pooling", "pooler")
    if tower.config._attn_implementation != ATTENTION_NAME:
        tower.set_attn_implementation(ATTENTION_NAME)
    states = tower(input_ids=input_ids, position_ids=position_ids, cu_seq_lens=cu_seq_lens).last_hidden_state[0]  # (L, D)
    if how == "mean":
        lengths = cu_seq_lens.diff()
        segment = torch.repeat_interleave(torch.arange(len(lengths), device=states.device), lengths)
        return states.new_zeros(len(lengths), states.shape[1]).index_add(0, segment, states) / lengths[:, None].to(states.dtype)
    chosen = states[(cu_seq_lens[1:] - 1 if how == "last" else cu_seq_lens[:-1]).long()]  # (S, D)
    return tower.pooler(chosen[:, None]) if how == "pooler" else chosen


@torch.no_grad()
def packs_texts(model) -> bool:
    """Whether texts of a packed row are read apart by this text tower: tried once, a row of two against the second alone."""
    known = getattr(model, "_packs_texts", None)
    if known is None:
        tower, device = model.text_model, model.logit_scale.device
        before, was_training = tower.config._attn_implementation, tower.training
        tower.eval()
        words = (torch.arange(3, 15, device=device) % tower.config.vocab_size)[None]
        places = text_positions(model, [6, 6]).to(device)
        borders = torch.tensor([0, 6, 12], dtype=torch.int32, device=device)
        try:
            both = _packed(model, words, borders, places)[1]
            alone = _packed(model, words[:, 6:], borders[:2], places[:, 6:])[0]
            # In half precision a longer row may be rounded anew; a text that sees its neighbour moves by far more.
            limit = 1e-4 if alone.dtype == torch.float32 else 3e-2
            known = bool((both - alone).abs().max() <= limit * alone.abs().max())
        except (TypeError, ValueError):  # no segments or positions in its forward pass, or attention that cannot be chosen
            known = False
        if not known:
            tower.set_attn_implementation(before)
        tower.train(was_training)
        model._packs_texts = known
    return known


def similarity(model, image: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
    """Vectors (I, P) and (T, P) -> logits (I, T): cosine * exp(logit_scale) + bias."""
    logits = F.normalize(image, dim=-1) @ F.normalize(text, dim=-1).T * model.logit_scale.exp()
    return logits + model.logit_bias if hasattr(model, "logit_bias") else logits
