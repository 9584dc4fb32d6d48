"""Bandit logs as files: Parquet (or a folder of it), CSV, npz. One row a decision; nothing is ever unpickled.

What a file must hold is in docs/bandits.md. Our writers put the names of actions and features beside the rows, so that a log comes back as
it was; files that others wrote are read by the names of their columns (`surefoot.data.bandit_columns`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet

from surefoot.data.bandit_columns import PREFIX, ColumnNames, bandit_log
from surefoot.data.bandit_log import BanditLog
from surefoot.data.bandit_table import Table
from surefoot.data.columns import readable
from surefoot.data.readers import PICKLES, missing
from surefoot.errors import DataError
from surefoot.files import replacing_file

KEY = "surefoot_bandit"
"""Under this name our metadata stands in a file: an entry of a Parquet schema, or, after a #, the first line of a CSV."""

FORMAT = 1

NOTHING = ["", "NaN", "nan", "NA", "N/A", "null", "NULL"]
"""How a CSV says that a number is missing; in a column of text only the first is missing."""


def read_bandit_log(ref: str | Path, names: ColumnNames | None = None, *, sort: bool = False) -> BanditLog:
    """The bandit log in a file (.parquet, .csv, .npz) or in a folder of Parquet, in the order of the files' names (2 before 10).

    `names` says which column is what where it does not go without saying; `sort` puts rows in the order of their time instead of
    refusing them. What was decided about columns is in `log.notes`.

    Raises DataError naming file, column, row and value; ConfigError where `names` contradicts itself.
    """
    path = Path(ref)
    if not path.exists():
        raise missing(path)
    suffix = path.suffix.lower()
    if path.is_dir():
        table = _parquet(_shards(path), str(ref))
    elif suffix in PICKLES:
        raise DataError(f"{ref} is a pickle, which can only be read by running the code in it, so it is not read: save it as Parquet.")
    elif suffix not in READERS:
        raise DataError(f"{ref} is of no kind that is read as a bandit log: give {', '.join(READERS)}, or a folder of Parquet.")
    elif path.stat().st_size == 0:
        raise DataError(f"{ref} is empty: copy or write it again.")
    else:
        table = READERS[suffix](path)
    return bandit_log(table, names or ColumnNames(), sort)


def write_bandit_log(log: BanditLog, ref: str | Path) -> None:
    """Write a log as the suffix says: .parquet, .csv or .npz; whole or not at all, and it reads back number for number.

    Raises DataError for another suffix or for features that are called as something else is, CheckpointError where nothing can be written.
    """
    path = Path(ref)
    check_bandit_place(path)
    with replacing_file(path) as new:
        WRITERS[path.suffix.lower()](log, new)


def check_bandit_place(ref: str | Path) -> None:
    """Raises DataError if no log will be written under this name; to be asked before time is spent on the log."""
    path = Path(ref)
    if path.suffix.lower() not in WRITERS:
        raise DataError(f"{path} is of no kind that bandit logs are written as: take {', '.join(WRITERS)}.")
    if path.is_dir():
        raise DataError(f"{path} is a folder: name a file in it.")


# --- Parquet --------------------------------------------------------------------------------------------------------


def _shards(folder: Path) -> list[Path]:
    files = [p for p in folder.iterdir() if p.suffix.lower() == ".parquet" and not p.name.startswith((".", "_"))]
    if not files:
        raise DataError(f"{folder} is a folder without .parquet files: name a file.")
    return sorted(files, key=lambda p: [int(x) if x.isdecimal() else x for x in re.split(r"(\d+)", p.name)])


def _parquet(paths: list[Path], source: str) -> Table:
    tables = []
    for path in paths:
        with readable(path, "Parquet"):
            tables.append(pyarrow.parquet.ParquetFile(path).read())
        if tables[-1].column_names != tables[0].column_names:
            raise DataError(f"{path} has other columns than {paths[0].name}: the files of one log must have the same.")
    with readable(source, "one log"):
        table = pa.concat_tables(tables, promote_options="permissive")
    text = (tables[0].schema.metadata or {}).get(KEY.encode())
    return _table(table, None if text is None else text.decode(), source)


