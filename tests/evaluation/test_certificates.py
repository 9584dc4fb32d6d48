"""Return certificates: the card's oracles, parity with scipy and statsmodels, coverage, and the limits of Eq. (1)."""

import json
from dataclasses import FrozenInstanceError

import gymnasium as gym
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.proportion import proportion_confint

from surefoot.data.spec import Continuous, Discrete, Spec
from surefoot.errors import ConfigError, DataError, PolicyError
from surefoot.evaluation import certificates
from surefoot.evaluation.certificates import (
    certified_return,
    certified_return_per_step,
    certify,
    check_episodes,
    clopper_pearson_lower,
    dkw_epsilon,
    gaussian_shift,
    return_range,
    shifted_expectation,
)
from surefoot.evaluation.recording import record
from surefoot.evaluation.rollouts import rollout
from surefoot.policies.families import Categorical, Deterministic
from surefoot.steering.smoothed import Smoothed

torch.set_num_threads(1)

RETURNS = np.repeat([10.0, 7.0, 3.0], [70, 20, 10])
BUDGETS = [0.0, 0.1, 0.2, 0.4]


@pytest.mark.parametrize(("p", "budget", "kept"), [(0.9, 0.2, 0.610856), (0.9, 0.1, 0.782761), (0.5, 0.2, 0.158655), (0.99, 0.4, 0.627919)])
def test_gaussian_shift_oracle(p, budget, kept):
    assert gaussian_shift(p, budget, 0.2) == pytest.approx(kept, abs=1e-6)


def test_endpoints_stay():
    assert gaussian_shift([0.0, 1.0], 3.0, 0.2).tolist() == [0.0, 1.0]


@pytest.mark.parametrize(
    ("k", "n", "level", "lower"), [(9900, 10000, 0.05 / 200, 0.986055), (10000, 10000, 0.05 / 200, 0.999171), (90, 100, 0.05, 0.836282)]
)
def test_clopper_pearson_oracle_and_libraries(k, n, level, lower):
    ours = clopper_pearson_lower(k, n, level)
    assert ours == pytest.approx(lower, abs=1e-6)
    assert ours == pytest.approx(proportion_confint(k, n, alpha=2 * level, method="beta")[0], rel=1e-12)
    assert ours == pytest.approx(stats.binomtest(k, n).proportion_ci(1 - 2 * level, method="exact").low, rel=1e-9)


def test_clopper_pearson_limits():
    assert clopper_pearson_lower(0, 50, 0.05) == 0.0
    assert clopper_pearson_lower(10000, 10000, 0.05 / 200) == pytest.approx((0.05 / 200) ** (1 / 10000))


def test_dkw_oracle():
    assert dkw_epsilon(10000, 0.05) == pytest.approx(0.013581, abs=1e-6)


@pytest.mark.parametrize(
    ("bound", "expected"), [("clopper", [7.745533, 6.253768, 4.557720, 1.656235]), ("dkw", [7.341898, 5.627190, 3.780123, 1.051640])]
)
def test_whole_certificate_oracle(bound, expected):
    lower = certified_return(RETURNS, BUDGETS, 0.2, bound=bound, r_min=0, r_max=10)
    np.testing.assert_allclose(lower, expected, atol=1e-6)


def test_plug_in_oracle_and_limit_of_many_episodes():
    expected = [8.7, 7.660244, 6.394965, 4.155039]
    plug_in = shifted_expectation(np.array([0.0, 3.0, 7.0, 10.0]), np.array([1.0, 0.9, 0.7]), BUDGETS, 0.2)
    np.testing.assert_allclose(plug_in, expected, atol=1e-6)
    uncertain = shifted_expectation(np.array([3.0, 7.0, 10.0]), np.array([0.9, 0.7]), BUDGETS, 0.2)
    many = np.tile(RETURNS, 20_000)
    for bound in ("clopper", "dkw"):  # from r_min = 3: a survival of 1 is never certain from data, and its limit is logarithmic
        lower = certified_return(many, BUDGETS, 0.2, bound=bound, r_min=3, r_max=10)
        assert (lower <= uncertain).all()
        np.testing.assert_allclose(lower, uncertain, atol=0.03)


