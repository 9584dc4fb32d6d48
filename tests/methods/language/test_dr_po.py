"""DR-PO: the law of its resets, that without them it is PPO to the last bit, and that they are what finds the reward."""

from collections import Counter

import pytest
import torch

from surefoot.claims.base import Context
from surefoot.claims.dr_po import RL_ARMS, Setting, ppo, rolled_out
from surefoot.claims.gated_text import LENGTH, World
from surefoot.data.completions import GroupBatch
from surefoot.errors import ConfigError, DataError
from surefoot.methods.language.aligner import Tuning
from surefoot.methods.language.dr_po import DRPO, DRPOConfig, prefixes_of, reset_lengths
from surefoot.methods.language.token_ppo import TokenPPO, TokenPPOConfig
from surefoot.nn.bigram import Bigram, random_logits
from tests.tiny_language import EOS, some_prompts, tiny_policy

SMALL = {"prompts": 4, "responses": 2, "max_new_tokens": 5, "temperature": 1.0, "epochs": 1}
TUNING = Tuning(lr=3e-3, schedule="constant", warmup=0.0)
RESPONSES = [[[12, 13, 14, EOS]], [[15, EOS], [16, 17, 18, 19, 0, 1, EOS]], [[7]], []]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def short(prompts, completions):
    return torch.tensor([-0.2 * len(text.split()) for text in completions])


# --- resets -----------------------------------------------------------------------------------------------------------


def test_oracle_2_the_law_of_the_resets():
    n = 50_000
    k = reset_lengths(torch.full((n,), 6), 1.0, generator())
    counts = torch.bincount(k, minlength=7).float() / n
    assert counts[0] == counts[6] == 0.0
    assert (counts[1:6] - 0.2).abs().max() < 4 * (0.2 * 0.8 / n) ** 0.5
    assert k.float().mean() == pytest.approx(3.0, abs=4 * (2.0 / n) ** 0.5)
    k = reset_lengths(torch.full((n,), 6), 0.5, generator(1))
    assert (k == 0).float().mean() == pytest.approx(0.5, abs=4 * 0.5 / n**0.5)
    assert k.float().mean() == pytest.approx(1.5, abs=4 * (3.25 / n) ** 0.5)
    assert not reset_lengths(torch.tensor([1, 0] * 500), 1.0, generator()).any()
    assert set(reset_lengths(torch.full((100,), 2), 1.0, generator()).tolist()) == {1}


def test_oracle_2_what_is_forced_is_the_reference_response():
    policy = Bigram(random_logits(LENGTH, 8, (2, 3), generator()))
    responses = torch.randint(8, (2, 3, 500, LENGTH), generator=generator(1))
    tokens, drawn = rolled_out(policy, responses, torch.tensor([0.0, 0.7])[:, None, None], generator(2))
    assert (tokens[~drawn] == responses[~drawn]).all()
    assert drawn[0].all() and drawn[..., -1].all()
    prefix = (~drawn[1]).long()
    assert (prefix.diff(dim=-1) <= 0).all()  # nothing but prefixes
    assert (prefix.sum(-1) > 0).float().mean() == pytest.approx(0.7, abs=4 * (0.21 / 1500) ** 0.5)


def test_shares_of_copies():
    share = torch.tensor([0.0, 1.0])[:, None]
    k = reset_lengths(torch.full((2, 1000), 4), share, generator())
    assert not k[0].any() and k[1].all()


