"""The prompts of Korean instruction tuning, against the texts that KULLM, KoAlpaca, Meta and NAVER publish."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from boda.data.render import FLATTEN, tokenizer_template
from boda.recipe import reads_input, template_text
from tests.shared_data import shared_data
from tests.tiny_build import ASSETS

WITH_INPUT = (
    "아래는 작업을 설명하는 명령어와 추가 컨텍스트를 제공하는 입력이 짝을 이루는 예제입니다. 요청을 적절히 완료하는 응답을 작성하세요.\n\n"
    "### 명령어:\n옮겨 주세요.\n\n### 입력:\n사과\n\n### 응답:\n"
)
WITHOUT_INPUT = (
    "아래는 작업을 설명하는 명령어입니다. 요청을 적절히 완료하는 응답을 작성하세요.\n\n### 명령어:\n수도는?\n\n### 응답:\n"
)
SFT = "[INST] <<SYS>>\nYou are a helpful AI assistant. 당신은 유능한 AI 어시스턴트 입니다.\n<</SYS>>\n\n"
HEAD = "<|start_header_id|>{}<|end_header_id|>\n\n"
TOOLS = "<|im_start|>tool_list\n<|im_end|>\n"
# name -> (an instruction with its input, what its answer adds, a question alone, what its answer adds)
EXPECTED = {
    "kullm": (WITH_INPUT, "apple</s>", WITHOUT_INPUT, "서울.</s>"),
    "koalpaca": (
        "### 질문: 옮겨 주세요.\n\n### 맥락: 사과\n\n### 답변:",
        " apple</s>",
        "### 질문: 수도는?\n\n### 답변:",
        " 서울.</s>",
    ),
    "kullm-sft": (SFT + "옮겨 주세요.\n사과 [/INST]", "apple</s>", SFT + "수도는? [/INST]", "서울.</s>"),
    "llama-3": (
        f"<s>{HEAD.format('user')}옮겨 주세요.\n\n사과<|eot_id|>{HEAD.format('assistant')}",
        "apple<|eot_id|>",
        f"<s>{HEAD.format('user')}수도는?<|eot_id|>{HEAD.format('assistant')}",
        "서울.<|eot_id|>",
    ),
    "hyperclovax": (
        TOOLS + "<|im_start|>user\n옮겨 주세요.\n\n사과<|im_end|>\n<|im_start|>assistant\n",
        "apple<|im_end|><|endofturn|>",
        TOOLS + "<|im_start|>user\n수도는?<|im_end|>\n<|im_start|>assistant\n",
        "서울.<|im_end|><|endofturn|>",
    ),
}
NAMES = tuple(EXPECTED)
READING = ("kullm", "koalpaca", "kullm-sft")
TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}


def rendered(template: str, messages: list[dict], **rest) -> tuple[str, list[str]]:
    """The text and its trained spans, as transformers renders a chat template."""
    from transformers.utils.chat_template_utils import render_jinja_template

    texts, spans = render_jinja_template([messages], chat_template=template, return_assistant_tokens_mask=True, **TOKENS | rest)
    return texts[0], [texts[0][start:end] for start, end in spans[0]]


def says(role: str, *texts: str) -> dict:
    return {"role": role, "content": [{"type": "text", "text": text} for text in texts]}


@pytest.mark.parametrize("name", NAMES)
def test_a_template_is_the_published_text(name):
    with_input, answer, without, other = EXPECTED[name]
    template = FLATTEN + template_text(name)
    translate, ask = says("user", "옮겨 주세요.", "\n\n사과"), says("user", "수도는?")
    assert rendered(template, [translate], add_generation_prompt=True) == (with_input, [])
    assert rendered(template, [translate, says("assistant", "apple")]) == (with_input + answer, [answer])
    assert rendered(template, [ask], add_generation_prompt=True) == (without, [])
    assert rendered(template, [ask, says("assistant", "서울.")]) == (without + other, [other])


@pytest.mark.parametrize("name", NAMES)
def test_a_string_has_no_input_and_an_input_needs_no_blank_line(name):
    """As people ask a saved folder: a plain string, or two texts without the line break between them."""
    template, (with_input, _, without, _) = tokenizer_template(template_text(name)), EXPECTED[name]
    assert "generation %}" not in template and (FLATTEN in template) == (name in READING) == reads_input(template)
    assert rendered(template, [{"role": "user", "content": "수도는?"}], add_generation_prompt=True)[0] == without
    if name in READING:
        for second in ("사과", "\n\n사과"):
            assert rendered(template, [says("user", "옮겨 주세요.", second)], add_generation_prompt=True)[0] == with_input
        assert rendered(template, [says("user", "수도는?", "")], add_generation_prompt=True)[0] == without


def test_only_two_texts_side_by_side_are_an_instruction_and_its_input():
    shown = "{{ message.instruction }}|{{ message.input }}|{{ message.content }}"
    template = f"{FLATTEN}{{% for message in messages %}}{shown}{{% endfor %}}"
    picture, one, two = {"type": "image"}, *says("user", "하나", "\n\n둘")["content"]
    for content, text in (
        ([one, two], "하나|둘|하나\n\n둘"),
        ([picture, one, two], "<image>\n하나|둘|<image>\n하나\n\n둘"),
        ([one, picture, two], "||하나\n<image>\n\n\n둘"),
        ([one, two, one], "||하나\n\n둘하나"),
        ([one], "||하나"),
    ):
        assert rendered(template, [{"role": "user", "content": content}])[0] == text


def test_kullms_templates_are_its_file():
    """templates/kullm.json of the branch kullm_v2, byte for byte."""
    published = json.loads(shared_data("kullm_v2/templates/kullm.json").read_text(encoding="utf-8"))
    assert published["prompt_input"].format(instruction="옮겨 주세요.", input="사과") == WITH_INPUT
    assert published["prompt_no_input"].format(instruction="수도는?") == WITHOUT_INPUT
    assert EXPECTED["kullm"][0].split(published["response_split"])[1] == "\n"


WORDS = st.text(alphabet="가나다 ab.\n", min_size=1, max_size=8).filter(str.strip)


@pytest.mark.parametrize("name,published", [("llama-3", "llama3"), ("hyperclovax", "hcx")])
@given(texts=st.lists(WORDS, min_size=2, max_size=6), system=st.booleans())
def test_marked_copies_write_what_the_models_own_template_writes(name, published, texts, system):
    """... but for HyperCLOVAX's last token, which is what the model itself ends with."""
    own = (ASSETS / "templates" / f"{published}.jinja").read_text(encoding="utf-8")
    messages = [says("system", "짧게")] * system
    for number, text in enumerate(texts[: len(texts) // 2 * 2]):
        messages.append(says(("user", "assistant")[number % 2], text))
    whole = rendered(FLATTEN + own, messages)[0]
    expected = whole.removesuffix("\n") + "<|endofturn|>" if name == "hyperclovax" else whole
    assert rendered(FLATTEN + template_text(name), messages)[0] == expected
    prompt = rendered(FLATTEN + own, messages[:-1], add_generation_prompt=True)[0]
    assert rendered(FLATTEN + template_text(name), messages[:-1], add_generation_prompt=True)[0] == prompt


@pytest.mark.parametrize("name", NAMES)
@given(turns=st.lists(st.tuples(WORDS, st.one_of(st.none(), WORDS), WORDS), min_size=1, max_size=3), system=st.booleans())
def test_a_prompt_is_the_beginning_of_the_conversation(name, turns, system):
    """Every answer follows the prompt that asks for it, and is trained to its end; without marks the text is the same."""
    template, messages = FLATTEN + template_text(name), [says("system", "짧게")] * system
    for instruction, about, answer in turns:
        asked = (instruction,) if about is None else (instruction, "\n\n" + about)
        messages += [says("user", *asked), says("assistant", answer)]
    whole, spans = rendered(template, messages)
    prompt, _ = rendered(template, messages[:-1], add_generation_prompt=True)
    assert whole == prompt + spans[-1] and len(spans) == len(turns)
    assert all(answer.strip() in span for (_, _, answer), span in zip(turns, spans))
    assert all(about.strip() in whole for _, about, _ in turns if about)
    assert ("짧게" in whole) == system
    stored = tokenizer_template(template_text(name))
    flat = stored if name in READING else FLATTEN + stored
    assert rendered(flat, messages)[0] == whole


@pytest.mark.parametrize("name", NAMES)
def test_the_documentation_shows_what_is_written(name):
    ends = {"kullm-sft": "</s>", "llama-3": "<|end_of_text|>"}
    tokens = {"bos_token": "<|begin_of_text|>" if name == "llama-3" else "", "eos_token": ends.get(name, "<|endoftext|>")}
    messages = [says("user", "영어로 옮겨 주세요.", "\n\n사과"), says("assistant", "apple")]
    whole, (answer,) = rendered(FLATTEN + template_text(name), messages, **tokens)
    page = (Path(__file__).parents[2] / "docs/language.md").read_text(encoding="utf-8")
    assert f"```\n{whole.removesuffix(answer)}⟦{answer}⟧\n```" in page
