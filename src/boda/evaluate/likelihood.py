"""Log-likelihoods of continuations for lm-eval: its Hugging Face model, with questions packed and each context read once."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

import torch

from boda.models.attention import ATTENTION_NAME, keeps_segments_apart
from boda.models.generate import tokenizer_of

MAX_LOGITS = 2**27  # numbers held at a time
TOKENS = 256  # of a row, for each question of a batch


@contextmanager
def packing(model) -> Iterator[bool]:
    """Boda's attention on the language model while the block runs; whether it keeps the segments of a row apart there."""
    body = model.base_model
    language = getattr(body, "language_model", body)
    before = language.config._attn_implementation
    try:
        packs = False
        with suppress(ValueError, RuntimeError, AttributeError):  # code of its own
            language.set_attn_implementation(ATTENTION_NAME)
            packs = keeps_segments_apart(language)
        if not packs:
            language.set_attn_implementation(before)
        yield packs
    finally:
        language.set_attn_implementation(before)


@contextmanager
def fp32_head(model) -> Iterator[None]:
    """The head computes in fp32 while the block runs: logits in bf16 have steps of an eighth where they are 16 to 32, so that
    choices tie and the first wins."""
    head = model.get_output_embeddings()
    if not isinstance(head, torch.nn.Linear) or head.weight.dtype not in (torch.bfloat16, torch.float16):
        yield
        return
    own = dict(head.named_parameters(recurse=False))
    hook = head.register_forward_pre_hook(lambda _, inputs: (inputs[0].float(),))
    try:
        for name, parameter in own.items():
            setattr(head, name, torch.nn.Parameter(parameter.detach().float(), requires_grad=False))
        yield
    finally:
        hook.remove()
        for name, parameter in own.items():
            setattr(head, name, parameter)


@dataclass
class PackedRow:
    """Contexts, each followed by what continues it, as one row: a context is a segment and prefix of its continuations."""

    ids: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    borders: list[int] = field(default_factory=lambda: [0])
    prefix: list[int] = field(default_factory=list)
    places: list[int] = field(default_factory=list)  # of the tokens whose logits are needed
    asked: list[tuple[int, int]] = field(default_factory=list)  # (request, where its places begin in `places`)

    def add(self, context: tuple[int, ...], continuations: dict[tuple[int, ...], list[int]]) -> None:
        """A context and, for each run of tokens read after it, the requests that ask what comes next."""
        parent = len(self.prefix)
        self._segment(context, 0, -1)
        last = len(self.ids) - 1
        for tokens, requests in continuations.items():
            self.asked += [(request, len(self.places)) for request in requests]
            self.places += [last, *range(len(self.ids), len(self.ids) + len(tokens))]
            if tokens:
                self._segment(tokens, len(context), parent)

    def _segment(self, tokens: tuple[int, ...], first: int, parent: int) -> None:
        self.ids += tokens
        self.positions += range(first, first + len(tokens))
        self.borders.append(len(self.ids))
        self.prefix.append(parent)

    def inputs(self, device: torch.device) -> dict:
        def tensor(values: list[int], dtype: torch.dtype = torch.long) -> torch.Tensor:
            return torch.tensor(values, dtype=dtype, device=device)

        row = {"input_ids": tensor(self.ids)[None], "position_ids": tensor(self.positions)[None]}  # (1, L)
        row |= {"cu_seq_lens": tensor(self.borders, torch.int32), "prefix": tensor(self.prefix, torch.int32)}
        return row | {"logits_to_keep": tensor(self.places), "use_cache": False}


def harness_model(model, processor, batch_size: int, packs: bool):
    """An lm-eval model (its HFLM) around a loaded one; a VLM reads text through its own forward pass, without pictures.

    Logits and log-probabilities are fp32, whatever the weights are.
    """
    from lm_eval.models.huggingface import HFLM

    class Packed(HFLM):
        @torch.inference_mode()
        def _loglikelihood_tokens(self, requests, disable_tqdm=False, override_bs=None):
            """[(texts, context ids, continuation ids)] -> [(log-likelihood, whether it is what greedy decoding says)]."""
            with fp32_head(self.model):
                stock = super()._loglikelihood_tokens
                return self._packed(requests) if packs else stock(requests, disable_tqdm, override_bs)

        def _packed(self, requests) -> list[tuple[float, bool]]:
            contexts: dict = defaultdict(lambda: defaultdict(list))
            for number, (_, context, continuation) in enumerate(requests):
                ids = (context + continuation)[-(self.max_length + 1) :]  # too long: cut on the left
                cut = len(ids) - len(continuation)
                assert cut > 0, f"a choice of {len(continuation)} tokens is longer than the {self.max_length} it can read"
                contexts[tuple(ids[:cut])][tuple(ids[cut:-1])].append(number)
            found: list = [None] * len(requests)
            vocabulary = self.model.get_output_embeddings().weight.shape[0]
            rows = [PackedRow()]
            for context, continuations in contexts.items():
                row, read = rows[-1], sum(map(len, continuations))
                length, labels = len(row.ids) + len(context) + read, len(row.places) + read + len(continuations)
                if row.ids and (length > TOKENS * batch_size or labels * vocabulary > MAX_LOGITS):
                    rows.append(PackedRow())
                rows[-1].add(context, continuations)
            for row in rows:
                self._answer(row, requests, found)
            return found

        def _answer(self, row: PackedRow, requests, found: list) -> None:
            logprobs = self.model(**row.inputs(self.device)).logits[0].float().log_softmax(-1)  # (K, V)
            greedy = logprobs.argmax(-1).tolist()
            for request, start in row.asked:
                ids = requests[request][2]
                target = torch.tensor(ids, device=self.device)[:, None]  # (C, 1)
                chosen = logprobs[start : start + len(ids)].gather(1, target)
                found[request] = (float(chosen.sum()), greedy[start : start + len(ids)] == ids)

    tokenizer = tokenizer_of(processor)
    known = [tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id, 0]
    first = next(each for each in known if each is not None)  # stands before a continuation without a context
    named = {"pretrained": model, "tokenizer": tokenizer, "prefix_token_id": first}
    return Packed(**named, backend="causal", batch_size=batch_size, softmax_dtype="float32")
