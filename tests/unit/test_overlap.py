"""Overlap with training data: copies, copies saved again, near misses, questions, drawn pictures, and what cannot be known."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import boda.evaluate.overlap as module
from boda.data.drawn import samples as drawn_samples
from boda.evaluate.overlap import overlap


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch) -> Path:
    monkeypatch.setenv("BODA_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def photo(seed: int, size=(640, 480)) -> Image.Image:
    """Something smooth with detail on it, as photos are."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (12, 16, 3), np.uint8)).resize(size, Image.Resampling.BICUBIC)
    return Image.fromarray((np.asarray(coarse) * 0.9 + rng.integers(0, 26, (*size[::-1], 3))).astype(np.uint8))


def block(path: str, source: str | None = None, **rest) -> dict:
    told = {"source": source, "path": path, "images": None, "weight": 1.0, "columns": {}, "where": {}, "question": None}
    return told | {"answer": None, "limit": None, "seed": 0, "licence": ""} | rest


def trained(folder: Path, *blocks: dict, vision=None, **more) -> Path:
    """A model folder that says it was trained on these blocks."""
    recipe = {
        "model": {"vision": vision, "language": {"model_type": "llama"}},
        "stages": [{"name": "one", "data": list(blocks)}],
    }
    info = {"kind": "vlm", "parts": {}, "recipe": recipe, "data": [{"stage": "one", "path": each["path"]} for each in blocks]}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "boda.json").write_text(json.dumps(info | more), encoding="utf-8")
    return folder


def lines(path: Path, *rows: tuple[str, str, str]) -> Path:
    """A file of (picture, question, answer)."""
    told = [
        {
            "messages": [{"role": "user", "content": f"<image>\n{asked}"}, {"role": "assistant", "content": answer}],
            "images": [name],
        }
        for name, asked, answer in rows
    ]
    path.write_text("".join(json.dumps(each, ensure_ascii=False) + "\n" for each in told), encoding="utf-8")
    return path


def record(picture: Path | str | None, asked: str) -> dict:
    images = [] if picture is None else [{"path": str(picture)} if isinstance(picture, Path) else {"drawn": picture}]
    return {"row": asked, "images": images, "prompt": [{"role": "user", "content": f"<image>{asked}"}], "failed": False}


@pytest.fixture
def seen(tmp_path: Path) -> Path:
    """A model trained on three pictures in `train`, a question on each."""
    (tmp_path / "train").mkdir()
    for number in range(3):
        photo(number).save(tmp_path / f"train/{number}.png")
    rows = [(f"{number}.png", f"{number}번 사진은 무엇인가요?", "산이에요.") for number in range(3)]
    return trained(tmp_path / "model", block(str(lines(tmp_path / "train/rows.jsonl", *rows))))


def images(model: Path, *pictures: Path) -> float:
    return overlap(model, {"t": [record(picture, f"물음 {place}") for place, picture in enumerate(pictures)]}, quiet=True)["t"][
        "images"
    ]


def test_copies_are_found_and_others_are_not(seen: Path, tmp_path: Path):
    test = tmp_path / "test"
    test.mkdir()
    (test / "copy.png").write_bytes((tmp_path / "train/0.png").read_bytes())
    photo(1).save(test / "again.jpg", quality=60)
    photo(1).save(test / "smaller.webp", quality=80)
    photo(2).resize((320, 240), Image.Resampling.BICUBIC).save(test / "half.png")
    for name in ("copy.png", "again.jpg", "smaller.webp", "half.png"):
        assert images(seen, test / name) == 1.0, name
    near = photo(0)
    near.paste((255, 255, 255), (300, 200, 360, 260))  # the same scene with something on it
    near.save(test / "near.png")
    photo(9).save(test / "other.png")
    photo(0).transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(test / "mirrored.png")
    for name in ("near.png", "other.png", "mirrored.png"):
        assert images(seen, test / name) == 0.0, name
    assert images(seen, test / "copy.png", test / "other.png", test / "half.png", test / "near.png") == 0.5
    (test / "broken.png").write_bytes(b"no picture")
    assert images(seen, test / "broken.png") is None and images(seen, test / "broken.png", test / "copy.png") == 1.0


def test_questions_are_compared_by_their_letters(seen: Path, tmp_path: Path):
    asked = {
        "0번 사진은 무엇인가요?": True,
        " 1번  사진은 무엇인가요": True,  # spaces and punctuation
        "2번 사진은 무엇인가요?\nA. 산\nB. 강": True,  # the first line, with options below
        "3번 사진은 무엇인가요?": False,
        "사진은 무엇인가요?": False,  # a part of a question is another question
        "산이에요.": True,  # what was answered was seen, too
        "?!": False,
    }
    photo(50).save(tmp_path / "other.png")  # the same question on another picture counts as a question, not as a picture
    for text, is_known in asked.items():
        found = overlap(seen, {"t": [record(tmp_path / "other.png", text)]}, quiet=True)["t"]
        assert found == {"images": 0.0, "questions": float(is_known), "n": 1, "checked": 3}, text
    assert overlap(seen, {"t": [record(None, "0번 사진은 무엇인가요?")]}, quiet=True)["t"]["images"] is None


