"""Published models as shapes: the same sizes with random weights, so that their speed is measured without a download."""

from __future__ import annotations

import math
from typing import Any

from boda.errors import BodaError
from boda.evaluate.machine import free_memory

# Sizes from the models' published configs.
LLAMA = {"model_type": "llama", "num_key_value_heads": 8, "rms_norm_eps": 1e-5}
HYPERCLOVAX = LLAMA | {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "head_dim": 128}
HYPERCLOVAX |= {"intermediate_size": 4096, "vocab_size": 110592, "max_position_embeddings": 4096, "tie_word_embeddings": True}
HYPERCLOVAX |= {"rope_parameters": {"rope_type": "default", "rope_theta": 1e8}}
LLAMA3 = LLAMA | {"hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32, "intermediate_size": 14336}
LLAMA3 |= {"vocab_size": 128256, "max_position_embeddings": 8192, "tie_word_embeddings": False}
LLAMA3 |= {"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}}
ROBERTA = {"model_type": "roberta", "hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16}
ROBERTA |= {"intermediate_size": 4096, "vocab_size": 32000, "max_position_embeddings": 514, "type_vocab_size": 1}


def _polyglot(hidden: int, layers: int, heads: int, rotary: float) -> dict:
    sizes = {"hidden_size": hidden, "num_hidden_layers": layers, "num_attention_heads": heads, "intermediate_size": 4 * hidden}
    rope = {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": rotary}
    fixed = {"vocab_size": 30080, "max_position_embeddings": 2048, "rope_parameters": rope, "tie_word_embeddings": False}
    return {"model_type": "gpt_neox", **sizes, **fixed}


def _vit(model_type: str, hidden: int, layers: int, patch: int, size: int) -> dict:
    sizes = {"hidden_size": hidden, "num_hidden_layers": layers, "num_attention_heads": hidden // 64}
    return {"model_type": model_type, **sizes, "intermediate_size": 4 * hidden, "patch_size": patch, "image_size": size}


# `connector`: of a VLM its name, of a flamingo its settings; a pair model has none. Towers have the layers that are used.
SHAPES: dict[str, dict[str, Any]] = {
    "hyperclovax-0.5b": {"language": HYPERCLOVAX},
    "polyglot-1.3b": {"language": _polyglot(2048, 24, 16, 0.5)},
    "polyglot-3.8b": {"language": _polyglot(3072, 32, 24, 0.5)},
    "polyglot-5.8b": {"language": _polyglot(4096, 28, 16, 0.25)},
    "polyglot-12.8b": {"language": _polyglot(5120, 40, 40, 0.5)},
    "llama3-8b": {"language": LLAMA3},
    "small-korean-vlm": {
        "language": HYPERCLOVAX,
        "vision": _vit("clip_vision_model", 1024, 23, 14, 336),
        "connector": "ldpv2",
    },
    "openflaminko": {
        "language": _polyglot(2048, 24, 16, 0.5),
        "vision": _vit("clip_vision_model", 1024, 24, 14, 224),
        "connector": {"depth": 6, "num_latents": 64, "heads": 8, "head_dim": 64, "every": 1},
    },
    "koclip-base": {"language": ROBERTA, "vision": _vit("clip_vision_model", 768, 12, 32, 224)},
    "koclip-large": {"language": ROBERTA, "vision": _vit("vit", 1024, 24, 16, 224)},
}


def build(name: str, device=None, dtype=None) -> tuple[Any, Any]:
    """A model of that shape with random weights, and a processor for it: (model, processor), as `boda.load` gives them.

    The words are those of Boda's own small tokenizer, so the model has its published tables and reads only a few of their rows.
    Raises BodaError, before anything is built: no such shape, or one that does not fit this machine's memory.
    """
    import torch

    from boda.models.checkpoints import best_device, best_dtype

    if name not in SHAPES:
        raise BodaError(f"no shape '{name}'; there are {', '.join(SHAPES)}")
    device = torch.device(best_device() if device is None else device)
    dtype = dtype or best_dtype(device)
    needed, free = parameters_of(name) * dtype.itemsize, free_memory(device)
    if needed > free:
        raise BodaError(
            f"shape {name}: its weights take {needed / 1e9:.1f} GB in {str(dtype).removeprefix('torch.')}, and {free / 1e9:.1f} GB "
            f"of this machine's memory ({device.type}) are free; choose a smaller shape"
        )
    config, processor = _config_of(name), _processor_of(name)
    with torch.device(device), torch.random.fork_rng():
        torch.manual_seed(0)
        model = _class_of(config).from_config(config, dtype=dtype)
    model.boda_info = {}
    return model.to(device).eval(), processor


def parameters_of(name: str) -> int:
    """How many numbers a shape's weights are; nothing is built."""
    import torch

    config = _config_of(name)
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in _class_of(config).from_config(config).parameters())


def _class_of(config):
    from transformers import AutoModel, AutoModelForCausalLM, AutoModelForImageTextToText

    if config.model_type == "vision-text-dual-encoder":
        return AutoModel
    return AutoModelForImageTextToText if config.model_type.startswith("boda_") else AutoModelForCausalLM


def _config_of(name: str):
    from transformers import VisionTextDualEncoderConfig

    from boda.models.checkpoints import BodaConfig, BodaFlamingoConfig
    from boda.models.loading import config_from

    shape = SHAPES[name]
    language = config_from(shape["language"], "language")
    if "vision" not in shape:
        return language
    vision = config_from(shape["vision"], "vision")
    if "connector" not in shape:
        return VisionTextDualEncoderConfig(vision_config=vision, text_config=language, projection_dim=512)
    side = vision.image_size // vision.patch_size
    said = {"vision_config": vision, "text_config": language, "tie_word_embeddings": language.tie_word_embeddings}
    said |= {"vision_feature_layer": -1, "vision_grid": (side, side), "vision_prefix_tokens": 1}
    said |= {"image_token_index": _tokenizer().convert_tokens_to_ids("<image>"), "image_seq_length": _image_tokens(shape)}
    connector = shape["connector"]
    return BodaFlamingoConfig(**said, **connector) if isinstance(connector, dict) else BodaConfig(connector=connector, **said)


def _image_tokens(shape: dict) -> int:
    """Tokens that a picture takes."""
    from boda.models.connectors import CONNECTORS

    if isinstance(shape["connector"], dict):
        return 1
    side = shape["vision"]["image_size"] // shape["vision"]["patch_size"]
    return CONNECTORS[shape["connector"]].num_tokens((side, side))  # type: ignore[operator]


def _tokenizer():
    from transformers import PreTrainedTokenizerFast

    from boda.models.loading import SHIPPED

    return PreTrainedTokenizerFast.from_pretrained(SHIPPED["mini"])


def _processor_of(name: str):
    from transformers import LlavaProcessor, VisionTextDualEncoderProcessor

    from boda.data.images import ImageSpec
    from boda.models.pairing import frame_texts

    shape, tokenizer = SHAPES[name], _tokenizer()
    if "vision" not in shape:
        return tokenizer
    pictures = ImageSpec(shape["vision"]["image_size"]).to_processor()
    if "connector" not in shape:
        frame_texts(tokenizer)
        return VisionTextDualEncoderProcessor(pictures, tokenizer)
    return LlavaProcessor(
        image_processor=pictures,
        tokenizer=tokenizer,
        patch_size=shape["vision"]["image_size"] // math.isqrt(_image_tokens(shape)),
        vision_feature_select_strategy="full",
        chat_template=tokenizer.chat_template,
        image_token="<image>",
        num_additional_image_tokens=0,
    )
