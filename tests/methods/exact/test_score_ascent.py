"""Score ascent: scores against the sums that PaRIS carries and exact slopes; learning, with and without the reference; bad input."""

import math

import numpy as np
import pytest
import torch

from surefoot.claims.paris_particle_gibbs import maximum_likelihood, simulated, with_a
from surefoot.envs.state_space import LinearGaussian, StateSpaceModel, log_gaussian, normal, per_chain, simulate
from surefoot.envs.state_space_models import DiscreteHMM, StochasticVolatility
from surefoot.errors import ConfigError, DivergedError, UnknownNameError
from surefoot.methods.exact import score_ascent
from surefoot.methods.exact.forward_backward import forward_backward
from surefoot.methods.exact.kalman import draw_paths, kalman_filter
from surefoot.methods.exact.paris_particle_gibbs import PPGConfig, sweep
from surefoot.methods.exact.particle_filter import Series, particle_filter
from surefoot.methods.exact.score_ascent import AscentConfig, expected_log_joint, learn, log_joint

torch.set_num_threads(1)
F = torch.float64
Y = np.array([1.0, 0.5, -0.2, -1.0, 0.3, 0.8, 1.2, 0.1, -0.4, -0.9])


def tensor(x):
    return torch.as_tensor(x, dtype=F)


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def off(values, truth):
    """How many standard errors the mean over axis 0 is off, at most."""
    return float(((values.mean(0) - truth) / (values.std(0) / math.sqrt(len(values)))).abs().max())


# --- scores -----------------------------------------------------------------------------------------------------------


def test_score_equals_the_sum_that_paris_carries():
    """One gradient of the weighted log densities is the PaRIS estimate with h the score terms, particle by particle, to rounding."""
    a = tensor(0.9).requires_grad_()
    model = LinearGaussian(a, 0.5, 1.0, 1.0, 0.5 / 0.19)

    def term(t, x, x_next):
        return (x_next - 0.9 * x) * x / 0.5  # d log m / da

    series = Series(model, Y, 4, torch.device("cpu"))
    done = sweep(model, series, term, PPGConfig(particles=6, draws=3), seeded(5), torch.zeros(4, 10, 1, dtype=F))
    value = expected_log_joint(model, series, done)
    assert float(torch.autograd.grad(value, a)[0]) == pytest.approx(float(done.estimate.sum()), rel=1e-11)
    for w in done.smoothing_weights():
        torch.testing.assert_close(w.sum(1), torch.ones(4, dtype=F))


@pytest.mark.parametrize("gaps", ["none", "shared", "a chain"])
@pytest.mark.parametrize("name", ["gaussian", "volatility", "symbols"])
def test_all_times_at_once_are_time_by_time(name, gaps):
    theta = tensor([[0.3, -0.2, 0.1], [0.5, 0.1, -0.3]]).requires_grad_()

    def build():
        if name == "gaussian":
            return LinearGaussian(theta[:, 0, None, None], theta[:, 1, None, None].exp(), 1.0, theta[:, 2, None, None].exp(), 1.0)
        if name == "volatility":
            return StochasticVolatility(theta[:, 0].tanh(), theta[:, 1].exp(), theta[:, 2].exp())
        return DiscreteHMM(theta[:, :2].softmax(-1), theta[:, 1:].softmax(-1), theta[0, :2].softmax(-1))

    y = simulate(build(), 6, chains=2, seed=1)[1]
    if gaps == "shared":
        y = y[:, 0]
        y[2] = y[0] = math.nan
    elif gaps == "a chain":
        y[2] = y[0, 1] = y[4, 0] = math.nan
    model, series = build(), Series(build(), y, 2, torch.device("cpu"))
    done = sweep(model, series, None, PPGConfig(particles=7, draws=3), seeded(1), None)
    slopes = []
    for model.homogeneous in (True, False):
        value = expected_log_joint(model, series, done)
        slopes.append((value, torch.autograd.grad(value, theta, retain_graph=True)[0]))
    torch.testing.assert_close(slopes[0], slopes[1], rtol=1e-11, atol=1e-12)


