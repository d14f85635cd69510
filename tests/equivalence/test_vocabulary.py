"""Tokenizers and models with more pieces: what was there stays as it was, and the new pieces come up."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections import Counter
from functools import cache

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast, T5Tokenizer, XLMRobertaTokenizer

from boda.errors import BodaError
from boda.models.pieces import Growth, Known, extended
from boda.models.pieces_learnt import count_words, learn_pieces
from boda.models.pieces_taken import take_pieces
from boda.models.vocabulary import add_token, give_pad_token, give_rows, resize_embeddings, share_of_new, train_tokenizer
from tests import tiny
from tests.shared_data import shared_data
from tests.tiny_build import byte_level

FAMILIES = (*tiny.LANGUAGE_FAMILIES, "llama2", "synatra")
UNIGRAMS = {"xlm_roberta": XLMRobertaTokenizer, "t5": T5Tokenizer}
LLAMA3_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
KINDS = (*FAMILIES, *UNIGRAMS, "whole words", "english", "older llama")
ENGLISH = "The quick brown fox jumps over the lazy dog. Films, 2010 of them! They were made for nobody at all; who knows?"
CORPUS = [
    *tiny.korean_lines(),
    *(
        "감독의 영화를 정말 재미있게 보았습니다. 배우들의 연기도 훌륭했다!!! 최고의 영화ㅋㅋㅋㅋ 2010년 영화",
        "감독이 만든 영화, 배우가 만든 감동…",
    )
    * 20,
]


def unigram(kind: str):
    """A tokenizer of the T5 kind that knows English letters only, or of XLM-R's, which knows Korean ones, too."""
    trained = Tokenizer(models.Unigram())
    trained.pre_tokenizer = pre_tokenizers.Metaspace()
    specials = ["<s>", "<pad>", "</s>", "<unk>"]
    trainer = trainers.UnigramTrainer(
        vocab_size=60 if kind == "t5" else 700, special_tokens=specials, unk_token="<unk>", show_progress=False
    )
    letters = [] if kind == "t5" else sorted(set("".join(CORPUS)))
    trained.train_from_iterator([*[ENGLISH, *ENGLISH.split()] * 4, *letters], trainer)
    return UNIGRAMS[kind](vocab=[tuple(pair) for pair in json.loads(trained.to_str())["model"]["vocab"]])


def whole_words():
    """Llama 3's kind: a word that is a piece is taken whole; its own border rules; added tokens far behind the pieces."""
    made = byte_level(400, ())
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(LLAMA3_SPLIT), "isolated"),
            pre_tokenizers.ByteLevel(False, use_regex=False),
        ]
    )
    made.model.ignore_merges = True
    made.add_special_tokens([f"<|reserved_{n}|>" for n in range(50)])
    return PreTrainedTokenizerFast(tokenizer_object=made, eos_token="<|reserved_0|>")


def older_llama():
    """Llama 2 as it was first converted: a space is put before every text by a normalizer, and the text is one word."""
    made = json.loads(tiny.llama2_tokenizer().backend_tokenizer.to_str())
    steps = [{"type": "Prepend", "prepend": "▁"}, {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]
    made |= {"pre_tokenizer": None, "normalizer": {"type": "Sequence", "normalizers": steps}}
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(made)), unk_token="<unk>", eos_token="</s>")


@cache
def base_of(kind: str):
    if kind == "older llama":
        return older_llama()
    if kind in UNIGRAMS:
        return unigram(kind)
    if kind == "whole words":
        return whole_words()
    if kind == "english":
        return train_tokenizer([ENGLISH] * 4, 330)
    return AutoTokenizer.from_pretrained(tiny.language_folder(kind))


@cache
def learnt(kind: str, number: int = 60) -> tuple:
    """(base, what was learnt, extended tokenizer)"""
    growth = learn_pieces(base_of(kind), count_words(CORPUS), number)
    return base_of(kind), growth, extended(base_of(kind), growth)


def ids_of(tokenizer, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False).input_ids


