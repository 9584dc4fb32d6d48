"""Particle filters: unbiased likelihoods, means by Kalman and on a grid, gaps in the data, proposals, and what degenerate filters say."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from surefoot.envs.state_space import LinearGaussian, StateSpaceModel, normal, simulate
from surefoot.envs.state_space_models import ChaoticNetwork, DiscreteHMM, NonlinearGrowth, StochasticVolatility
from surefoot.errors import ConfigError, DataError, UnknownNameError
from surefoot.methods.exact.forward_backward import forward_backward
from surefoot.methods.exact.kalman import kalman_filter, kalman_smoother
from surefoot.methods.exact.particle_filter import Series, particle_filter, particle_steps
from surefoot.methods.exact.proposals import LocallyOptimal, Proposal
from surefoot.methods.exact.resampling import RESAMPLING, draw, take

torch.set_num_threads(1)
F = torch.float64
PEER = np.load(Path(__file__).parents[2] / "fixtures" / "particles.npz", allow_pickle=False)
Y = np.array([1.0, 0.5, -0.2, -1.0, 0.3, 0.8, 1.2, 0.1, -0.4, -0.9])


def tensor(x):
    return torch.as_tensor(x, dtype=F)


def scalar(a=0.9, r=1.0):
    return LinearGaussian(a, 0.5, 1.0, r, 0.5 / 0.19)


def hmm():
    return DiscreteHMM(tensor([[0.9, 0.1], [0.2, 0.8]]), tensor([[0.7, 0.3], [0.2, 0.8]]), tensor([0.5, 0.5]))


def off(values, truth):
    """How many standard errors the mean over axis 0 is off, at most."""
    return float(((values.mean(0) - truth) / (values.std(0) / math.sqrt(len(values)))).abs().max())


# --- resampling -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", RESAMPLING)
def test_resampling_is_unbiased(scheme):
    w = tensor([0.1, 0.0, 0.45, 0.3, 0.15]).expand(20_000, -1)
    index = RESAMPLING[scheme](w, 7, torch.Generator().manual_seed(0))
    counts = torch.nn.functional.one_hot(index, 5).sum(1).double()
    assert (counts[:, 1] == 0).all()
    assert off(counts[:, [0, 2, 3, 4]], 7 * w[0, [0, 2, 3, 4]]) < 4.5


@settings(deadline=None, max_examples=60)
@given(st.lists(st.floats(0.0, 1.0), min_size=2, max_size=12).filter(lambda w: sum(w) > 0.01), st.integers(1, 40), st.integers(0, 99))
def test_systematic_counts_are_floor_or_ceiling(weights, n, seed):
    w = tensor(weights)[None] / sum(weights)
    counts = torch.bincount(RESAMPLING["systematic"](w, n, torch.Generator().manual_seed(seed))[0], minlength=len(weights))
    assert counts.sum() == n
    assert ((counts - n * w[0]).abs() < 1.0 + 1e-9).all()


@settings(deadline=None, max_examples=60)
@given(st.lists(st.floats(0.0, 1.0), min_size=2, max_size=12).filter(lambda w: sum(w) > 0.01), st.floats(0.0, 1.0 - 1e-12))
def test_a_draw_never_has_weight_zero(weights, u):
    assert weights[int(draw(tensor(weights), tensor([u])))] > 0.0


def test_take_is_chain_by_chain():
    x, index = torch.randn(2, 4, 3, dtype=F), torch.tensor([[[3, 0], [1, 1]], [[2, 2], [0, 3]]])
    assert take(x, index).shape == (2, 2, 2, 3)
    torch.testing.assert_close(take(x, index)[1, 1, 1], x[1, 3])


# --- what is exact ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"resampling": "multinomial", "ess_share": 1.0},
        {"resampling": "stratified", "ess_share": 0.9},
        {"ess_share": 0.0},
        {"proposal": LocallyOptimal(scalar())},
    ],
)
def test_likelihood_is_unbiased(options):
    """With ten particles, whatever the resampling and the proposal."""
    found = particle_filter(scalar(), Y[:6], particles=10, chains=30_000, **options)
    truth = kalman_filter(scalar(), Y[:6])
    assert off((found.log_likelihood - truth.log_likelihood).exp(), 1.0) < 4.5


def test_likelihood_of_symbols_is_unbiased():
    y = [0, 1, 1, 0, 1]
    found = particle_filter(hmm(), y, particles=5, chains=40_000, resampling="multinomial", ess_share=1.0)
    assert off(found.log_likelihood.exp(), 0.0184317) < 4.5


@pytest.mark.parametrize("proposal", [False, True])
def test_many_particles_are_kalman(proposal):
    """Two states, three observations; some rows are missing."""
    a, c = tensor([[0.8, 0.3], [-0.2, 0.7]]), tensor([[1.0, 0.5], [0.0, 1.0], [0.3, -0.4]])
    model = LinearGaussian(a, 0.3 * torch.eye(2), c, 0.8 * torch.eye(3), torch.eye(2), tensor([0.5, -1.0]))
    y = simulate(model, 8, seed=1)[1][:, 0]
    y[0] = y[4] = math.nan
    exact = kalman_filter(model, y)
    found = particle_filter(model, y, particles=4000, chains=40, proposal=LocallyOptimal(model) if proposal else None)
    assert off(found.mean.transpose(0, 1), exact.mean) < 4.5
    torch.testing.assert_close(found.variance.mean(1), exact.covariance.diagonal(dim1=-2, dim2=-1), rtol=0.05, atol=0)
    assert abs(float(found.log_likelihood.mean() - exact.log_likelihood)) < 0.02
    assert (found.ess <= 4000 + 1e-6).all() and (found.ess >= 1).all()


def test_the_best_proposal_has_less_variance():
    y = np.array([3.0, -3.0, 3.0, -3.0, 3.0])  # a bootstrap filter looks in the wrong place
    model = scalar(r=0.05)
    plain, guided = (particle_filter(model, y, particles=200, chains=300, proposal=p) for p in (None, LocallyOptimal(model)))
    exact = kalman_filter(model, y).log_likelihood
    assert guided.log_likelihood.std() < 0.3 * plain.log_likelihood.std()
    assert off((guided.log_likelihood - exact).exp(), 1.0) < 4.5


def test_growth_model_on_a_grid():
    """Two modes and a transition that depends on t: the filter's means are those of quadrature."""
    model = NonlinearGrowth()
    y = simulate(model, 8, seed=2)[1][:, 0]
    grid = torch.linspace(-60, 60, 2401, dtype=F).reshape(1, -1, 1)
    p, log_likelihood, means = model.log_x0(grid).exp(), 0.0, []
    for t in range(8):
        if t > 0:
            p = (model.log_m(t - 1, grid.unsqueeze(1), grid.unsqueeze(2)).exp() @ p.unsqueeze(-1)).squeeze(-1) * 0.05
        p = p * model.log_g(t, grid, y[t]).exp()
        evidence = p.sum() * 0.05
        log_likelihood, p = log_likelihood + evidence.log(), p / evidence
        means.append((p * grid[..., 0]).sum() * 0.05)
    found = particle_filter(model, y, particles=5000, chains=40)
    assert abs(float(found.log_likelihood.mean() - log_likelihood)) < 0.03
    assert off(found.mean[..., 0].T, torch.stack(means)) < 4.5


