"""Martingale evaluation: the value of a policy from paths in continuous time, by estimators that bear small and irregular steps.

Jia and Zhou, "Policy Evaluation and Temporal-Difference Learning in Continuous Time and Space: A Martingale Approach", JMLR 23
(2022), arXiv 2108.06655. J with J(T, x) = h(x) is the value function iff M_t = J(t, X_t) + int_0^t r du is a martingale. With
V_i = J(t_i, X_i), delta_i and the backward sums W_i of `continuous_time`, g_i = grad J(t_i, X_i), a path's contribution is

    ml      minimise (1/2) sum_i (G_i - V_i)^2 dt_i        the martingale loss: the best L2 approximation; gradient Monte Carlo
    ctd0    solve sum_i g_i delta_i = 0                    orthogonality to the gradient: CTD(0); the gradient stops at delta
    ctd     solve sum_i g_i dt_i W_i = 0                   to its trace, W_i = delta_i + lambda^dt_i W_{i+1}: CTD(lambda)
    mstde   minimise (1/2) sum_i (delta_i / dt_i)^2 dt_i   the baseline: it is M's quadratic variation / dt, NOT to be used

There is no dt in ctd0: delta is a noise of order sqrt(dt) and a drift of order dt, and step sizes need not shrink with the steps.
lambda and rho are per unit of time. Linear classes are solved at once (`continuous_lstd`: CLSTD, least-squares Monte Carlo), by
gradient TD (`continuous_gtd`) or on a stream (`online_ctd`); here are the losses, and a network with its terminal condition built in.

Departures: discounts are exponentials, not 1 - rho dt (see `continuous_time`). With a discount the paper's martingale loss counts a
moment exp(-2 rho t); here it counts exp(-rho t), as in CTD, so that ctd at lambda = 1 stays the gradient of ml. Steps may have any
lengths. Where only payoffs are known and not h, the network is left open at the end, and the payoff enters as V_N.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from surefoot.data.paths import PathBatch, Paths
from surefoot.errors import ConfigError, DataError, DivergedError, UnknownNameError
from surefoot.methods.exact.continuous_time import (
    Criterion,
    Steps,
    batches_of,
    complete,
    forgetting,
    increments,
    returns_to_go,
    tails,
)
from surefoot.methods.exact.value_functions import Function, NetworkValue, ValueNetwork, at, check_terminal
from surefoot.nn.optimise import adam, descend
from surefoot.progress import watched

OBJECTIVES = ("ml", "ctd0", "ctd", "mstde")


@dataclass(frozen=True)
class MartingaleConfig:
    """Defaults of the miniature experiment; the paper's abstract names none."""

    objective: str = "ctd0"
    """ml, ctd0, ctd, or the baseline mstde"""
    lam: float = 0.5
    """of ctd: what is left of a trace after a unit of time"""
    rho: float = 0.0
    """discount rate per unit of time"""
    infinite: bool = False
    """infinite horizon: J(x), and paths merely stop"""
    weighting: str | None = None
    """how moments of a path count: discounted (default of a finite horizon) or uniform (of an infinite one)"""
    hidden: tuple[int, ...] = (32, 32)
    """widths of the tanh network"""
    lr: float = 3e-3
    """Adam's step size at first; it falls to 0 as a cosine"""
    batch_size: int = 64
    """paths in a batch"""
    iterations: int = 1500
    """batches"""

    def __post_init__(self) -> None:
        if self.objective not in OBJECTIVES:
            raise UnknownNameError("objective", self.objective, OBJECTIVES)
        if not 0.0 < self.lam <= 1.0:
            raise ConfigError(f"lam is {self.lam}: it must be above 0 and at most 1.")
        if not 0.0 < self.lr < math.inf or min(self.batch_size, self.iterations, *self.hidden) < 1:
            raise ConfigError(
                f"lr is {self.lr}, batch_size {self.batch_size}, iterations {self.iterations}, hidden {self.hidden}: all positive."
            )
        _ = self.criterion

    @property
    def criterion(self) -> Criterion:
        return Criterion(self.rho, self.infinite, self.weighting)


# --- losses: of values [*copies, P, N + 1], averaged over paths, one number a copy ----------------------------------------


