"""Prompts in, text out: the only code that generates.

Messages are in transformers' form: `{"role", "content"}` with a string or parts `{"type": "text", "text"}` and
`{"type": "image", "image": PIL image, path or URL}`.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Generator, Iterator, Sequence
from queue import Queue
from typing import Any

import numpy as np
import torch
from jinja2.exceptions import TemplateError

from boda.errors import WHY, BodaError, explaining
from boda.models.vocabulary import IMAGE_TOKEN
from boda.recipe import reads_input

HALF_LETTER = "\ufffd"  # what bytes of a letter decode to that has not arrived whole
SETTINGS = ("max_new_tokens", "temperature", "top_p", "repetition_penalty", "beams", "stop", "system", "seed")


def is_vlm(processor) -> bool:
    return hasattr(processor, "image_processor")


def tokenizer_of(processor):
    return getattr(processor, "tokenizer", processor)


def resolve_settings(model, given: dict[str, Any]) -> dict[str, Any]:
    """The settings of one answer: those given, else those saved with the model. Raises BodaError on a name that is none."""
    unknown = set(given) - set(SETTINGS)
    if unknown:
        raise BodaError(f"unknown generation setting {', '.join(sorted(unknown))}; there are {', '.join(SETTINGS)}")
    saved = getattr(model, "boda_info", {}).get("generation", {})
    return {**saved, **{name: value for name, value in given.items() if value is not None}}


def generate_arguments(tokenizer, settings: dict[str, Any]) -> dict[str, Any]:
    """Settings -> keyword arguments of `model.generate`."""
    temperature = settings.get("temperature", 0.0)
    return {
        "max_new_tokens": settings.get("max_new_tokens", 256),
        "repetition_penalty": settings.get("repetition_penalty", 1.0),
        "num_beams": settings.get("beams", 1),
        "pad_token_id": tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id,
        "do_sample": bool(temperature),
        "temperature": temperature or None,
        "top_p": settings.get("top_p", 1.0) if temperature else None,
        "top_k": 0 if temperature else None,
        "stop_strings": [text for text in settings.get("stop") or [] if text] or None,
        "tokenizer": tokenizer,  # for the stop strings
    }


def with_system(messages: Sequence[dict], system: str | None) -> list[dict]:
    """The conversation with the model's own system text in front where it has none."""
    if system and (not messages or messages[0]["role"] != "system"):
        return [{"role": "system", "content": system}, *messages]
    return list(messages)


def encode(model, processor, conversations: Sequence[Sequence[dict]]) -> dict[str, Any]:
    """Conversations -> left-padded model inputs on the model's device. Raises BodaError for one that cannot be asked."""
    tokenizer = tokenizer_of(processor)
    tokenizer.padding_side = "left"
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    if not getattr(processor, "chat_template", None):
        raise BodaError(
            "the model has no chat template, so how to ask it is not known; train it, or set its tokenizer's chat_template"
        )
    sees = is_vlm(processor)
    apart = sees or reads_input(processor.chat_template)
    marks = {IMAGE_TOKEN, str(getattr(processor, "image_token", IMAGE_TOKEN))} if sees else set()
    plain = [_plain(messages, sees, apart, marks) for messages in conversations]
    padding: dict[str, Any] = {"processor_kwargs": {"padding": True}} if sees else {"padding": True}
    with explaining(f"the model's chat template refuses the conversation: {WHY}", TemplateError):
        inputs = processor.apply_chat_template(
            plain, tokenize=True, return_dict=True, return_tensors="pt", add_generation_prompt=True, **padding
        )
    # A family's own processor may say more of a picture: its grid, its size, which of its pixels are padding.
    known = {"input_ids", "attention_mask", "pixel_values", *inspect.signature(model.forward).parameters} - {"labels"}
    return {name: _placed(value, model) for name, value in inputs.items() if name in known}


def _placed(value: Any, model) -> Any:
    """A tensor, or lists of them, on the model's device; numbers that are no counts in its type."""
    if isinstance(value, torch.Tensor):
        return value.to(model.device, model.dtype if value.is_floating_point() else None)
    return [_placed(each, model) for each in value] if isinstance(value, (list, tuple)) else value


def _parts(message: dict) -> list[dict]:
    content = message["content"]
    return [{"type": "text", "text": content}] if isinstance(content, str) else list(content)


def _plain(messages: Sequence[dict], keep_images: bool, keep_parts: bool, marks: set[str]) -> list[dict]:
    """The conversation as the chat template takes it: contents in parts, or as the string that parts make.

    Raises BodaError for pictures that the model does not see, and for texts with one of the `marks` that stand for a picture.
    """
    plain = []
    for message in messages:
        parts = _parts(message)
        if not keep_images and any(part["type"] != "text" for part in parts):
            raise BodaError("this is a language model without sight; ask it without pictures")
        if found := [mark for mark in marks if any(mark in part.get("text", "") for part in parts)]:
            raise BodaError(f"a text contains {found[0]}, which stands for a picture; remove it, and give pictures as parts")
        joined = "".join(part.get("text", "") for part in parts)
        plain.append({"role": message["role"], "content": parts if keep_parts else joined})
    return plain


def generate(model, processor, conversations: Sequence[Sequence[dict]], batch_size: int | None = None, **given) -> list[str]:
    """Answers to conversations, in their order. Alike lengths are batched together.

    In fp32 an answer does not depend on its batch. `batch_size`: None: 128 for models under 50 million parameters, else 16.
    `given`: SETTINGS; the model's own where absent.
    """
    return [answer for answer, _ in generate_counted(model, processor, conversations, batch_size, **given)]


