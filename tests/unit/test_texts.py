"""Text read ahead by another process: the same texts in the same order, its errors, and an end when nobody wants more."""

from __future__ import annotations

import json
import multiprocessing
from functools import partial
from pathlib import Path

import pytest

from boda.data.texts import GROUP, read_ahead, texts_in
from boda.errors import BodaError


def written(path: Path, rows: list) -> str:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def test_what_is_read_ahead_is_what_is_there(tmp_path):
    rows = [{"text": f"{number}번 글"} for number in range(2 * GROUP + 7)]
    paths = [written(tmp_path / "a.jsonl", rows), written(tmp_path / "b.jsonl", [{"text": "끝"}])]
    found = list(read_ahead(partial(texts_in, paths)))
    assert found == list(texts_in(paths)) == [*(row["text"] for row in rows), "끝"]
    assert not multiprocessing.active_children()


def test_its_errors_are_raised_here(tmp_path):
    torn = written(tmp_path / "a.jsonl", [{"text": "하나"}, {"text": ""}, {"text": ""}])
    with pytest.raises(BodaError, match=r"(?s)2 of 3 rows cannot be used.*'text' is empty.*boda data check lists all"):
        list(read_ahead(partial(texts_in, [torn])))
    (tmp_path / "old.txt").write_bytes("가나다라마바사".encode("cp949") * 20)
    with pytest.raises(BodaError, match=r"is in CP949.*iconv"):
        list(read_ahead(partial(texts_in, [str(tmp_path / "old.txt")])))
    with pytest.raises(BodaError, match="the process that reads the text stopped"):
        list(read_ahead(partial(stop, 3)))


def stop(code: int):
    import os

    os._exit(code)


def test_it_ends_when_nobody_wants_more(tmp_path):
    path = written(tmp_path / "a.jsonl", [{"text": f"{number}번 글"} for number in range(5 * GROUP)])
    reading = read_ahead(partial(texts_in, [path]))
    assert next(reading) == "0번 글"
    reading.close()
    assert not multiprocessing.active_children()
