"""Policies from elsewhere: exact parity with Stable-Baselines3, ONNX and plain Python; nothing executed without trust."""

import base64
import json
import pickle
import sys
import zipfile

import gymnasium as gym
import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from stable_baselines3 import A2C, DDPG, DQN, PPO, SAC, TD3
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from surefoot.data.spec import Continuous, Discrete, Spec
from surefoot.errors import MissingExtraError, NotTrustedError, PolicyError
from surefoot.evaluation.rollouts import rollout
from surefoot.policies.external import OnnxPolicy, load_python
from surefoot.policies.families import Categorical
from surefoot.policies.sb3 import load_stable_baselines3

torch.set_num_threads(1)
CARTPOLE, PENDULUM = Spec((4,), Discrete(2)), Spec((3,), Continuous((-2.0,), (2.0,)))
ALGORITHMS = {
    PPO: ("CartPole-v1", {"n_steps": 32, "batch_size": 32, "n_epochs": 1}),
    A2C: ("Pendulum-v1", {}),
    DQN: ("CartPole-v1", {"learning_starts": 20, "buffer_size": 100}),
    SAC: ("Pendulum-v1", {"learning_starts": 20, "buffer_size": 100}),
    TD3: ("Pendulum-v1", {"learning_starts": 20, "buffer_size": 100}),
    DDPG: ("Pendulum-v1", {"learning_starts": 20, "buffer_size": 100}),
}


@pytest.fixture(scope="module", params=ALGORITHMS, ids=lambda a: a.__name__)
def trained(request, tmp_path_factory):
    """A model trained for a few steps, and the file it saved."""
    env, options = ALGORITHMS[request.param]
    model = request.param("MlpPolicy", env, seed=0, device="cpu", policy_kwargs={"net_arch": [16, 16]}, **options)
    model.learn(40)
    path = tmp_path_factory.mktemp("sb3") / "model.zip"
    model.save(path)
    return model, path, env


def observations(env, n=200):
    obs = np.random.default_rng(0).normal(size=(n, *gym.spec(env).make().observation_space.shape))
    return obs.astype(np.float32)


def test_greedy_actions_are_exactly_those_of_predict(trained):
    model, path, env = trained
    policy = load_stable_baselines3(str(path), trust=True)
    obs = observations(env)
    ours = policy.act(torch.from_numpy(obs))[0].detach().numpy()
    theirs = model.predict(obs, deterministic=True)[0]
    assert (ours == theirs).all()
    assert (ours != ours[0]).any() or not np.any(theirs != theirs[0])
    assert rollout(policy, env, 2, seed=0, max_steps=20).returns.shape == (2,)


def test_forward_gives_gradients_and_agrees_with_the_action(trained):
    _, path, env = trained
    policy = load_stable_baselines3(str(path), trust=True)
    obs = torch.from_numpy(observations(env)).requires_grad_()
    output = policy(obs)
    (gradient,) = torch.autograd.grad(output.pow(2).sum(), obs)
    assert torch.isfinite(gradient).all()
    assert gradient.abs().sum() > 0
    action = policy.act(obs)[0]
    if isinstance(policy.spec.action, Discrete):
        assert torch.equal(output.argmax(-1), action)
    else:
        assert torch.equal(output.clamp(-2, 2), action)


def test_exploration_is_drawn_from_the_given_generator(trained):
    _, path, env = trained
    policy = load_stable_baselines3(str(path), trust=True)
    obs = torch.from_numpy(observations(env))
    state = torch.random.get_rng_state()
    draws = [policy.act(obs, generator=torch.Generator().manual_seed(s), greedy=False)[0] for s in (0, 0, 1)]
    assert torch.equal(draws[0], draws[1])
    assert torch.equal(draws[0], draws[2]) == (policy.kind in ("DQN", "TD3"))
    assert torch.equal(torch.random.get_rng_state(), state)


def test_vecnormalize_statistics_are_applied(tmp_path):
    venv = VecNormalize(DummyVecEnv([lambda: gym.make("Pendulum-v1")]), clip_obs=1.5)
    model = PPO("MlpPolicy", venv, n_steps=64, batch_size=64, n_epochs=1, seed=0, device="cpu")
    model.learn(64)
    model.save(tmp_path / "model.zip")
    venv.save(str(tmp_path / "scale.pkl"))
    ref = f"{tmp_path}/model.zip?vecnormalize={tmp_path}/scale.pkl"
    policy = load_stable_baselines3(ref, trust=True)
    obs = observations("Pendulum-v1") * 3
    ours = policy.act(torch.from_numpy(obs))[0].detach().numpy()
    assert (ours == model.predict(venv.normalize_obs(obs), deterministic=True)[0]).all()
    assert (ours != model.predict(obs, deterministic=True)[0]).any()
    with pytest.raises(NotTrustedError):
        load_stable_baselines3(ref, trust=False)


