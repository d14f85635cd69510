"""The shipped recipes made small: their stages, sources and knobs, but tiny backbones, narrow layers and a few rows."""

from __future__ import annotations

import json
from pathlib import Path

from boda.data.shards import write_shards
from boda.data.sources import read
from boda.recipe import TokenizerSpec, load_recipe
from tests import tiny
from tests.pair_recipes import caption_file

# Which tiny family stands in for what a recipe names.
BACKBONES = {
    "openai/clip-vit-large-patch14-336": lambda: tiny.vision_folder("clip"),
    "openai/clip-vit-base-patch32": lambda: tiny.vision_folder("clip"),
    "openai/clip-vit-large-patch14": lambda: tiny.vision_folder("clip"),
    "mini": lambda: "mini",  # comes with the package, and is small enough
    "google/vit-large-patch16-224": lambda: tiny.vision_folder("vit"),
    "google/siglip2-base-patch16-224": lambda: tiny.vision_folder("siglip"),
    "klue/roberta-large": lambda: tiny.text_folder("roberta"),
    "nlpai-lab/KURE-v1": lambda: tiny.text_folder("roberta"),
    "google/siglip2-so400m-patch14-384": lambda: tiny.vision_folder("siglip"),
    "naver-hyperclovax/HyperCLOVAX-SEED-Text-Instruct-0.5B": lambda: tiny.language_folder("llama"),
    "naver-hyperclovax/HyperCLOVAX-SEED-Text-Instruct-1.5B": lambda: tiny.language_folder("llama"),
    "meta-llama/Meta-Llama-3-8B": lambda: tiny.language_folder("llama3_deep"),
    "maywell/Synatra-7B-v0.3-dpo": lambda: tiny.language_folder("synatra"),
    "EleutherAI/polyglot-ko-12.8b": lambda: tiny.language_folder("gpt_neox"),
    "EleutherAI/polyglot-ko-1.3b": lambda: tiny.language_folder("gpt_neox"),
    "EleutherAI/polyglot-ko-5.8b": lambda: tiny.language_folder("gpt_neox"),
    "upstage/SOLAR-10.7B-Instruct-v1.0": lambda: tiny.language_folder("llama2"),
    "MLP-KTLim/llama-3-Korean-Bllossom-8B": lambda: tiny.language_folder("llama3"),
}
# What a config in a recipe says of its size.
NARROW = {
    "hidden_sizes": [4, 4, 8, 8],
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 16,
}
PICTURES, TEXTS = 4, 40  # texts: enough for a tokenizer that knows the words
VOCABULARY = 560  # of a tokenizer that is given more pieces; the tiny ones have 520 or fewer
ASKED = [{"role": "user", "content": "하나에 하나를 더하면?"}, {"role": "assistant", "content": "둘입니다."}]
ROWS = {  # of sources that need no more than a file of rows
    "alpaca": {"instruction": "하나에 {n}을 더하면?", "input": "", "output": "{n}보다 하나 큰 수입니다."},
    "kullm": {"instruction": "하나에 더하면?", "instances": [{"input": "{n}", "output": "{n}보다 하나 큰 수입니다."}]},
    "koalpaca": {"instruction": "하나에 {n}을 더하면?", "output": "{n}보다 하나 큰 수입니다.", "url": "https://kin"},
    "parallel": {"ko": "이것은 {n}번 문장입니다.", "en": "This is sentence {n}."},
    "links": {"ko": "한강 {n}", "en": "Han River {n}", "ko_text": "한강 {n}은 강입니다.", "en_text": ""},
    "sharegpt": {
        "conversations": [{"from": "human", "value": "{n} 다음은?"}, {"from": "gpt", "value": "{n}보다 하나 큰 수입니다."}]
    },
    "messages": {"messages": ASKED, "id": "{n}"},
    "preference": {"prompt": "하나에 {n}을 더하면?", "chosen": "{n}보다 하나 큰 수입니다.", "rejected": "모릅니다."},
}


def small_data(source: str | None, folder: Path, pairs: bool) -> list[dict]:
    """A few rows of the same format; for contrastive training all with one picture and one answer."""
    if source == "llava":
        path = Path(tiny.llava_file(folder, 8, **({"turns": 1, "text_only": 0.0} if pairs else {"turns": (1, 2)})))
        return [{"source": "llava", "path": str(path), "images": str(path.parent / "images")}]
    if source == "captions":
        path = caption_file(folder / "captions", 6, image="file_path", captions="caption_ko")
        columns = {"image": "file_path", "caption": "caption_ko"}
        return [{"source": "captions", "path": str(path), "images": str(path.parent), "columns": columns}]
    if source == "webdataset":
        rows = read(caption_file(folder / "captions", 6), "captions", limit=8)
        write_shards(rows, folder / "shards")
        return [{"source": "webdataset", "path": str(folder / "shards" / "{00000..00000}.tar")}]
    if source == "text":
        rows = [{"text": line} for line in tiny.korean_lines()[:TEXTS]]
    else:
        rows = [json.loads(json.dumps(ROWS[source]).replace("{n}", str(number))) for number in range(8)]
    path = folder / f"{source}.json"
    path.write_text(json.dumps(rows), encoding="utf-8")
    return [{"source": source, "path": str(path)}]


def shrunk(name: str, folder: Path, steps: int = 2) -> dict:
    """Overrides that make a shipped recipe run on two cores in seconds and change nothing else. Files go into `folder`.

    Drawn data keeps its collection, seed and `where`. The recipes of its parts are made small, too.
    """
    recipe = load_recipe(name)
    changes: dict = {"precision": "fp32"}
    for part in ("vision", "language"):
        chosen = getattr(recipe.model, part)
        if isinstance(chosen, str):
            changes[f"model.{part}"] = str(BACKBONES[chosen]())
        elif chosen is not None:
            changes |= {f"model.{part}.{key}": value for key, value in NARROW.items() if key in chosen}
    for part, maker in recipe.model.recipes.items():
        (folder / maker).mkdir()
        changes[f"model.{part}"] = {"recipe": str(small_recipe(maker, folder / maker, steps))}
    spec = recipe.model.tokenizer
    if isinstance(spec, TokenizerSpec) and spec.base is not None:
        if spec.vocab_size is not None:
            changes["model.tokenizer.vocab_size"] = VOCABULARY
        if spec.data is not None:
            (folder / "pieces").mkdir()
            changes["model.tokenizer.data"] = small_data("text", folder / "pieces", pairs=False)
    for stage in recipe.stages:
        place = f"stages.{stage.name}"
        (folder / stage.name).mkdir()
        sources = dict.fromkeys(block.source for block in stage.data if block.source != "drawn")
        files = [row for source in sources for row in small_data(source, folder / stage.name, recipe.model.kind == "clip")]
        changes[f"{place}.data"] = _few(stage.data) + files
        changes[f"{place}.validation"] = _few(stage.validation) or None if isinstance(stage.validation, list) else None
        changes[f"{place}.max_steps"] = steps
        changes[f"{place}.batch_size"] = 4
    return changes


def small_recipe(name: str, folder: Path, steps: int = 2) -> Path:
    """A shipped recipe made small, as a file in `folder`."""
    path = folder / f"{name}.yaml"
    path.write_text(load_recipe(name, shrunk(name, folder, steps)).to_yaml(), encoding="utf-8")
    return path


def _few(blocks: list) -> list[dict]:
    """The drawn ones, a few pictures of each."""
    limit = {"text": TEXTS}
    return [block.model_dump() | {"limit": limit.get(block.path, PICTURES)} for block in blocks if block.source == "drawn"]
