"""Exact inference: Kalman against dense Gaussian conditioning, forward-backward against enumeration, both against `particles` 0.4."""

import itertools
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar

from surefoot.claims.paris_particle_gibbs import simulated
from surefoot.envs.state_space import LinearGaussian, simulate
from surefoot.envs.state_space_models import DiscreteHMM
from surefoot.errors import ConfigError, DataError
from surefoot.methods.exact.forward_backward import forward_backward
from surefoot.methods.exact.kalman import draw_paths, kalman_filter, kalman_smoother

torch.set_num_threads(1)
F = torch.float64
PEER = np.load(Path(__file__).parents[2] / "fixtures" / "particles.npz", allow_pickle=False)


def tensor(x):
    return torch.as_tensor(x, dtype=F)


def scalar(a=0.9, q=0.5, r=1.0, p0=0.5 / 0.19):
    return LinearGaussian(a, q, 1.0, r, p0)


def random_model(seed, dx=2, dy=3):
    g = torch.Generator().manual_seed(seed)

    def covariance(d):
        root = torch.randn(d, d, dtype=F, generator=g)
        return root @ root.mT + 0.1 * torch.eye(d, dtype=F)

    a, c = 0.6 * torch.randn(dx, dx, dtype=F, generator=g), torch.randn(dy, dx, dtype=F, generator=g)
    return LinearGaussian(a, covariance(dx), c, covariance(dy), covariance(dx), torch.randn(dx, dtype=F, generator=g))


def joint(model, steps):
    """Mean and covariance of all states and all observations as one Gaussian vector."""
    d, e = model.dx, model.dy
    mean, blocks = [model.m0], [model.p0]
    for _ in range(steps - 1):
        mean.append(model.a @ mean[-1])
        blocks.append(model.a @ blocks[-1] @ model.a.mT + model.q)
    x = torch.zeros(steps * d, steps * d, dtype=F)
    for s in range(steps):
        block = blocks[s]
        for t in range(s, steps):
            x[s * d : (s + 1) * d, t * d : (t + 1) * d] = block
            x[t * d : (t + 1) * d, s * d : (s + 1) * d] = block.mT
            block = block @ model.a.mT
    c = torch.block_diag(*[model.c] * steps)
    return torch.cat(mean), x, c, torch.block_diag(*[model.r] * steps), e


