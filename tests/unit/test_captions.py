"""Caption scores: against pycocoevalcap's values, plain restatements of its formulas, and what each tokenizer makes of Korean."""

from __future__ import annotations

import math
import sys
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from boda.errors import BodaError
from boda.evaluate.metrics import caption_scores
from boda.evaluate.metrics.captions import bleu, cider, rouge_l, tokens_by

CAPTIONS = {"a": "빨간 사과 가 나무 에 있다", "b": "고양이 한 마리 가 의자 위 에 앉아 있다 그리고 잔다", "c": "파란 별"}
REFERENCES = {
    "a": ["빨간 사과 가 나무 에 달려 있다", "나무 에 사과 가 있다"],
    "b": ["고양이 가 의자 위 에 앉아 있다", "의자 위 에 고양이 한 마리 가 있다", "고양이 가 잔다"],
    "c": ["노란 별 과 파란 달"],
}

texts = st.lists(st.sampled_from("가 나 다 라 마".split()), min_size=1, max_size=9)
pairs = st.lists(st.tuples(st.one_of(texts, st.just([])), st.lists(texts, min_size=1, max_size=3)), min_size=1, max_size=5)


def grams(tokens: list[str], order: int) -> list[tuple[str, ...]]:
    return list(zip(*(tokens[start:] for start in range(order))))


def plain_cider(some) -> list[float]:
    """CIDEr-D written with vectors over all n-grams."""
    scores = np.zeros(len(some))
    for order in range(1, 5):
        known = sorted({gram for tokens, references in some for each in (tokens, *references) for gram in grams(each, order)})
        pictures = [sum(any(gram in grams(each, order) for each in references) for _, references in some) for gram in known]
        rarity = np.array([math.log(len(some)) - math.log(max(1, number)) for number in pictures])
        for place, (tokens, references) in enumerate(some):
            for each in references:
                counts = [[grams(side, order).count(gram) for gram in known] for side in (tokens, each)]
                own, other = np.array(counts) * rarity
                size = np.linalg.norm(own) * np.linalg.norm(other)
                apart = max(0, len(tokens) - 1) - max(0, len(each) - 1)  # in bigrams
                cosine = np.minimum(own, other) @ other / size if size else 0.0
                scores[place] += 10 * cosine * math.exp(-(apart**2) / 72) / len(references) / 4
    return scores.tolist()


def plain_bleu(some) -> list[float]:
    right, said = np.zeros(4), np.zeros(4)
    for tokens, references in some:
        for order in range(1, 5):
            counts = Counter(grams(tokens, order))
            said[order - 1] += sum(counts.values())
            right[order - 1] += sum(
                min(count, max(grams(each, order).count(gram) for each in references)) for gram, count in counts.items()
            )
    length = sum(len(tokens) for tokens, _ in some)
    nearest = sum(min(map(len, refs), key=lambda size: (abs(size - len(tokens)), size)) for tokens, refs in some)
    precisions = np.cumprod((right + 1e-15) / (said + 1e-9))
    ratio = (length + 1e-15) / (nearest + 1e-9)
    return [value ** (1 / order) * (math.exp(1 - 1 / ratio) if ratio < 1 else 1) for order, value in enumerate(precisions, 1)]


def common(first, second) -> int:
    """The longest common subsequence, by its definition."""
    if not first or not second:
        return 0
    if first[0] == second[0]:
        return 1 + common(first[1:], second[1:])
    return max(common(first[1:], second), common(first, second[1:]))


def test_the_values_of_pycocoevalcap():
    found = caption_scores(CAPTIONS, REFERENCES, "whitespace")
    assert found.pop("tokenizer") == "whitespace"
    assert found == pytest.approx(
        {
            "bleu_1": 0.9473684210027701,
            "bleu_2": 0.8429272303750008,
            "bleu_3": 0.7893927041938663,
            "bleu_4": 0.7197132073669862,
            "rouge_l": 0.6619706106050885,
            "cider": 3.297084613488659,
        },
        abs=1e-9,
    )


