"""Attacks on what a policy observes, played by `rollout(..., perturb=attack)`: the budgeted Q-attack, PGD, FGSM, and random changes.

- `QAttack`: Kumar, Levine and Feizi, "Policy Smoothing for Provably Robust Reinforcement Learning" (ICLR 2022, arXiv 2106.11420 v3,
  experiments), with one squared budget B^2 for the whole episode, of which what is not spent is carried over.
- `FGSM`: Goodfellow et al., arXiv 1412.6572v3; `PGD`: Madry et al., arXiv 1706.06083v4. What they do harm to: `Decision.harm`.

A smoothed policy is attacked through its mean decision over draws of its noise on the newest frame: what it has seen before is
settled, and the attack may know it. The same draws serve all iterations of a step.

Departures: all episodes of all copies are attacked at once; the Q-attack tries targets from the worst action up and stops at the
first that is reached, which finds what the paper's loop over all targets keeps; observations are not clipped to a range of pixels.
"""

from __future__ import annotations

from math import inf
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from surefoot.data.spec import Discrete
from surefoot.errors import ConfigError, PolicyError
from surefoot.evaluation.decision import Decision, decide
from surefoot.evaluation.rollouts import device_of
from surefoot.policies.base import Memory, Policy
from surefoot.steering.smoothed import Smoothed

Norm = Literal["total", "l2", "linf"]
"""What a budget bounds: "total", sqrt(sum_t |eps_t|_2^2) over an episode; "l2" and "linf", the norm of each eps_t."""

SHRINK = (1.0, 1.0 - 1e-6, 1.0 - 1e-4, 0.99)
"""Factors tried in turn where rounding obs + eps to float32 makes a change larger than it may be (then there is none)."""


