"""Real pictures -> Korean question files that Boda's ordinary sources read.

    python benchmarks/real_data.py --out runs/real/data [--data DIR]

DIR (default: $BODA_DATA, else ../shared/data) holds `flags`, `emoji`, `nlvr_synthetic` and `cifar10`. Nothing of it is
copied into the repository. Written: `{flags,emoji,nlvr}/{train,test}.jsonl` and `flags/recall.jsonl` in the `messages`
format with tags, changed copies of training pictures, and a mirrored copy of CIFAR-10's training file (the original is read
in place by the `parquet` source). Answers are short; no question type lets one answer reach far, see `balanced`.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import random
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import real_flags
import real_nlvr
from PIL import Image
from real_colours import most, with_particle

from boda.errors import BodaError

SEED = 0
YES, NO = "네", "아니요"
NEEDED = ("flags/countries.jsonl", "emoji/captions.jsonl", "nlvr_synthetic/dev/dev.json", "cifar10/train.parquet")

# Emoji categories: keywords that put a picture into one, and captions that do so by mistake.
CATEGORIES: dict[str, tuple[set[str], set[str]]] = {
    "사람": ({"남자", "여자", "성인", "사람", "사람들", "가족"}, {"눈사람", "사람들 그림자", "여자 화장실"}),
    "얼굴 표정": (set(), {"유니콘 얼굴", "로봇 얼굴"}),
    "동물": ({"동물", "조류", "곤충", "벌레", "물고기", "새", "포유동물"}, {"깃털", "날개", "낚싯대", "돼지코"}),
    "음식": (
        {"음식", "식품", "과일", "채소", "야채", "디저트"}, {"포크와 나이프", "납작한 냄비", "테이크아웃 상자", "버블티"},
    ),
    "음료": ({"음료", "술"}, {"음수대", "마실 수 없는 물", "쏟아져 나오는 액체", "젖병"}),
    "식물": ({"식물", "꽃", "나무"}, {"도끼", "목재", "밤", "옥수수", "버섯"}),
    "탈것": (
        {"교통수단", "자동차", "기차", "버스", "트럭", "보트", "선박", "비행기", "철도", "트램", "자전거"},
        {"기차역", "버스 정류장", "기차 터널", "철도 선로", "휠", "짐 찾는 곳", "자전거 금지"},
    ),
    "건물": ({"건물", "빌딩"}, {"일몰", "건물 공사"}),
    "스포츠": ({"스포츠", "구기종목"}, {"주사위", "격자 무늬 깃발", "승마", "낚싯대"}),
    "악기": ({"악기"}, set()),
    "화살표": ({"화살표"}, {"보낸 편지", "왼쪽에 화살표가 있는 휴대전화"}),
    "시계": ({"시계"}, set()),
    "별자리": ({"별자리"}, {"접시저울", "활과 화살", "암포라", "꽃게", "전갈"}),
    "하트": ({"하트"}, {"입술", "러브레터", "키스"}),
    "도형": ({"기하학 무늬"}, {"라디오 버튼"}),
    "손": ({"손", "손가락", "손바닥"}, {"장갑", "함사"}),
}  # fmt: skip
# Pairs of which a picture of one may well have to do with the other: never asked as a "no", never offered side by side.
NEAR = {
    frozenset(pair.split("·"))
    for pair in (
        "사람·얼굴 표정 사람·손 얼굴 표정·손 사람·스포츠 음식·음료 음식·식물 얼굴 표정·하트 사람·하트 동물·음식 동물·별자리 "
        "도형·화살표 동물·얼굴 표정 별자리·도형 하트·도형 손·하트 손·화살표 화살표·시계"
    ).replace("얼굴 표정", "얼굴_표정").split()
}  # fmt: skip
NEAR = {frozenset(name.replace("_", " ") for name in pair) for pair in NEAR}


def row(picture: str, question: str, answer: str, **tags: str) -> dict:
    """One line of the `messages` format."""
    messages = [{"role": "user", "content": f"<image>\n{question}"}, {"role": "assistant", "content": answer}]
    return {"messages": messages, "images": [picture], "tags": tags}


def answer_of(line: dict) -> str:
    return line["messages"][-1]["content"]


def question_of(line: dict) -> str:
    return line["messages"][0]["content"].removeprefix("<image>\n")


def balanced(lines: list[dict], rng: random.Random) -> list[dict]:
    """Lines thinned until, for every wording of every question, no answer is much more frequent than the others.

    Of two answers each gets a half; of k answers none exceeds 1.5/k. Answers too rare to be balanced against (under a
    quarter of an equal share) are dropped, and so is a wording that is left with one answer.
    """
    wordings: dict[tuple, dict[str, list[dict]]] = defaultdict(lambda: defaultdict(list))
    for line in lines:
        wordings[line["tags"]["type"], question_of(line)][answer_of(line)].append(line)
    kept: list[dict] = []
    for answers in wordings.values():
        total = sum(map(len, answers.values()))
        frequent = {answer: found for answer, found in answers.items() if len(found) >= 0.25 * total / len(answers)}
        if len(frequent) < 2:
            frequent = answers if len(answers) == 2 else {}
        sizes = [len(found) for found in frequent.values()]
        limit = max(1.0 / max(1, len(sizes)), 0.0 if len(sizes) == 2 else 1.5 / max(1, len(sizes)))
        cap = next(
            (cap for cap in sorted(set(sizes), reverse=True) if cap <= limit * sum(min(cap, n) for n in sizes) + 1e-9), 0
        )
        for found in frequent.values():
            kept += rng.sample(found, min(cap, len(found)))
    return kept


def at_most(lines: list[dict], per_type: int, rng: random.Random) -> list[dict]:
    """A random `per_type` of each question type."""
    types: dict[str, list[dict]] = defaultdict(list)
    for line in lines:
        types[line["tags"]["type"]].append(line)
    return [line for found in types.values() for line in rng.sample(found, min(per_type, len(found)))]


def write(path: Path, lines: list[dict]) -> None:
    """Lines in a fixed order (by picture), so that the same seed gives the same file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = sorted(lines, key=lambda line: (line["images"], question_of(line)))
    path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")


