"""Paths read from CSV, Parquet or npz: columns `path`, `t`, `x_0`, `x_1`, …, `reward`, `payoff`, or what the reader's own log calls them.

    path,t,x_0,reward,payoff
    a,0.0,1.2,0.4,
    a,0.7,1.1,,0.9

Rows are as in `surefoot.data.paths.Paths.of`. Time stamps that are dates become numbers in a unit that must be said, since every
rate (of reward, of discount, of forgetting) is in that unit. Nothing is ever unpickled.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from surefoot.data.columns import ALIASES, readable
from surefoot.data.paths import Paths
from surefoot.data.readers import PICKLES, missing
from surefoot.errors import ConfigError, DataError, UnknownNameError

NAMES: dict[str, tuple[str, ...]] = {
    "path": ("path", "path_id", *ALIASES["episode"], "id"),
    "t": ("t", "time", "timestamp", "date"),
    "x": ("x", *ALIASES["obs"]),
    "reward": ("reward_rate", *ALIASES["reward"]),
    "payoff": ("payoff", "terminal_payoff", "terminal_reward"),
}
"""What each column may be called; the first that a file has is read. States may be numbered: `x_0`, `x_1`, …"""

UNITS = {"second": 1.0, "minute": 60.0, "hour": 3600.0, "day": 86400.0, "week": 604800.0, "year": 365.25 * 86400.0}
"""Units of time for stamps that are dates, in seconds."""

Renaming: TypeAlias = Mapping[str, str | Sequence[str]]
"""Our columns by the file's own names: `{"path": "patient", "x": ["glucose", "dose"]}`."""


def read_paths(
    ref: str | Path,
    *,
    columns: Renaming | None = None,
    reward: str = "rate",
    payoff: float | None = None,
    time_unit: str | None = None,
) -> Paths:
    """The log of paths in a `.csv`, `.parquet` or `.npz` file, checked.

    `columns`: the file's own names where they differ from ours. `reward`: "rate" (earned in a unit of time), "per_step" (earned from
    one row to the next; divided by dt) or "none" (the file has no rewards). `payoff`: what the end of every path pays, for a file
    without such a column. `time_unit`: one of `UNITS`, for stamps that are dates.

    Raises DataError naming file, path, row (0 is the first below the names) and value, UnknownNameError and ConfigError for options.
    """
    path = Path(ref)
    suffix = path.suffix.lower()
    if suffix in PICKLES:
        raise DataError(f"{ref} is a pickle, which can only be read by running the code in it, so it is not read: save the arrays as npz.")
    if suffix not in (".csv", ".parquet", ".npz"):
        raise DataError(f"{ref} is of no kind that is read as paths: give .csv, .parquet or .npz.")
    if not path.is_file():
        raise missing(path)
    unknown = sorted(set(columns or {}) - set(NAMES))
    if unknown:
        raise UnknownNameError("column", unknown[0], NAMES)
    table = _archive(path) if suffix == ".npz" else _table(path, suffix)
    found = _found(table, columns or {}, str(ref))
    rewards = None if reward == "none" else _one(table, found, "reward", str(ref))
    if payoff is not None and found["payoff"]:
        raise ConfigError(f"{ref} has the column {found['payoff'][0]!r}: do not give a payoff for all paths as well.")
    return Paths.of(
        _one(table, found, "path", str(ref)),
        _clock(_one(table, found, "t", str(ref)), time_unit, str(ref)),
        _states(table, found["x"], str(ref)),
        rewards,
        _one(table, found, "payoff", str(ref)) if found["payoff"] else payoff,
        reward_is=reward,
        source=str(ref),
    )


# --- files ----------------------------------------------------------------------------------------------------------


def _table(path: Path, suffix: str) -> dict[str, np.ndarray]:
    """Every column of a table; missing numbers are NaN, columns of lists `[M, width]`."""
    with readable(path, suffix[1:]):
        table = pyarrow.csv.read_csv(path) if suffix == ".csv" else pyarrow.parquet.read_table(path)
        return {name: _array(table.column(name), name, path) for name in table.column_names}


