"""`ocr-text`: the text in a picture, by edit distance: 1-NED, 1 less the distance divided by the longer text, a mean over pictures.

Read are files that Boda's sources read, the text being the answer (answers that are boxes are `ocr-boxes`'s), and the multilingual
OCR items of the Small Korean VLM ({image, ground_truth: [{text}]}). Without a file: words that Boda draws, in fonts seen and never
seen in training. Beside it CER and WER, errors of all texts divided by their length, and CER of jamo.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from boda.data.drawn.fonts import HELD_OUT, SEEN
from boda.data.drawn.samples import read
from boda.data.files import Place
from boda.data.rows import text_rows
from boda.data.sample import IMAGE_MARK, ImageRef, Sample, conversation
from boda.data.sources import resolve_data
from boda.errors import BadRow, BodaError
from boda.evaluate.metrics.reading import anls, edit_rates, edit_rates_upstream, similarity
from boda.evaluate.task import Row, Task, by_value, read_options, summary
from boda.evaluate.tasks.drawn import read_numbers
from boda.evaluate.tasks.ocr_boxes import OF_FILES, check_given, is_box
from boda.evaluate.tasks.questions import of_samples, questions

VERSION = "1"
RULE = "Small Korean VLM: mean over pictures of each one's CER (torchmetrics), of texts as they come; LOWER is better"
READ_ALL = "이미지에 있는 글자를 모두 읽어 주세요."
_START = 500_000_000  # of the pictures drawn here, which no other task asks about


def from_option(option: str, data_dir: str | Path | None) -> Task:
    """The task of `ocr-text:PATH[:images=DIR][:format=F][:question=TEXT][:answer=TEXT]`, or of `ocr-text[:seed=N][:number=N]`, so many
    drawn words in seen fonts and in one that is held out. Raises BodaError: no such file, or no text to read in it."""
    path, given = read_options("ocr-text", option, "seed", "number", *OF_FILES)
    check_given("ocr-text", given, *((OF_FILES, "a file") if path else (("seed", "number"), "drawn words")))
    samples = [*(_of_file(path, data_dir, given) if path else _drawn(given))]
    if not samples:
        raise BodaError(f"ocr-text: {path} has no question whose answer is a text to read; ocr-boxes asks for boxes")
    return replace(
        of_samples(samples, list, f"ocr-text:{option}".rstrip(":"), lambda sample: dict(sample.tags).get("font", ""), VERSION),
        score=score,
        summarise=summarise,
        decoding={"temperature": 0.0, "max_new_tokens": 256},
        note="1-NED: 1 less the edit distance as a share of the longer text",
    )


def _drawn(given: dict[str, str]) -> Iterator[Sample]:
    seed, number, _ = read_numbers("ocr-text", given, ())
    for place, fonts in enumerate((SEEN, HELD_OUT)):
        where = {"kind": "word", "style": "short", "font": fonts}  # the short style is answered by the word alone
        for sample in read("words", number, seed, where, (1 + place) * _START):
            yield replace(sample, tags=(("font", dict(sample.tags)["font"]),), rejected=None)


def _of_file(path: str, data_dir: str | Path | None, given: dict[str, str]) -> Iterator[Sample]:
    place = Place.of(resolve_data(path, data_dir))
    first = next((item for _, item in text_rows(place)), {}) if place.suffix in (".json", ".jsonl") else {}
    if isinstance(first, BadRow) or "ground_truth" not in first:
        rows = questions(path, data_dir=data_dir, **given).load(None)  # type: ignore[arg-type]
        yield from (row.value for row in rows if not is_box(row.value.messages[-1].text))
        return
    folder = Place.of(resolve_data(given["images"], data_dir)) if "images" in given else place.parent
    for number, item in text_rows(place):
        if isinstance(item, BadRow):
            raise item
        try:
            picture, text = folder.child(item["image"]), " ".join(part["text"] for part in item["ground_truth"])
        except (LookupError, TypeError) as error:
            raise BadRow(str(place), number, "ground_truth", 'needed are image and ground_truth: [{"text": ...}]') from error
        image = ImageRef(picture.path, picture.member)
        yield conversation(("user", f"{IMAGE_MARK}{given.get('question', READ_ALL)}"), ("assistant", text), images=(image,))


def score(row: Row, answer: str) -> dict:
    """1-NED of an answer."""
    gold = row.value.messages[-1].text
    return {"score": similarity(answer, gold), "extracted": answer.strip(), "gold": gold, "tags": dict(row.value.tags)}


def summarise(records: list[dict]) -> dict:
    """Mean 1-NED and error rates, also by font of drawn words."""
    result = _rates(records)
    fonts = by_value(records, lambda record: str(record["tags"].get("font")), _rates)
    return result | ({"groups": {"font": fonts}} if len(fonts) > 1 else {})


def _rates(records: list[dict]) -> dict:
    pairs = [(record["raw"], record["gold"]) for record in records if not record["failed"]]
    if not pairs:
        return summary(records)
    published = sum(bool(gold.strip()) for _, gold in pairs)
    upstream = {"score": edit_rates_upstream(pairs)["cer"], "n": published, "rule": RULE, "measure": "CER"}
    near = sum(anls(read, [written]) for read, written in pairs) / len(pairs)
    return {**summary(records), "metrics": edit_rates(pairs) | {"anls": near}, "upstream": upstream}
