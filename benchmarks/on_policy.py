"""PPO beside Stable-Baselines3's at equal settings: steps a second, and the return of what was learned, in the same number of steps.

Both sides have 8 environments of 256 steps, minibatches of 64, 10 epochs, two hidden layers of 64, scaled observations and rewards, one
thread. Runs are taken in turn, seed by seed. Returns are those of 20 greedy episodes in the environment's own units.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import stable_baselines3
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import VecNormalize

from benchmarks.measuring import RESULTS, cpu_seconds, write
from surefoot.data.rollouts import Rollouts
from surefoot.envs.making import env_spaces
from surefoot.evaluation.rollouts import rollout
from surefoot.evaluation.statistics import mean_interval, welch
from surefoot.methods.online.ppo import PPO, PPOConfig

ENVS, STEPS, MINIBATCH, EPOCHS, EPISODES = 8, 256, 64, 10, 20
RUNS = {"CartPole-v1": 60_000, "Pendulum-v1": 150_000, "Hopper-v5": 100_000, "HalfCheetah-v5": 100_000}
SEEDS = range(3)


def ours(env: str, steps: int, seed: int) -> tuple[float, float]:
    """Steps a second of CPU time, and the return."""
    method = PPO(env_spaces(env), PPOConfig(n_steps=STEPS, n_envs=ENVS, minibatch=MINIBATCH, epochs=EPOCHS), seed=seed)
    source = Rollouts(env, method.policy, STEPS, n_envs=ENVS, seed=seed)

    def train() -> None:
        while method.steps < steps:
            method.update(next(source))

    elapsed = cpu_seconds(train)
    source.close()
    return method.steps / elapsed, float(rollout(method.policy, env, EPISODES, seed=1000 + seed).returns.mean())


def theirs(env: str, steps: int, seed: int) -> tuple[float, float]:
    venv = VecNormalize(make_vec_env(env, ENVS, seed=seed))
    model = stable_baselines3.PPO("MlpPolicy", venv, n_steps=STEPS, batch_size=MINIBATCH, n_epochs=EPOCHS, seed=seed, device="cpu")
    elapsed = cpu_seconds(lambda: model.learn(steps))
    venv.training = venv.norm_reward = False
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it is not a Monitor, which the environments inside are
        returns = evaluate_policy(model, venv, n_eval_episodes=EPISODES)[0]
    venv.close()
    return model.num_timesteps / elapsed, float(np.mean(returns))


def row(env: str, steps: int) -> dict[str, Any]:
    """All seeds of both sides, in turn."""
    found = {"surefoot": [], "Stable-Baselines3": []}
    for seed in SEEDS:
        found["surefoot"].append(ours(env, steps, seed))
        found["Stable-Baselines3"].append(theirs(env, steps, seed))
    rates, returns = ({name: np.array(runs)[:, i] for name, runs in found.items()} for i in (0, 1))
    apart = welch(returns["surefoot"], returns["Stable-Baselines3"])
    cells: dict[str, Any] = {"environment": env, "steps": steps, "seeds": len(SEEDS)}
    for name in found:
        mean = mean_interval(returns[name])
        cells[f"{name}, steps/s"] = float(np.median(rates[name]))
        cells[f"{name}, return"] = f"{mean.value:,.0f} [{mean.low:,.0f}, {mean.high:,.0f}]"
    cells["times Stable-Baselines3"] = float(np.median(rates["surefoot"]) / np.median(rates["Stable-Baselines3"]))
    cells["return apart"] = f"{apart.difference:,.0f} [{apart.low:,.0f}, {apart.high:,.0f}]"
    return cells


def main(out: Path = RESULTS) -> None:
    """Write `on_policy.json`."""
    rows = [row(env, steps) for env, steps in RUNS.items()]
    write("on_policy", rows, out, note=f", Stable-Baselines3 {stable_baselines3.__version__}")
