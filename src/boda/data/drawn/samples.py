"""Drawn pictures and what is said about them as Samples: endless collections, each a pure function of (seed, number)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from PIL import Image

from boda.data.drawn.canvas import Dice, paint
from boda.data.drawn.fonts import FONTS, SEEN
from boda.data.drawn.interleaved import MOST, MOST_TURNS, document
from boda.data.drawn.listings import inventory, profiles
from boda.data.drawn.scenes import LAYOUTS, alike_facts, check_number, scene_facts
from boda.data.drawn.sentences import (
    FULL,
    KINDS,
    STYLES,
    WORDINGS,
    Said,
    ask,
    description,
    is_a,
    question,
)
from boda.data.drawn.words import WORDS, check_words, paint_word, word_facts
from boda.data.korean import with_particle
from boda.data.plan import generator
from boda.data.sample import IMAGE_MARK, ImageRef, Sample, Source, conversation
from boda.errors import BodaError

LICENCE = "Apache-2.0 (drawn by Boda)"
MAX_SEED = 2**32 - 1
QUESTIONS_A_PICTURE = 6
CHOICES: dict[str, tuple[str, ...]] = {
    "layout": tuple(LAYOUTS),
    "kind": (*KINDS, "description", "word", *MOST),
    "style": (*STYLES, FULL),
    "font": tuple(FONTS),
    "pair": ("seen", "unseen"),
    "turns": tuple(map(str, range(1, MOST_TURNS + 1))),
}


@dataclass(frozen=True)
class Choice:
    """What a collection is narrowed to.

    Args:
        layout, kind, style, font: of the pictures and questions, all of CHOICES unless said; a number as layout: so many objects;
            fonts: those seen in training.
        pair: `seen`: no held-out pair of colour and shape is drawn or named; `unseen`: every question is about one. Of
            documents whose pictures show what to do: no task and no name that is kept for testing, or only such.
        turns: pictures of a document; any number unless said.
        words: the words that are written.
    """

    layout: tuple[str, ...] = CHOICES["layout"]
    kind: tuple[str, ...] = CHOICES["kind"]
    style: tuple[str, ...] = STYLES
    font: tuple[str, ...] = SEEN
    pair: tuple[str, ...] = ("seen",)
    turns: tuple[str, ...] = ()
    words: Sequence[str] = field(default=WORDS, repr=False)

    @classmethod
    def of(cls, where: Mapping[str, str | Sequence[str]] | None, words: Sequence[str] | None = None) -> Choice:
        """From the `where` of a recipe. Raises BodaError on what there is none of, and on words that cannot be written."""
        given: dict = {}
        for name, values in (where or {}).items():
            if name not in CHOICES:
                raise BodaError(f"where: drawn data has no '{name}'; it can be narrowed by {', '.join(CHOICES)}")
            given[name] = (values,) if isinstance(values, str) else tuple(values)
            if not given[name]:
                raise BodaError(f"where: {name} is an empty list; there are {', '.join(CHOICES[name])}")
            for value in given[name]:
                if name == "layout" and value.isdecimal():
                    check_number(int(value))
                elif value not in CHOICES[name]:
                    raise BodaError(f"where: {name} '{value}' is not drawn; there are {', '.join(CHOICES[name])}")
        choice = cls(**given, **({} if words is None else {"words": tuple(words)}))
        if words is not None:
            if cut := [word for word in words if "/" in word]:
                raise BodaError(f"'{cut[0]}' cannot be drawn: a word has no '/'")
            check_words(choice.words, choice.font)
        return choice


def written_facts(font: str, words: Sequence[str], seed: int, number: int) -> dict:
    return word_facts(generator(seed, "word", font, number), words, (font,))


def facts(name: str) -> dict:
    """What the picture of a name shows: `scene/few/seen/0/17`, `word/gothic/나무/0/5`. Raises BodaError where there is none."""
    parts = name.split("/")
    if len(parts) == 5 and all(part.isascii() and part.isdecimal() for part in parts[3:]):
        (kind, where, which), seed, number = parts[:3], int(parts[3]), int(parts[4])
        if kind == "scene" and which in CHOICES["pair"]:
            return scene_facts(where, which, seed, number)
        if kind == "alike":
            return alike_facts(where, which, seed, number)
        if kind == "word":
            return written_facts(where, (which,), seed, number)
    raise BodaError(f"no drawn picture is called '{name}'")


def picture(name: str) -> Image.Image:
    """The picture of a name that a sample's ImageRef bears, drawn anew."""
    found = facts(name)
    return paint_word(found) if "word" in found else paint(found)


def _scene_of(choice: Choice, seed: int, number: int) -> tuple[dict, ImageRef, Dice, bool]:
    """A scene, its picture, the dice for what is said about it, and whether it is about a held-out pair."""
    dice = Dice("said", seed, number)
    layout, pair = dice.pick(choice.layout), dice.pick(choice.pair)
    return (
        scene_facts(layout, pair, seed, number),
        ImageRef(drawn=f"scene/{layout}/{pair}/{seed}/{number}"),
        dice,
        pair == "unseen",
    )


