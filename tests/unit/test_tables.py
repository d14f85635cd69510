"""Benchmark files as they are published: every form gives the same rows, and what is wrong with a file is said with its row."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest

from boda.data.images import load_image
from boda.data.sample import ImageRef
from boda.errors import BodaError
from boda.evaluate.tables import Schema, read_table
from tests.benchmark_files import picture, write_json, write_parquet, write_tsv

SCHEMA = Schema(
    "set", {"id": "text", "words": "text", "hint": "text?", "n": "number", "picture": "image"}, "id", "org/Set", "test"
)
ROWS = [
    {"id": str(number), "words": f'낱말, {number}\t"가"', "hint": hint, "n": number / 2, "picture": picture(number)}
    for number, hint in enumerate(("힌트", None, "nan", "  "))
]


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("BODA_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize(
    "write, name",
    [(write_parquet, "a.parquet"), (write_tsv, "a.tsv"), (write_tsv, "A.TSV"), (write_json, "a.json"), (write_json, "a.jsonl")],
)
def test_every_published_form_gives_the_same_rows(tmp_path: Path, write, name: str):
    file = write(tmp_path / name, ROWS, lines=True) if name == "a.jsonl" else write(tmp_path / name, ROWS)
    found = read_table(SCHEMA, file)
    assert [row["id"] for row in found] == [row["index"] for row in found] == ["0", "1", "2", "3"]
    assert [row["words"] for row in found] == [row["words"] for row in ROWS]
    assert [row["hint"] for row in found] == ["힌트", None, None, None]  # nothing, NaN and white space are no hint
    assert [row["n"] for row in found] == [0, 0.5, 1, 1.5]
    assert all(isinstance(row["picture"], ImageRef) and row["picture"].data is None for row in found)  # none in memory
    assert [row["picture"].read() for row in found] == [row["picture"] for row in ROWS]


@pytest.mark.parametrize("write, name", [(write_parquet, "a.parquet"), (write_tsv, "a.tsv"), (write_json, "a.json")])
def test_a_picture_that_is_there_again_is_one(tmp_path: Path, write, name: str):
    """Two questions on one picture stand and fall together in intervals, whichever way the file holds it."""
    rows = [{**row, "picture": picture(number // 2)} for number, row in enumerate(ROWS)]
    first, same, other, _ = (row["picture"] for row in read_table(SCHEMA, write(tmp_path / name, rows)))
    assert first.key == same.key != other.key and other.read() == picture(1)


def test_text_stays_as_it_is_but_for_its_unicode_form(tmp_path: Path):
    rows = [{"words": word} for word in ("\u1112\u1161\u11ab", " 앞뒤 ", "none", "None")]
    found = read_table(Schema("set", {"words": "text?"}), write_parquet(tmp_path / "a.parquet", rows))
    assert [row["words"] for row in found] == ["한", " 앞뒤 ", "none", "None"]
    assert [row["index"] for row in found] == ["0", "1", "2", "3"]  # rows without a name are numbered


def test_whole_numbers_beside_empty_cells_are_no_fractions(tmp_path: Path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"A": [3.0, None, float("nan")], "label": [1, 0, 1]}), tmp_path / "a.parquet")
    found = read_table(Schema("set", {"A": "text?", "label": "number"}), tmp_path / "a.parquet")
    assert [row["A"] for row in found] == ["3", None, None]


def test_class_labels_are_their_names(tmp_path: Path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    features = {"kind": {"names": ["동물", "음식"], "_type": "ClassLabel"}}
    table = pa.table({"kind": [1, 0, None]}).replace_schema_metadata(
        {"huggingface": json.dumps({"info": {"features": features}})}
    )
    pq.write_table(table, tmp_path / "a.parquet")
    found = read_table(Schema("set", {"kind": "text?"}), tmp_path / "a.parquet")
    assert [row["kind"] for row in found] == ["음식", "동물", None]


def test_lists_and_pictures_by_path(tmp_path: Path):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "0.png").write_bytes(picture())
    schema = Schema("set", {"options": "list", "image": "image"}, images="images", aliases={"image": "image_path"})
    file = write_json(tmp_path / "a.jsonl", [{"options": ["가", "나"], "image_path": "0.png"}], lines=True)
    (row,) = read_table(schema, file)
    assert row["options"] == ["가", "나"] and row["image"] == ImageRef(str(tmp_path / "images" / "0.png"))
    file = write_parquet(tmp_path / "a.parquet", [{"options": '["가", "나"]', "image": picture(1), "image_path": "0.png"}])
    (row,) = read_table(schema, file)  # the schema's own column comes first
    assert row["options"] == ["가", "나"] and row["image"].read() == picture(1)


def test_pictures_that_others_show_too(tmp_path: Path):
    """VLMEvalKit's TSV of rotated questions: the picture once, then the index of the row that has it."""
    rows = [{"index": 7, "image": picture(7)}, {"index": 1_000_007, "image": "7"}]
    schema = Schema("set", {"index": "text", "image": "image"}, "index")
    first, second = read_table(schema, write_tsv(tmp_path / "a.tsv", rows))
    assert first["image"] == second["image"] and first["image"].read() == picture(7)
    with pytest.raises(BodaError, match=r"row 1000007: 'image' is neither a picture nor a row's that has one"):
        read_table(schema, write_tsv(tmp_path / "b.tsv", [rows[0], {"index": 1_000_007, "image": "8"}]))


