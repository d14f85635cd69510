"""A tiny pair model with random weights makes an index and answers from it, by the commands alone."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

pytest.importorskip("faiss")
pytest.importorskip("pyarrow")

from boda.cli import app
from boda.data.images import ImageSpec
from boda.models.assemble import load_tokenizer
from boda.models.pairing import assemble_pair, write_pair
from boda.recipe import ModelSpec
from tests import tiny


def pair(folder: Path, seed: int) -> str:
    """The folder of a pair model of a tiny CLIP tower and a tiny RoBERTa."""
    text = str(tiny.text_folder("roberta"))
    spec = ModelSpec(kind="clip", vision=str(tiny.vision_folder("clip")), language=text, projection_dim=16)
    assembled = assemble_pair(spec, load_tokenizer(text), seed)
    return str(write_pair(assembled, ImageSpec.from_processor(assembled.image_processor), folder, {}))


def command(*words) -> tuple[int, dict, str]:
    told = CliRunner().invoke(app, [*map(str, words), "--json"])
    return told.exit_code, json.loads(told.stdout.splitlines()[-1]) if told.exit_code == 0 else {}, told.output


def test_a_model_makes_an_index_and_another_is_refused(tmp_path):
    model, other, pictures, out = (
        pair(tmp_path / "model", 0),
        pair(tmp_path / "other", 1),
        tmp_path / "pictures",
        tmp_path / "index",
    )
    pictures.mkdir()
    for number, colour in enumerate([(200, 30, 30), (30, 200, 30), (30, 30, 200), (90, 90, 90)]):
        Image.new("RGB", (40, 30 + number), colour).save(pictures / f"{number}.png")
    assert command("index", "build", pictures, "--model", model, "--out", out)[1]["added"] == 4
    assert command("index", "build", pictures, "--model", model, "--out", out)[1]["unchanged"] == 4
    code, found, _ = command("search", out, "--image", pictures / "2.png", "--sheet", tmp_path / "sheet.png")
    best = found["hits"][0]
    assert code == 0 and best["image"] == str(pictures / "2.png") and best["score"] == pytest.approx(1, abs=1e-2)
    composed, decomposed = (command("search", out, unicodedata.normalize(form, "파란 가방"))[1] for form in ("NFC", "NFD"))
    assert composed == decomposed and len(composed["hits"]) == 4 and (tmp_path / "sheet.png").is_file()
    code, _, said = command("search", out, "   ")
    assert code == 1 and "empty" in said
    code, _, said = command("index", "build", pictures, "--model", other, "--out", out)
    assert code == 1 and model in said and other in said
