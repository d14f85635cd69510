"""Samples and tables as they are shown on a terminal: trained tokens in colour, pictures as chips, what a stage needs."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from rich import box
from rich.table import Table
from rich.text import Text

from boda import terminal
from boda.data.prepared import PreparedData
from boda.data.render import Rendered
from boda.terminal import duration, harmless
from boda.train import estimate

MAX_SPANS = 5_000  # samples whose answers' ends are looked at
SHORT, LONG = 160, 900  # pieces of a sample that are shown


Palette = dict[str, tuple[str, ...]]
# Styles of trained tokens and of others, whose neighbours take turns so that they can be told apart, of pictures and of gaps.
RICH: Palette = {
    "trained": ("bold #ffffff on #17643a", "bold #ffffff on #2b8a57"),
    "other": ("#8a8a8a", "#707070"),
    "picture": ("bold #003040 on #5fd7e5",),
    "gap": ("italic yellow",),
}
# A terminal of 16 colours would make grey of these greens.
PLAIN = RICH | {
    "trained": ("bold white on green", "bold black on bright_green"),
    "other": ("bright_black",),
    "picture": ("bold black on cyan",),
}
NO_COLOUR: Palette = dict.fromkeys(RICH, ("",))


def palette(console) -> Palette:
    """What the terminal can show."""
    if console.color_system is None or console.no_color:
        return NO_COLOUR
    return PLAIN if console.color_system in ("standard", "windows") else RICH


@dataclass(frozen=True)
class Piece:
    """Tokens that are shown together: as few as give whole letters, a picture's, or those left out (a gap)."""

    text: str
    tokens: int
    trained: bool
    kind: str = ""


def _runs(pieces: list[Piece]):
    """(trained, pieces) of neighbours that are trained, or are not."""
    return itertools.groupby(pieces, key=lambda piece: piece.trained)


@dataclass(frozen=True)
class Shown:
    """A sample cut into pieces for the eye."""

    name: str
    pieces: list[Piece]

    def values(self) -> dict:
        """Its counts, and all of it as plain text in which what is trained stands between ⟦ and ⟧."""
        runs = [(trained, "".join(piece.text for piece in run)) for trained, run in _runs(self.pieces)]
        return {
            "name": self.name,
            "tokens": sum(piece.tokens for piece in self.pieces),
            "trained_tokens": sum(piece.tokens for piece in self.pieces if piece.trained),
            "text": "".join(f"⟦{words}⟧" if trained else words for trained, words in runs),
        }

    def text(self, colours: Palette, most: int):
        """The sample as rich text: trained tokens on green, or between ⟦ and ⟧ where there is no colour."""
        text, pieces = Text(), self.pieces
        left_out = len(pieces) - most
        if left_out > 0:
            head = most // 3  # the end is what answers are; a little of the beginning shows the template
            hidden = sum(piece.tokens for piece in pieces[head : head + left_out])
            gap = Piece(f" … {hidden:,} tokens … ", hidden, pieces[head].trained, "gap")
            pieces = [*pieces[:head], gap, *pieces[head + left_out :]]
        for trained, run in _runs(pieces):
            left, right = ("⟦", "⟧") if trained and colours is NO_COLOUR else ("", "")
            text.append(left)
            for number, piece in enumerate(run):
                styles = colours[piece.kind or ("trained" if trained else "other")]
                text.append(visible(piece.text), styles[number % len(styles)])
            text.append(right)
        text.rstrip()
        return text


def visible(text: str) -> str:
    """Line breaks shown as ↵ and still broken, control characters as symbols."""
    return harmless(text).replace("\n", "↵\n")