@pytest.mark.parametrize("missing", [0.0, 0.3])
@pytest.mark.parametrize("seed", range(4))
def test_equal_to_dense_conditioning(seed, missing):
    """Also with single values missing, whole rows missing, and the first row missing."""
    steps, model = 6, random_model(seed)
    y = simulate(model, steps, seed=seed)[1][:, 0]
    if missing:
        y[torch.rand(y.shape, generator=torch.Generator().manual_seed(seed)) < missing] = math.nan
        y[2 * (seed % 2)] = math.nan
    mean, cov, c, r, _ = joint(model, steps)
    seen = ~y.flatten().isnan()
    c, r, obs = c[seen], r[seen][:, seen], y.flatten()[seen]
    s = c @ cov @ c.mT + r
    gain = cov @ c.mT @ torch.linalg.inv(s)
    posterior_mean, posterior = mean + gain @ (obs - c @ mean), cov - gain @ c @ cov
    found = kalman_smoother(model, y)
    d = model.dx
    torch.testing.assert_close(found.mean.flatten(), posterior_mean)
    for t in range(steps):
        torch.testing.assert_close(found.covariance[t], posterior[t * d : (t + 1) * d, t * d : (t + 1) * d])
        if t < steps - 1:
            torch.testing.assert_close(found.lag_covariance[t], posterior[t * d : (t + 1) * d, (t + 1) * d : (t + 2) * d])
    expected = torch.distributions.MultivariateNormal(c @ mean, s).log_prob(obs)
    torch.testing.assert_close(found.log_likelihood, expected, rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(kalman_filter(model, y).mean[-1], found.mean[-1])


def test_oracle_1_three_observations():
    found = kalman_smoother(scalar(), np.array([1.0, 0.0, -1.0]))
    np.testing.assert_allclose(found.mean[:, 0], [0.333333, 0.0, -0.333333], atol=5e-7)
    np.testing.assert_allclose(found.covariance[:, 0, 0], [0.479675, 0.406504, 0.479675], atol=5e-7)
    np.testing.assert_allclose(found.lag_covariance[:, 0, 0], [0.243902, 0.243902], atol=5e-7)
    assert float(found.log_likelihood) == pytest.approx(-4.762820, abs=5e-7)
    assert float(found.lag_moment.sum()) == pytest.approx(0.487805, abs=5e-7)
    squares = (found.covariance[:-1, 0, 0] + found.mean[:-1, 0] ** 2).sum()
    assert float((found.lag_moment.sum() - 0.9 * squares) / 0.5) == pytest.approx(-0.819512, abs=5e-7)


def test_oracle_6_the_score_is_the_slope_of_the_likelihood():
    """By finite differences and by autograd, with p0 held fixed."""
    y, a = np.array([1.0, 0.0, -1.0]), tensor(0.9).requires_grad_()
    e = 1e-5
    slope = (kalman_filter(scalar(0.9 + e), y).log_likelihood - kalman_filter(scalar(0.9 - e), y).log_likelihood) / (2 * e)
    assert float(slope) == pytest.approx(-0.819512, abs=1e-6)
    kalman_filter(scalar(a), y).log_likelihood.backward()
    assert float(a.grad) == pytest.approx(-0.819512, abs=5e-7)


def test_the_cards_two_data_sets():
    """Pilot: 50.606 for the smoothed sum of products of the first, a maximum-likelihood a of .82913 for the second."""
    p0 = 0.2 / (1 - 0.95**2)
    y = simulated(np.random.default_rng(0), 0.3)
    assert float(kalman_smoother(scalar(0.95, 0.2, 0.3, p0), y).lag_moment.sum()) == pytest.approx(50.606, abs=5e-4)
    y = simulated(np.random.default_rng(3), 1.0)

    def loss(a):
        return -float(kalman_filter(scalar(a, 0.2, 1.0, p0), y).log_likelihood)

    assert minimize_scalar(loss, bounds=(0, 1.2), method="bounded", options={"xatol": 1e-8}).x == pytest.approx(0.82913, abs=5e-6)


def test_parity_with_particles():
    model = LinearGaussian(*(tensor(PEER[f"kalman.{name}"]) for name in ("a", "q", "c", "r", "p0", "m0")))
    filtered, smoothed = kalman_filter(model, PEER["kalman.y"]), kalman_smoother(model, PEER["kalman.y"])
    for name, found in (("filtered", filtered), ("smoothed", smoothed)):
        np.testing.assert_allclose(found.mean, PEER[f"kalman.{name}.mean"], rtol=1e-9, atol=1e-10)
        np.testing.assert_allclose(found.covariance, PEER[f"kalman.{name}.covariance"], rtol=1e-9, atol=1e-10)
    assert float(filtered.log_likelihood) == pytest.approx(float(PEER["kalman.log_likelihood"]), rel=1e-10)


def test_chains_are_filtered_side_by_side():
    """Parameters a chain, series a chain, or both; with gaps that differ from chain to chain."""
    a, y = tensor([0.5, 0.9, -0.3]), simulate(scalar(), 7, chains=3, seed=1)[1]
    y[2, 1] = y[0, 2] = math.nan
    both = kalman_smoother(LinearGaussian(a[:, None, None], 0.5, 1.0, 1.0, 2.0), y)
    series = kalman_smoother(scalar(), y)
    models = kalman_smoother(LinearGaussian(a[:, None, None], 0.5, 1.0, 1.0, 2.0), y[:, 1])
    for r in range(3):
        for found, alone in (
            (both, kalman_smoother(scalar(float(a[r]), p0=2.0), y[:, r])),
            (series, kalman_smoother(scalar(), y[:, r])),
            (models, kalman_smoother(scalar(float(a[r]), p0=2.0), y[:, 1])),
        ):
            torch.testing.assert_close(found.mean[:, r], alone.mean)
            torch.testing.assert_close(found.covariance[:, r], alone.covariance)
            torch.testing.assert_close(found.lag_covariance[:, r], alone.lag_covariance)
            torch.testing.assert_close(found.log_likelihood[r], alone.log_likelihood)


def test_states_that_repeat_older_ones():
    """An AR(2) in companion form has a singular Q, and here a singular predicted covariance too; the smoother needs no inverse."""
    a = tensor([[0.5, 0.3], [1.0, 0.0]])
    model = LinearGaussian(a, torch.diag(tensor([0.4, 0.0])), tensor([[1.0, 0.0]]), 0.2, torch.zeros(2, 2), tensor([1.0, 0.5]))
    y = simulate(model, 6, seed=3)[1][:, 0]
    found = kalman_smoother(model, y)
    nearly = LinearGaussian(a, torch.diag(tensor([0.4, 1e-9])), tensor([[1.0, 0.0]]), 0.2, 1e-9 * torch.eye(2, dtype=F), tensor([1.0, 0.5]))
    other = kalman_smoother(nearly, y)
    torch.testing.assert_close(found.mean, other.mean, atol=1e-6, rtol=0)
    torch.testing.assert_close(found.covariance, other.covariance, atol=1e-6, rtol=0)
    torch.testing.assert_close(found.mean[1:, 1], found.mean[:-1, 0])  # the second state is the first, one step older


def test_paths_are_drawn_from_the_smoothing_law():
    y = np.array([1.0, 0.0, np.nan, -1.0])
    paths, found = draw_paths(scalar(), y, 100_000, seed=1)[..., 0], kalman_smoother(scalar(), y)
    z = (paths.mean(0) - found.mean[:, 0]) / found.covariance[:, 0, 0].sqrt() * math.sqrt(100_000)
    assert z.abs().max() < 4.5
    cov = paths.T.cov()
    torch.testing.assert_close(cov.diagonal(), found.covariance[:, 0, 0], rtol=0.03, atol=0)
    torch.testing.assert_close(cov.diagonal(1), found.lag_covariance[:, 0, 0], rtol=0.05, atol=0)


def test_one_observation():
    found = kalman_smoother(scalar(p0=2.0), [1.0])
    assert found.lag_covariance.shape == (0, 1, 1)
    assert float(found.mean) == pytest.approx(2 / 3) and float(found.covariance) == pytest.approx(2 / 3)


def test_refusals():
    exact = LinearGaussian(
        torch.eye(2, dtype=F), torch.eye(2, dtype=F), torch.ones(2, 2, dtype=F), torch.zeros(2, 2), torch.eye(2, dtype=F)
    )
    with pytest.raises(ConfigError, match=r"the covariance of y\[1\] given the past is singular"):
        kalman_filter(exact, [[math.nan, math.nan], [0.0, 0.0]])
    with pytest.raises(ConfigError, match="paths are drawn for one series"):
        draw_paths(scalar(), np.ones((3, 2, 1)), 5)
    with pytest.raises(DataError, match=r"y has shape \(3, 2\)"):
        kalman_filter(scalar(), np.ones((3, 2)))


# --- the discrete chain -----------------------------------------------------------------------------------------------


def hmm():
    return DiscreteHMM(tensor([[0.9, 0.1], [0.2, 0.8]]), tensor([[0.7, 0.3], [0.2, 0.8]]), tensor([0.5, 0.5]))


def test_oracle_3_five_symbols():
    found = forward_backward(hmm(), [0, 1, 1, 0, 1])
    assert float(found.log_likelihood.exp()) == pytest.approx(0.0184317, abs=5e-8)
    pairs = found.transitions.sum(0)
    assert float(pairs[0, 1] + pairs[1, 0]) == pytest.approx(0.712810, abs=5e-7)
    assert float(pairs[1, 1]) == pytest.approx(1.722051, abs=5e-7)


@pytest.mark.parametrize("seed", range(3))
def test_equal_to_enumeration(seed):
    rng = np.random.default_rng(seed)
    p, e, p0 = rng.dirichlet(np.ones(3), 3), rng.dirichlet(np.ones(2), 3), rng.dirichlet(np.ones(3))
    y = [0, np.nan, 1, 1]
    states, pairs, total = np.zeros((4, 3)), np.zeros((3, 3, 3)), 0.0
    for x in itertools.product(range(3), repeat=4):
        w = p0[x[0]] * np.prod([p[i, j] for i, j in itertools.pairwise(x)])
        w *= np.prod([e[i, int(s)] for i, s in zip(x, y, strict=True) if not np.isnan(s)])
        total += w
        states[range(4), x] += w
        pairs[range(3), x[:-1], x[1:]] += w
    found = forward_backward(DiscreteHMM(tensor(p), tensor(e), tensor(p0)), y)
    np.testing.assert_allclose(found.states, states / total)
    np.testing.assert_allclose(found.transitions, pairs / total)
    assert float(found.log_likelihood) == pytest.approx(math.log(total))


def test_parity_of_the_chain_with_particles():
    model = DiscreteHMM(*(tensor(PEER[f"hmm.{name}"]) for name in ("transition", "emission", "initial")))
    found = forward_backward(model, PEER["hmm.y"])
    np.testing.assert_allclose(found.filtered, PEER["hmm.filtered"], atol=1e-12)
    np.testing.assert_allclose(found.states, PEER["hmm.smoothed"], atol=1e-12)
    assert float(found.log_likelihood) == pytest.approx(float(PEER["hmm.log_likelihood"]), rel=1e-12)


def test_long_series_do_not_underflow():
    y = simulate(hmm(), 3000, seed=2)[1][:, 0]
    found = forward_backward(hmm(), y)
    assert torch.isfinite(found.log_likelihood) and found.log_likelihood < -1000
    torch.testing.assert_close(found.states.sum(1), torch.ones(3000, dtype=F))


def test_impossible_symbols_are_refused():
    never = DiscreteHMM(torch.eye(2), torch.eye(2), tensor([1.0, 0.0]))
    with pytest.raises(DataError, match=r"y\[2\] is 1.0, which has probability 0 after the symbols before it"):
        forward_backward(never, [0, 0, 1])
    with pytest.raises(DataError, match="one series at a time"):
        forward_backward(hmm(), np.zeros((3, 2, 1)))
