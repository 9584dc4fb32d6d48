"""What a claim is: a paper's headline in our words, an experiment that returns raw scores, and pure checks of those scores.

A claim module (`surefoot/claims/<slug with _ for ->.py`) defines one object, `CLAIM = Claim(...)`. Its `run` returns raw scores and
nothing else; every verdict is computed from them by `checks`, so that a stored result can be judged again without running it.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import numpy as np

from surefoot.errors import ConfigError
from surefoot.evaluation.statistics import Interval, mean_interval, paired, welch

Scale = Literal["small", "full"]

Score: TypeAlias = float | list[float]
Arm: TypeAlias = dict[str, Score]
"""One arm of an experiment: `{seed: value}`, or `{seed: [value of each episode, budget, ...]}`. Seeds are strings, as in JSON."""

Scores: TypeAlias = dict[str, dict[str, Arm]]
"""Raw scores: `{panel: {arm: {seed: value or values}}}`. A panel is one question (a card's part A, B, C)."""

LEVEL = 0.05
"""A check that is a test holds only with p below this."""


@dataclass(frozen=True)
class Check:
    """One statement about one panel, and whether the scores bear it out.

    `value` is what is compared with `threshold`; `ci95` its 95 % interval (None for an end that is unbounded, and None
    altogether where no interval is meant); `test` and `p` are None for statements that no test belongs to.
    """

    name: str
    statement: str
    panel: str
    value: float
    ci95: tuple[float | None, float | None] | None
    test: str | None
    p: float | None
    threshold: float | None
    required: bool
    holds: bool


@dataclass
class Context:
    """What an experiment is given, and where it puts what is not a score.

    Every random number of the experiment must derive from `seeds` (which `--seed-offset` has shifted already): use
    `derived(seed, "data")`, `derived(seed, "training")`, `derived(seed, "evaluation")`.
    """

    seeds: list[int]
    scale: Scale = "small"
    data: str | None = None  # --data: the logs of the full scale
    jobs: int = 1  # processes that may be used (training.engines.run_tasks)
    say: Callable[[str], None] = lambda line: None  # progress, one line at a time; never on stdout
    facts: dict[str, Any] = field(default_factory=dict)  # JSON-able facts beside the scores: data fingerprints, last and best, settings
    notes: list[str] = field(default_factory=list)  # sentences for a reader of the result: departures, what was tried

    @property
    def keys(self) -> list[str]:
        """The seeds as they stand in `Scores`."""
        return [str(seed) for seed in self.seeds]

    def arm(self, values: Sequence[Any] | np.ndarray) -> Arm:
        """One entry a seed, `[n_seeds]` or `[n_seeds, k]`, as an arm of `Scores`."""
        if len(values) != len(self.seeds):
            raise ConfigError(f"an arm has {len(values)} values for {len(self.seeds)} seeds: give one entry a seed.")
        return {key: np.asarray(value, np.float64).tolist() for key, value in zip(self.keys, values, strict=True)}

    def logs(self, example: str) -> str:
        """The `--data` of a full-scale run; raises ConfigError if there is none."""
        if self.data is None:
            raise ConfigError(f"the full scale needs the paper's data: give --data, for example {example}.")
        return self.data


def derived(seed: int, purpose: str) -> int:
    """A seed of its own for each purpose ("data", "training", "evaluation", ...) of an experiment seed; below 2^31."""
    return int(np.random.SeedSequence([seed, zlib.crc32(purpose.encode())]).generate_state(1)[0] >> 1)


@dataclass(frozen=True)
class Claim:
    """An executable claim. `holds` is that every required check holds."""

    slug: str
    title: str  # the paper's short title
    statement: str  # what its abstract claims, in our words, in the miniature's terms
    seeds: int  # seeds that the verdict is about; fewer can be asked for, and the result says so
    arms: Mapping[str, str]  # arm -> what it is
    panels: Mapping[str, str]  # panel -> what its numbers are, with the unit
    scales: Mapping[Scale, str]  # scale -> the experiment in a sentence
    run: Callable[[Context], Scores]
    checks: Callable[[Scores], list[Check]]

    def context(self, scale: Scale = "small", n: int | None = None, offset: int = 0, **rest: Any) -> Context:
        """The context of a run on seeds `offset .. offset + n - 1` (the claim's own number unless told otherwise)."""
        n = self.seeds if n is None else n
        if n < 1:
            raise ConfigError(f"--seeds is {n}: a claim needs at least one seed.")
        if offset < 0:
            raise ConfigError(f"--seed-offset is {offset}: seeds start at 0.")
        if scale not in self.scales:
            raise ConfigError(f"{self.slug} has no {scale!r} scale; it has: {', '.join(self.scales)}.")
        return Context(seeds=[offset + i for i in range(n)], scale=scale, **rest)


def holds(checks: Sequence[Check]) -> bool:
    """The verdict: there is a required check, and all of them hold."""
    required = [check.holds for check in checks if check.required]
    return bool(required) and all(required)


# --- building checks ------------------------------------------------------------------------------------------------


def per_seed(scores: Scores, panel: str, arm: str) -> np.ndarray:
    """One number a seed, `[n]`, in order of the seeds (the mean where a seed has several values)."""
    values = scores[panel][arm]
    return np.array([np.mean(values[key]) for key in sorted(values, key=int)], np.float64)


def table(scores: Scores, panel: str, arm: str) -> np.ndarray:
    """All numbers of an arm whose seeds have k values each, `[n, k]`, in order of the seeds."""
    values = scores[panel][arm]
    return np.array([values[key] for key in sorted(values, key=int)], np.float64)


def difference(
    scores: Scores,
    panel: str,
    arm: str,
    baseline: str,
    *,
    name: str,
    statement: str,
    threshold: float = 0.0,
    required: bool = True,
    same_seeds: bool = False,
) -> Check:
    """`arm` beats `baseline`: mean difference over seeds above `threshold`, and one-sided p < 0.05 that it is above zero.

    Welch's test; the paired t-test with `same_seeds=True`, for arms that share data and batches seed by seed.
    """
    test = paired if same_seeds else welch
    result = test(per_seed(scores, panel, arm), per_seed(scores, panel, baseline), "greater")
    return Check(
        name=name,
        statement=statement,
        panel=panel,
        value=result.difference,
        ci95=finite_ends(result.low, result.high),
        test=result.test,
        p=result.p,
        threshold=threshold,
        required=required,
        holds=bool(result.difference > threshold and result.p < LEVEL),
    )


def bound(
    scores: Scores,
    panel: str,
    arm: str,
    *,
    name: str,
    statement: str,
    above: float | None = None,
    below: float | None = None,
    required: bool = True,
) -> Check:
    """The mean of an arm over seeds lies above (or below) a number; the interval is reported, no test is made."""
    if (above is None) == (below is None):
        raise ConfigError("a bound is either above or below a number: give one of them.")
    mean = mean_interval(per_seed(scores, panel, arm))
    ok = mean.value > above if above is not None else mean.value < (below or 0.0)
    threshold = above if above is not None else below
    return stated(name, statement, panel, mean.value, bool(ok), threshold=threshold, interval=mean, required=required)


def stated(
    name: str,
    statement: str,
    panel: str,
    value: float,
    ok: bool,
    *,
    threshold: float | None = None,
    interval: Interval | None = None,
    required: bool = True,
) -> Check:
    """A check whose verdict the claim has computed itself, such as a property that must hold for every seed."""
    ci95 = None if interval is None else finite_ends(interval.low, interval.high)
    return Check(name, statement, panel, float(value), ci95, None, None, threshold, required, bool(ok))


def finite_ends(low: float, high: float) -> tuple[float | None, float | None]:
    """The ends of an interval, None where it is unbounded (JSON has no infinity)."""
    return (float(low) if np.isfinite(low) else None, float(high) if np.isfinite(high) else None)
