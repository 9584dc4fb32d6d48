"""PaRIS particle Gibbs (PPG): smoothed expectations of additive functionals in any state-space model, with a bias that dies out fast.

Cardoso, Janati El Idrissi, Le Corff, Moulines and Olsson, "State and parameter learning with PaRIS particle Gibbs", ICML 2023, arXiv
2301.00900; PaRIS itself is Olsson and Westerborn, Bernoulli 2017. For h = h_0(x_0) + sum_t h_t(x_t, x_{t+1}) every particle carries

    beta_{t+1}^i = (1/M) sum_m [ beta_t^{J_m} + h_t(x_t^{J_m}, x_{t+1}^i) ],    J_1..J_M ~ B_t^{i,.} ~ W_t m(x_t, x_{t+1}^i)
    beta_{t+1}^i = sum_l B_t^{i,l} [ beta_t^l + h_t(x_t^l, x_{t+1}^i) ]           (the mean over J, at a cost of N^2: `draws=None`)

and sum_i W_t^i beta_t^i estimates E[h | y_0..y_t] on the way (`paris`). PPG runs the first inside a conditional filter, whose particle 0 is
held to a reference path z, and draws the next z from the particles' own paths, those of the first backward draws (`sweep`). The mean of
the estimates after k0 of k sweeps is the roll-out estimator (`ppg`), of bias of order kappa^{k0} / ((k - k0) N) with kappa < 1.

Departures: the filter form (the last observation is conditioned on), as in nchopin/particles, where the paper states the predictor form;
the reference stays at index 0, where the paper moves it about, which is the same in law for what is computed here. The first reference
is a path of a bootstrap filter traced through its ancestors: given the particles, an ancestor drawn multinomially has the law of a
backward draw, so this costs nothing and changes nothing. No official code was found; the abstract was read, the algorithm is from memory
of the paper, and its properties are tested.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from surefoot.envs.state_space import StateSpaceModel
from surefoot.errors import ConfigError, UnknownNameError
from surefoot.methods.exact.backward_sampling import Backward, backward_draws, backward_table, blocks
from surefoot.methods.exact.particle_filter import Seed, Series, Step, check_settings, generator_of, particle_filter, particle_steps
from surefoot.methods.exact.resampling import multinomial, take
from surefoot.progress import watched

Term: TypeAlias = Callable[[int, Tensor, Tensor], Tensor]
"""h(t, x, x_next) -> `[..., dh]` for states `[..., dx]` that broadcast."""

Start: TypeAlias = Callable[[Tensor], Tensor]
"""h_0(x_0): `[..., dx]` -> `[..., dh]`."""


# --- config -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PPGConfig:
    """How much PPG computes. N should grow with T: 10 served for 50 steps, several hundred for 1000."""

    particles: int = 10  # N, the reference among them
    draws: int = 2  # M, backward draws a particle; with 1 the variance grows quadratically with T
    sweeps: int = 9  # k
    burn_in: int = 2  # k0: first sweeps that are left out of the average
    backward: Backward = "table"  # "rejection" from some hundred particles on

    def __post_init__(self) -> None:
        check_settings(self.particles)
        check_draws(self.draws, self.backward)
        if not 0 <= self.burn_in < self.sweeps:
            raise ConfigError(f"burn_in is {self.burn_in} of {self.sweeps} sweeps: at least one sweep must be left to average.")


def check_draws(draws: int | None, backward: str) -> None:
    if draws is not None and draws < 1:
        raise ConfigError(f"draws is {draws}: a particle needs at least one backward draw (and two to stay stable).")
    if backward not in ("table", "rejection"):
        raise UnknownNameError("way of backward sampling", backward, ("table", "rejection"))


# --- the statistic a particle carries ---------------------------------------------------------------------------------


def paris_update(h: Term, before: Step, x_next: Tensor, beta: Tensor, j: Tensor) -> Tensor:
    """beta at t+1, `[R, N, dh]`, from beta at t and the backward draws `j` `[R, N, M]`."""
    return (take(beta, j) + term(h, before.t, take(before.x, j), x_next.unsqueeze(2))).mean(2)


def exact_update(h: Term, model: StateSpaceModel, before: Step, x_next: Tensor, beta: Tensor) -> Tensor:
    """The mean over J of `paris_update`, from the table of all pairs."""
    parts = []
    for rows in blocks(before, x_next):
        b = backward_table(model, before, x_next[:, rows])
        b = b / b.sum(-1, keepdim=True)
        values = beta.unsqueeze(1) + term(h, before.t, before.x.unsqueeze(1), x_next[:, rows].unsqueeze(2))
        parts.append(torch.einsum("rnl,rnld->rnd", b, values.expand(*b.shape, -1)))
    return torch.cat(parts, 1)


def term(h: Term, t: int, x: Tensor, x_next: Tensor) -> Tensor:
    """h, with its shape checked."""
    value = h(t, x, x_next)
    if value.dim() != x.dim():
        shapes = f"{tuple(value.shape)} for states {tuple(x.shape)} and {tuple(x_next.shape)}"
        raise ConfigError(f"h returned shape {shapes}: it must keep their axes, with its own numbers in the last one.")
    return value


def smoothing_steps(
    model: StateSpaceModel,
    series: Series,
    h: Term | None,
    h0: Start | None,
    n: int,
    draws: int | None,
    generator: torch.Generator,
    *,
    backward: Backward = "table",
    reference: Tensor | None = None,
) -> Iterator[tuple[Step, Tensor | None, Tensor]]:
    """The loop of PaRIS, conditional or not: particles, backward draws `[R, N, M]` (None where there are none) and beta `[R, N, dh]`."""
    before: Step | None = None
    beta, j = torch.zeros(0), None
    for step in particle_steps(model, series, n, generator, reference=reference):
        if before is None:
            beta = torch.zeros_like(step.x[..., :1]) if h0 is None else h0(step.x)
        elif draws is None:
            beta = beta if h is None else exact_update(h, model, before, step.x, beta)
        else:
            j = backward_draws(model, before, step.x, draws, generator, backward)
            beta = beta if h is None else paris_update(h, before, step.x, beta, j)
        yield step, j, beta
        before = step


# --- PaRIS ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Paris:
    """What one pass estimates while it runs."""

    estimates: Tensor  # [T, R, dh]: E[h_0 + sum_{s<t} h_s | y_0..y_t]
    log_likelihood: Tensor  # [R]

    @property
    def estimate(self) -> Tensor:
        """Given all observations, `[R, dh]`."""
        return self.estimates[-1]


@torch.no_grad()
def paris(
    model: StateSpaceModel,
    y: Tensor | np.ndarray,
    h: Term,
    *,
    h0: Start | None = None,
    particles: int = 100,
    draws: int | None = 2,
    chains: int = 1,
    backward: Backward = "table",
    seed: Seed = 0,
) -> Paris:
    """PaRIS over a series `[T, dy]` or `[T, R, dy]`, in memory that does not grow with T; `draws=None` for the exact update.

    Raises DataError or ConfigError (see `particle_steps`).
    """
    check_settings(particles)
    check_draws(draws, backward)
    generator = generator_of(seed)
    series = Series(model, y, chains, generator.device)
    steps = smoothing_steps(model, series, h, h0, particles, draws, generator, backward=backward)
    estimates, log_likelihood = [], torch.zeros(chains, dtype=torch.float64, device=generator.device)
    for _ in watched(range(len(series)), "time steps"):
        step, _, beta = next(steps)
        estimates.append(expectation(step.w, beta))
        log_likelihood = log_likelihood + step.log_evidence
    width = estimates[-1].shape[-1]
    return Paris(torch.stack([e.expand(-1, width) for e in estimates]), log_likelihood)


def expectation(w: Tensor, beta: Tensor) -> Tensor:
    """sum_i W^i beta^i: `[R, N]`, `[R, N, dh]` -> `[R, dh]`."""
    return (w.unsqueeze(1) @ beta).squeeze(1)


# --- PaRIS particle Gibbs ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sweep:
    """One pass with all it drew, so that paths and scores can be had from it."""

    steps: list[Step]
    draws: list[Tensor]  # T-1 of [R, N, M]: backward draws of the particles of steps 1..T-1
    estimate: Tensor  # [R, dh]

    def draw_path(self, generator: torch.Generator) -> Tensor:
        """A path `[R, T, dx]`: a particle of the last step by its weight, then first backward draws."""
        index = multinomial(self.steps[-1].w, 1, generator)
        path = [take(self.steps[-1].x, index)]
        for step, j in zip(self.steps[-2::-1], self.draws[::-1], strict=True):
            index = j[..., 0].gather(1, index)
            path.append(take(step.x, index))
        return torch.cat(path[::-1], 1)

    def smoothing_weights(self) -> list[Tensor]:
        """What each particle counts for given all observations, T of `[R, N]`: weights handed back along the draws; rows sum to one."""
        weights = [self.steps[-1].w]
        for j in reversed(self.draws):
            share = (weights[-1] / j.shape[-1]).unsqueeze(-1).expand(j.shape)
            weights.append(torch.zeros_like(weights[-1]).scatter_add_(1, j.flatten(1), share.flatten(1)))
        return weights[::-1]

    def mean(self) -> Tensor:
        """Estimate of E[x_t | y], `[T, R, dx]`: the estimate for h = x_t, of all t at once."""
        return torch.stack([expectation(w, step.x) for w, step in zip(self.smoothing_weights(), self.steps, strict=True)])


@torch.no_grad()
def sweep(
    model: StateSpaceModel,
    series: Series,
    h: Term | None,
    config: PPGConfig,
    generator: torch.Generator,
    reference: Tensor | None,
    h0: Start | None = None,
) -> Sweep:
    """One conditional PaRIS pass around `reference` `[R, T, dx]` (None: an unconditional one, PaRIS itself)."""
    steps, draws = [], []
    options: dict[str, Any] = {"backward": config.backward, "reference": reference}
    for step, j, beta in smoothing_steps(model, series, h, h0, config.particles, config.draws, generator, **options):  # noqa: B007
        steps.append(step)
        if j is not None:
            draws.append(j)
    return Sweep(steps, draws, expectation(step.w, beta))  # of the last step


@dataclass(frozen=True)
class PPG:
    """What PPG found; k sweeps, R chains."""

    estimate: Tensor  # [R, dh]: mean over the sweeps after burn-in
    sweeps: Tensor  # [k, R, dh]: each sweep's own
    path: Tensor  # [R, T, dx]: the last reference path, a draw from (nearly) the smoothing law
    mean: Tensor  # [T, R, dx]: E[x_t | y], over the same sweeps


def ppg(
    model: StateSpaceModel,
    y: Tensor | np.ndarray,
    h: Term,
    config: PPGConfig | None = None,
    *,
    h0: Start | None = None,
    chains: int = 1,
    reference: Tensor | None = None,
    seed: Seed = 0,
) -> PPG:
    """E[h_0(x_0) + sum_t h(t, x_t, x_{t+1}) | y] by the roll-out estimator, in `chains` independent replications.

    y: `[T, dy]`, or `[T, R, dy]` with a series a chain. `reference` `[R, T, dx]`: where to start (None: a bootstrap filter's path).
    Raises DataError or ConfigError (see `particle_steps`).
    """
    config = PPGConfig() if config is None else config
    generator = generator_of(seed)
    series = Series(model, y, chains, generator.device)
    z = first_path(model, y, config.particles, chains, generator) if reference is None else reference
    estimates, mean = [], torch.zeros(len(series), chains, model.dx, dtype=torch.float64, device=generator.device)
    for i in watched(range(config.sweeps), "sweeps"):
        done = sweep(model, series, h, config, generator, z, h0)
        estimates.append(done.estimate)
        z = done.draw_path(generator)
        if i >= config.burn_in:
            mean += done.mean() / (config.sweeps - config.burn_in)
    every = torch.stack(estimates)
    return PPG(every[config.burn_in :].mean(0), every, z, mean)


def first_path(model: StateSpaceModel, y: Tensor | np.ndarray, n: int, chains: int, generator: torch.Generator) -> Tensor:
    """A path `[R, T, dx]` of a bootstrap filter of `n` particles."""
    done = particle_filter(model, y, particles=n, chains=chains, resampling="multinomial", ess_share=1.0, keep=True, seed=generator)
    return done.draw_path(generator)
