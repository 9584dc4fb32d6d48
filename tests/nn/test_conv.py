"""Convolutional networks: torch's own layers, copies, layouts, gradients; and the dueling combination."""

import pytest
import torch
from torch import nn

from surefoot.data.spec import Discrete, Spec
from surefoot.errors import ConfigError
from surefoot.nn.conv import MINATAR, NATURE, Conv, Dueling, build, network_for
from surefoot.nn.mlp import MLP
from surefoot.policies.families import Categorical
from surefoot.policies.saving import read_policy, save_policy


def torch_layers(net, shape, index=()):
    """The same network of torch's own modules."""
    layers, channels = [], shape[0]
    for (n, k, stride), weight, bias in zip(net.layers, net.kernels, net.biases, strict=True):
        conv = nn.Conv2d(channels, n, k, stride)
        conv.weight.data.copy_(weight[index])
        conv.bias.data.copy_(bias[index])
        layers += [conv, nn.ReLU()]
        channels = n
    layers.append(nn.Flatten())
    for i, (w, b) in enumerate(zip(net.head.weights, net.head.biases, strict=True)):
        dense = nn.Linear(*w.shape[-2:])
        dense.weight.data.copy_(w[index].T)
        dense.bias.data.copy_(b[index])
        layers += [nn.ReLU()] * bool(i) + [dense]
    return nn.Sequential(*layers)


@pytest.mark.parametrize(("shape", "layers"), [((4, 84, 84), NATURE), ((2, 10, 10), MINATAR), ((3, 36, 40), NATURE)])
def test_it_equals_torch_s_layers(shape, layers):
    net = Conv(shape, (8,), 3)
    assert net.layers == layers
    x = torch.rand(5, *shape)
    torch.testing.assert_close(net(x.flatten(1)), torch_layers(net, shape)(x), rtol=1e-4, atol=1e-5)


def test_copies_are_independent_networks():
    net = Conv((2, 10, 10), (8,), 3, copies=(3,))
    x = torch.rand(3, 5, 200, requires_grad=True)
    y = net(x)
    assert y.shape == (3, 5, 3)
    for i in range(3):
        torch.testing.assert_close(y[i], torch_layers(net, (2, 10, 10), i)(x[i].view(5, 2, 10, 10)), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(net(x[0])[1], net(x[:1].expand(3, 5, 200))[1])  # one batch for all copies
    (slope,) = torch.autograd.grad(y[1].sum(), x)
    assert slope[1].abs().sum() > 0.0 == slope[0].abs().sum() + slope[2].abs().sum()


def test_channels_last_are_the_same_picture():
    first, last, flat = (Conv(shape, (8,), 2) for shape in ((3, 12, 14), (12, 14, 3), (12, 14)))
    last.load_state_dict(first.state_dict())
    x = torch.rand(4, 3, 12, 14)
    torch.testing.assert_close(first(x.flatten(1)), last(x.movedim(1, -1).flatten(1)))
    assert flat(x[:, 0].flatten(1)).shape == (4, 2)


def test_the_start_is_torch_s():
    net = Conv((4, 84, 84), (16,), 2, generator=torch.Generator().manual_seed(0))
    for weight, layer in zip(net.kernels, torch_layers(net, (4, 84, 84))[::2], strict=False):
        bound = 1.0 / (layer.in_channels * layer.kernel_size[0] ** 2) ** 0.5
        assert weight.abs().max() <= bound
        assert weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.03)
    other = Conv((4, 84, 84), (16,), 2, generator=torch.Generator().manual_seed(0))
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), other.parameters(), strict=True))


def test_dueling_by_hand():
    """Value 10 and advantages 1, 2, 6 (mean 3): 8, 9, 13."""
    net = MLP((1, 4))
    net.weights[0].data.zero_()
    net.biases[0].data.copy_(torch.tensor([10.0, 1.0, 2.0, 6.0]))
    assert Dueling(net)(torch.zeros(1, 1)).tolist() == [[8.0, 9.0, 13.0]]


@pytest.mark.parametrize("network", ["mlp", "conv", "dueling_mlp", "dueling_conv"])
def test_policies_of_every_network_are_saved_and_have_members(tmp_path, network):
    policy = Categorical(Spec((2, 10, 10), Discrete(3)), (8,), (2,), network=network)
    obs = torch.rand(2, 4, 2, 10, 10)
    save_policy(policy, tmp_path / "policy")
    torch.testing.assert_close(read_policy(tmp_path / "policy")(obs), policy(obs))
    torch.testing.assert_close(policy.member(1)(obs[1]), policy(obs)[1], rtol=1e-4, atol=1e-5)


def test_what_suits_an_observation():
    assert network_for((4, 84, 84)) == network_for((84, 84, 3)) == network_for((2, 10, 10)) == "conv"
    assert network_for((4,)) == network_for((6, 7)) == network_for((2, 2, 2)) == "mlp"


def test_misuse():
    with pytest.raises(ConfigError, match="must be one of"):
        build("transformer", (4,), (8,), 2)
    with pytest.raises(ConfigError, match="no images"):
        build("conv", (4,), (8,), 2)
    with pytest.raises(ConfigError, match="too small"):
        build("conv", (3, 2, 9), (8,), 2)
