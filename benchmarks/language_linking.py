"""Korean into an English model: Korean alone, mixed with English, and linked by parallel text; and ELO against training all layers.

    OMP_NUM_THREADS=1 python benchmarks/language_linking.py [--data DIR] [--work runs/language-linking] [--steps N]

Trains a small English model, goes on from it in six ways with the same number of steps and tokens, measures bits per character on
held-out Korean and English at four points of each, and writes `language_linking.md` with the curve. The texts of "mixed" and
"linked" are the same; in "linked" a sentence and its translation stand in one document, in "mixed" in two. Everything is resumed:
stop it and start it again. What people write under the report's last heading is kept when it is made again.
"""

from __future__ import annotations

import argparse
import datetime
import json
import math
import random
import re
import shutil
import sys
import tarfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from common import ROOT, commit, relative
from real import about_machine, kept_reading

READ = "## What it shows and what not"
NEWS = "korean_parallel_corpora/korean-english-news-v1/korean-english-park"
SHAPE = {
    "model_type": "llama",
    "hidden_size": 160,
    "intermediate_size": 432,
    "num_hidden_layers": 8,
    "num_attention_heads": 5,
    "max_position_embeddings": 512,
    "initializer_range": 0.06,
    "tie_word_embeddings": True,
}
MAX_LENGTH, TOKENS_A_STEP, POINTS = 256, 1024, 4
MIXED = ("Korean only", "mixed", "linked")
LANGUAGES = {"ko": "Korean", "en": "English"}


# ---- data -------------------------------------------------------------------------------------------------------------------


def prepare(data: Path, out: Path) -> dict[str, list]:
    """{name: texts or pairs}: what is trained on, and what no run sees.

    Held out are the news corpus's test split (its North Korean edition has the same English, so it is left out altogether) and
    every tenth page of the React documentation.
    """
    news = {part: _news(data, part) for part in ("dev", "test")}
    pairs = [
        pair
        for name in ("dev", "eval")
        for pair in _lines(data / f"korean_parallel_corpora/korean-english-jhe/jhe-koen-{name}")
    ]
    pairs += news["dev"]
    pages = [page for page in (data / "ko_react_docs/docs.txt").read_text(encoding="utf-8").split("\n\x1e\n") if page.strip()]
    prose = {held: _prose(page for number, page in enumerate(pages) if (number % 10 == 0) == held) for held in (False, True)}
    seen = {english for _, english in news["test"]}
    pairs = [(korean, english) for korean, english in pairs if english not in seen]
    demo = json.loads((data / "llamafactory_demo/data/alpaca_en_demo.json").read_text(encoding="utf-8"))
    chance = random.Random(0)
    held = chance.sample(news["test"], 200)
    found: dict[str, list] = {
        "korean": prose[False] + _reviews(data, 12_000),
        "english": [row["output"] for row in demo if len(row["output"]) > 40],
        "pairs": pairs,
        "held_ko": [korean for korean, _ in held] + chance.sample(prose[True], min(40, len(prose[True]))),
        "held_en": [english for _, english in held],
        "held_pairs": held,
    }
    out.mkdir(parents=True, exist_ok=True)
    for name in ("korean", "english"):
        _write(out / f"{name}.jsonl", [{"text": text} for text in found[name]])
    _write(out / "pairs.jsonl", [{"ko": korean, "en": english} for korean, english in pairs])
    for side, place in (("ko", 0), ("en", 1)):
        _write(out / f"pairs_{side}.jsonl", [{"text": pair[place]} for pair in pairs])
    return found


def _write(path: Path, rows: list[dict]) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def _lines(stem: Path) -> list[tuple[str, str]]:
    sides = [Path(f"{stem}.{side}").read_text(encoding="utf-8").splitlines() for side in ("ko", "en")]
    return [
        (korean.strip(), english.strip()) for korean, english in zip(*sides, strict=True) if korean.strip() and english.strip()
    ]


