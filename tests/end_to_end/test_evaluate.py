"""From a recipe to a score: a small convolutional model learns two colours and is evaluated, seeing and blind."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

import boda
import boda.evaluate
from boda.errors import BodaError
from boda.evaluate.report import write_report

RECIPE = """
seed: 0
precision: {precision}
model:
  vision: {{model_type: convnext, patch_size: 4, num_stages: 2, hidden_sizes: [8, 16], depths: [1, 1], layer_scale_init_value: 1.0}}
  vision_layer: -1
  image_size: 16
  connector: mlp2x_gelu
  language: {{model_type: llama, hidden_size: 32, intermediate_size: 64, num_hidden_layers: 2, num_attention_heads: 2,
    max_position_embeddings: 128, tie_word_embeddings: true}}
  tokenizer: {{vocab_size: 300}}
  chat_template: question-answer
stages:
  - name: see
    train: [vision, connector, language]
    data: [{{path: train.jsonl}}]
    max_steps: {steps}
    batch_size: 16
    learning_rate: 5.0e-3
    max_length: 64
    image_fit: stretch
generation: {{max_new_tokens: 16}}
"""
COLOURS = {"빨간색": (220, 20, 20), "파란색": (20, 20, 220)}


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Plain pictures of two colours in many shades, and the question what colour they have."""
    folder = tmp_path_factory.mktemp("colours")
    for split, shades in (("train", range(0, 40, 2)), ("test", range(1, 21, 2))):
        lines = []
        for name, (red, green, blue) in COLOURS.items():
            for shade in shades:
                picture = f"{split}-{name}-{shade}.png"
                Image.new("RGB", (20, 12), (abs(red - shade), green + shade, abs(blue - shade))).save(folder / picture)
                messages = [{"role": "user", "content": "<image>무슨 색인가요?"}, {"role": "assistant", "content": name}]
                tags = {"tags": {"shade": "dark" if shade > 10 else "light"}}
                lines.append(json.dumps({"messages": messages, "images": [picture], **tags}, ensure_ascii=False))
        (folder / f"{split}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def trained(data: Path, precision: str, steps: int) -> Path:
    recipe = data / f"{precision}.yaml"
    recipe.write_text(RECIPE.format(precision=precision, steps=steps), encoding="utf-8")
    return boda.train(recipe, out=data / f"run-{precision}", data_dir=data, quiet=True)


@pytest.fixture(scope="module")
def model(data: Path) -> Path:
    return trained(data, "fp32", 60)


def test_a_trained_model_sees_and_a_blind_one_does_not(model: Path, data: Path, tmp_path: Path):
    task = "questions:test.jsonl:train=train.jsonl"
    seeing = boda.evaluate.run(str(model), [task], tmp_path / "seeing", data_dir=data, batch_size=8, quiet=True)
    blind = boda.evaluate.run(model, [task], tmp_path / "blind", data_dir=data, batch_size=8, blind=True, quiet=True)
    found = seeing["questions:test.jsonl"]
    assert found["score"] == 1.0 and found["n"] == 20 and found["majority"] == 0.5
    assert set(found["groups"]["shade"]) == {"dark", "light"}
    assert blind["questions:test.jsonl"]["score"] <= 0.5
    assert json.loads((tmp_path / "seeing/run.json").read_text(encoding="utf-8"))["settings"]["max_new_tokens"] == 16
    written = write_report([tmp_path / "seeing", tmp_path / "blind", model.parent], tmp_path / "report")
    names = ["report.html", "report.md", "report.csv", "model-card.md", "model-card.ko.md"]
    assert [path.name for path in written[:5]] == names and [path.suffix for path in written[5:]] == [".png"] * 3
    assert all(path.is_file() for path in written)
    assert "| **questions:test.jsonl** | 20 | 100.0%" in written[1].read_text(encoding="utf-8")
    with pytest.raises(BodaError, match="holds neither"):
        write_report([data])


def test_a_loaded_pair_answers_as_its_folder_does_whatever_the_batch(model: Path, data: Path, tmp_path: Path):
    boda.evaluate.run(model, ["questions:test.jsonl"], tmp_path / "folder", data_dir=data, batch_size=20, quiet=True)
    boda.evaluate.run(boda.load(model), ["questions:test.jsonl"], tmp_path / "pair", data_dir=data, batch_size=3, quiet=True)
    answers = [
        [json.loads(line)["raw"] for line in (tmp_path / name / "answers.jsonl").read_text(encoding="utf-8").splitlines()]
        for name in ("folder", "pair")
    ]
    assert answers[0] == answers[1]


def test_a_model_trained_again_into_the_same_folder_is_another_model(model: Path, data: Path, tmp_path: Path):
    boda.evaluate.run(model, ["questions:test.jsonl"], tmp_path / "out", limit=2, data_dir=data, quiet=True)
    (model / "model.safetensors").write_bytes((model / "model.safetensors").read_bytes()[:-1] + b"\1")
    with pytest.raises(BodaError, match="fingerprint"):
        boda.evaluate.run(model, ["questions:test.jsonl"], tmp_path / "out", limit=2, data_dir=data, quiet=True)


def test_a_tower_trains_in_bf16_beside_its_unused_norm(data: Path):
    """ConvNeXt's last norm does not reach the grid that is used, is never trained, and still runs."""
    folder = trained(data, "bf16", 2)
    assert (folder / "config.json").is_file()


def test_a_folder_that_is_no_model_is_named(data: Path, tmp_path: Path):
    with pytest.raises(BodaError, match="no model"):
        boda.evaluate.run(str(data), ["questions:test.jsonl"], tmp_path / "out", data_dir=data, quiet=True)
