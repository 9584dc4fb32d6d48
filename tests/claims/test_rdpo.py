"""The claim of rDPO: what its checks see and do not see, and a miniature of its experiment."""

import numpy as np
import pytest
import torch

from surefoot.claims import base, rdpo
from surefoot.claims.base import Context
from surefoot.claims.rdpo import CLAIM, SIZES, Theorem, World, fit, recorded_pairs
from surefoot.errors import ConfigError
from surefoot.methods.language.losses import dpo, robust

torch.set_num_threads(1)

SEEDS = tuple(map(str, range(6)))
J = {"clean": 1.0, "dpo": 0.3, "cdpo": 0.1, "ipo": 0.1, "hinge": 0.4, "rdpo": 0.6, "reference": 0.0, "best": 1.1}


def scores(**changes):
    """Six seeds as the theorem has them; `changes` are rates or values of J, by arm."""
    rng, found = np.random.default_rng(0), {}
    powers = {"clean": -0.5, "dpo": 0.0, "cdpo": 0.0, "rdpo": -0.5} | changes.get("rates", {})
    values = J | changes.get("values", {})
    for eps in (0.3, 0.4):
        world = {seed: rng.normal(0.0, 0.2) for seed in SEEDS}  # what a seed adds to all arms
        start = {"clean": 0.2, "dpo": 1.5, "cdpo": 1.7, "rdpo": 1.2}
        found[f"error, flips {eps}"] = {
            arm: {seed: (start[arm] * (np.array(SIZES) / SIZES[0]) ** power).tolist() for seed in SEEDS} for arm, power in powers.items()
        }
        for panel in ("J", "reward"):
            found[f"{panel}, flips {eps}"] = {
                arm: {seed: value + world[seed] + rng.normal(0.0, 0.02) for seed in SEEDS} for arm, value in values.items()
            }
    return found


def test_it_holds_where_it_should():
    checks = {check.name: check for check in CLAIM.checks(scores())}
    assert base.holds(checks.values()) and all(check.holds for check in checks.values())
    assert checks["rate of rdpo, 0.4"].value == pytest.approx(-0.5) and checks["plateau of dpo, 0.3"].value == pytest.approx(0.0)
    assert checks["J over hinge, 0.4"].value == pytest.approx(0.2, abs=0.03) and checks["J over hinge, 0.4"].required


@pytest.mark.parametrize(
    ("changes", "failed"),
    [
        ({"rates": {"rdpo": -0.2}}, "rate of rdpo, 0.4"),
        ({"rates": {"rdpo": -0.8}}, "rate of rdpo, 0.3"),
        ({"rates": {"dpo": -0.5}}, "plateau of dpo, 0.4"),
        ({"rates": {"dpo": -0.5}}, "error ratio, 0.4"),
        ({"rates": {"cdpo": 0.1}}, "plateau of cdpo, 0.3"),
        ({"values": {"dpo": 0.6}}, "J over dpo, 0.4"),
        ({"values": {"hinge": 0.7}}, "J over hinge, 0.3"),
    ],
)
def test_it_does_not_hold_where_it_should_not(changes, failed):
    checks = {check.name: check for check in CLAIM.checks(scores(**changes))}
    assert not base.holds(checks.values()) and not checks[failed].holds


def test_pairs_are_bradley_and_terrys_and_then_flipped():
    truth, n = torch.tensor([2.0, 0.0, 0.0, 0.0, 0.0, 0.0], dtype=torch.float64), 40_000
    apart, flip = recorded_pairs(truth, n, 0.3, torch.Generator().manual_seed(0))
    assert abs(flip.double().mean().item() - 0.3) < 4 * (0.21 / n) ** 0.5
    margin = apart @ truth
    assert abs((torch.sigmoid(margin.abs()) - (margin > 0).double()).mean().item()) < 4 * 0.5 / n**0.5  # better ones win as often as told
    torch.testing.assert_close(apart.square().mean(0), torch.full((6,), 2 * rdpo.SPREAD, dtype=torch.float64), atol=0.03, rtol=0)


def test_a_fit_finds_theta_without_flips_and_stays_bounded_where_there_is_no_minimum():
    truth = torch.tensor([1.0, -1.0, 0.5, 0.0, 0.5, -0.5], dtype=torch.float64)
    apart, flip = recorded_pairs(truth, 20_000, 0.3, torch.Generator().manual_seed(1))
    assert (fit(dpo, apart) - truth).norm() < 0.15
    few = torch.where(flip[:, None], -apart, apart)[:10]
    assert fit(lambda x: robust(dpo, x, 0.45), few).norm() <= rdpo.RADIUS


def test_the_log_ratio_starts_at_zero_and_winners_earn_more():
    world = World.drawn(3, 500)
    torch.testing.assert_close(world.margins(world.reference, torch.arange(20)), torch.zeros(20), atol=1e-4, rtol=0)
    earned = world.values[world.winners].sum(-1) - world.values[world.losers].sum(-1)
    assert earned.mean() > 0.3


def test_a_miniature(monkeypatch):
    monkeypatch.setattr(rdpo, "SIZES", (200, 400, 800, 1600))
    found = rdpo.errors(Theorem(0, 0.3))
    assert {arm: len(values) for arm, values in found.items()} == dict.fromkeys(("clean", "dpo", "cdpo", "rdpo"), 4)
    assert found["clean"][-1] < 0.4 < found["dpo"][-1] < found["cdpo"][-1]
    panels = rdpo.align(0, pairs=4000, steps=60)
    assert set(panels) == {"J, flips 0.3", "J, flips 0.4", "reward, flips 0.3", "reward, flips 0.4"} <= set(CLAIM.panels)
    values = panels["J, flips 0.4"]
    assert set(values) == set(CLAIM.arms) and max(values, key=values.__getitem__) == "best"
    assert values["clean"] > values["reference"]
    assert panels["J, flips 0.3"]["clean"] == values["clean"]


def test_the_full_scale_says_what_to_do():
    with pytest.raises(ConfigError, match="surefoot align rdpo"):
        CLAIM.run(Context(seeds=[0], scale="full"))
