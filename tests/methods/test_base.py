"""What every learner owes, whichever paper it is: a resume bit for bit, no waiting for the device, a fleet of independent members."""

from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from scipy.stats import ks_2samp

from surefoot.data.batches import Transitions
from surefoot.data.log import Log
from surefoot.data.sources import Logged
from surefoot.data.spec import Continuous, Discrete
from surefoot.errors import UnknownNameError
from surefoot.methods import registry
from surefoot.methods.base import Method
from surefoot.nn.nearest import NearestPairIndex

BOX, CHOICE = Continuous((-2.0, -1.0), (2.0, 1.0)), Discrete(3)
BOTH, CHOICES = {"bc", "iql"}, {"dqn", "sa_dqn"}
FROM_TRANSITIONS = registry.OFFLINE | registry.ONLINE  # those that learn from fresh segments have these tests in their own file
CASES = [(name, BOX) for name in FROM_TRANSITIONS if name not in CHOICES] + [(name, CHOICE) for name in sorted(BOTH | CHOICES)]
IDS = [f"{name}-{'discrete' if space is CHOICE else 'continuous'}" for name, space in CASES]
every_learner = pytest.mark.parametrize(("name", "space"), CASES, ids=IDS)
B = 32


def some_log(space, seed=0, n=500) -> Log:
    """Noise with a little structure: the reward prefers actions of the first observation's sign."""
    rng = np.random.default_rng(seed)
    obs = rng.standard_normal((n, 3)) * [1.0, 5.0, 0.1] + [0.0, 2.0, 0.0]
    action = rng.integers(space.n, size=n) if space is CHOICE else rng.uniform(-1, 1, (n, 2)) * [2.0, 1.0]
    liked = (action - 1.0) if space is CHOICE else action[:, 0]
    ended = rng.random(n) < 0.1
    return Log.from_arrays(obs, action, liked * np.sign(obs[:, 0]) + 0.1 * rng.standard_normal(n), obs[::-1], ended, action_space=space)


def make(name: str, log: Log, copies=(), seed=0, **settings) -> Method:
    """A small one of its kind, ready to learn from `log`; every kind of step happens within four updates."""
    cls = registry.learner(name)
    known = {f.name for f in fields(cls.config_class)}
    small = {"hidden": (16, 16), "critic_hidden": (16, 16), "vae_hidden": (16, 16), "target_every": 3, "batch_size": B, **settings}
    method = cls(log.spec(), cls.config_class(**{k: v for k, v in small.items() if k in known}), copies=copies, seed=seed)
    method.prepare([log])
    return method


def copied(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in state.items()}


# --- the registry -----------------------------------------------------------------------------------------------------


def test_every_learner_is_there_and_unknown_ones_are_named():
    for name in registry.LEARNERS:
        assert issubclass(registry.learner(name), Method)
    with pytest.raises(UnknownNameError, match="'a2pr'"):
        registry.learner("a2prr")


@every_learner
def test_every_setting_has_a_default_and_settings_are_frozen(name, space):
    config = registry.learner(name).config_class()
    with pytest.raises(AttributeError):
        config.batch_size = 1
    assert replace(config, batch_size=7).batch_size == 7


# --- resume -----------------------------------------------------------------------------------------------------------


@every_learner
@pytest.mark.parametrize("copies", [(), (2,)], ids=["lone", "fleet"])
def test_a_resumed_run_equals_the_uninterrupted_one(name, space, copies):
    log = some_log(space)
    method, source = make(name, log, copies), Logged(log, B, copies=copies)
    for _ in range(3):
        method.update(next(source))
    saved, place = copied(method.state_dict()), copied(source.state_dict())
    for _ in range(4):
        expected = method.update(next(source))

    again, source = make(name, log, copies, seed=99), Logged(log, B, copies=copies, seed=99)
    again.load_state_dict(saved)
    source.load_state_dict(place)
    assert again.steps == 3
    for _ in range(4):
        metrics = again.update(next(source))
    assert metrics.keys() == expected.keys() and all(torch.equal(metrics[k], expected[k]) for k in expected)
    state, reference = again.state_dict(), method.state_dict()
    assert state.keys() == reference.keys()
    assert [k for k in state if not torch.equal(state[k], reference[k])] == []


