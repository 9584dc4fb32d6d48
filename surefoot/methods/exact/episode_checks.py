"""Checks of played episodes that are arrays: indices in range, losses in [0, 1], shapes that agree."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from surefoot.errors import DataError


def check_episodes(state: np.ndarray, action: np.ndarray, loss: np.ndarray, shape: tuple[int, ...], n: tuple[int, int], axes: str) -> None:
    """Raises DataError unless all are of `shape` (whose last axis is the stages), with `n` states and actions, and losses in [0, 1]."""
    for name, x in (("state", state), ("action", action), ("loss", loss)):
        if x.shape != shape:
            raise DataError(f"{name} has shape {x.shape}: it must be {shape}, {axes}.")
    check_indices(state, n[0], "state")
    check_indices(action, n[1], "action")
    good = (loss >= 0.0) & (loss <= 1.0)  # NaN compares false
    if not good.all():
        where = tuple(np.argwhere(~good)[0].tolist())
        raise DataError(f"the loss at stage {where[-1]} is {loss[where]:g}: losses lie in [0, 1]; rescale them.")


def check_indices(index: np.ndarray, n: int, name: str, h: int | None = None) -> None:
    """Raises DataError unless all are whole numbers below n; `h` is their stage, if it is not the last axis."""
    if not np.issubdtype(index.dtype, np.integer):
        raise DataError(f"{name}s are {index.dtype}: they must be whole numbers from 0.")
    if index.size and (index.min() < 0 or index.max() >= n):
        where = tuple(np.argwhere((index < 0) | (index >= n))[0].tolist())
        raise DataError(f"the {name} at stage {where[-1] if h is None else h} is {index[where]}: {name}s are 0 to {n - 1}.")


def check_stage(h: int, horizon: int) -> None:
    if not 0 <= h < horizon:
        raise DataError(f"stage is {h}: an episode has stages 0 to {horizon - 1}.")


def as_path(path: Sequence[tuple[int, int, float]], horizon: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """States, actions and losses, `[1, 1, H]`, of a lone episode [(state, action, loss), ...]; raises DataError for another length."""
    if len(path) != horizon:
        raise DataError(f"the episode has {len(path)} steps: it must have {horizon}, one a stage.")
    state, action, loss = zip(*path, strict=True)
    return np.array(state)[None, None], np.array(action)[None, None], np.array(loss, np.float64)[None, None]
