"""The conditional variational autoencoder over actions that BCQ introduced and SPOT, PLAS and A2PR use.

Fujimoto, Meger, Precup, "Off-Policy Deep Reinforcement Learning without Exploration", ICML 2019, arXiv 1812.02900; Kingma and
Welling, arXiv 1312.6114 (Eq. 10: the KL term). Like BCQ's code: latents twice as wide as actions, log sigma clamped to
[-4, 15], latents drawn from the prior clipped to [-0.5, 0.5]. Mean and log sigma are two halves of one output layer, which is
the same function as two layers.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from surefoot.nn.mlp import MLP

LOG_SIGMA_MIN, LOG_SIGMA_MAX = -4.0, 15.0
PRIOR_CLIP = 0.5


def gaussian_kl(mu: Tensor, log_sigma: Tensor) -> Tensor:
    """KL(N(mu, sigma^2) || N(0, 1)) averaged over batch *and* latents: `[...]` of `[..., B, Z]` (BCQ's code averages too)."""
    if mu.shape != log_sigma.shape:
        raise ValueError(f"mu {tuple(mu.shape)} and log_sigma {tuple(log_sigma.shape)} must have one shape.")
    return -0.5 * (1.0 + 2.0 * log_sigma - mu.square() - (2.0 * log_sigma).exp()).mean((-2, -1))


class CVAE(nn.Module):
    """Encoder q(z | s, a) and decoder a = tanh(D(s, z)) with ReLU layers of widths `hidden`.

    States `[*copies, B, S]`, actions in [-1, 1] `[*copies, B, A]`, latents `[*copies, B, 2A]`.
    """

    def __init__(
        self,
        obs_dim: int,
        action_dim: int,
        hidden: Sequence[int] = (750, 750),
        *,
        copies: tuple[int, ...] = (),
        generator: torch.Generator | None = None,
        device: str = "cpu",
    ):
        super().__init__()
        self.latent_dim = 2 * action_dim
        self.encoder = MLP((obs_dim + action_dim, *hidden, 2 * self.latent_dim), copies, generator=generator, device=device)
        self.decoder = MLP((obs_dim + self.latent_dim, *hidden, action_dim), copies, generator=generator, device=device)

    def encode(self, s: Tensor, a: Tensor) -> tuple[Tensor, Tensor]:
        """mu and log sigma of q(z | s, a), each `[*copies, B, 2A]`."""
        mu, log_sigma = self.encoder(torch.cat((s, a), -1)).chunk(2, -1)
        return mu, log_sigma.clamp(LOG_SIGMA_MIN, LOG_SIGMA_MAX)

    def decode(self, s: Tensor, z: Tensor) -> Tensor:
        """The action of latent z, in [-1, 1]."""
        return torch.tanh(self.decoder(torch.cat((s, z), -1)))

    def forward(self, s: Tensor, a: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """The reconstruction of a from a latent drawn by reparameterisation, and the latent's mu and log sigma."""
        mu, log_sigma = self.encode(s, a)
        noise = torch.empty_like(mu).normal_(generator=generator)
        return self.decode(s, mu + log_sigma.exp() * noise), mu, log_sigma

    def sample(self, s: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """An action of the modelled behaviour: z from the clipped prior, decoded."""
        z = torch.empty(*s.shape[:-1], self.latent_dim, device=s.device).normal_(generator=generator)
        return self.decode(s, z.clamp_(-PRIOR_CLIP, PRIOR_CLIP))
