"""Attacks that were learned on the policy that they attack: SA-RL and PA-AD (`methods.online.adversary`), kept to a budget like all others.

An attacker is trained at one budget (`learn_attack`), then played on episodes that it has not seen (`LearnedAttack`). One that did not
lower the return of its own check episodes has failed: its return is no evidence, and is reported as failed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import sqrt

import numpy as np
import torch
from torch import Tensor

from surefoot.envs.seeding import derive_seed
from surefoot.errors import ConfigError, PolicyError
from surefoot.evaluation.attacking import Attack, Norm
from surefoot.evaluation.decision import Decision
from surefoot.evaluation.rollouts import device_of, rollout
from surefoot.methods.online.adversary import Adversary, AttackedRollouts, Kind, adversary_ppo, directed, in_ball
from surefoot.methods.online.ppo import PPOConfig
from surefoot.policies.base import Policy
from surefoot.policies.families import NormalPolicy

ATTACKER = PPOConfig(n_steps=256, n_envs=8, minibatch=256, learning_rate=1e-3, entropy_weight=3e-4)
"""Settings of an attacker's PPO: steps and coverage as in the papers' codes, spread over environments side by side."""

CHECK = 30  # episodes on which an attacker must lower the return


@dataclass(frozen=True, eq=False)
class Learned:
    """An attacker, and the returns of the same check episodes without and with it, `[*copies, n]`."""

    adversary: Adversary
    clean: np.ndarray
    attacked: np.ndarray

    @property
    def lowered(self) -> np.ndarray:
        """`[*copies]` whether the return is lower with it, by a paired one-sided test at 5 %."""
        apart = self.clean - self.attacked
        error = apart.std(-1, ddof=1) / sqrt(apart.shape[-1])
        return apart.mean(-1) > 1.645 * error


def learn_attack(
    policy: Policy,
    env_id: str,
    kind: Kind,
    budget: float,
    *,
    norm: Norm = "linf",
    horizon: int | None = None,
    scale: Tensor | None = None,
    steps: int = 100_000,
    config: PPOConfig = ATTACKER,
    seed: int = 0,
    max_steps: int | None = None,
    check: int = CHECK,
    progress: Callable[[float, float], None] | None = None,
) -> Learned:
    """Train an attacker on `policy` (one on each member) for `steps` steps of each member, at a budget in units of `scale`.

    A total budget is trained for as the l2 budget of one step of `horizon` equal ones. `progress` is told the share of steps done and
    the mean return of the newest episodes. Raises PolicyError for PA-AD on a policy without gradients, and what environments raise.
    """
    if not 0.0 < budget < float("inf") or steps < 1 or check < 2:
        raise ConfigError(
            f"budget is {budget}, steps {steps} and check {check}: an attacker is trained at a budget, for steps, and checked."
        )
    if norm == "total" and horizon is None:
        raise ConfigError("a total budget needs a horizon: the number of steps that share it.")
    eps = budget / sqrt(horizon) if norm == "total" and horizon is not None else budget
    device = str(device_of(policy))
    method = adversary_ppo(policy, kind, config, device=device, seed=derive_seed(seed, 0))
    assert isinstance(method.policy, NormalPolicy)
    unit = torch.ones(policy.spec.obs_dim) if scale is None else scale
    adversary = Adversary.on(policy, method.policy, kind, eps, scale=unit, norm="linf" if norm == "linf" else "l2")
    source = AttackedRollouts(
        env_id, policy, adversary, config.n_steps, n_envs=config.n_envs, seed=derive_seed(seed, 1), device=device, max_steps=max_steps
    )
    try:
        while method.steps < steps:
            method.update(next(source).adversary)
            if progress is not None:
                progress(min(1.0, method.steps / steps), float(np.mean(source.metrics().get("train/return", [np.nan]))))
    finally:
        source.close()
    method.policy.requires_grad_(False)
    attack = LearnedAttack(budget, adversary, norm=norm, horizon=horizon, scale=scale, seed=derive_seed(seed, 3))
    clean, attacked = (
        rollout(policy, env_id, check, seed=derive_seed(seed, 2), max_steps=max_steps, perturb=perturb).returns
        for perturb in (None, attack)
    )
    return Learned(adversary, clean, attacked)


class LearnedAttack(Attack):
    """An attacker's mean outputs, within the budget; a `Learned` one is known to lower the return or not.

    Draws of a smoothed policy's noise play no part. PA-AD starts its step at a tenth of the radius, at random.
    """

    looks = False

    def __init__(
        self,
        budget: float,
        attacker: Learned | Adversary,
        *,
        norm: Norm = "linf",
        horizon: int | None = None,
        seed: int = 0,
        scale: Tensor | None = None,
    ):
        super().__init__(budget, norm=norm, horizon=horizon, seed=seed, scale=scale)
        self.adversary = attacker.adversary if isinstance(attacker, Learned) else attacker
        self.lowered = attacker.lowered if isinstance(attacker, Learned) else None

    @property
    def needs_gradient(self) -> bool:
        return self.adversary.kind == "pa_ad"

    @property
    def tried(self) -> np.ndarray:
        return np.full(self.adversary.policy.copies, True)

    @property
    def failed(self) -> np.ndarray:
        return super().failed if self.lowered is None else super().failed | ~self.lowered

    def start(self, n: int, policy: Policy) -> None:
        of = self.adversary.policy
        if tuple(of.copies) != tuple(policy.copies) or of.spec.obs_shape != policy.spec.obs_shape:
            raise PolicyError(
                f"the attacker is on {of.copies} copies that observe {of.spec.obs_shape}, but the policy has {policy.copies} and"
                f" {policy.spec.obs_shape}: train one on this policy."
            )
        super().start(n, policy)

    def change(self, near: Tensor, decision: Decision, radius: Tensor, columns: Tensor) -> Tensor:
        reach, raw = radius.to(near.dtype).unsqueeze(-1), decision.raw(near)
        output = self.adversary.draw(raw.unflatten(-1, decision.policy.spec.obs_shape), greedy=True)
        if self.adversary.kind == "sa_rl":
            return reach * in_ball(output, "linf" if self.norm == "linf" else "l2")
        z = 0.1 * reach * torch.empty_like(near).uniform_(-1.0, 1.0, generator=self.generator)
        _, slope = directed(decision.policy, raw, decision.raw(z), output, decision.memory)
        return reach * self.direction(decision.raw(slope), radius > 0.0)
