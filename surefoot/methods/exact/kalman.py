"""The Kalman filter and the Rauch-Tung-Striebel smoother: what is known of a linear Gaussian model's states, exactly.

    predict   m' = A m,  P' = A P A^T + Q
    update    S = C P' C^T + R,  K = P' C^T S^-1,  m = m' + K (y - C m'),  P = (I - K C) P' (I - K C)^T + K R K^T
    smooth    G = P_t A^T (P'_{t+1})^-1,  m^s_t = m_t + G (m^s_{t+1} - m'_{t+1}),  P^s_t = P_t + G (P^s_{t+1} - P'_{t+1}) G^T,
              Cov(x_t, x_{t+1} | y) = G P^s_{t+1}

Kalman 1960; Rauch, Tung and Striebel 1965. A missing value (NaN), alone or with its whole row, is left out of the update. Chains are
filtered side by side if parameters or series have an axis of chains. All results are differentiable in the model's parameters, so that
`log_likelihood` also serves for exact maximum likelihood.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from surefoot.envs.state_space import HALF_LOG_2PI, Gaussian, LinearGaussian, cholesky, normal, observations
from surefoot.errors import ConfigError


@dataclass(frozen=True)
class Filtered:
    """What is known at each time from the observations so far. `...` is `[R]` if there are chains, else nothing."""

    mean: Tensor  # [T, ..., dx] of x_t given y_0..y_t
    covariance: Tensor  # [T, ..., dx, dx]
    predicted_mean: Tensor  # [T, ..., dx] of x_t given y_0..y_{t-1}
    predicted_covariance: Tensor  # [T, ..., dx, dx]
    log_likelihood: Tensor  # [...]


@dataclass(frozen=True)
class Smoothed:
    """What is known at each time from all observations."""

    mean: Tensor  # [T, ..., dx]
    covariance: Tensor  # [T, ..., dx, dx]
    lag_covariance: Tensor  # [T-1, ..., dx, dx]: Cov(x_t, x_{t+1} | y)
    log_likelihood: Tensor  # [...]

    @property
    def lag_moment(self) -> Tensor:
        """E[x_t x_{t+1}^T | y], `[T-1, ..., dx, dx]`."""
        return self.lag_covariance + self.mean[:-1].unsqueeze(-1) * self.mean[1:].unsqueeze(-2)


def kalman_filter(model: LinearGaussian, y: Tensor | np.ndarray) -> Filtered:
    """Filter a series `[T, dy]`, or `[T, R, dy]`. Raises DataError (see `observations`), or ConfigError for a singular S."""
    y = observations(model, y)
    seen = ~y.isnan()
    m, P = model.m0, model.p0
    means, covariances, predicted_means, predicted_covariances = [], [], [], []
    log_likelihood = torch.zeros((), dtype=y.dtype)
    for t, row in enumerate(y):
        if t > 0:
            m, P = times(model.a, m), model.a @ P @ model.a.mT + model.q
        predicted_means.append(m)
        predicted_covariances.append(P)
        m, P, log_evidence = update(model, m, P, row, seen[t], t)
        means.append(m)
        covariances.append(P)
        log_likelihood = log_likelihood + log_evidence
    chains = torch.broadcast_shapes(m.shape[:-1], P.shape[:-2])  # y may have chains where the parameters have none
    vectors = [torch.stack([x.expand(*chains, -1) for x in series]) for series in (means, predicted_means)]
    matrices = [torch.stack([x.expand(*chains, -1, -1) for x in series]) for series in (covariances, predicted_covariances)]
    return Filtered(vectors[0], matrices[0], vectors[1], matrices[1], log_likelihood.expand(chains))


def update(model: LinearGaussian, m: Tensor, P: Tensor, y: Tensor, seen: Tensor, t: int) -> tuple[Tensor, Tensor, Tensor]:
    """Mean, covariance and log evidence after one observation `[..., dy]`, of which only the values `seen` count."""
    if not seen.any():
        return m, P, torch.zeros((), dtype=m.dtype)
    C, R = model.c, model.r
    if not seen.all():  # a value that is missing: its row of C is zero, its noise 1 and its residual 0, so that it adds nothing
        s = seen.to(m.dtype)
        C = C * s.unsqueeze(-1)
        R = R * s.unsqueeze(-1) * s.unsqueeze(-2) + torch.diag_embed(1.0 - s)
    v = torch.where(seen, y, 0.0) - times(C, m)
    root, singular = cholesky(C @ P @ C.mT + R)
    if singular.any():
        raise ConfigError(f"the covariance of y[{t}] given the past is singular: give the observations some noise (r).")
    K = torch.cholesky_solve(C @ P, root).mT
    rest = torch.eye(P.shape[-1], dtype=P.dtype) - K @ C
    whitened = torch.linalg.solve_triangular(root, v.unsqueeze(-1), upper=False).squeeze(-1)
    log_evidence = -0.5 * whitened.square().sum(-1) - root.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    log_evidence = log_evidence - seen.sum(-1).to(m.dtype) * HALF_LOG_2PI
    return m + times(K, v), rest @ P @ rest.mT + K @ R @ K.mT, log_evidence


def kalman_smoother(model: LinearGaussian, y: Tensor | np.ndarray) -> Smoothed:
    """Smooth a series `[T, dy]`, or `[T, R, dy]`; raises what `kalman_filter` raises."""
    f = kalman_filter(model, y)
    means, covariances, lags = [f.mean[-1]], [f.covariance[-1]], []
    for t in range(len(f.mean) - 2, -1, -1):
        G = gain(model, f, t)
        lags.append(G @ covariances[-1])
        means.append(f.mean[t] + times(G, means[-1] - f.predicted_mean[t + 1]))
        covariances.append(f.covariance[t] + G @ (covariances[-1] - f.predicted_covariance[t + 1]) @ G.mT)
    lag = torch.stack(lags[::-1]) if lags else f.covariance[:0]
    return Smoothed(torch.stack(means[::-1]), torch.stack(covariances[::-1]), lag, f.log_likelihood)


def draw_paths(model: LinearGaussian, y: Tensor | np.ndarray, n: int, *, seed: int = 0) -> Tensor:
    """`n` independent paths `[n, T, dx]` from the law of the states given a series `[T, dy]`; the model must have no chains."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        f = kalman_filter(model, y)
        if f.mean.dim() != 2:
            raise ConfigError("paths are drawn for one series and one model: take one of the chains.")
        x = f.mean[-1] + normal((n, model.dx), generator) @ Gaussian(f.covariance[-1], "the last covariance").root.mT
        path = [x]
        for t in range(len(f.mean) - 2, -1, -1):
            G = gain(model, f, t)
            left = f.covariance[t] - G @ f.predicted_covariance[t + 1] @ G.mT
            noise = Gaussian(0.5 * (left + left.mT), f"the covariance at step {t}")
            x = f.mean[t] + (x - f.predicted_mean[t + 1]) @ G.mT + normal((n, model.dx), generator) @ noise.root.mT
            path.append(x)
    return torch.stack(path[::-1], 1)


def gain(model: LinearGaussian, f: Filtered, t: int) -> Tensor:
    """G of step t. Where the predicted covariance is singular its pseudo-inverse is exact, since A P_t lies in its range."""
    cross, P = model.a @ f.covariance[t], f.predicted_covariance[t + 1]
    root, singular = cholesky(P)
    return (torch.linalg.pinv(P, hermitian=True) @ cross).mT if singular.any() else torch.cholesky_solve(cross, root).mT


def times(matrix: Tensor, vector: Tensor) -> Tensor:
    """`matrix @ vector` with any leading axes."""
    return (matrix @ vector.unsqueeze(-1)).squeeze(-1)
