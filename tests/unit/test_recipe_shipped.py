"""The recipes and chat templates that Boda ships: valid, documented, and what their sources say."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from boda.errors import BodaError
from boda.recipe import load_recipe, recipe_difference, recipe_names, recipe_text, template_names, template_text
from boda.recipe.load import RECIPES


@pytest.mark.parametrize("name", recipe_names())
def test_a_shipped_recipe_loads_and_says_what_it_takes(name):
    recipe, text = load_recipe(name), recipe_text(name)
    assert recipe.directory == RECIPES and text.startswith("# ") and "." in text.splitlines()[0][-1]
    header = text[: re.search(r"^[a-z]", text, re.MULTILINE).start()]
    for heading in ("Hardware", "Time", "Memory", "Expected", "Data", "Run", "Override"):
        assert re.search(rf"^# {heading}\b", header, re.MULTILINE), f"{name}'s header lacks {heading}"
    commands = re.findall(rf"^#.*boda train {name}\b(.*)$", header, re.MULTILINE)
    assert commands, "the header shows how to run it"
    for command in commands:
        assert load_recipe(name, re.findall(r"(?<=\s)[\w.*]+=\S+", command))


def test_small_korean_vlm_is_what_its_readme_says():
    recipe = load_recipe("small-korean-vlm")
    align, instruct = recipe.stages
    assert recipe.model.model_dump(exclude_none=True) == {
        "kind": "vlm",
        "vision": "openai/clip-vit-large-patch14-336",
        "vision_layer": -2,
        "connector": "ldpv2",
        "language": "naver-hyperclovax/HyperCLOVAX-SEED-Text-Instruct-0.5B",
        "chat_template": "small-korean-vlm",
    }
    assert (align.train, instruct.train) == (["connector"], ["connector", "language.lora"])
    assert (align.learning_rate, instruct.learning_rate) == (1e-3, 2e-5)
    assert (align.batch_size, instruct.batch_size) == (256, 128)
    assert (align.image_fit, instruct.image_fit) == ("crop", "pad")
    assert (align.chat_template, instruct.chat_template) == ("plain", "small-korean-vlm")
    for stage in recipe.stages:
        assert (stage.epochs, stage.schedule, stage.warmup_ratio, stage.weight_decay) == (1, "cosine", 0.03, 0)
        assert (stage.max_length, stage.max_grad_norm, stage.save_steps) == (2048, 1.0, 500)
    assert (instruct.lora.rank, instruct.lora.alpha, instruct.lora.dropout, align.lora) == (64, 16, 0.05, None)
    assert [data.path.split("/")[0] for data in align.data] == [
        "KoLLaVA-CC3M-Pretrain-595K",
        "LLaVA-CC3M-Pretrain-595K",
        "LLaVA-Pretrain",
    ]
    assert recipe.generation.model_dump() == {
        "system": None,
        "stop": ["<|endofturn|>", "<|im_end|>"],
        "temperature": 0.2,
        "top_p": 1.0,
        "repetition_penalty": 1.0,
        "beams": 1,
        "max_new_tokens": 512,
    }


def test_small_korean_vlm_states_its_rows():
    """Every source of stage 2 has its number of rows beside it, and they add up to the project's 975,554."""
    text = recipe_text("small-korean-vlm")
    part = text[text.index("- name: instruct") : text.index("batch_size: 128")]
    counts = [int(count.replace(",", "")) for count in re.findall(r"- .*source: llava.*#\s+([\d,]+) ", part)]
    english = [int(count.replace(",", "")) for count in re.findall(r"#\s+([\d,]+) English", part)]
    assert len(counts) == len(load_recipe("small-korean-vlm").stage("instruct").data) == 14
    assert sum(counts) == 975_554
    assert f"{sum(counts) - sum(english):,} rows" in recipe_text("small-korean-vlm-scripts")


def test_small_korean_vlm_scripts_differs_in_what_the_scripts_say():
    lines = recipe_difference(load_recipe("small-korean-vlm"), load_recipe("small-korean-vlm-scripts"))
    assert [line for line in lines if ".data: " not in line] == [
        "precision: auto -> fp32",
        "model.connector: ldpv2 -> mlp2x_gelu",
        "stages.align.gradient_checkpointing: false -> true",
        "stages.instruct.learning_rate: 2e-05 -> 0.0002",
        "stages.instruct.learning_rates.connector: (unset) -> 2e-05",
        "stages.instruct.lora.rank: 64 -> 128",
        "stages.instruct.lora.alpha: 16.0 -> 256.0",
        "stages.instruct.gradient_checkpointing: false -> true",
    ]
    gone = [line.split(": ")[1].split("/")[-1] for line in lines if ".data: " in line]
    assert gone == [
        "ko_chat.json -> (unset)",
        "blip_laion_cc_sbu_558k.json -> (unset)",
        "llava_instruct_150k.json -> (unset)",
        "vqav2_okvqa.json -> (unset)",
        "aokvqa.json -> (unset)",
    ]


