"""What a learner is told of a layered world whose Q-functions are linear: features, and the transition or a simulator of it.

Losses are no part of it: the adversary brings them. Stages are 0 .. H-1, states 0 .. S-1.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from surefoot.envs.finite import FiniteMDP, LinearMDP, quantile
from surefoot.errors import ConfigError, DataError

Step: TypeAlias = Callable[[int, np.ndarray, np.ndarray, np.random.Generator], np.ndarray]
"""(stage, states [n], actions [n], generator) -> next states [n]."""

Start: TypeAlias = Callable[[int, np.random.Generator], np.ndarray]
"""(n, generator) -> first states [n]."""


@dataclass(frozen=True, eq=False)
class LinearWorld:
    """Features of norm at most one, `[C, H, S, A, d]`, and either `transition` and `initial` or `step` and `start`.

    C copies are worlds of their own (C = 1 for a lone one). Make one with `of` or `simulated`, which check what they are given.
    """

    features: np.ndarray  # [C, H, S, A, d]
    transition: np.ndarray | None = None  # [C, H, S, A, S]
    initial: np.ndarray | None = None  # [C, S]
    step: Step | None = None
    start: Start | None = None

    @staticmethod
    def of(model: LinearMDP | FiniteMDP) -> LinearWorld:
        """A world whose transition is known. States and actions of a FiniteMDP are features of their own (one-hot, d = S A).

        Raises DataError where features have a norm above one: divide them by their largest norm.
        """
        mdp = model.mdp if isinstance(model, LinearMDP) else model
        h, s, a = mdp.reward.shape[-3:]
        if isinstance(model, LinearMDP):
            features = model.features.reshape(-1, h, s, a, model.features.shape[-1])
        else:
            features = np.broadcast_to(np.eye(s * a).reshape(s, a, s * a), (int(np.prod(mdp.copies)), h, s, a, s * a))
        check_features(features)
        return LinearWorld(features, mdp.transition.reshape(-1, h, s, a, s), mdp.initial.reshape(-1, s))

    @staticmethod
    def simulated(features: np.ndarray, step: Step, start: Start | int = 0) -> LinearWorld:
        """A lone world that can only be simulated: `features` `[H, S, A, d]`, `step`, and `start`, a function or one first state."""
        if features.ndim != 4:
            raise DataError(f"features have shape {features.shape}: they must be [H, S, A, d].")
        check_features(features[None])
        if isinstance(start, int):
            if not 0 <= start < features.shape[1]:
                raise ConfigError(f"start is {start}: the {features.shape[1]} states are numbered from 0.")
            return LinearWorld(features[None], step=step, start=lambda n, rng: np.full(n, start))
        return LinearWorld(features[None], step=step, start=start)

    @property
    def copies(self) -> int:
        return self.features.shape[0]

    @property
    def horizon(self) -> int:
        return self.features.shape[1]

    @property
    def n_states(self) -> int:
        return self.features.shape[2]

    @property
    def n_actions(self) -> int:
        return self.features.shape[3]

    @property
    def dim(self) -> int:
        return self.features.shape[4]

    # --- simulation -----------------------------------------------------------------------------------------------------

    def first(self, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
        """First states, `shape`, whose second axis is that of the copies: `[R, C, ...]`."""
        if self.initial is not None:
            p = self.initial.reshape(1, self.copies, *(1,) * (len(shape) - 2), self.n_states)
            return quantile(p, rng.random(shape))
        assert self.start is not None
        n = int(np.prod(shape))
        return self._returned(self.start(n, rng), n, "start").reshape(shape)

    def next(self, h: int, state: np.ndarray, action: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Next states of `state` and `action`, `[R, C, ...]`, one draw each."""
        if self.transition is not None:
            copy = np.arange(self.copies).reshape(1, -1, *(1,) * (state.ndim - 2))
            return quantile(self.transition[copy, h, state, action], rng.random(state.shape))
        assert self.step is not None
        drawn = self.step(h, state.reshape(-1), action.reshape(-1), rng)
        return self._returned(drawn, state.size, f"step, stage {h},").reshape(state.shape)

    def simulate(self, policy: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
        """Pairs of n simulated episodes under `policy` `[R, C, H, S, A]`: x A + a, `[R, C, H, n]` int64."""
        r, c = policy.shape[:2]
        rows, cols = np.arange(r)[:, None, None], np.arange(c)[:, None]
        pair = np.empty((r, c, self.horizon, n), np.int64)
        state = self.first((r, c, n), rng)
        for h in range(self.horizon):
            action = quantile(policy[rows, cols, h, state], rng.random(state.shape))
            pair[:, :, h] = state * self.n_actions + action
            if h + 1 < self.horizon:
                state = self.next(h, state, action, rng)
        return pair

    def _returned(self, states: np.ndarray, n: int, what: str) -> np.ndarray:
        states = np.asarray(states)
        if states.shape != (n,) or not np.issubdtype(states.dtype, np.integer):
            raise DataError(f"{what} returned {states.dtype} of shape {states.shape}: a simulator returns {n} whole numbers, a state each.")
        wrong = (states < 0) | (states >= self.n_states)
        if wrong.any():
            raise DataError(f"{what} returned state {states[wrong][0]}: states are 0 to {self.n_states - 1}.")
        return states


def check_features(features: np.ndarray) -> None:
    """Raises DataError for the first feature vector whose norm is above one, or that is not finite; `[C, H, S, A, d]`."""
    norm = np.linalg.norm(features, axis=-1)
    wrong = ~(norm <= 1.0 + 1e-9)
    if wrong.any():
        c, h, s, a = np.argwhere(wrong)[0].tolist()
        where = f"stage {h}, state {s}, action {a}" + (f" of copy {c}" if len(features) > 1 else "")
        raise DataError(f"features of {where} have norm {norm[c, h, s, a]:g}: the norm must be at most 1; divide all by the largest norm.")
