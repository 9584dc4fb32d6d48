"""What a policy sees and does: observation shape, action space, and the statistics that observations are scaled with."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

from surefoot.errors import EnvError


@dataclass(frozen=True)
class Continuous:
    """Box of real actions; `low` and `high` have one finite entry a dimension."""

    low: tuple[float, ...]
    high: tuple[float, ...]

    @property
    def dim(self) -> int:
        return len(self.low)

    @property
    def is_unit(self) -> bool:
        """True if the box is [-1, 1]^A, so that scaling is the identity and can be skipped."""
        return all(x == -1.0 for x in self.low) and all(x == 1.0 for x in self.high)


@dataclass(frozen=True)
class Discrete:
    """Actions 0 .. n-1."""

    n: int


@dataclass(frozen=True)
class Spec:
    """Shapes and scales that a method and its policy are built for.

    `obs_mean` and `obs_std`: `[S]`, or `[F, S]` when each member of a fleet has its own log; None means no scaling.
    """

    obs_shape: tuple[int, ...]
    action: Continuous | Discrete
    obs_mean: Tensor | None = None
    obs_std: Tensor | None = None

    @property
    def obs_dim(self) -> int:
        """Features of a flattened observation."""
        return prod(self.obs_shape)

    @property
    def action_dim(self) -> int:
        """Width of the action in a packed log: A for a box, 1 for discrete actions."""
        return self.action.dim if isinstance(self.action, Continuous) else 1

    @property
    def n_actions(self) -> int:
        if not isinstance(self.action, Discrete):
            raise EnvError("this method needs discrete actions, but the action space is continuous: choose a continuous method.")
        return self.action.n

    @property
    def box(self) -> Continuous:
        if not isinstance(self.action, Continuous):
            raise EnvError("this method needs continuous actions, but the action space is discrete: choose a discrete method.")
        return self.action

    def without_scaling(self) -> Spec:
        return replace(self, obs_mean=None, obs_std=None)

    @staticmethod
    def from_spaces(obs: gym.Space, action: gym.Space) -> Spec:
        """Spec of Gymnasium spaces; observations unscaled. Raises EnvError for spaces other than Box, and Box or Discrete."""
        if not isinstance(obs, gym.spaces.Box):
            raise EnvError(f"observation space {obs} is not a Box: wrap the environment (for example with FlattenObservation).")
        return Spec(tuple(obs.shape), action_space(action))

    @staticmethod
    def from_env(env: gym.Env) -> Spec:
        return Spec.from_spaces(env.observation_space, env.action_space)


def action_space(space: gym.Space) -> Continuous | Discrete:
    """The Gymnasium action space as ours; raises EnvError for kinds we cannot act in."""
    if isinstance(space, gym.spaces.Discrete):
        if int(space.start) != 0:
            raise EnvError(f"action space {space} starts at {space.start}: wrap the environment so that actions start at 0.")
        return Discrete(int(space.n))
    if isinstance(space, gym.spaces.Box) and len(space.shape) == 1:
        if not (np.isfinite(space.low).all() and np.isfinite(space.high).all()):
            raise EnvError(f"action space {space} has infinite bounds: wrap the environment with RescaleAction or ClipAction.")
        return Continuous(tuple(map(float, space.low)), tuple(map(float, space.high)))
    raise EnvError(f"action space {space} is neither Discrete nor a flat Box: wrap the environment.")


def unit_action(action: Tensor, box: Continuous) -> Tensor:
    """Map actions `[..., A]` in the box to [-1, 1]."""
    if box.is_unit:
        return action
    low, high = action.new_tensor(box.low), action.new_tensor(box.high)
    return (action - low) * (2.0 / (high - low)) - 1.0


def box_action(unit: Tensor, box: Continuous) -> Tensor:
    """Map actions `[..., A]` in [-1, 1] to the box; inverse of `unit_action`."""
    if box.is_unit:
        return unit
    low, high = unit.new_tensor(box.low), unit.new_tensor(box.high)
    return low + (unit + 1.0) * (0.5 * (high - low))


def stack_specs(specs: list[Spec]) -> Spec:
    """One spec for a fleet whose members have logs of their own: statistics stacked to `[F, S]`."""
    first = specs[0]
    if any(s.obs_shape != first.obs_shape or s.action != first.action for s in specs):
        raise EnvError("the logs of a fleet differ in observation shape or action space: give logs of one environment.")
    if first.obs_mean is None:
        return first
    means = [s.obs_mean for s in specs if s.obs_mean is not None]
    stds = [s.obs_std for s in specs if s.obs_std is not None]
    return replace(first, obs_mean=torch.stack(means), obs_std=torch.stack(stds))
