"""Reward-weighted regression and best-of-n distillation: what they end at, and what an update is."""

import pytest
import torch

from surefoot.data.completions import Completions, GroupBatch
from surefoot.errors import ConfigError
from surefoot.methods.language import losses
from surefoot.methods.language.aligner import Tuning
from surefoot.methods.language.weighted import BestOfN, BestOfNConfig, RewardWeighted, RewardWeightedConfig, centred
from tests.tiny_language import tiny_policy

torch.set_num_threads(1)


def batch(rewards=((1.0, 3.0, 2.0), (0.0, -1.0, 0.5))) -> GroupBatch:
    texts = Completions([[1]] * 3 + [[2, 3]] * 3, [[4], [5, 6], [7], [8, 9, 10], [11], [12]])
    return GroupBatch(texts, torch.tensor(rewards), torch.zeros(2, 3))


def test_weights_of_a_prompt_add_up_to_their_number():
    reward = torch.tensor([[1.0, 3.0, 2.0], [1000.0, -1000.0, 0.0]], dtype=torch.float64)
    weights = (centred(reward, 0.5) / 0.5).exp()
    torch.testing.assert_close(weights.sum(-1), torch.full((2,), 3.0, dtype=torch.float64))
    torch.testing.assert_close(weights[0] / 3.0, (reward[0] / 0.5).softmax(-1))
    torch.testing.assert_close(centred(reward + 7.0, 0.5), centred(reward, 0.5), atol=1e-9, rtol=0)


def test_it_ends_at_the_tilted_behaviour():
    """Population minimiser mu exp(R / beta), normalised: not the reference's tilt, which is CoPG's."""
    mu, reward, beta = torch.tensor([0.1, 0.6, 0.3]), torch.tensor([2.5, 2.0, 1.0]), 0.5
    logits = torch.zeros(3, requires_grad=True)
    optimiser = torch.optim.LBFGS([logits], max_iter=50, line_search_fn="strong_wolfe")

    def closure():
        optimiser.zero_grad()
        loss = (mu * losses.reward_weighted(logits.log_softmax(-1), reward, beta)).sum()
        loss.backward()
        return loss

    optimiser.step(closure)
    torch.testing.assert_close(logits.detach().softmax(-1), (mu.log() + reward / beta).softmax(-1), atol=1e-4, rtol=0)


@pytest.mark.parametrize("per_prompt", [True, False])
def test_an_update_weighs_each_completion(per_prompt):
    policy, config = tiny_policy(), RewardWeightedConfig(beta=2.0, responses=3, per_prompt=per_prompt, largest=1.5)
    learner = RewardWeighted(policy, config, Tuning(lr=1e-9, micro_tokens=8), 1)
    data = batch()
    logp = learner.logprobs(data.completions).view(2, 3)
    weights = (data.rewards / 2.0).exp()
    weights = weights / weights.mean(-1, keepdim=True) if per_prompt else weights
    seen = learner.update(data)
    assert seen["loss"].item() == pytest.approx(-(weights.clamp(max=1.5) * logp.detach()).mean().item(), rel=1e-4)
    assert seen["weight"].item() == pytest.approx(weights.amax(-1).mean().item(), rel=1e-4)


def test_the_best_is_imitated():
    policy = tiny_policy()
    learner, data = BestOfN(policy, BestOfNConfig(responses=3), Tuning(lr=3e-3, warmup=0.0, schedule="constant"), 5), batch()
    before = learner.logprobs(data.completions).view(2, 3).detach()
    seen = [learner.update(data) for _ in range(5)]
    after = learner.logprobs(data.completions).view(2, 3).detach()
    assert seen[0]["loss"].item() == pytest.approx(-(before[0, 1] + before[1, 2]).item() / 2, rel=1e-4)
    assert seen[0]["best"].item() == pytest.approx(1.75)
    assert (after > before)[0, 1] and (after > before)[1, 2]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RewardWeightedConfig(beta=-1.0), "beta is -1.0: it must be positive"),
        (lambda: RewardWeightedConfig(responses=1), "responses is 1: it must be at least 2"),
        (lambda: RewardWeightedConfig(responses=0, per_prompt=False), "responses is 0: it must be at least 1"),
        (lambda: RewardWeightedConfig(largest=0.0), "largest is 0.0: a bound of weights is positive"),
        (lambda: BestOfNConfig(responses=1), "responses is 1: the best of one is the one"),
    ],
)
def test_mistakes_are_named(make, message):
    with pytest.raises(ConfigError, match=message):
        make()
