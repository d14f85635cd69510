"""One attention function for packed rows, and its mask function.

A packed row holds several segments one after another. `cu_seq_lens` (S+1,) are their borders and `prefix` (S,) names for each
segment an earlier one whose tokens come before its own (-1: none), so that many questions can share one picture. Both travel as
keyword arguments of the language model's forward. Without them the function is transformers' own SDPA. In an encoder, whose
layers say `is_causal = False`, every segment sees all of itself; there is no prefix.

The mask function must be registered too: transformers gives an attention name without one no padding mask at all.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

ATTENTION_NAME = "boda"
# Segments of so many tokens at most are attended to in fp32 on a CPU, whose bf16 kernel is two to three times slower there.
SHORT = 384


@dataclass
class Block:
    """Queries `start:end` that attend to keys `context:end`; `mask` (Q, K) is None where plain causal attention is right."""

    start: int
    end: int
    context: int
    mask: torch.Tensor | None = None


@dataclass
class Layout:
    """The blocks of one row and, per sliding window, their masks: computed once, used by every layer."""

    blocks: list[Block]
    segment: torch.Tensor  # (L,) segment of each token
    position: torch.Tensor  # (L,) place of each token in its own sequence, prefix included
    parent: torch.Tensor  # (L,) segment that comes before a token's own, -1 none
    windows: dict[int, list[Block]] = field(default_factory=dict)

    @classmethod
    def of(cls, cu_seq_lens: torch.Tensor, prefix: torch.Tensor | None) -> Layout:
        """The layout of a row, kept on the tensor so that all layers of a forward pass share it.

        Raises ValueError where a segment's prefix is not the run of segments just before it.
        """
        known = getattr(cu_seq_lens, "_boda_layout", None)
        if known is not None:
            return known
        starts, lengths, borders = cu_seq_lens[:-1].long(), cu_seq_lens.diff().long(), cu_seq_lens.tolist()
        parent = torch.full_like(starts, -1) if prefix is None else prefix.to(starts)
        before = torch.where(parent >= 0, lengths[parent.clamp(min=0)], 0)  # (S,)
        segment = torch.repeat_interleave(torch.arange(len(starts), device=starts.device), lengths)  # (L,)
        position = torch.arange(borders[-1], device=starts.device) - starts[segment] + before[segment]
        layout = cls([], segment, position, parent[segment])
        parents, index = parent.tolist(), 0
        while index < len(parents):
            start, own = borders[index], parents[index]
            block = Block(start, borders[index + 1], borders[own] if own >= 0 else start)
            if own >= 0:  # all children of one prefix are one block behind it
                if own + 1 != index:
                    raise ValueError(f"segment {index} has prefix {own}; segments that share a prefix must follow it directly")
                while index + 1 < len(parents) and parents[index + 1] == own:
                    index += 1
                block.end = borders[index + 1]
                block.mask = layout._visible(block)
            if block.end > start:
                layout.blocks.append(block)
            index += 1
        cu_seq_lens._boda_layout = layout  # type: ignore[attr-defined]
        return layout

    def _visible(self, block: Block, window: int | None = None) -> torch.Tensor:
        """(Q, K) bool: which keys of a block each of its queries may see."""
        return self.rule(slice(block.start, block.end), slice(block.context, block.end), window)

    def rule(self, queries, keys, window: int | None = None) -> torch.Tensor:
        """Who sees whom: own segment or its prefix, not later in the sequence, not further back than the window."""
        distance = self.position[queries, None] - self.position[None, keys]
        own = self.segment[queries, None] == self.segment[None, keys]
        seen = (own | (self.parent[queries, None] == self.segment[None, keys])) & (distance >= 0)
        return seen if window is None else seen & (distance < window)

    def blocks_for(self, window: int | None) -> list[Block]:
        """The blocks with masks that respect a sliding window (tokens), if the row is long enough to feel it."""
        if window is None or int(self.position.max()) < window:
            return self.blocks
        if window not in self.windows:
            self.windows[window] = [Block(b.start, b.end, b.context, self._visible(b, window)) for b in self.blocks]
        return self.windows[window]


@dataclass
class Segments:
    """A row for layers that look both ways: segments of like length become a small batch, so that many short texts cost few calls.

    `batches` hold (tokens (S, W), which of them are real (S, W), mask (S or 1, 1, W or 1, W) or None); `order` (L,) puts the real
    ones of all batches back into the row's order.
    """

    batches: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]]
    order: torch.Tensor

    @classmethod
    def of(cls, cu_seq_lens: torch.Tensor, prefix: torch.Tensor | None, window: int | None) -> Segments:
        """The segments of a row, kept on the tensor. Raises ValueError where one has a prefix: what it gives would depend on it."""
        known = cu_seq_lens.__dict__.setdefault("_boda_segments", {})
        if window in known:
            return known[window]
        if prefix is not None and bool((prefix >= 0).any()):
            raise ValueError("segments that look both ways cannot share a prefix")
        starts, lengths = cu_seq_lens[:-1].long(), cu_seq_lens.diff().long()
        width = (lengths + 7) // 8  # at most 7 places of a segment stay empty
        batches, found = [], []
        for number in width[width > 0].unique().tolist():
            first, own = starts[width == number], lengths[width == number]
            place = torch.arange(int(own.max()), device=own.device)
            real = place < own[:, None]
            index = first[:, None] + torch.where(real, place, 0)
            mask = None if bool(real.all()) else real[:, None, None, :]
            if window is not None and len(place) > window:
                near = ((place[:, None] - place).abs() < window)[None, None]
                mask = near if mask is None else mask & near
            batches.append((index, real, mask))
            found.append(index[real])
        known[window] = cls(batches, torch.cat(found).argsort())
        return known[window]


@contextmanager
def in_fp32(query: torch.Tensor, longest: int) -> Iterator[bool]:
    """Whether segments are short enough to be attended to in fp32, and no autocast while they are.

    Elsewhere autocast stays: it evens out types, since norms on queries and keys that are trained give fp32 beside bf16 values.
    """
    is_short = query.device.type == "cpu" and longest <= SHORT
    with torch.autocast(query.device.type, enabled=False) if is_short else nullcontext():
        yield is_short


def _attend_both_ways(query, key, value, segments: Segments, scaling, dropout, softcap):
    """(1, H, L, D) each -> (1, L, H, D): a segment's queries see all of its keys."""
    pieces = []
    for index, real, mask in segments.batches:
        q, k, v = (tensor[0][:, index].transpose(0, 1) for tensor in (query, key, value))  # (S, H, W, D)
        with in_fp32(query, index.shape[1]) as is_short:
            if is_short:
                q, k, v = q.float(), k.float(), v.float()
            found = _attend(q, k, v, mask, scaling, dropout, softcap, causal=False)
        pieces.append(found.transpose(1, 2)[real].to(query.dtype))
    return torch.cat(pieces)[segments.order][None]


