"""Parts -> model: a vision tower, a connector and a language model become one VLM with its processor.

The stock LlavaForConditionalGeneration is used wherever it gives the same numbers; otherwise BodaForConditionalGeneration.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoTokenizer,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
)

# Without torchvision, transformers 5.17 does not give this one from its top.
from transformers.models.auto.image_processing_auto import AutoImageProcessor
from transformers.utils import logging as hf_logging

from boda.errors import BodaError
from boda.models.connectors import CONNECTORS, Linear, Mlp2xGelu
from boda.models.vlm import BodaConfig, BodaForConditionalGeneration, LanguageHead, feature_size
from boda.models.vocabulary import IMAGE_TOKEN, PAD_TOKEN, add_token, resize_embeddings

PLAIN_CONNECTORS = {"linear": "linear", "mlp2x_gelu": "gelu"}  # connector -> projector_hidden_act of the stock class


@dataclass
class Tower:
    """A vision tower with the layers that are used, and the shape of what it gives."""

    module: nn.Module
    image_size: int
    layer: int
    grid: tuple[int, int]
    prefix_tokens: int
    is_flat: bool  # a sequence of vectors, not a plane
    image_processor: Any | None
    revision: str | None


@dataclass
class Assembled:
    """A model, its processor parts, and what a recipe must remember of where they came from."""

    model: Any
    tokenizer: Any
    revisions: dict[str, str | None]
    image_processor: Any | None = None
    image_size: int = 0  # 0: a language model, which takes no pictures
    num_image_tokens: int = 0
    patch_size: int = 0
    connector: str = ""


@contextmanager
def quiet_loading():
    """transformers' report on weights that a smaller tower has no use for is no news; errors still raise."""
    before = hf_logging.get_verbosity()
    hf_logging.set_verbosity_error()
    had_bar = hf_logging.is_progress_bar_enabled()
    hf_logging.disable_progress_bar()
    try:
        yield
    finally:
        hf_logging.set_verbosity(before)
        if had_bar:
            hf_logging.enable_progress_bar()


LOADING_ERRORS = (OSError, ValueError, KeyError, RuntimeError, SafetensorError)


def open_part(what: str, load, name: str):
    """Runs a `from_pretrained`; a part that is not there or not whole becomes one clear sentence."""
    try:
        with quiet_loading():
            return load()
    except BodaError:
        raise
    except LOADING_ERRORS as error:
        raise BodaError(f"model.{what}: '{name}' cannot be loaded: {why_not_loaded(name, error)}") from error


def is_path(name: str) -> bool:
    """Whether a name is meant as a folder here and not as a hub id."""
    return Path(name).exists() or Path(name).is_absolute() or name.startswith((".", "~")) or name.count("/") > 1


def why_not_loaded(name: str, error: Exception) -> str:
    """The reason in a few words, in place of advice about the hub that would not help."""
    if is_path(name) and not Path(name).exists():
        return "there is no such folder"
    if Path(name).is_dir() and not (Path(name) / "config.json").is_file():
        inside = ", ".join(sorted(path.name for path in Path(name).iterdir())[:6])
        return f"it has no config.json ({inside or 'it is empty'})"
    first = (str(error).strip() or type(error).__name__).splitlines()[0]
    if isinstance(error, SafetensorError):
        return f"its weights are damaged or cut short ({first}); copy or download it again"
    if "Couldn't instantiate the backend tokenizer" in first:
        return "it has no tokenizer"
    if not is_path(name) and "connect to" in first:
        return "it is no folder here, and the hub cannot be reached to see whether it is there"
    return first


def load_whole(auto_class, name: str, unneeded: tuple[str, ...] = (), **options):
    """`from_pretrained` that refuses a checkpoint without all the weights: transformers would make up the missing ones."""
    model, found = auto_class.from_pretrained(name, output_loading_info=True, **options)
    missing = sorted(key for key in found["missing_keys"] if not any(word in key for word in unneeded))
    if missing:
        raise BodaError(
            f"'{name}' lacks {len(missing)} of the weights that a {model.config.model_type} model has, such as {missing[0]}; "
            "is it whole, and of this kind?"
        )
    return model