def test_prefixes_are_never_complete():
    seen = Counter()
    for seed in range(300):
        prefixes = prefixes_of(RESPONSES, 2, 0.8, [EOS], 5, generator(seed))
        assert len(prefixes) == 8
        for i, ids in enumerate(prefixes):
            assert EOS not in ids and len(ids) < 5
            assert any(own[: len(ids)] == ids for own in RESPONSES[i // 2] or [[]])
            seen[i // 2, len(ids)] += 1
    assert set(seen) == {(0, 0), (0, 1), (0, 2), (0, 3), (1, 0), (1, 1), (1, 2), (1, 3), (1, 4), (2, 0), (3, 0)}


# --- method -----------------------------------------------------------------------------------------------------------


def test_oracle_1_without_resets_it_is_ppo_bit_for_bit():
    states = []
    for method, rest in (
        (TokenPPO(tiny_policy(), TokenPPOConfig(**SMALL), TUNING, 10), {}),
        (DRPO(tiny_policy(), DRPOConfig(**SMALL, reset_prob=0.0), TUNING, 10), {"responses": RESPONSES}),
    ):
        source = method.source(some_prompts(), short, seed=4, **rest)
        metrics = [method.update(next(source)) for _ in range(3)]
        states.append((method.state_dict(), metrics))
    for name, x in states[0][0].items():
        assert torch.equal(x, states[1][0][name]), name
    assert all(torch.equal(x, states[1][1][-1][name]) for name, x in states[0][1][-1].items())


def test_roll_outs_begin_as_the_responses_do():
    method = DRPO(tiny_policy(), DRPOConfig(**SMALL, reset_prob=1.0), TUNING, 10)
    source = method.source(some_prompts(), short, responses=RESPONSES)
    for _ in range(4):
        batch = next(source)
        for row, (prompt, ids) in enumerate(zip(batch.completions.prompts, batch.completions.completions, strict=True)):
            k, own = int(batch.forced.flatten()[row]), RESPONSES[some_prompts().index(prompt)]
            assert (k > 0) == any(len(response) > 1 for response in own) or k == 0
            assert k == 0 or any(response[:k] == ids[:k] for response in own)
            assert len(ids) > k


def test_the_policy_loss_leaves_out_what_was_given():
    """Of two batches that differ in nothing but `forced`, the loss is about the drawn tokens of each."""
    method = DRPO(tiny_policy(), DRPOConfig(**SMALL, reset_prob=1.0), TUNING, 10)
    batch = next(method.source(some_prompts(), short, responses=RESPONSES))
    rollouts, metrics = method.judged(batch)
    lengths = torch.tensor([len(ids) for ids in batch.completions.completions])
    assert torch.equal(rollouts.drawn.sum(-1), lengths - batch.forced.flatten())
    assert metrics["trained_tokens"] < metrics["completion_tokens"]
    plain, _ = method.judged(GroupBatch(batch.completions, batch.rewards, batch.reference))
    assert torch.equal(plain.drawn, plain.mask) and torch.equal(plain.advantage, rollouts.advantage)  # values and KL are as usual
    assert (rollouts.old_logprob[rollouts.mask] < 0.0).all()  # of forced tokens too, under the policy


def test_the_reference_can_play_the_first_tokens():
    method = DRPO(tiny_policy(), DRPOConfig(**SMALL, reset_prob=1.0, reset_source="reference"), TUNING, 10)
    batch = next(method.source(some_prompts(), short))
    assert batch.forced.any() and all(len(ids) > k for ids, k in zip(batch.completions.completions, batch.forced.flatten(), strict=True))
    method.update(batch)


def test_resets_find_what_a_policy_never_would():
    """The learning test, in the world of the claim: resets off (PPO) or to the reference's own states (PPO++), nothing is learned."""
    context = Context(seeds=[901])
    world = World.drawn(context)
    preferred, _ = world.preferences(context)
    policies, trained = ppo(world, preferred, world.demonstrators, Setting(episodes=64), context)
    reward = dict(zip(RL_ARMS, world.expected(policies)[:, 0].tolist(), strict=True))
    assert reward["dr-po 0.5"] > 1.0 and reward["dr-po 0.8"] > 1.0
    assert reward["ppo"] < 0.01 and reward["ppo++"] < 0.01
    tokens = dict(zip(RL_ARMS, trained[:, 0].tolist(), strict=True))
    assert tokens["ppo"] == 1.0 and tokens["dr-po 0.5"] == pytest.approx(1.0 - 0.5 * 8 / 16, abs=0.02)


@pytest.mark.parametrize("share", [0.5, 0.0])
def test_on_a_language_model_too(share):
    """Three words that earn 1 together: with resets to a response that holds them the policy learns the last ones, without it nothing."""
    settings = SMALL | {"responses": 16, "max_new_tokens": 3, "epochs": 4, "reset_prob": share}
    config = DRPOConfig(**settings, kl_coef=0.0, missing_end=None, whiten_rewards=False, value_clip=10.0, critic_rate=4.0)
    method = DRPO(tiny_policy(), config, Tuning(lr=5e-3, schedule="constant", warmup=0.0), 100)

    def key(prompts, completions):
        return torch.tensor([float(text.split() == ["w3", "w1", "w4"]) for text in completions])

    source = method.source(some_prompts(), key, responses=[[[3, 1, 4, EOS]]] * 4)
    scores = [float(method.update(next(source))["score"]) for _ in range(25)]
    assert scores[0] < 0.05
    assert sum(scores[-5:]) / 5 > 0.15 if share else sum(scores) == 0.0


@pytest.mark.parametrize("share", [-0.1, 1.5])
def test_bad_shares(share):
    with pytest.raises(ConfigError, match="between 0 and 1"):
        DRPOConfig(reset_prob=share)
    with pytest.raises(ConfigError, match="between 0 and 1"):
        reset_lengths(torch.tensor([3]), share)


def test_bad_responses():
    method = DRPO(tiny_policy(), DRPOConfig(**SMALL), TUNING, 10)
    for responses in (None, [[], [], [], []], [[[]], [], [], []]):
        with pytest.raises(DataError, match="no response to reset to"):
            method.source(some_prompts(), short, responses=responses)
    with pytest.raises(DataError, match="responses to 2 prompts, but 4"):
        method.source(some_prompts(), short, responses=RESPONSES[:2])
    with pytest.raises(ConfigError, match="reset_source is 'rejected'"):
        DRPOConfig(reset_source="rejected")
