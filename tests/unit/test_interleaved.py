"""Documents with pictures: learnt word by word in pieces that cut no picture, or in a Flamingo's chunks exactly as published."""

from __future__ import annotations

import json
import random
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from boda.data.interleaved import END_OF_CHUNK, FlamingoRenderer
from boda.data.pack import build_batch, step_rows
from boda.data.prepared import prepare
from boda.data.render import Renderer, expand_images
from boda.data.sample import IMAGE_MARK, ImageRef, Message, Part, Sample, conversation
from boda.data.sources import read
from boda.errors import BadRow, BodaError, LeftOut
from boda.models.assemble import load_tokenizer
from boda.models.vocabulary import add_token
from boda.recipe import template_text
from tests import tiny
from tests.unit.test_mmc4 import BIG, document, tar

LINES = tiny.korean_lines()
FAMILIES = ("gpt_neox", "llama", "qwen3", "hyperclovax")


@cache
def tokenizer_of(family: str):
    tokenizer = load_tokenizer(str(tiny.language_folder(family)))
    for token in (END_OF_CHUNK, IMAGE_MARK):
        add_token(tokenizer, token)
    return tokenizer


def written(*pieces: str | int) -> Sample:
    """A document of texts and pictures, which are numbers."""
    parts = tuple(Part("text", piece) if isinstance(piece, str) else Part("image") for piece in pieces)
    images = tuple(ImageRef(f"{piece}.jpg") for piece in pieces if isinstance(piece, int))
    return Sample((Message("assistant", parts),), images)


def renderer(family: str = "llama", pictures: int = 4, max_length: int | None = None, kind=Renderer) -> Renderer:
    return kind(tokenizer_of(family), template_text("plain"), pictures, max_length)


def test_pictures_stand_where_they_are_and_every_word_is_trained():
    """... but the first; they bring no line breaks, and no template is used."""
    tokenizer, sample = tokenizer_of("llama"), written("한글은 ", 7, "1443년에 ", 8, 9, " 만들어졌다.")
    (rendered,) = renderer(max_length=99).render_all(sample)
    text = "한글은 <image>1443년에 <image><image> 만들어졌다."
    assert rendered.input_ids.tolist() == [*tokenizer(text).input_ids, tokenizer.eos_token_id]
    is_image = rendered.input_ids == tokenizer.convert_tokens_to_ids(IMAGE_MARK)
    assert rendered.trained.tolist() == (~is_image & (np.arange(len(is_image)) > 0)).tolist() and is_image.sum() == 3
    assert [image.path for image in rendered.images] == ["7.jpg", "8.jpg", "9.jpg"]
    assert rendered.prefix == 0 and not rendered.truncated and rendered.answer == (0, 0)


def test_a_piece_begins_with_a_picture_where_it_can():
    sample = written(*(piece for number in range(4) for piece in (number, LINES[number])))
    (whole,) = renderer(pictures=16).render_all(sample)
    image_id = tokenizer_of("llama").convert_tokens_to_ids(IMAGE_MARK)
    parts = np.diff([*np.flatnonzero(whole.input_ids == image_id), len(whole.input_ids)])
    longest = int(max(parts[0] + parts[1], *parts[2:])) + 15 * 2
    pieces = renderer(pictures=16, max_length=longest).render_all(sample)
    assert len(pieces) > 1 and all(piece.input_ids[0] == image_id for piece in pieces[1:])
    assert np.concatenate([piece.input_ids for piece in pieces]).tolist() == whole.input_ids.tolist()  # nothing stands twice
    shown = renderer(pictures=16, max_length=longest).render(sample)
    assert shown.truncated and shown.input_ids.tolist() == pieces[0].input_ids.tolist()


PIECES = st.lists(
    st.one_of(st.integers(0, 9), st.sampled_from(LINES), st.sampled_from(["가", "a b", "다. "])), min_size=1, max_size=8
)


