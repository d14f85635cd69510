"""Evaluation: `boda.evaluate.run(model, tasks=[...], out=...)` asks, scores, saves every answer and states its uncertainty."""

from __future__ import annotations

from boda.evaluate.run import run

__all__ = ["run"]
