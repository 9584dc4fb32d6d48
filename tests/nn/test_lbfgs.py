"""Minima that are known."""

import torch

from surefoot.nn.lbfgs import minimise


def test_a_quadratic_and_a_curved_valley():
    a = torch.tensor([[3.0, 1.0], [1.0, 2.0]], dtype=torch.float64)
    b = torch.tensor([1.0, -2.0], dtype=torch.float64)
    torch.testing.assert_close(minimise(lambda x: 0.5 * x @ a @ x - b @ x, torch.zeros(2, dtype=torch.float64)), torch.linalg.solve(a, b))
    valley = lambda x: (1.0 - x[0]).square() + 100.0 * (x[1] - x[0].square()).square()  # noqa: E731  # Rosenbrock's
    torch.testing.assert_close(minimise(valley, torch.tensor([-1.2, 1.0], dtype=torch.float64)), torch.ones(2, dtype=torch.float64))


def test_what_has_no_minimum_ends_and_start_stays():
    start = torch.zeros(1, dtype=torch.float64)
    assert minimise(lambda x: torch.nn.functional.softplus(-x).sum(), start, iterations=50).item() > 5.0
    assert start.item() == 0.0 and not start.requires_grad
