"""Forward and reverse KL over actions: the card's gradients, autograd, what the losses aim at, and that the pictures draw."""

import numpy as np
import pytest
import torch

from surefoot.errors import DataError
from surefoot.evaluation.mode_seeking import (
    best_of_n_law,
    draw_flows,
    draw_mass,
    draw_rewards,
    flow,
    forward_gradient,
    kl,
    log_odds_change,
    objective_gradient,
    reverse_gradient,
    reverse_is_faster,
    tilted,
)
from surefoot.methods.language.groups import reinforce, reward_weighted_group
from surefoot.methods.language.losses import best_of_n

P, Q = np.array([0.4, 0.3, 0.2, 0.1]), np.array([0.1, 0.2, 0.3, 0.4])


def autograd(f, p):
    logits = torch.tensor(np.log(p), requires_grad=True)
    return torch.autograd.grad(f(logits.log_softmax(-1)), logits)[0].numpy()


# --- oracle 2 ---------------------------------------------------------------------------------------------------------


def test_gradients_of_the_card():
    np.testing.assert_allclose(forward_gradient(P, Q), (0.3, 0.1, -0.1, -0.3), atol=1e-12)
    np.testing.assert_allclose(reverse_gradient(P, Q), (0.371944, -0.015291, -0.172380, -0.184273), atol=5e-7)
    assert kl(P, Q) == pytest.approx(0.456435, abs=5e-7)


def test_gradients_are_autograd_s():
    q = torch.tensor(Q)
    np.testing.assert_allclose(forward_gradient(P, Q), autograd(lambda lp: (q * (q.log() - lp)).sum(), P), atol=1e-12)
    np.testing.assert_allclose(reverse_gradient(P, Q), autograd(lambda lp: (lp.exp() * (lp - q.log())).sum(), P), atol=1e-12)


def test_log_odds_move_as_the_gradients_say():
    p, q = np.array([0.3, 0.3, 0.4]), np.array([0.5, 0.01, 0.49])
    for kind, gradient in (("forward", forward_gradient), ("reverse", reverse_gradient)):
        descent = -0.1 * gradient(p, q)
        assert log_odds_change(kind, 0.3, 0.5, 0.01, step=0.1) == pytest.approx(descent[0] - descent[1])
    assert reverse_is_faster(0.3, 0.5, 0.01) and not reverse_is_faster(0.3, 0.5, 0.4)


# --- oracle 3 ---------------------------------------------------------------------------------------------------------


def test_the_policy_gradient_seeks_the_tilted_law():
    p, ref, r, beta = np.array([0.5, 0.2, 0.2, 0.1]), np.full(4, 0.25), np.array([0.2, 0.9, 0.4, 0.1]), 0.3
    best = tilted(ref, r, beta)
    np.testing.assert_allclose(best, (0.071549, 0.737827, 0.139358, 0.051267), atol=5e-7)
    gradient = objective_gradient(p, ref, r, beta)
    np.testing.assert_allclose(gradient, (-0.164119, 0.129330, 0.029330, 0.005459), atol=5e-7)
    np.testing.assert_allclose(gradient, -beta * reverse_gradient(p, best), atol=1e-12)
    t = torch.tensor
    exact = autograd(lambda lp: (lp.exp() * (t(r) - beta * (lp - t(ref).log()))).sum(), p)
    np.testing.assert_allclose(gradient, exact, atol=1e-12)


def test_what_offline_losses_descend_is_forward_kl():
    """In the mean over groups of the reference: RWR towards the tilted law, best-of-N towards the law of the best."""
    p, ref, r = np.array([0.5, 0.2, 0.2, 0.1]), np.array([0.4, 0.3, 0.2, 0.1]), np.array([0.2, 0.9, 0.4, 0.1])
    n = 3
    groups = torch.cartesian_prod(*[torch.arange(4)] * n)  # all of them, [64, 3]
    weight = torch.tensor(ref)[groups].prod(-1)
    rewards = torch.tensor(r)[groups]
    of_bon = autograd(lambda lp: (weight * best_of_n(lp[groups], rewards)).sum(), p)
    np.testing.assert_allclose(of_bon, forward_gradient(p, best_of_n_law(ref, r, n)), atol=1e-12)
    of_rwr = autograd(lambda lp: (weight * reward_weighted_group(lp[groups], rewards, 0.5)).sum(), p)
    mass = (ref * np.exp(r / 0.5)).sum()
    np.testing.assert_allclose(of_rwr, mass * forward_gradient(p, tilted(ref, r, 0.5)), atol=1e-12)


def test_what_reinforce_descends_is_reverse_kl():
    p, ref, r, beta = np.array([0.5, 0.2, 0.2, 0.1]), np.full(4, 0.25), np.array([0.2, 0.9, 0.4, 0.1]), 0.3
    gain = torch.tensor(r - beta * np.log(p / ref))
    actions, drawn = torch.arange(4).view(4, 1), torch.tensor(p)
    found = autograd(lambda lp: (drawn * reinforce(lp[actions], gain.view(4, 1))).sum(), p)
    np.testing.assert_allclose(found, beta * reverse_gradient(p, tilted(ref, r, beta)), atol=1e-12)


def test_the_law_of_the_best_of_n():
    ref, r = np.array([0.4, 0.3, 0.2, 0.1]), np.array([0.2, 0.9, 0.4, 0.2])  # two equals
    rng = np.random.default_rng(0)
    draws = rng.choice(4, size=(200_000, 3), p=ref)
    best = draws[np.arange(len(draws)), r[draws].argmax(-1)]  # the first of equals: as the reference has them
    found, expected = np.bincount(best, minlength=4) / len(draws), best_of_n_law(ref, r, 3)
    assert expected.sum() == pytest.approx(1.0) and (np.abs(found - expected) < 5.0 * np.sqrt(0.25 / len(draws))).all()


# --- flows and pictures -----------------------------------------------------------------------------------------------


def test_reverse_kl_leaves_bad_actions_first():
    """From a uniform law: where a target is nearly 0, the reverse flow is out sooner; in the end both are at the target."""
    start = np.full(20, 0.05)
    target = tilted(start, np.where(np.arange(20) < 10, 1.0, 0.0), 0.08)
    forward, reverse = (flow(kind, start, target, 400, 1.0) for kind in ("forward", "reverse"))
    assert forward.shape == (401, 20)
    for step in (1, 5, 20):
        assert reverse[step, 10:].sum() < 0.8 * forward[step, 10:].sum()
    for law in (forward, reverse):
        np.testing.assert_allclose(law.sum(-1), 1.0)
        assert kl(law[-1], target) < 0.1 * kl(start, target)


def test_laws_that_are_none_are_refused():
    with pytest.raises(DataError, match="not positive with sum 1"):
        reverse_gradient(P, np.array([0.5, 0.5, 0.0, 0.0]))


def test_pictures_are_drawn(tmp_path):
    draw_flows(tmp_path / "flows.png", P, {"forward": Q, "reverse": Q}, steps=(0, 1, 4))
    draw_mass(tmp_path / "mass.png", {"bon offline": {"0": P, "3": Q}, "bon on-policy": {"0": P, "3": P}}, bump=P)
    curve = {"queries": [0, 100, 200], "reward": [0.1, 0.5, 0.9], "kl": [0.0, 1.0, 2.0]}
    draw_rewards(tmp_path / "rewards.png", {"ipo offline": curve, "ipo on-policy": curve, "ppo": curve}, title="R1")
    for name in ("flows", "mass", "rewards"):
        assert (tmp_path / f"{name}.png").read_bytes()[:4] == b"\x89PNG"
