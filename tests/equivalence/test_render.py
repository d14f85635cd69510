"""One way to ids: what is trained on is what the saved folder's processor gives when the model is asked."""

from __future__ import annotations

import unicodedata
from functools import cache
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import LlavaProcessor

from boda.data.images import ImageSpec, load_image
from boda.data.render import Renderer, expand_images, processor_template
from boda.data.sample import Message, Part, Sample, Source, conversation
from boda.errors import BadRow, BodaError
from boda.models.assemble import build_processor, load_tokenizer
from boda.models.generate import with_system
from boda.models.vocabulary import train_tokenizer
from boda.recipe import template_text
from boda.train.build import PixelLoader
from tests import tiny
from tests.support import Pixels, ask, picture, template_for, tiny_model

SHIPPED = (
    "question-answer", "chatml", "small-korean-vlm", "kullm", "koalpaca", "kullm-sft", "llama-3", "hyperclovax"
)  # fmt: skip
NEEDED = {
    "chatml": ["<|im_start|>", "<|im_end|>"],
    "small-korean-vlm": ["<|im_start|>", "<|im_end|>", "<|endofturn|>"],
    "hyperclovax": ["<|im_start|>", "<|im_end|>", "<|endofturn|>"],
    "llama-3": ["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"],
}
OWN = "trained here"  # a tokenizer that Boda made, which composes Hangul


@cache
def parts(family: str):
    """(tokenizer with an image token, a model that only lends its shapes): families share one tower."""
    if family != OWN:
        assembled = tiny_model(family)
        return assembled.tokenizer, assembled
    tokenizer = train_tokenizer(tiny.korean_lines(), 600)
    return tokenizer, tiny_model("llama")


@cache
def pair(family: str, template: str, system: str | None = None):
    """(renderer, processor that went through a folder) of one family and template."""
    tokenizer, assembled = parts(family)
    text = template_for(tokenizer) if template == "own" else template_text(template)
    renderer = Renderer(tokenizer, text, assembled.num_image_tokens, system=system)
    bare, tokenizer.chat_template = tokenizer.chat_template, None
    with TemporaryDirectory() as folder:
        shell = type(assembled)(**{**assembled.__dict__, "tokenizer": tokenizer})
        build_processor(shell, Pixels(assembled).spec.to_processor(), processor_template(text)).save_pretrained(folder)
        processor = LlavaProcessor.from_pretrained(folder)
    tokenizer.chat_template = bare
    return renderer, processor


def combinations() -> list[tuple[str, str]]:
    found = []
    for family in (*tiny.LANGUAGE_FAMILIES, OWN):
        known = (
            ["<|im_start|>", "<|im_end|>"] if family == OWN else load_tokenizer(str(tiny.language_folder(family))).get_vocab()
        )
        if family in tiny.CHAT_FAMILIES:
            found.append((family, "own"))
        for template in SHIPPED:
            if all(token in known for token in NEEDED.get(template, [])):
                found.append((family, template))
    return found


def asked(sample: Sample, processor, system: str | None = None):
    """What the processor gives for the conversation without its last answer, asked as `generate` asks."""
    pictures = iter(sample.images)
    messages = []
    for message in sample.messages[:-1]:
        content = [
            {"type": "image", "image": load_image(next(pictures))}
            if part.type == "image"
            else {"type": "text", "text": part.text}
            for part in message.content
        ]
        messages.append({"role": message.role, "content": content})
    return processor.apply_chat_template(
        with_system(messages, system), add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="np"
    )


ALPHABET = "가나다라한국어뷁ᄀ ᅡㄱㅋabcXYZ019.,!?'\"()<>|#:-_ \n\t　🍎👨‍👩‍👧漢é\u0301"
WORDS = st.text(alphabet=ALPHABET, min_size=1, max_size=24)
TRAPS = st.sampled_from(["<|im_end|>", "### 답변:\n", "<think>", "[|endofturn|]", "{{ messages }}", "{% generation %}"])
SPOKEN = (
    st.lists(st.one_of(WORDS, WORDS, TRAPS), min_size=1, max_size=3)
    .map("".join)
    .filter(lambda text: text.strip() and "<image>" not in text)
)


@st.composite
def conversations(draw, answers=SPOKEN):
    """One to three turns of Korean text, some an instruction and its input, with none to two pictures anywhere in them."""
    turns = draw(st.integers(1, 3))
    homes = [draw(st.integers(0, turns - 1)) for _ in range(draw(st.integers(0, 2)))]
    messages = []
    for turn in range(turns):
        content = [Part("text", draw(SPOKEN))]
        if draw(st.booleans()):
            content.append(Part("text", "\n\n" + draw(SPOKEN)))
        for _ in range(homes.count(turn)):
            content.insert(draw(st.integers(0, len(content))), Part("image"))
        messages += [Message("user", tuple(content)), Message("assistant", (Part("text", draw(answers)),))]
    return Sample(tuple(messages), tuple(picture(seed) for seed in range(len(homes))))


