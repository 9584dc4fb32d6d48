"""IWOCS's claim: a few ordinary problems, solved one after the other, give a policy that is better where physics is worst."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np

from surefoot.claims.base import Check, Claim, Context, Scores, derived, per_seed, stated
from surefoot.claims.fleets import ArmTask, seed_of
from surefoot.envs.physics import Parameter
from surefoot.envs.uncertainty import chosen
from surefoot.envs.windy import windy_walk
from surefoot.evaluation.statistics import mean_interval
from surefoot.evaluation.stress import How, Stress, stress, worst_case
from surefoot.methods.exact.static_robust import Models, robust_value_iteration
from surefoot.methods.exact.static_robust import iwocs as iwocs_in_tables
from surefoot.methods.online.iwocs import Found, IWOCSConfig, Solution, StaticProblems, StaticSAC, iwocs, learner, solutions
from surefoot.methods.online.sac import SAC
from surefoot.policies.base import Policy
from surefoot.training.engines import run_tasks

WORST, AVERAGE, PROGRESS, TABLES = "worst case", "average", "worst case by iteration", "windy walk"
BASELINES = ("nominal", "randomised")
FULL_SETS = tuple(
    (env, which)
    for env in ("Ant-v5", "HalfCheetah-v5", "Hopper-v5", "HumanoidStandup-v5", "Walker2d-v5", "InvertedPendulum-v5")
    for which in (("2d",) if env.startswith("Inverted") else ("2d", "3d"))
)


@dataclass(frozen=True)
class Setting:
    """One environment with its set, the learner, and how policies are searched and judged."""

    config: IWOCSConfig
    env_id: str = "InvertedPendulum-v5"
    over: str = "2d"
    search_episodes: int = 2  # for each candidate of a search
    episodes: int = 5  # at each of the 10 x 10 (x 10) points in the end
    search: How = "grid"

    @property
    def steps(self) -> int:
        """Environment steps of every arm."""
        return self.config.default_steps + self.config.models * self.config.model_steps

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        return chosen(self.over, self.env_id)


SMALL = Setting(
    IWOCSConfig(
        hidden=(64, 64),
        batch_size=128,
        buffer_size=50_000,
        warmup=1_000,
        env_steps=4,
        updates=8,  # of all arms: with 8,000 steps and one update for two of them SAC does not learn one model
        alpha_start=0.1,
        tau=0.01,
        n_envs=4,
        default_steps=18_000,
        model_steps=8_000,
        percentiles=(90.0, 99.0, 99.9, 100.0),
    )
)


Task = ArmTask[Setting]


def run(context: Context) -> Scores:
    scores = in_tables(context)
    if context.scale == "small":
        return scores | on(context, SMALL, "")
    for env, which in FULL_SETS:
        steps, models = {"2d": (1_600_000, 3), "3d": (1_800_000, 4)}[which]
        scores |= on(context, Setting(IWOCSConfig(default_steps=steps, models=models), env, which, search="cmaes"), f"{env} {which}: ")
    return scores


def on(context: Context, setting: Setting, prefix: str) -> Scores:
    """All arms in one environment."""
    tasks = [Task(arm, tuple(context.seeds), setting) for arm in ("iwocs", *BASELINES)]
    rows = run_tasks(trained, tasks, jobs=context.jobs, done=partial(_tell, context.say))
    of = {task.arm: found for task, found in zip(tasks, rows, strict=True)}
    context.facts[f"{prefix}history"] = {
        key: {name: row[name] for name in ("history", "best", "by iteration")} for key, row in zip(context.keys, of["iwocs"], strict=True)
    }
    context.facts[f"{prefix}grid"] = {arm: {k: r["means"] for k, r in zip(context.keys, found, strict=True)} for arm, found in of.items()}
    return {
        prefix + WORST: {arm: context.arm([row["worst"] for row in found]) for arm, found in of.items()},
        prefix + AVERAGE: {arm: context.arm([row["average"] for row in found]) for arm, found in of.items()},
        prefix + PROGRESS: {
            "default policy": context.arm([row["by iteration"][0] for row in of["iwocs"]]),
            "first model": context.arm([row["by iteration"][1] for row in of["iwocs"]]),
            "last model": context.arm([row["by iteration"][-1] for row in of["iwocs"]]),
        },
    }


def trained(task: Task) -> list[dict[str, Any]]:
    """Train one arm and judge it on episodes that chose nothing: a row a seed."""
    setting = task.setting
    if task.arm != "iwocs":
        policy = plain(task, setting.steps, randomise=task.arm == "randomised").policy
        return [summary(judged(policy.member(i), setting, seed)) for i, seed in enumerate(task.seeds)]
    rows = []
    for sequence, seed in zip(sequences(task), task.seeds, strict=True):
        found = [judged(row.policy, setting, seed) for row in sequence.history]
        best = sequence.history.index(sequence.best)  # by the search's episodes
        seen = [{"model": r.model, "threshold": r.threshold, "found": asdict(r.found)} for r in sequence.history]
        by_iteration = [float(each.means.min()) for each in found]
        rows.append(summary(found[best]) | {"history": seen, "best": best, "by iteration": by_iteration})
    return rows


def plain(task: Task, steps: int, *, randomise: bool) -> SAC:
    """SAC for so many environment steps, on the environment as it is made or on randomised physics; a member a seed."""
    setting, copies = task.setting, (len(task.seeds),)
    seed = seed_of(task.seeds, "training")
    sac, source = learner(setting.env_id, setting.parameters, setting.config, seed=seed, method=SAC, copies=copies, randomise=randomise)
    return _descended(sac, source, setting.config.updates_of(steps))[0]


def sequences(task: Task) -> list[StaticProblems]:
    """IWOCS on all seeds, in lockstep."""
    setting, config = task.setting, task.setting.config
    default = plain(task, config.default_steps, randomise=True).policy

    def solve(i: int, going: Sequence[int], points: Sequence[tuple[float, ...]]) -> list[Solution]:
        seed = seed_of([task.seeds[k] for k in going], f"model {i}")
        sac, source = learner(setting.env_id, setting.parameters, config, points, seed=seed, copies=(len(points),))
        assert isinstance(sac, StaticSAC)
        return solutions(*_descended(sac, source, config.updates_of(config.model_steps)))

    def search(policy: Policy) -> Found:
        options: dict[str, Any] = {"search": setting.search, "episodes": setting.search_episodes, "seed": seed_of(task.seeds, "search")}
        return Found(*worst_case(policy, setting.env_id, setting.parameters, **options))

    return iwocs([default.member(i) for i in range(len(task.seeds))], solve, search, config)


def _descended(sac: Any, source: Any, updates: int) -> tuple[Any, Any]:
    for _ in range(updates):
        sac.update(next(source))
    source.close()
    return sac, source


def judged(policy: Policy, setting: Setting, seed: int) -> Stress:
    return stress(policy, setting.env_id, setting.parameters, episodes=setting.episodes, seed=derived(seed, "evaluation"))


def summary(found: Stress) -> dict[str, Any]:
    means = found.means
    return {"worst": float(means.min()), "average": float(means.mean()), "means": means.round(1).tolist()}


def in_tables(context: Context) -> Scores:
    """The windy walk, from a model that the seed draws: the worst value of IWOCS's policy, and the robust value."""
    kernels, reward, start = windy_walk(np.linspace(0.0, 0.5, 25))
    models = Models.of(kernels, reward, 0.95, start)
    firsts = [int(np.random.default_rng(derived(seed, "first model")).integers(len(models))) for seed in context.seeds]
    solved = [iwocs_in_tables(models, first) for first in firsts]
    robust = float(robust_value_iteration(models)[start].max())
    return {
        TABLES: {
            "iwocs": context.arm([each.value for each in solved]),
            "robust value iteration": context.arm([robust] * len(solved)),
            "models solved": context.arm([len(each.models) for each in solved]),
        }
    }


