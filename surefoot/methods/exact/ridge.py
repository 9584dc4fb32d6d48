"""Ridge regression with one Gram matrix and many targets, and the elliptical norms that measure where it has not seen enough.

The backbone of least-squares value iteration (Jin et al., arXiv 1907.05388): Lambda = ridge I + sum_k phi_k phi_k^T, estimates
Lambda^{-1} sum_k phi_k y_k, uncertainty ||phi||_{Lambda^{-1}} = sqrt(phi^T Lambda^{-1} phi).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from surefoot.errors import ConfigError, DataError


@dataclass(frozen=True, eq=False)
class Gram:
    """A positive definite `Lambda` `[..., d, d]`, factorised once: Lambda = L L^T, and `factor` is L^{-1}."""

    factor: np.ndarray  # [..., d, d] lower triangular

    @staticmethod
    def of_features(features: np.ndarray, ridge: float) -> Gram:
        """Lambda = ridge I + sum_k phi_k phi_k^T of `features` `[..., n, d]`. Raises ConfigError unless ridge > 0, DataError for NaN."""
        if not ridge > 0.0:
            raise ConfigError(f"ridge is {ridge}: it must be positive, or directions that were never seen have no estimate.")
        if not np.isfinite(features).all():
            where = np.argwhere(~np.isfinite(features))[0].tolist()
            raise DataError(f"features{where} is {features[tuple(where)]}: features must be finite.")
        return Gram.of_matrix(np.swapaxes(features, -1, -2) @ features + ridge * np.eye(features.shape[-1]))

    @staticmethod
    def of_matrix(matrix: np.ndarray) -> Gram:
        """Factorise a symmetric matrix; raises DataError if it is not positive definite."""
        try:
            lower = np.linalg.cholesky(matrix)
        except np.linalg.LinAlgError:
            raise DataError(
                "the covariance of the features is not positive definite: raise the ridge, or drop features that repeat others."
            ) from None
        return Gram(np.linalg.solve(lower, np.broadcast_to(np.eye(matrix.shape[-1]), matrix.shape)))

    @cached_property
    def inverse(self) -> np.ndarray:
        """Lambda^{-1}, symmetric, `[..., d, d]`."""
        return np.swapaxes(self.factor, -1, -2) @ self.factor

    @cached_property
    def diagonal(self) -> np.ndarray:
        """Diagonal of Lambda^{-1}, `[..., d]`."""
        return np.square(self.factor).sum(-2)

    def weights(self, features: np.ndarray) -> np.ndarray:
        """M = Lambda^{-1} Phi^T, `[..., d, n]`: M y is the estimate for targets y `[..., n]`. Its rows are no probabilities."""
        return self.inverse @ np.swapaxes(features, -1, -2)

    def norm(self, phi: np.ndarray) -> np.ndarray:
        """||phi||_{Lambda^{-1}}, `[...]`, of `phi` `[..., d]`, whose axes before the last come after the Gram matrix's own."""
        lead = self.factor.ndim - 2
        flat = phi.reshape(*phi.shape[:lead], -1, phi.shape[-1])
        return np.linalg.norm(flat @ np.swapaxes(self.factor, -1, -2), axis=-1).reshape(phi.shape[:-1])