@every_learner
def test_the_state_is_complete_and_named_flatly(name, space):
    log = some_log(space)
    method = make(name, log)
    fresh = copied(method.state_dict())
    source = Logged(log, B)
    for _ in range(4):
        method.update(next(source))
    state = method.state_dict()
    assert all(isinstance(value, torch.Tensor) and not value.requires_grad for value in state.values())
    assert state.keys() == fresh.keys() | {k for k in state if "optimiser." in k}  # which have no state before their first step
    assert not any(torch.equal(fresh[k], state[k]) for k in fresh if k.startswith("policy.net"))
    with pytest.raises(KeyError):
        method.load_state_dict({k: v for k, v in state.items() if k != "steps"})


@every_learner
def test_one_seed_gives_one_run(name, space):
    log = some_log(space)
    runs = []
    for seed in (0, 0, 1):
        method, source = make(name, log, seed=seed), Logged(log, B)
        for _ in range(4):
            method.update(next(source))
        runs.append(torch.cat([p.detach().flatten() for p in method.policy.parameters()]))
    assert torch.equal(runs[0], runs[1]) and not torch.allclose(runs[0], runs[2])


# --- no waiting -------------------------------------------------------------------------------------------------------


@every_learner
@pytest.mark.parametrize("copies", [(), (2,)], ids=["lone", "fleet"])
def test_an_update_never_waits_for_the_device(name, space, copies, no_waiting):
    log = some_log(space)
    method, source = make(name, log, copies), Logged(log, B, copies=copies)
    if name == "prdc":  # the search that a GPU takes; the tree is for the CPU
        t = method.in_units(log.transitions)
        method.indices = [NearestPairIndex(t.obs, t.action, method.config.beta, search="products")]
    batches = [next(source) for _ in range(4)]
    with no_waiting():
        for batch in batches:
            metrics = method.update(batch)
    assert metrics and all(value.shape == copies and not value.requires_grad for value in metrics.values())


@pytest.mark.parametrize(
    "wait",
    [
        lambda x: x.sum().item(),
        lambda x: float(x.mean()),
        lambda x: 1 if x.sum() > 0 else 0,
        lambda x: x.nonzero(),
        lambda x: x[x > 0],
        lambda x: x.masked_select(x > 0),
        lambda x: torch.equal(x, x),
        lambda x: x.tolist(),
        lambda x: x.numpy(),
        lambda x: x.unique(),
    ],
)
def test_the_mode_sees_what_waits(wait, no_waiting):
    x = torch.ones(3)
    with pytest.raises(AssertionError, match=r"waits for the device|leaves the device"), no_waiting():
        wait(x)


# --- fleets -----------------------------------------------------------------------------------------------------------


@every_learner
def test_a_fleet_of_one_is_the_lone_run(name, space):
    """The same draws in the same order: starting weights, batches, noise, and so every number after them."""
    log = some_log(space)
    lone, fleet = make(name, log), make(name, log, copies=(1,))
    one, two = Logged(log, B), Logged(log, B, copies=(1,))
    for _ in range(4):
        theirs, ours = lone.update(next(one)), fleet.update(next(two))
        for key, value in theirs.items():
            torch.testing.assert_close(ours[key], value.unsqueeze(0), rtol=1e-4, atol=1e-5)
    for p, q in zip(lone.policy.parameters(), fleet.policy.parameters(), strict=True):
        torch.testing.assert_close(q.squeeze(0), p, rtol=1e-4, atol=1e-5)


class SharedNoise:
    """Draws that are the same for a lone run and for each member of a fleet: the k-th draw has one value, whoever asks."""

    def __init__(self, copies: tuple[int, ...]):
        self.lead, self.calls = len(copies), 0

    def draw(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Generator]:
        self.calls += 1
        return x.new_empty(x.shape[self.lead :]), torch.Generator().manual_seed(self.calls)


@pytest.fixture
def with_shared_noise(monkeypatch):
    normal, uniform = torch.Tensor.normal_, torch.Tensor.uniform_

    def run(copies, job):
        noise = SharedNoise(copies)

        def normal_(x, mean=0.0, std=1.0, generator=None):
            one, g = noise.draw(x)
            return x.copy_(normal(one, mean, std, generator=g).expand_as(x))

        def uniform_(x, low=0.0, high=1.0, generator=None):
            one, g = noise.draw(x)
            return x.copy_(uniform(one, low, high, generator=g).expand_as(x))

        with monkeypatch.context() as patched:
            patched.setattr(torch.Tensor, "normal_", normal_)
            patched.setattr(torch.Tensor, "uniform_", uniform_)
            return job()

    return run


