"""Particle filters: the law of a hidden state by weighted samples, for any state-space model, many independent filters at once.

    ancestors A_i ~ W_{t-1},    x_t^i ~ q_t(x_{t-1}^{A_i}, .),    W_t^i ~ m(x_{t-1}^{A_i}, x_t^i) g(x_t^i, y_t) / q_t(x_{t-1}^{A_i}, x_t^i)

Gordon, Salmond and Smith 1993 (the bootstrap filter: q is the transition m, and the weight is g alone); Doucet, Godsill and Andrieu 2000
(guided: any proposal q). The product of the mean weights is an unbiased estimate of the likelihood. With a reference path, particle 0 is
held to it at all times: the conditional filter of particle Gibbs (Andrieu, Doucet and Holenstein 2010).

`particle_steps` is the loop, one `Step` at a time, for smoothers and for whoever wants to see inside; `particle_filter` runs it.
A missing observation (a row of NaN) leaves the weights alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from surefoot.envs.state_space import StateSpaceModel, observations
from surefoot.errors import ConfigError, DataError, UnknownNameError
from surefoot.methods.exact.proposals import Proposal
from surefoot.methods.exact.resampling import RESAMPLING, Resample, multinomial, take
from surefoot.progress import watched

Seed: TypeAlias = int | torch.Generator
"""Where random numbers come from; a generator also says on which device everything is computed."""


def generator_of(seed: Seed) -> torch.Generator:
    """The generator itself, or one on the CPU with this seed."""
    return seed if isinstance(seed, torch.Generator) else torch.Generator().manual_seed(seed)


BLOCK = 2**17
"""Numbers of particles that are held at most before their moments are computed."""

# --- weights ----------------------------------------------------------------------------------------------------------


class Series:
    """Observations, checked and laid out for `[R, N]` weights. A row that is missing in part is a DataError: no density is known for it."""

    def __init__(self, model: StateSpaceModel, y: Tensor | np.ndarray, chains: int, device: torch.device):
        if chains < 1:
            raise ConfigError(f"chains is {chains}: at least one must be run.")
        self.chains = chains
        y = observations(model, y, chains).to(device)
        missing = y.isnan().any(-1)  # [T] or [T, R]
        partly = missing & ~y.isnan().all(-1)
        if partly.any():
            where = partly.nonzero()[0].tolist()
            raise DataError(f"y{where} is missing in part: particle weights need a whole row, so fill it in or make all of it NaN.")
        self.some = missing.reshape(len(y), -1).any(-1).tolist()
        self.all = missing.reshape(len(y), -1).all(-1).tolist()
        if missing.any():  # a row that was seen stands in, so that densities are finite there; what they are is not used
            y = torch.where(missing.unsqueeze(-1), y[~missing][0], y)
        self.y = y if y.dim() == 2 else y.unsqueeze(2)  # [T, dy] or [T, R, 1, dy]
        self.missing = missing if y.dim() == 2 else missing.unsqueeze(-1)  # [T] or [T, R, 1]

    def __len__(self) -> int:
        return len(self.y)

    def log_g(self, model: StateSpaceModel, t: int, x: Tensor) -> Tensor:
        """Log observation densities `[R, N]` of particles `[R, N, dx]`, 0 where the observation is missing."""
        if self.all[t]:
            return torch.zeros(x.shape[:-1], dtype=x.dtype, device=x.device)
        log_g = checked(model, model.log_g(t, x, self.y[t]), x)
        return torch.where(self.missing[t], 0.0, log_g) if self.some[t] else log_g

    def log_g_of_all(self, model: StateSpaceModel, x: Tensor) -> Tensor:
        """The same of all times at once, `[R, T, N, dx]` -> `[R, T, N]`, for a homogeneous model."""
        shared = self.y.dim() == 2
        y, missing = (self.y.unsqueeze(1), self.missing.unsqueeze(1)) if shared else (self.y.transpose(0, 1), self.missing.transpose(0, 1))
        return torch.where(missing, 0.0, checked(model, model.log_g(0, x, y), x))


def checked(model: StateSpaceModel, log_g: Tensor, x: Tensor) -> Tensor:
    """`log_g`, or a ConfigError if its shape is not that of `x` without the last axis."""
    if log_g.shape != x.shape[:-1]:
        name = f"{type(model).__name__}.log_g"
        raise ConfigError(f"{name} returned shape {tuple(log_g.shape)} for states {tuple(x.shape)}: drop the last axis, and it alone.")
    return log_g


def normalised(log_w: Tensor, t: int) -> tuple[Tensor, Tensor, Tensor]:
    """Weights that sum to one `[R, N]`, their logarithms, and the log of the sum `[R]`. Raises DataError where no weight is left."""
    log_total = log_w.logsumexp(-1, keepdim=True)
    if not math.isfinite(log_total.sum().item()):
        raise degenerate(log_w, t)
    log_w = log_w - log_total
    return log_w.exp(), log_w, log_total.squeeze(-1)


def degenerate(log_w: Tensor, t: int) -> DataError:
    """What went wrong at step t, in a sentence."""
    bad = log_w.isnan() | (log_w == math.inf)
    if bad.any():
        chain, particle = bad.nonzero()[0].tolist()
        value = float(log_w[chain, particle])
        return DataError(
            f"step {t}: the log weight of particle {particle} in chain {chain} is {value}: the model's densities must be finite."
        )
    chain = int((log_w == -math.inf).all(-1).nonzero()[0])
    what = f"all {log_w.shape[-1]} particles of chain {chain} have weight zero"
    return DataError(f"step {t}: {what}: y[{t}] is impossible where they are, so check it, widen the model's noise, or use more particles.")


# --- the filter -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Step:
    """The particles after the observation at t."""

    t: int
    x: Tensor  # [R, N, dx]
    w: Tensor  # [R, N], rows sum to one
    log_w: Tensor  # [R, N]
    ess: Tensor  # [R]: effective sample size, 1 / sum w^2
    ancestors: Tensor | None  # [R, N]: where each came from at t-1; None: from itself (and at t = 0)
    log_evidence: Tensor  # [R]: estimate of log p(y_t | y_0..y_{t-1})


@torch.no_grad()
def particle_steps(
    model: StateSpaceModel,
    series: Series,
    n: int,
    generator: torch.Generator,
    *,
    proposal: Proposal | None = None,
    resampling: str = "multinomial",
    ess_share: float = 1.0,
    reference: Tensor | None = None,
) -> Iterator[Step]:
    """The filter's loop: `n` particles in each of the series' chains, one step a time.

    A chain is resampled where its effective sample size is at most `ess_share * n` (1: always). `reference` `[R, T, dx]` holds
    particle 0. Raises ConfigError, UnknownNameError, and DataError for a step that leaves no weight.
    """
    check_settings(n, resampling, ess_share)
    chains, resample = series.chains, RESAMPLING[resampling]
    check_reference(reference, (chains, len(series), model.dx), proposal, ess_share)
    step: Step | None = None
    carried: Tensor | float = -math.log(n)
    for t in range(len(series)):
        ancestors = origin = None
        if step is not None:
            ancestors, origin, carried = select(step, ess_share, resample, generator)
        x, log_ratio = move(model, proposal, series, t, origin, n, generator)
        if x.shape != (chains, n, model.dx):
            name = f"{type(model).__name__}.{'sample_x0' if t == 0 else 'sample_x'}"
            raise ConfigError(f"{name} returned shape {tuple(x.shape)} at step {t}: it must be {(chains, n, model.dx)}.")
        if reference is not None:
            x[:, 0] = reference[:, t]
        w, log_w, log_evidence = normalised(series.log_g(model, t, x) + log_ratio + carried, t)
        step = Step(t, x, w, log_w, 1.0 / w.square().sum(-1), ancestors, log_evidence)
        yield step


def select(step: Step, share: float, resample: Resample, generator: torch.Generator) -> tuple[Tensor | None, Tensor, Tensor | float]:
    """Ancestors `[R, N]` (None: itself), their states, and the log weights of offspring: -log N where a chain was resampled."""
    n = step.w.shape[-1]
    again = step.ess <= share * n
    if share < 1.0 and not again.any():
        return None, step.x, step.log_w
    ancestors = resample(step.w, n, generator)
    if share >= 1.0 or again.all():
        return ancestors, take(step.x, ancestors), -math.log(n)
    again = again.unsqueeze(-1)
    ancestors = torch.where(again, ancestors, torch.arange(n, device=ancestors.device))
    return ancestors, take(step.x, ancestors), torch.where(again, -math.log(n), step.log_w)


def move(
    model: StateSpaceModel, proposal: Proposal | None, series: Series, t: int, origin: Tensor | None, n: int, generator: torch.Generator
) -> tuple[Tensor, Tensor | float]:
    """Particles `[R, N, dx]` at t, and log m / q of each (0 for those that the model itself moved)."""
    shape = (series.chains, n)

    def by_model() -> Tensor:
        return model.sample_x0(shape, generator) if origin is None else model.sample_x(t - 1, origin, generator)

    if proposal is None or series.all[t]:
        return by_model(), 0.0
    y = series.y[t]
    if origin is None:
        x = proposal.sample_x0(shape, y, generator)
        log_ratio = model.log_x0(x) - proposal.log_x0(x, y)
    else:
        x = proposal.sample_x(t - 1, origin, y, generator)
        log_ratio = model.log_m(t - 1, origin, x) - proposal.log_x(t - 1, origin, x, y)
    if series.some[t]:
        missing = series.missing[t]
        return torch.where(missing.unsqueeze(-1), by_model(), x), torch.where(missing, 0.0, log_ratio)
    return x, log_ratio


def check_settings(n: int, resampling: str = "multinomial", ess_share: float = 1.0) -> None:
    if n < 2:
        raise ConfigError(f"particles is {n}: a filter needs at least 2.")
    if resampling not in RESAMPLING:
        raise UnknownNameError("resampling", resampling, RESAMPLING)
    if not 0.0 <= ess_share <= 1.0:
        raise ConfigError(f"ess_share is {ess_share}: the share of effective particles below which to resample lies in [0, 1].")


def check_reference(reference: Tensor | None, shape: tuple[int, ...], proposal: Proposal | None, ess_share: float) -> None:
    if reference is None:
        return
    if reference.shape != shape:
        raise ConfigError(f"the reference path has shape {tuple(reference.shape)}: it must be [chains, T, dx] = {shape}.")
    if proposal is not None or ess_share < 1.0:
        raise ConfigError("a filter that is held to a reference path moves by the model and resamples at every step.")


# --- a whole run ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ParticleResult:
    """What a filter found; R chains, N particles."""

    mean: Tensor  # [T, R, dx] of x_t given y_0..y_t
    variance: Tensor  # [T, R, dx]
    ess: Tensor  # [T, R]
    log_likelihood: Tensor  # [R]; its exponential is unbiased
    last: Step
    history: list[Step] | None  # all steps, if they were to be kept

    def draw_path(self, seed: Seed = 0) -> Tensor:
        """One path `[R, T, dx]` a chain: a particle of the last step by its weight, and its ancestors. Needs `keep=True`."""
        if self.history is None:
            raise ConfigError("the filter's steps were not kept, so there are no paths: filter with keep=True.")
        index = multinomial(self.last.w, 1, generator_of(seed))
        path = []
        for step in reversed(self.history):
            path.append(take(step.x, index))
            index = index if step.ancestors is None else step.ancestors.gather(1, index)
        return torch.cat(path[::-1], 1)


def particle_filter(
    model: StateSpaceModel,
    y: Tensor | np.ndarray,
    *,
    particles: int = 1000,
    chains: int = 1,
    proposal: Proposal | None = None,
    resampling: str = "systematic",
    ess_share: float = 0.5,
    keep: bool = False,
    seed: Seed = 0,
) -> ParticleResult:
    """Filter a series `[T, dy]`, or `[T, R, dy]` with one a chain; without a proposal it is the bootstrap filter.

    Raises DataError (see `observations` and `particle_steps`), ConfigError or UnknownNameError.
    """
    check_settings(particles, resampling, ess_share)
    generator = generator_of(seed)
    series = Series(model, y, chains, generator.device)
    options = {"proposal": proposal, "resampling": resampling, "ess_share": ess_share}
    steps = particle_steps(model, series, particles, generator, **options)  # type: ignore[arg-type]
    moments, history, block = [], [], []
    log_likelihood = torch.zeros(chains, dtype=torch.float64, device=generator.device)
    size = max(1, BLOCK // (particles * chains * model.dx))
    for t in watched(range(len(series)), "time steps"):
        step = next(steps)
        log_likelihood = log_likelihood + step.log_evidence
        block.append(step)
        if len(block) == size or t == len(series) - 1:
            moments.append(moments_of(block))
            history += block if keep else []
            block = []
    mean, variance, ess = (torch.cat(parts) for parts in zip(*moments, strict=True))
    return ParticleResult(mean, variance, ess, log_likelihood, step, history if keep else None)


def moments_of(steps: list[Step]) -> tuple[Tensor, Tensor, Tensor]:
    """Means and variances `[n, R, dx]` and effective sample sizes `[n, R]` of n steps, in a few operations for all of them."""
    w, x = torch.stack([step.w for step in steps]).unsqueeze(2), torch.stack([step.x for step in steps])
    mean = w @ x
    return mean.squeeze(2), (w @ (x - mean).square()).squeeze(2), torch.stack([step.ess for step in steps])