def _write_parquet(log: BanditLog, path: Path) -> None:
    table = pa.table(_written(log)).replace_schema_metadata({KEY: _description(log)})
    pyarrow.parquet.write_table(table, path, compression="zstd")


# --- CSV ------------------------------------------------------------------------------------------------------------


def _csv(path: Path) -> Table:
    """Every column is read as text and becomes numbers if all of it is, so that the first rows do not decide for the rest."""
    mark = f"# {KEY} "
    with readable(path, "CSV"), path.open(encoding="utf-8") as file:
        line = file.readline()
    ours = line.startswith(mark)
    with readable(path, "CSV"):
        reading = pyarrow.csv.ReadOptions(skip_rows=int(ours))
        parsing = pyarrow.csv.ParseOptions(newlines_in_values=True)
        names = pyarrow.csv.open_csv(path, reading, parsing).schema.names
        texts = pyarrow.csv.ConvertOptions(column_types=dict.fromkeys(names, pa.string()))
        raw = pyarrow.csv.read_csv(path, reading, parsing, texts)
        table = pa.table([_guessed(column) for column in raw.columns], names=names)
    return _table(table, line.removeprefix(mark) if ours else None, str(path))


def _guessed(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Text as whole numbers, numbers, or true and false, if all of it is such; else, and for codes such as 007, as it is."""
    text = pc.if_else(pc.equal(column, ""), None, column)
    if pc.any(pc.match_substring_regex(text, r"^0\d")).as_py():
        return text
    bare = pc.utf8_trim_whitespace(column)
    there = pc.if_else(pc.is_in(bare, value_set=pa.array(NOTHING)), None, bare)
    for kind in (pa.int64(), pa.float64(), pa.bool_()):
        try:
            return there.cast(kind)
        except pa.ArrowInvalid:
            continue
    return text


def _write_csv(log: BanditLog, path: Path) -> None:
    with path.open("wb") as file:
        file.write(f"# {KEY} {_description(log)}\n".encode())
        pyarrow.csv.write_csv(pa.table(_written(log)), file)


# --- tables of both kinds -------------------------------------------------------------------------------------------


def _table(table: pa.Table, description: str | None, source: str) -> Table:
    twice = next((name for name in table.column_names if table.column_names.count(name) > 1), None)
    if twice is not None:
        raise DataError(f"{source}: two columns are called {twice!r}: give each a name of its own.")
    columns = {name: as_array(table.column(name)) for name in table.column_names if not name.startswith("__index_level_")}
    return Table(columns, source, **_described(description, source))


def as_array(column: pa.ChunkedArray) -> np.ndarray:
    """An Arrow column as numbers (NaN where missing), dates, lists of one length `[n, w]`, or objects (None where missing)."""
    array = column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)
    kind = array.type
    if pa.types.is_dictionary(kind):
        array, kind = array.dictionary_decode(), kind.value_type
    if pa.types.is_decimal(kind) or pa.types.is_duration(kind):
        array = array.cast(pa.float64() if pa.types.is_decimal(kind) else pa.int64())
    elif pa.types.is_boolean(kind) and array.null_count:
        array = array.cast(pa.int8())
    elif pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return _lists(array)
    elif not (_is_number(kind) or pa.types.is_boolean(kind) or pa.types.is_timestamp(kind) or pa.types.is_date(kind)):
        return np.fromiter(array.to_pylist(), object, len(array))
    return array.to_numpy(zero_copy_only=False)


def _is_number(kind: pa.DataType) -> bool:
    return pa.types.is_integer(kind) or pa.types.is_floating(kind)


def _lists(array: pa.Array) -> np.ndarray:
    lengths = np.asarray(array.value_lengths().fill_null(-1))
    inner = array.type.value_type
    if len(lengths) and (lengths == lengths[0]).all() and lengths[0] > 0 and (_is_number(inner) or pa.types.is_boolean(inner)):
        return as_array(pa.chunked_array([array.flatten()])).reshape(len(array), int(lengths[0]))
    return np.fromiter(array.to_pylist(), object, len(array))


def _written(log: BanditLog) -> dict[str, Any]:
    """The columns of a log, one a feature; availability is written where it varies. Raises DataError where two would have one name."""
    columns: dict[str, Any] = {
        "generation": log.generation,
        "action": pa.array(np.array(log.actions, object)[log.action].tolist()),
        "reward": log.reward,
    }
    if log.propensity is not None:
        columns["propensity"] = log.propensity
    if not log.available.all():
        columns |= {f"{PREFIX}{name}": log.available[:, k] for k, name in enumerate(log.actions)}
    for j, name in enumerate(log.features):
        if name in columns:
            raise DataError(f"{log.source}: feature {name!r} cannot be written beside the log's own column of that name: rename it.")
        columns[name] = np.ascontiguousarray(log.context[:, j])
    return columns


def _description(log: BanditLog) -> str:
    more = None if log.action_features is None else log.action_features.tolist()
    return json.dumps({"format": FORMAT, "actions": log.actions, "features": log.features, "action_features": more})


def _described(text: str | None, source: str) -> dict[str, Any]:
    """What `_description` wrote, for `Table`. Raises DataError where it is damaged or of a later format."""
    if text is None:
        return {}
    try:
        saved = json.loads(text)
        if saved["format"] != FORMAT:
            raise DataError(f"{source} is of format {saved['format']}, this version of surefoot reads format {FORMAT}: update surefoot.")
        more = saved["action_features"]
        return {
            "actions": tuple(map(str, saved["actions"])),
            "features": tuple(map(str, saved["features"])),
            "action_features": None if more is None else np.array(more, np.float64),
        }
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{source}: what surefoot wrote about the log is damaged ({error!r}): write the log again.") from None


# --- npz ------------------------------------------------------------------------------------------------------------


def _npz(path: Path) -> Table:
    """Arrays with one row a decision; `actions` (names), `features` (names) and `action_features` `[K, da]` are about the whole log."""
    arrays: dict[str, np.ndarray] = {}
    with readable(path, "npz"):
        archive = np.load(path, allow_pickle=False)
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise DataError(f"{path} holds one array, not an npz of several: save it with np.savez(path, context=..., action=..., ...).")
        with archive:
            for name in archive.files:
                try:
                    arrays[name] = archive[name]
                except ValueError as error:
                    if "pickle" not in str(error):
                        raise
                    what = f"field {name!r} holds Python objects, a pickle, which is not opened"
                    raise DataError(f"{path}: {what}: save it as an array of numbers or text.") from None
    actions = arrays.pop("actions", None) if "action" in arrays else None
    features, more = arrays.pop("features", None), arrays.pop("action_features", None)
    titles = None if features is None else tuple(map(str, features.tolist()))
    context = arrays.get("context")
    if titles is not None and context is not None and context.ndim == 2 and len(titles) == context.shape[1]:
        del arrays["context"]
        arrays |= dict(zip(titles, context.T, strict=True))
    columns = {name: array.astype(object) if array.dtype.kind in "US" else array for name, array in arrays.items() if array.ndim > 0}
    return Table(columns, str(path), titles, None if actions is None else tuple(map(str, actions.tolist())), more)


def _write_npz(log: BanditLog, path: Path) -> None:
    arrays: dict[str, Any] = {name: getattr(log, name) for name in ("context", "reward", "available", "generation")}
    arrays |= {name: getattr(log, name) for name in ("propensity", "action_features") if getattr(log, name) is not None}
    names = np.array(log.actions)
    np.savez(path, action=names[log.action], actions=names, features=np.array(log.features, str), **arrays)


READERS: dict[str, Callable[[Path], Table]] = {
    ".parquet": lambda path: _parquet([path], str(path)),
    ".csv": _csv,
    ".npz": _npz,
}
"""Which function reads files of which suffix."""

WRITERS: dict[str, Callable[[BanditLog, Path], None]] = {".parquet": _write_parquet, ".csv": _write_csv, ".npz": _write_npz}
"""Which function writes files of which suffix."""
