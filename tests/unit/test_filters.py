"""Filters of translations, one by one and over whole sets: what they refuse, why, and that all else stays as it was."""

from __future__ import annotations

import gzip
import io
import json
import random
import tarfile

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from typer.testing import CliRunner

from boda.cli import app
from boda.data.filtering import Task, filter_set
from boda.data.images import load_image
from boda.data.translate import filters
from boda.data.translate.filters import FILTERS, PRESETS, Duplicates, Limits, Pair, check_pair, tidied
from boda.errors import BodaError
from tests.fake_encoder import RGB, FakeEncoder
from tests.shared_data import shared_data

GOOD = [
    ("A cat is lying on the table.", "탁자 위에 고양이가 누워 있습니다."),
    ("Two dogs on a beach.", "해변에 있는 개 두 마리"),
    ("B", "B"),
    ("NASA", "NASA"),
    ("Yes.", "네."),
    ("It cost $110 million and 12.3 trillion won.", "비용은 1억1천만 달러와 12조3천억 원이었다."),
    ("Iran pumps 4.1 million barrels; the store opens at 10:00.", "이란은 410만 배럴을 생산하고 가게는 10시에 연다."),
    ("He is 5 and ran 30 miles in the 1990s.", "그는 다섯 살이며 90년대에 48km를 달렸다."),
    ("Choose A. cat or B. dog. Answer: B", "고르세요. A. 고양이 B. 개. 정답: B"),
    ("See https://a.kr/x and <image>", "https://a.kr/x 및 <image> 참고"),
    ("Translate this: good morning", "번역: 좋은 아침"),
    (
        "The Centers for Disease Control and Prevention said so.",
        "질병통제예방센터(Centers for Disease Control and Prevention)가 그렇게 밝혔다.",
    ),
    ("ha ha ha ha ha ha ha ha ha ha", "하 하 하 하 하 하 하 하 하 하"),
    (
        "Run this:\n```\nprint('hello world') or die trying to\n```",
        "실행하세요:\n```\nprint('hello world') or die trying to\n```",
    ),
]
BAD = [
    ("empty", "A cat is here.", " "),
    ("hangul", "A cat is lying on the table.", "Un gato está sobre la mesa."),
    ("hangul", "Yes", "Yes"),
    ("hangul", "A cat.", "猫がいます。"),
    ("hangul_share", "The president said that the economy would grow.", "대통령은 the economy would grow fast라고 said."),
    ("other_language", "A cat is lying on the table.", "고양이가 テーブルの上に横たわっています."),
    ("other_language", "The president has said so today.", "대통령은 сегодня сказал это 그렇게 말했다."),
    (
        "length_ratio",
        "The strategies employed around the world are as varied as the people that inhabit the planet.",
        "다양하다.",
    ),
    ("length_ratio", "Hello.", "안녕하세요, 오늘은 날씨가 아주 좋아서 공원에 나가 산책을 하고 싶습니다."),
    ("repetition", "A man walks with his dog in a park today.", "한 남자가 개와 함께 " + "공원을 걷고 " * 12),
    ("repetition", "It is a nice picture of a sea.", "바다다" + "아" * 40),
    (
        "residue",
        "We saw the old man and the sea in one day.",
        "우리는 하루 만에 the old man and the sea를 모두 함께 아주 재미있게 보았습니다.",
    ),
    ("span_loss", "Visit https://a.kr for more.", "자세한 내용은 홈페이지를 방문하세요."),
    ("span_loss", "<image> Is it good?", "좋은가요?"),
    ("span_loss", "Is it good?", "<image> 좋은가요?"),
    ("span_loss", "Look at [0.1, 0.2, 0.3, 0.4] now.", "지금 여기를 보세요."),
    ("span_loss", "The correct answer is option B.", "정답은 선택지 나입니다."),
    ("numbers", "Founded in 1998 with 42 people.", "1989년에 42명으로 창립되었다."),
    ("chatter", "A cat.", "번역: 고양이 한 마리."),
    ("chatter", "A cat on a mat.", "다음은 요청하신 문장의 번역입니다. 매트 위의 고양이."),
    ("chatter", "A cat on a mat.", "Here is the Korean translation: 매트 위의 고양이."),
    ("ending", "The president said that the economy would grow by next year.", "대통령은 내년까지 경제"),
    ("length", "word " * 600, "가나다라 마바사. " * 2 + "".join(chr(ord("가") + n) for n in range(1000))),
]


