"""A stage's data: its sources opened, rendered once by the main process, split for validation."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from boda.data.drawn import samples as drawn
from boda.data.files import Place, matching
from boda.data.plan import generator
from boda.data.prepared import PreparedData, fingerprint, prepare
from boda.data.sample import Sample
from boda.data.sources import BadRows, parallel, read, resolve_data
from boda.errors import BodaError
from boda.recipe import Data, Recipe, Stage, TokenizerSpec
from boda.terminal import Progress, clear_line
from boda.train import distributed
from boda.train.build import Built, renderer_for


def split(data: PreparedData, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(training, validation) sample numbers; samples of one picture, pairs of one prompt, and what one row gives (the pieces of a
    document, a text and its translation in both orders) stay on one side."""
    groups, first = data.groups[:: data.width], dict[str, int]()
    rows = np.array([first.setdefault(name, number) for number, name in enumerate(data.names[:: data.width])])
    keys = np.where(groups >= 0, groups, -1 - rows)
    unique, inverse = np.unique(keys, return_inverse=True)
    held = max(1, round(share * len(unique)))
    if held >= len(unique):
        raise BodaError(f"validation: {share} of {len(unique)} pictures or texts leaves nothing to train on")
    chosen = generator(seed, "validation").permutation(len(unique))[:held]
    mask = np.isin(inverse, chosen)
    return np.flatnonzero(~mask), np.flatnonzero(mask)


class Opened(NamedTuple):
    """What starts reading a data block, and where it lies; what is drawn lies nowhere."""

    start: Callable[[], Iterator[Sample]]
    path: Path | None = None


def open_source(block: Data, recipe: Recipe, data_dir, bad_rows: BadRows, probe: bool = True) -> Opened:
    """A data block of a recipe. Raises BodaError on a missing path."""
    if block.source == "drawn":
        return Opened(partial(_draw, block, bad_rows))
    path = resolve_data(block.path, data_dir, recipe.directory)
    images = resolve_data(block.images, data_dir, recipe.directory) if block.images else None
    asked = block.model_dump(include={"columns", "where", "question", "answer", "limit", "licence"})
    return Opened(partial(read, path, block.source, images=images, bad_rows=bad_rows, probe=probe, **asked), path)


def _draw(block: Data, bad_rows: BadRows) -> Iterator[Sample]:
    assert block.limit is not None
    bad_rows.formats["drawn"] = None
    for sample in drawn.read(block.path, block.limit, block.seed, block.where):
        bad_rows.seen += 1
        yield sample


def texts_of(recipe: Recipe, data_dir) -> Iterator[str]:
    """The words that a tokenizer is made from: those of its own data, or all of the recipe's. A new one also reads the roles that a
    chat template writes before them."""
    spec = recipe.model.tokenizer
    own = spec.data if isinstance(spec, TokenizerSpec) else None
    is_new = not isinstance(spec, TokenizerSpec) or spec.base is None
    listed = own or [block for stage in recipe.stages for block in stage.data]
    for block in {block.model_dump_json(exclude={"weight"}): block for block in listed}.values():
        bad = BadRows()
        for sample in open_source(block, recipe, data_dir, bad, probe=False).start():
            yield from (f"{message.role}\n{message.text}" if is_new else message.text for message in sample.messages)
        if own:  # the stages' are reported where they are prepared
            bad.check(recipe.max_bad_rows, "")


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
    if recipe.model.kind != "clip":
        renderer_for(recipe, None, built).end_ids()  # a template that cannot end an answer is refused now, not after training
    distributed.by_main(_prepare, recipe, blocks, renderer, folder, data_dir, bad_rows, quiet)
    return PreparedData.open(folder / "data")


def _prepare(recipe: Recipe, blocks: list[Data], renderer, folder: Path, data_dir, bad_rows: BadRows, quiet: bool) -> None:
    def say(words: str) -> None:
        if not quiet:
            print(f"{folder.name}: {words}", file=sys.stderr)

    folder.mkdir(parents=True, exist_ok=True)
    target, problem = folder / "data", None
    progress = Progress(lambda seen: f"{folder.name}: {seen.done:,} samples read", quiet=quiet)
    try:
        opened = [open_source(block, recipe, data_dir, bad_rows) for block in blocks]
        key = fingerprint(
            [block.model_dump() for block in blocks], [_facts(each.path) for each in opened if each.path], renderer.template,
            renderer.system, renderer.max_length, renderer.num_image_tokens, renderer.width,
            getattr(renderer, "train_inputs", False),
            fingerprint(sorted(renderer.tokenizer.get_vocab().items())),
        )  # fmt: skip
        sources = [(each.start, block.weight) for each, block in zip(opened, blocks)]
        data = prepare(sources, renderer, target, key, bad_rows.add, progress.update)
        clear_line()
        for why, count in bad_rows.left_out.items():
            say(f"{count:,} rows left out by rule: {why}")
        if data.truncated:
            say(f"{data.truncated} samples longer than max_length {renderer.max_length} were cut")
    except BodaError as error:
        problem = error
    if bad_rows.rows:
        listed = bad_rows.write(folder / "bad_rows.jsonl")
        try:
            bad_rows.check(recipe.max_bad_rows, listed)  # says more than that nothing is left
        except BodaError:
            shutil.rmtree(target, ignore_errors=True)  # or the next run would take it as good
            raise
        say(f"{len(bad_rows)} of {max(bad_rows.seen, len(bad_rows))} rows cannot be used and are left out, see {listed}")
    if problem is not None:
        raise problem


def _facts(path: Path) -> list:
    """Size and time of a data file, of its archive, of the files of a pattern, or of what a folder holds at its top."""
    place = Place.of(path)
    on_disk = Path(place.path)
    if parallel.is_two_files(place):
        files = [Path(each.path) for each in parallel.two_files(place)]
    elif on_disk.exists():
        files = sorted(on_disk.iterdir()) if on_disk.is_dir() else [on_disk]
    else:
        files = [Path(name) for name in matching(path)]
    return [[str(file), file.stat().st_size, file.stat().st_mtime_ns] for file in files[:1000]]
