"""Checkpoints in other projects' layouts, taken apart: LLaVA's own three, transformers' LLaVA, OpenFlamingo's, KoCLIP's in Flax.

To add a layout: a function that reads it and a line in LAYOUTS.
"""

from __future__ import annotations

import pickle
import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from huggingface_hub import snapshot_download
from safetensors.torch import load_file as load_safetensors
from transformers import CONFIG_MAPPING, MODEL_FOR_CAUSAL_LM_MAPPING
from transformers.models.auto.image_processing_auto import AutoImageProcessor

from boda.errors import WHY, BodaError, explaining
from boda.files import read_json
from boda.models.foreign_flamingo import KEYS as FLAMINGO_KEYS
from boda.models.foreign_flamingo import (
    Weights,
    language_weights,
    open_clip_config,
    open_clip_weights,
    settings_of,
    without_wrapper,
)
from boda.models.loading import LOADING_ERRORS, config_from, is_path, open_part

# LLaVA's name of a projector -> our connector, how its keys begin -> how ours do, and a key by which to tell it.
PROJECTORS: dict[str, tuple[str, dict[str, str], str]] = {
    "linear": ("linear", {"": "linear_1."}, "weight"),
    "mlp2x_gelu": ("mlp2x_gelu", {"0.": "linear_1.", "2.": "linear_2."}, "0.weight"),
    "ldpnetv2": ("ldpv2", {}, "peg.peg.0.weight"),  # MobileVLM V2, Small Korean VLM
    "ldpv2": ("ldpv2", {}, "peg.peg.0.weight"),
}
# A LLaVA's model_type -> its language model's, where that is not what follows `llava_`. The first LLaVA is a Llama.
LANGUAGES = {"llava": "llama", "mobilevlm": "llama", "llava_qwen": "qwen2"}
# Settings of LLaVA's config.json -> values that our models have.
POSSIBLE = {"image_aspect_ratio": ("square", "pad"), "mm_vision_select_feature": ("patch",), "mm_patch_merge_type": ("flat",),
            "s2": (False,)}  # fmt: skip
# Part -> how its keys begin; what follows is the name in the part. The first that fits takes a key.
ORIGINAL_KEYS = {
    "connector": r"(base_model\.model\.)?(model\.)?mm_projector\.",
    "vision": r"(base_model\.model\.)?model\.vision_tower\.(vision_tower\.)?",
    "language": r"(base_model\.model\.)?",
}
OLD_KEYS = {"connector": "multi_modal_projector.", "vision": "vision_tower.", "language": "language_model."}
NEW_KEYS = {part: "model." + begin for part, begin in OLD_KEYS.items()} | {"head": "lm_head."}
TRAINERS = ("model_state_dict", "state_dict")  # under which training scripts keep the weights beside their own state
IGNORED = ("rotary_emb.inv_freq", "embeddings.position_ids")  # computed; old versions of transformers saved them
HUB_FILES = ["*.json", "*.jinja", "*.bin", "checkpoint*.pt", "*.safetensors", "*.model", "*.txt", "*.msgpack"]
FLAX_KEYS = {
    "vision": r"vision_model\.",
    "language": r"text_model\.",
    "connector": "(?=visual_projection|text_projection|logit_scale)",
}
FLAX_LEAVES = {"kernel": "weight", "scale": "weight", "embedding": "weight"}


@dataclass
class Parts:
    """A model taken apart; vision and language by name, or as a config whose weights are given."""

    vision: str | dict
    language: Any
    tokenizer: str
    connector: str | dict  # "": a pair model, which has none; a mapping: a flamingo's settings
    connector_weights: Weights  # named as in boda.models.connectors; of a flamingo resampler.* and layers.N.cross_attention.*
    vision_layer: int
    vision_weights: Weights
    language_weights: Weights  # all, or those that take the place of a named language model's
    adapter: Path | None = None  # folder of a LoRA to merge into the language model
    image_processor: Any = None
    image_fit: str | None = None  # None: as the tower's own image processor does it
    marks: list[str] = field(default_factory=list)  # tokens that the source adds to the tokenizer
    colours: dict = field(default_factory=dict)  # mean and std of pictures, where there is no image processor to say it
    notes: list[str] = field(default_factory=list)  # what was taken where the checkpoint leaves a choice, for the user
    layout: str = ""
    said: dict = field(default_factory=dict)  # config.json
    names: list[str] = field(default_factory=list)  # what may tell how the model was talked to


