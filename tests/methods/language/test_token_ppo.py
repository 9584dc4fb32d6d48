"""PPO on a tiny language model: what an update does, that memory limits change nothing, resume, and the critic."""

import copy
from dataclasses import replace

import pytest
import torch

from surefoot.data.completions import Completions
from surefoot.errors import ConfigError, PolicyError
from surefoot.methods.language.aligner import Tuning
from surefoot.methods.language.token_losses import TokenRollouts, token_mean, token_weights
from surefoot.methods.language.token_ppo import TokenPPO, TokenPPOConfig, in_columns
from surefoot.policies.language import LoraOptions
from surefoot.policies.token_values import TokenValues
from tests.tiny_language import EOS, saved_model, some_prompts, tiny_policy

SMALL = TokenPPOConfig(prompts=4, responses=2, max_new_tokens=5, temperature=1.0, epochs=2, minibatches=2)
TUNING = Tuning(lr=1e-3, schedule="constant", warmup=0.0)


def short(prompts, completions):
    """A reward: few words."""
    return torch.tensor([-0.2 * len(text.split()) for text in completions])


def learner(config=SMALL, tuning=TUNING, policy=None, **rest):
    return TokenPPO(policy or tiny_policy(), config, tuning, 100, **rest)


def a_batch(method, seed=0):
    return next(iter(method.source(some_prompts(), short, seed=seed)))


def test_an_update_is_the_pseudo_code():
    """One step on one minibatch: the gradient of the loss written out on full-size tensors, sequence by sequence."""
    method = learner(replace(SMALL, epochs=1, minibatches=1, kl_coef=0.3))
    with torch.no_grad():
        for p in method.policy.parameters():  # away from the reference
            p.add_(0.05 * torch.randn(p.shape, generator=torch.Generator().manual_seed(1)))
        method.critic.score.weight.add_(0.1)
    batch = a_batch(method)
    before = copy.deepcopy((method.policy, method.critic))
    sequences = batch.completions.padded(method.policy.pad)
    mask, c = sequences.completion, method.config
    score = torch.where(torch.tensor([ids[-1] == EOS for ids in batch.completions.completions]), batch.rewards.flatten(), -1.0)
    old, reference, value = before[0].token_logprobs(sequences), method.reference.token_logprobs(sequences), before[1](sequences)
    rollouts = TokenRollouts.of(old.detach(), reference, value.detach(), score, mask, mask, 0.3, c)
    policy_loss, value_loss = rollouts.losses(old, value, c)
    (token_mean(policy_loss, mask) + c.value_weight * token_mean(value_loss, mask)).backward()
    metrics = method.update(batch)
    for mine, expected in zip((method.policy, method.critic), before, strict=True):
        lengths = torch.linalg.vector_norm(torch.stack([p.grad.norm() for p in expected.parameters()]))
        for p, q in zip(mine.parameters(), expected.parameters(), strict=True):
            torch.testing.assert_close(p.grad, q.grad * min(1.0, 1.0 / float(lengths)), atol=1e-5, rtol=1e-3)
    assert metrics["score"] == pytest.approx(float(score.mean()))
    assert metrics["kl"] == pytest.approx(float((old - reference).sum(-1).mean().detach()), abs=1e-5)
    assert metrics["approx_kl"] == pytest.approx(0.0, abs=1e-6) and method.steps == 1


def test_memory_limits_change_nothing():
    states = []
    for micro_tokens in (8192, 12):
        method = learner(tuning=replace(TUNING, micro_tokens=micro_tokens))
        source = method.source(some_prompts(), short, seed=3)
        for _ in range(2):
            metrics = method.update(next(source))
        states.append((metrics, method.state_dict()))
    for name, x in states[0][0].items():
        torch.testing.assert_close(x, states[1][0][name], atol=2e-4, rtol=1e-3, msg=name)
    assert states[0][1]["steps"] == 8


def test_the_same_seed_gives_the_same_weights_and_a_resume_too():
    method, whole = learner(replace(SMALL, kl_target=1.0, kl_horizon=50.0)), learner(replace(SMALL, kl_target=1.0, kl_horizon=50.0))
    source = method.source(some_prompts(), short, seed=1)
    method.update(next(source))
    again = learner(replace(SMALL, kl_target=1.0, kl_horizon=50.0))
    other = again.source(some_prompts(), short, seed=9)
    again.load_state_dict(method.state_dict())
    other.load_state_dict(source.state_dict())
    for one, batches in ((method, source), (again, other)):
        one.update(next(batches))
    straight = whole.source(some_prompts(), short, seed=1)
    for _ in range(2):
        whole.update(next(straight))
    assert method.kl_coef != 0.05
    for name, x in whole.state_dict().items():
        assert torch.equal(x, method.state_dict()[name]) and torch.equal(x, again.state_dict()[name]), name


