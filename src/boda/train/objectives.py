"""What is minimised: an objective takes a model and a Batch and gives a summed loss. (Contrastive training, which looks at all
rows of a step at once, is in `contrastive.py`.)"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

from boda.models.vlm import LanguageHead, head_change

# Logits of this many numbers at most are held at a time, so that a long row with a large vocabulary fits in memory.
MAX_LOGITS = 2**27
HELD_LOGITS = 2**25  # where the head is not trained and nothing has to be computed twice for it


@dataclass
class Pass:
    """How an objective goes through the rows of one step."""

    model: torch.nn.Module
    device: torch.device
    autocast: torch.dtype | None
    scaler: torch.amp.GradScaler
    planned: int  # what the sums of losses are divided by
    key: Callable[[dict], int]  # the seed of a row's dropout
    learning: set[str]  # towers that are trained

    @contextlib.contextmanager
    def forward(self, batch: dict, stream: int = 0) -> Iterator[None]:
        """Dropout draws from a stream of its own for every row: what ran before does not matter."""
        torch.manual_seed(self.key(batch) + stream)
        with casting(self.device, self.autocast):
            yield


def casting(device: torch.device, dtype: torch.dtype | None) -> torch.autocast:
    """Autocast to a type, or to none."""
    return torch.autocast(device.type, dtype=dtype, enabled=dtype is not None)


def to_device(batch: dict, device: torch.device) -> dict:
    return {key: value.to(device, non_blocking=True) if torch.is_tensor(value) else value for key, value in batch.items()}


class Measured(NamedTuple):
    """What an objective says of a row: the sum of its losses, of how many, and sums of whatever else it is watched by."""

    loss: torch.Tensor
    number: int
    others: tuple[torch.Tensor, ...] = ()


@dataclass(frozen=True)
class Objective:
    """What is minimised: a row's `measure`, and the names of the other sums, logged as means."""

    measure: Callable[[torch.nn.Module, dict], Measured]
    others: tuple[str, ...] = ()


def row_step(step: Pass, rows: Iterable[dict], objective: Objective) -> tuple[float, ...]:
    """Gradients of a step whose rows do not know each other: (sum of the losses, of how many, the objective's other sums)."""
    sums = torch.zeros(2 + len(objective.others), dtype=torch.float64)
    for batch in rows:
        if batch["labels"].numel():
            batch = to_device(batch, step.device)
            with step.forward(batch):
                found = objective.measure(step.model, batch)
            if found.loss.requires_grad:  # words alone do not reach a connector
                step.scaler.scale(found.loss / step.planned).backward()
            sums = sums.to(found.loss.device) + sums_of(found)
    return tuple(sums.tolist())


def sums_of(found: Measured) -> torch.Tensor:
    """(2 + others,) float64."""
    loss = found.loss.detach().double()
    return torch.stack([loss, loss.new_tensor(found.number), *(other.double() for other in found.others)])


def language_loss(model: torch.nn.Module, batch: dict) -> torch.Tensor:
    """Sum over the row's labels of the cross-entropy of the next token."""
    return label_losses(model, batch).sum()


def label_losses(model: torch.nn.Module, batch: dict) -> torch.Tensor:
    """Cross-entropy (K,) of each of the row's labels; logits are computed at labels only."""
    names = ("input_ids", "position_ids", "cu_seq_lens", "prefix", "pixel_values")
    inputs = {name: batch[name] for name in names if name in batch}
    hidden = model.base_model(**inputs, use_cache=False).last_hidden_state[0]  # (L, D)
    hidden = hidden[batch["label_positions"]]  # (K, D)
    head = model.get_output_embeddings()
    if _is_plain(model, head) and not head.weight.requires_grad:
        return _FrozenHead.apply(hidden, head.weight, batch["labels"])
    rows = max(1, MAX_LOGITS // model.get_output_embeddings().weight.shape[0])
    if hidden.shape[0] <= rows:
        return _head_loss(model, hidden, batch["labels"])
    parts = zip(hidden.split(rows), batch["labels"].split(rows))
    return torch.cat([checkpoint(_head_loss, model, *part, use_reentrant=False) for part in parts])


class _FrozenHead(torch.autograd.Function):
    """Cross-entropy (K,) behind a head that is not trained, a few logits at a time, each of them computed once.

    What goes back to a label's features is the same whatever its loss is weighted with, so it is computed beside the loss and kept in
    place of the logits: (K, D), not (K, V).
    """

    @staticmethod
    def forward(ctx, hidden, weight, labels):
        losses, back = [], []
        rows = max(1, HELD_LOGITS // weight.shape[0])
        for states, wanted in zip(hidden.split(rows), labels.split(rows)):
            raw = F.linear(states, weight)  # (k, V)
            logits = raw.float()
            whole = logits.logsumexp(-1)
            losses.append(whole - logits.gather(1, wanted[:, None])[:, 0])
            if ctx.needs_input_grad[0]:
                chances = logits.sub_(whole[:, None]).exp_()
                chances[torch.arange(len(wanted), device=wanted.device), wanted] -= 1
                back.append(torch.mm(chances.to(raw.dtype), weight.to(raw.dtype)).to(hidden.dtype))
        if back:
            ctx.save_for_backward(torch.cat(back))
        return torch.cat(losses) if losses else hidden.new_zeros(0, dtype=torch.float32)

    @staticmethod
    def backward(ctx, gradient):
        (back,) = ctx.saved_tensors
        return (back.float() * gradient[:, None]).to(back.dtype), None, None


def _change_of(model: torch.nn.Module) -> tuple[float, float | None]:
    """What a language model's own forward pass does to its logits; a VLM does it in its head."""
    return getattr(model, "head_change", (1.0, None))


def _is_plain(model: torch.nn.Module, head: torch.nn.Module) -> bool:
    """Whether logits are features times a matrix and nothing else."""
    own = (head.scale, head.softcap) if isinstance(head, LanguageHead) else _change_of(model)
    return type(head) in (torch.nn.Linear, LanguageHead) and head.bias is None and own == (1.0, None)


def _head_loss(model: torch.nn.Module, hidden: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    logits = model.get_output_embeddings()(hidden)
    logits = head_change(logits, *_change_of(model))
    return F.cross_entropy(logits.float(), labels, reduction="none")


def _language(model: torch.nn.Module, batch: dict) -> Measured:
    return Measured(language_loss(model, batch), batch["labels"].numel())


# Which tokens are labels is the renderer's business.
OBJECTIVES = {"language": Objective(_language), "all_tokens": Objective(_language)}