def _news(data: Path, part: str) -> list[tuple[str, str]]:
    with tarfile.open(data / f"{NEWS}.{part}.tar.gz") as archive:
        texts = {}
        for member in archive.getmembers():
            stream = archive.extractfile(member)
            if stream is not None and member.name.endswith((".ko", ".en")):
                texts[member.name[-2:]] = stream.read().decode("utf-8").splitlines()
    return [(a.strip(), b.strip()) for a, b in zip(texts["ko"], texts["en"], strict=True) if a.strip() and b.strip()]


def _prose(pages) -> list[str]:
    """The Korean paragraphs of pages that are half code, up to 400 characters together."""
    texts, kept = [], ""
    for page in pages:
        for paragraph in page.split("\n\n"):
            letters = re.findall(r"[^\W\d_]", paragraph)
            if len(paragraph) > 30 and len(re.findall("[가-힣]", paragraph)) > 0.6 * len(letters) and "<" not in paragraph:
                kept = f"{kept}\n\n{paragraph.strip()}".strip()
                if len(kept) > 400:
                    texts.append(kept)
                    kept = ""
    return texts


def _reviews(data: Path, count: int) -> list[str]:
    """Reviews, five to a text."""
    import gzip

    with gzip.open(data / "nsmc_raw/reviews_all_dedup.tsv.gz", "rt", encoding="utf-8") as stream:
        next(stream)
        rows = [line.rstrip("\n").split("\t")[3] for _, line in zip(range(count), stream)]
    return ["\n".join(rows[start : start + 5]) for start in range(0, count, 5)]


# ---- recipes ----------------------------------------------------------------------------------------------------------------


def mixes(out: Path) -> dict[str, list[tuple[dict, float]]]:
    """The data blocks of each way, each with the share of tokens it is to have."""
    block = lambda name, source="text": {"source": source, "path": str(out / f"{name}.jsonl")}  # noqa: E731
    korean, english, pairs = block("korean"), block("english"), block("pairs", "parallel")
    sides = block("pairs_ko"), block("pairs_en")
    return {
        "english": [(english, 0.75), (sides[1], 0.25)],
        "Korean only": [(korean, 0.75), (sides[0], 0.25)],
        "mixed": [(korean, 0.35), (sides[0], 0.15), (english, 0.35), (sides[1], 0.15)],
        "linked": [(korean, 0.35), (english, 0.35), (pairs, 0.30)],
        "1 to 9": [(korean, 0.65), (sides[0], 0.25), (english, 0.10)],
    }


def weighted(mix: list[tuple[dict, float]], count) -> tuple[list[dict], float]:
    """Blocks with the weights that give these shares of tokens, and the mean tokens of a sample. `count`: block -> (samples, tokens)."""
    sizes = [count(block) for block, _ in mix]
    scale = min(tokens / share for (_, tokens), (_, share) in zip(sizes, mix))
    weights = [scale * share / tokens for (_, tokens), (_, share) in zip(sizes, mix)]
    samples = sum(weight * number for weight, (number, _) in zip(weights, sizes))
    return [block | {"weight": weight} for (block, _), weight in zip(mix, weights)], scale / samples


def counter(tokenizer):
    """block -> samples and tokens it gives, as training counts them."""
    from boda.data.render import Renderer
    from boda.data.sources import read
    from boda.recipe import template_text

    renderer, known = Renderer(tokenizer, template_text("chatml"), 0, MAX_LENGTH), {}

    def count(block: dict) -> tuple[int, int]:
        if block["path"] not in known:
            lengths = [
                len(each.input_ids) for sample in read(block["path"], block["source"]) for each in renderer.render_all(sample)
            ]
            known[block["path"]] = (len(lengths), sum(lengths))
        return known[block["path"]]

    return count


def recipe(language, tokenizer, stages: list[dict], mix: tuple[list[dict], float], **rest) -> dict:
    data, mean = mix
    first = {
        "data": data,
        "batch_size": max(1, round(TOKENS_A_STEP / mean)),
        "learning_rate": 4e-3,
        "optimizer": "muon",
        "schedule": "cosine",
        "warmup_ratio": 0.05,
        "weight_decay": 0.01,
        "max_length": MAX_LENGTH,
        "row_length": TOKENS_A_STEP,
    }
    model = {"kind": "language", "language": language, "tokenizer": tokenizer, "chat_template": "chatml"}
    return {"seed": 0, "precision": "auto", "model": model, "stages": [first | stages[0], *stages[1:]], **rest}


