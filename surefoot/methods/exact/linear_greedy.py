"""What R2PVI learns, as a policy: greedy for Q_h at the stage it has reached, so that it is saved, played and judged like any other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from surefoot.data.spec import Discrete, Spec
from surefoot.envs.robust import Tents
from surefoot.errors import ConfigError, PolicyError, UnknownNameError
from surefoot.methods.exact.logged_features import FeatureMap
from surefoot.methods.exact.r2pvi import LinearPlan, R2PVIConfig, ordered, pessimistic
from surefoot.methods.exact.ridge import Gram
from surefoot.policies.base import Memory, Policy, check_member

KINDS = ("entries", "tents")


class BlockFeatures:
    """Features of states, a block of its own for every action: phi(s, a) has base(s) in block a, so d is A times the base's width.

    `entries`: the observation itself (one-hot states, or features that mix already). `tents`: triangular features on a grid of one
    entry (`coordinate`), from `low`, `n` of them `width` apart. Both sum to one if the base does, and can be saved with a policy.
    """

    def __init__(self, actions: int, kind: str = "entries", *, low: float = 0.0, width: float = 1.0, n: int = 2, coordinate: int = 0):
        if kind not in KINDS:
            raise UnknownNameError("kind of features", kind, KINDS)
        if actions < 1 or n < 1 or not width > 0.0:
            raise ConfigError(f"actions is {actions}, n {n} and width {width}: all must be positive.")
        self.actions, self.kind, self.low, self.width, self.n, self.coordinate = actions, kind, low, width, n, coordinate

    def __call__(self, h: int, states: np.ndarray) -> np.ndarray:
        """`[n, S]` to `[n, A, d]`; the same at every stage."""
        base = states if self.kind == "entries" else Tents(self.low, self.width, self.n)(states[:, self.coordinate])
        blocks = np.einsum("nm,ab->nabm", base, np.eye(self.actions))
        return blocks.reshape(len(states), self.actions, -1)

    def to_json(self) -> dict[str, Any]:
        return dict(vars(self))


class KnownRamp:
    """The value max(0, intercept + slope x) of one action, x an entry of the state, known and not to be learned: an option's exercise.

    For `episodes_of(..., known=...)` and `policy_of(..., known=...)`; unlike a Python function it is saved with the policy. NaN, which
    is to say learned, for the other actions.
    """

    def __init__(self, actions: int, action: int, intercept: float, slope: float = -1.0, coordinate: int = 0):
        if not 0 <= action < actions:
            raise ConfigError(f"action is {action}: the {actions} actions are numbered from 0.")
        self.actions, self.action, self.intercept, self.slope, self.coordinate = actions, action, intercept, slope, coordinate

    def __call__(self, h: int, states: np.ndarray) -> np.ndarray:
        """`[n, S]` to `[n, A]`; the same at every stage."""
        values = np.full((len(states), self.actions), np.nan)
        values[:, self.action] = np.maximum(0.0, self.intercept + self.slope * states[:, self.coordinate])
        return values

    def to_json(self) -> dict[str, Any]:
        return dict(vars(self))


class LinearGreedy(Policy):
    """argmax_a Q_h(obs, a), by the plan's `scores`; memory is the stage, and from the last one on it stays there.

    `features` that are a plain function act, but cannot be saved: use `BlockFeatures`. `known(h, states) -> [n, A]` gives values that are
    known (NaN for the others), as in learning; a policy with a plain function cannot be saved either: use `KnownRamp`.
    """

    differentiable = False
    w: Tensor  # [*copies, H, d]
    factors: Tensor  # [*copies, H, d, d]
    cap: Tensor  # [H]

    def __init__(self, plan: LinearPlan, features: FeatureMap, spec: Spec, known: FeatureMap | None = None):
        super().__init__()
        self.spec, self.copies, self.features, self.known = spec, plan.w.shape[:-2], features, known
        if len(self.copies) > 1:
            raise ConfigError(f"the plan has copies {self.copies}: a policy is lone, or a fleet with one axis.")
        self.settings = plan.config
        self.register_buffer("w", torch.from_numpy(plan.w.copy()))
        self.register_buffer("factors", torch.from_numpy(np.stack([gram.factor for gram in plan.gram], -3)))
        self.register_buffer("cap", torch.from_numpy(plan.cap.copy()))

    def start(self, n: int) -> Memory:
        return {"stage": torch.zeros(*self.copies, n, dtype=torch.long)}

    def remember(self, obs: Tensor, memory: Memory) -> Memory:
        assert memory is not None
        return {"stage": memory["stage"] + 1}

    def decide(self, obs: Tensor, memory: Memory = None) -> Tensor:
        """Scores `[*copies, n, A]` at the stages of the memory (stage 0 without one), whose largest is the value of the state."""
        flat = self.flat(obs).double().cpu().numpy()
        stage = np.zeros(flat.shape[:-1], np.int64) if memory is None else memory["stage"].cpu().numpy()
        stage = np.minimum(stage, self.w.shape[-2] - 1)
        values = np.empty((*flat.shape[:-1], self.spec.n_actions))
        for h in np.unique(stage):
            here = stage == h
            values[here] = self._values(int(h), flat)[here]
        return torch.from_numpy(values)

    def forward(self, obs: Tensor) -> Tensor:
        return self.decide(obs)

    def _values(self, h: int, states: np.ndarray) -> np.ndarray:
        """Scores at stage h `[*copies, n, A]` of states `[*copies, n, S]`."""
        rows = states.reshape(-1, states.shape[-1])
        phi = np.asarray(self.features(h, rows)).reshape(*states.shape[:-1], self.spec.n_actions, -1)
        w, factor = self.w[..., h, :].numpy(), self.factors[..., h, :, :].numpy()
        known = None if self.known is None else np.asarray(self.known(h, rows)).reshape(phi.shape[:-1])
        return ordered(pessimistic(phi, w, Gram(factor), self.settings), float(self.cap[h]), self.settings, known)

    def act(
        self, obs: Tensor, memory: Memory = None, *, generator: torch.Generator | None = None, greedy: bool = True
    ) -> tuple[Tensor, Memory]:
        memory = self.start(obs.shape[len(self.copies)]) if memory is None else memory
        return self.decide(obs, memory).argmax(-1).to(obs.device), self.remember(obs, memory)

    def member(self, index: int) -> Policy:
        check_member(index, self.copies)
        if not self.copies:
            return self
        grams = tuple(Gram(f.numpy()) for f in self.factors[index])
        plan = LinearPlan(self.w[index].numpy(), grams, self.cap.numpy(), self.settings)
        return LinearGreedy(plan, self.features, self.spec, self.known)

    # --- saving ---------------------------------------------------------------------------------------------------------

    def config(self) -> dict[str, Any]:
        """Raises PolicyError for features or known values that are code."""
        if not isinstance(self.features, BlockFeatures):
            raise PolicyError("a policy whose features are a Python function cannot be saved: use BlockFeatures.")
        if self.known is not None and not isinstance(self.known, KnownRamp):
            raise PolicyError("a policy whose known values are a Python function cannot be saved: use KnownRamp.")
        settings = {"beta": self.settings.beta, "penalty": self.settings.bonus, "floor": self.settings.floor}
        known = None if self.known is None else self.known.to_json()
        return {"shape": list(self.w.shape), "features": self.features.to_json(), "settings": settings, "known": known}

    @staticmethod
    def rebuild(
        spec: Spec,
        copies: tuple[int, ...],
        shape: Sequence[int],
        features: Mapping[str, Any],
        settings: Mapping[str, Any],
        known: Mapping[str, Any] | None = None,
    ) -> LinearGreedy:
        """One of the described structure, with numbers of no meaning."""
        *lead, horizon, d = shape
        grams = tuple(Gram(np.zeros((*lead, d, d))) for _ in range(horizon))
        plan = LinearPlan(np.zeros(tuple(shape)), grams, np.zeros(horizon), R2PVIConfig(**settings))
        return LinearGreedy(plan, BlockFeatures(**features), spec, None if known is None else KnownRamp(**known))


def policy_of(
    plan: LinearPlan, features: FeatureMap, obs_shape: tuple[int, ...], actions: int, known: FeatureMap | None = None
) -> LinearGreedy:
    """A plan as a policy on observations of `obs_shape` (one axis)."""
    return LinearGreedy(plan, features, Spec(obs_shape, Discrete(actions)), known)
