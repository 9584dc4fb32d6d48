"""Playing whole episodes, vectorised: how every return in this library is measured.

Episodes are played in waves. In a wave each slot plays exactly one episode, from its reset to its end, and all slots start
together; a slot that is done waits for the others. So each episode is counted once and short episodes are not
over-represented, as they would be if the first n finished ones were kept.

Randomness. With single environments, episode i of member f has an environment seed that depends on (seed, f, i) alone, so
two policies that are compared under one seed meet the same environments, whatever `n_envs` is (batches of another size
round differently in the last bits). An environment with its own
vector entry point (CartPole) takes one seed a wave: there the same holds for the same episodes, `n_envs` and number of
members. The policy's own draws (exploration, smoothing noise) come from one generator for the whole rollout, so for policies
that use it results are a deterministic function of the seed, `n_envs` and the number of members.

With `physics` every point plays the same `episodes`: the same seeds, so that what differs is the physics (common random numbers).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import ceil, prod
from typing import Any, Protocol

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import AutoresetMode
from torch import Tensor

from surefoot.data.spec import Spec
from surefoot.envs.making import check_fits, env_spec, make_env, time_limit
from surefoot.envs.physics import Physical, Points
from surefoot.envs.seeding import derive_seed
from surefoot.errors import ConfigError, PolicyError
from surefoot.policies.base import Memory, Policy

VECTOR_SLOTS = 1024  # slots side by side where the environment is vectorised itself (fits the caches)
SINGLE_SLOTS = 64  # slots side by side where each is an environment object of its own


class Perturbation(Protocol):
    """An attack on what the policy observes.

    It sees the true observation and the policy's memory before the policy acts, keeps its own per-episode state (a budget
    that is used up), and must not draw from the policy's generator. Its calls run with gradients switched off: use
    `torch.enable_grad()` where a gradient is needed.
    """

    def start(self, n: int, policy: Policy) -> None:
        """n fresh episodes a copy begin: forget the last ones."""

    def __call__(self, obs: Tensor, policy: Policy, memory: Memory, alive: Tensor) -> Tensor:
        """What the policy gets to see instead of `obs` `[*copies, n, *obs_shape]`; `alive` `[*copies, n]` bool."""


@dataclass(frozen=True)
class Rollout:
    """Undiscounted returns of whole episodes; every array `[*copies, n]`."""

    returns: np.ndarray  # float64
    lengths: np.ndarray  # int64, steps
    terminated: np.ndarray  # bool, False where the time limit ended the episode


@dataclass(frozen=True)
class Step:
    """One step of all slots of a wave; arrays `[*copies, n, ...]`. Entries where `alive` is False mean nothing."""

    first: int  # slot i plays episode first + i
    alive: np.ndarray  # bool: the slot's episode was still running before this step
    obs: np.ndarray
    action: np.ndarray
    reward: np.ndarray
    next_obs: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    memory: Memory = None  # the policy's, after it acted


class Slots:
    """Environments of one id that play a wave of episodes together; finished slots are not stepped any more.

    With `physics`, episode e of a member is episode e % each at point e // each.
    """

    def __init__(self, env_id: str, n: int, limit: int, physics: Points | None = None, each: int = 1):
        self.env_id, self.limit, self.n, self.physics, self.each = env_id, limit, n, physics, each
        self.vector: gym.vector.VectorEnv | None = None
        self.envs: list[gym.Env] = []
        spec = env_spec(env_id)
        if physics is None and spec.vector_entry_point is not None and not spec.additional_wrappers:
            vector = gym.make_vec(spec, n, vectorization_mode="vector_entry_point", max_episode_steps=limit)
            if vector.metadata.get("autoreset_mode") is AutoresetMode.NEXT_STEP:  # its last step shows the final observation
                self.vector = vector
        if self.vector is None:
            self.envs = [make_env(env_id, max_episode_steps=limit, disable_env_checker=True) for _ in range(n)]
            if physics is not None:
                self.envs = [Physical(env, physics.parameters) for env in self.envs]
        if self.vector is not None:
            obs_space, act_space = self.vector.single_observation_space, self.vector.single_action_space
        else:
            obs_space, act_space = self.envs[0].observation_space, self.envs[0].action_space
        self.spec = Spec.from_spaces(obs_space, act_space)
        self.action_dtype = act_space.dtype

    def resized(self, n: int) -> Slots:
        """These slots, or fewer of them."""
        if n == self.n:
            return self
        if self.vector is not None:
            self.close()
            return Slots(self.env_id, n, self.limit)
        for env in self.envs[n:]:
            env.close()
        self.n, self.envs = n, self.envs[:n]
        return self

    def reset(self, seed: int, members: int, first: int) -> np.ndarray:
        """Start a wave whose slots are episodes first, first+1, … of each member; observations `[n, *obs_shape]`."""
        if self.vector is not None:
            return np.array(self.vector.reset(seed=derive_seed(seed, 1, first))[0])
        played = [(f, first + i) for f in range(members) for i in range(self.n // members)]
        if self.physics is None:
            starts = [env.reset(seed=derive_seed(seed, 0, f, e))[0] for env, (f, e) in zip(self.envs, played, strict=True)]
        else:
            points, each = self.physics.values, self.each
            starts = [
                env.reset(seed=derive_seed(seed, 0, f, e % each), options={"physics": points[e // each]})[0]
                for env, (f, e) in zip(self.envs, played, strict=True)
            ]
        self.obs = np.stack(starts)
        return self.obs.copy()

    def step(self, action: np.ndarray, alive: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Next observations, rewards, terminated, truncated, `[n, ...]`."""
        if self.vector is not None:
            obs, reward, terminated, truncated, _ = self.vector.step(action.astype(self.action_dtype))
            return np.array(obs), np.asarray(reward, np.float64), np.array(terminated), np.array(truncated)
        reward, terminated, truncated = np.zeros(self.n), np.zeros(self.n, bool), np.zeros(self.n, bool)
        for i in np.flatnonzero(alive):
            self.obs[i], reward[i], terminated[i], truncated[i], _ = self.envs[i].step(action[i])
        return self.obs.copy(), reward, terminated, truncated

    def close(self) -> None:
        for env in [self.vector] if self.vector is not None else self.envs:
            env.close()


