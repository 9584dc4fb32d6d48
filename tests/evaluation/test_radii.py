"""Intervals and radii: numbers worked out by hand, parity with statsmodels, and what must hold for any counts."""

from math import inf

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from scipy.integrate import quad
from statsmodels.stats.proportion import proportion_confint

from surefoot.errors import ConfigError
from surefoot.evaluation.certificates import clopper_pearson_lower, clopper_pearson_upper
from surefoot.evaluation.radii import (
    bernstein_shift,
    intervals,
    least_samples,
    radius_lipschitz,
    radius_one_sided,
    radius_two_sided,
    smoothed_lipschitz,
)

probabilities = st.floats(0.001, 0.999)


# --- intervals --------------------------------------------------------------------------------------------------------


def test_bernstein_by_hand():
    assert bernstein_shift(0.1, 10_000, 1e-4) == pytest.approx(0.006762, abs=1e-6)
    assert bernstein_shift(0.0, 10_000, 1e-4) == pytest.approx(0.002311, abs=1e-6)
    assert bernstein_shift(0.3, 1_000, 1e-4) == pytest.approx(0.065352, abs=1e-6)


def test_clopper_pearson_on_both_sides():
    assert clopper_pearson_lower(10_000, 10_000, 1e-3) == pytest.approx(0.999309, abs=1e-6)
    assert clopper_pearson_lower(9_500, 10_000, 1e-4) == pytest.approx(0.941408, abs=1e-6)
    assert clopper_pearson_upper(300, 10_000, 1e-4) == pytest.approx(0.036854, abs=1e-6)
    assert clopper_pearson_upper(0, 10_000, 1e-4) == pytest.approx(0.000921, abs=1e-6)


@given(st.integers(0, 500), st.floats(1e-6, 0.2))
def test_clopper_pearson_is_that_of_statsmodels(k, level):
    low, up = proportion_confint(k, 500, alpha=2 * level, method="beta")
    assert clopper_pearson_lower(k, 500, level) == pytest.approx(np.nan_to_num(low), abs=1e-9)
    assert clopper_pearson_upper(k, 500, level) == pytest.approx(1.0 if k == 500 else up, abs=1e-9)


# --- radii ------------------------------------------------------------------------------------------------------------


def test_radii_by_hand():
    agnostic = smoothed_lipschitz(inf, 0.5)
    assert radius_lipschitz(0.9, 0.05, agnostic) == pytest.approx(0.532659, abs=1e-6)
    assert radius_two_sided(0.9, 0.05, 0.5) == pytest.approx(0.731601, abs=1e-6)
    assert radius_one_sided(0.9, 0.5) == pytest.approx(0.640776, abs=1e-6)
    assert radius_lipschitz(0.45, 0.2, agnostic) == pytest.approx(0.156664, abs=1e-6)
    assert radius_two_sided(0.45, 0.2, 0.5) == pytest.approx(0.178990, abs=1e-6)


@given(probabilities, probabilities, st.floats(0.05, 2.0))
def test_radii_are_ordered(a, b, sigma):
    p_b, p_a = sorted((a, b))
    p_b = min(p_b, 1.0 - p_a)
    if p_a <= p_b:
        return
    two = radius_two_sided(p_a, p_b, sigma)
    assert two >= radius_lipschitz(p_a, p_b, smoothed_lipschitz(inf, sigma)) - 1e-9
    assert two >= radius_one_sided(p_a, sigma) - 1e-9
    assert radius_two_sided(p_a, 1.0 - p_a, sigma) == pytest.approx(radius_one_sided(p_a, sigma), abs=1e-9)


def test_certain_votes_give_a_finite_radius():
    assert np.isfinite(radius_two_sided(1.0, 0.0, 0.5))


