"""LVM-RS: certified l2 radii of any classifier behind Gaussian noise, through the map to the simplex that suits each input best.

Delattre, Araujo, Barthelemy, Allauzen, "The Lipschitz-Variance-Margin Tradeoff for Enhanced Randomized Smoothing", ICLR 2024,
arXiv 2309.16883, with the authors' published code. Covers the simplex maps (argmax, softmax, sparsemax at many inverse
temperatures) and their choice; its intervals, radii and Lipschitz constants are in `surefoot.evaluation.radii`. `cohen` and `predict` are
those of Cohen, Rosenfeld and Kolter, arXiv 1902.02918v2 (Alg. CERTIFY and PREDICT).

The radius is that of the smoothed classifier of the *chosen* map at this input: within it that classifier's class does not change.
Departures: the code chooses the map on the samples that it certifies with, which voids the confidence (mode "official", to compare
with); "split" chooses on samples of its own, "union" pays for all maps at once. Bounds are clipped to [0, 1] before Phi^-1, and the
runner-up is the largest upper bound of all *other* classes. Many inputs are certified side by side, each as if it stood alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from math import inf
from typing import Any, Literal

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from surefoot.errors import ConfigError
from surefoot.evaluation.certificates import check_alpha, clopper_pearson_lower
from surefoot.evaluation.noisy_copies import Classifier, NoisyCopies, moments, votes
from surefoot.evaluation.radii import intervals, least_samples, radius_lipschitz, radius_one_sided, radius_two_sided, smoothed_lipschitz
from surefoot.nn.simplex import sparsemax

Mode = Literal["split", "union", "official"]

ABSTAIN = -1

TEMPERATURES = (1.0, *np.linspace(0.1, 50.0, 100).tolist())
"""Inverse temperatures of the authors' code (whose 1e7 is the argmax)."""

# --- maps to the simplex ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Map:
    """A map of logits to the simplex: `kind` of (temperature times logits)."""

    kind: Literal["argmax", "softmax", "sparsemax"]
    temperature: float = inf

    def __call__(self, logits: Tensor) -> Tensor:
        return _mapped(self.kind, self.temperature, logits)

    def lipschitz(self, of_logits: float) -> float:
        """l2 Lipschitz constant of the map after logits with that of `of_logits`: softmax is 1/2-Lipschitz, sparsemax 1-."""
        return inf if self.kind == "argmax" else self.temperature * of_logits * (0.5 if self.kind == "softmax" else 1.0)


VOTES = [Map("argmax")]
"""The one map that counts votes."""


def _mapped(kind: str, temperature: Tensor | float, logits: Tensor) -> Tensor:
    if kind == "argmax":
        return torch.nn.functional.one_hot(logits.argmax(-1), logits.shape[-1]).to(logits.dtype)
    return torch.softmax(temperature * logits, -1) if kind == "softmax" else sparsemax(logits, temperature)


def simplex_maps(temperatures: tuple[float, ...] = TEMPERATURES) -> list[Map]:
    """The argmax, and softmax and sparsemax at each inverse temperature."""
    if not all(0.0 < b < inf for b in temperatures):
        raise ConfigError(f"inverse temperatures are {list(temperatures)}: they must be positive and finite.")
    return [Map("argmax"), *(Map(kind, b) for kind in ("sparsemax", "softmax") for b in temperatures)]


def all_outputs(maps: Sequence[Map], logits: Tensor) -> Tensor:
    """Every map of logits `[k, b, c]`: `[k, m, b, c]`."""
    parts = []
    for kind, group in groupby(maps, lambda of: of.kind):
        temperatures = logits.new_tensor([of.temperature for of in group])[:, None, None]
        found = _mapped(kind, temperatures, logits.unsqueeze(1))
        parts.append(found.expand(-1, len(temperatures), -1, -1))
    return torch.cat(parts, 1)


def own_outputs(maps: Sequence[Map], logits: Tensor) -> Tensor:
    """Of each input its own map, of logits `[k, b, c]`: `[k, 1, b, c]`."""
    out = torch.empty_like(logits)
    for kind in {of.kind for of in maps}:
        rows = [i for i, of in enumerate(maps) if of.kind == kind]
        temperatures = logits.new_tensor([maps[i].temperature for i in rows])[:, None, None]
        out[rows] = _mapped(kind, temperatures, logits[rows])
    return out.unsqueeze(1)


