"""Playing a finite world for its counts n_h(s, a, s'), which are all that count-based methods keep of an episode.

Episodes of one batch are independent and their order is forgotten, so that counts can be drawn directly, stage by stage, as
multinomials: as many copies of a model as wanted, at a cost that does not depend on the number of episodes. A world that can only be
stepped is played row by row.

A *probe* is the exploration step of UCBVI-Ent+ (Tiapkin et al., arXiv 2310.17303): each episode draws one stage h' uniformly,
plays a given action there, and follows the policy before and after. Whether an episode has been probed is one more bit of its state:
at stage h (from 0), an episode that was not yet probed is probed with probability 1 / (H - h).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from surefoot.envs.finite import FiniteMDP, check_distribution, draw
from surefoot.errors import ConfigError, DataError, EnvError


@dataclass(frozen=True, eq=False)
class Simulator:
    """A world of one's own: something that can be stepped, with rewards that are known.

    `step(h, s, a) -> s'`: stage h from 0, states and actions `[n]` int64 of n episodes side by side, to next states `[n]`.
    Raises DataError where `reward` or `initial` do not fit or `initial` is no distribution.
    """

    step: Callable[[int, np.ndarray, np.ndarray], np.ndarray]
    reward: np.ndarray  # [H, S, A] expected rewards
    initial: np.ndarray  # [S] law of the first state

    def __post_init__(self) -> None:
        if self.reward.ndim != 3 or not np.isfinite(self.reward).all():
            raise DataError(f"reward has shape {self.reward.shape}: it must be [H, S, A], all finite (zeros if there are none).")
        if self.initial.shape != (self.n_states,):
            raise DataError(f"initial has shape {self.initial.shape}: it must be ({self.n_states},), a probability a state.")
        check_distribution(self.initial, "initial")

    @property
    def copies(self) -> tuple[int, ...]:
        return ()

    @property
    def horizon(self) -> int:
        return self.reward.shape[0]

    @property
    def n_states(self) -> int:
        return self.reward.shape[1]

    @property
    def n_actions(self) -> int:
        return self.reward.shape[2]

    def stepped(self, h: int, s: np.ndarray, a: np.ndarray) -> np.ndarray:
        """Next states, checked; raises EnvError where `step` returns something else than states."""
        landed = np.asarray(self.step(h, s, a))
        if landed.shape != s.shape or landed.dtype.kind not in "iu":
            raise EnvError(f"step returned {landed.dtype} of shape {landed.shape} at stage {h}: it must return {s.shape} whole numbers.")
        wrong = np.flatnonzero((landed < 0) | (landed >= self.n_states))
        if wrong.size:
            i = wrong[0]
            raise EnvError(f"step({h}, {s[i]}, {a[i]}) returned state {landed[i]}: the {self.n_states} states are numbered from 0.")
        return landed.astype(np.int64)


World = FiniteMDP | Simulator


def visit_counts(
    world: World, policy: np.ndarray, episodes: int | np.ndarray, rng: np.random.Generator, probe: np.ndarray | None = None
) -> np.ndarray:
    """Counts n_h(s, a, s') `[..., H, S, A, S]` int64 of `episodes` `[...]` episodes of each copy under `policy` `[..., H, S, A]`.

    `probe` `[..., H, S]`: actions of the exploration step, if there is to be one. The copies of the policy and of the world broadcast.
    """
    if policy.shape[-3:] != world.reward.shape[-3:]:
        raise DataError(f"policy has shape {policy.shape}: it must end in {world.reward.shape[-3:]}, stages by states by actions.")
    lead = np.broadcast_shapes(world.copies, policy.shape[:-3], np.shape(episodes), () if probe is None else probe.shape[:-2])
    policy, episodes = np.broadcast_to(policy, lead + policy.shape[-3:]), np.broadcast_to(episodes, lead)
    if probe is not None:
        probe = np.broadcast_to(probe, lead + probe.shape[-2:])
    if isinstance(world, FiniteMDP):
        return _drawn(world, policy, episodes, rng, probe)
    return _stepped(world, policy, episodes, rng, probe)


def _drawn(mdp: FiniteMDP, policy: np.ndarray, episodes: np.ndarray, rng: np.random.Generator, probe: np.ndarray | None) -> np.ndarray:
    """Counts as multinomials: episodes that are to be probed yet, and those that were."""
    h_max, n_states, n_actions = mdp.reward.shape[-3:]
    visits = np.empty((*episodes.shape, h_max, n_states, n_actions, n_states), np.int64)
    unprobed = rng.multinomial(episodes, _exact(mdp.initial))
    probed = np.zeros_like(unprobed)
    for h in range(h_max):
        now = np.zeros_like(unprobed) if probe is None else rng.binomial(unprobed, 1.0 / (h_max - h))
        taken = rng.multinomial(np.stack([unprobed - now, probed]), _exact(policy[..., h, :, :]))  # [2, ..., S, A]
        if probe is not None:
            taken[1] += now[..., None] * (probe[..., h, :, None] == np.arange(n_actions))
        landed = rng.multinomial(taken, _exact(mdp.transition[..., h, :, :, :]))  # [2, ..., S, A, S]
        visits[..., h, :, :, :] = landed.sum(0)
        unprobed, probed = landed.sum((-3, -2))
    return visits


def _exact(p: np.ndarray) -> np.ndarray:
    """Rows that sum to one to the last digit, which the multinomial insists on."""
    return p / p.sum(-1, keepdims=True)


def _stepped(world: Simulator, policy: np.ndarray, episodes: np.ndarray, rng: np.random.Generator, probe: np.ndarray | None) -> np.ndarray:
    """Counts of episodes that are played side by side, one a row."""
    h_max, n_states, n_actions = policy.shape[-3:]
    copy = np.repeat(np.arange(episodes.size), episodes.reshape(-1))
    policies = policy.reshape(-1, h_max, n_states, n_actions)
    probes = None if probe is None else probe.reshape(-1, h_max, n_states)
    when = rng.integers(h_max, size=copy.size)
    visits = np.zeros((episodes.size, h_max, n_states, n_actions, n_states), np.int64)
    if not copy.size:
        return visits.reshape(*episodes.shape, *visits.shape[1:])
    s = draw(np.broadcast_to(world.initial, (copy.size, n_states)), rng)
    for h in range(h_max):
        a = draw(policies[copy, h, s], rng)
        if probes is not None:
            a = np.where(when == h, probes[copy, h, s], a)
        landed = _step(world, copy, h, s, a, rng)
        np.add.at(visits[:, h], (copy, s, a, landed), 1)
        s = landed
    return visits.reshape(*episodes.shape, *visits.shape[1:])


def _step(world: World, copy: np.ndarray, h: int, s: np.ndarray, a: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Next states of rows that belong to the copies numbered `copy`."""
    if isinstance(world, Simulator):
        return world.stepped(h, s, a)
    flat = world.transition.reshape(-1, *world.transition.shape[-4:])
    return draw(flat[copy if len(flat) > 1 else 0, h, s, a], rng)


def trajectories(world: World, policy: np.ndarray, n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """States `[..., n, H]` and actions `[..., n, H]` of n whole episodes of each copy of `policy` `[..., H, S, A]`."""
    if n < 1:
        raise ConfigError(f"n is {n}: play at least one episode.")
    lead = np.broadcast_shapes(world.copies, policy.shape[:-3])
    h_max, n_states = policy.shape[-3:-1]
    policies = np.broadcast_to(policy, lead + policy.shape[-3:]).reshape(-1, *policy.shape[-3:])
    if world.copies not in ((), lead):
        raise DataError(f"the world has copies {world.copies} and the policy {policy.shape[:-3]}: give one policy a world, or one for all.")
    copy = np.repeat(np.arange(len(policies)), n)
    initial = np.broadcast_to(world.initial, (*lead, n_states)).reshape(-1, n_states)
    states, actions = np.empty((copy.size, h_max), np.int64), np.empty((copy.size, h_max), np.int64)
    s = draw(initial[copy], rng)
    for h in range(h_max):
        states[:, h], actions[:, h] = s, draw(policies[copy, h, s], rng)
        if h + 1 < h_max:  # where the last step leads is not recorded
            s = _step(world, copy, h, s, actions[:, h], rng)
    return states.reshape(*lead, n, h_max), actions.reshape(*lead, n, h_max)
