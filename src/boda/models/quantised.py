"""Language models whose matrices are kept in 8 or 4 bits, through bitsandbytes: loading them so, and telling them.

NF4 with doubly quantised scales is QLoRA's (https://arxiv.org/abs/2305.14314), int8 that of LLM.int8()
(https://arxiv.org/abs/2208.07339). Such matrices stay as they are: only adapters beside them can be trained.
"""

from __future__ import annotations

import torch
from torch import nn

from boda.errors import BodaError

BYTES = {"int8": 1.0, "nf4": 0.516}  # a weight, scales included
BLOCK = 64  # numbers of 4 bits that share a scale


def is_quantised(module: nn.Module) -> bool:
    """Whether any of its matrices is kept in other than floating-point numbers."""
    return any(not parameter.is_floating_point() for parameter in module.parameters())


def loading_options(precision: str, device: torch.device, dtype: torch.dtype) -> dict:
    """What `from_pretrained` takes so that matrices become `precision` (int8, nf4) while they are read; nothing for all others.

    Raises BodaError, with what to install, where bitsandbytes is missing or does not go with the device.
    """
    if precision not in BYTES:
        return {}
    try:
        import bitsandbytes  # noqa: F401
        from transformers import BitsAndBytesConfig
    except ImportError as error:
        raise BodaError(
            f"precision: {precision} needs bitsandbytes, which is not here ({error}): pip install 'boda[train]' on Linux or Windows; "
            "on a machine that it does not go with, say precision: auto"
        ) from None
    if device.type not in ("cuda", "cpu", "xpu"):
        raise BodaError(f"precision: {precision}: bitsandbytes knows no {device.type} devices; say precision: auto")
    if precision == "int8":
        config = BitsAndBytesConfig(load_in_8bit=True)
    else:
        config = BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype
        )
    placed = {"device_map": {"": device}} if device.type != "cpu" else {}
    return {"quantization_config": config, "dtype": dtype, **placed}


def ready_for_training(model: nn.Module) -> nn.Module:
    """Marks the model's body as PEFT wants it; keeps bitsandbytes from repacking matrices for a CPU in the middle of training.

    Raises BodaError where bitsandbytes would compute something else: its kernel for CPUs is right for rows of whole blocks only.
    """
    if not is_quantised(model):
        return _forget_quantisation(model)
    for name in ("is_loaded_in_8bit", "is_loaded_in_4bit"):
        if getattr(model, name, False):
            setattr(model.base_model, name, True)
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
            if module.weight.device.type == "cpu" and module.in_features % BLOCK:
                raise BodaError(
                    f"matrices of {module.in_features} columns cannot be kept in 4 bits on a CPU ({BLOCK} must divide them); say "
                    "precision: int8 or auto, or use a GPU"
                )
    return model


def _forget_quantisation(model: nn.Module) -> nn.Module:
    """A model that was quantised on disk and is not any more (GGUF, or made whole) can be saved as any other."""
    if getattr(model, "hf_quantizer", None) is not None:
        model.hf_quantizer.remove_quantization_config(model)
    if not getattr(model, "is_quantized", True):
        model.__dict__.pop("_weight_conversions", None)  # back to few bits, which transformers would try
    return model


def dequantised(model: nn.Module) -> nn.Module:
    """The model with ordinary matrices again. Raises BodaError for kinds of quantisation that cannot be undone."""
    if not is_quantised(model):
        return _forget_quantisation(model)
    try:
        return _forget_quantisation(model.dequantize())
    except (NotImplementedError, ValueError, AttributeError) as error:
        kind = type(getattr(model, "hf_quantizer", None)).__name__.removesuffix("HfQuantizer")
        raise BodaError(
            f"a language model quantised by {kind} cannot be made whole again ({error}), so no adapter can be merged into it: its "
            "stages/NAME/model/adapter is the result; for a merged model start from the unquantised one"
        ) from error


def weights_in(parameter: torch.Tensor) -> int:
    """How many numbers a parameter stands for: two of 4 bits share a byte."""
    state = getattr(parameter, "quant_state", None)
    return state.shape.numel() if state is not None else parameter.numel()
