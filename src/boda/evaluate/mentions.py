"""Where an answer names the options of a multiple-choice question, by label or by text, however it is spelled."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import lru_cache
from string import ascii_lowercase, digits

from boda.evaluate.metrics.exact import stems

# An option's text; 예 or 아니요; (B), B번, 보기 B, B; what counts only where nothing else can be meant: 2, 나, 두 번째, the B of B 지역.
TEXT, REPLY, LABEL, FAINT = range(4)
NEITHER = -1  # the index of a label that no option has, and of a text that several have


@dataclass(frozen=True)
class Mention:
    """An option named in `said[start:end]`, particles not counted."""

    start: int
    end: int
    index: int
    kind: int


# "It is X", and all that may be glued to a noun: a chain of up to three, then the word ends.
IT_IS = (
    "(?:입니다|이에요|예요|에요|이다|임|이야|야|이죠|죠|이지요|이네요|네요|이요|요|"
    "이?라고 (?:봅니다|생각합니다|생각해요|답하겠습니다))"
)
_PARTICLES = (
    "은 는 이 가 을 를 의 에 에서 에게 로 으로 와 과 도 만 하고 처럼 보다 까지 부터 뿐 들 쪽 번 인 일 인데 인데요 "
    "인가요 일까요 인지 일지 인듯 인듯합니다 일겁니다 일거예요 였습니다 였다 였어요 입니까 입니다만"
).split()
_PARTICLES += [  # these come with 이 before them, too
    before + each
    for each in (
        "라 라고 라는 란 지만 며 므로 라서 고 고요 거든요 기 었습니다 었다 었어요 니까 군요 겠네요 겠습니다 랍니다 자 거나 나 랑"
    ).split()
    for before in ("", "이")
]
WORD_END = r"(?![가-힣a-z0-9])"
_OPEN = "".join(chr(code) for code in range(ord("가"), ord("힣") + 1, 28))  # syllables that end in a vowel
_ENDING_IN_B = "".join(chr(code) for code in range(ord("갑"), ord("힣") + 1, 28))  # 갑, 겁, ... 합
GLUED = re.compile(
    rf"(?:{'|'.join(sorted({*_PARTICLES}, key=len, reverse=True))}|{IT_IS}){{0,3}}(?:(?<=[{_OPEN}a-z0-9])다(?=\s*[.!]))?{WORD_END}"
)
# 나 and 다 begin other words (나는, 다만, 사과, 바로): what may follow where they are letters of a list.
_GLUED_LETTER = re.compile(
    rf"(?:{IT_IS}|번|[이가은는을를](?=\s*(?:정답|답|맞|옳|적절|선택|고르|골|택|아니)))?{WORD_END}|와(?=\s*[가-하ㄱ-ㅎ]{WORD_END})"
)
_LOOK_ALIKES = "개인 새로 말고 차이 사이".split()  # words of their own, not 개 + 인

_COUNTED = dict(zip("한 두 세 네 다섯 여섯 일곱 여덟 아홉 열".split(), range(1, 11)))
_COUNTERS = "개|마리|명|사람|대|권|장|잔|병|그루|송이|채|켤레|벌|살|층|자루|접시|가지|쌍|줄|조각|척|시|시간|분"
_ORDINALS = {"첫": 1, **_COUNTED, "first": 1, "second": 2, "third": 3, "fourth": 4, "fifth": 5}
_LAST = "마지막"
_LATIN, _HANGUL, _JAMO = ascii_lowercase, "가나다라마바사아자차", "ㄱㄴㄷㄹㅁㅂㅅㅇㅈㅊ"  # the orders in which exams count
_NOUN = r"(?:보기|선택지|선지|옵션|문항|항목|답안|options?|choices?)"
# What stands before and after a letter in English; "a cat" and "vitamin c" have no label in them.
_BEFORE_LETTER = (
    "it's is are be option answer choose select pick with and or not but than letter say therefore so hence thus both either neither"
).split()
_AFTER_LETTER = "is are was and or because since as but looks seems would should matches with not".split()
_NAMED_BY_LETTER = re.compile(
    r"(?:비타민|혈액형|그룹|팀|구역|지점|점|건물|등급|선분|도시|지역|변수|제품|회사|카드|플랜|비행기)\s*\Z"
)
_AFTER_BARE = re.compile(
    r"\s*(?:\Z|[^\s가-힣a-z0-9]|\n)|\s+(?:같|정답|답|맞|옳|선택|고르|골|택|라|인 |일 |이 |가 |입|예|및|또는|혹은|"
    r"대신|말고|제외|빼고|그리고|모두|둘|중|or|and|is)"
)

# What makes a letter or number part of something longer.
_PART_BEFORE = re.compile(r"(?:[가-힣a-z0-9]|[a-z0-9][-_.':]|\d[/,]|[a-z0-9]{2}[/,]|-)\Z")
_PART_BEFORE_BRACKET = re.compile(r"[a-z0-9]\Z")
_PART_AFTER = re.compile(r"[-.,:/]\d|'[a-z]|[_+#%℃°]|-[a-z]|\.[a-z]\b")
_WORD_BEGINS = re.compile(r"(?:\A|[\s:=,/·>-])[\"']?\Z")

_YES, _NO = ("예", "네", "yes"), ("아니요", "아니오", "아뇨", "no")
_ALSO_YES, _ALSO_NO = (
    ("그렇습니다", "그래요"),
    ("아닙니다", "그렇지 않습니다", "그렇지 않아요"),
)  # said of a question that has these options
_REPLY_BEGINS = r"(?:\A|(?<=[\n.!?:\"'(,])|(?<=[.!?:,] )|(?<=[은는답] )|(?<=is ))"
_REPLY_ENDS = (
    rf"(?=\s*(?:{IT_IS}{WORD_END}|[^\w\s]|\n|\Z)|[가이] (?:정답|맞)|가 아니|이?라고| (?!그리고|또는|{_COUNTERS})[가-힣a-z])"
)
_ABLE = "알|판단할|확인할|답할|답변할|결정할|파악할|구분할|식별할"
UNKNOWN = (
    rf"(?:(?:{_ABLE}) 수(?:가|는)? 없(?:겠)?(?:음|습니다|다|어요|네요|는데요)?|모르겠(?!지만|으나)\S*|모른다|모름|모릅니다|"
    r"(?:알기|판단하기|확인하기|답하기|답변하기)(?:가|는)? 어렵(?!지만|으나)\S*|(?:판단|확인|파악) ?불가\S*|정보가? 부족\S*|"
    r"(?:can ?not|can't) (?:be determined|tell|answer|know)|(?:i )?don't know|not enough information|unknown)"
)


def mentions_in(answer: str, options: Sequence[str]) -> list[Mention]:
    """Mentions in order, none over another: the longer one stays, of two as long the text. All arguments went through `plain`."""
    said, texts = lower(answer), [lower(option) for option in options]
    found: dict[tuple[int, int, int], set[int]] = {}
    for index, text in enumerate(texts):
        kind = REPLY if text.strip(" .,!") in (*_YES, *_NO) else TEXT
        for start, end in () if text in [*_LATIN[: len(texts)]] else _places(said, text):
            found.setdefault((start, end, kind), set()).add(index)
    named = {start for start, _, _ in found}
    for mention in _labels(said, texts, named):
        found.setdefault((mention.start, mention.end, mention.kind), set()).add(mention.index)
    kept: list[Mention] = []
    free = [True] * len(said)
    for (start, end, kind), indices in sorted(
        found.items(), key=lambda each: (each[0][0] - each[0][1], each[0][2], each[0][0])
    ):
        if all(free[start:end]):
            free[start:end] = [False] * (end - start)
            if len(indices) > 1:  # options that differ by case alone, as Co and CO, are told apart by it
                indices = {index for index in indices if options[index] == answer[start:end]}
            kept.append(Mention(start, end, min(indices) if len(indices) == 1 else NEITHER, kind))
    return sorted(kept, key=lambda mention: mention.start)


# --- texts


def _places(said: str, text: str) -> list[tuple[int, int]]:
    """Where an option's text stands as a whole word, with or without particles."""
    places = []
    for spelling in _spellings(text):
        for match in re.finditer(spelling, said):
            glued = GLUED.match(said, match.end())
            if not glued or text in _LOOK_ALIKES or said[match.start() : glued.end()] not in _LOOK_ALIKES:
                places.append(match.span())
    return places


