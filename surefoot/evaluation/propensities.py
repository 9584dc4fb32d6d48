"""Propensities for logs that have none: a model of which action the logger took, fitted on the other folds and calibrated.

Six models compete, and the one that predicts held-out actions best (log loss) is taken, so that a logger that chose uniformly is
not given the structure that trees would find in its noise:

    uniform    1 / k over the k available actions
    shares     p(a) ~ exp(b_a) over the available actions
    linear     p(a|x) ~ exp(b_a + c_a . x) over the available actions, standardised x (a conditional logit, penalised)
    trees      gradient-boosted trees on x and availability; unavailable actions masked
    linear, isotonic; trees, isotonic    the same after isotonic calibration of held-out probabilities, normalised again: a logger that
               plays its best action with one probability and the others with another is none of the above

Each deployment (generation) is a logger of its own and has its own fit, unless there are very many of them or some are small; then one fit
sees the generation as a feature. Fitted propensities are estimates: nothing in a log can show that it holds all that the logger saw.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy.optimize import minimize
from scipy.special import log_softmax

from surefoot.data.bandit_log import BanditLog
from surefoot.errors import DataError, MissingExtraError
from surefoot.evaluation.off_policy import folds
from surefoot.progress import watched

FLOOR = 1e-3
"""Fitted probabilities of available actions are no smaller: a weight of many thousands for an action that did happen is a misfit."""

GENERATIONS = 20  # up to so many are fitted one by one
ROWS = 500  # if each has at least so many rows
PENALTY = 1.0  # of squared coefficients in the linear model, on the scale of the summed log-likelihood (a standard normal prior)

Model = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""(context `[m, d]`, available `[m, K]`) -> log-probabilities `[m, K]`, -inf where unavailable."""

Fit = Callable[[np.ndarray, np.ndarray, np.ndarray], Model]
"""(context `[n, d]`, available `[n, K]`, action `[n]`) -> model."""


@dataclass(frozen=True)
class Propensities:
    """A fitted logger, each row by a model that has not seen it."""

    pmf: np.ndarray  # [n, K] float64, 0 where unavailable
    taken: np.ndarray  # [n] float64: of the action that was logged
    models: dict[int, str]  # generation -> the model that won; key -1 where one fit serves all
    log_loss: float  # mean -log p of the logged actions, held out
    uniform_log_loss: float  # the same if the logger had chosen uniformly: how much there was to learn
    calibration: float  # mean |share of logged actions - mean fitted probability| over ten bins of fitted probability

    def to_json(self) -> dict[str, Any]:
        """All but the probabilities."""
        return {name: value for name, value in vars(self).items() if name not in ("pmf", "taken")}


def with_propensities(log: BanditLog, k: int = 3, seed: int = 0) -> tuple[BanditLog, Propensities]:
    """The log with propensities fitted on k folds, and the fit. Raises MissingExtraError without scikit-learn, DataError for few rows."""
    fitted = fit_propensities(log, k, seed)
    return replace(log, propensity=fitted.taken), fitted


def fit_propensities(log: BanditLog, k: int = 3, seed: int = 0) -> Propensities:
    """The logger of each generation, cross-fitted; see the module's docstring. Raises as `with_propensities` does."""
    if len(log) < 10 * k:
        raise DataError(f"{log.source} has {len(log)} rows: propensities can be fitted from {10 * k} on.")
    pmf = np.zeros(log.available.shape)
    models: dict[int, str] = {}
    numbers, counts = np.unique(log.generation, return_counts=True)
    one_by_one = len(numbers) <= GENERATIONS and counts.min() >= ROWS
    parts = [(int(g), np.flatnonzero(log.generation == g)) for g in numbers] if one_by_one else [(-1, np.arange(len(log)))]
    for generation, rows in watched(parts, "fitting propensities"):
        context = log.context[rows]
        if generation < 0 and len(numbers) > 1:
            context = np.column_stack([context, log.generation[rows]])
        models[generation], pmf[rows] = best_model(context, log.available[rows], log.action[rows], k, seed)
    taken = np.take_along_axis(pmf, log.action[:, None], 1)[:, 0]
    return Propensities(
        pmf=pmf,
        taken=taken,
        models=models,
        log_loss=float(-np.log(taken).mean()),
        uniform_log_loss=float(np.log(log.available.sum(1)).mean()),
        calibration=calibration_error(pmf, log.action, log.available),
    )


def best_model(context: np.ndarray, available: np.ndarray, action: np.ndarray, k: int, seed: int) -> tuple[str, np.ndarray]:
    """(name of the model with the least held-out log loss, its held-out probabilities `[n, K]`), floored at FLOOR."""
    fold = folds(len(action), k, seed)
    held_out: dict[str, np.ndarray] = {}
    for name, fit in MODELS.items():
        p = held_out[name] = np.empty(available.shape)
        for i in range(k):
            train, held = fold != i, fold == i
            p[held] = np.exp(fit(context[train], available[train], action[train])(context[held], available[held]))
    for name in CALIBRATED:
        held_out[f"{name}, isotonic"] = isotonic(held_out[name], action, available, fold)
    held_out = {name: floored(p, available) for name, p in held_out.items()}
    losses = {name: -np.log(np.take_along_axis(p, action[:, None], 1)).mean() for name, p in held_out.items()}
    name = next(name for name, loss in losses.items() if loss <= min(losses.values()) + 1e-9)  # the simplest wins a tie
    return name, held_out[name]


