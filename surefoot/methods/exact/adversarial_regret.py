"""Contests with an adversary in a known world, and exact regret: what playing cost against the best fixed policy in hindsight.

The transition stays as it is, so that the best fixed policy is the optimal plan for the summed losses. Losses of policies are
expectations, computed and not sampled; what the learner sees is what it played. Every copy has a generator of its own, and all arms
play with the same luck: a copy's numbers do not depend on which others run beside it, and arms can be compared in pairs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np

from surefoot.envs.finite import FiniteMDP, quantile
from surefoot.errors import ConfigError, DataError
from surefoot.methods.exact.adversarial_mdp import RefinedLinearQ
from surefoot.methods.exact.planning import optimal_plan, policy_return
from surefoot.methods.exact.simulator_free import SimulatorFree
from surefoot.progress import watched

Losses: TypeAlias = Callable[[int], np.ndarray]
"""Losses of episode k = 0, 1, ... in [0, 1], `[C, H, S, A]` or what broadcasts to it."""

BLOCK = 512  # episodes whose luck is drawn at once


@dataclass(frozen=True, eq=False)
class Contest:
    """Regret after some numbers of episodes."""

    episodes: np.ndarray  # [n]
    regret: np.ndarray  # [n, R, C]; R = 1 for a simulator-free learner
    uniform: np.ndarray  # [n, C] of uniform play against the same losses


def compete(
    learner: RefinedLinearQ, mdp: FiniteMDP, losses: Losses, episodes: Sequence[int], generators: Sequence[np.random.Generator]
) -> Contest:
    """Play `max(episodes)` episodes of `mdp` (copies `[C]`, one generator each) and measure regret after each of `episodes`."""
    r, c, n_stages = learner.shape[:3]
    score, copy = Score(mdp, episodes, r, generators), np.arange(c)
    state, action, loss = np.zeros((r, c, n_stages), np.int64), np.zeros((r, c, n_stages), np.int64), np.zeros((r, c, n_stages))
    for k in watched(range(max(episodes)), "episodes"):
        if k % BLOCK == 0:
            u = luck(generators, BLOCK, n_stages, 2)
        table, here = checked(losses(k), mdp, k), np.broadcast_to(u[:, k % BLOCK], (r, c, n_stages, 2))
        score.add((learner.visited() * table).sum((-3, -2, -1)), table)
        for h in range(n_stages):
            came_from = mdp.initial[copy] if h == 0 else mdp.transition[copy, h - 1, state[..., h - 1], action[..., h - 1]]
            state[..., h] = quantile(came_from, here[..., h, 0])
            action[..., h] = learner.act(h, state[..., h], here[..., h, 1])
            loss[..., h] = table[copy, h, state[..., h], action[..., h]]
        learner.observe(state, action, loss)
        score.after(k + 1)
    return score.contest()


def compete_in_epochs(
    learner: SimulatorFree, mdp: FiniteMDP, losses: Losses, episodes: Sequence[int], generators: Sequence[np.random.Generator]
) -> Contest:
    """The same for a learner that plays many episodes with one policy; `mdp` is what it plays in, and is not told."""
    c, n_stages = learner.shape[:2]
    score, copy, k = Score(mdp, episodes, 1, generators), np.arange(c)[:, None], 0
    for end in sorted(set(episodes)):
        while k < end:
            n = min(learner.left, end - k, BLOCK)
            u = luck(generators, n, n_stages + 2, 2)  # of coins, then of stages
            table = np.stack([checked(losses(i), mdp, i) for i in range(k, k + n)], 1)  # [C, n, H, S, A]
            total = table.sum(1)
            score.add((learner.visited(mdp) * total).sum((-3, -2, -1))[None], total)
            learner.begin(n, u[:, :, :2].reshape(c, n, 4)[..., :3])
            state, action, loss = np.zeros((c, n, n_stages), np.int64), np.zeros((c, n, n_stages), np.int64), np.zeros((c, n, n_stages))
            for h in range(n_stages):
                came_from = mdp.initial[copy] if h == 0 else mdp.transition[copy, h - 1, state[..., h - 1], action[..., h - 1]]
                state[..., h] = quantile(came_from, u[:, :, h + 2, 0])
                action[..., h] = learner.act(h, state[..., h], u[:, :, h + 2, 1])
                loss[..., h] = table[copy, np.arange(n), h, state[..., h], action[..., h]]
            learner.observe(state, action, loss)
            k += n
        score.after(k)
    return score.contest()


# --- keeping score ---------------------------------------------------------------------------------------------------------


class Score:
    """Summed losses of the adversary and of the learner, and regret at the episodes that were asked for."""

    def __init__(self, mdp: FiniteMDP, episodes: Sequence[int], arms: int, generators: Sequence[np.random.Generator]):
        if not episodes or min(episodes) < 1:
            raise ConfigError(f"episodes is {list(episodes)}: name the numbers of episodes after which to measure, from 1.")
        if len(mdp.copies) != 1 or len(generators) != mdp.copies[0]:
            raise DataError(
                f"the world has copies {mdp.copies} for {len(generators)} generators: it must have one axis of copies, as long."
            )
        self.mdp, self.at = mdp, set(episodes)
        self.lost = np.zeros((arms, *mdp.copies))
        self.total = np.zeros(mdp.reward.shape)
        self.measured: list[tuple[int, np.ndarray, np.ndarray]] = []

    def add(self, lost: np.ndarray, table: np.ndarray) -> None:
        """Expected losses `[R, C]` of the learner, and those of every pair `[C, H, S, A]`."""
        self.lost += lost
        self.total += table

    def after(self, k: int) -> None:
        if k in self.at:
            world = replace(self.mdp, reward=-self.total)
            best = -(world.initial * optimal_plan(world).v[..., 0, :]).sum(-1)
            uniform = -policy_return(world, np.full(self.total.shape, 1.0 / world.n_actions))
            self.measured.append((k, self.lost - best, uniform - best))

    def contest(self) -> Contest:
        episodes, regret, uniform = zip(*self.measured, strict=True)
        return Contest(np.array(episodes), np.array(regret), np.array(uniform))


def luck(generators: Sequence[np.random.Generator], n: int, stages: int, each: int) -> np.ndarray:
    """Uniform numbers for n episodes of every copy, `[C, n, stages, each]`."""
    return np.stack([generator.random((n, stages, each)) for generator in generators])


def checked(table: np.ndarray, mdp: FiniteMDP, k: int) -> np.ndarray:
    """One episode's losses as `[C, H, S, A]`; raises DataError unless they lie in [0, 1]."""
    try:
        table = np.broadcast_to(table, mdp.reward.shape)
    except ValueError:
        raise DataError(f"losses of episode {k} have shape {np.shape(table)}: they must fit {mdp.reward.shape}.") from None
    if not (table.min() >= 0.0 and table.max() <= 1.0):
        where = np.argwhere(~((table >= 0.0) & (table <= 1.0)))[0].tolist()
        raise DataError(f"losses of episode {k} at {where} are {table[tuple(where)]:g}: losses lie in [0, 1]; rescale them.")
    return table
