"""Columns to a log: marks, missing next observations, action spaces, and what is refused, with row and value."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from surefoot.data import packing
from surefoot.data.columns import sliced
from surefoot.data.log import Log
from surefoot.data.metadata import WARNINGS, Metadata
from surefoot.data.packing import Request, pack
from surefoot.data.spec import Continuous, Discrete, Spec
from surefoot.errors import DataError, EnvError


def fields(n=12, seed=0) -> dict[str, np.ndarray]:
    """Two episodes of one world: the first terminates at row 4, the second is cut off at the last row."""
    rng = np.random.default_rng(seed)
    obs = rng.standard_normal((n, 2))
    return {
        "obs": obs,
        "action": rng.uniform(-1, 1, (n, 1)),
        "reward": rng.standard_normal(n),
        "next_obs": np.concatenate([obs[1:], [[9.0, 9.0]]]),
        "terminated": np.arange(n) == 4,
        "truncated": np.arange(n) == n - 1,
    }


def packed(arrays, metadata=None, file_starts=(), **request) -> Log:
    columns = {name: (lambda name=name: sliced(name, arrays[name])) for name in arrays}
    return pack(columns, Request("memory", **request), metadata, file_starts)


def without(arrays, *names):
    return {name: value for name, value in arrays.items() if name not in names}


def renamed(arrays, **names):
    return {names.get(name, name): value for name, value in arrays.items()}


def warnings(log: Log) -> str:
    return log.notes.get(WARNINGS, "")


# --- fields ---------------------------------------------------------------------------------------------------------


def test_the_packed_log_is_that_of_the_arrays():
    f = fields()
    box = Continuous((-1.0,), (1.0,))
    assert packed(f, action_space=box).fingerprint == Log.from_arrays(**f, action_space=box).fingerprint


def test_other_names_for_the_same_fields():
    f = fields()
    names = {
        "obs": "observations",
        "action": "actions",
        "reward": "rewards",
        "next_obs": "next_observations",
        "terminated": "terminals",
        "truncated": "timeouts",
    }
    assert packed(renamed(f, **names)).fingerprint == packed(f).fingerprint
    flat = f | {"reward": f["reward"][:, None], "terminated": f["terminated"].astype(np.uint8)[:, None], "action": f["action"][:, 0]}
    assert packed(flat).fingerprint == packed(f).fingerprint


@pytest.mark.parametrize("rows", [1, 5, 12])
def test_slices_do_not_matter(rows, monkeypatch):
    expected = packed(fields())
    derived = packed(without(fields(), "next_obs"))
    monkeypatch.setattr("surefoot.data.columns.SLICE", rows)
    monkeypatch.setattr(packing, "SLICE", rows)
    assert packed(fields()).fingerprint == expected.fingerprint
    assert packed(without(fields(), "next_obs")).fingerprint == derived.fingerprint


@pytest.mark.parametrize(
    ("field", "row", "value", "words"),
    [
        ("obs", 3, np.nan, "'obs' is nan in row 3, feature 1"),
        ("action", 7, -np.inf, "'action' is -inf in row 7"),
        ("reward", 11, np.inf, "'reward' is inf in row 11"),
        ("next_obs", 0, np.nan, "'next_obs' is nan in row 0, feature 1"),
        ("reward", 2, 1e300, r"'reward' is 1e\+300 in row 2 \(too large for 32 bits\)"),
        ("terminated", 5, np.nan, "'terminated' is nan in row 5"),
        ("truncated", 6, 2.0, "'truncated' is 2.0 in row 6: it must be 0 or 1"),
    ],
)
def test_field_row_and_value_are_named(field, row, value, words, monkeypatch):
    monkeypatch.setattr("surefoot.data.columns.SLICE", 5)  # the row is that of the file, not of the slice
    f = fields()
    f[field] = f[field].astype(float)
    f[field].reshape(12, -1)[row, -1] = value
    with pytest.raises(DataError, match=words):
        packed(f)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda f: without(f, "reward"), "no field 'reward'.*it holds action, next_obs"),
        (lambda f: without(f, "action"), "no field 'action'"),
        (lambda f: without(f, "obs"), "no field 'obs'"),
        (lambda f: f | {"action": f["action"][:-5]}, "'action' has 7 rows, but 'reward' has 12"),
        (lambda f: f | {"next_obs": f["next_obs"][:-1]}, "'next_obs' has 11 rows"),
        (lambda f: f | {"next_obs": f["next_obs"][:, :1]}, "'next_obs' has 1 features, but the observations have 2"),
        (lambda f: f | {"terminated": f["terminated"][:-1]}, "'terminated' has 11 rows"),
        (lambda f: f | {"terminated": np.zeros((12, 2))}, "one mark a transition"),
        (lambda f: f | {"obs": f["obs"].astype(str)}, "'obs' holds text instead of numbers"),
        (lambda f: f | {"obs": f["obs"].astype(complex)}, "'obs' holds complex128"),
        (lambda f: f | {"obs": f["obs"][:, :0]}, "no features"),
        (lambda f: f | {"obs": np.zeros((12, 8, 8, 3), np.uint8)}, "images"),
        (lambda f: {k: v[:0] for k, v in f.items()}, "no transitions"),
        (lambda f: {k: v[:1] for k, v in f.items()}, "only one transition"),
        (lambda f: f | {"action": np.zeros((12, 2), int)}, "2 integers a row"),
        (lambda f: f | {"action": np.full(12, -1)}, "'action' is -1 in row 0"),
    ],
)
def test_what_cannot_be_a_log(change, words):
    with pytest.raises(DataError, match=words):
        packed(change(fields()))


# --- where episodes end ---------------------------------------------------------------------------------------------


def test_nothing_marks_an_end():
    f = fields()
    with pytest.raises(DataError, match=r"'terminated' or 'truncated'.*--one-episode"):
        packed(without(f, "terminated", "truncated"))
    never = f | {"terminated": np.zeros(12), "truncated": np.zeros(12)}
    with pytest.raises(DataError, match=r"'truncated' are never set.*one_episode=True"):
        packed(never)
    for arrays in (without(f, "terminated", "truncated"), never):
        log = packed(arrays, one_episode=True)
        assert log.episode_lengths.tolist() == [12]
        assert log.transitions.terminated.sum() == 0
    assert packed(f, one_episode=True).episode_lengths.tolist() == [5, 7]  # marks that are there count


def test_one_kind_of_mark_is_enough():
    assert packed(without(fields(), "truncated")).episode_lengths.tolist() == [5, 7]
    log = packed(without(fields(), "terminated"))
    assert log.episode_lengths.tolist() == [12]
    assert log.transitions.terminated.sum() == 0


@pytest.mark.parametrize("ids", [[3] * 6 + [1] * 6, list("a" * 6 + "b" * 6), [0.5] * 6 + [0.25] * 6])
def test_episode_ids_mark_ends(ids):
    f = without(fields(), "truncated", "terminated") | {"episode": np.array(ids)}
    log = packed(f)
    assert log.episode_lengths.tolist() == [6, 6]
    assert log.transitions.terminated.sum() == 0
    both = packed(f | {"terminated": fields()["terminated"]})
    assert both.episode_lengths.tolist() == [5, 1, 6]
    assert "come back" not in warnings(log)


def test_episode_ids_that_are_mixed_or_missing():
    f = without(fields(), "truncated", "terminated")
    assert "rows of an episode must stand together" in warnings(packed(f | {"episode": np.tile([0, 1, 2], 4)}))
    ids = np.zeros(12)
    ids[8] = np.nan
    with pytest.raises(DataError, match="'episode' is missing in row 8"):
        packed(f | {"episode": ids})
    named = np.array(["a"] * 12, object)
    named[2] = None
    with pytest.raises(DataError, match="'episode' is missing in row 2"):
        packed(f | {"episode": named})


def test_done_is_terminated_unless_a_time_limit_set_it_too():
    f = fields()
    done = f["terminated"] | f["truncated"]
    log = packed(without(f, "terminated") | {"dones": done})
    assert log.fingerprint == packed(f).fingerprint
    assert "dones" not in warnings(log)
    alone = packed(without(f, "terminated", "truncated") | {"done": done})
    assert alone.transitions.terminated.sum() == 2
    assert "'done' was read as terminated" in warnings(alone)


# --- next observations that are not there ---------------------------------------------------------------------------


def test_next_observations_come_from_the_following_row():
    f = fields()
    log = packed(without(f, "next_obs"))
    assert len(log) == 11  # the last row was cut off: what came next is not known
    assert log.episode_lengths.tolist() == [5, 6]
    t = log.transitions
    inside = ~log.ends
    inside[-1] = True  # the row before the dropped one: its next observation is the dropped row's
    np.testing.assert_array_equal(t.next_obs.numpy()[inside], f["obs"].astype(np.float32)[1:][inside])
    np.testing.assert_array_equal(t.next_obs[4].numpy(), t.obs[4].numpy())  # terminated: nothing is bootstrapped from there
    assert t.terminated.numpy().nonzero()[0].tolist() == [4]
    assert "taken from the following rows: 1 transitions" in warnings(log)


def test_an_episode_of_one_cut_off_row_vanishes():
    f = without(fields(), "next_obs", "terminated") | {"truncated": np.isin(np.arange(12), [3, 4, 11])}
    log = packed(f)
    assert log.episode_lengths.tolist() == [3, 6]
    with pytest.raises(DataError, match="whose next observation is unknown"):
        packed(f | {"truncated": np.ones(12)})


def d4rl_qlearning_dataset(obs, action, reward, terminals, timeouts):
    """The loop of D4RL's `qlearning_dataset`, row by row."""
    rows = []
    for i in range(len(reward) - 1):
        if timeouts[i]:
            continue
        rows.append((obs[i], action[i], reward[i], obs[i + 1], terminals[i]))
    return rows


