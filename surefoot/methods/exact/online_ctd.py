"""CTD(0) and CTD(lambda) on a stream of transitions (t, X, r, X'), for linear value functions: one update a transition.

    delta = gamma (theta . phi') - theta . phi + a r          (the payoff in place of theta . phi' where the path ends)
    ctd0    theta <- theta + alpha w phi delta
    ctd     z <- (lambda exp(-rho))^dt z + phi dt             theta <- theta + alpha w z delta        (dt: of the step before, of this step)

Jia and Zhou 2022 (`martingale_evaluation`): there is no dt in ctd0, and step sizes do not depend on the steps' lengths. With theta
held fixed the updates of a path sum to the offline direction exactly.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from surefoot.errors import ConfigError, DivergedError
from surefoot.methods.exact.continuous_time import Criterion
from surefoot.methods.exact.value_functions import Features, LinearValue, columns


class OnlineCTD:
    """Learns while it watches. Leading axes (`[...]`) are streams side by side, each with weights `theta` `[..., k]` of its own.

    `lr`: a step size, or a function of the number of the update (`lambda n: 0.1 * (n + 1) ** -0.67`). `lam`: None is CTD(0), else
    CTD(lambda). Finite horizon: give the time to go `tau` with every transition, and the payoff with a path's last one.
    """

    def __init__(
        self,
        features: Features,
        lr: float | Callable[[int], float] = 0.05,
        *,
        lam: float | None = None,
        rho: float = 0.0,
        infinite: bool = False,
        weighting: str | None = None,
    ):
        if lam is not None and not 0.0 < lam <= 1.0:
            raise ConfigError(f"lam is {lam}: it must be above 0 and at most 1; None is CTD(0).")
        self.features, self.lam, self.criterion = features, lam, Criterion(rho, infinite, weighting)
        self.lr: Callable[[int], float] = lr if callable(lr) else (lambda n: lr)
        self.theta: np.ndarray | None = None  # [..., k], zeros at first
        self.names: tuple[str, ...] = ()
        self.updates = 0
        self.begin()

    def begin(self) -> None:
        """A new path: its clock is at 0 and nothing is remembered. Called by `step` after a payoff."""
        self.elapsed, self.decay, self.trace = 0.0, 0.0, np.zeros(())

    def step(
        self,
        x: np.ndarray,
        reward: np.ndarray | float,
        dt: float,
        next_x: np.ndarray,
        *,
        tau: float | None = None,
        payoff: np.ndarray | float | None = None,
    ) -> np.ndarray:
        """One transition: state `[..., d]`, reward *rate* `[...]`, time until the next state. Returns delta `[...]`."""
        criterion = self.criterion
        if not 0.0 < dt < np.inf:
            raise ConfigError(f"dt is {dt}: the time from a state to the next is positive.")
        if (tau is None) != criterion.infinite:
            raise ConfigError("give the time to go (tau) with every transition of a finite horizon, and none with an infinite one.")
        if tau is not None and (payoff is None) == (tau - dt <= 1e-12 * max(1.0, tau)):
            raise ConfigError(
                f"with {tau:g} to go and a step of {dt:g}: give the payoff with the transition that ends the path, and only there."
            )
        phi, self.names = self._phi(x, tau)
        if self.theta is None:
            self.theta = np.zeros_like(phi)
        gamma = np.exp(-criterion.rho * dt)
        annuity = dt if criterion.rho == 0.0 else -np.expm1(-criterion.rho * dt) / criterion.rho
        ahead = payoff if payoff is not None else (self.theta * self._phi(next_x, None if tau is None else tau - dt)[0]).sum(-1)
        delta = np.asarray(gamma * ahead - (self.theta * phi).sum(-1) + annuity * reward)
        direction = phi if self.lam is None else self._traced(phi, dt)
        weight = np.exp(-criterion.rho * self.elapsed) if criterion.discounted else 1.0
        if self.lam is not None and criterion.discounted:
            weight = 1.0  # the trace holds each moment's own weight
        self.theta = self.theta + self.lr(self.updates) * weight * direction * delta[..., None]
        self.updates += 1
        if not np.isfinite(self.theta).all():
            raise DivergedError(f"the weights left the finite numbers at update {self.updates}: take a smaller lr.")
        self.elapsed += dt
        if payoff is not None:
            self.begin()
        return delta

    def _traced(self, phi: np.ndarray, dt: float) -> np.ndarray:
        """z, with each moment weighted as it counts."""
        assert self.lam is not None
        weight = np.exp(-self.criterion.rho * self.elapsed) if self.criterion.discounted else 1.0
        self.trace = self.decay * self.trace + weight * phi * dt
        self.decay = self.lam**dt * np.exp(-self.criterion.rho * dt)
        return self.trace

    def _phi(self, x: np.ndarray, tau: float | None) -> tuple[np.ndarray, tuple[str, ...]]:
        x = np.asarray(x, np.float64)
        return columns(self.features, x, None if tau is None else np.full(x.shape[:-1], tau))

    @property
    def value(self) -> LinearValue:
        """What has been learned so far."""
        if self.theta is None:
            raise ConfigError("nothing has been learned yet: call step first.")
        return LinearValue(self.theta.copy(), self.features, None, self.names, None, {"estimator": "ctd0" if self.lam is None else "ctd"})