class Trap:
    """Unpickling this leaves a mark."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return open, (str(self.mark), "w")


def test_nothing_is_executed_without_trust(tmp_path):
    mark = tmp_path / "mark"
    trap = {":type:": "x", ":serialized:": base64.b64encode(pickle.dumps(Trap(mark))).decode(), "__module__": "m"}
    with zipfile.ZipFile(tmp_path / "bad.zip", "w") as archive:
        archive.writestr("data", json.dumps({"policy_class": trap, "clip_range": trap}))
    with pytest.raises(NotTrustedError, match=r"pickles.*VecNormalize and replay buffer.*--trust"):
        load_stable_baselines3(str(tmp_path / "bad.zip"), trust=False)
    assert not mark.exists()
    with pytest.raises(PolicyError, match="cannot be loaded"):
        load_stable_baselines3(str(tmp_path / "bad.zip"), trust=True)
    assert mark.exists()  # the trap works: it was trust alone that protected


def test_other_files_are_refused_in_a_sentence(tmp_path):
    (tmp_path / "text.zip").write_text("no zip")
    with zipfile.ZipFile(tmp_path / "empty.zip", "w") as archive:
        archive.writestr("readme", "")
    with zipfile.ZipFile(tmp_path / "contrib.zip", "w") as archive:
        archive.writestr("data", json.dumps({"policy_class": {"__module__": "sb3_contrib.tqc.policies"}, "target_entropy": 1}))
    with pytest.raises(PolicyError, match="there is no file"):
        load_stable_baselines3(str(tmp_path / "none.zip"), trust=True)
    for name in ("text", "empty"):
        with pytest.raises(PolicyError, match="not saved by Stable-Baselines3"):
            load_stable_baselines3(str(tmp_path / f"{name}.zip"), trust=True)
    with pytest.raises(PolicyError, match=r"sb3_contrib.*can be loaded"):
        load_stable_baselines3(str(tmp_path / "contrib.zip"), trust=True)
    with pytest.raises(PolicyError, match="vecnormalize=FILE"):
        load_stable_baselines3(str(tmp_path / "text.zip?scale=x"), trust=True)


# --- Python -----------------------------------------------------------------------------------------------------------

AGENTS = """
import numpy as np, torch
from surefoot.data.spec import Discrete, Spec
from surefoot.policies.families import Categorical

def lean(obs):
    assert obs.dtype == np.float32
    return (obs[:, 2] + obs[:, 3] > 0).astype(int)

def strong(obs):
    return 5.0 * np.ones((len(obs), 1))

def flat(obs):
    return -np.ones(len(obs))

def wrong(obs):
    return np.full(len(obs), 7)

def between(obs):
    return np.full(len(obs), 0.5)

def wide(obs):
    return np.zeros((len(obs), 3))

class Agent:
    def act(self, obs):
        return lean(obs)

