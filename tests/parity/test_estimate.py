"""`boda inspect`'s estimates against what a real step counts: operations by torch's counter, memory by what autograd keeps."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from boda.data.pack import build_batch, step_rows
from boda.data.sources import BadRows
from boda.recipe import load_recipe
from boda.train import estimate, preparation, stages
from boda.train.build import build, get_tokenizer, opened
from boda.train.inspect import load_of
from boda.train.objectives import language_loss
from tests import tiny
from tests.support import tiny_recipe

CASES = [
    ("clip", "llama", ["vision", "connector", "language"]),
    ("convnext", "gpt_neox", ["vision", "connector", "language"]),
    ("dinov2_registers", "qwen3", ["connector", "language.lora"]),
    ("vit", "llama", ["language.lora"]),
    ("siglip", "exaone4", ["connector"]),
]


@pytest.mark.parametrize(("vision", "language", "train"), CASES, ids=["-".join(case[:2]) for case in CASES])
def test_operations_and_memory_of_a_step(vision: str, language: str, train: list[str], tmp_path: Path):
    stage = {"name": "see", "train": train} | (
        {"lora": {"rank": 2, "alpha": 4, "dropout": 0.1 if vision == "vit" else 0.0}} if "language.lora" in train else {}
    )
    recipe = tiny_recipe(tmp_path / "data", [stage], {"text_only": 0.0}, language=language, connector="mlp2x_gelu")
    recipe["model"]["vision"] = str(tiny.vision_folder(vision))
    recipe = load_recipe(recipe)
    stage = recipe.stages[0]
    built = build(recipe, get_tokenizer(recipe, None, iter(())), None, [], torch.device("cpu"))
    trained = opened(built, stage, seed=0)
    data = preparation.prepare_stage(recipe, stage, built, tmp_path / "stage", None, BadRows(), True)
    job = stages.make_job(recipe, stage, built, trained, data, tmp_path, torch.device("cpu"), 0)
    job.set_modes()
    rows = step_rows(data, job.samples(0, 0), job.row_length, 1, True, True)[0]
    kept = []
    with FlopCounterMode(display=False) as counter:
        for row in rows:
            batch = build_batch(data, row, job.load_pixels, (0, 0))
            with saved_bytes(built.model) as saved:
                loss = language_loss(built.model, batch)
            loss.backward()
            kept.append(sum(saved.values()))
    needs = estimate.memory(built.model, stage, load_of([rows], data), torch.float32)
    assert estimate.operations(built.model, stage, load_of([rows], data)) == pytest.approx(counter.get_total_flops(), rel=0.1)
    assert needs["activations"] + needs["logits"] == pytest.approx(max(kept) / estimate.GIB, rel=0.3)
    sizes = [parameter.numel() for parameter in trained.values()]
    assert needs["optimizer"] == 8 * sum(sizes) / estimate.GIB and needs["trained weights"] == 4 * sum(sizes) / estimate.GIB


class saved_bytes:
    """Bytes of every tensor that autograd keeps meanwhile, weights aside, each storage once."""

    def __init__(self, model: torch.nn.Module):
        self.weights = {parameter.untyped_storage()._cdata for parameter in model.parameters()}
        self.found: dict[int, int] = {}
        self.alive: list[torch.Tensor] = []  # or a storage's number would be given away again
        self.hooks = torch.autograd.graph.saved_tensors_hooks(self.pack, lambda tensor: tensor)

    def pack(self, tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in self.weights:
            self.found[storage._cdata] = storage.nbytes()
            self.alive.append(tensor)
        return tensor

    def __enter__(self) -> dict[int, int]:
        self.hooks.__enter__()
        return self.found

    def __exit__(self, *reason) -> None:
        self.hooks.__exit__(*reason)
