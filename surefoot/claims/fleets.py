"""What the claims of offline methods share: a fleet with one member a seed, each on a log of its own, trained and played."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np

from surefoot.claims.base import Context, Scores, derived
from surefoot.data.log import Log
from surefoot.data.sources import Logged
from surefoot.data.spec import stack_specs
from surefoot.errors import ConfigError
from surefoot.evaluation.rollouts import rollout
from surefoot.methods.base import Method
from surefoot.recipes.locomotion import TASKS
from surefoot.recipes.registry import open_log
from surefoot.training.engines import run_tasks

S = TypeVar("S")


@dataclass(frozen=True)
class ArmTask(Generic[S]):
    """One arm on all seeds, a fleet with a member a seed, as it is handed to a process."""

    arm: str
    seeds: tuple[int, ...]
    setting: S


@dataclass(frozen=True)
class FleetArm:
    """One arm: a learner with its settings, and how the batches are drawn. Everything else is the same for all arms of a panel."""

    name: str
    method: type[Method]
    config: Any
    weights: Callable[[Log], np.ndarray] | None = None  # [N] sampling probabilities of a log; None: uniform


Weights = list[np.ndarray] | None
Observe = Callable[[Method, Sequence[Log], Weights], dict[str, Any]]
"""What else to measure on a trained fleet, its logs and the weights they were drawn with: JSON-able values, one a member."""


@dataclass(frozen=True)
class FleetTask:
    """Arm, data and length of one training, as it is handed to a process.

    `log_of(seed)` makes the log of a member; with `shared` all members learn from one log, which does not depend on the seed.
    """

    arm: FleetArm
    log_of: Callable[[int], Log]
    seeds: tuple[int, ...]
    steps: int
    batch_size: int = 256
    env_id: str | None = None
    episodes: int = 50
    shared: bool = False
    observe: Observe | None = None


@dataclass(frozen=True)
class FleetOutcome:
    """What one arm came to; rows are members in order of the seeds."""

    returns: np.ndarray  # [F, episodes] undiscounted returns, [F, 0] without an environment
    observed: dict[str, Any] = field(default_factory=dict)


def train_and_play(task: FleetTask) -> FleetOutcome:
    """Train the arm's fleet, play `episodes` of each member at the last step, and observe.

    Arms of one panel start from the same weights and draw the same rows where their methods draw alike: method and source are
    seeded by the seeds alone.
    """
    copies = (len(task.seeds),)
    logs = [task.log_of(derived(seed, "data")) for seed in (task.seeds[:1] if task.shared else task.seeds)]
    weights = None if task.arm.weights is None else [task.arm.weights(log) for log in logs]
    spec = logs[0].spec() if task.shared else stack_specs([log.spec() for log in logs])
    method = task.arm.method(spec, task.arm.config, copies, seed=seed_of(task.seeds, "training"))
    method.prepare(logs)
    source = Logged(logs, task.batch_size, copies=copies, weights=weights, seed=seed_of(task.seeds, "batches"))
    for _ in range(task.steps):
        method.update(next(source))
    returns = np.zeros((len(task.seeds), 0))
    if task.env_id is not None:
        returns = rollout(method.policy, task.env_id, task.episodes, seed=seed_of(task.seeds, "evaluation")).returns
    return FleetOutcome(returns, {} if task.observe is None else task.observe(method, logs, weights))


def run_arms(context: Context, arms: Sequence[FleetArm], **task: Any) -> dict[str, FleetOutcome]:
    """All arms of a panel on the context's seeds (or `seeds`), in as many processes as the context allows."""
    seeds = tuple(task.pop("seeds", context.seeds))
    tasks = [FleetTask(arm=arm, seeds=seeds, **task) for arm in arms]
    say = context.say
    outcomes = run_tasks(train_and_play, tasks, jobs=context.jobs, done=partial(_tell, say))
    return {arm.name: outcome for arm, outcome in zip(arms, outcomes, strict=True)}


def full_scale(context: Context, arms: Sequence[FleetArm], example: str) -> Scores:
    """The paper's own setting on one D4RL-like log (`--data`): 1,000,000 steps, D4RL-normalised score of 50 episodes a member."""
    ref = context.logs(example)
    log = open_log(ref)
    world = next((name for name, task in TASKS.items() if task.env_id == log.env_id or name in Path(ref).name.lower()), None)
    if world is None:
        raise ConfigError(f"{ref} does not say which environment it is from: name the file hopper…, halfcheetah… or walker2d….")
    task = TASKS[world]
    outcomes = run_arms(context, arms, log_of=partial(_same_log, ref), steps=1_000_000, env_id=task.env_id, shared=True)
    context.facts["log fingerprint"] = log.fingerprint
    return {"score": {name: context.arm(task.normalised(outcome.returns.mean(-1))) for name, outcome in outcomes.items()}}


def _same_log(ref: str, seed: int) -> Log:
    return open_log(ref)


def _tell(say: Callable[[str], None], i: int, task: FleetTask) -> None:
    say(f"{task.arm.name}: {len(task.seeds)} members trained for {task.steps:,} steps{' and played' if task.env_id else ''}")


def seed_of(seeds: Sequence[int], purpose: str) -> int:
    """One seed for a whole fleet, which depends on all of its seeds."""
    return int(np.random.SeedSequence([derived(seed, purpose) for seed in seeds]).generate_state(1)[0] >> 1)
