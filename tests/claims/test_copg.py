"""CoPG's claim: the limits of the toy by exact expectations, what the checks see, and a miniature of the experiment."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import optimize
from torch import Tensor

from surefoot.claims import base, copg
from surefoot.claims.base import Context
from surefoot.claims.copg import ALL_ARMS, ARMS, CLAIM, LIMITS, OFFLINE, ON_POLICY, PROMPTS, REFERENCE, SEQUENCES, SETTINGS, TOY
from surefoot.claims.fleets import ArmTask
from surefoot.claims.off_policy_pairs import (
    BETA,
    Bandit,
    Pairs,
    Rows,
    Sequences,
    draw,
    generators,
    mis_centred,
    sequence_logprobs,
    shuffled,
    three_arms,
)
from surefoot.errors import ConfigError
from surefoot.nn.bigram import Bigram, tilted

torch.set_num_threads(1)


# --- exact expectations -----------------------------------------------------------------------------------------------


def every_pair(game: Bandit) -> tuple[Pairs, Tensor]:
    """All nine pairs of the toy with both labels, and the probability of each."""
    a = torch.cartesian_prod(torch.arange(3), torch.arange(3))
    first, second = (law[0, 0].exp() for law in game.behaviour)
    drawn = game._scored(torch.zeros(1, 9, dtype=torch.long), [a[None, :, 0], a[None, :, 1]])
    wins = (drawn.reward[..., 0] - drawn.reward[..., 1]).sigmoid()
    probability = first[a[:, 0]] * second[a[:, 1]]
    both = drawn.select(torch.arange(9).repeat(2)[None])
    both.chosen[:, 9:] = 1
    return both, torch.cat([probability * wins[0], probability * (1.0 - wins[0])])


def limit(arm: str) -> tuple[np.ndarray, float]:
    """Where an arm of the toy ends with infinitely many pairs, the expected gradient being zero: its policy, and the regret."""
    game = three_arms([0])
    pairs, probability = every_pair(game)

    def logits_of(free: np.ndarray) -> Tensor:
        return torch.tensor([[[*free, 0.0]]], dtype=torch.float64)

    def gradient(free: np.ndarray) -> np.ndarray:
        logits = logits_of(free).requires_grad_()
        (ALL_ARMS[arm](Rows.of(game, logits, pairs)) * probability).sum().backward()
        return logits.grad[0, 0, :2].numpy()

    found = optimize.root(gradient, np.zeros(2))
    assert np.abs(gradient(found.x)).max() < 1e-9
    return logits_of(found.x).softmax(-1)[0, 0].numpy(), float(game.gap(logits_of(found.x)))


@pytest.mark.parametrize(
    ("arm", "policy", "digits"),
    [
        ("copg", (0.705385, 0.259496, 0.035119), 6),
        ("ipo", (0.424169, 0.352706, 0.223125), 6),
        ("pg, no baseline", (0.1940, 0.2501, 0.5559), 4),
        ("pg, value", (0.8115, 0.1675, 0.0209), 4),
    ],
)
def test_limits_of_the_toy(arm, policy, digits):
    """The card's population limits, from all pairs with their probabilities."""
    found, regret = limit(arm)
    np.testing.assert_allclose(found, policy, atol=0.51 * 10.0**-digits)
    assert regret == pytest.approx(LIMITS[arm], abs=1e-6)


def test_the_start_of_the_toy():
    game = three_arms([0, 1])
    np.testing.assert_allclose(game.gap(game.start), 0.291867, atol=5e-7)
    np.testing.assert_allclose(game.gap(game.optimum()), 0.0, atol=1e-12)


def test_the_contrast_is_the_only_offline_loss_that_is_stationary_at_the_optimum():
    """The key term: at pi* its gradient is zero for every pair; that of a policy gradient without the contrast is not."""
    game = mis_centred([3], prompts=4, responses=5)
    pairs = game.logged(200, [3])

    def steepest(arm):
        logits = game.optimum().clone().requires_grad_()
        ALL_ARMS[arm](Rows.of(game, logits, pairs)).mean().backward()
        return float(logits.grad.abs().max())

    assert steepest("copg") < 1e-12
    assert min(steepest(arm) for arm in OFFLINE if arm != "copg") > 1e-3


# --- the worlds -------------------------------------------------------------------------------------------------------


def test_draws_follow_the_law():
    law = torch.tensor([[[0.2, 0.0, 0.8], [0.5, 0.25, 0.25]]], dtype=torch.float64).log()
    prompt = torch.arange(40_000).remainder(2)[None]
    found = draw(law, prompt, generators([0], "data"))[0]
    for x in range(2):
        share = torch.bincount(found[prompt[0] == x], minlength=3) / 20_000
        torch.testing.assert_close(share.double(), law[0, x].exp(), atol=4 * 0.5 / 20_000**0.5, rtol=0.0)


