"""A policy's diagnosis: RA-NLD's protocols (see `diagnosing`) on states that the policy visits in an environment.

The directions are those of a set S of states; a second set of other episodes says how well they can be known at all (the ceiling), each
shift how far they move when the policy sees the world through it, a second policy whether it is unstable in the same places.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import gymnasium as gym
import numpy as np
from torch import Tensor

from surefoot.data.spec import Spec
from surefoot.envs.making import check_fits, make_env
from surefoot.errors import ConfigError, EnvError
from surefoot.evaluation.diagnosing import Directions, by_step, check_differentiable, gradients, principal, quotient
from surefoot.evaluation.diagnosing_shifts import Shift, visited_under
from surefoot.evaluation.visited import Visited, visited
from surefoot.nn.conv import channels_last
from surefoot.policies.base import Policy

Units = Literal["observation", "deviation"]
DIGITS = 6  # of the numbers of a direction in JSON


@dataclass(frozen=True)
class Settings:
    """How a policy is diagnosed."""

    env_id: str
    episodes: int = 10  # of each set of states
    states: int = 1_000  # at most, of each set
    temperature: float = 1.0
    seed: int = 0
    max_steps: int | None = None
    unit: Tensor | None = None  # [d] what one step along each number of the observation is

    def __post_init__(self) -> None:
        if self.episodes < 1 or self.states < 1 or self.seed < 0:
            raise ConfigError(f"episodes is {self.episodes}, states {self.states} and seed {self.seed}: at least 1, 1 and 0.")
        if not 0.0 < self.temperature < np.inf:
            raise ConfigError(f"temperature is {self.temperature}: it must be positive and finite.")

    def visited(self, policy: Policy, shift: Shift | None = None, *, again: bool = False) -> Visited:
        """The set S of a policy, its set under a shift (of the same episodes), or `again`: of other episodes."""
        options: dict[str, Any] = {"episodes": self.episodes, "seed": self.seed + again, "max_steps": self.max_steps}
        if shift is not None:
            return visited_under(shift, policy, self.env_id, self.states, **options)
        (found,) = visited(policy, self.env_id, self.states, **options)
        return found

    def gradients(self, policy: Policy, states: Visited) -> Tensor:
        return gradients(policy, states, temperature=self.temperature, unit=self.unit)


@dataclass(frozen=True, eq=False)
class Diagnosis:
    """What was found out about one policy (a member of a fleet)."""

    directions: Directions
    rows: Tensor  # [n, r, d] the gradients that they are of
    by_step: np.ndarray  # [T] mean norm of the gradient at each step, NaN where there is no state
    ceiling: float | None  # Lambda(S'', S) of a second, independent set S''; None where the gradient is zero all over that set
    shifts: dict[str, float | None]  # Lambda(S_shift, S), likewise

    def to_json(self) -> dict[str, Any]:
        found = self.directions
        return {
            "explained": found.explained,
            "eigenvalues": _rounded(found.eigenvalues),
            "direction": _rounded(found.direction),
            "states": len(self.rows),
            "states_90": found.states_90,
            "norm_mean": float(found.norms.mean()),
            "norm_cv": found.variation,
            "norms_by_step": _rounded(self.by_step),
            "ceiling": self.ceiling,
            "shifts": self.shifts,
        }


def diagnose(
    policy: Policy,
    settings: Settings,
    shifts: Iterable[Shift] = (),
    *,
    states: Visited | None = None,
    say: Callable[[str], None] | None = None,
) -> Diagnosis:
    """The diagnosis of one policy. `states`: its set S, if it was visited already; `say` is told what is being done.

    Raises PolicyError for a policy without gradients or a whole fleet, EnvError for observations that are no boxes of numbers or an
    environment that does not fit, ConfigError for numbers outside their range, DataError if the gradient is zero everywhere.
    """
    check(policy, settings.env_id)
    tell = say or (lambda _: None)
    tell("visiting its states")
    states = states or settings.visited(policy)
    rows = settings.gradients(policy, states)
    found = principal(rows)

    def kept(others: Visited) -> float | None:
        there = settings.gradients(policy, others)
        return quotient(principal(there, 1).direction, rows, found) if there.any() else None

    tell("visiting states of other episodes")
    ceiling, moved = kept(settings.visited(policy, again=True)), {}
    for shift in shifts:
        tell(f"playing under {shift.name}")
        moved[shift.name] = kept(settings.visited(policy, shift))
    return Diagnosis(found, rows, by_step(found.norms, states), ceiling, moved)


def compared(own: Diagnosis, other: Diagnosis) -> tuple[float, float]:
    """Two policies in the same units: Lambda of the other's direction at one's own states, and of one's own at the other's."""
    there = quotient(other.directions.direction, own.rows, own.directions)
    return there, quotient(own.directions.direction, other.rows, other.directions)


def check(policy: Policy, env_id: str) -> None:
    """Raises what `diagnose` raises about the policy and the environment, before anything is played."""
    check_differentiable(policy)
    if policy.copies:
        raise ConfigError("a fleet is diagnosed member by member: take one with policy.member(i).")
    env = make_env(env_id)
    env.close()
    if not isinstance(env.observation_space, gym.spaces.Box):
        raise EnvError(
            f"environment {env_id!r} shows observations of {env.observation_space}, which cannot be changed by small amounts: a diagnosis"
            " needs observations in a Box."
        )
    check_fits("the policy", policy.spec, env_id, Spec.from_env(env))


def units(which: Units, states: Visited) -> Tensor | None:
    """What one step along each number of the observation is, `[d]`: its own unit (None), or its deviation over the states."""
    if which == "observation":
        return None
    return states.obs.double().flatten(1).std(0, correction=0).float()


def is_image(obs_shape: Sequence[int]) -> bool:
    return len(obs_shape) in (2, 3)


def frames_of(direction: np.ndarray, obs_shape: Sequence[int]) -> np.ndarray:
    """An image's direction as pictures `[C, H, W]`: frames or channels are the leading axis, or a last one of at most four."""
    image = direction.reshape(obs_shape)
    if channels_last(obs_shape):
        image = np.moveaxis(image, -1, 0)
    return image.reshape(-1, *image.shape[-2:])


def white(env_id: str) -> float:
    """The value of a white pixel: the upper end of the observation space, or 1 if that is not one."""
    env = make_env(env_id)
    env.close()
    high = float(np.max(getattr(env.observation_space, "high", 1.0)))
    return high if 0.0 < high < 1e6 else 1.0


def _rounded(values: np.ndarray) -> list[float | None]:
    """A list for JSON, of DIGITS digits; None for what is not known."""
    return [None if np.isnan(x) else float(f"{x:.{DIGITS}g}") for x in values.tolist()]
