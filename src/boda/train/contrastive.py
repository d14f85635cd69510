"""Contrastive training: which text of the step belongs to which picture (CLIP, https://arxiv.org/abs/2103.00020; SigLIP,
https://arxiv.org/abs/2303.15343).

The loss looks at all pairs of a step at once, in however many rows and processes they are. Vectors of all rows are computed
without autograd, the loss's gradient is taken on these vectors, and then each row is computed again to pass its part on
(GradCache, https://arxiv.org/abs/2101.06983): the gradient of the whole batch with the memory of a row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

from boda.models.pairing import image_vectors, similarity, text_vectors
from boda.train import distributed
from boda.train.objectives import Pass, to_device

MAX_SCALE = 100.0  # CLIP's bound on exp(logit_scale)
MAX_SIMILARITIES = 2**26  # so many at most are held at a time


def _softmax(logits: torch.Tensor, own: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(logits.masked_fill(others, -torch.inf), own, reduction="sum")


def _sigmoid(logits: torch.Tensor, own: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
    signs = 2 * F.one_hot(own, logits.shape[1]) - 1
    return -F.logsigmoid(signs * logits).masked_fill(others, 0.0).sum()


def pairs_among(image_keys: torch.Tensor, text_keys: torch.Tensor) -> Callable[[slice, slice], torch.Tensor]:
    """Keys (N,), (N,) -> what says, for some pictures and some texts, which of them are a pair anywhere among the N: (I, T) bool.

    So neither a picture's other captions nor other pictures' captions that read the same are ever taken for wrong answers.
    """
    (pictures, row), (texts, column) = (keys.unique(return_inverse=True) for keys in (image_keys, text_keys))
    known = torch.zeros(len(pictures), len(texts), dtype=torch.bool, device=image_keys.device)
    known[row, column] = True
    return lambda images, captions: known[row[images]][:, column[captions]]


def contrastive_loss(model, image: torch.Tensor, text: torch.Tensor, keys: dict[str, torch.Tensor]) -> torch.Tensor:
    """Vectors (N, P), (N, P) and keys (N,) of pairs -> sum over the pairs of the mean of both directions' losses."""
    count, whole = len(image), slice(None)
    is_pair = pairs_among(keys["image_keys"], keys["text_keys"])
    loss = _sigmoid if hasattr(model, "logit_bias") else _softmax

    def part(image: torch.Tensor, text: torch.Tensor, some: slice, of_texts: bool) -> torch.Tensor:
        logits = similarity(model, image, text[some]).T if of_texts else similarity(model, image[some], text)
        known = is_pair(whole, some).T if of_texts else is_pair(some, whole)
        own = torch.arange(count, device=logits.device)[some]
        return loss(logits, own, known.scatter(1, own[:, None], False))

    rows = max(1, MAX_SIMILARITIES // max(1, count))
    parts = [(slice(first, first + rows), side) for side in (False, True) for first in range(0, count, rows)]
    if len(parts) <= 2:
        return sum((part(image, text, *each) for each in parts), (image.sum() + text.sum()) * 0) / 2
    return torch.stack([checkpoint(part, image, text, *each, use_reentrant=False) for each in parts]).sum() / 2


def vectors(step: Pass, batch: dict, image: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """A row's vectors (S, P) of pictures (unless given) and of texts; a tower that is not trained runs without autograd.

    Each tower's dropout draws from a stream of its own, so that a row computed again gives the same.
    """
    if not len(batch["sample_ids"]):
        nothing = torch.zeros(0, step.model.config.projection_dim, device=step.device)
        return nothing, nothing
    learns = torch.is_grad_enabled()
    if image is None:
        with step.forward(batch), torch.set_grad_enabled(learns and "vision" in step.learning):
            image = image_vectors(step.model, batch["pixel_values"])
    with step.forward(batch, stream=1), torch.set_grad_enabled(learns and "text" in step.learning):
        return image, text_vectors(step.model, batch["input_ids"], batch["cu_seq_lens"])


def keys_of(batches: list[dict], device: torch.device) -> dict[str, torch.Tensor]:
    """Keys (N,) of the pairs of all processes."""
    own = {name: torch.cat([batch[name] for batch in batches]).to(device) for name in ("image_keys", "text_keys")}
    return {name: torch.cat(distributed.gather_rows(keys)) for name, keys in own.items()}


def gathered(vectors: Iterable[tuple[torch.Tensor, torch.Tensor]]) -> list[list[torch.Tensor]]:
    """Vectors (n, P) of this process's rows -> those of all processes in fp32, of pictures and of texts: lists by process."""
    return [distributed.gather_rows(torch.cat(every).detach().float()) for every in zip(*vectors)]


def contrastive_step(step: Pass, rows: Iterable[dict], stopped: Callable[[], bool]) -> tuple[float, int]:
    """Gradients of one step: (sum of the losses, told by the main process alone; pairs of this process)."""
    batches, found = [], []
    for batch in rows:
        is_last = batch["place"] == batch["rows"] - 1  # its activations are kept: it need not be computed again
        with torch.set_grad_enabled(is_last):
            found.append(vectors(step, to_device(batch, step.device)))
        if "vision" not in step.learning:
            batch.pop("pixel_values", None)
        batches.append(batch)
    if distributed.any_process(stopped()):
        return 0.0, 0
    images, texts = gathered(found)
    leaves = [every[distributed.rank()].requires_grad_() for every in (images, texts)]
    shared = [p for name, p in step.model.named_parameters() if name in ("logit_scale", "logit_bias") and p.requires_grad]
    loss = contrastive_loss(step.model, torch.cat(images), torch.cat(texts), keys_of(batches, step.device))
    scaled = step.scaler.scale(loss / step.planned)
    gradients = torch.autograd.grad(scaled, [*leaves, *shared], allow_unused=True)
    if distributed.is_main():  # every process has the whole of it, and gradients are summed
        for parameter, gradient in zip(shared, gradients[2:]):
            parameter.grad = gradient
    sizes = [len(batch["sample_ids"]) for batch in batches]
    parts = list(zip(*(gradient.split(sizes) for gradient in gradients[:2])))
    for number in reversed(range(len(batches))):  # the last row first, and its activations are gone
        own = found.pop()
        if number < len(batches) - 1:
            own = vectors(step, to_device(batches[number], step.device), None if "vision" in step.learning else own[0])
        pairs = [(vector, part.to(vector.dtype)) for vector, part in zip(own, parts[number]) if vector.requires_grad]
        if pairs:
            torch.autograd.backward(*zip(*pairs))
    return float(loss.detach()) if distributed.is_main() else 0.0, sum(sizes)


@torch.no_grad()
def measure(step: Pass, batches: list[dict]) -> tuple[float, int, int, int]:
    """All processes' rows of one validation batch -> (sum of the losses, right first answers to pictures, to texts, pairs)."""
    image, text = map(torch.cat, gathered(vectors(step, to_device(batch, step.device)) for batch in batches))
    keys = keys_of(batches, step.device)
    known = pairs_among(keys["image_keys"], keys["text_keys"])(slice(None), slice(None))
    logits = similarity(step.model, image, text)
    place = torch.arange(len(logits), device=logits.device)
    to_pictures, to_texts = known[place, logits.argmax(1)].sum(), known[logits.argmax(0), place].sum()
    return float(contrastive_loss(step.model, image, text, keys)), int(to_pictures), int(to_texts), len(image)


@torch.no_grad()
def bound_scale(trained: dict[str, torch.nn.Parameter]) -> None:
    """Keeps what similarities are multiplied with at MAX_SCALE at most."""
    if "logit_scale" in trained:
        trained["logit_scale"].clamp_(max=float(torch.tensor(MAX_SCALE).log()))
