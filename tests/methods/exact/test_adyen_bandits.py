"""The production loop: what it learns from and when, its diagnostics, the policies it compares; and that gaps are what makes IGW cheap."""

import math

import numpy as np
import pytest

from surefoot.claims.adyen_bandits import CLAIM, lag_one
from surefoot.claims.base import Context, holds
from surefoot.data.bandit_log import BanditLog
from surefoot.envs.bandits import Payments, classification
from surefoot.errors import ConfigError, DataError
from surefoot.evaluation.off_policy import evaluate_off_policy
from surefoot.methods.exact import exploration
from surefoot.methods.exact.adyen_bandits import calibration_error, deploy, in_batches, learn, log_quality, replay, simulate
from surefoot.methods.exact.exploration import Explorer, inverse_gap
from surefoot.methods.exact.regression_oracles import Constant, oracle

RIDGE = oracle("ridge")
WORLD = Payments.drawn(1)


class Recorder:
    """An oracle that notes which generations it was given, by the marks in their contexts, and predicts a constant."""

    def __init__(self):
        self.given, self.weights, self.seeds = [], [], []

    def fit(self, context, action, reward, weights=None, *, n_actions, action_features=None, seed=0):
        self.given.append(len(context))
        self.weights.append(weights)
        self.seeds.append(seed)
        return Constant(0.5, n_actions)


def small(policy, generations=3, **settings):
    return simulate(WORLD, policy, settings.pop("oracle", RIDGE), generations, settings.pop("batch", 300), holdout=500, **settings)


# --- the loop ---------------------------------------------------------------------------------------------------------


def test_the_log_is_what_was_played():
    run = small(Explorer("igw", gamma=50.0), seed=4)
    log = run.log
    assert len(log) == 4 * 300 and log.K == 6 and log.d == 8
    np.testing.assert_array_equal(np.bincount(log.generation), [300] * 4)
    start = log.generation == 0  # uniform among what was available
    np.testing.assert_allclose(log.propensity[start], 1.0 / log.available[start].sum(1))
    for g in (1, 2, 3):  # later: the policy's probability under the model that learned from the generation before
        rows = np.flatnonzero(log.generation == g)
        p = inverse_gap(run.models[g - 1].predict(log.context[rows]), log.available[rows], 50.0)
        np.testing.assert_allclose(log.propensity[rows], p[np.arange(300), log.action[rows]])


def test_models_learn_from_their_window_alone():
    for window, expected in ((1, [300] * 4), (2, [300, 600, 600, 600]), (None, [300, 600, 900, 1200])):
        recorder = Recorder()
        run = small(Explorer("igw"), window=window, oracle=recorder)
        assert recorder.given == expected
        assert [row.learned for row in run.diagnostics] == [0, *expected[:-1]]
        assert recorder.weights == [None] * 4 and len(set(recorder.seeds)) == 4


def test_plain_models_are_fits_of_the_window():
    run = small(Explorer("igw"), window=2, seed=2)
    rows = run.log.rows(run.log.generation >= 2)
    np.testing.assert_allclose(learn(RIDGE, rows).theta, run.models[3].theta)


def test_delay_keeps_the_uniform_policy_until_rewards_come():
    prompt, late = (small(Explorer("greedy"), delay=delay, seed=3) for delay in (0, 2))
    assert [row.learned for row in late.diagnostics] == [0, 0, 0, 300]
    assert [row.non_greedy for row in late.diagnostics] == [None, None, None, 0.0]
    np.testing.assert_allclose([row.ess for row in late.diagnostics[:3]], 1.0)
    rows = late.log.generation == 3  # played by the model of generation 0
    best = exploration.best_action(late.models[0].predict(late.log.context[rows]), late.log.available[rows])
    np.testing.assert_array_equal(late.log.action[rows], best)
    assert [row.learned for row in prompt.diagnostics] == [0, 300, 300, 300]


def test_a_production_log_can_be_the_first():
    rng = np.random.default_rng(0)
    rounds = WORLD.rounds(200, rng)
    action = rounds.available.argmax(1)  # the rule: the first route that there is
    reward = (rng.random(200) < 0.7).astype(float)
    names = {"actions": WORLD.actions, "features": WORLD.features}
    first = BanditLog(rounds.context, action, reward, rounds.available, np.ones(200), np.zeros(200, int), **names)
    run = small(Explorer("igw"), first=first)
    assert len(run.log) == 200 + 3 * 300 and run.diagnostics[0].mean_reward == first.reward.mean()
    np.testing.assert_array_equal(run.log.action[:200], action)
    assert run.diagnostics[1].learned == 200