@settings(max_examples=60, deadline=None)
@given(pairs)
def test_cider_and_bleu_are_their_formulas(some):
    assert cider(some) == pytest.approx(plain_cider(some), abs=1e-9)
    assert bleu(some) == pytest.approx(plain_bleu(some), abs=1e-9)


@settings(max_examples=60, deadline=None)
@given(texts, st.lists(texts, min_size=1, max_size=3))
def test_rouge_l_is_its_formula(tokens, references):
    same = [common(tokens, each) for each in references]
    precision = max(same) / len(tokens)
    recall = max(number / len(each) for number, each in zip(same, references))
    expected = 2.44 * precision * recall / (recall + 1.44 * precision) if precision and recall else 0
    assert rouge_l(tokens, references) == pytest.approx(expected, abs=1e-12)


@given(st.dictionaries(st.sampled_from("abcdef"), texts, min_size=2))
def test_a_caption_that_is_its_only_reference_is_perfect_and_order_does_not_matter(said):
    captions = {name: " ".join(tokens) for name, tokens in said.items()}
    found = caption_scores(captions, {name: [text] for name, text in reversed(captions.items())}, "whitespace")
    assert found["rouge_l"] == pytest.approx(1) and found["bleu_1"] == pytest.approx(1)
    assert 0 <= found["cider"] <= 10 + 1e-9


def test_one_picture_alone_has_no_cider():
    assert caption_scores({"a": "빨간 사과"}, {"a": ["빨간 사과"]}, "whitespace")["cider"] == 0


def test_an_empty_caption_scores_nothing():
    found = caption_scores({"a": "", "b": "!"}, {"a": ["빨간 사과"], "b": ["파란 별"]}, "whitespace")
    assert [found[name] for name in ("bleu_4", "rouge_l", "cider")] == pytest.approx([0, 0, 0], abs=1e-9)


def test_spelling_that_is_no_difference():
    """Decomposed Hangul, punctuation around words and case; inside a number a point stays."""
    split = tokens_by("whitespace")
    assert split("\u1112\u1161\u11ab 사람이, ‘USB’를… 3.5개 샀다! ?") == ["한", "사람이", "usb’를", "3.5개", "샀다"]
    assert tokens_by("character")("한 개, AB.") == ["한", "개", "a", "b"]


def test_morphemes_part_words_from_their_endings():
    pytest.importorskip("kiwipiepy", reason="kiwipiepy is not installed")
    split = tokens_by("kiwi")
    assert split("사과가 나무에 있다.")[:5] == ["사과", "가", "나무", "에", "있"]
    captions, references = {"a": "사과가 있다.", "b": "별"}, {"a": ["사과는 없다."], "b": ["달"]}
    by_word = caption_scores(captions, references, "whitespace")["bleu_1"]
    assert caption_scores(captions, references)["bleu_1"] > by_word + 0.1


@pytest.mark.parametrize(
    "captions, references, tokenizer, why",
    [
        ({}, {}, "whitespace", "there are none"),
        ({"a": "별"}, {"a": ["별"], "b": ["달"]}, "whitespace", "'b' lacks"),
        ({"a": "별"}, {"a": []}, "whitespace", "'a' lacks"),
        ({"a": "별"}, {"a": ["별"]}, "mecab", "no tokenizer 'mecab'; there are kiwi, whitespace, character"),
    ],
)
def test_mistakes_are_named(captions, references, tokenizer, why):
    with pytest.raises(BodaError, match=why):
        caption_scores(captions, references, tokenizer)


def test_without_kiwipiepy_it_is_said_what_would_work(monkeypatch):
    monkeypatch.setitem(sys.modules, "kiwipiepy", None)
    tokens_by.cache_clear()
    with pytest.raises(BodaError, match=r"boda\[eval\].*tokenizer=whitespace or character"):
        caption_scores({"a": "별"}, {"a": ["별"]})
