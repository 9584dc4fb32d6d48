"""A classifier for smoothing, trained on noisy images so that it says the same about every noisy copy of one.

Jeong and Shin, "Consistency Regularization for Certified Robustness of Smoothed Classifiers", NeurIPS 2020, arXiv 2006.04062v4: cross
entropy of m noisy copies, plus lambda KL(mean prediction || each prediction) + eta H(mean prediction). With lambda = eta = 0 it is the
noise training of Cohen, Rosenfeld and Kolter (arXiv 1902.02918). From a pre-trained encoder it is the second stage of rRCM (arXiv
2501.13094, `rrcm.py`), with that paper's optional linear probe before it and its learning rates that fall layer by layer.

Departures: the head is trained along unless `freeze_head` (the released code leaves it out of the optimiser and expects a probe);
mixup and cutmix, which the paper adds on ImageNet, are not here.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from surefoot.data.images import LabelledImages
from surefoot.data.spec import Spec
from surefoot.errors import ConfigError
from surefoot.methods.base import Method
from surefoot.methods.vision.classifier import NoiseClassifier, represent, scaled
from surefoot.nn.noise_conditional import NetworkSize, NoiseConditional
from surefoot.nn.optimise import descend
from surefoot.nn.schedules import scale_rates_, warm_cosine


@dataclass(frozen=True)
class TuningConfig:
    """How a classifier is trained at one level of noise; in brackets what the paper takes on CIFAR-10."""

    epochs: int = 40
    """Passes over the labelled images (100)."""
    batch: int = 128
    """Images in a batch (1024)."""
    lr: float = 5e-4
    """Learning rate of the encoder (8e-4: 2e-4 for each 256 images)."""
    head_lr: float = 1e-3
    """Learning rate of the head (that of the encoder)."""
    weight_decay: float = 0.0
    """AdamW's weight decay (0)."""
    layer_decay: float = 1.0
    """What the encoder's rate is multiplied by for each layer away from the head (0.75)."""
    warmup: float = 0.0
    """Share of the training over which rates rise from 0 (0.1)."""
    copies: int = 2
    """m: noisy copies of each image in a batch (2)."""
    strength: float = 10.0
    """lambda: weight of the KL term (10 at sigma 0.25, 20 above; on small data 2 at 0.5)."""
    entropy: float = 0.5
    """eta: weight of the entropy of the mean prediction (0.5)."""
    probe_epochs: int = 0
    """Passes before, over clean images, that train the head alone (a linear probe)."""
    freeze_head: bool = False
    """Leave the head as the probe left it."""

    def __post_init__(self) -> None:
        for name, least in (("epochs", 1), ("batch", 1), ("copies", 1), ("probe_epochs", 0)):
            if getattr(self, name) < least:
                raise ConfigError(f"{name} is {getattr(self, name)}: it must be at least {least}.")
        for name in ("lr", "head_lr", "weight_decay", "strength", "entropy", "warmup"):
            if not 0.0 <= getattr(self, name) < float("inf"):
                raise ConfigError(f"{name} is {getattr(self, name)}: it must be finite and not negative.")
        if not 0.0 < self.layer_decay <= 1.0 or self.warmup >= 1.0:
            raise ConfigError(f"layer_decay is {self.layer_decay} and warmup {self.warmup}: they lie in (0, 1] and [0, 1).")
        if self.freeze_head and not self.probe_epochs:
            raise ConfigError("freeze_head is on, but probe_epochs is 0: a head that nothing trains tells no classes apart.")

    @property
    def passes(self) -> int:
        """Epochs, those of the probe included."""
        return self.probe_epochs + self.epochs


# --- losses -----------------------------------------------------------------------------------------------------------


