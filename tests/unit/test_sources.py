"""Every format on disk becomes the same Samples, lazily; real data sets are read as they are."""

from __future__ import annotations

import base64
import gzip
import io
import itertools
import json
import tarfile
import tracemalloc
import unicodedata
import zipfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from boda.data.files import Place
from boda.data.images import load_image
from boda.data.rows import csv_rows, line_rows, list_rows, text_rows
from boda.data.sample import ImageRef, Sample
from boda.data.sources import FORMATS, BadRows, read, resolve_data
from boda.errors import BadRow, BodaError
from tests.shared_data import shared_data

HUMAN = {"from": "human", "value": "<image>\n무엇인가요?"}
GPT = {"from": "gpt", "value": "사과예요."}
USER = {"role": "user", "content": "<image>\n무엇인가요?"}
ASSISTANT = {"role": "assistant", "content": "사과예요."}


def png(colour: str = "red") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (4, 3), colour).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def folder(tmp_path) -> Path:
    """A folder with pictures a.png, b.png and img/c.png."""
    (tmp_path / "img").mkdir()
    for name, colour in (("a.png", "red"), ("b.png", "green"), ("img/c.png", "blue")):
        (tmp_path / name).write_bytes(png(colour))
    return tmp_path


def write(path: Path, rows: list, lines: bool | None = None) -> Path:
    lines = path.suffix == ".jsonl" if lines is None else lines
    dumped = [json.dumps(row, ensure_ascii=False) for row in rows]
    path.write_text("\n".join(dumped) if lines else f"[{', '.join(dumped)}]", encoding="utf-8")
    return path


def said(sample: Sample) -> list[tuple[str, str]]:
    """(role, text with <image> where pictures stand)."""
    return [(m.role, "".join(part.text or "<image>" for part in m.content)) for m in sample.messages]


def colours(sample: Sample) -> list[tuple]:
    return [load_image(ref).getpixel((0, 0)) for ref in sample.images]


RED, GREEN, BLUE = (255, 0, 0), (0, 128, 0), (0, 0, 255)
ASKED = [("user", "<image>무엇인가요?"), ("assistant", "사과예요.")]


# --- formats --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("format", ["llava", None])
@pytest.mark.parametrize("name", ["chat.json", "chat.jsonl", "lines.json"])
def test_llava(folder, format, name):
    rows = [
        {"id": "1", "image": "a.png", "conversations": [HUMAN, GPT]},
        {
            "id": "2",
            "image": ["a.png", "img/c.png"],
            "conversations": [{"from": "human", "value": "<image><image>\n둘의 차이는?"}, GPT],
        },
        {"id": "3", "conversations": [{"from": "system", "value": "짧게."}, {"from": "human", "value": "안녕"}, GPT]},
        {"id": "4", "image": None, "system": "길게.", "conversations": [{"from": "human", "value": "안녕"}, GPT]},
    ]
    one, two, three, four = read(write(folder / name, rows, lines=name != "chat.json"), format, licence="CC0")
    assert said(one) == ASKED and colours(one) == [RED]
    assert (one.source.dataset, one.source.row, one.source.licence) == (str(folder / name), 0, "CC0")
    assert said(two)[0] == ("user", "<image><image>둘의 차이는?") and colours(two) == [RED, BLUE]
    assert said(three)[0] == ("system", "짧게.") and not three.images
    assert said(four)[0] == ("system", "길게.") and four.source.row == 3


def test_llava_with_roles_and_parts_written_as_text(folder):
    parts = json.dumps([{"type": "image"}, {"type": "text", "text": "무엇인가요?"}], ensure_ascii=False)
    answer = json.dumps([{"type": "text", "text": "사과예요."}], ensure_ascii=False)
    turns = [{"role": "user", "content": parts}, {"role": "assistant", "content": answer}]
    (sample,) = read(write(folder / "chat.json", [{"image": "a.png", "conversations": turns}]))
    assert said(sample) == ASKED


