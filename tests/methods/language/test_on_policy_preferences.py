"""The on-policy study: the bandit of the card, who draws, resume bit for bit, and that own samples are what finds a far bump."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from surefoot.errors import ConfigError, DataError
from surefoot.methods.language.didactic_bandit import ContextPolicy, bump, fit_to_reference, reference_logprobs, rewarded_by
from surefoot.methods.language.groups import MovingNormaliser
from surefoot.methods.language.on_policy_preferences import GroupBandit, OnPolicyPreferencesConfig, advantages, group_loss
from surefoot.methods.language.sampling import SampledActions, Sampling, drawn_by
from surefoot.nn.distributions import Choice
from surefoot.training.fit import fit

torch.set_num_threads(1)
LOSSES = ("bon", "neg_bon", "rwr", "dpo", "ipo", "reinforce", "ppo")


class Table(nn.Module):
    """Logits that every context shares, `[*copies, A]`."""

    def __init__(self, logits):
        super().__init__()
        self.logits = nn.Parameter(logits.clone())

    def forward(self, contexts):
        return self.logits.unsqueeze(-2).expand(*contexts.shape[:-1], self.logits.shape[-1])


def study(config, *, copies=(), lr=0.05, seed=0, actions=100, centre=70.0, contexts=10):
    """A learner on a table that starts at the reference, and its source."""
    reference = reference_logprobs(actions)
    policy = Table(reference.expand(*copies, actions))
    where = torch.zeros(*copies, contexts, 1)
    reward = rewarded_by(bump(centre * actions / 100, 10.0 * actions / 100, actions))
    source = SampledActions(policy, where, reference, reward, config.sampling, seed=seed)
    return GroupBandit(policy, reference, config, lr=lr, copies=copies), source


# --- oracle 5 ---------------------------------------------------------------------------------------------------------


def test_the_reference_and_rewards_of_the_card():
    p = reference_logprobs().double().exp()
    assert p.sum().item() == pytest.approx(1.0, abs=1e-6) and int(p.argmax()) == 0
    assert p[60:81].sum().item() == pytest.approx(0.045659, abs=5e-7)
    assert p[10:31].sum().item() == pytest.approx(0.454249, abs=5e-7)
    assert (p * bump(70.0)).sum().item() == pytest.approx(0.039046, abs=5e-7)
    assert (p * bump(20.0)).sum().item() == pytest.approx(0.377192, abs=5e-7)


def test_the_policy_starts_at_the_reference():
    contexts = torch.rand(2, 5, 100, generator=torch.Generator().manual_seed(0))
    policy = ContextPolicy((2,), generator=torch.Generator().manual_seed(1))
    assert policy(contexts).shape == (2, 5, 100)
    kl = fit_to_reference(policy, contexts, reference_logprobs())
    assert kl.shape == (2,) and kl.max() < 0.01


def test_a_copy_of_the_policy_is_a_policy():
    policy = ContextPolicy((2,), generator=torch.Generator().manual_seed(1))
    lone = ContextPolicy()
    lone.load_state_dict({name: x[1] for name, x in policy.state_dict().items()})
    contexts = torch.rand(2, 5, 100, generator=torch.Generator().manual_seed(0))
    np.testing.assert_allclose(policy(contexts)[1].detach(), lone(contexts[1]).detach(), atol=1e-6)


# --- who draws --------------------------------------------------------------------------------------------------------


def test_draws_follow_the_law():
    law = torch.tensor([[0.5, 0.2, 0.3, 0.0]])
    u = torch.rand(1, 1, 40_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = torch.bincount(drawn_by(law.log(), u).flatten(), minlength=4) / 40_000
    assert (found - law[0]).abs().max() < 5.0 * (0.25 / 40_000) ** 0.5 and found[3] == 0.0


def far(on_policy=True, **settings):
    """Which of a group's columns come from a policy that always takes action 7, after the first draw."""
    s = Sampling(on_policy=on_policy, samples=10, reuse=1, **settings)
    policy = Table(torch.where(torch.arange(10) == 7, 50.0, 0.0))
    source = SampledActions(policy, torch.zeros(200, 1), torch.full((10,), 0.1).log(), lambda x, a: a.float(), s)
    first = next(source)
    for _ in range(s.refresh):
        later = next(source)
    return ((first.actions == 7).float().mean(0), (later.actions == 7).float().mean(0))


