"""What a usable Korean translation is: small checks of one pair, each with a reason when it refuses, and duplicates in a whole set."""

from __future__ import annotations

import dataclasses
import hashlib
import re
import unicodedata
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from boda.data.translate.protect import protect, spans
from boda.errors import BodaError, explaining


@dataclass(frozen=True)
class Pair:
    """A text and its Korean translation; no `source` where a set is Korean only."""

    source: str
    translation: str


@dataclass(frozen=True)
class Limits:
    """What is still good; docs/filters.md says what each was measured on."""

    hangul_share: float = 0.5  # of the letters outside protected spans, at least
    other_share: float = 0.1  # of them in neither Hangul nor Latin letters nor in the source, at most
    shortest: float = 0.2  # letters and digits of the translation for one of the source, at least
    longest: float = 1.2  # ... at most, and `longest_extra` letters more
    longest_extra: int = 15
    repeated_share: float = 0.4  # of a translation that repeats itself, above what its source does, at most
    copied_words: int = 5  # words of the source in a row that stand untranslated, fewer than
    lost_numbers: int = 0  # numbers of the source that are not said, at most
    max_characters: int = 1000  # fewer than; 0: any
    broken_off: float = 0.42  # letters for one of the source, below which a translation without an end is taken for cut off
    nearly: float = 0.7  # of the groups of five letters shared with a text before, from which it is a near duplicate
    similarity: float = 0.2  # of picture and text, where a model is asked, at least
    back_translation: float = 0.3  # chrF of source and translation translated back, where an engine is asked, at least
    emoji: str = "keep"  # keep, refuse, or drop: taken out of the translation
    unquote: bool = False  # takes the b'...' away that Python puts around bytes


Filter = Callable[[Pair, Limits], str | None]

_HANGUL = re.compile("[가-힣ㄱ-ㅣ]")
_BRACKETS = re.compile(r"\([^()]*\)")
_OPAQUE = ("mark", "tag", "address", "file", "code", "formula", "slot")
_EXACT = (*_OPAQUE, "box", "option")
# What is a picture by itself, what becomes one by a mark behind it, flags and keys. ★, ※ and ✓ are signs that texts use.
_PICTURES = (
    "\U0001f300-\U0001faff⌚⌛⏩-⏳◽◾☀☔☕☹☺♈-♓♥♿⚓⚡⚪⚫⚽⚾⛄⛅⛎⛔⛪⛲⛳⛵⛺⛽✅✊-✌✨❌❎❓-❕❗❤➕-➗➰➿⬛⬜⭐⭕"
)
_EMOJI = re.compile(
    rf"(?:[\U0001f1e6-\U0001f1ff]{{2}}|[0-9#*]\ufe0f?\u20e3|(?:[{_PICTURES}]|[©®\u203c-\u3299]\ufe0f)[\ufe0f\u200d\U0001f3fb-\U0001f3ff]*)+"
)
_CHATTER = re.compile(
    r"^\W*(?:한국어\s*)?(?:번역(?:문|본|\s*결과)?|translation|korean)(?:\s*\([^)]*\))?\W*[::]"
    r"|다음은.{0,40}번역|번역(?:해\s*드리겠|하면 (?:다음|아래)|은 (?:다음|아래)과|해\s*드릴|할 수 없)|으로 번역(?:됩니다|할 수 있습니다)"
    r"|\b(?:here is|here's|sure|certainly|below is|as an ai)\b.{0,60}\b(?:translat|korean|language model)|\btranslated text\b"
    r"|</?think>|플레이스홀더|placeholder|AI 언어 모델",
    re.IGNORECASE | re.DOTALL,
)
_MIX = np.uint64(0x9E3779B97F4A7C15)  # odd, near the golden ratio: spreads what it is multiplied with
_SCALES = dict(zip("십백천만억조", (10, 100, 10**3, 10**4, 10**8, 10**12)))
_WORD_SCALES = {"hundred": 100, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12, "bn": 10**9}
_VALUE = re.compile(
    rf"(\d[\d,]*(?:\.\d+)?|(?<![\w.])\.\d+)(?:\s?-?({'|'.join(_WORD_SCALES)})|\s?([십백천만억조]+))?", re.IGNORECASE
)
# No numbers of the text: entities, full hours, and measures that Korean converts.
_NO_VALUE = re.compile(
    r"&#?\w+;|[:;]00\b|(?<!\d)(?<!\d[,.])\d[\d,.]*+(?:\s?ft\b|(?:\s?million)?[\s-](?:square[\s-])?"
    r"(?:miles?|feet|foot|inch(?:es)?|mph|pounds|ounces|gallons|acres|degrees)\b)"
)
# How small numbers are said in words: counted, before a noun, and in Sino-Korean.
_SMALL = "영 하나|한|첫|일|하루 둘|두|이|양|이틀 세|셋|석|삼|사흘 네|넷|넉|사 다섯|오 여섯|육 일곱|칠 여덟|팔 아홉|구 열|십 열한 열두"
_IN_WORDS = dict(enumerate(_SMALL.split())) | {100: "백", 1000: "천", 10000: "만"}


