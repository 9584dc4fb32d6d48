"""State-space models: a hidden state that moves at random, seen through noise. The common ones, and the form of one's own.

    x_0 ~ mu,    x_{t+1} ~ m_t(x_t, .),    y_t ~ g_t(x_t, .),    t = 0 .. T-1

States are `[R, ..., dx]` in float64: axis 0 are R independent chains (replications, series, restarts), axis -1 the state. Densities are
logarithms, without the last axis. A parameter is shared by the chains, or has one value a chain in its axis 0. Whatever is done
to parameters in torch stays differentiable, which is all that learning them needs.

A model of one's own is a subclass with `dx`, `dy` and those of the six methods that are asked of it: `sample_x0`, `sample_x` and
`log_g` to filter, `log_m` also to smooth, `log_x0` also to learn, `sample_y` also to simulate. `log_m(t, x, x_next)` must broadcast, since
it is asked for all pairs at once (`x` `[R, 1, N, dx]`, `x_next` `[R, N, 1, dx]`); arithmetic on whole tensors does so by itself.
"""

from __future__ import annotations

import math
from typing import NoReturn

import numpy as np
import torch
from torch import Tensor

from surefoot.errors import ConfigError, DataError

Value = Tensor | float
"""A parameter: a number, or a tensor `[]`, or `[R]` with one value a chain."""

HALF_LOG_2PI = 0.5 * math.log(2.0 * math.pi)


