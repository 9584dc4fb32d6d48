"""DRPVI: exact worst cases within a radius against the search of the official code, and where that stops too early."""

import numpy as np
import pytest

from surefoot.errors import ConfigError
from surefoot.methods.exact import divergences as dv
from surefoot.methods.exact.constrained import chi2_objective, nelder_mead, radius_at, searched, tv_objective, worst_within


@pytest.mark.parametrize("kind", ["tv", "kl"])
def test_the_search_finds_no_more_than_there_is_and_mostly_that(kind):
    """On distributions the objective is concave; the search may still stop where its two points meet at a bound."""
    rng = np.random.default_rng(0)
    m, value, radius = rng.dirichlet(np.ones(8), (20, 3)), rng.random((20, 8)) * 2.0, rng.uniform(0.01, 0.3, (20, 3))
    value[:, 0] = 0.0  # the official code measures from 0
    exact, found = (worst_within(kind, m, value, radius, 2.0, search=on) for on in (False, True))
    assert exact.shape == (20, 3)
    assert (found <= exact + 1e-4).all() and np.median(exact - found) < 1e-4
    ball = dv.constrained_tv if kind == "tv" else dv.constrained_kl
    assert exact[1, 2] == pytest.approx(ball(m[1, 2], value[1], radius[1, 2]), abs=1e-6)


def test_a_chi_square_radius():
    rng = np.random.default_rng(0)
    m, value = rng.dirichlet(np.ones(8), 3), rng.random(8)
    found = worst_within("chi2", m, value, np.array(0.2), 1.0)
    np.testing.assert_allclose(found, dv.constrained_chi2(m, value, 0.2), atol=1e-9)
    with pytest.raises(ConfigError, match="the official code has none"):
        worst_within("chi2", m, value, np.array(0.2), 1.0, search=True)


def test_the_search_can_miss_what_enumeration_finds():
    """Nelder-Mead from the middle: an objective with two maxima; and the chi-square dual of a regression, over many draws."""
    two = lambda a: float(np.where(a < 0.6, 0.5 * a / 0.6, np.maximum(0.5 - (a - 0.6), 0.3 + 3.0 * (a - 0.9))))  # noqa: E731
    assert nelder_mead(two, 1.0) < 0.55 < two(1.0)
    assert nelder_mead(lambda a: -((a - 0.25) ** 2), 1.0) == pytest.approx(0.0, abs=1e-6)
    rng = np.random.default_rng(1)
    m, value = rng.normal(size=(40, 6)), rng.random(6) * 3.0
    exact = dv.penalised_chi2(m, value, 0.3, 0.0, 3.0)
    found = searched(chi2_objective, m, value, 0.3, 3.0)
    assert (found <= exact + 1e-9).all() and (found < exact - 0.01).any()


def test_nothing_free_is_the_mean_and_everything_free_the_least():
    m, value = np.array([[0.25, 0.75], [0.5, 0.5]]), np.array([0.0, 1.0])
    np.testing.assert_allclose(worst_within("tv", m, value, np.zeros(2), 1.0), m @ value)
    np.testing.assert_allclose(worst_within("tv", m, value, np.ones(2), 1.0), 0.0)
    assert tv_objective(m[0], value, 1.0, strength=0.5) == pytest.approx(0.25)


def test_radii_of_every_shape():
    assert radius_at(0.1, 2, 4) == 0.1
    np.testing.assert_array_equal(radius_at((0.1, 0.2), 5, 2), [0.1, 0.2])
    np.testing.assert_array_equal(radius_at(np.arange(6.0).reshape(3, 2), 1, 2), [2.0, 3.0])
    for bad in ((0.1, 0.2, 0.3), np.zeros((1, 2)), np.zeros((2, 2, 2))):
        with pytest.raises(ConfigError, match="radius has shape"):
            radius_at(bad, 1, 2)
    with pytest.raises(ConfigError, match="a radius is negative"):
        worst_within("tv", np.ones((1, 2)) / 2, np.arange(2.0), np.array(-0.1), 1.0)
