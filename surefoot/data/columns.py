"""Columns of a file: what each is called elsewhere, what it holds, and its rows in slices, so that no file is held twice."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from surefoot.errors import DataError, SurefootError, first_line

ALIASES: dict[str, tuple[str, ...]] = {
    "obs": ("obs", "observations", "observation", "states", "state"),
    "action": ("action", "actions"),
    "reward": ("reward", "rewards"),
    "next_obs": ("next_obs", "next_observations", "next_observation", "next_states", "next_state"),
    "terminated": ("terminated", "terminals", "terminal", "terminations", "dones", "done"),
    "truncated": ("truncated", "timeouts", "timeout", "truncations"),
    "episode": ("episode", "episode_id", "episode_ids"),
}
"""Our fields, and what they are called in other people's files; the first that a file has is read."""

SLICE = 1 << 16
"""Rows that are read, checked and packed at once."""


@dataclass(frozen=True)
class Column:
    """One field of a file, `rows` rows of shape `shape`, read in consecutive slices."""

    name: str  # as the file calls it
    rows: int
    shape: tuple[int, ...]
    dtype: np.dtype
    parts: Callable[[], Iterator[np.ndarray]]

    @property
    def width(self) -> int:
        """Numbers in a row."""
        return int(np.prod(self.shape, dtype=np.int64))

    def read(self) -> np.ndarray:
        """All rows at once, for small columns."""
        return np.concatenate([np.empty((0, *self.shape), self.dtype), *self.parts()])


Columns: TypeAlias = Mapping[str, Callable[[], Column]]
"""The columns of a file by name; a column is opened when it is asked for and may be dropped after use."""


def sliced(name: str, array: Any, path: str | Path = "memory", kind: str = "a log") -> Column:
    """A column of anything that has a shape, a dtype and slices: an array, an HDF5 dataset."""

    def parts() -> Iterator[np.ndarray]:
        for start in range(0, array.shape[0], SLICE):
            with readable(path, kind):
                part = np.asarray(array[start : start + SLICE])
            yield part

    return Column(name, int(array.shape[0]), tuple(array.shape[1:]), np.dtype(array.dtype), parts)


def find(columns: Columns, field: str, source: str) -> Column | None:
    """The column that holds a field, checked to hold numbers; None if there is none. Raises DataError."""
    name = next((alias for alias in ALIASES[field] if alias in columns), None)
    if name is None:
        return None
    column = columns[name]()
    if column.dtype.kind not in "biuf":
        what = {"O": "Python objects", "U": "text", "S": "text"}.get(column.dtype.kind, str(column.dtype))
        raise DataError(f"{source}: field {name!r} holds {what} instead of numbers: store it as an array of numbers.")
    return column


def need(columns: Columns, field: str, source: str) -> Column:
    """The same; a file without the field is a DataError that says what the file has."""
    column = find(columns, field, source)
    if column is None:
        there = ", ".join(sorted(columns)[:12]) or "nothing"
        bandit = any(name.startswith(("context", "propensity")) for name in columns)
        hint = "; a log of a contextual bandit is read by `surefoot bandit replay`" if bandit else ""
        raise DataError(f"{source}: there is no field {field!r} ({' or '.join(ALIASES[field][:3])}); it holds {there}{hint}.")
    return column


@contextmanager
def readable(name: str | Path, kind: str) -> Iterator[None]:
    """Whatever a library says about a damaged file in the block, as one sentence (DataError) with the file's name."""
    try:
        yield
    except SurefootError:
        raise
    except (OSError, ValueError, KeyError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        reason = first_line(error)
        raise DataError(f"{name} cannot be read as {kind} ({reason}): it may be cut off or damaged; copy or write it again.") from None
