"""Densities against torch.distributions and against their own draws."""

import pytest
import torch
from torch.distributions import Independent, TanhTransform, TransformedDistribution
from torch.distributions import Normal as TorchNormal

from surefoot.nn.distributions import LOG_STD_MAX, LOG_STD_MIN, Normal, TanhNormal


def parameters(*shape, seed=0):
    g = torch.Generator().manual_seed(seed)
    return 0.3 * torch.randn(*shape, generator=g), 0.2 * torch.randn(*shape, generator=g) - 0.2  # far from where tanh saturates


def test_tanh_normal_equals_torch():
    ours = TanhNormal(*parameters(2, 5, 3))
    theirs = TransformedDistribution(Independent(TorchNormal(ours.mu.double(), ours.log_std.double().exp()), 1), TanhTransform())
    a, logprob = ours.sample(torch.Generator().manual_seed(1))
    assert a.shape == (2, 5, 3) and logprob.shape == (2, 5)
    torch.testing.assert_close(logprob, ours.log_prob(a), rtol=1e-3, atol=1e-3)
    inside = torch.rand(2, 5, 3) * 1.8 - 0.9
    torch.testing.assert_close(ours.log_prob(inside), theirs.log_prob(inside.double()).float(), rtol=1e-4, atol=1e-4)


def test_log_std_is_bounded():
    extreme = TanhNormal(torch.zeros(1, 2), torch.tensor([[-1e6, 1e6]]))
    assert extreme.log_std.tolist() == [[LOG_STD_MIN, LOG_STD_MAX]]


def test_many_draws_come_with_their_densities_and_no_gradient():
    d = TanhNormal(*(p.requires_grad_() for p in parameters(2, 5, 3)))
    a, logprob = d.samples(7, torch.Generator().manual_seed(1))
    assert a.shape == (2, 7, 5, 3) and logprob.shape == (2, 7, 5)
    assert not a.requires_grad and not logprob.requires_grad
    torch.testing.assert_close(logprob, torch.stack([d.log_prob(a[:, i]) for i in range(7)], 1), rtol=1e-3, atol=1e-3)
    many, _ = d.samples(20_000, torch.Generator().manual_seed(2))
    torch.testing.assert_close(torch.atanh(many.double()).mean(1).float(), d.mu, atol=0.1, rtol=0.0)


@pytest.mark.parametrize("shared", [False, True])
def test_normal_equals_torch(shared):
    mu, log_std = parameters(2, 5, 3)
    log_std = log_std[:, :1] if shared else log_std
    ours, theirs = Normal(mu, log_std), Independent(TorchNormal(mu, log_std.exp().expand_as(mu)), 1)
    x = torch.randn(2, 5, 3)
    torch.testing.assert_close(ours.log_prob(x), theirs.log_prob(x))
    assert torch.equal(ours.mode(), mu)
    draws = torch.stack([ours.sample(torch.Generator().manual_seed(i)) for i in range(2000)])
    torch.testing.assert_close(draws.mean(0), mu, atol=0.3, rtol=0.0)
    torch.testing.assert_close(draws.std(0), log_std.exp().expand_as(mu), atol=0.3, rtol=0.0)
