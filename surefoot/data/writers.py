"""A log as a file, a folder or a Minari data set. What is written is written whole or not at all, and read back bit for bit."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from surefoot.data.columns import SLICE
from surefoot.data.log import Log
from surefoot.data.metadata import KEY, to_json
from surefoot.data.minari_sets import MINARI, check_new, write_minari
from surefoot.data.tables import COMMENT
from surefoot.errors import DataError
from surefoot.files import replacing_file, replacing_folder, unwritable

D4RL_NAMES = {
    "obs": "observations",
    "action": "actions",
    "reward": "rewards",
    "next_obs": "next_observations",
    "terminated": "terminals",
    "truncated": "timeouts",
}


def write_log(log: Log, ref: str | Path) -> None:
    """Write a log as the suffix of `ref` says: .npz, .hdf5 or .h5 (D4RL layout), .csv, .parquet; no suffix: a packed log,
    which is a folder that is mapped into memory when it is read; `minari:ID`: a local Minari data set.

    A file or packed log that was there is replaced; another folder, or a Minari data set, is not. The last transition of an
    episode that does not terminate is written as truncated. Raises what `check_place` raises, and CheckpointError where
    nothing can be written.
    """
    check_place(ref)
    text, path = str(ref), Path(ref)
    if text.startswith(MINARI):
        write_minari(log, text.removeprefix(MINARI))
    elif path.suffix.lower() in WRITERS:
        with replacing_file(path) as new:
            WRITERS[path.suffix.lower()](log, new)
    else:
        write_packed(log, path)


def check_place(ref: str | Path) -> None:
    """Raises a DataError if a log will not be written under this name, a CheckpointError if the place cannot be written to.

    To be asked before time is spent on the log.
    """
    text, path = str(ref), Path(ref)
    if text.startswith(MINARI):
        check_new(text.removeprefix(MINARI))
        return
    suffix = path.suffix.lower()
    if suffix in WRITERS:
        if path.is_dir():
            raise DataError(f"{path} is a folder: name a file in it.")
    elif suffix and not path.is_dir():
        raise DataError(f"{path} is of no kind that logs are written as: take {', '.join(WRITERS)}, no suffix for a folder, or minari:ID.")
    elif path.is_file():
        raise DataError(f"{path} is a file: a packed log is a folder: choose another name.")
    elif path.is_dir() and any(path.iterdir()) and not (path / "log.json").is_file():
        raise DataError(f"{path} is a folder that holds something else than a packed log, so it is not replaced: choose another name.")
    there = next(parent for parent in path.absolute().parents if parent.exists())
    if not there.is_dir():
        raise unwritable(path, NotADirectoryError(f"{there} is a file"))
    if not os.access(there, os.W_OK):
        raise unwritable(path, PermissionError(f"{there} is not writable"))


def fields(log: Log, rows: slice = slice(None)) -> dict[str, np.ndarray]:
    """The log's fields under our names; views of the packed rows where the kind of number allows it."""
    t = log.layout.unpack(log.packed[rows])
    terminated = t.terminated.numpy().astype(bool)
    shape = (-1, *log.obs_shape)
    return {
        "obs": t.obs.reshape(shape).numpy(),
        "action": t.action.numpy(),
        "reward": t.reward.numpy(),
        "next_obs": t.next_obs.reshape(shape).numpy(),
        "terminated": terminated,
        "truncated": log.ends[rows] & ~terminated,
    }


def slices(log: Log) -> Iterator[tuple[slice, dict[str, np.ndarray]]]:
    """The fields in pieces, for formats that are written piece by piece."""
    for start in range(0, len(log), SLICE):
        rows = slice(start, min(start + SLICE, len(log)))
        yield rows, fields(log, rows)


def write_npz(log: Log, path: Path) -> None:
    arrays: dict[str, Any] = fields(log) | {KEY: np.array(to_json(log))}
    np.savez(path, **arrays)


def write_hdf5(log: Log, path: Path) -> None:
    with h5py.File(path, "w") as file:
        file.attrs[KEY] = to_json(log)
        for rows, piece in slices(log):
            for field, values in piece.items():
                name = D4RL_NAMES[field]
                if rows.start == 0:
                    file.create_dataset(name, (len(log), *values.shape[1:]), values.dtype)
                file[name][rows] = values


def write_csv(log: Log, path: Path) -> None:
    """A line of metadata that begins with #, a line of names, the rows; float32 numbers in as many digits as they need."""
    with path.open("wb") as file:
        file.write(f"{COMMENT}{to_json(log)}\n".encode())
        writer = None
        for _, piece in slices(log):
            batch = _numbered(piece)
            if writer is None:
                writer = pyarrow.csv.CSVWriter(file, batch.schema)
            writer.write_batch(batch)
        if writer is not None:
            writer.close()


def _numbered(piece: dict[str, np.ndarray]) -> pa.RecordBatch:
    """A column a number: `obs_0`, `obs_1`, …"""
    columns: dict[str, np.ndarray] = {}
    for field, values in piece.items():
        if values.ndim == 1:
            columns[field] = values
        else:
            columns |= {f"{field}_{i}": np.ascontiguousarray(column) for i, column in enumerate(values.reshape(len(values), -1).T)}
    return pa.RecordBatch.from_pydict({name: pa.array(column) for name, column in columns.items()})


def write_parquet(log: Log, path: Path) -> None:
    """A column a field; those with several numbers are lists of fixed length."""
    writer = None
    for _, piece in slices(log):
        batch = pa.RecordBatch.from_pydict({field: _listed(values) for field, values in piece.items()})
        if writer is None:
            schema = batch.schema.with_metadata({KEY: to_json(log)})
            writer = pyarrow.parquet.ParquetWriter(path, schema, compression="zstd", use_dictionary=False)
        writer.write_batch(batch)
    if writer is not None:
        writer.close()


def _listed(values: np.ndarray) -> pa.Array:
    if values.ndim == 1:
        return pa.array(values)
    flat = values.reshape(len(values), -1)
    return pa.FixedSizeListArray.from_arrays(pa.array(np.ascontiguousarray(flat).reshape(-1)), flat.shape[1])


def write_packed(log: Log, path: Path) -> None:
    """`packed.npy` (the matrix itself), `ends.npy`, `log.json`."""
    with replacing_folder(path) as new:
        np.save(new / "packed.npy", log.packed.contiguous().numpy())
        np.save(new / "ends.npy", log.ends)
        description = json.loads(to_json(log)) | {"rows": len(log)}
        (new / "log.json").write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")


WRITERS: dict[str, Callable[[Log, Path], None]] = {
    ".npz": write_npz,
    ".hdf5": write_hdf5,
    ".h5": write_hdf5,
    ".csv": write_csv,
    ".parquet": write_parquet,
}
"""Which function writes files of which suffix."""