def empty(pair: Pair, limits: Limits) -> str | None:
    """Nothing was answered."""
    return None if pair.translation.strip() else "the translation is empty"


def hangul(pair: Pair, limits: Limits) -> str | None:
    """No Hangul at all; what holds no word, or an abbreviation in capitals, may stay as it is."""
    if _HANGUL.search(_plain(pair.translation)) or not pair.translation.strip():
        return None
    said = pair.source or pair.translation
    may_stay = pair.translation.strip() == said.strip() and (said.isupper() or protect(said).is_fixed)
    return None if may_stay else "no Hangul in the translation"


def hangul_share(pair: Pair, limits: Limits) -> str | None:
    """Little Hangul among the letters; brackets do not count, nor names: words in capitals that are in the source, if there is one."""
    names = set(re.findall("[A-Z][A-Za-z]*", pair.source or pair.translation))
    text = re.sub("[A-Z][A-Za-z]*", lambda name: name[0] * (name[0] not in names), _BRACKETS.sub("", _plain(pair.translation)))
    letters = [letter for letter in text if letter.isalpha()]
    share = len(_HANGUL.findall("".join(letters))) / max(len(letters), 1)
    if not 0 < share < limits.hangul_share or len(letters) < 12:
        return None
    return f"{share:.0%} of the letters are Hangul; at least {limits.hangul_share:.0%} should be"


def other_language(pair: Pair, limits: Limits) -> str | None:
    """Kana, Han, Cyrillic and the like that the source does not have."""
    letters = [letter for letter in _plain(pair.translation) if letter.isalpha()]
    other = [one for one in letters if not _HANGUL.match(one) and ord(one) > 0x24F and one not in pair.source]
    if len(other) > limits.other_share * len(letters):
        return f"letters of another language: {''.join(other[:20])}"
    return None


def length_ratio(pair: Pair, limits: Limits) -> str | None:
    """Far shorter or longer than translations are."""
    source, translation = _count(pair.source), _count(pair.translation)
    if translation < limits.shortest * source - 3 or translation > limits.longest * source + limits.longest_extra:
        return f"{translation} letters for the source's {source}"
    return None


def repetition(pair: Pair, limits: Limits) -> str | None:
    """Says the same over and over, as models do that do not find an end."""
    share = _repeated(pair.translation)
    return f"{share:.0%} of it repeats what is said" if share - _repeated(pair.source) > limits.repeated_share else None


