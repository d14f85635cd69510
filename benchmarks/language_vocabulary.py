"""What more pieces for Korean are worth: tokens saved on other text, the time to learn them, and how a model begins with them.

    python benchmarks/language_vocabulary.py --data ../shared/data --work WORK

A byte-level tokenizer of English gets pieces learnt from film reviews. A small model that knows the old ones is then trained on
reviews with the new ones, begun at random, as the mean of what they were written with, or as EEVE does. Losses are in bits per
character, so that tokenizers compare. Writes `figures.json` into the work folder and `language-vocabulary.png` beside this file.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import resource
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from functools import partial
from itertools import islice
from pathlib import Path

STARTS = ("random", "mean", "eeve")
HELD = 400  # reviews that the loss is taken on
SHAPE = {
    "hidden_size": 128,
    "intermediate_size": 384,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}


def english(data: Path) -> Iterator[str]:
    """English sentences of the parallel corpora, those packed away too."""
    folder = data / "korean_parallel_corpora"
    for path in sorted(folder.glob("*/*.en")):
        yield from path.read_text(encoding="utf-8").splitlines()
    for path in sorted(folder.glob("*english*/*.tar.gz")):
        with tarfile.open(path) as archive:
            for member in archive:
                if member.name.endswith(".en"):
                    yield from archive.extractfile(member).read().decode("utf-8").splitlines()  # type: ignore[union-attr]


def reviews(data: Path) -> Iterator[str]:
    from boda.data.texts import read_ahead, texts_in

    path = data / "nsmc_raw" / "reviews_all_dedup.tsv.gz"
    return read_ahead(partial(texts_in, [str(path)], format="text", columns={"text": "review"}))


def learn(data: Path, work: Path, number: int) -> dict:
    """Learns and writes the tokenizer in a process of its own, so that time and memory are the learning's."""
    command = [sys.executable, __file__, "--data", str(data), "--work", str(work), "--pieces", str(number), "--learn"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def learning(data: Path, work: Path, number: int) -> dict:
    """What the process of `learn` does."""
    from transformers import AutoTokenizer

    from boda.models.pieces import extended
    from boda.models.pieces_learnt import count_words, learn_pieces

    base = AutoTokenizer.from_pretrained(work / "base-tokenizer")
    size = 0

    def counted() -> Iterator[str]:
        nonlocal size
        for text in reviews(data):
            size += len(text.encode())
            yield text

    began, cpu = time.perf_counter(), time.process_time()
    words = count_words(counted())
    read = time.perf_counter() - began
    growth = learn_pieces(base, words, number)
    seconds = time.perf_counter() - began
    extended(base, growth).save_pretrained(work / "tokenizer")
    peak = sum(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)) / 1024
    return {
        "pieces": len(growth.pieces), "helpers": growth.helpers, "megabytes": size / 1e6, "seconds": seconds, "reading": read,
        "cpu_seconds": time.process_time() - cpu, "mb_per_second": size / 1e6 / seconds, "peak_mib": peak,
    }  # fmt: skip


def fertility(data: Path, work: Path) -> dict:
    """Tokens of text that nothing was learnt from: whole documents, and their Hangul alone."""
    from transformers import AutoTokenizer

    from boda.data.texts import texts_in
    from boda.train.expansion import compare

    base, new = (AutoTokenizer.from_pretrained(work / name) for name in ("base-tokenizer", "tokenizer"))
    documents = list(texts_in([str(data / "ko_react_docs" / "docs.txt")]))
    korean = [" ".join(re.findall("[가-힣]+", text)) for text in documents]
    found = {"documents": compare(base, new, documents), "hangul": compare(base, new, [text for text in korean if text])}
    for each in found.values():
        del each["examples"]
    return found


def write_texts(path: Path, texts: list[str]) -> str:
    path.write_text("".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts), encoding="utf-8")
    return str(path)


def recipe_of(language, tokenizer, train: str, held: str, steps: int, rate: float, every: int, seed: int = 0) -> dict:
    stage = {"name": "read", "train": ["language"], "data": [{"source": "text", "path": train}], "batch_size": 32}
    stage |= {"max_steps": steps, "learning_rate": rate, "schedule": "constant", "warmup_ratio": 0.03, "max_length": 192}
    stage |= {"row_length": 2048, "eval_steps": every, "save_steps": 10**6, "validation": [{"source": "text", "path": held}]}
    model = {"kind": "language", "language": language, "tokenizer": tokenizer, "chat_template": "chatml"}
    return {"precision": "fp32", "seed": seed, "model": model, "stages": [stage], "generation": {"max_new_tokens": 1}}