@pytest.mark.parametrize("source, translation", GOOD)
def test_good_pairs_stay(source: str, translation: str):
    assert check_pair(Pair(source, translation)) is None


@pytest.mark.parametrize("name, source, translation", BAD)
def test_bad_pairs_are_refused_by_the_filter_that_says_what_is_wrong(name: str, source: str, translation: str):
    found = check_pair(Pair(source, translation))
    assert found and found[0] == name and found[1]
    assert FILTERS[name](Pair(source, translation), Limits()) == found[1]


def test_a_number_of_many_figures_is_one():
    assert check_pair(Pair("The number is " + "9" * 400, "그 수는 여기에 있다."))[0] == "numbers"
    assert FILTERS["numbers"](Pair("9" * 400, "9" * 400), Limits()) is None


def test_reasons_name_what_is_wrong():
    assert check_pair(Pair("In 1998 at https://a.kr", "그때 그곳에서")) == ("span_loss", "lost: https://a.kr")
    assert check_pair(Pair("27 billion in 1998", "그때 그만큼")) == (
        "numbers",
        "numbers that are not said: 27,000,000,000, 1,998",
    )


def test_without_a_source_what_compares_is_left_out():
    assert check_pair(Pair("", "탁자 위에 고양이가 있다. 1998")) is None
    assert check_pair(Pair("", "There is a cat."))[0] == "hangul"  # type: ignore[index]
    assert check_pair(Pair("", "B")) is None


@given(st.text(max_size=80), st.text(max_size=80))
def test_every_filter_takes_every_text(source: str, translation: str):
    for each in FILTERS.values():
        reason = each(Pair(source, translation), Limits())
        assert reason is None or reason


def test_emoji_are_kept_dropped_or_refused():
    pair = Pair("I love it", "정말 좋아요 👍🏽❤️ 최고 🇰🇷")
    assert check_pair(pair) is None
    assert check_pair(pair, Limits(emoji="refuse"))[0] == "emoji"  # type: ignore[index]
    assert tidied(pair.translation, Limits(emoji="drop")) == "정말 좋아요 최고"
    assert tidied("1번, 2번 ※ ★ 3.", Limits(emoji="drop")) == "1번, 2번 ※ ★ 3."


def test_the_published_preset_is_the_published_rule():
    rule, limits = PRESETS["openflaminko"]
    assert tidied("b'고양이 😀'", limits) == "고양이"
    assert check_pair(Pair("", "고양이"), limits, rule) is None
    assert check_pair(Pair("", "a cat"), limits, rule) is None  # a space is in the published range of letters
    assert check_pair(Pair("", "cat"), limits, rule)[0] == "openflaminko"  # type: ignore[index]
    assert check_pair(Pair("", "가" * 999), limits, rule) is None
    assert check_pair(Pair("", "가" * 1000), limits, rule)[0] == "openflaminko"  # type: ignore[index]


def test_limits_are_changed_by_name():
    assert filters.changed_limits(Limits(), {"max_characters": "0", "emoji": "drop", "unquote": "true"}) == Limits(
        max_characters=0, emoji="drop", unquote=True
    )
    for said, words in [
        ({"most": "1"}, "no limit 'most'"),
        ({"nearly": "x"}, "is a number"),
        ({"emoji": "eat"}, "keep, drop or refuse"),
    ]:
        with pytest.raises(BodaError, match=words):
            filters.changed_limits(Limits(), said)


def _text(words: int, seed: int) -> str:
    chosen = random.Random(seed)
    return " ".join("".join(chr(chosen.randrange(0xAC00, 0xD7A4)) for _ in range(chosen.randrange(2, 5))) for _ in range(words))


