"""A log of a contextual bandit: what was seen, what could be done, what was done with which probability, and what it earned.

One row a decision. Unlike a `Log` there is no next observation and there are no episodes: each row stands alone. What the off-policy
estimators need besides (surefoot.evaluation.off_policy) is which actions were available, and the propensity, the probability
with which the logger chose the action it took.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from surefoot.errors import DataError


@dataclass(frozen=True, eq=False)
class BanditLog:
    """Decisions of a contextual bandit in the order they were made, checked when it is made (see `check`).

    n rows, d features of the context, K actions. Arrays are converted to the types below where no value changes.
    """

    context: np.ndarray  # [n, d] float64
    action: np.ndarray  # [n] int64 in 0..K-1
    reward: np.ndarray  # [n] float64
    available: np.ndarray  # [n, K] bool: the actions that could be chosen
    propensity: np.ndarray | None  # [n] float64 in (0, 1], None where it was not logged
    generation: np.ndarray  # [n] int64: the batch (deployment) that logged the row, non-decreasing
    actions: tuple[str, ...]  # names of the K actions
    features: tuple[str, ...] = ()  # names of the d context features (context_0, ... unless given)
    action_features: np.ndarray | None = None  # [K, da] float64
    source: str = "memory"  # where it came from, for messages and reports
    notes: tuple[str, ...] = ()  # what a reader decided by itself, and its user should know; a sentence each

    def __post_init__(self) -> None:
        kinds = {"context": "float", "action": "int", "reward": "float", "available": "bool", "generation": "int"}
        kinds |= {name: "float" for name in ("propensity", "action_features") if getattr(self, name) is not None}
        for name, kind in kinds.items():
            object.__setattr__(self, name, _typed(getattr(self, name), kind, name, self.source))
        object.__setattr__(self, "actions", tuple(map(str, self.actions)))
        names = self.features or tuple(f"context_{i}" for i in range(self.context.shape[-1]))
        object.__setattr__(self, "features", tuple(map(str, names)))
        self.check()

    def __len__(self) -> int:
        return len(self.reward)

    @property
    def K(self) -> int:  # noqa: N802  the field's own name
        """Number of actions."""
        return len(self.actions)

    @property
    def d(self) -> int:
        """Number of context features."""
        return self.context.shape[1]

    @staticmethod
    def from_arrays(
        context: np.ndarray,
        action: np.ndarray,
        reward: np.ndarray,
        *,
        propensity: np.ndarray | None = None,
        available: np.ndarray | None = None,
        generation: np.ndarray | None = None,
        actions: Sequence[Any] | None = None,
        features: Sequence[str] = (),
        action_features: np.ndarray | None = None,
        source: str = "memory",
    ) -> BanditLog:
        """A log of arrays with one row a decision; actions may be any values and are kept by name.

        `actions`: the values an action can take, in order (default: 0 to the largest for integers, else the sorted values that
        occur). `available`: `[n, K]` bool, all by default. `generation`: all 0 by default. Raises DataError.
        """
        action = np.asarray(action)
        if len(action) == 0:
            raise DataError(f"{source}: the log holds no rows: give at least one.")
        if actions is None:
            whole = action.dtype.kind in "biu" and int(action.min()) >= 0
            actions = range(int(action.max()) + 1) if whole else sorted(set(action.tolist()))
        names = tuple(action_name(x) for x in actions)
        index = action_indices(action, names, "field 'action'", source)
        n, K = len(index), len(names)
        return BanditLog(
            context=np.asarray(context),
            action=index,
            reward=np.asarray(reward),
            available=np.ones((n, K), bool) if available is None else np.asarray(available),
            propensity=propensity,
            generation=np.zeros(n, np.int64) if generation is None else np.asarray(generation),
            actions=names,
            features=tuple(features),
            action_features=action_features,
            source=source,
        )

    def rows(self, mask: np.ndarray) -> BanditLog:
        """The log of the rows that a mask `[n]` bool, or indices in order, select."""
        return replace(
            self,
            context=self.context[mask],
            action=self.action[mask],
            reward=self.reward[mask],
            available=self.available[mask],
            propensity=None if self.propensity is None else self.propensity[mask],
            generation=self.generation[mask],
        )

    def check(self) -> None:
        """Raises DataError naming field, row and value at the first thing that no bandit log may hold.

        These are: no rows, fewer than two actions, fields that disagree in length or width, NaN or infinity, actions outside 0..K-1
        or not available where they were taken, propensities outside (0, 1], generations that go back.
        """
        n, K, source = len(self.reward), len(self.actions), self.source
        if n == 0:
            raise DataError(f"{source}: the log holds no rows: give at least one.")
        if K < 2:
            what = f"only one action ({self.actions[0]})" if K else "no actions"
            raise DataError(f"{source}: the log knows {what}: there must be at least two to choose from.")
        if len(set(self.actions)) < K:
            twice = next(name for name in self.actions if self.actions.count(name) > 1)
            raise DataError(f"{source}: two actions are called {twice!r}: give each a name of its own.")
        self._check_shapes(n, K)
        for name in ("context", "reward", "action_features"):
            if getattr(self, name) is not None:
                check_numbers(getattr(self, name), f"field {name!r}", source)
        self._check_actions(K)
        if self.propensity is not None:
            check_propensity(self.propensity, "field 'propensity'", source)
        back = np.diff(self.generation) < 0
        if back.any():
            row = int(np.argmax(back)) + 1
            what = f"{self.generation[row]} in row {row}, after {self.generation[row - 1]}"
            raise DataError(f"{source}: field 'generation' is {what}: rows must stand in the order they were logged.")

    def _check_shapes(self, n: int, K: int) -> None:
        wanted: dict[str, tuple[int | None, ...]] = {
            "context": (n, None), "action": (n,), "reward": (n,), "available": (n, K), "generation": (n,),
            "propensity": (n,), "action_features": (K, None),
        }  # fmt: skip
        for name, shape in wanted.items():
            array = getattr(self, name)
            if array is None:
                continue
            if array.ndim != len(shape) or any(x is not None and x != y for x, y in zip(shape, array.shape, strict=True)):
                letters = "[" + ", ".join("any" if x is None else str(x) for x in shape) + "]"
                raise DataError(
                    f"{self.source}: field {name!r} has shape {list(array.shape)}, but {n} rewards and {K} actions ask for {letters}."
                )
        if len(self.features) != self.d:
            raise DataError(f"{self.source}: {len(self.features)} features are named, but the context has {self.d}: name each of them.")

    def _check_actions(self, K: int) -> None:
        outside = (self.action < 0) | (self.action >= K)
        if outside.any():
            row = int(np.argmax(outside))
            what = f"{self.action[row]} in row {row}, which is none of the {K} actions 0 to {K - 1}"
            raise DataError(f"{self.source}: field 'action' is {what}: remove that row, or name all actions.")
        missing = ~self.available[np.arange(len(self)), self.action]
        if missing.any():
            row = int(np.argmax(missing))
            could = [name for name, there in zip(self.actions, self.available[row], strict=True) if there]
            what = f"{self.actions[self.action[row]]} in row {row}, which was not available there"
            raise DataError(f"{self.source}: field 'action' is {what} ({', '.join(could[:8]) or 'nothing'} was): repair one of the two.")


def concatenate(logs: Sequence[BanditLog], source: str | None = None) -> BanditLog:
    """Logs of one set of actions and features, one after the other. Propensities are kept if all of them have some.

    Raises DataError if there are none, or if they differ in actions or features.
    """
    if not logs:
        raise DataError("there are no bandit logs to join: give at least one.")
    first = logs[0]
    for log in logs[1:]:
        if log.actions != first.actions or log.features != first.features:
            raise DataError(f"{log.source} and {first.source} differ in actions or features: they cannot be joined.")
    propensities = [log.propensity for log in logs if log.propensity is not None]
    return replace(
        first,
        context=np.concatenate([log.context for log in logs]),
        action=np.concatenate([log.action for log in logs]),
        reward=np.concatenate([log.reward for log in logs]),
        available=np.concatenate([log.available for log in logs]),
        propensity=np.concatenate(propensities) if len(propensities) == len(logs) else None,
        generation=np.concatenate([log.generation for log in logs]),
        source=first.source if source is None else source,
        notes=tuple(dict.fromkeys(note for log in logs for note in log.notes)),
    )


# --- single fields --------------------------------------------------------------------------------------------------


def action_indices(values: np.ndarray, names: Sequence[str], what: str, source: str) -> np.ndarray:
    """Actions by value or name as indices `[n]` int64 into `names`; 2.0 is the action "2". Raises DataError at the first unknown one.

    `what` names the values in messages: "column 'arm'".
    """
    flat = values if values.dtype.kind in "biufU" else np.array([action_name(x) for x in values.tolist()])
    distinct, inverse = np.unique(flat, return_inverse=True)
    known = {name: i for i, name in enumerate(names)}
    table = np.array([known.get(action_name(x), -1) for x in distinct.tolist()], np.int64)
    index = table[inverse]
    if (index < 0).any():
        row = int(np.argmax(index < 0))
        listed = ", ".join(names[:8]) + (" …" if len(names) > 8 else "")
        raise DataError(f"{source}: {what} is {values[row]!s} in row {row}, which is none of the actions {listed}: name all actions.")
    return index


def action_name(value: Any) -> str:
    """How an action is called: text as it is, whole numbers without a fraction."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def check_numbers(values: np.ndarray, what: str, source: str) -> None:
    """Raises DataError at the first NaN or infinity of values `[n]` or `[n, w]`."""
    finite = np.isfinite(values)
    if not finite.all():
        row, *feature = np.argwhere(~finite)[0].tolist()
        where = f"row {row}" + (f", feature {feature[0]}" if feature and values.shape[1] > 1 else "")
        raise DataError(f"{source}: {what} is {values[(row, *feature)]} in {where}: repair or remove that row.")