def _tell(say: Callable[[str], None], i: int, task: Task) -> None:
    say(f"{task.setting.env_id}, {task.arm}: {len(task.seeds)} members trained and judged")


# --- checks -----------------------------------------------------------------------------------------------------------


def checks(scores: Scores) -> list[Check]:
    out = []
    for panel in scores:
        if panel.endswith(PROGRESS):
            out.append(steady(scores, panel))
        elif panel.endswith(WORST):
            out += [in_every_seed(scores, panel), ahead(scores, panel)]
        elif panel == TABLES:
            out.append(exact(scores))
    return out


def in_every_seed(scores: Scores, panel: str) -> Check:
    """IWOCS is ahead of both baselines, seed by seed."""
    gaps = [per_seed(scores, panel, "iwocs") - per_seed(scores, panel, arm) for arm in BASELINES]
    least = float(np.min(gaps))
    statement = "in every seed IWOCS's worst-case return exceeds those of both baselines (value: least difference)"
    return stated(f"every seed, {panel}", statement, panel, least, least > 0.0, threshold=0.0)


def ahead(scores: Scores, panel: str) -> Check:
    """The mean difference to the better baseline, with its interval (Student's t: so few seeds allow no bootstrap)."""
    better = max(BASELINES, key=lambda arm: per_seed(scores, panel, arm).mean())
    gaps = per_seed(scores, panel, "iwocs") - per_seed(scores, panel, better)
    one_sided = mean_interval(gaps, level=0.8).low  # the lower end of a one-sided 90 % interval
    return stated(
        f"ahead, {panel}",
        f"IWOCS's worst-case return exceeds that of the better baseline ({better}): lower end of the one-sided 90 % interval above 0",
        panel,
        float(gaps.mean()),
        one_sided > 0.0,
        threshold=0.0,
        interval=mean_interval(gaps),
    )


