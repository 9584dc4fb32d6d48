"""The claim about bandits in payment processing: exploration from a regression oracle earns more at once, and costs the next model."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from surefoot.claims.base import LEVEL, Check, Claim, Context, Scores, derived, finite_ends, per_seed, table
from surefoot.data.bandit_files import read_bandit_log
from surefoot.data.bandit_log import BanditLog, concatenate
from surefoot.envs.bandits import Payments, Table, World
from surefoot.errors import ConfigError, DataError
from surefoot.evaluation.off_policy import importance_weights, snips_terms
from surefoot.evaluation.statistics import paired
from surefoot.methods.exact.adyen_bandits import FIT, HOLDOUT, deploy, learn, model_quality, replay, seed_of, simulate, stream
from surefoot.methods.exact.exploration import Explorer
from surefoot.methods.exact.regression_oracles import oracle
from surefoot.training.engines import run_tasks

EPSILONS = (0.1, 0.3)
"""Epsilon-greedy arms; IGW and softmax are matched to the probability with which each of them explores."""

GENERATIONS, LONG_SEEDS = 12, 3
LONG = {"uniform": Explorer("uniform"), "epsilon 0.1": Explorer("epsilon-greedy", epsilon=0.1), "igw 500": Explorer("igw", gamma=500.0)}
"""The runs of many generations, in which an oscillation would show."""

REPAIRS = {
    "weights": "importance weights up to 20 repair the model from IGW's log",
    "two batches": "a window of two batches repairs the model from IGW's log",
}
"""Corrections that the paper does not claim."""

BATCH, HELD_OUT, CAP = 3000, 10_000, 20.0


def run(context: Context) -> Scores:
    if context.scale == "full":
        return full_scale(context)
    outcomes = each_seed(context, two_generations_of_payments, context.seeds, "two generations")
    runs = each_seed(context, many_generations, context.seeds[:LONG_SEEDS], f"{GENERATIONS} generations")
    return panels(context.seeds, outcomes) | {
        "generations": {arm: {str(s): run[arm].tolist() for s, run in zip(context.seeds, runs, strict=False)} for arm in LONG},
        "lag-1 autocorrelation": {arm: {str(s): lag_one(run[arm]) for s, run in zip(context.seeds, runs, strict=False)} for arm in LONG},
    }


def each_seed(context: Context, function: Any, seeds: list[int], what: str) -> list[Any]:
    return run_tasks(function, seeds, jobs=context.jobs, done=lambda i, seed: context.say(f"{what}: seed {seed}, {i + 1} of {len(seeds)}"))


def panels(seeds: list[int], outcomes: list[dict[str, dict[str, float]]]) -> Scores:
    """`{panel: {arm: {seed: value}}}` of the outcomes `{panel: {arm: value}}` of each seed."""
    return {
        panel: {arm: {str(seed): outcome[panel][arm] for seed, outcome in zip(seeds, outcomes, strict=True)} for arm in arms}
        for panel, arms in outcomes[0].items()
    }


# --- two generations --------------------------------------------------------------------------------------------------


def two_generations_of_payments(seed: int) -> dict[str, dict[str, float]]:
    return two_generations(Payments.drawn(derived(seed, "data")), seed)


def two_generations(world: World, seed: int) -> dict[str, dict[str, float]]:
    """`{panel: {arm: value}}`: M1 learns from uniform rounds, each arm plays from M1, and its M2 learns from its log alone.

    Arms share contexts and luck round by round.
    """
    training, judged = derived(seed, "training"), world.holdout(HELD_OUT, stream(derived(seed, "evaluation"), 0, HOLDOUT))
    trees, uniform = oracle("boosting"), Explorer("uniform")
    start, _ = deploy(world, None, uniform, 0, 0, BATCH, training)
    m1 = learn(trees, start, seed=seed_of(training, 0, FIT))
    learned = partial(learn, trees, seed=seed_of(training, 1, FIT))
    out: dict[str, dict[str, float]] = {panel: {} for panel in ("reward", "value", "positive rate", "exploration", "strength", "corrected")}
    out["value"]["M1"] = model_quality(m1, judged)["next_value"]

    def play(arm: str, policy: Explorer) -> BanditLog:
        log, made = deploy(world, m1, policy, BATCH, 1, BATCH, training)
        out["reward"][arm] = made["expected_reward"]
        out["positive rate"][arm], out["exploration"][arm], out["strength"][arm] = (
            made["positive_rate"],
            made["non_greedy"],
            made["strength"],
        )
        out["value"][arm] = model_quality(learned(log), judged)["next_value"]
        return log

    play("uniform", uniform)
    play("greedy", Explorer("greedy"))
    for epsilon in EPSILONS:
        play(f"epsilon {epsilon}", Explorer("epsilon-greedy", epsilon=epsilon))
        mass = out["exploration"][f"epsilon {epsilon}"]
        play(f"softmax {epsilon}", Explorer("softmax", mass=mass))
        log = play(f"igw {epsilon}", Explorer("igw", mass=mass))
        repaired = {"weights": learned(log, weight_cap=CAP), "two batches": learned(concatenate([start, log]))}
        for name, model in repaired.items():
            out["corrected"][f"igw {epsilon}, {name}"] = model_quality(model, judged)["next_value"]
    return out


def many_generations(seed: int) -> dict[str, np.ndarray]:
    """Value of each generation's next model as a share of the best policy's, by arm, `[G + 1]`."""
    world, training = Payments.drawn(derived(seed, "data")), derived(seed, "training")
    return {arm: simulate(world, policy, oracle("boosting"), GENERATIONS, BATCH, seed=training).values for arm, policy in LONG.items()}


def lag_one(values: np.ndarray) -> float:
    """Correlation of a generation's value with the next one's; below zero where better and worse take turns."""
    return float(np.corrcoef(values[:-1], values[1:])[0, 1])


# --- the user's own log -----------------------------------------------------------------------------------------------


def full_scale(context: Context) -> Scores:
    """On a log of one's own: each seed has its own share of the rows, so that seeds are independent.

    `logged reward`: what daily retraining with each policy would have earned, from the log by SNIPS. The other panels are those of the
    small scale, in a world whose contexts and available actions are the log's, and whose mean rewards are a boosted model of it.
    """
    log = read_bandit_log(context.logs("payments.parquet"))
    if log.propensity is None:
        raise ConfigError(f"{log.source} holds no propensities, which the full scale needs: log them, or fit them first.")
    if not np.isin(log.reward, (0.0, 1.0)).all():
        raise DataError(f"{log.source} holds rewards other than 0 and 1: the full scale is about an outcome that is there or not.")
    share = stream(derived(context.seeds[0], "data"), 0, FIT).permutation(np.arange(len(log)) % len(context.seeds))
    if len(log) < 1000 * len(context.seeds):
        raise DataError(f"{log.source} has {len(log)} rows: the full scale needs 1000 a seed; give more rows, or fewer seeds (--seeds).")
    tasks = [(seed, log.rows(share == i)) for i, seed in enumerate(context.seeds)]
    outcomes = run_tasks(on_a_log, tasks, jobs=context.jobs, done=lambda i, task: context.say(f"seed {task[0]}: {len(task[1])} rows"))
    context.notes.append("Each seed had its own share of the log's rows; the world of the value panels is a boosted model of that share.")
    return panels(context.seeds, outcomes)


def on_a_log(task: tuple[int, BanditLog]) -> dict[str, dict[str, float]]:
    """The panels of one seed's share of a log."""
    seed, log = task
    training, trees = derived(seed, "training"), oracle("boosting")
    k = log.available.sum(1)
    arms = {"uniform": Explorer("uniform"), "greedy": Explorer("greedy")}
    for epsilon in EPSILONS:
        arms[f"epsilon {epsilon}"] = Explorer("epsilon-greedy", epsilon=epsilon)
        for kind in ("softmax", "igw"):
            arms[f"{kind} {epsilon}"] = Explorer(kind, mass=float(epsilon * (1.0 - 1.0 / k).mean()))
    logged = {}
    for arm, policy in arms.items():
        played = replay(log, policy, trees, seed=training)
        assert played.log.propensity is not None  # the whole log has them
        w = importance_weights(played.probabilities, played.log.action, played.log.propensity)
        logged[arm] = float(snips_terms(played.log.reward, w).mean())
    means = np.clip(learn(trees, log, seed=training).predict(log.context), 0.0, 1.0)
    world = Table(log.context, means, log.actions, log.features, log.available, seed=derived(seed, "evaluation"))
    return {"logged reward": logged} | two_generations(world, seed)


