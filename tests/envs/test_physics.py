"""Physics that is set: what changes in the model, at reset and at random, on every kind of environment, and what is refused."""

import warnings

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from surefoot.envs.making import make_env
from surefoot.envs.physics import KINDS, Parameter, Physical, Points, grid, scaled
from surefoot.errors import ConfigError, EnvError, UnknownNameError

POLE = Parameter("pole mass", 1.0, 31.0, "body_mass", "pole")
CART = Parameter("cart mass", 1.0, 11.0, "body_mass", "cart")


def pendulum(**options):
    return Physical(make_env("InvertedPendulum-v5"), (POLE, CART), **options)


def shown(env, seed, n=20, options=None):
    """What n steps of a fixed push show after a reset."""
    found = [env.reset(seed=seed, options=options)[0]]
    for _ in range(n):
        found.append(env.step(np.full(env.action_space.shape, 0.3, np.float32))[0])
    return np.array(found)


def test_values_are_set_at_construction_and_at_reset_and_stay():
    env = pendulum(values=(20.0, 3.0))
    model = env.unwrapped.model
    assert env.nominal == pytest.approx([5.0185, 10.4720], abs=1e-4)  # of Gymnasium's v5; the paper's older model had 4.90 and 9.42
    assert (model.body("pole").mass[0], model.body("cart").mass[0]) == (20.0, 3.0)
    _, info = env.reset(seed=0, options={"physics": [7.0, 2.0]})
    assert info["physics"] == {"pole mass": 7.0, "cart mass": 2.0}
    env.reset(seed=1)
    assert env.values.tolist() == [7.0, 2.0] == [model.body_mass[2], model.body_mass[1]]


def test_as_made_it_plays_as_if_it_were_not_wrapped():
    np.testing.assert_array_equal(shown(pendulum(), 3), shown(make_env("InvertedPendulum-v5"), 3))


def test_other_physics_play_differently_from_the_same_start():
    light, heavy = shown(pendulum(), 3, options={"physics": [1.0, 1.0]}), shown(pendulum(), 3, options={"physics": [31.0, 11.0]})
    np.testing.assert_array_equal(light[0], heavy[0])
    assert np.abs(light[1:] - heavy[1:]).max() > 0.1


def test_randomisation_is_uniform_over_the_set_and_a_function_of_the_seed():
    env, other = pendulum(randomise=True), pendulum(randomise=True)
    drawn = []
    for seed in range(400):
        env.reset(seed=seed)
        drawn.append(env.values)
    drawn = np.array(drawn)
    unit = (drawn - [1.0, 1.0]) / [30.0, 10.0]
    assert (unit > 0.0).all() and (unit < 1.0).all()
    assert np.abs(unit.mean(0) - 0.5).max() < 4 * 0.2887 / 20
    other.reset(seed=7)
    np.testing.assert_array_equal(other.values, drawn[7])
    other.reset()  # goes on with its own stream
    assert not np.array_equal(other.values, drawn[7])
    other.reset(seed=1, options={"physics": [2.0, 2.0]})
    assert other.values.tolist() == [2.0, 2.0]


def test_it_is_a_gymnasium_environment():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it is wrapped, and that its actions are not in [-1, 1]
        check_env(Physical(gym.make("Pendulum-v1"), (Parameter("mass", 0.5, 2.0, "attribute", "m"),)), skip_render_check=True)


def test_the_other_kinds_in_a_mujoco_model():
    env = make_env("Hopper-v5")
    kinds = {"friction": "", "damping": "", "strength": "", "gravity": "", "wind": ""}
    parameters = [Parameter(kind, 0.1, 5.0, kind, of) for kind, of in kinds.items()]
    model = env.unwrapped.model
    damping, gear = model.dof_damping.copy(), model.actuator_gear.copy()
    wrapped = Physical(env, parameters)
    assert wrapped.nominal.tolist() == pytest.approx([1.0, 1.0, 1.0, 9.81, 0.0])
    wrapped.set([0.3, 2.0, 0.5, 5.0, 4.0])
    assert model.geom_friction[0, 0] == 0.3 and model.geom("floor").friction[0] == 0.3
    np.testing.assert_allclose(model.dof_damping, 2.0 * damping)
    np.testing.assert_allclose(model.actuator_gear, 0.5 * gear)
    assert model.opt.gravity[2] == -5.0 and model.opt.wind[0] == 4.0 and model.opt.density == pytest.approx(1.2)
    wrapped.set(wrapped.nominal)  # all the way back: factors are of what was made
    np.testing.assert_allclose(model.dof_damping, damping)
    assert model.opt.density == 0.0


