"""Smooth minimisation over a product of Euclidean balls with a quasi-Newton method, all copies at once.

w = R v / sqrt(1 + |v|^2) maps R^d one to one onto the open ball of radius R and is smooth, so that L-BFGS on v (Liu and Nocedal, 1989;
scipy's) needs no projection, and a convex function of w gets no new stationary points. An optimum on the sphere is approached, not
reached: at |v| = 1000 it is missed by 5e-7 R.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.optimize import minimize

from surefoot.errors import ConfigError, DivergedError

Objective = Callable[[np.ndarray], tuple[float, np.ndarray]]
"""w `[..., d]` to the sum over copies of what is to be minimised, and its gradient `[..., d]`."""


def minimise_in_balls(objective: Objective, shape: tuple[int, ...], radius: float, steps: int = 500) -> np.ndarray:
    """The w `[..., d]` of this shape, each of norm at most `radius`, that minimises `objective`; starts at 0.

    Raises ConfigError unless radius > 0, DivergedError if the objective becomes NaN or infinite.
    """
    if not 0.0 < radius < np.inf:
        raise ConfigError(f"radius is {radius}: the ball of weights needs a positive one.")

    def pulled_back(flat: np.ndarray) -> tuple[float, np.ndarray]:
        v = flat.reshape(shape)
        root = np.sqrt(1.0 + np.square(v).sum(-1, keepdims=True))
        value, gradient = objective(radius * v / root)
        if not (np.isfinite(value) and np.isfinite(gradient).all()):
            raise DivergedError("the fitted loss became NaN or infinite: check the features for very large values.")
        return value, (radius / root * (gradient - v * (v * gradient).sum(-1, keepdims=True) / root**2)).reshape(-1)

    options = {"maxiter": steps, "gtol": 1e-7, "ftol": 1e-10}
    found = minimize(pulled_back, np.zeros(int(np.prod(shape))), jac=True, method="L-BFGS-B", options=options)
    v = found.x.reshape(shape)
    return radius * v / np.sqrt(1.0 + np.square(v).sum(-1, keepdims=True))
