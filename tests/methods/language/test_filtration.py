"""Rank weights, resampling, filters and R^2 against the numbers of the method's card, scipy, and their own laws."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import linregress

from surefoot.errors import ConfigError, DataError, UnknownNameError
from surefoot.methods.language.filtration import (
    DEFAULT,
    Line,
    Strategy,
    chosen,
    filtered,
    fitted,
    grouped,
    lines_of,
    rank_weights,
    resampled,
)

REWARDS = torch.tensor([0.2, 1.4, -0.7, 0.9, -0.1], dtype=torch.float64)
NORMALISED = {
    "all": (0.2, 0.2, 0.2, 0.2, 0.2),
    "best": (0.0, 1.0, 0.0, 0.0, 0.0),
    "best_worst": (0.0, 0.5, 0.5, 0.0, 0.0),
    "best_random": (0.125, 0.5, 0.125, 0.125, 0.125),
    "pow": (0.012085, 0.592145, 0.148036, 0.244713, 0.003021),
}
KEPT = {"all": 0.340000, "best": 1.400000, "best_worst": 0.350000, "best_random": 0.737500, "pow": 0.947734}

TABLE = torch.tensor([[0.2, 1.4, -0.7, 0.9, -0.1], [2.0, 0.3, 0.5, -1.5, 1.0]], dtype=torch.float64)
SCORES = torch.tensor([[0.0, 1.0, 0.0, 1.0, 1.0], [1.0, 1.0, 0.0, 0.0, 0.0]], dtype=torch.float64)


def r_squared(*arguments, **options):
    return fitted(*arguments, **options).r_squared


def r_squared_of(*arguments):
    return {name: line.r_squared for name, line in lines_of(*arguments).items()}


def lines(table, slope=1.0):
    return {name: Line(value, slope) for name, value in table.items()}


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


# --- the card's numbers -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NORMALISED)
def test_weights_are_those_of_the_card(name):
    weights = Strategy(name).weights(REWARDS)
    weights = weights / weights.sum()
    torch.testing.assert_close(weights, torch.tensor(NORMALISED[name], dtype=torch.float64), atol=5e-7, rtol=0.0)
    assert float((weights * REWARDS).sum()) == pytest.approx(KEPT[name], abs=5e-7)


@pytest.mark.parametrize("name", NORMALISED)
def test_resampled_frequencies_are_the_weights(name):
    rows = resampled(Strategy(name).weights(REWARDS), 200_000, seeded())
    frequencies = torch.bincount(rows, minlength=5).double() / len(rows)
    torch.testing.assert_close(frequencies, torch.tensor(NORMALISED[name], dtype=torch.float64), atol=0.01, rtol=0.0)
    assert not frequencies[torch.tensor(NORMALISED[name]) == 0.0].any()


def test_r_squared_is_that_of_the_card_and_of_scipy():
    found = r_squared_of(TABLE, SCORES)
    assert found["all"] == pytest.approx(0.268817, abs=5e-7)
    assert found["best_worst"] == pytest.approx(0.940048, abs=5e-7)
    assert found["best_random"] == pytest.approx(0.438389, abs=5e-7)
    assert found["all"] == pytest.approx(linregress(TABLE.flatten(), SCORES.flatten()).rvalue ** 2, abs=1e-12)
    assert found["best"] == 0.0  # both best ones have score 1: nothing can be said
    assert chosen(lines_of(TABLE, SCORES)) == "best_worst"


def test_weighted_r_squared_is_that_of_repeated_points():
    counts = torch.tensor([3, 0, 1, 2, 4, 1, 0, 2, 5, 1])
    r, s = TABLE.flatten(), SCORES.flatten()
    repeated = linregress(r.repeat_interleave(counts), s.repeat_interleave(counts)).rvalue ** 2
    assert r_squared(r, s, counts.double()) == pytest.approx(repeated, abs=1e-12)


# --- ranks ------------------------------------------------------------------------------------------------------------


def test_ties_are_ranked_by_place():
    assert Strategy("best").weights(torch.tensor([1.0, 2.0, 2.0, 0.0])).tolist() == [0.0, 0.0, 1.0, 0.0]  # the last of the best
    assert Strategy("best_worst").weights(torch.tensor([1.0, 0.0, 0.0, 2.0])).tolist() == [0.0, 0.5, 0.0, 0.5]  # the first of the worst
    assert Strategy("best_worst").weights(torch.zeros(3)).tolist() == [0.5, 0.0, 0.5]  # two different ones where all are equal


@pytest.mark.parametrize("name", ["all", "best", "best_worst", "best_random"])
def test_one_response_counts_whole(name):
    assert Strategy(name).weights(torch.tensor([[0.3], [-2.0]])).tolist() == [[1.0], [1.0]]


def test_two_responses_are_the_best_and_the_worst():
    rewards = torch.tensor([0.4, 0.1])
    assert Strategy("best_random").weights(rewards).tolist() == Strategy("best_worst").weights(rewards).tolist() == [0.5, 0.5]


def test_weights_by_value():
    rewards = torch.tensor([-2.0, -0.5, 0.5, 3.0])
    assert Strategy("pow", power=1.0).weights(rewards).tolist() == [2.0, 0.5, 0.5, 3.0]
    assert Strategy("top", upper=0.4).weights(rewards).tolist() == [0.0, 0.0, 1.0, 1.0]
    assert Strategy("top_bottom", upper=0.6, lower=-1.0).weights(rewards).tolist() == [1.0, 0.0, 0.0, 1.0]
    assert Strategy("top_random", upper=0.6).weights(rewards).tolist() == [0.5, 0.5, 0.5, 1.0]


def test_custom_ranks_go_from_worst_to_best():
    weights = Strategy("custom", ranks=(1.0, 0.0, 0.0, 1.0, 2.0)).weights(REWARDS)
    assert weights.tolist() == [0.0, 0.5, 0.25, 0.25, 0.0]


VALUES = st.lists(st.floats(-5, 5), min_size=2, max_size=7, unique=True)


@settings(deadline=None)
@given(VALUES, st.randoms(use_true_random=False), st.sampled_from(["all", "best", "best_worst", "best_random", "pow"]))
def test_permuting_responses_permutes_weights_and_nothing_else(values, rng, name):
    order = list(range(len(values)))
    rng.shuffle(order)
    rewards = torch.tensor(values, dtype=torch.float64)
    weights = Strategy(name).weights(rewards)
    assert torch.equal(Strategy(name).weights(rewards[order]), weights[order])


@settings(deadline=None)
@given(
    st.lists(st.integers(-50, 50), min_size=1, max_size=7),
    st.integers(-100, 100),
    st.sampled_from(["all", "best", "best_worst", "best_random"]),
)
def test_a_constant_changes_no_rank(values, constant, name):
    rewards = torch.tensor(values, dtype=torch.float64)
    weights = Strategy(name).weights(rewards)
    assert torch.equal(Strategy(name).weights(rewards + constant), weights)
    assert float(weights.sum()) == pytest.approx(1.0) and bool((weights >= 0.0).all())


def test_leading_axes_are_prompts_and_copies():
    rewards = torch.randn(3, 4, 5, generator=seeded())
    for strategy in DEFAULT:
        whole = strategy.weights(rewards)
        assert torch.equal(whole[2, 1], strategy.weights(rewards[2, 1]))
    weights = Strategy("best").weights(rewards).flatten(-2)  # [3, 20]
    rows = resampled(weights, 1000, seeded())
    assert rows.shape == (3, 1000) and bool((weights.gather(-1, rows) > 0.0).all())


# --- filters ----------------------------------------------------------------------------------------------------------


def test_a_filter_keeps_what_the_strategy_says():
    rewards = torch.randn(50, 5, generator=seeded())
    best, worst = (x + 5 * torch.arange(50) for x in (rewards.argmax(-1), rewards.argmin(-1)))
    kept = {name: set(filtered(Strategy(name).weights(rewards), seeded(1)).tolist()) for name in NORMALISED}
    assert kept["all"] == set(range(250))
    assert kept["best"] == set(best.tolist())
    assert kept["best_worst"] == set(best.tolist()) | set(worst.tolist())
    assert set(best.tolist()) < kept["best_random"] and len(kept["best_random"]) == 100
    assert all(sum(row // 5 == prompt for row in kept["best_random"]) == 2 for prompt in range(50))


def test_a_filter_keeps_each_with_its_probability():
    """4,000 prompts: the others of best_random 1/4 each, those of pow in proportion, within 4.5 standard errors."""
    rewards = REWARDS.expand(4000, 5)
    for name in ("best_random", "pow"):
        weights = Strategy(name).weights(rewards)
        p = weights[0] / weights[0].max()
        counts = torch.bincount(filtered(weights, seeded(2)) % 5, minlength=5).double() / 4000
        assert bool(((counts - p).abs() <= 4.5 * (p * (1.0 - p) / 4000).sqrt() + 1e-12).all())


# --- R^2 --------------------------------------------------------------------------------------------------------------


def test_groups_take_the_noise_of_zeros_and_ones_out():
    """A score that is 1 with a probability linear in the reward: of groups the line fits nearly; of responses it does not."""
    rng = np.random.default_rng(0)
    r = rng.uniform(0.0, 1.0, 20_000)
    rewards, scores = torch.from_numpy(r), torch.from_numpy((rng.uniform(size=r.size) < 0.2 + 0.6 * r).astype(float))
    ones = torch.ones_like(rewards)
    assert 0.1 < r_squared(rewards, scores, ones) < 0.2  # 0.12
    assert r_squared(rewards, scores, ones, n_groups=20) > 0.98
    means, levels, weights = grouped(rewards, scores, ones / len(ones), 20)
    assert len(means) == 20 and bool((means.diff() > 0.0).all()) and torch.allclose(weights, torch.full((20,), 0.05, dtype=torch.float64))
    fit = linregress(means, levels)
    residual = ((levels - fit.intercept - fit.slope * means) ** 2).sum() / ((levels - levels.mean()) ** 2).sum()
    assert r_squared(rewards, scores, ones, n_groups=20) == pytest.approx(float(1.0 - residual), abs=1e-9)  # 1 - SS_res / SS_tot


def test_groups_have_equal_weight_and_leave_out_what_does_not_count():
    weights = Strategy("best_worst").weights(TABLE).flatten()
    means, _, _ = grouped(TABLE.flatten(), SCORES.flatten(), weights / weights.sum(), 4)
    assert means.tolist() == pytest.approx([-1.5, -0.7, 1.4, 2.0])


def test_what_does_not_vary_has_no_r_squared():
    ones = torch.ones(4)
    assert r_squared(torch.tensor([1.0, 2.0, 3.0, 4.0]), ones, ones) == 0.0
    assert r_squared(ones, torch.tensor([1.0, 2.0, 3.0, 4.0]), ones) == 0.0
    assert r_squared_of([torch.zeros(3)], [torch.zeros(3)], [Strategy("pow")]) == {"pow": 0.0}  # no response counts


def test_a_reward_that_misleads_is_not_chosen():
    """R^2 does not see the sign: under `all` higher rewards go with lower scores."""
    rewards, scores = torch.tensor([[3.0, 1.0, -1.0, 2.0]]), torch.tensor([[0.0, 0.5, 0.7, 0.1]])
    found = lines_of(rewards, scores)
    fit = linregress(rewards.flatten(), scores.flatten())
    assert found["all"].slope == pytest.approx(fit.slope, abs=1e-6) and found["all"].r_squared > 0.9
    with pytest.raises(DataError, match="do not train on this reward"):
        chosen(found)
    assert chosen({**found, "best_worst": Line(0.1, 0.2)}) == "best_worst"
    with pytest.raises(DataError, match="the same under every strategy"):
        chosen(lines_of(rewards, torch.ones(1, 4)))


def test_prompts_may_have_different_numbers_of_responses():
    found = r_squared_of([TABLE[0], TABLE[1, :3]], [SCORES[0], SCORES[1, :3]])
    assert all(0.0 <= value <= 1.0 for value in found.values())


def test_one_rank_wins_only_if_it_may():
    table = {"all": 0.2, "best": 0.9, "best_worst": 0.4, "best_random": 0.3, "pow": 0.1}
    assert chosen(lines(table)) == "best_worst"
    assert chosen(lines(table), one_rank=True) == "best"
    with pytest.raises(ConfigError, match="keeps one rank only"):
        chosen(lines({"best": 0.9}), [Strategy("best")])


# --- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "custom"}, "custom needs a weight for each rank"),
        ({"name": "custom", "ranks": (0.0, 0.0)}, "not all 0"),
        ({"name": "custom", "ranks": (1.0, -1.0)}, "not negative"),
        ({"name": "custom", "ranks": (1.0, float("nan"))}, "finite"),
        ({"name": "top"}, "the strategy top needs upper, a reward"),
        ({"name": "top_bottom", "upper": 1.0}, "needs lower"),
        ({"name": "top_bottom", "upper": 1.0, "lower": 2.0}, "must not cross"),
        ({"name": "pow", "power": -1.0}, "power is -1.0"),
    ],
)
def test_bad_settings_are_named(settings, message):
    with pytest.raises(ConfigError, match=message):
        Strategy(**settings)


def test_unknown_strategies_come_with_the_nearest():
    with pytest.raises(UnknownNameError, match="did you mean 'best_worst'"):
        Strategy("bestworst")


def test_bad_tables_are_named():
    with pytest.raises(ConfigError, match="ranks has 2 weights for 5 responses"):
        Strategy("custom", ranks=(0.0, 1.0)).weights(REWARDS)
    with pytest.raises(DataError, match="no response counts"):
        resampled(torch.zeros(5), 3)
    with pytest.raises(DataError, match="no response counts"):
        filtered(Strategy("top", upper=9.0).weights(TABLE))
    with pytest.raises(DataError, match="as many rewards as true scores"):
        r_squared_of(TABLE, SCORES[:1])
    with pytest.raises(ConfigError, match="n_groups is 1"):
        r_squared(REWARDS, REWARDS, REWARDS.abs(), n_groups=1)
    with pytest.raises(ValueError, match="must all be"):
        r_squared(REWARDS, REWARDS[:2], REWARDS)


def test_ranks_sum_to_one():
    for name in ("all", "best", "best_worst", "best_random"):
        assert float(rank_weights(name, 6).sum()) == pytest.approx(1.0)
