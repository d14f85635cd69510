"""The same step whatever the packing, accumulation or number of processes; handover between stages; merging."""

from __future__ import annotations

import json
import multiprocessing
import threading

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import boda
from boda.data.pack import build_batch, step_rows
from boda.data.plan import Plan
from boda.data.prepared import PreparedData
from boda.models.language import ADAPTER, lora_layers, merge_lora
from boda.recipe import load_recipe
from boda.train import stages
from boda.train.build import PixelLoader, attach_stage, build, get_tokenizer, image_spec
from boda.train.finished import merge
from boda.train.freeze import language_of
from boda.train.preparation import split
from boda.train.stages import train
from tests import tiny
from tests.support import assert_same_run, opened, records, step, tiny_model, tiny_recipe, trained_tensors, validations

LORA = {"rank": 4, "alpha": 8.0}
# A text-only row reaches no connector: in the first stage half of the rows give no gradient at all.
STAGES = [
    {"name": "align", "train": ["connector"], "batch_size": 2, "packing": False, "max_steps": 6},
    {
        "name": "instruct",
        "train": ["connector", "language.lora"],
        "lora": LORA,
        "batch_size": 8,
        "packing": True,
    }
    | {"max_steps": 4, "row_length": 600, "weight_decay": 0.01, "learning_rate": 3e-3},
    {
        "name": "again",
        "train": ["language.lora"],
        "lora": {"rank": 2, "alpha": 8.0},
        "max_steps": 3,
        "validation": 0.2,
        "eval_steps": 2,
    },
]
MINUTES = 4


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    return tiny_recipe(tmp_path_factory.mktemp("data"), STAGES)


@pytest.fixture(scope="module")
def run(recipe, tmp_path_factory):
    """The run that all others must equal: one process, rows that hold a few samples."""
    out = tmp_path_factory.mktemp("run") / "run"
    train(recipe, out, quiet=True)
    assert [record["step"] for record in validations(out)] == [2, 3]
    return out


@pytest.mark.parametrize(
    "overrides",
    [
        {"stages.instruct.row_length": 8192, "stages.align.packing": True},
        {"stages.*.packing": False},
    ],
    ids=["large rows", "unpacked"],
)
def test_accumulation_is_one_large_batch(recipe, run, overrides, tmp_path):
    train(recipe, tmp_path / "run", quiet=True, overrides=overrides)
    assert_same_run(tmp_path / "run", run)


def test_two_processes_are_one(recipe, run, tmp_path):
    """... and none waits for ever where one of them sees only text."""
    assert sees_only_text(run, "align")
    failures = []

    def work():
        try:
            train(recipe, tmp_path / "run", processes=2, quiet=True)
        except BaseException as error:
            failures.append(error)

    worker = threading.Thread(target=work, daemon=True)
    worker.start()
    worker.join(60 * MINUTES)
    hung = worker.is_alive()
    for child in multiprocessing.active_children() if hung else ():
        child.kill()
    assert not hung, f"no end after {MINUTES} minutes"
    assert not failures, failures
    assert_same_run(tmp_path / "run", run)


def sees_only_text(run, name) -> bool:
    """Whether some step gives one of two processes pictures and the other none."""
    loaded = load_recipe(run / "recipe.yaml")
    stage = loaded.stage(name)
    data = PreparedData.open(run / "stages" / name / "data")
    plan = Plan(loaded.seed, stage.batch_size, np.asarray(data.sources), data.weights, None)
    for number in range(stage.max_steps):
        samples = plan.step(*divmod(number, plan.steps_per_epoch()))
        hands = step_rows(data, samples, stage.max_length, 2, bool(stage.packing), stage.packing is True)
        pictures = [sum(len(data.row(i).images) for row in hand for unit in row.units for i in unit.samples) for hand in hands]
        if 0 in pictures and sum(pictures) > 0:
            return True
    return False


def built_before(run, number: int):
    """The run's model as the first `number` stages left it."""
    loaded = load_recipe(run / "recipe.yaml")
    return build(loaded, get_tokenizer(loaded, run, iter(())), run, loaded.stages[:number], torch.device("cpu"))


def test_a_stage_starts_from_what_the_one_before_left(run):
    """The first loss that the log tells of a stage is that of the merged weights of the stage before."""
    loaded = load_recipe(run / "recipe.yaml")
    for number, stage in enumerate(loaded.stages[1:], start=1):
        built = built_before(run, number)
        data = PreparedData.open(run / "stages" / stage.name / "data")
        seen = split(data, stage.validation, loaded.seed)[0] if stage.validation else np.arange(len(data))
        plan = Plan(loaded.seed, stage.batch_size, data.sources[seen], data.weights, data.groups[seen])
        rows = step_rows(data, seen[plan.step(0, 0)], 10_000, 1, True, True)[0]
        load = PixelLoader(image_spec(built, stage.image_fit))
        batches = [build_batch(data, row, load, (0, 0)) for row in rows]
        first = next(record for record in records(run) if record["stage"] == stage.name)
        assert float(step(built.model, batches, {})["loss"]) == pytest.approx(first["loss"], rel=1e-5)


@torch.no_grad()
def logits(model, processor) -> torch.Tensor:
    """Of a question with a picture and of one without, one after the other."""
    found = []
    for content in (
        [{"type": "image", "image": tiny.random_picture(3)}, {"type": "text", "text": "무엇인가요?"}],
        [{"type": "text", "text": "안녕하세요?"}],
    ):
        inputs = processor.apply_chat_template(
            [{"role": "user", "content": content}],
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            add_generation_prompt=True,
        )
        found.append(model(**inputs).logits[0])
    return torch.cat(found)


