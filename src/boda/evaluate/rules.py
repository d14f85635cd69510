"""Rules by which published benchmarks read a multiple-choice answer, to the letter, with what they get wrong.

Each rule takes the answer and the options and gives the letter it reads ("" for none). Boda's own reading is `choice.read_choice`.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

LETTERS = "ABCDE"
Rule = Callable[[str, Sequence[str]], str | None]  # None leaves the row out


def first_character(answer: str, options: Sequence[str] = ()) -> str:
    """K-SEED, K-DTCBench (lmms-eval seedbench/ko_utils.py, dtcbench/utils.py): the first character, whatever it is."""
    return answer.strip()[:1].upper()


def opening(answer: str, options: Sequence[str] = ()) -> str:
    """K-MMStar until 2025 (lmms-eval mmstar/utils.py, exact_match_ko): one character after one of four openings.

    The rule compares with the gold answer, one opening after another; no two of them can hold of an answer with different letters.
    """
    said = answer.lower().replace("\n", " ").strip()
    for before in ("(", "옵션 ", "정답은 "):
        if said.startswith(before):
            return said[len(before) :][:1].upper()
    return said[:1].upper()


# What is stripped from the ends, one after another, and the phrases after which a letter is looked for.
_STRIPPED = ",.!?;:'\""
_PHRASES = (
    *(f"{the}{kind}{noun} is" for the in ("the ", "") for kind, noun in (
        ("", "answer"), ("correct ", "answer"), ("best ", "answer"), ("correct ", "option"), ("best ", "option"),
        ("", "choice"), ("correct ", "choice"),
    )),
    *("i choose", "i select", "i pick", "my answer is", "my choice is"),
    *("옵션", "정답은", "답은", "답:", "答案是", "答案为", "选", "答えは"),
)  # fmt: skip


def ranked(answer: str, options: Sequence[str] = ()) -> str:
    """K-MMStar (lmms-eval _task_utils/mcq_extract.py at c228e27; later versions read otherwise): of all letters found in ten formats,
    the last of the best format.

    Formats, best first: a letter that starts the answer, ends it, follows a phrase, (A), A., A:, A), A and a space, any.
    """
    text = answer.strip()
    for sign in _STRIPPED:
        text = text.strip(sign)
    if not answer.strip():
        return ""
    text = f" {text} "
    bare = text.strip()
    found: list[tuple[int, int, str]] = []  # rank, position, letter
    for rank, form in ((6, "({})"), (5, "{}."), (4, "{}:"), (3, "{})"), (2, "{} ")):
        found += [(rank, text.rfind(form.format(letter)), letter) for letter in LETTERS[:4] if form.format(letter) in text]
    lowered = text.lower()
    for phrase in _PHRASES:
        at = lowered.find(phrase)
        if at >= 0:
            places = [(text.find(letter, at + len(phrase)), letter) for letter in LETTERS[:4]]
            found += [(7, place, letter) for place, letter in places if place >= 0]
    found += [(10, 0, letter) for letter in LETTERS[:4] if bare.startswith(letter) and not bare[1:2].isalpha()]
    found += [(9, len(text) - 1, letter) for letter in LETTERS[:4] if bare.endswith(letter) and not bare[-2:-1].isalpha()]
    found = found or [(0, text.rfind(letter), letter) for letter in LETTERS[:4] if letter in text]
    return max(found, key=lambda each: each[:2])[2] if found else ""  # of equals the first, as a stable sort leaves it


def word(answer: str, options: Sequence[str] = ()) -> str:
    r"""Small Korean VLM's culture questions: the first `\b([A-D])\b` in capitals; a particle glued to a letter hides it."""
    match = re.search(r"\b([A-D])\b", answer.upper())
    return match[1] if match else ""


def exact(answer: str, options: Sequence[str] = ()) -> str:
    """K-Viscuit (ddehun/k-viscuit run_vqa.py): the answer is a capital A to D and nothing else, or wrong."""
    return answer.strip() if answer.strip() in list("ABCD") else ""


def verbatim(answer: str, options: Sequence[str] = ()) -> str:
    """Small Korean VLM's second scorer of culture questions: the answer as it is, which is the gold string or wrong."""
    return answer


def first_letter(answer: str, options: Sequence[str] = ()) -> str | None:
    """Small Korean VLM's third scorer of culture questions: the first character, small ones being wrong; it leaves empty answers out."""
    return answer.strip()[:1] or None


# Before and after a letter that stands between spaces, in the order in which they are tried.
_AROUND = (
    ("", "."), ("", ","), ("", ":"), ("", ")"), ("", ")."), ("(", ")"), ("(", ")."),
    (":", ""), (":", ","), (":", "."), (":", ")"), (":", ")."),
)  # fmt: skip


def can_infer(answer: str, options: Sequence[str]) -> str:
    """K-MMBench (lmms-eval mmbench_evals.py, after VLMEvalKit): the one letter that stands alone, else the one option contained.

    Letters are A to E, however many options there are; of options the first four are looked at, as bare substrings.
    """
    if "Failed to obtain answer via API" not in answer:
        words = answer.split()
        for before, after in (("", ""), *_AROUND):
            letters = [letter for letter in LETTERS if before + letter + after in words]
            is_quantifier = not before + after and "A" in words and len(words) > 3
            if len(letters) == 1 and not is_quantifier:
                return letters[0]
    contained = [letter for letter, option in zip("ABCD", options) if str(option).lower() in answer.lower()]
    return contained[0] if len(contained) == 1 else ""


def circular(
    rows: Sequence[Mapping[str, Any]], resolve: Callable[[Mapping[str, Any]], str | None] | None = None
) -> dict[int, int]:
    """K-MMBench's circular evaluation (lmms-eval mmbench_evals.py): {base index: 1 if every rotation is right, else 0}.

    A row has `index` (base + 1,000,000 a rotation), `answer` (letter), `prediction`, `options`. An answer that `can_infer` cannot read
    goes to `resolve`, a judge that gives a letter; where that gives none, a letter of A to E is drawn from the published seed, as happens
    there without a judge. Draws follow the order of base indices, so they depend on all rows.
    """
    draw = random.Random(2680)
    ordered = sorted(rows, key=lambda row: row["index"])
    turns: dict[int, list[Mapping[str, Any]]] = {}
    for row in ordered:
        turns.setdefault(row["index"] % 1_000_000, []).append(row)
    hits: dict[int, int] = {}
    for row in ordered:
        base = row["index"]
        if base < 1_000_000 and base not in hits:
            hits[base] = int(_all_right(turns[base], resolve, draw))
    return hits


def _all_right(rows: Sequence[Mapping[str, Any]], resolve, draw: random.Random) -> bool:
    read = [can_infer(str(row["prediction"]).strip(), row["options"]) for row in rows]
    if any(letter and letter != row["answer"] for letter, row in zip(read, rows)):
        return False
    for row in (row for letter, row in zip(read, rows) if not letter):
        letter = (resolve(row) if resolve else None) or LETTERS[draw.randint(0, 4)]
        if letter != row["answer"]:
            return False
    return True
