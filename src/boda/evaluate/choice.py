"""Which option of a multiple-choice question an answer means, read as a Korean person would read it."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

from boda.evaluate.metrics.exact import stems

HANGUL, JAMO = "가나다라마바사아자차", "ㄱㄴㄷㄹㅁㅂㅅㅇㅈㅊ"  # the orders Korean exams count in
# An option's text; 예 or 아니요; (B), B번, 보기 B; B; what counts only where nothing else can be meant: 2, 나, 두 번째.
TEXT, REPLY, SIGN, LETTER, FAINT = range(5)
NEITHER = -1  # a label that no option has, or one that two options share
MARK = "\ue000"  # stands for a mention, letter by letter, where sentences are looked at

# What may be glued to a noun. A chain of up to three, then the word ends.
_PARTICLES = (
    "은 는 이 가 을 를 의 에 에서 에게 로 으로 와 과 도 만 나 이나 랑 이랑 하고 처럼 보다 까지 부터 뿐 들 쪽 인 일 임 입니다 입니다만 이다 이에요 예요 에요 "
    "이야 야 이죠 죠 이지요 지요 이네요 네요 이군요 군요 이고 고 이고요 이며 며 이므로 므로 이라서 라서 이라 라 이라고 라고 이라는 라는 이란 란 이지만 "
    "지만 인데 인데요 이거든요 거든요 이기 기 인가요 일까요 인지 일지 였습니다 이었습니다 였다 이었다 였어요 이었어요 이니까 니까 랍니다 이랍니다 인듯 "
    "인듯합니다 입니까 요 이요 이겠네요 겠네요 이겠습니다 일겁니다 일거예요 번 이자 이거나 거나"
).split()
_WORD_END = r"(?![가-힣a-z0-9])"
_GLUED = rf"(?:{'|'.join(_PARTICLES)}){{0,3}}(?:(?<=[{''.join(chr(c) for c in range(0xAC00, 0xD7A4, 28))}])다(?=\s*[.!]))?{_WORD_END}"
_IT_IS = "(?:이?라고 (?:봅니다|생각합니다|생각해요|답하겠습니다)|입니다|이에요|예요|에요|이다|임|이야|야|이죠|죠|이지요|이네요|네요|요|이요)"
# 나 and 다 are words as well (나는, 다만, 바로): after them, only what cannot be one.
_GLUED_LETTER = rf"(?:{_IT_IS}|번|로|[이가은는을를](?=\s*(?:정답|답|맞|옳|적절|선택|고르|골|택|아니)))?{_WORD_END}|와(?=\s*[{HANGUL}{JAMO}]{_WORD_END})"
_LOOK_ALIKES = "개인 새로 말고 말로 말이 차이 사이 눈이 물로 예로 예를 예의 네가 네는 네이".split()  # words that are no 개 + 인
_COUNTERS = "개|마리|명|사람|대|권|장|잔|병|그루|송이|채|켤레|벌|살|층|자루|접시|가지|쌍|줄|조각|척|시|시간|분"
_COUNTED = dict(zip("한 두 세 네 다섯 여섯 일곱 여덟 아홉 열".split(), range(1, 11)))
_ORDINALS = {"첫": 1, "첫째": 1, "둘째": 2, "셋째": 3, "넷째": 4, **_COUNTED}
_ENGLISH_ORDINALS = {"first": 1, "second": 2, "third": 3, "fourth": 4, "fifth": 5}
_YES, _NO = ("예", "네", "yes"), ("아니요", "아니오", "아뇨", "no")
_ENDING = "(?:겠)?(?:음|습니다|다|어요|네요|는데요|을 것 같\\S*|)"
_UNKNOWN = (
    rf"(?:알|판단할|확인할|답할|답변할|결정할|파악할|구분할|식별할) 수(?:가|는)? 없{_ENDING}|모르(?:겠|다|는|ㅁ)\S*|모름|모릅니다|"
    rf"(?:알기|판단하기|확인하기|답하기|답변하기)(?:가|는)? 어렵\S*|(?:판단|확인|파악) ?불가\S*|정보가? 부족\S*|"
    r"(?:can ?not|can't|cannot) (?:be )?(?:determined?|tell|answer|know)|(?:i )?don't know|not enough information|unknown"
)
_REFUSAL = (
    rf"(?:{_UNKNOWN}|(?:볼|제공할|도와드릴|도와줄|선택할|고를|말씀드릴|해석할|분석할) 수(?:가|는)? 없|i(?:'m| am) (?:unable|not able|not sure|sorry)|"
    r"i can(?:no|')t|정답이? 없|해당하는 (?:보기|것|선택지)[가이는은] 없)(?!\S*지만)"
)

_NOUN = r"(?:보기|선택지|선지|옵션|문항|항목|답안|options?|choices?)"
_BEFORE_LETTER = (
    "is are be option options choice answer choose select pick with and or not but than letter say therefore so hence thus"
).split()
_AFTER_LETTER = "is are was and or because since as but looks seems would should matches with not".split()
_NAMED_BY_LETTER = re.compile(
    r"(?:비타민|혈액형|그룹|팀|구역|지점|점|건물|등급|선분|도시|지역|변수|제품|회사|카드|플랜|비행기)\s*$"
)
_AFTER_BARE = re.compile(
    r"\s*(?:$|[^\s가-힣a-z0-9]|\n|(?:같|정답|답|맞|옳|선택|고르|골|택|라|인 |일 |이 |가 |입|및|또는|혹은|대신|말고|그리고|or|and|is)|"
    + MARK
    + ")"
)

_NEGATED = re.compile(
    rf"(?:(?!(?:고|며|는데|인데|지만)[\s,])[^{MARK}.!?\n,]){{0,22}}?(?:아니(?![요오])|아닌(?!가)|아닙|아님|틀[렸린리립려]|오답|제외|빼고|빼면|배제|말고|대신|보다[는도 ]|"
    r"(?<!틀림)(?<!다름)(?<!밖에 )없[고다습으어는음네기]|않(?!을까|나요|을지)|거리가 [먼멀]|부적절|잘못|인지|일지|\bisn't|\bnot\b|\bincorrect|\bwrong|\bfalse)"
)
_NEGATED_BEFORE = re.compile(r"(?:\bnot|isn't|except|rather than|instead of|unlike)\s*(?:the |an? )?$")
_CONCEDED = re.compile(
    rf"[^{MARK}.!?\n]{{0,20}}?(?:생각|보[이일]|볼 수|같|비슷|헷갈|혼동|오해|착각|수도)[^{MARK}.!?\n]{{0,9}}?(?:지만|으나|는데)"
)
_LINKED = re.compile(
    r"(?:들|번)?[ \t]*(?:[,/·&+;|~()\[\]\"'\s]|와|과|및|또는|혹은|그리고|이나|나|하고|이랑|랑|이거나|거나|아니면|or|and|즉|둘 다)*",
    re.ASCII,
)
_PAIRED = re.compile(r"\s*(?:번)?[.):\-–—=>,]*\s*[\"'(]*")
_CLOSED = re.compile(rf"\s*{_IT_IS}?\s*(?:[.!,;)\]\"'\n]|$)")
_TOPIC = re.compile(r"\s*(?:은|는|이|가|도|의 경우(?:는|에는|엔)?|번은|:)\s*,?\s*")
_CLAUSE_END = re.compile(r"[.!?,;:\n(]|(?:며|고|는데|인데|지만|므로|라서|어서|니까|때문에)\s|입니다|이에요|예요")

_FILLER = re.compile(r"바로|아마도?|역시|당연히|보기|번호|중에서?|the|option")
_SAYS = r"[\])\"'”]*\s*(?:은|는|이란|:|=|→|->|>|is|would be|should be|must be|가 될 수 있는 것은)"
_DECLARING = (
    re.compile(
        rf"(?<![가-힣])(?:정답|해답|답안|답변|답|(?:최종 )?선택|결론)(?: ?번호)?(?:{_SAYS}|이?[\])\"'”]*\s*(?=[(\"'\[]*{MARK}))|"
        rf"(?<!wrong )(?<!incorrect )(?<![a-z])(?:answer|choice|option|choose)(?:{_SAYS}|\s*(?=[(\"'\[]*{MARK}))"
    ),
    re.compile(
        r"(?<![가-힣])(?:따라서|그러므로|결론적으로|결과적으로|결국|그래서|그렇기 때문에|종합하면|굳이 고르자면|고르자면|고른다면|하나만 고르라면)|"
        r"(?<![a-z])(?:therefore|thus|hence|so|i(?:'d| would| will)? (?:choose|pick|select|go with))(?![a-z])"
    ),
)
_DECLARED = (
    re.compile(
        r"\s*(?:번)?[이가을를]?\s*(?:바로|가장|제일)?\s*(?:정답|답)(?=입니다|이다|이에요|예요|이라|으로|이며|이고|이죠|일|인 것|인 듯|임|이 맞|이 됩|\s*[.!,)\n]|\s*$)|"
        r"\s*(?:is|looks|seems) (?:the )?(?:most )?(?:correct|right|best|answer|accurate)"
    ),
    re.compile(
        r"\s*(?:번)?[이가을를로에도]?\s*(?:가장|제일|더)?\s*(?:맞|옳|적절|적합|올바|알맞|타당|해당|일치|선택|고르|골|택)"
    ),
)


@dataclass(frozen=True)
class _Mention:
    start: int
    end: int
    index: int
    kind: int


def read_choice(answer: str, options: Sequence[str], labels: Sequence[str] | None = None) -> int | None:
    """The option that `answer` chooses, from 0; None where it chooses none or several.

    `labels` are the ones the question shows, by default A, B, C ...; numbers and Korean letters always count the options through.
    In this order: the last declaration (정답은 ...), a last line that is nothing but a choice, a choice that opens the answer, the only
    option that is mentioned and not ruled out. A label next to another option's text (A. 고양이, where 고양이 is B) is no choice.
    """
    said = _plain(_answered(answer))
    texts = [_plain(option) for option in options]
    if len({text.casefold() for text in texts}) == len(set(texts)):  # else options differ by case alone, as Co and CO may
        said, texts = said.casefold(), [text.casefold() for text in texts]
    bare = said.strip(" \n.\"'")
    if bare in texts and not re.search(r"\w", bare):  # an option that is a sign: +, ?
        return texts.index(bare) if texts.count(bare) == 1 else None
    mentions = _mentions(said, texts, None if labels is None else [_plain(label).casefold() for label in labels])
    masked = said
    for mention in mentions:
        masked = masked[: mention.start] + MARK * (mention.end - mention.start) + masked[mention.end :]
    groups = _groups(masked, mentions)
    for find in (_declared, _last_line, _opening):
        found = find(masked, groups)
        if found is not None:
            return _only(found)
    if re.search(_REFUSAL, masked):
        return None
    return _only({mention.index for group in _standing(masked, groups) for mention in group if mention.kind != FAINT})


def _only(found: set[int]) -> int | None:
    return next(iter(found)) if len(found) == 1 and NEITHER not in found else None


def _answered(text: str) -> str:
    """The answer without what was thought before it, and without markup; boxes and answer tags become declarations."""
    text = re.sub(r"(?is)<think(?:ing)?>.*?(?:</think(?:ing)?>|$)|^.*</think(?:ing)?>", "\n", text)
    text = re.sub(r"\\(?:text(?:bf|rm|it)?|math(?:rm|bf)|mbox)\s*\{([^{}]*)\}", r"\1", text)
    text = re.sub(r"\\(?:boxed|fbox)\s*\{([^{}]*)\}", r"\n정답: \1\n", text)
    text = re.sub(r"(?is)<(answer|정답)>(.*?)(?:</\1>|$)", r"\n정답: \2\n", text)
    return re.sub(r"(?i)</?[a-z][a-z0-9]*\s*/?>", " ", text)  # other tags


def _plain(text: str) -> str:
    """One spelling of all: NFC, ASCII for full-width letters, ②  as 2번, two dogs counted as 2, no marks of emphasis."""
    text = unicodedata.normalize("NFC", text)
    text = re.sub(r"[^\x00-\x7f가-힣ㄱ-ㆎ]", lambda match: _plain_sign(match[0]), text)
    text = re.sub(r"\*\*\*?|__+|`+|^\s*#+ |\$(?=\s*\(?\w\)?\s*\$)|(?<=[\w)])\$(?!\w)", "", text, flags=re.MULTILINE)
    text = re.sub(r"(?<![\w*])\*(?=\S)([^*\n]+)(?<=\S)\*", r"\1", text)
    text = re.sub(r"(\d)[️\s]*\u20e3", r" \1번 ", text)
    text = re.sub(r"(?<=\d),(?=\d{3}(?!\d))", "", text)
    text = re.sub(r"(?<![가-힣])(정답은|답은|정답|보기)(?=[A-Za-z0-9(])", r"\1 ", text)
    text = re.sub(
        rf"(?<![가-힣])({'|'.join(_COUNTED)})\s?(?=(?:{_COUNTERS}){_GLUED})", lambda match: f"{_COUNTED[match[1]]}", text
    )
    text = re.sub(rf"(?<=\d)\s+(?=(?:{_COUNTERS}){_GLUED})", "", text)
    return re.sub(r"\s*\n\s*", "\n", re.sub(r"[^\S\n]+", " ", text)).strip()


def _plain_sign(sign: str) -> str:
    if unicodedata.category(sign) in ("Co", "Cs", "Cn"):
        return " "
    if unicodedata.category(sign) in ("Cf", "Mn"):
        return sign if sign == "\u20e3" else ""
    if sign in "“”„‟«»「」『』《》〈〉‘’":
        return "'" if sign in "‘’" else '"'
    plain = "".join(chr(0x3131 + "ㄱㄲㄳㄴㄵㄶㄷㄸㄹㄺㄻㄼㄽㄾㄿㅀㅁㅂㅃㅄㅅㅆㅇㅈㅉㅊㅋㅌㅍㅎ".index(_initial(each))) if "ᄀ" <= each <= "ᄒ" else each
                    for each in unicodedata.normalize("NFKC", sign))  # fmt: skip
    number = unicodedata.digit(sign, None)  # ❷ has no other spelling
    if unicodedata.decomposition(sign).startswith("<circle>") or (plain == sign and number is not None):
        return f" {plain if plain != sign else number}번 "
    return plain


def _initial(letter: str) -> str:
    return "ㄱㄲㄴㄷㄸㄹㅁㅂㅃㅅㅆㅇㅈㅉㅊㅋㅌㅍㅎ"[ord(letter) - ord("ᄀ")]


# --- where options are mentioned


def _mentions(said: str, texts: Sequence[str], labels: Sequence[str] | None) -> list[_Mention]:
    """Texts and labels in order, none over another: the longer one stays, of two as long the text."""
    letters = [chr(ord("a") + number) for number in range(min(len(texts), 26))]
    shown = letters if labels is None else [label.strip(" .:()[]번") for label in labels]
    found: dict[tuple[int, int, int], set[int]] = {}
    for index, text in enumerate(texts):
        for start, end in () if text in shown else _places(said, text, texts):
            kind = REPLY if text.strip(" .,!") in (*_YES, *_NO) else TEXT
            found.setdefault((start, end, kind), set()).add(index)
    for mention in _labels_in(said, shown, any(text.isdigit() for text in texts)):
        found.setdefault((mention.start, mention.end, mention.kind), set()).add(mention.index)
    kept: list[_Mention] = []
    free = [True] * len(said)
    for (start, end, kind), indices in sorted(
        found.items(), key=lambda each: (each[0][0] - each[0][1], each[0][2], each[0][0])
    ):
        if all(free[start:end]):
            free[start:end] = [False] * (end - start)
            kept.append(_Mention(start, end, min(indices) if len(indices) == 1 else NEITHER, kind))
    return sorted(kept, key=lambda mention: mention.start)


def _places(said: str, text: str, texts: Sequence[str]) -> list[tuple[int, int]]:
    """Where an option's text stands as a whole word, with or without particles."""
    places = []
    for spelling in _spellings(text, texts):
        for match in re.finditer(spelling, said):
            glued = re.compile(_GLUED).match(said, match.end())
            word = said[match.start() : glued.end()] if glued else ""
            if not (word in _LOOK_ALIKES and word != text):
                places.append(match.span())
    return places


