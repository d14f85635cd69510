"""Sets written in another format and read back equal, joined, or refused with a reason; whole or not there; in constant memory."""

from __future__ import annotations

import io
import itertools
import json
import re
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from boda.data.convert import convert, single_turns
from boda.data.images import load_image
from boda.data.merge import merge
from boda.data.sample import ImageRef, Message, Part, Sample, Source, conversation, split_marks
from boda.data.sources import BadRows, read
from boda.errors import BodaError
from tests.shared_data import shared_data
from tests.tiny_data import llava_file, random_picture, save_pictures


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("BODA_CACHE", str(tmp_path_factory.mktemp("cache")))


def encoded(seed: int, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    random_picture(seed, (6, 5)).save(buffer, kind)
    return buffer.getvalue()


@pytest.fixture(scope="session")
def pictures(tmp_path_factory) -> list[ImageRef]:
    """Pictures wherever they may lie: files, a zip, Parquet, a tar shard, memory."""
    folder = tmp_path_factory.mktemp("pictures")
    files = save_pictures(folder / "그림", 3, (6, 5))
    with zipfile.ZipFile(folder / "set.zip", "w") as archive:
        archive.writestr("a/1.jpg", encoded(11, "JPEG"))
    held = [conversation(("user", "<image>"), ("assistant", "말"), images=(ImageRef(data=encoded(12, "WEBP")),))]
    for to in ("parquet", "webdataset"):
        convert(lambda bad: held, to, folder / to)
    return [
        *(ImageRef(str(path)) for path in files),
        ImageRef(str(folder / "set.zip"), "a/1.jpg"),
        ImageRef(str(folder / "parquet" / "00000.parquet"), row=0, column="images[0]"),
        next(read(folder / "webdataset", "webdataset")).images[0],
        ImageRef(data=encoded(13)),
    ]


JSON_TEXT = '[{"type": "text", "text": "가"}]'
WORDS = st.one_of(
    st.sampled_from(["사과예요.", "\n", "\n\n", " ", JSON_TEXT, "[{1}]", "가\u2028나\r\n", "<im", "age>", "{}"]),
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=9),
)
SPOKEN = WORDS.filter(str.strip)


@st.composite
def rows_of(draw, to: str, kind: str, pictures: int) -> list[tuple[dict, list[int]]]:
    """Samples of one kind that a target can hold: their fields, and the numbers of their pictures."""
    text = lambda words: draw(words if to != "llava" else words.filter(lambda said: "[" not in said))  # noqa: E731
    made = []
    for row in range(draw(st.integers(1, 3))):
        messages, used = [], []
        for turn in range(0 if kind == "text" else draw(st.integers(1, 2))):
            if turn == 0 and draw(st.booleans()):
                messages.append(Message("system", (Part("text", text(SPOKEN)),)))
            shown = (turn == 0) if to == "webdataset" else draw(st.integers(0, 2))
            said = [Part("text", text(WORDS if shown else SPOKEN)) for _ in range(draw(st.integers(shown == 0, 3)))]
            messages.append(Message("user", tuple(draw(st.permutations([*said, *[Part("image")] * shown])))))
            messages.append(Message("assistant", tuple(Part("text", text(SPOKEN)) for _ in range(draw(st.integers(1, 2))))))
            used += [draw(st.integers(0, pictures - 1)) for _ in range(shown)]
        if kind == "text":
            messages.append(Message("assistant", (Part("text", text(SPOKEN)),)))
        tags = draw(st.dictionaries(st.text(max_size=3), st.text(max_size=3), max_size=2))
        fields = {"messages": tuple(messages), "tags": tuple(tags.items()), "rejected": "진 답 " if kind == "pair" else None}
        made.append((fields | {"source": Source("set", row, draw(st.sampled_from(["", "CC-BY 4.0"])))}, used))
    # A mark in two halves is no mark in parts, and one where they are joined.
    return [each for each in made if not any("<image>" in message.text for message in each[0]["messages"])]


