"""Sample + tokenizer + chat template -> token ids and which of them are trained. The one way to ids.

The chat template is rendered to text and the text to ids exactly as the saved folder's processor does, so a rendered prompt and
`processor.apply_chat_template(messages, add_generation_prompt=True)` give the same ids. An image stays one image token here; it
becomes its full number of tokens when rows are built (`boda.data.pack`).
"""

from __future__ import annotations

import copy
import re
from dataclasses import dataclass, replace
from itertools import compress

import numpy as np

from boda.data.sample import IMAGE_MARK, ImageRef, Message, Part, Sample, conversation
from boda.errors import WHY, BadRow, BodaError, explaining
from boda.recipe import reads_input

# Puts the text of list-shaped contents, pictures as `<image>` on lines of their own, before any template that expects strings.
# A content of two texts side by side is an instruction and its input: a template that writes them under headings of their own
# reads `message.input`, without the blank line in front of it, and `message.instruction`.
FLATTEN = (
    "{%- set boda = namespace(messages=[]) -%}"
    "{%- for message in messages -%}"
    "{%- if message.content is string -%}{%- set boda.messages = boda.messages + [message] -%}"
    "{%- else -%}"
    "{%- set flat = namespace(text='', before='', first='', texts=0) -%}"
    "{%- for part in message.content -%}"
    "{%- set kind = 'image' if part.type in ('image', 'image_url') else 'text' -%}"
    "{%- if flat.before and 'image' in (flat.before, kind) -%}{%- set flat.text = flat.text + '\\n' -%}{%- endif -%}"
    "{%- if kind == 'text' and flat.before == 'text' -%}{%- set flat.first = flat.text -%}{%- endif -%}"
    "{%- set flat.text = flat.text + ('<image>' if kind == 'image' else part.text) -%}"
    "{%- set flat.before = kind -%}"
    "{%- set flat.texts = flat.texts + (kind == 'text') -%}"
    "{%- endfor -%}"
    "{%- set message = dict(message, content=flat.text) -%}"
    "{%- if flat.first and flat.texts == 2 -%}"
    "{%- set rest = flat.text[flat.first | length:] -%}"
    "{%- set rest = rest[2:] if rest[:2] == '\\n\\n' else rest -%}"
    "{%- set message = dict(message, instruction=flat.first, input=rest) -%}"
    "{%- endif -%}"
    "{%- set boda.messages = boda.messages + [message] -%}"
    "{%- endif -%}"
    "{%- endfor -%}"
    "{%- set messages = boda.messages -%}{{- '' }}"
)
_MARK = re.compile(r"\{%(-?|\+?)\s*(end)?generation\s*(-?|\+?)%\}")


def processor_template(template: str) -> str:
    """The chat template to store in a model folder: takes pictures, and has no generation marks (other tools reject them)."""
    return FLATTEN + without_marks(template)


def tokenizer_template(template: str) -> str:
    """The chat template to store with a language model's tokenizer: plain, unless it tells an instruction from its input."""
    return processor_template(template) if reads_input(template) else without_marks(template)


def with_beginning(template: str, tokenizer) -> str:
    """The chat template of a language model: it writes the beginning-of-text token that the tokenizer puts before a text.

    For a tokenizer's `apply_chat_template` reads what the template writes and puts nothing before it, unlike a processor's.
    """
    renderer = Renderer(tokenizer, template, 0)
    text = renderer.text([{"role": "user", "content": "가"}], add_generation_prompt=True)
    tokens = "".join(tokenizer.convert_ids_to_tokens(renderer._start(text)))
    return f"{{{{ {tokens!r} }}}}{template}" if tokens else template


def without_marks(template: str) -> str:
    """The chat template without generation marks, writing the same text."""
    # `if true` keeps the white-space control of the mark it replaces.
    return _MARK.sub(lambda m: f"{{%{m[1]} {'endif' if m[2] else 'if true'} {m[3]}%}}", template)


@dataclass(frozen=True)
class Rendered:
    """One sample as ids."""

    input_ids: np.ndarray  # (n,) int32, one image token for each picture
    trained: np.ndarray  # (n,) bool, whether a token is a target of the loss
    images: tuple[ImageRef, ...]  # in the order of their tokens
    prefix: int = 0  # tokens up to and with the first picture if samples may share them, else 0
    truncated: bool = False  # whether the end was cut to fit
    answer: tuple[int, int] = (0, 0)  # where the last answer begins and ends; (0, 0): none, as in a document


