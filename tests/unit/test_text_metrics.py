"""Scores of answers: text read in pictures, boxes, numbers, likeness in meaning; each by hand, and the published rules beside them."""

from __future__ import annotations

import math
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from boda.errors import BodaError
from boda.evaluate.metrics.boxes import box_score, box_score_upstream, box_scores, iou, parse_box
from boda.evaluate.metrics.likeness import similarities
from boda.evaluate.metrics.numbers import ko_vqa_upstream, quantities, relaxed, relaxed_upstream, same_quantities
from boda.evaluate.metrics.reading import anls, edit_rates, edit_rates_upstream, similarity
from tests.tiny import text_folder

# ---------------------------------------------------------------- text


def test_error_rates_by_hand():
    pytest.importorskip("rapidfuzz", reason="rapidfuzz is not installed")
    found = edit_rates([("김치찌게", "김치찌개"), ("", "물"), ("출구 2", "")])
    # One syllable, one lost, four put in, of 5 that are written; ㅔ for ㅐ is one letter of 9, 물 has 3.
    assert found == pytest.approx({"cer": 6 / 5, "wer": 4 / 2, "cer_jamo": (1 + 3 + 7) / (9 + 3)})
    decomposed = [("\u1112\u1161\u11ab  글\n", "한 글")]
    assert edit_rates(decomposed) == {"cer": 0, "wer": 0, "cer_jamo": 0}
    assert edit_rates([("말", ""), ("", " ")]) == edit_rates([]) == {"cer": None, "wer": None, "cer_jamo": None}


def test_error_rates_as_published_are_means_of_pictures():
    pytest.importorskip("rapidfuzz", reason="rapidfuzz is not installed")
    some = [("가", "나"), ("가나다라마바사 아", "가나다라마바사 아"), ("말", "")]
    assert edit_rates_upstream(some) == {"cer": 0.5, "wer": 0.5}
    assert edit_rates(some[:2])["cer"] == pytest.approx(1 / 10)
    assert edit_rates_upstream([("\u1112\u1161\u11ab", "한")])["cer"] == 3  # as it comes
    assert edit_rates_upstream([("말", "")]) == {"cer": None, "wer": None}


def test_similarity_by_hand():
    pytest.importorskip("rapidfuzz", reason="rapidfuzz is not installed")
    assert similarity("김치찌게", "김치찌개") == 0.75
    assert similarity("가나", "가 나 다 라") == pytest.approx(1 - 5 / 7)
    assert similarity("", "") == similarity(" ", "\n") == 1 and similarity("", "가") == similarity("가", "") == 0


@pytest.mark.parametrize(
    "answer, references, score",
    [
        ("Seoul", ["서울", "SEOUL"], 1),
        ("가나", ["가다"], 0),  # the paper wants more than half
        ("가나다", ["가나라"], 2 / 3),
        ("가", ["다나"], 0),
        ("", [""], 1),
        ("가  나\n다", ["가 나 라"], 0.8),
        ("\u1112\u1161\u11ab", ["한"], 1),
    ],
)
def test_anls(answer, references, score):
    pytest.importorskip("rapidfuzz", reason="rapidfuzz is not installed")
    assert anls(answer, references) == pytest.approx(score)


# ---------------------------------------------------------------- boxes

BOX = (0.52, 0.43, 0.65, 0.47)


@pytest.mark.parametrize(
    "text, box",
    [
        ("[0.52, 0.43, 0.65, 0.47]", BOX),
        ("0.52,0.43,0.65,0.47", BOX),
        ("글자는 [0.52, 0.43, 0.65, 0.47] 영역에 있습니다.", BOX),
        ("2번 간판: (0.52 0.43 0.65 0.47).", BOX),
        ("<box>(0.52,0.43),(0.65,0.47)</box>", BOX),
        ("x1=0.52, y1=.43, x2=0.65, y2=0.47.", BOX),
        ('```json\n[{"bbox_2d": [0.52, 0.43, 0.65, 0.47]}]\n```', BOX),
        ("[0.52, 0.43, 0.65, 0.47], [0.1, 0.1, 0.2, 0.2]", BOX),
        ("(52, 43, 65, 47)", (52, 43, 65, 47)),  # per cent or pixels: not guessed, so far from the box in shares
        ("[0.52, 0.43, 0.65]", None),
        ("0.52, 0.43, 0.65, 0.47, 0.5", None),
        ("[0.52, 0.43, 0.65, 0.47, 0.5]", None),
        ("[NaN, 0, 0, 1]", None),
        ("보이지 않습니다.", None),
        ("", None),
    ],
)
def test_boxes_are_read_as_they_are_written(text, box):
    assert parse_box(text) == box


