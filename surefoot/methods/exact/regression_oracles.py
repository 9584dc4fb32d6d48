"""Regression oracles: supervised learners of the reward of a context and an action, f(x, a), behind one small protocol.

    model = oracle.fit(context, action, reward, weights, n_actions=K)
    scores = model.predict(context)                                        # [n, K]

`Supervised` puts any scikit-learn estimator behind it (boosting, logistic regression, LightGBM and XGBoost through their scikit-learn
interface); `LinearRidge` is ridge regression for each action in closed form, which also knows how far it can be trusted: the elimination of
RegCB (Foster et al., arXiv 1803.01088) and of Vowpal Wabbit's SquareCB. Boosting is the oracle of Adyen bandits (arXiv 2412.00569v2).

Rewards of 0 and 1 alone are learned by a classifier's logistic loss, others by squared loss. `weights` are importance weights of
rows; without them this is plain supervised learning from the log, as in the paper. Every random choice follows from `seed`.
scikit-learn and LightGBM are optional: MissingExtraError names the extra.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, Literal, Protocol

import numpy as np
from scipy import sparse

from surefoot.errors import ConfigError, DataError, MissingExtraError, UnknownNameError
from surefoot.methods.exact.ridge import Gram

Encoding = Literal["category", "one-hot", "crossed"]

CATEGORIES = 255
"""Values of a categorical feature that scikit-learn's histogram boosting can hold."""


class Model(Protocol):
    """What a fit returns."""

    def predict(self, context: np.ndarray) -> np.ndarray:
        """Predicted mean rewards `[n, K]` of contexts `[n, d]`, for every action whether available or not."""


class Oracle(Protocol):
    """A supervised learner of rewards."""

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
        """Learn from rows `[n, d]`, `[n]`, `[n]` with weights `[n]`; `action_features` `[K, da]` describe the actions."""


# --- any scikit-learn estimator ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Supervised:
    """Estimators of a scikit-learn interface, as a regression oracle.

    `classifier` and `regressor` make an estimator (None: this oracle does not learn such rewards). The action enters the rows as `encoding`
    says: `category`, a last column with its number, which `classifier(categorical=d)` is told of; `one-hot`; or `crossed`, context
    times one-hot action, so that a linear model has weights for each action. Given action features stand in for the action's number.
    """

    classifier: Callable[..., Any] | None
    regressor: Callable[..., Any] | None
    encoding: Encoding = "one-hot"

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
        """See `Oracle`; a log of one reward is learned as that constant. Raises DataError for bad rows, ConfigError for settings."""
        weights = check_rows(context, action, reward, weights, n_actions, action_features)
        if (reward == reward[0]).all():  # no classifier learns from one class
            return Constant(float(reward[0]), n_actions)
        if self.encoding == "category" and action_features is None and n_actions > CATEGORIES:
            raise ConfigError(
                f"there are {n_actions} actions, but boosting tells at most {CATEGORIES} categories apart: use lightgbm, ridge, or "
                "action features."
            )
        coder = Coder(self.encoding, n_actions, action_features)
        binary = self.classifier is not None and bool(np.isin(reward, (0.0, 1.0)).all())
        make = self.classifier if binary else self.regressor
        if make is None:
            shown = reward[~np.isin(reward, (0.0, 1.0))][:1]
            which = f"a reward of {shown[0]:g}" if shown.size else "rewards"
            raise ConfigError(f"this oracle is a classifier and cannot learn {which}: use one with a regressor (boosting, ridge).")
        column = context.shape[1] if self.encoding == "category" and action_features is None else None
        estimator = seeded(make(categorical=column) if "categorical" in inspect.signature(make).parameters else make(), seed)
        rows = coder.rows(context, action)
        if weights is None:
            estimator.fit(rows, reward)
        else:
            if "sample_weight" not in inspect.signature(estimator.fit).parameters:
                raise ConfigError(f"{type(estimator).__name__} takes no sample weights: fit without them, or use another estimator.")
            estimator.fit(rows, reward, sample_weight=weights)
        return Fitted(estimator, coder, context.shape[1], binary)


@dataclass(frozen=True, eq=False)
class Fitted:
    """A fitted estimator, asked about all actions at once."""

    estimator: Any
    coder: Coder
    width: int
    binary: bool

    def predict(self, context: np.ndarray) -> np.ndarray:
        check_width(context, self.width)
        rows = self.coder.all_rows(context)
        values = self.estimator.predict_proba(rows)[:, 1] if self.binary else self.estimator.predict(rows)
        return np.asarray(values, np.float64).reshape(len(context), self.coder.n_actions)


@dataclass(frozen=True)
class Constant:
    """The same reward everywhere: what a log without any variation teaches."""

    value: float
    n_actions: int

    def predict(self, context: np.ndarray) -> np.ndarray:
        return np.full((len(context), self.n_actions), self.value)


