"""Korean particles: which of 은/는, 이/가, 을/를 follows a word, so that templates read naturally."""

from __future__ import annotations

import re

_PAIRS = "은/는 이/가 을/를 과/와 으로/로 이다/다 이에요/예요 이었다/였다 이며/며 이고/고 이라/라 이랑/랑 이나/나 아/야".split()
# After a final consonant, after a vowel.
PARTICLES = {pair.replace("/", ""): pair.split("/") for pair in _PAIRS}

_ASIDE = re.compile(r"\s*[(\[（［][^()\[\]（）［］]*[)\]）］]\s*$")  # a particle agrees with the word before a bracket
_NOT_SAID = re.compile(r"[\s\"'’”》」』〉>.,!?~…·*_`)\]]+$")
_NUMBER = re.compile(r"(?:\d[\d,]*)(?:\.(\d+))?$")
_DIGIT_FINALS = {"0": "ㅇ", "1": "ㄹ", "2": "", "3": "ㅁ", "4": "", "5": "", "6": "ㄱ", "7": "ㄹ", "8": "ㄹ", "9": ""}
# 십 백 천 만 억 조 경: the last unit named in a number that ends in so many zeros.
_ZERO_FINALS = (("ㅂ", 1), ("ㄱ", 2), ("ㄴ", 3), ("ㄴ", 7), ("ㄱ", 11), ("", 15), ("ㅇ", 19))
_LETTER_FINALS = {"L": "ㄹ", "M": "ㅁ", "N": "ㄴ", "R": "ㄹ"}  # 엘 엠 엔 알; every other letter's name ends in a vowel
_SIGNS = dict.fromkeys("%℃°$€㎞㎡㎝㎜+#", "") | {"₩": "ㄴ", "㎏": "ㅁ"}
_UNITS = {"kg": "ㅁ", "g": "ㅁ", "mg": "ㅁ", "km": "", "m": "", "cm": "", "mm": "", "l": "", "ml": ""}


def final_consonant(word: str) -> str | None:
    """The consonant the word is said to end in: "" after a vowel, None where the reading is unknown.

    Only ㄹ (for 으로/로) matters among consonants; others come back as some consonant.
    """
    stripped = word
    while (shorter := _ASIDE.sub("", stripped)) != stripped and shorter.strip():
        stripped = shorter
    stripped = _NOT_SAID.sub("", stripped) or stripped.strip()
    if not stripped:
        return None
    last = stripped[-1]
    if "가" <= last <= "힣":
        return {0: "", 8: "ㄹ"}.get((ord(last) - ord("가")) % 28, "ㅇ")
    if "ㄱ" <= last <= "ㅎ":  # letters by name: 기역, 니은, 리을, ...
        return "ㄹ" if last == "ㄹ" else "ㅇ"
    if "ㅏ" <= last <= "ㅣ":
        return ""
    if last in _SIGNS:
        return _SIGNS[last]
    if last.isascii() and last.isdigit():
        return _number_final(stripped)
    if last in "²³":  # 제곱미터, but 3² is 3의 제곱
        return "" if stripped[:-1].endswith("m") else "ㅂ"
    if last.isascii() and last.isalpha():
        return _latin_final(stripped)
    return None


def with_particle(word: str, particle: str) -> str:
    """`word` followed by the fitting form of `particle` (a key of PARTICLES, or two forms as "은/는")."""
    key = particle.replace("/", "")
    with_final, without = PARTICLES.get(key) or particle.split("/")
    final = final_consonant(word)
    if final is None:  # both forms, as they are customarily written
        return word + (f"({with_final[0]}){without}" if with_final[1:] == without else f"{with_final}({without})")
    takes_final = final and not (with_final == "으로" and final == "ㄹ")
    return word + (with_final if takes_final else without)


def is_particle(spec: str) -> bool:
    """Whether a format spec names a particle: a key of PARTICLES, or two Hangul forms with a slash between."""
    return spec in PARTICLES or bool(re.fullmatch(r"[가-힣]+/[가-힣]+", spec))


def _number_final(text: str) -> str:
    """Final of a number read in Sino-Korean; digits after a point are read one by one."""
    match = _NUMBER.search(text)
    assert match
    if match[1]:
        return _DIGIT_FINALS[match[1][-1]]
    digits = match[0].replace(",", "")
    zeros = len(digits) - len(digits.rstrip("0"))
    if zeros == 0 or zeros == len(digits):
        return _DIGIT_FINALS[digits[-1]]
    return next((final for final, most in _ZERO_FINALS if zeros <= most), "ㅇ")


def _latin_final(text: str) -> str:
    """Final of a Latin word: capitals by the letter's name, units by theirs, the rest as loanwords are usually written."""
    word = re.search(r"[A-Za-z]+$", text)[0]  # type: ignore[index]
    if re.search(r"\d\s*$", text[: -len(word)]) and word in _UNITS:
        return _UNITS[word]
    if word.isupper():
        return _LETTER_FINALS.get(word[-1], "")
    lower = word.lower()
    if re.search(r"l$|.le$", lower):  # 호텔, 애플, 파일
        return "ㄹ"
    # 룸, 핀, 킹, 게임; 컵, 캣, 록, 북
    closed = re.search(r"[mn]$|ng$|[aeiou][mn]e$|(^|[^aeiou])[aeiou](ck|[bckpt])$|ook$", lower)
    return "ㅇ" if closed else ""


def formality(text: str) -> str:
    """How an answer ends: "polite" (해요체, 합쇼체), "plain" (해라체; 해체 with a mark after it), "" where it is no sentence."""
    said = re.sub(r"\W+$", "", text)
    formal = len(said) > 2 and said.endswith(("니다", "니까")) and (ord(said[-3]) - ord("가")) % 28 == 17  # ㅂ니다, not 아니다
    if formal or re.search(r"(?<![필중수주소개])요$|십?시오$|죠$", said):
        return "polite"
    is_closed = len(said) < len(text.rstrip())  # a mark tells a verb's end from a word's: 바다 is the sea
    ending = "[다해래돼야어아여려워줘봐와져지네자냐니군까라]$" if is_closed else "다$" if " " in said else r"(?!)"
    return "plain" if re.search(ending, said) else ""