@torch.inference_mode()
def generate_counted(
    model, processor, conversations: Sequence[Sequence[dict]], batch_size: int | None = None, **given
) -> list[tuple[str, int]]:
    """As `generate`, and how many tokens each answer took, the one that ended it included."""
    settings, tokenizer = resolve_settings(model, given), tokenizer_of(processor)
    arguments = generate_arguments(tokenizer, settings)
    conversations = [with_system(messages, settings.get("system")) for messages in conversations]
    if batch_size is None:
        batch_size = 128 if sum(parameter.numel() for parameter in model.parameters()) < 50e6 else 16
    order = sorted(range(len(conversations)), key=lambda index: _size(conversations[index]))
    answers = [("", 0)] * len(conversations)
    end = getattr(model.generation_config, "eos_token_id", None)  # may be 0
    ends = np.atleast_1d([] if end is None else end).tolist()
    if settings.get("seed") is not None:
        torch.manual_seed(settings["seed"])
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        inputs = encode(model, processor, [conversations[index] for index in chosen])
        output = model.generate(**inputs, **arguments)
        for index, ids in zip(chosen, output[:, inputs["input_ids"].shape[1] :]):
            answer = clean(tokenizer.decode(ids, skip_special_tokens=True), settings)
            answers[index] = answer, _length(ids.tolist(), ends, arguments["pad_token_id"])
    return answers


def _length(ids: list[int], ends: list[int], pad: int) -> int:
    """Tokens up to the first that ends an answer; where a stop string ended it, up to the padding after it."""
    for place, token in enumerate(ids):
        if token in ends:
            return place + 1
    return next((place + 1 for place in reversed(range(len(ids))) if ids[place] != pad), 0)


def clean(answer: str, settings: dict[str, Any]) -> str:
    """An answer up to the stop string that ended it, without the half letter that a limit on its tokens may leave."""
    return answer[: _stop_at(answer, settings.get("stop") or ())].rstrip(HALF_LETTER).strip()


def _stop_at(text: str, stop: Sequence[str]) -> int:
    """Where the first stop string begins; the text's length if there is none."""
    return min((text.index(s) for s in stop if s and s in text), default=len(text))


def _size(messages: Sequence[dict]) -> tuple[int, int]:
    """Pictures, and letters of text."""
    parts = [part for message in messages for part in _parts(message)]
    return sum(part["type"] != "text" for part in parts), sum(len(part.get("text", "")) for part in parts)


def text_deltas(pieces: Iterator[list[int]], tokenizer, stop: Sequence[str] = ()) -> Iterator[str]:
    """Ids as they come -> text as it is whole: never half a Hangul syllable, never the start of a stop string."""
    ids: list[int] = []
    shown = 0
    for piece in pieces:
        ids += piece
        text = tokenizer.decode(ids, skip_special_tokens=True)
        cut = _stop_at(text, stop)
        if cut < len(text):
            last = text[shown:cut].rstrip(HALF_LETTER)
            yield from [last] if last else []
            return
        whole = text.rstrip(HALF_LETTER)
        for s in stop:
            held = next((size for size in range(min(len(s) - 1, len(whole)), 0, -1) if whole.endswith(s[:size])), 0)
            whole = whole[: len(whole) - held]
        end = len(whole.rstrip(HALF_LETTER))
        if end > shown:
            yield text[shown:end]
            shown = end
    text = tokenizer.decode(ids, skip_special_tokens=True).rstrip(HALF_LETTER)
    if len(text) > shown:
        yield text[shown:]


def stream(model, processor, messages: Sequence[dict], **given) -> Generator[str, None, None]:
    """One answer as it is generated, in pieces of whole letters. Settings as for `generate`; beams come in one piece."""
    settings = resolve_settings(model, given)
    if settings.get("beams", 1) > 1:
        yield generate(model, processor, [messages], **given)[0]
        return
    tokenizer = tokenizer_of(processor)
    inputs = encode(model, processor, [with_system(messages, settings.get("system"))])
    arguments = generate_arguments(tokenizer, settings)
    tokens: Queue[list[int] | None] = Queue()
    failure: list[BaseException] = []
    stopped = threading.Event()

    def step(ids: torch.Tensor, scores, **_) -> torch.Tensor:
        tokens.put(ids[0, -1:].tolist())
        return torch.full((1,), stopped.is_set(), dtype=torch.bool, device=ids.device)

    def work() -> None:
        try:
            with torch.inference_mode():
                if settings.get("seed") is not None:
                    torch.manual_seed(settings["seed"])
                model.generate(**inputs, **arguments, stopping_criteria=[step])
        except BaseException as error:
            failure.append(error)
        finally:
            tokens.put(None)

    worker = threading.Thread(target=work, daemon=True)
    worker.start()
    try:
        yield from text_deltas(iter(tokens.get, None), tokenizer, settings.get("stop") or ())
    finally:
        stopped.set()  # a reader that goes away, or a stop string, ends the work
        worker.join()
    if failure:
        raise failure[0]


@torch.inference_mode()
def generate_ids(
    model, prompt: np.ndarray, pixels: list[np.ndarray], num_image_tokens: int, end_ids: list[int], max_new_tokens: int
) -> list[int]:
    """Greedy ids after a rendered prompt with one image token a picture: used while a model is being trained."""
    image_id = getattr(model.config, "image_token_index", -1)
    repeats = np.where(prompt == image_id, num_image_tokens, 1)
    ids = torch.from_numpy(np.repeat(prompt, repeats).astype(np.int64))[None].to(model.device)
    inputs: dict[str, Any] = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if pixels:
        inputs["pixel_values"] = torch.from_numpy(np.stack(pixels)).to(model.device)
    output = model.generate(
        **inputs, max_new_tokens=max_new_tokens, do_sample=False, eos_token_id=end_ids, pad_token_id=end_ids[0]
    )
    return output[0, ids.shape[1] :].tolist()