# --- the verdict ------------------------------------------------------------------------------------------------------


def checks(scores: Scores) -> list[Check]:
    found = []
    for epsilon in EPSILONS:
        igw, eps = f"igw {epsilon}", f"epsilon {epsilon}"
        found += [
            exceeds(scores, "reward", igw, eps, f"IGW earns more at once than epsilon-greedy {epsilon} at equal exploration"),
            exceeds(scores, "reward", igw, "uniform", f"IGW {epsilon} earns more at once than the uniform policy"),
            exceeds(
                scores, "value", "M1", igw, f"the model that learns from IGW's log ({epsilon}) is worse than the model IGW played from"
            ),
            exceeds(scores, "positive rate", igw, "uniform", f"IGW's log ({epsilon}) holds more positives than the uniform log"),
            exceeds(
                scores, "value", eps, igw, f"the model from IGW's log is worse than that from epsilon-greedy {epsilon}", required=False
            ),
            *(
                exceeds(scores, "corrected", f"{igw}, {name}", igw, f"{words} ({epsilon})", required=False, baseline_panel="value")
                for name, words in REPAIRS.items()
            ),
        ]
        if "logged reward" in scores:
            found.append(exceeds(scores, "logged reward", igw, eps, f"by the log's SNIPS estimate IGW {epsilon} earns more than {eps}"))
    if "generations" in scores:
        found.append(oscillation(scores, "igw 500", "uniform"))
    return found


