"""Attacks that come and go: the two schedules, in the order of the episodes, and an account that is the attack's own."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from surefoot.data.spec import Discrete, Spec
from surefoot.errors import ConfigError
from surefoot.evaluation.attack_curve import attack_curve
from surefoot.evaluation.attacks import FGSM, RandomAttack
from surefoot.evaluation.rollouts import rollout
from surefoot.evaluation.switching import Switching
from surefoot.policies.external import ModulePolicy
from surefoot.policies.families import Categorical

torch.set_num_threads(1)


def policy(copies: tuple[int, ...] = ()) -> Categorical:
    return Categorical(Spec((4,), Discrete(2)), (8,), copies, generator=torch.Generator().manual_seed(0))


def test_periodic_is_on_and_off_in_turn():
    schedule = Switching(RandomAttack(0.1, norm="l2"), 3).attacked(10)
    assert schedule.tolist() == [True] * 3 + [False] * 3 + [True] * 3 + [False]


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 5), st.floats(0.0, 1.0), st.integers(0, 100), st.lists(st.integers(1, 7), min_size=1, max_size=5))
def test_a_schedule_does_not_depend_on_how_the_episodes_are_grouped(every, probability, seed, waves):
    whole, apart = (Switching(RandomAttack(0.1, norm="l2"), every, probability=probability, seed=seed) for _ in range(2))
    parts = []
    for n in waves:
        apart.start(n, policy())
        parts.append(apart.on.numpy())
    schedule = whole.attacked(sum(waves))
    assert (np.concatenate(parts) == schedule).all()
    assert schedule[:every].all()


def test_random_toggles_with_its_probability_and_0_and_1_are_its_ends():
    switching = Switching(RandomAttack(0.1, norm="l2"), 2, probability=0.1, seed=0)
    blocks = switching.attacked(20_000)[::2]
    assert np.mean(blocks[1:] != blocks[:-1]) == pytest.approx(0.1, abs=4 * np.sqrt(0.09 / 10_000))
    assert Switching(RandomAttack(0.1, norm="l2"), 2, probability=0.0).attacked(100).all()
    always = Switching(RandomAttack(0.1, norm="l2"), 2, probability=1.0)
    assert (always.attacked(9) == Switching(RandomAttack(0.1, norm="l2"), 2).attacked(9)).all()


def test_episodes_that_are_off_are_played_as_without_attack():
    """Wave after wave: attacked episodes spend, the others are those of the plain rollout bit for bit."""
    play = {"env_id": "CartPole-v1", "episodes": 10, "seed": 2, "max_steps": 20, "n_envs": 4}
    fleet = policy((2,))
    plain, always = rollout(fleet, **play).returns, rollout(fleet, **play, perturb=FGSM(2.0, norm="l2")).returns
    attack = Switching(FGSM(2.0, norm="l2"), 3)
    found = rollout(fleet, **play, perturb=attack).returns
    on = attack.attacked(10)
    assert (found[:, ~on] == plain[:, ~on]).all()
    assert (found[:, on] == always[:, on]).all()
    assert (found[:, on] != plain[:, on]).any()
    assert (attack.spent[:, ~on] == 0.0).all() and (attack.spent[:, on] > 0.0).all()
    assert attack.spent.shape == (2, 10)


def test_a_total_budget_is_whole_in_every_attacked_episode():
    attack = Switching(FGSM(0.5, horizon=1), 1)
    rollout(policy(), "CartPole-v1", 6, seed=0, max_steps=20, perturb=attack)
    assert (attack.spent[1::2] == 0.0).all()
    np.testing.assert_allclose(attack.spent[::2], 0.5, rtol=1e-5)


def test_an_attack_that_fails_has_failed_when_it_comes_and_goes_too():
    class Flat(torch.nn.Module):
        def forward(self, x):
            return torch.zeros(len(x), 2) + 0.0 * x.sum(-1, keepdim=True)

    flat = ModulePolicy(Flat(), Spec((4,), Discrete(2)), "flat")
    curve = attack_curve(flat, "CartPole-v1", [0.5], {"fgsm": lambda b: Switching(FGSM(b, norm="l2"), 2)}, episodes=4, max_steps=5)
    assert curve.failed.all() and curve.tried.all() and curve.vanished == 1.0


@pytest.mark.parametrize(
    ("options", "words"),
    [({"every": 0}, "blocks of 0"), ({"probability": 1.5}, "switching is 1.5"), ({"probability": float("nan")}, "switching is nan")],
)
def test_misuse_is_one_sentence(options, words):
    with pytest.raises(ConfigError, match=words):
        Switching(RandomAttack(0.1, norm="l2"), **options)
