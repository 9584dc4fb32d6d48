"""Certified choices of action along a policy's own episodes: fleets, frame stacks, policies that only name their action, misuse.

How often they hold is in `test_coverage.py`.
"""

import json

import gymnasium as gym
import numpy as np
import pytest
import torch

from surefoot.data.spec import Continuous, Discrete, Spec
from surefoot.errors import ConfigError, DataError, EnvError, PolicyError
from surefoot.evaluation import certified_actions
from surefoot.evaluation.certified_actions import SHARES, certify_actions
from surefoot.evaluation.lvm_rs import ABSTAIN, VOTES, certify_inputs, simplex_maps
from surefoot.evaluation.visited import visited
from surefoot.policies.external import FunctionPolicy
from surefoot.policies.families import Categorical, Deterministic
from surefoot.policies.frame_stack import FrameStack
from surefoot.policies.sb3 import StableBaselines3Policy
from surefoot.steering.smoothed import Smoothed

torch.set_num_threads(1)

SPEC = Spec((4,), Discrete(2))
QUICK = {"states": 12, "episodes": 3, "n0": 50, "n": 300, "max_steps": 30, "maps": simplex_maps((1.0,))}


def lean(copies=(), frames=1):
    """Pushes the way the pole leans in the newest frame: the angle and its velocity have weight 1 in each copy, times its number."""
    inner = Categorical(Spec((4 * frames,), Discrete(2)), (), copies)
    with torch.no_grad():
        w = torch.zeros(4 * frames, 2)
        w[-2:] = torch.tensor([[-1.0, 1.0]])
        factor = torch.arange(1.0, copies[0] + 1)[:, None, None] if copies else 1.0
        inner.net.weights[0].copy_(factor * w)
        inner.net.biases[0].zero_()
    return FrameStack(inner, frames) if frames > 1 else inner


def test_no_radius_is_larger_than_the_distance_to_the_other_action():
    found = certify_actions(Smoothed(lean(), 0.1), "CartPole-v1", **QUICK | {"states": 60, "n": 2_000, "alpha": 1e-6}, seed=1)
    (member,) = found.members
    score = member.states.obs[:, 2:].sum(-1).numpy()
    radius, label = np.array([each.radius for each in member.certified]), np.array([each.label for each in member.certified])
    sure = label != ABSTAIN
    assert (radius <= np.abs(score) / np.sqrt(2)).all()
    assert (label[sure] == (score > 0)[sure]).all() and (member.action == (score > 0)).all()
    assert 0.3 < sure.mean() < 1.0 and member.abstained == (~sure).mean() and member.same == sure.mean()
    clear = np.abs(score) > 0.15
    assert (radius[clear] > 0.4 * np.minimum(np.abs(score[clear]) / np.sqrt(2), 0.1)).all()  # and not by being vacuous


def test_a_frame_stack_is_certified_in_its_newest_frame():
    """Older frames carry no weight here, so that the stack decides as its newest frame alone."""
    plain = certify_actions(Smoothed(lean(), 0.1), "CartPole-v1", **QUICK, seed=1).members[0]
    stack = certify_actions(Smoothed(lean(frames=3), 0.1), "CartPole-v1", **QUICK, seed=1).members[0]
    assert torch.equal(plain.states.obs, stack.states.obs) and plain.states.memory is None and stack.states.memory is not None
    for one, other in zip(plain.certified, stack.certified, strict=True):
        assert (one.label, one.chosen) == (other.label, other.chosen) and one.radius == pytest.approx(other.radius, abs=1e-5)


def test_a_fleet_is_certified_member_by_member():
    fleet = certify_actions(Smoothed(lean((2,)), 0.1), "CartPole-v1", **QUICK, seed=4)
    assert [len(each.certified) for each in fleet.members] == [12, 12]
    for f, seen in enumerate(visited(lean((2,)), "CartPole-v1", 12, episodes=3, seed=4, max_steps=30)):
        assert torch.equal(fleet.members[f].states.obs, seen.obs)
    states = fleet.members[1].states.obs
    alone = certify_inputs(lean((2,)).member(1), states, 0.1, n0=50, n=300, alpha=0.05, generator=torch.Generator().manual_seed(0))
    apart = np.array([a.radius - b.radius for a, b in zip(fleet.members[1].certified, alone, strict=True)])
    assert np.abs(apart).mean() < 0.05