@pytest.mark.parametrize("kind", KINDS)
def test_a_tokenizer_learns_pieces_and_stays_what_it_was(kind, tmp_path):
    base, growth, new = learnt(kind)
    known = Known(base)
    vocab = new.get_vocab()
    assert 40 < len(growth.pieces) <= 60 and len(set(growth.pieces)) == len(growth.pieces)
    assert {id: piece for piece, id in vocab.items() if id >= known.first} == {
        known.first + place: piece for place, piece in enumerate(growth.pieces)
    }
    assert {piece: id for piece, id in vocab.items() if piece in base.get_vocab()} == base.get_vocab()
    # Where whole words were one unknown token before, there are fewer of these instead.
    counts = [Counter(id for text in CORPUS for id in ids_of(each, text)) for each in (base, new)]
    before, after = (count[known.unknown] if kind == "t5" else count.total() for count in counts)
    assert after < (0.9 if kind == "t5" else 0.8) * before
    # Every piece that is a text comes up somewhere in the corpus, apart from steps on the way to a longer one.
    assert sum(vocab[piece] in counts[1] for piece in growth.pieces) > 0.5 * len(growth.pieces)
    new.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    assert type(again) is type(base) and again.get_vocab() == vocab
    assert again.all_special_tokens == base.all_special_tokens and again.chat_template == base.chat_template
    one, two = (json.loads(each.backend_tokenizer.to_str()) for each in (base, again))
    for part in ("normalizer", "pre_tokenizer", "post_processor", "decoder", "added_tokens"):
        assert one[part] == two[part]
    for text in (*CORPUS[:20], ENGLISH):
        assert again(text).input_ids == new(text).input_ids
        if not any(id >= known.first for id in ids_of(new, text)):
            assert again(text).input_ids == base(text).input_ids


@pytest.mark.parametrize("kind", KINDS)
def test_tokens_added_later_take_no_ones_id(kind, tmp_path):
    _, _, new = learnt(kind)
    new.save_pretrained(tmp_path)
    later = AutoTokenizer.from_pretrained(tmp_path)
    before = later.get_vocab()
    ids = [add_token(later, name) for name in ("<picture>", "<one more>")]
    assert not set(ids) & set(before.values()) and len(set(ids)) == 2
    give_pad_token(later)
    assert sorted(later.get_vocab().values()) == list(range(len(later.get_vocab())))
    assert ids_of(later, "보기<picture>")[-1] == ids[0]
    later.save_pretrained(tmp_path / "later")
    assert AutoTokenizer.from_pretrained(tmp_path / "later").get_vocab() == later.get_vocab()


WORDS = st.sampled_from(
    [
        "감독",
        "감독의",
        "영화",
        "영화를",
        " ",
        "  ",
        "!!!",
        ".",
        "\n",
        "2010",
        "년",
        "ㅋㅋㅋㅋ",
        "the",
        " fox",
        "배우",
        "재미있",
        "…",
        "🙂",
        "漢字",
    ]
)
TEXTS = st.lists(st.one_of(WORDS, st.text(max_size=4), st.text("가나다람영화 ab1.", max_size=8)), max_size=8).map("".join)


def expanded(known: Known, growth: Growth, ids: list[int]) -> list[str]:
    """Tokens with every new one taken apart the way it was merged."""
    ways = {left + right: (left, right) for left, right in reversed(growth.merges)}

    def apart(piece: str) -> list[str]:
        return [old for part in ways[piece] for old in apart(part)] if piece in ways else known.parts(piece)

    new = {known.first + place: piece for place, piece in enumerate(growth.pieces)}
    return [old for id in ids for old in (apart(new[id]) if id in new else [known.backend.id_to_token(id)])]


@pytest.mark.parametrize("kind", ["gpt_neox", "llama2", "qwen3", "xlm_roberta", "whole words", "english", "older llama"])
@given(text=TEXTS)
def test_any_text_reads_back_and_old_text_is_as_before(kind, text):
    base, growth, new = learnt(kind)
    known = Known(base)
    ids, old = ids_of(new, text), ids_of(base, text)
    if known.unknown is None or known.unknown not in old or known.is_bytes:
        assert new.decode(ids) == base.decode(old)
    assert len(ids) <= len(old) or known.unknown in old
    if not any(id >= known.first for id in ids):
        assert ids == old
    # No new piece lies across a border of the base's words.
    one, two = (each.backend_tokenizer.encode(text, add_special_tokens=False) for each in (base, new))
    assert two.word_ids[-1:] == one.word_ids[-1:] and len(set(two.word_ids)) == len(set(one.word_ids))
    if not known.is_unigram and known.is_bytes:
        assert "".join(expanded(known, growth, ids)) == "".join(one.tokens)


@pytest.mark.parametrize("kind", ["gpt_neox", "whole words", "english"])
def test_pieces_are_letters_or_signs_and_no_digits(kind):
    growth = learnt(kind)[1]
    splitter = base_of(kind).backend_tokenizer.pre_tokenizer
    for piece in growth.pieces:
        if (text := Known(base_of(kind)).read(piece)) is not None:
            assert [word for word, _ in splitter.pre_tokenize_str(text)] == [piece]
            assert not any(letter.isnumeric() for letter in text)
            assert len({letter.isalpha() for letter in text.removeprefix(" ")}) == 1


