"""Filters of translations on real text: Korean-English news that people translated, with noise put in at known places.

Each kind of noise is put into pairs that the filters let pass as they are, so that what is caught is the noise. What is refused
without noise is listed, to be read: a corpus of news has bad pairs of its own.
"""

from __future__ import annotations

import os
import random
import re
import tarfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from common import ROOT, BenchmarkError, Run

from boda.data.translate.filters import NEED_SOURCE, Duplicates, Limits, Pair, check_pair

SHARED = Path(os.environ.get("BODA_DATA") or ROOT.parent / "shared" / "data")
DATA = SHARED / "korean_parallel_corpora"
OTHERS = [
    "大統領は昨日、新しい経済政策を発表した。",
    "この写真には二匹の猫が写っています。",
    "会議は来週の月曜日に開かれる予定です。",
    "Президент вчера объявил о новой экономической политике.",
    "На этой фотографии две кошки лежат на столе.",
    "Встреча состоится в следующий понедельник.",
    "总统昨天宣布了新的经济政策。",
    "这张照片里有两只猫躺在桌子上。",
    "El presidente anunció ayer una nueva política económica.",
    "Hay dos gatos acostados sobre la mesa.",
    "Der Präsident kündigte gestern eine neue Wirtschaftspolitik an.",
    "أعلن الرئيس أمس سياسة اقتصادية جديدة.",
]
BEFORE = [
    "번역: ",
    "한국어 번역:\n",
    "다음은 요청하신 문장의 한국어 번역입니다.\n\n",
    "Here is the Korean translation:\n\n",
    "Translation: ",
    "Sure! Here's the translation into Korean: ",
    "네, 번역해 드리겠습니다. ",
    "**번역문:** ",
]
BEHIND = ["\n\n(위 문장은 '{}' 으로 번역할 수 있습니다.)", "\n\n다음은 직역한 번역입니다: {}"]
READ = 20
# What twenty of the refused are, read one by one; by the pair's number in the corpus.
FOUND = {
    72: "leaves the figures of the poll out",
    372: "0.5 dollars for 15 cents: wrong",
    814: "a good one: the concert's title stays English",
    927: "no translation: a menu of the web page",
    962: "no translation: a menu of the web page",
    996: "no translation: a menu of the web page",
    1164: "leaves the second time zone out",
    1766: "faithful but for the sum in US dollars, which became one in won",
    1920: "no translation",
    2048: "another sentence of the interview",
    2179: "leaves the 550 tons out",
    2498: "leaves the second half out",
    2741: "an English headline stands before the Korean one",
    2784: "no translation: an entry of a word list",
    2874: "leaves the hour out",
    2904: "no translation: another article's headline",
    2910: "no translation: another article's headline",
    2958: "faithful, as a headline without an end",
    3286: "1950 for 1910: wrong",
    3969: "25 for 21: wrong",
}


def pairs() -> list[Pair]:
    """News of 2000 to 2009 (dev and test) and the JHE evaluation data (dev and eval), in their order."""
    found: list[Pair] = []
    for part in ("dev", "test"):
        with tarfile.open(DATA / "korean-english-news-v1" / f"korean-english-park.{part}.tar.gz") as tar:
            texts = {each.name[-2:]: tar.extractfile(each).read().decode() for each in tar if each.isfile()}  # type: ignore[union-attr]
        found += map(Pair, texts["en"].splitlines(), texts["ko"].splitlines())
    for part in ("dev", "eval"):
        place = DATA / "korean-english-jhe" / f"jhe-koen-{part}"
        found += map(Pair, *(place.with_suffix(f".{side}").read_text(encoding="utf-8").splitlines() for side in ("en", "ko")))
    return found


def captions() -> list[Pair]:
    """XTD10: captions of COCO photos that people translated."""
    sides = [SHARED / "xtd10" / "XTD10" / f"test_1kcaptions_{side}.txt" for side in ("en", "ko")]
    return list(map(Pair, *(path.read_text(encoding="utf-8").splitlines() for path in sides))) if sides[0].exists() else []


