"""What the equivalence and parity tests share: tiny models, samples, rows, and how two steps are compared."""

from __future__ import annotations

import json
import shutil
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from boda.data.images import ImageSpec, fit_image, load_image
from boda.data.pack import build_batch, step_rows
from boda.data.prepared import PreparedData, prepare
from boda.data.render import Renderer, expand_images, processor_template
from boda.data.sample import ImageRef, Sample, conversation, image_from_pil
from boda.models.assemble import Assembled, assemble, build_processor, load_tokenizer
from boda.models.attention import ATTENTION_NAME
from boda.models.checkpoints import generation_config
from boda.models.language import ADAPTER, lora_layers
from boda.recipe import Lora, ModelSpec, template_text
from boda.train.freeze import language_of, open_parts
from boda.train.objectives import language_loss
from tests import tiny


def language_variant(folder: Path, family: str, **changes) -> Path:
    """A tiny language model with some values of its config changed (they must not change the shapes of its weights)."""
    target = folder / f"{family}-variant"
    shutil.copytree(tiny.language_folder(family), target)
    path = target / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | changes), encoding="utf-8")
    return target


def tiny_model(
    language: str | Path = "llama", vision: str = "clip", connector: str = "mlp2x_gelu", layer: int = -2
) -> Assembled:
    """A new model of tiny parts; `language` is a family or a folder."""
    folder = str(language if isinstance(language, Path) else tiny.language_folder(language))
    spec = ModelSpec(vision=str(tiny.vision_folder(vision)), vision_layer=layer, language=folder, connector=connector)
    return assemble(spec, load_tokenizer(folder))


def template_for(tokenizer) -> str:
    """The tokenizer's own chat template, or the one Boda uses where there is none."""
    return tokenizer.chat_template or template_text("question-answer")


def renderer_for(assembled: Assembled, **rest) -> Renderer:
    return Renderer(assembled.tokenizer, template_for(assembled.tokenizer), assembled.num_image_tokens, **rest)


def answering(assembled: Assembled, template: str | None = None) -> tuple:
    """(model, processor) that answer, without a folder between: what `boda.load` gives of a finished run."""
    renderer = (
        renderer_for(assembled) if template is None else Renderer(assembled.tokenizer, template, assembled.num_image_tokens)
    )
    tokenizer = assembled.tokenizer
    text = template or template_for(tokenizer)
    processor = build_processor(assembled, Pixels(assembled).spec.to_processor(), processor_template(text))
    assembled.model.generation_config = generation_config({}, renderer.end_ids(), tokenizer.pad_token_id)
    return assembled.model.eval(), processor


class Pixels:
    """Picture -> what the assembled model's tower takes."""

    def __init__(self, assembled: Assembled):
        self.spec = ImageSpec.from_processor(assembled.image_processor)

    def __call__(self, ref: ImageRef) -> np.ndarray:
        return fit_image(load_image(ref), self.spec)


@cache
def picture(seed: int) -> ImageRef:
    return image_from_pil(tiny.random_picture(seed))


def ask(*turns: str, images: tuple[int, ...] = ()) -> Sample:
    """A conversation of alternating user and assistant turns with the pictures of those seeds."""
    roles = ("user", "assistant")
    said = [(roles[index % 2], text) for index, text in enumerate(turns)]
    return conversation(*said, images=tuple(picture(seed) for seed in images))


def mixed_samples() -> list[Sample]:
    """Conversations without a picture, with one (shared by several), with two, and with pictures in later turns."""
    return [
        ask("<image>\n이것은 무엇인가요?", "빨간 사과입니다.", images=(1,)),
        ask("안녕하세요?", "네, 안녕하세요. 무엇을 도와드릴까요?"),
        ask("<image>\n무슨 색이 보이나요?", "파랑", "왜 그런가요?", "하늘이라서 그렇습니다.", images=(1,)),
        ask("<image>\n<image>\n두 그림의 차이는?", "개수가 다릅니다.", images=(2, 3)),
        ask("질문이 있어요.", "네, 말씀하세요.", "<image>\n몇 개인가요?", "세 개입니다.", images=(4,)),
        ask("<image>\n비교할 그림은 <image> 이것입니다.", "둘 다 동그라미입니다.", images=(1, 5)),
        ask("설명해 주세요: <image>", "작은 네모 하나와 큰 세모 하나가 있습니다.", images=(6,)),
        ask("<image>\n어디에 있나요?", "위쪽", "<image>\n이것은요?", "아래쪽입니다.", images=(2, 1)),
        ask("1 더하기 1은?", "2입니다.", "2 더하기 2는?", "4입니다."),
        ask("<image>\n몇 시인가요?", "세 시 반", images=(1,)),
    ]