@given(PIECES, st.integers(2, 5), st.integers(0, 40), st.sampled_from(FAMILIES))
@settings(max_examples=300, deadline=None)
def test_pieces_lose_no_word_and_cut_no_picture(parts: list, pictures: int, more: int, family: str):
    if not any(isinstance(part, str) for part in parts):
        parts = [*parts, "가"]
    sample, most = written(*parts), pictures + 1 + more
    made, tokenizer = renderer(family, pictures, most), tokenizer_of(family)
    ids = np.array(
        [*tokenizer("".join(p if isinstance(p, str) else IMAGE_MARK for p in parts)).input_ids, tokenizer.eos_token_id]
    )
    pieces = made.render_all(sample)
    words = np.concatenate([piece.input_ids[piece.trained] for piece in pieces])
    assert words.tolist() == ids[1:][ids[1:] != made.image_id].tolist()
    for piece in pieces:
        assert piece.trained.any() and not piece.trained[0] and made.length(piece) <= most
        assert (piece.input_ids == made.image_id).sum() == len(piece.images) and piece.prefix == 0
        assert len(expand_images(piece.input_ids, made.image_id, pictures)) == made.length(piece)
    # Whole where it fits; pictures in order, each with the words that follow it.
    if len(expand_images(ids, made.image_id, pictures)) <= most:
        assert len(pieces) == 1 and pieces[0].input_ids.tolist() == ids.tolist()
    seen = iter(sample.images)
    assert all(image in seen for piece in pieces for image in piece.images)
    if not sample.images:
        starts = range(0, len(ids) - 1, most - 1)
        assert [piece.input_ids.tolist() for piece in pieces] == [ids[start : start + most].tolist() for start in starts]


def test_a_long_document_in_rows(tmp_path):
    """Every word is a label once, predicted by what stands before it, and each piece has its own pictures' pixels."""
    made, sample = renderer(pictures=4, max_length=24), written("가나 ", *(piece for n in range(6) for piece in (n, LINES[n])))
    data = prepare([(lambda: iter([sample]), 1.0)], made, tmp_path / "data", "key", pytest.fail)
    (whole,) = renderer(pictures=4).render_all(sample)
    rows = step_rows(data, np.arange(len(data)), 48, 1, True, True)[0]
    assert len(data) > 3 and len(rows) > 1 and set(data.groups) == {-1}
    words: dict[int, list[int]] = {}
    for row in rows:
        batch = build_batch(data, row, lambda ref: np.full((3, 2, 2), int(ref.path[0]), np.float32), (0, 0))
        ids, places, borders = batch["input_ids"][0], batch["label_positions"], batch["cu_seq_lens"].tolist()
        assert len(ids) <= 48 and ids[places + 1].tolist() == batch["labels"].tolist()
        assert (ids == made.image_id).sum() == 4 * len(batch.get("pixel_values", []))
        shown = [int(value) for value in batch["pixel_values"][:, 0, 0, 0]] if "pixel_values" in batch else []
        assert shown == [int(ref.path[0]) for index in batch["sample_ids"].tolist() for ref in data.row(index).images]
        for index, start, end in zip(batch["sample_ids"].tolist(), borders, borders[1:]):
            words[index] = batch["labels"][(places >= start) & (places < end)].tolist()
    assert [word for index in sorted(words) for word in words[index]] == whole.input_ids[whole.trained].tolist()