def test_turns_that_say_from_and_no_value(folder):
    turns = [{"from": "web", **USER}, {"from": "web", **ASSISTANT}]
    (sample,) = read(write(folder / "chat.json", [{"image": "a.png", "conversations": turns}]))
    assert said(sample) == ASKED


@pytest.mark.parametrize(
    "content, images",
    [
        ("<image>\n무엇인가요?", ["a.png"]),
        ([{"type": "image"}, {"type": "text", "text": "무엇인가요?"}], ["a.png"]),
        ([{"type": "text", "text": "<image>\n무엇인가요?"}], "a.png"),
        ([{"type": "image", "image": "a.png"}, {"type": "text", "text": "무엇인가요?"}], None),
        ([{"type": "image", "path": "a.png"}, {"type": "text", "text": "무엇인가요?"}], []),
        ([{"type": "image_url", "image_url": {"url": "a.png"}}, {"type": "text", "text": "무엇인가요?"}], None),
        ([{"type": "image_url", "image_url": "DATA"}, {"type": "text", "text": "무엇인가요?"}], None),
        (
            [{"type": "image", "image": None, "text": None}, {"type": "text", "text": "무엇인가요?"}],
            [{"path": "a.png", "bytes": None}],
        ),
    ],
)
@pytest.mark.parametrize("format", ["messages", None])
def test_messages(folder, content, images, format):
    if isinstance(content, list) and content[0].get("image_url") == "DATA":
        content[0]["image_url"] = "data:image/png;base64," + base64.b64encode(png()).decode()
    row = {
        "messages": [{"role": "user", "content": content}, ASSISTANT],
        "images": images,
        "tags": {"type": "이름", "hard": True},
    }
    (sample,) = read(write(folder / "chat.jsonl", [row]), format)
    assert said(sample) == ASKED and colours(sample) == [RED]
    assert sample.tags == (("type", "이름"), ("hard", "true"))


def test_messages_with_pictures_in_several_turns(folder):
    turns = [
        {"role": "user", "content": [{"type": "image", "image": "b.png"}, {"type": "text", "text": "이것은? <image> 저것은?"}]},
        ASSISTANT,
        {"role": "user", "content": "<image>그럼 이것은?"},
        ASSISTANT,
    ]
    (sample,) = read(write(folder / "chat.jsonl", [{"messages": turns, "images": ["a.png", "img/c.png"]}]))
    assert said(sample)[0] == ("user", "<image>이것은? <image> 저것은?")
    assert colours(sample) == [GREEN, RED, BLUE]


@pytest.mark.parametrize(
    "row, columns, captions",
    [
        ({"image": "a.png", "caption": "사과"}, {}, ["사과"]),
        ({"file_path": "a.png", "captions": ["사과", "빨간 사과"]}, {}, ["사과", "빨간 사과"]),
        ({"file_name": "a.png", "text": "사과"}, {}, ["사과"]),
        (
            {"file_path": "a.png", "captions": ["apple"], "caption_ko": ["사과", "능금"]},
            {"caption": "caption_ko"},
            ["사과", "능금"],
        ),
        ({"name": "a", "말": "사과"}, {"image": "{name}.png", "caption": "말"}, ["사과"]),
    ],
)
@pytest.mark.parametrize("format", ["captions", None])
def test_captions(folder, row, columns, captions, format):
    samples = list(read(write(folder / "rows.json", [row]), format, columns=columns))
    assert [said(sample) for sample in samples] == [[("user", "<image>"), ("assistant", caption)] for caption in captions]
    assert all(colours(sample) == [RED] and sample.source.row == 0 for sample in samples)


def test_captions_with_templates(folder):
    path = write(folder / "rows.jsonl", [{"image": "a.png", "caption": "사과"}])
    (sample,) = read(path, question="<image>\n무엇인가요?", answer="{caption:이에요예요}.")
    assert said(sample) == ASKED


def test_captions_from_a_table(folder):
    (folder / "rows.csv").write_text('image,caption\na.png,"사과, 배"\nb.png,배\n', encoding="utf-8")
    assert [said(sample)[1][1] for sample in read(folder / "rows.csv")] == ["사과, 배", "배"]


