"""Policy smoothing's claim: certified bounds that no attack breaks, and a smoothed agent that outlasts an undefended one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from surefoot.claims.base import Check, Claim, Context, Scores, derived, finite_ends, per_seed, stated, table
from surefoot.data.replayed import Replayed
from surefoot.data.spec import Spec
from surefoot.envs.making import training_env
from surefoot.errors import PolicyError
from surefoot.evaluation.attack_curve import attack_curve
from surefoot.evaluation.attacks import QAttack
from surefoot.evaluation.certificates import certify
from surefoot.evaluation.during_training import EvaluateEvery
from surefoot.evaluation.rollouts import rollout
from surefoot.evaluation.statistics import bootstrap_difference
from surefoot.methods.online.dqn import DQN, DQNConfig
from surefoot.policies.base import Policy
from surefoot.policies.frame_stack import FrameStack
from surefoot.steering.smoothed import Smoothed
from surefoot.training.engines import run_tasks

ENV_ID, LIMIT, FRAMES = "CartPole-v1", 200, 5

CERTIFIED = (0.0, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0)
ATTACKED = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
BENEFIT = (0.4, 0.6, 0.8, 1.0)
"""Budgets of the certificate, of the attack, and those over which the smoothed agent must do better."""


@dataclass(frozen=True)
class Setting:
    """A scale: DQN, how its best checkpoint is chosen, and how thoroughly it is judged."""

    dqn: DQNConfig
    updates: int
    eval_every: int  # updates between evaluations, each of `eval_episodes` with the noise that is trained with
    eval_episodes: int
    certify_episodes: int
    attack_episodes: int
    draws: int  # of a smoothed agent's noise, in the attack
    undefended_thresholds: tuple[float, ...]
    smoothed_thresholds: tuple[float, ...]
    sigmas: tuple[float, ...]  # the first is the one that the checks need


SMALL = Setting(
    dqn=DQNConfig(lr=3e-4, batch_size=256, env_steps=128, updates=64, target_every=64, exploration_updates=8_000),
    updates=20_000,
    eval_every=500,
    eval_episodes=100,
    certify_episodes=2_000,
    attack_episodes=100,
    draws=32,
    undefended_thresholds=(0.0, 4.0, 8.0),
    smoothed_thresholds=(0.0, 1.0, 2.0),
    sigmas=(0.2,),
)
FULL = Setting(
    dqn=DQNConfig(lr=1e-4, batch_size=1024, env_steps=256, updates=128, target_every=128, exploration_updates=40_000),
    updates=250_000,
    eval_every=1_000,
    eval_episodes=10,
    certify_episodes=10_000,
    attack_episodes=1_000,
    draws=128,
    undefended_thresholds=(4.0, 6.0, 8.0, 10.0),
    smoothed_thresholds=(0.0, 1.0, 2.0),
    sigmas=(0.2, 0.4, 0.6, 0.8),
)


@dataclass(frozen=True)
class Task:
    """One agent, as it is handed to a process."""

    seed: int
    sigma: float
    setting: Setting


def run(context: Context) -> Scores:
    setting = SMALL if context.scale == "small" else FULL
    sigmas = (*setting.sigmas, 0.0)
    tasks = [Task(seed, sigma, setting) for sigma in sigmas for seed in context.seeds]
    outcomes = run_tasks(train_and_judge, tasks, jobs=context.jobs, done=partial(_tell, context.say))
    scores: Scores = {}
    for i, sigma in enumerate(sigmas):
        own = outcomes[i * len(context.seeds) : (i + 1) * len(context.seeds)]
        name = arm_name(sigma, setting)
        for j, budget in enumerate(CERTIFIED if sigma > 0.0 else ()):
            scores.setdefault(certified(budget), {})[name] = context.arm([o["lower"][j] for o in own])
        for j, budget in enumerate(ATTACKED):
            scores.setdefault(attacked(budget), {})[name] = context.arm([o["attacked"][j] for o in own])
        kept = ("last", "best", "evaluations", "clean", "worst", "spent")
        context.facts[name] = {key: {seed: o[key] for seed, o in zip(context.keys, own, strict=True)} for key in kept if key in own[0]}
    return scores


def train_and_judge(task: Task) -> dict[str, Any]:
    """Train one agent, keep its best checkpoint, and judge that on episodes that chose nothing: bounds and attacked returns."""
    setting = task.setting
    last, best, evaluations = train(task)
    play = partial(rollout, env_id=ENV_ID, episodes=setting.attack_episodes, seed=derived(task.seed, "evaluation"), max_steps=LIMIT)
    outcome: dict[str, Any] = {
        "last": float(play(last).returns.mean()),
        "best": float(play(best).returns.mean()),
        "evaluations": evaluations,
    }
    if task.sigma > 0.0:
        seed = derived(task.seed, "certificate")
        certificate = certify(best, ENV_ID, CERTIFIED, episodes=setting.certify_episodes, max_steps=LIMIT, seed=seed)
        outcome |= {"lower": certificate.lower.tolist(), "clean": float(certificate.returns.mean())}
    seed = derived(task.seed, "attack")
    thresholds = setting.smoothed_thresholds if task.sigma > 0.0 else setting.undefended_thresholds
    variants = {
        f"{t:g}": partial(QAttack, threshold=t, samples=setting.draws, seed=derived(task.seed, f"threshold {t:g}")) for t in thresholds
    }
    curve = attack_curve(best, ENV_ID, ATTACKED, variants, episodes=setting.attack_episodes, seed=seed, max_steps=LIMIT)
    if curve.failed.any():
        raise PolicyError(f"{arm_name(task.sigma, setting)}, seed {task.seed}: each gradient of the attack was zero: nothing was attacked.")
    worst = [curve.variants[i] for i in curve.worst]
    return outcome | {"attacked": curve.returns.tolist(), "worst": worst, "spent": curve.spent.tolist()}


def train(task: Task) -> tuple[Policy, Policy, int]:
    """DQN with the noise inside (sigma 0: without): the last and the best checkpoint as they act, and how many evaluations chose it."""
    setting, sigma = task.setting, task.sigma
    env = training_env(ENV_ID, frame_stack=FRAMES, noise=sigma, max_steps=LIMIT)
    env.close()
    config = setting.dqn
    method = DQN(Spec.from_env(env), config, seed=derived(task.seed, "training"))
    seen: dict[str, Any] = {"frame_stack": FRAMES, "noise": sigma, "max_steps": LIMIT}
    source = Replayed.of(config, ENV_ID, method.behaviour, seed=derived(task.seed, "data"), **seen)

    def acting(policy: Policy) -> Smoothed:
        return Smoothed(FrameStack(policy, FRAMES), sigma)

    seed = derived(task.seed, "selection")
    keep = EvaluateEvery(ENV_ID, every=setting.eval_every, episodes=setting.eval_episodes, seed=seed, max_steps=LIMIT, wrap=acting)
    for step in range(1, setting.updates + 1):
        method.update(next(source))
        if step % keep.every == 0:
            keep(step, method, None)
    source.close()
    return acting(method.policy), acting(keep.best_policy(method.policy)), keep.evaluations


def _tell(say: Callable[[str], None], i: int, task: Task) -> None:
    say(f"{arm_name(task.sigma, task.setting)}, seed {task.seed}: trained, {'certified and ' if task.sigma > 0.0 else ''}attacked")


def arm_name(sigma: float, setting: Setting) -> str:
    if sigma == 0.0:
        return "undefended"
    return "smoothed" if sigma == setting.sigmas[0] else f"smoothed {sigma:g}"


def certified(budget: float) -> str:
    return f"certified at {budget:g}"


def attacked(budget: float) -> str:
    return f"attacked at {budget:g}"


# --- checks ---------------------------------------------------------------------------------------------------------


def checks(scores: Scores) -> list[Check]:
    return [sound(scores), useful(scores), beneficial(scores), overtaken(scores)]


def sound(scores: Scores) -> Check:
    """No attacked mean lies significantly below its certificate: every smoothed arm, seed and budget."""
    slack = []
    for budget in ATTACKED:
        for arm in scores[certified(budget)]:
            returns = table(scores, attacked(budget), arm)  # [seeds, episodes]
            sem = returns.std(-1, ddof=1) / np.sqrt(returns.shape[-1])
            slack.append(returns.mean(-1) + 2.0 * sem - per_seed(scores, certified(budget), arm))
    least = float(np.min(slack))
    return stated(
        "sound",
        "for every seed and budget, the attacked mean plus 2 standard errors is at least the certified bound (value: least difference)",
        attacked(ATTACKED[-1]),
        least,
        least >= 0.0,
        threshold=0.0,
    )


def useful(scores: Scores) -> Check:
    """The certificate says something."""
    median = float(np.median(per_seed(scores, certified(0.1), "smoothed")))
    return stated(
        "not vacuous",
        "the certified bound at B = 0.1 = sigma / 2 is at least 100 of 200 (median seed)",
        certified(0.1),
        median,
        median >= 100.0,
        threshold=100.0,
    )


def beneficial(scores: Scores) -> Check:
    """Under attack the smoothed agent does better, over budgets from 0.4 to 1; seeds and episodes are resampled."""
    smoothed, undefended = (np.mean([table(scores, attacked(b), arm) for b in BENEFIT], 0) for arm in ("smoothed", "undefended"))
    result = bootstrap_difference(smoothed, undefended, "greater")
    return Check(
        name="benefit",
        statement="over B from 0.4 to 1 the attacked mean of the smoothed agent exceeds the undefended one's",
        panel=attacked(BENEFIT[0]),
        value=result.difference,
        ci95=finite_ends(result.low, result.high),
        test=result.test,
        p=result.p,
        threshold=0.0,
        required=True,
        holds=bool(result.low > 0.0),
    )


def overtaken(scores: Scores) -> Check:
    """The paper's figure: somewhere the attacked undefended agent lies below what is certified for the smoothed one."""
    gaps = [per_seed(scores, certified(b), "smoothed").mean() - per_seed(scores, attacked(b), "undefended").mean() for b in ATTACKED]
    i = int(np.argmax(gaps))
    return stated(
        "overtaken",
        "at some budget the undefended agent's attacked mean is below the smoothed one's certified bound (value: largest difference)",
        attacked(ATTACKED[i]),
        float(gaps[i]),
        gaps[i] > 0.0,
        threshold=0.0,
        required=False,
    )