def flags(data: Path, out: Path, copies: int = 10) -> None:
    """`flags/{train,test,recall}.jsonl`: four fifths of the countries are trained on, the rest are new to the model."""
    rng = random.Random(f"{SEED} flags")
    rows = [row for row in real_flags.countries(data / "flags") if row["code"] not in real_flags.NOT_RECTANGULAR]
    families = real_flags.look_alikes(rows)
    new: set[int] = set()
    for family in rng.sample(families, len(families)):
        if len(new) + len(family) <= len(rows) // 5:
            new |= set(family)
    twins = {index for family in real_flags.look_alikes(rows, 1) if len(family) > 1 for index in family}

    train, test, recall, train_seen = [], [], [], []
    (out / "flags/pictures").mkdir(parents=True, exist_ok=True)
    for index, country in enumerate(rows):
        pixels, code = real_flags.pixels_of(country["picture"]), country["code"]
        where = str(country["picture"].resolve())
        facts = real_flags.known(country, index in twins)
        if index in new:
            test += [
                row(where, question, answer, source="flags", type=kind) for kind, question, answer in real_flags.seen(pixels)
            ]
            if real_flags.stripes(pixels):  # few flags have upright stripes: each striped one is also shown on its side
                turned = out / f"flags/pictures/{code}-turned.png"
                save(real_flags.turned(pixels), turned)
                question, answer = next(
                    found[1:] for found in real_flags.seen(real_flags.turned(pixels)) if found[0] == "stripes"
                )
                test.append(row(str(turned.resolve()), question, answer, source="flags", type="stripes"))
            if "continent" in facts:
                test += [row(where, facts["continent"][0][0], facts["continent"][1], source="flags", type="continent_guess")]
            continue
        train_seen += [
            row(where, question, answer, source="flags", type=kind) for kind, question, answer in real_flags.seen(pixels)
        ]
        for copy in range(copies):
            changed = real_flags.changed(pixels, rng)
            picture = out / f"flags/pictures/{code}-{copy}.png"
            save(changed, picture)
            train_seen += [
                row(str(picture.resolve()), question, answer, source="flags", type=kind)
                for kind, question, answer in real_flags.seen(changed)
            ]
        for number, (kind, (wordings, answer)) in enumerate(facts.items()):
            held_out = (index + number) % len(wordings)
            for wording, question in enumerate(wordings):
                line = row(where, question, answer, source="flags", type=kind)
                (recall if wording == held_out else train).append(line)
    # Nearly all countries have a coast: as many questions about coasts as about inland countries, in training and in the test.
    train, recall = evened(train, "landlocked", rng), evened(recall, "landlocked", rng)
    write(out / "flags/train.jsonl", train + at_most(balanced(train_seen, rng), 4000, rng))
    seen_test = balanced([line for line in test if line["tags"]["type"] != "continent_guess"], rng)
    write(out / "flags/test.jsonl", seen_test + [line for line in test if line["tags"]["type"] == "continent_guess"])
    write(out / "flags/recall.jsonl", recall)


