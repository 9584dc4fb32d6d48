"""The CVAE over actions: the A2PR card's first oracle, torch.distributions, and copies that equal lone networks."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.distributions import Normal, kl_divergence

from surefoot.nn.cvae import CVAE, gaussian_kl
from surefoot.nn.optimise import adam, descend

MU, SIGMA = torch.tensor([[0.5, -1.0], [0.0, 2.0]]), torch.tensor([[1.0, 0.5], [0.1, 1.5]])


def test_kl_of_the_card():
    assert gaussian_kl(MU, SIGMA.log()).item() == pytest.approx(1.242567, abs=1e-6)


def test_kl_equals_torch_distributions():
    mu, log_sigma = torch.randn(3, 16, 4), torch.randn(3, 16, 4)
    expected = kl_divergence(Normal(mu, log_sigma.exp()), Normal(torch.zeros_like(mu), torch.ones_like(mu))).mean((-2, -1))
    torch.testing.assert_close(gaussian_kl(mu, log_sigma), expected)


@given(st.floats(-5, 5), st.floats(-4, 3))
def test_kl_is_never_negative(mu, log_sigma):
    kl = gaussian_kl(torch.full((2, 3), mu, dtype=torch.float64), torch.full((2, 3), log_sigma, dtype=torch.float64))
    assert kl.item() >= -1e-12


def test_kl_checks_shapes():
    with pytest.raises(ValueError, match="one shape"):
        gaussian_kl(torch.zeros(4, 2), torch.zeros(4, 1))


def test_shapes_ranges_and_latents():
    vae = CVAE(3, 2, (16, 16), copies=(4,))
    s, a = torch.randn(4, 8, 3), torch.rand(4, 8, 2) * 2 - 1
    rec, mu, log_sigma = vae(s, a)
    assert rec.shape == (4, 8, 2) and mu.shape == log_sigma.shape == (4, 8, 4)
    assert vae.sample(s).shape == (4, 8, 2)
    assert rec.abs().max() <= 1.0


def test_log_sigma_is_clamped():
    vae = CVAE(1, 1, (4,))
    with torch.no_grad():
        vae.encoder.biases[-1].copy_(torch.tensor([0.0, 0.0, -100.0, 100.0]))
    _, log_sigma = vae.encode(torch.zeros(2, 1), torch.zeros(2, 1))
    assert log_sigma.tolist() == [[-4.0, 15.0]] * 2


def test_prior_draws_are_clipped():
    vae, seen = CVAE(1, 1, (4,)), []
    vae.decode = lambda s, z: seen.append(z) or z
    vae.sample(torch.zeros(4000, 1), torch.Generator().manual_seed(0))
    z = seen[0]
    assert z.abs().max() == 0.5 and (z.abs() == 0.5).float().mean() == pytest.approx(0.617, abs=0.03)  # 2 (1 - Phi(0.5))


def test_reparameterised_draw():
    """rec = D(s, mu + sigma eps) with eps of the generator: gradients reach the encoder."""
    vae = CVAE(3, 2, (8,))
    s, a = torch.randn(5, 3), torch.rand(5, 2)
    rec, mu, log_sigma = vae(s, a, torch.Generator().manual_seed(7))
    noise = torch.empty_like(mu).normal_(generator=torch.Generator().manual_seed(7))
    torch.testing.assert_close(rec, vae.decode(s, mu + log_sigma.exp() * noise))
    grads = torch.autograd.grad(rec.sum(), list(vae.encoder.parameters()))
    assert all(g.abs().sum() > 0 for g in grads)


def test_copies_equal_lone_networks():
    fleet = CVAE(3, 2, (8, 8), copies=(3,))
    s, a = torch.randn(3, 5, 3), torch.rand(3, 5, 2)
    mu, _ = fleet.encode(s, a)
    for i in range(3):
        lone = CVAE(3, 2, (8, 8))
        lone.load_state_dict({k: v[i] for k, v in fleet.state_dict().items()})
        torch.testing.assert_close(lone.encode(s[i], a[i])[0], mu[i])
        torch.testing.assert_close(lone.decode(s[i], mu[i]), fleet.decode(s, mu)[i])


def test_learns_both_modes():
    """Actions +0.7 or -0.7, whatever the state: the reconstruction tells them apart, which their mean (0) would not."""
    g = torch.Generator().manual_seed(0)
    vae = CVAE(1, 1, (32, 32), generator=g)
    optimiser = adam(vae.parameters(), 1e-3)
    for _ in range(400):
        s = torch.empty(128, 1).uniform_(-1.0, 1.0, generator=g)
        a = 0.7 * (2.0 * torch.randint(2, (128, 1), generator=g) - 1.0)
        rec, mu, log_sigma = vae(s, a, g)
        error = (rec - a).square().mean()
        descend(error + 0.01 * gaussian_kl(mu, log_sigma), optimiser)
    assert error < 0.02
