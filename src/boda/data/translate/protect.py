"""What a translation must not change: marks, numbers, addresses, code and formulas leave the text as placeholders and come back."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from boda.data.translate.glossary import Glossary
from boda.errors import BodaError

_UNITS = "km/h|m/s|kWh|[kMG]?Hz|kPa|[df]p[is]|rpm|mAh|[kcmµn]?m[²³23]?|[kmµ]?g|[km]?[lL]|[kMG]?W|k?V|[KMGTkmgt]i?B|p[xt]|dB|ms|°[CF]?|%p?|‰"
_SCALES = (
    "(?:hundred|thousand|million|billion|trillion|dozen|millier|milliard|mil|mille|millón|millones|billones|Million(?:en)?|"
    "Milliarden?)s?(?![^\\W\\d_])|[십백천만억조十百千万萬億亿兆]"
)
_FILES = "jpe?g|png|gif|webp|svg|pdf|txt|md|[ct]sv|jsonl?|ya?ml|xml|html?|py|[jt]s|cpp|java|sh|zip|tar|gz|mp[34]|wav|docx?|xlsx?|pptx?"
_URL = r"[!#-;=?-_a-~]"

# What is protected, by kind. A group named `it...` is the span where the pattern looks at what stands around it.
KINDS: dict[str, str] = {
    "mark": r"<\|[^<>|\n]{1,80}\|>|\[/?(?:INST|MASK|SEP|CLS|PAD|UNK|BOS|EOS)\]|<</?SYS>>",
    "tag": r"</?[A-Za-z][^<>\n]{0,400}>|<!--.{0,400}?-->|&(?:#\d{1,7}|#x[0-9a-fA-F]{1,6}|[A-Za-z]{2,8}\d?);",
    "address": rf"(?:https?|ftp)://{_URL}*[0-9A-Za-z/=&#~_-]|(?<![\w@])www\.{_URL}+[0-9A-Za-z/]"
    r"|(?<![\w.+-])[\w.+-]+@[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)+"
    r"|(?<![\w.@-])[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)*\.(?:com|org|net|edu|gov|io|kr|jp|uk|de)(?![A-Za-z0-9_-])"
    rf"(?:/{_URL}*[0-9A-Za-z/])?",
    "file": r"(?<![\w/\\<])(?:~|\.{1,2}|[A-Za-z]:)?[/\\](?:[\w.@+-]+[/\\])*[\w.@+-]*\w"
    rf"|(?<![\w/-])(?<!\w\.)(?:[\w.-]++/)*+[\w-]++(?:\.[\w-]++)*\.(?:{_FILES})(?![A-Za-z0-9_])",
    "code": r"(?P<fence>(?<!`)`{3,}+|(?<!~)~{3,}+)[\s\S]*?(?P=fence)|(?<!`)(?P<ticks>`++).+?(?<!`)(?P=ticks)(?!`)",
    "formula": r"\$\$.+?\$\$|(?<![\w$\\])\$(?![\s$])[^$\n]{0,300}(?<![\s\\])\$(?![\d$])|\\\(.+?\\\)|\\\[.+?\\\]"
    r"|\\begin\{(?P<environment>\w+\*?)\}.*?\\end\{(?P=environment)\}|\\[A-Za-z]{2,}(?:\{[^{}\n]*\})*",
    "slot": r"\$?\{\{?[A-Za-z_0-9][\w.:\[\]]*\}?\}|\{\}|%\(\w+\)[sdifgr]|(?<![\d%\w])%[-+#0]?\d*(?:\.\d+)?[sdifgr](?!\w)",
    "box": r"\[[\[\]\s,;\d.+-]{0,300}\d\s*[,;][\[\]\s,;\d.+-]{0,300}\]|\([()\s,;\d.+-]{0,300}\d\s*[,;][()\s,;\d.+-]{0,300}\)",
    "option": r"^\s*(?P<it>\(?[A-Z][.):])(?=\s|$)|^\s*(?P<it2>[A-Z])\s*$|(?P<it3>\([A-Z]\))|(?<=\s)(?P<it4>[A-H][.)])(?=\s)"
    r"|\b(?i:option|choice|letter)s?:?\s+(?P<it5>[A-Z])(?![\w'’])"
    r"|\b(?i:answers?)(?:\s+is)?:?\s+(?P<it6>\(?[A-Z]\)?)(?=[.,;:!?)]|\s*$)",
    # A scaled number, an ordinal, a decade or an hour (3 million, 3rd, 1990s, 5pm) is said in another way in another language.
    "number": r"(?<![A-Za-z0-9_])(?:(?<![\w)\]])[+−±-])?\d++(?:[.,:/–~×-]\d++)*+"
    rf"(?:\s?(?:{_UNITS})(?![A-Za-z0-9_]))?(?![A-Za-z0-9_])(?!\s?-?(?i:{_SCALES}))"
    r"|(?<![\w$€£¥₩:.,-])(?!\d+(?:st|nd|rd|th|s|[ap]m|[AP]M)\b)(?=[A-Za-z]*\d)[A-Za-z0-9]*[A-Za-z][A-Za-z0-9]*(?![A-Za-z0-9_])",
}
_PATTERNS = {kind: re.compile(pattern) for kind, pattern in KINDS.items()}
_OPTIONS = re.compile(r"(?:^|\s)A[.)]\s.*\sB[.)]\s")  # a single letter inside a line is an initial: George H. Smith
_LIKE = {  # what engines write for one character of a placeholder
    **dict.fromkeys("⟦【〚", r"(?:⟦|【|〚|［|\[\[|(?<!\[)\[(?!\[))"),
    **dict.fromkeys("⟧】〛", r"(?:⟧|】|〛|］|\]\]|(?<!\])\](?!\]))"),
    "<": "(?:<|＜|〈|&lt;)",
    ">": "(?:>|＞|〉|&gt;)",
    "/": "[/／]?",
    '"': "(?:[\"“”„″＂'‘’]|&quot;|&#34;)?",
    "=": "[=＝]",
    "{": "[{｛]",
    "}": "[}｝]",
}
_SPACE = r"[ \t\u00a0\u3000]*"


class Mangled(BodaError):
    """A translation in which something protected is lost, doubled or invented."""


@dataclass(frozen=True)
class Protected:
    """A text with placeholders, and what they stand for, the first for `kept[0]`."""

    text: str
    kept: tuple[str, ...]
    placeholder: str

    @property
    def is_fixed(self) -> bool:
        """Whether no word is left that could be translated: `restore(text)` is the translation."""
        return not any(letter.isalpha() for letter in _reader(self.placeholder).sub("", self.text))

    def restore(self, translated: str) -> str:
        """The translation with everything protected in it; raises Mangled unless each placeholder stands there once.

        Spaces inside a placeholder, brackets of another width, another case and HTML escapes are understood.
        """
        reader = _reader(self.placeholder)
        found = Counter(int(match["number"]) for match in reader.finditer(translated))
        wrong = {
            "lost": [self.kept[number] for number in range(len(self.kept)) if not found[number]],
            "doubled": [self.kept[number] for number, count in found.items() if count > 1 and number < len(self.kept)],
            "invented": [self.placeholder.format(number) for number in found if number >= len(self.kept)],
        }
        if any(wrong.values()):
            said = (
                f"{what} {', '.join(map(repr, words[:3]))}{' ...' * (len(words) > 3)}" for what, words in wrong.items() if words
            )
            raise Mangled(f"the engine's translation has {'; '.join(said)}")
        if not re.search("[ \t]{2}", self.text):  # some engines put spaces of their own around each
            translated = re.sub(rf"[ \t]{{2,}}(?={reader.pattern})", " ", translated, flags=reader.flags)
            translated = re.sub(rf"({reader.pattern})[ \t]{{2,}}", r"\1 ", translated, flags=reader.flags)
        return reader.sub(lambda match: self.kept[int(match["number"])], translated)


def protect(text: str, placeholder: str = "⟦{}⟧", glossary: Glossary | None = None) -> Protected:
    """The text with placeholders for all that must survive, the glossary's names among it, which come back as their translations.

    What looks like a placeholder already is itself protected.
    """
    alike = [
        _reader(placeholder),
        re.compile(re.escape(placeholder.split("{}")[0].strip())),
    ]  # its beginning could swallow the next
    taken = [(match.start(), match.end(), match[0]) for pattern in alike for match in pattern.finditer(text)]
    taken += [(start, end, text[start:end]) for _, start, end in spans(text)]
    taken += glossary.find(text) if glossary else ()
    pieces: list[str] = []
    kept: list[str] = []
    position, is_open = 0, False
    for start, end, said in _leftmost_longest(taken):
        if is_open and start == position:  # neighbours travel together
            kept[-1] += said
        else:
            pieces += [text[position:start], placeholder.format(len(kept))]
            kept.append(said)
        position, is_open = end, True
    return Protected("".join([*pieces, text[position:]]), tuple(kept), placeholder)


def spans(text: str, *kinds: str) -> Iterator[tuple[str, int, int]]:
    """(kind, start, end) of what is protected in a text; of some kinds, or all. They may overlap."""
    for kind in kinds or KINDS:
        for match in _PATTERNS[kind].finditer(text):
            group = next((name for name, value in match.groupdict().items() if value and name.startswith("it")), 0)
            if group != "it4" or _OPTIONS.search(text):
                yield kind, *match.span(group)


def _leftmost_longest(taken: list[tuple[int, int, str]]) -> Iterator[tuple[int, int, str]]:
    position = 0
    for start, end, said in sorted(taken, key=lambda span: (span[0], -span[1])):
        if start >= position and end > start:
            yield start, end, said
            position = end


@lru_cache
def _reader(placeholder: str) -> re.Pattern:
    """Reads a placeholder as engines give it back; `number` is its number."""
    before, after = placeholder.split("{}")

    def like(part: str) -> str:
        return _SPACE.join(_LIKE.get(letter) or re.escape(letter) for letter in part if not letter.isspace())

    closing = rf"(?:{_SPACE}</\w+>)?" if after.endswith("/>") else ""  # an empty element, written with two tags
    return re.compile(rf"{like(before)}{_SPACE}(?P<number>\d{{1,4}}){_SPACE}{like(after)}{closing}", re.IGNORECASE)