def test_one_seed_gives_one_run_and_policies_share_contexts():
    a, b = (small(Explorer("igw"), seed=7) for _ in range(2))
    np.testing.assert_array_equal(a.log.action, b.log.action)
    assert a.diagnostics == b.diagnostics
    other = small(Explorer("uniform"), seed=7)
    np.testing.assert_array_equal(a.log.context, other.log.context)
    np.testing.assert_array_equal(a.log.available, other.log.available)
    assert (small(Explorer("igw"), seed=8).log.context != a.log.context).any()


def test_greedy_is_igw_with_a_large_gamma():
    greedy, igw = (small(Explorer(**settings), seed=5) for settings in ({"kind": "greedy"}, {"gamma": 1e12}))
    np.testing.assert_array_equal(greedy.log.action, igw.log.action)


def test_corrections_can_be_switched_on():
    recorder = Recorder()
    run = small(Explorer("epsilon-greedy", epsilon=0.05), oracle=recorder, weight_cap=20.0)
    np.testing.assert_allclose(recorder.weights[2], np.minimum(1.0 / run.log.propensity[run.log.generation == 2], 20.0))
    assert recorder.weights[2].max() == 20.0
    floored = small(Explorer("greedy", floor=0.12)).log
    k = floored.available.sum(1)
    assert (floored.propensity >= 0.12 / k - 1e-12).all()


def test_elimination_explores_among_what_may_be_best():
    run = small(Explorer("igw", gamma=1.0, mellowness=0.05), seed=1, batch=2000)
    log, last = run.log, run.log.generation == 3
    scores, width = run.models[2].predict(log.context[last]), run.models[2].half_width(log.context[last], 0.05)
    kept = exploration.survivors(scores - width, scores + width, log.available[last])
    assert kept[np.arange(2000), log.action[last]].all() and kept.sum() < log.available[last].sum()


# --- diagnostics ------------------------------------------------------------------------------------------------------


def test_diagnostics_by_hand():
    available = np.array([[True, True, False], [True, True, True], [True, True, True]])
    p = np.array([[0.8, 0.2, 0.0], [0.5, 0.25, 0.25], [0.1, 0.1, 0.8]])
    log = BanditLog.from_arrays(
        np.zeros((3, 1)), np.array([0, 1, 2]), np.array([1.0, 0.0, 1.0]), propensity=p[[0, 1, 2], [0, 1, 2]], available=available
    )
    scores = np.array([[0.9, 0.1, 5.0], [0.2, 0.3, 0.1], [0.1, 0.2, 0.6]])
    made = log_quality(log, p, scores)
    assert made["mean_reward"] == made["positive_rate"] == pytest.approx(2 / 3)
    assert made["non_greedy"] == pytest.approx((0.2 + 0.75 + 0.2) / 3)
    w = np.array([1 / (2 * 0.8), 1 / (3 * 0.25), 1 / (3 * 0.8)])
    assert made["ess"] == pytest.approx(w.sum() ** 2 / (w**2).sum() / 3)
    assert made["entropy"] == pytest.approx(-sum(x * math.log(x) for x in p.ravel() if x > 0) / 3)
    assert made["calibration_error"] == pytest.approx((0.1 + 0.3 + 0.4) / 3)


def test_calibration_error():
    predicted = np.repeat([0.1, 0.6], 500)
    actual = np.concatenate([np.repeat([1.0, 0.0], [100, 400]), np.repeat([1.0, 0.0], [300, 200])])
    assert calibration_error(predicted, actual, bins=2) == pytest.approx(0.05)
    assert calibration_error(actual, actual) == 0.0


def test_expected_reward_is_the_mean_of_what_is_logged():
    run = small(Explorer("igw"), batch=20_000, generations=1)
    for row in run.diagnostics:
        assert row.expected_reward is not None
        assert abs(row.mean_reward - row.expected_reward) < 4 * 0.5 / math.sqrt(20_000)
    assert 0.9 < run.values[-1] <= 1.0 and run.best_value < 1.0


# --- what the paper is about ------------------------------------------------------------------------------------------


