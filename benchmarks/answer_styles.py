"""What a model that is always right scores by each published rule, and by Boda's reading, in ten styles of answering.

`python benchmarks/answer_styles.py` prints a Markdown table: style x benchmark, published rule → Boda, in per cent.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from boda.data.korean import with_particle
from boda.evaluate import rules
from boda.evaluate.choice import read_choice

LETTERS, CIRCLED, HANGUL = "ABCD", "①②③④", "가나다라"
QUESTIONS = 400
# What the questions of a benchmark are about, and its options.
THINGS = (
    "강아지 고양이 토끼 코끼리 기린 사자 호랑이 펭귄 비행기 자전거 버스 지하철 우산 가방 의자 책상 냉장고 세탁기 사과 포도 수박 "
    "김치찌개 비빔밥 떡볶이 냉면 병원 학교 도서관 공항 시장 바다 산 번개 무지개 소방관 요리사 간호사 축구 야구 수영"
).split()
FIGURES = [
    *(f"{number}%" for number in range(5, 100, 5)),
    *(f"{year}년" for year in range(2010, 2025)),
    "15",
    "27",
    "40",
    "3,200",
    "1,450",
]
CULTURE = (
    "한복 갓 고무신 족두리 추석 설날 단오 동지 송편 떡국 팥죽 막걸리 식혜 윷놀이 널뛰기 그네뛰기 씨름 경복궁 창덕궁 불국사 해인사 "
    "장구 가야금 꽹과리 기와집 초가집 온돌 장독대 지게 맷돌"
).split()
NAMES = (
    "Kimchi Bibimbap Tteokbokki Hanbok Gayageum Janggu Hanok Ondol Songpyeon Makgeolli Yutnori Ssireum Jegichagi Gat".split()
)

# An answer, from the right option's place and text and one of the others'.
STYLES: dict[str, Callable[[int, str, str], str]] = {
    "`B`": lambda place, text, other: LETTERS[place],
    "`정답: B`": lambda place, text, other: f"정답: {LETTERS[place]}",
    "`(B)`": lambda place, text, other: f"({LETTERS[place]})",
    "`정답은 B입니다.`": lambda place, text, other: f"정답은 {LETTERS[place]}입니다.",
    "`B번`": lambda place, text, other: f"{LETTERS[place]}번",
    "`②`": lambda place, text, other: CIRCLED[place],
    "`나`": lambda place, text, other: HANGUL[place],
    "`고양이`": lambda place, text, other: text,
    "`사진에 보이는 것은 고양이입니다.`": lambda place, text, other: f"사진에 보이는 것은 {text}입니다.",
    "`... 강아지는 사진에서 찾을 수 없습니다. 따라서 정답은 B입니다.`": lambda place, text, other: (
        f"보기를 하나씩 살펴보면, {with_particle(other, '은/는')} 사진에서 찾을 수 없습니다. 따라서 정답은 {LETTERS[place]}입니다."
    ),
}
BENCHMARKS: dict[str, tuple[rules.Rule, Sequence[str]]] = {
    "K-SEED": (rules.first_character, THINGS),
    "K-DTCBench": (rules.first_character, FIGURES),
    "K-MMStar": (rules.ranked, THINGS),
    "K-MMStar, older rule": (rules.opening, THINGS),
    "K-Viscuit": (rules.exact, NAMES),
    "culture, regex": (rules.word, CULTURE),
    "culture, equal": (rules.verbatim, CULTURE),
    "culture, first character": (rules.first_letter, CULTURE),
}


def questions(words: Sequence[str], count: int, seed: int) -> list[tuple[list[str], int]]:
    """Options and the place of the right one."""
    draw = random.Random(seed)
    return [(draw.sample(list(words), 4), draw.randrange(4)) for _ in range(count)]


def answered(style: Callable[[int, str, str], str], options: Sequence[str], right: int) -> str:
    return style(right, options[right], options[(right + 1) % 4])


def single(rule: rules.Rule, words: Sequence[str], style: Callable[[int, str, str], str]) -> tuple[float, float]:
    """Shares that are right by the rule and by Boda."""
    theirs = ours = 0
    for options, right in questions(words, QUESTIONS, 0):
        answer = answered(style, options, right)
        theirs += rule(answer, options) == LETTERS[right]
        ours += read_choice(answer, options) == right
    return theirs / QUESTIONS, ours / QUESTIONS


def circular(style: Callable[[int, str, str], str]) -> tuple[float, float]:
    """Of K-MMBench: shares of questions right in all four rotations; what the rule cannot read is drawn, as without a judge."""
    rows, ours = [], 0
    for base, (options, right) in enumerate(questions(THINGS, QUESTIONS // 4, 1)):
        read = []
        for turn in range(4):
            turned, place = options[turn:] + options[:turn], (right - turn) % 4
            answer = answered(style, turned, place)
            rows.append({"index": base + turn * 1_000_000, "answer": LETTERS[place], "prediction": answer, "options": turned})
            read.append(read_choice(answer, turned) == place)
        ours += all(read)
    hits = rules.circular(rows)
    return sum(hits.values()) / len(hits), ours / len(hits)


def main() -> None:
    print(f"| answer | {' | '.join(['K-MMBench (circular)', *BENCHMARKS])} |")
    print(f"| --- |{' --- |' * (len(BENCHMARKS) + 1)}")
    for name, style in STYLES.items():
        cells = [circular(style), *(single(rule, words, style) for rule, words in BENCHMARKS.values())]
        print(f"| {name} | {' | '.join(f'{100 * theirs:.1f} → {100 * ours:.1f}' for theirs, ours in cells)} |")


if __name__ == "__main__":
    main()