def sentences() -> list[Pair]:
    """The different Korean sentences of KorNLI's XNLI development set, translated by people, without their sources."""
    path = SHARED / "kornlu" / "KorNLI" / "xnli.dev.ko.tsv"
    lines = path.read_text(encoding="utf-8").splitlines()[1:] if path.exists() else []
    return [Pair("", text) for text in dict.fromkeys(side for line in lines for side in line.split("\t")[:2])]


def half(text: str, first: bool) -> str:
    words = text.split()
    return " ".join(words[: len(words) // 2] if first else words[len(words) // 2 :])


def noises(chosen: random.Random, good: list[Pair]) -> dict[str, Callable[[Pair], Pair]]:
    """kind -> what is done to a pair."""

    def translated(change: Callable[[Pair], str]) -> Callable[[Pair], Pair]:
        return lambda pair: Pair(pair.source, change(pair))

    def looped(pair: Pair) -> str:
        words = pair.translation.split()
        start = chosen.randrange(1, len(words))
        piece = " ".join(words[start - 1 : start - 1 + chosen.randrange(1, 5)])
        return " ".join([*words[:start], *[piece] * chosen.randrange(6, 20)])

    def other_number(pair: Pair) -> str:
        place = chosen.choice(list(re.finditer(r"\d+", pair.translation)))
        new = str(int(place[0]) + chosen.randrange(1, 9) * 10 ** (len(place[0]) - 1))
        return pair.translation[: place.start()] + new + pair.translation[place.end() :]

    def chatting(pair: Pair) -> str:
        said = chosen.choice(BEFORE + BEHIND)
        return said + pair.translation if said in BEFORE else pair.translation + said.format(half(pair.translation, True))

    return {
        "empty": translated(lambda pair: chosen.choice(["", " ", "\n"])),
        "not translated": translated(lambda pair: pair.source),
        "second half not translated": translated(lambda pair: f"{half(pair.translation, True)} {half(pair.source, False)}"),
        "another language": translated(lambda pair: chosen.choice(OTHERS)),
        "second half in another language": translated(lambda pair: f"{half(pair.translation, True)} {chosen.choice(OTHERS)}"),
        "loops": translated(looped),
        "cut off after 30 to 70 %": translated(
            lambda pair: pair.translation[: int(len(pair.translation) * chosen.uniform(0.3, 0.7))]
        ),
        "numbers gone": translated(lambda pair: re.sub(r"\d[\d,.]*", "", pair.translation)),
        "one number another one": translated(other_number),
        "a mark or address gone": lambda pair: Pair(
            f"{chosen.choice(['<image> ', 'https://a.kr/b '])}{pair.source}", pair.translation
        ),
        "speaks of the translation": translated(chatting),
        "translation of another sentence": translated(lambda pair: chosen.choice(good).translation),
        "three words left out": translated(lambda pair: " ".join(pair.translation.split()[3:])),
    }


def near(chosen: random.Random, text: str) -> str:
    """The text with a word more, a word less, or other spaces and marks."""
    words = text.split()
    place, kind = chosen.randrange(len(words)), chosen.randrange(3)
    if kind == 2:
        return re.sub(r"[.,]", "", text).replace(" ", "  ")
    return " ".join([*words[:place], *(["바로"] if kind else []), *words[place + 1 - kind :]])


def main(run: Run) -> None:
    """One pass over the corpus as it is, one over each kind of noise, one over duplicates."""
    if not DATA.is_dir():
        raise BenchmarkError(f"no korean_parallel_corpora in {SHARED}; BODA_DATA names the folder that holds it")
    count, limits, all_pairs = run.option("count", 100), Limits(), pairs()
    began = time.process_time()
    refused = [(number, pair, found) for number, pair in enumerate(all_pairs) if (found := check_pair(pair, limits))]
    seconds = time.process_time() - began
    bad = {id(pair) for _, pair, _ in refused}
    good = [pair for pair in all_pairs if id(pair) not in bad]
    long = [pair for pair in good if len(pair.translation.split()) >= 8 and len(pair.source.split()) >= 8]
    digits = [pair for pair in long if re.search(r"\d", pair.source) and re.search(r"\d", pair.translation)]
    chosen = random.Random(run.option("seed", 0))
    rows = []
    for kind, change in noises(chosen, long).items():
        noisy = [change(pair) for pair in chosen.sample(digits if "number" in kind else long, count)]
        caught = Counter(found[0] for pair in noisy if (found := check_pair(pair, limits)))
        korean = Counter(found[0] for pair in noisy if (found := check_pair(Pair("", pair.translation), limits)))
        by = ", ".join(f"{name} {number}" for name, number in caught.most_common(4))
        rows.append(
            {"noise": kind, "put in": count, "caught": caught.total(), "by": by, "caught without the source": korean.total()}
        )
    for kind, change in (("twice", lambda text: text), ("nearly twice", lambda text: near(chosen, text))):
        seen = Duplicates(limits.nearly)
        for pair in long:
            seen.check(pair.translation)
        caught = Counter(found[0] for pair in chosen.sample(long, count) if (found := seen.check(change(pair.translation))))
        by = ", ".join(f"{name} {number}" for name, number in caught.most_common())
        rows.append(
            {"noise": kind, "put in": count, "caught": caught.total(), "by": by, "caught without the source": caught.total()}
        )
    sets = {
        "news and examples": all_pairs,
        "the same, Korean side alone": [Pair("", pair.translation) for pair in all_pairs],
        "captions (XTD10)": captions(),
        "sentences (XNLI), Korean alone": sentences(),
    }
    real = []
    for name, some in sets.items():
        found = Counter(each[0] for pair in some if (each := check_pair(pair, limits)))
        by = ", ".join(f"{name} {number}" for name, number in found.most_common())
        if some:
            real.append(
                {
                    "set": name,
                    "texts": len(some),
                    "refused": found.total(),
                    "share, %": 100 * found.total() / len(some),
                    "by": by,
                }
            )
    seen = Duplicates(limits.nearly)
    again = Counter(found[0] for pair in all_pairs if (found := seen.check(pair.translation)))
    run.text(
        f"{len(all_pairs):,} pairs of a corpus, English to Korean, looked at {len(all_pairs) / seconds:,.0f} a second on one core; "
        f"{count} of each kind of noise put into pairs that pass as they are."
    )
    run.table(
        "Noise put in, noise caught",
        rows,
        f"`{'`, `'.join(NEED_SOURCE)}` need the source; the last column is what the others find. A translation of another sentence looks "
        "like a good one unless its length or numbers give it away: that takes a back-translation score or, beside pictures, a pair model.",
    )
    run.table(
        "Real text as it is",
        real,
        f"{again.total()} of the corpus's Korean texts were there before ({', '.join(f'{name} {n}' for name, n in again.items())}). "
        "The refused of the corpus are for the most part no translations. Of 92 of them, drawn by chance and read one by one, 13 were "
        "faithful (last year for 2007, a year for 12 months, half for 50 %, kilometres an hour for miles, headlines) and 7 more left "
        "only a remark in brackets out: 0.8 to 1.3 % of the corpus are good pairs that are lost.",
    )
    listed = [
        {
            "filter": name,
            "reason": reason,
            "source": pair.source,
            "translation": pair.translation.strip(),
            "read": FOUND.get(number, "not read yet"),
        }
        for number, pair, (name, reason) in random.Random(1).sample(refused, min(READ, len(refused)))
    ]
    run.table(
        f"{READ} of the refused, drawn by chance and read",
        listed,
        "The corpus: Park, Hong and Cha (2016), Korean Language Resources for Everyone, CC BY-SA 3.0.",
    )
