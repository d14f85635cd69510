"""How a tiny checkpoint is made and kept: the cache folder, weights, tokenizers."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import zlib
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

ASSETS = Path(__file__).parent / "assets"


@cache
def korean_lines() -> tuple[str, ...]:
    """The lines all tokenizers here are trained on: Korean with some English, digits, emoji and hanja."""
    return tuple((ASSETS / "korean.txt").read_text(encoding="utf-8").splitlines())


@cache
def tiny_root() -> Path:
    """The cache folder of this version of the files and libraries."""
    import tokenizers
    import torch
    import transformers

    digest = hashlib.sha256()
    for path in (*sorted(Path(__file__).parent.glob("tiny*.py")), *sorted(ASSETS.rglob("*"))):
        if path.is_file():
            digest.update(path.read_bytes())
    versions = f"{torch.__version__} {transformers.__version__} {tokenizers.__version__}"
    digest.update(versions.encode())
    user = os.getuid() if hasattr(os, "getuid") else 0
    root = Path(tempfile.gettempdir()) / f"boda-tiny-{user}-{digest.hexdigest()[:16]}"
    root.mkdir(exist_ok=True)
    return root


def built(name: str, build: Callable[[Path], None]) -> Path:
    """The folder `name`, written by `build` if it is not there yet; safe when several test processes ask at once."""
    import torch

    folder = tiny_root() / name
    if folder.exists():
        return folder
    scratch = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=tiny_root()))
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(zlib.crc32(name.encode()))
            build(scratch)
        try:
            scratch.rename(folder)
        except OSError:  # another process was first
            if not folder.exists():
                raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return folder


def save_weights(model, folder: Path) -> None:
    """Save with every vector (norm scales, biases) moved off its initial 0 or 1."""
    import torch

    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter) * 0.05)
    model.eval().save_pretrained(folder)


def write_json(path: Path, content) -> None:
    path.write_text(json.dumps(content, ensure_ascii=False, indent=2), encoding="utf-8")


def byte_level(vocab_size: int, specials: Sequence[str], bos: str | None = None, prefix_specials: bool = False):
    """A byte-level BPE tokenizer (GPT-2, Llama 3, Qwen, HyperCLOVA X kind); `bos` is prepended to plain texts if given."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    first = list(specials) if prefix_specials else []
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(specials) + len(first),
        special_tokens=first,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(korean_lines(), trainer)
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in specials])
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    if bos is not None:
        template = processors.TemplateProcessing(
            single=f"{bos} $A", pair=f"{bos} $A {bos}:1 $B:1", special_tokens=[(bos, tokenizer.token_to_id(bos))]
        )
        tokenizer.post_processor = processors.Sequence([tokenizer.post_processor, template])
    return tokenizer


def fast(tokenizer, template: str | None, **tokens):
    from transformers import PreTrainedTokenizerFast

    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, clean_up_tokenization_spaces=False, **tokens)
    if template is not None:
        wrapped.chat_template = template
    return wrapped
