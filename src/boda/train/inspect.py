"""What a stage would train on, shown before anything is trained: parts, data, steps, memory, time, and samples in colour."""

from __future__ import annotations

import itertools
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from boda.data.pack import step_rows
from boda.data.pairs import PairRenderer
from boda.data.prepared import PreparedData, prepare
from boda.data.render import Rendered, Renderer
from boda.data.sources import BadRows
from boda.errors import BadRow, BodaError
from boda.models.checkpoints import best_device, best_dtype
from boda.recipe import Recipe, Stage, TokenizerSpec, language_recipe, load_recipe
from boda.train import estimate
from boda.train.build import FALLBACK_TEMPLATE, build, check_kind, get_tokenizer, pair_renderer, renderer_for
from boda.train.freeze import count_by_part, is_pair, open_parts
from boda.train.show import SHORT, Report, palette, print_facts, print_parts, sample_of, stop_tokens, terminal

MAX_STEPS = 32  # of an epoch, spread over it, to measure rows on


def inspect(
    recipe: str | Path | Recipe,
    overrides: dict | list[str] | tuple = (),
    stage: str | None = None,
    data_dir: str | Path | None = None,
    samples: int = 3,
    gpu: str | None = None,
    count: int = 1,
) -> Report:
    """Looks at one stage of a recipe and trains nothing; rows that cannot be used are reported and not an error.

    Args:
        stage: the first unless given. samples: how many to show. gpu: a name of `estimate.GPUS`, `count` of them.

    Raises:
        BodaError: the recipe, a part or a path is not as it must be, or no row can be used.
    """
    from boda.train import preparation, stages

    name = str(recipe) if isinstance(recipe, (str, Path)) else "recipe"
    recipe = load_recipe(recipe, overrides or ())
    device = estimate.find_gpu(gpu) if gpu else None
    if count < 1:
        raise BodaError(f"--count is {count}; it must be 1 or more")
    check_kind(recipe)
    chosen = recipe.stage(stage) if stage else recipe.stages[0]
    with tempfile.TemporaryDirectory(prefix="boda-inspect-") as temporary:
        folder = Path(temporary)
        recipe, spoken, note = _with_language(recipe)
        tokenizer = get_tokenizer(recipe, folder, preparation.texts_of(spoken, data_dir))
        frozen = _frozen_dtype(recipe, device)
        plain = recipe.model_copy(update={"precision": "fp32"})  # the wanted type may be one that this machine does not have
        built = build(plain, tokenizer, None, [], torch.device("cpu"))
        trained = open_parts(built.model, chosen.train, chosen.lora, seed=0)
        renderer = pair_renderer(chosen, built) if is_pair(built.model) else renderer_for(recipe, chosen, built)
        data, sources = _prepare(recipe, chosen, renderer, folder / "data", data_dir)
        job = stages.make_job(plain, chosen, built, trained, data, folder, torch.device("cpu"), 0, BadRows())
        for number, source in enumerate(sources):
            source.update(_source_values(data, number))
        rows, load = _rows(job, count)
        values = {
            "recipe": name,
            "stage": chosen.name,
            "stages": [each.name for each in recipe.stages],
            "train": chosen.train,
            "parts": _parts(built.model),
            "precision": str(frozen).removeprefix("torch."),
            "template": _template(recipe, chosen, built, tokenizer),
            "language": note,
            "data": sources,
            "validation_samples": 0 if job.train_indices is None else len(data) - len(job.train_indices),
            "steps": {"epoch": job.plan.steps_per_epoch(), "total": job.total_steps, "batch_size": chosen.batch_size},
            "rows": rows,
            "stop_tokens": _stop_tokens(built, data),
            "memory": {"devices": count, "gpu": gpu, **estimate.memory(built.model, chosen, load, frozen, count)},
            "time": _time(built.model, chosen, load, job.total_steps, device, count),
            "samples": [],
        }
        shown = [sample_of(data, tokenizer, int(index)) for index in _spread(data, samples)]
    values["samples"] = [sample.values() for sample in shown]
    return Report(values, shown)


def preview(built, recipe: Recipe, stage: Stage, data: PreparedData) -> None:
    """The short form, on stderr, for the moment before step 1: parts, memory, the first sample, how answers end."""
    job_rows = step_rows(data, np.arange(min(len(data), stage.batch_size)), stage.row_length or stage.max_length, 1, stage.packing,
                         stage.share_pictures)[0]  # fmt: skip
    load = load_of([job_rows], data)
    tokenizer = built.assembled.tokenizer
    needs = {"devices": 1, "gpu": None, **estimate.memory(built.model, stage, load, built.frozen_dtype)}
    values = {
        "stage": stage.name,
        "parts": _parts(built.model),
        "memory": needs,
        "template": _template(recipe, stage, built, tokenizer),
        "stop_tokens": _stop_tokens(built, data),
    }
    console = terminal(stderr=True)
    console.rule(f"[bold]{stage.name}[/bold]: trains {', '.join(stage.train)}", align="left")
    print_parts(console, values)
    print_facts(console, values)
    console.print()
    console.print(sample_of(data, tokenizer, 0).text(palette(console), SHORT))
    console.print()