class StateSpaceModel:
    """What filters and smoothers ask of a model (see the top of the module); subclasses fill in what they need."""

    dx: int = 1  # size of the state
    dy: int = 1  # size of an observation
    homogeneous: bool = (
        False  # True: no density depends on t, so that all times may be asked for at once, `[R, T, N, dx]`; learning is faster
    )

    def sample_x0(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """States `[*shape, dx]` from mu."""
        self._lacks("sample_x0")

    def log_x0(self, x: Tensor) -> Tensor:
        """log mu(x): `[..., dx]` -> `[...]`."""
        self._lacks("log_x0")

    def sample_x(self, t: int, x: Tensor, generator: torch.Generator) -> Tensor:
        """States at t+1 from m_t(x, .): `[..., dx]` -> `[..., dx]`."""
        self._lacks("sample_x")

    def log_m(self, t: int, x: Tensor, x_next: Tensor) -> Tensor:
        """log m_t(x, x_next) from t to t+1: the axes before the last broadcast."""
        self._lacks("log_m")

    def log_m_bound(self, t: int) -> Tensor:
        """An upper bound of log m_t, `[]` or `[R]`: for drawing by rejection alone."""
        self._lacks("log_m_bound")

    def sample_y(self, t: int, x: Tensor, generator: torch.Generator) -> Tensor:
        """Observations `[..., dy]` of states `[..., dx]`."""
        self._lacks("sample_y")

    def log_g(self, t: int, x: Tensor, y: Tensor) -> Tensor:
        """log g_t(x, y): states `[R, N, dx]`, `y` `[dy]` or `[R, 1, dy]` -> `[R, N]`. Never called for a missing observation."""
        self._lacks("log_g")

    def check(self, y: Tensor) -> None:
        """Raises DataError for observations `[T, dy]` or `[T, R, dy]` (NaN where missing) that the model cannot emit."""

    def _lacks(self, name: str) -> NoReturn:
        raise ConfigError(f"{type(self).__name__} has no {name!r}, which is needed here: define it in the model.")


def simulate(model: StateSpaceModel, steps: int, *, chains: int = 1, seed: int = 0) -> tuple[Tensor, Tensor]:
    """States `[steps, chains, dx]` and observations `[steps, chains, dy]` drawn from a model."""
    if steps < 1 or chains < 1:
        raise ConfigError(f"steps is {steps} and chains is {chains}: both must be at least 1.")
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        x = [model.sample_x0((chains,), generator)]
        for t in range(steps - 1):
            x.append(model.sample_x(t, x[-1], generator))
        y = [model.sample_y(t, state, generator) for t, state in enumerate(x)]
    return torch.stack(x), torch.stack(y)


def observations(model: StateSpaceModel, y: Tensor | np.ndarray, chains: int | None = None) -> Tensor:
    """A series as float64 `[T, dy]`, or `[T, R, dy]` with one a chain; NaN is a missing value. A vector is a series of numbers.

    Raises DataError for another shape, an infinite value, no observation at all, or values that the model cannot emit.
    """
    try:
        series = torch.as_tensor(y, dtype=torch.float64)
    except (TypeError, ValueError) as error:
        raise DataError(f"y is no array of numbers ({error}): give [T, {model.dy}], NaN where a value is missing.") from error
    series = series.unsqueeze(-1) if series.dim() == 1 else series
    wanted = f"[T, {model.dy}], or [T, {'R' if chains is None else chains}, {model.dy}] with a series a chain"
    if series.dim() not in (2, 3) or series.shape[-1] != model.dy or (series.dim() == 3 and chains not in (None, series.shape[1])):
        raise DataError(f"y has shape {tuple(series.shape)}: it must be {wanted}.")
    if len(series) == 0 or bool(series.isnan().all()):
        raise DataError(f"y has {len(series)} rows and no observation: give at least one.")
    if series.isinf().any():
        where = series.isinf().nonzero()[0].tolist()
        raise DataError(f"y{where} is infinite: observations are finite, or NaN where they are missing.")
    model.check(series)
    return series


# --- what models are made of ------------------------------------------------------------------------------------------


def normal(shape: tuple[int, ...] | torch.Size, generator: torch.Generator) -> Tensor:
    """Standard normal numbers in float64."""
    return torch.randn(shape, dtype=torch.float64, generator=generator, device=generator.device)


def per_chain(value: Tensor, x: Tensor) -> Tensor:
    """A parameter `[]` or `[R]`, as it broadcasts with `x` `[R, ...]`."""
    return value if value.dim() == 0 else value.reshape(-1, *(1,) * (x.dim() - 1))


def apply(matrix: Tensor, x: Tensor) -> Tensor:
    """`matrix @ x` of every state: `[R, ..., d]` -> `[R, ..., k]`, for a matrix `[k, d]`, or `[R, k, d]` with one a chain."""
    if matrix.shape[-2:] == (1, 1):
        return x * (matrix if matrix.dim() == 2 or x.dim() == 3 else matrix.reshape(-1, *(1,) * (x.dim() - 1)))
    if matrix.dim() == 2:
        return x @ matrix.mT
    out = x.reshape(x.shape[0], -1, x.shape[-1]) @ matrix.mT
    return out.reshape(out.shape[0], *x.shape[1:-1], -1)


def log_gaussian(residual: Tensor, variance: Value) -> Tensor:
    """log N(residual; 0, variance I) over the last axis, `[R, ..., d]` -> `[R, ...]`."""
    square = residual.square().sum(-1) if residual.shape[-1] > 1 else residual.square().squeeze(-1)
    v = per_chain(torch.as_tensor(variance, dtype=residual.dtype), square)
    return -residual.shape[-1] * (HALF_LOG_2PI + 0.5 * v.log()) - square * (0.5 / v)


def cholesky(covariance: Tensor) -> tuple[Tensor, Tensor]:
    """Lower roots `[..., d, d]`, and which matrices `[...]` are singular to rounding (whose roots mean nothing)."""
    root, failed = torch.linalg.cholesky_ex(covariance)
    pivots, diagonal = root.diagonal(dim1=-2, dim2=-1).detach().square(), covariance.diagonal(dim1=-2, dim2=-1).detach()
    return root, (failed > 0) | ~(pivots > 1e-14 * diagonal).all(-1)


class Gaussian:
    """N(0, covariance) for a covariance `[d, d]` or `[R, d, d]`. A singular one can be drawn from; it has no density."""

    def __init__(self, covariance: Tensor, name: str):
        c = covariance.detach()
        if not torch.allclose(c, c.mT, rtol=1e-8, atol=1e-12):
            raise ConfigError(f"{name} is not symmetric: a covariance equals its transpose.")
        root, singular = cholesky(covariance)
        self.name, self.root, self.singular = name, root, bool(singular.any())
        if self.singular:
            values, vectors = torch.linalg.eigh(c)
            if values.min() < -1e-9 * values.abs().max():
                raise ConfigError(f"{name} has the negative eigenvalue {float(values.min()):.6g}: a covariance has none.")
            self.root = vectors * values.clamp(min=0.0).sqrt().unsqueeze(-2)
            return
        d = c.shape[-1]
        eye = torch.eye(d, dtype=c.dtype, device=c.device)
        self.whitener = torch.linalg.solve_triangular(root, eye, upper=False) / math.sqrt(2.0)
        self.peak = -root.diagonal(dim1=-2, dim2=-1).log().sum(-1) - d * HALF_LOG_2PI  # log density at the mean

    def sample(self, like: Tensor, generator: torch.Generator) -> Tensor:
        """Noise in the shape of `like` `[R, ..., d]`."""
        return apply(self.root, normal(like.shape, generator))

    def whiten(self, x: Tensor) -> Tensor:
        """x in units in which the log density is `peak - |x|^2`. Raises ConfigError if there is no density."""
        if self.singular:
            raise ConfigError(f"{self.name} is singular, so there is no density: add a little to its diagonal.")
        return apply(self.whitener, x)

    def log_density(self, whitened: Tensor) -> Tensor:
        """log N of whitened residuals: `[R, ..., d]` -> `[R, ...]`."""
        square = whitened.square()
        square = square.squeeze(-1) if square.shape[-1] == 1 else square.sum(-1)
        return per_chain(self.peak, square) - square


def parameter(value: Value, name: str, *, positive: bool = False) -> Tensor:
    """A parameter as float64 `[]` or `[R]`; raises ConfigError unless all its values are finite (and positive where they must be)."""
    tensor = torch.as_tensor(value, dtype=torch.float64)
    if tensor.dim() > 1:
        raise ConfigError(f"{name} has shape {tuple(tensor.shape)}: give a number, or one number a chain.")
    bad = ~torch.isfinite(tensor.detach()) | (tensor.detach() <= 0.0 if positive else False)
    if bad.any():
        kind = "a positive number" if positive else "finite"
        raise ConfigError(f"{name} is {float(tensor.detach()[bad].reshape(-1)[0])}: it must be {kind}.")
    return tensor


# --- linear Gaussian --------------------------------------------------------------------------------------------------


class LinearGaussian(StateSpaceModel):
    """x' = A x + N(0, Q), y = C x + N(0, R), x_0 ~ N(m0, P0): what the Kalman filter solves exactly.

    Matrices `[rows, columns]`, or `[chains, rows, columns]` with one a chain; numbers stand for 1 x 1 matrices, `m0` is `[dx]`.
    Q and P0 may be singular (states that repeat older ones) for filters and the Kalman smoother. Raises ConfigError.
    """

    homogeneous = True

    def __init__(self, a: Value, q: Value, c: Value, r: Value, p0: Value, m0: Value = 0.0):
        self.a, self.q, self.c, self.r, self.p0 = matrix(a, "a"), matrix(q, "q"), matrix(c, "c"), matrix(r, "r"), matrix(p0, "p0")
        self.dx, self.dy = self.a.shape[-1], self.c.shape[-2]
        mean = torch.as_tensor(m0, dtype=torch.float64)
        self.m0 = mean.expand(self.dx) if mean.dim() == 0 else mean
        wanted = {"a": (self.dx, self.dx), "q": (self.dx, self.dx), "c": (self.dy, self.dx), "r": (self.dy, self.dy)}
        for name, shape in (wanted | {"p0": (self.dx, self.dx)}).items():
            found = tuple(getattr(self, name).shape[-2:])
            if found != shape:
                raise ConfigError(f"{name} is {found}: with {self.dx} states and observations of {self.dy} it must be {shape}.")
        if self.m0.shape[-1] != self.dx or not torch.isfinite(self.m0).all():
            raise ConfigError(f"m0 has shape {tuple(self.m0.shape)}: it must be {self.dx} finite numbers, one a state.")
        self.state_noise, self.noise, self.start = Gaussian(self.q, "q"), Gaussian(self.r, "r"), Gaussian(self.p0, "p0")

    def sample_x0(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        like = torch.empty((*shape, self.dx), dtype=torch.float64, device=generator.device)
        return self.mean0(like) + self.start.sample(like, generator)

    def log_x0(self, x: Tensor) -> Tensor:
        return self.start.log_density(self.start.whiten(x - self.mean0(x)))

    def sample_x(self, t: int, x: Tensor, generator: torch.Generator) -> Tensor:
        return apply(self.a, x) + self.state_noise.sample(x, generator)

    def log_m(self, t: int, x: Tensor, x_next: Tensor) -> Tensor:
        noise = self.state_noise  # each state is whitened once, not each pair
        return noise.log_density(noise.whiten(x_next) - noise.whiten(apply(self.a, x)))

    def log_m_bound(self, t: int) -> Tensor:
        return self.state_noise.peak

    def sample_y(self, t: int, x: Tensor, generator: torch.Generator) -> Tensor:
        y = apply(self.c, x)
        return y + self.noise.sample(y, generator)

    def log_g(self, t: int, x: Tensor, y: Tensor) -> Tensor:
        return self.noise.log_density(self.noise.whiten(y - apply(self.c, x)))

    def mean0(self, x: Tensor) -> Tensor:
        """E[x_0] as it broadcasts with states `[R, ..., dx]`."""
        return self.m0 if self.m0.dim() == 1 else self.m0.reshape(-1, *(1,) * (x.dim() - 2), self.dx)


def matrix(value: Value, name: str) -> Tensor:
    """A matrix as float64 `[k, d]` or `[R, k, d]`; a number is 1 x 1. Raises ConfigError."""
    tensor = torch.as_tensor(value, dtype=torch.float64)
    tensor = tensor.reshape(1, 1) if tensor.dim() == 0 else tensor
    if tensor.dim() not in (2, 3):
        raise ConfigError(f"{name} has shape {tuple(tensor.shape)}: give a number, a matrix, or [chains, rows, columns].")
    if not torch.isfinite(tensor).all():
        raise ConfigError(f"{name} holds NaN or infinity: its entries must be finite.")
    return tensor
