"""Shifts by hand and against libraries, RA-NLD's protocols on small policies, and their picture."""

import json
from functools import partial

import numpy as np
import pytest
import torch
from scipy import ndimage

from surefoot.data.spec import Discrete, Spec
from surefoot.envs.labels import LABELS, labels
from surefoot.envs.making import env_spaces
from surefoot.errors import ConfigError, EnvError, PolicyError, UnknownNameError
from surefoot.evaluation.diagnosing import cross_entropy_gradients, gradients, principal, quotient
from surefoot.evaluation.diagnosing_attacks import deepfool, elastic, fgsm, nesterov
from surefoot.evaluation.diagnosing_shifts import (
    Shift,
    Shifted,
    blurred,
    chosen,
    compressed,
    linear,
    moved,
    rotated,
    shifts,
    tilted,
    visited_under,
)
from surefoot.evaluation.diagnosis import Diagnosis, Settings, check, compared, diagnose, units, white
from surefoot.evaluation.diagnosis_map import draw, frames_of
from surefoot.evaluation.rollouts import rollout
from surefoot.evaluation.visited import visited
from surefoot.policies.external import FunctionPolicy
from surefoot.policies.families import Categorical, Deterministic
from surefoot.policies.frame_stack import FrameStack

CATCH, CARTPOLE, ATARI = "surefoot/Catch-v0", "CartPole-v1", "surefoot/AtariPong-v0"


def policy_for(env_id, seed=0, **options):
    generator = torch.Generator().manual_seed(seed)
    return Categorical(env_spaces(env_id), (16,), generator=generator, **options)


# --- shifts -----------------------------------------------------------------------------------------------------------


def picture(*shape):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(1))


def test_natural_changes_by_hand():
    x = torch.tensor([[[0.0, 1.0], [2.0, 3.0]]])
    assert linear(2.0, 0.5)(x).tolist() == [[[0.5, 2.5], [4.5, 6.5]]]
    assert moved(0, 1)(x).tolist() == [[[0.0, 0.0], [2.0, 2.0]]]
    assert moved(-1, 0)(x).tolist() == [[[2.0, 3.0], [2.0, 3.0]]]


def test_changes_equal_those_of_scipy():
    x = picture(2, 12, 15)
    for side in (3, 5):
        expected = np.stack([ndimage.uniform_filter(image, side, mode="nearest") for image in x.numpy()])
        assert blurred(side)(x).numpy() == pytest.approx(expected, abs=1e-5)
    turned = rotated(20.0)(x)[:, 3:-3, 3:-3].numpy()
    expected = np.stack([ndimage.rotate(image, 20.0, reshape=False, order=1, mode="nearest")[3:-3, 3:-3] for image in x.numpy()])
    assert turned == pytest.approx(expected, abs=1e-4)
    assert rotated(0.0)(x).numpy() == pytest.approx(x.numpy(), abs=1e-5)


def test_perspective_moves_the_corners_and_not_the_middle():
    columns = torch.linspace(0.0, 1.0, 101).expand(1, 101, 101).contiguous()
    seen = tilted(0.1)(columns)[0]
    assert seen[50].numpy() == pytest.approx(columns[0, 50].numpy(), abs=1e-5)
    assert seen[0, 75] > 0.75 + 0.01 > 0.75 - 0.01 > seen[-1, 75]
    assert tilted(0.0)(columns).numpy() == pytest.approx(columns.numpy(), abs=1e-5)


def test_compression_loses_a_little_and_knows_what_white_is():
    x = picture(2, 24, 24)
    once = compressed(30, 1.0)(x)
    assert 0.0 < (once - x).abs().mean() < 0.3
    torch.testing.assert_close(compressed(30, 255.0)(255.0 * x), 255.0 * once)
    flat = torch.full((1, 16, 16), 0.5)
    assert (compressed(90, 1.0)(flat) - flat).abs().max() < 0.01


def test_every_frame_of_a_stack_is_changed_alike_wherever_the_channels_are():
    frames = picture(3, 4, 10, 11)
    policy = Categorical(Spec((4, 10, 11), Discrete(2)), (4,))
    shift = Shift("blur", blurred(3))
    changed = shift(frames, policy, None)
    torch.testing.assert_close(changed[:, 2], blurred(3)(frames[:, 2]))
    torch.testing.assert_close(shift(frames.movedim(1, -1), policy, None), changed.movedim(1, -1))
    vector = Shift("gain", linear(1.2, 0.0), images=False)
    torch.testing.assert_close(vector(frames[:, 0, 0], policy, None), 1.2 * frames[:, 0, 0])