def test_iou_by_hand():
    assert iou((0, 0, 2, 2), (1, 1, 3, 3)) == pytest.approx(1 / 7)
    assert iou((0, 0, 2, 2), (2, 0, 4, 2)) == 0  # side by side
    assert iou((3, 3, 1, 1), (0, 0, 2, 2)) == pytest.approx(1 / 7)  # corners the other way round
    assert iou((0.5, 0.1, 0.5, 0.4), (0.5, 0.1, 0.5, 0.4)) == 1 and iou((0.5, 0.1, 0.5, 0.4), (0, 0, 1, 1)) == 0


corner = st.integers(0, 100).map(lambda hundredths: hundredths / 100)
boxes = st.tuples(corner, corner, corner, corner)


@given(boxes, boxes)
def test_iou_is_a_share_and_knows_no_order(one, other):
    assert 0 <= iou(one, other) <= 1 and iou(one, other) == pytest.approx(iou(other, one)) and iou(one, one) == pytest.approx(1)
    assert iou(one, (other[2], other[3], other[0], other[1])) == iou(one, other)


def test_an_answer_without_a_box_counts_and_the_published_mean_drops_it():
    gold = "[0.0, 0.0, 1.0, 1.0]"
    pairs = [(gold, gold), ("[0, 0, 1, 0.6]", gold), ("답: [0, 0, 1, 0.8]", gold), ("모르겠습니다", gold)]
    found = box_scores(pairs)
    assert found["upstream"] == pytest.approx({"iou": 0.8, "iou_50": 1, "iou_75": 0.5, "n": 2})
    assert {name: found[name] for name in ("iou", "iou_50", "iou_75", "unread")} == pytest.approx(
        {"iou": 0.6, "iou_50": 0.75, "iou_75": 0.5, "unread": 1}
    )
    assert box_scores(pairs[3:])["upstream"] == {"iou": None, "iou_50": None, "iou_75": None, "n": 0}


def test_the_published_box_rule():
    thin = "[0.5, 0.1, 0.5, 0.4]"
    assert box_score(thin, thin) == 1 and box_score_upstream(thin, thin) == 0.0
    assert box_score_upstream("0.0, 0, 1 ,1\n", "[0, 0, 1, 1]") == 1
    assert box_score_upstream("[1, 1, 0, 0]", "[0, 0, 1, 1]") == 0 and box_score("[1, 1, 0, 0]", "[0, 0, 1, 1]") == 1
    assert box_score_upstream("[3, 0, 0, 1]", "[0, 0, 1, 1]") == 0  # an area below 0
    for answer in ("[0, 0, 1]", '["0", 0, 1, 1]', "[0, 0, 1, 1].", "(0, 0, 1, 1)", "", "{}", "왼쪽 위"):
        assert box_score_upstream(answer, "[0, 0, 1, 1]") is None, answer


def test_mistakes_in_boxes_are_named():
    with pytest.raises(BodaError, match=r"'간판' is no box; .*\[x1, y1, x2, y2\]"):
        box_scores([("[0, 0, 1, 1]", "간판")])
    with pytest.raises(BodaError, match="no boxes"):
        box_scores([])


# ---------------------------------------------------------------- numbers


