"""Off-policy estimators: the card's numbers, unbiasedness by simulation, intervals that cover, fitted propensities, and warnings."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from surefoot.data.bandit_log import BanditLog
from surefoot.envs.bandits import Payments, pay
from surefoot.envs.finite import draw
from surefoot.errors import ConfigError, DataError, PolicyError
from surefoot.evaluation import off_policy as op
from surefoot.evaluation.overlap import effective_sample_size
from surefoot.evaluation.propensities import FLOOR, fit_propensities, floored, with_propensities
from surefoot.methods.exact.exploration import epsilon_greedy, softmax, uniform

REWARD, PROPENSITY = np.array([1.0, 0.0, 1.0, 1.0, 0.0]), np.array([0.5, 0.25, 0.25, 0.5, 0.5])
ACTION = np.array([0, 1, 1, 0, 1])
Q = np.array([[0.6, 0.5], [0.4, 0.3], [0.7, 0.2], [0.5, 0.6], [0.3, 0.4]])
PI = np.array([[0.8, 0.2], [0.9, 0.1], [0.6, 0.4], [0.8, 0.2], [0.8, 0.2]])


def five() -> BanditLog:
    return BanditLog.from_arrays(np.arange(5.0)[:, None], ACTION, REWARD, propensity=PROPENSITY)


def logged(n, seed, logger=None, linear=False) -> tuple[BanditLog, np.ndarray, np.ndarray]:
    """A log of payments, the true means `[n, K]`, and the logging policy."""
    rng, world = np.random.default_rng(seed), Payments.drawn(0)
    rounds = world.rounds(n, rng)
    scores = 0.5 * rounds.context[:, :6] if linear else rounds.mean + 0.3 * np.sin(3.0 * rounds.context[:, :6])
    p = (logger or (lambda f, there: softmax(f, there, 0.5)))(scores, rounds.available)
    action = draw(p, rng)
    log = BanditLog(
        rounds.context, action, pay(rounds, action, rng), rounds.available, p[np.arange(n), action],
        np.zeros(n, np.int64), world.actions,
    )  # fmt: skip
    return log, rounds.mean, p


# --- numbers ----------------------------------------------------------------------------------------------------------


def test_by_hand():
    w = op.importance_weights(PI, ACTION, PROPENSITY)
    np.testing.assert_allclose(w, [1.6, 0.4, 1.6, 1.6, 0.4])
    assert op.ips_terms(REWARD, w).mean() == pytest.approx(0.96)
    assert op.snips_terms(REWARD, w).mean() == pytest.approx(0.857143, abs=1e-6)
    assert effective_sample_size(w) == pytest.approx(3.92, abs=0.005)
    assert op.dm_terms(PI, Q).mean() == pytest.approx(0.462)
    assert op.dr_terms(REWARD, w, PI, Q, ACTION).mean() == pytest.approx(0.95)
    found = op.evaluate_off_policy(five(), PI, q=Q)
    assert {name: round(x.value, 6) for name, x in found.values.items()} == {"ips": 0.96, "snips": 0.857143, "dm": 0.462, "dr": 0.95}
    assert found.logged.value == pytest.approx(0.6) and found.gains["ips"].value == pytest.approx(0.36)


def test_the_logger_itself_has_weights_of_one():
    log, _, p = logged(500, 0)
    found = op.evaluate_off_policy(log, p)
    assert found.values["ips"].value == pytest.approx(log.reward.mean()) == found.values["snips"].value
    assert found.overlap.ess == pytest.approx(500) and found.overlap.mean_weight == pytest.approx(1.0)


def test_clipped_weights():
    found = op.evaluate_off_policy(five(), PI, q=Q, clip=1.0)
    w = np.minimum([1.6, 0.4, 1.6, 1.6, 0.4], 1.0)
    assert found.values["clipped ips"].value == pytest.approx((w * REWARD).mean())
    assert found.clipped == pytest.approx(0.6) and set(found.values) >= {"ips", "clipped snips", "clipped dr", "dm"}


@given(st.integers(0, 10_000))
@settings(max_examples=30, deadline=None)
def test_snips_stays_within_the_rewards_and_a_perfect_model_needs_no_weights(seed):
    rng = np.random.default_rng(seed)
    log, mean, _ = logged(60, seed)
    target = softmax(rng.normal(size=mean.shape), log.available, 1.0)
    found = op.evaluate_off_policy(log, target)
    assert log.reward.min() - 1e-9 <= found.values["snips"].value <= log.reward.max() + 1e-9
    exact = replace(log, reward=mean[np.arange(60), log.action])
    q = op.evaluate_off_policy(exact, target, q=mean)
    assert q.values["dr"].value == pytest.approx(q.values["dm"].value)


# --- by simulation ----------------------------------------------------------------------------------------------------


def test_ips_and_dr_are_unbiased_and_their_intervals_cover():
    """400 logs of 300 rows; DR with a wrong model. SNIPS has a bias of order 1 / n."""
    estimates, covered = {"ips": [], "dr": []}, {"ips": 0, "dr": 0}
    truth = []
    for seed in range(400):
        log, mean, _ = logged(300, seed)
        target = epsilon_greedy(mean, log.available, 0.2)
        value = (target * mean).sum(1)
        found = op.evaluate_off_policy(log, target, q=np.full(mean.shape, 0.5))
        truth.append(value.mean())
        for name in estimates:
            estimates[name].append(found.values[name].value - value.mean())
            covered[name] += found.values[name].low <= value.mean() <= found.values[name].high
    for name, errors in estimates.items():
        assert abs(np.mean(errors)) < 4 * np.std(errors) / np.sqrt(400), name
        assert covered[name] / 400 > 0.91, name


def test_right_propensities_save_a_wrong_model_and_a_right_model_wrong_propensities():
    log, mean, _ = logged(20_000, 3)
    target = epsilon_greedy(mean, log.available, 0.1)
    value = (target * mean).sum(1).mean()
    assert log.propensity is not None
    wrong = replace(log, propensity=np.clip(log.propensity * 1.5, None, 1.0))
    assert op.evaluate_off_policy(log, target, q=np.zeros(mean.shape)).values["dr"].value == pytest.approx(value, abs=0.02)
    assert op.evaluate_off_policy(wrong, target, q=mean).values["dr"].value == pytest.approx(value, abs=0.02)
    assert abs(op.evaluate_off_policy(wrong, target).values["ips"].value - value) > 0.1


def test_models_are_asked_about_rows_they_have_not_seen():
    log, _, _ = logged(300, 0)
    seen = []

    def fit(part):
        known = {tuple(x) for x in part.context}
        return lambda rows: seen.extend(tuple(x) in known for x in rows.context) or np.zeros((len(rows), rows.K))

    q = op.cross_fitted(log, fit, k=5)
    assert q.shape == (300, 6) and len(seen) == 300 and not any(seen)
    constant = op.cross_fitted(log, op.constant_reward, k=5)
    assert constant.min() > 0.0 and constant.max() < 1.0


def test_bootstrap_intervals_are_close_to_normal_ones():
    log, mean, _ = logged(2_000, 1)
    target = softmax(mean, log.available, 0.2)
    one, other = (op.evaluate_off_policy(log, target, spread=kind).values["ips"] for kind in ("normal", "bootstrap"))
    assert other.low == pytest.approx(one.low, abs=0.01) and other.high == pytest.approx(one.high, abs=0.01)


# --- fitted propensities ----------------------------------------------------------------------------------------------


def test_fitted_propensities_stand_in_for_logged_ones():
    """A logger that the linear model can tell."""
    log, mean, p = logged(6_000, 5, linear=True)
    bare = replace(log, propensity=None)
    filled, fitted = with_propensities(bare)
    assert np.abs(fitted.pmf - p).mean() < 0.03 and fitted.log_loss < fitted.uniform_log_loss
    assert (fitted.pmf[~log.available] == 0.0).all() and filled.propensity is not None and filled.propensity.min() >= FLOOR / 2
    np.testing.assert_allclose(fitted.pmf.sum(1), 1.0)
    target = softmax(mean, log.available, 0.3)
    value = (target * mean).sum(1).mean()
    assert op.evaluate_off_policy(filled, target, logger=fitted.pmf).values["snips"].value == pytest.approx(value, abs=0.03)


def test_a_uniform_logger_is_seen_as_one():
    log, _, _ = logged(3_000, 6, lambda f, there: uniform(f, there))
    fitted = fit_propensities(replace(log, propensity=None))
    assert set(fitted.models.values()) <= {"uniform", "shares"}
    np.testing.assert_allclose(fitted.taken, 1.0 / log.available.sum(1), atol=0.03)


def test_floors():
    p = floored(np.array([[1.0, 0.0, 0.0]]), np.array([[True, True, False]]))
    assert p[0, 2] == 0.0 and 0.0 < p[0, 1] < 2 * FLOOR and p.sum() == pytest.approx(1.0)


# --- overlap ----------------------------------------------------------------------------------------------------------


def test_a_logger_without_choice_supports_nothing_else():
    log, mean, _ = logged(300, 0, lambda f, there: epsilon_greedy(f, there, 0.0))
    found = op.evaluate_off_policy(log, uniform(mean, log.available))
    assert any("never chose at random" in sentence for sentence in found.overlap.warnings)
    assert found.overlap.unsupported > 0.5 and found.overlap.deterministic > 0.9


def test_actions_that_were_never_taken_are_named():
    log, mean, _ = logged(400, 0)
    kept = log.rows(log.action != 2)
    found = op.evaluate_off_policy(kept, uniform(np.zeros((len(kept), 6)), kept.available))
    assert any("never logged: route_2" in sentence for sentence in found.overlap.warnings)
    assert mean.shape[1] == 6


def test_weak_estimates_are_called_weak():
    log, mean, _ = logged(300, 0)
    worst = epsilon_greedy(-mean, log.available, 0.0)
    sentences = " ".join(op.evaluate_off_policy(log, worst).overlap.warnings)
    assert "estimates from weights are weak" in sentences


def test_a_policy_that_shares_no_action_has_no_estimate_from_weights():
    log = BanditLog.from_arrays(np.zeros((4, 1)), np.array(["a"] * 4), np.ones(4), propensity=np.full(4, 0.5), actions=("a", "b"))
    found = op.evaluate_off_policy(log, np.array([[0.0, 1.0]] * 4))
    assert "snips" not in found.values and any("not one row" in sentence for sentence in found.overlap.warnings)


def test_wrong_propensities_show_in_the_mean_weight():
    log, _, p = logged(5_000, 0)
    assert log.propensity is not None
    wrong = replace(log, propensity=0.7 * log.propensity)
    assert any("weights average" in sentence for sentence in op.evaluate_off_policy(wrong, p).overlap.warnings)


# --- misuse -----------------------------------------------------------------------------------------------------------


def test_misuse_is_one_sentence():
    log = five()
    with pytest.raises(ConfigError, match="holds no propensities: fit them first"):
        op.evaluate_off_policy(replace(log, propensity=None), PI)
    with pytest.raises(ConfigError, match="clip is 0"):
        op.evaluate_off_policy(log, PI, clip=0.0)
    with pytest.raises(ConfigError, match=r"predicted rewards have shape \[5, 3\]"):
        op.evaluate_off_policy(log, PI, q=np.zeros((5, 3)))
    with pytest.raises(PolicyError, match=r"the policy has shape \[5, 3\]"):
        op.evaluate_off_policy(log, np.zeros((5, 3)))
    with pytest.raises(PolicyError, match=r"sum to 0\.9 in row 2"):
        op.evaluate_off_policy(log, np.where(np.arange(5)[:, None] == 2, 0.45, PI))
    with pytest.raises(PolicyError, match=r"the probability -0\.5 in row 0"):
        op.evaluate_off_policy(log, np.array([[1.5, -0.5]] * 5))
    part = replace(log, available=np.array([[True, True]] * 4 + [[False, True]]))
    with pytest.raises(PolicyError, match="in row 4, where it is not available"):
        op.evaluate_off_policy(part, PI)
    with pytest.raises(ConfigError, match="interval is 'exact'"):
        op.evaluate_off_policy(log, PI, spread="exact")
    with pytest.raises(ConfigError, match="level is 2"):
        op.evaluate_off_policy(log, PI, level=2.0)
    with pytest.raises(ConfigError, match="cannot be split"):
        op.folds(3, 4)
    with pytest.raises(DataError, match="propensities can be fitted from 30 on"):
        fit_propensities(replace(log, propensity=None))
