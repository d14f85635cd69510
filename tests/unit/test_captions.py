"""Caption scores: against pycocoevalcap's values, plain restatements of its formulas, and what each tokenizer makes of Korean."""

from __future__ import annotations

import math
import sys
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from boda.errors import BodaError
from boda.evaluate.metrics import caption_scores
from boda.evaluate.metrics.captions import bleu, cider, count, meteor, rouge_l, sentence_bleu
from boda.evaluate.metrics.tokens import _splitter, tokenize

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


def plain_cider(some, original: bool = False) -> list[float]:
    """CIDEr-D, or CIDEr as it was first, written with vectors over all n-grams."""
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
                cosine = (own if original else np.minimum(own, other)) @ other / size if size else 0.0
                scores[place] += 10 * cosine * (1 if original else math.exp(-(apart**2) / 72)) / len(references) / 4
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
            "meteor": 0.6752390088095394,  # NLTK's
            "cider": 3.297084613488659,
            "cider_original": 3.6692846768643896,  # plain_cider(..., original=True)
        },
        abs=1e-9,
    )


@settings(max_examples=60, deadline=None)
@given(pairs)
def test_cider_and_bleu_are_their_formulas(some):
    counted = count(some)
    assert cider(counted) == pytest.approx(plain_cider(some), abs=1e-9)
    assert cider(counted, clipped=False) == pytest.approx(plain_cider(some, original=True), abs=1e-9)
    assert bleu(counted) == pytest.approx(plain_bleu(some), abs=1e-9)


@settings(max_examples=60, deadline=None)
@given(texts, st.lists(texts, min_size=1, max_size=3))
def test_rouge_l_is_its_formula(tokens, references):
    same = [common(tokens, each) for each in references]
    precision = max(same) / len(tokens)
    recall = max(number / len(each) for number, each in zip(same, references))
    expected = 2.44 * precision * recall / (recall + 1.44 * precision) if precision and recall else 0
    assert rouge_l(tokens, references) == pytest.approx(expected, abs=1e-12)


def test_both_ciders_by_hand():
    """Every n-gram is in one of two pictures, so all weigh the same, and vectors are counts."""
    some = [("가 가 나".split(), ["가 나".split()]), (["다"], ["다 라".split()])]
    bigram = 1 / math.sqrt(2)  # one of two is shared
    assert cider(count(some), clipped=False) == pytest.approx([2.5 * (3 / math.sqrt(10) + bigram), 2.5 * bigram], abs=1e-12)
    shorter = math.exp(-1 / 72)  # a bigram less or more, sigma 6
    clipped = [2.5 * (2 / math.sqrt(10) + bigram) * shorter, 2.5 * bigram * shorter]
    assert cider(count(some)) == pytest.approx(clipped, abs=1e-12)
    assert cider(count([])) == []


def test_meteor_by_hand():
    # 나 and 다 stand side by side in both, 가 stands elsewhere: two chunks of three matches.
    assert meteor("나 다 가".split(), ["가 나 다 라".split()]) == pytest.approx(
        (1 - 0.5 * (2 / 3) ** 3) * 0.75 / (0.9 + 0.1 * 0.75)
    )
    assert meteor("가 나".split(), [["다"], "가 나".split()]) == pytest.approx(1 - 0.5 / 8)  # even the same is not quite 1
    # From the end: the last 가 takes the last 가, so that two chunks come of what could be one.
    assert meteor("가 나".split(), ["가 나 가".split()]) == pytest.approx(0.5 * (2 / 3) / (0.9 + 0.1 * 2 / 3))
    assert meteor([], [["가"]]) == meteor(["가"], [[]]) == meteor(["가"], [["나"]]) == 0


def test_sentence_bleu_by_hand():
    tokens, references = "가 나 라".split(), ["가 나 다".split()]
    smoothed = [2 / 3, 1 / 2, math.log(3) / 10, math.log(3) / 20]  # of the missing, halved each time
    assert sentence_bleu(tokens, references) == pytest.approx(math.prod(smoothed) ** 0.25)
    thirds = (2 / 3 * 1 / 2 * 0.1) ** 0.33
    assert sentence_bleu(tokens, references, (0.33,) * 3, 1) == pytest.approx(thirds)
    assert sentence_bleu(["가"], references, (1.0,), 1) == pytest.approx(math.exp(-2))  # short
    assert sentence_bleu([], references) == sentence_bleu(["바"], references) == 0


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
    split = lambda text, tokenizer: tokenize([text], tokenizer)[0]  # noqa: E731
    said = "\u1112\u1161\u11ab 사람이, ‘USB’를… 3.5개 샀다! ?"
    assert split(said, "whitespace") == ["한", "사람이", "usb’를", "3.5개", "샀다"]
    assert split("한 개, AB.", "character") == ["한", "개", "a", "b"]
    letters = ["\u1100", "\u1161", "\u11b9", "\u110b", "\u1175", "é", "ㅋ"]  # ㄱㅏㅄ ㅇㅣ; what is no syllable stays whole
    assert split("값이, e\u0301 ㅋ!", "jamo") == split("\u1100\u1161\u11b9이 éㅋ", "jamo") == letters
    assert tokenize(["가 나", "", "다"], "whitespace") == [["가", "나"], [], ["다"]]


