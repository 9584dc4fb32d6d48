"""IWOCS: the critic without entropy, the fleet in models of its own, the sequence of problems and its ends."""

import copy
import math
from dataclasses import replace

import gymnasium as gym
import numpy as np
import pytest
import torch

from surefoot.data.spec import Continuous, Spec
from surefoot.envs.physics import Parameter
from surefoot.envs.uncertainty import chosen
from surefoot.errors import ConfigError
from surefoot.evaluation.stress import worst_case
from surefoot.methods.online.iwocs import (
    Found,
    IWOCSConfig,
    Solution,
    StaticSAC,
    candidates,
    iwocs,
    learner,
    solutions,
    together,
    value_target,
)
from surefoot.methods.online.sac import SAC
from surefoot.nn.mlp import Critic
from surefoot.policies.families import Gaussian
from surefoot.policies.pessimistic import Dynamics, MostPessimistic

SPEC = Spec((3,), Continuous((-1.0, -2.0), (1.0, 4.0)))
TINY = IWOCSConfig(hidden=(8, 8), batch_size=8, buffer_size=500, warmup=20, default_steps=40, model_steps=40, env_steps=2, n_envs=2)
ENV = "InvertedPendulum-v5"
PARAMETERS = chosen("2d", ENV)


# --- one static problem -----------------------------------------------------------------------------------------------


def test_the_target_has_no_bonus_and_stops_at_terminated_alone():
    y = value_target(torch.tensor([1.0, 2.0]), torch.tensor([0.0, 1.0]), torch.tensor([[10.0, 9.0], [8.0, 9.5]]), 0.9)
    assert y.tolist() == pytest.approx([8.2, 2.0])
    with pytest.raises(ValueError, match=r"must be \[\.\.\., n, B\]"):
        value_target(torch.zeros(2), torch.zeros(2), torch.zeros(2), 0.9)


def test_oracle_7_without_entropy_both_critics_are_one(random_batch):
    """alpha = 0, the same start and the same batches: the critic without entropy equals SAC's, bit for bit."""
    method = StaticSAC(SPEC, replace(TINY, alpha_lr=0.0), (2,), seed=3)
    with torch.no_grad():
        method.log_alpha.fill_(-math.inf)
    for mine, theirs in ((method.value, method.critic), (method.target_value, method.target_critic)):
        mine.load_state_dict(theirs.state_dict())
    start = copy.deepcopy(method.critic.state_dict())
    for i in range(20):
        method.update(random_batch(SPEC, (2,), seed=i))
    for name, value in method.value.state_dict().items():
        assert torch.equal(value, method.critic.state_dict()[name]) and not torch.equal(value, start[name])


def test_with_entropy_they_differ(random_batch):
    method = StaticSAC(SPEC, TINY, seed=3)
    method.value.load_state_dict(method.critic.state_dict())
    method.target_value.load_state_dict(method.target_critic.state_dict())
    method.update(random_batch(SPEC))
    assert not torch.equal(method.value.net.weights[0], method.critic.net.weights[0])


def test_the_additional_heads_leave_sac_as_it_is(random_batch):
    """From the same weights and draws the actor and the critic of both take the same steps."""
    plain, static = SAC(SPEC, TINY, seed=3), StaticSAC(SPEC, TINY, seed=3)
    static.generator.set_state(plain.generator.get_state())  # the heads' weights were drawn from it
    for i in range(5):
        metrics = plain.update(random_batch(SPEC, seed=i)), static.update(random_batch(SPEC, seed=i))
        assert metrics[0].keys() <= metrics[1].keys()
    for name, value in plain.policy.state_dict().items():
        assert torch.equal(value, static.policy.state_dict()[name])
    for name, value in plain.critic.state_dict().items():
        assert torch.equal(value, static.critic.state_dict()[name])


def test_the_model_learns_the_dynamics(random_batch):
    """s' = s + (a_1, a_2, 0): the error falls to a small share of what it was."""
    method, losses = StaticSAC(SPEC, replace(TINY, hidden=(32,), critic_lr=1e-2), seed=0), []
    for i in range(300):
        batch = random_batch(SPEC, n=32, seed=i)
        unit = method.in_units(batch).action
        moved = batch.obs + torch.nn.functional.pad(unit, (0, 1))
        losses.append(float(method.update(replace(batch, next_obs=moved))["model_loss"]))
    assert np.mean(losses[-10:]) < 0.2 * losses[0]


def test_update_does_not_wait_for_the_device(random_batch, no_waiting):
    method = StaticSAC(SPEC, TINY, (2,), seed=0)
    batch = random_batch(SPEC, (2,))
    method.update(batch)
    with no_waiting():
        method.update(batch)


def test_a_state_holds_the_heads(random_batch):
    method, other = (StaticSAC(SPEC, TINY, seed=s) for s in (0, 1))
    for each in (method, other):
        each.update(random_batch(SPEC, seed=5))
    other.load_state_dict({name: value.clone() for name, value in method.state_dict().items()})
    for each in (method, other):
        each.update(random_batch(SPEC, seed=6))
    for name, value in method.state_dict().items():
        assert torch.equal(value, other.state_dict()[name]), name