def test_paths_are_smoothed():
    """A path traced through many particles has nearly the smoothing law."""
    found = particle_filter(scalar(), Y, particles=300, chains=4000, resampling="multinomial", ess_share=1.0, keep=True)
    paths = found.draw_path(1)
    assert paths.shape == (4000, 10, 1)
    exact = kalman_smoother(scalar(), Y)
    torch.testing.assert_close(paths.mean(0), exact.mean, atol=0.06, rtol=0)
    torch.testing.assert_close((paths[:, 1:] * paths[:, :-1]).mean(0)[..., None], exact.lag_moment, atol=0.1, rtol=0)


def test_paths_without_resampling_are_particles():
    """Ancestors are the particles themselves where nothing was resampled."""
    found = particle_filter(scalar(), Y, particles=20, ess_share=0.0, keep=True)
    every = torch.stack([step.x[0, :, 0] for step in found.history])
    assert all(step.ancestors is None for step in found.history)
    assert (every == found.draw_path(3)[0]).all(0).any()


# --- chains and gaps --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("guided", [False, True])
def test_gaps_that_differ_from_chain_to_chain(guided):
    y = simulate(scalar(), 6, chains=3, seed=4)[1]
    y[0, 0] = y[2, 1] = y[3, 1] = y[5, 2] = math.nan
    many = y.repeat_interleave(20, 1)
    found = particle_filter(scalar(), many, particles=3000, chains=60, proposal=LocallyOptimal(scalar()) if guided else None)
    exact = kalman_filter(scalar(), y)
    for r in range(3):
        mine = slice(20 * r, 20 * r + 20)
        assert off(found.mean[:, mine, 0].T, exact.mean[:, r, 0]) < 5.0
        assert abs(float(found.log_likelihood[mine].mean() - exact.log_likelihood[r])) < 0.02