def test_merged_is_unmerged(run, tmp_path):
    """The finished folder answers as the live model with its adapter on; `merge` writes the same folder again."""
    built = built_before(run, 2)
    before = built.model.state_dict()
    attach_stage(built, load_recipe(run / "recipe.yaml").stages[2], run / "stages" / "again" / "model")
    model, processor = boda.load(run / "model", dtype=torch.float32)
    live, merged = logits(built.model, processor), logits(model, processor)
    torch.testing.assert_close(merged, live, rtol=1e-4, atol=1e-5 * float(live.abs().max()))
    folder, difference = merge(run, tmp_path / "again")
    assert difference < 1e-4
    written, again = load_file(run / "model" / "model.safetensors"), load_file(folder / "model.safetensors")
    assert written.keys() == again.keys() and all(torch.equal(written[name], again[name]) for name in written)
    moved = [name for name, tensor in before.items() if name in written and not torch.equal(written[name], tensor)]
    assert moved and all("language_model.layers" in name for name in moved)  # an adapter changes no table, norm or connector


def test_an_adapter_is_what_peft_makes_of_it(run):
    """Stages leave PEFT's own layout: PEFT puts the adapter on the stage's start and merges it to the same weights."""
    from peft import PeftModel

    folder = run / "stages" / "instruct" / "model"
    peft = PeftModel.from_pretrained(built_before(run, 1).model, folder / "adapter").merge_and_unload()
    start, given = built_before(run, 1).model.state_dict(), built_before(run, 2).model.state_dict()
    names = [name for name in given if ".language_model.layers." in name and name.endswith("proj.weight")]
    assert len(names) == 14
    for name, tensor in peft.state_dict().items():
        if name in names:
            assert not torch.equal(tensor, start[name])
            torch.testing.assert_close(given[name], tensor, rtol=0, atol=1e-7)


def test_merging_an_earlier_stage(run, tmp_path):
    """`merge --stage` gives the model as that stage left it: the next one's start."""
    folder, _ = merge(run, tmp_path / "model", stage="instruct")
    written, start = load_file(folder / "model.safetensors"), built_before(run, 2).model.state_dict()
    for name, tensor in written.items():
        assert torch.equal(start[name], tensor), name


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_merging_sums_in_fp32_then_casts(dtype):
    assembled = tiny_model()
    opened(assembled, ["language.lora"])
    language = assembled.model.model.language_model
    expected = {}
    for name, layer in lora_layers(language).items():
        layer.get_base_layer().to(dtype)
        up, down = layer.lora_B[ADAPTER].weight, layer.lora_A[ADAPTER].weight
        expected[name] = (layer.get_base_layer().weight.double() + 2.0 * (up.double() @ down.double())).detach()
    merge_lora(language)
    for name, weight in expected.items():
        merged = language.get_submodule(name).weight
        step_size = torch.finfo(dtype).eps * weight.abs().max()
        assert merged.dtype == dtype and float((merged.double() - weight).abs().max()) <= step_size
    assert not lora_layers(language)


@pytest.mark.parametrize("train_parts", [["connector", "language"], ["connector", "language.lora"], ["connector"]])
def test_gradient_checkpointing_computes_twice_and_changes_nothing(train_parts, monkeypatch, tmp_path):
    """... whether the language model itself is trained, an adapter on it, or only what lies before it."""
    calls = {}

    def spy(job, run=stages.loop.run):
        attention = language_of(job.model).layers[0].self_attn
        attention.register_forward_hook(lambda *_: calls.update({job.folder: calls.get(job.folder, 0) + 1}))
        return run(job)

    monkeypatch.setattr(stages.loop, "run", spy)
    stage = {"name": "align", "train": train_parts, "max_steps": 2} | ({"lora": LORA} if "language.lora" in train_parts else {})
    recipe = tiny_recipe(tmp_path / "data", [stage], {"n": 6, "text_only": 0.0})
    for name, on in (("kept", False), ("again", True)):
        train(recipe, tmp_path / name, quiet=True, overrides={"stages.align.gradient_checkpointing": on})
    kept, again = calls.values()
    assert again == 2 * kept
    tensors, wanted = trained_tensors(tmp_path / "again"), trained_tensors(tmp_path / "kept")
    assert tensors.keys() == wanted.keys() and all(torch.equal(tensors[name], wanted[name]) for name in wanted)


def test_a_picture_that_cannot_be_read_takes_its_samples_out(tmp_path):
    """The step is then the one that the other samples make, and the log counts only these."""
    stage = {"name": "align", "train": ["connector"], "max_steps": 1, "batch_size": 100}
    recipe = tiny_recipe(tmp_path, [stage], {"n": 10, "pictures": 3, "text_only": 0.2}, max_bad_rows=0.5)
    rows = json.loads((tmp_path / "chat.json").read_text(encoding="utf-8"))
    broken = tmp_path / "images" / "picture_00001.png"
    whole = broken.read_bytes()
    broken.write_bytes(whole[: len(whole) // 2])  # its header is good, so only reading it tells
    train(recipe, tmp_path / "broken", quiet=True)
    said = (tmp_path / "broken" / "stages" / "align" / "bad_images.0.jsonl").read_text(encoding="utf-8")
    left = [row for row in rows if row.get("image") != broken.name]
    assert len(left) < len(rows) and said.count("picture_00001.png") == len(rows) - len(left)
    (tmp_path / "chat.json").write_text(json.dumps(left, ensure_ascii=False), encoding="utf-8")
    train(recipe, tmp_path / "left", quiet=True)
    assert_same_run(tmp_path / "broken", tmp_path / "left")
