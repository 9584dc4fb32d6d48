"""CoPG's claim: from pairs that anything drew, it finds the KL-regularised optimum that other off-policy losses miss."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

import numpy as np
from torch import Tensor

from surefoot.claims.base import Check, Claim, Context, Scores, difference, per_seed, stated
from surefoot.claims.fleets import ArmTask
from surefoot.claims.off_policy_pairs import BETA, Rows, Sequences, World, generators, mis_centred, shuffled, three_arms
from surefoot.errors import ConfigError
from surefoot.evaluation.statistics import mean_interval
from surefoot.methods.language import losses
from surefoot.nn.optimise import adam, descend
from surefoot.nn.schedules import scale_rates_
from surefoot.training.engines import run_tasks

TOY, PAPER, PROMPTS, SEQUENCES = "three arms", "three arms, paper's rate", "prompts", "sequences"
CLIPPED = 1.2  # largest importance weight of the arms that clip it

LIMITS = {"copg": 0.0, "ipo": 0.152531, "pg, no baseline": 0.637793, "pg, value": 0.014817}
"""Regret of the toy's arms where there are infinitely many pairs; a test computes them."""


# --- arms -------------------------------------------------------------------------------------------------------------

Loss: TypeAlias = Callable[[Rows], Tensor]
"""Loss of each pair, `[F, B]`."""

Baseline: TypeAlias = Callable[[Rows], Tensor | float]
"""What is taken off R_b: a number, or something that broadcasts against `[F, B, 2]`."""


def contrast(rows: Rows) -> Tensor:
    reward = rows.pairs.reward
    return losses.copg(rows.contrast, reward[..., 0] - reward[..., 1], BETA)


def policy_gradient(rows: Rows, baseline: Baseline, largest: float | None = None) -> Tensor:
    """-sum of both responses' [w (R_b - b)] log pi, the bracket without gradient, where w is 1, or pi / mu up to `largest`."""
    advantage = rows.regularised - baseline(rows)
    if largest is not None:
        advantage = (rows.logp - rows.pairs.behaviour).exp().clamp(max=largest) * advantage
    return -(advantage.detach() * rows.logp).sum(-1)


def no_baseline(rows: Rows) -> float:
    return 0.0


def batch_mean(rows: Rows) -> Tensor:
    """Mean R_b of the batch, `[F, 1, 1]`."""
    return rows.regularised.mean((-2, -1), keepdim=True)


def prompt_mean(rows: Rows) -> Tensor:
    """Mean reward of the prompt's responses in the data, `[F, B, 1]`."""
    return rows.pairs.prompt_mean[..., None]


def value_of_reward(rows: Rows) -> Tensor:
    """Exact E_pi[R], the paper's toy's."""
    return rows.values()[0][..., None]


def value(rows: Rows) -> Tensor:
    """Exact E_pi[R_b]."""
    return rows.values()[1][..., None]


BASELINES: dict[str, Baseline] = {"no baseline": no_baseline, "batch mean": batch_mean, "prompt mean": prompt_mean}
WEIGHTS = {"": None, ", pi/mu": float("inf"), ", pi/mu clipped": CLIPPED}
BASELINES_SAID = {
    "no baseline": "R_b as it is",
    "batch mean": "R_b less its mean in the batch",
    "prompt mean": "R_b less the prompt's mean reward in the data",
}
WEIGHTS_SAID = {
    "": "",
    ", pi/mu": ", weighted by pi / mu, for which who drew them has to be known",
    ", pi/mu clipped": f", weighted by pi / mu, at most {CLIPPED}",
}
OFFLINE: dict[str, Loss] = {
    "copg": contrast,
    "ipo": lambda rows: losses.ipo(rows.margin),
    "dpo": lambda rows: losses.dpo(rows.margin),
    **{f"pg, {b}{w}": partial(policy_gradient, baseline=BASELINES[b], largest=WEIGHTS[w]) for w in WEIGHTS for b in BASELINES},
}
ON_POLICY, REFERENCE = "pg, on-policy", "reference"
ALL_ARMS: dict[str, Loss] = {
    **OFFLINE,
    "pg, value": partial(policy_gradient, baseline=value_of_reward),
    ON_POLICY: partial(policy_gradient, baseline=value),
}
ARMS = {
    TOY: tuple(LIMITS),
    PAPER: tuple(LIMITS),
    PROMPTS: (*OFFLINE, ON_POLICY, REFERENCE),
    SEQUENCES: ("copg", "dpo", "ipo", "pg, no baseline", ON_POLICY, REFERENCE),
}


