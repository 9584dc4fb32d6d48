"""RPO on a small language model: winners keep their probability, in both forms, with the baseline's completions given or not."""

import pytest
import torch

from surefoot.data.completions import Completions, PairBatch
from surefoot.errors import ConfigError
from surefoot.methods.language.aligner import Tuning
from surefoot.methods.language.losses import dpo, ipo, robust, rpo
from surefoot.methods.language.rpo import RPO, BasedPairs, RPOConfig
from surefoot.policies.language import completion_logprobs
from tests.tiny_language import EOS, tiny_policy

CONSTANT = Tuning(lr=1e-2, schedule="constant", warmup=0.0, gradient_clip=0.0)


def alike(policy):
    """Pairs that differ in one token of five: what pushes the rejected down pushes the chosen down with it."""
    chosen = [[4, 5, 6, 7, EOS], [8, 4, 9, 7, EOS], [10, 5, 6, 11, EOS], [4, 12, 9, 7, EOS]]
    rejected = [[4, 5, 13, 7, EOS], [8, 4, 14, 7, EOS], [10, 5, 15, 11, EOS], [4, 12, 16, 7, EOS]]
    parts = [Completions([[1, 2], [3], [1], [2, 3]], each) for each in (chosen, rejected)]
    return PairBatch(*parts, *(completion_logprobs(policy, each, max_tokens=10_000) for each in parts))


def trained(config, steps=60):
    policy = tiny_policy()
    batch = alike(policy)
    learner = RPO(policy, config, CONSTANT, total=steps)
    return [{k: float(v) for k, v in learner.update(batch).items()} for _ in range(steps)][-1]


def test_winners_keep_their_probability():
    """With eta 0, the key term switched off, it is DPO, which lowers the winners beside the losers."""
    with_term, without = trained(RPOConfig(beta=0.1, eta=1.0)), trained(RPOConfig(beta=0.1, eta=0.0))
    assert with_term["accuracy"] == without["accuracy"] == 1.0
    assert with_term["chosen"] > 3.0 and without["chosen"] < 0.0
    mean_form = trained(RPOConfig(beta=0.1, sft_form="mean", coefficient=0.5))
    assert mean_form["chosen"] > 3.0 and mean_form["accuracy"] == 1.0


def test_the_loss_of_each_form():
    policy = tiny_policy()
    batch = alike(policy)
    batch.ref_chosen.sub_(1.0)  # so that h is not 0
    logp = completion_logprobs(policy, batch.chosen, max_tokens=10_000)
    lengths, x = torch.full((4,), 5.0), torch.full((4,), 0.1)
    for config, want in (
        (RPOConfig(beta=0.1, eta=0.2), rpo(x, logp, 0.2, 0.1)),
        (RPOConfig(beta=0.1, eta=0.2, sft_form="mean", coefficient=0.7), rpo(x, logp, 0.7, 0.1, lengths=lengths, form="mean")),
        (RPOConfig(beta=0.1, eta=0.0), dpo(x)),
        (RPOConfig(beta=0.1, eta=0.2, flip_rate=0.3), dpo(x) - 0.3 / 0.4 * x - 0.2 * 0.1 * logp),
        (RPOConfig(beta=0.1, eta=0.2, base_loss="ipo", flip_rate=0.3), robust(ipo, x, 0.3) - 0.2 * 0.1 * logp),
    ):
        seen = RPO(tiny_policy(), config, Tuning(lr=1e-9), total=1).update(batch)
        torch.testing.assert_close(seen["loss"], want.mean(), atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(seen["margin"], torch.tensor(0.1), atol=1e-5, rtol=0)  # without the SFT part


def test_given_completions_are_imitated_in_place_of_the_winners():
    given = Completions([[9, 9], [9]], [[17, EOS], [18, 18, 18, EOS]])
    policies = []
    for completions in (None, given):
        policy = tiny_policy()
        before = completion_logprobs(policy, given, max_tokens=1000)
        learner = RPO(policy, RPOConfig(beta=0.1, eta=1.0), CONSTANT, total=20, given=completions)
        for _ in range(20):
            learner.update(alike(tiny_policy()))
        policies.append(completion_logprobs(policy, given, max_tokens=1000) - before)
    assert (policies[1] > 2.0).all() and (policies[1] > policies[0] + 2.0).all()


def test_given_completions_are_drawn_alike_however_the_batch_is_cut_and_after_a_resume():
    given = Completions([[i] for i in range(10)], [[i, EOS] for i in range(10)])
    config, after = RPOConfig(beta=0.1, eta=1.0), []
    for tokens in (10_000, 1):
        learner = RPO(tiny_policy(), config, Tuning(lr=1e-2, micro_tokens=tokens), total=4, given=given, seed=3)
        batch = alike(learner.policy)
        for _ in range(2):
            learner.update(batch)
        after.append((learner.update(batch)["loss"], learner))
    torch.testing.assert_close(after[0][0], after[1][0], atol=1e-5, rtol=1e-5)
    other = RPO(tiny_policy(), config, Tuning(lr=1e-2), total=4, given=given, seed=99)
    other.load_state_dict({k: v.clone() for k, v in after[0][1].state_dict().items()})
    assert torch.equal(other.update(batch)["loss"], after[0][1].update(batch)["loss"])


def test_selecting_keeps_pairs_and_baseline_together():
    batch = alike(tiny_policy())
    based = BasedPairs(**vars(batch), baseline=Completions([[i] for i in range(4)], [[0] * 9, [1], [2], [3]]))
    part = based.select([2, 0])
    assert part.baseline.prompts == [[2], [0]] and part.chosen.prompts == [[1], [1, 2]] and len(part) == 2
    assert based.lengths.tolist() == [10, 6, 6, 7]


def test_defaults_are_the_papers():
    config = RPOConfig()
    assert (config.beta, config.eta, config.sft_form, config.flip_rate) == (0.01, 0.005, "sum", 0.0)
    assert config.weight == 0.005 and RPOConfig(sft_form="mean").weight == 0.2


@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        (lambda: RPOConfig(eta=-0.1), "eta is -0.1: it must be finite and not negative"),
        (lambda: RPOConfig(coefficient=float("inf")), "coefficient is inf"),
        (lambda: RPOConfig(sft_form="average"), "sft_form is 'average': it must be sum or mean"),
        (lambda: RPOConfig(base_loss="simpo"), "base_loss is 'simpo': it must be one of dpo"),
        (lambda: RPOConfig(flip_rate=0.6), "flip_rate is 0.6"),
        (lambda: RPOConfig(beta=0.0), "beta is 0.0"),
        (
            lambda: RPO(tiny_policy(), RPOConfig(), Tuning(), 1, given=Completions([], [])),
            "the baseline has no completions",
        ),
    ],
)
def test_mistakes_are_named(mistake, message):
    with pytest.raises(ConfigError, match=message):
        mistake()
