"""Classes of value functions J(x, tau) (infinite horizon: J(x)): linear in features, and a network with its terminal condition built in.

Features, bases and terminal conditions are the reader's own numpy functions of states `[..., d]` and times to go `[...]`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from surefoot.data.paths import PathBatch
from surefoot.errors import ConfigError, DataError
from surefoot.nn.mlp import MLP

Features: TypeAlias = Callable[..., Mapping[str, np.ndarray] | Sequence[np.ndarray] | np.ndarray]
"""`features(x, tau)` (infinite horizon: `features(x)`): arrays `[...]` in a list, or by name in a dict, or one array `[..., k]`."""

Function: TypeAlias = Callable[..., np.ndarray]
"""One number `[...]` at `(x, tau)` (infinite horizon: `(x)`)."""


def columns(features: Features, x: np.ndarray, tau: np.ndarray | None) -> tuple[np.ndarray, tuple[str, ...]]:
    """Features at states `[..., d]` and times to go `[...]` (None: infinite horizon) as `[..., k]`, and their names.

    Raises ConfigError for another shape, DataError where a feature is not finite.
    """
    shape = x.shape[:-1]
    given = features(x) if tau is None else features(x, tau)
    if isinstance(given, np.ndarray) and given.ndim == len(shape) + 1 and given.shape[:-1] == shape and given.shape[-1] > 0:
        phi = np.array(given, np.float64)  # a copy: it is changed where paths end
        return _checked(phi, tuple(str(j) for j in range(phi.shape[-1])), x, tau)
    if isinstance(given, np.ndarray):
        parts, names = [given], None
    elif isinstance(given, Mapping):
        parts, names = list(given.values()), tuple(given)
    else:
        parts, names = list(given), None
    if not parts:
        raise ConfigError("features returned nothing: give at least one.")
    names = tuple(str(j) for j in range(len(parts))) if names is None else names
    phi = np.empty((*shape, len(parts)))
    for j, part in enumerate(parts):
        part = np.asarray(part, np.float64)
        if part.shape not in (shape, ()):
            raise ConfigError(
                f"feature {names[j]!r} has shape {part.shape} where states have {x.shape}: it must be {shape} (or one number)."
            )
        phi[..., j] = part
    return _checked(phi, names, x, tau)


def _checked(phi: np.ndarray, names: tuple[str, ...], x: np.ndarray, tau: np.ndarray | None) -> tuple[np.ndarray, tuple[str, ...]]:
    """Features that are finite, and their names."""
    if not np.isfinite(phi).all():
        where = np.argwhere(~np.isfinite(phi))[0]
        at = f"x = {x[tuple(where[:-1])].tolist()}" + ("" if tau is None else f" with {tau[tuple(where[:-1])]:g} to go")
        raise DataError(f"feature {names[where[-1]]!r} is {phi[tuple(where)]} at {at}: features must be finite wherever paths go.")
    return phi, names


def at(function: Function | None, x: np.ndarray, tau: np.ndarray | None) -> np.ndarray:
    """A function's values `[...]`; zeros for None. Raises ConfigError for another shape."""
    if function is None:
        return np.zeros(x.shape[:-1])
    v = np.asarray(function(x) if tau is None else function(x, tau), np.float64)
    if v.shape not in (x.shape[:-1], ()):
        raise ConfigError(f"a function of the state has shape {v.shape} where states have {x.shape}: it must be {x.shape[:-1]}.")
    return np.broadcast_to(v, x.shape[:-1])


def check_terminal(batch: PathBatch, terminal: np.ndarray) -> None:
    """A terminal condition `[..., P]` at the last states pays what the log says was paid. Raises DataError naming the path."""
    assert batch.payoff is not None
    off = np.abs(terminal - batch.payoff) > 1e-6 * (1.0 + np.abs(batch.payoff))
    if off.any():
        where = tuple(np.argwhere(off)[0])
        what = f"path {where[-1]} of the batch was paid {batch.payoff[where]:g}, but the terminal condition gives {terminal[where]:g} there"
        raise DataError(f"{what}: correct one of them, or leave the terminal condition out.")