def martingale_loss(v: Tensor, returns: Tensor, steps: Steps) -> Tensor:
    """ML = (1/2) mean over paths of sum_i w_i (G_i - V_i)^2 dt_i, `[*copies]`; `returns` `[*copies, P, N]`."""
    return 0.5 * _mean(steps.weight * (returns - v[..., :-1]).square() * steps.dt)


def ctd0_loss(v: Tensor, reward: Tensor, steps: Steps) -> Tensor:
    """- mean of sum_i w_i stopgrad(delta_i) V_i, whose negative gradient is CTD(0)'s direction sum_i g_i delta_i. Not a measure of fit."""
    return -_mean(steps.weight * increments(v.detach(), reward, steps) * v[..., :-1])


def ctd_loss(v: Tensor, reward: Tensor, steps: Steps, lam: float) -> Tensor:
    """- mean of sum_i w_i stopgrad(W_i) V_i dt_i, whose negative gradient is CTD(lambda)'s direction sum_i z_i delta_i."""
    arrays = Steps(*(a.double().cpu().numpy() for a in (steps.dt, steps.gamma, steps.annuity, steps.weight)))
    delta = increments(v.detach(), reward, steps).double().cpu().numpy()
    w = torch.from_numpy(tails(delta, forgetting(lam, arrays))).to(v)
    return -_mean(steps.weight * w * v[..., :-1] * steps.dt)


def mean_square_td_error(v: Tensor, reward: Tensor, steps: Steps) -> Tensor:
    """MSTDE = (1/2) mean of sum_i w_i (delta_i / dt_i)^2 dt_i, with the gradient through both V_i and V_{i+1}."""
    delta = increments(v, reward, steps)
    there = steps.dt > 0.0  # not where paths are filled up
    return 0.5 * _mean(steps.weight * torch.where(there, delta.square() / torch.where(there, steps.dt, 1.0), 0.0))


def _mean(x: Tensor) -> Tensor:
    return x.sum(-1).mean(-1)


# --- training -------------------------------------------------------------------------------------------------------


def fit_network(
    source: Paths | Iterable[PathBatch],
    config: MartingaleConfig | None = None,
    *,
    terminal: Function | None = None,
    scaled: bool | None = None,
    copies: tuple[int, ...] = (),
    seed: int = 0,
    device: str = "cpu",
    dtype: torch.dtype = torch.float64,
) -> NetworkValue:
    """A network's value function, from a log of paths or from a stream of batches (`[*copies, P, ...]`: a new one an iteration).

    `terminal`: h(x), numpy, what the end pays in a state, built into J; not needed where every payoff is 0. Without it other payoffs
    enter as values of last rows alone. `scaled`: bring states, times and values to order one by the statistics of the log (the
    default), or of a stream's first batch (which is taken as it is by default). From a log each copy draws batches of its own.

    Raises DataError for paths that do not fit the criterion, DivergedError with the iteration if values are no longer finite.
    """
    config = MartingaleConfig() if config is None else config
    batches = _draws(source, config.batch_size, copies, seed) if isinstance(source, Paths) else iter(source)
    generator = torch.Generator(device).manual_seed(seed)
    net: ValueNetwork | None = None
    losses = []
    for k in watched(range(config.iterations), f"{config.objective} iterations"):
        batch = next(batches, None)
        if batch is None:
            raise DataError(f"the stream ended after {k} of {config.iterations} batches: make it longer, or set iterations.")
        if net is None:
            net = _network(source, batch, config, terminal, copies, generator, device, dtype)
            if scaled or (scaled is None and isinstance(source, Paths)):
                net.scale_to(*_scales(source if isinstance(source, Paths) else batch, config.criterion, terminal))
            optimiser = adam(net.parameters(), config.lr)
        optimiser.param_groups[0]["lr"] = 0.5 * config.lr * (1.0 + math.cos(math.pi * k / config.iterations))
        loss = loss_of(net, batch, config, terminal)
        descend(loss.sum(), optimiser)
        losses.append(loss.detach())
        if k % 100 == 99 or k + 1 == config.iterations:
            _check_finite(losses, k)
    assert net is not None
    return NetworkValue(net, terminal, torch.stack(losses).double().cpu().numpy())