def prepared(samples: list[Sample], renderer: Renderer, folder: Path) -> PreparedData:
    """Samples rendered to disk; a sample that cannot be used fails the test."""

    def refuse(bad):
        raise bad

    return prepare([(lambda: samples, 1.0)], renderer, folder / "prepared", "key", refuse)


def opened(assembled: Assembled, train: list[str], lora: Lora | None = None) -> dict[str, torch.nn.Parameter]:
    """Opens parts, with adapters that already do something (a fresh B is zero and would hide A's gradient)."""
    trained = open_parts(assembled.model, train, lora or Lora(rank=4, alpha=8.0), seed=0)
    torch.manual_seed(0)
    for layer in lora_layers(assembled.model).values():
        torch.nn.init.normal_(layer.lora_B[ADAPTER].weight, std=0.1)
    assembled.model.eval()
    return trained


def rows_of(data: PreparedData, row_length: int, processes: int = 1, packing: bool = True, share: bool = True) -> list:
    """All rows of a step that takes every sample once, of all processes."""
    return [row for hand in step_rows(data, np.arange(len(data)), row_length, processes, packing, share) for row in hand]


def batches_of(data: PreparedData, rows: list, pixels: Pixels) -> list[dict]:
    return [build_batch(data, row, pixels, (0, 0)) for row in rows]


def step(model, batches: list[dict], trained: dict[str, torch.nn.Parameter]) -> dict[str, torch.Tensor]:
    """Loss and gradients for each trained token over rows, as one training step takes them: name -> tensor, `loss` among them."""
    model.zero_grad(set_to_none=True)
    language_of(model).set_attn_implementation(ATTENTION_NAME)
    total = sum(batch["labels"].numel() for batch in batches)
    loss_sum = torch.zeros(())
    for batch in batches:
        if not batch["labels"].numel():
            continue
        loss = language_loss(model, batch) / total
        if loss.requires_grad:
            loss.backward()
        loss_sum += loss.detach()
    return _result(loss_sum, trained)


def oracle_step(
    assembled: Assembled, data: PreparedData, pixels: Pixels, trained, attention: str = "sdpa"
) -> dict[str, torch.Tensor]:
    """The same, but every sample runs alone through the stock forward pass, with all its logits and -100 labels."""
    model = assembled.model
    model.zero_grad(set_to_none=True)
    language_of(model).set_attn_implementation(attention)
    total = int(data.targets[:].sum())
    loss_sum = torch.zeros(())
    for index in range(len(data)):
        loss = sample_loss(assembled, data, index, pixels) / total
        if loss.requires_grad:
            loss.backward()
        loss_sum += loss.detach()
    return _result(loss_sum, trained)


def sample_inputs(assembled: Assembled, data: PreparedData, index: int, pixels: Pixels) -> dict[str, torch.Tensor]:
    """One prepared sample as the stock model takes it: input_ids, labels (1, L) with -100 where nothing is trained, pixel_values."""
    rendered = data.row(index)
    ids = expand_images(rendered.input_ids, data.image_id, data.num_image_tokens).astype(np.int64)
    widths = np.where(rendered.input_ids == data.image_id, data.num_image_tokens, 1)
    labels = np.where(np.repeat(rendered.trained, widths), ids, -100)
    inputs = {"input_ids": torch.from_numpy(ids)[None], "labels": torch.from_numpy(labels)[None]}
    if rendered.images:
        inputs["pixel_values"] = torch.from_numpy(np.stack([pixels(image) for image in rendered.images]))
    return inputs


def sample_loss(assembled: Assembled, data: PreparedData, index: int, pixels: Pixels) -> torch.Tensor:
    """Summed cross-entropy of one sample, written out from the stock forward pass."""
    inputs = sample_inputs(assembled, data, index, pixels)
    labels = inputs.pop("labels")
    logits = assembled.model(**inputs, use_cache=False).logits[0]
    return F.cross_entropy(logits[:-1], labels[0, 1:], ignore_index=-100, reduction="sum")


def _result(loss: torch.Tensor, trained: dict[str, torch.nn.Parameter]) -> dict[str, torch.Tensor]:
    gradients = {name: p.grad.clone() if p.grad is not None else torch.zeros_like(p) for name, p in trained.items()}
    return {"loss": loss, **gradients}


