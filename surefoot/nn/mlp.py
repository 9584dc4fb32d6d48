"""Fully connected networks with stacked weights: one module is one network, or a fleet of independent copies of it."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod, sqrt

import torch
from torch import Tensor, nn


class MLP(nn.Module):
    """`sizes[0] -> ... -> sizes[-1]` with ReLU between; weights `[*copies, in, out]`.

    Input `[*copies, B, in]`, or `[B, in]` shared by all copies; output `[*copies, B, out]`. Each copy starts from its own
    draw of torch's default initialisation, U(-1/sqrt(in), 1/sqrt(in)).
    """

    def __init__(
        self, sizes: Sequence[int], copies: tuple[int, ...] = (), *, generator: torch.Generator | None = None, device: str = "cpu"
    ):
        super().__init__()
        self.sizes = tuple(sizes)
        self.copies = copies
        self.weights = nn.ParameterList()
        self.biases = nn.ParameterList()
        for n_in, n_out in zip(self.sizes[:-1], self.sizes[1:], strict=True):
            bound = 1.0 / sqrt(n_in)
            weight = torch.empty(*copies, n_in, n_out, device=device).uniform_(-bound, bound, generator=generator)
            bias = torch.empty(*copies, n_out, device=device).uniform_(-bound, bound, generator=generator)
            self.weights.append(nn.Parameter(weight))
            self.biases.append(nn.Parameter(bias))

    def forward(self, x: Tensor) -> Tensor:
        if not self.copies:
            return _chain(x, list(self.weights), list(self.biases))
        n = prod(self.copies)
        x = x.expand(*self.copies, *x.shape[-2:]).reshape(n, *x.shape[-2:])
        weights = [w.flatten(0, -3) for w in self.weights]
        biases = [b.flatten(0, -2) for b in self.biases]
        if x.device.type == "cpu":  # one matrix product a copy: on CPU faster than batched products (see benchmarks/)
            split_w, split_b = [w.unbind() for w in weights], [b.unbind() for b in biases]
            y = torch.stack([_chain(xi, [w[i] for w in split_w], [b[i] for b in split_b]) for i, xi in enumerate(x.unbind())])
        else:
            y = _chain(x, weights, [b.unsqueeze(-2) for b in biases])
        return y.reshape(*self.copies, *y.shape[-2:])


def _chain(x: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor]) -> Tensor:
    """The layers one after the other, ReLU between: `[B, in] -> [B, out]`, or the same with one leading axis."""
    affine = torch.addmm if x.dim() == 2 else torch.baddbmm
    last = len(weights) - 1
    for i, (w, b) in enumerate(zip(weights, biases, strict=True)):
        x = affine(b, x, w)
        if i < last:
            x = torch.relu(x)
    return x


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
        generator: torch.Generator | None = None,
        device: str = "cpu",
    ):
        super().__init__()
        self.net = MLP((n_in, *hidden, 1), (*copies, n), generator=generator, device=device)

    def forward(self, *inputs: Tensor) -> Tensor:
        x = inputs[0] if len(inputs) == 1 else torch.cat(inputs, -1)
        return self.net(x.unsqueeze(-3)).squeeze(-1)
