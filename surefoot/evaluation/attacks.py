"""Attacks on what a policy observes that look one step ahead: the budgeted Q-attack, FGSM, PGD with or without gradients, and chance.

- `QAttack`: Kumar, Levine and Feizi, "Policy Smoothing for Provably Robust Reinforcement Learning" (ICLR 2022, arXiv 2106.11420 v3,
  experiments), with one squared budget B^2 for the whole episode, of which what is not spent is carried over.
- `FGSM`: Goodfellow et al., arXiv 1412.6572v3; `PGD`: Madry et al., arXiv 1706.06083v4. What they do harm to: `evaluation.objectives`;
  PGD on `Divergence` is the MAD attack.
- `PGD(slopes=Estimated())` needs outputs alone: Ilyas et al., "Black-box Adversarial Attacks with Limited Queries and Information"
  (ICML 2018, arXiv 1804.08598v3), section 2.1: gradients by natural evolution strategies with antithetic draws.

A smoothed policy is attacked through its mean decision over draws of its noise on the newest frame: what it has seen before is
settled, and the attack may know it. The same draws serve all iterations of a step.

Departures: all episodes of all copies are attacked at once; the Q-attack tries targets from the worst action up and stops at the
first that is reached, which finds what the paper's loop over all targets keeps; observations are not clipped to a range of pixels;
PGD keeps the most harmful iterate rather than the last. Attacks that learn beforehand are in `sarsa_attack` and `learned_attacks`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import inf
from typing import Protocol

import torch
from torch import Tensor

from surefoot.data.spec import Discrete
from surefoot.errors import ConfigError, PolicyError
from surefoot.evaluation.attacking import Attack, Norm, project
from surefoot.evaluation.decision import Decision
from surefoot.evaluation.objectives import Departure, Objective
from surefoot.policies.base import Policy
from surefoot.policies.deciding import decide
from surefoot.steering.smoothed import Smoothed

__all__ = ["FGSM", "PGD", "Attack", "Estimated", "Gradients", "Norm", "QAttack", "RandomAttack"]


class QAttack(Attack):
    """Makes the agent take actions that it values less by `threshold` or more (lambda_q), as long as the total budget lasts.

    `step`: length of a gradient step in units of the budget; `mult * sqrt(c) / step` steps are taken for a target, c being
    the squared budget that is left. The reported return is the least over a few thresholds.
    """

    shares = False

    def __init__(
        self,
        budget: float,
        *,
        threshold: float = 0.0,
        step: float = 0.01,
        mult: float = 2.0,
        samples: int = 128,
        seed: int = 0,
        scale: Tensor | None = None,
    ):
        super().__init__(budget, samples=samples, seed=seed, scale=scale)
        if not (0.0 <= threshold < inf and 0.0 < step < inf and 0.0 < mult < inf):
            raise ConfigError(f"threshold is {threshold}, step {step} and mult {mult}: they must be finite, the last two positive.")
        self.threshold, self.step, self.mult = threshold, step, mult

    def start(self, n: int, policy: Policy) -> None:
        if not isinstance(policy.spec.action, Discrete):
            raise PolicyError("the Q-attack needs a policy with discrete actions: attack this one with PGD (--kind pgd).")
        super().start(n, policy)
        self.points = self.samples if isinstance(policy, Smoothed) and policy.sigma > 0.0 else 1
        self.clean = policy.start(n * self.points)  # the true history, with noise of its own in each of `points` versions

    def watch(self, flat: Tensor, policy: Policy, attacked: Tensor) -> None:
        """q_clean: mean values of the actions at the true history and observation, `[*copies, n, A]`."""
        seen = flat.repeat_interleave(self.points, -2)
        if isinstance(policy, Smoothed) and policy.sigma > 0.0:
            seen = seen + policy.sigma * torch.empty_like(seen).normal_(generator=self.generator)
        seen = seen.reshape(*seen.shape[:-1], *policy.spec.obs_shape)
        if attacked.any():
            q = decide(policy, seen, self.clean)
            self.q_clean = q.unflatten(-2, (-1, self.points)).mean(-2)
        self.clean = policy.remember(seen, self.clean)

    def change(self, near: Tensor, decision: Decision, radius: Tensor, columns: Tensor) -> Tensor:
        q = self.q_clean.index_select(-2, columns)
        best = q.max(-1, keepdim=True).values
        clearly_worse = (q + self.threshold <= best) & (q < best)
        eps, open_ = torch.zeros_like(near), radius > 0.0
        for target in q.argsort(-1).unbind(-1)[:-1]:  # the worst action first
            wanted = open_ & clearly_worse.gather(-1, target.unsqueeze(-1)).squeeze(-1)
            if wanted.any():
                found, reached = self.reach(near, target, wanted, decision, radius)
                eps, open_ = torch.where(reached.unsqueeze(-1), found, eps), open_ & ~reached
        return eps

    def reach(self, near: Tensor, target: Tensor, wanted: Tensor, decision: Decision, radius: Tensor) -> tuple[Tensor, Tensor]:
        """A change that makes `target` `[*copies, m]` the greedy action, and where one was found within the steps allowed."""
        found, reached = torch.zeros_like(near), torch.zeros_like(wanted)
        steps = (self.mult * radius / self.step).floor()
        i, columns, go = 0, torch.arange(near.shape[-2], device=near.device), wanted & (steps > 0)
        while True:
            keep = go.reshape(-1, go.shape[-1]).any(0).nonzero().squeeze(-1)  # what still runs goes on alone
            if not len(keep):
                return found, reached
            columns, go, decision = columns[keep], go.index_select(-1, keep), decision.select(keep)
            near, goal, allowed, reach = near.index_select(-2, keep), *(a.index_select(-1, columns) for a in (target, steps, radius))
            eps, running = found.index_select(-2, columns), go
            while torch.equal(running, go):
                scores, gradient = decision.towards(near + eps, goal)
                done = go & (scores.argmax(-1) == goal)
                go = go & ~done
                moved = project(eps + self.step * self.direction(gradient, go), reach, "l2")
                eps = torch.where(go.unsqueeze(-1), moved, eps)
                reached.index_copy_(-1, columns, reached.index_select(-1, columns) | done)
                i += 1
                go = go & (i < allowed)
            found.index_copy_(-2, columns, eps)


class FGSM(Attack):
    """One gradient step to the edge of the ball.

    For continuous actions the gradient is taken a tenth of the way out in a random direction: at no change the squared
    change of the action has none.
    """

    def change(self, near: Tensor, decision: Decision, radius: Tensor, columns: Tensor) -> Tensor:
        reach, departure = radius.to(near.dtype).unsqueeze(-1), Departure()
        start = torch.zeros_like(near) if decision.discrete else 0.1 * reach * self.random(near, inside=False)
        anchor = departure.anchor(near, decision(near).detach(), decision)
        _, gradient = decision.climb(near + start, lambda shown: departure.harm(shown, anchor, decision))
        return reach * self.direction(gradient, radius > 0.0)


class PGD(Attack):
    """`steps` projected steps of `step` times the radius, from a random start; the most harmful point on the way is kept.

    `objective`: what harm is. `slopes`: where the direction of a step comes from, the policy's own gradients or its outputs alone.
    """

    def __init__(
        self,
        budget: float,
        *,
        norm: Norm = "total",
        horizon: int | None = None,
        steps: int = 10,
        step: float = 0.25,
        random_start: bool = True,
        objective: Objective | None = None,
        slopes: Slopes | None = None,
        samples: int = 128,
        seed: int = 0,
        scale: Tensor | None = None,
    ):
        super().__init__(budget, norm=norm, horizon=horizon, samples=samples, seed=seed, scale=scale)
        if steps < 1 or not 0.0 < step < inf:
            raise ConfigError(f"steps is {steps} and step {step}: there must be at least one step, of positive length.")
        self.iterations, self.step, self.random_start = steps, step, random_start
        self.objective, self.slopes = objective or Departure(), slopes or Gradients()

    @property
    def needs_gradient(self) -> bool:
        return self.slopes.from_policy

    def change(self, near: Tensor, decision: Decision, radius: Tensor, columns: Tensor) -> Tensor:
        kept, most = torch.zeros_like(near), torch.full_like(radius, -inf)
        for eps, harm in self.path(near, decision, radius):
            kept = torch.where((harm > most).unsqueeze(-1), eps, kept)
            most = torch.maximum(harm, most)
        return kept

    def path(self, near: Tensor, decision: Decision, radius: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """The start and each iterate `[*copies, m, S]`, with its harm `[*copies, m]` float64."""
        reach = radius.to(near.dtype).unsqueeze(-1)
        truth = decision(near, choices=not self.needs_gradient).detach()
        anchor = self.objective.anchor(near, truth, decision)
        eps = reach * self.random(near, inside=True) if self.random_start else torch.zeros_like(near)
        for i in range(self.iterations + 1):
            if i == self.iterations:  # of the last one the harm is enough
                shown = decision(near + eps, choices=not self.needs_gradient)
                yield eps, self.objective.harm(shown, anchor, decision).detach().double()
                return
            harm, gradient = self.slopes.at(near + eps, anchor, decision, self.objective, 0.5 * reach, self.generator)
            yield eps, harm
            eps = project(eps + self.step * reach * self.direction(gradient, radius > 0.0), radius, self.norm)


class RandomAttack(Attack):
    """Changes of the full norm in random directions (random signs for linf): what an attack must be better than."""

    looks = False

    @property
    def needs_gradient(self) -> bool:
        return False

    def change(self, near: Tensor, decision: Decision, radius: Tensor, columns: Tensor) -> Tensor:
        return radius.to(near.dtype).unsqueeze(-1) * self.random(near, inside=False)


# --- where the direction of a step comes from -------------------------------------------------------------------------


class Slopes(Protocol):
    """Harm and its slope at points `x` `[*copies, m, S]`."""

    from_policy: bool  # asks the policy for gradients

    def at(
        self, x: Tensor, anchor: Tensor, decision: Decision, objective: Objective, width: Tensor, generator: torch.Generator | None
    ) -> tuple[Tensor, Tensor]:
        """`[*copies, m]` float64 and `[*copies, m, S]`. `width` `[*copies, m, 1]`: over what distance a slope is of interest."""


class Gradients:
    """The policy's own gradients."""

    from_policy = True

    def at(
        self, x: Tensor, anchor: Tensor, decision: Decision, objective: Objective, width: Tensor, generator: torch.Generator | None
    ) -> tuple[Tensor, Tensor]:
        return decision.climb(x, lambda shown: objective.harm(shown, anchor, decision))


