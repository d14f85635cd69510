"""More pieces in a recipe and on the command line: built once, carried through stages, merged, inspected, reported."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM, AutoTokenizer
from typer.testing import CliRunner

import boda
from boda.cli import app
from boda.errors import BodaError
from boda.models.pieces import Known
from boda.train.build import build
from boda.train.finished import merge
from boda.train.inspect import inspect
from tests import tiny
from tests.support import language_recipe, tiny_recipe, trained_tensors


def grown_recipe(folder: Path, family: str = "gpt_neox", **tokenizer) -> dict:
    """A tiny model whose tokenizer gets 60 more pieces; its tables alone are trained first, then all of it."""
    base = tiny.language_folder(family)
    size = Known(AutoTokenizer.from_pretrained(base)).first
    recipe = language_recipe(folder)
    (folder / "corpus.txt").write_text("\n\n".join(tiny.korean_lines()), encoding="utf-8")
    spec = {"base": "language", "vocab_size": size + 60, "data": [{"path": str(folder / "corpus.txt")}]} | tokenizer
    recipe["model"] = {"kind": "language", "language": str(base), "tokenizer": spec}
    first = recipe["stages"][0] | {"name": "tables", "train": ["language.embeddings"], "max_steps": 3, "save_steps": 2}
    recipe["stages"] = [first, {"name": "all", "train": ["language"], "max_steps": 2, "learning_rate": 1e-3}]
    return recipe


def boda_command(*words: str):
    return CliRunner().invoke(app, list(words))


@pytest.mark.parametrize("family", ["gpt_neox", "llama"])
def test_a_recipe_gives_more_pieces_and_resumes(family, tmp_path):
    recipe = grown_recipe(tmp_path, family, initialise="eeve")
    base = AutoTokenizer.from_pretrained(tiny.language_folder(family))
    boda.train(recipe, tmp_path / "whole", quiet=True)
    model, tokenizer = boda.load(tmp_path / "whole" / "model", dtype=torch.float32)
    first = Known(base).first
    assert len(set(tokenizer.get_vocab()) - set(base.get_vocab())) >= 60
    written = [id for text in tiny.korean_lines() for id in tokenizer(text, add_special_tokens=False).input_ids]
    assert any(id >= first for id in written) and max(written) < model.get_input_embeddings().weight.shape[0]
    told = json.loads((tmp_path / "whole" / "tokenizer" / "expansion.json").read_text(encoding="utf-8"))
    assert told["pieces"] == 60 and told["texts"] > 10

    # Stopped after a stage and gone on with, in the same place: the same weights, bit for bit.
    boda.train(recipe, tmp_path / "parts", stage="tables", quiet=True)
    kept = (tmp_path / "parts" / "tokenizer" / "tokenizer.json").stat().st_mtime_ns
    boda.train(recipe, tmp_path / "parts", quiet=True)
    assert (tmp_path / "parts" / "tokenizer" / "tokenizer.json").stat().st_mtime_ns == kept
    one, two = trained_tensors(tmp_path / "whole"), trained_tensors(tmp_path / "parts")
    assert one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)
    again, _ = merge(tmp_path / "whole", tmp_path / "again")
    assert (again / "model.safetensors").read_bytes() == (tmp_path / "whole/model/model.safetensors").read_bytes()
    # Only the tables were trained by the first stage, and the second began from them.
    assert {name.split("/")[0] for name in one} == {"tables", "all"}
    assert all("embed" in name or "lm_head" in name for name in one if name.startswith("tables/"))


def test_where_the_rows_begin(tmp_path):
    from boda.recipe import load_recipe
    from boda.train.build import get_tokenizer
    from boda.train.preparation import texts_of

    recipe = load_recipe(grown_recipe(tmp_path))
    base = AutoTokenizer.from_pretrained(tiny.language_folder("gpt_neox"))
    tokenizer = get_tokenizer(recipe, tmp_path / "run", texts_of(recipe, None))
    built = build(recipe, tokenizer, tmp_path / "run", [], torch.device("cpu"))
    table = built.model.get_input_embeddings().weight
    old = AutoModelForCausalLM.from_pretrained(tiny.language_folder("gpt_neox")).get_input_embeddings().weight
    id = Known(base).first + 7
    parts = Known(base).part_ids(tokenizer.convert_ids_to_tokens(id))
    torch.testing.assert_close(table[id].float(), old[parts].mean(dim=0))
    assert torch.equal(table[: Known(base).first].float(), old[: Known(base).first])


def test_inspect_counts_the_new_rows(tmp_path):
    recipe = grown_recipe(tmp_path)
    report = inspect(recipe)
    assert report.values["parts"]["language.embeddings"]["trained"] > 0
    boda.train(recipe, tmp_path / "run", quiet=True)
    tokens = [
        json.loads(line)["tokens"] for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines() if "tokens" in line
    ]
    assert tokens


def test_a_vision_language_model_on_the_model_of_another_recipe(tmp_path):
    (tmp_path / "lm.yaml").write_text(yaml.safe_dump(language_recipe(tmp_path), allow_unicode=True), encoding="utf-8")
    seeing = tiny_recipe(tmp_path / "seeing", [{"name": "align", "train": ["connector", "language"], "max_steps": 2}], {"n": 8})
    (tmp_path / "corpus.txt").write_text(
        "\n".join(["보이는 그림에서 동그라미를 찾아보세요", *tiny.korean_lines()] * 3), encoding="utf-8"
    )
    spec = {"base": "language", "vocab_size": 480, "data": [{"path": str(tmp_path / "corpus.txt")}]}
    seeing["model"] |= {"language": {"recipe": "lm.yaml"}, "tokenizer": spec}
    (tmp_path / "vlm.yaml").write_text(yaml.safe_dump(seeing, allow_unicode=True), encoding="utf-8")
    shown = inspect(tmp_path / "vlm.yaml")
    assert shown.values["parts"]["language.embeddings"]["parameters"] >= 480 * 32
    folder = boda.train(tmp_path / "vlm.yaml", tmp_path / "run", quiet=True)
    model, processor = boda.load(folder, dtype=torch.float32)
    made = AutoTokenizer.from_pretrained(tmp_path / "run" / "parts" / "lm" / "model")
    assert len(made) == 400 and len(processor.tokenizer) == 480
    assert model.get_input_embeddings().weight.shape[0] >= 480
    assert processor.tokenizer.convert_tokens_to_ids("<image>") == made.convert_tokens_to_ids("<image>")


ERRORS = {
    "too small": ({"vocab_size": 300}, "model.tokenizer.vocab_size: 300 is no more than the 515 ids"),
    "not UTF-8": ({"data": [{"path": "wrong.txt"}]}, "wrong.txt is in CP949"),
    "one bad byte": ({"data": [{"path": "torn.txt"}]}, "rows cannot be used"),
    "nothing to learn": ({"data": [{"path": "short.txt"}]}, "nothing to learn"),
    "no such base": ({"base": "./nowhere"}, "model.tokenizer.base: './nowhere' cannot be loaded"),
}


@pytest.mark.parametrize("change,words", ERRORS.values(), ids=ERRORS)
def test_what_is_refused_leaves_nothing_half_written(change, words, tmp_path):
    (tmp_path / "wrong.txt").write_bytes("감독의 영화를 보았다. ".encode("cp949") * 50)
    (tmp_path / "torn.txt").write_bytes(b"\n".join(["감독의 영화".encode(), "깨진 글 ".encode() + b"\xff\xfe"] * 20))
    (tmp_path / "short.txt").write_text("가", encoding="utf-8")
    recipe = grown_recipe(tmp_path, **change)
    with pytest.raises(BodaError, match=words):
        boda.train(recipe, tmp_path / "run", data_dir=tmp_path, quiet=True)
    assert not list((tmp_path / "run").glob("**/tokenizer*"))
    if "data" in change:
        refused = boda_command(
            "vocab", "extend", str(tiny.language_folder("llama")), "--text", str(tmp_path / change["data"][0]["path"]),
            "--add", "50", "--out", str(tmp_path / "out"),
        )  # fmt: skip
        assert refused.exit_code == 1 and words in refused.output and "Traceback" not in refused.output
        assert not [path for path in tmp_path.iterdir() if "out" in path.name]


def test_a_clip_takes_none(tmp_path):
    from tests.pair_recipes import pair_recipe

    recipe = pair_recipe(tmp_path, [{"name": "pairs", "train": ["text"], "max_steps": 1}])
    recipe["model"]["tokenizer"] = {"base": "language", "vocab_size": 3000}
    with pytest.raises(BodaError, match="a clip does not"):
        boda.train(recipe, tmp_path / "run", quiet=True)


# --- the command line


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("corpus") / "corpus.tsv"
    path.write_text(
        "number\treview\n" + "".join(f"{n}\t{line}\n" for n, line in enumerate(tiny.korean_lines() * 3)), encoding="utf-8"
    )
    return path


def test_extend_a_model_and_report(corpus, tmp_path):
    base, out = tiny.language_folder("llama3"), tmp_path / "grown"
    held = tmp_path / "held.txt"
    held.write_text("\n\n".join(tiny.korean_lines()[:40]), encoding="utf-8")
    done = boda_command(
        "--json", "vocab", "extend", str(base), "--text", str(corpus), "--columns", "text=review", "--add", "50",
        "--init", "eeve", "--held-out", str(held), "--out", str(out),
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["pieces"] == 50 and told["size"] == 570 and told["initialise"] == "eeve"
    assert told["parameters_added"] == 2 * 50 * 48 and 0 < told["share_of_new"] < 1
    assert told["held_out"]["fewer_tokens"] > 0.05 and len(told["held_out"]["examples"]) == 3
    model, tokenizer = AutoModelForCausalLM.from_pretrained(out), AutoTokenizer.from_pretrained(out)
    assert model.config.vocab_size == 570 == len(tokenizer)
    assert model.generation_config.eos_token_id == [516, 519]
    assert json.loads((out / "boda.json").read_text(encoding="utf-8"))["vocabulary"]["pieces"] == 50
    assert boda_command("--json", "chat", str(out), "네?", "max_new_tokens=4").exit_code == 0

    report = boda_command("--json", "vocab", "report", str(base), str(out), "--text", str(held))
    assert report.exit_code == 0, report.output
    found = json.loads(report.stdout.splitlines()[-1])
    assert found["new_pieces"] == 50 and found["new_parameters"] == 2 * 50 * 48
    one, two = found["before"], found["after"]
    assert one["characters"] == two["characters"] and two["tokens"] < one["tokens"] and 0 < two["covered_by_new"] < 1
    tokens = sum(len(ids) for ids in tokenizer(tiny.korean_lines()[:40], add_special_tokens=False).input_ids)
    assert two["tokens"] == tokens and found["context_gained"] == pytest.approx(one["tokens"] / tokens - 1)
    assert two["tokens_per_character"] == pytest.approx(tokens / sum(map(len, tiny.korean_lines()[:40])))
    shown = boda_command("vocab", "report", str(base), str(out), "--text", str(held))
    assert "fewer tokens" in shown.output and "new parameters" in shown.output
    alone = boda_command("vocab", "report", str(base), "--text", str(held))
    assert alone.exit_code == 0 and "tokens per word" in alone.output


def test_extend_a_tokenizer_alone_with_another_ones_pieces(tmp_path):
    base = AutoTokenizer.from_pretrained(tiny.language_folder("qwen3"))
    base.save_pretrained(tmp_path / "base")
    done = boda_command(
        "--json",
        "vocab",
        "extend",
        str(tmp_path / "base"),
        "--from",
        str(tiny.text_folder("roberta")),
        "--out",
        str(tmp_path / "out"),
    )
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout.splitlines()[-1])
    new = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert told["pieces"] == len(new) - len(base) > told["helpers"] > 0 and told["existing"] > 0
    assert not (tmp_path / "out" / "model.safetensors").exists()
    assert new.apply_chat_template([{"role": "user", "content": "네?"}], tokenize=False) == base.apply_chat_template(
        [{"role": "user", "content": "네?"}], tokenize=False
    )
    again = boda_command(
        "vocab", "extend", str(tmp_path / "out"), "--from", str(tiny.text_folder("roberta")), "--out", str(tmp_path / "more")
    )
    assert again.exit_code == 1 and "no piece is left to add" in again.output and not (tmp_path / "more").exists()


def test_extend_a_vision_language_model(corpus, tmp_path):
    recipe = tiny_recipe(tmp_path / "seeing", [{"name": "align", "train": ["connector"], "max_steps": 1}], {"n": 8})
    folder = boda.train(recipe, tmp_path / "run", quiet=True)
    done = boda_command(
        "vocab",
        "extend",
        str(folder),
        "--text",
        str(corpus),
        "--columns",
        "text=review",
        "--add",
        "200",
        "--out",
        str(tmp_path / "out"),
    )
    assert done.exit_code == 0, done.output
    (one, old), (two, new) = (boda.load(path, dtype=torch.float32) for path in (folder, tmp_path / "out"))
    assert type(one) is type(two) and len(new.tokenizer) == len(old.tokenizer) + 200
    messages = [
        {"role": "user", "content": [{"type": "image", "image": tiny.random_picture(1)}, {"type": "text", "text": "What?"}]}
    ]
    inputs = old.apply_chat_template(messages, tokenize=True, return_dict=True, return_tensors="pt")
    logits = [model(**inputs).logits[..., : len(old.tokenizer)] for model in (one, two)]
    torch.testing.assert_close(logits[0], logits[1], atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    "words,said",
    [
        (("--out", "x"), "either learnt"),
        (("--text", "a", "--from", "b", "--out", "x"), "either learnt"),
        (("--text", "a", "--out", "x"), "--size N in all or --add N more"),
        (("--from", "b", "--size", "9", "--out", "x"), "takes all that are missing"),
        (("--text", "a", "--add", "9", "--init", "best", "--out", "x"), "mean, eeve or random"),
    ],
)
def test_wrong_use(words, said):
    refused = boda_command("vocab", "extend", "model", *words)
    assert refused.exit_code == 2 and said in " ".join(refused.output.replace("│", " ").split())
