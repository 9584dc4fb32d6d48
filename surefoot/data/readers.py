"""Any log as a `Log`: D4RL-layout HDF5, npz, CSV, Parquet, a folder of Parquet, a packed log, or a Minari data set.

What each must hold is in docs/data.md. Nothing is ever unpickled: files that only a pickle can be read from are refused.
"""

from __future__ import annotations

import difflib
import json
import re
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

import h5py
import numpy as np
import torch

from surefoot.data.columns import Column, Columns, readable, sliced
from surefoot.data.log import Layout, Log
from surefoot.data.metadata import KEY, from_json
from surefoot.data.minari_sets import MINARI, read_minari
from surefoot.data.packing import Request, known_space, pack
from surefoot.data.spec import Continuous, Discrete, Spec
from surefoot.data.tables import read_csv, read_parquet
from surefoot.data.validation import check_contents
from surefoot.envs.making import env_spaces
from surefoot.errors import DataError
from surefoot.files import whole_folder

PICKLES = (".pkl", ".pickle", ".pt", ".pth", ".joblib", ".dill")


def read_log(
    ref: str | Path,
    *,
    action_space: Continuous | Discrete | None = None,
    one_episode: bool = False,
    env_id: str | None = None,
) -> Log:
    """The log that `ref` names: a file, a folder, or `minari:ID`; a packed log is mapped into memory, the others are held once.

    The action space is `action_space`, else that of the environment `env_id`, else what the file says, else a guess from the
    actions that occur (a warning in `log.notes` says so). Observations and actions are checked against them. `one_episode`
    accepts a log that marks no ends of episodes.

    Raises DataError naming file, field, row and value, EnvError where log and environment disagree, UnknownNameError for
    unknown environments.
    """
    text = str(ref)
    env = env_spaces(env_id) if env_id is not None else None
    request = Request(text, action_space, one_episode, env, env_id)
    if text.startswith(MINARI):
        return read_minari(text.removeprefix(MINARI), request)
    path = whole_folder(Path(ref))
    if path.is_dir():
        return read_folder(path, request)
    suffix = path.suffix.lower()
    if suffix in PICKLES:
        raise DataError(f"{text} is a pickle, which can only be read by running the code in it, so it is not read: save the arrays as npz.")
    if suffix not in READERS:
        if not path.exists():
            raise missing(path)
        raise DataError(f"{text} is of no kind that is read as a log: give {', '.join(READERS)}, a folder, or minari:ID.")
    if not path.exists():
        raise missing(path)
    if path.stat().st_size == 0:
        raise DataError(f"{text} is empty: copy or write it again.")
    return READERS[suffix](path, request)


def missing(path: Path) -> DataError:
    """The error for a path where nothing is, with the nearest names beside it."""
    there = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
    near = difflib.get_close_matches(path.name, there, n=3, cutoff=0.6)
    hint = f"did you mean {' or '.join(str(path.with_name(name)) for name in near)}?" if near else "check the path."
    return DataError(f"there is no file or folder {path}: {hint}")


# --- npz ------------------------------------------------------------------------------------------------------------


def read_npz(path: Path, request: Request) -> Log:
    """Arrays of one archive, each loaded when its turn comes and dropped when it is packed."""
    with readable(path, "npz"):
        archive = np.load(path, allow_pickle=False)
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise DataError(f"{path} holds one array, not an npz of several: save it with np.savez(path, obs=..., action=..., ...).")
    with archive:
        columns: Columns = {name: partial(_member, archive, name, path) for name in archive.files if name != KEY}
        if KEY not in archive.files:
            return pack(columns, request)
        with readable(path, "npz"):
            text = str(archive[KEY])
        return pack(columns, request, from_json(text, str(path)))


