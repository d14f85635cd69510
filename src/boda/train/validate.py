"""Is it learning? Loss on held-out samples and a few answers, at intervals while training."""

from __future__ import annotations

import json

import torch

from boda.data.pack import build_batch, step_rows
from boda.data.pairs import build_pairs
from boda.data.prepared import PreparedData
from boda.errors import BodaError
from boda.models.generate import generate_ids
from boda.train import distributed
from boda.train.build import Built
from boda.train.contrastive import measure
from boda.train.loop import Job, pass_of
from boda.train.objectives import OBJECTIVES, to_device

MAX_SAMPLES = 512
NUM_ANSWERS = 4


class Validator:
    """Called between steps; gives `validation_loss` and `answers` (prompt's end, answer, expected) of a few fixed samples."""

    def __init__(self, job: Job, data: PreparedData, indices, built: Built, max_new_tokens: int):
        self.job, self.data, self.built = job, data, built
        spread = max(1, len(indices) // MAX_SAMPLES)
        self.indices = indices[::spread][:MAX_SAMPLES]
        self.max_new_tokens = min(64, max_new_tokens)

    @torch.no_grad()
    def __call__(self) -> dict:
        job, stage = self.job, self.job.stage
        job.model.eval()
        share = stage.share_pictures and stage.packing
        rows = step_rows(self.data, self.indices, job.row_length, distributed.world_size(), stage.packing, share)
        loss_sum, count = 0.0, 0
        for row in rows[distributed.rank()]:
            batch = to_device(build_batch(self.data, row, job.load_pixels, (0, 0)), job.device)
            if batch["labels"].numel():
                with torch.autocast(job.device.type, dtype=job.autocast, enabled=job.autocast is not None):
                    loss_sum += float(OBJECTIVES[stage.objective](job.model, batch))
                count += batch["labels"].numel()
        loss_sum, count = distributed.sum_gradients([], [loss_sum, float(count)])
        answers = self._answers() if distributed.is_main() else []
        return {"validation_loss": loss_sum / max(1, count), "answers": answers}

    def _answers(self) -> list[dict]:
        tokenizer = self.built.assembled.tokenizer
        found = []
        step = max(1, len(self.indices) // NUM_ANSWERS)
        for index in self.indices[::step][:NUM_ANSWERS]:
            rendered = self.data.row(int(index))
            last = _last_answer(rendered.trained)
            prompt = rendered.input_ids[: last[0]]
            gold = rendered.input_ids[last[0] : last[1]]
            try:
                shown = int((prompt == self.data.image_id).sum())
                pixels = [self.job.load_pixels(image) for image in rendered.images[:shown]]
            except BodaError:
                continue
            with torch.autocast(self.job.device.type, dtype=self.job.autocast, enabled=self.job.autocast is not None):
                ids = generate_ids(
                    self.job.model,
                    prompt,
                    pixels,
                    self.data.num_image_tokens,
                    end_ids=[int(gold[-1])],
                    max_new_tokens=self.max_new_tokens,
                )
            question = tokenizer.decode(prompt[-48:], skip_special_tokens=True).strip()
            found.append(
                {
                    "sample": self.data.name(int(index)),
                    "images": [json.loads(image.to_json()) for image in rendered.images[:shown] if image.data is None],
                    "question": question,
                    "answer": tokenizer.decode(ids, skip_special_tokens=True).strip(),
                    "expected": tokenizer.decode(gold, skip_special_tokens=True).strip(),
                }
            )
        return found


class PairValidator:
    """Called between steps: `validation_loss`, and how often the nearest of a batch is a right one (`image_to_text_r1` and back).

    Batches are as large as the stage's: of more pairs the loss is higher and the right one harder to find.
    """

    def __init__(self, job: Job, data: PreparedData, indices):
        self.job, self.data, size = job, data, job.stage.batch_size
        most = max(size, MAX_SAMPLES // size * size)
        spread = max(1, len(indices) // most)
        chosen = indices[::spread][:most]
        self.chunks = [chosen[first : first + size] for first in range(0, len(chosen), size)]

    def __call__(self) -> dict:
        job, sums = self.job, [0.0, 0.0, 0.0, 0.0]
        job.model.eval()
        step = pass_of(job, (0, 0))
        for chunk in self.chunks:
            hands = step_rows(self.data, chunk, job.row_length, distributed.world_size(), job.stage.packing, False)
            rows = hands[distributed.rank()]
            batches = [
                build_pairs(self.data, row, job.load_pixels, (0, 0)) | {"place": place} for place, row in enumerate(rows)
            ]
            found = measure(step, batches)
            sums = [before + number for before, number in zip(sums, found)]
        loss, *hits, count = sums
        names = ("validation_loss", "image_to_text_r1", "text_to_image_r1")
        return {name: number / max(1, count) for name, number in zip(names, (loss, *hits))}


def _last_answer(trained) -> tuple[int, int]:
    """(start, end) of the last trained run, or of a document's second half."""
    end = int(len(trained) - trained[::-1].argmax())
    start = end
    while start > 0 and trained[start - 1]:
        start -= 1
    # A document answers nothing: its second half is what should follow the first.
    return (start, end) if start > 1 else ((start + end) // 2, end)
