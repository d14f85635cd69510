"""Recipes: what they may say, what is refused and how it is said, bases, inheritance, overrides, and the shipped ones."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from boda.errors import BodaError
from boda.recipe import (
    ALL_PARTS,
    Recipe,
    Stage,
    knobs,
    load_recipe,
    recipe_difference,
    recipe_names,
)
from boda.recipe.reference import BLOCKS, MARKS, update_reference

DOCS = Path(__file__).parents[2] / "docs" / "recipes.md"

PLAIN = """\
seed: 3
model:
  vision: clip
  connector: ldpv2
  language: hyperclova
stages:
  - name: align
    train: [connector]
    data:
      - {source: llava, path: a.json, images: pictures}
      - path: b.csv
    batch_size: 16
    learning_rate: 1e-3
    learning_rates: {connector: 2e-3}
    max_steps: 40
  - name: instruct
    train: [connector, language.lora]
    lora: {rank: 64, alpha: 16}
    learning_rate: 2e-5
"""


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Writes a recipe into the working folder and gives its name."""
    monkeypatch.chdir(tmp_path)

    def one(text: str = PLAIN, name: str = "mine.yaml") -> str:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return name

    return one


def refused(source, overrides=()) -> str:
    with pytest.raises(BodaError) as caught:
        load_recipe(source, overrides)
    return str(caught.value)


def tree(**changes) -> dict:
    """A small valid recipe as a dict."""
    stage = {"name": "s", "train": ["connector"], "data": [{"path": "a.json"}], "batch_size": 2, "learning_rate": 0.1}
    return {"model": {"vision": "v", "language": "l"}, "stages": [stage | changes.pop("stage", {})], **changes}


# ---------------------------------------------------------------- the list of knobs


def test_knobs_are_these_and_no_more():
    """A new knob is a decision: it is added here on purpose, and there are never more than 60."""
    assert knobs() == sorted(
        "base seed precision max_bad_rows "
        "kind vision vision_layer image_size connector language tokenizer vocab_size initialise chat_template "
        "projection_dim logit_scale contrast "
        "name objective train epochs max_steps batch_size learning_rate learning_rates optimizer schedule warmup_ratio weight_decay "
        "max_length row_length packing beta save_steps eval_steps validation max_grad_norm gradient_checkpointing "
        "image_fit "
        "rank alpha dropout targets "
        "source path images weight columns where question answer limit licence "
        "system stop temperature top_p repetition_penalty beams max_new_tokens".split()
    )
    assert len(knobs()) <= 60


@pytest.mark.parametrize("block", BLOCKS.values(), ids=lambda block: block.__name__)
def test_every_knob_says_what_it_means(block):
    for name, field in block.model_fields.items():
        assert field.description and len(field.description) >= 10, f"{block.__name__}.{name} has no docstring under it"


def test_the_reference_is_current():
    page = DOCS.read_text(encoding="utf-8")
    assert update_reference(page) == page, "run: python -m boda.recipe docs/recipes.md"
    assert page.count(MARKS[0]) == page.count(MARKS[1]) == 1
    for name in knobs():
        assert f"| `{name}` |" in page


def test_what_the_page_shows_loads(write):
    recipe, child = re.findall(r"```yaml\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)
    assert load_recipe(write(recipe)).stage("instruct").batch_size == 256
    assert load_recipe(write(child)).stage("instruct").lora.model_dump() == {
        "rank": 16,
        "alpha": 16,
        "dropout": 0.05,
        "targets": None,
    }


def test_starting_is_fast():
    """`import boda.recipe` takes less than 0.25 s of processor time and reads no YAML library yet."""
    code = (
        "import time; start = time.process_time(); import boda.recipe; print(time.process_time() - start); "
        "import sys; assert not {'torch', 'transformers', 'yaml', 'numpy'} & set(sys.modules)"
    )
    times = []
    for _ in range(6):
        times.append(float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout))
        if times[-1] < 0.25:
            return
    raise AssertionError(f"seconds: {times}")


# ---------------------------------------------------------------- reading


def test_a_recipe_is_read(write):
    recipe = load_recipe(write())
    align, instruct = recipe.stages
    assert (recipe.seed, recipe.model.connector, recipe.precision) == (3, "ldpv2", "auto")
    assert (align.learning_rate, align.max_steps, align.epochs) == (1e-3, 40, None)
    assert [data.path for data in align.data] == ["a.json", "b.csv"] and align.data[0].images == "pictures"
    assert recipe.directory == Path() and recipe.stage("instruct") is instruct
    assert load_recipe(Path("mine.yaml").resolve()).directory == Path.cwd()