def pieces_of(rendered: Rendered, image_id: int, num_image_tokens: int, tokenizer) -> list[Piece]:
    """A rendered sample as pieces of whole letters, each of as few tokens as that takes."""

    def decoded(tokens: list[int]) -> str:
        return tokenizer.decode(tokens, skip_special_tokens=False)

    pieces: list[Piece] = []
    before: list[int] = []  # the piece before, which says whether this one begins with a space
    ids: list[int] = []
    tokens = list(zip(rendered.input_ids.tolist(), rendered.trained.tolist()))
    for (token, trained), (next_token, next_trained) in zip(tokens, [*tokens[1:], (image_id, False)]):
        if token == image_id:
            pieces.append(Piece(f"[그림 ×{num_image_tokens}]", num_image_tokens, trained, "picture"))
            before = []
            continue
        ids.append(token)
        known, text = len(decoded(before)), decoded(before + ids)
        is_whole = len(text) > known and not text.endswith("\ufffd")
        if is_whole or next_token == image_id or next_trained != trained:
            pieces.append(Piece(text[known:], len(ids), trained))
            before, ids = ids, []
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
    for index in range(0, len(data), max(1, len(data) // MAX_SPANS)):
        rendered = data.row(index)
        last = rendered.trained & ~np.append(rendered.trained[1:], False)
        start, end = rendered.answer
        if rendered.trained[1] and start < end:  # all tokens are trained: the last answer's end is told by its place
            last = np.arange(len(last)) == end - 1
        found = rendered.input_ids[last].tolist()
        if not rendered.trained[1] or special.issuperset(found):  # a piece of a longer text ends anywhere
            ends.update(found)
    return [
        {"id": token, "token": tokenizer.decode([token]), "share": number / ends.total(), "special": token in special}
        for token, number in ends.most_common(8)
    ]


@dataclass
class Report:
    """What `inspect` found: `values` for programs, `show()` for people."""

    values: dict[str, Any]
    samples: list[Shown]

    def show(self, console=None) -> None:
        """Prints everything, in colour where the terminal has it."""
        console, values = console or terminal.console(), self.values
        place = f"{values['stages'].index(values['stage']) + 1} of {len(values['stages'])}"
        console.rule(f"[bold]{values['recipe']}[/bold], stage [bold]{values['stage']}[/bold] ({place})", align="left")
        print_parts(console, values)
        print_data(console, values)
        print_facts(console, values)
        for sample, facts in zip(self.samples, values["samples"]):
            counts = f"{facts['tokens']:,} tokens, {facts['trained_tokens']:,} trained"
            console.print(f"\n[bold]{_short(sample.name)}[/bold]  {counts}")
            console.print(sample.text(palette(console), LONG))


def print_parts(console, values: dict) -> None:
    table = _table("part", "parameters", "trained")
    for part, counts in values["parts"].items():
        trained = f"{counts['trained']:,}" if counts["trained"] else "frozen"
        table.add_row(part, f"{counts['parameters']:,}", trained, style="" if counts["trained"] else "dim")
    every, trained = (sum(counts[key] for counts in values["parts"].values()) for key in ("parameters", "trained"))
    table.add_row("all", f"{every:,}", f"{trained:,} ({trained / every:.2%})", style="bold")
    console.print(table)


# The columns of the table of sources, and which of their values each shows.
TITLES = ("rows", "weight", "an epoch", "share", "tokens", "longest", "trained", "pictures", "cut", "bad")
SHOWN = "rows weight samples_an_epoch share mean_tokens max_tokens trained_tokens pictures truncated bad_rows".split()


def print_data(console, values: dict) -> None:
    table, bad = _table("data", *TITLES), Table.grid(padding=(0, 2))
    for source in values["data"]:
        styles = {key: style for key, style in (("truncated", "yellow"), ("bad_rows", "red")) if source[key]}
        shown = {key: f"{source[key]:,.5g}" if isinstance(source[key], float) else f"{source[key]:,}" for key in SHOWN}
        shown["share"] = f"{source['share']:.1%}"  # of an epoch's tokens
        cells = [Text(words, styles.get(key, "")) for key, words in shown.items()]
        table.add_row(_short(source["path"], 32), *cells)
        for row in source["bad"]:
            more = f" (and {row['alike']:,} more like it)" if row["alike"] else ""
            bad.add_row(
                "bad", Text(f"{row['where']}, row {row['row']}, field '{row['field']}': {row['why']}{more}"), style="red"
            )
        if hidden := source["bad_rows"] - sum(1 + row["alike"] for row in source["bad"]):
            bad.add_row("bad", Text(f"… {hidden:,} more of {source['path']} for other reasons"), style="red")
    console.print(table)
    if bad.row_count:
        console.print(bad)
        console.print()


def print_facts(console, values: dict) -> None:
    """The lines under the tables; `values` may hold some of them only."""
    table = Table.grid(padding=(0, 2))
    facts: dict[str, Callable[[dict], Any]] = {
        "language": lambda values: values["language"],
        "steps": _steps_line,
        "rows": _row_line,
        "memory": _memory_line,
        "time": _time_line,
        "template": lambda values: "{name} ({source}); answers are {answers}".format(**values["template"]),
        "stop_tokens": _stop_line,
    }
    for name, line in facts.items():
        if values.get(name):
            table.add_row(Text({"stop_tokens": "ends with"}.get(name, name), style="cyan"), Text() + line(values))
    console.print(table)


def _steps_line(values: dict) -> str:
    steps = values["steps"]
    held = f"; {values['validation_samples']:,} samples held out" if values["validation_samples"] else ""
    return f"{steps['total']:,} of {steps['batch_size']:,} samples; {steps['epoch']:,} an epoch{held}"


def _row_line(values: dict) -> str:
    rows = values["rows"]
    has = f"{rows['tokens_a_step']:,.0f} tokens"
    if "pairs_a_step" in rows:
        has = f"{rows['pairs_a_step']:,.0f} pairs with {has}"
    else:
        has += f", {rows['trained_tokens_a_step']:,.0f} of them trained,"
    line = f"a step has {has} in {rows['a_step']:,.1f} rows of at most {rows['row_length']:,}, {rows['filled']:.0%} full"
    if rows["saved_from_padding"] > 0.005:
        line += f"; {rows['saved_from_padding']:.0%} fewer than padded"
        if rows["saved_by_sharing"] > 0.005:
            line += f", {rows['saved_by_sharing']:.0%} by sharing pictures"
    return line


def _memory_line(values: dict) -> str:
    needs = values["memory"]
    parts = {name: number for name, number in needs.items() if name not in ("total", "devices", "gpu") and number > 1e-5}
    listed = ", ".join(f"{name} {_gib(number)}" for name, number in parts.items())
    line = f"about {_gib(needs['total'])} ({listed}), an estimate"
    if needs["gpu"]:
        has, total = estimate.GPUS[needs["gpu"]].memory, needs["total"] + estimate.RUNTIME
        fits = "fits" if total <= has else "does NOT fit; lower row_length, or set gradient_checkpointing: true"
        line += f"; with CUDA itself {_gib(total)} of {has:g} GiB on each {needs['gpu']}: {fits}"
    return line


def _time_line(values: dict) -> str:
    time, needs = values["time"], values["memory"]
    work = f"{time['teraflop_a_step']:.3g} TFLOP a step"
    if time["seconds"] is None:
        return f"{work}; --gpu NAME says how long that takes ({', '.join(estimate.GPUS)})"
    many = f"{needs['devices']} x {needs['gpu']}" if needs["devices"] > 1 else needs["gpu"]
    long = duration(time["seconds"]) if time["seconds"] >= 1 else "a second"
    # Launching kernels, not computing, is what takes the time of a small model.
    small = ", which so small a model does not reach" if sum(c["parameters"] for c in values["parts"].values()) < 1e8 else ""
    return f"about {long} on {many} at {time['utilisation']:.0%} of its peak{small}, an estimate; {work}"


def _stop_line(values: dict):
    line = Text()
    special = [token for token in values["stop_tokens"] if token["special"]]
    other = [token for token in values["stop_tokens"] if not token["special"]]
    for token in special:
        line.append(", " if line else "").append(token["token"], style="bold green")
        line.append(f" (id {token['id']}): {token['share']:.1%} of answers")
    if other:
        names = ", ".join(f"{visible(token['token']).strip()!r} (id {token['id']})" for token in other[:3])
        rest = 1 - sum(token["share"] for token in special)
        line.append("; " if line else "").append(f"{rest:.1%} on no special token (cut short?): {names}", style="yellow")
    return line


def _gib(number: float) -> str:
    return f"{number:,.1f} GiB" if number >= 0.95 else f"{number * 1024:,.{1 if number >= 0.001 else 2}f} MiB"


def _short(name: str, most: int = 70) -> str:
    """A path without its middle if it is long; its brackets are no markup."""
    shown = name if len(name) <= most else f"…{name[-most + 1 :]}"
    return shown.replace("[", r"\[")


def _table(first: str, *others: str):
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column(first, overflow="fold")
    for name in others:
        table.add_column(name, justify="right", overflow="ellipsis")
    return table
