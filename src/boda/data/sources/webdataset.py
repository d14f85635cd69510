"""Tar shards as webdataset and img2dataset write them: KEY.jpg, KEY.txt and KEY.json side by side, read in place.

A shard is walked once; where its members lie is kept in the cache for as long as its size and time stay the same.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import tarfile
from collections.abc import Callable, Iterable
from typing import NamedTuple

from boda.data.files import read_part
from boda.data.rows import Rows
from boda.data.sample import ImageRef, Sample
from boda.data.sources import captions
from boda.data.sources.common import Options, Row
from boda.errors import BadRow, BodaError
from boda.files import cache_folder, whole_file

PICTURES = ("jpg", "jpeg", "png", "webp")
_MEMBER = re.compile(r"(?:\./)?((?:.*/)?[^/.]+)\.([^/]+)")  # a key goes up to the first dot of the base name
_APART = "its parts stand apart, or the key comes twice: pack it in the order of names (tar --sort=name)"


Parts = dict[str, tuple[int, int]]  # {suffix: (offset, size)} of a key


class Shard(NamedTuple):
    """What lies in a shard: (key, what is wrong with its order or "", parts) for each key; how the tar breaks off, or ""."""

    groups: list[tuple[str, str, Parts]]
    cut: str

    @property
    def samples(self) -> int:
        """How many pictures with texts can be read of it."""
        return sum(not (problem or _problem(parts)) for _, problem, parts in self.groups)


def shard_index(path: str) -> Shard:
    """The index of a shard, from the cache or by walking the tar. Raises BodaError if it is none."""
    status = os.stat(path)
    state = [2, os.path.abspath(path), status.st_size, status.st_mtime_ns]
    kept = cache_folder() / "shards" / f"{hashlib.sha256(os.fsencode(os.path.abspath(path))).hexdigest()[:32]}.json"
    with contextlib.suppress(OSError, ValueError, TypeError):
        found, groups, cut = json.loads(kept.read_text(encoding="utf-8"))
        if found == state:
            return Shard(groups, cut)
    shard = _walk(path, status.st_size)
    # Where nothing can be kept the tar is walked again, that is all.
    with contextlib.suppress(OSError), whole_file(kept, is_shared=True) as partial:
        partial.write_text(json.dumps([state, *shard]), encoding="utf-8")
    return shard


def _walk(path: str, length: int) -> Shard:
    groups: list[list] = []
    keys: set[str] = set()
    end = 0  # of what has been read whole
    with open(path, "rb") as stream:
        try:
            with tarfile.open(fileobj=stream, mode="r:") as tar:
                for info in tar:
                    tar.members = []  # type: ignore[attr-defined]  # as in boda.data.files
                    if info.offset_data + info.size > length:
                        break
                    end = info.offset_data + -(-info.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
                    match = _MEMBER.fullmatch(info.name)
                    if not info.isfile() or match is None:
                        continue
                    key, suffix = match[1], match[2].lower()
                    if not groups or groups[-1][0] != key:
                        groups.append([key, _APART if key in keys else "", {}])
                        keys.add(key)
                    if suffix in groups[-1][2]:
                        groups[-1][1] = f"two members .{suffix}; a key has one of each"
                    groups[-1][2][suffix] = (info.offset_data, info.size)
        except tarfile.TarError as error:
            stream.seek(0)
            if stream.read(2) == b"\x1f\x8b":
                raise BodaError(f"{path} is compressed with gzip, whatever its name says: gunzip it first") from error
            if not end:
                raise BodaError(f"{path} is no tar ({error}); fetch it again") from error
        stream.seek(end)
        # More than some zeros after the end: a file made in full before its bytes came, or several tars in a row.
        cut = stream.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE) or length - end > 1 << 16
    if cut and (len(groups) < 2 or set(groups[-1][2]) != set(groups[-2][2])):
        del groups[-1:]  # a part of it lay beyond the end
    why = f"it breaks off after {end:,} of {length:,} bytes; what is whole, {len(groups):,} keys, is used: fetch it again"
    return Shard([(key, problem, parts) for key, problem, parts in groups], why if cut else "")


def _problem(parts: Parts) -> str:
    """What keeps a group from being a sample, or nothing."""
    pictures = [suffix for suffix in parts if suffix in PICTURES]
    if len(pictures) != 1:
        return f"{'several pictures' if pictures else 'no picture'} (.jpg, .jpeg, .png, .webp); it has {', '.join(parts)}"
    if not parts[pictures[0]][1]:
        return f"its .{pictures[0]} is empty (0 bytes); fetch it again"
    return "" if {"txt", "json"} & set(parts) else f"no text (.txt, .json); it has {', '.join(parts)}"


def rows(options: Options) -> Rows:
    """One row for each key: the fields of its json, its text as `txt`, its picture as a reference into the shard."""
    if not options.place.is_archive or options.place.suffix != ".tar":
        raise BodaError(f"{options.name} is no tar shard; pictures and texts in a folder or zip are format captions")
    return shard_rows(options, _problem, _cells)


def _cells(options: Options, key: str, parts: Parts) -> dict:
    path, suffix = options.place.path, next(suffix for suffix in parts if suffix in PICTURES)
    image = ImageRef(path, f"{key}.{suffix}", offset=parts[suffix][0], size=parts[suffix][1])
    if options.probe:
        options.check(image)
    text = read_part(path, *parts["txt"]).decode("utf-8-sig", "surrogateescape").strip() if "txt" in parts else ""
    return {"image": image} | ({"txt": text} if text else {})


def shard_rows(options: Options, problem_of: Callable[[Parts], str], cells_of: Callable[[Options, str, Parts], dict]) -> Rows:
    """One row for each key of a tar shard: the fields of its json, and `cells_of` its parts where these have no problem."""
    path = options.place.path
    shard = shard_index(path)
    for key, problem, parts in shard.groups:
        try:
            if problem := problem or problem_of(parts):
                raise BodaError(problem)
            own = cells_of(options, key, parts)
            cells = json.loads(read_part(path, *parts["json"])) if "json" in parts else {}
            if not isinstance(cells, dict):
                raise BodaError("its json is no object {...}")
            yield key, cells | own
        except (ValueError, RecursionError) as error:  # a BodaError, too
            why = str(error) if isinstance(error, BodaError) else f"its json cannot be read ({error})"
            yield key, BadRow(options.name, key, "group", why)
    if shard.cut:
        yield "end", BadRow(options.name, "end", "shard", shard.cut)


def samples(row: Row) -> Iterable[Sample]:
    """A caption, or the conversation that the json holds (`messages`) if nothing else is asked for."""
    options, cells = row.options, row.cells
    if "txt" in cells and "caption" not in options.columns:
        cells["caption"] = cells["txt"]
    talk = "messages" in cells and not (options.question or options.answer or "caption" in options.columns)
    return [row.conversation("messages", [cells["image"]])] if talk else captions.samples(row)
