"""Which two of K responses become a pair: by luck, by a reward, by a tournament of 3 K/2 - 1 duels."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from surefoot.errors import ConfigError
from surefoot.methods.language.pair_selection import best_worst, random_pair, tournament


class Judge:
    """Duels by a matrix of preferences of each prompt, `[B, K, K]`, counted."""

    def __init__(self, preference: Tensor):
        self.preference, self.duels = preference, 0

    def __call__(self, first: Tensor, second: Tensor) -> Tensor:
        assert first.shape == second.shape and len(first) == len(self.preference)
        self.duels += first.shape[1]
        return self.preference[torch.arange(len(first)).unsqueeze(-1), first, second]


def by_strength(strength: Tensor) -> Judge:
    return Judge(torch.sigmoid(strength.unsqueeze(-1) - strength.unsqueeze(-2)))


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), k=st.sampled_from([4, 8, 16]))
def test_a_tournament_of_strengths_finds_the_best_and_the_worst(seed, k):
    strength = torch.randn(5, k, generator=torch.Generator().manual_seed(seed))
    judge = by_strength(strength)
    pairs = tournament(judge, 5, k)
    assert torch.equal(pairs.winner, strength.argmax(-1)) and torch.equal(pairs.loser, strength.argmin(-1))
    assert pairs.kept.all() and judge.duels == 3 * k // 2 - 1
    by_reward = best_worst(strength)
    assert torch.equal(by_reward.winner, pairs.winner) and torch.equal(by_reward.loser, pairs.loser)


def test_eight_responses_take_eleven_duels():
    judge = by_strength(torch.randn(3, 8))
    tournament(judge, 3, 8)
    assert judge.duels == 11


def test_a_pair_is_dropped_where_the_winner_loses_to_the_loser():
    """0 beats 1, 2 beats 3; 0 beats 2, 3 loses to 1; but 3, the last, beats 0."""
    p = torch.full((1, 4, 4), 0.5)
    for winner, loser in ((0, 1), (2, 3), (0, 2), (1, 3), (3, 0)):
        p[0, winner, loser], p[0, loser, winner] = 0.9, 0.1
    pairs = tournament(Judge(p), 1, 4)
    assert (int(pairs.winner), int(pairs.loser), bool(pairs.kept)) == (0, 3, False)


def test_ties_go_to_the_first():
    pairs = tournament(Judge(torch.full((2, 8, 8), 0.5)), 2, 8)
    assert pairs.winner.tolist() == [0, 0] and pairs.loser.tolist() == [7, 7] and pairs.kept.all()


def test_a_random_pair_wins_with_its_probability():
    p = torch.tensor([[0.5, 0.8], [0.2, 0.5]]).expand(4000, 2, 2)
    pairs = random_pair(Judge(p), 4000, torch.rand(4000, generator=torch.Generator().manual_seed(0)))
    assert abs(float((pairs.winner == 0).float().mean()) - 0.8) < 4.0 * (0.16 / 4000) ** 0.5
    assert torch.equal(pairs.winner + pairs.loser, torch.ones(4000, dtype=torch.int64))


@pytest.mark.parametrize("k", [2, 3, 6])
def test_a_tournament_needs_a_power_of_two(k):
    with pytest.raises(ConfigError, match=f"a tournament of {k} candidates: their number must be a power of two"):
        tournament(by_strength(torch.zeros(1, k)), 1, k)
