"""LVM-RS: pipelines by hand, many inputs against one at a time, classifiers with known geometry, and where the chosen map matters."""

from math import inf, sqrt

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.integrate import quad

from surefoot.errors import ConfigError, DataError
from surefoot.evaluation import lvm_rs
from surefoot.evaluation.certificates import clopper_pearson_lower
from surefoot.evaluation.lvm_rs import (
    ABSTAIN,
    VOTES,
    Map,
    all_outputs,
    average_certified_radius,
    certified_accuracy,
    certify_input,
    certify_inputs,
    cohen,
    cohen_inputs,
    own_outputs,
    predict,
    simplex_maps,
)
from surefoot.evaluation.radii import bernstein_shift, radius_lipschitz, radius_one_sided, radius_two_sided, smoothed_lipschitz


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def from_moments(of, mean, std, n, level, sigma=0.5):
    """The certificate of one map at one input with these moments `[c]`."""
    mean, std = (torch.tensor(a, dtype=torch.float64)[None, None] for a in (mean, std))
    return lvm_rs._largest([[of]], mean, std, n=n, level=level, sigma=sigma, lipschitz=None)[0]


# --- pipelines on given moments ---------------------------------------------------------------------------------------


def test_votes_by_hand():
    counts = np.array([9_000, 600, 400, *[0] * 7])
    found = from_moments(Map("argmax"), counts / 1e4, np.zeros(10), 10_000, 1e-4)
    assert (found.label, found.lower, found.upper) == (0, pytest.approx(0.888409, abs=1e-6), pytest.approx(0.069308, abs=1e-6))
    assert found.radius == pytest.approx(0.674770, abs=1e-6)
    low = float(clopper_pearson_lower(9_000, 10_000, 1e-3))
    assert low == pytest.approx(0.890410, abs=1e-6) and radius_one_sided(low, 0.5) == pytest.approx(0.614355, abs=1e-6)


def test_soft_maps_by_hand():
    mean, std = np.array([0.88, 0.08, 0.04]), np.array([0.1, 0.08, 0.05])
    level = 1e-3 / 3
    np.testing.assert_allclose(bernstein_shift(std, 10_000, level), [0.006201, 0.005367, 0.004116], atol=1e-6)
    found = from_moments(Map("softmax", 1.0), mean, std, 10_000, level)
    assert (found.lower, found.upper) == (pytest.approx(0.873799, abs=1e-6), pytest.approx(0.085367, abs=1e-6))
    assert found.radius == pytest.approx(0.628595, abs=1e-6)


def test_the_runner_up_is_another_class():
    """The class with the largest upper bound need not be the one with the largest lower bound."""
    found = from_moments(Map("softmax", 1.0), [0.50, 0.49, 0.01], [0.01, 0.5, 0.01], 1_000, 0.01)
    assert found.label == 0 and found.upper > found.lower and found.radius < 0.0


# --- maps -------------------------------------------------------------------------------------------------------------

logits = st.lists(st.floats(-20.0, 20.0), min_size=2, max_size=5)
every_map = st.sampled_from(simplex_maps((0.1, 1.0, 7.0, 50.0)))


@given(every_map, logits, st.floats(-5.0, 5.0), st.randoms(use_true_random=False))
@settings(deadline=None)
def test_what_every_map_keeps(of, z, shift, random):
    z = torch.tensor(z, dtype=torch.float64)
    p = of(z)
    assert p.min() >= 0.0 and p.sum() == pytest.approx(1.0)
    assert p[z.argmax()] == p.max()  # the class with the largest logit
    assert bool(((p[:, None] - p[None])[z[:, None] > z[None]] >= -1e-12).all())  # order
    if of.kind != "argmax":  # whose ties rounding breaks
        torch.testing.assert_close(of(z + shift), p, atol=1e-9, rtol=0)
    order = list(range(len(z)))
    random.shuffle(order)
    if len(set(z.tolist())) == len(z):  # which of equals comes first is the argmax's choice
        torch.testing.assert_close(of(z[order]), p[order], atol=1e-12, rtol=0)