def with_joined_texts(sample: Sample) -> Sample:
    """Texts side by side as one: what a format without parts holds."""
    marked = [[part.text if part.type == "text" else "\0image\0" for part in message.content] for message in sample.messages]
    parts = [[piece for piece in re.split("(\0image\0)", "".join(pieces)) if piece] for pieces in marked]
    joined = [tuple(Part("image") if piece == "\0image\0" else Part("text", piece) for piece in pieces) for pieces in parts]
    return replace(sample, messages=tuple(Message(each.role, content) for each, content in zip(sample.messages, joined)))


def facts(sample: Sample) -> tuple:
    return (sample.messages, [image.read() for image in sample.images], sample.rejected, sample.tags, sample.source.licence)


def written(samples: list[Sample], to: str, out: Path, **rest) -> dict:
    return convert(lambda bad: iter(samples), to, out, **rest)


HELD = [("llava", "talk"), ("webdataset", "talk"), *itertools.product(("messages", "parquet"), ("talk", "pair", "text"))]


@pytest.mark.parametrize("to, kind", HELD)
@settings(max_examples=15)
@given(data=st.data())
def test_what_comes_out_reads_back_equal(tmp_path_factory, pictures, to, kind, data):
    drawn = data.draw(rows_of(to, kind, len(pictures)).filter(bool))
    samples = [Sample(images=tuple(pictures[number] for number in used), **fields).check_trainable() for fields, used in drawn]
    out = tmp_path_factory.mktemp("out") / "set"
    done = written(samples, to, out)
    expected = [with_joined_texts(sample) for sample in samples] if to == "llava" else samples
    assert [facts(sample) for sample in read(out)] == [facts(sample) for sample in expected]
    joined = sum(one.messages != other.messages for one, other in zip(samples, expected))
    assert (done["samples"], done["bad"], done["joined"]) == (len(samples), 0, joined)
    assert {path.name for path in out.parent.iterdir()} == {"set"}


def talk(answer: str, *images: ImageRef, question: str = "무엇인가요?", **rest) -> Sample:
    return conversation(("user", "<image>" * len(images) + question), ("assistant", answer), images=images, **rest)


@pytest.mark.parametrize(
    "to, odd, why",
    [
        ("llava", talk("네", rejected="아니요"), "llava cannot hold a preference pair"),
        ("webdataset", talk("네"), "holds one picture, the row has none"),
        ("webdataset", talk("둘", ImageRef(data=encoded(1)), ImageRef(data=encoded(2))), "the row has 2"),
        ("webdataset", talk("네", ImageRef(data=encoded(1)), rejected="아니요"), "cannot hold a preference pair"),
        ("messages", talk("네", rejected="아니요"), "this is a preference pair, and the first row is a conversation"),
        ("parquet", Sample((Message("assistant", split_marks("글")),)), "this is a text for itself, and the first row"),
        ("llava", talk(JSON_TEXT), "would read this as marks or parts"),
        ("messages", talk("네", ImageRef("nowhere.zip", "a.png")), "nowhere.zip is no archive"),
        ("parquet", talk("네", ImageRef("nowhere.png")), "no picture at nowhere.png"),
        ("messages", talk("네", ImageRef(data=b"<html>")), "is no picture that can be read"),
    ],
)
def test_what_a_target_cannot_hold_is_counted_and_listed_or_stops(tmp_path, pictures, to, odd, why):
    good = [talk(f"{number}번", pictures[0]) for number in range(3)]
    out = tmp_path / "set"
    done = written([*good, odd, *good], to, out, max_bad_rows=1.0)
    assert (done["samples"], done["bad"]) == (6, 1) and len(list(read(out))) == 6
    (listed,) = [json.loads(line) for line in (tmp_path / "set.bad_rows.jsonl").read_text(encoding="utf-8").splitlines()]
    assert why in listed["why"]
    with pytest.raises(BodaError, match=r"max_bad_rows allows 1.0%[\s\S]*listed in .*again.bad_rows.jsonl"):
        written([*good, odd], to, tmp_path / "again")
    assert not (tmp_path / "again").exists() and (tmp_path / "again.bad_rows.jsonl").read_text()


