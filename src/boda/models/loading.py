"""Opening what others made: a part of a model by name, quietly; where it is not there or not whole, one clear sentence."""

from __future__ import annotations

import logging
import re
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError
from transformers import AutoConfig
from transformers.utils import logging as hf_logging

from boda.errors import WHY, BodaError, explaining

# Models that come with the package, by name.
SHIPPED = {name: Path(__file__).parents[1] / "weights" / name for name in ("mini", "mini-clip")}
# PEFT imports it wherever it is installed; that it goes without a faster kernel, or casts its inputs, is no news.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
LOADING_ERRORS = (OSError, ValueError, KeyError, RuntimeError, ImportError, SafetensorError)


@contextmanager
def quiet_loading():
    """transformers' report on weights that a smaller tower has no use for is no news, nor are the hub client's tries; errors still
    raise."""
    hub = logging.getLogger("huggingface_hub")
    before, had_bar, hub_before = hf_logging.get_verbosity(), hf_logging.is_progress_bar_enabled(), hub.level
    hub.setLevel(logging.ERROR)
    hf_logging.set_verbosity_error()
    hf_logging.disable_progress_bar()
    try:
        yield
    finally:
        hf_logging.set_verbosity(before)
        hub.setLevel(hub_before)
        if had_bar:
            hf_logging.enable_progress_bar()


@contextmanager
def seeded(seed: int):
    """Random numbers of their own for new weights; the global ones go on as if nothing had been drawn."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


@contextmanager
def loading(name: str, what: str):
    """Quietly; where `name` is not there or not whole, the error is one sentence that begins with `what`."""
    try:
        with quiet_loading():
            yield
    except BodaError:
        raise
    except LOADING_ERRORS as error:
        raise BodaError(f"{what}: {why_not_loaded(name, error)}") from error


def open_part(part: str, load, name: str, **options):
    """`load(name)` for a part of a recipe's model. Raises BodaError where it is not there or not whole."""
    with loading(name, f"model.{part}: '{name}' cannot be loaded"):
        place, file = place_of(name)
        return load(place, **file, **options)


def locate(name: str | Path) -> str:
    """The folder of a model that Boda ships, by exact name; any other name as it is (a folder called so: ./mini)."""
    return str(SHIPPED.get(str(name), name))


def place_of(name: str) -> tuple[str, dict]:
    """A model's name as `from_pretrained` takes it: what a .gguf file holds is read from its folder by the file's name."""
    path = Path(name := locate(name))
    return (str(path.parent), {"gguf_file": path.name}) if path.suffix == ".gguf" and path.is_file() else (name, {})


def is_path(name: str) -> bool:
    """Whether a name is meant as a folder here and not as a hub id."""
    return Path(name).exists() or Path(name).is_absolute() or name.startswith((".", "~")) or name.count("/") > 1


def why_not_loaded(name: str, error: Exception) -> str:
    """The reason in a few words, in place of advice about the hub that would not help."""
    path = Path(name)
    if is_path(name) and not path.exists():
        return "there is no such folder"
    if path.is_dir() and not (path / "config.json").is_file():
        inside = ", ".join(sorted(each.name for each in path.iterdir())[:6]) or "it is empty"
        hint = f"; {path / 'model'} is one" if (path / "model" / "config.json").is_file() else ""
        return f"it has no config.json ({inside}){hint}"
    first = (str(error).strip() or type(error).__name__).splitlines()[0]
    if needed := re.search(r"requires (?:the )?(.+?) library", first):
        return f"it needs the package {needed[1]}, which is not installed"
    if isinstance(error, SafetensorError):
        return f"its weights are damaged or cut short ({first}); copy or download it again"
    if "Couldn't instantiate the backend tokenizer" in first:
        return "it has no tokenizer"
    if not is_path(name) and "connect to" in first:
        return "it is no folder here, and the hub cannot be reached to see whether it is there"
    return first


def load_whole(name: str, auto_class, unneeded: tuple[str, ...] = (), **options):
    """`from_pretrained` that refuses a checkpoint without all the weights: transformers would make up the missing ones."""
    model, found = auto_class.from_pretrained(name, output_loading_info=True, **options)
    missing = sorted(key for key in found["missing_keys"] if not any(word in key for word in unneeded))
    if missing:
        raise BodaError(
            f"'{name}' lacks {len(missing)} of the weights that a {model.config.model_type} model has, such as {missing[0]}; "
            "is it whole, and of this kind?"
        )
    return model


def config_from(source: str | dict, part: str, revision: str | None = None):
    """A part's config: that of a folder or hub id, or one of a mapping with `model_type`. Raises BodaError."""
    if isinstance(source, str):
        return open_part(part, AutoConfig.from_pretrained, source, revision=revision)
    values = dict(source)
    model_type = values.pop("model_type", None)
    said = f"model.{part}: no model can be built from {{model_type: {model_type}, ...}}: {WHY}"
    with explaining(said, ValueError, TypeError, KeyError):
        return AutoConfig.for_model(model_type, **values)


def load_model(
    source: str | dict, part: str, auto_class, config, unneeded: tuple[str, ...] = (), revision: str | None = None, **options
):
    """A part with its weights in the type they have, or a new one of the config. Raises BodaError where weights are missing."""
    if isinstance(source, dict):
        return auto_class.from_config(config)
    options = {"dtype": "auto"} | options | {"config": config, "revision": revision}
    return open_part(part, load_whole, source, auto_class=auto_class, unneeded=unneeded, **options)
