"""`boda data draw` and `boda eval --tasks drawn` as a user meets them."""

from __future__ import annotations

import errno
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from typer.testing import CliRunner

from boda.cli import app
from boda.data.drawn.samples import facts
from boda.data.drawn.samples import read as drawn
from boda.data.images import load_image
from boda.data.sources import read
from boda.errors import BodaError
from boda.evaluate.answers import read_answers
from boda.evaluate.report import write_report
from tests.support import tiny_recipe


def boda(*words: object):
    return CliRunner().invoke(app, [str(word) for word in words])


@pytest.mark.parametrize("what", ["questions", "descriptions", "conversations", "words", "preferences"])
def test_what_is_written_reads_back_as_what_was_drawn(what: str, tmp_path: Path):
    result = boda("--json", "data", "draw", tmp_path / "d", "--what", what, "--count", 12, "--seed", 3)
    assert result.exit_code == 0, (result.stderr, result.exception)
    shown = json.loads(result.stdout.splitlines()[-1])
    made = list(drawn(what, 12, 3))
    assert shown["rows"] == len(made) and shown["pictures"] == 12 and shown["per_second"] > 0
    again = list(read(tmp_path / "d"))
    kept = made if what == "preferences" else [replace(sample, rejected=None) for sample in made]
    assert [(s.messages, s.tags, s.rejected) for s in again] == [(s.messages, s.tags, s.rejected) for s in kept]
    for sample, original in zip(again[::5], made[::5]):
        assert np.array_equal(np.asarray(load_image(sample.images[0])), np.asarray(original.images[0].picture()))
    assert len(list((tmp_path / "d" / "images").iterdir())) == 12
    with Image.open(tmp_path / "d" / "sheet.png") as sheet:
        assert sheet.width > 8 * 96 and sheet.height > 2 * 96


def test_texts_are_written_as_documents_and_conversations(tmp_path: Path):
    assert boda("data", "draw", tmp_path / "d", "--what", "text", "--count", 10).exit_code == 0
    made = list(drawn("text", 10))
    documents, talks = (list(read(tmp_path / "d" / name)) for name in ("text.jsonl", "data.jsonl"))
    assert [s.messages for s in documents] == [s.messages for s in made if s.is_document] != []
    assert [s.messages for s in talks] == [s.messages for s in made if not s.is_document] != []
    assert sorted(path.name for path in (tmp_path / "d").iterdir()) == ["data.jsonl", "text.jsonl"]


