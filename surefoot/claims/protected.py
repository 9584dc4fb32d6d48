"""PROTECTED's claim: a set with a selector is better than one robust policy where the attack is weak, and hardly worse where it is not."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch

from surefoot.claims.base import Check, Claim, Context, Scores, derived, per_seed, stated, table
from surefoot.claims.fleets import ArmTask, seed_of
from surefoot.data.rollouts import Rollouts
from surefoot.envs.making import env_spaces
from surefoot.evaluation.adapting import Adapted, adapt
from surefoot.evaluation.attacking import Attacking
from surefoot.evaluation.learned_attacks import LearnedAttack
from surefoot.evaluation.statistics import mean_interval
from surefoot.evaluation.switching import Switching
from surefoot.methods.exact.non_dominated import StateAdversarial, discover, minimax, worst_attack
from surefoot.methods.online.ppo import PPO, PPOConfig
from surefoot.methods.online.protected import PRESETS, ProtectedConfig, attack_on, discovery
from surefoot.policies.base import Policy
from surefoot.policies.deciding import scaling
from surefoot.steering.adaptive import Adaptive, Exp3IX
from surefoot.training.engines import run_tasks

FREE, WORST, SOLVED = "exact, attack-free", "exact, worst attacker", "exact, values"
ROUNDS, PER_SEED, MOST = 2000, 15, 5

NATURAL, ATTACKED, SWITCHING = "natural", "attacked", "switching"
ARMS = ("protected", "pa-atla", "ppo")


@dataclass(frozen=True)
class Setting:
    """Environment, the first policy, the iterations, and how policies are judged."""

    env_id: str
    config: ProtectedConfig
    first_steps: int  # environment steps of the policy that all arms start from
    first: PPOConfig
    attack_steps: int  # updates of a fresh attacker on what an arm deploys
    rounds: int  # episodes of each judgement, of which the last `counted` count
    counted: int
    side_by_side: int
    block: int  # episodes after which the switching attacker comes or goes


SMALL = Setting(
    env_id="InvertedDoublePendulum-v5",
    config=replace(PRESETS["Hopper"], iterations=2, train_steps=60, radius_length=45),
    first_steps=150_000,
    first=PPOConfig(n_steps=256, n_envs=8, minibatch=64),
    attack_steps=40,
    rounds=80,
    counted=20,
    side_by_side=10,
    block=20,
)
FULL_ENVS = ("Hopper-v5", "Walker2d-v5", "HalfCheetah-v5", "Ant-v5")


Task = ArmTask[Setting]


def run(context: Context) -> Scores:
    scores = in_tables(context)
    if context.scale == "small":
        return scores | on(context, SMALL, "")
    for env in FULL_ENVS:
        config = replace(PRESETS[env.split("-")[0]], iterations=6)
        first = replace(SMALL.first, n_steps=2048, n_envs=1)
        setting = Setting(env, config, 2_000_000, first, 1000, ROUNDS, 500, 50, 100)
        scores |= on(context, setting, f"{env}: ")
    return scores


# --- exact ------------------------------------------------------------------------------------------------------------


def in_tables(context: Context) -> Scores:
    """15 random state-adversarial MDPs a seed, from `default_rng(15 seed + i)`: of seeds 0 and 1 those of 0 to 29."""
    rows = [[in_table(PER_SEED * seed + i) for i in range(PER_SEED)] for seed in context.seeds]
    column = lambda name: context.arm([[row[name] for row in of_seed] for of_seed in rows])  # noqa: E731
    return {
        FREE: {name: column(f"free {name}") for name in ("protected", "last quarter", "minimax", "natural-optimal")},
        WORST: {name: column(f"worst {name}") for name in ("protected", "last quarter", "minimax", "natural-optimal")},
        SOLVED: {
            name: column(name) for name in ("policies", "gap left", "best response, natural", "best response, worst", "minimax, worst")
        },
    }


def in_table(k: int) -> dict[str, float]:
    """One MDP: the set found from the natural-optimal policy, and what EXP3 earns with it, without attack and under the worst for it."""
    payoff = StateAdversarial.random(np.random.default_rng(k)).payoff()
    natural, robust = int(payoff[:, 0].argmax()), minimax(payoff)  # attacker 0 shows the truth
    found = discover(payoff, natural, most=MOST)
    members = list(found.members)
    row = {
        "policies": len(members),
        "gap left": found.left,
        "best response, natural": payoff[members, 0].max(),
        "best response, worst": payoff[members].max(0).min(),
        "minimax, worst": payoff[robust].min(),
    }
    for name, attacker in (("free", 0), ("worst", worst_attack(payoff, members))):
        earned = selected(payoff[members, attacker], derived(k, f"evaluation {name}"))
        row |= {f"{name} protected": earned.mean(), f"{name} last quarter": earned[-ROUNDS // 4 :].mean()}
        row |= {f"{name} minimax": payoff[robust, attacker], f"{name} natural-optimal": payoff[natural, attacker]}
    return row


def selected(gains: np.ndarray, seed: int) -> np.ndarray:
    """What EXP3-IX earns in each round with arms whose gains `[K]` do not change, `[ROUNDS]`."""
    bandit, generator = Exp3IX(len(gains), rounds=ROUNDS, c=2.0), torch.Generator().manual_seed(seed)
    gain, earned = torch.from_numpy(gains), np.empty(ROUNDS)
    for t in range(ROUNDS):
        arm = bandit.draw(1, generator)
        bandit.update(arm, gain[arm])
        earned[t] = gain[arm]
    return earned


# --- deep -------------------------------------------------------------------------------------------------------------


def on(context: Context, setting: Setting, prefix: str) -> Scores:
    """All arms in one environment."""
    tasks = [Task(arm, tuple(context.seeds), setting) for arm in ARMS]
    rows = run_tasks(trained, tasks, jobs=context.jobs, done=partial(_tell, context.say))
    of = dict(zip(ARMS, rows, strict=True))
    context.facts[f"{prefix}policies alone, and how often they were chosen"] = {arm: row["policies"] for arm, row in of.items()}
    return {prefix + panel: {arm: context.arm(row[panel]) for arm, row in of.items()} for panel in (NATURAL, ATTACKED, SWITCHING)}


def trained(task: Task) -> dict[str, Any]:
    """Train one arm from the same first policy, and judge what it would deploy."""
    setting, seeds = task.setting, task.seeds
    policies: list[Policy] = [first_policy(setting, seeds)]
    config = setting.config
    if task.arm == "protected":
        for k in range(1, config.iterations + 1):
            policies.append(contested(policies[-1], policies, setting, config, seed_of(seeds, f"iteration {k}")))
    if task.arm == "pa-atla":  # as many steps in one go, with one attacker and one fall of the learning rate
        whole = replace(config, train_steps=config.iterations * config.train_steps, radius_length=config.iterations * config.radius_length)
        policies = [contested(policies[-1], [], setting, whole, seed_of(seeds, "iteration 1"))]
    return judged(policies, setting, seeds)


def first_policy(setting: Setting, seeds: tuple[int, ...]) -> Policy:
    """PPO's, without attack: a fleet with a member a seed."""
    config, copies = replace(setting.first, anneal=setting.first_steps), (len(seeds),)
    method = PPO(env_spaces(setting.env_id), config, copies, seed=seed_of(seeds, "first policy"))
    where: dict[str, Any] = {"copies": copies, "n_envs": config.n_envs, "seed": seed_of(seeds, "first rollouts")}
    source = Rollouts(setting.env_id, method.policy, config.n_steps, **where)
    while method.steps < setting.first_steps:
        method.update(next(source))
    source.close()
    return method.policy


