"""LVM-RS: intervals, radii and Lipschitz constants by hand, coverage where the truth is known, and where the chosen map matters."""

from math import inf, sqrt

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from scipy.integrate import quad
from statsmodels.stats.proportion import proportion_confint

from surefoot.errors import ConfigError, DataError
from surefoot.evaluation import lvm_rs
from surefoot.evaluation.certificates import clopper_pearson_lower, clopper_pearson_upper
from surefoot.evaluation.lvm_rs import (
    ABSTAIN,
    Map,
    average_certified_radius,
    bernstein_shift,
    certified_accuracy,
    certify_input,
    cohen,
    predict,
    radius_lipschitz,
    radius_one_sided,
    radius_two_sided,
    simplex_maps,
    smoothed_lipschitz,
)

probabilities = st.floats(0.001, 0.999)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


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


def test_bernstein_covers():
    """2,000 repetitions of a skewed law: the mean lies outside to one side at most as often as it may."""
    rng, level = np.random.default_rng(0), 0.05
    samples = rng.beta(0.3, 3.0, (2_000, 200))
    shift = bernstein_shift(samples.std(1, ddof=1), 200, level)
    for missed in (samples.mean(1) - shift > 0.3 / 3.3, samples.mean(1) + shift < 0.3 / 3.3):
        assert missed.mean() <= level + 3 * sqrt(level * (1 - level) / 2_000)


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


# --- pipelines on given moments ---------------------------------------------------------------------------------------


def test_votes_by_hand():
    counts = np.array([9_000, 600, 400, *[0] * 7])
    found = lvm_rs._candidates([Map("argmax")], counts[None] / 1e4, np.zeros((1, 10)), 10_000, 1e-4, 0.5, None)[0]
    assert (found.label, found.lower, found.upper) == (0, pytest.approx(0.888409, abs=1e-6), pytest.approx(0.069308, abs=1e-6))
    assert found.radius == pytest.approx(0.674770, abs=1e-6)
    low = float(clopper_pearson_lower(9_000, 10_000, 1e-3))
    assert low == pytest.approx(0.890410, abs=1e-6) and radius_one_sided(low, 0.5) == pytest.approx(0.614355, abs=1e-6)


def test_soft_maps_by_hand():
    mean, std = np.array([[0.88, 0.08, 0.04]]), np.array([[0.1, 0.08, 0.05]])
    level = 1e-3 / 3
    np.testing.assert_allclose(bernstein_shift(std[0], 10_000, level), [0.006201, 0.005367, 0.004116], atol=1e-6)
    found = lvm_rs._candidates([Map("softmax", 1.0)], mean, std, 10_000, level, 0.5, None)[0]
    assert (found.lower, found.upper) == (pytest.approx(0.873799, abs=1e-6), pytest.approx(0.085367, abs=1e-6))
    assert found.radius == pytest.approx(0.628595, abs=1e-6)


def test_the_runner_up_is_another_class():
    """The class with the largest upper bound need not be the one with the largest lower bound."""
    mean, std = np.array([[0.50, 0.49, 0.01]]), np.array([[0.01, 0.5, 0.01]])
    found = lvm_rs._candidates([Map("softmax", 1.0)], mean, std, 1_000, 0.01, 0.5, None)[0]
    assert found.label == 0 and found.upper > found.lower and found.radius < 0.0


# --- maps and moments -------------------------------------------------------------------------------------------------


def test_sharp_maps_are_votes():
    logits = torch.randn(500, 4, generator=generator(), dtype=torch.float64)
    maps = [Map("argmax"), Map("softmax", 1e7), Map("sparsemax", 1e7)]
    mean, _ = lvm_rs.moments(maps, iter([logits]))
    np.testing.assert_allclose(mean[1:], mean[[0, 0]], atol=1e-9)


@given(st.integers(0, 1000), st.lists(st.integers(1, 30), min_size=1, max_size=4))
def test_moments_are_those_of_all_samples(seed, sizes):
    parts = [torch.randn(b, 3, generator=generator(seed), dtype=torch.float64) for b in (*sizes, 2)]
    maps = simplex_maps((0.5, 4.0))
    mean, std = lvm_rs.moments(maps, iter(parts))
    outputs = np.stack([of(torch.cat(parts)).numpy() for of in maps])
    np.testing.assert_allclose(mean, outputs.mean(1), atol=1e-12)
    np.testing.assert_allclose(std, outputs.std(1, ddof=1), atol=1e-9)


# --- known classifiers ------------------------------------------------------------------------------------------------


def linear(scale: float):
    """Two classes apart by a hyperplane at distance 0.25 of the origin: z = (w x, -w x), |w| = 2, at x with w x = 0.5."""
    w = torch.tensor([2.0, 0.0]) * scale
    return lambda x: torch.stack([x @ w, -(x @ w)], -1)


@pytest.mark.parametrize("mode", ["split", "union"])
def test_no_radius_reaches_beyond_the_boundary_more_often_than_it_may(mode):
    """2,000 repetitions with n = 500 at alpha 0.05."""
    alpha, beyond, maps = 0.05, 0, simplex_maps((0.5, 4.0))
    for seed in range(2_000):
        found = certify_input(
            linear(1.0), torch.tensor([0.25, 0.0]), 0.5, n0=50, n=500, alpha=alpha, mode=mode, maps=maps, generator=generator(seed)
        )
        beyond += found.radius > 0.25 or found.label == 1
    assert beyond / 2_000 <= alpha + 3 * sqrt(alpha * (1 - alpha) / 2_000)


