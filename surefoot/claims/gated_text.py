"""Texts whose reward is behind a gate: eight tokens that must be typed first, then eight whose mean value is earned.

A policy that types each token of the key with probability 1/4 meets the reward once in 65,536 texts; the demonstrators, whose texts the
preferences are about, in two of five. Policies are bigram tables, so that success, reward and KL are exact.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from surefoot.claims.base import Context
from surefoot.claims.fleets import seed_of
from surefoot.nn.bigram import Bigram

VOCABULARY, GATE, SUFFIX = 8, 8, 8
LENGTH = GATE + SUFFIX
PAIRS, SHARPNESS = 1000, 3.0  # of the preference data: Bradley-Terry labels on 3 times the reward


@dataclass(frozen=True, eq=False)
class World:
    """A key that must be typed before a suffix is rewarded, a reference that hardly ever types it, and demonstrators that often do."""

    key: Tensor  # [S, GATE] int64
    values: Tensor  # [S, V] of a token of the suffix, standardised
    reference: Bigram  # copies [S]
    demonstrators: Bigram

    @staticmethod
    def drawn(context: Context) -> World:
        seeds = len(context.seeds)
        generator = torch.Generator().manual_seed(seed_of(context.seeds, "world"))
        key = torch.randint(VOCABULARY, (seeds, GATE), generator=generator)
        values = torch.randn(seeds, VOCABULARY, generator=generator)
        values = (values - values.mean(-1, keepdim=True)) / values.std(-1, keepdim=True, correction=0)
        suffix = 0.7 * torch.randn(seeds, SUFFIX, VOCABULARY + 1, VOCABULARY, generator=generator)
        return World(key, values, gated(key, suffix, 0.25), gated(key, suffix, 0.9))

    def right(self, tokens: Tensor) -> Tensor:
        """1 where the gate is, `[..., S, B]` of `[..., S, B, L]`."""
        return (tokens[..., :GATE] == self.key.unsqueeze(-2)).all(-1).float()

    def reward(self, tokens: Tensor) -> Tensor:
        """1[gate right] (1 + mean value of the suffix), `[..., S, B]`."""
        suffix = tokens[..., GATE:]
        values = self.values.unsqueeze(-2).expand(*suffix.shape[:-1], VOCABULARY).gather(-1, suffix)
        return self.right(tokens) * (1.0 + values.mean(-1))

    def success(self, policy: Bigram) -> Tensor:
        """The probability that the gate is right, exactly, `[S]`."""
        return policy.token_logprobs(self._typed())[..., 0, :GATE].detach().sum(-1).exp()

    def expected(self, policy: Bigram) -> Tensor:
        """Expected reward, exactly, `[S]`: after the key the suffix is a bigram chain of its own."""
        logits = policy.logits.detach()[..., GATE:, :, :].clone()
        last = self.key[..., -1, None, None].expand(*logits.shape[:-3], 1, VOCABULARY)
        logits[..., 0, VOCABULARY, :] = logits[..., 0, :, :].gather(-2, last).squeeze(-2)
        mean = Bigram(logits).expected(self.values.unsqueeze(-2) / SUFFIX)
        return self.success(policy) * (1.0 + mean.detach())

    def largest(self) -> Tensor:
        """Reward of the best sequence, `[S]`."""
        return 1.0 + self.values.max(-1).values

    def preferences(self, context: Context) -> tuple[Tensor, Tensor]:
        """Preferred and rejected of pairs of the demonstrators' responses, `[S, PAIRS, L]` each."""
        generator = torch.Generator().manual_seed(seed_of(context.seeds, "data"))
        first, second = (self.demonstrators.sample(PAIRS, generator) for _ in range(2))
        odds = (SHARPNESS * (self.reward(first) - self.reward(second))).sigmoid()
        wins = (torch.rand(odds.shape, generator=generator) < odds).unsqueeze(-1)
        return torch.where(wins, first, second), torch.where(wins, second, first)

    def _typed(self) -> Tensor:
        """The key with any suffix, `[S, 1, L]`."""
        return torch.cat([self.key, torch.zeros(len(self.key), SUFFIX, dtype=torch.int64)], -1).unsqueeze(-2)


def gated(key: Tensor, suffix: Tensor, probability: float) -> Bigram:
    """A policy that types the key's next token with `probability` whatever came before, and a suffix from these logits."""
    others = torch.full((*key.shape, VOCABULARY), (1.0 - probability) / (VOCABULARY - 1))
    typed = others.scatter(-1, key.unsqueeze(-1), probability).log()
    rows = typed.unsqueeze(-2).expand(*key.shape, VOCABULARY + 1, VOCABULARY)
    return Bigram(torch.cat([rows, suffix], -3))