# --- the learner ------------------------------------------------------------------------------------------------------


def test_each_member_acts_in_its_own_model():
    sac, source = learner(ENV, PARAMETERS, TINY, [(31.0, 1.0), (5.0, 11.0)], seed=0, copies=(2,))
    masses = [env.unwrapped.model.body_mass[[2, 1]].tolist() for env in source.running.envs]
    assert masses == [[31.0, 1.0]] * 2 + [[5.0, 11.0]] * 2
    for _ in range(TINY.updates_of(TINY.model_steps)):
        sac.update(next(source))
    assert source.steps == TINY.model_steps
    found = solutions(sac, source)
    source.close()
    for i, own in enumerate(found):
        t = source.layout.unpack(source.ring.recorded(i)[0])
        with torch.no_grad():
            alone = own.model.error(t.obs, t.action / 3.0, t.next_obs)
            value, theirs = own.value(t.obs, t.action / 3.0), sac.value(t.obs.expand(2, -1, -1), t.action.expand(2, -1, -1) / 3.0)[i]
        np.testing.assert_allclose(alone, own.errors, rtol=1e-5)
        torch.testing.assert_close(value, theirs)
    assert all(o.param_groups[0]["eps"] == 1e-5 for o in (sac.actor_optimiser, sac.value_optimiser, sac.alpha_optimiser))


def test_randomised_members_meet_many_models():
    _, source = learner(ENV, PARAMETERS, TINY, seed=0, method=SAC, copies=(2,), randomise=True)
    for _ in range(3):
        next(source)
    values = {tuple(env.values) for env in source.running.envs}
    source.close()
    assert len(values) == 4


def test_candidates_are_thresholds_or_percentiles_of_errors():
    found = Solution(Gaussian(SPEC, (4,)), None, None, np.arange(101.0))
    assert candidates(TINY, found) == pytest.approx(np.linspace(0.1, 1.0, 10))
    assert candidates(replace(TINY, percentiles=(90.0, 50.0, 100.0)), found) == [50.0, 90.0, 100.0]


# --- the sequence -----------------------------------------------------------------------------------------------------


def solved(seed=0):
    g = torch.Generator().manual_seed(seed)
    n = SPEC.obs_dim + SPEC.box.dim
    return Solution(Gaussian(SPEC, (4,), generator=g), Critic(n, (4,), generator=g), Dynamics(SPEC, (4,), generator=g), np.ones(3))


def scripted(answers, config=TINY, defaults=1):
    """The sequences for a search that answers these (point, value) in turn, and what the solver was asked."""
    asked, left = [], list(answers)

    def solve(i, going, points):
        asked.append((i, list(going), list(points)))
        return [solved(i) for _ in points]

    found = iwocs([Gaussian(SPEC, (4,)) for _ in range(defaults)], solve, lambda policy: Found(*left.pop(0)), config)
    assert not left
    return found, asked


TWO = replace(TINY, thresholds=(0.5, 1.0), models=3)


def test_the_worst_model_of_each_policy_is_solved_next():
    answers = [((1.0,), 10.0), ((2.0,), 11.0), ((3.0,), 12.0), ((4.0,), 15.0), ((5.0,), 14.0), ((6.0,), 16.0), ((7.0,), 20.0)]
    (sequence,), asked = scripted(answers, TWO)
    assert asked == [(1, [0], [(1.0,)]), (2, [0], [(3.0,)]), (3, [0], [(4.0,)])]
    assert [row.threshold for row in sequence.history] == [None, 1.0, 0.5, 1.0]
    assert [row.found.value for row in sequence.history] == [10.0, 12.0, 15.0, 20.0]
    last = sequence.history[-1].policy
    assert len(last.inners) == 4 and last.thresholds.tolist() == [1.0, 0.5, 1.0]  # old ones stay
    assert last.inners[0] is sequence.default


def test_of_equally_good_thresholds_the_largest_is_taken():
    (sequence,), _ = scripted([((1.0,), 10.0), ((2.0,), 12.0), ((1.0,), 12.0)], TWO)
    assert sequence.history[1].threshold == 1.0 and sequence.history[1].found.point == (1.0,)


def test_it_ends_when_the_worst_model_is_known():
    (sequence,), asked = scripted([((1.0,), 10.0), ((5.0,), 11.0), ((1.0001,), 12.0)], TWO)
    assert len(asked) == 1 and sequence.ended and len(sequence.history) == 2


def test_the_best_of_the_sequence_is_handed_back_and_a_fall_does_not_end_it():
    answers = [((1.0,), 10.0), ((2.0,), 8.0), ((3.0,), 9.0), ((4.0,), 15.0), ((5.0,), 14.0), ((6.0,), 12.0), ((7.0,), 11.0)]
    (sequence,), asked = scripted(answers, TWO)
    assert [points for _, _, points in asked] == [[(1.0,)], [(3.0,)], [(4.0,)]]
    assert [row.found.value for row in sequence.history] == [10.0, 9.0, 15.0, 12.0]
    assert sequence.best is sequence.history[2] and len(sequence.best.policy.inners) == 3


