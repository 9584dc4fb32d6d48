"""The simulator against exact moments and hand computation, the closed forms against expectations, and what is refused."""

import numpy as np
import pytest
from scipy import integrate

from surefoot.envs.diffusions import (
    Diffusion,
    brownian,
    brownian_power,
    call_option,
    decaying_square,
    discounted_square,
    geometric_brownian,
    irregular_times,
    ornstein_uhlenbeck,
    regular_times,
    simulate,
)
from surefoot.errors import ConfigError, DataError


def test_one_path_by_hand():
    process = Diffusion("test", 1, lambda t, x: -x + t[..., None], lambda t, x: 1.0 + x)
    t = np.array([0.0, 0.5, 0.75])
    path = simulate(process, np.array([2.0]), t, np.random.default_rng(3))
    z = np.random.default_rng(3).standard_normal((2, 1))
    x1 = 2.0 - 2.0 * 0.5 + 3.0 * np.sqrt(0.5) * z[0, 0]
    x2 = x1 + (0.5 - x1) * 0.25 + (1.0 + x1) * np.sqrt(0.25) * z[1, 0]
    np.testing.assert_allclose(path[:, 0], [2.0, x1, x2], rtol=1e-14)


def test_moments_of_the_schemes_own_chain():
    n, dt = 40_000, 0.05
    rng = np.random.default_rng(0)
    t = regular_times(1.0, dt)
    x = simulate(ornstein_uhlenbeck(2.0, 0.5, 0.7), np.ones((n, 1)), t, rng)[:, -1, 0]
    q = (1.0 - 2.0 * dt) ** 20
    mean, variance = 0.5 + 0.5 * q, 0.49 * dt * (1.0 - q**2) / (1.0 - (1.0 - 2.0 * dt) ** 2)
    assert abs(x.mean() - mean) < 4.5 * np.sqrt(variance / n)
    assert abs(x.var() - variance) < 4.5 * variance * np.sqrt(2.0 / n)
    y = simulate(geometric_brownian(0.1, 0.2), np.ones((n, 1)), t, rng)[:, -1, 0]
    assert abs(y.mean() - (1.0 + 0.1 * dt) ** 20) < 4.5 * y.std() / np.sqrt(n)
    w = simulate(brownian(2, 3.0), np.zeros((n, 2)), t, rng)[:, -1]
    np.testing.assert_allclose(np.cov(w.T), 9.0 * np.eye(2), atol=4.5 * 9.0 * np.sqrt(2.0 / n))


def test_a_matrix_of_noises_correlates_states():
    mix = np.array([[1.0, 0.0, 2.0], [0.5, -1.0, 0.0]])
    process = Diffusion("mixed", 2, lambda t, x: np.zeros_like(x), lambda t, x: np.broadcast_to(mix, (*x.shape, 3)))
    x = simulate(process, np.zeros((40_000, 2)), np.array([0.0, 0.25]), np.random.default_rng(1))[:, -1]
    np.testing.assert_allclose(np.cov(x.T), 0.25 * mix @ mix.T, atol=0.05)


def test_a_copy_of_a_fleet_is_the_lone_run_and_padding_moves_nothing():
    problem = decaying_square()
    fleet = problem.batch(3, 0.1, [np.random.default_rng(seed) for seed in (5, 6)])
    lone = problem.batch(3, 0.1, np.random.default_rng(6))
    for name in ("t", "x", "reward", "payoff"):
        np.testing.assert_array_equal(getattr(fleet, name)[1], getattr(lone, name))
    t = np.array([[0.0, 0.5, 1.0], [0.0, 1.0, 1.0]])
    x = simulate(brownian(), np.zeros((2, 1)), t, np.random.default_rng(0))
    assert x[1, 1] == x[1, 2] and x[0, 1] != x[0, 2]


def test_times():
    np.testing.assert_allclose(regular_times(1.0, 0.1), np.arange(11) / 10.0)
    t = irregular_times(2.0, 5, 3, [np.random.default_rng(0), np.random.default_rng(1)])
    assert t.shape == (2, 3, 6) and (np.diff(t) > 0.0).all() and (t[..., 0] == 0.0).all() and (t[..., -1] == 2.0).all()


# --- closed forms against integrals of exact moments ------------------------------------------------------------------