def test_duplicates_are_found_exactly_and_nearly_and_nothing_else():
    seen, texts = Duplicates(rows=256), [_text(40, seed) for seed in range(200)]
    assert [seen.check(text) for text in texts] == [None] * 200
    assert seen.check(texts[7].replace(" ", "  ") + ".") == ("duplicate", "the same as text 8")
    for number in range(100, 150):
        words = texts[number].split()
        found = seen.check(" ".join([*words[:9], "바꾼", *words[10:]]))
        assert found and found[0] == "near_duplicate" and found[1].endswith(f"text {number + 1:,}")
    assert seen.check("네.") is None and seen.check("네") == ("duplicate", "the same as text 252")
    assert seen.check("네, 2개") is None and seen.check("네, 3개") is None  # short ones only exactly


def test_duplicates_forget_the_oldest_and_take_no_more_memory():
    seen = Duplicates(rows=64)
    texts = [_text(12, seed) for seed in range(200)]
    for text in texts:
        assert seen.check(text) is None
    assert len(seen.exact) == len(seen.signatures) == 64
    assert seen.check(texts[199]) and seen.check(texts[10]) is None


@pytest.mark.parametrize(
    "hypothesis, reference", [("the cat sat", "the cat sat on it"), ("고양이가 있다", "고양이는 없다"), ("a", "b")]
)
def test_chrf_is_that_of_sacrebleu(hypothesis: str, reference: str):
    sacrebleu = pytest.importorskip("sacrebleu")
    expected = sacrebleu.sentence_chrf(hypothesis, [reference]).score / 100
    assert filters.chrf(hypothesis, reference) == pytest.approx(expected, abs=1e-6)


ROWS: list[dict] = [
    {
        "id": 1,
        "conversations": [
            {"from": "human", "value": "<image>\n무엇이 보이나요?"},
            {"from": "gpt", "value": "고양이 두 마리가 보입니다."},
        ],
    },
    {
        "id": 2,
        "conversations": [{"from": "human", "value": "<image>\n무슨 색인가요?"}, {"from": "gpt", "value": "It is a red cat."}],
    },
    {
        "id": 3,
        "conversations": [
            {"from": "human", "value": "<image>\n어디에 있나요?"},
            {"from": "gpt", "value": "탁자 위에 있습니다. 👍"},
        ],
    },
]


def _lines(rows: list[dict]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False, separators=(",", ": ")) + "\n" for row in rows)


