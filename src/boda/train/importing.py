"""Importing: a checkpoint in another project's layout becomes a model folder."""

from __future__ import annotations

import re
from pathlib import Path

import torch
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_MAPPING
from transformers.utils.chat_template_utils import render_jinja_template

from boda.data.images import ImageSpec
from boda.data.render import Renderer, processor_template
from boda.errors import WHY, BodaError, explaining
from boda.files import read_json
from boda.models.assemble import END_OF_CHUNK, HEADS, Assembled, load_language, load_tokenizer, load_tower, put_together
from boda.models.checkpoints import first_position, move_text_positions
from boda.models.flamingo import LookingLayer
from boda.models.foreign import Given, Parts, Weights, check_keys, load_weights, read_parts
from boda.models.foreign_flamingo import add_published_tokens
from boda.models.loading import quiet_loading
from boda.models.pairing import join_pair, write_pair
from boda.models.vlm import feature_size
from boda.models.vocabulary import IMAGE_TOKEN, add_token, resize_embeddings
from boda.recipe import Generation, template_names, template_text
from boda.train.build import write_vlm
from boda.train.finished import versions

# What a name has in it -> the chat template of such models; the first that is found in any name decides. LLaVA records nothing
# else of its conversations. Its own rule, with the Korean models before it.
NAMES = (
    ("hyperclovax", "small-korean-vlm"), ("synatra", "kollava"), ("llama-?2", "llama-2"), ("mistral", "mistral"),
    ("v1|llava-1|vicuna", "vicuna"),
)  # fmt: skip
DEMONSTRATED = Generation(beams=3, max_new_tokens=20)  # how OpenFlamingo's and OpenFlaminKO's examples ask
MARKED = (
    "{%- set marked = namespace(messages=[]) -%}{%- for message in messages -%}{%- set marked.messages = marked.messages + "
    "[dict(message, content=message.content | replace('<image>', '<im_start><image><im_end>'))] -%}{%- endfor -%}"
    "{%- set messages = marked.messages -%}{{- '' }}"
)


def import_checkpoint(
    source: str | Path,
    out: str | Path,
    vision: str | None = None,
    language: str | None = None,
    connector: str | None = None,
    template: str | None = None,
) -> Path:
    """Turns a checkpoint of LLaVA, in its own or in transformers' layout, of OpenFlamingo, or of KoCLIP in Flax's, into a model
    folder, `out`.

    `source`: folder, hub id, an mm_projector.bin or OpenFlamingo's .pt. `vision`, `language`: hub ids or folders of what it does not
    hold and does not name; OpenFlamingo's tower may also be a file of open_clip's. `connector`: the projector's kind, where it cannot
    be told. `template`: name of a chat template or a .jinja file, where the source does not tell it; boda.json says under `imported`
    which was taken, and why.
    Raises BodaError: no layout that is known, or something is missing or does not fit.
    """
    out = Path(out)
    if out.exists() and (out.is_file() or any(out.iterdir())):
        raise BodaError(f"{out} is there already and is not empty; choose another --out")
    if template:
        template_text(template)  # a mistake in it is said at once
    parts = read_parts(str(source), Given(vision, language, connector))
    if not parts.connector:
        return _import_pair(parts, str(source), out)
    assembled = assemble_parts(parts)
    tokenizer = assembled.tokenizer
    name, why = choose_template(parts, tokenizer, template)
    text = (MARKED if parts.marks else "") + (template_text(name) if name else own_template(parts, tokenizer))
    if not name and _takes_parts(text, tokenizer):
        said = read_json(Path(parts.tokenizer) / "generation_config.json").get("eos_token_id") or tokenizer.eos_token_id
        end_ids = said if isinstance(said, list) else [said]
    else:
        end_ids = Renderer(tokenizer, text, assembled.num_image_tokens).end_ids()
        text = processor_template(text)
    kind, settings = "vlm", Generation()
    if isinstance(parts.connector, dict):
        kind, settings = "flamingo", DEMONSTRATED
        end_ids = sorted({*end_ids, *tokenizer.convert_tokens_to_ids([END_OF_CHUNK, tokenizer.eos_token])})
    processor, size = assembled.image_processor, assembled.image_size
    spec = ImageSpec(size, **parts.colours) if processor is None else ImageSpec.from_processor(processor)
    spec = spec.refit(size, parts.image_fit)
    imported = {
        "source": str(source),
        "layout": parts.layout,
        "vision": parts.vision if isinstance(parts.vision, str) else "in the checkpoint",
        "language": parts.language if isinstance(parts.language, str) else "in the checkpoint",
        "image_fit": spec.fit,
        "chat_template": name or "own",
        "chat_template_why": why,
    } | ({"notes": parts.notes} if parts.notes else {})
    info = {"kind": kind, "imported": imported, "revisions": assembled.revisions, "versions": versions()}
    return write_vlm(assembled, text, spec, end_ids, settings.model_dump(), out, info)


