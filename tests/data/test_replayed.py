"""Learning as it goes: what is stored of each step, how much is stepped, what is drawn, and resumes that are bit for bit."""

import gymnasium as gym
import numpy as np
import pytest
import torch

from surefoot.data.log import Log
from surefoot.data.replayed import Replayed
from surefoot.data.spec import Continuous, Discrete, Spec
from surefoot.envs.making import training_env
from surefoot.errors import ConfigError, DataError, DivergedError, EnvError, UnknownNameError
from surefoot.policies.base import Policy
from surefoot.policies.families import Categorical, Gaussian


class Countdown(gym.Env):
    """Shows (steps of this episode, its seed's number); terminated after 2 to 9 steps; the reward is the action + 1."""

    observation_space = gym.spaces.Box(-np.inf, np.inf, (2,), np.float64)
    action_space = gym.spaces.Discrete(3)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.left, self.t, self.label = int(self.np_random.integers(2, 10)), 0, float(seed % 9973)
        return np.array([0.0, self.label]), {}

    def step(self, action):
        assert isinstance(action, np.integer)
        self.t += 1
        return np.array([self.t, self.label]), float(action + 1), self.t >= self.left, False, {}


class Forgetful(Countdown):
    """Not a function of its seed."""

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.label = float(np.random.default_rng().random())
        return np.array([0.0, self.label]), {}


class Broken(Countdown):
    def step(self, action):
        return *super().step(action)[:1], float("nan"), False, False, {}


for name, entry in (("Countdown", Countdown), ("Forgetful", Forgetful), ("Broken", Broken)):
    gym.register(f"replayed/{name}-v0", entry_point=entry, max_episode_steps=6)


class Uniform(Policy):
    """Uniform discrete actions; counts its calls."""

    def __init__(self, copies=(), obs_dim=2, n=3):
        super().__init__()
        self.spec, self.copies, self.calls = Spec((obs_dim,), Discrete(n)), copies, 0

    def act(self, obs, memory=None, *, generator=None, greedy=True):
        assert not greedy
        self.calls += 1
        return torch.randint(self.spec.n_actions, obs.shape[:-1], generator=generator), memory


def actor_for(env_id, copies=()):
    """An untrained policy that explores in an environment."""
    env = training_env(env_id)
    family = Categorical if isinstance(env.action_space, gym.spaces.Discrete) else Gaussian
    return family(Spec.from_env(env), (16,), copies, generator=torch.Generator().manual_seed(0))


def countdown(actor=None, **options):
    settings = {"capacity": 500, "warmup": 0, "seed": 3} | options
    return Replayed("replayed/Countdown-v0", actor or Uniform(settings.get("copies", ())), settings.pop("batch_size", 8), **settings)


def taken(source, batches):
    return [next(source) for _ in range(batches)]


def same(xs, ys):
    fields = ("obs", "action", "reward", "next_obs", "terminated")
    return all(torch.equal(getattr(x, f), getattr(y, f)) for x, y in zip(xs, ys, strict=True) for f in fields)


# --- what is stored -------------------------------------------------------------------------------------------------


def test_every_step_of_every_episode_is_stored_as_it_was_and_time_limits_are_no_ends():
    source = countdown(copies=(2,), n_envs=3, env_steps=60, capacity=300)
    taken(source, 5)
    labels = set()
    for member in range(2):
        log = source.log(member)
        t, ends = log.transitions, torch.from_numpy(log.ends)
        assert len(log) == 300
        inside = ~ends[:-1]
        assert torch.equal(t.obs[1:][inside], t.next_obs[:-1][inside])
        assert (t.obs[1:, 0][~inside] == 0).all()  # after an end a new episode starts
        assert torch.equal(t.next_obs[:, 0], t.obs[:, 0] + 1)
        assert torch.equal(t.next_obs[:, 1], t.obs[:, 1])  # the true last observation, not the next episode's first
        assert torch.equal(t.reward, t.action + 1.0)
        cut = (t.next_obs[:, 0] == 6) & ends & (t.terminated == 0)
        assert cut.sum() > 10
        assert 0 < t.terminated.sum() < ends.sum()
        assert (ends | (t.terminated == 0)).all()
        labels |= {(member, float(x)) for x in t.obs[:, 1]}
    assert len({label for _, label in labels}) == len(labels)  # every episode of every member has a seed of its own


