"""The source `mmc4`: which pictures a document keeps and before which sentence, read in place from tars; what is broken is told."""

from __future__ import annotations

import base64
import gzip
import io
import json
import re
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image
from typer.testing import CliRunner

from boda.cli import app
from boda.data.images import load_image
from boda.data.sample import ImageRef, Sample
from boda.data.sources import BadRows, read
from boda.data.sources.mmc4 import assign
from boda.errors import BadRow, BodaError
from boda.recipe.schema import Data

DATA_PAGE = Path(__file__).parents[2] / "docs" / "data.md"


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch) -> None:
    monkeypatch.setenv("BODA_CACHE", str(tmp_path_factory.mktemp("cache")))


def jpeg(seed: int, side: int = 96) -> bytes:
    """Noise: 96 pixels a side are some 14 kB, 48 some 4 kB."""
    buffer = io.BytesIO()
    noise = np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)
    Image.fromarray(noise).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


BIG = [jpeg(seed) for seed in range(8)]
SMALL = jpeg(99, 48)
assert min(map(len, BIG)) >= 11_000 > len(SMALL)
SENTENCES = ["첫 문장.", "둘째 문장.", "셋째 문장.", "넷째 문장.", "다섯째 문장.", "여섯째 문장.", "일곱째 문장.", "끝 문장."]


def document(pictures: list[bytes | None], similarity: list[list[float]], sentences: list[str] | None = None, **rest) -> dict:
    """A document as the converted shards hold it; None is a picture that could not be fetched."""
    sentences = SENTENCES[: len(similarity[0]) if similarity else 2] if sentences is None else sentences
    listed: list[dict] = []
    for number, (data, row) in enumerate(zip(pictures, similarity)):
        best = int(np.argmax(row))
        listed.append({"image_name": f"{number}.jpg", "matched_text_index": best, "matched_sim": row[best]})
        if data is not None:
            listed[-1]["image_base64"] = base64.b64encode(data).decode()
    return {"text_list": sentences, "image_info": listed, "similarity_matrix": similarity, **rest}


def fits(sentences: list[int], number: int, well: float = 0.3) -> list[list[float]]:
    """Similarities where picture i fits sentence `sentences[i]` alone."""
    return [[well if column == best else 0.1 for column in range(number)] for best in sentences]


def tar(path: Path, documents: list[dict | str | bytes], **more: bytes) -> Path:
    members = {f"{number:032x}.json": made for number, made in enumerate(documents)} | more
    with tarfile.open(path, "w") as file:
        for name, made in members.items():
            data = made if isinstance(made, bytes) else (made if isinstance(made, str) else json.dumps(made)).encode()
            info = tarfile.TarInfo(name)
            info.size = len(data)
            file.addfile(info, io.BytesIO(data))
    return path


def told(sample: Sample) -> list[str | bytes]:
    """Texts and pictures in order."""
    images = iter(sample.images)
    assert sample.is_document
    return [part.text if part.type == "text" else next(images).read() for part in sample.messages[0].content]


def looked(path: Path, format: str | None = "mmc4", **rest) -> tuple[list[Sample], dict[str, str], dict[str, int]]:
    """(samples, what is wrong with rows, how many each rule left out)."""
    bad = BadRows()
    samples = list(read(path, format, bad_rows=bad, **rest))
    return samples, {str(row.row): f"{row.field}: {row.why}" for row in bad}, dict(bad.left_out)


def test_a_picture_stands_before_its_sentence(tmp_path):
    """... in the order of the text, whatever the order of the pictures; nothing but the place of a picture is kept."""
    path = tar(tmp_path / "0.tar", [document([BIG[0], BIG[1]], fits([2, 0], 4))])
    for format in ("mmc4", None):
        (sample,), bad, out = looked(path, format)
        assert told(sample) == [BIG[1], "첫 문장. 둘째 문장. ", BIG[0], "셋째 문장. 넷째 문장."] and not bad and not out
    assert [(image.path, image.data) for image in sample.images] == [(str(path), None)] * 2
    for image, data in zip(sample.images, (BIG[1], BIG[0])):
        again = ImageRef.from_json(image.to_json())
        assert again == image and again.read() == data and len(image.to_json()) < 300
        assert load_image(again).size == (96, 96)
    assert sample.images[0].key != sample.images[1].key