def evened(lines: list[dict], kind: str, rng: random.Random) -> list[dict]:
    """The same lines with as many pictures answering no as yes for one yes/no type; whole pictures are dropped."""
    pictures: dict[str, set[str]] = {YES: set(), NO: set()}
    for line in lines:
        if line["tags"]["type"] == kind:
            pictures[answer_of(line)].add(line["images"][0])
    size = min(map(len, pictures.values()))
    kept = {picture for found in pictures.values() for picture in random.Random(f"{SEED} {kind}").sample(sorted(found), size)}
    return [line for line in lines if line["tags"]["type"] != kind or line["images"][0] in kept]


def save(pixels: np.ndarray, path: Path) -> None:
    Image.fromarray(np.ascontiguousarray(pixels)).resize((192, 128), Image.Resampling.BOX).save(path)


def category(keywords: set[str], caption: str) -> str | None:
    """The one category an emoji clearly belongs to; None if none or several claim it."""
    claims = {name for name, (wanted, _) in CATEGORIES.items() if keywords & wanted}
    if any(word in caption for word in ("남자", "여자", "사람", "가족", "연인", "남녀")):
        claims.add("사람")
    if caption.endswith("얼굴") and not claims & {"동물"} and "고양이" not in caption:
        claims.add("얼굴 표정")
    if len(claims) != 1:
        return None
    name = claims.pop()
    return None if caption in CATEGORIES[name][1] else name


def emoji(data: Path, out: Path) -> None:
    """`emoji/{train,test}.jsonl` with the data set's own split: name, category (yes/no and one of three), main colour."""
    drawings = [json.loads(line) for line in (data / "emoji/captions.jsonl").read_text(encoding="utf-8").splitlines()]
    for split in ("train", "test"):
        rng = random.Random(f"{SEED} emoji {split}")
        lines, colours, by_category = [], [], defaultdict(list)
        for drawing in drawings:
            if drawing["split"] != split:
                continue
            where = str((data / "emoji" / drawing["image"]).resolve())
            lines.append(row(where, "이것은 무엇인가요?", drawing["caption"], source="emoji", type="name"))
            group = category(set(drawing["keywords"]), drawing["caption"])
            if group:
                by_category[group].append(where)
            with Image.open(where) as image:
                pixels = np.asarray(image.convert("RGBA"))
            widest = most(pixels[pixels[..., 3] > 200][:, :3])
            if widest:
                question = "배경을 빼고 가장 많이 쓰인 색은 무엇인가요?"
                colours.append(row(where, question, widest, source="emoji", type="colour"))
        lines += balanced(colours, rng) + categories(by_category, rng, repeats=4 if split == "train" else 1)
        write(out / f"emoji/{split}.jsonl", lines)


def categories(by_category: dict[str, list[str]], rng: random.Random, repeats: int) -> list[dict]:
    """As many "yes" as "no" for every category, and choices of three in which every category is as often wrong as right."""
    lines = []
    far = {
        name: [other for other in by_category if other != name and frozenset((name, other)) not in NEAR] for name in by_category
    }
    for name, members in by_category.items():
        question = f"이 그림은 {with_particle(name, '과/와')} 관련이 있나요?"
        strangers = [(other, member) for other in far[name] for member in by_category[other]]
        for member in members:
            for _ in range(min(repeats, 2)):
                other = rng.choice(far[name])  # first the category, so that big ones do not answer for all
                stranger = rng.choice(by_category[other])
                lines.append(row(stranger, question, NO, source="emoji", type="category_yes_no"))
                lines.append(row(member, question, YES, source="emoji", type="category_yes_no"))
        assert strangers
    unique = {(line["images"][0], question_of(line)): line for line in lines}
    lines = balanced([unique[key] for key in sorted(unique)], rng)
    names = sorted(by_category)
    per_name = min(max(map(len, by_category.values())), 4 * min(map(len, by_category.values())))
    choices = {}
    for name in names:
        for number in range(per_name * min(repeats, 2)):
            member = by_category[name][number % len(by_category[name])]
            others = [other for other in far[name]]
            first = rng.choice(others)
            second = rng.choice([other for other in others if other != first and frozenset((first, other)) not in NEAR] or [""])
            if second:
                offered = rng.sample([name, first, second], 3)
                question = f"{offered[0]}, {offered[1]}, {offered[2]} 중 무엇과 관련된 그림인가요?"
                choices[member, question] = row(member, question, name, source="emoji", type="category_of_three")
    return lines + list(choices.values())


