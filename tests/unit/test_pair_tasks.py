"""Tasks on pair models: scores by known answers and plain restatements, what a run leaves, and what is refused."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import boda.evaluate
from boda.data.drawn.samples import facts
from boda.data.drawn.sentences import noun_phrase
from boda.data.sample import ImageRef
from boda.errors import BodaError
from boda.evaluate.metrics.ranking import chance, hits, places, ranking
from boda.evaluate.pairs import Search, both_ways, fill, pair_task, text_vectors
from boda.evaluate.report import write_report
from boda.evaluate.task import PairTask, Row, Task
from boda.evaluate.tasks.zero_shot import TEMPLATES, top, zero_shot
from tests.fake_encoder import RGB, FakeEncoder, unit
from tests.shared_data import shared_data


def run(model, tasks, out, **rest):
    return boda.evaluate.run(model, tasks, out, quiet=True, **rest)


def lines(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "answers.jsonl").read_text(encoding="utf-8").splitlines()]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder of plain pictures, one of them in a folder of its own with a Korean name."""
    folder = tmp_path / "photos"
    (folder / "노란 것").mkdir(parents=True)
    for name, colour in (("red.png", "빨간"), ("green.png", "초록"), ("blue.jpg", "파란"), ("노란 것/해.png", "노란")):
        Image.new("RGB", (16, 12), RGB[colour]).save(folder / name)
    (folder / "notes.txt").write_text("no picture", encoding="utf-8")
    return folder


def write_rows(path: Path, *rows: dict) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


# Scores


def test_places_count_what_scores_higher():
    scores = np.array([0.1, 0.9, 0.5, 0.7])
    assert places(scores, [1]) == [1] and places(scores, [0]) == [4] and places(scores, [2, 3]) == [2, 3]


def test_a_model_that_scores_all_alike_finds_nothing():
    assert places(np.zeros(100), [0]) == [100] and places(np.zeros(100), [99]) == [100]
    assert places(np.full(100, np.nan), [0]) == [100]
    assert hits(places(np.zeros(100), [0])) == {"R@1": 0, "R@5": 0, "R@10": 0}


@given(st.lists(st.floats(-1, 1, width=16), min_size=1, max_size=30, unique=True), st.data())
def test_places_are_those_of_a_sorted_list(values, data):
    relevant = data.draw(st.lists(st.integers(0, len(values) - 1), min_size=1, unique=True))
    order = sorted(range(len(values)), key=lambda number: -values[number])
    assert places(np.array(values), relevant) == sorted(order.index(number) + 1 for number in relevant)


def test_what_a_random_order_scores():
    assert chance(hits, 1, 50) == pytest.approx(1 / 50)
    assert chance(hits, 5, 50) == pytest.approx(1 / 10, abs=0.02)  # drawn
    expected = sum(1 / math.log2(1 + place) for place in range(1, 11)) / 40
    assert chance(ranking, 1, 40) == pytest.approx(expected)


def test_known_ranking_scores():
    # Three relevant ones at the places 1, 4 and 12.
    found = ranking([1, 4, 12])
    assert found["R@1"] == pytest.approx(1 / 3) and found["R@5"] == found["R@10"] == pytest.approx(2 / 3) and found["MRR"] == 1
    gained, best = 1 + 1 / math.log2(5), 1 + 1 / math.log2(3) + 1 / math.log2(4)
    assert found["NDCG@10"] == pytest.approx(gained / best)
    assert ranking([1, 2, 3])["NDCG@10"] == pytest.approx(1)
    assert ranking([2]) == pytest.approx({"NDCG@10": 1 / math.log2(3), "MRR": 0.5, "R@1": 0, "R@5": 1, "R@10": 1})
    assert ranking([11]) == pytest.approx({"NDCG@10": 0, "MRR": 1 / 11, "R@1": 0, "R@5": 0, "R@10": 0})
    assert ranking(list(range(1, 31)))["NDCG@10"] == pytest.approx(1)  # more relevant ones than places that count
    assert hits([4, 12]) == {"R@1": 0, "R@5": 1, "R@10": 1} and top([5]) == {"top-1": 0, "top-5": 1}


