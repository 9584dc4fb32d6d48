"""LSVI-UCB-Ent: the tabular recursion is its one-hot case, sums over counts are sums over episodes, and it learns."""

import numpy as np
import pytest

import surefoot.methods.exact.ucbvi_ent as ucbvi_ent
from surefoot.envs.finite import play, random_linear_mdp, random_mdp
from surefoot.errors import ConfigError, DataError
from surefoot.methods.exact.lsvi_ucb_ent import LSVIUCBEntConfig, bonus_factor, learn_policies, plan
from surefoot.methods.exact.planning import optimal_plan, policy_return, soft_maximum
from surefoot.methods.exact.ridge import Gram
from surefoot.methods.exact.visits import visit_counts


def one_hot(horizon, states, actions):
    return np.broadcast_to(np.eye(states * actions).reshape(states, actions, -1), (horizon, states, actions, states * actions))


@pytest.mark.parametrize("lam", [0.0, 0.3])
def test_oracle_8_one_hot_features_give_the_tabular_recursion(lam, monkeypatch):
    rng = np.random.default_rng(0)
    mdp = random_mdp(rng, 4, 4, 2, concentration=0.3)
    reference = rng.dirichlet(np.ones(2), (4, 4))
    visits = visit_counts(mdp, reference, 40, rng)
    n = visits.sum(-1)
    assert (n == 0).any()
    monkeypatch.setattr(ucbvi_ent, "uniform_bonus", lambda n, config: np.where(n > 0, 0.7 / np.sqrt(np.maximum(n, 1)), 0.0))
    tabular = ucbvi_ent.plan(visits, mdp.reward, reference, lam, ucbvi_ent.UCBVIEntConfig())
    linear = plan(visits, one_hot(4, 4, 2), mdp.reward, reference, lam, b=0.7, ridge=1e-10)
    for name in ("upper", "lower", "policy"):
        np.testing.assert_allclose(getattr(linear, name), getattr(tabular, name), atol=1e-6)


def test_oracle_8_the_ridge_mean_is_the_sum_over_n_plus_alpha():
    rng = np.random.default_rng(0)
    mdp = random_mdp(rng, 1, 3, 2)
    visits = visit_counts(mdp, np.full((1, 3, 2), 0.5), 30, rng)
    n = visits.sum(-1)
    found = plan(visits, one_hot(1, 3, 2), mdp.reward, np.full((1, 3, 2), 0.5), 0.3, b=0.0, ridge=2.0)
    np.testing.assert_allclose(found.upper, n * mdp.reward / (n + 2.0), atol=1e-12)


def test_counts_give_what_sums_over_episodes_give():
    """Against the recursion of the docstring over single transitions."""
    rng = np.random.default_rng(0)
    world = random_linear_mdp(rng, 3, 5, 3, 4)
    reference = rng.dirichlet(np.ones(3), (3, 5))
    played = play(world.mdp, reference, 50, rng)
    visits = np.zeros((3, 5, 3, 5))
    for h in range(3):
        np.add.at(visits[h], (played.state[:, h], played.action[:, h], played.state[:, h + 1]), 1)
    found = plan(visits, world.features, world.mdp.reward, reference, 0.5, b=0.3, ridge=1.0)
    v = {"upper": np.zeros(5), "lower": np.zeros(5)}
    for h in reversed(range(3)):
        psi = world.features[h][played.state[:, h], played.action[:, h]]
        gram = Gram.of_features(psi, 1.0)
        width = 0.3 * gram.norm(world.features[h])
        for name, sign in (("upper", 1.0), ("lower", -1.0)):
            w = gram.inverse @ psi.T @ (played.reward[:, h] + v[name][played.state[:, h + 1]])
            q = np.clip(world.features[h] @ w + sign * width, 0.0, 3 - h)
            np.testing.assert_allclose(getattr(found, name)[h], q, atol=1e-10)
            v[name] = soft_maximum(q, reference[h], 0.5)[0]


