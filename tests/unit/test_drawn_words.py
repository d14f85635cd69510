"""Hangul words in pictures: fonts that have every syllable, words that stay whole, inside and legible."""

from __future__ import annotations

import json
import unicodedata

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import ImageFont

from boda.data.drawn import fonts, words
from boda.data.drawn.fonts import FONTS, HELD_OUT, SEEN, check_text, load_font
from boda.data.drawn.words import SIZE, WORDS, contrast, paint_word, word_facts
from boda.data.plan import generator
from boda.errors import BodaError

FOLDER = next(iter(FONTS.values())).parent
any_facts = st.builds(lambda seed: word_facts(generator(seed, "words"), WORDS, tuple(FONTS)), st.integers(0, 2**40))


@pytest.mark.parametrize("name", FONTS)
def test_every_font_draws_every_character_it_is_said_to_have(name: str):
    font = load_font(name, 24)
    missing = bytes(font.getmask("\U0010fffd"))
    masks = {character: bytes(font.getmask(character)) for character in sorted(fonts.CHARACTERS)}
    assert bytes(font.getmask("똠")) == bytes(font.getmask("\u0e01")) == missing, "what is outside is drawn as the same box"
    assert any(missing) and not [character for character, mask in masks.items() if mask == missing]
    assert [character for character, mask in masks.items() if not any(mask)] == [" "]
    drawn = {masks[syllable] for syllable in fonts.SYLLABLES}
    assert len(drawn) > 2330, "two syllables hardly ever look the same"


def test_fonts_are_the_promised_ones():
    assert len(set(fonts.SYLLABLES)) == 2350 and all(unicodedata.is_normalized("NFC", syllable) for syllable in fonts.SYLLABLES)
    assert 4 <= len(FONTS) <= 6 and HELD_OUT in FONTS and HELD_OUT not in SEEN and {*SEEN, HELD_OUT} == set(FONTS)
    assert sum(path.stat().st_size for path in FONTS.values()) <= 4_000_000
    assert {path.name for path in FOLDER.iterdir()} == {
        "README.md", *(f"{name}.ttf" for name in FONTS), *(f"{name}.OFL.txt" for name in FONTS),
    }  # fmt: skip
    readme = (FOLDER / "README.md").read_text(encoding="utf-8")
    for name, path in FONTS.items():
        licence = (FOLDER / f"{name}.OFL.txt").read_text(encoding="utf-8")
        assert "SIL OPEN FONT LICENSE Version 1.1" in licence and "PERMISSION & CONDITIONS" in licence
        assert "Reserved Font Name" in licence.partition("SIL OPEN")[0] and "Copyright" in licence.partition("SIL OPEN")[0]
        family = ImageFont.truetype(str(path), 20).getname()[0]
        assert family == f"Boda {name.capitalize()}" and family in readme, "no reserved name is used"


def test_words_are_two_hundred_different_ones():
    assert len(WORDS) == len(set(WORDS)) == 200 and {len(word) for word in WORDS} == {2, 3, 4}
    finals = [(ord(letter) - 0xAC00) % 28 > 0 for word in WORDS for letter in word]
    assert 0.3 < sum(finals) / len(finals) < 0.7 and len(set("".join(WORDS))) > 200
    assert all(check_text(word) == word for word in WORDS)


@given(any_facts)
@settings(max_examples=60)
def test_a_word_stays_inside_and_can_be_told_from_its_ground(facts: dict):
    assert (
        facts == json.loads(json.dumps(facts)) and facts["word"] in WORDS and facts["font"] in FONTS and abs(facts["turn"]) <= 8
    )
    assert contrast(facts["ink"], facts["ground"]) >= 3.5
    black = np.asarray(paint_word(facts | {"extra": "plain", "ink": [0, 0, 0], "ground": [255, 255, 255]}).convert("L"))
    assert black.shape == (SIZE, SIZE)
    rows, columns = np.flatnonzero((black < 250).any(1)), np.flatnonzero((black < 250).any(0))
    assert min(rows[0], columns[0]) > 0 and max(rows[-1], columns[-1]) < SIZE - 1, "a pixel is free all around"
    assert 0.55 * 17 < len(rows) < 34 + 14 + SIZE * 0.14, "as high as promised, with room for the turn"
    # Nothing of it is cut off: the same word on a picture of its own has as much ink.
    alone = words._mask(facts["word"], facts["font"], facts["pixels"], facts["turn"], False)
    assert (255 - black.astype(int)).sum() == pytest.approx(np.asarray(alone, int).sum(), rel=0.01)
    painted = np.asarray(paint_word(facts), float)
    assert np.abs(painted - facts["ink"]).max(-1).min() < 60, "the ink itself shows"


@given(any_facts)
@settings(max_examples=20)
def test_what_is_behind_a_word_never_takes_contrast(facts: dict):
    for extra in ("fade", "plate"):
        blank = np.asarray(paint_word(facts | {"extra": extra, "word": "   "}))
        grounds = {tuple(colour) for colour in blank.reshape(-1, 3).tolist()} - {tuple(facts["ink"])}
        assert min(contrast(facts["ink"], ground) for ground in grounds) >= 3.4


def test_the_same_facts_make_the_same_picture_in_every_font_and_extra():
    seen = set()
    for number in range(200):
        facts = word_facts(generator(number, "same"))
        assert (
            facts == word_facts(generator(number, "same")) and paint_word(facts).tobytes() == paint_word(dict(facts)).tobytes()
        )
        seen |= {facts["font"], facts["extra"], facts["colour"]}
    assert {*SEEN, *words.EXTRAS, "흰색", "검은색", "빨간색"} <= seen and HELD_OUT not in seen
    assert paint_word(facts).mode == "RGB" and paint_word(facts).size == (SIZE, SIZE)
    assert paint_word(facts | {"word": "나무"}).tobytes() != paint_word(facts | {"word": "바다"}).tobytes()


@pytest.mark.parametrize(
    ("given_words", "given_fonts", "said"),
    [
        ([], SEEN, "words to draw are an empty list.*나무"),
        (["나무", ""], SEEN, "words to draw"),
        (WORDS, [], "fonts to draw are an empty list.*gothic"),
        (WORDS, ["gothic", "comic"], "no font 'comic'; the fonts are gothic, serif"),
        (["나무", "똠양꿍"], SEEN, "the fonts have no '똠' in '똠양꿍'.*2,350 syllables of KS X 1001"),
        (["나\n무"], SEEN, r"no '\\n' in"),
        ([unicodedata.normalize("NFD", "나무")], SEEN, "composed, NFC"),
        (["나무", "대한민국만세"], SEEN, "'대한민국만세' is too long.*at most 4 syllables"),
    ],
)
def test_what_cannot_be_drawn_is_said(given_words, given_fonts, said: str):
    with pytest.raises(BodaError, match=said):
        word_facts(generator(0), given_words, given_fonts)
