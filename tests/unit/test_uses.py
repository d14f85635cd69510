"""Image to text and text to patch: known numbers by a fake encoder, the pictures, the commands, and what is refused."""

from __future__ import annotations

import json
import sys
import unicodedata
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from boda.cli import app
from boda.errors import BodaError
from boda.evaluate.patches import cut
from boda.serve.uses import Patches, bar_chart, classify, heat_map, patches, read_grid
from tests.fake_encoder import RGB, FakeEncoder


def plain(colour: str, size: tuple[int, int] = (20, 12)) -> Image.Image:
    return Image.new("RGB", size, RGB[colour])


def mosaic(width: int = 95, height: int = 61) -> Image.Image:
    """Green, with one red tile in the middle row's last column of a 3 x 3 grid."""
    picture = plain("초록", (width, height))
    picture.paste(RGB["빨간"], (width // 3 * 2, height // 3, width // 3 * 3, height // 3 * 2))
    return picture


@pytest.fixture
def command(monkeypatch, tmp_path: Path):
    """Runs the command line with the fake model; `red.png` and `mosaic.png` lie in the folder."""
    plain("빨간").save(tmp_path / "red.png")
    mosaic().save(tmp_path / "mosaic.png")
    loaded = []
    fake = SimpleNamespace(load=lambda name: loaded.append(name) or FakeEncoder(name))
    monkeypatch.setitem(sys.modules, "boda.models.encoder", SimpleNamespace(Encoder=fake))
    monkeypatch.chdir(tmp_path)

    def run(*words: str):
        return CliRunner().invoke(app, list(words))

    run.loaded = loaded
    return run


# Image to text


def test_probabilities_are_the_softmax_over_the_labels_prompts():
    encoder = FakeEncoder()
    scores = classify(encoder, plain("빨간"), ["빨간 사과", "파란 바다"], "이것은 {} 이다.")["scores"]
    vectors = encoder.texts(["이것은 빨간 사과 이다.", "이것은 파란 바다 이다."])
    logits = encoder.images([plain("빨간")])[0] @ vectors.T * 10.0
    expected = np.exp(logits) / np.exp(logits).sum()
    assert list(scores) == ["빨간 사과", "파란 바다"]  # in the order given
    assert list(scores.values()) == pytest.approx(expected.tolist(), abs=1e-5) and scores["빨간 사과"] > 0.9


def test_a_sigmoid_model_judges_each_label_by_itself():
    encoder = FakeEncoder()
    encoder.is_sigmoid = True
    alone = classify(encoder, plain("빨간"), ["빨간 사과"])["scores"]["빨간 사과"]
    both = classify(encoder, plain("빨간"), ["빨간 사과", "파란 바다"])["scores"]
    assert alone == pytest.approx(both["빨간 사과"]) and sum(both.values()) != pytest.approx(1.0)


def test_templates_take_particles():
    encoder = FakeEncoder()
    classify(encoder, plain("빨간"), ["빨간 사과", "빨간 별"], "사진에 {:이가} 있다.")
    assert encoder.seen_texts == ["사진에 빨간 사과가 있다.", "사진에 빨간 별이 있다."]


@pytest.mark.parametrize(
    "labels, template, why",
    [
        ([], "{}", "no label"),
        (["고양이", "강아지", "고양이"], "{}", "'고양이' is given twice"),
        (["고양이", unicodedata.normalize("NFD", "고양이")], "{}", "'고양이' is given twice"),  # the same word, decomposed
        (["고양이", "고양이 "], "{}", "'고양이' is given twice"),
        (["고양이", "  "], "{}", "label 2 is empty"),
        (["고양이"], "이것은 고양이 이다.", "write {} where the label goes"),
        (["고양이"], "이것은 {{}} 이다.", "write {} where the label goes"),
        (["고양이"], "이것은 {이름} 이다.", "write {} where the label goes"),
        (["고양이"], "이것은 { 이다.", "brace"),
    ],
)
def test_labels_that_cannot_be_told_apart_are_refused(labels, template, why):
    with pytest.raises(BodaError, match=why.replace("{}", r"\{\}")):
        classify(FakeEncoder(), plain("빨간"), labels, template)


def test_decomposed_hangul_is_the_same_label():
    given = unicodedata.normalize("NFD", "빨간 사과")
    assert list(classify(FakeEncoder(), plain("빨간"), [given])["scores"]) == ["빨간 사과"]


def test_bars_are_as_long_as_their_probability_and_the_letters_are_there(recwarn):
    def blue(scores) -> np.ndarray:
        pixels = np.asarray(bar_chart(scores, "이것은 {} 이다.")).astype(int)
        return np.abs(pixels - (0x1F, 0x4E, 0x8C)).sum(-1) < 30

    found = blue({"고양이": 0.25, "강아지": 0.75})
    lengths = [row.sum() for row in found if row.sum()]
    top, bottom = lengths[0], lengths[-1]
    assert top == pytest.approx(3 * bottom, rel=0.05)  # the likeliest first
    bar_chart({"$E=mc^2$ 공식": 0.4, "아주 " * 30 + "긴 이름": 0.6})  # dollars are dollars
    assert not [str(each.message) for each in recwarn if "Glyph" in str(each.message)]  # no boxes in place of Hangul
    assert (np.asarray(bar_chart({"가": 1.0})) != np.asarray(bar_chart({"힣": 1.0}))).any()


def test_the_command_prints_a_table_or_an_object_and_draws_the_chart(command, tmp_path: Path):
    shown = command("classify", "some-model", "red.png", "파란 바다", "빨간 사과", "--chart", "charts/bars.png")
    assert shown.exit_code == 0, shown.output
    lines = [line for line in shown.output.splitlines() if "%" in line]
    assert "빨간 사과" in lines[0] and "파란 바다" in lines[1] and (tmp_path / "charts/bars.png").is_file()
    told = command("classify", "some-model", "red.png", "파란 바다", "빨간 사과", "--chart", "bars.png", "--json")
    scores = json.loads(told.stdout.splitlines()[-1])["scores"]
    assert list(scores) == ["파란 바다", "빨간 사과"] and sum(scores.values()) == pytest.approx(1)
    assert command.loaded == ["some-model"] * 2


@pytest.mark.parametrize(
    "words, why",
    [
        (("classify", "m", "red.png"), "no label"),
        (("classify", "m", "red.png", "가", "가"), "given twice"),
        (("classify", "m", "red.png", "가", "--template", "이것"), "where the label goes"),
        (("classify", "m", "nowhere.png", "가", "나"), "no picture at nowhere.png"),
        (("classify", "m", "red.png", "가", "나", "--chart", "bars.doc"), ".png, .jpg or .webp"),
        (("patches", "m", "nowhere.png", "가"), "no picture at nowhere.png"),
        (("patches", "m", "red.png", "가", "--grid", "three"), "not rows x columns"),
        (("patches", "m", "red.png", "가", "--out", "heat"), ".png, .jpg or .webp"),
    ],
)
def test_mistakes_are_said_before_a_model_is_loaded(command, words, why):
    shown = command(*words)
    assert shown.exit_code == 1 and why in shown.output and not command.loaded


# Text to patch


def koclip_patches(encoder, image: Image.Image, prompt: str, rows: int, columns: int) -> np.ndarray:
    """KoCLIP's text2patch, restated: split_image, then a softmax over the tiles for one prompt."""
    pixels = np.asarray(image)
    row_size, column_size = pixels.shape[0] // rows, pixels.shape[1] // columns
    tiles = []
    for i in range(rows):
        for j in range(columns):
            tiles.append(pixels[i * row_size : (i + 1) * row_size, j * column_size : (j + 1) * column_size])
    vectors = encoder.images([Image.fromarray(tile) for tile in tiles])
    logits = (encoder.texts([prompt]) @ vectors.T * encoder.logit_scale)[0]
    return np.exp(logits) / np.exp(logits).sum()


@pytest.mark.parametrize("rows, columns", [(3, 3), (2, 4), (1, 1), (61, 95)])
def test_tiles_are_ranked_as_koclip_ranks_them(rows, columns):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (61, 95, 3), dtype=np.uint8))
    found = patches(FakeEncoder(), noise, "빨간 사과", (rows, columns))
    expected = koclip_patches(FakeEncoder(), noise, "빨간 사과", rows, columns)
    assert found.grid == (rows, columns) and found.best == expected.argmax()
    assert found.scores == pytest.approx(expected.tolist(), rel=1e-4)


