"""Diffusions dX = b(t, X) dt + s(t, X) dW, simulated by Euler and Maruyama's scheme, and problems whose value is known.

All leading axes are paths and copies, one array program for all of them; time is the one loop. A fleet's copies draw from generators
of their own, so that a copy's paths are those of a lone run. The scheme's bias is O(dt): against a closed form expect no better.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from scipy.stats import norm

from surefoot.data.paths import PathBatch
from surefoot.errors import ConfigError, DataError

Coefficient: TypeAlias = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""Of time `[...]` and state `[..., d]`."""

Generators: TypeAlias = np.random.Generator | Sequence[np.random.Generator]
"""One for everything, or one for each entry of the first axis (the copies of a fleet)."""


@dataclass(frozen=True)
class Diffusion:
    """An equation: `drift(t, x)` `[..., d]`, and `volatility(t, x)`: `[..., d]` where each state has a noise of its own,
    or a matrix `[..., d, m]` of what m noises do to d states."""

    name: str
    dim: int
    drift: Coefficient
    volatility: Coefficient


def brownian(dim: int = 1, sigma: float = 1.0) -> Diffusion:
    """dX = sigma dW."""
    _positive("sigma", sigma)
    return Diffusion("Brownian motion", dim, lambda t, x: np.zeros_like(x), lambda t, x: np.full_like(x, sigma))


def ornstein_uhlenbeck(rate: float = 1.0, mean: float = 0.0, sigma: float = 1.0, dim: int = 1) -> Diffusion:
    """dX = rate (mean - X) dt + sigma dW."""
    _positive("rate", rate)
    _positive("sigma", sigma)
    return Diffusion("Ornstein-Uhlenbeck", dim, lambda t, x: rate * (mean - x), lambda t, x: np.full_like(x, sigma))


def geometric_brownian(mu: float = 0.05, sigma: float = 0.2, dim: int = 1) -> Diffusion:
    """dX = mu X dt + sigma X dW."""
    _positive("sigma", sigma)
    return Diffusion("geometric Brownian motion", dim, lambda t, x: mu * x, lambda t, x: sigma * x)


def simulate(diffusion: Diffusion, start: np.ndarray, t: np.ndarray, rng: Generators) -> np.ndarray:
    """Paths `[..., N + 1, d]` from `start` `[..., d]` at times `t`: `[N + 1]` for all, or `[..., N + 1]` for each its own.

    X_{i+1} = X_i + b(t_i, X_i) dt_i + s(t_i, X_i) sqrt(dt_i) xi_i, xi_i standard normal. Steps of no time change nothing. Raises
    ConfigError where shapes or times are wrong, DataError where a path leaves the finite numbers.
    """
    x, t = np.asarray(start, np.float64), np.asarray(t, np.float64)
    lead = x.shape[:-1]
    if x.ndim == 0 or x.shape[-1] != diffusion.dim:
        raise ConfigError(f"start has shape {x.shape}: {diffusion.name} of dimension {diffusion.dim} starts from [..., {diffusion.dim}].")
    if t.ndim == 0 or t.shape[-1] < 2 or t.shape[:-1] not in ((), lead):
        raise ConfigError(f"times have shape {t.shape}: give [N + 1] with N >= 1, or {[*lead, 'N + 1']}.")
    dt = np.diff(t, axis=-1)
    if not np.isfinite(t).all() or (dt < 0.0).any():
        raise ConfigError("times decrease or are not finite: give each path's in order.")
    matrix, m = _checked(diffusion, x, np.broadcast_to(t[..., 0], lead))
    n = dt.shape[-1]
    noise = _normals(rng, (*lead, n, m))
    noise *= np.sqrt(dt)[..., None]
    path = np.empty((*lead, n + 1, diffusion.dim))
    path[..., 0, :] = x
    with np.errstate(over="ignore", invalid="ignore"):  # what explodes is named below
        for i in range(n):
            now, dw = t[..., i], noise[..., i, :]
            s = diffusion.volatility(now, x)
            x = x + diffusion.drift(now, x) * dt[..., i, None] + ((s @ dw[..., None])[..., 0] if matrix else s * dw)
            path[..., i + 1, :] = x
    _finite(diffusion, path, t)
    return path


