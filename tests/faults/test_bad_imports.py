"""Checkpoints that cannot be imported: one clear message each, exit code 1, nothing written."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.faults.test_bad_models import refused
from tests.llava_layouts import Llava, llava_config, write_adapter, write_json, write_projector, write_transformers, write_whole

NOWHERE = "/nowhere/clip"


def change(folder: Path, **values) -> Path:
    """The folder with some values of its config.json changed, or left out where they are None."""
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8")) | values
    write_json(path, {key: value for key, value in config.items() if value is not None})
    return folder


def tensors(folder: Path, add: dict | None = None, drop: tuple[str, ...] = ()) -> Path:
    """The folder with tensors added to its only file, and those whose keys end so left out."""
    path = next(path for path in (folder / "pytorch_model.bin", folder / "model.safetensors") if path.is_file())
    weights = load_file(path) if path.suffix == ".safetensors" else torch.load(path)
    weights = {key: value for key, value in (weights | (add or {})).items() if not key.endswith(drop or "\0")}
    save_file(weights, path) if path.suffix == ".safetensors" else torch.save(weights, path)
    return folder


def without(folder: Path, name: str) -> Path:
    (folder / name).unlink()
    return folder


def wide_projector(folder: Path) -> Path:
    llava = Llava("linear")
    llava.connector["first.weight"] = torch.zeros(48, 64)
    return write_whole(llava, folder)


def tall_projector(folder: Path) -> Path:
    llava = Llava()
    llava.connector |= {"first.weight": torch.zeros(40, 32), "second.weight": torch.zeros(48, 40)}
    return write_whole(llava, folder)


def adapter_of_another(folder: Path) -> Path:
    source = write_adapter(Llava(), folder, str(Llava().language_folder))
    weights = load_file(source / "adapter_model.safetensors")
    save_file(
        {key: value[:, :-1].contiguous() if "lora_A" in key else value for key, value in weights.items()},
        source / "adapter_model.safetensors",
    )
    return source


class Code:
    """What a file of tensors must not be able to run."""

    def __reduce__(self):
        return (print, ("code of the checkpoint ran",))


def with_code(folder: Path) -> Path:
    source = write_projector(Llava(), folder, config=llava_config(Llava(), _name_or_path="x/y"))
    (source / "mm_projector.bin").write_bytes(pickle.dumps(Code(), protocol=2))
    return source


def cut(folder: Path) -> Path:
    path = write_whole(Llava(), folder) / "pytorch_model.bin"
    path.write_bytes(path.read_bytes()[:3000])
    return folder


def plain(folder: Path) -> Path:
    shutil.copytree(Llava().language_folder, folder)
    return folder


# What makes the folder -> part of what is said, `{path}` the folder.
FOLDERS = {
    "a tower that is not here": (
        lambda path: write_whole(Llava(), path, mm_vision_tower=NOWHERE),
        f"model.vision: '{NOWHERE}' cannot be loaded: there is no such folder; --vision names another place of the tower",
    ),
    "a projector and no tower": (
        lambda path: write_projector(Llava(), path),
        "{path} does not say which vision model it goes with; name a folder or hub id with --vision",
    ),
    "no language base": (
        lambda path: write_projector(Llava(), path, config=llava_config(Llava())),
        "{path} does not say which language model it goes with; name a folder or hub id with --language",
    ),
    "an adapter without a base": (
        lambda path: write_adapter(Llava(), path, None),
        "{path} does not say which language model it goes with",
    ),
    "a base that is not here": (
        lambda path: write_adapter(Llava(), path, "/home/trainer/vicuna"),
        "model.language: '/home/trainer/vicuna' cannot be loaded: there is no such folder",
    ),
    "a projector for wider features": (
        wide_projector,
        "the projector takes vectors of 64 numbers and {vision} has 32",
    ),
    "a projector for another language model": (
        tall_projector,
        "the projector gives vectors of 40 numbers and the language model has 48",
    ),
    "a projector of another kind": (
        lambda path: change(write_whole(Llava(), path), mm_projector_type="mlp3x_gelu"),
        "the projector in {path} is 'mlp3x_gelu'; those that can be imported (--connector) are linear, mlp2x_gelu, ldpnetv2, ldpv2",
    ),
    "a projector by the wrong name": (
        lambda path: change(write_whole(Llava(), path), mm_projector_type="linear"),
        "the checkpoint lacks linear_1.bias, linear_1.weight of the projector and has linear_1.0.bias, linear_1.0.weight",
    ),
    "no projector": (
        lambda path: change(
            tensors(write_whole(Llava("linear"), path), drop=("mm_projector.weight", "mm_projector.bias")), mm_projector_type=None
        ),
        "the projector in {path} is not there",
    ),
    "keys of no part": (
        lambda path: tensors(write_whole(Llava(), path), {"model.image_newline": torch.zeros(48)}),
        "the checkpoint has model.image_newline, which no such language model has",
    ),
    "lacking keys": (
        lambda path: tensors(write_whole(Llava(), path), drop=("layers.1.mlp.up_proj.weight", "model.norm.weight")),
        "the checkpoint lacks model.layers.1.mlp.up_proj.weight, model.norm.weight of the language model",
    ),
    "lacking keys of the tower": (
        lambda path: tensors(write_whole(Llava(), path, vision=True), drop=("layers.1.mlp.fc1.bias",)),
        "the checkpoint lacks encoder.layers.1.mlp.fc1.bias of the vision tower",
    ),
    "weights of another size": (
        lambda path: change(write_whole(Llava(), path), intermediate_size=128),
        "the language model's model.layers.0.mlp.down_proj.weight has shape (48, 96) in the checkpoint and should have (48, 128)",
    ),
    "tiles": (
        lambda path: change(write_whole(Llava(), path), image_aspect_ratio="anyres"),
        "{path}/config.json says image_aspect_ratio: anyres; a model with square or pad can be imported",
    ),
    "an unknown language model": (
        lambda path: change(write_whole(Llava(), path), model_type="llava_nothing"),
        "says model_type: llava_nothing, and transformers has no language model 'nothing'",
    ),
    "a shard that is gone": (
        lambda path: without(write_whole(Llava(), path, shards=3), "pytorch_model-00002-of-00003.bin"),
        "{path} lacks pytorch_model-00002-of-00003.bin, one of the 3 files that its index lists",
    ),
    "a torn file": (cut, "{path}/pytorch_model.bin cannot be read as tensors by name: "),
    "a file that would run code": (with_code, "{path}/mm_projector.bin cannot be read as tensors by name: "),
    "an adapter without its projector": (
        lambda path: without(write_adapter(Llava(), path, "x/y"), "non_lora_trainables.bin"),
        "{path} has an adapter and no non_lora_trainables.bin, which holds the projector",
    ),
    "an adapter of another model": (adapter_of_another, "the adapter in {path} does not fit the language model: "),
    "generations mixed": (
        lambda path: tensors(write_transformers(Llava(), path, new=True), {"language_model.model.norm.weight": torch.ones(48)}),
        "{path} mixes two generations of keys, 'language_model.model.norm.weight' and 'lm_head.weight': its files are of two checkpoints",
    ),
    "transformers' without a tower": (
        lambda path: tensors(write_transformers(Llava(), path, new=False), drop=tuple(
            f"vision_tower.vision_model.{key}" for key in Llava().vision
        )),
        "{path} has no weights of its vision part: no key has vision_tower. in it",
    ),
    "a class token among the patches": (
        lambda path: change(write_transformers(Llava(), path, new=True), vision_feature_select_strategy="full"),
        "vision_feature_select_strategy: full and a tower with 1 leading tokens",
    ),
    "no LLaVA": (plain, "which is none of the layouts that can be imported: LLaVA adapter (adapter_config.json"),
    "not there": (lambda path: path, "no checkpoint at {path}: there is no such file or folder"),
    "no way to ask it": (
        lambda path: write_whole(Llava(), path),
        "how the model is to be asked is not said by its names (here, llava_llama); --template: ",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FOLDERS)
def test_a_checkpoint_that_cannot_be_imported(name, tmp_path, capfd):
    make, words = FOLDERS[name]
    source = make(tmp_path / "here")
    said = refused(["import", str(source), "--out", str(tmp_path / "out")])
    assert words.format(path=source, vision=Llava().vision_folder) in said
    assert not (tmp_path / "out").exists() and not list(tmp_path.glob(".*"))
    assert "code of the checkpoint ran" not in capfd.readouterr().out


OPTIONS = [
    (["--language", "x/y"], "--language has no use here: the checkpoint has its own; leave it out"),
    (["--template", "vicunja"], "did you mean 'vicuna'"),
    (["--connector", "resampler"], "is 'resampler'; those that can be imported (--connector) are linear"),
    (["--vision", "/nowhere"], "model.vision: '/nowhere' cannot be loaded"),
]


@pytest.mark.parametrize(("options", "words"), OPTIONS, ids=[options[0] for options, _ in OPTIONS])
def test_options_that_do_not_fit(options, words, tmp_path):
    source = write_whole(Llava(), tmp_path / "llava-v1.5")
    assert words in refused(["import", str(source), "--out", str(tmp_path / "out"), *options])
    assert not (tmp_path / "out").exists()


def test_a_place_that_is_taken_is_left_alone(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    said = refused(["import", str(tmp_path / "whatever"), "--out", str(tmp_path / "out")])
    assert said == f"{tmp_path}/out is there already and is not empty; choose another --out"
    assert (tmp_path / "out" / "mine.txt").read_text() == "mine"
