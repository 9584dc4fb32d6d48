"""Which physical parameters an environment has, and over what ranges they are stressed: tables, and a user's own file.

The sets of the MuJoCo environments are those of Zouitine et al., arXiv 2410.06212v1, Table 7, which are those of M2TD3 and RRLS; those
of CartPole and Pendulum are ours. Every MuJoCo environment has more by name: the mass of each body, friction, damping, strength,
gravity, wind.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from itertools import combinations
from pathlib import Path
from typing import Any

from surefoot.envs.making import make_env
from surefoot.envs.physics import KINDS, Parameter, names, numbers
from surefoot.errors import ConfigError, EnvError, UnknownNameError

Set = tuple[Parameter, ...]


def mass(body: str, low: float, high: float) -> Parameter:
    return Parameter(f"{body.replace('_', ' ')} mass", low, high, "body_mass", body)


def friction(low: float, high: float) -> Parameter:
    return Parameter("friction", low, high, "friction")


def attribute(name: str, of: str, low: float, high: float) -> Parameter:
    return Parameter(name, low, high, "attribute", of)


def _larger(small: Set, *more: Parameter) -> dict[str, Set]:
    return {"2d": small, "3d": (*small, *more)}


SETS: dict[str, dict[str, Set]] = {
    "Ant": _larger((mass("torso", 0.1, 3.0), mass("front_left_leg", 0.01, 3.0)), mass("front_right_leg", 0.01, 3.0)),
    "HalfCheetah": _larger((friction(0.1, 4.0), mass("torso", 0.1, 7.0)), mass("bthigh", 0.1, 3.0)),
    "Hopper": _larger((friction(0.1, 3.0), mass("torso", 0.1, 3.0)), mass("thigh", 0.1, 4.0)),
    "HumanoidStandup": {
        "2d": (mass("torso", 0.1, 16.0), mass("right_foot", 0.1, 8.0)),
        "3d": (mass("torso", 0.1, 16.0), mass("right_foot", 0.1, 5.0), mass("left_thigh", 0.1, 8.0)),
    },
    "InvertedPendulum": {"2d": (mass("pole", 1.0, 31.0), mass("cart", 1.0, 11.0))},
    "Walker2d": _larger((friction(0.1, 4.0), mass("torso", 0.1, 5.0)), mass("thigh", 0.1, 6.0)),
    "CartPole": _larger(
        (attribute("pole mass", "masspole", 0.05, 2.0), attribute("pole half-length", "length", 0.2, 2.0)),
        attribute("gravity", "gravity", 4.9, 19.6),
    ),
    "Pendulum": _larger((attribute("mass", "m", 0.5, 2.0), attribute("length", "l", 0.5, 1.5)), attribute("gravity", "g", 5.0, 15.0)),
}
"""By the environment's name without its version; the first set is the one that is meant where none is named."""


def chosen(over: str | None, env_id: str) -> Set:
    """The parameters that `over` means in an environment: a JSON file, a set ("2d"), names joined by commas ("friction,torso mass").

    None: the environment's first set. Raises ConfigError, EnvError or UnknownNameError with what the environment has.
    """
    sets = SETS.get(_family(env_id), {})
    if over is None:
        if not sets:
            raise ConfigError(f"{env_id} has no set of parameters of its own: name some (--over), it has {_has(env_id)}.")
        return next(iter(sets.values()))
    if over in sets:
        return sets[over]
    if over.endswith(".json") or Path(over).is_file():
        return read_set(Path(over), env_id)
    there = known(env_id)
    found = [name.strip() for name in over.split(",")]
    for name in found:
        if name not in there:
            more = f"; sets: {', '.join(sets)}" if sets else ""
            raise EnvError(f"{env_id} has no physical parameter {name!r}, nor is there such a file: it has {_has(env_id)}{more}.")
    return _distinct(tuple(there[name] for name in found), over)


