"""Off-policy estimators: the card's numbers, unbiasedness by simulation, intervals, overlap, fitted propensities, refusals."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from surefoot.data.bandit_log import BanditLog
from surefoot.errors import ConfigError, DataError, PolicyError
from surefoot.evaluation import off_policy
from surefoot.evaluation.off_policy import cross_fitted, dr_terms, evaluate_off_policy, folds, importance_weights, terms_interval
from surefoot.evaluation.overlap import effective_sample_size
from surefoot.evaluation.propensities import best_model, calibration_error, fit_linear, fit_propensities, fit_uniform, with_propensities
from surefoot.evaluation.statistics import mean_interval
from surefoot.methods.exact.exploration import epsilon_greedy
from surefoot.methods.exact.regression_oracles import LinearRidge, oracle

REWARD = np.array([1.0, 0.0, 1.0, 1.0, 0.0])
ACTION = np.array([0, 1, 1, 0, 1])
PROPENSITY = np.array([0.5, 0.25, 0.25, 0.5, 0.5])
Q = np.array([[0.6, 0.5], [0.4, 0.3], [0.7, 0.2], [0.5, 0.6], [0.3, 0.4]])
TARGET = np.array([[0.8, 0.2], [0.9, 0.1], [0.6, 0.4], [0.8, 0.2], [0.8, 0.2]])


def card_log() -> BanditLog:
    return BanditLog.from_arrays(np.zeros((5, 1)), ACTION, REWARD, propensity=PROPENSITY, actions=(0, 1))


def drawn(p: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return (p.cumsum(-1) > rng.random((*p.shape[:-1], 1))).argmax(-1)


# --- the card's numbers ---------------------------------------------------------------------------------------------


def test_oracle_7_weights_ips_snips_and_ess():
    w = importance_weights(TARGET, ACTION, PROPENSITY)
    assert w.tolist() == pytest.approx([1.6, 0.4, 1.6, 1.6, 0.4])
    found = evaluate_off_policy(card_log(), TARGET, q=Q)
    assert found.values["ips"].value == pytest.approx(0.96, abs=1e-12)
    assert found.values["snips"].value == pytest.approx(0.857143, abs=5e-7)
    assert found.overlap.ess == effective_sample_size(w) == pytest.approx(3.92, abs=1e-12)
    assert found.values["dm"].value == pytest.approx(0.462, abs=1e-12)
    assert found.values["dr"].value == pytest.approx(0.95, abs=1e-12)
    assert found.logged.value == REWARD.mean()


def test_oracle_8_the_logger_itself():
    rng = np.random.default_rng(0)
    p = rng.dirichlet(np.ones(4), 200)
    action = drawn(p, rng)
    log = BanditLog.from_arrays(
        np.zeros((200, 1)), action, rng.normal(size=200), propensity=p[np.arange(200), action], actions=range(4)
    )  # fmt: skip
    found = evaluate_off_policy(log, p)
    assert importance_weights(p, log.action, log.propensity).tolist() == [1.0] * 200
    assert found.values["ips"] == found.values["snips"] == found.logged
    assert (found.overlap.ess, found.overlap.mean_weight, found.gains["ips"].value) == (200.0, 1.0, 0.0)
    assert found.overlap.warnings == ()


def test_clipped_weights_by_hand():
    found = evaluate_off_policy(card_log(), TARGET, q=Q, clip=1.0)
    assert found.clipped == 0.6
    assert found.values["clipped ips"].value == pytest.approx((1 + 1 + 1) / 5)  # w = 1, .4, 1, 1, .4
    assert found.values["clipped snips"].value == pytest.approx(3 / 3.8)
    assert found.values["clipped dr"].value == pytest.approx(0.462 + (0.4 + 0.4 * -0.3 + 0.8 + 0.5 + 0.4 * -0.4) / 5)
    assert found.values["ips"].value == pytest.approx(0.96)  # the others stay
    assert "clipped dm" not in found.values


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000))
def test_snips_stays_within_the_rewards_and_a_perfect_model_needs_no_weights(seed):
    rng = np.random.default_rng(seed)
    p, target, mean = rng.dirichlet(np.ones(4), 50), rng.dirichlet(np.ones(4), 50), rng.normal(size=(50, 4))
    action = drawn(p, rng)
    taken = np.arange(50), action
    log = BanditLog.from_arrays(np.zeros((50, 1)), action, mean[taken], propensity=p[taken], actions=range(4))
    found = evaluate_off_policy(log, target, q=mean, clip=2.0)
    assert log.reward.min() - 1e-9 <= found.values["snips"].value <= log.reward.max() + 1e-9
    assert found.values["dr"].value == pytest.approx(found.values["dm"].value)
    assert found.values["clipped dr"].value == pytest.approx(found.values["dm"].value)
    assert 1.0 - 1e-9 <= found.overlap.ess <= 50.0 + 1e-9


# --- unbiasedness ---------------------------------------------------------------------------------------------------


def simulated(replications: int, n: int, seed: int, spoil: float = 1.0) -> tuple[np.ndarray, ...]:
    """Logs `[replications, n]` of one small world with three contexts, exact value of the target; `spoil` makes propensities wrong."""
    rng = np.random.default_rng(seed)
    mean = np.array([[0.2, 0.5, 0.9], [0.7, 0.1, 0.4], [0.3, 0.8, 0.6]])
    logger = np.array([[0.6, 0.3, 0.1], [0.2, 0.2, 0.6], [0.1, 0.8, 0.1]])
    target = np.array([[0.1, 0.1, 0.8], [0.9, 0.1, 0.0], [0.3, 0.3, 0.4]])
    x = rng.integers(3, size=(replications, n))
    action = drawn(logger[x], rng)
    reward = (rng.random(x.shape) < mean[x, action]).astype(float)
    propensity = logger[x, action] ** spoil
    w = np.take_along_axis(target[x], action[..., None], -1)[..., 0] / propensity
    return x, action, reward, w, target, mean, float((target * mean).sum(-1).mean())


def within(estimates: np.ndarray, truth: float, errors: float = 4.0) -> bool:
    return abs(estimates.mean() - truth) < errors * estimates.std(ddof=1) / np.sqrt(len(estimates))


def test_ips_and_dr_are_unbiased_and_dr_doubly_so():
    x, action, reward, w, target, mean, truth = simulated(4000, 40, seed=1)
    wrong = 0.5 + 0.3 * np.sin(np.arange(9.0)).reshape(3, 3)  # a reward model that is off everywhere

    def dr(w: np.ndarray, q: np.ndarray) -> np.ndarray:
        return (target[x] * q[x]).sum(-1).mean(-1) + (w * (reward - q[x, action])).mean(-1)

    assert within((w * reward).mean(-1), truth)
    assert within(dr(w, wrong), truth)
    spoilt = simulated(4000, 40, seed=1, spoil=0.7)[3]
    assert not within((spoilt * reward).mean(-1), truth)  # wrong propensities: IPS is biased
    assert within(dr(spoilt, mean), truth)  # but DR is not, with the right reward model
    assert not within(dr(spoilt, wrong), truth)  # with both wrong it is
    assert dr(w, mean).std() < (w * reward).mean(-1).std()
    first = dr_terms(reward[0], w[0], target[x[0]], wrong[x[0]], action[0])
    assert first.mean() == pytest.approx(dr(w, wrong)[0])  # the formula above is the module's


def test_ips_is_unbiased_exactly_over_all_logs_of_two_rows():
    logger, target, reward = np.array([0.7, 0.3]), np.array([0.2, 0.8]), np.array([1.0, 3.0])
    expectation = sum(
        logger[a] * logger[b] * (target[a] / logger[a] * reward[a] + target[b] / logger[b] * reward[b]) / 2
        for a, b in product(range(2), repeat=2)
    )
    assert expectation == pytest.approx(target @ reward)


def test_intervals_cover_and_snips_has_the_right_width():
    x, action, reward, w, target, mean, truth = simulated(600, 300, seed=2)
    covered = {"ips": 0, "snips": 0, "dr": 0}
    values, widths = [], []
    for i in range(600):
        terms = {
            "ips": off_policy.ips_terms(reward[i], w[i]),
            "snips": off_policy.snips_terms(reward[i], w[i]),
            "dr": dr_terms(reward[i], w[i], target[x[i]], mean[x[i]], action[i]),
        }
        for name, each in terms.items():
            found = terms_interval(each)
            covered[name] += found.low <= truth <= found.high
            if name == "snips":
                values.append(found.value)
                widths.append(found.high - found.low)
    error = np.sqrt(0.95 * 0.05 / 600)
    assert all(abs(count / 600 - 0.95) < 4 * error for count in covered.values()), covered
    assert np.mean(widths) / (2 * 1.96) == pytest.approx(np.std(values), rel=0.12)


def test_bootstrap_intervals_are_those_of_the_statistics_module():
    terms = np.random.default_rng(0).exponential(size=80)
    assert terms_interval(terms, "bootstrap", seed=3) == mean_interval(terms, seed=3)
    normal = terms_interval(terms)
    assert normal.low < terms_interval(terms, "bootstrap").low < normal.value  # skewed to the right
    assert terms_interval(terms, level=0.5).high < normal.high
    assert terms_interval(np.ones(1)).low == -np.inf


# --- the reward model -----------------------------------------------------------------------------------------------


@given(st.integers(2, 60), st.integers(2, 9), st.integers(0, 5))
def test_folds_partition_the_rows_evenly(n, k, seed):
    if k > n:
        with pytest.raises(ConfigError, match="cannot be split"):
            folds(n, k, seed)
        return
    sizes = np.bincount(folds(n, k, seed), minlength=k)
    assert sizes.sum() == n and sizes.max() - sizes.min() <= 1


def test_cross_fitting_never_predicts_a_row_from_itself():
    """Fails if rows are predicted by a model that has seen them: pure noise would then look predictable."""
    rng = np.random.default_rng(0)
    n, d = 300, 80  # enough features to follow noise
    log = BanditLog.from_arrays(rng.normal(size=(n, d)), rng.integers(0, 2, n), rng.normal(size=n), actions=(0, 1))
    taken = (np.arange(n), log.action)
    held_out = np.corrcoef(cross_fitted(log, LinearRidge(), 5)[taken], log.reward)[0, 1]
    seen = LinearRidge().fit(log.context, log.action, log.reward, n_actions=2).predict(log.context)[taken]
    assert abs(held_out) < 4 / np.sqrt(n)
    assert np.corrcoef(seen, log.reward)[0, 1] > 0.6
    with pytest.raises(ConfigError, match="300 rows cannot be split into 1 folds"):
        cross_fitted(log, LinearRidge(), 1)


def test_cross_fitted_boosting_makes_dr_narrower_than_ips():
    rng = np.random.default_rng(1)
    n = 3000
    x = rng.normal(size=(n, 2))
    mean = 5.0 + np.stack([x[:, 0], -x[:, 0], x[:, 1]], 1)
    action = rng.integers(0, 3, n)
    reward = mean[np.arange(n), action] + 0.1 * rng.normal(size=n)
    log = BanditLog.from_arrays(x, action, reward, propensity=np.full(n, 1 / 3), actions=range(3))
    target = np.eye(3)[mean.argmax(1)]
    found = evaluate_off_policy(log, target, q=cross_fitted(log, oracle("boosting", 60)))
    truth = mean.max(1).mean()
    width = {name: x.high - x.low for name, x in found.values.items()}
    assert width["dr"] < 0.3 * width["ips"]
    assert found.values["dr"].low < truth < found.values["dr"].high
    assert found.gains["dr"].low > 0.5  # better than choosing at random


# --- overlap --------------------------------------------------------------------------------------------------------


def uniform_log(n=1000, K=4, seed=0, **fields) -> BanditLog:
    rng = np.random.default_rng(seed)
    arrays = {"action": rng.integers(0, K, n), "reward": rng.random(n), "propensity": np.full(n, 1 / K)} | fields
    return BanditLog.from_arrays(np.zeros((n, 1)), arrays.pop("action"), arrays.pop("reward"), actions=range(K), **arrays)


def always(k, n=1000, K=4) -> np.ndarray:
    return np.eye(K)[np.full(n, k)]


def test_a_log_of_a_random_logger_needs_no_warning():
    found = evaluate_off_policy(uniform_log(), always(2))
    assert found.overlap.warnings == ()
    assert found.overlap.ess == pytest.approx(np.sum(uniform_log().action == 2))
    assert found.overlap.smallest_propensity == 0.25
    assert found.overlap.unsupported == 0.0


def test_a_deterministic_logger_has_no_support():
    log = uniform_log(action=np.arange(1000) % 4, propensity=np.ones(1000))
    found = evaluate_off_policy(log, np.full((1000, 4), 0.25))
    assert found.overlap.deterministic == 1.0
    assert found.overlap.unsupported == pytest.approx(0.75)
    assert "never chose at random" in found.overlap.warnings[0]
    assert "reward model alone" in found.overlap.warnings[0]
    half = uniform_log(propensity=np.where(np.arange(1000) < 500, 1.0, 0.25))
    assert "in 50.0% of the rows the logger did not choose at random" in evaluate_off_policy(half, always(0)).overlap.warnings[0]
    lone = np.eye(4, dtype=bool)[np.arange(1000) % 4]  # where only one action is available, propensity 1 is no sign
    forced = uniform_log(action=np.arange(1000) % 4, propensity=np.ones(1000), available=lone)
    assert evaluate_off_policy(forced, lone.astype(float)).overlap.warnings == ()


def test_actions_that_were_never_logged():
    log = uniform_log(action=np.arange(1000) % 3, propensity=np.full(1000, 1 / 3))
    found = evaluate_off_policy(log, 0.8 * always(3) + 0.2 * always(0))
    assert found.overlap.unsupported == pytest.approx(0.8)
    assert any("never logged: 3 (80.0%)" in sentence for sentence in found.overlap.warnings)
    nothing = evaluate_off_policy(log, always(3), q=np.full((1000, 4), 0.5))
    assert set(nothing.values) == {"ips", "dm", "dr"}  # 0 / 0 is no SNIPS
    assert nothing.overlap.ess == 0.0
    assert "not one row" in nothing.overlap.warnings[-1]


def test_weak_weights_heavy_rows_and_wrong_propensities_are_said():
    p = np.full(1000, 0.25)
    few = evaluate_off_policy(uniform_log(n=100, propensity=np.full(100, 0.25)), always(1, 100)).overlap.warnings
    assert any("the 100 rows count as" in sentence for sentence in few)
    p[np.argmax(uniform_log().action == 1)] = 0.0001
    heavy = evaluate_off_policy(uniform_log(propensity=p), always(1)).overlap
    assert any("one row carries" in sentence for sentence in heavy.warnings)
    assert any("as low as 0.0001" in sentence for sentence in heavy.warnings)
    assert heavy.largest_weight == pytest.approx(10_000.0)
    wrong = evaluate_off_policy(uniform_log(propensity=np.full(1000, 0.5)), always(1)).overlap
    assert wrong.mean_weight == pytest.approx(0.5, abs=0.06)
    assert any("right propensities give 1" in sentence for sentence in wrong.warnings)


# --- fitted propensities --------------------------------------------------------------------------------------------


def logged_by(kind: str, n=3000, K=4, seed=0) -> tuple[BanditLog, np.ndarray]:
    """A log without propensities, and the logger that made it `[n, K]`."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 4))
    available = rng.random((n, K)) < 0.8
    available[np.arange(n), rng.integers(0, K, n)] = True
    scores = 0.6 * x @ rng.normal(size=(4, K))
    if kind == "epsilon-greedy":
        p = epsilon_greedy(scores, available, 0.2)
    else:
        tilt = {"uniform": 0 * scores, "shares": np.broadcast_to(np.linspace(0.0, 1.5, K), (n, K)), "linear": scores}[kind]
        p = np.where(available, np.exp(tilt), 0.0)
        p /= p.sum(1, keepdims=True)
    action = drawn(p, rng)
    mean = 1.0 / (1.0 + np.exp(-scores[:, ::-1]))
    return BanditLog.from_arrays(x, action, (rng.random(n) < mean[np.arange(n), action]) * 1.0, available=available, actions=range(K)), p


