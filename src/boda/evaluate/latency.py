"""How fast a model answers here, what memory that takes, and how near it comes to the limit that reading its weights sets.

Nothing is scored: a Korean prompt and drawn noise for pictures are answered greedily, and every answer is as long as was asked.
What each number means is said in DEFINITIONS, which goes into every `bench.json`.
"""

from __future__ import annotations

import copy
import re
import sys
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

from boda.errors import BodaError
from boda.evaluate.answers import fingerprint
from boda.evaluate.machine import MEMORY, description, free_memory, now, peak_memory, read_bandwidth
from boda.evaluate.shapes import build
from boda.files import write_json
from boda.terminal import console

BATCHES = (1, 2, 4, 8, 16)
TOKENS = 64
PICTURE = (640, 480)
TEXT_INPUTS = ("input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids")  # of a processor; all others are pictures'
NO_MEMORY = "out of memory|can't allocate memory|not enough memory"  # what torch says on CUDA, Linux, Windows
WORDS = "사진을 보고 무엇이 보이는지, 어디에 있는지, 어떤 색인지 한국어로 자세히 설명해 주세요. "
DEFINITIONS = {
    "prompt_tokens": "tokens that the language model reads before it answers, chat template and pictures' tokens included; of a pair "
    "model, tokens of each text",
    "new_tokens": "tokens of every answer: none ends early, and the choice is greedy",
    "images": f"pictures in every prompt, each {PICTURE[0]} x {PICTURE[1]} pixels of noise",
    "first_token_seconds": "from messages and decoded pictures in hand to the id of the first token, of the whole batch: chat template, "
    "tokenizer, picture scaling, vision tower, connector, and the language model on the prompt",
    "decode_tokens_per_second": "tokens after each answer's first, of all answers of the batch together, by the time after the first",
    "decode_tokens_per_second_each": "the same for one answer: decode_tokens_per_second / batch",
    "seed_tokens_per_second": "the Small Korean VLM's token/s, which its code does not define: generated tokens of the batch, the prompt "
    "excluded, by the wall time of generate(), in which the prompt is read",
    "seconds": "from messages and decoded pictures in hand to the last id",
    "images_per_second": "pictures through the vision tower and what follows it (connector, resampler, projection), scaled pixels in hand",
    "texts_per_second": "texts, from the text in hand to its vector: tokenizer, text tower, projection",
    "bandwidth": "bytes a second of the best of several large reads by all threads (on CUDA a copy, its reads and writes counted), taken "
    "before each batch size and after the last",
    "bytes_per_step": "what one step of decoding has to read: the language model's weights (of an untied table of embeddings the few "
    "rows in use are not counted) and the keys and values of every answer of the batch, at their mean length",
    "bytes_per_token": "bytes_per_step of a batch of one",
    "bandwidth_share": "bytes_per_step x steps a second / bandwidth. Activations, logits and the copies that a growing cache makes are "
    "not in it, so 1 is out of reach; a model whose weights fit the processor's cache is not bound by this limit, and an expert "
    "that a step does not read is counted",
}
COLUMNS = ("batch", *(name for name in DEFINITIONS if name not in ("bandwidth", "bytes_per_token")), "peak_bytes")


