"""What one prediction of a smoothed classifier costs: rRCM's single call, beside denoising first and classifying then.

A certificate asks for thousands of predictions, so their cost is its cost. Weights are not trained: they do not change what a call
costs. The plot is of the claim's result: certified accuracy against radius, and the mean radius against the cost.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.measuring import IMAGES, RESULTS, cpu_seconds, save_figure, write
from surefoot.methods.vision.classifier import NoiseClassifier, image_spec
from surefoot.methods.vision.denoised import DenoisedClassifier, Denoiser, Solver, calls
from surefoot.nn.mlp import MLP
from surefoot.nn.noise_conditional import NetworkSize

SIGMA, BATCH, ROUNDS = 0.25, 1024, 7

SIZES = {
    "residual MLP, 8 x 8": ((8, 8), NetworkSize()),
    "transformer, 3 x 32 x 32": ((3, 32, 32), NetworkSize("vit", width=128, depth=4, heads=4, patch=4)),
}
"""The networks of the claim, and a small one of the paper's kind."""

ARMS: dict[str, tuple[int, Solver] | None] = {
    "rRCM": None,
    "denoise once, classify": (1, "euler"),
    "denoise in 5 Euler steps, classify": (5, "euler"),
    "denoise in 5 Heun steps, classify": (5, "heun"),
}
"""Steps and solver of what comes before the classifier."""

COLOURS = {"rrcm": "#1b6ca8", "denoise": "#d1702a", "denoise, 5 steps": "#8c4a12", "scratch": "#5a9e6f", "plain": "0.55"}
"""Of the claim's arms, in pictures."""

Predict = Callable[[Tensor], Tensor]


def predictors(shape: tuple[int, ...], size: NetworkSize) -> dict[str, Predict]:
    """A classifier of each arm, all with the same trunk; the classifier of clean images is the claim's, or another such transformer."""
    spec, draw = image_spec(shape, 10), torch.Generator().manual_seed(0)
    rrcm, denoiser = NoiseClassifier(spec, size, SIGMA, generator=draw).eval(), Denoiser(spec, size, draw).eval()
    behind = NoiseClassifier(spec, size, SIGMA, generator=draw).eval()
    clean: nn.Module = behind if size.kind == "vit" else nn.Sequential(nn.Flatten(), MLP((spec.obs_dim, 256, 256, 10), generator=draw))
    return {name: rrcm if how is None else DenoisedClassifier(denoiser, clean, SIGMA, *how) for name, how in ARMS.items()}


def rows_of(network: str, shape: tuple[int, ...], size: NetworkSize) -> list[dict[str, Any]]:
    """Microseconds of each arm for a noisy copy, the best of a few rounds, in turns."""
    noisy = torch.rand(BATCH if size.kind == "mlp" else BATCH // 16, *shape, generator=torch.Generator().manual_seed(1))
    made = predictors(shape, size)
    best = dict.fromkeys(made, np.inf)
    with torch.no_grad():
        for predict in made.values():  # once before the clock runs
            predict(noisy)
        for _ in range(ROUNDS):
            for name, predict in made.items():
                best[name] = min(best[name], cpu_seconds(partial(predict, noisy)))
    return [
        {
            "network": network,
            "method": name,
            "network calls": 1 if how is None else calls(*how),
            "microseconds a prediction": 1e6 * best[name] / len(noisy),
            "times rRCM": best[name] / best["rRCM"],
        }
        for name, how in ARMS.items()
    ]


def plot(result: Mapping[str, Any], path: Path) -> None:
    """Of a result of the claim: certified accuracy against radius at each sigma, and the mean radius against CPU time for each image."""
    panels = [panel for panel in result["scores"] if panel.startswith("sigma")]
    seconds = result["facts"]["CPU seconds for each certified image"]
    figure, axes = plt.subplots(1, len(panels) + 1, figsize=(4.1 * len(panels) + 4.1, 3.8), constrained_layout=True)
    for axis, panel in zip(axes, panels, strict=False):
        for arm, seeds in result["scores"][panel].items():
            radii = np.concatenate([np.asarray(own) for own in seeds.values()])
            at = np.linspace(0.0, radii.max(), 200)
            axis.plot(at, (radii[:, None] >= np.maximum(at, 1e-12)).mean(0), color=COLOURS[arm], label=arm)
        axis.set(xlabel="l2 radius", ylim=(0.0, 1.0), title=panel)
    axes[0].set_ylabel("certified accuracy")
    axes[0].legend(fontsize=9, frameon=False)
    for panel, marker in zip(panels, "os", strict=False):
        for arm, seeds in result["scores"][panel].items():
            label = panel if arm == "rrcm" else None
            axes[-1].plot(1e3 * seconds[arm], np.mean(list(seeds.values())), marker, color=COLOURS[arm], ms=8, label=label)
    axes[-1].set(
        xscale="log", xlabel="CPU milliseconds for each certified image", ylabel="average certified radius", title="radius and cost"
    )
    axes[-1].legend(fontsize=9, frameon=False)
    for axis in axes:
        axis.grid(alpha=0.3, which="both")
    save_figure(figure, path)


def main(out: Path = RESULTS) -> None:
    """Write `vision.json`, and from the claim's stored result, if there is one, the plot."""
    write("vision", [row for network, (shape, size) in SIZES.items() for row in rows_of(network, shape, size)], out)
    result = RESULTS.parents[1] / "results" / "rrcm.json"
    if result.exists():
        plot(json.loads(result.read_text(encoding="utf-8")), (IMAGES if out == RESULTS else out) / "rrcm-certified.png")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
