"""From the columns of a file to a log: the packed matrix is filled slice by slice, marks become episode ends, gaps are closed or named.

Where a file has no `next_obs` (the older D4RL layout), the next observation is the observation of the following row of the same
episode, as in D4RL's own loader. The last transition of an episode that a time limit ended is dropped then: what came next was
not recorded. The last transition of a terminated episode is kept, with its own observation in place of the next one: nothing is
bootstrapped from there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
import torch

from surefoot.data.checks import as_numbers, check_action_width, check_actions, check_flags, check_rows, check_size, check_spec
from surefoot.data.columns import ALIASES, SLICE, Column, Columns, find, need
from surefoot.data.log import Layout, Log
from surefoot.data.metadata import GUESSED_SPACE, Metadata, add_warnings
from surefoot.data.spec import Continuous, Discrete, Spec
from surefoot.errors import DataError


@dataclass(frozen=True)
class Request:
    """What whoever reads a log knows about it."""

    source: str  # its name in messages
    action_space: Continuous | Discrete | None = None
    one_episode: bool = False
    env: Spec | None = None  # what the environment it was recorded in shows and takes
    env_id: str | None = None


@dataclass(frozen=True)
class Marks:
    """Where episodes end, one entry a row of the file."""

    terminated: np.ndarray  # [N] bool
    ends: np.ndarray  # [N] bool
    warnings: list[str]


def pack(columns: Columns, request: Request, metadata: Metadata | None = None, file_starts: Sequence[int] = ()) -> Log:
    """The log in these columns, checked on the way. Raises DataError or EnvError, naming field, row (of the file) and value.

    `file_starts`: rows at which a further file of a folder begins. An episode runs on there only if `next_obs` says so.
    """
    source, metadata = request.source, metadata or Metadata()
    reward, action, obs = (need(columns, field, source) for field in ("reward", "action", "obs"))
    n = reward.rows
    for column in (action, obs):
        check_rows(column.rows, column.name, n, reward.name, source)
    check_size(n, source)
    marks = read_marks(columns, n, reward.name, request)
    obs_shape = observation_shape(obs, request, metadata)
    space = known_space(action.width, obs_shape, request, metadata)
    discrete = isinstance(space, Discrete) if space is not None else is_index(action, source)
    layout = Layout(prod(obs_shape), action.width, discrete)
    s, a = layout.obs_dim, layout.action_dim
    packed = np.empty((n, layout.width), np.float32)
    fill(packed[:, :s], obs, source)
    fill(packed[:, s : s + a], action, source)
    fill(packed[:, s + a : s + a + 1], reward, source)
    packed[:, -1] = marks.terminated
    del obs, reward, column  # of an npz these hold the arrays
    warnings, ends = list(marks.warnings), marks.ends
    if space is None:
        space, guess = infer_space(packed[:, s : s + a], discrete)
        warnings.append(guess)
    for start in range(0, n, SLICE):
        check_actions(packed[start : start + SLICE, s : s + a], space, start, source, request.env_id)
    starts = [row for row in file_starts if 0 < row < n]  # files may be empty
    next_obs = find(columns, "next_obs", source)
    if next_obs is not None:
        check_rows(next_obs.rows, next_obs.name, n, "reward", source)
        if next_obs.width != s:
            raise DataError(f"{source}: {next_obs.name!r} has {next_obs.width} features, but the observations have {s}: they must agree.")
        fill(packed[:, s + a + 1 : -1], next_obs, source)
        for row in starts:
            ends[row - 1] |= not np.array_equal(packed[row - 1, s + a + 1 : -1], packed[row, :s])
    else:
        ends[np.asarray(starts, np.int64) - 1] = True
        packed, ends, dropped = derive_next_obs(packed, ends, s)
        lost = f": {dropped} transitions that end an episode without terminating it were dropped" if dropped else ""
        warnings.append(f"there are no next_obs, so they were taken from the following rows{lost}")
        check_size(len(packed), f"{source} (without the {dropped} transitions whose next observation is unknown)")
    env_id = request.env_id or metadata.env_id
    return Log(torch.from_numpy(packed), ends, obs_shape, space, source, env_id, add_warnings(metadata.notes, warnings))


def fill(target: np.ndarray, column: Column, source: str) -> None:
    """Copy a column into its place `[N, width]` in the packed matrix, checking every number."""
    start = 0
    for part in column.parts():
        numbers = as_numbers(part, column.name, start, source)
        target[start : start + len(part)] = numbers
        start += len(part)


# --- episodes -------------------------------------------------------------------------------------------------------


def read_marks(columns: Columns, n: int, reward: str, request: Request) -> Marks:
    """Where episodes end: terminated, truncated, another episode id in the next row, or the end of the file.

    Raises DataError if nothing marks an end, unless `request.one_episode` accepts one long episode.
    """
    source = request.source
    warnings: list[str] = []
    terminated, truncated = (read_flags(columns, field, n, reward, source) for field in ("terminated", "truncated"))
    changes = read_episode_changes(columns, n, reward, source, warnings)
    if not request.one_episode:
        way_out = "or accept the log as one long episode (--one-episode, one_episode=True)"
        if terminated is None and truncated is None and changes is None:
            missing = "nothing marks where episodes end: give 'terminated' or 'truncated' (or 'episode')"
            raise DataError(f"{source}: {missing}, {way_out}.")
        if changes is None and not any(flags is not None and flags.any() for flags in (terminated, truncated)):
            raise DataError(f"{source}: no episode ends, 'terminated' and 'truncated' are never set: mark the ends, {way_out}.")
    name = next((alias for alias in ALIASES["terminated"] if alias in columns), "terminated")
    if terminated is not None and name in ("done", "dones"):
        if truncated is not None:
            terminated = terminated & ~truncated  # others' `done` is often both
        else:
            warnings.append(f"{name!r} was read as terminated: if time limits set it too, mark them in 'truncated'")
    ends = np.zeros(n, bool)
    for flags in (terminated, truncated, changes):
        if flags is not None:
            ends |= flags
    ends[-1] = True
    return Marks(terminated if terminated is not None else np.zeros(n, bool), ends, warnings)


def read_flags(columns: Columns, field: str, n: int, reward: str, source: str) -> np.ndarray | None:
    """A field of 0 and 1 as `[N]` bool, or None if the file has none."""
    column = find(columns, field, source)
    if column is None:
        return None
    check_rows(column.rows, column.name, n, reward, source)
    if column.width != 1:
        raise DataError(f"{source}: field {column.name!r} has rows of shape {column.shape}: it must be one mark a transition.")
    flags = column.read().reshape(n)
    check_flags(flags, column.name, 0, source)
    return flags.astype(bool)


def read_episode_changes(columns: Columns, n: int, reward: str, source: str, warnings: list[str]) -> np.ndarray | None:
    """`[N]` bool: the next row has another episode id; None if the file has no ids. Ids may be numbers or text."""
    name = next((alias for alias in ALIASES["episode"] if alias in columns), None)
    if name is None:
        return None
    column = columns[name]()
    check_rows(column.rows, column.name, n, reward, source)
    ids = column.read().reshape(n, -1)[:, 0]
    missing = ids != ids if ids.dtype.kind != "O" else np.array([i is None for i in ids])  # NaN differs from itself
    if missing.any():
        raise DataError(f"{source}: field {name!r} is missing in row {int(np.argmax(missing))}: give every transition an episode.")
    changes = np.append(ids[1:] != ids[:-1], False)
    if changes.sum() + 1 > len(np.unique(ids)):
        warnings.append(f"ids in {name!r} come back after another episode: the rows of an episode must stand together")
    return changes


def derive_next_obs(packed: np.ndarray, ends: np.ndarray, s: int) -> tuple[np.ndarray, np.ndarray, int]:
    """Fill in `next_obs` and drop the rows that have none: (rows, their ends, how many were dropped). Works in place, in slices."""
    n = len(packed)
    obs, next_obs, terminated = packed[:, :s], packed[:, -1 - s : -1], packed[:, -1] == 1.0
    for start in range(0, n, SLICE):
        stop = min(start + SLICE, n - 1)
        next_obs[start:stop] = obs[start + 1 : stop + 1]
    next_obs[terminated] = obs[terminated]
    drop = ends & ~terminated
    ends = (ends | np.append(drop[1:], False))[~drop]  # what stood before a dropped row is now the last of its episode
    kept = 0
    for start in range(0, n, SLICE):
        rows = packed[start : start + SLICE][~drop[start : start + SLICE]]
        packed[kept : kept + len(rows)] = rows
        kept += len(rows)
    return packed[:kept], ends, n - kept


# --- shapes and spaces ----------------------------------------------------------------------------------------------


def observation_shape(obs: Column, request: Request, metadata: Metadata) -> tuple[int, ...]:
    """Shape of one observation; flat columns take the shape that our writers or the environment know. Raises DataError."""
    if obs.width == 0:
        raise DataError(f"{request.source}: field {obs.name!r} has no features.")
    if obs.dtype == np.uint8 and len(obs.shape) >= 2:
        raise DataError(f"{request.source}: observations are images {obs.shape}: only vectors of features can be learned from so far.")
    known = metadata.obs_shape or (request.env.obs_shape if request.env is not None else None)
    if len(obs.shape) <= 1 and known is not None and prod(known) == obs.width:
        return known
    return obs.shape or (1,)


def known_space(width: int, obs_shape: tuple[int, ...], request: Request, metadata: Metadata) -> Continuous | Discrete | None:
    """The action space that the caller, the environment or the file names, checked to fit; None if nobody says.

    `width`: numbers of one recorded action. Raises EnvError where the environment disagrees, DataError where the space does not fit.
    """
    if request.env is not None:
        check_spec(obs_shape, width, None, request.source, request.env, request.env_id)
    space = request.action_space or (request.env.action if request.env is not None else None) or metadata.action
    if space is not None:
        check_action_width(width, space, request.source)
    return space


def is_index(action: Column, source: str) -> bool:
    """Integers stand for discrete actions, floats for continuous ones, where nobody says. Raises DataError for several integers."""
    if action.dtype.kind == "f":
        return False
    if action.width != 1:
        raise DataError(
            f"{source}: field {action.name!r} holds {action.width} integers a row: "
            "store one index for discrete actions, or floats for continuous ones."
        )
    return True


def infer_space(action: np.ndarray, discrete: bool) -> tuple[Continuous | Discrete, str]:
    """The smallest likely space of packed actions `[N, A]`, and the warning that it is a guess."""
    low, high = action.min(0), action.max(0)
    known = "name the environment (--env) if it has one"
    if discrete:
        n = max(int(high[0]) + 1, 1)
        return Discrete(n), f"{GUESSED_SPACE} the {n} actions 0 to {n - 1} that occur: {known}"
    if low.min() >= -1.0 and high.max() <= 1.0:
        space = Continuous((-1.0,) * len(low), (1.0,) * len(low))
        return space, f"{GUESSED_SPACE} [-1, 1] in each dimension, where all actions lie: {known}"
    low, high = np.where(low == high, low - 1.0, low), np.where(low == high, high + 1.0, high)  # a box needs some width
    space = Continuous(tuple(map(float, low)), tuple(map(float, high)))
    ranges = ", ".join(f"[{x:.4g}, {y:.4g}]" for x, y in zip(space.low[:6], space.high[:6], strict=True))
    return space, f"{GUESSED_SPACE} the range of the actions that occur, {ranges}{' …' if len(low) > 6 else ''}: {known}"
