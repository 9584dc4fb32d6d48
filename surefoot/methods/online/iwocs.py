"""IWOCS: a robust policy from a sequence of ordinary reinforcement learning problems, each on the worst model found so far.

Zouitine, Geist and Rachelson, "Solving robust MDPs as a sequence of static RL problems", arXiv 2410.06212v1: the meta-algorithm, its deep
instance (SAC with a critic without entropy and a predictor of the dynamics), the tuning of thresholds, Table 5. The tabular instance is
`methods/exact/static_robust.py`; how the policies act together is `policies/pessimistic.py`.

    search the model T_1 that hurts the default policy most
    for i = 1..M:  solve T_i by SAC;  act by the smallest Q_j(s, pi_j(s)) of valid models;  search the model that hurts this most

Departures: value and dynamics are networks of their own, where the paper's critic has three heads; the dynamics predict the change of
the state. The worst return that is found may fall before it rises (half of what must be known is worse than caution), so the policy that
is handed back is the one of the sequence that did best, where the paper hands back the last one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from math import prod
from typing import ClassVar, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from surefoot.data.batches import Transitions
from surefoot.data.replayed import Replayed
from surefoot.data.spec import Spec
from surefoot.envs.making import training_env
from surefoot.envs.physics import Parameter, Physical
from surefoot.errors import ConfigError
from surefoot.methods.online.sac import SAC, SACConfig, critic_loss
from surefoot.nn.mlp import Critic
from surefoot.nn.optimise import adam, descend, frozen_copy, polyak_
from surefoot.policies.base import Policy
from surefoot.policies.pessimistic import Dynamics, MostPessimistic

M = TypeVar("M", bound=nn.Module)

SAME = 1e-3  # relative difference below which a model that is found is one that was solved already


@dataclass(frozen=True)
class IWOCSConfig(SACConfig):
    critic_lr: float = 1e-3
    """Adam's learning rate of both critics and of the dynamics."""
    eps: float = 1e-5
    """Adam's epsilon."""
    warmup: int = 10_000
    """Uniform random steps in the environment before learning, in each of the runs."""
    default_steps: int = 1_600_000
    """Environment steps of the default policy, which learns on randomised physics."""
    model_steps: int = 800_000
    """Environment steps of SAC on each model that is found."""
    models: int = 3
    """Models that are solved at most (M)."""
    thresholds: tuple[float, ...] = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
    """Candidates for how far a prediction may be off while its model counts as valid (R), in units of the observation."""
    percentiles: tuple[float, ...] = ()
    """If given, the candidates are these percentiles of the model's errors on the steps it has learned from, instead."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("default_steps", "model_steps", "models"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} is {getattr(self, name)}: it must be positive.")
        for name in ("default_steps", "model_steps"):
            if getattr(self, name) <= self.warmup:
                raise ConfigError(f"{name} is {getattr(self, name)}: it must exceed the {self.warmup} random steps of the warmup.")
        if not (self.thresholds or self.percentiles) or any(not rho >= 0.0 for rho in self.thresholds):
            raise ConfigError(f"thresholds are {self.thresholds}: give at least one, none negative.")
        if any(not 0.0 <= p <= 100.0 for p in self.percentiles):
            raise ConfigError(f"percentiles are {self.percentiles}: they lie between 0 and 100.")

    def updates_of(self, steps: int) -> int:
        """Updates that go with so many environment steps."""
        return (steps - self.warmup) * self.updates // self.env_steps


# --- losses -----------------------------------------------------------------------------------------------------------


def value_target(reward: Tensor, terminated: Tensor, next_q: Tensor, gamma: float) -> Tensor:
    """y = r + gamma (1 - terminated) min_i Q_i(s', a'), a' ~ pi, without the bonus for entropy: `[..., B]` of `next_q` `[..., n, B]`."""
    if next_q.dim() != reward.dim() + 1 or next_q.shape[-1] != reward.shape[-1]:
        raise ValueError(f"critic values {tuple(next_q.shape)} must be [..., n, B] where rewards {tuple(reward.shape)} are [..., B].")
    return reward + (gamma * (1.0 - terminated)) * next_q.amin(-2)