class Attack:
    """What the attacks share: the budget of each episode, draws of a generator of its own, and an account of what was done.

    One object plays one rollout. `horizon`: steps over which a total budget is shared (its unspent part goes to the steps that
    remain; from step `horizon` on all of it may be spent). `samples`: draws of a smoothed policy's noise.
    """

    needs_gradient = True
    shares = True  # a total budget is shared among steps

    def __init__(self, budget: float, *, norm: Norm = "total", horizon: int | None = None, samples: int = 128, seed: int = 0):
        if not 0.0 <= budget < inf:
            raise ConfigError(f"the attack budget is {budget}: it must be finite and not negative.")
        if norm not in ("total", "l2", "linf"):
            raise ConfigError(f"norm is {norm!r}: it must be 'total', 'l2' or 'linf'.")
        if samples < 1 or (horizon is not None and horizon < 1):
            raise ConfigError(f"samples is {samples} and horizon {horizon}: both must be at least 1.")
        if self.shares and norm == "total" and horizon is None:
            raise ConfigError("a total budget needs a horizon: the number of steps that share it.")
        self.budget, self.norm, self.horizon, self.samples, self.seed = float(budget), norm, horizon, samples, seed
        self.generator: torch.Generator | None = None
        self.waves: list[Tensor] = []  # squared norm spent so far by each episode, float64 [*copies, n]
        self.changed = self.steps = 0  # steps that were changed, and all
        self.gradients = torch.zeros((), dtype=torch.long)  # [*copies] gradients asked for
        self.vanished = torch.zeros((), dtype=torch.long)  # [*copies] of those, zero or not finite

    @property
    def spent(self) -> np.ndarray:
        """sqrt(sum_t |eps_t|_2^2) of every episode so far, `[*copies, n]` float64."""
        return torch.cat(self.waves, -1).sqrt().cpu().numpy()

    @property
    def failed(self) -> np.ndarray:
        """`[*copies]` True where every gradient was zero: the return then says nothing about robustness."""
        return ((self.gradients > 0) & (self.vanished == self.gradients)).cpu().numpy()

    def start(self, n: int, policy: Policy) -> None:
        """n fresh episodes a copy. Raises PolicyError for a policy that this attack cannot attack."""
        if self.needs_gradient and not policy.differentiable:
            raise PolicyError(
                f"the {type(policy).__name__} policy gives no gradient with respect to its observation, which this attack needs:"
                " use random changes (--kind random), or give its network as a torch module."
            )
        device = device_of(policy)
        if self.generator is None:
            self.generator = torch.Generator(device).manual_seed(self.seed)
            self.gradients, self.vanished = (torch.zeros(policy.copies, dtype=torch.long, device=device) for _ in range(2))
        self.waves.append(torch.zeros(*policy.copies, n, dtype=torch.float64, device=device))
        self.t = 0

    def __call__(self, obs: Tensor, policy: Policy, memory: Memory, alive: Tensor) -> Tensor:
        assert self.generator is not None
        flat = policy.flat(obs)  # [*copies, n, S]
        radius = self.radius() * alive
        self.watch(flat, policy, radius > 0.0)
        self.t, self.steps = self.t + 1, self.steps + int(alive.sum())
        columns = (radius > 0.0).reshape(-1, radius.shape[-1]).any(0).nonzero().squeeze(-1)  # episodes that some copy is to be attacked in
        if not len(columns):
            return obs
        noise = None
        if self.needs_gradient and isinstance(policy, Smoothed) and policy.sigma > 0.0:
            draws = torch.empty(*flat.shape[:-1], self.samples, flat.shape[-1], device=flat.device)
            noise = policy.sigma * draws.normal_(generator=self.generator)
        decision = Decision(policy, memory, noise).select(columns)
        eps = torch.zeros_like(flat)
        near, reach = flat.index_select(-2, columns), radius.index_select(-1, columns)
        eps.index_copy_(-2, columns, self.change(near, decision, reach, columns))
        seen, change = _delivered(flat, torch.where((radius > 0.0).unsqueeze(-1), eps, 0.0), radius, self.norm)
        self.waves[-1] += change.square().sum(-1)
        self.changed += int((change != 0.0).any(-1).sum())
        return seen.reshape(obs.shape)

    def radius(self) -> Tensor:
        """How large each episode's next change may be, `[*copies, n]` float64."""
        spent = self.waves[-1]
        if self.norm != "total":
            return torch.full_like(spent, self.budget)
        left = (self.budget**2 - spent).clamp_min(0.0)
        share = 1 if self.horizon is None else max(1, self.horizon - self.t)
        return (left / share).sqrt()

    def watch(self, flat: Tensor, policy: Policy, attacked: Tensor) -> None:
        """Sees every true observation `[*copies, n, S]`, before a change is asked for."""

    def change(self, near: Tensor, decision: Decision, radius: Tensor, columns: Tensor) -> Tensor:
        """eps `[*copies, m, S]` for the episodes `columns` (m of the n) with true observations `near`, within `radius`."""
        raise NotImplementedError

    def direction(self, gradient: Tensor, counted: Tensor) -> Tensor:
        """The steepest direction: of l2 norm 1, or the sign; zero where the gradient is. Keeps count of those that vanish."""
        size = torch.linalg.vector_norm(gradient, dim=-1, keepdim=True)
        usable = (size > 0.0) & (size < inf)
        self.gradients += counted.sum(-1)
        self.vanished += (counted & ~usable.squeeze(-1)).sum(-1)
        return torch.where(usable, gradient.sign() if self.norm == "linf" else gradient / size, 0.0)

    def random(self, like: Tensor, inside: bool) -> Tensor:
        """A random change of norm 1 `[..., S]`, or uniform in the ball (`inside`)."""
        if self.norm == "linf":
            uniform = torch.empty_like(like).uniform_(-1.0, 1.0, generator=self.generator)
            return uniform if inside else uniform.sign()
        normal = torch.empty_like(like).normal_(generator=self.generator)
        unit = normal / normal.norm(dim=-1, keepdim=True)
        if not inside:
            return unit
        return unit * torch.empty_like(like[..., :1]).uniform_(generator=self.generator) ** (1.0 / like.shape[-1])


# --- the attacks ----------------------------------------------------------------------------------------------------