def test_score_is_the_slope_of_the_likelihood():
    """All parameters, those of the initial law and of the observations too, by autograd of Kalman; chains have their own."""
    start = tensor([0.8, 0.4, 1.2, 0.9, 1.5, 0.3])

    def build(theta):
        a, q, c, r, p0 = theta[:, :5].unsqueeze(-1).unsqueeze(-1).unbind(1)
        return LinearGaussian(a, q, c, r, p0, theta[:, 5:])

    exact = start[None].clone().requires_grad_()
    slope = torch.autograd.grad(kalman_filter(build(exact), Y).log_likelihood.sum(), exact)[0][0]
    theta = start.expand(400, 6).clone().requires_grad_()
    model, series = build(theta), Series(build(theta), Y, 400, torch.device("cpu"))
    path = draw_paths(LinearGaussian(0.8, 0.4, 1.2, 0.9, 1.5, 0.3), Y, 400, seed=3)
    done = sweep(model, series, None, PPGConfig(particles=30), seeded(1), path)
    score = torch.autograd.grad(expected_log_joint(model, series, done), theta)[0]
    assert off(score, slope) < 4.5
    alone = torch.autograd.grad(log_joint(build(theta), series, path), theta)[0]  # of the path alone: unbiased, but noisier
    assert off(alone, slope) < 4.5
    assert (alone.std(0) > 1.3 * score.std(0)).all()


def test_score_of_tables_and_impossible_states():
    """A symbol that a state cannot emit gives weight zero; its infinite slope must not touch the others."""
    theta = torch.zeros(1, 2, dtype=F).requires_grad_()

    def build(theta):
        p = torch.stack([theta[0].sigmoid(), 1 - theta[0].sigmoid()], -1)
        return DiscreteHMM(p, tensor([[1.0, 0.0], [0.5, 0.5]]), tensor([0.5, 0.5]))

    y = [0, 1, 0, 1, 0]
    model, series = build(theta), Series(build(theta), y, 1, torch.device("cpu"))
    value = forward_backward(model, y).log_likelihood
    slope = torch.autograd.grad(value, theta)[0]
    found = torch.zeros(1, 2, dtype=F)
    for seed in range(20):
        done = sweep(model, series, None, PPGConfig(particles=300), seeded(seed), None)
        found += torch.autograd.grad(expected_log_joint(build(theta), series, done), theta)[0] / 20
    torch.testing.assert_close(found, slope, atol=0.05, rtol=0)


# --- learning ---------------------------------------------------------------------------------------------------------


def errors(y, exact, **settings):
    config = AscentConfig(iterations=40, step=0.2, particles=10, **settings)
    return (learn(with_a, [0.3], y, config, chains=60, seed=1).theta[:, 0] - exact).numpy()


def test_learning_finds_the_maximum_and_needs_the_reference(monkeypatch):
    """PPG's mean error is a fraction of that of PaRIS. With the reference switched off PPG is PaRIS, and the first line fails for it."""
    y = simulated(np.random.default_rng(3), 1.0)
    exact = maximum_likelihood(y)
    assert exact == pytest.approx(0.82913, abs=5e-6)
    assert abs(errors(y, exact).mean()) < 0.02
    conditional = score_ascent.sweep
    monkeypatch.setattr(score_ascent, "sweep", lambda *a: conditional(*a[:5], None))  # the key term off
    assert errors(y, exact).mean() < -0.03


