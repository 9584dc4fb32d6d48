"""Maximum likelihood by stochastic ascent along the score, for any state-space model whose densities torch can differentiate.

Fisher's identity: grad log p_theta(y) = E[ grad log p_theta(x, y) | y ], the smoothed mean of an additive functional. A sweep of PaRIS
particle Gibbs (arXiv 2301.00900, section on learning; `paris_particle_gibbs`) estimates it. By linearity its estimate is a weighted sum
over the particles and pairs that it drew,

    e = sum_t sum_{i,m} (lambda_{t+1}^i / M) h_t(x_t^{J_m}, x_{t+1}^i),
    lambda_{T-1} = W_{T-1},    lambda_t^l = sum_{i,m: J_m = l} lambda_{t+1}^i / M

so the score needs no gradient a particle: the weighted log densities, with particles and weights held fixed, are differentiated once
(`expected_log_joint`). That equals the sum that PaRIS would have carried forward, to rounding; a test holds it to that.

    theta_{l+1} = theta_l + gamma_l / T * score,    gamma_l = c / (1 + l / 20)^0.6,    and the mean of the last thetas (Polyak and Juditsky)

The reference path is carried over from one theta to the next. Two other estimators are here to compare with: "paris" (no reference, hence
biased) and "path" (the reference path alone: Markov score climbing, Naesseth et al. 2020). Beyond the paper: `rule="adam"`, for
parameters whose scale is not known, since gamma_l must stay below about two over the curvature of log p_theta(y) / T.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from surefoot.envs.state_space import StateSpaceModel
from surefoot.errors import ConfigError, DataError, DivergedError, UnknownNameError
from surefoot.methods.exact.paris_particle_gibbs import PPGConfig, Sweep, first_path, sweep
from surefoot.methods.exact.particle_filter import Seed, Series, generator_of
from surefoot.methods.exact.resampling import take
from surefoot.progress import watched

Build = Callable[[Tensor], StateSpaceModel]
"""The model of parameters `[R, p]`, one row a chain: `lambda theta: StochasticVolatility(theta[:, 0].tanh(), ...)`."""

RULES = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}
ESTIMATORS = ("ppg", "paris", "path")


@dataclass(frozen=True)
class AscentConfig:
    """How theta moves."""

    iterations: int = 200
    particles: int = 10  # N
    draws: int = 2  # M
    sweeps: int = 1  # k: sweeps an iteration
    burn_in: int = 0  # k0: of which are left out
    step: float = 0.5  # c
    decay: float = 20.0  # gamma_l = c / (1 + l / decay)^0.6
    rule: Literal["sgd", "adam"] = "sgd"  # how the score is used; adam where the scale of the parameters is not known
    average: float = 0.5  # share of the iterations, the last ones, whose mean is returned
    estimator: Literal["ppg", "paris", "path"] = "ppg"
    backward: Literal["table", "rejection"] = "table"

    def __post_init__(self) -> None:
        self.ppg  # noqa: B018 its own checks
        if self.iterations < 1:
            raise ConfigError(f"iterations is {self.iterations}: at least one is needed.")
        if not (self.step > 0.0 and self.decay > 0.0):
            raise ConfigError(f"step is {self.step} and decay is {self.decay}: both must be positive.")
        if not 0.0 < self.average <= 1.0:
            raise ConfigError(f"average is {self.average}: the share of iterations to average lies above 0 and at most at 1.")
        if self.rule not in RULES:
            raise UnknownNameError("rule", self.rule, RULES)
        if self.estimator not in ESTIMATORS:
            raise UnknownNameError("estimator", self.estimator, ESTIMATORS)

    @property
    def ppg(self) -> PPGConfig:
        return PPGConfig(self.particles, self.draws, self.sweeps, self.burn_in, self.backward)


# --- the score --------------------------------------------------------------------------------------------------------


def expected_log_joint(model: StateSpaceModel, series: Series, done: Sweep) -> Tensor:
    """The sweep's estimate of E[log p(x, y) | y], summed over chains: `[]`, differentiable in the model's parameters alone."""
    weights = done.smoothing_weights()
    start = weighted(weights[0], model.log_x0(alive(done.steps[0].x, weights[0])))
    return start + (all_times(model, series, done, weights) if model.homogeneous else time_by_time(model, series, done, weights))


def time_by_time(model: StateSpaceModel, series: Series, done: Sweep, weights: list[Tensor]) -> Tensor:
    """The terms of transitions and observations."""
    total = torch.zeros((), dtype=weights[0].dtype, device=weights[0].device)
    for t, (step, w) in enumerate(zip(done.steps, weights, strict=True)):
        if not series.all[t]:
            total = total + weighted(w, series.log_g(model, t, alive(step.x, w)))
        if t > 0:
            j, origin = done.draws[t - 1], done.steps[t - 1].x
            log_m = model.log_m(t - 1, take(origin, j), step.x.unsqueeze(2))
            total = total + weighted(w.unsqueeze(-1) / j.shape[-1], log_m)
    return total


def all_times(model: StateSpaceModel, series: Series, done: Sweep, weights: list[Tensor]) -> Tensor:
    """The same in a few large operations."""
    w = torch.stack(weights, 1)  # [R, T, N]
    x = torch.stack([step.x for step in done.steps], 1)  # [R, T, N, dx]
    total = weighted(w, series.log_g_of_all(model, alive(x.flatten(0, 1), w.flatten(0, 1)).reshape(x.shape)))
    if done.draws:
        j = torch.stack(done.draws, 1)  # [R, T-1, N, M]
        origin = take(x[:, :-1].flatten(0, 1), j.flatten(0, 1)).reshape(*j.shape, x.shape[-1])
        total = total + weighted(w[:, 1:].unsqueeze(-1) / j.shape[-1], model.log_m(0, origin, x[:, 1:].unsqueeze(3)))
    return total


def weighted(w: Tensor, log_density: Tensor) -> Tensor:
    """The sum of weighted log densities."""
    return (w * log_density).sum()


def alive(x: Tensor, w: Tensor) -> Tensor:
    """Particles, those without weight replaced by the heaviest: at an impossible state zero times an infinite slope would be NaN."""
    best = take(x, w.argmax(1, keepdim=True))
    return torch.where((w > 0.0).unsqueeze(-1), x, best)


def log_joint(model: StateSpaceModel, series: Series, path: Tensor) -> Tensor:
    """log p(x, y) of paths `[R, T, dx]`, summed over chains: `[]`."""
    x = path.unsqueeze(2)  # [R, T, 1, dx]: one particle at each time
    total = model.log_x0(x[:, 0]).sum()
    for t in range(len(series)):
        total = total + series.log_g(model, t, x[:, t]).sum()
        if t > 0:
            total = total + model.log_m(t - 1, x[:, t - 1], x[:, t]).sum()
    return total


# --- learning ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Learned:
    """Where the ascent went; R chains, p parameters."""

    theta: Tensor  # [R, p]: mean of the last iterations
    trajectory: Tensor  # [iterations + 1, R, p]
    path: Tensor  # [R, T, dx]: the last reference path


def learn(
    build: Build,
    theta: Tensor | list[float],
    y: Tensor | np.ndarray,
    config: AscentConfig | None = None,
    *,
    chains: int = 1,
    seed: Seed = 0,
) -> Learned:
    """Maximise the likelihood of a series `[T, dy]` (or `[T, R, dy]`) from `theta` `[p]` (or `[R, p]`) in `chains` independent runs.

    Raises DataError or ConfigError (see `particle_steps`), and DivergedError if theta moves to where no filter can follow.
    """
    config = AscentConfig() if config is None else config
    generator = generator_of(seed)
    theta = starting_point(theta, chains, generator.device)
    series = Series(build(theta), y, chains, generator.device)
    optimiser = RULES[config.rule]([theta], lr=config.step, maximize=True)
    z = first_path(build(theta), y, config.particles, chains, generator)
    trajectory = [theta.detach().clone()]
    for l in watched(range(config.iterations), "iterations"):  # noqa: E741 the paper's name
        try:
            value, z = estimate(build(theta), series, z, config, generator)
        except (ConfigError, DataError) as error:
            if l == 0:  # the start or the data are to blame; later it is where the ascent went
                raise
            raise DivergedError(f"theta cannot be used from iteration {l} on: take a smaller step than {config.step} ({error})") from error
        theta.grad = torch.autograd.grad(value, theta)[0] / len(series)
        optimiser.param_groups[0]["lr"] = config.step / (1.0 + l / config.decay) ** 0.6
        optimiser.step()
        if not torch.isfinite(theta).all():
            raise DivergedError(f"theta became NaN or infinite in iteration {l}: take a smaller step than {config.step}, or rule='adam'.")
        trajectory.append(theta.detach().clone())
    every = torch.stack(trajectory)
    last = max(1, round(config.average * config.iterations))
    return Learned(every[-last:].mean(0), every, z)


def estimate(model: StateSpaceModel, series: Series, z: Tensor, config: AscentConfig, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """A scalar whose gradient is the score (summed over chains, so that each chain's parameters get their own), and the next path."""
    values = []
    for i in range(config.sweeps):
        done = sweep(model, series, None, config.ppg, generator, None if config.estimator == "paris" else z)
        z = done.draw_path(generator)
        if i >= config.burn_in:
            values.append(log_joint(model, series, z) if config.estimator == "path" else expected_log_joint(model, series, done))
    return torch.stack(values).mean(), z


def starting_point(theta: Tensor | list[float], chains: int, device: torch.device) -> Tensor:
    """Parameters `[R, p]` of their own, to be learned."""
    start = torch.as_tensor(theta, dtype=torch.float64, device=device).detach()
    if start.dim() not in (1, 2) or (start.dim() == 2 and len(start) != chains) or not torch.isfinite(start).all():
        raise ConfigError(f"theta has shape {tuple(start.shape)}: give finite numbers [p], or [{chains}, p] with a row a chain.")
    return start.expand(chains, start.shape[-1]).clone().requires_grad_(True)
