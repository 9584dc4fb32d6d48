"""A2PR's claim: on a log that is mostly bad, it is held back less than TD3+BC, because it does not imitate bad actions."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from surefoot.claims.base import Check, Claim, Context, Scores, difference
from surefoot.claims.fleets import FleetArm, Weights, full_scale, run_arms
from surefoot.data.batches import Transitions
from surefoot.data.log import Log
from surefoot.evaluation.offline import discounted_returns
from surefoot.methods.base import Method
from surefoot.methods.offline.a2pr import A2PR, A2PRConfig
from surefoot.methods.offline.td3_bc import TD3BC, TD3BCConfig
from surefoot.recipes.pendulum import ENV_ID, GOOD_RETURN, RANDOM_RETURN, mixed_log, normalised

WIDTHS = (64, 64)
"""Every network of every arm in the miniature."""


class UnmaskedA2PR(A2PR):
    """Ablation: the CVAE reconstructs all logged actions, also those of negative advantage."""

    def learn_vae(self, t: Transitions, advantage: Tensor) -> dict[str, Tensor]:
        return super().learn_vae(t, torch.ones_like(advantage))


def run(context: Context) -> Scores:
    if context.scale == "full":
        arms = [FleetArm("td3_bc", TD3BC, TD3BCConfig()), FleetArm("a2pr", A2PR, A2PRConfig())]
        return full_scale(context, arms, "hopper-medium-v2.hdf5")
    small = A2PRConfig(hidden=WIDTHS, critic_hidden=WIDTHS, vae_hidden=WIDTHS)
    arms = [
        FleetArm("td3_bc", TD3BC, TD3BCConfig(hidden=WIDTHS)),
        FleetArm("a2pr", A2PR, small),
        FleetArm("a2pr_unmasked", UnmaskedA2PR, small),
    ]
    outcomes = run_arms(context, arms, log_of=mixed_log, steps=8_000, env_id=ENV_ID, observe=partial(mean_q, gamma=0.99))
    logs = [outcomes["td3_bc"].observed["log"][i] for i in range(len(context.seeds))]
    context.facts["log fingerprints"] = dict(zip(context.keys, (log["fingerprint"] for log in logs), strict=True))
    return {
        "score": {name: context.arm(normalised(outcome.returns.mean(-1))) for name, outcome in outcomes.items()}
        | {"behaviour": context.arm([normalised(np.array(log["return"])) for log in logs])},
        "overestimation": {name: context.arm(outcome.observed["excess"]) for name, outcome in outcomes.items()},
    }


def mean_q(method: Method, logs: Sequence[Log], weights: Weights, gamma: float) -> dict[str, Any]:
    """Mean Q1(s_0, pi(s_0)) minus the discounted return that the policy really gets from there, one number a member.

    The start states are those of 50 fresh episodes; the time limit cuts the real sum off after 200 steps, where 0.99^200 = 0.13 of
    the horizon is left, so that a correct critic of this task (rewards are negative) is expected below it, not above.
    """
    from surefoot.evaluation.recording import record

    assert isinstance(method, A2PR | TD3BC)
    excess = []
    for member in range(method.copies[0]):
        played = record(method.policy.member(member), ENV_ID, episodes=50, seed=7)
        starts = played.transitions.obs[torch.from_numpy(played.episode_starts)].expand(*method.copies, -1, -1)
        with torch.no_grad():
            s = method.normaliser(starts)
            q = method.critic.first(s, method.policy.unit(s))[member]
        excess.append(float(q.mean()) - float(discounted_returns(played, gamma).mean()))
    about = [{"fingerprint": log.fingerprint, "return": float(log.episode_returns.mean())} for log in logs]
    return {"excess": excess, "log": about}


def checks(scores: Scores) -> list[Check]:
    better = difference(
        scores,
        "score",
        "a2pr",
        "td3_bc",
        name="better",
        statement="A2PR scores more than 20 points above TD3+BC on a mostly-bad log",
        threshold=20.0,
    )
    if "a2pr_unmasked" not in scores["score"]:
        return [better]
    return [
        better,
        difference(
            scores,
            "score",
            "a2pr",
            "a2pr_unmasked",
            name="mask",
            statement="the advantage mask of the CVAE helps: A2PR above A2PR with a CVAE of all logged actions",
            required=False,
            same_seeds=True,
        ),
        difference(
            scores,
            "overestimation",
            "td3_bc",
            "a2pr",
            name="overestimation",
            statement="A2PR's critic exceeds the discounted return of its policy by less than TD3+BC's",
            required=False,
            same_seeds=True,
        ),
    ]


CLAIM = Claim(
    slug="a2pr",
    title="Adaptive Advantage-Guided Policy Regularization (A2PR)",
    statement="On a log that is mostly bad, A2PR learns a far better policy than TD3+BC with the same alpha, networks and steps.",
    seeds=5,
    arms={
        "td3_bc": "TD3+BC, alpha 2.5",
        "a2pr": "A2PR, alpha 2.5, mask 1, VAE weight 1",
        "a2pr_unmasked": "A2PR whose VAE models all logged actions",
        "behaviour": "mean return of the log itself",
    },
    panels={
        "score": f"mean return of 50 episodes at the last step, 0 = random ({RANDOM_RETURN:g}), 100 = controller ({GOOD_RETURN:g})",
        "overestimation": "mean Q1(s0, pi(s0)) minus the policy's discounted return from there, in units of reward",
    },
    scales={
        "small": "Pendulum, 45 random and 5 good episodes, 8,000 steps, all networks 2 x 64, batch 256; each seed makes its own log.",
        "full": "A D4RL log (--data), the paper's networks, 1,000,000 steps; the paper tunes alpha, mask, VAE weight and gamma by task.",
    },
    run=run,
    checks=checks,
)