@lru_cache(maxsize=4096)
def _spellings(text: str) -> list[str]:
    """Patterns of what says an option: its words, without an article or "it is", a sentence in other styles of speech."""
    words = text.strip(" \n.,!?;:…\"'") or text
    if not re.search(r"\w", words):
        return []
    if words in (*_YES, *_NO):  # never the 예 of 예를 들어 or the 네 of 네 가지
        said_so = (*_YES, *_ALSO_YES) if words in _YES else (*_NO, *_ALSO_NO)
        return [f"{_REPLY_BEGINS}(?:{'|'.join(said_so)}){_REPLY_ENDS}"]
    said = {words, *stems(words, False), re.sub(r"^(?:an?|the) (?=\S)", "", words)}
    said |= {style for style in _styles(words) if " " in words or style.endswith(("니다", "요"))}
    patterns = [_as_words(each) for each in sorted(said) if each]
    if measured := re.fullmatch(r"(\d[\d.]*)\s?(?:[%℃°]|[가-힣]{1,2}|[a-z]{1,3})", words):  # the unit is not always repeated
        patterns.append(
            rf"(?<![가-힣a-z0-9])(?<!\d[.:/])(?<!-){re.escape(measured[1])}(?![.:/]\d)(?={IT_IS}?{WORD_END})(?!\s?[%℃°])"
        )
    return [*patterns, UNKNOWN] if re.search(UNKNOWN, words) else patterns


