"""Folders as runs leave them, for tests of the report: two models and a blind one, judged and captioned tasks, a bench, a board."""

from __future__ import annotations

import io
import json
import math
import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, ImageDraw

from boda.evaluate.task import summary

COLOURS = {"빨간색": (205, 60, 50), "파란색": (60, 95, 190), "초록색": (60, 140, 80), "노란색": (225, 185, 60)}
ATTACK = '<script>document.title = "owned"</script><img src=x onerror=alert(1)>&amp; "B" \u202e\x07'
OPTIONS = list(COLOURS)
CHOICE, CAPTION = "k-colours", "caption-ko"
NOTE = "multiple choice; the answer is read as a person would"


def picture(colour: tuple[int, int, int], number: int) -> bytes:
    image = Image.new("RGB", (400, 300), (243, 240, 233))
    pen, rng = ImageDraw.Draw(image), random.Random(number)
    left, top, size = rng.randrange(40, 220), rng.randrange(30, 130), rng.randrange(80, 140)
    (pen.ellipse if number % 2 else pen.rectangle)((left, top, left + size, top + size), fill=colour)
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()


def pictures(folder: Path, n: int = 24) -> Path:
    """A Parquet file of pictures in its `image` column."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "pictures.parquet"
    colours = list(COLOURS.values())
    cells = [{"bytes": picture(colours[number % 4], number), "path": f"{number}.png"} for number in range(n)]
    pq.write_table(pa.table({"image": cells}), path)
    return path


def choice_records(place: Path, rate: float, seed: int, n: int = 48) -> list[dict]:
    """Answers to questions on the colours of pictures, so many right; the last two fail, one answer holds markup."""
    rng, records = random.Random(seed), []
    for number in range(n):
        right = number % 4
        said = right if rng.random() < rate else (right + rng.randrange(1, 4)) % 4
        raw = rng.choice([f"정답은 {'ABCD'[said]}입니다.", "ABCD"[said], f"({'ABCD'[said]}) {OPTIONS[said]}"])
        raw = ATTACK if number == 5 else raw
        asked = "도형은 무슨 색인가요?\n" + "\n".join(f"{letter}. {option}" for letter, option in zip("ABCD", OPTIONS))
        failed = number >= n - 2
        score = float(said == right and number != 5)
        record = {"task": CHOICE, "row": str(number), "prompt": [{"role": "user", "content": f"<image>{asked}"}]}
        record |= {"images": [{"path": str(place), "row": number % 24, "column": "image"}], "raw": None if failed else raw}
        record |= {"score": None if failed else score, "extracted": None if failed else "ABCD"[said], "gold": "ABCD"[right]}
        record |= {"upstream": None if failed else float(raw[:1] == "ABCD"[right])}
        record |= {"tags": {"shape": "circle" if number % 2 else "square"}, "failed": failed}
        records.append(record | ({"error": "the picture does not decode: <b>torn</b>"} if failed else {}))
    return records


def caption_records(seed: int, n: int = 12) -> list[dict]:
    """Captions of drawn pictures, scored 0 to 10."""
    rng = random.Random(seed)
    return [
        {
            "task": CAPTION,
            "row": f"c{number}",
            "prompt": [{"role": "user", "content": "<image>그림을 한 문장으로 설명해 주세요."}],
            "images": [{"drawn": f"scene/few/seen/2026000000/{number}"}],
            "raw": f"도형이 {number + 1}개 있는 그림입니다.",
            "score": round(rng.random() * 3, 3),
            "extracted": None,
            "gold": ["여러 도형이 있는 그림", "색색의 도형"],
            "tags": {},
            "failed": False,
        }
        for number in range(n)
    ]


def run_folder(
    folder: Path,
    place: Path,
    model: str = "mini",
    rate: float = 0.8,
    seed: int = 0,
    blind: bool = False,
    seconds: float = 12.5,
    **rest,
) -> Path:
    """A folder as `boda eval` leaves it."""
    choice, caption = choice_records(place, rate, seed), caption_records(seed)
    upstream = [record["upstream"] for record in choice if record["upstream"] is not None]
    shapes = {shape: [record for record in choice if record["tags"]["shape"] == shape] for shape in ("circle", "square")}
    result = summary(choice) | {"chance": 0.25, "majority": 0.27, "unread": 1, "version": "1-abc", "note": NOTE}
    rule = "first character of the answer, compared without case"
    result |= {"upstream": {"score": sum(upstream) / len(upstream), "n": len(upstream), "rule": rule}}
    result |= {"groups": {"shape": {shape: summary(some) for shape, some in shapes.items()}}}
    described = summary(caption) | {"scale": [0, 10], "metrics": {"bleu_4": 0.213, "cider": 1.402}, "tokenizer": "kiwi"}
    described |= {"version": "2-def", "note": "CIDEr-D", "remarks": ["CIDEr-D, words by kiwi"]}
    described |= {"upstream": {"score": 0.3141, "n": 12, "measure": "BLEU-4", "rule": "mean sentence BLEU <of morphemes>"}}
    tasks = {CHOICE: result, CAPTION: described}
    conditions = {
        "version": "1-abc",
        "decoding": {"temperature": 0.0},
        "system": "",
        "image_limit": None,
        "limit": None,
        "judge": None,
    }
    speed = {
        "seconds": seconds,
        "answers_per_second": 48 / seconds,
        "tokens_per_second": 500 / seconds,
        "peak_bytes": int(seconds * 1e8),
    }
    results = {"model": model, "fingerprint": "f00d", "blind": blind, "settings": {"system": None, "max_new_tokens": 64}}
    results |= {
        "decoding": {task: {"temperature": 0.0} for task in tasks},
        "started": f"2026-03-0{1 + seed % 9}T09:00:00+00:00",
        "limit": None,
    }
    results |= {"tasks": tasks, "conditions": dict.fromkeys(tasks, conditions), "speed": dict.fromkeys(tasks, speed)} | rest
    write(folder / "results.json", results)
    (folder / "answers.jsonl").write_text(
        "".join(json.dumps(each, ensure_ascii=False) + "\n" for each in choice + caption), encoding="utf-8"
    )
    return folder


def bench_folder(folder: Path) -> Path:
    rows = [
        {"batch": batch, "prompt_tokens": 128, "new_tokens": 64, "images": batch, "first_token_seconds": 0.04 * batch,
         "decode_tokens_per_second": 180.0 * math.sqrt(batch), "seed_tokens_per_second": 160.0, "images_per_second": None,
         "peak_bytes": 600_000_000 + batch * 10_000_000, "bandwidth_share": 0.52 - batch / 64}
        for batch in (1, 4, 16)
    ]  # fmt: skip
    bench = {
        "model": "mini",
        "device": "two cores",
        "dtype": "bfloat16",
        "threads": 2,
        "date": "2026-03-01",
        "bandwidth": 21.3e9,
    }
    write(
        folder / "bench.json",
        bench | {"rows": rows, "definitions": {"bandwidth_share": "bytes read a second over the bandwidth"}},
    )
    return folder


def board_folder(folder: Path, place: Path) -> Path:
    """A board of two models, one with a blind twin, with its runs."""
    for name, rate, seed, blind in (("mini", 0.85, 1, False), ("mini-blind", 0.3, 1, True), ("other", 0.8, 2, False)):
        run_folder(folder / "runs" / name, place, name.removesuffix("-blind"), rate, seed, blind)
    row = {
        "rank": None,
        "overlap": None,
        "flag": "",
        "run": None,
        "low": None,
        "high": None,
        "n": None,
        "failed": None,
        "upstream": None,
    }
    seeing = {
        "kind": "model",
        "score": 0.85,
        "low": 0.74,
        "high": 0.93,
        "n": 46,
        "failed": 2,
        "upstream": {"score": 0.4, "n": 46},
    }
    overlap = {"images": 0.02, "questions": 0.0, "n": 48, "checked": 5000}
    second = {
        "score": 0.8,
        "run": "runs/other",
        "overlap": {"unknown": "no manifest"},
        "flag": "이미지 없이 낸 점수와 구별되지 않음",
    }
    rows = [
        row | seeing | {"name": "mini", "rank": [1, 2], "run": "runs/mini", "overlap": overlap},
        row | seeing | {"name": "other", "rank": [1, 2]} | second,
        row | seeing | {"name": "mini", "kind": "blind", "score": 0.3, "low": 0.2, "high": 0.42, "run": "runs/mini-blind"},
        row | {"name": "majority", "kind": "majority", "score": 0.27},
        row | {"name": "chance", "kind": "chance", "score": 0.25},
    ]
    conditions = {"version": "1-abc", "decoding": {"temperature": 0.0}, "system": "", "judge": None}
    table = {
        "task": CHOICE,
        "conditions": conditions,
        "note": NOTE,
        "rows": rows,
        "differences": ["third: image limit is 336, here none"],
    }
    apart = {
        "task": CHOICE,
        "title": "색깔 문제, 모델 카드",
        "source": "a model card, 2026-01",
        "judge": "gpt-4",
        "note": "self-reported",
        "scale": [0, 100],
    }
    apart |= {"rows": [{"name": "Elsewhere-7B", "score": 71.2}, {"name": "Elsewhere-1B", "score": 48.0}]}
    write(folder / "board.json", {"title": "색깔 순위표", "tables": [table], "published": [apart]})
    return folder


def write(path: Path, values: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values, ensure_ascii=False), encoding="utf-8")
