"""A Flamingo's run: the same whatever the packing or the number of processes; what is frozen stays; stages hand over; it answers."""

from __future__ import annotations

import shutil

import pytest
import torch
from safetensors.torch import load_file

import boda
from boda.models.generate import generate
from boda.train.stages import train
from tests import tiny
from tests.support import assert_same_run, records, tiny_recipe, trained_tensors

SMALL = {"depth": 2, "num_latents": 4, "heads": 2, "head_dim": 8, "every": 2, "special_tokens": ["<|acc|>"]}
STAGES = [
    {
        "name": "captions",
        "train": ["resampler", "cross_attention", "language.tokens"],
        "row_length": 600,
        "weight_decay": 0.1,
        "schedule": "constant",
        "max_steps": 5,
    },
    {"name": "instruct", "train": ["cross_attention", "language.lora"], "lora": {"rank": 2, "alpha": 4.0}, "max_steps": 3}
    | {"validation": 0.2, "eval_steps": 3},
]


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    made = tiny_recipe(tmp_path_factory.mktemp("data"), STAGES, language="gpt_neox", rows={"text_only": 0.25})
    return made | {"model": made["model"] | {"kind": "flamingo", "connector": SMALL, "vision_layer": -1}}


@pytest.fixture(scope="module")
def run(recipe, tmp_path_factory):
    out = tmp_path_factory.mktemp("run") / "run"
    train(recipe, out, quiet=True)
    return out


def test_packing_and_processes_change_nothing(recipe, run, tmp_path):
    train(recipe, tmp_path / "unpacked", quiet=True, overrides={"stages.*.packing": False})
    assert_same_run(tmp_path / "unpacked", run)
    train(recipe, tmp_path / "two", processes=2, quiet=True)
    assert_same_run(tmp_path / "two", run)


def test_stopped_between_steps_it_ends_with_the_same_weights(recipe, run, tmp_path):
    """Every checkpoint but the first is lost, the last stage's included: bitwise the same weights."""
    train(recipe, tmp_path / "run", quiet=True, overrides={"stages.*.save_steps": 1})
    for stage in ("captions", "instruct"):
        folder = tmp_path / "run" / "stages" / stage
        for later in sorted((folder / "checkpoints").glob("step-*"))[1:]:
            shutil.rmtree(later)
        shutil.rmtree(folder / "model")
    shutil.rmtree(tmp_path / "run" / "model")
    train(recipe, tmp_path / "run", quiet=True, overrides={"stages.*.save_steps": 1})
    again, wanted = trained_tensors(tmp_path / "run"), trained_tensors(run)
    assert again.keys() == wanted.keys()
    assert all(torch.equal(again[name], wanted[name]) for name in wanted)


def test_only_what_is_named_learns(run):
    trained = load_file(run / "stages" / "captions" / "model" / "trained.safetensors")
    kinds = {name.split(".")[1] if ".cross_attention." not in name else "cross_attention" for name in trained}
    assert kinds == {"resampler", "cross_attention", "language_model"}
    (table,) = (name for name in trained if name.startswith("model.language_model") and ".cross_attention." not in name)
    before = boda.load(tiny.language_folder("gpt_neox"), device="cpu", dtype=torch.float32)[0].get_input_embeddings().weight
    model, processor = boda.load(run / "model", device="cpu", dtype=torch.float32)
    moved = (trained[table][: len(before)] != before).any(dim=1).nonzero()[:, 0].tolist()
    added = [id for id in range(len(before), len(trained[table])) if id in processor.tokenizer.added_tokens_decoder]
    named = processor.tokenizer.convert_tokens_to_ids(["<image>", "<|endofchunk|>"])
    assert set(moved) <= set(named) and set(named) <= {*moved, *added}
    assert "<|acc|>" in processor.tokenizer.get_vocab()
    blocks = model.model.blocks()
    assert len(blocks) == model.config.text_config.num_hidden_layers // 2
    assert all(block.attn_gate.item() != 0 for block in blocks)
    losses = [record["loss"] for record in records(run) if record["stage"] == "captions"]
    assert losses[-1] < losses[0]


def test_it_answers_with_demonstrations_before(run):
    """Earlier turns are demonstrations; one conversation in a batch of others says what it says alone, with beams too."""
    model, processor = boda.load(run / "model", device="cpu", dtype=torch.float32)

    def shown(*seeds: int) -> list[dict]:
        turns: list[dict] = []
        for seed in seeds:
            content = [{"type": "image", "image": tiny.random_picture(seed)}, {"type": "text", "text": "무엇인가요?"}]
            turns += [{"role": "user", "content": content}, {"role": "assistant", "content": f"{seed}번 그림"}]
        return turns[:-1]

    text = processor.apply_chat_template(shown(1, 2), add_generation_prompt=True)
    assert text == "<image>무엇인가요?1번 그림<|endofchunk|><image>무엇인가요?"
    conversations = [shown(1), shown(1, 2, 3), [{"role": "user", "content": "안녕하세요?"}], shown(4, 2)]
    for given in ({}, {"beams": 3}):
        batch = generate(model, processor, conversations, max_new_tokens=8, **given)
        assert batch == [generate(model, processor, [each], max_new_tokens=8, **given)[0] for each in conversations]


def test_the_processor_takes_texts_with_marks_and_nested_pictures(run):
    model, processor = boda.load(run / "model", device="cpu", dtype=torch.float32)
    pictures = [[tiny.random_picture(1), tiny.random_picture(2)], [tiny.random_picture(3)]]
    inputs = processor(text=["<image>하나<|endofchunk|><image>", "<image>"], images=pictures, padding=True, return_tensors="pt")
    assert inputs["pixel_values"].shape[0] == 3
    assert (inputs["input_ids"] == model.config.image_token_index).sum(dim=1).tolist() == [2, 1]
    assert model(**inputs).logits.isfinite().all()
