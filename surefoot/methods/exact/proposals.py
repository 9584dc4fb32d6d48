"""Where a guided particle filter draws its particles from: a density that knows the observation that they go to meet."""

from __future__ import annotations

import torch
from torch import Tensor

from surefoot.envs.state_space import Gaussian, LinearGaussian, apply, cholesky
from surefoot.errors import ConfigError


class Proposal:
    """Where a guided filter draws from: subclasses say q, given the observation that the particles go to meet."""

    def sample_x0(self, shape: tuple[int, ...], y: Tensor, generator: torch.Generator) -> Tensor:
        """States `[*shape, dx]` at time 0."""
        raise NotImplementedError

    def log_x0(self, x: Tensor, y: Tensor) -> Tensor:
        """Their log density, `[R, N, dx]` -> `[R, N]`."""
        raise NotImplementedError

    def sample_x(self, t: int, x: Tensor, y: Tensor, generator: torch.Generator) -> Tensor:
        """States at t+1 from `x` at t, given the observation at t+1."""
        raise NotImplementedError

    def log_x(self, t: int, x: Tensor, x_next: Tensor, y: Tensor) -> Tensor:
        """Their log density, `[R, N]`."""
        raise NotImplementedError


class LocallyOptimal(Proposal):
    """x_{t+1} given x_t and y_{t+1} of a linear Gaussian model, the proposal whose weights vary least (Doucet et al. 2000).

    N((I - K C) A x + K y, (I - K C) Q) with K = Q C^T (C Q C^T + R)^-1, and the same of N(m0, P0) at time 0.
    """

    def __init__(self, model: LinearGaussian):
        self.model = model
        self.keep0, self.gain0, self.noise0 = self._conditional(model.p0)
        self.keep, self.gain, self.noise = self._conditional(model.q)

    def _conditional(self, Q: Tensor) -> tuple[Tensor, Tensor, Gaussian]:
        C, R = self.model.c, self.model.r
        root, singular = cholesky(C @ Q @ C.mT + R)
        if singular.any():
            raise ConfigError("C Q C^T + R is singular: give the observations some noise (r).")
        K = torch.cholesky_solve(C @ Q, root).mT
        keep = torch.eye(Q.shape[-1], dtype=Q.dtype) - K @ C
        return keep, K, Gaussian(keep @ Q @ keep.mT + K @ R @ K.mT, "the proposal's covariance")

    def sample_x0(self, shape: tuple[int, ...], y: Tensor, generator: torch.Generator) -> Tensor:
        like = torch.empty((*shape, self.model.dx), dtype=torch.float64, device=generator.device)
        return self._mean0(like, y) + self.noise0.sample(like, generator)

    def log_x0(self, x: Tensor, y: Tensor) -> Tensor:
        return self.noise0.log_density(self.noise0.whiten(x - self._mean0(x, y)))

    def sample_x(self, t: int, x: Tensor, y: Tensor, generator: torch.Generator) -> Tensor:
        return self._mean(x, y) + self.noise.sample(x, generator)

    def log_x(self, t: int, x: Tensor, x_next: Tensor, y: Tensor) -> Tensor:
        return self.noise.log_density(self.noise.whiten(x_next - self._mean(x, y)))

    def _mean0(self, x: Tensor, y: Tensor) -> Tensor:
        return apply(self.keep0, self.model.mean0(x)) + apply(self.gain0, y.expand(*x.shape[:-1], -1))

    def _mean(self, x: Tensor, y: Tensor) -> Tensor:
        return apply(self.keep, apply(self.model.a, x)) + apply(self.gain, y.expand(*x.shape[:-1], -1))