def nlvr(data: Path, out: Path, copies: int = 9, per_type: int = 5000, per_type_test: int = 300) -> None:
    """`nlvr/{train,test}.jsonl`: the development set and changed copies of it to train on, the test set as it is."""
    rng = random.Random(f"{SEED} nlvr")
    test_scenes = real_nlvr.scenes(data / "nlvr_synthetic/test")
    test_pixels = {real_nlvr.pixels_of(scene["picture"]).tobytes() for scene in test_scenes}
    (out / "nlvr/pictures").mkdir(parents=True, exist_ok=True)
    train, described = [], []
    for number, scene in enumerate(real_nlvr.scenes(data / "nlvr_synthetic/dev")):
        pixels = real_nlvr.pixels_of(scene["picture"])
        versions = [(scene["boxes"], pixels)] + [real_nlvr.changed(scene["boxes"], pixels, rng) for _ in range(copies)]
        for copy, (boxes, changed) in enumerate(versions):
            if changed.tobytes() in test_pixels:  # a few towers are in both splits
                continue
            assert real_nlvr.agrees(boxes, changed), f"{scene['picture']}: picture and scene graph differ"
            picture = out / f"nlvr/pictures/{number:04d}-{copy}.png"
            Image.fromarray(changed).save(picture)
            where = str(picture.resolve())
            train += [row(where, *asked[1:], source="nlvr", type=asked[0]) for asked in real_nlvr.questions(boxes)]
            words = real_nlvr.description(boxes)
            described.append(row(where, "그림을 자세히 설명해 주세요.", words, source="nlvr", type="description"))
    test = []
    for scene in test_scenes:
        assert real_nlvr.agrees(scene["boxes"], real_nlvr.pixels_of(scene["picture"])), (
            f"{scene['picture']}: scene graph differs"
        )
        where = str(scene["picture"].resolve())
        test += [row(where, *asked[1:], source="nlvr", type=asked[0]) for asked in real_nlvr.questions(scene["boxes"])]
    write(out / "nlvr/train.jsonl", at_most(balanced(train, rng), per_type, rng) + described)
    write(out / "nlvr/test.jsonl", at_most(balanced(test, rng), per_type_test, rng))


def cifar10(data: Path, out: Path, limit: int | None = None) -> None:
    """`cifar10/mirrored.parquet`: every training photo turned left to right, beside the original that is read in place."""
    import pyarrow
    import pyarrow.parquet

    table = pyarrow.parquet.read_table(data / "cifar10/train.parquet")
    table = table if limit is None else table.slice(0, limit)
    mirrored = []
    for cell in table["image"].to_pylist():
        with Image.open(io.BytesIO(cell["bytes"])) as image:
            turned = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        buffer = io.BytesIO()
        turned.save(buffer, format="PNG")
        mirrored.append({"bytes": buffer.getvalue(), "path": None})
    column = pyarrow.array(mirrored, type=table.schema.field("image").type)
    (out / "cifar10").mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(
        table.set_column(table.schema.get_field_index("image"), table.schema.field("image"), column),
        out / "cifar10/mirrored.parquet", row_group_size=1000,
    )  # fmt: skip


def describe(path: Path, samples: int) -> None:
    """Counts by type with the most frequent answer's share, and some lines."""
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    pictures = len({line["images"][0] for line in lines})
    print(f"\n{path}: {len(lines):,} questions on {pictures:,} pictures")
    types: dict[str, list[dict]] = defaultdict(list)
    for line in lines:
        types[line["tags"]["type"]].append(line)
    for kind, found in sorted(types.items()):
        answers = Counter(map(answer_of, found))
        answer, count = answers.most_common(1)[0]
        print(
            f"  {kind:18} {len(found):6,} questions, {len(answers):4} answers, most frequent {answer} {count / len(found):.0%}"
        )
    for line in random.Random(0).sample(lines, min(samples, len(lines))):
        print(f"    {Path(line['images'][0]).name:24} {question_of(line)} -> {answer_of(line)}")


def data_folder(given: str | None = None) -> Path:
    """Where the real data lies. Raises BodaError saying what is missing."""
    folder = Path(given or os.environ.get("BODA_DATA") or Path(__file__).resolve().parents[1] / "../shared/data").resolve()
    missing = [name for name in NEEDED if not (folder / name).exists()]
    if missing:
        raise BodaError(f"no {', '.join(missing)} under {folder}: --data or BODA_DATA names the folder with the real data")
    return folder


def convert(data: Path, out: Path) -> None:
    """Everything, into `out`."""
    out.mkdir(parents=True, exist_ok=True)
    for step in (flags, emoji, nlvr, cifar10):
        step(data, out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/real/data"))
    parser.add_argument("--data")
    parser.add_argument("--samples", type=int, default=10)
    arguments = parser.parse_args()
    convert(data_folder(arguments.data), arguments.out)
    for path in sorted(arguments.out.glob("*/*.jsonl")):
        describe(path, arguments.samples)


if __name__ == "__main__":
    try:
        main()
    except BodaError as error:
        raise SystemExit(str(error)) from None
