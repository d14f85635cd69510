"""Text to patch: which tile of a picture a text means, and how well the text fits everywhere in it."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageOps

from boda.data.images import MAX_ASPECT
from boda.errors import BodaError


def cut(picture: Image.Image, rows: int, columns: int) -> list[Image.Image]:
    """Tiles row by row as KoCLIP cuts them: H // rows x W // columns, the rest at the right and below left out.

    Raises BodaError: the picture has too few pixels for so many tiles, or they would be mere lines.
    """
    high, wide = picture.height // max(rows, 1), picture.width // max(columns, 1)
    if min(rows, columns, high, wide) < 1 or max(high, wide) > MAX_ASPECT * min(high, wide):
        size = f"{picture.height} pixels high and {picture.width} wide"
        raise BodaError(
            f"a grid of {rows} x {columns} does not fit a picture {size}: its tiles would be {high} x {wide}; try 3x3"
        )
    places = [(row * high, column * wide) for row in range(rows) for column in range(columns)]
    return [picture.crop((left, top, left + wide, top + high)) for top, left in places]


def tile_scores(encoder, tiles: list[Image.Image], text: np.ndarray) -> np.ndarray:
    """(N,): softmax over the tiles of the logits of one text (dim,)."""
    logits = encoder.images(tiles) @ text * encoder.logit_scale
    shares = np.exp(logits - logits.max())
    return shares / shares.sum()


def dense_scores(encoder, picture: Image.Image, text: np.ndarray) -> np.ndarray:
    """(H, W): the cosine of each place of the picture with a text (dim,), from its patches, smooth between them."""
    side = max(picture.size)
    # A tower that cuts out the middle would not see the ends of a long picture; in a square it sees all of it.
    patches = encoder.patches(ImageOps.pad(picture, (side, side), color=(127, 127, 127)))
    whole = Image.fromarray((patches @ text).astype(np.float32)).resize((side, side), Image.Resampling.BICUBIC)
    left, top = (side - picture.width) // 2, (side - picture.height) // 2
    return np.asarray(whole)[top : top + picture.height, left : left + picture.width]