@settings(max_examples=100, deadline=None)
@given(st.lists(st.sampled_from(["", "", "", "terminal", "timeout"]), min_size=4, max_size=40))
def test_derived_transitions_are_those_of_d4rl(kinds):
    n = len(kinds)
    rng = np.random.default_rng(n)
    terminals, timeouts = (np.array([kind == name for kind in kinds]) for name in ("terminal", "timeout"))
    f = {"observations": rng.standard_normal((n, 2)).astype(np.float32), "actions": rng.uniform(-1, 1, (n, 1)).astype(np.float32)}
    f |= {"rewards": rng.standard_normal(n).astype(np.float32), "terminals": terminals, "timeouts": timeouts}
    expected = d4rl_qlearning_dataset(f["observations"], f["actions"], f["rewards"], terminals, timeouts)
    kept_last = bool(terminals[-1])  # D4RL's loop stops one row early; a terminated last row is whole
    if len(expected) + kept_last < 2 or not (terminals | timeouts).any():
        return
    log = packed(f)
    t = log.transitions
    assert len(log) == len(expected) + kept_last
    for i, (obs, action, reward, next_obs, terminal) in enumerate(expected):
        np.testing.assert_array_equal(t.obs[i], obs)
        np.testing.assert_array_equal(t.action[i], action)
        assert (t.reward[i], t.terminated[i]) == (reward, terminal)
        if not terminal:
            np.testing.assert_array_equal(t.next_obs[i], next_obs)
    np.testing.assert_array_equal(t.next_obs.numpy()[:-1][~log.ends[:-1]], t.obs.numpy()[1:][~log.ends[:-1]])


