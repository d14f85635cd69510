"""Inputs of `train_vlm`: pictures, conversations and a LLaVA model, all from a seed and with nothing downloaded.

Two sets, as JSON lines of `{"messages": [...], "images": [path]}` with `<image>` where the picture goes:

instruction  one conversation a row like LLaVA's instruction set: 1 to 5 turns, answers of 20 to 400 tokens in all, a quarter
             of the rows without a picture
questions    8 questions a picture, a row each, short answers
"""

from __future__ import annotations

import argparse
import json
import math
import random
from collections.abc import Callable, Iterator
from pathlib import Path

VOCABULARY_ROWS = 32_064
IMAGE_TOKEN, PAD_TOKEN, START_TOKEN, END_TOKEN = "<image>", "<pad>", "<|im_start|>", "<|im_end|>"

# ChatML. TRL trains on what stands between the generation marks.
CHAT_TEMPLATE = """\
{%- for message in messages -%}
<|im_start|>{{ message['role'] }}
{% if message['role'] == 'assistant' -%}
{%- generation -%}
{%- if message['content'] is string -%}{{ message['content'] }}{%- else -%}
{%- for part in message['content'] -%}{{ part['text'] }}{%- endfor -%}{%- endif -%}
{{ '<|im_end|>' }}
{%- endgeneration -%}
{%- else -%}
{%- if message['content'] is string -%}{{ message['content'] }}{%- else -%}
{%- for part in message['content'] -%}
{%- if part['type'] == 'image' -%}{{ '<image>\\n' }}{%- else -%}{{ part['text'] }}{%- endif -%}
{%- endfor -%}{%- endif -%}
{{ '<|im_end|>' }}
{%- endif -%}
{{ '\\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\\n' }}{%- endif -%}
"""

COLOURS = {
    "빨간": (220, 50, 47),
    "파란": (38, 89, 210),
    "초록": (60, 160, 60),
    "노란": (235, 200, 40),
    "보라색": (130, 70, 180),
    "주황색": (240, 140, 30),
}
SHAPES = ("동그라미", "네모", "세모", "별")
PLACES = ("왼쪽 위", "오른쪽 위", "가운데", "왼쪽 아래", "오른쪽 아래")
SUBJECTS = (
    "배경의 색",
    "전체적인 구성",
    "작은 무늬",
    "두 번째 요소",
    "눈에 띄는 부분",
    "선의 굵기",
    "밝은 영역",
    "도형의 가장자리",
)
VERBS = ("보입니다", "놓여 있습니다", "이어집니다", "강조됩니다", "겹쳐집니다", "드러납니다", "반복됩니다", "어울립니다")
ADVERBS = ("조금", "뚜렷하게", "나란히", "자연스럽게", "서로 다르게", "고르게", "비교적 차분하게", "선명하게", "천천히")
QUESTIONS = (
    "이 그림을 자세히 설명해 주세요.",
    "무엇이 보이나요?",
    "어떤 색이 가장 많나요?",
    "왜 그렇게 생각하나요?",
    "더 알려 주세요.",
)
TEXT_QUESTIONS = (
    "균형 잡힌 구성이란 무엇인가요?",
    "색을 고르는 방법을 알려 주세요.",
    "도형을 가르치는 순서를 정리해 주세요.",
    "예를 들어 주세요.",
)

Scene = list[tuple[str, str, str, float]]  # colour, shape, place, size


# ---- pictures ---------------------------------------------------------------------------------------------------------------


def draw_scene(generator: random.Random) -> tuple[Scene, object]:
    """A few shapes on a shaded background, and what they are."""
    from PIL import Image, ImageDraw

    width, height = generator.choice(((480, 360), (360, 480), (400, 400), (640, 480)))
    base = tuple(generator.randrange(180, 246) for _ in range(3))
    gradient = Image.linear_gradient("L").resize((width, height))
    picture = Image.composite(Image.new("RGB", (width, height), base), Image.new("RGB", (width, height), "white"), gradient)
    draw = ImageDraw.Draw(picture)
    scene: Scene = []
    for place in generator.sample(PLACES, generator.randint(2, 5)):
        colour, shape, size = generator.choice(list(COLOURS)), generator.choice(SHAPES), generator.uniform(0.07, 0.15)
        x = width * {"왼": 0.25, "오": 0.75, "가": 0.5}[place[0]]
        y = height * (0.25 if place.endswith("위") else 0.75 if place.endswith("아래") else 0.5)
        _draw_shape(draw, shape, x, y, size * min(width, height), COLOURS[colour])
        scene.append((colour, shape, place, size))
    return scene, picture


