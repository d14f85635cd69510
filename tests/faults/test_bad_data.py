"""Bad pictures and bad rows: each is refused with its file, row and field, why, and what would work; the good rows are kept."""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageFile

from boda.data.images import load_image, probe_image
from boda.data.rows import list_rows
from boda.data.sample import ImageRef
from boda.data.sources import BadRows, read
from boda.errors import BadRow, BodaError

GOOD = {
    "image": "good.png",
    "conversations": [{"from": "human", "value": "<image>\n뭐죠?"}, {"from": "gpt", "value": "사과예요."}],
}


def encoded(image: Image.Image, format: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def noise(width: int = 60, height: int = 40) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims this size and holds no pixels: what a decompression bomb looks like before it goes off."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.fixture
def folder(tmp_path) -> Path:
    (tmp_path / "good.png").write_bytes(encoded(noise()))
    return tmp_path


# --- pictures -------------------------------------------------------------------------------------------------------------

HEADER_FAULTS = {
    "missing.jpg": (None, "no picture at .*missing.jpg"),
    "empty.jpg": (b"", "empty.jpg is empty .0 bytes.; fetch it again"),
    "page.jpg": (b"<!DOCTYPE html><html>404", "page.jpg is no picture but text .a web page or SVG.*JPEG, PNG, WebP"),
    "pointer.png": (b"version https://git-lfs.github.com/spec/v1\noid", "a Git LFS pointer: run git lfs pull"),
    "text.jpg": ("사과 그림".encode(), "text.jpg is no picture: it begins with"),
    "vector.eps": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "vector.eps is no picture"),
    "stub.jpg": (b"\xff\xd8\xff\xe0\x00\x10JFIF", "stub.jpg .*cut off"),
    "bomb.png": (png_header(20_000, 20_000), "bomb.png has over 100 megapixels"),
    "large.png": (png_header(10_000, 10_000), "10000 x 10000 pixels .100 megapixels.*scale it down"),
    "flat.png": (png_header(0, 10), "flat.png .*0 x 10|flat.png is (no picture|damaged)"),
    "thread.png": (png_header(5, 5000), "5 x 5000 pixels, more than 200 times longer than wide; crop it"),
}
BODY_FAULTS = {
    "torn.jpg": (encoded(noise(), "JPEG")[:-400], "torn.jpg is cut off: its end is missing"),
    "torn_progressive.jpg": (encoded(noise(), "JPEG", progressive=True)[:-400], "torn_progressive.jpg is cut off"),
    "torn.png": (encoded(noise())[:-400], "torn.png is cut off"),
    "hollow.png": (png_header(40, 30), "hollow.png is (cut off|damaged)"),
    "torn.webp": (encoded(noise(), "WEBP")[:-400], "torn.webp is (cut off|damaged)"),
    "float.tif": (encoded(Image.fromarray(np.array([[0.0, 900.0]], np.float32)), "TIFF"), "save it as 8-bit"),
    "nan.tif": (encoded(Image.fromarray(np.array([[0.0, np.nan]], np.float32)), "TIFF"), "save it as 8-bit"),
}


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("name", [*HEADER_FAULTS, *BODY_FAULTS])
@pytest.mark.parametrize("kept", ["file", "bytes", "zip"])
def test_bad_pictures_are_refused_by_name(tmp_path, name: str, kept: str):
    data, why = {**HEADER_FAULTS, **BODY_FAULTS}[name]
    ref = ImageRef(str(tmp_path / name))
    if kept == "zip":
        with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
            archive.writestr("other.txt", b"")
            if data is not None:
                archive.writestr(name, data)
        ref = ImageRef(str(tmp_path / "set.zip"), name)
    elif data is not None:
        (tmp_path / name).write_bytes(data)
    if kept == "bytes":
        if data is None:
            return
        ref, why = ImageRef(data=data), why.replace(name, "in memory")
    with pytest.raises(BodaError, match=why):
        load_image(ref)
    if name in HEADER_FAULTS:
        with pytest.raises(BodaError, match=why):
            probe_image(ref)


