"""The on-policy claim: its verdict from scores alone, and a miniature of its experiment."""

import numpy as np
import pytest
import torch

from surefoot.claims.base import holds
from surefoot.claims.on_policy_preferences import ARMS, CLAIM, HELD_OUT, Task, both_rewards, trained
from surefoot.errors import ConfigError

torch.set_num_threads(1)


def scores(**changed):
    """Of five seeds, near the values of the card's trial; `changed` are means of arms in panel "R1 reward" or, with R2_, of "R2 reward"."""
    r1 = {"bon offline": 0.31, "rwr offline": 0.87, "ipo offline": 0.54, "dpo offline": 0.98, "neg_bon offline": 0.4}
    r2 = {"bon offline": 0.92, "rwr offline": 0.95, "ipo offline": 0.98, "dpo offline": 1.0, "neg_bon offline": 0.98}
    for name, value in changed.items():
        (r2 if name.startswith("R2_") else r1)[name.removeprefix("R2_").replace("_", " ")] = value
    rng, found = np.random.default_rng(0), {}
    for name, of in (("R1", r1), ("R2", r2)):
        arm = lambda mean: {str(s): float(mean + 0.02 * rng.standard_normal()) for s in range(5)}  # noqa: E731
        found[f"{name} reward"] = {a: arm(of.get(a, 1.0)) for a in ARMS}
        found[f"{name} queries"] = {a: arm(1000.0 if "on-policy" in a else 3000.0) for a in ARMS}
    return found


def test_it_holds_where_all_that_is_required_does():
    checks = CLAIM.checks(scores())
    own, pushed = (
        [f"(a) {loss}, on-policy" for loss in ("bon", "rwr", "ipo")],
        [f"(b) {loss}, negative gradient" for loss in ("dpo", "ipo")],
    )
    assert [check.name for check in checks] == [*own, *pushed, "(c) geometry", "neg_bon", "complementary"]
    assert holds(checks) and [check.required for check in checks] == [True] * 6 + [False] * 2


@pytest.mark.parametrize(
    ("worse", "name"),
    [
        ({"bon_offline": 1.0}, "(a) bon, on-policy"),
        ({"rwr_offline": 1.0}, "(a) rwr, on-policy"),
        ({"ipo_offline": 1.0}, "(a) ipo, on-policy"),
        ({"dpo_offline": 0.31}, "(b) dpo, negative gradient"),
        ({"ipo_offline": 0.31}, "(b) ipo, negative gradient"),
        ({"R2_bon_offline": 0.6}, "(c) geometry"),
    ],
)
def test_it_does_not_hold_where_one_requirement_fails(worse, name):
    checks = {check.name: check for check in CLAIM.checks(scores(**worse))}
    assert not checks[name].holds and not holds(list(checks.values()))


def test_seeds_have_contexts_of_their_own_that_both_rewards_share():
    both, lone = both_rewards([3, 4], "data", 7), both_rewards([4], "data", 7)
    assert both.shape == (2, 2, 7, 100) and both[0].equal(both[1]) and both[:, 1].equal(lone[:, 0])
    assert not both.equal(both_rewards([3, 4], "evaluation", 7))


def test_arms_start_alike_and_own_samples_pull_ahead():
    off, on = (trained(Task(f"bon {where}", (905, 906), epochs=6)) for where in ("offline", "on-policy"))
    for row in (off, on):
        assert row["reward"].shape == (2, 2, 7) and row["mass"].shape == (2, 2, 7, 100)
        assert row["queries"].shape == row["chosen"].shape == (2, 2)
        np.testing.assert_allclose(row["reward"][:, :, 0], [[0.039] * 2, [0.377] * 2], atol=0.004)  # the reference's
        np.testing.assert_allclose(row["mass"].sum(-1), 1.0, atol=1e-5)
    np.testing.assert_array_equal(off["reward"][:, :, 0], on["reward"][:, :, 0])
    assert (on["reward"][0, :, -1] > off["reward"][0, :, -1] + 0.1).all()


def test_the_full_scale_says_what_to_do():
    with pytest.raises(ConfigError, match="surefoot align on-policy-preferences --model"):
        CLAIM.run(CLAIM.context("full"))


def test_every_arm_and_panel_is_described():
    assert set(CLAIM.arms) == set(ARMS) and all(CLAIM.arms.values()) and HELD_OUT == 100


def test_sequences_are_rewarded_by_their_actions():
    from surefoot.claims.on_policy_sequences import bumps

    best, none = bumps(["3", "3"], [" ".join(["70"] * 9), "odd odd 70"])
    assert best == pytest.approx(1.0) and none == pytest.approx(1.0 / 9.0)


def test_the_sequence_panel_in_miniature():
    pytest.importorskip("transformers")
    from surefoot.claims.on_policy_sequences import SequenceTask, sequence_reward

    first, again = (sequence_reward(SequenceTask("ipo on-policy", 905, draws=1, warm_up=3)) for _ in range(2))
    assert 0.0 <= first <= 1.0 and first == again


def test_sequences_are_reported_only():
    found = scores()
    arm = lambda mean: {str(s): mean + 0.01 * s for s in range(5)}  # noqa: E731
    found["sequences"] = {f"{loss} {who}": arm(0.1) for loss in ("bon", "ipo") for who in ("offline", "on-policy")}
    checks = CLAIM.checks(found)
    assert [(c.name, c.holds, c.required) for c in checks[-2:]] == [(f"sequences, {loss}", False, False) for loss in ("bon", "ipo")]
    assert holds(checks)
