"""DR-PO's claim: its exact numbers against samples, what its checks see, and a miniature."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from surefoot.claims import dr_po
from surefoot.claims.base import Context, holds
from surefoot.claims.dr_po import CLAIM, Setting, TableCritic, combination_lock, offline, typing
from surefoot.claims.gated_text import GATE, LENGTH, PAIRS, VOCABULARY, World
from surefoot.errors import ConfigError
from surefoot.methods.exact.planning import policy_return
from surefoot.nn.bigram import Bigram

torch.set_num_threads(1)
CONTEXT = Context(seeds=[900, 901])


@pytest.fixture(scope="module")
def world():
    return World.drawn(CONTEXT)


def scores(dr_po=2.3, dpo=1.1, ppo=0.0):
    """Five seeds that share their luck."""
    luck = np.random.default_rng(0).normal(0.0, 0.05, 5)
    means = {"ppo": ppo, "dpo": dpo, "dr-po 0.5": dr_po, "ppo++": 0.0, "dr-po 1.0": 0.5, "ppo from sft": 2.4}
    arm = lambda mean: {str(i): float(mean + luck[i]) for i in range(5)}  # noqa: E731
    return {"reward": {name: arm(mean) for name, mean in means.items()}, "finite world": {"dr-po": arm(0.9), "npg": arm(0.0)}}


def test_it_holds_where_it_should():
    checks = CLAIM.checks(scores())
    assert holds(checks)
    assert [c.name for c in checks if c.required] == ["over PPO", "every seed, PPO", "over DPO", "every seed, DPO", "half"]


@pytest.mark.parametrize("changes", [{"dpo": 2.3}, {"dpo": 2.5}, {"ppo": 1.2}, {"dr_po": 1.0}])
def test_it_does_not_hold_where_a_baseline_comes_close(changes):
    assert not holds(CLAIM.checks(scores(**changes)))


def test_one_seed_that_loses_is_enough():
    found = scores()
    found["reward"]["dpo"]["3"] = 2.5
    assert not holds(CLAIM.checks(found))


def test_the_gate_is_as_hard_as_it_should_be(world):
    assert world.success(world.reference).tolist() == pytest.approx([0.25**8] * 2, rel=1e-4)
    assert world.success(world.demonstrators).tolist() == pytest.approx([0.9**8] * 2, rel=1e-4)
    assert (world.values.mean(-1).abs() < 1e-6).all() and world.values.square().mean(-1).tolist() == pytest.approx([1.0, 1.0])


def test_the_exact_reward_is_that_of_samples(world):
    generator = torch.Generator().manual_seed(0)
    reward = world.reward(world.demonstrators.sample(40_000, generator))
    error = reward.std(-1) / 200.0
    assert ((reward.mean(-1) - world.expected(world.demonstrators)).abs() < 4 * error).all()
    best = torch.cat([world.key, world.values.argmax(-1, keepdim=True).expand(2, LENGTH - GATE)], -1)
    assert torch.allclose(world.reward(best[:, None])[:, 0], world.largest())
    stacked = Bigram(torch.stack([world.reference.logits, world.demonstrators.logits]))
    assert torch.allclose(world.expected(stacked)[1], world.expected(world.demonstrators))


def test_preferences_are_bradley_and_terrys(world):
    preferred, rejected = world.preferences(CONTEXT)
    gap = 3.0 * (world.reward(preferred) - world.reward(rejected))
    gap = gap[gap != 0.0]  # most pairs miss the gate, both of them
    won, expected = (gap > 0.0).float().mean(), gap.abs().sigmoid().mean()
    assert len(gap) > 1000 and won == pytest.approx(float(expected), abs=4 * 0.5 / len(gap) ** 0.5)
    assert preferred.shape == rejected.shape == (2, PAIRS, LENGTH)


def test_sft_is_the_frequency_of_the_data(world):
    preferred, _ = world.preferences(CONTEXT)
    policy = offline(world, preferred, None, replace(Setting(), offline_steps=200, offline_lr=0.05), CONTEXT)
    first = policy.marginals()[:, 0].detach()
    assert torch.allclose(first, torch.nn.functional.one_hot(preferred[..., 0], VOCABULARY).float().mean(-2), atol=0.05)


def test_the_critic_is_a_table():
    critic = TableCritic((2,))
    critic.table.data.copy_(torch.arange(2.0 * LENGTH * (VOCABULARY + 1)).view(2, -1))
    tokens = torch.zeros(2, 1, LENGTH, dtype=torch.int64)
    tokens[1, 0, 0] = 3
    found = critic(tokens)
    assert found[0, 0, :2].tolist() == [VOCABULARY, VOCABULARY + 1.0]
    assert found[1, 0, 1] == LENGTH * (VOCABULARY + 1) + (VOCABULARY + 1) + 3


def test_the_lock():
    key = np.array([2, 0, 1])
    lock = combination_lock(key)
    for p in (0.25, 0.9):
        assert policy_return(lock, typing(key, p)) == pytest.approx(p**3)


def test_in_miniature(monkeypatch):
    monkeypatch.setattr(dr_po, "Setting", lambda: Setting(iterations=2, episodes=16, offline_steps=3))
    monkeypatch.setattr(dr_po, "PLAYED", 20)
    monkeypatch.setattr(dr_po, "DatasetResetConfig", lambda **rest: RESETS(iterations=2, episodes=20, **rest))
    found = CLAIM.run(Context(seeds=[900, 901]))
    assert set(found) == set(CLAIM.panels)
    assert all(arm in CLAIM.arms and set(values) == {"900", "901"} for arms in found.values() for arm, values in arms.items())
    assert len(CLAIM.checks(found)) == 9


RESETS = dr_po.DatasetResetConfig


def test_the_full_scale_says_what_to_do():
    with pytest.raises(ConfigError, match="surefoot align dr-po"):
        CLAIM.run(CLAIM.context("full"))
