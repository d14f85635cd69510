"""Pair models: texts packed into a row give the vectors of padded texts; a folder gives the same where Boda is not."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from PIL import Image

import boda
from boda.models.pairing import packs_texts, pooled, text_positions, text_vectors
from tests import tiny
from tests.unit.test_pairing import made, written

KINDS = {None: True, "bert": True, "xlm-roberta": True, "modernbert": True, "qwen3": True, "deberta-v2": False}


def packed(model, tokenizer, texts):
    rows = [torch.tensor(tokenizer(text)["input_ids"]) for text in texts]
    lengths = [len(row) for row in rows]
    borders = torch.tensor([0, *lengths], dtype=torch.int32).cumsum(0).int()
    return text_vectors(model, torch.cat(rows)[None], borders, text_positions(model, lengths))


@pytest.mark.parametrize("kind", KINDS)
def test_packed_texts_are_padded_texts(kind):
    """Vectors, and the gradient of every weight that reads texts."""
    assembled = made(text=kind)
    model, tokenizer = assembled.model, assembled.tokenizer
    texts = [line[:40] for line in tiny.korean_lines()[:7]]
    inputs = tokenizer(texts, padding=True, return_tensors="pt")
    direction = torch.randn(7, 20, generator=torch.Generator().manual_seed(0))
    found = {}
    for name in ("padded", "packed"):
        model.zero_grad()
        if name == "padded":
            vectors = pooled(model.get_text_features(inputs["input_ids"], inputs["attention_mask"]))
        else:
            vectors = packed(model, tokenizer, texts)
        (F.normalize(vectors, dim=-1) * direction).sum().backward()
        found[name] = {"vectors": vectors.detach()} | {n: p.grad for n, p in model.text_model.named_parameters()}
    assert packs_texts(model) == KINDS[kind]
    for name, expected in found["padded"].items():
        if expected is None:
            assert found["packed"][name] is None
        else:
            limit = 1e-5 * max(1.0, float(expected.abs().max()))
            torch.testing.assert_close(found["packed"][name], expected, rtol=0, atol=limit, msg=lambda m, n=name: f"{n}: {m}")


@torch.no_grad()
def test_a_folder_loads_without_boda(tmp_path):
    kinds = {
        "stock": ("clip", None, "softmax"),
        "mean": ("convnext", "modernbert", "softmax"),
        "bias": ("siglip", "qwen3", "sigmoid"),
    }
    models = {name: made(*kind) for name, kind in kinds.items()}
    assert all(packs_texts(assembled.model) for assembled in models.values())  # leaves Boda's attention on
    folders = {name: written(assembled, tmp_path / name) for name, assembled in models.items()}
    environment = {**os.environ, "HF_MODULES_CACHE": str(tmp_path / "modules"), "PYTHONPATH": ""}
    program = Path(__file__).parent / "pair_without_boda.py"
    source = str(Path(boda.__file__).parents[1])
    command = [sys.executable, str(program), source, str(tmp_path / "found.pt"), *map(str, folders.values())]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=500, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    found = torch.load(tmp_path / "found.pt")
    for name, folder in folders.items():
        logits, loss, module = found[str(folder)]
        assert module.startswith("transformers." if name == "stock" else "transformers_modules.")
        model, processor = boda.load(folder, device="cpu", dtype=torch.float32)
        pictures = [Image.new("RGB", (40, 48), colour) for colour in ("red", "teal")]
        texts = ["고양이", "소파 위에 고양이 두 마리가 누워 있습니다."]
        ours = model(**processor(text=texts, images=pictures, padding=True, return_tensors="pt"), return_loss=True)
        torch.testing.assert_close(logits, ours.logits_per_image, rtol=0, atol=1e-5)
        text = ours.logits_per_image.T
        if name == "bias":
            expected = sum(-F.logsigmoid(text[i, j] if i == j else -text[i, j]) for i in range(2) for j in range(2)) / 2
        else:
            expected = (-text.log_softmax(0).diag().mean() - text.log_softmax(1).diag().mean()) / 2
        assert loss == pytest.approx(float(expected), abs=1e-4)