def test_closed_forms_solve_their_equations():
    """J_t + b J_x + s^2/2 J_xx + r - rho J = 0, by central differences."""
    x, tau, h = np.array([[-1.3], [0.2], [0.9]]), np.array([0.3, 0.5, 0.9]), 1e-4
    for problem, b, s in (
        (brownian_power(1), lambda x: 0.0 * x, lambda x: 1.0),
        (brownian_power(3), lambda x: 0.0 * x, lambda x: 1.0),
        (decaying_square(1.5, 0.8), lambda x: -1.5 * x, lambda x: 0.8),
        (discounted_square(), lambda x: -x, lambda x: np.sqrt(2.0)),
        (call_option(), lambda x: 0.05 * x, lambda x: 0.2 * x),
    ):
        y = np.abs(x) + 0.5 if problem.payoff is not None else x

        def value(y, tau, problem=problem):
            return problem.value(y) if problem.infinite else problem.value(y, tau)

        v, up, down = value(y, tau), value(y + h, tau), value(y - h, tau)
        slope, curve = (up - down) / (2 * h), (up - 2 * v + down) / h**2
        flow = 0.0 if problem.infinite else (value(y, tau + h) - value(y, tau - h)) / (2 * h)
        reward = problem.reward(tau, y)
        residual = -flow + b(y[:, 0]) * slope + 0.5 * s(y[:, 0]) ** 2 * curve + reward - problem.rho * v
        np.testing.assert_allclose(residual, 0.0, atol=2e-6)


def test_values_at_known_points():
    value = integrate.quad(lambda u: 0.49 * np.exp(-2 * u) + 0.5 * (1 - np.exp(-2 * u)), 0.0, 0.8)[0]
    assert decaying_square().value(np.array([0.7]), 0.8) == pytest.approx(value)
    assert discounted_square().value(np.array([2.0])) == pytest.approx(4 / 3 + 2 / 3)
    assert call_option().value(np.array([1.0]), 1.0) == pytest.approx(0.104505836, abs=1e-9)  # the textbook's 10.4506 on 100
    assert call_option().value(np.array([1.2]), 0.0) == pytest.approx(0.2)
    assert brownian_power(3).value(np.array([2.0]), np.array(0.5)) == pytest.approx(8 * 0.5 + 1.5 * 2 * 0.25)


def test_simulated_returns_have_the_value_as_their_mean():
    batch = call_option().batch(20_000, 0.05, np.random.default_rng(2))
    gain = np.exp(-0.05) * batch.payoff - call_option().value(batch.x[:, 0], 1.0)
    assert abs(gain.mean()) < 4.5 * gain.std() / np.sqrt(len(gain))


# --- what is refused ------------------------------------------------------------------------------------------------


def test_mistakes():
    rng, t = np.random.default_rng(0), np.array([0.0, 1.0])
    flat = brownian(2)
    cases = [
        (lambda: simulate(flat, np.zeros((3, 1)), t, rng), r"start has shape \(3, 1\): Brownian motion of dimension 2"),
        (lambda: simulate(flat, np.zeros(2), np.array([0.0]), rng), r"times have shape \(1,\)"),
        (lambda: simulate(flat, np.zeros((3, 2)), np.zeros((2, 4)), rng), r"times have shape \(2, 4\)"),
        (lambda: simulate(flat, np.zeros(2), np.array([1.0, 0.0]), rng), "times decrease"),
        (lambda: simulate(flat, np.zeros((3, 4, 2)), t, [rng]), "1 generators for a first axis of 3"),
        (lambda: simulate(Diffusion("d", 1, lambda t, x: x[..., 0], lambda t, x: x), np.zeros((2, 1)), t, rng), "drift of d has shape"),
        (lambda: simulate(Diffusion("d", 1, lambda t, x: x, lambda t, x: x[..., 0]), np.zeros((2, 1)), t, rng), "volatility of d has"),
        (lambda: ornstein_uhlenbeck(rate=0.0), "rate is 0.0"),
        (lambda: ornstein_uhlenbeck(sigma=-1.0), "sigma is -1.0"),
        (lambda: brownian(sigma=0.0), "sigma is 0.0"),
        (lambda: geometric_brownian(sigma=np.nan), "sigma is nan"),
        (lambda: brownian_power(2), "power is 2"),
        (lambda: decaying_square().batch(2, 0.3, rng), "dt is 0.3: it must be positive and divide the horizon"),
        (lambda: decaying_square().batch(2, 0.0, rng), "dt is 0.0"),
    ]
    for wrong, message in cases:
        with pytest.raises(ConfigError, match=message):
            wrong()


def test_an_explosion_is_named():
    process = Diffusion("cubic", 1, lambda t, x: x**3, lambda t, x: np.ones_like(x))
    with pytest.raises(DataError, match=r"cubic: path \[1\] left the finite numbers at t = [3-9]"):
        simulate(process, np.array([[0.0], [5.0]]), np.arange(10.0), np.random.default_rng(0))