def test_which_pictures_are_kept(tmp_path):
    """Larger than 10 kB, similar to its sentence, six at most; one that could not be fetched is none."""
    edge = SMALL + bytes(11_000 - len(SMALL))
    cases = [
        ([SMALL, BIG[1], BIG[2]], fits([0, 1, 2], 3), [BIG[1], BIG[2]]),
        ([None, BIG[1], BIG[2]], fits([0, 1, 2], 3), [BIG[1], BIG[2]]),
        ([BIG[0], BIG[1], BIG[2]], [[0.24, 0, 0], [0, 0.2399, 0], [0, 0, 0.9]], [BIG[0], BIG[2]]),
        (BIG, fits([7, 6, 5, 4, 3, 2, 1, 0], 8), [BIG[5], BIG[4], BIG[3], BIG[2], BIG[1], BIG[0]]),
        ([BIG[0], edge, edge[:-1], BIG[1]], fits([0, 1, 2, 3], 4), [BIG[0], edge, BIG[1]]),
    ]
    path = tar(tmp_path / "0.tar", [document(*case[:2]) for case in cases])
    samples, bad, out = looked(path)
    assert not bad and not out
    for sample, (_, similarity, expected) in zip(samples, cases, strict=True):
        assert [piece for piece in told(sample) if isinstance(piece, bytes)] == expected
        assert sample.messages[0].text == " ".join(SENTENCES[: len(similarity[0])])


def test_two_pictures_that_fit_one_sentence(tmp_path):
    """Each gets a sentence of its own so that the sum is the largest, small pictures aside; then it must fit that one."""
    both = [[0.5, 0.3, 0.1], [0.45, 0.1, 0.2]]
    made = [
        document([BIG[0], BIG[1]], both),
        document([SMALL, BIG[1], BIG[2]], [[0.9, 0.1, 0.1], [0.8, 0.3, 0.1], [0.1, 0.3, 0.1]]),
    ]
    samples, bad, _ = looked(tar(tmp_path / "0.tar", made))
    assert not bad
    assert told(samples[0]) == [BIG[1], "첫 문장. ", BIG[0], "둘째 문장. 셋째 문장."]
    assert told(samples[1]) == [BIG[1], "첫 문장. ", BIG[2], "둘째 문장. 셋째 문장."]


@given(arrays(float, st.tuples(st.integers(0, 6), st.integers(0, 6)), elements=st.floats(-1, 1, width=16)))
@settings(max_examples=200, deadline=None)
def test_an_assignment_is_the_best_there_is(similarity: np.ndarray):
    from scipy.optimize import linear_sum_assignment

    found = assign(similarity)
    rows, columns = zip(*found) if found else ((), ())
    assert len(found) == min(similarity.shape) == len(set(rows)) == len(set(columns)) and list(rows) == sorted(rows)
    best = linear_sum_assignment(similarity, maximize=True)
    assert similarity[list(rows), list(columns)].sum() == pytest.approx(similarity[best].sum(), abs=1e-9)


def test_documents_that_a_rule_leaves_out_are_no_bad_rows(tmp_path):
    made = [
        document([], [], ["그림이 없다."]),
        document([SMALL, None], fits([0, 1], 2)),
        document([BIG[0]], fits([0], 2, 0.2)),
        document([BIG[0], BIG[1]], fits([0, 1], 2)),
    ]
    samples, bad, out = looked(tar(tmp_path / "0.tar", made))
    assert len(samples) == 1 and not bad
    assert out == {"no picture of more than 10 kB": 2, "no picture with a similarity of 0.24 to its sentence": 1}
    bad_rows = BadRows()
    assert list(read(tar(tmp_path / "2.tar", made), "mmc4", bad_rows=bad_rows)) and bad_rows.seen == 1
    assert len(list(read(tmp_path / "2.tar", "mmc4"))) == 1  # without a list of bad rows nothing is raised for them
    with pytest.raises(
        BodaError, match=r"all of 3 documents are left out: no picture of more than 10 kB \(2\); no picture with"
    ):
        list(read(tar(tmp_path / "1.tar", made[:3]), "mmc4", bad_rows=BadRows()))


