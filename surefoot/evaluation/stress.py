"""Returns over a set of physical parameters, and the worst of them: on a grid, or where a search finds it.

The same episodes (starts, and draws of the environment) are played at every point, so that what differs is the physics. CMA-ES is that
of the package `cmaes` (Hansen, arXiv 1604.00772), in units in which every range is [0, 1], with the settings of arXiv 2410.06212v1,
Table 5: 6 generations of 100 candidates from mean 0.5 and standard deviation 0.5. The worst of many means of few episodes errs to the low
side; what a search found is therefore played again, on seeds of its own. What is measured is the set that was named, no more.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from surefoot.envs.making import make_env
from surefoot.envs.physics import Parameter, Physical, Points, grid, scaled
from surefoot.envs.seeding import derive_seed
from surefoot.errors import ConfigError, MissingExtraError
from surefoot.evaluation.rollouts import rollout
from surefoot.evaluation.statistics import mean_interval
from surefoot.policies.base import Policy

How = Literal["grid", "cmaes"]

GENERATIONS, POPULATION = 6, 100
MEAN, SPREAD = 0.5, 0.5  # where CMA-ES starts, in units of the ranges

Told = Callable[[int, int], None]
"""Progress: episodes that have ended, of how many that are played now."""


@dataclass(frozen=True, eq=False)
class Stress:
    """Undiscounted returns at P points; NaN at those that another copy's search came across."""

    parameters: tuple[Parameter, ...]
    nominal: np.ndarray  # [k] as the environment is made
    points: np.ndarray  # [P, k]
    returns: np.ndarray  # [*copies, P, n]
    lengths: np.ndarray  # [*copies, P, n] steps
    at_nominal: np.ndarray  # [*copies, n] returns there
    at_worst: np.ndarray  # [*copies, n] returns at each copy's worst point: of a grid the same episodes, after a search fresh ones
    env_id: str
    search: How
    grid: int | None  # values of each parameter; None if the points were searched

    @property
    def means(self) -> np.ndarray:
        """Mean return at each point, `[*copies, P]`."""
        return self.returns.mean(-1)

    @property
    def worst(self) -> np.ndarray:
        """The point at which each copy does worst, `[*copies]` int64 (the first of several)."""
        return np.nanargmin(self.means, -1)

    def to_json(self) -> dict[str, Any]:
        """The same for JSON; `members` has one entry for a lone policy too, and None where nothing was played."""
        axes = [np.linspace(p.low, p.high, self.grid).tolist() if self.grid else None for p in self.parameters]
        lead = self.worst.size
        rows = zip(
            self.returns.reshape(lead, *self.returns.shape[-2:]),
            self.lengths.reshape(lead, *self.returns.shape[-2:]).mean(-1),
            self.worst.reshape(-1).tolist(),
            self.at_worst.reshape(lead, -1),
            self.at_nominal.reshape(lead, -1),
            strict=True,
        )
        return {
            "kind": "stress",
            "env": self.env_id,
            "episodes": self.returns.shape[-1],
            "search": self.search,
            "parameters": [
                {"name": p.name, "low": p.low, "high": p.high, "nominal": made, "values": axis, "unit": p.unit}
                for p, made, axis in zip(self.parameters, self.nominal.tolist(), axes, strict=True)
            ],
            "points": self.points.tolist(),
            "members": [self._member(i, *row) for i, row in enumerate(rows)],
        }

    def _member(self, i: int, returns: np.ndarray, lengths: np.ndarray, worst: int, low: np.ndarray, made: np.ndarray) -> dict[str, Any]:
        """One member's row; `returns` `[P, n]`, `lengths` `[P]`, `low` and `made` `[n]` returns at its worst and at the nominal point."""
        point = {p.name: value for p, value in zip(self.parameters, self.points[worst].tolist(), strict=True)}
        played = np.isfinite(returns[:, 0])
        intervals = [mean_interval(row) if ok else None for row, ok in zip(returns, played, strict=True)]
        return {
            "member": i,
            "means": [each and each.value for each in intervals],
            "low": [each and each.low for each in intervals],
            "high": [each and each.high for each in intervals],
            "worst": {"point": point, **_estimate(low)},
            "nominal": _estimate(made),
            "average": float(returns.mean()) if self.grid else None,
            "lengths": [float(x) if ok else None for x, ok in zip(lengths, played, strict=True)],
        }


def _estimate(returns: np.ndarray) -> dict[str, float]:
    found = mean_interval(returns)
    return {"mean": found.value, "low": found.low, "high": found.high}


