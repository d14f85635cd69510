"""Scores of text equal those of the packages that published figures come from, on 1,000 generated Korean pairs.

pycocoevalcap's scorers are its pure-Python ones, on the same tokens: its own tokenizer is Java and knows no Korean.
"""

from __future__ import annotations

import random

import numpy as np
import pytest

from boda.evaluate.metrics.captions import bleu, cider, count, meteor, rouge_l, sentence_bleu
from boda.evaluate.metrics.reading import edit_rates, edit_rates_upstream, similarity
from boda.evaluate.metrics.tokens import tokenize

COUNT = 1000
WHO = "남자가 여자가 아이가 노인이 학생들이 요리사가 고양이가 강아지가 코끼리가 기차가 버스가".split()
HOW = "빨간 파란 커다란 작은 하얀 오래된 젊은 귀여운 줄무늬가 있는".split()
WHERE = ["공원에서", "거리에서", "부엌에서", "해변에서", "식탁 위에", "침대 옆에서", "큰 나무 아래에서", "기차역에서"]
DOES = [
    "달리고 있다",
    "앉아 있습니다",
    "음식을 먹는다",
    "공을 던지고 있다",
    "사진을 찍는다",
    "책을 읽고 있는 모습이다",
    "서 있어요",
]
WITH = ["TV와 리모컨 2개 옆에서", "우산을 들고", "친구 3명과 함께", "모자를 쓰고", "", ""]
SIGNS = "영업 시간 오전 10시 안내문 출입 금지 서울특별시 종로구 2층 화장실 주차장 할인 50% 원조 김밥 냉면 8,000원".split()


def captions() -> list[tuple[str, list[str]]]:
    """A caption and one to five references each, about the same scene in other words."""
    chosen = random.Random(7)
    found = []
    for _ in range(COUNT):
        scene = [chosen.choice(each) for each in (HOW, WHO, WITH, WHERE, DOES)]

        def told(scene=scene) -> str:
            words = [
                chosen.choice(each) if chosen.random() < 0.3 else word
                for word, each in zip(scene, (HOW, WHO, WITH, WHERE, DOES))
            ]
            if chosen.random() < 0.2:  # other order, or less said
                words[2], words[3] = words[3], words[2]
            return " ".join(filter(None, words[chosen.random() < 0.2 :])) + "."

        found.append((told(), [told() for _ in range(chosen.randrange(1, 6))]))
    return found


def readings() -> list[tuple[str, str]]:
    """What stands on a sign and what a reader made of it: letters lost, swapped, put in, words joined, nothing at all."""
    chosen = random.Random(8)
    found = []
    for _ in range(COUNT):
        written = " ".join(chosen.choice(SIGNS) for _ in range(chosen.randrange(1, 9)))
        letters = list(written)
        for _ in range(chosen.choice([0, 0, 1, 2, 5])):
            place = chosen.randrange(len(letters))
            letters[place : place + chosen.randrange(2)] = chosen.choice(["", "각", "닭", " ", "0"])
            letters = letters or ["무"]
        read = "" if chosen.random() < 0.02 else " ".join("".join(letters).split())
        found.append((read, written))
    return found


@pytest.fixture(scope="module", params=["whitespace", "kiwi"])
def pairs(request):
    if request.param == "kiwi":
        pytest.importorskip("kiwipiepy", reason="kiwipiepy is not installed")
    generated = captions()
    split = iter(tokenize([text for caption, known in generated for text in (caption, *known)], request.param))
    return [(next(split), [next(split) for _ in known]) for _, known in generated]


@pytest.fixture(scope="module")
def coco(pairs):
    """References and captions as pycocoevalcap takes them."""
    return (
        {number: [" ".join(each) for each in references] for number, (_, references) in enumerate(pairs)},
        {number: [" ".join(tokens)] for number, (tokens, _) in enumerate(pairs)},
    )


