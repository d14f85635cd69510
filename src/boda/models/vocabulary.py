"""Tokenizers: training one on given text, and the special tokens that a vision-language model needs."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from boda.errors import BodaError

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
