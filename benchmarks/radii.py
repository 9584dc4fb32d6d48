"""Inputs certified per second: ours beside the standard procedure's loop and the Adversarial Robustness Toolbox's, at equal samples.

The loop is that of the authors' code (Cohen, Rosenfeld and Kolter, arXiv 1902.02918v2; github.com/locuslab/smoothing, core.py), written
anew: one input at a time, in batches, votes counted one by one. All sides ask the same network about N0 + N noisy copies of the same
inputs, in passes of 1,000 copies (ours: of its own choice), on one thread, in turn; the best round of each counts. LVM-RS has all of its
203 maps. The mean radius tells whether all certify alike. The toolbox (`pip install adversarial-robustness-toolbox==1.20.1`) shares
our environment; where it is not installed, its side is left out.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib import metadata
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import stats
from torch import Tensor, nn

from benchmarks.measuring import RESULTS, cpu_seconds, write
from surefoot.evaluation.lvm_rs import ABSTAIN, Certified, certify_inputs, cohen_inputs

SIGMA, ALPHA, N0, N, BATCH = 0.25, 0.001, 100, 10_000, 1_000
ROUNDS, ROUND_S = 3, 0.5  # rounds of each side, and about how long one takes
INPUTS = 32  # at most, in one round


# --- the standard procedure -------------------------------------------------------------------------------------------


def reference(
    classifier: Callable[[Tensor], Tensor], classes: int, x: Tensor, sigma: float, n0: int, n: int, alpha: float, batch: int,
    generator: torch.Generator,
) -> tuple[int, float]:  # fmt: skip
    """CERTIFY of Cohen et al. at one input: the class (ABSTAIN) and its radius."""
    from statsmodels.stats.proportion import proportion_confint

    label = int(reference_votes(classifier, classes, x, sigma, n0, batch, generator).argmax())
    count = int(reference_votes(classifier, classes, x, sigma, n, batch, generator)[label])
    low = proportion_confint(count, n, alpha=2.0 * alpha, method="beta")[0]
    return (ABSTAIN, 0.0) if low < 0.5 else (label, sigma * float(stats.norm.ppf(low)))


@torch.no_grad()
def reference_votes(
    classifier: Callable[[Tensor], Tensor], classes: int, x: Tensor, sigma: float, n: int, batch: int, generator: torch.Generator
) -> np.ndarray:
    """SAMPLEUNDERNOISE: how often each class is predicted, `[classes]`."""
    counts = np.zeros(classes, dtype=int)
    for _ in range(ceil(n / batch)):
        size = min(batch, n)
        n -= size
        copies = x.repeat((size, *[1] * x.dim()))
        noise = torch.randn(copies.shape, generator=generator) * sigma
        for label in classifier(copies + noise).argmax(1).numpy():
            counts[label] += 1
    return counts


# --- networks ---------------------------------------------------------------------------------------------------------


def networks() -> dict[str, tuple[nn.Module, Tensor]]:
    """Networks with random weights, and inputs for each; the last layer is scaled so that few inputs are abstained from."""
    torch.manual_seed(0)
    policy = nn.Sequential(nn.Linear(4, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 2))
    digits = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10))
    convolutions = [nn.Conv2d(3, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(2048, 10)]
    found = {
        "policy, 4-64-64-2": (policy, (4,)),
        "digits, 64-256-256-10": (digits, (64,)),
        "images, 3x32x32, 2 convolutions": (nn.Sequential(*convolutions), (3, 32, 32)),
    }
    return {name: (network.eval(), 2.0 * torch.randn(INPUTS, *shape)) for name, (network, shape) in found.items()}


def toolbox(network: nn.Module, x: Tensor, classes: int) -> Any:
    """The toolbox's smoothed classifier, or None where it is not installed."""
    try:
        from art.estimators.certification.randomized_smoothing import PyTorchRandomizedSmoothing  # here alone: it takes seconds
    except ImportError:
        return None
    settings: dict[str, Any] = {"sample_size": N0, "scale": SIGMA, "alpha": ALPHA, "device_type": "cpu"}
    return PyTorchRandomizedSmoothing(network, nn.CrossEntropyLoss(), input_shape=tuple(x.shape[1:]), nb_classes=classes, **settings)


# --- rates ------------------------------------------------------------------------------------------------------------


def sides(network: nn.Module, x: Tensor) -> dict[str, Callable[[Tensor], list[float]]]:
    """What certifies inputs such as `x`, by name: their radii."""
    with torch.no_grad():
        classes = network(x[:1]).shape[-1]
    generator, smoothed = torch.Generator().manual_seed(0), toolbox(network, x, classes)
    common: dict[str, Any] = {"n0": N0, "n": N, "alpha": ALPHA, "generator": generator}
    own: Callable[[list[Certified]], list[float]] = lambda found: [each.radius for each in found]  # noqa: E731
    loop = lambda x: reference(network, classes, x, SIGMA, N0, N, ALPHA, BATCH, generator)[1]  # noqa: E731
    found: dict[str, Callable[[Tensor], list[float]]] = {
        "surefoot, votes": lambda x: own(cohen_inputs(network, x, SIGMA, **common)),
        "surefoot, LVM-RS": lambda x: own(certify_inputs(network, x, SIGMA, **common)),
        "Cohen et al.": lambda x: [loop(each) for each in x],
    }
    if smoothed is not None:
        found["ART"] = lambda x: smoothed.certify(x.numpy(), n=N, batch_size=BATCH)[1].tolist()
    return found


def row(name: str, network: nn.Module, x: Tensor) -> dict[str, Any]:
    """Inputs per second of all sides, in turn, and their mean radii on the same inputs."""
    found = sides(network, x)
    seconds = {side: cpu_seconds(lambda work=work: work(x[:2])) / 2.0 for side, work in found.items()}  # type: ignore[misc]
    k = {side: min(len(x), max(2, round(ROUND_S / each))) for side, each in seconds.items()}
    best = dict.fromkeys(found, 0.0)
    for _ in range(ROUNDS):
        for side, work in found.items():
            best[side] = max(best[side], k[side] / cpu_seconds(lambda work=work, side=side: work(x[: k[side]])))  # type: ignore[misc]
    cells: dict[str, Any] = {"network": name, "samples": f"{N0} + {N:,}"}
    cells |= {f"{side}, inputs/s": rate for side, rate in best.items()}
    ours = best["surefoot, votes"]
    cells |= {f"votes, times {side}": ours / rate for side, rate in best.items() if not side.startswith("surefoot")}
    same = x[: min(k.values())]
    return cells | {f"{side}, mean radius": float(np.mean(work(same))) for side, work in found.items()}


def main(out: Path = RESULTS) -> None:
    """Write `radii.json`."""
    torch.set_num_threads(1)
    np.random.seed(0)  # noqa: NPY002  # the generator that the toolbox draws from
    found = []
    for name, (network, x) in networks().items():
        found.append(row(name, network, x))
        print(", ".join(f"{key} {value}" for key, value in found[-1].items()), file=sys.stderr)
    theirs = "ART, inputs/s" in found[0]
    write(
        "radii", found, out, note=f", adversarial-robustness-toolbox {metadata.version('adversarial-robustness-toolbox')}" if theirs else ""
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else RESULTS)
