"""Caption scores at COCO's size: 5,000 pictures with five references each, from text to scores, and each score against the package
it equals, on the same tokens.

Texts are Korean captions that people wrote (XTD10), each told in six ways by putting other captions' words in place of two of its own.
"""

from __future__ import annotations

import json
import os
import random
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SHARED = Path(os.environ.get("BODA_DATA") or ROOT.parent / "shared" / "data")
DATA = SHARED / "xtd10" / "XTD10" / "test_1kcaptions_ko.txt"
NAMES = {
    "bleu": "BLEU-1 to BLEU-4 (pycocoevalcap)",
    "rouge_l": "ROUGE-L (pycocoevalcap)",
    "cider": "CIDEr-D (pycocoevalcap)",
    "meteor": "METEOR (NLTK)",
}


def captions(count: int) -> tuple[dict[str, str], dict[str, list[str]]]:
    """{picture: caption} and {picture: five references}."""
    written = [line.split() for line in DATA.read_text(encoding="utf-8").splitlines() if line.strip()]
    chosen = random.Random(0)

    def told(words: list[str]) -> str:
        words = list(words)
        for _ in range(2):
            words[chosen.randrange(len(words))] = chosen.choice(chosen.choice(written))
        return " ".join(words)

    scenes = [written[number % len(written)] for number in range(count)]
    return (
        {str(number): told(scene) for number, scene in enumerate(scenes)},
        {str(number): [told(scene) for _ in range(5)] for number, scene in enumerate(scenes)},
    )


def timed(work) -> tuple[float, object]:
    before = time.perf_counter()
    found = work()
    return time.perf_counter() - before, found


def side_whole(count: int, tokenizer: str) -> dict:
    """Everything that a first call does in a fresh process, the tokenizer's model included."""
    from boda.evaluate.metrics import caption_scores

    said, known = captions(count)
    seconds, scores = timed(lambda: caption_scores(said, known, tokenizer))
    return {"seconds": seconds, "scores": scores}


def side_prepare(count: int, tokenizer: str, place: Path) -> dict:
    """Tokens of all texts, for both sides."""
    from boda.evaluate.metrics.tokens import tokenize

    said, known = captions(count)
    texts = [text for name in said for text in (said[name], *known[name])]
    loading, _ = timed(lambda: tokenize(["별"], tokenizer))
    seconds, tokens = timed(lambda: tokenize(texts, tokenizer))
    place.write_text(json.dumps(tokens, ensure_ascii=False), encoding="utf-8")
    return {
        "load_seconds": loading,
        "seconds": seconds,
        "texts": len(texts),
        "different": len(set(texts)),
        "tokens": sum(map(len, tokens)),
        "letters": sum(map(len, texts)),
    }


def read(place: Path) -> list[tuple[list[str], list[list[str]]]]:
    tokens = json.loads(place.read_text(encoding="utf-8"))
    return [(tokens[start], tokens[start + 1 : start + 6]) for start in range(0, len(tokens), 6)]


def side_ours(place: Path) -> dict:
    from boda.evaluate.metrics.captions import bleu, cider, count, meteor, rouge_l

    pairs = read(place)
    scores = {
        "bleu": lambda: bleu(count(pairs)),
        "rouge_l": lambda: [rouge_l(*pair) for pair in pairs],
        "cider": lambda: cider(count(pairs)),
        "meteor": lambda: [meteor(*pair) for pair in pairs],
    }
    return {name: timed(work) for name, work in scores.items()}


def side_theirs(place: Path) -> dict:
    from nltk.translate.meteor_score import meteor_score
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.rouge.rouge import Rouge

    class NoWordNet:  # its data is a download, and English
        def synsets(self, word):
            return []

    pairs = read(place)
    known = {number: [" ".join(each) for each in references] for number, (_, references) in enumerate(pairs)}
    said = {number: [" ".join(tokens)] for number, (tokens, _) in enumerate(pairs)}
    scores = {
        "bleu": lambda: Bleu(4).compute_score(known, said, verbose=0)[0],
        "rouge_l": lambda: Rouge().compute_score(known, said)[1].tolist(),
        "cider": lambda: Cider().compute_score(known, said)[1].tolist(),
        "meteor": lambda: [meteor_score(references, tokens, wordnet=NoWordNet()) for tokens, references in pairs],
    }
    return {name: timed(work) for name, work in scores.items()}


def main(run) -> None:
    from common import BenchmarkError, alternate, ratio, run_side, spread

    if not DATA.is_file():
        raise BenchmarkError(f"no xtd10 in {SHARED}; BODA_DATA names the folder that holds it")
    count, tokenizer = run.option("pictures", 5000), run.option("tokenizer", "kiwi")
    with tempfile.TemporaryDirectory() as folder:
        place = str(Path(folder) / "tokens.json")
        side = lambda name, *rest: run_side([__file__, name, *rest])  # noqa: E731
        whole = {"whole": lambda: side("whole", count, tokenizer), "tokens": lambda: side("prepare", count, tokenizer, place)}
        found = alternate(whole, run.repetitions, run.say)
        each = {"ours": lambda: side("ours", place), "theirs": lambda: side("theirs", place)}
        found |= alternate(each, run.repetitions, run.say)
    whole, tokens = found["whole"], found["tokens"]
    size = tokens[0]
    run.table(
        f"{count:,} pictures, 5 references each, tokens by {tokenizer}",
        [
            {"": "from text to all scores, a first call, s", "value": spread([each["seconds"] for each in whole])},
            {"": "of which the tokenizer's model is loaded in, s", "value": spread([each["load_seconds"] for each in tokens])},
            {"": "and texts become tokens in, s", "value": spread([each["seconds"] for each in tokens])},
            {"": "peak memory, MB", "value": spread([each["peak_rss_mb"] for each in whole])},
        ],
        f"{size['texts']:,} texts, {size['different']:,} different, {size['letters'] / size['texts']:.1f} letters and "
        f"{size['tokens'] / size['texts']:.1f} tokens each. Parts were timed in processes of their own.",
    )
    rows = []
    for name, title in NAMES.items():
        ours, theirs = ([each[name][0] for each in found[who]] for who in ("ours", "theirs"))
        apart = max(abs(one - other) for one, other in zip(found["ours"][0][name][1], found["theirs"][0][name][1]))
        rows.append(
            {"score": title, "Boda, s": spread(ours), "theirs, s": spread(theirs), "times as fast": ratio(theirs, ours)}
        )
        rows[-1]["largest difference"] = f"{apart:.0e}"
    run.table("Each score by itself, on the same tokens, sides in turn", rows, "Pure Python on their side, one core on either.")
    run.raw("scores", whole[0]["scores"])


if __name__ == "__main__":
    what, *rest = sys.argv[1:]
    if what in ("whole", "prepare"):
        told = {"whole": side_whole, "prepare": side_prepare}[what](int(rest[0]), rest[1], *map(Path, rest[2:]))
    else:
        told = {"ours": side_ours, "theirs": side_theirs}[what](Path(rest[0]))
    print(json.dumps(told))