class Given(NamedTuple):
    """What the user says of a checkpoint."""

    vision: str | None = None
    language: str | None = None
    connector: str | None = None

    def refuse(self, *options: str) -> None:
        if said := [f"--{option}" for option in options if getattr(self, option) is not None]:
            raise BodaError(f"{said[0]} has no use here: the checkpoint has its own; leave it out")


def read_parts(source: str, given: Given) -> Parts:
    """Takes a checkpoint apart by what its files are. Raises BodaError: which layouts there are, or what is wrong with it."""
    path = _local(source)
    folder = path.parent if path.is_file() else path
    config = read_json(folder / "config.json")
    for name, (fits, read) in LAYOUTS.items():
        if fits(path, config if path.is_dir() else {}):
            parts = read(path, config, given)
            own = folder.resolve() if Path(source).expanduser().exists() else Path(source)
            own = own.parent if own.name.startswith("checkpoint-") else own
            names = [own.name, config.get("_name_or_path"), parts.language, config.get("model_type")]
            texts = [Path(each).name for each in names if isinstance(each, str)]
            return replace(parts, layout=name.partition(" (")[0], said=config, names=texts)
    there = ", ".join(sorted(each.name for each in folder.iterdir())[:8]) or "nothing"
    raise BodaError(f"{source} has {there}, which is none of the layouts that can be imported: {'; '.join(LAYOUTS)}")


def _local(source: str) -> Path:
    path = Path(source).expanduser()
    if path.exists():
        return path
    if is_path(source):
        raise BodaError(f"no checkpoint at {source}: there is no such file or folder")
    said = f"no checkpoint at '{source}': it is no folder here, and the hub does not give it ({WHY})"
    with explaining(said, OSError, ValueError):
        return Path(snapshot_download(source, allow_patterns=HUB_FILES))


# ---------------------------------------------------------------- layouts


def read_projector(path: Path, config: dict, given: Given) -> Parts:
    """What LLaVA's first stage leaves: the projector; the rest is named by the user or by the config.json beside it."""
    file = path if path.is_file() else path / "mm_projector.bin"
    return _original(file.parent, config, given, load_file(file), given.language or config.get("_name_or_path"))


def read_adapter(folder: Path, config: dict, given: Given) -> Parts:
    """A LoRA folder of LLaVA; the base that it names is a language model or another whole LLaVA."""
    if not (folder / "non_lora_trainables.bin").is_file():
        raise BodaError(f"{folder} has an adapter and no non_lora_trainables.bin, which holds the projector")
    base = given.language or read_json(folder / "adapter_config.json").get("base_model_name_or_path") or ""
    parts = _original(folder, config, given, load_file(folder / "non_lora_trainables.bin"), base)
    inner = read_json(Path(base) / "config.json")
    if "mm_vision_tower" in inner:
        whole = read_original(Path(base), inner, Given(vision=given.vision))
        parts.language, parts.tokenizer = whole.language, whole.tokenizer
        parts.language_weights = whole.language_weights | parts.language_weights
        parts.vision_weights = parts.vision_weights or whole.vision_weights
    parts.adapter = folder
    return parts


def read_original(folder: Path, config: dict, given: Given) -> Parts:
    """A whole LLaVA: one state dict of language model, projector and perhaps vision tower."""
    given.refuse("language")
    said = str(config.get("model_type"))
    kind = LANGUAGES.get(said, said.removeprefix("llava_"))
    text = _known(config | {"_name_or_path": ""}, kind, "language", f"{folder}/config.json says model_type: {said}")
    return _original(folder, config, given, load_weights(folder), text)


def _known(values: dict, kind: str, part: str, said: str):
    """transformers' config of a kind of model with those of the values that it knows. Raises BodaError where there is none."""
    if kind not in CONFIG_MAPPING:
        raise BodaError(f"{said}, and transformers has no {part} model '{kind}'")
    known = set(CONFIG_MAPPING[kind]().to_dict()) | {"rope_theta", "rope_scaling", "head_dim"}
    known -= {"model_type", "architectures", "dtype", "transformers_version"}
    return config_from({"model_type": kind, **{key: values[key] for key in known if key in values}}, part)


