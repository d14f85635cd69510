"""A recipe run from beginning to end: its stages one after another, each resumable, and a finished model folder."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch

import boda
from boda.data.plan import Plan, generator
from boda.data.prepared import PreparedData, fingerprint, prepare
from boda.data.sample import Sample
from boda.data.sources import BadRows, read, resolve_data
from boda.errors import BodaError
from boda.models.attention import ATTENTION_NAME, keeps_segments_apart
from boda.recipe import Data, Recipe, Stage, load_recipe, recipe_difference, template_text
from boda.train import distributed, loop
from boda.train.build import (
    Built,
    PixelLoader,
    attach_stage,
    build,
    finish,
    get_tokenizer,
    image_spec,
    opened,
    renderer_for,
    save_stage,
)
from boda.train.freeze import embedding_names, part_of, set_modes
from boda.train.inspect import preview
from boda.train.log import JsonLines, Logger, TensorBoard
from boda.train.validate import Validator


def train(
    recipe: str | Path | dict | Recipe,
    out: str | Path | None = None,
    stage: str | None = None,
    processes: int = 1,
    overrides: dict | list[str] | None = None,
    data_dir: str | Path | None = None,
    loggers: list[Logger] | None = None,
    quiet: bool = False,
) -> Path:
    """Trains a recipe and returns the finished model folder, `out`/model.

    Run again with the same `out` it goes on where it stopped; finished stages are not repeated.

    Args:
        recipe: name of a shipped recipe, a file, a mapping, or a Recipe.
        out: folder of the run; `runs/<recipe>` unless given.
        stage: stop after this stage; the returned folder is then `out`/stages/<stage>/model.
        processes: how many take part (spawned here; under torchrun its own count is used).
        overrides: recipe knobs by dotted name.
        data_dir: where relative data paths are looked up first.
        loggers: anything with `log(record)`, beside `log.jsonl` and TensorBoard.

    Raises:
        BodaError: the recipe, its data or the disk is not as it must be; what was finished is kept.
    """
    name = Path(recipe).stem if isinstance(recipe, (str, Path)) else "recipe"
    recipe = load_recipe(recipe, overrides or ())
    if recipe.model.kind != "vlm":
        raise BodaError(f"model.kind '{recipe.model.kind}': this version trains vlm")
    if stage is not None:
        recipe.stage(stage)
    out = Path(out) if out is not None else Path("runs") / name
    arguments = (recipe, out, stage, data_dir, loggers or [], quiet)
    under_torchrun = "RANK" in os.environ and "WORLD_SIZE" in os.environ
    if under_torchrun:
        distributed.start_group(int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]))
    if distributed.is_main():
        claim(recipe, out)
    distributed.barrier()
    if processes > 1 and not under_torchrun:
        distributed.run_processes(processes, run_stages, arguments)
    else:
        run_stages(*arguments)
    return out / "model" if stage is None else out / "stages" / stage / "model"


def claim(recipe: Recipe, out: Path) -> None:
    """Writes the recipe into the run's folder, or checks that it goes with the one there. Raises BodaError with the difference.

    Another recipe is let in where nothing has been trained yet, or where only knobs differ that do not touch the weights.
    """
    path = out / "recipe.yaml"
    if path.is_file():
        there = load_recipe(path)
        if not recipe_difference(there, recipe):
            return
        difference = recipe_difference(_weights_of(there), _weights_of(recipe))
        is_begun = any(out.glob("stages/*/checkpoints/step-*")) or any(out.glob("stages/*/model"))
        if difference and is_begun:
            raise BodaError(
                f"{out} holds a run of another recipe; choose another --out or give the same recipe. The difference:\n  "
                + "\n  ".join(difference)
            )
        if difference:
            shutil.rmtree(out / "tokenizer", ignore_errors=True)  # it was made from the other recipe's text
    try:
        out.mkdir(parents=True, exist_ok=True)
        _keep_templates(recipe, out)
        text = path.with_suffix(".partial")
        text.write_text(recipe.to_yaml(), encoding="utf-8")
        text.replace(path)
    except OSError as error:
        raise BodaError(f"cannot write to {out}: {error.strerror}") from error


def _weights_of(recipe: Recipe) -> Recipe:
    """The recipe with the knobs evened out that a run's weights do not depend on."""
    same = {"save_steps": 1, "eval_steps": 1, "workers": 0}
    stages = [stage.model_copy(update=same) for stage in recipe.stages]
    return recipe.model_copy(update={"max_bad_rows": 0.0, "stages": stages})