@pytest.mark.parametrize(
    ("kind", "model", "off"),
    [("uniform", "uniform", 1e-12), ("shares", "shares", 0.02), ("linear", "linear", 0.03), ("epsilon-greedy", "linear, isotonic", 0.07)],
)
def test_the_logger_is_found_and_calibrated(kind, model, off):
    log, p = logged_by(kind)
    with_them, fitted = with_propensities(log)
    assert fitted.models == {0: model}
    assert np.abs(fitted.pmf - p).mean() < off
    assert fitted.calibration < 0.035
    assert fitted.log_loss <= fitted.uniform_log_loss + 1e-12
    assert np.allclose(fitted.pmf.sum(1), 1.0)
    assert not fitted.pmf[~log.available].any() and (fitted.pmf[log.available] > 0.0).all()
    assert np.array_equal(with_them.propensity, np.take_along_axis(fitted.pmf, log.action[:, None], 1)[:, 0])
    assert "pmf" not in fitted.to_json()


def test_estimates_with_fitted_propensities_are_near_those_with_true_ones():
    """Fails with the propensities of a uniform choice in place of fitted ones."""
    log, p = logged_by("linear", n=6000)
    taken = np.arange(len(log)), log.action
    target = epsilon_greedy(log.context @ np.ones((4, 4)) + np.arange(4.0), log.available, 0.3)
    fitted_log, fitted = with_propensities(log)
    true = evaluate_off_policy(replace(log, propensity=p[taken]), target).values["snips"]
    ours = evaluate_off_policy(fitted_log, target, logger=fitted.pmf)
    blind = evaluate_off_policy(replace(log, propensity=1.0 / log.available.sum(1)), target).values["snips"]
    assert abs(ours.values["snips"].value - true.value) < 0.015
    assert abs(blind.value - true.value) > 0.03
    assert ours.overlap.mean_weight == pytest.approx(1.0, abs=0.05)


