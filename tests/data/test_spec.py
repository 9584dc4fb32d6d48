"""Spaces and scales: conversion from Gymnasium, actions to [-1, 1] and back, specs of a fleet."""

import gymnasium as gym
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from surefoot.data.spec import Continuous, Discrete, Spec, action_space, box_action, stack_specs, unit_action
from surefoot.errors import EnvError


def test_spaces_of_environments():
    assert Spec.from_env(gym.make("Pendulum-v1")) == Spec((3,), Continuous((-2.0,), (2.0,)))
    cart = Spec.from_env(gym.make("CartPole-v1"))
    assert (cart.obs_dim, cart.action, cart.action_dim, cart.n_actions) == (4, Discrete(2), 1, 2)
    stacked = Spec((4, 3), Continuous((-1.0, 0.0), (1.0, 2.0)))
    assert (stacked.obs_dim, stacked.action_dim, stacked.box.dim, stacked.box.is_unit) == (12, 2, 2, False)


@pytest.mark.parametrize(
    ("space", "words"),
    [
        (gym.spaces.MultiDiscrete([2, 3]), "neither Discrete nor a flat Box"),
        (gym.spaces.Discrete(3, start=1), "starts at 1"),
        (gym.spaces.Box(-np.inf, np.inf, (2,)), "infinite bounds"),
        (gym.spaces.Box(-1.0, 1.0, (2, 2)), "neither Discrete nor a flat Box"),
    ],
)
def test_actions_that_nothing_here_can_take(space, words):
    with pytest.raises(EnvError, match=words):
        action_space(space)


def test_observations_must_be_a_box():
    with pytest.raises(EnvError, match="FlattenObservation"):
        Spec.from_spaces(gym.spaces.Dict(x=gym.spaces.Discrete(2)), gym.spaces.Discrete(2))


def test_the_wrong_kind_of_action_is_said():
    with pytest.raises(EnvError, match="needs discrete actions"):
        _ = Spec((1,), Continuous((-1.0,), (1.0,))).n_actions
    with pytest.raises(EnvError, match="needs continuous actions"):
        _ = Spec((1,), Discrete(2)).box


@settings(deadline=None)
@given(st.lists(st.tuples(st.floats(-50, 50), st.floats(0.1, 50), st.floats(0, 1)), min_size=1, max_size=4))
def test_unit_and_box_actions_are_inverse(dimensions):
    low, width, share = (torch.tensor(x, dtype=torch.float64) for x in zip(*dimensions, strict=True))
    box = Continuous(tuple(low.tolist()), tuple((low + width).tolist()))
    action = low + share * width
    unit = unit_action(action, box)
    assert (unit.abs() <= 1.0 + 1e-9).all()
    torch.testing.assert_close(unit, 2.0 * share - 1.0, rtol=0, atol=1e-6)
    torch.testing.assert_close(box_action(unit, box), action)


def test_the_unit_box_is_not_scaled():
    box, action = Continuous((-1.0, -1.0), (1.0, 1.0)), torch.randn(5, 2)
    assert unit_action(action, box) is action
    assert box_action(action, box) is action


def test_specs_of_a_fleet():
    scaled = [Spec((2,), Discrete(2), torch.full((2,), i), torch.ones(2)) for i in range(3)]
    stacked = stack_specs(scaled)
    assert stacked.obs_mean is not None
    assert stacked.obs_mean.tolist() == [[0, 0], [1, 1], [2, 2]]
    assert stacked.without_scaling().obs_mean is None
    plain = Spec((2,), Discrete(2))
    assert stack_specs([plain, plain]) is plain
    with pytest.raises(EnvError, match="differ"):
        stack_specs([plain, Spec((3,), Discrete(2))])