def _keep_templates(recipe: Recipe, out: Path) -> None:
    """Copies chat templates that lie beside the recipe into the run, where its recipe.yaml will look for them."""
    for name in {recipe.model.chat_template, *(stage.chat_template for stage in recipe.stages)}:
        if name and name.endswith(".jinja") and not Path(name).is_absolute():
            (out / name).parent.mkdir(parents=True, exist_ok=True)
            (out / name).write_text(template_text(name, recipe.directory), encoding="utf-8")


def run_stages(recipe: Recipe, out: Path, last: str | None, data_dir, loggers: list[Logger], quiet: bool) -> None:
    """One process's part of a run."""
    device = torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")
    if distributed.is_main():
        get_tokenizer(recipe, out, texts_of(recipe, data_dir))
    distributed.barrier()
    for number, stage in enumerate(recipe.stages):
        if not (out / "stages" / stage.name / "model" / "stage.json").is_file():
            run_stage(recipe, number, out, device, data_dir, loggers, quiet)
        if stage.name == last:
            return
    if distributed.is_main() and not (out / "model" / "boda.json").is_file():
        finish_run(recipe, out, device)
    distributed.barrier()


def run_stage(recipe: Recipe, number: int, out: Path, device, data_dir, loggers: list[Logger], quiet: bool) -> None:
    """Trains one stage from what the stages before it left."""
    stage = recipe.stages[number]
    folder = out / "stages" / stage.name
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = get_tokenizer(recipe, out, iter(()))
    built = build(recipe, tokenizer, out, recipe.stages[:number], device)
    seed = int(generator(recipe.seed, "stage", stage.name).integers(2**31))
    trained = opened(built, stage, seed)
    built.model.to(device)
    bad_rows = BadRows()
    data = prepare_stage(recipe, stage, built, folder, data_dir, bad_rows, quiet)
    job = make_job(recipe, stage, built, trained, data, folder, device, seed, bad_rows)
    job.quiet = quiet
    if distributed.is_main() and not quiet:
        preview(built, recipe, stage, data)
    outputs: list = [JsonLines(out / "log.jsonl"), *_tensorboard(out), *loggers] if distributed.is_main() else []

    def log(record: dict) -> None:
        for output in outputs:
            output.log(record)

    job.log = log
    job.rewind = partial(JsonLines(out / "log.jsonl").rewind, stage.name)
    if stage.validation is not None:
        job.validate = make_validator(recipe, stage, built, job, folder, device, data_dir)
    loop.run(job)
    if distributed.is_main():
        save_stage(built, recipe, stage, trained, folder / "model")
    distributed.barrier()


def _tensorboard(out: Path) -> list[Logger]:
    try:
        return [TensorBoard(out / "tensorboard")]
    except ImportError:  # an extra; log.jsonl has the same numbers
        return []


