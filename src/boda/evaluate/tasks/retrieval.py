"""Texts and pictures that find each other: `retrieval` (your own queries), `coco-ko`, `emoji-ko`."""

from __future__ import annotations

import json
import re
import unicodedata
from pathlib import Path

from boda.data.files import Place
from boda.data.rows import text_rows
from boda.data.sample import ImageRef
from boda.data.sources import read, resolve_data
from boda.data.sources.common import PICTURES
from boda.errors import WHY, BadRow, BodaError, explaining
from boda.evaluate.metrics.ranking import ranking
from boda.evaluate.pairs import Search, both_ways, pair_task
from boda.evaluate.task import PairTask, read_options

EMOJI = "emoji/captions.jsonl"
DataDir = str | Path | None


def own_queries(option: str, data_dir: DataDir) -> PairTask:
    """`retrieval:QUERIES.jsonl[:images=DIR]`: rows {"query": "빨간 원피스", "relevant": ["dress/12.jpg", ...]}, paths in DIR."""
    path, given = read_options("retrieval", option, "images")
    place = Place.of(resolve_data(path or "queries.jsonl", data_dir))
    folder = Place.of(resolve_data(given["images"], data_dir)) if "images" in given else place.parent
    files = [file for file in folder.files() if file.suffix in PICTURES]
    number_of = {unicodedata.normalize("NFC", str(file)[len(str(folder)) + 1 :]): number for number, file in enumerate(files)}
    queries, relevant = [], []
    for number, row in text_rows(place):
        if isinstance(row, BadRow):
            raise row
        query, wanted = row.get("query"), row.get("relevant")
        if not isinstance(query, str) or not query.strip():
            raise BadRow(str(place), number, "query", "a text to look for is needed")
        if not isinstance(wanted, list) or not wanted or not all(isinstance(name, str) for name in wanted):
            raise BadRow(str(place), number, "relevant", 'what it should find is needed: ["a.jpg", "b/c.jpg"]')
        found = [number_of.get(unicodedata.normalize("NFC", name), -1) for name in wanted]
        if -1 in found:
            there = f"it has {len(files)} pictures, such as {', '.join([*number_of][:3])}"
            raise BadRow(str(place), number, "relevant", f"no '{wanted[found.index(-1)]}' in {folder}; {there}")
        queries.append(query)
        relevant.append([*dict.fromkeys(found)])
    search = Search("text to image", queries, [ImageRef(file.path, file.member) for file in files], relevant, ranking)
    return pair_task(f"retrieval:{option}", [search], f"NDCG@10 among {len(files):,} pictures")


def coco(option: str, data_dir: DataDir) -> PairTask:
    """`coco-ko:JSON:ids=FILE[:images=DIR][:size=1000]`: AI Hub 261's rows {file_path, caption_ko: [5]}.

    ids: the test photos: Karpathy's dataset_coco.json (its test split), or a file with an id or file name a line.
    size: so many photos at a time, in the list's order, and the mean of all (the "1k" protocol); all at once unless given.
    """
    path, given = read_options("coco-ko", option, "ids", "images", "size")
    if not path or "ids" not in given:
        raise BodaError(
            "coco-ko needs the captions and the test photos: coco-ko:MSCOCO_train_val_Korean.json:ids=dataset_coco.json"
        )
    found: dict[int, tuple[ImageRef, list[str]] | None] = dict.fromkeys(listed_photos(given["ids"], data_dir))
    images = resolve_data(given["images"], data_dir) if "images" in given else None
    columns = {"caption": "caption_ko"}
    for sample in read(resolve_data(path, data_dir), "captions", images=images, columns=columns, probe=False):
        photo, caption = sample.images[0], sample.messages[-1].text
        if (number := id_of(str(photo))) in found:
            _, captions = found[number] = found[number] or (photo, [])
            captions.extend([caption] if len(captions) < 5 else [])
    captioned = [each for each in found.values() if each]
    size = given.get("size", str(len(found)))
    if len(captioned) < len(found) or not size.isdecimal() or not 0 < int(size) <= len(found):
        raise BodaError(
            f"coco-ko: {len(found)} photos listed, captions for {len(captioned)} of them in {path}, size {size}: too few"
        )
    parts = [captioned[start : start + int(size)] for start in range(0, len(found) - int(size) + 1, int(size))]
    searches = [search for part in parts for search in both_ways(part)]
    return pair_task(
        f"coco-ko:{option}", searches, f"R@1 both ways, {len(parts)} x {int(size):,} photos, up to 5 captions each"
    )


def listed_photos(path: str, data_dir: DataDir) -> list[int]:
    """The COCO ids in Karpathy's dataset_coco.json (its test split), or in a file with an id or file name a line."""
    listed = Path(resolve_data(path, data_dir))
    text = listed.read_text(encoding="utf-8")
    said = f"{listed} is neither Karpathy's list nor one of COCO's ids or file names ({WHY})"
    with explaining(said, ValueError, KeyError, IndexError):
        if text.startswith("{"):
            names = [str(each["cocoid"]) for each in json.loads(text)["images"] if each["split"] == "test"]
        else:
            names = text.split()
        return [*dict.fromkeys(map(id_of, names))]


def id_of(name: str) -> int:
    """COCO_val2014_000000391895.jpg -> 391895."""
    return int(re.findall(r"\d+", name)[-1])


def emoji(option: str, data_dir: DataDir) -> PairTask:
    """`emoji-ko[:PATH][:text={caption}]`: within the test split, and within the train split; the text may also take keywords."""
    path, given = read_options("emoji-ko", option, "text")
    searches: list[Search] = []
    for split in ("test", "train"):
        place, text = resolve_data(path or EMOJI, data_dir), given.get("text", "{caption}")
        samples = read(place, "captions", answer=text, where={"split": split}, probe=False)
        searches += both_ways([(each.images[0], [each.messages[-1].text]) for each in samples], f"{split}, ")
    return pair_task(f"emoji-ko:{option}".rstrip(":"), searches, "R@1 both ways, splits together")