def _sample(said: Said, picture: ImageRef, number: int, *before: Said, **tags: str) -> Sample:
    """A conversation about one picture that ends with `said`."""
    turns: list[tuple] = []
    for each in (*before, said):
        turns += [("user", each.question), ("assistant", each.answer)]
    turns[0] = ("user", IMAGE_MARK + turns[0][1])
    labels = {"type": said.kind, "style": said.style, "pair": "unseen" if said.unseen else "seen", **tags}
    return conversation(
        *turns,
        images=(picture,),
        rejected=said.rejected or None,
        tags=tuple(labels.items()),
        source=Source("drawn", number, LICENCE),
    )


def _descriptions(choice: Choice, seed: int, number: int) -> Iterator[Sample]:
    """One description of a scene."""
    facts, image, dice, _ = _scene_of(choice, seed, number)
    yield _sample(description(facts, dice, dice.pick(choice.style)), image, number)


def _listings(tell: Callable[[dict, Dice, str], Said], choice: Choice, seed: int, number: int) -> Iterator[Sample]:
    """All objects of a scene in random order, as `tell` tells them."""
    facts, image, dice, _ = _scene_of(choice, seed, number)
    yield _sample(tell(facts, dice, dice.pick([style for style in choice.style if style in STYLES[:3]])), image, number)


def _asked(choice: Choice, seed: int, number: int, most: int) -> tuple[list[Said], ImageRef]:
    facts, image, dice, unseen = _scene_of(choice, seed, number)
    kinds = [kind for kind in choice.kind if kind in KINDS]
    found = (question(facts, kind, dice, dice.pick(choice.style), unseen) for kind in dice.some(kinds, len(kinds)))
    asked = [said for said in found if said is not None][:most]
    if "description" in choice.kind:
        asked.insert(0, description(facts, dice, dice.pick(choice.style)))
    return asked, image


def _questions(choice: Choice, seed: int, number: int) -> Iterator[Sample]:
    """A description and questions of different kinds about one scene, each a sample of its own."""
    asked, image = _asked(choice, seed, number, QUESTIONS_A_PICTURE)
    for said in asked:
        yield _sample(said, image, number)


def _conversations(choice: Choice, seed: int, number: int) -> Iterator[Sample]:
    """Two to four questions on one scene in one conversation."""
    asked, image = _asked(choice, seed, number, 2 + number % 3)
    if asked:
        yield _sample(asked[-1], image, number, *asked[:-1])


def _preferences(choice: Choice, seed: int, number: int) -> Iterator[Sample]:
    """A right answer and one in which something is wrong."""
    asked, image = _asked(choice, seed, number, 1)
    yield from (_sample(said, image, number) for said in asked if said.rejected)


READ_WORD = {
    "formal": ("무엇이라고 쓰여 있습니까?", "그림의 글자를 읽어 주십시오."),
    "polite": ("뭐라고 쓰여 있나요?", "그림의 글자를 읽어 주세요."),
    "plain": ("무엇이라고 쓰여 있는가?", "그림의 글자를 읽어라."),
    "short": ("그림의 낱말만 쓰세요.", "글자를 그대로 옮겨 쓰세요."),
}


def _words(choice: Choice, seed: int, number: int) -> Iterator[Sample]:
    """A Hangul word to be read, and the colour it is written in."""
    dice = Dice("read", seed, number)
    font, style, word = dice.pick(choice.font), dice.pick(choice.style), dice.pick(choice.words)
    ref = ImageRef(drawn=f"word/{font}/{word}/{seed}/{number}")
    tags = {"font": "seen" if font in SEEN else "held out"}
    if "word" in choice.kind:
        others = [each for each in choice.words if each != word]
        wrong = dice.pick(others) if others else ""
        say = lambda text: text if style == "short" else is_a(f"'{text}'", style)  # noqa: E731
        rejected = say(wrong) if wrong else ""
        yield _sample(Said("word", style, dice.pick(READ_WORD[style]), say(word), rejected), ref, number, **tags)
    if "colour" in choice.kind:
        colour = written_facts(font, (word,), seed, number)["colour"]
        yield _sample(Said("colour", style, ask("colour", style, "글자", dice), is_a(colour, style)), ref, number, **tags)


