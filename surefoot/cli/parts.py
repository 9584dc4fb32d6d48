"""What the settings of a run stand for: its log, method, source of batches and evaluation, all seeded by one number."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any, cast

import numpy as np

from surefoot.cli.settings import SessionConfig
from surefoot.data.log import Log
from surefoot.data.replayed import Replayed
from surefoot.data.rollouts import Drawing, Rollouts
from surefoot.data.sources import Logged
from surefoot.data.spec import Spec
from surefoot.data.validation import validate
from surefoot.data.weighting import diagnostics, transition_weights
from surefoot.envs.making import env_spaces, time_limit, training_env
from surefoot.envs.seeding import derive_seed
from surefoot.errors import CheckpointError, ConfigError, EnvError, UnknownNameError
from surefoot.evaluation.during_training import EvaluateEvery
from surefoot.methods.base import Method
from surefoot.methods.registry import ON_POLICY, ONLINE, learner
from surefoot.policies.base import Policy
from surefoot.policies.frame_stack import FrameStack
from surefoot.recipes.registry import Say, open_log
from surefoot.steering.smoothed import Smoothed

METHOD, SOURCE, TRAINING_EPISODES, FINAL_EPISODES, OFFLINE = range(5)
"""Keys of the seeds that derive from --seed."""

ACTING = ONLINE | ON_POLICY
"""Learners that step an environment."""


@dataclass(frozen=True)
class Parts:
    """Everything that learns and judges, ready to go."""

    config: SessionConfig  # with the environment that was found
    log: Log | None
    method: Method
    source: Logged | Replayed | Rollouts
    evaluation: EvaluateEvery | None  # None without an environment, or if it was not asked for
    weighting: dict[str, Any] | None  # kind, alpha and diagnostics, where transitions are weighted
    warnings: list[str]

    def seed(self, key: int) -> int:
        return derive_seed(self.config.seed, key)


def build(config: SessionConfig, say: Say) -> Parts:
    """The parts of a run. Reads the log, makes environments, writes nothing; raises a SurefootError for whatever does not fit."""
    online = config.method in ACTING
    _check_options(config, online)
    warnings: list[str] = []
    log = None if config.data is None else open_log(config.data, progress=say, one_episode=config.one_episode, env_id=config.env)
    env, log = _environment(config, log, warnings)
    config = replace(config, env=env)
    method_class = learner(config.method)
    settings = _hyperparameters(method_class, config)
    spec = _online_spec(config) if online or log is None else log.spec()
    method = method_class(spec, settings, config.copies, config.device, derive_seed(config.seed, METHOD))
    if log is not None:
        method.prepare([log])
    evaluation = None
    if env is not None and config.eval_every:
        evaluation = EvaluateEvery(
            env,
            every=config.eval_every,
            episodes=config.eval_episodes,
            seed=derive_seed(config.seed, TRAINING_EPISODES),
            max_steps=config.max_steps,
            wrap=lambda policy: noisy(framed(policy, config), config),
        )
    if online or log is None:
        source = _rollouts(config, method, settings) if config.method in ON_POLICY else _replayed(config, method, settings, log)
        return Parts(config, log, method, source, evaluation, None, warnings)
    weights, weighting = _weights(config, log)
    seed = derive_seed(config.seed, SOURCE)
    logged = Logged(log, settings.batch_size, copies=config.copies, weights=weights, device=config.device, seed=seed)
    return Parts(config, log, method, logged, evaluation, weighting, warnings)


def framed(policy: Policy, config: SessionConfig) -> Policy:
    """A method's policy as it acts in the environment itself: what a run saves."""
    if config.frame_stack == 1 or config.env is None:
        return policy
    return FrameStack(policy, config.frame_stack, env_spaces(config.env).obs_shape)


def noisy(policy: Policy, config: SessionConfig) -> Policy:
    """A saved policy as a run judges it: with the noise that it learned under."""
    return Smoothed(policy, config.noise) if config.noise > 0.0 else policy