def _member(archive: np.lib.npyio.NpzFile, name: str, path: Path) -> Column:
    with readable(path, "npz"):
        try:
            array = archive[name]
        except ValueError as error:
            if "pickle" not in str(error):
                raise
            what = f"field {name!r} holds Python objects, a pickle, which is not opened"
            raise DataError(f"{path}: {what}: save it as an array of numbers.") from None
    if not isinstance(array, np.ndarray) or array.ndim == 0:
        raise DataError(f"{path}: field {name!r} is not an array with one row a transition.")
    return sliced(name, array, path, "npz")


# --- HDF5 in the layout of D4RL -------------------------------------------------------------------------------------


def read_hdf5(path: Path, request: Request) -> Log:
    """Data sets at the top of the file (groups, as D4RL's `infos`, are passed over), read in slices."""
    with readable(path, "HDF5"):
        file = h5py.File(path, "r")
    with file:
        with readable(path, "HDF5"):
            columns: Columns = {name: partial(sliced, name, file[name], path, "HDF5") for name in file if _is_column(file, name)}
            text = file.attrs.get(KEY)
            if not columns and "episode_0" in file:
                raise DataError(f"{path} is the inside of a Minari data set: name the data set by its id, minari:ID.")
        return pack(columns, request, None if text is None else from_json(str(text), str(path)))


def _is_column(file: h5py.File, name: str) -> bool:
    """A data set with rows that is in this very file (HDF5 can point to others, which nobody asked to be read)."""
    if not isinstance(file.get(name, getlink=True), h5py.HardLink) or not isinstance(file[name], h5py.Dataset):
        return False
    return file[name].ndim > 0 and file[name].external is None and not file[name].is_virtual


# --- folders --------------------------------------------------------------------------------------------------------


def read_folder(path: Path, request: Request) -> Log:
    """A packed log, or every Parquet file of a folder as one log, in the order of their names (2 before 10)."""
    if (path / "log.json").is_file():
        return read_packed(path, request)
    files = [p for p in path.iterdir() if p.suffix.lower() == ".parquet" and not p.name.startswith((".", "_"))]
    if files:
        return read_parquet(sorted(files, key=lambda p: [int(x) if x.isdecimal() else x for x in re.split(r"(\d+)", p.name)]), request)
    named = sorted(p.name for p in path.iterdir() if p.suffix.lower() in READERS)
    hint = f"name a file in it ({', '.join(named[:5])})" if named else "there is no log.json in it, and no .parquet file"
    raise DataError(f"{path} is a folder that holds no log: {hint}.")


def read_packed(path: Path, request: Request) -> Log:
    """A packed log, mapped into memory read-only: nothing is copied, however long it is."""
    with readable(path, "a packed log"):
        text = (path / "log.json").read_text(encoding="utf-8")
        packed = np.load(path / "packed.npy", mmap_mode="r", allow_pickle=False)
        ends = np.load(path / "ends.npy", allow_pickle=False)
    metadata = from_json(text, str(path / "log.json"))
    assert metadata.action is not None and metadata.obs_shape is not None  # `to_json` always writes them
    layout = Layout.of(Spec(metadata.obs_shape, metadata.action))
    fits = packed.ndim == 2 and packed.shape == (json.loads(text).get("rows"), layout.width) and ends.shape == packed.shape[:1]
    if not fits or packed.dtype != np.float32 or ends.dtype != bool:
        raise DataError(f"{path}: packed.npy, ends.npy and log.json do not fit each other: write the log again.")
    space = known_space(layout.action_dim, metadata.obs_shape, request, metadata)
    assert space is not None
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")  # nor is it ever written
        rows = torch.from_numpy(packed)
    log = Log(rows, ends, metadata.obs_shape, space, request.source, request.env_id or metadata.env_id, metadata.notes)
    check_contents(log)
    return log


READERS: dict[str, Callable[[Path, Request], Log]] = {
    ".hdf5": read_hdf5,
    ".h5": read_hdf5,
    ".npz": read_npz,
    ".csv": read_csv,
    ".parquet": lambda path, request: read_parquet([path], request),
}
"""Which function reads files of which suffix."""
