"""A recipe run from beginning to end: its stages one after another, each resumable, and a finished model folder."""

from __future__ import annotations

import json
import os
import shutil
import sys
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch

from boda.data.plan import Plan, generator
from boda.data.prepared import PreparedData
from boda.data.sources import BadRows
from boda.errors import BodaError
from boda.models.attention import ATTENTION_NAME, keeps_segments_apart
from boda.models.pairing import packs_texts
from boda.recipe import Recipe, language_recipe, load_recipe, recipe_difference, template_text
from boda.train import distributed, loop
from boda.train.build import Built, PixelLoader, build, check_kind, get_tokenizer, image_spec, opened, save_stage
from boda.train.finished import finish_run
from boda.train.freeze import embedding_names, is_pair, language_of, part_of, set_modes, vision_of
from boda.train.inspect import preview
from boda.train.log import JsonLines, Logger, TensorBoard
from boda.train.preparation import prepare_stage, split, texts_of
from boda.train.validate import PairValidator, Validator


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
        recipe: name of a shipped recipe, a file, a mapping, or a Recipe. The recipe that its language model comes from, if it
            names one, is trained first into `out`/parts.
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
    check_kind(recipe)
    if stage is not None:
        recipe.stage(stage)
    out = Path(out) if out is not None else Path("runs") / name
    needed = language_recipe(recipe)
    arguments = (recipe, out, stage, data_dir, loggers or [], quiet)
    under_torchrun = "RANK" in os.environ and "WORLD_SIZE" in os.environ
    if under_torchrun:
        distributed.start_group(int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]))
    if distributed.is_main():
        claim(recipe, out)
    distributed.barrier()
    if needed is not None:
        if distributed.is_main() and not quiet:
            print(f"the language model is what recipe {needed[0]} makes, in {out / 'parts' / needed[0]}", file=sys.stderr)
        train(needed[1], out / "parts" / needed[0], None, processes, data_dir=data_dir, quiet=quiet)
    if (out / "model" / "boda.json").is_file() and stage is None:
        return out / "model"
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
    same = {"save_steps": 1, "eval_steps": 1}
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
    language = language_of(built.model)
    if stage.gradient_checkpointing:
        # transformers renamed it after 5.17
        for tower in [language, vision_of(built.model)] if is_pair(built.model) else [language]:
            enable = getattr(tower, "activation_checkpointing_enable", None) or tower.gradient_checkpointing_enable
            enable({"use_reentrant": False})
    if not is_pair(built.model):
        language.set_attn_implementation(ATTENTION_NAME)
    train_indices = None
    if isinstance(stage.validation, float):
        train_indices, _ = split(data, stage.validation, recipe.seed)
    sources = data.sources if train_indices is None else data.sources[train_indices]
    groups = data.groups if train_indices is None else data.groups[train_indices]
    shards = np.asarray(data.shards if train_indices is None else data.shards[train_indices])
    share = stage.share_pictures and not is_pair(built.model)
    shared = np.asarray(groups) if share else None  # not on packing: the same steps with it and without
    plan = Plan(recipe.seed, stage.batch_size, np.asarray(sources), data.weights, shared, shards)
    embeddings = embedding_names(built.model)
    autocast = built.frozen_dtype if built.frozen_dtype != torch.float32 else None
    if is_pair(built.model):
        packs_texts(built.model)  # found out before modes are set, which trying it changes
    elif stage.packing:
        with torch.autocast(device.type, dtype=autocast, enabled=autocast is not None):
            if not keeps_segments_apart(language):
                kind = language.config.model_type
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
        workers=loop.readers(distributed.world_size()),
        train_indices=train_indices,
        set_modes=lambda: set_modes(built.model, trained),
    )


def make_validator(recipe, stage, built: Built, job: loop.Job, folder: Path, device, data_dir) -> Callable[[], dict]:
    if isinstance(stage.validation, float):
        _, indices = split(job.data, stage.validation, recipe.seed)
        data = job.data
    else:
        bad_rows = BadRows()
        data = prepare_stage(recipe, stage, built, folder / "validation", data_dir, bad_rows, True, stage.validation)
        indices = np.arange(len(data))
    if is_pair(built.model):
        return PairValidator(job, data, indices)
    return Validator(job, data, indices, built, recipe.generation.max_new_tokens)


def default_processes() -> int:
    """All visible GPUs, or one process."""
    return max(1, torch.cuda.device_count())
