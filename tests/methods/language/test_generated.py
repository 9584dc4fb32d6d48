"""What the policy says, as a source: groups, who draws them, what is known of each, resume bit for bit, and the learner on top."""

import numpy as np
import pytest
import torch

from surefoot.errors import ConfigError, DataError
from surefoot.methods.language.aligner import Tuning
from surefoot.methods.language.generated import Generated
from surefoot.methods.language.on_policy_preferences import GroupAligner, OnPolicyPreferencesConfig
from surefoot.methods.language.sampling import Sampling
from surefoot.policies.language import LoraOptions, Reference, completion_logprobs
from surefoot.training.fit import fit

pytest.importorskip("transformers")
from tests.tiny_language import saved_model, some_prompts, tiny_policy

torch.set_num_threads(1)


def ones(prompts, completions):
    """How often a review says w1 or w2."""
    return [float(sum(word in ("w1", "w2") for word in text.split())) for text in completions]


def source(policy, sampling=None, **settings):
    where = {"batch": 3, "max_new_tokens": 5, "seed": 0} | settings
    return Generated(policy, some_prompts(), ones, sampling or Sampling(samples=4, reuse=2), **where)


@pytest.fixture
def policy():
    return tiny_policy()


# --- groups -----------------------------------------------------------------------------------------------------------


def test_a_group_belongs_to_its_prompt_and_is_known(policy):
    other = tiny_policy(seed=1)
    batch = next(source(policy, reference=Reference(other)))
    assert batch.rewards.shape == batch.reference.shape == batch.old.shape == (3, 4)
    prompts = [tuple(p) for p in batch.completions.prompts]
    assert all(len(set(prompts[g * 4 : g * 4 + 4])) == 1 for g in range(3)) and len(set(prompts)) == 3
    assert all(1 <= len(c) <= 5 for c in batch.completions.completions)
    expected = torch.tensor(ones(None, policy.decode(batch.completions))).view(3, 4)
    assert batch.rewards.equal(expected)
    for found, of in ((batch.old, policy), (batch.reference, other)):
        np.testing.assert_allclose(found.flatten(), completion_logprobs(of, batch.completions, max_tokens=64), atol=1e-5)


def test_every_prompt_comes_once_in_a_pass(policy):
    drawn = source(policy, Sampling(samples=1, reuse=1), batch=2)
    seen = [tuple(p) for _ in range(4) for p in next(drawn).completions.prompts]
    every = sorted(map(tuple, some_prompts()))
    assert sorted(seen[:4]) == every and sorted(seen[4:]) == every


def test_the_reward_sees_the_texts_that_are_given(policy):
    asked = []

    def reward(prompts, completions):
        asked.extend(prompts)
        return [0.0] * len(prompts)

    drawn = Generated(policy, some_prompts(), reward, Sampling(samples=2, reuse=1), batch=4, max_new_tokens=2, texts=list("abcd"))
    next(drawn)
    assert sorted(asked) == sorted("aabbccdd")
    plain = Generated(policy, [[1, 2]], reward, Sampling(samples=1, reuse=1), batch=1, max_new_tokens=2)
    next(plain)
    assert asked[-1] == "w1 w2"


# --- who draws --------------------------------------------------------------------------------------------------------


def certain(policy, token):
    """A policy that says one word whatever it is asked: a bias in its last layer norm, along that word's embedding."""
    with torch.no_grad():
        embedding = policy.causal.get_input_embeddings().weight
        embedding.mul_(0.0)
        embedding[token, 0] = 1.0
        policy.causal.transformer.ln_f.weight.zero_()
        policy.causal.transformer.ln_f.bias.zero_()
        policy.causal.transformer.ln_f.bias[0] = 50.0
    return policy


@pytest.mark.parametrize(("settings", "theirs"), [({}, 0), ({"on_policy": False}, 4), ({"mix": 0.25}, 1)])
def test_the_switch_says_who_draws(settings, theirs):
    policy, reference = certain(tiny_policy(), 1), certain(tiny_policy(), 9)
    drawn = source(policy, Sampling(samples=4, reuse=1, **settings), reference=Reference(reference))
    words = [set(c) for c in next(drawn).completions.completions]
    for g in range(3):
        assert words[g * 4 : g * 4 + 4] == [{9}] * theirs + [{1}] * (4 - theirs)