def _array(column: pa.ChunkedArray, name: str, path: Path) -> np.ndarray:
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if pa.types.is_decimal(column.type) or pa.types.is_null(column.type):
        column = column.cast(pa.float64())
    if pa.types.is_timestamp(column.type):
        column = column.cast(pa.timestamp("ns"))
    array = column.to_numpy()
    if array.dtype.kind != "O" or not pa.types.is_nested(column.type):
        return array
    widths = {-1 if row is None else len(row) for row in array}
    if len(widths) > 1:
        raise DataError(f"{path}: column {name!r} holds lists of {sorted(widths)[:3]} numbers: all rows must have as many.")
    return np.stack(array) if len(array) else np.empty((0, 1))


def _archive(path: Path) -> dict[str, np.ndarray]:
    with readable(path, "npz"):
        archive = np.load(path, allow_pickle=False)
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise DataError(f"{path} holds one array, not an npz of several: save it with np.savez(path, path=..., t=..., x=..., ...).")
        with archive:
            return {name: _member(archive, name, path) for name in archive.files}


def _member(archive: np.lib.npyio.NpzFile, name: str, path: Path) -> np.ndarray:
    try:
        return archive[name]
    except ValueError as error:
        if "pickle" not in str(error):
            raise
        what = f"{path}: column {name!r} holds Python objects, a pickle, which is not opened"
        raise DataError(f"{what}: save it as an array of numbers (or of text).") from None


# --- columns --------------------------------------------------------------------------------------------------------


def _found(table: Mapping[str, np.ndarray], columns: Renaming, source: str) -> dict[str, list[str]]:
    """The file's column of each field, none if it has none; states may have several."""
    found: dict[str, list[str]] = {}
    for field, aliases in NAMES.items():
        given = columns.get(field)
        if given is not None:
            found[field] = [given] if isinstance(given, str) else list(given)
        else:
            found[field] = next(([name] for name in aliases if name in table), [])
            if field == "x" and not found[field]:
                found[field] = _numbered(table, source)
        for name in found[field]:
            if name not in table:
                raise UnknownNameError(f"column of {source}", name, table)
        if len(found[field]) > 1 and field != "x":
            raise ConfigError(f"columns has {len(found[field])} names for {field!r}: it is one column.")
    return found


def _numbered(table: Mapping[str, np.ndarray], source: str) -> list[str]:
    """`x_0`, `x_1`, … in order of their numbers."""
    for stem in NAMES["x"]:
        numbers = sorted(int(match[1]) for name in table if (match := re.fullmatch(rf"{stem}_(\d+)", name)))
        lost = next((i for i, number in enumerate(numbers) if i != number), None)
        if lost is not None:
            raise DataError(f"{source}: column '{stem}_{lost}' is missing: states are numbered from 0 without a gap.")
        if numbers:
            return [f"{stem}_{i}" for i in numbers]
    return []


def _one(table: Mapping[str, np.ndarray], found: Mapping[str, list[str]], field: str, source: str) -> np.ndarray:
    if found[field]:
        return table[found[field][0]]
    there = ", ".join(sorted(table)[:12]) or "nothing"
    what = f"{source}: there is no column {field!r} ({' or '.join(NAMES[field][:3])}); it holds {there}"
    hint = f'name it with columns={{"{field}": ...}}' + (', or say reward="none" if only the end pays' if field == "reward" else "")
    raise DataError(f"{what}: {hint}.")


def _states(table: Mapping[str, np.ndarray], names: Sequence[str], source: str) -> np.ndarray:
    if not names:
        _one(table, {"x": []}, "x", source)
    for name in names:
        if table[name].dtype.kind not in "biuf":
            raise DataError(f"{source}: column {name!r} holds text or dates instead of numbers: store it as numbers.")
    return np.concatenate([table[name].reshape(len(table[name]), -1).astype(np.float64) for name in names], -1)


def _clock(t: np.ndarray, unit: str | None, source: str) -> np.ndarray:
    """Time stamps as numbers: as they are, or dates in units since the first of the log."""
    if unit is not None and unit not in UNITS:
        raise UnknownNameError("time unit", unit, UNITS)
    if t.dtype.kind != "M":
        if unit is not None:
            raise ConfigError(f"time_unit is {unit!r}, but the time stamps of {source} are numbers already: leave it out.")
        return t
    if unit is None:
        raise ConfigError(f"the time stamps of {source} are dates: say with time_unit in what rates are ({', '.join(UNITS)}).")
    undated = np.isnat(t)
    since = (t - t[~undated].min()) / np.timedelta64(1, "s") if not undated.all() else np.zeros(len(t))
    return np.where(undated, np.nan, since / UNITS[unit])
