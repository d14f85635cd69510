"""Training pictures again, moved and mirrored: what other trainers do at random while they read.

    python benchmarks/koclip_data.py --out runs/koclip/data [--data DIR]

`cifar10/moved-{1,2,3}.parquet`: every training photo in each with a place of its own (up to 3 pixels off, the border mirrored),
half of them turned left to right. The originals are read where they are.
`emoji/train.jsonl`: 8 pictures of every training emoji, moved, scaled, turned a little, and mirrored where no word of it says left or
right; each with its name, some of its keywords, both, and one keyword alone as captions. Test pictures are not touched.
"""

from __future__ import annotations

import argparse
import io
import json
import random
from pathlib import Path

import numpy as np
from PIL import Image

from boda.errors import BodaError

MOST, COPIES = 3, 3
EMOJI_COPIES, EMOJI_SIZE = 8, 64
SIDED = ("왼", "오른", "좌", "우측", "우향", "화살표", "방향", "시계", "시 ", "분", "문자", "기호", "키 캡", "버튼", "로고")
# 4:2:0 at 92 are about as many bytes as the originals have, so that all copies stay in the reader's memory.
QUALITY = 92


def moved(pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A photo (32, 32, 3) somewhere else by up to MOST pixels, and mirrored half of the time."""
    down, right = rng.integers(0, 2 * MOST + 1, 2)
    wide = np.pad(pixels, ((MOST, MOST), (MOST, MOST), (0, 0)), mode="reflect")
    part = wide[down : down + len(pixels), right : right + pixels.shape[1]]
    return part[:, ::-1] if rng.random() < 0.5 else part


def copies(data: Path, out: Path, limit: int | None = None) -> list[Path]:
    """Writes the copies that are not there yet."""
    import pyarrow
    import pyarrow.parquet

    paths = [out / f"cifar10/moved-{number}.parquet" for number in range(1, COPIES + 1)]
    if all(path.is_file() for path in paths):
        return paths
    source = data / "cifar10/train.parquet"
    if not source.is_file():
        raise BodaError(f"no {source}: --data or BODA_DATA names the folder with the real data")
    table = pyarrow.parquet.read_table(source).slice(0, limit)
    photos = []
    for cell in table["image"].to_pylist():
        with Image.open(io.BytesIO(cell["bytes"])) as image:
            photos.append(np.asarray(image.convert("RGB")))
    place = table.schema.get_field_index("image")
    paths[0].parent.mkdir(parents=True, exist_ok=True)
    for number, path in enumerate(paths, 1):
        rng = np.random.default_rng(number)
        cells = []
        for pixels in photos:
            buffer = io.BytesIO()
            Image.fromarray(moved(pixels, rng)).save(buffer, "JPEG", quality=QUALITY)
            cells.append({"bytes": buffer.getvalue(), "path": None})
        column = pyarrow.array(cells, type=table.schema.field("image").type)
        partial = path.with_suffix(".partial")
        pyarrow.parquet.write_table(table.set_column(place, table.schema.field("image"), column), partial, row_group_size=1000)
        partial.replace(path)
    return paths


def turned(image: Image.Image, mirror: bool, rng: random.Random) -> Image.Image:
    """An emoji on white at EMOJI_SIZE: scaled by 0.8 to 1.1, turned by up to 12 degrees, off its place by up to 6 %."""
    picture = Image.new("RGBA", image.size, "white")
    picture.alpha_composite(image)
    side = picture.width
    if mirror and rng.random() < 0.5:
        picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    scale, angle = rng.uniform(0.8, 1.1), np.radians(rng.uniform(-12, 12))
    a, b = np.cos(angle) / scale, np.sin(angle) / scale
    middle, shift = side / 2, [rng.uniform(-0.06, 0.06) * side for _ in range(2)]
    affine = (a, b, middle - a * (middle + shift[0]) - b * (middle + shift[1]),
              -b, a, middle + b * (middle + shift[0]) - a * (middle + shift[1]))  # fmt: skip
    whole = picture.convert("RGB").transform(
        (side, side), Image.Transform.AFFINE, affine, Image.Resampling.BICUBIC, fillcolor="white"
    )
    return whole.resize((EMOJI_SIZE, EMOJI_SIZE), Image.Resampling.BICUBIC)


def emoji(data: Path, out: Path) -> Path:
    """`emoji/train.jsonl` with its pictures, unless it is there."""
    path = out / "emoji/train.jsonl"
    if path.is_file():
        return path
    (out / "emoji/pictures").mkdir(parents=True, exist_ok=True)
    rng, lines = random.Random(0), []
    for text in (data / "emoji/captions.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(text)
        if row["split"] != "train":
            continue
        name, keywords = row["caption"], [word for word in row["keywords"] if word != row["caption"]]
        mirror = not any(mark in said for said in (f"{name} ", *keywords) for mark in SIDED)
        with Image.open(data / "emoji" / row["image"]) as image:
            drawing = image.convert("RGBA")
        for copy in range(EMOJI_COPIES):
            place = out / "emoji/pictures" / f"{Path(row['image']).stem}-{copy}.jpg"
            turned(drawing, mirror, rng).save(place, quality=QUALITY, subsampling=0)
            some = rng.sample(keywords, min(len(keywords), rng.randint(2, 4)))
            captions = [name, ", ".join([name, *some])]
            if keywords:
                captions += [", ".join(some), rng.choice(keywords)]
            line = {"image": f"pictures/{place.name}", "captions": list(dict.fromkeys(captions))}
            lines.append(json.dumps(line, ensure_ascii=False) + "\n")
    path.write_text("".join(lines), encoding="utf-8")
    return path


def main() -> None:
    from real_data import data_folder

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/koclip/data"))
    parser.add_argument("--data", help="the folder with the real data (BODA_DATA, else ../shared/data)")
    chosen = parser.parse_args()
    data = data_folder(chosen.data)
    for path in (*copies(data, chosen.out), emoji(data, chosen.out)):
        print(path)


if __name__ == "__main__":
    main()