def residue(pair: Pair, limits: Limits) -> str | None:
    """Words of the source in a row that are not translated, other than in brackets."""
    source, translation = (
        re.findall(r"[^\W\d_]+(?:['’][^\W\d_]+)?", _plain(side).casefold())
        for side in (pair.source, _BRACKETS.sub(" ", pair.translation))
    )
    size = limits.copied_words
    runs = {tuple(source[start : start + size]) for start in range(len(source) - size + 1)}
    copied = next((run for start in range(len(translation)) if (run := tuple(translation[start : start + size])) in runs), ())
    return f"not translated: {' '.join(copied)} ..." if copied and not _HANGUL.search("".join(copied)) else None


def span_loss(pair: Pair, limits: Limits) -> str | None:
    """Marks, addresses, code, formulas, boxes and option letters that are not in the translation as often."""
    found = Counter(pair.source[start:end].strip("().: ") for _, start, end in spans(pair.source, *_EXACT))
    lost = [span for span, count in found.items() if span[0] != "&" and pair.translation.count(span) < count]
    if lost or pair.source.count("<image>") != pair.translation.count("<image>"):
        return f"lost: {', '.join(lost[:3])}" if lost else "another number of <image> marks"
    return None


def ending(pair: Pair, limits: Limits) -> str | None:
    """Breaks off: the source ends a sentence, the translation ends with neither a mark nor the end of a Korean sentence."""
    said, ratio = pair.translation.rstrip(), _count(pair.translation) / max(_count(pair.source), 1)
    is_sentence = re.search(r"\w{3}[.!?][\"'”’)\s]*$", pair.source)
    if is_sentence and ratio < limits.broken_off and _HANGUL.match(said[-1:]) and not _is_ended(said[-1]):
        return f"breaks off: ...{said[-20:]}"
    return None


def numbers(pair: Pair, limits: Limits) -> str | None:
    """Numbers of the source that are not said, in figures, with 만 and 억, or in words."""
    said = {value for values in _values(pair.translation) for value in values}
    lost = [values[0] for values in _values(pair.source) if not _is_said(values[0], said, pair.translation)]
    shown = ", ".join(f"{value:,.15g}" for value in lost[:5])
    return f"numbers that are not said: {shown}" if len(lost) > limits.lost_numbers else None


def chatter(pair: Pair, limits: Limits) -> str | None:
    """A model speaking of its translation."""
    found = _CHATTER.search(pair.translation)
    if found and not re.search("translat|korean|번역|placeholder|<think>|language model", pair.source, re.IGNORECASE):
        return f"speaks of the translation: {found[0][:60]!r}"
    return None


def emoji(pair: Pair, limits: Limits) -> str | None:
    """Emoji, where they are refused."""
    found = _EMOJI.search(pair.translation) if limits.emoji == "refuse" else None
    return f"has the emoji {found[0]}" if found else None


def length(pair: Pair, limits: Limits) -> str | None:
    """Too long."""
    count, most = len(pair.translation), limits.max_characters
    return f"{count:,} characters; fewer than {most:,} are kept" if 0 < most <= count else None


def openflaminko(pair: Pair, limits: Limits) -> str | None:
    """The published rule, to the letter: a space counts as Korean, so English sentences pass it."""
    text = pair.translation
    if not re.search("[ㄱ-ㅣ가-힣 ]", text):
        return "no letter of [ㄱ-ㅣ가-힣 ]"
    return f"{len(text):,} characters; fewer than 1,000 are kept" if len(text) >= 1000 else None


# The first that refuses gives the reason, so what says most comes first.
_ORDER = (
    empty, chatter, hangul, other_language, repetition, residue, hangul_share, span_loss, numbers, ending, length_ratio, length, emoji
)  # fmt: skip
FILTERS: dict[str, Filter] = {each.__name__: each for each in _ORDER}
NEED_SOURCE = ("residue", "ending", "span_loss", "numbers", "length_ratio")
PRESETS: dict[str, tuple[dict[str, Filter], Limits]] = {
    "boda": (FILTERS, Limits()),
    "openflaminko": ({"openflaminko": openflaminko}, Limits(emoji="drop", unquote=True)),
}


