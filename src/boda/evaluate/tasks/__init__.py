"""The tasks, by exact name. `NAME` or `NAME:OPTION`, where what follows the colon is the task's own business."""

from __future__ import annotations

import importlib
from pathlib import Path

from boda.errors import BodaError
from boda.evaluate.harness import FAMILIES, family_of, harness_task
from boda.evaluate.task import Measured, Task
from boda.recipe.words import nearest

# name: (file and function that makes the task from its option and the data folder, one line for --list)
TASKS: dict[str, tuple[str, str]] = {
    "caption-ko": (
        "caption.from_option",
        "caption-ko:PATH[:images=DIR][:ids=FILE][:tokenizer=kiwi][:similarity=MODEL]: captions of COCO-Korean or your own, CIDEr-D",
    ),
    "chart-ko": (
        "chart.from_option",
        "chart-ko:PATH[:prompt=default|strict]: charts and diagrams, answered in a sentence (judged)",
    ),
    "cifar10-ko": ("zero_shot.cifar10", "cifar10-ko[:PATH][:template=T|T]: photos and Korean class names (pair models)"),
    "coco-ko": ("retrieval.coco", "coco-ko:JSON:ids=FILE[:images=DIR]: photos, Korean captions, R@1/5/10 (pair models)"),
    "culture-ko": (
        "culture.from_option",
        "culture-ko:FILE.json | culture-ko:FOLDER[:seed=N][:number=N][:label=a.b.c]: Korean food or things, four options",
    ),
    "drawn": (
        "drawn.from_option",
        "drawn[:seed=N][:number=N][:only=colour,word]: fresh drawn scenes and words, pairs and a font never trained on among them",
    ),
    "drawn-pairs": ("drawn_pairs.from_option", "drawn-pairs: fresh drawn scenes: tiles, descriptions, words (pair models)"),
    "drawn-shots": (
        "drawn_interleaved.from_option",
        "drawn-shots[:seed=N][:number=N][:shots=0/1/4][:only=latest,task,names]: what a model learns from pictures shown before",
    ),
    "emoji-ko": ("retrieval.emoji", "emoji-ko[:PATH][:text={caption}]: emoji and their Korean names (pair models)"),
    "few-shot": (
        "few_shot.from_option",
        "few-shot:PATH[:train=PATH][:shots=0/4/8][:choose=random|MODEL][:as=questions|captions]: after solved examples",
    ),
    "imagenet-ko": ("zero_shot.imagenet", "imagenet-ko:DIR[:names=FILE]: a folder of photos each class (pair models)"),
    "k-dtcbench": (
        "k_dtcbench.from_option",
        "k-dtcbench[:PATH]: K-DTCBench, Korean documents, tables and charts, four options",
    ),
    "k-llava-w": ("k_llava_w.from_option", "k-llava-w[:PATH]: K-LLaVA-W, 60 open questions, marks beside GPT-4's (judged)"),
    "k-mmbench": (
        "k_mmbench.from_option",
        "k-mmbench[:PATH]: K-MMBench, right only in every rotation of the options (a judge is optional)",
    ),
    "k-mmstar": ("k_mmstar.from_option", "k-mmstar[:PATH]: K-MMStar, questions that need the picture, four options"),
    "k-seed": ("k_seed.from_option", "k-seed[:PATH]: K-SEED, 12 dimensions, four options"),
    "k-viscuit": ("k_viscuit.from_option", "k-viscuit[:PATH]: K-Viscuit, Korean culture asked in English, four options"),
    "ko-vqa": ("ko_vqa.from_option", "ko-vqa:FILE[:images=DIR]: KO-VQA, numbers with units read from figures in documents"),
    "koffvqa": ("koffvqa.from_option", "koffvqa[:PATH]: KOFFVQA, free answers marked by criteria of each question (judged)"),
    "komt": ("komt.from_option", "komt[:PATH]: KoMT-Bench, 80 two-turn questions (judged)"),
    "kullm-geval": (
        "kullm_geval.from_option",
        "kullm-geval[:PATH][:version=v2|v3]: KULLM's G-Eval, 252 instructions, marks on several criteria (judged)",
    ),
    "logickor": (
        "logickor.from_option",
        "logickor[:PATH][:strategy=default|1-shot|cot-1-shot]: LogicKor, 42 two-turn questions (judged)",
    ),
    "ocr-boxes": (
        "ocr_boxes.from_option",
        "ocr-boxes:PATH[:images=DIR][:seed=N][:number=N]: where a text stands, IoU; a file of boxes, or built from AI Hub 81",
    ),
    "ocr-text": (
        "ocr_text.from_option",
        "ocr-text[:seed=N][:number=N] | ocr-text:PATH[:images=DIR]: reading text, drawn words or a file, 1-NED, CER, WER",
    ),
    "pope-ko": (
        "pope.from_option",
        "pope-ko[:seed=N][:number=N] | pope-ko:PATH[:images=DIR][:names=FILE]: is it in the picture, drawn or of POPE's files",
    ),
    "questions": (
        "questions.from_option",
        "questions:PATH[:train=PATH]: short answers, exact match, on any file Boda's sources read, grouped by its tags",
    ),
    "retrieval": ("retrieval.own_queries", "retrieval:QUERIES.jsonl[:images=DIR]: your own queries (pair models)"),
}


def list_tasks() -> dict[str, str]:
    """name -> one line about each task."""
    return dict(sorted([*((name, about) for name, (_, about) in TASKS.items()), *FAMILIES.items()]))


def make_task(text: str, data_dir: str | Path | None = None) -> Task | Measured:
    """The task a `--tasks` entry names. Raises BodaError naming the tasks there are, or that there are several."""
    first, *others = make_tasks(text, data_dir)
    if others:
        raise BodaError(f"{text} names {1 + len(others)} tasks; make_tasks gives them all")
    return first


def make_tasks(text: str, data_dir: str | Path | None = None) -> list[Task | Measured]:
    """The tasks a `--tasks` entry names: one, or of `few-shot` one for each number of shots."""
    name, _, option = text.partition(":")
    if family_of(name):
        return [harness_task(name, option, data_dir)]
    if name not in TASKS:
        raise BodaError(f"no task '{name}'; {nearest(name, sorted([*TASKS, *FAMILIES]))}")
    module, function = TASKS[name][0].split(".")  # imported now: it may need Pillow
    made = getattr(importlib.import_module(f"{__name__}.{module}"), function)(option, data_dir)
    return made if isinstance(made, list) else [made]


def split_tasks(text: str) -> list[str]:
    """`--tasks` at its commas, except those in a list that an `only=` begins: drawn:only=colour,word."""
    found: list[str] = []
    for piece in text.split(","):
        if found and "only=" in found[-1] and piece.partition(":")[0] not in TASKS:
            found[-1] += f",{piece}"
        else:
            found.append(piece)
    return found