def test_each_generation_is_a_logger_of_its_own():
    first, second = logged_by("uniform")[0], logged_by("linear")[0]
    both = replace(
        first,
        context=np.concatenate([first.context, second.context]),
        action=np.concatenate([first.action, second.action]),
        reward=np.concatenate([first.reward, second.reward]),
        available=np.concatenate([first.available, second.available]),
        generation=np.repeat([3, 7], 3000),
    )
    assert fit_propensities(both).models == {3: "uniform", 7: "linear"}
    small = both.rows(np.r_[0:400, 3000:3400])  # too few of each: one fit, which sees the generation
    assert set(fit_propensities(small).models) == {-1}


def test_a_logger_without_choice_is_seen_in_fitted_propensities():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2000, 1))
    log = BanditLog.from_arrays(x, (x[:, 0] > 0).astype(int), rng.random(2000))
    log, fitted = with_propensities(log)
    found = evaluate_off_policy(log, np.eye(2)[np.zeros(2000, int)], logger=fitted.pmf)
    assert found.overlap.deterministic > 0.9
    assert found.overlap.unsupported > 0.3
    assert any("at random" in sentence for sentence in found.overlap.warnings)


def test_the_conditional_logit_is_that_of_statsmodels():
    """Without penalties worth mentioning, and with all actions available, it is multinomial logistic regression."""
    sm = pytest.importorskip("statsmodels.api")
    log, _ = logged_by("linear", n=4000, K=3)
    everything = np.ones((4000, 3), bool)
    logp = fit_linear(log.context, everything, log.action)(log.context, everything)
    theirs = sm.MNLogit(log.action, sm.add_constant(log.context)).fit(disp=0).predict()
    assert np.abs(np.exp(logp) - theirs).max() < 0.01
    assert np.allclose(np.exp(fit_uniform(log.context, everything, log.action)(log.context, everything)), 1 / 3)


