"""Denoise, then classify: the usual way to smooth with a diffusion model, and what rRCM is held against.

A denoiser D(x, t) of EDM (Karras et al., arXiv 2206.00364v2, Table 1 and Eq. 7-8) takes the noise away, in one call ("one-shot", Carlini
et al., arXiv 2206.10550v2) or along the probability-flow equation in several (Alg. 1, with Euler's or Heun's steps; DensePure, arXiv
2211.00322, takes as many), and a classifier of clean images names the rest. Each sample that is smoothed over costs all these calls.

Departures: the last level before 0 is T_MIN, as in EDM; DensePure's vote over several denoised copies is not here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn

from surefoot.data.images import LabelledImages
from surefoot.data.spec import Spec
from surefoot.errors import ConfigError
from surefoot.methods.base import Method
from surefoot.methods.vision.classifier import MEAN, STD, by_row, represent, scaled
from surefoot.nn.noise_conditional import NetworkSize, network
from surefoot.nn.noise_levels import T_MIN, c_out, c_skip, loss_weight, noise_grid
from surefoot.nn.optimise import descend

Solver = Literal["euler", "heun"]


@dataclass(frozen=True)
class DenoiserConfig:
    """How the denoiser is trained."""

    steps: int = 2000
    """Updates."""
    batch: int = 256
    """Images in a batch."""
    lr: float = 1e-3
    """Learning rate, the same throughout (a cosine to 0 was no better on digits)."""
    log_mean: float = -0.4
    """Mean of ln t (EDM: -1.2; this is where certificates need it)."""
    log_std: float = 1.2
    """Standard deviation of ln t (EDM: 1.2)."""

    def __post_init__(self) -> None:
        if self.steps < 1 or self.batch < 1 or not self.lr > 0.0 or not self.log_std > 0.0:
            raise ConfigError(
                f"a denoiser of {self.steps} steps, batches of {self.batch}, rate {self.lr} and log_std {self.log_std}:"
                " all must be positive."
            )


class Denoiser(nn.Module):
    """D(x, t) = c_skip x + c_out F(c_in x, 250 ln t): the clean image `[b, *shape]` in [-1, 1] behind x with noise t, `[b]` or a scalar."""

    def __init__(self, spec: Spec, size: NetworkSize, generator: torch.Generator | None = None):
        super().__init__()
        self.network = network(spec.obs_shape, size, "image", generator)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        per_row = by_row(t, x)
        return c_skip(per_row) * x + c_out(per_row) * represent(self.network, x, t)


def denoising_loss(denoiser: nn.Module, x: Tensor, z: Tensor, t: Tensor) -> Tensor:
    """weight(t) |D(x + t z, t) - x|^2, a mean over pixels: `[b]`. EDM, Eq. 2 with the weight of Table 1."""
    error = denoiser(x + by_row(t, x) * z, t) - x
    return loss_weight(t) * error.square().flatten(1).mean(1)


def denoised(denoiser: Callable[[Tensor, Tensor], Tensor], x: Tensor, t: float, steps: int = 1, solver: Solver = "euler") -> Tensor:
    """The image behind x with noise t, clipped to [-1, 1]. One Euler step is one call; n take n calls, and Heun's 2n - 1. EDM, Alg. 1."""
    if steps < 1 or solver not in ("euler", "heun"):
        raise ConfigError(f"{steps} steps of {solver!r}: at least one step of 'euler' or 'heun' is needed.")
    if not t > T_MIN:
        raise ConfigError(f"the noise is {t}: a denoiser starts above its least level, {T_MIN}.")
    levels = torch.tensor([t]) if steps == 1 else noise_grid(steps, T_MIN, t)
    levels = torch.cat([levels, torch.zeros(1)]).to(x)
    for now, after in pairwise(levels):
        slope = (x - denoiser(x, now)) / now  # dx/dt
        ahead = x + (after - now) * slope
        if solver == "heun" and after > 0.0:
            slope = (slope + (ahead - denoiser(ahead, after)) / after) / 2.0
            ahead = x + (after - now) * slope
        x = ahead
    return x.clamp(-1.0, 1.0)


def calls(steps: int, solver: Solver = "euler") -> int:
    """Network calls of a prediction, the classifier's included."""
    return (steps if solver == "euler" else 2 * steps - 1) + 1


class DenoisedClassifier(nn.Module):
    """Logits `[n, c]` of images `[n, *shape]` in [0, 1] with noise of `sigma`: `classifier` (of images in [0, 1]) of what is denoised."""

    def __init__(self, denoiser: nn.Module, classifier: nn.Module, sigma: float, steps: int = 1, solver: Solver = "euler"):
        super().__init__()
        self.denoiser, self.classifier, self.sigma, self.steps, self.solver = denoiser, classifier, sigma, steps, solver

    def forward(self, obs: Tensor) -> Tensor:
        clean = denoised(self.denoiser, scaled(obs), self.sigma / STD, self.steps, self.solver)
        return self.classifier(clean * STD + MEAN)


class DenoiserTraining(Method):
    """Trains a `Denoiser` on images without their labels, at noise of all levels; one seed at a time."""

    config_class = DenoiserConfig

    def __init__(self, spec: Spec, config: DenoiserConfig, size: NetworkSize, *, device: str = "cpu", seed: int = 0):
        super().__init__(spec, config, (), device, seed)
        self.denoiser = Denoiser(spec, size, torch.Generator().manual_seed(seed)).to(device)
        self.optimiser = torch.optim.AdamW(self.denoiser.parameters(), config.lr, weight_decay=0.0, fused=True)

    def update(self, batch: LabelledImages) -> dict[str, Tensor]:
        c, x = self.config, scaled(batch.x)
        t = torch.exp(c.log_mean + c.log_std * torch.randn(len(x), generator=self.generator, device=x.device))
        z = torch.randn(x.shape, generator=self.generator, device=x.device)
        loss = denoising_loss(self.denoiser, x, z, t).mean()
        descend(loss, self.optimiser)
        self.steps += 1
        return {"loss": loss.detach()}
