"""Models, recipes and data that cannot be used: each one clear message, exit code 1, no traceback, nothing finished lost."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from transformers.utils import requires_backends
from typer.testing import CliRunner

from boda.cli import app
from boda.errors import BodaError
from boda.models.loading import loading
from tests import tiny
from tests.faults.runs import write_recipe


def refused(arguments: list[str]) -> str:
    """What a command says that fails for a reason the user can mend."""
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 1, (result.stderr, result.exception)
    assert isinstance(result.exception, SystemExit), result.exception
    assert result.stdout == "" and result.stderr.count("boda: ") == 1 and "Traceback" not in result.stderr
    return result.stderr.removeprefix("boda: ").strip()


def copied(source: Path, folder: Path) -> Path:
    shutil.copytree(source, folder)
    return folder


def cut_weights(folder: Path) -> Path:
    path = copied(tiny.language_folder("llama"), folder) / "model.safetensors"
    path.write_bytes(path.read_bytes()[:2000])
    return folder


def lacks_weights(folder: Path) -> Path:
    from safetensors.torch import load_file, save_file

    path = copied(tiny.language_folder("llama"), folder) / "model.safetensors"
    tensors = load_file(path)
    del tensors["model.layers.1.mlp.down_proj.weight"]
    save_file(tensors, path, metadata={"format": "pt"})
    return folder


def broken_config(folder: Path) -> Path:
    (copied(tiny.language_folder("llama"), folder) / "config.json").write_text("{broken")
    return folder


def empty(folder: Path) -> Path:
    folder.mkdir()
    return folder


def run_folder(folder: Path) -> Path:
    copied(tiny.language_folder("llama"), folder / "model")
    return folder


NO_MODELS = {
    "missing": (lambda folder: folder, "no model at '{path}': there is no such folder"),
    "empty": (empty, "no model at '{path}': it has no config.json (it is empty)"),
    "run": (run_folder, "it has no config.json (model); {path}/model is one"),
    "broken config": (broken_config, "is not a valid JSON file"),
    "cut weights": (cut_weights, "its weights are damaged or cut short"),
    "lacking weights": (lacks_weights, "lacks 1 of the weights that a llama model has, such as model.layers.1.mlp.down_proj.weight"),
    "vit": (lambda folder: tiny.vision_folder("vit"), "is a vit model; Boda answers with vision-language models"),
    "roberta": (lambda folder: tiny.text_folder("roberta"), "has no chat template, so it continues texts and answers no questions"),
    "hub id": (lambda folder: "nobody/nothing", "no model at 'nobody/nothing': it is no folder here, and the hub cannot be reached"),
    "file": (lambda folder: Path(__file__), "is a file; a model is a folder, a hub id or a .gguf file"),
}  # fmt: skip


@pytest.mark.parametrize("name", NO_MODELS)
def test_chat_with_what_is_no_model(name: str, tmp_path: Path):
    make, words = NO_MODELS[name]
    path = make(tmp_path / "here")
    assert words.format(path=path) in refused(["chat", str(path), "안녕"])


def test_a_package_that_transformers_lacks_is_named():
    with pytest.raises(BodaError, match="no model: it needs the package essentia, which is not installed"):
        with loading("name", "no model"):
            requires_backends("X", ["essentia"])


PARTS = [
    ("vision", "missing", "model.vision: '{path}' cannot be loaded: there is no such folder"),
    ("vision", "empty", "model.vision: '{path}' cannot be loaded: it has no config.json (it is empty)"),
    ("vision", "roberta", "model.vision: {path} is a roberta model, which gives no grid of image features"),
    (
        "vision",
        "hub id",
        "model.vision: 'nobody/nothing' cannot be loaded: it is no folder here, and the hub cannot be reached",
    ),
    ("language", "vit", "model.language: '{path}' cannot be loaded: it has no tokenizer"),
    (
        "language",
        "roberta",
        "model.language: a roberta model that reads ahead cannot answer; a causal language model is needed",
    ),
    ("language", "cut weights", "model.language: '{path}' cannot be loaded: its weights are damaged or cut short"),
    ("language", "lacking weights", "lacks 1 of the weights that a llama model has"),
    ("tokenizer", "missing", "model.tokenizer: '{path}' cannot be loaded: there is no such folder"),
]


@pytest.mark.parametrize(("part", "name", "words"), PARTS, ids=[f"{part} {name}" for part, name, _ in PARTS])
def test_train_with_a_part_that_is_none(part: str, name: str, words: str, tmp_path: Path):
    path = NO_MODELS[name][0](tmp_path / "here")
    recipe = write_recipe(tmp_path)
    said = refused(["train", str(recipe), "--quiet", "--out", str(tmp_path / "run"), f"model.{part}={path}"])
    assert words.format(path=path) in said
    assert not (tmp_path / "run" / "model").exists()


def test_another_recipe_in_the_same_folder(baseline):
    recipe, whole = baseline
    before = sorted(path for path in whole.rglob("*"))
    said = refused(["train", str(recipe), "--out", str(whole), "stages.align.learning_rate=2e-3", "model.connector=linear"])
    assert f"{whole} holds a run of another recipe; choose another --out" in said
    assert "model.connector" in said and "ldpv2" in said and "linear" in said
    assert "stages.align.learning_rate" in said and "0.001" in said and "0.002" in said
    assert sorted(path for path in whole.rglob("*")) == before


def test_a_recipe_may_be_mended_before_anything_is_trained(tmp_path: Path):
    recipe = write_recipe(tmp_path)
    arguments = ["train", str(recipe), "--quiet", "--out", str(tmp_path / "run"), "--stage", "align"]
    refused([*arguments, f"model.language={tmp_path}"])
    short = ["stages.align.max_steps=2", "stages.align.eval_steps=2"]
    result = CliRunner().invoke(app, [*arguments, *short])
    assert result.exit_code == 0, result.stderr
    # From now on only what leaves the weights alone may change.
    result = CliRunner().invoke(app, [*arguments, *short, "max_bad_rows=0.5", "stages.*.save_steps=7"])
    assert result.exit_code == 0, result.stderr
    assert "max_bad_rows: 0.5" in (tmp_path / "run" / "recipe.yaml").read_text(encoding="utf-8")
    assert "holds a run of another recipe" in refused([*arguments, "stages.align.max_steps=3", "stages.align.eval_steps=2"])


def test_missing_data_lists_the_places(tmp_path: Path, monkeypatch):
    recipe = write_recipe(tmp_path)
    monkeypatch.setenv("BODA_DATA", str(tmp_path / "elsewhere"))
    said = refused(
        [
            "train",
            str(recipe),
            "--quiet",
            "--out",
            str(tmp_path / "run"),
            "--data",
            "given",
            "stages.align.data.0.path=none.json",
        ]
    )
    assert "no data at 'none.json'" in said
    for place in ("given/none.json", tmp_path / "elsewhere" / "none.json", tmp_path / "none.json"):
        assert str(place) in said


@pytest.mark.parametrize("bad", [2, 24])
def test_too_many_bad_rows_are_named_and_refused_again(bad: int, tmp_path: Path):
    recipe = write_recipe(tmp_path, max_bad_rows=0.05)
    chat = tmp_path / "data" / "chat.json"
    rows = json.loads(chat.read_text(encoding="utf-8"))
    for row in rows[:bad]:
        row["conversations"].pop()
    chat.write_text(json.dumps(rows), encoding="utf-8")
    arguments = ["train", str(recipe), "--quiet", "--out", str(tmp_path / "run")]
    for _ in range(2):  # what was refused once is not taken as good the second time
        said = refused(arguments)
        assert f"{bad} of 24 rows cannot be used" in said and "max_bad_rows allows 5.0%" in said
        assert f"{chat}, row 0, field 'messages'" in said
        listed = tmp_path / "run" / "stages" / "align" / "bad_rows.jsonl"
        assert str(listed) in said and len(listed.read_text(encoding="utf-8").splitlines()) == bad
    rows = [row for row in rows if len(row["conversations"]) % 2 == 0]
    if rows:
        chat.write_text(json.dumps(rows), encoding="utf-8")
        result = CliRunner().invoke(app, [*arguments, "--stage", "align"])
        assert result.exit_code == 0, result.stderr


def test_a_picture_that_turns_out_bad_while_training_is_left_out(tmp_path: Path):
    from boda.errors import BodaError
    from boda.train.stages import train
    from tests.faults.runs import records

    # One step over all rows, on which no other row may depend.
    stage = {
        "stages.align.batch_size": 24,
        "stages.align.max_steps": 1,
        "stages.align.validation": None,
        "stages.align.save_steps": 1,
    }
    recipe = write_recipe(tmp_path, max_bad_rows=0.2)
    chat = tmp_path / "data" / "chat.json"
    rows = json.loads(chat.read_text(encoding="utf-8"))
    picture = tmp_path / "data" / "images" / "picture_00002.png"
    using = [row["id"] for row in rows if row.get("image") == picture.name]
    assert using
    picture.write_bytes(picture.read_bytes()[:-200])  # its header is good, so nobody minds before the step
    with pytest.warns(UserWarning, match=f"{picture}.*listed in .*bad_images"):
        train(recipe, tmp_path / "left_out", stage="align", overrides=stage, quiet=True)
    listed = (tmp_path / "left_out" / "stages" / "align" / "bad_images.0.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(listed) == len(using) and all(str(picture) in json.loads(line)["why"] for line in listed)
    chat.write_text(json.dumps([row for row in rows if row["id"] not in using]), encoding="utf-8")
    train(recipe, tmp_path / "never_there", stage="align", overrides=stage, quiet=True)
    first, second = (records(tmp_path / name)[0] for name in ("left_out", "never_there"))
    assert first["trained_tokens"] == second["trained_tokens"]
    assert first["loss"] == pytest.approx(second["loss"], rel=1e-5)
    assert first["grad_norm"] == pytest.approx(second["grad_norm"], rel=1e-4)
    chat.write_text(json.dumps(rows), encoding="utf-8")
    with pytest.raises(BodaError, match=r"1 of 24 samples have a picture that cannot be read.*raise max_bad_rows"):
        with pytest.warns(UserWarning):
            train(recipe, tmp_path / "strict", stage="align", overrides={**stage, "max_bad_rows": 0.0}, quiet=True)
