"""What `validate` refuses, and what it warns of."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from surefoot.data import validation
from surefoot.data.log import Log
from surefoot.data.spec import Continuous, Discrete, Spec
from surefoot.data.validation import row_hashes, validate
from surefoot.errors import DataError, EnvError
from surefoot.evaluation.recording import record
from surefoot.recipes.pendulum import mixed_log

BOX = Continuous((-2.0,), (2.0,))
PENDULUM = Spec((3,), BOX)


def log_of(n=2000, length=100, **changes) -> Log:
    """Continuous episodes of one world, nothing odd about them."""
    rng = np.random.default_rng(0)
    obs = rng.standard_normal((n + 1, 3))
    fields = {
        "obs": obs[:-1],
        "action": rng.uniform(-2, 2, (n, 1)),
        "reward": rng.standard_normal(n),
        "next_obs": obs[1:],
        "terminated": np.zeros(n, bool),
        "truncated": (np.arange(n) + 1) % length == 0,
    }
    space = changes.pop("action_space", BOX)
    return Log.from_arrays(**(fields | changes), action_space=space)


def told(log: Log, **options) -> str:
    return "\n".join(validate(log, **options))


def test_good_logs_have_no_warnings():
    assert validate(log_of()) == []
    assert validate(mixed_log(seed=0)) == []
    assert validate(mixed_log(seed=0), env=PENDULUM, env_id="Pendulum-v1") == []
    cart = record("random", "CartPole-v1", episodes=60, seed=0)
    assert validate(cart) == ["all rewards are 1: only when an episode terminates tells good from bad"]


@pytest.mark.parametrize("rows", [1, 64, 1 << 16])
def test_slices_do_not_matter(rows, monkeypatch):
    log = log_of(n=300)
    log.packed[::7, 3] = 0.0
    log.packed[50:60] = log.packed[40:50]
    expected = validate(log)
    assert len(expected) == 2
    monkeypatch.setattr(validation, "SLICE", rows)
    assert validate(log) == expected


# --- errors ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("column", "value", "words"),
    [
        (1, np.nan, "'obs' is nan in row 1234, feature 1"),
        (3, np.inf, "'action' is inf in row 1234"),
        (3, 2.5, r"'action' is 2.5 in row 1234, dimension 0, outside \[-2, 2\]"),
        (4, -np.inf, "'reward' is -inf in row 1234"),
        (7, np.nan, "'next_obs' is nan in row 1234, feature 2"),
        (8, 0.5, "'terminated' is 0.5 in row 1234"),
        (8, 1.0, "'terminated' is 1 in row 1234, but its episode goes on"),
    ],
)
def test_row_and_value_are_named(column, value, words, monkeypatch):
    monkeypatch.setattr(validation, "SLICE", 500)
    log = log_of()
    log.packed[1234, column] = value
    with pytest.raises(DataError, match=words):
        validate(log)


def test_discrete_actions_are_whole_and_exist():
    rng = np.random.default_rng(0)
    log = log_of(action=rng.integers(4, size=2000), action_space=Discrete(4))
    assert validate(log) == []
    for value in (4.0, -1.0, 1.5):
        log.packed[7, 3] = value
        with pytest.raises(DataError, match=rf"'action' is {value:g} in row 7, which is none of the actions 0 to 3"):
            validate(log)


def test_sizes():
    with pytest.raises(DataError, match="only one transition"):
        validate(log_of(n=1))
    log = log_of()
    with pytest.raises(DataError, match="the last must be set"):
        validate(Log(log.packed, np.zeros(2000, bool), (3,), BOX))
    with pytest.raises(DataError, match="one mark of an episode's end a transition"):
        validate(Log(log.packed, log.ends[:-1], (3,), BOX))


def test_environments_that_disagree():
    log = log_of()
    with pytest.raises(EnvError, match=r"memory and Hopper-v5 disagree: .*\(3,\) in the log, \(11,\) in Hopper-v5"):
        validate(log, env=Spec((11,), Continuous((-1.0,) * 3, (1.0,) * 3)), env_id="Hopper-v5")
    with pytest.raises(EnvError, match="the log has actions of 1 dimension, Arm-v0 has continuous actions of 2 dimensions"):
        validate(log, env=Spec((3,), Continuous((-1.0,) * 2, (1.0,) * 2)), env_id="Arm-v0")
    with pytest.raises(DataError, match=r"outside \[-1, 1\] of Weak-v0"):
        validate(log, env=Spec((3,), Continuous((-1.0,), (1.0,))), env_id="Weak-v0")
    with pytest.raises(DataError, match="none of the actions 0 to 1 of Two-v0"):
        validate(log, env=Spec((3,), Discrete(2)), env_id="Two-v0")
    discrete = log_of(action=np.arange(2000) % 3, action_space=Discrete(3))
    with pytest.raises(EnvError, match="the log has discrete actions, Pendulum-v1 has continuous actions"):
        validate(discrete, env=PENDULUM, env_id="Pendulum-v1")
    with pytest.raises(DataError, match="2 in row 2, which is none of the actions 0 to 1 of Two-v0"):
        validate(discrete, env=Spec((3,), Discrete(2)), env_id="Two-v0")


def test_whole_numbers_stored_as_floats_fit_a_discrete_environment():
    log = log_of(action=np.arange(2000.0) % 2, action_space=Continuous((-1.0,), (1.0,)))
    assert validate(log, env=Spec((3,), Discrete(2)), env_id="Two-v0") == []


# --- warnings -------------------------------------------------------------------------------------------------------


def test_constant_features_and_rewards():
    log = log_of()
    log.packed[:, [1, 6]] = 3.0
    assert "constant features, which say nothing: 1 (3)" in told(log)
    assert "all rewards are 0.5: nothing tells good from bad" in told(log_of(reward=np.full(2000, 0.5)))


def test_small_and_single():
    assert "only 200 transitions" in told(log_of(n=200))
    assert "one episode" in told(log_of(truncated=np.zeros(2000)))


def test_rows_that_do_not_continue():
    log = log_of(truncated=np.zeros(2000, bool))
    assert "rows inside episodes" not in told(log)
    log.packed[[10, 500, 1998], 5] += 0.1
    assert "at 3 rows inside episodes next_obs is not the obs of the row that follows" in told(log)
    log.ends[500] = True  # a marked end may jump
    assert "at 2 rows" in told(log)


def test_narrow_actions_and_actions_never_taken():
    warned = told(log_of(action=np.random.default_rng(0).uniform(-0.3, 0.2, (2000, 1))))
    assert "actions are narrower than their box: [-0.3, 0.2] of [-2, 2] in dimension 0" in warned
    wide = Spec((3,), Continuous((-50.0,), (50.0,)))
    assert "[-2, 2] of [-50, 50]" in told(log_of(), env=wide)  # the environment's box is the one that counts
    assert "of 5 actions 2 are never taken (3, 4)" in told(log_of(action=np.arange(2000) % 3, action_space=Discrete(5)))


def test_repetition():
    log = log_of(truncated=np.ones(2000, bool))
    assert "repeat" not in told(log)
    log.packed[1000:1400] = log.packed[:400]
    assert "20% of the transitions repeat another one exactly" in told(log)


def test_guesses_of_the_reader_are_passed_on_until_the_environment_is_named():
    log = log_of()
    log.notes["warnings"] = "the action space was taken to be [-1, 1]\nanother guess"
    assert validate(log) == ["the action space was taken to be [-1, 1]", "another guess"]
    assert validate(log, env=PENDULUM, env_id="Pendulum-v1") == ["another guess"]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(*[st.sampled_from([0.0, 1.0, -1.0, 0.5, 3e-9])] * 3), min_size=1, max_size=60))
def test_rows_have_one_hash_exactly_when_they_are_equal(rows):
    hashes = row_hashes(np.array(rows, np.float32))
    assert len(set(hashes.tolist())) == len({tuple(np.float32(row)) for row in rows})


def test_a_memory_map_is_read_in_slices(monkeypatch):
    seen = []
    log = log_of(n=1000)
    real = torch.Tensor.numpy
    monkeypatch.setattr(validation, "SLICE", 100)
    monkeypatch.setattr(torch.Tensor, "numpy", lambda tensor, **options: (seen.append(len(tensor)), real(tensor, **options))[1])
    validate(log)
    assert max(seen) == 100
