"""Fully connected networks with stacked weights: one module is one network, or a fleet of independent copies of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod, sqrt

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

NARROW = 16  # columns below which CPU libraries multiply several times faster by the transposed matrix, forth and back


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"relu": torch.relu_, "tanh": torch.tanh_}
"""In place: the product itself is not needed again."""


class MLP(nn.Module):
    """`sizes[0] -> ... -> sizes[-1]` with ReLU (or tanh) between; weights `[*copies, in, out]`.

    Input `[*copies, B, in]`, or `[B, in]` shared by all copies; output `[*copies, B, out]`. Each copy starts from its own
    draw of torch's default initialisation, U(-1/sqrt(in), 1/sqrt(in)).
    """

    def __init__(
        self,
        sizes: Sequence[int],
        copies: tuple[int, ...] = (),
        *,
        activation: str = "relu",
        generator: torch.Generator | None = None,
        device: str = "cpu",
    ):
        super().__init__()
        self.sizes = tuple(sizes)
        self.copies = copies
        self.activation = ACTIVATIONS[activation]
        self.weights = nn.ParameterList()
        self.biases = nn.ParameterList()
        for n_in, n_out in zip(self.sizes[:-1], self.sizes[1:], strict=True):
            bound = 1.0 / sqrt(n_in)
            weight = torch.empty(*copies, n_in, n_out, device=device).uniform_(-bound, bound, generator=generator)
            bias = torch.empty(*copies, n_out, device=device).uniform_(-bound, bound, generator=generator)
            self.weights.append(nn.Parameter(weight))
            self.biases.append(nn.Parameter(bias))

    def forward(self, x: Tensor) -> Tensor:
        return _stacked(x, _listed(self.weights), _listed(self.biases), self.copies, self.activation)

    def only(self, x: Tensor, index: int) -> Tensor:
        """The network `index` of the last axis of `copies` alone: `[*copies[:-1], B, in] -> [*copies[:-1], B, out]`."""
        weights = [w.select(-3, index) for w in _listed(self.weights)]
        biases = [b.select(-2, index) for b in _listed(self.biases)]
        return _stacked(x, weights, biases, self.copies[:-1], self.activation)

    @torch.no_grad()
    def orthogonal_(self, last: float, generator: torch.Generator | None = None) -> MLP:
        """Start from orthogonal weights (Saxe et al. 2014) of gain sqrt 2, of gain `last` in the last layer, and biases of 0."""
        for i, (w, b) in enumerate(zip(self.weights, self.biases, strict=True)):
            gain = last if i == len(self.weights) - 1 else sqrt(2.0)
            for matrix in w.view(-1, *w.shape[-2:]):
                nn.init.orthogonal_(matrix, gain, generator=generator)
            b.zero_()
        return self


def _listed(params: nn.ParameterList) -> list[Tensor]:
    """The tensors of a ParameterList, whose own iteration goes through a name for each and costs as much as a small product."""
    return list(params._parameters.values())  # type: ignore[arg-type]


def _stacked(
    x: Tensor, weights: list[Tensor], biases: list[Tensor], copies: tuple[int, ...], activation: Callable[[Tensor], Tensor]
) -> Tensor:
    """The layers of all copies: `[*copies, B, in]` (or without some of the leading axes) to `[*copies, B, out]`."""
    if not copies:
        return _chain(x, weights, biases, activation)
    n = prod(copies)
    if n == 1:  # views alone: nothing is copied, forth or back
        lone = [w.reshape(w.shape[-2:]) for w in weights], [b.reshape(b.shape[-1:]) for b in biases]
        y = _chain(x.reshape(x.shape[-2:]), *lone, activation)
        return y.reshape(*copies, *y.shape)
    x = x.expand(*copies, *x.shape[-2:]).reshape(n, *x.shape[-2:])
    weights = [w.flatten(0, -3) for w in weights]
    biases = [b.flatten(0, -2) for b in biases]
    if x.device.type == "cpu":  # one matrix product a copy: on CPU faster than batched products (see benchmarks/)
        split_w, split_b = [w.unbind() for w in weights], [b.unbind() for b in biases]
        y = torch.stack([_chain(xi, [w[i] for w in split_w], [b[i] for b in split_b], activation) for i, xi in enumerate(x.unbind())])
    else:
        y = _chain(x, weights, [b.unsqueeze(-2) for b in biases], activation)
    return y.reshape(*copies, *y.shape[-2:])


def _chain(x: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor], activation: Callable[[Tensor], Tensor]) -> Tensor:
    """The layers one after the other: `[B, in] -> [B, out]`, or the same with one leading axis."""
    affine = _affine if x.dim() == 2 else torch.baddbmm
    last = len(weights) - 1
    for i, (w, b) in enumerate(zip(weights, biases, strict=True)):
        x = affine(b, x, w)
        if i < last:
            x = activation(x)
    return x


def _affine(b: Tensor, x: Tensor, w: Tensor) -> Tensor:
    """b + x w, `[B, out]`."""
    if 1 < w.shape[-1] < NARROW and x.device.type == "cpu":
        return linear(x, w.t().contiguous(), b)
    return torch.addmm(b, x, w)


class Critic(nn.Module):
    """`n` independent scalar networks on the concatenation of their inputs: `[*copies, B, in] -> [*copies, n, B]`.

    Twin critics are `Critic(spec.obs_dim + A, n=2)`; a state value is `Critic(spec.obs_dim, n=1)`.
    """

    def __init__(
        self,
        n_in: int,
        hidden: Sequence[int],
        *,
        n: int = 2,
        copies: tuple[int, ...] = (),
        activation: str = "relu",
        generator: torch.Generator | None = None,
        device: str = "cpu",
    ):
        super().__init__()
        self.net = MLP((n_in, *hidden, 1), (*copies, n), activation=activation, generator=generator, device=device)

    def forward(self, *inputs: Tensor) -> Tensor:
        x = inputs[0] if len(inputs) == 1 else torch.cat(inputs, -1)
        return self.net(x.unsqueeze(-3)).squeeze(-1)

    def first(self, *inputs: Tensor) -> Tensor:
        """The first network alone, `[*copies, B]`: what TD3's actor climbs, without the cost of the others."""
        x = inputs[0] if len(inputs) == 1 else torch.cat(inputs, -1)
        return self.net.only(x, 0).squeeze(-1)
