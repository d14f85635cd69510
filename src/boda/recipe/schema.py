"""The knobs of a recipe: their types, their meaning, and what contradicts what."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, model_validator

from boda.errors import BodaError
from boda.recipe.words import nearest, no_stage

TEMPLATES = Path(__file__).parents[1] / "templates"

# The parts a stage may open, by kind of model. Everything else stays frozen.
_LANGUAGE_PARTS = ("language", "language.lora", "language.embeddings", "language.ends")
PARTS: dict[str, tuple[str, ...]] = {
    "vlm": ("vision", "connector", *_LANGUAGE_PARTS),
    "clip": ("vision", "vision.lora", "text", "text.lora", "logit_scale"),
    "flamingo": ("vision", "resampler", "cross_attention", *_LANGUAGE_PARTS, "language.tokens"),
    "language": _LANGUAGE_PARTS,
}
CONNECTORS = ("linear", "mlp2x_gelu", "ldpv2", "placed_mlp")
# The resampler and the cross-attention of a flamingo, as OpenFlamingo has them; `connector:` says what differs.
FLAMINGO: dict[str, Any] = {
    "depth": 6, "num_latents": 64, "heads": 8, "head_dim": 64, "every": 1, "places": False, "special_tokens": [],
}  # fmt: skip
MAKERS = {"vision": "clip", "language": "language"}  # what kind of model a recipe must make that a part is taken from
ALL_PARTS = tuple(dict.fromkeys(part for parts in PARTS.values() for part in parts))

Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]
Texts = Annotated[list[str], Field(min_length=1)]
Rows = Literal[
    "llava", "sharegpt", "messages", "alpaca", "kullm", "koalpaca", "preference", "captions", "text", "parallel", "links",
    "parquet", "csv", "webdataset", "mmc4", "drawn",
]  # fmt: skip


class At(ValueError):
    """A contradiction, with the knob to point at (from the block that finds it)."""

    def __init__(self, path: str | tuple, message: str):
        super().__init__(message)
        self.path = (path,) if isinstance(path, str) else path


class Knobs(BaseModel):
    """A block of a recipe: no key it does not know, no value of another type."""

    model_config = ConfigDict(
        extra="forbid", strict=True, frozen=True, allow_inf_nan=False, use_attribute_docstrings=True, defer_build=True
    )


class Data(Knobs):
    """One data set of a stage."""

    source: Rows | None = None
    """The format of the rows. Unset: told from the file. `drawn`: pictures and words that Boda draws itself, no file at all."""
    path: str
    """File with the rows, a pattern such as `train-*.parquet` or `laion-{00000..00041}.tar`, or a folder, zip or tar that holds
    it. A relative path is looked up in `--data`, then in `BODA_DATA`, then beside the recipe. Of drawn data: the name of the
    collection."""
    images: str | None = None
    """Folder, zip or tar that the rows' picture names start from, looked up as `path` is. Unset: beside the rows."""
    weight: Positive = 1.0
    """Expected passes over this source an epoch: 2 = every row twice, 0.1 = a tenth of the rows."""
    columns: dict[str, str] = {}
    """Which column holds what, `{answer: 정답}`, or how it is made of columns, `{image: "flags/{code}.png"}`."""
    where: dict[str, str | Texts] = {}
    """Only the rows in which a column has this value, or one of these: `{split: train}`."""
    question: str | Texts | None = None
    """What is asked of a row of captions, csv or parquet: a text in which `{column}` stands for the row's value and
    `{column:은는}` for it with the fitting particle; of a list, every row takes one. Unset: the column `question`."""
    answer: str | Texts | None = None
    """What is answered, written as `question` is. Unset: the caption, or the column `answer`."""
    limit: Count | None = None
    """Use only this many rows, the first. Unset: all. Of drawn data, which has no end: how many pictures."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """Of drawn data: another seed, other pictures."""
    licence: str = ""
    """Licence of the data, recorded with the model."""

    @model_validator(mode="after")
    def _agree(self) -> Data:
        if self.source == "drawn" and self.limit is None:
            raise At("limit", "drawn data has no end: say how many pictures, e.g. limit: 20000")
        if self.source != "drawn" and self.seed:
            raise At("seed", "only source: drawn takes one; remove it")
        return self


class TokenizerSpec(Knobs):
    """A tokenizer made on the spot: a new one, or one with more pieces than its `base`."""

    base: str | None = None
    """The tokenizer that gets more pieces: a hub id or folder, or `language` for the language model's own. What its pieces were
    stays as it was. Unset: a byte-level BPE is trained from nothing."""
    vocab_size: Annotated[int, Field(ge=260)] | None = None
    """Size of the vocabulary when it is done: of a new one, or of `base` and the pieces that are learnt."""
    tokenizer: str | None = None
    """Another tokenizer, a hub id or folder, whose pieces are taken as far as `base` lacks them, instead of learning some."""
    data: Annotated[list[Data], Field(min_length=1)] | None = None
    """The text that pieces are learnt from. Unset: the recipe's own."""
    initialise: Literal["mean", "eeve", "random"] | None = None
    """What a new piece's rows begin as: the mean of the rows of the pieces it was written with; as `mean`, but in the head the row
    of the first of these (EEVE); or random. Unset: mean."""

    @model_validator(mode="after")
    def _agree(self) -> TokenizerSpec:
        if self.base is None:
            for name in ("tokenizer", "data", "initialise"):
                if getattr(self, name) is not None:
                    raise At(
                        name, "only a tokenizer that is extended takes it; say which with base: (language for the model's own)"
                    )
            if self.vocab_size is None:
                raise At("vocab_size", "a tokenizer trained from nothing needs its size, e.g. vocab_size: 4000")
        elif (self.vocab_size is None) == (self.tokenizer is None):
            need = "say how many there are to be in all (vocab_size), or whose are taken (tokenizer)"
            raise At("vocab_size", f"pieces for {self.base} are either learnt or taken: {need}, one of them")
        elif self.tokenizer is not None and self.data is not None:
            raise At("data", "pieces are taken from the other tokenizer, so no text is read; remove it")
        return self


