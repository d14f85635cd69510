"""Inputs of `train_clip`: pictures as pixels, captions, and a pair model with random weights; nothing is downloaded.

A folder of it holds `pictures.npy` (N, 3, 224, 224), files 0.png, 1.png, ... which captions name and which stand for its rows, the
towers `vision/` and `text/` (with a tokenizer), and `pair/`: what Boda makes of the two, a `VisionTextDualEncoderModel`, which the
peers take their weights from.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

IMAGE_SIZE, VOCABULARY = 224, 32_000  # ViT-B/32; as many rows as klue/roberta has
SHORTEST, LONGEST, MEAN = 8, 40, 20  # tokens of a caption, the tokenizer's two marks among them
SPECIAL = ["[CLS]", "[PAD]", "[SEP]", "[UNK]", "[MASK]"]  # in klue/roberta's order
LEARNING_RATE, WEIGHT_DECAY, MAX_NORM, ROW_LENGTH = 5e-5, 0.1, 1.0, 2048  # KoCLIP's rate and decay
BETAS, EPSILON = (0.9, 0.999), 1e-8


def recipe(folder: Path, captions: Path, batch_size: int, steps: int) -> dict[str, Any]:
    """Boda's recipe for the benchmark's model: the two towers and both projections learn."""
    stage = {
        "name": "pair",
        "objective": "contrastive",
        "train": ["vision", "text", "logit_scale"],
        "data": [{"source": "captions", "path": str(captions)}],
        "max_steps": steps,
        "batch_size": batch_size,
        "learning_rate": LEARNING_RATE,
        "schedule": "constant",
        "warmup_ratio": 0.0,
        "weight_decay": WEIGHT_DECAY,
        "max_grad_norm": MAX_NORM,
        "max_length": 64,
        "row_length": ROW_LENGTH,
        "save_steps": 10**9,
    }
    model = {"kind": "clip", "vision": str(folder / "vision"), "language": str(folder / "text"), "projection_dim": 512}
    return {"model": model, "stages": [stage], "seed": 0, "precision": "bf16"}


def words() -> list[str]:
    """The vocabulary: words of two Hangul syllables."""
    return [chr(0xAC00 + number // 200) + chr(0xAC00 + 7 * (number % 200)) for number in range(VOCABULARY - len(SPECIAL))]


def lengths(count: int, is_even: bool) -> list[int]:
    """Tokens of each caption: all MEAN, or drawn as captions' lengths are spread (log-normal), with that mean."""
    if is_even:
        return [MEAN] * count
    drawn = np.random.default_rng(1).lognormal(np.log(MEAN) - 0.35**2 / 2, 0.35, count)
    return [int(length) for length in drawn.round().clip(SHORTEST, LONGEST)]


def write_captions(path: Path, count: int, is_even: bool) -> None:
    """One caption a picture, of random words."""
    chance, vocabulary = np.random.default_rng(2), words()
    with path.open("w", encoding="utf-8") as stream:
        for number, length in enumerate(lengths(count, is_even)):
            caption = " ".join(vocabulary[place] for place in chance.integers(len(vocabulary), size=length - 2))
            stream.write(json.dumps({"image": f"{number}.png", "caption": caption}, ensure_ascii=False) + "\n")


def read_captions(path: Path) -> list[str]:
    return [json.loads(line)["caption"] for line in path.read_text(encoding="utf-8").splitlines()]


def read_pictures(folder: Path) -> np.ndarray:
    """(N, 3, 224, 224) fp32, mapped from the file."""
    return np.load(folder / "pictures.npy", mmap_mode="r")


def write(folder: Path, count: int, dropout: float = 0.0) -> None:
    """Everything but the captions."""
    import torch
    from PIL import Image
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import (
        CLIPImageProcessor,
        CLIPVisionConfig,
        CLIPVisionModel,
        PreTrainedTokenizerFast,
        RobertaConfig,
        RobertaModel,
    )

    from boda.recipe import load_recipe
    from boda.train.build import build, get_tokenizer

    pictures = np.random.default_rng(0).standard_normal((count, 3, IMAGE_SIZE, IMAGE_SIZE), dtype=np.float32)
    np.save(folder / "pictures.npy", pictures)
    for number in range(count):
        Image.new("RGB", (8, 8)).save(folder / f"{number}.png")

    vocabulary = {token: number for number, token in enumerate([*SPECIAL, *words()])}
    assert len(vocabulary) == VOCABULARY
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", vocabulary["[CLS]"]), ("[SEP]", vocabulary["[SEP]"])]
    )
    marks = {"cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]", "unk_token": "[UNK]", "mask_token": "[MASK]"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **marks).save_pretrained(folder / "text")

    torch.manual_seed(0)
    places = {"max_position_embeddings": 514, "type_vocab_size": 1, "layer_norm_eps": 1e-5}
    ids = {"bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2}
    dropouts = {"hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout}
    RobertaModel(RobertaConfig(vocab_size=VOCABULARY, **places, **ids, **dropouts)).save_pretrained(folder / "text")
    vision = CLIPVisionConfig(image_size=IMAGE_SIZE, patch_size=32, hidden_size=768, intermediate_size=3072)
    CLIPVisionModel(vision).save_pretrained(folder / "vision")
    CLIPImageProcessor().save_pretrained(folder / "vision")

    made = load_recipe(recipe(folder, folder / "captions.jsonl", 1, 1), ())
    built = build(made, get_tokenizer(made, None, iter(())), None, [], torch.device("cpu"))
    built.model.float().save_pretrained(folder / "pair")
    built.assembled.tokenizer.save_pretrained(folder / "pair")