def test_votes_alone_and_policies_that_only_name_their_action():
    function = FunctionPolicy(lambda obs: (obs[:, 2] + obs[:, 3] > 0).astype(int), SPEC, "function")
    for policy in (lean(), function):
        found = certify_actions(Smoothed(policy, 0.1), "CartPole-v1", **QUICK | {"maps": VOTES}, seed=2)
        assert found.to_json()["maps"] == 1 and {each.chosen.kind for each in found.members[0].certified} == {"argmax"}
        assert found.members[0].same > 0.3
    both = [certify_actions(Smoothed(p, 0.1), "CartPole-v1", **QUICK | {"maps": VOTES}, seed=2).members[0] for p in (lean(), function)]
    assert both[0].certified == both[1].certified  # the same draws, the same votes


@pytest.mark.parametrize("algorithm", ["DQN", "PPO"])
def test_stable_baselines3_policies(algorithm):
    sb3 = pytest.importorskip("stable_baselines3")
    policy = StableBaselines3Policy(getattr(sb3, algorithm)("MlpPolicy", "CartPole-v1", seed=0, device="cpu"), "sb3:x")
    found = certify_actions(Smoothed(policy, 0.2), "CartPole-v1", **QUICK, seed=1).members[0]
    assert len(found.certified) == 12 and found.states.memory is None
    with torch.no_grad():
        assert found.action.tolist() == policy.act(found.states.obs)[0].tolist()
    assert all(each.label in (ABSTAIN, 0, 1) for each in found.certified) and found.abstained < 1.0


def test_the_same_seed_says_the_same_and_its_json_is_what_the_report_reads():
    one, other = (certify_actions(Smoothed(lean(), 0.1), "CartPole-v1", **QUICK, seed=3).to_json() for _ in range(2))
    assert one == other == json.loads(json.dumps(one, allow_nan=False))
    assert (one["kind"], one["env"], one["states"], one["samples"], one["max_steps"]) == ("certified-actions", "CartPole-v1", 12, 300, 30)
    (member,) = one["members"]
    assert member["radii"] == [0.1 * share for share in SHARES] and len(member["certified"]) == len(SHARES)
    assert member["certified"][0] == pytest.approx(1.0 - member["abstained"])
    assert (np.diff(member["certified"]) <= 0.0).all() and len(member["at"]) == 12
    assert member["average_radius"] == pytest.approx(np.mean([each["radius"] for each in member["at"]]))


def test_progress_counts_states_of_all_members():
    done = []
    certify_actions(Smoothed(lean((2,)), 0.1), "CartPole-v1", **QUICK, progress=done.append)
    assert done[-1] == 24 and done == sorted(done)


class Numbered(gym.Env):
    """Shows the number of its state."""

    observation_space, action_space = gym.spaces.Discrete(5), gym.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        return 0, {}


gym.register("test/Numbered-v0", entry_point=Numbered, max_episode_steps=5)


@pytest.mark.parametrize(
    ("policy", "change", "error", "words"),
    [
        (lean(), {}, PolicyError, r"wrap it with noise, Smoothed\(policy, sigma\)"),
        (Smoothed(lean(), 0.0), {}, ConfigError, "sigma is 0"),
        (Smoothed(Deterministic(Spec((4,), Continuous((-1.0,), (1.0,))), ()), 0.1), {}, PolicyError, "has continuous actions"),
        (Smoothed(Categorical(Spec((4,), Discrete(1)), ()), 0.1), {}, PolicyError, "has 1 action: there is no choice"),
        (Smoothed(lean(), 0.1), {"n": 5}, ConfigError, "take 6 or more"),
        (Smoothed(lean(), 0.1), {"n0": 0}, ConfigError, "n0 is 0"),
        (Smoothed(lean(), 0.1), {"alpha": 0.0}, ConfigError, "alpha is 0"),
        (Smoothed(lean(), 0.1), {"states": 0}, ConfigError, "states is 0"),
        (Smoothed(lean(), 0.1), {"maps": []}, ConfigError, "0 maps"),
    ],
)
def test_misuse_is_said_before_anything_is_played(policy, change, error, words, monkeypatch):
    if "states" not in change:
        monkeypatch.setattr(certified_actions, "visited", None)
    with pytest.raises(error, match=words):
        certify_actions(policy, "CartPole-v1", **(QUICK | change))


def test_what_is_no_observation_of_real_numbers():
    with pytest.raises(EnvError, match="is not a Box"):
        certify_actions(Smoothed(Categorical(Spec((1,), Discrete(2)), ()), 0.1), "test/Numbered-v0", **QUICK)


def test_scores_that_are_not_finite():
    broken = lean()
    torch.nn.init.constant_(broken.net.biases[0], float("nan"))
    with pytest.raises(DataError, match="NaN or infinite"):
        certify_actions(Smoothed(broken, 0.1), "CartPole-v1", **QUICK)