def test_the_tile_with_the_thing_is_the_best_and_what_is_left_over_is_not_looked_at():
    picture = mosaic(98, 62)  # 2 columns and 2 rows more than the grid takes
    picture.paste(RGB["파란"], (96, 0, 98, 62))
    assert patches(FakeEncoder(), picture, "빨간 사과").best == 5
    assert {tile.size for tile in cut(picture, 3, 3)} == {(32, 20)}
    assert not any((np.asarray(tile) == RGB["파란"]).all(-1).any() for tile in cut(picture, 3, 3))


@pytest.mark.parametrize("grid", [(62, 1), (1, 96), (0, 3), (3, 0), (1, 95)])
def test_a_grid_that_does_not_fit_is_refused(grid):
    picture = mosaic() if grid != (1, 95) else plain("빨간", (95, 300))  # tiles 1 wide and 300 high
    with pytest.raises(BodaError, match=f"grid of {grid[0]} x {grid[1]} does not fit"):
        patches(FakeEncoder(), picture, "빨간 사과", grid)


@pytest.mark.parametrize("text", ["", "3", "3x", "x3", "-1x3", "3x3x3", "삼x삼"])
def test_a_grid_is_rows_and_columns(text):
    with pytest.raises(BodaError, match="not rows x columns"):
        read_grid(text)