def gain_over_epsilon(seeds=8):
    """IGW minus epsilon-greedy 0.1 at equal exploration, expected reward of generation 1, by seed."""
    gains = []
    for seed in range(seeds):
        world = Payments.drawn(100 + seed)
        start, _ = deploy(world, None, Explorer("uniform"), 0, 0, 2000, seed)
        model = learn(RIDGE, start)
        _, eps = deploy(world, model, Explorer("epsilon-greedy", epsilon=0.1), 2000, 1, 2000, seed)
        _, igw = deploy(world, model, Explorer("igw", mass=eps["non_greedy"]), 2000, 1, 2000, seed)
        assert igw["non_greedy"] == pytest.approx(eps["non_greedy"])
        gains.append(igw["expected_reward"] - eps["expected_reward"])
    return np.array(gains)


def earns_more(gains):
    return gains.mean() > 4 * gains.std(ddof=1) / math.sqrt(len(gains))


def test_inverse_gaps_earn_more_at_equal_exploration(monkeypatch):
    """The learning test; its key term is the gap. With every gap the same, IGW is epsilon-greedy, and the gain is gone."""
    assert earns_more(gain_over_epsilon())

    def without_gaps(scores, available=None, gamma=100.0):
        flat = exploration.greedy(scores, available)
        return inverse_gap(flat if available is None else np.where(available, flat, np.nan), available, gamma)

    monkeypatch.setitem(exploration.RULES, "igw", without_gaps)
    assert not earns_more(gain_over_epsilon())


def test_the_next_model_is_worse_after_greedy_logs_and_a_longer_window_helps():
    value, start = {"window 1": [], "window 2": []}, []
    for seed in range(12):
        world = Payments.drawn(200 + seed)
        for window in (1, 2):
            run = simulate(world, Explorer("greedy"), oracle("boosting", 30), 1, 1000, seed=seed, window=window, holdout=2000)
            value[f"window {window}"].append(run.values[1])
        start.append(run.values[0])
    loss, repair = np.subtract(start, value["window 1"]), np.subtract(value["window 2"], value["window 1"])
    for difference in (loss, repair):
        assert difference.mean() > 3 * difference.std(ddof=1) / math.sqrt(12)


def test_bundled_data_are_learned():
    run = simulate(classification("digits"), Explorer("igw"), oracle("logistic"), 2, 2500, window=None, holdout=1000)
    assert run.diagnostics[0].mean_reward < 0.15 and run.diagnostics[2].mean_reward > 0.7


# --- along a log ------------------------------------------------------------------------------------------------------


def test_replay_judges_rows_that_its_models_never_saw():
    log = small(Explorer("uniform"), batch=500).log
    played = replay(log, Explorer("igw", gamma=40.0), RIDGE)
    np.testing.assert_array_equal(played.log.generation, np.repeat([1, 2, 3], 500))
    for g in (1, 2, 3):
        rows, before = played.log.generation == g, log.rows(log.generation == g - 1)
        scores = learn(RIDGE, before).predict(played.log.context[rows])
        np.testing.assert_allclose(played.scores[rows], scores)
        np.testing.assert_allclose(played.probabilities[rows], inverse_gap(scores, played.log.available[rows], 40.0))
    assert [row.learned for row in played.diagnostics] == [500] * 3
    assert [row.generation for row in replay(log, Explorer("igw"), RIDGE, delay=1, window=None).diagnostics] == [2, 3]


def test_replay_estimates_what_the_policy_earns_in_the_world():
    policy = Explorer("igw", gamma=100.0)
    log = simulate(WORLD, Explorer("uniform"), RIDGE, 1, 20_000, holdout=10).log
    played = replay(log, policy, RIDGE)
    estimate = evaluate_off_policy(played.log, played.probabilities, q=played.scores).values["dr"]
    _, made = deploy(WORLD, learn(RIDGE, log.rows(log.generation == 0)), policy, 20_000, 5, 50_000, 9)
    assert abs(estimate.value - made["expected_reward"]) < 2.2 * (estimate.high - estimate.low) / 2 + 0.002


def test_a_log_can_be_cut_into_batches():
    log = small(Explorer("uniform"), generations=1).log
    np.testing.assert_array_equal(np.bincount(in_batches(log, 250).generation), [250, 350])
    with pytest.raises(ConfigError, match="batch is 601: simulation has 600 rows"):
        in_batches(log, 601)


