"""`boda demo` from its first word to its table, with its recipes made small and a tiny model in place of the shipped one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from boda.cli import app
from boda.evaluate.strip import strip
from boda.models import checkpoints, loading
from boda.recipe import load_recipe
from boda.serve import demo
from tests.small_recipes import small_recipe
from tests.support import answering, records, tiny_model

STAGES = [stage.name for stage in load_recipe("demo").stages]


def boda_demo(*words: str):
    return CliRunner().invoke(app, ["demo", *words])


def fail(*arguments, **rest):
    raise AssertionError("nothing is left to do")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """BODA_CACHE of the demonstration, on small recipes and a tiny shipped model."""
    folder = tmp_path_factory.mktemp("demo")
    model, processor = answering(tiny_model())
    model.generation_config.max_new_tokens = 8
    mini = checkpoints.save_folder(model, processor, folder / "mini", {})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BODA_CACHE", str(folder / "cache"))
        patch.setitem(loading.SHIPPED, "mini", mini)
        patch.setattr(demo, "RECIPE", small_recipe("demo", folder, steps=5))
        patch.setattr(demo, "TASK", "drawn:number=1:only=colour")
        yield folder / "cache"


@pytest.fixture(scope="module")
def first(place) -> tuple[str, Path]:
    """What the first call printed, and the folder of its run."""
    done = boda_demo("--steps", "2")
    assert done.exit_code == 0, done.output
    (run,) = (place / "demo").glob("run-*")
    return done.output, run


def test_it_trains_every_stage_and_shows_a_table(first):
    output, run = first
    assert [(record["stage"], record["step"]) for record in records(run)] == [
        (name, step) for name in STAGES for step in (1, 2)
    ]
    parts = {part.name.rpartition("-")[0]: [record["step"] for record in records(part)] for part in (run / "parts").iterdir()}
    assert parts == {"demo-clip": [1, 2, 1, 2], "demo-lm": [1, 2]}  # --steps is for the parts, too
    table = output[output.index("right answers on pictures never seen") :].splitlines()
    cells = [[cell.strip() for cell in line.strip("│┃").replace("┃", "│").split("│")] for line in table if line[:1] in "│┃"]
    assert cells[0] == ["questions", "n", "this run", "shipped mini", "always the most frequent"]
    assert [(line[0], line[1]) for line in cells[1:]] == [
        ("colour, pair never seen together", "1"),
        ("colour, pair seen", "1"),
        ("all", "2"),
    ]
    assert all(cell.endswith("%") for line in cells[1:] for cell in line[2:])
    for name in STAGES:
        assert f"  {name}, step 2   loss " in output
    assert "✗" in output or "✓" in output


def test_it_leaves_pictures(first):
    output, run = first
    names = [*(f"strip-{name}.png" for name in STAGES), "answers.png", "answers-mini.png"]
    assert sorted(path.name for path in run.glob("*.png")) == sorted(names)
    for name in names:
        with Image.open(run / name) as picture:
            assert picture.width > 200 and len(picture.convert("RGB").getcolors(1 << 20)) > 10
        assert str(run / name) in output


def test_a_second_call_trains_and_asks_nothing(first, place, monkeypatch):
    kept = [path for path in place.rglob("*") if path.name in ("log.jsonl", "tokenizer.json") or path.suffix == ".safetensors"]
    before = {path: path.stat().st_mtime_ns for path in kept}
    answers = {path: path.read_bytes() for path in place.rglob("answers.jsonl")}
    assert len(kept) > 5 and len(answers) == 2
    monkeypatch.setattr("boda.train.stages.run_stages", fail)
    monkeypatch.setattr("boda.models.checkpoints.load", fail)
    done = boda_demo("--steps", "2", "--json")
    assert done.exit_code == 0, done.output
    assert {path: path.stat().st_mtime_ns for path in kept} == before
    assert {path: path.read_bytes() for path in answers} == answers
    found = json.loads(done.stdout.splitlines()[-1])
    assert set(found) == {"model", "tasks", "shipped", "sheet"} and (Path(found["model"]) / "config.json").is_file()
    for scores in (found["tasks"], found["shipped"]):
        assert list(scores) == ["drawn:number=1:only=colour"] and scores["drawn:number=1:only=colour"]["n"] == 2


def test_another_recipe_or_other_weights_find_nothing_in_their_way(first, place, tmp_path, monkeypatch):
    """What lies in the cache from another version of Boda is no error."""
    recipe = load_recipe(demo.RECIPE)
    assert demo.key_of(recipe) == demo.key_of(load_recipe(demo.RECIPE))
    assert demo.key_of(recipe) != demo.key_of(load_recipe(demo.RECIPE, {"seed": 1}))
    _, before = demo.asked("mini", place / "demo")
    model, processor = answering(tiny_model("exaone4"))
    monkeypatch.setitem(loading.SHIPPED, "mini", checkpoints.save_folder(model, processor, tmp_path / "mini", {}))
    _, after = demo.asked("mini", place / "demo")
    assert before != after and (before / "answers.jsonl").is_file() and (after / "answers.jsonl").is_file()


def test_missing_weights_are_said_before_anything_is_trained(place, tmp_path, monkeypatch):
    monkeypatch.setitem(loading.SHIPPED, "mini", tmp_path / "nowhere")
    monkeypatch.setattr(demo, "train", fail)
    done = boda_demo("--steps", "2")
    assert done.exit_code == 1 and "the model 'mini' that comes with Boda is not at" in done.output


def test_a_cache_that_cannot_be_written_and_steps_that_are_none(place, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("BODA_CACHE", str(tmp_path / "file"))
    done = boda_demo("--steps", "2")
    assert done.exit_code == 1 and "cannot write to" in done.output and "BODA_CACHE" in done.output
    assert boda_demo("--steps", "0").exit_code == 2


def test_the_strip_of_a_run_that_goes_on_keeps_its_rows(tmp_path):
    def record(step: int, stage: str = "single") -> dict:
        answer = {"images": [{"drawn": "scene/one/seen/0/1"}], "answer": "별입니다.", "expected": "별입니다."}
        return {"stage": stage, "step": step, "validation_loss": 1.0, "answers": [answer]}

    written = [
        record(9, "earlier"),
        {"stage": "single", "step": 1, "loss": 2.0},
        record(5),
        {"stage": "single", "step": 6, "loss": 1.0},
    ]
    written.append(record(10))
    written[-1]["answers"][0]["answer"] = "\x1b[2J별\n입니다."  # a model's words do not steer the terminal
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(each) + "\n" for each in written), encoding="utf-8")
    said: list[str] = []
    demo.Show(tmp_path, said.append).log(written[-1])  # it heard nothing of step 5
    expected = strip([record(5), written[-1]], tmp_path / "expected.png")
    assert (tmp_path / "strip-single.png").read_bytes() == expected.read_bytes()
    assert said == ["  single, step 10   loss █▁ 1.000\n    ✗ ␛[2J별 입니다.   (별입니다.)"]
