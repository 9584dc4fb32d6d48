"""The attacks by name, which of them apply to a policy, and what each must learn before it is played.

    suite = Suite(policy, "Hopper-v5", Settings(norm="linf", attacker_steps=200_000))
    curves = {kind: suite.play(kind, budgets=(0.0, 0.05, 0.1)) for kind in suite.applicable()}
    worst = worst_of(curves)

Every kind keeps to the same budget, so the lowest return is the one to believe.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from surefoot.data.spec import Discrete
from surefoot.envs.making import time_limit
from surefoot.envs.seeding import derive_seed
from surefoot.errors import ConfigError, PolicyError
from surefoot.evaluation.attack_curve import AttackCurve, attack_curve, check_observations
from surefoot.evaluation.attacking import Attack, Attacking, Norm
from surefoot.evaluation.attacks import FGSM, PGD, Estimated, QAttack, RandomAttack
from surefoot.evaluation.learned_attacks import Learned, LearnedAttack, learn_attack
from surefoot.evaluation.objectives import Divergence
from surefoot.evaluation.rollouts import device_of
from surefoot.evaluation.sarsa_attack import SarsaConfig, SarsaCritic, Worth, fit_sarsa
from surefoot.evaluation.switching import Switching
from surefoot.methods.online.adversary import Kind
from surefoot.policies.base import Policy
from surefoot.policies.deciding import decide

Named = Literal["q", "fgsm", "pgd", "mad", "rs", "sa-rl", "pa-ad", "score", "random"]
KINDS: tuple[Named, ...] = get_args(Named)
LEARNED: dict[str, Kind] = {"sa-rl": "sa_rl", "pa-ad": "pa_ad"}
WITHOUT_GRADIENT = ("mad", "rs", "sa-rl", "score", "random")
BY_OUTPUTS = ("mad", "rs", "score")
"""What can go by outputs alone; score always does, the others where there is no gradient."""

Makers = dict[str, Callable[[float], Attack]]
"""Variants of an attack by name, as functions of the budget; the worst of them counts."""


@dataclass(frozen=True)
class Settings:
    norm: Norm = "total"
    """What a budget bounds."""
    horizon: int | None = None
    """Steps that share a total budget (None: the episode's limit)."""
    scale: Tensor | None = None
    """What is one unit of a budget, `[S]` or `[F, S]` (None: the observation's own units)."""
    samples: int = 32
    """Draws of a smoothed policy's noise."""
    thresholds: tuple[float, ...] = (0.0, 1.0, 2.0)
    """q: how much less an action must be valued to be worth forcing."""
    steps: int = 10
    """pgd, mad, rs, score: steps for each observation."""
    step: float | None = None
    """Length of a step: in units of the budget for q (None: 0.01), as a share of the radius for the others (None: 0.25)."""
    pairs: int = 16
    """score: pairs of points for each slope."""
    sarsa: SarsaConfig = field(default_factory=SarsaConfig)
    """rs: how the critic learns."""
    attacker_steps: int = 100_000
    """sa-rl, pa-ad: steps in which an attacker learns, at each budget."""
    seed: int = 3_000
    """Of the episodes, and of all that is learned."""

    def makers(
        self,
        kind: Named,
        *,
        by_outputs: bool = False,
        critic: SarsaCritic | None = None,
        learned: dict[float, Learned] | None = None,
    ) -> Makers:
        """The variants of `kind`; `by_outputs`: without the policy's gradients, where the kind can do without.

        What it must learn beforehand may be left out where only the settings are to be checked. Raises ConfigError for settings
        outside their range, or that do not fit the kind.
        """
        if kind == "q":
            return self._q()
        seed = derive_seed(self.seed, 4, 0)
        common: dict[str, Any] = {"norm": self.norm, "horizon": self.horizon, "seed": seed, "scale": self.scale}
        if kind in LEARNED:
            if self.attacker_steps < 1:
                raise ConfigError(f"attacker_steps is {self.attacker_steps}: an attacker learns from at least 1 step.")
            return {kind: partial(_learned, learned, common)}
        common["samples"] = self.samples
        if kind == "random":
            return {kind: partial(RandomAttack, **common)}
        if kind == "fgsm":
            return {kind: partial(FGSM, **common)}
        common |= {"steps": self.steps, "step": 0.25 if self.step is None else self.step}
        if kind == "mad":
            common["objective"] = Divergence()
        elif kind == "rs" and critic is not None:
            common["objective"] = Worth(critic)
        if by_outputs or kind == "score":
            common["slopes"] = Estimated(self.pairs)
        return {kind: partial(PGD, **common)}

    def _q(self) -> Makers:
        if self.norm != "total":
            raise ConfigError(f"--norm {self.norm} is for all attacks but q: the Q-attack has one budget for the whole episode.")
        if not self.thresholds:
            raise ConfigError("no threshold was given: name one or more after --thresholds, in units of the policy's scores.")
        step = 0.01 if self.step is None else self.step
        return {
            f"threshold {t:g}": partial(
                QAttack, threshold=t, step=step, samples=self.samples, seed=derive_seed(self.seed, 4, i), scale=self.scale
            )
            for i, t in enumerate(self.thresholds)
        }


def _learned(learned: dict[float, Learned] | None, common: dict[str, Any], budget: float) -> Attack:
    """The attacker that was trained at this budget. Without a budget there is none, and where none is given settings alone are checked."""
    if learned is None or budget == 0.0:
        return RandomAttack(budget, **common)
    return LearnedAttack(budget, learned[budget], **common)


@dataclass(frozen=True)
class Schedule:
    """Attacks that come and go: see `Switching`."""

    every: int = 100
    probability: float | None = None


class Suite:
    """Attacks on one policy in one environment. `max_steps`: the episodes' limit (None: the environment's own); it is the horizon
    over which a total budget is shared, unless the settings name one.

    `progress` is told what is going on, a line at a time.
    """

    def __init__(
        self,
        policy: Policy,
        env_id: str,
        settings: Settings,
        *,
        max_steps: int | None = None,
        schedule: Schedule | None = None,
        progress: Callable[[str], None] | None = None,
    ):
        limit = time_limit(env_id, max_steps)
        self.policy, self.env_id, self.max_steps, self.schedule = policy, env_id, max_steps, schedule
        self.settings = settings if settings.horizon is not None else replace(settings, horizon=limit)
        self.progress = progress or (lambda line: None)
        self.gradient = gives_gradient(policy)

    def applicable(self) -> tuple[Named, ...]:
        """Every kind that this policy can be attacked with, under this norm."""
        kinds = KINDS if self.gradient else WITHOUT_GRADIENT
        q = isinstance(self.policy.spec.action, Discrete) and self.settings.norm == "total"
        return tuple(kind for kind in KINDS if kind in kinds and (kind != "q" or q))

    def by_outputs(self, kind: Named) -> bool:
        """Whether it goes by the policy's outputs alone, since there is no gradient or it asks for none."""
        return kind == "score" or (kind in BY_OUTPUTS and not self.gradient)

    def check(self, kind: Named, budgets: Sequence[float]) -> None:
        """Raises what playing it would, as far as can be known before the first step."""
        check_observations(self.env_id)
        attacks = [make(b) for make in self.settings.makers(kind, by_outputs=self.by_outputs(kind)).values() for b in budgets]
        if kind not in WITHOUT_GRADIENT and not self.gradient:
            raise PolicyError(
                f"the {_named(self.policy)} policy gives no gradient with respect to its observation, which {kind} needs: use one"
                f" of --kind {', '.join(WITHOUT_GRADIENT)}, or give its network as a torch module."
            )
        for attack in attacks:
            attack.start(1, self.policy)

    def learn(self, kind: Named, budgets: Sequence[float]) -> Makers:
        """The variants of `kind` at these budgets, with all that they must learn beforehand."""
        s = self.settings
        if kind == "rs" and any(budgets):
            self.progress("rs: learning a critic")
            critic = fit_sarsa(self.policy, self.env_id, s.sarsa, seed=derive_seed(s.seed, 5), max_steps=self.max_steps)
            return s.makers(kind, by_outputs=self.by_outputs(kind), critic=critic)
        if kind not in LEARNED:
            return s.makers(kind, by_outputs=self.by_outputs(kind))
        learned = {}
        for i, budget in enumerate(budgets):
            if budget > 0.0:
                learned[budget] = learn_attack(
                    self.policy,
                    self.env_id,
                    LEARNED[kind],
                    budget,
                    norm=s.norm,
                    horizon=s.horizon,
                    scale=s.scale,
                    steps=s.attacker_steps,
                    seed=derive_seed(s.seed, 6, KINDS.index(kind), i),
                    max_steps=self.max_steps,
                    progress=partial(self._training, kind, budget),
                )
        return s.makers(kind, learned=learned)

    def _training(self, kind: str, budget: float, share: float, mean: float) -> None:
        self.progress(f"{kind}: training an attacker at B = {budget:g}, {share:.0%}, return {mean:.4g}")

    def play(self, kind: Named, budgets: Sequence[float], *, episodes: int = 100) -> AttackCurve:
        """Returns at each budget (0: without attack), after learning what the kind must learn. Errors as in `check` and `attack_curve`."""
        makers = self.learn(kind, [float(b) for b in budgets])
        variants: Mapping[str, Callable[[float], Attacking]] = makers
        if self.schedule is not None:
            seed = derive_seed(self.settings.seed, 7)  # all kinds and variants come and go together
            variants = {name: partial(_switching, make, self.schedule, seed) for name, make in makers.items()}
        return attack_curve(
            self.policy,
            self.env_id,
            budgets,
            variants,
            episodes=episodes,
            seed=self.settings.seed,
            max_steps=self.max_steps,
            progress=lambda budget, name: self.progress(f"B = {budget:g}, {name}"),
        )


def _switching(make: Callable[[float], Attack], schedule: Schedule, seed: int, budget: float) -> Attacking:
    return Switching(make(budget), schedule.every, probability=schedule.probability, seed=seed)


def gives_gradient(policy: Policy) -> bool:
    """Whether the decision is connected to the observation (its gradient may still be zero)."""
    if not policy.differentiable:
        return False
    with torch.enable_grad():
        obs = torch.zeros(*policy.copies, 1, *policy.spec.obs_shape, device=device_of(policy))
        try:
            return decide(policy, obs.requires_grad_(), policy.start(1)).requires_grad
        except PolicyError:  # a module that names its action: there are no scores to climb
            return False


def _named(policy: Policy) -> str:
    """The kind of policy that it is behind smoothing and frame stacks."""
    inner = getattr(policy, "inner", None)
    return _named(inner) if isinstance(inner, Policy) else type(policy).__name__