def test_tightness_oracle():
    """One step, reward 1 iff w.(o + noise) <= c: the attack along w attains the bound."""
    clean = stats.norm.cdf(0.6 / 0.5)
    assert clean == pytest.approx(0.884930, abs=1e-6)
    assert gaussian_shift(clean, 0.4, 0.5) == pytest.approx(stats.norm.cdf(0.4), abs=1e-12)
    assert gaussian_shift(clean, 0.4, 0.5) == pytest.approx(0.655422, abs=1e-6)


def test_huge_sigma_forgets_the_budget():
    lower = certified_return(RETURNS, BUDGETS, 1e12, r_min=0, r_max=10)
    np.testing.assert_allclose(lower, lower[0], rtol=1e-9)


def test_explicit_r_min_shifts_the_bound():
    for bound in ("clopper", "dkw"):
        plain = certified_return(RETURNS, BUDGETS, 0.2, bound=bound, r_min=0, r_max=10)
        shifted = certified_return(RETURNS - 25, BUDGETS, 0.2, bound=bound, r_min=-25, r_max=-15)
        np.testing.assert_allclose(shifted, plain - 25, atol=1e-9)


def test_won_or_lost_game_is_one_threshold():
    outcome = np.repeat([1.0, -1.0], [90, 10])
    lower = certified_return(outcome, BUDGETS, 0.2, r_min=-1, grid=(-1, 1))
    expected = -1 + 2 * gaussian_shift(clopper_pearson_lower(90, 100, 0.05), BUDGETS, 0.2)
    np.testing.assert_allclose(lower, expected)


def test_returns_between_grid_points_count_as_the_lower_one():
    grid = np.arange(0.0, 11.0)
    between = certified_return(RETURNS + 0.75, BUDGETS, 0.2, r_min=0, r_max=11, grid=grid)
    np.testing.assert_allclose(between, certified_return(RETURNS, BUDGETS, 0.2, r_min=0, r_max=11, grid=grid))


def test_per_step_variant():
    rewards = np.ones((10_000, 3))
    q = 0.05 / 3
    q = q ** (1 / 10_000)
    expected = sum(gaussian_shift(q, np.sqrt(t) * 0.1, 0.2) for t in (1, 2, 3))
    assert certified_return_per_step(rewards, 0.1, 0.2)[0] == pytest.approx(float(expected))
    at_zero = certified_return_per_step(rewards, 0.0, 0.2)[0]
    assert at_zero == pytest.approx(3 * q)
    assert certified_return_per_step(np.zeros((9, 3)), 0.1, 0.2)[0] == 0.0


@given(
    st.lists(st.integers(-3, 9), min_size=1, max_size=40),
    st.floats(0.01, 10.0),
    st.floats(0.0, 5.0),
    st.floats(0.0, 5.0),
    st.sampled_from(["clopper", "dkw"]),
)
def test_bounded_and_monotone(returns, sigma, b1, b2, bound):
    near, far = sorted((b1, b2))
    narrow = certified_return(returns, [near, far], sigma, bound=bound, r_min=-3, r_max=9)
    wide = certified_return(returns, [near, far], 2 * sigma, bound=bound, r_min=-3, r_max=9)
    assert ((narrow >= -3 - 1e-9) & (narrow <= np.mean(returns) + 1e-9)).all()
    assert narrow[1] <= narrow[0] + 1e-12
    assert (wide >= narrow - 1e-12).all()


@given(st.floats(0.0, 1.0), st.floats(0.0, 10.0), st.floats(1e-3, 10.0))
def test_probability_is_never_raised(p, budget, sigma):
    kept = float(gaussian_shift(p, budget, sigma))
    assert 0.0 <= kept <= p