def steady(scores: Scores, panel: str) -> Check:
    """More models do not make the worst case worse."""
    kept = per_seed(scores, panel, "last model") / np.maximum(per_seed(scores, panel, "first model"), 1e-9)
    statement = "in every seed the worst case with the last model is at least 95 % of that with the first (value: least ratio)"
    return stated(f"steady, {panel}", statement, panel, float(kept.min()), bool(kept.min() >= 0.95), threshold=0.95)


def exact(scores: Scores) -> Check:
    """The tabular instance reaches the robust value."""
    off = float(np.abs(per_seed(scores, TABLES, "iwocs") - per_seed(scores, TABLES, "robust value iteration")).max())
    statement = "in the windy walk IWOCS's worst value is that of robust value iteration, from any first model (value: largest difference)"
    return stated("tables", statement, TABLES, off, off <= 1e-6, threshold=1e-6)


CLAIM = Claim(
    slug="iwocs",
    title="Solving robust MDPs as a sequence of static RL problems",
    statement="At equal environment steps, SAC on a few worst models, one after the other, acting by the most pessimistic plausible one, "
    "has a better worst case over a set of physics than SAC on the nominal or on random physics; in tables it reaches the robust value.",
    seeds=3,
    arms={
        "nominal": "SAC in the environment as it is made",
        "randomised": "SAC with the physics drawn anew from the set at each reset",
        "iwocs": "a shorter such default policy, then SAC on the worst models that a search finds; in tables value iteration",
        "default policy": "IWOCS before any model was solved",
        "first model": "IWOCS after its first model",
        "last model": "IWOCS in the end",
        "robust value iteration": "the model chosen anew for every state and action",
        "models solved": "how many models IWOCS solved",
    },
    panels={
        WORST: "least mean return of 5 episodes over a 10 x 10 grid of pole and cart masses, of 1000",
        AVERAGE: "mean return over that grid, of 1000",
        PROGRESS: "least mean return over the grid, of 1000",
        TABLES: "worst discounted value over 25 winds from the start",
        **{
            f"{env} {which}: {panel}": f"{what} return over a grid of 10 values of each parameter"
            for env, which in FULL_SETS
            for panel, what in ((WORST, "least mean"), (AVERAGE, "mean"), (PROGRESS, "least mean"))
        },
    },
    scales={
        "small": "InvertedPendulum, pole mass 1 to 31 and cart mass 1 to 11; "
        f"{SMALL.steps:,} environment steps of every arm, 64-64 networks; the windy walk in tables.",
        "full": "The 11 sets of six MuJoCo environments, 4 or 5 million steps of every arm, CMA-ES; days of computing. M2TD3 and RARL "
        "are not among the arms.",
    },
    run=run,
    checks=checks,
)
