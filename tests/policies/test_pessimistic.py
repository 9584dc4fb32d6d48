"""Acting by the most pessimistic plausible model: who acts, what is remembered, and that it is a policy like any other."""

import pytest
import torch
from torch import nn

from surefoot.data.spec import Continuous, Spec
from surefoot.errors import PolicyError
from surefoot.evaluation.rollouts import rollout
from surefoot.policies.families import Gaussian
from surefoot.policies.pessimistic import Dynamics, MostPessimistic
from surefoot.policies.saving import read_policy, save_policy

SPEC = Spec((3,), Continuous((-2.0,), (2.0,)))


class Says(nn.Module):
    """A twin critic whose smaller value is this everywhere."""

    def __init__(self, value):
        super().__init__()
        self.value = value

    def forward(self, s, a):
        return torch.tensor([[self.value], [self.value + 7.0]]).expand(2, len(s))


class Off(nn.Module):
    """A model that predicts the last state plus this in every dimension."""

    def __init__(self, by):
        super().__init__()
        self.by = by

    def forward(self, s, a):
        return s + self.by


def gaussians(n, seed=0):
    g = torch.Generator().manual_seed(seed)
    return [Gaussian(SPEC, (8,), generator=g) for _ in range(n)]


def a_set(values=(5.0, 3.0, 9.0), off=(0.0, 0.0, 0.0), thresholds=(1.0, 1.0, 1.0)):
    n = len(values)
    critics, models = [Says(v) for v in values], [Off(x) for x in off]
    return MostPessimistic(gaussians(n + 1), (8,), critics=critics, models=models, thresholds=thresholds)


def second_step(policy, obs):
    """Who acts at an episode's second step, where the state has not moved."""
    _, memory = policy.act(obs, policy.start(len(obs)))
    return policy.chosen(obs, memory)[1].tolist()


# --- who acts ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("off", "acts"),
    [((0.0, 0.0, 0.0), 2), ((0.0, 1.0, 0.0), 1), ((1.0, 1.0, 0.0), 3), ((1.0, 1.0, 1.0), 0), ((0.3, 1.0, 0.3), 1), ((0.34, 0.34, 0.34), 0)],
)
def test_oracle_6_the_smallest_value_of_the_valid_models_acts(off, acts):
    """Values (5, 3, 9): model 1 of 0, 1, 2 if all are valid, model 0 without it, the default (0 here; models are 1, 2, 3) if none is."""
    obs = torch.randn(4, 3, generator=torch.Generator().manual_seed(1))
    policy = a_set(off=off)
    assert second_step(policy, obs) == [acts] * 4
    action, _ = policy.act(obs, policy.act(obs)[1])
    torch.testing.assert_close(action, policy.inners[acts](obs))


def test_at_the_first_step_all_models_are_valid():
    obs = torch.randn(2, 3)
    policy = a_set(off=(9.0, 9.0, 9.0))
    assert policy.chosen(obs, policy.start(2))[1].tolist() == policy.chosen(obs, None)[1].tolist() == [2, 2]


def test_the_threshold_counts_the_l1_norm_in_units_of_the_observation():
    obs = torch.zeros(1, 3)
    assert second_step(a_set((1.0,), (0.5,), (1.5,)), obs) == [1]  # 3 x 0.5 = 1.5, and equality is valid
    assert second_step(a_set((1.0,), (0.5,), (1.49,)), obs) == [0]


def test_ties_go_to_the_first():
    assert second_step(a_set((3.0, 3.0, 3.0)), torch.zeros(2, 3)) == [1, 1]


def test_rows_are_apart():
    """One episode leaves the models behind, another does not."""
    policy = a_set()
    _, memory = policy.act(torch.zeros(2, 3), policy.start(2))
    assert policy.chosen(torch.tensor([[0.0, 0.0, 0.0], [5.0, 0.0, 0.0]]), memory)[1].tolist() == [2, 0]


def test_a_set_of_the_default_alone_is_the_default():
    (default,) = gaussians(1)
    policy = MostPessimistic([default], (8,))
    obs = torch.randn(5, 3)
    torch.testing.assert_close(policy.act(obs)[0], default(obs))


# --- as a policy ------------------------------------------------------------------------------------------------------


def test_memory_decisions_and_exploration_agree():
    policy = MostPessimistic(gaussians(3), (8,), thresholds=[0.5, 0.5])
    g = torch.Generator().manual_seed(0)
    obs = torch.randn(6, 3, generator=g)
    action, memory = policy.act(obs, policy.start(6))
    assert set(memory) == {"obs", "action", "started"} and memory["started"].all()
    torch.testing.assert_close(memory["action"], action / 2.0)  # unit actions
    torch.testing.assert_close(policy.decide(obs, None), action)
    remembered = policy.remember(obs, policy.start(6))
    for name, value in memory.items():
        torch.testing.assert_close(remembered[name], value)
    later = obs + 0.01
    torch.testing.assert_close(policy.decide(later, memory), policy.act(later, memory)[0])
    noisy, kept = policy.act(later, memory, generator=g, greedy=False)
    assert not torch.allclose(noisy, policy.decide(later, memory))
    torch.testing.assert_close(kept["action"], noisy / 2.0)


def test_it_gives_a_gradient_for_attacks():
    obs = torch.randn(4, 3, generator=torch.Generator().manual_seed(0)).requires_grad_()
    MostPessimistic(gaussians(3), (8,))(obs).sum().backward()
    assert (obs.grad != 0).any(-1).all()


def test_it_is_saved_and_read_and_plays_the_same(tmp_path):
    policy = MostPessimistic(gaussians(3), (8, 4), thresholds=[0.25, 0.5])
    save_policy(policy, tmp_path / "policy")
    back = read_policy(tmp_path / "policy")
    assert isinstance(back, MostPessimistic) and back.thresholds.tolist() == [0.25, 0.5] and back.hidden == (8, 4)
    ours, theirs = (rollout(p, "Pendulum-v1", 3, seed=0, max_steps=30).returns for p in (policy, back))
    assert ours.tolist() == theirs.tolist()
    assert back.member(0) is back


def test_dynamics_predict_the_change_and_measure_l1():
    model = Dynamics(SPEC, (4,), (2,))
    for p in model.parameters():
        p.data.zero_()
    s, a = torch.randn(2, 5, 3), torch.zeros(2, 5, 1)
    torch.testing.assert_close(model(s, a), s)
    torch.testing.assert_close(model.error(s, a, s + torch.tensor([1.0, -2.0, 0.5])), torch.full((2, 5), 3.5))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: MostPessimistic([Gaussian(SPEC, (4,), (2,))], (4,)), "made of lone policies without memory"),
        (lambda: MostPessimistic([*gaussians(1), Gaussian(Spec((2,), SPEC.action), (4,))], (4,)), "must agree"),
        (
            lambda: MostPessimistic(gaussians(3), (4,), thresholds=[1.0]),
            "a default policy and 2 others has 2 values, 2 models and 1 thresholds",
        ),
        (lambda: a_set().member(1), "there is no member 1"),
    ],
)
def test_misuse_is_one_sentence(make, words):
    with pytest.raises(PolicyError, match=words):
        make()