def test_a_neural_transition_is_learned():
    """A model of the user's, with a network in it: the likelihood of held parameters rises, and the score needs nothing but densities."""

    class Neural(StateSpaceModel):
        def __init__(self, theta):
            self.theta = theta  # [R, 3]: x' = x + c tanh(a x + b)

        def move(self, x):
            a, b, c = (per_chain(p, x) for p in self.theta.unbind(-1))
            return x + c * (a * x + b).tanh()

        def sample_x0(self, shape, generator):
            return normal((*shape, 1), generator)

        def log_x0(self, x):
            return log_gaussian(x, 1.0)

        def sample_x(self, t, x, generator):
            return self.move(x) + 0.5 * normal(x.shape, generator)

        def log_m(self, t, x, x_next):
            return log_gaussian(x_next - self.move(x), 0.25)

        def sample_y(self, t, x, generator):
            return x + 0.5 * normal(x.shape, generator)

        def log_g(self, t, x, y):
            return log_gaussian(y - x, 0.25)

    true = tensor([[2.0, 0.0, -0.8]])
    y = simulate(Neural(true), 60, seed=7)[1][:, 0]
    found = learn(Neural, [0.5, 0.0, -0.1], y, AscentConfig(iterations=40, rule="adam", step=0.1, particles=15), seed=2)
    assert found.trajectory.shape == (41, 1, 3) and found.path.shape == (1, 60, 1)

    def likelihood(theta):
        return float(particle_filter(Neural(theta), y, particles=2000, chains=1, seed=3).log_likelihood)

    assert likelihood(found.theta) > likelihood(tensor([[0.5, 0.0, -0.1]])) + 5
    assert likelihood(found.theta) > likelihood(true) - 2


def test_volatility_is_learned():
    def build(theta):
        return StochasticVolatility(theta[:, 0].tanh(), theta[:, 1].exp(), theta[:, 2].exp())

    y = simulate(StochasticVolatility(0.9, 0.4, 0.7), 100, seed=1)[1][:, 0]
    found = learn(build, [1.0, -1.0, 0.0], y, AscentConfig(iterations=30, rule="adam", step=0.1, particles=20), chains=2)
    start, true = tensor([[1.0, -1.0, 0.0]]), tensor([[math.atanh(0.9), math.log(0.4), math.log(0.7)]])
    reached = particle_filter(build(torch.cat([found.theta, start, true])), y, particles=3000, chains=4).log_likelihood
    assert (reached[:2] > reached[3] - 1).all() and (reached[:2] > reached[2] + 4).all()
    assert (found.theta[0] - found.theta[1]).abs().max() < 0.5  # two chains find the same


@pytest.mark.parametrize("estimator", ["paris", "path", "ppg"])
def test_every_estimator_climbs(estimator):
    y = simulated(np.random.default_rng(3), 1.0)
    found = learn(with_a, [0.3], y, AscentConfig(iterations=10, estimator=estimator, sweeps=2, burn_in=1, step=0.1), chains=8)
    assert (found.trajectory[-1] > 0.32).all()


# --- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message", "error"),
    [
        ({"iterations": 0}, "iterations is 0", ConfigError),
        ({"step": 0.0}, "step is 0.0 and decay is 20.0", ConfigError),
        ({"average": 0.0}, "average is 0.0", ConfigError),
        ({"rule": "adan"}, "did you mean 'adam'", UnknownNameError),
        ({"estimator": "pgg"}, "did you mean 'ppg'", UnknownNameError),
        ({"burn_in": 1}, "burn_in is 1 of 1 sweeps", ConfigError),
    ],
)
def test_ascent_settings(settings, message, error):
    with pytest.raises(error, match=message):
        AscentConfig(**settings)


def test_learning_refuses():
    with pytest.raises(ConfigError, match=r"theta has shape \(3, 1\): give finite numbers \[p\], or \[2, p\]"):
        learn(with_a, torch.zeros(3, 1), Y, chains=2)
    with pytest.raises(ConfigError, match="give finite numbers"):
        learn(with_a, [math.nan], Y)
    with pytest.raises(DivergedError, match=r"theta cannot be used from iteration 1 on: take a smaller step than 1e\+200"):
        learn(with_a, [0.3], Y, AscentConfig(iterations=3, particles=5, step=1e200))
    with pytest.raises(ConfigError, match=r"\|phi\| is 1.5"):  # at the start it is the user's own mistake
        learn(lambda theta: StochasticVolatility(theta[:, 0], 0.3, 1.0), [1.5], Y)
    model = StochasticVolatility(0.9, 0.3, 1.0)

    def broken(theta):
        model.log_x0 = lambda x: (theta.log() * x[..., 0]).sum(-1, keepdim=True)  # no slope at zero
        return model

    with pytest.raises(DivergedError, match="theta became NaN or infinite in iteration 0"):
        learn(broken, [0.0], Y, AscentConfig(iterations=2, particles=5))
