"""The contrastive step: the loss is the published one, no right answer counts as wrong, and rows change no gradient."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from boda.data.pack import step_rows
from boda.data.pairs import build_pairs
from boda.data.sources import BadRows
from boda.models.language import ADAPTER, lora_layers
from boda.models.pairing import text_positions
from boda.recipe import load_recipe
from boda.train import contrastive, preparation, stages
from boda.train.build import build, get_tokenizer, opened, pair_renderer
from boda.train.contrastive import bound_scale, contrastive_loss, contrastive_step, pairs_among, vectors
from boda.train.loop import pass_of
from tests.pair_recipes import pair_recipe
from tests.support import assert_same_step

BOTH = {"train": ["vision", "text", "logit_scale"]}
LORA = {"train": ["vision.lora", "text.lora", "logit_scale"], "lora": {"rank": 2, "alpha": 4, "dropout": 0.2}}


class Case:
    """A stage at its start, and its first step's rows."""

    def __init__(self, folder, stage=BOTH, **model):
        self.recipe = load_recipe(pair_recipe(folder, [{"name": "pair"} | stage], **model))
        self.stage = self.recipe.stages[0]
        self.built = build(self.recipe, get_tokenizer(self.recipe, None, iter(())), None, [], torch.device("cpu"))
        self.model = self.built.model
        trained = opened(self.built, self.stage, seed=0)
        torch.manual_seed(0)
        for layer in lora_layers(self.model).values():  # a fresh adapter's B is zero and would hide A's gradient
            torch.nn.init.normal_(layer.lora_B[ADAPTER].weight, std=0.1)
        arguments = (self.recipe, self.stage, self.built)
        data = preparation.prepare_stage(*arguments, folder / "stage", None, BadRows(), True)
        self.job = stages.make_job(*arguments, trained, data, folder, torch.device("cpu"), 0)

    def batches(self, row_length: int, samples=None) -> list[dict]:
        job = self.job
        chosen = job.samples(0, 0) if samples is None else np.asarray(samples)
        rows = step_rows(job.data, chosen, row_length, 1, True, False)[0]
        found = [build_pairs(job.data, row, job.load_pixels, (0, 0)) for row in rows]
        return [batch | {"place": place, "rows": len(rows)} for place, batch in enumerate(found)]

    def step(self, batches: list[dict]) -> dict[str, torch.Tensor]:
        """Loss for each pair and gradients, as a training step takes them."""
        self.model.zero_grad(set_to_none=True)
        planned = sum(len(batch["sample_ids"]) for batch in batches)
        loss, done = contrastive_step(pass_of(self.job, (0, 0), planned), [dict(batch) for batch in batches], lambda: False)
        assert done == planned
        return self.result(torch.tensor(loss / planned))

    def result(self, loss: torch.Tensor) -> dict[str, torch.Tensor]:
        gradients = {name: p.grad if p.grad is not None else torch.zeros_like(p) for name, p in self.job.trained.items()}
        return {"loss": loss.detach().float(), **{name: gradient.clone() for name, gradient in gradients.items()}}

    def stock_step(self, batch: dict) -> dict[str, torch.Tensor]:
        """The same of one row by the model's own forward pass: padded texts, its own loss. No key may be there twice."""
        self.model.zero_grad(set_to_none=True)
        lengths = batch["cu_seq_lens"].diff().tolist()
        texts = batch["input_ids"][0].split(lengths)
        ids = torch.nn.utils.rnn.pad_sequence(list(texts), batch_first=True, padding_value=1)
        mask = (torch.arange(ids.shape[1]) < torch.tensor(lengths)[:, None]).long()
        self.model.text_model.set_attn_implementation("sdpa")
        loss = self.model(input_ids=ids, attention_mask=mask, pixel_values=batch["pixel_values"], return_loss=True).loss
        loss.backward()
        self.model.text_model.set_attn_implementation("boda")
        return self.result(loss)


@pytest.mark.parametrize("contrast", ["softmax", "sigmoid"])
def test_a_step_is_the_models_own_loss_of_the_whole_batch(contrast, tmp_path):
    """One row, several rows and a loss in pieces: loss and gradients of transformers' (SigLIP's) loss on padded texts."""
    case = Case(tmp_path, contrast=contrast)
    case.model.eval()
    samples = [0, 2, 4, 6, 8, 10, 12]  # different pictures, different captions
    (whole,) = case.batches(10_000, samples)
    expected = case.stock_step(whole)
    assert_same_step(case.step([whole]), expected)
    rows = case.batches(40, samples)
    assert len(rows) > 2
    assert_same_step(case.step(rows), expected)


