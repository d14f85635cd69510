"""Drawn data as files that other programs read, too: pictures, conversations in the `messages` format, and a sheet to look at."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from boda.data.drawn.canvas import SIZE
from boda.data.drawn.samples import read
from boda.data.sample import IMAGE_MARK, Sample
from boda.data.sheet import FAINT, INK, Cell, draw_sheet
from boda.errors import BodaError
from boda.files import as_lines, whole_folder
from boda.terminal import Progress, clear_line

FILES = ("images", "data.jsonl", "text.jsonl", "sheet.png")
SHEET, COLUMNS = 40, 8


def write(
    out: str | Path,
    collection: str = "questions",
    count: int = 100,
    seed: int = 0,
    where: Mapping[str, str | Sequence[str]] | None = None,
    words: Sequence[str] | None = None,
    quiet: bool = True,
) -> dict:
    """Draws a collection into a folder, whole or not at all -> {folder, pictures, rows, seconds}.

    `count`: pictures, of `text` texts, of `interleaved` documents.
    `data.jsonl` has a row for each conversation, with tags, and of `preferences` also the rejected answer; documents, which
    nobody asks for, go into `text.jsonl`. Raises BodaError where nothing such can be drawn, `out` holds other things, or it cannot be
    written.
    """
    out = Path(out)
    if count < 1:
        raise BodaError(f"count {count}: at least one picture is drawn")
    samples = read(collection, count, seed, where, words=words)
    if out.exists() and (not out.is_dir() or any(path.name not in FILES for path in out.iterdir())):
        raise BodaError(f"{out} holds other things than drawn data; choose another folder")
    names: dict[str, str] = {}  # file name of each drawn picture
    first: list[Cell] = []
    rows, began = 0, time.monotonic()
    line = lambda seen: f"{seen.done:,} of {count:,} drawn, {seen.rate:.0f}/s, {seen.left}"  # noqa: E731
    progress = Progress(line, count + 1, quiet=quiet)  # one more: the last picture's rows are no end to be told of
    with whole_folder(out, advice="free some space and run the same command again") as folder, ExitStack() as stack:
        files = {}
        for sample in samples:
            for place, ref in enumerate(sample.images):
                if ref.drawn not in names:
                    names[ref.drawn] = f"images/{len(names):06d}.png"
                    (folder / "images").mkdir(exist_ok=True)
                    picture = ref.picture()
                    picture.save(folder / names[ref.drawn])
                    # Of documents of several pictures each stands over its own words; every second document is framed.
                    told = sample.messages[2 * place : 2 * place + 2] if len(sample.images) > 1 else ()
                    texts = [(message.text, INK, 3) for message in told if message.text]
                    if len(first) < SHEET:
                        first.append(Cell([picture], texts, FAINT if told and rows % 2 else "white"))
            name = "text.jsonl" if sample.is_document else "data.jsonl"
            if name not in files:
                files[name] = stack.enter_context((folder / name).open("w", encoding="utf-8"))
            row = _row(sample, [names[ref.drawn] for ref in sample.images], collection.endswith("preferences"))
            files[name].write(as_lines([row]))
            rows += 1
            progress.update(int(sample.source.row) + 1)
        clear_line()
        if not rows:
            raise BodaError(f"nothing of {collection} is left of {dict(where or {})}; ask for other kinds")
        if first:
            draw_sheet(first, folder / "sheet.png", columns=COLUMNS, side=SIZE)
    return {"folder": str(out), "pictures": len(names), "rows": rows, "seconds": time.monotonic() - began}


def read_words(path: str | Path) -> list[str]:
    """The words of a file, with white space between. Raises BodaError if it is no text."""
    try:
        return Path(path).read_text(encoding="utf-8-sig").split()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise BodaError(f"no words in {path} ({why}); give a text file with a word a line") from error


def _row(sample: Sample, images: list[str], with_rejected: bool) -> dict:
    if sample.is_document:
        return {"text": sample.messages[0].text}
    messages = []
    for message in sample.messages:
        content = "".join(IMAGE_MARK if part.type == "image" else part.text for part in message.content)
        messages.append({"role": message.role, "content": content})
    row: dict = {"messages": messages, "images": images, "tags": dict(sample.tags)}
    return row | {"rejected": sample.rejected} if with_rejected else row
