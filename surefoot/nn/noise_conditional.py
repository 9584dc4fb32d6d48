"""Networks that are told how noisy their input is: a residual MLP for vectors and small images, and a vision transformer.

Both take x `[b, *shape]`, scaled to unit variance, and one time input (see `noise_levels`) a row, `[b]` or a scalar, and give a
representation `[b, width_out]` or an image `[b, *shape]`. The transformer is that of Dosovitskiy et al. (arXiv 2010.11929) with a
time token beside the class token, as in rRCM (arXiv 2501.13094).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from typing import Literal, TypeAlias

import torch
from torch import Tensor, nn

from surefoot.errors import ConfigError
from surefoot.nn.noise_levels import sinusoidal

Output = Literal["representation", "image"]


@dataclass(frozen=True)
class NetworkSize:
    """Kind and size of a noise-conditional network."""

    kind: Literal["mlp", "vit"] = "mlp"
    """Network: a residual MLP (vectors, small images) or a vision transformer."""
    width: int = 256
    """Width of the hidden layers, or of a token (paper: 768)."""
    depth: int = 3
    """Residual blocks (paper: 12)."""
    representation: int = 128
    """Width of the MLP's representation; the transformer's is its class token."""
    heads: int = 4
    """Attention heads of the transformer (paper: 12)."""
    patch: int = 4
    """Side of the transformer's patches, in pixels (paper: 4 for CIFAR-10, 16 for ImageNet)."""
    final_norm: bool = False
    """Layer norm after the transformer's last block (paper: on for ImageNet, off for CIFAR-10)."""

    def __post_init__(self) -> None:
        for name in ("width", "depth", "representation", "heads", "patch"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}: it must be at least 1.")
        if self.kind not in ("mlp", "vit"):
            raise ConfigError(f"kind is {self.kind!r}: it must be 'mlp' or 'vit'.")
        if self.kind == "vit" and (self.width % self.heads or self.width % 2):
            raise ConfigError(f"width is {self.width}: a transformer's must be even and a multiple of its {self.heads} heads.")

    @property
    def width_out(self) -> int:
        """Width of the representation."""
        return self.representation if self.kind == "mlp" else self.width


class ResidualMLP(nn.Module):
    """x c_in -> width, plus a linear map of the time embedding; blocks x + W GELU(W LayerNorm x); layer norm; a linear output."""

    TIME = 64  # width of the time embedding

    def __init__(self, shape: tuple[int, ...], size: NetworkSize, output: Output = "representation"):
        super().__init__()
        self.shape, self.output = shape, output
        self.enter, self.time = nn.Linear(prod(shape), size.width), nn.Linear(self.TIME, size.width)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(size.width), nn.Linear(size.width, size.width), nn.GELU(), nn.Linear(size.width, size.width))
            for _ in range(size.depth)
        )
        n_out = prod(shape) if output == "image" else size.representation
        self.leave = nn.Sequential(nn.LayerNorm(size.width), nn.Linear(size.width, n_out))

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        hidden = self.enter(x.flatten(1)) + self.time(sinusoidal(time, self.TIME))
        for block in self.blocks:
            hidden = hidden + block(hidden)
        out = self.leave(hidden)
        return out.unflatten(-1, self.shape) if self.output == "image" else out

    def layers(self) -> list[list[nn.Parameter]]:
        """The weights from the input to the output, for learning rates that decay with depth."""
        return [weights(self.enter, self.time), *(weights(block) for block in self.blocks), weights(self.leave)]


class VisionTransformer(nn.Module):
    """Class token, time token and patches; the class token after the last block, or every patch's pixels."""

    def __init__(self, shape: tuple[int, ...], size: NetworkSize, output: Output = "representation"):
        super().__init__()
        channels, height, width = image_axes(shape)
        if height % size.patch or width % size.patch:
            raise ConfigError(f"patches of {size.patch} do not tile images of {height} x {width}: choose another patch, or resize them.")
        self.shape, self.output, self.width = shape, output, size.width
        self.grid = (channels, height // size.patch, width // size.patch, size.patch)
        self.enter = nn.Conv2d(channels, size.width, size.patch, stride=size.patch)
        self.time = nn.Sequential(nn.Linear(size.width, size.width), nn.SiLU(), nn.Linear(size.width, size.width))
        self.class_token = nn.Parameter(0.02 * torch.randn(1, 1, size.width))
        self.position = nn.Parameter(0.02 * torch.randn(1, 2 + self.grid[1] * self.grid[2], size.width))
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(
                size.width, size.heads, 4 * size.width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
            )
            for _ in range(size.depth)
        )
        self.norm: nn.Module = nn.LayerNorm(size.width) if size.final_norm or output == "image" else nn.Identity()
        self.leave: nn.Module = nn.Linear(size.width, channels * size.patch**2) if output == "image" else nn.Identity()

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        channels, rows, columns, patch = self.grid
        patches = self.enter(x.reshape(len(x), channels, rows * patch, columns * patch)).flatten(2).transpose(1, 2)  # [b, patches, w]
        told = self.time(sinusoidal(time, self.width)).reshape(-1, 1, self.width)
        tokens = torch.cat([self.class_token.expand(len(x), -1, -1), told.expand(len(x), -1, -1), patches], 1) + self.position
        for block in self.blocks:
            tokens = block(tokens)
        if self.output == "representation":
            return self.norm(tokens[:, 0])
        pixels = self.leave(self.norm(tokens[:, 2:])).reshape(-1, rows, columns, channels, patch, patch)
        return pixels.permute(0, 3, 1, 4, 2, 5).reshape(len(x), *self.shape)  # rows, patch and columns, patch side by side

    def layers(self) -> list[list[nn.Parameter]]:
        """As that of `ResidualMLP`."""
        first = [self.class_token, self.position, *weights(self.enter, self.time)]
        return [first, *(weights(block) for block in self.blocks), weights(self.norm, self.leave)]


NoiseConditional: TypeAlias = ResidualMLP | VisionTransformer
"""A network of this module."""


def weights(*modules: nn.Module) -> list[nn.Parameter]:
    """The parameters of some modules."""
    return [p for module in modules for p in module.parameters()]


def network(
    shape: tuple[int, ...], size: NetworkSize, output: Output = "representation", generator: torch.Generator | None = None
) -> NoiseConditional:
    """A network for inputs of `shape`, its weights drawn from `generator`. Raises ConfigError for a transformer on vectors."""
    with drawn_from(generator):
        return (ResidualMLP if size.kind == "mlp" else VisionTransformer)(shape, size, output)


@contextmanager
def drawn_from(generator: torch.Generator | None) -> Iterator[None]:
    """torch's own initialisations draw from its global generator: here from `generator`, and the global one is left as it was."""
    if generator is None:
        yield
        return
    seed = int(torch.randint(2**62, (1,), generator=generator, device=generator.device))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def image_axes(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """(channels, height, width) of images `[h, w]` or `[c, h, w]`. Raises ConfigError for vectors."""
    if len(shape) not in (2, 3):
        raise ConfigError(f"inputs of shape {shape} are not images: this needs [height, width] or [channels, height, width].")
    return (1, *shape) if len(shape) == 2 else shape  # type: ignore[return-value]
