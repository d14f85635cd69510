"""Which option of a multiple-choice question an answer means, read as a Korean person would read it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise

from boda.evaluate.mentions import FAINT, IT_IS, NEITHER, REPLY, UNKNOWN, WORD_END, Mention, lower, mentions_in, plain

MARK = "\ue000"  # stands for a mention, letter by letter, where sentences are looked at

# After a mention, within its clause: what rules it out, and what grants that it only seemed so.
_NEGATED = re.compile(
    rf"(?:(?!(?:고|며|는데|인데|지만)[\s,])[^{MARK}.!?\n,]){{0,22}}?(?:아니(?![요오])|아닌(?!가)|아닙|아님|틀[렸린리립려]|오답|"
    r"제외|빼고|빼면|배제|말고|대신|보다[는도 ]|(?<!틀림)(?<!다름)(?<!밖에 )없[고다습으어는음네기]|"
    r"(?<![확분][실명]하지 )않(?!을까|나요|을지)|거리가 [먼멀]|"
    r"부적절|잘못|인지|[일할될을]지|\bisn't|\bnot\b|\bincorrect|\bwrong|\bfalse)|"
    r"\s*(?:중|가운데)(?:에서?|에서는)?[\s,]"  # A와 B 중 ...
)
_NEGATED_BEFORE = re.compile(r"(?:\bnot|isn't|except|rather than|instead of|unlike)\s*(?:the |an? )?\Z")
_CONCEDED = re.compile(
    rf"[^{MARK}.!?\n]{{0,20}}?(?:생각|보[이일]|볼 수|같|비슷|헷갈|혼동|오해|착각|수도)[^{MARK}.!?\n]{{0,9}}?(?:지만|으나|는데)"
)
# Between two mentions: A와 B, A/B, 고양이(B); B. 고양이, if the text ends its clause there; A는 고양이가 (아닙니다).
_LINKED = re.compile(
    r"(?:들|번)?[ \t]*(?:[,/·&+;|~\"' \t]|와|과|및|또는|혹은|그리고|이나|나|하고|이랑|랑|이거나|거나|아니면|or|and|즉|둘 다)*"
)
_PAIRED = re.compile(r"\s*(?:번)?[.):\-–—=>,]*\s*[\"'(]*")
_CLOSED = re.compile(rf"\s*{IT_IS}?\s*(?:[.!,;)\]\"'\n]|\Z)")
_TOPIC = re.compile(r"\s*(?:은|는|이|가|도|의 경우(?:는|에는|엔)?|번은|:)\s*,?\s*")

# Words before a choice that declare it, and words after it; then those that conclude.
_SAYS = r"[\])\"'”]*\s*(?:은|는|이란|:|=|→|->|>|is|would be|should be|must be)"
_NEXT = rf"[\])\"'”]*\s*(?=[(\"'\[]*{MARK})"
_ENDS = r"(?=입니다|이다|이에요|예요|이라|으로|이며|이고|이죠|일|인 것|인 듯|임|이 맞|이 됩|\s*[.!,)\n]|\s*\Z)"
_DECLARING = (
    re.compile(
        rf"(?<![가-힣])(?:정답|해답|답안|답변|답|(?:최종 )?선택|결론)(?: ?번호)?(?:{_SAYS}|이?{_NEXT})|"
        rf"(?<!wrong )(?<!incorrect )(?<![a-z])(?:answer|choice|option|choose)(?:{_SAYS}|{_NEXT})"
    ),
    re.compile(
        r"(?<![가-힣])(?:따라서|그러므로|결론적으로|결과적으로|결국|그래서|그렇기 때문에|종합하면|고르자면|고른다면|하나만 고르라면)|"
        r"(?<![a-z])(?:therefore|thus|hence|so|i(?:'d| would| will)? (?:choose|pick|select|go with))(?![a-z])"
    ),
)
_DECLARED = (
    re.compile(
        rf"\s*(?:번)?[이가은는을를]?\s*(?:바로|가장|제일)?\s*(?:정답|답){_ENDS}|"
        r"\s*(?:is|looks|seems) (?:the )?(?:most )?(?:correct|right|best|answer|accurate)"
    ),
    re.compile(
        r"\s*(?:번)?[이가은는을를로에도]?\s*(?:가장|제일|더)?\s*(?:맞|옳|적절|적합|올바|알맞|타당|해당|일치|선택|고르|골|택)"
    ),
)
_FILLER = re.compile(
    r"바로|아마도?|역시|당연히|보기|번호|중에서?|[이가은는]? ?아니(?:라|고)|[이가]? ?아닌|말고|대신|the|option"
)
_CLAUSE_END = re.compile(r"[.!?,;:\n(]|(?:며|고|는데|인데|지만|므로|라서|어서|니까|때문에)\s|입니다|이에요|예요")
_REFUSAL = re.compile(
    rf"(?:{UNKNOWN}|(?:볼|드릴|제공할|도와줄|선택할|고를|해석할|분석할) 수(?:가|는)? 없|정답이? 없|"
    r"해당하는 (?:보기|것|선택지)[가이는은] 없|i(?:'m| am) (?:unable|not able|not sure|sorry)|i can(?:no|')t)(?!\S*지만)"
)


def read_choice(answer: str, options: Sequence[str]) -> int | None:
    """The option that `answer` chooses, from 0; None where it chooses none or several.

    Labels are A, B, C ..., numbers and Korean letters that count the options through.
    In this order: the last declaration (정답은 ...), a last line that is nothing but a choice, a choice that opens the answer, the only
    option that is mentioned and not ruled out. A label next to another option's text (A. 고양이, where 고양이 is B) is no choice.
    """
    said, texts = plain(_answered(answer)), [plain(option) for option in options]
    bare = said.strip(" \n.\"'")
    if bare in texts and not re.search(r"\w", bare):  # an option that is a sign: +, ?
        return texts.index(bare) if texts.count(bare) == 1 else None
    mentions = mentions_in(said, texts)
    masked = lower(said)
    for mention in mentions:
        masked = masked[: mention.start] + MARK * (mention.end - mention.start) + masked[mention.end :]
    groups = _groups(masked, mentions)
    standing = _standing(masked, groups)
    for find in (_declared, _last_line, _opening):
        found = find(masked, standing)
        if found is not None:
            return _only(found)
    if _REFUSAL.search(masked):
        return None
    return _only(_indices(*(group for group in standing if any(mention.kind != FAINT for mention in group))))


def _only(found: set[int]) -> int | None:
    return next(iter(found)) if len(found) == 1 and NEITHER not in found else None


def _indices(*groups: Sequence[Mention]) -> set[int]:
    return {mention.index for group in groups for mention in group}


def _answered(text: str) -> str:
    """The answer without what was thought before it, and without markup; boxes and answer tags become declarations."""
    text = re.sub(r"(?is)<think(?:ing)?>.*?(?:</think(?:ing)?>|\Z)|\A.*</think(?:ing)?>", "\n", text)
    text = re.sub(r"(?i)\\(?:text(?:bf|rm|it)?|math(?:rm|bf)|mbox)\s*\{([^{}]*)\}", r"\1", text)
    text = re.sub(r"(?i)\\(?:boxed|fbox)\s*\{([^{}]*)\}", r"\n정답: \1\n", text)
    text = re.sub(r"(?is)<(answer|정답)>(.*?)(?:</\1>|\Z)", r"\n정답: \2\n", text)
    return re.sub(r"(?is)<(\w+)>(.*?)</\1>|<br\s*/?>", r" \2 ", text)


def _groups(masked: str, mentions: Sequence[Mention]) -> list[list[Mention]]:
    """Mentions that are named together: A와 B; B. 고양이; 고양이(B)."""
    groups = [[mentions[0]]] if mentions else []
    for one, two in pairwise(mentions):
        gap = masked[one.end : two.start]
        if one.kind > REPLY >= two.kind and _PAIRED.fullmatch(gap):  # a label and the text after it
            joined = one.index == two.index or bool(_CLOSED.match(masked, two.end))
        else:
            joined = bool(_LINKED.fullmatch(gap))
        if joined:
            groups[-1].append(two)
        else:
            groups.append([two])
    return groups


def _standing(masked: str, groups: Sequence[list[Mention]]) -> list[list[Mention]]:
    """Groups that are not ruled out: not A, A가 아니라, A는 강아지이므로 틀렸고; nor, where others are left, A처럼 보이지만."""
    standing: list[list[Mention]] = []
    was_out, after = False, len(masked)  # the group after this one, and where it begins
    for group in reversed(groups):
        start, end = group[0].start, group[-1].end
        is_out = group[0].kind != REPLY and bool(
            _NEGATED.match(masked, end) or _NEGATED_BEFORE.search(masked[max(0, start - 32) : start])
        )
        was_out, after = is_out or (was_out and bool(_TOPIC.fullmatch(masked[end:after]))), start
        if not was_out:
            standing.insert(0, group)
    return [group for group in standing if not _CONCEDED.match(masked, group[-1].end)] or standing


def _declared(masked: str, groups: Sequence[list[Mention]]) -> set[int] | None:
    """What the last declaration names: 정답은 B, B가 정답; without one, what the last conclusion names: 따라서 B, B가 맞습니다."""
    for forward, backward in zip(_DECLARING, _DECLARED):
        found = [[group] for group in groups if backward.match(masked, group[-1].end)]
        found += [named for match in forward.finditer(masked) if (named := _named_after(masked, match.end(), groups))]
        if found:
            return _indices(*max(found, key=lambda named: named[0][0].start))
    return None


def _named_after(masked: str, start: int, groups: Sequence[list[Mention]]) -> list[list[Mention]]:
    """The groups of the clause in which the first one comes after `start`, if that is in the same sentence."""
    named: list[list[Mention]] = []
    for group in (group for group in groups if group[0].start >= start):
        between = masked[start : group[0].start]
        if re.search(r"[.!?](?:\s|\Z)|\n", between) and re.search(r"\w", between):
            break
        if named and _CLAUSE_END.search(masked[named[-1][-1].end : group[0].start]):
            break
        is_faint = all(mention.kind == FAINT for mention in group)
        if not is_faint or not (named or re.search(r"\w", _FILLER.sub("", between))):
            named.append(group)
    return named


def _lines(masked: str, groups: Sequence[list[Mention]]) -> list[tuple[str, list[list[Mention]], str]]:
    """Of each line that says something: what comes before its first group, the groups that begin in it, what follows the first."""
    lines, start = [], 0
    for line in masked.split("\n"):
        end = start + len(line)
        inside = [group for group in groups if start <= group[0].start < end]
        if inside:
            lines.append((masked[start : inside[0][0].start], inside, masked[inside[0][-1].end : end]))
        elif re.search(r"\w", line):
            lines.append((line, [], ""))
        start = end + 1
    return lines


def _is_whole(before: str, inside: Sequence[list[Mention]], after: str) -> bool:
    """Whether a line is a choice and nothing else."""
    return len(inside) == 1 and not re.search(r"\w", before) and bool(re.fullmatch(rf"[\W_]*(?:{IT_IS}|번)?[\W_]*", after))


def _last_line(masked: str, groups: Sequence[list[Mention]]) -> set[int] | None:
    lines = _lines(masked, groups)
    if not lines or not _is_whole(*lines[-1]):
        return None
    return _indices(*(line[1][0] for line in lines if _is_whole(*line)))


def _opening(masked: str, groups: Sequence[list[Mention]]) -> set[int] | None:
    """B. 고양이가 ...; 고양이입니다. ...; but the first two options one after the other are the question told again."""
    lines = _lines(masked, groups)
    if not lines or not lines[0][1] or re.search(r"\w", lines[0][0]):
        return None
    before, inside, after = lines[0]
    first, has_label = inside[0], inside[0][0].kind > REPLY
    is_faint = all(mention.kind == FAINT for mention in first)
    ends = r"[)\]]?\s*\Z" if is_faint else rf"\s*(?:[.,:;)\]>(\"'–—-]|{IT_IS}{WORD_END}|\Z)"
    if not ((has_label and len(first) > 1) or re.match(ends, after) or _is_whole(before, inside, after)):
        return None
    for second in inside[1:2] or [group for line in lines[1:2] for group in line[1][:1] if not re.search(r"\w", line[0])]:
        is_label = second[0].kind > REPLY and (len(inside) == 1 or re.match(r"\s*[.):]", masked[second[0].end :]))
        if has_label and is_label and (_indices(first), _indices(second)) == ({0}, {1}):
            return {0, 1}
    return _indices(first)
