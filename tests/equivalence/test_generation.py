"""Answers: batched = single, cached = full forward passes, streamed = at once; never half a syllable."""

from __future__ import annotations

import threading
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

import boda
from boda.data.render import Renderer
from boda.errors import BodaError
from boda.models.attention import ATTENTION_NAME
from boda.models.generate import encode, generate, generate_ids, stream, text_deltas
from tests import tiny
from tests.support import Pixels, answering, ask, language_variant, prepared, template_for, tiny_model

FAMILIES = ("llama", "gpt_neox", "hyperclovax", "exaone4", "gemma2")
WINDOWS = {
    "exaone4": {"sliding_window": 12, "layer_types": ["sliding_attention", "full_attention"]},
    "gemma2": {"sliding_window": 12},
}
BROKEN = "\ufffd"


def user(*content) -> dict:
    """A turn of texts and pictures (numbers: their seeds)."""
    parts = [
        {"type": "text", "text": part} if isinstance(part, str) else {"type": "image", "image": tiny.random_picture(part)}
        for part in content
    ]
    return {"role": "user", "content": parts}


CONVERSATIONS = [
    [user(1, "이것은 무엇인가요?")],
    [{"role": "user", "content": "안녕하세요?"}],
    [user("두 그림을", 2, "비교해서 아주 자세하게 설명해 주세요. 색과 모양과 개수를 모두 말해 주세요.", 3)],
    [user("네?")],
    [user(4, "몇 개?"), {"role": "assistant", "content": "세 개입니다."}, user("정말요?", 5)],
    [user("오늘 날씨가 어떤가요? " * 6)],
]


@pytest.fixture(scope="module", params=FAMILIES)
def able(request, tmp_path_factory):
    """(model, processor) of each family; windows are shorter than the prompts, so that caches drop what is behind them."""
    family = request.param
    if family in WINDOWS:
        family = language_variant(tmp_path_factory.mktemp(family), family, **WINDOWS[family])
    return answering(tiny_model(family, connector="ldpv2" if family == "llama" else "mlp2x_gelu"))


@pytest.mark.parametrize("given", [{}, {"beams": 2}, {"repetition_penalty": 1.3}], ids=["greedy", "beams", "penalty"])
def test_batched_is_single(able, given):
    """Mixed lengths, with none, one and two pictures, in one batch and one by one."""
    model, processor = able
    single = [generate(model, processor, [conversation], max_new_tokens=10, **given)[0] for conversation in CONVERSATIONS]
    assert generate(model, processor, CONVERSATIONS, max_new_tokens=10, **given) == single
    assert generate(model, processor, CONVERSATIONS, max_new_tokens=10, batch_size=2, **given) == single
    if not given:  # and token by token: letters that a model without training writes are few
        singly = [answer_ids(model, processor, [conversation])[0] for conversation in CONVERSATIONS]
        assert answer_ids(model, processor, CONVERSATIONS) == singly
        assert len({tuple(ids) for ids in singly}) > 2


def answer_ids(model, processor, conversations) -> list[list[int]]:
    inputs = encode(model, processor, conversations)
    output = model.generate(**inputs, max_new_tokens=10, do_sample=False)[:, inputs["input_ids"].shape[1] :]
    ends = [*model.generation_config.eos_token_id, model.generation_config.pad_token_id]
    return [[token for token in row if token not in ends] for row in output.tolist()]


@torch.no_grad()
def test_cached_is_full(able):
    """Every token that the cache gives is the likeliest one of a whole forward pass."""
    model, processor = able
    for conversation in CONVERSATIONS[:3]:
        inputs = encode(model, processor, [conversation])
        start = inputs["input_ids"].shape[1]
        whole = model.generate(**inputs, max_new_tokens=12, do_sample=False)[0]
        assert len(whole) > start
        pixels = {"pixel_values": inputs["pixel_values"]} if "pixel_values" in inputs else {}
        logits = model(input_ids=whole[None], **pixels, use_cache=False).logits[0]
        assert whole[start:].tolist() == logits[start - 1 : -1].argmax(dim=-1).tolist()


def test_streamed_is_at_once(able):
    model, processor = able
    for conversation in CONVERSATIONS:
        for options in ({}, {"temperature": 0.8, "top_p": 0.9, "seed": 3}, {"beams": 2}):
            answer = generate(model, processor, [conversation], max_new_tokens=16, **options)[0]
            pieces = list(stream(model, processor, conversation, max_new_tokens=16, **options))
            assert "".join(pieces).strip() == answer


def test_a_stop_string_ends_both(able):
    """... wherever in a token it ends, and is not part of the answer."""
    model, processor = able
    for conversation in CONVERSATIONS[:4]:
        free = generate(model, processor, [conversation], max_new_tokens=16)[0]
        for stop in {free[1:2], free[3:5], free[4:7]} - {""}:
            if BROKEN in stop or stop.strip() != stop:
                continue
            answer = generate(model, processor, [conversation], max_new_tokens=16, stop=[stop])[0]
            assert stop not in answer and free.startswith(answer.rstrip(BROKEN))
            assert "".join(stream(model, processor, conversation, max_new_tokens=16, stop=[stop])).strip() == answer


def test_a_reader_may_leave():
    """Closing the stream ends the work behind it."""
    model, processor = answering(tiny_model())
    before = threading.active_count()
    pieces = stream(model, processor, CONVERSATIONS[0], max_new_tokens=2000)
    next(pieces)
    pieces.close()
    assert threading.active_count() == before