@pytest.mark.parametrize(
    "text, expected",
    [
        ("총 7,131백만 원입니다.", [(7131000000, "원")]),
        ("71억 3,100만원", [(7131000000, "원")]),
        ("24,347천 명", [(24347000, "명")]),
        ("3만5천원과 2천5백만 원", [(35000, "원"), (25000000, "원")]),
        ("2천 5백만 원, 1억 2천 3백 4십만", [(25000000, "원"), (123400000, "")]),
        ("3천 4천, 2백 5천", [(3000, ""), (4000, ""), (200, ""), (5000, "")]),
        ("1조 2,345억 6천만", [(1234560000000, "")]),
        ("약 3만여 명, 10만 20만", [(30000, "명"), (100000, ""), (200000, "")]),
        ("2017년도 인구 45.5퍼센트", [(2017, "년"), (45.5, "%")]),
        ("１２３％ 증가", [(123, "%")]),
        ("△3.5%p", [(-3.5, "%p")]),
        ("2019-2020", [(2019, ""), (2020, "")]),
        ("5조각, 4만큼, 3천안, A4", [(5, ""), (4, ""), (3, "")]),  # words that begin like a scale
        ("버전 1.2.3, 3million", []),
        ("삼백 원", []),  # said so: not read
    ],
)
def test_korean_numbers(text, expected):
    assert [(float(value), unit) for value, unit in quantities(text)] == expected


scales = st.sampled_from([("", 1), ("천", 1000), ("만", 10**4), ("백만", 10**6), ("억", 10**8), ("조", 10**12)])


@given(st.integers(0, 10**7), scales, st.sampled_from(["", " "]), st.sampled_from(["", "원", "명", "개", "%"]), st.booleans())
def test_any_number_is_read_however_it_is_written(number, scale, space, unit, commas):
    text = f"모두 {number:{',' if commas else ''}}{scale[0]}{space}{unit}입니다"
    assert quantities(text) == [(number * scale[1], unit)]


@pytest.mark.parametrize(
    "answer, output, ours, published",
    [
        ("총 7,131백만 원입니다.", "7,131백만 원", True, True),
        ("총 7,131백만 원입니다.", "예산은 71억 3,100만원입니다.", True, False),
        ("총 7,131백만 원입니다.", "7,131백 원입니다.", False, True),  # its unit is one letter
        ("총 7,131백만 원입니다.", "7,131 백만 원", True, False),
        ("총 7,131백만 원입니다.", "7,131", False, False),
        ("24,347천 명입니다.", "표에는 24,347천 명, 20,000천 명, 1천 명이 있습니다.", False, True),  # a list of all there is
        ("2008년 인구는 24,347천 명입니다.", "24,347천 명", True, False),  # its number is the first
        ("2008년 인구는 24,347천 명입니다.", "2008년에는 10천 명입니다.", False, True),
        ("비율은 3.0%이다.", "3%", True, True),  # 3.0 is 3
        ("비율은 3.5%이다.", "3.50 퍼센트입니다.", True, True),
        ("3명이다.", "13명 중 3명입니다.", False, True),
        ("3천 명이다.", "3천 명", True, True),
        ("3천 명이다.", "3,000명", True, False),
        ("3만 명이다.", "3명이다.", False, True),  # 만 is none of its units
        ("5명이다.", "5", True, True),  # one number at the end has no unit
        ("5명이다.", "1위는 5", True, False),  # of two numbers its code stops with an error
        ("5명", "5개입니다.", False, True),
        ("2010년이다.", "2010년입니다.", True, True),
        ("2010년이다.", "2011년입니다.", False, False),
        ("서울입니다.", "서울", True, False),  # a reference without a number stops its code
        ("정답 5", "5명", True, False),  # so does one that ends in it
        ("5명이다.", "", False, False),
        ("5명이다.", "모르겠습니다.", False, False),
    ],
)
def test_ko_vqa(answer, output, ours, published):
    assert same_quantities(answer, output) is ours
    assert ko_vqa_upstream(answer, output) is published


def test_ko_vqa_looks_behind_the_first_place_where_the_digits_stand():
    """Of 13천 and 3억 the 3 is looked up within 13천."""
    assert ko_vqa_upstream("3천 원이다", "13천 명과 3억 원이다") and not ko_vqa_upstream("3억 원이다", "13천 명과 3억 원이다")
    assert not ko_vqa_upstream("5명이다", "9" * 5000 + "명이다")  # more than Python turns into a number


