"""rRCM: an encoder whose representation stays the same along the diffusion trajectory, as the base of a smoothed classifier.

Lei, Berner, Wang, Chen, Ba, Ren, Zhu, Anandkumar, "Robust Representation Consistency Model via Contrastive Denoising", ICLR 2025,
arXiv 2501.13094v2, with the authors' published code. Covers the contrastive pre-training (InfoNCE between temporally adjacent points
x_0 + t z, and instance discrimination of augmented views), its schedules, and the fine-tuning at one noise level, which is
`noise_trained.py`; certification is `evaluation/lvm_rs.py`. The classifier asks the network once a sample: no denoising before it.

Departures: one process, so negatives are those of its own batch; the representation that is handed on is the moving average of the
weights; sizes and lengths default to small images (the paper's are in brackets, and in PRESETS). The paper's frozen patch embedding
and MoCo-v3 initialisation (ImageNet) are not here.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from math import ceil, exp, log2, sqrt

import torch
from torch import Tensor, nn

from surefoot.data.augmenting import Augmentation, mirrored
from surefoot.data.images import LabelledImages
from surefoot.data.spec import Spec
from surefoot.errors import ConfigError
from surefoot.methods.base import Method
from surefoot.methods.vision.classifier import represent, scaled
from surefoot.methods.vision.noise_trained import TuningConfig
from surefoot.nn.noise_conditional import NetworkSize, NoiseConditional, drawn_from, network
from surefoot.nn.noise_levels import noise_grid
from surefoot.nn.optimise import descend, frozen_copy, polyak_
from surefoot.nn.schedules import scale_rates_, warm_cosine


@dataclass(frozen=True)
class RRCMConfig:
    """Pre-training; in brackets what the paper takes on CIFAR-10."""

    steps: int = 2000
    """Updates of the encoder (300,000)."""
    batch: int = 256
    """Images in a batch; each is a negative of all others (2048)."""
    lr: float = 1e-3
    """Learning rate (1e-4)."""
    weight_decay: float = 0.0
    """AdamW's weight decay (0)."""
    warmup: int = 200
    """Updates over which the rate rises from 0, before half a cosine takes it down (10,000)."""
    clip: float = 2.0
    """Bound on the norm of the gradient, after the warm-up (2)."""
    temperature: float = 0.2
    """tau of InfoNCE (0.2)."""
    first_scales: int = 20
    """s0: steps of the noise grid at the start (20)."""
    last_scales: int = 80
    """s1: and at the end (80)."""
    first_rate: float = 0.99
    """m0: rate of the target network at the start (0.99)."""
    last_rate: float = 0.999
    """m1: and at the end (0.9999)."""
    sharpness: float = 15.0
    """A: how soon the target's rate rises (15; ImageNet: 10)."""
    average: float = 0.99
    """Rate of the moving average of the weights, which is what is kept (0.9999; ImageNet: 0.99)."""
    hidden: int = 256
    """Width of the projector (2048)."""
    projection: int = 64
    """Width of what it gives (256)."""
    consistency: float = 1.0
    """Weight of the consistency along the trajectory; 0 leaves instance discrimination alone (1)."""

    def __post_init__(self) -> None:
        for name, least in (("steps", 1), ("batch", 2), ("warmup", 0), ("first_scales", 1), ("hidden", 1), ("projection", 1)):
            if getattr(self, name) < least:
                raise ConfigError(f"{name} is {getattr(self, name)}: it must be at least {least}.")
        for name in ("lr", "clip", "temperature"):
            if not 0.0 < getattr(self, name) < float("inf"):
                raise ConfigError(f"{name} is {getattr(self, name)}: it must be positive and finite.")
        for name in ("weight_decay", "sharpness", "consistency"):
            if not 0.0 <= getattr(self, name) < float("inf"):
                raise ConfigError(f"{name} is {getattr(self, name)}: it must be finite and not negative.")
        if self.last_scales < self.first_scales:
            raise ConfigError(f"last_scales is {self.last_scales}: it must be at least first_scales, {self.first_scales}.")
        if not 0.0 < self.first_rate < self.last_rate <= 1.0 or not 0.0 <= self.average < 1.0:
            raise ConfigError(
                f"rates of the target are {self.first_rate} and {self.last_rate}, of the average {self.average}: 0 < first < last <= 1,"
                " and the average lies in [0, 1)."
            )

    @property
    def levels(self) -> int:
        """N at the end, which the classifier's noise level is looked up in."""
        return scales(self.steps, self.steps, self.first_scales, self.last_scales)


