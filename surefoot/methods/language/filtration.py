"""Which of a prompt's responses a policy should learn from, when the reward cannot be trusted everywhere; and how to find out.

The pure functions of PF-PPO: Shen and Zhang, "Policy Filtration in RLHF to Fine-Tune LLM for Code Generation", arXiv 2409.06957:
weights of ranks (section 4), threshold and power weights (Table 3), R^2 of rewards and true scores (Table 1). Reading of a choice that the
paper leaves open: of "random others (50 %)" each has half the weight of those above the threshold.

Weights are of responses within their prompt, by rank of the raw reward. Rank weights sum to 1 over a prompt, so that prompts count alike;
weights by value (`pow` and thresholds) are not normalised: prompts with more to say count more.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import inf, isfinite

import torch
from torch import Tensor

from surefoot.errors import ConfigError, DataError, UnknownNameError

RANKS = ("all", "best", "best_worst", "best_random", "custom")
VALUES = ("pow", "top", "top_bottom", "top_random")


@dataclass(frozen=True)
class Strategy:
    """How much a response counts by the rank of its reward within its prompt, or by the reward itself."""

    name: str = "best_random"
    """all, best, best_worst, best_random, pow, top, top_bottom, top_random or custom."""
    power: float = 2.0
    """pow: the weight is |reward|^power."""
    upper: float | None = None
    """top…: rewards above it count."""
    lower: float | None = None
    """top_bottom: so do those below it."""
    ranks: tuple[float, ...] = ()
    """custom: the weights of the ranks, from the worst reward to the best."""

    def __post_init__(self) -> None:
        if self.name not in RANKS + VALUES:
            raise UnknownNameError("strategy", self.name, RANKS + VALUES)
        if not 0.0 <= self.power < inf:
            raise ConfigError(f"power is {self.power}: it must be finite and not negative.")
        needed = {"top": ("upper",), "top_random": ("upper",), "top_bottom": ("upper", "lower")}.get(self.name, ())
        for name in needed:
            if getattr(self, name) is None:
                raise ConfigError(f"the strategy {self.name} needs {name}, a reward.")
        if "lower" in needed and not (self.lower or 0.0) <= (self.upper or 0.0):
            raise ConfigError(f"lower is {self.lower} and upper {self.upper}: they must not cross.")
        if self.name == "custom" and not (self.ranks and all(isfinite(w) and w >= 0.0 for w in self.ranks) and sum(self.ranks) > 0.0):
            raise ConfigError(f"ranks is {self.ranks}: custom needs a weight for each rank, finite, not negative, and not all 0.")

    def check(self, responses: int) -> None:
        """Raises ConfigError if it is not for so many responses a prompt."""
        if self.name == "custom" and len(self.ranks) != responses:
            raise ConfigError(f"ranks has {len(self.ranks)} weights for {responses} responses: give one for each rank.")

    def weights(self, rewards: Tensor) -> Tensor:
        """How much each response counts, `[..., N]` of rewards `[..., N]` (of a prompt along the last axis)."""
        if self.name in VALUES:
            return self._by_value(rewards)
        n = rewards.shape[-1]
        self.check(n)
        return in_order(rank_weights(self.name, n, self.ranks), rewards)

    def _by_value(self, rewards: Tensor) -> Tensor:
        if self.name == "pow":
            return rewards.abs() ** self.power
        kept = rewards > (inf if self.upper is None else self.upper)
        if self.name == "top_bottom":
            kept = kept | (rewards < (-inf if self.lower is None else self.lower))
        return torch.where(kept, 1.0, 0.5 if self.name == "top_random" else 0.0).to(rewards.dtype)

    @property
    def keeps_one_rank(self) -> bool:
        return self.name == "best" or (self.name == "custom" and sum(w > 0.0 for w in self.ranks) == 1)


def rank_weights(name: str, n: int, ranks: Sequence[float] = ()) -> Tensor:
    """Weights `[n]` of the ranks from the worst reward to the best, which sum to 1. With one response all strategies are the same."""
    w = torch.zeros(n, dtype=torch.float64)
    if name == "all" or n == 1:
        w[:] = 1.0
    elif name == "custom":
        w[:] = torch.tensor(ranks, dtype=torch.float64)
    elif name == "best_random":  # the official code has 0.4 and 0.1, which is this for n = 5
        w[:] = 0.5 / (n - 1)
        w[-1] = 0.5
    else:
        w[-1] = 1.0
        if name == "best_worst":
            w[0] = 1.0
    return w / w.sum()


def in_order(ranks: Tensor, rewards: Tensor) -> Tensor:
    """To each response the weight of its rank, `[..., N]`. Of equal rewards the one that comes later ranks higher."""
    order = rewards.argsort(dim=-1, stable=True)
    return torch.zeros_like(rewards).scatter(-1, order, ranks.to(rewards).expand_as(rewards))


# --- from weights to responses ----------------------------------------------------------------------------------------


def resampled(weights: Tensor, n: int, generator: torch.Generator | None = None) -> Tensor:
    """`n` of the responses, `[..., n]` int64 indices, drawn with replacement in proportion to `weights` `[..., R]`. Doubles stay."""
    check_weights(weights)
    cdf = weights.double().cumsum(-1)
    u = torch.rand(*weights.shape[:-1], n, dtype=torch.float64, generator=generator, device=weights.device)
    return torch.searchsorted(cdf, u * cdf[..., -1:], right=True).clamp_(max=weights.shape[-1] - 1)


def filtered(weights: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """The responses to keep, indices into `weights` `[P, N]` flattened: each with probability weight / largest weight.

    Within a prompt as many as these probabilities sum to, if that is a whole number (systematic sampling): of best_random exactly the
    best and one of the others, of best_worst those two, of all all of them.
    """
    check_weights(weights.flatten())
    p = weights.double() / weights.max()
    shuffled = torch.rand(p.shape, dtype=torch.float64, generator=generator, device=p.device).argsort(-1)
    ends = (p.gather(-1, shuffled).cumsum(-1) * 2**32).round() / 2**32  # sums of rounded numbers end beside whole ones
    start = torch.rand(p.shape[0], 1, dtype=torch.float64, generator=generator, device=p.device)
    before = torch.cat([torch.zeros_like(start), ends[:, :-1]], -1)
    kept = (ends - start).floor() > (before - start).floor()  # a point start + m lies within
    return torch.zeros_like(kept).scatter(-1, shuffled, kept).flatten().nonzero().squeeze(-1)


def check_weights(weights: Tensor) -> None:
    """Raises DataError where no response counts."""
    if not bool((weights.sum(-1) > 0.0).all()):
        raise DataError("no response counts, all weights are 0 (rewards of 0 with pow, or beyond no threshold): take another strategy.")


# --- which strategy ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Line:
    """The line through (reward, true score) of weighted responses: how much of the score's variance it explains, and where it goes."""

    r_squared: float
    slope: float  # score a unit of reward; below 0 the reward misleads