def test_of_documents_with_one_picture_half_are_left_out(tmp_path):
    """... the same in every form of the data and every reading; documents with two all stay."""
    singles = [document([BIG[0]], fits([0], 2), [f"{number}번째 글.", "끝."]) for number in range(200)]
    samples, bad, out = looked(tar(tmp_path / "0.tar", singles))
    assert not bad and len(samples) + sum(out.values()) == 200 and 70 < len(samples) < 130
    kept = [sample.messages[0].text for sample in samples]
    other, _, _ = looked(tar(tmp_path / "other.tar", singles[::-1]))
    assert [sample.messages[0].text for sample in other] == kept[::-1]
    lines = tmp_path / "docs.jsonl"
    for made in singles:
        del made["image_info"][0]["image_base64"]
    lines.write_text("".join(json.dumps(made) + "\n" for made in singles))
    (tmp_path / "0.jpg").write_bytes(BIG[0])
    assert [sample.messages[0].text for sample in read(lines)] == kept


def test_forty_pictures(tmp_path):
    """Six are kept, the first six in the document's list that have a sentence."""
    sentences = [f"{number}번 문장." for number in range(50)]
    pictures = [BIG[number % 8] for number in range(40)]
    (sample,), bad, _ = looked(tar(tmp_path / "0.tar", [document(pictures, fits(list(range(40)), 50), sentences)]))
    assert not bad and [piece for piece in told(sample) if isinstance(piece, bytes)] == BIG[:6]
    assert sample.messages[0].text == " ".join(sentences)


@pytest.mark.parametrize("packed", [False, True])
def test_lines_beside_a_folder_of_pictures(tmp_path, packed: bool):
    """As published: a zip with one .jsonl; pictures by their names, or in a folder with the shard's number."""
    made = document([None, None, None], fits([0, 1, 2], 3))
    folder = tmp_path / "images"
    (folder / "12").mkdir(parents=True)
    (folder / "12" / "0.jpg").write_bytes(BIG[0])
    (folder / "2.jpg").write_bytes(BIG[2])
    line = json.dumps(made, ensure_ascii=False) + "\n"
    path = tmp_path / "docs_shard_12_v2.jsonl"
    path.write_text(line)
    if packed:
        with zipfile.ZipFile(tmp_path / "docs_shard_12_v2.jsonl.zip", "w") as archive:
            archive.write(path, path.name)
        path = tmp_path / "docs_shard_12_v2.jsonl.zip"
    for asked in (path, tmp_path / path.name.replace("12", "{12..12}")):
        for format in ("mmc4", None):
            (sample,), bad, _ = looked(asked, format, images=folder)
            assert told(sample) == [BIG[0], "첫 문장. 둘째 문장. ", BIG[2], "셋째 문장."] and not bad
    with pytest.raises(BodaError, match="all of 1 documents are left out"):
        looked(path, images=tmp_path)


def test_sequences_that_chatgpt_wrote(tmp_path):
    text = "아침에 _!_IMAGE1_!_ 빵을 굽고 _!_IMAGE2_!_ 먹는다."
    known = {f"_!_IMAGE{number}_!_": {"base64_image": base64.b64encode(BIG[number]).decode()} for number in (1, 2)}
    many = "".join(f"_!_IMAGE{1 + number % 2}_!_ {number}. " for number in range(40))
    made = [
        {"is_gpt": True, "example": text, "image_map": known},
        {"is_gpt": True, "example": many, "image_map": known},
        {"is_gpt": True, "example": "그림 없는 글", "image_map": known},
        {"is_gpt": True, "example": "_!_IMAGE3_!_ 글", "image_map": known},
    ]
    samples, bad, out = looked(tar(tmp_path / "0.tar", made), None)
    assert told(samples[0]) == ["아침에 ", BIG[1], " 빵을 굽고 ", BIG[2], " 먹는다."]
    assert len(samples[1].images) == 6 and samples[1].messages[0].text.endswith(" 5. ")
    assert out == {"no picture in its text": 1}
    assert list(bad.values()) == ["image_map: no picture _!_IMAGE3_!_, which stands in the text"]


def broken(change) -> dict:
    made = document([BIG[0], BIG[1]], fits([0, 1], 2))
    change(made)
    return made