@lru_cache(maxsize=4096)
def _spelling(words: str) -> str:
    """A pattern for a text: spaces as one likes, whole words only."""
    pattern = r"\s*".join(re.escape(word) for word in words.split())
    before = r"(?<![가-힣a-z0-9])" if re.match(r"\w", words) else ""
    before += r"(?<!\d[.:/])(?<!-)" if words[0].isdigit() else ""
    after = r"(?!\s?[%℃°])(?![.:/]\d)" if words[-1].isdigit() else ""
    counted = rf"(?=(?:{_COUNTERS})?{_GLUED})" if words.isdigit() else f"(?={_GLUED})"
    return f"{before}{pattern}{after}{counted}"


def _spellings(text: str, texts: Sequence[str]) -> list[str]:
    """Patterns of what says an option: its words, without an article or "it is", a sentence in other styles of speech."""
    words = text.strip(" \n.,!?;:…\"'") or text
    if not re.search(r"\w", words):
        return []
    if words in (*_YES, *_NO):  # never the 예 of 예를 들어 or the 네 of 네 가지
        alike = "|".join(_YES if words in _YES else _NO)
        begins = r"(?:\A|(?<=[\n.!?:\"'(,])|(?<=[.!?:,] )|(?<=[은는답] )|(?<=is ))"
        ends = rf"(?=\s*(?:{_IT_IS}{_WORD_END}|[가이] (?:정답|맞)|[^\w\s]|\n|$)|이?라고| (?!그리고|또는|{_COUNTERS})[가-힣a-z])"
        return [rf"{begins}(?:{alike}){ends}"]
    said = {words, *stems(words, False), re.sub(r"^(?:an?|the) (?=\S)", "", words)}
    if " " in words:
        said |= _styles(words)
    patterns = [_spelling(each) for each in sorted(said) if each]
    return [*patterns, _UNKNOWN] if re.search(_UNKNOWN, words) else patterns