def test_a_text_with_pictures_is_refused_everywhere(tmp_path, pictures):
    document = Sample((Message("assistant", (Part("text", "글"), Part("image"))),), (pictures[0],))
    for to in ("llava", "messages", "parquet", "webdataset"):
        with pytest.raises(BodaError, match="1 of 1 rows cannot be used"):
            written([document], to, tmp_path / to)


def test_wrong_use(tmp_path):
    rows = [talk("네")]
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("")
    (tmp_path / "empty").mkdir()
    for to, out, rest, why in (
        ("csv", "out", {}, "--to csv is no format that is written; there are llava, messages, parquet, webdataset"),
        ("messages", "full", {}, "is there already"),
        ("messages", "full/mine.txt", {}, "is there already"),
        ("llava", "out", {"per_shard": 3}, "llava is one file"),
    ):
        with pytest.raises(BodaError, match=why):
            written(rows, to, tmp_path / out, **rest)
    with pytest.raises(BodaError, match="no row could be written"):
        written([], "messages", tmp_path / "none")
    assert written(rows, "messages", tmp_path / "empty")["samples"] == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "full"]


def test_a_stopped_conversion_leaves_nothing(tmp_path, pictures):
    def stops(bad):
        yield from [talk("네", pictures[-1])] * 3
        raise KeyboardInterrupt

    for to in ("llava", "messages", "parquet", "webdataset"):
        with pytest.raises(KeyboardInterrupt):
            convert(stops, to, tmp_path / "out", per_shard=1 if to in ("parquet", "webdataset") else None)
        assert not list(tmp_path.iterdir())


def test_names_of_pictures(tmp_path, pictures, monkeypatch):
    """Files by reference, from --images or the folder; what is no file, and all with copy_images, once in `images/`."""
    path = llava_file(tmp_path / "set", 6, text_only=0)
    rows = list(read(path, images=tmp_path / "set" / "images"))
    asked = [json.loads(path.read_text(encoding="utf-8"))[row]["image"] for row in range(6)]
    names = lambda out: [row["image"] for row in json.loads((out / "data.json").read_text(encoding="utf-8"))]  # noqa: E731
    done = written(rows, "llava", tmp_path / "a", images=tmp_path / "set" / "images")
    assert names(tmp_path / "a") == asked and done["images"] == str(tmp_path / "set" / "images")
    assert [facts(one) for one in read(tmp_path / "a", images=done["images"])] == [facts(row) for row in rows]
    assert written(rows, "parquet", tmp_path / "inside", images=tmp_path / "set" / "images")["images"] == ""
    monkeypatch.chdir(tmp_path)
    Path("link").symlink_to("set")
    linked = list(read("link/chat.json", images="link/images"))
    assert written(linked, "llava", "link/b")["images"] == ""
    assert names(tmp_path / "set" / "b") == [f"../images/{name}" for name in asked]
    assert written(linked, "llava", "link/c", images="link/images")["images"] and names(tmp_path / "set" / "c") == asked
    assert [facts(one) for one in read("link/b")] == [facts(row) for row in rows]
    same = ImageRef(data=Path(rows[0].images[0].path).read_bytes())
    done = written([*rows, talk("같은 그림", same)], "llava", tmp_path / "d", images="set/images", copy_images=True)
    assert done["images"] == "" and len(list((tmp_path / "d" / "images").iterdir())) == 6
    assert names(tmp_path / "d")[0] == names(tmp_path / "d")[-1] == f"images/{Path(names(tmp_path / 'd')[0]).name}"
    mixed = [talk("파일", rows[0].images[0]), talk("묶음", pictures[3])]
    done = written(mixed, "llava", tmp_path / "e", images="set/images")
    assert names(tmp_path / "e")[0] == asked[0] and names(tmp_path / "e")[1].startswith("../../e/images/")
    assert [facts(one) for one in read(tmp_path / "e", images=done["images"])] == [facts(row) for row in mixed]