@given(st.sampled_from(simplex_maps((0.1, 1.0, 7.0, 50.0))[1:]), st.integers(0, 10_000), st.integers(2, 8), st.floats(1e-4, 3.0))
@settings(deadline=None)
def test_maps_are_as_steep_as_their_constants_say(of, seed, c, size):
    z, step = torch.randn(2, c, generator=generator(seed), dtype=torch.float64)
    moved = (of(z + size * step) - of(z)).norm()
    assert moved <= of.lipschitz(1.0) * size * step.norm() * (1.0 + 1e-9)


def test_sharp_maps_are_votes():
    z = torch.randn(1, 500, 4, generator=generator(), dtype=torch.float64)
    mean = all_outputs([Map("argmax"), Map("softmax", 1e7), Map("sparsemax", 1e7)], z).mean(-2)[0]
    torch.testing.assert_close(mean[1:], mean[[0, 0]], atol=1e-9, rtol=0)


def test_maps_side_by_side_are_each_map_alone():
    z, maps = torch.randn(3, 20, 4, generator=generator(), dtype=torch.float64), simplex_maps((0.5, 4.0))
    torch.testing.assert_close(all_outputs(maps, z), torch.stack([of(z) for of in maps], 1))
    own = [maps[0], maps[4], maps[2]]
    torch.testing.assert_close(own_outputs(own, z), torch.stack([of(z[i]) for i, of in enumerate(own)])[:, None])


# --- many inputs ------------------------------------------------------------------------------------------------------


def planes(x):
    """Three classes with soft borders."""
    return 3.0 * x @ torch.tensor([[1.0, -0.5, -0.5], [0.0, 0.8, -0.8]])


def test_one_input_is_certified_as_one_of_many():
    """The same draws give the same certificate: the only input of a batch, and that input by itself."""
    x = torch.tensor([[0.3, 0.1]])
    for one, many in ((certify_input, certify_inputs), (cohen, cohen_inputs)):
        arguments = {"n0": 50, "n": 500, "batch": 100}
        assert one(planes, x[0], 0.5, **arguments, generator=generator(1)) == many(planes, x, 0.5, **arguments, generator=generator(1))[0]


@pytest.mark.parametrize("mode", ["split", "union", "official"])
def test_many_inputs_are_certified_as_each_by_itself_is(mode):
    """Labels and mean radii over 200 repetitions at each of three inputs, in groups that do not come out even."""
    points, maps = torch.tensor([[0.6, 0.0], [0.1, 0.1], [-0.3, -0.9]]), simplex_maps((0.5, 4.0))
    arguments = {"n0": 50, "n": 300, "alpha": 0.05, "mode": mode, "maps": maps}
    many = certify_inputs(planes, points.repeat(200, 1), 0.5, **arguments, batch=16 * 70, generator=generator(0))
    for i, point in enumerate(points):
        draws = generator(i + 1)
        apart = [certify_input(planes, point, 0.5, **arguments, generator=draws) for _ in range(200)]
        ours = [np.array([each.radius for each in found]) for found in (many[i::3], apart)]
        assert abs(ours[0].mean() - ours[1].mean()) <= 4.0 * sqrt((ours[0].var() + ours[1].var()) / 200) + 1e-12
        assert {each.label for each in many[i::3]} == {each.label for each in apart}
    radii = np.array([each.radius for each in many[::3]])
    assert len(np.unique(radii)) > 20  # copies are drawn afresh for every input


def test_groups_of_any_size_see_as_many_copies():
    asked = []

    def counting(x):
        asked.append(len(x))
        return planes(x)

    for batch in (1, 7, 64, 1000):
        asked.clear()
        done = []
        certify_inputs(counting, torch.zeros(5, 2), 0.5, n0=33, n=101, alpha=0.05, batch=batch, progress=done.append)
        assert sum(asked) == 5 * (33 + 101) + 1 and max(asked) <= batch  # and once without noise, for the number of classes
        assert done[-1] == 5 and done == sorted(done)