def _styles(sentence: str) -> set[str]:
    """있다, 있습니다, 있어요, 있음 say the same; so do 한다, 하다, 합니다, 함."""
    ended = re.fullmatch(r"(.*?[가-힣])(습니다|니다|는다|다|어요|아요|음)", sentence)
    stem, ending = ended.groups() if ended else (sentence, "")
    final = (ord(stem[-1]) - 0xAC00) % 28 if "가" <= stem[-1] <= "힣" else 0
    if (ending, final) in (("니다", 17), ("다", 4), ("", 16), ("다", 0)):  # 합니다, 한다, 함, 하다
        vowel = chr(ord(stem[-1]) - final)
        return {stem[:-1] + chr(ord(vowel) + each) + rest for each, rest in ((17, "니다"), (4, "다"), (0, "다"), (16, ""))}
    if ending in ("", "니다"):
        return set()
    return {stem + each for each in ("습니다", "다", "는다", "음", "어요", "아요")}


def _labels_in(said: str, shown: Sequence[str], numeric: bool) -> list[_Mention]:
    """Labels, numbers, Korean letters and ordinals. Where options are numbers, a bare number is no place among them."""
    names: dict[str, int] = {}
    for place in range(max(len(shown), 8)):
        index = place if place < len(shown) else NEITHER
        names |= {chr(ord("a") + place): index} if place < 26 else {}
        names |= {str(place + 1): index}
        names |= {HANGUL[place]: place, JAMO[place]: place} if index != NEITHER and place < len(HANGUL) else {}
    names |= {label: place for place, label in enumerate(shown) if label}
    choices = "|".join(map(re.escape, sorted(names, key=len, reverse=True)))
    found = []
    for match in re.finditer(
        rf"(?P<noun>{_NOUN}\s*(?:번호\s*)?)?(?P<open>[(\[{{<]\s*)?(?P<name>{choices})(?P<close>\s*[)\]}}>])?(?P<times>(?:\s*번(?!째))*)",
        said,
    ):
        name, before, after = match["name"], said[: match.start()], said[match.end() :]
        is_letter, is_number = name.isascii() and name.isalpha(), name.isdigit()
        is_sign = bool(match["noun"] or match["times"] or (match["open"] and match["close"] and not is_number))
        if is_number and numeric and name not in shown and not (match["noun"] or match["times"]):
            continue
        if re.search(r"[가-힣a-z0-9]\Z|[a-z0-9][-_.'/:,]\Z|-\Z" if not match["open"] else r"[a-z0-9]\Z", before):
            continue
        if re.match(r"[-.,:/]\d|['_+#%℃°]|-[a-z]|\.[a-z]\b", after):
            continue
        ends = _GLUED if is_sign or is_letter or is_number else _GLUED_LETTER
        glued = re.match(ends, after)
        if not glued or (is_sign and not match["close"] and not match["times"] and not re.match(ends, after)):
            continue
        if (
            not is_sign and (is_letter or is_number) and not match["close"]
        ):  # the article of "a cat", the vitamin of "vitamin c"
            last, following = re.search(r"([a-z']+) \Z", before), re.match(r" ([a-z']+)", after)
            if (last and last[1] not in _BEFORE_LETTER) or (following and following[1] not in _AFTER_LETTER):
                continue
        kind = SIGN if is_sign else LETTER if is_letter else FAINT
        is_plain = not glued[0] and not _AFTER_BARE.match(after)  # B 지역, 2번 버스
        if kind != FAINT and not match["noun"] and (is_plain or _NAMED_BY_LETTER.search(before)):
            kind = FAINT
        found.append(_Mention(match.start(), match.end(), names[name], kind))
    for match in re.finditer(rf"(?<![가-힣0-9])({'|'.join(_ORDINALS)}|\d)\s*번째(\s*{_NOUN}|\s*번호)?(?={_GLUED})", said):
        place = _ORDINALS.get(match[1]) or int(match[1])
        if 1 <= place <= len(shown):
            found.append(_Mention(*match.span(), place - 1, SIGN if match[2] else FAINT))
    for match in re.finditer(rf"\b({'|'.join(_ENGLISH_ORDINALS)}) (?:{_NOUN}|answer|one)\b", said):
        if _ENGLISH_ORDINALS[match[1]] <= len(shown):
            found.append(_Mention(*match.span(), _ENGLISH_ORDINALS[match[1]] - 1, SIGN))
    return found


