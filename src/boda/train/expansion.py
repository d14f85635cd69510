"""More pieces for a tokenizer and its model: for a recipe, for `boda vocab`, and what they are worth on other text."""

from __future__ import annotations

import contextlib
import itertools
import re
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import torch

from boda.errors import BodaError
from boda.files import whole_folder, write_json
from boda.models.assemble import load_tokenizer
from boda.models.checkpoints import is_pair, load, load_config, locate, read_info, save_folder
from boda.models.pieces import Known, extended
from boda.models.pieces_learnt import count_words, learn_pieces
from boda.models.pieces_taken import take_pieces
from boda.models.vocabulary import give_rows, share_of_new

EXAMPLES, SHORT = 3, 60  # sentences that a report shows, of so many characters at most


def grow(base: Any, texts: Iterable[str], size: int | None, other: str | None, knob: str = "vocab_size") -> tuple[Any, dict]:
    """A tokenizer with more pieces, of `size` ids in all learnt from `texts` or those of the tokenizer `other`, and what was done.

    Raises BodaError: it has that many already, or nothing is left to add.
    """
    known, began = Known(base), time.monotonic()
    seen = Seen(texts)
    if other is not None:
        growth = take_pieces(base, load_tokenizer(other))
    else:
        if size is None or size <= known.first:
            raise BodaError(f"{knob}: {size} is no more than the {known.first:,} ids that the tokenizer has already")
        growth = learn_pieces(base, count_words(seen), size - known.first)
        if not growth.pieces:
            read = f"the text ({seen.count:,} texts)"
            raise BodaError(f"nothing to learn: {read} has no pieces that come twice and are not there yet")
    new = extended(base, growth)
    done = {"size": known.first + len(growth.pieces), "pieces": len(growth.pieces), "helpers": growth.helpers}
    done |= {"existing": growth.existing, "left_out": growth.left_out, "seconds": round(time.monotonic() - began, 1)}
    return new, done | ({"texts": seen.count, "megabytes": round(seen.bytes / 1e6, 2)} if other is None else {})


class Seen:
    """Texts as they pass, counted."""

    def __init__(self, texts: Iterable[str]):
        self.texts, self.count, self.bytes = texts, 0, 0

    def __iter__(self) -> Iterator[str]:
        for text in self.texts:
            self.count += 1
            self.bytes += len(text.encode())
            yield text


def extend(
    name: str,
    out: str | Path,
    texts: Callable[[], Iterator[str]] | None,
    other: str | None,
    size: int | None,
    add: int | None,
    initialise: str,
    seed: int,
    held_out: Callable[[], Iterator[str]] | None,
) -> dict:
    """Gives a model, or a tokenizer alone, more pieces and writes the folder `out`; returns what `boda vocab extend` reports.

    Args:
        name: a model folder or hub id, or the folder or id of a tokenizer without a model.
        texts: begins to read the text to learn from; `other`: or the tokenizer whose pieces are taken.
        size: ids in all, or `add`: how many more.
        held_out: begins to read text that the old and the new tokenizer are compared on.

    Raises BodaError: nothing to add, or a part cannot be read; nothing is written then.
    """
    name, out = locate(name), Path(out)
    config = _config(name)
    if config and is_pair(config):
        raise BodaError(f"{name} compares pictures with texts; pieces are for models that write")
    model, processor = load(name, "cpu", _dtype_of(config)) if config else (None, load_tokenizer(name))
    base = getattr(processor, "tokenizer", processor)
    size = Known(base).first + add if add is not None else size
    new, done = grow(base, texts() if texts else (), size, other, "--size")
    done = {"base": name, "from": other or "text", **done}
    if held_out is not None:
        done["held_out"] = compare(base, new, list(held_out()))
    if model is None:
        with whole_folder(out, f"the tokenizer to {out}") as partial:
            new.save_pretrained(partial)
            write_json(partial / "expansion.json", done)
        return done
    before = model.num_parameters()
    done |= give_rows(model, base, new, initialise, seed)
    done["parameters_added"] = model.num_parameters() - before
    examples = [example["text"] for example in done.get("held_out", {}).get("examples", [])]
    if examples := examples or list(itertools.islice(filter(str.strip, texts() if texts else ()), EXAMPLES)):
        done["share_of_new"] = share_of_new(model, base, new, examples)
    if processor is base:
        processor = new
    else:
        processor.tokenizer = new
    save_folder(model, processor, out, read_info(name) | {"vocabulary": done})
    return done


