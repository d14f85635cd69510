"""Tar shards: read in place, grouped by key, torn and wrong ones told; written and read back equal; the webdataset library agrees."""

from __future__ import annotations

import gzip
import hashlib
import io
import itertools
import json
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from boda.data import shards
from boda.data.files import matching, read_part
from boda.data.images import load_image
from boda.data.prepared import prepare
from boda.data.render import Rendered
from boda.data.sample import ImageRef, Sample, conversation
from boda.data.shards import write_shards
from boda.data.sources import BadRows, read, resolve_data, webdataset
from boda.data.sources.webdataset import shard_index
from boda.errors import BadRow, BodaError
from boda.recipe.schema import Data


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch) -> Path:
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("BODA_CACHE", str(folder))
    return folder


def encoded(seed: int, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (5, 7, 3), dtype=np.uint8)).save(buffer, kind)
    return buffer.getvalue()


JPEG, PNG = encoded(1, "JPEG"), encoded(2)


def tar(path: Path, members: list[tuple[str, bytes | str]], format: int = tarfile.PAX_FORMAT) -> Path:
    with tarfile.open(path, "w", format=format) as file:
        for name, data in members:
            data = data.encode() if isinstance(data, str) else data
            info = tarfile.TarInfo(name)
            info.size = len(data)
            file.addfile(info, io.BytesIO(data))
    return path


def whole(key: str, text: str, **fields) -> list[tuple[str, bytes | str]]:
    described = json.dumps({"caption": text, "key": key, **fields}, ensure_ascii=False)
    return [(f"{key}.jpg", JPEG), (f"{key}.txt", text), (f"{key}.json", described)]


def said(path, **rest) -> list[tuple[str, str]]:
    """(row, answer) of every sample."""
    return [(sample.source.row, sample.messages[-1].text) for sample in read(path, "webdataset", **rest)]


def bad_of(path, **rest) -> dict[str, str]:
    bad = BadRows()
    list(read(path, "webdataset", bad_rows=bad, **rest))
    return {str(row.row): row.why for row in bad}


def captions(number: int, **source) -> list[Sample]:
    """Captions as the source makes them, pictures of several kinds in memory."""
    kinds = itertools.cycle(["PNG", "JPEG", "WEBP"])
    pictures = [ImageRef(data=encoded(seed, kind)) for seed, kind in zip(range(number), kinds)]
    return [
        conversation(("user", "<image>"), ("assistant", f"그림 {index}번"), images=(picture,), **source)
        for index, picture in enumerate(pictures)
    ]


def test_a_shard_is_read_in_place(tmp_path):
    path = tar(tmp_path / "a.tar", [*whole("x/001", "사과 하나"), ("x/003.webp", encoded(3, "WEBP")), ("x/003.txt", "감\n")])
    samples = list(read(path, "webdataset", licence="CC0"))
    assert [[(m.role, m.text) for m in sample.messages] for sample in samples] == [
        [("user", ""), ("assistant", text)] for text in ("사과 하나", "감")
    ]
    first, last = samples[0], samples[-1]
    assert first.messages[0].num_images == 1 and first.source.licence == "CC0" and first.source.row == "x/001"
    assert first.images[0].read() == JPEG and str(first.images[0]) == f"{path}!x/001.jpg"
    assert last.messages[1].text == "감" and load_image(last.images[0]).size == (7, 5)
    assert ImageRef.from_json(first.images[0].to_json()) == first.images[0]


def test_a_key_ends_at_the_first_dot_of_its_base_name(tmp_path):
    path = tar(
        tmp_path / "a.tar",
        [("v1.2/a.seg.png", PNG), ("v1.2/a.JPG", JPEG), ("./v1.2/a.txt", "사과"), ("v1.2/.b.jpg", b""), ("README", "")],
    )
    [sample] = read(path, "webdataset")
    assert sample.source.row == "v1.2/a" and sample.images[0].read() == JPEG


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_and_korean_names(tmp_path, format):
    long = "그림" * 12 + "/" + "가" * 20 if format == tarfile.USTAR_FORMAT else "긴 이름/" + "가나다" * 60
    path = tar(tmp_path / "a.tar", [*whole(long, "하나"), *whole(long + "나", "둘")], format)
    assert said(path) == [(long, "하나"), (long + "나", "둘")]
    assert all(sample.images[0].read() == JPEG for sample in read(path, "webdataset"))


