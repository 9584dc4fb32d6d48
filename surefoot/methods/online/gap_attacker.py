"""An attacker that learns by PPO to raise the return of one policy and to lower that of another.

Liu et al., "Beyond Worst-case Attacks: Robust RL with Adaptive Defense via Non-dominated Policies" (ICLR 2024, arXiv 2402.12673v1): the
attacker's half of Eq. 1, J(pi, nu) - J(pi', nu). In the attacker's plays rewards are -r, so the advantages of the policy whose return is
to rise are negated, and only those; its value is learned before. With nothing to raise it is the attacker of ATLA and PA-ATLA.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from surefoot.data.batches import Segments
from surefoot.methods.online.adversary import Kind, adversary_spec
from surefoot.methods.online.ppo import PPO, PPOConfig, clipped_surrogate, gae, standardised
from surefoot.nn.mlp import MLP
from surefoot.nn.optimise import adam, descend
from surefoot.policies.base import Policy


@dataclass(frozen=True)
class Clash:
    """What is played between two updates, all under the same attacker."""

    learning: Segments | None  # of the new policy, as it saw it
    raised: Segments | None  # of the new policy, as the attacker saw it (reward -r): the attacker raises r here
    lowered: Segments | None  # of the opponent, as the attacker saw it: the attacker lowers r here


class GapAttacker(PPO):
    """PPO for an attacker that climbs J(raised, nu) - J(lowered, nu), or -J(lowered, nu) alone where nothing is raised.

    The two kinds of plays have returns of different sizes, so each has a value of its own: `critic` of what is raised, `lowered_critic`.
    """

    def __init__(
        self, victim: Policy, kind: Kind, config: PPOConfig, value_rate: float, *, raises: bool = True, device: str = "cpu", seed: int = 0
    ):
        super().__init__(adversary_spec(victim, kind), replace(config, raw_obs=True), victim.copies, device, seed)
        self.value_rate = value_rate
        shared: dict[str, Any] = {"activation": "tanh", "device": device, "generator": self.generator}
        self.lowered_critic = MLP((self.spec.obs_dim, *config.hidden, 1), self.copies, **shared)
        self.lowered_critic.orthogonal_(1.0, self.generator)
        self.optimiser = adam(self.policy.parameters(), config.learning_rate, config.eps)
        self.raised_optimiser = adam(self.critic.parameters(), value_rate, config.eps)
        self.lowered_optimiser = adam(self.lowered_critic.parameters(), value_rate, config.eps)
        self.discounted = torch.zeros(*self.copies, (1 + raises) * config.n_envs, device=device)

    def update(self, batch: Clash) -> dict[str, Tensor]:  # type: ignore[override]
        c, lead = self.config, len(self.copies)
        sides = [
            (batch.raised, -1.0, self.critic, self.raised_optimiser),
            (batch.lowered, 1.0, self.lowered_critic, self.lowered_optimiser),
        ]
        plays = [(*side[1:], side[0]) for side in sides if side[0] is not None]
        whole = side_by_side([segments for *_, segments in plays], lead)
        reward = whole.reward if c.raw_reward else self._scaled(whole)
        obs, action = self.normaliser(whole.obs.flatten(lead, lead + 1)), whole.action.flatten(lead, lead + 1)
        with torch.no_grad():
            old_logprob = self.policy.distribution(obs).log_prob(action)
            value, next_value = (
                torch.cat([self._values(critic, getattr(s, name)) for _, critic, _, s in plays], -1) for name in ("obs", "next_obs")
            )
            advantage = gae(reward, value, next_value, whole.terminated, whole.ended, c.gamma, c.gae_lambda)
            returns = advantage + value
        self._anneal()
        metrics, signs, width = {}, [], c.n_envs
        for i, (sign, critic, optimiser, segments) in enumerate(plays):  # each value learns what it is: nothing is negated yet
            name = "raised" if sign < 0.0 else "lowered"
            own = returns.narrow(-1, i * width, width).flatten(lead)
            metrics[f"{name}_value_loss"] = self._regress(critic, optimiser, self._seen(segments.obs), own)
            signs.append(torch.full((width,), sign, device=self.device))
        advantage = (advantage * torch.cat(signs)).flatten(lead)  # the attacker's reward is -r: of what is raised it is turned round
        rows = (obs, action, old_logprob, advantage)
        losses = [self._climb(*minibatch) for minibatch in self._epochs(rows, c.minibatch * len(plays))]
        self.steps += c.n_steps * c.n_envs
        return self._moved(obs, action, old_logprob) | metrics | {"policy_loss": torch.stack(losses).mean(0)}

    def _climb(self, obs: Tensor, action: Tensor, old_logprob: Tensor, advantage: Tensor) -> Tensor:
        """A step of the policy on a minibatch; its loss `[*copies]`."""
        distribution = self.policy.distribution(obs)
        loss = clipped_surrogate(distribution.log_prob(action), old_logprob, standardised(advantage), self.config.clip)
        whole = loss - self.config.entropy_weight * distribution.entropy().mean(-1)
        descend(whole.sum(), self.optimiser, self.config.max_norm, self.copies)
        return loss.detach()

    def _regress(self, critic: MLP, optimiser: Any, obs: Tensor, returns: Tensor) -> Tensor:
        """All epochs of a value on its own plays; the mean loss `[*copies]`."""
        losses = []
        for some, wanted in self._epochs((obs, returns), self.config.minibatch):
            loss = (critic(some).squeeze(-1) - wanted).square().mean(-1)
            descend(loss.sum(), optimiser, self.config.max_norm, self.copies)
            losses.append(loss.detach())
        return torch.stack(losses).mean(0)

    def _seen(self, obs: Tensor) -> Tensor:
        lead = len(self.copies)
        return self.normaliser(obs.flatten(lead, lead + 1))

    def _values(self, critic: MLP, obs: Tensor) -> Tensor:
        """`[*copies, T, N]` of observations `[*copies, T, N, S]`."""
        return critic(self._seen(obs)).squeeze(-1).view(obs.shape[:-1])

    def _anneal(self) -> None:
        super()._anneal()
        share = self.optimiser.param_groups[0]["lr"] / self.config.learning_rate
        for optimiser in (self.raised_optimiser, self.lowered_optimiser):
            optimiser.param_groups[0]["lr"] = self.value_rate * share


def side_by_side(parts: Sequence[Segments], lead: int) -> Segments:
    """Segments of the same length as if their environments had been stepped together."""
    return Segments(*(torch.cat([getattr(part, f.name) for part in parts], lead + 1) for f in fields(Segments)))
