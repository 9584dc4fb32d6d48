"""What every attack on observations shares: a budget of each episode that is never exceeded, and an account of what was done.

An attack is played by `rollout(..., perturb=attack)`. It says how it changes an observation (`change`); here it is decided how much it may
change, and what is delivered is measured after rounding, in float64. Units: a budget bounds the change divided by `scale`, by default 1:
the observation's own units, in which certificates are. `scale=policies.deciding.scaling(policy)[1]` gives the units in which a policy
sees the world, which papers on robust training use.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from math import inf
from typing import Literal, Protocol

import numpy as np
import torch
from torch import Tensor

from surefoot.errors import ConfigError, PolicyError
from surefoot.evaluation.decision import Decision
from surefoot.evaluation.rollouts import Perturbation, device_of
from surefoot.policies.base import Memory, Policy
from surefoot.steering.smoothed import Smoothed

Norm = Literal["total", "l2", "linf"]
"""What a budget bounds: "total", sqrt(sum_t |eps_t|_2^2) over an episode; "l2" and "linf", the norm of each eps_t."""

SHRINK = (1.0, 1.0 - 1e-6, 1.0 - 1e-4, 0.99)
"""Factors tried in turn where rounding obs + eps to float32 makes a change larger than it may be (then there is none)."""


class Attacking(Perturbation, Protocol):
    """A perturbation that gives account: what `attack_curve` plays."""

    @property
    def spent(self) -> np.ndarray: ...  # [*copies, n] sqrt(sum_t |eps_t|_2^2) of every episode

    @property
    def tried(self) -> np.ndarray: ...  # [*copies] whether it looked for harm at all

    @property
    def failed(self) -> np.ndarray: ...  # [*copies] whether what it found says nothing about robustness

    @property
    def zero_share(self) -> np.ndarray: ...  # [*copies] share of its gradients that were zero or not finite


class Attack(ABC):
    """What the attacks share: the budget of each episode, draws of a generator of its own, and an account of what was done.

    One object plays one rollout. `horizon`: steps over which a total budget is shared (its unspent part goes to the steps that
    remain; from step `horizon` on all of it may be spent). `samples`: draws of a smoothed policy's noise. `scale` `[S]` or
    `[F, S]`: what is one unit of the budget in each feature (None: 1).
    """

    looks = True  # asks for the policy's decision, which a smoothed policy gives as a mean over draws of its noise
    shares = True  # a total budget is shared among steps

    def __init__(
        self,
        budget: float,
        *,
        norm: Norm = "total",
        horizon: int | None = None,
        samples: int = 128,
        seed: int = 0,
        scale: Tensor | None = None,
    ):
        if not 0.0 <= budget < inf:
            raise ConfigError(f"the attack budget is {budget}: it must be finite and not negative.")
        if norm not in ("total", "l2", "linf"):
            raise ConfigError(f"norm is {norm!r}: it must be 'total', 'l2' or 'linf'.")
        if samples < 1 or (horizon is not None and horizon < 1):
            raise ConfigError(f"samples is {samples} and horizon {horizon}: both must be at least 1.")
        if self.shares and norm == "total" and horizon is None:
            raise ConfigError("a total budget needs a horizon: the number of steps that share it.")
        if scale is not None and not (torch.isfinite(scale).all() and (scale > 0.0).all()):
            raise ConfigError("the scale of an attack has an entry that is not positive or not finite: a unit of the budget has a size.")
        self.budget, self.norm, self.horizon, self.samples, self.seed = float(budget), norm, horizon, samples, seed
        self.scale = scale
        self.generator: torch.Generator | None = None
        self.waves: list[Tensor] = []  # squared norm spent so far by each episode, float64 [*copies, n]
        self.changed = self.steps = 0  # steps that were changed, and all
        self.gradients = torch.zeros((), dtype=torch.long)  # [*copies] gradients asked for
        self.vanished = torch.zeros((), dtype=torch.long)  # [*copies] of those, zero or not finite

    @property
    def needs_gradient(self) -> bool:
        """Whether it asks the policy for gradients."""
        return True

    @property
    def spent(self) -> np.ndarray:
        """sqrt(sum_t |eps_t|_2^2) of every episode so far, `[*copies, n]` float64, in units of the budget."""
        return torch.cat(self.waves, -1).sqrt().cpu().numpy()

    @property
    def tried(self) -> np.ndarray:
        """`[*copies]` whether it looked for harm: what tried nothing neither fails nor shows that others did not."""
        return (self.gradients > 0).cpu().numpy()

    @property
    def failed(self) -> np.ndarray:
        """`[*copies]` True where every gradient was zero: the return then says nothing about robustness."""
        return ((self.gradients > 0) & (self.vanished == self.gradients)).cpu().numpy()

    @property
    def zero_share(self) -> np.ndarray:
        """`[*copies]` share of the gradients that were zero or not finite."""
        return self.vanished.cpu().numpy() / np.maximum(self.gradients.cpu().numpy(), 1)

    def start(self, n: int, policy: Policy) -> None:
        """n fresh episodes a copy. Raises PolicyError for a policy that this attack cannot attack."""
        if self.needs_gradient and not policy.differentiable:
            raise PolicyError(
                f"the {type(policy).__name__} policy gives no gradient with respect to its observation, which this attack needs:"
                " use an attack that needs none (--kind score, sa-rl or random), or give its network as a torch module."
            )
        if self.scale is not None and self.scale.shape[-1] != policy.spec.obs_dim:
            raise PolicyError(f"the attack's scale has {self.scale.shape[-1]} entries, but observations have {policy.spec.obs_dim}.")
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
        if self.looks and isinstance(policy, Smoothed) and policy.sigma > 0.0:
            draws = torch.empty(*flat.shape[:-1], self.samples, flat.shape[-1], device=flat.device)
            noise = policy.sigma * draws.normal_(generator=self.generator)
        unit = None
        if self.scale is not None:
            unit = self.scale.to(flat) if self.scale.dim() == 1 else self.scale.to(flat).unsqueeze(-2)
        decision = Decision(policy, memory, noise, unit).select(columns)
        eps = torch.zeros_like(flat)
        near, reach = flat.index_select(-2, columns), radius.index_select(-1, columns)
        eps.index_copy_(-2, columns, self.change(near if unit is None else near / unit, decision, reach, columns))
        seen, change = _delivered(flat, torch.where((radius > 0.0).unsqueeze(-1), eps, 0.0), radius, self.norm, unit)
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

    @abstractmethod
    def change(self, near: Tensor, decision: Decision, radius: Tensor, columns: Tensor) -> Tensor:
        """eps `[*copies, m, S]` for the episodes `columns` (m of the n) with true observations `near`, within `radius`.

        `near`, `eps` and what `decision` is asked about are in units of the budget (divided by `scale`).
        """

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


# --- keeping to the budget --------------------------------------------------------------------------------------------


def project(eps: Tensor, radius: Tensor, norm: Norm) -> Tensor:
    """`eps` `[..., S]` within `radius` `[...]`."""
    reach = radius.to(eps.dtype).unsqueeze(-1)
    if norm == "linf":
        return eps.clamp(-reach, reach)
    size = torch.linalg.vector_norm(eps, dim=-1, keepdim=True)
    return eps * (reach / size.clamp_min(torch.finfo(size.dtype).tiny)).clamp(max=1.0)


def _delivered(flat: Tensor, eps: Tensor, radius: Tensor, norm: Norm, unit: Tensor | None) -> tuple[Tensor, Tensor]:
    """What the policy sees, and the change that it is after rounding, float64 `[*copies, n, S]`: never larger than `radius`.

    Change and radius are in units of the budget.
    """
    over, scale = torch.ones_like(radius, dtype=torch.bool), torch.ones_like(radius)
    for shrink in SHRINK:
        scale = torch.where(over, shrink, scale)
        step = scale.to(eps.dtype).unsqueeze(-1) * eps
        seen = flat + (step if unit is None else unit * step)
        change = seen.double() - flat.double()
        change = change if unit is None else change / unit.double()
        over = ~((change.abs().amax(-1) if norm == "linf" else change.norm(dim=-1)) <= radius)  # what is not finite is too much
        if not over.any():
            break
    return torch.where(over.unsqueeze(-1), flat, seen), torch.where(over.unsqueeze(-1), 0.0, change)