def floored(p: np.ndarray, available: np.ndarray) -> np.ndarray:
    """Probabilities `[n, K]` of at least FLOOR for what is available, 0 for the rest, normalised again."""
    p = np.where(available, np.maximum(p, FLOOR), 0.0)
    return p / p.sum(-1, keepdims=True)


def isotonic(p: np.ndarray, action: np.ndarray, available: np.ndarray, fold: np.ndarray) -> np.ndarray:
    """Probabilities `[n, K]` as how often such a probability comes true: an increasing function, fitted on the other folds' rows."""
    from sklearn.isotonic import IsotonicRegression  # the trees have been fitted, so it is there

    hit = np.eye(p.shape[1])[action]
    out = np.zeros(p.shape)
    for i in np.unique(fold):
        train, held = (fold != i)[:, None] & available, (fold == i)[:, None] & available
        out[held] = IsotonicRegression(y_min=FLOOR, y_max=1.0, out_of_bounds="clip").fit(p[train], hit[train]).predict(p[held])
    return floored(out, available)


# --- the models -----------------------------------------------------------------------------------------------------


def fit_uniform(context: np.ndarray, available: np.ndarray, action: np.ndarray) -> Model:
    """1 / k over the available actions."""
    return lambda x, there: log_softmax(np.where(there, 0.0, -np.inf), -1)


def fit_shares(context: np.ndarray, available: np.ndarray, action: np.ndarray) -> Model:
    """The conditional logit without features."""
    model = fit_linear(np.empty((len(action), 0)), available, action)
    return lambda x, there: model(np.empty((len(x), 0)), there)


def fit_linear(context: np.ndarray, available: np.ndarray, action: np.ndarray) -> Model:
    """The conditional logit: maximum likelihood of the logged actions among the available ones, coefficients penalised, not intercepts."""
    mean, std = context.mean(0), context.std(0)
    scale = np.where(std > 0.0, std, 1.0)

    def inputs(x: np.ndarray) -> np.ndarray:
        return np.column_stack([np.ones(len(x)), (x - mean) / scale])

    x, K = inputs(context), available.shape[1]
    closed = np.where(available, 0.0, -np.inf)
    taken = np.eye(K)[action]
    penalty = np.full((x.shape[1], 1), PENALTY)
    penalty[0] = 1e-3  # intercepts are free but for what makes them unique

    def loss(flat: np.ndarray) -> tuple[float, np.ndarray]:
        b = flat.reshape(-1, K)
        logp = log_softmax(x @ b + closed, -1)
        value = -np.take_along_axis(logp, action[:, None], 1).sum() + 0.5 * (penalty * b**2).sum()
        slope = x.T @ (np.exp(logp) - taken) + penalty * b
        return float(value) / len(x), slope.reshape(-1) / len(x)

    b = minimize(loss, np.zeros(x.shape[1] * K), jac=True, method="L-BFGS-B", options={"maxiter": 500}).x.reshape(-1, K)
    return lambda new, there: log_softmax(inputs(new) @ b + np.where(there, 0.0, -np.inf), -1)


def fit_trees(context: np.ndarray, available: np.ndarray, action: np.ndarray) -> Model:
    """Boosted trees on the context and on which actions were available, as far as that varies."""
    try:
        from sklearn.ensemble import HistGradientBoostingClassifier
    except ImportError:
        raise MissingExtraError("scikit-learn", "bandits") from None
    varies = ~(available == available[0]).all(0)
    if len(np.unique(action)) < 2 or context.shape[1] + varies.sum() == 0:
        return fit_shares(context, available, action)
    trees = HistGradientBoostingClassifier(max_leaf_nodes=15, early_stopping=False, random_state=0)
    trees.fit(np.column_stack([context, available[:, varies]]), action)

    def logp(x: np.ndarray, there: np.ndarray) -> np.ndarray:
        p = np.full(there.shape, FLOOR)
        p[:, trees.classes_] = trees.predict_proba(np.column_stack([x, there[:, varies]]))
        return np.log(floored(p, there), where=there, out=np.full(there.shape, -np.inf))

    return logp


MODELS: dict[str, Fit] = {"uniform": fit_uniform, "shares": fit_shares, "linear": fit_linear, "trees": fit_trees}
"""The candidates, simplest first."""

CALIBRATED = ("linear", "trees")
"""Those that are tried with isotonic calibration, too."""


# --- how good the fit is --------------------------------------------------------------------------------------------


def calibration_error(pmf: np.ndarray, action: np.ndarray, available: np.ndarray, bins: int = 10) -> float:
    """Mean |how often an action was taken - its fitted probability| over bins of equal size of all available (row, action) pairs."""
    p, hit = pmf[available], (np.eye(pmf.shape[1], dtype=bool)[action])[available]
    order = np.argsort(p, kind="stable")
    parts = [part for part in np.array_split(order, bins) if len(part)]
    return float(sum(len(part) * abs(hit[part].mean() - p[part].mean()) for part in parts) / len(order))