def test_an_empty_prompt_is_refused():
    with pytest.raises(BodaError, match="empty"):
        patches(FakeEncoder(), mosaic(), "   ")


@pytest.mark.parametrize("size", [(96, 96), (200, 60), (60, 200)])
def test_the_heat_is_where_the_thing_is_whatever_the_shape_of_the_picture(size):
    picture = plain("초록", size)
    width, height = size
    picture.paste(RGB["빨간"], (width * 3 // 4, height * 3 // 4, width, height))  # in the corner, which a crop would cut off
    shown = heat_map(FakeEncoder(), picture, "빨간 사과")
    assert shown.size == picture.size and shown.mode == "RGB"
    change = np.abs(np.asarray(shown).astype(int) - np.asarray(picture)).sum(-1)
    hot, cold = np.asarray(shown)[-3, -3], np.asarray(shown)[3, 3]
    assert hot[0] > 180 and hot[2] < 80 and cold[1] > cold[0] and change.mean() > 10


def test_a_picture_that_fits_alike_everywhere_has_no_hot_place():
    shown = np.asarray(heat_map(FakeEncoder(), plain("초록", (90, 90)), "빨간 사과"))
    assert (shown == shown[0, 0]).all()


def test_the_best_tile_is_framed():
    ranked = Patches((3, 3), (0.0,) * 5 + (1.0,) + (0.0,) * 3, 5)
    plainly, framed = (np.asarray(heat_map(FakeEncoder(), mosaic(), "빨간", each)) for each in (None, ranked))
    changed = np.argwhere((plainly != framed).any(-1))
    assert changed.min(0).tolist() == [20, 62] and changed.max(0).tolist() == [39, 92]


def test_the_command_ranks_and_draws(command, tmp_path: Path):
    shown = command("patches", "m", "mosaic.png", "빨간 사과", "--out", "heat.png")
    assert shown.exit_code == 0 and "best: row 2, column 3" in shown.output
    assert Image.open(tmp_path / "heat.png").size == (95, 61)
    told = json.loads(command("patches", "m", "mosaic.png", "빨간 사과", "--grid", "3x3", "--json").stdout.splitlines()[-1])
    assert told["grid"] == [3, 3] and told["best"] == 5 and len(told["scores"]) == 9
    refused = command("patches", "m", "mosaic.png", "빨간", "--grid", "200x3")
    assert refused.exit_code == 1 and "does not fit" in refused.output
