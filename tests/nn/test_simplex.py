"""Sparsemax by hand, as a projection, and in its limits."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from surefoot.nn.simplex import sparsemax


@pytest.mark.parametrize(
    ("z", "expected"),
    [
        ([2.0, 1.0, 0.1], [1.0, 0.0, 0.0]),
        ([0.5, 0.4, 0.3], [0.433333, 0.333333, 0.233333]),
        ([2.0, 1.6, 1.2], [0.7, 0.3, 0.0]),
        ([0.5, 0.25, 0.025], [0.575, 0.325, 0.1]),
        ([3.0, 2.5, -1.0], [0.75, 0.25, 0.0]),
    ],
)
def test_by_hand(z, expected):
    np.testing.assert_allclose(sparsemax(torch.tensor(z, dtype=torch.float64)), expected, atol=1e-6)


def closest(z: np.ndarray, support: tuple[int, ...]) -> float:
    """Squared distance of z to the simplex's points with this support: the projection onto its affine hull, if that is in it."""
    kept = z[list(support)]
    q = kept - (kept.sum() - 1.0) / len(support)
    return np.square(q - kept).sum() + np.square(np.delete(z, support)).sum() if q.min() >= 0.0 else np.inf


@given(st.integers(0, 10_000), st.integers(2, 6))
@settings(max_examples=50, deadline=None)
def test_it_is_the_projection_onto_the_simplex(seed, c):
    z = np.random.default_rng(seed).normal(size=c) * 2.0
    p = sparsemax(torch.tensor(z)).numpy()
    assert p.min() >= 0.0 and p.sum() == pytest.approx(1.0)
    best = min(closest(z, support) for size in range(1, c + 1) for support in itertools.combinations(range(c), size))
    assert np.square(p - z).sum() == pytest.approx(best)
    np.testing.assert_allclose(sparsemax(torch.tensor(z + 1e3)).numpy(), p, atol=1e-9)


@given(st.integers(0, 10_000))
@settings(max_examples=20, deadline=None)
def test_its_gradient_is_that_of_the_support(seed):
    z = torch.randn(5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    support = (sparsemax(z) > 0).double()
    expected = torch.diag(support) - torch.outer(support, support) / support.sum()
    torch.testing.assert_close(torch.autograd.functional.jacobian(sparsemax, z), expected)


def test_rows_are_projected_apart():
    z = torch.randn(3, 4, 5)
    torch.testing.assert_close(sparsemax(z)[1, 2], sparsemax(z[1, 2]))


@given(st.integers(0, 10_000), st.floats(0.01, 100.0))
@settings(max_examples=30, deadline=None)
def test_one_sort_serves_every_scale(seed, scale):
    z = torch.randn(3, 1, 4, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    scales = torch.tensor([1.0, scale], dtype=torch.float64)[:, None, None]
    expected = torch.stack([sparsemax(z[:, 0]), sparsemax(scale * z[:, 0])], 1)
    torch.testing.assert_close(sparsemax(z, scales), expected, atol=1e-9, rtol=0)
