"""Text to patch, looked at: heat maps over drawn scenes and over boards of nine photos, and how often the named part is the hottest.

    python benchmarks/koclip_patches.py --photos MODEL [--drawn mini-clip] [--number 200]

`--photos`: a pair model trained on CIFAR-10 (benchmarks/koclip.py). A board is nine test photos of nine classes, three by three; the
text names one of them. Writes benchmarks/koclip-patches.png and prints both shares: of the tile that ranks first (`grid`), and of
the tile that is hottest on the map.
"""

from __future__ import annotations

import argparse
import io
import random
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from boda.data.drawn.fonts import korean_font
from boda.evaluate.patches import cut, dense_scores, tile_scores
from boda.evaluate.tasks.drawn_pairs import _tiles
from boda.models.encoder import Encoder
from boda.serve.uses import heat_map, patches

FOLDER = Path(__file__).resolve().parent
SIDE, GAP, TITLE = 288, 12, 30  # pixels of a shown picture, between two, above one


def boards(data: Path, number: int, seed: int = 3):
    """(board of nine photos, Korean name of one of them, its tile)."""
    import pyarrow.parquet as pq

    [path] = sorted(data.glob("*test*.parquet"))
    rows = pq.read_table(path, columns=["image", "label_ko"]).to_pylist()
    by_class: dict[str, list[bytes]] = {}
    for row in rows:
        by_class.setdefault(row["label_ko"], []).append(row["image"]["bytes"])
    dice = random.Random(seed)
    for _ in range(number):
        names = dice.sample(sorted(by_class), 9)
        board = Image.new("RGB", (96, 96))
        for place, name in enumerate(names):
            photo = Image.open(io.BytesIO(dice.choice(by_class[name]))).convert("RGB")
            board.paste(photo, (place % 3 * 32, place // 3 * 32))
        place = dice.randrange(9)
        yield board, names[place], place


def share(encoder: Encoder, asked: list[tuple[Image.Image, str, int]], template: str) -> tuple[float, float]:
    """(grid, heat map): shares of the pictures in which the tile that is meant comes first."""
    texts = encoder.texts([template.format(name) for _, name, _ in asked])
    grid = heat = 0
    for (picture, _, place), text in zip(asked, texts):
        high, wide = picture.height // 3, picture.width // 3
        shown = dense_scores(encoder, picture, text)[: high * 3, : wide * 3].reshape(3, high, 3, wide).mean((1, 3))
        grid += int(np.argmax(tile_scores(encoder, cut(picture, 3, 3), text)) == place)
        heat += int(np.argmax(shown) == place)
    return grid / len(asked), heat / len(asked)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--drawn", default="mini-clip", help="a pair model of drawn scenes")
    parser.add_argument("--photos", required=True, help="a pair model of CIFAR-10's photos")
    parser.add_argument("--data", type=Path, required=True, help="CIFAR-10 as Parquet with Korean labels")
    parser.add_argument("--number", type=int, default=200)
    chosen = parser.parse_args()
    scenes = _tiles("scenes", "unseen")
    drawn = [(ref.picture(), name, cells[0]) for ref, name, cells in zip(scenes.scenes, scenes.queries, scenes.relevant)]
    photos = list(boards(chosen.data, chosen.number))
    font = ImageFont.truetype(str(korean_font()), 17)
    sheet = Image.new("RGB", (3 * (SIDE + GAP) + GAP, 2 * (SIDE + TITLE + GAP) + GAP), "white")
    for row, (model, asked, template) in enumerate(((chosen.drawn, drawn, "{}"), (chosen.photos, photos, "{} 사진입니다."))):
        encoder = Encoder.load(model)
        grid, heat = share(encoder, asked[: chosen.number], template)
        print(
            f"{('drawn scenes', 'boards of photos')[row]}: {min(len(asked), chosen.number)}, grid {grid:.1%}, heat map {heat:.1%}"
        )
        for column, (picture, name, _) in enumerate(asked[:3]):
            large = picture.resize((SIDE, SIDE), Image.Resampling.BICUBIC)
            text = template.format(name)
            shown = heat_map(encoder, large, text, patches(encoder, large, text))
            left, top = GAP + column * (SIDE + GAP), GAP + row * (SIDE + TITLE + GAP)
            ImageDraw.Draw(sheet).text((left, top), name, fill="black", font=font)
            sheet.paste(shown, (left, top + TITLE))
    sheet.save(FOLDER / "koclip-patches.png", optimize=True)


if __name__ == "__main__":
    main()
