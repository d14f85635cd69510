"""A stage's data: its sources opened, rendered once by the main process, split for validation."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np

from boda.data.drawn import samples as drawn
from boda.data.files import Place, matching
from boda.data.plan import generator
from boda.data.prepared import PreparedData, fingerprint, prepare
from boda.data.sample import Sample
from boda.data.sources import BadRows, read, resolve_data
from boda.errors import BodaError
from boda.recipe import Data, Recipe, Stage
from boda.train import distributed
from boda.train.build import Built, pair_renderer, renderer_for


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


def open_sources(
    blocks: list[Data], recipe: Recipe, data_dir, bad_rows: BadRows | None, probe: bool = True
) -> list[tuple[Callable[[], Iterator[Sample]], float]]:
    """Data blocks of a recipe -> for each a function that starts reading it, and its weight. Raises BodaError on a missing path."""
    opened_sources: list[tuple[Callable[[], Iterator[Sample]], float]] = []
    for block in blocks:
        if block.source == "drawn":
            assert block.limit is not None
            opened_sources.append((partial(drawn.read, block.path, block.limit, block.seed, block.where), block.weight))
            continue
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
    """All words of the recipe's data, for training a tokenizer, and the roles that a chat template writes before them."""
    seen = set()
    for stage in recipe.stages:
        for block in stage.data:
            key = block.model_dump_json(exclude={"weight"})
            if key in seen:
                continue
            seen.add(key)
            for start, _ in open_sources([block], recipe, data_dir, BadRows(), probe=False):
                for sample in start():
                    yield from (f"{message.role}\n{message.text}" for message in sample.messages)


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
    renderer = pair_renderer(stage, built) if recipe.model.kind == "clip" else renderer_for(recipe, stage, built)
    if recipe.model.kind != "clip":
        renderer_for(recipe, None, built).end_ids()  # a template that cannot end an answer is refused now, not after training
    target = folder / "data"
    problem = None
    if distributed.is_main():
        try:
            folder.mkdir(parents=True, exist_ok=True)
            places = [resolve_data(block.path, data_dir, recipe.directory) for block in blocks if block.source != "drawn"]
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
                    f"{stage.name}: {data.truncated} samples longer than max_length {renderer.max_length} were cut",
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
    """Size and time of a data file, of its archive, of the files of a pattern, or of what a folder holds at its top."""
    on_disk = Path(Place.of(path).path)
    if on_disk.exists():
        files = sorted(on_disk.iterdir()) if on_disk.is_dir() else [on_disk]
    else:
        files = [Path(name) for name in matching(path)]
    return [[str(file), file.stat().st_size, file.stat().st_mtime_ns] for file in files[:1000]]