def test_a_dict_is_a_recipe_too():
    recipe = load_recipe(tree(stage={"data": [{"path": Path("x") / "a.json"}]}))
    assert recipe.directory is None and recipe.stages[0].data[0].path == "x/a.json"
    assert recipe.stages[0].epochs == 1 and recipe.model.connector == "mlp2x_gelu"


def test_a_loaded_recipe_takes_overrides(write):
    recipe = load_recipe(write())
    changed = load_recipe(recipe, {"seed": 9})
    assert (recipe.seed, changed.seed, changed.directory) == (3, 9, recipe.directory)


def test_a_recipe_does_not_change():
    with pytest.raises(ValueError, match="frozen"):
        load_recipe(tree()).seed = 4


@pytest.mark.parametrize(
    "written, value",
    [
        ("1e-3", 1e-3),
        ("1E3", 1000.0),
        (".5", 0.5),
        ("1.", 1.0),
        ("-2", -2),
        ("010", 10),
        ("0o17", 15),
        ("0x1F", 31),
        ("no", "no"),
        ("on", "on"),
        ("12:30:45", "12:30:45"),
        ("2024-01-01", "2024-01-01"),
        ("1_000", "1_000"),
        ("true", True),
        ("~", None),
        ("", None),
        ("'1'", "1"),
        ("1e", "1e"),
        ("<<", "<<"),
        ("=", "="),
    ],
)
def test_scalars_are_those_of_yaml_1_2(written, value):
    recipe = load_recipe(tree(), [f"model.language={{model_type: x, got: {written}}}"])
    got = recipe.model.language["got"]
    assert got == value and type(got) is type(value)


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_every_float_survives(number):
    for text in (repr(number), f"{number:.16e}"):
        recipe = load_recipe(tree(), [f"model.language={{model_type: x, got: {text}}}"])
        assert recipe.model.language["got"] == number and isinstance(recipe.model.language["got"], float)


def test_variables(write, monkeypatch):
    monkeypatch.setenv("BODA_TEST_DATA", "/big")
    monkeypatch.setenv("BODA_TEST_BATCH", "8")
    monkeypatch.delenv("BODA_TEST_NONE", raising=False)
    text = PLAIN.replace("b.csv", "${BODA_TEST_DATA}/${BODA_TEST_NONE:-x/y}.csv").replace("16\n", "${BODA_TEST_BATCH:-4}\n", 1)
    align = load_recipe(write(text)).stage("align")
    assert (align.data[1].path, align.batch_size) == ("/big/x/y.csv", 8)
    assert load_recipe(tree(generation={"system": "$${HOME} ${BODA_TEST_NONE:-}"})).generation.system == "${HOME} "
    line = PLAIN.splitlines().index("      - path: b.csv") + 1
    assert f"line {line}: the environment variable BODA_TEST_NONE is not set" in refused(
        write(PLAIN.replace("b.csv", "${BODA_TEST_NONE}"))
    )
    assert "is not ${NAME} or ${NAME:-default}" in refused(write(PLAIN.replace("b.csv", "${1}")))
    assert "is not ${NAME}" in refused(write(PLAIN.replace("b.csv", '"${open"')))
    assert "needs quotes inside { }" in refused(write(PLAIN.replace("path: a.json", "path: ${BODA_TEST_DATA}/a.json")))


# ---------------------------------------------------------------- what a stage inherits


def test_a_stage_inherits_what_it_does_not_say(write):
    align, instruct = load_recipe(write()).stages
    assert instruct.batch_size == 16 and instruct.max_steps == 40 and instruct.data == align.data
    assert instruct.learning_rate == 2e-5 and instruct.lora.rank == 64
    assert instruct.learning_rates == {"connector": 2e-3}, "connector is trained here too"


def test_epochs_and_max_steps_take_each_others_place(write):
    align, instruct = load_recipe(write(PLAIN + "    epochs: 2\n")).stages
    assert (align.epochs, align.max_steps, instruct.epochs, instruct.max_steps) == (None, 40, 2.0, None)


def test_what_belongs_to_a_part_goes_no_further_than_the_part(write):
    third = "  - name: third\n    train: [vision]\n"
    stage = load_recipe(write(PLAIN + third)).stage("third")
    assert stage.lora is None and stage.learning_rates == {} and stage.batch_size == 16
    fourth = "  - name: fourth\n    train: [language]\n    lora: {rank: 1, alpha: 1}\n"
    assert "does not train language.lora" in refused(write(PLAIN + third + fourth))


def test_an_inherited_mistake_is_said_once_where_it_was_made(write):
    message = refused(write(PLAIN.replace("batch_size: 16", "batch_size: many").replace("max_steps", "max_step")))
    assert message.splitlines()[0] == "2 mistakes in mine.yaml:" and len(message.splitlines()) == 3
    assert "mine.yaml, line 12: stages.align.batch_size: must be a whole number, not 'many'" in message
    assert "mine.yaml, line 15: stages.align.max_step: unknown key; did you mean 'max_steps'?" in message