def test_a_picture_in_a_text_lies_in_the_cache_once(tmp_path: Path):
    uri = "data:image/png;base64," + base64.b64encode(picture()).decode()
    file = write_json(tmp_path / "a.json", [{"image": picture()}, {"image": uri}, {"image": {"bytes": uri, "path": "x.png"}}])
    found = [row["image"] for row in read_table(Schema("set", {"image": "image"}), file)]
    assert len(set(found)) == 1 and found[0].path.startswith(str(tmp_path / "cache")) and load_image(found[0]).size == (24, 18)


def test_pictures_are_looked_for_beside_their_file(tmp_path: Path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "0.png").write_bytes(picture(1))
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "0.png").write_bytes(picture(0))
    monkeypatch.chdir(tmp_path / "elsewhere")
    rows = [{"image": "0.png"}, {"image": str(tmp_path / "elsewhere" / "0.png")}]
    schema = Schema("set", {"image": "image"}, images="images")
    found = [row["image"].read() for row in read_table(schema, write_json(tmp_path / "a.json", rows))]
    assert found == [picture(0), picture(1)]


def test_base64_may_be_broken_into_lines_and_longer_than_a_files_name(tmp_path: Path):
    data = b"A" * 500
    rows = [{"image": base64.encodebytes(data).decode()}, {"image": base64.b64encode(data).decode()}]
    found = read_table(Schema("set", {"image": "image"}), write_json(tmp_path / "a.json", rows))
    assert [row["image"].read() for row in found] == [data, data]


def test_folders_by_split(tmp_path: Path):
    for name in ("test-00000-of-00002", "test-00001-of-00002", "train-00000-of-00001"):
        write_parquet(tmp_path / "Set" / "data" / f"{name}.parquet", [{**ROWS[0], "id": name}])
    write_tsv(tmp_path / "Set" / "Set_TEST_KO.tsv", ROWS)  # the same split in another form
    wanted = ["test-00000-of-00002", "test-00001-of-00002"]
    assert [row["id"] for row in read_table(SCHEMA, tmp_path / "Set")] == wanted
    assert [
        row["id"] for row in read_table(SCHEMA, "", tmp_path)
    ] == wanted  # without a path: the hub's name in the data folder


def test_another_split_is_other_questions(tmp_path: Path):
    for place in ("data/train-00000-of-00001.parquet", "data/validation-00000-of-00001.parquet"):
        write_parquet(tmp_path / place, ROWS)
        with pytest.raises(BodaError, match=r"name one file of .* of its split 'test'; there are: train-00000"):
            read_table(SCHEMA, tmp_path)
    assert len(read_table(SCHEMA, tmp_path / place)) == len(ROWS)  # but for who names it
    write_parquet(tmp_path / "default" / "test" / "0000.parquet", ROWS[:2])  # as the hub converts data
    assert len(read_table(SCHEMA, tmp_path)) == 2