def test_a_seed_does_not_depend_on_its_neighbours():
    alone, beside = mis_centred([901]), mis_centred([900, 901])
    torch.testing.assert_close(alone.reward[0], beside.reward[1], rtol=0.0, atol=0.0)
    one, two = alone.logged(50, [901]), beside.logged(50, [900, 901])
    assert torch.equal(one.response[0], two.response[1]) and torch.equal(one.chosen[0], two.chosen[1])
    sequences = Sequences([901]).logged(20, [901]), Sequences([900, 901]).logged(20, [900, 901])
    assert torch.equal(sequences[0].response[0], sequences[1].response[1])


def test_shuffled_rows_are_epochs():
    source = shuffled(10, 4, generators([0, 1], "batches"))
    rows = torch.cat([next(source) for _ in range(5)], 1)  # two epochs
    for epoch in (rows[:, :10], rows[:, 10:]):
        assert torch.equal(epoch.sort(-1).values, torch.arange(10).expand(2, -1))


def test_sequences_are_exact():
    world = Sequences([0, 1], vocabulary=4, length=3)
    np.testing.assert_allclose(world.gap(tilted(world.reference, world.reward_of, BETA).logits), 0.0, atol=1e-12)
    pairs = world.logged(2000, [0, 1])
    flat = pairs.response.flatten(1, 2)
    own = sequence_logprobs(world.start.log_softmax(-1), pairs.response).flatten(1)
    torch.testing.assert_close(own, Bigram(world.start).logprobs(flat).detach())
    torch.testing.assert_close(pairs.ref.flatten(1), world.reference.logprobs(flat).detach())
    torch.testing.assert_close(pairs.behaviour.flatten(1), world.behaviour.logprobs(flat).detach())
    with torch.no_grad():
        reward, regularised = world.values(world.behaviour.logits, pairs)
    np.testing.assert_allclose(reward[:, 0], world.behaviour.expected(world.reward_of).detach())
    noise = pairs.reward.std((1, 2)) / 4000**0.5
    assert ((pairs.reward.mean((1, 2)) - reward[:, 0]).abs() < 4 * noise).all()
    assert (regularised < reward).all()


# --- verdict ----------------------------------------------------------------------------------------------------------


def scores(copg_gap=0.001, others=0.1, toy=0.0002, off=0.0):
    """Three seeds of a claim that holds, unless told otherwise."""

    def arm(value):
        return {str(seed): value * (1.0 + 0.01 * seed) for seed in range(3)}

    found = {panel: {each: arm(copg_gap if each == "copg" else others) for each in ARMS[panel]} for panel in (PROMPTS, SEQUENCES)}
    for panel in (TOY, copg.PAPER):
        found[panel] = {each: arm(toy if each == "copg" else LIMITS[each] + off) for each in LIMITS}
    return found


def verdicts(found):
    return {check.name: check.holds for check in CLAIM.checks(found)}


def test_it_holds_where_it_should():
    checks = CLAIM.checks(scores())
    assert base.holds(checks)
    assert [c.name for c in checks if c.required] == [
        "toy, optimum", "toy, ipo", "toy, pg, no baseline", "toy, pg, value", "prompts, optimum", "prompts, others",
    ]  # fmt: skip
    assert [c.name for c in checks if not c.required] == ["sequences"] and checks[-1].test is not None


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"toy": 0.002}, "toy, optimum"),
        ({"off": 0.03}, "toy, ipo"),
        ({"copg_gap": 0.011, "others": 0.2}, "prompts, optimum"),
        ({"copg_gap": 0.005, "others": 0.04}, "prompts, others"),
    ],
)
def test_it_does_not_hold_otherwise(change, name):
    found = verdicts(scores(**change))
    assert not found[name] and sum(not holds for holds in found.values()) == (3 if name == "toy, ipo" else 1)


def test_the_ceiling_is_no_rival():
    """On-policy samples are another budget: the arm may be as good as CoPG, or better."""
    found = scores()
    found[PROMPTS][ON_POLICY] = dict.fromkeys(found[PROMPTS][ON_POLICY], 1e-6)
    assert base.holds(CLAIM.checks(found))


def test_in_miniature(monkeypatch):
    for panel, setting in SETTINGS.items():
        monkeypatch.setitem(SETTINGS, panel, replace(setting, pairs=300, batch=50, steps=5))
    found = CLAIM.run(Context(seeds=[900, 901]))
    assert {panel: tuple(arms) for panel, arms in found.items()} == ARMS
    assert all(np.isfinite(list(arm.values())).all() for arms in found.values() for arm in arms.values())
    for panel in (PROMPTS, SEQUENCES):
        start = found[panel][REFERENCE]["900"]
        assert all(own["900"] != start for arm, own in found[panel].items() if arm != REFERENCE)
    assert set(verdicts(found)) and copg.trained(ArmTask("copg", (900, 901), TOY)) == list(found[TOY]["copg"].values())


def test_every_arm_and_panel_is_described():
    assert {arm for arms in ARMS.values() for arm in arms} == set(CLAIM.arms) and set(ARMS) == set(CLAIM.panels)


def test_the_full_scale_says_what_to_do():
    with pytest.raises(ConfigError, match="surefoot align copg --model MODEL"):
        CLAIM.run(Context(seeds=[900], scale="full"))
