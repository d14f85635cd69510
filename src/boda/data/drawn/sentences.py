"""What can be said and asked about a scene in Korean: descriptions, questions with answers, true and false statements.

Answers keep the style of the question: formal (합니다), polite (해요), plain (한다) or short (a word or two).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache

from boda.data.drawn.canvas import COLOURS, PATTERNS, SHAPES, Dice
from boda.data.drawn.scenes import HELD_OUT_PAIRS, PLACES, SIZES, is_unseen, place_of
from boda.data.korean import with_particle

STYLES = ("formal", "polite", "plain", "short")
FULL = "full"  # formal, and the answer says again what it is about; only where it is asked for
NUMBERS = ("", "한", "두", "세", "네", "다섯", "여섯", "일곱", "여덟", "아홉")
particled = lru_cache(maxsize=65536)(with_particle)


@dataclass(frozen=True)
class Said:
    """A question on a scene and its answer.

    Args:
        kind: of the question, a key of KINDS or `description`.
        style: one of STYLES, or FULL; of question and answer alike.
        rejected: an answer like the right one in which something is wrong; empty where none is made.
        unseen: whether it is about an object whose colour and shape are a held-out pair.
        topic: the words in the question that say what it is about.
    """

    kind: str
    style: str
    question: str
    answer: str
    rejected: str = ""
    unseen: bool = False
    topic: str = ""


# -- pieces of sentences -------------------------------------------------------------------------------------------------------
def is_a(noun: str, style: str) -> str:
    """It is `noun`."""
    if style == "short":
        return noun
    return {"formal": f"{noun}입니다", "polite": particled(noun, "이에요예요"), "plain": particled(noun, "이다다")}[style] + "."


def there_is(subject: str, style: str, place: str = "") -> str:
    """`subject` (with its particle) is there; short: as a noun."""
    verb = {"formal": "있습니다.", "polite": "있어요.", "plain": "있다."}[style]
    return f"{place}에 {subject} {verb}" if place else f"{subject} {verb}"


YES_NO: dict[str, tuple[str, str]] = {
    "formal": ("네, 그렇습니다.", "아니요, 그렇지 않습니다."),
    "polite": ("네, 그래요.", "아니요, 그렇지 않아요."),
    "plain": ("그렇다.", "그렇지 않다."),
    "short": ("네", "아니요"),
}
THERE_OR_NOT: dict[str, tuple[str, str]] = {
    "formal": ("네, 있습니다.", "아니요, 없습니다."),
    "polite": ("네, 있어요.", "아니요, 없어요."),
    "plain": ("있다.", "없다."),
    "short": ("네", "아니요"),
}
RIGHT_WRONG: dict[str, tuple[str, str]] = {
    "formal": ("맞습니다.", "틀립니다."),
    "polite": ("맞아요.", "틀려요."),
    "plain": ("맞다.", "틀리다."),
    "short": ("맞음", "틀림"),
}
NOTHING = {"formal": "아무것도 없습니다.", "polite": "아무것도 없어요.", "plain": "아무것도 없다.", "short": "없음"}
# Wordings of a question by style; {x} is what is asked about, with 은/는 where it says {x:은는}.
WORDINGS: dict[str, dict[str, tuple[str, ...]]] = {
    "colour": {
        "formal": ("{x:은는} 무슨 색입니까?", "{x}의 색은 무엇입니까?"),
        "polite": ("{x:은는} 무슨 색인가요?", "{x:은는} 무슨 색이에요?", "{x}의 색을 알려 주세요."),
        "plain": ("{x:은는} 무슨 색인가?", "{x}의 색을 말하라."),
        "short": ("{x:은는} 무슨 색인가요? 한 단어로 답하세요.", "{x}의 색은? 짧게 답하세요."),
    },
    "shape": {
        "formal": ("{x:은는} 무슨 모양입니까?", "{x}의 모양은 무엇입니까?"),
        "polite": ("{x:은는} 무슨 모양인가요?", "{x:은는} 어떤 모양이에요?", "{x}의 모양을 알려 주세요."),
        "plain": ("{x:은는} 무슨 모양인가?", "{x}의 모양을 말하라."),
        "short": ("{x:은는} 무슨 모양인가요? 한 단어로 답하세요.", "{x}의 모양은? 짧게 답하세요."),
    },
    "position": {
        "formal": ("{x:은는} 어디에 있습니까?", "{x}의 위치는 어디입니까?"),
        "polite": ("{x:은는} 어디에 있나요?", "{x:은는} 어디에 있어요?", "{x}의 위치를 알려 주세요."),
        "plain": ("{x:은는} 어디에 있는가?", "{x}의 위치를 말하라."),
        "short": ("{x:은는} 어디에 있나요? 짧게 답하세요.", "{x}의 위치는? 짧게 답하세요."),
    },
    "existence": {
        "formal": ("{x:이가} 있습니까?", "그림에 {x:이가} 있습니까?"),
        "polite": ("{x:이가} 있나요?", "그림에 {x:이가} 있어요?", "그림에서 {x:을를} 볼 수 있나요?"),
        "plain": ("{x:이가} 있는가?", "그림에 {x:이가} 있는가?"),
        "short": ("{x:이가} 있나요? 네 또는 아니요로 답하세요.", "그림에 {x:이가} 있나요? 짧게 답하세요."),
    },
    "count": {
        "formal": ("{x:은는} 몇 개입니까?", "{x:이가} 몇 개 있습니까?"),
        "polite": ("{x:은는} 몇 개인가요?", "{x:이가} 몇 개 있어요?", "{x:을를} 세어 보세요."),
        "plain": ("{x:은는} 몇 개인가?", "{x:을를} 세어라."),
        "short": ("{x:은는} 몇 개인가요? 짧게 답하세요.", "{x}의 수는? 짧게 답하세요."),
    },
    "size": {
        "formal": ("{x:은는} 큽니까, 작습니까?",),
        "polite": ("{x:은는} 큰가요, 작은가요?", "{x}의 크기를 알려 주세요."),
        "plain": ("{x:은는} 큰가, 작은가?",),
        "short": ("{x:은는} 큰가요, 작은가요? 한 단어로 답하세요.",),
    },
    "pattern": {
        "formal": ("{x}에는 무슨 무늬가 있습니까?",),
        "polite": ("{x}에는 무슨 무늬가 있나요?", "{x}의 무늬를 알려 주세요."),
        "plain": ("{x}에는 무슨 무늬가 있는가?",),
        "short": ("{x}의 무늬는? 짧게 답하세요.",),
    },
    "object": {
        "formal": ("{x}에는 무엇이 있습니까?",),
        "polite": ("{x}에는 무엇이 있나요?", "{x}에 있는 것을 알려 주세요."),
        "plain": ("{x}에는 무엇이 있는가?",),
        "short": ("{x}에는 무엇이 있나요? 짧게 답하세요.",),
    },
    "relation": {
        "formal": ("{x} 있습니까?",),
        "polite": ("{x} 있나요?", "{x} 있어요?"),
        "plain": ("{x} 있는가?",),
        "short": ("{x} 있나요? 네 또는 아니요로 답하세요.",),
    },
    "statement": {
        "formal": ("다음 말이 맞습니까? {x}",),
        "polite": ("{x} 맞나요?", "다음 말이 맞나요, 틀리나요? {x}"),
        "plain": ("다음 말이 맞는가? {x}",),
        "short": ("{x} 맞음 또는 틀림으로 답하세요.",),
    },
    "description": {
        "formal": ("그림을 설명해 주십시오.", "그림에 무엇이 어디에 있습니까?"),
        "polite": ("그림을 설명해 주세요.", "무엇이 보이는지 자세히 말해 주세요.", "그림에 뭐가 있어요?"),
        "plain": ("그림을 설명하라.", "그림에 무엇이 있는지 쓰라."),
        "short": ("그림을 짧게 설명해 주세요.", "그림의 제목을 지어 주세요."),
    },
}


def ask(kind: str, style: str, x: str, dice: Dice) -> str:
    """A wording of the question."""
    wording = dice.pick(WORDINGS[kind][style])
    if "{x:" in wording:
        before, _, rest = wording.partition("{x:")
        particle, _, after = rest.partition("}")
        return before + particled(x, particle) + after
    return wording.replace("{x}", x)


def noun_phrase(thing: dict, full: bool = True) -> str:
    """큰 빨간색 줄무늬 별, or 빨간색 별."""
    words = (thing["size"], thing["colour"], thing["pattern"], thing["shape"]) if full else (thing["colour"], thing["shape"])
    return " ".join(word for word in words if word)


def reference(thing: dict, scene: dict, hidden: str, dice: Dice) -> str | None:
    """Words that mean this object alone and do not tell its `hidden` attribute (a key of the object, or `cell`); None: none."""
    others = [each for each in scene["objects"] if each is not thing]
    colour, shape, size = thing["colour"], thing["shape"], thing["size"]
    options: list[str] = [] if others else ["도형", "이 도형"]
    if hidden != "cell":
        options += [f"{place_of(thing)}에 있는 도형"] * 2
    tries = (
        (("colour",), f"{colour} 도형"),
        (("shape",), shape),
        (("colour", "shape"), f"{colour} {shape}"),
        (("size", "shape"), f"{size} {shape}"),
        (("size", "colour"), f"{size} {colour} 도형"),
    )
    for keys, words in tries:
        if hidden not in keys and all(any(thing[key] != each[key] for key in keys) for each in others):
            options.append(words)
    return dice.pick(options) if options else None


# -- descriptions --------------------------------------------------------------------------------------------------------------
def describe(scene: dict, style: str, changed: dict | None = None) -> str:
    """All objects in reading order with their places, or (short) a caption. `changed` replaces the object of its cell."""
    things = [changed if changed and changed["cell"] == each["cell"] else each for each in scene["objects"]]
    if style == "short":
        if len(things) > 3:
            return f"도형 {NUMBERS[len(things)]} 개"
        names = [noun_phrase(thing, full=False) for thing in things]
        return "".join(particled(name, "과와") + " " for name in names[:-1]) + names[-1]
    if len(things) == 1:
        return there_is(particled(noun_phrase(things[0]), "이가"), style, place_of(things[0]))
    clauses = [f"{place_of(thing)}에는 {particled(noun_phrase(thing), '이가')}" for thing in things]
    return there_is(", ".join(clauses), style)


def description(scene: dict, dice: Dice, style: str | None = None) -> Said:
    style = "formal" if style == FULL else style or dice.pick(STYLES[:3])
    wrong = describe(scene, style, _altered(dice.pick(scene["objects"]), dice))
    return said_of("description", style, ask("description", style, "", dice), describe(scene, style), wrong, scene["objects"])


def _altered(thing: dict, dice: Dice) -> dict:
    """The object with another colour or shape, never so that a held-out pair comes about."""
    while True:
        key, values = dice.pick((("colour", tuple(COLOURS)), ("shape", SHAPES)))
        other = {**thing, key: dice.pick(values)}
        if other[key] != thing[key] and not is_unseen(other):
            return other


# -- questions -----------------------------------------------------------------------------------------------------------------
def said_of(kind: str, style: str, question: str, answer: str, rejected: str, about: list[dict], topic: str = "") -> Said:
    return Said(kind, style, question, answer, "" if rejected == answer else rejected, any(map(is_unseen, about)), topic)


def _attribute(key: str, values: tuple[str, ...], say: Callable[[str, str], str]):
    """Questions whose answer is one attribute of one object."""

    def make(scene: dict, thing: dict, style: str, dice: Dice) -> Said | None:
        x = reference(thing, scene, "cell" if key == "cell" else key, dice)
        if x is None:
            return None
        value = place_of(thing) if key == "cell" else thing[key]
        kind = {"cell": "position"}.get(key, key)
        wrong = dice.pick([each for each in values if each != value])
        return said_of(kind, style, ask(kind, style, x, dice), say(value, style), say(wrong, style), [thing], x)

    return make


def _say_place(place: str, style: str) -> str:
    return place if style == "short" else there_is(f"{place}에", style)


def say_size(size: str, style: str) -> str:
    forms = {"큰": ("큽니다.", "커요.", "크다.", "큼"), "작은": ("작습니다.", "작아요.", "작다.", "작음")}
    return forms[size][STYLES.index(style)]


def say_pattern(pattern: str, style: str) -> str:
    if style == "short":
        return pattern or "없음"
    none = {"formal": "무늬가 없습니다.", "polite": "무늬가 없어요.", "plain": "무늬가 없다."}
    return there_is(particled(pattern, "이가"), style) if pattern else none[style]


def _existence(scene: dict, thing: dict, style: str, dice: Dice) -> Said:
    """Half of them ask about what is not there: mostly a colour and a shape that are both there, apart."""
    unseen, here = is_unseen(thing), {(each["colour"], each["shape"]) for each in scene["objects"]}
    is_there = dice.chance(0.5)
    x = noun_phrase(thing, full=False)
    if not is_there:
        # Of test scenes also pairs that were never seen; in training they must not even be named.
        colours = sorted({colour for colour, _ in here}) if dice.chance(0.7) else list(COLOURS)
        shapes = sorted({shape for _, shape in here}) if dice.chance(0.7) else list(SHAPES)
        pairs = [(c, s) for c in colours for s in shapes]
        if unseen:  # one of them is there at least, as in most of the others
            pairs = [pair for pair in sorted(HELD_OUT_PAIRS) if any(part in each for each in here for part in pair)]
        pairs = [pair for pair in pairs if pair not in here and (pair in HELD_OUT_PAIRS) == unseen]
        if unseen and not pairs:
            pairs = sorted(HELD_OUT_PAIRS - here)
        if not pairs:
            pairs = [(c, s) for c in COLOURS for s in SHAPES if (c, s) not in here and (c, s) not in HELD_OUT_PAIRS]
        x = " ".join(dice.pick(pairs))
    yes, no = THERE_OR_NOT[style]
    right, wrong = (yes, no) if is_there else (no, yes)
    return Said("existence", style, ask("existence", style, x, dice), right, wrong, unseen, x)


def _count(scene: dict, thing: dict, style: str, dice: Dice) -> Said:
    what = dice.below(3)
    key, x = ((None, "도형"), ("colour", f"{thing['colour']} 도형"), ("shape", thing["shape"]))[what]
    number = sum(key is None or each[key] == thing[key] for each in scene["objects"])
    wrong = dice.pick([each for each in range(1, 8) if each != number])
    say = lambda n: is_a(f"{NUMBERS[n]} 개", style)  # noqa: E731
    return said_of("count", style, ask("count", style, x, dice), say(number), say(wrong), [thing], x)


def _object(scene: dict, thing: dict, style: str, dice: Dice) -> Said:
    """What lies at a place: one time in five at an empty one."""
    empty = [place for cell, place in enumerate(PLACES) if all(each["cell"] != cell for each in scene["objects"])]

    def say(each: dict) -> str:
        noun = noun_phrase(each, full=False)
        return noun if style == "short" else there_is(particled(noun, "이가"), style)

    if empty and dice.chance(0.2):
        place = dice.pick(empty)
        return said_of("object", style, ask("object", style, place, dice), NOTHING[style], say(thing), [], place)
    place = place_of(thing)
    return said_of("object", style, ask("object", style, place, dice), say(thing), say(_altered(thing, dice)), [thing], place)


def _relation(scene: dict, thing: dict, style: str, dice: Dice) -> Said | None:
    """Whether one object lies further left, right, up or down than another."""
    others = [
        each for each in scene["objects"] if each["cell"] % 3 != thing["cell"] % 3 or each["cell"] // 3 != thing["cell"] // 3
    ]
    if not others:
        return None
    other = dice.pick(others)
    first, second = (reference(each, scene, "cell", dice) for each in (thing, other))
    if first is None or second is None:
        return None
    gaps = {"가로": thing["cell"] % 3 - other["cell"] % 3, "세로": thing["cell"] // 3 - other["cell"] // 3}
    axis = dice.pick([axis for axis, gap in gaps.items() if gap])
    names = ("왼쪽", "오른쪽") if axis == "가로" else ("위", "아래")
    asked = dice.below(2)
    is_so = (gaps[axis] > 0) == (asked == 1)
    yes, no = YES_NO[style]
    x = f"{particled(first, '이가')} {second}보다 {names[asked]}에"
    right, wrong = (yes, no) if is_so else (no, yes)
    return said_of("relation", style, ask("relation", style, x, dice), right, wrong, [thing, other], x)


def _statement(scene: dict, thing: dict, style: str, dice: Dice) -> Said:
    is_true = dice.chance(0.5)
    said = thing if is_true else _altered(thing, dice)
    x = there_is(particled(noun_phrase(said, full=False), "이가"), "plain", place_of(said))
    right, wrong = RIGHT_WRONG[style] if is_true else RIGHT_WRONG[style][::-1]
    return said_of("statement", style, ask("statement", style, x, dice), right, wrong, [thing])


KINDS: dict[str, Callable[[dict, dict, str, Dice], Said | None]] = {
    "colour": _attribute("colour", tuple(COLOURS), is_a),
    "shape": _attribute("shape", SHAPES, is_a),
    "position": _attribute("cell", PLACES, _say_place),
    "existence": _existence,
    "count": _count,
    "size": _attribute("size", tuple(SIZES), say_size),
    "pattern": _attribute("pattern", PATTERNS, say_pattern),
    "object": _object,
    "relation": _relation,
    "statement": _statement,
}


def question(scene: dict, kind: str, dice: Dice, style: str | None = None, unseen: bool = False) -> Said | None:
    """A question of a kind on a scene; None where the scene does not allow one. `unseen`: about the held-out pair in it."""
    things = [each for each in scene["objects"] if is_unseen(each)] if unseen else scene["objects"]
    style = style or dice.pick(STYLES)
    for thing in dice.some(things, len(things)):
        said = KINDS[kind](scene, thing, "formal" if style == FULL else style, dice)
        if said is not None:
            return in_full(said) if style == FULL else said
    return None


def in_full(said: Said) -> Said:
    """A formal question whose answers say again what they are about: 별은 빨간색입니다."""
    again = {
        "pattern": f"{said.topic}에는 ",
        "object": f"{said.topic}에는 ",
        "statement": "",
    }

    def full(answer: str) -> str:
        if said.kind == "existence":
            there, gone = particled(said.topic, "이가"), particled(said.topic, "은는")
            return f"네, {there} 있습니다." if answer[0] == "네" else f"아니요, {gone} 없습니다."
        if said.kind == "relation":
            return f"네, {said.topic} 있습니다." if answer[0] == "네" else f"아니요, {said.topic} 있지 않습니다."
        return again.get(said.kind, particled(said.topic, "은는") + " ") + answer

    rejected = full(said.rejected) if said.rejected else ""
    return replace(
        said, style=FULL, question=f"{said.question} 자세히 말해 주세요.", answer=full(said.answer), rejected=rejected
    )