class ModelSpec(Knobs):
    """What the model is made of."""

    kind: Literal["vlm", "clip", "flamingo", "language"] = "vlm"
    """`vlm` answers about pictures, `clip` compares pictures with texts, `flamingo` reads pictures and texts in turn,
    `language` reads text only."""
    vision: str | dict[str, Any] | None = None
    """The vision tower: a hub id or folder; a transformers config (a mapping with `model_type`), initialised from the seed; or
    `{recipe: NAME}`, the image tower of the clip that another recipe makes, trained first."""
    vision_layer: int = -2
    """The tower's layer whose output is used; -2 = the last but one, as LLaVA does."""
    image_size: Count | None = None
    """Side in pixels of the square a picture becomes. Unset: the tower's own."""
    connector: str | dict[str, Any] | None = None
    """From vision features to language embeddings: `linear` (one matrix), `mlp2x_gelu` (two with GELU between), `ldpv2` (these with
    2x pooling and a convolution: a quarter of the tokens) or `placed_mlp` (for convolutional towers, with a norm and places). Unset:
    `mlp2x_gelu` for a vlm. Of a flamingo: what its resampler and its cross-attention have otherwise than the published ones, as a mapping
    such as `{num_latents: 64, depth: 6, heads: 8, every: 1}`."""
    language: str | dict[str, Any]
    """The language model (`clip`: the text tower): a hub id or folder; a transformers config (a mapping with `model_type`),
    initialised from the seed; or `{recipe: NAME}`, what another recipe (shipped, or a path from this file) makes, trained
    first."""
    tokenizer: str | TokenizerSpec | None = None
    """A hub id or folder; `{vocab_size: N}` for a byte-level BPE trained on the recipe's own text; with `base:` an extended one.
    Unset: the language model's."""
    chat_template: str | None = None
    """A template Boda ships, by name, or the path of a `.jinja` file beside the recipe. Unset: the tokenizer's own."""
    projection_dim: Count | None = None
    """Of a clip: size of the vectors that pictures and texts become. Unset: 512."""
    logit_scale: float | None = None
    """Of a clip: logarithm of what similarities are multiplied with at the start (learnt, at most 100). Unset: ln 14.3 with
    softmax, ln 10 with sigmoid."""
    contrast: Literal["softmax", "sigmoid"] | None = None
    """Of a clip: `softmax` asks which text of the step is the picture's (CLIP), `sigmoid` of every text whether it is (SigLIP).
    Unset: softmax."""

    @model_validator(mode="after")
    def _agree(self) -> ModelSpec:
        for part, maker in self.recipes.items():
            if len(getattr(self, part)) > 1 or not isinstance(maker, str) or (part == "language" and self.kind == "clip"):
                why = f"names a recipe of kind: {MAKERS[part]}; it takes no other keys"
                raise At(part, f"{{recipe: NAME}} {why}{' and is not for clip' if part == 'language' else ''}")
        if "language" in self.recipes and isinstance(self.tokenizer, TokenizerSpec) and self.tokenizer.base is None:
            made_by = self.recipes["language"]
            raise At("tokenizer", f"the model of {made_by} has its own; remove this one, or say tokenizer: null")
        for name, value in (("vision", self.vision), ("language", self.language)):
            if isinstance(value, dict) and name not in self.recipes and not isinstance(value.get("model_type"), str):
                needs = "needs its model_type, e.g. model_type: llama"
                raise At(name, f"given as a mapping it is a transformers config and {needs}")
        for name in ("vision", "connector"):
            if self.kind == "language" and getattr(self, name) is not None:
                raise At(name, f"kind: language takes no {name}; remove it, or say kind: vlm")
        if self.kind != "language" and self.vision is None:
            needs = "needs a vision tower (hub id, folder or config); without pictures: kind: language"
            raise At("vision", f"kind: {self.kind} {needs}")
        for name in ("projection_dim", "logit_scale", "contrast", "connector"):
            if (self.kind == "clip") != (name != "connector") and getattr(self, name) is not None:
                kind, what = ("vlm", "a connector") if name == "connector" else ("clip", "it")
                raise At(name, f"only kind: {kind} has {what}, and this is kind: {self.kind}; remove it")
        self._check_connector()
        # The block is frozen for everybody else.
        if self.kind == "clip":
            self.__dict__["contrast"] = self.contrast or "softmax"
        if self.kind == "vlm":
            self.__dict__["connector"] = self.connector or "mlp2x_gelu"
        if self.kind == "flamingo":
            self.__dict__["connector"] = FLAMINGO | (self.connector or {})  # type: ignore[operator]
            self.__dict__["chat_template"] = self.chat_template or "flamingo"
        check_template(self.chat_template)
        return self

    def _check_connector(self) -> None:
        """Refuses a name where a mapping is meant, the other way round, and settings that a flamingo does not have."""
        if self.connector is not None and isinstance(self.connector, dict) != (self.kind == "flamingo"):
            form = "a mapping, e.g. {num_latents: 64}" if self.kind == "flamingo" else "a name, e.g. mlp2x_gelu"
            raise At("connector", f"of kind: {self.kind} it is {form}")
        if isinstance(self.connector, str) and self.connector not in CONNECTORS:
            raise At("connector", f"'{self.connector}' is not known; {nearest(self.connector, list(CONNECTORS))}")
        for name, value in self.connector.items() if isinstance(self.connector, dict) else ():
            if name not in FLAMINGO:
                raise At(("connector", name), f"a flamingo has no such setting; {nearest(name, list(FLAMINGO))}")
            kind = type(FLAMINGO[name])
            if (
                type(value) is not kind
                or (kind is int and value < 1)
                or (kind is list and not all(map(str.strip, map(str, value))))
            ):
                wanted = {int: "a number from 1 on", bool: "true or false", list: "a list of tokens"}[kind]
                raise At(("connector", name), f"{wanted} is needed, and this is {value!r}")

    @property
    def recipes(self) -> dict[str, str]:
        """The parts that are given as the recipes that make them: {"vision": "mini-clip"}."""
        given = {part: getattr(self, part) for part in MAKERS}
        return {part: value["recipe"] for part, value in given.items() if isinstance(value, dict) and "recipe" in value}