def _original(folder: Path, config: dict, given: Given, weights: Weights, language) -> Parts:
    for name, possible in POSSIBLE.items():
        if config.get(name) is not None and config[name] not in possible:
            known = " or ".join(map(str, possible))
            raise BodaError(f"{folder}/config.json says {name}: {config[name]}; a model with {known} can be imported")
    vision = given.vision or config.get("mm_vision_tower") or ""
    for part, model in (("vision", vision), ("language", language)):
        if not model:
            raise BodaError(f"{folder} does not say which {part} model it goes with; name a folder or hub id with --{part}")
    found = split(weights, ORIGINAL_KEYS, folder)
    marks = ["<im_patch>"] * config.get("mm_use_im_patch_token", True) + ["<im_start>", "<im_end>"]
    return Parts(
        vision,
        language,
        language if isinstance(language, str) else str(folder),
        *projector(found["connector"], given.connector or config.get("mm_projector_type"), folder),
        config.get("mm_vision_select_layer", -2),
        found["vision"],
        found["language"],
        image_fit="pad" if config.get("image_aspect_ratio") == "pad" else None,
        marks=marks if config.get("mm_use_im_start_end") else [],
    )


def projector(weights: Weights, kind: str | None, folder: Path) -> tuple[str, Weights]:
    """Our connector and its weights, from the source's name for it or else from its keys."""
    kind = kind or next((name for name, (_, _, key) in PROJECTORS.items() if key in weights), None)
    if kind not in PROJECTORS:
        what = f"is '{kind}'" if kind else f"has the keys {', '.join(sorted(weights)[:4])}" if weights else "is not there"
        raise BodaError(
            f"the projector in {folder} {what}; those that can be imported (--connector) are {', '.join(PROJECTORS)}"
        )
    connector, begins, _ = PROJECTORS[kind]
    renamed = {}
    for key, tensor in weights.items():
        begin = next((begin for begin in begins if key.startswith(begin)), "")
        renamed[begins.get(begin, "") + key.removeprefix(begin)] = tensor
    return connector, renamed


def read_transformers(folder: Path, config: dict, given: Given) -> Parts:
    """transformers' LLaVA, with the keys of before or after its version 4.52."""
    given.refuse(*given._fields)
    weights = load_weights(folder)
    old, new = ([key for key in weights if key.startswith(tuple(keys.values()))] for keys in (OLD_KEYS, NEW_KEYS))
    if old and new:
        raise BodaError(f"{folder} mixes two generations of keys, '{old[0]}' and '{new[0]}': its files are of two checkpoints")
    found = split(weights, OLD_KEYS if old else NEW_KEYS, folder)
    for part, begin in OLD_KEYS.items():
        if not found[part]:
            raise BodaError(f"{folder} has no weights of its {part} part: no key has {begin} in it")
    whole = config_from(str(folder), "language")
    text, kind = whole.text_config, MODEL_FOR_CAUSAL_LM_MAPPING[type(whole.text_config)]
    if new:
        with torch.device("meta"):
            shapes = kind(text)
        head = next(name for name, module in shapes.named_modules() if module is shapes.get_output_embeddings())
        text.tie_word_embeddings = not found["head"]
        found["language"] = {f"{kind.base_model_prefix}.{key}": tensor for key, tensor in found["language"].items()}
        found["language"] |= {f"{head}.{key}": tensor for key, tensor in found["head"].items()}
    connector, matrices = {"gelu": "mlp2x_gelu", "linear": "linear"}.get(whole.projector_hidden_act), found["connector"]
    if connector == "linear":  # the second matrix, which ours does without, must do nothing
        second, shift = matrices.pop("linear_2.weight"), matrices.pop("linear_2.bias")
        connector = "linear" if torch.equal(second, torch.eye(*second.shape).to(second)) and not shift.any() else None
    if connector is None or not isinstance(whole.vision_feature_layer, int):
        raise BodaError(f"{folder}: only one matrix or mlp2x_gelu on one layer of the vision tower can be imported")
    processor = open_part("vision", AutoImageProcessor.from_pretrained, str(folder))
    vision, layer = whole.vision_config.to_dict(), whole.vision_feature_layer
    return Parts(
        vision, text, str(folder), connector, matrices, layer, found["vision"], found["language"], image_processor=processor
    )