def test_the_datasets_library_shows_our_parquet(tmp_path, pictures):
    datasets = pytest.importorskip("datasets")
    rows = [talk(f"{number}번", *[pictures[number % 2]] * (number % 3), tags=(("종류", "과일"),)) for number in range(7)]
    assert written(rows, "parquet", tmp_path / "set", per_shard=3)["samples"] == 7
    assert [path.name for path in sorted((tmp_path / "set").iterdir())] == [f"{number:05d}.parquet" for number in range(3)]
    shown = datasets.load_dataset("parquet", data_dir=str(tmp_path / "set"), cache_dir=str(tmp_path / "kept"))["train"]
    assert len(shown) == 7 and [len(row["images"]) for row in shown] == [0, 1, 2, 0, 1, 2, 0]
    picture = shown[1]["images"][0]
    assert isinstance(picture, Image.Image) and picture.tobytes() == load_image(pictures[1]).tobytes()
    assert shown[1]["messages"][1] == {"role": "assistant", "content": [{"type": "text", "text": "1번"}]}
    assert shown[1]["tags"] == [{"name": "종류", "value": "과일"}] and shown[1]["source"] == ", row -1"


COCO = {
    "file_path": "val2014/COCO_val2014_000000391895.jpg",
    "captions": ["a man", "a bike"],
    "caption_ko": ["남자", "자전거"],
    "id": 391895,
}


def test_coco_korean_is_told_from_its_columns(tmp_path):
    path = tmp_path / "MSCOCO_train_val_Korean.json"
    path.write_text(json.dumps([COCO] * 2, ensure_ascii=False), encoding="utf-8")
    (tmp_path / "coco" / "val2014").mkdir(parents=True)
    (tmp_path / "coco" / COCO["file_path"]).write_bytes(encoded(1, "JPEG"))
    bad = BadRows()
    samples = list(read(path, images=tmp_path / "coco", bad_rows=bad))
    assert list(bad.formats) == ["captions"] and [sample.messages[1].text for sample in samples] == ["남자", "자전거"] * 2
    english = read(path, images=tmp_path / "coco", columns={"caption": "captions"})
    assert [sample.messages[1].text for sample in english] == ["a man", "a bike"] * 2
    written(samples, "llava", tmp_path / "out", images=tmp_path / "coco")
    assert json.loads((tmp_path / "out" / "data.json").read_text(encoding="utf-8"))[0]["image"] == COCO["file_path"]


def test_single_turns(pictures):
    whole = conversation(
        ("system", "짧게."), ("user", "<image>뭐죠?"), ("assistant", "사과"), ("user", "색은?"), ("assistant", "빨강"),
        ("user", "이<image>는?"), ("assistant", "배"), images=tuple(pictures[:2]), tags=(("가", "나"),),
    )  # fmt: skip
    assert list(single_turns(whole)) == [
        conversation(
            ("system", "짧게."), ("user", "<image>뭐죠?"), ("assistant", "사과"), images=(pictures[0],), tags=(("가", "나"),)
        ),
        conversation(
            ("system", "짧게."), ("user", "<image>색은?"), ("assistant", "빨강"), images=(pictures[0],), tags=(("가", "나"),)
        ),
        conversation(
            ("system", "짧게."), ("user", "<image>이<image>는?"), ("assistant", "배"), images=whole.images, tags=(("가", "나"),)
        ),
    ]
    for other in (replace(whole, rejected="감"), Sample((Message("assistant", split_marks("글")),))):
        assert list(single_turns(other)) == [other]


