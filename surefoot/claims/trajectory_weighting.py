"""The claim of trajectory weighting: changing only the sampler lets offline methods exploit the few good episodes of a mixed log."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from surefoot.claims.base import Check, Claim, Context, Scores, difference, per_seed, stated
from surefoot.claims.fleets import FleetArm, FleetOutcome, Weights, full_scale, run_arms
from surefoot.data.log import Log
from surefoot.data.weighting import transition_weights, weighting_report
from surefoot.evaluation.statistics import mean_interval
from surefoot.methods.base import Method
from surefoot.methods.offline.iql import IQL, IQLConfig
from surefoot.methods.offline.td3_bc import TD3BC, TD3BCConfig
from surefoot.recipes.pendulum import ENV_ID, mixed_log, normalised

KINDS = {"uniform": None, "aw": "aw", "rw": "rw", "top10": "topk"}
"""Arms, and the sampling weights they draw with."""

SHARES = (0, 1, 5, 25)
"""Good episodes among fifty, in the part on the variance of returns."""

RANGE = 100.0
"""The score range, of which a tenth is granted where AW must reach the return of its weighted log."""


def run(context: Context) -> Scores:
    if context.scale == "full":
        return full_scale(context, arms(TD3BC, TD3BCConfig()), "hopper-medium-replay-v2.hdf5")
    small: dict[str, Any] = {"log_of": mixed_log, "steps": 8_000, "env_id": ENV_ID, "observe": about_weights}
    td3_bc = run_arms(context, arms(TD3BC, TD3BCConfig(hidden=(64, 64))), **small)
    iql = run_arms(context, arms(IQL, IQLConfig(hidden=(64, 64))), **small)
    scores: Scores = {
        "td3_bc": {name: context.arm(score(outcome)) for name, outcome in td3_bc.items()},
        "iql": {name: context.arm(score(outcome)) for name, outcome in iql.items()},
        "weighted log": {name: context.arm(normalised(np.array(td3_bc[name].observed["weighted_return"]))) for name in KINDS},
        "effective sample size": {name: context.arm(td3_bc[name].observed["ess"]) for name in KINDS},
        "gain by share": {},
        "variance by share": {},
    }
    few = context.seeds[:2]
    for good in SHARES:
        pair = [arm for arm in arms(TD3BC, TD3BCConfig(hidden=(64, 64))) if arm.name in ("uniform", "aw")]
        part = run_arms(context, pair, **small | {"log_of": partial(mixed_log, good=good, random=50 - good)}, seeds=few)
        keys = [str(seed) for seed in few]
        gain = score(part["aw"]) - score(part["uniform"])
        scores["gain by share"][f"{2 * good}%"] = dict(zip(keys, gain.tolist(), strict=True))
        scores["variance by share"][f"{2 * good}%"] = dict(zip(keys, part["aw"].observed["psv"], strict=True))
    return scores


def arms(method: type[Method], config: Any) -> list[FleetArm]:
    """The four samplers under one learner."""
    drawn = {name: None if kind is None else partial(transition_weights, kind=kind) for name, kind in KINDS.items()}
    return [FleetArm(name, method, config, weights) for name, weights in drawn.items()]


def score(outcome: FleetOutcome) -> np.ndarray:
    """Normalised mean return of each member."""
    return normalised(outcome.returns.mean(-1))


def about_weights(method: Method, logs: Sequence[Log], weights: Weights) -> dict[str, Any]:
    """Return of the weighted log J_w, mass on its best tenth of episodes, effective sample size, and the variance of returns."""
    reports = []
    for i, log in enumerate(logs):
        p = weights[i] if weights is not None else transition_weights(log, "uniform")
        reports.append(weighting_report(log, p))
    return {name: [getattr(report, name) for report in reports] for name in ("weighted_return", "ess", "psv")}


def checks(scores: Scores) -> list[Check]:
    if "td3_bc" not in scores:  # the full scale
        return [
            difference(
                scores, "score", arm, "uniform", name=arm, statement=f"TD3+BC with {arm.upper()} exceeds TD3+BC with uniform sampling"
            )
            for arm in ("aw", "rw")
        ]
    gains = [
        difference(
            scores,
            panel,
            arm,
            "uniform",
            name=f"{arm} {panel}",
            statement=f"{words} with {arm.upper()} sampling scores more than 30 points above uniform sampling",
            threshold=30.0,
            required=panel == "td3_bc",
        )
        for panel, words in (("td3_bc", "TD3+BC"), ("iql", "IQL"))
        for arm in ("aw", "rw")
    ]
    reached = per_seed(scores, "td3_bc", "aw") - per_seed(scores, "weighted log", "aw")
    over = mean_interval(reached)
    shares = list(scores["gain by share"])
    rank = spearmanr(
        [np.mean(list(scores["variance by share"][share].values())) for share in shares],
        [np.mean(list(scores["gain by share"][share].values())) for share in shares],
    ).statistic
    return [
        *gains,
        stated(
            "exploits",
            "TD3+BC with AW reaches the return of its weighted log, less a tenth of the score range",
            "td3_bc",
            over.value,
            over.value >= -0.1 * RANGE,
            threshold=-0.1 * RANGE,
            interval=over,
        ),
        stated(
            "variance",
            "over four shares of good episodes the gain of AW ranks with the positive-sided variance of returns",
            "gain by share",
            float(rank),
            bool(rank > 0.0),
            threshold=0.0,
            required=False,
        ),
    ]


CLAIM = Claim(
    slug="trajectory-weighting",
    title="Trajectory weighting (RW/AW)",
    statement="On a log of nine tenths random and one tenth good episodes, TD3+BC with AW or RW sampling far exceeds uniform sampling.",
    seeds=5,
    arms={
        "uniform": "every transition alike",
        "aw": "weights by the advantage of the episode over its start state, temperature 0.1",
        "rw": "weights by the episode's return, temperature 0.1",
        "top10": "the best tenth of the episodes alone",
        **{f"{2 * good}%": f"{good} good episodes of fifty" for good in SHARES},
    },
    panels={
        "td3_bc": "normalised score of TD3+BC at the last step (0 = random, 100 = controller)",
        "iql": "the same of IQL",
        "weighted log": "normalised return of the weighted log, J_w",
        "effective sample size": "1 / sum p^2, of 10,000 transitions",
        "gain by share": "AW minus uniform, by the share of good episodes, two seeds",
        "variance by share": "positive-sided variance of the log's returns, by the share of good episodes",
        "score": "D4RL-normalised score",
    },
    scales={
        "small": "Pendulum, 45 random and 5 good episodes, 8,000 steps, 2 x 64, batch 256, TD3+BC and IQL; four shares of good episodes.",
        "full": "A D4RL log (--data) with the paper's networks and TD3+BC, 1,000,000 steps.",
    },
    run=run,
    checks=checks,
)
