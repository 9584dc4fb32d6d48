"""Log-densities against torch.distributions, draws against their densities, and bounds."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import distributions as td

from surefoot.nn.distributions import LOG_STD_MAX, LOG_STD_MIN, Normal, TanhNormal


def reference(d: TanhNormal) -> td.Distribution:
    base = td.Normal(d.mu.double(), d.log_std.double().exp())
    return td.Independent(td.TransformedDistribution(base, [td.TanhTransform(cache_size=1)]), 1)


def test_log_prob_of_a_draw_equals_torch_distributions():
    d = TanhNormal(torch.randn(3, 16, 2), torch.randn(3, 16, 2))
    unit, logprob = d.sample(torch.Generator().manual_seed(0))
    assert unit.shape == (3, 16, 2) and logprob.shape == (3, 16)
    inside = unit.abs().amax(-1) < 0.999  # nearer to the bounds a float32 action no longer tells its u
    torch.testing.assert_close(logprob[inside].double(), reference(d).log_prob(unit.double())[inside], rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(d.log_prob(unit)[inside], logprob[inside], rtol=1e-3, atol=1e-3)


def test_log_std_is_squashed():
    d = TanhNormal(torch.zeros(3), torch.tensor([-50.0, 0.0, 50.0]))
    assert d.log_std.tolist() == pytest.approx([LOG_STD_MIN, 0.5 * (LOG_STD_MIN + LOG_STD_MAX), LOG_STD_MAX])


@given(st.floats(-20, 20), st.floats(-20, 20), st.floats(-1, 1))
def test_log_prob_is_finite_everywhere(mu, log_std, action):
    d = TanhNormal(torch.tensor([[mu]]), torch.tensor([[log_std]]))
    assert torch.isfinite(d.log_prob(torch.tensor([[action]]))).all()
    assert torch.isfinite(d.sample()[1]).all() and d.mode().abs().max() <= 1.0


def test_density_integrates_to_one():
    x = torch.linspace(-1.0, 1.0, 20_001, dtype=torch.float64)[1:-1, None]
    d = TanhNormal(torch.tensor([[0.3]], dtype=torch.float64), torch.tensor([[0.2]], dtype=torch.float64))
    assert torch.trapezoid(d.log_prob(x).exp(), x[:, 0]).item() == pytest.approx(1.0, abs=1e-3)


def test_draws_are_reparameterised_and_their_own_generators():
    mu, log_std = torch.zeros(4, 2, requires_grad=True), torch.zeros(4, 2, requires_grad=True)
    before = torch.random.get_rng_state()
    first = TanhNormal(mu, log_std).sample(torch.Generator().manual_seed(3))
    again = TanhNormal(mu, log_std).sample(torch.Generator().manual_seed(3))
    assert torch.equal(first[0], again[0]) and torch.equal(before, torch.random.get_rng_state())
    grads = torch.autograd.grad(first[0].sum(), [mu, log_std])
    assert all(g.abs().sum() > 0 for g in grads)


def test_many_draws_at_once_have_no_gradient():
    mu = torch.zeros(3, 4, 2, requires_grad=True)
    d = TanhNormal(mu, mu)
    unit, logprob = d.samples(5, torch.Generator().manual_seed(0))
    assert unit.shape == (3, 5, 4, 2) and logprob.shape == (3, 5, 4)
    assert not unit.requires_grad and not logprob.requires_grad
    torch.testing.assert_close(logprob, torch.stack([d.log_prob(u) for u in unit.unbind(1)], 1).detach(), rtol=1e-3, atol=1e-3)


def test_normal_equals_torch_distributions():
    mu, log_std = torch.randn(3, 16, 2), torch.randn(3, 1, 2)
    d = Normal(mu, log_std)
    x = d.sample(torch.Generator().manual_seed(0))
    assert x.shape == mu.shape and torch.equal(d.mode(), mu)
    torch.testing.assert_close(d.log_prob(x), td.Normal(mu, log_std.exp()).log_prob(x).sum(-1))
