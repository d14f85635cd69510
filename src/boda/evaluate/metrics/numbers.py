"""Whether an answer names the right quantity: relaxed accuracy, KO-VQA's rule, and Boda's, which reads Korean numbers."""

from __future__ import annotations

import re
import unicodedata
from decimal import Decimal
from typing import NamedTuple

from boda.evaluate.metrics.exact import same_answer

RELAXED = 0.05  # ChartQA's tolerance, of the reference

# ---- published rules ----


def relaxed_upstream(answer: str, reference: str) -> bool:
    """ChartQA's relaxed accuracy as lmms-eval has it (from Qwen-VL): both read by Python's float, a last % as hundredths: within 5 % of
    a reference that is not 0; else the same text but for case. Thousands commas and units are no numbers to it."""

    def value(text: str) -> float | None:
        try:
            return float(text.rstrip("%")) / 100.0 if text.endswith("%") else float(text)
        except ValueError:
            return None

    said, wanted = value(answer), value(reference)
    if said is not None and wanted:
        return abs(said - wanted) / abs(wanted) <= RELAXED
    return answer.lower() == reference.lower()


_PUBLISHED = re.compile(r"-?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?")


def ko_vqa_upstream(answer: str, output: str) -> bool:
    """KO-VQA's rule (Marker-Inc-Korea/KO-VLM-Benchmark, dataset/vqa_func.py): the first number of the reference `answer` is among the
    numbers of the `output`; a letter of 조 억 백 천 민 behind a number belongs to it.

    To the letter, with what follows: only that one letter counts (7,131백만 is 7131백), 만 is no unit, 2,000백 is not 20만, and the
    letter is looked for behind the first place where the number's digits stand, be it within another number.
    Where its code stops with an error, which ends the published run, the row is wrong: a reference without a number or one that
    ends in it, and an output whose number of several stands at its very end.
    """
    try:
        answer = answer.strip()
        gold = _PUBLISHED.findall(answer)[0]
        wanted = _with_unit(float(gold.replace(",", "")) if "." in gold else int(gold.replace(",", "")), _behind(answer, gold))
        found = _PUBLISHED.findall(output)
        if len(found) == 1:
            return _with_unit(_folded(found[0]), _behind(output + " ", found[0])) == wanted  # at the very end: no unit
        return wanted in [_with_unit(_folded(each), _behind(output, each)) for each in found]
    except (IndexError, ValueError, OverflowError):
        return False


def _behind(text: str, number: str) -> str:
    return text[text.find(number) + len(number)]


def _folded(number: str) -> int | float | str:
    """A number of the output; one that Python cannot hold stays text, as there."""
    number = number.replace(",", "")
    try:
        if "." not in number:
            return int(number)
        return int(float(number)) if float(number).is_integer() else float(number)
    except (ValueError, OverflowError):
        return number


def _with_unit(number: int | float | str, unit: str) -> int | float | str:
    return str(number) + unit if unit in ("조", "억", "백", "천", "민") else number


# ---- Boda's ----

SCALES = {"십": 10, "백": 100, "천": 1000, "만": 10**4, "억": 10**8, "조": 10**12, "경": 10**16}
DATES = ("년", "월", "일")
SAME_UNITS = {
    "퍼센트": "%",
    "프로": "%",
    "%포인트": "%p",
    "퍼센트포인트": "%p",
    "인": "명",
    "사람": "명",
    "달러": "$",
    "연도": "년",
    "년도": "년",
}
_UNITS = (
    """원 개 개월 명 건 대 곳 회 번 위 배 세 살 월 일 시간 시 분 초 주 가구 톤 kg g km m cm mm m2 km2 ha kwh mw °c""".split()
)
_UNIT = "|".join(map(re.escape, sorted({*_UNITS, *SAME_UNITS, *SAME_UNITS.values()}, key=len, reverse=True)))
_DIGITS = r"(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?"
# A scale ends where letters end or where another scale, a number, a unit or a particle stands: no 조 is in 5조각, no 만 in 4만큼.
_END = rf"(?=[^가-힣]|$|[{''.join(SCALES)}여이입을를은는의과와에으로정]|{_UNIT})"
# 7,131백, 2천5백, 2천 5백; falling, as 3천 4천 are two numbers
_GROUP = rf"{_DIGITS}(?:\s?[십백천]{_END}(?:(?<=천)\s?\d백{_END})?(?:(?<=[천백])\s?\d십{_END})?\d?)?"
_LARGE = "".join(rf"(?:{_GROUP}\s?{scale}{_END}\s?)?" for scale in "경조억만")  # each once, falling: 1만 2만 are two numbers
_REST = rf"(?:{_GROUP}(?!\.?\d|\s?[{''.join(SCALES)}]{_END}))?"
_QUANTITY = re.compile(rf"(?<![a-z\d])(?<!\d\.)([-−△]?)(?=\d)({_LARGE}{_REST})여?\s?({_UNIT})?(?![a-z])")
_PART = re.compile(rf"({_DIGITS})|([{''.join(SCALES)}])")


