"""Episodes that a set plays while it learns: what is reported is what was earned, and it comes to trust the better policy."""

import numpy as np
import pytest
import torch

from surefoot.data.spec import Discrete, Spec
from surefoot.errors import PolicyError
from surefoot.evaluation.adapting import Adapted, adapt
from surefoot.evaluation.attacks import FGSM
from surefoot.evaluation.rollouts import rollout
from surefoot.evaluation.switching import Switching
from surefoot.policies.families import Categorical
from surefoot.steering.adaptive import Adaptive

torch.set_num_threads(1)

CARTPOLE = Spec((4,), Discrete(2))


def leaning(sign: float, copies: tuple[int, ...] = ()) -> Categorical:
    """Pushes the way the pole leans, or (sign -1) the other way, which ends soon."""
    policy = Categorical(CARTPOLE, (), copies)
    with torch.no_grad():
        for tensor in policy.net.parameters():
            tensor.zero_()
        policy.net.weights[0][..., 2:, 1] = sign
    return policy.requires_grad_(False)


def pair(copies: tuple[int, ...] = (), **options) -> Adaptive:
    return Adaptive([leaning(-1.0, copies), leaning(1.0, copies)], low=0.0, high=200.0, **options)


def test_it_comes_to_trust_the_better_policy():
    chosen, told = pair((2,), rounds=60, c=3.0), []
    found = adapt(chosen, "CartPole-v1", 60, seed=0, side_by_side=5, max_steps=120, progress=lambda *row: told.append(row))
    assert found.returns.shape == found.chosen.shape == (2, 60) and found.probabilities.shape == (2, 60, 2)
    assert (found.returns[found.chosen == 1].min() > 80) and (found.returns[found.chosen == 0].max() < 20)
    assert (found.probabilities[:, 0] == 0.5).all() and (found.probabilities[:, -1, 1] > 0.8).all()
    assert (found.mean(0.25) > found.mean()).all()
    np.testing.assert_array_equal(found.mean(0.25), found.returns[:, 45:].mean(-1))
    assert (chosen.probabilities[:, 1] > 0.8).all()  # it goes on from here
    assert [done for done, _ in told] == list(range(5, 61, 5))
    assert told[-1][1] == found.returns[:, -5:].mean()


def test_side_by_side_are_drawn_from_the_same_weights_and_learned_from_together():
    found = adapt(pair(rounds=20), "CartPole-v1", 20, seed=1, side_by_side=4, max_steps=100)
    waves = found.probabilities.reshape(5, 4, 2)
    assert (waves == waves[:, :1]).all() and len(np.unique(waves[:, 0, 0])) > 3
    lone = adapt(pair(rounds=20), "CartPole-v1", 7, seed=1, max_steps=100)
    assert len(np.unique(lone.probabilities[:, 0])) == 7
    assert lone.mean(0.01) == lone.returns[-1]


def test_a_set_of_one_earns_what_its_policy_does():
    alone = Adaptive([leaning(1.0)], low=0.0, high=200.0)
    found = adapt(alone, "CartPole-v1", 6, seed=3, side_by_side=6, max_steps=200)
    np.testing.assert_array_equal(found.returns, rollout(leaning(1.0), "CartPole-v1", 6, seed=3, max_steps=200).returns)
    assert isinstance(found, Adapted) and (found.probabilities == 1.0).all()


def test_an_attack_that_comes_and_goes():
    """Blocks of 4 episodes, attacked first: the attack turns every decision round, so the better policy is another one by turns."""
    attack = Switching(FGSM(10.0, norm="linf"), every=4)
    found = adapt(Adaptive([leaning(1.0)], low=0.0, high=200.0), "CartPole-v1", 16, seed=0, side_by_side=2, perturb=attack, max_steps=200)
    blocks = found.returns.reshape(4, 4)
    assert (blocks[::2].max() < 20) and (blocks[1::2].min() > 100)


def test_another_policy_has_nothing_to_choose_from():
    with pytest.raises(PolicyError, match="a Categorical policy has nothing to choose from"):
        adapt(leaning(1.0), "CartPole-v1", 3, seed=0)