def test_copies_are_planned_apart():
    rng = np.random.default_rng(0)
    world = random_linear_mdp(rng, 3, 5, 3, 4)
    reference, lam = rng.dirichlet(np.ones(3), (2, 3, 5)), np.array([0.0, 0.4])
    visits = visit_counts(world.mdp, reference, 30, rng)
    together = plan(visits, world.features, world.mdp.reward, reference, lam, 0.2, 1.0)
    for i in range(2):
        lone = plan(visits[i], world.features, world.mdp.reward, reference[i], lam[i], 0.2, 1.0)
        for name in ("upper", "lower", "policy"):
            np.testing.assert_allclose(getattr(together, name)[i], getattr(lone, name), atol=1e-10)


def test_with_enough_data_the_bounds_meet_at_the_exact_values():
    rng = np.random.default_rng(0)
    world = random_linear_mdp(rng, 4, 6, 3, 5)
    reference = rng.dirichlet(np.ones(3), (4, 6))
    visits = 1e7 * world.mdp.transition
    exact = optimal_plan(world.mdp, 0.2, reference)
    found = plan(visits, world.features, world.mdp.reward, reference, 0.2, b=0.1, ridge=1.0)
    np.testing.assert_allclose(found.upper, exact.q, atol=2e-3)
    np.testing.assert_allclose(found.lower, exact.q, atol=2e-3)


def test_it_learns_and_mixtures_are_averages():
    rng = np.random.default_rng(0)
    world = random_linear_mdp(rng, 5, 20, 4, 6)
    uniform = np.full((2, 5, 20, 4), 0.25)
    config = LSVIUCBEntConfig(episodes=3000, scale=0.003)
    found = learn_policies(world.mdp, world.features, uniform, np.array([0.0, 0.05]), config, rng)
    assert found.episodes.sum() == 3000 and found.policies.shape == (len(found.episodes), 2, 5, 20, 4)
    best = policy_return(world.mdp, optimal_plan(world.mdp).policy)
    assert best - policy_return(world.mdp, found.last[0]) < 0.1
    soft = optimal_plan(world.mdp, 0.05).v[0, 0]
    assert soft - policy_return(world.mdp, found.last[1], 0.05, uniform[1]) < 0.1
    values = policy_return(world.mdp, found.policies)
    mixed = found.mixture(values)
    assert mixed == pytest.approx(np.average(values, axis=0, weights=found.episodes))
    drawn = found.drawn(4000, rng)
    assert np.abs(policy_return(world.mdp, drawn).mean(0) - mixed).max() < 5 * values.std() / np.sqrt(4000)
    assert policy_return(world.mdp, uniform[0]) < best - 0.2


def test_the_bonus_has_its_order():
    assert bonus_factor(3, 5, LSVIUCBEntConfig(episodes=100, scale=2.0, delta=0.1)) == pytest.approx(30 * np.sqrt(np.log(3000)))


def test_misuse_is_one_sentence():
    for settings, message in (
        ({"episodes": 0}, "episodes is 0"),
        ({"ridge": 0.0}, "ridge 0"),
        ({"scale": -1.0}, "scale is -1"),
        ({"delta": 0.0}, "delta is 0"),
    ):
        with pytest.raises(ConfigError, match=message):
            LSVIUCBEntConfig(**settings)
    rng = np.random.default_rng(0)
    world = random_linear_mdp(rng, 2, 3, 2, 2)
    half, config = np.full((2, 3, 2), 0.5), LSVIUCBEntConfig(episodes=10)
    with pytest.raises(DataError, match=r"features have shape \(3, 2, 2\): they must be \[H, S, A, d\]"):
        learn_policies(world.mdp, world.features[0], half, 0.1, config, rng)
    with pytest.raises(DataError, match=r"features\[0, 0, 0\] have norm"):
        learn_policies(world.mdp, world.features + 1.0, half, 0.1, config, rng)
    with pytest.raises(DataError, match=r"reference has shape \(1, 3, 2\)"):
        learn_policies(world.mdp, world.features, half[:1], 0.1, config, rng)
    many = random_linear_mdp(rng, 2, 3, 2, 2, copies=(2,))
    with pytest.raises(DataError, match="give a lone world"):
        learn_policies(many.mdp, world.features, half, 0.1, config, rng)
