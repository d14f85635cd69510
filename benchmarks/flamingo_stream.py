"""Pictures from tar shards to batches, epoch after epoch: pictures a second, memory over time, and going on in the middle.

    python benchmarks/flamingo_stream.py [pictures=50000] [shards=25] [epochs=3] [side=256] [workers=-1]

Shards of JPEGs with captions are made first. The source `webdataset`, preparation, plan, packing, batches and the loader are those of
training, with the stage of the recipe `openflaminko`; only the model is missing. Every side runs in a process of its own.
"""

from __future__ import annotations

import io
import itertools
import json
import sys
import tarfile
import tempfile
import time
from pathlib import Path

import numpy as np

POINTS = 12  # at which memory is looked at
COLOURS, THINGS = ("빨간", "파란", "노란", "하얀", "검은"), ("사과", "자동차", "고양이", "우산", "의자", "기차", "꽃병")


def make(folder: Path, pictures: int, shards: int, side: int) -> dict:
    """Smooth random pictures with a little noise, `side` pixels high; sizes and captions vary."""
    from PIL import Image

    folder.mkdir(parents=True)
    counts = [len(part) for part in np.array_split(np.arange(pictures), shards)]
    noise = Image.fromarray(np.random.default_rng(1).integers(0, 256, (side, 2 * side, 3), dtype=np.uint8))
    written, number = 0, itertools.count()
    for shard, count in enumerate(counts):
        with tarfile.open(folder / f"shard_{shard:05d}.tar", "w") as tar:
            for _ in range(count):
                index = next(number)
                size = (side + 8 * (index % 9), side)
                coarse = np.random.default_rng(index).integers(0, 256, (4, 5, 3), dtype=np.uint8)
                smooth = Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)
                buffer = io.BytesIO()
                Image.blend(smooth, noise.crop((0, 0, *size)), 0.06).save(buffer, "JPEG", quality=85)
                text = f"{COLOURS[index % 5]} {THINGS[index % 7]} {index}개가 놓인 사진입니다."
                described = json.dumps({"caption": text, "key": f"{index:09d}"}, ensure_ascii=False)
                for suffix, data in (("jpg", buffer.getvalue()), ("txt", text.encode()), ("json", described.encode())):
                    entry = tarfile.TarInfo(f"{index:09d}.{suffix}")
                    entry.size = len(data)
                    tar.addfile(entry, io.BytesIO(data))
                written += len(buffer.getvalue())
    return {"picture_kb": written / pictures / 1000, "bytes": sum(path.stat().st_size for path in folder.iterdir())}


def prepare(folder: Path) -> dict:
    """Reads the shards into prepared data."""
    from common import peak_rss_mb

    from boda.data.interleaved import END_OF_CHUNK, FlamingoRenderer
    from boda.data.prepared import prepare
    from boda.data.sources import BadRows, read
    from boda.models.vocabulary import add_token, train_tokenizer
    from boda.recipe import template_text

    tokenizer = train_tokenizer([f"{colour} {thing} 개가 놓인 사진입니다." for colour in COLOURS for thing in THINGS], 700)
    add_token(tokenizer, END_OF_CHUNK)
    renderer, bad = FlamingoRenderer(tokenizer, template_text("flamingo"), 1, stage_of().max_length), BadRows()
    began = time.perf_counter()
    data = prepare([(lambda: read(folder, "webdataset", bad_rows=bad), 1.0)], renderer, prepared(folder), "benchmark", bad.add)
    return {"seconds": time.perf_counter() - began, "samples": len(data), "bad": len(bad), "peak_mb": peak_rss_mb()}


def prepared(folder: Path) -> Path:
    return folder.parent / "prepared"


def stage_of(epochs: int = 1):
    from boda.recipe import load_recipe

    return load_recipe("openflaminko", {"stages.captions.max_steps": None, "stages.captions.epochs": epochs}).stages[0]


def job_of(folder: Path, epochs: int, workers: int):
    """What the training loop reads its batches by, without a model."""
    import torch

    from boda.data.images import ImageSpec
    from boda.data.plan import Plan
    from boda.data.prepared import PreparedData
    from boda.train import loop
    from boda.train.build import PixelLoader

    stage, data = stage_of(epochs), PreparedData.open(prepared(folder))
    plan = Plan(0, stage.batch_size, np.asarray(data.sources), data.weights, np.asarray(data.groups), np.asarray(data.shards))
    return loop.Job(
        stage, 0, torch.nn.Module(), {}, str, data, plan, PixelLoader(ImageSpec(224)), folder, torch.device("cpu"), None,
        log=lambda record: None, workers=loop.readers(1) if workers < 0 else workers,
    )  # fmt: skip


