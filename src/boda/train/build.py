"""From a recipe to the model a stage starts from, and from trained stages to a finished folder."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from boda.data.images import ImageSpec, fit_image, load_image
from boda.data.interleaved import FlamingoRenderer
from boda.data.pairs import PairRenderer
from boda.data.render import PreferenceRenderer, Renderer, processor_template, tokenizer_template, with_beginning
from boda.data.sample import ImageRef
from boda.errors import BodaError
from boda.files import read_json, whole_folder, write_json
from boda.models.assemble import END_OF_CHUNK, Assembled, assemble, build_processor, load_tokenizer
from boda.models.checkpoints import best_dtype, generation_config, save_folder
from boda.models.language import (
    ADAPTER,
    MADE_BY_THE_RECIPE,
    apply_adapter,
    lora_layers,
    merge_lora,
    save_adapter,
    stack_adapter,
)
from boda.models.pairing import assemble_pair, image_vectors, text_positions, text_vectors, write_pair
from boda.models.quantised import is_quantised, loading_options
from boda.models.vocabulary import IMAGE_TOKEN, add_token, give_rows, train_tokenizer
from boda.recipe import Recipe, Stage, TokenizerSpec, template_text
from boda.train.expansion import grow
from boda.train.freeze import adaptable, cast, is_pair, language_of, open_parts, picture_size
from boda.train.objectives import casting

FALLBACK_TEMPLATE = "question-answer"


@dataclass
class Built:
    """The model of a recipe at the start of a stage, and what goes with it."""

    assembled: Assembled
    frozen_dtype: torch.dtype

    @property
    def model(self):
        return self.assembled.model


@dataclass
class PixelLoader:
    """Picture -> normalised pixels (3, H, W) for one stage; goes to loader processes as it is."""

    spec: ImageSpec | None

    def __call__(self, ref: ImageRef):
        assert self.spec is not None  # a language model is given no picture
        return fit_image(load_image(ref), self.spec)


def template_of(recipe: Recipe, tokenizer, stage: Stage | None = None) -> str:
    """The chat template of a stage (or, without one, of the finished model), with its generation marks if it has any."""
    name = (stage.chat_template if stage else None) or recipe.model.chat_template
    if name is None and not tokenizer.chat_template:
        name = FALLBACK_TEMPLATE
    template = template_text(name, recipe.directory) if name else tokenizer.chat_template
    return with_beginning(template, tokenizer) if recipe.model.kind == "language" else template


def part_source(recipe: Recipe, part: str, out: Path | None) -> str | dict | None:
    """Where a part comes from: as the recipe says, or the model that the recipe it names has left in this run."""
    if (name := recipe.model.recipes.get(part)) is None:
        return getattr(recipe.model, part)
    assert out is not None
    return str(out / "parts" / Path(name).stem / "model")


def get_tokenizer(recipe: Recipe, out: Path | None, texts: Iterator[str]):
    """The recipe's tokenizer: the language model's, a named one, or one trained on `texts` and kept in `out`/tokenizer."""
    spec = recipe.model.tokenizer
    if spec is None:
        language = part_source(recipe, "language", out)
        if isinstance(language, str):
            return load_tokenizer(language, what="language")
        raise BodaError("model.tokenizer: a language model built from a config needs one, e.g. {vocab_size: 4000}")
    if isinstance(spec, str):
        return load_tokenizer(spec)
    folder, done = out / "tokenizer" if out else None, None
    if folder is None or not (folder / "tokenizer.json").is_file():
        if spec.base is not None:
            tokenizer, done = grow(
                base_tokenizer(recipe, out), texts, spec.vocab_size, spec.tokenizer, "model.tokenizer.vocab_size"
            )
        else:
            assert spec.vocab_size is not None
            tokenizer = train_tokenizer(texts, spec.vocab_size)
            tokenizer.chat_template = template_text("chatml") if recipe.model.kind != "clip" else None
        if folder is None:
            return tokenizer
        with whole_folder(folder) as partial:
            tokenizer.save_pretrained(partial)
            if done:
                write_json(partial / "expansion.json", done)
    return load_tokenizer(str(folder))


def base_tokenizer(recipe: Recipe, out: Path | None):
    """The tokenizer that a recipe gives more pieces to; None where it gives none. Raises BodaError where there is none to give to."""
    spec = recipe.model.tokenizer
    if not isinstance(spec, TokenizerSpec) or spec.base is None:
        return None
    if recipe.model.kind == "clip":
        raise BodaError("model.tokenizer.base: more pieces are for models that write, and a clip does not")
    name = part_source(recipe, "language", out) if spec.base == "language" else spec.base
    if not isinstance(name, str):
        raise BodaError("model.tokenizer.base: a language model built from a config has no tokenizer; name one")
    return load_tokenizer(name, what="tokenizer.base")


def build(
    recipe: Recipe, tokenizer, out: Path | None, before: list[Stage], device: torch.device, merging: bool = False
) -> Built:
    """The model as the stages in `before` left it, everything frozen. `merging`: with a language model's ordinary matrices, which
    adapters can be added to, where training keeps them in 8 or 4 bits."""
    revisions = _recorded_revisions(out)
    spec = recipe.model.model_copy(update={part: part_source(recipe, part, out) for part in ("vision", "language")})
    frozen = best_dtype(device, recipe.precision)
    if spec.kind == "clip":
        assembled = assemble_pair(spec, tokenizer, recipe.seed, revisions)
    else:
        bits = {} if merging else loading_options(recipe.precision, device, frozen)
        assembled = assemble(spec, tokenizer, recipe.seed, revisions, bits, whole=merging)
    if (base := base_tokenizer(recipe, out)) is not None:
        give_rows(assembled.model, base, tokenizer, recipe.model.tokenizer.initialise or "mean", recipe.seed)  # type: ignore[union-attr]
    assembled.model.requires_grad_(False)
    for stage in before:
        assert out is not None
        apply_stage(assembled.model, out / "stages" / stage.name / "model", frozen, stage.name)
    return Built(assembled, frozen)


def _recorded_revisions(out: Path | None) -> dict[str, str | None]:
    for path in sorted(out.glob("stages/*/model/stage.json")) if out else []:
        return read_json(path)["revisions"]
    return {}


@torch.no_grad()
def apply_stage(model, folder: Path, frozen: torch.dtype, name: str) -> None:
    """Puts what a stage trained into a model: an adapter merged in fp32 and cast, parts as they are. An adapter on matrices of 8 or
    4 bits stays beside them, under the stage's name."""
    if (folder / "adapter").is_dir():
        for parameter in (parameter for module in adaptable(model).values() for parameter in module.parameters()):
            if parameter.is_floating_point():
                parameter.data = parameter.data.to(frozen)
        if is_quantised(language_of(model)):
            stack_adapter(model, language_of(model), folder / "adapter", name)
        else:
            apply_adapter(model, folder / "adapter")
    apply_trained(model, folder / "trained.safetensors")


