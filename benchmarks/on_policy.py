"""PPO beside Stable-Baselines3's and CleanRL's at equal settings: steps a second, and what was learned in equally many steps.

Every side has 8 environments of 256 steps, minibatches of 64, 10 epochs, two hidden layers of 64, a learning rate of 3e-4, and scales
observations and rewards by running statistics; on CartPole nobody scales, because CleanRL's file for discrete actions does not.
The sides of a seed take turns in one process, on one thread; two such processes run at a time. Returns are those of 20 greedy
episodes in the environment's own units. One difference is left: CleanRL takes a time limit for a termination.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import stable_baselines3
import torch
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import VecNormalize

from benchmarks import cleanrl
from benchmarks.measuring import RESULTS, cpu_seconds, write
from surefoot.data.rollouts import Rollouts
from surefoot.envs.making import env_spaces
from surefoot.evaluation.rollouts import rollout
from surefoot.evaluation.statistics import mean_interval, welch
from surefoot.methods.online.ppo import PPO, PPOConfig

ENVS, LENGTH, MINIBATCH, EPOCHS, EPISODES = 8, 256, 64, 10, 20
UPDATES = {"CartPole-v1": 30, "Pendulum-v1": 74, "Hopper-v5": 50, "HalfCheetah-v5": 50}
UNSCALED = ("CartPole-v1",)
SEEDS, JOBS = range(5), 2

Measured = tuple[float, float]
"""Steps a second of CPU time, and the mean return."""


def steps_of(env: str) -> int:
    return UPDATES[env] * ENVS * LENGTH


def ours(env: str, seed: int) -> Measured:
    raw = env in UNSCALED
    config = PPOConfig(n_steps=LENGTH, n_envs=ENVS, minibatch=MINIBATCH, epochs=EPOCHS, raw_obs=raw, raw_reward=raw)
    method = PPO(env_spaces(env), config, seed=seed)
    source = Rollouts(env, method.policy, LENGTH, n_envs=ENVS, seed=seed)

    def train() -> None:
        for _ in range(UPDATES[env]):
            method.update(next(source))

    elapsed = cpu_seconds(train)
    source.close()
    return steps_of(env) / elapsed, float(rollout(method.policy, env, EPISODES, seed=1000 + seed).returns.mean())


def stable(env: str, seed: int) -> Measured:
    venv: Any = make_vec_env(env, ENVS, seed=seed)
    if env not in UNSCALED:
        venv = VecNormalize(venv)
    model = stable_baselines3.PPO("MlpPolicy", venv, n_steps=LENGTH, batch_size=MINIBATCH, n_epochs=EPOCHS, seed=seed, device="cpu")
    elapsed = cpu_seconds(lambda: model.learn(steps_of(env)))
    venv.training = venv.norm_reward = False
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it is not a Monitor, which the environments inside are
        returns = evaluate_policy(model, venv, n_eval_episodes=EPISODES)[0]
    venv.close()
    return steps_of(env) / elapsed, float(np.mean(returns))


def clean(env: str, seed: int) -> Measured:
    elapsed, policies = cleanrl.learn(env, steps_of(env), seed, envs=ENVS, length=LENGTH, minibatch=MINIBATCH, epochs=EPOCHS)
    return steps_of(env) / elapsed, float(cleanrl.returns(policies, env, EPISODES, seed=1000 + seed).mean())


def sides() -> dict[str, Callable[[str, int], Measured]]:
    """Who is measured: CleanRL only where its files are."""
    both: dict[str, Callable[[str, int], Measured]] = {"surefoot": ours, "Stable-Baselines3": stable}
    return both | {"CleanRL": clean} if cleanrl.available() else both


def measured(env: str, seed: int) -> dict[str, Measured]:
    """All sides of one seed, in turn."""
    torch.set_num_threads(1)
    return {name: learn(env, seed) for name, learn in sides().items()}


def speed_row(env: str, found: Sequence[Mapping[str, Measured]]) -> dict[str, Any]:
    """Median steps a second of each side over the seeds, and how many times theirs ours are."""
    rates = {name: float(np.median([run[name][0] for run in found])) for name in found[0]}
    times = {f"times {name}": rates["surefoot"] / rate for name, rate in rates.items() if name != "surefoot"}
    return {"environment": env} | {f"{name}, steps/s": rate for name, rate in rates.items()} | times


def return_row(env: str, found: Sequence[Mapping[str, Measured]]) -> dict[str, Any]:
    """Mean return of each side and its interval over the seeds, and ours less theirs."""
    returns = {name: [run[name][1] for run in found] for name in found[0]}
    cells: dict[str, Any] = {"environment": env, "steps": steps_of(env), "seeds": len(found)}
    for name, values in returns.items():
        mean = mean_interval(values)
        cells[name] = f"{mean.value:,.0f} [{mean.low:,.0f}, {mean.high:,.0f}]"
    for name in [name for name in returns if name != "surefoot"]:
        apart = welch(returns["surefoot"], returns[name])
        cells[f"surefoot less {name}"] = f"{apart.difference:,.0f} [{apart.low:,.0f}, {apart.high:,.0f}]"
    return cells


def main(out: Path = RESULTS) -> None:
    """Write `on_policy.json`, the speed, and `on_policy_returns.json`, what was learned."""
    with ProcessPoolExecutor(JOBS, mp_context=get_context("spawn")) as pool:
        runs = {env: [pool.submit(measured, env, seed) for seed in SEEDS] for env in UPDATES}
        found = {env: [run.result() for run in submitted] for env, submitted in runs.items()}
    theirs = f"CleanRL {cleanrl.COMMIT[:7]}" if cleanrl.available() else "without CleanRL, whose files were not there"
    note = f", two processes at a time, Stable-Baselines3 {stable_baselines3.__version__}, {theirs}"
    write("on_policy", [speed_row(env, rows) for env, rows in found.items()], out, note=note)
    write("on_policy_returns", [return_row(env, rows) for env, rows in found.items()], out, note=note)
