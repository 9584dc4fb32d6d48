"""Checks of what a log may hold, on slices of arrays; each failure names the field, the row and the value."""

from __future__ import annotations

import numpy as np

from surefoot.data.spec import Continuous, Discrete, Spec
from surefoot.errors import DataError, EnvError

TOLERANCE = 1e-5
"""Share of the width of the box by which an action may lie outside it: rounding on the way into a file."""


def check_size(n: int, source: str) -> None:
    """A log of nothing, or of one transition, teaches nothing."""
    if n == 0:
        raise DataError(f"{source}: the log holds no transitions: give at least two.")
    if n == 1:
        raise DataError(f"{source}: the log holds only one transition: give at least two.")


def check_rows(rows: int, name: str, n: int, reward: str, source: str) -> None:
    """Every field has a row a transition, as the reward has."""
    if rows != n:
        raise DataError(f"{source}: field {name!r} has {rows} rows, but {reward!r} has {n}: they must agree.")


def as_numbers(part: np.ndarray, name: str, first: int, source: str) -> np.ndarray:
    """A slice `[m, ...]` as float32 `[m, width]`. Raises DataError at the first NaN, infinity, or number too large for float32."""
    with np.errstate(over="ignore"):
        numbers = part.reshape(len(part), -1).astype(np.float32, copy=False)
    check_finite(numbers, name, first, source, raw=part.reshape(len(part), -1))
    return numbers


def check_finite(numbers: np.ndarray, name: str, first: int, source: str, raw: np.ndarray | None = None) -> None:
    """All of a slice `[m, width]` that starts at row `first` is finite; `raw` is what the file said."""
    finite = np.isfinite(numbers)
    if finite.all():
        return
    row, feature = np.argwhere(~finite)[0]
    value = (numbers if raw is None else raw)[row, feature]
    where = f"row {first + row}" + (f", feature {feature}" if numbers.shape[1] > 1 else "")
    too_large = " (too large for 32 bits)" if np.isfinite(value) else ""
    raise DataError(f"{source}: field {name!r} is {value} in {where}{too_large}: remove or repair that transition.")


def check_flags(flags: np.ndarray, name: str, first: int, source: str) -> None:
    """Marks `[m]` are false or true, 0 or 1."""
    if flags.dtype == bool:
        return
    wrong = ~((flags == 0) | (flags == 1))
    if wrong.any():
        row = int(np.argmax(wrong))
        raise DataError(f"{source}: field {name!r} is {flags[row]} in row {first + row}: it must be 0 or 1.")


def check_actions(action: np.ndarray, space: Continuous | Discrete, first: int, source: str, env_id: str | None = None) -> None:
    """Actions `[m, A]` (discrete: `[m, 1]`) lie in the space, which is that of `env_id` or of the log itself."""
    of = f" of {env_id}" if env_id else ""
    if isinstance(space, Discrete):
        wrong = (action[:, 0] != np.floor(action[:, 0])) | (action[:, 0] < 0) | (action[:, 0] >= space.n)
        if wrong.any():
            row = int(np.argmax(wrong))
            what = f"{action[row, 0]:g} in row {first + row}, which is none of the actions 0 to {space.n - 1}{of}"
            raise DataError(
                f"{source}: field 'action' is {what}: remove that transition, or name the environment it was recorded in (--env)."
            )
        return
    low, high = np.array(space.low), np.array(space.high)
    slack = TOLERANCE * np.maximum(high - low, 1e-6)
    outside = (action < low - slack) | (action > high + slack)
    if outside.any():
        row, j = np.argwhere(outside)[0]
        raise DataError(
            f"{source}: field 'action' is {action[row, j]:g} in row {first + row}, dimension {j}, outside [{low[j]:g}, {high[j]:g}]{of}: "
            "rescale the actions, or name the environment they were recorded in (--env)."
        )


def check_action_width(width: int, space: Continuous | Discrete, source: str) -> None:
    """The numbers of one recorded action are as many as the space has."""
    if isinstance(space, Discrete) and width != 1:
        raise DataError(f"{source}: actions of {width} numbers do not fit {space.n} discrete actions: store the index of the action.")
    if isinstance(space, Continuous) and width != space.dim:
        raise DataError(f"{source}: actions have {width} dimensions, but the action space given has {space.dim}.")


def check_spec(obs_shape: tuple[int, ...], width: int, discrete: bool | None, source: str, env: Spec, env_id: str | None) -> None:
    """Observations of this shape, and actions of `width` numbers, are those of the environment. Raises EnvError.

    `discrete` is None where a file does not say what kind its actions are.
    """
    name = env_id or "the environment"
    if tuple(obs_shape) != tuple(env.obs_shape):
        raise EnvError(
            f"{source} and {name} disagree: observations have shape {tuple(obs_shape)} in the log, {tuple(env.obs_shape)} in {name}: "
            "name the environment that the log was recorded in."
        )
    there = f"{env.action.n} discrete actions" if isinstance(env.action, Discrete) else f"continuous actions of {env.action.dim} dimensions"
    kinds_differ = discrete is not None and discrete != isinstance(env.action, Discrete)
    if kinds_differ or width != env.action_dim:
        here = "discrete actions" if discrete else f"actions of {width} dimension{'s' if width > 1 else ''}"
        raise EnvError(f"{source} and {name} disagree: the log has {here}, {name} has {there}: name the environment it was recorded in.")