@torch.no_grad()
def _import_pair(parts: Parts, source: str, out: Path) -> Path:
    """A pair model with all the weights, as transformers' own class. Raises BodaError where parts do not go together."""
    vision = _load_state(MODEL_MAPPING, parts.vision, parts.vision_weights, "vision tower").eval()
    text = _load_state(MODEL_MAPPING, parts.language, parts.language_weights, "text tower").eval()
    size = vision.config.image_size
    model = join_pair(vision, text, size, parts.said.get("projection_dim"))
    own = {name: value for name, value in model.named_parameters() if not name.startswith(("vision_model.", "text_model."))}
    _fill("projections", own, parts.connector_weights)
    if first_position(text):
        move_text_positions(model, 0)  # Flax's code counts from 0
    # Whatever the tower, KoCLIP is trained and asked with CLIP's colours, cut from the middle.
    assembled, spec = Assembled(model, load_tokenizer(parts.tokenizer), {}), ImageSpec(size)
    imported = {"source": source, "layout": parts.layout, "tokenizer": parts.tokenizer}
    return write_pair(assembled, spec, out, {"kind": "clip", "imported": imported, "versions": versions()})


# ---------------------------------------------------------------- the chat template


def choose_template(parts: Parts, tokenizer, given: str | None) -> tuple[str, str]:
    """Name of the chat template, "" for the source's own, and why. Raises BodaError where nothing tells it."""
    own = own_template(parts, tokenizer)
    if given:
        return given, "said by --template"
    if own and parts.layout == "transformers' LLaVA":
        return "", "the checkpoint's own"
    if parts.layout == "OpenFlamingo":
        return "flamingo", "as OpenFlamingo writes"
    if parts.layout == "LLaVA projector":
        return "plain", "a projector alone has seen captions only"
    for pattern, name in NAMES:
        for each in parts.names:
            if found := re.search(pattern, each.lower()):
                return name, f"'{found[0]}' in the name {each}"
    if own:
        return "", "the language model's own, as no name tells a conversation of LLaVA's"
    known = ", ".join(template_names())
    raise BodaError(f"how the model is to be asked is not said by its names ({', '.join(parts.names)}); --template: {known}")


def own_template(parts: Parts, tokenizer) -> str:
    return tokenizer.chat_template or read_json(Path(parts.tokenizer) / "chat_template.json").get("chat_template") or ""


def _takes_parts(template: str, tokenizer) -> bool:
    """Whether a chat template takes contents of parts, pictures among them, as processors hand them over."""
    content = [{"type": "image"}, {"type": "text", "text": "가나다"}]
    try:
        turns = [{"role": "user", "content": content}]
        text = render_jinja_template([turns], chat_template=template, **tokenizer.special_tokens_map)[0][0]
    except Exception:  # a template may raise anything of its own
        return False
    return text.count(IMAGE_TOKEN) == text.count("가나다") == 1 and "'type'" not in text


# ---------------------------------------------------------------- the model