def contested(start: Policy, past: list[Policy], setting: Setting, config: ProtectedConfig, seed: int) -> Policy:
    """The policy of one iteration."""
    method, source = discovery(start, past, setting.env_id, config, seed=seed)
    for _ in range(config.train_steps):
        method.update(next(source))
    source.close()
    return method.policy


def judged(policies: list[Policy], setting: Setting, seeds: tuple[int, ...]) -> dict[str, Any]:
    """What the selector earns without attack, under a fresh attacker, and under the same when it comes and goes."""
    for policy in policies:
        policy.requires_grad_(False)
    attacker = replace(setting.config, train_steps=setting.attack_steps)
    adversary = attack_on(policies, setting.env_id, attacker, seed=seed_of(seeds, "attack"))
    adversary.policy.requires_grad_(False)
    unit = scaling(policies[0])
    assert unit is not None  # PPO scales what it sees

    def attack() -> LearnedAttack:
        return LearnedAttack(setting.config.radius, adversary, scale=unit[1], seed=seed_of(seeds, "attacker's draws"))

    def played(members: list[Policy], perturb: Attacking | None, rounds: int, high: float = 1.0) -> Adapted:
        chosen = Adaptive(members, low=0.0, high=high, rounds=rounds)
        seed = seed_of(seeds, "evaluation")
        return adapt(chosen, setting.env_id, rounds, seed=seed, perturb=perturb, side_by_side=setting.side_by_side)

    alone = [[played([policy], perturb, setting.counted) for perturb in (None, attack())] for policy in policies]
    high = max(float(natural.returns.max()) for natural, _ in alone)
    natural, attacked, switching = (
        played(policies, perturb, setting.rounds, high) for perturb in (None, attack(), Switching(attack(), setting.block))
    )
    last = slice(setting.rounds - setting.counted, None)
    return {
        NATURAL: natural.returns[:, last],
        ATTACKED: attacked.returns[:, last],
        SWITCHING: switching.returns.mean(-1),
        "policies": [
            {
                "alone, natural": own[0].returns.mean(-1).tolist(),
                "alone, attacked": own[1].returns.mean(-1).tolist(),
                "chosen, natural": (natural.chosen[:, last] == i).mean(-1).tolist(),
                "chosen, attacked": (attacked.chosen[:, last] == i).mean(-1).tolist(),
            }
            for i, own in enumerate(alone)
        ],
    }


