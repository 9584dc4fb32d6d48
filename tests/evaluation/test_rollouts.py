"""Rollouts: every episode counted once, deterministic, fleets and memories, the attack hook, and misuse in one sentence."""

import gymnasium as gym
import numpy as np
import pytest
import torch

from surefoot.data.spec import Continuous, Discrete, Spec
from surefoot.errors import ConfigError, EnvError, PolicyError, UnknownNameError
from surefoot.evaluation.rollouts import SINGLE_SLOTS, play, rollout
from surefoot.policies.base import Policy
from surefoot.policies.families import Categorical, Deterministic

CARTPOLE = Spec((4,), Discrete(2))
PENDULUM = Spec((3,), Continuous((-2.0,), (2.0,)))


class Countdown(gym.Env):
    """Episodes of 1 to 6 steps, drawn at reset, shown to the policy; reward 1 a step, so the return is the length."""

    observation_space = gym.spaces.Box(0.0, 10.0, (2,), np.float64)
    action_space = gym.spaces.Discrete(3)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.left, self.t = int(self.np_random.integers(1, 7)), 0
        return self._obs(), {}

    def step(self, action):
        self.t += 1
        return self._obs(), 1.0, self.t >= self.left, False, {}

    def _obs(self):
        return np.array([self.left, self.t], np.float64)


class Endless(Countdown):
    def step(self, action):
        return *super().step(action)[:2], False, False, {}


gym.register("test/Countdown-v0", entry_point=Countdown, max_episode_steps=5)
gym.register("test/Endless-v0", entry_point=Endless)


class Watching(Policy):
    """Checks that its memory belongs to the episode it acts in, and keeps what it saw."""

    def __init__(self, copies=()):
        super().__init__()
        self.spec, self.copies, self.seen = Spec((2,), Discrete(3)), copies, []

    def start(self, n):
        return {"t": torch.zeros(*self.copies, n)}

    def act(self, obs, memory=None, *, generator=None, greedy=True):
        running = obs[..., 1] < obs[..., 0]
        assert (obs[..., 1] == memory["t"])[running].all()
        self.seen.append(obs.clone())
        return torch.zeros(obs.shape[:-1], dtype=torch.long), {"t": memory["t"] + 1}


def lean(copies=()):
    """A CartPole policy that pushes the way the pole leans: it survives, unlike a random one."""
    policy = Categorical(CARTPOLE, (), copies)
    torch.nn.init.zeros_(policy.net.biases[0])
    policy.net.weights[0].data.copy_(torch.tensor([[0.0, 0.0], [0.0, 0.0], [0.0, 1.0], [0.0, 1.0]]))
    return policy


def test_every_episode_is_counted_once_and_short_ones_not_more_often():
    """Lengths of 600 episodes are those of their 600 seeds, so their distribution is the environment's."""
    result = rollout(Watching((2,)), "test/Countdown-v0", 300, seed=3)
    assert result.returns.shape == result.lengths.shape == (2, 300)
    assert (result.returns == result.lengths).all()
    counts = np.bincount(result.lengths.reshape(-1), minlength=7)[1:6]
    expected = 600 * np.array([1, 1, 1, 1, 2]) / 6  # the limit of 5 cuts off episodes of 6
    assert (np.abs(counts - expected) < 4 * np.sqrt(expected)).all()
    six = ~result.terminated & (result.lengths == 5)
    assert 60 < six.sum() < 140


@pytest.mark.parametrize("n_envs", [1, 7, 50])
def test_episodes_do_not_depend_on_how_many_run_side_by_side(n_envs):
    reference = rollout(Watching((2,)), "test/Countdown-v0", 50, seed=0)
    other = rollout(Watching((2,)), "test/Countdown-v0", 50, seed=0, n_envs=n_envs)
    assert (reference.returns == other.returns).all()


def test_more_episodes_extend_fewer_and_members_differ():
    few, many = (rollout(Watching((2,)), "test/Countdown-v0", n, seed=0).returns for n in (20, 200))
    assert (few == many[:, :20]).all()
    assert (few[0] != few[1]).any()
    assert (rollout(Watching(), "test/Countdown-v0", 20, seed=0).returns == few[0]).all()
    assert (rollout(Watching(), "test/Countdown-v0", 20, seed=1).returns != few[0]).any()


@pytest.mark.parametrize(("policy", "env"), [(lean((3,)), "CartPole-v1"), (Deterministic(PENDULUM, (8,), (3,)), "Pendulum-v1")])
def test_same_seed_same_result(policy, env):
    first, second = (rollout(policy, env, 9, seed=5, greedy=False, n_envs=4) for _ in range(2))
    assert (first.returns == second.returns).all()
    assert first.returns.shape == (3, 9)


def test_vector_entry_point_agrees_with_single_environments():
    """CartPole's own vector environment and single CartPoles: the same physics, so the same returns in distribution."""
    spec = gym.spec("CartPole-v1")
    gym.register("test/SingleCartPole-v1", entry_point=spec.entry_point, max_episode_steps=500)
    torch.manual_seed(0)
    policy = Categorical(CARTPOLE, (8,))
    own, single = (rollout(policy, env, 400, seed=0, greedy=False).returns for env in ("CartPole-v1", "test/SingleCartPole-v1"))
    assert abs(own.mean() - single.mean()) < 4 * np.hypot(own.std(), single.std()) / 20


