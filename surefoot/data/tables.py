"""Logs in tables, CSV and Parquet: one row a transition, a column a number (`obs_0`, `obs_1`, …) or a column of lists (`obs`)."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from surefoot.data.columns import ALIASES, SLICE, Column, Columns, readable
from surefoot.data.log import Log
from surefoot.data.metadata import KEY, Metadata, from_json
from surefoot.data.packing import Request, pack
from surefoot.data.spec import Discrete
from surefoot.errors import DataError

NUMBERED = re.compile(rf"({'|'.join(name for field in ('obs', 'action', 'next_obs') for name in ALIASES[field])})_(\d+)")
"""Columns that are one feature of a field: `obs_3`, `actions_0`."""

COMMENT = f"# {KEY} "
"""How the first line of a CSV begins if it is our writer's, with the metadata after it."""

Batches = Callable[[list[str]], Iterator[pa.RecordBatch]]
"""Record batches with these columns alone, in the order of the rows."""


def read_csv(path: Path, request: Request) -> Log:
    """A CSV with a line of names first. It is parsed whole: for long logs take another format."""
    metadata = Metadata()
    with readable(path, "CSV"), path.open(encoding="utf-8") as file:
        line = file.readline()
        ours = line.startswith(COMMENT)
    if ours:
        metadata = from_json(line.removeprefix(COMMENT), str(path))
    with readable(path, "CSV"):
        reading = pyarrow.csv.ReadOptions(skip_rows=int(ours))
        names = pyarrow.csv.open_csv(path, reading).schema.names
        parsing = pyarrow.csv.ConvertOptions(column_types={name: pa.float32() for name in names if _is_real(name, metadata)})
        table = pyarrow.csv.read_csv(path, reading, convert_options=parsing)
    log = pack(_columns(table.schema, table.num_rows, partial(_chosen, table), str(path)), request, metadata)
    del table
    pa.default_memory_pool().release_unused()  # several times the log, which the pool would keep
    return log


def _chosen(table: pa.Table, columns: list[str]) -> Iterator[pa.RecordBatch]:
    return iter(table.select(columns).to_batches(SLICE))


def _is_real(name: str, metadata: Metadata) -> bool:
    """Columns that are parsed as float32 whatever they look like; without metadata, actions show by their form what they are."""
    field = re.sub(r"_\d+$", "", name)
    if field in ALIASES["action"]:
        return metadata.action is not None and not isinstance(metadata.action, Discrete)
    return any(field in ALIASES[key] for key in ("obs", "next_obs", "reward"))


def read_parquet(paths: Sequence[Path], request: Request) -> Log:
    """One or more Parquet files as one log, read field by field, so that the packed log is all that is held."""
    files = []
    for path in paths:
        with readable(path, "Parquet"):
            files.append(pyarrow.parquet.ParquetFile(path, pre_buffer=False))  # else all of a column is read ahead
    first = files[0].schema_arrow
    for path, file in zip(paths, files, strict=True):
        if file.schema_arrow.names != first.names:
            raise DataError(f"{path} has other columns than {paths[0].name}: the files of one log must have the same.")
    text = (first.metadata or {}).get(KEY.encode())
    metadata = None if text is None else from_json(text.decode(), str(paths[0]))
    rows = [file.metadata.num_rows for file in files]

    def batches(chosen: list[str]) -> Iterator[pa.RecordBatch]:
        for path, file in zip(paths, files, strict=True):
            with readable(path, "Parquet"):
                yield from file.iter_batches(SLICE, columns=chosen)

    columns = _columns(first, sum(rows), batches, request.source)
    return pack(columns, request, metadata, [int(row) for row in np.cumsum(rows[:-1])])


# --- columns of tables as fields ------------------------------------------------------------------------------------


def _columns(schema: pa.Schema, rows: int, batches: Batches, source: str) -> Columns:
    """The table's columns, with those of one field (`obs_0`, `obs_1`, …) put together under its name."""
    groups: dict[str, dict[int, str]] = {}
    columns: dict[str, Callable[[], Column]] = {}
    for name in schema.names:
        numbered = NUMBERED.fullmatch(name)
        if numbered:
            groups.setdefault(numbered[1], {})[int(numbered[2])] = name
        else:
            columns[name] = partial(_column, name, [name], rows, batches, source)
    for field, members in groups.items():
        lost = next((i for i in range(len(members)) if i not in members), None)
        if lost is not None:
            raise DataError(f"{source}: column '{field}_{lost}' is missing between {sorted(members.values())}.")
        columns[field] = partial(_column, field, [members[i] for i in range(len(members))], rows, batches, source)
    return columns


def _column(name: str, members: list[str], rows: int, batches: Batches, source: str) -> Column:
    """One field of a table; shape and dtype are those of its first batch."""
    start = next(iter(batches(members)), None)
    example = _stack(start, name, members, 0, source) if start is not None else np.empty(0)

    def parts() -> Iterator[np.ndarray]:
        first = 0
        for batch in batches(members):
            part = _stack(batch, name, members, first, source)
            if part.shape[1:] != example.shape[1:]:
                what = f"holds {part.shape[1:]} numbers in row {first}, but {example.shape[1:]} in row 0"
                raise DataError(f"{source}: field {name!r} {what}: all rows must have one shape.")
            yield part
            first += len(part)

    return Column(name, rows, example.shape[1:], example.dtype, parts)


def _stack(batch: pa.RecordBatch, name: str, members: list[str], first: int, source: str) -> np.ndarray:
    """The columns of one field as `[m]` (one plain column) or `[m, width]`."""
    arrays = [_numbers(batch.column(member), member, first, source) for member in members]
    return arrays[0] if members == [name] else np.stack(arrays, -1)


def _numbers(array: pa.Array, name: str, first: int, source: str) -> np.ndarray:
    """An Arrow array as numpy; missing numbers become NaN, lists `[m, width]`. Raises DataError for lists of several lengths."""
    if isinstance(array, pa.ListArray | pa.LargeListArray | pa.FixedSizeListArray):
        lengths = np.asarray(array.value_lengths().fill_null(-1))
        if len(lengths) and (lengths != lengths[0]).any():
            row = int(np.argmax(lengths != lengths[0]))
            was = "missing" if lengths[row] < 0 else f"a list of {lengths[row]}"
            raise DataError(
                f"{source}: field {name!r} is {was} in row {first + row}, but has {lengths[0]} numbers before: they must agree."
            )
        inner = _numbers(array.flatten(), name, first, source)
        return inner.reshape(len(array), max(int(lengths[0]), 0) if len(lengths) else 0, *inner.shape[1:])
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    if pa.types.is_decimal(array.type) or pa.types.is_null(array.type):
        array = array.cast(pa.float64())
    if pa.types.is_boolean(array.type) and array.null_count:
        array = array.cast(pa.int8())
    return array.to_numpy(zero_copy_only=False)
