"""Plays of several policies under one attacker: of the one that does best against it, which is looked for now and then.

Liu et al., "Beyond Worst-case Attacks: Robust RL with Adaptive Defense via Non-dominated Policies" (ICLR 2024, arXiv 2402.12673v1): the
max over the policies that there are in Eq. 1, by judging all of them ("argmax") or by letting EXP3 choose which to judge ("exp3").
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from surefoot.data.batches import Segments
from surefoot.envs.seeding import derive_seed
from surefoot.methods.online.adversary import Adversary, AttackedRollouts
from surefoot.policies.base import Policy
from surefoot.steering.adaptive import Adaptive, Exp3IX

STRETCH = 50  # steps that whole episodes are played in at once


def mean_returns(
    policy: Policy, adversary: Adversary, env_id: str, episodes: int, *, seed: int, device: str = "cpu", max_steps: int | None = None
) -> Tensor:
    """Mean return of `episodes` whole episodes of `policy` under an attacker, `[*copies]`."""
    source = AttackedRollouts(env_id, policy, adversary, STRETCH, n_envs=episodes, seed=seed, device=device, max_steps=max_steps)
    total = torch.zeros(*policy.copies, episodes, device=device)
    running = torch.ones_like(total)
    while running.any():
        plays = next(source).adversary
        for reward, ended in zip(plays.reward.unbind(-2), plays.ended.unbind(-2), strict=True):
            total -= running * reward
            running = running * (1.0 - ended)
    source.close()
    return total.mean(-1)


@dataclass(frozen=True)
class Matches:
    """How opponents are chosen and played."""

    rule: Literal["argmax", "exp3"]
    every: int  # batches after which one is chosen anew
    episodes: int  # whole episodes by which a policy is judged for it
    rounds: int  # about how often that will be
    n_steps: int
    n_envs: int


class Opponents:
    """Batches of `n_steps` times `n_envs` steps as the attacker sees them; it is not trained here."""

    def __init__(
        self,
        policies: Sequence[Policy],
        adversary: Adversary,
        env_id: str,
        matches: Matches,
        *,
        seed: int,
        device: str = "cpu",
        max_steps: int | None = None,
    ):
        self.adversary, self.env_id, self.matches, self.seed = adversary, env_id, matches, seed
        self.where: dict[str, Any] = {"device": device, "max_steps": max_steps}
        self.set = Adaptive(list(policies), low=0.0, high=1.0).to(device)  # it is always committed to one
        copies = self.set.copies
        self.set.selector.commit(torch.zeros(copies, dtype=torch.long, device=device))
        self.bandit = Exp3IX(len(policies), rounds=matches.rounds, c=2.0, copies=copies).to(device)
        self.low, self.high = (torch.zeros(copies, device=device) for _ in range(2))  # of the returns seen so far
        self.generator = torch.Generator(device).manual_seed(derive_seed(seed, 0))
        size: dict[str, Any] = {"n_steps": matches.n_steps, "n_envs": matches.n_envs}
        self.source = AttackedRollouts(env_id, self.set, adversary, **size, seed=derive_seed(seed, 1), **self.where)
        self.played = 0

    def __next__(self) -> Segments:
        if self.played % self.matches.every == 0 and len(self.set.inners) > 1:
            self._choose()
        self.played += 1
        return next(self.source).adversary

    def judged(self) -> Tensor:
        """Mean return of every policy under the attacker as it is now, `[*copies, K]`."""
        return torch.stack([self._judge(policy) for policy in self.set.policies], -1)

    def _judge(self, policy: Policy) -> Tensor:
        seed = derive_seed(self.seed, 2, self.played)
        return mean_returns(policy, self.adversary, self.env_id, self.matches.episodes, seed=seed, **self.where)

    def _choose(self) -> None:
        if self.matches.rule == "argmax":
            self.set.selector.commit(self.judged().argmax(-1))
        else:
            arm = self.bandit.draw(1, self.generator)  # [*copies, 1]
            self.set.selector.commit(arm.squeeze(-1))
            found = self._judge(self.set)
            self.low, self.high = torch.minimum(self.low, found), torch.maximum(self.high, found)
            gain = (found - self.low) / (self.high - self.low).clamp_min(1e-8)
            self.bandit.update(arm, gain.unsqueeze(-1))
        self.source.memory = self.set.start(self.matches.n_envs)  # the new choice goes on with the episodes that are running

    # --- state --------------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Tensor]:
        state = {f"source.{k}": v for k, v in self.source.state_dict().items()}
        weights = {"committed": self.set.selector.log_weights, "bandit": self.bandit.log_weights}
        rest = {"low": self.low, "high": self.high, "generator": self.generator.get_state(), "played": torch.tensor(self.played)}
        return state | {name: value.clone() for name, value in (weights | rest).items()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.source.load_state_dict(part_of(state, "source."))
        self.set.selector.log_weights.copy_(state["committed"])
        self.bandit.log_weights.copy_(state["bandit"])
        self.low, self.high = (state[name].to(self.low.device) for name in ("low", "high"))
        self.generator.set_state(state["generator"].cpu())
        self.played = int(state["played"])


def part_of(state: dict[str, Tensor], mark: str) -> dict[str, Tensor]:
    """The entries of a state whose names begin with `mark`, without it."""
    return {k.removeprefix(mark): v for k, v in state.items() if k.startswith(mark)}