def _text(choice: Choice, seed: int, number: int) -> Iterator[Sample]:
    """Text alone: a scene told in words and a question on it, words and how they are spelled."""
    dice = Dice("text", seed, number)
    source = Source("drawn", number, LICENCE)
    if dice.chance(0.7):
        facts = scene_facts(dice.pick(choice.layout), "seen", seed, number)
        told = description(facts, dice, dice.pick(STYLES[:3])).answer
        yield conversation(("assistant", told), source=source)
        asked = [question(facts, kind, dice) for kind in dice.some(list(KINDS), 4)]
        asked += [description(facts, dice, dice.pick(STYLES)), inventory(facts, dice, dice.pick(STYLES[:3]))]
        turns: list[tuple] = []
        for said in filter(None, dice.some(asked, len(asked))):
            turns += [("user", said.question), ("assistant", said.answer)]
        yield conversation(("user", f"{told}\n{turns[0][1]}"), *turns[1:], source=source)
        return
    word, other, style = dice.pick(choice.words), dice.pick(choice.words), dice.pick(STYLES[:3])
    yield conversation(("assistant", " ".join(dice.some(choice.words, min(4, len(choice.words))))), source=source)
    yield conversation(
        ("user", f"'{word}'의 글자를 하나씩 말해 주세요."), ("assistant", ", ".join(word) + "입니다."), source=source
    )
    joined = f"{with_particle(word, '과와')} {with_particle(other, '은는')}"
    same = "같은" if word == other else "다른"
    yield conversation(("assistant", f"{joined} {is_a(f'{same} 낱말', style)}"), source=source)
    quoted = f"'{word}'"
    written = with_particle(quoted, "이라는/라는") + " 글자가 쓰여 있다."
    yield conversation(("user", f"{written}\n{dice.pick(READ_WORD[style])}"), ("assistant", is_a(quoted, style)), source=source)
    yield conversation(("user", f"{written}\n{dice.pick(READ_WORD['short'])}"), ("assistant", word), source=source)


def _text_preferences(choice: Choice, seed: int, number: int) -> Iterator[Sample]:
    """Text alone: a scene told in words, a question on it, a right answer and one in which something is wrong."""
    dice = Dice("text preference", seed, number)
    facts = scene_facts(dice.pick(choice.layout), "seen", seed, number)
    told = description(facts, dice, dice.pick(STYLES[:3])).answer
    asked = (question(facts, kind, dice) for kind in dice.some(list(KINDS), len(KINDS)))
    for said in [said for said in asked if said is not None and said.rejected][:1]:
        yield conversation(
            ("user", f"{told}\n{said.question}"),
            ("assistant", said.answer),
            rejected=said.rejected,
            tags=(("type", said.kind),),
            source=Source("drawn", number, LICENCE),
        )


def _interleaved(choice: Choice, seed: int, number: int) -> Iterator[Sample]:
    """Several pictures, each with a question, or with nothing, and an answer."""
    told = document(choice, seed, number)
    yield conversation(
        *(turn for asked, answer in told.turns for turn in (("user", IMAGE_MARK + asked), ("assistant", answer))),
        images=tuple(ImageRef(drawn=name) for name in told.pictures),
        tags=tuple(told.tags.items()),
        source=Source("drawn", number, LICENCE),
    )


COLLECTIONS: dict[str, Callable[[Choice, int, int], Iterator[Sample]]] = {
    "descriptions": _descriptions,
    "inventories": partial(_listings, inventory),
    "profiles": partial(_listings, profiles),
    "questions": _questions,
    "words": _words,
    "conversations": _conversations,
    "interleaved": _interleaved,
    "preferences": _preferences,
    "text": _text,
    "text-preferences": _text_preferences,
}
assert set(KINDS) < set(WORDINGS)
# What narrows a collection.
SCENES = ("layout", "pair", "style", "kind")
NARROWED = {
    "words": ("font", "words", "style", "kind"),
    "text": ("layout", "words"),
    "text-preferences": ("layout",),
    "descriptions": SCENES[:3],
    "inventories": SCENES[:3],
    "profiles": SCENES[:3],
    "interleaved": ("turns", "pair", "style", "kind"),
}


def read(
    collection: str,
    limit: int,
    seed: int = 0,
    where: Mapping[str, str | Sequence[str]] | None = None,
    start: int = 0,
    words: Sequence[str] | None = None,
) -> Iterator[Sample]:
    """Samples of a collection: of the pictures `start` to `start + limit`, lazily.

    Args:
        collection: a key of COLLECTIONS.
        limit: number of pictures (of texts).
        seed: 0 to 2**32 - 1; another seed, other pictures.
        where: narrows it, e.g. {"layout": "one", "kind": ["colour", "shape"]}; see CHOICES.
        words: those to write, in place of Boda's own.

    Raises:
        BodaError: no such collection, a seed out of range, nothing of what `where` asks for, or a word that cannot be written.
    """
    if collection not in COLLECTIONS:
        raise BodaError(f"nothing drawn is called '{collection}'; there are {', '.join(COLLECTIONS)}")
    check_seed(seed)
    choice = Choice.of(where, words)
    narrowed = NARROWED.get(collection, SCENES)
    if idle := [name for name in (*(where or {}), *(["words"] if words is not None else [])) if name not in narrowed]:
        raise BodaError(f"{collection} are not narrowed by {idle[0]}, only by {', '.join(narrowed)}")
    return _read(partial(COLLECTIONS[collection], choice, seed), range(start, start + limit))


def _read(make: Callable[[int], Iterator[Sample]], numbers: range) -> Iterator[Sample]:
    for number in numbers:
        yield from make(number)


def check_seed(seed: int) -> None:
    if not 0 <= seed <= MAX_SEED:
        raise BodaError(f"seed {seed} is out of range: 0 to {MAX_SEED}")
