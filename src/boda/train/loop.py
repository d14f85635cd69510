"""The training loop: steps over planned, packed samples, resumable at any moment.

One step takes `batch_size` samples whatever the packing, accumulation or number of processes; its loss is the sum over trained
tokens of all of them divided by their number, so none of these changes the gradient.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from boda.data.pack import Row, build_batch, step_rows
from boda.data.pairs import build_pairs
from boda.data.plan import Plan, generator
from boda.data.prepared import PreparedData
from boda.errors import BodaError
from boda.models.language import lora_layers
from boda.recipe import Stage
from boda.terminal import Progress
from boda.train import distributed, resume
from boda.train.contrastive import bound_scale, contrastive_step
from boda.train.log import peak_memory
from boda.train.objectives import OBJECTIVES, Objective, Pass, row_step
from boda.train.optimizer import build_optimizer


@dataclass
class Job:
    """Everything one stage's loop needs."""

    stage: Stage
    seed: int
    model: torch.nn.Module
    trained: dict[str, torch.nn.Parameter]
    part_of: Callable[[str], str]
    data: PreparedData
    plan: Plan
    load_pixels: Callable
    folder: Path
    device: torch.device
    autocast: torch.dtype | None
    log: Callable[[dict], None]
    rewind: Callable[[int], bool] = lambda step: True
    validate: Callable[[], dict] | None = None
    report_bad: Callable[[int, str], None] = lambda sample, why: None
    quiet: bool = False
    workers: int = 0
    train_indices: np.ndarray | None = None
    set_modes: Callable[[], None] = lambda: None
    objective: Objective = OBJECTIVES["language"]

    @property
    def row_length(self) -> int:
        return self.stage.row_length or self.stage.max_length

    @property
    def total_steps(self) -> int:
        if self.stage.max_steps is not None:
            return self.stage.max_steps
        assert self.stage.epochs is not None
        return max(1, math.ceil(self.stage.epochs * self.plan.steps_per_epoch()))

    @property
    def is_contrastive(self) -> bool:
        return self.stage.objective == "contrastive"

    def samples(self, epoch: int, step: int) -> np.ndarray:
        """What a step takes, as places in the prepared data."""
        chosen = self.plan.step(epoch, step)
        return self.data.places(chosen if self.train_indices is None else self.train_indices[chosen])

    def planned(self, samples: np.ndarray) -> int:
        """What the losses of these samples are divided by: trained tokens, or pairs."""
        return len(samples) // self.data.width if self.data.width > 1 else int(self.data.targets[samples].sum())

    def rows(self, data: PreparedData, samples: np.ndarray) -> list[Row]:
        """This process's rows of samples (places in the prepared data) that are looked at together."""
        stage, processes = self.stage, distributed.world_size()
        return step_rows(data, samples, self.row_length, processes, bool(stage.packing), stage.packing is True)[
            distributed.rank()
        ]


def learning_rate_at(step: int, total: int, stage: Stage) -> float:
    """The factor on every learning rate at step `step` (from 0): linear warm-up, then cosine or linear to zero, or constant."""
    warmup = math.ceil(stage.warmup_ratio * total)
    if step < warmup:
        return (step + 1) / (warmup + 1)  # never zero, so the first step counts
    rest = (step - warmup) / max(1, total - warmup)
    return {"cosine": 0.5 * (1 + math.cos(math.pi * rest)), "linear": 1 - rest, "constant": 1.0}[stage.schedule]


def _planned_rows(job: Job, start: int) -> Iterator[tuple[Row, tuple[int, int], dict]]:
    """(row, position, place among the step's rows) from a step on; packing a step costs about a millisecond."""
    each = job.plan.steps_per_epoch()
    for number in range(start, job.total_steps):
        position = divmod(number, each)
        rows = job.rows(job.data, job.samples(*position))
        for place, row in enumerate(rows):
            yield row, position, {"place": place, "rows": len(rows)}


@dataclass
class _RowReader(torch.utils.data.Dataset):
    """Turns a planned row into a Batch, in a worker process where there are any."""

    data: PreparedData
    load_pixels: Callable
    build: Callable

    def __getitem__(self, item: tuple[Row, tuple[int, int], dict]) -> dict:
        row, position, place = item
        return self.build(self.data, row, self.load_pixels, position) | place


def batches(job: Job, start: int) -> Iterator[dict]:
    """The Batches of this process from global step `start` on, in order."""
    options: dict = {"num_workers": job.workers, "worker_init_fn": distributed.ignore_interrupt}
    if job.workers:
        options |= {"prefetch_factor": 4, "multiprocessing_context": "spawn"}
    loader = torch.utils.data.DataLoader(
        _RowReader(job.data, job.load_pixels, build_pairs if job.is_contrastive else build_batch),
        sampler=_planned_rows(job, start),
        batch_size=None,
        collate_fn=dict,  # a Batch as it is
        generator=torch.Generator().manual_seed(0),  # or the loader would draw from the global one
        pin_memory=job.device.type == "cuda",
        **options,
    )
    return iter(loader)