def test_the_first_epoch_is_the_reference_s_and_then_the_switch_says():
    first, later = far()
    assert first.max() < 0.25 and later.min() == 1.0
    for share in far(on_policy=False):
        assert share.max() < 0.25
    _, mixed = far(mix=0.3)
    assert mixed[:3].max() < 0.25 and mixed[3:].min() == 1.0
    _, delayed = far(refresh=3)
    assert delayed.min() == 1.0  # the fourth batch is the first of the second draw


def test_batches_are_used_again_and_queries_counted_once():
    config = OnPolicyPreferencesConfig("bon", Sampling(samples=4, reuse=3, refresh=2))
    _, source = study(config, contexts=5)
    batches = [next(source) for _ in range(12)]
    for step in range(2, 6):  # three passes over two batches
        assert batches[step].actions.equal(batches[step - 2].actions)
    assert not batches[6].actions.equal(batches[4].actions) and not batches[0].actions.equal(batches[1].actions)
    assert source.queries == 2 * 2 * 5 * 4 and source.metrics() == {"train/reward_queries": 80.0}
    assert [config.sampling.fresh(step) for step in range(8)] == [True, True, False, False, False, False, True, True]


def test_what_is_told_of_the_draw():
    _, source = study(OnPolicyPreferencesConfig("bon"), contexts=3)
    batch = next(source)
    reference = reference_logprobs()
    np.testing.assert_allclose(batch.reference, reference[batch.actions])
    np.testing.assert_allclose(batch.old, reference[batch.actions], atol=1e-5)  # the table starts there
    np.testing.assert_allclose(batch.rewards, bump(70.0)[batch.actions])


def test_arms_draw_with_the_same_random_numbers():
    on, off = (study(OnPolicyPreferencesConfig("bon", Sampling(on_policy=x, reuse=1)))[1] for x in (True, False))
    for _ in range(3):  # the policy of neither learns
        assert next(on).actions.equal(next(off).actions)


def test_a_reference_with_a_hole_is_refused():
    with pytest.raises(DataError, match="probability of 0: floor it"):
        SampledActions(Table(torch.zeros(3)), torch.zeros(2, 1), torch.tensor([0.5, 0.5, 0.0]).log(), lambda x, a: a.float(), Sampling())


def test_a_reward_that_is_no_number_is_refused():
    source = SampledActions(Table(torch.zeros(3)), torch.zeros(2, 1), torch.full((3,), 1 / 3).log(), lambda x, a: a / 0.0, Sampling())
    with pytest.raises(DataError, match="reward of an action is not finite"):
        next(source)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"samples": 0}, "samples is 0"),
        ({"reuse": 0}, "reuse is 0"),
        ({"refresh": 0}, "refresh is 0"),
        ({"mix": 1.5}, "mix is 1.5"),
    ],
)
def test_sampling_outside_its_range(settings, message):
    with pytest.raises(ConfigError, match=message):
        Sampling(**settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"loss": "sft"}, "loss is 'sft'"),
        ({"pushed": "best"}, "pushed is 'best'"),
        ({"weighting": "linear"}, "weighting is 'linear'"),
        ({"baseline": "none"}, "baseline is 'none'"),
        ({"beta": 0.0}, "beta is 0.0"),
        ({"margin": -1.0}, "margin is -1.0"),
        ({"gap": -0.1}, "gap is -0.1"),
        ({"largest": 0.0}, "largest is 0.0"),
        ({"decay": 1.0}, "decay is 1.0"),
        ({"loss": "neg_bon", "push": 1.0}, "push is 1.0"),
        ({"loss": "dpo", "sampling": Sampling(samples=1)}, "samples is 1"),
    ],
)
def test_settings_outside_their_range(settings, message):
    with pytest.raises(ConfigError, match=message):
        OnPolicyPreferencesConfig(**settings)


# --- learning ---------------------------------------------------------------------------------------------------------


def test_policy_gradients_need_what_they_need():
    x = torch.zeros(2, 3)
    with pytest.raises(ValueError, match="needs advantages"):
        group_loss(OnPolicyPreferencesConfig("reinforce"), x, x, x, None, None)
    with pytest.raises(ConfigError, match="old log-probabilities"):
        advantages(OnPolicyPreferencesConfig("ppo", kl_weight=0.1), MovingNormaliser(), x, x, None, fresh=True)


def test_running_moments_take_a_reward_in_once():
    learner, source = study(OnPolicyPreferencesConfig("reinforce", Sampling(samples=4, reuse=3)), contexts=5)
    for _ in range(6):
        learner.update(next(source))
    assert learner.seen.moments.count.item() == 2 * 5 * 4


