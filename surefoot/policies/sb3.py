"""Policies that Stable-Baselines3 saved, so that its users steer, attack and certify their own agents.

Its zip files, VecNormalize files and replay buffers contain pickles: nothing is read without trust.
"""

from __future__ import annotations

import json
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from surefoot.data.spec import Discrete, Spec
from surefoot.errors import MissingExtraError, NotTrustedError, PolicyError
from surefoot.policies.base import Memory, Policy
from surefoot.policies.external import External

ALGORITHM_OF = {
    "clip_range": "PPO",
    "exploration_initial_eps": "DQN",
    "target_entropy": "SAC",
    "target_policy_noise": "TD3",  # and DDPG, which is TD3 with one critic there
    "gae_lambda": "A2C",
}
"""A setting by which each algorithm's files are told apart (in this order)."""


class StableBaselines3Policy(External):
    """A policy of PPO, A2C, DQN, SAC, TD3 or DDPG; greedy actions are those of `model.predict(obs, deterministic=True)`.

    `forward` gives logits (PPO, A2C) or action values (DQN) for discrete actions, the mean in the environment's units for a
    Gaussian, the action for TD3 and DDPG. `statistics` are a VecNormalize's (mean, variance, epsilon, clip) of observations.
    """

    def __init__(self, model: Any, source: str, statistics: tuple[np.ndarray, np.ndarray, float, float] | None = None):
        super().__init__(Spec.from_spaces(model.policy.observation_space, model.policy.action_space), source)
        self.policy = model.policy
        self.policy.set_training_mode(False)
        self.kind = type(model).__name__
        self.statistics: tuple[Tensor, Tensor, float, float] | None = None
        if statistics is not None:
            mean, variance, epsilon, clip = statistics
            if tuple(mean.shape) != self.spec.obs_shape:
                raise PolicyError(
                    f"the VecNormalize file of {source} scales observations of shape {mean.shape}, not {self.spec.obs_shape}."
                )
            self.statistics = (torch.as_tensor(mean), torch.sqrt(torch.as_tensor(variance) + epsilon), epsilon, clip)

    def scaled(self, obs: Tensor) -> Tensor:
        """Observations as the networks saw them in training."""
        self.flat(obs)
        if self.statistics is None:
            return obs.float()
        mean, std, _, clip = self.statistics
        return ((obs.double() - mean.to(obs.device)) / std.to(obs.device)).clamp(-clip, clip).float()

    def forward(self, obs: Tensor) -> Tensor:
        x = self.scaled(obs)
        if self.kind == "DQN":
            return self.policy.q_net(x)
        if self.kind in ("PPO", "A2C"):
            distribution = self.policy.get_distribution(x)
            if isinstance(self.spec.action, Discrete):
                return distribution.distribution.logits
            return self._in_box(distribution.mode())
        actor = self.policy.actor
        return self._in_box(actor(x, deterministic=True) if self.kind == "SAC" else actor(x))

    def _in_box(self, action: Tensor) -> Tensor:
        """Networks with squashed output give actions in [-1, 1] (the order of operations is theirs: equal to the last bit)."""
        if not self.policy.squash_output:
            return action
        low, high = action.new_tensor(self.spec.box.low), action.new_tensor(self.spec.box.high)
        return low + (0.5 * (action + 1.0) * (high - low))

    def act(
        self, obs: Tensor, memory: Memory = None, *, generator: torch.Generator | None = None, greedy: bool = True
    ) -> tuple[Tensor, Memory]:
        """Not greedy samples the policy's distribution; DQN, TD3 and DDPG have none and stay greedy."""
        if greedy:
            output = self(obs)
            return self.check_action(output.argmax(-1) if isinstance(self.spec.action, Discrete) else output), memory
        seed = int(torch.randint(2**31, (1,), generator=generator, device=generator.device if generator else "cpu"))
        with torch.random.fork_rng():  # its distributions draw from torch's global generator
            torch.manual_seed(seed)
            output = self.policy._predict(self.scaled(obs), deterministic=False)
        return self.check_action(output if isinstance(self.spec.action, Discrete) else self._in_box(output)), memory


def load_stable_baselines3(text: str, *, trust: bool) -> Policy:
    """`FILE.zip`, or `FILE.zip?vecnormalize=FILE.pkl` for a policy that was trained on normalised observations.

    Raises NotTrustedError without `trust`, and reads nothing then; PolicyError for other algorithms and files.
    """
    name, _, query = text.partition("?")
    key, _, normaliser = query.partition("=")
    if query and (key != "vecnormalize" or not normaliser):
        raise PolicyError(f"sb3:{text}: after the question mark comes vecnormalize=FILE.pkl.")
    path = Path(name)
    for file in (path, Path(normaliser)) if normaliser else (path,):
        if not file.is_file():
            raise PolicyError(f"there is no file {file}: give the path of what Stable-Baselines3 saved.")
    if not trust:
        raise NotTrustedError(
            f"{path} is a Stable-Baselines3 file, which contains pickles: loading one runs whatever code its author put in (so do "
            "VecNormalize and replay buffer files); if you trust its author, add --trust (in Python: trust=True)."
        )
    try:
        import stable_baselines3
    except ImportError:
        raise MissingExtraError("stable_baselines3", "sb3") from None
    algorithm = getattr(stable_baselines3, _algorithm(path))
    # buffers and schedules are not needed to act, and pickled schedules do not load across Python versions
    unused = {"buffer_size": 1, "learning_rate": 0.0} | dict.fromkeys(("lr_schedule", "clip_range", "exploration_schedule"), _constant)
    try:
        model = algorithm.load(path, device="cpu", custom_objects=unused)
    except (KeyError, ValueError, RuntimeError, ImportError, AttributeError, pickle.UnpicklingError) as error:
        raise PolicyError(f"{path} cannot be loaded by Stable-Baselines3 {stable_baselines3.__version__}: {error}") from None
    return StableBaselines3Policy(model, f"sb3:{text}", _statistics(Path(normaliser)) if normaliser else None)


def _constant(_: float) -> float:
    return 0.0


def _algorithm(path: Path) -> str:
    """The algorithm that saved the file, from the part of it that is plain JSON."""
    try:
        with zipfile.ZipFile(path) as archive:
            data = json.loads(archive.read("data"))
            module = data["policy_class"]["__module__"]
    except (zipfile.BadZipFile, KeyError, TypeError, ValueError):
        raise PolicyError(f"{path} was not saved by Stable-Baselines3's model.save: give such a zip file.") from None
    for setting, algorithm in ALGORITHM_OF.items():
        if setting in data and not module.startswith("sb3_contrib"):
            return algorithm
    raise PolicyError(f"{path} holds a policy of {module}: PPO, A2C, DQN, SAC, TD3 and DDPG of stable_baselines3 can be loaded.")


def _statistics(path: Path) -> tuple[np.ndarray, np.ndarray, float, float] | None:
    """Observation statistics of a pickled VecNormalize (trusted by the caller)."""
    with path.open("rb") as file:
        saved = pickle.load(file)
    if type(saved).__name__ != "VecNormalize":
        raise PolicyError(f"{path} holds a {type(saved).__name__}, not a VecNormalize.")
    if not saved.norm_obs:
        return None
    return saved.obs_rms.mean, saved.obs_rms.var, saved.epsilon, saved.clip_obs