@dataclass(frozen=True, eq=False)
class Coder:
    """How a context and an action become one row of numbers."""

    encoding: Encoding
    n_actions: int
    action_features: np.ndarray | None = None

    @cached_property
    def codes(self) -> np.ndarray:
        """What stands for each action, `[K, p]`."""
        if self.action_features is None:
            return np.arange(self.n_actions, dtype=np.float64)[:, None] if self.encoding == "category" else np.eye(self.n_actions)
        constant = [np.ones((self.n_actions, 1))] if self.encoding == "crossed" else []
        return np.concatenate([*constant, self.action_features], 1)

    def rows(self, context: np.ndarray, action: np.ndarray) -> np.ndarray | sparse.csr_matrix:
        """`[n, columns]`; sparse where most of it is zeros by construction."""
        if self.encoding != "crossed":
            return np.concatenate([context, self.codes[action]], 1)
        with_one = np.concatenate([context, np.ones((len(context), 1))], 1)
        if self.action_features is not None:
            return (self.codes[action][:, :, None] * with_one[:, None, :]).reshape(len(context), -1)
        n, p = with_one.shape
        columns = action[:, None] * p + np.arange(p)
        return sparse.csr_matrix((with_one.ravel(), columns.ravel(), np.arange(n + 1) * p), shape=(n, p * self.n_actions))

    def all_rows(self, context: np.ndarray) -> np.ndarray | sparse.csr_matrix:
        """`[n * K, columns]`: every context with every action, the actions of one context together."""
        n = len(context)
        return self.rows(np.repeat(context, self.n_actions, 0), np.tile(np.arange(self.n_actions), n))


def seeded(estimator: Any, seed: int) -> Any:
    """The estimator, or those within it, with every `random_state` set."""
    states = [name for name in estimator.get_params() if name == "random_state" or name.endswith("__random_state")]
    return estimator.set_params(**dict.fromkeys(states, seed))


# --- ridge regression, with bounds ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LinearRidge:
    """f(x, a) = theta_a . [x, 1], each theta_a by ridge regression on the rows with that action; an action never seen is predicted 0.

    Action features are not used. Weights scale rows.
    """

    ridge: float = 1.0

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
    ) -> LinearModel:
        """See `Oracle`. Raises DataError for bad rows, ConfigError unless ridge > 0."""
        weights = check_rows(context, action, reward, weights, n_actions, None)
        x = np.concatenate([context, np.ones((len(context), 1))], 1)
        if not self.ridge > 0.0:
            raise ConfigError(f"ridge is {self.ridge}: it must be positive, or actions that were never seen have no estimate.")
        scaled = x if weights is None else x * weights[:, None]
        order = np.argsort(action, kind="stable")  # one matrix product an action: their rows stand together
        ends = np.searchsorted(action[order], np.arange(n_actions + 1))
        x, scaled, reward = x[order], scaled[order], reward[order]
        parts = [slice(ends[a], ends[a + 1]) for a in range(n_actions)]
        matrix = np.stack([scaled[part].T @ x[part] for part in parts]) + self.ridge * np.eye(x.shape[1])
        return LinearModel(Gram.of_matrix(matrix), np.stack([scaled[part].T @ reward[part] for part in parts]), len(x))


@dataclass(frozen=True, eq=False)
class LinearModel:
    """Ridge regression for each of K actions: its Gram matrices `[K, d + 1, d + 1]`, and sum of x r, `[K, d + 1]`."""

    gram: Gram
    moment: np.ndarray
    learned: int

    @cached_property
    def theta(self) -> np.ndarray:
        """`[d + 1, K]`, the last row the intercepts."""
        return np.ascontiguousarray((self.gram.inverse @ self.moment[..., None])[..., 0].T)

    def predict(self, context: np.ndarray) -> np.ndarray:
        check_width(context, len(self.theta) - 1)
        return context @ self.theta[:-1] + self.theta[-1]

    def half_width(self, context: np.ndarray, mellowness: float = 0.001) -> np.ndarray:
        """How far each prediction can move before the fitted loss grows by mellowness log(K t), `[n, K]`, for t rows learned.

        A prediction moved by s costs at least s^2 / ||x||^2_{Gram^{-1}} in squared loss: RegCB's bound, here without a binary search.
        """
        check_width(context, len(self.theta) - 1)
        x = np.concatenate([context, np.ones((len(context), 1))], 1)
        excess = mellowness * np.log(self.moment.shape[0] * max(self.learned, 1))
        return np.sqrt(excess) * self.gram.norm(np.broadcast_to(x, (len(self.moment), *x.shape))).T


# --- oracles by name --------------------------------------------------------------------------------------------------


def boosting(kind: str, iterations: int, categorical: int | None = None) -> Any:
    """scikit-learn's histogram gradient boosting: learning rate 0.1, 15 leaves, no early stopping (which adds noise between arms)."""
    ensemble = needed("sklearn.ensemble", "scikit-learn")
    settings: dict[str, Any] = {"max_iter": iterations, "learning_rate": 0.1, "max_leaf_nodes": 15, "early_stopping": False}
    return getattr(ensemble, f"HistGradientBoosting{kind}")(**settings, categorical_features=None if categorical is None else [categorical])


