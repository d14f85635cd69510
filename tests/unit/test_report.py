"""The report of runs: one page that needs nothing else and lets no answer become markup, tables as text, model cards."""

from __future__ import annotations

import csv
import json
import re
import sys
import time
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from boda.cli import app
from boda.errors import BodaError
from boda.evaluate.answers import fingerprint
from boda.evaluate.page.charts import Bar, bars, fitting
from boda.evaluate.report import write_report
from boda.evaluate.sheets import worst
from boda.evaluate.words import words
from boda.models.loading import locate
from tests.report_runs import ATTACK, CAPTION, CHOICE, bench_folder, board_folder, choice_records, pictures, run_folder, write

VOID = {"meta", "img", "br", "line", "rect", "link", "hr"}


class Page(HTMLParser):
    """What a browser would see: elements that close in order, addresses, words by section."""

    def __init__(self, path: Path):
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict]] = []
        self.words: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))
        assert not self.open, f"left open: {self.open}"

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag, f"</{tag}> closes another element"

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(self.words)

    def addresses(self) -> list[str]:
        return [attrs[name] for _, attrs in self.tags for name in ("src", "href", "xlink:href") if attrs.get(name)]


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    return pictures(tmp_path_factory.mktemp("pictures"))


def reported(*folders: Path, out: Path, language="ko") -> Page:
    path = write_report(folders, out, language, quiet=True)[0]
    assert path.name == "report.html"
    return Page(path)


def test_the_page_is_whole_by_itself(place: Path, tmp_path: Path):
    page = reported(run_folder(tmp_path / "run", place), bench_folder(tmp_path / "bench"), out=tmp_path / "out")
    source = (tmp_path / "out/report.html").read_text(encoding="utf-8")
    assert all(address.startswith(("data:", "#")) for address in page.addresses())
    assert {tag for tag, _ in page.tags}.isdisjoint({"script", "link", "iframe", "object"}) and "@import" not in source
    assert all(url.startswith("data:") for url in re.findall(r"url\(([^)]*)\)", source))
    assert not any(name.startswith("on") for _, attrs in page.tags for name in attrs)
    anchors = {attrs["id"] for _, attrs in page.tags if "id" in attrs}
    assert {address[1:] for address in page.addresses() if address.startswith("#")} == anchors
    assert [attrs["lang"] for tag, attrs in page.tags if tag == "html"] == ["ko"]
    assert all(attrs.get("scope") for tag, attrs in page.tags if tag == "th")
    assert all(attrs.get("alt") for tag, attrs in page.tags if tag == "img")
    assert all(attrs.get("aria-label") for tag, attrs in page.tags if tag == "svg")


def test_what_a_model_says_is_never_markup(place: Path, tmp_path: Path):
    folder = run_folder(tmp_path / "run", place, model="<i>m</i>")
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    result = results["tasks"].pop(CHOICE)
    name = '"><script>x</script>'
    result |= {
        "groups": {"<b>": {"<u>&": {"score": 1.0, "n": 1, "failed": 0, "low": 1.0, "high": 1.0}}},
        "remarks": ["<b>r</b>"],
    }
    write(folder / "results.json", results | {"tasks": {name: result}})
    records = [record | {"task": name} for record in choice_records(place, 0.0, 0)]
    records[0]["raw"] = "반쪽 \ud800 글자 " + "길" * 5000
    (folder / "answers.jsonl").write_text("".join(json.dumps(each) + "\n" for each in records), encoding="utf-8")
    page = reported(folder, out=tmp_path / "out")
    assert "script" not in {tag for tag, _ in page.tags} and not any(tag in ("i", "b", "u") for tag, _ in page.tags)
    assert name in page.text and "<b>torn</b>" in page.text and "<u>&" in page.text and "<i>m</i>" in page.text
    assert "\x07" not in page.text and max(map(len, page.words)) < 1000


def test_a_wrong_answer_stands_with_its_picture_reference_and_both_verdicts(place: Path, tmp_path: Path):
    page = reported(run_folder(tmp_path / "run", place), out=tmp_path / "out")
    assert ATTACK.split("\u202e")[0].strip() in page.text
    assert "the picture does not decode: <b>torn</b>" in page.text and "빨간색" in page.text
    assert page.words.count("두 규칙의 채점이 다른 답") == 1 and page.words.count("맞음") == 3
    shown = [attrs["src"] for tag, attrs in page.tags if tag == "img"]
    assert len(shown) == 15 and all(each.startswith("data:image/jpeg;base64,") for each in shown)  # Parquet rows and drawn ones
    from boda.data.images import load_image

    assert {max(load_image(each).size) for each in shown} == {256, 96}