@pytest.mark.parametrize("packed", ["folder", "zip", "tar"])
def test_captions_from_keys(tmp_path, packed):
    """What img2dataset leaves behind: 00000/KEY.jpg, KEY.txt, KEY.json."""
    source = tmp_path / "laion"
    for key, colour, caption in (
        ("00000/000000001", "blue", "파랑"),
        ("00000/000000000", "red", "빨강\n"),
        ("00001/000010000", "green", "초록"),
    ):
        (source / key).parent.mkdir(parents=True, exist_ok=True)
        (source / f"{key}.jpg").write_bytes(png(colour))
        (source / f"{key}.txt").write_text(caption, encoding="utf-8")
        (source / f"{key}.json").write_text("{}", encoding="utf-8")
    path = pack(source, tmp_path, packed)
    samples = list(read(path))
    assert [said(sample) for sample in samples] == [
        [("user", "<image>"), ("assistant", name)] for name in ("빨강", "파랑", "초록")
    ]
    assert [colours(sample)[0] for sample in samples] == [RED, BLUE, GREEN]
    assert len(list(read(path, "captions", limit=2))) == 2


def pack(source: Path, out: Path, how: str) -> Path:
    if how == "folder":
        return source
    path = out / f"packed.{how}"
    files = sorted(file for file in source.rglob("*") if file.is_file())
    if how == "zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for file in files:
                archive.write(file, file.relative_to(source).as_posix())
    else:
        with tarfile.open(path, "w") as archive:
            for file in files:
                archive.add(file, file.relative_to(source).as_posix())
    return path


def write_parquet(path: Path, rows: list[dict], features: dict | None = None, **options) -> Path:
    import pyarrow
    import pyarrow.parquet

    table = pyarrow.Table.from_pylist(rows)
    if features:
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pyarrow.parquet.write_table(table, path, **options)
    return path


@pytest.mark.parametrize("probe", [True, False])
@pytest.mark.parametrize("format", ["parquet", None])
def test_parquet_with_templates(tmp_path, format, probe):
    rows = [
        {"img": {"bytes": png(colour), "path": "x.png"}, "label": number % 2, "n": number}
        for number, colour in enumerate(("red", "green", "blue"))
    ]
    features = {"label": {"names": ["사과", "책"], "_type": "ClassLabel"}, "img": {"_type": "Image"}}
    path = write_parquet(tmp_path / "train.parquet", rows, features, row_group_size=2)
    samples = list(read(path, format, question="무엇인가요?", answer="{label:이에요예요}.", probe=probe))
    assert [said(sample)[1][1] for sample in samples] == ["사과예요.", "책이에요.", "사과예요."]
    assert said(samples[0]) == ASKED
    assert [colours(sample)[0] for sample in samples] == [RED, GREEN, BLUE]
    assert samples[2].images == (ImageRef(str(path), row=2, column="img"),)


def test_parquet_in_several_files(tmp_path):
    for number in range(3):
        write_parquet(
            tmp_path / f"train-{number:05d}-of-00003.parquet", [{"question": f"질문 {number}", "answer": f"답 {number}"}]
        )
    write_parquet(tmp_path / "test-00000-of-00001.parquet", [{"question": "시험", "answer": "답"}])
    samples = list(read(tmp_path / "train-*.parquet"))
    assert [said(sample)[0][1] for sample in samples] == ["질문 0", "질문 1", "질문 2"]
    assert samples[1].source.dataset.endswith("train-00001-of-00003.parquet")
    assert len(list(read(tmp_path))) == 4