def test_drawn_pictures_go_by_their_names(tmp_path: Path):
    drawn = block("questions", "drawn", limit=20, seed=3, where={"layout": "few"})
    model = trained(tmp_path / "model", drawn)
    found = overlap(model, {"t": [record(f"scene/few/seen/3/{n}", f"? {n} 물음") for n in (0, 19, 20)]}, quiet=True)["t"]
    assert found["images"] == pytest.approx(2 / 3) and found["questions"] == 0.0 and found["checked"] > 20
    for name in ("scene/few/seen/4/0", "scene/one/seen/3/0", "scene/few/unseen/3/0", "word/gothic/나무/3/0"):
        assert overlap(model, {"t": [record(name, "물음")]}, quiet=True)["t"]["images"] == 0.0, name
    asked = next(drawn_samples.read("questions", 1, 3, {"layout": "few"}, 7)).messages[0].text
    assert overlap(model, {"t": [record("scene/few/seen/9/0", asked)]}, quiet=True)["t"]["questions"] == 1.0


def test_pictures_of_drawn_documents_are_found_too(tmp_path: Path):
    model = trained(tmp_path / "model", block("interleaved", "drawn", limit=3, seed=3))
    inside, outside = (next(drawn_samples.read("interleaved", 1, 3, None, n)).images[0].drawn for n in (2, 3))
    found = overlap(model, {"t": [record(inside, "가"), record(outside, "나")]}, quiet=True)["t"]
    assert found["images"] == 0.5


def test_of_large_drawn_sets_pictures_are_told_and_the_first_texts_read(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(module, "MOST_DRAWN", 5)
    model = trained(tmp_path / "model", block("descriptions", "drawn", limit=10_000_000, seed=3))
    name = next(drawn_samples.read("descriptions", 1, 3, None, 9_999_999)).images[0].drawn
    found = overlap(model, {"t": [record(name, "물음")]}, quiet=True)["t"]
    assert found == {"images": 1.0, "questions": 0.0, "n": 1, "checked": 5, "at_least": True}


def test_a_drawn_picture_that_training_had_as_a_file_is_found(tmp_path: Path):
    from boda.data.sample import ImageRef

    (tmp_path / "train").mkdir()
    ImageRef(drawn="scene/few/seen/3/0").picture().save(tmp_path / "train/a.png")
    model = trained(tmp_path / "model", block(str(lines(tmp_path / "train/rows.jsonl", ("a.png", "무엇?", "원")))))
    found = overlap(model, {"t": [record(f"scene/few/seen/3/{n}", "물음") for n in range(2)]}, quiet=True)
    assert found["t"]["images"] == 0.5


def test_the_parts_of_a_model_have_seen_what_it_has(tmp_path: Path):
    part = json.loads((trained(tmp_path / "part", block("words", "drawn", limit=5, seed=1)) / "boda.json").read_text())
    model = trained(
        tmp_path / "model", block("questions", "drawn", limit=5), vision={"recipe": "part"}, parts={"vision": part}
    )  # fmt: skip
    assert overlap(model, {"t": [record("scene/few/seen/0/0", "물음")]}, quiet=True)["t"]["checked"] > 10
    foreign = trained(tmp_path / "foreign", block("questions", "drawn", limit=5), vision="openai/clip-vit-large-patch14-336")
    found = overlap(foreign, {"t": [record("scene/few/seen/9/0", "물음")]}, quiet=True)["t"]
    assert found["beyond"] == ["openai/clip-vit-large-patch14-336"]


def test_what_cannot_be_known_says_why(seen: Path, tmp_path: Path):
    def why(model) -> str:
        return overlap(model, {"t": [record(None, "물음")]}, quiet=True)["t"]["unknown"]

    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign/config.json").write_text("{}")
    assert "no boda.json" in why(tmp_path / "foreign")
    assert "only the folder" in why(object()) and "only the folder" in why("https://host/v1#m")
    (tmp_path / "foreign/boda.json").write_text('{"recipe": {"stages": []}, "data": [{"path": "x"}]}')
    assert "in another form ('stage')" in why(tmp_path / "foreign")
    (tmp_path / "train/rows.jsonl").unlink()
    assert "no data at" in why(seen) and "--data" in why(seen)


def test_training_data_is_read_once_until_it_changes(seen: Path, tmp_path: Path, monkeypatch):
    asked = {"t": [record(tmp_path / "train/0.png", "물음")]}
    first = overlap(seen, asked, quiet=True)
    with monkeypatch.context() as patch:
        patch.setattr(module, "read", lambda *_, **__: pytest.fail("read again"))
        assert overlap(seen, asked, quiet=True) == first
    with (tmp_path / "train/rows.jsonl").open("a", encoding="utf-8") as stream:
        told = {"messages": [{"role": "user", "content": "새 물음?"}, {"role": "assistant", "content": "네"}]}
        stream.write(json.dumps(told, ensure_ascii=False) + "\n")
    again = overlap(seen, {"t": [record(None, "새 물음")]}, quiet=True)["t"]
    assert again["questions"] == 1.0 and again["checked"] == 4


def test_a_broken_training_picture_is_passed_over(tmp_path: Path):
    (tmp_path / "train").mkdir()
    (tmp_path / "train/a.png").write_bytes(b"no picture")
    photo(1).save(tmp_path / "train/b.png")
    rows = lines(tmp_path / "train/rows.jsonl", ("a.png", "가?", "네"), ("b.png", "나?", "네"))
    model = trained(tmp_path / "model", block("train/rows.jsonl"))
    found = overlap(model, {"t": [record(tmp_path / "train/b.png", "물음")]}, tmp_path, quiet=True)
    assert found["t"]["images"] == 1.0 and rows.is_file()  # found below the data folder