def test_documents_that_cannot_be_rendered():
    with pytest.raises(BadRow, match="max_length is 4, and a text is learnt from a picture of 4 tokens and one more at least"):
        renderer(max_length=4).render_all(written(1, "가"))
    with pytest.raises(BadRow, match="the model takes none"):
        renderer(pictures=0).render_all(written("가", 1))
    for kind in (Renderer, FlamingoRenderer):
        with pytest.raises(BadRow, match="assistant turn is empty"):
            renderer(pictures=1, kind=kind).render_all(written(1, " "))
        bare = load_tokenizer(str(tiny.language_folder("llama")))
        add_token(bare, END_OF_CHUNK), add_token(bare, IMAGE_MARK)
        bare.eos_token = None
        with pytest.raises(BodaError, match="no end-of-text token"):
            kind(bare, template_text("plain"), 1).render_all(written(1, "가"))
    with pytest.raises(BodaError, match=r"no token <\|endofchunk\|>"):
        FlamingoRenderer(load_tokenizer(str(tiny.language_folder("llama"))), template_text("plain"), 1)
    with pytest.raises(BadRow, match="an assistant turn holds a picture"):  # only a document may
        conversation(("user", "그려 줘"), ("assistant", "<image>"), images=(ImageRef("1.jpg"),)).check_trainable()


def published(sentences: list[str], places: list[int], tokenizer, max_length: int) -> tuple[list[int], list[int]]:
    """Ids and labels of OpenFlamingo's procedure, said again: sentences, and those that a picture stands before."""
    marked = [(END_OF_CHUNK + IMAGE_MARK if number in places else "") + sentence for number, sentence in enumerate(sentences)]
    text = " ".join(marked).replace(END_OF_CHUNK, "", 1)
    text = text.replace(" <|endofchunk|>", "<|endofchunk|>").replace("<image> ", "<image>").replace(" <image>", "<image>")
    text = f"{text}<|endofchunk|>{tokenizer.eos_token}"
    ids = tokenizer(text, max_length=max_length, truncation=True).input_ids
    picture, end = (tokenizer.convert_tokens_to_ids(token) for token in ("<image>", "<|endofchunk|>"))
    labels, place = list(ids), 0
    while place < len(ids) and ids[place] != picture:
        labels[place] = -100
        place += 1
    for start in [place for place, label in enumerate(labels) if label == end]:
        place = start + 1
        while place < len(ids) and labels[place] != picture:
            labels[place] = -100
            place += 1
    return ids, [-100 if label == picture else label for label in labels]


def spaced(sentences: list[str], places: list[int]) -> Sample:
    """The same as a Sample: sentences joined by spaces, a picture before some of them."""
    pieces: list[str | int] = [""]
    for number, sentence in enumerate(sentences):
        pieces += [number, ""] if number in places else []
        pieces[-1] += sentence + (" " if number + 1 < len(sentences) else "")
    return written(*(piece for piece in pieces if piece != ""))


def labels_of(rendered) -> list[int]:
    return np.where(rendered.trained, rendered.input_ids, -100).tolist()


SENTENCES = st.lists(
    st.one_of(st.sampled_from(LINES), st.sampled_from(["가", " 앞", "뒤 ", " ", "a  b ", "1443년.\n"])), min_size=1, max_size=6
)


@given(SENTENCES, st.sets(st.integers(0, 5), min_size=1), st.integers(2, 120), st.sampled_from(FAMILIES))
@settings(max_examples=300, deadline=None)
def test_a_flamingo_reads_documents_as_published(sentences: list[str], places: set[int], most: int, family: str):
    kept, sentences = sorted(place for place in places if place < len(sentences)), [*sentences, "끝."]
    kept, tokenizer = kept or [0], tokenizer_of(family)
    ids, labels = published(sentences, kept, tokenizer, most)
    made = renderer(family, 1, most, FlamingoRenderer)
    if all(label == -100 for label in labels):
        with pytest.raises(LeftOut, match=f"within max_length {most}"):
            made.render_all(spaced(sentences, kept))
        return
    (rendered,) = made.render_all(spaced(sentences, kept))
    assert rendered.input_ids.tolist() == ids and labels_of(rendered) == labels and not rendered.trained[0]
    assert [image.path for image in rendered.images] == [f"{place}.jpg" for place in kept][: ids.count(made.image_id)]
    assert rendered.truncated == (len(published(sentences, kept, tokenizer, 10_000)[0]) > most) and rendered.prefix == 0


