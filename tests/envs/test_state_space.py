"""State-space models: densities against scipy, sampling against densities, one parameter a chain, all pairs at once, bad input."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from surefoot.envs.state_space import Gaussian, LinearGaussian, StateSpaceModel, apply, observations, simulate
from surefoot.envs.state_space_models import ChaoticNetwork, DiscreteHMM, NonlinearGrowth, StochasticVolatility
from surefoot.errors import ConfigError, DataError

torch.set_num_threads(1)
F = torch.float64


def tensor(x):
    return torch.as_tensor(x, dtype=F)


def two_by_two():
    a, c = tensor([[0.8, 0.3], [-0.2, 0.7]]), tensor([[1.0, 0.5], [0.0, 1.0], [0.3, -0.4]])
    return LinearGaussian(
        a, tensor([[0.5, 0.1], [0.1, 0.3]]), c, 0.4 * torch.eye(3, dtype=F), tensor([[2.0, 0.4], [0.4, 1.0]]), tensor([0.5, -1.0])
    )


def hmm():
    return DiscreteHMM(tensor([[0.9, 0.1], [0.2, 0.8]]), tensor([[0.7, 0.3], [0.2, 0.8]]), tensor([0.5, 0.5]))


MODELS = {
    "scalar": LinearGaussian(0.9, 0.5, 1.0, 1.0, 2.0),
    "two states": two_by_two(),
    "volatility": StochasticVolatility(0.95, 0.3, 0.7),
    "symbols": hmm(),
    "growth": NonlinearGrowth(),
    "network": ChaoticNetwork(torch.randn(3, 3, dtype=F, generator=torch.Generator().manual_seed(0))),
}


# --- densities --------------------------------------------------------------------------------------------------------


def test_linear_gaussian_densities_are_scipys():
    model, rng = two_by_two(), np.random.default_rng(0)
    x, x_next, y = rng.normal(size=(4, 5, 2)), rng.normal(size=(4, 5, 2)), rng.normal(size=3)
    start, move, seen = model.log_x0(tensor(x)), model.log_m(0, tensor(x), tensor(x_next)), model.log_g(0, tensor(x), tensor(y))
    for i in np.ndindex(4, 5):
        assert float(start[i]) == pytest.approx(stats.multivariate_normal(model.m0, model.p0).logpdf(x[i]))
        assert float(move[i]) == pytest.approx(stats.multivariate_normal(model.a.numpy() @ x[i], model.q).logpdf(x_next[i]))
        assert float(seen[i]) == pytest.approx(stats.multivariate_normal(model.c.numpy() @ x[i], model.r).logpdf(y))


def test_densities_of_the_others_are_scipys():
    x, x_next, y = tensor([[[0.3], [-1.2]]]), tensor([[[0.5], [0.1]]]), tensor([0.8])
    a, b = x[0, :, 0].numpy(), x_next[0, :, 0].numpy()
    v, g = MODELS["volatility"], MODELS["growth"]
    np.testing.assert_allclose(v.log_x0(x)[0], stats.norm(0, 0.3 / math.sqrt(1 - 0.95**2)).logpdf(a))
    np.testing.assert_allclose(v.log_m(3, x, x_next)[0], stats.norm(0.95 * a, 0.3).logpdf(b))
    np.testing.assert_allclose(v.log_g(3, x, y)[0], stats.norm(0, 0.7 * np.exp(a / 2)).logpdf(0.8))
    np.testing.assert_allclose(g.log_x0(x)[0], stats.norm(0, math.sqrt(5)).logpdf(a))
    moved = a / 2 + 25 * a / (1 + a**2) + 8 * math.cos(1.2 * 3)
    np.testing.assert_allclose(g.log_m(3, x, x_next)[0], stats.norm(moved, math.sqrt(10)).logpdf(b))
    np.testing.assert_allclose(g.log_g(3, x, y)[0], stats.norm(a**2 / 20, 1).logpdf(0.8))
    n = MODELS["network"]
    state, seen = torch.linspace(-1, 1, 3, dtype=F).reshape(1, 1, 3), tensor([0.2, 0.0, 0.9])
    np.testing.assert_allclose(n.log_g(0, state, seen)[0, 0], stats.t(2, state[0, 0], 0.1).logpdf(seen).sum())
    moved = state + 0.04 * (2.5 * n.w @ state.tanh().squeeze() - state)
    np.testing.assert_allclose(n.log_m(0, state, 0.5 * state)[0, 0], stats.norm(moved, 0.1).logpdf(0.5 * state).sum())


@pytest.mark.parametrize("name", MODELS)
def test_all_pairs_at_once_are_each_pair_alone(name):
    model, generator = MODELS[name], torch.Generator().manual_seed(1)
    x = model.sample_x0((2, 4), generator)
    x_next = model.sample_x(0, x, generator)
    pairs = model.log_m(0, x.unsqueeze(1), x_next.unsqueeze(2))
    assert pairs.shape == (2, 4, 4)
    for i in range(4):
        for j in range(4):
            torch.testing.assert_close(pairs[:, i, j], model.log_m(0, x[:, j : j + 1], x_next[:, i : i + 1])[:, 0])
    assert model.log_x0(x).shape == (2, 4)
    if name not in ("growth", "network"):
        assert (pairs <= model.log_m_bound(0) + 1e-12).all()


@pytest.mark.parametrize("name", [n for n in MODELS if n != "symbols"])
def test_samples_follow_the_densities(name):
    """The mean of p'/p under p is one: for each density, against the same law moved a little."""
    model, generator = MODELS[name], torch.Generator().manual_seed(2)
    x = model.sample_x0((1, 100_000), generator)
    x_next = model.sample_x(2, x[:, :1].expand_as(x).contiguous(), generator)
    shift = 0.05
    for log_p in (model.log_x0, lambda z: model.log_m(2, x[:, :1], z)):
        z = x if log_p == model.log_x0 else x_next
        ratio = (log_p(z + shift) - log_p(z)).exp()
        assert abs(ratio.mean() - 1.0) < 4.5 * ratio.std() / math.sqrt(100_000)
    y = model.sample_y(2, x[:, :1].expand_as(x).contiguous(), generator)
    at = x[:, :1].expand(1, 1, -1)
    ratio = torch.stack([(model.log_g(2, at, v + shift) - model.log_g(2, at, v)).exp() for v in y[0, :2000]])
    assert abs(ratio.mean() - 1.0) < 4.5 * ratio.std() / math.sqrt(2000)