def bench(
    model: Any = None,
    shape: str | None = None,
    batches: Sequence[int] = BATCHES,
    prompt_tokens: int = TOKENS,
    new_tokens: int | None = None,
    images: int | None = None,
    repetitions: int = 3,
    out: str | Path | None = None,
    quiet: bool = False,
    trust_remote_code: bool = False,
) -> dict:
    """Measures a model at several batch sizes, medians over repetitions after a warm-up; what `bench.json` in `out` holds.

    Args:
        model: a folder, hub id, name that Boda ships or (model, processor); or `shape`: a key of SHAPES, with random weights.
        prompt_tokens: tokens of text in a prompt, template included; pictures' come on top. Of a pair model, tokens of a text.
        new_tokens: tokens of an answer, 64; images: pictures in a prompt, 1 if the model sees. Neither is for pair models.

    A batch that does not fit the memory is told in `left_out`, and the others go on. Raises BodaError: nothing to measure, sizes
    that make no sense for the model, or a shape that does not fit.
    """
    if (model is None) == (shape is None):
        raise BodaError("give a model or a shape, one of the two")
    sizes = {"batch": (min(batches, default=0), 1), "prompt tokens": (prompt_tokens, 1), "repetitions": (repetitions, 1)}
    sizes |= {"new tokens": (TOKENS if new_tokens is None else new_tokens, 2), "images": (images or 0, 0)}
    if wrong := [f"{name} {number}: at least {least}" for name, (number, least) in sizes.items() if number < least]:
        raise BodaError(wrong[0])
    if str(model).startswith(("http://", "https://")):
        raise BodaError(f"{model} runs elsewhere; speed and memory are measured of a model on this machine")

    from boda.models.checkpoints import best_device, load
    from boda.models.loading import locate
    from boda.models.quantised import weights_in

    device = best_device()
    base = peak_memory(device, reset=True)
    mark = ""
    if shape is not None:
        loaded, processor = build(shape, device)
    elif isinstance(model, tuple):
        loaded, processor = model
        device = loaded.device
    else:
        mark = fingerprint(Path(locate(model)))
        loaded, processor = load(model, trust_remote_code=trust_remote_code)
    if hasattr(loaded, "get_text_features"):
        if new_tokens is not None or images is not None:
            raise BodaError("a pair model gives vectors of single pictures and texts: leave new tokens and images out")
        measure = _pair_measure(loaded, processor, prompt_tokens, repetitions)
    else:
        measure = _answer_measure(loaded, processor, prompt_tokens, new_tokens or TOKENS, images, repetitions)
    rows: list[dict[str, Any]] = []
    left_out, bandwidth, bytes_per_token = [], read_bandwidth(device), None
    for batch in sorted(set(batches)):
        peak_memory(device, reset=True)
        try:
            measured = measure(batch)
        except (MemoryError, RuntimeError) as error:
            if not isinstance(error, MemoryError) and not re.search(NO_MEMORY, str(error), re.IGNORECASE):
                raise
            left_out.append({"batch": batch, "why": str(error).splitlines()[0]})
            continue
        peak = peak_memory(device)
        bytes_per_token = measured.pop("bytes_per_token", None)
        measured["peak_bytes"] = None if peak is None or base is None else peak - base
        rows.append(dict.fromkeys(COLUMNS) | {"batch": batch} | measured)
        bandwidth = max(bandwidth, read_bandwidth(device))
        if not quiet:
            print(f"batch {batch} is measured", file=sys.stderr)
    for row in rows:
        if row["bytes_per_step"]:
            row["bandwidth_share"] = row["bytes_per_step"] * row["decode_tokens_per_second_each"] / bandwidth
    found = {
        "model": shape or (type(loaded).__name__ if isinstance(model, tuple) else str(model)),
        "fingerprint": mark,
        "shape": shape,  # a published shape has random weights
        "parameters": sum(map(weights_in, loaded.parameters())),
        **description(loaded),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "repetitions": repetitions,
        "bandwidth": bandwidth,
        "bytes_per_token": bytes_per_token,
        "definitions": _definitions(rows, device),
        "rows": rows,
        "left_out": left_out,
    }
    if out is not None:
        write_json(Path(out) / "bench.json", found)
    return found


# ---------------------------------------------------------------- what is measured of a model


def _answer_measure(
    model, processor, prompt_tokens: int, new_tokens: int, images: int | None, repetitions: int
) -> Callable[[int], dict]:
    """Of a model that answers. Raises BodaError for pictures it cannot see, or a prompt that cannot be so short or so long."""
    from boda.data.render import processor_template
    from boda.models.generate import encode, is_vlm
    from boda.recipe import template_text

    if images and not is_vlm(processor):
        raise BodaError("this is a language model without sight; leave images out")
    if not getattr(processor, "chat_template", None):
        processor.chat_template = processor_template(template_text("question-answer"))  # a model that only goes on with a text
    images = int(is_vlm(processor)) if images is None else images

    def length(text: str) -> int:
        return encode(model, processor, [_messages(text, 0)])["input_ids"].shape[1]

    messages = _messages(_fitted(length, prompt_tokens, "the chat template"), images)
    prompt = encode(model, processor, [messages])["input_ids"].shape[1]
    places = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if places is not None and prompt + new_tokens > places:
        raise BodaError(
            f"a prompt of {prompt} tokens ({images} pictures in it) and {new_tokens} new ones are more than the model's {places} "
            "positions; ask for fewer"
        )

    def row(batch: int) -> dict:
        _check_memory(model, batch, prompt, new_tokens)
        conversations = [messages] * batch
        _generation(model, processor, conversations, min(new_tokens, 4))  # warm-up
        runs = [_generation(model, processor, conversations, new_tokens) for _ in range(repetitions)]
        decoding = median(run["after_first"] for run in runs) / (new_tokens - 1)
        weights, kept = weights_read(model), runs[0]["cache"] + (_looked_at(model) if images else 0)
        found = {
            "prompt_tokens": prompt,
            "new_tokens": new_tokens,
            "images": images,
            "first_token_seconds": median(run["first"] for run in runs),
            "decode_tokens_per_second": batch / decoding,
            "decode_tokens_per_second_each": 1 / decoding,
            "seed_tokens_per_second": batch * new_tokens / median(run["generate"] for run in runs),
            "seconds": median(run["all"] for run in runs),
            "bytes_per_step": weights + batch * kept,
            "bytes_per_token": weights + kept,
        }
        if images:
            inputs = encode(model, processor, conversations)
            seen = {name: value for name, value in inputs.items() if name not in TEXT_INPUTS}
            took = _median_time(lambda: model.get_image_features(**seen), model.device, repetitions)
            found["images_per_second"] = batch * images / took
        return found

    return row


