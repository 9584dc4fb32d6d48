"""PF-PPO's claim: its verdict from scores alone, its world, and a short run whose outcome hangs on the filter."""

import numpy as np
import pytest
import torch

from surefoot.claims.base import holds
from surefoot.claims.pf_ppo import ARMS, CLAIM, MULTIPLE, REWARDS, Task, World, calibrated, trained
from surefoot.errors import ConfigError

R2 = {
    "mid": {"all": 0.23, "best": 0.51, "best_worst": 0.42, "best_random": 0.33},
    "low": {"all": 0.57, "best": 0.87, "best_worst": 0.74, "best_random": 0.74},
    "high": {"all": 0.46, "best": 0.0, "best_worst": 0.63, "best_random": 0.35},
    "iid": {"all": 0.20, "best": 0.11, "best_worst": 0.31, "best_random": 0.22},
}
GOLD = {
    "mid": {"ppo-s": 0.20, "all": 0.45, "best": 0.56, "best_worst": 0.57, "best_random": 0.48},
    "low": {"ppo-s": 0.31, "all": 0.66, "best": 0.88, "best_worst": 0.68, "best_random": 0.74},
    "high": {"ppo-s": 0.30, "all": 0.62, "best": 0.37, "best_worst": 0.64, "best_random": 0.48},
    "iid": {"ppo-s": 0.21, "all": 0.44, "best": 0.45, "best_worst": 0.47, "best_random": 0.43},
}


def scores(**changes):
    """The card's reference values for five seeds that differ a little; `changes` are final gold scores, `mid_best_worst=0.4`."""
    noise = np.random.default_rng(0).normal(0.0, 0.01, 5)
    gold = {model: {arm: changes.get(f"{model}_{arm}", value) for arm, value in table.items()} for model, table in GOLD.items()}
    out = {f"R2, {model}": {arm: {str(i): value for i in range(5)} for arm, value in table.items()} for model, table in R2.items()}
    for model, table in gold.items():
        out[f"gold, {model}"] = {
            arm: {str(i): value + noise[i] * (1 + 0.1 * k) for i in range(5)} for k, (arm, value) in enumerate(table.items())
        }
    return out


def test_it_holds_for_the_reference_values():
    checks = CLAIM.checks(scores())
    assert holds(checks) and len(checks) == 6
    assert checks[-1].value == pytest.approx(np.mean([0.8, 0.9487, 1.0, 0.2]), abs=1e-3)


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"mid_best_worst": 0.45}, "mid, against all"),
        ({"mid_best_worst": 0.20}, "mid, against ppo-s"),
        ({"low_best": 0.60}, "low, largest R^2"),
        ({"high_best_worst": 0.60}, "high, largest R^2"),
        ({"low_best": 0.60, "iid_all": 0.9, "mid_all": 0.9}, "R^2 and outcome"),
    ],
)
def test_it_does_not_hold_where_one_requirement_fails(changes, name):
    checks = CLAIM.checks(scores(**changes))
    assert not next(check for check in checks if check.name == name).holds and not holds(checks)


def test_gold_scores_are_standardised_and_rewards_are_noise_where_they_are_said_to_be():
    world, generator = World.of((900, 901)), torch.Generator().manual_seed(0)
    tokens = world.reference.sample(20_000, generator)
    gold = world.gold(tokens)
    assert gold.mean(-1).tolist() == pytest.approx([0.0, 0.0], abs=4.5 / 20_000**0.5)
    assert gold.std(-1).tolist() == pytest.approx([1.0, 1.0], abs=0.03)
    torch.testing.assert_close(world.expected(world.reference), torch.zeros(2), atol=1e-5, rtol=0.0)
    z = (gold - gold.mean(-1, keepdim=True)) / gold.std(-1, keepdim=True)
    reliable = {"mid": z.abs() >= 1.5, "low": z >= 0.5, "high": z <= -0.5, "iid": torch.zeros_like(z, dtype=torch.bool)}
    span = {"mid": (-1.5, 1.5), "low": (-1.2, 0.5), "high": (-0.5, 1.2)}
    for model in REWARDS:
        reward, sure = world.rewards(tokens, model, generator), reliable[model]
        torch.testing.assert_close(reward[sure], z[sure], atol=1e-4, rtol=0.0)
        if model in span:
            low, high = span[model]
            assert low <= float(reward[~sure].min()) and float(reward[~sure].max()) <= high
        else:
            assert float((reward - z).std()) == pytest.approx(2.0, abs=0.05)


def test_r_squared_before_training_is_near_that_of_the_card():
    """Of other worlds than the card's; the order of the strategies is the same."""
    table = calibrated((900, 901, 902), "high")
    mean = {arm: float(np.mean([row[arm] for row in table])) for arm in MULTIPLE}
    assert sorted(mean, key=mean.__getitem__) == ["best", "best_random", "all", "best_worst"]
    assert mean["best_worst"] == pytest.approx(0.63, abs=0.12) and mean["best"] < 0.05


def test_the_filter_is_what_gains():
    """A third of the claim's length on three worlds; with the filter off (`all`) nothing is gained, and this fails."""
    seeds = (900, 901, 902)
    kept, everything = (trained(Task(arm, "mid", seeds, iterations=20)) for arm in ("best_worst", "all"))
    assert (kept - everything > 0.02).all()
    assert (everything > 0.05).all()


def test_it_is_described():
    assert set(CLAIM.arms) == set(ARMS)
    assert set(CLAIM.panels) == {f"{kind}, {model}" for kind in ("gold", "R2") for model in REWARDS}
    with pytest.raises(ConfigError, match="surefoot align pf-ppo"):
        CLAIM.run(CLAIM.context(scale="full", n=1))