class Lora(Knobs):
    """A low-rank adapter on the language model, or on the towers of a clip."""

    rank: Count
    """Rank of the adapter's matrices."""
    alpha: Positive
    """Scale of the adapter: its output is multiplied by alpha / rank."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Dropout on the adapter's input."""
    targets: Texts | None = None
    """Names of the linear layers that get an adapter. Unset: every linear layer of the part but a language model's head."""


class Stage(Knobs):
    """One training run. What a stage does not say it takes from the stage before it."""

    name: Annotated[str, Field(pattern=r"^[\w-]+$")]
    """Name of the stage: of its folder in `OUT/stages/` and in overrides. Letters, digits, - and _."""
    objective: Literal["language", "all_tokens", "contrastive", "preference"] = "language"
    """What is minimised: the loss of the answers' tokens; of all tokens, what is asked among them; of pairs of picture and text; or
    of chosen against rejected answers (DPO)."""
    train: Texts
    """The parts that learn; all others are frozen. `language.lora` trains an adapter, see `lora`; so do a clip's `vision.lora`
    and `text.lora`. `language.ends`: the first and the last layer, those between left out meanwhile (ELO). `language.tokens`: of a
    flamingo, the input rows of `<image>` and `<|endofchunk|>`."""
    data: Annotated[list[Data], Field(min_length=1)]
    """The data sets, mixed by their weights."""
    epochs: Positive | None = None
    """Passes over the data. Unset, with no `max_steps` either: 1."""
    max_steps: Count | None = None
    """Optimizer steps, instead of `epochs`."""
    batch_size: Count
    """Samples an optimizer step, over all processes together."""
    learning_rate: Positive
    """Peak learning rate."""
    learning_rates: dict[str, Positive] = {}
    """Peak learning rates of single parts, `{connector: 2.0e-5}`; other parts take `learning_rate`."""
    optimizer: Literal["adamw", "muon"] = "adamw"
    """`muon`: for the matrices inside layers, AdamW for all else. Faster where layers learn from nothing; adapters and trained
    models keep `adamw`."""
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """How the learning rate goes on after the warm-up: down to 0 along a cosine or a line, or not at all."""
    warmup_ratio: Share = 0.03
    """Share of the steps during which the learning rate rises from 0."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """AdamW weight decay of the matrices."""
    max_length: Count = 2048
    """Most tokens of a sample, pictures included; longer ones are cut at the end."""
    row_length: Count | None = None
    """Most tokens of a packed row. Unset: `max_length`."""
    packing: bool | Literal["separate"] = True
    """Several samples in one row instead of padding, and those that begin with the same picture share its tokens: the same gradient,
    less work. `separate`: in one row, sharing nothing."""
    beta: Positive = 0.1
    """Of preference tuning: how closely the model is held to what it was before the stage."""
    save_steps: Count = 500
    """Steps between checkpoints."""
    eval_steps: Count = 500
    """Steps between validation losses and trial answers."""
    validation: Annotated[float, Field(gt=0, lt=1)] | Annotated[list[Data], Field(min_length=1)] | None = None
    """What the validation loss is taken on: a share of the rows, which are then not trained on, or data sets of its own. Unset:
    none."""
    lora: Lora | None = None
    """The adapter, when a part such as `language.lora` is trained. A following stage that trains none does not inherit it."""
    max_grad_norm: Positive = 1.0
    """Longest gradient; longer ones are scaled down to it."""
    gradient_checkpointing: bool = False
    """Compute activations twice instead of keeping them: less memory, about a third slower."""
    image_fit: Literal["crop", "pad", "stretch"] = "crop"
    """How a picture becomes a square: cut at its middle, filled up with the mean colour, or stretched."""
    chat_template: str | None = None
    """Chat template of this stage, as in `model`. Unset: the model's."""

    @model_validator(mode="after")
    def _agree(self) -> Stage:
        if self.epochs is not None and self.max_steps is not None:
            said = f"epochs: {self.epochs:g} and max_steps: {self.max_steps}"
            raise At("max_steps", f"{said} contradict each other; say one of them")
        if self.epochs is None and self.max_steps is None:
            self.__dict__["epochs"] = 1.0  # the block is frozen for everybody else
        for key, names in (("train", self.train), ("learning_rates", list(self.learning_rates))):
            for name in names:
                if name not in ALL_PARTS:
                    raise At(key, f"no part is called '{name}'; {nearest(name, ALL_PARTS)}")
        if len(set(self.train)) < len(self.train):
            raise At("train", f"a part is named twice: {', '.join(self.train)}")
        adapted = [part.removesuffix(".lora") for part in self.train if part.endswith(".lora")]
        if both := [part for part in adapted if part in self.train]:
            raise At("train", f"{both[0]} trains all its weights, {both[0]}.lora an adapter instead of them; say one of them")
        if "language.ends" in self.train and (whole := [part for part in ("language", "language.lora") if part in self.train]):
            why = f"language.ends leaves the layers between the ends out of the stage, and {whole[0]} trains them"
            raise At("train", f"{why}; say one of them")
        if "language.tokens" in self.train and (tables := {"language", "language.embeddings"} & set(self.train)):
            why = f"{min(tables)} trains every row of the table, language.tokens only those of new tokens"
            raise At("train", f"{why}; say one of them")
        if untrained := [part for part in self.learning_rates if part not in self.train]:
            raise At("learning_rates", f"{untrained[0]} has a learning rate and is not in train: {', '.join(self.train)}")
        if self.lora is not None and not adapted:
            why = "the stage does not train language.lora, so the block has no use"
            raise At("lora", f"{why}; add it to train, or say lora: null")
        if self.lora is None and adapted:
            raise At("train", f"{adapted[0]}.lora needs a lora block, e.g. lora: {{rank: 64, alpha: 16}}")
        if self.row_length is not None and self.row_length < self.max_length:
            why = f"{self.row_length} is less than max_length: {self.max_length}, so the longest samples fit no row"
            raise At("row_length", f"{why}; raise it, or remove it")
        check_template(self.chat_template)
        return self