def test_sets_are_merged(tmp_path, pictures):
    """In order, with new ids and where each row came from; the same words about the same pixels once."""
    copy = ImageRef(data=pictures[0].read())
    written([talk("사과", pictures[0]), talk("배", pictures[1])], "llava", tmp_path / "a")
    written([talk("사과", copy), talk("사과", pictures[2]), talk("감")], "llava", tmp_path / "b")
    done = merge([tmp_path / "a", tmp_path / "b"], tmp_path / "all", drop_duplicates=True)
    assert (done["to"], done["samples"], done["duplicates"]) == ("llava", 4, 1)
    assert done["sets"] == {str(tmp_path / "a"): 2, str(tmp_path / "b"): 2}
    rows = json.loads((tmp_path / "all" / "data.json").read_text(encoding="utf-8"))
    assert [row["id"] for row in rows] == [f"{number:09d}" for number in range(4)]
    assert [row["source"] for row in rows] == [
        f"{tmp_path / name / 'data.json'}, row {row}" for name, row in (("a", 0), ("a", 1), ("b", 1), ("b", 2))
    ]
    back = list(read(tmp_path / "all"))
    assert [sample.messages[1].text for sample in back] == ["사과", "배", "사과", "감"]
    assert [sample.images[0].read() for sample in back[:3]] == [picture.read() for picture in pictures[:3]]
    assert merge([tmp_path / "a", tmp_path / "b"], tmp_path / "twice")["samples"] == 5
    (tmp_path / "gone").mkdir()
    (tmp_path / "gone" / "rows.json").write_text('[{"image": "no.png", "caption": "배"}]')
    done = merge([tmp_path / "a", tmp_path / "gone"], tmp_path / "rest", "parquet", drop_duplicates=True, max_bad_rows=0.5)
    assert (done["to"], done["samples"], done["bad"]) == ("parquet", 2, 1)


def test_weights_take_the_same_rows_again(tmp_path):
    for name in "ab":
        written([talk(f"{name}{number}") for number in range(400)], "parquet", tmp_path / name)
    sets = [tmp_path / "a", tmp_path / "b"]
    done = merge(sets, tmp_path / "all", weights=[2.25, 0.5])
    counts = list(done["sets"].values())
    assert done["to"] == "parquet" and 860 < counts[0] < 940 and 160 < counts[1] < 240 and sum(counts) == done["samples"]
    assert merge(sets, tmp_path / "again", weights=[2.25, 0.5])["sets"] == done["sets"]
    assert [facts(one) for one in read(tmp_path / "all")] == [facts(one) for one in read(tmp_path / "again")]
    for weights in ([1.0], [1.0, 0.0], [1.0, -1.0], [1.0, float("nan")], [1.0, float("inf")]):
        with pytest.raises(BodaError, match="one for each set"):
            merge(sets, tmp_path / "no", weights=weights)


def test_a_row_that_is_not_taken_makes_no_other_a_duplicate(tmp_path):
    for name in "ab":
        written([talk(f"{number}") for number in range(100)], "messages", tmp_path / name)
    sets = [tmp_path / "a", tmp_path / "b"]
    done = merge(sets, tmp_path / "all", weights=[0.5, 1], drop_duplicates=True)
    assert done["samples"] == 100 and 0 < done["sets"][str(sets[0])] < 100


def test_the_files_of_a_translation_job_become_one(tmp_path):
    job = tmp_path / "job"
    (job / "data").mkdir(parents=True)
    (job / "manifest.json").write_text('{"settings": {}}')
    for number in (1, 0):
        row = {"instruction": f"{number}번은?", "input": "사과", "output": "답"}
        (job / "data" / f"part-{number}.json").write_text(json.dumps([row], ensure_ascii=False), encoding="utf-8")
    with pytest.raises(BodaError, match="the job is not finished"):
        merge([job], tmp_path / "all")
    (job / "manifest.json").write_text('{"settings": {}, "finished": "2025-01-01"}')
    done = merge([job], tmp_path / "all")
    assert (done["to"], done["samples"], done["sets"]) == ("messages", 2, {str(job): 2})
    expected = [facts(one) for number in (0, 1) for one in read(job / "data" / f"part-{number}.json")]
    assert [facts(one) for one in read(tmp_path / "all")] == expected