def readers(processes: int) -> int:
    """Processes that read pictures ahead of the step, for each of `processes`: what the cores allow, four at most."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(4, max(0, cores // processes - 2))


def run(job: Job) -> dict:
    """Trains until the stage's last step and returns the last record. After Ctrl-C the state is saved and BodaError raised."""
    optimizer = build_optimizer(job.stage, job.model, job.trained, job.part_of)
    start, total, each = _restore(job, optimizer), job.total_steps, job.plan.steps_per_epoch()
    was_validated = distributed.by_main(job.rewind, start)
    if start and not was_validated:  # stopped between a checkpoint and its validation
        _validate(job, start, total)
    scaler = torch.amp.GradScaler(job.device.type, enabled=job.autocast == torch.float16)
    for layer in lora_layers(job.model).values():
        # Under autocast PEFT would turn every input into fp32 for an adapter whose product is computed in bf16 anyway.
        layer.cast_input_dtype_enabled = job.autocast is None
    parameters = list(job.trained.values())
    stream = batches(job, start)
    record: dict = {}

    def line(progress: Progress) -> str:
        numbers = "loss {loss:.3f}  lr {learning_rate:.2e}  {tokens_per_second:,.0f} tokens/s".format(**record)
        return f"{job.stage.name} {progress.done}/{total}  {numbers}  {progress.left}"

    progress = Progress(line, total, start, quiet=job.quiet or not distributed.is_main())
    job.set_modes()
    with distributed.polite_interrupt() as interrupt:
        for number in range(start, total):
            began = time.monotonic()
            position = divmod(number, each)
            samples = job.samples(*position)
            planned = job.planned(samples)
            sums = _accumulate(job, stream, position, planned, scaler, interrupt)
            if distributed.any_process(sums is None):
                _save(job, optimizer, number, each)
                where = f"step {number} of {total} in stage '{job.stage.name}'"
                raise BodaError(f"stopped at {where}; run the same command again to go on")
            assert sums is not None
            loss_sum, done, *others, tokens = distributed.sum_gradients(parameters, list(sums))
            if done != planned:  # pictures that could not be read took their samples out of the step
                for parameter in parameters:
                    parameter.grad.mul_(planned / max(1.0, done))
            factor = learning_rate_at(number, total, job.stage)
            for group in optimizer.param_groups:
                group["lr"] = group["base_rate"] * factor
            scaler.unscale_(optimizer)
            norm = torch.nn.utils.clip_grad_norm_(parameters, job.stage.max_grad_norm)
            if not math.isfinite(float(norm)) and not scaler.is_enabled():
                place, what = f"stage '{job.stage.name}', step {number + 1}", f"the gradient is {float(norm)}"
                advice = "Lower learning_rate, raise warmup_ratio, or set precision: fp32"
                raise BodaError(f"{place}: {what}; the last checkpoint is good. {advice}")
            scaler.step(optimizer)
            scaler.update()
            bound_scale(job.trained)
            optimizer.zero_grad(set_to_none=True)
            seconds = time.monotonic() - began
            record = {
                "stage": job.stage.name,
                "step": number + 1,
                "epoch": round((number + 1) / each, 4),
                "loss": loss_sum / max(1.0, done),
                **{name: value / max(1.0, done) for name, value in zip(job.objective.others, others)},
                "learning_rate": job.stage.learning_rate * factor,
                "grad_norm": float(norm),
                "tokens": int(tokens),
                "trained_tokens": int(done) if job.data.width == 1 else int(job.data.targets[samples].sum()),
                "tokens_per_second": tokens / max(seconds, 1e-9),
                "memory": peak_memory(job.device),
            }
            if distributed.is_main():
                job.log(record)
            progress.update(number + 1)
            if (number + 1) % job.stage.save_steps == 0 or number + 1 == total:
                _save(job, optimizer, number + 1, each)
            _validate(job, number + 1, total)
    return record


def pass_of(job: Job, position: tuple[int, int], planned: int = 1, scaler=None) -> Pass:
    """How the step at `position` goes through its rows."""

    def key(batch: dict) -> int:
        draw = generator(job.seed, "dropout", job.stage.name, *position, batch["place"], distributed.rank())
        return int(draw.integers(2**62))

    learning = {job.part_of(name).split(".")[0] for name in job.trained}
    scaler = scaler or torch.amp.GradScaler(job.device.type, enabled=False)
    return Pass(job.model, job.device, job.autocast, scaler, planned, key, learning)


def _accumulate(job: Job, stream, position, planned: int, scaler, interrupt) -> tuple[float, ...] | None:
    """Gradients of one step's rows: (sum of losses, of how many, other sums, tokens); None if the user asked to stop."""
    tokens, stopped = 0, False

    def rows() -> Iterator[dict]:
        nonlocal tokens, stopped
        for batch in stream:
            assert batch["position"] == position
            if interrupt["up"]:
                stopped = True
                return
            for sample, why in batch["bad_images"]:
                job.report_bad(sample, why)
            tokens += batch["input_ids"].shape[1]
            yield batch
            if batch["place"] == batch["rows"] - 1:
                return

    step = pass_of(job, position, planned, scaler)
    if job.is_contrastive:
        sums: tuple[float, ...] = contrastive_step(step, rows(), lambda: stopped)
    else:
        sums = row_step(step, rows(), job.objective)
    return None if stopped else (*sums, tokens)


def _validate(job: Job, step: int, total: int) -> None:
    """Validation where the recipe wants it, and at the end."""
    if job.validate is None or not (step == total or step % job.stage.eval_steps == 0):
        return
    record = job.validate()
    job.set_modes()
    if distributed.is_main():
        job.log({"stage": job.stage.name, "step": step, **record})


def _save(job: Job, optimizer, step: int, each: int) -> None:
    state = resume.State(step, *divmod(step, each), dict(job.trained), optimizer.state_dict())
    distributed.by_main(resume.save, job.folder / "checkpoints", state)


def _restore(job: Job, optimizer) -> int:
    """Goes back to the newest checkpoint, if there is one, and says at which step it was written."""
    state = resume.latest(job.folder / "checkpoints")
    if state is None:
        return 0
    if set(state.tensors) != set(job.trained):
        raise BodaError(f"the checkpoint in {job.folder} trains other tensors than this recipe; choose another --out")
    with torch.no_grad():
        for name, parameter in job.trained.items():
            parameter.copy_(state.tensors[name])
    optimizer.load_state_dict(state.optimizer)
    return state.step