def changed_limits(limits: Limits, said: Mapping[str, str]) -> Limits:
    """Limits with others by name, as they are written on a command line. Raises BodaError: no such limit, or no value of it."""
    known = dataclasses.asdict(limits)
    for name, value in said.items():
        if name not in known:
            raise BodaError(f"no limit '{name}'; there are {', '.join(known)}")
        kind = type(known[name])
        with explaining(f"the limit {name} is a number, such as {known[name]}; it cannot be '{value}'", ValueError):
            known[name] = kind(value) if kind is not bool else value.lower() in ("true", "1", "yes")
    if known["emoji"] not in ("keep", "drop", "refuse"):
        raise BodaError(f"emoji are to keep, drop or refuse, not '{known['emoji']}'")
    return Limits(**known)


def check_pair(pair: Pair, limits: Limits = Limits(), filters: Mapping[str, Filter] | None = None) -> tuple[str, str] | None:
    """(filter, reason) of the first that refuses the pair; None: it is good. Without a source, what needs one is left out."""
    for name, each in (FILTERS if filters is None else filters).items():
        if (pair.source or name not in NEED_SOURCE) and (reason := each(pair, limits)):
            return name, reason
    return None


def chrf(hypothesis: str, reference: str, order: int = 6, beta: float = 2.0) -> float:
    """Popović's character F-score, spaces left out: mean precision and recall of 1- to 6-grams -> 0 to 1."""
    sides = ["".join(text.split()) for text in (hypothesis, reference)]
    rates = []
    for size in range(1, order + 1):
        ours, theirs = (Counter(side[start : start + size] for start in range(len(side) - size + 1)) for side in sides)
        if ours and theirs:
            same = (ours & theirs).total()
            rates.append((same / ours.total(), same / theirs.total()))
    precision, recall = (sum(rate) / len(rates) for rate in zip(*rates)) if rates else (0.0, 0.0)
    return (1 + beta**2) * precision * recall / max(beta**2 * precision + recall, 1e-12)


class Duplicates:
    """Texts seen before, exactly or nearly: MinHash of groups of five letters, compared where one of 16 bands agrees.

    The latest `rows` texts are remembered, in about 0.4 KiB each and 64 MiB of tables (a million: 0.5 GiB), so that memory stays the
    same however long a set is. Texts shorter than 20 letters and digits are only compared exactly.
    """

    def __init__(self, nearly: float = 0.7, rows: int = 1 << 20):
        self.nearly, self.rows, self.read, self.kept = nearly, rows, 0, 0
        self.exact: OrderedDict[bytes, int] = OrderedDict()
        self.signatures = np.zeros((rows, 64), dtype=np.uint16)  # zeros take no memory before they are written to
        self.places = np.zeros(rows, dtype=np.int64)
        self.tables = np.zeros((16, 1 << 20), dtype=np.int32)
        self.factors = np.random.Generator(np.random.PCG64(0)).integers(1, 1 << 63, (64, 1), dtype=np.uint64) * 2 + 1

    def check(self, text: str) -> tuple[str, str] | None:
        """(filter, reason) of a text that was there before; any other is remembered."""
        self.read += 1
        text = "".join(re.findall(r"[^\W_]", unicodedata.normalize("NFKC", text).casefold())) or text
        key = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=12).digest()
        if key in self.exact:
            return "duplicate", f"the same as text {self.exact[key]:,}"
        signature = _signature(text, self.factors) if len(text) >= 20 else None
        if signature is not None:
            slots = (signature.view(np.uint64) * _MIX) >> np.uint64(44)
            found = self.tables[np.arange(16), slots] - 1
            found = np.unique(found[(found >= 0) & (found > self.kept - self.rows)]) % self.rows
            alike = (self.signatures[found] == signature).mean(axis=1)
            if len(found) and alike.max() >= self.nearly:
                place = self.places[found[alike.argmax()]]
                return "near_duplicate", f"about {alike.max():.0%} the same as text {place:,}"
            self.signatures[self.kept % self.rows], self.places[self.kept % self.rows] = signature, self.read
            self.kept += 1
            self.tables[np.arange(16), slots] = self.kept
        self.exact[key] = self.read
        if len(self.exact) > self.rows:
            self.exact.popitem(last=False)
        return None