# ---------------------------------------------------------------- what is refused

BAD = [  # a place in PLAIN, what stands there instead, and what the message must say
    ("learning_rate: 1e-3", "learning_rat: 1e-3", ["line 13: stages.align.learning_rat: unknown key", "'learning_rate'"]),
    ("seed: 3", "sed: 3", ["line 1: sed: unknown key", "'seed'"]),
    ("seed: 3", "connector: linear", ["line 1: connector: is not set here but as model.connector"]),
    ("seed: 3", "warmup_ratio: 0.1", ["is not set here but as stages.align.warmup_ratio or stages.instruct.warmup_ratio"]),
    ("seed: 3", "zzzzzz: 1", ["unknown key; there are base, seed, precision"]),
    ("connector: ldpv2", "conector: ldpv2", ["line 4: model.conector: unknown key", "'connector'"]),
    ("rank: 64", "rnk: 64", ["line 18: stages.instruct.lora.rnk: unknown key", "stages.instruct.lora.rank: is missing"]),
    ("source: llava", "sorce: llava", ["line 10: stages.align.data.0.sorce", "did you mean 'source'?"]),
    ("seed: 3", "seed: 1.5", ["line 1: seed: must be a whole number, not 1.5"]),
    ("seed: 3", "seed: true", ["seed: must be a whole number, not true"]),
    ("seed: 3", "seed: '3'", ["seed: must be a whole number, not '3'"]),
    ("seed: 3", "seed: -1", ["seed: must be greater than or equal to 0, not -1"]),
    ("seed: 3", "seed:", ["seed: must be a whole number, not nothing"]),
    ("seed: 3", "max_bad_rows: .inf", ["max_bad_rows: must be a finite number"]),
    ("batch_size: 16", "batch_size: 0", ["line 12: stages.align.batch_size: must be greater than or equal to 1, not 0"]),
    ("batch_size: 16", "packing: 1", ["stages.align.packing: must be true or false or 'separate', not 1"]),
    ("train: [connector]", "train: connector", ["line 8: stages.align.train: must be a list, not 'connector'"]),
    ("train: [connector]", "train: []", ["stages.align.train: must not be empty"]),
    ("vision: clip", "vision: 5", ["line 3: model.vision: must be a text or a mapping, not 5; put it in quotes"]),
    ("path: b.csv", "path: 2024", ["stages.align.data.1.path: must be a text, not 2024; put it in quotes"]),
    ("ldpv2", "ldp", ["line 4: model.connector: 'ldp' is not known; did you mean 'ldpv2'?"]),
    ("ldpv2", "resampler", ["'resampler' is not known; there are linear, mlp2x_gelu, ldpv2"]),
    ("ldpv2", "no", ["'no' is not known"]),
    ("seed: 3", "precision: half", ["'half' is not known; there are auto, fp32, bf16, fp16"]),
    ("source: llava", "source: lava", ["stages.align.data.0.source: 'lava' is not known; did you mean 'llava'?"]),
    (
        "max_steps: 40",
        "max_steps: 40\n    epochs: 1",
        ["line 15: stages.align.max_steps: epochs: 1 and max_steps: 40 contradict"],
    ),
    ("max_steps: 40", "warmup_ratio: 1.5", ["stages.align.warmup_ratio: must be less than or equal to 1, not 1.5"]),
    ("max_steps: 40", "warmup_ratio: -0.1", ["stages.align.warmup_ratio: must be greater than or equal to 0, not -0.1"]),
    ("max_steps: 40", "validation: 1.0", ["line 15: stages.align.validation: must be less than 1, not 1.0"]),
    ("max_steps: 40", "validation: 0", ["stages.align.validation: must be greater than 0, not 0"]),
    ("max_steps: 40", "validation: some", ["stages.align.validation: must be a number or a list, not 'some'"]),
    ("max_steps: 40", "validation: [{pth: x}]", ["stages.align.validation.0.pth: unknown key; did you mean 'path'?"]),
    ("max_steps: 40", "row_length: 1024", ["stages.align.row_length: 1024 is less than max_length: 2048"]),
    ("max_steps: 40", "schedule: cos", ["'cos' is not known; did you mean 'cosine'?"]),
    ("max_steps: 40", "objective: contrastive", ["stages.align.objective: kind: vlm is trained with objective: language"]),
    ("max_steps: 40", "chat_template: plan", ["stages.align.chat_template: no chat template is called 'plan'", "'plain'"]),
    ("max_steps: 40", "lora: {rank: 1, alpha: 1}", ["line 15: stages.align.lora: the stage does not train language.lora"]),
    ("    lora: {rank: 64, alpha: 16}\n", "", ["stages.instruct.train: language.lora needs a lora block"]),
    (
        "train: [connector]",
        "train: [conector]",
        ["stages.align.train: no part is called 'conector'; did you mean 'connector'?"],
    ),
    ("train: [connector]", "train: [xx]", ["there are vision, connector, language, language.lora, language.embeddings"]),
    ("train: [connector]", "train: [connector, connector]", ["a part is named twice"]),
    ("train: [connector]", "train: [connector, resampler]", ["stages.align.train: kind: vlm has no part 'resampler'"]),
    ("train: [connector]", "train: [vision]", ["line 14: stages.align.learning_rates: connector has a learning rate"]),
    ("learning_rates: {connector", "learning_rates: {conector", ["stages.align.learning_rates: no part is called 'conector'"]),
    ("connector: 2e-3", "connector: 0", ["line 14: stages.align.learning_rates.connector: must be greater than 0, not 0"]),
    ("[connector, language.lora]", "[language, language.lora]", ["language trains all its weights, language.lora an adapter"]),
    ("  vision: clip\n", "", ["line 2: model.vision: kind: vlm needs a vision tower"]),
    ("  vision: clip\n", "  kind: language\n", ["model.connector: kind: language takes no connector"]),
    ("ldpv2\n", "ldpv2\n  kind: language\n", ["model.vision: kind: language takes no vision"]),
    ("ldpv2\n", "{depth: 2}\n", ["model.connector: of kind: vlm it is a name, e.g. mlp2x_gelu"]),
    (
        "ldpv2\n",
        "{depht: 2}\n  kind: flamingo\n",
        ["model.connector.depht: a flamingo has no such setting; did you mean 'depth'"],
    ),
    ("ldpv2\n", "{depth: 0}\n  kind: flamingo\n", ["model.connector.depth: a number from 1 on is needed, and this is 0"]),
    ("ldpv2\n", "{places: 1}\n  kind: flamingo\n", ["model.connector.places: true or false is needed"]),
    ("train: [connector]", "train: [language, language.tokens]", ["language trains every row of the table"]),
    ("ldpv2\n", "ldpv2\n  kind: flamingo\n", ["model.connector: of kind: flamingo it is a mapping, e.g. {num_latents: 64}"]),
    ("vision: clip", "vision: {hidden_size: 8}", ["model.vision: given as a mapping it is a transformers config"]),
    ("  language: hyperclova\n", "", ["line 2: model.language: is missing (The language model"]),
    ("- name: align", "- name: instruct", ["two stages are called 'instruct'"]),
    ("- name: align", "- name: a.b", ["stages.a.b.name: 'a.b' may hold only letters, digits, - and _"]),
    ("- name: align", "- nme: align", ["line 7: stages.0.name: is missing", "stages.0.nme: unknown key; did you mean 'name'?"]),
    ("seed: 3", "seed: 3\ngeneration: {top_p: 0}", ["generation.top_p: must be greater than 0, not 0"]),
    ("seed: 3", "seed: 3\ngeneration: {stop: x}", ["generation.stop: must be a list, not 'x'"]),
    ("seed: 3", "seed: 3\ngeneration: [1]", ["line 2: generation: must be a mapping, not a list"]),
    ("seed: 3", "base: 5", ["line 1: base must be a recipe's name or path, not 5"]),
    # YAML itself
    ("seed: 3", "seed: [3", ["mine.yaml, line 2, column", "not valid YAML"]),
    ("  vision: clip", "\tvision: clip", ["mine.yaml, line 3, column 1: not valid YAML", "indent with spaces"]),
    ("seed: 3", "seed: 3\nseed: 4", ["mine.yaml, line 2: seed is said twice"]),
    ("batch_size: 16", "batch_size: 16\n    batch_size: 8", ["line 13: stages.0.batch_size is said twice"]),
    ("seed: 3", "seed: !!python/name:os.system", ["recipes use no tags"]),
    ("seed: 3", "seed: &a [*a]", ["an alias refers to the block it stands in"]),
    ("seed: 3", "? [a]\n: 1", ["a key must be a word"]),
    ("seed: 3", "seed: \x01", ["mine.yaml: not valid YAML"]),
]