def test_the_loss_in_pieces(monkeypatch, tmp_path):
    case = Case(tmp_path)
    rows = case.batches(10_000)
    expected = case.step(rows)
    monkeypatch.setattr(contrastive, "MAX_SIMILARITIES", 25)
    assert_same_step(case.step(rows), expected)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=9))
def test_a_right_answer_is_right_wherever_it_stands(keys):
    """Picture i and text j belong together if any pair of the step says so: by name, or by way of a third."""
    pictures, texts = (torch.tensor(each) for each in zip(*keys))
    known = pairs_among(pictures, texts)(slice(None), slice(None))
    assert known.tolist() == [[(picture, text) in set(keys) for _, text in keys] for picture, _ in keys]


@pytest.mark.parametrize("contrast", ["softmax", "sigmoid"])
def test_a_right_answer_is_no_negative(contrast, tmp_path):
    """What such a text's vector is does not touch the loss of a picture that it belongs to."""
    model = Case(tmp_path, contrast=contrast).model
    image, text = torch.randn(2, 4, 16, generator=torch.Generator().manual_seed(0))
    keys = {"image_keys": torch.tensor([1, 1, 2, 3]), "text_keys": torch.tensor([5, 6, 7, 7])}
    loss = contrastive_loss(model, image, text, keys)
    with torch.no_grad():
        logits = contrastive.similarity(model, image, text)
    wrong = {0: [2, 3], 1: [2, 3], 2: [0, 1], 3: [0, 1]}
    total = 0.0
    for own, others in wrong.items():
        if contrast == "softmax":
            for line in (logits[own], logits[:, own]):
                total -= 0.5 * float(line[[own, *others]].log_softmax(0)[0])
        else:
            total -= float(torch.nn.functional.logsigmoid(logits[own, own]))
            total -= sum(float(torch.nn.functional.logsigmoid(-logits[own, other])) for other in others)
    assert float(loss.detach()) == pytest.approx(total, rel=1e-5)


@pytest.mark.parametrize("stage", [BOTH, LORA], ids=["whole", "lora"])
def test_dropout_is_replayed(stage, tmp_path):
    """With dropout on, rows computed twice give the gradient of rows computed once and kept."""
    case = Case(tmp_path, stage)
    case.job.set_modes()
    rows = case.batches(40)
    given = case.step(rows)
    again = case.step(rows)
    assert all(torch.equal(given[name], again[name]) for name in given)
    case.model.zero_grad(set_to_none=True)
    step = pass_of(case.job, (0, 0), 1)
    found = [vectors(step, batch) for batch in rows]
    image, text = (torch.cat(each) for each in zip(*found))
    loss = contrastive_loss(case.model, image, text, contrastive.keys_of(rows, torch.device("cpu"))) / len(image)
    loss.backward()
    assert_same_step(given, case.result(loss))
    case.model.eval()
    assert abs(float(case.step(rows)["loss"] - given["loss"])) > 1e-4  # it does something


def test_a_locked_tower_runs_once_and_without_autograd(tmp_path):
    """LiT: the image tower is not in `train`; texts still learn as they would beside it."""
    case = Case(tmp_path, {"train": ["text", "logit_scale"]})
    rows = case.batches(40)
    seen = []
    case.model.vision_model.register_forward_hook(lambda *_: seen.append(torch.is_grad_enabled()))
    given = case.step(rows)
    assert seen == [False] * len(rows) and len(rows) > 2
    assert not any(name.startswith("vis") for name in given)
    whole = Case(tmp_path / "whole")
    whole.model.eval()
    expected = {name: value for name, value in whole.step(rows).items() if name in given}
    assert_same_step(given, expected)


def test_texts_longer_than_the_tower_are_cut_where_it_ends(tmp_path):
    case = Case(tmp_path, BOTH | {"max_length": 4000, "row_length": None})
    places = case.model.text_model.config.max_position_embeddings
    most = pair_renderer(case.stage, case.built).max_length
    assert int(text_positions(case.model, [most]).max()) == places - 1


def test_similarities_are_multiplied_by_100_at_most(tmp_path):
    case = Case(tmp_path)
    scale = case.job.trained["logit_scale"]
    scale.data.fill_(6.0)
    bound_scale(case.job.trained)
    assert float(scale.detach().exp()) == pytest.approx(100.0)
