"""How alike texts are in meaning, by a sentence encoder."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from pathlib import Path

from boda.errors import WHY, BodaError, explaining

KR_SBERT = "snunlp/KR-SBERT-V40K-klueNLI-augSTS"


def similarities(predictions: Sequence[str], references: Sequence[Sequence[str]], model: str = KR_SBERT) -> list[float]:
    """Cosine (-1 to 1) of each prediction with the likest of its references, by their vectors of a sentence-transformers model.

    `model`: hub id or folder. Texts are in Unicode form NFC, cut at the model's own length. An empty prediction says nothing: 0. The
    Small Korean VLM reports the measure and publishes no code for it; the maximum over references is ours, as it is in METEOR.
    Raises BodaError: the package or the model is not there.
    """
    assert len(predictions) == len(references) and all(references), "each prediction has references"
    with explaining("likeness in meaning needs sentence-transformers: pip install 'boda[eval]'", ModuleNotFoundError):
        from sentence_transformers import SentenceTransformer
    if (
        Path(model).is_dir() and not (Path(model) / "modules.json").exists()
    ):  # any encoder would do, with a pooling made up for it
        raise BodaError(f"{model} has no modules.json, so it is no sentence-transformers model")
    with explaining(f"'{model}' cannot be loaded as a sentence-transformers model, from a folder or the hub: {WHY}", Exception):
        encoder = SentenceTransformer(model)
    normal = [[unicodedata.normalize("NFC", text) for text in (said, *known)] for said, known in zip(predictions, references)]
    texts = list(dict.fromkeys(text for some in normal for text in some))  # captions share references, and answers repeat
    vectors = encoder.encode(texts, normalize_embeddings=True, convert_to_numpy=True, show_progress_bar=False)
    vector_of = dict(zip(texts, vectors))
    return [max(float(vector_of[said] @ vector_of[each]) for each in known) if said.strip() else 0.0 for said, *known in normal]
