"""PROTECTED: discover policies one after the other, each the best there is against some attacker on the observations.

Liu, Deng, Sun, Liang and Huang, "Beyond Worst-case Attacks: Robust RL with Adaptive Defense via Non-dominated Policies" (ICLR 2024,
arXiv 2402.12673v1), Alg. 1 and its practical version. Iteration k, from the policies Pi~ that there are, looks for

    (pi, nu) = argmax ( J(pi, nu) - max_{pi' in Pi~} J(pi', nu) )                                                                 (1)

so that policy and attacker are on the same side of the first term: nu looks for a world in which the new policy does well and all old
ones fail. Both learn by PPO: the policy, a copy of the last one, maximises J(pi, nu) and is kept smooth (`sa_ppo`); the attacker learns
from plays of the new policy, whose advantages are negated, and of the old one that does best against it. How the set is used is
`steering/adaptive.py`; what is exact in tables, `methods/exact/non_dominated.py`. With no old policies in the game the attacker lowers
J(pi, nu) alone, which is PA-ATLA (Sun et al., arXiv 2106.05087v4) or ATLA (arXiv 2101.08452v1), the baseline.

Departures: policy and attacker learn from plays of the same moment rather than the policy first; rewards of both kinds of plays are
scaled by one running deviation, as (1) subtracts returns; policies act by their means while only the attacker learns; the last policy of
an iteration is kept, whose learning rate has fallen to 0. The official code's LSTM for HalfCheetah is not covered.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import inf
from typing import Any, Literal, cast

from torch import Tensor

from surefoot.envs.seeding import derive_seed
from surefoot.errors import ConfigError, PolicyError
from surefoot.methods.base import Method
from surefoot.methods.online.adversary import Adversary, AttackedRollouts, Kind
from surefoot.methods.online.gap_attacker import Clash, GapAttacker
from surefoot.methods.online.opponents import Matches, Opponents, part_of
from surefoot.methods.online.ppo import PPOConfig
from surefoot.methods.online.sa_ppo import SAPPO, SAPPOConfig
from surefoot.policies.base import Policy
from surefoot.policies.families import Categorical, NormalPolicy


@dataclass(frozen=True)
class ProtectedConfig:
    radius: float = 0.075
    """Largest change of each scaled observation that attackers may make (eps)."""
    iterations: int = 6
    """Policies to find beside the first one (the paper uses sets of 7)."""
    train_steps: int = 2441
    """Updates of policy and attacker in each iteration, on n_steps times n_envs steps of each kind of play."""
    attack: Kind = "pa_ad"
    """How the attacker acts: a direction in the policy's action space (pa_ad), or the change itself (sa_rl)."""
    opponent: Literal["argmax", "exp3"] = "argmax"
    """Which old policy the attacker lowers: the best against it, or one that EXP3 draws, which judges one instead of all."""
    judge_every: int = 10
    """Updates after which that policy is chosen anew."""
    judge_episodes: int = 4
    """Whole episodes of each policy that is judged for it."""
    delta: float | None = None
    """Stop where the gap that was found is not above this (default: never)."""
    n_steps: int = 256
    """Steps of each environment between updates."""
    n_envs: int = 8
    """Environments side by side."""
    epochs: int = 10
    """Passes over the steps of an update."""
    minibatches: int = 32
    """Minibatches of a pass."""
    gamma: float = 0.99
    """Discount of future rewards."""
    gae_lambda: float = 0.95
    """Between one-step advantages (0) and sums of rewards (1)."""
    learning_rate: float = 3e-4
    """Adam's learning rate of the policy and its value, falling to 0 over an iteration."""
    entropy_weight: float = 0.01
    """Weight of the policy's entropy."""
    kappa: float = 0.3
    """Weight of the smoothness of the policy."""
    radius_length: int = 1831
    """Updates over which its radius rises from 0."""
    langevin_steps: int = 2
    """Steps of the search for the observation at which it is least smooth."""
    attacker_rate: float = 1e-2
    """Learning rate of the attacker."""
    attacker_value_rate: float = 1e-3
    """Learning rate of its two values."""
    attacker_entropy: float = 3e-4
    """Weight of its entropy."""
    attacker_clip: float = 0.4
    """Its clip."""

    def __post_init__(self) -> None:
        for name in ("train_steps", "judge_every", "judge_episodes", "n_steps", "n_envs", "minibatches", "attacker_value_rate"):
            if not 0 < getattr(self, name) < inf:
                raise ConfigError(f"{name} is {getattr(self, name)}: it must be positive.")
        if self.iterations < 0:
            raise ConfigError(f"iterations is {self.iterations}: it must not be negative.")
        for name, known in (("attack", ("pa_ad", "sa_rl")), ("opponent", ("argmax", "exp3"))):
            if getattr(self, name) not in known:
                raise ConfigError(f"{name} is {getattr(self, name)!r}: it must be {known[0]!r} or {known[1]!r}.")
        if self.n_steps * self.n_envs < 2 * self.minibatches:
            raise ConfigError(f"minibatches is {self.minibatches}: an update has {self.n_steps * self.n_envs} steps, at least 2 for each.")
        _ = self.policy_ppo, self.attacker_ppo  # they check the rest

    @property
    def steps(self) -> int:
        """Environment steps of an iteration in which the policy learns."""
        return self.train_steps * self.n_steps * self.n_envs

    @property
    def _ppo(self) -> dict[str, Any]:
        shared = {name: getattr(self, name) for name in ("n_steps", "n_envs", "epochs", "gamma", "gae_lambda")}
        return shared | {"anneal": self.steps, "raw_obs": True, "minibatch": self.n_steps * self.n_envs // self.minibatches}

    @property
    def policy_ppo(self) -> SAPPOConfig:
        """Of the new policy, which keeps the scaling of the first one (`raw_obs`: it learns none)."""
        names = {"learning_rate", "entropy_weight", "radius", "kappa", "radius_length", "langevin_steps"}
        return SAPPOConfig(**self._ppo, **{name: getattr(self, name) for name in names})

    @property
    def attacker_ppo(self) -> PPOConfig:
        return PPOConfig(**self._ppo, learning_rate=self.attacker_rate, entropy_weight=self.attacker_entropy, clip=self.attacker_clip)

    @property
    def matches(self) -> Matches:
        rounds = max(1, self.train_steps // self.judge_every)
        return Matches(self.opponent, self.judge_every, self.judge_episodes, rounds, self.n_steps, self.n_envs)


PRESETS: dict[str, ProtectedConfig] = {
    "Hopper": ProtectedConfig(),
    "Walker2d": ProtectedConfig(
        radius=0.05, learning_rate=4e-4, entropy_weight=3e-4, kappa=0.1, radius_length=732,
        attacker_rate=1e-3, attacker_value_rate=1e-4, attacker_entropy=1e-5, attacker_clip=0.2,
    ),
    "HalfCheetah": ProtectedConfig(
        radius=0.15, learning_rate=1e-3, entropy_weight=3e-4, kappa=0.03, attacker_value_rate=1e-2, attacker_clip=0.2,
    ),
    "Ant": ProtectedConfig(
        radius=0.15, train_steps=4882, entropy_weight=3e-4, kappa=0.1, radius_length=3662,
        attacker_rate=1e-3, attacker_value_rate=3e-4, attacker_entropy=1e-3, attacker_clip=0.2,
    ),
}  # fmt: skip
"""The paper's settings, by the name of the environment before its version."""


# --- the plays of an iteration ----------------------------------------------------------------------------------------


class Clashes:
    """The source of an iteration: plays of the new policy, and of its opponents; without any, the attacker lowers the new policy's."""

    def __init__(self, learning: AttackedRollouts, own: AttackedRollouts, opponents: Opponents | None):
        self.learning, self.own, self.opponents = learning, own, opponents

    def __iter__(self) -> Clashes:
        return self

    def __next__(self) -> Clash:
        learning, own = next(self.learning).victim, next(self.own).adversary
        if self.opponents is None:
            return Clash(learning, None, own)
        return Clash(learning, own, next(self.opponents))

    def metrics(self) -> dict[str, list[float]]:
        return self.learning.metrics()

    def close(self) -> None:
        for source in (self.learning, self.own, *([] if self.opponents is None else [self.opponents.source])):
            source.close()

    @property
    def _parts(self) -> dict[str, Any]:
        parts: dict[str, Any] = {"learning.": self.learning, "own.": self.own}
        return parts if self.opponents is None else parts | {"opponents.": self.opponents}

    def state_dict(self) -> dict[str, Tensor]:
        return {mark + k: v for mark, part in self._parts.items() for k, v in part.state_dict().items()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        for mark, part in self._parts.items():
            part.load_state_dict(part_of(state, mark))


# --- method -----------------------------------------------------------------------------------------------------------


class Discovery(Method):
    """One iteration: a policy and its attacker, which learn side by side. `steps` counts environment steps of the policy."""

    config_class = ProtectedConfig

    def __init__(self, victim: SAPPO, attacker: GapAttacker, adversary: Adversary):
        self.spec, self.copies, self.device = victim.spec, victim.copies, victim.device
        self.victim, self.attacker, self.adversary = victim, attacker, adversary
        self.policy, self.attacking = victim.policy, attacker.policy

    @property
    def steps(self) -> int:  # type: ignore[override]
        return self.victim.steps

    def update(self, batch: Clash) -> dict[str, Tensor]:
        assert batch.learning is not None
        return self.victim.update(batch.learning) | {f"attacker/{k}": v for k, v in self.attacker.update(batch).items()}

    def state_dict(self) -> dict[str, Tensor]:
        both = (("victim.", self.victim), ("attacker.", self.attacker))
        return {mark + k: v for mark, part in both for k, v in part.state_dict().items()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.victim.load_state_dict(part_of(state, "victim."))
        self.attacker.load_state_dict(part_of(state, "attacker."))


def discovery(
    start: Policy,
    past: Sequence[Policy],
    env_id: str,
    config: ProtectedConfig,
    *,
    seed: int,
    device: str = "cpu",
    max_steps: int | None = None,
) -> tuple[Discovery, Clashes]:
    """The learner of an iteration and its source: a copy of `start` against an attacker on it and on the policies `past`.

    Without `past` it is the baseline, PA-ATLA (or ATLA). Raises PolicyError if `start` is not a policy that PPO learned.
    """
    first = check_first(start)
    victim = SAPPO(first.spec, replace(config.policy_ppo, hidden=first.hidden), first.copies, device, derive_seed(seed, 0))
    victim.policy.load_state_dict(first.state_dict())
    attacker, adversary = _attacker(victim.policy, config, bool(past), derive_seed(seed, 1), device)
    where: dict[str, Any] = {"device": device, "max_steps": max_steps}
    learning, own = (
        AttackedRollouts(
            env_id, victim.policy, adversary, config.n_steps, learning=learns, n_envs=config.n_envs, seed=derive_seed(seed, 2 + i), **where
        )
        for i, learns in enumerate((True, False))
    )
    opponents = Opponents(past, adversary, env_id, config.matches, seed=derive_seed(seed, 4), **where) if past else None
    return Discovery(victim, attacker, adversary), Clashes(learning, own, opponents)


def attack_on(
    policies: Sequence[Policy],
    env_id: str,
    config: ProtectedConfig,
    *,
    seed: int,
    device: str = "cpu",
    max_steps: int | None = None,
) -> Adversary:
    """An attacker trained for `train_steps` updates on a set that learns no more and answers with its best policy ("multiple victims")."""
    attacker, adversary = _attacker(policies[0], config, False, derive_seed(seed, 0), device)
    opponents = Opponents(policies, adversary, env_id, config.matches, seed=derive_seed(seed, 1), device=device, max_steps=max_steps)
    for _ in range(config.train_steps):
        attacker.update(Clash(None, None, next(opponents)))
    opponents.source.close()
    return adversary


def _attacker(victim: Policy, config: ProtectedConfig, raises: bool, seed: int, device: str) -> tuple[GapAttacker, Adversary]:
    attacker = GapAttacker(victim, config.attack, config.attacker_ppo, config.attacker_value_rate, raises=raises, device=device, seed=seed)
    return attacker, Adversary.on(victim, cast(NormalPolicy, attacker.policy), config.attack, config.radius)


def check_first(policy: Policy) -> NormalPolicy | Categorical:
    """Raises PolicyError unless `policy` can be learned on by PPO."""
    known = isinstance(policy, Categorical) or (isinstance(policy, NormalPolicy) and not policy.squashed)
    if not known or policy.activation != "tanh":
        raise PolicyError(
            f"a {type(policy).__name__} policy cannot be learned on: start from one that ppo or sa_ppo learned, without frame stack."
        )
    return cast("NormalPolicy | Categorical", policy)