def _stop_tokens(built, data: PreparedData) -> list[dict]:
    return [] if is_pair(built.model) else stop_tokens(data, built.assembled.tokenizer)  # a caption answers nothing


def _with_language(recipe: Recipe) -> tuple[Recipe, Recipe, str | None]:
    """The recipe with its language model as the recipe that makes it begins it; that of which text a new tokenizer is made; and
    what to say of it. Nothing that is shown depends on the weights."""
    asked, spoken, maker = recipe.model.language_recipe, recipe, recipe
    while (needed := language_recipe(maker)) is not None:
        maker, model = needed[1], recipe.model
        if model.tokenizer is None:
            spoken = maker
        template = maker.model.chat_template
        if template and maker.directory and (maker.directory / template).is_file():
            template = str((maker.directory / template).resolve())
        changed = {
            "language": maker.model.language,
            "tokenizer": model.tokenizer or maker.model.tokenizer,
            "chat_template": model.chat_template or template,
        }
        recipe = recipe.model_copy(update={"model": model.model_copy(update=changed)})
    note = (
        asked
        and f"what recipe {asked} starts from, untrained: nothing shown here depends on its weights; boda train trains it first"
    )
    return recipe, spoken, note


def _frozen_dtype(recipe: Recipe, gpu: estimate.Gpu | None) -> torch.dtype:
    if gpu is None:
        return best_dtype(best_device(), recipe.precision)
    if recipe.precision == "bf16" and gpu.dtype != torch.bfloat16:
        raise BodaError("precision: bf16 and this GPU has none; use fp16 or auto")
    return gpu.dtype if recipe.precision == "auto" else best_dtype(torch.device("cuda"), recipe.precision)


# ---------------------------------------------------------------- what is looked at


class _Counting:
    """A renderer that counts what it cut, source by source."""

    def __init__(self, renderer: Renderer | PairRenderer, current: list[int], sources: list[dict]):
        self.renderer, self.current, self.sources = renderer, current, sources

    def __getattr__(self, name: str):
        return getattr(self.renderer, name)

    def render_all(self, sample) -> list[Rendered]:
        every = self.renderer.render_all(sample)
        self.sources[self.current[0]]["truncated"] += sum(rendered.truncated for rendered in every)
        return every


def _prepare(
    recipe: Recipe, stage: Stage, renderer: Renderer | PairRenderer, folder: Path, data_dir
) -> tuple[PreparedData, list[dict]]:
    """Renders the stage's data; for each source its name and what was wrong with it."""
    from boda.train.preparation import open_sources

    current = [0]
    bad = [BadRows() for _ in stage.data]
    sources: list[dict] = [
        {"path": block.path, "format": block.source, "weight": block.weight, "truncated": 0} for block in stage.data
    ]

    def announced(number: int, start):
        current[0] = number
        return start()

    opened = []
    for number, block in enumerate(stage.data):
        for start, weight in open_sources([block], recipe, data_dir, bad[number]):
            opened.append((lambda number=number, start=start: announced(number, start), weight))
    report = lambda row: bad[current[0]].add(row)  # noqa: E731
    try:
        data = prepare(opened, _Counting(renderer, current, sources), folder, "inspect", report, _counter())  # type: ignore[arg-type]
    except BodaError:
        rows = [row for each in bad for row in each]
        if rows:
            first = "".join(f"\n  {row}" for row in rows[:3])
            raise BodaError(f"stage '{stage.name}': none of its rows can be used; the first:{first}") from None
        raise
    for source, each in zip(sources, bad):
        source["bad_rows"] = len(each)
        source["bad"] = _kinds(each)[:5]
    return data, sources


def _kinds(rows: BadRows) -> list[dict]:
    """Bad rows that differ by more than a number or a name, commonest first, each with how many more are `alike`."""
    found: dict[str, list[BadRow]] = {}
    for row in rows:
        found.setdefault(re.sub(r"\d+|'[^']*'|/\S+", "", row.why), []).append(row)
    return [alike[0].as_dict() | {"alike": len(alike) - 1} for alike in sorted(found.values(), key=len, reverse=True)]


def _counter():
    """Tells on a terminal how many samples were read."""

    def show(count: int) -> None:
        if sys.stderr.isatty():
            print(f"\r\x1b[K{count:,} samples read", end="", file=sys.stderr, flush=True)

    return show


