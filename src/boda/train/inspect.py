"""What a stage would train on, shown before anything is trained: parts, data, steps, memory, time, and samples in colour."""

from __future__ import annotations

import itertools
import re
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch

from boda import terminal
from boda.data.pack import Row, Unit, step_rows
from boda.data.prepared import PreparedData, prepare
from boda.data.render import Rendered
from boda.data.sample import Sample
from boda.data.sources import BadRows
from boda.errors import BadRow, BodaError
from boda.models.checkpoints import best_device, best_dtype
from boda.recipe import Recipe, Stage, TokenizerSpec, load_recipe, part_recipes
from boda.terminal import Progress, clear_line
from boda.train import estimate
from boda.train.build import FALLBACK_TEMPLATE, build, get_tokenizer, new_tokens, renderer_for
from boda.train.freeze import count_by_part, is_pair, open_parts
from boda.train.preparation import open_source, texts_of
from boda.train.show import SHORT, Report, palette, print_facts, print_parts, sample_of, stop_tokens

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
    """Looks at one stage of a recipe (the first unless given) and trains nothing; bad rows are reported and no error.

    Raises BodaError where the recipe, a part or a path is not as it must be, or no row can be used.
    """
    from boda.train import stages

    name = str(recipe) if isinstance(recipe, (str, Path)) else "recipe"
    recipe = load_recipe(recipe, overrides or ())
    device = estimate.find_gpu(gpu) if gpu else None
    if count < 1:
        raise BodaError(f"--count is {count}; it must be 1 or more")
    chosen = recipe.stage(stage) if stage else recipe.stages[0]
    with tempfile.TemporaryDirectory(prefix="boda-inspect-") as temporary:
        folder = Path(temporary)
        given = recipe
        recipe, spoken, note = _with_parts(recipe)
        recipe = _with_base(recipe, given, folder / "base", data_dir)
        tokenizer = get_tokenizer(recipe, folder, texts_of(spoken, data_dir))
        frozen = _frozen_dtype(recipe, device)
        plain = recipe.model_copy(update={"precision": "fp32"})  # the wanted type may be one that this machine does not have
        built = build(plain, tokenizer, None, [], torch.device("cpu"))
        trained = open_parts(built.model, chosen.train, chosen.lora, 0, new_tokens(built))
        renderer = renderer_for(recipe, chosen, built)
        data, sources = _prepare(recipe, chosen, renderer, folder / "data", data_dir)
        job = stages.make_job(plain, chosen, built, trained, data, folder, torch.device("cpu"), 0)
        rows, load = _rows(job, count)
        work = estimate.operations(built.model, chosen, load) / 1e12
        values = {
            "recipe": name,
            "stage": chosen.name,
            "stages": [each.name for each in recipe.stages],
            "train": chosen.train,
            **_values(recipe, chosen, built, data, load, frozen, gpu, count),
            "precision": str(frozen).removeprefix("torch."),
            "language": note,
            "data": sources,
            "validation_samples": 0 if job.train_indices is None else len(data) // data.width - len(job.train_indices),
            "steps": {"epoch": job.plan.steps_per_epoch(), "total": job.total_steps, "batch_size": chosen.batch_size},
            "rows": rows,
            "time": {
                "teraflop_a_step": work,
                "utilisation": estimate.UTILISATION,
                "seconds": device and work * job.total_steps / (device.tflops * estimate.UTILISATION * count),
            },
        }
        shown = [sample_of(data, tokenizer, index) for index in _spread(data, samples)]
    return Report(values | {"samples": [sample.values() for sample in shown]}, shown)


