"""Convolutional networks for images, with stacked weights as `nn.mlp` has them, and the dueling combination of action values.

The layers are those of Mnih et al., "Human-level control through deep reinforcement learning" (Nature 2015) for images of 36 pixels or
more a side, and the single layer of Young and Tian's MinAtar (arXiv 1903.03176v2) for smaller ones. Pixels enter as they are: scale
them to about [0, 1] in the environment.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod, sqrt
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d

from surefoot.errors import ConfigError
from surefoot.nn.mlp import ACTIVATIONS, MLP

NATURE = ((32, 8, 4), (64, 4, 2), (64, 3, 1))
"""(channels, kernel, stride) of each layer."""
MINATAR = ((16, 3, 1),)

CHANNELS = 4
"""At most: a last axis this short, of a shape whose first is longer, is an image's channels."""

Network = Literal["mlp", "conv", "dueling_mlp", "dueling_conv"]


def network_for(obs_shape: tuple[int, ...]) -> Literal["mlp", "conv"]:
    """What suits observations of a shape: convolutions for images, which have three axes."""
    return "conv" if len(obs_shape) == 3 and min(_image(obs_shape)[1:]) >= MINATAR[0][1] else "mlp"


def build(
    network: Network,
    obs_shape: tuple[int, ...],
    hidden: Sequence[int],
    n_out: int,
    copies: tuple[int, ...] = (),
    *,
    activation: str = "relu",
    generator: torch.Generator | None = None,
    device: str = "cpu",
) -> MLP | Conv | Dueling:
    """A network from flat observations `[*copies, B, S]` to `[*copies, B, n_out]`. Raises ConfigError for an unknown one."""
    if network not in get_args(Network):
        raise ConfigError(f"network is {network!r}: it must be one of {', '.join(get_args(Network))}.")
    kind, width = network.removeprefix("dueling_"), n_out + network.startswith("dueling_")
    net: MLP | Conv
    if kind == "mlp":
        net = MLP((prod(obs_shape), *hidden, width), copies, activation=activation, generator=generator, device=device)
    else:
        net = Conv(obs_shape, hidden, width, copies, activation=activation, generator=generator, device=device)
    return net if kind == network else Dueling(net)


class Conv(nn.Module):
    """Convolutions, then fully connected layers of widths `hidden` and `n_out`; weights `[*copies, out, in, k, k]` and as in `MLP`.

    `obs_shape`: `(C, H, W)` or `(H, W, C)` with up to four channels, or `(H, W)`. Input `[*copies, B, S]` of flat images, or `[B, S]`
    shared by all copies; output `[*copies, B, n_out]`. Raises ConfigError for shapes that are no image.
    """

    def __init__(
        self,
        obs_shape: tuple[int, ...],
        hidden: Sequence[int],
        n_out: int,
        copies: tuple[int, ...] = (),
        *,
        activation: str = "relu",
        generator: torch.Generator | None = None,
        device: str = "cpu",
    ):
        super().__init__()
        self.obs_shape, self.copies, self.activation = tuple(obs_shape), copies, ACTIVATIONS[activation]
        channels, *sides = _image(self.obs_shape)
        self.layers = NATURE if min(sides) >= 36 else MINATAR
        self.kernels, self.biases = nn.ParameterList(), nn.ParameterList()
        for n, kernel, stride in self.layers:
            if min(sides) < kernel:
                raise ConfigError(f"an image of {sides[0]} x {sides[1]} pixels is too small for convolutions: use network 'mlp'.")
            bound = 1.0 / sqrt(channels * kernel * kernel)
            weight = torch.empty(*copies, n, channels, kernel, kernel, device=device).uniform_(-bound, bound, generator=generator)
            bias = torch.empty(*copies, n, device=device).uniform_(-bound, bound, generator=generator)
            self.kernels.append(nn.Parameter(weight))
            self.biases.append(nn.Parameter(bias))
            channels, sides = n, [(side - kernel) // stride + 1 for side in sides]
        sizes = (channels * prod(sides), *hidden, n_out)
        self.head = MLP(sizes, copies, activation=activation, generator=generator, device=device)

    def forward(self, x: Tensor) -> Tensor:
        n, batch = prod(self.copies), x.shape[-2]
        images = self._channels_first(x.expand(*self.copies, *x.shape[-2:]).reshape(n, batch, *self.obs_shape))
        y = images.transpose(0, 1).flatten(1, 2)  # [B, n * C, H, W]: the copies are groups of channels
        for kernel, bias, (_, k, stride) in zip(self.kernels, self.biases, self.layers, strict=True):
            y = self.activation(conv2d(y, kernel.reshape(-1, kernel.shape[-3], k, k), bias.reshape(-1), stride, groups=n))
        features = y.unflatten(1, (n, -1)).transpose(0, 1).reshape(*self.copies, batch, -1)
        return self.head(features)

    def _channels_first(self, images: Tensor) -> Tensor:
        """`[n, B, *obs_shape]` as `[n, B, C, H, W]`."""
        if len(self.obs_shape) == 2:
            return images.unsqueeze(-3)
        return images.movedim(-1, -3) if channels_last(self.obs_shape) else images


class Dueling(nn.Module):
    """Q(s, a) = V(s) + A(s, a) - mean_a' A(s, a') of a network with one output more than there are actions, V being the first.

    Wang et al., "Dueling network architectures for deep reinforcement learning" (arXiv 1511.06581v3), Eq. 9. Departure: the two streams
    part at the last layer.
    """

    def __init__(self, net: MLP | Conv):
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        y = self.net(x)
        value, advantage = y[..., :1], y[..., 1:]
        return value + advantage - advantage.mean(-1, keepdim=True)


def _image(obs_shape: tuple[int, ...]) -> tuple[int, int, int]:
    """Channels, rows and columns of an image's shape. Raises ConfigError for other shapes."""
    if len(obs_shape) == 2:
        return 1, obs_shape[0], obs_shape[1]
    if len(obs_shape) != 3:
        raise ConfigError(f"observations of shape {obs_shape} are no images: use network 'mlp'.")
    a, b, c = obs_shape
    return (c, a, b) if channels_last(obs_shape) else (a, b, c)


def channels_last(obs_shape: Sequence[int]) -> bool:
    """Whether an image's shape has its channels or frames at the end."""
    return len(obs_shape) == 3 and obs_shape[-1] <= CHANNELS < obs_shape[0]
