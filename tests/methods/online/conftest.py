"""What the tests of online methods share: batches, and Stable-Baselines3 models that are given ours."""

import pytest
import torch

from surefoot.data.batches import Transitions
from surefoot.data.spec import Discrete


def random_batch(spec, copies=(), n=16, seed=0):
    """Transitions of spec's shapes, about a third of them terminated."""
    g = torch.Generator().manual_seed(seed)
    obs, next_obs = torch.randn(2, *copies, n, spec.obs_dim, generator=g)
    if isinstance(spec.action, Discrete):
        action = torch.randint(spec.action.n, (*copies, n), generator=g)
    else:
        low, high = torch.tensor(spec.action.low), torch.tensor(spec.action.high)
        action = low + (high - low) * torch.rand(*copies, n, spec.action.dim, generator=g)
    reward = torch.randn(*copies, n, generator=g)
    return Transitions(obs, action, reward, next_obs, (torch.rand(*copies, n, generator=g) < 0.3).float())


@pytest.fixture(name="random_batch")
def _random_batch():
    return random_batch


def sb3_model(kind, env_id, **options):
    """A Stable-Baselines3 model with a silent logger, whose replay buffer gives the batches in `model.batches` one after the other."""
    import stable_baselines3 as sb3
    from stable_baselines3.common.buffers import ReplayBufferSamples
    from stable_baselines3.common.logger import Logger

    model = getattr(sb3, kind)("MlpPolicy", env_id, device="cpu", **options)
    model.set_logger(Logger(None, []))

    class Given:
        def sample(self, batch_size, env=None):
            b = model.batches.pop(0)
            action = b.action.unsqueeze(-1) if b.action.dim() == 1 else b.action
            return ReplayBufferSamples(b.obs, action, b.next_obs, b.terminated[:, None], b.reward[:, None])

    model.replay_buffer = Given()
    return model


@pytest.fixture(name="sb3_model")
def _sb3_model():
    return sb3_model


def copy_net(net, sequential, index=()):
    """Our MLP's weights (of one copy) into torch's layers."""
    linears = [layer for layer in sequential if isinstance(layer, torch.nn.Linear)]
    with torch.no_grad():
        for layer, w, b in zip(linears, net.weights, net.biases, strict=True):
            layer.weight.copy_(w[index].T)
            layer.bias.copy_(b[index])


@pytest.fixture(name="copy_net")
def _copy_net():
    return copy_net
