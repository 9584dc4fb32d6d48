"""PRDC's claim: it may use actions that were never logged at the state at hand, which TD3+BC may not, and stays conservative."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch

from surefoot.claims.base import Check, Claim, Context, Scores, difference, stated, table
from surefoot.claims.fleets import FleetArm, Weights, full_scale, run_arms, seed_of
from surefoot.data.log import Log
from surefoot.envs.line import GOAL
from surefoot.evaluation.rollouts import play
from surefoot.methods.base import Method
from surefoot.methods.offline.prdc import PRDC, PRDCConfig
from surefoot.methods.offline.td3 import TD3, TD3Config
from surefoot.methods.offline.td3_bc import TD3BC, TD3BCConfig
from surefoot.recipes import line, pendulum

GRID = np.linspace(0.0, 10.0, 101)
"""States of the line at which policies are compared."""

WIDE = 1e6
"""A weight of states in the metric at which the nearest pair is the logged pair itself."""


def run(context: Context) -> Scores:
    if context.scale == "full":
        arms = [FleetArm("td3_bc", TD3BC, TD3BCConfig()), FleetArm("prdc", PRDC, PRDCConfig())]
        return full_scale(context, arms, "hopper-medium-v2.hdf5")
    return line_panels(context) | pendulum_panels(context)


def line_panels(context: Context) -> Scores:
    """Success on the line, and the policies themselves on a grid of states."""
    common: dict[str, Any] = {"alpha": 1.0, "gamma": 0.9, "hidden": (32, 32)}
    arms = [
        FleetArm("td3_bc", TD3BC, TD3BCConfig(**common)),
        FleetArm("prdc", PRDC, PRDCConfig(beta=2.0, **common)),
        FleetArm("prdc_wide", PRDC, PRDCConfig(beta=WIDE, **common)),
    ]
    watch = partial(on_the_line, seed=seed_of(context.seeds, "evaluation"))
    outcomes = run_arms(context, arms, log_of=line.barred_log, steps=2_000, observe=watch)
    return {
        "line success": {name: context.arm(outcome.observed["success"]) for name, outcome in outcomes.items()},
        "line actions": {name: context.arm(outcome.observed["actions"]) for name, outcome in outcomes.items()},
    }


def on_the_line(method: Method, logs: Sequence[Log], weights: Weights, seed: int) -> dict[str, Any]:
    """Share of 100 episodes that end at x >= 9, and the greedy action at each state of the grid; one row a member."""
    steps = list(play(method.policy, line.ENV_ID, 100, seed=seed))
    final = steps[-1].next_obs[..., 0]  # all episodes have the same length
    grid = torch.tensor(GRID, dtype=torch.float32).reshape(-1, 1).expand(*method.copies, -1, -1)
    with torch.no_grad():
        actions, _ = method.policy.act(grid)
    return {"success": (final >= GOAL).mean(-1).tolist(), "actions": actions.squeeze(-1).tolist()}


def pendulum_panels(context: Context) -> Scores:
    """Two checks of conservatism: ten near-deterministic good episodes, and a log that is mostly bad."""
    widths: dict[str, Any] = {"hidden": (64, 64)}
    narrow = run_arms(
        context,
        [FleetArm("td3", TD3, TD3Config(**widths)), FleetArm("prdc", PRDC, PRDCConfig(beta=2.0, **widths))],
        log_of=partial(pendulum.mixed_log, good=10, random=0, noise=0.1),
        steps=6_000,
        env_id=pendulum.ENV_ID,
    )
    mixed = run_arms(
        context,
        [FleetArm("td3_bc", TD3BC, TD3BCConfig(**widths)), FleetArm("prdc", PRDC, PRDCConfig(beta=2.0, **widths))],
        log_of=pendulum.mixed_log,
        steps=8_000,
        env_id=pendulum.ENV_ID,
    )
    return {
        panel: {name: context.arm(pendulum.normalised(outcome.returns.mean(-1))) for name, outcome in outcomes.items()}
        for panel, outcomes in (("narrow log", narrow), ("mixed log", mixed))
    }


def checks(scores: Scores) -> list[Check]:
    if "line success" not in scores:  # the full scale
        better = difference(scores, "score", "prdc", "td3_bc", name="better", statement="PRDC's D4RL score exceeds TD3+BC's")
        return [better]
    apart = np.abs(table(scores, "line actions", "prdc_wide") - table(scores, "line actions", "td3_bc"))
    return [
        difference(
            scores,
            "line success",
            "prdc",
            "td3_bc",
            name="borrowing",
            statement="PRDC crosses the band where the log never moves right at least 0.5 more often than TD3+BC",
            threshold=0.5,
        ),
        stated(
            "limit",
            "with beta = 1e6 PRDC is TD3+BC: the largest difference of the policies on a grid of states, over all seeds, is below 0.05",
            "line actions",
            float(apart.max()),
            bool(apart.max() < 0.05),
            threshold=0.05,
        ),
        difference(
            scores,
            "narrow log",
            "prdc",
            "td3",
            name="conservative",
            statement="on ten good episodes alone PRDC scores above TD3 without a regulariser",
            required=False,
        ),
        difference(
            scores,
            "mixed log",
            "prdc",
            "td3_bc",
            name="mixed",
            statement="on a mostly-bad Pendulum log PRDC scores above TD3+BC",
            required=False,
        ),
    ]


CLAIM = Claim(
    slug="prdc",
    title="Policy Regularization with Dataset Constraint (PRDC)",
    statement="PRDC uses good actions that were logged at nearby states only, which TD3+BC cannot, and stays close to the data.",
    seeds=5,
    arms={
        "td3_bc": "TD3+BC",
        "prdc": "PRDC, beta 2",
        "prdc_wide": "PRDC, beta 1e6, which should be TD3+BC",
        "td3": "TD3 without a regulariser",
    },
    panels={
        "line success": "share of 100 episodes that reach x >= 9",
        "line actions": "greedy action at 101 states from 0 to 10",
        "narrow log": "normalised score on Pendulum after 10 good episodes (0 = random, 100 = controller)",
        "mixed log": "normalised score on Pendulum after 45 random and 5 good episodes",
        "score": "D4RL-normalised score",
    },
    scales={
        "small": "A line world, 6,000 rows (2,000 steps, 2 x 32, alpha 1), and two Pendulum logs (6,000 and 8,000 steps, 2 x 64).",
        "full": "A D4RL log (--data) with the paper's networks, 1,000,000 steps; the paper tunes alpha and beta by task.",
    },
    run=run,
    checks=checks,
)
