"""Families of policies behind one network: deterministic, squashed Gaussian, normal around a squashed mean, and categorical."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from surefoot.data.spec import Spec, box_action
from surefoot.nn.conv import Network, build
from surefoot.nn.distributions import LOG_STD_MAX, LOG_STD_MIN, Choice, Normal, TanhNormal
from surefoot.nn.normaliser import Normaliser
from surefoot.policies.base import Memory, Policy, check_member


class NetworkPolicy(Policy):
    """A policy that is one network behind a normaliser; what the families below share."""

    def __init__(
        self,
        spec: Spec,
        hidden: Sequence[int],
        copies: tuple[int, ...] = (),
        *,
        activation: str = "relu",
        network: Network = "mlp",
        device: str = "cpu",
        generator: torch.Generator | None = None,
    ):
        super().__init__()
        self.spec, self.hidden, self.copies, self.activation, self.network = spec, tuple(hidden), copies, activation, network
        self.normaliser = Normaliser(spec, device)
        self.net: Any = build(
            network, spec.obs_shape, self.hidden, self.n_out(spec), copies, activation=activation, generator=generator, device=device
        )

    @staticmethod
    def n_out(spec: Spec) -> int:
        """Width of the network's output."""
        raise NotImplementedError

    def config(self) -> dict[str, Any]:
        return {"hidden": list(self.hidden), "activation": self.activation, "network": self.network}

    def member(self, index: int) -> Policy:
        check_member(index, self.copies)
        mean, std = self.normaliser.mean, self.normaliser.std
        own = mean.dim() == 2
        spec = self.spec
        if self.normaliser.active:
            spec = replace(spec, obs_mean=mean[index] if own else mean, obs_std=std[index] if own else std)
        lone = type(self)(spec, **self.config(), device=str(mean.device))
        state = {name: p[index] if self.copies else p for name, p in self.named_parameters()}
        lone.load_state_dict(state, strict=False)  # the normaliser's buffers come with the spec
        return lone


class Deterministic(NetworkPolicy):
    """a = box(tanh(f(obs))). `exploration` adds clipped Gaussian noise of that share of the half-range when not greedy."""

    exploration: float = 0.1

    @staticmethod
    def n_out(spec: Spec) -> int:
        return spec.box.dim

    def unit(self, scaled_obs: Tensor) -> Tensor:
        """Action in [-1, 1] `[*copies, B, A]` of observations that are already normalised."""
        return torch.tanh(self.net(scaled_obs))

    def forward(self, obs: Tensor) -> Tensor:
        return box_action(self.unit(self.normaliser(self.flat(obs))), self.spec.box)

    def act(
        self, obs: Tensor, memory: Memory = None, *, generator: torch.Generator | None = None, greedy: bool = True
    ) -> tuple[Tensor, Memory]:
        unit = self.unit(self.normaliser(self.flat(obs)))
        if not greedy:
            noise = torch.empty_like(unit).normal_(generator=generator)
            unit = (unit + self.exploration * noise).clamp(-1.0, 1.0)
        return box_action(unit, self.spec.box), memory


class Gaussian(NetworkPolicy):
    """a = box(tanh(u)), u ~ N(mu(obs), sigma(obs)^2): SAC's squashed Gaussian. Greedy takes tanh(mu)."""

    @staticmethod
    def n_out(spec: Spec) -> int:
        return 2 * spec.box.dim

    def distribution(self, scaled_obs: Tensor) -> TanhNormal:
        """Distribution of the unit action, of observations that are already normalised."""
        mu, log_std = self.net(scaled_obs).chunk(2, -1)
        return TanhNormal(mu, log_std)

    def forward(self, obs: Tensor) -> Tensor:
        return box_action(self.distribution(self.normaliser(self.flat(obs))).mode(), self.spec.box)

    def act(
        self, obs: Tensor, memory: Memory = None, *, generator: torch.Generator | None = None, greedy: bool = True
    ) -> tuple[Tensor, Memory]:
        d = self.distribution(self.normaliser(self.flat(obs)))
        unit = d.mode() if greedy else d.sample(generator)[0]
        return box_action(unit, self.spec.box), memory