@dataclass(frozen=True)
class Estimated:
    """Slopes from outputs at `pairs` pairs of points x +- w d, d ~ N(0, I): the mean of (harm(x + w d) - harm(x - w d)) d / 2 w.

    Policies that only name an action are attacked too; where all points give the same, the slope is 0 and counted as such.
    """

    pairs: int = 16
    from_policy = False

    def __post_init__(self) -> None:
        if self.pairs < 1:
            raise ConfigError(f"pairs is {self.pairs}: a slope needs at least one pair of points.")

    def at(
        self, x: Tensor, anchor: Tensor, decision: Decision, objective: Objective, width: Tensor, generator: torch.Generator | None
    ) -> tuple[Tensor, Tensor]:
        d = torch.empty(*x.shape[:-1], self.pairs, x.shape[-1], device=x.device).normal_(generator=generator)
        shift = width.unsqueeze(-2) * d
        points = torch.cat([x.unsqueeze(-2), x.unsqueeze(-2) + shift, x.unsqueeze(-2) - shift], -2)
        k = points.shape[-2]
        with torch.no_grad():
            shown = decision.repeated(k)(points.flatten(-3, -2), choices=True)
            harm = objective.harm(shown, anchor.repeat_interleave(k, -2), decision).double().unflatten(-1, (-1, k))
        above, below = harm[..., 1 : 1 + self.pairs], harm[..., 1 + self.pairs :]
        rise = (above - below).to(x.dtype).unsqueeze(-1) / (2.0 * width.unsqueeze(-2)).clamp_min(torch.finfo(x.dtype).tiny)
        return harm[..., 0], (rise * d).mean(-2)
