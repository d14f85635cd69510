"""Korean-English sentence pairs and tables of names -> documents that hold both languages, each in both orders.

What links the two languages in a model's knowledge (https://arxiv.org/abs/2403.10882): the same thing said in both, side by side
in one document. A row gives a document for each order, because a model learns to say only what comes second from what comes
first; a data block's `weight: 0.5` takes each row once an epoch on average.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

from boda.data.files import Place, matching
from boda.data.rows import Rows, lines
from boda.data.sample import Message, Part, Sample
from boda.data.sources.common import Options, Row, file_rows
from boda.data.templates import Template
from boda.errors import BodaError

SIDES = {"ko": ("ko", "korean", "kor", "한국어"), "en": ("en", "english", "eng", "영어")}
UNNAMED = (("src", "tgt"), ("source", "target"))  # which of the two is Korean is told from the row
COLUMNS = {*SIDES["ko"], *SIDES["en"], *UNNAMED[0], *UNNAMED[1], "links", "ko_text", "en_text"}
KOREAN_LINES = (".ko", ".kr", ".kor", ".nk")  # endings of files whose lines are aligned with those of the .en file beside them
_BOTH = re.compile(r"\{(?:(en),[^{},/]+|[^{},/]+,en)\}(?!.*\.(?:jsonl?|[ct]sv|parquet)(?:\.gz)?$)")


def _templates(korean: list[str], english: list[str]) -> dict[str, Template]:
    return {"ko": Template(korean), "en": Template(english)}


# How a document says a text and its translation, the Korean or the English one first.
TRANSLATED = _templates(
    [
        "{ko}\n{en}",
        "한국어: {ko}\n영어: {en}",
        "한국어: {ko}\nEnglish: {en}",
        "질문: 다음을 영어로 옮기면 어떻게 될까?\n{ko}\n답: {en}",
    ],
    [
        "{en}\n{ko}",
        "English: {en}\nKorean: {ko}",
        "영어: {en}\n한국어: {ko}",
        "Q: How do you say this in Korean?\n{en}\nA: {ko}",
    ],
)
TOGETHER = _templates(["{ko}\n{en}"], ["{en}\n{ko}"])  # texts on one thing that do not translate each other
# How names alone are linked, in Korean and in English.
NAMED = _templates(
    [
        "{ko:은는} 영어로 {en:이라고/라고} 한다.",
        "{ko:을를} 영어로는 {en:이라고/라고} 쓴다.",
        "‘{ko}’에 해당하는 영어는 ‘{en}’이다.",
    ],
    ["In Korean, {en} is called {ko}.", "The Korean name of {en} is {ko}.", "The Korean for “{en}” is “{ko}”."],
)
# What may stand behind a name in its own word: particles, also in a row, and the copula.
_PARTICLES = (
    "은 는 이 가 을 를 과 와 의 에 에서 에게 에게서 께 께서 한테 한테서 로 으로 로서 으로서 로써 으로써 로부터 으로부터 부터 까지 도 "
    "만 뿐 조차 마저 마다 처럼 만큼 같이 보다 대로 밖에 나 이나 든지 이든지 라도 이라도 랑 이랑 하고 며 이며 고 이고 란 이란 "
    "라는 이라는 라고 이라고 인 이다 다 이었다 였다 이었던 였던 이던 일 입니다 이에요 예요 이자 자 아 야 여"
).split()
_TAIL = rf"(?=(?:{'|'.join(sorted(_PARTICLES, key=len, reverse=True))}){{0,3}}(?![가-힣\w]))"


def is_two_files(place: Place) -> bool:
    """Whether a place stands for two files of aligned lines: `a.{ko,en}`, or `a.ko` with `a.en` beside it."""
    return bool(_BOTH.search(str(place))) or (place.suffix in KOREAN_LINES and place.is_file)


def two_files(place: Place) -> tuple[Place, Place]:
    """The files of aligned lines, the Korean one first. Raises BodaError where there are no two."""
    if both := _BOTH.search(str(place)):
        files = [Place.of(name) for name in matching(str(place))]
        if len(files) != 2:
            raise BodaError(f"{place}: two files are needed, one of Korean and one of English lines; there are {len(files)}")
        return (files[1], files[0]) if both[1] else (files[0], files[1])
    name = str(place).removesuffix(".gz").removesuffix(place.suffix)
    found = [each for end in (".en", ".en.gz") if (each := Place.of(name + end)).is_file]
    if not found:
        raise BodaError(f"{place}: English lines are looked for beside it, in a file that ends in .en, and there is none")
    return place, found[0]


def rows(options: Options) -> Rows:
    """Rows of a table or JSON file; of two files of aligned lines a row a line, empty in both passed over.

    Raises BodaError where the files have different numbers of lines: no line could be trusted then.
    """
    place = options.place
    if not is_two_files(place):
        if place.suffix == ".en":
            raise BodaError(f"{place}: name the Korean file, or both as NAME.{{ko,en}}")
        yield from file_rows(options)
        return
    pair = two_files(place)
    counts = [sum(1 for _ in _lines(each)) for each in pair]
    if counts[0] != counts[1]:
        said = " and ".join(f"{each} has {count:,} lines" for each, count in zip(pair, counts))
        raise BodaError(f"{said}; aligned files have a line for a line")
    for number, (korean, english) in enumerate(zip(*map(_lines, pair))):
        if korean.strip() or english.strip():
            yield number, {"ko": korean, "en": english}


def _lines(place: Place) -> Iterator[str]:
    with place.open_text() as stream:
        yield from (line.rstrip("\r\n") for _, line in lines(stream, str(place), ""))


def samples(row: Row) -> Iterable[Sample]:
    """A pair as two documents, Korean first and English first, each side whole; names in `links` are linked in the Korean."""
    sides = _sides(row)
    if sides["ko"].strip() == sides["en"].strip():
        raise row.bad("en", "both sides are one text, so one of them is no translation; drop the row")
    sides["ko"] = linked(sides["ko"], _links(row, sides["ko"]))
    return _documents(row, sides, TRANSLATED)


def link_samples(row: Row) -> Iterable[Sample]:
    """A pair of names as two documents: with `ko_text` or `en_text` these with the name linked, both in each; else a sentence each."""
    names = _sides(row)
    korean, english = (name.strip() for name in names.values())
    if korean == english:
        raise row.bad("en", f"'{korean}' is the name in both languages, so nothing is linked; drop the row")
    mentioned = {"ko": (korean, english), "en": (english, korean)}
    texts = {
        side: linked(row.text(text, f"{side}_text"), [pair], headed=True)
        for side, pair in mentioned.items()
        if (text := row.get(f"{side}_text")) is not None
    }
    stated = {side: template.fill({"ko": korean, "en": english}, row.id) for side, template in NAMED.items()}
    if not texts and not (row.options.question or row.options.answer):
        return [_document(row, text) for text in stated.values()]
    return _documents(row, (stated if texts else names) | texts, TOGETHER)


def linked(text: str, names: list[tuple[str, str]], headed: bool = False) -> str:
    """The text with the other name in brackets behind the first mention of each: 세종대왕(King Sejong)은, King Sejong (세종대왕) was.

    A particle stays right, for it agrees with the word before the bracket. A mention is a word of its own: 서울 is none of 서울역. A
    name that is not mentioned is left alone or, if `headed`, heads the text.
    """
    found: list[tuple[int, int, str]] = []
    missing: list[tuple[str, str]] = []
    for name, other in sorted(names, key=lambda pair: -len(pair[0])):  # of two that begin alike the longer one
        for match in _mention(name).finditer(text):
            if all(match.end() <= start or match.start() >= end for start, end, _ in found):
                found.append((*match.span(), other))
                break
        else:
            missing.append((name, other))
    for start, end, other in sorted(found, reverse=True):
        if not text[end:].lstrip(" ").startswith(("(", "（")):  # it says already what else it is called
            text = f"{text[:end]}{_bracket(text[start:end], other)}{text[end:]}"
    heads = "".join(f"{name}{_bracket(name, other)}: " for name, other in missing) if headed else ""
    return heads + text


def _bracket(name: str, other: str) -> str:
    return f"({other})" if re.search("[가-힣]", name) else f" ({other})"


def _mention(name: str) -> re.Pattern:
    """A name as a word: with a particle behind it at most, where it is Korean; in any case of letters, where it is not."""
    tail = _TAIL if re.search("[가-힣]$", name) else r"(?![\w’'-])"
    return re.compile(rf"(?<![\w-]){re.escape(name)}{tail}", re.IGNORECASE)


def _sides(row: Row) -> dict[str, str]:
    """{ko, en} of a row, as they are. Raises BadRow for one that is missing or empty."""
    cells = row.cells
    for names in UNNAMED:
        if set(names) <= set(cells) and not any(set(SIDES[side]) & {*cells, *row.options.columns} for side in SIDES):
            texts = [row.text(row.need(name), name) for name in names]
            shares = [len(re.findall("[가-힣]", text)) / len(text) for text in texts]
            if shares[0] == shares[1]:
                raise row.bad(
                    names[0], f"neither {names[0]} nor {names[1]} is seen to be the Korean one; say which with columns:"
                )
            return dict(zip(SIDES, texts if shares[0] > shares[1] else reversed(texts)))
    return {side: row.text(row.need(*names), side) for side, names in SIDES.items()}


def _links(row: Row, text: str) -> list[tuple[str, str]]:
    """The pairs in `links`. Raises BadRow for one that is none, or whose Korean name the text does not have."""
    links: Any = row.get("links") or []
    if not isinstance(links, list):
        raise row.bad("links", "a list of [Korean name, English name] is needed")
    for number, link in enumerate(links):
        if not (isinstance(link, (list, tuple)) and len(link) == 2 and all(isinstance(n, str) and n.strip() for n in link)):
            raise row.bad(f"links[{number}]", "two names, [Korean, English], are needed")
        if link[0] not in text:
            raise row.bad(f"links[{number}]", f"the Korean side does not have '{link[0]}'; write the name as it stands there")
    return [(korean, english) for korean, english in links]


def _documents(row: Row, sides: dict[str, str], wordings: dict[str, Template]) -> list[Sample]:
    """Both sides in one text, in either order. With templates of the recipe's own, `question` says the Korean and `answer` the English."""
    options = row.options
    if options.question or options.answer:
        korean = row.fill(options.question, "question") if options.question else sides["ko"]
        english = row.fill(options.answer, "answer") if options.answer else sides["en"]
        return [_document(row, f"{korean}\n{english}"), _document(row, f"{english}\n{korean}")]
    return [_document(row, template.fill(sides, row.id)) for template in wordings.values()]


def _document(row: Row, text: str) -> Sample:
    return row.sample([Message("assistant", (Part("text", text),))])
