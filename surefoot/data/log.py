"""A log of transitions, held once in memory as one packed float32 matrix, so that a batch is a single row gather."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from surefoot.data.batches import Transitions
from surefoot.data.spec import Continuous, Discrete, Spec
from surefoot.errors import DataError


@dataclass(frozen=True)
class Layout:
    """Columns of a packed row: `obs | action | reward | next_obs | terminated`."""

    obs_dim: int
    action_dim: int
    discrete: bool

    @property
    def width(self) -> int:
        return 2 * self.obs_dim + self.action_dim + 2

    @staticmethod
    def of(spec: Spec) -> Layout:
        return Layout(spec.obs_dim, spec.action_dim, isinstance(spec.action, Discrete))

    def unpack(self, rows: Tensor) -> Transitions:
        """Views of rows `[..., D]` as a batch (discrete actions become int64)."""
        obs, action, reward, next_obs, terminated = rows.split((self.obs_dim, self.action_dim, 1, self.obs_dim, 1), -1)
        if self.discrete:
            action = action.squeeze(-1).long()
        return Transitions(obs, action, reward.squeeze(-1), next_obs, terminated.squeeze(-1))


@dataclass(frozen=True, eq=False)
class Log:
    """Recorded transitions of one environment, in the order they were recorded.

    `packed` `[N, D]` float32 (see `Layout`; may be a read-only memory map), `ends` `[N]` bool marks the last recorded
    transition of each episode (terminated, truncated, or cut off at the end of the file), `terminated` is in `packed`.
    """

    packed: Tensor
    ends: np.ndarray
    obs_shape: tuple[int, ...]
    action: Continuous | Discrete
    source: str = "memory"  # where it came from, for messages and reports
    env_id: str | None = None  # Gymnasium id of the environment it was recorded in, if known
    notes: dict[str, str] = field(default_factory=dict)  # provenance: recipe, seed, author, warnings

    def __len__(self) -> int:
        return self.packed.shape[0]

    @cached_property
    def layout(self) -> Layout:
        return Layout.of(Spec(self.obs_shape, self.action))

    @cached_property
    def transitions(self) -> Transitions:
        """The whole log as views, `[N, ...]`."""
        return self.layout.unpack(self.packed)

    @cached_property
    def episode_ends(self) -> np.ndarray:
        """Index of each episode's last transition, `[E]` int64."""
        return np.flatnonzero(self.ends)

    @cached_property
    def episode_starts(self) -> np.ndarray:
        """Index of each episode's first transition, `[E]` int64."""
        return np.concatenate([[0], self.episode_ends[:-1] + 1]).astype(np.int64)

    @cached_property
    def episode_lengths(self) -> np.ndarray:
        return self.episode_ends - self.episode_starts + 1

    @cached_property
    def episode_returns(self) -> np.ndarray:
        """Undiscounted return of each episode, `[E]` float64."""
        rewards = self.transitions.reward.double().numpy()
        return np.add.reduceat(rewards, self.episode_starts)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of shapes and contents: two logs with one name are not always one log."""
        digest = hashlib.sha256(repr((tuple(self.packed.shape), self.obs_shape, self.action)).encode())
        for start in range(0, len(self), 1 << 18):  # in pieces, so that a memory map is not read whole into memory
            digest.update(self.packed[start : start + (1 << 18)].contiguous().numpy().tobytes())
        digest.update(np.packbits(self.ends).tobytes())
        return digest.hexdigest()

    def spec(self, scale_obs: bool = True) -> Spec:
        """The spec of methods that learn from this log; with observation statistics unless told otherwise.

        The standard deviation has 1e-3 added, as TD3+BC and its descendants do; a constant feature is left unscaled.
        """
        spec = Spec(self.obs_shape, self.action)
        if not scale_obs:
            return spec
        obs = self.transitions.obs
        parts = obs.split(1 << 18)  # in pieces: a whole log in float64 would be larger than the log
        mean = torch.stack([part.sum(0, dtype=torch.float64) for part in parts]).sum(0) / len(self)
        square = sum(((part.double() - mean) ** 2).sum(0) for part in parts)
        std = torch.sqrt(torch.as_tensor(square) / len(self))
        scale = torch.where(std < 1e-6, torch.ones_like(std), std + 1e-3)
        return replace(spec, obs_mean=mean.float(), obs_std=scale.float())

    @staticmethod
    def from_arrays(
        obs: np.ndarray,
        action: np.ndarray,
        reward: np.ndarray,
        next_obs: np.ndarray,
        terminated: np.ndarray,
        truncated: np.ndarray | None = None,
        *,
        action_space: Continuous | Discrete,
        source: str = "memory",
        env_id: str | None = None,
        notes: dict[str, str] | None = None,
    ) -> Log:
        """Pack arrays with one row a transition. Shapes must agree and hold at least one row (DataError else).

        The last row always ends an episode. Contents are checked by `surefoot.data.validation.validate`, not here.
        """
        n = len(reward)
        if n == 0:
            raise DataError(f"{source}: the log holds no transitions: give at least one.")
        for name, array in (("obs", obs), ("action", action), ("next_obs", next_obs), ("terminated", terminated)):
            if len(array) != n:
                raise DataError(f"{source}: field {name!r} has {len(array)} rows, but 'reward' has {n}: they must agree.")
        layout = Layout.of(Spec(tuple(obs.shape[1:]), action_space))
        packed = np.empty((n, layout.width), np.float32)
        s, a = layout.obs_dim, layout.action_dim
        packed[:, :s] = obs.reshape(n, s)
        packed[:, s : s + a] = action.reshape(n, a)
        packed[:, s + a] = reward.reshape(n)
        packed[:, s + a + 1 : -1] = next_obs.reshape(n, s)
        packed[:, -1] = terminated.reshape(n)
        ends = terminated.reshape(n).astype(bool)
        if truncated is not None:
            ends = ends | truncated.reshape(n).astype(bool)
        ends[-1] = True
        return Log(torch.from_numpy(packed), ends, tuple(obs.shape[1:]), action_space, source, env_id, dict(notes or {}))

    def select(self, rows: np.ndarray, ends: np.ndarray) -> Log:
        """The log of these rows alone, with their episode ends."""
        return replace(self, packed=self.packed[torch.from_numpy(rows)], ends=ends)


def concatenate(logs: Sequence[Log], source: str) -> Log:
    """Logs of one environment, one after the other."""
    first = logs[0]
    for log in logs[1:]:
        if log.obs_shape != first.obs_shape or log.action != first.action:
            raise DataError(f"{log.source} and {first.source} differ in observation shape or action space: they cannot be joined.")
    return replace(first, packed=torch.cat([log.packed for log in logs]), ends=np.concatenate([log.ends for log in logs]), source=source)