def curve(run: Path, held: list[str]) -> list[tuple[int, float]]:
    """(step, bits per character) of a run's validations. What the first token of a text stands for is predicted by nothing, and is
    left out of the characters, too."""
    from transformers import AutoTokenizer

    from boda.data.prepared import PreparedData
    from boda.models.pieces import Known

    data = PreparedData.open(run / "stages" / "read" / "validation" / "data")
    tokenizer = AutoTokenizer.from_pretrained(run / "model")
    known = Known(tokenizer)
    predicted = unread = 0
    for index in range(len(data)):
        row = data.row(index)
        predicted += int(row.trained[1:].sum())
        unread += known.size(tokenizer.convert_ids_to_tokens(int(row.input_ids[0]))) if row.trained[0] else 0
    bytes_ = sum(len(text.encode()) for text in held)
    characters = sum(map(len, held)) * (1 - unread / bytes_)
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    bits = predicted / characters / math.log(2)
    return [(line["step"], line["validation_loss"] * bits) for line in lines if "validation_loss" in line]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--work", type=Path, required=True, help="folder for what is made; finished runs in it are kept")
    parser.add_argument("--pieces", type=int, default=8000)
    parser.add_argument("--base-steps", type=int, default=300, help="of the model before it gets pieces")
    parser.add_argument("--steps", type=int, default=200, help="of each model after that")
    parser.add_argument("--seeds", type=int, default=1, help="runs of each beginning, with another order of the reviews")
    parser.add_argument("--learn", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    data, work = given.data, given.work
    if given.learn:
        print(json.dumps(learning(data, work, given.pieces)))
        return
    import torch
    from transformers import AutoTokenizer

    import boda
    from boda.models.pieces import Known
    from boda.models.vocabulary import give_rows, share_of_new, train_tokenizer

    work.mkdir(parents=True, exist_ok=True)
    sentences = list(dict.fromkeys(english(data)))
    train_tokenizer(sentences, 4000).save_pretrained(work / "base-tokenizer")
    figures = {
        "english_sentences": len(sentences),
        "learning": learn(data, work, given.pieces),
        "held_out": fertility(data, work),
    }
    print(json.dumps(figures, indent=1), flush=True)

    texts = [text for text in islice(reviews(data), 60000) if len(text) > 10]
    held, korean, rest = texts[:HELD], texts[HELD : HELD + 4000], texts[HELD + 4000 :]
    held_path = write_texts(work / "held.jsonl", held)
    base = recipe_of(
        {"model_type": "llama", **SHAPE, "tie_word_embeddings": False}, str(work / "base-tokenizer"),
        write_texts(work / "base.jsonl", [*sentences, *korean]), held_path, given.base_steps, 3e-3, given.base_steps,
    )  # fmt: skip
    boda.train(base, work / "base", quiet=True)
    figures["base"] = curve(work / "base", held)[-1][1]
    train = write_texts(work / "train.jsonl", rest)
    figures["curves"], figures["begun"] = {}, {}
    known = Known(AutoTokenizer.from_pretrained(work / "base" / "model"))
    reviews_path = (data / "nsmc_raw" / "reviews_all_dedup.tsv.gz").resolve()
    for start in STARTS:
        tokenizer = {"base": "language", "vocab_size": known.first + given.pieces, "initialise": start}
        tokenizer["data"] = [{"source": "text", "path": str(reviews_path), "columns": {"text": "review"}}]
        model, old = boda.load(work / "base" / "model", dtype=torch.float32)
        new = AutoTokenizer.from_pretrained(work / "tokenizer")
        figures["begun"][start] = give_rows(model, old, new, start) | {"share_of_new": share_of_new(model, old, new, held[:50])}
        for seed in range(given.seeds):
            run = work / f"{start}-{seed}"
            boda.train(
                recipe_of(str(work / "base" / "model"), tokenizer, train, held_path, given.steps, 1e-3, 20, seed),
                run,
                quiet=True,
            )
            figures["curves"][f"{start}-{seed}"] = curve(run, held)
            print(start, seed, *(f"{step}: {bits:.3f}" for step, bits in figures["curves"][f"{start}-{seed}"]), flush=True)
    (work / "figures.json").write_text(json.dumps(figures, indent=1), encoding="utf-8")
    draw(figures, Path(__file__).parent / "language-vocabulary.png")


def draw(figures: dict, path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4.2))
    for start, colour in zip(STARTS, ("tab:red", "tab:blue", "tab:green")):
        curves = [curve for name, curve in figures["curves"].items() if name.startswith(start)]
        for number, points in enumerate(curves):
            axes.plot(*zip(*points), color=colour, marker=".", label=None if number else start)
    axes.axhline(figures["base"], color="black", linestyle=":", label="before, with the old pieces")
    axes.set(
        xlabel="step of 32 reviews",
        ylabel="bits per character, held-out reviews",
        title="8,000 Korean pieces more: how they begin",
    )
    axes.grid(alpha=0.3)
    axes.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=130)


if __name__ == "__main__":
    main()
