"""Frame stacks: what Gymnasium's FrameStackObservation shows, in batches, and a memory that can be followed from outside."""

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.wrappers import FlattenObservation, FrameStackObservation

from surefoot.data.spec import Continuous, Discrete, Spec
from surefoot.errors import PolicyError
from surefoot.evaluation.rollouts import rollout
from surefoot.policies.base import Policy
from surefoot.policies.families import Categorical, Deterministic
from surefoot.policies.frame_stack import FrameStack
from surefoot.steering.smoothed import Smoothed


class Seeing(Policy):
    """Keeps what it is shown; its actions depend on all of it."""

    def __init__(self, spec):
        super().__init__()
        self.spec, self.seen = spec, []

    def act(self, obs, memory=None, *, generator=None, greedy=True):
        self.seen.append(obs.clone())
        if isinstance(self.spec.action, Discrete):
            return (obs.sum(-1) > 0).long(), memory
        return 2.0 * torch.sin(obs.sum(-1, keepdim=True)), memory


@pytest.mark.parametrize(("env_id", "k"), [("CartPole-v1", 5), ("CartPole-v1", 1), ("Pendulum-v1", 3)])
def test_the_inner_policy_sees_what_gymnasium_stacks(env_id, k):
    """Several episodes one after the other, so that the start of an episode is tested after another one too."""
    env = FlattenObservation(FrameStackObservation(gym.make(env_id, max_episode_steps=30), k))
    bare = gym.make(env_id, max_episode_steps=30)
    inner = Seeing(Spec.from_env(env))
    policy = FrameStack(inner, k)
    for episode in range(3):
        theirs, _ = env.reset(seed=episode)
        frame, _ = bare.reset(seed=episode)
        memory, ended = policy.start(1), False
        while not ended:
            action, memory = policy.act(torch.as_tensor(frame)[None], memory)
            assert np.array_equal(inner.seen[-1][0].numpy(), theirs)
            a = action[0].numpy()
            theirs, _, terminated, truncated, _ = env.step(a)
            frame, *_ = bare.step(a)
            ended = terminated or truncated


def test_slots_are_apart_and_members_too():
    fleet = FrameStack(Categorical(Spec((6,), Discrete(3)), (8,), (2,)), 3)
    obs = torch.randn(4, 2, 5, 2)  # [T, F, n, S]
    memory = fleet.start(5)
    lone = [[fleet.member(f).start(1) for _ in range(5)] for f in range(2)]
    for t in range(4):
        decided = fleet.decide(obs[t], memory)
        _, memory = fleet.act(obs[t], memory)
        for f in range(2):
            member = fleet.member(f)
            for i in range(5):
                torch.testing.assert_close(decided[f, i], member.decide(obs[t, f, i : i + 1], lone[f][i])[0])
                _, lone[f][i] = member.act(obs[t, f, i : i + 1], lone[f][i])


def test_remember_is_what_act_remembers_and_decide_is_what_act_decides():
    policy = FrameStack(Categorical(Spec((6,), Discrete(3)), (8,)), 3)
    memory = policy.start(4)
    for _ in range(4):
        obs = torch.randn(4, 2)
        action, after = policy.act(obs, memory)
        assert torch.equal(policy.remember(obs, memory)["frames"], after["frames"])
        assert torch.equal(policy.decide(obs, memory).argmax(-1), action)
        memory = after


def test_without_memory_an_episode_begins():
    policy = FrameStack(Deterministic(Spec((6,), Continuous((-1.0,), (1.0,))), (8,)), 3)
    obs = torch.randn(4, 2)
    assert torch.equal(policy.act(obs)[0], policy.inner(obs.repeat(1, 3)))


def test_observations_of_several_axes_are_stacked_flat():
    policy = FrameStack(Deterministic(Spec((12,), Continuous((-1.0,), (1.0,))), (8,)), 2, (3, 2))
    frames = [torch.randn(4, 3, 2) for _ in range(2)]
    _, memory = policy.act(frames[0], policy.start(4))
    action, _ = policy.act(frames[1], memory)
    assert torch.equal(action, policy.inner(torch.cat([f.flatten(1) for f in frames], 1)))
    with pytest.raises(PolicyError, match=r"shape \(3, 2\)"):
        policy.act(torch.randn(4, 6))


def test_stacks_play_and_take_noise():
    policy = FrameStack(Categorical(Spec((20,), Discrete(2)), (8,), (2,)), 5)
    assert rollout(Smoothed(policy, 0.1), "CartPole-v1", 3, seed=0, max_steps=20).returns.shape == (2, 3)


@pytest.mark.parametrize("k", [0, 4])
def test_frames_must_divide_what_is_observed(k):
    with pytest.raises(PolicyError, match=f"a stack of {k} frames"):
        FrameStack(Categorical(Spec((6,), Discrete(2)), (8,)), k)


def test_policies_with_a_memory_are_not_stacked():
    inner = FrameStack(Categorical(Spec((12,), Discrete(2)), (8,)), 2)
    with pytest.raises(PolicyError, match="without memory"):
        FrameStack(inner, 2)
