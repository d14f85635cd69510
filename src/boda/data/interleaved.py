"""Interleaved documents as Flamingo learns them: every picture opens a chunk, and only what is said of a picture is trained.

The text and its labels are those of OpenFlamingo (open_flamingo/train/data.py, train_utils.py), token for token.
"""

from __future__ import annotations

import numpy as np

from boda.data.render import Rendered, Renderer
from boda.data.sample import IMAGE_MARK, Sample
from boda.errors import BodaError, LeftOut

END_OF_CHUNK = "<|endofchunk|>"


class FlamingoRenderer(Renderer):
    """Renders conversations as the chat template says and documents with pictures in chunks; a picture is one token."""

    def __init__(self, tokenizer, *rest, **more):
        super().__init__(tokenizer, *rest, **more)
        if END_OF_CHUNK not in tokenizer.get_vocab():
            raise BodaError(f"the tokenizer has no token {END_OF_CHUNK}, which closes what is said of a picture; add it")
        self.chunk_id = tokenizer.convert_tokens_to_ids(END_OF_CHUNK)

    def render_all(self, sample: Sample) -> list[Rendered]:
        """Sample -> one Rendered; a document with pictures is cut at max_length. Raises LeftOut where no trained token is within it."""
        if not (sample.is_document and sample.images):
            return super().render_all(sample)
        self._check(sample)
        text = "".join(END_OF_CHUNK + IMAGE_MARK if part.type == "image" else part.text for part in sample.messages[0].content)
        text = text.replace(END_OF_CHUNK, "", 1)  # before the first picture no chunk has been open
        for spaced in (f" {END_OF_CHUNK}", f"{IMAGE_MARK} ", f" {IMAGE_MARK}"):
            text = text.replace(spaced, spaced.strip())
        text += END_OF_CHUNK + self.tokenizer.eos_token
        whole = self._start(text) + self._encode(text)[0]
        ids = np.array(whole[: self.max_length], dtype=np.int32)
        is_image = ids == self.image_id
        # Trained is what follows a picture up to the end of its chunk: the last mark before a token is a picture's.
        places = np.where(is_image | (ids == self.chunk_id), np.arange(len(ids)), -1)
        last = np.append(-1, np.maximum.accumulate(places)[:-1])
        trained = (last >= 0) & is_image[last]
        if not trained.any():
            why = f"no word that follows a picture is within max_length {self.max_length}"
            raise LeftOut(sample.source.dataset, sample.source.row, "images", why)
        return [Rendered(ids, trained, sample.images[: int(is_image.sum())], truncated=len(ids) < len(whole))]