@pytest.mark.parametrize(
    "there, instead, expected", BAD, ids=[f"{index}-{bad[1][:24].strip()}" for index, bad in enumerate(BAD)]
)
def test_mistakes_are_named(write, there, instead, expected):
    assert PLAIN.count(there) >= 1
    message = refused(write(PLAIN.replace(there, instead, 1)))
    for part in expected:
        assert part in message
    assert "pydantic" not in message and "Traceback" not in message


@pytest.mark.parametrize(
    "content, expected",
    [
        (b"", "mine.yaml is empty"),
        (b"# nothing\n", "mine.yaml is empty"),
        (b"- a\n", "mine.yaml holds a list"),
        (b"just words\n", "mine.yaml holds 'just words'"),
        (b"a: 1\n---\nb: 2\n", "another document"),
        ("model: 한국어".encode("cp949"), "mine.yaml is not UTF-8 text"),
        (b"model: x\nstages: [1, {name: a}]\n", "stages.0: must be a mapping, not 1"),
        (b"model: x\nstages: {a: 1}\n", "line 2: stages: must be a list, not a mapping"),
    ],
)
def test_what_is_no_recipe(write, content, expected):
    Path(write()).write_bytes(content)
    assert expected in refused("mine.yaml")


def test_a_byte_order_mark_is_no_mistake(write):
    assert load_recipe(write("\ufeff" + PLAIN)).seed == 3