def test_kollava_is_what_its_scripts_say():
    """scripts/v1_5/pretrain.sh and finetune_lora.sh of tabtoyou/KoLLaVA, on LLaVA-1.5's number of samples a step."""
    recipe = load_recipe("kollava")
    align, instruct = recipe.stages
    assert (recipe.model.vision, recipe.model.vision_layer) == ("openai/clip-vit-large-patch14-336", -2)
    assert (recipe.model.connector, recipe.model.language) == ("mlp2x_gelu", "maywell/Synatra-7B-v0.3-dpo")
    assert (align.train, instruct.train) == (["connector"], ["connector", "language.lora"])
    assert (align.learning_rate, instruct.learning_rate, instruct.learning_rates) == (1e-3, 2e-4, {"connector": 2e-5})
    assert (align.batch_size, instruct.batch_size) == (256, 128)
    assert (instruct.lora.rank, instruct.lora.alpha, instruct.lora.dropout, align.lora) == (128, 256, 0.05, None)
    assert (align.image_fit, instruct.image_fit) == ("crop", "pad")
    assert (align.chat_template, instruct.chat_template, recipe.model.chat_template) == ("plain", None, "kollava")
    for stage in recipe.stages:
        assert (stage.epochs, stage.schedule, stage.warmup_ratio, stage.weight_decay) == (1, "cosine", 0.03, 0)
        assert stage.max_length == 2048


def test_printing_a_recipe_keeps_its_comments():
    assert recipe_text("small-korean-vlm") == (RECIPES / "small-korean-vlm.yaml").read_text(encoding="utf-8")
    with pytest.raises(BodaError, match="no recipe is called 'nothing'"):
        recipe_text("nothing")


# ---------------------------------------------------------------- the templates of small-korean-vlm

SYSTEM = (
    "You are a versatile AI assistant capable of both understanding and generating text as well as interpreting and analyzing "
    "images. Your role is to kindly and effectively answer the user\u2019s questions, whether they are about text or images, and "
    "provide appropriate and helpful responses to all types of queries. 당신은 텍스트를 이해하고 생성하는 것뿐만 아니라 이미지를 "
    "해석하고 분석할 수 있는 다재다능한 AI 어시스턴트입니다. 사용자의 질문이 텍스트에 관한 것이든 이미지에 관한 것이든 친절하고 "
    "효과적으로 답변하며, 모든 유형의 질의에 대해 적절하고 유용한 응답을 제공하는 것이 당신의 역할입니다."
)


def rendered(template: str, messages: list[dict], **rest) -> tuple[str, list[str]]:
    """The text and its trained spans, as transformers renders a chat template."""
    from transformers.utils.chat_template_utils import render_jinja_template

    texts, spans = render_jinja_template([messages], chat_template=template, return_assistant_tokens_mask=True, **rest)
    return texts[0], [texts[0][start:end] for start, end in spans[0]]


def turns(*texts: str) -> list[dict]:
    return [{"role": ("user", "assistant")[index % 2], "content": text} for index, text in enumerate(texts)]


def test_small_korean_vlm_template_is_its_conversation():
    text, spans = rendered(
        template_text("small-korean-vlm"), turns("<image>\n무엇인가요?", "경복궁입니다.\n", "어디에 있나요?", "서울.")
    )
    assert text == (
        f"<|im_start|>system\n{SYSTEM}<|im_end|>\n"
        "<|im_start|>user\n<image>\n무엇인가요?<|im_end|>\n"
        "<|im_start|>assistant\n경복궁입니다.\n<|im_end|>\n"
        "<|im_start|>user\n어디에 있나요?<|im_end|>\n"
        "<|im_start|>assistant\n서울.<|im_end|><|endofturn|>"
    )
    assert spans == ["경복궁입니다.\n<|im_end|>", "서울.<|im_end|><|endofturn|>"]