def test_batches_are_used_again_in_another_order(policy):
    drawn = source(policy, Sampling(samples=2, reuse=3, refresh=4), batch=1)
    batches = [next(drawn) for _ in range(13)]
    passes = [[tuple(b.completions.completions[0]) for b in batches[i : i + 4]] for i in (0, 4, 8)]
    assert sorted(passes[0]) == sorted(passes[1]) == sorted(passes[2]) and len({tuple(each) for each in passes}) > 1
    assert drawn.queries == 2 * 4 * 2
    assert set(drawn.metrics()) == {"train/reward_queries", "train/reward", "train/completion_tokens"}


def test_completions_begin_with_their_prefixes(policy):
    def prefixes(rows, generator):
        return [[7] * (i % 3) for i in range(4 * len(rows))]

    batch = next(source(policy, prefixes=prefixes))
    assert all(c[: i % 3] == [7] * (i % 3) for i, c in enumerate(batch.completions.completions))
    assert batch.forced.flatten().tolist() == [i % 3 for i in range(12)]
    mixed = next(source(policy, Sampling(samples=4, mix=0.5), prefixes=prefixes))
    assert all(c[: i % 3] == [7] * (i % 3) for i, c in enumerate(mixed.completions.completions))


def test_what_a_method_computes_itself_is_left_out(policy):
    drawn = source(policy, with_reference=False, with_old=False)
    batch = next(drawn)
    assert batch.old is None and batch.reference.abs().max() == 0.0 and drawn.reference is None


def test_an_adapter_is_switched_off_for_the_reference(tmp_path):
    from surefoot.policies.language import LanguagePolicy

    policy = LanguagePolicy.load(saved_model(tmp_path / "model"), lora=LoraOptions(rank=2))
    with torch.no_grad():
        for name, p in policy.named_parameters():
            if "lora_B" in name:
                p.add_(0.5)
    batch = next(source(policy))
    with policy.reference():
        expected = completion_logprobs(policy, batch.completions, max_tokens=64)
    np.testing.assert_allclose(batch.reference.flatten(), expected, atol=1e-5)
    assert (batch.reference - batch.old).abs().max() > 0.01


class Process:
    """What `Generated` asks of an accelerator, of one of two processes."""

    num_processes = 2

    def __init__(self, index):
        self.process_index = index


def test_two_processes_share_the_drawing_and_have_the_same_batch(policy, monkeypatch):
    sent = {}

    def send(parts):
        sent[len(sent)] = parts
        raise InterruptedError

    monkeypatch.setattr("accelerate.utils.gather_object", send)
    for i in range(2):
        with pytest.raises(InterruptedError):
            next(source(policy, accelerator=Process(i)))
    assert [len(sent[i][0][0]) for i in range(2)] == [2, 1]  # of three prompts
    monkeypatch.setattr("accelerate.utils.gather_object", lambda parts: sent[0] + sent[1])
    first, second = (next(source(policy, accelerator=Process(i))) for i in range(2))
    assert first.completions == second.completions and first.rewards.equal(second.rewards) and first.old.equal(second.old)
    assert first.completions.prompts == next(source(policy)).completions.prompts


# --- bad input --------------------------------------------------------------------------------------------------------


def test_bad_input(policy):
    s = Sampling(samples=2)
    with pytest.raises(DataError, match="no prompts to complete"):
        Generated(policy, [], ones, s)
    with pytest.raises(ConfigError, match="batch is 0"):
        source(policy, batch=0)
    with pytest.raises(DataError, match="1 texts for 4 prompts"):
        source(policy, texts=["a"])
    with pytest.raises(ConfigError, match="3 prefixes were given for 3 prompts with 4 completions"):
        next(source(policy, prefixes=lambda rows, generator: [[1]] * len(rows)))
    with pytest.raises(DataError, match="gave nan for completion 0"):
        next(Generated(policy, some_prompts(), lambda x, y: [float("nan")] * len(x), s, max_new_tokens=2))
    with pytest.raises(DataError, match="raises KeyError"):
        next(Generated(policy, some_prompts(), lambda x, y: {}["no"], s, max_new_tokens=2))


