"""Families: shapes, boxes, members of a fleet, and a round trip through a folder."""

import pytest
import torch

from surefoot.data.spec import Continuous, Discrete, Spec
from surefoot.errors import PolicyError
from surefoot.policies.families import FAMILIES, NormalPolicy
from surefoot.policies.saving import read_policy, save_policy

CONTINUOUS = sorted(set(FAMILIES) - {"categorical"})


def spec_of(family, **scaling):
    space = Discrete(4) if family == "categorical" else Continuous((-1.0, 0.0), (1.0, 8.0))
    return Spec((3,), space, **scaling)


def scrambled(policy):
    """Every parameter away from its start, so that nothing agrees by chance."""
    with torch.no_grad():
        for p in policy.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return policy


@pytest.mark.parametrize("copies", [(), (2,)])
@pytest.mark.parametrize("family", FAMILIES)
def test_round_trip_through_a_folder(family, copies, tmp_path):
    policy = scrambled(FAMILIES[family](spec_of(family), (8, 8), copies))
    save_policy(policy, tmp_path / "policy")
    again = read_policy(tmp_path / "policy")
    assert type(again) is type(policy)
    obs = torch.randn(*copies, 5, 3)
    for greedy in (True, False):
        draws = [p.act(obs, greedy=greedy, generator=torch.Generator().manual_seed(0))[0] for p in (policy, again)]
        assert torch.equal(*draws)


@pytest.mark.parametrize("own_scaling", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_members_act_as_in_the_fleet(family, own_scaling):
    shape = (2, 3) if own_scaling else (3,)
    scaling = {"obs_mean": torch.randn(shape), "obs_std": torch.rand(shape) + 0.5}
    policy = scrambled(FAMILIES[family](spec_of(family, **scaling), (8, 8), (2,)))
    obs = torch.randn(2, 5, 3)
    for index in range(2):
        lone = policy.member(index)
        assert lone.copies == ()
        torch.testing.assert_close(lone(obs[index]), policy(obs)[index])
        for name, p in lone.named_parameters():  # all of them, not the network's alone
            assert torch.equal(p, dict(policy.named_parameters())[name][index])
            assert p.data_ptr() != dict(policy.named_parameters())[name][index].data_ptr()
    with pytest.raises(PolicyError, match="no member 2"):
        policy.member(2)


@pytest.mark.parametrize("family", CONTINUOUS)
def test_actions_stay_in_the_box(family):
    policy = FAMILIES[family](spec_of(family), (8,))
    obs = 100.0 * torch.randn(500, 3)
    for greedy in (True, False):
        action, _ = policy.act(obs, greedy=greedy)
        assert action.shape == (500, 2)
        assert (action >= torch.tensor([-1.0, 0.0])).all() and (action <= torch.tensor([1.0, 8.0])).all()


def test_normal_policy_has_one_standard_deviation_a_dimension():
    policy = NormalPolicy(Spec((3,), Continuous((-1.0, -1.0), (1.0, 1.0))), (8,))
    with torch.no_grad():
        policy.log_std.copy_(torch.tensor([-2.0, -9.0]))  # the second is below its bound of -5
    obs = torch.zeros(4000, 3)
    draws = policy.act(obs, greedy=False, generator=torch.Generator().manual_seed(0))[0] - policy(obs)
    assert draws.std(0).tolist() == pytest.approx([0.1353, 0.00674], rel=0.1)
    assert torch.equal(policy.act(obs)[0], policy(obs))
