"""Stacked networks: each copy is the lone network of its weights, on every path (one product a copy, batched products)."""

import pytest
import torch
from torch import nn

from surefoot.nn.mlp import MLP, Critic, _chain


def lone(net: MLP, *index: int) -> nn.Sequential:
    """One copy as torch's own layers."""
    layers: list[nn.Module] = []
    for w, b in zip(net.weights, net.biases, strict=True):
        linear = nn.Linear(w.shape[-2], w.shape[-1])
        linear.weight.data, linear.bias.data = w[index].detach().T.contiguous(), b[index].detach().clone()
        layers += [linear, nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def test_one_network_equals_torchs_layers():
    net, x = MLP((3, 8, 8, 2)), torch.randn(5, 3)
    torch.testing.assert_close(net(x), lone(net)(x))


def test_copies_equal_torchs_layers():
    net, x = MLP((3, 8, 2), (4, 2)), torch.randn(4, 2, 5, 3)
    y = net(x)
    assert y.shape == (4, 2, 5, 2)
    for i in range(4):
        for j in range(2):
            torch.testing.assert_close(y[i, j], lone(net, i, j)(x[i, j]))


def test_input_shared_by_all_copies():
    net, x = MLP((3, 8, 2), (4, 2)), torch.randn(4, 1, 5, 3)
    torch.testing.assert_close(net(x), net(x.expand(4, 2, 5, 3)))
    torch.testing.assert_close(net(x[0, 0]), net(x[:1].expand(4, 2, 5, 3)))


def test_batched_products_agree():
    """The path that a GPU takes, against the one of the CPU."""
    net, x = MLP((3, 8, 8, 2), (4,)), torch.randn(4, 5, 3)
    torch.testing.assert_close(_chain(x, list(net.weights), [b.unsqueeze(-2) for b in net.biases], torch.relu), net(x))


def test_only_one_of_the_last_axis():
    net, x = MLP((3, 8, 1), (4, 2)), torch.randn(4, 5, 3)
    for j in range(2):
        torch.testing.assert_close(net.only(x, j), net(x.unsqueeze(1))[:, j])
    twin, y = MLP((3, 8, 1), (2,)), torch.randn(5, 3)
    torch.testing.assert_close(twin.only(y, 1), twin(y)[1])


def test_starting_weights_are_torchs_default():
    """U(-1/sqrt(in), 1/sqrt(in)) for weights and biases, another draw for each copy, none from the global generator."""
    net = MLP((400, 200), (3,), generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    before = torch.random.get_rng_state()
    again = MLP((400, 200), (3,), generator=torch.Generator().manual_seed(0))
    assert torch.equal(before, torch.random.get_rng_state())
    w = net.weights[0]
    assert torch.equal(w, again.weights[0]) and not torch.equal(w[0], w[1])
    reference = nn.Linear(400, 200).weight
    assert w.abs().max() <= 0.05 and w.std().item() == pytest.approx(reference.std().item(), rel=0.02)


def test_gradients_of_copies_are_apart():
    net, x = MLP((3, 8, 2), (3,)), torch.randn(3, 5, 3)
    grads = torch.autograd.grad(net(x)[1].square().sum(), list(net.parameters()))
    for g in grads:
        assert g[1].abs().sum() > 0 and g[0].abs().sum() == g[2].abs().sum() == 0


def test_critics():
    critic = Critic(5, (8, 8), n=2, copies=(3,))
    s, a = torch.randn(3, 7, 4), torch.randn(3, 7, 1)
    q = critic(s, a)
    assert q.shape == (3, 2, 7)
    torch.testing.assert_close(critic.first(s, a), q[:, 0])
    for i in range(3):
        for j in range(2):
            torch.testing.assert_close(q[i, j], lone(critic.net, i, j)(torch.cat((s[i], a[i]), -1)).squeeze(-1))
    value = Critic(4, (8,), n=1)
    assert value(s[0]).shape == (1, 7)
    torch.testing.assert_close(value.first(s[0]), value(s[0])[0])


def test_tanh_networks_and_orthogonal_starts():
    """Against torch's own layers; every copy starts from a draw of its own."""
    net = MLP((3, 8, 8, 2), (2,), activation="tanh").orthogonal_(0.01, torch.Generator().manual_seed(0))
    x, hidden = torch.randn(5, 3), torch.randn(2, 5, 3)
    for i in range(2):
        hidden = x
        for layer, (w, b) in enumerate(zip(net.weights, net.biases, strict=True)):
            hidden = hidden @ w[i] + b[i]
            hidden = hidden.tanh() if layer < 2 else hidden
        torch.testing.assert_close(net(x)[i], hidden)
    w = net.weights[1]
    torch.testing.assert_close(w @ w.mT, 2.0 * torch.eye(8).expand(2, 8, 8), atol=1e-5, rtol=0)
    assert not torch.equal(w[0], w[1]) and net.weights[2].norm(dim=(-2, -1)).max() < 0.02
