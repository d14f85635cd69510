"""A recipe run from beginning to end: its stages one after another, each resumable, and a finished model folder."""

from __future__ import annotations

import contextlib
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
from boda.files import append_line, read_lines, whole_file, writing
from boda.models.attention import ATTENTION_NAME, keeps_segments_apart
from boda.models.pairing import packs_texts
from boda.recipe import Recipe, Stage, load_recipe, part_recipes, recipe_difference, template_text
from boda.train import distributed, loop
from boda.train.build import Built, PixelLoader, build, get_tokenizer, image_spec, opened, save_stage
from boda.train.finished import write_model
from boda.train.freeze import embedding_names, is_pair, language_of, part_of, set_modes, vision_of
from boda.train.inspect import preview
from boda.train.log import JsonLines, Logger, TensorBoard
from boda.train.objectives import OBJECTIVES, Objective, casting
from boda.train.preference import preference_objective
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
    """Trains a recipe and returns the finished model folder, `out`/model, or `out`/stages/<stage>/model to stop after a stage.

    Run again with the same `out` (`runs/<recipe>` unless given) it goes on where it stopped; finished stages are not repeated.

    Args:
        recipe: name of a shipped recipe, a file, a mapping, or a Recipe. The recipes that its parts come from, if it names
            any, are trained first into `out`/parts.
        processes: how many take part (spawned here; under torchrun its own count is used).
        data_dir: where relative data paths are looked up first.
        loggers: anything with `log(record)`, beside `log.jsonl` and TensorBoard.

    Raises BodaError: the recipe, its data or the disk is not as it must be; what was finished is kept.
    """
    name = Path(recipe).stem if isinstance(recipe, (str, Path)) else "recipe"
    recipe = load_recipe(recipe, overrides or ())
    if stage is not None:
        recipe.stage(stage)
    out = Path(out) if out is not None else Path("runs") / name
    needed = part_recipes(recipe)
    arguments = (recipe, out, stage, data_dir, loggers or [], quiet)
    under_torchrun = "RANK" in os.environ and "WORLD_SIZE" in os.environ
    if under_torchrun:
        distributed.start_group(int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]))
    distributed.by_main(claim, recipe, out)
    for part, (name, maker) in needed.items():
        if distributed.is_main() and not quiet:
            print(f"model.{part} is what recipe {name} makes, in {out / 'parts' / name}", file=sys.stderr)
        train(maker, out / "parts" / name, None, processes, data_dir=data_dir, quiet=quiet)
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
            said = "".join(f"\n  {line}" for line in difference)
            raise BodaError(
                f"{out} holds a run of another recipe; choose another --out or give the same recipe. The difference:{said}"
            )
        if difference:
            shutil.rmtree(out / "tokenizer", ignore_errors=True)  # it was made from the other recipe's text
    with writing(f"to {out}"):
        _keep_templates(recipe, out)
        with whole_file(path) as partial:
            partial.write_text(recipe.to_yaml(), encoding="utf-8")


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
    distributed.by_main(get_tokenizer, recipe, out, texts_of(recipe, data_dir))  # may be made here, from all texts
    for number, stage in enumerate(recipe.stages):
        if not (out / "stages" / stage.name / "model" / "stage.json").is_file():
            run_stage(recipe, number, out, device, data_dir, loggers, quiet)
        if stage.name == last:
            return
    if not distributed.by_main((out / "model" / "boda.json").is_file):  # or a slow process would see what the main one writes
        distributed.by_main(write_model, recipe, recipe.stages, out, out / "model", device)


def run_stage(recipe: Recipe, number: int, out: Path, device, data_dir, loggers: list[Logger], quiet: bool) -> None:
    """Trains one stage from what the stages before it left."""
    stage = recipe.stages[number]
    folder = out / "stages" / stage.name
    folder.mkdir(parents=True, exist_ok=True)
    built = build(recipe, get_tokenizer(recipe, out, iter(())), out, recipe.stages[:number], device)
    seed = int(generator(recipe.seed, "stage", stage.name).integers(2**31))
    trained = opened(built, stage, seed)
    built.model.to(device)
    data = prepare_stage(recipe, stage, built, folder, data_dir, BadRows(), quiet)
    job = make_job(recipe, stage, built, trained, data, folder, device, seed)
    job.quiet = quiet
    if distributed.is_main():
        if not quiet:
            preview(built, recipe, stage, data)
        lines = JsonLines(out / "log.jsonl")
        outputs: list[Logger] = [lines, *loggers]
        with contextlib.suppress(ImportError):  # an extra; log.jsonl has the same numbers
            outputs.append(TensorBoard(out / "tensorboard"))
        job.log = partial(_log, outputs)
        job.rewind = partial(lines.rewind, stage.name)
    job.objective = objective_of(recipe, job, data)
    if stage.validation is not None:
        job.validate = make_validator(recipe, stage, built, job, data_dir)
    loop.run(job)
    distributed.by_main(save_stage, built, recipe, stage, trained, folder / "model")