# --- learning and resume ----------------------------------------------------------------------------------------------


def learning(config, seed=0, lr=3e-3, total=20):
    policy = tiny_policy()
    learner = GroupAligner(policy, config, Tuning(lr=lr, schedule="constant", warmup=0.0, micro_tokens=200), total)
    return learner, source(policy, config.sampling, batch=4, seed=seed)


@pytest.mark.parametrize("loss", ["bon", "neg_bon", "rwr", "dpo", "ipo", "reinforce", "ppo"])
def test_a_step_does_not_depend_on_how_a_batch_is_cut(loss):
    weights = []
    for micro in (40, 10_000):
        policy = tiny_policy()
        config = OnPolicyPreferencesConfig(loss, Sampling(samples=3, reuse=2), margin=1.0, temperature=1.0)
        learner = GroupAligner(policy, config, Tuning(lr=1e-2, schedule="constant", warmup=0.0, gradient_clip=0.0, micro_tokens=micro), 4)
        drawn = source(policy, config.sampling, batch=4)
        for _ in range(2):
            told = learner.update(next(drawn))
        assert all(x.isfinite().all() for x in told.values())
        weights.append(torch.cat([p.detach().flatten() for p in policy.parameters()]))
    assert {"kl", "entropy", "reward", "chosen", "rejected", "loss"} <= set(told) and "kl_from_reference" not in told
    np.testing.assert_allclose(weights[0], weights[1], atol=2e-4)


def test_dpo_on_a_pair_is_that_of_the_pair():
    """Offline groups of two: the loss is -log sigmoid(beta h), averaged; equals count as no pair."""
    config = OnPolicyPreferencesConfig("dpo", Sampling(on_policy=False, samples=2, reuse=1), beta=0.3)
    policy, reference = tiny_policy(), tiny_policy(seed=1)
    drawn = source(policy, config.sampling, reference=Reference(reference), batch=4)
    batch = next(drawn)
    h = (batch.old - batch.reference)[:, 0] - (batch.old - batch.reference)[:, 1]
    sign = (batch.rewards[:, 0] - batch.rewards[:, 1]).sign()
    expected = (-torch.nn.functional.logsigmoid(0.3 * h * sign) * sign.abs()).mean()
    told = GroupAligner(policy, config, Tuning(), 1).update(batch)
    assert told["loss"].item() == pytest.approx(expected.item(), abs=1e-5)
    assert told["kl_from_reference"].item() == pytest.approx((batch.reference - batch.old).mean().item(), abs=1e-4)


@pytest.mark.parametrize("stop", [3, 4, 6])
def test_resumes_bit_for_bit(stop):
    config = OnPolicyPreferencesConfig("ppo", Sampling(samples=3, reuse=2, refresh=2, mix=0.34))
    whole, drawn = learning(config)
    fit(whole, drawn, 9, progress=False)
    first, drawn = learning(config)
    fit(first, drawn, stop, progress=False)
    kept = [{name: x.clone() for name, x in part.state_dict().items()} for part in (first, drawn)]
    second, again = learning(config, seed=5)
    second.load_state_dict(kept[0])
    again.load_state_dict(kept[1])
    assert again.state_dict().keys() == kept[1].keys()
    fit(second, again, 9, progress=False)
    for name, x in whole.state_dict().items():
        assert x.equal(second.state_dict()[name]), name


def learned(config, steps=24):
    """Mean reward of fresh completions after training, and before."""
    learner, drawn = learning(config, lr=1e-2, total=steps)
    judge = source(learner.policy, Sampling(samples=64, reuse=1), batch=4, seed=77, with_reference=False, with_old=False)
    before = next(judge).rewards.mean().item()
    fit(learner, drawn, steps, progress=False)
    return next(judge).rewards.mean().item(), before


def test_a_language_model_learns_from_its_own_samples():
    """The key term is that the policy draws: with `on_policy=False` it does not get there, and this fails."""
    own, before = learned(OnPolicyPreferencesConfig("bon", Sampling(samples=8, reuse=2)))
    offline, _ = learned(OnPolicyPreferencesConfig("bon", Sampling(samples=8, reuse=2, on_policy=False)))
    assert own > offline + 0.5 and offline > before + 0.5