def loss_of(net: ValueNetwork, batch: PathBatch, config: MartingaleConfig, terminal: Function | None = None) -> Tensor:
    """The objective on one batch, `[*copies]`, in units of the network's `size`."""
    criterion = config.criterion
    criterion.admit(batch)
    like = net.mean
    arrays = Steps.of(batch, criterion)
    steps = arrays.to(like.dtype, str(like.device))
    v = values(net, batch, terminal) / net.size
    reward = torch.as_tensor(batch.reward).to(like) / net.size
    if config.objective == "ml":
        whole = complete(batch, criterion)
        counted = Steps(steps.dt, steps.gamma, steps.annuity, steps.weight * torch.as_tensor(whole).to(like))
        return martingale_loss(v, torch.as_tensor(returns_to_go(batch, arrays)).to(like) / net.size, counted)
    if config.objective == "ctd0":
        return ctd0_loss(v, reward, steps)
    if config.objective == "ctd":
        return ctd_loss(v, reward, steps, config.lam)
    return mean_square_td_error(v, reward, steps)


def values(net: ValueNetwork, batch: PathBatch, terminal: Function | None = None) -> Tensor:
    """V `[*copies, P, N + 1]` with gradient; the payoff where a path has ended."""
    like = net.mean
    x = torch.as_tensor(batch.x).to(like)
    if not net.timed:
        return net(x)
    tau = torch.as_tensor(batch.to_go).to(like)
    v = net(x[..., :-1, :], tau[..., :-1])
    if terminal is not None:
        v = v + torch.as_tensor(at(terminal, batch.x[..., :-1, :], None).copy()).to(like)
    payoff = torch.as_tensor(batch.payoff).to(like).unsqueeze(-1)
    return torch.cat([torch.where(tau[..., :-1] > 0.0, v, payoff), payoff.expand(*v.shape[:-1], 1)], -1)


def _draws(paths: Paths, batch_size: int, copies: tuple[int, ...], seed: int) -> Iterator[PathBatch]:
    """Batches of paths with replacement, without end; each copy's own."""
    rng = np.random.default_rng(seed)
    while True:
        yield paths.batch(rng.integers(len(paths), size=(*copies, batch_size)))


def _network(
    source: Paths | Iterable[PathBatch],
    batch: PathBatch,
    config: MartingaleConfig,
    terminal: Function | None,
    copies: tuple[int, ...],
    generator: torch.Generator,
    device: str,
    dtype: torch.dtype,
) -> ValueNetwork:
    """A network for these paths."""
    config.criterion.admit(batch)
    if batch.copies not in ((), copies):
        raise ConfigError(f"batches have copies {batch.copies}, but {copies} networks are trained: give the same, or batches without.")
    if terminal is not None and not config.infinite:
        check_terminal(batch, at(terminal, batch.x[..., -1, :], None))
    payoff = source.payoff if isinstance(source, Paths) else batch.payoff
    known = terminal is not None or (payoff is not None and not np.any(payoff))
    return ValueNetwork(
        batch.x.shape[-1],
        config.hidden,
        timed=not config.infinite,
        vanishing=known and not config.infinite,
        copies=copies,
        generator=generator,
        device=device,
        dtype=dtype,
    )


def _scales(source: Paths | PathBatch, criterion: Criterion, terminal: Function | None) -> tuple[np.ndarray, np.ndarray, float, float]:
    """Mean and spread of states, longest time, and the root mean square of what the network has to explain."""
    square, horizon, total = 0.0, 0.0, 0
    for batch in batches_of(source):
        g = returns_to_go(batch, Steps.of(batch, criterion))
        if terminal is not None:
            g = g - at(terminal, batch.x[..., :-1, :], None)
        there = batch.dt > 0.0
        square, total, horizon = square + float(np.square(g[there]).sum()), total + int(there.sum()), max(horizon, float(batch.to_go.max()))
    x = source.x.reshape(-1, source.x.shape[-1])
    std, size = x.std(0), math.sqrt(square / total)
    return x.mean(0), np.where(std > 0.0, std, 1.0), horizon, size if size > 0.0 else 1.0


def _check_finite(losses: list[Tensor], k: int) -> None:
    """One look at the device every hundred iterations."""
    recent = torch.stack(losses[-100:])
    bad = ~torch.isfinite(recent).reshape(len(recent), -1).all(-1)
    if bool(bad.any()):
        first = k + 1 - len(recent) + int(torch.argmax(bad.int()))
        raise DivergedError(
            f"the loss became {float(recent[bad].sum()):g} at iteration {first}: take a smaller lr, or look for outliers in the paths."
        )