agent = Agent()
network = torch.nn.Linear(4, 2)
ours = Categorical(Spec((4,), Discrete(2)), (8,))
number = 3
"""


@pytest.fixture
def agents(tmp_path, monkeypatch):
    (tmp_path / "my_agents.py").write_text(AGENTS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "my_agents", raising=False)


@pytest.mark.usefixtures("agents")
def test_python_functions_objects_modules_and_policies():
    obs = torch.randn(50, 4)
    expected = (obs[:, 2] + obs[:, 3] > 0).long()
    for name in ("lean", "agent"):
        policy = load_python(f"my_agents:{name}", CARTPOLE)
        assert torch.equal(policy.act(obs)[0], expected)
        assert not policy.differentiable
    assert rollout(policy, "CartPole-v1", 5, seed=0, max_steps=200).returns.mean() == 200
    network = load_python("my_agents:network", CARTPOLE)
    assert network.differentiable
    assert torch.equal(network.act(obs)[0], network.module(obs).argmax(-1))
    assert isinstance(load_python("my_agents:ours", None), Categorical)


@pytest.mark.usefixtures("agents")
def test_actions_are_clipped_to_the_box_and_checked():
    obs = torch.randn(5, 3)
    assert (load_python("my_agents:strong", PENDULUM).act(obs)[0] == 2.0).all()
    assert load_python("my_agents:flat", PENDULUM).act(obs)[0].shape == (5, 1)
    for name, spec, words in (
        ("wrong", CARTPOLE, "integers 0 to 1"),
        ("between", CARTPOLE, "integers 0 to 1"),
        ("wide", CARTPOLE, r"shape \(5, 3\)"),
        ("wide", PENDULUM, r"shape \(5, 3\)"),
    ):
        with pytest.raises(PolicyError, match=words):
            load_python(f"my_agents:{name}", spec).act(torch.randn(5, *spec.obs_shape))
    with pytest.raises(PolicyError, match="expects observations of shape"):
        load_python("my_agents:lean", CARTPOLE).act(obs)


@pytest.mark.usefixtures("agents")
@pytest.mark.parametrize(
    ("ref", "words"),
    [
        ("my_agents", "python:MODULE:NAME"),
        ("no_agents:lean", "no module 'no_agents'"),
        ("my_agents:none", "has no 'none'"),
        ("my_agents:number", "is a int"),
        ("my_agents:Agent", "is a type"),
    ],
)
def test_python_misuse(ref, words):
    with pytest.raises(PolicyError, match=words):
        load_python(ref, CARTPOLE)


@pytest.mark.usefixtures("agents")
def test_python_function_needs_an_environment():
    with pytest.raises(PolicyError, match="--env"):
        load_python("my_agents:lean", None)


def test_external_policies_are_not_saved(agents):
    policy = load_python("my_agents:lean", CARTPOLE)
    assert policy.member(0) is policy
    with pytest.raises(PolicyError, match="no member 1"):
        policy.member(1)
    with pytest.raises(PolicyError, match="not saved"):
        policy.config()


# --- ONNX -------------------------------------------------------------------------------------------------------------


def save_linear(path, weight, batch="n", tanh=False):
    """An ONNX model: obs @ weight (and tanh)."""
    n_in, n_out = weight.shape
    nodes = [helper.make_node("MatMul", ["obs", "w"], ["y"])] + ([helper.make_node("Tanh", ["y"], ["z"])] if tanh else [])
    graph = helper.make_graph(
        nodes,
        "linear",
        [helper.make_tensor_value_info("obs", TensorProto.FLOAT, [batch, n_in])],
        [helper.make_tensor_value_info(nodes[-1].output[0], TensorProto.FLOAT, [batch, n_out])],
        [helper.make_tensor("w", TensorProto.FLOAT, weight.shape, weight.reshape(-1).tolist())],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10), path)


@pytest.mark.parametrize("batch", ["n", 1])
def test_onnx_actions(tmp_path, batch):
    rng = np.random.default_rng(0)
    obs = torch.randn(30, 4)
    weight = rng.normal(size=(4, 2)).astype(np.float32)
    save_linear(tmp_path / "logits.onnx", weight, batch)
    policy = OnnxPolicy(tmp_path / "logits.onnx", CARTPOLE)
    assert torch.equal(policy.act(obs)[0], (obs @ torch.from_numpy(weight)).argmax(-1))
    assert not policy.differentiable
    weight = 2 * rng.normal(size=(3, 1)).astype(np.float32)
    save_linear(tmp_path / "torque.onnx", weight, batch, tanh=True)
    torque = OnnxPolicy(tmp_path / "torque.onnx", PENDULUM).act(obs[:, :3])[0]
    torch.testing.assert_close(torque, torch.tanh(obs[:, :3] @ torch.from_numpy(weight)))


def test_onnx_misuse(tmp_path, monkeypatch):
    save_linear(tmp_path / "two.onnx", np.ones((4, 2), np.float32), batch=2)
    with pytest.raises(PolicyError, match="dynamic batch"):
        OnnxPolicy(tmp_path / "two.onnx", CARTPOLE).act(torch.randn(3, 4))
    with pytest.raises(PolicyError, match=r"shape \(4,\), but the environment shows \(3,\)"):
        OnnxPolicy(tmp_path / "two.onnx", PENDULUM)
    (tmp_path / "text.onnx").write_text("nothing")
    with pytest.raises(PolicyError, match="not an ONNX model"):
        OnnxPolicy(tmp_path / "text.onnx", CARTPOLE)
    with pytest.raises(PolicyError, match="there is no file"):
        OnnxPolicy(tmp_path / "none.onnx", CARTPOLE)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingExtraError, match=r"surefoot\[onnx\]"):
        OnnxPolicy(tmp_path / "two.onnx", CARTPOLE)