class Generation(Knobs):
    """How the model answers; saved with it and obeyed by chat and serve."""

    system: str | None = None
    """System text of a conversation that has none. Unset: the chat template's own."""
    stop: list[str] = []
    """Texts that end an answer, besides the tokens that ended one in training."""
    temperature: Annotated[float, Field(ge=0)] = 0.0
    """0 = always the likeliest token; higher = more varied."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Sample among the likeliest tokens that together have this probability."""
    repetition_penalty: Positive = 1.0
    """Above 1 = tokens already said become less likely."""
    beams: Count = 1
    """Beams of the search; 1 = no beam search."""
    max_new_tokens: Count = 256
    """Most tokens of an answer."""


class Recipe(Knobs):
    """The whole recipe. Loaded by `load_recipe`; every stage then says everything."""

    base: str | None = None
    """A recipe to start from: a name Boda ships, or a path from this file. This file then holds only what differs."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of every random choice: initial weights, order, mixing."""
    precision: Literal["auto", "fp32", "bf16", "fp16", "int8", "nf4"] = "auto"
    """Numbers of the frozen weights and of the forward pass; trained weights are fp32. `auto` = the best the hardware has. `int8`,
    `nf4`: the language model's matrices in 8 or 4 bits (QLoRA), all else as `auto`."""
    model: ModelSpec
    """What the model is made of."""
    stages: Annotated[list[Stage], Field(min_length=1)]
    """The training runs, one after the other."""
    generation: Generation = Field(default_factory=Generation)
    """How the model answers."""
    max_bad_rows: Share = 0.01
    """Share of rows that may be unusable (skipped, and listed in `bad_rows.jsonl`) before it is an error."""

    _directory: Path | None = PrivateAttr(None)

    @property
    def directory(self) -> Path | None:
        """The folder of the recipe's file; None if it was made from a dict."""
        return self._directory

    @model_validator(mode="after")
    def _agree(self) -> Recipe:
        if self.base is not None:
            raise At("base", "only load_recipe resolves a base; a Recipe made directly has none")
        kind, names = self.model.kind, [stage.name for stage in self.stages]
        for stage in self.stages:
            here = ("stages", stage.name)
            if names.count(stage.name) > 1:
                raise At("stages", f"two stages are called '{stage.name}'; names must differ")
            if foreign := [part for part in stage.train if part not in PARTS[kind]]:
                raise At((*here, "train"), f"kind: {kind} has no part '{foreign[0]}'; its parts are {', '.join(PARTS[kind])}")
            if self.precision in ("int8", "nf4") and (whole := {"language", "language.ends"} & set(stage.train)):
                why = f"precision: {self.precision} keeps the language model's matrices in few bits, which cannot be trained"
                raise At((*here, "train"), f"{min(whole)}: {why}; train language.lora, or say precision: auto")
            if (kind == "clip") != (stage.objective == "contrastive"):
                need = "contrastive" if kind == "clip" else "language or preference"
                raise At((*here, "objective"), f"kind: {kind} is trained with objective: {need}, not {stage.objective}")
        return self

    def stage(self, name: str) -> Stage:
        """The stage of that name. BodaError lists the names there are."""
        stages = {stage.name: stage for stage in self.stages}
        if name not in stages:
            raise BodaError(no_stage(name, list(stages)))
        return stages[name]

    def to_yaml(self) -> str:
        """The recipe with every knob said, so that it loads as the same recipe whatever the defaults become."""
        from boda.recipe.text import write_yaml

        return write_yaml(self.model_dump(exclude={"base"}))

    def describe(self) -> str:
        """A few lines for people: the parts, then a line a stage."""
        spec = self.model
        towers = [{"recipe": it} if isinstance(it, str) else it for it in (spec.vision, spec.language) if it is not None]
        names = [tower.get("recipe") or f"{tower['model_type']} from the seed" for tower in towers]
        lines = [f"{spec.kind}: {(f' -> {spec.connector} -> ' if spec.connector else ' + ').join(names)}"]
        for stage in self.stages:
            amount = f"{stage.epochs:g} epoch{'s' * (stage.epochs != 1)}" if stage.epochs else f"{stage.max_steps} steps"
            lora = f" (rank {stage.lora.rank}, alpha {stage.lora.alpha:g})" if stage.lora else ""
            lines.append(
                f"{stage.name}: {stage.objective}, trains {', '.join(stage.train)}{lora} on {len(stage.data)} "
                f"source{'s' * (len(stage.data) != 1)}, {amount} of {stage.batch_size} samples a step, learning rate "
                f"{stage.learning_rate:g} {stage.schedule}, at most {stage.max_length} tokens a sample"
            )
        return "\n".join(lines)


