"""A pair model in a few lines: colours. Texts point where their colour words point, pictures to their mean colour."""

from __future__ import annotations

import unicodedata
import warnings

import numpy as np

from boda.errors import BodaError

WORDS = {"빨간": (1, 0, 0), "초록": (0, 1, 0), "파란": (0, 0, 1), "노란": (1, 1, 0)}
RGB = {"빨간": (220, 20, 20), "초록": (20, 200, 20), "파란": (20, 20, 220), "노란": (220, 220, 20)}


def unit(vectors) -> np.ndarray:
    vectors = np.asarray(vectors, np.float32)
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


class FakeEncoder:
    """What boda.models.encoder.Encoder offers, for texts with colour words."""

    dim, logit_scale, logit_bias, fingerprint, max_length, is_sigmoid = 3, 10.0, 0.0, "abc", 64, False

    def __init__(self, name: str = "colours"):
        self.name, self.cut = name, 0
        self.seen_texts: list[str] = []
        self.seen_pictures = 0

    def texts(self, texts: list[str], batch: int = 256) -> np.ndarray:
        for text in texts:
            if not text.strip():
                raise BodaError("text 0 is empty; give it at least one letter")
            if len(text) > self.max_length and not self.cut:
                warnings.warn("1 of the texts are longer than 64 tokens and were cut there", stacklevel=2)
            self.cut += len(text) > self.max_length
        self.seen_texts += texts
        known = [unicodedata.normalize("NFC", text) for text in texts]
        sums = [np.sum([v for word, v in WORDS.items() if word in text] + [(0.1, 0.1, 0.1)], axis=0) for text in known]
        # Texts of different lengths differ a little, so that a mean of prompts is no single prompt.
        return unit([total + 0.001 * len(text) * np.array([1, 2, 3]) for total, text in zip(sums, known)])

    def images(self, images, batch: int = 64) -> np.ndarray:
        found = []
        for image in images:
            found.append(np.asarray(image.convert("RGB"), np.float32).reshape(-1, 3).mean(0) + 1)
            self.seen_pictures += 1
        return unit(found) if found else np.zeros((0, 3), np.float32)

    def patches(self, image) -> np.ndarray:
        return unit(np.asarray(image.convert("RGB").resize((6, 6)), np.float32) + 1)

    def probabilities(self, image_vectors: np.ndarray, text_vectors: np.ndarray) -> np.ndarray:
        logits = image_vectors @ text_vectors.T * self.logit_scale + self.logit_bias
        if self.is_sigmoid:
            return 1 / (1 + np.exp(-logits))
        shares = np.exp(logits - logits.max(-1, keepdims=True))
        return shares / shares.sum(-1, keepdims=True)