def check_propensity(propensity: np.ndarray, what: str, source: str) -> None:
    """Logged propensities `[n]` are probabilities of actions that were taken: above 0 and at most 1. Raises DataError at the first other.

    A millionth above 1 is taken as rounding.
    """
    missing = np.isnan(propensity)
    if missing.any():
        others = f" and {int(missing.sum()) - 1} others" if missing.sum() > 1 else ""
        where = f"row {int(np.argmax(missing))}{others}"
        raise DataError(f"{source}: {what} is missing in {where}: give it for every row, or leave the column out and have it fitted.")
    wrong = ~((propensity > 0.0) & (propensity <= 1.0 + 1e-6))
    if wrong.any():
        row = int(np.argmax(wrong))
        raise DataError(
            f"{source}: {what} is {propensity[row]:g} in row {row}: the probability with which the logged action was chosen "
            "lies above 0 and is at most 1."
        )


def _typed(values: Any, kind: str, name: str, source: str) -> np.ndarray:
    """An array of float64, int64 or bool. Raises DataError for text, and for fractions where whole numbers are meant."""
    array = np.asarray(values)
    allowed = {"float": "biuf", "int": "iu", "bool": "b"}[kind]
    if array.dtype.kind not in allowed and array.size:
        wanted = {"float": "numbers", "int": "whole numbers", "bool": "true or false"}[kind]
        raise DataError(f"{source}: field {name!r} holds {array.dtype} instead of {wanted}.")
    return array.astype({"float": np.float64, "int": np.int64, "bool": np.bool_}[kind], copy=False)