def coverage(bound, repetitions, n=60):
    """Share of experiments whose bound holds: true mean of a skewed integer return, without attack and along the worst shift."""
    rng = np.random.default_rng(0)
    values, p = np.arange(7), np.array([0.05, 0.05, 0.1, 0.1, 0.1, 0.2, 0.4])
    survival = p[::-1].cumsum()[::-1][1:]
    worst = shifted_expectation(values.astype(float), survival, [0.0, 0.3], 0.5)  # attained by an event-wise worst attacker
    held = [(certified_return(rng.choice(values, n, p=p), [0.0, 0.3], 0.5, alpha=0.2, bound=bound, r_min=0, r_max=6) <= worst).all()
            for _ in range(repetitions)]  # fmt: skip
    return np.mean(held)


@pytest.mark.parametrize("bound", ["clopper", "dkw"])
def test_coverage(bound):
    assert coverage(bound, 400) >= 0.8


@pytest.mark.slow
@pytest.mark.parametrize("bound", ["clopper", "dkw"])
def test_coverage_long(bound):
    assert coverage(bound, 2000) >= 0.8


def test_one_threshold_is_wrong_no_more_often_than_stated():
    """The exact bound at a single threshold: its error rate is at most alpha and, for many trials, not far below it."""
    rng = np.random.default_rng(1)
    missed = np.mean(clopper_pearson_lower(rng.binomial(500, 0.7, size=4000), 500, 0.1) > 0.7)
    assert 0.07 <= missed <= 0.1 + 3 * np.sqrt(0.1 * 0.9 / 4000)


@pytest.mark.parametrize(
    ("change", "error", "word"),
    [
        ({"sigma": -0.2}, ConfigError, "sigma is -0.2"),
        ({"sigma": 0.0}, ConfigError, "sigma is 0.0"),
        ({"sigma": float("nan")}, ConfigError, "sigma"),
        ({"budgets": [0.1, -0.1]}, ConfigError, "budget"),
        ({"budgets": float("inf")}, ConfigError, "budget"),
        ({"alpha": 0.0}, ConfigError, "alpha is 0"),
        ({"bound": "hoeffding"}, ConfigError, "'clopper' or 'dkw'"),
        ({"r_max": None}, ConfigError, "r_max"),
        ({"r_min": 0.5}, ConfigError, "integers"),
        ({"r_min": -np.inf}, ConfigError, "finite"),
        ({"r_max": 9}, DataError, "return 0 is 10"),
        ({"returns": [1.0, 2.5]}, DataError, "2.5"),
        ({"returns": [1.0, np.nan]}, DataError, "nan"),
        ({"returns": []}, DataError, "at least one"),
        ({"grid": [0, 5, 4]}, ConfigError, "ascend"),
        ({"grid": [1, 5]}, ConfigError, "r_min"),
    ],
)
def test_misuse_is_one_sentence(change, error, word):
    arguments = {"returns": RETURNS, "budgets": BUDGETS, "sigma": 0.2, "r_min": 0, "r_max": 10} | change
    with pytest.raises(error, match=word):
        certified_return(arguments.pop("returns"), arguments.pop("budgets"), arguments.pop("sigma"), **arguments)


def test_probabilities_outside_their_range():
    with pytest.raises(ConfigError):
        gaussian_shift([0.5, 1.2], 0.1, 0.2)
    with pytest.raises(ConfigError):
        clopper_pearson_lower(11, 10, 0.05)
    with pytest.raises(DataError):
        certified_return_per_step(np.full((3, 2), 0.5), 0.1, 0.2)


# --- playing and certifying -------------------------------------------------------------------------------------------


