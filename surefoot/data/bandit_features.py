"""The context of a bandit log from a file's columns: numbers as they are, text one-hot, and a note on whatever is left out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from surefoot.data.bandit_log import check_numbers
from surefoot.data.bandit_table import Table, as_number, no_column, numbers, shown
from surefoot.errors import ConfigError, DataError

CATEGORIES = 32
"""Different texts up to which a text column is one-hot encoded; with more it looks like an id or a remark."""


def read_features(
    table: Table, named: Sequence[str] | None, used: Mapping[str, str], reserved: Mapping[str, str]
) -> tuple[np.ndarray, tuple[str, ...], list[str]]:
    """(context `[n, d]`, names of the features, notes on what was encoded or left out).

    `named`: the columns that are features, None for all that are nothing else. `used`: columns that are something else, and what.
    `reserved`: names that sound like something else, and what; such columns are features only if they are named. Raises DataError
    or ConfigError.
    """
    notes: list[str] = []
    parts: list[tuple[str, np.ndarray]] = []
    for name in _feature_columns(table, named, used, reserved, notes):
        column = table.columns[name]
        if column.dtype.kind in "biuf":
            values = numbers(table, name).reshape(table.n, -1)
            check_numbers(values, f"column {name!r}", table.source)
            titles = [name] if column.ndim == 1 else [f"{name}_{i}" for i in range(values.shape[1])]
            parts += zip(titles, values.T, strict=True)
        else:
            encoded = one_hot(table, name, asked=named is not None)
            if encoded is None:
                notes.append(f"column {name!r} holds more than {CATEGORIES} different texts, so it is no feature")
                continue
            notes.append(f"column {name!r} holds text: it became {len(encoded)} features, one a value")
            parts += encoded
    context = np.stack([values for _, values in parts], 1) if parts else np.empty((table.n, 0))
    return context, tuple(title for title, _ in parts), notes


def _feature_columns(
    table: Table, named: Sequence[str] | None, used: Mapping[str, str], reserved: Mapping[str, str], notes: list[str]
) -> Iterator[str]:
    """The columns that are the context, in order; notes on those that are left out."""
    if named is not None:
        for name in named:
            if name not in table.columns:
                raise no_column(table, name)
            if name in used:
                raise ConfigError(f"the features name {name!r}, which is {used[name]}: leave it out (--features).")
            if table.columns[name].dtype.kind == "M":
                raise DataError(
                    f"{table.source}: column {name!r} holds dates: turn them into numbers (hour, weekday) to use it as a feature."
                )
            yield name
        return
    for name, column in table.columns.items():
        if name in used:
            continue
        if name in reserved:
            notes.append(f"column {name!r} sounds like another {reserved[name]}, so it is no feature (--features can name it)")
        elif column.dtype.kind == "M":
            notes.append(f"column {name!r} holds dates, so it is no feature")
        elif _is_empty(column):
            notes.append(f"column {name!r} is empty, so it is no feature")
        elif _is_row_number(column):
            notes.append(f"column {name!r} counts the rows, so it is no feature")
        else:
            yield name


def _is_empty(column: np.ndarray) -> bool:
    return all(x is None for x in column.tolist()) if column.dtype == object else bool(np.isnan(column.astype(np.float64)).all())


def _is_row_number(column: np.ndarray) -> bool:
    return column.ndim == 1 and column.dtype.kind in "iu" and len(column) > 1 and bool((np.diff(column.astype(np.int64)) == 1).all())


def one_hot(table: Table, name: str, asked: bool) -> list[tuple[str, np.ndarray]] | None:
    """A text column as a feature a value; what is missing is a value of its own, called (missing).

    With too many values: None, or a DataError if the column was `asked` for, or if most of it is numbers.
    """
    values = table.columns[name].tolist()
    if any(isinstance(value, list | np.ndarray) for value in values):
        lists = "holds lists of several lengths or of text, which are no numbers"
        raise DataError(f"{table.source}: column {name!r} {lists}: choose other columns (--features).")
    texts = np.array(["(missing)" if value is None or value == "" else str(value) for value in values])
    distinct, inverse = np.unique(texts, return_inverse=True)
    if len(distinct) > CATEGORIES:
        odd = [row for row, value in enumerate(values) if value is None or as_number(value) is None]
        if 0 < len(odd) < len(values) / 2:
            what = "missing" if values[odd[0]] is None else shown(values[odd[0]])
            raise DataError(f"{table.source}: column {name!r} is {what} in row {odd[0]}, but mostly numbers: repair or remove that row.")
        if not asked:
            return None
        raise DataError(
            f"{table.source}: column {name!r} holds {len(distinct)} different texts ({shown(values[0])} in row 0), more than the "
            f"{CATEGORIES} that are one-hot encoded: group them, or leave it out."
        )
    return [(f"{name}={value}", (inverse == i).astype(np.float64)) for i, value in enumerate(distinct.tolist())]
