"""CleanRL's PPO as its authors wrote it: its two files, one for discrete and one for continuous actions, are run unchanged.

They come from its repository at COMMIT, into FOLDER (`make bench` puts them there). Its environment is older than ours, so that two
names of Gymnasium 0.29 that have changed since are lent to the files while they run: `TransformObservation` now asks for a
space, and `SyncVectorEnv` would begin the next episode one step later. Their clock is made to count CPU time, as ours does.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import runpy
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

import gymnasium as gym
import numpy as np
import torch

COMMIT = "fe8d8a03c41a7ef5b523e2e354bd01c363e786bb"
FOLDER = Path(__file__).parents[1] / ".venv-peers" / "cleanrl"
FILES = {
    "ppo.py": "d8dfbb7ac0b21e747b77d6e6673e566db4d6cdacc83bcebcd19cf87ad0e459ae",
    "ppo_continuous_action.py": "326dd8678bf9cc51abec833eb551ef2409a3804d604b689e1f0a084eca41f655",
}
"""SHA-256 of each: other code is not run."""

Policy = Callable[[np.ndarray], np.ndarray]
"""The action for one observation."""


def available() -> bool:
    """Whether the files are there; raises RuntimeError if they are other files."""
    for name, digest in FILES.items():
        path = FOLDER / name
        if not path.exists():
            return False
        if hashlib.sha256(path.read_bytes()).hexdigest() != digest:
            raise RuntimeError(f"{path} is not CleanRL's file at {COMMIT[:7]}: delete it and run `make bench` again.")
    return True


class SameStep(gym.vector.SyncVectorEnv):
    """As it was: an episode that ends begins anew in the same step. Returns of episodes, which the files only print, are left out."""

    def __init__(self, env_fns: Sequence[Callable[[], gym.Env]]):
        super().__init__(env_fns, autoreset_mode=gym.vector.AutoresetMode.SAME_STEP)

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        return (*super().step(actions)[:4], {})


@contextlib.contextmanager
def _lent(arguments: list[str]) -> Iterator[None]:
    """What the files find while they run: a command line, an empty folder to log into, older names, a clock of CPU time."""
    transform, here = gym.wrappers.TransformObservation, Path.cwd()
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        stack.callback(os.chdir, here)
        os.chdir(folder)
        stack.enter_context(contextlib.redirect_stdout(stack.enter_context(open(os.devnull, "w"))))
        stack.enter_context(patch.object(sys, "argv", arguments))
        stack.enter_context(patch.object(gym.vector, "SyncVectorEnv", SameStep))
        stack.enter_context(patch.object(gym.wrappers, "TransformObservation", lambda env, f: transform(env, f, env.observation_space)))
        stack.enter_context(patch.object(time, "time", time.process_time))
        stack.enter_context(warnings.catch_warnings())
        warnings.filterwarnings("ignore", module="tyro")  # of the types in their command line
        yield


def learn(env_id: str, steps: int, seed: int, *, envs: int, length: int, minibatch: int, epochs: int) -> tuple[float, list[Policy]]:
    """CPU seconds of learning, and what was learned, as each of its environments sees the world.

    Settings are Stable-Baselines3's, which are ours: CleanRL's own have another weight of the value loss, clip it, and let the learning
    rate fall.
    """
    with gym.make(env_id) as env:
        file = "ppo.py" if isinstance(env.action_space, gym.spaces.Discrete) else "ppo_continuous_action.py"
    sizes = {"num-envs": envs, "num-steps": length, "num-minibatches": envs * length // minibatch, "update-epochs": epochs}
    losses = {"learning-rate": 3e-4, "ent-coef": 0.0, "vf-coef": 1.0}  # their value loss is half the squared error
    options = {"env-id": env_id, "seed": seed, "total-timesteps": steps} | sizes | losses
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    with _lent([file, *words, "--no-anneal-lr", "--no-clip-vloss", "--no-cuda"]):
        found = runpy.run_path(str(FOLDER / file), run_name="__main__")
        seconds = time.time() - found["start_time"]
    return seconds, [functools.partial(_greedy, found["agent"], _scaling(env)) for env in found["envs"].envs]


def _scaling(env: gym.Env) -> Callable[[np.ndarray], np.ndarray]:
    """What an environment of theirs, each of which has statistics of its own, makes of an observation."""
    if not env.has_wrapper_attr("obs_rms"):
        return lambda obs: obs
    moments = env.get_wrapper_attr("obs_rms")
    return lambda obs: np.clip((obs - moments.mean) / np.sqrt(moments.var + 1e-8), -10.0, 10.0)


@torch.no_grad()
def _greedy(agent: Any, scaling: Callable[[np.ndarray], np.ndarray], obs: np.ndarray) -> np.ndarray:
    seen = torch.as_tensor(scaling(obs), dtype=torch.float32).unsqueeze(0)
    if hasattr(agent, "actor_mean"):
        return agent.actor_mean(seen)[0].numpy()
    return agent.actor(seen)[0].argmax().numpy()


def returns(policies: list[Policy], env_id: str, episodes: int, seed: int) -> np.ndarray:
    """Returns `[episodes]` of greedy episodes, which the policies play in turn."""
    env, found = gym.make(env_id), np.zeros(episodes)
    if isinstance(env.action_space, gym.spaces.Box):
        env = gym.wrappers.ClipAction(env)
    for i in range(episodes):
        obs, _ = env.reset(seed=seed + i)
        over = False
        while not over:
            obs, reward, terminated, truncated, _ = env.step(policies[i % len(policies)](obs))
            found[i] += float(reward)
            over = terminated or truncated
    env.close()
    return found