def test_symbols_are_drawn_as_often_as_they_should():
    model, generator = hmm(), torch.Generator().manual_seed(3)
    x = model.sample_x0((1, 40_000), generator)
    joint = torch.stack([x, model.sample_x(0, x, generator), model.sample_y(0, x, generator)])[..., 0].reshape(3, -1).long()
    counts = np.zeros((2, 2, 2))
    np.add.at(counts, tuple(joint.numpy()), 1)
    p = model.initial[:, None, None] * model.transition[:, :, None] * model.emission[:, None, :]
    assert stats.chisquare(counts.ravel(), 40_000 * p.numpy().ravel()).pvalue > 1e-3


def test_tails_of_the_network_are_students():
    generator = torch.Generator().manual_seed(4)
    x = torch.zeros(1, 5000, 3, dtype=F)
    assert stats.kstest(MODELS["network"].sample_y(0, x, generator).numpy().ravel() / 0.1, stats.t(2).cdf).pvalue > 1e-3


# --- one parameter a chain --------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=25)
@given(phi=st.lists(st.floats(-0.99, 0.99), min_size=3, max_size=3), beta=st.floats(0.1, 3.0))
def test_a_parameter_a_chain_is_a_model_a_chain(phi, beta):
    together = StochasticVolatility(tensor(phi), 0.3, tensor([beta, 1.0, 2.0]))
    x, x_next, y = torch.randn(3, 4, 1, dtype=F), torch.randn(3, 4, 1, dtype=F), tensor([0.5])
    for r, (p, b) in enumerate(zip(phi, (beta, 1.0, 2.0), strict=True)):
        alone = StochasticVolatility(p, 0.3, b)
        torch.testing.assert_close(together.log_m(0, x, x_next)[r], alone.log_m(0, x, x_next)[r])
        torch.testing.assert_close(together.log_x0(x)[r], alone.log_x0(x)[r])
        torch.testing.assert_close(together.log_g(0, x, y)[r], alone.log_g(0, x, y)[r])


def test_matrices_a_chain():
    a = torch.randn(3, 2, 2, dtype=F)
    q = a @ a.mT + torch.eye(2, dtype=F)
    together = LinearGaussian(a, q, torch.eye(2, dtype=F), torch.eye(2, dtype=F), q, torch.randn(3, 2, dtype=F))
    x, x_next = torch.randn(3, 4, 2, dtype=F), torch.randn(3, 5, 2, dtype=F)
    pairs = together.log_m(0, x.unsqueeze(1), x_next.unsqueeze(2))
    for r in range(3):
        alone = LinearGaussian(a[r], q[r], torch.eye(2, dtype=F), torch.eye(2, dtype=F), q[r], together.m0[r])
        torch.testing.assert_close(pairs[r], alone.log_m(0, x.unsqueeze(1), x_next.unsqueeze(2))[r])
        torch.testing.assert_close(together.log_x0(x)[r], alone.log_x0(x)[r])
    assert simulate(together, 3, chains=3)[0].shape == (3, 3, 2)
    torch.testing.assert_close(apply(a, x)[1, 2], a[1] @ x[1, 2])


def test_parameters_are_differentiable():
    theta = tensor([0.5, 0.3, 0.7]).requires_grad_()
    model = StochasticVolatility(theta[0].tanh(), theta[1].exp(), theta[2].exp())
    x = torch.randn(2, 3, 1, dtype=F)
    (model.log_x0(x).sum() + model.log_m(0, x, x).sum() + model.log_g(0, x, tensor([1.0])).sum()).backward()
    assert (theta.grad != 0).all()