def test_words_objects_and_kinds_of_ones_own(tmp_path: Path):
    (tmp_path / "words.txt").write_text("\ufeff달걀\n 나비 \n", encoding="utf-8")
    options = (
        "--what",
        "words",
        "--words",
        tmp_path / "words.txt",
        "--font",
        "round,serif",
        "--kind",
        "word",
        "--style",
        "short",
    )
    assert boda("data", "draw", tmp_path / "w", *options, "--count", 15).exit_code == 0
    assert {sample.messages[1].text for sample in read(tmp_path / "w")} == {"달걀", "나비"}
    numbers = ("--objects", 9, "--pair", "unseen", "--kind", "count,shape", "--count", 15)
    result = boda("data", "draw", tmp_path / "o", *numbers)
    assert "15 pictures" in result.stdout and "a second" in result.stdout
    tags = [dict(sample.tags) for sample in read(tmp_path / "o")]
    assert {each["type"] for each in tags} == {"count", "shape"} and {each["pair"] for each in tags} == {"unseen"}
    assert "아홉 개" in (tmp_path / "o" / "data.jsonl").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--what", "scenery"], "nothing drawn is called 'scenery'"),
        (["--layout", "huge"], "layout 'huge' is not drawn; there are one, few, many"),
        (["--objects", "12"], "a scene cannot hold 12 objects: it has 9 places"),
        (["--objects", "0"], "a scene cannot hold 0 objects"),
        (["--kind", "colour,smell"], "kind 'smell' is not drawn"),
        (["--kind", "word"], "nothing of questions is left"),
        (["--pair", "some"], "pair 'some' is not drawn"),
        (["--what", "words", "--font", "comic"], "font 'comic' is not drawn; there are gothic, serif"),
        (["--font", "gothic"], "questions are not narrowed by font"),
        (["--seed", "-1"], "seed -1 is out of range: 0 to 4294967295"),
        (["--count", "0"], "at least one picture"),
        (["--what", "words", "--words", "empty.txt"], "the words to draw are an empty list"),
        (["--what", "words", "--words", "rare.txt"], "the fonts have no '뷁'"),
        (["--what", "words", "--words", "slash.txt"], "a word has no '/'"),
        (["--what", "words", "--words", "none.txt"], "no words in none.txt"),
        (["--what", "words", "--words", "latin.txt"], "it is not UTF-8"),
    ],
)
def test_what_cannot_be_drawn_is_one_message_and_leaves_nothing(options, message, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, content in {"empty": b" \n", "rare": "뷁".encode(), "slash": "나/무".encode(), "latin": b"\xb3\xaa"}.items():
        Path(f"{name}.txt").write_bytes(content)
    before = sorted(tmp_path.iterdir())
    result = boda("data", "draw", "out", *options)
    assert result.exit_code == 1 and result.stderr.startswith("boda: ") and result.stderr.count("\n") == 1
    assert message in result.stderr and sorted(tmp_path.iterdir()) == before


def test_a_folder_of_other_things_is_left_alone_and_one_of_drawn_data_is_replaced(tmp_path: Path, monkeypatch):
    out = tmp_path / "d"
    out.mkdir()
    assert boda("data", "draw", out, "--count", 3).exit_code == 0
    (out / "mine.txt").write_text("x")
    result = boda("data", "draw", out, "--count", 3)
    assert result.exit_code == 1 and "holds other things than drawn data" in result.stderr
    (out / "mine.txt").unlink()
    before = (out / "data.jsonl").read_bytes()
    save = Image.Image.save

    def full(image, path, **rest):
        if "000002" in str(path):
            raise OSError(errno.ENOSPC, "No space left on device")
        return save(image, path, **rest)

    with monkeypatch.context() as patch:
        patch.setattr(Image.Image, "save", full)
        result = boda("data", "draw", out, "--count", 4, "--seed", 1)
    assert result.exit_code == 1 and "No space left" in result.stderr
    assert (out / "data.jsonl").read_bytes() == before and [path.name for path in tmp_path.iterdir()] == ["d"]
    assert boda("data", "draw", out, "--count", 4, "--seed", 1).exit_code == 0
    assert (out / "data.jsonl").read_bytes() != before


def test_a_model_trained_on_drawn_data_is_scored_by_set_seeing_and_blind(tmp_path: Path):
    stage = {
        "name": "see",
        "train": ["connector"],
        "max_steps": 1,
        "data": [{"source": "drawn", "path": "questions", "limit": 6}],
    }
    recipe = tmp_path / "see.yaml"
    recipe.write_text(yaml.safe_dump(tiny_recipe(tmp_path / "data", [stage]), allow_unicode=True), encoding="utf-8")
    trained = boda("train", recipe, "--out", tmp_path / "run", "--quiet")
    assert trained.exit_code == 0, (trained.stderr, trained.exception)
    model = tmp_path / "run" / "model"
    for flags in ([], ["--blind"]):
        out = tmp_path / f"eval{len(flags)}"
        result = boda("--json", "eval", model, "--tasks", "drawn:number=2:only=colour,word", "--out", out, *flags)
        assert result.exit_code == 0, (result.stderr, result.exception)
        scored = json.loads(result.stdout.splitlines()[-1])["tasks"]["drawn:number=2:only=colour,word"]
        assert scored["n"] == 9 and scored["failed"] == 0
        assert list(scored["groups"]["set"]) == [
            "colour, pair never seen together", "colour, pair seen", "word, font held out", "word, font seen",
        ]  # fmt: skip
        assert {"majority", "train_majority_by_question"} <= set(scored) and scored["particle_errors"]["count"] >= 0
        names = [record["images"][0]["drawn"] for record in read_answers(out)]
        assert len(set(names)) == 9 and all(facts(name) for name in names)  # a sheet needs no files
    written = write_report([tmp_path / "eval0", tmp_path / "eval1"], tmp_path / "report")
    table, sheets = written[1], [path for path in written if path.suffix == ".png"]
    assert "set: colour, pair never seen together" in table.read_text(encoding="utf-8")
    with Image.open(sheets[0]) as sheet:
        assert sheet.width > 800
    with pytest.raises(BodaError, match="no drawn picture"):
        load_image(replace(next(iter(drawn("words", 1))).images[0], drawn="word/gothic/0"))


def test_a_list_shows_the_task():
    assert "drawn[:seed=N]" in boda("eval", "--list").stdout


def test_preferences_in_words_alone(tmp_path: Path):
    """A scene told, a question on it, two answers; the right one can be told from what was said of the scene."""
    assert boda("data", "draw", tmp_path / "d", "--what", "text-preferences", "--count", 60).exit_code == 0
    made = list(drawn("text-preferences", 60))
    assert len(made) > 50 and made[:9] == list(drawn("text-preferences", 9))
    again = list(read(tmp_path / "d"))
    assert [(s.messages, s.rejected, s.tags) for s in again] == [(s.messages, s.rejected, s.tags) for s in made]
    for sample in made:
        told, _, question = sample.messages[0].text.partition("\n")
        assert told.endswith(".") and question and sample.rejected != sample.messages[1].text and not sample.images
        if dict(sample.tags)["type"] == "object":
            colour = sample.messages[1].text.split()[0]
            assert colour in told