def test_a_parameter_a_chain():
    a = tensor([0.2, 0.9]).repeat_interleave(30)
    model = LinearGaussian(a[:, None, None], 0.5, 1.0, 1.0, 2.0)
    found = particle_filter(model, Y, particles=3000, chains=60)
    for r, value in enumerate((0.2, 0.9)):
        exact = kalman_filter(LinearGaussian(value, 0.5, 1.0, 1.0, 2.0), Y)
        assert off(found.mean[:, 30 * r : 30 * r + 30, 0].T, exact.mean[:, 0]) < 4.5


def test_missing_symbols():
    y = [0.0, math.nan, 1.0]
    found = particle_filter(hmm(), y, particles=5000, chains=40)
    assert off(found.mean[..., 0].T, forward_backward(hmm(), y).filtered[:, 1]) < 4.5


def test_equal_seeds_equal_filters():
    one, two, three = (particle_filter(scalar(), Y, particles=50, chains=2, seed=s).mean for s in (1, 1, 2))
    assert torch.equal(one, two) and not torch.equal(one, three)


def test_a_reference_path_is_kept():
    z = torch.randn(2, 10, 1, dtype=F)
    steps = list(particle_steps(scalar(), Series(scalar(), Y, 2, z.device), 4, torch.Generator().manual_seed(0), reference=z))
    torch.testing.assert_close(torch.stack([step.x[:, 0] for step in steps], 1), z)
    torch.testing.assert_close(torch.stack([step.w.sum(1) for step in steps]), torch.ones(10, 2, dtype=F))


def test_others_run():
    for model in (StochasticVolatility(0.95, 0.3, 0.7), ChaoticNetwork(torch.randn(5, 5, dtype=F), step=0.01)):
        y = simulate(model, 20, seed=1)[1][:, 0]
        found = particle_filter(model, y, particles=500)
        assert torch.isfinite(found.log_likelihood).all() and found.mean.shape == (20, 1, model.dx)


def test_parity_with_particles():
    """200 runs of theirs with 50 particles, bootstrap and guided: means of the log-likelihood within four standard errors."""
    for name, proposal in (("bootstrap", None), ("guided", LocallyOptimal(scalar()))):
        found = particle_filter(
            scalar(), PEER["scalar.y"], particles=50, chains=4000, resampling="multinomial", ess_share=1.0, proposal=proposal
        )
        theirs, ours = PEER[name], found.log_likelihood.numpy()
        error = math.hypot(theirs.std() / math.sqrt(len(theirs)), ours.std() / math.sqrt(len(ours)))
        assert abs(theirs.mean() - ours.mean()) < 4 * error
        assert theirs.std() == pytest.approx(ours.std(), rel=0.25)


# --- what goes wrong --------------------------------------------------------------------------------------------------


class Mine(StateSpaceModel):
    """A random walk seen through noise, with an error of the user's to be put in."""

    def __init__(self, **wrong):
        self.__dict__.update(wrong)

    def sample_x0(self, shape, generator):
        return normal((*shape, 1), generator)

    def sample_x(self, t, x, generator):
        return x + normal(x.shape, generator)

    def log_g(self, t, x, y):
        return -0.5 * (y - x).square().squeeze(-1)