def test_a_further_file_begins_an_episode_unless_it_continues():
    f = fields() | {"terminated": np.zeros(12), "truncated": np.arange(12) == 11}
    assert packed(f, file_starts=[3, 8]).episode_lengths.tolist() == [12]
    f["next_obs"] = f["next_obs"].copy()
    f["next_obs"][7] += 1.0
    assert packed(f, file_starts=[3, 8]).episode_lengths.tolist() == [8, 4]
    assert packed(without(f, "next_obs"), file_starts=[3, 8]).episode_lengths.tolist() == [2, 4, 3]


# --- action spaces --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("action", "space", "words"),
    [
        (np.tile([0, 2, 1], 4), Discrete(3), "the 3 actions 0 to 2"),
        (np.tile([0, 2, 1], 4)[:, None].astype(np.uint8), Discrete(3), "the 3 actions"),
        (np.tile([True, False], 6), Discrete(2), "the 2 actions"),
        (np.linspace(-0.2, 0.9, 12), Continuous((-1.0,), (1.0,)), "[-1, 1] in each dimension"),
        (np.linspace(-2.0, 0.5, 12)[:, None], Continuous((-2.0,), (0.5,)), "[-2, 0.5]"),
        (np.stack([np.linspace(0, 4, 12), np.full(12, 3.0)], 1), Continuous((0.0, 2.0), (4.0, 4.0)), "[0, 4], [2, 4]"),
    ],
)
def test_action_spaces_are_guessed_with_a_warning(action, space, words):
    log = packed(fields() | {"action": action})
    assert log.action == space
    assert len([line for line in warnings(log).splitlines() if line.startswith("the action space was taken to be")]) == 1
    assert words in warnings(log)


