"""The toy linear MDP and the American put: values by hand, the finite model against binomial sums and against the environment."""

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from scipy.stats import binom

import surefoot.envs
from surefoot.envs.finite import FiniteMDP
from surefoot.envs.robust import (
    CHOICES,
    FAILED,
    AmericanPut,
    Tents,
    american_put_tree,
    perturbed_toy,
    put_price,
    put_prices,
    toy_linear_mdp,
)
from surefoot.errors import ConfigError

# --- the toy ----------------------------------------------------------------------------------------------------------


def returns(mdp: FiniteMDP, actions: list[int]) -> float:
    """Of the same action in all states of a stage, by hand: the law of the state, stage by stage."""
    law, total = mdp.initial, 0.0
    for h, a in enumerate(actions):
        total += law @ mdp.reward[h, :, a]
        law = law @ mdp.transition[h, :, a]
    return total


@pytest.mark.parametrize(
    ("actions", "expected"),
    [
        ([15, 15, 15], (1.624875, 1.124875, 0.624875)),
        ([0, 0, 0], (0.460919, 0.360919, 0.260919)),
        ([0, 15, 15], (1.324775, 1.224775, 1.124775)),
    ],
)
def test_values_of_the_toy(actions, expected):
    world = toy_linear_mdp()
    assert (CHOICES[15] == 1).all() and (CHOICES[0] == -1).all()
    for q, value in zip((0.0, 0.5, 1.0), expected, strict=True):
        assert returns(perturbed_toy(world, q), actions) == pytest.approx(value, abs=1e-6)


def test_the_toy_is_a_linear_mdp():
    world = toy_linear_mdp(0.4, 0.1)
    assert (world.features >= 0.0).all()
    np.testing.assert_allclose(world.features.sum(-1), 1.0)
    np.testing.assert_allclose(world.mdp.transition, np.einsum("hsad,hdt->hsat", world.features, world.factors))
    assert world.mdp.transition[:, FAILED, :, FAILED].min() == 1.0 and world.mdp.reward[:, FAILED].max() == 0.0
    assert set(np.round(world.features[0, 0, :, 3], 6)) == {0.3, 0.35, 0.4, 0.45, 0.5}


def test_the_shift_is_in_the_first_step_alone():
    world = toy_linear_mdp()
    shifted = perturbed_toy(world, 0.3)
    np.testing.assert_array_equal(shifted.transition[1:], world.mdp.transition[1:])
    np.testing.assert_array_equal(shifted.transition[0, 1:], world.mdp.transition[0, 1:])
    v = world.features[0, 0, :, 3]
    np.testing.assert_allclose(shifted.transition[0, 0][:, [1, FAILED, 4]], np.stack([1 - v, 0.3 * v, 0.7 * v], -1))
    np.testing.assert_allclose(world.mdp.transition[0, 0][:, [1, FAILED, 4]], np.stack([0.999 * (1 - v), 0.001 * (1 - v), v], -1))


def test_toys_that_cannot_be():
    with pytest.raises(ConfigError, match="must lie between 0 and 1"):
        toy_linear_mdp(delta=0.3, xi=0.5)
    for q in (2.0, -0.1, float("nan")):
        with pytest.raises(ConfigError, match="q is"):
            perturbed_toy(toy_linear_mdp(), q)


# --- the put ----------------------------------------------------------------------------------------------------------


def test_the_put_is_an_environment_of_gymnasium():
    assert surefoot.envs is not None
    check_env(gym.make("surefoot/AmericanPut-v0").unwrapped, skip_render_check=True)


def test_prices_and_payoffs():
    env = gym.make("surefoot/AmericanPut-v0", p_up=1.0)
    (price, left), _ = env.reset(seed=0)
    assert 95.0 <= price <= 105.0 and left == 20
    for h in range(1, 21):
        obs, reward, terminated, truncated, _ = env.step(0)
        assert obs == pytest.approx([price * 1.02**h, 20 - h], rel=1e-6) and reward == 0.0
        assert terminated == (h == 20) and (not truncated or terminated)
    falling = AmericanPut(p_up=0.0)
    falling.reset(seed=0)
    falling.step(0)
    price = falling.price
    obs, reward, terminated, _, _ = falling.step(1)
    assert terminated and reward == pytest.approx(max(0.0, 100.0 - price)) and obs[1] == 19
    kept = AmericanPut(hold_only=True)
    kept.reset(seed=0)
    assert kept.step(1)[1:3] == (0.0, False)