def test_the_log_gives_back_wrapped_buffers_in_recorded_order():
    source, whole = countdown(capacity=40, n_envs=2, env_steps=2), countdown(capacity=1000, n_envs=2, env_steps=2)
    taken(source, 75)
    taken(whole, 75)
    newest, all_steps = source.log(), whole.log()
    assert len(newest) == 40
    assert len(all_steps) == 150
    for slot in range(2):  # the newest 20 steps of each environment
        assert torch.equal(newest.packed[slot * 20 : (slot + 1) * 20], all_steps.packed[slot * 75 + 55 : (slot + 1) * 75])
        np.testing.assert_array_equal(newest.ends[slot * 20 : (slot + 1) * 20], all_steps.ends[slot * 75 + 55 : (slot + 1) * 75])
    assert newest.env_id == "replayed/Countdown-v0"
    assert isinstance(newest, Log)
    assert newest.action == Discrete(3)
    assert (all_steps.episode_lengths <= 6).all()


def test_rows_are_what_the_environment_gives_a_player_with_the_same_seed_and_actions():
    for env_id in ("Hopper-v5", "CartPole-v1", "Pendulum-v1"):
        source = Replayed(env_id, actor_for(env_id), 4, capacity=1000, warmup=0, env_steps=300, seed=5)
        next(source)
        log = source.log()
        env = training_env(env_id)
        seeds = []
        reset = source.running.envs[0].reset
        source.running.envs[0].reset = lambda *, seed, reset=reset, seeds=seeds: (seeds.append(seed), reset(seed=seed))[1]
        source.running.episodes[0] = -1
        source.running._begin(0)
        obs, _ = env.reset(seed=seeds[0])
        for i in range(log.episode_lengths[0]):
            t = log.transitions
            assert np.array_equal(t.obs[i].numpy(), obs.astype(np.float32))
            obs, reward, terminated, *_ = env.step(t.action[i].numpy())
            assert t.reward[i].item() == np.float32(reward)
            assert bool(t.terminated[i]) == terminated
            assert np.array_equal(t.next_obs[i].numpy(), obs.astype(np.float32))


# --- how much is stepped, what is drawn -----------------------------------------------------------------------------