# --- certification ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Certified:
    """What is certified at one input, and through which map."""

    label: int  # ABSTAIN where nothing is
    radius: float  # in units of the input, 0 where it abstains
    chosen: Map
    lower: float  # bound on the mean probability of the label
    upper: float  # bound on that of every other class


def certify_inputs(
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
    batch: int | None = None,
    given: Mapping[str, Tensor] | None = None,
    generator: torch.Generator | None = None,
    progress: Callable[[int], None] | None = None,
) -> list[Certified]:
    """Classes and l2 radii around inputs `x` `[k, ...]` in which the smoothed classifier keeps them.

    Each is wrong with probability at most alpha. `n0` samples choose map and class in mode "split" (unused else), `n` more certify.
    `lipschitz`: of the logits, if known; then R1 counts too. `batch` and `given`: see `NoisyCopies`. `progress` is called with the
    number of finished inputs. Raises ConfigError for settings outside their range and for an n that cannot certify anything at this
    alpha, DataError for inputs or logits that are not finite and for a classifier of one class.
    """
    maps = simplex_maps() if maps is None else maps
    copies = NoisyCopies(classifier, x, sigma, batch, _generator(x, generator), given)
    level = interval_level(alpha, mode, maps, copies.classes())
    check_samples(n0 if mode == "split" else 2, n, alpha, level, maps)
    largest = partial(_largest, n=n, level=level, sigma=sigma, lipschitz=lipschitz)
    found: list[Certified] = []
    for group in copies.groups():
        first = moments(partial(all_outputs, maps), group.logits(n0 if mode == "split" else n), len(maps))
        best = largest([maps] * len(group), *first)  # in mode "split": as if the n samples were like these
        if mode == "split":
            own = [each.chosen for each in best]
            second = moments(partial(own_outputs, own), group.logits(n), 1)
            best = largest([[of] for of in own], *second, labels=[each.label for each in best])
        found += [each if each.radius > 0.0 else Certified(ABSTAIN, 0.0, each.chosen, each.lower, each.upper) for each in best]
        if progress is not None:
            progress(len(found))
    return found


def certify_input(classifier: Classifier, x: Tensor, sigma: float, **settings: Any) -> Certified:
    """`certify_inputs` at a single input `x` `[...]`."""
    return certify_inputs(classifier, x.unsqueeze(0), sigma, **settings)[0]


def _largest(
    maps: list[list[Map]],
    mean: Tensor,
    std: Tensor,
    *,
    n: int,
    level: float,
    sigma: float,
    lipschitz: float | None,
    labels: list[int] | None = None,
) -> list[Certified]:
    """The largest certificate among each input's `maps` `[k][m]` from moments `[k, m, c]` of n samples, of `labels` `[k]` or of the
    class with the largest lower bound."""
    hard = np.array([[of.kind == "argmax" for of in own] for own in maps])
    low, up = intervals(mean.cpu().numpy(), std.cpu().numpy(), hard, n, level)
    a = low.argmax(-1) if labels is None else np.broadcast_to(np.array(labels)[:, None], hard.shape)
    p_a = np.take_along_axis(low, a[..., None], -1)[..., 0]
    np.put_along_axis(up, a[..., None], -inf, -1)  # the runner-up is another class
    p_b = up.max(-1)
    radius = radius_two_sided(p_a, p_b, sigma)
    if lipschitz is not None:
        smooth = [[smoothed_lipschitz(of.lipschitz(lipschitz), sigma) for of in own] for own in maps]
        radius = np.maximum(radius, radius_lipschitz(p_a, p_b, np.array(smooth)))
    best = radius.argmax(-1)
    rows = enumerate(best.tolist())
    return [Certified(int(a[i, j]), float(radius[i, j]), maps[i][j], float(p_a[i, j]), float(p_b[i, j])) for i, j in rows]


# --- votes ------------------------------------------------------------------------------------------------------------