def read_hybrid_clip(folder: Path, config: dict, given: Given) -> Parts:
    """KoCLIP as its Flax code saves it (FlaxHybridCLIP); its folder holds no tokenizer, it took the text tower's."""
    given.refuse("vision", "connector")
    configs = []
    for part in ("vision", "text"):
        values = config.get(f"{part}_config") or {}
        kind = str(values.get("model_type"))
        configs.append(_known(values, kind, part, f"{folder}/config.json says {part}_config.model_type: {kind}"))
    found = split(load_msgpack(folder / "flax_model.msgpack"), FLAX_KEYS, folder)
    has_tokenizer = any((folder / name).is_file() for name in ("tokenizer.json", "vocab.txt"))
    tokenizer = given.language or (str(folder) if has_tokenizer else config["text_config"].get("_name_or_path"))
    if not tokenizer:
        raise BodaError(f"{folder} has no tokenizer and does not name its text tower; --language, e.g. klue/roberta-large")
    vision, text = configs
    return Parts(vision, text, tokenizer, "", found["connector"], -1, found["vision"], found["language"])


def read_flamingo(path: Path, config: dict, given: Given) -> Parts:
    """OpenFlamingo's or OpenFlaminKO's .pt: what was trained. The language model is named by the user, and so is the tower where
    none is inside."""
    given.refuse("connector")
    file = path if path.is_file() else next(path.glob("*.pt"))
    found = split(without_wrapper(load_file(file)), FLAMINGO_KEYS, file)
    settings, note = settings_of(found["resampler"], found["blocks"], file)
    blocks = {f"layers.{key.replace('.gated_cross_attn_layer.', '.cross_attention.')}": t for key, t in found["blocks"].items()}
    vision, tower, place = given.vision or "", found["vision"], file
    for part, there in (("language", given.language), ("vision", vision or tower)):
        if not there:
            raise BodaError(f"{file} holds no {part} model; --{part} names the one it was trained with, a folder or hub id")
    if vision and not tower and Path(vision).expanduser().is_file():
        vision, place = "", Path(vision).expanduser()
        named = without_wrapper(load_file(place))
        tower = {key.removeprefix("visual."): tensor for key, tensor in named.items() if key.startswith("visual.")}
    parts = Parts(
        vision,
        given.language,
        str(given.language),
        settings,
        {f"resampler.{key}": tensor for key, tensor in found["resampler"].items()} | blocks,
        -1,
        open_clip_weights(tower),
        language_weights(found["language"]),
        notes=[note],
    )
    if not vision:
        parts.vision, parts.colours, told = open_clip_config(tower, place)
        parts.notes.append(told)
    return parts


# Name (its files) -> whether path and config.json are that, and what takes it apart. The first that fits is taken.
LAYOUTS = {
    "LLaVA adapter (adapter_config.json, adapter_model, non_lora_trainables.bin)":
        (lambda path, config: (path / "adapter_config.json").is_file(), read_adapter),
    "transformers' LLaVA (config.json with model_type: llava and text_config)":
        (lambda path, config: config.get("model_type") == "llava" and "text_config" in config, read_transformers),
    "LLaVA (config.json with mm_vision_tower, and weights)":
        (lambda path, config: "mm_vision_tower" in config and any(path.glob("*model*.[bs]*")), read_original),
    "LLaVA projector (mm_projector.bin)":
        (lambda path, config: path.suffix == ".bin" or (path / "mm_projector.bin").is_file(), read_projector),
    "KoCLIP in Flax (config.json with model_type: hybrid-clip, flax_model.msgpack)":
        (lambda path, config: config.get("model_type") == "hybrid-clip", read_hybrid_clip),
    "OpenFlamingo (one .pt with perceiver.* and gated_cross_attn_layer.*)":
        (lambda path, config: path.suffix == ".pt" or len(list(path.glob("*.pt"))) == 1, read_flamingo),
}  # fmt: skip


