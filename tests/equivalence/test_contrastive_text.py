"""Texts of one packed row, read by encoders that look both ways = each of them padded, through stock SDPA."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoConfig, AutoModel

from boda.models.attention import ATTENTION_NAME

LENGTHS = [5, 1, 17, 8, 8, 3, 30]
SMALL = dict(
    vocab_size=60,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=3,
    num_attention_heads=4,
    max_position_embeddings=64,
    initializer_range=0.2,
    pad_token_id=1,
)
ENCODERS = {
    "bert": {},
    "roberta": {},
    "xlm-roberta": {},
    "modernbert": {"local_attention": 8, "global_attn_every_n_layers": 2, "initializer_cutoff_factor": 1.0},  # felt: 4 each way
}


def encoder(kind):
    torch.manual_seed(0)
    return AutoModel.from_config(AutoConfig.for_model(kind, **SMALL, **ENCODERS[kind])).eval()


def texts():
    generator = torch.Generator().manual_seed(1)
    return [torch.randint(4, 60, (length,), generator=generator) for length in LENGTHS]


def padded_states(model, every):
    """(S, W, D) of stock SDPA, and which are real."""
    model.set_attn_implementation("sdpa")
    ids = torch.nn.utils.rnn.pad_sequence(every, batch_first=True, padding_value=1)
    real = torch.arange(ids.shape[1]) < torch.tensor(LENGTHS)[:, None]
    return model(input_ids=ids, attention_mask=real.long()).last_hidden_state, real


def packed_states(model, every, **more):
    """(L, D) of one row."""
    model.set_attn_implementation(ATTENTION_NAME)
    first = model.config.pad_token_id + 1 if "roberta" in model.config.model_type else 0
    positions = torch.cat([torch.arange(len(ids)) + first for ids in every])
    borders = torch.tensor([0, *LENGTHS], dtype=torch.int32).cumsum(0).int()
    inputs = dict(input_ids=torch.cat(every)[None], position_ids=positions[None], cu_seq_lens=borders)
    return model(**inputs, **more).last_hidden_state[0]


@pytest.mark.parametrize("kind", ENCODERS)
def test_packed_texts_are_padded_texts(kind):
    """States of every token, and the gradients of all weights."""
    model, every = encoder(kind), texts()
    gradients = []
    for way in ("padded", "packed"):
        model.zero_grad()
        if way == "padded":
            whole, real = padded_states(model, every)
            states = whole[real]
        else:
            states = packed_states(model, every)
        (states * torch.linspace(-1, 1, states.numel()).view_as(states)).sum().backward()
        gradients.append((states.detach(), *(p.grad for p in model.parameters() if p.grad is not None)))
    assert len(gradients[0]) == len(gradients[1]) > 10
    for expected, given in zip(*gradients):
        torch.testing.assert_close(given, expected, rtol=1e-4, atol=1e-5 * max(1.0, float(expected.abs().max())))


def test_a_text_does_not_see_its_neighbours():
    model, every = encoder("modernbert"), texts()
    before = packed_states(model, every)
    every[2] = every[2].flip(0)
    changed = (packed_states(model, every) != before).any(dim=1)
    start = sum(LENGTHS[:2])
    assert changed[start : start + LENGTHS[2]].all() and changed.sum() == LENGTHS[2]


def test_texts_that_look_both_ways_share_no_prefix():
    model, every = encoder("bert"), texts()
    with pytest.raises(ValueError, match="cannot share a prefix"):
        packed_states(model, every, prefix=torch.tensor([-1, 0, -1, -1, -1, -1, -1]))
