"""One optimiser step in parts: the gradient of the whole, the schedule, and a state without what is frozen."""

import math

import pytest
import torch

from surefoot.data.completions import micro_batches
from surefoot.errors import ConfigError
from surefoot.methods.language.aligner import Aligner, Tuning, learning_rate
from surefoot.policies.language import LanguagePolicy, LoraOptions
from tests.tiny_language import saved_model, some_prompts, tiny_policy


class Likelihood(Aligner):
    """Maximum likelihood, the plainest of losses."""

    def update(self, batch):
        parts = [batch.select(rows) for rows in micro_batches(batch.lengths, self.tuning.micro_tokens)]

        def loss(part):
            share = -self.logprobs(part).sum() / len(batch)
            return share, {"rows": torch.tensor(len(part) / len(batch))}

        return self.descend(parts, loss)


def texts(policy):
    return policy.sample(some_prompts(), 2, max_new_tokens=6, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_the_step_does_not_depend_on_how_the_batch_is_cut(kind):
    after = []
    for tokens in (10_000, 15, 1):
        policy = tiny_policy(kind)
        learner = Likelihood(policy, None, Tuning(lr=1e-2, micro_tokens=tokens, schedule="constant", warmup=0.0), total=3)
        seen = [learner.update(texts(policy)) for _ in range(3)]
        assert float(seen[-1]["rows"]) == pytest.approx(1.0) and seen[-1]["loss"] < seen[0]["loss"]
        after.append(torch.cat([p.detach().flatten() for p in policy.parameters()]))
    torch.testing.assert_close(after[1], after[0], rtol=0, atol=2e-5)
    torch.testing.assert_close(after[2], after[0], rtol=0, atol=2e-5)


def test_the_gradient_is_clipped_to_its_longest():
    policy = tiny_policy()
    learner = Likelihood(policy, None, Tuning(lr=1e-9, gradient_clip=0.5), total=1)
    assert float(learner.update(texts(policy))["gradient"]) > 0.5  # what is told is the length before
    assert sum(float(p.grad.square().sum()) for p in policy.parameters()) ** 0.5 == pytest.approx(0.5, abs=1e-4)


def test_schedules():
    assert [learning_rate(Tuning(lr=1.0, schedule="linear", warmup=0.2), i, 10) for i in range(10)] == pytest.approx(
        [0.5, 1.0, 1.0, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125]
    )
    cosine = [learning_rate(Tuning(lr=2.0, schedule="cosine", warmup=0.0), i, 4) for i in range(5)]
    assert cosine == pytest.approx([2.0, 1 + math.sqrt(0.5), 1.0, 1 - math.sqrt(0.5), 0.0])
    assert {learning_rate(Tuning(lr=3.0, schedule="constant", warmup=0.0), i, 4) for i in range(9)} == {3.0}


@pytest.mark.parametrize("lora", [None, LoraOptions(rank=2)])
def test_a_restored_learner_goes_on_as_if_nothing_had_happened(lora, tmp_path):
    folder = saved_model(tmp_path / "model", "llama")

    def learner() -> Likelihood:
        torch.manual_seed(5)  # where an adapter begins
        policy = LanguagePolicy.load(folder, lora=lora)
        return Likelihood(policy, None, Tuning(lr=1e-2), total=10, seed=4)

    first = learner()
    batch = texts(first.policy)
    for _ in range(3):
        first.update(batch)
    state = {name: value.clone() for name, value in first.state_dict().items()}
    wanted = first.update(batch)
    second = learner()
    second.load_state_dict(state)
    found = second.update(batch)
    assert {k: float(v) for k, v in found.items()} == {k: float(v) for k, v in wanted.items()}
    assert all(torch.equal(value, second.state_dict()[name]) for name, value in first.state_dict().items())
    if lora is not None:  # the frozen weights are not in it
        assert not [name for name in state if name.startswith("policy.") and "lora" not in name]
        assert sum(v.numel() for k, v in state.items() if k.startswith("policy.")) < 2_000


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lr": 0.0}, "learning rate is 0.0"),
        ({"lr": math.nan}, "learning rate is nan"),
        ({"warmup": 1.5}, "warmup is 1.5: it is a share"),
        ({"gradient_clip": -1.0}, "gradient_clip -1.0: neither may be negative"),
        ({"micro_tokens": 0}, "micro_tokens is 0"),
    ],
)
def test_settings_out_of_range(settings, message):
    with pytest.raises(ConfigError, match=message):
        Tuning(**settings)