def load_tower(
    vision: str | dict,
    layer: int = -1,
    image_size: int | None = None,
    seed: int = 0,
    revision: str | None = None,
    whole: bool = False,
) -> Tower:
    """Loads a vision tower with just the layers up to hidden state `layer` (-1 the last), or builds it from a config.

    A tower is anything that gives a grid of features: CLIP, SigLIP, ViT, DINOv2, ConvNeXt. `whole`: with what makes one vector
    of them; a pooler that the checkpoint lacks is then new. Raises BodaError otherwise.
    """
    image_processor = None
    if isinstance(vision, dict):
        config = config_from(vision, "vision")
    else:
        config = open_part("vision", lambda: AutoConfig.from_pretrained(vision, revision=revision), vision)
        revision = getattr(config, "_commit_hash", None)
        config = getattr(config, "vision_config", config)
    is_flat = not getattr(config, "hidden_sizes", None)
    if is_flat and not hasattr(config, "patch_size"):
        raise BodaError(
            f"model.vision: {vision if isinstance(vision, str) else 'the config'} is a {config.model_type} model, which gives no grid "
            "of image features; CLIP, SigLIP, ViT, DINOv2 and ConvNeXt do"
        )
    if isinstance(vision, str):
        image_processor = open_part("vision", lambda: AutoImageProcessor.from_pretrained(vision, revision=revision), vision)
    depth = getattr(config, "num_hidden_layers", None)
    kept_layer = layer
    if is_flat and layer < -1 and depth:
        if -layer > depth:
            raise BodaError(f"model.vision_layer is {layer} and the tower has {depth} layers")
        config = with_depth(config, depth + 1 + layer)
        kept_layer = -1
    if hasattr(config, "vision_use_head") and not whole:
        config.vision_use_head = False
    size = _image_size(config, image_size, image_processor)
    if isinstance(vision, dict) and hasattr(config, "image_size"):
        config.image_size = size
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if isinstance(vision, dict):
            module = AutoModel.from_config(config)
        else:
            # Heads on top of the features are no part of a grid's tower, so a checkpoint may go without them.
            unneeded = ("pooler",) if whole else ("pooler", "head", "post_layernorm")
            module = open_part(
                "vision",
                lambda: load_whole(AutoModel, vision, unneeded, config=config, dtype="auto", revision=revision),
                vision,
            )
    module.eval()
    if isinstance(vision, str) and getattr(config, "image_size", size) != size:
        raise BodaError(f"model.image_size is {size} and the tower '{vision}' was made for {config.image_size}")
    grid, prefix_tokens = _grid(module, config, size, kept_layer, is_flat)
    return Tower(module, size, kept_layer, grid, prefix_tokens, is_flat, image_processor, revision)


def with_depth(config, layers: int):
    """The config of a tower with only the first `layers` layers."""
    if not getattr(config, "stage_names", None):
        config.num_hidden_layers = layers
        return config
    # A backbone's config (DINOv2) also lists its layers by name, and refuses to load with names that are no longer there.
    listed = ("stage_names", "out_features", "out_indices")
    values = {key: value for key, value in config.to_dict().items() if key not in listed}
    return type(config).from_dict(values | {"num_hidden_layers": layers})


def config_from(values: dict, part: str):
    """A transformers config from a recipe's mapping with `model_type`. Raises BodaError for a type that does not exist."""
    values = dict(values)
    model_type = values.pop("model_type", None)
    try:
        return AutoConfig.for_model(model_type, **values)
    except (ValueError, TypeError, KeyError) as error:
        raise BodaError(f"model.{part}: no model can be built from {{model_type: {model_type}, ...}}: {error}") from error


def _image_size(config, asked: int | None, image_processor) -> int:
    if asked:
        return asked
    size = getattr(config, "image_size", None)
    if getattr(config, "hidden_sizes", None) and image_processor is not None:
        crop = getattr(image_processor, "crop_size", None) or image_processor.size
        size = crop.get("height") or crop.get("shortest_edge") or size
    if isinstance(size, (list, tuple)):
        size = size[0]
    if not size:
        raise BodaError("model.image_size must be given: the vision tower's config does not say how large its pictures are")
    return int(size)


@torch.no_grad()
def _grid(module, config, size: int, layer: int, is_flat: bool) -> tuple[tuple[int, int], int]:
    """Rows and columns of features for pictures of `size`, and the tokens in front of them: found by trying one."""
    states = module(
        torch.zeros(1, 3, size, size, dtype=module.dtype), output_hidden_states=True, return_dict=True
    ).hidden_states
    if states is None:
        raise BodaError(f"model.vision: '{config.model_type}' does not show its hidden states")
    if not is_flat:
        return (states[layer].shape[2], states[layer].shape[3]), 0
    side = size // (config.patch_size if isinstance(config.patch_size, int) else config.patch_size[0])
    extra = states[layer].shape[1] - side * side
    if extra < 0:
        raise BodaError(f"model.vision: {states[layer].shape[1]} features are no {side}x{side} grid")
    return (side, side), extra