def test_rows_that_stay_are_the_bytes_that_were_there(tmp_path):
    path = tmp_path / "talks.jsonl"
    lines = _lines([*ROWS, ROWS[0]]).splitlines(keepends=True)
    path.write_text("".join([*lines, "{no json}\n"]), encoding="utf-8")
    done = filter_set(path, tmp_path / "out", Task())
    assert (tmp_path / "out" / "data" / "talks.jsonl").read_text(encoding="utf-8") == lines[0] + lines[2]
    assert done["rows"] == 5 and done["kept"] == 2
    assert done["rejected"] == {"hangul": 1, "duplicate": 1, "row": 1}
    assert "numbers" in done["skipped"] and "hangul" not in done["skipped"]
    rejects = [json.loads(line) for line in (tmp_path / "out" / "rejects.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [(each["row"], each["filter"]) for each in rejects] == [(1, "hangul"), (3, "duplicate"), (4, "row")]
    assert rejects[0]["field"] == "conversations[1].value" and rejects[0]["translation"] == "It is a red cat."


def test_only_what_is_tidied_changes(tmp_path):
    path = tmp_path / "talks.json"
    path.write_text(json.dumps(ROWS, ensure_ascii=False, indent=1), encoding="utf-8")
    filter_set(path, tmp_path / "out", Task(limits=Limits(emoji="drop"), has_duplicates=True))
    kept = json.loads((tmp_path / "out" / "data" / "talks.json").read_text(encoding="utf-8"))
    assert kept[0] == ROWS[0] and kept[1]["conversations"][1]["value"] == "탁자 위에 있습니다."


def test_pairs_of_two_aligned_files_stay_aligned(tmp_path):
    pairs = [("고양이 3마리", "3 cats"), ("개 5마리", "7 dogs"), ("바다", "the sea")]
    for side, end in enumerate((".ko", ".en")):
        (tmp_path / f"news{end}").write_text("".join(f"{pair[side]}\n" for pair in pairs), encoding="utf-8")
    done = filter_set(tmp_path / "news.ko", tmp_path / "out", Task())
    assert done["rejected"] == {"numbers": 1} and done["skipped"] == []
    assert (tmp_path / "out" / "data" / "news.ko").read_text(encoding="utf-8") == "고양이 3마리\n바다\n"
    assert (tmp_path / "out" / "data" / "news.en").read_text(encoding="utf-8") == "3 cats\nthe sea\n"


def test_two_files_that_were_compressed_are_written_as_the_text_that_their_names_say(tmp_path):
    for side, text in (("ko", "고양이\n바다\n"), ("en", "a cat\nthe sea\n")):
        (tmp_path / f"news.{side}.gz").write_bytes(gzip.compress(text.encode()))
    filter_set(tmp_path / "news.ko.gz", tmp_path / "out", Task())
    assert (tmp_path / "out" / "data" / "news.ko").read_text(encoding="utf-8") == "고양이\n바다\n"


def test_little_work_shows_no_progress(tmp_path, capsys):
    (tmp_path / "talks.json").write_text(json.dumps(ROWS, ensure_ascii=False), encoding="utf-8")
    filter_set(tmp_path / "talks.json", tmp_path / "out", Task(quiet=False))
    assert capsys.readouterr().err == ""


def test_a_compressed_file_that_is_cut_off_is_said_so(tmp_path):
    draw = random.Random(0)
    rows = [{"question": "질문 " + draw.randbytes(100).hex(), "answer": "답"} for _ in range(6000)]
    data = gzip.compress(_lines(rows).encode())
    (tmp_path / "cut.jsonl.gz").write_bytes(data[: len(data) // 2])
    with pytest.raises(BodaError, match="cut off or damaged"):
        filter_set(tmp_path / "cut.jsonl.gz", tmp_path / "out", Task())
    assert not list(tmp_path.glob("out/data/*"))


def test_a_low_score_refuses(tmp_path):
    path = tmp_path / "pairs.csv"
    path.write_text("ko,en\n고양이,a cat\n개,a horse\n", encoding="utf-8")
    asked = []

    def score(pairs, images):
        asked.extend(pairs)
        return [0.9 if pair.source == "a cat" else 0.1 for pair in pairs]

    done = filter_set(path, tmp_path / "out", Task(scores={"back_translation": score}))
    assert done["rejected"] == {"back_translation": 1} and len(asked) == 2
    assert (tmp_path / "out" / "data" / "pairs.csv").read_text(encoding="utf-8") == "ko,en\n고양이,a cat\n"


def test_pictures_and_texts_are_compared_row_by_row(tmp_path, llava_data):
    rows = json.loads(llava_data.read_text(encoding="utf-8"))
    pictures = sum("image" in row for row in rows)
    seen = []

    def score(pairs, images):
        seen.extend(images)
        return [1.0] * len(pairs)

    task = Task(scores={"similarity": score}, filters={}, has_duplicates=True, images=llava_data.parent / "images")
    done = filter_set(llava_data, tmp_path / "out", task)
    assert done["kept"] == len(rows) and pictures > 0
    assert len({image.key for image in seen}) > 1 and all(image is not None for image in seen)


def _shard(path, members: dict[str, bytes]):
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


def _png(colour: str) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (8, 8), RGB[colour]).save(stream, "PNG")
    return stream.getvalue()


def test_pictures_stay_with_their_rows_where_rows_before_them_are_refused(tmp_path):
    texts = {"빨간": "A red one.", "초록": "초록 그림", "파란": "파란 그림"}
    members = {f"./{number}.{suffix}": data for number, (colour, text) in enumerate(texts.items())
               for suffix, data in (("png", _png(colour)), ("txt", text.encode()))}  # fmt: skip
    seen = {}

    def score(pairs, images):
        seen.update((pair.translation, load_image(image).getpixel((0, 0))) for pair, image in zip(pairs, images))
        return [1.0] * len(pairs)

    done = filter_set(_shard(tmp_path / "set.tar", members), tmp_path / "out", Task(scores={"similarity": score}))
    assert done["rejected"] == {"hangul": 1}
    assert seen == {"초록 그림": RGB["초록"], "파란 그림": RGB["파란"]}


def test_a_broken_picture_refuses_its_row_alone(tmp_path, monkeypatch):
    monkeypatch.setattr("boda.models.encoder.Encoder.load", lambda name: FakeEncoder(name))
    members = {"0.png": _png("빨간")[:41], "0.txt": "빨간 그림".encode(), "1.png": _png("초록"), "1.txt": "초록 그림".encode()}
    words = ["data", "filter", str(_shard(tmp_path / "set.tar", members)), "--out", str(tmp_path / "out"), "--json"]
    said = CliRunner().invoke(app, [*words, "--similarity", "colours"])
    assert said.exit_code == 0, said.output
    assert json.loads(said.stdout.splitlines()[-1])["rejected"] == {"similarity": 1}
    (refused,) = map(json.loads, (tmp_path / "out" / "rejects.jsonl").read_text(encoding="utf-8").splitlines())
    assert refused["row"] == "0" and "0.png" in refused["reason"]


def test_the_command_says_what_was_refused_and_by_what(tmp_path):
    path = tmp_path / "talks.jsonl"
    path.write_text(_lines([*ROWS, ROWS[0]]), encoding="utf-8")
    said = CliRunner().invoke(
        app, ["data", "filter", str(path), "--out", str(tmp_path / "out"), "--skip", "duplicates", "--json"]
    )
    assert said.exit_code == 0, said.output
    assert json.loads(said.stdout.splitlines()[-1])["rejected"] == {"hangul": 1}
    shown = CliRunner().invoke(app, ["data", "filter", str(path), "--out", str(tmp_path / "two"), "--limit", "emoji=refuse"])
    assert "4 rows, 1 kept (25.0%)" in shown.stdout and "1  emoji" in shown.stdout
    assert "not used without sources" in shown.stdout


def test_an_engine_that_translates_back_is_asked_by_the_command(tmp_path):
    (tmp_path / "words.csv").write_text("source,target\n고양이,the old cat\n개,a small dog\n", encoding="utf-8")
    path = tmp_path / "pairs.jsonl"
    path.write_text(_lines([{"ko": "고양이", "en": "the old cat"}, {"ko": "개", "en": "my horse"}]), encoding="utf-8")
    words = ["--back-translation", "dictionary", "--engine", f"model={tmp_path / 'words.csv'}", "--json"]
    said = CliRunner().invoke(app, ["data", "filter", str(path), "--out", str(tmp_path / "out"), *words])
    assert said.exit_code == 0, said.output
    assert json.loads(said.stdout.splitlines()[-1])["rejected"] == {"back_translation": 1}


def test_an_engine_that_cannot_translate_back_is_refused_and_settings_are_numbers(tmp_path):
    (tmp_path / "words.csv").write_text("source,target\n개,a dog\n", encoding="utf-8")
    (tmp_path / "pairs.csv").write_text("ko,en\n개,a dog\n", encoding="utf-8")
    words = ["data", "filter", str(tmp_path / "pairs.csv"), "--out", str(tmp_path / "out")]
    said = CliRunner().invoke(app, [*words, "--back-translation", "deepl"])
    assert said.exit_code == 2 and "does not translate from Korean" in said.output
    settings = ["--engine", f"model={tmp_path / 'words.csv'}", "--engine", "price=0.5"]
    said = CliRunner().invoke(app, [*words, "--back-translation", "dictionary", *settings])
    assert said.exit_code == 0, said.output


def test_a_pair_model_says_whether_text_and_picture_fit(tmp_path, monkeypatch):
    monkeypatch.setattr("boda.models.encoder.Encoder.load", lambda name: FakeEncoder(name))
    said = {"빨간": "빨간 그림입니다.", "초록": "초록 그림입니다.", "파란": "노란 그림입니다."}
    members = {f"{number:05}.{suffix}": data for number, (colour, text) in enumerate(said.items())
               for suffix, data in (("png", _png(colour)), ("txt", text.encode()))}  # fmt: skip
    path = _shard(tmp_path / "shard.tar", members)
    words = ["--similarity", "colours", "--limit", "similarity=0.9", "--json"]
    found = CliRunner().invoke(app, ["data", "filter", str(path), "--out", str(tmp_path / "out"), *words])
    assert found.exit_code == 0, found.output
    assert json.loads(found.stdout.splitlines()[-1])["rejected"] == {"similarity": 1}
    with tarfile.open(path) as before, tarfile.open(tmp_path / "out" / "data" / "shard.tar") as after:
        kept = {each.name: after.extractfile(each).read() for each in after}  # type: ignore[union-attr]
        assert kept == {each.name: before.extractfile(each).read() for each in before if each.name < "00002"}  # type: ignore[union-attr]


def test_parquet_keeps_its_columns_and_types(tmp_path):
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    table = pyarrow.table(
        {"korean": ["고양이 3마리", "개 5마리", "바다"], "english": ["3 cats", "7 dogs", "a sea"], "n": [1, 2, 3]}
    )
    parquet.write_table(table, tmp_path / "pairs.parquet", row_group_size=2)
    done = filter_set(tmp_path / "pairs.parquet", tmp_path / "out", Task())
    assert done["rejected"] == {"numbers": 1}
    assert parquet.read_table(tmp_path / "out" / "data" / "pairs.parquet").equals(table.take([0, 2]))


@pytest.mark.parametrize(
    "words, said",
    [
        (["--fields", "text"], "no field 'text'; its rows have id, conversations"),
        (["--limit", "nearly=much"], "the limit nearly is a number"),
        (["--preset", "mine"], "no preset"),
        (["--skip", "mine"], "no filter"),
    ],
)
def test_a_wrong_word_is_said(tmp_path, words: list[str], said: str):
    path = tmp_path / "talks.jsonl"
    path.write_text(_lines(ROWS), encoding="utf-8")
    found = CliRunner().invoke(app, ["data", "filter", str(path), "--out", str(tmp_path / "out"), *words])
    assert found.exit_code in (1, 2) and said in " ".join(found.output.split())


def test_the_input_is_never_written_over(tmp_path):
    folder = tmp_path / "job" / "data"
    folder.mkdir(parents=True)
    (folder / "talks.jsonl").write_text(_lines(ROWS), encoding="utf-8")
    with pytest.raises(BodaError, match="holds the input"):
        filter_set(folder, tmp_path / "job", Task())


def test_a_folder_with_another_set_is_refused_and_the_same_set_written_anew(tmp_path):
    for name in ("talks", "more"):
        (tmp_path / f"{name}.jsonl").write_text(_lines(ROWS), encoding="utf-8")
    first = filter_set(tmp_path / "talks.jsonl", tmp_path / "out", Task())
    assert filter_set(tmp_path / "talks.jsonl", tmp_path / "out", Task()) == first
    with pytest.raises(BodaError, match=r"holds another set \(talks.jsonl\)"):
        filter_set(tmp_path / "more.jsonl", tmp_path / "out", Task())


def test_news_that_people_translated_mostly_stays():
    folder = shared_data("korean_parallel_corpora/korean-english-jhe")
    sides = [(folder / f"jhe-koen-dev.{end}").read_text(encoding="utf-8").splitlines() for end in ("en", "ko")]
    refused = [found[0] for pair in zip(*sides, strict=True) if (found := check_pair(Pair(*pair)))]
    assert len(refused) < 0.02 * len(sides[0])
