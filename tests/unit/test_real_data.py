"""The converters of real pictures: what they claim of a picture is what its pixels or its scene graph say."""

from __future__ import annotations

import json
import random
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageDraw

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import koclip_data
import real_data
import real_flags
import real_nlvr
from real_colours import most, present, shares, with_particle

from boda.data.sources import read
from boda.errors import BodaError

RED, GREEN, BLUE, YELLOW, WHITE, BLACK = (206, 17, 38), (0, 122, 61), (0, 56, 168), (252, 209, 22), (255, 255, 255), (0, 0, 0)


def stack(*colours: tuple[int, int, int], upright: bool = False) -> np.ndarray:
    """Equal stripes, 60 x 90."""
    pixels = np.concatenate([np.full((60 // len(colours), 90, 3), colour, np.uint8) for colour in colours])
    return real_flags.turned(pixels) if upright else pixels


# Colours


def test_colours_are_claimed_where_pixels_are_sure():
    found = shares(stack(RED, WHITE, BLUE))
    truths = {name: present(found, name) for name in real_flags.ASKED_COLOURS}
    assert truths == {"빨간색": True, "흰색": True, "파란색": True, "노란색": False, "초록색": False, "검은색": False}
    teal = shares(np.full((10, 10, 3), (0, 150, 150), np.uint8))
    assert present(teal, "파란색") is None and present(teal, "초록색") is None  # people would not agree
    speck = stack(RED, WHITE).reshape(-1, 3).copy()
    speck[:50] = YELLOW  # one percent: neither surely there nor surely absent
    assert present(shares(speck), "노란색") is None


def test_the_widest_colour_needs_a_clear_lead():
    assert most(stack(RED, RED, WHITE)) == "빨간색"
    assert most(stack(RED, WHITE)) is None
    assert most(stack(YELLOW, (0, 150, 150))) is None  # as much of a colour without a name
    assert most(stack(YELLOW, YELLOW, YELLOW, (0, 150, 150))) == "노란색"


@pytest.mark.parametrize(
    "word, expected", [("음식", "음식과"), ("악기", "악기와"), ("얼굴 표정", "얼굴 표정과"), ("탈것", "탈것과")]
)
def test_particles(word: str, expected: str):
    assert with_particle(word, "과/와") == expected


# Flags


def test_stripes_are_told_from_crosses_triangles_and_plain_fields():
    assert real_flags.stripes(stack(RED, WHITE, BLUE)) == "가로"
    assert real_flags.stripes(stack(RED, WHITE, BLUE, upright=True)) == "세로"
    assert real_flags.stripes(stack(RED)) is None
    emblem, cross, canton = (
        Image.fromarray(stack(*colours)) for colours in ((RED, WHITE, BLUE), (RED,), (RED, WHITE, RED, WHITE))
    )
    ImageDraw.Draw(emblem).ellipse((38, 22, 52, 38), YELLOW)
    ImageDraw.Draw(cross).rectangle((30, 0, 40, 60), WHITE)
    ImageDraw.Draw(cross).rectangle((0, 25, 90, 35), WHITE)
    ImageDraw.Draw(canton).rectangle((0, 0, 40, 30), BLUE)
    assert real_flags.stripes(np.asarray(emblem)) == "가로"
    assert real_flags.stripes(np.asarray(cross)) is None
    assert real_flags.stripes(np.asarray(canton)) is None


def test_what_is_asked_of_a_flag():
    asked = {(kind, question): answer for kind, question, answer in real_flags.seen(stack(GREEN, WHITE, RED))}
    assert asked["corner", "이 국기의 왼쪽 위 구석은 무슨 색인가요?"] == "초록색"
    assert asked["corner", "이 국기의 오른쪽 아래 구석은 무슨 색인가요?"] == "빨간색"
    assert asked["colour_exists", "이 국기에 초록색이 있나요?"] == "네"
    assert asked["colour_exists", "이 국기에 노란색이 있나요?"] == "아니요"
    assert asked["stripes", "이 국기의 줄무늬는 가로인가요, 세로인가요?"] == "가로"
    assert not any(kind == "colour_most" for kind, _ in asked)  # thirds lead by nothing


@given(st.integers(0, 1000))
def test_a_changed_flag_is_described_as_it_is(seed: int):
    changed = real_flags.changed(stack(RED, WHITE, BLUE), random.Random(seed))
    pixels = {tuple(map(int, colour)) for colour in changed.reshape(-1, 3)}
    assert len(pixels) == 3 and changed.shape == (60, 90, 3)
    answers = {kind: answer for kind, _, answer in real_flags.seen(changed)}
    first_row, first_column = {map(tuple, changed[0].tolist())}, {tuple(colour) for colour in changed[:, 0].tolist()}
    assert first_row and answers["stripes"] == ("가로" if len(first_column) == 3 else "세로")


def test_a_place_under_another_countrys_flag_is_not_asked_for():
    country = {"name": "노르웨이", "is_place": False, "landlocked": False, "continent": "유럽", "region": "북유럽"}
    assert real_flags.known(country, has_twin=True)["name"][1] == "노르웨이"
    assert real_flags.known({**country, "is_place": True}, has_twin=True) == {}
    assert list(real_flags.known({**country, "is_place": True}, has_twin=False)) == ["name"]


# NLVR


def item(shape="사각형", colour="노란색", size=20, x=10, y=10) -> dict:
    return {"shape": shape, "colour": colour, "size": size, "x": x, "y": y}


def drawn(boxes: list[list[dict]]) -> np.ndarray:
    """A scene as NLVR draws it."""
    image = Image.new("RGB", (400, 100), real_nlvr.BACKGROUND)
    draw = ImageDraw.Draw(image)
    for gap in (100, 250):
        draw.rectangle((gap, 0, gap + 49, 99), (128, 128, 128))
    for start, box in zip(real_nlvr.BOX_STARTS, boxes):
        for one in box:
            corner = (start + one["x"], one["y"], start + one["x"] + one["size"] - 1, one["y"] + one["size"] - 1)
            draw.rectangle(corner, real_nlvr.PIXELS[one["colour"]])
    return np.asarray(image)


SCENE = [
    [item(y=70), item(colour="검은색", y=40, x=50)],
    [item(shape="원", colour="파란색", size=30, y=60), item(colour="파란색", y=10), item(colour="파란색", size=10, x=70)],
    [item(shape="삼각형", colour="검은색", size=10)],
]


def test_answers_follow_the_scene_graph():
    asked = {question: answer for _, question, answer in real_nlvr.questions(SCENE)}
    expected = {
        "도형은 모두 몇 개인가요?": "여섯 개",
        "노란색 도형은 모두 몇 개인가요?": "한 개",
        "사각형은 모두 몇 개인가요?": "네 개",
        "가운데 칸에는 도형이 몇 개 있나요?": "세 개",
        "파란색 원이 있나요?": "네",
        "노란색 원이 있나요?": "아니요",
        "검은색 삼각형은 어느 칸에 있나요?": "오른쪽 칸",
        "도형이 가장 많은 칸은 어느 쪽인가요?": "가운데 칸",
        "도형이 가장 적은 칸은 어느 쪽인가요?": "오른쪽 칸",
        "파란색 도형이 노란색 도형보다 더 많나요?": "네",
        "왼쪽 칸에서 맨 위에 있는 도형은 무슨 색인가요?": "검은색",
        "왼쪽 칸에서 맨 아래에 있는 도형은 무슨 색인가요?": "노란색",
        "가운데 칸에서 가장 큰 도형은 무슨 모양인가요?": "원",
        "가운데 칸의 도형은 모두 같은 색인가요?": "네",
        "가운데 칸의 도형은 모두 같은 모양인가요?": "아니요",
        "오른쪽 칸에 노란색 도형이 있나요?": "아니요",
    }
    assert {question: asked.get(question) for question in expected} == expected
    assert "왼쪽 칸에서 가장 큰 도형은 무슨 색인가요?" not in asked  # both are as large
    assert "가운데 칸에서 맨 위에 있는 도형은 무슨 색인가요?" not in asked  # two at one height


def test_nothing_is_asked_twice_with_two_answers():
    questions = [question for _, question, _ in real_nlvr.questions(SCENE)]
    assert len(questions) == len(set(questions))


@given(st.integers(0, 10_000))
def test_changed_scenes_agree_with_their_pictures(seed: int):
    boxes, pixels = real_nlvr.changed(SCENE, drawn(SCENE), random.Random(seed))
    assert real_nlvr.agrees(boxes, pixels) and pixels.shape == (100, 400, 3)
    assert np.array_equal(pixels, drawn(boxes))
    assert sorted(map(len, boxes)) == sorted(map(len, SCENE))


def test_a_scene_that_is_not_in_its_picture_is_noticed():
    assert real_nlvr.agrees(SCENE, drawn(SCENE))
    assert not real_nlvr.agrees(SCENE[::-1], drawn(SCENE))


def test_smoothed_edges_keep_their_share_of_background():
    edge = np.array([[[233, 233, 106]]], np.uint8)  # halfway between background and yellow
    assert np.abs(real_nlvr.recoloured(edge, {"노란색": "검은색", "검은색": "노란색", "파란색": "파란색"}) - 106.0).max() <= 2


# Balance


@given(st.lists(st.tuples(st.sampled_from("ABC"), st.sampled_from(["네", "아니요", "두 개", "세 개", "네 개"])), max_size=200))
def test_no_answer_of_a_question_stands_out(pairs: list[tuple[str, str]]):
    lines = [real_data.row(f"{number}.png", question, answer, type="t") for number, (question, answer) in enumerate(pairs)]
    kept = real_data.balanced(lines, random.Random(0))
    assert all(line in lines for line in kept)
    for question in "ABC":
        answers = Counter(real_data.answer_of(line) for line in kept if real_data.question_of(line) == question)
        if answers:
            assert len(answers) > 1
            limit = 0.5 if len(answers) == 2 else 1.5 / len(answers)
            assert max(answers.values()) <= limit * sum(answers.values()) + 1e-6


def test_written_lines_are_read_by_the_messages_source(tmp_path: Path):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    real_data.write(tmp_path / "x/test.jsonl", [real_data.row(str(tmp_path / "a.png"), "무엇인가요?", "개", type="name")])
    (sample,) = read(tmp_path / "x/test.jsonl")
    assert dict(sample.tags) == {"type": "name"} and sample.messages[-1].text == "개" and len(sample.images) == 1


def test_emoji_categories_claim_only_what_is_clear():
    assert real_data.category({"과일", "음식"}, "멜론") == "음식"
    assert real_data.category({"얼굴"}, "졸린 얼굴") == "얼굴 표정"
    assert real_data.category({"동물", "얼굴"}, "고양이 얼굴") == "동물"
    assert real_data.category({"스포츠", "남자"}, "수영하는 남자") is None  # both a person and a sport
    assert real_data.category({"종이"}, "봉투") is None


# The real files, where they are


@pytest.fixture
def real(monkeypatch) -> Path:
    try:
        return real_data.data_folder()
    except BodaError as error:
        pytest.skip(str(error))


def test_the_real_data_are_missing_clearly(tmp_path: Path):
    with pytest.raises(BodaError, match=r"countries\.jsonl"):
        real_data.data_folder(str(tmp_path))


def test_every_nlvr_picture_agrees_with_its_scene(real: Path):
    for split in ("dev", "test"):
        for scene in real_nlvr.scenes(real / "nlvr_synthetic" / split)[::25]:
            assert real_nlvr.agrees(scene["boxes"], real_nlvr.pixels_of(scene["picture"]))


def test_known_flags(real: Path):
    rows = {row["code"]: row for row in real_flags.countries(real / "flags")}
    assert sum(not row["is_place"] for row in rows.values()) == 195  # 193 members and two observers
    answers = {code: dict((kind, answer) for kind, _, answer in real_flags.seen(real_flags.pixels_of(rows[code]["picture"])))
               for code in ("FR", "DE", "JP", "NO")}  # fmt: skip
    assert answers["FR"]["stripes"] == "세로" and answers["DE"]["stripes"] == "가로"
    assert "stripes" not in answers["JP"] and "stripes" not in answers["NO"]
    assert answers["JP"]["colour_most"] == "흰색" and answers["NO"]["colour_most"] == "빨간색"


def test_emoji_files_hold_their_splits_apart(real: Path, tmp_path: Path):
    real_data.emoji(real, tmp_path)
    lines = {
        split: [json.loads(line) for line in (tmp_path / f"emoji/{split}.jsonl").read_text(encoding="utf-8").splitlines()]
        for split in ("train", "test")
    }
    pictures = {split: {line["images"][0] for line in found} for split, found in lines.items()}
    assert not pictures["train"] & pictures["test"]
    yes_no = [line for line in lines["test"] if line["tags"]["type"] == "category_yes_no"]
    assert Counter(map(real_data.answer_of, yes_no))["네"] * 2 == len(yes_no) > 100


# Pictures for KoCLIP


def test_moved_photos_keep_their_pixels_and_some_are_mirrored():
    photo = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    shifts = range(-koclip_data.MOST, koclip_data.MOST + 1)
    middle = slice(8, 24)
    wanted = {False: set(), True: set()}
    for mirrored, whole in ((False, photo), (True, photo[:, ::-1])):
        wanted[mirrored] = {
            np.roll(whole, (down, right), (0, 1))[middle, middle].tobytes() for down in shifts for right in shifts
        }
    rng = np.random.default_rng(1)
    found = [koclip_data.moved(photo, rng)[middle, middle].tobytes() for _ in range(64)]
    assert all(each in wanted[False] | wanted[True] for each in found)
    assert 16 < sum(each in wanted[True] for each in found) < 48 and len(set(found)) > 32


def test_training_emoji_are_drawn_anew_and_test_emoji_left_out(tmp_path):
    data, lines = tmp_path / "emoji", []
    data.mkdir()
    for name, caption, split in (("a", "왼쪽 화살표", "train"), ("b", "사과", "train"), ("c", "배", "test")):
        picture = Image.new("RGBA", (128, 128))
        ImageDraw.Draw(picture).rectangle((16, 48, 48, 80), fill=RED)  # at the left
        picture.save(data / f"{name}.png")
        lines.append(json.dumps({"image": f"{name}.png", "caption": caption, "keywords": ["하나", "둘", "셋"], "split": split}))
    (data / "captions.jsonl").write_text("\n".join(lines), encoding="utf-8")
    rows = [json.loads(line) for line in koclip_data.emoji(tmp_path, tmp_path / "out").read_text(encoding="utf-8").splitlines()]
    assert len(rows) == 2 * koclip_data.EMOJI_COPIES and not any("배" in row["captions"] for row in rows)
    left = {"왼쪽 화살표": 0, "사과": 0}
    for row in rows:
        pixels = np.asarray(Image.open(tmp_path / "out/emoji" / row["image"]), np.int64)
        assert pixels.shape == (koclip_data.EMOJI_SIZE, koclip_data.EMOJI_SIZE, 3)
        left[row["captions"][0]] += pixels[:, :32, 1].sum() < pixels[:, 32:, 1].sum()
    assert left["왼쪽 화살표"] == koclip_data.EMOJI_COPIES and 0 < left["사과"] < koclip_data.EMOJI_COPIES