def test_replay_of_a_log_without_propensities():
    log = small(Explorer("uniform")).log
    bare = BanditLog(log.context, log.action, log.reward, log.available, None, log.generation, log.actions)
    with_p, without = replay(log, Explorer("igw"), RIDGE), replay(bare, Explorer("igw"), RIDGE)
    np.testing.assert_array_equal(with_p.probabilities, without.probabilities)
    assert all(row.ess is None for row in without.diagnostics) and all(row.ess == pytest.approx(1.0) for row in with_p.diagnostics)
    with pytest.raises(ConfigError, match="holds no propensities, which importance weights need"):
        replay(bare, Explorer("igw"), RIDGE, weight_cap=20.0)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: small(Explorer(), generations=0), ConfigError, "generations is 0"),
        (lambda: small(Explorer(), batch=0), ConfigError, "batch is 0"),
        (lambda: small(Explorer(), window=0), ConfigError, "window is 0"),
        (lambda: small(Explorer(), delay=-1), ConfigError, "delay is -1"),
        (lambda: small(Explorer(), weight_cap=0.5), ConfigError, "weight_cap is 0.5: weights 1 / p are at least 1"),
        (lambda: small(Explorer(mellowness=0.1), oracle=oracle("logistic")), ConfigError, "only the oracle 'ridge' knows bounds"),
        (
            lambda: replay(small(Explorer()).log.rows(np.arange(300)), Explorer(), RIDGE),
            DataError,
            "simulation holds 1 generation: retraining with delay 0 needs at least 2; give a time or generation column",
        ),
    ],
)
def test_mistakes_are_named(call, error, message):
    with pytest.raises(error, match=message):
        call()


# --- the claim --------------------------------------------------------------------------------------------------------


def scores(igw_reward=0.81, igw_value=0.79, igw_positive=0.82):
    """Scores of four seeds as the claim's experiment returns them."""

    def arm(value):
        return {str(seed): value + 0.001 * (seed % 2) + 0.0001 * seed * value for seed in range(4)}

    found = {"reward": {"uniform": arm(0.7)}, "value": {"M1": arm(0.815)}, "positive rate": {"uniform": arm(0.7)}, "corrected": {}}
    for eps in ("0.1", "0.3"):
        found["reward"] |= {f"epsilon {eps}": arm(0.8), f"igw {eps}": arm(igw_reward)}
        found["value"] |= {f"epsilon {eps}": arm(0.8), f"igw {eps}": arm(igw_value)}
        found["positive rate"] |= {f"igw {eps}": arm(igw_positive)}
        found["corrected"] |= {f"igw {eps}, two batches": arm(0.82), f"igw {eps}, weights": arm(0.78)}
    return found


@pytest.mark.parametrize(
    ("changes", "verdict"), [({}, True), ({"igw_reward": 0.79}, False), ({"igw_value": 0.83}, False), ({"igw_positive": 0.6}, False)]
)
def test_the_claims_verdict(changes, verdict):
    assert holds(CLAIM.checks(scores(**changes))) == verdict


def test_the_claim_runs_on_a_log_of_ones_own(tmp_path, monkeypatch):
    from surefoot.claims import adyen_bandits as claim
    from surefoot.data.bandit_files import write_bandit_log

    write_bandit_log(simulate(WORLD, Explorer("uniform"), RIDGE, 3, 600, holdout=10).log, tmp_path / "payments.parquet")
    monkeypatch.setattr(claim, "BATCH", 200)
    monkeypatch.setattr(claim, "HELD_OUT", 200)
    monkeypatch.setattr(claim, "oracle", lambda name: RIDGE)
    found = CLAIM.run(Context(seeds=[900, 901], scale="full", data=str(tmp_path / "payments.parquet")))
    assert set(found["logged reward"]) == set(found["reward"]) and set(found["value"]["M1"]) == {"900", "901"}
    assert len(CLAIM.checks(found)) == 16
    with pytest.raises(DataError, match="2400 rows: the full scale needs 1000 a seed"):
        CLAIM.run(Context(seeds=[900, 901, 902], scale="full", data=str(tmp_path / "payments.parquet")))
    with pytest.raises(ConfigError, match="give --data"):
        CLAIM.run(Context(seeds=[900], scale="full"))


def test_lag_one():
    assert lag_one(np.array([0.0, 1.0, 0.0, 1.0, 0.0])) == pytest.approx(-1.0)