def test_fgsm_steps_along_the_sign_of_the_gradient():
    policy = policy_for(CARTPOLE)
    obs, unit = picture(9, 4), torch.tensor([1.0, 2.0, 0.0, 0.5])
    step = fgsm(policy, obs, None, 0.1, unit) - obs
    torch.testing.assert_close(step, 0.1 * unit * cross_entropy_gradients(policy, obs).sign(), rtol=1e-4, atol=1e-6)
    continuous = Deterministic(env_spaces("Pendulum-v1"), (8,))
    swing = picture(9, 3)
    near = fgsm(continuous, swing, None, 0.01)
    assert ((continuous(near) - continuous(swing)).abs() > 0.0).all()
    torch.testing.assert_close((near - swing).abs(), torch.full((9, 3), 0.01), rtol=1e-3, atol=1e-6)


def test_nesterov_stays_within_eps_and_does_more_harm_than_a_step():
    policy, obs = policy_for(CATCH), picture(50, 2, 10, 10)
    best = policy(obs).argmax(-1)

    def harm(seen):
        return torch.nn.functional.cross_entropy(policy(seen), best, reduction="none")

    moved_by = nesterov(policy, obs, None, 0.1)
    assert (moved_by - obs).abs().max() <= 0.1 + 1e-6
    assert (harm(moved_by) >= harm(fgsm(policy, obs, None, 0.1)) - 1e-3).float().mean() > 0.8
    unit = torch.zeros(200)
    unit[3] = 2.0
    only = nesterov(policy, obs, None, 0.1, unit) - obs
    assert only.flatten(1)[:, 3].abs().max() <= 0.2 + 1e-6
    assert only.flatten(1)[:, 4:].abs().max() == 0.0


def test_deepfool_steps_to_the_nearest_border_of_a_linear_policy():
    """The distance to the border with action a is |Q(a) - Q(a*)| / |w_a - w_a*|; 2 % further another action wins."""
    policy = Categorical(Spec((4,), Discrete(3)), (), generator=torch.Generator().manual_seed(0))
    obs = picture(20, 4)
    q, w = policy(obs).detach(), policy.net.weights[0].detach().T
    best = q.argmax(-1)
    distances = (q.gather(-1, best[:, None]) - q) / (w[best][:, None] - w).norm(dim=-1).clamp_min(1e-12)
    nearest = torch.where(torch.nn.functional.one_hot(best, 3).bool(), torch.inf, distances).amin(-1)
    seen = deepfool(policy, obs, None)
    torch.testing.assert_close((seen - obs).norm(dim=-1), 1.02 * nearest, rtol=0.02, atol=1e-3)
    assert (policy(seen).argmax(-1) != best).all()


def test_deepfool_and_elastic_net_find_other_actions_of_a_network():
    policy, obs = policy_for(CATCH), picture(30, 2, 10, 10)
    best = policy(obs).argmax(-1)
    changes = {
        name: attack(policy, obs, None) - obs
        for name, attack in (("deepfool", deepfool), ("cw", elastic), ("elastic", partial(elastic, beta=0.3)))
    }
    for change in changes.values():
        assert (policy(obs + change).argmax(-1) != best).float().mean() > 0.9
    least = {name: change.flatten(1).norm(dim=-1).mean() for name, change in changes.items()}
    assert least["cw"] < 2.0 * least["deepfool"]
    untouched = {name: (change == 0.0).float().mean() for name, change in changes.items()}
    assert untouched["elastic"] > 0.3 > 0.05 > untouched["cw"]  # the l1 norm leaves numbers as they are
    with pytest.raises(PolicyError, match="needs discrete actions"):
        deepfool(Deterministic(env_spaces("Pendulum-v1"), (8,)), picture(2, 3), None)


def test_a_shifted_policy_acts_on_what_it_sees_and_its_states_are_those():
    policy = policy_for(CARTPOLE)
    double = Shift("double", linear(2.0, 0.1), images=False)
    obs = picture(7, 4)
    assert torch.equal(Shifted(policy, double).act(obs)[0], policy.act(2.0 * obs + 0.1)[0])
    options = {"episodes": 3, "seed": 4, "max_steps": 30}
    plain = visited(Shifted(policy, double), CARTPOLE, 50, **options)[0]
    shown = visited_under(double, policy, CARTPOLE, 50, **options)
    torch.testing.assert_close(shown.obs, 2.0 * plain.obs + 0.1)
    with pytest.raises(ConfigError, match="member by member"):
        Shifted(Categorical(env_spaces(CARTPOLE), (4,), (2,)), double)