def test_cartpole_with_another_time_limit():
    result = rollout(lean(), "CartPole-v1", 30, seed=0, max_steps=200)
    assert (result.returns == 200).all()
    assert not result.terminated.any()
    assert (rollout(lean(), "CartPole-v1", 3, seed=0, max_steps=600).returns <= 600).all()


def test_rewards_agree_with_a_plain_loop():
    policy = Deterministic(PENDULUM, (8,))
    result = rollout(policy, "Pendulum-v1", 2, seed=4)
    steps = list(play(policy, "Pendulum-v1", 2, seed=4))
    env = gym.make("Pendulum-v1")
    env.reset(seed=0)
    env.unwrapped.state = np.array([np.arctan2(steps[0].obs[1, 1], steps[0].obs[1, 0]), steps[0].obs[1, 2]])
    total, obs = 0.0, steps[0].obs[1]
    for _ in range(200):
        action, _ = policy.act(torch.as_tensor(obs)[None])
        obs, reward, *_ = env.step(action[0].detach().numpy())
        total += reward
    assert total == pytest.approx(result.returns[1], rel=1e-3)


class Recorder:
    """A perturbation that shifts what is seen, and checks the protocol."""

    def __init__(self):
        self.waves, self.calls = 0, 0

    def start(self, n, policy):
        self.waves += 1
        self.t = torch.zeros(*policy.copies, n)

    def __call__(self, obs, policy, memory, alive):
        assert alive.dtype == torch.bool
        assert (memory["t"] == self.t).all()
        assert (obs[..., 1] == self.t)[alive].all()  # the true observation
        self.t, self.calls = self.t + 1, self.calls + 1
        return obs


def test_attack_sees_the_truth_and_the_memory_and_starts_with_each_wave():
    attack = Recorder()
    plain = rollout(Watching(), "test/Countdown-v0", 10, seed=0, n_envs=4)
    attacked = rollout(Watching(), "test/Countdown-v0", 10, seed=0, n_envs=4, perturb=attack)
    assert attack.waves == 3
    assert (plain.returns == attacked.returns).all()


def test_attack_changes_what_the_policy_sees():
    class Blind:
        def start(self, n, policy):
            pass

        def __call__(self, obs, policy, memory, alive):
            with torch.enable_grad():
                x = obs.clone().requires_grad_()
                torch.autograd.grad(policy(x).sum(), x)  # gradients are available to attacks
            return -obs

    attacked = rollout(lean(), "CartPole-v1", 20, seed=0, perturb=Blind())
    assert attacked.returns.mean() < 20


def test_default_room_for_single_environments_is_kept():
    steps = list(play(Watching((2,)), "test/Countdown-v0", 2 * SINGLE_SLOTS, seed=0))
    assert steps[-1].first == 3 * SINGLE_SLOTS // 2
    assert steps[0].alive.shape == (2, SINGLE_SLOTS // 2)


@pytest.mark.parametrize(
    ("policy", "env", "options", "error", "words"),
    [
        (lean(), "CartPol-v1", {}, UnknownNameError, "CartPole-v1"),
        (lean(), "no_such_module:Env-v0", {}, EnvError, "no_such_module"),
        (lean(), "Pendulum-v1", {}, EnvError, r"shape \(3,\), but the policy expects \(4,\)"),
        (Deterministic(Spec((4,), Continuous((-1.0,), (1.0,))), (4,)), "CartPole-v1", {}, EnvError, "2 discrete actions"),
        (Deterministic(Spec((3,), Continuous((-1.0,), (1.0,))), (4,)), "Pendulum-v1", {}, EnvError, r"\[-2, 2\]"),
        (Categorical(Spec((4,), Discrete(3)), (4,)), "CartPole-v1", {}, EnvError, "2 discrete"),
        (lean(), "FrozenLake-v1", {}, EnvError, "not a Box"),
        (Watching(), "test/Endless-v0", {}, EnvError, "no time limit"),
        (lean(), "CartPole-v1", {"episodes": 0}, ConfigError, "episodes is 0"),
        (lean(), "CartPole-v1", {"max_steps": 0}, ConfigError, "max_steps is 0"),
        (lean(), "CartPole-v1", {"seed": -1}, ConfigError, "seed -1"),
    ],
)
def test_misuse_is_one_sentence(policy, env, options, error, words):
    arguments = {"episodes": 2, "seed": 0} | options
    with pytest.raises(error, match=words):
        rollout(policy, env, arguments.pop("episodes"), **arguments)


def test_action_that_is_not_finite():
    policy = Deterministic(PENDULUM, (4,))
    torch.nn.init.constant_(policy.net.biases[0], float("nan"))
    with pytest.raises(PolicyError, match="not finite"):
        rollout(policy, "Pendulum-v1", 1, seed=0)