def assemble_parts(parts: Parts) -> Assembled:
    """One model with all the weights, in the language model's type. Raises BodaError where parts do not go together."""
    with explaining(f"{WHY}; --vision names another place of the tower", BodaError):
        tower = load_tower(parts.vision, parts.vision_layer)
    strategy = parts.said.get("vision_feature_select_strategy")
    if strategy and (strategy == "default") != (tower.prefix_tokens == 1):
        raise BodaError(
            f"vision_feature_select_strategy: {strategy} and a tower with {tower.prefix_tokens} leading tokens: only towers without "
            "their class token, and all of the others' vectors, can be imported"
        )
    tower.image_processor = parts.image_processor or tower.image_processor
    if parts.vision_weights:
        config = tower.module.config
        above = lambda key: (m := re.search(r"layers?\.(\d+)\.", key)) and int(m[1]) >= config.num_hidden_layers  # noqa: E731
        used = {key: tensor for key, tensor in parts.vision_weights.items() if not above(key)}
        tower.module = _load_state(MODEL_MAPPING, config, used, "vision tower", HEADS).eval()
    if isinstance(parts.language, str):
        language, _ = load_language(parts.language)
        tokenizer = load_tokenizer(parts.tokenizer, what="language")
    else:
        language = _load_state(MODEL_FOR_CAUSAL_LM_MAPPING, parts.language, parts.language_weights, "language model")
        tokenizer = load_tokenizer(parts.tokenizer, what="language", config=parts.language)
    for mark in parts.marks:
        add_token(tokenizer, mark)
    if isinstance(parts.connector, dict):
        language = _ready_for_flamingo(tower, language, tokenizer, parts)
    else:
        resize_embeddings(language, tokenizer)
    if isinstance(parts.language, str):
        _replace(language, parts.language_weights, tokenizer.convert_tokens_to_ids(parts.marks))
    if parts.adapter:
        language = _merged(language, parts.adapter)
    assembled = put_together(tower, language.eval(), tokenizer, parts.connector)
    _fill_connector(assembled.model, parts)
    assembled.model.to(language.dtype)
    return assembled


def _load_state(mapping, config, weights: Weights, what: str, unneeded: tuple[str, ...] = ()):
    """transformers' model of a config, with these weights in the type of the first of them."""
    dtype = next((tensor.dtype for tensor in weights.values() if tensor.is_floating_point()), torch.float32)
    with quiet_loading():
        model, found = mapping[type(config)].from_pretrained(
            None, config=config, state_dict=weights, dtype=dtype, output_loading_info=True, ignore_mismatched_sizes=True
        )
    needed = lambda keys: [key for key in keys if not any(word in key for word in unneeded)]  # noqa: E731
    check_keys(what, needed(found["missing_keys"]), needed(found["unexpected_keys"]), found["mismatched_keys"])
    return model


@torch.no_grad()
def _fill(what: str, own: dict[str, torch.Tensor], weights: Weights) -> None:
    """Puts a checkpoint's tensors into a part's parameters; exactly those, and of their shapes."""
    check_keys(what, set(own) - set(weights), set(weights) - set(own))
    check_keys(what, shapes=[(name, weights[name].shape, p.shape) for name, p in own.items() if weights[name].shape != p.shape])
    for name, parameter in own.items():
        parameter.copy_(weights[name])


def _ready_for_flamingo(tower, language, tokenizer, parts: Parts):
    """The language model with as many rows of tokens as the checkpoint has, which also tell the tokens that its tokenizer gets; in
    a type that holds the checkpoint's numbers. Raises BodaError where a part is of another width, or there are no such rows."""
    weights = parts.connector_weights
    query = next(tensor for key, tensor in weights.items() if key.endswith(".cross_attention.attn.to_q.weight"))
    _check_width(parts, "vision", "resampler takes", weights["resampler.latents"], feature_size(tower.module.config))
    _check_width(parts, "language", "cross-attention takes", query, language.config.hidden_size)
    table, head = language.get_input_embeddings().weight, language.get_output_embeddings().weight
    named = language.named_parameters(remove_duplicate=False)
    tables = {name: parameter for name, parameter in named if parameter is table or parameter is head}
    if language.config.model_type == "gpt_neox" and "embed_out.weight" in parts.language_weights:  # newer versions rename it
        parts.language_weights[list(tables)[-1]] = parts.language_weights.pop("embed_out.weight")
    rows = {name: len(parts.language_weights[name]) for name in tables if name in parts.language_weights}
    if not any(tables[name] is table for name in rows) or len(set(rows.values())) > 1:
        found = ", ".join(f"{name} of {number} rows" for name, number in rows.items()) or "none of them"
        raise BodaError(
            f"the checkpoint has {found}, and {' and '.join(tables)} of as many rows are needed, the first at least"
        )
    number = next(iter(rows.values()))
    project, tokens = add_published_tokens(tokenizer, number)
    assert isinstance(parts.connector, dict)
    parts.connector |= {"places": False, "special_tokens": list(tokens[1:-1])}
    parts.notes.append(f"tokens: the {len(tokens)} of {project}, told from {number} rows")
    if table is not head and len(rows) == 1:
        parts.notes.append("head: the language model's own, as the checkpoint has none; a new token's row is the mean of all")
    resize_embeddings(language, tokenizer)
    language.resize_token_embeddings(number, mean_resizing=False)  # fewer, where the language model has rows to spare
    return language.to(torch.promote_types(language.dtype, weights["resampler.latents"].dtype))