class QAttack(Attack):
    """Makes the agent take actions that it values less by `threshold` or more (lambda_q), as long as the total budget lasts.

    `step`: length of a gradient step in units of the observation; `mult * sqrt(c) / step` steps are taken for a target, c being
    the squared budget that is left. The reported return is the least over a few thresholds.
    """

    shares = False

    def __init__(self, budget: float, *, threshold: float = 0.0, step: float = 0.01, mult: float = 2.0, samples: int = 128, seed: int = 0):
        super().__init__(budget, samples=samples, seed=seed)
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
                moved = _project(eps + self.step * self.direction(gradient, go), reach, "l2")
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
        reach = radius.to(near.dtype).unsqueeze(-1)
        start = torch.zeros_like(near) if decision.discrete else 0.1 * reach * self.random(near, inside=False)
        _, gradient = decision.harm(decision(near).detach(), near + start)
        return reach * self.direction(gradient, radius > 0.0)


class PGD(Attack):
    """`steps` projected gradient steps of `step` times the radius from a random start; the most harmful point is kept."""

    def __init__(
        self,
        budget: float,
        *,
        norm: Norm = "total",
        horizon: int | None = None,
        steps: int = 10,
        step: float = 0.25,
        samples: int = 128,
        seed: int = 0,
    ):
        super().__init__(budget, norm=norm, horizon=horizon, samples=samples, seed=seed)
        if steps < 1 or not 0.0 < step < inf:
            raise ConfigError(f"steps is {steps} and step {step}: there must be at least one step, of positive length.")
        self.iterations, self.step = steps, step

    def change(self, near: Tensor, decision: Decision, radius: Tensor, columns: Tensor) -> Tensor:
        reach = radius.to(near.dtype).unsqueeze(-1)
        truth, eps = decision(near).detach(), reach * self.random(near, inside=True)
        kept, most = eps, torch.full_like(radius, -inf)
        for i in range(self.iterations + 1):
            harm, gradient = decision.harm(truth, near + eps)
            kept = torch.where((harm > most).unsqueeze(-1), eps, kept)
            most = torch.maximum(harm, most)
            if i < self.iterations:
                eps = _project(eps + self.step * reach * self.direction(gradient, radius > 0.0), radius, self.norm)
        return kept


class RandomAttack(Attack):
    """Changes of the full norm in random directions (random signs for linf): what an attack must be better than."""

    needs_gradient = False

    def change(self, near: Tensor, decision: Decision, radius: Tensor, columns: Tensor) -> Tensor:
        return radius.to(near.dtype).unsqueeze(-1) * self.random(near, inside=False)


# --- keeping to the budget ------------------------------------------------------------------------------------------


def _project(eps: Tensor, radius: Tensor, norm: Norm) -> Tensor:
    """`eps` `[..., S]` within `radius` `[...]`."""
    reach = radius.to(eps.dtype).unsqueeze(-1)
    if norm == "linf":
        return eps.clamp(-reach, reach)
    size = torch.linalg.vector_norm(eps, dim=-1, keepdim=True)
    return eps * (reach / size.clamp_min(torch.finfo(size.dtype).tiny)).clamp(max=1.0)


def _delivered(flat: Tensor, eps: Tensor, radius: Tensor, norm: Norm) -> tuple[Tensor, Tensor]:
    """What the policy sees, and the change that it is after rounding, float64 `[*copies, n, S]`: never larger than `radius`."""
    over, scale = torch.ones_like(radius, dtype=torch.bool), torch.ones_like(radius)
    for shrink in SHRINK:
        scale = torch.where(over, shrink, scale)
        seen = flat + scale.to(eps.dtype).unsqueeze(-1) * eps
        change = seen.double() - flat.double()
        over = (change.abs().amax(-1) if norm == "linf" else change.norm(dim=-1)) > radius
        if not over.any():
            break
    return torch.where(over.unsqueeze(-1), flat, seen), torch.where(over.unsqueeze(-1), 0.0, change)