def test_on_policy_reinforce_descends_the_exact_gradient():
    """With a KL weight the mean over many groups is the gradient of E[r] - beta KL (the card's third oracle, through the learner)."""
    from surefoot.evaluation.mode_seeking import objective_gradient

    p, ref, r, beta = np.array([0.5, 0.2, 0.2, 0.1]), np.full(4, 0.25), np.array([0.2, 0.9, 0.4, 0.1]), 0.3
    config = OnPolicyPreferencesConfig("reinforce", Sampling(samples=4, reuse=1), baseline="moving", decay=0.0, kl_weight=beta)
    policy = Table(torch.tensor(p, dtype=torch.float32).log())
    logref = torch.tensor(ref, dtype=torch.float32).log()
    table = torch.tensor(r, dtype=torch.float32)
    source = SampledActions(policy, torch.zeros(50_000, 1), logref, lambda x, a: table[a], config.sampling, seed=3)
    next(source)  # the first is the reference's
    batch = next(source)
    logp = policy(batch.contexts).log_softmax(-1).gather(-1, batch.actions)
    advantage = advantages(config, MovingNormaliser(decay=0.0), batch.rewards, batch.reference, batch.old, fresh=True)
    loss = group_loss(config, logp, batch.reference, batch.rewards, batch.old, advantage)
    (found,) = torch.autograd.grad(-loss.mean(), [policy.logits])
    assert np.abs(found.numpy() - objective_gradient(p, ref, r, beta)).max() < 5.0 * 0.5 / 200_000**0.5


@pytest.mark.parametrize("loss", LOSSES)
def test_a_step_goes_towards_the_better_actions(loss):
    learner, source = study(OnPolicyPreferencesConfig(loss, Sampling(reuse=2)), copies=(2,), centre=20.0)
    before = Choice(learner.policy.logits.detach()).logprobs.exp() @ bump(20.0)
    for _ in range(10):
        told = learner.update(next(source))
    after = Choice(learner.policy.logits.detach()).logprobs.exp() @ bump(20.0)
    assert (after > before).all() and set(told) == {"loss", "reward", "kl", "kl_from_reference", "entropy", "chosen", "rejected"}
    assert all(x.shape == (2,) and x.isfinite().all() for x in told.values())


def test_copies_learn_as_lone_runs_do():
    """The same actions and rewards: the gradient of a fleet's member is its own."""
    config = OnPolicyPreferencesConfig("ppo", Sampling(reuse=3))
    fleet, source = study(config, copies=(2,))
    lone, _ = study(config)
    for _ in range(6):
        batch = next(source)
        fleet.update(batch)
        lone.update(replace(batch, **{name: getattr(batch, name)[1] for name in vars(batch)}))
    np.testing.assert_allclose(fleet.policy.logits[1].detach(), lone.policy.logits.detach(), atol=1e-5)


@pytest.mark.parametrize("stop", [5, 6, 9])
def test_resumes_bit_for_bit(stop):
    config = OnPolicyPreferencesConfig("ppo", Sampling(samples=4, reuse=3, refresh=2, mix=0.25))
    whole, source = study(config)
    fit(whole, source, 15, progress=False)
    first, source = study(config)
    fit(first, source, stop, progress=False)
    state = {"learner": first.state_dict(), "source": source.state_dict()}
    second, source = study(config, seed=99)
    second.load_state_dict({name: x.clone() for name, x in state["learner"].items()})
    source.load_state_dict({name: x.clone() for name, x in state["source"].items()})
    fit(second, source, 15, progress=False)
    assert second.policy.logits.equal(whole.policy.logits) and second.seen.moments.mean.equal(whole.seen.moments.mean)


def far_bump(on_policy, loss="bon"):
    """Reward after 40 epochs where the bump lies where the reference hardly goes; 4 copies."""
    learner, source = study(OnPolicyPreferencesConfig(loss, Sampling(on_policy=on_policy, reuse=5)), copies=(4,))
    fit(learner, source, 200, progress=False)
    return (Choice(learner.policy.logits.detach()).logprobs.exp() @ bump(70.0)).numpy()


def test_own_samples_find_the_far_bump():
    """The key term is on-policy sampling: with it switched off (`on_policy=False`) the same loss stays below 0.6, and this fails."""
    own, offline = far_bump(True), far_bump(False)
    assert own.min() > 0.9 and offline.max() < 0.6
