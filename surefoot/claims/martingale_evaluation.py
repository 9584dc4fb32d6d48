"""Martingale evaluation's claim: as steps shrink, what is built on martingales keeps its error; the mean-square TD error does not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from surefoot.claims.base import Check, Claim, Context, Scores, derived, difference, finite_ends, per_seed, stated
from surefoot.claims.fleets import seed_of
from surefoot.data.path_tables import read_paths
from surefoot.data.paths import PathBatch
from surefoot.envs.diffusions import Problem, brownian_power, call_option, decaying_square
from surefoot.evaluation.statistics import welch
from surefoot.methods.exact.continuous_gtd import GTDConfig, fit_gtd
from surefoot.methods.exact.continuous_lstd import fit_linear
from surefoot.methods.exact.continuous_time import Criterion, Steps, batches_of, returns_to_go
from surefoot.methods.exact.martingale_diagnostics import relative_error
from surefoot.methods.exact.martingale_evaluation import MartingaleConfig, fit_network
from surefoot.methods.exact.value_functions import NetworkValue
from surefoot.training.engines import run_tasks

SOUND = ("ml", "ctd0", "ctd")
NETWORKS = ("mstde", *SOUND)
LINEAR = ("cgtd2", "clstd0")
MESHES = (0.1, 0.02, 0.01)
FULL_MESHES = (0.1, 0.05, 0.02, 0.01, 0.005)
PATHS, JUDGED = 20_000, 4_000  # of the linear solvers, and of the evaluation
LEVEL = 0.01  # of the tests that compare meshes

MISSPECIFIED = {"clstd0": 1.5, "clstd 0.01": 1.856956, "clstd 0.1": 1.958487, "clstd 0.5": 2.053145, "clstd 0.9": 2.092662, "lsmc": 2.1}
"""Coefficient of x tau for r = x^3 that each estimator finds in the limit: the test function decides in what sense it is the best."""


@dataclass(frozen=True)
class Task:
    """One arm on one mesh, all seeds as one fleet."""

    problem: str  # of PROBLEMS
    arm: str
    dt: float
    seeds: tuple[int, ...]
    iterations: int


PROBLEMS: dict[str, Callable[[], Problem]] = {"square": decaying_square, "call": call_option}


def run(context: Context) -> Scores:
    if context.scale == "full" and context.data is not None:
        return own_log(context, context.data)
    full = context.scale == "full"
    iterations = 5 * MartingaleConfig().iterations if full else MartingaleConfig().iterations
    seeds = tuple(context.seeds)
    meshes = FULL_MESHES if full else MESHES
    tasks = [Task("square", arm, dt, seeds, iterations) for dt in meshes for arm in (*NETWORKS, *LINEAR)]
    tasks += [Task("call", arm, dt, seeds, iterations) for dt in meshes for arm in NETWORKS] if full else []
    outcomes = run_tasks(judge, tasks, jobs=context.jobs, done=partial(_tell, context.say))
    scores: Scores = {}
    for task, (known, same_mesh) in zip(tasks, outcomes, strict=True):
        scores.setdefault(panel(task.dt, task.problem), {})[task.arm] = context.arm(known)
        if same_mesh is not None:
            scores.setdefault(f"same mesh {task.dt:g}", {})[task.arm] = context.arm(same_mesh)
    found = misspecified(context.seeds)
    return scores | {"misspecified": {arm: context.arm(found[:, i]) for i, arm in enumerate(MISSPECIFIED)}}


def panel(dt: float, problem: str = "square") -> str:
    return f"dt {dt:g}" if problem == "square" else f"{problem}, dt {dt:g}"


def _tell(say: Any, i: int, task: Task) -> None:
    say(f"{task.problem}, dt {task.dt:g}: {task.arm} fitted and judged")


def judge(task: Task) -> tuple[list[float], list[float] | None]:
    """Relative L2 errors, one a seed: against the closed form, and (square) against the value of the simulated chain itself."""
    problem = PROBLEMS[task.problem]()
    value = fit(task, problem)
    fresh = problem.batch(JUDGED, task.dt, generators(task.seeds, "evaluation"))
    known = relative_error(value, problem.value, fresh).tolist()
    if task.problem != "square":
        return known, None
    return known, relative_error(value, partial(chain_value, dt=task.dt), fresh).tolist()


def fit(task: Task, problem: Problem) -> Any:
    """A value function with one copy a seed. All arms but CLSTD, which takes 20,000 at once, see the same paths of a seed."""
    rngs = generators(task.seeds, "data")
    if task.arm == "clstd0":
        return fit_linear([problem.batch(PATHS // 10, task.dt, rngs) for _ in range(10)], features, "clstd0")
    if task.arm == "cgtd2":
        return fit_gtd(stream(problem, 64, task.dt, rngs), features, GTDConfig("cgtd2", iterations=task.iterations))
    config = MartingaleConfig(task.arm, rho=problem.rho, iterations=task.iterations)
    seed = seed_of(list(task.seeds), "training")
    batches = stream(problem, config.batch_size, task.dt, rngs)
    scaled = task.problem != "square"  # whose states, times and values are of order one
    return fit_network(batches, config, terminal=problem.payoff, scaled=scaled, copies=(len(task.seeds),), seed=seed)


def features(x: np.ndarray, tau: np.ndarray) -> dict[str, np.ndarray]:
    square = x[..., 0] ** 2
    return {"x^2 tau": square * tau, "tau": tau, "tau^2": tau**2, "x^2 tau^2": square * tau**2}


def generators(seeds: tuple[int, ...], purpose: str) -> list[np.random.Generator]:
    return [np.random.default_rng(derived(seed, purpose)) for seed in seeds]


def stream(problem: Problem, paths: int, dt: float, rngs: list[np.random.Generator]) -> Iterator[PathBatch]:
    """New paths without end."""
    while True:
        yield problem.batch(paths, dt, rngs)


def chain_value(x: np.ndarray, tau: np.ndarray, dt: float) -> np.ndarray:
    """The square problem's value under Euler's scheme itself: k steps before the end J = a_k x^2 + b_k."""
    n = round(1.0 / dt)
    a, b = np.zeros(n + 1), np.zeros(n + 1)
    for k in range(n):  # X' = (1 - dt) X + sqrt(dt) xi, and x^2 dt is earned
        a[k + 1], b[k + 1] = dt + (1.0 - dt) ** 2 * a[k], b[k] + dt * a[k]
    left = np.rint(tau / dt).astype(int)
    return a[left] * x[..., 0] ** 2 + b[left]


def misspecified(seeds: list[int]) -> np.ndarray:
    """theta of J = theta x tau for Brownian motion and r = x^3, `[seeds, estimators]`, from 20,000 paths with steps of 0.01."""
    found = []
    for rng in generators(tuple(seeds), "misspecified"):
        batch = brownian_power(3).batch(PATHS, 0.01, rng)
        found.append([_coefficient(batch, *arm.split()) for arm in MISSPECIFIED])
    return np.array(found)


def _coefficient(batch: PathBatch, estimator: str, lam: str = "0.5") -> float:
    return float(fit_linear(batch, lambda x, tau: [x[..., 0] * tau], estimator, lam=float(lam)).theta[0])


# --- the reader's own log ---------------------------------------------------------------------------------------------


def own_log(context: Context, data: str) -> Scores:
    """Fits on 80 % of the paths, and the root mean square of G - V on the others, in units of the spread of G."""
    paths = read_paths(data)
    if paths.payoff is None:
        paths = replace(paths, payoff=np.zeros(len(paths)))
        context.notes.append("The log has no payoffs: the ends of its paths are taken to pay nothing.")
    arms: dict[str, list[float]] = {arm: [] for arm in NETWORKS}
    for seed in context.seeds:
        fitted, judged = paths.split(0.8, seed=derived(seed, "data"))
        for arm in NETWORKS:
            value = fit_network(fitted, MartingaleConfig(arm), seed=derived(seed, "training"))
            arms[arm].append(held_out(value, list(batches_of(judged))))
            context.say(f"seed {seed}: {arm} fitted and judged")
    return {"held-out": {arm: context.arm(values) for arm, values in arms.items()}}


def held_out(value: NetworkValue, batches: list[PathBatch]) -> float:
    """sqrt of the martingale loss on paths that were held out, over that of the best constant."""
    g = [returns_to_go(batch, Steps.of(batch, Criterion())) for batch in batches]
    v = [value(batch.x, batch.to_go)[..., :-1] for batch in batches]
    returns, values, dt = (np.concatenate([part.reshape(-1) for part in parts]) for parts in (g, v, [batch.dt for batch in batches]))
    spread = np.average(np.square(returns - np.average(returns, weights=dt)), weights=dt)
    return float(np.sqrt(np.average(np.square(returns - values), weights=dt) / spread))


# --- checks ---------------------------------------------------------------------------------------------------------


def checks(scores: Scores) -> list[Check]:
    if "held-out" in scores:
        return [_better(scores, arm) for arm in SOUND]
    meshes = sorted((float(name.removeprefix("dt ")) for name in scores if name.startswith("dt ")), reverse=True)
    coarse, fine = meshes[0], meshes[-1]
    found = [half(scores, panel(dt), SOUND) for dt in meshes]
    found.append(grows(scores, "mstde", panel(coarse), panel(fine)))
    found += [steady(scores, arm, panel(coarse), panel(fine)) for arm in SOUND]
    found.append(exact_answers(scores))
    found += [half(scores, panel(dt), LINEAR, required=False) for dt in meshes]
    found += [steady(scores, arm, f"same mesh {coarse:g}", f"same mesh {fine:g}", required=False) for arm in SOUND]
    return found + [half(scores, name, SOUND, required=False) for name in scores if name.startswith("call, ")]


def half(scores: Scores, name: str, arms: tuple[str, ...], required: bool = True) -> Check:
    """Every one of the arms has less than half of the baseline's error, for every seed."""
    ratio = np.array([per_seed(scores, name, arm) / per_seed(scores, name, "mstde") for arm in arms])
    statement = f"with {name}, for every seed the errors of {', '.join(arms)} are below half of MSTDE's (value: largest ratio)"
    linear = " linear" if arms == LINEAR else ""
    return stated(f"half{linear}, {name}", statement, name, ratio.max(), ratio.max() < 0.5, threshold=0.5, required=required)


