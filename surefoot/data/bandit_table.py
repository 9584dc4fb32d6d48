"""Columns of a file of decisions, as arrays with one row each, and what they hold read as numbers, marks or dates.

A column is numbers (`[n]`, or `[n, w]` for lists of one length), dates (datetime64), or objects: text or lists, None where nothing
stands. Every error names the file's own column, the row (of the file, from 0) and the value.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from surefoot.errors import DataError


@dataclass(frozen=True)
class Table:
    """The columns of a file, and what our writer said about them."""

    columns: Mapping[str, np.ndarray]
    source: str
    features: tuple[str, ...] | None = None
    actions: tuple[str, ...] | None = None
    action_features: np.ndarray | None = None

    def __post_init__(self) -> None:
        n = {len(column) for column in self.columns.values()}
        if not n or n == {0}:
            raise DataError(f"{self.source}: the log holds no rows: give at least one.")
        if len(n) > 1:
            sizes = ", ".join(f"{name} {len(column)}" for name, column in self.columns.items())
            raise DataError(f"{self.source}: columns differ in their number of rows ({sizes}): they must agree.")

    @property
    def n(self) -> int:
        return len(next(iter(self.columns.values())))


def no_column(table: Table, name: str) -> DataError:
    near = difflib.get_close_matches(name, table.columns, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(map(repr, near))}?" if near else f"it holds {', '.join(list(table.columns)[:12])}."
    return DataError(f"{table.source}: there is no column {name!r}: {hint}")


def numbers(table: Table, name: str) -> np.ndarray:
    """A column as float64 `[n]` (or `[n, w]`), NaN where nothing stands. Raises DataError for text and dates, at the first of it."""
    column = table.columns[name]
    if column.dtype.kind in "biuf":
        return column.astype(np.float64)
    if column.dtype.kind == "M":
        raise DataError(f"{table.source}: column {name!r} holds dates instead of numbers.")
    out = np.full(len(column), np.nan)
    for row, value in enumerate(column.tolist()):
        number = as_number(value)
        if number is None and value is not None:
            raise DataError(f"{table.source}: column {name!r} is {shown(value)} in row {row}, which is not a number.")
        out[row] = np.nan if number is None else number
    return out


def as_number(value: object) -> float | None:
    """A number, or text that is one (`float` reads more, such as 1_000, which nobody means)."""
    if isinstance(value, int | float | np.number):
        return float(value)
    if not isinstance(value, str) or "_" in value:
        return None
    try:
        return float(value)
    except ValueError:
        return None


def shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "..."


def flags(table: Table, name: str) -> np.ndarray:
    """A column of true and false, or 1 and 0, as `[n]` bool."""
    column = table.columns[name]
    values = column if column.dtype == bool else numbers(table, name)
    wrong = ~((values == 0) | (values == 1))
    if wrong.any():
        row = int(np.argmax(wrong))
        raise DataError(f"{table.source}: column {name!r} is {values[row]} in row {row}: it must be 0 or 1 (false or true).")
    return values.astype(bool)


def as_dates(column: np.ndarray) -> np.ndarray | None:
    """Text in ISO 8601, with or without a time of day and a zone, as datetime64; None if any of it is something else."""
    for kind in (pa.timestamp("us"), pa.timestamp("us", "UTC")):
        try:
            return pa.array(column.tolist(), pa.string()).cast(kind).to_numpy(zero_copy_only=False)
        except (pa.ArrowInvalid, pa.ArrowTypeError):
            continue
    return None