# --- one static problem -----------------------------------------------------------------------------------------------


class StaticSAC(SAC):
    """SAC that also learns the value of its policy without entropy, and the dynamics of the one model it acts in."""

    config_class: ClassVar[type] = IWOCSConfig
    config: IWOCSConfig

    def __init__(self, spec: Spec, config: IWOCSConfig, copies: tuple[int, ...] = (), device: str = "cpu", seed: int = 0):
        super().__init__(spec, config, copies, device, seed)
        self.value = Critic(spec.obs_dim + spec.box.dim, config.hidden, copies=self.copies, generator=self.generator, device=device)
        self.target_value = frozen_copy(self.value)
        self.model = Dynamics(spec, config.hidden, self.copies, generator=self.generator, device=device)
        self.value_optimiser = adam(self.value.parameters(), config.critic_lr, config.eps)
        self.model_optimiser = adam(self.model.parameters(), config.critic_lr, config.eps)

    def also_learn(self, t: Transitions, next_a: Tensor) -> dict[str, Tensor]:
        with torch.no_grad():
            y = value_target(t.reward, t.terminated, self.target_value(t.next_obs, next_a), self.config.gamma)
        q = self.value(t.obs, t.action)
        loss_q = critic_loss(q, y)
        descend(loss_q.sum(), self.value_optimiser)
        loss_model = self.model.error(t.obs, t.action, t.next_obs).mean(-1)  # E ||T(s, a) - s'||_1
        descend(loss_model.sum(), self.model_optimiser)
        polyak_(self.target_value, self.value, self.config.tau)
        return {"value_loss": loss_q.detach(), "value_mean": q.detach().mean((-2, -1)), "model_loss": loss_model.detach()}


@dataclass(frozen=True)
class Solution:
    """What SAC on one model leaves behind."""

    policy: Policy
    value: Critic
    model: Dynamics
    errors: np.ndarray  # [N] ||T(s, a) - s'||_1 on the steps it was learned from


def learner(
    env_id: str,
    parameters: Sequence[Parameter],
    config: IWOCSConfig,
    values: Sequence[Sequence[float]] | None = None,
    *,
    seed: int,
    method: type[SAC] = StaticSAC,
    copies: tuple[int, ...] = (),
    randomise: bool = False,
    max_steps: int | None = None,
) -> tuple[SAC, Replayed]:
    """A fleet of SAC and its source, each member in the model of its own row of parameter `values` `[F, k]`.

    None: in the environment as it is made; with `randomise` in a model that is drawn anew at each reset.
    """
    rows = [None] * prod(copies) if values is None else list(values)
    wraps = [partial(Physical, parameters=tuple(parameters), values=row, randomise=randomise) for row in rows]
    env = training_env(env_id, max_steps=max_steps, wrap=wraps[0])
    env.close()
    sac = method(Spec.from_env(env), config, copies, seed=seed)
    return sac, Replayed.of(config, env_id, sac.behaviour, copies=copies, seed=seed, max_steps=max_steps, wrap=wraps)


def solutions(sac: StaticSAC, source: Replayed) -> list[Solution]:
    """What each member of a trained fleet has found."""
    found = []
    for i in range(prod(sac.copies)):
        value = _member(Critic(sac.spec.obs_dim + sac.spec.box.dim, sac.config.hidden), sac.value, i, sac.copies)
        model = _member(Dynamics(sac.spec, sac.config.hidden), sac.model, i, sac.copies)
        own = sac.in_units(source.layout.unpack(source.ring.recorded(i)[0].to(sac.device)))
        with torch.no_grad():
            errors = model.error(own.obs, own.action, own.next_obs)
        found.append(Solution(sac.policy.member(i), value, model, errors.cpu().numpy()))
    return found


