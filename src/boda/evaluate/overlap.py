"""How much of a test set a model has seen: its questions' pictures and texts among what its `boda.json` says it was trained on.

Training data is read again where it lies, once: what is kept of it (about 2 KB a picture, 8 bytes a text) is in the cache, by what
the manifest says and by size and time of the files.

The same picture: brought to 24 x 24 RGB means, no value differs by more than 8 of 255. So a copy is found that was saved again (JPEG of
quality 50 and up differs by at most 4 from 480 pixels on; of pictures of 100 pixels not all are found) or scaled. Pictures that Boda
draws are the same if they bear the same name. The same question: a whole message of the training data, whoever says it, has the
letters and digits of the question or of its first line, whatever the case, the spaces and the punctuation.
"""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from boda.data.drawn import samples as drawn
from boda.data.drawn.interleaved import APART
from boda.data.files import Place, matching
from boda.data.sample import IMAGE_MARK, ImageRef, Sample
from boda.data.sources import BadRows, read, resolve_data
from boda.errors import WHY, BodaError, explaining
from boda.files import cache_folder, read_json, whole_folder, write_json
from boda.terminal import Progress

VERSION = 1  # of what the cache holds
MOST_DRAWN = 1000  # pictures of a drawn block whose texts are read
SIDE, COARSE, TOLERANCE = 24, 6, 8
BLOCK = 512


def overlap(
    model: Any, records: Mapping[str, Sequence[dict]], data_dir: str | Path | None = None, quiet: bool = False
) -> dict[str, dict]:
    """For each task, of its answer records: {"images", "questions": shares of them that training had, "n", "checked"}.

    `images` is None where no question has a picture that can be read; `checked`: training samples that were looked at; `at_least`:
    True where that was not all of a drawn set's; `beyond`: parts, if any, that were trained elsewhere, on what nobody says here. What
    counts as seen is all that the recipe's stages name, whatever the number of steps. {"unknown": why}: no training data to be had.
    """
    try:
        blocks, foreign = _manifest(model)
        folder = _index(blocks, data_dir, quiet)
    except BodaError as error:
        return {task: {"unknown": str(error)} for task in records}
    sets = [block for block in blocks if block["source"] == "drawn"]
    more: dict[str, Any] = {"at_least": True} if any(block["limit"] > MOST_DRAWN for block in sets) else {}
    more |= {"beyond": foreign} if foreign else {}
    return {task: _seen(some, folder, sets) | more for task, some in records.items()}


def _manifest(model: Any) -> tuple[list[dict], list[str]]:
    """The data blocks of all that a model was trained on, its parts' included, and the parts that come from elsewhere."""
    if not isinstance(model, (str, Path)) or "://" in str(model):
        raise BodaError("only the folder of a model that Boda trained says what it was trained on")
    from boda.models.checkpoints import read_info

    info = read_info(model)
    if not info.get("data") or "recipe" not in info:
        raise BodaError(f"{Path(model).name} has no boda.json that says what it was trained on")
    blocks: dict[str, dict] = {}
    foreign: dict[str, None] = {}

    def collect(info: dict) -> None:
        recipe, trained = info["recipe"], {each["stage"] for each in info["data"]}
        for block in (block for stage in recipe["stages"] if stage["name"] in trained for block in stage["data"]):
            kept = {name: value for name, value in block.items() if name not in ("weight", "licence")}
            blocks.setdefault(json.dumps(kept, sort_keys=True), kept)
        for part in ("vision", "language"):
            if isinstance(recipe["model"].get(part), str):
                foreign.setdefault(recipe["model"][part])
        for part, made in info.get("parts", {}).items():
            if "recipe" in made and made.get("data"):
                collect(made)
            else:
                foreign.setdefault(part)

    with explaining(
        f"{Path(model).name}'s boda.json tells of its training in another form ({WHY})", LookupError, TypeError, AttributeError
    ):
        collect(info)
    return list(blocks.values()), list(foreign)


def _index(blocks: list[dict], data_dir: str | Path | None, quiet: bool) -> Path:
    """The folder in the cache that holds what is kept of these blocks, made if it is not there."""
    places = [
        {name: str(resolve_data(block[name], data_dir)) for name in ("path", "images") if block.get(name)}
        if block["source"] != "drawn"
        else {}
        for block in blocks
    ]
    facts = [[_facts(path) for path in found.values()] for found in places]
    key = hashlib.sha256(json.dumps([VERSION, blocks, places, facts], sort_keys=True).encode()).hexdigest()[:16]
    folder = cache_folder() / "overlap" / key
    if not (folder / "counts.json").is_file():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with whole_folder(folder, "what is kept of the training data") as partial:
            samples = (sample for block, place in zip(blocks, places) for sample in _samples(block, place))
            _write(samples, partial, quiet)
    return folder


def _facts(path: str) -> list:
    """Size and time of a data file, of its archive, of the files of a pattern, or of what a folder holds at its top."""
    on_disk = Path(Place.of(path).path)
    files = (sorted(on_disk.iterdir()) if on_disk.is_dir() else [on_disk]) if on_disk.exists() else map(Path, matching(path))
    return [[file.name, file.stat().st_size, file.stat().st_mtime_ns] for file in islice(files, 1000)]


def _samples(block: dict, place: dict) -> Iterator[Sample]:
    if block["source"] == "drawn":
        yield from drawn.read(block["path"], min(block["limit"], MOST_DRAWN), block["seed"], block["where"])
        return
    asked: dict[str, Any] = {name: block.get(name) for name in ("columns", "question", "answer", "where", "limit")}
    # Rows that training could not use, it has not seen.
    yield from read(place["path"], block["source"], images=place.get("images"), bad_rows=BadRows(), probe=False, **asked)