def test_broken_documents_are_told_one_by_one(tmp_path):
    def picture(value):
        return lambda made: made["image_info"][1].update(image_base64=value)

    encoded = base64.b64encode
    cases: list[tuple[dict | str | bytes, str]] = [
        (broken(picture("*" * 20_000)), "image_info/1/image_base64: no base64 (Only base64 data is allowed)"),
        (broken(picture(encoded(BIG[0]).decode()[:-1])), "image_info/1/image_base64: no base64 (Incorrect padding)"),
        (broken(picture(3)), "image_info/1/image_base64: no base64"),
        (broken(picture(encoded(b"<html>" + bytes(20_000)).decode())), "text (a web page or SVG)"),
        (broken(picture(encoded(BIG[0][:40] + bytes(20_000)).decode())), "image_info/1/image_base64: 20040 bytes in memory"),
        ('{"text_list": ["가"], ', "group: its json cannot be read"),
        (b"\xff\xfe{}", "group: its json cannot be read"),
        ("", "group: its json cannot be read"),
        ("[1, 2]", "group: its json is no object"),
        (broken(lambda made: made["similarity_matrix"].pop()), "similarity_matrix: 2 rows (pictures) of 2 numbers (sentences)"),
        (broken(lambda made: made["similarity_matrix"][0].pop()), "similarity_matrix: 2 rows"),
        (broken(lambda made: made["similarity_matrix"][0].__setitem__(0, None)), "similarity_matrix: 2 rows"),
        (broken(lambda made: made["similarity_matrix"][0].__setitem__(0, "높다")), "similarity_matrix: 2 rows"),
        (broken(lambda made: made.pop("similarity_matrix")), "similarity_matrix: no similarity_matrix"),
        (broken(lambda made: made.pop("image_info")), "image_info: no image_info"),
        (broken(lambda made: made.update(image_info={"0": 1})), "image_info: a list is needed; this is an object"),
        (broken(lambda made: made["image_info"].__setitem__(0, "0.jpg")), "image_info[0]: an object is needed; this is text"),
        (broken(lambda made: made["text_list"].__setitem__(1, 7)), "text_list: text is needed; this is a number"),
        (broken(lambda made: made["text_list"].__setitem__(1, "가 <image> 나")), "the text itself contains <image>"),
        (broken(lambda made: made.update(text_list=[" ", ""])), "assistant turn is empty"),
    ]
    path = tar(tmp_path / "0.tar", [case for case, _ in cases] + [document([BIG[0], BIG[1]], fits([0, 1], 2))])
    samples, bad, out = looked(path)
    assert len(samples) == 1 and not out
    assert list(bad) == [f"{number:032x}" for number in range(len(cases))]
    for why, (_, expected) in zip(bad.values(), cases, strict=True):
        assert expected in why, (expected, why)
    with pytest.raises(BadRow, match="no base64"):
        list(read(path, "mmc4"))
    assert len(looked(path, probe=False)[0]) == 3  # broken pictures are then found when they are decoded


def test_base64_that_was_printed_as_bytes(tmp_path):
    """The published converter has written str(b"..."), quotes and all."""
    made = document([BIG[0], BIG[1]], fits([0, 1], 2))
    for info in made["image_info"]:
        info["image_base64"] = str(info["image_base64"].encode())
    (sample,), _, _ = looked(tar(tmp_path / "0.tar", [made]))
    assert told(sample) == [BIG[0], "첫 문장. ", BIG[1], "둘째 문장."]


