"""RA-NLD's claim: robust training moves a policy's unstable directions elsewhere, and lets its instability oscillate more."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from surefoot.claims.base import Check, Claim, Context, Scores, bound, derived, difference, finite_ends, per_seed, stated
from surefoot.claims.fleets import seed_of
from surefoot.data.replayed import Replayed
from surefoot.envs.making import env_spaces
from surefoot.errors import ConfigError
from surefoot.evaluation.diagnosing import Directions, gradients, principal, quotient
from surefoot.evaluation.diagnosing_attacks import fgsm
from surefoot.evaluation.diagnosing_shifts import Shift, blurred, linear, moved, shifts, visited_under
from surefoot.evaluation.rollouts import rollout
from surefoot.evaluation.statistics import mean_interval
from surefoot.evaluation.visited import Visited, visited
from surefoot.methods.online.dqn import DQN, DQNConfig
from surefoot.methods.online.sa_dqn import SADQN, SADQNConfig
from surefoot.policies.base import Policy
from surefoot.policies.loading import load_policy
from surefoot.training.engines import run_tasks

ENV_ID = "surefoot/Catch-v0"
ARMS = ("vanilla", "robust")
SHIFTS = {
    "blur": Shift("blur", blurred(3)),
    "brightness": Shift("brightness", linear(1.2, 0.1)),
    "move": Shift("move", moved(0, 1)),
    "fgsm": Shift("fgsm", attack=partial(fgsm, eps=0.1)),
}
UPDATES = 8_000
VANILLA = DQNConfig(
    hidden=(128, 128),
    network="mlp",
    dueling=True,
    double=True,
    lr=5e-4,
    batch_size=128,
    target_every=500,
    exploration_updates=5_000,
    epsilon_end=0.05,
    env_steps=256,
    updates=64,
    n_envs=8,
    buffer_size=50_000,
)
"""Four environment steps an update."""
ROBUST = SADQNConfig(
    **{f.name: getattr(VANILLA, f.name) for f in fields(VANILLA)},
    radius=0.1,
    kappa=0.02,
    margin=1.0,
    radius_length=4_000,
    pgd_steps=3,
    pgd_step=0.5,
)
"""kappa is SA-DQN's own: with 0.1 the agent had learned nothing in short runs (2,400 updates) of a tuning seed, with 0.02 it had."""
EPISODES, STATES = 100, 2_000
"""Of each set: more states than 100 episodes of Catch have."""

QUOTIENT = 0.8
"""Least share of the sensitivity that two sets of states of one policy must agree on."""
LEARNED = 0.8
"""Least mean return on Catch, of 1, of policies that anything may be concluded from."""
DISJOINT = 0.3
"""By how much less the other arm's direction must find, on average."""


@dataclass(frozen=True)
class Task:
    """One arm's fleet, as it is handed to a process."""

    arm: str
    seeds: tuple[int, ...]
    updates: int


@dataclass(frozen=True, eq=False)
class Seen:
    """What is measured on one policy; `rows` and `found` are what the directions of others are held against."""

    rows: Tensor  # [n, 1, d]
    found: Directions
    numbers: dict[str, float]  # by panel


def run(context: Context) -> Scores:
    games = [Catch(context)] if context.scale == "small" else trained_games(context)
    seen = {arm: [game.seen(arm) for game in games] for arm in ARMS}  # [games][seeds]
    scores: Scores = {}
    for panel in seen["vanilla"][0][0].numbers:
        for arm in ARMS:
            scores.setdefault(panel, {})[arm] = context.arm(
                [[s.numbers[panel] for s in by_seed] for by_seed in zip(*seen[arm], strict=True)]
            )
    for arm, other in (ARMS, ARMS[::-1]):
        here = scores.setdefault(at_states(arm), {})
        here[arm] = scores["ceiling"][arm]
        here[other] = context.arm(_by_seed(seen[arm], seen[other], lambda i, j: i == j))
        if len(context.seeds) > 1:
            here[other_seeds(arm)] = context.arm(_by_seed(seen[arm], seen[arm], lambda i, j: i != j))
    return scores


def _by_seed(at: list[list[Seen]], of: list[list[Seen]], pairs: Callable[[int, int], bool]) -> list[list[float]]:
    """Mean quotient of the directions `of` seeds j at the states `at` seed i, over the pairs (i, j) that count: `[seeds][games]`."""
    return [
        [
            float(np.mean([quotient(b.found.direction, a.rows, a.found) for j, b in enumerate(others) if pairs(i, j)]))
            for own, others in zip(at, of, strict=True)
            for a in (own[i],)
        ]
        for i in range(len(at[0]))
    ]