def _pair_measure(model, processor, prompt_tokens: int, repetitions: int) -> Callable[[int], dict]:
    """Of a pair model: pictures and texts, each by themselves."""
    from boda.models.encoder import Encoder

    encoder = Encoder(model, processor)

    def length(text: str) -> int:
        return len(processor.tokenizer(text, verbose=False)["input_ids"])

    if prompt_tokens > encoder.max_length:
        raise BodaError(f"texts of {prompt_tokens} tokens: this model reads at most {encoder.max_length}; ask for fewer")
    text = _fitted(length, prompt_tokens, "the tokenizer's own marks")

    def row(batch: int) -> dict:
        pixels = processor.image_processor([_picture()] * batch, return_tensors="pt").to(model.device).to(model.dtype)
        pictures = _median_time(lambda: model.get_image_features(**pixels), model.device, repetitions)
        texts = _median_time(lambda: encoder.texts([text] * batch, batch), model.device, repetitions)
        rates = {"images_per_second": batch / pictures, "texts_per_second": batch / texts}
        return {"prompt_tokens": length(text), "images": 1} | rates

    return row


def _generation(model, processor, conversations: list[list[dict]], new_tokens: int) -> dict:
    """One generation of exactly so many tokens a conversation: its times in seconds, and the cache's mean bytes for each."""
    import torch

    from boda.models.generate import encode, generate_arguments, tokenizer_of

    arguments = generate_arguments(tokenizer_of(processor), {"max_new_tokens": new_tokens})
    first: list[float] = []

    def note(ids: torch.Tensor, scores, **_) -> torch.Tensor:
        if not first:
            first.append(now(model.device))
        return torch.zeros(len(ids), dtype=torch.bool, device=ids.device)

    with torch.inference_mode(), _without_an_end(model):
        began = now(model.device)
        inputs = encode(model, processor, conversations)
        started = now(model.device)
        made = model.generate(**inputs, **arguments, stopping_criteria=[note], return_dict_in_generate=True)
        ended = now(model.device)
    prompt = inputs["input_ids"].shape[1]
    assert made.sequences.shape == (len(conversations), prompt + new_tokens)
    # The last token is not read any more, so the cache ends with one position less; on average half of the new ones are there.
    length, average = prompt + new_tokens - 1, prompt + new_tokens / 2
    layers = getattr(made.past_key_values, "layers", ())
    tensors = [getattr(layer, name, None) for layer in layers for name in ("keys", "values")]
    kept = sum(tensor.nbytes for tensor in tensors if tensor is not None)
    times = {"first": first[0] - began, "after_first": ended - first[0], "generate": ended - started, "all": ended - began}
    return times | {"cache": kept / len(conversations) * average / length}


@contextmanager
def _without_an_end(model) -> Iterator[None]:
    """No token ends an answer."""
    own = model.generation_config
    model.generation_config = copy.deepcopy(own)
    model.generation_config.eos_token_id = None
    try:
        yield
    finally:
        model.generation_config = own


def _median_time(call: Callable[[], Any], device, repetitions: int) -> float:
    """Seconds that a call takes, after one for warming up."""
    import torch

    times = []
    with torch.inference_mode():
        for _ in range(repetitions + 1):
            began = now(device)
            call()
            times.append(now(device) - began)
    return median(times[1:])


def _messages(text: str, images: int) -> list[dict]:
    pictures = [{"type": "image", "image": _picture()} for _ in range(images)]
    return [{"role": "user", "content": [*pictures, {"type": "text", "text": text}]}]


def _picture():
    import numpy as np
    from PIL import Image

    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (*PICTURE[::-1], 3), np.uint8))


