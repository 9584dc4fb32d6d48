"""The LVM-RS claim: what its checks see and do not see, and a miniature of its experiment."""

from functools import partial

import numpy as np
import pytest
import torch

from surefoot.claims import base, lvm_rs
from surefoot.claims.base import Context
from surefoot.claims.lvm_rs import ARMS, CELLS, CLAIM
from surefoot.errors import ConfigError

torch.set_num_threads(1)


def scores(gain=lambda cell: 0.1, wrong=0.0):
    """Radii of 100 images on three seeds: "cohen", and the others larger by `gain`, a share of theirs of a wrong class."""
    rng, found = np.random.default_rng(0), {}
    for cell in CELLS:
        standard = {str(seed): rng.uniform(0.0, 0.5, 100) for seed in range(3)}
        larger = {seed: np.where(rng.random(100) < wrong, -1.0, own + gain(cell)) for seed, own in standard.items()}
        found[cell] = {arm: {s: own.tolist() for s, own in (standard if arm == "cohen" else larger).items()} for arm in ARMS}
    return found


def verdicts(found):
    return {check.name: check.holds for check in CLAIM.checks(found)}


def test_it_holds_where_it_should():
    checks = CLAIM.checks(scores())
    assert base.holds(checks)
    assert [c.name for c in checks if c.required] == [
        "acr, trained 0.5", "accuracy, trained 0.5", "acr, zero-shot 0.5", "accuracy, zero-shot 0.5",
    ]  # fmt: skip
    for check in checks:
        if check.name.startswith("acr"):
            assert check.value == pytest.approx(0.1) and check.ci95[0] == pytest.approx(0.1)
    assert not any(c.holds for c in checks if c.name.startswith("soft maps"))  # votes alone do as well: it says so, and still holds


def test_it_does_not_hold_without_a_gain_at_either_classifier():
    gains = {"trained 0.25": 0.0, "trained 0.5": 0.1, "zero-shot 0.5": 0.0}
    checks = CLAIM.checks(scores(gains.__getitem__))
    assert not base.holds(checks)
    found = {check.name: check.holds for check in checks}
    assert found["acr, trained 0.5"] and found["accuracy, trained 0.5"]
    assert not found["acr, zero-shot 0.5"] and not found["accuracy, zero-shot 0.5"] and not found["acr, trained 0.25"]


def test_radii_of_a_wrong_class_do_not_count():
    found = verdicts(scores(lambda cell: 0.05, wrong=0.5))
    assert not found["acr, trained 0.5"] and not found["accuracy, trained 0.5"]


def test_in_miniature(monkeypatch):
    monkeypatch.setattr(lvm_rs, "IMAGES", 3)
    monkeypatch.setattr(lvm_rs, "SAMPLES", {"n0": 30, "n": 200})
    monkeypatch.setattr(lvm_rs, "train", partial(lvm_rs.train, epochs=3))
    found = lvm_rs.run(Context(seeds=[900]))
    assert set(found) == set(CELLS)
    for arms in found.values():
        assert set(arms) == set(ARMS) and all(np.shape(arms[arm]["900"]) == (3,) and min(arms[arm]["900"]) >= -1.0 for arm in arms)
    assert max(found["trained 0.25"]["split"]["900"]) > 0.1
    again = lvm_rs.certified_radii(lvm_rs.Task(900, *CELLS["trained 0.5"]))
    assert {arm: own.tolist() for arm, own in again.items()} == {arm: own["900"] for arm, own in found["trained 0.5"].items()}


def test_digits_are_those_of_scikit_learn():
    """The split that the recorded outcome was measured on."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    images, labels = load_digits(return_X_y=True)
    expected = train_test_split(images / 16.0, labels, test_size=0.3, stratify=labels, random_state=5)
    (x, y), (x_test, y_test) = lvm_rs.digits(5)
    for ours, theirs in zip((x, x_test, y, y_test), expected, strict=True):
        np.testing.assert_array_equal(ours.numpy(), theirs.astype(ours.numpy().dtype))


def test_the_full_scale_says_what_to_do():
    with pytest.raises(ConfigError, match="surefoot certify MODEL --inputs FILE"):
        lvm_rs.run(Context(seeds=[900], scale="full"))