def test_a_known_lipschitz_constant_helps():
    """p_1 = E clip((b a + 1) / 2, 0, 1), a ~ N(0.3, 0.5^2), without sampling; 0.3 is the true distance."""
    for b, p_a, known, two_sided in ((1.0, 0.641199, 0.295860, 0.180833), (4.0, 0.717684, 0.284239, 0.287988)):
        f = lambda u, b=b: np.clip((b * (0.3 + 0.5 * u) + 1) / 2, 0.0, 1.0) * stats.norm.pdf(u)  # noqa: E731
        p = quad(f, -9, 9, points=[(-1 / b - 0.3) / 0.5, (1 / b - 0.3) / 0.5], limit=200)[0]
        assert p == pytest.approx(p_a, abs=1e-6)
        of_map = Map("sparsemax", b).lipschitz(1.0 / sqrt(2.0))  # of the logits (a / 2, -a / 2)
        assert radius_lipschitz(p, 1 - p, smoothed_lipschitz(of_map, 0.5)) == pytest.approx(known, abs=1e-5)
        assert radius_two_sided(p, 1 - p, 0.5) == pytest.approx(two_sided, abs=1e-5)
        assert max(known, two_sided) < 0.3


def test_a_lipschitz_constant_enlarges_a_radius():
    w = torch.tensor([0.5, 0.0])
    soft = lambda x: torch.stack([x @ w, -(x @ w)], -1)  # noqa: E731
    settings = {"n0": 500, "n": 20_000, "maps": [Map("sparsemax", 1.0)]}
    without = certify_input(soft, torch.tensor([0.3, 0.0]), 0.5, **settings, generator=generator())
    known = certify_input(soft, torch.tensor([0.3, 0.0]), 0.5, **settings, lipschitz=1 / sqrt(2), generator=generator())
    assert 0.3 > known.radius > 1.3 * without.radius > 0.0


def test_many_uncertain_classes_gain_from_two_sides():
    """Three classes at about (0.49, 0.28, 0.23): Cohen's one-sided bound abstains, a two-sided one does not."""
    centres = torch.tensor([0.10, -0.10, -0.20])
    noisy = lambda x: torch.stack([x[:, i] + centres[i] for i in range(3)], -1) * 5.0  # noqa: E731
    settings = {"sigma": 0.5, "n0": 500, "n": 10_000}
    assert cohen(noisy, torch.zeros(3), **settings, generator=generator()).label == ABSTAIN
    assert certify_input(noisy, torch.zeros(3), **settings, generator=generator()).radius > 0.03


def test_the_same_draws_give_the_same_certificate():
    one, other = (certify_input(linear(1.0), torch.tensor([0.5, 0.0]), 0.5, n=1_000, generator=generator(3)) for _ in range(2))
    assert one == other and one.label == 0 and one.radius > 0.2


def test_predictions_abstain_between_two_classes():
    assert predict(linear(1.0), torch.tensor([1.0, 0.0]), 0.5, generator=generator()) == 0
    assert predict(linear(1.0), torch.tensor([0.0, 0.0]), 0.5, generator=generator()) == ABSTAIN


def test_what_a_set_of_inputs_comes_to():
    one = lambda label, radius: lvm_rs.Certified(label, radius, Map("argmax"), 0.0, 0.0)  # noqa: E731
    certified = [one(0, 0.4), one(1, 0.2), one(ABSTAIN, 0.0), one(2, 0.8)]
    labels = np.array([0, 1, 2, 0])
    assert average_certified_radius(certified, labels) == pytest.approx(0.15)
    np.testing.assert_allclose(certified_accuracy(certified, labels, np.array([0.0, 0.3, 0.5])), [0.5, 0.25, 0.0])


# --- misuse -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sigma": 0.0}, "sigma is 0"), ({"alpha": 1.0}, "alpha is 1"), ({"mode": "best"}, "mode is 'best'"), ({"n0": 1}, "n0 is 1"),
        ({"maps": []}, "0 maps"), ({"n": 5, "alpha": 0.001}, "take 11 or more"), ({"batch": 0}, "batch 0"),
    ],
)  # fmt: skip
def test_settings_outside_their_range(settings, message):
    with pytest.raises(ConfigError, match=message):
        certify_input(linear(1.0), torch.zeros(2), **({"sigma": 0.5} | settings))


def test_classifiers_that_cannot_be_certified():
    with pytest.raises(DataError, match="c >= 2 classes"):
        certify_input(lambda x: x[:, :1], torch.zeros(2), 0.5)
    with pytest.raises(DataError, match="NaN or infinite"):
        certify_input(lambda x: x.sqrt(), torch.zeros(2), 0.5)
    with pytest.raises(ConfigError, match="must be positive and finite"):
        simplex_maps((0.0,))
    with pytest.raises(ConfigError, match="at least 2 samples"):
        bernstein_shift(0.1, 1, 0.05)
    with pytest.raises(ConfigError, match="both must be positive"):
        smoothed_lipschitz(1.0, 0.0)
