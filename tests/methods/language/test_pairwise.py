"""The learner of preference pairs: its step against autograd by hand, its metrics, its baselines, and the same state after a resume."""

import copy

import pytest
import torch

from surefoot.data.completions import Completions, PairBatch
from surefoot.errors import ConfigError
from surefoot.methods.language.aligner import Tuning
from surefoot.methods.language.losses import MARGIN_LOSSES, conservative, dpo
from surefoot.methods.language.pairwise import Pairwise, PairwiseConfig
from surefoot.methods.language.rdpo import RDPO, RDPOConfig
from surefoot.methods.language.rpo import RPO, RPOConfig
from surefoot.policies.language import LanguagePolicy, LoraOptions, Reference
from tests.tiny_language import saved_model, some_prompts, tiny_policy

CONSTANT = Tuning(lr=1e-2, schedule="constant", warmup=0.0)


def pairs(policy, n=3, seed=1):
    """Two samples of each prompt, `n` times, with log-probabilities under the policy as it stands."""
    prompts = some_prompts() * n
    drawn = policy.sample(prompts, 2, max_new_tokens=6, generator=torch.Generator().manual_seed(seed))
    chosen, rejected = drawn.select(range(0, len(drawn), 2)), drawn.select(range(1, len(drawn), 2))
    reference = Reference(policy)
    return PairBatch(chosen, rejected, *(reference.logprobs(each, max_tokens=1000) for each in (chosen, rejected)))


LEARNERS = {
    "dpo": (Pairwise, PairwiseConfig()),
    "ipo": (Pairwise, PairwiseConfig(loss="ipo")),
    "cdpo": (Pairwise, PairwiseConfig(label_smoothing=0.2)),
    "hinge": (Pairwise, PairwiseConfig(loss="hinge")),
    "rdpo": (RDPO, RDPOConfig(flip_rate=0.2)),
    "rpo": (RPO, RPOConfig(beta=0.1, eta=0.1)),
}


@pytest.mark.parametrize("name", LEARNERS)
def test_each_learner_descends_and_prefers_the_chosen(name):
    policy = tiny_policy()
    batch = pairs(policy)
    learner = LEARNERS[name][0](policy, LEARNERS[name][1], CONSTANT, total=8)
    seen = [{k: float(v) for k, v in learner.update(batch).items()} for _ in range(8)]
    assert seen[0]["margin"] == pytest.approx(0.0, abs=1e-5) and seen[0]["chosen"] == pytest.approx(0.0, abs=1e-4)
    assert seen[-1]["loss"] < seen[0]["loss"] and seen[-1]["accuracy"] > 0.8 and seen[-1]["margin"] > 0.1
    assert learner.steps == 8


def test_the_step_is_that_of_the_loss_by_hand():
    policy = tiny_policy()
    batch = pairs(policy, 1)
    with torch.no_grad():  # away from the reference, where losses differ
        for p in policy.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(2)))
    twin = copy.deepcopy(policy)
    logp = [twin.logprobs(each.padded(twin.pad)) for each in (batch.chosen, batch.rejected)]
    h = (logp[0] - batch.ref_chosen) - (logp[1] - batch.ref_rejected)
    loss = conservative(dpo, 0.3 * h, 0.1).mean()
    loss.backward()
    learner = Pairwise(policy, PairwiseConfig(beta=0.3, label_smoothing=0.1), Tuning(lr=1e-9, gradient_clip=0.0, micro_tokens=20), total=1)
    seen = learner.update(batch)
    for name, p in policy.named_parameters():
        torch.testing.assert_close(p.grad, dict(twin.named_parameters())[name].grad, atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(seen["loss"], loss.detach())
    torch.testing.assert_close(seen["margin"], 0.3 * h.mean().detach(), atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(seen["accuracy"], (h > 0).float().mean())
    torch.testing.assert_close(seen["chosen"], (logp[0] - batch.ref_chosen).mean().detach(), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(seen["rejected"], (logp[1] - batch.ref_rejected).mean().detach(), atol=1e-5, rtol=1e-5)


def test_the_step_does_not_depend_on_how_the_batch_is_cut():
    after = []
    for tokens in (10_000, 40, 1):
        policy = tiny_policy("llama")
        batch = pairs(policy, 2)
        learner = RDPO(policy, RDPOConfig(flip_rate=0.3), Tuning(lr=1e-2, micro_tokens=tokens, warmup=0.0), total=4)
        seen = [learner.update(batch) for _ in range(3)][-1]
        after.append([seen["loss"], seen["chosen"], torch.cat([p.detach().flatten() for p in policy.parameters()])])
    for other in after[1:]:
        for got, want in zip(other, after[0], strict=True):
            torch.testing.assert_close(got, want, rtol=1e-4, atol=5e-5)


def test_a_resumed_learner_is_the_uninterrupted_one(tmp_path):
    folder = saved_model(tmp_path)

    def learner():
        torch.manual_seed(0)
        return Pairwise(LanguagePolicy.load(folder, lora=LoraOptions(rank=2)), PairwiseConfig(), CONSTANT, total=6)

    whole, first, second = learner(), learner(), learner()
    batches = [pairs(whole.policy, 1, seed) for seed in range(4)]
    told = [whole.update(batch) for batch in batches]
    for batch in batches[:2]:
        first.update(batch)
    second.load_state_dict({k: v.clone() for k, v in first.state_dict().items()})
    for batch, want in zip(batches[2:], told[2:], strict=True):
        got = second.update(batch)
        assert all(torch.equal(got[k], want[k]) for k in want)


def test_label_smoothing_holds_the_margin_back():
    margins = []
    for smoothing in (0.0, 0.3):
        policy = tiny_policy()
        batch = pairs(policy, 1)
        learner = Pairwise(policy, PairwiseConfig(beta=1.0, label_smoothing=smoothing), CONSTANT, total=25)
        margins.append([float(learner.update(batch)["margin"]) for _ in range(25)][-1])
    assert margins[0] > 3.0 > margins[1]  # its minimum is at logit(0.7) = 0.85 for each pair


def test_a_tie_is_no_success():
    policy = tiny_policy()
    same = Completions([[1], [2]], [[3, 4], [5]])
    seen = Pairwise(policy, PairwiseConfig(), CONSTANT, total=1).update(PairBatch(same, same, torch.zeros(2), torch.zeros(2)))
    assert float(seen["accuracy"]) == 0.0 and float(seen["gradient"]) == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        (lambda: PairwiseConfig(beta=0.0), "beta is 0.0: it must be positive and finite"),
        (lambda: PairwiseConfig(beta=float("nan")), "beta is nan"),
        (lambda: PairwiseConfig(loss="slic"), "loss is 'slic': it must be one of dpo, ipo, hinge, probit"),
        (lambda: PairwiseConfig(label_smoothing=0.5), "label_smoothing is 0.5: it must be at least 0 and below 0.5"),
    ],
)
def test_mistakes_are_named(mistake, message):
    with pytest.raises(ConfigError, match=message):
        mistake()


def test_the_names_are_those_of_the_losses():
    for name in MARGIN_LOSSES:
        assert PairwiseConfig(loss=name).loss == RDPOConfig(base=name).base == RPOConfig(base_loss=name).base_loss == name
