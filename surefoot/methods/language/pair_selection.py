"""Which two of a prompt's responses become a pair, and which of the two won: random, best and worst of a reward, or a tournament.

Zhang et al., arXiv 2407.00617v4, section 4 and appendix B. INPO's equivalence of losses asks for two independent responses and a label that
is drawn with the preference's probability (`random_pair`). The other two are the practice with language models: more contrast a pair,
at the price of a bias.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from surefoot.errors import ConfigError

Selection = Literal["random", "best_worst", "tournament"]

Duel = Callable[[Tensor, Tensor], Tensor]
"""P(first > second) `[B, m]` of responses `[B, m]` each, given as places among the K of their prompt."""


@dataclass(frozen=True)
class Pairs:
    """Of each prompt the places of two of its K responses, and whether the pair is to be learned from, `[B]` each."""

    winner: Tensor
    loser: Tensor
    kept: Tensor


def random_pair(duel: Duel, n_prompts: int, luck: Tensor) -> Pairs:
    """The first two responses; the first wins with its probability, `luck` `[B]` being uniform in [0, 1)."""
    first, second = torch.zeros(n_prompts, dtype=torch.int64), torch.ones(n_prompts, dtype=torch.int64)
    won = luck < duel(first.unsqueeze(-1), second.unsqueeze(-1)).squeeze(-1)
    return Pairs(torch.where(won, first, second), torch.where(won, second, first), torch.ones_like(won))


def best_worst(rewards: Tensor) -> Pairs:
    """The highest against the lowest of rewards `[B, K]`; where all are equal a response with itself, which teaches nothing."""
    winner, loser = rewards.argmax(-1), rewards.argmin(-1)
    return Pairs(winner, loser, torch.ones_like(winner, dtype=torch.bool))


def tournament(duel: Duel, n_prompts: int, k: int) -> Pairs:
    """K responses in K/2 first duels; winners meet winners and losers losers, until the best meets the worst: 3 K/2 - 1 duels.

    A tie goes to the first. The pair is kept only if the best wins the last duel too. Raises ConfigError unless K is 4, 8, 16, ...
    """
    if k < 4 or k & (k - 1):
        raise ConfigError(f"a tournament of {k} candidates: their number must be a power of two, at least 4.")

    def met(players: Tensor, winners: bool) -> Tensor:
        first, second = players[:, 0::2], players[:, 1::2]
        return torch.where((duel(first, second) >= 0.5) == winners, first, second)

    everyone = torch.arange(k).expand(n_prompts, k)
    first, second = everyone[:, 0::2], everyone[:, 1::2]
    won = duel(first, second) >= 0.5
    best, worst = torch.where(won, first, second), torch.where(won, second, first)
    while best.shape[-1] > 1:
        best, worst = met(best, True), met(worst, False)
    return Pairs(best.squeeze(-1), worst.squeeze(-1), (duel(best, worst) >= 0.5).squeeze(-1))