def test_tags_and_licences_of_other_shapes(tmp_path):
    """Both shapes of tags are read, any other is a bad row; a licence of the row gives way to the one asked for."""
    turns = [{"role": "user", "content": "가?"}, {"role": "assistant", "content": "나."}]
    tags = [{"종류": "과일"}, [{"name": "종류", "value": "과일"}], ["과일"], [{"name": "종류"}], "과일"]
    rows = [{"messages": turns, "tags": each, "license": 3} for each in tags]
    (tmp_path / "rows.json").write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")
    bad = BadRows()
    good = list(read(tmp_path / "rows.json", bad_rows=bad))
    assert [sample.tags for sample in good] == [(("종류", "과일"),)] * 2 and [sample.source.licence for sample in good] == [
        "3"
    ] * 2
    assert [(row.row, row.field) for row in bad] == [(2, "tags"), (3, "tags"), (4, "tags")]
    assert next(read(tmp_path / "rows.json", licence="CC0")).source.licence == "CC0"


def test_real_sets_come_back_equal(tmp_path):
    path = shared_data("kullm_v2/data/kullm-v1.jsonl")
    samples = list(read(path, "kullm", limit=300))
    for to in ("messages", "parquet"):
        assert written(samples, to, tmp_path / to)["joined"] == 0
        assert [facts(one) for one in read(tmp_path / to)] == [facts(one) for one in samples]
    done = written(samples, "llava", tmp_path / "llava")
    assert 0 < done["joined"] < 300
    assert [facts(one) for one in read(tmp_path / "llava")] == [facts(with_joined_texts(one)) for one in samples]
    pairs = list(read(shared_data("llamafactory_demo/data/dpo_en_demo.json"), limit=50))
    written(pairs, "parquet", tmp_path / "pairs")
    assert all(pair.rejected for pair in pairs) and [facts(one) for one in read(tmp_path / "pairs")] == list(map(facts, pairs))


GROWTH = """
import json, sys
from pathlib import Path
from boda.data.convert import convert
from boda.data.sources import read

def peak(rows):
    folder = Path(sys.argv[1]) / str(rows)
    folder.mkdir()
    row = {"instruction": "물음에 답해 주세요.", "input": "사과 배 감 귤 " * 12, "output": "네, 답합니다. " * 16}
    with (folder / "rows.jsonl").open("w", encoding="utf-8") as stream:
        stream.writelines(json.dumps(row | {"id": number}, ensure_ascii=False) + "\\n" for number in range(rows))
    done = convert(lambda bad: read(folder / "rows.jsonl", bad_rows=bad), "parquet", folder / "out")
    assert done["samples"] == rows
    status = Path("/proc/self/status").read_text()  # getrusage would give the parent's peak where that is higher
    return int(status.split("VmHWM:")[1].split()[0]) / 1024, (folder / "rows.jsonl").stat().st_size / 2**20

few, first = peak(int(sys.argv[2]))
many, size = peak(int(sys.argv[3]))
print(f"{few:.1f} MB after {first:.0f} MB of rows, {many:.1f} MB after {size:.0f} MB more")
sys.exit(many - few > size / 2)
"""


@pytest.mark.parametrize("rows", [30_000, pytest.param(200_000, marks=pytest.mark.long)])
def test_memory_does_not_grow_with_the_rows(tmp_path, rows):
    """The peak of many rows is that of few, but for an allocator's chunks."""
    ran = subprocess.run([sys.executable, "-c", GROWTH, tmp_path, str(rows // 4), str(rows)], capture_output=True, text=True)
    print(ran.stdout)
    assert ran.returncode == 0, ran.stdout + ran.stderr