@dataclass(frozen=True)
class Preset:
    """All settings of a run."""

    pretraining: RRCMConfig = field(default_factory=RRCMConfig)
    tuning: TuningConfig = field(default_factory=TuningConfig)
    network: NetworkSize = field(default_factory=NetworkSize)
    augmentation: Augmentation = field(default_factory=Augmentation)


def _paper(pretraining: RRCMConfig, tuning: TuningConfig, patch: int, final_norm: bool) -> Preset:
    size = NetworkSize("vit", width=768, depth=12, heads=12, patch=patch, final_norm=final_norm)
    return Preset(pretraining, tuning, size, Augmentation(shift=0, contrast=0.4, crop=0.08, flip=True))


PRESETS = {
    "small": Preset(),
    "cifar10": _paper(
        RRCMConfig(300_000, 2048, 1e-4, 0.0, 10_000, last_rate=0.9999, average=0.9999, hidden=2048, projection=256),
        TuningConfig(100, 1024, 8e-4, 8e-4, layer_decay=0.75, warmup=0.1),
        patch=4,
        final_norm=False,
    ),
    "imagenet": _paper(
        RRCMConfig(600_000, 4096, 2e-4, 0.03, 15_000, last_rate=0.9999, sharpness=10.0, average=0.99, hidden=4096, projection=256),
        TuningConfig(150, 1024, 8e-4, 8e-4, layer_decay=0.65, warmup=0.1),
        patch=16,
        final_norm=True,
    ),
}
"""Settings by name: ours for small images, and the paper's (ViT-B)."""


def preset(name: str, sigma: float) -> Preset:
    """Settings by name, with the consistency that the noise asks for: 10 up to sigma 0.25; above, 20 as in the paper, 2 if small."""
    if name not in PRESETS:
        raise ConfigError(f"preset is {name!r}: it must be one of {', '.join(PRESETS)}.")
    found = PRESETS[name]
    strength = 10.0 if sigma <= 0.25 else 2.0 if name == "small" else 20.0  # 10 over-regularises small data above
    return replace(found, tuning=replace(found.tuning, strength=strength))


# --- schedules ----------------------------------------------------------------------------------------------------------


def scales(step: int, steps: int, first: int = 20, last: int = 80) -> int:
    """N(s), levels of the noise grid at a step: doubles from first + 1 to last + 1 ("icm")."""
    every = ceil(steps / log2(ceil(last / first) + 1))
    return min(first * 2 ** ceil(step / every), last) + 1


def target_rate(step: int, steps: int, first: float = 0.99, last: float = 0.9999, sharpness: float = 15.0) -> float:
    """mu(s), what the target network keeps of itself: rises from first to last along a sigmoid of the root of time."""
    r = sqrt(step / steps * (last**2 - first**2) + first**2)
    c = 2.0 / (1.0 + exp(-sharpness * (r - first) / (last - first))) - 1.0
    return c * last + (1.0 - c) * first


# --- losses -----------------------------------------------------------------------------------------------------------


def infonce(h: Tensor, k: Tensor, temperature: float) -> Tensor:
    """logsumexp_j S_ij - S_ii, `[B]`, of S = u v^T / tau, with rows of `h` and `k` `[B, P]` (from the same image) as unit vectors.

    Positives are on the diagonal; no gradient goes to `k`.
    """
    if h.dim() != 2 or h.shape != k.shape:
        raise ConfigError(f"InfoNCE of {tuple(h.shape)} and {tuple(k.shape)}: both must be [B, P], row i from the same image.")
    u, v = nn.functional.normalize(h.float(), dim=-1), nn.functional.normalize(k.detach().float(), dim=-1)
    similarity = u @ v.T / temperature  # [B, B]
    return torch.logsumexp(similarity, -1) - similarity.diagonal()


def discrimination_loss(online: Branch, target: Branch, a: Tensor, b: Tensor, t_least: Tensor, temperature: float) -> Tensor:
    """(a): two views `[B, *shape]` of each image, nearly clean, told from all others, both ways; `[B]`."""
    with torch.no_grad():
        to_a, to_b = target.project(a, t_least), target.project(b, t_least)
    return infonce(online.project(a, t_least), to_b, temperature) + infonce(online.project(b, t_least), to_a, temperature)