def _config(name: str) -> Any:
    """A model's config; None for a tokenizer alone, or for nothing, which loading the tokenizer says."""
    with contextlib.suppress(BodaError):
        config = load_config(name)
        return config if config.model_type else None


def _dtype_of(config: Any) -> torch.dtype:
    """The type that a model's weights are stored in."""
    return getattr(config, "dtype", None) or getattr(config.get_text_config(), "dtype", None) or torch.float32


def measure(tokenizer: Any, texts: list[str], new_from: int | None = None) -> dict:
    """How a tokenizer writes texts: tokens a word, a character and of how many bytes; from id `new_from` on, the share of the text.

    Words are what white space separates (Korean eojeol).
    """
    known, seen = Known(tokenizer), Counter[int]()
    for start in range(0, len(texts), 1000):
        for encoded in known.backend.encode_batch_fast(texts[start : start + 1000], add_special_tokens=False):
            seen.update(encoded.ids)
    characters, words = sum(map(len, texts)), sum(len(text.split()) for text in texts)
    if not (tokens := seen.total()):
        raise BodaError("the held-out text is empty")
    found: dict[str, float] = {"texts": len(texts), "characters": characters, "words": words, "tokens": tokens}
    found |= {"tokens_per_word": tokens / max(1, words), "tokens_per_character": tokens / characters}
    found["bytes_per_token"] = sum(len(text.encode()) for text in texts) / tokens
    if new_from is not None:
        sizes = {id: known.size(known.name(id)) * count for id, count in seen.items()}
        found["covered_by_new"] = sum(size for id, size in sizes.items() if id >= new_from) / sum(sizes.values())
    return found


def compare(before: Any, after: Any, texts: list[str]) -> dict:
    """Two tokenizers on the same texts: what each needs, how many fewer tokens the second does, and how much more text fits."""
    one, two = measure(before, texts), measure(after, texts, Known(before).first)
    found: dict[str, Any] = {"before": one, "after": two, "fewer_tokens": 1 - two["tokens"] / one["tokens"]}
    found["context_gained"] = one["tokens"] / two["tokens"] - 1
    short = list(dict.fromkeys(line for text in texts[:1000] for line in text.split("\n") if 10 <= len(line) <= SHORT))
    korean = [line for line in short if 2 * len(re.findall("[가-힣]", line)) > len(line)]
    short = korean if len(korean) >= EXAMPLES else short
    chosen = short[:: max(1, len(short) // EXAMPLES)][:EXAMPLES]
    found["examples"] = [{"text": text, "before": shown(before, text), "after": shown(after, text)} for text in chosen]
    return found


def shown(tokenizer: Any, text: str) -> list[str]:
    """The pieces of a text as people read them; `·` for a part of a character."""
    known = Known(tokenizer)
    names = map(known.name, known.backend.encode(text, add_special_tokens=False).ids)
    return ["·" if (read := known.read(name)) is None else read.replace(" ", "_") for name in names]


def report(name: str, other: str | None, texts: list[str]) -> dict:
    """What `boda vocab report` says of a tokenizer, or of two, the second the later one."""
    before = load_tokenizer(locate(name))
    if other is None:
        return {"before": measure(before, texts)}
    after = load_tokenizer(locate(other))
    found = compare(before, after, texts)
    found["new_pieces"] = len(set(after.get_vocab()) - set(before.get_vocab()))
    if config := _config(locate(other)):
        text = config.get_text_config()
        found["new_parameters"] = found["new_pieces"] * text.hidden_size * (1 if text.tie_word_embeddings else 2)
    return found


def table(found: dict) -> str:
    """What `compare` or `report` found, for people."""
    sides = [side for side in ("before", "after") if side in found]
    lines = [f"{'':<22}" + "".join(f"{side:>10}" for side in sides)]
    forms = {"tokens": ",", "tokens_per_word": ".3f", "tokens_per_character": ".3f", "bytes_per_token": ".3f"}
    for name, form in forms.items():
        lines.append(f"{name.replace('_', ' '):<22}" + "".join(f"{found[side][name]:>10{form}}" for side in sides))
    if "after" in found:
        gained = f"{found['context_gained']:.0%} more text fits in the same context"
        lines.append(f"{found['fewer_tokens']:.1%} fewer tokens: {gained}")
        lines.append(f"{found['after']['covered_by_new']:.1%} of the text is written in new pieces")
        for example in found["examples"]:
            lines += [f"  {len(example[side]):>3}  {'|'.join(example[side])}" for side in sides]
    if "new_parameters" in found:
        lines.append(f"{found['new_pieces']:,} new pieces, {found['new_parameters']:,} new parameters")
    return "\n".join(lines)
