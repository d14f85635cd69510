"""Samples -> pairs -> rows: ids, what is cut and refused, keys that tell the same picture and the same words."""

from __future__ import annotations

import unicodedata

import numpy as np
import pytest
import torch

from boda.data.pack import step_rows
from boda.data.pairs import PairRenderer, build_pairs
from boda.data.prepared import prepare
from boda.data.sample import ImageRef, conversation
from boda.errors import BadRow, BodaError
from boda.models.assemble import load_tokenizer
from tests import tiny


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer(str(tiny.text_folder("roberta")))


def pair(text: str, picture: str = "a.png"):
    return conversation(("user", "<image>"), ("assistant", text), images=(ImageRef(picture),))


def pixels(ref: ImageRef) -> np.ndarray:
    """Pictures whose names begin alike look alike."""
    if ref.path == "broken.png":
        raise BodaError("broken.png cannot be read")
    return np.full((3, 2, 2), ord(ref.path[0]), dtype=np.float32)


def test_ids_are_the_tokenizers_own_with_its_special_tokens(tokenizer):
    rendered = PairRenderer(tokenizer, 32).render(pair(" 빨간 사과 하나 "))
    assert rendered.input_ids.tolist() == tokenizer("빨간 사과 하나").input_ids
    assert rendered.input_ids[0] == tokenizer.cls_token_id and rendered.input_ids[-1] == tokenizer.sep_token_id
    assert rendered.trained.sum() == 1 and not rendered.truncated and rendered.images == (ImageRef("a.png"),)


def test_hangul_written_as_separate_letters_is_the_same_text(tokenizer):
    text = "하늘을 나는 새"
    composed, separate = (PairRenderer(tokenizer).render(pair(unicodedata.normalize(form, text))) for form in ("NFC", "NFD"))
    assert composed.input_ids.tolist() == separate.input_ids.tolist()


def test_a_long_text_is_cut_before_its_closing_token_and_counted(tokenizer, tmp_path):
    long, short = pair("사과 " * 30), pair("사과")
    rendered = PairRenderer(tokenizer, 8).render(long)
    assert len(rendered.input_ids) == 8 and rendered.truncated and rendered.input_ids[-1] == tokenizer.sep_token_id
    data = prepare([(lambda: [long, short], 1.0)], PairRenderer(tokenizer, 8), tmp_path / "data", "key", print)
    assert data.truncated == 1 and data.targets.tolist() == [1, 1]
    with pytest.raises(BodaError, match="max_length is 2, and 2 of its tokens are the tokenizer's own"):
        PairRenderer(tokenizer, 2)


@pytest.mark.parametrize(
    ("sample", "why"),
    [
        (conversation(("user", "무엇?"), ("assistant", "사과")), "one picture and one text; the row has 0 and 1"),
        (conversation(("user", "<image><image>"), ("assistant", "사과"), images=(ImageRef("a"), ImageRef("b"))),
         "the row has 2 and 1"),
        (conversation(("user", "<image>"), ("assistant", "가"), ("user", "또?"), ("assistant", "나"), images=(ImageRef("a"),)),
         "the row has 1 and 2"),
        (pair("  "), "the text is empty"),
    ],
)  # fmt: skip
def test_what_is_no_pair_is_a_bad_row(tokenizer, sample, why):
    with pytest.raises(BadRow, match=why):
        PairRenderer(tokenizer).render_all(sample)


def test_a_row_of_pairs(tokenizer, tmp_path):
    samples = [
        pair("사과", "a1.png"),
        pair("배", "b.png"),
        pair("사과", "a2.png"),
        pair("감", "broken.png"),
        pair("배", "a1.png"),
    ]
    data = prepare([(lambda: samples, 1.0)], PairRenderer(tokenizer), tmp_path / "data", "key", print)
    assert data.groups.tolist() == [0, 1, 2, 3, 0]  # pairs of one file stay together where data is split
    (row,) = step_rows(data, np.arange(5), 1000, 1, True, True)[0]
    batch = build_pairs(data, row, pixels, (0, 0))
    order = batch["sample_ids"].tolist()
    assert sorted(order) == [0, 1, 2, 4] and batch["bad_images"] == [(3, "broken.png cannot be read")]
    ids = [samples[number].messages[-1].text for number in order]
    borders = batch["cu_seq_lens"].tolist()
    texts = [batch["input_ids"][0, start:end].tolist() for start, end in zip(borders, borders[1:])]
    assert texts == [tokenizer(text).input_ids for text in ids]
    looks = [samples[number].images[0].path[0] for number in order]
    for key, seen in (("image_keys", looks), ("text_keys", ids)):
        same = batch[key][:, None] == batch[key]
        assert same.tolist() == [[one == other for other in seen] for one in seen]
    assert batch["pixel_values"][:, 0, 0, 0].tolist() == [ord(look) for look in looks]


def test_an_empty_row_has_no_pair(tokenizer, tmp_path):
    data = prepare([(lambda: [pair("사과")], 1.0)], PairRenderer(tokenizer), tmp_path / "data", "key", print)
    hands = step_rows(data, np.arange(1), 1000, 2, True, True)
    empty = next(row for hand in hands for row in hand if not row.units)
    batch = build_pairs(data, empty, pixels, (0, 0))
    assert len(batch["sample_ids"]) == 0 and "pixel_values" not in batch and batch["input_ids"].shape == (1, 0)
    assert torch.equal(batch["cu_seq_lens"], torch.zeros(1, dtype=torch.int32))