def test_bleu_cider_and_rouge_are_pycocoevalcaps(pairs, coco):
    pytest.importorskip("pycocoevalcap", reason="pycocoevalcap is not installed")
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.rouge.rouge import Rouge

    counted = count(pairs)
    assert bleu(counted) == pytest.approx(Bleu(4).compute_score(*coco, verbose=0)[0], abs=1e-9)
    np.testing.assert_allclose(cider(counted), Cider().compute_score(*coco)[1], rtol=0, atol=1e-9)
    np.testing.assert_allclose([rouge_l(*pair) for pair in pairs], Rouge().compute_score(*coco)[1], rtol=0, atol=1e-9)


class NoWordNet:
    """NLTK's WordNet data is a download of English words; none of it is Korean."""

    def synsets(self, word):
        return []


def test_meteor_is_nltks(pairs):
    """With NLTK's own Porter stemmer, which leaves Hangul as it is."""
    nltk = pytest.importorskip("nltk.translate.meteor_score", reason="NLTK is not installed")
    some = [(tokens, references[:2]) for tokens, references in pairs]
    expected = [nltk.meteor_score(references, tokens, wordnet=NoWordNet()) for tokens, references in some]
    np.testing.assert_allclose([meteor(*pair) for pair in some], expected, rtol=0, atol=1e-12)


def test_where_meteor_is_not_nltks():
    nltk = pytest.importorskip("nltk.translate.meteor_score", reason="NLTK is not installed")
    assert nltk.single_meteor_score(["dogs"], ["dog"], wordnet=NoWordNet()) == 0.5  # by their stem
    assert meteor(["dog"], [["dogs"]]) == 0


@pytest.mark.filterwarnings(r"ignore:\sThe hypothesis contains 0 counts")
@pytest.mark.parametrize("method", [1, 4])
def test_sentence_bleu_is_nltks(pairs, method):
    nltk = pytest.importorskip("nltk.translate.bleu_score", reason="NLTK is not installed")
    smooth = getattr(nltk.SmoothingFunction(), f"method{method}")
    for weights in ((0.25,) * 4, (0.33,) * 3, (1.0,)):
        # Short ones too: of one word, or of none.
        some = [
            (tokens[: number % 7] if number % 3 else tokens, references) for number, (tokens, references) in enumerate(pairs)
        ]
        expected = [nltk.sentence_bleu(references, tokens, weights, smooth) for tokens, references in some]
        found = [sentence_bleu(*pair, weights, method) for pair in some]
        np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)


def test_error_rates_are_torchmetrics_and_jiwers():
    torchmetrics = pytest.importorskip("torchmetrics.text", reason="torchmetrics is not installed")
    jiwer = pytest.importorskip("jiwer", reason="jiwer is not installed")
    some = readings()
    read, written = map(list, zip(*some))
    found = edit_rates(some)
    assert found["cer"] == pytest.approx(jiwer.cer(written, read), abs=1e-12)
    assert found["wer"] == pytest.approx(jiwer.wer(written, read), abs=1e-12)
    assert found["cer"] == pytest.approx(torchmetrics.CharErrorRate()(read, written).item(), abs=1e-6)  # it counts in fp32
    assert found["wer"] == pytest.approx(torchmetrics.WordErrorRate()(read, written).item(), abs=1e-6)
    assert 0.05 < found["cer"] < found["wer"] < 1
    means = edit_rates_upstream(some)
    for name, metric in (("cer", torchmetrics.CharErrorRate()), ("wer", torchmetrics.WordErrorRate())):
        assert means[name] == pytest.approx(np.mean([metric([a], [b]).item() for a, b in some]), abs=1e-6)


def test_similarity_is_torchmetrics_edit_distance_over_the_longer():
    torchmetrics = pytest.importorskip("torchmetrics.text", reason="torchmetrics is not installed")
    some = readings()
    distances = torchmetrics.EditDistance(reduction="none")(*map(list, zip(*some))).tolist()
    expected = [1 - apart / max(map(len, pair)) for apart, pair in zip(distances, some)]
    assert [similarity(*pair) for pair in some] == pytest.approx(expected, abs=1e-12)
