"""The tables of uncertainty sets against the environments, and a user's own file with everything that can be wrong in it."""

import json

import pytest

from surefoot.envs.making import make_env
from surefoot.envs.physics import Physical
from surefoot.envs.uncertainty import SETS, chosen, known, read_set
from surefoot.errors import ConfigError, EnvError, UnknownNameError

VERSION = {"CartPole": "v1", "Pendulum": "v1"}


@pytest.mark.parametrize("name", SETS)
def test_every_set_fits_its_environment(name):
    env_id = f"{name}-{VERSION.get(name, 'v5')}"
    for which, parameters in SETS[name].items():
        env = Physical(make_env(env_id), parameters)
        env.reset(seed=0, options={"physics": [p.high for p in parameters]})
        env.step(env.action_space.sample())
        assert len(parameters) == int(which[0])
        assert chosen(which, env_id) == parameters
    assert chosen(None, env_id) == SETS[name]["2d"]


def test_the_sets_of_the_paper():
    """Table 7, spot by spot."""
    ranges = {name: [[(p.name, p.low, p.high) for p in parameters] for parameters in sets.values()] for name, sets in SETS.items()}
    assert ranges["InvertedPendulum"] == [[("pole mass", 1, 31), ("cart mass", 1, 11)]]
    assert ranges["Hopper"][1] == [("friction", 0.1, 3), ("torso mass", 0.1, 3), ("thigh mass", 0.1, 4)]
    assert ranges["Walker2d"][1] == [("friction", 0.1, 4), ("torso mass", 0.1, 5), ("thigh mass", 0.1, 6)]
    assert ranges["HumanoidStandup"][0][1] == ("right foot mass", 0.1, 8) and ranges["HumanoidStandup"][1][1] == ("right foot mass", 0.1, 5)
    assert ranges["Ant"][0][1] == ("front left leg mass", 0.01, 3)
    assert ranges["HalfCheetah"][1][2] == ("bthigh mass", 0.1, 3)


def test_names_of_an_environment_without_a_set():
    there = known("Swimmer-v5")
    assert {"torso mass", "mid mass", "friction", "damping", "strength", "gravity", "wind"} <= there.keys()
    assert chosen("mid mass, wind", "Swimmer-v5") == (there["mid mass"], there["wind"])
    assert known("MountainCar-v0") == {}


@pytest.mark.parametrize(
    ("over", "env_id", "error", "words"),
    [
        (None, "Swimmer-v5", ConfigError, "Swimmer-v5 has no set of parameters of its own: name some .* it has torso mass, mid mass"),
        (
            None,
            "MountainCar-v0",
            ConfigError,
            "it has none by name, but a file may set an attribute .*one of force, goal_position, .*gravity",
        ),
        (
            "torso mass",
            "InvertedPendulum-v5",
            EnvError,
            "has no physical parameter 'torso mass', .* it has pole mass, cart mass, .*sets: 2d",
        ),
        ("3d", "InvertedPendulum-v5", EnvError, "no physical parameter '3d'"),
        ("wind,wind", "Hopper-v5", ConfigError, "wind,wind names 'wind' twice"),
        ("nowhere.json", "Hopper-v5", ConfigError, "nowhere.json cannot be read"),
    ],
)
def test_what_is_not_there_is_named(over, env_id, error, words):
    with pytest.raises(error, match=words):
        chosen(over, env_id)


def test_a_file_of_ones_own(tmp_path):
    path = tmp_path / "mine.json"
    rows = [{"name": "trunk", "low": 1, "high": 3, "what": "body_mass", "of": "torso"}, {"name": "wind", "low": -5, "high": 5}]
    path.write_text(json.dumps({"parameters": rows}))
    trunk, wind = chosen(str(path), "Hopper-v5")
    assert (trunk.name, trunk.of, trunk.unit) == ("trunk", "torso", "kg")
    assert (wind.what, wind.low, wind.high) == ("wind", -5.0, 5.0)


ROW = {"name": "torso mass", "low": 1, "high": 3, "what": "body_mass", "of": "torso"}


@pytest.mark.parametrize(
    ("content", "error", "words"),
    [
        ("{", ConfigError, "cannot be read as JSON"),
        ("[]", ConfigError, "must hold a list called 'parameters'"),
        ({"parameters": []}, ConfigError, "at least one entry"),
        ({"parameters": [3]}, ConfigError, "entry 0 must be an object with a 'name'"),
        ({"parameters": [ROW, {"low": 1}]}, ConfigError, "entry 1 must be an object"),
        ({"parameters": [ROW | {"hihg": 2}]}, ConfigError, "entry 0 has a field 'hihg'"),
        ({"parameters": [{**ROW, "low": "1"}]}, ConfigError, r"entry 0 \(torso mass\): 'low' is '1', not a number"),
        ({"parameters": [{"name": "torso mass", "low": 1}]}, ConfigError, "'high' is None, not a number"),
        ({"parameters": [ROW | {"low": 5}]}, ConfigError, "entry 0: torso mass ranges from 5.0 to 3.0"),
        ({"parameters": [ROW | {"low": -1}]}, ConfigError, "entry 0: torso mass is -1"),
        ({"parameters": [ROW | {"what": "mass"}]}, UnknownNameError, "unknown 'what' of .*entry 0 'mass': did you mean 'body_mass'"),
        ({"parameters": [ROW | {"what": 3}]}, ConfigError, "'what' and 'of' must be text"),
        ({"parameters": [ROW, ROW]}, ConfigError, "names 'torso mass' twice"),
        (
            {"parameters": [{"name": "damping", "low": 0, "high": 2}, {**ROW, "name": "knee", "what": "damping", "of": "leg_joint"}]},
            ConfigError,
            "'damping' and 'knee' both set the damping of the same thing",
        ),
        (
            {"parameters": [{"name": "knee mass", "low": 1, "high": 2}]},
            EnvError,
            "entry 0: Hopper-v5 has no physical parameter 'knee mass'",
        ),
    ],
)
def test_what_is_wrong_in_a_file_is_named(tmp_path, content, error, words):
    path = tmp_path / "mine.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(error, match=words):
        read_set(path, "Hopper-v5")