def test_a_given_space_wins_and_is_checked():
    f, given_box, files = fields(), Continuous((-3.0,), (3.0,)), Metadata(Continuous((-2.0,), (2.0,)), (2,), "Some-v0", {"a": "b"})
    assert packed(f, files, action_space=given_box).action == given_box
    log = packed(f, files)
    assert (log.action, log.env_id, log.notes) == (files.action, "Some-v0", {"a": "b"})
    assert packed(f | {"action": np.zeros(12)}, action_space=Discrete(2)).action == Discrete(2)  # whole numbers stored as floats
    f["action"][9] = 4.5
    with pytest.raises(DataError, match=r"'action' is 4.5 in row 9, dimension 0, outside \[-3, 3\]"):
        packed(f, action_space=given_box)
    with pytest.raises(DataError, match=r"'action' is .* in row 0, which is none of the actions 0 to 1:"):
        packed(f, action_space=Discrete(2))
    with pytest.raises(DataError, match="1 dimensions, but the action space given has 2"):
        packed(f, action_space=Continuous((0.0, 0.0), (1.0, 1.0)))
    with pytest.raises(DataError, match="2 numbers do not fit 2 discrete actions"):
        packed(f | {"action": np.eye(2)[np.zeros(12, int)]}, action_space=Discrete(2))


def test_rounding_on_the_way_into_a_file_is_no_error():
    f = fields()
    f["action"][0] = 1.0 + 1e-6
    packed(f, action_space=Continuous((-1.0,), (1.0,)))


def test_an_environment_that_disagrees():
    f, box = fields(), Continuous((-2.0,), (2.0,))
    log = packed(f, env=Spec((2,), box), env_id="Fits-v0")
    assert (log.action, log.env_id) == (box, "Fits-v0")
    with pytest.raises(EnvError, match=r"memory and Wide-v0 disagree: observations have shape \(2,\) in the log, \(3,\) in Wide-v0"):
        packed(f, env=Spec((3,), box), env_id="Wide-v0")
    with pytest.raises(EnvError, match="actions of 1 dimension, Arm-v0 has continuous actions of 2 dimensions"):
        packed(f, env=Spec((2,), Continuous((-1.0,) * 2, (1.0,) * 2)), env_id="Arm-v0")
    with pytest.raises(DataError, match="none of the actions 0 to 1 of Two-v0"):
        packed(f, env=Spec((2,), Discrete(2)), env_id="Two-v0")


def test_flat_observations_take_the_shape_of_the_environment():
    f = fields() | {"obs": np.zeros((12, 6)), "next_obs": np.zeros((12, 6))}
    assert packed(f, env=Spec((2, 3), Continuous((-1.0,), (1.0,)))).obs_shape == (2, 3)
    assert packed(f, Metadata(obs_shape=(3, 2))).obs_shape == (3, 2)
    assert packed(f | {"obs": np.zeros((12, 2, 3)), "next_obs": np.zeros((12, 2, 3))}).obs_shape == (2, 3)
    assert packed(f | {"obs": np.zeros(12), "next_obs": np.zeros(12)}).obs_shape == (1,)