def _attend(query, key, value, mask, scaling, dropout, softcap, causal=True):
    """(B, H, Q, D), (B, H, K, D), (B, H, K, D) -> (B, H, Q, D); mask (..., Q, K) or None: each sees what is not after it, or all."""
    if softcap is None:
        return F.scaled_dot_product_attention(
            query, key, value, attn_mask=mask, dropout_p=dropout, is_causal=causal and mask is None, scale=scaling
        )
    scores = query @ key.transpose(-1, -2) * (scaling if scaling is not None else query.shape[-1] ** -0.5)
    scores = torch.tanh(scores / softcap) * softcap
    if mask is None and causal:
        queries, keys = scores.shape[-2:]
        mask = torch.ones(queries, keys, dtype=torch.bool, device=query.device).tril(keys - queries)
    if mask is not None:
        scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    weights = scores.softmax(-1, dtype=torch.float32).to(query.dtype)
    return F.dropout(weights, dropout) @ value


def boda_attention_forward(
    module, query, key, value, attention_mask, dropout: float = 0.0, scaling: float | None = None, **kwargs
) -> tuple[torch.Tensor, None]:
    """Attention of one layer: (B, H, L, D) queries -> (B, L, H, D). With `cu_seq_lens` B is 1 and segments are kept apart."""
    cu_seq_lens = kwargs.pop("cu_seq_lens", None)
    prefix = kwargs.pop("prefix", None)
    softcap = kwargs.get("softcap")
    causal = kwargs["is_causal"] if kwargs.get("is_causal") is not None else getattr(module, "is_causal", True)
    if cu_seq_lens is None and softcap is None:
        dtype = query.dtype
        with in_fp32(query, query.shape[2]) if not causal else nullcontext() as is_short:
            if is_short:
                query, key, value = query.float(), key.float(), value.float()
            attended, _ = sdpa_attention_forward(module, query, key, value, attention_mask, dropout, scaling, **kwargs)
        return attended.to(dtype), None
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
    if cu_seq_lens is None:  # SDPA refuses to cap scores (Gemma 2)
        attended = _attend(query, key, value, attention_mask, scaling, dropout, softcap, causal)
        return attended.transpose(1, 2).contiguous(), None
    if query.shape[0] != 1 or query.shape[2] != key.shape[2]:
        raise ValueError(f"a packed forward takes one row without a cache; got {query.shape[0]} rows, {key.shape[2]} keys")
    if not causal:
        segments = Segments.of(cu_seq_lens, prefix, kwargs.get("sliding_window"))
        return _attend_both_ways(query, key, value, segments, scaling, dropout, softcap), None
    layout = Layout.of(cu_seq_lens, prefix)
    blocks = layout.blocks_for(kwargs.get("sliding_window"))
    sizes = [block.end - block.start for block in blocks]
    dtype = query.dtype
    pieces = []
    with in_fp32(query, max(sizes)) as is_short:
        if is_short:
            query, key, value = query.float(), key.float(), value.float()
        # Split once: going back that is one concatenation, where every slice would fill a whole row with zeros.
        queries, keys, values = (tensor.split(sizes, dim=2) for tensor in (query, key, value))
        for number, block in enumerate(blocks):
            key, value = keys[number], values[number]
            if block.context < block.start:  # the prefix is the block before
                assert block.context == blocks[number - 1].start
                key, value = torch.cat([keys[number - 1], key], dim=2), torch.cat([values[number - 1], value], dim=2)
            pieces.append(_attend(queries[number], key, value, block.mask, scaling, dropout, softcap))
    return torch.cat(pieces, dim=2).transpose(1, 2).contiguous().to(dtype), None


