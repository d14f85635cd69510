"""Tiny files, in their published forms, of benchmarks that are answered freely: rows of our own, pictures drawn here."""

from __future__ import annotations

import csv
import json
from pathlib import Path

from tests.benchmark_files import picture, write_json, write_parquet, write_tsv


def k_llava_w(folder: Path, categories: str = "conv conv detail complex complex", kit: bool = False) -> Path:
    """K-LLaVA-W as NCSOFT publishes it (Parquet), or as VLMEvalKit does (a .tsv with other names of columns)."""
    rows = [
        {"question_id": number, "question": f"{number}번 그림에는 무엇이 보이나요?", "image": picture(number // 2)}
        | {"caption": f"{number}번 그림의 설명", "gpt_answer": f"{number}번 그림에는 사과가 보입니다.", "category": category}
        for number, category in enumerate(categories.split())
    ]
    if not kit:
        return write_parquet(folder / "K-LLaVA-W/data/test-00000-of-00001.parquet", rows)
    names = {"question_id": "index", "gpt_answer": "gpt4_ans"}
    return write_tsv(folder / "LLaVABench_KO.tsv", [{names.get(key, key): cell for key, cell in row.items()} for row in rows])


def koffvqa(folder: Path, number: int = 6) -> Path:
    return write_tsv(
        folder / "KOFFVQA_Data/data/KOFFVQA.tsv",
        [
            {"index": each, "image": picture(each), "question": f"{each}번 사진의 물건은 무엇인가요?"}
            | {"answer": f"- 사과라고 답하면 {each}점", "category": ("문서 이해", "관계 이해")[each % 2]}
            for each in range(number)
        ],
    )


def ko_vqa(folder: Path, *rows: tuple[str, str, str]) -> Path:
    """The benchmark's CSV of (domain, question, answer), pictures in folders of the domains."""
    path = folder / "benchmark.csv"
    folder.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["row_id", "domain", "question", "answer", "key_number", "image"])
        for number, (domain, question, answer) in enumerate(rows):
            writer.writerow([number, domain, question, answer, "", f"{number:06d}_1.png"])
            place = folder / f"images/VS_01.{domain}/{number:06d}_1.png"
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(picture(number))
    return path


def coco_korean(folder: Path, captions: dict[int, list[str]]) -> Path:
    """AI Hub 261: {COCO id: Korean captions}, its English ones beside them."""
    rows = []
    for number, texts in captions.items():
        name = f"val2014/COCO_val2014_{number:012d}.jpg"
        (folder / "val2014").mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(picture(number % 7))
        rows.append({"file_path": name, "captions": ["a photo"] * len(texts), "caption_ko": texts, "id": number})
    return write_json(folder / "MSCOCO_train_val_Korean.json", rows)


def llava(folder: Path, *turns: tuple[str, ...], name: str = "items.json") -> Path:
    """LLaVA items of question, answer, question, answer ..., each on a picture of its own."""
    rows = []
    for number, said in enumerate(turns):
        (folder / "images").mkdir(parents=True, exist_ok=True)
        (folder / f"images/{number}.png").write_bytes(picture(number))
        marked = (f"<image>\n{said[0]}", *said[1:])
        spoken = [{"from": ("human", "gpt")[place % 2], "value": text} for place, text in enumerate(marked)]
        rows.append({"id": str(number), "image": f"images/{number}.png", "conversations": spoken})
    return write_json(folder / name, rows)


def text_in_the_wild(
    folder: Path, *pictures: list[tuple[str | None, str, list[float]]], size: tuple[int, int] = (200, 100)
) -> Path:
    """AI Hub 81's labels: of each picture (text, class, [x, y, width, height])."""
    images, annotations = [], []
    for number, words in enumerate(pictures):
        name = f"{number:08d}.png"
        (folder / "Signboard").mkdir(parents=True, exist_ok=True)
        (folder / "Signboard" / name).write_bytes(picture(number))
        images.append({"id": f"{number:08d}", "width": size[0], "height": size[1], "file_name": name, "type": "sign"})
        for text, kind, box in words:
            annotations.append({"id": str(len(annotations)), "image_id": f"{number:08d}", "text": text})
            annotations[-1] |= {"attributes": {"class": kind}, "bbox": box}
    labels = {"info": {"name": "Text in the wild Dataset", "date_created": "2019-10-14"}, "images": images}
    path = folder / "textinthewild_data_info.json"
    path.write_text(json.dumps({**labels, "annotations": annotations, "licenses": []}, ensure_ascii=False), encoding="utf-8")
    return path