@torch.no_grad()
def _replace(language, weights: Weights, marks: list[int]) -> None:
    """Puts trained tensors in the place of a language model's own; of the embeddings perhaps only the rows of `marks`."""
    own = dict(language.named_parameters(remove_duplicate=False))
    check_keys("language model", unknown=set(weights) - set(own))
    for name, tensor in weights.items():
        if tensor.shape[1:] != own[name].shape[1:] or len(tensor) > len(own[name]):
            check_keys("language model", shapes=[(name, tensor.shape, own[name].shape)])
        own[name][marks if len(tensor) == len(marks) else slice(len(tensor))] = tensor.to(own[name].dtype)


def _merged(language, folder: Path):
    """The language model with an adapter added to its matrices: summed in fp32, then in its own type again."""
    from peft import PeftConfig, get_peft_model, set_peft_model_state_dict

    dtype = language.dtype
    weights = load_weights(folder, ("adapter_model.safetensors", "adapter_model.bin"))
    said = f"the adapter in {folder} does not fit the language model: {WHY}"
    with explaining(said, ValueError, RuntimeError, TypeError):
        config = PeftConfig.from_pretrained(folder)
        config.base_model_name_or_path = None  # it would warn of another name
        adapted = get_peft_model(language.float(), config)
        found = set_peft_model_state_dict(adapted, weights)
    check_keys("adapter", [key for key in found.missing_keys if "lora_" in key], found.unexpected_keys)
    return adapted.merge_and_unload().to(dtype)


def _check_width(parts: Parts, part: str, what: str, matrix: torch.Tensor, width: int, axis: int = -1) -> None:
    """Raises BodaError where a part that is named has vectors of another width than what was trained with it."""
    if (given := matrix.shape[axis]) != width:
        name = getattr(parts, part) if isinstance(getattr(parts, part), str) else f"the {part} model"
        raise BodaError(f"the {what} vectors of {given} numbers and {name} has {width}: it was trained with another")


def _fill_connector(model, parts: Parts) -> None:
    weights = parts.connector_weights
    if isinstance(parts.connector, dict):
        layers = [layer for layer in model.model.language_model.modules() if isinstance(layer, LookingLayer)]
        named = {"resampler.": model.model.resampler, **{f"layers.{number}.": layer for number, layer in enumerate(layers)}}
        own = {begin + key: value for begin, module in named.items() for key, value in module.named_parameters()}
        own = {name: value for name, value in own.items() if ".decoder_layer." not in name}
        return _fill("resampler and cross-attention", own, weights)
    own = dict(model.model.multi_modal_projector.named_parameters())
    if parts.connector == "linear":  # in the stock class a second matrix follows, which does nothing
        own = {name: parameter for name, parameter in own.items() if name.startswith("linear_1.")}
    first = next(iter(own))
    if first in weights and weights[first].ndim == own[first].ndim:
        _check_width(parts, "vision", "projector takes", weights[first], own[first].shape[-1])
        _check_width(parts, "language", "projector gives", weights[first], len(own[first]), axis=0)
    _fill("projector", own, weights)
