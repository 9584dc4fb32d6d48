"""Returns over physics: the same episodes everywhere, fleets like lone policies, both searches, and what JSON says of them."""

import json

import numpy as np
import pytest
import torch

from surefoot.data.spec import Continuous, Discrete, Spec
from surefoot.envs.making import make_env
from surefoot.envs.physics import Parameter, Physical, Points
from surefoot.envs.seeding import derive_seed
from surefoot.envs.uncertainty import chosen
from surefoot.errors import ConfigError, EnvError, MissingExtraError
from surefoot.evaluation import stress as module
from surefoot.evaluation.rollouts import play, rollout
from surefoot.evaluation.stress import minimise, nominal, returns_at, stress, worst_case
from surefoot.evaluation.stress_map import draw
from surefoot.policies.base import Policy
from surefoot.policies.families import Categorical, Deterministic

CARTPOLE = chosen("2d", "CartPole-v1")
PENDULUM = chosen("2d", "Pendulum-v1")


def leaning(gains=(1.0,)):
    """CartPole agents that push to where the pole falls, as strongly for sure as the gain is positive."""
    policy = Categorical(Spec((4,), Discrete(2)), (), (len(gains),) if len(gains) > 1 else ())
    with torch.no_grad():
        policy.net.biases[0].zero_()
        policy.net.weights[0].zero_()
        policy.net.weights[0][..., 2:, 1] = torch.tensor(gains)[:, None] if len(gains) > 1 else gains[0]
    return policy


class Still(Policy):
    """Does nothing in Pendulum."""

    spec = Spec((3,), Continuous((-2.0,), (2.0,)))

    def act(self, obs, memory=None, *, generator=None, greedy=True):
        return torch.zeros(len(obs), 1), memory


# --- playing ----------------------------------------------------------------------------------------------------------


def test_each_point_plays_the_same_starts_in_its_own_physics():
    """Against environments that are set and stepped by hand."""
    points = Points(PENDULUM, np.array([[1.0, 1.0], [2.0, 0.5], [0.5, 1.5]]))
    returns, lengths = returns_at(Still(), "Pendulum-v1", points, episodes=4, seed=3, max_steps=20)
    assert returns.shape == lengths.shape == (3, 4) and (lengths == 20).all()
    for i, values in enumerate(points.values):
        env = Physical(make_env("Pendulum-v1"), PENDULUM, values)
        for e in range(4):
            env.reset(seed=derive_seed(3, 0, 0, e))
            assert returns[i, e] == pytest.approx(sum(env.step(np.zeros(1, np.float32))[1] for _ in range(20)))
    assert len(np.unique(returns.round(9))) == 12


def test_waves_do_not_matter():
    points = Points(CARTPOLE, np.array([[0.1, 0.5], [1.0, 0.3], [2.0, 2.0]]))
    one, many = (returns_at(leaning(), "CartPole-v1", points, episodes=3, seed=0, max_steps=60, n_envs=n)[0] for n in (2, 9))
    np.testing.assert_array_equal(one, many)


def test_a_fleet_is_its_members():
    policy = leaning((1.0, -1.0))
    points = Points(CARTPOLE, np.array([[0.1, 0.5], [2.0, 0.3]]))
    both = returns_at(policy, "CartPole-v1", points, episodes=3, seed=0, max_steps=60)[0]
    assert both.shape == (2, 2, 3)
    np.testing.assert_array_equal(both[0], returns_at(policy.member(0), "CartPole-v1", points, episodes=3, seed=0, max_steps=60)[0])
    assert both[0].mean() > both[1].mean() + 20


def test_rollouts_without_physics_are_as_they_were():
    """The numbers of single environments, seeds derived from (seed, member, episode)."""
    played = rollout(Still(), "Pendulum-v1", 3, seed=5, max_steps=10)
    env = make_env("Pendulum-v1")
    for e in range(3):
        env.reset(seed=derive_seed(5, 0, 0, e))
        assert played.returns[e] == pytest.approx(sum(env.step(np.zeros(1, np.float32))[1] for _ in range(10)))
    at_made = Points(PENDULUM, nominal("Pendulum-v1", PENDULUM)[None])
    same = rollout(Still(), "Pendulum-v1", 3, seed=5, max_steps=10, physics=at_made)
    np.testing.assert_array_equal(same.returns, played.returns)


def test_a_parameter_that_is_not_there():
    with pytest.raises(EnvError, match="no number 'mass'"):
        next(play(Still(), "Pendulum-v1", 1, seed=0, physics=Points((Parameter("x", 1, 2, "attribute", "mass"),), np.ones((1, 1)))))


# --- a grid -----------------------------------------------------------------------------------------------------------