def _member(made: M, fleet: M, i: int, copies: tuple[int, ...]) -> M:
    """A lone network with the weights of a fleet's member."""
    made.load_state_dict({name: value[i] if copies else value for name, value in fleet.state_dict().items()})
    return made


def candidates(config: IWOCSConfig, found: Solution) -> list[float]:
    """The thresholds R that are tried for a solution, smallest first."""
    rho = np.percentile(found.errors, config.percentiles) if config.percentiles else np.asarray(config.thresholds)
    return np.unique(rho).tolist()


# --- the sequence -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Found:
    """What a search found: the parameter values at which the return is worst, and that return."""

    point: tuple[float, ...]
    value: float


@dataclass(frozen=True)
class Iteration:
    """One row of the history; the first is about the default policy."""

    model: tuple[float, ...] | None  # that was solved
    threshold: float | None  # that was chosen for it
    policy: Policy  # the default and all solutions so far
    found: Found  # its worst case


@dataclass
class StaticProblems:
    """One sequence of static problems while it grows."""

    default: Policy
    history: list[Iteration]
    solutions: list[tuple[Solution, float]] = field(default_factory=list)
    ended: bool = False

    @property
    def best(self) -> Iteration:
        """The row whose worst case is the best (of equal ones the last), with the policy that is handed back."""
        return max(reversed(self.history), key=lambda row: row.found.value)

    def add(self, new: Solution, search: Search, config: IWOCSConfig) -> Iteration:
        """Tune the threshold of the newest solution; those before stay."""
        model, tuned = self.history[-1].found.point, []
        for rho in candidates(config, new):
            policy = together(self.default, [*self.solutions, (new, rho)])
            tuned.append(Iteration(model, rho, policy, search(policy)))
        row = max(reversed(tuned), key=lambda row: row.found.value)  # of equal ones the largest: "if value >= best"
        assert row.threshold is not None
        self.solutions.append((new, row.threshold))
        self.history.append(row)
        solved = [each.model for each in self.history if each.model is not None]
        self.ended = any(np.allclose(row.found.point, each, rtol=SAME) for each in solved)
        return row


Search = Callable[[Policy], Found]
"""Minimises the mean undiscounted return of a policy over a set of models, with the same starts for every candidate."""

Solve = Callable[[int, Sequence[int], Sequence[tuple[float, ...]]], Sequence[Solution]]
"""An ordinary RL solver: of the iteration (from 1), and of which seeds and in which models; a solution each."""

Tell = Callable[[int, Iteration], None]


def iwocs(
    defaults: Sequence[Policy], solve: Solve, search: Search, config: IWOCSConfig, tell: Tell = lambda seed, row: None
) -> list[StaticProblems]:
    """A sequence of static problems from each default policy, in lockstep: what is solved at a time is one fleet.

    A sequence ends when the worst model is one that was solved (the newest, say: SAC did not learn enough, or nobody can do better).
    `tell` is told each row of a history as it is known.
    """
    sequences = [StaticProblems(default, [Iteration(None, None, default, search(default))]) for default in defaults]
    for seed, sequence in enumerate(sequences):
        tell(seed, sequence.history[0])
    for i in range(1, config.models + 1):
        going = [seed for seed, sequence in enumerate(sequences) if not sequence.ended]
        if not going:
            break
        found = solve(i, going, [sequences[seed].history[-1].found.point for seed in going])
        for seed, new in zip(going, found, strict=True):
            tell(seed, sequences[seed].add(new, search, config))
    return sequences


def together(default: Policy, solutions: Sequence[tuple[Solution, float]]) -> MostPessimistic:
    """The policy that acts by all solutions with their thresholds."""
    each, thresholds = zip(*solutions, strict=True)
    return MostPessimistic(
        [default, *(s.policy for s in each)],
        each[0].value.net.sizes[1:-1],
        critics=[s.value for s in each],
        models=[s.model for s in each],
        thresholds=thresholds,
    )