def grows(scores: Scores, arm: str, coarse: str, fine: str) -> Check:
    result = welch(per_seed(scores, fine, arm), per_seed(scores, coarse, arm), "greater")
    return Check(
        name=f"{arm} grows",
        statement=f"MSTDE's error is larger with {fine} than with {coarse} (p < {LEVEL:g})",
        panel=fine,
        value=result.difference,
        ci95=finite_ends(result.low, result.high),
        test=result.test,
        p=result.p,
        threshold=0.0,
        required=True,
        holds=bool(result.difference > 0.0 and result.p < LEVEL),
    )


def steady(scores: Scores, arm: str, coarse: str, fine: str, required: bool = True) -> Check:
    """No significant growth: the same test, which must not reject."""
    result = welch(per_seed(scores, fine, arm), per_seed(scores, coarse, arm), "greater")
    return Check(
        name=f"{arm} steady" + ("" if required else ", same mesh"),
        statement=f"the error of {arm} is not significantly larger with {fine} than with {coarse} (p >= {LEVEL:g})",
        panel=fine,
        value=result.difference,
        ci95=finite_ends(result.low, result.high),
        test=result.test,
        p=result.p,
        threshold=None,
        required=required,
        holds=bool(result.p >= LEVEL),
    )


def exact_answers(scores: Scores) -> Check:
    """Each estimator's own answer to a misspecified class."""
    off = [abs(per_seed(scores, "misspecified", arm).mean() / exact - 1.0) for arm, exact in MISSPECIFIED.items()]
    return stated(
        "misspecified",
        "where the class does not hold the value, each estimator finds its own exact answer within 3 % (mean over seeds; value: largest)",
        "misspecified",
        max(off),
        max(off) < 0.03,
        threshold=0.03,
    )


