"""Pictures and what they show: rows with a caption or several, or a folder of KEY.jpg beside KEY.txt."""

from __future__ import annotations

from collections.abc import Iterable

from boda.data.files import Place
from boda.data.rows import Rows
from boda.data.sample import Sample
from boda.data.sources.common import PICTURES, Options, Row, file_rows
from boda.data.templates import is_empty
from boda.errors import BadRow

CAPTIONS = ("caption", "caption_ko", "captions", "text")  # AI Hub's COCO has its English ones in `captions`
IMAGES = ("image", "file_path", "file_name")


def rows(options: Options) -> Rows:
    """Rows of a file; of a folder (as img2dataset leaves it) every picture with the text of its key."""
    if not options.place.is_folder:
        yield from file_rows(options)
        return
    pictures = (place for place in options.place.files() if place.suffix in PICTURES)
    for number, place in enumerate(pictures):
        name = str(place)[len(str(options.place)) + 1 :]
        text = text_beside(place)
        if not text.is_file:
            yield number, BadRow(options.name, number, "caption", f"{name} has no {text.path.rpartition('/')[2]} beside it")
            continue
        with text.open_text() as stream:
            yield number, {"id": name.rpartition(".")[0], "image": name, "caption": stream.read().strip()}


def text_beside(picture: Place, suffix: str = ".txt") -> Place:
    """KEY.txt of KEY.jpg, or its KEY.json."""
    stem = (picture.member or picture.path).rpartition(".")[0] + suffix
    return Place(picture.path, stem) if picture.member else Place(stem)


def samples(row: Row) -> Iterable[Sample]:
    """One sample for each caption. Without a question the picture stands alone in the user's turn."""
    options = row.options
    image = row.picture(row.need(*IMAGES), "image")
    question = row.fill(options.question, "question") if options.question else ""
    if options.answer:
        captions = [row.fill(options.answer, "answer")]
    else:
        given = row.need(*CAPTIONS)
        captions = given if isinstance(given, list) else [given]
    for caption in captions:
        if is_empty(caption):
            raise row.bad("caption", "a caption is empty")
        yield row.asked(question, row.text(caption, "caption"), [image])