def stacked(batches: list[Transitions]) -> Transitions:
    return Transitions(*(torch.stack([getattr(b, f.name) for b in batches]) for f in fields(Transitions)))


@every_learner
def test_members_equal_lone_runs_given_the_same_weights_batches_and_noise(name, space, with_shared_noise):
    log, members = some_log(space), 3
    lone = [make(name, log, seed=i) for i in range(members)]
    fleet = make(name, log, copies=(members,))
    states = [method.state_dict() for method in lone]
    with torch.no_grad():
        for key, value in fleet.state_dict().items():
            if value.dim() and value.shape[0] == members and key != "generator" and "normaliser" not in key:
                value.copy_(torch.stack([state[key] for state in states]))
    sources = [Logged(log, B, seed=i) for i in range(members)]
    batches = [[next(source) for source in sources] for _ in range(4)]
    for i, method in enumerate(lone):
        with_shared_noise((), lambda method=method, i=i: [method.update(step[i]) for step in batches])
    with_shared_noise((members,), lambda: [fleet.update(stacked(step)) for step in batches])
    for i, method in enumerate(lone):
        member = fleet.policy.member(i)
        for p, q in zip(member.parameters(), method.policy.parameters(), strict=True):
            torch.testing.assert_close(p, q, rtol=1e-3, atol=2e-5)
        for key, value in method.state_dict().items():
            if "critic" in key and "optimiser" not in key:
                torch.testing.assert_close(fleet.state_dict()[key][i], value, rtol=1e-3, atol=2e-5)


@every_learner
def test_members_gradients_are_apart(name, space):
    """One member's data are spoilt: the others do not notice, to the last bit."""
    log, members = some_log(space), 3
    runs = []
    for spoil in (False, True):
        method, source = make(name, log, copies=(members,)), Logged(log, B, copies=(members,))
        for _ in range(4):
            batch = next(source)
            if spoil:
                batch.obs[1] *= -3.0
                batch.reward[1] += 100.0
            metrics = method.update(batch)
        runs.append((metrics, method.state_dict()))
    (metrics, state), (other_metrics, other) = runs
    for key, value in [*metrics.items(), *state.items()]:
        value_there = other_metrics[key] if key in metrics else other[key]
        if value.dim() and value.shape[0] == members and "normaliser" not in key:
            assert torch.equal(value[[0, 2]], value_there[[0, 2]]), key
    changed = [k for k in state if k.startswith("policy.net") and not torch.equal(state[k][1], other[k][1])]
    assert changed  # and the spoilt one does


@every_learner
def test_members_and_lone_runs_have_one_distribution(name, space):
    """20 members against 20 lone runs: what they have learned after 30 updates, by two-sample tests on fixed seeds."""
    log, n, steps = some_log(space), 20, 30
    asked = log.transitions.obs[:64]

    def summary(method, metrics):
        """`[*copies, k]`: the last metrics, and what the policy says to observations of the log."""
        said = method.policy(asked.expand(*method.copies, 64, 3)).detach()
        more = [said.mean((-2, -1)), said.std((-2, -1)), said[..., 0, 0]]
        return torch.stack([metrics[key] for key in sorted(metrics)] + more, -1)

    def last(method, source):
        for _ in range(steps):
            metrics = method.update(next(source))
        return summary(method, metrics)

    fast = {"actor_lr": 3e-3, "critic_lr": 3e-3, "lr": 3e-3}
    fleet = last(make(name, log, copies=(n,), seed=1000, **fast), Logged(log, B, copies=(n,), seed=1000)).numpy()
    lone = torch.stack([last(make(name, log, seed=i, **fast), Logged(log, B, seed=i)) for i in range(n)]).numpy()
    assert fleet.shape == lone.shape
    for k in range(fleet.shape[1]):
        assert ks_2samp(fleet[:, k], lone[:, k]).pvalue > 1e-4
        if len(np.unique(lone[:, k])) == n:
            assert len(np.unique(fleet[:, k])) == n  # no two members are one run


def test_explores_with_its_own_policy():
    method = make("td3_bc", some_log(BOX))
    assert method.behaviour is method.policy