# --- what is said of them


def _groups(masked: str, mentions: Sequence[_Mention]) -> list[list[_Mention]]:
    """Mentions that are named together: A와 B; B. 고양이; 고양이(B)."""
    groups: list[list[_Mention]] = [[mentions[0]]] if mentions else []
    for one, two in pairwise(mentions):
        gap = masked[one.end : two.start]
        if one.kind > REPLY and two.kind == TEXT and _PAIRED.fullmatch(gap):
            joined = one.index == two.index or bool(_CLOSED.match(masked, two.end))
        else:
            joined = "\n" not in gap and bool(_LINKED.fullmatch(gap))
        if joined:
            groups[-1].append(two)
        else:
            groups.append([two])
    return groups


def _standing(masked: str, groups: Sequence[list[_Mention]]) -> list[list[_Mention]]:
    """Groups that are not ruled out: not A, A가 아니라, A는 강아지이므로 틀렸고, A처럼 보이지만."""
    ruled_out = [False] * (len(groups) + 1)
    for number in reversed(range(len(groups))):
        group = groups[number]
        ruled_out[number] = group[0].kind != REPLY and (
            bool(_NEGATED.match(masked, group[-1].end) or _NEGATED_BEFORE.search(masked[: group[0].start]))
            or (ruled_out[number + 1] and bool(_TOPIC.fullmatch(masked[group[-1].end : groups[number + 1][0].start])))
        )
    standing = [group for group, is_out in zip(groups, ruled_out) if not is_out]
    return [group for group in standing if not _CONCEDED.match(masked, group[-1].end)] or standing


