"""LVM-RS: certified l2 radii of any classifier behind Gaussian noise, through the map to the simplex that suits each input best.

Delattre, Araujo, Barthelemy, Allauzen, "The Lipschitz-Variance-Margin Tradeoff for Enhanced Randomized Smoothing", ICLR 2024,
arXiv 2309.16883, with the authors' published code. Covers the simplex maps (argmax, softmax, sparsemax at many inverse
temperatures), the empirical Bernstein intervals (Maurer and Pontil, arXiv 0907.3740), the radii R1 and R2, and the Lipschitz constant
of a smoothed map. R3 and `cohen` are those of Cohen, Rosenfeld and Kolter, arXiv 1902.02918v2 (Theorem 1, Alg. CERTIFY).

The radius is that of the smoothed classifier of the *chosen* map at this input: within it that classifier's class does not change.
Departures: the code chooses the map on the samples that it certifies with, which voids the confidence (mode "official", to compare
with); "split" chooses on samples of its own, "union" pays for all maps at once. Bounds are clipped to [0, 1] before Phi^-1, and the
runner-up is the largest upper bound of all *other* classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import ceil, erf, exp, inf, log, pi, sqrt
from typing import Literal

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from surefoot.errors import ConfigError, DataError
from surefoot.evaluation.certificates import clopper_pearson_lower, clopper_pearson_upper
from surefoot.nn.running import RunningMoments
from surefoot.nn.simplex import sparsemax

Classifier = Callable[[Tensor], Tensor]
"""Inputs `[b, ...]` to logits `[b, c]`; deterministic (dropout and batch normalisation in evaluation mode)."""

Mode = Literal["split", "union", "official"]

ABSTAIN = -1

TEMPERATURES = (1.0, *np.linspace(0.1, 50.0, 100).tolist())
"""Inverse temperatures of the authors' code (whose 1e7 is the argmax)."""


@dataclass(frozen=True)
class Map:
    """A map of logits to the simplex: `kind` of (temperature times logits)."""

    kind: Literal["argmax", "softmax", "sparsemax"]
    temperature: float = inf

    def __call__(self, logits: Tensor) -> Tensor:
        if self.kind == "argmax":
            return torch.nn.functional.one_hot(logits.argmax(-1), logits.shape[-1]).to(logits.dtype)
        scaled = self.temperature * logits
        return torch.softmax(scaled, -1) if self.kind == "softmax" else sparsemax(scaled)

    def lipschitz(self, of_logits: float) -> float:
        """l2 Lipschitz constant of the map after logits with that of `of_logits`: softmax is 1/2-Lipschitz, sparsemax 1-."""
        return inf if self.kind == "argmax" else self.temperature * of_logits * (0.5 if self.kind == "softmax" else 1.0)


def simplex_maps(temperatures: tuple[float, ...] = TEMPERATURES) -> list[Map]:
    """The argmax, and softmax and sparsemax at each inverse temperature."""
    if not all(0.0 < b < inf for b in temperatures):
        raise ConfigError(f"inverse temperatures are {list(temperatures)}: they must be positive and finite.")
    return [Map("argmax"), *(Map(kind, b) for kind in ("sparsemax", "softmax") for b in temperatures)]


@dataclass(frozen=True)
class Certified:
    """What is certified at one input, and through which map."""

    label: int  # ABSTAIN where nothing is
    radius: float  # in units of the input, 0 where it abstains
    chosen: Map
    lower: float  # bound on the mean probability of the label
    upper: float  # bound on that of every other class


# --- intervals, radii, Lipschitz constants ----------------------------------------------------------------------------


def bernstein_shift(std: np.ndarray | float, n: int, level: float) -> np.ndarray:
    """By how much a mean of n samples in [0, 1] of standard deviation `std` (unbiased) may be off, to one side, at `level`.

    S sqrt(2 ln(2/a) / n) + 7 ln(2/a) / (3 (n - 1)): Maurer and Pontil, Theorem 4.
    """
    if n < 2:
        raise ConfigError(f"n is {n}: an empirical Bernstein bound needs at least 2 samples.")
    term = log(2.0 / level)
    return np.asarray(std, np.float64) * sqrt(2.0 * term / n) + 7.0 * term / (3.0 * (n - 1))


def radius_lipschitz(p_a: float, p_b: float, lipschitz: float) -> float:
    """R1 = (p_A - p_B) / (sqrt 2 L), L the l2 Lipschitz constant of the smoothed simplex-valued classifier."""
    return (p_a - p_b) / (sqrt(2.0) * lipschitz)


def radius_two_sided(p_a: float, p_b: float, sigma: float) -> float:
    """R2 = sigma / 2 (Phi^-1(p_A) - Phi^-1(p_B)); bounds of exactly 0 or 1 are taken one representable step inside."""
    inside = np.clip([p_a, p_b], np.finfo(np.float64).tiny, 1.0 - np.finfo(np.float64).epsneg)
    a, b = stats.norm.ppf(inside)
    return float(sigma / 2.0 * (a - b))