def test_what_a_classifier_is_told_about_an_input_comes_with_each_copy():
    seen = []

    def shifted(x, given):
        seen.append(given["shift"])
        return planes(x + given["shift"])

    x, shift = torch.zeros(40, 2), torch.linspace(-1.0, 1.0, 40)[:, None] * torch.tensor([1.0, 0.0])
    arguments = {"n0": 50, "n": 400, "alpha": 0.05, "batch": 200}
    told = certify_inputs(shifted, x, 0.5, **arguments, given={"shift": shift}, generator=generator())
    assert told == certify_inputs(planes, x + shift, 0.5, **arguments, generator=generator())
    assert told[-1].label == 0 and told[0].label != 0 and all(len(each) <= 200 for each in seen)


# --- known classifiers ------------------------------------------------------------------------------------------------


def linear(scale: float):
    """Two classes apart by a hyperplane at distance 0.25 of the origin: z = (w x, -w x), |w| = 2, at x with w x = 0.5."""
    w = torch.tensor([2.0, 0.0]) * scale
    return lambda x: torch.stack([x @ w, -(x @ w)], -1)


def test_a_known_lipschitz_constant_helps():
    """p_1 = E clip((b a + 1) / 2, 0, 1), a ~ N(0.3, 0.5^2), without sampling; 0.3 is the true distance."""
    for b, p_a, known, two_sided in ((1.0, 0.641199, 0.295860, 0.180833), (4.0, 0.717684, 0.284239, 0.287988)):
        f = lambda u, b=b: np.clip((b * (0.3 + 0.5 * u) + 1) / 2, 0.0, 1.0) * stats.norm.pdf(u)  # noqa: E731
        p = quad(f, -9, 9, points=[(-1 / b - 0.3) / 0.5, (1 / b - 0.3) / 0.5], limit=200)[0]
        assert p == pytest.approx(p_a, abs=1e-6)
        of_map = Map("sparsemax", b).lipschitz(1.0 / sqrt(2.0))  # of the logits (a / 2, -a / 2)
        assert radius_lipschitz(p, 1 - p, smoothed_lipschitz(of_map, 0.5)) == pytest.approx(known, abs=1e-5)
        assert radius_two_sided(p, 1 - p, 0.5) == pytest.approx(two_sided, abs=1e-5)
        assert max(known, two_sided) < 0.3


def test_a_lipschitz_constant_enlarges_a_radius():
    w = torch.tensor([0.5, 0.0])
    soft = lambda x: torch.stack([x @ w, -(x @ w)], -1)  # noqa: E731
    arguments = {"n0": 500, "n": 20_000, "maps": [Map("sparsemax", 1.0)]}
    without = certify_input(soft, torch.tensor([0.3, 0.0]), 0.5, **arguments, generator=generator())
    known = certify_input(soft, torch.tensor([0.3, 0.0]), 0.5, **arguments, lipschitz=1 / sqrt(2), generator=generator())
    assert 0.3 > known.radius > 1.3 * without.radius > 0.0


def test_many_uncertain_classes_gain_from_two_sides():
    """Three classes at about (0.49, 0.28, 0.23): Cohen's one-sided bound abstains, a two-sided one does not."""
    centres = torch.tensor([0.10, -0.10, -0.20])
    noisy = lambda x: torch.stack([x[:, i] + centres[i] for i in range(3)], -1) * 5.0  # noqa: E731
    arguments = {"sigma": 0.5, "n0": 500, "n": 10_000}
    assert cohen(noisy, torch.zeros(3), **arguments, generator=generator()).label == ABSTAIN
    assert certify_input(noisy, torch.zeros(3), **arguments, generator=generator()).radius > 0.03


def test_the_same_draws_give_the_same_certificate():
    one, other = (certify_input(linear(1.0), torch.tensor([0.5, 0.0]), 0.5, n=1_000, generator=generator(3)) for _ in range(2))
    assert one == other and one.label == 0 and one.radius > 0.2


def test_predictions_abstain_between_two_classes():
    assert predict(linear(1.0), torch.tensor([1.0, 0.0]), 0.5, generator=generator()) == 0
    assert predict(linear(1.0), torch.tensor([0.0, 0.0]), 0.5, generator=generator()) == ABSTAIN