def test_recipes_that_are_not_there(write):
    write()
    assert "no recipe is called 'small-korean'; did you mean 'small-korean-vlm'?" in refused("small-korean")
    assert f"no recipe is called 'qqq'; there are {', '.join(recipe_names())};" in refused("qqq")
    assert "no recipe file at other.yaml" in refused("other.yaml")
    assert "Boda ships 'small-korean-vlm', written without .yaml" in refused("small-korean-vlm.yaml")
    Path("run").mkdir()
    assert "run is a folder, not a recipe file" in refused("run")
    Path("run/recipe.yaml").write_text(PLAIN)
    assert "its recipe is run/recipe.yaml" in refused("run")


def test_clip_and_language_recipes():
    clip = {"train": ["vision", "text", "logit_scale"], "objective": "contrastive"}
    assert load_recipe(tree(model={"kind": "clip", "vision": "v", "language": "l"}, stage=clip)).model.connector is None
    assert "objective: contrastive, not language" in refused(
        tree(model={"kind": "clip", "vision": "v", "language": "l"}, stage={"train": ["text"]})
    )
    assert load_recipe(tree(model={"kind": "language", "language": "l"}, stage={"train": ["language"]})).model.vision is None
    assert set(ALL_PARTS) == {
        *("vision", "connector", "language", "language.lora", "language.embeddings", "language.ends"),
        *("text", "text.lora", "vision.lora", "resampler", "cross_attention", "language.tokens", "logit_scale"),
    }


def test_what_belongs_to_a_clip_alone():
    clip = {"kind": "clip", "vision": "v", "language": "l", "projection_dim": 64, "logit_scale": 1.0}
    stage = {"train": ["vision.lora", "text.lora"], "objective": "contrastive", "lora": {"rank": 2, "alpha": 4}}
    assert load_recipe(tree(model=clip, stage=stage)).model.contrast == "softmax"
    assert load_recipe(tree(model=clip | {"contrast": "sigmoid"}, stage=stage)).model.contrast == "sigmoid"
    assert "text.lora an adapter instead" in refused(tree(model=clip, stage=stage | {"train": ["text", "text.lora"]}))
    assert "text.lora needs a lora block" in refused(tree(model=clip, stage=stage | {"train": ["text.lora"], "lora": None}))
    assert "only kind: clip has it" in refused(tree(model={"kind": "language", "language": "l", "projection_dim": 64}))


# ---------------------------------------------------------------- base


def test_a_base_is_merged_at_every_depth(write):
    write()
    child = """\
base: mine.yaml
seed: 4
model: {connector: linear}
stages:
  - name: instruct
    lora: {rank: 8}
    train: [language.lora]
    epochs: 2
    learning_rates: {language.lora: 1e-4}
  - name: extra
    batch_size: 1
"""
    recipe = load_recipe(write(child, "child.yaml"))
    assert (recipe.seed, recipe.model.connector, recipe.model.language, recipe.base) == (4, "linear", "hyperclova", None)
    assert [stage.name for stage in recipe.stages] == ["align", "instruct", "extra"]
    instruct, extra = recipe.stages[1:]
    assert (instruct.lora.rank, instruct.lora.alpha, instruct.train) == (8, 16, ["language.lora"])
    assert (instruct.epochs, instruct.max_steps, recipe.stages[0].max_steps) == (2, None, 40)
    assert (extra.batch_size, extra.lora, extra.learning_rate) == (1, instruct.lora, 2e-5)


def test_bases_of_bases_and_relative_paths(write):
    write(PLAIN, "below/first.yaml")
    write("base: first.yaml\nseed: 5\n", "below/second.yaml")
    recipe = load_recipe(write("base: below/second.yaml\nmax_bad_rows: 0.5\n"))
    assert (recipe.seed, recipe.max_bad_rows, recipe.directory) == (5, 0.5, Path())


