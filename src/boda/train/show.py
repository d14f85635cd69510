"""Samples and tables as they are shown on a terminal: trained tokens in colour, pictures as chips, what a stage needs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from boda.data.prepared import PreparedData
from boda.data.render import Rendered
from boda.train import estimate
from boda.train.log import duration

MAX_SPANS = 5_000  # samples whose answers' ends are looked at
SHORT, LONG = 160, 900  # pieces of a sample that are shown

WIDTH = 128  # columns where the output is no terminal


@dataclass(frozen=True)
class Palette:
    """Styles of trained tokens, of all others, and of pictures. Neighbours take turns, so that tokens can be told apart."""

    trained: tuple[str, str]
    other: tuple[str, str]
    picture: str


RICH = Palette(("bold #ffffff on #17643a", "bold #ffffff on #2b8a57"), ("#8a8a8a", "#707070"), "bold #003040 on #5fd7e5")
# A terminal of 16 colours would make grey of these greens.
PLAIN = Palette(("bold white on green", "bold black on bright_green"), ("bright_black", "bright_black"), "bold black on cyan")


def palette(console) -> Palette | None:
    """What the terminal can show; None where it has no colour."""
    if console.color_system is None or console.no_color:
        return None
    return PLAIN if console.color_system in ("standard", "windows") else RICH


@dataclass(frozen=True)
class Piece:
    """Tokens that are shown together: as few as give whole letters. `pictures` tokens of an image have no text."""

    text: str
    tokens: int
    trained: bool
    picture: bool = False


@dataclass(frozen=True)
class Shown:
    """A sample cut into pieces for the eye."""

    name: str
    pieces: list[Piece]

    def values(self) -> dict:
        return {
            "name": self.name,
            "tokens": sum(piece.tokens for piece in self.pieces),
            "trained_tokens": sum(piece.tokens for piece in self.pieces if piece.trained),
            "text": self.marked(),
        }

    def marked(self) -> str:
        """All of the sample as plain text, what is trained between ⟦ and ⟧."""
        words = ""
        for before, piece in zip([None, *self.pieces], self.pieces):
            words += (
                ("⟦" if piece.trained else "⟧" if before else "") if piece.trained != bool(before and before.trained) else ""
            )
            words += f"[그림 ×{piece.tokens}]" if piece.picture else piece.text
        return words + ("⟧" if self.pieces and self.pieces[-1].trained else "")

    def text(self, colours: Palette | None, most: int):
        """The sample as rich text: trained tokens on green, or between ⟦ and ⟧ where there is no colour."""
        from rich.text import Text

        text = Text()
        pieces = list(enumerate(self.pieces))
        left_out = len(pieces) - most
        if left_out > 0:
            # The end is what answers are; a little of the beginning shows the template.
            head = most // 3
            pieces = [*pieces[:head], (-1, Piece("", 0, pieces[head][1].trained)), *pieces[head + left_out :]]
        inside = False
        for number, piece in pieces:
            if piece.trained != inside and not colours:
                text.append("⟦" if piece.trained else "⟧")
            inside = piece.trained
            if number < 0:
                hidden = sum(each.tokens for each in self.pieces[head : head + left_out])
                text.append(f" … {hidden:,} tokens … ", style="italic yellow")
            elif piece.picture:
                text.append(f"[그림 ×{piece.tokens}]", style=colours.picture if colours else "")
            else:
                pair = (colours.trained if piece.trained else colours.other) if colours else ("", "")
                text.append(visible(piece.text), style=pair[number % 2])
        if inside and not colours:
            text.append("⟧")
        text.rstrip()
        return text


def visible(text: str) -> str:
    """Line breaks shown as ↵ and still broken, control characters as symbols."""
    shown = "".join(chr(0x2400 + ord(c)) if ord(c) < 32 and c not in "\n\t" else c for c in text)
    return shown.replace("\n", "↵\n")


def pieces_of(rendered: Rendered, image_id: int, num_image_tokens: int, tokenizer) -> list[Piece]:
    """A rendered sample as pieces of whole letters, each of as few tokens as that takes."""
    pieces: list[Piece] = []
    ids: list[int] = []
    before = read = 0

    def flush(trained: bool, end: bool) -> None:
        nonlocal before, read
        known = tokenizer.decode(ids[before:read], skip_special_tokens=False)
        text = tokenizer.decode(ids[before:], skip_special_tokens=False)
        if read < len(ids) and (end or (len(text) > len(known) and not text.endswith("\ufffd"))):
            pieces.append(Piece(text[len(known) :], len(ids) - read, trained))
            before, read = read, len(ids)

    was = False
    for token, trained in zip(rendered.input_ids.tolist(), rendered.trained.tolist()):
        if token == image_id:
            flush(was, end=True)
            pieces.append(Piece("", num_image_tokens, bool(trained), picture=True))
            ids, before, read = [], 0, 0
            continue
        if trained != was:
            flush(was, end=True)
        was = trained
        ids.append(token)
        flush(trained, end=False)
    flush(was, end=True)
    return pieces


def sample_of(data: PreparedData, tokenizer, index: int) -> Shown:
    rendered = data.row(index)
    if not rendered.images or data.num_image_tokens:
        return Shown(data.name(index), pieces_of(rendered, data.image_id, data.num_image_tokens, tokenizer))
    # Of a pair all words are learnt from, and the picture stands beside them.
    words = replace(rendered, trained=np.ones(len(rendered.input_ids), dtype=bool))
    return Shown(data.name(index), [Piece("[그림] ", 0, False), *pieces_of(words, data.image_id, 0, tokenizer)])


def stop_tokens(data: PreparedData, tokenizer) -> list[dict]:
    """The tokens that end answers, with the share of answers each ends: [{id, token, share, special}], commonest first.

    An answer that was cut short ends on an ordinary token.
    """
    ends: Counter[int] = Counter()
    special = set(tokenizer.all_special_ids) | {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    chosen = range(0, len(data), max(1, len(data) // MAX_SPANS))
    for index in chosen:
        start, end = int(data.starts[index]), int(data.starts[index + 1])
        trained = np.asarray(data.trained[start:end])
        last = trained & ~np.append(trained[1:], False)
        found = np.asarray(data.ids[start:end])[last].tolist()
        if not trained[1] or special.issuperset(found):  # a piece of a longer text ends anywhere
            ends.update(found)
    every = sum(ends.values())
    return [
        {"id": int(token), "token": tokenizer.decode([token]), "share": number / every, "special": token in special}
        for token, number in ends.most_common(8)
    ]


# ---------------------------------------------------------------- what is printed


def terminal(stderr: bool = False):
    """Where to print: as wide as the terminal is, or as a line of code where there is none."""
    from rich.console import Console

    console = Console(stderr=stderr, highlight=False)
    return console if console.is_terminal else Console(stderr=stderr, highlight=False, width=WIDTH)


@dataclass
class Report:
    """What `inspect` found: `values` for programs, `show()` for people."""

    values: dict[str, Any]
    samples: list[Shown]

    def show(self, console=None) -> None:
        """Prints everything, in colour where the terminal has it."""
        console = console or terminal()
        values = self.values
        place = f"{values['stages'].index(values['stage']) + 1} of {len(values['stages'])}"
        console.rule(f"[bold]{values['recipe']}[/bold], stage [bold]{values['stage']}[/bold] ({place})", align="left")
        print_parts(console, values)
        print_data(console, values)
        print_facts(console, values)
        for sample in self.samples:
            console.print()
            facts = sample.values()
            console.print(
                f"[bold]{_short(sample.name)}[/bold]  {facts['tokens']:,} tokens, {facts['trained_tokens']:,} trained"
            )
            console.print(sample.text(palette(console), LONG))


def print_parts(console, values: dict) -> None:
    table = _table("part", "parameters", "trained")
    for part, counts in values["parts"].items():
        table.add_row(part, f"{counts['parameters']:,}", f"{counts['trained']:,}" if counts["trained"] else "frozen",
                      style="" if counts["trained"] else "dim")  # fmt: skip
    every = sum(counts["parameters"] for counts in values["parts"].values())
    trained = sum(counts["trained"] for counts in values["parts"].values())
    table.add_row("all", f"{every:,}", f"{trained:,} ({trained / every:.2%})", style="bold")
    console.print(table)


def print_data(console, values: dict) -> None:
    from rich.table import Table
    from rich.text import Text

    names = ("data", "rows", "weight", "an epoch", "tokens", "longest", "trained", "pictures", "cut", "bad")
    table = _table(*names)
    for source in values["data"]:
        table.add_row(
            _short(source["path"], 40),
            f"{source['rows']:,}",
            f"{source['weight']:g}",
            f"{source['samples_an_epoch']:,}",
            f"{source['mean_tokens']:,.1f}",
            f"{source['max_tokens']:,}",
            f"{source['trained_tokens']:,.1f}",
            f"{source['pictures']:,}",
            _marked(source["truncated"], "yellow"),
            _marked(source["bad_rows"], "red"),
        )
    console.print(table)
    lines = []
    for source in values["data"]:
        for row in source["bad"]:
            alike = f" (and {row['alike']:,} more like it)" if row["alike"] else ""
            lines.append(f"{row['where']}, row {row['row']}, field '{row['field']}': {row['why']}{alike}")
        hidden = source["bad_rows"] - sum(1 + row["alike"] for row in source["bad"])
        if hidden:
            lines.append(f"… {hidden:,} more of {source['path']} for other reasons")
    if lines:
        bad = Table.grid(padding=(0, 2))
        for line in lines:
            bad.add_row(Text("bad", style="red"), Text(line, style="red"))
        console.print(bad)
        console.print()


def print_facts(console, values: dict) -> None:
    """The lines under the tables; `values` may hold some of them only."""
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2))
    facts: dict[str, Callable[[dict], Any]] = {
        "language": lambda values: values["language"],
        "steps": _steps_line,
        "rows": _row_line,
        "memory": _memory_line,
        "time": _time_line,
        "template": _template_line,
        "stop_tokens": _stop_line,
    }
    for name, line in facts.items():
        if values.get(name):
            text = line(values)
            title = "ends with" if name == "stop_tokens" else name
            table.add_row(Text(title, style="cyan"), Text(text) if isinstance(text, str) else text)
    console.print(table)


def _steps_line(values: dict) -> str:
    steps = values["steps"]
    held = f"; {values['validation_samples']:,} samples held out" if values["validation_samples"] else ""
    return f"{steps['total']:,} of {steps['batch_size']:,} samples; {steps['epoch']:,} an epoch{held}"


def _row_line(values: dict) -> str:
    rows = values["rows"]
    has = (
        f"{rows['pairs_a_step']:,.0f} pairs with {rows['tokens_a_step']:,.0f} tokens"
        if "pairs_a_step" in rows
        else f"{rows['tokens_a_step']:,.0f} tokens, {rows['trained_tokens_a_step']:,.0f} of them trained,"
    )
    line = f"a step has {has} in {rows['a_step']:,.1f} rows of at most {rows['row_length']:,}, {rows['filled']:.0%} full"
    if rows["saved_from_padding"] > 0.005:
        shared = rows["saved_by_sharing"]
        line += f"; {rows['saved_from_padding']:.0%} fewer than padded"
        line += f", {shared:.0%} by sharing pictures" if shared > 0.005 else ""
    return line


def _template_line(values: dict) -> str:
    template = values["template"]
    return f"{template['name']} ({template['source']}); answers are {template['answers']}"


def _memory_line(values: dict) -> str:
    needs = values["memory"]
    listed = ", ".join(
        f"{name} {_gib(number)}" for name, number in needs.items() if name not in ("total", "devices", "gpu") and number > 1e-5
    )
    line = f"about {_gib(needs['total'])} ({listed}), an estimate"
    if needs["gpu"]:
        has = estimate.GPUS[needs["gpu"]].memory
        total = needs["total"] + estimate.RUNTIME
        fits = "fits" if total <= has else "does NOT fit; lower row_length, or set gradient_checkpointing: true"
        line += f"; with CUDA itself {_gib(total)} of {has:g} GiB on each {needs['gpu']}: {fits}"
    return line


def _time_line(values: dict) -> str:
    time = values["time"]
    work = f"{time['teraflop_a_step']:.3g} TFLOP a step"
    if time["seconds"] is None:
        return f"{work}; --gpu NAME says how long that takes ({', '.join(estimate.GPUS)})"
    needs = values["memory"]
    many = f"{needs['devices']} x {needs['gpu']}" if needs["devices"] > 1 else needs["gpu"]
    long = duration(time["seconds"]) if time["seconds"] >= 1 else "a second"
    # Launching kernels, not computing, is what takes the time of a small model.
    small = ", which so small a model does not reach" if sum(c["parameters"] for c in values["parts"].values()) < 1e8 else ""
    return f"about {long} on {many} at {time['utilisation']:.0%} of its peak{small}, an estimate; {work}"


def _stop_line(values: dict):
    from rich.text import Text

    special = [token for token in values["stop_tokens"] if token["special"]]
    other = [token for token in values["stop_tokens"] if not token["special"]]
    line = Text()
    for token in special:
        line.append(", " if line else "")
        line.append(token["token"], style="bold green")
        line.append(f" (id {token['id']}): {token['share']:.1%} of answers")
    if other:
        line.append("; " if line else "")
        names = ", ".join(f"{visible(token['token']).strip()!r} (id {token['id']})" for token in other[:3])
        line.append(
            f"{1 - sum(token['share'] for token in special):.1%} on no special token (cut short?): {names}", style="yellow"
        )
    return line


def _gib(number: float) -> str:
    return f"{number:,.1f} GiB" if number >= 0.95 else f"{number * 1024:,.{1 if number >= 0.001 else 2}f} MiB"


def _marked(number: int, style: str) -> str:
    return f"[{style}]{number:,}[/{style}]" if number else "0"


def _short(name: str, most: int = 70) -> str:
    """A path without its middle if it is long; its brackets are no markup."""
    shown = name if len(name) <= most else f"…{name[-most + 1 :]}"
    return shown.replace("[", r"\[")


def _table(*names: str):
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for number, name in enumerate(names):
        table.add_column(name, justify="left" if number == 0 else "right", overflow="fold" if number == 0 else "ellipsis")
    return table