def _log(loggers: list[Logger], record: dict) -> None:
    for logger in loggers:
        logger.log(record)


def make_job(
    recipe: Recipe, stage: Stage, built: Built, trained, data: PreparedData, folder: Path, device, seed: int
) -> loop.Job:
    """Puts together what the loop needs."""
    model, language = built.model, language_of(built.model)
    if stage.gradient_checkpointing:
        for tower in [language, vision_of(model)] if is_pair(model) else [language]:
            # transformers renamed it after 5.17
            enable = getattr(tower, "activation_checkpointing_enable", None) or tower.gradient_checkpointing_enable
            enable({"use_reentrant": False})
    indices = split(data, stage.validation, recipe.seed)[0] if isinstance(stage.validation, float) else None
    every = (values[:: data.width] for values in (data.sources, data.groups, data.shards))
    sources, groups, shards = (np.asarray(values if indices is None else values[indices]) for values in every)
    # Not on packing: the same steps with it and without. Pairs of one prompt are better spread over the steps than together.
    shares = stage.packing != "separate" and not is_pair(model) and data.width == 1
    autocast = built.frozen_dtype if built.frozen_dtype != torch.float32 else None
    if is_pair(model):
        packs_texts(model)  # found out before modes are set, which trying it changes
    else:
        language.set_attn_implementation(ATTENTION_NAME)
        with casting(device, autocast):
            if stage.packing and not keeps_segments_apart(language):
                why = f"samples in one row would see each other in a '{language.config.model_type}' model"
                raise BodaError(f"stages.{stage.name}: {why}; say packing: false")
    embeddings = embedding_names(model)
    job = loop.Job(
        stage=stage,
        seed=seed,
        model=model,
        trained=trained,
        part_of=lambda name: part_of(name, embeddings, stage.train),
        data=data,
        plan=Plan(recipe.seed, stage.batch_size, sources, data.weights, groups if shares else None, shards),
        load_pixels=PixelLoader(image_spec(built, stage.image_fit)),
        folder=folder,
        device=device,
        autocast=autocast,
        log=lambda record: None,
        report_bad=BadImages(stage, data, folder, int(recipe.max_bad_rows * len(data))),
        workers=loop.readers(distributed.world_size()),
        train_indices=indices,
        set_modes=lambda: set_modes(model, trained),
    )
    job.objective = OBJECTIVES.get(stage.objective, job.objective)
    return job


def objective_of(recipe: Recipe, job: loop.Job, data: PreparedData) -> Objective:
    """What a stage minimises on `data`; what that needs of the model as it is now is computed and kept."""
    if job.stage.objective != "preference":
        return job.objective
    before = recipe.stages[: [stage.name for stage in recipe.stages].index(job.stage.name)]
    begun_from = [recipe.model.model_dump(), [stage.model_dump() for stage in before], recipe.seed, recipe.precision]
    return preference_objective(job, data, begun_from)


class BadImages:
    """Lists samples whose pictures cannot be read. Raises BodaError where more than `most` of a stage's samples have one."""

    def __init__(self, stage: Stage, data: PreparedData, folder: Path, most: int):
        self.stage, self.data, self.most = stage, data, most
        self.path = folder / f"bad_images.{distributed.rank()}.jsonl"
        self.listed = list(read_lines(self.path))
        self.seen: set[int] = set()

    def __call__(self, sample: int, why: str) -> None:
        if sample in self.seen:
            return
        self.seen.add(sample)
        name = self.data.name(sample)
        if (bad := {"where": name, "why": why}) not in self.listed:
            append_line(self.path, bad)
        warnings.warn(f"{name} is left out: {why}; listed in {self.path}", stacklevel=2)
        if len(self.seen) > self.most:
            what = f"{len(self.seen)} of {len(self.data)} samples have a picture that cannot be read"
            advice = "Mend them or raise max_bad_rows"
            raise BodaError(f"stage '{self.stage.name}': {what}, more than max_bad_rows allows; the last: {why}. {advice}")


def make_validator(recipe: Recipe, stage: Stage, built: Built, job: loop.Job, data_dir) -> Callable[[], dict]:
    if isinstance(stage.validation, float):
        data, indices = job.data, split(job.data, stage.validation, recipe.seed)[1]
    else:
        folder = job.folder / "validation"
        data = prepare_stage(recipe, stage, built, folder, data_dir, BadRows(), True, stage.validation)
        indices = np.arange(len(data) // data.width)
    if is_pair(built.model):
        return PairValidator(job, data, indices)
    objective = job.objective if data is job.data else objective_of(recipe, job, data)
    return Validator(job, data, indices, built, recipe.generation.max_new_tokens, objective)


def default_processes() -> int:
    """All visible GPUs, or one process."""
    return max(1, torch.cuda.device_count())