def load_language(language: str | dict, seed: int = 0, vocab_size: int | None = None, revision: str | None = None):
    """A causal language model from the hub, a folder, or a config: (model, revision)."""
    if isinstance(language, dict):
        config = config_from({**language, **({"vocab_size": vocab_size} if vocab_size else {})}, "language")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed + 1)
            return AutoModelForCausalLM.from_config(config), None
    load = lambda: load_whole(AutoModelForCausalLM, language, dtype="auto", revision=revision)  # noqa: E731
    model = open_part("language", load, language)
    return model, getattr(model.config, "_commit_hash", None)


def load_tokenizer(name: str, revision: str | None = None, what: str = "tokenizer"):
    return open_part(what, lambda: AutoTokenizer.from_pretrained(name, revision=revision), name)


@torch.no_grad()
def head_of(language_model) -> tuple[float, float | None]:
    """(scale, softcap) of a language model's head, checked against the model itself.

    Config fields with one name multiply in one family and divide in another, so they are tried and not believed.
    Raises BodaError where the head does something else.
    """
    config = language_model.config.get_text_config()
    ids = torch.arange(1, 9)[None] % config.vocab_size
    was_training = language_model.training
    language_model.eval()
    hidden = language_model.base_model(input_ids=ids).last_hidden_state
    other = language_model.base_model(input_ids=ids.index_fill(1, torch.tensor([7]), 9 % config.vocab_size)).last_hidden_state
    if not torch.allclose(hidden[:, :7], other[:, :7], rtol=1e-2, atol=1e-3 * float(hidden.abs().max())):
        raise BodaError(
            f"model.language: a {config.model_type} model that reads ahead cannot answer; a causal language model is needed"
        )
    head = language_model.get_output_embeddings()
    if head is None or getattr(head, "bias", None) is not None:
        raise BodaError(f"model.language: the head of '{config.model_type}' is no plain matrix, which a VLM needs")
    raw, true = head(hidden).float(), language_model(input_ids=ids).logits.float()
    language_model.train(was_training)
    scales = [1.0]
    for name in ("logits_scaling", "logit_scale", "lm_head_multiplier"):
        value = getattr(config, name, None)
        if value:
            scales += [float(value), 1.0 / float(value)]
    cap = getattr(config, "final_logit_softcapping", None)
    for scale in scales:
        for softcap in dict.fromkeys((None, cap)):
            guess = raw * scale if softcap is None else torch.tanh(raw * scale / softcap) * softcap
            if torch.allclose(guess, true, rtol=1e-2, atol=1e-3 * float(true.abs().max())):
                return scale, softcap
    raise BodaError(f"the head of '{config.model_type}' changes its logits in a way Boda does not know")


def assemble(spec, tokenizer, seed: int = 0, revisions: dict[str, str | None] | None = None) -> Assembled:
    """Parts named by a recipe's `model` block -> one model.

    Args:
        spec: the recipe's model block.
        tokenizer: the language model's; gets an image token, and a pad token where it has none.
        seed: for parts that are new.
        revisions: exact hub revisions to take, as a run recorded them.

    Raises:
        BodaError: a part is missing or two do not go together.
    """
    revisions = revisions or {}
    tower = None
    if spec.kind != "language":
        tower = load_tower(spec.vision, spec.vision_layer, spec.image_size, seed, revisions.get("vision"))
    language, language_revision = load_language(spec.language, seed, len(tokenizer), revisions.get("language"))
    return put_together(tower, language, tokenizer, spec.connector, seed, language_revision)


