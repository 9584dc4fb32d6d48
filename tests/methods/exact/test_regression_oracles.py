"""Regression oracles: what they learn, against scikit-learn by hand, in all encodings; seeds; bounds of ridge; what is refused."""

import sys

import numpy as np
import pytest
from sklearn.cluster import KMeans
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from surefoot.errors import ConfigError, DataError, MissingExtraError, UnknownNameError
from surefoot.methods.exact.regression_oracles import (
    ORACLES,
    Constant,
    LinearRidge,
    Supervised,
    estimator_oracle,
    oracle,
)

K, D = 4, 3


def rows(n=1200, seed=0, binary=True):
    rng = np.random.default_rng(seed)
    context, action = rng.standard_normal((n, D)), rng.integers(K, size=n)
    mean = truth(context)[np.arange(n), action]
    reward = (rng.random(n) < mean).astype(float) if binary else mean + 0.1 * rng.standard_normal(n)
    return context, action, reward


def truth(context):
    """P(reward) of every action: each has a feature of its own, the last none."""
    return 1.0 / (1.0 + np.exp(-np.concatenate([2.0 * context, np.full((len(context), 1), 0.5)], 1)))


@pytest.mark.parametrize("name", list(ORACLES))
def test_oracles_learn_what_each_action_earns(name):
    context, _, _ = rows(400, seed=1)
    predicted = oracle(name, 50).fit(*rows(), n_actions=K).predict(context)
    assert predicted.shape == (400, K) and predicted.dtype == np.float64
    assert np.abs(predicted - truth(context)).mean() < 0.12
    constant = np.abs(0.5 - truth(context)).mean()
    assert np.abs(predicted - truth(context)).mean() < 0.6 * constant


@pytest.mark.parametrize("name", ["boosting", "lightgbm", "ridge"])
def test_rewards_that_are_not_binary_are_regressed(name):
    context, _, _ = rows(400, seed=1)
    predicted = oracle(name, 50).fit(*rows(binary=False), n_actions=K).predict(context)
    assert np.abs(predicted - truth(context)).mean() < 0.12


@pytest.mark.parametrize("name", list(ORACLES))
def test_the_same_seed_learns_the_same(name):
    context, _, _ = rows(50, seed=2)
    first, again = (oracle(name, 20).fit(*rows(300), n_actions=K, seed=5).predict(context) for _ in range(2))
    np.testing.assert_array_equal(first, again)


def test_random_states_follow_the_seed_inside_pipelines_too():
    forest = estimator_oracle(make_pipeline(StandardScaler(), RandomForestClassifier(10)))
    context, _, _ = rows(50, seed=2)
    a, b, c = (forest.fit(*rows(300), n_actions=K, seed=seed).predict(context) for seed in (5, 5, 6))
    np.testing.assert_array_equal(a, b)
    assert (a != c).any()


def test_encodings_are_what_one_would_write_by_hand():
    context, action, reward = rows(300)
    new, _, _ = rows(20, seed=3)
    hot = np.eye(K)
    by_hand = LogisticRegression().fit(np.c_[context, hot[action]], reward)
    ours = estimator_oracle(LogisticRegression()).fit(context, action, reward, n_actions=K).predict(new)
    theirs = np.stack([by_hand.predict_proba(np.c_[new, np.tile(hot[a], (20, 1))])[:, 1] for a in range(K)], 1)
    np.testing.assert_allclose(ours, theirs, atol=1e-9)

    crossed = estimator_oracle(Ridge(alpha=1.0, fit_intercept=False, solver="sparse_cg", tol=1e-12), "crossed").fit(
        context, action, reward, n_actions=K
    )
    np.testing.assert_allclose(crossed.predict(new), LinearRidge(1.0).fit(context, action, reward, n_actions=K).predict(new), atol=1e-8)


def test_boosting_is_told_that_the_action_is_a_category():
    # numbers without an order: the middle actions pay, in opposite contexts
    rng = np.random.default_rng(0)
    context, action = rng.standard_normal((2000, 1)), rng.integers(12, size=2000)
    pays = np.isin(action, (1, 4, 6, 11)).astype(float)
    model = oracle("boosting", 20).fit(context, action, pays, n_actions=12)
    assert model.estimator.is_categorical_.tolist() == [False, True]
    assert ((model.predict(context[:50]) > 0.5) == np.isin(np.arange(12), (1, 4, 6, 11))).all()


@pytest.mark.parametrize("encoding", ["category", "one-hot", "crossed"])
def test_action_features_stand_in_for_the_action(encoding):
    context, action, reward = rows(600)
    features = np.array([[0.0, 1.0], [1.0, 0.0], [1.0, 0.0], [0.5, 0.5]])  # 1 and 2 are alike
    model = estimator_oracle(LogisticRegression(), encoding).fit(context, action, reward, n_actions=K, action_features=features)
    predicted = model.predict(context)
    np.testing.assert_array_equal(predicted[:, 1], predicted[:, 2])
    assert (predicted[:, 0] != predicted[:, 1]).any()


@pytest.mark.parametrize("name", list(ORACLES))
def test_weights_count_as_repeated_rows(name):
    context, action, reward = rows(400)
    twice = np.where(np.arange(400) % 2 == 0, 2.0, 1.0)
    new, _, _ = rows(50, seed=4)
    weighted = oracle(name, 20).fit(context, action, reward, twice, n_actions=K).predict(new)
    plain = oracle(name, 20).fit(context, action, reward, n_actions=K).predict(new)
    equal = oracle(name, 20).fit(context, action, reward, np.full(400, 7.0), n_actions=K).predict(new)
    np.testing.assert_allclose(equal, plain, atol=1e-6)  # the scale of weights says nothing
    assert np.abs(weighted - plain).max() > 1e-3