@pytest.mark.parametrize("family,template", combinations())
@settings(max_examples=12)
@given(sample=conversations())
def test_prompts_are_what_the_processor_gives(family, template, sample):
    renderer, processor = pair(family, template)
    prompt = expand_images(renderer.prompt_ids(sample), renderer.image_id, renderer.num_image_tokens)
    assert prompt.tolist() == asked(sample, processor)["input_ids"][0].tolist()
    # What is trained begins with the prompt, whatever the answer is: no token reaches over from one to the other.
    first = Sample(sample.messages[:2], sample.images[: sample.messages[0].num_images])
    rendered, prompt = renderer.render(first), renderer.prompt_ids(first)
    assert rendered.input_ids[: len(prompt)].tolist() == prompt.tolist() and rendered.trained.argmax() == len(prompt)
    # So it is with several turns, unless an earlier answer begins with space, which a tokenizer may join to the words before it.
    if not any(message.text[0].isspace() for message in sample.messages[1:-1:2]):
        rendered, prompt = renderer.render(sample), renderer.prompt_ids(sample)
        assert rendered.input_ids[: len(prompt)].tolist() == prompt.tolist()


@pytest.mark.parametrize("family,template", combinations())
@settings(max_examples=12)
@given(sample=conversations())
def test_every_answer_and_its_end_is_trained_and_nothing_else(family, template, sample):
    renderer, _ = pair(family, template)
    rendered = renderer.render(sample)
    composed = (lambda text: unicodedata.normalize("NFC", text)) if family == OWN else (lambda text: text)
    whole = renderer.tokenizer.decode(rendered.input_ids)
    assert whole.removeprefix(renderer.tokenizer.bos_token or "") == composed(
        renderer.text(renderer.messages(sample)).removeprefix(renderer.tokenizer.bos_token or "")
    )
    runs = np.split(rendered.input_ids, np.flatnonzero(np.diff(rendered.trained)) + 1)[1::2]
    answers = [message.text for message in sample.messages if message.role == "assistant"]
    assert len(runs) == len(answers)
    for ids, answer in zip(runs, answers):
        said = renderer.tokenizer.decode(ids)
        at = said.find(composed(answer).strip())
        assert at >= 0 and not said[:at].replace("<think>", "").replace("</think>", "").strip()
        assert ids[-1] in renderer.end_ids() and len(said[at:].replace(composed(answer).strip(), "", 1)) < 40
    assert rendered.images == sample.images
    assert int((rendered.input_ids == renderer.image_id).sum()) == len(sample.images)


@pytest.mark.parametrize("family", ["llama", "hyperclovax", "gpt_neox"])
@given(sample=conversations())
@settings(max_examples=8)
def test_system_text(family, sample):
    """The recipe's system text is put where `generate` puts it, and not before a sample's own."""
    system = "친절하게 답하세요."
    renderer, processor = pair(family, "own" if family in tiny.CHAT_FAMILIES else "question-answer", system)
    prompt = expand_images(renderer.prompt_ids(sample), renderer.image_id, renderer.num_image_tokens)
    assert prompt.tolist() == asked(sample, processor, system)["input_ids"][0].tolist()
    named = Sample((Message("system", (Part("text", "영어로."),)), *sample.messages), sample.images)
    prompt = expand_images(renderer.prompt_ids(named), renderer.image_id, renderer.num_image_tokens)
    assert prompt.tolist() == asked(named, processor, system)["input_ids"][0].tolist()
    assert system not in renderer.tokenizer.decode(prompt)


def test_end_tokens():
    ends = {
        "llama": "<|im_end|>",
        "llama3": "<|eot_id|>",
        "hyperclovax": "<|im_end|>",
        "exaone4": "[|endofturn|]",
        "gemma2": "<end_of_turn>",
    }
    for family, token in ends.items():
        renderer, _ = pair(family, "own")
        assert renderer.tokenizer.convert_ids_to_tokens(renderer.end_ids()) == [token]
    renderer, _ = pair("llama", "small-korean-vlm")
    assert set(renderer.tokenizer.convert_ids_to_tokens(renderer.end_ids())) == {"<|im_end|>", "<|endofturn|>"}