def test_calibration_error_by_hand():
    pmf = np.array([[0.8, 0.2]] * 10)
    assert calibration_error(pmf, np.array([0] * 8 + [1] * 2), np.ones((10, 2), bool), bins=2) == pytest.approx(0.0)
    assert calibration_error(pmf, np.zeros(10, int), np.ones((10, 2), bool), bins=2) == pytest.approx(0.2)


def test_few_rows_and_lone_actions():
    with pytest.raises(DataError, match="has 20 rows: propensities can be fitted from 30 on"):
        fit_propensities(uniform_log(n=20, propensity=None))
    name, p = best_model(np.empty((60, 0)), np.ones((60, 2), bool), np.zeros(60, int), 3, 0)  # nothing to learn from, one action alone
    assert p[:, 0].min() > 0.95 and name in ("shares", "linear", "trees")


# --- what is refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "words"),
    [
        (np.full((1000, 3), 1 / 3), r"the policy has shape \[1000, 3\], but the log has 1000 rows and 4 actions"),
        (np.full((1000, 4), 0.3), r"sum to 1\.2 in row 0"),
        (np.where(np.arange(4) == 1, -0.5, 0.5) + np.zeros((1000, 4)), r"action 1 the probability -0\.5 in row 0"),
        (np.full((1000, 4), np.nan), "action 0 the probability nan in row 0"),
    ],
)
def test_targets_that_are_no_policies(target, words):
    with pytest.raises(PolicyError, match=words):
        evaluate_off_policy(uniform_log(), target)


def test_other_refusals():
    log = uniform_log()
    available = np.ones((1000, 4), bool)
    available[5] = [True, False, False, False]
    masked = uniform_log(action=np.zeros(1000, int), available=available)
    with pytest.raises(PolicyError, match="action 2 the probability 1 in row 5, where it is not available"):
        evaluate_off_policy(masked, always(2))
    with pytest.raises(ConfigError, match="holds no propensities: fit them first"):
        evaluate_off_policy(replace(log, propensity=None), always(0))
    with pytest.raises(ConfigError, match=r"clip is 0\.0"):
        evaluate_off_policy(log, always(0), clip=0.0)
    with pytest.raises(ConfigError, match=r"predicted rewards have shape \[1000, 3\]"):
        evaluate_off_policy(log, always(0), q=np.zeros((1000, 3)))
    with pytest.raises(ConfigError, match="'normal' or 'bootstrap'"):
        evaluate_off_policy(log, always(0), spread="wide")
    with pytest.raises(ConfigError, match=r"level is 1\.5"):
        terms_interval(np.ones(3), level=1.5)