def _indices(group: Sequence[_Mention]) -> set[int]:
    return {mention.index for mention in group if mention.kind != FAINT} or {mention.index for mention in group}


def _declared(masked: str, groups: Sequence[list[_Mention]]) -> set[int] | None:
    """What the last declaration names: 정답은 B, B가 정답; without one, what the last conclusion names: 따라서 B, B가 맞습니다."""
    standing = _standing(masked, groups)
    for forward, backward in zip(_DECLARING, _DECLARED):
        found = [(group[0].start, _indices(group)) for group in standing if backward.match(masked, group[-1].end)]
        for match in forward.finditer(masked):
            named: list[list[_Mention]] = []
            for group in (group for group in standing if group[0].start >= match.end()):
                between = masked[match.end() : group[0].start]
                if re.search(r"[.!?](?:\s|$)|\n", between) and re.search(r"\w", between):
                    break
                if named and _CLAUSE_END.search(masked[named[-1][-1].end : group[0].start]):
                    break
                is_faint = all(mention.kind == FAINT for mention in group)
                if not (is_faint and (named or re.search(r"\w", _FILLER.sub("", between)))):
                    named.append(group)
            if named:
                found.append((named[0][0].start, set[int]().union(*map(_indices, named))))
        if found:
            return max(found, key=lambda each: each[0])[1]
    return None


