"""Evidence as the verbs write it, with made-up numbers, and runs that hold it."""

import json
import shutil
from itertools import product
from types import SimpleNamespace

import numpy as np
import pytest

from surefoot.evaluation.reporting.arms import read_arms


def intervals(means, half=4.0):
    return {
        "mean": means,
        "low": [None if m is None else m - half for m in means],
        "high": [None if m is None else m + half for m in means],
    }


def attack(kind, *members, norm="linf", budgets=(0.0, 0.1, 0.2), half=4.0, **changes):
    """`attack-KIND.json`; a member is its means, None where the attack failed."""
    rows = [
        {
            "member": i,
            **intervals(list(means), half),
            "failed": [m is None for m in means],
            "vanished": [0.0] * len(means),
            "spent": list(budgets),
        }
        for i, means in enumerate(members)
    ]
    found = {
        "policy": "run",
        "command": f"surefoot attack run --kind {kind}",
        "kind": kind,
        "norm": norm,
        "units": "observation",
        "sigma": 0.0,
    }
    return found | {"max_steps": 500, "env": "CartPole-v1", "episodes": 100, "budgets": list(budgets), "members": rows} | changes


def certificate(*lowers, budgets=(0.0, 0.1, 0.2), **changes):
    members = [
        {"member": i, "mean": lower[0] + 5.0, "lower": list(lower), "returns": [lower[0], lower[0] + 10.0] * 50}
        for i, lower in enumerate(lowers)
    ]
    found = {"policy": "run", "command": "surefoot certify run", "env": "CartPole-v1", "max_steps": 500, "episodes": 10_000}
    return found | {"sigma": 0.2, "alpha": 0.05, "budgets": list(budgets), "members": members} | changes


def actions(*certified, radii=(0.0, 0.05, 0.1), **changes):
    shares = {"abstained": 0.04, "same": 0.98, "average_radius": 0.1, "states": 200}
    members = [{"member": i, "radii": list(radii), "certified": list(c)} | shares for i, c in enumerate(certified)]
    found = {"policy": "run", "command": "surefoot certify run --actions", "env": "CartPole-v1", "kind": "certified-actions"}
    found |= {"sigma": 0.1, "alpha": 0.001, "samples": 1000, "states": 200, "episodes": 10, "max_steps": 500}
    return found | {"members": members} | changes


PHYSICS = (
    ("pole_length", 0.25, 2.0, 0.5, "m"),
    ("cart_mass", 0.5, 2.0, 1.0, "kg"),
    ("wind", -1.0, 1.0, 0.0, ""),
    ("friction", 0.1, 1.0, 0.5, ""),
)


def stress(
    returns=lambda *x: 480.0 - 80.0 * sum((v - n) ** 2 for v, (_, _, _, n, _) in zip(x, PHYSICS, strict=False)),
    *,
    count=2,
    side=5,
    members=1,
    search="grid",
    **changes,
):
    """`stress.json` over `count` parameters; `returns` maps a point to its mean return, a member earns 10 less than the one before it."""
    parameters = [
        {"name": name, "low": low, "high": high, "nominal": nominal, "unit": unit, "values": np.linspace(low, high, side).tolist()}
        for name, low, high, nominal, unit in PHYSICS[:count]
    ]
    points = [list(point) for point in product(*(p["values"] for p in parameters))]
    rows = []
    for i in range(members):
        means = [returns(*point) - 10.0 * i for point in points]
        k = int(np.argmin(means))
        nominal = returns(*(p["nominal"] for p in parameters)) - 10.0 * i
        worst = {"point": dict(zip((p["name"] for p in parameters), points[k], strict=True)), "mean": means[k]}
        ends = intervals(means)
        rows.append(
            {
                "member": i,
                "means": means,
                "low": ends["low"],
                "high": ends["high"],
                "worst": worst | {"low": means[k] - 4.0, "high": means[k] + 4.0},
                "nominal": {"mean": nominal, "low": nominal - 4.0, "high": nominal + 4.0},
                "average": float(np.mean(means)),
            }
        )
    found = {"policy": "run", "command": "surefoot stress run", "kind": "stress", "env": "CartPole-v1", "episodes": 50, "max_steps": 500}
    return found | {"search": search, "parameters": parameters, "points": points, "members": rows} | changes


LABELS = ("cart position", "cart velocity", "pole angle", "pole angular velocity")


def diagnosis(*directions, shape=(4,), labels=LABELS, **changes):
    members = [
        {
            "member": i,
            "explained": 0.62,
            "eigenvalues": [0.62, 0.2],
            "direction": np.ravel(direction).tolist(),
            "states_90": 12,
            "norm_mean": 1.0,
            "norm_cv": 0.3,
            "norms_by_step": [1.0, 0.5],
            "ceiling": 0.96,
            "shifts": {"noise": 0.55, "late": 0.41},
        }
        for i, direction in enumerate(directions)
    ]
    found = {"policy": "run", "command": "surefoot diagnose run", "kind": "diagnosis", "env": "CartPole-v1", "episodes": 4, "states": 400}
    return found | {"temperature": 1.0, "obs_shape": list(shape), "labels": labels and list(labels), "members": members} | changes


def write_run(folder, evidence, *, members=1, clean=480.0, noise=0.0, name="dqn", env="CartPole-v1"):
    """A run folder with a result of 40 episodes a member around `clean`, and evidence by file name."""
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "evidence").mkdir(parents=True)
    config = {"method": name, "env": env, "noise": noise, "max_steps": 500, "steps": 10, "seeds": members}
    (folder / "config.json").write_text(json.dumps(config))
    returns = [[clean - 10.0 * i + 5.0 * (-1) ** k for k in range(40)] for i in range(members)]
    evaluated = {"returns": returns}
    result = {"method": name, "env": env, "steps": 10, "seeds": members, "last": evaluated, "best": evaluated | {"evaluations": 8}}
    (folder / "result.json").write_text(json.dumps(result))
    (folder / "metrics.jsonl").write_text('{"step": 5, "loss": 1.0}\n{"step": 10, "loss": 0.5}\n')
    for stem, data in evidence.items():
        (folder / "evidence" / f"{stem}.json").write_text(json.dumps(data))
    return folder


def everything():
    """One policy, looked at from all sides."""
    return {
        "attack-random": attack("random", (480.0, 478.0, 470.0)),
        "attack-fgsm": attack("fgsm", (480.0, None, None)),
        "attack-pgd": attack("pgd", (480.0, 440.0, 190.0)),
        "attack-q": attack("q", (480.0, 450.0, 300.0), norm="total"),
        "stress": stress(),
        "diagnosis": diagnosis((0.1, -0.2, 0.5, 0.8)),
        "certified-actions": actions((0.96, 0.7, 0.3)),
    }


@pytest.fixture
def made():
    """The builders of evidence."""
    return SimpleNamespace(
        attack=attack,
        certificate=certificate,
        actions=actions,
        stress=stress,
        diagnosis=diagnosis,
        write_run=write_run,
        everything=everything,
    )


@pytest.fixture
def arm(tmp_path):
    """A function that gives the arm of a run with this evidence (by file name, `-` written as `_`, `@` as `_at_`)."""

    def with_evidence(evidence=None, **settings):
        return read_arms([write_run(tmp_path / "run", evidence or {}, **settings)])[0]

    return with_evidence
