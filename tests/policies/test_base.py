"""The protocol's defaults: no memory, a decision that is `forward`, and observations of the wrong shape."""

import pytest
import torch

from surefoot.data.spec import Discrete, Spec
from surefoot.errors import PolicyError
from surefoot.policies.base import Policy, check_member
from surefoot.policies.families import Categorical


def test_defaults_are_those_of_a_policy_without_memory():
    policy = Categorical(Spec((4,), Discrete(2)), (8,))
    obs = torch.randn(3, 4)
    assert policy.start(3) is None
    assert policy.remember(obs, None) is None
    assert torch.equal(policy.decide(obs), policy(obs))
    assert policy.differentiable


def test_an_empty_policy_implements_nothing():
    policy = Policy()
    for call in (lambda: policy.act(torch.zeros(1, 4)), lambda: policy.member(0), policy.config):
        with pytest.raises(NotImplementedError):
            call()


def test_flat_flattens_features_alone():
    policy = Categorical(Spec((3, 2), Discrete(2)), (8,))
    obs = torch.arange(30, dtype=torch.float64).reshape(5, 3, 2)
    assert policy.flat(obs).shape == (5, 6)
    assert policy.flat(obs).dtype == torch.float32
    assert torch.equal(policy.flat(obs)[1], torch.arange(6.0, 12.0))
    assert policy.flat(obs.expand(2, 7, 5, 3, 2)).shape == (2, 7, 5, 6)
    for shape in ((5, 6), (5, 2, 3), (3,)):
        with pytest.raises(PolicyError, match=r"shape \(3, 2\)"):
            policy.flat(torch.zeros(shape))


def test_members_are_numbered_from_zero():
    check_member(0, ())
    check_member(2, (3,))
    for index, copies in ((1, ()), (3, (3,)), (-1, (3,))):
        with pytest.raises(PolicyError, match=f"no member {index}"):
            check_member(index, copies)
