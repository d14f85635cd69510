"""Whole data sets looked at row by row, in constant memory: what `boda data check` and `boda data stats` say."""

from __future__ import annotations

import bisect
import hashlib
import itertools
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from typing import Any, TextIO

from boda.data.images import load_image, probe_image
from boda.data.korean import formality
from boda.data.sample import Sample
from boda.data.sources import BadRows, guess
from boda.errors import BadRow, BodaError
from boda.files import as_lines
from boda.terminal import Progress, clear_line

SHOWN = 10
_EMPTY_ANSWER = re.compile(r"messages:.*assistant turn is empty|(answer|output|caption|chosen):.* empty")


class FirstBad(BadRows):
    """Bad rows, one for each row at fault, counted and written to `stream` as they come; only the first ten are kept."""

    def __init__(self, stream: TextIO):
        super().__init__()
        self.stream, self.count, self.empty_answers = stream, 0, 0
        self.last: tuple = ()

    def add(self, row: BadRow) -> None:
        if self.last == (row.where, row.row):
            return
        self.last = (row.where, row.row)
        self.count += 1
        self.empty_answers += bool(_EMPTY_ANSWER.match(f"{row.field}: {row.why}"))
        if len(self.rows) < SHOWN:
            self.rows.append(row)
        self.stream.write(as_lines([row.as_dict()]))

    def __len__(self) -> int:
        return self.count


class Check:
    """Decodes every picture once."""

    def __init__(self, fast: bool = False):
        self.fast = fast
        self.decoded: dict[bytes, str] = {}  # pictures -> what is wrong with each, or ""

    def add(self, sample: Sample) -> None:
        for image in () if self.fast else sample.images:
            if (key := _digest(image.key)) not in self.decoded:
                self.decoded[key] = ""
                try:
                    load_image(image)
                except BodaError as error:
                    self.decoded[key] = str(error)
            if self.decoded[key]:
                raise sample.bad("image", self.decoded[key])

    def values(self) -> dict[str, Any]:
        return {} if self.fast else {"pictures_decoded": len(self.decoded)}


class Stats:
    """Counts what there is, tokens too given how to; medians come from how often each value was seen."""

    def __init__(self, count_tokens: Callable[[str], int] | None = None):
        self.count_tokens = count_tokens
        self.counts: Counter[str] = Counter()
        self.seen: dict[str, Counter[int]] = defaultdict(Counter)
        self.licences: Counter[str] = Counter()
        self.pictures: set[bytes] = set()
        self.samples: set[bytes] = set()

    def add(self, sample: Sample) -> None:
        words = [(message.role, message.text) for message in sample.messages]
        self.counts["samples"] += 1
        self.counts["pairs"] += sample.rejected is not None
        self.counts["with_pictures"] += bool(sample.images)
        self.licences[sample.source.licence or "not stated"] += 1
        for image in sample.images:
            if (key := _digest(image.key)) not in self.pictures:
                self.pictures.add(key)
                for name, side in zip(("width", "height"), probe_image(image)):
                    self.seen[name][side] += 1
        key = _digest(repr((words, [image.key for image in sample.images], sample.rejected)))
        self.counts["duplicates"] += key in self.samples
        self.samples.add(key)
        for role, text in words:
            self.counts["turns"] += role != "system"
            self.counts["letters"] += sum(map(len, re.findall(r"[^\W\d_]+", text)))
            self.counts["hangul"] += sum(map(len, re.findall("[가-힣ㄱ-ㅣ]+", text)))
            self.seen[role][len(text)] += 1
            if role == "assistant":
                self.counts[formality(text)] += 1
        if self.count_tokens:
            self.seen["tokens"][sum(self.count_tokens(text) for _, text in words)] += 1

    def values(self) -> dict[str, Any]:
        counts, seen = self.counts, self.seen
        found: dict[str, Any] = {name: counts[name] for name in ("samples", "turns", "pairs", "duplicates")}
        found["pictures"] = len(self.pictures)
        if self.pictures:
            found |= {name: _spread(seen[name], minimum=0.0, median=0.5, maximum=1.0) for name in ("width", "height")}
            found["rows_per_picture"] = round(counts["with_pictures"] / len(self.pictures), 2)
        for name, role in (("question_characters", "user"), ("answer_characters", "assistant"), ("tokens", "tokens")):
            if seen[role]:
                found[name] = _spread(seen[role], median=0.5, p95=0.95)
        if self.count_tokens:
            found["tokens"]["total"] = sum(value * times for value, times in seen["tokens"].items())
        found["hangul_share"] = round(counts["hangul"] / max(1, counts["letters"]), 4)
        answers = max(1, seen["assistant"].total())
        found |= {f"{style}_share": round(counts[style] / answers, 4) for style in ("polite", "plain")}
        return found | {"licences": dict(self.licences)}


def survey(
    name: str,
    start: Callable[[BadRows], Iterator[Sample]],
    look: Check | Stats,
    bad_rows: FirstBad,
    limit: int | None = None,
    quiet: bool = False,
) -> dict[str, Any]:
    """Reads a data set (at most `limit` samples) to its end and says what there is; under `problem` what stopped the reading.

    `start` begins to read, given where bad rows go.
    """
    count, problem = 0, ""
    progress = Progress(lambda seen: f"{name}: {seen.done:,} samples, {seen.rate:,.0f} a second", quiet=quiet)
    try:
        for count, sample in enumerate(itertools.islice(start(bad_rows), limit), 1):
            try:
                look.add(sample)
            except BodaError as error:
                bad_rows.add(error if isinstance(error, BadRow) else sample.bad("image", str(error)))
            progress.update(count)
    except BodaError as error:
        problem = str(error)
    clear_line()
    rows = max(bad_rows.seen, len(bad_rows))
    found = {"name": name, "format": ", ".join(bad_rows.formats), "rows": rows}
    found |= {"good": rows - len(bad_rows), "bad": len(bad_rows)}
    if bad_rows.left_out:
        found["left_out"] = dict(bad_rows.left_out)
    if count:
        found |= look.values() | {"empty_answers": bad_rows.empty_answers}
    if not found["good"] and (hint := guess(bad_rows.example, next(iter(bad_rows.formats), None))):
        found["suggestion"] = hint.removeprefix("; ")
    return found | {"problem": problem, "bad_rows": [row.as_dict() for row in bad_rows.rows]}


def table(found: dict[str, Any]) -> str:
    """What `survey` found, for people: a line for each number, then the first bad rows."""
    shown = {key: value for key, value in found.items() if key not in ("name", "bad_rows") and value not in ("", {})}
    width = max(map(len, shown))
    lines = [found["name"], *(f"  {key.replace('_', ' '):<{width}}  {_said(key, value)}" for key, value in shown.items())]
    lines += [f"  {row['where']}, row {row['row']}, {row['field']}: {row['why']}" for row in found["bad_rows"]]
    return "\n".join(lines + ["  ..."] * (found["bad"] > len(found["bad_rows"])))


def _said(key: str, value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_said('', each)}" for name, each in value.items())
    return str(value) if isinstance(value, str) else f"{value:.1%}" if key.endswith("_share") else f"{value:,}"


def _spread(seen: Counter[int], **shares: float) -> dict[str, int]:
    """Of values and how often each was seen, those below which these shares lie."""
    values = sorted(seen)
    sums = list(itertools.accumulate(seen[value] for value in values))
    return {name: values[bisect.bisect_left(sums, max(1, share * sums[-1]))] for name, share in shares.items()}


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