def reads_input(template: str | None) -> bool:
    """Whether a chat template writes a message's input apart from its instruction: it reads `message.input`."""
    return bool(template) and re.search(r"\bmessage(\.input\b|\[['\"]input['\"]\])", str(template)) is not None


def template_names() -> list[str]:
    """The chat templates Boda ships."""
    return sorted(path.stem for path in TEMPLATES.glob("*.jinja"))


def check_template(name: str | None) -> None:
    """Refuses a chat template that is neither a shipped name nor the path of a .jinja file."""
    if name is not None and not name.endswith(".jinja") and name not in template_names():
        near = nearest(name, template_names())
        raise At("chat_template", f"no chat template is called '{name}'; {near}; or give the path of a .jinja file")


def template_text(name: str, directory: Path | None = None) -> str:
    """The Jinja text of a shipped template, or of a .jinja file looked up in `directory`, then in the working folder."""
    if name in template_names():
        return (TEMPLATES / f"{name}.jinja").read_text(encoding="utf-8")
    if not name.endswith(".jinja"):
        raise BodaError(f"no chat template is called '{name}'; {nearest(name, template_names())}")
    places = [folder / name for folder in (directory, Path.cwd()) if folder is not None]
    if not (found := next((place for place in places if place.is_file()), None)):
        raise BodaError(f"no chat template at {' or '.join(map(str, places))}")
    return found.read_text(encoding="utf-8")
