"""The recipes of Korean instruction tuning: what KULLM and Bllossom publish."""

from __future__ import annotations

from boda.recipe import load_recipe, recipe_difference

KULLM3 = (
    "당신은 고려대학교 NLP&AI 연구실에서 만든 AI 챗봇입니다.\n"
    "당신의 이름은 'KULLM'으로, 한국어로는 '구름'을 뜻합니다.\n"
    "당신은 비도덕적이거나, 성적이거나, 불법적이거나 또는 사회 통념적으로 허용되지 않는 발언은 하지 않습니다.\n"
    "사용자와 즐겁게 대화하며, 사용자의 응답에 가능한 정확하고 친절하게 응답함으로써 최대한 도와주려고 노력합니다.\n"
    "질문이 이상하다면, 어떤 부분이 이상한지 설명합니다. 거짓 정보를 발언하지 않도록 주의합니다."
)


def test_kullm_is_what_its_script_and_readme_say():
    """train_polyglot.sh and README of the branch kullm_v2; the learning rate is finetune_polyglot.py's."""
    recipe = load_recipe("kullm-polyglot-12.8b")
    (tune,) = recipe.stages
    assert (recipe.model.language, recipe.precision) == ("EleutherAI/polyglot-ko-12.8b", "int8")
    assert (tune.objective, tune.train, recipe.model.chat_template) == ("all_tokens", ["language.lora"], "kullm")
    assert (tune.lora.rank, tune.lora.alpha, tune.lora.dropout, tune.lora.targets) == (8, 16, 0.05, ["query_key_value"])
    assert (tune.batch_size, tune.learning_rate, tune.max_length, tune.epochs) == (128, 3e-4, 512, 8)
    assert (tune.schedule, tune.warmup_ratio, tune.weight_decay) == ("cosine", 0.1, 0)
    assert round(tune.validation * 152_630) == 1_999
    said = recipe.generation
    assert (said.beams, said.temperature, said.max_new_tokens, said.system) == (5, 0, 512, None)


def test_kullm_5_8b_differs_in_the_programs_own_values():
    assert recipe_difference(load_recipe("kullm-polyglot-12.8b"), load_recipe("kullm-polyglot-5.8b")) == [
        "model.language: EleutherAI/polyglot-ko-12.8b -> EleutherAI/polyglot-ko-5.8b",
        "stages.tune.epochs: 8.0 -> 3.0",
        "stages.tune.schedule: cosine -> linear",
        "stages.tune.warmup_ratio: 0.1 -> 0.0283",
        "stages.tune.max_length: 512 -> 2048",
        "stages.tune.lora.rank: 8 -> 32",
        "stages.tune.lora.alpha: 16.0 -> 64.0",
    ]


def test_kullm3_speaks_under_its_system_text():
    recipe = load_recipe("kullm3")
    (tune,) = recipe.stages
    assert recipe.generation.system == KULLM3 and recipe.generation.max_new_tokens == 1024
    assert (recipe.model.language, recipe.model.chat_template) == ("upstage/SOLAR-10.7B-Instruct-v1.0", "kullm-sft")
    assert (tune.train, tune.learning_rate, tune.epochs, tune.batch_size) == (["language"], 5e-6, 1, 8)
    assert (tune.schedule, tune.max_length) == ("cosine", 4096)
    adapter = ["stages.tune.train=[language.lora]", "stages.tune.lora.rank=64", "stages.tune.lora.alpha=128"]
    assert load_recipe("kullm3", adapter).stages[0].lora.rank == 64


def test_bllossom_answers_as_its_readme_says():
    recipe, small = load_recipe("bllossom-8b-instruct"), load_recipe("bllossom-8b-qlora-t4")
    assert recipe.generation.model_dump() == {
        "system": "당신은 유용한 AI 어시스턴트입니다. 사용자의 질의에 대해 친절하고 정확하게 답변해야 합니다.\n"
        "You are a helpful AI assistant, you'll need to answer users' queries in a friendly and accurate manner.",
        "stop": [],
        "temperature": 0.6,
        "top_p": 0.9,
        "repetition_penalty": 1.1,
        "beams": 1,
        "max_new_tokens": 2048,
    }
    assert recipe.model.chat_template == small.model.chat_template == "llama-3"
    assert (recipe.precision, small.precision) == ("auto", "nf4")
    assert small.stages[0].gradient_checkpointing and small.stages[0].lora.rank < recipe.stages[0].lora.rank
    assert small.generation.system == recipe.generation.system