def known(env_id: str) -> dict[str, Parameter]:
    """All parameters that an environment has by name, with a range: of its sets, and of the MuJoCo model what has a name."""
    env = make_env(env_id)
    env.close()
    model: Any = getattr(env.unwrapped, "model", None)
    found: dict[str, Parameter] = {}
    for each in (p for parameters in SETS.get(_family(env_id), {}).values() for p in parameters):
        found.setdefault(each.name, each)
    if hasattr(model, "body_mass"):
        masses = dict(zip(names(model, "body"), model.body_mass.tolist(), strict=True))
        more = [mass(body, kg / 3.0, kg * 3.0) for body, kg in masses.items() if body and kg > 0.0]
        more += [friction(0.1, 4.0), Parameter("damping", 0.0, 5.0, "damping"), Parameter("strength", 0.5, 1.5, "strength")]
        more += [Parameter("gravity", 4.9, 19.6, "gravity"), Parameter("wind", -20.0, 20.0, "wind")]
        for each in more:
            found.setdefault(each.name, each)
    return found


def read_set(path: Path, env_id: str) -> Set:
    """A user's own set: `{"parameters": [{"name": "torso mass", "low": 0.1, "high": 3, "what": "body_mass", "of": "torso"}]}`.

    An entry without `what` means the environment's parameter of that name. Raises ConfigError naming file, entry and field.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read as JSON ({error}): it must hold a list called 'parameters'.") from None
    rows = content.get("parameters") if isinstance(content, dict) else None
    if not isinstance(rows, list) or not rows:
        raise ConfigError(f"{path} must hold a list called 'parameters' with at least one entry.")
    return _distinct(tuple(_parameter(row, f"{path}, entry {i}", env_id) for i, row in enumerate(rows)), str(path))


def _parameter(row: Any, where: str, env_id: str) -> Parameter:
    """One entry of a file."""
    if not isinstance(row, Mapping) or not isinstance(row.get("name"), str):
        raise ConfigError(f"{where} must be an object with a 'name', 'low' and 'high'.")
    if unknown := sorted(row.keys() - {"name", "low", "high", "what", "of"}):
        raise ConfigError(f"{where} has a field {unknown[0]!r}: it may have name, low, high, what and of.")
    for end in ("low", "high"):
        if isinstance(row.get(end), bool) or not isinstance(row.get(end), (int, float)):
            raise ConfigError(f"{where} ({row['name']}): {end!r} is {row.get(end)!r}, not a number.")
    what, of = row.get("what"), row.get("of", "")
    if what is None:
        there = known(env_id)
        if row["name"] not in there:
            has = f"{_has(env_id)}; or say 'what' it is and 'of' what"
            raise EnvError(f"{where}: {env_id} has no physical parameter {row['name']!r}: it has {has}.")
        what, of = there[row["name"]].what, there[row["name"]].of
    if not isinstance(what, str) or not isinstance(of, str):
        raise ConfigError(f"{where} ({row['name']}): 'what' and 'of' must be text.")
    if what not in KINDS:
        raise UnknownNameError(f"'what' of {where}", what, KINDS)
    try:
        return Parameter(row["name"], float(row["low"]), float(row["high"]), what, of)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None


def _has(env_id: str) -> str:
    """The names of an environment's parameters, for a sentence; without any, the numbers that a file could set."""
    if there := known(env_id):
        return ", ".join(there)
    env = make_env(env_id)
    env.close()
    own = ", ".join(name for name in sorted(numbers(env.unwrapped)) if not name.startswith("_"))
    return f"none by name, but a file may set an attribute ('what': 'attribute', 'of': one of {own})" if own else "none"


def _distinct(parameters: Set, where: str) -> Set:
    """Raises ConfigError if two parameters have one name, or set the same thing: the second would undo the first."""
    for one, other in combinations(parameters, 2):
        if one.name == other.name:
            raise ConfigError(f"{where} names {one.name!r} twice: name each parameter once.")
        if one.what == other.what and (one.of == other.of or (KINDS[one.what].all and "" in (one.of, other.of))):
            raise ConfigError(f"{where}: {one.name!r} and {other.name!r} both set the {one.what} of the same thing: leave one out.")
    return parameters


def _family(env_id: str) -> str:
    """`module:namespace/Hopper-v5` -> `Hopper`."""
    return re.sub(r"-v\d+$", "", env_id.rpartition(":")[2].rpartition("/")[2])