def test_there_are_shifts_for_images_and_for_vectors():
    hostile = {"fgsm", "nesterov", "deepfool", "cw", "elastic"}
    natural = {"brightness", "blur", "rotation", "perspective", "move", "compression"}
    assert set(shifts(env_spaces(CATCH), eps=0.01)) == natural | hostile
    assert set(shifts(env_spaces("Pendulum-v1"), eps=0.01)) == {"gain", "offset", "fgsm"}
    known = shifts(env_spaces(CARTPOLE), eps=0.1, unit=torch.tensor([1.0, 2.0, 3.0, 4.0]))
    assert set(known) == {"gain", "offset"} | hostile
    moved_by = known["offset"](torch.zeros(2, 4), policy_for(CARTPOLE), None)
    assert moved_by.tolist() == [[0.5, 1.0, 1.5, 2.0]] * 2
    with pytest.raises(UnknownNameError, match="fgsm"):
        chosen(["fgms"], known)
    with pytest.raises(ConfigError, match="odd"):
        blurred(2)
    with pytest.raises(ConfigError, match="1 to 95"):
        compressed(0, 1.0)


# --- protocols ----------------------------------------------------------------------------------------------------------


def test_a_diagnosis_is_made_of_its_parts():
    policy = policy_for(CATCH, network="conv")
    settings = Settings(CATCH, episodes=12, states=200, seed=3)
    blur = Shift("blur", blurred(3))
    said = []
    found = diagnose(policy, settings, [blur], say=said.append)
    (own,), (other,) = (visited(policy, CATCH, 200, episodes=12, seed=seed) for seed in (3, 4))
    rows = gradients(policy, own)
    direction = principal(rows)
    assert found.directions.direction == pytest.approx(direction.direction)
    assert found.ceiling == pytest.approx(quotient(principal(gradients(policy, other)).direction, rows))
    under = gradients(policy, visited_under(blur, policy, CATCH, 200, episodes=12, seed=3))
    assert found.shifts == {"blur": pytest.approx(quotient(principal(under).direction, rows))}
    assert found.by_step.shape == (9,)
    assert found.by_step == pytest.approx(direction.norms.reshape(12, 9).mean(0))
    assert said[-1] == "playing under blur"
    told = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert told["direction"] == pytest.approx(direction.direction, rel=1e-5)
    assert {"explained", "eigenvalues", "states_90", "norm_mean", "norm_cv", "norms_by_step", "ceiling", "shifts"} <= set(told)


def test_two_policies_are_compared_in_the_same_units():
    a, b = (policy_for(CATCH, seed) for seed in (0, 1))
    settings = Settings(CATCH, episodes=5, states=100)
    own, other = (diagnose(policy, settings) for policy in (a, b))
    there, back = compared(own, other)
    assert there == pytest.approx(quotient(other.directions.direction, own.rows))
    assert back == pytest.approx(quotient(own.directions.direction, other.rows))
    assert compared(own, own) == pytest.approx((1.0, 1.0))
    assert max(there, back) < 0.9  # of other weights


def test_units_are_the_deviations_over_the_states():
    policy = policy_for(CARTPOLE)
    (states,) = visited(policy, CARTPOLE, 100, episodes=5, seed=0)
    unit = units("deviation", states)
    assert unit.numpy() == pytest.approx(states.obs.numpy().std(0), rel=1e-5)
    assert units("observation", states) is None
    scaled = diagnose(policy, Settings(CARTPOLE, episodes=5, states=100, unit=unit), states=states)
    assert scaled.directions.direction == pytest.approx(principal(gradients(policy, states) * unit).direction)


def test_a_policy_with_memory_is_diagnosed_by_its_newest_frame():
    inner = Categorical(Spec((12,), Discrete(2)), (8,))
    policy = FrameStack(inner, 3)
    settings = Settings(CARTPOLE, episodes=3, states=60, max_steps=30)
    found = diagnose(policy, settings, [Shift("gain", linear(1.2, 0.0), images=False)])
    states = settings.visited(policy)
    stacked = torch.cat([states.memory["frames"][:, 1:], states.obs.unsqueeze(1)], 1)
    first = ~states.memory["started"]
    stacked[first] = states.obs[first].unsqueeze(1)
    whole = cross_entropy_gradients(inner.net, stacked.flatten(1)).unflatten(1, (3, 4))
    newest = torch.where(first[:, None], whole.sum(1), whole[:, -1])  # the first frame is in all places
    torch.testing.assert_close(found.rows[:, 0], newest, rtol=1e-4, atol=1e-5)
    assert rollout(Shifted(policy, Shift("same", linear(1.0, 0.0), images=False)), CARTPOLE, 4, seed=0).returns == pytest.approx(
        rollout(policy, CARTPOLE, 4, seed=0).returns
    )


