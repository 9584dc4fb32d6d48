import numpy as np
import pytest
import torch

from surefoot.data.log import Log
from surefoot.data.spec import Continuous, Discrete
from surefoot.errors import ConfigError, EnvError, PolicyError
from surefoot.evaluation.offline import action_distance, discounted_returns, evaluate_offline, fqe_target, split_episodes
from surefoot.policies.base import Policy


class Fixed(Policy):
    """Always the same action."""

    def __init__(self, log: Log, action, copies=()):
        super().__init__()
        self.spec, self.copies, self.action = log.spec(), copies, torch.as_tensor(action)

    def act(self, obs, memory=None, *, generator=None, greedy=True):
        lead = obs.shape[:-1]
        return self.action.expand(*lead, *self.action.shape), memory


class Remembering(Fixed):
    def start(self, n):
        return {"frames": torch.zeros(n, 1)}


def chain_log(discrete: bool, n_episodes=200, length=5, seed=0) -> Log:
    """Five steps, then a true end; reward 1 for action 1 (or +1), 0 for action 0 (or -1)."""
    rng = np.random.default_rng(seed)
    n = n_episodes * length
    step = np.tile(np.arange(length), n_episodes)
    obs = np.eye(length)[step]
    next_obs = np.eye(length)[np.minimum(step + 1, length - 1)]
    choice = rng.integers(2, size=n)
    action = choice if discrete else (2.0 * choice - 1.0)[:, None]
    space = Discrete(2) if discrete else Continuous((-1.0,), (1.0,))
    return Log.from_arrays(obs, action, choice.astype(float), next_obs, step == length - 1, action_space=space)


@pytest.mark.parametrize("discrete", [True, False])
def test_fqe_recovers_the_known_value(discrete):
    log = chain_log(discrete)
    policy = Fixed(log, 1 if discrete else [1.0], copies=(2,))
    result = evaluate_offline(policy, log, gamma=0.9, steps=1500, hidden=(32, 32), lr=3e-3, tau=0.05)
    truth = sum(0.9**t for t in range(5))  # 4.0951; the log's own value is about half of it
    assert result.value == pytest.approx([truth, truth], abs=0.15)
    assert max(result.bellman_error) < 0.15
    assert result.logged_value == pytest.approx(truth / 2, abs=0.2)


def test_bootstrapping_stops_at_terminated():
    one = torch.ones(2)
    assert fqe_target(one, torch.tensor([0.0, 1.0]), 2 * one, 0.5).tolist() == [2.0, 1.0]


def test_action_distance():
    log = chain_log(False)
    share = log.transitions.action.lt(0).double().mean()
    assert action_distance(Fixed(log, [1.0]), log) == pytest.approx(float((4 * share).sqrt()))
    assert action_distance(Fixed(chain_log(True), 1), chain_log(True)) == pytest.approx(float(share))


def test_split_is_by_episodes_and_loses_nothing():
    log = chain_log(True)
    train, test = split_episodes(log, 0.25, seed=3)
    assert len(train) + len(test) == len(log) and len(test) == 50 * 5
    assert len(test.episode_ends) == 50 and (test.episode_lengths == 5).all()
    one = log.select(np.arange(100), np.arange(100) == 99)
    assert [len(part) for part in split_episodes(one, 0.1)] == [90, 10]


def test_discounted_returns():
    log = chain_log(True, n_episodes=2)
    rewards = log.transitions.reward.numpy().reshape(2, 5)
    assert discounted_returns(log, 0.5) == pytest.approx(rewards @ 0.5 ** np.arange(5))


def test_misuse_is_one_sentence():
    log = chain_log(True)
    with pytest.raises(PolicyError, match="memory"):
        evaluate_offline(Remembering(log, 1), log)
    with pytest.raises(EnvError, match="the policy"):
        evaluate_offline(Fixed(chain_log(False), [1.0]), log)
    with pytest.raises(ConfigError, match="gamma"):
        evaluate_offline(Fixed(log, 1), log, gamma=1.0)
    with pytest.raises(ConfigError, match="cannot be split"):
        split_episodes(log.select(np.arange(1), np.ones(1, bool)))
