"""Behaviour cloning: closed forms by hand, the linear softmax against scipy's constrained solver and against scikit-learn."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from sklearn.linear_model import LogisticRegression

from surefoot.data.log import Log
from surefoot.data.spec import Continuous, Discrete
from surefoot.envs.finite import play, random_mdp, riverswim
from surefoot.errors import ConfigError, DataError, DivergedError
from surefoot.methods.exact.balls import minimise_in_balls
from surefoot.methods.exact.behaviour_cloning import (
    Demonstrations,
    held_out,
    heldout_divergence,
    linear_softmax,
    smoothed_policy,
)
from surefoot.methods.exact.demonstration_regularized import theory_divergence
from surefoot.methods.exact.planning import optimal_plan, trajectory_kl
from surefoot.methods.exact.visits import visit_counts


def test_oracle_1_add_one():
    np.testing.assert_allclose(smoothed_policy(np.array([3, 1, 0])), [0.571429, 0.285714, 0.142857], atol=5e-7)
    np.testing.assert_allclose(smoothed_policy(np.zeros(4)), 0.25)


@given(st.lists(st.integers(0, 50), min_size=2, max_size=5), st.integers(0, 1000))
@settings(max_examples=60, deadline=None)
def test_the_closed_form_minimises_the_regularised_loss(counts, seed):
    counts = np.array(counts)
    loss = lambda p: -((counts + 1) * np.log(p)).sum()  # noqa: E731
    other = np.random.default_rng(seed).dirichlet(np.ones(len(counts)))
    assert loss(smoothed_policy(counts)) <= loss(np.maximum(other, 1e-12)) + 1e-9


def test_demonstrations_are_counted():
    states = np.array([[[0, 1], [0, 0]], [[1, 1], [0, 1]]])  # two copies of two trajectories of two stages
    actions = np.array([[[0, 1], [1, 1]], [[0, 0], [0, 1]]])
    demos = Demonstrations.of(states, actions, 2, 2)
    assert demos.n.tolist() == [2, 2]
    assert demos.counts[0].tolist() == [[[1, 1], [0, 0]], [[0, 1], [0, 1]]]
    assert demos.counts[1].tolist() == [[[1, 0], [1, 0]], [[0, 0], [1, 1]]]


def test_a_log_is_counted_like_its_arrays():
    river, rng = riverswim(), np.random.default_rng(0)
    played = play(river, np.full((10, 6, 2), 0.5), 50, rng)
    states, actions = played.state[:, :10], played.action
    truncated = np.zeros((50, 10), bool)
    truncated[:, -1] = True
    rows = {"terminated": np.zeros(500), "truncated": truncated.reshape(-1), "reward": np.zeros(500)}
    log = Log.from_arrays(
        states.reshape(-1, 1), actions.reshape(-1), next_obs=played.state[:, 1:].reshape(-1, 1), action_space=Discrete(2), **rows
    )
    demos = Demonstrations.of_log(log, 6)
    np.testing.assert_array_equal(demos.counts, Demonstrations.of(states, actions, 6, 2).counts)
    assert demos.n == 50
    short = log.select(np.arange(13), np.isin(np.arange(13), [9, 12]))  # an episode that ended early counts where it went
    assert Demonstrations.of_log(short, 6).counts.sum((1, 2)).tolist() == [2, 2, 2, 1, 1, 1, 1, 1, 1, 1]
    with pytest.raises(DataError, match="episode 0 has 10 steps, more than the horizon 9"):
        Demonstrations.of_log(log, 6, horizon=9)
    with pytest.raises(DataError, match=r"obs\[\d+\] is [45].0: it must be a whole number from 0 to 3"):
        Demonstrations.of_log(log, 4)
    box = Log.from_arrays(np.zeros((2, 1)), np.zeros((2, 1)), *np.zeros((1, 2)), np.zeros((2, 1)), np.zeros(2), action_space=UNIT)
    with pytest.raises(DataError, match="one state number as observation and discrete actions"):
        Demonstrations.of_log(box, 4)


UNIT = Continuous((-1.0,), (1.0,))


def test_heldout_likelihood_is_the_divergence_from_a_deterministic_expert_and_bounds_any():
    rng = np.random.default_rng(0)
    mdp = random_mdp(rng, 4, 5, 3)
    clone = smoothed_policy(visit_counts(mdp, optimal_plan(mdp).policy, 50, rng).sum(-1))
    for expert, exact in ((optimal_plan(mdp).policy, True), (rng.dirichlet(np.ones(3), (4, 5)), False)):
        played = play(mdp, expert, 4000, rng)
        each = np.array([-np.log(clone[np.arange(4), s[:4], a]).sum() for s, a in zip(played.state, played.action, strict=True)])
        value = heldout_divergence(clone, Demonstrations.of(played.state[:, :4], played.action, 5, 3))
        assert value == pytest.approx(each.mean())
        error = each.std() / np.sqrt(4000)
        truth = trajectory_kl(mdp, expert, clone)
        assert value > truth - 5 * error
        assert (abs(value - truth) < 5 * error) == exact


def test_the_theory_rule_bounds_the_mean_divergence_of_any_expert():
    rng = np.random.default_rng(0)
    mdp = random_mdp(rng, 4, 5, 3)
    for expert in (optimal_plan(mdp).policy, np.full((4, 5, 3), 1.0 / 3.0), rng.dirichlet(np.ones(3), (4, 5))):
        for n in (5, 50, 500):
            counts = visit_counts(mdp, expert, np.full(400, n), rng).sum(-1)
            divergence = trajectory_kl(mdp, expert, smoothed_policy(counts))
            bound = theory_divergence(np.array(n), 4, 5, 3, 1.0)
            assert divergence.mean() + 4 * divergence.std() / 20 <= bound
            assert (divergence > theory_divergence(np.array(n), 4, 5, 3, 0.1)).mean() <= 0.1


def test_divergence_falls_as_one_over_n():
    river, rng = riverswim(), np.random.default_rng(0)
    expert, n = optimal_plan(river).policy, np.repeat([100, 400, 1600], 20).reshape(3, 20)
    clone = smoothed_policy(visit_counts(river, expert, n, rng).sum(-1))
    mean = trajectory_kl(river, expert, clone).mean(-1)
    np.testing.assert_allclose(mean, [0.405, 0.107, 0.0279], rtol=0.05)  # the card's pilot


# --- linear softmax ---------------------------------------------------------------------------------------------------


def linear_case(rng, copies=(), n=200):
    features = rng.normal(size=(3, 4, 3, 5))
    features /= np.linalg.norm(features, axis=-1).max()
    mdp = random_mdp(rng, 3, 4, 3)
    expert = rng.dirichlet(np.ones(3), (*copies, 3, 4))
    return features, Demonstrations(visit_counts(mdp, expert, n, rng).sum(-1), np.full(copies, n)), mdp


def test_the_softmax_is_the_constrained_maximum_likelihood():
    rng = np.random.default_rng(0)
    features, demos, _ = linear_case(rng)
    for radius in (0.5, 20.0):
        clone = linear_softmax(demos, features, radius=radius)
        assert clone.mixing == pytest.approx(3 / 203)
        assert (np.linalg.norm(clone.weights, axis=-1) <= radius).all()
        for h in range(3):

            def loss(w, h=h):
                p = np.exp(features[h] @ w)
                p /= p.sum(-1, keepdims=True)
                k = 3 / 203
                return -(demos.counts[h] / 200 * np.log((1 - k) * p + k / 3)).sum()

            inside = {"type": "ineq", "fun": lambda w, radius=radius: radius**2 - w @ w}
            best = minimize(loss, np.zeros(5), method="SLSQP", constraints=[inside], options={"ftol": 1e-12, "maxiter": 500})
            assert loss(clone.weights[h]) == pytest.approx(best.fun, abs=2e-6)


def test_without_mixing_one_hot_features_give_frequencies_and_two_actions_logistic_regression():
    rng = np.random.default_rng(0)
    mdp = random_mdp(rng, 2, 3, 2)
    counts = visit_counts(mdp, np.full((2, 3, 2), 0.5), 3000, rng).sum(-1)
    demos = Demonstrations(counts, np.array(3000))
    one_hot = np.broadcast_to(np.eye(6).reshape(3, 2, 6), (2, 3, 2, 6))
    p = linear_softmax(demos, one_hot, mixing=0.0).probabilities(one_hot)
    seen = counts.sum(-1) > 0
    np.testing.assert_allclose(p[seen], (counts / np.maximum(counts.sum(-1, keepdims=True), 1))[seen], atol=1e-4)
    features = rng.normal(size=(2, 3, 2, 2))
    features /= np.linalg.norm(features, axis=-1).max()
    w = linear_softmax(demos, features, mixing=0.0).weights
    for h in range(2):
        x = np.repeat(features[h, :, 1] - features[h, :, 0], 2, axis=0)
        fitted = LogisticRegression(C=1e9, fit_intercept=False, tol=1e-10).fit(x, np.tile([0, 1], 3), counts[h].reshape(-1))
        np.testing.assert_allclose(w[h], fitted.coef_[0], atol=1e-3)


def test_copies_are_fitted_apart():
    rng = np.random.default_rng(0)
    features, demos, _ = linear_case(rng, copies=(4,))
    whole = linear_softmax(demos, features).probabilities(features)
    assert whole.shape == (4, 3, 4, 3)
    for i in range(4):
        lone = linear_softmax(Demonstrations(demos.counts[i], demos.n[i]), features).probabilities(features)
        share = demos.counts[i] / 200  # where nothing was seen the optimum on the sphere is flat
        assert (share * np.log(whole[i])).sum() == pytest.approx((share * np.log(lone)).sum(), abs=5e-4)
    assert (whole >= 3 / 203 / 3 - 1e-12).all()


def test_the_linear_clone_approaches_an_expert_in_its_class():
    rng = np.random.default_rng(0)
    features, _, mdp = linear_case(rng)
    logits = np.einsum("hsad,hd->hsa", features, rng.normal(size=(3, 5)) * 3.0)
    expert = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    n = np.array([100, 10_000])
    clone = linear_softmax(Demonstrations(visit_counts(mdp, expert, n, rng).sum(-1), n), features).probabilities(features)
    far, near = trajectory_kl(mdp, expert, clone)
    assert near < 0.01 and near < far / 20


def test_balls_hold_minima_inside_and_on_the_sphere():
    targets = np.array([[3.0, 4.0], [0.3, -0.4], [0.0, 0.0]])
    found = minimise_in_balls(lambda w: (0.5 * np.square(w - targets).sum(), w - targets), (3, 2), 1.0)
    np.testing.assert_allclose(found, [[0.6, 0.8], [0.3, -0.4], [0.0, 0.0]], atol=2e-5)
    assert (np.linalg.norm(found, axis=-1) <= 1.0).all()


def test_misuse_is_one_sentence():
    rng = np.random.default_rng(0)
    good, features = np.zeros((3, 2), np.int64), np.full((2, 2, 2, 3), 0.1)
    demos = Demonstrations.of(good, good, 2, 2)
    with pytest.raises(DataError, match=r"states \(3, 2\) and actions \(2, 2\) must both be \[N, H\]"):
        Demonstrations.of(good, good[:2], 2, 2)
    with pytest.raises(DataError, match=r"states \(0, 2\)"):
        Demonstrations.of(good[:0], good[:0], 2, 2)
    for value, shown in ((2, "2"), (-1, "-1"), (0.5, "0.5"), (np.nan, "nan")):
        bad = good.astype(np.float64)
        bad[1, 0] = value
        with pytest.raises(DataError, match=rf"actions\[1, 0\] is {shown}[.0]*: it must be a whole number from 0 to 1"):
            Demonstrations.of(good, bad, 2, 2)
    with pytest.raises(ConfigError, match="smoothing is 0"):
        smoothed_policy(np.ones(2), 0.0)
    with pytest.raises(DataError, match=r"features have shape \(2, 2, 3\)"):
        linear_softmax(demos, features[0])
    with pytest.raises(DataError, match=r"features\[1, 0, 1\] have norm nan"):
        linear_softmax(demos, np.where(np.arange(24).reshape(2, 2, 2, 3) == 15, np.nan, features))
    with pytest.raises(DataError, match=r"features\[0, 0, 0\] have norm 1.73"):
        linear_softmax(demos, features * 10.0)
    with pytest.raises(ConfigError, match=r"mixing is 1.0"):
        linear_softmax(demos, features, mixing=1.0)
    with pytest.raises(ConfigError, match="radius is 0"):
        linear_softmax(demos, features, radius=0.0)
    with pytest.raises(DivergedError, match="NaN or infinite"):
        minimise_in_balls(lambda w: (np.nan, w), (2,), 1.0)
    with pytest.raises(ConfigError, match=r"share is 1\.0 of 3 trajectories"):
        held_out(good, good, 1.0, rng)
    with pytest.raises(DataError, match=r"counted as \(2, 2, 2\), but the world has stages, states and actions \(10, 6, 2\)"):
        demos.check((10, 6, 2))


def test_holding_out_splits_trajectories():
    states = np.arange(10)[:, None] * np.ones((1, 3), np.int64)
    (kept, kept_actions), (out, _) = held_out(states, states, 0.2, np.random.default_rng(0))
    assert kept.shape == (8, 3) and out.shape == (2, 3)
    np.testing.assert_array_equal(kept, kept_actions)
    assert sorted([*kept[:, 0], *out[:, 0]]) == list(range(10))