@torch.no_grad()
def attach_stage(built: Built, stage: Stage, folder: Path) -> None:
    """Puts what a stage trained on the model it started from, its adapter unmerged."""
    if stage.lora is not None:
        opened(built, stage, seed=0)
        built.model.requires_grad_(False)
        tensors = load_file(folder / "adapter" / "adapter_model.safetensors")
        for name, layer in lora_layers(built.model).items():
            layer.lora_A[ADAPTER].weight.copy_(tensors[f"base_model.model.{name}.lora_A.weight"])
            layer.lora_B[ADAPTER].weight.copy_(tensors[f"base_model.model.{name}.lora_B.weight"])
    apply_trained(built.model, folder / "trained.safetensors")


@torch.no_grad()
def apply_trained(model, path: Path) -> None:
    """Puts whole trained tensors, if there are any, into a model by name, in their own type."""
    parameters = dict(model.named_parameters())
    for name, tensor in load_file(path).items() if path.is_file() else ():
        if name not in parameters or parameters[name].shape != tensor.shape:
            raise BodaError(f"{path} does not fit the model at '{name}'; was it made by another recipe?")
        parameters[name].data = tensor.to(parameters[name].device)


def save_stage(built: Built, recipe: Recipe, stage: Stage, trained: dict[str, torch.nn.Parameter], folder: Path) -> None:
    """Writes what a stage trained: `trained.safetensors` and `adapter/` with the base named, under a temporary name first."""
    with whole_folder(folder) as partial:
        whole = {name: p.detach().float().cpu().contiguous() for name, p in trained.items() if ".lora_" not in name}
        if whole:
            save_file(whole, partial / "trained.safetensors", metadata={"format": "pt"})
        if lora_layers(built.model):
            base = recipe.model.language if isinstance(recipe.model.language, str) else MADE_BY_THE_RECIPE
            save_adapter(built.model, partial / "adapter", base)
        facts = {
            "stage": stage.name,
            "base": {"vision": recipe.model.vision, "language": recipe.model.language, "connector": recipe.model.connector},
            "revisions": built.assembled.revisions,
        }
        write_json(partial / "stage.json", facts)


def image_spec(built: Built, fit: str) -> ImageSpec | None:
    """How pictures are made to fit this model's tower; None where it has none."""
    processor, size = built.assembled.image_processor, built.assembled.image_size
    if not size:
        return None
    return ImageSpec(size=size, fit=fit) if processor is None else ImageSpec.from_processor(processor).refit(size, fit)


def pair_renderer(stage: Stage, built: Built) -> PairRenderer:
    """The renderer of a clip's stage; texts have at most as many tokens as the tower has places for."""
    places = getattr(built.model.text_model.config, "max_position_embeddings", stage.max_length)
    return PairRenderer(built.assembled.tokenizer, min(stage.max_length, places - int(text_positions(built.model, [1]))))


