"""A2PR: TD3+BC pulled to the better of the logged action and one of a model of the log's good actions, and only if it is good.

Liu, Li, Lan, Gao, Pan, Xu, "Adaptive Advantage-Guided Policy Regularization for Offline Reinforcement Learning", ICML 2024,
arXiv 2405.19909v3. Covers the state value, the advantage-masked CVAE and the adaptive actor loss, in the official code's order.
Where paper and code differ, the code is followed: the CVAE's proposal re-encodes the policy's own action, the threshold on the
advantage is 0, and the proposal is no constant: the regulariser's gradient also flows through it (`detach_target` makes it the
paper's constant). Departures: those of `td3`; actions are compared by Q instead of Q - V(s), which is the same but rounds less.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from surefoot.data.batches import Transitions
from surefoot.data.spec import Spec
from surefoot.errors import ConfigError
from surefoot.methods.offline.td3 import TD3, TD3Config, critic_loss, regulariser, td_target
from surefoot.nn.cvae import CVAE, gaussian_kl
from surefoot.nn.mlp import Critic
from surefoot.nn.optimise import adam, descend


@dataclass(frozen=True)
class A2PRConfig(TD3Config):
    hidden: tuple[int, ...] = (256, 256, 256)
    """Widths of the actor's hidden layers."""
    critic_hidden: tuple[int, ...] | None = (256, 256, 256, 256)
    """Widths of the hidden layers of the critics and of V (None: as the actor's)."""
    critic_lr: float = 3e-4
    """Adam's learning rate of the critics and of V."""
    mask: float = 1.0
    """Weight of the regulariser where the chosen action beats V(s); it is 0 elsewhere (the paper tunes it: 0.4 to 1)."""
    vae_weight: float = 1.0
    """Weight of the reconstruction of actions whose advantage is positive."""
    kl_weight: float = 0.5
    """Weight of the CVAE's KL term."""
    vae_lr: float = 1e-3
    """Adam's learning rate of the CVAE."""
    vae_hidden: tuple[int, ...] = (750, 750)
    """Widths of the hidden layers of the CVAE's encoder and decoder."""
    detach_target: bool = False
    """Treat the CVAE's proposal as a constant in the actor's loss, as the paper's formula does and its code does not."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("mask", "vae_weight", "kl_weight"):
            if getattr(self, name) < 0.0:
                raise ConfigError(f"{name} is {getattr(self, name)}: it must not be negative.")
        if not self.vae_lr > 0.0:
            raise ConfigError(f"vae_lr is {self.vae_lr}: it must be positive.")


# --- losses ---------------------------------------------------------------------------------------------------------


def masked_reconstruction(reconstruction: Tensor, a: Tensor, advantage: Tensor, weight: float) -> Tensor:
    """w/(B A) sum_bj 1[A_b > 0] (rec_bj - a_bj)^2: `[...]` of actions `[..., B, A]` and advantages `[..., B]`."""
    return regulariser(reconstruction, a, weight * (advantage > 0.0).to(a.dtype))


def better_action(a: Tensor, a_vae: Tensor, q_data: Tensor, q_vae: Tensor, v: Tensor, mask: float) -> tuple[Tensor, Tensor]:
    """a_bar, the better of the logged and the proposed action `[..., B, A]`, and g = mask 1[Q_vae >= V or Q_data > V] `[..., B]`.

    Values `[..., B]`; ties go to the proposal, as in the official code.
    """
    if not q_data.shape == q_vae.shape == v.shape == a.shape[:-1] or a.shape != a_vae.shape:
        raise ValueError(f"actions {tuple(a.shape)}, {tuple(a_vae.shape)} must be [..., B, A] where values {tuple(v.shape)} are [..., B].")
    a_bar = torch.where((q_vae >= q_data).unsqueeze(-1), a_vae, a)
    return a_bar, mask * ((q_vae >= v) | (q_data > v)).to(v.dtype)  # a logical or: mask or 0, never twice the mask


# --- method ---------------------------------------------------------------------------------------------------------


class Judged(NamedTuple):
    """Values of this iteration's batch, `[*copies, B]`, which the CVAE's and the actor's step share."""

    q_data: Tensor  # Q1(s, a) of the critics just updated
    v: Tensor  # V(s) before V's own step


class A2PR(TD3):
    """TD3+BC whose regulariser asks, for each sample, what is worth imitating."""

    config_class: ClassVar[type] = A2PRConfig
    config: A2PRConfig

    def __init__(self, spec: Spec, config: A2PRConfig, copies: tuple[int, ...] = (), device: str = "cpu", seed: int = 0):
        super().__init__(spec, config, copies, device, seed)
        self.value = Critic(spec.obs_dim, config.critic_widths, n=1, copies=self.copies, generator=self.generator, device=device)
        self.vae = CVAE(spec.obs_dim, spec.box.dim, config.vae_hidden, copies=self.copies, generator=self.generator, device=device)
        self.value_optimiser = adam(self.value.parameters(), config.critic_lr)
        self.vae_optimiser = adam(self.vae.parameters(), config.vae_lr)
        self.judged: Judged  # set anew by each `learn_values`: nothing that a resume needs

    def learn_values(self, t: Transitions) -> dict[str, Tensor]:
        """The steps of the critics, of V and of the CVAE, in this order."""
        next_action = self.next_action(t)
        y = self.target(t, next_action)
        metrics = self.learn_critic(t, y)
        v, value_metrics = self.learn_value(t, y, next_action)
        with torch.no_grad():
            self.judged = Judged(self.critic.first(t.obs, t.action), v)
        return metrics | value_metrics | self.learn_vae(t, self.judged.q_data - v)

    def learn_value(self, t: Transitions, y: Tensor, next_action: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """V's step towards the least of four critics' targets; returns V(s) as it was before the step, `[*copies, B]`."""
        with torch.no_grad():  # min(y, y2), y2 of the online critics at the same a~'
            y = torch.minimum(y, td_target(t.reward, t.terminated, self.critic(t.next_obs, next_action), self.config.gamma))
        v = self.value(t.obs)  # [*copies, 1, B]
        loss = critic_loss(v, y)
        descend(loss.sum(), self.value_optimiser)
        return v.detach().squeeze(-2), {"value_loss": loss.detach()}

    def learn_vae(self, t: Transitions, advantage: Tensor) -> dict[str, Tensor]:
        """The CVAE's step: it models the logged actions of positive advantage, the augmented behaviour policy."""
        reconstruction, mu, log_sigma = self.vae(t.obs, t.action, self.generator)
        error = masked_reconstruction(reconstruction, t.action, advantage, self.config.vae_weight)
        loss = error + self.config.kl_weight * gaussian_kl(mu, log_sigma)
        descend(loss.sum(), self.vae_optimiser)
        return {"vae_loss": loss.detach(), "positive_advantage": (advantage > 0.0).float().mean(-1)}

    def reg_target(self, s: Tensor, p: Tensor, a: Tensor) -> tuple[Tensor, Tensor | None] | None:
        """The better of a and the CVAE's proposal D(s, z), z ~ E(s, p): the supported action closest to the policy's."""
        with torch.set_grad_enabled(not self.config.detach_target):
            a_vae, _, _ = self.vae(s, p, self.generator)
        with torch.no_grad():
            q_vae = self.critic.first(s, a_vae)
        return better_action(a, a_vae, self.judged.q_data, q_vae, self.judged.v, self.config.mask)
