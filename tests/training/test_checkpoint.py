"""A checkpoint comes back as it was, or is known to be damaged and the one before it is used."""

import json
import math

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import HealthCheck, given, settings

from surefoot.errors import CheckpointError
from surefoot.training.checkpoint import SUMS, TENSORS, TREE, read_checkpoint, read_newest, write_checkpoint

DTYPES = (torch.float32, torch.float64, torch.int64, torch.uint8, torch.bool, torch.float16)


def places(folder):
    return folder / "checkpoint", folder / "checkpoint.previous"


def same(a, b):
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and a.shape == b.shape and bytes_of(a) == bytes_of(b)
    if isinstance(a, dict):
        return isinstance(b, dict) and list(a) == list(b) and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list):
        return isinstance(b, list) and len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, float) and math.isnan(a):
        return math.isnan(b)
    return type(a) is type(b) and a == b


def bytes_of(tensor):
    return tensor.contiguous().numpy().tobytes()


tensors = st.builds(
    lambda shape, dtype, seed: (torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 100).to(dtype),
    st.lists(st.integers(0, 3), max_size=3),
    st.sampled_from(DTYPES),
    st.integers(0, 2**31),
)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**200), 2**200) | st.floats() | st.text() | tensors,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text().filter(lambda k: "/" not in k and k != "$tensor"), inner, max_size=3)
    ),
    max_leaves=8,
)


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(state=st.dictionaries(st.text(min_size=1).filter(lambda k: "/" not in k and k != "$tensor"), values, max_size=4))
def test_any_nest_of_tensors_and_json_comes_back(state, tmp_path):
    write_checkpoint(state, *places(tmp_path))
    assert same(state, read_checkpoint(tmp_path / "checkpoint"))


def test_tensors_that_share_memory_are_kept_apart(tmp_path):
    base = torch.arange(12.0).reshape(3, 4)
    state = {"whole": base, "again": base, "column": base[:, 1], "turned": base.T, "nan": torch.tensor([math.nan, -0.0])}
    write_checkpoint(state, *places(tmp_path))
    back = read_checkpoint(tmp_path / "checkpoint")
    assert same({k: v.contiguous() for k, v in state.items()}, back)
    back["whole"].zero_()
    assert torch.equal(back["again"], base)


def test_random_and_optimiser_states_go_on_as_they_would_have(tmp_path):
    generator = torch.Generator().manual_seed(3)
    torch.rand(5, generator=generator)
    write_checkpoint({"generator": generator.get_state()}, *places(tmp_path))
    expected = torch.rand(5, generator=generator)
    again = torch.Generator()
    again.set_state(read_checkpoint(tmp_path / "checkpoint")["generator"])
    assert torch.equal(torch.rand(5, generator=again), expected)


@pytest.mark.parametrize(
    "bad", [{"x": {1: 2}}, {"x": object()}, {"x": {"$tensor": "y"}}, {"a/b": torch.ones(1), "a": {"b": torch.ones(1)}}]
)
def test_what_cannot_be_kept_is_said_and_nothing_is_written(bad, tmp_path):
    with pytest.raises(TypeError, match="checkpoint"):
        write_checkpoint(bad, *places(tmp_path))
    assert list(tmp_path.iterdir()) == []


def damage(how, folder):
    tensors = folder / TENSORS
    data = tensors.read_bytes()
    if how == "cut off":
        tensors.write_bytes(data[: len(data) // 2])
    elif how == "empty":
        tensors.write_bytes(b"")
    elif how == "one bit":
        tensors.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    elif how == "one number of the JSON":
        (folder / TREE).write_text((folder / TREE).read_text().replace("12345", "12346"))
    elif how == "another format":
        tree = json.loads((folder / TREE).read_text())
        (folder / TREE).write_text(json.dumps(tree | {"format": 99}))
    else:
        (folder / how).unlink()


@pytest.mark.parametrize("how", ["cut off", "empty", "one bit", "one number of the JSON", "another format", TENSORS, TREE, SUMS])
def test_damage_is_noticed_and_the_previous_checkpoint_used(how, tmp_path):
    newest, previous = places(tmp_path)
    for step in (1, 2):
        write_checkpoint({"step": step, "n": 12345, "x": torch.full((4,), float(step))}, newest, previous)
    damage(how, newest)
    with pytest.raises(CheckpointError, match="checkpoint is damaged"):
        read_checkpoint(newest)
    state, place = read_newest(newest, previous)
    assert (state["step"], place) == (1, previous)
    damage(how, previous)
    with pytest.raises(CheckpointError, match=r"checkpoint is damaged.*; the checkpoint .*checkpoint.previous is damaged"):
        read_newest(newest, previous)


def test_the_previous_one_may_be_all_there_is(tmp_path):
    newest, previous = places(tmp_path)
    assert read_newest(newest, previous) is None
    write_checkpoint({"step": 1}, newest, previous)
    newest.rename(previous)  # a kill between the two renames
    state, place = read_newest(newest, previous)
    assert (state["step"], place) == (1, previous)
    write_checkpoint({"step": 2}, newest, previous)
    assert (read_checkpoint(newest)["step"], read_checkpoint(previous)["step"]) == (2, 1)


def test_the_checksums_are_those_of_sha256sum(tmp_path):
    import hashlib

    write_checkpoint({"x": torch.ones(3)}, *places(tmp_path))
    for line in (tmp_path / "checkpoint" / SUMS).read_text().splitlines():
        digest, name = line.split("  ")
        assert hashlib.sha256((tmp_path / "checkpoint" / name).read_bytes()).hexdigest() == digest


def test_nothing_is_unpickled(tmp_path):
    """A pickle where tensors belong is refused as damage, its checksum right or wrong."""
    import hashlib
    import pickle

    newest, previous = places(tmp_path)
    write_checkpoint({"x": torch.ones(3)}, newest, previous)
    (newest / TENSORS).write_bytes(pickle.dumps({"x": 1}))
    sums = {name: hashlib.sha256((newest / name).read_bytes()).hexdigest() for name in (TENSORS, TREE)}
    (newest / SUMS).write_text("".join(f"{digest}  {name}\n" for name, digest in sums.items()))
    with pytest.raises(CheckpointError, match="damaged"):
        read_checkpoint(newest)