def test_a_model_of_ones_own():
    found = particle_filter(Mine(), Y, particles=2000, chains=20)
    exact = kalman_filter(LinearGaussian(1.0, 1.0, 1.0, 1.0, 1.0), Y)
    assert off(found.mean[..., 0].T, exact.mean[:, 0]) < 4.5


def impossible(t, x, y):
    return torch.full(x.shape[:-1], -math.inf if t == 3 else 0.0, dtype=F)


def undefined(t, x, y):
    value = torch.zeros(x.shape[:-1], dtype=F)
    value[1, 2] = math.nan if t == 3 else 0.0
    return value


@pytest.mark.parametrize(
    ("wrong", "message", "error"),
    [
        ({"log_g": impossible}, r"step 3: all 5 particles of chain 0 have weight zero: y\[3\] is impossible where they are", DataError),
        ({"log_g": undefined}, "step 3: the log weight of particle 2 in chain 1 is nan", DataError),
        (
            {"log_g": lambda t, x, y: torch.full(x.shape[:-1], math.inf)},
            "step 0: the log weight of particle 0 in chain 0 is inf",
            DataError,
        ),
        (
            {"log_g": lambda t, x, y: (y - x).square()},
            r"Mine.log_g returned shape \(2, 5, 1\) for states .*: drop the last",
            ConfigError,
        ),
        ({"sample_x": lambda t, x, g: x[..., 0]}, r"Mine.sample_x returned shape \(2, 5\) at step 1: it must be \(2, 5, 1\)", ConfigError),
        ({"sample_x0": lambda s, g: torch.zeros(s)}, r"Mine.sample_x0 returned shape \(2, 5\) at step 0", ConfigError),
    ],
)
def test_models_that_go_wrong(wrong, message, error):
    with pytest.raises(error, match=message):
        particle_filter(Mine(**wrong), Y, particles=5, chains=2)


@pytest.mark.parametrize(
    ("options", "message", "error"),
    [
        ({"particles": 1}, "particles is 1: a filter needs at least 2", ConfigError),
        ({"chains": 0}, "chains is 0", ConfigError),
        ({"resampling": "sistematic"}, "unknown resampling 'sistematic': did you mean 'systematic'", UnknownNameError),
        ({"ess_share": 1.5}, "ess_share is 1.5", ConfigError),
        ({"y": [1.0, math.inf]}, r"y\[1, 0\] is infinite", DataError),
        ({"y": np.ones((4, 2))}, r"y has shape \(4, 2\)", DataError),
        ({"y": np.ones((4, 3, 1)), "chains": 2}, r"y has shape \(4, 3, 1\): it must be \[T, 1\], or \[T, 2, 1\]", DataError),
    ],
)
def test_settings_that_are_refused(options, message, error):
    with pytest.raises(error, match=message):
        particle_filter(scalar(), **({"y": Y} | options))


def test_more_refusals():
    two = LinearGaussian(torch.eye(2), torch.eye(2), torch.eye(2), torch.eye(2), torch.eye(2))
    with pytest.raises(DataError, match=r"y\[1\] is missing in part"):
        particle_filter(two, [[1.0, 1.0], [math.nan, 0.0]])
    with pytest.raises(ConfigError, match="steps were not kept"):
        particle_filter(scalar(), Y, particles=5).draw_path()
    series, generator = Series(scalar(), Y, 1, torch.device("cpu")), torch.Generator()
    with pytest.raises(ConfigError, match=r"reference path has shape \(1, 9, 1\): it must be \[chains, T, dx\] = \(1, 10, 1\)"):
        next(particle_steps(scalar(), series, 5, generator, reference=torch.zeros(1, 9, 1, dtype=F)))
    with pytest.raises(ConfigError, match="held to a reference path moves by the model"):
        next(particle_steps(scalar(), series, 5, generator, reference=torch.zeros(1, 10, 1, dtype=F), ess_share=0.5))
    with pytest.raises(ConfigError, match="is singular: give the observations some noise"):
        LocallyOptimal(LinearGaussian(torch.eye(2), torch.eye(2), torch.ones(2, 2), torch.zeros(2, 2), torch.eye(2)))
    with pytest.raises(NotImplementedError):
        Proposal().sample_x0((1, 2), tensor([0.0]), generator)
