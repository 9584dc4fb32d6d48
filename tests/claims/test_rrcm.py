"""The claim of rRCM: what its checks see and do not see, and a miniature of its experiment."""

import numpy as np
import pytest
import torch

from surefoot.claims import base, rrcm
from surefoot.claims.rrcm import ARMS, CLAIM, PANELS, apart, counted
from surefoot.data.augmenting import Augmentation
from surefoot.errors import ConfigError
from surefoot.methods.vision.denoised import DenoiserConfig
from surefoot.methods.vision.noise_trained import TuningConfig
from surefoot.methods.vision.rrcm import Preset, RRCMConfig
from surefoot.nn.noise_conditional import NetworkSize

torch.set_num_threads(1)

SEEDS = ("0", "1", "2")


def scores(**gain):
    """Three seeds of 60 images; of each arm what it lies below rRCM, at every image."""
    rng = np.random.default_rng(0)
    below = dict.fromkeys(ARMS, 0.02) | {"rrcm": 0.0} | gain
    found = {panel: {arm: {} for arm in ARMS} for panel in PANELS.values()}
    for panel in found.values():
        for seed in SEEDS:
            image = rng.uniform(0.1, 0.6, 60)
            for arm, own in panel.items():
                own[seed] = np.maximum(image - below[arm] + rng.normal(0.0, 0.01, 60), 0.0).tolist()
    number = {"rrcm": 1.0, "denoise": 2.0, "denoise, 5 steps": 6.0, "scratch": 1.0, "plain": 1.0}
    return found | {"calls": {arm: dict.fromkeys(SEEDS, number[arm]) for arm in ARMS}}


def test_it_holds_where_it_should():
    found = {check.name: check for check in CLAIM.checks(scores())}
    assert base.holds(found.values())
    assert [name for name, check in found.items() if check.required] == ["acr", "calls"]
    assert found["acr"].value == pytest.approx(0.02, abs=0.002) and found["calls"].value == 2.0


@pytest.mark.parametrize(("below", "failed"), [({"denoise": 0.0}, "acr"), ({"denoise": -0.02}, "acr")])
def test_it_does_not_hold_where_denoising_is_as_good(below, failed):
    found = {check.name: check for check in CLAIM.checks(scores(**below))}
    assert not base.holds(found.values()) and not found[failed].holds and found["calls"].holds
    assert found["pre-training"].holds  # of which the verdict knows nothing


@pytest.mark.parametrize(("arm", "count"), [("rrcm", 2.0), ("denoise", 1.0)])
def test_it_does_not_hold_if_a_single_seed_calls_otherwise(arm, count):
    found = scores()
    found["calls"][arm]["1"] = count
    assert not base.holds(CLAIM.checks(found))


def test_images_are_paired():
    """Images differ far more than arms do; shuffling one arm's images hides what it gains."""
    found = scores()
    shuffled = scores()
    for panel in PANELS.values():
        for seed in SEEDS:
            shuffled[panel]["denoise"][seed] = np.random.default_rng(1).permutation(shuffled[panel]["denoise"][seed]).tolist()
    widths = [check.ci95[1] - check.ci95[0] for each in (found, shuffled) for check in CLAIM.checks(each) if check.name == "acr"]
    assert widths[0] < 0.2 * widths[1]


def test_certified_accuracy_counts_what_reaches_the_radius():
    radii = np.array([0.0, 0.1, 0.25, 0.4])
    assert counted(radii, 0.0).tolist() == [0, 1, 1, 1]  # at radius 0: certified at all
    assert counted(radii, 0.25).tolist() == [0, 0, 1, 1]
    assert np.array_equal(counted(radii, None), radii)
    assert apart(scores(), ("sigma 0.25", "sigma 0.5"), "scratch").shape == (3, 60)


def test_a_miniature_runs_and_counts_calls(monkeypatch):
    tiny = Preset(
        RRCMConfig(steps=2, batch=8, warmup=1, hidden=8, projection=4),
        TuningConfig(epochs=1),
        NetworkSize(width=8, depth=1, representation=4),
        Augmentation(),
    )
    monkeypatch.setattr(rrcm, "SMALL", tiny)
    monkeypatch.setattr(rrcm, "IMAGES", 5)
    monkeypatch.setattr(rrcm, "SAMPLES", 100)
    monkeypatch.setattr(rrcm, "CLEAN_EPOCHS", 1)
    monkeypatch.setattr(rrcm, "preset", lambda name, sigma: tiny)
    monkeypatch.setattr(rrcm, "DenoiserConfig", lambda: DenoiserConfig(steps=2, batch=8))
    context = CLAIM.context(n=1, offset=5)
    found = CLAIM.run(context)
    assert {arm: own["5"] for arm, own in found["calls"].items()} == dict(zip(ARMS, (1, 2, 6, 1, 1), strict=True))
    for panel in PANELS.values():
        for arm in ARMS:
            radii = np.array(found[panel][arm]["5"])
            assert radii.shape == (5,) and (radii >= 0.0).all()
    assert {check.name for check in CLAIM.checks(found)} > {"acr", "calls"}
    assert found == CLAIM.run(CLAIM.context(n=1, offset=5))  # nothing random but the seed
    assert set(context.facts["CPU seconds for each certified image"]) == set(ARMS)


def test_the_full_scale_says_how_to_run_it():
    with pytest.raises(ConfigError, match="surefoot train rrcm --preset cifar10 --images FOLDER"):
        CLAIM.run(CLAIM.context("full"))