def _as_words(words: str) -> str:
    """A pattern for words: spaces as one likes, no part of a longer word or number."""
    before = r"(?<![가-힣a-z0-9])" if re.match(r"\w", words) else ""
    before += r"(?<!\d[.:/])(?<!-)" if words[0].isdigit() else ""
    after = r"(?!\s?[%℃°])(?![.:/]\d)" if words[-1].isdigit() else ""
    counted = f"(?:{_COUNTERS}|년|월|일|원|점|세|회)?" if words.isdigit() else ""
    spaced = r"\s*".join(map(re.escape, words.split()))
    return f"{before}{spaced}{after}(?={counted}{GLUED.pattern})"


def _styles(sentence: str) -> set[str]:
    """있다, 있습니다, 있어요, 있음 say the same; so do 한다, 하다, 합니다, 함."""
    ended = re.fullmatch(rf"(.*?[가-힣])(습니다|(?<=[{_ENDING_IN_B}])니다|는다|다|어요|아요|음)", sentence)
    stem, ending = (ended[1], ended[2]) if ended else (sentence, "")
    final = (ord(stem[-1]) - ord("가")) % 28 if "가" <= stem[-1] <= "힣" else 0
    if (ending, final) in (("니다", 17), ("다", 4), ("다", 0), ("", 16)):  # ㅂ, ㄴ, none, ㅁ
        vowel = ord(stem[-1]) - final
        return {stem[:-1] + chr(vowel + each) + rest for each, rest in ((17, "니다"), (4, "다"), (0, "다"), (16, ""))}
    return {stem + each for each in ("습니다", "다", "는다", "어요", "아요", "음")} if ending not in ("", "니다") else set()


# --- labels


def _system(name: str) -> str:
    """What a label counts by: digits, or the letters of one of the orders; "" for a word."""
    if name.isdigit():
        return digits
    return next((letters for letters in (_LATIN, _HANGUL, _JAMO) if len(name) == 1 and name in letters), "")


def _labels(said: str, texts: Sequence[str], named: Collection[int]) -> list[Mention]:
    """Letters, numbers, Korean letters and ordinals.

    Where options are numbers, a bare number is none of this, and so for letters beyond the options'. `named`: where texts begin.
    """
    letters = _LATIN[: len(texts)]
    as_texts = {_system(text) for text in texts} - {""}
    indices: dict[str, int] = {}
    for place in range(max(len(texts), 8)):
        index = place if place < len(texts) else NEITHER
        indices |= {str(place + 1): index} | dict.fromkeys(_LATIN[place : place + 1], index)
        indices |= {order[place]: place for order in (_HANGUL, _JAMO) if index != NEITHER and place < len(order)}
    names = "|".join(map(re.escape, sorted(indices, key=len, reverse=True)))
    found = [
        Mention(match.start(), match.end(), indices[match["name"]], kind)
        for match in re.finditer(
            rf"(?P<noun>{_NOUN}\s*(?:번호\s*)?)?(?P<open>[(\[{{<]\s*)?(?P<name>{names})(?P<close>\s*[)\]}}>])?"
            rf"(?P<times>(?:\s*번(?!째)(?:\s*{_NOUN})?)*)",
            said,
        )
        if (kind := _label_kind(said, match, match["name"] not in letters and _system(match["name"]) in as_texts, named))
        is not None
    ]
    for match in re.finditer(
        rf"\b({'|'.join(_ORDINALS)}|{_LAST}|\d)(?:\s*번째(\s*{_NOUN})?| ({_NOUN}|answer|one))(?={GLUED.pattern})", said
    ):
        place = int(match[1]) if match[1].isdigit() else _ORDINALS.get(match[1], len(texts))
        if 1 <= place <= len(texts) and (match[1].isascii() or match[1] == _LAST or not match[3]):
            found.append(Mention(match.start(), match.end(), place - 1, LABEL if match[2] or match[3] else FAINT))
    return found


