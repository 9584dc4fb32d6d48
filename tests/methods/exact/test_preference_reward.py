"""Rewards from preferences: likelihoods by hand, against scikit-learn's logistic regression, and truth recovered from many pairs."""

import numpy as np
import pytest
from scipy.optimize import check_grad, minimize
from sklearn.linear_model import LogisticRegression

from surefoot.envs.finite import random_linear_mdp, random_mdp
from surefoot.errors import ConfigError, DataError
from surefoot.methods.exact.preference_reward import (
    Pairs,
    difference,
    linear_reward,
    negative_log_likelihood,
    sample_pairs,
    simulated_labels,
    tabular_reward,
)


def judged(seed, n, copies=(), horizon=2, scale=1.0):
    rng = np.random.default_rng(seed)
    mdp = random_mdp(rng, horizon, 3, 2)
    pairs = sample_pairs(mdp, np.full((*copies, horizon, 3, 2), 0.5), n, rng)
    return mdp, pairs, simulated_labels(pairs, scale * mdp.reward, rng)


def test_likelihood_by_hand():
    loss, slope = negative_log_likelihood(np.array([0.0, np.log(3.0)]), np.array([1, 0]))
    assert loss == pytest.approx((np.log(2.0) + np.log(4.0)) / 2)
    np.testing.assert_allclose(slope, [-0.25, 0.375])
    labels = np.array([1, 0, 1])
    f = lambda d: negative_log_likelihood(d, labels)[0]  # noqa: E731
    assert check_grad(f, lambda d: negative_log_likelihood(d, labels)[1], np.array([0.3, -2.0, 1.0])) < 1e-6
    assert np.isfinite(negative_log_likelihood(np.array([1e4, -1e4]), np.array([0, 1]))[0])


def test_returns_are_sums_over_stages():
    mdp, pairs, _ = judged(0, 5, copies=(2,))
    returns = pairs.returns(mdp.reward)
    assert returns.shape == (2, 5, 2)
    for i in np.ndindex(2, 5, 2):
        by_hand = sum(mdp.reward[h, pairs.states[i][h], pairs.actions[i][h]] for h in range(2))
        assert returns[i] == pytest.approx(by_hand)


def test_labels_follow_the_model():
    mdp, pairs, labels = judged(0, 100_000)
    d = difference(pairs.returns(mdp.reward))
    p = 1.0 / (1.0 + np.exp(-d))
    assert abs((labels - p).sum()) < 5 * np.sqrt((p * (1 - p)).sum())
    assert abs(((labels - p) * d).sum()) < 5 * np.sqrt((p * (1 - p) * d**2).sum())


def test_the_table_is_the_constrained_maximum_likelihood():
    mdp, pairs, labels = judged(1, 300)
    table = tabular_reward(pairs, labels, 3, 2)
    assert table.shape == (2, 3, 2) and (table >= 0.0).all() and (table <= 1.0).all()

    def loss(flat):
        return negative_log_likelihood(difference(pairs.returns(flat.reshape(2, 3, 2))), labels)[0]

    best = minimize(loss, np.full(12, 0.5), method="SLSQP", bounds=[(0, 1)] * 12, options={"ftol": 1e-12, "maxiter": 500})
    assert loss(table.reshape(-1)) == pytest.approx(best.fun, abs=1e-5)
    assert loss(table.reshape(-1)) <= loss(mdp.reward.reshape(-1)) + 1e-6


def test_what_no_pair_visits_stays_where_it_started():
    states, actions = np.zeros((4, 2, 2), np.int64), np.zeros((4, 2, 2), np.int64)
    states[:, 1] = 1
    for start in (0.0, 0.5):
        table = tabular_reward(Pairs(states, actions), np.array([1, 1, 1, 0]), 3, 2, start=start)
        assert (table[:, 2] == start).all() and (table[:, :, 1] == start).all()
        assert (table[:, 1, 0] > table[:, 0, 0]).all()


def test_truth_is_recovered_from_many_pairs_and_copies_are_apart():
    mdp, pairs, labels = judged(2, 60_000, copies=(2,))
    table = tabular_reward(pairs, labels, 3, 2)
    fresh = judged(2, 5000)[1]
    error = difference(fresh.returns(table[0])) - difference(fresh.returns(mdp.reward))
    assert np.sqrt(np.square(error).mean()) < 0.05
    lone = tabular_reward(Pairs(pairs.states[1], pairs.actions[1]), labels[1], 3, 2)
    np.testing.assert_allclose(difference(fresh.returns(table[1])), difference(fresh.returns(lone)), atol=2e-3)


def test_linear_rewards_match_logistic_regression_and_stay_in_range():
    rng = np.random.default_rng(0)
    world = random_linear_mdp(rng, 3, 6, 3, 3)
    pairs = sample_pairs(world.mdp, np.full((3, 6, 3), 1 / 3), 20_000, rng)
    labels = simulated_labels(pairs, world.mdp.reward, rng)
    theta, table = linear_reward(pairs, labels, world.features)
    assert theta.shape == (3, 3) and (table >= 0.0).all() and (table <= 1.0).all()
    psi = world.features[np.arange(3), pairs.states, pairs.actions]
    x = (psi[:, 1] - psi[:, 0]).reshape(len(labels), -1)
    fitted = LogisticRegression(C=1e6, fit_intercept=False, tol=1e-10, max_iter=1000).fit(x, labels)
    ours, theirs = x @ theta.reshape(-1), x @ fitted.coef_[0]
    truth = difference(pairs.returns(world.mdp.reward))
    assert np.sqrt(np.square(ours - truth).mean()) < 0.06
    assert np.sqrt(np.square(ours - theirs).mean()) < 0.03  # theirs may leave [0, 1]
    np.testing.assert_allclose(difference(pairs.returns(table)), ours, atol=0.05)


def test_one_hot_features_are_the_table():
    _, pairs, labels = judged(3, 5000)
    one_hot = np.broadcast_to(np.eye(6).reshape(3, 2, 6), (2, 3, 2, 6))
    linear = linear_reward(pairs, labels, one_hot)[1]
    table = tabular_reward(pairs, labels, 3, 2)
    np.testing.assert_allclose(difference(pairs.returns(linear)), difference(pairs.returns(table)), atol=0.03)


def test_misuse_is_one_sentence():
    _, pairs, labels = judged(0, 4)
    with pytest.raises(DataError, match=r"labels\[2\] is 2: it must be a whole number from 0 to 1"):
        tabular_reward(pairs, np.array([0, 1, 2, 0]), 3, 2)
    with pytest.raises(DataError, match=r"labels have shape \(3,\), but there are \(4,\) pairs"):
        tabular_reward(pairs, labels[:3], 3, 2)
    with pytest.raises(DataError, match=r"states\[.*\] is 2: it must be a whole number from 0 to 1"):
        tabular_reward(Pairs(np.full((4, 2, 2), 2), pairs.actions), labels, 2, 2)
    with pytest.raises(DataError, match=r"pairs have states \(4, 2, 2\) and actions \(4, 2, 1\)"):
        tabular_reward(Pairs(pairs.states, pairs.actions[..., :1]), labels, 3, 2)
    with pytest.raises(ConfigError, match=r"start is 2\.0"):
        tabular_reward(pairs, labels, 3, 2, start=2.0)
    with pytest.raises(DataError, match=r"features have shape \(3, 2, 6\)"):
        linear_reward(pairs, labels, np.zeros((3, 2, 6)))
    with pytest.raises(DataError, match="features have 5 stages, but trajectories 2"):
        linear_reward(pairs, labels, np.zeros((5, 3, 2, 4)))
