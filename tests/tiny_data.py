"""Random pictures and LLaVA files made of them."""

from __future__ import annotations

import random
from collections.abc import Iterable
from pathlib import Path

from tests.tiny_build import korean_lines, write_json


def random_picture(seed: int, size: tuple[int, int] = (48, 40)):
    """A PIL RGB picture of `size` (width, height): smooth colours with a little noise, different for every seed."""
    import numpy as np
    from PIL import Image

    generator = np.random.default_rng(seed)
    coarse = Image.fromarray(generator.integers(0, 256, (4, 4, 3), dtype=np.uint8)).resize(size, Image.Resampling.BILINEAR)
    noise = generator.integers(-12, 13, (size[1], size[0], 3))
    return Image.fromarray(np.clip(np.asarray(coarse).astype(int) + noise, 0, 255).astype(np.uint8))


def save_pictures(folder: Path | str, n: int, size: tuple[int, int] = (48, 40), suffix: str = ".png") -> list[Path]:
    """Write picture_00000 .. into `folder`; sizes vary a little around `size` so that shapes are not all alike."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for index in range(n):
        path = folder / f"picture_{index:05d}{suffix}"
        random_picture(index, (size[0] + 4 * (index % 3), size[1] + 6 * (index % 2))).save(path)
        paths.append(path)
    return paths


def llava_rows(
    n: int, turns: int | Iterable[int] = 1, text_only: float = 0.25, pictures: int | None = None, seed: int = 0
) -> list[dict]:
    """Rows of the LLaVA format: `turns` questions a row (a sequence is cycled), `text_only` of the rows without a picture.

    Names of pictures are those `save_pictures` writes; `pictures` fewer than the rows makes rows share them.
    """
    generator = random.Random(seed)
    counts = [turns] if isinstance(turns, int) else list(turns)
    without = set(generator.sample(range(n), round(n * text_only)))
    pictures = n if pictures is None else pictures
    lines = korean_lines()
    rows = []
    for index in range(n):
        said = []
        for turn in range(counts[index % len(counts)]):
            question, answer = generator.choice(lines), generator.choice(lines)
            if turn == 0 and index not in without:
                question = f"<image>\n{question}" if index % 2 == 0 else f"{question}\n<image>"
            said += [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
        row = {"id": f"tiny_{index:05d}", "conversations": said}
        if index not in without:
            row["image"] = f"picture_{index % pictures:05d}.png"
        rows.append(row)
    return rows


def llava_file(
    folder: Path | str,
    n: int,
    turns: int | Iterable[int] = 1,
    text_only: float = 0.25,
    pictures: int | None = None,
    seed: int = 0,
    name: str = "chat.json",
) -> Path:
    """Write `folder/chat.json` (`llava_rows`) and its pictures under `folder/images`; returns the json's path."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    save_pictures(folder / "images", n if pictures is None else pictures)
    path = folder / name
    write_json(path, llava_rows(n, turns, text_only, pictures, seed))
    return path
