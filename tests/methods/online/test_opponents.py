"""Opponents of an attacker: whole episodes under attack are counted right, the best policy (or EXP3's) plays, and state is all there is."""

import numpy as np
import pytest
import torch

from surefoot.data.spec import Discrete, Spec
from surefoot.evaluation.rollouts import rollout
from surefoot.methods.online.adversary import Adversary, adversary_ppo
from surefoot.methods.online.opponents import Matches, Opponents, mean_returns
from surefoot.policies.families import Categorical

torch.set_num_threads(1)

CARTPOLE = Spec((4,), Discrete(2))


def leaning(sign: float, copies: tuple[int, ...] = ()) -> Categorical:
    """Pushes the way the pole leans, or (sign -1) the other way, which ends soon; of a fleet the second member does the opposite."""
    policy = Categorical(CARTPOLE, (), copies)
    with torch.no_grad():
        for tensor in policy.net.parameters():
            tensor.zero_()
        signs = torch.tensor([sign, -sign]).view(2, 1) if copies else torch.tensor(sign)
        policy.net.weights[0][..., 2:, 1] = signs
    return policy.requires_grad_(False)


def attacker(eps: float, copies: tuple[int, ...] = (), kind="sa_rl") -> Adversary:
    victim = leaning(1.0, copies)
    return Adversary.on(victim, adversary_ppo(victim, kind, seed=3).policy.requires_grad_(False), kind, eps)


def opponents(policies, adversary, rule="argmax", seed=0, **matches) -> Opponents:
    rounds = {"every": 2, "episodes": 3, "rounds": 20, "n_steps": 8, "n_envs": 4} | matches
    return Opponents(policies, adversary, "CartPole-v1", Matches(rule, **rounds), seed=seed, max_steps=60)


def test_mean_returns_are_those_of_whole_episodes():
    """Without a budget: CartPole's return is the length, so the means are those of rollouts within their error."""
    for sign in (1.0, -1.0):
        means = mean_returns(leaning(sign), attacker(0.0), "CartPole-v1", 60, seed=0, max_steps=120)
        played = rollout(leaning(sign), "CartPole-v1", 60, seed=1, max_steps=120).returns
        assert abs(float(means) - played.mean()) < 4.0 * np.sqrt(2.0 * played.var() / 60) + 1e-6
    both = mean_returns(leaning(1.0, (2,)), attacker(0.0, (2,)), "CartPole-v1", 20, seed=0, max_steps=120)
    assert both[0] > 90.0 and both[1] < 15.0


def test_an_attack_is_felt():
    """Shown a state turned round (SA-RL, beyond any state) the good policy fails."""
    adversary = attacker(50.0)
    clean, attacked = (mean_returns(leaning(1.0), a, "CartPole-v1", 50, seed=0, max_steps=120) for a in (attacker(0.0), adversary))
    assert attacked < 0.5 * clean


def test_the_best_policy_against_the_attacker_plays():
    found = opponents([leaning(-1.0, (2,)), leaning(1.0, (2,))], attacker(0.0, (2,)))
    plays = next(found)
    assert plays.obs.shape == (2, 8, 4, 4) and (plays.reward == -1.0).all()  # the attacker's
    assert found.judged().argmax(-1).tolist() == [1, 0]  # the second member of each policy is the other way round
    assert torch.equal(found.set.probabilities, torch.tensor([[0.0, 1.0], [1.0, 0.0]], dtype=torch.float64))
    assert found.source.memory["chosen"].tolist() == [[1] * 4, [0] * 4]


def test_it_is_looked_for_now_and_then():
    found, judged = opponents([leaning(-1.0), leaning(1.0)], attacker(0.0), every=3), []
    judge = found._judge
    found._judge = lambda policy: judged.append(found.played) or judge(policy)
    for _ in range(7):
        next(found)
    assert judged == [0, 0, 3, 3, 6, 6]  # all policies each time
    alone = opponents([leaning(1.0)], attacker(0.0))
    alone._judge = lambda policy: pytest.fail("there is nothing to choose")
    next(alone), next(alone), next(alone)


def test_exp3_judges_the_one_that_it_drew_and_comes_to_the_best():
    found, judged = opponents([leaning(-1.0), leaning(1.0), leaning(-1.0)], attacker(0.0), "exp3", every=1, rounds=20, episodes=2), []
    judge = found._judge
    found._judge = lambda policy: judged.append(found.played) or judge(policy)
    for _ in range(20):
        next(found)
    assert judged == list(range(20))
    assert found.bandit.probabilities()[1] > 0.7
    assert found.high > 40.0 and found.low == 0.0


@pytest.mark.parametrize("rule", ["argmax", "exp3"])
def test_a_resumed_source_goes_on_bit_for_bit(rule):
    policies, adversary = [leaning(-1.0), leaning(1.0)], attacker(0.1)
    whole, first, second = (opponents(policies, adversary, rule, seed=4) for _ in range(3))
    expected = [next(whole) for _ in range(6)][3:]
    for _ in range(3):
        next(first)
    second.load_state_dict(first.state_dict())
    for batch in expected:
        again = next(second)
        assert all(torch.equal(getattr(batch, name), getattr(again, name)) for name in ("obs", "action", "reward", "ended"))