def lightgbm(kind: str, iterations: int) -> Any:
    """LightGBM with the same settings, one thread, deterministic."""
    settings: dict[str, Any] = {"n_estimators": iterations, "learning_rate": 0.1, "num_leaves": 15, "n_jobs": 1}
    return getattr(needed("lightgbm", "lightgbm"), f"LGBM{kind}")(**settings, deterministic=True, force_row_wise=True, verbosity=-1)


def logistic() -> Any:
    """L2-regularised logistic regression with weights for each action."""
    return needed("sklearn.linear_model", "scikit-learn").LogisticRegression(C=1.0, max_iter=1000)


def needed(module: str, package: str) -> Any:
    """An optional module; raises MissingExtraError with the command that installs it."""
    try:
        return __import__(module, fromlist=["_"])
    except ImportError:
        raise MissingExtraError(package, "bandits") from None


BOOSTING = 100
"""Trees, where nothing else is asked for."""

ORACLES: dict[str, Callable[[int], Oracle]] = {
    "boosting": lambda n: Supervised(partial(boosting, "Classifier", n), partial(boosting, "Regressor", n), "category"),
    "lightgbm": lambda n: Supervised(partial(lightgbm, "Classifier", n), partial(lightgbm, "Regressor", n), "one-hot"),
    "logistic": lambda n: Supervised(logistic, None, "crossed"),
    "ridge": lambda n: LinearRidge(),
}
"""What each name stands for, given a number of boosting iterations."""


def oracle(name: str, iterations: int = BOOSTING) -> Oracle:
    """`boosting` (the paper's kind, `iterations` trees of 15 leaves), `lightgbm`, `logistic` or `ridge`. Raises UnknownNameError."""
    if name not in ORACLES:
        raise UnknownNameError("regression oracle", name, ORACLES)
    return ORACLES[name](iterations)


def estimator_oracle(estimator: Any, encoding: Encoding = "one-hot") -> Supervised:
    """Any unfitted estimator of the scikit-learn interface as an oracle: a classifier for rewards of 0 and 1, or a regressor for all.

    It is copied for every fit and its `random_state` set. Raises ConfigError for what is neither.
    """
    base = needed("sklearn.base", "scikit-learn")
    if encoding not in ("category", "one-hot", "crossed"):
        raise UnknownNameError("encoding", str(encoding), ("category", "one-hot", "crossed"))
    if not (base.is_classifier(estimator) or base.is_regressor(estimator)):
        raise ConfigError(f"{type(estimator).__name__} is neither a classifier nor a regressor of the scikit-learn interface: give one.")
    make = partial(base.clone, estimator)
    return Supervised(make, None, encoding) if base.is_classifier(estimator) else Supervised(None, make, encoding)


# --- checks -----------------------------------------------------------------------------------------------------------


def check_rows(
    context: np.ndarray,
    action: np.ndarray,
    reward: np.ndarray,
    weights: np.ndarray | None,
    n_actions: int,
    action_features: np.ndarray | None,
) -> np.ndarray | None:
    """Weights scaled to mean 1 (None stays None). Raises DataError for rows that nothing can be learned from."""
    n = len(reward)
    if n == 0:
        raise DataError("there are no rows to learn rewards from: give at least one.")
    if context.ndim != 2 or len(context) != n or len(action) != n:
        raise DataError(
            f"context has shape {list(context.shape)} and action {list(action.shape)}, but there are {n} rewards: they must agree."
        )
    if action.min() < 0 or action.max() >= n_actions:
        row = int(np.argmax((action < 0) | (action >= n_actions)))
        raise DataError(f"action is {action[row]} in row {row}, which is none of the {n_actions} actions 0 to {n_actions - 1}.")
    for name, array in (("context", context), ("reward", reward), ("weights", weights)):
        if array is not None and not np.isfinite(array).all():
            row = int(np.argwhere(~np.isfinite(array))[0][0])
            raise DataError(f"{name} is not finite in row {row}: remove or repair that row.")
    if action_features is not None and (action_features.ndim != 2 or len(action_features) != n_actions):
        raise DataError(f"action_features has shape {list(action_features.shape)}: give a row for each of the {n_actions} actions.")
    if weights is None:
        return None
    if weights.shape != (n,) or (weights < 0.0).any() or not weights.any():
        raise DataError(f"weights must be {n} numbers, none negative and not all zero: one a row.")
    return weights / weights.mean()


def check_width(context: np.ndarray, width: int) -> None:
    """Raises DataError where a model is asked about contexts of another width than it learned from."""
    if context.ndim != 2 or context.shape[1] != width:
        raise DataError(f"context has shape {list(context.shape)}, but the oracle learned from {width} features: give [n, {width}].")
