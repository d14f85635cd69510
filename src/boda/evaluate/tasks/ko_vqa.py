"""`ko-vqa`: KO-VQA, questions on figures in Korean public documents whose answers are a number with its unit.

Read are the benchmark's CSV (github.com/Marker-Inc-Korea/KO-VLM-Benchmark; 100 questions of each of 15 domains) or label files of
AI Hub's set 71812, from which it was drawn. The prompt is the published one. Published beside it for some of the models, and not
sent here, is the system text "You are a helpful assistant.": a model is asked with its own.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from boda.data.sample import ImageRef
from boda.data.sources import resolve_data
from boda.errors import WHY, BadRow, BodaError, explaining
from boda.evaluate.metrics.numbers import ko_vqa_upstream, same_quantities
from boda.evaluate.tables import Schema, read_table
from boda.evaluate.task import Row, Task, by_value, limited, one_turn, read_options, summary, version_of

VERSION = "1"
RULE = "KO-VQA: the first number of the reference, with 조, 억, 백, 천 or 민 right behind it, is among the answer's numbers"
SCHEMA = Schema("KO-VQA", {"domain": "text", "question": "text", "answer": "text", "image": "text"})
KEYS = ("question", "answer", "image")  # what a label file needs, by paths of keys: `qa.0.question`
PROMPT = """이미지를 보고 질문에 대한 답변을 제공해주세요. 이때, 반드시 이미지에 제공된 숫자와 단위를 명시해서 답변을 제공해야 합니다.

아래는 이미지에 제시된 숫자 단위가 '백만 원'일 때의 답변 예시입니다.
- 질문: 2017년도 국립청소년산림생태체험센터 건립사업에서 불용된 예산은 얼마인가요?
- 답변: 건립사업에서 불용된 예산은 총 7,131백만 원입니다.

아래는 이미지에 제시된 숫자 단위가 '천 명'일 때의 답변 예시입니다.
- 질문: 2008년 경제활동 인구는 몇 명인가요?
- 답변: 총 24,347천 명입니다.


{question}"""  # the prompt ends in a line break, and the question follows after two more


def from_option(option: str, data_dir: str | Path | None) -> Task:
    """The task of `ko-vqa:FILE[:images=DIR]`, or `ko-vqa:LABELS:question=KEYS:answer=KEYS:image=KEYS[:items=KEYS][:domain=KEYS]`.

    images: pictures lie in DIR, or in folders there whose names hold the domain's; `images` beside the file unless given. KEYS: paths
    of keys in a JSON label file, or a folder of them: `items` is where its list of questions is, `domain` is the file's name unless
    given. Raises BodaError: no such file, key or picture.
    """
    path, given = read_options("ko-vqa", option, "images", *KEYS, "items", "domain")
    if not path:
        raise BodaError("ko-vqa needs a file: --tasks ko-vqa:FILE.csv:images=DIR, the benchmark's CSV or AI Hub 71812's labels")
    place = Path(resolve_data(path, data_dir))
    images = Path(resolve_data(given.pop("images"), data_dir)) if "images" in given else place.parent / "images"
    if given and not set(KEYS) <= set(given):
        raise BodaError(f"ko-vqa: label files need {', '.join(KEYS)}, each a path of keys, e.g. question=qa.question")
    table = [*_labels(place, given)] if given else read_table(SCHEMA, place, data_dir)
    folders = sorted(folder for folder in images.iterdir() if folder.is_dir()) if images.is_dir() else []
    rows = [Row(row["index"], {**row, "image": _picture(images, folders, row["domain"], row["image"])}) for row in table]

    def score(row: Row, answer: str) -> dict:
        gold = row.value["answer"].strip()
        facts = {"gold": gold, "extracted": answer.strip(), "tags": {"domain": row.value["domain"]}}
        return {"score": float(same_quantities(gold, answer)), "upstream": float(ko_vqa_upstream(gold, answer)), **facts}

    return Task(
        name="ko-vqa",
        version=version_of(VERSION, [PROMPT, *table]),
        load=lambda limit: limited(rows, limit, lambda row: row.value["domain"]),
        messages=lambda row: one_turn(PROMPT.replace("{question}", row.value["question"].strip()), row.value["image"]),
        score=score,
        summarise=summarise,
        decoding={"temperature": 0.0, "max_new_tokens": 1024, "within_context": True},
        note="right where the answer gives the reference's quantity, number and unit",
    )


def summarise(records: list[dict]) -> dict:
    """Shares of right answers by both rules, also by domain."""

    def share(some: list[dict]) -> dict:
        published = [record["upstream"] for record in some if not record["failed"]]
        score = sum(published) / len(published) if published else None
        return {**summary(some), "upstream": {"score": score, "n": len(published), "rule": RULE}}

    return {**share(records), "groups": {"domain": by_value(records, lambda record: record["tags"]["domain"], share)}}


def _labels(place: Path, keys: dict[str, str]) -> Iterator[dict[str, str]]:
    """Rows of label files by their paths of keys. The schema of 71812 is not public, so the paths are the user's to give."""
    for file in sorted(place.rglob("*.json")) if place.is_dir() else [place]:
        with explaining(f"{file} is no JSON ({WHY})", ValueError, OSError):
            found = json.loads(file.read_text(encoding="utf-8-sig"))
        items = _at(found, keys["items"], file, "") if "items" in keys else found
        for number, item in enumerate(items if isinstance(items, list) else [items]):
            row = {name: _at(item, keys[name], file, number) for name in (*KEYS, "domain") if name in keys}
            for name, value in row.items():
                if not isinstance(value, str | int | float):
                    raise BadRow(str(file), number, keys[name], f"a text or a number is needed, not {type(value).__name__}")
                row[name] = unicodedata.normalize("NFC", str(value))
            # Files of one name lie in several folders.
            beside = file.relative_to(place).with_suffix("").as_posix() if place.is_dir() else file.stem
            yield {"domain": file.stem, **row, "index": f"{beside}/{number}"}


def _at(value: Any, path: str, file: Path, row: int | str) -> Any:
    for key in path.split("."):
        try:
            value = value[int(key) if isinstance(value, list) else key]
        except (LookupError, ValueError, TypeError) as error:
            there = ", ".join(map(str, value)) if isinstance(value, dict) else type(value).__name__
            raise BadRow(str(file), row, path, f"no '{key}'; here is {there}") from error
    return value


def _picture(images: Path, folders: list[Path], domain: str, name: str) -> ImageRef:
    """The picture of a name, in one of these folders that has the domain in its name, or beside them."""
    domain, name = domain.strip(), name.strip()
    for folder in [*(each for each in folders if domain in unicodedata.normalize("NFC", each.name)), images]:
        if (folder / name).is_file():
            return ImageRef(str(folder / name))
    raise BodaError(
        f"ko-vqa: no picture {name} in {images}, or in a folder there of domain '{domain}'; images=DIR names another"
    )
