"""Logs of MuJoCo locomotion in D4RL's four qualities, recorded from a SAC agent that learns on the way.

After Fu et al., "D4RL: Datasets for Deep Data-Driven Reinforcement Learning" (arXiv 2004.07219, section 5): `medium` is SAC stopped at
about a third of an expert's return, `medium-replay` everything it tried until then, `expert` the policy of a long training,
`medium-expert` half and half. Ours come from Gymnasium's -v5 environments and our own SAC with its default settings, one seed, so
they are not D4RL's data: scores on them compare with each other, not with the papers' tables.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from surefoot.data.log import Log, concatenate
from surefoot.data.replayed import Replayed
from surefoot.envs.making import env_spaces
from surefoot.envs.seeding import derive_seed
from surefoot.errors import DataError
from surefoot.evaluation.recording import record
from surefoot.evaluation.rollouts import rollout
from surefoot.methods.base import Method
from surefoot.methods.online.sac import SAC, SACConfig
from surefoot.policies.base import Policy
from surefoot.policies.saving import read_policy, save_policy
from surefoot.training.fit import fit
from surefoot.training.run import Run


@dataclass(frozen=True)
class Task:
    """An environment and the two returns that D4RL normalises its scores with."""

    env_id: str
    random_return: float
    expert_return: float

    @property
    def medium_return(self) -> float:
        """A third of the expert's."""
        return self.expert_return / 3.0

    def normalised(self, returns: np.ndarray) -> np.ndarray:
        """D4RL's score: 0 for random actions, 100 for its expert."""
        return 100.0 * (returns - self.random_return) / (self.expert_return - self.random_return)


TASKS = {
    "hopper": Task("Hopper-v5", -20.272305, 3234.3),
    "halfcheetah": Task("HalfCheetah-v5", -280.178953, 12135.0),
    "walker2d": Task("Walker2d-v5", 1.629008, 4592.3),
}

KINDS = {
    "medium": "200,000 steps of a SAC policy at a third of an expert's return; about half an hour",
    "medium-replay": "all that SAC tried until it got there, 200,000 steps or more; about half an hour",
    "expert": "200,000 steps of the policy after 1,000,000 updates; hours",
    "medium-expert": "medium and expert, half and half; hours",
}
"""What each log holds and costs on one core."""

TRANSITIONS = 200_000
"""Steps recorded from a policy, and the least that a replay holds."""

LIMIT = 1_000_000
"""Updates of the longest training, and the room in its buffer."""

STRIDE = 10_000
"""Updates between evaluations, of ten episodes each."""


def make_log(world: str, kind: str, seed: int, folder: Path, say: Callable[[str], None]) -> Log:
    """One of the logs. `folder` keeps the training, which all four share and which goes on where it was stopped."""
    task = TASKS[world]
    if kind == "medium-expert":
        halves = [make_log(world, half, seed, folder, say) for half in ("medium", "expert")]
        return replace(
            concatenate(halves, f"recipe {world}-{kind}, seed {seed}"), notes=_notes(world, kind, seed, "both logs, one after the other")
        )
    teacher = Teacher(task, seed, folder, say)
    if kind == "medium-replay":
        log, reached = teacher.replay()
        about = f"the first {len(log):,} steps of SAC in {task.env_id}, which was at medium level after {reached:,} updates"
    else:
        policy, reached = teacher.medium() if kind == "medium" else teacher.expert()
        say(f"recording {TRANSITIONS:,} steps")
        log = recorded(policy, task, derive_seed(seed, 2, list(KINDS).index(kind)))
        about = f"{len(log):,} steps of the SAC policy after {reached:,} updates in {task.env_id}, with its exploration"
    return replace(log, source=f"recipe {world}-{kind}, seed {seed}", env_id=task.env_id, notes=_notes(world, kind, seed, about))


def _notes(world: str, kind: str, seed: int, about: str) -> dict[str, str]:
    return {"recipe": f"{world}-{kind}: {about}", "seed": str(seed)}


def recorded(policy: Policy, task: Task, seed: int) -> Log:
    """TRANSITIONS steps or a little more of whole episodes of a policy that explores, as D4RL recorded them."""
    logs: list[Log] = []
    while sum(map(len, logs)) < TRANSITIONS:
        logs.append(record(policy, task.env_id, episodes=50, seed=derive_seed(seed, len(logs)), greedy=False))
    return concatenate(logs, "recorded")


class Teacher:
    """The SAC agent behind the logs of one environment and seed, in a run folder that a later call goes on with.

    It is `fit`'s callback too: every STRIDE updates it plays ten episodes, and keeps the first policy at medium level.
    """

    every = STRIDE

    def __init__(self, task: Task, seed: int, folder: Path, say: Callable[[str], None]):
        self.task, self.seed, self.folder, self.say = task, seed, folder, say
        config = SACConfig(buffer_size=LIMIT + SACConfig().warmup)
        self.method = SAC(env_spaces(task.env_id), config, seed=derive_seed(seed, 0))
        self.source = Replayed.of(config, task.env_id, self.method.behaviour, seed=derive_seed(seed, 1))
        settings = {"recipe": f"SAC in {task.env_id}", "seed": seed, "hyperparameters": asdict(config)}
        self.run = Run.open(folder) if (folder / "config.json").exists() else Run.create(folder, settings)
        fit(self.method, self.source, 0, run=self.run, progress=False)  # back to where it was stopped

    def __call__(self, step: int, method: Method, run: Run | None) -> None:
        returns = rollout(method.policy, self.task.env_id, 10, seed=derive_seed(self.seed, 3)).returns
        self.run.log(step, {"eval/return": float(returns.mean())})
        self.say(f"{self.task.env_id}: {step:,} updates, return {returns.mean():.0f} (medium: {self.task.medium_return:.0f})")
        if returns.mean() >= self.task.medium_return and self.reached() is None:
            save_policy(method.policy, self.folder / "medium" / str(step))

    def reached(self) -> int | None:
        """Updates after which the medium level was reached; None if it was not yet."""
        return next((int(path.parent.name) for path in self.folder.glob("medium/*/policy.json")), None)

    def train(self, steps: int) -> None:
        fit(self.method, self.source, steps, run=self.run, callbacks=[self], checkpoint_every=STRIDE, progress=False)

    def medium(self) -> tuple[Policy, int]:
        """The first policy whose ten episodes reach a third of an expert's return, and after how many updates."""
        while (reached := self.reached()) is None:
            if self.method.steps >= LIMIT:
                raise DataError(
                    f"SAC with seed {self.seed} did not reach {self.task.medium_return:.0f} in {self.task.env_id}: take another --seed."
                )
            self.train(self.method.steps + STRIDE)
        return read_policy(self.folder / "medium" / str(reached)), reached

    def replay(self) -> tuple[Log, int]:
        """All steps until the medium level was reached, TRANSITIONS at least, and the updates after which it was reached."""
        _, reached = self.medium()
        n = max(reached + self.source.warmup, TRANSITIONS)
        while self.source.steps < n:
            self.train(self.method.steps + STRIDE)
        log = self.source.log()  # of a training that has gone on for other logs: the part until then
        ends = log.ends[:n].copy()
        ends[-1] = True
        return log.select(np.arange(n), ends), reached

    def expert(self) -> tuple[Policy, int]:
        """The policy after LIMIT updates."""
        self.train(LIMIT)
        return self.method.policy, self.method.steps