# --- linear ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class LinearValue:
    """J = base + theta^T phi. `standard_error`: of each coefficient, from path to path, where an estimator gives it."""

    theta: np.ndarray  # [*copies, k]
    features: Features
    base: Function | None = None
    names: tuple[str, ...] = ()
    standard_error: np.ndarray | None = None  # [*copies, k]
    facts: Mapping[str, Any] = field(default_factory=dict)  # how it was fitted

    def __call__(self, x: np.ndarray, tau: np.ndarray | float | None = None) -> np.ndarray:
        """Values at states `[*copies, ..., d]` (or `[..., d]`, shared by the copies): `[*copies, ...]`."""
        x = np.asarray(x, np.float64)
        tau = None if tau is None else np.broadcast_to(np.asarray(tau, np.float64), x.shape[:-1])
        phi, _ = columns(self.features, x, tau)
        lead = self.theta.shape[:-1]
        if lead and x.shape[: len(lead)] != lead:
            return np.tensordot(self.theta, phi, (-1, -1)) + at(self.base, x, tau)
        theta = self.theta.reshape(*lead, *(1,) * (phi.ndim - 1 - len(lead)), -1)
        return (phi * theta).sum(-1) + at(self.base, x, tau)


# --- networks -------------------------------------------------------------------------------------------------------


class ValueNetwork(nn.Module):
    """tanh network of the scaled state (and time to go): `[*copies, ..., d] -> [*copies, ...]`, in units of `size`.

    With `vanishing` the network is multiplied by tau, so that what is added to it, h, is J's value at the end. Between the layers is
    tanh: values are smooth, and CTD differentiates them along the path.
    """

    mean: Tensor
    std: Tensor
    horizon: Tensor
    size: Tensor

    def __init__(
        self,
        dim: int,
        hidden: Sequence[int] = (32, 32),
        *,
        timed: bool = True,
        vanishing: bool = True,
        copies: tuple[int, ...] = (),
        generator: torch.Generator | None = None,
        device: str = "cpu",
        dtype: torch.dtype = torch.float64,
    ):
        super().__init__()
        self.timed, self.vanishing = timed, vanishing
        self.mlp = MLP((dim + int(timed), *hidden, 1), copies, activation="tanh", generator=generator, device=device).to(dtype)
        for name, value in (("mean", torch.zeros(dim)), ("std", torch.ones(dim)), ("horizon", torch.ones(())), ("size", torch.ones(()))):
            self.register_buffer(name, value.to(device, dtype))

    def scale_to(self, mean: np.ndarray, std: np.ndarray, horizon: float, size: float) -> None:
        """States, times and values of the reader's own units brought to order one."""
        for name, value in (("mean", mean), ("std", std), ("horizon", horizon), ("size", size)):
            getattr(self, name).copy_(torch.as_tensor(value))

    def forward(self, x: Tensor, tau: Tensor | None = None) -> Tensor:
        y = (x - self.mean) / self.std
        if self.timed:
            assert tau is not None
            y = torch.cat([(tau / self.horizon).unsqueeze(-1), y], -1)
        copies = self.mlp.copies
        own = y.shape[: len(copies)] == copies
        lead = y.shape[len(copies) if own else 0 : -1]
        y = self.mlp(y.reshape(*(copies if own else ()), -1, y.shape[-1]))
        v = y.squeeze(-1).reshape(*copies, *lead) * self.size
        return v * (tau / self.horizon) if self.vanishing and tau is not None else v


@dataclass(frozen=True, eq=False)
class NetworkValue:
    """J = h(x) + tau * net(x, tau) (or the network alone): what training returns; numpy in, numpy out."""

    net: ValueNetwork
    terminal: Function | None = None
    losses: np.ndarray = field(default_factory=lambda: np.empty(0))  # [iterations, *copies]

    def __call__(self, x: np.ndarray, tau: np.ndarray | float | None = None) -> np.ndarray:
        """Values at states `[*copies, ..., d]` (or `[..., d]`, shared by the copies): `[*copies, ...]`."""
        if self.net.timed and tau is None:
            raise ConfigError("the value has a finite horizon: give the time to go as well, value(x, tau).")
        x = np.asarray(x, np.float64)
        like = self.net.mean
        inputs = torch.as_tensor(x).to(like)
        times = None if tau is None else torch.as_tensor(np.broadcast_to(np.asarray(tau, np.float64), x.shape[:-1]).copy()).to(like)
        with torch.no_grad():
            v = self.net(inputs, times if self.net.timed else None).double().cpu().numpy()
        return v + at(self.terminal, x, None)
