"""The claim of rRCM: a larger certified radius than denoise-then-classify, in one network call where that takes two or more."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from surefoot.claims import lvm_rs
from surefoot.claims.base import Check, Claim, Context, Scores, derived, stated, table
from surefoot.data.images import DIGITS, Epochs, Images, read_images
from surefoot.errors import ConfigError
from surefoot.evaluation.lvm_rs import cohen_inputs
from surefoot.evaluation.statistics import Interval, hierarchical_interval, mean_interval
from surefoot.methods.base import Method
from surefoot.methods.vision.classifier import image_spec
from surefoot.methods.vision.denoised import DenoisedClassifier, DenoiserConfig, DenoiserTraining
from surefoot.methods.vision.noise_trained import NoiseTrained, TuningConfig
from surefoot.methods.vision.rrcm import PRESETS, RRCM, preset
from surefoot.nn.mlp import MLP
from surefoot.nn.noise_conditional import NoiseConditional, ResidualMLP
from surefoot.training.engines import run_tasks

SMALL = PRESETS["small"]
PANELS = {0.25: "sigma 0.25", 0.5: "sigma 0.5"}
ARMS = ("rrcm", "denoise", "denoise, 5 steps", "scratch", "plain")
IMAGES, SELECTION, SAMPLES, ALPHA = 300, 100, 2000, 0.001  # 150 images left an interval as wide as the gain on tuning seeds
CLEAN_EPOCHS, STEPS = 60, 5
SHARES = (0.0, 0.5, 1.0, 1.5, 2.0)
"""Radii of the certified accuracy, in units of sigma."""

Classifier = Callable[[Tensor], Tensor]


def run(context: Context) -> Scores:
    if context.scale == "full":
        raise ConfigError(
            "the full scale trains on CIFAR-10 or ImageNet for days on several GPUs: `surefoot train rrcm --preset cifar10 --images FOLDER"
            " --sigma 0.25 --device cuda`, then `surefoot certify RUN --inputs RUN/held_out.npz --sigma 0.25 --samples 100000`."
        )
    done = run_tasks(one_seed, context.seeds, jobs=context.jobs, done=lambda i, seed: context.say(f"seed {seed}"))
    scores: Scores = {
        panel: {arm: context.arm([radii[panel][arm] for radii, _ in done]) for arm in ARMS} for sigma, panel in PANELS.items()
    }
    scores["calls"] = {arm: context.arm([cost[arm]["calls"] for _, cost in done]) for arm in ARMS}
    context.facts["CPU seconds for each certified image"] = {
        arm: float(np.mean([cost[arm]["seconds"] for _, cost in done])) for arm in ARMS
    }
    return scores


def one_seed(seed: int) -> tuple[dict[str, dict[str, np.ndarray]], dict[str, dict[str, float]]]:
    """Radii at the test images, by panel and arm `[IMAGES]`, and what each arm's certificates cost."""
    train, test = read_images(DIGITS, seed=derived(seed, "data"))
    arms = trained(train, seed)
    radii: dict[str, dict[str, np.ndarray]] = {panel: {} for panel in PANELS.values()}
    cost: dict[str, dict[str, float]] = {}
    for arm in ARMS:
        start = time.process_time()
        for sigma, panel in PANELS.items():
            radii[panel][arm] = certified_radii(arms[arm, sigma], test, sigma, derived(seed, f"evaluation {arm} {sigma}"))
        seconds = (time.process_time() - start) / (IMAGES * len(PANELS))
        cost[arm] = {"calls": max(network_calls(arms[arm, sigma], test.read(torch.arange(1))) for sigma in PANELS), "seconds": seconds}
    return radii, cost


def certified_radii(classifier: Classifier, test: Images, sigma: float, seed: int) -> np.ndarray:
    """The radius at each of the first test images, 0 where it abstains or the class is wrong: `[IMAGES]`."""
    generator = torch.Generator().manual_seed(seed)
    some = test.rows(torch.arange(IMAGES))
    found = cohen_inputs(classifier, some.read(), sigma, n0=SELECTION, n=SAMPLES, alpha=ALPHA, generator=generator)
    return np.array([each.radius if each.label == label else 0.0 for each, label in zip(found, some.y.tolist(), strict=True)])


