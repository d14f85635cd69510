"""A model of this process as evaluation asks it: so that what it answers to a question does not depend on its batch."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Sequence

import torch

from boda.data.images import load_image
from boda.errors import BodaError, explaining
from boda.evaluate.asking import ModelGone, Reply, with_pictures
from boda.evaluate.machine import peak_memory
from boda.models.checkpoints import best_device, best_dtype, load
from boda.models.generate import encode, generate_counted, with_system

SHARE = 0.5  # of a device's memory that weights in fp32 may take


def open_local(
    name: str, trust_remote_code: bool, exact: bool, device: torch.device | None = None, sharing: int = 1
) -> LocalModel:
    """A model folder or hub id, loaded. Raises BodaError: none there, or a pair model.

    `exact`: in fp32 where that takes at most half of the memory; a bf16 model gives other answers in other batches (2 of 300 drawn
    questions with `mini`), and is asked one question at a time. `sharing`: so many processes have models on the device.
    """
    device = device or best_device()
    best = best_dtype(device)
    model, processor = load(name, "cpu", "auto", trust_remote_code) if exact else load(name, device, best, trust_remote_code)
    if hasattr(model, "get_text_features"):
        raise BodaError(
            f"'{name}' is a pair model: it compares pictures and texts and answers nothing; `boda eval --list` shows its tasks"
        )
    if exact:
        size = 4 * sum(parameter.numel() for parameter in model.parameters())
        if not getattr(model, "is_quantized", False) and size <= SHARE * _memory(device) / sharing:
            model = model.to(device, torch.float32)
        elif model.dtype == best or getattr(model, "is_quantized", False):
            model = model.to(device)
        else:
            model, processor = load(name, device, best, trust_remote_code)
    return LocalModel(model, processor)


def _memory(device: torch.device) -> float:
    """Bytes of the device; of this machine where it has none of its own."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


class LocalModel:
    """A loaded model and its processor, as an Ask; `loaded` is for what is measured of the model itself."""

    def __init__(self, model, processor):
        self.loaded = model, processor
        self.saved = getattr(model, "boda_info", {}).get("generation", {})
        self.context = getattr(model.config.get_text_config(), "max_position_embeddings", None)
        self.precision = str(model.dtype).removeprefix("torch.")

    def __call__(self, conversations: list[list[dict]], decoding: dict) -> Sequence[str | BodaError]:
        """Answers. Decoding may say `within_context`: so many turns, this one the first, share the positions that are left."""
        model, processor = self.loaded
        if not getattr(processor, "chat_template", None):
            raise ModelGone("the model has no chat template, so how to ask it is not known; set its tokenizer's chat_template")
        asked = [with_pictures(messages, load_image) for messages in conversations]
        decoding = dict(decoding)
        if "stop" in decoding:  # a task's stop strings come to the model's own
            decoding["stop"] = [*(self.saved.get("stop") or ()), *decoding["stop"]]
        turns = decoding.pop("within_context", 0)
        if not turns or self.context is None:
            return self._answers(asked, decoding)
        # Rounded down, so that conversations of about the same length are answered together and none depends on the others.
        step, rooms = max(1, self.context // 16), defaultdict(list)
        system = decoding.get("system", self.saved.get("system"))
        for number, messages in enumerate(asked):
            length = encode(model, processor, [with_system(messages, system)])["input_ids"].shape[1]
            rooms[min(decoding["max_new_tokens"], (self.context - length) // turns // step * step)].append(number)
        answers: dict[int, str | BodaError] = {}
        for room, numbers in rooms.items():
            if room <= 0:
                too_long = BodaError(f"the conversation is too long for a model of {self.context:,} positions")
                answers |= dict.fromkeys(numbers, too_long)
                continue
            answers |= zip(numbers, self._answers([asked[number] for number in numbers], {**decoding, "max_new_tokens": room}))
        return [answers[number] for number in range(len(asked))]

    def _answers(self, asked: list[list[dict]], decoding: dict) -> list[Reply]:
        """Together where that changes nothing: in fp32, and where nothing is drawn by chance."""
        exact = self.loaded[0].dtype == torch.float32
        if {**self.saved, **decoding}.get("temperature"):
            return [reply for messages in asked for reply in self._generated([messages], {"seed": 0, **decoding}, 1)]
        return self._generated(asked, decoding, len(asked) if exact else 1)

    def _generated(self, asked: list[list[dict]], decoding: dict, size: int) -> list[Reply]:
        full = (
            "the device's memory is full; a smaller --image-limit asks less of it"  # of one question: a batch is parted before
        )
        # A GPU's convolutions would round to 10 bits otherwise.
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False), explaining(full, torch.OutOfMemoryError):
            return [Reply(*each) for each in generate_counted(*self.loaded, asked, size, **decoding)]

    def peak(self) -> int | None:
        """Bytes that this process has had at most: of the model's GPU, else of this machine."""
        return peak_memory(self.loaded[0].device)