def test_what_a_flamingo_learns_of_a_document():
    """What follows a picture with the token that ends its chunk; neither what stands before, nor the end of the text."""
    tokenizer = tokenizer_of("gpt_neox")
    (rendered,) = renderer("gpt_neox", 1, 256, FlamingoRenderer).render_all(written("머리말. ", 1, " 사과다. ", 2, "배다."))
    text = f"머리말.<image>사과다.{END_OF_CHUNK}<image>배다.{END_OF_CHUNK}{tokenizer.eos_token}"
    assert tokenizer.decode(rendered.input_ids) == text
    assert tokenizer.decode(rendered.input_ids[rendered.trained]) == f"사과다.{END_OF_CHUNK}배다.{END_OF_CHUNK}"


def test_documents_without_pictures_and_conversations_are_a_renderers():
    text = written("한글은 1443년에 만들어졌다. " * 9)
    asked = conversation(("user", "<image>무엇?"), ("assistant", "사과"), images=(ImageRef("1.jpg"),))
    for sample in (text, asked):
        ours, others = (renderer("gpt_neox", 1, 40, kind).render_all(sample) for kind in (FlamingoRenderer, Renderer))
        assert len(ours) == len(others)
        for one, other in zip(ours, others):
            assert one.input_ids.tolist() == other.input_ids.tolist() and one.trained.tolist() == other.trained.tolist()
            assert (one.images, one.prefix, one.truncated) == (other.images, other.prefix, other.truncated)


def test_from_a_shard_to_a_batch(tmp_path, monkeypatch):
    """mmc4 -> prepared -> rows -> tensors: labels as published, each picture's pixels behind its token, nothing shared."""
    monkeypatch.setenv("BODA_CACHE", str(tmp_path / "cache"))
    chance, tokenizer = random.Random(5), tokenizer_of("gpt_neox")
    made, places = [], []
    for number in range(12):
        sentences = [f"{number}번 글.", *chance.sample(LINES, 4)]
        places.append(chance.sample(range(5), 2))
        similarity = [[0.5 if column == place else 0.0 for column in range(5)] for place in places[-1]]
        made.append(document([BIG[number % 4], BIG[4 + number % 4]], similarity, sentences))
    path, flamingo = tar(tmp_path / "0.tar", made), renderer("gpt_neox", 1, 100, FlamingoRenderer)
    data = prepare([(lambda: read(path), 1.0)], flamingo, tmp_path / "data", "key", pytest.fail)
    expected = [published(each["text_list"], sorted(at), tokenizer, 100) for each, at in zip(made, places)]
    assert len(data) == 12 and data.truncated == sum(len(ids) == 100 for ids, _ in expected)
    assert set(data.groups) == {-1} and set(data.shards) == {0} and data.pictures[0].count("image_base64") == 1
    assert sum(map(len, data.pictures)) < 12 * 2 * 300  # places, no pixels
    assert json.loads(data.pictures[0])["size"] > 20_000
    known = {BIG[index]: index for index in range(8)}

    def pixels(ref: ImageRef) -> np.ndarray:
        return np.full((3, 2, 2), known[ref.read()], np.float32)

    for row in step_rows(data, np.arange(12), 256, 1, True, True)[0]:
        batch = build_batch(data, row, pixels, (0, 0))
        order, values = batch["sample_ids"].tolist(), batch["pixel_values"][:, 0, 0, 0].tolist()
        assert batch["input_ids"][0].tolist() == [id for index in order for id in expected[index][0]]
        assert batch["labels"].tolist() == [id for index in order for id in expected[index][1] if id != -100]
        shown = []
        for index in order:  # pictures in the order of their sentences, where both are within the cut
            pair = [index % 4, 4 + index % 4] if places[index][0] < places[index][1] else [4 + index % 4, index % 4]
            shown += pair[: expected[index][0].count(flamingo.image_id)]
        assert values == shown and len(batch["image_segment"]) == len(shown)