def _draw_shape(draw, shape: str, x: float, y: float, radius: float, colour: tuple[int, int, int]) -> None:
    if shape == "동그라미":
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour)
    elif shape == "네모":
        draw.rectangle((x - radius, y - radius, x + radius, y + radius), fill=colour)
    else:
        corners, inner = (5, 0.45) if shape == "별" else (3, 1.0)
        points = []
        for corner in range(2 * corners):
            angle = math.pi * (corner / corners - 0.5)
            length = radius * (1.0 if corner % 2 == 0 else inner if inner < 1 else 0.5)
            points.append((x + length * math.cos(angle), y + length * math.sin(angle)))
        draw.polygon(points, fill=colour)


# ---- words ------------------------------------------------------------------------------------------------------------------


def with_particle(word: str, closed: str, opened: str) -> str:
    """The word with the particle that its last syllable asks for: one after a final consonant, the other after a vowel."""
    return word + (closed if (ord(word[-1]) - 0xAC00) % 28 else opened)


def sentence(generator: random.Random, scene: Scene) -> str:
    """One Korean sentence; about the picture where there is one."""
    if scene and generator.random() < 0.5:
        colour, shape, place, size = generator.choice(scene)
        subject = f"{'큰' if size > 0.11 else '작은'} {colour} {with_particle(shape, '이', '가')}"
        return f"{place}에 {subject} {generator.choice(VERBS)}."
    subject = with_particle(generator.choice(SUBJECTS), "은", "는")
    return f"{subject} {generator.choice(ADVERBS)} {generator.choice(VERBS)}."


def text_of_length(generator: random.Random, scene: Scene, length: int, count: Callable[[str], int]) -> str:
    """As many sentences as come nearest to `length` tokens; one at least."""
    text = sentence(generator, scene)
    while True:
        longer = f"{text} {sentence(generator, scene)}"
        if count(longer) - length > length - count(text):
            return text
        text = longer


def answer_lengths(generator: random.Random) -> list[int]:
    """Tokens of each answer of a conversation: 1 to 5 answers, together log-normal round 110 and between 20 and 400."""
    total = min(390.0, max(20.0, generator.lognormvariate(math.log(110), 0.75)))
    turns = min(generator.randint(1, 5), max(1, int(total / 20)))  # a sentence takes about 20
    shares = [generator.uniform(0.5, 1.5) for _ in range(turns)]
    return [round(total * share / sum(shares)) for share in shares]


def train_tokenizer():
    """Byte-level BPE trained on sentences of this file."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    generator = random.Random(0)

    def lines() -> Iterator[str]:
        for _ in range(4000):
            scene = [(generator.choice(list(COLOURS)), generator.choice(SHAPES), generator.choice(PLACES), 0.1)]
            yield sentence(generator, scene)
        yield from (*QUESTIONS, *TEXT_QUESTIONS, *(question for question, _ in short_questions(scene)))

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = [PAD_TOKEN, IMAGE_TOKEN, START_TOKEN, END_TOKEN]
    # Few merges: real Korean text costs 1.5 to 2 tokens a word, not one.
    trainer = trainers.BpeTrainer(
        vocab_size=420, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(lines(), trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token=PAD_TOKEN, eos_token=END_TOKEN)
    fast.add_special_tokens({"additional_special_tokens": [IMAGE_TOKEN, START_TOKEN]}, replace_extra_special_tokens=False)
    fast.chat_template = CHAT_TEMPLATE
    return fast


def token_counter() -> Callable[[str], int]:
    """The number of tokens a text becomes."""
    tokenizer = train_tokenizer()
    return lambda text: len(tokenizer(text, add_special_tokens=False)["input_ids"])


# ---- the sets ---------------------------------------------------------------------------------------------------------------


def short_questions(scene: Scene) -> list[tuple[str, str]]:
    """Eight questions about a scene with short answers."""
    colour, shape, place, size = scene[0]
    rest = ", ".join(f"{other[0]} {other[1]}" for other in scene[1:]) or "없음"
    return [
        ("도형이 모두 몇 개 있나요?", f"{len(scene)}개"),
        (f"{place}에는 무엇이 있나요?", f"{colour} {shape}입니다."),
        (f"{with_particle(shape, '은', '는')} 무슨 색인가요?", f"{colour.removesuffix('색')}색입니다."),
        (f"{colour} 도형은 어디에 있나요?", f"{place}에 있습니다."),
        (f"{place}의 도형은 큰가요, 작은가요?", "큽니다." if size > 0.11 else "작습니다."),
        ("나머지 도형은 무엇인가요?", f"{rest}입니다."),
        ("보라색 도형이 있나요?", "네." if any(item[0] == "보라색" for item in scene) else "아니요, 없습니다."),
        (
            "그림을 한 문장으로 설명해 주세요.",
            " 그리고 ".join(f"{place}에 {colour} {with_particle(shape, '이', '가')}" for colour, shape, place, _ in scene)
            + " 있습니다.",
        ),
    ]


def _turn(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def write_instruction_set(folder: Path, rows: int, seed: int = 0) -> Path:
    """`folder/instruction.jsonl` and its pictures: 1 to 5 turns, 20 to 400 answer tokens, 25 % text only."""
    generator, count = random.Random(f"instruction {seed}"), token_counter()
    images = folder / "instruction"
    images.mkdir(parents=True, exist_ok=True)
    path = folder / "instruction.jsonl"
    with path.open("w", encoding="utf-8") as file:
        for index in range(rows):
            scene: Scene = []
            names: list[str] = []
            if index % 4 != 3:
                scene, picture = draw_scene(generator)
                names = [f"instruction/{index:06}.png"]
                picture.save(folder / names[0])
            messages = []
            for turn, length in enumerate(answer_lengths(generator)):
                question = generator.choice(QUESTIONS if scene else TEXT_QUESTIONS)
                messages.append(_turn("user", f"{IMAGE_TOKEN}\n{question}" if names and turn == 0 else question))
                messages.append(_turn("assistant", text_of_length(generator, scene, length, count)))
            file.write(json.dumps({"messages": messages, "images": names}, ensure_ascii=False) + "\n")
    return path


def write_question_set(folder: Path, pictures: int, seed: int = 0) -> Path:
    """`folder/questions.jsonl` and its pictures: 8 rows a picture, next to each other as such sets come."""
    generator = random.Random(f"questions {seed}")
    (folder / "questions").mkdir(parents=True, exist_ok=True)
    path = folder / "questions.jsonl"
    with path.open("w", encoding="utf-8") as file:
        for index in range(pictures):
            scene, picture = draw_scene(generator)
            name = f"questions/{index:06}.png"
            picture.save(folder / name)
            for question, answer in short_questions(scene):
                messages = [_turn("user", f"{IMAGE_TOKEN}\n{question}"), _turn("assistant", answer)]
                file.write(json.dumps({"messages": messages, "images": [name]}, ensure_ascii=False) + "\n")
    return path


def read_rows(path: Path) -> list[dict]:
    """The rows of a set."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


