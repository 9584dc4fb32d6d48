"""Networks that are told the noise: shapes, that they listen to it, and that their weights come from the given generator alone."""

import pytest
import torch

from surefoot.errors import ConfigError
from surefoot.nn.noise_conditional import NetworkSize, network

MLP = NetworkSize(width=16, depth=2, representation=6)
VIT = NetworkSize("vit", width=16, depth=2, heads=2, patch=2)


@pytest.mark.parametrize(("size", "shape"), [(MLP, (5,)), (MLP, (4, 6)), (VIT, (4, 6)), (VIT, (3, 4, 6))])
def test_shapes_and_time(size, shape):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(7, *shape, generator=generator)
    for output, expected in (("representation", (7, size.width_out)), ("image", (7, *shape))):
        net = network(shape, size, output, generator)
        one, another, each = net(x, torch.tensor(3.0)), net(x, torch.tensor(-200.0)), net(x, torch.full((7,), 3.0))
        assert one.shape == expected and not torch.allclose(one, another)
        torch.testing.assert_close(one, each)  # one level for all, or one a row
        listed = [p for layer in net.layers() for p in layer]
        assert len(listed) == len(set(listed)) and set(listed) == set(net.parameters())


def test_rows_do_not_see_each_other():
    for size in (MLP, VIT):
        net = network((4, 4), size, generator=torch.Generator().manual_seed(0)).eval()
        x = torch.randn(5, 4, 4, generator=torch.Generator().manual_seed(1))
        torch.testing.assert_close(net(x, torch.tensor(1.0))[2], net(x[2:3], torch.tensor(1.0))[0])


def test_a_pixel_of_the_transformers_image_is_at_its_own_place():
    """With attention off (no blocks' effect), each patch of the output depends on its own patch of the input alone."""
    size = NetworkSize("vit", width=16, depth=1, heads=2, patch=2)
    net = network((2, 4, 6), size, "image", torch.Generator().manual_seed(0))
    for p in net.blocks.parameters():
        p.data.zero_()
    x = torch.zeros(1, 2, 4, 6, requires_grad=True)
    net(x, torch.tensor(0.0))[0, 1, 3, 2].backward()  # in the patch of rows 2..3, columns 2..3
    moved = x.grad[0].abs().sum(0) > 0
    assert moved[2:, 2:4].all() and moved.sum() == 4


def test_weights_are_drawn_from_the_generator_and_the_global_one_is_left_alone():
    before = torch.random.get_rng_state()
    nets = [network((4,), MLP, generator=torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)]
    assert torch.equal(before, torch.random.get_rng_state())
    first, same, other = (net.enter.weight for net in nets)
    assert torch.equal(first, same) and not torch.equal(first, other)


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: network((5,), VIT), r"inputs of shape \(5,\) are not images"),
        (lambda: network((3, 5, 4), VIT), "patches of 2 do not tile images of 5 x 4"),
        (lambda: NetworkSize("cnn"), "kind is 'cnn'"),
        (lambda: NetworkSize(width=0), "width is 0"),
        (lambda: NetworkSize("vit", width=10, heads=4), "width is 10"),
    ],
)
def test_networks_that_cannot_be_are_refused(make, match):
    with pytest.raises(ConfigError, match=match):
        make()