def fitted(rewards: Tensor, scores: Tensor, weights: Tensor, n_groups: int | None = None) -> Line:
    """Least squares on weighted responses, `[M]` each: R^2 = cov^2 / (var var), slope = cov / var.

    With `n_groups` the points are the means of so many groups of like reward and equal weight, as in the paper, which takes the noise
    of 0/1 scores out. Both are 0 where rewards or scores do not vary: nothing can be said then.
    """
    if not rewards.shape == scores.shape == weights.shape or rewards.dim() != 1:
        raise ValueError(f"{tuple(rewards.shape)}, {tuple(scores.shape)} and {tuple(weights.shape)} must all be [M].")
    check_weights(weights)
    r, s, w = rewards.double(), scores.double(), weights.double() / weights.sum()
    if n_groups is not None:
        r, s, w = grouped(r, s, w, n_groups)
    r, s = r - (w * r).sum(), s - (w * s).sum()
    of_r, of_s, together = ((w * x * y).sum().item() for x, y in ((r, r), (s, s), (r, s)))
    return Line(together**2 / (of_r * of_s), together / of_r) if of_r * of_s > 1e-24 else Line(0.0, 0.0)


def grouped(r: Tensor, s: Tensor, w: Tensor, n_groups: int) -> tuple[Tensor, Tensor, Tensor]:
    """Mean reward and mean score of groups of like reward, and equal weights for those groups that have a member."""
    if n_groups < 2:
        raise ConfigError(f"n_groups is {n_groups}: a line needs at least 2 groups.")
    order = r.argsort(stable=True)
    r, s, w = r[order], s[order], w[order]
    group = ((w.cumsum(0) - w / 2) * n_groups).long().clamp_(0, n_groups - 1)
    sums = torch.zeros(3, n_groups, dtype=r.dtype).index_add_(1, group, torch.stack([w, w * r, w * s]))
    sums = sums[:, sums[0] > 0.0]
    return sums[1] / sums[0], sums[2] / sums[0], torch.full_like(sums[0], 1.0 / sums.shape[1])


DEFAULT = tuple(Strategy(name) for name in ("all", "best", "best_worst", "best_random", "pow"))


def lines_of(
    rewards: Iterable[Tensor], scores: Iterable[Tensor], strategies: Sequence[Strategy] = DEFAULT, n_groups: int | None = None
) -> dict[str, Line]:
    """{strategy: line} on calibration samples: of each prompt the rewards `[N]` and the true scores `[N]` of its responses.

    Draw them from the policy that training starts from; R^2 is about that policy, so look again when it has moved far.
    """
    r, s = [x.double() for x in rewards], [x.double() for x in scores]
    if not r or [x.shape for x in r] != [x.shape for x in s]:
        raise DataError("R^2 needs, of every prompt, as many rewards as true scores: give at least one prompt.")
    found = {}
    for strategy in strategies:
        weights = torch.cat([strategy.weights(own) for own in r])
        counts = bool(weights.sum() > 0.0)
        found[strategy.name] = fitted(torch.cat(r), torch.cat(s), weights, n_groups) if counts else Line(0.0, 0.0)
    return found


def chosen(lines: Mapping[str, Line], strategies: Sequence[Strategy] = DEFAULT, one_rank: bool = False) -> str:
    """The strategy with the largest R^2 among those that keep more than one rank, or among all with `one_rank`.

    Keeping the best alone may fit well and still teach nothing about what is bad: the paper has it confirmed by a trial run.
    Raises DataError where higher rewards go with higher scores under none of them, ConfigError where each keeps one rank only.
    """
    names = [s.name for s in strategies if one_rank or not s.keeps_one_rank]
    if not names:
        raise ConfigError("every strategy keeps one rank only: name another one, or allow one rank.")
    if not any(lines[name].r_squared for name in names):
        raise DataError("all rewards or all true scores are the same under every strategy: take more prompts, or others.")
    rising = [name for name in names if lines[name].slope > 0.0]
    if not rising:
        raise DataError("higher rewards go with higher true scores under no strategy: do not train on this reward.")
    return max(rising, key=lambda name: lines[name].r_squared)