def test_with_an_adapter_only_the_adapters_and_the_head_are_trained(tmp_path):
    from surefoot.policies.language import LanguagePolicy

    policy = LanguagePolicy.load(saved_model(tmp_path / "model"), lora=LoraOptions(rank=2))
    method = learner(policy=policy)
    frozen = {name: p.clone() for name, p in policy.named_parameters() if not p.requires_grad}
    method.update(a_batch(method))
    assert all(torch.equal(p, frozen[name]) for name, p in policy.named_parameters() if name in frozen)
    assert {name.split(".")[-2] for name, p in method.critic.named_parameters() if p.requires_grad} == {"default", "score"}
    assert (method.critic.score.weight != 0.0).any()


def test_learning_needs_the_policy_loss():
    """The learning test: scores rise; with the advantages set to nought (the key term off) they do not."""
    found = {}
    for name in ("ppo", "off"):
        method = learner(replace(SMALL, prompts=16, epochs=4, minibatches=1, missing_end=None, kl_coef=0.0), replace(TUNING, lr=3e-3))
        if name == "off":
            judged = method.judged
            method.judged = lambda batch, judged=judged: _without_advantage(judged(batch))
        source = method.source(some_prompts() * 4, short, seed=0)
        scores = [float(method.update(next(source))["score"]) for _ in range(15)]
        found[name] = sum(scores[-3:]) / 3 - scores[0]
    assert found["ppo"] > 0.3 > 0.15 > abs(found["off"])


def _without_advantage(judged):
    rollouts, seen = judged
    return replace(rollouts, advantage=torch.zeros_like(rollouts.advantage)), seen


def test_scores():
    method = learner(replace(SMALL, score_limit=2.0))
    completions = Completions([[1], [1], [1]], [[3, EOS], [4, 5], [6, EOS]])
    rewards, ended = torch.tensor([5.0, 5.0, -7.0]), method._ended(completions)
    assert ended.tolist() == [True, False, True]
    assert method._scores(rewards, ended).tolist() == [2.0, -1.0, -2.0]
    assert learner(replace(SMALL, missing_end=None))._scores(rewards, ended).tolist() == [5.0, 5.0, -7.0]


def test_columns():
    sequences = Completions([[1, 2], [3]], [[4], [5, 6, 7]]).padded(0)
    x = torch.arange(8.0).view(2, 4)
    mask = torch.tensor([[True, False, False], [True, True, True]])
    assert in_columns(x, sequences, mask).tolist() == [[2.0, 0.0, 0.0], [5.0, 6.0, 7.0]]


def test_averages_over_responses_and_over_tokens_differ():
    mask = torch.tensor([[True, False], [True, True]])
    assert token_weights(mask, "responses").tolist() == [[0.5, 0.0], [0.25, 0.25]]


# --- critic -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_the_critic_reads_the_state_before_each_token(kind, tmp_path):
    policy = tiny_policy(kind)
    critic = TokenValues.of(policy)
    completions = Completions([[1, 2], [3]], [[4, 5], [6, 7, EOS]])
    assert (critic(completions.padded(policy.pad)) == 0.0).all()  # a fresh head says 0
    torch.nn.init.normal_(critic.score.weight)
    together = critic(completions.padded(policy.pad))
    states = policy.causal.base_model(torch.tensor([[3, 6, 7]]))[0][0]
    torch.testing.assert_close(together[1, 1:4], critic.score(states).squeeze(-1))
    alone = critic(completions.select([0]).padded(policy.pad))
    torch.testing.assert_close(together[0, 2:4], alone[0, 2:4])
    changed = critic(Completions([[1, 2]], [[4, 9]]).padded(policy.pad))
    torch.testing.assert_close(changed, alone)  # a value does not know the token that follows


def test_a_critic_of_a_reward_model(tmp_path):
    from transformers import GPT2Config, GPT2ForSequenceClassification

    policy = tiny_policy()
    torch.manual_seed(1)
    reward = GPT2ForSequenceClassification(GPT2Config(**{**policy.causal.config.to_dict(), "num_labels": 1}))
    reward.save_pretrained(tmp_path / "reward")
    critic = TokenValues.load(tmp_path / "reward", policy)
    torch.testing.assert_close(critic.score.weight, reward.score.weight)
    saved_model(tmp_path / "policy")
    assert (TokenValues.load(tmp_path / "policy", policy).score.weight == 0.0).all()
    narrow = GPT2ForSequenceClassification(GPT2Config(n_layer=1, n_head=2, n_embd=16, vocab_size=7, num_labels=1, pad_token_id=0))
    narrow.save_pretrained(tmp_path / "narrow")
    with pytest.raises(PolicyError, match="vocabulary of 7"):
        TokenValues.load(tmp_path / "narrow", policy)
    with pytest.raises(PolicyError, match="give a reward model"):
        TokenValues.load(tmp_path / "nothing", policy)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prompts": 0}, "prompts is 0"),
        ({"temperature": 0.0}, "temperature is 0.0"),
        ({"kl_target": -1.0}, "kl_target"),
        ({"kl_coef": float("nan")}, "kl_coef"),
        ({"minibatches": 9}, "only 8 responses"),
        ({"average": "words"}, "average is 'words'"),
        ({"score_limit": 0.0}, "score_limit"),
    ],
)
def test_bad_settings(changes, message):
    with pytest.raises(ConfigError, match=message):
        replace(SMALL, **changes)
