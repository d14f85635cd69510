"""KoCLIP from scratch on real data, into sections of `benchmarks/koclip.md`: CIFAR-10's photos, and emoji.

    OMP_NUM_THREADS=2 python benchmarks/koclip.py cifar10 emoji [--data DIR] [--work runs/koclip] [key=value ...]

Makes the training data (`koclip_data.py`), trains `recipes/koclip-cifar10.yaml` and `recipes/koclip-emoji.yaml`, evaluates, and
writes the sections with curve and sheet. Everything is resumed: stop it and start it again. `key=value` changes the recipes, e.g.
`stages.pair.max_steps=500`. What people write under the heading "### Looked at" of a section is kept when it is made again.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import shutil
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import koclip_data
import real_data
from common import ROOT, commit, relative
from real import about_machine, parameters, percent, steps_and_minutes

from boda.errors import BodaError

LOOKED = "### Looked at"
# Wordings of cifar10-ko's own list that the recipe does not train on.
UNSEEN = "작은 {}의 사진|흐릿한 {} 사진"
QUERIES = [
    "노란 과일", "웃는 얼굴", "화난 사람", "바다에 사는 동물", "빨간 하트", "비가 오는 날씨", "하늘을 나는 것", "음악을 연주하는 악기",
    "시계", "손가락으로 가리키는 손",
]  # fmt: skip


# ---- training ---------------------------------------------------------------------------------------------------------------


@contextmanager
def keeping(checkpoints: Path, kept: Path) -> Iterator[None]:
    """Copies the weights of every checkpoint while a training runs, which keeps its last two."""
    done = threading.Event()

    def copy() -> None:
        for folder in checkpoints.glob("step-*"):
            target = kept / f"{folder.name}.safetensors"
            if (folder / "files.json").is_file() and not target.is_file():
                shutil.copyfile(folder / "trained.safetensors", target.with_suffix(".partial"))
                target.with_suffix(".partial").replace(target)

    def watch() -> None:
        while not done.wait(2):
            copy()

    kept.mkdir(parents=True, exist_ok=True)
    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def train(name: str, work: Path, overrides: list[str]) -> Path:
    """The finished model. What it took, preparation and all, is added to `NAME-cost.jsonl`, a line for every start."""
    import torch

    import boda

    run = work / name
    if (run / "model/config.json").is_file():
        return run / "model"
    wall, processor = time.monotonic(), time.process_time()
    try:
        with keeping(run / "stages/pair/checkpoints", work / f"{name}-steps"):
            return boda.train(
                ROOT / f"benchmarks/recipes/koclip-{name}.yaml", out=run, data_dir=work / "data", overrides=overrides
            )
    finally:
        cost = {"wall": time.monotonic() - wall, "cpu": time.process_time() - processor, "threads": torch.get_num_threads()}
        with (work / f"{name}-cost.jsonl").open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(cost) + "\n")


def what_it_took(name: str, work: Path) -> str:
    """Model, steps and time in a sentence or two."""
    starts = [json.loads(line) for line in (work / f"{name}-cost.jsonl").read_text(encoding="utf-8").splitlines()]
    steps, minutes = steps_and_minutes(work / name / "log.jsonl")
    recipe = json.loads((work / name / "model/boda.json").read_text(encoding="utf-8"))["recipe"]
    batch = recipe["stages"][-1]["batch_size"]
    return (
        f"{sum(parameters(work / name / 'model').values()):,} parameters, {steps:,} steps of {batch} pairs. All of the training, from "
        f"reading the data to the finished model, took {sum(start['cpu'] for start in starts):,.0f} seconds of processor time "
        f"({sum(start['wall'] for start in starts) / 60:.0f} minutes by the clock with {starts[-1]['threads']} thread(s), the steps "
        f"{minutes:.0f} of them). Recipe: [koclip-{name}.yaml](recipes/koclip-{name}.yaml)."
    )


# ---- CIFAR-10 ---------------------------------------------------------------------------------------------------------------


def steps_over_time(model: Path, kept: Path, out: Path, limit: int) -> list[tuple[int, float]]:
    """(step, zero-shot top-1) of every kept checkpoint, on the first of the test photos."""
    from safetensors.torch import load_file

    import boda
    import boda.evaluate
    from boda.models.encoder import Encoder

    found = []
    for path in sorted(kept.glob("step-*.safetensors"), key=lambda path: int(path.stem[5:])):
        loaded, processor = boda.load(model)
        odd = loaded.load_state_dict(load_file(path), strict=False).unexpected_keys
        assert not odd, odd
        encoder = Encoder(loaded, processor, path.stem)
        result = boda.evaluate.run(encoder, ["cifar10-ko"], out / path.stem, limit=limit, quiet=True)
        found.append((int(path.stem[5:]), next(iter(result.values()))["score"]))
    return found


def accuracy_curve(points: list[tuple[int, float]], log: Path, limit: int, out: Path) -> None:
    """Zero-shot accuracy and loss over the steps."""
    from matplotlib.figure import Figure

    records = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    losses = [(record["step"], record["loss"]) for record in records if "loss" in record]
    each = max(1, len(losses) // 60)
    means = [losses[start : start + each] for start in range(0, len(losses) - each + 1, each)]
    figure = Figure(figsize=(8, 4), dpi=110, layout="constrained")
    axes = figure.add_subplot()
    axes.plot(*zip(*points), color="#2b8a3e", marker="s", markersize=4, label=f"zero-shot top-1, {limit:,} test photos")
    axes.axhline(0.7, color="#888888", linewidth=0.8, linestyle="--")
    axes.set_ylim(0, 1)
    axes.set_xlabel("step")
    axes.set_ylabel("top-1")
    right = axes.twinx()
    middles, averages = (
        [part[len(part) // 2][0] for part in means],
        [sum(loss for _, loss in part) / len(part) for part in means],
    )
    right.plot(middles, averages, color="#1f4e8c", linewidth=1, label="training loss")
    right.set_ylabel("loss")
    axes.legend(handles=[*axes.get_lines()[:1], *right.get_lines()], loc="upper right")
    axes.grid(alpha=0.25)
    figure.savefig(out)


def by_class(answers: Path) -> list[str]:
    """Every class with its accuracy and what it is most taken for."""
    from boda.evaluate.answers import read_answers

    records = [record for record in read_answers(answers) if not record["failed"]]
    lines = ["| class | top-1 | most taken for |", "| --- | ---: | --- |"]
    for label in sorted({record["gold"] for record in records}):
        mine = [record for record in records if record["gold"] == label]
        wrong = Counter(record["raw"] for record in mine if record["raw"] != label).most_common(2)
        taken = ", ".join(f"{other} {count / len(mine):.1%}" for other, count in wrong)
        lines.append(f"| {label} | {sum(record['score'] for record in mine) / len(mine):.1%} | {taken} |")
    return lines


def cifar10(data: Path, work: Path, out: Path, overrides: list[str], limit: int) -> list[str]:
    """The section."""
    import boda.evaluate

    koclip_data.copies(data, work / "data")
    model = train("cifar10", work, overrides)
    tasks = {
        "its own seven wordings (five trained on)": ("cifar10-ko", None),
        "two wordings not trained on": (f"cifar10-ko:template={UNSEEN}", None),
        "the class name alone": ("cifar10-ko:template={}", None),
        "photos trained on, seven wordings": ("cifar10-ko:cifar10/train.parquet", limit),
    }
    lines = ["| zero-shot | photos | top-1 (95 %) | top-5 |", "| --- | ---: | ---: | ---: |"]
    for number, (title, (task, most)) in enumerate(tasks.items()):
        result = boda.evaluate.run(model, [task], work / f"cifar10-eval-{number}", limit=most, quiet=True)
        first, fifth = (next(iter(result.values()))["groups"]["photos"][metric] for metric in ("top-1", "top-5"))
        interval = f"({percent(first['low'])} - {percent(first['high'])})"
        lines.append(f"| {title} | {first['n']:,} | **{percent(first['score'])}** {interval} | {percent(fifth['score'])} |")
    points = steps_over_time(model, work / "cifar10-steps", work / "cifar10-eval-steps", limit)
    accuracy_curve(points, work / "cifar10/log.jsonl", limit, out / "koclip-cifar10-curve.png")
    return [
        what_it_took("cifar10", work)
        + " The 50,000 training photos and three moved or mirrored copies of each ([koclip_data.py](koclip_data.py)); captions are the "
        "class name in five wordings; making the copies is not in the time. Chance is 10 %, the goal 70 %. The tower, learning rate and "
        "copies were chosen in six trials of a minute each, compared by these same test photos; nothing was chosen after them.",
        "", *lines, "", "![zero-shot accuracy over steps](koclip-cifar10-curve.png)", "", *by_class(work / "cifar10-eval-0"),
    ]  # fmt: skip


# ---- emoji ------------------------------------------------------------------------------------------------------------------


def search_sheet(found: dict[str, list], out: Path, size: int = 76) -> None:
    """A row for each query: the pictures found, with their names, and a green frame where the emoji was never trained on."""
    from PIL import Image, ImageDraw, ImageFont

    from boda.data.drawn.fonts import FONTS
    from boda.data.images import load_image

    face, small = (ImageFont.truetype(str(FONTS["gothic"]), points) for points in (14, 10))
    cell, label, height = size + 12, 190, size + 24
    sheet = Image.new("RGB", (label + cell * max(map(len, found.values())), height * len(found)), "white")
    pen = ImageDraw.Draw(sheet)
    for row, (query, hits) in enumerate(found.items()):
        pen.text((6, row * height + size // 2), query, "#1f2328", face)
        for column, hit in enumerate(hits):
            left, top = label + column * cell, row * height + 4
            sheet.paste(load_image(hit.ref).resize((size, size)), (left, top))
            if hit.values["split"] == "test":
                pen.rectangle((left - 2, top - 2, left + size + 1, top + size + 1), outline="#1a7f37", width=2)
            name = hit.values["caption"]
            while small.getlength(name) > cell - 4:
                name = name[:-2] + "…"
            pen.text((left, top + size + 3), name, "#6b7280", small)
    sheet.quantize(128).save(out, optimize=True)


def emoji(data: Path, work: Path, out: Path, overrides: list[str], limit: int) -> list[str]:
    """The section."""
    import boda.evaluate
    from boda.search import Index

    koclip_data.emoji(data, work / "data")
    model = train("emoji", work, overrides)
    lines = ["| search, by | among | R@1 | R@5 | R@10 (95 %) | chance R@10 |", "| --- | ---: | ---: | ---: | ---: | ---: |"]
    texts = {"name": "emoji-ko", "name and keywords": "emoji-ko:text={caption}, {keywords}"}
    for number, (text, task) in enumerate(texts.items()):
        result = boda.evaluate.run(model, [task], work / f"emoji-eval-{number}", quiet=True)
        for name, metrics in next(iter(result.values()))["groups"].items():
            one, five, ten = (metrics[f"R@{k}"] for k in (1, 5, 10))
            interval = f"({percent(ten['low'])} - {percent(ten['high'])})"
            chance = percent(10 / ten["n"])
            lines.append(
                f"| {name}, {text} | {ten['n']:,} | {percent(one['score'])} | {percent(five['score'])} | "
                f"**{percent(ten['score'])}** {interval} | {chance} |"
            )
    folder = data / "emoji"
    index = Index.build(
        folder, model, work / "emoji.index", table=folder / "captions.jsonl", image_column="image", keep=["caption", "split"]
    )
    search_sheet({query: index.search(query, top=9) for query in QUERIES}, out / "koclip-emoji-search.png")
    return [
        what_it_took("emoji", work)
        + " 1,350 emoji, eight pictures of each, moved, scaled and turned ([koclip_data.py](koclip_data.py)); captions are the name, "
        "keywords, or both. The 300 test emoji are other concepts: no name of theirs is a caption of a training emoji.",
        "", *lines, "", "Ten searches among all 1,650; a green frame: never trained on.", "",
        "![ten queries and what was found](koclip-emoji-search.png)",
    ]  # fmt: skip


# ---- report -----------------------------------------------------------------------------------------------------------------


def put_section(path: Path, heading: str, lines: list[str]) -> None:
    """Replaces a section of the report, or adds it; what is written under LOOKED in it stays."""
    text = path.read_text(encoding="utf-8") if path.is_file() else "# KoCLIP: benchmarks\n"
    start = text.find(f"\n## {heading}\n") + 1
    if start:
        end = text.find("\n## ", start) + 1 or len(text)
        before, old, after = text[:start], text[start:end], text[end:]
    else:
        before, old, after = text.rstrip("\n") + "\n\n", "", ""
    kept = old[old.index(LOOKED) :].rstrip() if LOOKED in old else ""
    section = relative("\n".join([f"## {heading}", "", *lines, *(["", kept] if kept else []), ""]))
    path.write_text(before + section + ("\n" + after if after else ""), encoding="utf-8")


SECTIONS = {"cifar10": ("CIFAR-10", cifar10), "emoji": ("Emoji", emoji)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "what", nargs="+", metavar="cifar10|emoji|key=value", help="sections to make, and changes of their recipes"
    )
    parser.add_argument("--data", help="the folder with the real data (BODA_DATA, else ../shared/data)")
    parser.add_argument("--work", type=Path, default=ROOT / "runs/koclip", help="where data, runs and answers go")
    parser.add_argument("--limit", type=int, default=2500, help="photos for each point of the curve")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks", help="where the report goes")
    chosen = parser.parse_args()
    overrides = [given for given in chosen.what if "=" in given]
    names = [given for given in chosen.what if "=" not in given]
    if unknown := [name for name in names if name not in SECTIONS]:
        raise BodaError(f"no section '{unknown[0]}'; there are {', '.join(SECTIONS)}")
    data = real_data.data_folder(chosen.data)
    os.environ["BODA_DATA"] = str(data)  # CIFAR-10's files are read where they are
    for name in names:
        heading, make = SECTIONS[name]
        lines = make(data, chosen.work, chosen.out, overrides, chosen.limit)
        date = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
        command = " ".join(
            ["python benchmarks/koclip.py", name, *overrides, *(["--limit", str(chosen.limit)] if chosen.limit != 2500 else [])]
        )
        head = [f"{date}, commit `{commit()}`, `{command}`", "", about_machine(), ""]
        put_section(chosen.out / "koclip.md", heading, [*head, *lines])
        print(chosen.out / "koclip.md", heading)


if __name__ == "__main__":
    try:
        main()
    except BodaError as error:
        raise SystemExit(str(error)) from None