def _better(scores: Scores, arm: str) -> Check:
    negated: Scores = {
        "held-out": {name: {k: (-np.asarray(v)).tolist() for k, v in values.items()} for name, values in scores["held-out"].items()}
    }
    statement = f"on held-out paths {arm}'s error is below MSTDE's"
    return difference(negated, "held-out", arm, "mstde", name=f"{arm} better", statement=statement, same_seeds=True)


CLAIM = Claim(
    slug="martingale-evaluation",
    title="Policy Evaluation and Temporal-Difference Learning in Continuous Time and Space: A Martingale Approach",
    statement="Minimising the mean-square TD error finds a wrong value function, and the more so the smaller the time step; the martingale "
    "loss and martingale orthogonality conditions (CTD) find the right one on every mesh, and which condition is used decides in "
    "what sense a misspecified answer is the best.",
    seeds=5,
    arms={
        "mstde": "network, mean-square TD error with its full gradient",
        "ml": "network, martingale loss",
        "ctd0": "network, CTD(0)",
        "ctd": "network, CTD(lambda), lambda 0.5 per unit of time",
        "cgtd2": "4 linear features, gradient TD on two time scales",
        "clstd0": "4 linear features, CLSTD(0), 20,000 paths",
        **{arm: f"CLSTD(lambda), lambda {arm.split()[1]} per unit of time" for arm in MISSPECIFIED if " " in arm},
        "lsmc": "least-squares Monte Carlo",
    },
    panels={
        **{panel(dt): f"relative L2 error against the closed form, steps of {dt:g}" for dt in FULL_MESHES},
        **{
            f"same mesh {dt:g}": f"relative L2 error against the value of the simulated chain itself, steps of {dt:g}" for dt in FULL_MESHES
        },
        **{panel(dt, "call"): f"relative L2 error of a call option's price, steps of {dt:g}" for dt in FULL_MESHES},
        "misspecified": "coefficient of x tau for Brownian motion with r = x^3, which no coefficient fits",
        "held-out": "root of the martingale loss on held-out paths, over that of the best constant",
    },
    scales={
        "small": "Ornstein-Uhlenbeck, r = x^2, T = 1, steps of 0.1, 0.02 and 0.01: a 2 x 32 tanh network, 1,500 batches of 64 new paths, "
        "judged on 4,000 fresh paths; and a misspecified linear class with 20,000 paths.",
        "full": "Five meshes down to 0.005 with 7,500 batches, and a Black-Scholes call beside it; or a log of the reader's own (--data), "
        "judged on held-out paths. Critics of MuJoCo tasks at several frame skips are not covered.",
    },
    run=run,
    checks=checks,
)