class Renderer:
    """Renders samples for one model and one stage.

    Args:
        template: Jinja chat template; with `{% generation %}` marks they say what is trained, without them the answers and their
            end-of-turn token are found in the text.
        num_image_tokens: tokens a picture becomes (0: the model takes no pictures).
        max_length: most tokens a sample may have, pictures counted in full.
        system: system text for samples that have none.
        train_inputs: whether all tokens of text are trained, what is asked among them (labels = input ids).
    """

    width = 1  # what a sample gives that belongs together

    def __init__(
        self,
        tokenizer,
        template: str,
        num_image_tokens: int,
        max_length: int | None = None,
        system: str | None = None,
        train_inputs: bool = False,
    ):
        if not tokenizer.is_fast:
            raise BodaError(f"{type(tokenizer).__name__} is a slow tokenizer; one with a tokenizer.json is needed")
        self.tokenizer = tokenizer
        self.template = FLATTEN + template
        self.marked = _MARK.search(template) is not None
        self.num_image_tokens = num_image_tokens
        self.max_length = max_length
        self.system = system
        self.train_inputs = train_inputs
        self.image_id = tokenizer.convert_tokens_to_ids(IMAGE_MARK) if num_image_tokens else -1
        self._leading = self._leading_ids()
        added = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
        specials = sorted({*tokenizer.all_special_tokens, *added} - {IMAGE_MARK}, key=len, reverse=True)
        self._special = re.compile("|".join(map(re.escape, specials)) or r"(?!)")

    def _leading_ids(self) -> list[int]:
        """Ids the tokenizer puts in front of a text by itself (a BOS)."""
        bare = self.tokenizer("a", add_special_tokens=False).input_ids
        full = self.tokenizer("a").input_ids
        if full[-len(bare) :] != bare:
            raise BodaError("the tokenizer appends special tokens to every text, so a prompt would end before its answer")
        self._puts_space = self.tokenizer.convert_ids_to_tokens(bare)[0].startswith("▁")  # SentencePiece: "말" is read as " 말"
        return full[: -len(bare)]

    def text(self, messages: list[dict], add_generation_prompt: bool = False) -> str:
        """The conversation as the chat template writes it."""
        return self._jinja(messages, add_generation_prompt, marks=False)[0]

    def _jinja(self, messages: list[dict], add_generation_prompt: bool, marks: bool) -> tuple[str, list[tuple[int, int]]]:
        from transformers.utils.chat_template_utils import render_jinja_template

        why = f"the chat template refuses the conversation: {WHY}"
        if self.tokenizer.eos_token is None and "eos_token" in self.template:
            why += "; the tokenizer has no eos_token: take another tokenizer or chat_template"
        with explaining(why, Exception):  # it may raise anything of its own
            texts, spans = render_jinja_template(
                conversations=[messages],
                chat_template=self.template,
                add_generation_prompt=add_generation_prompt,
                return_assistant_tokens_mask=marks,
                **self.tokenizer.special_tokens_map,
            )
        return texts[0], [tuple(span) for span in spans[0]] if marks else []

    def messages(self, sample: Sample) -> list[dict]:
        """The sample's turns as the template takes them, with the system text the model is trained with."""
        turns = [message.as_dict() for message in sample.messages]
        if self.system and sample.messages[0].role != "system":
            turns.insert(0, {"role": "system", "content": self.system})
        return turns

    def spans(self, sample: Sample) -> tuple[str, list[tuple[int, int]]]:
        """The text and the character ranges that are trained: every answer with the token that ends it."""
        turns = self.messages(sample)
        if self.marked:
            return self._jinja(turns, False, marks=True)
        full = self.text(turns)
        found = []
        for index, turn in enumerate(turns):
            if turn["role"] != "assistant":
                continue
            prompt = self.text(turns[:index], add_generation_prompt=True)
            answer = "".join(part["text"] for part in turn["content"]).strip()
            at = full.find(answer, len(prompt)) if full.startswith(prompt) else -1
            end = self._special.search(full, at + len(answer)) if at >= 0 else None
            if end is None:
                why = "it rewrites earlier turns or closes a turn with no special token"
                hint = "give the recipe a chat_template with {% generation %} marks"
                raise sample.bad("messages", f"the chat template does not show which text is the answer ({why}); {hint}")
            found.append((len(prompt), end.end()))
        return full, found

    def prompt_ids(self, sample: Sample) -> np.ndarray:
        """Ids of the conversation without its last answer, ready to be answered: (n,) int32, one token a picture."""
        text = self.text(self.messages(sample)[:-1], add_generation_prompt=True)
        return np.array(self._start(text) + self._encode(text)[0], dtype=np.int32)

    def _start(self, text: str) -> list[int]:
        bos = self.tokenizer.bos_token
        return [] if bos and text.startswith(bos) else list(self._leading)

    def _encode(self, text: str, before: str = "") -> tuple[list[int], list[tuple[int, int]]]:
        """Ids and their character ranges; a text that stands behind another one gets no space that is not in it."""
        if not before or not self._puts_space:
            encoding = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
            return encoding.input_ids, encoding.offset_mapping
        anchor = IMAGE_MARK if before.endswith(IMAGE_MARK) else "\n"  # it takes the space, and joins no other letter
        cut = len(anchor)
        ids, offsets = self._encode(anchor + text)
        kept = [end > cut for _, end in offsets]
        return list(compress(ids, kept)), [(start - cut, end - cut) for start, end in compress(offsets, kept)]

    def render_all(self, sample: Sample) -> list[Rendered]:
        """Sample -> one Rendered, or for a document longer than max_length as many as hold all of it.

        A document is read as it is, whatever the chat template. A piece ends where its last picture begins, and the next begins
        with that; if there is none, with the last token of the one before. So every token of text but the document's first is
        trained once.
        """
        if not sample.is_document:
            return [self.render(sample)]
        self._check(sample)
        text = "".join(IMAGE_MARK if part.type == "image" else part.text for part in sample.messages[0].content)
        ids = np.array([*self._start(text), *self._encode(text)[0], self.tokenizer.eos_token_id], dtype=np.int32)
        is_image = ids == self.image_id
        ends, pictures = np.cumsum(np.where(is_image, self.num_image_tokens, 1)), np.append(0, np.cumsum(is_image))
        assert pictures[-1] == len(sample.images)
        most = self.max_length or int(ends[-1])
        if most < (self.num_image_tokens + 1 if sample.images else 2):
            least = f"a picture of {self.num_image_tokens} tokens and one more" if sample.images else "two tokens"
            raise sample.bad("messages", f"max_length is {most}, and a text is learnt from {least} at least; raise max_length")
        pieces, start = [], 0
        while start < len(ids) - 1:
            end = int(np.searchsorted(ends, most + (ends[start - 1] if start else 0), side="right"))
            following = end - 1
            if end < len(ids) and len(borders := np.flatnonzero(is_image[start + 1 : end + 1])):
                end = following = start + 1 + int(borders[-1])
            trained = ~is_image[start:end] & (np.arange(start, end) > start)
            if trained.any():
                pieces.append(Rendered(ids[start:end], trained, sample.images[pictures[start] : pictures[end]]))
            start = following if end < len(ids) else end
        return pieces

    def _check(self, sample: Sample) -> None:
        sample.check_trainable()
        if sample.images and not self.num_image_tokens:
            raise sample.bad("images", "the row has a picture and the model takes none")
        if sample.is_document and self.tokenizer.eos_token_id is None:
            raise BodaError("the tokenizer has no end-of-text token (eos_token), which closes a text; take another tokenizer")

    def render(self, sample: Sample) -> Rendered:
        """Sample -> Rendered, cut to max_length. Raises BadRow where nothing can be trained on or a picture would be cut."""
        if sample.is_document:
            first, *more = self.render_all(sample)
            return replace(first, truncated=first.truncated or bool(more))
        self._check(sample)
        try:
            text, spans = self.spans(sample)
        except BadRow:
            raise
        except BodaError as error:  # a template may refuse one conversation and take the next
            raise sample.bad("messages", str(error)) from error
        # Cut where answers begin: a prompt then has the ids it will have when the model is asked, whatever comes after it.
        borders = [0, *(start for start, _ in spans), len(text)]
        ids = self._start(text)
        trained, start_of_answer = [False] * len(ids), 0
        for piece, (start, end) in enumerate(zip(borders, borders[1:])):
            piece_ids, offsets = self._encode(text[start:end], text[:start])
            stop = spans[piece - 1][1] - start if piece else 0
            start_of_answer = len(ids) if piece else 0
            ids += piece_ids
            trained += [first < stop for first, _ in offsets]
        input_ids, mask = np.array(ids, dtype=np.int32), np.array(trained, dtype=bool)
        places = np.flatnonzero(input_ids == self.image_id)
        answer = (start_of_answer, int(np.flatnonzero(mask)[-1]) + 1) if mask.any() else (0, 0)
        if self.train_inputs:
            mask = input_ids != self.image_id
        mask[:1] = False  # nothing stands before the first token that could predict it
        if self.num_image_tokens and len(places) != len(sample.images):
            found = f"the rendered text has {len(places)} image tokens for {len(sample.images)} pictures"
            raise sample.bad("images", f"{found}; the chat template drops or repeats them:\n{text}")
        rendered = self._fit(sample, Rendered(input_ids, mask, sample.images, answer=answer))
        if not rendered.trained.any():
            raise sample.bad("messages", f"no token of this sample would be trained:\n{text}")
        if not rendered.images or rendered.trained[: places[0] + 2].any():  # an answer before the first picture is not shared
            return rendered
        return replace(rendered, prefix=int(places[0]) + 1)

    def length(self, rendered: Rendered) -> int:
        """Tokens of a sample with its pictures at full length."""
        return len(rendered.input_ids) + len(rendered.images) * (self.num_image_tokens - 1)

    def _fit(self, sample: Sample, rendered: Rendered) -> Rendered:
        """Cuts the end off a sample that is longer than max_length; a picture is kept whole or dropped with what follows."""
        if self.max_length is None or self.length(rendered) <= self.max_length:
            return rendered
        widths = np.where(rendered.input_ids == self.image_id, self.num_image_tokens, 1)
        keep = int(np.searchsorted(np.cumsum(widths), self.max_length, side="right"))
        ids, mask = rendered.input_ids[:keep], rendered.trained[:keep]
        if not mask.any():
            prompt = f"the prompt alone has {widths[: rendered.trained.argmax()].sum()} tokens"
            why = f"{prompt} and max_length is {self.max_length}, so no word of the answer fits"
            raise sample.bad("messages", f"{why}; raise max_length or shorten the row")
        start, end = (min(keep, place) for place in rendered.answer)
        images = rendered.images[: (ids == self.image_id).sum()]
        return Rendered(ids, mask, images, truncated=True, answer=(start, end))

    def end_ids(self) -> list[int]:
        """Ids that end a trained span, found by rendering a conversation of two turns.

        Raises BodaError where an answer ends in no token of its own, so that an ordinary letter would end every answer.
        """
        probe = conversation(("user", "가"), ("assistant", "나"), ("user", "다"), ("assistant", "라"))
        text, spans = self.spans(probe)
        for (start, end), answer in zip(spans, "나라"):
            tail = text[text.index(answer, start) + 1 : end]
            tail_ids = self._encode(tail, answer)[0]
            if not tail or (len(tail_ids) > 1 and not self._special.search(tail)):
                taken = f"with {tail!r}, which the tokenizer takes for {len(tail_ids)} ordinary tokens"
                how = taken if tail else "without an end token"
                raise BodaError(f"the chat template closes an answer {how}; choose a chat_template made for this tokenizer")
        unlimited = copy.copy(self)
        unlimited.max_length, unlimited.train_inputs = None, False
        rendered = unlimited.render(probe)
        following = np.append(rendered.trained[1:], False)
        return sorted({int(token) for token in rendered.input_ids[rendered.trained & ~following]})