def preview(built, recipe: Recipe, stage: Stage, data: PreparedData) -> None:
    """The short form, on stderr, for the moment before step 1: parts, memory, the first sample, how answers end."""
    first, length = data.places(np.arange(min(len(data) // data.width, stage.batch_size))), stage.row_length or stage.max_length
    load = load_of(step_rows(data, first, length, 1, bool(stage.packing), stage.packing is True), data)
    values = _values(recipe, stage, built, data, load, built.frozen_dtype)
    console = terminal.console(stderr=True)
    console.rule(f"[bold]{stage.name}[/bold]: trains {', '.join(stage.train)}", align="left")
    print_parts(console, values)
    print_facts(console, values)
    console.print()
    console.print(sample_of(data, built.assembled.tokenizer, 0).text(palette(console), SHORT))
    console.print()


def _values(recipe: Recipe, stage: Stage, built, data: PreparedData, load, frozen: torch.dtype, gpu=None, count=1) -> dict:
    """What both forms show."""
    return {
        "parts": count_by_part(built.model),
        "memory": {"devices": count, "gpu": gpu, **estimate.memory(built.model, stage, load, frozen, count, recipe.precision)},
        "template": _template(recipe, stage, built),
        "stop_tokens": [] if is_pair(built.model) else stop_tokens(data, built.assembled.tokenizer),
    }


def _with_parts(recipe: Recipe) -> tuple[Recipe, Recipe, str | None]:
    """The recipe with parts that other recipes make as these begin them; that of which text a new tokenizer is made; and what to
    say of it. Nothing that is shown depends on the weights."""
    begun = {part: _with_parts(maker)[:2] for part, (_, maker) in part_recipes(recipe).items()}
    if not begun:
        return recipe, recipe, None
    model, spoken = recipe.model, recipe
    changed: dict = {part: getattr(maker.model, part) for part, (maker, _) in begun.items()}
    if "vision" in begun:
        changed["image_size"] = model.image_size or begun["vision"][0].model.image_size
    if "language" in begun:
        maker, heard = begun["language"]
        spoken = heard if model.tokenizer is None else spoken
        template = maker.model.chat_template
        if template and maker.directory and (maker.directory / template).is_file():
            template = str((maker.directory / template).resolve())
        changed["tokenizer"] = model.tokenizer or maker.model.tokenizer
        changed["chat_template"] = model.chat_template or template
    said = ", ".join(f"{part} as recipe {name} begins it" for part, name in model.recipes.items())
    said += ", untrained: nothing shown here depends on its weights; boda train trains it first"
    return recipe.model_copy(update={"model": model.model_copy(update=changed)}), spoken, said


def _with_base(recipe: Recipe, given: Recipe, folder: Path, data_dir) -> Recipe:
    """The recipe with the tokenizer that more pieces are given to, where the recipe of the language model would make it first."""
    spec = given.model.tokenizer
    if "language" not in given.model.recipes or not isinstance(spec, TokenizerSpec) or spec.base != "language":
        return recipe
    maker, heard, _ = _with_parts(part_recipes(given)["language"][1])
    get_tokenizer(maker, folder, texts_of(heard, data_dir)).save_pretrained(folder / "tokenizer")
    spec = spec.model_copy(update={"base": str(folder / "tokenizer")})
    return recipe.model_copy(update={"model": recipe.model.model_copy(update={"tokenizer": spec})})


def _frozen_dtype(recipe: Recipe, gpu: estimate.Gpu | None) -> torch.dtype:
    if gpu is None:
        return best_dtype(best_device(), recipe.precision)
    if recipe.precision == "bf16" and gpu.dtype != torch.bfloat16:
        raise BodaError("precision: bf16 and this GPU has none; use fp16 or auto")
    return best_dtype(torch.device("cuda"), recipe.precision) if recipe.precision in ("fp32", "bf16", "fp16") else gpu.dtype


def _prepare(recipe: Recipe, stage: Stage, renderer, folder: Path, data_dir) -> tuple[PreparedData, list[dict]]:
    """Renders the stage's data; of each source what there is, and what was wrong with it."""
    place = 0  # of the source that is being read
    cut = [0] * len(stage.data)
    bad = [BadRows() for _ in stage.data]

    def reading(number: int) -> Iterator[Sample]:
        nonlocal place
        place = number
        return starts[number]()

    def render_all(sample: Sample) -> list[Rendered]:
        every = type(renderer).render_all(renderer, sample)
        cut[place] += sum(rendered.truncated for rendered in every)
        return every

    progress = Progress(lambda seen: f"{seen.done:,} samples read")
    renderer.render_all = render_all
    starts = [open_source(block, recipe, data_dir, rows).start for block, rows in zip(stage.data, bad)]
    opened = [(partial(reading, number), block.weight) for number, block in enumerate(stage.data)]
    try:
        data = prepare(opened, renderer, folder, "inspect", lambda row: bad[place].add(row), progress.update)
        clear_line()
    except BodaError:
        rows = [row for each in bad for row in each]
        if not rows:
            raise
        first = "".join(f"\n  {row}" for row in rows[:3])
        raise BodaError(f"stage '{stage.name}': none of its rows can be used; the first:{first}") from None
    found = [
        {"path": block.path, "format": block.source, "weight": block.weight, "truncated": cut[number], "bad_rows": len(rows)}
        | {"bad": _kinds(rows)[:5]}
        | _source_values(data, number)
        for number, (block, rows) in enumerate(zip(stage.data, bad))
    ]
    tokens = [source["samples_an_epoch"] * source["mean_tokens"] for source in found]
    return data, [source | {"share": each / sum(tokens)} for source, each in zip(found, tokens)]


def _kinds(rows: BadRows) -> list[dict]:
    """Bad rows that differ by more than a number or a name, commonest first, each with how many more are `alike`."""
    found: dict[str, list[BadRow]] = {}
    for row in rows:
        found.setdefault(re.sub(r"\d+|'[^']*'|/\S+", "", row.why), []).append(row)
    return [alike[0].as_dict() | {"alike": len(alike) - 1} for alike in sorted(found.values(), key=len, reverse=True)]


def _source_values(data: PreparedData, number: int) -> dict:
    """Counts of one source's samples."""
    members = np.flatnonzero(data.sources == number)
    lengths, targets, starts = data.lengths[members], data.targets[members], data.image_starts
    names = {data.pictures[place] for index in members for place in range(starts[index], starts[index + 1])}
    some = len(members) > 0
    return {
        "rows": len(members),
        "samples_an_epoch": round(data.weights[number] * len(members) / data.width),
        "mean_tokens": float(lengths.mean()) if some else 0.0,
        "max_tokens": int(lengths.max()) if some else 0,
        "trained_tokens": float(targets.mean()) if some else 0.0,
        "pictures": len(names),
        "with_picture": int((starts[members + 1] > starts[members]).sum()),
    }


def _template(recipe: Recipe, stage: Stage, built) -> dict[str, str] | None:
    if is_pair(built.model):
        return None
    model = recipe.model
    sources = {
        "said by the stage": stage.chat_template,
        "said by model": model.chat_template,
        "of the tokenizer made here": "chatml" if isinstance(model.tokenizer, TokenizerSpec) else None,
        str(model.tokenizer or model.language): "the tokenizer's own" if built.assembled.tokenizer.chat_template else None,
        "the tokenizer has none": FALLBACK_TEMPLATE,
    }
    source, name = next((source, name) for source, name in sources.items() if name)
    marked = renderer_for(recipe, stage, built).marked
    return {"name": name, "source": source, "answers": "marked in it" if marked else "found in its text"}


def _spread(data: PreparedData, wanted: int) -> list[int]:
    """Samples to show: the first of each source in turn, so that every source is seen."""
    wanted = max(0, wanted)
    queues = [np.flatnonzero(data.sources == number)[:wanted].tolist() for number in range(len(data.weights))]
    turns = itertools.chain.from_iterable(itertools.zip_longest(*queues))
    return [index for index in turns if index is not None][:wanted]


def _rows(job, count: int) -> tuple[dict[str, float], estimate.Load]:
    """Rows of a few steps of the first epoch: what packing and shared pictures save."""
    stage, data = job.stage, job.data
    each = min(job.plan.steps_per_epoch(), job.total_steps)
    steps, alone, padded = [], 0, 0
    for step in sorted({int(step) for step in np.linspace(0, each - 1, min(each, MAX_STEPS))}):
        samples = job.samples(0, step)
        lengths = data.lengths[samples]
        alone += int(lengths.sum())
        padded += int(lengths.max()) * len(samples)
        hands = step_rows(data, samples, job.row_length, count, bool(stage.packing), stage.packing is True)
        steps.append([row for hand in hands for row in hand if row.units])
    load = load_of(steps, data)
    rows = sum(map(len, steps))
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


def _pictures_shared(data: PreparedData, unit: Unit) -> int:
    return int((data.row(unit.samples[0]).input_ids[: unit.prefix] == data.image_id).sum())


def load_of(steps: list[list[Row]], data: PreparedData) -> estimate.Load:
    """What steps (lists of rows) amount to."""
    rows = [row for step in steps for row in step]
    images = np.diff(data.image_starts)
    samples = [[index for unit in row.units for index in unit.samples] for row in rows]
    shared = [sum((len(unit.samples) - 1) * _pictures_shared(data, unit) for unit in row.units) for row in rows]
    lengths = [row.length for row in rows]
    labels = [int(data.targets[chosen].sum()) for chosen in samples]
    pictures = [int(images[chosen].sum()) - fewer for chosen, fewer in zip(samples, shared)]
    mean = [sum(every) / len(steps) for every in (lengths, labels, pictures)]
    return estimate.Load(mean[0], mean[1], mean[2], max(lengths), max(labels), max(pictures))