def test_what_is_learnt_does_not_depend_on_the_run_and_is_the_most_frequent():
    base = base_of("english")
    one, two = (learn_pieces(base, count_words(CORPUS), 300) for _ in range(2))
    assert one == two
    assert {" 영화", "감독", "습니다"} <= {Known(base).read(piece) for piece in one.pieces}
    assert 0 < one.helpers == sum(Known(base).read(piece) is None for piece in one.pieces)


def test_counting_is_bounded(monkeypatch):
    from boda.models import pieces_learnt

    monkeypatch.setattr(pieces_learnt, "MOST_WORDS", 100)
    counts = count_words(["같은 말 " + " ".join(f"말{n * 7 + k}" for k in range(7)) for n in range(2000)])
    assert len(counts) <= 7101 and counts["같은"] == counts[" 말"] == 2000
    assert count_words(["가 나\n다  라", ""]) == Counter({"가": 1, " 나": 1, "다": 1, " 라": 1})


# --- taken


@pytest.mark.parametrize(
    "kind", ["gpt_neox", "llama2", "qwen3", "exaone4", "whole words", "english", "older llama", "xlm_roberta", "t5"]
)
@pytest.mark.parametrize("other", ["word pieces", "bytes", "unigram"])
def test_pieces_of_another_tokenizer(kind, other):
    base = base_of(kind)
    if other == "word pieces":
        given = AutoTokenizer.from_pretrained(tiny.text_folder("roberta"))
        assert any(piece.startswith("##") for piece in given.get_vocab())
    else:
        given = train_tokenizer(CORPUS, 700) if other == "bytes" else korean_unigram()
    growth = take_pieces(base, given)
    known = Known(base)
    new = extended(base, growth)
    taken = [piece for piece in growth.pieces if known.read(piece) is not None]
    assert len(taken) > 25
    written = {piece: new.backend_tokenizer.model.tokenize(piece) for piece in growth.pieces}
    assert [piece for piece in growth.pieces if len(written[piece]) > 1] == []
    for text in (ENGLISH, *CORPUS[:30]):
        ids = ids_of(new, text)
        assert base.decode(ids_of(base, text)) == new.decode(ids) or known.is_unigram
        if not any(id >= known.first for id in ids):
            assert ids == ids_of(base, text)
    if other == "word pieces":  # "##니다" goes on inside a word, "영화" begins one
        inside, first = (
            next(piece for piece in given.get_vocab() if re.match(kind, piece)) for kind in ("##[가-힣]{2}", "[가-힣]{2}")
        )
        assert {known.write(inside[2:]), known.write(" " + first)} <= new.get_vocab().keys()
    with pytest.raises(BodaError, match="no piece is left to add"):
        extended(new, take_pieces(new, given))


@cache
def korean_unigram():
    trained = Tokenizer(models.Unigram())
    trained.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(vocab_size=600, special_tokens=["<unk>", "[CLS]"], unk_token="<unk>", show_progress=False)
    trained.train_from_iterator(CORPUS, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=trained, unk_token="<unk>", cls_token="[CLS]")


def test_a_repeated_letter_can_be_reached():
    """ㅋㅋ+ㅋㅋ: the step ㅋㅋ+ㅋ would never apply."""
    base = base_of("english")
    other = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel({"▁ㅋㅋㅋㅋㅋ": 0, "ㅋㅋㅋ": 1, "▁aaaaaaa": 2}, "ㅋㅋㅋ"))
    )
    new = extended(base, take_pieces(base, other))
    for text in (" ㅋㅋㅋㅋㅋ", " aaaaaaa"):
        assert [new.decode(id) for id in ids_of(new, text)] == [text]


def test_tokenizers_that_cannot_be_given_pieces():
    for tokenizer, words in (
        (AutoTokenizer.from_pretrained(tiny.text_folder("roberta")), "a WordPiece tokenizer"),
        (object(), "no tokenizer.json"),
    ):
        with pytest.raises(BodaError, match=words):
            learn_pieces(tokenizer, Counter({"가": 2}), 10)


# --- rows


