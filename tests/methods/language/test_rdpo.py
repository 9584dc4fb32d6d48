"""rDPO on a small language model: from labels of which some are wrong, the margin of the right ones."""

import math

import pytest
import torch

from surefoot.data.completions import Completions, PairBatch
from surefoot.errors import ConfigError
from surefoot.methods.language.aligner import Tuning
from surefoot.methods.language.losses import MARGIN_LOSSES, robust
from surefoot.methods.language.pairwise import PairScores
from surefoot.methods.language.rdpo import RDPO, RDPOConfig
from surefoot.policies.language import completion_logprobs
from tests.tiny_language import EOS, tiny_policy

GOOD, BAD = [3, 4, EOS], [5, EOS]
RIGHT, WRONG = 3, 2  # recorded: people prefer the good one with probability 0.7, and 25 % of the labels are flipped


def recorded(policy):
    chosen, rejected = [GOOD] * RIGHT + [BAD] * WRONG, [BAD] * RIGHT + [GOOD] * WRONG
    parts = [Completions([[1, 2]] * 5, each) for each in (chosen, rejected)]
    return PairBatch(*parts, *(completion_logprobs(policy, each, max_tokens=10_000) for each in parts))


def learned_margin(flip_rate, base="dpo", beta=0.5, steps=80):
    """Implicit reward of the good completion less that of the bad one, after training on what was recorded."""
    policy = tiny_policy()
    batch = recorded(policy)
    learner = RDPO(policy, RDPOConfig(beta, flip_rate, base), Tuning(lr=3e-2, schedule="linear", warmup=0.1), total=steps)
    for _ in range(steps):
        learner.update(batch)
    after = completion_logprobs(policy, batch.chosen, max_tokens=10_000) - batch.ref_chosen
    return beta * float(after[0] - after[-1])


def test_it_finds_the_margin_of_clean_labels():
    """With `flip_rate` 0, the key term switched off, it ends at the margin of the recorded labels, logit(0.6)."""
    assert learned_margin(0.25) == pytest.approx(math.log(7 / 3), abs=0.03)
    assert learned_margin(0.0) == pytest.approx(math.log(3 / 2), abs=0.03)


def test_other_losses_are_made_robust_too():
    """IPO's minimum for clean labels: 2 p - 1 times the target of 1/2."""
    assert learned_margin(0.25, "ipo") == pytest.approx((2 * 0.7 - 1) / 2, abs=0.02)


@pytest.mark.parametrize("base", sorted(MARGIN_LOSSES))
def test_the_loss_is_the_transform_of_the_base(base):
    learner = RDPO(tiny_policy(), RDPOConfig(0.2, 0.3, base), Tuning(), total=1)
    scores = PairScores(*torch.randn(4, 5, generator=torch.Generator().manual_seed(0)))
    torch.testing.assert_close(learner.losses(scores, recorded(learner.policy)), robust(MARGIN_LOSSES[base], 0.2 * scores.h, 0.3))


def test_defaults_are_the_papers():
    assert RDPOConfig() == RDPOConfig(beta=0.1, flip_rate=0.1, base="dpo")
    assert RDPO.learns_from == "pairs" and RDPO.config_class is RDPOConfig


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"flip_rate": 0.5}, "flip_rate is 0.5: it must be at least 0 and below 0.5, where labels say nothing"),
        ({"flip_rate": -0.1}, "flip_rate is -0.1"),
        ({"beta": -1.0}, "beta is -1.0: it must be positive"),
        ({"base": "kto"}, "base is 'kto': it must be one of dpo"),
    ],
)
def test_mistakes_are_named(settings, message):
    with pytest.raises(ConfigError, match=message):
        RDPOConfig(**settings)
