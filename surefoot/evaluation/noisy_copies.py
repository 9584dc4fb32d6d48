"""What a classifier says about noisy copies of inputs: many inputs side by side, a bounded number of copies at a time.

Everything that smooths a classifier by sampling stands on this (LVM-RS, votes). Copies are drawn afresh for every input, so what is
found at one input is independent of the others and distributed as if that input stood alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from math import inf

import torch
from torch import Tensor

from surefoot.errors import ConfigError, DataError
from surefoot.nn.running import RunningMoments

Classifier = Callable[..., Tensor]
"""Inputs `[b, ...]` to logits `[b, c]`; deterministic (dropout and batch normalisation in evaluation mode)."""

SIZE, FEWEST, MOST = 1 << 16, 64, 4096
"""Numbers in one pass by default, as far as that is not too few or too many copies."""

EACH = 16
"""Copies of each input in a pass, at least (if so many fit): with fewer, summing up costs more than it saves."""

MAPPED = 1 << 22
"""Numbers that `moments` holds at a time: 32 MB."""


@dataclass(frozen=True, eq=False)
class NoisyCopies:
    """`classifier` at inputs `x` `[k, ...]` behind N(0, sigma^2 I), asked about at most `batch` copies in a pass (None: by their size).

    `given`: what else the classifier is told about each input (the memory of a policy), tensors `[k, ...]`; it is then called with
    copies `[b, ...]` and a dictionary of tensors `[b, ...]`. Raises ConfigError for settings outside their range, DataError for
    inputs that are not finite.
    """

    classifier: Classifier
    x: Tensor
    sigma: float
    batch: int | None
    generator: torch.Generator
    given: Mapping[str, Tensor] | None = None
    first: int = 0  # number of the first input, to name one by

    def __post_init__(self) -> None:
        if not 0.0 < self.sigma < inf:
            raise ConfigError(f"sigma is {self.sigma}: the standard deviation of the noise must be positive and finite.")
        if self.batch is not None and self.batch < 1:
            raise ConfigError(f"batch is {self.batch}: at least 1 noisy copy must be asked about at a time.")
        if not len(self.x) or not self.x.is_floating_point():
            raise DataError(f"the inputs are {tuple(self.x.shape)} {self.x.dtype}: give one or more, of real numbers, one row an input.")
        finite = self.x.isfinite().reshape(len(self.x), -1).all(-1)
        if not bool(finite.all()):
            raise DataError(f"input {int((~finite).nonzero()[0])} holds a number that is NaN or infinite: leave it out or repair it.")

    def __len__(self) -> int:
        return len(self.x)

    @property
    def at_once(self) -> int:
        """Copies in one pass."""
        return self.batch or min(MOST, max(FEWEST, SIZE // self.x[0].numel()))

    def rows(self, chosen: slice) -> NoisyCopies:
        """The same at some of the inputs."""
        given = None if self.given is None else {name: value[chosen] for name, value in self.given.items()}
        return replace(self, x=self.x[chosen], given=given, first=self.first + (chosen.start or 0))

    def groups(self) -> Iterator[NoisyCopies]:
        """The inputs in groups that are asked about side by side."""
        size = max(1, self.at_once // EACH)
        for start in range(0, len(self), size):
            yield self.rows(slice(start, start + size))

    @torch.no_grad()
    def classes(self) -> int:
        """How many the classifier knows; it is asked about the first input without noise."""
        return self._ask(self.rows(slice(0, 1)).x, 1).shape[-1]

    @torch.no_grad()
    def logits(self, n: int) -> Iterator[Tensor]:
        """Logits `[k, b, c]` float64 of n fresh copies of each input in all. Raises DataError where they are not finite or of one class."""
        each = max(1, self.at_once // len(self))
        for start in range(0, n, each):
            shape = (len(self), min(each, n - start), *self.x.shape[1:])
            noise = torch.empty(shape, dtype=self.x.dtype, device=self.x.device).normal_(generator=self.generator)
            copies = (self.x.unsqueeze(1) + self.sigma * noise).flatten(0, 1)
            yield self._ask(copies, shape[1]).double().unflatten(0, shape[:2])

    def _ask(self, copies: Tensor, each: int) -> Tensor:
        if self.given is None:
            logits = self.classifier(copies)
        else:
            inputs = len(copies) // each
            logits = self.classifier(copies, {name: value[:inputs].repeat_interleave(each, 0) for name, value in self.given.items()})
        if logits.dim() != 2 or len(logits) != len(copies):
            raise DataError(
                f"the classifier gave {tuple(logits.shape)} for {len(copies)} inputs: it must give a logit for each class, [b, c]."
            )
        if logits.shape[1] < 2:
            raise DataError(
                "the classifier gave one logit for each input, and a choice needs logits of c >= 2 classes: of one that says yes or no by"
                " the sign of z, give (z, -z)."
            )
        finite = logits.isfinite().all(-1)
        if not bool(finite.all()):
            row = self.first + int((~finite).nonzero()[0]) // each
            raise DataError(f"the classifier gave a logit that is NaN or infinite near input {row}: nothing can be certified about it.")
        return logits


def votes(logits: Iterator[Tensor], classes: int) -> Tensor:
    """How often each class has the largest logit, `[k, c]` int64, of parts `[k, b, c]`; the first of equals counts."""
    return sum((torch.nn.functional.one_hot(z.argmax(-1), classes).sum(1) for z in logits), start=torch.zeros((), dtype=torch.int64))


def moments(of: Callable[[Tensor], Tensor], logits: Iterator[Tensor], maps: int) -> tuple[Tensor, Tensor]:
    """Mean and unbiased standard deviation of outputs `[k, maps, b, c]` of parts `[k, b, c]`: `[k, maps, c]` each, in one pass."""
    running: RunningMoments | None = None
    for part in logits:
        k, _, c = part.shape
        if running is None:
            running = RunningMoments((k, maps, c), str(part.device))
        for z in part.split(max(1, MAPPED // (k * maps * c)), 1):
            running.add(of(z))
    assert running is not None
    return running.mean, (running.square / (running.count - 1.0).clamp_min(1.0)).sqrt()