# --- learning ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Setting:
    """How all arms of a panel learn: with Adam from the reference, on as many pairs."""

    world: Callable[[tuple[int, ...]], World]
    pairs: int
    batch: int
    steps: int
    lr: float
    decay: bool = False  # linearly to 0
    max_norm: float | None = None


SETTINGS = {
    TOY: Setting(three_arms, 10_000, 512, 100 * 10_000 // 512, 1e-2),
    PAPER: Setting(three_arms, 10_000, 512, 100 * 10_000 // 512, 1e-3),
    PROMPTS: Setting(mis_centred, 20_000, 256, 3000, 2e-2, decay=True, max_norm=10.0),
    SEQUENCES: Setting(Sequences, 50_000, 256, 1500, 2e-2, decay=True, max_norm=10.0),
}


def run(context: Context) -> Scores:
    if context.scale == "full":
        raise ConfigError(
            "the full scale aligns a model of yours on scored completions: `surefoot align copg --model MODEL --data SCORED.jsonl`,"
            " ipo and dpo on pairs of them, and then `surefoot compare` for reward and KL."
        )
    tasks = [ArmTask(arm, tuple(context.seeds), panel) for panel in ARMS for arm in ARMS[panel]]
    gaps = run_tasks(trained, tasks, jobs=context.jobs, done=lambda i, task: context.say(f"{task.setting}: {task.arm}"))
    scores: Scores = {panel: {} for panel in ARMS}
    for task, of_seeds in zip(tasks, gaps, strict=True):
        scores[task.setting][task.arm] = context.arm(of_seeds)
    return scores


def trained(task: ArmTask[str]) -> list[float]:
    """J(pi*) - J(pi) of one arm of a panel at its last step, one a seed."""
    setting = SETTINGS[task.setting]
    world = setting.world(task.seeds)
    logits = world.start.clone().requires_grad_()
    if task.arm != REFERENCE:
        learn(logits, batches(world, logits, task, setting), ALL_ARMS[task.arm], setting)
    return world.gap(logits.detach()).tolist()


def batches(world: World, logits: Tensor, task: ArmTask[str], setting: Setting) -> Iterator[Rows]:
    """Logged pairs in shuffled epochs, the same for all arms; or fresh ones of the policy as it is."""
    source = generators(task.seeds, "batches")
    if task.arm == ON_POLICY:
        while True:
            yield Rows.of(world, logits, world.fresh(logits, setting.batch, source))
    logged = world.logged(setting.pairs, task.seeds)
    for rows in shuffled(setting.pairs, setting.batch, source):
        yield Rows.of(world, logits, logged.select(rows))


def learn(logits: Tensor, source: Iterator[Rows], loss: Loss, setting: Setting) -> None:
    """Adam on the logits `[F, ...]` of all seeds at once, in place."""
    optimiser = adam([logits], setting.lr)
    for step in range(setting.steps):
        if setting.decay:
            scale_rates_(optimiser, 1.0 - step / setting.steps)
        descend(loss(next(source)).mean(-1).sum(), optimiser, setting.max_norm, logits.shape[:1])


# --- verdict ----------------------------------------------------------------------------------------------------------


def checks(scores: Scores) -> list[Check]:
    """Properties of every seed, as the card has them; no test is needed where the arms are orders apart."""
    toy = per_seed(scores, TOY, "copg")
    out = [
        stated(
            "toy, optimum", "three arms: CoPG's regret is below 0.001 in every seed",
            TOY, toy.max(), bool(toy.max() < 1e-3), threshold=1e-3, interval=mean_interval(toy),
        )
    ]  # fmt: skip
    for arm in ARMS[TOY][1:]:
        away = np.abs(per_seed(scores, TOY, arm) - LIMITS[arm]).max()
        statement = f"three arms: {arm} ends within 0.02 of the regret {LIMITS[arm]:.4f} that it has with infinitely many pairs"
        out.append(stated(f"toy, {arm}", statement, TOY, away, bool(away < 0.02), threshold=0.02))
    nearest = best_other(scores, SEQUENCES)
    statement = f"bigram sequences: the gap of the best other offline arm ({nearest}) is larger than CoPG's"
    sequences = difference(scores, SEQUENCES, nearest, "copg", name="sequences", statement=statement, required=False, same_seeds=True)
    return [*out, *contextual(scores), sequences]


def contextual(scores: Scores) -> list[Check]:
    """32 prompts, rewards centred elsewhere in each."""
    gap = per_seed(scores, PROMPTS, "copg")
    share = gap.mean() / per_seed(scores, PROMPTS, best_other(scores, PROMPTS)).mean()
    return [
        stated(
            "prompts, optimum", "32 prompts: CoPG's gap is below 0.01 in every seed",
            PROMPTS, gap.max(), bool(gap.max() < 0.01), threshold=0.01, interval=mean_interval(gap),
        ),
        stated(
            "prompts, others", "32 prompts: CoPG's mean gap is below a tenth of that of every other offline arm",
            PROMPTS, share, bool(share < 0.1), threshold=0.1,
        ),
    ]  # fmt: skip


def best_other(scores: Scores, panel: str) -> str:
    """The offline arm with the smallest mean gap, CoPG aside."""
    return min((arm for arm in scores[panel] if arm in OFFLINE and arm != "copg"), key=lambda arm: per_seed(scores, panel, arm).mean())


CLAIM = Claim(
    slug="copg",
    title="Contrastive Policy Gradient: Aligning LLMs on sequence-level scores in a supervised-friendly fashion (CoPG)",
    statement="From scored pairs that any law drew, CoPG reaches the optimum of reward less beta KL; IPO and DPO on labels, and the policy"
    " gradient off-policy with any baseline or importance weights, end elsewhere.",
    seeds=5,
    arms={
        "copg": "the contrast of regularised rewards of the pair",
        "ipo": "IPO on Bradley-Terry labels of the rewards",
        "dpo": "DPO on the same labels",
        **{
            f"pg, {b}{w}": f"policy gradient on the logged responses, {BASELINES_SAID[b]}{WEIGHTS_SAID[w]}"
            for w in WEIGHTS
            for b in BASELINES
        },
        "pg, value": "the same, R_b less the exact E_pi[R]",
        ON_POLICY: "fresh pairs of the policy in each step, R_b less the exact E_pi[R_b]: the costly ceiling",
        REFERENCE: "where all start",
    },
    panels={
        TOY: "regret J(pi*) - J(pi), one prompt with three responses, Adam 1e-2 for 100 epochs",
        PAPER: "the same with the paper's 1e-3, with which CoPG is still on its way after 100 epochs",
        PROMPTS: "regret, 32 prompts with 16 responses, rewards centred elsewhere in each prompt",
        SEQUENCES: "regret, 12 tokens, 6 positions, additive reward",
    },
    scales={
        "small": "exact worlds: three arms (10,000 pairs), 32 prompts (20,000 pairs, 3,000 steps), bigram sequences (50,000 pairs,"
        " 1,500 steps); beta 0.5.",
        "full": "summaries (TL;DR) with a language model and a reward model of yours: surefoot align copg.",
    },
    run=run,
    checks=checks,
)
