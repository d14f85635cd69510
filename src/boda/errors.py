"""What goes wrong for a user, said once and clearly."""

from __future__ import annotations

WHY = "<why>"  # in what `explaining` says: what the error says itself


class BodaError(ValueError):
    """A mistake or a missing thing that the user can mend; the command line prints it without a traceback."""


class explaining:
    """Errors of some kinds become one BodaError: `with explaining(f"{path} cannot be read: {WHY}", OSError, ValueError): ...`.

    A BodaError says enough, and goes through, unless it is one of the kinds.
    """

    def __init__(self, said: str, *kinds: type[Exception]):
        self.said, self.kinds = said, kinds

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind, error, trace) -> None:
        if isinstance(error, self.kinds) and (BodaError in self.kinds or not isinstance(error, BodaError)):
            words = getattr(error, "strerror", None) or str(error).strip() or type(error).__name__
            why = words if isinstance(error, BodaError) else words.splitlines()[0]
            raise BodaError(self.said.replace(WHY, why)) from error


class BadRow(BodaError):
    """One row of a data set that cannot be used: `row` (its number from 0, or its id) of a file, the field at fault, and why."""

    def __init__(self, where: str, row: int | str, field: str, why: str):
        super().__init__(f"{where}, row {row}, field '{field}': {why}")
        self.where, self.row, self.field, self.why = str(where), row, field, why

    def as_dict(self) -> dict[str, str | int]:
        """The row as written to `bad_rows.jsonl`."""
        return {"where": self.where, "row": self.row, "field": self.field, "why": self.why}

    def __reduce__(self):
        return type(self), (self.where, self.row, self.field, self.why)


class LeftOut(BadRow):
    """A sound row that a rule leaves out: counted under `why`, and no mistake."""