def test_a_mistake_in_the_base_is_shown_there(write):
    write(PLAIN.replace("seed: 3", "sed: 3"), "below/first.yaml")
    assert refused(write("base: below/first.yaml\nmax_bad_rows: 2\n")).splitlines() == [
        "2 mistakes in mine.yaml:",
        "  mine.yaml, line 2: max_bad_rows: must be less than or equal to 1, not 2",
        "  below/first.yaml, line 1: sed: unknown key; did you mean 'seed'?",
    ]


def test_bases_in_a_circle_or_nowhere(write):
    write("base: b.yaml\n", "a.yaml")
    write("base: a.yaml\n", "b.yaml")
    assert "base goes round in a circle: a.yaml -> b.yaml -> a.yaml" in refused("a.yaml")
    assert "circle: mine.yaml -> mine.yaml" in refused(write("base: mine.yaml\n"))
    assert "mine.yaml, line 1: base: no recipe is called 'smol-korean-vlm'; did you mean 'small-korean-vlm'?" in refused(
        write("base: smol-korean-vlm\n")
    )


def test_a_config_of_another_architecture_replaces_the_bases(write):
    write(PLAIN.replace("vision: clip", "vision: {model_type: clip_vision_model, hidden_size: 8, patch_size: 4}"))
    same = load_recipe(write("base: mine.yaml\nmodel: {vision: {hidden_size: 16}}\n", "same.yaml"))
    assert same.model.vision == {"model_type": "clip_vision_model", "hidden_size": 16, "patch_size": 4}
    other = load_recipe(write("base: mine.yaml\nmodel: {vision: {model_type: vit, hidden_size: 16}}\n", "other.yaml"))
    assert other.model.vision == {"model_type": "vit", "hidden_size": 16}


# ---------------------------------------------------------------- overrides


@pytest.mark.parametrize(
    "override, expected",
    [
        ("seed=1", ["seed: 3 -> 1"]),
        ("model.connector=linear", ["model.connector: ldpv2 -> linear"]),
        ("stages.align.batch_size=8", ["stages.align.batch_size: 16 -> 8"]),
        ("stages.*.batch_size=8", ["stages.align.batch_size: 16 -> 8", "stages.instruct.batch_size: 16 -> 8"]),
        ("stages.align.learning_rate=1e-2", ["stages.align.learning_rate: 0.001 -> 0.01"]),
        ("stages.align.epochs=2", ["stages.align.epochs: (unset) -> 2.0", "stages.align.max_steps: 40 -> (unset)"]),
        ("stages.instruct.lora.rank=8", ["stages.instruct.lora.rank: 64 -> 8"]),
        (
            "stages.instruct.lora={rank: 8, alpha: 8}",
            ["stages.instruct.lora.rank: 64 -> 8", "stages.instruct.lora.alpha: 16.0 -> 8.0"],
        ),
        ("stages.align.data.1.limit=5", ["stages.align.data.b.csv.limit: (unset) -> 5"]),
        ("stages.align.data=[{path: a.json, source: llava, images: pictures}]", ["stages.align.data: b.csv -> (unset)"]),
        (
            "stages.instruct.learning_rates.language.lora=1e-4",
            ["stages.instruct.learning_rates.language.lora: (unset) -> 0.0001"],
        ),
        ("generation.stop=[a, b]", ["generation.stop: [] -> [a, b]"]),
        ('generation.system=""', ['generation.system: (unset) -> ""']),
        ("model.tokenizer={vocab_size: 300}", ["model.tokenizer: (unset) -> {vocab_size: 300}"]),
        ("model.tokenizer.vocab_size=300", ["model.tokenizer: (unset) -> {vocab_size: 300}"]),
        ("model.chat_template=plain", ["model.chat_template: (unset) -> plain"]),
        ("stages.align.data.0.path=x=y", ["stages.align.data: a.json -> (unset)", "stages.align.data: (unset) -> x=y"]),
    ],
)
def test_an_override_changes_what_it_names_and_nothing_else(write, override, expected):
    before = load_recipe(write())
    assert recipe_difference(before, load_recipe("mine.yaml", [override])) == expected


def test_overrides_may_be_a_dict(write):
    given_as_dict = {"seed": 1, "stages.*.batch_size": 8, "stages.align.data.0.path": Path("x"), "stages.align.epochs": 1}
    given_as_text = ["seed=1", "stages.*.batch_size=8", "stages.align.data.0.path=x", "stages.align.epochs=1"]
    assert load_recipe(write(), given_as_dict).model_dump() == load_recipe("mine.yaml", given_as_text).model_dump()
    assert "override 'seed': seed: must be a whole number, not '1'" in refused("mine.yaml", {"seed": "1"})


