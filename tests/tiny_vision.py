"""Tiny vision models with their image processors, two of them with a text tower."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from tests.tiny_build import built, byte_level, fast, korean_lines, save_weights, write_json

CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
HALF = (0.5, 0.5, 0.5)


def _clip_preprocessor(size: int) -> dict:
    return {
        "crop_size": size,
        "do_center_crop": True,
        "do_normalize": True,
        "do_resize": True,
        "feature_extractor_type": "CLIPFeatureExtractor",
        "image_mean": CLIP_MEAN,
        "image_std": CLIP_STD,
        "resample": 3,
        "size": size,
    }


_CLIP_VISION = dict(
    hidden_size=32,
    intermediate_size=64,
    num_hidden_layers=3,
    num_attention_heads=2,
    image_size=56,
    patch_size=14,
    projection_dim=24,
    initializer_factor=2.0,
)


def _clip_tokenizer():
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import CLIPTokenizer

    specials = ("<|startoftext|>", "<|endoftext|>")
    trainable = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    trainable.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=900, initial_alphabet=alphabet, end_of_word_suffix="</w>", show_progress=False)
    trainable.train_from_iterator((line.lower() for line in korean_lines()), trainer)
    merges = [tuple(pair) for pair in json.loads(trainable.to_str())["model"]["merges"]]
    # CLIP's own order: bytes, bytes that end a word, merges, specials
    tokens = [*alphabet, *(letter + "</w>" for letter in alphabet), *("".join(pair) for pair in merges)]
    vocabulary = {token: index for index, token in enumerate(dict.fromkeys([*tokens, *specials]))}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=48)


def _clip(folder: Path) -> None:
    from transformers import CLIPConfig, CLIPModel

    tokenizer = _clip_tokenizer()
    text = dict(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=48,
        projection_dim=24,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        initializer_factor=2.0,
    )
    config = CLIPConfig(
        text_config=text, vision_config=_CLIP_VISION, projection_dim=24, initializer_factor=2.0, dtype="float32"
    )
    save_weights(CLIPModel(config), folder)
    tokenizer.save_pretrained(folder)
    write_json(folder / "preprocessor_config.json", _clip_preprocessor(56))


def _clip_vision(folder: Path) -> None:
    from transformers import CLIPVisionConfig, CLIPVisionModel

    save_weights(CLIPVisionModel(CLIPVisionConfig(**_CLIP_VISION, dtype="float32")), folder)
    write_json(folder / "preprocessor_config.json", _clip_preprocessor(56))


def _siglip(folder: Path) -> None:
    from transformers import SiglipConfig, SiglipModel

    tokenizer = fast(byte_level(500, ("</s>", "<unk>")), None, eos_token="</s>", pad_token="</s>", unk_token="<unk>")
    tokenizer.model_max_length = 64
    sizes = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2)
    end = tokenizer.eos_token_id
    text = dict(
        sizes, vocab_size=len(tokenizer), max_position_embeddings=64, eos_token_id=end, bos_token_id=end, pad_token_id=end
    )
    vision = dict(sizes, image_size=64, patch_size=16)
    save_weights(SiglipModel(SiglipConfig(text_config=text, vision_config=vision, dtype="float32")), folder)
    tokenizer.save_pretrained(folder)
    write_json(
        folder / "preprocessor_config.json",
        {
            "do_normalize": True,
            "do_rescale": True,
            "do_resize": True,
            "image_mean": HALF,
            "image_processor_type": "SiglipImageProcessor",
            "image_std": HALF,
            "processor_class": "SiglipProcessor",
            "resample": 3,
            "rescale_factor": 1 / 255,
            "size": {"height": 64, "width": 64},
        },
    )


def _vit(folder: Path) -> None:
    from transformers import ViTConfig, ViTForImageClassification

    config = ViTConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=3,
        num_attention_heads=2,
        image_size=32,
        patch_size=8,
        num_labels=5,
        initializer_range=0.15,
        dtype="float32",
    )
    save_weights(ViTForImageClassification(config), folder)
    write_json(
        folder / "preprocessor_config.json",
        {
            "do_normalize": True,
            "do_rescale": True,
            "do_resize": True,
            "image_mean": HALF,
            "image_processor_type": "ViTImageProcessor",
            "image_std": HALF,
            "resample": 2,
            "rescale_factor": 1 / 255,
            "size": {"height": 32, "width": 32},
        },
    )


def _convnext(folder: Path) -> None:
    from transformers import ConvNextConfig, ConvNextForImageClassification

    config = ConvNextConfig(
        hidden_sizes=[8, 16, 24, 32],
        depths=[1, 1, 2, 1],
        image_size=64,
        num_labels=5,
        layer_scale_init_value=0.5,
        initializer_range=0.15,
        dtype="float32",
    )
    save_weights(ConvNextForImageClassification(config), folder)
    write_json(
        folder / "preprocessor_config.json",
        {
            "crop_pct": 0.875,
            "do_normalize": True,
            "do_resize": True,
            "feature_extractor_type": "ConvNextFeatureExtractor",
            "image_mean": IMAGENET_MEAN,
            "image_std": IMAGENET_STD,
            "resample": 3,
            "size": 64,
        },
    )


def _dinov2_registers(folder: Path) -> None:
    from transformers import Dinov2WithRegistersConfig, Dinov2WithRegistersModel

    config = Dinov2WithRegistersConfig(
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=2,
        mlp_ratio=2,
        image_size=56,
        patch_size=14,
        num_register_tokens=4,
        layerscale_value=0.5,
        initializer_range=0.15,
        dtype="float32",
    )
    save_weights(Dinov2WithRegistersModel(config), folder)
    write_json(
        folder / "preprocessor_config.json",
        {
            "crop_size": {"height": 56, "width": 56},
            "do_center_crop": True,
            "do_convert_rgb": True,
            "do_normalize": True,
            "do_rescale": True,
            "do_resize": True,
            "image_mean": IMAGENET_MEAN,
            "image_processor_type": "BitImageProcessor",
            "image_std": IMAGENET_STD,
            "resample": 3,
            "rescale_factor": 1 / 255,
            "size": {"shortest_edge": 64},
        },
    )


_VISIONS: dict[str, Callable[[Path], None]] = {
    "clip": _clip,
    "clip_vision": _clip_vision,
    "siglip": _siglip,
    "vit": _vit,
    "convnext": _convnext,
    "dinov2_registers": _dinov2_registers,
}
VISION_FAMILIES = tuple(_VISIONS)
# What a picture becomes: side of the picture, (rows, columns) of the grid, tokens before the grid's.
VISION_SHAPES: dict[str, tuple[int, tuple[int, int], int]] = {
    "clip": (56, (4, 4), 1),
    "clip_vision": (56, (4, 4), 1),
    "siglip": (64, (4, 4), 0),
    "vit": (32, (4, 4), 1),
    "convnext": (64, (2, 2), 0),
    "dinov2_registers": (56, (4, 4), 5),
}


def vision_folder(family: str) -> Path:
    """A vision model with its image processor; `family` is one of VISION_FAMILIES. "clip" and "siglip" have text towers too."""
    return built(family, _VISIONS[family])