def _signature(text: str, factors: np.ndarray) -> np.ndarray:
    """Of each of 64 orders of all groups of five letters the first one, in 16 bits."""
    letters = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32).astype(np.uint64)
    groups = np.zeros(len(letters) - 4, dtype=np.uint64)
    for start in range(5):
        groups = (groups + letters[start : start + len(groups)]) * _MIX
        groups ^= groups >> np.uint64(29)
    return ((groups * factors).min(axis=1) * _MIX >> np.uint64(48)).astype(np.uint16)


def without_emoji(text: str) -> str:
    """The text without emoji, and without the space that stood before each."""
    return re.sub(rf" ?{_EMOJI.pattern}", "", text)


def tidied(text: str, limits: Limits) -> str:
    """The text as it is kept: without what the limits say is dropped."""
    if limits.unquote and re.fullmatch(r"b'.*'|b\".*\"", text, re.DOTALL):
        text = text[2:-1]
    return without_emoji(text) if limits.emoji == "drop" else text


def _count(text: str) -> int:
    """Letters and digits of what is language."""
    return len(re.findall(r"[^\W_]", _plain(text)))


def _is_ended(letter: str) -> bool:
    """Whether a Korean sentence may end with this syllable: 다, 요, 까, ... or one closed by ㅁ, as notes and headlines are."""
    return letter in "다요까죠오라자네지군나야어아해데걸듯" or (ord(letter) - ord("가")) % 28 == 16


@lru_cache(8)
def _plain(text: str) -> str:
    """Composed, and with spaces for what is no language: marks, addresses, code."""
    letters = list(text)
    for _, start, end in spans(text, *_OPAQUE):
        letters[start:end] = " " * (end - start)
    return unicodedata.normalize("NFC", "".join(letters))


def _repeated(text: str) -> float:
    """The share of a text that only repeats it: letters in a row (at least 4 times), or groups of words said before."""
    if len(text) < 12:
        return 0.0
    runs = sum(len(match[0]) - len(match[1]) for match in re.finditer(r"(.{1,40}?)\1{3,}", text, re.DOTALL) if match[1].strip())
    words = text.split()
    groups = [tuple(words[start : start + 3]) for start in range(len(words) - 2)]
    said_before = 1 - len(set(groups)) / len(groups) if len(groups) > 5 else 0.0
    return max(runs / len(text), said_before)


def _values(text: str) -> list[tuple[float, ...]]:
    """(value, figure as written) of every number; 12조3천억 is one."""
    found: list[tuple[float, ...]] = []
    end, was_scaled = -2, False
    for match in _VALUE.finditer(_NO_VALUE.sub(" ", re.sub(r"([$€£]\s?[\d,.]+)m\b", r"\1 million", text))):
        figure, times = float(match[1].replace(",", "")), _WORD_SCALES.get((match[2] or "").lower(), 1)
        for scale in match[3] or "":
            times *= _SCALES[scale]
        value = round(figure * times, 6)  # 4.1 million is 410만
        if was_scaled and match.start() <= end + 1:
            found[-1] = (round(found[-1][0] + value, 6), *found[-1][1:], value, figure)
        else:
            found.append((value, figure))
        end, was_scaled = match.end(), bool(match[3])
    return found


def _is_said(value: float, said: set[float], translation: str) -> bool:
    if value in said or (value > 100 and value % 100 in said and value < 2100):  # 90년대
        return True
    return value in _IN_WORDS and any(word in translation for word in _IN_WORDS[int(value)].split("|"))
