"""Episodes per second of `rollout` against Stable-Baselines3's `evaluate_policy`, and the wall time of a certificate.

Both sides play the same number of episodes of the same environment with the same network, 256-256 on one thread, in one
process, one after the other, repeated in turn. The CartPole network is set by hand to push the way the pole leans,
so that both play episodes of nearly 500 steps; evaluate_policy is given the number of side by side environments that suits
it best. Making the environments is counted for `rollout`, which makes them anew each time, and not for evaluate_policy.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import stable_baselines3
import torch
from stable_baselines3 import DQN, TD3
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy

from benchmarks.measuring import RESULTS, cpu_seconds, write
from surefoot.data.spec import Discrete, Spec
from surefoot.evaluation.certificates import certify
from surefoot.evaluation.rollouts import rollout
from surefoot.policies.families import Categorical
from surefoot.policies.frame_stack import FrameStack
from surefoot.policies.sb3 import StableBaselines3Policy
from surefoot.steering.smoothed import Smoothed

REPEATS = 3
EPISODES = 10_000  # of the certificate
SIDE_BY_SIDE = (1, 8, 32, 128)  # what evaluate_policy is tried with


def best_time(work: Callable[[], Any]) -> float:
    """Least CPU time in seconds of a few repeats."""
    return min(cpu_seconds(work) for _ in range(REPEATS))


def lean(linear_layers: list[torch.nn.Linear]) -> None:
    """Set a 4 -> 256 -> 256 -> 2 network to prefer the side the pole leans to (angle plus angular velocity)."""
    with torch.no_grad():
        for layer in linear_layers:
            layer.weight.zero_()
            layer.bias.zero_()
        first, second, last = linear_layers
        first.weight[0] = torch.tensor([0.0, 0.0, 1.0, 1.0])
        first.weight[1] = -first.weight[0]
        second.weight[0, 0] = second.weight[1, 1] = 1.0
        last.weight[1, 0] = last.weight[0, 1] = 1.0


def models() -> dict[str, tuple[Any, int]]:
    """Models and episodes, by environment."""
    architecture = {"net_arch": [256, 256]}
    dqn = DQN("MlpPolicy", "CartPole-v1", policy_kwargs=architecture, device="cpu", buffer_size=1, seed=0)
    lean([m for m in dqn.policy.q_net.modules() if isinstance(m, torch.nn.Linear)])
    td3 = {
        env: TD3("MlpPolicy", env, policy_kwargs=architecture, device="cpu", buffer_size=1, seed=0) for env in ("Pendulum-v1", "Hopper-v5")
    }
    return {"CartPole-v1": (dqn, 200), "Pendulum-v1": (td3["Pendulum-v1"], 100), "Hopper-v5": (td3["Hopper-v5"], 100)}


def against_stable_baselines3(env: str, model: Any, episodes: int) -> dict[str, Any]:
    """Steps a second of both, on the same model; theirs with the number of environments that suits it best."""
    policy = StableBaselines3Policy(model, "benchmark")
    ours = rollout(policy, env, episodes, seed=0)
    rate = ours.lengths.sum() / best_time(lambda: rollout(policy, env, episodes, seed=0))
    theirs = {}
    for n in SIDE_BY_SIDE:
        venv = make_vec_env(env, n, seed=0)
        venv.reset()
        lengths: list[int] = []

        def play(venv: Any = venv, lengths: list[int] = lengths) -> None:
            lengths[:] = evaluate_policy(model, venv, n_eval_episodes=episodes, return_episode_rewards=True)[1]

        elapsed = best_time(play)
        theirs[n] = sum(lengths) / elapsed
        venv.close()
    best = max(theirs, key=lambda n: theirs[n])
    return {
        "environment": env,
        "episodes": episodes,
        "steps of an episode": float(ours.lengths.mean()),
        "surefoot": float(rate),
        "Stable-Baselines3": theirs[best],
        "its environments side by side": best,
        "times Stable-Baselines3": float(rate) / theirs[best],
    }


def lean_stack(policy: Any) -> None:
    """A 20-256-256-2 network that averages the lean over the five frames, so that it survives the noise."""
    with torch.no_grad():
        for tensor in policy.net.parameters():
            tensor.zero_()
        w = policy.net.weights
        direction = torch.tensor([0.0, 0.0, 1.0, 1.0]).repeat(5)
        w[0][:, 0], w[0][:, 1] = direction, -direction
        w[1][0, 0] = w[1][1, 1] = 1.0
        w[2][0, 1] = w[2][1, 0] = 1.0


def main(out: Path = RESULTS) -> None:
    """Write `rollouts.json`: steps per second of greedy episodes."""
    rows = [against_stable_baselines3(env, model, episodes) for env, (model, episodes) in models().items()]
    write("rollouts", rows, out, note=f", Stable-Baselines3 {stable_baselines3.__version__}")


def certificate(out: Path = RESULTS) -> None:
    """Write `certificate.json`: 10,000 noisy CartPole episodes of 200 steps, 5 stacked frames, and the bounds at 101 budgets."""
    stacked = Categorical(Spec((20,), Discrete(2)), (256, 256))
    lean_stack(stacked)
    policy = Smoothed(FrameStack(stacked, 5), 0.2)
    budgets = np.linspace(0.0, 1.0, 101)
    start = time.perf_counter()
    certified = certify(policy, "CartPole-v1", budgets, episodes=EPISODES, max_steps=200)
    row = {
        "environment": "CartPole-v1",
        "episodes": EPISODES,
        "mean return": float(certified.returns.mean()),
        "certified at budget 0.1": float(certified.lower[10]),
        "wall seconds": time.perf_counter() - start,
    }
    write("certificate", [row], out)