def boda_mask(batch_size, q_length, kv_length, *args, attention_mask=None, local_size=None, **kwargs) -> torch.Tensor | None:
    """The mask for `boda_attention_forward`: none where causal attention is right, else transformers' SDPA mask."""
    feels_window = local_size is not None and kv_length > local_size
    if attention_mask is None and q_length == kv_length and not feels_window:
        return None
    return sdpa_mask(batch_size, q_length, kv_length, *args, attention_mask=attention_mask, local_size=local_size, **kwargs)


@torch.no_grad()
def keeps_segments_apart(language_model) -> bool:
    """Whether segments of a packed row are separate in this model, tried out; leaves it in evaluation mode.

    False where layers do not go through transformers' attention interface (Bloom) or carry a state along the row (Mamba, LFM2).
    """
    language_model.eval()
    device, length = next(language_model.parameters()).device, 6
    place = torch.arange(length, device=device)
    packed = {  # a start, two that go on from it, and one for itself
        "position_ids": torch.cat([place, place + length, place + length, place])[None],
        "cu_seq_lens": torch.arange(0, 4 * length + 1, length, dtype=torch.int32, device=device),
        "prefix": torch.tensor([-1, 0, 0, -1], dtype=torch.int32, device=device),
    }
    words = torch.arange(1, 4 * length + 1, device=device).view(4, length) % language_model.config.vocab_size

    def states(words: torch.Tensor) -> torch.Tensor:
        return language_model(input_ids=words.view(1, -1), use_cache=False, **packed).last_hidden_state.view(4, -1)

    def change_by(segment: int) -> list[float]:
        others = words.clone()
        others[segment] = others[segment].flip(0)
        return ((states(others) - before).abs().amax(dim=1) / before.abs().max()).tolist()

    try:
        before = states(words)
    except TypeError:  # a forward pass that knows no segments
        return False
    # Experts take the tokens of all segments together, so in half precision words elsewhere may round a result anew; so may large
    # features elsewhere where matrices are kept in 8 bits (bitsandbytes computes such columns in 16).
    has_experts = any(name.endswith("experts") for name, _ in language_model.named_modules())
    is_rounded = has_experts and before.dtype != torch.float32
    is_rounded |= any(type(module).__name__ == "Linear8bitLt" for module in language_model.modules())
    rounding = 2e-2 if is_rounded else 1e-5
    start, first, second, apart = change_by(0)
    seen = min(start, first, second) > 0 and apart <= rounding
    start, first, second, apart = change_by(1)
    return seen and first > 0 and max(start, second, apart) <= rounding


AttentionInterface.register(ATTENTION_NAME, boda_attention_forward)
AttentionMaskInterface.register(ATTENTION_NAME, boda_mask)