def test_raw_cells_keep_the_word_nan(tmp_path: Path):
    rows = [{"a": value, "b": value} for value in ("nan", "가", None, " ")]
    found = read_table(Schema("set", {"a": "raw?", "b": "text?"}), write_parquet(tmp_path / "a.parquet", rows))
    assert [(row["a"], row["b"]) for row in found] == [("nan", None), ("가", "가"), (None, None), (" ", None)]


def test_tables_that_would_lose_letters_are_refused(tmp_path: Path):
    for row, said in (
        ('"가"라고 하면?\t답', "'\\t' expected after '\"'"),
        ('"가라고 하면?\t답', "unexpected end of data"),
        ("가\t나\t답", "row 0 has more cells than there are columns"),
    ):
        (tmp_path / "a.tsv").write_text(f"question\tanswer\n{row}\n", encoding="utf-8")
        with pytest.raises(BodaError, match=said):
            read_table(Schema("set", {"question": "text", "answer": "text"}), tmp_path / "a.tsv")


BROKEN = {
    "a column is missing": (
        {"n": None},
        "lacks column 'n'; set is published with id \\(text\\), .*n \\(number\\).*; here are: id,",
    ),
    "an index twice": ({"id": "1"}, "rows 0 and 1 have one id, '1'"),
    "an empty cell": ({"words": ""}, "row 0, field 'words': the cell is empty"),
    "no number": ({"n": "둘"}, "row 0, field 'n': '둘' is no number"),
    "no picture": ({"picture": "없음.png"}, "row 0, field 'picture': no picture '없음.png'"),
    "no base64": ({"picture": "*" * 80}, "row 0, field 'picture': neither a picture's file nor base64"),
}


@pytest.mark.parametrize("what", BROKEN)
def test_what_is_wrong_is_said_with_its_row(tmp_path: Path, what: str):
    change, said = BROKEN[what]
    rows = [dict(row) for row in ROWS]
    rows[0] |= change
    if what == "a column is missing":
        for row in rows:
            del row["n"]
    with pytest.raises(BodaError, match=said):
        read_table(SCHEMA, write_tsv(tmp_path / "a.tsv", rows))


def test_what_is_no_benchmark_file(tmp_path: Path, monkeypatch):
    (tmp_path / "a.parquet").write_bytes(b"PAR1, or so it says")
    with pytest.raises(BodaError, match=r"a.parquet is no Parquet file that can be read"):
        read_table(SCHEMA, tmp_path / "a.parquet")
    (tmp_path / "a.tsv").write_bytes("id\twords\tn\tpicture\n1\t낱말\t1\tx".encode("cp949"))
    with pytest.raises(BodaError, match=r"a.tsv is no table in UTF-8"):
        read_table(SCHEMA, tmp_path / "a.tsv")
    (tmp_path / "a.jsonl").write_text(json.dumps({"id": "1"}) + "\n{no json", encoding="utf-8")
    with pytest.raises(BodaError, match=r"lacks column 'words'"):
        read_table(SCHEMA, tmp_path / "a.jsonl")
    (tmp_path / "c.tsv").write_text("id\twords\tn\tpicture\n", encoding="utf-8")
    with pytest.raises(BodaError, match=r"c.tsv has no rows"):
        read_table(SCHEMA, tmp_path / "c.tsv")
    for cell in ("가, 나", [], ["가", None]):
        with pytest.raises(BodaError, match=r"a list is needed"):
            read_table(Schema("set", {"id": "list"}), write_json(tmp_path / "d.json", [{"id": cell}]))
    with pytest.raises(BodaError, match=r"name one file of .*there are: a.jsonl, a.parquet, a.tsv"):
        read_table(SCHEMA, tmp_path)
    with pytest.raises(BodaError, match=r"looked for"):
        read_table(SCHEMA, "nowhere.tsv", tmp_path)
    with pytest.raises(BodaError, match=r"'hf://org/Set' cannot be fetched .*get it where there is a network"):
        read_table(SCHEMA, "hf://org/Set")
