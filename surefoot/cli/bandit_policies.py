"""What `surefoot bandit simulate` and `replay` ask alike: which policies explore, which oracle predicts, how long its memory is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, cast, get_args

import numpy as np
from rich.console import Console

from surefoot.cli.evaluate import number
from surefoot.errors import ConfigError, UnknownNameError
from surefoot.evaluation.statistics import Comparison, Interval
from surefoot.methods.exact.exploration import RULES, Explorer, Kind
from surefoot.methods.exact.regression_oracles import BOOSTING, Model, Oracle, oracle

PARAMETERS = {"epsilon-greedy": "epsilon", "softmax": "tau", "igw": "gamma"}
"""What the number in KIND:NUMBER is."""


@dataclass(frozen=True)
class Loop:
    """Options of both commands; those of a kind of policy hold where its name comes without a number."""

    policies: tuple[str, ...] = ("uniform", "epsilon-greedy", "igw", "greedy")
    """Explorers to compare: uniform, epsilon-greedy, softmax, igw (inverse gap weighting, SquareCB), greedy; or KIND:NUMBER, as igw:500."""
    epsilon: float = 0.1
    """epsilon-greedy: probability of a uniform choice."""
    tau: float = 0.1
    """softmax: temperature, in units of the reward."""
    gamma: float | None = None
    """igw: weight of a gap in predicted reward (default: 10 times the root of the rows learned)."""
    mass: float | None = None
    """Let epsilon-greedy, softmax and igw explore equally often: mean probability of an action other than the best."""
    floor: float = 0.0
    """Every available action is played with probability floor / k at least."""
    oracle: str = "boosting"
    """Model of the reward: boosting, lightgbm, logistic or ridge."""
    trees: int = BOOSTING
    """Trees of boosting and lightgbm."""
    delay: int = 0
    """Batches between an action and its reward."""
    weight_cap: float | None = None
    """Learn with importance weights, at most this large (default: plain regression, as the paper)."""
    seed: int = 0
    """Seed of everything random."""
    json: bool = False
    """Print the result as JSON on standard output."""


def explorers(options: Loop) -> dict[str, Explorer]:
    """The policies by the names they were given. Raises ConfigError or UnknownNameError."""
    if not options.policies:
        raise ConfigError(f"--policies is empty: name one or more of {', '.join(get_args(Kind))}.")
    return {name: explorer(name, options) for name in options.policies}


def explorer(name: str, options: Loop) -> Explorer:
    """A policy by its kind, or KIND:NUMBER. Raises ConfigError or UnknownNameError."""
    word, colon, text = name.partition(":")
    if word not in get_args(Kind):
        raise UnknownNameError("exploration policy", word, get_args(Kind))
    kind = cast(Kind, word)
    settings: dict[str, Any] = {key: getattr(options, key) for key in ("epsilon", "tau", "gamma", "floor")}
    if not colon:
        return Explorer(kind, mass=None if RULES[kind] is None else options.mass, **settings)
    if kind not in PARAMETERS:
        raise ConfigError(f"{name!r} gives the {kind} policy a number, but it has nothing to set: leave the number out.")
    try:
        settings[PARAMETERS[kind]] = float(text)
    except ValueError:
        raise ConfigError(f"{name!r} should be {kind}:NUMBER, its {PARAMETERS[kind]}, but {text!r} is no number.") from None
    return Explorer(kind, **settings)


def oracle_of(options: Loop) -> Oracle:
    """The oracle, which fits no two times to the same rows. Raises ConfigError or UnknownNameError."""
    if options.trees < 1:
        raise ConfigError(f"--trees is {options.trees}: boosting needs at least one.")
    return Remembering(oracle(options.oracle, options.trees))


def window_of(window: int) -> int | None:
    """Past batches to learn from, None for all. Raises ConfigError for a negative number."""
    if window < 0:
        raise ConfigError(f"--window is {window}: learn from 1 or more past batches, or 0 for all.")
    return window or None


@dataclass(frozen=True, eq=False)
class Remembering:
    """An oracle that knows again what it has learned from: every policy that is replayed along a log needs the same models."""

    oracle: Oracle
    models: dict[tuple[Any, ...], Model] = field(default_factory=dict)

    def fit(
        self,
        context: np.ndarray,
        action: np.ndarray,
        reward: np.ndarray,
        weights: np.ndarray | None = None,
        *,
        n_actions: int,
        action_features: np.ndarray | None = None,
        seed: int = 0,
    ) -> Model:
        """As the oracle's own."""
        arrays = (context, action, reward, weights)
        key = (n_actions, seed, *(None if x is None else (x.shape, hash(x.tobytes())) for x in arrays))
        if key not in self.models:
            self.models[key] = self.oracle.fit(
                context, action, reward, weights, n_actions=n_actions, action_features=action_features, seed=seed
            )
        return self.models[key]


# --- words for tables -----------------------------------------------------------------------------------------------


def interval(x: Interval | Comparison) -> str:
    """`value [low, high]` with three decimals (fewer of large numbers), for rich; the value alone where nothing is known of its spread."""
    value = x.difference if isinstance(x, Comparison) else x.value
    if not np.isfinite([x.low, x.high]).all():
        return number(value)
    shown = [f"{y:.3f}" if max(abs(value), abs(x.high - x.low)) < 1000.0 else number(y) for y in (value, x.low, x.high)]
    return rf"{shown[0]} \[{shown[1]}, {shown[2]}]"


def tell(sentences: Sequence[str], console: Console) -> None:
    """Notes and warnings, a line each."""
    for sentence in sentences:
        console.print(f"note: {sentence}", highlight=False, markup=False, soft_wrap=True)