def test_prompt_ensembles_are_means_of_normalised_vectors_normalised_again():
    encoder, templates = FakeEncoder(), ("이것은 {} 이다.", "{:이가} 아주 크게 나온 사진")
    found = text_vectors(encoder, ["빨간 사과", "파란 별"], templates)
    for vector, (first, second) in zip(
        found,
        (
            ("이것은 빨간 사과 이다.", "빨간 사과가 아주 크게 나온 사진"),
            ("이것은 파란 별 이다.", "파란 별이 아주 크게 나온 사진"),
        ),
    ):
        both = encoder.texts([first]) + encoder.texts([second])  # each of length 1
        assert vector == pytest.approx(unit(both[0] / 2), abs=1e-6)
    assert np.linalg.norm(found, axis=1) == pytest.approx([1, 1])


def test_a_single_template_is_no_ensemble():
    encoder = FakeEncoder()
    assert text_vectors(encoder, ["빨간 별"]) == pytest.approx(encoder.texts(["빨간 별"]), abs=1e-6)


def test_the_shipped_templates_fit_every_word():
    assert TEMPLATES[0] == "이것은 {} 이다."  # KoCLIP's
    assert {fill(template, "개") for template in TEMPLATES} >= {"개를 찍은 사진", "사진에 개가 있습니다."}


# Both ways


