"""Returns, increments and traces in continuous time, on steps of any lengths: what all estimators of `martingale_evaluation` share.

With gamma_i = exp(-rho dt_i) and a_i = int_0^{dt_i} exp(-rho u) du (dt_i without discount), a path's step i adds

    delta_i = gamma_i V_{i+1} - V_i + a_i R_i,        exp(-rho t_i) delta_i = M_{t_{i+1}} - M_{t_i},

an increment of M_t = exp(-rho t) J(t, X_t) + int_0^t exp(-rho u) r du. Exponentials, where the paper's first-order form has
1 - rho dt: they differ by O(dt^2), but only the exponential telescopes exactly and stays sensible where a step is long.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch

from surefoot.data.paths import PathBatch, Paths
from surefoot.errors import ConfigError, DataError, UnknownNameError

WEIGHTINGS = ("discounted", "uniform")
CUT = 1e-4  # a return is complete where what lies beyond the path's end counts less than this

Array = TypeVar("Array", np.ndarray, torch.Tensor)


@dataclass(frozen=True)
class Criterion:
    """What J is the value of, and how much each moment of a path counts in fitting it.

    Finite horizon: J(x, tau), tau the time to go until the path's end, where the payoff is paid. Infinite: J(x), paths merely stop.
    Moments count exp(-rho t), as increments of the martingale do ("discounted", the default of a finite horizon), or all alike
    ("uniform", the default of an infinite one, where paths are long and stationary). Raises ConfigError.
    """

    rho: float = 0.0  # discount rate per unit of time
    infinite: bool = False
    weighting: str | None = None

    def __post_init__(self) -> None:
        if not 0.0 <= self.rho < np.inf:
            raise ConfigError(f"rho is {self.rho}: a discount rate is at least 0.")
        if self.infinite and self.rho == 0.0:
            raise ConfigError("an infinite horizon needs a discount rate rho above 0: without one the value is infinite.")
        if self.weighting is not None and self.weighting not in WEIGHTINGS:
            raise UnknownNameError("weighting", self.weighting, WEIGHTINGS)

    @property
    def discounted(self) -> bool:
        return self.weighting == "discounted" if self.weighting is not None else not self.infinite

    def admit(self, batch: PathBatch) -> None:
        """Raises DataError if paths end without a payoff that they need, or with one that an infinite horizon never reaches."""
        if not self.infinite and batch.payoff is None:
            raise DataError("the paths have no terminal payoff: give one (a column, or payoff=0.0), or set infinite=True.")
        if self.infinite and batch.payoff is not None and np.any(batch.payoff != 0.0):
            raise DataError(
                "the paths have terminal payoffs, which an infinite horizon never reaches: leave them out, or set infinite=False."
            )


@dataclass(frozen=True)
class Steps:
    """A batch's steps under a criterion; arrays `[*copies, P, N]`, numpy or torch."""

    dt: Any
    gamma: Any  # exp(-rho dt)
    annuity: Any  # what a reward rate of 1 during the step is worth at its start
    weight: Any  # exp(-rho t) or 1

    @staticmethod
    def of(batch: PathBatch, criterion: Criterion) -> Steps:
        dt, rho = batch.dt, criterion.rho
        gamma = np.exp(-rho * dt)
        annuity = dt if rho == 0.0 else -np.expm1(-rho * dt) / rho
        weight = np.exp(-rho * batch.t[..., :-1]) if criterion.discounted else np.ones_like(dt)
        return Steps(dt, gamma, annuity, weight)

    def to(self, dtype: torch.dtype, device: str = "cpu") -> Steps:
        """The same as torch tensors."""
        return Steps(*(torch.as_tensor(a, dtype=dtype, device=device) for a in (self.dt, self.gamma, self.annuity, self.weight)))


def increments(v: Array, reward: Array, steps: Steps) -> Array:
    """delta `[..., N]` of values `v` `[..., N + 1]`, whose last is the payoff if the path ends there."""
    return steps.gamma * v[..., 1:] - v[..., :-1] + steps.annuity * reward


def tails(x: np.ndarray, decay: np.ndarray) -> np.ndarray:
    """W_i = x_i + decay_i W_{i+1}, W_N = 0: `x` `[..., N]` or `[..., N, k]`, `decay` `[..., N]`.

    sum_i z_i delta_i with traces z_i = decay_{i-1} z_{i-1} + g_i dt_i is sum_i g_i dt_i W_i: the backward form of CTD(lambda).
    """
    axis = decay.ndim - 1
    forward = np.ascontiguousarray(np.moveaxis(x, axis, 0))  # time first: the loop's slices are then whole pieces of memory
    factor = np.ascontiguousarray(np.moveaxis(decay, -1, 0)).reshape(forward.shape[: decay.ndim] + (1,) * (x.ndim - decay.ndim))
    out = np.empty_like(forward)
    w = np.zeros(forward.shape[1:])
    for i in range(len(forward) - 1, -1, -1):
        w = forward[i] + factor[i] * w
        out[i] = w
    return np.moveaxis(out, 0, axis)


def forgetting(lam: float, steps: Steps) -> np.ndarray:
    """(lambda exp(-rho))^dt, the decay of a trace over each step; lambda is per unit of time. Raises ConfigError."""
    if not 0.0 < lam <= 1.0:
        raise ConfigError(
            f"lam is {lam}: it is what is left of a trace after a unit of time, above 0 and at most 1 (towards 0 it is CTD(0))."
        )
    return np.power(lam, steps.dt) * steps.gamma


def returns_to_go(batch: PathBatch, steps: Steps) -> np.ndarray:
    """G_i = sum_{j >= i} exp(-rho (t_j - t_i)) a_j R_j + exp(-rho (T - t_i)) payoff, `[*copies, P, N]`; without payoff cut at the end."""
    earned = steps.annuity * batch.reward
    if batch.payoff is not None:
        earned = earned.copy()
        earned[..., -1] += steps.gamma[..., -1] * batch.payoff
        # where a path is filled up, gamma is 1 and nothing is earned: its payoff reaches its own last row unchanged
    return tails(earned, steps.gamma)


def complete(batch: PathBatch, criterion: Criterion) -> np.ndarray:
    """Where a return is all there (1) or cut off too early to be used (0), `[*copies, P, N]`. Raises DataError if it is nowhere."""
    left = batch.to_go[..., :-1]
    if not criterion.infinite:
        return np.ones_like(left)
    whole = np.exp(-criterion.rho * left) < CUT
    if not whole.any():
        need = -np.log(CUT) / criterion.rho
        what = f"the longest path lasts {left.max():.4g}, but returns at rho = {criterion.rho:g} are complete after {need:.4g} only"
        raise DataError(f"{what}: log longer paths, or use clstd, cgtd or ctd, which need no whole returns.")
    return whole.astype(np.float64)


def with_payoff(v: np.ndarray, batch: PathBatch) -> np.ndarray:
    """Values `[..., N + 1]` with the payoff where the path has ended (`v` itself if it has none)."""
    return v if batch.payoff is None else np.where(batch.to_go == 0.0, batch.payoff[..., None], v)


def batches_of(source: Paths | PathBatch | Sequence[PathBatch]) -> Iterable[PathBatch]:
    """All paths, a few at a time."""
    if isinstance(source, Paths):
        return (batch for _, batch in source.blocks())
    return source.blocks() if isinstance(source, PathBatch) else (block for batch in source for block in batch.blocks())
