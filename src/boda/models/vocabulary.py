"""Tokenizers: training one on given text, and the special tokens that a vision-language model needs."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from boda.errors import BodaError
from boda.models.pieces import Known

IMAGE_TOKEN = "<image>"
PAD_TOKEN = "<pad>"
SPECIAL_TOKENS = ("<|endoftext|>", PAD_TOKEN, "<|im_start|>", "<|im_end|>", IMAGE_TOKEN)


def train_tokenizer(texts: Iterable[str], vocab_size: int):
    """Texts -> byte-level BPE tokenizer with ChatML special tokens and `vocab_size` entries or fewer.

    Raises BodaError where the vocabulary cannot hold the 256 bytes and the special tokens.
    """
    least = 256 + len(SPECIAL_TOKENS)
    if vocab_size < least:
        raise BodaError(
            f"tokenizer.vocab_size is {vocab_size}; 256 bytes and {len(SPECIAL_TOKENS)} special tokens need {least}"
        )
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()  # Hangul written as separate letters would cost three times the tokens
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|endoftext|>",
        pad_token=PAD_TOKEN,
        additional_special_tokens=["<|im_start|>", "<|im_end|>", IMAGE_TOKEN],
    )


def add_token(tokenizer, token: str) -> int:
    """Makes `token` a special token of the tokenizer if it is not one yet; its id."""
    known = tokenizer.get_vocab()
    if token not in known or tokenizer.added_tokens_decoder.get(known[token]) is None:
        tokenizer.add_tokens([AddedToken(token, special=True, normalized=False)], special_tokens=True)
    return tokenizer.convert_tokens_to_ids(token)


def give_pad_token(tokenizer) -> None:
    """Batches need one; a tokenizer that has one keeps it."""
    if tokenizer.pad_token_id is None:
        add_token(tokenizer, PAD_TOKEN)
        tokenizer.pad_token = PAD_TOKEN


@torch.no_grad()
def resize_embeddings(language_model, tokenizer, spare: int = 0) -> None:
    """Gives the language model a row for every id of the tokenizer and `spare` more; further rows that it has stay.

    New rows of both tables are the mean of the old ones: an unknown word on average, and never likelier than any other.
    """
    old = language_model.get_input_embeddings().weight.shape[0]
    rows = max(tokenizer.get_vocab().values()) + 1 + spare
    if rows <= old:
        return
    language_model.resize_token_embeddings(rows, mean_resizing=False)
    for table in (language_model.get_input_embeddings(), language_model.get_output_embeddings()):
        table.weight[old:] = table.weight[:old].float().mean(dim=0).to(table.weight.dtype)


@torch.no_grad()
def give_rows(model, old, new, how: str = "mean", seed: int = 0) -> dict:
    """Gives a model the rows of the pieces that `new` has and the tokenizer `old` lacks; no other row changes.

    How they begin: `mean` of the rows of the pieces that `old` writes the new one with; `eeve` (https://arxiv.org/abs/2402.14714) the
    same, but in the head the row of the first of them; `random` from a normal distribution with the old rows' mean and deviation in
    each direction, drawn from `seed`. Rows that were there for no token (a padded table) are used. A tied table is the input's.
    Returns how many there are, how many rows the table got, of how many old pieces one is made, and whether the head is tied.
    """
    known = Known(old)
    fresh = {id: piece for piece, id in new.get_vocab().items() if id >= known.first and id not in new.added_tokens_decoder}
    before = model.get_input_embeddings().weight.shape[0]
    resize_embeddings(model, new)
    tables = [model.get_input_embeddings(), model.get_output_embeddings()]
    is_tied = tables[1] is None or tables[1].weight is tables[0].weight
    parts = {id: known.part_ids(fresh[id]) for id in sorted(fresh)}
    generator = torch.Generator().manual_seed(seed)
    for table in tables[: 1 if is_tied else 2]:
        is_head = table is tables[1]
        for tensor in table.parameters():  # a matrix (V, D), and a head's bias (V,) if it has one
            mean, deviation = (each.cpu() for each in _moments(tensor[: min(known.first, before)]))
            for id, written in parts.items():
                if how == "random":
                    row = mean + deviation * torch.randn(mean.shape, generator=generator)
                else:
                    row = tensor[written[:1] if is_head and how == "eeve" else written].float().mean(dim=0)
                tensor[id] = row.to(tensor)
    mean_parts = sum(map(len, parts.values())) / max(1, len(parts))
    rows = model.get_input_embeddings().weight.shape[0] - before
    return {"new": len(parts), "rows_added": rows, "parts_a_piece": round(mean_parts, 2), "tied": is_tied, "initialise": how}


def _moments(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and standard deviation over rows (N, ...), summed in fp32 without a copy of them all."""
    chunks = rows.split(4096)
    mean = sum(chunk.float().sum(dim=0) for chunk in chunks) / len(rows)
    return mean, (sum((chunk.float() - mean).square().sum(dim=0) for chunk in chunks) / len(rows)).sqrt()


@torch.no_grad()
def share_of_new(model, old, new, texts: list[str]) -> float:
    """Mean probability that a model gives to all new pieces together, over the places of texts as `old` tokenises them."""
    first, shares = Known(old).first, []
    for text in texts:
        ids = old(text, add_special_tokens=False, return_tensors="pt").input_ids[:, :512].to(model.device)  # (1, L)
        if ids.shape[1]:
            logits = model(input_ids=ids).logits[0].float()  # (L, V)
            shares.append(logits.softmax(dim=-1)[:, first : max(new.get_vocab().values()) + 1].sum(dim=-1))
    return float(torch.cat(shares).mean()) if shares else 0.0