def _write(samples: Iterable[Sample], folder: Path, quiet: bool) -> None:
    """`signatures.bin` of pictures in files, `texts.npy` and `counts.json`. Memory: 8 bytes a text, some more a picture, and a block
    of samples."""
    texts, known, count = array("Q"), set[int](), 0
    progress = Progress(lambda seen: f"{seen.done:,} training samples looked through  {seen.rate:.0f}/s", quiet=quiet)
    samples = iter(samples)
    with (folder / "signatures.bin").open("wb") as stream, ThreadPoolExecutor(4) as pool:  # Pillow lets others run meanwhile
        while block := list(islice(samples, BLOCK)):
            fresh = {}
            for sample in block:
                texts.extend(_hash(text) for message in sample.messages if (text := _letters(message.text)))
                for image in sample.images:
                    if not image.drawn and (number := _hash(image.key)) not in known:
                        known.add(number)
                        fresh[number] = image
            for signature in pool.map(_signature, fresh.values()):
                if signature is not None:
                    stream.write(signature.tobytes())
            count += len(block)
            progress.update(count)
    found = np.frombuffer(texts, np.uint64) if texts else np.empty(0, np.uint64)
    np.save(folder / "texts.npy", np.unique(found))
    write_json(folder / "counts.json", {"samples": count, "pictures": len(known)})


def _seen(records: Sequence[dict], folder: Path, sets: Sequence[dict]) -> dict:
    """What share of the records has a picture, and what share a question, that the index or a drawn set has."""
    counts, texts = read_json(folder / "counts.json"), np.load(folder / "texts.npy")
    seen: dict[str, bool] = {}
    signed: dict[str, np.ndarray] = {}
    for key in {json.dumps(each) for record in records for each in record.get("images") or [] if each}:
        image = ImageRef.from_json(key)
        if image.drawn:
            seen[key] = any(_is_drawn_by(block, image.drawn) for block in sets)
        elif not counts["pictures"]:
            seen[key] = False
        if counts["pictures"] and (signature := _signature(image)) is not None:
            signed[key] = signature
    if signed:
        near = _near(np.stack([*signed.values()]), folder / "signatures.bin")
        seen |= {key: seen.get(key, False) or bool(found) for key, found in zip(signed, near)}
    pictured = [[seen.get(json.dumps(each)) for each in record.get("images") or [] if each] for record in records]
    known = [found for row in pictured if (found := [each for each in row if each is not None])]
    return {
        "images": sum(map(any, known)) / len(known) if known else None,
        "questions": sum(_asked(record, texts) for record in records) / len(records) if records else None,
        "n": len(records),
        "checked": counts["samples"],
    }


def _is_drawn_by(block: dict, name: str) -> bool:
    """Whether a drawn set has the picture of this name, `KIND/.../SEED/NUMBER`."""
    seed, number = map(int, name.split("/")[-2:])
    place = number // APART if block["path"] == "interleaved" else number
    if seed != block["seed"] or place >= block["limit"]:
        return False
    samples = drawn.read(block["path"], 1, seed, block["where"], place)
    return any(image.drawn == name for sample in samples for image in sample.images)


def _asked(record: dict, texts: np.ndarray) -> bool:
    said = next((each["content"] for each in reversed(record["prompt"]) if each["role"] == "user"), "").replace(IMAGE_MARK, "")
    asked = [_hash(text) for part in {said, said.strip().partition("\n")[0]} if (text := _letters(part))]
    return bool(asked) and bool(np.isin(np.array(asked, np.uint64), texts).any())


def _letters(text: str) -> str:
    return re.sub(r"[\W_]+", "", unicodedata.normalize("NFKC", text).casefold())


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=8).digest(), "big")


def _signature(image: ImageRef) -> np.ndarray | None:
    """(24, 24, 3) means of the picture's RGB, 0 to 255; None of a picture that cannot be read."""
    from PIL import Image

    from boda.data.images import load_image

    try:
        return np.asarray(load_image(image).resize((SIDE, SIDE), Image.Resampling.BOX))
    except BodaError:
        return None


def _near(signatures: np.ndarray, file: Path) -> np.ndarray:
    """Which of (T, 24, 24, 3) signatures one in the file is near to, in every value.

    Near signatures are near in their 6 x 6 means, whose squares a product of matrices gives for all pairs.
    """
    found = np.zeros(len(signatures), bool)
    if not file.stat().st_size:
        return found
    kept = np.memmap(file, np.uint8, "r").reshape(-1, SIDE, SIDE, 3)
    wanted, coarse = signatures.astype(np.int16), _coarse(signatures)
    most = TOLERANCE**2 * coarse.shape[1]
    for start in range(0, len(kept), 8 * BLOCK):
        some = kept[start : start + 8 * BLOCK]
        theirs = _coarse(some)
        far = (coarse**2).sum(1)[:, None] + (theirs**2).sum(1) - 2 * coarse @ theirs.T
        for test, place in zip(*np.nonzero(far <= most * 1.01 + 1)):
            if not found[test]:
                found[test] = bool((np.abs(wanted[test] - some[place]) <= TOLERANCE).all())
    return found


def _coarse(signatures: np.ndarray) -> np.ndarray:
    step = SIDE // COARSE
    return signatures.reshape(-1, COARSE, step, COARSE, step, 3).mean((2, 4), dtype=np.float32).reshape(len(signatures), -1)