def test_simulation_is_stationary_and_reproducible():
    model = LinearGaussian(0.9, 0.19, 1.0, 0.5, 1.0)
    x, y = simulate(model, 30, chains=20_000, seed=5)
    assert x.shape == y.shape == (30, 20_000, 1)
    assert abs(float(x[-1].var()) - 1.0) < 0.05 and abs(float(y[-1].var()) - 1.5) < 0.07
    assert abs(float((x[0] * x[1]).mean()) - 0.9) < 0.05
    torch.testing.assert_close(simulate(model, 30, chains=20_000, seed=5)[1], y)


# --- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LinearGaussian(0.9, tensor([[1.0, 0.5], [0.4, 1.0]]), 1.0, 1.0, 1.0), r"q is \(2, 2\): with 1 states .* must be \(1, 1\)"),
        (
            lambda: LinearGaussian(torch.eye(2), tensor([[1.0, 0.5], [0.4, 1.0]]), torch.eye(2), torch.eye(2), torch.eye(2)),
            "q is not symmetric",
        ),
        (lambda: LinearGaussian(0.9, -0.5, 1.0, 1.0, 1.0), "q has the negative eigenvalue -0.5"),
        (lambda: LinearGaussian(0.9, 0.5, 1.0, 1.0, math.nan), "p0 holds NaN or infinity"),
        (lambda: LinearGaussian(tensor([1.0, 2.0]), 0.5, 1.0, 1.0, 1.0), r"a has shape \(2,\): give a number, a matrix"),
        (lambda: LinearGaussian(0.9, 0.5, 1.0, 1.0, 1.0, tensor([1.0, 2.0])), "m0 has shape"),
        (lambda: LinearGaussian(0.9, 0.0, 1.0, 1.0, 1.0).log_m(0, torch.ones(1, 1), torch.ones(1, 1)), "q is singular"),
        (lambda: StochasticVolatility(1.0, 0.3, 1.0), r"\|phi\| is 1: .* stationary"),
        (lambda: StochasticVolatility(0.9, 0.0, 1.0), "sigma is 0.0: it must be a positive number"),
        (lambda: StochasticVolatility(math.nan, 0.3, 1.0), "phi is nan: it must be finite"),
        (lambda: StochasticVolatility(torch.ones(2, 2), 0.3, 1.0), r"phi has shape \(2, 2\)"),
        (lambda: DiscreteHMM(tensor([[0.9, 0.2], [0.2, 0.8]]), torch.eye(2), tensor([0.5, 0.5])), "transition holds no probabilities"),
        (lambda: DiscreteHMM(torch.eye(3), torch.eye(2), tensor([0.5, 0.5])), "do not fit 2 initial probabilities"),
        (lambda: ChaoticNetwork(torch.ones(2, 3)), "w is 2 x 3"),
        (lambda: NonlinearGrowth(r=-1.0), "r is -1.0: it must be a positive number"),
        (lambda: simulate(MODELS["scalar"], 0), "steps is 0"),
    ],
)
def test_models_refuse(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


@pytest.mark.parametrize(
    ("y", "message"),
    [
        ([[1.0, 2.0]], r"y has shape \(1, 2\): it must be \[T, 1\]"),
        (np.ones((3, 2, 1)), r"y has shape \(3, 2, 1\): it must be \[T, 1\], or \[T, 4, 1\]"),
        (np.ones((3, 4, 1, 1)), "y has shape"),
        ([], "y has 0 rows and no observation"),
        ([math.nan, math.nan], "y has 2 rows and no observation"),
        ([0.0, math.inf], r"y\[1, 0\] is infinite"),
        (["a"], "y is no array of numbers"),
    ],
)
def test_series_are_refused(y, message):
    with pytest.raises(DataError, match=message):
        observations(MODELS["scalar"], y, chains=4)


@pytest.mark.parametrize(("symbol", "shown"), [(2.0, "2.0"), (0.5, "0.5"), (-1.0, "-1.0")])
def test_symbols_are_refused(symbol, shown):
    with pytest.raises(DataError, match=rf"y\[1, 0\] is {shown}: the model emits the symbols 0 to 1"):
        observations(hmm(), [0.0, symbol])


def test_a_model_says_what_it_lacks():
    class Mine(StateSpaceModel):
        pass

    generator = torch.Generator()
    for name, arguments in {
        "sample_x0": ((1,), generator),
        "log_x0": (None,),
        "sample_x": (0, None, generator),
        "log_m": (0, None, None),
        "log_m_bound": (0,),
        "sample_y": (0, None, generator),
        "log_g": (0, None, None),
    }.items():
        with pytest.raises(ConfigError, match=f"Mine has no '{name}', which is needed here"):
            getattr(Mine(), name)(*arguments)


def test_a_singular_covariance_can_be_drawn_from():
    covariance = tensor([[1.0, 0.5], [0.5, 0.25]])
    noise = Gaussian(covariance, "q")
    drawn = noise.sample(torch.empty(1, 50_000, 2, dtype=F), torch.Generator().manual_seed(0))[0]
    torch.testing.assert_close(drawn.T.cov(), covariance, atol=0.03, rtol=0)