def make_job(recipe, stage, built: Built, trained, data: PreparedData, folder, device, seed, bad_rows: BadRows) -> loop.Job:
    """Puts together what the loop needs."""
    if stage.gradient_checkpointing:
        language = built.model.model.language_model
        # transformers renamed it after 5.17
        enable = getattr(language, "activation_checkpointing_enable", None) or language.gradient_checkpointing_enable
        enable({"use_reentrant": False})
    built.model.model.language_model.set_attn_implementation(ATTENTION_NAME)
    train_indices = None
    if isinstance(stage.validation, float):
        train_indices, _ = split(data, stage.validation, recipe.seed)
    sources = data.sources if train_indices is None else data.sources[train_indices]
    groups = data.groups if train_indices is None else data.groups[train_indices]
    shared = np.asarray(groups) if stage.share_pictures else None  # not on packing: the same steps with it and without
    plan = Plan(recipe.seed, stage.batch_size, np.asarray(sources), data.weights, shared)
    embeddings = embedding_names(built.model)
    autocast = built.frozen_dtype if built.frozen_dtype != torch.float32 else None
    if stage.packing:
        with torch.autocast(device.type, dtype=autocast, enabled=autocast is not None):
            if not keeps_segments_apart(built.model.model.language_model):
                kind = built.model.config.text_config.model_type
                raise BodaError(
                    f"stages.{stage.name}: samples in one row would see each other in a '{kind}' model; say packing: false"
                )

    bad_images = folder / f"bad_images.{distributed.rank()}.jsonl"
    listed = set(bad_images.read_text(encoding="utf-8").splitlines()) if bad_images.is_file() else set()

    def report_bad(sample: int, why: str) -> None:
        line = json.dumps({"where": data.name(sample), "why": why}, ensure_ascii=False)
        if line not in listed:
            with bad_images.open("a", encoding="utf-8") as stream:
                stream.write(line + "\n")
        warnings.warn(f"{data.name(sample)} is left out: {why}; listed in {bad_images}", stacklevel=2)

    return loop.Job(
        stage=stage,
        seed=seed,
        model=built.model,
        trained=trained,
        part_of=lambda name: part_of(name, embeddings),
        data=data,
        plan=plan,
        load_pixels=PixelLoader(image_spec(built, stage.image_fit)),
        folder=folder,
        device=device,
        autocast=autocast,
        log=lambda record: None,
        report_bad=report_bad,
        max_bad_images=int(recipe.max_bad_rows * len(data)),
        workers=stage.workers if (os.cpu_count() or 1) > 2 else 0,
        train_indices=train_indices,
        set_modes=lambda: set_modes(built.model, trained),
    )


