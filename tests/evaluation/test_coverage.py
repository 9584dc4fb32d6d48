"""Certificates hold as often as they state, on cases whose truth is known: the cases of `benchmarks/coverage.py`, 2,000 times each.

What is stated with confidence 1 - alpha may fail in a share of alpha. A test fails where so many failures have a chance below 1 in 10,000
if the statement is true: an exact, one-sided binomial test.
"""

import numpy as np
import pytest
import torch
from scipy import stats

from benchmarks.coverage import BUDGETS, SIGMA, THRESHOLDS, ManySizes, best_attack, cases, contradicted, plane, times_held
from surefoot.evaluation.certificates import clopper_pearson_lower, clopper_pearson_upper
from surefoot.evaluation.lvm_rs import all_outputs
from surefoot.evaluation.noisy_copies import moments

torch.set_num_threads(1)

CASES = cases()
NAMES = [f"{case.certificate}: {case.case}" for case in CASES]


@pytest.mark.parametrize(
    "case", [case for case in CASES if case.sound], ids=[n for n, case in zip(NAMES, CASES, strict=True) if case.sound]
)
def test_it_holds_as_often_as_it_states(case):
    assert not contradicted(case, times_held(case, 2_000, seed=1), 2_000, 1e-4)


def test_exact_bounds_are_not_held_by_being_vacuous():
    """Where nothing is lost to discreteness, union bounds or a class correction, they fail about as often as they may."""
    for name in ("votes (Cohen et al.)", "return, Clopper-Pearson, won or lost"):
        case = next(case for case in CASES if case.certificate == name)
        assert times_held(case, 2_000, seed=2) / 2_000 <= 1.0 - 0.4 * case.alpha


def test_choosing_on_the_samples_that_certify_costs_the_confidence():
    """The published procedure, at a point where every radius is wrong, and maps that err each in their own way."""
    official = next(case for case in CASES if case.certificate == "LVM-RS, official" and "boundary" in case.case)
    assert contradicted(official, times_held(official, 20_000, seed=1), 20_000, 1e-4)


@pytest.mark.parametrize("trials", [5, 40])
def test_clopper_pearson_covers_at_every_probability(trials):
    """Not by simulation: the chance of all outcomes whose bound holds, at 200 probabilities."""
    p, level, k = np.linspace(0.001, 0.999, 200), 0.05, np.arange(trials + 1)
    chance = stats.binom.pmf(k, trials, p[:, None])
    for holds in (clopper_pearson_lower(k, trials, level) <= p[:, None], clopper_pearson_upper(k, trials, level) >= p[:, None]):
        assert (chance * holds).sum(-1).min() >= 1.0 - level - 1e-12


# --- the cases themselves ---------------------------------------------------------------------------------------------


def test_moments_of_many_sizes_are_those_of_the_maps():
    """Logits of every size and sign, through the maps themselves."""
    case = ManySizes(sizes=4)
    counts = case.counts(3_000, 3, np.random.default_rng(0))
    logits = []
    for own in counts:
        s = np.concatenate(
            [np.full(number, sign * 10.0 ** (6 * j)) for j, pair in enumerate(own) for number, sign in zip(pair, (1, -1), strict=True)]
        )
        logits.append(np.stack([s, -s], -1))
    mean, std = moments(lambda z: all_outputs(case.maps, z), iter([torch.from_numpy(np.stack(logits))]), len(case.maps))
    expected = case.moments(counts)
    np.testing.assert_allclose(mean, expected[0], atol=2e-6)
    np.testing.assert_allclose(std, expected[1], atol=2e-6)


def test_the_boundary_of_the_plane_is_where_votes_are_even():
    x = torch.tensor([0.0, 0.7]) + SIGMA * torch.randn(40_000, 2, generator=torch.Generator().manual_seed(0))
    assert abs((plane(x).argmax(-1) == 0).double().mean() - 0.5) < 4 * 0.5 / np.sqrt(40_000)


def test_no_attack_on_a_linear_sum_is_stronger_than_the_one_along_its_weights():
    w, c = np.array([0.6, -0.64, 0.48]), THRESHOLDS[:, None]
    rng = np.random.default_rng(0)
    for budget, worst in zip(BUDGETS, best_attack(), strict=True):
        eps = rng.normal(size=(500, 3))
        eps *= budget / np.linalg.norm(eps, axis=1, keepdims=True)
        attacked = stats.norm.cdf((c - eps @ w) / SIGMA).sum(0)
        assert attacked.min() >= worst - 1e-9
        assert stats.norm.cdf((c - (budget * w) @ w) / SIGMA).sum() == pytest.approx(worst)
