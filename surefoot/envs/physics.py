"""Environments whose physics can be set: masses, friction, damping, wind, at construction and at each reset.

A `Parameter` is a name, a range and what it means: `what` is a row of `KINDS`, `of` the body, geom, joint, actuator or attribute. MuJoCo
environments and plain Python ones with attributes (CartPole, Pendulum, your own) are set alike. As in the benchmark suite RRLS (SuReLI,
MIT), whose sets are in `uncertainty.py`, what is set is the compiled model: a body's inertia stays as it was when its mass changes, and
sliding friction is that of one geom alone, though MuJoCo takes the larger of the two that touch. So the floor's friction has no
effect below the foot's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any

import gymnasium as gym
import numpy as np

from surefoot.envs.seeding import derive_seed
from surefoot.errors import ConfigError, EnvError, UnknownNameError

AIR = 1.2  # kg / m^3, of the wind that blows in a model without a medium

MOST_POINTS = 1_000_000  # of a grid


@dataclass(frozen=True)
class Parameter:
    """One physical parameter and its range. Raises ConfigError for a range that is none, UnknownNameError for an unknown `what`."""

    name: str
    low: float
    high: float
    what: str  # one of KINDS
    of: str = ""  # the element it belongs to; some kinds take all elements if it is empty

    def __post_init__(self) -> None:
        if self.what not in KINDS:
            raise UnknownNameError(f"kind of the physical parameter {self.name!r}", self.what, KINDS)
        if not (isfinite(self.low) and isfinite(self.high) and self.low < self.high):
            raise ConfigError(f"{self.name} ranges from {self.low} to {self.high}: give two finite numbers, the smaller one first.")
        check_physical(self, self.low)

    @property
    def unit(self) -> str:
        return KINDS[self.what].unit


@dataclass(frozen=True)
class Dial:
    """One parameter of one environment: its value as the environment was made, and how another one is set."""

    nominal: float
    write: Callable[[float], None]


@dataclass(frozen=True)
class Kind:
    unit: str
    least: float  # the smallest value that is physical
    dial: Callable[[Any, str], Dial]  # of an unwrapped environment and the name of an element
    all: bool = False  # no name means all elements


@dataclass(frozen=True, eq=False)
class Points:
    """P settings of k parameters, `values` `[P, k]`; raises ConfigError for a value that is not finite or not physical."""

    parameters: tuple[Parameter, ...]
    values: np.ndarray

    def __post_init__(self) -> None:
        if not self.parameters or self.values.ndim != 2 or self.values.shape[1] != len(self.parameters) or not len(self.values):
            raise ConfigError(f"values have shape {self.values.shape}: they must be points by the {len(self.parameters)} parameters.")
        for parameter, column in zip(self.parameters, self.values.T, strict=True):
            for value in (column[~np.isfinite(column)][:1], column.min()):
                if np.size(value):
                    check_physical(parameter, float(np.squeeze(value)))

    def __len__(self) -> int:
        return len(self.values)


def check_physical(parameter: Parameter, value: float) -> None:
    """Raises ConfigError for a value that is not finite, or below what is physical."""
    least = KINDS[parameter.what].least
    if not isfinite(value) or value < least:
        raise ConfigError(f"{parameter.name} is {value:g}: a {parameter.what} is finite and at least {least:g}.")


def grid(parameters: Sequence[Parameter], n: int) -> Points:
    """n values of each parameter from end to end, all combined, the last parameter fastest. Raises ConfigError unless n >= 2."""
    if n < 2:
        raise ConfigError(f"grid is {n}: at least 2 values of a parameter, its ends, are needed.")
    if n ** len(parameters) > MOST_POINTS:
        raise ConfigError(f"a grid of {n} values of {len(parameters)} parameters has {n ** len(parameters):,} points: take a smaller one.")
    axes = np.meshgrid(*(np.linspace(p.low, p.high, n) for p in parameters), indexing="ij")
    return Points(tuple(parameters), np.stack([axis.reshape(-1) for axis in axes], -1))


def scaled(parameters: Sequence[Parameter], unit: np.ndarray) -> np.ndarray:
    """From `[..., k]` in [0, 1] to the parameters' ranges."""
    low, high = (np.array([getattr(p, end) for p in parameters]) for end in ("low", "high"))
    return low + (high - low) * unit


# --- the wrapper ------------------------------------------------------------------------------------------------------


class Physical(gym.Wrapper, gym.utils.RecordConstructorArgs):
    """An environment with `parameters`, which are set to `values` `[k]` (None: as the environment was made).

    `reset(options={"physics": [...]})` sets others from then on; with `randomise` each reset without them draws every parameter
    uniformly from its range, from a generator that `reset(seed=...)` seeds: domain randomisation. `info["physics"]` of a reset says
    what is set. Raises EnvError where the environment lacks a parameter, ConfigError for values that are not physical.
    """

    def __init__(self, env: gym.Env, parameters: Sequence[Parameter], values: Sequence[float] | None = None, randomise: bool = False):
        gym.utils.RecordConstructorArgs.__init__(self, parameters=parameters, values=values, randomise=randomise)
        super().__init__(env)
        self.parameters = tuple(parameters)
        self.dials = [KINDS[p.what].dial(env.unwrapped, p.of) for p in self.parameters]
        self.nominal = np.array([dial.nominal for dial in self.dials])
        self.randomise, self.rng = randomise, np.random.default_rng()
        self.values = self.nominal
        if values is not None:
            self.set(values)

    def set(self, values: Sequence[float] | np.ndarray) -> None:
        """Set all parameters, `[k]`."""
        array = np.asarray(values, np.float64)
        if array.shape != (len(self.parameters),):
            raise ConfigError(f"physics has shape {array.shape}: give one value for each of {', '.join(p.name for p in self.parameters)}.")
        for parameter, dial, value in zip(self.parameters, self.dials, array.tolist(), strict=True):
            check_physical(parameter, value)
            dial.write(value)
        self.values = array

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        rest = dict(options or {})
        chosen = rest.pop("physics", None)
        if seed is not None:
            self.rng = np.random.default_rng(derive_seed(seed, 2))  # not the seed itself, which is the environment's
        if chosen is not None:
            self.set(chosen)
        elif self.randomise:
            self.set(scaled(self.parameters, self.rng.random(len(self.parameters))))
        obs, info = self.env.reset(seed=seed, options=rest or None)
        return obs, {**info, "physics": dict(zip((p.name for p in self.parameters), self.values.tolist(), strict=True))}