def exceeds(
    scores: Scores, panel: str, arm: str, baseline: str, statement: str, *, required: bool = True, baseline_panel: str | None = None
) -> Check:
    """`arm` lies above `baseline`: the two-sided 95 % interval of the paired difference over seeds is above zero."""
    result = paired(per_seed(scores, panel, arm), per_seed(scores, baseline_panel or panel, baseline))
    return Check(
        name=f"{panel}: {arm} > {baseline}",
        statement=statement,
        panel=panel,
        value=result.difference,
        ci95=finite_ends(result.low, result.high),
        test=result.test,
        p=result.p,
        threshold=0.0,
        required=required,
        holds=bool(result.low > 0.0 and result.p < LEVEL),
    )


def oscillation(scores: Scores, arm: str, baseline: str) -> Check:
    """The greedy value moves more from one generation to the next than under uniform logs, where only fresh data move it.

    Reported, not required: the paper calls the oscillation potential.
    """
    moves, still = (np.abs(np.diff(table(scores, "generations", name), axis=1)).mean(1) for name in (arm, baseline))
    result = paired(moves, still)
    statement = (
        f"over {GENERATIONS} generations the value of the next model changes more from one to the next under {arm} than under {baseline}"
    )
    ci95 = finite_ends(result.low, result.high)
    holds = bool(result.low > 0.0)
    return Check("oscillation", statement, "generations", result.difference, ci95, result.test, result.p, 0.0, False, holds)


ARMS = {
    "uniform": "every available action alike",
    "greedy": "the first model's best action",
    **{f"epsilon {e}": f"epsilon-greedy with {e}" for e in EPSILONS},
    **{f"igw {e}": f"inverse gap weighting (SquareCB) that explores as often as epsilon-greedy {e}" for e in EPSILONS},
    **{f"softmax {e}": f"softmax that explores as often as epsilon-greedy {e}" for e in EPSILONS},
    "M1": "the model that all arms play from",
    **{f"igw {e}, weights": f"the model from the log of igw {e}, importance weights up to {CAP:g}" for e in EPSILONS},
    **{f"igw {e}, two batches": f"the model from the uniform log and the log of igw {e}" for e in EPSILONS},
    "igw 500": "inverse gap weighting, gamma 500",
}

CLAIM = Claim(
    slug="adyen-bandits",
    title="Adyen bandits",
    statement="Exploration by an oracle's gaps earns more at once than uniform exploration, and the next model is worse for it.",
    seeds=16,
    arms=ARMS,
    panels={
        "reward": "expected reward of generation 1, from true means",
        "value": "expected reward of the greedy policy of the model that learned from the arm's log, on 10,000 fresh rounds",
        "positive rate": "share of rewards above 0 in the log of generation 1",
        "exploration": "mean probability of an action other than the model's best in generation 1",
        "strength": "the policy's epsilon, temperature or gamma",
        "corrected": "the value of the next model, with a correction that the paper does not claim",
        "generations": f"greedy value as a share of the best, after each of {GENERATIONS} generations, {LONG_SEEDS} seeds",
        "lag-1 autocorrelation": "of that value from one generation to the next",
        "logged reward": "mean reward that the log says daily retraining would have earned, SNIPS",
    },
    scales={
        "small": "Payments (8 features, 6 routes, each available with 0.8): 3,000 uniform rounds, 3,000 of each arm, boosting, window 1.",
        "full": "A payment log of one's own (--data): context, available actions, action, propensity, outcome, time; retrained daily.",
    },
    run=run,
    checks=checks,
)
