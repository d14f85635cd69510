"""Parts -> model: a vision tower, a connector and a language model become one VLM with its processor.

The stock LlavaForConditionalGeneration is used wherever it gives the same numbers; otherwise BodaForConditionalGeneration.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    AutoModel,
    AutoModelForCausalLM,
    AutoTokenizer,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
)

# Without torchvision, transformers 5.17 does not give this one from its top.
from transformers.models.auto.image_processing_auto import AutoImageProcessor

from boda.errors import WHY, BodaError, explaining
from boda.models.connectors import CONNECTORS
from boda.models.flamingo import BodaFlamingoConfig, BodaFlamingoForConditionalGeneration, Looking, new_resampler, put_blocks
from boda.models.loading import config_from, load_model, open_part, seeded
from boda.models.quantised import dequantised, ready_for_training
from boda.models.vlm import BodaConfig, BodaForConditionalGeneration, feature_size, head_change
from boda.models.vocabulary import IMAGE_TOKEN, PAD_TOKEN, add_token, give_pad_token, resize_embeddings

PLAIN_CONNECTORS = {"linear": "linear", "mlp2x_gelu": "gelu"}  # connector -> projector_hidden_act of the stock class
# Models of which a part can be taken, and where their tower and their language model are.
PAIRS = ("vision-text-dual-encoder", "boda_dual_encoder")
VLMS = ("llava", BodaConfig.model_type)
INSIDE = {**dict.fromkeys(PAIRS, r"^vision_model\."), **dict.fromkeys(VLMS, r"^model\.vision_tower\.")}
END_OF_CHUNK = "<|endofchunk|>"  # closes what is said of a picture
HEADS = ("pooler", "head", "post_layernorm")  # on top of a tower's features, no part of them


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
    connector: Any = ""


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
    config = config_from(vision, "vision", revision)
    revision = getattr(config, "_commit_hash", None)
    inside = {"key_mapping": {INSIDE[config.model_type]: ""}} if config.model_type in INSIDE else {}
    config = getattr(config, "vision_config", config)
    is_flat = not getattr(config, "hidden_sizes", None)
    if is_flat and not hasattr(config, "patch_size"):
        raise BodaError(
            f"model.vision: {vision if isinstance(vision, str) else 'the config'} is a {config.model_type} model, which gives no grid "
            "of image features; CLIP, SigLIP, ViT, DINOv2 and ConvNeXt do"
        )
    depth = getattr(config, "num_hidden_layers", None)
    if is_flat and layer < -1 and depth:
        if -layer > depth:
            raise BodaError(f"model.vision_layer is {layer} and the tower has {depth} layers")
        config, layer = with_depth(config, depth + 1 + layer), -1
    if hasattr(config, "vision_use_head") and not whole:
        config.vision_use_head = False
    image_processor = None
    if isinstance(vision, str):
        image_processor = open_part("vision", AutoImageProcessor.from_pretrained, vision, revision=revision)
    size = image_size or _image_size(config, image_processor)
    if isinstance(vision, str) and getattr(config, "image_size", size) != size:
        raise BodaError(f"model.image_size is {size} and the tower '{vision}' was made for {config.image_size}")
    config.image_size = size  # also where the config knows none (BiT, ResNet): training and uses ask for it
    # Heads on top of the features are no part of a grid's tower, so a checkpoint may go without them.
    unneeded = ("pooler",) if whole else HEADS
    with seeded(seed):
        module = load_model(vision, "vision", AutoModel, config, unneeded, revision, **inside).eval()
    grid, prefix_tokens = _grid(module, config, size, layer)
    return Tower(module, size, layer, grid, prefix_tokens, is_flat, image_processor, revision)


def with_depth(config, layers: int):
    """The config of a tower with only the first `layers` layers."""
    # A backbone's config (DINOv2) also lists its layers by name, and refuses to load with names that are no longer there.
    listed = ("stage_names", "out_features", "out_indices")
    values = {key: value for key, value in config.to_dict().items() if key not in listed}
    return type(config).from_dict(values | {"num_hidden_layers": layers})


def _image_size(config, image_processor) -> int:
    """Side of the pictures that a tower takes; of a convolutional one, which takes any, what its processor makes."""
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
def _grid(module, config, size: int, layer: int) -> tuple[tuple[int, int], int]:
    """Rows and columns of features for pictures of `size`, and the tokens in front of them: found by trying one."""
    pixels = torch.zeros(1, 3, size, size, dtype=module.dtype)
    states = module(pixels, output_hidden_states=True, return_dict=True).hidden_states
    if states is None:
        raise BodaError(f"model.vision: '{config.model_type}' does not show its hidden states")
    shape = states[layer].shape  # (1, N, D), or a plane (1, D, H, W)
    if len(shape) == 4:
        return (shape[2], shape[3]), 0
    side = size // (config.patch_size if isinstance(config.patch_size, int) else config.patch_size[0])
    if shape[1] < side * side:
        raise BodaError(f"model.vision: {shape[1]} features are no {side}x{side} grid")
    return (side, side), shape[1] - side * side


def load_language(
    language: str | dict,
    seed: int = 0,
    vocab_size: int | None = None,
    revision: str | None = None,
    quantised: dict | None = None,
    whole: bool = False,
):
    """A causal language model from the hub, a folder, or a config: (model, revision).

    `quantised`: as `loading_options` gives it; `whole`: with ordinary matrices, should they have been quantised.
    """
    options, given = dict(quantised or {}), language
    if isinstance(given, dict) and vocab_size:
        given = given | {"vocab_size": vocab_size}
    config = config_from(given, "language", revision)
    if config.model_type in VLMS:  # its language model alone
        config = config.text_config
        begins = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)].base_model_prefix
        options["key_mapping"] = {r"^model\.language_model\.": f"{begins}."}
    with seeded(seed + 1):
        model = load_model(language, "language", AutoModelForCausalLM, config, revision=revision, **options)
    model = dequantised(model) if whole else ready_for_training(model)
    return model, getattr(model.config, "_commit_hash", None)


def load_tokenizer(name: str, what: str = "tokenizer", **options):
    return open_part(what, AutoTokenizer.from_pretrained, name, **options)


def change_before(text_model, config) -> tuple[torch.Tensor, float]:
    """Features (1, 8, D) of a few tokens, and how far another last token moves those before it, as a share of the largest."""
    words = torch.arange(1, 9)[None] % config.vocab_size
    given = [text_model(input_ids=ids) for ids in (words, words.index_fill(1, torch.tensor([7]), 9 % config.vocab_size))]
    if not hasattr(given[0], "last_hidden_state"):
        raise BodaError(f"model.language: a {config.model_type} model gives no features of its tokens")
    states, others = (each.last_hidden_state for each in given)
    return states, float((states - others)[:, :7].abs().max() / states.abs().max())


@torch.no_grad()
def head_of(language_model) -> tuple[float, float | None]:
    """(scale, softcap) of a language model's head, checked against the model itself.

    Config fields with one name multiply in one family and divide in another, so they are tried and not believed.
    Raises BodaError where the head does something else.
    """
    config = language_model.config.get_text_config()
    language_model.eval()
    hidden, change = change_before(language_model.base_model, config)
    if change > 1e-2:
        raise BodaError(
            f"model.language: a {config.model_type} model that reads ahead cannot answer; a causal language model is needed"
        )
    head = language_model.get_output_embeddings()
    if head is None or getattr(head, "bias", None) is not None:
        raise BodaError(f"model.language: the head of '{config.model_type}' is no plain matrix, which a VLM needs")
    raw, true = head(hidden).float(), language_model(input_ids=torch.arange(1, 9)[None] % config.vocab_size).logits.float()
    fields = (getattr(config, name, None) for name in ("logits_scaling", "logit_scale", "lm_head_multiplier"))
    factors = [float(value) for value in fields if value]
    for scale in (1.0, *factors, *(1 / factor for factor in factors)):
        for softcap in dict.fromkeys((None, getattr(config, "final_logit_softcapping", None))):
            guess = head_change(raw, scale, softcap)
            if torch.allclose(guess, true, rtol=1e-2, atol=1e-3 * float(true.abs().max())):
                return scale, softcap
    raise BodaError(f"the head of '{config.model_type}' changes its logits in a way Boda does not know")


def assemble(
    spec,
    tokenizer,
    seed: int = 0,
    revisions: dict[str, str | None] | None = None,
    quantised: dict | None = None,
    whole: bool = False,
) -> Assembled:
    """Parts named by a recipe's `model` block -> one model. Raises BodaError: one is missing, or two do not go together.

    The tokenizer gets an image token, and a pad token where it has none. What is new in the model comes from `seed`.
    `revisions`: exact hub revisions to take, as a run recorded them; `quantised`, `whole`: how the language model's matrices are
    read.
    """
    revisions, tower = revisions or {}, None
    if quantised and isinstance(spec.language, dict):
        raise BodaError("model.language is made from nothing, so there is nothing to keep in 8 or 4 bits; say precision: auto")
    if spec.kind != "language":
        tower = load_tower(spec.vision, spec.vision_layer, spec.image_size, seed, revisions.get("vision"))
    language, _ = load_language(spec.language, seed, len(tokenizer), revisions.get("language"), quantised, whole)
    return put_together(tower, language, tokenizer, spec.connector, seed)


def put_together(tower: Tower | None, language, tokenizer, connector: str | dict, seed: int = 0) -> Assembled:
    """Loaded parts -> one model with a new connector; without a tower, the language model alone. Raises BodaError.

    `connector`: a name, or the settings of a flamingo.
    """
    num_image_tokens = 1
    joined: Any = join_flamingo
    if isinstance(connector, dict):
        for token in (END_OF_CHUNK, *connector["special_tokens"]):
            add_token(tokenizer, token)
    elif tower is not None:
        num_image_tokens, joined = CONNECTORS[connector].num_tokens(tower.grid), join  # type: ignore[operator]
    image_id = add_token(tokenizer, IMAGE_TOKEN) if tower is not None else -1
    give_pad_token(tokenizer)
    # A pad token that ends answers gives way to one of its own when the chat template is known: there is a row for it.
    resize_embeddings(language, tokenizer, spare=int(tokenizer.pad_token.lower() != PAD_TOKEN))  # OpenFlamingo's is <PAD>
    change = head_of(language)
    found = {"language": getattr(language.config, "_commit_hash", None)}
    if tower is None:
        language.head_change = change
        language.config.pad_token_id = tokenizer.pad_token_id
        return Assembled(language.eval(), tokenizer, found)
    side = int(num_image_tokens**0.5)
    patch_size = tower.image_size // side
    if side * side != num_image_tokens or tower.image_size // patch_size != side:
        raise BodaError(f"{num_image_tokens} image tokens from a picture of {tower.image_size} pixels are no square grid")
    model = joined(tower, language, connector, change, seed, image_token_index=image_id, image_seq_length=num_image_tokens)
    model.config.pad_token_id = tokenizer.pad_token_id
    found["vision"] = tower.revision
    return Assembled(model, tokenizer, found, tower.image_processor, tower.image_size, num_image_tokens, patch_size, connector)


def join(tower: Tower, language, connector: str, change: tuple[float, float | None], seed: int, **common):
    """Tower + new connector + language model -> the stock class where it is right, else Boda's.

    `change`: what the language model's head does. `common`: for either class's config.
    """
    table, said = language.get_input_embeddings(), _said_of(tower, language) | common
    said["vision_feature_select_strategy"] = "default" if tower.prefix_tokens == 1 else "full"
    is_stock = (
        connector in PLAIN_CONNECTORS
        and tower.is_flat
        and tower.prefix_tokens <= 1
        and change == (1.0, None)
        and (not said["tie_word_embeddings"] or getattr(language.base_model, "embed_tokens", None) is table)
    )
    if is_stock:
        config = LlavaConfig(projector_hidden_act=PLAIN_CONNECTORS[connector], **said)
    else:
        config = BodaConfig(connector=connector, **_said_of_ours(tower, change), **said)
    model = _put(LlavaForConditionalGeneration if is_stock else BodaForConditionalGeneration, config, tower, language)
    width, size = feature_size(tower.module.config, tower.layer), language.config.hidden_size
    with seeded(seed + 2):  # torch's default initialisation, as LLaVA's
        new = CONNECTORS[connector](width, size, tower.grid)
    if is_stock:  # its second matrix does nothing after a linear connector
        unchanged = {"linear_2.weight": torch.eye(size), "linear_2.bias": torch.zeros(size)}
        model.model.multi_modal_projector.load_state_dict(unchanged | new.state_dict(), assign=True)
    else:
        model.model.multi_modal_projector = new
    return model.eval()


def _said_of(tower: Tower, language) -> dict:
    """What a config says of the parts."""
    is_tied = language.get_input_embeddings().weight is language.get_output_embeddings().weight
    config = {"vision_config": tower.module.config, "vision_feature_layer": tower.layer, "text_config": language.config}
    return config | {"tie_word_embeddings": is_tied}


def _said_of_ours(tower: Tower, change: tuple[float, float | None]) -> dict:
    """What a config of Boda's classes says, too."""
    grid = {"vision_grid": list(tower.grid), "vision_prefix_tokens": tower.prefix_tokens}
    return grid | {"logits_scale": change[0], "logits_softcap": change[1]}


