"""Group losses: the card's numbers, limits, gradients, and what must hold of any group."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from surefoot.methods.language.groups import (
    MovingNormaliser,
    chosen_and_rejected,
    group_advantage,
    group_dpo,
    group_ipo,
    negative_best_of_n,
    pair_differences,
    pairs,
    regularised,
    reinforce,
    reward_weighted_group,
)
from surefoot.methods.language.losses import best_of_n
from surefoot.methods.online.ppo import clipped_surrogate

D = torch.float64
L = torch.tensor([[0.5, 0.2, 0.2, 0.1]], dtype=D).log()
L0 = torch.full((1, 4), 0.25, dtype=D).log()
R = torch.tensor([[0.2, 0.9, 0.4, 0.1]], dtype=D)
OLD = torch.tensor([[0.4, 0.25, 0.25, 0.1]], dtype=D).log()


# --- oracle 1 ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("loss", "value"),
    [
        (lambda: best_of_n(L, R), 1.609438),
        (lambda: negative_best_of_n(L, R, 0.1), 1.455932),
        (lambda: reward_weighted_group(L, R, 0.5), 4.291210),
        (lambda: group_ipo(L - L0, R, 2.0), 4.096295),
        (lambda: group_dpo(L - L0, R, 0.5), 0.671475),
        (lambda: reinforce(L, group_advantage(R)), -0.020023),
        (lambda: clipped_surrogate(L, OLD, group_advantage(R), 0.2), 0.121666),
    ],
    ids=["bon", "neg_bon", "rwr", "ipo", "dpo", "reinforce", "ppo"],
)
def test_losses_of_the_card(loss, value):
    assert loss().shape == (1,) and loss().item() == pytest.approx(value, abs=5e-7)


def test_pairs_and_advantages_of_the_card():
    assert int(pairs(R).sum()) == 6
    np.testing.assert_allclose(group_advantage(R)[0], [-0.648886, 1.622214, 0.0, -0.973329], atol=5e-7)


# --- oracle 4, limits -------------------------------------------------------------------------------------------------


def gradient(loss, logits):
    logits = logits.clone().requires_grad_()
    (found,) = torch.autograd.grad(loss(logits.log_softmax(-1)).sum(), logits)
    return found


def test_ppo_at_ratio_1_has_the_gradient_of_reinforce():
    advantage = group_advantage(R)
    of_ppo = gradient(lambda logp: clipped_surrogate(logp, L, advantage, 0.2), L)
    np.testing.assert_allclose(of_ppo, gradient(lambda logp: reinforce(logp, advantage), L), atol=1e-12)


def test_neg_bon_without_a_push_is_bon():
    for pushed in ("mean", "sum", "worst"):
        assert negative_best_of_n(L, R, 0.0, pushed).item() == best_of_n(L, R).item()


def test_rwr_at_infinite_temperature_is_likelihood():
    assert reward_weighted_group(L, R, float("inf")).item() == pytest.approx(-L.mean().item())


def test_dpo_of_two_is_dpo_on_the_logged_pair():
    two, ref = torch.tensor([[-3.0, -1.0]], dtype=D), torch.tensor([[-2.0, -1.5]], dtype=D)
    rewards = torch.tensor([[0.0, 1.0]], dtype=D)
    h = (two[0, 1] - ref[0, 1]) - (two[0, 0] - ref[0, 0])
    assert group_dpo(two - ref, rewards, 0.3).item() == pytest.approx(-torch.nn.functional.logsigmoid(0.3 * h).item(), abs=1e-12)


def test_rwr_with_advantages_as_weights_is_reinforce():
    advantage = group_advantage(R)
    weights_are_advantages = -(advantage * L).mean(-1)
    assert reinforce(L, advantage).item() == weights_are_advantages.item()
    positive = advantage - advantage.min() + 0.1
    assert reward_weighted_group(L, positive.log(), 1.0).item() == pytest.approx(reinforce(L, positive).item(), abs=1e-12)


# --- forms ------------------------------------------------------------------------------------------------------------


def test_forms_of_neg_bon():
    best, others = L[0, 1], [L[0, 0], L[0, 2], L[0, 3]]
    assert negative_best_of_n(L, R, 0.1, "sum").item() == pytest.approx((-best + 0.1 * sum(others)).item())
    assert negative_best_of_n(L, R, 0.1, "worst").item() == pytest.approx((-best + 0.1 * L[0, 3]).item())
    plain, ratios = (gradient(lambda logp, ref=ref: negative_best_of_n(logp, R, 0.1, reference=ref), L) for ref in (None, L0))
    np.testing.assert_allclose(plain, ratios, atol=1e-12)


def test_forms_of_rwr():
    weights = (R / 0.5).exp().clamp_max(2.0)
    assert reward_weighted_group(L, R, 0.5, largest=2.0).item() == pytest.approx(-(weights * L).mean().item())
    assert reward_weighted_group(L, R, 0.5, "sigmoid").item() == pytest.approx(-((R / 0.5).sigmoid() * L).mean().item())


def test_a_gap_leaves_close_pairs_out():
    assert int(pairs(R, 0.25).sum()) == 4  # .9 over the three others, .4 over .1
    d = pair_differences(L - L0)[0]
    kept = [d[1, 0], d[1, 2], d[1, 3], d[2, 3]]
    assert group_ipo(L - L0, R, 2.0, 0.25).item() == pytest.approx(float(np.mean([(x - 2.0) ** 2 for x in kept])))


@pytest.mark.parametrize("loss", [lambda x, r: group_dpo(x, r, 0.5), lambda x, r: group_ipo(x, r, 2.0)])
def test_a_group_of_equals_teaches_nothing(loss):
    equal = torch.full((1, 4), 0.3, dtype=D)
    assert loss(L - L0, equal).item() == 0.0
    assert gradient(lambda logp: loss(logp - L0, equal), L).abs().max() == 0.0


def test_regularised_rewards():
    found = regularised(R, OLD, L0, 0.3, 0.01)
    np.testing.assert_allclose(found, R - 0.3 * (OLD - L0) - 0.01 * OLD)


# --- any group --------------------------------------------------------------------------------------------------------

LOSSES = {
    "bon": lambda logp, r: best_of_n(logp, r),
    "neg_bon": lambda logp, r: negative_best_of_n(logp, r, 0.1),
    "rwr": lambda logp, r: reward_weighted_group(logp, r, 0.5),
    "dpo": lambda logp, r: group_dpo(logp - L0[..., :1], r, 0.5),
    "ipo": lambda logp, r: group_ipo(logp - L0[..., :1], r, 2.0),
    "reinforce": lambda logp, r: reinforce(logp, group_advantage(r)),
    "ppo": lambda logp, r: clipped_surrogate(logp, logp.detach() + 0.05, group_advantage(r), 0.2),
}


@pytest.mark.parametrize("name", LOSSES)
def test_gradients_are_those_of_finite_differences(name):
    generator = torch.Generator().manual_seed(1)
    logp = torch.randn(2, 3, 4, generator=generator, dtype=D).log_softmax(-1).requires_grad_()
    reward = torch.rand(2, 3, 4, generator=generator, dtype=D)
    if name == "ppo":  # the old ones must not move with it
        old = logp.detach() + 0.05
        assert torch.autograd.gradcheck(lambda x: clipped_surrogate(x, old, group_advantage(reward), 0.2), (logp,))
    else:
        assert torch.autograd.gradcheck(lambda x: LOSSES[name](x, reward), (logp,))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 6), st.sampled_from(sorted(LOSSES)))
def test_a_loss_does_not_know_the_order_of_a_group(seed, n, name):
    generator = torch.Generator().manual_seed(seed)
    logp, reward = (torch.rand(2, 5, n, generator=generator, dtype=D) for _ in range(2))
    order = torch.randperm(n, generator=generator)
    found, permuted = LOSSES[name](logp, reward), LOSSES[name](logp[..., order], reward[..., order])
    assert found.shape == (2, 5)
    np.testing.assert_allclose(found, permuted, atol=1e-10)
    np.testing.assert_allclose(found[1], LOSSES[name](logp[1], reward[1]), atol=1e-12)  # copies do not meet


def test_shapes_that_disagree_are_refused():
    with pytest.raises(ValueError, match=r"\[\.\.\., B, N\]"):
        group_dpo(L, R[:, :3], 0.5)
    with pytest.raises(ValueError, match=r"\[\.\.\., B, N\]"):
        reinforce(L[0], R[0])


# --- the normaliser ---------------------------------------------------------------------------------------------------


def test_the_normaliser_knows_every_reward_it_was_given():
    generator = torch.Generator().manual_seed(2)
    batches = [torch.rand(2, 3, 4, generator=generator) for _ in range(3)]
    seen = MovingNormaliser((2,))
    for batch in batches:
        seen.add(batch)
    every = torch.stack(batches, 1).double().flatten(1)
    expected = (batches[0].double() - every.mean(1)[:, None, None]) / (every.std(1, correction=0)[:, None, None] + 1e-12)
    np.testing.assert_allclose(seen.running(batches[0]), expected, atol=1e-5)


def test_the_moving_average_forgets():
    seen = MovingNormaliser((), decay=0.5)
    for value in (1.0, 2.0, 4.0):
        seen.add(torch.full((2, 3), value))
    assert seen.moving(torch.zeros(2, 3))[0, 0].item() == pytest.approx(-(0.5 * (0.5 * 1.0 + 0.5 * 2.0) + 0.5 * 4.0))


def test_both_ends_of_a_group_are_told():
    chosen, rejected = chosen_and_rejected(L - L0, R)
    assert chosen.item() == pytest.approx((L - L0)[0, 1].item()) and rejected.item() == pytest.approx((L - L0)[0, 3].item())
