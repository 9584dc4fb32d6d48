"""Shifts of what a policy observes, under which it is played to see whether its sensitive directions move (RA-NLD, section 5).

Natural ones change each frame alike, of a stack each of its frames, before the policy sees it; attacks move every observation against
the policy (see `diagnosing_attacks`). All are functions of the observation and what the policy remembers, without any draw, so that the
same episodes show the same states.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from io import BytesIO
from math import cos, pi, sin
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import affine_grid, avg_pool2d, grid_sample, pad

from surefoot.data.spec import Discrete, Spec
from surefoot.errors import ConfigError, UnknownNameError
from surefoot.evaluation.diagnosing_attacks import deepfool, elastic, fgsm, nesterov
from surefoot.evaluation.visited import Visited, visited
from surefoot.nn.conv import channels_last
from surefoot.policies.base import Memory, Policy

Change = Callable[[Tensor], Tensor]
"""Images `[m, H, W]`, or observations `[n, d]`, to as many of that shape."""

Assault = Callable[[Policy, Tensor, Memory], Tensor]
"""A policy, observations `[n, *obs_shape]` and its memory of what came before, to what it sees instead."""


@dataclass(frozen=True)
class Shift:
    """A natural change of observations `[n, *obs_shape]` (`images`: of pictures `[m, H, W]`, frame by frame), or an attack."""

    name: str
    change: Change | None = None
    images: bool = True
    attack: Assault | None = None

    def __call__(self, obs: Tensor, policy: Policy, memory: Memory) -> Tensor:
        if self.change is None:
            return obs if self.attack is None else self.attack(policy, obs, memory)
        if not self.images:
            return self.change(obs.flatten(1)).reshape(obs.shape)
        last = channels_last(obs.shape[1:])
        frames = obs.movedim(-1, 1) if last else obs
        changed = self.change(frames.reshape(-1, *frames.shape[-2:])).reshape(frames.shape)
        return changed.movedim(1, -1) if last else changed


class Shifted(Policy):
    """`inner`, which sees every observation through a shift."""

    def __init__(self, inner: Policy, shift: Shift):
        super().__init__()
        if inner.copies:
            raise ConfigError("a fleet is shifted member by member: take one with policy.member(i).")
        self.inner, self.shift = inner, shift
        self.spec, self.differentiable = inner.spec, inner.differentiable

    def start(self, n: int) -> Memory:
        return self.inner.start(n)

    def act(
        self, obs: Tensor, memory: Memory = None, *, generator: torch.Generator | None = None, greedy: bool = True
    ) -> tuple[Tensor, Memory]:
        return self.inner.act(self.shift(obs, self.inner, memory), memory, generator=generator, greedy=greedy)


def visited_under(shift: Shift, policy: Policy, env_id: str, states: int, **options: Any) -> Visited:
    """States that `policy` visits while it sees everything through `shift`, as it sees them. Options and errors: see `visited`."""
    (found,) = visited(Shifted(policy, shift), env_id, states, **options)
    return replace(found, obs=shift(found.obs.float(), policy, found.memory))


# --- natural changes --------------------------------------------------------------------------------------------------


def linear(gain: float, offset: float) -> Change:
    """Contrast and brightness: a x + b."""
    return lambda x: gain * x + offset


def blurred(side: int) -> Change:
    """The mean over `side` x `side` pixels; the picture's border is continued."""
    if side < 1 or side % 2 == 0:
        raise ConfigError(f"side is {side}: a blur needs an odd number of pixels.")
    return lambda x: avg_pool2d(pad(x.unsqueeze(1), [side // 2] * 4, mode="replicate"), side, 1).squeeze(1)


def moved(rows: int, columns: int) -> Change:
    """The picture moved by whole pixels; what comes in is the border, continued."""

    def change(x: Tensor) -> Tensor:
        h, w = x.shape[-2:]
        at = (torch.arange(h) - rows).clamp(0, h - 1), (torch.arange(w) - columns).clamp(0, w - 1)
        return x.index_select(-2, at[0]).index_select(-1, at[1])

    return change


def rotated(degrees: float) -> Change:
    """Turned about the middle, between pixels by bilinear interpolation."""
    a = degrees * pi / 180.0

    def change(x: Tensor) -> Tensor:
        h, w = x.shape[-2:]
        turn = x.new_tensor([[cos(a), -sin(a) * h / w, 0.0], [sin(a) * w / h, cos(a), 0.0]]).expand(len(x), 2, 3)
        return _sampled(x, affine_grid(turn, [len(x), 1, h, w], align_corners=False))

    return change


def tilted(share: float) -> Change:
    """Seen in perspective: the upper edge is longer by `share` of the width at either end, the lower one shorter."""

    def change(x: Tensor) -> Tensor:
        h, w = x.shape[-2:]
        whole = affine_grid(torch.eye(2, 3, dtype=x.dtype).expand(1, 2, 3), [1, 1, h, w], align_corners=False)
        depth = 1.0 + share * whole[..., 1:]
        return _sampled(x, (whole / depth).expand(len(x), h, w, 2))

    return change


def _sampled(x: Tensor, grid: Tensor) -> Tensor:
    return grid_sample(x.unsqueeze(1), grid, padding_mode="border", align_corners=False).squeeze(1)


def compressed(quality: int, white: float) -> Change:
    """Through JPEG and back; `white` is the value of a white pixel."""
    if not 1 <= quality <= 95:
        raise ConfigError(f"quality is {quality}: JPEG has 1 to 95.")

    def one(picture: np.ndarray) -> np.ndarray:
        file = BytesIO()
        Image.fromarray(picture).save(file, "JPEG", quality=quality)
        return np.asarray(Image.open(file))

    def change(x: Tensor) -> Tensor:
        grey = (x * (255.0 / white)).clamp(0.0, 255.0).round().to(torch.uint8).cpu().numpy()
        return torch.from_numpy(np.stack([one(picture) for picture in grey])).to(x) * (white / 255.0)

    return change


# --- which there are --------------------------------------------------------------------------------------------------


def shifts(spec: Spec, *, white: float = 1.0, eps: float, unit: Tensor | None = None) -> dict[str, Shift]:
    """The shifts for what a policy sees and does, by name; `white`: the value of a white pixel; `eps`: the bound of fgsm and nesterov.

    Attacks count in units of `unit` `[d]`, elastic-net and C&W in steps of a tenth of `eps`. Sizes of natural changes are such that a
    person would hardly notice: RA-NLD, appendix.
    """
    attacks: dict[str, Assault] = {"fgsm": partial(fgsm, eps=eps, unit=unit)}
    if isinstance(spec.action, Discrete):
        attacks |= {
            "nesterov": partial(nesterov, eps=eps, unit=unit),
            "deepfool": partial(deepfool, unit=unit),
            "cw": partial(elastic, unit=unit, lr=0.1 * eps),
            "elastic": partial(elastic, unit=unit, lr=0.1 * eps, beta=0.01),
        }
    hostile = {name: Shift(name, attack=attack) for name, attack in attacks.items()}
    if len(spec.obs_shape) not in (2, 3):
        step = torch.ones(1) if unit is None else unit
        natural = {"gain": linear(1.2, 0.0), "offset": lambda x: x + 0.5 * step}
        return {name: Shift(name, change, images=False) for name, change in natural.items()} | hostile
    natural = {
        "brightness": linear(1.2, white * 10.0 / 255.0),
        "blur": blurred(3),
        "rotation": rotated(3.0),
        "perspective": tilted(0.03),
        "move": moved(0, 1),
        "compression": compressed(30, white),
    }
    return {name: Shift(name, change) for name, change in natural.items()} | hostile


def chosen(names: Sequence[str], known: dict[str, Shift]) -> list[Shift]:
    """The shifts of these names. Raises UnknownNameError."""
    for name in names:
        if name not in known:
            raise UnknownNameError("shift", name, known)
    return [known[name] for name in names]