def test_the_grid_its_worst_point_and_the_nominal_one():
    told = []
    policy = leaning((1.0, -1.0))
    options = {"n": 3, "episodes": 4, "seed": 1, "max_steps": 80}
    found = stress(policy, "CartPole-v1", CARTPOLE, **options, progress=lambda ended, every: told.append((ended, every)))
    assert found.means.shape == (2, 9) and found.nominal.tolist() == [0.1, 0.5]
    values = found.points
    for m in range(2):
        direct = (
            rollout(policy.member(m), "CartPole-v1", 4, seed=1, max_steps=80, physics=Points(CARTPOLE, values)).returns if m == 0 else None
        )
        if direct is not None:
            np.testing.assert_array_equal(found.returns[m], direct.reshape(9, 4))
        assert found.at_worst[m].mean() == found.means[m].min() == found.means[m, found.worst[m]]
    assert told[-1] == (80, 80)
    result = found.to_json()
    json.dumps(result, allow_nan=False)
    assert result["kind"] == "stress" and result["episodes"] == 4 and result["search"] == "grid"
    assert result["parameters"][1] | {"values": None} == {
        "name": "pole half-length",
        "low": 0.2,
        "high": 2.0,
        "nominal": 0.5,
        "values": None,
        "unit": "",
    }
    assert result["parameters"][0]["values"] == pytest.approx([0.05, 1.025, 2.0])
    member = result["members"][1]
    assert member["means"] == pytest.approx(found.means[1].tolist()) and member["average"] == pytest.approx(found.means[1].mean())
    assert member["low"][0] <= member["means"][0] <= member["high"][0] and len(member["lengths"]) == 9
    worst = result["points"][int(np.argmin(member["means"]))]
    assert list(member["worst"]["point"].values()) == worst and member["worst"]["mean"] == min(member["means"])
    assert member["nominal"]["mean"] == pytest.approx(found.at_nominal[1].mean())


def test_the_worst_of_equally_bad_points_is_the_first():
    point, value = worst_case(leaning(), "CartPole-v1", CARTPOLE, n=2, episodes=1, seed=0, max_steps=1)
    assert point == (0.05, 0.2) and value == 1.0


# --- a search ---------------------------------------------------------------------------------------------------------


def test_cma_es_finds_a_corner_and_an_inner_minimum():
    corner, value = minimise(lambda u: u[:, 0] - u[:, 1], 2, seed=0)
    assert corner == pytest.approx([0.0, 1.0], abs=0.02) and value == pytest.approx(-1.0, abs=0.04)
    inner, value = minimise(lambda u: ((u - [0.3, 0.6, 0.9]) ** 2).sum(-1), 3, seed=1)
    assert inner == pytest.approx([0.3, 0.6, 0.9], abs=0.1) and value < 0.01
    again, _ = minimise(lambda u: ((u - [0.3, 0.6, 0.9]) ** 2).sum(-1), 3, seed=1)
    np.testing.assert_array_equal(inner, again)


def test_a_search_for_each_member_of_a_fleet(monkeypatch):
    monkeypatch.setattr(module.searched, "__kwdefaults__", {**module.searched.__kwdefaults__, "generations": 2, "population": 6})
    found = stress(leaning((1.0, -1.0)), "CartPole-v1", CARTPOLE, search="cmaes", episodes=2, seed=1, max_steps=60)
    assert found.points.shape == (24, 2) and found.returns.shape == (2, 24, 2)
    assert np.isfinite(found.returns[0, :12]).all() and np.isnan(found.returns[0, 12:]).all() and np.isnan(found.returns[1, :12]).all()
    low, high = np.array([[p.low, p.high] for p in CARTPOLE]).T
    assert (found.points >= low).all() and (found.points <= high).all()
    assert found.worst[0] < 12 <= found.worst[1]
    fresh = Points(CARTPOLE, found.points[found.worst[1]][None])
    again = returns_at(leaning((1.0, -1.0)).member(1), "CartPole-v1", fresh, episodes=2, seed=derive_seed(1, 6, 1), max_steps=60)[0][0]
    np.testing.assert_array_equal(found.at_worst[1], again)  # on seeds of their own, not those that chose it
    result = found.to_json()
    json.dumps(result, allow_nan=False)
    assert result["members"][0]["means"][12:] == [None] * 12 and result["members"][0]["average"] is None
    assert result["parameters"][0]["values"] is None
    point, value = worst_case(leaning(), "CartPole-v1", CARTPOLE, search="cmaes", episodes=1, seed=3, max_steps=60)
    assert len(point) == 2 and value <= 60


def test_misuse_of_searches(monkeypatch):
    with pytest.raises(ConfigError, match="two parameters or more"):
        worst_case(leaning(), "CartPole-v1", CARTPOLE[:1], search="cmaes", episodes=1, seed=0)
    with pytest.raises(ConfigError, match="grid is 1"):
        stress(leaning(), "CartPole-v1", CARTPOLE, n=1)
    with pytest.raises(ConfigError, match="episodes is 0"):
        stress(leaning(), "CartPole-v1", CARTPOLE, n=2, episodes=0)
    monkeypatch.setitem(__import__("sys").modules, "cmaes", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'surefoot\[stress\]'"):
        minimise(lambda u: u[:, 0], 2)


# --- the picture ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("k", "search"), [(1, "grid"), (2, "grid"), (3, "grid"), (3, "cmaes")])
def test_pictures_of_one_two_and_three_parameters(tmp_path, monkeypatch, k, search):
    monkeypatch.setattr(module.searched, "__kwdefaults__", {**module.searched.__kwdefaults__, "generations": 1, "population": 5})
    parameters = chosen("3d", "Pendulum-v1")[:k]
    policy = Deterministic(Spec((3,), Continuous((-2.0,), (2.0,))), (4,), (2,))
    found = stress(policy, "Pendulum-v1", parameters, search=search, n=3, episodes=2, seed=0, max_steps=5).to_json()
    draw([found | {"policy": "mine"}], tmp_path / "map.png")
    assert (tmp_path / "map.png").read_bytes()[1:4] == b"PNG"