def _check_options(config: SessionConfig, online: bool) -> None:
    """Raises ConfigError for options that are missing or mean nothing for this method."""
    if not online:
        if config.data is None:
            raise ConfigError(
                f"{config.method} learns from a log: name one with --data (a file, minari:ID, or a recipe such as pendulum-mixed)."
            )
        if config.frame_stack > 1 or config.noise > 0.0:
            raise ConfigError(
                f"--frame-stack and --noise are for methods that learn in an environment ({', '.join(ACTING)}), not {config.method}."
            )
        return
    if config.method in ON_POLICY and config.data is not None:
        raise ConfigError(f"{config.method} learns from its own newest steps alone, not from a log: leave --data out.")
    if config.env is None and config.data is None:
        raise ConfigError(f"{config.method} learns in an environment: name one with --env, for example --env Pendulum-v1.")
    if config.weighting != "uniform":
        raise ConfigError(f"--weighting is for methods that learn from a log alone, not {config.method}.")
    if config.data is not None and (config.frame_stack > 1 or config.noise > 0.0):
        raise ConfigError("--frame-stack and --noise do not go with --data: the log holds single frames without that noise.")


def _environment(config: SessionConfig, log: Log | None, warnings: list[str]) -> tuple[str | None, Log | None]:
    """The environment to judge (and learn) in, and the log checked against it, with the environment's own action space.

    One that was asked for must fit; one that the log alone names is left out, with a warning, if it cannot be had here.
    """
    if log is None:
        assert config.env is not None  # see _check_options
        env_spaces(config.env), time_limit(config.env, config.max_steps)
        return config.env, None
    env = config.env or log.env_id
    if env is not None:
        try:
            spec = env_spaces(env)
            time_limit(env, config.max_steps)
            found = validate(log, env=spec, env_id=env)
        except (EnvError, UnknownNameError) as error:
            if config.env is not None:
                raise
            warnings.append(f"the log says that it was recorded in {env}, which is left out: {error}")
        else:
            warnings += found
            return env, replace(log, action=spec.action)
    if config.method in ACTING:
        raise ConfigError(f"{config.method} learns in an environment: name one with --env, for example --env Pendulum-v1.")
    warnings += validate(log)
    return None, log


def _online_spec(config: SessionConfig) -> Spec:
    assert config.env is not None
    env = training_env(config.env, frame_stack=config.frame_stack, noise=config.noise, max_steps=config.max_steps)
    env.close()
    return Spec.from_env(env)


def _hyperparameters(method: type[Method], config: SessionConfig) -> Any:
    """The method's own settings; JSON has lists where they have tuples. Raises CheckpointError for names it does not have."""
    values = {name: tuple(value) if isinstance(value, list) else value for name, value in config.hyperparameters.items()}
    unknown = sorted(set(values) - {f.name for f in fields(method.config_class)})
    if unknown:
        raise CheckpointError(f"{config.method} has no setting {unknown[0]!r}: was the run started with another version of surefoot?")
    return method.config_class(**values)


def _replayed(config: SessionConfig, method: Method, settings: Any, log: Log | None) -> Replayed:
    assert config.env is not None
    return Replayed.of(
        settings,
        config.env,
        method.behaviour,
        copies=config.copies,
        seed=derive_seed(config.seed, SOURCE),
        device=config.device,
        frame_stack=config.frame_stack,
        noise=config.noise,
        max_steps=config.max_steps,
        log=log,
        log_share=config.log_share if log is not None else 0.0,
    )


def _rollouts(config: SessionConfig, method: Method, settings: Any) -> Rollouts:
    assert config.env is not None
    return Rollouts(
        config.env,
        cast(Drawing, method.policy),
        settings.n_steps,
        copies=config.copies,
        n_envs=settings.n_envs,
        seed=derive_seed(config.seed, SOURCE),
        device=config.device,
        frame_stack=config.frame_stack,
        noise=config.noise,
        max_steps=config.max_steps,
    )


def _weights(config: SessionConfig, log: Log) -> tuple[np.ndarray | None, dict[str, Any] | None]:
    """Sampling probabilities of the log's transitions, and what they amount to; None for uniform ones."""
    if config.weighting == "uniform":
        return None, None
    weights = transition_weights(log, config.weighting, alpha=config.weighting_alpha)
    return weights, {"kind": config.weighting, "alpha": config.weighting_alpha, **diagnostics(log, weights)}
