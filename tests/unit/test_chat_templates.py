"""The chat templates of the LLaVA family, against conversations written out from LLaVA's and KoLLaVA's conversation.py."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from boda.data.render import Renderer
from boda.models.vocabulary import add_token
from boda.recipe import template_names, template_text
from tests import tiny
from tests.support import ask

VICUNA = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)
LLAMA_2 = (
    "You are a helpful language and vision assistant. "
    "You are able to understand the visual content that the user provides, "
    "and assist the user with a variety of tasks using natural language."
)
KOLLAVA = (
    "당신은 유용한 언어 및 시각 도우미입니다. "
    "사용자가 제공하는 시각적 콘텐츠를 이해할 수 있으며, "
    "자연어를 사용하여 사용자에게 다양한 작업을 지원합니다."
)
# name -> (two rounds without a system text, what is trained, one question with the system text "짧게" and the place to answer)
EXPECTED = {
    "vicuna": (
        f"{VICUNA} USER: <image>\n무엇? ASSISTANT: 탑.</s>USER: 어디? ASSISTANT: 서울.</s>",
        [" 탑.</s>", " 서울.</s>"],
        "짧게 USER: 어디? ASSISTANT:",
    ),
    "llama-2": (
        f"[INST] <<SYS>>\n{LLAMA_2}\n<</SYS>>\n\n<image>\n무엇? [/INST] 탑. </s><s>[INST] 어디? [/INST] 서울. </s>",
        [" 탑. </s>", " 서울. </s>"],
        "[INST] <<SYS>>\n짧게\n<</SYS>>\n\n어디? [/INST]",
    ),
    "mistral": (
        "[INST] <image>\n무엇? [/INST] 탑. </s>[INST] 어디? [/INST] 서울. </s>",
        [" 탑. </s>", " 서울. </s>"],
        "[INST] <<SYS>>\n짧게\n<</SYS>>\n\n어디? [/INST]",
    ),
    "kollava": (
        f"{KOLLAVA} <|im_start|>user\n: <image>\n무엇? <|im_start|>assistant\n: 탑.<|im_end|>"
        "<|im_start|>user\n: 어디? <|im_start|>assistant\n: 서울.<|im_end|>",
        [" 탑.<|im_end|>", " 서울.<|im_end|>"],
        "짧게 <|im_start|>user\n: 어디? <|im_start|>assistant\n:",
    ),
}
NAMES = tuple(EXPECTED)
TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}


def rendered(template: str, messages: list[dict], **rest) -> tuple[str, list[str]]:
    """The text and its trained spans, as transformers renders a chat template."""
    from transformers.utils.chat_template_utils import render_jinja_template

    texts, spans = render_jinja_template(
        [messages], chat_template=template, return_assistant_tokens_mask=True, **TOKENS, **rest
    )
    return texts[0], [texts[0][start:end] for start, end in spans[0]]


def turns(*texts: str) -> list[dict]:
    return [{"role": ("user", "assistant")[index % 2], "content": text} for index, text in enumerate(texts)]


@pytest.mark.parametrize("name", NAMES)
def test_a_template_is_its_conversation(name):
    whole, spans, prompt = EXPECTED[name]
    assert name in template_names()
    assert rendered(template_text(name), turns("<image>\n무엇?", "탑.", "어디?", "서울.")) == (whole, spans)
    asked = [{"role": "system", "content": "짧게"}, *turns("어디?")]
    assert rendered(template_text(name), asked, add_generation_prompt=True) == (prompt, [])


@pytest.mark.parametrize("name", NAMES)
@given(texts=st.lists(st.text(min_size=1, max_size=8).filter(lambda text: "\r" not in text), min_size=2, max_size=6))
def test_a_prompt_is_the_beginning_of_the_conversation(name, texts):
    """Every answer follows the prompt that asks for it, and is trained to its end."""
    template, messages = template_text(name), turns(*texts[: len(texts) // 2 * 2])
    whole, spans = rendered(template, messages)
    prompt, _ = rendered(template, messages[:-1], add_generation_prompt=True)
    assert whole == prompt + spans[-1]
    assert len(spans) == len(messages) // 2
    assert all(answer["content"] in span for answer, span in zip(messages[1::2], spans))
    bare = re.sub(r"\{% (end)?generation %\}", "", template)
    assert rendered(bare, messages)[0] == whole


# ---------------------------------------------------------------- with a tokenizer that puts a space before every text


def older(tokenizer):
    """The same vocabulary as the older files of Llama 2, Mistral and Vicuna have it: the space comes after special tokens too."""
    from tokenizers import normalizers
    from transformers import PreTrainedTokenizerFast

    inside = tokenizer.backend_tokenizer
    inside.pre_tokenizer = None
    inside.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    return PreTrainedTokenizerFast(tokenizer_object=inside, **tokenizer.special_tokens_map)


@pytest.fixture(params=["now", "older"])
def llama2(request):
    tokenizer = tiny.llama2_tokenizer()
    tokenizer = older(tokenizer) if request.param == "older" else tokenizer
    for token in ("<image>", "<|im_start|>", "<|im_end|>"):
        add_token(tokenizer, token)
    return tokenizer


@pytest.mark.parametrize("name", (*NAMES, "plain"))
def test_ids_are_those_of_the_whole_text(name, llama2):
    """Cutting a text where answers begin gives no answer a space that the text does not have."""
    renderer = Renderer(llama2, template_text(name), num_image_tokens=4)
    sample = ask("<image>\n무엇인가요?", "빨간 사과", *(("왜요?", "둥글어서요.") if name != "plain" else ()), images=(1,))
    row = renderer.render(sample)
    text = renderer.text(renderer.messages(sample))
    assert row.input_ids.tolist() == llama2(text).input_ids
    prompt = renderer.prompt_ids(sample)
    assert row.input_ids[: len(prompt)].tolist() == prompt.tolist()
    end = {"plain": "\n", "kollava": "<|im_end|>"}.get(name, "</s>")
    assert renderer.end_ids() == [row.input_ids[-1]] == llama2("가" + end).input_ids[-1:]
    answers = llama2.decode(row.input_ids[row.trained].tolist())
    assert answers.startswith("빨간 사과") and answers.endswith(end)
