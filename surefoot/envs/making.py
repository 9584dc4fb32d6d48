"""Gymnasium's registry with our errors: what an id stands for, what it shows and takes, how long its episodes may be."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.envs.registration import EnvSpec
from gymnasium.wrappers import FlattenObservation, FrameStackObservation

from surefoot.data.spec import Continuous, Discrete, Spec
from surefoot.envs.wrappers import NoisyObservation
from surefoot.errors import ConfigError, EnvError, UnknownNameError


def env_spec(env_id: str) -> EnvSpec:
    """Gymnasium's entry for an id (`module:Name-v0` imports the module first). Raises UnknownNameError or EnvError."""
    module, _, name = env_id.rpartition(":")
    try:
        if module:
            import_module(module)
        return gym.spec(name)
    except ModuleNotFoundError as error:
        raise EnvError(f"environment {env_id!r}: the module {error.name!r} cannot be imported: is it installed?") from None
    except gym.error.Error:
        raise UnknownNameError("environment", env_id, gym.registry) from None


def make_env(env_id: str, **options: Any) -> gym.Env:
    """One environment. Raises EnvError in a sentence where Gymnasium cannot make it (a missing package, an old version)."""
    spec = env_spec(env_id)
    try:
        return gym.make(spec, **options)
    except (gym.error.Error, ImportError) as error:
        raise EnvError(f"environment {env_id!r} cannot be made: {str(error).splitlines()[0]}") from None


def env_spaces(env_id: str) -> Spec:
    """What an environment shows and takes."""
    env = make_env(env_id)
    env.close()
    return Spec.from_env(env)


def time_limit(env_id: str, max_steps: int | None = None) -> int:
    """Steps after which an episode is cut off. Raises EnvError if neither the environment nor the caller gives a number."""
    limit = max_steps if max_steps is not None else env_spec(env_id).max_episode_steps
    if limit is None:
        raise EnvError(f"environment {env_id!r} has no time limit of its own: give a number of steps (max_steps).")
    if limit < 1:
        raise ConfigError(f"max_steps is {limit}: it must be at least 1.")
    return limit


Wrap = Callable[[gym.Env], gym.Env]


def training_env(
    env_id: str, *, frame_stack: int = 1, noise: float = 0.0, max_steps: int | None = None, wrap: Wrap | None = None
) -> gym.Env:
    """One environment to learn in: env -> `wrap` (other physics, say) -> noise -> frame stack -> flatten.

    Noise is drawn once for each new frame; `frame_stack` > 1 shows the last frames in one vector, oldest first, the first frame
    repeated at an episode's start: what `FrameStack(policy, frame_stack)` shows its inner policy in the environment without
    wrappers. `max_steps`: the time limit (None: the environment's own).
    """
    if frame_stack < 1:
        raise ConfigError(f"frame_stack is {frame_stack}: an observation holds at least 1 frame.")
    env = make_env(env_id, max_episode_steps=time_limit(env_id, max_steps), disable_env_checker=True)
    if wrap is not None:
        env = wrap(env)
    if noise != 0.0:
        env = NoisyObservation(env, noise)
    if frame_stack > 1:
        env = FlattenObservation(FrameStackObservation(env, frame_stack))
    return env


def check_fits(what: str, ours: Spec, env_id: str, env: Spec) -> None:
    """Raises EnvError unless `what` ("the policy"), built for `ours`, sees and does what the environment shows and takes."""
    if ours.obs_shape != env.obs_shape:
        raise EnvError(f"environment {env_id!r} shows observations of shape {env.obs_shape}, but {what} expects {ours.obs_shape}.")
    if isinstance(ours.action, Continuous) and isinstance(env.action, Continuous):
        fits = ours.action.dim == env.action.dim and np.allclose((ours.action.low, ours.action.high), (env.action.low, env.action.high))
    else:
        fits = ours.action == env.action
    if not fits:
        raise EnvError(f"environment {env_id!r} takes {_words(env.action)}, but {what} gives {_words(ours.action)}.")


def _words(action: Continuous | Discrete) -> str:
    if isinstance(action, Discrete):
        return f"one of {action.n} discrete actions"
    bounds = sorted({*zip(action.low, action.high, strict=True)})
    return f"{action.dim} continuous actions in {' and '.join(f'[{low:g}, {high:g}]' for low, high in bounds)}"