def _lines(masked: str, groups: Sequence[list[_Mention]]) -> list[tuple[str, list[list[_Mention]], str]]:
    """Of each line what comes before its first group, its groups, what comes after the first."""
    lines, start = [], 0
    for line in masked.split("\n"):
        inside = [group for group in groups if start <= group[0].start < start + len(line)]
        if inside:
            lines.append((masked[start : inside[0][0].start], inside, masked[inside[0][-1].end : start + len(line)]))
        elif re.search(r"\w", line):
            lines.append((line, [], ""))
        start += len(line) + 1
    return lines


def _is_whole(before: str, inside: Sequence, after: str) -> bool:
    return len(inside) == 1 and not re.search(r"\w", before) and bool(re.fullmatch(rf"[\W_]*(?:{_IT_IS}|번)?[\W_]*", after))


def _last_line(masked: str, groups: Sequence[list[_Mention]]) -> set[int] | None:
    lines = _lines(masked, groups)
    if not lines or not _is_whole(*lines[-1]):
        return None
    return set[int]().union(*(_indices(line[1][0]) for line in lines if _is_whole(*line)))


def _opening(masked: str, groups: Sequence[list[_Mention]]) -> set[int] | None:
    """B. 고양이가 ...; 고양이입니다. ...; but the first two options one under the other are the question told again."""
    opened = []
    for before, inside, after in _lines(masked, groups)[:2]:
        if not inside or re.search(r"\w", before) or inside[0] not in _standing(masked, groups):
            break
        ends = (
            r"\s*[.):\]>-]"
            if all(mention.kind == FAINT for mention in inside[0])
            else rf"\s*(?:[.,:;)\]>(\"'–—-]|{_IT_IS}{_WORD_END}|$)"
        )
        has_label = inside[0][0].kind > REPLY and len(inside[0]) > 1
        if not (has_label or re.match(ends, after) or _is_whole(before, inside, after)):
            break
        opened.append(_indices(inside[0]))
    if not opened:
        return None
    return {0, 1} if opened == [{0}, {1}] else opened[0]