def assert_same_step(given: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], tolerance: float = 1e-5) -> None:
    """Loss and every gradient agree to `tolerance` of their largest value; and the expected step does move something."""
    assert given.keys() == expected.keys()
    assert any(float(value.abs().max()) > 1e-3 for name, value in expected.items() if name != "loss")
    for name, value in expected.items():
        difference = float((given[name] - value).abs().max())
        limit = tolerance * max(1.0, float(value.abs().max()))
        assert difference <= limit, f"{name}: {difference:.2g} apart, the largest is {float(value.abs().max()):.2g}"


def tiny_recipe(
    folder: Path, stages: list[dict], rows: dict | None = None, language: str = "llama", connector: str = "ldpv2", **rest
) -> dict:
    """A recipe of tiny parts on a LLaVA file written into `folder`; `rows` are arguments of `tiny.llava_file`."""
    path = tiny.llava_file(folder, **({"n": 24, "turns": (1, 3), "text_only": 0.5, "pictures": 5} | (rows or {})))
    first = {
        "data": [{"source": "llava", "path": str(path), "images": str(folder / "images")}],
        "batch_size": 8,
        "learning_rate": 1e-3,
        "max_length": 512,
        "max_steps": 4,
    }
    model = {"vision": str(tiny.vision_folder("clip")), "connector": connector, "language": str(tiny.language_folder(language))}
    generation = {"max_new_tokens": 12}
    return {"precision": "fp32", "model": model, "stages": [first | stages[0], *stages[1:]], "generation": generation} | rest


def language_recipe(folder: Path, **rest) -> dict:
    """A recipe of a tiny language model alone: documents (long ones too) and questions, read in full, then with an adapter."""
    lines = tiny.korean_lines()
    texts = [{"text": " ".join(lines[n : n + 1 + n % 7])} for n in range(24)]
    asked = [
        {"messages": [{"role": "user", "content": f"{n}번 문장은?"}, {"role": "assistant", "content": lines[n % 3]}]}
        for n in range(16)
    ]
    folder.mkdir(parents=True, exist_ok=True)
    data = [{"path": str(folder / f"{name}.jsonl"), "source": name} for name in ("text", "messages")]
    for block, rows in zip(data, (texts, asked)):
        Path(block["path"]).write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    config = {"model_type": "llama", "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    config |= {"num_attention_heads": 2, "num_key_value_heads": 1, "tie_word_embeddings": True}
    read = {"name": "read", "train": ["language"], "data": data, "batch_size": 8, "learning_rate": 1e-2}
    read |= {"max_length": 64, "max_steps": 24}
    talk = {"name": "talk", "train": ["language.lora"], "lora": {"rank": 2, "alpha": 4}, "max_steps": 2, "learning_rate": 1e-3}
    model = {"kind": "language", "language": config, "tokenizer": {"vocab_size": 400}}
    recipe = {"precision": "fp32", "model": model, "stages": [read, talk], "generation": {"max_new_tokens": 8}}
    return recipe | rest


def trained_tensors(run: Path) -> dict[str, torch.Tensor]:
    """Everything that the stages of a run trained: `stage/name` -> tensor."""
    from safetensors.torch import load_file

    return {
        f"{path.relative_to(run / 'stages')}/{name}": tensor
        for path in sorted(run.glob("stages/*/model/**/*.safetensors"))
        for name, tensor in load_file(path).items()
    }


def records(run: Path) -> list[dict]:
    """The steps of a run's log."""
    lines = (run / "log.jsonl").read_text(encoding="utf-8").splitlines()
    return [record for record in map(json.loads, lines) if "loss" in record]


def validations(run) -> list[dict]:
    lines = (run / "log.jsonl").read_text(encoding="utf-8").splitlines()
    return [record for record in map(json.loads, lines) if "validation_loss" in record]


def assert_same_run(given, expected, limit: float = 1e-4):
    """Losses and gradients to 1e-5 of their size at every step, and the same way gone from the start, to `limit` of its length."""
    for ours, theirs in zip(records(given), records(expected), strict=True):
        assert ours["trained_tokens"] == theirs["trained_tokens"]
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-5)
        assert ours["grad_norm"] == pytest.approx(theirs["grad_norm"], rel=1e-4)
    for ours, theirs in zip(validations(given), validations(expected), strict=True):
        assert ours["validation_loss"] == pytest.approx(theirs["validation_loss"], rel=1e-4)
        assert ours.get("answers") == theirs.get("answers")  # a clip gives none
    tensors, wanted = trained_tensors(given), trained_tensors(expected)
    assert tensors.keys() == wanted.keys()
    for name, tensor in wanted.items():
        # Adam moves a number whose gradient is rounding error by a whole step, so single numbers say little.
        apart = float((tensors[name] - tensor).norm() / tensor.norm().clamp(min=1e-6))
        assert apart < limit, f"{name}: {apart:.2g} of its size apart"