def test_single_joints_and_actuators():
    env = make_env("Hopper-v5")
    model = env.unwrapped.model
    env = Physical(env, [Parameter("a", 0.1, 5.0, "damping", "foot_joint"), Parameter("b", 0.1, 5.0, "strength", "thigh_joint")])
    before, gear = model.dof_damping.copy(), model.actuator_gear[:, 0].copy()
    env.set([3.0, 2.0])
    changed = model.dof_damping != before
    assert changed.sum() == 1 and changed[model.joint("foot_joint").dofadr[0]]
    assert (model.actuator_gear[:, 0] != gear).tolist() == [True, False, False]


def test_wind_moves_what_flies():
    """A hopper in the wind is elsewhere than one without, and the other way round for the opposite wind."""
    wind = Parameter("wind", -20.0, 20.0, "wind")

    def place(speed):
        env = Physical(make_env("Hopper-v5"), (wind,), values=[speed])
        env.reset(seed=0)
        for _ in range(10):
            env.step(np.zeros(3, np.float32))
        return float(env.unwrapped.data.qpos[0])

    assert place(-20.0) < place(0.0) < place(20.0)


def test_classic_control_has_attributes_and_cart_pole_its_products():
    env = Physical(
        gym.make("CartPole-v1"), [Parameter("m", 0.1, 2.0, "attribute", "masspole"), Parameter("l", 0.1, 2.0, "attribute", "length")]
    )
    assert env.nominal.tolist() == [0.1, 0.5]
    env.set([1.0, 2.0])
    assert (env.unwrapped.total_mass, env.unwrapped.polemass_length) == (2.0, 2.0)


# --- points -----------------------------------------------------------------------------------------------------------


def test_a_grid_goes_from_end_to_end():
    points = grid((POLE, CART), 3)
    assert points.values.tolist() == [[p, c] for p in (1.0, 16.0, 31.0) for c in (1.0, 6.0, 11.0)]
    assert scaled((POLE, CART), np.array([0.0, 1.0])).tolist() == [1.0, 11.0]


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        (lambda: Parameter("mass", 3.0, 1.0, "body_mass", "pole"), ConfigError, "mass ranges from 3.0 to 1.0"),
        (lambda: Parameter("mass", 0.0, 1.0, "body_mass", "pole"), ConfigError, "mass is 0: a body_mass is finite and at least 1e-06"),
        (lambda: Parameter("mass", 1.0, np.inf, "body_mass", "pole"), ConfigError, "two finite numbers"),
        (lambda: Parameter("mass", 1.0, 2.0, "body_mas", "pole"), UnknownNameError, "did you mean 'body_mass'"),
        (lambda: grid((POLE,), 1), ConfigError, "grid is 1"),
        (lambda: grid((POLE,) * 7, 10), ConfigError, "10,000,000 points"),
        (lambda: Points((POLE,), np.array([[np.nan]])), ConfigError, "pole mass is nan"),
        (lambda: Points((POLE,), np.array([[3.0, -2.0]])), ConfigError, "points by the 1 parameters"),
        (lambda: Points((POLE,), np.array([[-2.0]])), ConfigError, "pole mass is -2"),
        (lambda: pendulum(values=[1.0]), ConfigError, "one value for each of pole mass, cart mass"),
        (lambda: pendulum().reset(options={"physics": [0.0, 1.0]}), ConfigError, "pole mass is 0"),
    ],
)
def test_values_that_are_not_physical_are_refused(change, error, words):
    with pytest.raises(error, match=words):
        change()


@pytest.mark.parametrize(
    ("env_id", "what", "of", "words"),
    [
        ("InvertedPendulum-v5", "body_mass", "torso", "has no body 'torso': it has cart, pole"),
        ("InvertedPendulum-v5", "friction", "floor", "has no geom 'floor': it has rail, cart, cpole"),
        ("Hopper-v5", "damping", "knee", "has no joint 'knee': it has rootx, rootz, rooty, thigh_joint, leg_joint, foot_joint"),
        ("Hopper-v5", "strength", "knee", "has no actuator 'knee': it has thigh_joint, leg_joint, foot_joint"),
        ("Pendulum-v1", "body_mass", "pole", "is no MuJoCo environment and has no body"),
        ("Pendulum-v1", "wind", "", "is no MuJoCo environment and has no wind"),
        ("Pendulum-v1", "attribute", "mass", "has no number 'mass' that could be set: it has .*dt, g, .*l, m"),
    ],
)
def test_an_environment_without_the_parameter_says_what_it_has(env_id, what, of, words):
    with pytest.raises(EnvError, match=words):
        Physical(make_env(env_id), [Parameter("x", 0.5, 1.0, what, of)])


def test_every_kind_has_its_unit():
    assert {name: kind.unit for name, kind in KINDS.items()}["body_mass"] == "kg"