def test_pictures_that_are_gone_say_so(place: Path, tmp_path: Path):
    folder = run_folder(tmp_path / "run", tmp_path / "gone.parquet")
    assert "gone.parquet" in reported(folder, out=tmp_path / "out").text


def without_speed(path: Path) -> str:
    kept, count = re.subn(r'<section id="speed">.*?</section>', "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert count == 1
    return kept


def test_the_same_answers_give_the_same_page_apart_from_what_was_measured(place: Path, tmp_path: Path):
    first = run_folder(tmp_path / "a/run", place, seconds=12.5)
    second = run_folder(tmp_path / "b/run", place, seconds=99.0, started="2027-01-01T00:00:00+00:00")
    lines = (second / "answers.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    (second / "answers.jsonl").write_text("".join(lines[7:20] + lines[:7] + lines[20:]), encoding="utf-8")  # as after a kill
    pages = [write_report([folder], quiet=True)[0] for folder in (first, second)]
    assert pages[0].read_bytes() != pages[1].read_bytes()
    assert without_speed(pages[0]) == without_speed(pages[1])
    for name in ("report.md", "report.csv"):
        assert (first / name).read_bytes() == (second / name).read_bytes()
    assert "2027" not in without_speed(pages[1])
    third = run_folder(tmp_path / "c/run", place, rate=0.5)
    assert without_speed(write_report([third], quiet=True)[0]) != without_speed(pages[0])


def test_models_whose_intervals_overlap_are_told_apart_from_a_clear_best(place: Path, tmp_path: Path):
    near = [run_folder(tmp_path / name, place, name, rate, seed) for name, rate, seed in (("a", 0.85, 1), ("b", 0.8, 2))]
    text = reported(*near, out=tmp_path / "near", language="en").text
    assert "highest, overlaps" in text and "interval overlaps" in text
    far = [tmp_path / "a", run_folder(tmp_path / "c", place, "c", 0.1, 3)]
    results = json.loads((far[1] / "results.json").read_text(encoding="utf-8"))
    results["tasks"].pop(CAPTION)
    write(far[1] / "results.json", results)
    words = reported(*far, out=tmp_path / "far", language="en").words
    assert words.count("highest") == 1 and "interval overlaps" not in words
    results["conditions"][CHOICE] |= {"image_limit": 336}
    write(far[1] / "results.json", results)
    text = reported(*far, out=tmp_path / "unlike", language="en").text
    assert "not compared, other conditions: Image limit" in text and "highest" not in text


def test_baselines_blind_runs_and_both_rules_are_there(place: Path, tmp_path: Path):
    blind = run_folder(tmp_path / "dark", place, "mini", 0.25, 1, blind=True)
    page = reported(run_folder(tmp_path / "run", place), blind, out=tmp_path / "out", language="en")
    for told in ("dark (blind)", "chance", "25.0%", "majority answer", "27.0%", "Published rule", "bleu_4", "tokenizer kiwi"):
        assert told in page.text, told
    assert "first character of the answer, compared without case" in page.text
    assert (
        page.words.count("BLEU-4 0.314") == 2 and "mean sentence BLEU <of morphemes>" in page.text
    )  # beside it, not as a difference
    assert "dark · " + CHOICE not in page.text  # no worst answers of a run that saw nothing
    korean = [attrs for tag, attrs in page.tags if tag == "span" and attrs.get("lang") == "ko"]
    assert korean, "Korean on an English page is marked"


def test_speed_boards_and_curves_have_their_sections(place: Path, tmp_path: Path):
    train = tmp_path / "train"
    train.mkdir()
    steps = [{"stage": "align", "step": step, "loss": 3.0 / step} for step in range(1, 20)]
    (train / "log.jsonl").write_text("".join(json.dumps(step) + "\n" for step in steps), encoding="utf-8")
    board = board_folder(tmp_path / "board", place)
    page = reported(board, bench_folder(tmp_path / "bench"), train, out=tmp_path / "out")
    for told in (
        "색깔 순위표",
        "1–2",
        "이미지 없이 낸 점수와 구별되지 않음",
        "third: image limit is 336, here none",
        "Elsewhere-7B",
        "gpt-4",
        "no manifest",
    ):
        assert told in page.text, told
    assert "50.4%" in page.text and "21.3 GB/s" in page.text and "mini-blind" in page.text
    assert sum(attrs.get("src", "").startswith("data:image/png") for _, attrs in page.tags) == 1
    assert [path.name for path in (tmp_path / "out").glob("*.png")] == ["train-curve.png"]
    told = (tmp_path / "out/report.md").read_text(encoding="utf-8")
    assert "| other | 1-2 | 80.0% |" in told and "## Speed of mini" in told and "| 16 | 128 | 64 | 16 | 0.64 | 720 |" in told


def test_what_many_runs_share_is_told_once(place: Path, tmp_path: Path):
    folders = [run_folder(tmp_path / name, place, name, seed=number) for number, name in enumerate("abcd")]
    words = reported(*folders, out=tmp_path / "out").words
    assert words.count(f"{CAPTION}: CIDEr-D, words by kiwi · a, b, c, d") == 1
    results = json.loads((folders[0] / "results.json").read_text(encoding="utf-8"))
    results["conditions"][CAPTION] = results["conditions"][CAPTION] | {"image_limit": 336}
    write(folders[0] / "results.json", results)
    page = reported(folders[0], out=tmp_path / "one")
    heads = [page.words[place + 1] for place, word in enumerate(page.words) if word == "과제"]
    assert heads == ["이미지 크기 제한"] and page.words.count("심사 모델") == 1  # what differs in a table, the rest in a list
    folded = (tmp_path / "out/report.html").read_text(encoding="utf-8").split('id="worst"')[1].split("</section>")[0]
    assert folded.count("<details>") == 4 and 'id="worst"' in (tmp_path / "one/report.html").read_text(encoding="utf-8")


def test_tables_as_text(place: Path, tmp_path: Path):
    write_report([run_folder(tmp_path / "run", place)], tmp_path / "out", quiet=True)
    with (tmp_path / "out/report.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [(row["task"], row["value"]) for row in rows] == [
        (CHOICE, ""),
        (CHOICE, "circle"),
        (CHOICE, "square"),
        (CAPTION, ""),
    ]
    results = json.loads((tmp_path / "run/results.json").read_text(encoding="utf-8"))["tasks"][CHOICE]
    assert float(rows[0]["score"]) == results["score"] and float(rows[0]["upstream"]) == results["upstream"]["score"]
    assert (rows[0]["n"], rows[0]["failed"], rows[0]["chance"], rows[3]["chance"]) == ("46", "2", "0.25", "")
    assert (rows[0]["measure"], rows[3]["measure"], rows[3]["upstream"]) == ("", "BLEU-4", "0.3141")
    told = (tmp_path / "out/report.md").read_text(encoding="utf-8")
    assert f"| {CHOICE} | run |" in told and "first character" in told


def test_results_with_nothing_scored(tmp_path: Path):
    empty = {"score": None, "n": 0, "failed": 3, "low": None, "high": None, "version": "1", "note": ""}
    write(
        tmp_path / "run/results.json",
        {"model": "m", "fingerprint": "", "blind": False, "tasks": {"t": empty, "u": empty | {"upstream": None}}},
    )
    page = reported(tmp_path / "run", out=tmp_path / "out")
    assert "–" in page.words and "svg" not in {tag for tag, _ in page.tags}
    (tmp_path / "run/answers.jsonl").touch()  # killed before the first answer
    reported(tmp_path / "run", out=tmp_path / "out")
    for number, rows in enumerate(([{"batch": 1}], [])):
        folder = tmp_path / f"bare {number}"
        write(folder / "bench.json", {"rows": rows, "bandwidth": None, "left_out": [{"batch": 32, "why": "out of <memory>"}]})
        assert "배치 크기 32: 측정하지 못함 (out of <memory>)" in reported(folder, out=folder).words
        assert "- batch 32 is left out: out of <memory>" in (folder / "report.md").read_text(encoding="utf-8")


def test_a_page_without_fonttools_says_so(place: Path, tmp_path: Path, monkeypatch, capsys):
    folder = run_folder(tmp_path / "run", place)
    write_report([folder])
    source = (folder / "report.html").read_text(encoding="utf-8")
    assert "@font-face" in source and "fontTools" not in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "fontTools", None)
    write_report([folder])
    assert "@font-face" not in (folder / "report.html").read_text(encoding="utf-8")
    assert "pip install 'boda[eval]'" in capsys.readouterr().err


def test_the_font_has_every_syllable_of_the_page(place: Path, tmp_path: Path):
    import base64
    import io

    from fontTools.ttLib import TTFont

    page = reported(run_folder(tmp_path / "run", place), out=tmp_path / "out")
    source = (tmp_path / "out/report.html").read_text(encoding="utf-8")
    data = re.search(r"data:font/woff;base64,([A-Za-z0-9+/=]+)", source)[1]
    there = TTFont(io.BytesIO(base64.b64decode(data))).getBestCmap()
    assert {letter for letter in page.text if "가" <= letter <= "힣"} <= {chr(code) for code in there}
    assert len(data) < 200_000


def test_a_large_run_is_a_small_page_in_seconds(place: Path, tmp_path: Path):
    folder = run_folder(tmp_path / "run", place)
    records = choice_records(place, 0.5, 1, 10_000)
    (folder / "answers.jsonl").write_text("".join(json.dumps(each) + "\n" for each in records), encoding="utf-8")
    began = time.monotonic()
    path = write_report([folder], quiet=True)[0]
    assert time.monotonic() - began < 20 and path.stat().st_size < 1_000_000


def test_the_worst_are_the_lowest_and_failures_do_not_fill_the_place():
    def record(row: int, score: float | None, kind: str = "") -> dict:
        return {"task": "t", "row": str(row), "score": score, "failed": score is None, "tags": {"set": kind}}

    graded = [record(row, row / 10) for row in range(11)]
    assert [each["row"] for each in worst(graded, 3)] == ["0", "1", "2"]
    many = [record(row, 0.0, "ab"[row % 2]) for row in range(40)] + [record(100 + row, None) for row in range(40)]
    chosen = worst(many, 6)
    assert sum(each["failed"] for each in chosen) == 2 and {each["tags"]["set"] for each in chosen[:4]} == {"a", "b"}
    assert chosen == worst(list(reversed(many[:40])) + many[40:], 6)
    assert len(worst(many[40:], 6)) == 6 and worst([record(0, 1.0)], 6) == [] and worst([], 6) == []


def test_bars_stay_within_their_axis():
    drawn = bars([Bar("<b>", "1", 1.5, -1.0, 2.0), Bar("기준", "0", 0.0, kind="baseline")], (0.0, 1.0), 'a "title"')
    assert 'width="100.00%"' in drawn and "<b>" not in drawn and "&quot;title&quot;" in drawn
    assert re.findall(r'x1="(-[^"]*)"', drawn) == []
    assert ">2</text>" in bars([Bar("m", "1.4", 1.4, 1.0, 1.9)], (0.0, 10.0), "t")
    assert fitting("짧음", 4) == "짧음" and fitting("가" * 40, 20).count("가") < 10 and len(fitting("x" * 31, 30)) <= 30


@pytest.mark.parametrize("place", ["page", "card"])
def test_both_languages_say_everything_with_the_same_blanks(place: str):
    korean, english = ({**words(place, language), "lang": ""} for language in ("ko", "en"))
    assert korean.keys() == english.keys()
    for name in korean.keys() - {"lang"}:
        assert re.search("[가-힣]", korean[name]) or name == "points", name
        assert not re.search("[가-힣]", english[name]), name
        assert sorted(re.findall(r"\{(\w+)", korean[name])) == sorted(re.findall(r"\{(\w+)", english[name])), name


def test_folders_with_nothing_to_show_are_refused(place: Path, tmp_path: Path):
    with pytest.raises(BodaError, match=r"holds neither results.json \(boda eval\), log.jsonl .* nor board.json"):
        write_report([tmp_path])
    with pytest.raises(BodaError, match="no run to report on"):
        write_report([])
    folder = run_folder(tmp_path / "run", place)
    with pytest.raises(BodaError, match="named twice"):
        write_report([folder, folder])
    with pytest.raises(BodaError, match="no language 'xx' for a report; there are ko, en"):
        write_report([folder], language="xx")
    for foreign in ({"results": {}}, {"tasks": []}, []):
        write(tmp_path / "foreign/results.json", foreign)
        with pytest.raises(BodaError, match=r"results\.json has no tasks; it is not what boda eval writes"):
            write_report([tmp_path / "foreign"])


def test_the_command_gives_files_and_scores(place: Path, tmp_path: Path):
    folder = run_folder(tmp_path / "run", place)
    other = run_folder(tmp_path / "other", place, "other", 0.5, 2)
    said = CliRunner().invoke(
        app, ["--json", "report", str(folder), str(other), "--out", str(tmp_path / "out"), "--language", "en"]
    )
    assert said.exit_code == 0, (said.stderr, said.exception)
    found = json.loads(said.stdout.splitlines()[-1])
    assert set(found["tasks"]) == {CHOICE, CAPTION} and set(found["tasks"][CHOICE]) == {"score", "n", "failed", "low", "high"}
    assert set(found["runs"]) == {"run", "other"} and found["files"][0].endswith("report.html")
    assert [attrs["lang"] for tag, attrs in Page(tmp_path / "out/report.html").tags if tag == "html"] == ["en"]
    assert CliRunner().invoke(app, ["report", str(folder), "--language", "fr"]).exit_code == 2


# ---- model cards ------------------------------------------------------------------------------------------------------------


def cards(folder: Path, *others: Path, out: Path) -> list[str]:
    write_report([folder, *others], out, quiet=True)
    return [path.read_text(encoding="utf-8") for path in (out / "model-card.md", out / "model-card.ko.md") if path.is_file()]


def test_cards_say_what_is_known_and_that_the_rest_is_not_stated(place: Path, tmp_path: Path):
    from huggingface_hub import ModelCard

    seeing = run_folder(tmp_path / "run", place, "mini", fingerprint=fingerprint(Path(locate("mini"))))
    blind = run_folder(tmp_path / "dark", place, "mini", 0.2, 1, True, fingerprint=fingerprint(Path(locate("mini"))))
    english, korean = cards(seeing, blind, out=tmp_path / "out")
    head = yaml.safe_load(english.split("---\n")[1])
    assert head["pipeline_tag"] == "image-text-to-text" and "license" not in head and "base_model" not in head
    assert head == yaml.safe_load(korean.split("---\n")[1])
    results = {(each.dataset_name, each.metric_name.partition(" ")[0]): each for each in ModelCard(english).data.eval_results}
    told = json.loads((seeing / "results.json").read_text(encoding="utf-8"))["tasks"][CHOICE]
    assert results[CHOICE, "Boda's"].metric_value == round(told["score"], 4)
    assert results[CHOICE, "published"].metric_value == round(told["upstream"]["score"], 4)
    assert "Licence of the model: not stated." in english and "모델의 라이선스: 명시되지 않음." in korean
    assert "| several | " in english and "Apache-2.0 (drawn by Boda)" in english and "170,000" in english
    assert "trust_remote_code=True" in english and "AutoModelForImageTextToText" in english
    assert "| Blind |" in english and "| Blind |" not in cards(seeing, out=tmp_path / "alone")[0]  # nothing in it
    untested = english.split("Tasks of Boda that were not run: ")[1].split("\n")[0]
    assert "drawn" in untested and CHOICE not in untested
    assert "first character of the answer, compared without case" in english and "25.0%" in english
    assert (
        re.search("[가-힣]{2}", korean.split("---\n")[2])
        and str(place.parent) not in english + korean
        and "\n\n\n" not in english
    )


@pytest.mark.parametrize("info, base", [({}, None), ({"licence": "CC-BY-4.0"}, "org/tower"), ({"licence": "Ours, 2026"}, None)])
def test_a_card_of_a_sparse_folder_invents_nothing(place: Path, tmp_path: Path, info: dict, base: str | None):
    model = tmp_path / "runs/name/model"
    private = str(tmp_path / "private/tower")
    parts = {"vision": base or private, "language": {"model_type": "llama"}, "tokenizer": {"recipe": f"{private}.yaml"}}
    data = [{"stage": "align", "path": f"{private}.jsonl", "rows": 3}]
    write(model / "boda.json", {"kind": "vlm", "recipe": {"model": parts, "stages": [{"name": "align"}]}, "data": data} | info)
    write(model / "config.json", {"model_type": "llava"})
    english, _ = cards(run_folder(tmp_path / "run", place, str(model), fingerprint=fingerprint(model)), out=tmp_path / "out")
    head = yaml.safe_load(english.split("---\n")[1])
    known = {"CC-BY-4.0": "cc-by-4.0", "Ours, 2026": "other", None: None}  # to the hub
    assert head.get("license") == known[info.get("licence")] and head.get("base_model") == ([base] if base else None)
    assert head["model-index"][0]["name"] == "name" and english.count("not stated") >= 6
    assert "made by the recipe tower.yaml" in english and "| align | tower.jsonl | 3 | not stated |" in english
    assert "trained from scratch (llama)" in english and str(tmp_path) not in english and "trust_remote_code" not in english


def test_cards_are_of_one_model_that_is_there_and_is_the_same(place: Path, tmp_path: Path, capsys):
    changed = run_folder(tmp_path / "changed", place, "mini", fingerprint="another")
    foreign = run_folder(tmp_path / "foreign", place, "org/model")
    for number, (folders, why) in enumerate(
        (
            ([changed], "holds another model"),
            ([foreign], "no folder here with a boda.json"),
            ([changed, foreign], "of 2 models"),
        )
    ):
        write_report(folders, tmp_path / str(number))
        assert why in " ".join(capsys.readouterr().err.split())
        assert not list((tmp_path / str(number)).glob("model-card*"))
