"""The claim of LVM-RS: at one budget of samples it certifies more than votes do, without training anything anew."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from surefoot.claims.base import Check, Claim, Context, Scores, derived, stated, table
from surefoot.data.images import DIGITS, read_images
from surefoot.errors import ConfigError
from surefoot.evaluation.lvm_rs import Certified, Map, certify_input, cohen, simplex_maps
from surefoot.evaluation.statistics import hierarchical_interval
from surefoot.nn.mlp import MLP
from surefoot.nn.optimise import adam, descend
from surefoot.training.engines import run_tasks

CELLS = {"trained 0.25": (0.25, 0.25), "trained 0.5": (0.5, 0.5), "zero-shot 0.5": (0.0, 0.5)}
"""Panel: noise in training, noise in smoothing."""

TEMPERATURES = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
IMAGES, SAMPLES, ALPHA = 100, {"n0": 500, "n": 10_000}, 0.001
EPOCHS, BATCH = 100, 128

Arm = Callable[..., Certified]
ARMS: dict[str, Arm] = {
    "cohen": cohen,
    "votes": partial(certify_input, maps=[Map("argmax")]),
    "split": partial(certify_input, maps=simplex_maps(TEMPERATURES)),
    "official": partial(certify_input, maps=simplex_maps(TEMPERATURES), mode="official"),
}


@dataclass(frozen=True)
class Task:
    """One classifier, certified by all arms."""

    seed: int
    train_sigma: float
    sigma: float


def run(context: Context) -> Scores:
    if context.scale == "full":
        raise ConfigError(
            "the full scale certifies CIFAR-10 or ImageNet with a classifier of yours: `surefoot certify MODEL --inputs FILE`."
        )
    tasks = [Task(seed, *CELLS[cell]) for cell in CELLS for seed in context.seeds]
    radii = run_tasks(certified_radii, tasks, jobs=context.jobs, done=lambda i, task: context.say(f"seed {task.seed}: noise {task.sigma}"))
    of_cell = {cell: radii[i * len(context.seeds) : (i + 1) * len(context.seeds)] for i, cell in enumerate(CELLS)}
    return {cell: {arm: context.arm([radius[arm] for radius in of_cell[cell]]) for arm in ARMS} for cell in CELLS}


def certified_radii(task: Task) -> dict[str, np.ndarray]:
    """Of each arm the radius at every test image, 0 where it abstains and -1 where the class is wrong: `[IMAGES]`."""
    (x, y), (x_test, y_test) = digits(derived(task.seed, "data"))
    classifier = train(x, y, task.train_sigma, derived(task.seed, f"training {task.train_sigma}"))
    radii = {}
    for name, certify in ARMS.items():
        generator = torch.Generator().manual_seed(derived(task.seed, f"evaluation {name} {task.train_sigma} {task.sigma}"))
        found = [certify(classifier, image, task.sigma, **SAMPLES, alpha=ALPHA, generator=generator) for image in x_test[:IMAGES]]
        wrong = [each.radius > 0.0 and each.label != label for each, label in zip(found, y_test.tolist(), strict=False)]
        radii[name] = np.where(wrong, -1.0, [each.radius for each in found])
    return radii


def digits(seed: int) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """scikit-learn's 1,797 digits of 64 pixels in [0, 1], 70 % to train with and the rest, shuffled and stratified."""
    train, rest = ((images.read().flatten(1), images.y) for images in read_images(DIGITS, held_out=0.3, seed=seed))
    return train, rest


def train(x: Tensor, y: Tensor, sigma: float, seed: int, epochs: int = EPOCHS) -> MLP:
    """A 64-256-256-10 network on images with fresh Gaussian noise of `sigma` in every epoch."""
    generator = torch.Generator().manual_seed(seed)
    net = MLP((x.shape[1], 256, 256, 10), generator=generator)
    optimiser = adam(net.parameters(), 1e-3)
    for _ in range(epochs):
        for rows in torch.randperm(len(x), generator=generator).split(BATCH):
            noisy = x[rows] + sigma * torch.randn(len(rows), x.shape[1], generator=generator)
            descend(torch.nn.functional.cross_entropy(net(noisy), y[rows]), optimiser)
    return net


