"""Captioned pictures and recipes of tiny pair models."""

from __future__ import annotations

import json
from pathlib import Path

from tests import tiny


def caption_file(folder: Path, rows: int = 12) -> Path:
    """`rows` pictures with two captions each; one caption stands with two pictures, and one picture under two names."""
    names = [path.name for path in tiny.save_pictures(folder, rows - 1)]
    (folder / "again.png").write_bytes((folder / names[0]).read_bytes())
    lines = tiny.korean_lines()
    content = [
        {"image": name, "captions": [lines[2 * number], lines[2 * number + 1] if number % 4 else "같은 설명"]}
        for number, name in enumerate([*names, "again.png"])
    ]
    (folder / "captions.json").write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    return folder / "captions.json"


def pair_recipe(folder: Path, stages: list[dict], vision: str = "clip", text: str = "roberta", **model) -> dict:
    """A recipe of a tiny image tower and a tiny text tower on captions written into `folder`."""
    first = {
        "objective": "contrastive",
        "data": [{"source": "captions", "path": str(caption_file(folder))}],
        "batch_size": 10,
        "learning_rate": 1e-3,
        "max_length": 24,
        "row_length": 64,
        "max_steps": 4,
        "workers": 0,
    }
    towers = {"vision": str(tiny.vision_folder(vision)), "language": str(tiny.text_folder(text))}
    spec = {"kind": "clip", "projection_dim": 16, **towers, **model}
    return {"precision": "fp32", "model": spec, "stages": [first | stages[0], *stages[1:]]}