def backwards(mdp: FiniteMDP) -> np.ndarray:
    """Optimal values at the start by value iteration, `[...]`."""
    v = np.zeros(mdp.initial.shape)
    for h in reversed(range(mdp.horizon)):
        v = (mdp.reward[..., h, :, :] + np.einsum("...sat,...t->...sa", mdp.transition[..., h, :, :, :], v)).max(-1)
    return (mdp.initial * v).sum(-1)


def test_the_tree_against_binomial_sums():
    """Exercising at the last moment, whatever the price: a European put over 19 moves."""
    starts = np.array([95.0, 100.0, 105.0])
    mdp = american_put_tree(starts, p_up=0.4)
    assert mdp.transition.shape == (3, 20, 21, 2, 21)
    v = np.zeros((3, 21))
    for h in reversed(range(20)):
        act = 1 if h == 19 else 0
        v = mdp.reward[:, h, :, act] + np.einsum("cst,ct->cs", mdp.transition[:, h, :, act], v)
    j = np.arange(20)
    payoff = np.maximum(0.0, 100.0 - put_price(starts[:, None], 19, j))
    np.testing.assert_allclose(v[:, 0], payoff @ binom.pmf(j, 19, 0.4), atol=1e-12)
    best = backwards(mdp)
    assert (best >= v[:, 0] - 1e-12).all() and (best >= np.maximum(0.0, 100.0 - starts)).all()
    worth = [backwards(american_put_tree(starts, p_up=p)) for p in (0.2, 0.5, 0.8)]
    assert (np.diff(worth, axis=0) < 0.0).all()  # a right to sell is worth less where prices rise


def test_certain_prices_are_exercised_at_their_lowest():
    assert backwards(american_put_tree(np.array(100.0), 0.0)) == pytest.approx(100.0 - 100.0 * 0.98**19)
    assert backwards(american_put_tree(np.array(95.0), 1.0)) == pytest.approx(5.0)
    assert backwards(american_put_tree(np.array(90.0), 0.5, strike=80.0, stages=1)) == 0.0


def test_the_environment_pays_what_the_tree_says():
    """The best rule of the tree that starts at 100, played in the environment from its own start prices."""
    env, earned = AmericanPut(p_up=0.3), []
    for seed in range(1500):
        (price, left), _ = env.reset(seed=seed)
        done, total = False, 0.0
        while not done:
            (price, left), reward, done, _, _ = env.step(int(price < 82.0 or left == 1))
            total += reward
        earned.append(total)
    starts = np.linspace(95.0, 105.0, 401)
    mdp, v = american_put_tree(starts, 0.3), np.zeros((401, 21))
    for h in reversed(range(20)):
        price = put_price(starts[:, None], h, np.arange(21))
        stop = (price < 82.0) | (h == 19)
        q = mdp.reward[:, h] + np.einsum("csat,ct->csa", mdp.transition[:, h], v)
        v = np.where(stop, q[..., 1], q[..., 0])
    expected, error = v[:, 0].mean(), np.std(earned) / np.sqrt(len(earned))
    assert np.mean(earned) == pytest.approx(expected, abs=4.0 * error)


def test_paths_of_prices():
    prices = put_prices(4000, 20, 0.7, np.random.default_rng(0))
    ratio = prices[:, 1:] / prices[:, :-1]
    up = np.isclose(ratio, 1.02)
    assert prices.shape == (4000, 21) and (up | np.isclose(ratio, 0.98)).all()
    assert up.mean() == pytest.approx(0.7, abs=4 * np.sqrt(0.21 / 80_000))
    assert prices[:, 0].min() >= 95.0 and prices[:, 0].max() <= 105.0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"p_up": 1.5}, "p_up is 1.5"), ({"p_up": float("nan")}, "p_up is nan"), ({"strike": 0.0}, "strike is 0"),
        ({"stages": 0}, "stages is 0"),
    ],
)  # fmt: skip
def test_puts_that_cannot_be(settings, message):
    with pytest.raises(ConfigError, match=message):
        AmericanPut(**settings)
    with pytest.raises(ConfigError, match=message):
        american_put_tree(np.array(100.0), **settings)


def test_tents_sum_to_one_within_the_grid():
    tents = Tents(80.0, 5.0, 9)
    x = np.linspace(80.0, 120.0, 201)
    phi = tents(x)
    assert phi.shape == (201, 9) and phi.min() == 0.0
    np.testing.assert_allclose(phi.sum(-1), 1.0)
    np.testing.assert_allclose(phi @ (80.0 + 5.0 * np.arange(9)), x)  # linear functions are interpolated exactly
    np.testing.assert_array_equal(tents(np.array([70.0, 130.0])), 0.0)
