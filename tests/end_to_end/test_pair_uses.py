"""A tiny pair model with random weights goes the whole way: commands, tasks by name, and the kinds of models told apart."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

import boda
import boda.evaluate
from boda.cli import app
from boda.data.images import ImageSpec
from boda.errors import BodaError
from boda.models.assemble import load_tokenizer
from boda.models.encoder import Encoder
from boda.models.pairing import assemble_pair, write_pair
from boda.recipe import ModelSpec
from tests import tiny


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    """The folder of a pair model of a tiny CLIP tower and a tiny RoBERTa."""
    text = str(tiny.text_folder("roberta"))
    spec = ModelSpec(kind="clip", vision=str(tiny.vision_folder("clip")), language=text, projection_dim=16)
    assembled = assemble_pair(spec, load_tokenizer(text))
    pictures = ImageSpec.from_processor(assembled.image_processor)
    return str(write_pair(assembled, pictures, tmp_path_factory.mktemp("pair") / "model", {}))


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Two pictures and queries for them."""
    found = tmp_path_factory.mktemp("pictures")
    for name, colour in (("red", (200, 30, 30)), ("blue", (30, 30, 200))):
        Image.new("RGB", (40, 30), colour).save(found / f"{name}.png")
    rows = [{"query": f"{word} 것", "relevant": [f"{name}.png"]} for word, name in (("빨간", "red"), ("파란", "blue"))]
    (found / "queries.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return found


def command(*words: str):
    return CliRunner().invoke(app, list(words))


def test_commands(model: str, folder: Path, tmp_path: Path):
    picture = str(folder / "red.png")
    told = command("classify", model, picture, "빨간색", "파란색", "--json", "--chart", str(tmp_path / "bars.png"))
    assert told.exit_code == 0, told.output
    scores = json.loads(told.stdout.splitlines()[-1])["scores"]
    assert list(scores) == ["빨간색", "파란색"] and sum(scores.values()) == pytest.approx(1, abs=1e-3)
    told = command("patches", model, picture, "빨간색", "--grid", "2x3", "--out", str(tmp_path / "heat.png"), "--json")
    assert told.exit_code == 0, told.output
    found = json.loads(told.stdout.splitlines()[-1])
    assert found["grid"] == [2, 3] and len(found["scores"]) == 6 and sum(found["scores"]) == pytest.approx(1, abs=1e-3)
    assert Image.open(tmp_path / "heat.png").size == (40, 30) and (tmp_path / "bars.png").is_file()
    refused = command("patches", model, picture, "   ")
    assert refused.exit_code == 1 and "empty" in refused.output


def test_tasks_by_name_are_the_same_for_folder_encoder_and_pair(model: str, folder: Path, tmp_path: Path):
    task = f"retrieval:{folder / 'queries.jsonl'}"
    by_name = command("eval", model, "--tasks", task, "--out", str(tmp_path / "name"), "--json")
    assert by_name.exit_code == 0, by_name.output
    found = json.loads(by_name.stdout.splitlines()[-1])["tasks"][task]
    assert found["n"] == 2 and found["failed"] == 0 and found["groups"]["text to image"]["R@5"]["score"] == 1
    for number, who in enumerate((Encoder.load(model), boda.load(model))):
        again = boda.evaluate.run(who, [task], tmp_path / str(number), quiet=True)[task]
        assert again["score"] == pytest.approx(found["score"])
    drawn = boda.evaluate.run(model, ["drawn-pairs"], tmp_path / "drawn", limit=4, quiet=True)["drawn-pairs"]
    assert drawn["n"] == 4 and drawn["failed"] == 0


def test_each_kind_of_model_is_refused_by_the_tasks_of_the_other(model: str, folder: Path, tmp_path: Path):
    with pytest.raises(BodaError, match="is a pair model: it compares pictures and texts and answers nothing"):
        boda.evaluate.run(model, ["drawn"], tmp_path / "out", limit=1, quiet=True)
    language = str(tiny.language_folder("llama"))
    with pytest.raises(BodaError, match="llama model; one that compares pictures with texts is needed"):
        boda.evaluate.run(language, [f"retrieval:{folder / 'queries.jsonl'}"], tmp_path / "other", quiet=True)
    refused = command("classify", language, str(folder / "red.png"), "빨간색", "파란색")
    assert refused.exit_code == 1 and "compares pictures with texts" in refused.output