CLAIM = Claim(
    slug="policy-smoothing",
    title="Policy Smoothing for Provably Robust Reinforcement Learning",
    statement="Noise on its observations gives an agent a lower bound on its return that no attack within a total budget breaks; "
    "the bound says something, and under attack the smoothed agent does better than an undefended one.",
    seeds=3,
    arms={
        "undefended": "DQN on the last 5 frames, trained and attacked without noise",
        "smoothed": "the same with noise of standard deviation 0.2 on every frame, in training and in use",
        **{f"smoothed {sigma:g}": f"the same with noise of {sigma:g} (full scale)" for sigma in FULL.sigmas[1:]},
    },
    panels={
        **{certified(b): f"certified return of 200 against any attack of total l2 norm {b:g}" for b in CERTIFIED},
        **{attacked(b): f"return of 200 under the Q-attack of total l2 norm {b:g}" for b in ATTACKED},
    },
    scales={
        "small": "CartPole, 200 steps, 5 frames, 2 x 256: DQN for 40,000 steps, the best of 40 checkpoints over 100 episodes each, "
        "certified with 2,000 episodes and attacked in 100 episodes at each budget.",
        "full": "CartPole with the paper's schedule: DQN for 500,000 steps, sigma 0.2 to 0.8, certified with 10,000 episodes, attacked in "
        "1,000. The paper's Pong and Freeway (from pixels) and MountainCar (with DDPG) are not covered: Surefoot does not have them yet.",
    },
    run=run,
    checks=checks,
)