def stream(folder: Path, epochs: int, workers: int) -> dict:
    """Every batch of all epochs; memory of this process and its readers at the end of each of POINTS parts."""
    import os

    from common import _descendants, _proportional_mb

    from boda.train import loop

    job = job_of(folder, epochs, workers)
    marks = {job.total_steps * (point + 1) // POINTS for point in range(POINTS)}
    memory, rates, pictures, counted, number = [], [], 0, 0, 0
    began = last = time.perf_counter()
    for batch in loop.batches(job, 0):
        assert not batch["bad_images"]
        pictures += len(batch["pixel_values"])
        if batch["place"] + 1 < batch["rows"]:
            continue
        number += 1
        if number in marks:
            now = time.perf_counter()
            memory.append(sum(map(_proportional_mb, _descendants(os.getpid()))))
            rates.append((pictures - counted) / (now - last))
            counted, last = pictures, time.perf_counter()
    return {
        "steps": number,
        "pictures": pictures,
        "seconds": time.perf_counter() - began,
        "memory_mb": memory,
        "pictures_a_second": rates,
        "workers": job.workers,
    }


def resume(folder: Path, epochs: int, workers: int, share: float) -> dict:
    """A new process that gives the first batch of the step at this share of all."""
    began = time.perf_counter()
    from boda.train import loop  # with torch, which every process begins with

    imported = time.perf_counter()
    job = job_of(folder, epochs, workers)
    step = int(job.total_steps * share)
    batch = next(loop.batches(job, step))
    done = time.perf_counter()
    assert divmod(step, job.plan.steps_per_epoch()) == tuple(batch["position"])
    return {
        "step": step,
        "import_seconds": imported - began,
        "seconds": done - imported,
        "pictures": len(batch["pixel_values"]),
    }


def main(run) -> None:
    from common import run_side

    pictures, shards, epochs = run.option("pictures", 50_000), run.option("shards", 25), run.option("epochs", 3)
    side, workers = run.option("side", 256), run.option("workers", -1)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "shards"
        start = lambda name, *rest: run_side([__file__, name, folder, *rest], timeout=6 * 3600)  # noqa: E731
        made = start("make", pictures, shards, side)
        run.say(f"{pictures:,} pictures of {made['picture_kb']:.1f} kB in {shards} shards")
        ready = start("prepare")
        run.say(f"prepared in {ready['seconds']:.0f} s")
        found = start("stream", epochs, workers)
        run.say(f"{found['pictures'] / found['seconds']:.0f} pictures a second")
        begun = [start("resume", epochs, workers, share) for share in (0.0, 0.5, 0.9)]
    for name, value in (("made", made), ("prepared", ready), ("stream", found), ("resume", begun)):
        run.raw(name, value)
    memory, rates = found["memory_mb"], found["pictures_a_second"]
    facts = {
        "pictures in the shards": ready["samples"],
        "kB a picture": made["picture_kb"],
        "shards, GB": made["bytes"] / 1e9,
        "prepared once (headers, texts), s": ready["seconds"],
        "pictures a second while preparing": ready["samples"] / ready["seconds"],
        "pictures read": found["pictures"],
        "steps": found["steps"],
        "reader processes": found["workers"] or "none, the process reads itself",
        "pictures a second": found["pictures"] / found["seconds"],
        "MB/s of JPEG": found["pictures"] / found["seconds"] * made["picture_kb"] / 1000,
    }
    note = f"Decoded, scaled to 224 pixels and normalised, in batches of {stage_of().batch_size}."
    run.table(f"Reading, {epochs} epochs", [{"": name, "value": value} for name, value in facts.items()], note)
    rows = [
        {"part": f"{point + 1}/{len(memory)}", "memory, MB": round(mb), "pictures a second": rate}
        for point, (mb, rate) in enumerate(zip(memory, rates))
    ]
    grown = memory[-1] - memory[0]
    note = (
        f"From the first look to the last: {grown:+.0f} MB. Of process and readers, pages that are shared divided among them."
    )
    run.table("Memory over time", rows, note)
    rows = [
        {"from step": each["step"], "imports, s": each["import_seconds"], "then to the first batch, s": each["seconds"],
         "whole process, s": each["wall_seconds"]}
        for each in begun
    ]  # fmt: skip
    slowest, whole = (max(each[name] for each in begun) for name in ("seconds", "wall_seconds"))
    note = f"A new process each. {'Within' if slowest < 5 else 'Not within'} the five seconds that going on may cost"
    note += ", imports and all." if whole < 5 else "; the imports, which every start pays, not counted."
    run.table("Going on in the middle", rows, note)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent))
    sides = {"make": (make, int, int, int), "prepare": (prepare,), "stream": (stream, int, int)}
    sides["resume"] = (resume, int, int, float)
    if len(sys.argv) > 1 and sys.argv[1] in sides:
        work, *kinds = sides[sys.argv[1]]
        print(json.dumps(work(Path(sys.argv[2]), *(kind(word) for kind, word in zip(kinds, sys.argv[3:])))))
    else:
        import run as runner

        sys.exit(runner.main([Path(__file__).stem, *sys.argv[1:]]))