@given(
    st.floats(0, 1, exclude_max=True),
    st.sampled_from([("JPEG", {}), ("JPEG", {"progressive": True}), ("PNG", {}), ("BMP", {})]),
)
def test_a_picture_cut_anywhere_is_never_half_grey(share: float, kind):
    data = encoded(noise(), kind[0], **kind[1])
    with pytest.raises(BodaError):
        load_image(data[: int(share * (len(data) - 20))])


def test_a_library_that_asks_for_lenient_decoding_changes_nothing(monkeypatch):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    with pytest.raises(BodaError, match="cut off"):
        load_image(encoded(noise(), "JPEG")[:-400])
    assert ImageFile.LOAD_TRUNCATED_IMAGES is True


@given(st.data())
def test_any_damage_gives_a_picture_or_one_clear_error(data):
    format = data.draw(st.sampled_from(["JPEG", "PNG", "GIF", "WEBP", "BMP"]))
    broken = bytearray(encoded(noise(12, 9), format))
    for _ in range(data.draw(st.integers(1, 6))):
        broken[data.draw(st.integers(0, len(broken) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(BodaError):
        assert load_image(bytes(broken)).mode == "RGB"


@pytest.mark.parametrize("size", [(0, 5), (5, 0)])
def test_a_picture_of_zero_size_in_memory(size):
    with pytest.raises(BodaError, match="there is nothing in it"):
        load_image(Image.new("RGB", size))


# --- rows -----------------------------------------------------------------------------------------------------------------


def turns(*pairs) -> list[dict]:
    return [{"from": speaker, "value": value} for speaker, value in pairs]


BAD_ROWS = {
    "ends on the user": (
        {"conversations": turns(("human", "가"), ("gpt", "나"), ("human", "다"))},
        "messages",
        "ends on the user",
    ),
    "no assistant turn": ({"conversations": turns(("human", "가"))}, "messages", "no assistant turn"),
    "empty answer": ({"conversations": turns(("human", "가"), ("gpt", " "))}, "messages", "assistant turn is empty"),
    "two marks, one picture": (
        {"image": "good.png", "conversations": turns(("human", "<image><image>가"), ("gpt", "나"))},
        "images",
        "2 <image> marks and the row names 1 picture",
    ),
    "a picture, no mark": (
        {"image": "good.png", "conversations": turns(("human", "가"), ("gpt", "나"))},
        "images",
        "write one <image> where each belongs",
    ),
    "a mark, no picture": ({"conversations": turns(("human", "<image>가"), ("gpt", "나"))}, "images", "names 0 pictures"),
    "missing picture": ({**GOOD, "image": "gone.png"}, "image", r"no picture at .*gone\.png.*`images:` names another folder"),
    "second picture missing": ({**GOOD, "image": ["good.png", "gone.png"]}, r"image\[1\]", "no picture at"),
    "web address": ({**GOOD, "image": "https://example.com/a.png"}, "image", "not fetched: download https://example.com/a.png"),
    "picture is a number": ({**GOOD, "image": 3}, "image", "this is a number"),
    "broken data address": ({**GOOD, "image": "data:image/png;base64,???"}, "image", "data: address"),
    "data address of no picture": ({**GOOD, "image": "data:image/png;base64,aGk="}, "image", "no picture"),
    "no conversations": ({"image": "good.png", "dialog": []}, "conversations", "no conversations; the row has image, dialog"),
    "empty conversations": ({"conversations": []}, "conversations", "is empty"),
    "turns are text": ({"conversations": "안녕"}, "conversations", "a list of turns is needed; this is text"),
    "a turn is text": (
        {"conversations": ["안녕"]},
        r"conversations\[0\]",
        "`from` and `value`, or `role` and `content`; this is text",
    ),
    "a turn lacks its value": (
        {"conversations": [{"from": "human", "text": "가"}]},
        r"conversations\[0\]",
        "this has from, text",
    ),
    "a value is a number": ({"conversations": turns(("human", 3), ("gpt", "나"))}, r"conversations\[0\]", "this is a number"),
    "a value is null": ({"conversations": turns(("human", None), ("gpt", "나"))}, r"conversations\[0\]", "this is empty"),
    "unknown speaker": (
        {"conversations": turns(("bot", "가"))},
        r"conversations\[0\]",
        "unknown speaker 'bot'; speakers are human, user",
    ),
    "unknown part": (
        {"conversations": [{"role": "user", "content": [{"type": "video", "video": "a.mp4"}]}]},
        r"conversations\[0\]",
        "a part has type text, image or image_url",
    ),
    "half a character": ({"conversations": turns(("human", "\ud83d"), ("gpt", "나"))}, "messages", "half a character"),
    "tags are text": ({**GOOD, "tags": "색"}, "tags", "an object of labels"),
    "a list": ([1, 2], "row", "a row is an object"),
    "a text": ("안녕", "row", "a row is an object"),
}


def dump(path: Path, rows: list) -> Path:
    texts = [row if isinstance(row, str) and row.startswith("RAW:") else json.dumps(row, ensure_ascii=True) for row in rows]
    texts = [text.removeprefix("RAW:") for text in texts]
    path.write_text("\n".join(texts) if path.suffix == ".jsonl" else "[" + ",\n".join(texts) + "]", encoding="utf-8")
    return path


@pytest.mark.parametrize("file", ["chat.json", "chat.jsonl"])
@pytest.mark.parametrize("fault", BAD_ROWS)
def test_bad_rows_are_named_and_the_rest_is_read(folder, fault: str, file: str):
    row, field, why = BAD_ROWS[fault]
    path = dump(folder / file, [GOOD, row, GOOD])
    bad_rows = BadRows()
    assert [sample.source.row for sample in read(path, "llava", bad_rows=bad_rows)] == [0, 2]
    assert (len(bad_rows), bad_rows.seen) == (1, 3)
    with pytest.raises(BadRow, match=rf"(?s)chat.jsonl?, row 1, field '{field}': .*{why}") as caught:
        list(read(path, "llava"))
    assert "\n" not in str(caught.value)
    listed = json.loads(bad_rows.write(folder / "bad_rows.jsonl").read_text(encoding="utf-8"))
    assert (listed["where"], listed["row"]) == (str(path), 1) and listed["why"] and listed["field"]


ROW = json.dumps(GOOD, ensure_ascii=False)
BROKEN_JSON = {
    "missing comma": ROW.replace('", "conv', '" "conv'),
    "missing quote": ROW.replace('"image"', '"image'),
    "missing closing quote": ROW.replace('뭐죠?"', "뭐죠?"),
    "single quotes": ROW.replace('"', "'"),
    "missing bracket": ROW.replace("}]}", "}}"),
    "missing brace": ROW[:-1],
    "bad escape": ROW.replace("뭐죠", "\\q"),
    "bare word": ROW.replace('"사과예요."', "사과예요."),
    "raw line break": ROW.replace("뭐죠", "뭐\n죠"),
    "nothing but noise": "@@@@",
    "cut off": ROW[:40],
    "too deep": '{"image": ' + "[" * 5000 + "]" * 5000 + "}",
}


@pytest.mark.parametrize("file", ["chat.json", "chat.jsonl"])
@pytest.mark.parametrize("fault", BROKEN_JSON)
@pytest.mark.parametrize("at", [0, 1, 2])
def test_a_broken_json_row_costs_itself_alone(folder, fault: str, file: str, at: int):
    rows: list = [GOOD, GOOD, GOOD, GOOD]
    rows[at] = "RAW:" + BROKEN_JSON[fault]
    if fault == "raw line break" and file.endswith("l"):
        rows[at] = rows[at].replace("\n", " \\")
    if fault == "nothing but noise" and at == 0 and file.endswith("l"):
        pytest.skip("a file that begins so is no JSON at all")
    bad_rows = BadRows()
    samples = list(read(dump(folder / file, rows), "llava", bad_rows=bad_rows))
    assert len(samples) == 3
    assert [row.row for row in bad_rows] == [at]
    assert all(row.field == "row" and len(row.why) < 300 for row in bad_rows)


@given(st.sampled_from(sorted(BROKEN_JSON)), st.integers(0, 8), st.integers(1, 3000), st.integers(0, 2000))
def test_a_broken_row_costs_itself_alone_wherever_the_reading_stops(fault: str, at: int, chunk: int, length: int):
    rows = [{**GOOD, "n": number, "note": "가" * length} for number in range(9)]
    texts = [json.dumps(row, ensure_ascii=False) for row in rows]
    texts[at] = BROKEN_JSON[fault]
    found = list(list_rows(io.StringIO(", ".join(texts) + "]"), "rows", chunk=chunk))
    assert [row for _, row in found if not isinstance(row, BadRow)] == rows[:at] + rows[at + 1 :]
    assert [number for number, row in found if isinstance(row, BadRow)] == [at]


def test_a_file_that_ends_in_the_middle(folder):
    text = f"[{ROW}, {ROW}, {ROW[:50]}"
    (folder / "chat.json").write_text(text, encoding="utf-8")
    (folder / "chat.jsonl").write_text(f"{ROW}\n{ROW}\n{ROW[:50]}", encoding="utf-8")
    for name in ("chat.json", "chat.jsonl"):
        bad_rows = BadRows()
        assert len(list(read(folder / name, bad_rows=bad_rows))) == 2
        assert len(bad_rows) == 1 and "cut off" in bad_rows.rows[0].why
    (folder / "chat.json").write_text(f"[{ROW}, {ROW},", encoding="utf-8")
    with pytest.raises(BadRow, match="the list is never closed"):
        list(read(folder / "chat.json"))
    (folder / "chat.json").write_text(f"[{ROW}] {ROW}", encoding="utf-8")
    with pytest.raises(BadRow, match="text after the end of the list"):
        list(read(folder / "chat.json"))


FILE_FAULTS = [
    ("a.json", b"", "a.json is empty"),
    ("a.jsonl", b" \n\n", "a.jsonl is empty"),
    ("a.csv", b"", "a.csv is empty"),
    ("a.json", b"[]", "no rows?"),
    ("a.csv", "질문,답\n".encode(), "there is no row in it|there are no rows in it"),
    ("a.json", json.dumps({"annotations": [GOOD]}, indent=1).encode(), "one JSON value over several lines, not rows"),
    ("a.json", "안녕하세요".encode(), "neither JSON nor a .csv or .tsv: it begins '안녕하세요'"),
    ("a.json", ROW.encode("utf-16-le"), "no text: it holds zero bytes"),
    ("a.jsonl", (ROW + "\n").encode("cp949"), "in CP949 .Korean Windows, Excel., not UTF-8; convert it: iconv"),
    ("a.csv", "질문,답\n사과는?,과일\n".encode("cp949"), "in CP949"),
    ("a.csv", b"a,a\n1,2\n", "two columns have one name"),
    ("a.parquet", b"PAR1 not", "no Parquet file that can be read"),
    ("a.csv.gz", gzip.compress(b"question,answer\n" + b"a,b\n" * 9999, mtime=0)[:-30], "cut off or damaged"),
    ("a.zip", b"PK\x03\x04", "no archive that can be read"),
    ("a.tar", b"x" * 2000, "no archive that can be read"),
    ("a.tar.gz", b"\x1f\x8b", "a compressed tar cannot be read in any order; unpack it"),
]


@pytest.mark.parametrize(
    "name, data, why", FILE_FAULTS, ids=[f"{number}-{name}" for number, (name, _, _) in enumerate(FILE_FAULTS)]
)
def test_files_that_cannot_be_read_at_all(tmp_path, name: str, data: bytes, why: str):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(BodaError, match=why) as caught:
        list(read(tmp_path / name, bad_rows=BadRows()))
    assert not isinstance(caught.value, BadRow) and name in str(caught.value)


def test_paths_that_lead_nowhere(folder):
    with pytest.raises(BodaError, match=r"no data set at .*gone.json"):
        read(folder / "gone.json")
    with pytest.raises(BodaError, match="holds no data file"):
        read(folder)
    for name in ("a.json", "b.json"):
        dump(folder / name, [GOOD])
    with pytest.raises(BodaError, match=r"several data files .*a\.json, .*b\.json.; name one"):
        read(folder)
    with pytest.raises(BodaError, match=r"images: .*good.png is no folder, zip or tar"):
        read(folder / "a.json", images=folder / "good.png")
    with pytest.raises(BodaError, match=r"no picture at .*elsewhere"):
        (folder / "elsewhere").mkdir()
        list(read(folder / "a.json", images=folder / "elsewhere"))


def test_bytes_that_are_no_utf8_cost_their_row_alone(folder):
    lines = [ROW.encode(), ROW.replace("사과", "XX").encode().replace(b"XX", b"\xbb\xe7"), ROW.encode()]
    (folder / "chat.jsonl").write_bytes(b"\n".join(lines))
    (folder / "chat.json").write_bytes(b"[" + b",\n".join(lines) + b"]")
    for name in ("chat.json", "chat.jsonl"):
        bad_rows = BadRows()
        assert len(list(read(folder / name, bad_rows=bad_rows))) == 2
        assert "no UTF-8" in bad_rows.rows[0].why and "\\xbb\\xe7" in bad_rows.rows[0].why
        bad_rows.write(folder / "bad_rows.jsonl")


@pytest.mark.parametrize(
    "text, why",
    [
        ("가", "line 3: 1 cells where the first line names 2 columns"),
        ("가,나,다", "line 3: 3 cells where the first line names 2 columns; quote cells that hold ','"),
        ("가,", "'a' is empty"),
        (",나", "'q' is empty"),
    ],
)
def test_bad_table_rows(tmp_path, text: str, why: str):
    (tmp_path / "a.csv").write_text(f"q,a\n하나,둘\n{text}\n셋,넷\n", encoding="utf-8")
    bad_rows = BadRows()
    samples = list(read(tmp_path / "a.csv", question="{q}", answer="{a}", bad_rows=bad_rows))
    assert [sample.messages[0].text for sample in samples] == ["하나", "셋"]
    assert why in bad_rows.rows[0].why and bad_rows.rows[0].row == 1


def test_nan_cells(folder):
    import pyarrow
    import pyarrow.parquet

    rows = [{"image": "good.png", "n": 1.0, "note": None}, {"image": "good.png", "n": float("nan"), "note": None}]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), folder / "a.parquet")
    (folder / "a.jsonl").write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    for name in ("a.parquet", "a.jsonl"):
        bad_rows = BadRows()
        (sample,) = read(folder / name, question="몇 개?", answer="{n}개", bad_rows=bad_rows)
        assert sample.messages[1].text == "1개"
        assert "'n' is empty" in bad_rows.rows[0].why and bad_rows.rows[0].field == "answer"


def test_unknown_columns_name_those_there_are(folder):
    (folder / "a.csv").write_text("q,a\n하나,둘\n", encoding="utf-8")
    for asked in (
        {"question": "{질문}", "answer": "{a}"},
        {"question": "{q}", "answer": ["{a}", "{질문:은는}"]},
        {"question": "{q}", "answer": "{a}", "columns": {"image": "질문"}},
        {"question": "{q}", "answer": "{a}", "columns": {"image": "img/{질문}.png"}},
    ):
        with pytest.raises(BodaError, match=r"질문.*there are q, a"):
            list(read(folder / "a.csv", bad_rows=BadRows(), **asked))
    dump(folder / "a.jsonl", [GOOD])
    with pytest.raises(BadRow, match="'질문' is not in this row, which has image, conversations"):
        list(read(folder / "a.jsonl", question="{질문}", answer="{image}"))
    with pytest.raises(BadRow, match="no column 'split'; the row has image, conversations"):
        list(read(folder / "a.jsonl", where={"split": "train"}))


def test_bad_pictures_in_rows_of_every_format(folder):
    (folder / "page.png").write_bytes(b"<html>")
    (folder / "page.txt").write_text("글", encoding="utf-8")
    (folder / "lonely.png").write_bytes((folder / "good.png").read_bytes())
    (folder / "good.txt").write_text("좋아요", encoding="utf-8")
    bad_rows = BadRows()
    assert [sample.source.row for sample in read(folder, "captions", bad_rows=bad_rows)] == [0]
    assert bad_rows.rows[0].why.startswith("lonely.png has no lonely.txt")
    assert "web page" in bad_rows.rows[1].why
    (folder / "rows.csv").write_text("question,answer,image\n가,나,good.png\n가,나,page.png\n가,나,\n", encoding="utf-8")
    bad_rows = BadRows()
    assert len(list(read(folder / "rows.csv", "csv", columns={"image": "image"}, bad_rows=bad_rows))) == 1
    assert "web page" in bad_rows.rows[0].why and "no picture is named" in bad_rows.rows[1].why


def test_bad_pictures_inside_parquet(tmp_path):
    import pyarrow
    import pyarrow.parquet

    cells = [encoded(noise()), b"<html>", png_header(20_000, 20_000), None]
    rows = [{"image": {"bytes": cell, "path": None}, "question": "뭐죠?", "answer": "사과"} for cell in cells]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "a.parquet")
    bad_rows = BadRows()
    assert len(list(read(tmp_path / "a.parquet", bad_rows=bad_rows))) == 1
    assert [row.row for row in bad_rows] == [1, 2, 3] and {row.field for row in bad_rows} == {"image"}
    assert "megapixels" in bad_rows.rows[1].why


