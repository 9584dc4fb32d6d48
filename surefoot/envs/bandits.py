"""Contextual bandits to try policies on: rounds with a context, the actions that are available, and what each would earn on average.

`Payments` is the simulation for Adyen bandits (arXiv 2412.00569v2 has no public data): a payment is authorised, or not, through one of
K routes, of which each payment can use some. `Table` draws rounds from rows whose mean rewards are known: classification data that
scikit-learn brings (`classification`), or a user's own log with fitted rewards. Rewards are Bernoulli; they may come batches later
(`arrived`).
Deployed rounds and hold-out rounds never share a row.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np

from surefoot.errors import ConfigError, DataError, MissingExtraError, UnknownNameError

DATASETS = ("breast_cancer", "digits", "iris", "wine")
"""Classification data that scikit-learn carries with it."""


@dataclass(frozen=True, eq=False)
class Rounds:
    """n decisions to be made."""

    context: np.ndarray  # [n, d] float64
    available: np.ndarray  # [n, K] bool, at least one a row
    mean: np.ndarray  # [n, K] expected reward of each action in [0, 1]: what the policy does not see


class World(Protocol):
    """Where rounds come from."""

    @property
    def actions(self) -> tuple[str, ...]:
        """Names of the K actions."""

    @property
    def features(self) -> tuple[str, ...]:
        """Names of the d features of a context."""

    def rounds(self, n: int, rng: np.random.Generator) -> Rounds:
        """n rounds for a policy to play."""

    def holdout(self, n: int, rng: np.random.Generator) -> Rounds:
        """n rounds to judge models on, none of which is ever played."""


def pay(rounds: Rounds, action: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Rewards 0 or 1 `[n]` of the actions played `[n]`; the same `rng` gives two policies the same luck in every round."""
    return (rng.random(len(action)) < np.take_along_axis(rounds.mean, action[:, None], 1)[:, 0]).astype(np.float64)


def arrived(latest: int, delay: int, window: int | None) -> range:
    """The batches to learn from once batch `latest` is logged: the last `window` (None: all) of those that rewards have come for.

    Rewards come `delay` batches after their own. Raises ConfigError for a negative delay or a window below 1.
    """
    if delay < 0:
        raise ConfigError(f"delay is {delay}: rewards come with their batch (0) or some batches later.")
    if window is not None and window < 1:
        raise ConfigError(f"window is {window}: learn from the last batch (1) or more.")
    end = latest - delay + 1
    return range(0 if window is None else max(0, end - window), max(0, end))


def some_available(share: float | np.ndarray, n: int, actions: int, rng: np.random.Generator) -> np.ndarray:
    """Each action is there with probability `share` (a number, or one an action), at least one always, `[n, K]` bool.

    Where none is, one is chosen uniformly. Raises ConfigError outside [0, 1].
    """
    share = np.broadcast_to(np.asarray(share, np.float64), (actions,))
    if not ((share >= 0.0) & (share <= 1.0)).all():
        raise ConfigError(f"availability is {share.tolist()}: each action is available with a probability from 0 to 1.")
    there = rng.random((n, actions)) < share
    only = rng.integers(actions, size=n)  # drawn for every row, so that contexts do not depend on availability
    there[np.arange(n), only] |= ~there.any(1)
    return there


def check_rounds(n: int) -> None:
    if n < 1:
        raise ConfigError(f"{n} rounds were asked for: a batch has at least one.")


# --- payments ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Payments:
    """logit P(authorised | x, a) = 1.2 + .8 base.x / sqrt(d) + .9 W_a.x / sqrt(d) + .9 sin(2 V_a.x / sqrt(d)) + bias_a, x ~ N(0, I_d).

    Close to linear, and not quite, with mean authorisation rates near 0.7 and the best route near 0.87.
    """

    linear: np.ndarray  # [K, d] W
    waves: np.ndarray  # [K, d] V
    base: np.ndarray  # [d] what all routes share
    bias: np.ndarray  # [K]
    availability: float | np.ndarray = 0.8  # probability that a route can be used

    @staticmethod
    def drawn(seed: int, d: int = 8, actions: int = 6, availability: float | np.ndarray = 0.8) -> Payments:
        """W, V, base from N(0, 1), biases from N(0, 0.3^2). Raises ConfigError for fewer than one feature or two actions."""
        if d < 1 or actions < 2:
            raise ConfigError(f"d is {d} and actions is {actions}: payments have at least 1 feature and 2 routes.")
        rng = np.random.default_rng(seed)
        linear, waves = rng.standard_normal((2, actions, d))
        return Payments(linear, waves, rng.standard_normal(d), 0.3 * rng.standard_normal(actions), availability)

    @property
    def actions(self) -> tuple[str, ...]:
        return tuple(f"route_{a}" for a in range(len(self.bias)))

    @property
    def features(self) -> tuple[str, ...]:
        return tuple(f"x{i}" for i in range(len(self.base)))

    def mean(self, context: np.ndarray) -> np.ndarray:
        """Expected rewards `[..., K]` of contexts `[..., d]`."""
        scale = np.sqrt(len(self.base))
        shared = 1.2 + 0.8 * (context @ self.base) / scale
        own = 0.9 * (context @ self.linear.T) / scale + 0.9 * np.sin(2.0 * (context @ self.waves.T) / scale) + self.bias
        return 1.0 / (1.0 + np.exp(-(shared[..., None] + own)))

    def rounds(self, n: int, rng: np.random.Generator) -> Rounds:
        check_rounds(n)
        context = rng.standard_normal((n, len(self.base)))
        return Rounds(context, some_available(self.availability, n, len(self.bias), rng), self.mean(context))

    def holdout(self, n: int, rng: np.random.Generator) -> Rounds:
        return self.rounds(n, rng)  # contexts are fresh anyway