class PreferenceRenderer(Renderer):
    """Renders a sample with two last answers as both, the chosen one first; nothing but these answers is trained.

    `prefix` is all that stands before them but its last token, which each answer begins with: it predicts the first of its words.
    """

    width = 2

    def render_all(self, sample: Sample) -> list[Rendered]:
        if sample.rejected is None:
            raise sample.bad(
                "rejected", "a pair of answers is needed, and the row has no rejected one; objective: language takes it"
            )
        last = Message("assistant", (Part("text", sample.rejected),))
        other = replace(sample, messages=(*sample.messages[:-1], last), rejected=None)
        chosen, rejected = self._last_answer(sample), self._last_answer(other)
        if np.array_equal(chosen.input_ids, rejected.input_ids):
            why = "chosen and rejected have the same tokens"
            cut = f" within max_length {self.max_length}" if chosen.truncated else ""
            raise sample.bad(
                "rejected", f"{why}{cut}, so there is nothing to prefer; drop the row{' or raise it' if cut else ''}"
            )
        if not np.array_equal(chosen.input_ids[: chosen.prefix + 1], rejected.input_ids[: rejected.prefix + 1]):
            raise sample.bad("rejected", "the chat template writes the prompt in another way for each of the two answers")
        return [chosen, rejected]

    def _last_answer(self, sample: Sample) -> Rendered:
        rendered = self.render(sample)
        start, end = rendered.answer
        if start == end or rendered.images != sample.images:
            raise sample.bad(
                "messages", f"no word of the answer fits into max_length {self.max_length}; raise it or shorten the row"
            )
        mask = rendered.trained & (np.arange(len(rendered.trained)) >= start)
        return replace(rendered, trained=mask, prefix=start - 1)


def expand_images(input_ids: np.ndarray, image_id: int, num_image_tokens: int) -> np.ndarray:
    """(n,) ids with one token a picture -> (m,) ids with `num_image_tokens` for each."""
    return np.repeat(input_ids, np.where(input_ids == image_id, num_image_tokens, 1))