def test_an_atari_game_from_pixels():
    pytest.importorskip("ale_py")
    policy = policy_for(ATARI, network="conv")
    settings = Settings(ATARI, episodes=1, states=6, max_steps=8)
    found = diagnose(policy, settings, [Shift("fgsm", attack=partial(fgsm, eps=0.01))])
    assert found.directions.direction.shape == (4 * 84 * 84,)
    assert set(found.shifts) == {"fgsm"}
    assert 0.0 < found.ceiling <= 1.0


def test_a_state_s_direction_is_found_where_the_policy_looks():
    """A policy that looks at two pixels alone, and at one of them four times as much."""
    policy = Categorical(env_spaces(CATCH), ())
    with torch.no_grad():
        policy.net.weights[0].zero_()
        policy.net.weights[0][155] = torch.tensor([4.0, 0.0, -4.0])
        policy.net.weights[0][17] = torch.tensor([1.0, 0.0, -1.0])
    found = diagnose(policy, Settings(CATCH, episodes=3)).directions
    expected = np.zeros(200)
    expected[155], expected[17] = 4.0, 1.0
    assert found.direction == pytest.approx(expected / 17**0.5, abs=1e-6)
    assert found.explained == pytest.approx(1.0)


def test_misuse():
    settings = Settings(CARTPOLE, episodes=1)
    function = FunctionPolicy(lambda x: np.zeros(len(x), int), env_spaces(CARTPOLE), "python:mine:act")
    with pytest.raises(PolicyError, match="gives no gradient"):
        diagnose(function, settings)
    with pytest.raises(ConfigError, match="member by member"):
        diagnose(Categorical(env_spaces(CARTPOLE), (4,), (2,)), settings)
    with pytest.raises(EnvError, match=r"Discrete\(16\).*needs observations in a Box"):
        check(policy_for(CARTPOLE), "FrozenLake-v1")
    with pytest.raises(EnvError, match="shows observations of shape"):
        diagnose(policy_for(CARTPOLE), Settings("Acrobot-v1", episodes=1))
    for wrong in ({"episodes": 0}, {"states": 0}, {"temperature": 0.0}, {"temperature": float("nan")}, {"seed": -1}):
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            Settings(CARTPOLE, **wrong)


# --- labels and the picture -----------------------------------------------------------------------------------------------


def test_the_numbers_of_known_environments_have_names():
    assert labels(CARTPOLE) == LABELS["CartPole"]
    assert labels("Pendulum-v1") == ("cos angle", "sin angle", "velocity")
    assert labels("surefoot/Line-v0") == ("position",)
    assert labels(CATCH) is None
    hopper = labels("Hopper-v5")
    assert hopper[:3] == ("rootz", "rooty", "thigh_joint")
    assert (len(hopper), hopper[-1]) == (11, "foot_joint velocity")
    ant = labels("Ant-v5")
    assert (len(ant), ant[0], ant[5], ant[-1]) == (105, "root z", "hip_1", "cfrc_ext 77")


def test_white_is_the_upper_end_of_the_observation_space():
    assert white(CATCH) == 1.0
    assert white(CARTPOLE) == 1.0  # no upper end that means anything


@pytest.mark.parametrize(("shape", "against"), [((4,), True), ((4,), False), ((2, 5, 6), True), ((5, 6, 3), False)])
def test_the_picture_is_drawn(tmp_path, shape, against):
    d = int(np.prod(shape))
    rng = np.random.default_rng(0)

    def one():
        directions = principal(torch.from_numpy(rng.normal(size=(20, d))))
        found = Diagnosis(directions, torch.zeros(20, 1, d), np.array([1.0, np.nan, 2.0]), 0.9, {"blur": 0.4})
        return found.to_json()

    members = [{"member": i, **one()} for i in range(2)]
    result = {"policy": "run", "obs_shape": list(shape), "labels": None, "members": members}
    if against:
        for member in members:
            member["against"] = one() | {"fcq": 0.3, "fcq_back": 0.2}
        result["against"] = {"policy": "other", "fcq": 0.3, "fcq_back": 0.2}
    draw(result, tmp_path / "picture.png")
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")


def test_frames_of_a_picture():
    direction = np.arange(24.0)
    assert frames_of(direction, (2, 3, 4))[1, 0].tolist() == [12.0, 13.0, 14.0, 15.0]
    assert frames_of(np.arange(5 * 6 * 3.0), (5, 6, 3)).shape == (3, 5, 6)
    assert frames_of(direction, (4, 6)).shape == (1, 4, 6)
