"""Particles: the form that a reader would say after a word."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from boda.data.korean import PARTICLES, final_consonant, is_particle, with_particle


@pytest.mark.parametrize(
    "word, particle, expected",
    [
        ("사과", "은는", "사과는"), ("책", "은는", "책은"), ("사과", "이가", "사과가"), ("책", "이가", "책이"),
        ("사과", "을를", "사과를"), ("책", "을를", "책을"), ("사과", "과와", "사과와"), ("책", "과와", "책과"),
        ("사과", "이다다", "사과다"), ("책", "이다다", "책이다"), ("사과", "이에요예요", "사과예요"), ("책", "이에요예요", "책이에요"),
        ("학교", "으로로", "학교로"), ("집", "으로로", "집으로"), ("서울", "으로로", "서울로"), ("서울", "은/는", "서울은"),
        ("철수", "아야", "철수야"), ("영숙", "아야", "영숙아"), ("책", "이든/든", "책이든"),
        ("미국(USA)", "은는", "미국(USA)은"), ("중국 [CN]", "은는", "중국 [CN]은"),
        ("‘사과’", "은는", "‘사과’는"), ("(책)", "은는", "(책)은"),
        ("3", "은는", "3은"), ("2", "은는", "2는"), ("10", "이가", "10이"), ("100", "을를", "100을"), ("1000", "으로로", "1000으로"),
        ("1", "으로로", "1로"), ("6", "으로로", "6으로"), ("0", "은는", "0은"), ("20000", "은는", "20000은"),
        ("1,000,000,000,000", "은는", "1,000,000,000,000는"),
        ("3.10", "은는", "3.10은"), ("3.5", "은는", "3.5는"), ("1조", "은는", "1조는"),
        ("50%", "은는", "50%는"), ("5kg", "은는", "5kg은"), ("12km", "은는", "12km는"), ("180 km²", "은는", "180 km²는"),
        ("AI", "은는", "AI는"), ("LLM", "은는", "LLM은"), ("URL", "으로로", "URL로"), ("USB", "은는", "USB는"), ("PNG", "을를", "PNG를"),
        ("Apple", "은는", "Apple은"), ("hotel", "으로로", "hotel로"), ("game", "은는", "game은"), ("Tom", "은는", "Tom은"),
        ("king", "이가", "king이"), ("web", "은는", "web은"), ("book", "은는", "book은"), ("cat", "은는", "cat은"),
        ("cake", "은는", "cake는"), ("test", "은는", "test는"), ("server", "은는", "server는"), ("Korea", "은는", "Korea는"),
        ("ㄱ", "은는", "ㄱ은"), ("ㄹ", "으로로", "ㄹ로"), ("ㅏ", "은는", "ㅏ는"),
        ("🍎", "은는", "🍎은(는)"), ("漢", "으로로", "漢(으)로"), ("🍎", "이다다", "🍎(이)다"),
    ],
)  # fmt: skip
def test_particles(word: str, particle: str, expected: str):
    assert with_particle(word, particle) == expected


@given(st.characters(min_codepoint=0xAC00, max_codepoint=0xD7A3), st.sampled_from(sorted(PARTICLES)))
def test_every_syllable_takes_one_of_the_two_forms(syllable: str, particle: str):
    import unicodedata

    last = unicodedata.normalize("NFD", syllable)[-1]
    ends_in_consonant = "ᆨ" <= last <= "ᇂ"
    with_final, without = PARTICLES[particle]
    if particle == "으로로" and last == "ᆯ":
        ends_in_consonant = False
    assert with_particle(syllable, particle) == syllable + (with_final if ends_in_consonant else without)


@given(st.text(max_size=20))
def test_any_text_gets_some_particle(text: str):
    assert with_particle(text, "은는").startswith(text) and len(with_particle(text, "은는")) > len(text)
    assert final_consonant(text) in (None, "", "ㄹ", "ㅇ", "ㅁ", "ㄴ", "ㄱ", "ㅂ")


def test_which_specs_are_particles():
    assert is_particle("은는") and is_particle("이라고/라고")
    assert not any(map(is_particle, ("", ",", ".2f", "은", "a/b", ">10")))