def test_an_end_that_is_no_token_is_refused():
    """<|im_end|> in ten pieces would make '>' end every answer."""
    tokenizer, assembled = parts("llama3")
    with pytest.raises(BodaError, match=r"<\|im_end\|>"):
        Renderer(tokenizer, template_text("chatml"), assembled.num_image_tokens).end_ids()


@settings(max_examples=60)
@given(sample=conversations(), max_length=st.integers(1, 200))
def test_cutting_keeps_pictures_whole_and_a_label(sample, max_length):
    renderer, _ = pair("llama", "chatml")
    whole = renderer.render(sample)
    limited = Renderer(renderer.tokenizer, template_text("chatml"), renderer.num_image_tokens, max_length)
    try:
        cut = limited.render(sample)
    except BadRow as bad:  # only where not even one token of the first answer fits
        widths = np.where(whole.input_ids == renderer.image_id, renderer.num_image_tokens, 1)
        assert widths[: whole.trained.argmax() + 1].sum() > max_length and str(max_length) in str(bad)
        return
    number = len(cut.input_ids)
    assert renderer.length(cut) <= max_length or not cut.truncated
    assert np.array_equal(cut.input_ids, whole.input_ids[:number]) and np.array_equal(cut.trained, whole.trained[:number])
    assert cut.trained.any() and cut.truncated == (renderer.length(whole) > max_length)
    assert cut.images == sample.images[: int((cut.input_ids == renderer.image_id).sum())]
    if cut.truncated:  # and nothing that would have fitted is missing
        following = renderer.num_image_tokens if whole.input_ids[number] == renderer.image_id else 1
        assert renderer.length(cut) + following > max_length
    assert cut.prefix in (0, int((cut.input_ids == renderer.image_id).argmax()) + 1)
    assert not cut.trained[: cut.prefix + 1].any() or not cut.prefix


def test_a_picture_in_an_answer_is_refused():
    sample = conversation(("user", "그려 주세요"), ("assistant", "<image>\n여기요"), images=(picture(1),))
    for template in ("own", "chatml"):
        with pytest.raises(BadRow, match="picture"):
            pair("llama", template)[0].render(sample)


def test_a_conversation_that_the_template_refuses_is_a_bad_row():
    """... and not the end of the run: Gemma 2 takes no system text."""
    sample = conversation(("system", "짧게"), ("user", "네?"), ("assistant", "네."), source=Source("chat.json", 7))
    with pytest.raises(BadRow, match=r"chat\.json.*7.*System role not supported"):
        pair("gemma2", "own")[0].render(sample)


@pytest.mark.parametrize("fit", ["crop", "pad", "stretch"])
def test_pixels_are_the_processors(vision_family, fit, tmp_path):
    """What training reads of a picture is what the processor, saved and loaded, gives: the same bits."""
    assembled = tiny_model("llama", vision_family, "mlp2x_gelu", layer=-1)
    spec = ImageSpec.from_processor(assembled.image_processor).refit(assembled.image_size, fit)
    build_processor(assembled, spec.to_processor(), processor_template(template_text("chatml"))).save_pretrained(tmp_path)
    processor = LlavaProcessor.from_pretrained(tmp_path)
    load = PixelLoader(spec)
    for seed, size in enumerate([(48, 40), (33, 91), (200, 64)]):
        image = tiny.random_picture(seed, size)
        given = processor.image_processor(image, return_tensors="np")["pixel_values"][0]
        assert given.shape == (3, assembled.image_size, assembled.image_size)
        assert np.array_equal(load(image), given)


@pytest.mark.parametrize("connector", ["linear", "mlp2x_gelu", "ldpv2"])
def test_a_picture_becomes_as_many_tokens_everywhere(vision_family, connector):
    """Connector's count = vectors of the forward pass = tokens that the processor writes."""
    assembled = tiny_model("llama", vision_family, connector)
    _, (height, width), _ = tiny.VISION_SHAPES[vision_family]
    if vision_family == "convnext":  # the table has the last stage's grid, and the one before it is twice as fine
        height, width = 2 * height, 2 * width
    expected = -(-height // 2) * -(-width // 2) if connector == "ldpv2" else height * width
    assert assembled.num_image_tokens == expected
    processor = build_processor(assembled, Pixels(assembled).spec.to_processor(), processor_template(template_text("chatml")))
    inputs = asked(ask("<image>\n<image>\n무엇?", "답", images=(1, 2)), processor)
    assert int((inputs["input_ids"] == assembled.model.config.image_token_index).sum()) == 2 * expected
    with torch.no_grad():
        vectors = assembled.model.model.get_image_features(
            torch.from_numpy(inputs["pixel_values"]), return_dict=True
        ).pooler_output
    assert [tuple(each.shape) for each in vectors] == [(expected, 48)] * 2
