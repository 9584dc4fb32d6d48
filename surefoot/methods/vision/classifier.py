"""A classifier of noisy images that knows how noisy they are: an encoder at one noise level, and a linear head."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn

from surefoot.data.spec import Discrete, Spec
from surefoot.errors import ConfigError, PolicyError
from surefoot.nn.distributions import Choice
from surefoot.nn.noise_conditional import NetworkSize, NoiseConditional, drawn_from, network
from surefoot.nn.noise_levels import c_in, nearest_level, noise_grid, time_input
from surefoot.policies.base import Memory, Policy, check_member

MEAN, STD = 0.5, 0.5
"""Networks see (x - MEAN) / STD, so images in [0, 1] in [-1, 1], and noise of sigma as noise of sigma / STD."""

HEAD_STD = 2e-5  # of the truncated normal that the head's weights start from

FAR = 12.0
"""Standard deviations of noise beyond [0, 1] that no input in [0, 1] reaches: it is in other units."""


def scaled(x: Tensor) -> Tensor:
    """Images in [0, 1] as the networks see them, in [-1, 1]."""
    return (x - MEAN) / STD


def represent(encoder: nn.Module, x: Tensor, t: Tensor) -> Tensor:
    """e(c_in(t) x, 250 ln t) of scaled inputs `[b, *shape]` with noise t, a scalar or `[b]`."""
    return encoder(c_in(by_row(t, x)) * x, time_input(t))


def by_row(t: Tensor, x: Tensor) -> Tensor:
    """A level for each row, `[b]`, as a factor of images `[b, *shape]`; a scalar as it is."""
    return t.reshape(-1, *(1,) * (x.dim() - 1)) if t.dim() else t


class NoiseClassifier(Policy):
    """Logits `[n, classes]` of images `[n, *shape]` in [0, 1] that carry noise N(0, sigma^2): W e(x, t = 2 sigma) + b.

    t is the level nearest to 2 sigma on the grid of `levels` that the encoder was trained on. As a policy its action is a class.
    """

    def __init__(
        self,
        spec: Spec,
        size: NetworkSize,
        sigma: float,
        levels: int = 81,
        *,
        encoder: NoiseConditional | None = None,
        generator: torch.Generator | None = None,
    ):
        super().__init__()
        if not 0.0 < sigma < float("inf"):
            raise ConfigError(f"sigma is {sigma}: the standard deviation of the noise must be positive and finite.")
        self.spec, self.size, self.sigma, self.levels = spec, size, sigma, levels
        self.encoder = network(spec.obs_shape, size, generator=generator) if encoder is None else encoder
        self.head = nn.Linear(size.width_out, spec.n_actions)
        with drawn_from(generator):
            nn.init.trunc_normal_(self.head.weight, std=HEAD_STD)
        nn.init.zeros_(self.head.bias)
        grid = noise_grid(levels)
        self.register_buffer("level", grid[nearest_level(grid, self.noise)], persistent=False)
        self.register_buffer("least", grid[-1], persistent=False)
        self.level: Tensor
        self.least: Tensor

    @property
    def noise(self) -> float:
        """Standard deviation of the noise as the network sees it: 2 sigma."""
        return self.sigma / STD

    def logits(self, noisy: Tensor) -> Tensor:
        """`[n, classes]` of scaled inputs."""
        return self.head(represent(self.encoder, noisy, self.level))

    def forward(self, obs: Tensor) -> Tensor:
        k = len(self.spec.obs_shape)
        if obs.dim() != k + 1 or tuple(obs.shape[1:]) != self.spec.obs_shape:
            raise PolicyError(f"the classifier expects images of shape {self.spec.obs_shape} in a batch, but got {tuple(obs.shape)}.")
        if bool((obs.detach() - MEAN).abs().amax() > MEAN + FAR * self.sigma):
            raise PolicyError(
                f"an input is {float((obs.detach() - MEAN).abs().amax()):.4g} away from {MEAN}, where noise of {self.sigma:g} takes no"
                " image in [0, 1]: scale the images to [0, 1], and add the noise that the classifier was trained for."
            )
        return self.logits(scaled(obs.float()))

    def act(
        self, obs: Tensor, memory: Memory = None, *, generator: torch.Generator | None = None, greedy: bool = True
    ) -> tuple[Tensor, Memory]:
        logits = self(obs)
        return (logits.argmax(-1) if greedy else Choice(logits).sample(generator)), memory

    def member(self, index: int) -> Policy:
        check_member(index, self.copies)
        return self

    def config(self) -> dict[str, Any]:
        return {"size": asdict(self.size), "sigma": self.sigma, "levels": self.levels}

    @staticmethod
    def rebuild(spec: Spec, copies: tuple[int, ...], size: Mapping[str, Any], sigma: float, levels: int) -> NoiseClassifier:
        """One of the described structure, with numbers of no meaning."""
        return NoiseClassifier(spec, NetworkSize(**size), sigma, levels)


def image_spec(shape: tuple[int, ...], classes: int) -> Spec:
    """What a classifier of images sees and says."""
    return Spec(shape, Discrete(classes))