def _checked(diffusion: Diffusion, x: np.ndarray, t: np.ndarray) -> tuple[bool, int]:
    """Whether the volatility is a matrix, and how many noises there are; coefficients are tried at the start."""
    b, s = np.shape(diffusion.drift(t, x)), np.shape(diffusion.volatility(t, x))
    if b != x.shape:
        raise ConfigError(f"the drift of {diffusion.name} has shape {b} where states have {x.shape}: it must be [..., d].")
    if s == x.shape:
        return False, diffusion.dim
    if len(s) == x.ndim + 1 and s[:-1] == x.shape and s[-1] > 0:
        return True, s[-1]
    raise ConfigError(f"the volatility of {diffusion.name} has shape {s} where states have {x.shape}: it must be [..., d] or [..., d, m].")


def _normals(rng: Generators, shape: tuple[int, ...]) -> np.ndarray:
    if isinstance(rng, np.random.Generator):
        return rng.standard_normal(shape)
    if len(shape) < 3 or len(rng) != shape[0]:
        raise ConfigError(f"there are {len(rng)} generators for a first axis of {shape[0]}: give one a copy.")
    return np.stack([one.standard_normal(shape[1:]) for one in rng])


def _finite(diffusion: Diffusion, path: np.ndarray, t: np.ndarray) -> None:
    bad = ~np.isfinite(path).all(-1)
    if bad.any():
        where = np.argwhere(bad)[np.argmin(np.argwhere(bad)[:, -1])]
        when = t[where[-1]] if t.ndim == 1 else t[tuple(where)]
        what = f"{diffusion.name}: path {where[:-1].tolist()} left the finite numbers at t = {when:g}"
        raise DataError(f"{what}: take smaller steps, or coefficients that grow no faster than the state.")


def regular_times(horizon: float, dt: float) -> np.ndarray:
    """0, dt, …, horizon, `[N + 1]`; raises ConfigError unless dt divides the horizon."""
    n = round(horizon / dt) if dt > 0.0 else 0
    if n < 1 or not np.isclose(n * dt, horizon, rtol=1e-9):
        raise ConfigError(f"dt is {dt}: it must be positive and divide the horizon, {horizon}.")
    return np.linspace(0.0, horizon, n + 1)


def irregular_times(horizon: float, steps: int, paths: int, rng: Generators) -> np.ndarray:
    """Times from 0 to the horizon, `steps - 1` of them uniform between, for each path its own: `[P, N + 1]`, or a copy each."""
    if isinstance(rng, np.random.Generator):
        inner = np.sort(rng.uniform(0.0, horizon, (paths, steps - 1)), -1)
        return np.concatenate([np.zeros((paths, 1)), inner, np.full((paths, 1), horizon)], -1)
    return np.stack([irregular_times(horizon, steps, paths, one) for one in rng])


def _positive(name: str, value: float) -> None:
    if not 0.0 < value < np.inf:
        raise ConfigError(f"{name} is {value}: it must be positive (without noise, or without a pull, it is another equation).")


# --- problems: what is earned along the way, what the end pays, and what it is worth ------------------------------------


@dataclass(frozen=True)
class Problem:
    """A diffusion with rewards, and its value in closed form."""

    diffusion: Diffusion
    start: Callable[[np.random.Generator, int], np.ndarray]  # n states [n, d]
    reward: Coefficient  # rate [...] at time [...] and state [..., d]
    value: Callable[..., np.ndarray]  # of state [..., d] and, unless the horizon is infinite, time to go [...]
    horizon: float = 1.0  # where the paths end; if `infinite`, how long they are
    payoff: Callable[[np.ndarray], np.ndarray] | None = None  # of the last state; nothing by default
    rho: float = 0.0  # discount rate
    infinite: bool = False

    def batch(self, paths: int, t: float | np.ndarray, rng: Generators) -> PathBatch:
        """P new paths (of each generator, if there are several) with steps of `t`, or at times `t`."""
        t = regular_times(self.horizon, t) if isinstance(t, float) else t
        x0 = self.start(rng, paths) if isinstance(rng, np.random.Generator) else np.stack([self.start(g, paths) for g in rng])
        x = simulate(self.diffusion, x0, t, rng)
        t = np.broadcast_to(t, x.shape[:-1])
        payoff = np.zeros(x.shape[:-2]) if self.payoff is None else self.payoff(x[..., -1, :])
        return PathBatch(t - t[..., :1], x, self.reward(t, x)[..., :-1], None if self.infinite else payoff)


