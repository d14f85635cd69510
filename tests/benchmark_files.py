"""Tiny benchmark files in the forms that benchmarks are published in, with pictures drawn here.

In rows, `bytes` are pictures. Writers: `write_parquet` as `datasets` writes it, `write_tsv` with base64, `write_json`. A benchmark's
rows are made by a function of its name, with its published columns.
"""

from __future__ import annotations

import base64
import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path

from PIL import Image


def picture(number: int = 0) -> bytes:
    """A PNG of one colour, another one for each number."""
    stream = io.BytesIO()
    Image.new("RGB", (24, 18), (40 * number % 256, 255 - 30 * number % 256, 90)).save(stream, "PNG")
    return stream.getvalue()


def write_parquet(path: Path, rows: Sequence[dict]) -> Path:
    """Pictures as structs of bytes and path, and the features in the metadata."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    names = {name for row in rows for name, value in row.items() if isinstance(value, bytes)}

    def cell(row: dict, name: str):
        value = row.get(name)
        return {"bytes": value, "path": f"{name}.png"} if name in names and value is not None else value

    columns = list(dict.fromkeys(name for row in rows for name in row))
    table = pa.Table.from_pylist([{name: cell(row, name) for name in columns} for row in rows])
    features = {name: {"_type": "Image"} if name in names else {"dtype": "string", "_type": "Value"} for name in columns}
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})}), path)
    return path


def write_tsv(path: Path, rows: Sequence[dict]) -> Path:
    """As VLMEvalKit's files: base64 pictures, empty cells where there is nothing."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, columns, delimiter="\t")
        writer.writeheader()
        for row in rows:
            writer.writerow({name: base64.b64encode(v).decode() if isinstance(v, bytes) else v for name, v in row.items()})
    return path


def write_json(path: Path, rows: Sequence[dict], lines: bool = False) -> Path:
    """A list, or a line a row; pictures as base64."""

    def plain(value):
        return base64.b64encode(value).decode() if isinstance(value, bytes) else value

    told = [json.dumps({name: plain(value) for name, value in row.items()}, ensure_ascii=False) for row in rows]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(told) + "\n" if lines else "[\n" + ",\n".join(told) + "\n]", encoding="utf-8")
    return path


def k_mmbench(*questions: tuple[str, Sequence[str], int]) -> list[dict]:
    """Rows of (question, options, place of the right one), each with every rotation of its options; the first has a hint."""
    rows = []
    for number, (question, options, answer) in enumerate(questions):
        for turn in range(len(options)):
            turned = [*options[turn:], *options[:turn]]
            row = {"index": number + 1_000_000 * turn, "question": question, "hint": "nan" if number else "그림을 보세요."}
            row |= {letter: turned[place] if place < len(turned) else None for place, letter in enumerate("ABCD")}
            row |= {
                "answer": "ABCD"[turned.index(options[answer])],
                "category": f"object_{number % 2}",
                "l2-category": "perception",
            }
            rows.append(row | {"source": "made", "split": "dev", "image": picture(number)})
    return rows


def k_seed(answers: str) -> list[dict]:
    """A row for each right letter."""
    options = dict(zip(("choice_a", "choice_b", "choice_c", "choice_d"), ("고양이", "강아지", "토끼", "거북이")))
    return [
        {"question_id": f"q{number}", "question": "무엇이 보이나요?", **options, "answer": answer}
        | {"data_type": ("Scene Understanding", "Instance Identity")[number % 2], "image": picture(number)}
        for number, answer in enumerate(answers)
    ]


def k_dtcbench(answers: str) -> list[dict]:
    """A row for each right letter: a document, a table, a chart, a document ..."""
    options = dict(zip(("choice_a", "choice_b", "choice_c", "choice_d"), ("10%", "20%", "30%", "40%")))
    return [
        {"index": f"{('document', 'table', 'chart')[number % 3]}_{number}", "question": "2020년의 비율은 얼마인가요?"}
        | {**options, "answer": answer, "image": picture(number)}
        for number, answer in enumerate(answers)
    ]


def k_mmstar(*questions: tuple[str, str, str]) -> list[dict]:
    """Rows of (question with its options, right letter, l2 category)."""
    return [
        {"index": number, "question": question, "image": picture(number), "answer": answer}
        | {"category": "math" if l2 == "geometry" else "coarse perception", "l2_category": l2, "meta_info": "{}"}
        for number, (question, answer, l2) in enumerate(questions)
    ]


def k_viscuit(answers: Sequence[int]) -> list[dict]:
    """A row for each place of the right option, pictures by path as in the repository: write them beside, in images/."""
    return [
        {"question": "What is the name of this food?", "options": ["Kimchi", "Bulgogi", "Tteok", "Japchae"], "answer": answer}
        | {"category": ("Food", "Clothes")[number % 2], "id_": f"Food.{number}.0", "question_type": 1 + number % 2}
        | {"image_url": "https://example.org/0.jpg", "image_path": f"{number}.png"}
        for number, answer in enumerate(answers)
    ]


def culture(golds: Sequence[str]) -> list[dict]:
    """LLaVA's form, as the Small Korean VLM's val_multichoice_conversation.json."""
    asked = "<image>\n이 음식의 이름은 무엇인가요?\nA. 김치찌개\nB. 비빔밥\nC. 떡볶이\nD. 냉면"
    return [
        {"id": f"c{number}", "image": f"/korean_image/{number}.png"}
        | {"conversations": [{"from": "human", "value": asked}, {"from": "gpt", "value": gold}]}
        for number, gold in enumerate(golds)
    ]


def pope(*questions: tuple[str, str]) -> list[dict]:
    """Rows of (question, yes or no)."""
    return [
        {"question_id": number, "image": f"{number}.png", "text": text, "label": label}
        for number, (text, label) in enumerate(questions, 1)
    ]
