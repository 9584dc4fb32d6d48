"""Perturbed observations per second: our PGD beside the Adversarial Robustness Toolbox's on the same network, and the loss each finds.

Both take the same 10 steps of a quarter of the radius from the observation itself, without clipping, on one thread, in turn; the best
round of each counts. Ours keeps the most harmful iterate and measures in float64 what it delivers; the toolbox keeps the last. The loss is
the mean cross-entropy of the action that was greedy in truth, which tells whether the attacks are equally strong. The toolbox
(`pip install adversarial-robustness-toolbox==1.20.1`) shares our environment.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks.measuring import RESULTS, cpu_seconds, write
from surefoot.data.spec import Discrete, Spec
from surefoot.evaluation.attacks import PGD
from surefoot.policies.families import Categorical

OBS, HIDDEN, ACTIONS = 17, (64, 64), 6
EPS, SHARE, STEPS = 0.2, 0.25, 10
BATCHES = (1, 64, 1024)
ROUNDS, ROUND_S = 4, 0.3  # rounds of each side, and about how long one takes


def network() -> tuple[Categorical, nn.Module]:
    """A policy, and the same numbers as a module of torch's own layers."""
    policy = Categorical(Spec((OBS,), Discrete(ACTIONS)), HIDDEN, activation="tanh", generator=torch.Generator().manual_seed(0))
    policy.net.orthogonal_(1.0, torch.Generator().manual_seed(1))
    sizes = (OBS, *HIDDEN, ACTIONS)
    layers: list[nn.Module] = []
    for n_in, n_out, w, b in zip(sizes[:-1], sizes[1:], policy.net.weights, policy.net.biases, strict=True):
        linear = nn.Linear(n_in, n_out)
        linear.weight.data.copy_(w.t())
        linear.bias.data.copy_(b)
        layers += [linear, nn.Tanh()]
    return policy, nn.Sequential(*layers[:-1])


def ours(policy: Categorical, norm: str) -> Callable[[torch.Tensor], torch.Tensor]:
    def attack(obs: torch.Tensor) -> torch.Tensor:
        pgd = PGD(EPS, norm=norm, steps=STEPS, step=SHARE, random_start=False)  # type: ignore[arg-type]
        pgd.start(len(obs), policy)
        with torch.no_grad():
            return pgd(obs, policy, None, torch.ones(len(obs), dtype=torch.bool))

    return attack


def theirs(module: nn.Module, norm: str) -> tuple[Callable[[np.ndarray], np.ndarray], str]:
    """The toolbox's attack, and its version."""
    import art  # here alone: it takes seconds, and tests import this module
    from art.attacks.evasion import ProjectedGradientDescent
    from art.estimators.classification import PyTorchClassifier

    classifier = PyTorchClassifier(module, nn.CrossEntropyLoss(), input_shape=(OBS,), nb_classes=ACTIONS, device_type="cpu")
    settings: dict[str, Any] = {"eps": EPS, "eps_step": SHARE * EPS, "max_iter": STEPS, "batch_size": max(BATCHES), "verbose": False}
    return ProjectedGradientDescent(classifier, norm=np.inf if norm == "linf" else 2, **settings).generate, art.__version__


def loss(policy: Categorical, obs: torch.Tensor, seen: torch.Tensor) -> float:
    with torch.no_grad():
        return float(nn.functional.cross_entropy(policy(seen), policy(obs).argmax(-1)))


def row(norm: str, batch: int, policy: Categorical, module: nn.Module) -> dict[str, Any]:
    """Rates of both sides, in turn, and the losses they found on the same observations."""
    obs = torch.randn(batch, OBS, generator=torch.Generator().manual_seed(batch))
    rows = obs.numpy()
    our, (their, _) = ours(policy, norm), theirs(module, norm)
    sides: dict[str, Callable[[], Any]] = {"surefoot": lambda: our(obs), "ART": lambda: their(rows)}
    calls, best = {}, dict.fromkeys(sides, 0.0)
    for name, work in sides.items():
        work()
        calls[name] = max(1, round(ROUND_S / max(cpu_seconds(work), 1e-6)))
    for _ in range(ROUNDS):
        for name, work in sides.items():
            n = calls[name]
            best[name] = max(best[name], n * batch / cpu_seconds(lambda n=n, work=work: [work() for _ in range(n)]))  # type: ignore[misc]
    cells: dict[str, Any] = {"norm": norm, "observations at once": batch}
    cells |= {f"{name}, observations/s": best[name] for name in sides}
    cells["times ART"] = best["surefoot"] / best["ART"]
    many = torch.randn(4096, OBS, generator=torch.Generator().manual_seed(0))
    cells["loss before"] = loss(policy, many, many)
    cells["surefoot, loss found"] = loss(policy, many, our(many))
    cells["ART, loss found"] = loss(policy, many, torch.from_numpy(their(many.numpy())))
    return cells


def main(out: Path = RESULTS) -> None:
    """Write `attacks.json`."""
    policy, module = network()
    version = theirs(module, "linf")[1]
    rows = [row(norm, batch, policy, module) for norm in ("linf", "l2") for batch in BATCHES]
    write("attacks", rows, out, note=f", adversarial-robustness-toolbox {version}")
