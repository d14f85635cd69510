"""Tiny random checkpoints of every family Boda supports, saved the way the published ones are, and data to feed them.

Each folder is what `from_pretrained` reads: config, weights, tokenizer or image processor. Weights come from a fixed seed
and are large enough (unlike a fresh initialisation's) that a forgotten bias, scale or layer shows in the output.
Folders are built on first use and kept under the temporary folder, named by the contents of these files and by the versions of
torch, transformers and tokenizers: editing anything here builds them anew.
"""

from tests.tiny_build import korean_lines, tiny_root
from tests.tiny_data import llava_file, llava_rows, random_picture, save_pictures
from tests.tiny_language import (
    CHAT_FAMILIES,
    LANGUAGE_FAMILIES,
    SCALED_HEAD_FAMILIES,
    TEXT_FAMILIES,
    TIED_FAMILIES,
    language_folder,
    llama2_tokenizer,
    text_folder,
)
from tests.tiny_vision import VISION_FAMILIES, VISION_SHAPES, vision_folder

__all__ = [
    "CHAT_FAMILIES",
    "LANGUAGE_FAMILIES",
    "SCALED_HEAD_FAMILIES",
    "TEXT_FAMILIES",
    "TIED_FAMILIES",
    "VISION_FAMILIES",
    "VISION_SHAPES",
    "korean_lines",
    "language_folder",
    "llama2_tokenizer",
    "llava_file",
    "llava_rows",
    "random_picture",
    "save_pictures",
    "text_folder",
    "tiny_root",
    "vision_folder",
]
