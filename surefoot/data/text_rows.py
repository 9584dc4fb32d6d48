"""Rows of text as files hold them: JSON lines, Parquet, a saved Hugging Face data set, a folder of such files, a data set of the Hub.

Rows come one after the other, so that no file is held twice. A row that cannot be read is no end of the file: it says what is wrong
with it. Nothing is ever unpickled, and no code that comes with a data set is run.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet

from surefoot.data.columns import readable
from surefoot.data.readers import PICKLES, missing
from surefoot.errors import ConfigError, DataError, MissingExtraError, UnknownNameError, first_line

BATCH = 1024  # rows of Parquet and Arrow that are turned into Python objects at once
JSON = (".jsonl", ".ndjson", ".json")
SUFFIXES = (*JSON, ".parquet")
HUB = re.compile(r"[\w.-]+/[\w.-]+")
SAVED = ("dataset_dict.json", "state.json", "dataset_info.json")
"""What `datasets.Dataset.save_to_disk` leaves in its folder."""


@dataclass(frozen=True)
class Row:
    """One row: its values by column, or, where it cannot be read, what is wrong with it."""

    where: str  # as `prefs.jsonl, line 3`; lines are counted from 1 as editors do, rows of tables from 0
    values: dict[str, Any]
    problem: str = ""


@dataclass(frozen=True)
class Part:
    """One file of a data set. `columns` are those of its first row; `rows(columns)` reads these."""

    name: str
    columns: tuple[str, ...]
    rows: Callable[[Sequence[str]], Iterator[Row]]


def is_text_data(ref: str | Path) -> bool:
    """Whether `ref` names rows of text rather than a log: by its suffix, by the columns of its first Parquet file, or as OWNER/NAME."""
    path = Path(ref)
    if not path.exists() and _on_hub(ref):
        return True
    if path.is_dir():
        if _is_saved(path):
            return True
        inside = [p for p in path.iterdir() if p.suffix.lower() in SUFFIXES] if not (path / "log.json").exists() else []
        return bool(inside) and is_text_data(min(inside))
    if path.suffix.lower() == ".parquet" and path.is_file():
        columns = _parquet(path).columns if path.stat().st_size else ()
        return "prompt" in columns or {"chosen", "rejected"} <= set(columns)
    return path.suffix.lower() in JSON


def text_parts(ref: str | Path, split: str | None = None) -> list[Part]:
    """The files behind `ref`: a file, a folder of files in the order of their names (2 before 10), a folder that `save_to_disk`
    wrote, or OWNER/NAME on the Hugging Face Hub. `split` chooses among the splits of the last two (default: train, or the only one).

    Raises DataError for what cannot be read or is empty, ConfigError for a split of what has none, MissingExtraError without
    `datasets`.
    """
    path = Path(ref)
    if not path.exists():
        if not _on_hub(ref):
            raise missing(path)
        return [_of_hub(str(ref), split)]
    if path.is_dir() and _is_saved(path):
        return [_saved(path, split)]
    if split is not None:
        raise ConfigError(f"{ref} has no splits, but split is {split!r}: leave --split out, or name the file of that split.")
    return [_file(each) for each in (_files(path) if path.is_dir() else [path])]


def _on_hub(ref: str | Path) -> bool:
    """OWNER/NAME, and nothing here that it could have been meant for."""
    path = Path(ref)
    return HUB.fullmatch(str(ref)) is not None and path.suffix.lower() not in (*SUFFIXES, *PICKLES) and not path.parent.is_dir()


def _is_saved(folder: Path) -> bool:
    return any((folder / name).is_file() for name in SAVED)


def _files(folder: Path) -> list[Path]:
    if (folder / "model.safetensors").exists() or (folder / "tokenizer_config.json").exists():
        raise DataError(f"{folder} is the folder of a model, not of data: name a file or folder of texts.")
    files = [p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES and not p.name.startswith((".", "_"))]
    if not files:
        raise DataError(f"{folder} is a folder without {' or '.join(SUFFIXES)} files: name a file.")
    return sorted(files, key=lambda p: [int(x) if x.isdecimal() else x for x in re.split(r"(\d+)", p.name)])


def _file(path: Path) -> Part:
    suffix = path.suffix.lower()
    if suffix in PICKLES:
        raise DataError(f"{path} is a pickle, which can only be read by running the code in it, so it is not read: save it as JSON lines.")
    if suffix not in SUFFIXES:
        raise DataError(f"{path} is of no kind that is read as texts: give {', '.join(SUFFIXES)}, a folder, or OWNER/NAME on the Hub.")
    if path.stat().st_size == 0:
        raise DataError(f"{path} is empty: copy or write it again.")
    return _parquet(path) if suffix == ".parquet" else _json_lines(path)


# --- JSON lines -----------------------------------------------------------------------------------------------------


def _json_lines(path: Path) -> Part:
    read = _array if path.suffix.lower() == ".json" and _is_array(path) else _lines
    first = next((row for row in read(path) if not row.problem), None)
    return Part(str(path), tuple(first.values) if first else (), lambda columns: read(path))


def _lines(path: Path) -> Iterator[Row]:
    """One JSON object a line; empty lines are passed over."""
    with readable(path, "JSON lines"), path.open("rb") as file:
        for i, line in enumerate(file):
            where = f"{path}, line {i + 1}"
            try:
                text = line.decode("utf-8-sig" if i == 0 else "utf-8").strip()
            except UnicodeDecodeError as error:
                yield Row(where, {}, f"byte {error.start} is {line[error.start]:#04x}, which is not UTF-8")
                continue
            if text:
                yield _object(where, text, ends=line.endswith(b"\n"))


def _object(where: str, text: str, *, ends: bool) -> Row:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        what = "is no JSON" if ends else "is cut off"  # only the last line may have no end
        reason = f"{error.msg} at column {error.colno}" if isinstance(error, json.JSONDecodeError) else str(error)
        return Row(where, {}, f"it {what} ({reason})")
    return _row(where, found)


def _row(where: str, found: Any) -> Row:
    if isinstance(found, dict):
        return Row(where, found)
    return Row(where, {}, f"it is a {type(found).__name__} instead of an object with named fields")


def _is_array(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(64).lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"[")


def _array(path: Path) -> Iterator[Row]:
    """One JSON array of objects."""
    with readable(path, "JSON"):
        found = json.loads(path.read_text(encoding="utf-8-sig"))
    yield from (_row(f"{path}, row {i}", each) for i, each in enumerate(found))


# --- Parquet and Arrow ----------------------------------------------------------------------------------------------


def _parquet(path: Path) -> Part:
    with readable(path, "Parquet"):
        columns = tuple(pyarrow.parquet.ParquetFile(path).schema_arrow.names)

    def batches(wanted: Sequence[str]) -> Iterator[pa.RecordBatch]:
        return pyarrow.parquet.ParquetFile(path).iter_batches(BATCH, columns=list(wanted))

    return Part(str(path), columns, partial(_of_arrow, str(path), batches))


def _of_arrow(name: str, batches: Callable[[Sequence[str]], Iterator[Any]], wanted: Sequence[str]) -> Iterator[Row]:
    start = 0
    with readable(name, "a table of texts"):
        for batch in batches(wanted):
            yield from (Row(f"{name}, row {start + i}", values) for i, values in enumerate(batch.to_pylist()))
            start += batch.num_rows


# --- Hugging Face data sets -----------------------------------------------------------------------------------------


def _saved(folder: Path, split: str | None) -> Part:
    with readable(folder, "a saved data set"):
        found = _datasets().load_from_disk(str(folder))
    if hasattr(found, "keys"):  # a DatasetDict
        return _of_dataset(str(folder), found[_split(list(found.keys()), split, str(folder))])
    if split is not None:
        raise ConfigError(f"{folder} has no splits, but split is {split!r}: leave --split out.")
    return _of_dataset(str(folder), found)


def _of_hub(name: str, split: str | None) -> Part:
    library = _datasets()
    try:
        splits = library.get_dataset_split_names(name)
        found = library.load_dataset(name, split=_split(splits, split, name))
    except (DataError, UnknownNameError):
        raise
    except Exception as error:  # the Hub, the network and the files' reader each have errors of their own
        reason = first_line(error)
        raise DataError(f"{name} is no file here and cannot be had from the Hugging Face Hub ({reason}): check the name.") from None
    return _of_dataset(name, found)


def _split(there: list[str], split: str | None, name: str) -> str:
    if split is None:
        if len(there) == 1 or "train" in there:
            return there[0] if len(there) == 1 else "train"
        raise DataError(f"{name} has the splits {', '.join(there)}: choose one (--split).")
    if split not in there:
        raise UnknownNameError(f"split of {name}", split, there)
    return split


def _of_dataset(name: str, dataset: Any) -> Part:
    def batches(wanted: Sequence[str]) -> Iterator[pa.Table]:
        return iter(dataset.select_columns(list(wanted)).with_format("arrow").iter(BATCH))

    return Part(name, tuple(dataset.column_names), partial(_of_arrow, name, batches))


def _datasets() -> Any:
    try:
        import datasets
    except ImportError:
        raise MissingExtraError("datasets", "language") from None
    return datasets