class NormalPolicy(NetworkPolicy):
    """a ~ N(mu(obs), sigma^2) clipped to [-1, 1], in the box; one learned sigma an action dimension.

    mu is tanh(f(obs)) where `squashed`, as IQL has it, else f(obs), as PPO has it. Greedy takes mu. The log of sigma is kept in
    [-5, 2], as in the official code of IQL.
    """

    def __init__(
        self,
        spec: Spec,
        hidden: Sequence[int],
        copies: tuple[int, ...] = (),
        *,
        activation: str = "relu",
        network: Network = "mlp",
        squashed: bool = True,
        device: str = "cpu",
        generator: torch.Generator | None = None,
    ):
        super().__init__(spec, hidden, copies, activation=activation, network=network, device=device, generator=generator)
        self.squashed = squashed
        self.log_std = nn.Parameter(torch.zeros(*copies, spec.box.dim, device=device))

    @staticmethod
    def n_out(spec: Spec) -> int:
        return spec.box.dim

    def distribution(self, scaled_obs: Tensor) -> Normal:
        """Distribution of the unit action (before it is clipped), of observations that are already normalised."""
        mu = self.net(scaled_obs)
        mu = torch.tanh(mu) if self.squashed else mu
        return Normal(mu, self.log_std.clamp(LOG_STD_MIN, LOG_STD_MAX).unsqueeze(-2))

    def draw(self, obs: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """A unit action as it was drawn, before it is clipped, which is what its density is about: `[*copies, n, A]`."""
        return self.distribution(self.normaliser(self.flat(obs))).sample(generator)

    def taken(self, drawn: Tensor) -> Tensor:
        """The action in the environment's units that a draw stands for."""
        return box_action(drawn.clamp(-1.0, 1.0), self.spec.box)

    def config(self) -> dict[str, Any]:
        return super().config() | {"squashed": self.squashed}

    def forward(self, obs: Tensor) -> Tensor:
        return self.taken(self.distribution(self.normaliser(self.flat(obs))).mode())

    def decide(self, obs: Tensor, memory: Memory = None) -> Tensor:
        """The mean in the environment's units before it is clipped: beyond the box it has a gradient still, as attacks need."""
        return box_action(self.distribution(self.normaliser(self.flat(obs))).mode(), self.spec.box)

    def act(
        self, obs: Tensor, memory: Memory = None, *, generator: torch.Generator | None = None, greedy: bool = True
    ) -> tuple[Tensor, Memory]:
        return (self(obs) if greedy else self.taken(self.draw(obs, generator))), memory


class Categorical(NetworkPolicy):
    """Discrete actions from logits or action values `[*copies, n, n_actions]`: argmax if greedy, else a softmax draw."""

    @staticmethod
    def n_out(spec: Spec) -> int:
        return spec.n_actions

    def distribution(self, scaled_obs: Tensor) -> Choice:
        """Distribution of the action, of observations that are already normalised."""
        return Choice(self.net(scaled_obs))

    def draw(self, obs: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """A softmax draw, `[*copies, n]` int64."""
        return Choice(self(obs)).sample(generator)

    def taken(self, drawn: Tensor) -> Tensor:
        """The action that a draw stands for: itself."""
        return drawn

    def forward(self, obs: Tensor) -> Tensor:
        return self.net(self.normaliser(self.flat(obs)))

    def act(
        self, obs: Tensor, memory: Memory = None, *, generator: torch.Generator | None = None, greedy: bool = True
    ) -> tuple[Tensor, Memory]:
        return (self(obs).argmax(-1) if greedy else self.draw(obs, generator)), memory


FAMILIES: dict[str, type[NetworkPolicy]] = {
    "deterministic": Deterministic,
    "gaussian": Gaussian,
    "normal": NormalPolicy,
    "categorical": Categorical,
}
"""Names under which `policies.saving` stores and rebuilds network policies."""