def test_smoothed_lipschitz_constants_by_hand():
    for (lipschitz, sigma), scalar, simplex in (
        ((1.0, 1.0), 0.382925, 0.520500),
        ((10.0, 0.5), 0.796557, 1.124629),
        ((1e6, 0.5), 0.797885, 1.128379),
    ):
        assert smoothed_lipschitz(lipschitz, sigma, simplex=False) == pytest.approx(scalar, abs=1e-6)
        assert smoothed_lipschitz(lipschitz, sigma) == pytest.approx(simplex, abs=1e-6)
    assert smoothed_lipschitz(0.1, 1.0) == pytest.approx(0.1, abs=1e-6)
    assert smoothed_lipschitz(inf, 0.5) == pytest.approx(1.128379, abs=1e-6)


def test_a_smoothed_ramp_attains_the_bound():
    lipschitz, sigma = 3.0, 0.25
    ramp = lambda x: np.clip(lipschitz * x + 0.5, 0.0, 1.0)  # noqa: E731
    at = lambda x: quad(lambda u: ramp(x + sigma * u) * stats.norm.pdf(u), -8, 8, points=[-0.17 / sigma, 0.17 / sigma], limit=200)[0]  # noqa: E731
    slope = (at(1e-4) - at(-1e-4)) / 2e-4
    assert slope == pytest.approx(1.485045, abs=1e-4)
    assert smoothed_lipschitz(lipschitz, sigma, simplex=False) == pytest.approx(1.485045, abs=1e-6)


# --- counts -----------------------------------------------------------------------------------------------------------


def of_counts(counts, level, sigma=0.5):
    """R2 of votes for the first class, as LVM-RS has it."""
    n = int(np.sum(counts))
    low, up = intervals(np.array(counts) / n, np.zeros(len(counts)), np.array(True), n, level)
    return float(radius_two_sided(low[0], up[1:].max(), sigma))


@given(st.integers(0, 300), st.integers(0, 300), st.integers(0, 300), st.floats(1e-6, 0.2))
def test_a_vote_more_for_a_class_never_shrinks_its_radius(a, b, c, level):
    if a + b + c < 2 or b == 0:
        return
    radius = of_counts([a, b, c], level)
    assert of_counts([a + 1, b - 1, c], level) >= radius - 1e-12  # taken from another class
    assert of_counts([a, b, c], level / 2) <= radius + 1e-12  # a stricter interval proves less
    assert of_counts([a, c, b], level) == pytest.approx(radius)  # the others have no order


@given(st.integers(1, 200), st.integers(1, 200), st.floats(1e-6, 0.2), st.floats(0.05, 2.0))
def test_radii_grow_with_the_noise_and_with_the_number_of_samples(a, b, level, sigma):
    radius = of_counts([a, b], level, sigma)
    assert of_counts([a, b], level, 2 * sigma) == pytest.approx(2 * radius)
    if a > b:
        assert of_counts([10 * a, 10 * b], level, sigma) >= radius - 1e-12  # the same shares of more samples


@given(st.lists(st.floats(0.0, 1.0), min_size=2, max_size=6), st.floats(0.0, 0.5), st.integers(2, 10_000), st.floats(1e-6, 0.2))
def test_intervals_hold_the_mean_and_lie_within_0_and_1(mean, std, n, level):
    mean = np.array(mean)
    low, up = intervals(mean, np.full(len(mean), std), np.array(False), n, level)
    assert (low >= 0.0).all() and (up <= 1.0).all() and (low <= mean).all() and (up >= mean).all() and (up > 0.0).all()


@given(st.floats(1e-9, 0.4), st.booleans())
def test_the_fewest_samples_are_the_fewest(level, hard):
    """One sample less, all for one class and without variance, proves nothing; so many do."""
    n = least_samples(level, hard=hard)
    for samples, proves in ((n, True), (n - 1, False)):
        if samples >= 2:
            low, up = intervals(np.array([1.0, 0.0]), np.zeros(2), np.array(hard), samples, level)
            assert (low[0] > up[1]) == proves


# --- misuse -----------------------------------------------------------------------------------------------------------


def test_bounds_that_are_not_defined():
    with pytest.raises(ConfigError, match="at least 2 samples"):
        bernstein_shift(0.1, 1, 0.05)
    with pytest.raises(ConfigError, match="both must be positive"):
        smoothed_lipschitz(1.0, 0.0)
