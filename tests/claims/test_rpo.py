"""The claim of RPO: what its checks see and do not see, and a miniature of its experiment."""

import numpy as np
import pytest
import torch

from surefoot.claims import base, rpo
from surefoot.claims.base import Context
from surefoot.claims.rpo import CLAIM, DPO_BETAS, ETAS, MEASURES, SEQUENCE_ETAS, SIZES, Task, World, fitted
from surefoot.errors import ConfigError

torch.set_num_threads(1)

SEEDS = tuple(map(str, range(8)))


def scores(reward=(), chosen=(), sequences=()):
    """Eight seeds in which RPO wins; the arguments are values of arms that differ."""
    rng, found = np.random.default_rng(0), {}
    usual = {
        "reward": {**{f"dpo {b:g}": 0.4 for b in DPO_BETAS}, "sft": 1.1, **{f"rpo {e:g}": 1.8 for e in ETAS}},
        "covered": {**{f"dpo {b:g}": 0.1 for b in DPO_BETAS}, "sft": 0.6, **{f"rpo {e:g}": 0.8 for e in ETAS}},
        "chosen": {**{f"dpo {b:g}": -90.0 for b in DPO_BETAS}, "sft": -4.0, **{f"rpo {e:g}": -9.0 for e in ETAS}},
    }
    usual["reward"] |= dict(reward)
    usual["chosen"] |= dict(chosen)
    for n in SIZES:
        for measure in MEASURES:
            world = {seed: rng.normal(0.0, 0.2) for seed in SEEDS}
            arms = usual[measure].items()
            found[f"{measure}, n = {n}"] = {a: {s: v + world[s] + rng.normal(0, 0.02) for s in SEEDS} for a, v in arms}
    falls = {"dpo": -30.0, "rpo 0.005": -26.0, "rpo 0.05": -11.0, "rpo 0.2": -2.0, "rpo 1": 0.6} | dict(sequences)
    found["chosen, sequences"] = {arm: dict.fromkeys(SEEDS, value) for arm, value in falls.items()}
    return found


def test_it_holds_where_it_should():
    checks = {check.name: check for check in CLAIM.checks(scores())}
    assert base.holds(checks.values()) and all(check.holds for check in checks.values())
    required = {name for name, check in checks.items() if check.required}
    assert required == {"dpo, n = 60", "dpo, n = 200", "sft, n = 200", "chosen, n = 60", "chosen, n = 200", "sequences, eta 0.05"}


@pytest.mark.parametrize(
    ("changes", "failed"),
    [
        ({"reward": {"dpo 5": 1.8}}, "dpo, n = 60"),  # any beta will do
        ({"reward": {"dpo 0.1": 2.5}}, "dpo, n = 200"),
        ({"reward": {"sft": 1.9}}, "sft, n = 200"),
        ({"reward": {"rpo 0.05": 0.3}}, "dpo, n = 200"),
        ({"chosen": {"dpo 0.1": -9.0}}, "chosen, n = 60"),
        ({"sequences": {"rpo 0.05": -31.0}}, "sequences, eta 0.05"),
    ],
)
def test_it_does_not_hold_where_it_should_not(changes, failed):
    checks = {check.name: check for check in CLAIM.checks(scores(**changes))}
    assert not base.holds(checks.values()) and not checks[failed].holds


def test_other_etas_are_not_the_verdict():
    assert base.holds(CLAIM.checks(scores(reward={"rpo 0.5": 0.0, "rpo 0.005": 0.0}, sequences={"rpo 0.005": -40.0})))


def test_one_seed_is_enough_to_refute_what_is_said_of_every_seed():
    found = scores()
    found["chosen, n = 60"]["rpo 0.05"]["3"] = -95.0
    assert not base.holds(CLAIM.checks(found))


def test_pairs_come_from_covered_responses_alone():
    world = World.drawn(5, 200)
    assert set(world.winners.tolist()) | set(world.losers.tolist()) <= set(world.covered.tolist())
    assert (world.winners != world.losers).all() and len(set(world.covered.tolist())) == 20
    assert (world.reward[world.winners] - world.reward[world.losers]).mean() > 0.2
    assert world.reward[world.covered].mean() > world.reward.mean() + 0.3
    assert torch.equal(World.drawn(5, 60).covered, world.covered)  # one world, two sizes of data


def test_a_miniature():
    arms = fitted(Task(1, 60))
    assert set(arms) == {f"dpo {b:g}" for b in DPO_BETAS} | {"sft"} | {f"rpo {e:g}" for e in ETAS} <= set(CLAIM.arms)
    assert arms["rpo 0.05"][2] > arms["dpo 0.1"][2] and arms["rpo 0.05"][1] > arms["dpo 0.1"][1]
    fallen = rpo.displaced([0, 1], steps=100)
    assert set(fallen) == {"dpo", *(f"rpo {eta:g}" for eta in SEQUENCE_ETAS[1:])} <= set(CLAIM.arms)
    assert all(len(values) == 2 for values in fallen.values())
    assert (fallen["rpo 1"] > fallen["rpo 0.05"]).all() and (fallen["rpo 0.05"] > fallen["dpo"]).all()


def test_a_seed_is_itself_in_any_company():
    alone, together = rpo.displaced([1], steps=20), rpo.displaced([0, 1], steps=20)
    for arm, values in alone.items():
        np.testing.assert_allclose(values[0], together[arm][1], atol=1e-4)


def test_the_full_scale_says_what_to_do():
    with pytest.raises(ConfigError, match="surefoot align rpo"):
        CLAIM.run(Context(seeds=[0], scale="full"))
