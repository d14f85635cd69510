"""Is it learning? Loss on held-out samples and a few answers, at intervals while training."""

from __future__ import annotations

import json

import numpy as np
import torch

from boda.data.pack import build_batch
from boda.data.pairs import build_pairs
from boda.data.prepared import PreparedData
from boda.data.render import Rendered
from boda.errors import BodaError
from boda.models.generate import generate_ids
from boda.train import distributed
from boda.train.build import Built
from boda.train.contrastive import measure
from boda.train.freeze import left_out
from boda.train.loop import Job, pass_of
from boda.train.objectives import Objective, casting, sums_of, to_device

MAX_SAMPLES = 512
NUM_ANSWERS = 4


class Validator:
    """Called between steps; gives `validation_loss`, means of what else the objective is watched by, and `answers` (prompt's end,
    answer, expected) of a few fixed samples."""

    def __init__(self, job: Job, data: PreparedData, indices, built: Built, max_new_tokens: int, objective: Objective):
        self.job, self.data, self.built, self.objective = job, data, built, objective
        self.indices = _some(indices, MAX_SAMPLES)
        self.max_new_tokens = min(64, max_new_tokens)
        self.has_all_layers = not left_out(built.model)  # two layers of many say nothing worth reading

    @torch.no_grad()
    def __call__(self) -> dict:
        job, sums = self.job, torch.zeros(2 + len(self.objective.others), dtype=torch.float64)
        job.model.eval()
        for row in job.rows(self.data, self.data.places(self.indices)):
            batch = to_device(build_batch(self.data, row, job.load_pixels, (0, 0)), job.device)
            if batch["labels"].numel():
                with casting(job.device, job.autocast):
                    sums += sums_of(self.objective.measure(job.model, batch)).cpu()
        loss_sum, count, *others = distributed.sum_gradients([], sums.tolist())
        means = {
            f"validation_{name}": value / max(1, count)
            for name, value in zip(("loss", *self.objective.others), (loss_sum, *others))
        }
        return {**means, "answers": self._answers() if distributed.is_main() and self.has_all_layers else []}

    def _answers(self) -> list[dict]:
        tokenizer = self.built.assembled.tokenizer

        def text(ids) -> str:
            return tokenizer.decode(ids, skip_special_tokens=True).strip()

        found = []
        for index in (_some(self.indices, NUM_ANSWERS) * self.data.width).tolist():  # of a pair the chosen one
            rendered = self.data.row(index)
            start, end = _last_answer(rendered)
            if start == end:  # the question alone is longer than a sample may be
                continue
            prompt, gold = rendered.input_ids[:start], rendered.input_ids[start:end]
            images = rendered.images[: int((prompt == self.data.image_id).sum())]
            try:
                pixels = [self.job.load_pixels(image) for image in images]
            except BodaError:
                continue
            settings = {"end_ids": [int(gold[-1])], "max_new_tokens": self.max_new_tokens}
            with casting(self.job.device, self.job.autocast):
                ids = generate_ids(self.job.model, prompt, pixels, self.data.num_image_tokens, **settings)
            found.append(
                {
                    "sample": self.data.name(index),
                    "images": [json.loads(image.to_json()) for image in images if image.data is None],
                    "question": text(prompt[-48:]),
                    "answer": text(ids),
                    "expected": text(gold),
                }
            )
        return found


class PairValidator:
    """Called between steps: `validation_loss`, and how often the nearest of a batch is a right one (`image_to_text_r1` and back).

    Batches are as large as the stage's: of more pairs the loss is higher and the right one harder to find.
    """

    def __init__(self, job: Job, data: PreparedData, indices):
        self.job, self.data, size = job, data, job.stage.batch_size
        chosen = _some(indices, max(size, MAX_SAMPLES // size * size))
        self.chunks = [chosen[first : first + size] for first in range(0, len(chosen), size)]

    def __call__(self) -> dict:
        job, sums = self.job, [0.0, 0.0, 0.0, 0.0]
        job.model.eval()
        step = pass_of(job, (0, 0))
        for chunk in self.chunks:
            batches = [build_pairs(self.data, row, job.load_pixels, (0, 0)) for row in job.rows(self.data, chunk)]
            found = measure(step, [batch | {"place": place} for place, batch in enumerate(batches)])
            sums = [before + number for before, number in zip(sums, found)]
        loss, *hits, count = sums
        names = ("validation_loss", "image_to_text_r1", "text_to_image_r1")
        return {name: number / max(1, count) for name, number in zip(names, (loss, *hits))}


def _some(indices: np.ndarray, most: int) -> np.ndarray:
    """At most so many of them, spread over all."""
    return indices[:: max(1, len(indices) // most)][:most]


def _last_answer(rendered: Rendered) -> tuple[int, int]:
    """(start, end) of the last answer, or of a document's second half."""
    end = len(rendered.input_ids)
    # A document answers nothing: its second half is what should follow the first.
    return rendered.answer if rendered.answer[1] else ((1 + end) // 2, end)
