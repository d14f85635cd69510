"""Evaluation: `boda.evaluate.run(model, tasks=[...], out=...)` asks, scores, saves every answer and states its uncertainty."""

from __future__ import annotations

from boda.evaluate.run import run
from boda.evaluate.tasks import list_tasks, make_task, split_tasks

__all__ = ["list_tasks", "make_task", "run", "split_tasks"]