def split(data: PreparedData, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(training, validation) sample numbers; samples of one picture stay on one side."""
    groups = np.asarray(data.groups)
    keys = np.where(groups >= 0, groups, -1 - np.arange(len(groups)))
    unique, inverse = np.unique(keys, return_inverse=True)
    held = max(1, round(share * len(unique)))
    if held >= len(unique):
        raise BodaError(f"validation: {share} of {len(unique)} pictures or texts leaves nothing to train on")
    chosen = generator(seed, "validation").permutation(len(unique))[:held]
    mask = np.isin(inverse, chosen)
    return np.flatnonzero(~mask), np.flatnonzero(mask)


def make_validator(recipe, stage, built: Built, job: loop.Job, folder: Path, device, data_dir) -> Callable[[], dict]:
    if isinstance(stage.validation, float):
        _, indices = split(job.data, stage.validation, recipe.seed)
        data = job.data
    else:
        bad_rows = BadRows()
        data = prepare_stage(recipe, stage, built, folder / "validation", data_dir, bad_rows, True, stage.validation)
        indices = np.arange(len(data))
    return Validator(job, data, indices, built, recipe.generation.max_new_tokens)


def open_sources(
    blocks: list[Data], recipe: Recipe, data_dir, bad_rows: BadRows | None, probe: bool = True
) -> list[tuple[Callable[[], Iterator[Sample]], float]]:
    """Data blocks of a recipe -> for each a function that starts reading it, and its weight. Raises BodaError on a missing path."""
    opened_sources: list[tuple[Callable[[], Iterator[Sample]], float]] = []
    for block in blocks:
        path = resolve_data(block.path, data_dir, recipe.directory)
        images = resolve_data(block.images, data_dir, recipe.directory) if block.images else None
        start = partial(
            read,
            path,
            block.source,
            images=images,
            columns=block.columns or None,
            where=block.where or None,
            question=block.question,
            answer=block.answer,
            limit=block.limit,
            licence=block.licence,
            bad_rows=bad_rows,
            probe=probe,
        )
        opened_sources.append((start, block.weight))
    return opened_sources


def texts_of(recipe: Recipe, data_dir) -> Iterator[str]:
    """All words of the recipe's data, for training a tokenizer."""
    seen = set()
    for stage in recipe.stages:
        for block in stage.data:
            key = block.model_dump_json(exclude={"weight"})
            if key in seen:
                continue
            seen.add(key)
            for start, _ in open_sources([block], recipe, data_dir, BadRows(), probe=False):
                for sample in start():
                    yield from (message.text for message in sample.messages)


def prepare_stage(
    recipe: Recipe,
    stage: Stage,
    built: Built,
    folder: Path,
    data_dir,
    bad_rows: BadRows,
    quiet: bool,
    blocks: list[Data] | None = None,
) -> PreparedData:
    """Renders a stage's data once (by the main process) and opens it. Bad rows are listed in `bad_rows.jsonl` beside it."""
    blocks = blocks if blocks is not None else stage.data
    renderer = renderer_for(recipe, stage, built)
    renderer_for(recipe, None, built).end_ids()  # a template that cannot end an answer is refused now, not after training
    target = folder / "data"
    problem = None
    if distributed.is_main():
        try:
            folder.mkdir(parents=True, exist_ok=True)
            places = [resolve_data(block.path, data_dir, recipe.directory) for block in blocks]
            facts = [_facts(place) for place in places]
            key = fingerprint(
                [block.model_dump() for block in blocks], facts, renderer.template, renderer.system, renderer.max_length,
                renderer.num_image_tokens, fingerprint(sorted(renderer.tokenizer.get_vocab().items())),
            )  # fmt: skip
            show = lambda count: None if quiet else print(f"{stage.name}: {count:,} samples read", file=sys.stderr)  # noqa: E731
            every = _Every(show, 20_000)
            data = prepare(open_sources(blocks, recipe, data_dir, bad_rows), renderer, target, key, bad_rows.add, every)
            if data.truncated and not quiet:
                print(
                    f"{stage.name}: {data.truncated} samples longer than max_length {stage.max_length} were cut",
                    file=sys.stderr,
                )
        except BodaError as error:
            problem = str(error)
        if bad_rows.rows:
            listed = bad_rows.write(folder / "bad_rows.jsonl")
            try:
                bad_rows.check(recipe.max_bad_rows, listed)
                if not quiet:
                    count = f"{len(bad_rows)} of {max(bad_rows.seen, len(bad_rows))}"
                    print(f"{stage.name}: {count} rows cannot be used and are left out, see {listed}", file=sys.stderr)
            except BodaError as error:  # says more than that nothing is left
                problem = str(error)
                shutil.rmtree(target, ignore_errors=True)  # or the next run would take it as good
    problem = distributed.broadcast_object(problem)
    if problem:
        raise BodaError(problem)
    return PreparedData.open(target)


class _Every:
    """Calls through when a count passes another multiple of `step`."""

    def __init__(self, show: Callable[[int], None], step: int):
        self.show, self.step, self.next = show, step, step

    def __call__(self, count: int) -> None:
        if count >= self.next:
            self.show(count)
            self.next += self.step


def _facts(path: Path) -> list:
    """Size and time of a data file, or of what a folder holds at its top."""
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    return [[str(file), file.stat().st_size, file.stat().st_mtime_ns] for file in files[:1000]]


def finish_run(recipe: Recipe, out: Path, device) -> Path:
    """Writes `out`/model from the trained stages."""
    tokenizer = get_tokenizer(recipe, out, iter(()))
    built = build(recipe, tokenizer, out, recipe.stages[:-1], device)
    last = recipe.stages[-1]
    attach_stage(built, last, out / "stages" / last.name / "model")
    return finish(built, recipe, out / "model", run_info(recipe, out))


def run_info(recipe: Recipe, out: Path) -> dict:
    """What `boda.json` says of a run: recipe, versions, commit, data with counts, last losses."""
    import transformers

    data = []
    for stage in recipe.stages:
        folder = out / "stages" / stage.name / "data"
        if not folder.is_dir():
            continue
        counts = np.bincount(PreparedData.open(folder).sources, minlength=len(stage.data))
        for block, count in zip(stage.data, counts):
            data.append({"stage": stage.name, "path": block.path, "rows": int(count), "licence": block.licence or "not stated"})
    last: dict[str, dict] = {}
    log = out / "log.jsonl"
    for line in log.read_text(encoding="utf-8").splitlines() if log.is_file() else []:
        record = json.loads(line)
        if "loss" in record:
            last[record["stage"]] = {"steps": record["step"], "loss": record["loss"]}
    return {
        "kind": recipe.model.kind,
        "recipe": json.loads(recipe.model_dump_json()),
        "versions": {
            "boda": boda.__version__,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "python": platform.python_version(),
        },
        "commit": _commit(),
        "data": data,
        "stages": last,
    }


def _commit() -> str | None:
    """The commit of Boda's own source, where it runs from a checkout."""
    try:
        command = ["git", "-C", str(Path(boda.__file__).parent), "rev-parse", "HEAD"]
        return subprocess.run(command, capture_output=True, text=True, timeout=5, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def default_processes() -> int:
    """All visible GPUs, or one process."""
    return max(1, torch.cuda.device_count())


def summary(folder: Path) -> dict:
    """What `boda train --json` says of a finished folder: {model, stages, steps, loss}."""
    run = folder.parents[2] if folder.parent.parent.name == "stages" else folder.parent
    last: dict[str, dict] = {}
    for line in (run / "log.jsonl").read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        if "loss" in record:
            last[record["stage"]] = record
    final = list(last.values())[-1] if last else {}
    return {
        "model": str(folder),
        "stages": list(last),
        "steps": sum(record["step"] for record in last.values()),
        "loss": final.get("loss"),
    }


def merge(run: str | Path, out: str | Path, stage: str | None = None) -> tuple[Path, float]:
    """Writes a run's stages, up to `stage`, as one complete model folder.

    The last stage's adapter is put on unmerged first, so that merging is seen to change nothing: returns the folder and the
    largest relative difference of the logits.

    Raises:
        BodaError: no run there, a stage that is not finished, or a merge that changed the model.
    """
    run = Path(run)
    if not (run / "recipe.yaml").is_file():
        raise BodaError(f"{run} is no run of `boda train`: it has no recipe.yaml")
    recipe = load_recipe(run / "recipe.yaml")
    done = [s for s in recipe.stages if (run / "stages" / s.name / "model" / "stage.json").is_file()]
    if stage is not None:
        recipe.stage(stage)
        if stage not in [s.name for s in done]:
            raise BodaError(f"stage '{stage}' of {run} is not finished; `boda train` with the same --out goes on with it")
        done = done[: [s.name for s in done].index(stage) + 1]
    if not done:
        raise BodaError(f"no stage of {run} is finished yet")
    built = build(recipe, get_tokenizer(recipe, run, iter(())), run, done[:-1], torch.device("cpu"))
    attach_stage(built, done[-1], run / "stages" / done[-1].name / "model")
    folder = finish(built, recipe, Path(out), run_info(recipe, run))
    return folder, json.loads((folder / "boda.json").read_text(encoding="utf-8")).get("merge", {}).get(
        "largest_relative_difference", 0.0
    )