def _fitted(length: Callable[[str], int], tokens: int, fixed: str) -> str:
    """A text of so many tokens, or one or two fewer where letters do not come out even. Raises BodaError where none is so short."""
    words = WORDS * (16 * tokens // len(WORDS) + 1)
    letters = bisect_right(range(1, len(words) + 1), tokens, key=lambda number: length(words[:number]))
    if not letters:
        raise BodaError(f"{tokens} prompt tokens: {fixed} and one letter take {length(words[0])}; ask for at least that many")
    return words[:letters]


def weights_read(model) -> int:
    """Bytes of the weights that a step of decoding reads: the language model's and its head's, not an untied table's."""
    parts = (getattr(getattr(model, "model", None), name, None) for name in ("language_model", "text_model"))
    inside = next((part for part in parts if part is not None), model)
    head, table = model.get_output_embeddings(), model.get_input_embeddings()
    read = {}
    for part in (inside, head):
        for name, parameter in part.named_parameters():
            if not name.endswith("attn.to_kv.weight"):  # pictures go through these once, before the first token
                read[id(parameter)] = parameter
    if table.weight is not head.weight:
        read.pop(id(table.weight), None)
    return sum(parameter.nbytes for parameter in read.values())


def _looked_at(model) -> int:
    """Bytes of the keys and values of a picture that a flamingo's blocks look at in every step; a VLM's are in its cache."""
    if not hasattr(model.model, "blocks"):
        return 0
    config = model.config
    return 2 * len(model.model.blocks()) * config.num_latents * config.heads * config.head_dim * model.dtype.itemsize


def _check_memory(model, batch: int, prompt: int, new_tokens: int) -> None:
    """Raises MemoryError where a batch is sure not to fit a CPU's memory, which would end the process; CUDA says so itself."""
    if model.device.type != "cpu":
        return
    config, width = model.config.get_text_config(), model.dtype.itemsize
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    inside = getattr(config, "intermediate_size", None) or 4 * config.hidden_size  # GPT-2 and others do not say
    cache = 2 * config.num_hidden_layers * heads * size * width * (prompt + new_tokens)
    activations = prompt * (6 * config.hidden_size + 3 * inside) * width
    needed, free = batch * (cache + activations + config.vocab_size * (4 + width)), free_memory(model.device)
    if needed > free:
        raise MemoryError(f"out of memory: it takes {needed / 1e9:.1f} GB at least, and {free / 1e9:.1f} GB are free")


# ---------------------------------------------------------------- what is told


def _definitions(rows: list[dict], device) -> dict[str, str]:
    """Of what the rows hold."""
    measured = {name for row in rows for name in row if row[name] is not None}
    told = {name: text for name, text in DEFINITIONS.items() if name in measured | {"bandwidth"}}
    memory = "cuda" if device.type == "cuda" else "cpu" if Path("/proc/self/clear_refs").exists() else "lifetime"
    tokens = {"bytes_per_token": DEFINITIONS["bytes_per_token"]} if "bytes_per_step" in measured else {}
    return told | tokens | {"peak_bytes": MEMORY[memory]}


def show(found: dict) -> None:
    """The table of a `bench.json` on the terminal."""
    from rich.markup import escape
    from rich.table import Table

    shown = {
        "batch": ("batch", "{:,}"),
        "first_token_seconds": ("first token", "{:.3g} s"),
        "decode_tokens_per_second": ("tokens/s", "{:,.2f}"),
        "decode_tokens_per_second_each": ("each", "{:,.2f}"),
        "seed_tokens_per_second": ("seed token/s", "{:,.2f}"),
        "seconds": ("whole", "{:.3g} s"),
        "images_per_second": ("images/s", "{:,.2f}"),
        "texts_per_second": ("texts/s", "{:,.2f}"),
        "peak_bytes": ("peak memory", "{:,.0f} MB"),
        "bandwidth_share": ("of bandwidth", "{:.1%}"),
    }
    random = ", random weights" if found["shape"] else ""
    about = f"{found['model']} ({found['parameters']:,} parameters{random}): {found['device']}, {found['dtype']}"
    output, table = console(), Table()
    rows = [row | {"peak_bytes": row["peak_bytes"] and row["peak_bytes"] / 1e6} for row in found["rows"]]
    columns = [name for name in shown if any(row[name] is not None for row in rows)]
    for name in columns:
        table.add_column(shown[name][0], justify="right", no_wrap=True)
    for row in rows:
        table.add_row(*("-" if row[name] is None else shown[name][1].format(row[name]) for name in columns))
    output.print(escape(f"{about}, {found['threads']} threads"))
    if rows:
        first = rows[0]
        counted = {"prompt_tokens": "prompt tokens", "images": "pictures in it", "new_tokens": "new tokens"}
        sizes = [f"{name} {first[key]:,}" for key, name in counted.items() if first[key] is not None]
        weights = f", {found['bytes_per_token'] / 1e6:,.1f} MB a token" if found["bytes_per_token"] else ""
        output.print(table)
        reads = f"memory reads {found['bandwidth'] / 1e9:.1f} GB/s"
        output.print(f"{', '.join(sizes)}; medians of {found['repetitions']}; {reads}{weights}")
    for each in found["left_out"]:
        output.print(escape(f"batch {each['batch']} is left out: {each['why']}"))
