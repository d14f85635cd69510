"""Pairs of a picture and a text, which contrastive training reads: Sample -> ids of its text, a row of pairs -> Batch."""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from boda.data.render import Rendered
from boda.data.sample import ImageRef, Sample
from boda.errors import BodaError

if TYPE_CHECKING:
    from boda.data.pack import Row
    from boda.data.prepared import PreparedData


class PairRenderer:
    """Renders samples for a text tower, whose tokenizer puts its own special tokens around a text of at most `max_length` tokens,
    these among them; the picture stands beside the text and has no token in it."""

    num_image_tokens = 0
    image_id = -1
    width = 1
    template, system = "", None  # a caption is no conversation

    def __init__(self, tokenizer, max_length: int | None = None):
        self.tokenizer = tokenizer
        self.max_length = max_length
        special = tokenizer.num_special_tokens_to_add()
        if max_length is not None and max_length <= special:
            raise BodaError(f"max_length is {max_length}, and {special} of its tokens are the tokenizer's own; raise it")

    def render_all(self, sample: Sample) -> list[Rendered]:
        return [self.render(sample)]

    def render(self, sample: Sample) -> Rendered:
        """Sample -> Rendered with one target, so that targets count pairs. Raises BadRow unless it has one picture and one text."""
        said = [message.text for message in sample.messages if message.role == "assistant"]
        if len(sample.images) != 1 or len(said) != 1:
            why = f"a pair is one picture and one text; the row has {len(sample.images)} and {len(said)}"
            raise sample.bad("messages" if len(sample.images) == 1 else "images", why)
        text = unicodedata.normalize("NFC", said[0]).strip()
        if not text:
            raise sample.bad("messages", "the text is empty")
        ids = self.tokenizer(text, verbose=False).input_ids
        truncated = self.max_length is not None and len(ids) > self.max_length
        if truncated:
            ids = self.tokenizer(text, truncation=True, max_length=self.max_length).input_ids
        last = np.arange(len(ids)) == len(ids) - 1
        return Rendered(np.array(ids, dtype=np.int32), last, sample.images, truncated=truncated)

    def length(self, rendered: Rendered) -> int:
        """Tokens of a sample."""
        return len(rendered.input_ids)


def build_pairs(
    data: PreparedData, row: Row, load_pixels: Callable[[ImageRef], np.ndarray], position: tuple[int, int], pad_id: int = 0
) -> dict:
    """A row -> Batch of its S pairs: input_ids (1, L), position_ids (1, L), cu_seq_lens (S+1,), sample_ids (S,), pixel_values
    (S, 3, H, W) if there are any, position, `bad_images` as `build_batch` tells them; image_keys (S,) and text_keys (S,) are equal
    where the pixels or the ids are."""
    import torch

    texts, pixels, samples = [np.zeros(0, dtype=np.int64)], [], []
    bad: list[tuple[int, str]] = []
    for index in (index for unit in row.units for index in unit.samples):
        rendered = data.row(index)
        try:
            pixels.append(load_pixels(rendered.images[0]))
        except BodaError as error:
            bad.append((index, str(error)))
            continue
        texts.append(rendered.input_ids.astype(np.int64))
        samples.append(index)
    batch = {
        "input_ids": torch.from_numpy(np.concatenate(texts))[None],
        "position_ids": torch.from_numpy(np.concatenate([np.arange(len(ids)) for ids in texts]))[None],
        "cu_seq_lens": torch.from_numpy(np.cumsum([len(ids) for ids in texts], dtype=np.int32)),
        "sample_ids": torch.tensor(samples, dtype=torch.int64),
        "image_keys": torch.tensor([_key(array) for array in pixels], dtype=torch.int64),
        "text_keys": torch.tensor([_key(ids) for ids in texts[1:]], dtype=torch.int64),
        "position": position,
        "bad_images": bad,
    }
    return batch | ({"pixel_values": torch.from_numpy(np.stack(pixels))} if pixels else {})


def _key(array: np.ndarray) -> int:
    return int.from_bytes(hashlib.blake2b(array.tobytes(), digest_size=8).digest(), "little", signed=True)
