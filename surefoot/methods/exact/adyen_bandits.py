"""Adyen bandits: Contextual Bandits in Payment Processing: Non-uniform Exploration and Supervised Learning at Adyen.

Vangara and Egg, OARS workshop at KDD 2025, arXiv 2412.00569v2 (no public code or data). The production loop:

    generation 0: log a batch with the uniform policy (or a production rule)
    for g = 1 .. G:
        fhat = ERM on the last `window` batches whose rewards have arrived: supervised, no importance weights
        for each round: p = explore(fhat(x, .), available); a ~ p; log (x, available, a, p_a), the reward comes `delay` batches later

`simulate` plays it in a world whose mean rewards are known (surefoot.envs.bandits); `replay` retrains along a log of one's own and says
what each policy would have done, for the estimators of surefoot.evaluation.off_policy. What every generation did to its data, and to the
model that learns from it, is in its `Diagnostics`: exploration by inverse gap weighting earns more at once than uniform exploration,
and hands the next model worse data.

Departures: the paper's oracle is XGBoost, ours is any (boosting by default); three corrections that the paper does not claim can be
switched on: importance weights min(1/p, cap), a longer window, and a floor under the probabilities (Explorer.floor).
Policies that are compared share contexts and luck: randomness is drawn for each generation from (seed, generation, purpose).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from surefoot.data.bandit_log import BanditLog, concatenate
from surefoot.envs.bandits import Rounds, World, arrived, pay
from surefoot.envs.finite import draw
from surefoot.errors import ConfigError, DataError
from surefoot.methods.exact.exploration import Explorer, best_action, entropy, non_greedy, uniform
from surefoot.methods.exact.regression_oracles import LinearModel, Model, Oracle
from surefoot.progress import watched

CONTEXTS, ACTIONS, REWARDS, HOLDOUT, FIT = range(5)
"""Purposes that random numbers are drawn for."""


# --- one generation ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Diagnostics:
    """What one generation did, what its log looks like, and how good the model is that learns from a window that ends with it.

    None where there is nothing to say: no model was deployed, the true means are not known (`replay`), or there are no propensities.
    """

    generation: int
    learned: int  # rows that the deployed model learned from; 0: none, the first policy played
    strength: float  # epsilon, tau or gamma of the policy
    mean_reward: float  # of the log
    expected_reward: float | None  # the same from the true means: without the luck of the draw
    positive_rate: float  # share of the log's rewards above 0
    non_greedy: float | None  # mean P(an action other than the deployed model's best)
    entropy: float | None  # of the policy, in nats, mean over rows
    ess: float | None  # (sum w)^2 / sum w^2 / n, w = 1 / (k p): 1 for uniform logs; blind to what is never played
    calibration_error: float | None  # of the deployed model on its own log
    next_value: float | None  # mean reward of the greedy policy of the next model on the hold-out
    next_best: float | None  # share of the hold-out where that policy picks the best action
    next_calibration_error: float | None  # of the next model on the hold-out, over all available actions

    def to_json(self) -> dict[str, float | None]:
        return asdict(self)


def explore(
    model: Model | None, policy: Explorer, context: np.ndarray, available: np.ndarray, learned: int
) -> tuple[np.ndarray | None, np.ndarray, float]:
    """(scores `[n, K]`, probabilities `[n, K]`, the policy's parameter); without a model: no scores, and uniform probabilities."""
    if model is None:
        return None, uniform(np.zeros(available.shape), available), 0.0
    scores = model.predict(context)
    if policy.mellowness is None:
        return scores, *policy.decide(scores, available, learned)
    if not isinstance(model, LinearModel):
        raise ConfigError(
            f"mellowness is {policy.mellowness}, but only the oracle 'ridge' knows bounds of its predictions: use it, or none."
        )
    return scores, *policy.decide(scores, available, learned, model.half_width(context, policy.mellowness))


def learn(oracle: Oracle, log: BanditLog, weight_cap: float | None = None, seed: int = 0) -> Model:
    """ERM on a log: plain (the paper), or with importance weights min(1 / p, cap) of its propensities."""
    weights = None
    if weight_cap is not None:
        if log.propensity is None:
            raise ConfigError(
                f"{log.source} holds no propensities, which importance weights need: fit them first, or learn without weights."
            )
        if not weight_cap >= 1.0:
            raise ConfigError(f"weight_cap is {weight_cap}: weights 1 / p are at least 1, and so is their cap.")
        weights = np.minimum(1.0 / log.propensity, weight_cap)
    return oracle.fit(log.context, log.action, log.reward, weights, n_actions=log.K, action_features=log.action_features, seed=seed)


def calibration_error(predicted: np.ndarray, actual: np.ndarray, bins: int = 10) -> float:
    """Expected calibration error: |mean predicted - mean actual| in bins of equal counts of the prediction, averaged. Flat arrays."""
    parts = np.array_split(np.argsort(predicted, kind="stable"), min(bins, len(predicted)))
    return float(sum(abs(predicted[part].mean() - actual[part].mean()) * len(part) for part in parts) / len(predicted))


def model_quality(model: Model, holdout: Rounds) -> dict[str, float]:
    """Value of the model's greedy policy, how often it picks the best action, and its calibration, from true means."""
    scores = model.predict(holdout.context)
    played = np.take_along_axis(holdout.mean, best_action(scores, holdout.available)[:, None], 1)[:, 0]
    top = np.where(holdout.available, holdout.mean, -np.inf).max(1)
    return {
        "next_value": float(played.mean()),
        "next_best": float((played >= top).mean()),
        "next_calibration_error": calibration_error(scores[holdout.available], holdout.mean[holdout.available]),
    }


def log_quality(log: BanditLog, p: np.ndarray | None, scores: np.ndarray | None) -> dict[str, Any]:
    """Diagnostics of a log, of the policy `p` `[n, K]` on its rows, and of the deployed model's scores `[n, K]`."""
    rows, w = np.arange(len(log)), None if log.propensity is None else 1.0 / (log.available.sum(1) * log.propensity)
    return {
        "mean_reward": float(log.reward.mean()),
        "positive_rate": float((log.reward > 0.0).mean()),
        "non_greedy": None if p is None or scores is None else float(non_greedy(p, scores, log.available).mean()),
        "entropy": None if p is None else float(entropy(p).mean()),
        "ess": None if w is None else float(np.square(w.sum()) / np.square(w).sum() / len(w)),
        "calibration_error": None if scores is None else calibration_error(scores[rows, log.action], log.reward),
    }


# --- the loop, in a world ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Simulation:
    """What a simulation did: a row of diagnostics and a model for each generation, and the whole log."""

    diagnostics: tuple[Diagnostics, ...]
    log: BanditLog
    models: tuple[Model, ...]  # models[g] learned from the window that ends with batch g
    best_value: float  # of the best policy on the hold-out

    @property
    def values(self) -> np.ndarray:
        """Value of the greedy policy of each generation's next model, as a share of the best, `[G + 1]`."""
        return np.array([row.next_value for row in self.diagnostics], np.float64) / self.best_value


def simulate(
    world: World,
    policy: Explorer,
    oracle: Oracle,
    generations: int = 12,
    batch: int = 3000,
    delay: int = 0,
    window: int | None = 1,
    seed: int = 0,
    *,
    weight_cap: float | None = None,
    first: BanditLog | None = None,
    holdout: int = 10_000,
) -> Simulation:
    """Play the loop: generation 0 uniformly, then `generations` deployments of `batch` rounds each.

    `delay`: batches between logging and learning; until the first model has learned, the uniform policy plays on. `window`: past batches to
    learn from, None for all. `first`: a log to start from (a production rule's) instead of uniform rounds.
    `holdout`: rounds that models are judged on. Raises ConfigError and DataError.
    """
    check_loop(generations, batch)
    judged = world.holdout(holdout, stream(seed, 0, HOLDOUT))
    logs: list[BanditLog] = []
    models: list[Model] = []
    rows: list[Diagnostics] = []
    for g in watched(range(generations + 1), "generations"):
        known = arrived(g - 1, delay, None)
        model, learned = (models[known[-1]], _rows(logs, known[-1], window)) if known else (None, 0)
        if g == 0 and first is not None:
            logs.append(replace(first, generation=np.zeros(len(first), np.int64)))
            made = {"expected_reward": None, "strength": 0.0} | log_quality(logs[0], None, None)
        else:
            log, made = deploy(world, model, policy, learned, g, batch, seed)
            logs.append(log)
        models.append(learn(oracle, concatenate([logs[i] for i in arrived(g, 0, window)]), weight_cap, seed_of(seed, g, FIT)))
        rows.append(Diagnostics(generation=g, learned=learned, **made, **model_quality(models[-1], judged)))
    best = float(np.where(judged.available, judged.mean, -np.inf).max(1).mean())
    return Simulation(tuple(rows), concatenate(logs, "simulation"), tuple(models), best)


def deploy(
    world: World, model: Model | None, policy: Explorer, learned: int, generation: int, batch: int, seed: int
) -> tuple[BanditLog, dict[str, Any]]:
    """One batch of the policy in the world: its log, and what there is to say about it."""
    rounds = world.rounds(batch, stream(seed, generation, CONTEXTS))
    scores, p, strength = explore(model, policy, rounds.context, rounds.available, learned)
    action = draw(p, stream(seed, generation, ACTIONS))
    log = BanditLog(
        context=rounds.context,
        action=action,
        reward=pay(rounds, action, stream(seed, generation, REWARDS)),
        available=rounds.available,
        propensity=p[np.arange(batch), action],
        generation=np.full(batch, generation),
        actions=world.actions,
        features=world.features,
        source=f"generation {generation}",
    )
    expected = float((p * rounds.mean).sum(1).mean())
    return log, {"expected_reward": expected, "strength": strength} | log_quality(log, p, scores)


# --- the loop, along a log --------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Replay:
    """What a policy that had been retrained along a log would have done on the rows after the first model was ready."""

    log: BanditLog  # the rows that were judged
    probabilities: np.ndarray  # [n, K] of the policy on those rows: the target of off-policy estimators
    scores: np.ndarray  # [n, K] predictions of the model of the time, which never saw the row
    diagnostics: tuple[Diagnostics, ...]


def replay(
    log: BanditLog,
    policy: Explorer,
    oracle: Oracle,
    delay: int = 0,
    window: int | None = 1,
    seed: int = 0,
    *,
    weight_cap: float | None = None,
) -> Replay:
    """Retrain at every generation of a log on the `window` of generations before it, and let the policy choose on the generation's rows.

    The log stays what its own policy made of it: this answers what each deployed policy would have earned, not what it would have
    logged. Raises DataError for a log of too few generations.
    """
    stamps = np.unique(log.generation)
    if len(stamps) < 2 + delay:
        raise DataError(
            f"{log.source} holds {len(stamps)} generation{'s' if len(stamps) > 1 else ''}: retraining with delay {delay} needs at least "
            f"{2 + delay}; give a time or generation column, or cut the log into batches (in_batches)."
        )
    parts = [log.rows(log.generation == stamp) for stamp in stamps]
    judged, scored, chosen, rows = [], [], [], []
    for g in watched(range(1 + delay, len(parts)), "generations"):
        train = concatenate([parts[i] for i in arrived(g - 1, delay, window)])
        model = learn(oracle, train, weight_cap, seed_of(seed, g, FIT))
        scores, p, strength = explore(model, policy, parts[g].context, parts[g].available, len(train))
        assert scores is not None  # since there is a model
        unknown: dict[str, Any] = {"expected_reward": None, "next_value": None, "next_best": None, "next_calibration_error": None}
        made = log_quality(parts[g], p, scores)
        rows.append(Diagnostics(generation=int(stamps[g]), learned=len(train), strength=strength, **made, **unknown))
        judged.append(parts[g])
        scored.append(scores)
        chosen.append(p)
    return Replay(concatenate(judged, log.source), np.concatenate(chosen), np.concatenate(scored), tuple(rows))


def in_batches(log: BanditLog, batch: int) -> BanditLog:
    """The log in its order, every `batch` rows a generation; what is left at the end joins the last. Raises ConfigError."""
    if not 1 <= batch <= len(log):
        raise ConfigError(f"batch is {batch}: {log.source} has {len(log)} rows, of which a batch takes 1 to all.")
    return replace(log, generation=np.minimum(np.arange(len(log)) // batch, len(log) // batch - 1))


# --- what they share --------------------------------------------------------------------------------------------------


def stream(seed: int, generation: int, purpose: int) -> np.random.Generator:
    """The random numbers of one purpose in one generation, the same for every policy."""
    return np.random.default_rng(np.random.SeedSequence([seed, generation, purpose]))


def seed_of(seed: int, generation: int, purpose: int) -> int:
    return int(np.random.SeedSequence([seed, generation, purpose]).generate_state(1)[0] >> 1)


def check_loop(generations: int, batch: int) -> None:
    """Raises ConfigError for a loop without a deployment or without rounds."""
    if generations < 1:
        raise ConfigError(f"generations is {generations}: there is at least one deployment after the first log.")
    if batch < 1:
        raise ConfigError(f"batch is {batch}: a generation logs at least one round.")


def _rows(logs: Sequence[BanditLog], latest: int, window: int | None) -> int:
    """How many rows the model learned from whose window ends with batch `latest`."""
    return sum(len(logs[i]) for i in arrived(latest, 0, window))