def test_morphemes_part_words_from_their_endings():
    pytest.importorskip("kiwipiepy", reason="kiwipiepy is not installed")
    apple, truck = tokenize(["사과가 나무에 있다.", "노란 몬스터 트럭"], "kiwi")
    assert apple[:5] == ["사과", "가", "나무", "에", "있"]
    assert truck[-1].endswith("트럭") and not any(" " in token for token in truck)
    captions, references = {"a": "사과가 있다.", "b": "별"}, {"a": ["사과는 없다."], "b": ["달"]}
    by_word = caption_scores(captions, references, "whitespace")["bleu_1"]
    assert caption_scores(captions, references)["bleu_1"] > by_word + 0.1


@pytest.mark.parametrize(
    "captions, references, tokenizer, why",
    [
        ({}, {}, "whitespace", "there are none"),
        ({"a": "별"}, {"a": ["별"], "b": ["달"]}, "whitespace", "'b' lacks"),
        ({"a": "별"}, {"a": []}, "whitespace", "'a' lacks"),
        ({"a": "별"}, {"a": ["별"]}, "okt", "no tokenizer 'okt'; there are kiwi, mecab, whitespace, character, jamo"),
    ],
)
def test_mistakes_are_named(captions, references, tokenizer, why):
    with pytest.raises(BodaError, match=why):
        caption_scores(captions, references, tokenizer)


@pytest.fixture
def fresh():
    """Tokenizers are kept once made: not those made here."""
    _splitter.cache_clear()
    yield
    _splitter.cache_clear()


def test_without_kiwipiepy_it_is_said_what_would_work(monkeypatch, fresh):
    monkeypatch.setitem(sys.modules, "kiwipiepy", None)
    with pytest.raises(BodaError, match=r"boda\[eval\].*tokenizer=whitespace or character or jamo"):
        caption_scores({"a": "별"}, {"a": ["별"]})


def bindings(monkeypatch, **there):
    """Stand-ins for the bindings of MeCab, by what their pages say they offer; others are not installed."""
    for name in ("mecab", "mecab_ko", "konlpy", "konlpy.tag"):
        monkeypatch.setitem(sys.modules, name, there.get(name.split(".")[0]))


class Morphs:
    morphs = staticmethod(lambda text: [part for word in text.split() for part in (word[:-1], word[-1])])


class Tagger:
    def __init__(self, options):
        assert options == "-Owakati"

    def parse(self, text):
        return " ".join(Morphs.morphs(text)) + " \n"


@pytest.mark.parametrize(
    "binding",
    [
        {"mecab": SimpleNamespace(MeCab=Morphs)},
        {"mecab": SimpleNamespace(Tagger=None), "konlpy": SimpleNamespace(Mecab=Morphs)},  # another package of that name
        {"mecab_ko": SimpleNamespace(Tagger=Tagger)},
    ],
    ids=["python-mecab-ko", "konlpy", "mecab-ko"],
)
def test_mecab_by_any_of_its_bindings(binding, monkeypatch, fresh):
    bindings(monkeypatch, **binding)
    assert tokenize(["사과가 나무에.", "별"], "mecab")[0] == ["사과", "가", "나무에"]
    assert caption_scores({"a": "별이"}, {"a": ["별은"]}, "mecab")["tokenizer"] == "mecab"


def test_without_mecab_it_is_said_what_would_work(monkeypatch, fresh):
    def broken():
        raise Exception("The MeCab dictionary does not exist")

    bindings(monkeypatch, konlpy=SimpleNamespace(Mecab=broken))
    with pytest.raises(BodaError, match=r"python-mecab-ko.*tokenizer=kiwi or whitespace.*dictionary does not exist"):
        tokenize([], "mecab")