@pytest.mark.parametrize(("env_steps", "updates", "n_envs", "warmup"), [(1, 1, 1, 0), (6, 4, 2, 10), (8, 3, 8, 5), (1, 5, 1, 20)])
def test_the_update_to_data_ratio_is_kept(env_steps, updates, n_envs, warmup):
    actor = Uniform((2,))
    source = countdown(actor, copies=(2,), env_steps=env_steps, updates=updates, n_envs=n_envs, warmup=warmup)
    warm = -(-warmup // n_envs) * n_envs  # the warmup in whole steps of all environments
    for batches in range(1, 20):
        batch = next(source)
        rounds = -(-batches // updates)
        assert source.steps == warm + env_steps * rounds
        assert actor.calls == env_steps // n_envs * rounds  # not asked in the warmup
        assert batch.obs.shape == (2, 8, 2)
        assert batch.action.shape == batch.reward.shape == batch.terminated.shape == (2, 8)
        assert batch.action.dtype == torch.int64
    assert source.metrics()["train/env_steps"] == [source.steps] * 2


def test_the_warmup_fills_the_action_box_uniformly():
    source = Replayed("Pendulum-v1", actor_for("Pendulum-v1"), 4, capacity=3000, warmup=3000, seed=1)
    next(source)
    action = source.log().transitions.action[:-1]
    assert -2.0 <= action.min() < -1.98 and 1.98 < action.max() <= 2.0
    counts = torch.histc(action, 10, -2.0, 2.0).numpy()
    assert (np.abs(counts - 300) < 4 * np.sqrt(300)).all()


def test_logged_rows_take_their_share_of_each_batch():
    rows = 30
    log = Log.from_arrays(
        np.full((rows, 2), -1.0), np.ones(rows), np.arange(rows), np.full((rows, 2), -1.0), np.zeros(rows), action_space=Discrete(3)
    )
    source = countdown(copies=(2,), batch_size=16, log=log, log_share=0.25)
    batches = taken(source, 300)
    counts = np.zeros(rows)
    for batch in batches:
        from_log = batch.obs[..., 0] == -1.0
        assert (from_log.sum(-1) == 4).all()
        counts += np.bincount(batch.reward[from_log].long().numpy(), minlength=rows)
    assert (np.abs(counts - counts.mean()) < 5 * np.sqrt(counts.mean())).all()
    assert not torch.equal(batches[0].reward[0], batches[0].reward[1])
    whole = countdown(batch_size=16, log=log, log_share=1.0)
    assert (next(whole).obs == -1.0).all()


def test_training_returns_are_those_of_the_episodes():
    source = countdown(copies=(2,), env_steps=30)
    assert "train/return" not in source.metrics()
    taken(source, 10)
    metrics = source.metrics()
    for member in range(2):
        log = source.log(member)
        complete = len(log.episode_ends) - (source.running.ages[member] > 0)  # the running episode does not count
        assert metrics["train/episodes"][member] == complete
        assert metrics["train/return"][member] == pytest.approx(log.episode_returns[:complete][-100:].mean())


def test_frame_stacks_noise_and_limits_reach_the_environments():
    source = Replayed(
        "CartPole-v1", Uniform((), 8, 2), 4, capacity=100, warmup=0, frame_stack=2, noise=0.1, max_steps=5, seed=0, env_steps=50
    )
    next(source)
    log = source.log()
    t = log.transitions
    assert t.obs.shape == (50, 8)
    assert log.episode_lengths.max() <= 5
    assert torch.equal(t.next_obs[:, :4], t.obs[:, 4:])  # the older frame keeps its noise
    assert "noise 0.1" in log.notes["observations"]


# --- resume ---------------------------------------------------------------------------------------------------------


def simulator_state(env):
    """All of MuJoCo's state, warm start included; for the others their own."""
    env = env.unwrapped
    if hasattr(env, "data"):
        import mujoco

        kind = mujoco.mjtState.mjSTATE_INTEGRATION
        state = np.empty(mujoco.mj_stateSize(env.model, kind))
        mujoco.mj_getState(env.model, env.data, state, kind)
        return state
    return np.asarray(env.state)


@pytest.mark.parametrize("env_id", ["Pendulum-v1", "CartPole-v1", "Hopper-v5"])
@pytest.mark.parametrize(("copies", "options"), [((), {}), ((2,), {"n_envs": 2, "env_steps": 4, "updates": 3, "noise": 0.1})])
def test_a_resumed_source_equals_the_uninterrupted_one(env_id, copies, options):
    def fresh():
        return Replayed(env_id, actor_for(env_id, copies), 8, copies=copies, capacity=60, warmup=20, seed=7, **options)

    for before in (0, 1, 71):  # before it begins, in the middle of drawn batches, wrapped around
        source, resumed = fresh(), fresh()
        taken(source, before)
        state = {name: value.clone() for name, value in source.state_dict().items()}
        taken(resumed, 5)  # whatever it did before is forgotten
        resumed.load_state_dict(state)
        for one, other in zip(source.running.envs, resumed.running.envs, strict=True):
            np.testing.assert_array_equal(simulator_state(one), simulator_state(other))
        assert before == 0 or source.running.ages.max() > 0
        assert same(taken(source, 80), taken(resumed, 80))
        for one, other in zip(source.running.envs, resumed.running.envs, strict=True):
            np.testing.assert_array_equal(simulator_state(one), simulator_state(other))
        after, others = source.state_dict(), resumed.state_dict()
        assert all(torch.equal(value.nan_to_num(-1), others[name].nan_to_num(-1)) for name, value in after.items())
        assert source.metrics() == resumed.metrics()
        assert source.log().fingerprint == resumed.log().fingerprint


def test_the_same_seed_repeats_and_another_does_not():
    assert same(taken(countdown(copies=(2,)), 30), taken(countdown(copies=(2,)), 30))
    assert not same(taken(countdown(copies=(2,)), 30), taken(countdown(copies=(2,), seed=4), 30))


def test_members_have_environments_and_batches_of_their_own():
    source = countdown(copies=(2,), env_steps=50, batch_size=50)
    batch = taken(source, 4)[-1]
    ours, theirs = (set(source.log(member).transitions.obs[:, 1].tolist()) for member in range(2))
    assert not ours & theirs
    assert set(batch.obs[0, :, 1].tolist()) <= ours
    assert set(batch.obs[1, :, 1].tolist()) <= theirs


def test_an_environment_that_is_no_function_of_its_seed_starts_afresh_and_says_so():
    source = Replayed("replayed/Forgetful-v0", Uniform(), 4, capacity=50, warmup=0, seed=0)
    while source.running.ages[0] != 2:
        next(source)
    state = {name: value.clone() for name, value in source.state_dict().items()}
    resumed = Replayed("replayed/Forgetful-v0", Uniform(), 4, capacity=50, warmup=0, seed=0)
    with pytest.warns(UserWarning, match="did not come back"):
        resumed.load_state_dict(state)
    taken(resumed, 10)
    log = resumed.log()
    inside = torch.from_numpy(~log.ends[:-1])
    assert torch.equal(log.transitions.obs[1:][inside], log.transitions.next_obs[:-1][inside])


# --- misuse ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size is 0"),
        ({"capacity": 0}, "capacity is 0"),
        ({"updates": 0}, "updates is 0"),
        ({"env_steps": 0}, "env_steps is 0"),
        ({"n_envs": 0}, "n_envs 0"),
        ({"env_steps": 3, "n_envs": 2}, "multiple of n_envs"),
        ({"warmup": -1}, "neither may be negative"),
        ({"warmup": 501}, "must hold the 501 steps"),
        ({"log_share": 0.5}, "give a log and a share"),
        ({"frame_stack": 0}, "frame_stack is 0"),
        ({"noise": -1.0}, "noise is -1.0"),
        ({"max_steps": 0}, "max_steps is 0"),
    ],
)
def test_settings_outside_their_range(options, message):
    with pytest.raises(ConfigError, match=message):
        countdown(**options)


