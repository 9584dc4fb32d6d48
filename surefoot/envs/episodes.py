"""Environments in the middle of episodes, stepped together: what sources that learn while acting hold.

Each episode has a seed of its own, derived from (seed, member, environment, number of the episode). So an environment's state is
that seed and the actions since, and loading a state plays them again: bit for bit, whatever the environment keeps inside. An
environment that then shows something else is not a function of its seed; it starts a fresh episode, and a warning says so.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from surefoot.data.spec import Spec
from surefoot.envs.making import Wrap, time_limit, training_env
from surefoot.envs.seeding import derive_seed
from surefoot.errors import EnvError

RECENT = 100  # finished episodes a member whose returns are kept


class Episodes:
    """`slots` environments of each of `members`; environment i is number i % slots of member i // slots.

    Arrays have one row an environment. `obs` is what they show now; `next_obs`, `reward`, `terminated` and `ended` are of the last
    step, where `next_obs` is an episode's true last observation when it ended (terminated, or truncated by a time limit),
    while `obs` is then the next episode's first. `wrap` may have one entry a member; `frame_stack`, `noise`,
    `max_steps`, `wrap` and errors: see `training_env`.
    """

    def __init__(
        self,
        env_id: str,
        *,
        members: int = 1,
        slots: int = 1,
        seed: int = 0,
        frame_stack: int = 1,
        noise: float = 0.0,
        max_steps: int | None = None,
        wrap: Wrap | Sequence[Wrap] | None = None,
    ):
        self.env_id, self.members, self.slots, self.seed = env_id, members, slots, seed
        n, limit = members * slots, time_limit(env_id, max_steps)
        wraps = list(wrap) if isinstance(wrap, Sequence) else [wrap] * members
        options: dict[str, Any] = {"frame_stack": frame_stack, "noise": noise, "max_steps": max_steps}
        self.envs = [training_env(env_id, wrap=wraps[i // slots], **options) for i in range(n)]
        self.spec = Spec.from_env(self.envs[0])
        self.obs, self.next_obs = (np.zeros((n, *self.spec.obs_shape), np.float32) for _ in range(2))
        self.reward, self.terminated, self.ended = np.zeros(n), np.zeros(n, bool), np.zeros(n, bool)

        actions = self.envs[0].action_space
        self.episodes = np.full(n, -1)  # number of each environment's running episode
        self.ages = np.zeros(n, np.int64)  # actions taken in it
        self.actions = np.zeros((n, limit, *(actions.shape or ())), actions.dtype)  # which they were
        self.returns = np.zeros(n)  # rewards collected in it
        self.finished = np.zeros(members, np.int64)  # episodes finished by each member
        self.recent = np.full((members, RECENT), np.nan)  # returns of the newest of them
        for i in range(n):
            self._begin(i)

    def __len__(self) -> int:
        return len(self.envs)

    def step(self, action: np.ndarray) -> None:
        """One step of all environments, `[n, A]` or `[n]`; those whose episode ends begin the next. Raises EnvError for NaN or infinity."""
        action = action.astype(self.actions.dtype, copy=False)
        self.actions[np.arange(len(self)), self.ages] = action
        for i, env in enumerate(self.envs):
            self.next_obs[i], self.reward[i], self.terminated[i], truncated, _ = env.step(action[i])
            self.ended[i] = self.terminated[i] or truncated
        self._check_finite(self.next_obs, self.reward)
        self.ages += 1
        self.returns += self.reward
        self.obs[:] = self.next_obs
        for i in np.flatnonzero(self.ended).tolist():
            member = i // self.slots
            self.recent[member, self.finished[member] % RECENT] = self.returns[i]
            self.finished[member] += 1
            self._begin(i)

    def _begin(self, i: int) -> None:
        """The next episode of environment i."""
        self.episodes[i] += 1
        self.ages[i], self.returns[i] = 0, 0.0
        self._reset(i)

    def _reset(self, i: int) -> None:
        """Environment i at the start of its running episode."""
        member, slot = divmod(i, self.slots)
        self.obs[i], _ = self.envs[i].reset(seed=derive_seed(self.seed, 0, member, slot, int(self.episodes[i])))
        self._check_finite(self.obs[i])

    def _check_finite(self, *shown: np.ndarray) -> None:
        if not all(np.isfinite(x).all() for x in shown):
            raise EnvError(f"environment {self.env_id!r} gave an observation or a reward that is not finite: check the environment.")

    def recent_returns(self) -> np.ndarray:
        """Mean return of the newest 100 finished episodes of each member, `[members]`; NaN for one that has finished none."""
        return np.array([np.nanmean(returns) if n else np.nan for returns, n in zip(self.recent, self.finished, strict=True)])

    def close(self) -> None:
        for env in self.envs:
            env.close()

    # --- state --------------------------------------------------------------------------------------------------------

    KEPT = ("episodes", "ages", "returns", "finished", "recent")

    def state_dict(self) -> dict[str, Tensor]:
        played = self.actions[:, : self.ages.max()].copy()
        played[np.arange(played.shape[1]) >= self.ages[:, None]] = 0  # left over from longer episodes
        return {"actions": torch.from_numpy(played)} | {name: torch.from_numpy(getattr(self, name).copy()) for name in self.KEPT}

    def load_state_dict(self, state: dict[str, Tensor], shown: np.ndarray) -> list[int]:
        """Play the running episodes up to where they were, where they showed `shown` `[n, *obs_shape]`.

        Returns the environments that did not come back there, which a warning names too; they have begun a fresh episode.
        """
        for name in self.KEPT:
            getattr(self, name)[:] = state[name].numpy()
        played = state["actions"].numpy()
        self.actions[:, : played.shape[1]] = played
        for i, env in enumerate(self.envs):
            self._reset(i)
            for action in self.actions[i, : self.ages[i]]:
                self.obs[i], *_ = env.step(action)
        elsewhere = [i for i in np.flatnonzero(self.ages).tolist() if not np.array_equal(self.obs[i], shown[i])]
        if elsewhere:
            warnings.warn(
                f"environment {self.env_id!r} did not come back to where it was from the same seed and actions: the run goes on with a"
                " fresh episode, and will not equal the uninterrupted one.",
                stacklevel=2,
            )
        for i in elsewhere:
            self._begin(i)
        return elsewhere