def test_text_and_fields(tmp_path):
    """The text is KEY.txt, else the json's caption; `columns` chooses another field; fields fill templates and `where`."""
    members = [
        *whole("a", "사과", ko="빨간 사과", license="CC-BY", status="success"),
        ("b.png", PNG), ("b.json", '{"caption": "배", "ko": "노란 배", "status": "no"}'),
        ("c.jpg", JPEG), ("c.txt", " "), ("c.json", '{"caption": "감", "ko": "주황 감", "status": "success"}'),
    ]  # fmt: skip
    path = tar(tmp_path / "a.tar", members)
    assert [text for _, text in said(path)] == ["사과", "배", "감"]
    assert [text for _, text in said(path, columns={"caption": "ko"})] == ["빨간 사과", "노란 배", "주황 감"]
    assert [key for key, _ in said(path, where={"status": "success"})] == ["a", "c"]
    asked = list(read(path, "webdataset", question="무엇인가요?", answer="{caption:이다다}."))
    assert [(m.text) for m in asked[0].messages] == ["무엇인가요?", "사과다."]
    assert [sample.source.licence for sample in asked] == ["CC-BY", "", ""]


def test_bad_groups_are_told_with_shard_and_key(tmp_path):
    members = [
        *whole("good", "사과"),
        ("nopicture.txt", "글"), ("nopicture.json", "{}"),
        ("notext.jpg", JPEG), ("notext.cls", "3"),
        ("badjson.jpg", JPEG), ("badjson.json", '{"caption": '),
        ("listjson.jpg", JPEG), ("listjson.json", "[1]"),
        ("empty.jpg", b""), ("empty.txt", "글"),
        ("broken.jpg", b"<html>no</html>"), ("broken.txt", "글"),
        ("blank.jpg", JPEG), ("blank.txt", " \n"),
        ("bytes.jpg", JPEG), ("bytes.txt", b"\xb0\xa1"),
        ("two.jpg", JPEG), ("two.png", PNG), ("two.txt", "글"),
        ("twice.jpg", JPEG), ("twice.jpg", JPEG), ("twice.txt", "글"),
        ("good.jpg", JPEG), ("good.txt", "다시"),
    ]  # fmt: skip
    path = tar(tmp_path / "a.tar", members)
    bad = BadRows()
    samples = list(read(path, "webdataset", bad_rows=bad))
    assert [sample.messages[-1].text for sample in samples] == ["사과"] and bad.seen == 12
    assert {row.where for row in bad} == {str(path)}
    expected = {
        "nopicture": "no picture", "notext": "no text", "badjson": "json cannot be read", "listjson": "no object",
        "empty": "0 bytes", "broken": "web page", "blank": "no caption", "bytes": "UTF-8", "two": "several pictures",
        "twice": "two members .jpg", "good": "stand apart",
    }  # fmt: skip
    told = {str(row.row): row.why for row in bad}
    assert set(told) == set(expected) and all(words in told[key] for key, words in expected.items()), told
    with pytest.raises(BadRow, match=r"a\.tar, row nopicture"):
        list(read(path, "webdataset"))
    assert shard_index(str(path)).samples == 6  # what only its content shows is not known to the index