def examine(policy: Policy, env_id: str, seed: int, episodes: int, states: int, shifts: Mapping[str, Shift]) -> Seen:
    """The directions of one policy, how far other episodes and shifts move them, and its return."""
    options: dict[str, Any] = {"episodes": episodes, "seed": derived(seed, "states")}
    (own,) = visited(policy, env_id, states, **options)
    (again,) = visited(policy, env_id, states, **options | {"seed": derived(seed, "other states")})
    rows = gradients(policy, own)
    found = principal(rows)

    def kept(others: Visited) -> float:
        return quotient(principal(gradients(policy, others), 1).direction, rows, found)

    numbers = {
        "return": float(rollout(policy, env_id, episodes, seed=derived(seed, "evaluation")).returns.mean()),
        "ceiling": kept(again),
        "explained": found.explained,
        "variation": found.variation,
        **{under(name): kept(visited_under(shift, policy, env_id, states, **options)) for name, shift in shifts.items()},
    }
    return Seen(rows, found, numbers)


def at_states(arm: str) -> str:
    return f"at the states of {arm}"


def other_seeds(arm: str) -> str:
    return f"{arm}, other seeds"


def under(shift: str) -> str:
    return f"under {shift}"


# --- small scale ------------------------------------------------------------------------------------------------------


class Catch:
    """Both arms, trained on Catch, one member a seed."""

    def __init__(self, context: Context):
        self.seeds = tuple(context.seeds)
        tasks = [Task(arm, self.seeds, UPDATES) for arm in ARMS]
        done = partial(_tell, context.say)
        self.policies = dict(zip(ARMS, run_tasks(train, tasks, jobs=context.jobs, done=done), strict=True))

    def seen(self, arm: str) -> list[Seen]:
        policies = zip(self.policies[arm], self.seeds, strict=True)
        return [examine(policy, ENV_ID, seed, EPISODES, STATES, SHIFTS) for policy, seed in policies]


def train(task: Task) -> list[Policy]:
    """The arm's policies, one a seed. Both arms start from the same weights and see the same starts of episodes."""
    config = VANILLA if task.arm == "vanilla" else ROBUST
    copies = (len(task.seeds),)
    method = (DQN if task.arm == "vanilla" else SADQN)(env_spaces(ENV_ID), config, copies, seed=seed_of(task.seeds, "training"))
    source = Replayed.of(config, ENV_ID, method.behaviour, copies=copies, seed=seed_of(task.seeds, "data"))
    for _ in range(task.updates):
        method.update(next(source))
    source.close()
    return [method.policy.member(i) for i in range(len(task.seeds))]


def _tell(say: Callable[[str], None], i: int, task: Task) -> None:
    say(f"{task.arm}: {len(task.seeds)} members trained for {task.updates:,} updates")


# --- full scale -------------------------------------------------------------------------------------------------------

GAMES = ("Pong", "Freeway", "RoadRunner", "BankHeist")


class Game:
    """Both arms of one Atari game, from run folders `DIR/GAME-vanilla` and `DIR/GAME-robust` with a member for each seed."""

    def __init__(self, context: Context, folder: Path, game: str):
        self.env_id, self.seeds, self.folder, self.game = f"surefoot/Atari{game}-v0", context.seeds, folder, game
        self.shifts = {name: shift for name, shift in shifts(env_spaces(self.env_id), eps=0.01).items() if name != "move"}

    def seen(self, arm: str) -> list[Seen]:
        fleet = load_policy(self.folder / f"{self.game}-{arm}")
        if (fleet.copies[0] if fleet.copies else 1) < len(self.seeds):
            raise ConfigError(
                f"{self.folder / f'{self.game}-{arm}'} has fewer members than there are seeds: give --seeds as many as it has."
            )
        return [examine(fleet.member(i), self.env_id, seed, 10, STATES, self.shifts) for i, seed in enumerate(self.seeds)]


def trained_games(context: Context) -> list[Game]:
    """Those of the paper's four games that `--data` holds. Raises ConfigError if there is none."""
    folder = Path(context.logs("--data runs/atari, with run folders Pong-vanilla (surefoot train dqn) and Pong-robust (train sa_dqn)"))
    found = [game for game in GAMES if all((folder / f"{game}-{arm}").is_dir() for arm in ARMS)]
    if not found:
        raise ConfigError(
            f"{folder} holds no pair of run folders such as Pong-vanilla and Pong-robust: train them with `surefoot train dqn` and `train"
            " sa_dqn` --env surefoot/AtariPong-v0 first."
        )
    context.facts["games"] = found
    return [Game(context, folder, game) for game in found]


# --- checks -----------------------------------------------------------------------------------------------------------