def test_overrides_are_all_applied_and_the_last_wins(write):
    recipe = load_recipe(write(), ["seed=1", "stages.*.batch_size=8", "stages.align.batch_size=4", "seed=2"])
    assert (recipe.seed, [stage.batch_size for stage in recipe.stages]) == (2, [4, 8])
    assert "contradict" in refused("mine.yaml", ["stages.align.epochs=1", "stages.align.max_steps=1"])
    assert load_recipe("mine.yaml", ["stages.align.epochs=1", "stages.align.max_steps=null"]).stage("align").epochs == 1


@pytest.mark.parametrize(
    "override, expected",
    [
        (
            "batch_size=8",
            "which batch_size? Write stages.align.batch_size or stages.instruct.batch_size or stages.*.batch_size",
        ),
        ("chat_template=plain", "Write model.chat_template or stages.align.chat_template"),
        ("lora.rank=8", "Write stages.align.lora.rank or"),
        ("connector=linear", "Write model.connector"),
        ("temperature=1", "Write generation.temperature"),
        ("align.epochs=1", "write stages.align.epochs"),
        ("stages.aling.epochs=1", "no stage is called 'aling'; stages are align, instruct, and * for all"),
        ("stages.0.epochs=1", "no stage is called '0'"),
        ("stages.align=1", "must name a stage and a knob"),
        ("stages=[]", "must name a stage and a knob"),
        ("stages.align.epohcs=1", "override 'stages.align.epohcs=1': stages.align.epohcs: unknown key; did you mean 'epochs'?"),
        ("model.conector=linear", "override 'model.conector=linear': model.conector: unknown key"),
        ("sed=1", "nothing is called 'sed'; did you mean seed?"),
        ("qqqqqqq=1", "nothing is called 'qqqqqqq'; there are base, seed"),
        ("base=small-korean-vlm", "base cannot be overridden"),
        ("seed", "is not key=value"),
        ("=1", "is not key=value"),
        ("seed=[1", "override 'seed=[1', line 1, column"),
        ("seed=one", "override 'seed=one': seed: must be a whole number, not 'one'"),
        ("seed=", "seed: must be a whole number, not nothing"),
        ("seed.x=1", "seed is 3 and has nothing inside to set"),
        ("model.vision.hidden_size=1", "model.vision is 'clip' and has nothing inside to set"),
        ("stages.align.data.2.limit=1", "stages.align.data has entries 0 to 1, no '2'"),
        ("stages.align.data.0.limit=0", "override 'stages.align.data.0.limit=0': stages.align.data.0.limit: must be greater"),
        ("stages.align.learning_rates.vision=1", "vision has a learning rate and is not in train"),
        ("stages.align.warmup_ratio=2", "must be less than or equal to 1, not 2"),
        ("stages.instruct.lora=null", "language.lora needs a lora block"),
    ],
)
def test_overrides_that_are_refused(write, override, expected):
    assert expected in refused(write(), [override])


NUMBERS = st.one_of(st.integers(-(10**12), 10**12), st.floats(allow_nan=False, allow_infinity=False))
WORDS = st.text(max_size=20)


@given(
    st.recursive(
        st.none() | st.booleans() | NUMBERS | WORDS,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=3),
        max_leaves=6,
    )
)
def test_an_override_reads_the_yaml_a_recipe_writes(value):
    """Any value written by to_yaml and given on the command line is the same value again."""
    config = {"model_type": "x", "value": value}
    written = load_recipe(tree(), {"model.language": config}).to_yaml()
    indented = written[written.index("  language:") + len("  language:") : written.index("  tokenizer:")]
    assert load_recipe(tree(), [f"model.language={indented}"]).model.language == config


@given(
    st.lists(st.sampled_from(["seed", "stages", "*", "s", "data", "0", "epochs", "model", "", "language", "x"]), max_size=5),
    WORDS,
)
def test_no_override_ends_in_anything_but_a_recipe_or_a_clear_refusal(keys, value):
    try:
        recipe = load_recipe(tree(), [f"{'.'.join(keys)}={value}"])
    except BodaError as error:
        assert str(error)
    else:
        assert isinstance(recipe, Recipe)


# ---------------------------------------------------------------- writing and comparing