def device_of(policy: Policy) -> torch.device:
    """Where the policy's weights are (the CPU if it has none)."""
    for tensor in (*policy.parameters(), *policy.buffers()):
        return tensor.device
    return torch.device("cpu")


def play(
    policy: Policy,
    env_id: str,
    episodes: int,
    *,
    seed: int,
    greedy: bool = True,
    max_steps: int | None = None,
    n_envs: int | None = None,
    perturb: Perturbation | None = None,
    physics: Points | None = None,
) -> Iterator[Step]:
    """The steps of `episodes` whole episodes of each copy (with `physics` at each of its points, one after the other), wave after wave.

    `n_envs`: episodes side by side a copy (None: chosen for speed). Raises EnvError if policy and environment disagree,
    or the environment lacks a parameter, ConfigError for numbers outside their range, PolicyError if an action is not finite.
    """
    if episodes < 1 or (n_envs is not None and n_envs < 1) or seed < 0:
        raise ConfigError(f"episodes is {episodes}, n_envs {n_envs} and seed {seed}: the first two must be at least 1, seed at least 0.")
    limit, copies = time_limit(env_id, max_steps), tuple(policy.copies)
    members = prod(copies)
    each, episodes = episodes, episodes * (1 if physics is None else len(physics))
    room = VECTOR_SLOTS if physics is None and env_spec(env_id).vector_entry_point is not None else SINGLE_SLOTS
    waves = ceil(episodes / (n_envs or max(1, room // members)))
    size = ceil(episodes / waves)
    device = device_of(policy)
    generator = torch.Generator(device).manual_seed(derive_seed(seed, 2))
    slots = Slots(env_id, members * size, limit, physics, each)
    try:
        check_fits("the policy", policy.spec, env_id, slots.spec)
        for first in range(0, episodes, size):
            n = min(size, episodes - first)  # the last wave may be shorter
            slots = slots.resized(members * n)
            obs = slots.reset(seed, members, first)
            alive = np.ones((*copies, n), bool)
            memory = policy.start(n)
            if perturb is not None:
                perturb.start(n, policy)
            while alive.any():
                with torch.no_grad():
                    seen = torch.as_tensor(obs, dtype=torch.float32, device=device).reshape(*copies, n, *obs.shape[1:])
                    if perturb is not None:
                        seen = perturb(seen, policy, memory, torch.as_tensor(alive, device=device))
                    chosen, memory = policy.act(seen, memory, generator=generator, greedy=greedy)
                action = chosen.cpu().numpy()
                if not np.isfinite(action).all():
                    raise PolicyError("the policy gave an action that is not finite: did its training diverge?")
                next_obs, *outcome = slots.step(action.reshape(members * n, *action.shape[len(copies) + 1 :]), alive.reshape(-1))
                reward, terminated, truncated = (x.reshape(*copies, n) for x in outcome)
                shape = (*copies, n, *obs.shape[1:])
                yield Step(first, alive, obs.reshape(shape), action, reward, next_obs.reshape(shape), terminated, truncated, memory)
                alive, obs = alive & ~(terminated | truncated), next_obs
    finally:
        slots.close()


def rollout(
    policy: Policy,
    env_id: str,
    episodes: int,
    *,
    seed: int,
    greedy: bool = True,
    max_steps: int | None = None,
    n_envs: int | None = None,
    perturb: Perturbation | None = None,
    physics: Points | None = None,
    progress: Callable[[int], None] | None = None,
) -> Rollout:
    """Returns and lengths of `episodes` whole episodes of each copy; arguments and errors as in `play`.

    With `physics` of P points the last axis has P `episodes`, point after point. `progress` is called after each step with the number
    of episodes that have ended so far, over all copies.
    """
    waves: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    first, ended = -1, 0
    options: dict[str, Any] = {"greedy": greedy, "max_steps": max_steps, "n_envs": n_envs, "perturb": perturb, "physics": physics}
    for step in play(policy, env_id, episodes, seed=seed, **options):
        if step.first != first:
            first = step.first
            waves.append((np.zeros(step.alive.shape), np.zeros(step.alive.shape, np.int64), np.zeros(step.alive.shape, bool)))
        returns, lengths, terminated = waves[-1]
        returns += np.where(step.alive, step.reward, 0.0)
        lengths += step.alive
        terminated |= step.alive & step.terminated
        if progress is not None:
            ended += int((step.alive & (step.terminated | step.truncated)).sum())
            progress(ended)
    return Rollout(*(np.concatenate(parts, -1) for parts in zip(*waves, strict=True)))
