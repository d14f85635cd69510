"""Inputs of `train_flamingo`: pictures, captions, documents, and parts with random weights.

A folder of it holds `vision/`, `language/` (with its tokenizer), `images/`, and for both sets `NAME.jsonl` (rows of messages) and
`NAME-ids.jsonl`: {input_ids, labels, images} for the side with the published design; `weights.safetensors`: what both begin with.
"""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from train_vlm_data import draw_scene, sentence, text_of_length
from transformers import CLIPVisionConfig, CLIPVisionModel, GPTNeoXConfig, GPTNeoXForCausalLM

from boda.data.images import ImageSpec
from boda.data.sources import BadRows
from boda.models.vocabulary import train_tokenizer
from boda.recipe import load_recipe
from boda.train.build import build, get_tokenizer
from boda.train.preparation import prepare_stage

# Of Polyglot-Ko 1.3B with CLIP ViT-L/14: the parts' shares of the operations are kept, roughly, and all is small.
VISION = {"hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 6, "num_attention_heads": 4, "patch_size": 16}
LANGUAGE = {"hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 8, "num_attention_heads": 8, "rotary_pct": 0.5}
CONNECTOR = {"depth": 2, "num_latents": 64, "heads": 8, "head_dim": 64, "every": 1}
VOCABULARY, IMAGE_SIZE, PICTURES = 8192, 224, 400
SETS = {"captions": (48, 32, 1536), "documents": (8, 256, 2048)}  # samples a step, most tokens of one, of a row


def recipe(folder: Path, name: str, steps: int) -> dict[str, Any]:
    """Boda's recipe for one set."""
    batch, length, row = SETS[name]
    stage = {
        "name": name,
        "train": ["resampler", "cross_attention", "language.tokens"],
        "data": [{"source": "messages", "path": str(folder / f"{name}.jsonl"), "images": str(folder / "images")}],
        "max_steps": steps,
        "batch_size": batch,
        "learning_rate": 1e-4,
        "schedule": "constant",
        "warmup_ratio": 0.0,
        "weight_decay": 0.1,
        "max_length": length,
        "row_length": row,
        "save_steps": 10**9,
    }
    parts = {"vision": str(folder / "vision"), "vision_layer": -1, "language": str(folder / "language")}
    return {"model": {"kind": "flamingo", "connector": CONNECTOR, **parts}, "stages": [stage], "precision": "bf16"}


def write(folder: Path, steps: int) -> None:
    """Everything for so many steps of both sets."""
    generator = random.Random(0)
    (folder / "images").mkdir(parents=True)
    for number in range(PICTURES):
        draw_scene(generator)[1].convert("RGB").save(folder / "images" / f"{number}.jpg", quality=90)
    lines = [sentence(generator, []) for _ in range(3000)]
    tokenizer = train_tokenizer(lines, 480)  # few merges: real Korean text costs 1.5 to 2 tokens a word
    tokenizer.chat_template = None
    count = lambda text: len(tokenizer(text).input_ids)  # noqa: E731
    torch.manual_seed(0)
    GPTNeoXForCausalLM(GPTNeoXConfig(**LANGUAGE, vocab_size=VOCABULARY)).save_pretrained(folder / "language")
    tokenizer.save_pretrained(folder / "language")
    CLIPVisionModel(CLIPVisionConfig(**VISION, image_size=IMAGE_SIZE, hidden_act="quick_gelu")).save_pretrained(
        folder / "vision"
    )
    (folder / "vision" / "preprocessor_config.json").write_text(
        json.dumps(ImageSpec(size=IMAGE_SIZE).to_processor().to_dict()), encoding="utf-8"
    )
    rows: dict[str, list] = {"captions": [], "documents": []}
    for _ in range(steps * SETS["captions"][0]):
        # Like captions of LAION: a few words mostly, some longer than what is read of them.
        length = min(40, max(4, round(generator.lognormvariate(math.log(14), 0.5))))
        words = text_of_length(generator, [], length, count).split()
        while count(" ".join(words)) > length and len(words) > 1:
            words.pop()
        rows["captions"].append(_turns(generator, [" ".join(words)]))
    for _ in range(steps * SETS["documents"][0]):
        # Like those of MMC4 within 256 tokens: two to six pictures, most two or three, and most documents longer than that.
        pictures = generator.choices((2, 3, 4, 5, 6), (5, 4, 2, 1, 1))[0]
        length = max(60, generator.lognormvariate(math.log(240), 0.6))
        texts = [text_of_length(generator, [], round(length / pictures), count) for _ in range(pictures)]
        rows["documents"].append(_turns(generator, texts))
    for name, found in rows.items():
        _write(folder / f"{name}.jsonl", found)
        _write_ids(folder, name)


def _turns(generator: random.Random, texts: list[str]) -> dict:
    images = [f"{generator.randrange(PICTURES)}.jpg" for _ in texts]
    turns = [
        turn for text in texts for turn in ({"role": "user", "content": "<image>"}, {"role": "assistant", "content": text})
    ]
    return {"messages": turns, "images": images}


def _write_ids(folder: Path, name: str) -> None:
    made = load_recipe(recipe(folder, name, 1))
    built = build(made, get_tokenizer(made, None, iter(())), None, [], torch.device("cpu"))
    with torch.no_grad():  # open a little, or what is seen changes nothing in the first step
        for block in built.model.model.blocks():
            block.attn_gate.fill_(0.2)
            block.ff_gate.fill_(0.2)
    tensors = {key: value.float().contiguous() for key, value in built.model.state_dict().items()}
    save_file(tensors, folder / "weights.safetensors", metadata={"format": "pt"})
    data = prepare_stage(made, made.stages[0], built, folder / f"prepared-{name}", None, BadRows(), True)
    rows = []
    for index in range(len(data)):
        row = data.row(index)
        labels = np.where(row.trained, row.input_ids, -100).tolist()
        rows.append({"input_ids": row.input_ids.tolist(), "labels": labels, "images": [image.path for image in row.images]})
    _write(folder / f"{name}-ids.jsonl", rows)
    facts = {"image_id": data.image_id, "end_id": built.assembled.tokenizer.convert_tokens_to_ids("<|endofchunk|>")}
    (folder / "facts.json").write_text(json.dumps(facts), encoding="utf-8")


def _write(path: Path, rows: list[dict]) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def pixels_of(path: str) -> torch.Tensor:
    """A picture as CLIP's own transform makes it: the shorter side resized, the middle cut out, normalised. (3, H, W)"""
    with Image.open(path) as picture:
        picture = picture.convert("RGB")
        scale = IMAGE_SIZE / min(picture.size)
        picture = picture.resize((round(picture.width * scale), round(picture.height * scale)), Image.Resampling.BICUBIC)
        left, top = (picture.width - IMAGE_SIZE) // 2, (picture.height - IMAGE_SIZE) // 2
        array = np.asarray(picture.crop((left, top, left + IMAGE_SIZE, top + IMAGE_SIZE)), dtype=np.float32) / 255
    mean, deviation = np.float32([0.48145466, 0.4578275, 0.40821073]), np.float32([0.26862954, 0.26130258, 0.27577711])
    return torch.from_numpy((array - mean) / deviation).permute(2, 0, 1)