def radius_one_sided(p_a: float, sigma: float) -> float:
    """R3 = sigma Phi^-1(p_A), Cohen et al."""
    return radius_two_sided(p_a, 1.0 - p_a, sigma)


def smoothed_lipschitz(lipschitz: float, sigma: float, *, simplex: bool = True, width: float = 1.0) -> float:
    """Lipschitz constant after smoothing with N(0, sigma^2 I): L erf(w / (2 sqrt(2) L sigma)), with w = sqrt(2) on the simplex.

    `lipschitz` of infinity gives w / (sigma sqrt(2 pi)), which needs to know nothing; `width` is that of a scalar's range.
    """
    if not sigma > 0.0 or not lipschitz > 0.0:
        raise ConfigError(f"sigma is {sigma} and the Lipschitz constant {lipschitz}: both must be positive.")
    w = sqrt(2.0) if simplex else width
    if lipschitz == inf:
        return w / (sigma * sqrt(2.0 * pi))
    return lipschitz * erf(w / (2.0 * sqrt(2.0) * lipschitz * sigma))


# --- samples ----------------------------------------------------------------------------------------------------------


@torch.no_grad()
def noisy_logits(classifier: Classifier, x: Tensor, sigma: float, n: int, batch: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Logits `[b, c]` float64 of x + N(0, sigma^2 I), n in all. Raises DataError for logits that are not finite or of one class."""
    for start in range(0, n, batch):
        shape = (min(batch, n - start), *x.shape)
        noise = torch.empty(shape, dtype=x.dtype, device=x.device).normal_(generator=generator)
        logits = classifier(x + sigma * noise)
        if logits.dim() != 2 or logits.shape[0] != shape[0] or logits.shape[1] < 2:
            raise DataError(
                f"the classifier gave {tuple(logits.shape)} for {shape[0]} inputs: it must give [b, c] logits of c >= 2 classes."
            )
        if not bool(logits.isfinite().all()):
            raise DataError("the classifier gave a logit that is NaN or infinite for a noisy input: nothing can be certified about it.")
        yield logits.double()


def moments(maps: list[Map], logits: Iterator[Tensor]) -> tuple[np.ndarray, np.ndarray]:
    """Mean and unbiased standard deviation of every map's output, `[maps, c]` each, in one pass over the logits."""
    running: RunningMoments | None = None
    for z in logits:
        if running is None:
            running = RunningMoments((len(maps), z.shape[-1]), str(z.device))
        running.add(torch.stack([of(z) for of in maps]))
    assert running is not None
    std = (running.square / (running.count - 1.0).clamp_min(1.0)).sqrt()
    return running.mean.cpu().numpy(), std.cpu().numpy()


# --- certification ----------------------------------------------------------------------------------------------------


def certify_input(
    classifier: Classifier,
    x: Tensor,
    sigma: float,
    *,
    n0: int = 100,
    n: int = 100_000,
    alpha: float = 0.001,
    mode: Mode = "split",
    maps: list[Map] | None = None,
    lipschitz: float | None = None,
    batch: int = 1000,
    generator: torch.Generator | None = None,
) -> Certified:
    """A class and an l2 radius around `x` `[...]` in which the smoothed classifier keeps it, wrong with probability at most alpha.

    `n0` samples choose map and class in mode "split" (unused else), `n` more certify. `lipschitz`: of the logits, if known; then R1
    counts too. Raises ConfigError for settings outside their range and for an n that cannot certify anything at this alpha.
    """
    maps = simplex_maps() if maps is None else maps
    _check(sigma, n0 if mode == "split" else 2, n, alpha, batch, mode, maps)
    generator = torch.Generator(x.device).manual_seed(0) if generator is None else generator
    if mode == "split":
        mean, std = moments(maps, noisy_logits(classifier, x, sigma, n0, batch, generator))
        expected = _candidates(maps, mean, std, n, alpha / mean.shape[1], sigma, lipschitz)  # as if the n samples were like these
        best = max(expected, key=lambda each: each.radius)
        maps, label = [best.chosen], best.label
        mean, std = moments(maps, noisy_logits(classifier, x, sigma, n, batch, generator))
        found = _candidates(maps, mean, std, n, alpha / mean.shape[1], sigma, lipschitz, label)
    else:
        mean, std = moments(maps, noisy_logits(classifier, x, sigma, n, batch, generator))
        sides = 1 if mode == "official" else 2 * len(maps)  # both sides of every class of every map
        found = _candidates(maps, mean, std, n, alpha / (sides * mean.shape[1]), sigma, lipschitz)
    best = max(found, key=lambda each: each.radius)
    return best if best.radius > 0.0 else Certified(ABSTAIN, 0.0, best.chosen, best.lower, best.upper)


def _candidates(
    maps: list[Map],
    mean: np.ndarray,
    std: np.ndarray,
    n: int,
    level: float,
    sigma: float,
    lipschitz: float | None,
    label: int | None = None,
) -> list[Certified]:
    """The certificate of each map from moments `[maps, c]` of n samples, of `label` or of the class with the largest lower bound."""
    found = []
    for of, m, s in zip(maps, mean, std, strict=True):
        if of.kind == "argmax":
            votes = np.rint(m * n).astype(np.int64)
            low, up = clopper_pearson_lower(votes, n, level), clopper_pearson_upper(votes, n, level)
        else:
            shift = bernstein_shift(s, n, level)
            low, up = np.clip(m - shift, 0.0, 1.0), np.clip(m + shift, 0.0, 1.0)
        a = int(low.argmax()) if label is None else label
        p_a, p_b = float(low[a]), float(np.delete(up, a).max())
        radius = radius_two_sided(p_a, p_b, sigma)
        if lipschitz is not None and of.kind != "argmax":
            radius = max(radius, radius_lipschitz(p_a, p_b, smoothed_lipschitz(of.lipschitz(lipschitz), sigma)))
        found.append(Certified(a, radius, of, p_a, p_b))
    return found


def cohen(
    classifier: Classifier,
    x: Tensor,
    sigma: float,
    *,
    n0: int = 100,
    n: int = 100_000,
    alpha: float = 0.001,
    batch: int = 1000,
    generator: torch.Generator | None = None,
) -> Certified:
    """The standard certificate: votes, the class chosen on n0 samples, R3 of its Clopper-Pearson bound. Arguments as `certify_input`."""
    votes_of = [Map("argmax")]
    _check(sigma, n0, n, alpha, batch, "split", votes_of)
    generator = torch.Generator(x.device).manual_seed(0) if generator is None else generator
    label = int(moments(votes_of, noisy_logits(classifier, x, sigma, n0, batch, generator))[0][0].argmax())
    mean, _ = moments(votes_of, noisy_logits(classifier, x, sigma, n, batch, generator))
    low = float(clopper_pearson_lower(round(mean[0][label] * n), n, alpha))
    if low <= 0.5:
        return Certified(ABSTAIN, 0.0, votes_of[0], low, 1.0 - low)
    return Certified(label, radius_one_sided(low, sigma), votes_of[0], low, 1.0 - low)


def predict(
    classifier: Classifier, x: Tensor, sigma: float, *, n: int = 1000, alpha: float = 0.001, batch: int = 1000, generator: torch.Generator
) -> int:
    """The smoothed classifier's class at `x`, or ABSTAIN where the votes for the first two are too close (Cohen et al., PREDICT)."""
    _check(sigma, 2, n, alpha, batch, "split", [Map("argmax")])
    votes = np.rint(moments([Map("argmax")], noisy_logits(classifier, x, sigma, n, batch, generator))[0][0] * n).astype(np.int64)
    second, first = np.sort(votes)[-2:]
    return int(votes.argmax()) if stats.binomtest(int(first), int(first + second), 0.5).pvalue <= alpha else ABSTAIN


def _check(sigma: float, n0: int, n: int, alpha: float, batch: int, mode: str, maps: list[Map]) -> None:
    """Raises ConfigError for settings outside their range."""
    if not 0.0 < sigma < inf:
        raise ConfigError(f"sigma is {sigma}: the standard deviation of the noise must be positive and finite.")
    if not 0.0 < alpha < 1.0:
        raise ConfigError(f"alpha is {alpha}: a probability of being wrong lies between 0 and 1.")
    if mode not in ("split", "union", "official"):
        raise ConfigError(f"mode is {mode!r}: it must be 'split', 'union' or 'official'.")
    if n0 < 2 or batch < 1 or not maps:
        raise ConfigError(
            f"n0 is {n0}, batch {batch} and there are {len(maps)} maps: at least 2 samples, a batch of 1 and a map are needed."
        )
    if n < 2 or exp(log(alpha) / n) <= 0.5:  # what unanimous votes prove
        raise ConfigError(
            f"n is {n}: no {n} samples can certify anything with confidence {1.0 - alpha:g}; take {ceil(-log(alpha, 2)) + 1} or more."
        )


# --- what a set of inputs comes to ------------------------------------------------------------------------------------


def average_certified_radius(certified: list[Certified], labels: np.ndarray) -> float:
    """ACR: mean over inputs of the radius where the label is right, 0 elsewhere (Zhai et al., arXiv 2001.02378)."""
    return float(np.mean([c.radius * (c.label == y) for c, y in zip(certified, labels.tolist(), strict=True)]))


def certified_accuracy(certified: list[Certified], labels: np.ndarray, radii: np.ndarray) -> np.ndarray:
    """Share of inputs that are right within each of `radii` `[K]`: `[K]`, at radius 0 those certified at all."""
    own = np.array([c.radius if c.label == y else -1.0 for c, y in zip(certified, labels.tolist(), strict=True)])
    return (own[:, None] >= np.asarray(radii)[None]).mean(0)