def put_together(
    tower: Tower | None, language, tokenizer, connector: str, seed: int = 0, language_revision: str | None = None
) -> Assembled:
    """Loaded parts -> one model with a new connector; without a tower, the language model alone. Raises BodaError."""
    image_id = add_token(tokenizer, IMAGE_TOKEN) if tower is not None else -1
    if tokenizer.pad_token_id is None:
        add_token(tokenizer, PAD_TOKEN)
        tokenizer.pad_token = PAD_TOKEN
    # A pad token that ends answers gives way to one of its own when the chat template is known: there is a row for it.
    resize_embeddings(language, tokenizer, spare=int(tokenizer.pad_token != PAD_TOKEN))
    scale, softcap = head_of(language)
    if tower is None:
        language.head_change = (scale, softcap)
        language.config.pad_token_id = tokenizer.pad_token_id
        return Assembled(language.eval(), tokenizer, {"language": language_revision})
    num_image_tokens = CONNECTORS[connector].num_tokens(tower.grid)
    side = int(num_image_tokens**0.5)
    patch_size = tower.image_size // side
    if side * side != num_image_tokens or tower.image_size // patch_size != side:
        raise BodaError(f"{num_image_tokens} image tokens from a picture of {tower.image_size} pixels are no square grid")
    module = join(tower, language, connector, image_id, num_image_tokens, scale, softcap, seed)
    module.config.pad_token_id = tokenizer.pad_token_id
    found = {"vision": tower.revision, "language": language_revision}
    return Assembled(module, tokenizer, found, tower.image_processor, tower.image_size, num_image_tokens, patch_size, connector)


def join(tower: Tower, language, connector: str, image_id: int, num_image_tokens: int, scale: float, softcap, seed: int):
    """Tower + new connector + language model -> the stock class where it is right, else Boda's."""
    text_config = language.config
    embeds = {name for name, module in language.base_model.named_modules() if module is language.get_input_embeddings()}
    is_tied = language.get_input_embeddings().weight is language.get_output_embeddings().weight
    common = dict(
        vision_config=tower.module.config,
        text_config=text_config,
        image_token_index=image_id,
        image_seq_length=num_image_tokens,
        vision_feature_layer=tower.layer,
        vision_feature_select_strategy="default" if tower.prefix_tokens == 1 else "full",
        tie_word_embeddings=is_tied,
    )
    is_stock = (
        connector in PLAIN_CONNECTORS
        and tower.is_flat
        and tower.prefix_tokens <= 1
        and (scale, softcap) == (1.0, None)
        and (not is_tied or embeds == {"embed_tokens"})
    )
    if is_stock:
        config = LlavaConfig(projector_hidden_act=PLAIN_CONNECTORS[connector], **common)
        cls: type[LlavaForConditionalGeneration] = LlavaForConditionalGeneration
    else:
        config = BodaConfig(
            connector=connector,
            vision_grid=list(tower.grid),
            vision_prefix_tokens=tower.prefix_tokens,
            logits_scale=scale,
            logits_softcap=softcap,
            **common,
        )
        cls = BodaForConditionalGeneration
    with torch.device("meta"):
        model = cls(config)
    model.model.vision_tower = tower.module
    model.model.language_model = language.base_model
    model.model.multi_modal_projector = _new_connector(model, connector, tower, text_config.hidden_size, seed)
    head = LanguageHead(1, 1, scale, softcap) if not is_stock else nn.Linear(1, 1, bias=False)
    head.weight = (
        nn.Parameter(language.get_output_embeddings().weight.data) if not is_tied else language.get_input_embeddings().weight
    )
    head.out_features, head.in_features = head.weight.shape
    model.lm_head = head
    model.config.dtype = language.dtype
    if hasattr(language, "generation_config"):
        model.generation_config = language.generation_config
    return model.eval()


def _new_connector(model, connector: str, tower: Tower, size: int, seed: int) -> nn.Module:
    """A connector with torch's default initialisation, as LLaVA's; in the stock class's own module where that is used."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed + 2)
        new = CONNECTORS[connector](feature_size(tower.module.config, tower.layer), size, tower.grid)
    if isinstance(model, BodaForConditionalGeneration):
        return new
    stock = type(model.model.multi_modal_projector)(model.config)
    assert isinstance(new, (Linear, Mlp2xGelu))
    stock.linear_1 = new.linear_1
    if isinstance(new, Mlp2xGelu):
        stock.linear_2 = new.linear_2
    else:
        nn.init.eye_(stock.linear_2.weight)
        nn.init.zeros_(stock.linear_2.bias)
    return stock


def build_processor(assembled: Assembled, image_processor, template: str) -> LlavaProcessor:
    """The processor to save with an assembled model; it writes as many image tokens as the connector gives."""
    is_stock = not isinstance(assembled.model, BodaForConditionalGeneration)
    strategy = assembled.model.config.vision_feature_select_strategy if is_stock else "full"
    return LlavaProcessor(
        image_processor=image_processor,
        tokenizer=assembled.tokenizer,
        patch_size=assembled.patch_size,
        vision_feature_select_strategy=strategy,
        chat_template=template,
        image_token=IMAGE_TOKEN,
        num_additional_image_tokens=1 if strategy == "default" else 0,
    )