def network_calls(classifier: Any, x: Tensor) -> int:
    """How often networks are called for one prediction, counted."""
    count = 0

    def counted(*_: object) -> None:
        nonlocal count
        count += 1

    hooks = [part.register_forward_hook(counted) for part in classifier.modules() if isinstance(part, (ResidualMLP, MLP))]
    with torch.no_grad():
        classifier(x)
    for hook in hooks:
        hook.remove()
    return count


# --- arms -------------------------------------------------------------------------------------------------------------


def trained(train: Images, seed: int) -> dict[tuple[str, float], nn.Module]:
    """The classifier of each arm and sigma."""
    rrcm = pretrained(train, seed)
    denoiser, clean = denoising_parts(train, seed)
    arms: dict[tuple[str, float], nn.Module] = {}
    for sigma in PANELS:
        tuning = preset("small", sigma).tuning
        arms["rrcm", sigma] = tuned(train, sigma, tuning, seed, rrcm.learned())
        arms["scratch", sigma] = tuned(train, sigma, tuning, seed)
        arms["plain", sigma] = tuned(train, sigma, replace(tuning, strength=0.0, entropy=0.0), seed)
        arms["denoise", sigma] = DenoisedClassifier(denoiser, clean, sigma)
        arms["denoise, 5 steps", sigma] = DenoisedClassifier(denoiser, clean, sigma, STEPS)
    return arms


def pretrained(train: Images, seed: int) -> RRCM:
    """Stage 1, without labels."""
    spec, config = image_spec(train.shape, 10), SMALL.pretraining
    method = RRCM(spec, config, SMALL.network, SMALL.augmentation, seed=derived(seed, "pre-training"))
    learn(method, Epochs(train, config.batch, whole=True, seed=derived(seed, "pre-training batches")), config.steps)
    return method


def tuned(train: Images, sigma: float, config: TuningConfig, seed: int, encoder: NoiseConditional | None = None) -> nn.Module:
    """Stage 2: from `encoder`, or from random weights."""
    source = Epochs(train, config.batch, seed=derived(seed, f"batches {sigma}"))
    method = NoiseTrained(
        image_spec(train.shape, 10),
        config,
        sigma,
        SMALL.network,
        epoch=source.batches,
        encoder=encoder,
        levels=SMALL.pretraining.levels,
        seed=derived(seed, f"tuning {sigma}"),
    )
    learn(method, source, method.total)
    return method.classifier


def denoising_parts(train: Images, seed: int) -> tuple[nn.Module, nn.Module]:
    """The denoiser, with the trunk that rRCM has, and the classifier of clean images behind it."""
    config = DenoiserConfig()
    method = DenoiserTraining(image_spec(train.shape, 10), config, SMALL.network, seed=derived(seed, "denoiser"))
    learn(method, Epochs(train, config.batch, whole=True, seed=derived(seed, "denoiser batches")), config.steps)
    clean = lvm_rs.train(train.read().flatten(1), train.y, 0.0, derived(seed, "clean classifier"), CLEAN_EPOCHS)
    return method.denoiser, nn.Sequential(nn.Flatten(), clean)


def learn(method: Method, source: Epochs, steps: int) -> None:
    """So many updates."""
    for batch in islice(source, steps):
        method.update(batch)


# --- verdict ----------------------------------------------------------------------------------------------------------