@pytest.mark.parametrize("column", ["messages", "conversations"])
def test_parquet_with_conversations(tmp_path, column):
    content = [{"type": "image", "text": None, "index": 0}, {"type": "text", "text": "무엇인가요?", "index": None}]
    answer = [{"type": "text", "text": "사과예요.", "index": None}]
    rows = [
        {
            column: [{"role": "user", "content": content * 2}, {"role": "assistant", "content": answer}],
            "images": [{"bytes": png(colour)}] * 2,
        }
        for colour in ("red", "blue")
    ]
    samples = list(read(write_parquet(tmp_path / "a.parquet", rows)))
    assert said(samples[1])[0] == ("user", "<image>무엇인가요?" * 2)
    assert colours(samples[1]) == [BLUE, BLUE]
    assert samples[1].images[1] == ImageRef(str(tmp_path / "a.parquet"), row=1, column="images[1]")


def test_parquet_with_names_of_pictures(folder):
    path = write_parquet(
        folder / "rows.parquet",
        [{"image": {"bytes": None, "path": "a.png"}, "file": "b.png", "question": "무엇?", "answer": "색"}],
    )
    assert colours(next(read(path))) == [RED]
    assert colours(next(read(path, columns={"image": "file"}))) == [GREEN]


@pytest.mark.parametrize("name, separator", [("qa.csv", ","), ("qa.csv", ";"), ("qa.tsv", "\t"), ("qa.csv.gz", ",")])
@pytest.mark.parametrize("format", ["csv", None])
def test_tables(folder, name, separator, format):
    quote = "" if separator == "\t" else '"'
    text = (
        separator.join(["Q", "A", "file"])
        + "\r\n"
        + separator.join([f"{quote}무엇, 또는 무엇?{quote}", "사과", "a.png"])
        + "\r\n"
    )
    data = text.encode("utf-8-sig")
    (folder / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    (sample,) = read(folder / name, format, question="{Q}", answer="{A:이에요예요}.", columns={"image": "file"})
    assert said(sample) == [("user", "<image>무엇, 또는 무엇?"), ("assistant", "사과예요.")] and colours(sample) == [RED]
    (sample,) = read(folder / name, "csv", question="{Q}", answer="{A}")
    assert not sample.images


def test_a_table_of_json_rows_and_default_columns(folder):
    path = write(folder / "rows.jsonl", [{"question": "일 더하기 일은?", "answer": 2, "image": "a.png"}])
    assert said(next(read(path))) == [("user", "<image>일 더하기 일은?"), ("assistant", "2")]
    assert said(next(read(path, "csv", columns={"question": "answer", "answer": "question"})))[0] == ("user", "<image>2")


def test_a_quote_in_a_tab_separated_table_is_a_quote(tmp_path):
    (tmp_path / "a.tsv").write_text('q\ta\n"그는\t"좋다"고 했다\n', encoding="utf-8")
    assert said(next(read(tmp_path / "a.tsv", question="{q}", answer="{a}"))) == [
        ("user", '"그는'),
        ("assistant", '"좋다"고 했다'),
    ]


# --- places, choices and limits -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("packed", ["folder", "zip", "tar"])
def test_a_whole_data_set_in_one_archive(folder, tmp_path, packed):
    inside = folder / "inside"
    (inside / "images").mkdir(parents=True)
    (inside / "images" / "사진.png").write_bytes(png("blue"))
    write(inside / "chat.json", [{"image": "images/사진.png", "conversations": [HUMAN, GPT]}])
    path = pack(inside, folder, packed)
    for named in (path, path / "chat.json"):
        (sample,) = read(named)
        assert colours(sample) == [BLUE] and said(sample) == ASKED


@pytest.mark.parametrize("top", ["", "images/"])
def test_pictures_in_an_archive_of_their_own(folder, top):
    with zipfile.ZipFile(folder / "images.zip", "w") as archive:
        archive.writestr(f"{top}a.png", png("blue"))
        archive.writestr(f"{top}sub/b.png", png("green"))
    path = write(folder / "chat.json", [{"image": name, "conversations": [HUMAN, GPT]} for name in ("a.png", "sub/b.png")])
    samples = list(read(path, images=folder / "images.zip"))
    assert [colours(sample)[0] for sample in samples] == [BLUE, GREEN]
    assert samples[0].images[0] == ImageRef(str(folder / "images.zip"), f"{top}a.png")


def test_a_folder_of_pictures_and_absolute_names(folder):
    rows = [{"image": name, "conversations": [HUMAN, GPT]} for name in ("c.png", str(folder / "a.png"))]
    assert [colours(sample)[0] for sample in read(write(folder / "chat.json", rows), images=folder / "img")] == [BLUE, RED]


def test_decomposed_file_names_are_found(folder):
    """macOS stores 사과.png as single letters; JSON has syllables."""
    stored, written = (unicodedata.normalize(form, "사과.png") for form in ("NFD", "NFC"))
    (folder / stored).write_bytes(png("blue"))
    assert colours(next(read(write(folder / "chat.json", [{"image": written, "conversations": [HUMAN, GPT]}])))) == [BLUE]


def test_where_picks_rows(folder):
    rows = [
        {"image": "a.png", "caption": str(number), "split": "train" if number % 3 else "test", "n": number}
        for number in range(9)
    ]
    path = write(folder / "rows.jsonl", rows)
    assert [said(sample)[1][1] for sample in read(path, where={"split": "test"})] == ["0", "3", "6"]
    assert [said(sample)[1][1] for sample in read(path, where={"split": ["test", "train"], "n": [2, 3]})] == ["2", "3"]
    with pytest.raises(BodaError, match="none of 9 rows has split = val; there are split = test; split = train"):
        list(read(path, where={"split": "val"}))


def test_limit_stops_reading(folder):
    rows = [json.dumps({"image": "a.png", "captions": ["하나", "둘"]})] * 2 + ["{broken"]
    (folder / "rows.jsonl").write_text("\n".join(rows), encoding="utf-8")
    assert len(list(read(folder / "rows.jsonl", "captions", limit=3))) == 3
    assert len(list(read(folder / "rows.jsonl", "captions", limit=4))) == 4


def test_reading_is_lazy(folder):
    (folder / "rows.jsonl").write_text(json.dumps({"image": "a.png", "caption": "가"}) + "\n{broken", encoding="utf-8")
    samples = read(folder / "rows.jsonl")
    assert said(next(samples))[1][1] == "가"
    with pytest.raises(BadRow):
        next(samples)


def test_wordings_depend_on_the_row_alone(folder):
    rows = [{"id": f"r{number}", "image": "a.png", "caption": f"{number}"} for number in range(40)]
    wordings = ["무엇?", "뭐죠?", "이것은?"]
    ordered = {
        sample.messages[1].text: sample.messages[0].text for sample in read(write(folder / "a.json", rows), question=wordings)
    }
    turned = {
        sample.messages[1].text: sample.messages[0].text
        for sample in read(write(folder / "b.json", rows[::-1]), question=wordings)
    }
    assert ordered == turned and set(ordered.values()) == set(wordings)


def test_memory_stays_constant(folder):
    path = folder / "chat.json"
    row = json.dumps({"image": "a.png", "conversations": [HUMAN, {"from": "gpt", "value": "가" * 2000}]}, ensure_ascii=False)
    with path.open("w", encoding="utf-8") as stream:
        stream.write("[" + ",\n".join([row] * 6000) + "]")
    assert path.stat().st_size > 36_000_000
    tracemalloc.start()
    count = sum(1 for _ in read(path))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 6000 and peak < 8_000_000


def test_formats_are_told_from_their_rows_or_listed(folder):
    (folder / "rows.csv").write_text("Q,A\n가,나\n", encoding="utf-8")
    for path, asked in ((folder / "rows.csv", {}), (write(folder / "a.json", [{"x": 1}]), {"question": "{x}"})):
        with pytest.raises(BodaError) as caught:
            next(read(path, **asked))
        assert all(f"\n  {name} " in str(caught.value) for name in FORMATS)
        assert str(path) in str(caught.value)
    with pytest.raises(BodaError, match="unknown format 'LLaVA'"):
        read(folder / "rows.csv", "LLaVA")


def test_a_data_set_of_the_hub(tmp_path, monkeypatch):
    """What the hub's library fetches is a folder like any other; the hub itself is not asked here."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.jsonl").write_text('{"text": "글"}\n', encoding="utf-8")
    asked = []

    def fetch(name, repo_type, allow_patterns):
        asked.append((name, repo_type, allow_patterns))
        if name == "owner/closed":
            raise OSError("401 Client Error")
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", fetch)
    assert resolve_data("hf://owner/set") == tmp_path
    found = resolve_data("hf://owner/set/data")
    assert [sample.messages[0].text for sample in read(found, "text")] == ["글"]
    assert asked == [("owner/set", "dataset", None), ("owner/set", "dataset", ["data", "data/*"])]
    with pytest.raises(BodaError, match=r"hf://owner/set has no 'dta'"):
        resolve_data("hf://owner/set/dta")
    with pytest.raises(BodaError, match=r"'hf://owner/closed' cannot be fetched \(401 Client Error\); get it where"):
        resolve_data("hf://owner/closed")


def test_resolving_paths(tmp_path, monkeypatch):
    for name in ("given", "environment", "beside"):
        (tmp_path / name).mkdir()
    monkeypatch.setenv("BODA_DATA", str(tmp_path / "environment"))
    given = {"data_dir": tmp_path / "given", "beside": tmp_path / "beside"}
    with pytest.raises(BodaError, match=r"(?s)no data at 'set/a.json'.*given/set.*environment/set.*beside/set"):
        resolve_data("set/a.json", **given)
    with pytest.raises(BodaError, match="download it"):
        resolve_data("https://host/set.json")
    for name in ("beside", "environment", "given"):  # each found before the one that was there
        (tmp_path / name / "set").mkdir()
        (tmp_path / name / "set" / "a.json").write_text("[]")
        assert resolve_data("set/a.json", **given) == tmp_path / name / "set" / "a.json"
        assert resolve_data("set/*.json", **given) == tmp_path / name / "set" / "*.json"
    absolute = tmp_path / "beside" / "set"
    assert resolve_data(absolute, **given) == absolute
    with zipfile.ZipFile(tmp_path / "given" / "packed.zip", "w") as archive:
        archive.writestr("chat.json", "[]")
    assert resolve_data("packed.zip/chat.json", **given) == tmp_path / "given" / "packed.zip" / "chat.json"


# --- streaming ------------------------------------------------------------------------------------------------------------

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
ROWS = st.lists(st.dictionaries(st.text(max_size=5), VALUES, max_size=4), max_size=8)


@given(ROWS, st.integers(1, 40), st.sampled_from([None, 1, "\t"]), st.booleans())
def test_any_list_cut_anywhere_gives_the_same_rows(rows, chunk, indent, ascii_only):
    stream = io.StringIO(json.dumps(rows, indent=indent, ensure_ascii=ascii_only))
    assert stream.read(1) == "["
    assert list(list_rows(stream, "rows", chunk=chunk)) == list(enumerate(rows))


@given(ROWS, st.integers(1, 40), st.booleans())
def test_any_lines_give_the_same_rows(rows, head, ascii_only):
    text = "".join(json.dumps(row, ensure_ascii=ascii_only) + "\n" for row in rows)
    stream = io.StringIO(text, newline="")
    start = stream.read(head)
    assert list(line_rows(stream, "rows", start)) == list(enumerate(rows))


@given(ROWS.filter(bool), st.integers(0, 10_000), st.integers(1, 40))
def test_a_list_cut_off_gives_the_rows_before_the_cut(rows, cut, chunk):
    text = json.dumps(rows)[1:-1]
    cut %= len(text) + 1
    found = list(list_rows(io.StringIO(text[:cut]), "rows", chunk=chunk))
    good = list(itertools.takewhile(lambda item: not isinstance(item[1], BadRow), found))
    assert good == list(enumerate(rows))[: len(good)]
    assert isinstance(found[-1][1], BadRow)


CELLS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\r"), min_size=1, max_size=8)


@given(st.lists(st.tuples(CELLS, CELLS), max_size=6))
def test_any_table_gives_the_same_rows(rows):
    import csv

    stream = io.StringIO(newline="")
    csv.writer(stream).writerows([("a", "b"), *rows])
    stream.seek(0)
    assert [row for _, row in csv_rows(stream, "rows", ",")] == [{"a": a, "b": b} for a, b in rows]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("name", ["rows.json", "rows.jsonl", "rows.csv"])
def test_encodings_with_a_mark(tmp_path, encoding, name):
    texts = {"rows.json": '[{"a": "가"}]', "rows.jsonl": '{"a": "가"}\n', "rows.csv": "a\n가\n"}
    (tmp_path / name).write_text(texts[name], encoding=encoding)
    assert list(text_rows(Place.of(tmp_path / name))) == [(0, {"a": "가"})]


# --- real data ------------------------------------------------------------------------------------------------------------


def test_emoji():
    path = shared_data("emoji")
    bad_rows = BadRows()
    train = list(read(path, "captions", where={"split": "train"}, bad_rows=bad_rows))
    test = list(
        read(path, where={"split": "test"}, question=["이것은 무엇인가요?", "무슨 그림이에요?"], answer="{caption:이에요예요}.")
    )
    assert (len(train), len(test), len(bad_rows)) == (1350, 300, 0)
    assert not {sample.images[0] for sample in train} & {sample.images[0] for sample in test}
    assert load_image(train[0].images[0]).size == (128, 128)
    assert all(sample.messages[1].text.endswith(("이에요.", "예요.")) for sample in test)


def test_flags():
    path = shared_data("flags")
    bad_rows = BadRows()
    samples = list(read(path, question="수도는 어디인가요?", answer="{capital_en:이다다}.", bad_rows=bad_rows))
    assert len(samples) + len(bad_rows) == bad_rows.seen == 250
    assert 0 < len(bad_rows) < 10 and all("'capital_en' is empty" in row.why for row in bad_rows)
    assert len(list(read(path, "csv", question="이름은?", answer="{ko_official}"))) == 250


def test_cifar10():
    path = shared_data("cifar10/test.parquet")
    samples = list(read(path, question="무엇인가요?", answer="{label_ko:이다다}.", limit=4100))
    assert said(samples[0])[0] == ("user", "<image>무엇인가요?")
    assert {load_image(sample.images[0]).size for sample in samples[::500]} == {(32, 32)}
    assert len({sample.messages[1].text for sample in samples}) == 10


def test_llamafactory_demo():
    path = shared_data("llamafactory_demo/data/mllm_demo.json")
    samples = list(read(path))
    assert len(samples) == 6 and [len(sample.images) for sample in samples] == [2, 1, 1, 2, 1, 1]


def test_nlvr():
    path = shared_data("nlvr_synthetic/dev/dev.json")
    image = {"image": "images/{directory}/dev-{identifier}-0.png"}
    assert len(list(read(path, columns=image, question="{sentence}", answer="{label}"))) == 989


def test_songys_chatbot():
    assert len(list(read(shared_data("songys_chatbot"), question="{Q}", answer="{A}"))) == 11823


def test_the_examples_of_the_documentation():
    import re

    import yaml

    text = (Path(__file__).parents[2] / "docs" / "data.md").read_text(encoding="utf-8")
    for block in yaml.safe_load(re.search(r"```yaml\n(.*?)```", text, re.S)[1])["data"]:
        sample = next(read(shared_data(block.pop("path")), block.pop("source"), **block))
        assert len(sample.images) == 1 and re.search(
            r"(이에요|예요|이다|다|이 보입니다|가 보입니다)\.$", sample.messages[1].text
        )


def test_the_rows_of_the_documentation(folder):
    text = (Path(__file__).parents[2] / "docs" / "data.md").read_text(encoding="utf-8")
    (folder / "a.jpg").write_bytes(png())
    for format in ("llava", "messages", "captions"):
        row = json.loads(text.partition(f"| `{format}` | `")[2].partition("` |")[0])
        (sample,) = read(write(folder / "rows.jsonl", [row]))
        assert colours(sample) == [RED] and sample.messages[1].text.startswith("사과")
