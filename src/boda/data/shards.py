"""Samples -> tar shards of KEY.jpg, KEY.txt and KEY.json, counted and hashed; the source `webdataset` reads them back equal."""

from __future__ import annotations

import hashlib
import io
import itertools
import json
import tarfile
from collections.abc import Iterable
from pathlib import Path

from boda.data.images import load_image
from boda.data.sample import Sample, conversation, image_from_pil
from boda.errors import BodaError
from boda.files import read_json, whole_file, write_json, writing


def write_shards(
    samples: Iterable[Sample], folder: str | Path, per_shard: int = 10_000, advice: str = "what is whole is kept"
) -> dict:
    """Writes `00000.tar`, ... into `folder`; given the same samples again, goes on where it was stopped.

    Returns what stands in `shards.json`: {"samples", "shards": [{"name", "samples", "bytes", "sha256", "texts"}]}.

    Raises BadRow: a sample that no key can hold: several pictures or none, or a rejected answer; BodaError: a picture cannot be
    read, the folder holds shards of other samples, or the disk is full.
    """
    folder, rest = Path(folder), iter(samples)
    shards: list[dict] = []
    listing = folder / "shards.json"
    known = read_json(listing).get("shards", [])
    other = BodaError(f"{folder} holds shards of other samples, or with another per_shard; choose an empty folder")
    with writing(f"shards to {folder}", advice):
        folder.mkdir(parents=True, exist_ok=True)
        while chunk := list(itertools.islice(rest, per_shard)):
            texts = [_texts(sample) for sample in chunk]
            made: dict = {"name": f"{len(shards):05d}.tar", "samples": len(chunk)}
            made["texts"] = hashlib.sha256(json.dumps(texts).encode()).hexdigest()
            path, number = folder / made["name"], len(shards)
            shards.append(known[number] if number < len(known) else made)
            if shards[-1]["texts"] != made["texts"]:
                raise other
            if not path.is_file() or path.stat().st_size != shards[-1].get("bytes"):
                shards[-1] = made | _write(path, number * per_shard, chunk, texts)
                _list(listing, shards + known[number + 1 :])
    if len(known) > len(shards):
        raise other
    return _list(listing, shards)


def _list(listing: Path, shards: list[dict]) -> dict:
    facts = {"samples": sum(shard["samples"] for shard in shards), "shards": shards}
    write_json(listing, facts)
    return facts


def _texts(sample: Sample) -> tuple[str, str]:
    """KEY.txt and KEY.json: a caption, or else the whole conversation."""
    if len(sample.images) != 1 or sample.rejected is not None:
        raise sample.bad("images", "a key of a shard holds one picture and no rejected answer; write such rows as Parquet")
    text, source = sample.messages[-1].text, sample.source
    plain = conversation(("user", "<image>"), ("assistant", text.strip("\ufeff").strip()), images=sample.images)
    facts: dict = {"licence": source.licence, "source": f"{source.dataset}, row {source.row}", "tags": dict(sample.tags)}
    if plain.messages == sample.messages:
        return text, json.dumps({"caption": text} | facts, ensure_ascii=False)
    return text, json.dumps({"messages": [message.as_dict() for message in sample.messages]} | facts, ensure_ascii=False)


def _write(path: Path, first: int, samples: list[Sample], texts: list[tuple[str, str]]) -> dict:
    """One shard under a temporary name, then its own; its size and hash."""
    with whole_file(path) as partial, tarfile.open(partial, "w") as tar:
        for number, (sample, (text, described)) in enumerate(zip(samples, texts), first):
            data = sample.images[0].read()
            kind = {b"\xff\xd8\xff": "jpg", b"\x89PN": "png"}.get(data[:3], "webp" if data[8:12] == b"WEBP" else "")
            if not kind:
                kind, data = "png", image_from_pil(load_image(sample.images[0])).read()
            for suffix, part in ((kind, data), ("txt", text.encode()), ("json", described.encode())):
                entry = tarfile.TarInfo(f"{number:09d}.{suffix}")
                entry.size = len(part)
                tar.addfile(entry, io.BytesIO(part))
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return {"bytes": path.stat().st_size, "sha256": digest}
