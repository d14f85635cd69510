"""`boda.train` from Python: what it takes, what it leaves behind, and what a second call does."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import boda
from boda.errors import BodaError
from boda.train.finished import summary
from tests import tiny
from tests.support import tiny_recipe

STAGES = [
    {"name": "align", "train": ["connector"], "validation": 0.25, "eval_steps": 2, "save_steps": 2, "batch_size": 3},
    {"name": "instruct", "train": ["connector", "language.lora"], "lora": {"rank": 2, "alpha": 4}, "eval_steps": 3},
]


class Kept:
    """A logger: one method."""

    def __init__(self):
        self.records: list[dict] = []

    def log(self, record: dict) -> None:
        self.records.append(record)


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> dict:
    """A finished run of two stages: {recipe, overrides, out, model, logger}."""
    folder = tmp_path_factory.mktemp("train")
    recipe = tiny_recipe(folder / "data", STAGES)
    overrides = {"stages.instruct.max_steps": 3, "seed": 5, "stages.align.data.0.licence": "CC0-1.0"}
    logger = Kept()
    model = boda.train(recipe, out=folder / "run", overrides=overrides, loggers=[logger], quiet=True)
    return {"recipe": recipe, "overrides": overrides, "out": folder / "run", "model": model, "logger": logger}


def lines(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "log.jsonl").read_text(encoding="utf-8").splitlines()]


def test_what_a_run_leaves(run):
    out = run["out"]
    assert run["model"] == out / "model"
    for name in ("align", "instruct"):
        assert (out / "stages" / name / "model" / "stage.json").is_file()
    assert (out / "stages" / "instruct" / "model" / "adapter" / "adapter_config.json").is_file()
    assert not (out / "stages" / "align" / "model" / "adapter").exists()
    assert [path.name for path in (out / "stages" / "align" / "checkpoints").iterdir()].count("step-4") == 1
    from boda.recipe import load_recipe

    kept = load_recipe(out / "recipe.yaml")
    assert kept.seed == 5 and kept.stage("instruct").max_steps == 3 and kept.stage("align").max_steps == 4


def test_the_log_has_every_step_once_with_its_numbers(run):
    steps = [(record["stage"], record["step"]) for record in lines(run["out"]) if "loss" in record]
    assert steps == [*(("align", step) for step in range(1, 5)), *(("instruct", step) for step in range(1, 4))]
    record = next(record for record in lines(run["out"]) if "loss" in record)
    names = "stage step epoch loss learning_rate grad_norm tokens trained_tokens tokens_per_second memory"
    assert set(record) == set(names.split())
    assert 0 < record["trained_tokens"] < record["tokens"] and record["loss"] > 0 and record["grad_norm"] > 0


def test_validation_has_a_loss_and_answers(run):
    checks = [record for record in lines(run["out"]) if "validation_loss" in record]
    assert [(record["stage"], record["step"]) for record in checks] == [("align", 2), ("align", 4), ("instruct", 3)]
    for record in checks:
        assert 0 < record["validation_loss"] < 20
        assert 1 <= len(record["answers"]) <= 8
        for answer in record["answers"]:
            assert set(answer) == {"sample", "images", "question", "answer", "expected"}
            assert answer["expected"].strip() and "chat.json, row" in answer["sample"]
    asked = {tuple(answer["sample"] for answer in record["answers"]) for record in checks}
    assert len(asked) == 1  # the same samples every time
    assert lines(run["out"])[0]["epoch"] > 1 / 7.5  # all 24 rows would be 8 steps of 3


def test_loggers_get_what_the_log_gets(run):
    assert run["logger"].records == lines(run["out"])


def test_tensorboard_reads_the_events(run):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found: dict[int, float] = {}
    for path in sorted((run["out"] / "tensorboard").iterdir()):
        events = EventAccumulator(str(path))
        events.Reload()
        if "align/loss" in events.Tags()["scalars"]:
            found |= {event.step: event.value for event in events.Scalars("align/loss")}
            assert "align/validation_loss" in events.Tags()["scalars"]
    logged = {record["step"]: record["loss"] for record in lines(run["out"]) if record["stage"] == "align" and "loss" in record}
    assert found == pytest.approx(logged)


def test_the_folder_says_where_it_comes_from(run):
    info = json.loads((run["model"] / "boda.json").read_text(encoding="utf-8"))
    assert info["kind"] == "vlm" and info["recipe"]["seed"] == 5
    assert info["recipe"]["stages"][1]["lora"]["rank"] == 2
    assert set(info["versions"]) >= {"boda", "torch", "transformers", "python"} and info["versions"]["boda"] == boda.__version__
    assert info["data"][0]["stage"] == "align" and info["data"][0]["rows"] == 24 and info["data"][0]["licence"] == "CC0-1.0"
    assert info["data"][1]["licence"] == "not stated"
    last = [record for record in lines(run["out"]) if "loss" in record][-1]
    assert info["stages"]["instruct"] == {"steps": 3, "loss": last["loss"]}
    assert info["generation"]["max_new_tokens"] == 12
    assert info["merge"]["largest_relative_difference"] < 1e-3


def test_the_summary(run):
    last = [record for record in lines(run["out"]) if "loss" in record][-1]
    expected = {"model": str(run["model"]), "stages": ["align", "instruct"], "steps": 7, "loss": last["loss"]}
    assert summary(run["model"]) == expected


def test_a_second_call_changes_nothing(run):
    before = {path: path.stat().st_mtime_ns for path in run["out"].rglob("*") if path.is_file()}
    again = boda.train(run["recipe"], out=run["out"], overrides=run["overrides"], quiet=True)
    assert again == run["model"]
    assert {path: path.stat().st_mtime_ns for path in run["out"].rglob("*") if path.is_file()} == before


def test_one_stage_then_the_rest(run, tmp_path: Path):
    folder = boda.train(run["recipe"], out=tmp_path / "run", stage="align", overrides=run["overrides"], quiet=True)
    assert folder == tmp_path / "run" / "stages" / "align" / "model"
    assert not (tmp_path / "run" / "model").exists() and not (tmp_path / "run" / "stages" / "instruct").exists()
    assert summary(folder)["stages"] == ["align"]
    whole = boda.train(run["recipe"], out=tmp_path / "run", overrides=run["overrides"], quiet=True)
    assert (whole / "model.safetensors").read_bytes() == (run["model"] / "model.safetensors").read_bytes()
    with pytest.raises(BodaError, match="no stage is called 'aling'"):
        boda.train(run["recipe"], out=tmp_path / "other", stage="aling")
    assert not (tmp_path / "other").exists()


def test_the_seed_decides(run, tmp_path: Path):
    other = boda.train(run["recipe"], out=tmp_path / "run", overrides={**run["overrides"], "seed": 6}, quiet=True)
    assert (other / "model.safetensors").read_bytes() != (run["model"] / "model.safetensors").read_bytes()


def test_validation_on_data_of_its_own_and_the_default_folder(tmp_path: Path, monkeypatch):
    import yaml

    asked = tiny.llava_file(tmp_path / "asked", 3, text_only=0.0, seed=9)
    block = {"source": "llava", "path": str(asked), "images": str(asked.parent / "images")}
    recipe = tiny_recipe(tmp_path / "data", [{**STAGES[0], "validation": [block], "max_steps": 2}])
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(recipe, allow_unicode=True), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    model = boda.train("small.yaml", quiet=True)
    assert model == Path("runs/small/model") and (tmp_path / model / "config.json").is_file()
    records = lines(tmp_path / "runs" / "small")
    assert records[0]["epoch"] == 1 / 8  # nothing is held out of the 24 rows
    answers = next(record for record in records if "answers" in record)["answers"]
    assert len(answers) == 3 and all("asked/chat.json" in answer["sample"] for answer in answers)


@pytest.mark.parametrize("form", ["pattern", "member"])
def test_data_named_by_a_pattern_or_inside_an_archive(form: str, tmp_path: Path):
    import shutil

    recipe = tiny_recipe(tmp_path / "data", [{**STAGES[0], "validation": None, "max_steps": 1}])
    block = recipe["stages"][0]["data"][0]
    if form == "pattern":
        block["path"] = str(Path(block["path"]).with_name("ch*.json"))
    else:
        shutil.make_archive(str(tmp_path / "set"), "zip", tmp_path, "data")
        block.update(
            path=str(tmp_path / "set.zip" / "data" / "chat.json"), images=str(tmp_path / "set.zip" / "data" / "images")
        )
    assert (boda.train(recipe, out=tmp_path / "run", quiet=True) / "config.json").is_file()