def test_shards_with_faults(tmp_path):
    """A key without its json, a key twice, a tar that breaks off, a tar in gzip or under a wrong name: each one clear reason."""
    good = document([BIG[0], BIG[1]], fits([0, 1], 2))
    path = tar(
        tmp_path / "0.tar", [good, good], **{"b.txt": b"x", "c.jpg": SMALL, f"{0:032x}.jsonl": b"", f"{0:032x}.json ": b""}
    )
    samples, bad, _ = looked(path)
    assert len(samples) == 2 and bad["b"] == "group: no document (.json); it has txt" and "it has jpg" in bad["c"]
    assert "stand apart" in bad[f"{0:032x}"]

    whole = tar(tmp_path / "1.tar", [good] * 3).read_bytes()
    (tmp_path / "1.tar").write_bytes(whole[: len(whole) * 5 // 6])
    samples, bad, _ = looked(tmp_path / "1.tar")
    assert len(samples) == 2 and list(bad) == ["end"] and "breaks off" in bad["end"] and "2 keys, is used" in bad["end"]

    (tmp_path / "2.tar").write_bytes(gzip.compress(whole))
    with pytest.raises(BodaError, match="compressed with gzip, whatever its name says"):
        looked(tmp_path / "2.tar")
    (tmp_path / "3.zip").write_bytes(whole)
    with pytest.raises(BodaError, match=r"3\.zip is no archive that can be read"):
        looked(tmp_path / "3.zip")
    (tmp_path / "4.jsonl").write_bytes(whole)
    with pytest.raises(BodaError, match="is no text"):
        looked(tmp_path / "4.jsonl")
    with pytest.raises(BodaError, match="7 of 10 are not there"):
        looked(tmp_path / "{0..9}.tar")
    (tmp_path / "5.jsonl").write_text(json.dumps(good) + "\n" + json.dumps(good)[:-9] + "\n")
    _, bad, _ = looked(tmp_path / "5.jsonl")
    assert "pictures inside of documents are read from tar shards alone" in bad["0"] and "cut off" in bad["1"]


def test_a_changed_shard_is_noticed_when_a_picture_is_read(tmp_path):
    path = tar(tmp_path / "0.tar", [document([BIG[0], BIG[1]], fits([0, 1], 2))])
    (sample,), _, _ = looked(path)
    size = sample.images[0].size
    tar(path, [json.dumps({"image_info": []}).ljust(size)])
    with pytest.raises(BodaError, match=r"no picture at .*image_info/0/image_base64"):
        sample.images[0].read()
    tar(path, ["x" * size])
    with pytest.raises(BodaError, match="of the json"):
        sample.images[0].read()


def test_a_folder_of_shards_and_other_columns(tmp_path):
    """A translation stands in a column of its own."""
    for number in range(3):
        made = document([BIG[0], BIG[1]], fits([0, 1], 2), ["A.", "B."], text_list_ko=["가.", "나."])
        tar(tmp_path / f"{number:09d}.tar", [made])
    for format in ("mmc4", None):
        samples, bad, _ = looked(tmp_path, format, columns={"text_list": "text_list_ko"}, licence="ODC-BY")
        assert [sample.messages[0].text for sample in samples] == ["가. 나."] * 3 and not bad
        assert {sample.source.licence for sample in samples} == {"ODC-BY"}


def test_check_and_stats_show_what_was_left_out(tmp_path):
    torn = BIG[3][:-200]
    made = [
        document([BIG[0], BIG[1]], fits([0, 1], 2)),
        document([SMALL], fits([0], 2)),
        document([BIG[2], torn], fits([0, 1], 2)),
    ]
    path = tar(tmp_path / "0.tar", made)
    for command, code in (("check", 1), ("stats", 0)):
        ran = CliRunner().invoke(app, ["--json", "data", command, str(path)])
        assert ran.exit_code == code, ran.output
        (found,) = json.loads(ran.stdout.splitlines()[-1])["sets"]
        assert found["format"] == "mmc4" and found["left_out"] == {"no picture of more than 10 kB": 1} and found["rows"] == 2
        if command == "check":
            assert found["bad"] == 1 and "cut off" in found["bad_rows"][0]["why"]
        else:
            assert found["pictures"] == 4 and found["hangul_share"] == 1.0


def test_the_documentation(tmp_path, monkeypatch):
    """Its example is a document, its script packs one, and its recipe is read."""
    text = (Path(__file__).parents[2] / "docs" / "interleaved.md").read_text(encoding="utf-8")
    row = json.loads(re.search(r"```json\n(.*?)```", text, re.DOTALL)[1])
    assert row["text_list"] == json.loads(re.search(r"\| `mmc4` \| `(.*?)` \|", DATA_PAGE.read_text("utf-8"))[1])["text_list"]
    (tmp_path / "images").mkdir()
    for name, data in (("a.jpg", BIG[0]), ("b.jpg", BIG[1])):
        (tmp_path / "images" / name).write_bytes(data)
    (tmp_path / "docs.jsonl").write_text(json.dumps(row) + "\n")
    monkeypatch.chdir(tmp_path)
    exec(re.search(r"```python\n(.*?)```", text, re.DOTALL)[1], {})
    (packed,), (loose,) = read("000000000.tar"), read("docs.jsonl", images="images")
    assert told(packed) == told(loose) == [BIG[0], "사과다. ", BIG[1], "배다."]
    (block,) = yaml.safe_load(re.search(r"```yaml\n(.*?)```", text, re.DOTALL)[1])["data"]
    assert Data(**block).source == "mmc4"