def test_what_a_set_of_inputs_comes_to():
    one = lambda label, radius: lvm_rs.Certified(label, radius, Map("argmax"), 0.0, 0.0)  # noqa: E731
    certified = [one(0, 0.4), one(1, 0.2), one(ABSTAIN, 0.0), one(2, 0.8)]
    labels = np.array([0, 1, 2, 0])
    assert average_certified_radius(certified, labels) == pytest.approx(0.15)
    np.testing.assert_allclose(certified_accuracy(certified, labels, np.array([0.0, 0.3, 0.5])), [0.5, 0.25, 0.0])
    assert average_certified_radius(certified) == pytest.approx(0.35)  # whatever the class
    np.testing.assert_allclose(certified_accuracy(certified, None, np.array([0.0, 0.3, 0.5])), [0.75, 0.5, 0.25])


# --- misuse -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sigma": 0.0}, "sigma is 0"), ({"sigma": -1.0}, "sigma is -1"), ({"sigma": inf}, "sigma is inf"), ({"alpha": 1.0}, "alpha is 1"),
        ({"mode": "best"}, "mode is 'best'"), ({"n0": 1}, "n0 is 1"), ({"maps": []}, "0 maps"), ({"batch": 0}, "batch is 0"),
    ],
)  # fmt: skip
def test_settings_outside_their_range(change, message):
    with pytest.raises(ConfigError, match=message):
        certify_input(linear(1.0), torch.zeros(2), **({"sigma": 0.5} | change))


@pytest.mark.parametrize(
    ("certify", "change", "least"),
    [
        (certify_input, {"alpha": 0.001}, 11), (certify_input, {"alpha": 0.05}, 6), (cohen, {"alpha": 0.001}, 10),
        (certify_input, {"alpha": 0.001, "mode": "union", "maps": VOTES}, 12), (predict, {"alpha": 0.001}, 11),
        (certify_input, {"alpha": 0.001, "maps": [Map("softmax", 1.0)]}, 40),
    ],
)  # fmt: skip
def test_too_few_samples_for_the_confidence_say_how_many_are_needed(certify, change, least):
    """Where every copy agrees, the number that the message names certifies something, and one less could not."""
    sure = lambda x: torch.tensor([[1e3, -1e3]]).expand(len(x), 2)  # noqa: E731
    with pytest.raises(ConfigError, match=f"n is {least - 1}: no {least - 1} samples can certify anything .* take {least} or more"):
        certify(sure, torch.zeros(2), 0.5, n=least - 1, generator=generator(), **change)
    found = certify(sure, torch.zeros(2), 0.5, n=least, generator=generator(), **change)
    assert found == 0 or (found.label == 0 and 0.0 < found.radius < 0.1)


def test_classifiers_and_inputs_that_cannot_be_certified():
    x = torch.zeros(2)
    for certify in (certify_input, cohen):
        with pytest.raises(DataError, match="c >= 2 classes"):
            certify(lambda x: x[:, :1], x, 0.5)
        with pytest.raises(DataError, match=r"gave \(1,\) for 1 inputs: it must give a logit for each class"):
            certify(lambda x: x[:, 0], x, 0.5)
        with pytest.raises(DataError, match="NaN or infinite"):
            certify(lambda x: x.sqrt(), x, 0.5)
        with pytest.raises(DataError, match="NaN or infinite"):
            certify(lambda x: 1.0 / x, x, 0.5)
        with pytest.raises(DataError, match="of real numbers"):
            certify(linear(1.0), torch.zeros(2, dtype=torch.uint8), 0.5)
    with pytest.raises(DataError, match="input 1 holds a number that is NaN or infinite"):
        certify_inputs(linear(1.0), torch.tensor([[0.0, 1.0], [inf, 0.0]]), 0.5)
    with pytest.raises(DataError, match="NaN or infinite near input 38"):
        certify_inputs(lambda x: planes(x) / (x[:, :1] < 9.0), torch.arange(0.0, 40.0)[:, None].repeat(1, 2) / 4.2, 0.01, batch=64)
    with pytest.raises(DataError, match="one or more"):
        certify_inputs(linear(1.0), torch.zeros(0, 2), 0.5)
    with pytest.raises(ConfigError, match="must be positive and finite"):
        simplex_maps((0.0,))
