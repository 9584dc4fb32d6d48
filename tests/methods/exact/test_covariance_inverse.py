"""Inverse covariances: numbers by hand, means of resampling, and agreement with numpy."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from surefoot.errors import ConfigError
from surefoot.methods.exact.covariance_inverse import (
    averaged_inverse,
    exact_inverse,
    geometric_resampling,
    resampling_length,
    resampling_mean,
    squared_norm,
)

PHI = np.array([[1.0, 0.0], [0.5, 0.5], [0.0, 1.0], [0.8, -0.6]])
P, GAMMA = np.array([0.4, 0.3, 0.2, 0.1]), 0.05
SIGMA = PHI.T @ (P[:, None] * PHI)
INVERSE = [[1.703634, -0.127419], [-0.127419, 2.779613]]


def test_exact():
    np.testing.assert_allclose(SIGMA, [[0.539, 0.027], [0.027, 0.311]], atol=1e-12)
    np.testing.assert_allclose(exact_inverse(SIGMA, GAMMA), INVERSE, atol=1e-6)
    norm = np.sqrt(squared_norm(PHI, exact_inverse(SIGMA, GAMMA)))
    np.testing.assert_allclose(-2.0 * norm, [-2.610466, -2.056310, -3.334434, -2.975438], atol=1e-6)


def test_mean_of_resampling():
    np.testing.assert_allclose(resampling_mean(SIGMA, GAMMA, 150), INVERSE, atol=1e-6)
    np.testing.assert_allclose(resampling_mean(SIGMA, GAMMA, 20), [[1.701988, -0.122413], [-0.122413, 2.735697]], atol=1e-6)


def test_resampling_agrees_with_its_mean():
    draws = PHI[np.random.default_rng(0).choice(4, p=P, size=(150, 2000))]
    np.testing.assert_allclose(geometric_resampling(draws, GAMMA), exact_inverse(SIGMA, GAMMA), atol=0.02)
    few = np.stack([geometric_resampling(draws[:20, i : i + 100], GAMMA) for i in range(0, 2000, 100)])
    error = (few.mean(0) - resampling_mean(SIGMA, GAMMA, 20)) / (few.std(0, ddof=1) / np.sqrt(len(few)))
    assert np.abs(error).max() < 4.5


def test_resampling_by_the_definition():
    rng = np.random.default_rng(1)
    draws, gamma = rng.normal(size=(6, 2, 3, 3)) / 3.0, np.array([0.1, 0.4])
    together = geometric_resampling(draws, gamma)
    for i in range(2):
        total = np.zeros((3, 3))
        for m in range(3):
            z, own = np.eye(3), np.eye(3)
            for n in range(6):
                z = z @ (np.eye(3) - 0.5 * (gamma[i] * np.eye(3) + np.outer(draws[n, i, m], draws[n, i, m])))
                own = own + z
            total += 0.5 * own / 3.0
        np.testing.assert_allclose(together[i], total, atol=1e-12)


@given(st.integers(0, 10_000), st.floats(0.01, 1.0))
@settings(max_examples=30, deadline=None)
def test_averages_are_numpy_inverses(seed, gamma):
    rng = np.random.default_rng(seed)
    draws, weights = rng.normal(size=(2, 7, 4)), rng.random((2, 7))
    for i in range(2):
        matrix = sum(w * np.outer(x, x) for w, x in zip(weights[i], draws[i], strict=True)) / 7 + gamma * np.eye(4)
        np.testing.assert_allclose(averaged_inverse(draws, gamma, weights)[i], np.linalg.inv(matrix), rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(averaged_inverse(draws, gamma), averaged_inverse(draws, gamma, np.ones((2, 7))))


def test_average_is_a_constant_factor_off_with_d_over_gamma_draws():
    rng = np.random.default_rng(0)
    phi = rng.dirichlet(np.full(4, 0.3), 32)
    gamma, regular = 0.02, phi.T @ phi / 32 + 0.02 * np.eye(4)
    draws = phi[rng.integers(32, size=(200, int(np.ceil(4 / gamma * np.log(100)))))]
    eigenvalues = np.linalg.eigvals(averaged_inverse(draws, gamma) @ regular).real
    assert eigenvalues.min() > 0.5 and eigenvalues.max() < 2.0


def test_misuse_is_one_sentence():
    with pytest.raises(ConfigError, match=r"gamma is 0\.0"):
        exact_inverse(SIGMA, 0.0)
    with pytest.raises(ConfigError, match=r"gamma is 1\.5: resampling with step 0\.5 needs gamma <= 1"):
        geometric_resampling(PHI[None], 1.5)
    with pytest.raises(ConfigError, match="no draws"):
        geometric_resampling([], 0.5)
    assert resampling_length(0.05, 1000) == 277