def _tell(say: Any, i: int, task: Task) -> None:
    say(f"{task.setting.env_id}, {task.arm}: {len(task.seeds)} members trained, attacked and judged")


# --- verdict ----------------------------------------------------------------------------------------------------------


def checks(scores: Scores) -> list[Check]:
    """The exact panels are about MDPs, all seeds' together; the deep ones about seeds."""
    free = table(scores, FREE, "protected").ravel() - table(scores, FREE, "minimax").ravel()
    loss = table(scores, WORST, "minimax").ravel() - table(scores, WORST, "last quarter").ravel()
    gain, lost = mean_interval(free), mean_interval(loss)
    out = [
        stated(
            "exact, attack-free",
            "in random MDPs without attack the selector earns more than the minimax policy, from its first round on",
            FREE, gain.value, gain.low > 0.0, threshold=0.0, interval=gain,
        ),
        stated(
            "exact, worst case",
            "under the worst attacker for the set, in the last quarter of the rounds it earns less than the minimax policy by below 0.02",
            WORST, lost.value, lost.value < 0.02, threshold=0.02, interval=lost,
        ),
    ]  # fmt: skip
    for panel in scores:
        if panel.endswith(NATURAL) and not panel.startswith("exact"):
            out += deep_checks(scores, panel.removesuffix(NATURAL))
    return out


def deep_checks(scores: Scores, prefix: str) -> list[Check]:
    """With so few seeds there is no test: the means are compared, as the card has it."""
    mean = {panel: {arm: float(per_seed(scores, prefix + panel, arm).mean()) for arm in ARMS} for panel in (NATURAL, ATTACKED, SWITCHING)}
    apart = {panel: each["protected"] - each["pa-atla"] for panel, each in mean.items()}
    slack = 0.1 * abs(mean[ATTACKED]["pa-atla"])
    return [
        stated(
            f"{prefix}natural", "without attack the set earns more than PA-ATLA's policy",
            prefix + NATURAL, apart[NATURAL], apart[NATURAL] > 0.0, threshold=0.0,
        ),
        stated(
            f"{prefix}attacked", "under a fresh PA-AD attacker it does not earn less by more than 10 %",
            prefix + ATTACKED, apart[ATTACKED], apart[ATTACKED] >= -slack, threshold=-slack,
        ),
        stated(
            f"{prefix}switching", "under an attacker that comes and goes it earns more",
            prefix + SWITCHING, apart[SWITCHING], apart[SWITCHING] > 0.0, threshold=0.0, required=False,
        ),
    ]  # fmt: skip


CLAIM = Claim(
    slug="protected",
    title="Beyond Worst-case Attacks: Robust RL with Adaptive Defense via Non-dominated Policies",
    statement="A small set of non-dominated policies, chosen among by EXP3 as episodes go by, earns more than the one robust policy where "
    "observations are not attacked, and hardly less where the attack is the worst.",
    seeds=2,
    arms={
        "protected": "the set that was discovered, with the selector's own choices",
        "minimax": "exact: the policy that is best under its own worst attacker",
        "natural-optimal": "exact: the policy that is best without attack",
        "last quarter": "exact: the selector in the last 500 of 2,000 rounds",
        "pa-atla": "one policy, trained for as many steps from the same start against an attacker that lowers its return",
        "ppo": "the policy that all start from",
        "policies": "exact: how many were found, 5 at most",
        "gap left": "exact: what the best policy still gains under some attacker",
        "best response, natural": "exact: the best policy of the set without attack",
        "best response, worst": "exact: the best policy of the set under the worst attacker for it",
        "minimax, worst": "exact: the minimax policy under its own worst attacker",
    },
    panels={
        FREE: f"mean gain in [0, 1] of {ROUNDS:,} rounds in each of 15 random state-adversarial MDPs a seed, without attack",
        WORST: "the same under the attacker that is worst for the set",
        SOLVED: "sizes and values of the sets",
        NATURAL: "return without attack, of each of the last episodes that the selector played (small scale: 20 of 80)",
        ATTACKED: "the same under a fresh PA-AD attacker, trained on what is deployed",
        SWITCHING: "return of all episodes under that attacker when it comes and goes",
    },
    scales={
        "small": "30 random MDPs with 4 states, 3 actions and 16 attackers, solved exactly. Inverted double pendulum, eps 0.075 of a "
        "scaled observation: PPO for 150,000 steps, 2 iterations of 60 updates of 2,048 steps; attackers of 40 updates; 80 episodes "
        "of each kind.",
        "full": "Hopper, Walker2d, HalfCheetah and Ant with the paper's settings, 6 iterations, 2,000 episodes of each kind.",
    },
    run=run,
    checks=checks,
)
