"""`--where "price < 50000 and title like '%가방%'"`: a condition on the columns kept with the pictures."""

from __future__ import annotations

import ast
import re
import unicodedata
from functools import reduce

import numpy as np

from boda.errors import BodaError

WORDS = {"null": "None", "like": "@", "true": "True", "false": "False"} | {word: word for word in "and or not in is".split()}
COMPARE = {"Eq": "equal", "NotEq": "not_equal", "Lt": "less", "LtE": "less_equal", "Gt": "greater", "GtE": "greater_equal"}


def matching(table, text: str) -> np.ndarray:
    """Which rows of a pyarrow table a condition in SQL's words holds for, (rows,) bool; a missing value fulfils none.

    Raises BodaError if it cannot be read, or names a column that is not there.
    """
    import pyarrow as pa

    pieces = re.split("('[^']*')", unicodedata.normalize("NFC", text).strip())
    for place in range(0, len(pieces), 2):  # what stands outside quotes, as Python would write it
        python = re.sub(r"(?<![<>=!])=(?!=)", "==", pieces[place].replace("<>", "!="))
        pieces[place] = re.sub(r"\b[A-Za-z]+\b", lambda word: WORDS.get(word[0].lower(), word[0]), python)
    try:
        found = _value(ast.parse("".join(pieces), mode="eval").body, table)
        if not isinstance(found, (pa.Array, pa.ChunkedArray)) or not pa.types.is_boolean(found.type):
            raise NotImplementedError("it is no condition")
        return np.asarray(found.fill_null(False), bool)
    except (SyntaxError, KeyError, ValueError, pa.ArrowException, NotImplementedError) as error:
        names = ", ".join(name for name in table.column_names if not name.startswith("_")) or "none"
        example = "price < 50000 and title like '%가방%'"
        raise BodaError(f'--where "{text}" cannot be used ({error}); columns kept: {names}; such as "{example}"') from error


def _value(node: ast.AST, table):
    import pyarrow as pa
    import pyarrow.compute as pc

    match node:
        case ast.BoolOp(op=op, values=parts):
            return reduce(pc.and_kleene if isinstance(op, ast.And) else pc.or_kleene, [_value(part, table) for part in parts])
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            return pc.invert(_value(operand, table))
        case ast.BinOp(left=left, op=ast.MatMult(), right=ast.Constant(value=str(pattern))):
            return pc.match_like(_value(left, table), pattern)
        case ast.Compare(left=left, ops=[ast.In()], comparators=[ast.Tuple() as values]):
            return pc.is_in(_value(left, table), pa.array(ast.literal_eval(values)))
        case ast.Compare(left=left, ops=[ast.Is() | ast.IsNot() as op], comparators=[ast.Constant(value=None)]):
            return (pc.is_null if isinstance(op, ast.Is) else pc.is_valid)(_value(left, table))
        case ast.Compare(left=left, ops=[op], comparators=[right]) if type(op).__name__ in COMPARE:
            return getattr(pc, COMPARE[type(op).__name__])(_value(left, table), _value(right, table))
        case ast.Name(id=name) if not name.startswith("_"):
            return table[name]
        case ast.Constant() | ast.UnaryOp(op=ast.USub()):
            return ast.literal_eval(node)
    raise NotImplementedError(f"'{ast.unparse(node)}' is not understood")