def brownian_power(power: int = 1) -> Problem:
    """X Brownian from 0 until T = 1, r = x or x^3: J = x tau or x^3 tau + 1.5 x tau^2."""
    values = {1: lambda x, tau: x[..., 0] * tau, 3: lambda x, tau: x[..., 0] ** 3 * tau + 1.5 * x[..., 0] * tau**2}
    if power not in values:
        raise ConfigError(f"power is {power}: the value is known for 1 and 3.")
    return Problem(brownian(), lambda rng, n: np.zeros((n, 1)), lambda t, x: x[..., 0] ** power, values[power])


def decaying_square(rate: float = 1.0, sigma: float = 1.0, horizon: float = 1.0) -> Problem:
    """dX = -rate X dt + sigma dW from N(0, 1), r = x^2: J = x^2 e + sigma^2 (tau - e) / (2 rate), e = (1 - exp(-2 rate tau)) / (2 rate)."""

    def value(x: np.ndarray, tau: np.ndarray) -> np.ndarray:
        e = -np.expm1(-2.0 * rate * tau) / (2.0 * rate)
        return x[..., 0] ** 2 * e + sigma**2 * (tau - e) / (2.0 * rate)

    process = ornstein_uhlenbeck(rate, 0.0, sigma)
    return Problem(process, lambda rng, n: rng.standard_normal((n, 1)), lambda t, x: x[..., 0] ** 2, value, horizon)


def discounted_square(rate: float = 1.0, sigma: float = np.sqrt(2.0), rho: float = 1.0, horizon: float = 10.0) -> Problem:
    """dX = -rate X dt + sigma dW from its stationary law, r = x^2, forever: J = a x^2 + a sigma^2 / rho, a = 1 / (rho + 2 rate)."""
    a = 1.0 / (rho + 2.0 * rate)

    def value(x: np.ndarray) -> np.ndarray:
        return a * x[..., 0] ** 2 + a * sigma**2 / rho

    def start(rng: np.random.Generator, n: int) -> np.ndarray:
        return sigma / np.sqrt(2.0 * rate) * rng.standard_normal((n, 1))

    process = ornstein_uhlenbeck(rate, 0.0, sigma)
    return Problem(process, start, lambda t, x: x[..., 0] ** 2, value, horizon, rho=rho, infinite=True)


def call_option(rho: float = 0.05, sigma: float = 0.2, strike: float = 1.0, horizon: float = 1.0) -> Problem:
    """A European call on a share under the pricing measure, dX = rho X dt + sigma X dW, h = max(x - strike, 0): Black and Scholes."""

    def value(x: np.ndarray, tau: np.ndarray) -> np.ndarray:
        spread = sigma * np.sqrt(np.maximum(tau, 1e-300))
        d1 = (np.log(x[..., 0] / strike) + (rho + 0.5 * sigma**2) * tau) / spread
        return x[..., 0] * norm.cdf(d1) - strike * np.exp(-rho * tau) * norm.cdf(d1 - spread)

    def start(rng: np.random.Generator, n: int) -> np.ndarray:
        return strike * rng.uniform(0.8, 1.2, (n, 1))

    def payoff(x: np.ndarray) -> np.ndarray:
        return np.maximum(x[..., 0] - strike, 0.0)

    process = geometric_brownian(rho, sigma)
    return Problem(process, start, lambda t, x: np.zeros(x.shape[:-1]), value, horizon, payoff, rho)