def trajectory_loss(encoder: nn.Module, x: Tensor, z: Tensor, t: Tensor, t_next: Tensor, temperature: float) -> Tensor:
    """(b): neighbours x + t z and x + t' z on one trajectory, t' < t, told from those of other images; `[B]`.

    The same z on both sides; the less noisy side is the goal, and gets no gradient.
    """
    with torch.no_grad():
        goal = represent(encoder, x + t_next * z, t_next)
    return infonce(represent(encoder, x + t * z, t), goal, temperature)


# --- method -----------------------------------------------------------------------------------------------------------


class Branch(nn.Module):
    """g(e(x, t)): the encoder, and the projector that pre-training alone needs."""

    def __init__(self, encoder: NoiseConditional, n_in: int, hidden: int, n_out: int):
        super().__init__()
        self.encoder = encoder
        self.projector = nn.Sequential(*_normed(n_in, hidden), *_normed(hidden, hidden), nn.Linear(hidden, n_out, bias=False))

    def project(self, x: Tensor, t: Tensor) -> Tensor:
        """`[B, P]` of scaled inputs with noise t."""
        return self.projector(represent(self.encoder, x, t))


def _normed(n_in: int, n_out: int) -> Sequence[nn.Module]:
    return nn.Linear(n_in, n_out, bias=False), nn.BatchNorm1d(n_out), nn.ReLU(inplace=True)


class RRCM(Method):
    """Stage 1: trains an encoder on images without their labels; one seed at a time. Stage 2 is `NoiseTrained(..., encoder=learned())`."""

    config_class = RRCMConfig

    def __init__(
        self, spec: Spec, config: RRCMConfig, size: NetworkSize, augmentation: Augmentation, *, device: str = "cpu", seed: int = 0
    ):
        super().__init__(spec, config, (), device, seed)
        augmentation.check(spec.obs_shape)
        self.size, self.augmentation = size, augmentation
        draw = torch.Generator().manual_seed(seed)  # weights are drawn on the CPU, the same on every device
        encoder = network(spec.obs_shape, size, generator=draw)
        with drawn_from(draw):
            self.online = Branch(encoder, size.width_out, config.hidden, config.projection).to(device)
        self.target, self.average = frozen_copy(self.online), frozen_copy(self.online.encoder)
        self.optimiser = torch.optim.AdamW(self.online.parameters(), config.lr, weight_decay=config.weight_decay, fused=True)

    def update(self, batch: LabelledImages) -> dict[str, Tensor]:
        c, s = self.config, self.steps
        scale_rates_(self.optimiser, warm_cosine(s, c.steps, c.warmup))
        grid = noise_grid(scales(s, c.steps, c.first_scales, c.last_scales)).to(batch.x.device)
        n = torch.randint(len(grid) - 1, (), generator=self.generator, device=grid.device)  # one for the whole batch
        t, t_next, t_least = grid[n], grid[n + 1], grid[-1]

        x = scaled(mirrored(batch.x, self.generator) if self.augmentation.flip else batch.x)
        a, b = (scaled(self.augmentation(batch.x, self.generator)) for _ in range(2))
        z = torch.empty_like(x).normal_(generator=self.generator)  # one for each image, in every line below
        told_apart = discrimination_loss(self.online, self.target, a + t_least * z, b + t_least * z, t_least, c.temperature).mean()
        kept = trajectory_loss(self.online.encoder, x, z, t, t_next, c.temperature).mean()
        loss = told_apart + c.consistency * kept
        descend(loss, self.optimiser, None if s < c.warmup else c.clip)

        polyak_(self.target, self.online, 1.0 - target_rate(s, c.steps, c.first_rate, c.last_rate, c.sharpness))
        polyak_(self.average, self.online.encoder, 1.0 - c.average)
        self.steps += 1
        return {"loss": loss.detach(), "discrimination": told_apart.detach(), "consistency": kept.detach()}

    def learned(self) -> NoiseConditional:
        """A copy of the encoder (the moving average of its weights), to be tuned."""
        return copy.deepcopy(self.average).requires_grad_(True)