def checks(scores: Scores) -> list[Check]:
    found = [
        bound(scores, panel, arm, above=least, name=f"{name}, {arm}", statement=f"{arm}: {statement}")
        for panel, least, name, statement in (
            ("return", LEARNED, "learned", "the policies have learned the task"),
            ("ceiling", QUOTIENT, "known", "two sets of a policy's own states agree on the direction"),
        )
        for arm in ARMS
    ]
    found.append(
        difference(
            scores,
            at_states("vanilla"),
            "vanilla",
            "robust",
            threshold=DISJOINT,
            same_seeds=True,
            name="disjoint",
            statement="at the vanilla policy's states the robust one's direction finds less by 0.3 or more than the vanilla one's own",
        )
    )
    found += seeds_apart(scores) + [oscillation(scores), remolded(scores), other_way(scores)]
    return found


def seeds_apart(scores: Scores) -> list[Check]:
    """What falsifies the claim: two vanilla policies are as far from each other as the robust one is from the vanilla one."""
    panel = at_states("vanilla")
    if other_seeds("vanilla") not in scores[panel]:
        return []
    return [
        difference(
            scores,
            panel,
            other_seeds("vanilla"),
            "robust",
            same_seeds=True,
            name="more than a seed",
            statement="the robust policy's direction finds less there than the directions of vanilla policies of other seeds do",
        )
    ]


def oscillation(scores: Scores) -> Check:
    """Larger oscillations of instability: in at least four fifths of the seeds, or in the mean ratio."""
    vanilla, robust = (per_seed(scores, "variation", arm) for arm in ARMS)
    more = float(np.mean(robust > vanilla))
    ratio = mean_interval(np.log(robust / vanilla))
    ends = finite_ends(*(np.exp((ratio.low, ratio.high)) if np.isfinite(ratio.low) else (ratio.low, ratio.high)))
    return Check(
        name="oscillation",
        statement="the gradient's norm varies more over the robust policy's states: its coefficient of variation is larger in four of five"
        " seeds, or the mean ratio's interval lies above 1 (value: the ratio)",
        panel="variation",
        value=float(np.exp(ratio.value)),
        ci95=ends,
        test=None,
        p=None,
        threshold=1.0,
        required=True,
        holds=bool(ratio.low > 0.0 or (len(vanilla) > 1 and more >= 0.8)),
    )


def remolded(scores: Scores) -> Check:
    """Every shift moves the direction more than other episodes do."""
    moved = {
        (panel, arm): float((per_seed(scores, panel, arm) - per_seed(scores, "ceiling", arm)).mean())
        for panel in scores
        if panel.startswith("under ")
        for arm in ARMS
    }
    panel, arm = max(moved, key=moved.__getitem__)
    value = moved[panel, arm]
    return stated(
        "remolded",
        f"every shift lowers the quotient against that of other episodes, in the mean (value: the least change, {arm} {panel})",
        panel,
        value,
        value < 0.0,
        threshold=0.0,
    )


def other_way(scores: Scores) -> Check:
    return difference(
        scores,
        at_states("robust"),
        "robust",
        "vanilla",
        threshold=DISJOINT,
        same_seeds=True,
        name="disjoint the other way",
        statement="at the robust policy's states the vanilla one's direction finds less by 0.3 or more than the robust one's own",
        required=False,
    )


CLAIM = Claim(
    slug="diagnosing",
    title="Understanding and Diagnosing Deep Reinforcement Learning",
    statement="Policies trained to be robust are unstable too, but elsewhere: their sensitive directions are disjoint from those of"
    " policies trained as usual, and their instability oscillates more over time; shifts of what a policy sees remold its directions.",
    seeds=5,
    arms={
        "vanilla": "double dueling DQN",
        "robust": "the same with the regulariser of SA-DQN",
        **{other_seeds(arm): f"the directions of {arm} policies of other seeds (control)" for arm in ARMS},
    },
    panels={
        "return": "mean return (of Catch between -1 and 1)",
        "ceiling": "feature correlation quotient of two sets of states of one policy",
        "explained": "share of the sensitivity in the principal direction",
        "variation": "coefficient of variation of the gradient's norm over states",
        **{at_states(arm): f"feature correlation quotient of the arm's direction at the states of {arm}" for arm in ARMS},
        **{under(name): f"feature correlation quotient of the states under {name} at the policy's own" for name in SHIFTS},
    },
    scales={
        "small": "Catch from 2 x 10 x 10 pixels: 8,000 updates of a 128-128 network, SA-DQN with radius 0.1; each set has the"
        " states of 100 episodes.",
        "full": "The paper's four Atari games, with policies that were trained by `surefoot train dqn` and `sa_dqn` (--data DIR with run"
        " folders such as Pong-vanilla and Pong-robust); states of 10 episodes a set, scores averaged over games.",
    },
    run=run,
    checks=checks,
)