class Keeper:
    """Copies what is trained at some steps, and adds up the time of steps."""

    def __init__(self, run: Path, steps: set[tuple[str, int]]):
        self.run, self.steps = run, steps

    def log(self, record: dict) -> None:
        if "loss" not in record:
            return
        before = (record["stage"], record["step"] - 1)  # its checkpoint is whole by now
        if before in self.steps:
            self.keep(*before)

    def keep(self, stage: str, step: int) -> None:
        source = self.run / f"stages/{stage}/checkpoints/step-{step}"
        if source.is_dir():
            target = self.run / "kept" / f"{stage}-{step}"
            shutil.copytree(source, target, dirs_exist_ok=True)


def train(run: Path, made: dict, points: int = POINTS) -> dict:
    """Trains a recipe and keeps its weights at some steps; {steps, tokens, seconds of each stage}."""
    import boda

    marks = set()
    for stage in made["stages"]:
        each = stage["max_steps"] // points or stage["max_steps"]
        stage["save_steps"] = each
        marks |= {(stage["name"], step) for step in range(each, stage["max_steps"] + 1, each)}
    keeper = Keeper(run, marks)
    boda.train(made, run, loggers=[keeper], quiet=True)
    for stage in made["stages"]:
        keeper.keep(stage["name"], stage["max_steps"])
    records = [json.loads(line) for line in (run / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    found = {}
    for stage in made["stages"]:
        own = [record for record in records if record["stage"] == stage["name"] and "loss" in record]
        seconds = [record["tokens"] / record["tokens_per_second"] for record in own]
        found[stage["name"]] = {"steps": len(own), "tokens": sum(record["tokens"] for record in own), "seconds": seconds}
    return found


# ---- measuring --------------------------------------------------------------------------------------------------------------


def bits_of(model, tokenizer, texts: list[str], before: list[str] | None = None) -> list[tuple[float, int]]:
    """(bits, characters) of each text by itself; `before`: what stands before each, in its document, and is not counted."""
    import torch

    found = []
    with torch.no_grad():
        for number, text in enumerate(texts):
            head = tokenizer(before[number] + "\n", add_special_tokens=False).input_ids if before else []
            ids = [tokenizer.eos_token_id, *head, *tokenizer(text, add_special_tokens=False).input_ids][:MAX_LENGTH]
            characters = len(tokenizer.decode(ids[1 + len(head) :]))
            logits = model(input_ids=torch.tensor([ids])).logits[0, :-1]
            loss = torch.nn.functional.cross_entropy(logits, torch.tensor(ids[1:]), reduction="none")
            found.append((float(loss[len(head) :].sum()) / math.log(2), characters))
    return found


def per_character(found: list[tuple[float, int]]) -> float:
    bits, characters = map(sum, zip(*found))
    return bits / characters


def gain(own: list[tuple[float, int]], other: list[tuple[float, int]]) -> tuple[float, float, float]:
    """What a text's own translation saves against another's, in bits per character: (value, low, high), 95 % over 2,000 bootstraps."""
    chance, values = random.Random(0), []
    for _ in range(2000):
        drawn = chance.choices(range(len(own)), k=len(own))
        values.append(per_character([other[n] for n in drawn]) - per_character([own[n] for n in drawn]))
    values.sort()
    return per_character(other) - per_character(own), values[50], values[1949]


def measure(base: Path, run: Path, held: dict[str, list]) -> list[dict]:
    """Bits per character at every kept point of a run that began at `base`; kept in a file."""
    from safetensors.torch import load_file

    import boda

    path = run / "measured.json"
    known = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []
    names = [(one["stage"], one["step"]) for one in known]
    stages: dict[str, list[int]] = {}
    for each in (run / "kept").iterdir():
        stage, _, step = each.name.rpartition("-")
        stages.setdefault(stage, []).append(int(step))
    model, tokenizer = boda.load(base, device="cpu", dtype=None)
    model = model.float().eval()
    parameters = dict(model.named_parameters())
    order = sorted(stages, key=lambda stage: (run / f"stages/{stage}/model/stage.json").stat().st_mtime)
    for stage in order:
        for step in sorted(stages[stage]):
            tensors = load_file(next((run / f"kept/{stage}-{step}").glob("*tensors")))
            for name, tensor in tensors.items():
                parameters[name].data = tensor.float()
            if (stage, step) not in names:
                is_last = stage == order[-1] and step == max(stages[stage])
                known.append({"stage": stage, "step": step, **measured(model, tokenizer, held, is_last)})
                path.write_text(json.dumps(known), encoding="utf-8")
    return known


def measured(model, tokenizer, held: dict[str, list], linked: bool) -> dict:
    """Bits per character of held-out text; `linked`: of Korean news, too, behind its own English and behind another's."""
    found: dict = {side: per_character(bits_of(model, tokenizer, held[f"held_{side}"])) for side in LANGUAGES}
    if linked:
        korean, english = ([pair[side] for pair in held["held_pairs"]] for side in (0, 1))
        own, other = (bits_of(model, tokenizer, korean, given) for given in (english, english[1:] + english[:1]))
        found |= {"own": per_character(own), "other": per_character(other), "gain": gain(own, other)}
    return found


# ---- everything -------------------------------------------------------------------------------------------------------------


def tokenizer_of(work: Path, held: dict[str, list]) -> Path:
    """One byte-level BPE for all runs, of both languages' training text."""
    from boda.models.vocabulary import train_tokenizer
    from boda.recipe import template_text

    folder = work / "tokenizer"
    if not (folder / "tokenizer.json").is_file():
        texts = [*held["korean"], *held["english"], *(side for pair in held["pairs"] for side in pair)]
        made = train_tokenizer(iter(texts), 6000)
        made.chat_template = template_text("chatml")
        made.save_pretrained(folder)
    return folder


def speed(work: Path, made) -> dict[str, list[float]]:
    """{stage: seconds a step}: median of ten steps of `ends` and of all layers, in turn, three times. Other work slows both alike."""
    path, parts = work / "speed.json", {"ends": "language.ends", "read": "language"}
    if not path.is_file():
        found: dict[str, list[float]] = {name: [] for name in parts}
        for turn in range(3):
            for name, part in parts.items():
                facts = train(work / f"speed-{name}-{turn}", made({"name": name, "train": [part], "max_steps": 10}), 1)
                found[name].append(median_step(facts[name]))
        path.write_text(json.dumps(found), encoding="utf-8")
    return json.loads(path.read_text(encoding="utf-8"))


def run_all(data: Path, work: Path, steps: int) -> tuple[dict, dict[str, list]]:
    """{way: {stages, points}} and the data: everything trained and measured, or read where it was."""
    from boda.models.assemble import load_tokenizer

    held = prepare(data, work / "data")
    folder = tokenizer_of(work, held)
    count, blocks = counter(load_tokenizer(str(folder))), mixes(work / "data")
    mix = {name: weighted(each, count) for name, each in blocks.items()}

    def way(name: str, mixed: str, stages: list[dict], language=None) -> dict:
        run = work / re.sub(r"\W+", "-", name.lower())
        made = recipe(language or str(base), str(folder), stages, mix[mixed])
        facts_path = run / "facts.json"
        if not facts_path.is_file():
            print(name, file=sys.stderr)
            began = time.monotonic()
            facts = train(run, made)
            facts_path.write_text(json.dumps({"stages": facts, "minutes": (time.monotonic() - began) / 60}), encoding="utf-8")
        return json.loads(facts_path.read_text(encoding="utf-8")) | {"points": measure(run / "model", run, held)}

    whole = [{"name": "read", "train": ["language"], "max_steps": steps}]
    found: dict = {"English, the start": way("English", "english", whole, SHAPE)}
    base = work / "english" / "model"
    whole = [whole[0] | {"learning_rate": 2e-3}]
    for name in MIXED:
        found[name] = way(name, name, whole)
    found["all layers"] = way("all layers", "1 to 9", whole)
    ends = {"name": "ends", "train": ["language.ends"], "max_steps": steps * 3 // 4, "learning_rate": 2e-3}
    found["ELO"] = way("ELO", "1 to 9", [ends, {"name": "align", "train": ["language"], "max_steps": steps // 4}])
    found["all layers, as long as ELO"] = way("all layers shorter", "1 to 9", [whole[0] | {"max_steps": steps // 2}])
    found["align alone"] = way("align alone", "1 to 9", [whole[0] | {"max_steps": steps // 4}])
    found["English, the start"]["folder"] = str(base)
    found["seconds"] = speed(work, lambda stage: recipe(str(base), str(folder), [whole[0] | stage], mix["1 to 9"]))
    return found, held


# ---- report -----------------------------------------------------------------------------------------------------------------


def seconds_of(way: dict, each: dict[str, list[float]]) -> float:
    """Time of a way's steps, at the speed measured side by side."""
    return sum(stage["steps"] * middle(each["ends" if name == "ends" else "read"]) for name, stage in way["stages"].items())


def middle(values: list[float]) -> float:
    return sorted(values)[len(values) // 2]


def median_step(stage: dict) -> float:
    return middle(stage["seconds"])


def curve(found: dict, out: Path) -> None:
    """Bits per character: of the three mixes by tokens, in both languages; of ELO and training all layers by time."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 4.2), dpi=110, layout="constrained")
    panels = figure.subplots(1, 3)
    start = found["English, the start"]["points"][-1]
    colours = ("#c92a2a", "#1f4e8c", "#2b8a3e", "#e67700")
    for axes, (side, language) in zip(panels, LANGUAGES.items()):
        for name, colour in zip(MIXED, colours):
            tokens = found[name]["stages"]["read"]["tokens"] / found[name]["stages"]["read"]["steps"] / 1000
            points = [(0, start[side]), *((point["step"] * tokens, point[side]) for point in found[name]["points"])]
            axes.plot(*zip(*points), marker="o", markersize=4, color=colour, label=name)
        axes.set(title=f"held-out {language}", xlabel="thousand tokens after the English start", ylabel="bits per character")
        axes.legend()
    axes = panels[2]
    for name, colour in zip(("all layers", "ELO", "all layers, as long as ELO", "align alone"), colours):
        points, passed = [(0.0, start["ko"])], 0.0
        for stage, facts in found[name]["stages"].items():
            each = middle(found["seconds"]["ends" if stage == "ends" else "read"])
            points += [
                (passed + point["step"] * each, point["ko"]) for point in found[name]["points"] if point["stage"] == stage
            ]
            passed += facts["steps"] * each
        axes.plot(*zip(*points), marker="o", markersize=4, color=colour, label=name)
    axes.set(title="held-out Korean, English to Korean 1 to 9", xlabel="seconds of steps", ylabel="bits per character")
    axes.legend()
    for axes in panels:
        axes.grid(alpha=0.25)
    figure.savefig(out)


def report(found: dict, held: dict[str, list], command: str, out: Path) -> Path:
    """`language_linking.md` and its curve in `out`."""
    curve(found, out / "language_linking.png")
    path = out / "language_linking.md"
    read = kept_reading(path, READ)
    sizes = {name: len(held[name]) for name in ("korean", "english", "pairs")}
    config = json.loads((Path(found["English, the start"]["folder"]) / "config.json").read_text(encoding="utf-8"))
    layer = 4 * config["hidden_size"] ** 2 + 3 * config["hidden_size"] * config["intermediate_size"]
    parameters = config["num_hidden_layers"] * layer + config["vocab_size"] * config["hidden_size"]
    characters = {side: sum(map(len, held[f"held_{side}"])) for side in LANGUAGES}
    lines = [
        "# Linking Korean to English, and ELO, at the smallest size",
        "",
        f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d}, commit `{commit()}`, `{command}`",
        "",
        about_machine() + " One thread, other work on the same cores.",
        "",
        f"A Llama of {config['num_hidden_layers']} layers and {parameters / 1e6:.1f} million parameters, one byte-level BPE of "
        f"{config['vocab_size']:,} pieces for both languages, rows of {TOKENS_A_STEP} tokens, samples of at most {MAX_LENGTH}. It "
        f"first learns English, then goes on in each of the ways below from the same weights, with the same number of steps and, to a "
        f"few per cent, of tokens. Trained on: {sizes['korean']:,} Korean texts (React documentation without its code, film "
        f"reviews), {sizes['english']:,} English ones (answers of an instruction set), and the two sides of {sizes['pairs']:,} pairs "
        f"(JHE, news). *Korean only* has the Korean sides; *mixed* has both sides, each a document of its own; *linked* has the "
        f"same texts, but a pair is one document, in either order. Held out, and seen by no run: 200 pairs of the news corpus's test "
        f"split, and pages of the documentation ({characters['ko']:,} Korean and {characters['en']:,} English characters).",
        "",
        "## Bits per character on held-out text",
        "",
        "| trained on | steps | tokens | Korean | English | Korean news behind its English | behind another's | what its English says |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name in ("English, the start", *MIXED):
        lines.append(_row(name, found[name], True, found["seconds"]))
    lines += [
        "",
        "Lower is better. The last three columns: bits of the Korean side of a held-out pair after the English side, after the "
        "English of another pair, and the difference (95 % bootstrap interval over pairs), which is what a model knows of the one "
        "language through the other.",
        "",
        "![bits per character by tokens, and by time](language_linking.png)",
        "",
        "## ELO",
        "",
        "| English to Korean 1 to 9 | steps | tokens | seconds of steps | Korean | English |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name in ("all layers", "ELO", "all layers, as long as ELO", "align alone"):
        lines.append(_row(name, found[name], False, found["seconds"]))
    ends, align = found["ELO"]["stages"]["ends"], found["ELO"]["stages"]["align"]
    between = next(point for point in reversed(found["ELO"]["points"]) if point["stage"] == "ends")
    seconds = found["seconds"]
    ratios = [whole / short for whole, short in zip(seconds["read"], seconds["ends"])]
    lines += [
        "",
        f"Side by side, a step of `ends` takes {middle(seconds['ends']):.2f} s and one of all layers {middle(seconds['read']):.2f} s: "
        f"**{middle(ratios):.1f} times as many steps a second** ({min(ratios):.1f} to {max(ratios):.1f} in three turns), with 2 of "
        f"{config['num_hidden_layers']} layers computed and trained. ELO is {ends['steps']} steps of `ends` and {align['steps']} of "
        f"`align`; between the two the whole model has {between['ko']:.2f} bits per Korean character.",
        "",
        read or f"{READ}\n\n(not written yet)",
        "",
    ]
    path.write_text(relative("\n".join(lines)), encoding="utf-8")
    return path


def _row(name: str, way: dict, linked: bool, each: dict[str, list[float]]) -> str:
    point = way["points"][-1]
    steps, tokens = (sum(stage[key] for stage in way["stages"].values()) for key in ("steps", "tokens"))
    cells = [name, f"{steps:,}", f"{tokens:,}"]
    if linked:
        value, low, high = point["gain"]
        numbers = [f"{point[name]:.3f}" for name in ("ko", "en", "own", "other")]
        return f"| {' | '.join([*cells, *numbers, f'{value:.3f} ({low:.3f} to {high:.3f})'])} |"
    return f"| {' | '.join([*cells, f'{seconds_of(way, each):.0f}', *(f'{point[side]:.3f}' for side in LANGUAGES)])} |"


def main() -> int:
    parser = argparse.ArgumentParser(description="Korean-only, mixed and linked continued pretraining, and ELO")
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared/data", help="folder of the real data")
    parser.add_argument("--work", type=Path, default=ROOT / "runs/language-linking")
    parser.add_argument("--steps", type=int, default=360, help="steps of each way")
    chosen = parser.parse_args()
    found, held = run_all(chosen.data, chosen.work, chosen.steps)
    print(report(found, held, f"python benchmarks/language_linking.py --steps {chosen.steps}", ROOT / "benchmarks"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