@given(
    st.lists(st.text(min_size=1, max_size=8).filter(lambda text: "\r" not in text and "<|" not in text), min_size=2, max_size=6)
)
def test_small_korean_vlm_template_is_the_projects_code(texts):
    """That code: each turn `ROLE\\nTEXT<|im_end|>\\n`, and the last token of a conversation, a line break, becomes <|endofturn|>."""
    messages = turns(*texts[: len(texts) // 2 * 2])
    whole = f"<|im_start|>system\n{SYSTEM}<|im_end|>\n"
    for message in messages:
        whole += f"<|im_start|>{message['role']}\n{message['content']}<|im_end|>\n"
    text, spans = rendered(template_text("small-korean-vlm"), messages)
    assert text == whole[:-1] + "<|endofturn|>"
    answers = [message["content"] for message in messages[1::2]]
    assert spans == [*(f"{answer}<|im_end|>" for answer in answers[:-1]), f"{answers[-1]}<|im_end|><|endofturn|>"]
    prompt, _ = rendered(template_text("small-korean-vlm"), messages[:-1], add_generation_prompt=True)
    assert whole.startswith(prompt) and text[len(prompt) :] == spans[-1]


def test_small_korean_vlm_template_takes_another_system_text():
    messages = [{"role": "system", "content": "짧게 답하세요."}, *turns("안녕")]
    text, spans = rendered(template_text("small-korean-vlm"), messages, add_generation_prompt=True)
    assert (
        text == ("<|im_start|>system\n짧게 답하세요.<|im_end|>\n<|im_start|>user\n안녕<|im_end|>\n<|im_start|>assistant\n")
        and not spans
    )


def test_plain_template_is_picture_and_caption():
    plain = template_text("plain")
    assert rendered(plain, turns("이 그림을 설명하세요.\n<image>", "흰 고양이")) == ("<image>흰 고양이\n", ["흰 고양이\n"])
    assert rendered(plain, turns("<image>\n설명"), add_generation_prompt=True) == ("<image>", [])
    assert rendered(plain, [{"role": "system", "content": "x"}, *turns("<image>", "개")])[0] == "<image>개\n"


@pytest.mark.parametrize("name", ["small-korean-vlm", "plain"])
def test_a_template_without_its_marks_writes_the_same(name):
    """The marks are taken out of what a model folder stores."""
    template, messages = template_text(name), turns("<image>\n가", "나 ", "다", "라")
    bare = re.sub(r"\{% (end)?generation %\}", "", template)
    assert "generation %}" in template and "generation %}" not in bare
    assert rendered(bare, messages)[0] == rendered(template, messages)[0]


def test_templates_are_found_by_name_or_beside_the_recipe(tmp_path, monkeypatch):
    assert {"plain", "small-korean-vlm"} <= set(template_names())
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "own.jinja").write_text("{{ messages }}")
    monkeypatch.chdir(tmp_path)
    assert template_text("own.jinja", tmp_path / "mine") == "{{ messages }}" == template_text("mine/own.jinja", None)
    with pytest.raises(BodaError, match="no chat template at"):
        template_text("nowhere.jinja", tmp_path)
    with pytest.raises(BodaError, match="did you mean 'plain'"):
        template_text("plian")
    assert load_recipe("small-korean-vlm", ["model.chat_template=own.jinja"]).model.chat_template == "own.jinja"


def test_bllossom_is_what_its_card_and_papers_say():
    """More than 30,000 pieces on Llama 3's 128,256, parallel text, all weights; ELO without new pieces, 1 to 9, ends then all."""
    grown, elo, seeing = (load_recipe(f"bllossom-{name}") for name in ("8b-pretrain", "elo", "v"))
    assert {recipe.model.language for recipe in (grown, elo)} == {"meta-llama/Meta-Llama-3-8B"}
    assert (grown.model.tokenizer.base, grown.model.tokenizer.vocab_size) == ("language", 128_256 + 30_000)
    assert {"text", "parallel", "links"} == {data.source for data in grown.stage("link").data}
    assert (grown.stage("tables").train, grown.stage("link").train) == (["language.embeddings"], ["language"])
    assert elo.model.tokenizer is None
    assert [(stage.name, stage.train) for stage in elo.stages] == [("ends", ["language.ends"]), ("align", ["language"])]
    assert seeing.model.recipes == {"language": "bllossom-8b-pretrain"} and seeing.model.connector == "mlp2x_gelu"
    kinds = [data.path.removeprefix("mvif/").removesuffix(".json") for data in seeing.stage("instruct").data]
    assert kinds == ["object", "location", "atmosphere", "conversation"]
    card = (seeing.generation.temperature, seeing.generation.top_p, seeing.generation.max_new_tokens)
    assert card == (0.6, 0.9, 2048) and seeing.generation.system.startswith("You are a helpful AI assistant. Please answer")
