"""A few questions of KoBEST, CLIcK, KMMLU and HAE-RAE: as their publishers' files hold them, and as the hub's data sets do."""

from __future__ import annotations

import csv
import json
from pathlib import Path

WORDS = "사과 나무 바다 하늘 구름 강물 산길 들판 마을 학교 도서관 시장".split()


def kobest_rows(split: str, number: int) -> dict[str, list[tuple[dict, dict]]]:
    """subset -> (row of KoBEST's own table, row of the hub) pairs."""
    found: dict[str, list[tuple[dict, dict]]] = {name: [] for name in ("boolq", "copa", "hellaswag", "sentineg", "wic")}
    for n in range(number):
        word, other = WORDS[n % len(WORDS)], WORDS[(n * 5 + 3) % len(WORDS)]
        says = f"{split} {n}번 글이다. {word} 옆에 {other}이 있다."
        label = n * 7 % 3 % 2
        found["boolq"].append(
            (
                {"ID": n, "Text": says, "Question": f'"{word}"이 있는가?', "Answer": ["FALSE", "True"][label]},
                {"paragraph": says, "question": f'"{word}"이 있는가?', "label": label},
            )
        )
        kind, choices = ("원인 ", "결과")[n % 2], (f"{word}을 보았다.", f"{other}에 갔다, 그리고 쉬었다.")
        found["copa"].append(
            (
                {"ID": n, "sentence": says, "question": kind, "1": choices[0], "2": choices[1], "Answer": label + 1},
                {"premise": says, "question": kind, "alternative_1": choices[0], "alternative_2": choices[1], "label": label},
            )
        )
        endings = [f"{word}을 본다.", f"{other}에 간다.", "집에 돌아와서 오래 쉰다.", f"{word}과 {other}을 그린다."]
        found["hellaswag"].append(
            (
                {"context": says, **{f"choice{k}": end for k, end in enumerate(endings, 1)}, "label": n % 4},
                {"context": says, **{f"ending_{k}": end for k, end in enumerate(endings, 1)}, "label": n % 4},
            )
        )
        found["sentineg"].append(({"ID": n, "Text": says, "Label": label}, {"sentence": says, "label": label}))
        wic = {"Target": word, "SENTENCE1": f"[{word}]이 있다.", "Link 1": "", "SENTENCE2": f"{n}번째 [{word}]이다."}
        hub = {"word": word, "context_1": wic["SENTENCE1"], "context_2": wic["SENTENCE2"], "label": label}
        found["wic"].append((wic | {"ANSWER": ["False", "TRUE"][label]}, hub))
    return found


def write_kobest(folder: Path, tests: int = 12, train: int = 8) -> Path:
    """KoBEST's own layout, v1.0/BoolQ/test.tsv and so on, and hub/boolq/test.jsonl beside it; without dev files."""
    names = {"boolq": "BoolQ", "copa": "COPA", "hellaswag": "HellaSwag", "sentineg": "SentiNeg", "wic": "WiC"}
    for split, number in (("train", train), ("test", tests)):
        for subset, pairs in kobest_rows(split, number).items():
            write_table(folder / "kobest" / "v1.0" / names[subset] / f"{split}.tsv", [own for own, _ in pairs], "\t")
            write_lines(folder / "hub" / "kobest" / subset / f"{split}.jsonl", [hub for _, hub in pairs])
    return folder / "kobest"


CLICK = {
    "Culture/Korean Law/Law_KIIP": [
        {"id": "KIIP_law_1", "paragraph": "", "question": "맞는 것은?", "choices": ["가", "나", "다", "라"], "answer": "다"},
        {"id": "PSAT_17_1", "paragraph": "법이다.", "question": "내용은?", "choices": ["하나", "둘", "셋", "넷"], "answer": "하나"},
    ],
    "Culture/Korean Geography/Geography_CSAT": [
        {
            "id": "CSAT_geography_06_2", "paragraph": "지도이다.", "question": "어디인가?",
            "choices": ["산", "강", "들", "섬", "곶"], "answer": "곶",
        }
    ],
}  # fmt: skip
# One question of each of lm-eval's other parts, which it tells by the ids.
OTHERS = (
    "KIIP_economy_1 KHB_66_1 KIIP_popular_1 Kedu_politics_1 Kedu_Society_1 KIIP_tradition_1 TK_2016_1 TK_2016_6 PSE_korean_1"
)


def write_click(folder: Path, whole: bool = False) -> Path:
    """CLIcK's own layout; `whole`: with a question of each part."""
    files = dict(CLICK)
    if whole:
        asked = {"paragraph": "", "question": "무엇인가?", "choices": ["가", "나", "다", "라"], "answer": "나"}
        files["Others"] = [{"id": name, **asked} for name in OTHERS.split()]
    for name, rows in files.items():
        path = folder / "click" / "Dataset" / f"{name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(rows, ensure_ascii=False, indent=1), encoding="utf-8")
    return folder / "click"


def kmmlu_rows(split: str, number: int) -> list[dict]:
    return [
        {"question": f" {split}의 {n}번 문제이다. ", **{letter: WORDS[(n + k) % 12] for k, letter in enumerate("ABCD")}}
        | {"answer": n % 4 + 1, "Category": "Law", "Human Accuracy": 0.5}
        for n in range(number)
    ]


def write_kmmlu(folder: Path, dev: int = 5) -> Path:
    """The hub's own files, data/Law-test.csv, and the same in hub/kmmlu."""
    for split, number in (("test", 10), ("dev", dev)):
        if number:
            write_table(folder / "kmmlu" / "data" / f"Law-{split}.csv", kmmlu_rows(split, number), ",")
            write_lines(folder / "hub" / "kmmlu" / f"{split}.jsonl", kmmlu_rows(split, number))
    return folder / "kmmlu"


def write_haerae(folder: Path) -> Path:
    rows = [
        {
            "query": f"{word}의 뜻은?\n(A) 가 (B) 나 (C) 다 (D) 라 (E) 마\n정답: ",
            "answer": f"({'ABCDE'[n % 5]})",
            "options": "[]",
        }
        for n, word in enumerate(WORDS)
    ]
    write_lines(folder / "haerae" / "history" / "test.jsonl", rows)
    return folder / "haerae"


def write_table(path: Path, rows: list[dict], separator: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]), delimiter=separator)
        writer.writeheader()
        writer.writerows(rows)


def write_lines(path: Path, rows: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
