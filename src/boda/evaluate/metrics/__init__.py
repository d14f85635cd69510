"""How answers are scored and how sure a score is."""

from __future__ import annotations

from boda.evaluate.metrics.captions import caption_scores

__all__ = ["caption_scores"]