def test_trial_answers_while_training_are_the_models_answers(able, tmp_path):
    """`generate_ids` on a rendered prompt gives what `generate` gives for the conversation, with training's attention."""
    model, processor = able
    samples = [ask("<image>\n이것은 무엇인가요?", "답", images=(1,)), ask("안녕하세요?", "답")]

    tokenizer, pixels_of = processor.tokenizer, Pixels(SimpleNamespace(image_processor=processor.image_processor))
    renderer = Renderer(tokenizer, template_for(tokenizer), model.config.image_seq_length)
    data = prepared(samples, renderer, tmp_path)
    before = model.model.language_model.config._attn_implementation
    model.model.language_model.set_attn_implementation(ATTENTION_NAME)
    try:
        for index, sample in enumerate(samples):
            pixels = [pixels_of(image) for image in data.row(index).images]
            ends = model.generation_config.eos_token_id
            ids = generate_ids(model, renderer.prompt_ids(sample), pixels, renderer.num_image_tokens, ends, 10)
            conversation = [user(1, "이것은 무엇인가요?")] if sample.images else [user("안녕하세요?")]
            assert [token for token in ids if token not in ends] == answer_ids(model, processor, [conversation])[0]
    finally:
        model.model.language_model.set_attn_implementation(before)


@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_a_language_model_alone(family):
    """A folder of a language model answers too: batched as single, with the ids of its own chat template."""
    model, tokenizer = boda.load(tiny.language_folder(family), dtype=torch.float32)
    questions = [[{"role": "user", "content": text}] for text in ("네?", "오늘은 날씨가 어떤가요? 알려 주세요.")]
    single = [generate(model, tokenizer, [question], max_new_tokens=8)[0] for question in questions]
    assert generate(model, tokenizer, questions, max_new_tokens=8) == single
    text = tokenizer.apply_chat_template(questions[0], tokenize=False, add_generation_prompt=True)
    expected = tokenizer(text, add_special_tokens=False).input_ids
    assert encode(model, tokenizer, questions[:1])["input_ids"][0].tolist() == expected
    with pytest.raises(BodaError, match="without sight"):
        generate(model, tokenizer, [[user(1, "무엇?")]])


def test_what_cannot_be_asked():
    model, processor = answering(tiny_model("gemma2"))
    with pytest.raises(BodaError, match="<image>"):
        generate(model, processor, [[user("<image> 무엇인가요?")]])
    with pytest.raises(BodaError, match="System role not supported"):
        generate(model, processor, [[user("네?")]], system="짧게 답하세요.")
    with pytest.raises(BodaError, match="tempature"):
        generate(model, processor, [[user("네?")]], tempature=1.0)
    with pytest.raises(BodaError, match="chat template"):
        generate(*boda.load(tiny.language_folder("gpt_neox")), [[{"role": "user", "content": "네?"}]])


TOKENIZERS = ("llama", "gpt_neox", "qwen3")
KOREAN = st.text(alphabet="가나다뷁힣한글 ,.!?abc012🍎👩‍🚀漢\n", min_size=1, max_size=30)


@pytest.fixture(scope="module")
def tokenizers():
    return {family: AutoTokenizer.from_pretrained(tiny.language_folder(family)) for family in TOKENIZERS}


@pytest.mark.parametrize("family", TOKENIZERS)
@settings(max_examples=150)
@given(text=KOREAN, cuts=st.lists(st.integers(0, 200), max_size=12), data=st.data())
def test_deltas_are_whole_letters(tokenizers, family, text, cuts, data):
    """Ids cut anywhere: no piece holds half a letter, each comes as soon as it is whole, together they are the text."""
    tokenizer = tokenizers[family]
    ids = tokenizer(text, add_special_tokens=False).input_ids
    borders = sorted({0, len(ids), *(cut % (len(ids) + 1) for cut in cuts)})
    pieces = [ids[start:end] for start, end in zip(borders, borders[1:])]
    arrived = []

    def incoming():
        for piece in pieces:
            yield piece
            # Asked for more, so all that was whole has been given out.
            whole = tokenizer.decode([token for before in pieces[: pieces.index(piece) + 1] for token in before])
            assert pieces.count(piece) > 1 or "".join(arrived) == whole.rstrip(BROKEN)

    for delta in text_deltas(incoming(), tokenizer):
        assert delta and BROKEN not in delta
        arrived.append(delta)
    assert "".join(arrived) == text
    # An answer that ran out of tokens within a letter leaves the letter out.
    short = ids[: data.draw(st.integers(0, len(ids)))]
    given = "".join(text_deltas(iter([[token] for token in short]), tokenizer))
    assert BROKEN not in given and text.startswith(given)


@settings(max_examples=200)
@given(text=KOREAN, stops=st.lists(st.text(alphabet="가나다 .ab", min_size=1, max_size=3), max_size=3))
def test_deltas_hold_back_what_may_be_a_stop(tokenizers, text, stops):
    tokenizer = tokenizers["llama"]
    ids = tokenizer(text, add_special_tokens=False).input_ids
    pieces = list(text_deltas(iter([[token] for token in ids]), tokenizer, stops))
    ends = [text.index(stop) for stop in stops if stop in text]
    # Several stops: the one that is whole first ends the answer.
    given = "".join(pieces)
    if not ends:
        assert given == text
    elif len(stops) == 1:
        assert given == text[: ends[0]]
    else:
        assert text.startswith(given) and not any(stop in given for stop in stops)