@pytest.mark.parametrize(
    "answer, reference, ours, published",
    [
        ("42", "42", True, True),
        ("44", "42", True, True),
        ("44.2", "42", False, False),
        ("약 4만 2천 명입니다.", "42,000명", True, False),
        ("42%", "42", True, False),  # a unit that the reference leaves out; hundredths to the published rule
        ("42%", "0.42", False, True),
        ("1,234", "1234", True, False),
        ("2015", "2010", False, True),  # years, within 5 % of one another
        ("2015년", "2010년", False, False),
        ("2019년에 45%입니다.", "45%", True, False),
        ("45%와 30%", "45%", False, False),
        ("45명", "45%", False, False),
        ("0", "0", True, True),
        ("0.01", "0", False, False),
        ("-5", "-5.1", True, True),
        ("서울입니다.", "서울", True, False),
        ("YES", "Yes", True, True),
        ("nan", "5", False, False),
        ("", "5", False, False),
    ],
)
def test_relaxed_accuracy(answer, reference, ours, published):
    assert relaxed(answer, reference) is ours
    assert relaxed_upstream(answer, reference) is published


# ---------------------------------------------------------------- likeness


@pytest.fixture(scope="module")
def sentence_encoder(tmp_path_factory):
    """A tiny random text encoder, saved with the mean of its vectors as a sentence-transformers model."""
    pytest.importorskip("sentence_transformers", reason="sentence-transformers is not installed")
    from sentence_transformers import SentenceTransformer

    folder = tmp_path_factory.mktemp("sbert")
    encoder = SentenceTransformer(str(text_folder()), device="cpu")  # it adds the mean
    encoder.max_seq_length = 16
    encoder.save(str(folder))
    return str(folder)


def test_likeness_is_the_cosine_of_mean_vectors_with_the_likest_reference(sentence_encoder):
    import torch
    from transformers import AutoModel, AutoTokenizer

    tokenizer, model = AutoTokenizer.from_pretrained(text_folder()), AutoModel.from_pretrained(text_folder()).eval()

    def vector(text: str) -> torch.Tensor:
        with torch.no_grad():
            mean = model(**tokenizer(text, return_tensors="pt", max_length=16, truncation=True)).last_hidden_state[0].mean(0)
        return mean / mean.norm()

    captions = ["고양이가 의자 위에 앉아 있다.", "기차가 온다", "별" * 50]
    known = [["의자 위에 고양이가 있다.", "바다"], ["강아지"], ["별이 빛난다", "밤하늘의 별", "달"]]
    expected = [max(float(vector(said) @ vector(each)) for each in some) for said, some in zip(captions, known)]
    found = similarities(captions, known, sentence_encoder)
    assert found == pytest.approx(expected, abs=1e-5) and len({round(each, 4) for each in found}) == 3
    assert similarities(["\u1112\u1161\u11ab", "", " "], [["한"], ["별"], ["별"]], sentence_encoder) == pytest.approx([1, 0, 0])
    assert math.isclose(similarities(captions, [[each] for each in captions], sentence_encoder)[1], 1, abs_tol=1e-6)


def test_without_the_model_or_the_package_it_is_said_what_is_missing(tmp_path, monkeypatch):
    pytest.importorskip("sentence_transformers", reason="sentence-transformers is not installed")
    with pytest.raises(BodaError, match="absent' cannot be loaded as a sentence-transformers model"):
        similarities(["가"], [["나"]], str(tmp_path / "absent"))
    with pytest.raises(BodaError, match=r"has no modules\.json"):
        similarities(["가"], [["나"]], str(text_folder()))
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(BodaError, match=r"sentence-transformers: pip install 'boda\[eval\]'"):
        similarities(["가"], [["나"]], "any")


def test_without_rapidfuzz_it_is_said_what_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "rapidfuzz.distance", None)
    with pytest.raises(BodaError, match=r"rapidfuzz: pip install 'boda\[eval\]'"):
        similarity("가", "나")