def _source_values(data: PreparedData, number: int) -> dict:
    """Counts of one source's samples."""
    members = np.flatnonzero(np.asarray(data.sources) == number)
    lengths, targets = np.asarray(data.lengths)[members], np.asarray(data.targets)[members]
    starts = np.asarray(data.image_starts)
    names = {data.pictures[place] for index in members for place in range(starts[index], starts[index + 1])}
    some = len(members) > 0
    return {
        "rows": len(members),
        "samples_an_epoch": round(data.weights[number] * len(members)),
        "mean_tokens": float(lengths.mean()) if some else 0.0,
        "max_tokens": int(lengths.max()) if some else 0,
        "trained_tokens": float(targets.mean()) if some else 0.0,
        "pictures": len(names),
        "with_picture": int((starts[members + 1] > starts[members]).sum()),
    }


def _parts(model) -> dict[str, dict[str, int]]:
    counts = sorted(count_by_part(model).items())
    return {part: {"parameters": every, "trained": trained} for part, (every, trained) in counts}


def _template(recipe: Recipe, stage: Stage, built, tokenizer) -> dict[str, str] | None:
    if is_pair(built.model):
        return None
    said = stage.chat_template or recipe.model.chat_template
    if said is not None:
        name, source = said, "said by the stage" if stage.chat_template else "said by model"
    elif isinstance(recipe.model.tokenizer, TokenizerSpec):
        name, source = "chatml", "of the tokenizer made here"
    elif tokenizer.chat_template:
        name, source = "the tokenizer's own", str(recipe.model.tokenizer or recipe.model.language)
    else:
        name, source = FALLBACK_TEMPLATE, "the tokenizer has none"
    marked = renderer_for(recipe, stage, built).marked
    return {"name": name, "source": source, "answers": "marked in it" if marked else "found in its text"}


def _spread(data: PreparedData, wanted: int) -> list[int]:
    """Samples to show: the first of each source in turn, so that every source is seen."""
    sources = np.asarray(data.sources)
    queues = [list(np.flatnonzero(sources == number)[: max(0, wanted)]) for number in range(len(data.weights))]
    turns = itertools.chain.from_iterable(itertools.zip_longest(*queues))
    return [index for index in turns if index is not None][: max(0, wanted)]


def _rows(job, count: int) -> tuple[dict[str, float], estimate.Load]:
    """Rows of a few steps of the first epoch: what packing and shared pictures save."""
    stage, data = job.stage, job.data
    each = min(job.plan.steps_per_epoch(), job.total_steps)
    numbers = sorted({int(step) for step in np.linspace(0, each - 1, min(each, MAX_STEPS))})
    steps, alone, padded = [], 0, 0
    for step in numbers:
        samples = job.samples(0, step)
        lengths = np.asarray(data.lengths)[samples]
        alone += int(lengths.sum())
        padded += int(lengths.max()) * len(samples)
        hands = step_rows(data, samples, job.row_length, count, stage.packing, stage.share_pictures)
        steps.append([row for hand in hands for row in hand if row.units])
    load = load_of(steps, data)
    rows = sum(len(step) for step in steps)
    tokens = load.tokens * len(steps)
    return {
        "row_length": job.row_length,
        "a_step": rows / len(steps),
        "filled": tokens / (rows * job.row_length),
        "tokens_a_step": load.tokens,
        "trained_tokens_a_step": load.labels,
        "tokens_without_sharing": alone / len(steps),
        "saved_by_sharing": 1 - tokens / alone,
        "saved_from_padding": 1 - tokens / padded,
    } | ({"pairs_a_step": load.labels} if job.is_contrastive else {}), load


def load_of(steps: list[list], data: PreparedData) -> estimate.Load:
    """What steps (lists of rows) amount to."""
    rows = [row for step in steps for row in step]
    images = np.diff(np.asarray(data.image_starts))
    labels, pictures = [], []
    for row in rows:
        labels.append(sum(int(data.targets[index]) for unit in row.units for index in unit.samples))
        shared = sum(len(unit.samples) - 1 for unit in row.units if unit.prefix)
        pictures.append(sum(int(images[index]) for unit in row.units for index in unit.samples) - shared)
    return estimate.Load(
        tokens=sum(row.length for row in rows) / len(steps),
        labels=sum(labels) / len(steps),
        pictures=sum(pictures) / len(steps),
        row_tokens=max(row.length for row in rows),
        row_labels=max(labels),
        row_pictures=max(pictures),
    )


def _time(model, stage: Stage, load: estimate.Load, steps: int, gpu: estimate.Gpu | None, count: int) -> dict[str, Any]:
    work = estimate.operations(model, stage, load)
    values: dict[str, Any] = {"teraflop_a_step": work / 1e12, "utilisation": estimate.UTILISATION, "seconds": None}
    if gpu is not None:
        values["seconds"] = estimate.seconds(work, steps, gpu, count)
    return values
