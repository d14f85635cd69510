"""Files of KMMLU, HAE-RAE, KoBEST and CLIcK as they lie on disk -> rows in the schema of the hub's data sets, which lm-eval reads."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from boda.data.files import Place
from boda.data.rows import text_rows
from boda.data.sources import resolve_data
from boda.errors import BadRow, BodaError

# subset: {the hub's column: the column in KoBEST's own tables}
KOBEST = {
    "boolq": {"paragraph": "Text", "question": "Question", "label": "Answer"},
    "copa": {"premise": "sentence", "question": "question", "alternative_1": "1", "alternative_2": "2", "label": "Answer"},
    "hellaswag": {"context": "context", **{f"ending_{n}": f"choice{n}" for n in range(1, 5)}, "label": "label"},
    "sentineg": {"sentence": "Text", "label": "Label"},
    "wic": {"word": "Target", "context_1": "SENTENCE1", "context_2": "SENTENCE2", "label": "ANSWER"},
}
DEV, DEV_WORDS = {"kobest": "validation", "kmmlu": "dev"}, ("dev", "val", "valid", "validation")  # the hub's name, and files'
SUBSET_COLUMNS = ("subject", "subset", "Category", "category", "task")
SUFFIXES = (".json", ".jsonl", ".csv", ".tsv", ".parquet")
# How the worked examples of KMMLU end, which give no answer of their own.
WORKED = re.compile(r"정답은\s*\(?([A-D])\)?\s*입니다")

QUOTED = re.compile(r'"(?:[^"]|"")*"')

Fault = Callable[[str, str], BadRow]
Splits = dict[str, dict[str, list[dict]]]  # {subset: {split: rows}}


def _kobest(row: dict, subset: str, fault: Fault) -> dict:
    found = {}
    for ours, theirs in KOBEST[subset].items():
        if ours not in row and theirs not in row:
            raise fault(ours, f"there is no column '{ours}' (in KoBEST's own tables '{theirs}'); there are {', '.join(row)}")
        found[ours] = row.get(ours, row.get(theirs))
    said = str(found["label"]).strip().lower()
    label = {"false": "0", "true": "1"}.get(said, said)
    first = 1 if subset == "copa" and "label" not in row else 0  # its own tables count choices from 1
    if not label.isdecimal() or not 0 <= int(label) - first < (4 if subset == "hellaswag" else 2):
        raise fault("label", f"'{said}' is no label of {subset}")
    return found | {"label": int(label) - first}


def _kmmlu(row: dict, subset: str, fault: Fault) -> dict:
    found = _columns(row, ("question", "A", "B", "C", "D"), fault)
    worked = ["", *WORKED.findall(str(row.get("target", "")))]
    said = str(row.get("answer", "")).strip() or worked[-1]
    if said not in tuple("1234ABCD"):
        raise fault("answer", f"'{said}' is neither 1 to 4 nor A to D")
    return found | {"answer": "ABCD".index(said) + 1 if said in "ABCD" else int(said)}


def _haerae(row: dict, subset: str, fault: Fault) -> dict:
    found = _columns(row, ("query", "answer"), fault)
    if found["answer"] not in [f"({letter})" for letter in "ABCDE"]:
        raise fault("answer", f"'{found['answer']}' is none of (A) to (E)")
    return found


def _click(row: dict, subset: str, fault: Fault) -> dict:
    found = _columns({"paragraph": "", **row}, ("id", "paragraph", "question", "choices", "answer"), fault)
    choices = found["choices"]
    if not isinstance(choices, list) or not 4 <= len(choices) <= 5 or found["answer"] not in choices:
        raise fault("answer", f"it must be one of the row's four or five choices, and '{found['answer']}' is not")
    return found | {"paragraph": found["paragraph"] or ""}


CONVERT = {"kobest": _kobest, "kmmlu": _kmmlu, "haerae": _haerae, "click": _click}


def _columns(row: dict, names: tuple[str, ...], fault: Fault) -> dict:
    if missing := [name for name in names if row.get(name) is None]:
        raise fault(missing[0], f"there is none; the row has {', '.join(row)}")
    return {name: row[name] for name in names}


def local_rows(family: str, path: str, data_dir: str | Path | None, subsets: list[str]) -> Splits:
    """{subset: {split: rows}} of a folder (a zip or tar, too) or file, for those of `subsets` (the hub's names) that are there.

    A file says by its name or folders which subset and split it holds (`BoolQ/test.tsv`, `Law-dev.csv`, `test/law.jsonl`), else
    each row does (`subject`, `category`); without a word of a split it is the test. Raises BodaError: nothing usable there.
    """
    place = Place.of(resolve_data(path, data_dir))
    files = [file for file in ([place] if place.is_file else place.files()) if file.suffix in SUFFIXES]
    known = {_plain(name): name for name in subsets}
    alone = subsets[0] if place.is_file and len(subsets) == 1 else None
    found: Splits = defaultdict(lambda: defaultdict(list))
    for file in files:
        subset, split = _told(family, file, known)
        for number, row in _rows(file):
            told = (known.get(_plain(str(row[name]))) for name in SUBSET_COLUMNS if name in row)
            if of := subset or alone or next(told, None):
                found[of][split].append(CONVERT[family](row, of, partial(BadRow, str(file), number)))
    if not found:
        looked = ", ".join(subsets[:5]) + (", ..." if len(subsets) > 5 else "")
        raise BodaError(
            f"{place}: none of its {len(files)} data files ({', '.join(SUFFIXES)}) is called after a subset ({looked}), as "
            f"{subsets[0]}-test.csv or {subsets[0]}/test.tsv would be, or has a column (subject) that names them"
        )
    return {subset: dict(splits) for subset, splits in found.items()}


def _rows(file: Place) -> Iterator[tuple[int | str, dict]]:
    if file.suffix == ".parquet":
        import pyarrow.parquet

        yield from enumerate(pyarrow.parquet.read_table(file.path).to_pylist())
        return
    for number, row in text_rows(file):
        if isinstance(row, BadRow):
            raise row
        if file.suffix == ".tsv":  # KoBEST's tables: some cells are quoted as in CSV, others just begin with a quotation mark
            row = {name: value[1:-1].replace('""', '"') if QUOTED.fullmatch(value) else value for name, value in row.items()}
        yield number, row


def _told(family: str, file: Place, known: dict[str, str]) -> tuple[str | None, str]:
    """(subset or None, split) by what a file and its folders are called."""
    if family == "click":
        return next(iter(known.values())), "train"
    splits = {"test": "test"}
    if family in DEV:
        splits |= {"train": "train", **dict.fromkeys(DEV_WORDS, DEV[family])}
    stem = re.sub(r"-\d+-of-\d+$", "", Path(str(file).removesuffix(".gz")).stem)
    names = [*map(_plain, Path(str(file)).parts[:-1]), _plain(stem)]
    split = "test"
    if match := re.fullmatch(rf"(.*?)_?({'|'.join(splits)})", names[-1]):
        names[-1], split = match[1], splits[match[2]]
    elif len(names) > 1 and names[-2] in splits:
        split = splits[names[-2]]
    return next((known[name] for name in reversed(names) if name in known), None), split


def _plain(name: str) -> str:
    """Law, law; Political-Science-and-Sociology, political_science_and_sociology; loan_words, loan_word."""
    return re.sub(r"[-\s]+", "_", name.strip().lower()).removesuffix("s")
