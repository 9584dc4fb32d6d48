"""DQN: values of all actions from one network, learned from a replay buffer against a slower copy of itself.

Mnih et al., "Human-level control through deep reinforcement learning", Nature 2015 (Alg. 1), after "Playing Atari with Deep Reinforcement
Learning", arXiv 1312.5602v1 (Eq. 2-3); double DQN: van Hasselt, Guez, Silver, arXiv 1509.06461v3 (Eq. 4), and dueling networks: Wang et
al., arXiv 1511.06581v3 (Eq. 9), both off by default.
Departures, as in Stable-Baselines3: the TD error's Huber loss, whose gradient is the paper's error clipped to [-1, 1], averaged over the
batch; Adam instead of RMSProp; the gradient's norm is clipped at 10, for each copy by itself. The defaults are for vector observations
(the paper's are for Atari frames: buffer and warm-up of 1e6 and 5e4 frames, batch 32, a target copy every 1e4 updates).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn.functional import smooth_l1_loss

from surefoot.data.batches import Transitions
from surefoot.data.spec import Spec
from surefoot.errors import ConfigError
from surefoot.methods.base import Method
from surefoot.nn.conv import Network, network_for
from surefoot.nn.optimise import adam, descend, frozen_copy, polyak_
from surefoot.policies.base import Memory, Policy
from surefoot.policies.families import Categorical


@dataclass(frozen=True)
class DQNConfig:
    gamma: float = 0.99
    """Discount of future rewards."""
    lr: float = 3e-4
    """Adam's learning rate."""
    hidden: tuple[int, ...] = (256, 256)
    """Widths of the hidden layers (behind the convolutions, if there are any)."""
    network: Literal["auto", "mlp", "conv"] = "auto"
    """Fully connected, or convolutions first; auto takes convolutions for images, which have three axes."""
    dueling: bool = False
    """The value of the observation and the advantages of the actions apart (see `nn.conv.Dueling`)."""
    batch_size: int = 256
    """Transitions in a batch."""
    target_every: int = 64
    """Updates between copies of the network to its target."""
    max_norm: float = 10.0
    """Bound of the gradient's norm (of each seed by itself)."""
    clip_rewards: bool = False
    """Learn from the signs of rewards, as is usual on Atari; returns are reported as they are."""
    double: bool = False
    """Double DQN: the network chooses the action at the next observation, the target network values it."""
    epsilon_start: float = 1.0
    """Share of random actions at the start of training."""
    epsilon_end: float = 0.0
    """Share of random actions after `exploration_updates`."""
    exploration_updates: int = 8_000
    """Updates over which the share of random actions falls from start to end, linearly."""
    buffer_size: int = 100_000
    """Newest transitions that are kept and learned from."""
    warmup: int = 1_000
    """Uniform random steps in the environment before learning."""
    env_steps: int = 128
    """Environment steps that are taken at once, before each `updates` updates."""
    updates: int = 64
    """Updates after each `env_steps` environment steps."""
    n_envs: int = 8
    """Environments that are stepped side by side (they share the environment steps)."""

    def __post_init__(self) -> None:
        if not 0.0 <= self.gamma <= 1.0:
            raise ConfigError(f"gamma is {self.gamma}: a discount lies between 0 and 1.")
        for name in ("epsilon_start", "epsilon_end"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ConfigError(f"{name} is {getattr(self, name)}: a share of actions lies between 0 and 1.")
        for name in ("exploration_updates", "warmup"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} is {getattr(self, name)}: it must not be negative.")
        for name in ("lr", "batch_size", "target_every", "max_norm", "buffer_size", "env_steps", "updates", "n_envs"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} is {getattr(self, name)}: it must be positive.")


# --- losses ---------------------------------------------------------------------------------------------------------


def td_target(reward: Tensor, terminated: Tensor, next_value: Tensor, gamma: float) -> Tensor:
    """y = r + gamma (1 - terminated) V(s') (arXiv 1312.5602, Alg. 1): `[..., B]`, all arguments alike."""
    if not reward.shape == terminated.shape == next_value.shape:
        raise ValueError(f"rewards {tuple(reward.shape)}, ends {tuple(terminated.shape)} and values {tuple(next_value.shape)} must agree.")
    return reward + (gamma * (1.0 - terminated)) * next_value


def taken(q: Tensor, action: Tensor) -> Tensor:
    """Q(s_b, a_b): `[..., B]` of values `[..., B, n]` and actions `[..., B]` int64."""
    if q.shape[:-1] != action.shape:
        raise ValueError(f"values {tuple(q.shape)} must be [..., B, n] where actions {tuple(action.shape)} are [..., B].")
    return q.gather(-1, action.unsqueeze(-1)).squeeze(-1)


def huber_loss(q: Tensor, y: Tensor) -> Tensor:
    """mean_b of (Q - y)^2 / 2 where |Q - y| < 1, of |Q - y| - 1/2 elsewhere: `[...]` of `q` and `y` `[..., B]`."""
    if q.shape != y.shape:
        raise ValueError(f"values {tuple(q.shape)} and targets {tuple(y.shape)} must have one shape.")
    return smooth_l1_loss(q, y, reduction="none").mean(-1)


# --- method ---------------------------------------------------------------------------------------------------------


class EpsilonGreedy(Policy):
    """`inner`'s greedy actions, but a uniform one with probability `epsilon()`, asked for at every step."""

    def __init__(self, inner: Categorical, epsilon: Callable[[], float]):
        super().__init__()
        self.inner, self.epsilon, self.spec, self.copies = inner, epsilon, inner.spec, inner.copies

    def forward(self, obs: Tensor) -> Tensor:
        return self.inner(obs)

    def act(
        self, obs: Tensor, memory: Memory = None, *, generator: torch.Generator | None = None, greedy: bool = True
    ) -> tuple[Tensor, Memory]:
        action, memory = self.inner.act(obs, memory, greedy=True)
        if greedy:
            return action, memory
        uniform = torch.randint_like(action, self.spec.n_actions, generator=generator)
        explore = torch.empty(action.shape, device=action.device).uniform_(generator=generator) < self.epsilon()
        return torch.where(explore, uniform, action), memory


class DQN(Method):
    """Q(s, a) is regressed on r + gamma max_a' Q'(s', a') (Alg. 1)."""

    config_class: ClassVar[type] = DQNConfig
    config: DQNConfig

    def __init__(self, spec: Spec, config: DQNConfig, copies: tuple[int, ...] = (), device: str = "cpu", seed: int = 0):
        super().__init__(spec, config, copies, device, seed)
        kind = network_for(spec.obs_shape) if config.network == "auto" else config.network
        network: Network = f"dueling_{kind}" if config.dueling else kind  # type: ignore[assignment]
        self.policy: Categorical = Categorical(spec, config.hidden, self.copies, network=network, device=device, generator=self.generator)
        self.target_net = frozen_copy(self.policy.net)
        self.optimiser = adam(self.policy.net.parameters(), config.lr)

    @property
    def epsilon(self) -> float:
        """Share of random actions now."""
        c = self.config
        share = min(1.0, self.steps / c.exploration_updates) if c.exploration_updates else 1.0
        return c.epsilon_start + share * (c.epsilon_end - c.epsilon_start)

    @property
    def behaviour(self) -> Policy:
        return EpsilonGreedy(self.policy, lambda: self.epsilon)

    def update(self, batch: Transitions) -> dict[str, Tensor]:
        self.steps += 1
        s, next_s = self.normaliser(batch.obs), self.normaliser(batch.next_obs)
        reward = batch.reward.sign() if self.config.clip_rewards else batch.reward
        y = td_target(reward, batch.terminated, self.next_value(next_s), self.config.gamma)
        values = self.policy.net(s)
        q = taken(values, batch.action)
        loss, extra = huber_loss(q, y), self.regulariser(s, values)  # [*copies]
        descend((loss if extra is None else loss + extra).sum(), self.optimiser, self.config.max_norm, self.copies)
        if self.steps % self.config.target_every == 0:
            polyak_(self.target_net, self.policy.net, 1.0)
        return {"loss": loss.detach(), "q_mean": q.detach().mean(-1), "target_mean": y.mean(-1)}

    def regulariser(self, s: Tensor, values: Tensor) -> Tensor | None:
        """What is added to the loss, `[*copies]`, of scaled observations `[*copies, B, S]` and their values; DQN adds nothing."""
        return None

    @torch.no_grad()
    def next_value(self, next_s: Tensor) -> Tensor:
        """max_a' Q'(s', a'), or with double DQN Q'(s', argmax_a' Q(s', a')) (arXiv 1509.06461 Eq. 4): `[*copies, B]`."""
        q = self.target_net(next_s)
        return taken(q, self.policy.net(next_s).argmax(-1)) if self.config.double else q.amax(-1)
