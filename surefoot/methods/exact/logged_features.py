"""Logged episodes as features: what least-squares value iteration learns from, padded to one horizon.

A feature map is a function of the stage and of states `[n, ...]` to the features of *all* actions, `[n, A, d]`. Where an episode has
ended its value is 0 from then on. An action whose value is known in every state (exercising an option, stopping) need not be learned:
`known` gives its value, NaN for the others.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from surefoot.data.log import Log
from surefoot.data.spec import Discrete
from surefoot.errors import ConfigError, DataError

FeatureMap = Callable[[int, np.ndarray], np.ndarray]
"""`features(h, states [n, ...]) -> [n, A, d]`: of every action in every state at stage h."""

TOLERANCE = 1e-6


@dataclass(frozen=True, eq=False)
class FeaturedEpisodes:
    """K episodes of H stages; leading axes are copies. Rows that were not recorded (after an end) have features 0."""

    phi: np.ndarray  # [..., K, H, d] of the pairs that were visited
    reward: np.ndarray  # [..., K, H]
    next_phi: np.ndarray  # [..., K, H, A, d] of every action at the next state, with the next stage's features
    goes_on: np.ndarray  # [..., K, H] bool: False where the episode ended with the step
    recorded: np.ndarray  # [..., K, H] bool
    next_known: np.ndarray | None = None  # [..., K, H, A] values that are known, NaN for the others
    source: str = "memory"

    def __post_init__(self) -> None:
        shape = self.phi.shape[:-1]
        for name, array, tail in (("reward", self.reward, ()), ("goes_on", self.goes_on, ()), ("recorded", self.recorded, ())):
            if array.shape != shape + tail:
                raise DataError(f"{self.source}: {name} has shape {array.shape}, but phi {self.phi.shape} asks for {shape}.")
        if self.next_phi.shape[:-2] != shape or self.next_phi.shape[-1] != self.phi.shape[-1]:
            raise DataError(
                f"{self.source}: next_phi has shape {self.next_phi.shape}: it must be {shape} by actions by {self.phi.shape[-1]}."
            )
        for name, array in (("phi", self.phi), ("next_phi", self.next_phi), ("reward", self.reward)):
            if not np.isfinite(array).all():
                where = np.argwhere(~np.isfinite(array))[0].tolist()
                raise DataError(f"{self.source}: {name}{where} is {array[tuple(where)]}: features and rewards must be finite.")

    def next_value(self, h: int, q: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        """max_a Q_{h+1}(s_{k,h+1}, a), `[..., K]`, 0 after an end; `q(features [..., K, A, d])` gives Q_{h+1} `[..., K, A]`."""
        value = q(self.next_phi[..., h, :, :])
        if self.next_known is not None:
            known = self.next_known[..., h, :]
            value = np.where(np.isnan(known), value, known)
        return np.where(self.goes_on[..., h], value.max(-1), 0.0)

    def warnings(self) -> list[str]:
        """How the features break the assumptions of a linear model: entries that are negative, rows that do not sum to one."""
        rows = self.phi[self.recorded]
        found = []
        if (rows < 0.0).any():
            found.append(
                f"{self.source}: {(rows < 0.0).any(-1).mean():.0%} of the feature rows have negative entries, down to {rows.min():.3g}"
            )
        total = rows.sum(-1)
        if (off := np.abs(total - 1.0) > TOLERANCE).any():
            reach = f"{total.min():.3g} .. {total.max():.3g}"
            found.append(f"{self.source}: {off.mean():.0%} of the feature rows do not sum to one (they sum to {reach})")
        advice = ": the guarantees are for features that mix distributions, non-negative and summing to one"
        return [what + advice for what in found]


def featured(
    states: np.ndarray,
    action: np.ndarray,
    reward: np.ndarray,
    features: FeatureMap,
    *,
    recorded: np.ndarray | None = None,
    goes_on: np.ndarray | None = None,
    known: FeatureMap | None = None,
    source: str = "memory",
) -> FeaturedEpisodes:
    """Episodes from arrays: states `[..., K, H + 1, *S]`, actions and rewards `[..., K, H]`.

    `goes_on` `[..., K, H]`: False where the step ended the episode (in failure too). `known(h, states) -> [n, A]`.
    Raises DataError for actions that the features do not have, and for feature maps of another shape.
    """
    *lead, _, horizon = action.shape
    recorded = np.ones(action.shape, bool) if recorded is None else recorded
    goes_on = np.ones(action.shape, bool) if goes_on is None else goes_on
    axis = len(lead) + 1  # of the stages
    phi_of, next_of, known_of = [], [], []
    for h in range(horizon):
        here = _of_all(features, h, states.take(h, axis), action.shape[:-1], source)
        chosen = action[..., h]
        if chosen.min() < 0 or chosen.max() >= here.shape[-2]:
            wrong = chosen.max() if chosen.max() >= here.shape[-2] else chosen.min()
            raise DataError(f"{source}: action {wrong} at stage {h} is not among the {here.shape[-2]} actions that have features.")
        phi_of.append(np.take_along_axis(here, chosen[..., None, None], -2)[..., 0, :] * recorded[..., h, None])
        after = states.take(h + 1, axis)
        following = _of_all(features, min(h + 1, horizon - 1), after, action.shape[:-1], source)
        next_of.append(following)
        if known is not None:
            rows = after.reshape(-1, *after.shape[axis:])
            known_of.append(np.asarray(known(min(h + 1, horizon - 1), rows)).reshape(*action.shape[:-1], -1))
    stack = lambda parts: np.stack(parts, axis)  # noqa: E731
    return FeaturedEpisodes(
        stack(phi_of),
        np.where(recorded, reward, 0.0),
        stack(next_of),
        goes_on & recorded,
        recorded,
        stack(known_of) if known_of else None,
        source,
    )


def _of_all(features: FeatureMap, h: int, states: np.ndarray, shape: tuple[int, ...], source: str) -> np.ndarray:
    """Features `[..., K, A, d]` of states `[..., K, *S]`."""
    rows = states.reshape(-1, *states.shape[len(shape) :])
    found = np.asarray(features(h, rows), np.float64)
    if found.ndim != 3 or found.shape[0] != len(rows):
        raise DataError(f"{source}: the feature map gave {found.shape} for {len(rows)} states: it must give [n, actions, features].")
    return found.reshape(*shape, *found.shape[1:])


def episodes_of(
    log: Log,
    features: FeatureMap,
    horizon: int | None = None,
    *,
    reward: Callable[[np.ndarray], np.ndarray] | None = None,
    known: FeatureMap | None = None,
) -> FeaturedEpisodes:
    """The episodes of a log with discrete actions; shorter ones are padded, and worth 0 after they terminated.

    `horizon`: stages (None: the longest episode). `reward` maps the logged rewards into [0, r_max]. An episode that was cut off
    before the horizon (truncated) does not say what would have followed: it is left out of the regressions from there on, so
    its last step counts as going on to the state that was seen. Raises DataError, naming the episode, if one is longer than the horizon.
    """
    if not isinstance(log.action, Discrete):
        raise DataError(f"{log.source} has continuous actions: least-squares value iteration needs discrete ones.")
    lengths, starts = log.episode_lengths, log.episode_starts
    horizon = int(lengths.max()) if horizon is None else horizon
    if horizon < 1:
        raise ConfigError(f"horizon is {horizon}: an episode has at least one stage.")
    if lengths.max() > horizon:
        e = int(lengths.argmax())
        raise DataError(
            f"{log.source}: episode {e} has {lengths[e]} steps, more than the horizon of {horizon}: raise the horizon, or cut it."
        )
    t = log.transitions
    obs, next_obs = (x.double().numpy().reshape(len(log), *log.obs_shape) for x in (t.obs, t.next_obs))
    rewards = t.reward.double().numpy()
    rewards = rewards if reward is None else np.asarray(reward(rewards), np.float64)
    stage = np.arange(horizon)
    recorded = stage < lengths[:, None]
    row = np.minimum(starts[:, None] + stage, starts[:, None] + lengths[:, None] - 1)  # the last one where padded
    states = np.concatenate([obs[row], next_obs[row[:, -1:]]], 1)
    states[:, 1:] = next_obs[row]  # equal to the next row's obs where episodes were logged whole
    terminated = t.terminated.numpy().astype(bool)[row]
    actions = t.action.numpy()[row]
    found = featured(
        states, actions, rewards[row] * recorded, features, recorded=recorded, goes_on=~terminated, known=known, source=log.source
    )
    if features(0, obs[:1]).shape[1] != log.action.n:
        raise DataError(f"{log.source} has {log.action.n} actions, but the feature map has {features(0, obs[:1]).shape[1]}.")
    return replace(found, source=log.source)