def stress(
    policy: Policy,
    env_id: str,
    parameters: Sequence[Parameter],
    *,
    search: How = "grid",
    n: int = 10,
    episodes: int = 5,
    seed: int = 0,
    progress: Told | None = None,
    **options: Any,
) -> Stress:
    """Play `episodes` episodes at each point of a grid of `n` values a parameter, or of each candidate of CMA-ES, for each copy alone.

    `options`: greedy, max_steps, n_envs of `rollout`. Raises ConfigError for numbers outside their range, EnvError if the environment
    lacks a parameter, MissingExtraError where cmaes is not installed, and what `rollout` raises.
    """
    parameters, made = tuple(parameters), nominal(env_id, parameters)
    options |= {"episodes": episodes, "progress": progress}
    if search == "grid":
        values = grid(parameters, n).values
        returns, lengths = returns_at(policy, env_id, Points(parameters, np.concatenate([values, made[None]])), seed=seed, **options)
        at_nominal, returns, lengths = returns[..., -1, :], returns[..., :-1, :], lengths[..., :-1, :]
        worst = returns.mean(-1).argmin(-1)
        at_worst = np.take_along_axis(returns, worst[..., None, None], -2)[..., 0, :]
        return Stress(parameters, made, values, returns, lengths, at_nominal, at_worst, env_id, search, n)
    at_nominal = returns_at(policy, env_id, Points(parameters, made[None]), seed=seed, **options)[0][..., 0, :]
    members = [policy.member(i) for i in range(policy.copies[0])] if policy.copies else [policy]
    found = [searched(each, env_id, parameters, seed=derive_seed(seed, 5, i), **options) for i, each in enumerate(members)]
    values = np.concatenate([points for points, _, _ in found])
    returns, lengths = np.full((2, len(members), len(values), episodes), np.nan)
    at_worst = np.zeros((len(members), episodes))
    for i, (each, (points, own, steps)) in enumerate(zip(members, found, strict=True)):
        rows = slice(i * len(points), (i + 1) * len(points))  # every search asks for as many candidates
        returns[i, rows], lengths[i, rows] = own, steps
        again = Points(parameters, points[own.mean(-1).argmin()][None])
        at_worst[i] = returns_at(each, env_id, again, seed=derive_seed(seed, 6, i), **options)[0][0]
    returns, lengths, at_worst = (a.reshape(*policy.copies, *a.shape[1:]) for a in (returns, lengths, at_worst))
    return Stress(parameters, made, values, returns, lengths, at_nominal, at_worst, env_id, search, None)


def nominal(env_id: str, parameters: Sequence[Parameter]) -> np.ndarray:
    """The parameters' values in the environment as it is made, `[k]`."""
    env = Physical(make_env(env_id), parameters)
    env.close()
    return env.nominal


def returns_at(
    policy: Policy, env_id: str, points: Points, *, episodes: int, seed: int, progress: Told | None = None, **options: Any
) -> tuple[np.ndarray, np.ndarray]:
    """Returns and lengths of the same `episodes` episodes at each of P points, `[*copies, P, episodes]`; `options` are `rollout`'s."""
    every = int(np.prod(policy.copies, dtype=int)) * len(points) * episodes
    told = None if progress is None else lambda ended: progress(ended, every)
    played = rollout(policy, env_id, episodes, seed=seed, physics=points, progress=told, **options)
    shape = (*policy.copies, len(points), episodes)
    return played.returns.reshape(shape), played.lengths.reshape(shape)


# --- searches for the worst point of a lone policy --------------------------------------------------------------------


def worst_case(
    policy: Policy, env_id: str, parameters: Sequence[Parameter], *, search: How = "grid", n: int = 10, **options: Any
) -> tuple[tuple[float, ...], float]:
    """The worst point and the mean return there; the options of `returns_at`. Of equally bad points the first."""
    if search == "grid":
        points = grid(parameters, n)
        values, returns = points.values, returns_at(policy, env_id, points, **options)[0]
    else:
        values, returns, _ = searched(policy, env_id, parameters, **options)
    means = returns.mean(-1)
    worst = int(means.argmin())
    return tuple(values[worst].tolist()), float(means[worst])


def searched(
    policy: Policy,
    env_id: str,
    parameters: Sequence[Parameter],
    *,
    seed: int,
    generations: int = GENERATIONS,
    population: int = POPULATION,
    **options: Any,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """All candidates of CMA-ES `[N, k]`, their returns and lengths `[N, n]`; all play the same episodes."""
    played: list[tuple[np.ndarray, ...]] = []

    def means(unit: np.ndarray) -> np.ndarray:
        points = Points(tuple(parameters), scaled(parameters, unit))
        played.append((points.values, *returns_at(policy, env_id, points, seed=seed, **options)))
        return played[-1][1].mean(-1)

    minimise(means, len(parameters), seed=seed, generations=generations, population=population)
    values, returns, lengths = (np.concatenate(column) for column in zip(*played, strict=True))
    return values, returns, lengths


def minimise(
    f: Callable[[np.ndarray], np.ndarray], k: int, *, seed: int = 0, generations: int = GENERATIONS, population: int = POPULATION
) -> tuple[np.ndarray, float]:
    """CMA-ES on [0, 1]^k: the best of all candidates `[k]` and its value; `f` maps a generation `[population, k]` to values.

    Raises ConfigError for a single dimension, for which the package has no CMA-ES, and MissingExtraError.
    """
    if k < 2:
        raise ConfigError("CMA-ES searches two parameters or more: use a grid for one (--search grid).")
    try:
        from cmaes import CMA
    except ImportError:
        raise MissingExtraError("cmaes", "stress") from None
    bounds = np.tile([0.0, 1.0], (k, 1))
    optimiser = CMA(np.full(k, MEAN), SPREAD, bounds=bounds, seed=seed, population_size=population)
    best, least = np.full(k, MEAN), np.inf
    for _ in range(generations):
        asked = np.stack([optimiser.ask() for _ in range(population)])
        values = f(asked)
        optimiser.tell(list(zip(asked, values.tolist(), strict=True)))
        if values.min() < least:
            best, least = asked[values.argmin()], float(values.min())
    return best, least
