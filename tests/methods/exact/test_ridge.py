"""Ridge regression and elliptical norms against scikit-learn, numpy and by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import Ridge

from surefoot.errors import ConfigError, DataError
from surefoot.methods.exact.ridge import Gram

PHI = np.array([[1.0, 0.0], [0.5, 0.5], [0.0, 1.0], [0.25, 0.75]])


def test_by_hand():
    gram = Gram.of_features(PHI, 0.1)
    np.testing.assert_allclose(gram.diagonal, [0.761952, 0.562749], atol=1e-6)
    np.testing.assert_allclose(np.diag(gram.inverse), gram.diagonal)
    assert gram.norm(np.array([0.4, 0.6])) == pytest.approx(0.490751, abs=1e-6)


@given(st.integers(0, 10_000), st.floats(1e-3, 10.0))
@settings(max_examples=30, deadline=None)
def test_estimates_are_those_of_scikit_learn(seed, ridge):
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(30, 4)), rng.normal(size=30)
    gram = Gram.of_features(x, ridge)
    np.testing.assert_allclose(gram.weights(x) @ y, Ridge(alpha=ridge, fit_intercept=False).fit(x, y).coef_, atol=1e-8)
    phi = rng.normal(size=(5, 6, 4))
    matrix = x.T @ x + ridge * np.eye(4)
    np.testing.assert_allclose(gram.norm(phi), np.sqrt(np.einsum("abi,ij,abj->ab", phi, np.linalg.inv(matrix), phi)))


def test_copies_are_apart():
    rng = np.random.default_rng(0)
    x, phi = rng.normal(size=(3, 20, 4)), rng.normal(size=(3, 7, 4))
    together = Gram.of_features(x, 0.5)
    for i in range(3):
        lone = Gram.of_features(x[i], 0.5)
        np.testing.assert_allclose(together.norm(phi)[i], lone.norm(phi[i]))
        np.testing.assert_allclose(together.weights(x)[i], lone.weights(x[i]), atol=1e-12)


def test_misuse_is_one_sentence():
    with pytest.raises(ConfigError, match="ridge is 0"):
        Gram.of_features(PHI, 0.0)
    with pytest.raises(DataError, match=r"features\[2, 0\] is nan"):
        Gram.of_features(np.where(np.arange(8).reshape(4, 2) == 4, np.nan, PHI), 0.1)
    with pytest.raises(DataError, match="not positive definite"):
        Gram.of_matrix(np.ones((2, 2)))
