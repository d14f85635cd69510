"""Captioned pictures and recipes of tiny pair models."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from tests import tiny


def caption_file(folder: Path, rows: int = 12, image: str = "image", captions: str = "captions") -> Path:
    """`rows` pictures with two captions each; one caption stands with several pictures, and one picture under two names."""
    names = [path.name for path in tiny.save_pictures(folder, rows - 1)]
    (folder / "again.png").write_bytes((folder / names[0]).read_bytes())
    lines = tiny.korean_lines()
    content = [
        {image: name, captions: [lines[2 * number], lines[2 * number + 1] if number % 4 else "같은 설명"]}
        for number, name in enumerate([*names, "again.png"])
    ]
    (folder / "captions.json").write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    return folder / "captions.json"


def pair_recipe(folder: Path, stages: list[dict], dropout: float = 0.1, **model) -> dict:
    """A recipe of a tiny CLIP's image tower and a tiny RoBERTa on captions; all files go into `folder`."""
    first = {
        "objective": "contrastive",
        "data": [{"source": "captions", "path": str(caption_file(folder))}],
        "batch_size": 10,
        "learning_rate": 1e-3,
        "max_length": 24,
        "row_length": 64,
        "max_steps": 4,
    }
    shutil.copytree(tiny.text_folder("roberta"), folder / "text")
    config = json.loads((folder / "text" / "config.json").read_text(encoding="utf-8"))
    config |= {"hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout}
    (folder / "text" / "config.json").write_text(json.dumps(config), encoding="utf-8")
    towers = {"vision": str(tiny.vision_folder("clip")), "language": str(folder / "text")}
    spec = {"kind": "clip", "projection_dim": 16, **towers, **model}
    return {"precision": "fp32", "model": spec, "stages": [first | stages[0], *stages[1:]]}