def test_without_probing_pictures_are_not_touched(folder):
    (folder / "page.png").write_bytes(b"<html>")
    path = dump(folder / "chat.json", [{**GOOD, "image": "page.png"}, {**GOOD, "image": "gone.png"}])
    assert len(list(read(path, probe=False))) == 2


def test_too_many_bad_rows_are_an_error_that_names_the_first(folder):
    bad_rows = BadRows()
    list(read(dump(folder / "chat.json", [GOOD] * 5 + [{**GOOD, "image": f"{n}.png"} for n in range(5)]), bad_rows=bad_rows))
    bad_rows.check(0.5)
    with pytest.raises(BodaError) as caught:
        bad_rows.check(0.01)
    message = str(caught.value)
    assert message.startswith("5 of 10 rows cannot be used (50.0%; max_bad_rows allows 1.0%)")
    assert all(f"{n}.png" in message for n in range(3)) and "3.png" not in message and "bad_rows.jsonl" in message
    BadRows().check(0.0)


def test_rows_that_say_the_same_twice_are_kept(folder):
    assert len(list(read(dump(folder / "chat.json", [GOOD, GOOD])))) == 2


def test_questions_without_answers_are_read_when_asked_for(folder):
    asked = {"image": "good.png", "conversations": GOOD["conversations"][:1]}
    (sample,) = read(dump(folder / "chat.json", [asked]), trainable=False)
    assert [message.role for message in sample.messages] == ["user"]
