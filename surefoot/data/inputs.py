"""Inputs to certify a classifier or a policy at: images with labels from an npz, or the observations of a log."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from surefoot.data.columns import readable
from surefoot.data.readers import read_log
from surefoot.errors import ConfigError, DataError


@dataclass(frozen=True, eq=False)
class Inputs:
    """`x` `[n, ...]` float32 in the units that the classifier takes, `y` `[n]` int64 classes, or None where they are not known."""

    x: np.ndarray
    y: np.ndarray | None
    source: str

    def evenly(self, n: int) -> Inputs:
        """n of them, evenly spaced (all of them if there are no more). Raises ConfigError for n below 1."""
        if n < 1:
            raise ConfigError(f"{n} inputs were asked for: at least one is needed.")
        rows = np.linspace(0, len(self.x) - 1, min(n, len(self.x))).round().astype(int)
        return Inputs(self.x[rows], None if self.y is None else self.y[rows], self.source)


def read_inputs(path: str | Path) -> Inputs:
    """An npz with `x` and, if known, `y`; or any log, whose observations are the inputs. Raises DataError for what is neither."""
    path = Path(path)
    if path.suffix == ".npz":
        with readable(path, "npz"), np.load(path, allow_pickle=False) as archive:
            if "x" in archive.files:
                return _checked(archive["x"], archive["y"] if "y" in archive.files else None, str(path))
    log = read_log(str(path))
    obs = log.transitions.obs.numpy().reshape(len(log), *log.obs_shape)
    return _checked(obs, None, str(path))


def _checked(x: np.ndarray, y: np.ndarray | None, source: str) -> Inputs:
    if x.ndim < 2 or len(x) == 0 or x.dtype.kind not in "biuf":
        raise DataError(f"{source}: field 'x' has shape {x.shape} and type {x.dtype}: it must be numbers, one row an input.")
    x = x.astype(np.float32)
    if not np.isfinite(x).all():
        row = int(np.argwhere(~np.isfinite(x))[0][0])
        raise DataError(f"{source}: field 'x' is not finite in row {row}: leave it out or repair it.")
    if y is not None and (y.shape != x.shape[:1] or not (y == np.floor(y)).all() or y.min() < 0):
        raise DataError(
            f"{source}: field 'y' has shape {y.shape}: it must hold one class, an integer from 0, for each of the {len(x)} inputs."
        )
    return Inputs(x, None if y is None else y.astype(np.int64), source)