# --- tables -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Table:
    """Rounds drawn with replacement from N rows with known mean rewards; a share of the rows, chosen by `seed`, is held out.

    `available`: what each row allows, or (None) each action at random with probability `availability`. Raises DataError for shapes that
    disagree, means outside [0, 1] and rows without an available action.
    """

    context: np.ndarray  # [N, d]
    mean: np.ndarray  # [N, K]
    actions: tuple[str, ...]
    features: tuple[str, ...]
    available: np.ndarray | None = None  # [N, K] bool
    availability: float | np.ndarray = 1.0
    held_out: float = 0.3
    seed: int = 0

    def __post_init__(self) -> None:
        n, K = len(self.context), len(self.actions)
        if n < 2 or self.mean.shape != (n, K) or (self.available is not None and self.available.shape != (n, K)):
            raise DataError(f"{n} contexts and {K} actions ask for means (and availability) [{n}, {K}]: means are {list(self.mean.shape)}.")
        wrong = ~((self.mean >= 0.0) & (self.mean <= 1.0))
        if wrong.any():
            row, a = np.argwhere(wrong)[0]
            raise DataError(f"mean[{row}, {a}] is {self.mean[row, a]}: mean rewards lie between 0 and 1; rescale them.")
        if self.available is not None and not self.available.any(1).all():
            raise DataError(f"no action is available in row {int(np.argmin(self.available.any(1)))}: remove that row.")
        if not 0.0 < self.held_out < 1.0:
            raise ConfigError(f"held_out is {self.held_out}: a share of the rows between 0 and 1 judges the models.")

    @cached_property
    def order(self) -> np.ndarray:
        """The rows in a random order, those held out first."""
        return np.random.default_rng(self.seed).permutation(len(self.context))

    @property
    def first_played(self) -> int:
        """How many rows are held out: one at least, and not all."""
        return min(max(1, round(self.held_out * len(self.context))), len(self.context) - 1)

    def rounds(self, n: int, rng: np.random.Generator) -> Rounds:
        return self._drawn(self.order[self.first_played :], n, rng)

    def holdout(self, n: int, rng: np.random.Generator) -> Rounds:
        return self._drawn(self.order[: self.first_played], n, rng)

    def _drawn(self, among: np.ndarray, n: int, rng: np.random.Generator) -> Rounds:
        check_rounds(n)
        rows = among[rng.integers(len(among), size=n)]
        there = some_available(self.availability, n, len(self.actions), rng) if self.available is None else self.available[rows]
        return Rounds(self.context[rows], there, self.mean[rows])


def classification(name: str, availability: float = 1.0, noise: float = 0.0, seed: int = 0) -> Table:
    """A classification problem as a bandit: the actions are the classes, and the right one earns 1.

    With `noise` a reward is turned round with that probability. `name`: breast_cancer, digits, iris or wine; features are standardised.
    Raises UnknownNameError, ConfigError for noise outside [0, 0.5), MissingExtraError without scikit-learn.
    """
    if name not in DATASETS:
        raise UnknownNameError("classification data", name, DATASETS)
    if not 0.0 <= noise < 0.5:
        raise ConfigError(f"noise is {noise}: a reward is turned round with a probability from 0 to below 0.5.")
    try:
        from sklearn import datasets
    except ImportError:
        raise MissingExtraError("scikit-learn", "bandits") from None
    data = getattr(datasets, f"load_{name}")()
    spread = data.data.std(0)
    context = (data.data - data.data.mean(0)) / np.where(spread > 0.0, spread, 1.0)
    right = data.target[:, None] == np.arange(len(data.target_names))
    titles = tuple(str(feature) for feature in data.feature_names)
    names = tuple(str(target) for target in data.target_names)
    return Table(context, np.where(right, 1.0 - noise, noise), names, titles, availability=availability, seed=seed)
