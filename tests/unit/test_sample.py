"""The one currency: samples check themselves, marks become parts, and pictures are found wherever they are kept."""

from __future__ import annotations

import io
import multiprocessing
import os
import pickle
import tarfile
import unicodedata
import zipfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from boda.data.files import Place, archive_index, read_member
from boda.data.sample import (
    IMAGE_MARK,
    ImageRef,
    Message,
    Part,
    Sample,
    Source,
    conversation,
    image_from_pil,
    image_from_uri,
    split_marks,
)
from boda.errors import BadRow, BodaError

PICTURE = ImageRef("a.jpg")
CONTENTS = {"1.jpg": b"first", "sub/2.jpg": b"second" * 100, "그림/사과.jpg": b"apple", "empty.txt": b""}


# --- messages -------------------------------------------------------------------------------------------------------------


@given(st.lists(st.sampled_from([IMAGE_MARK, "\n", "가", " ", "<", "image>", "나다"]), max_size=12))
def test_marks_become_parts_and_no_word_is_lost(pieces: list[str]):
    text = "".join(pieces)
    parts = split_marks(text)
    assert sum(part.type == "image" for part in parts) == text.count(IMAGE_MARK)
    assert "".join(part.text for part in parts).replace("\n", "") == text.replace(IMAGE_MARK, "").replace("\n", "")
    assert all(part.text for part in parts if part.type == "text")
    if IMAGE_MARK not in text:
        assert "".join(part.text for part in parts) == text


@pytest.mark.parametrize(
    "text, expected",
    [
        ("<image>\n뭐죠?", ["", "뭐죠?"]),
        ("뭐죠?\n<image>", ["뭐죠?", ""]),
        ("<image>뭐죠?", ["", "뭐죠?"]),
        ("<image>\n\n뭐죠?", ["", "\n뭐죠?"]),
        ("앞 <image> 뒤", ["앞 ", "", " 뒤"]),
        ("<image>\n<image>\n둘", ["", "", "둘"]),
        ("", []),
    ],
)
def test_one_line_break_goes_with_its_mark(text: str, expected: list[str]):
    assert [part.text for part in split_marks(text)] == expected


def test_a_conversation():
    sample = conversation(("user", "<image>\n뭐죠?"), ("assistant", "사과예요."), images=(PICTURE,), source=Source("a.json", 3))
    assert sample.check_trainable() is sample
    assert sample.messages[0].as_dict() == {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "뭐죠?"}]}
    assert pickle.loads(pickle.dumps(sample)) == sample


@pytest.mark.parametrize(
    "turns, images, why",
    [
        ([("user", "<image><image>"), ("assistant", "나")], (PICTURE,), "2 <image> marks and the row names 1 picture"),
        ([("user", "가"), ("assistant", "나")], (PICTURE,), "0 <image> marks and the row names 1 picture"),
        ([("user", "<image>"), ("assistant", "나")], (), "1 <image> mark and the row names 0 pictures"),
        ([], (), "empty"),
        ([("tool", "가")], (), "unknown role 'tool'; roles are system, user, assistant"),
        ([("user", "가"), ("system", "나")], (), "may only come first"),
        ([("user", "가\udcb0"), ("assistant", "나")], (), "no UTF-8"),
        ([("user", "가")], (), "no assistant turn"),
        ([("user", "가"), ("assistant", "나"), ("user", "다")], (), "ends on the user"),
        ([("system", "가"), ("assistant", "나")], (), "must alternate"),
        ([("assistant", "나"), ("user", "가"), ("assistant", "나")], (), "must alternate"),
        ([("user", "가"), ("user", "가"), ("assistant", "나")], (), "must alternate"),
        ([("user", "가"), ("assistant", " \n")], (), "assistant turn is empty"),
        ([("user", " "), ("assistant", "나")], (), "user turn is empty"),
    ],
)
def test_what_is_no_conversation_to_learn_from(turns, images, why: str):
    with pytest.raises(BadRow, match=why) as caught:
        conversation(*turns, images=images, source=Source("a.json", 7)).check_trainable()
    assert str(caught.value).startswith("a.json, row 7, field ")
    str(caught.value).encode()  # can be written to a log


def test_a_mark_in_plain_text_is_refused():
    with pytest.raises(BadRow, match="stands for a picture"):
        Sample((Message("user", (Part("text", "이 <image> 표시"),)), Message("assistant", (Part("text", "네"),))))


# --- pictures -------------------------------------------------------------------------------------------------------------


@pytest.fixture(params=["folder", "zip", "deflated.zip", "tar"])
def kept(request, tmp_path) -> Place:
    """The same files in a folder, a stored zip, a deflated zip and a tar."""
    path = tmp_path / ("set." + request.param)
    if request.param == "folder":
        for name, data in CONTENTS.items():
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            (path / name).write_bytes(data)
    elif request.param == "tar":
        with tarfile.open(path, "w") as archive:
            for name, data in CONTENTS.items():
                info = tarfile.TarInfo("./" + name)
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
    else:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED if "deflated" in request.param else zipfile.ZIP_STORED) as archive:
            for name, data in CONTENTS.items():
                archive.writestr(name, data)
    return Place.of(path)