# --- kinds ------------------------------------------------------------------------------------------------------------


def _model(env: Any, what: str) -> Any:
    model = getattr(env, "model", None)
    if not hasattr(model, "body_mass"):
        raise EnvError(f"{type(env).__name__} is no MuJoCo environment and has no {what}: name an attribute ('what': 'attribute').")
    return model


def names(model: Any, kind: str) -> list[str]:
    """Names of a MuJoCo model's bodies, geoms, joints or actuators; an actuator without a name has that of its joint."""
    accessor, count = getattr(model, kind), {"body": "nbody", "geom": "ngeom", "joint": "njnt", "actuator": "nu"}[kind]
    there = [accessor(i).name for i in range(getattr(model, count))]
    if kind == "actuator":
        return [name or model.joint(int(joint)).name for name, joint in zip(there, model.actuator_trnid[:, 0], strict=True)]
    return there


def _index(model: Any, kind: str, of: str, env: Any) -> int:
    """The number of an element. Raises EnvError, naming what there is."""
    there = names(model, kind)
    if of not in there or not of:
        known = ", ".join(name for name in there if name not in ("", "world"))
        raise EnvError(f"{type(env).__name__} has no {kind} {of!r}: it has {known or f'no {kind} with a name'}.")
    return there.index(of)


def _entry(array: np.ndarray, *index: int) -> Dial:
    return Dial(float(array[index]), lambda value: array.__setitem__(index, value))


def _factor(array: np.ndarray, rows: slice) -> Dial:
    """All these rows as they were made, times the value."""
    made = array[rows].copy()
    return Dial(1.0, lambda value: array.__setitem__(rows, made * value))


def _body_mass(env: Any, of: str) -> Dial:
    model = _model(env, "body")
    return _entry(model.body_mass, _index(model, "body", of, env))


def _friction(env: Any, of: str) -> Dial:
    model = _model(env, "geom")
    return _entry(model.geom_friction, _index(model, "geom", of, env) if of else 0, 0)  # RRLS: the sliding friction of the first geom


def _damping(env: Any, of: str) -> Dial:
    model = _model(env, "joint")
    if not of:
        return _factor(model.dof_damping, slice(None))
    joint = _index(model, "joint", of, env)
    first = int(model.jnt_dofadr[joint])
    ends = [int(a) for a in model.jnt_dofadr if a > first]
    return _factor(model.dof_damping, slice(first, min(ends, default=int(model.nv))))


def _strength(env: Any, of: str) -> Dial:
    model = _model(env, "actuator")
    i = _index(model, "actuator", of, env) if of else None
    return _factor(model.actuator_gear, slice(None) if i is None else slice(i, i + 1))


def _gravity(env: Any, of: str) -> Dial:
    gravity = _model(env, "gravity").opt.gravity
    return Dial(-float(gravity[2]), lambda value: gravity.__setitem__(2, -value))


def _wind(env: Any, of: str) -> Dial:
    """Along x, in air where the model has no medium; without wind the model is as it was made, without a medium."""
    option = _model(env, "wind").opt
    density = float(option.density)

    def write(value: float) -> None:
        option.wind[0] = value
        option.density = density or (AIR if value else 0.0)

    return Dial(float(option.wind[0]), write)


def _attribute(env: Any, of: str) -> Dial:
    now = getattr(env, of, None) if of else None
    if isinstance(now, bool) or not isinstance(now, (int, float, np.floating, np.integer)):
        there = sorted(name for name in numbers(env) if not name.startswith("_"))
        raise EnvError(f"{type(env).__name__} has no number {of!r} that could be set: it has {', '.join(there) or 'none'}.")

    def write(value: float) -> None:
        setattr(env, of, value)
        if {"total_mass", "polemass_length"} <= vars(env).keys():  # CartPole keeps products of its attributes
            env.total_mass, env.polemass_length = env.masspole + env.masscart, env.masspole * env.length

    return Dial(float(now), write)


def numbers(env: Any) -> dict[str, float]:
    """The attributes of an unwrapped environment that are numbers."""
    there = {name: getattr(type(env), name) for name in dir(type(env))} | vars(env)
    return {name: float(value) for name, value in there.items() if isinstance(value, (int, float)) and not isinstance(value, bool)}


KINDS: dict[str, Kind] = {
    "body_mass": Kind("kg", 1e-6, _body_mass),
    "friction": Kind("", 0.0, _friction),  # sliding friction of a geom, the first one (the floor) if none is named
    "damping": Kind("times", 0.0, _damping, all=True),  # of a joint or all joints, as a multiple of what it is
    "strength": Kind("times", 0.0, _strength, all=True),  # of an actuator or all actuators, likewise
    "gravity": Kind("m/s^2", 0.0, _gravity),
    "wind": Kind("m/s", -np.inf, _wind),
    "attribute": Kind("", -np.inf, _attribute),
}