def renderer_for(recipe: Recipe, stage: Stage | None, built: Built) -> Any:
    """The Renderer or PairRenderer of a stage or, without one, the Renderer of the finished model."""
    if stage and is_pair(built.model):
        return pair_renderer(stage, built)
    tokenizer, system = built.assembled.tokenizer, recipe.generation.system
    template, images = template_of(recipe, tokenizer, stage), built.assembled.num_image_tokens
    if stage is None:
        return Renderer(tokenizer, template, images, system=system)
    kind = FlamingoRenderer if recipe.model.kind == "flamingo" else Renderer
    if stage.objective == "preference":
        kind = PreferenceRenderer
    return kind(tokenizer, template, images, stage.max_length, system, stage.objective == "all_tokens")


def finish(built: Built, recipe: Recipe, folder: Path, info: dict) -> Path:
    """Merges what is unmerged, checks that merging changed nothing, and writes the complete model folder.

    Raises BodaError where the merged model's logits differ from the unmerged one's by more than rounding.
    """
    model, tokenizer = built.model.cpu(), built.assembled.tokenizer
    if lora_layers(model):
        # Tables that are trained beside an adapter are fp32, and the rest may not be; the merge itself is in fp32.
        looking = partial(casting, torch.device("cpu"), built.frozen_dtype if built.frozen_dtype != torch.float32 else None)
        with looking():
            before = probe_logits(model)
        merge_lora(model)
        with looking():
            difference = float((probe_logits(model) - before).abs().max() / before.abs().max().clamp(min=1e-6))
        info = info | {"merge": {"largest_relative_difference": difference}}
        limit = 1e-3 if built.frozen_dtype == torch.float32 else 0.1
        if not difference <= limit:
            raise BodaError(f"merging the adapter changed the logits by {difference:.2g} of their size; nothing was written")
    spec = image_spec(built, recipe.stages[-1].image_fit)
    dtype = torch.float32 if recipe.precision == "fp32" else torch.bfloat16
    model.to(dtype)
    model.config.dtype = dtype
    if is_pair(model):
        return write_pair(built.assembled, spec, folder, info)
    template, end_ids = template_of(recipe, tokenizer), renderer_for(recipe, None, built).end_ids()
    if spec is None and tokenizer.eos_token_id is not None:  # what ends a text that answers nothing
        end_ids = sorted({*end_ids, tokenizer.eos_token_id})
    settings = recipe.generation.model_dump()
    if spec is not None:
        return write_vlm(built.assembled, processor_template(template), spec, end_ids, settings, folder, info)
    _set_answering(model, tokenizer, end_ids, settings)
    tokenizer.chat_template = tokenizer_template(template)
    return save_folder(model, tokenizer, folder, info | {"generation": settings})


def write_vlm(
    assembled: Assembled, template: str, spec: ImageSpec, end_ids: list[int], settings: dict, folder: Path, info: dict
) -> Path:
    """Writes a complete vision-language model in the type it has, with `template` as its processor's."""
    model, tokenizer = assembled.model, assembled.tokenizer
    _set_answering(model, tokenizer, end_ids, settings)
    tokenizer.chat_template = None  # the processor's is the one; two would be read by different tools
    processor = build_processor(assembled, spec.to_processor(), template)
    assert tokenizer.convert_tokens_to_ids(IMAGE_TOKEN) == model.config.image_token_index
    return save_folder(model, processor, folder, info | {"generation": settings, "connector": assembled.connector})


def _set_answering(model, tokenizer, end_ids: list[int], settings: dict) -> None:
    """What a model's folder says of its answers: settings, the tokens that end one, a pad token that is none of them."""
    if tokenizer.pad_token_id in end_ids:
        add_token(tokenizer, "<pad>")
        tokenizer.pad_token = "<pad>"
    model.generation_config = generation_config(settings, end_ids, tokenizer.pad_token_id)


@torch.no_grad()
def probe_logits(model) -> torch.Tensor:
    """Logits (8, V) of a few fixed tokens: equal numbers mean an equal language model. Of a pair its vectors (2, P)."""
    model.eval()
    if is_pair(model):
        size, words = picture_size(model), torch.arange(3, 11)[None] % model.text_model.config.vocab_size
        picture = torch.linspace(-1, 1, 3 * size * size).view(1, 3, size, size)
        texts = text_vectors(model.float(), words, torch.tensor([0, 8], dtype=torch.int32))
        return torch.cat([image_vectors(model, picture), texts])
    vocabulary = model.config.get_text_config().vocab_size
    ids = torch.arange(vocabulary // 2, vocabulary // 2 + 8)[None] % vocabulary
    ids = torch.where(ids == getattr(model.config, "image_token_index", -1), 1, ids)
    return model(input_ids=ids).logits[0].float()


def new_tokens(built: Built) -> list[int]:
    """The tokens of a flamingo that its language model did not know."""
    known = built.assembled.tokenizer.get_vocab()
    return [known[token] for token in (IMAGE_TOKEN, END_OF_CHUNK) if token in known]


def opened(built: Built, stage: Stage, seed: int) -> dict[str, torch.nn.Parameter]:
    """Opens the stage's parts and gives every tensor its type: trained fp32, frozen as the recipe's precision says."""
    trained = open_parts(built.model, stage.train, stage.lora, seed, new_tokens(built))
    cast(built.model, built.frozen_dtype)
    return trained