# --- verdict ----------------------------------------------------------------------------------------------------------


def checks(scores: Scores) -> list[Check]:
    """Radii of the right class, paired image by image; seeds are resampled, then images within each."""
    out = []
    for cell, (train_sigma, sigma) in CELLS.items():
        if sigma != 0.5:
            continue
        words = "trained with noise 0.5" if train_sigma else "trained without noise"
        out.append(
            gain(scores, cell, "cohen", radius, f"acr, {cell}", f"{words}: LVM-RS's average certified radius is larger than that of votes")
        )
        statement = f"{words}: LVM-RS certifies more inputs at radius 0.25"
        out.append(gain(scores, cell, "cohen", within(0.25), f"accuracy, {cell}", statement, interval_decides=False))
    for cell in CELLS:
        statement = f"{cell}: the soft maps add to the average certified radius beyond the two-sided radius of votes"
        out.append(gain(scores, cell, "votes", radius, f"soft maps, {cell}", statement, required=False))
    statement = "zero-shot 0.5: the soft maps certify more inputs at all (abstain less) than votes with the two-sided radius"
    out.append(gain(scores, "zero-shot 0.5", "votes", within(1e-12), "abstaining", statement, required=False))
    out.append(
        gain(scores, "trained 0.25", "cohen", radius, "acr, trained 0.25", "with noise 0.25 LVM-RS's radius is larger too", required=False)
    )
    return out


def gain(
    scores: Scores,
    cell: str,
    baseline: str,
    measure: Callable[[np.ndarray], np.ndarray],
    name: str,
    statement: str,
    *,
    required: bool = True,
    interval_decides: bool = True,
) -> Check:
    """Mean of what "split" has over `baseline`, by images and seeds."""
    apart = measure(table(scores, cell, "split")) - measure(table(scores, cell, baseline))
    mean = hierarchical_interval(scores=apart)
    ok = mean.low > 0.0 if interval_decides else mean.value > 0.0
    return stated(name, statement, cell, mean.value, ok, threshold=0.0, interval=mean, required=required)


def radius(own: np.ndarray) -> np.ndarray:
    """What counts of a radius in the average: nothing where the class is wrong."""
    return np.maximum(own, 0.0)


def within(least: float) -> Callable[[np.ndarray], np.ndarray]:
    """Certified accuracy at radius `least`, image by image."""
    return lambda own: (own >= least).astype(np.float64)


CLAIM = Claim(
    slug="lvm-rs",
    title="The Lipschitz-Variance-Margin Tradeoff for Enhanced Randomized Smoothing (LVM-RS)",
    statement="At one budget of samples LVM-RS certifies larger radii than votes with Clopper-Pearson bounds, for a classifier"
    " that was trained with noise and for one that was not.",
    seeds=5,
    arms={
        "cohen": "votes, Clopper-Pearson, sigma Phi^-1(p_A)",
        "votes": "votes with the two-sided radius alone",
        "split": "LVM-RS, the map chosen on samples of its own",
        "official": "LVM-RS as published, which chooses on the samples that it certifies with (its confidence does not hold)",
    },
    panels={cell: f"l2 radius at 100 test digits (0: abstains, -1: wrong class), noise {sigma}" for cell, (_, sigma) in CELLS.items()},
    scales={
        "small": "scikit-learn's digits, a 64-256-256-10 network, 100 test images, 10,000 samples each, alpha 0.001.",
        "full": "CIFAR-10 or ImageNet with a classifier of your own: surefoot certify MODEL --inputs FILE.",
    },
    run=run,
    checks=checks,
)