def test_a_torn_shard_gives_what_is_whole_and_says_so_once(tmp_path):
    path = tar(tmp_path / "a.tar", [member for key in range(5) for member in whole(f"{key:03d}", f"그림 {key}")])
    data = path.read_bytes()
    members = list(tarfile.open(path))
    size = -(-(members[-1].offset_data + members[-1].size) // 512) * 512
    places = [
        place for info in members for place in (info.offset, info.offset + 200, info.offset_data, info.offset_data + info.size)
    ]
    for cut in [place - back for place in [*places[3:], size + 512, size + 513] for back in (0, 1)]:
        path.write_bytes(data[:cut])
        bad = BadRows()
        samples = list(read(path, "webdataset", bad_rows=bad))
        ends = sum(info.offset_data + info.size <= cut for info in members)
        complete = ends // 3 if ends > 3 else 0  # the first key alone: what belongs to it cannot be known
        assert [sample.source.row for sample in samples] == [f"{key:03d}" for key in range(complete)], cut
        told = [row.why for row in bad]
        assert len(told) == (cut < size + 512) and all("breaks off" in why and "fetch it again" in why for why in told), cut


def test_what_a_download_leaves(tmp_path):
    """A file made in full before its bytes came; a page of words; nothing; a tar in gzip under a plain name."""
    path = tar(tmp_path / "a.tar", [*whole("1", "하나"), *whole("2", "둘"), *whole("3", "셋")])
    data = path.read_bytes()
    start = next(info.offset for info in tarfile.open(path) if info.name == "3.jpg")
    path.write_bytes(data[:start] + bytes(200_000))
    assert list(bad_of(path)) == ["end"] and shard_index(str(path)).samples == 2
    for content, words in ((b"<html>", "no tar"), (b"", "empty file"), (gzip.compress(data), "gunzip")):
        path.write_bytes(content)
        with pytest.raises(BodaError, match=words):
            bad_of(path)
    with pytest.raises(BodaError, match="compressed tar"):
        read(tmp_path / "a-{0..3}.tar.gz", "webdataset")
    (tmp_path / "b.tar.gz").write_bytes(b"")
    with pytest.raises(BodaError, match="compressed tar"):
        read(tmp_path, "webdataset")
    (tmp_path / "c.zip").write_bytes(b"")
    with pytest.raises(BodaError, match="no tar shard"):
        bad_of(tmp_path / "c.zip")


def test_patterns_folders_and_ranges(tmp_path):
    for number in range(12):
        tar(tmp_path / f"laion-{number:05d}.tar", whole(f"{number:03d}", f"그림 {number}"))
    every = [(f"{number:03d}", f"그림 {number}") for number in range(12)]
    for name in ("laion-{00000..00011}.tar", "laion-*.tar", "laion-000{0..1}*.ta?", "."):
        assert said(tmp_path / name) == every, name
        assert [sample.source.row for sample in read(tmp_path / name)] == [key for key, _ in every]  # told without a format
        assert resolve_data(name, tmp_path) == tmp_path / name
    assert said(tmp_path / "laion-{00002..00003}.tar") == every[2:4]
    assert matching(tmp_path / "x{0..1}-{8..10}") == []
    with pytest.raises(BodaError, match=r"2 of 12 are not there, the first .*laion-00012\.tar"):
        read(tmp_path / "laion-{00002..00013}.tar", "webdataset")
    with pytest.raises(BodaError, match="no data"):
        read(tmp_path / "coyo-{00002..00013}.tar", "webdataset")
    # The tables that img2dataset leaves beside the shards are no reason to doubt.
    (tmp_path / "00000.json").write_text("[]")
    for name in ("laion-00000.parquet", "laion-00000_stats.json"):
        (tmp_path / name).write_text("")
    assert said(tmp_path) == every
    with pytest.raises(BodaError, match="several data files"):
        read(tmp_path)
    # A tar of pictures and texts in any order is no shard, and is still read.
    loose = tar(tmp_path / "loose.tar", [("1.jpg", JPEG), ("2.jpg", JPEG), ("1.txt", "하나"), ("2.txt", "둘")])
    assert [sample.messages[-1].text for sample in read(loose)] == ["하나", "둘"]
    assert Data(source="webdataset", path="laion-{00000..00041}.tar").source == "webdataset"


def test_a_second_opening_does_not_walk_the_tar(tmp_path, cache, monkeypatch):
    path = tar(tmp_path / "a.tar", [*whole("1", "하나"), *whole("2", "둘"), ("3.txt", "셋")])
    first = shard_index(str(path))
    assert first.samples == 2 and len(list((cache / "shards").iterdir())) == 1

    def refuse(*arguments):
        raise AssertionError("the tar was walked again")

    monkeypatch.setattr(webdataset, "_walk", refuse)
    again = shard_index(str(path))
    assert json.dumps(again.groups) == json.dumps(first.groups) and again.samples == 2
    assert list(bad_of(path)) == ["3"]
    os.utime(path, ns=(1, 1))
    with pytest.raises(AssertionError):
        shard_index(str(path))
    monkeypatch.undo()
    monkeypatch.setenv("BODA_CACHE", str(cache))
    for broken in ("", "[]", "[[1], 2]", "{"):
        next((cache / "shards").iterdir()).write_text(broken)
        assert shard_index(str(path)).samples == 2
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("BODA_CACHE", str(tmp_path / "file"))  # where nothing can be kept it is read all the same
    assert len(said(path, bad_rows=BadRows())) == 2


def test_a_shard_written_anew_is_noticed_when_its_pictures_are_read(tmp_path):
    path = tar(tmp_path / "a.tar", [*whole("1", "하나"), *whole("2", "둘")])
    image = list(read(path, "webdataset"))[1].images[0]
    tar(path, [*whole("1", "하나, 그리고 더" * 40), *whole("2", "둘")])
    with pytest.raises(BodaError, match="not what it was"):
        image.read()
    path.unlink()
    with pytest.raises(BodaError, match="no picture at"):
        image.read()
    path.write_bytes(b"")
    with pytest.raises(BodaError, match="not what it was"):
        read_part(str(path), image.offset, image.size)


def test_written_shards_read_back_equal(tmp_path):
    odd = [
        conversation(
            ("system", "짧게 답해요."),
            ("user", "<image>\n무엇인가요?"),
            ("assistant", " 사과예요.\n"),
            images=(ImageRef(data=PNG),),
        ),
        conversation(
            ("user", "이 <image> 그림은?"),
            ("assistant", "배"),
            ("user", "색은?"),
            ("assistant", "노랑"),
            images=(ImageRef(data=JPEG),),
        ),
        conversation(
            ("user", "<image>"), ("assistant", "감"), images=(ImageRef(data=encoded(5, "BMP")),), tags=(("종류", "과일"),)
        ),
    ]
    samples = captions(7) + odd
    made = write_shards(samples, tmp_path / "out", per_shard=4)
    assert made["samples"] == 10 and [each["samples"] for each in made["shards"]] == [4, 4, 2]
    assert made == json.loads((tmp_path / "out" / "shards.json").read_text())
    for each in made["shards"]:
        data = (tmp_path / "out" / each["name"]).read_bytes()
        assert len(data) == each["bytes"] and hashlib.sha256(data).hexdigest() == each["sha256"]
    back = list(read(tmp_path / "out", "webdataset"))
    assert [sample.messages for sample in back] == [sample.messages for sample in samples]
    assert [sample.tags for sample in back] == [sample.tags for sample in samples]
    assert [sample.images[0].read() for sample in back[:-1]] == [sample.images[0].read() for sample in samples[:-1]]
    assert load_image(back[-1].images[0]).tobytes() == load_image(samples[-1].images[0]).tobytes()
    assert [sample.source.row for sample in back] == [f"{number:09d}" for number in range(10)]
    # What was read can be written again, to the same bytes but for where it says it came from.
    write_shards(back, tmp_path / "again", per_shard=4)
    assert [s.messages for s in read(tmp_path / "again", "webdataset")] == [s.messages for s in samples]


@given(st.lists(st.text(min_size=1).filter(lambda text: text.strip() and "<image>" not in text), min_size=1, max_size=4))
def test_any_caption_comes_back(tmp_path_factory, texts):
    folder = tmp_path_factory.mktemp("any")
    picture = (ImageRef(data=PNG),)
    samples = [conversation(("user", "<image>"), ("assistant", text), images=picture) for text in texts]
    write_shards(samples, folder)
    assert [sample.messages for sample in read(folder / "*.tar", "webdataset")] == [sample.messages for sample in samples]


def test_writing_goes_on_where_it_was_stopped(tmp_path, monkeypatch):
    samples = captions(11)
    whole_run = write_shards(samples, tmp_path / "whole", per_shard=3)

    def stops_after(number):
        yield from samples[:number]
        raise KeyboardInterrupt

    folder = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        write_shards(stops_after(8), folder, per_shard=3)
    assert sorted(path.name for path in folder.iterdir()) == ["00000.tar", "00001.tar", "shards.json"]
    written: list[str] = []
    inner = shards._write
    monkeypatch.setattr(shards, "_write", lambda path, *rest: written.append(path.name) or inner(path, *rest))
    assert write_shards(samples, folder, per_shard=3) == whole_run
    assert written == ["00002.tar", "00003.tar"]
    (folder / "00001.tar").write_bytes(b"torn")
    written.clear()
    assert write_shards(samples, folder, per_shard=3) == whole_run and written == ["00001.tar"]
    assert not list(folder.glob("*.partial"))
    for others, per_shard in ((captions(12)[1:], 3), (samples, 4), (samples[:6], 3)):
        with pytest.raises(BodaError, match="choose an empty folder"):
            write_shards(others, folder, per_shard=per_shard)
    assert write_shards(samples, folder, per_shard=3) == whole_run


def test_what_cannot_be_written(tmp_path):
    [sample] = captions(1)
    two = conversation(("user", "<image><image>"), ("assistant", "둘"), images=sample.images * 2)
    for wrong in (
        two,
        conversation(("user", "안녕"), ("assistant", "네")),
        Sample(sample.messages, sample.images, rejected="아니"),
    ):
        with pytest.raises(BadRow, match="one picture"):
            write_shards([sample, wrong], tmp_path / "out")
    missing = conversation(("user", "<image>"), ("assistant", "없다"), images=(ImageRef("nowhere.png"),))
    with pytest.raises(BodaError, match=r"no picture at nowhere\.png"):
        write_shards([sample, missing], tmp_path / "out")
    assert not list((tmp_path / "out").glob("*.tar"))
    (tmp_path / "file").write_text("")
    with pytest.raises(BodaError, match="could not write shards"):
        write_shards([sample], tmp_path / "file")


class Lengths:
    """A renderer for preparing: one token a character of the answer."""

    num_image_tokens, image_id, width = 1, 0, 1

    def render_all(self, sample: Sample) -> list[Rendered]:
        ids = np.arange(len(sample.messages[-1].text), dtype=np.int32)  # the picture's token first
        return [Rendered(ids, np.ones(len(ids), dtype=bool), sample.images, 1)]

    def length(self, rendered: Rendered) -> int:
        return len(rendered.input_ids)


def test_prepared_data_know_the_shard_of_each_sample(tmp_path):
    write_shards(captions(7), tmp_path / "shards", per_shard=3)
    (tmp_path / "loose.png").write_bytes(PNG)
    (tmp_path / "rows.json").write_text('[{"image": "loose.png", "caption": "감"}]')
    sources = [lambda: read(tmp_path / "shards", "webdataset"), lambda: read(tmp_path / "rows.json")]
    data = prepare([(source, 1.0) for source in sources], Lengths(), tmp_path / "prepared", "key", print)
    assert data.shards.tolist() == [0, 0, 0, 1, 1, 1, 2, -1] and data.name(3).endswith("00001.tar, row 000000003")
    assert data.row(4).images[0].read() == captions(7)[4].images[0].read()


def test_the_webdataset_library_reads_ours_and_we_read_its(tmp_path):
    library = pytest.importorskip("webdataset")
    samples = captions(6)
    write_shards(samples, tmp_path / "ours", per_shard=4)
    pattern = str(tmp_path / "ours" / "{00000..00001}.tar")
    theirs = list(library.WebDataset(pattern, shardshuffle=False, empty_check=False))
    ours = list(read(pattern, "webdataset"))
    assert len(theirs) == len(ours) == 6
    for their, our in zip(theirs, ours):
        picture = next(their[suffix] for suffix in webdataset.PICTURES if suffix in their)
        assert (their["__key__"], their["txt"].decode(), picture) == (
            our.source.row,
            our.messages[-1].text,
            our.images[0].read(),
        )
        assert json.loads(their["json"])["caption"] == our.messages[-1].text
    with library.TarWriter(str(tmp_path / "b.tar")) as writer:
        for index, sample in enumerate(samples):
            described = {"caption": sample.messages[-1].text, "url": "", "key": f"{index:09d}"}
            picture = sample.images[0].read()
            writer.write({"__key__": f"{index:09d}", "jpg": picture, "txt": sample.messages[-1].text, "json": described})
    back = list(read(tmp_path / "b.tar", "webdataset"))
    assert [sample.messages for sample in back] == [sample.messages for sample in samples]
    assert [sample.images[0].read() for sample in back] == [sample.images[0].read() for sample in samples]
