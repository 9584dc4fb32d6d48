"""Returns under attack over a range of budgets: what is held against a certificate."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np

from surefoot.envs.making import make_env
from surefoot.errors import ConfigError, EnvError
from surefoot.evaluation.attacking import Attacking
from surefoot.evaluation.rollouts import rollout
from surefoot.evaluation.statistics import mean_interval
from surefoot.policies.base import Policy


@dataclass(frozen=True, eq=False)
class AttackCurve:
    """Undiscounted returns at K budgets under the worst of V variants of an attack (such as thresholds of the Q-attack).

    The worst is chosen for each budget and member by the mean of the same episodes, so the curve errs to the low side. A variant whose
    every gradient was zero is not chosen while another is left; where all that tried failed, `failed` says so and the returns mean nothing.
    """

    budgets: np.ndarray  # [K]
    variants: tuple[str, ...]  # V names
    returns: np.ndarray  # [K, *copies, n] of the worst variant
    worst: np.ndarray  # [K, *copies] its index
    means: np.ndarray  # [K, V, *copies] of every variant
    failed: np.ndarray  # [K, *copies] bool
    tried: np.ndarray  # [K, *copies] bool, whether any variant looked for harm (random changes do not)
    vanished: np.ndarray  # [K, *copies] share of the worst variant's gradients that were zero
    spent: np.ndarray  # [K, *copies] mean over episodes of sqrt(sum_t |eps_t|^2) of the worst variant
    env_id: str
    seed: int

    def to_json(self) -> dict[str, Any]:
        """The same for JSON; `mean` is null where the attack failed, `members` has one entry for a lone policy too."""
        k = len(self.budgets)
        per_member = (a.reshape(k, -1) for a in (self.worst, self.failed, self.vanished, self.spent))
        worst, failed, vanished, spent = per_member
        returns, means = self.returns.reshape(k, -1, self.returns.shape[-1]), self.means.reshape(k, len(self.variants), -1)
        members = []
        for i in range(returns.shape[1]):
            intervals = [mean_interval(r) for r in returns[:, i]]
            shown = [None if f else m for m, f in zip(intervals, failed[:, i], strict=True)]
            members.append(
                {
                    "member": i,
                    "mean": [m and m.value for m in shown],
                    "low": [m and m.low for m in shown],
                    "high": [m and m.high for m in shown],
                    "worst": [self.variants[j] for j in worst[:, i]],
                    "variant_means": {name: means[:, j, i].tolist() for j, name in enumerate(self.variants)},
                    "failed": failed[:, i].tolist(),
                    "vanished": vanished[:, i].tolist(),
                    "spent": spent[:, i].tolist(),
                    "returns": returns[:, i].tolist(),
                }
            )
        return {
            "env": self.env_id,
            "episodes": self.returns.shape[-1],
            "seed": self.seed,
            "budgets": self.budgets.tolist(),
            "variants": list(self.variants),
            "members": members,
        }


def attack_curve(
    policy: Policy,
    env_id: str,
    budgets: Sequence[float] | np.ndarray,
    variants: Mapping[str, Callable[[float], Attacking]],
    *,
    episodes: int = 100,
    seed: int = 0,
    greedy: bool = True,
    max_steps: int | None = None,
    n_envs: int | None = None,
    progress: Callable[[float, str], None] | None = None,
) -> AttackCurve:
    """Play `episodes` episodes at each budget under each variant (a function of the budget that makes a fresh attack).

    All play the same seed: the same starts and the same draws of the policy, as far as the attack leaves them alike. At budget
    0 one variant is played, since none changes anything. Raises ConfigError for a budget that is negative or none at all, and
    what `rollout` and the attacks raise.
    """
    check_observations(env_id)
    levels = np.atleast_1d(np.asarray(budgets, np.float64))
    if levels.size == 0 or not variants:
        raise ConfigError("no attack budget was given: give one or more, in units of the observation.")
    for budget in levels:  # every setting is checked before the first episode
        for make in variants.values():
            make(float(budget))
    rows = []
    for budget in levels:
        played: list[tuple[np.ndarray, ...]] = []
        for name, make in variants.items():
            if budget == 0.0 and played:
                played.append(played[0])
                continue
            if progress is not None:
                progress(float(budget), name)
            attack = make(float(budget))
            returns = rollout(
                policy, env_id, episodes, seed=seed, greedy=greedy, max_steps=max_steps, n_envs=n_envs, perturb=attack
            ).returns
            played.append((returns, attack.failed, attack.tried, attack.zero_share, attack.spent.mean(-1)))
        rows.append(_worst(played))
    return _curve(levels, tuple(variants), rows, env_id, seed)


def worst_of(curves: Mapping[str, AttackCurve]) -> AttackCurve:
    """The worst of several attacks at the same budgets, episodes and seed, as a curve whose variants are their names."""
    first = next(iter(curves.values()))
    for name, curve in curves.items():
        if curve.returns.shape != first.returns.shape or (curve.budgets != first.budgets).any() or curve.seed != first.seed:
            raise ConfigError(f"the attack {name} was played at other budgets or on other episodes: play all alike to compare them.")
    rows = []
    for k in range(len(first.budgets)):
        rows.append(_worst([(c.returns[k], c.failed[k], c.tried[k], c.vanished[k], c.spent[k]) for c in curves.values()]))
    return _curve(first.budgets, tuple(curves), rows, first.env_id, first.seed)


def check_observations(env_id: str) -> None:
    """Raises EnvError where observations are not boxes of numbers: what is discrete cannot be changed a little."""
    env = make_env(env_id)
    env.close()
    if not isinstance(env.observation_space, gym.spaces.Box):
        raise EnvError(
            f"environment {env_id!r} shows observations of {env.observation_space}, which cannot be changed by small amounts:"
            " attacks with a budget need observations in a Box."
        )


def _curve(budgets: np.ndarray, names: tuple[str, ...], rows: Sequence[tuple[np.ndarray, ...]], env_id: str, seed: int) -> AttackCurve:
    """From the rows that `_worst` gives, one a budget."""
    returns, worst, means, failed, tried, vanished, spent = (np.stack(column) for column in zip(*rows, strict=True))
    return AttackCurve(budgets, names, returns, worst, means, failed, tried, vanished, spent, env_id, seed)


def _worst(played: Sequence[tuple[np.ndarray, ...]]) -> tuple[np.ndarray, ...]:
    """Of each member's worst variant: returns `[*copies, n]`, index, means `[V, *copies]`, failed, tried, vanished, spent `[*copies]`.

    A variant that found nothing to attack (a high threshold) is no proof that the others, which failed, could do no harm.
    """
    returns, failed, tried, vanished, spent = (np.stack(column) for column in zip(*played, strict=True))  # [V, *copies, ...]
    means = returns.mean(-1)
    worst = np.where(failed, np.inf, means).argmin(0)
    own = worst[None]
    chosen = np.take_along_axis(returns, own[..., None], 0)[0]
    all_failed = failed.any(0) & ~(tried & ~failed).any(0)
    return chosen, worst, means, all_failed, tried.any(0), *(np.take_along_axis(a, own, 0)[0] for a in (vanished, spent))