def _label_kind(said: str, match: re.Match, is_text: bool, named: Collection[int]) -> int | None:
    """How surely this is a label, None where it is none; `is_text`: bare, it would be what an option says."""
    name, before, after = match["name"], said[max(0, match.start() - 32) : match.start()], said[match.end() : match.end() + 32]
    is_latin, is_number = _system(name) == _LATIN, name.isdigit()
    is_place = bool(match["noun"] or match["times"])
    is_bracketed = bool(match["open"] and match["close"])
    if (is_text and not is_place) or (_PART_BEFORE_BRACKET if match["open"] else _PART_BEFORE).search(before):
        return None
    if _PART_AFTER.match(after):
        return None
    if not (name.isascii() or match["open"] or _WORD_BEGINS.search(said[: match.start("name")][-3:])):
        return None  # the particle of 보기가, of 15%가, of '고양이'가
    is_sign = is_place or (is_bracketed and not is_number)
    glued = (GLUED if is_sign or is_latin or is_number else _GLUED_LETTER).match(said, match.end())
    if not glued:
        return None
    if not is_sign and (is_latin or is_number) and not match["close"]:
        last, following = re.search(r"([a-z']{2,}) \Z", before), re.match(r" ([a-z']{2,})", after)
        if (last and last[1] not in _BEFORE_LETTER) or (following and following[1] not in _AFTER_LETTER):
            return None
    begins_text = match.end() + len(after) - len(after.lstrip()) in named
    is_attribute = not (glued[0] or begins_text or _AFTER_BARE.match(after)) or _NAMED_BY_LETTER.search(before)  # B 지역, 점 A
    if not (is_sign or is_latin) or (is_attribute and not match["noun"]):
        return FAINT
    return LABEL


# --- spelling


def plain(text: str) -> str:
    """One spelling of all: NFC, ASCII for full-width letters, ② as 2번, two dogs counted as 2, no marks of emphasis."""
    text = unicodedata.normalize("NFC", text)
    text = re.sub(r"[^\x00-\x7f가-힣ㄱ-ㆎ]", lambda match: _plain_sign(match[0]), text)
    text = re.sub(r"(\d)\s*\u20e3", " \\1번\0", text)
    text = re.sub(f"\0(?={GLUED.pattern})", "", text).replace("\0", " ")  # ②가 and ②고양이
    text = re.sub(r"[^\S\n]+", " ", text)
    text = re.sub(r"\*\*+|__+|`+|^[ \t]*#+ |\$(?=\s*\(?\w\)?\s*\$)|(?<=[\w)])\$(?!\w)", "", text, flags=re.MULTILINE)
    text = re.sub(r"(?<![\w*])\*(?=\S)([^*\n]+)(?<=\S)\*", r"\1", text)
    text = re.sub(r"(?<=\d),(?=\d{3}(?!\d))", "", text)
    text = re.sub(r"(?<![가-힣])(정답은|답은|정답|보기)(?=[A-Za-z0-9(])", r"\1 ", text)
    text = re.sub(
        rf"(?<![가-힣])({'|'.join(_COUNTED)})\s?(?=(?:{_COUNTERS}){GLUED.pattern})", lambda match: str(_COUNTED[match[1]]), text
    )
    text = re.sub(rf"(?<=\d)\s+(?=(?:{_COUNTERS}){GLUED.pattern}|[%℃°])", "", text).replace("퍼센트", "%")
    return re.sub(r"\s*\n\s*", "\n", re.sub(r"[^\S\n]+", " ", text)).strip()


def lower(text: str) -> str:
    """Lower case, letter by letter, so that places stay what they are."""
    return "".join(small if len(small := letter.lower()) == 1 else letter for letter in text)


def _plain_sign(sign: str) -> str:
    if unicodedata.category(sign) in ("Co", "Cs", "Cn"):
        return " "
    if unicodedata.category(sign) in ("Cf", "Mn"):
        return ""
    if sign in "“”„‟«»「」『』《》〈〉":
        return '"'
    if sign in "‘’":
        return "'"
    compatible = unicodedata.normalize("NFKC", sign)
    compatible = re.sub(
        "[ᄀ-ᄒ]", lambda match: "ㄱㄲㄴㄷㄸㄹㅁㅂㅃㅅㅆㅇㅈㅉㅊㅋㅌㅍㅎ"[ord(match[0]) - ord("ᄀ")], compatible
    )
    number = unicodedata.digit(sign, None)
    if compatible == sign and number is not None:  # ❷
        return f" {number}번\0"
    return f" {compatible}번\0" if unicodedata.decomposition(sign).startswith("<circle>") else compatible