class Quantity(NamedTuple):
    value: Decimal
    unit: str  # "" where no known unit stands behind the number


def quantities(text: str) -> list[Quantity]:
    """The numbers of a Korean text in digits, with commas, 십 백 천 만 억 조 경 (7,131백만, 3만 5천, 2조 300억) and units, glued on or not.

    △ before a number is a minus, as in Korean accounts. Numbers written in letters alone (삼백) are not read, nor those behind Latin
    letters (A4).
    """
    found = []
    for sign, number, unit in _QUANTITY.findall(unicodedata.normalize("NFKC", text).lower()):
        if not number:
            continue
        total = group = last = Decimal(0)
        for digits, scale in _PART.findall(number):
            if digits:
                group += last
                last = Decimal(digits.replace(",", ""))
            elif SCALES[scale] < 10**4:
                group, last = group + last * SCALES[scale], Decimal(0)
            else:
                total, group, last = total + (group + last) * SCALES[scale], Decimal(0), Decimal(0)
        value = total + group + last
        found.append(Quantity(-value if sign else value, SAME_UNITS.get(unit, unit)))
    return found


def same_quantities(answer: str, output: str) -> bool:
    """Whether an output tells the quantities of a reference `answer`, in whatever scale (7,131백만 원 is 71억 3,100만원), with the same
    unit or with none, and no other one of the same unit: a list of all numbers of a table answers nothing.

    Dates in the reference count only if it tells nothing else; a reference without numbers is compared as text.
    """
    wanted, said = quantities(answer), quantities(output)
    if not wanted:
        return same_answer(output, answer)
    wanted = [each for each in wanted if each.unit not in DATES] or wanted
    if not all(any(_same(each, other) for other in said) for each in wanted):
        return False
    units = {each.unit for each in wanted}
    return all(any(_same(each, other) for each in wanted) for other in said if other.unit in units)


def relaxed(answer: str, reference: str) -> bool:
    """Relaxed accuracy that reads Korean numbers: the one quantity that an answer tells, of a unit that the reference may have, is
    within 5 % of the reference; years (년, or whole numbers from 1900 to 2099 without a unit) and 0 are exact, and so is text that is
    no single quantity."""
    wanted = quantities(reference)
    if len(wanted) != 1 or not _QUANTITY.fullmatch(unicodedata.normalize("NFKC", reference).strip().lower()):
        return same_answer(answer, reference)
    value, unit = wanted[0]
    fit = [each for each in quantities(answer) if _fit(each.unit, unit) and (each.unit not in DATES or unit in DATES)]
    if len(fit) != 1:
        return False
    year = unit == "년" or (not unit and value == int(value) and 1900 <= value < 2100)
    return fit[0].value == value if year else abs(fit[0].value - value) <= abs(value) * Decimal(str(RELAXED))


def _fit(unit: str, other: str) -> bool:
    return unit == other or not (unit and other)


def _same(one: Quantity, other: Quantity) -> bool:
    return one.value == other.value and _fit(one.unit, other.unit)