def consistency_terms(logits: Tensor) -> tuple[Tensor, Tensor]:
    """KL(mean || each), averaged over the m copies, and the entropy of the mean, `[B]` each, of logits `[m, B, c]`.

    No gradient is stopped: the mean moves too.
    """
    if logits.dim() != 3:
        raise ConfigError(f"logits of shape {tuple(logits.shape)}: consistency is among the copies of [m, B, c].")
    logp = torch.log_softmax(logits.float(), -1)
    mean = logp.exp().mean(0)
    entropy = -(mean * mean.clamp_min(1e-20).log()).sum(-1)
    return -(mean * logp).sum(-1).mean(0) - entropy, entropy


def probe_loss(logits: Tensor, y: Tensor) -> Tensor:
    """Cross entropy plus the entropy of the prediction, of clean images: a scalar."""
    _, entropy = consistency_terms(logits.unsqueeze(0))
    return torch.nn.functional.cross_entropy(logits, y) + entropy.mean()


# --- method -----------------------------------------------------------------------------------------------------------


class NoiseTrained(Method):
    """Trains a `NoiseClassifier` at `sigma`, from a given encoder or from random weights; one seed at a time.

    `epoch` is the number of batches in an epoch, which the schedules count in; `levels` the size of the encoder's noise grid.
    """

    config_class = TuningConfig

    def __init__(
        self,
        spec: Spec,
        config: TuningConfig,
        sigma: float,
        size: NetworkSize,
        *,
        epoch: int,
        encoder: NoiseConditional | None = None,
        levels: int = 81,
        device: str = "cpu",
        seed: int = 0,
    ):
        super().__init__(spec, config, (), device, seed)
        draw = torch.Generator().manual_seed(seed)  # weights are drawn on the CPU, the same on every device
        self.policy = self.classifier = NoiseClassifier(spec, size, sigma, levels, encoder=encoder, generator=draw).to(device)
        self.probing, self.total = config.probe_epochs * epoch, config.passes * epoch
        head = list(self.classifier.head.parameters())
        layers = self.classifier.encoder.layers()
        groups = [{"params": p, "lr": config.lr * config.layer_decay ** (len(layers) - i)} for i, p in enumerate(layers)]
        groups = [each for each in groups if each["params"]]
        if not config.freeze_head:
            groups.append({"params": head, "lr": config.head_lr})
        self.optimiser = torch.optim.AdamW(groups, weight_decay=config.weight_decay, fused=True)
        self.probe = torch.optim.AdamW(head, lr=config.head_lr, weight_decay=0.0, fused=True)

    def update(self, batch: LabelledImages) -> dict[str, Tensor]:
        x = scaled(batch.x)
        metrics = self._probe(x, batch.y) if self.steps < self.probing else self._train(x, batch.y)
        self.steps += 1
        return metrics

    def _probe(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        """The head alone, on clean images at the least noise."""
        scale_rates_(self.probe, warm_cosine(self.steps, self.probing))
        with torch.no_grad():
            features = represent(self.classifier.encoder, x, self.classifier.least)
        logits = self.classifier.head(features)
        loss = probe_loss(logits, y)
        descend(loss, self.probe)
        return {"probe_loss": loss.detach(), "probe_accuracy": (logits.argmax(-1) == y).float().mean()}

    def _train(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        """Cross entropy and consistency of m noisy copies."""
        c, m = self.config, self.config.copies
        steps = self.total - self.probing
        scale_rates_(self.optimiser, warm_cosine(self.steps - self.probing, steps, round(c.warmup * steps)))
        z = torch.randn(m, *x.shape, generator=self.generator, device=x.device)
        noisy = (x + self.classifier.noise * z).flatten(0, 1)
        logits = self.classifier.logits(noisy).unflatten(0, (m, len(x)))
        likelihood = torch.nn.functional.cross_entropy(logits.flatten(0, 1), y.repeat(m))
        kl, entropy = (each.mean() for each in consistency_terms(logits))
        loss = likelihood + c.strength * kl + c.entropy * entropy
        descend(loss, self.optimiser)
        right = (logits.argmax(-1) == y).float().mean()
        return {"loss": loss.detach(), "cross_entropy": likelihood.detach(), "kl": kl.detach(), "accuracy": right}
