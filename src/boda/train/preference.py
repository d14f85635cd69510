"""Preference tuning: the chosen answer is to become likelier than the rejected one, measured from where the stage began
(DPO, https://arxiv.org/abs/2305.18290).

A pair's two answers stand in one row behind the prompt they share. What the model said before the stage is its own answer with
the new adapter off; where other weights are trained, it is computed once before the first step and stored beside the data. There
is never a second copy of the model.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from boda.data.pack import build_batch
from boda.data.prepared import PreparedData, fingerprint
from boda.errors import BodaError
from boda.files import read_json, whole_file
from boda.models.language import ADAPTER, lora_layers
from boda.terminal import Progress
from boda.train import distributed
from boda.train.loop import Job
from boda.train.objectives import Measured, Objective, casting, label_losses, to_device

CHUNK = 256  # pairs whose rows are packed together while the reference is computed


def preference_objective(job: Job, data: PreparedData, begun_from: object) -> Objective:
    """DPO on the pairs of `data`. `begun_from`: all that decides the weights the stage starts from, for what is stored of them."""
    beta, stored = job.stage.beta, None
    if not all(".lora_" in name for name in job.trained):
        stored = torch.from_numpy(_stored_reference(job, data, begun_from)).to(job.device)

    def measure(model: torch.nn.Module, batch: dict) -> Measured:
        if stored is not None:
            reference = stored[batch["sample_ids"][_answers(batch)[1]]]
        else:
            with adapter_off(model), torch.no_grad():
                reference = answer_log_probabilities(model, batch)
        margins = preference_margins(answer_log_probabilities(model, batch), reference, beta)
        said = margins.detach()
        return Measured(-F.logsigmoid(margins).sum(), len(margins), ((said > 0).sum(), said.sum()))

    return Objective(measure, ("accuracy", "margin"))


def preference_margins(policy: torch.Tensor, reference: torch.Tensor, beta: float) -> torch.Tensor:
    """Log-probabilities (2P,) of answers, chosen and rejected in turn, and those before the stage -> beta times how much more
    the chosen ones have gained (P,)."""
    gained = policy - reference
    return beta * (gained[0::2] - gained[1::2])


def answer_log_probabilities(model: torch.nn.Module, batch: dict) -> torch.Tensor:
    """A row of pairs -> the sum of the log-probabilities of each answer's tokens (2P,), chosen and rejected in turn."""
    place, segments = _answers(batch)
    losses = label_losses(model, batch)  # (K,)
    return -torch.zeros(len(segments), dtype=losses.dtype, device=losses.device).index_add(0, place, losses)


def _answers(batch: dict) -> tuple[torch.Tensor, torch.Tensor]:
    """(which answer each label belongs to (K,), the answers' segments (2P,))."""
    borders = batch["cu_seq_lens"][1:].long()
    segment = torch.bucketize(batch["label_positions"] + 1, borders, right=True)  # a label stands behind what predicts it
    segments, place = segment.unique_consecutive(return_inverse=True)
    numbers = batch["sample_ids"][segments]
    assert len(numbers) % 2 == 0 and bool((numbers[1::2] == numbers[0::2] + 1).all() and (numbers[0::2] % 2 == 0).all())
    return place, segments


@contextmanager
def adapter_off(model: torch.nn.Module) -> Iterator[None]:
    """The model as it was before the adapter that is being trained; adapters of earlier stages stay on."""
    layers = list(lora_layers(model).values())
    before = [(layer._active_adapter, layer._disable_adapters) for layer in layers]
    for layer in layers:
        earlier = [name for name in layer.active_adapters if name != ADAPTER]
        layer._active_adapter, layer._disable_adapters = earlier, not earlier
    try:
        yield
    finally:
        for layer, (active, disabled) in zip(layers, before):
            layer._active_adapter, layer._disable_adapters = active, disabled


def _stored_reference(job: Job, data: PreparedData, begun_from: object) -> np.ndarray:
    """(N,) log-probabilities of all answers of `data` before the stage, from disk where they have been computed."""
    key = fingerprint(begun_from, read_json(data.folder / "header.json")["key"])
    path = data.folder.parent / f"reference-{key}.npy"
    if not distributed.by_main(path.is_file):
        found = _compute_reference(job, data)
        distributed.by_main(_write, path, found)
    reference = np.load(path)
    if len(reference) != len(data):
        raise BodaError(
            f"{path} has {len(reference)} numbers for {len(data)} answers; delete it and run the same command again"
        )
    return reference


def _write(path: Path, reference: np.ndarray) -> None:
    with whole_file(path) as partial, partial.open("wb") as stream:
        np.save(stream, reference)


@torch.no_grad()
def _compute_reference(job: Job, data: PreparedData) -> np.ndarray:
    pairs, found = np.arange(len(data) // data.width), []
    progress = Progress(
        lambda seen: f"{job.stage.name}: {seen.done:,} of {len(pairs):,} pairs before the stage  {seen.left}",
        len(pairs),
        quiet=job.quiet or not distributed.is_main(),
    )
    job.model.eval()
    for start in range(0, len(pairs), CHUNK):
        for row in job.rows(data, data.places(pairs[start : start + CHUNK])):
            batch = to_device(build_batch(data, row, job.load_pixels, (0, 0)), job.device)
            if batch["labels"].numel():
                with casting(job.device, job.autocast):
                    said = answer_log_probabilities(job.model, batch)
                found.append(torch.stack([batch["sample_ids"][_answers(batch)[1]].double(), said.double()], dim=1))
        progress.update(min(start + CHUNK, len(pairs)))
    rows = torch.cat(found) if found else torch.zeros(0, 2, dtype=torch.float64, device=job.device)
    reference = np.full(len(data), np.nan, dtype=np.float32)  # of pairs whose picture cannot be read, which no step takes
    for part in distributed.gather_rows(rows):
        reference[part[:, 0].long().cpu().numpy()] = part[:, 1].float().cpu().numpy()
    return reference