def test_seeds_go_in_lockstep_and_those_that_ended_are_left_out():
    one = replace(TWO, thresholds=(0.5,))
    answers = [((1.0,), 10.0), ((2.0,), 10.0), ((1.0,), 12.0), ((3.0,), 12.0), ((4.0,), 13.0), ((5.0,), 14.0)]
    (first, second), asked = scripted(answers, one, defaults=2)
    assert asked == [(1, [0, 1], [(1.0,), (2.0,)]), (2, [1], [(3.0,)]), (3, [1], [(4.0,)])]
    assert len(first.history) == 2 and len(second.history) == 4


def test_the_pessimist_is_put_together_from_the_parts():
    a, b = solved(1), solved(2)
    policy = together(Gaussian(SPEC, (4,)), [(a, 0.5), (b, 0.25)])
    assert policy.critics[1] is b.value and policy.models[0] is a.model and policy.hidden == (4,)


# --- learning ---------------------------------------------------------------------------------------------------------


class Pushed(gym.Env):
    """A point on a line that is paid -x^2; a push moves it by `gain` times the action, and nobody is told the gain."""

    observation_space = gym.spaces.Box(-3.0, 3.0, (1,), np.float32)
    action_space = gym.spaces.Box(-1.0, 1.0, (1,), np.float32)

    def __init__(self):
        self.gain = 1.0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.x = self.np_random.uniform(-1.0, 1.0, 1).astype(np.float32)
        return self.x, {}

    def step(self, action):
        self.x = np.clip(self.x + self.gain * action, -3.0, 3.0).astype(np.float32)
        return self.x, -(float(self.x[0]) ** 2), False, False, {}


@pytest.fixture
def pushed():
    gym.register("Pushed-v0", Pushed, max_episode_steps=10)
    yield "Pushed-v0"
    del gym.registry["Pushed-v0"]


def test_it_learns_what_no_policy_without_a_memory_can(pushed, monkeypatch):
    """Gains of -1 and 1: who sees x alone can at best keep still, -10 E x^2 = -3.3. Two solutions that are told apart do better.

    Without that test, the key term, the policy pushes the wrong way in one of the models.
    """
    gain = (Parameter("gain", -1.0, 1.0, "attribute", "gain"),)
    rates = {"actor_lr": 3e-3, "critic_lr": 3e-3, "alpha_lr": 3e-3, "alpha_start": 0.05, "gamma": 0.9, "tau": 0.02}
    steps = {"warmup": 100, "default_steps": 250, "model_steps": 700, "env_steps": 4, "updates": 4, "n_envs": 4}
    config = IWOCSConfig(hidden=(32, 32), batch_size=64, buffer_size=1000, models=2, percentiles=(99.0, 100.0), **rates, **steps)

    def trained(steps, **options):
        sac, source = learner(pushed, gain, config, **options)
        for _ in range(config.updates_of(steps)):
            sac.update(next(source))
        source.close()
        return sac, source

    def solve(i, going, points):
        return solutions(*trained(config.model_steps, values=points, seed=i, copies=(1,)))

    def search(policy):
        return Found(*worst_case(policy, pushed, gain, n=2, episodes=20, seed=1))

    default = trained(config.default_steps, seed=0, method=SAC, randomise=True)[0].policy
    (sequence,) = iwocs([default], solve, search, config)
    assert sequence.history[0].found.value < -10.0
    assert {row.model for row in sequence.history[1:]} == {(-1.0,), (1.0,)}
    assert sequence.best is sequence.history[2] and sequence.best.found.value > -3.0
    plausible = MostPessimistic.valid
    monkeypatch.setattr(MostPessimistic, "valid", lambda self, s, memory: plausible(self, s, None))
    assert search(sequence.best.policy).value < -10.0


# --- settings ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"models": 0}, "models is 0: it must be positive"),
        ({"model_steps": 20}, "model_steps is 20: it must exceed the 20 random steps"),
        ({"default_steps": 5}, "default_steps is 5"),
        ({"thresholds": (-1.0,)}, r"thresholds are \(-1.0,\)"),
        ({"thresholds": ()}, "give at least one"),
        ({"percentiles": (101.0,)}, "percentiles are"),
        ({"gamma": 2.0}, "gamma is 2.0"),
    ],
)
def test_settings_outside_their_range(change, words):
    with pytest.raises(ConfigError, match=words):
        replace(TINY, **change)


def test_the_defaults_are_the_papers():
    config = IWOCSConfig()
    assert (config.actor_lr, config.critic_lr, config.eps, config.batch_size, config.buffer_size) == (3e-4, 1e-3, 1e-5, 256, 10**6)
    assert (config.gamma, config.tau, config.warmup, config.hidden) == (0.99, 0.005, 10_000, (256, 256))
    assert (config.default_steps, config.model_steps, config.models) == (1_600_000, 800_000, 3)
    assert config.thresholds == pytest.approx(np.linspace(0.1, 1.0, 10))