def cohen_inputs(
    classifier: Classifier,
    x: Tensor,
    sigma: float,
    *,
    n0: int = 100,
    n: int = 100_000,
    alpha: float = 0.001,
    batch: int | None = None,
    given: Mapping[str, Tensor] | None = None,
    generator: torch.Generator | None = None,
    progress: Callable[[int], None] | None = None,
) -> list[Certified]:
    """The standard certificate: votes, the class chosen on n0 samples, R3 of its Clopper-Pearson bound. Arguments as `certify_inputs`."""
    copies = NoisyCopies(classifier, x, sigma, batch, _generator(x, generator), given)
    check_samples(n0, n, alpha, check_alpha(alpha), VOTES)
    classes, found = copies.classes(), list[Certified]()
    for group in copies.groups():
        labels = votes(group.logits(n0), classes).argmax(-1, keepdim=True)
        count = votes(group.logits(n), classes).gather(-1, labels).squeeze(-1)
        low = clopper_pearson_lower(count.cpu().numpy(), n, alpha)
        for label, p in zip(labels.squeeze(-1).tolist(), low.tolist(), strict=True):
            sure = p > 0.5
            found.append(Certified(label if sure else ABSTAIN, float(radius_one_sided(p, sigma)) if sure else 0.0, VOTES[0], p, 1.0 - p))
        if progress is not None:
            progress(len(found))
    return found


def cohen(classifier: Classifier, x: Tensor, sigma: float, **settings: Any) -> Certified:
    """`cohen_inputs` at a single input `x` `[...]`."""
    return cohen_inputs(classifier, x.unsqueeze(0), sigma, **settings)[0]


def predict(
    classifier: Classifier,
    x: Tensor,
    sigma: float,
    *,
    n: int = 1000,
    alpha: float = 0.001,
    batch: int | None = None,
    generator: torch.Generator,
) -> int:
    """The smoothed classifier's class at `x`, or ABSTAIN where the votes for the first two are too close (Cohen et al., PREDICT)."""
    copies = NoisyCopies(classifier, x.unsqueeze(0), sigma, batch, generator)
    check_samples(2, n, alpha, check_alpha(alpha) / 2.0, VOTES)
    counts = votes(copies.logits(n), copies.classes())[0].cpu().numpy()
    second, first = np.sort(counts)[-2:]
    return int(counts.argmax()) if stats.binomtest(int(first), int(first + second), 0.5).pvalue <= alpha else ABSTAIN


# --- settings ---------------------------------------------------------------------------------------------------------


def interval_level(alpha: float, mode: Mode, maps: Sequence[Map], classes: int) -> float:
    """How often a single interval may be wrong, so that all hold together but with probability alpha (as "official" only means to).

    "split": a lower bound for one class and an upper one for each other; "union": both for every class of every map.
    """
    check_alpha(alpha)
    if mode not in ("split", "union", "official"):
        raise ConfigError(f"mode is {mode!r}: it must be 'split', 'union' or 'official'.")
    if not maps:
        raise ConfigError("there are 0 maps to the simplex: at least one is needed.")
    return alpha / (classes * (2 * len(maps) if mode == "union" else 1))


def check_samples(n0: int, n: int, alpha: float, level: float, maps: Sequence[Map]) -> None:
    """Raises ConfigError for too few samples: for an n that could not certify anything with intervals at `level`."""
    if n0 < 2:
        raise ConfigError(f"n0 is {n0}: at least 2 samples must choose the class.")
    least = max(2, min(least_samples(level, hard=of.kind == "argmax") for of in maps))
    if n < least:
        raise ConfigError(f"n is {n}: no {n} samples can certify anything with confidence {1.0 - alpha:g}; take {least} or more.")


def _generator(x: Tensor, generator: torch.Generator | None) -> torch.Generator:
    return torch.Generator(x.device).manual_seed(0) if generator is None else generator


# --- what a set of inputs comes to ------------------------------------------------------------------------------------


def average_certified_radius(certified: Sequence[Certified], labels: np.ndarray | None = None) -> float:
    """ACR: mean over inputs of the radius where the label is right, 0 elsewhere (Zhai et al., arXiv 2001.02378).

    Without `labels` every class that was certified counts.
    """
    return float(np.maximum(_own_radii(certified, labels), 0.0).mean())


def certified_accuracy(certified: Sequence[Certified], labels: np.ndarray | None, radii: np.ndarray) -> np.ndarray:
    """Share of inputs that are right within each of `radii` `[K]`: `[K]`, at radius 0 those certified at all.

    Without `labels`: the share that is certified to keep whatever class it has.
    """
    return (_own_radii(certified, labels)[:, None] >= np.asarray(radii)[None]).mean(0)


def _own_radii(certified: Sequence[Certified], labels: np.ndarray | None) -> np.ndarray:
    """The radius of each input, -1 where it abstains or is wrong."""
    if labels is None:
        return np.array([-1.0 if c.label == ABSTAIN else c.radius for c in certified])
    return np.array([c.radius if c.label == y else -1.0 for c, y in zip(certified, labels.tolist(), strict=True)])