def test_ridge_with_weights_is_scikit_learns():
    context, action, reward = rows(300, binary=False)
    weights = np.random.default_rng(1).uniform(0.2, 5.0, 300)
    ours = LinearRidge(2.0).fit(context, action, reward, weights, n_actions=K).predict(context)
    for a in range(K):
        mine = action == a
        theirs = Ridge(alpha=2.0, fit_intercept=False)
        theirs.fit(np.c_[context, np.ones(300)][mine], reward[mine], sample_weight=(weights / weights.mean())[mine])
        np.testing.assert_allclose(ours[:, a], theirs.predict(np.c_[context, np.ones(300)]), atol=1e-10)


def test_half_width_is_how_far_a_prediction_moves_for_that_loss():
    context, action, reward = rows(200, binary=False)
    model = LinearRidge(1.0).fit(context, action, reward, n_actions=K)
    x, width = np.array([0.5, -1.0, 2.0, 1.0]), model.half_width(np.array([[0.5, -1.0, 2.0]]), mellowness=0.01)
    assert width.shape == (1, K)

    def loss(theta, a):
        mine = action == a
        return np.square(np.c_[context, np.ones(200)][mine] @ theta - reward[mine]).sum() + theta @ theta

    for a in range(K):
        theta, inverse = model.theta[:, a], model.gram.inverse[a]
        moved = theta + width[0, a] * inverse @ x / (x @ inverse @ x)  # the cheapest way to add the width at x
        np.testing.assert_allclose(moved @ x, theta @ x + width[0, a])
        np.testing.assert_allclose(loss(moved, a) - loss(theta, a), 0.01 * np.log(K * 200), rtol=1e-8)


def test_actions_that_were_never_seen_have_the_widest_bounds():
    context, _, reward = rows(200)
    model = LinearRidge().fit(context, np.zeros(200, int), reward, n_actions=K)
    assert (model.predict(context)[:, 1:] == 0.0).all()
    assert (model.half_width(context)[:, :1] < model.half_width(context)[:, 1:]).all()


@pytest.mark.parametrize("name", ["boosting", "lightgbm", "logistic"])
def test_a_log_of_one_reward_is_a_constant(name):
    context, action, _ = rows(50)
    model = oracle(name).fit(context, action, np.ones(50), n_actions=K)
    assert model == Constant(1.0, K) and (model.predict(context) == 1.0).all()


def refused(**changes):
    context, action, reward = rows(60)
    given = {"context": context, "action": action, "reward": reward, "weights": None, "n_actions": K} | changes
    return lambda: oracle("ridge").fit(**given)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (refused(action=np.full(60, 9)), DataError, "action is 9 in row 0, which is none of the 4 actions"),
        (refused(reward=np.full(60, np.nan)), DataError, "reward is not finite in row 0"),
        (refused(context=np.zeros((59, D))), DataError, r"context has shape \[59, 3\] .*there are 60 rewards"),
        (refused(weights=-np.ones(60)), DataError, "weights must be 60 numbers, none negative"),
        (refused(context=np.zeros((0, D)), action=np.zeros(0, int), reward=np.zeros(0)), DataError, "no rows to learn rewards from"),
        (lambda: LinearRidge(0.0).fit(*rows(60), n_actions=K), ConfigError, "ridge is 0.0: it must be positive"),
        (lambda: oracle("xgboos"), UnknownNameError, "unknown regression oracle 'xgboos': .*'boosting'"),
        (lambda: oracle("logistic").fit(*rows(60, binary=False), n_actions=K), ConfigError, "is a classifier and cannot learn a reward of"),
        (
            lambda: oracle("ridge").fit(*rows(60), n_actions=K).predict(np.zeros((2, 5))),
            DataError,
            r"learned from 3 features: give \[n, 3\]",
        ),
        (lambda: oracle("boosting", 2).fit(*rows(60), n_actions=K).predict(np.zeros((2, 5))), DataError, "learned from 3 features"),
        (lambda: oracle("boosting").fit(*rows(60), n_actions=300), ConfigError, "300 actions, but boosting tells at most 255"),
        (lambda: estimator_oracle(KMeans()), ConfigError, "KMeans is neither a classifier nor a regressor"),
        (lambda: estimator_oracle(Ridge(), "onehot"), UnknownNameError, "unknown encoding 'onehot': did you mean 'one-hot'"),
        (
            lambda: estimator_oracle(KNeighborsClassifier()).fit(*rows(60), np.ones(60), n_actions=K),
            ConfigError,
            "KNeighborsClassifier takes no sample weights",
        ),
        (
            lambda: oracle("boosting").fit(*rows(60), n_actions=K, action_features=np.zeros((3, 2))),
            DataError,
            r"action_features has shape \[3, 2\]: give a row for each of the 4 actions",
        ),
    ],
)
def test_mistakes_are_named(call, error, message):
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize(
    ("name", "module"), [("boosting", "sklearn.ensemble"), ("lightgbm", "lightgbm"), ("logistic", "sklearn.linear_model")]
)
def test_a_missing_package_names_the_extra(name, module, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtraError, match=r"pip install 'surefoot\[bandits\]'"):
        oracle(name).fit(*rows(60), n_actions=K)
    oracle("ridge").fit(*rows(60), n_actions=K)  # needs nothing


def test_a_regressor_serves_all_rewards():
    given = estimator_oracle(Ridge())
    assert isinstance(given, Supervised) and given.classifier is None
    assert given.fit(*rows(60), n_actions=K).predict(np.zeros((2, D))).shape == (2, K)