# ---- the model --------------------------------------------------------------------------------------------------------------


def write_model(
    folder: Path,
    *,
    seed: int = 0,
    image_size: int = 336,
    vision_hidden: int = 384,
    vision_layers: int = 8,
    language_hidden: int = 512,
    language_layers: int = 8,
) -> Path:
    """A LLaVA folder with random weights: CLIP ViT/14, MLP connector, Llama with 32,064 vocabulary rows, processor."""
    import torch
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration, LlavaProcessor
    from transformers.models.clip import CLIPImageProcessorPil

    tokenizer = train_tokenizer()
    vision = CLIPVisionConfig(
        hidden_size=vision_hidden,
        intermediate_size=4 * vision_hidden,
        num_hidden_layers=vision_layers,
        num_attention_heads=vision_hidden // 64,
        image_size=image_size,
        patch_size=14,
        projection_dim=vision_hidden,
    )
    language = LlamaConfig(
        vocab_size=VOCABULARY_ROWS,
        hidden_size=language_hidden,
        intermediate_size=language_hidden * 11 // 4,
        num_hidden_layers=language_layers,
        num_attention_heads=language_hidden // 64,
        num_key_value_heads=language_hidden // 128,
        max_position_embeddings=8192,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        tie_word_embeddings=False,
    )
    config = LlavaConfig(
        vision_config=vision,
        text_config=language,
        image_token_index=tokenizer.convert_tokens_to_ids(IMAGE_TOKEN),
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
        tie_word_embeddings=False,
    )
    torch.manual_seed(seed)
    LlavaForConditionalGeneration(config).save_pretrained(folder)
    size = {"height": image_size, "width": image_size}
    LlavaProcessor(
        image_processor=CLIPImageProcessorPil(size={"shortest_edge": image_size}, crop_size=size),
        tokenizer=tokenizer,
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=CHAT_TEMPLATE,
    ).save_pretrained(folder)
    return folder


def main() -> None:
    """`python benchmarks/train_vlm_data.py FOLDER [--rows N] [--pictures N] [--seed S]`: both sets and the model."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rows", type=int, default=256, help="conversations of the instruction set")
    parser.add_argument("--pictures", type=int, default=32, help="pictures of the question set")
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    write_instruction_set(chosen.folder, chosen.rows, chosen.seed)
    write_question_set(chosen.folder, chosen.pictures, chosen.seed)
    write_model(chosen.folder / "model", seed=chosen.seed)


if __name__ == "__main__":
    main()