@pytest.mark.parametrize("how", ["mean", "eeve", "random"])
@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_old_logits_are_unchanged_and_the_folder_reloads(family, how, tmp_path):
    folder = tiny.language_folder(family)
    base, _, new = learnt(family)
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    first, rows = Known(base).first, model.get_input_embeddings().weight.shape[0]
    ids = torch.tensor([ids_of(base, text)[:12] for text in CORPUS[:20] if len(ids_of(base, text)) >= 12][:2])
    before = model(input_ids=ids, output_hidden_states=True)
    old_rows = [table.weight.clone() for table in (model.get_input_embeddings(), model.get_output_embeddings())]
    report = give_rows(model, base, new, how, seed=3)
    after = model(input_ids=ids, output_hidden_states=True)
    assert model.get_input_embeddings().weight.shape[0] == max(rows, len(new)) and report["rows_added"] == max(
        0, len(new) - rows
    )
    torch.testing.assert_close(after.logits[..., :first], before.logits[..., :first], atol=1e-5, rtol=0)
    for one, two in zip(before.hidden_states, after.hidden_states, strict=True):
        torch.testing.assert_close(one, two, atol=1e-5, rtol=0)
    assert report["tied"] == (family in tiny.TIED_FAMILIES) and report["new"] == len(new) - first
    share = share_of_new(model, base, new, CORPUS[:3])
    assert 0 < share < 1
    id = first + 5
    parts = Known(base).part_ids(new.convert_ids_to_tokens(id))
    table, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    if how == "random":
        fresh = table[first : len(new)]
        assert 0.7 < float(fresh.std() / old_rows[0][:first].std()) < 1.3 and len(fresh.unique(dim=0)) == len(fresh)
    else:
        torch.testing.assert_close(table[id], old_rows[0][parts].mean(dim=0))
        is_first = how == "eeve" and not report["tied"]
        torch.testing.assert_close(head[id], old_rows[1][parts[:1] if is_first else parts].mean(dim=0))
    model.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    torch.testing.assert_close(again(input_ids=ids).logits, after.logits, atol=1e-5, rtol=0)


def test_rows_come_from_the_seed():
    base, _, new = learnt("gpt_neox")
    made = []
    for seed in (1, 1, 2):
        model = AutoModelForCausalLM.from_pretrained(tiny.language_folder("gpt_neox"))
        give_rows(model, base, new, "random", seed)
        made.append(model.get_output_embeddings().weight[Known(base).first : len(new)].detach())
    assert torch.equal(made[0], made[1]) and not torch.equal(made[0], made[2])


def test_a_padded_table_is_used(tmp_path):
    """GPT-NeoX has 77 rows for no token; 60 pieces, an image and a pad token fit in."""
    base, _, new = learnt("gpt_neox")
    model = AutoModelForCausalLM.from_pretrained(tiny.language_folder("gpt_neox"))
    rows = model.get_input_embeddings().weight.shape[0]
    assert give_rows(model, base, new)["rows_added"] == 0
    resize_embeddings(model, new)
    assert model.get_input_embeddings().weight.shape[0] == rows == model.config.vocab_size


def test_film_reviews_shorten_technical_prose():
    """Pieces of one kind of Korean help with another: at least 45 % fewer tokens a Hangul character."""
    from boda.data.texts import texts_in
    from boda.train.expansion import compare

    reviews = texts_in(
        [str(shared_data("nsmc_raw/reviews_all_dedup.tsv.gz"))], format="text", columns={"text": "review"}, limit=8000
    )
    base = base_of("english")
    new = extended(base, learn_pieces(base, count_words(reviews), 2000))
    documents = list(texts_in([str(shared_data("ko_react_docs/docs.txt"))], limit=12))
    found = compare(base, new, [" ".join(re.findall("[가-힣]+", text)) for text in documents])
    assert found["fewer_tokens"] > 0.45 and found["after"]["covered_by_new"] > 0.8
    for text in documents:
        assert new.decode(ids_of(new, text)) == base.decode(ids_of(base, text))


def test_what_is_learnt_does_not_depend_on_python_s_hash_seed(tmp_path):
    """Ties among letters that get a piece were once broken by the order of a set."""
    code = (
        "import sys; from collections import Counter; from boda.models.assemble import load_tokenizer; "
        "from boda.models.pieces_learnt import learn_pieces; "
        "words = Counter({' ' + ''.join(chr(0xAC00 + step * n) for step in (7, 11, 13)): 3 for n in range(400)}); "
        "print(learn_pieces(load_tokenizer(sys.argv[1]), words, 120).pieces)"
    )
    command = [sys.executable, "-c", code, str(tiny.language_folder("llama2"))]
    said = {
        subprocess.run(command, env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True).stdout
        for seed in ("1", "2")
    }
    assert len(said) == 1 and len(said.pop()) > 400
