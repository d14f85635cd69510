"""Tables: csv, tsv, or JSON rows of plain columns, turned to questions and answers by templates."""

from __future__ import annotations

from boda.data.sources.common import Format, table_samples

FORMAT = Format(
    looks_like='a line of column names, then rows; with question="{Q}" and answer="{A}", or columns named question and answer',
    recognises=lambda names: {"question", "answer"} <= names,
    samples=table_samples,
)