def checks(scores: Scores) -> list[Check]:
    """Radii of the right class, paired image by image and averaged over both sigmas; images are resampled, of all seeds together."""
    both = tuple(PANELS.values())
    larger = "rRCM's average certified radius is larger than that of"
    out = [
        gain(scores, both, "denoise", "acr", f"{larger} one-shot denoising and classifying, over both sigmas", required=True),
        gain(scores, both, "denoise, 5 steps", "acr, 5 steps", f"{larger} denoising in 5 steps and classifying"),
        gain(scores, both, "scratch", "pre-training", f"{larger} the same tuning without pre-training"),
        gain(scores, both, "plain", "consistency", f"{larger} training with noise alone"),
    ]
    for sigma, panel in PANELS.items():
        out.append(gain(scores, (panel,), "denoise", f"acr, {panel}", f"{larger} one-shot denoising at {panel}"))
        for share in SHARES:
            least = share * sigma
            statement = f"{panel}: rRCM certifies more images at radius {least:g} than one-shot denoising"
            out.append(gain(scores, (panel,), "denoise", f"accuracy, {panel}, {share:g}", statement, least=least))
    mean = hierarchical_interval(scores=apart(scores, both, "denoise"))
    out.append(_above_zero("acr, seeds too", "the same as acr, with seeds resampled before images", both, mean, False))
    calls = {arm: table(scores, "calls", arm) for arm in ("rrcm", "denoise")}
    once = bool((calls["rrcm"] == 1).all() and (calls["denoise"] >= 2).all())
    statement = "rRCM calls a network once for each prediction, denoise-then-classify at least twice (value: how many times as often)"
    return [*out, stated("calls", statement, "calls", float((calls["denoise"] / calls["rrcm"]).mean()), once, threshold=2.0)]


def apart(scores: Scores, panels: tuple[str, ...], baseline: str, least: float | None = None) -> np.ndarray:
    """What rRCM has over `baseline` at each image, a mean over panels: `[seeds, IMAGES]`. With `least`: of those certified so far."""
    return np.mean([counted(table(scores, panel, "rrcm"), least) - counted(table(scores, panel, baseline), least) for panel in panels], 0)


def counted(radii: np.ndarray, least: float | None) -> np.ndarray:
    """The radii themselves, or whether they reach `least` (at 0: whether there is one)."""
    return radii if least is None else (radii >= max(least, 1e-12)).astype(np.float64)


def gain(
    scores: Scores,
    panels: tuple[str, ...],
    baseline: str,
    name: str,
    statement: str,
    *,
    least: float | None = None,
    required: bool = False,
) -> Check:
    """The mean of what rRCM has over `baseline`; holds if the interval, over images, lies above 0."""
    return _above_zero(name, statement, panels, mean_interval(apart(scores, panels, baseline, least).reshape(-1)), required)


def _above_zero(name: str, statement: str, panels: tuple[str, ...], mean: Interval, required: bool) -> Check:
    return stated(name, statement, " and ".join(panels), mean.value, mean.low > 0.0, threshold=0.0, interval=mean, required=required)


CLAIM = Claim(
    slug="rrcm",
    title="Robust Representation Consistency Model via Contrastive Denoising (rRCM)",
    statement="An encoder that was trained to keep its representation along the diffusion trajectory, tuned at one level of noise,"
    " certifies larger radii than denoising and classifying does, with one network call for each prediction.",
    seeds=3,
    arms={
        "rrcm": "contrastive pre-training, then tuning with consistency",
        "denoise": "one call of an EDM denoiser with the same trunk, then a classifier of clean images",
        "denoise, 5 steps": "the same, with 5 Euler steps",
        "scratch": "the tuning alone, from random weights",
        "plain": "training with noise alone: no pre-training, no consistency",
    },
    panels={
        **dict.fromkeys(PANELS.values(), f"l2 radius at {IMAGES} test digits (0: abstains or names the wrong class)"),
        "calls": "network calls for each prediction, counted",
    },
    scales={
        "small": "scikit-learn's digits, residual MLPs 256 wide, 300 test images, 2,000 samples each, alpha 0.001.",
        "full": "CIFAR-10 or ImageNet with a vision transformer: surefoot train rrcm --preset cifar10 --images FOLDER.",
    },
    run=run,
    checks=checks,
)
