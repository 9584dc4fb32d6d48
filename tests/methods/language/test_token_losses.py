"""Token-level PPO's pieces: numbers worked out by hand, gradients, padding, copies, and the form for environments."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import tensor

from surefoot.errors import ConfigError
from surefoot.methods.language.token_losses import (
    RolloutTerms,
    TokenRollouts,
    adapted_kl_coef,
    clipped_policy_loss,
    clipped_value_loss,
    last_token,
    token_advantages,
    token_mean,
    token_rewards,
    token_weights,
    whitened,
)

ALL = torch.ones(1, 4, dtype=torch.bool)
OLD, REF = tensor([[-1.2, -0.8, -0.5, -2.0]]), tensor([[-1.0, -1.0, -0.7, -1.5]])
VALUE, SCORE, NEW = tensor([[0.3, 0.4, 0.2, 0.1]]), tensor([0.9]), tensor([[-1.0, -0.9, -0.3, -2.3]])


def close(x, expected):
    return torch.testing.assert_close(x, tensor(expected), atol=1e-6, rtol=0)


def test_oracle_3_one_sequence_by_hand():
    reward = token_rewards(OLD, REF, SCORE, ALL, 0.05)
    close(reward, [[0.01, -0.01, -0.01, 0.925]])
    advantage, returns = token_advantages(reward, VALUE, ALL, 1.0, 0.95)
    close(advantage, [[0.518559, 0.430063, 0.673750, 0.825000]])
    close(returns, [[0.818559, 0.830063, 0.873750, 0.925000]])
    white = whitened(advantage, ALL)
    close(white, [[-0.618415, -1.205097, 0.410407, 1.413105]])
    loss = clipped_policy_loss(NEW, OLD, white, 0.2)
    close(loss, [[0.755334, 1.090417, -0.492489, -1.046854]])
    close(token_mean(loss, ALL), 0.076602)
    close(token_mean(loss, tensor([[False, False, True, True]])), -0.769671)
    terms = RolloutTerms(whiten_rewards=False)
    rollouts = TokenRollouts.of(OLD, REF, VALUE, SCORE, ALL, tensor([[False, False, True, True]]), 0.05, terms)
    close(token_mean(rollouts.losses(NEW, VALUE, terms)[0], rollouts.drawn), -0.769671)  # the same, put together


def test_oracle_4_whitening_that_keeps_the_mean():
    rewards = tensor([[0.01, -0.01, 0.925, 0.0], [0.0, 0.02, -0.03, -1.0]])
    expected = [[0.032193, -0.009327, 1.931745, 0.011433], [0.011433, 0.052953, -0.050848, -2.064580]]
    close(whitened(rewards, torch.ones(2, 4, dtype=torch.bool), keep_mean=True), expected)


def test_pf_ppo_oracle_3_advantages():
    advantage, returns = token_advantages(tensor([[-0.01, 0.02, 1.0]]), tensor([[0.5, 0.2, -0.1]]), ALL[:, :3], 1.0, 0.95)
    close(advantage, [[0.416750, 0.765000, 1.100000]])
    close(returns, [[0.916750, 0.965000, 1.000000]])


def test_oracle_5_forced_positions_have_no_gradient_at_all():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 6, 5, generator=generator, requires_grad=True)
    tokens = torch.randint(5, (3, 6, 1), generator=generator)
    k = tensor([0, 2, 5])
    drawn = torch.arange(6) >= k[:, None]
    logprob = logits.log_softmax(-1).gather(-1, tokens).squeeze(-1)
    old = logprob.detach() + 0.3 * torch.randn(3, 6, generator=generator)
    loss = token_mean(clipped_policy_loss(logprob, old, torch.randn(3, 6, generator=generator), 0.2), drawn)
    (gradient,) = torch.autograd.grad(loss, logits)
    assert (gradient[~drawn] == 0.0).all() and (gradient[drawn] != 0.0).any()


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31 - 1), st.integers(2, 7), st.integers(0, 6))
def test_oracle_7_gae(seed, length, k):
    """With lam = gamma = 1 it is the return to go less V; and what lies before a position changes nothing from there on."""
    k = min(k, length - 1)
    generator = torch.Generator().manual_seed(seed)
    reward, value = (torch.randn(2, length, generator=generator, dtype=torch.float64) for _ in range(2))
    mask = torch.ones(2, length, dtype=torch.bool)
    to_go = reward.flip(-1).cumsum(-1).flip(-1)
    torch.testing.assert_close(token_advantages(reward, value, mask, 1.0, 1.0)[0], to_go - value)
    before = torch.arange(length) < k
    other = token_advantages(torch.where(before, 7.0, reward), torch.where(before, -3.0, value), mask)[0]
    assert torch.equal(other[:, k:], token_advantages(reward, value, mask)[0][:, k:])


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31 - 1), st.integers(0, 3), st.integers(0, 3))
def test_padding_on_either_side_changes_nothing(seed, left, right):
    generator = torch.Generator().manual_seed(seed)
    logprob, reference, value = (torch.randn(2, 5, generator=generator, dtype=torch.float64) for _ in range(3))
    score, mask = torch.randn(2, generator=generator, dtype=torch.float64), torch.ones(2, 5, dtype=torch.bool)
    mask[1, 3:] = False
    plain = TokenRollouts.of(logprob, reference, value, score, mask, mask, 0.1, RolloutTerms())
    wide = [torch.nn.functional.pad(x, (left, right), value=9.0) for x in (logprob, reference, value)]
    padding = torch.nn.functional.pad(mask, (left, right), value=False)
    padded = TokenRollouts.of(*wide, score, padding, padding, 0.1, RolloutTerms())
    for name in ("advantage", "returns"):
        torch.testing.assert_close(getattr(padded, name)[padding], getattr(plain, name)[mask])
        assert (getattr(padded, name)[~padding] == 0.0).all()


def test_the_score_is_at_the_last_token_of_each_response():
    mask = tensor([[True, True, False], [False, True, True], [False, False, False], [False, True, False]])
    assert last_token(mask).tolist() == [[0, 1, 0], [0, 0, 1], [0, 0, 0], [0, 1, 0]]
    zero = torch.zeros(4, 3)
    assert token_rewards(zero, zero, tensor([1.0, 2.0, 3.0, 4.0]), mask, 0.1).sum(-1).tolist() == [1.0, 2.0, 0.0, 4.0]


def test_copies_are_apart():
    """A stack of batches is learned from as each by itself."""
    generator = torch.Generator().manual_seed(1)
    stacked = [torch.randn(3, 4, 5, generator=generator) for _ in range(3)]
    score, mask, drawn = torch.randn(3, 4, generator=generator), torch.ones(3, 4, 5) > 0, torch.rand(3, 4, 5, generator=generator) > 0.3
    coefficient = tensor([0.0, 0.1, 1.0])[:, None, None]
    together = TokenRollouts.of(*stacked, score, mask, drawn, coefficient, RolloutTerms())
    for i in range(3):
        alone = TokenRollouts.of(*(x[i] for x in stacked), score[i], mask[i], drawn[i], coefficient[i], RolloutTerms())
        torch.testing.assert_close(together.advantage[i], alone.advantage)
        torch.testing.assert_close(token_mean(together.advantage, drawn)[i], token_mean(alone.advantage, drawn[i]))


def test_at_ratio_one_it_is_the_policy_gradient():
    """PF-PPO's oracle 5: the gradient of the loss is that of the log-likelihood, weighted by advantages."""
    logprob = torch.randn(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    advantage = torch.randn(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    (gradient,) = torch.autograd.grad(clipped_policy_loss(logprob, logprob.detach(), advantage, 0.2).sum(), logprob)
    torch.testing.assert_close(gradient, -advantage)


def test_gradients_against_finite_differences():
    generator = torch.Generator().manual_seed(2)
    x, old, other = (torch.randn(3, 4, dtype=torch.float64, generator=generator) for _ in range(3))
    x.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: clipped_policy_loss(x, old, other, 0.2), x)
    assert torch.autograd.gradcheck(lambda x: clipped_value_loss(x, old, other, 0.2), x)


def test_the_value_loss_is_the_larger_of_both():
    value, old, returns = tensor([[1.0, 0.0, 0.3]]), tensor([[0.0, 0.0, 0.0]]), tensor([[1.0, 1.0, -1.0]])
    close(clipped_value_loss(value, old, returns, 0.2), [[0.32, 0.5, 0.845]])  # by hand: (0.2-1)^2/2, 1/2, 1.3^2/2


def test_policy_loss_is_that_of_ppo_on_environments():
    from surefoot.methods.online.ppo import clipped_surrogate

    generator = torch.Generator().manual_seed(3)
    new, old, advantage = (torch.randn(2, 6, generator=generator) for _ in range(3))
    torch.testing.assert_close(clipped_policy_loss(new, old, advantage, 0.2).mean(-1), clipped_surrogate(new, old, advantage, 0.2))


def test_weights_are_means():
    generator = torch.Generator().manual_seed(4)
    x, mask = torch.randn(3, 5, generator=generator), tensor([[1, 1, 0, 0, 0], [1, 1, 1, 1, 1], [0, 0, 0, 0, 0]]).bool()
    torch.testing.assert_close((token_weights(mask, "tokens") * x).sum(), x[mask].mean())
    by_response = (x[0, :2].mean() + x[1].mean()) / 3
    torch.testing.assert_close((token_weights(mask, "responses") * x).sum(), by_response)
    rows, times = tensor([0, 0, 0, 1, 2]), tensor([3, 1, 1])
    for average in ("tokens", "responses"):  # counting is repeating
        repeated = (token_weights(mask[rows], average) * x[rows]).sum()
        torch.testing.assert_close((token_weights(mask, average, times) * x).sum(), repeated)


def test_the_kl_coefficient_follows_the_kl():
    coefficient = tensor(0.1)
    close(adapted_kl_coef(coefficient, tensor(6.6), 100, 6.0, 1000.0), 0.1 * 1.01)
    close(adapted_kl_coef(coefficient, tensor(60.0), 100, 6.0, 1000.0), 0.1 * 1.02)  # at most a fifth
    close(adapted_kl_coef(coefficient, tensor(0.0), 100, 6.0, 1000.0), 0.1 * 0.98)


def test_rows_can_be_drawn_again():
    x = torch.arange(8.0).view(2, 4)
    rollouts = TokenRollouts(x, x, x, x, x > 0, x > 2).select(tensor([1, 1, 0]))
    assert rollouts.advantage[:, 0].tolist() == [4.0, 4.0, 0.0] and rollouts.drawn.shape == (3, 4)


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"gamma": 1.1}, "gamma is 1.1"), ({"gae_lambda": -0.1}, "gae"), ({"clip": 0.0}, "clip is 0.0"), ({"value_clip": -1.0}, "value_")],
)
def test_bad_settings(settings, message):
    with pytest.raises(ConfigError, match=message):
        RolloutTerms(**settings)


def test_shapes_must_agree():
    with pytest.raises(ValueError, match="one shape"):
        clipped_policy_loss(torch.zeros(2, 3), torch.zeros(2, 3), torch.zeros(3), 0.2)
    with pytest.raises(ValueError, match="one a response"):
        token_rewards(torch.zeros(2, 3), torch.zeros(2, 3), torch.zeros(3), torch.ones(2, 3) > 0, 0.1)