class Coin(gym.Env):
    """One step at the origin; reward 2 for action 0, else 0. Under noise a policy that takes action 0 iff x <= c wins Phi(c/sigma)."""

    observation_space = gym.spaces.Box(-10.0, 10.0, (1,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(1, np.float32), {}

    def step(self, action):
        return np.zeros(1, np.float32), 2.0 * float(action == 0), True, False, {}


gym.register("test/Coin-v0", entry_point=Coin, max_episode_steps=1)
RANGE = {"r_min": 0.0, "r_max": 2.0}


def threshold(c, copies=()):
    """Takes action 0 iff x <= c."""
    policy = Categorical(Spec((1,), Discrete(2)), (), copies)
    with torch.no_grad():
        policy.net.weights[0].copy_(torch.tensor([[-1.0, 1.0]]).expand_as(policy.net.weights[0]))
        policy.net.biases[0].copy_(torch.as_tensor(c, dtype=torch.float32).unsqueeze(-1) * torch.tensor([1.0, -1.0]))
    return policy


def test_certify_is_rollout_and_bound():
    policy = Smoothed(threshold(0.6), 0.5)
    c = certify(policy, "test/Coin-v0", BUDGETS, episodes=200, seed=3, alpha=0.1, bound="clopper", **RANGE)
    returns = rollout(policy, "test/Coin-v0", 200, seed=3).returns
    assert (c.returns == returns).all()
    assert (c.lower == certified_return(returns, BUDGETS, 0.5, alpha=0.1, **RANGE)).all()
    assert (c.sigma, c.alpha, c.bound, c.seed, c.r_min, c.r_max) == (0.5, 0.1, "clopper", 3, 0.0, 2.0)
    assert (c.env_id, c.max_steps) == ("test/Coin-v0", 1)
    with pytest.raises(FrozenInstanceError):
        c.sigma = 1.0
    saved = json.loads(json.dumps(c.to_json(), allow_nan=False))
    assert saved["members"][0]["lower"] == c.lower.tolist()
    assert saved["members"][0]["returns"] == returns.tolist()
    assert (saved["episodes"], saved["budgets"]) == (200, BUDGETS)


def test_members_of_a_fleet_share_alpha():
    fleet = Smoothed(threshold([0.0, 0.6, 1.2], (3,)), 0.5)
    c = certify(fleet, "test/Coin-v0", BUDGETS, episodes=300, seed=3, bound="dkw", alpha=0.06, **RANGE)
    assert c.returns.shape == (3, 300)
    assert c.lower.shape == (3, 4)
    for returns, lower in zip(c.returns, c.lower, strict=True):
        assert (lower == certified_return(returns, BUDGETS, 0.5, bound="dkw", alpha=0.02, **RANGE)).all()
    assert (np.diff(c.lower[:, 0]) > 0).all()
    assert [m["member"] for m in c.to_json()["members"]] == [0, 1, 2]


@pytest.mark.parametrize("copies", [(), (3,)])
def test_bounds_hold_as_often_as_stated(copies):
    """Known truth: 2 Phi(c / sigma), and 2 Phi(c / sigma - B / sigma) under the worst attacker. All members and budgets together."""
    c = np.array([0.1, 0.3, 0.5]) if copies else np.array(0.3)
    policy, budgets, n = Smoothed(threshold(c, copies), 0.5), np.array([0.0, 0.2]), 150
    truth = 2.0 * stats.norm.cdf((c[..., None] - budgets) / 0.5)
    held, close = [], []
    for seed in range(n):
        bounds = certify(policy, "test/Coin-v0", budgets, episodes=40, seed=seed, alpha=0.3, bound="clopper", r_min=0, r_max=2).lower
        held.append((bounds <= truth).all())
        close.append(bounds <= truth + 0.1)
    assert np.mean(held) >= 0.7 - 2.0 * np.sqrt(0.3 * 0.7 / n)
    assert np.mean(held) < 1.0  # and not by being vacuous: at this alpha some fail
    assert (np.mean(close, 0) > 0.5).all()


def test_ranges_that_are_known_fit_what_is_played():
    for env_id, least in (("CartPole-v1", 0), ("Acrobot-v1", -40), ("MountainCar-v0", -40), ("Pendulum-v1", -16.2737 * 40)):
        low, high, integer = return_range(env_id, 40)
        assert low == pytest.approx(least, abs=0.1)
        log = record("random", env_id, episodes=3, seed=0, max_steps=40)
        assert ((log.episode_returns >= low) & (log.episode_returns <= high)).all()
        assert integer == (log.episode_returns == np.round(log.episode_returns)).all()
    assert return_range("MountainCarContinuous-v0")[1] == 100.0
    assert return_range("CartPole-v1") == (0.0, 500.0, True)
    assert return_range("test/Coin-v0") is None


def test_range_of_full_throttle_covers_rounding():
    policy = Deterministic(Spec((2,), Continuous((-1.0,), (1.0,))), ())
    torch.nn.init.constant_(policy.net.biases[0], 50.0)
    c = certify(Smoothed(policy, 0.1), "MountainCarContinuous-v0", 0.1, episodes=2)
    assert c.returns.min() < -99.8
    assert c.bound == "dkw"


def test_bound_is_chosen_before_an_episode_is_played():
    cartpole = Smoothed(Categorical(Spec((4,), Discrete(2)), (4,)), 0.1)
    few = {"episodes": 3, "max_steps": 20}
    known = certify(cartpole, "CartPole-v1", 0.1, **few)
    assert (known.bound, known.r_min, known.r_max, known.lower.shape) == ("clopper", 0.0, 20.0, (1,))
    assert certify(cartpole, "CartPole-v1", 0.1, bound="dkw", **few).bound == "dkw"
    assert certify(Smoothed(threshold(0.6), 0.5), "test/Coin-v0", 0.1, episodes=3, **RANGE).bound == "dkw"
    assert certify(Smoothed(threshold(0.6), 0.5), "test/Coin-v0", 0.1, episodes=3, r_min=0.0).r_max is None


def test_progress_counts_finished_episodes():
    seen = []
    certify(Smoothed(threshold([0.6, 0.6], (2,)), 0.5), "test/Coin-v0", 0.1, episodes=5, n_envs=2, progress=seen.append, **RANGE)
    assert seen == [4, 8, 10]


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"policy": threshold(0.6)}, PolicyError, r"Smoothed\(policy, sigma\)"),
        ({"policy": Smoothed(threshold(0.6), 0.0)}, ConfigError, "sigma is 0"),
        ({"budgets": [0.1, -0.2]}, ConfigError, "-0.2"),
        ({"budgets": []}, ConfigError, "no attack budget"),
        ({"alpha": 1.5}, ConfigError, "alpha is 1.5"),
        ({"bound": "hoeffding"}, ConfigError, "'auto', 'clopper' or 'dkw'"),
        ({"r_min": None}, ConfigError, "give r_min"),
        ({"r_min": 3.0}, ConfigError, "must not be empty"),
        ({"r_min": float("nan")}, ConfigError, "finite"),
        ({"bound": "clopper", "r_max": None}, ConfigError, "two integers"),
        ({"bound": "clopper", "r_max": 1.5}, ConfigError, "two integers"),
        ({"bound": "dkw", "episodes": 1}, ConfigError, "episodes is 1: so few .* confidence 0.95; take 2 or more"),
        ({"bound": "dkw", "episodes": 4, "alpha": 0.0005}, ConfigError, "confidence 0.9995; take 5 or more"),
    ],
)
def test_misuse_of_certify_is_said_before_anything_is_played(change, error, words, monkeypatch):
    monkeypatch.setattr(certificates, "rollout", None)
    arguments = {"policy": Smoothed(threshold(0.6), 0.5), "budgets": BUDGETS, **RANGE} | change
    with pytest.raises(error, match=words):
        certify(arguments.pop("policy"), "test/Coin-v0", arguments.pop("budgets"), **arguments)


@pytest.mark.parametrize("alpha", [0.3, 0.05, 1e-6])
def test_the_fewest_episodes_prove_something(alpha):
    n = next(n for n in range(1, 100) if dkw_epsilon(n, alpha) < 1.0)
    assert certified_return(np.ones(n), 0.0, 0.5, alpha=alpha, bound="dkw", r_min=0.0)[0] > 0.0
    check_episodes(n, alpha, "dkw")
    if n > 1:
        with pytest.raises(ConfigError, match=f"take {n} or more"):
            check_episodes(n - 1, alpha, "dkw")


def test_a_return_outside_the_range_is_said():
    with pytest.raises(DataError, match="r_min and r_max must hold"):
        certify(Smoothed(threshold(5.0), 0.1), "test/Coin-v0", 0.1, episodes=4, r_min=0, r_max=1)
