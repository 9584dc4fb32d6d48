"""Random changes of images `[b, *shape]` in [0, 1] that leave what they show: shift, crop, mirror, contrast. All by a given generator."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample, pad

from surefoot.errors import ConfigError


@dataclass(frozen=True)
class Augmentation:
    """How far an image is changed at most; vectors can only change their contrast."""

    shift: int = 1
    """Pixels that an image is moved by at most, in both directions (what enters is black)."""
    contrast: float = 0.1
    """Contrast is scaled by a factor between 1 - this and 1 + this."""
    crop: float = 1.0
    """Least share of an image's area that a random crop keeps, resized to the whole (1: no crops; paper: 0.08)."""
    flip: bool = False
    """Mirror half of the images, left to right (paper: yes)."""

    def __post_init__(self) -> None:
        if self.shift < 0 or not 0.0 <= self.contrast < 1.0 or not 0.0 < self.crop <= 1.0:
            raise ConfigError(
                f"augmentation by a shift of {self.shift}, contrast {self.contrast} and crop {self.crop}: the shift must not be negative,"
                " the contrast lies in [0, 1) and the crop in (0, 1]."
            )

    def check(self, shape: tuple[int, ...]) -> None:
        """Raises ConfigError if inputs of `shape` cannot be changed so."""
        if len(shape) < 2 and (self.shift or self.crop < 1.0 or self.flip):
            raise ConfigError(f"inputs of shape {shape} are vectors: set shift to 0, crop to 1 and flip off (contrast alone suits them).")
        if len(shape) >= 2 and self.shift >= min(shape[-2:]):
            raise ConfigError(f"shift is {self.shift}: it must be smaller than the {min(shape[-2:])} pixels of an image.")

    def __call__(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """A changed copy of every image, each in its own way."""
        if self.crop < 1.0:
            x = cropped(x, self.crop, generator)
        if self.shift:
            x = shifted(x, self.shift, generator)
        if self.flip:
            x = mirrored(x, generator)
        return contrasted(x, self.contrast, generator) if self.contrast else x


def shifted(x: Tensor, most: int, generator: torch.Generator) -> Tensor:
    """Moved by -most .. most pixels along both axes."""
    height, width = x.shape[-2:]
    images = pad(x.reshape(len(x), -1, height, width), (most,) * 4)
    down, right = torch.randint(0, 2 * most + 1, (2, len(x)), generator=generator, device=x.device)
    rows = down[:, None] + torch.arange(height, device=x.device)
    columns = right[:, None] + torch.arange(width, device=x.device)
    each = torch.arange(len(x), device=x.device)[:, None, None]
    return images[each, :, rows[:, :, None], columns[:, None, :]].movedim(-1, 1).reshape(x.shape)


def mirrored(x: Tensor, generator: torch.Generator) -> Tensor:
    """Half of them mirrored."""
    which = torch.rand(len(x), generator=generator, device=x.device) < 0.5
    return torch.where(which.reshape(-1, *(1,) * (x.dim() - 1)), x.flip(-1), x)


def contrasted(x: Tensor, most: float, generator: torch.Generator) -> Tensor:
    """Times 1 - most .. 1 + most, not beyond [0, 1]."""
    by = 1.0 + most * (2.0 * torch.rand(len(x), *(1,) * (x.dim() - 1), generator=generator, device=x.device) - 1.0)
    return (x * by).clamp(0.0, 1.0)


def cropped(x: Tensor, least: float, generator: torch.Generator) -> Tensor:
    """A random rectangle of `least` .. 1 of the area and sides of 3 : 4 to 4 : 3, resized to the whole image (bilinear)."""
    b = len(x)
    u = torch.rand(4, b, generator=generator, device=x.device)
    area, ratio = least + (1.0 - least) * u[0], torch.exp((2.0 * u[1] - 1.0) * torch.log(torch.tensor(4.0 / 3.0)))
    wide, high = (area * ratio).sqrt().clamp(max=1.0), (area / ratio).sqrt().clamp(max=1.0)
    theta = torch.zeros(b, 2, 3, device=x.device)
    theta[:, 0, 0], theta[:, 1, 1] = wide, high
    theta[:, 0, 2], theta[:, 1, 2] = (1.0 - wide) * (2.0 * u[2] - 1.0), (1.0 - high) * (2.0 * u[3] - 1.0)
    images = x.reshape(b, -1, *x.shape[-2:])
    grid = affine_grid(theta, list(images.shape), align_corners=False)
    return grid_sample(images, grid, padding_mode="border", align_corners=False).reshape(x.shape)
