"""Logged episodes as features: what least-squares value iteration learns from, padded to one horizon.

A feature map is a function of the stage and of states `[n, ...]` to the features of *all* actions, `[n, A, d]`. Where an episode has
ended its value is 0 from then on. An action whose value is known in every state (exercising an option, stopping) need not be learned:
`known` gives its value, NaN for the others.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from surefoot.data.log import Log
from surefoot.data.spec import Discrete
from surefoot.errors import ConfigError, DataError

FeatureMap = Callable[[int, np.ndarray], np.ndarray]
"""`features(h, states [n, ...]) -> [n, A, d]`: of every action in every state at stage h."""

TOLERANCE = 1e-6
LOGGER = logging.getLogger(__name__)


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
    unseen: tuple[int, ...] = ()  # actions that were never taken, and whose value is not known either

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

    def warnings(self) -> tuple[str, ...]:
        """How the data break what a linear model assumes: negative entries, sums that are not one, nothing at all, actions never taken."""
        rows, found = self.phi[self.recorded], []
        advice = ": the guarantees are for features that mix distributions, non-negative and summing to one."
        if (rows < 0.0).any():
            share = (rows < 0.0).any(-1).mean()
            found.append(f"{self.source}: {share:.0%} of the feature rows have negative entries, down to {rows.min():.3g}{advice}")
        empty = (rows == 0.0).all(-1)
        if empty.any():
            episode, stage = np.argwhere(self.recorded & (self.phi == 0.0).all(-1))[0].tolist()[-2:]
            found.append(
                f"{self.source}: {empty.mean():.1%} of the feature rows are all 0, the first in episode {episode} at stage {stage}:"
                " nothing is learned from them, and states like these are worth 0."
            )
        total = rows[~empty].sum(-1)
        if (off := np.abs(total - 1.0) > TOLERANCE).any():
            reach = f"{total.min():.3g} .. {total.max():.3g}"
            found.append(f"{self.source}: {off.mean():.1%} of the feature rows do not sum to one (they sum to {reach}){advice}")
        if self.unseen:
            actions = f"action {self.unseen[0]} was" if len(self.unseen) == 1 else f"actions {', '.join(map(str, self.unseen))} were"
            found.append(f"{self.source}: {actions} never taken: what is said of them rests on features that they share with others.")
        return tuple(found)


def featured(
    states: np.ndarray,
    action: np.ndarray,
    reward: np.ndarray,
    features: FeatureMap,
    *,
    recorded: np.ndarray | None = None,
    goes_on: np.ndarray | None = None,
    known: FeatureMap | None = None,
    after: np.ndarray | None = None,
    source: str = "memory",
) -> FeaturedEpisodes:
    """Episodes from arrays: states `[..., K, H + 1, *S]`, actions and rewards `[..., K, H]`.

    `goes_on` `[..., K, H]`: False where the step ended the episode (in failure too). `known(h, states) -> [n, A]`. `after`
    `[..., K, H, *S]`: the states that steps led to, if they are not simply the next ones (then H states are enough).
    Raises DataError for actions that the features do not have, and for feature maps of another shape.
    """
    *lead, _, horizon = action.shape
    recorded = np.ones(action.shape, bool) if recorded is None else recorded
    goes_on = np.ones(action.shape, bool) if goes_on is None else goes_on
    axis = len(lead) + 1  # of the stages
    after = states.take(range(1, horizon + 1), axis) if after is None else after
    phi_of: list[np.ndarray] = []
    next_of: list[np.ndarray] = []
    known_of: list[np.ndarray] = []
    first: tuple[int, ...] = ()
    for h in range(horizon):
        here = _of_all(features, h, states.take(h, axis), action.shape[:-1], source)
        chosen = action[..., h]
        n_actions = here.shape[-2]
        first = first or here.shape[-2:]
        if here.shape[-2:] != first:
            raise DataError(f"{source}: the feature map gives {first} at stage 0, but {here.shape[-2:]} at stage {h}: they must agree.")
        if (wrong := (chosen < 0) | (chosen >= n_actions)).any():
            raise DataError(f"{source}: action {chosen[wrong][0]} at stage {h} is not among the {n_actions} actions that have features.")
        phi_of.append(np.take_along_axis(here, chosen[..., None, None], -2)[..., 0, :] * recorded[..., h, None])
        led_to, later = after.take(h, axis), min(h + 1, horizon - 1)  # after the last stage nothing is worth anything
        next_of.append(_of_all(features, later, led_to, action.shape[:-1], source))
        if known is not None:
            known_of.append(_known(known, later, led_to, (*action.shape[:-1], n_actions), source))
    next_known = np.stack(known_of, axis) if known_of else None
    taken = np.bincount(action[recorded], minlength=n_actions) > 0
    given = np.zeros(n_actions, bool) if next_known is None else ~np.isnan(next_known).any(tuple(range(next_known.ndim - 1)))
    return FeaturedEpisodes(
        np.stack(phi_of, axis),
        np.where(recorded, reward, 0.0),
        np.stack(next_of, axis),
        goes_on & recorded,
        recorded,
        next_known,
        source,
        tuple(np.flatnonzero(~taken & ~given).tolist()),
    )


def _known(known: FeatureMap, h: int, states: np.ndarray, shape: tuple[int, ...], source: str) -> np.ndarray:
    """Known values `shape` `[..., K, A]` of states `[..., K, *S]`, NaN for what is to be learned."""
    rows = states.reshape(-1, *states.shape[len(shape) - 1 :])
    found = np.asarray(known(h, rows), np.float64)
    if found.shape != (len(rows), shape[-1]) or np.isinf(found).any():
        what = "an infinite value" if np.isinf(found).any() else f"{found.shape}"
        raise DataError(f"{source}: known gave {what} for {len(rows)} states: it must give [n, {shape[-1]}], NaN where nothing is known.")
    return found.reshape(shape)


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

    `horizon`: stages (None: the longest episode). `reward` maps the logged rewards into [0, r_max]. `known(h, states) -> [n, A]`: values
    that need not be learned. An episode that was cut off before the horizon (truncated) does not say what would have followed: it is
    left out of the regressions from there on, so its last step counts as going on to the state that was seen. What breaks the
    assumptions of a linear model is logged, and is in the plan's `warnings`. Raises DataError, naming the episode, if one is longer
    than the horizon.
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
    if reward is not None:
        rewards = np.asarray(reward(rewards), np.float64)
        if rewards.shape != (len(log),):
            raise DataError(f"{log.source}: reward gave {rewards.shape} for {len(log)} rewards: it must give one for each.")
    stage = np.arange(horizon)
    recorded = stage < lengths[:, None]
    row = starts[:, None] + np.minimum(stage, lengths[:, None] - 1)  # the last one where padded
    found = featured(
        obs[row],
        t.action.numpy()[row],
        rewards[row] * recorded,
        features,
        recorded=recorded,
        goes_on=~t.terminated.numpy().astype(bool)[row],
        known=known,
        after=next_obs[row],
        source=log.source,
    )
    if found.next_phi.shape[-2] != log.action.n:
        raise DataError(f"{log.source} has {log.action.n} actions, but the feature map has {found.next_phi.shape[-2]}.")
    for warning in found.warnings():
        LOGGER.warning(warning)
    return found
