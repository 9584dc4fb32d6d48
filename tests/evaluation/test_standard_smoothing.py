"""The standard certificate is that of its authors' loop, and of the Adversarial Robustness Toolbox, on the same noise.

`art_smoothing.npz` was recorded by `fixtures/make_art_smoothing.py`; nothing here needs the toolbox.
"""

from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.radii import networks, reference, reference_votes
from surefoot.evaluation.lvm_rs import ABSTAIN, VOTES, certify_input, cohen, predict
from surefoot.evaluation.noisy_copies import NoisyCopies, votes

torch.set_num_threads(1)

ART = dict(np.load(Path(__file__).parents[1] / "fixtures" / "art_smoothing.npz"))
SIGMA, ALPHA, N0, N = float(ART["settings"][0]), float(ART["settings"][1]), int(ART["settings"][2]), int(ART["settings"][3])


def network(x):
    w = {name: torch.from_numpy(ART[name]) for name in ("0.weight", "0.bias", "2.weight", "2.bias")}
    return torch.tanh(x @ w["0.weight"].T + w["0.bias"]) @ w["2.weight"].T + w["2.bias"]


class OnTheirNoise:
    """The network at the copies of input i that the toolbox drew, in order, whatever copies it is asked about."""

    def __init__(self, i):
        self.x, self.rows = torch.from_numpy(ART["x"][i]), np.random.RandomState(i)

    def __call__(self, copies):
        if torch.equal(copies, self.x[None]):  # without noise: how many classes there are
            return network(copies)
        noise = self.rows.normal(scale=SIGMA, size=tuple(copies.shape)).astype(np.float32)
        return network(self.x + torch.from_numpy(noise))


def test_art_certifies_the_same_class_and_radius():
    for i in range(len(ART["x"])):
        on_theirs = OnTheirNoise(i)
        found = cohen(on_theirs, on_theirs.x, SIGMA, n0=N0, n=N, alpha=ALPHA)
        assert found.label == ART["label"][i] and found.radius == pytest.approx(ART["radius"][i], abs=1e-12)
    assert (ART["label"] == ABSTAIN).sum() > 3 and len(set(ART["label"].tolist())) == 4  # they abstain too, and differ


def test_art_predicts_the_same_class():
    for i in range(len(ART["x"])):
        on_theirs = OnTheirNoise(i)
        assert predict(on_theirs, on_theirs.x, SIGMA, n=N0, alpha=ALPHA, generator=torch.Generator()) == ART["predicted"][i]
    assert (ART["predicted"] == ABSTAIN).sum() > 3


def test_the_authors_loop_certifies_the_same():
    """The same draws, in the same passes, for networks on vectors and on images."""
    abstained = 0
    for net, x in networks().values():
        with torch.no_grad():
            classes = net(x[:1]).shape[-1]
        for seed in range(8):
            draws = [torch.Generator().manual_seed(seed) for _ in range(2)]
            theirs = reference(net, classes, x[seed], 0.5, 30, 250, 0.01, 40, draws[0])
            ours = cohen(net, x[seed], 0.5, n0=30, n=250, alpha=0.01, batch=40, generator=draws[1])
            assert ours.label == theirs[0] and ours.radius == pytest.approx(theirs[1], abs=1e-12)
            abstained += ours.label == ABSTAIN
    assert 0 < abstained < 20


def test_votes_are_counted_as_in_the_authors_loop():
    draws = [torch.Generator().manual_seed(3) for _ in range(2)]
    x = torch.from_numpy(ART["x"][4])
    counts = votes(NoisyCopies(network, x[None], SIGMA, 64, draws[0]).logits(1000), 4)[0]
    assert counts.tolist() == reference_votes(network, 4, x, SIGMA, 1000, 64, draws[1]).tolist()


def test_with_two_classes_the_two_sided_radius_is_the_standard_one():
    """R2 of an interval at alpha / 2 to each side is R3 of a bound at alpha / 2: nothing is gained or lost but the correction."""
    two = lambda x: network(x)[:, :2]  # noqa: E731
    for i in range(10):
        draws = [torch.Generator().manual_seed(i) for _ in range(2)]
        x, settings = torch.from_numpy(ART["x"][i]), {"n0": 30, "n": 500}
        ours = certify_input(two, x, SIGMA, **settings, alpha=0.02, maps=VOTES, generator=draws[0])
        standard = cohen(two, x, SIGMA, **settings, alpha=0.01, generator=draws[1])
        assert ours.label == standard.label and ours.radius == pytest.approx(standard.radius, abs=1e-9)