def test_recall_both_ways_is_that_of_the_whole_similarity_matrix(tmp_path: Path):
    """COCO's protocol against a restatement: a caption finds its picture, a picture any of its captions."""
    rng = np.random.default_rng(0)
    pictures, captions = unit(rng.normal(size=(30, 8))), unit(rng.normal(size=(30, 5, 8)))
    captions = unit(captions + 0.5 * pictures[:, None])
    refs = [ImageRef(data=bytes([number])) for number in range(30)]

    class Vectors(FakeEncoder):
        dim = 8

        def texts(self, texts, batch=256):
            return np.stack([captions[tuple(map(int, text.split()))] for text in texts]).astype(np.float32)

        def images(self, images, batch=64):
            return np.stack([pictures[number] for number in images]).astype(np.float32)

    captioned = [(ref, [f"{number} {k}" for k in range(5)]) for number, ref in enumerate(refs)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("boda.evaluate.pairs.load_image", lambda ref: ref.data[0])
        patch.setattr("boda.data.sample.ImageRef.to_json", lambda ref: json.dumps({"path": str(ref.data[0])}))
        found = run(Vectors(), [pair_task("coco", both_ways(captioned), "")], tmp_path / "out")["coco"]
    scores = captions.reshape(150, 8) @ pictures.T
    order = (-scores).argsort(1)
    back = (-scores.T).argsort(1)
    for k in (1, 5, 10):
        to_image = np.mean([number // 5 in order[number, :k] for number in range(150)])
        to_text = np.mean([any(each // 5 == number for each in back[number, :k]) for number in range(30)])
        assert found["groups"]["text to image"][f"R@{k}"]["score"] == pytest.approx(to_image)
        assert found["groups"]["image to text"][f"R@{k}"]["score"] == pytest.approx(to_text)
    assert found["groups"]["text to image"]["R@1"]["n"] == 150 and found["groups"]["image to text"]["R@1"]["n"] == 30
    assert found["n"] == 180 and found["failed"] == 0
    # The five captions of a picture stand and fall together, so pictures are drawn for the interval, not captions.
    assert len({str(record["images"]) for record in lines(tmp_path / "out") if record["prompt"]}) == 30


def test_a_gallery_is_encoded_once_and_is_the_queries_of_the_way_back(photos: Path, tmp_path: Path):
    encoder = FakeEncoder()
    captioned = [(ImageRef(str(photos / "red.png")), ["빨간 것"]), (ImageRef(str(photos / "green.png")), ["초록 것", "초록색"])]
    found = run(encoder, [pair_task("two", both_ways(captioned), "")], tmp_path / "out")["two"]
    assert encoder.seen_pictures == 2 and found["score"] == 1.0 and found["n"] == 5


# The user's own queries


def test_own_queries(photos: Path, tmp_path: Path):
    queries = write_rows(
        tmp_path / "queries.jsonl",
        {"query": "빨간 것", "relevant": ["red.png"]},
        {"query": "노란 해", "relevant": ["노란 것/해.png"]},
        {"query": "초록 아니면 파란 것", "relevant": ["green.png", "blue.jpg"]},
        {"query": "빨간 것인데 틀린 정답", "relevant": ["blue.jpg"]},
    )
    task = f"retrieval:{queries}:images={photos}"
    found = run(FakeEncoder(), [task], tmp_path / "out")[task]
    group = found["groups"]["text to image"]
    assert (found["n"], found["failed"]) == (4, 0) and group["R@1"]["score"] == pytest.approx((1 + 1 + 0.5 + 0) / 4)
    assert group["R@5"]["score"] == 1 and found["score"] == group["NDCG@10"]["score"] < 1 and found["low"] <= found["high"]
    assert 0.75 < group["MRR"]["score"] < 1
    records = lines(tmp_path / "out")
    assert [record["prompt"][0]["content"] for record in records][:2] == ["빨간 것", "노란 해"]
    assert records[0]["raw"].endswith("red.png") and records[3]["gold"].endswith("blue.jpg") and records[3]["score"] < 0.7
    assert "4 pictures" in found["note"]


@pytest.mark.parametrize(
    "row, why",
    [
        ({"query": "  ", "relevant": ["red.png"]}, "field 'query'"),
        ({"relevant": ["red.png"]}, "field 'query'"),
        ({"query": "빨간", "relevant": []}, "field 'relevant'"),
        ({"query": "빨간", "relevant": "red.png"}, "field 'relevant'"),
        ({"query": "빨간", "relevant": ["rde.png"]}, "no 'rde.png' in .*it has 4 pictures, such as"),
        ({"query": "빨간", "relevant": ["notes.txt"]}, "no 'notes.txt'"),
    ],
)
def test_rows_that_ask_for_nothing_are_named(row, why, photos: Path, tmp_path: Path):
    queries = write_rows(tmp_path / "q.jsonl", {"query": "빨간", "relevant": ["red.png"]}, row)
    with pytest.raises(BodaError, match=f"row 1.*{why}"):
        run(FakeEncoder(), [f"retrieval:{queries}:images={photos}"], tmp_path / "out")


def test_broken_pictures_are_left_out_or_fail_and_are_told(photos: Path, tmp_path: Path):
    (photos / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n nothing more")
    queries = write_rows(
        tmp_path / "q.jsonl", {"query": "빨간", "relevant": ["red.png"]}, {"query": "깨진", "relevant": ["broken.png"]}
    )
    task = f"retrieval:{queries}:images={photos}"
    with pytest.warns(UserWarning, match="1 of 5 pictures cannot be read and are left out: .*broken.png"):
        found = run(FakeEncoder(), [task], tmp_path / "out")[task]
    assert (found["n"], found["failed"], found["score"]) == (1, 1, 1.0)
    failed = lines(tmp_path / "out")[1]
    assert failed["failed"] and "broken.png" in failed["error"] and failed["score"] is None and failed["raw"] is None
    Image.new("RGB", (16, 12), (90, 90, 90)).save(photos / "broken.png")  # mended: only that query is asked again
    assert run(FakeEncoder(), [task], tmp_path / "out")[task]["failed"] == 0


def test_a_broken_picture_is_never_nearer_than_one_that_can_be_seen(photos: Path, tmp_path: Path):
    class Opposite(FakeEncoder):
        def texts(self, texts, batch=256):
            return -super().texts(texts)

    gallery = [ImageRef(str(photos / "red.png")), ImageRef("nowhere.png")]
    with pytest.warns(UserWarning, match="1 of 2 pictures"):
        found = run(
            Opposite(), [pair_task("far", [Search("text to image", ["빨간 것"], gallery, [[0]])], "")], tmp_path / "out"
        )
    assert found["far"]["score"] == 1.0


# Zero-shot


def colours(photos: Path) -> list[tuple[ImageRef, str]]:
    names = {"red.png": "빨간 것", "green.png": "초록 것", "blue.jpg": "파란 것"}
    return [(ImageRef(str(photos / name)), label) for name, label in names.items()]


def test_zero_shot_names_the_class(photos: Path, tmp_path: Path):
    labelled = [*colours(photos), (ImageRef(str(photos / "red.png")), "파란 것"), (ImageRef("nowhere.png"), "파란 것")]
    search = zero_shot("photos", labelled, ["빨간 것", "초록 것", "파란 것"], TEMPLATES)
    encoder = FakeEncoder()
    found = run(encoder, [pair_task("mine", [search], "note")], tmp_path / "out")["mine"]
    assert (found["score"], found["n"], found["failed"]) == (0.75, 4, 1)
    assert found["groups"]["photos"]["top-1"]["score"] == 0.75 and found["groups"]["photos"]["top-5"]["score"] == 1
    records = lines(tmp_path / "out")
    assert (records[3]["raw"], records[3]["gold"], records[3]["score"]) == ("빨간 것", "파란 것", 0.0)
    assert "nowhere.png" in records[4]["error"] and len(encoder.seen_texts) == 3 * len(TEMPLATES)


def test_a_limit_encodes_no_more_and_takes_the_same_rows(photos: Path, tmp_path: Path):
    labelled = [pair for pair in colours(photos) for _ in range(20)]
    task = pair_task("mine", [zero_shot("photos", labelled, ["빨간 것", "초록 것", "파란 것"], TEMPLATES)], "")
    encoder = FakeEncoder()
    run(encoder, [task], tmp_path / "out", limit=7)
    few = {record["row"] for record in lines(tmp_path / "out")}
    assert encoder.seen_pictures == 7 and len(few) == 7
    run(encoder, [task], tmp_path / "out", limit=12)
    assert encoder.seen_pictures == 12 and few < {record["row"] for record in lines(tmp_path / "out")}
    run(encoder, [task], tmp_path / "out", limit=12)
    assert encoder.seen_pictures == 12  # all there: nothing is encoded again


def test_a_folder_for_each_class(photos: Path, tmp_path: Path):
    for name, colour in (("빨간 것", "빨간"), ("파란 것", "파란")):
        (tmp_path / "classes" / name).mkdir(parents=True)
        Image.new("RGB", (8, 8), RGB[colour]).save(tmp_path / "classes" / name / "1.png")
    task = f"imagenet-ko:{tmp_path / 'classes'}:template={{}}의 사진|{{:이가}} 있다"
    found = run(FakeEncoder(), [task], tmp_path / "out")[task]
    assert found["score"] == 1.0 and "2 classes, mean of 2 templates" in found["note"]
    (tmp_path / "classes" / "빨간 것").rename(tmp_path / "classes" / "n01")
    with pytest.raises(BodaError, match="Korean name of n01 is not known"):
        run(FakeEncoder(), [task], tmp_path / "other")
    names = tmp_path / "names.json"
    names.write_text(json.dumps({"n01": "빨간 것", "파란 것": "파란 것"}), encoding="utf-8")
    assert run(FakeEncoder(), [f"{task}:names={names}"], tmp_path / "third")[f"{task}:names={names}"]["score"] == 1.0
    with pytest.raises(BodaError, match="no folders with photos"):
        run(FakeEncoder(), [f"imagenet-ko:{names.parent / 'third'}"], tmp_path / "fourth")


def test_imagenets_own_folders_take_their_names_from_babel_imagenet(tmp_path: Path):
    shared_data("babel_imagenet")
    for number in range(1000):
        (tmp_path / "val" / f"n{number:08}").mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(tmp_path / "val" / "n00000000" / "1.jpg")
    with pytest.raises(BodaError, match="Korean name"):  # one class alone is not all of ImageNet
        boda.evaluate.make_task(f"imagenet-ko:{tmp_path / 'val'}", shared_data("."))
    for number in range(1000):
        (tmp_path / "val" / f"n{number:08}" / "1.jpg").write_bytes(b"")
    task = boda.evaluate.make_task(f"imagenet-ko:{tmp_path / 'val'}", shared_data("."))
    first = task.load(None)[0].value[0]
    assert len(first.gallery) <= 648 and first.gallery[first.relevant[0][0]] == "유럽잉어"  # tench


# COCO


def coco_files(folder: Path, listed: str) -> str:
    rows = []
    for number, colour in ((5, "빨간"), (17, "초록"), (391895, "파란"), (4, "노란")):
        name = f"val2014/COCO_val2014_{number:012}.jpg"
        (folder / "coco/val2014").mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (9, 9), RGB[colour]).save(folder / "coco" / name)
        rows.append(
            {"file_path": name, "captions": ["x"] * 5, "caption_ko": [f"{colour} 것 {k}" for k in range(6)], "id": number}
        )
    (folder / "ko.json").write_text(json.dumps(rows), encoding="utf-8")
    (folder / "listed").write_text(listed, encoding="utf-8")
    return f"coco-ko:{folder / 'ko.json'}:ids={folder / 'listed'}:images={folder / 'coco'}"


KARPATHY = json.dumps(
    {"images": [{"cocoid": c, "split": s} for c, s in ((5, "test"), (17, "val"), (391895, "test"), (4, "test"))]}
)


@pytest.mark.parametrize(
    "listed", [KARPATHY, "5\n391895\n4\n", "COCO_val2014_000000000005.jpg COCO_val2014_000000391895.jpg 4"]
)
def test_coco_takes_the_listed_photos_and_five_captions_of_each(listed: str, tmp_path: Path):
    task = coco_files(tmp_path, listed)
    found = run(FakeEncoder(), [task], tmp_path / "out")[task]
    assert found["n"] == 3 * 5 + 3 and found["score"] == 1.0 and "1 x 3 photos" in found["note"]
    parts = boda.evaluate.make_task(f"{task}:size=1").load(None)
    assert len(parts) == 18 and {len(row.value[0].gallery) for row in parts} == {1, 5}  # each photo by itself


@pytest.mark.parametrize(
    "listed, option, why",
    [
        ("5 999", "", "2 photos listed, captions for 1"),
        ("", "", "0 photos listed"),
        ("{}", "", "neither Karpathy's list"),
        ("five", "", "neither Karpathy's list"),
        ("5 17", ":size=3", "size 3"),
        ("5 17", ":size=two", "size two"),
        ("5 17", ":number=2", "no option 'number'"),
    ],
)
def test_lists_of_photos_that_do_not_fit(listed: str, option: str, why: str, tmp_path: Path):
    with pytest.raises(BodaError, match=why):
        boda.evaluate.make_task(coco_files(tmp_path, listed) + option)


def test_coco_needs_a_list(tmp_path: Path):
    with pytest.raises(BodaError, match="ids="):
        boda.evaluate.make_task("coco-ko:ko.json", tmp_path)


# Real data


def test_cifar10_in_korean(tmp_path: Path):
    shared_data("cifar10/test.parquet")
    found = run(FakeEncoder(), ["cifar10-ko"], tmp_path / "out", limit=30, data_dir=shared_data("."))["cifar10-ko"]
    assert found["n"] == 30 and found["failed"] == 0 and "10 classes" in found["note"]
    assert {record["gold"] for record in lines(tmp_path / "out")} <= set(
        "비행기 자동차 새 고양이 사슴 개 개구리 말 배 트럭".split()
    )


def test_emoji_in_korean(tmp_path: Path):
    shared_data("emoji")
    task = boda.evaluate.make_task("emoji-ko", shared_data("."))
    sizes = {row.value[0].name: len(row.value[0].gallery) for row in task.load(None)}
    assert sizes == {
        "test, text to image": 300, "test, image to text": 300, "train, text to image": 1350, "train, image to text": 1350
    }  # fmt: skip
    worded = boda.evaluate.make_task("emoji-ko:text={caption}: {keywords}", shared_data("."))
    assert ": " in worded.load(None)[0].value[0].queries[0] and worded.version != task.version


# Drawn pictures


def test_drawn_pairs(tmp_path: Path):
    task = boda.evaluate.make_task("drawn-pairs")
    rows = task.load(None)
    sets = {row.value[0].name for row in rows}
    assert sets == {
        "tile, pair seen", "tile, pair never seen together", "description, text to image", "description, image to text",
        "word, font seen", "word, font held out",
    }  # fmt: skip
    assert len(rows) == 1200 and boda.evaluate.make_task("drawn-pairs").version == task.version
    found = run(FakeEncoder(), ["drawn-pairs"], tmp_path / "out", limit=60)["drawn-pairs"]
    assert found["n"] == 60 and found["failed"] == 0
    for name in ("tile, pair seen", "tile, pair never seen together"):
        assert set(found["groups"][name]) == {"grid", "heat map"}
    assert len(next(row.value[0].gallery for row in rows if row.value[0].name == "word, font seen")) == 200


def test_a_named_object_is_named_alone_and_lies_in_the_tile_that_is_right():
    rows = [row for row in boda.evaluate.make_task("drawn-pairs").load(None) if "tile" in row.value[0].name][::7]
    for row in rows:
        search, query = row.value
        objects = facts(search.scenes[query].drawn)["objects"]
        named = [each for each in objects if noun_phrase(each, full=False) == search.queries[query]]
        assert [each["cell"] for each in named] == list(search.relevant[query])  # named by its colour and shape alone
        x, y = named[0]["x"] // 32, named[0]["y"] // 32
        assert y * 3 + x == named[0]["cell"]


def test_drawn_pairs_has_no_options():
    with pytest.raises(BodaError, match="no options"):
        boda.evaluate.make_task("drawn-pairs:number=5")


# Kinds of models and runs


class Answers:
    name = "answers"

    def answer(self, conversations):
        return ["네"] * len(conversations)


def small(photos: Path) -> PairTask:
    return pair_task("small", [Search("text to image", ["빨간 것"], [ref for ref, _ in colours(photos)], [[0]])], "")


def test_a_model_of_the_other_kind_is_refused(photos: Path, tmp_path: Path):
    with pytest.raises(BodaError, match="Answers gives no vectors"):
        run(Answers(), [small(photos)], tmp_path / "out")
    asks = Task("asks", "1", lambda limit: [Row("0", 0)], lambda row: [], lambda row, answer: {}, lambda records: {})
    with pytest.raises(BodaError, match="no model to evaluate"):
        run(FakeEncoder(), [asks], tmp_path / "out")
    with pytest.raises(BodaError, match=r"small compares pictures and texts .* other tasks ask models that answer"):
        run(FakeEncoder(), [small(photos), asks], tmp_path / "out")
    with pytest.raises(BodaError, match="nothing is left of it without pictures"):
        run(FakeEncoder(), [small(photos)], tmp_path / "out", blind=True)


def test_another_model_in_the_same_folder_is_refused(photos: Path, tmp_path: Path):
    run(FakeEncoder(), [small(photos)], tmp_path / "out")
    other = FakeEncoder()
    other.fingerprint = "def"
    with pytest.raises(BodaError, match="fingerprint was 'abc' and is 'def'"):
        run(other, [small(photos)], tmp_path / "out")


def test_a_stopped_run_goes_on(photos: Path, tmp_path: Path):
    labelled = [pair for pair in colours(photos) for _ in range(100)]
    task = pair_task("mine", [zero_shot("photos", labelled, ["빨간 것", "초록 것", "파란 것"], TEMPLATES)], "")

    class Stops(FakeEncoder):
        def images(self, images, batch=64):
            if self.seen_pictures:
                raise KeyboardInterrupt
            return super().images(images)

    with pytest.raises(KeyboardInterrupt):
        run(Stops(), [task], tmp_path / "out", batch_size=64)
    done = len(lines(tmp_path / "out"))
    encoder = FakeEncoder()
    assert 0 < done < 300 and run(encoder, [task], tmp_path / "out")["mine"]["n"] == 300
    assert encoder.seen_pictures == 300 - done


def test_the_table_and_the_report_show_every_metric(photos: Path, tmp_path: Path, capsys):
    boda.evaluate.run(FakeEncoder(), [small(photos)], tmp_path / "out")
    shown = capsys.readouterr().out
    assert "text to image=R@10" in shown and "100.0%" in shown
    text = write_report([tmp_path / "out"])[1].read_text(encoding="utf-8")
    assert "text to image: R@10" in text and (tmp_path / "out" / "out-answers.png").is_file()


def test_searches_with_nothing_in_them_are_refused(photos: Path):
    with pytest.raises(BodaError, match="no queries, or nothing to look in"):
        pair_task("none", [Search("text to image", [], ["가"], [])], "")