def test_what_does_not_fit():
    with pytest.raises(ConfigError, match="they must agree"):
        countdown(Uniform((3,)), copies=(2,))
    with pytest.raises(EnvError, match=r"shape \(3,\), but the method"):
        Replayed("Pendulum-v1", Uniform(), 4, capacity=10, warmup=0)
    with pytest.raises(EnvError, match="takes 1 continuous actions"):
        Replayed("Pendulum-v1", Uniform((), 3), 4, capacity=10, warmup=0)
    with pytest.raises(EnvError, match="takes one of 2 discrete actions"):
        Replayed("CartPole-v1", Gaussian(Spec((4,), Continuous((-1.0,), (1.0,))), (4,)), 4, capacity=10, warmup=0)
    with pytest.raises(UnknownNameError, match="CartPole-v1"):
        Replayed("CartPole-v11", Uniform((), 4, 2), 4, capacity=10, warmup=0)
    other = Log.from_arrays(np.ones((2, 5)), np.ones(2), np.ones(2), np.ones((2, 5)), np.zeros(2), action_space=Discrete(3))
    with pytest.raises(EnvError, match="the log memory"):
        countdown(log=other, log_share=0.5)
    with pytest.raises(DataError, match="empty"):
        countdown().log()
    with pytest.raises(ConfigError, match="members 0 to 0"):
        countdown().log(1)


def test_a_policy_that_remembers_is_refused():
    class Remembering(Uniform):
        def start(self, n):
            return {"x": torch.zeros(n)}

    with pytest.raises(ConfigError, match="memory"):
        countdown(Remembering())


def test_numbers_that_are_not_finite():
    class Diverged(Uniform):
        def __init__(self):
            super().__init__()
            self.spec = Spec((3,), Continuous((-2.0,), (2.0,)))

        def act(self, obs, memory=None, *, generator=None, greedy=True):
            return torch.full((1, 1), float("nan")), memory

    with pytest.raises(DivergedError, match="Pendulum-v1"):
        next(Replayed("Pendulum-v1", Diverged(), 4, capacity=10, warmup=0))
    with pytest.raises(EnvError, match="not finite"):
        next(Replayed("replayed/Broken-v0", Uniform(), 4, capacity=10, warmup=0))