def test_folders_and_archives_read_alike(kept: Place):
    assert kept.is_folder and not kept.is_file
    assert [str(place).removeprefix(str(kept) + "/") for place in kept.files()] == sorted(CONTENTS)
    for name, data in CONTENTS.items():
        place = kept.child(name)
        assert place.is_file and not place.is_folder
        with place.open() as stream:
            assert stream.read() == data
        assert ImageRef(place.path, place.member).read() == data
        assert Place.of(str(place)) == place
    assert kept.child("sub").is_folder and kept.child("sub").child("../1.jpg").is_file
    missing = kept.child("sub/3.jpg")
    assert not missing.is_file
    with pytest.raises(BodaError, match=r"no picture at .*3\.jpg"):
        ImageRef(missing.path, missing.member).read()
    with pytest.raises(BodaError, match=r"no file at .*3\.jpg"):
        missing.open()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this platform")
def test_archives_are_read_by_forked_processes_at_once(tmp_path):
    path = tmp_path / "set.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for number in range(50):
            archive.writestr(f"{number}.bin", bytes([number]) * 5000)
    archive_index(str(path))  # the parent has it open in whatever way it does
    with multiprocessing.get_context("fork").Pool(4) as pool:
        read = pool.starmap(read_member, [(str(path), f"{number % 50}.bin") for number in range(200)])
    assert all(data == bytes([number % 50]) * 5000 for number, data in enumerate(read))


@pytest.mark.parametrize("encoding", ["cp949", "utf-8", "nfd"])
def test_korean_names_in_zips_of_every_origin(tmp_path, encoding: str):
    """Windows writes CP949 without saying so, some tools UTF-8 without saying so, macOS decomposed Hangul."""
    path = tmp_path / "set.zip"
    name = "한국 음식/비빔밥.jpg"
    with zipfile.ZipFile(path, "w") as archive:
        if encoding == "nfd":
            archive.writestr(unicodedata.normalize("NFD", name), b"data")
        else:
            stand_in = "x" * len(name.encode(encoding))
            archive.writestr(stand_in, b"data")
    if encoding != "nfd":
        path.write_bytes(path.read_bytes().replace(stand_in.encode(), name.encode(encoding)))
    assert ImageRef(str(path), name).read() == b"data"
    assert Place.of(path).child(name).is_file


def test_a_changed_archive_is_read_anew(tmp_path):
    path = tmp_path / "set.zip"
    for number in range(2):
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(f"{number}.bin", b"x" * (number + 1))
        assert list(archive_index(str(path))) == [f"{number}.bin"]


def write_parquet(path, rows: list[dict], **options) -> str:
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path, **options)
    return str(path)


def test_parquet_cells(tmp_path):
    rows = [
        {
            "image": {"bytes": b"%d" % number, "path": None},
            "plain": b"p%d" % number,
            "images": [{"bytes": b"a%d" % number}, {"bytes": b"b"}],
        }
        for number in range(10)
    ]
    path = write_parquet(tmp_path / "a.parquet", rows, row_group_size=3)
    for number in (9, 0, 5, 3):
        assert ImageRef(path, row=number, column="image").read() == b"%d" % number
        assert ImageRef(path, row=number, column="plain").read() == b"p%d" % number
        assert ImageRef(path, row=number, column="images[0]").read() == b"a%d" % number
    for ref in (
        ImageRef(path, row=10, column="image"),
        ImageRef(path, row=0, column="images[2]"),
        ImageRef(path, row=0, column="gone"),
    ):
        with pytest.raises(BodaError, match="no picture at"):
            ref.read()


def test_row_groups_in_memory_stay_within_their_budget(tmp_path):
    from boda.data.parquet import _RowGroups

    path = write_parquet(tmp_path / "a.parquet", [{"image": bytes(1000)} for _ in range(40)], row_group_size=4)
    groups = _RowGroups(budget=10_000)
    for group in [0, 1, 2, 3, 4, 5, 0]:
        assert len(groups.get(path, group, "image")) == 4
        assert sum(values.nbytes for values in groups.kept.values()) <= 10_000
    assert list(groups.kept)[-1] == (path, 0, "image")


@pytest.mark.parametrize(
    "ref",
    [
        ImageRef("a.jpg"),
        ImageRef("a.zip", member="그림/1.jpg"),
        ImageRef("a.parquet", row=0, column="images[1]"),
        ImageRef(data=b"\x00\xff"),
    ],
)
def test_references_survive_being_written_down(ref: ImageRef):
    assert ImageRef.from_json(ref.to_json()) == ref
    assert "\n" not in ref.to_json()
    assert ref.key == ImageRef.from_json(ref.to_json()).key


def test_pictures_in_memory():
    from PIL import Image

    image = Image.new("RGB", (3, 2), (1, 2, 3))
    ref = image_from_pil(image)
    assert ref.key == image_from_pil(image).key != image_from_pil(image.rotate(90, expand=True)).key
    assert image_from_uri("data:image/png;base64,aGk=").read() == b"hi"
    for uri in ("data:image/png;base64,???", "data:image/png,raw", "data:"):
        with pytest.raises(BodaError, match="data: address"):
            image_from_uri(uri)