# ---------------------------------------------------------------- files and keys


def load_weights(folder: Path, names: tuple[str, ...] = ("model.safetensors", "pytorch_model.bin")) -> Weights:
    """All tensors of a folder's model, in the first of these files that there is or in those that its index lists."""
    for name in names:
        index = read_json(folder / f"{name}.index.json")
        files = sorted(set(index["weight_map"].values())) if index else [name] if (folder / name).is_file() else []
        if missing := [file for file in files if not (folder / file).is_file()]:
            raise BodaError(f"{folder} lacks {missing[0]}, one of the {len(files)} files that its index lists")
        if files:
            return {key: tensor for file in files for key, tensor in load_file(folder / file).items()}
    raise BodaError(f"{folder} has no weights: no {', no '.join(names)}, and no index of several files")


def load_file(path: Path) -> Weights:
    """One file of tensors, read without running what code it may hold."""
    is_bin = path.suffix != ".safetensors"
    kinds = (*LOADING_ERRORS, EOFError, AttributeError)
    cannot, why = f"{path} cannot be read as tensors by name", "damaged, or it holds objects that only running its code makes"
    with explaining(f"{cannot}: {WHY}", *kinds), explaining(f"{cannot}: it is {why}", pickle.UnpicklingError):
        weights = torch.load(path, map_location="cpu", weights_only=True) if is_bin else load_safetensors(path)
        weights = next((weights[name] for name in TRAINERS if name in weights), weights)
        return {key: tensor.detach() for key, tensor in weights.items() if not key.endswith(IGNORED)}


def load_msgpack(path: Path) -> Weights:
    """Flax's tensors under PyTorch's names and with its axes: (in, out) -> (out, in), (H, W, in, out) -> (out, in, H, W)."""
    with explaining("reading Flax's files needs msgpack: pip install 'boda[train]'", ModuleNotFoundError):
        import msgpack

    def tensor(code: int, data: bytes) -> torch.Tensor:
        shape, kind, raw = msgpack.unpackb(data)
        return torch.frombuffer(bytearray(raw), dtype=getattr(torch, kind)).reshape(shape)

    def renamed(tree: dict, begin: str = "") -> Weights:
        found: Weights = {}
        for name, value in tree.items():
            if isinstance(value, dict):
                found |= renamed(value, f"{begin}{name}.")
            elif name == "kernel":
                found[f"{begin}weight"] = value.permute(*range(value.ndim)[::-1][:2], *range(value.ndim - 2)).contiguous()
            else:
                found[begin + FLAX_LEAVES.get(name, name)] = value
        return found

    with explaining(f"{path} cannot be read as Flax's tensors: {WHY}", OSError, ValueError, TypeError, AttributeError):
        return renamed(msgpack.unpackb(path.read_bytes(), ext_hook=tensor, strict_map_key=False))


def split(weights: Weights, patterns: dict[str, str], folder: Path) -> dict[str, Weights]:
    """Tensors by part. Raises BodaError for keys that belong to none."""
    found: dict[str, Weights] = {part: {} for part in patterns}
    for key, tensor in weights.items():
        part = next((part for part, pattern in patterns.items() if re.match(pattern, key)), None)
        if part is None:
            raise BodaError(f"{folder} has a key that belongs to no part of such a model: {key}")
        found[part][re.sub(f"^{patterns[part]}", "", key)] = tensor
    return found


def check_keys(what: str, missing=(), unknown=(), shapes=()) -> None:
    """Raises BodaError, naming some, where a checkpoint lacks tensors of a part, has others, or has them in other shapes."""
    for name, given, wanted in sorted(shapes):
        raise BodaError(f"the {what}'s {name} has shape {tuple(given)} in the checkpoint and should have {tuple(wanted)}")
    lacks, has = (
        ", ".join(sorted(keys)[:3]) + (f" and {len(keys) - 3} more" if len(keys) > 3 else "") for keys in (missing, unknown)
    )
    if lacks or has:
        said = [f"lacks {lacks} of the {what}"] * bool(lacks) + [f"has {has}, which no such {what} has"] * bool(has)
        raise BodaError(f"the checkpoint {' and '.join(said)}")
