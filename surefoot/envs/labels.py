"""What each number of an environment's observation is called, where that is known."""

from __future__ import annotations

from typing import Any

import gymnasium as gym

from surefoot.envs.making import make_env

LABELS = {
    "CartPole": ("cart position", "cart velocity", "pole angle", "pole velocity"),
    "Pendulum": ("cos angle", "sin angle", "velocity"),
    "MountainCar": ("position", "velocity"),
    "MountainCarContinuous": ("position", "velocity"),
    "Acrobot": ("cos angle 1", "sin angle 1", "cos angle 2", "sin angle 2", "velocity 1", "velocity 2"),
    "LunarLander": ("x", "y", "x velocity", "y velocity", "angle", "angular velocity", "left leg touches", "right leg touches"),
    "InvertedDoublePendulum": (
        "cart position", "sin angle 1", "sin angle 2", "cos angle 1", "cos angle 2",
        "cart velocity", "velocity 1", "velocity 2", "force on the cart",
    ),
    "Line": ("position",),
}  # fmt: skip
"""By the environment's name without namespace and version."""

_PLACES, _TURNS = ("x", "y", "z"), ("w", "i", "j", "k")
_FREE, _BALL = 0, 1  # MuJoCo's types of joints with more than one number


def labels(env_id: str) -> tuple[str, ...] | None:
    """One name for each number, or None where they are not known. Raises what `make_env` raises."""
    env = make_env(env_id)
    env.close()
    shape, name = env.observation_space.shape, env.spec.name if env.spec is not None else ""
    found = LABELS.get(name) or _of_mujoco(env.unwrapped)
    return found if found is not None and shape == (len(found),) else None


def _of_mujoco(env: gym.Env) -> tuple[str, ...] | None:
    """Names of the joints that Gymnasium's MuJoCo environments (from v5 on) say they show, then numbered parts."""
    structure: Any = getattr(env, "observation_structure", None)
    model: Any = getattr(env, "model", None)
    if not isinstance(structure, dict) or model is None:
        return None
    positions: list[str] = []
    velocities: list[str] = []
    for i in range(model.njnt):
        joint, kind = model.joint(i).name, int(model.jnt_type[i])
        places = [f"{joint} {axis}" for axis in _PLACES] if kind == _FREE else []
        turns = [f"{joint} turn {axis}" for axis in _TURNS] if kind in (_FREE, _BALL) else []
        positions += (places + turns) or [joint]
        moves = [f"{joint} turn {axis}" for axis in _PLACES] if kind in (_FREE, _BALL) else []
        velocities += [f"{each} velocity" for each in (places + moves) or [joint]]
    names = positions[structure.get("skipped_qpos", 0) :] + velocities
    parts = {part: n for part, n in structure.items() if part not in ("skipped_qpos", "qpos", "qvel")}
    return (*names, *(f"{part} {i}" for part, n in parts.items() for i in range(n)))