def _put(kind, config, tower: Tower, language):
    """A model of a class, made of the parts and without what is new in it."""
    with torch.device("meta"):
        model = kind(config)
    table, matrix = language.get_input_embeddings().weight, language.get_output_embeddings().weight
    model.model.vision_tower, model.model.language_model = tower.module, language.base_model
    model.lm_head.weight = table if table is matrix else nn.Parameter(matrix.data)
    model.config.dtype = language.dtype
    if hasattr(language, "generation_config"):
        model.generation_config = language.generation_config
    return model


def join_flamingo(tower: Tower, language, settings: dict, change: tuple[float, float | None], seed: int, **common):
    """Tower + new resampler + language model with new cross-attention. Raises BodaError where pictures do not reach its layers."""
    own = {name: value for name, value in settings.items() if name != "special_tokens"}
    config = BodaFlamingoConfig(**_said_of(tower, language), **_said_of_ours(tower, change), **common, **own)
    count = language.config.num_hidden_layers
    if config.every > count:
        raise BodaError(f"model.connector.every is {config.every} and the language model has {count} layers")
    with explaining(f"model.language: {WHY}", ValueError):
        model = _put(BodaFlamingoForConditionalGeneration, config, tower, language)
    with seeded(seed + 2):
        model.model.resampler = new_resampler(config)
        put_blocks(language.base_model, config)
    why = f"model.language: a {language.config.model_type} model hands its layers no pictures ({WHY})"
    with explaining(why, TypeError, AttributeError):
        _see_once(model.eval())
    return model


@torch.no_grad()
def _see_once(model) -> None:
    """Raises TypeError where a language model does not hand on what is looked at to every block."""
    config, blocks = model.config, model.model.blocks()
    nothing = (torch.zeros(1, config.heads, 1, config.head_dim, dtype=config.dtype),) * len(blocks)
    ids = torch.tensor([[1, 1]])
    reached: list[bool] = []
    hooks = [block.register_forward_pre_hook(lambda _, given: reached.append(len(given) > 1)) for block in blocks]
    model.model.language_model(input_ids=ids, looking=Looking(nothing, nothing, torch.zeros_like(ids), None))
    for hook in hooks:
        hook.remove()
    if sum(reached) < len(blocks):
        raise TypeError(f"{sum(reached)} of {len(blocks)} blocks were reached")


def build_processor(assembled: Assembled, image_processor, template: str) -> LlavaProcessor:
    """The processor to save with an assembled model; it writes as many image tokens as the connector gives."""
    is_stock = isinstance(assembled.model, LlavaForConditionalGeneration) and not isinstance(
        assembled.model, BodaForConditionalGeneration
    )
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