COUNTS = st.integers(1, 10**9)
RATES = st.floats(min_value=1e-12, max_value=1e6, exclude_min=True)
SHARES = st.floats(0, 1)
PATHS = st.text(min_size=1, max_size=12)
DATA = st.fixed_dictionaries(
    {"path": PATHS},
    optional={
        "source": st.sampled_from(["llava", "csv", "parquet"]),
        "images": PATHS,
        "weight": RATES,
        "columns": st.dictionaries(PATHS, PATHS, max_size=2),
        "where": st.dictionaries(PATHS, PATHS | st.lists(PATHS, min_size=1, max_size=2), max_size=2),
        "question": PATHS | st.lists(PATHS, min_size=1, max_size=2),
        "limit": COUNTS,
        "licence": WORDS,
    },
)
STAGE = st.fixed_dictionaries(
    {
        "data": st.lists(DATA, min_size=1, max_size=3),
        "batch_size": COUNTS,
        "learning_rate": RATES,
        "train": st.sampled_from([["connector"], ["vision", "language"], ["language.embeddings", "connector"]]),
    },
    optional={
        "max_steps": COUNTS,
        "warmup_ratio": SHARES,
        "validation": st.floats(0, 1, exclude_min=True, exclude_max=True) | st.lists(DATA, min_size=1, max_size=2) | st.none(),
        "packing": st.sampled_from([True, False, "separate"]),
        "image_fit": st.sampled_from(["crop", "pad", "stretch"]),
        "chat_template": st.sampled_from(["plain", "made-here.jinja", None]),
    },
)
RECIPE = st.builds(
    lambda stages, **rest: {"stages": [{"name": f"단계{i}", **stage} for i, stage in enumerate(stages)], **rest},
    st.lists(STAGE, min_size=1, max_size=3),
    seed=st.integers(0, 2**63),
    model=st.fixed_dictionaries(
        {"vision": PATHS, "language": PATHS},
        optional={"tokenizer": st.none() | PATHS | st.fixed_dictionaries({"vocab_size": st.integers(260, 10**6)})},
    ),
    generation=st.fixed_dictionaries(
        {}, optional={"system": st.none() | WORDS, "stop": st.lists(WORDS, max_size=2), "top_p": RATES.filter(lambda p: p <= 1)}
    ),
)


def unescaped(value):
    """The dict with `${` written so that it stands for itself."""
    from boda.recipe.text import map_texts

    return map_texts(value, lambda text: text.replace("${", "$${"))


@given(RECIPE)
def test_what_is_written_is_read_again(tmp_path_factory, config):
    recipe = load_recipe(unescaped(config))
    path = tmp_path_factory.getbasetemp() / "round.yaml"
    path.write_text(recipe.to_yaml(), encoding="utf-8")
    again = load_recipe(path)
    assert again.model_dump() == recipe.model_dump()
    assert recipe_difference(recipe, again) == [] and again.to_yaml() == recipe.to_yaml()


@given(RECIPE, RECIPE)
def test_two_recipes_differ_exactly_if_a_line_says_so(first, second):
    a, b = load_recipe(unescaped(first)), load_recipe(unescaped(second))
    assert (recipe_difference(a, b) == []) == (a.model_dump() == b.model_dump())


def test_a_written_recipe_says_everything(write):
    recipe = load_recipe(write())
    written = recipe.to_yaml()
    stages = written[written.index("stages:") : written.index("generation:")]
    for name in Stage.model_fields:
        assert len(re.findall(rf"^[- ] {name}:", stages, re.MULTILINE)) == 2, name
    assert "train: [connector, language.lora]" in written and "rank: 64" in written


def test_stages_that_come_and_go(write):
    one = load_recipe(write())
    two = load_recipe(write(PLAIN + "  - name: third\n"))
    assert recipe_difference(one, two) == ["stages: (unset) -> third"]
    assert recipe_difference(two, one) == ["stages: third -> (unset)"]
    turned = load_recipe({**two.model_dump(exclude={"base"}), "stages": [s.model_dump() for s in two.stages[::-1]]})
    assert recipe_difference(two, turned) == ["stages: [align, instruct, third] -> [third, instruct, align]"]


def test_the_same_file_twice_with_other_questions():
    data = [{"path": "a.csv", "question": "무엇?"}, {"path": "a.csv", "question": "어디?"}]
    changed = [data[0], {"path": "a.csv", "question": "왜?"}]
    lines = recipe_difference(load_recipe(tree(stage={"data": data})), load_recipe(tree(stage={"data": changed})))
    assert lines == ["stages.s.data.a.csv #2.question: 어디? -> 왜?"]


def test_a_description_for_people(write):
    lines = load_recipe(write()).describe().splitlines()
    assert lines[0] == "vlm: clip -> ldpv2 -> hyperclova"
    assert lines[1].startswith(
        "align: language, trains connector on 2 sources, 40 steps of 16 samples a step, learning rate 0.001"
    )
    assert "language.lora (rank 64, alpha 16)" in lines[2] and len(lines) == 3
    made = load_recipe(tree(model={"kind": "language", "language": {"model_type": "llama"}}, stage={"train": ["language"]}))
    assert made.describe().splitlines()[0] == "language: llama from the seed" and "1 epoch of" in made.describe()


def test_an_unknown_stage_is_refused(write):
    with pytest.raises(BodaError, match="no stage is called 'x'; stages are align, instruct"):
        load_recipe(write()).stage("x")
