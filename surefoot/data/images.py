"""Labelled images to train and certify a classifier on: scikit-learn's digits, an npz, or a folder of pictures, all in [0, 1].

Pictures stay on disk and are read a batch at a time, by Pillow, in threads. A folder has one sub-folder a class; one whose
sub-folders are train/ and val/ (or test/), as ImageNet's, brings its own split.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from surefoot.data.inputs import read_inputs
from surefoot.errors import ConfigError, DataError, MissingExtraError

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".ppm", ".pgm", ".tif", ".tiff", ".webp")
HELD_OUT = ("val", "test", "validation")

DIGITS = "digits"
"""What scikit-learn's digits are called where a source of images is named."""


@dataclass(frozen=True, eq=False)
class Images:
    """Labelled images; `where` holds them, or the files that do. Rows are read with `read`."""

    where: Tensor | Sequence[Path]  # [n, *shape] float32 in [0, 1], or n files
    y: Tensor  # [n] int64
    classes: tuple[str, ...]
    shape: tuple[int, ...]  # of one image: [d], [height, width] or [channels, height, width]
    source: str

    def __len__(self) -> int:
        return len(self.y)

    def read(self, rows: Tensor | None = None) -> Tensor:
        """Images `[b, *shape]` float32 in [0, 1], all of them unless told which. Raises DataError for a file that is no picture."""
        rows = torch.arange(len(self)) if rows is None else rows
        if isinstance(self.where, Tensor):
            return self.where[rows]
        files = [self.where[row] for row in rows.tolist()]
        with ThreadPoolExecutor(min(len(files), os.cpu_count() or 1, 16)) as pool:
            return torch.stack(list(pool.map(lambda file: _picture(file, self.shape[-1]), files)))

    def rows(self, rows: Tensor) -> Images:
        """Some of them."""
        where = self.where[rows] if isinstance(self.where, Tensor) else [self.where[row] for row in rows.tolist()]
        return Images(where, self.y[rows], self.classes, self.shape, self.source)

    def evenly(self, n: int) -> Images:
        """n of them, evenly spaced (all of them if there are no more)."""
        if n < 1:
            raise ConfigError(f"{n} images were asked for: at least one is needed.")
        return self.rows(torch.linspace(0, len(self) - 1, min(n, len(self)), dtype=torch.float64).round().long())

    @property
    def fingerprint(self) -> str:
        """Changes with the images and classes (of files: with their names and sizes)."""
        value = zlib.crc32(self.y.numpy().tobytes())
        if isinstance(self.where, Tensor):
            return f"{zlib.crc32(self.where.numpy().tobytes(), value):08x}"
        for file in self.where:
            value = zlib.crc32(f"{file.parent.name}/{file.name} {file.stat().st_size}".encode(), value)
        return f"{value:08x}"


@dataclass(frozen=True)
class LabelledImages:
    """A batch."""

    x: Tensor  # [B, *shape] in [0, 1]
    y: Tensor  # [B] int64


class Epochs:
    """Batches of all images in a fresh order each epoch, without end.

    The last batch of an epoch may be smaller; with `whole` the images that fill no batch are left out of that epoch. Its state is the
    generator's before the epoch, and how many batches of it were given.
    """

    def __init__(self, images: Images, batch: int, *, whole: bool = False, device: str = "cpu", seed: int = 0):
        if batch < 1:
            raise ConfigError(f"a batch of {batch} images was asked for: it must be at least 1.")
        self.images, self.size, self.whole, self.device = images, min(batch, len(images)), whole, device
        self.generator = torch.Generator().manual_seed(seed)
        self._order: tuple[Tensor, ...] = ()
        self._before, self._given = self.generator.get_state(), 0

    @property
    def batches(self) -> int:
        """Batches in an epoch."""
        return len(self.images) // self.size if self.whole else -(-len(self.images) // self.size)

    def __iter__(self) -> Epochs:
        return self

    def __next__(self) -> LabelledImages:
        if self._given == len(self._order):
            self._shuffle()
        rows = self._order[self._given]
        self._given += 1
        return LabelledImages(self.images.read(rows).to(self.device), self.images.y[rows].to(self.device))

    def _shuffle(self) -> None:
        self._before, self._given = self.generator.get_state(), 0
        self._order = torch.randperm(len(self.images), generator=self.generator).split(self.size)[: self.batches]

    def state_dict(self) -> dict[str, Tensor]:
        return {"generator": self._before, "given": torch.tensor(self._given)}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.generator.set_state(state["generator"].cpu())
        self._order = ()
        given = int(state["given"])
        if given:
            self._shuffle()
        self._given = given


# --- where they come from ---------------------------------------------------------------------------------------------


def read_images(source: str, *, held_out: float = 0.3, size: int = 32, seed: int = 0) -> tuple[Images, Images]:
    """Images to train with, and those to judge with: `digits`, an npz with x and y, or a folder.

    A folder that brings no split of its own, and every other source, is split at random, class by class; `held_out` is the share
    that is kept back. Pictures are made `size` x `size`. Raises DataError for what cannot be read, ConfigError for settings
    outside their range.
    """
    if not 0.0 < held_out < 1.0:
        raise ConfigError(f"held_out is {held_out}: the share of images that is kept back lies between 0 and 1.")
    if size < 1:
        raise ConfigError(f"size is {size}: pictures are at least 1 pixel wide.")
    if source == DIGITS:
        return split(digits(), held_out, seed)
    path = Path(source)
    if path.is_dir():
        return read_folder(path, size, held_out, seed)
    if path.suffix == ".npz" and path.is_file():
        return split(read_npz(path), held_out, seed)
    raise DataError(f"{source} is neither {DIGITS!r}, nor a folder with one sub-folder a class, nor an npz file: name one of these.")


def digits() -> Images:
    """scikit-learn's 1,797 handwritten digits of 8 x 8 pixels."""
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise MissingExtraError("scikit-learn", "vision") from None
    images, y = load_digits(return_X_y=True)
    x = torch.tensor(images / 16.0, dtype=torch.float32).reshape(-1, 8, 8)
    return Images(x, torch.tensor(y), tuple("0123456789"), (8, 8), DIGITS)


def split(images: Images, held_out: float, seed: int) -> tuple[Images, Images]:
    """Shuffled and stratified by class: the share 1 - `held_out`, and the rest."""
    try:
        from sklearn.model_selection import train_test_split
    except ImportError:
        raise MissingExtraError("scikit-learn", "vision") from None
    counts = torch.bincount(images.y, minlength=len(images.classes))
    if int(counts.min()) < 2:
        few = images.classes[int(counts.argmin())]
        raise DataError(f"{images.source}: class {few!r} has {int(counts.min())} images: at least 2 are needed, to train and to judge.")
    try:
        parts = train_test_split(np.arange(len(images)), test_size=held_out, stratify=images.y.numpy(), random_state=seed)
    except ValueError as error:
        raise DataError(f"{images.source}: these {len(images)} images cannot be split ({str(error).rstrip('.')}).") from None
    train, rest = (images.rows(torch.from_numpy(rows)) for rows in parts)
    return train, rest


def read_npz(path: Path) -> Images:
    """x `[n, d]`, `[n, height, width]` or `[n, channels, height, width]` in [0, 1], and classes y."""
    inputs = read_inputs(path)
    x, y = inputs.x, inputs.y
    if y is None:
        raise DataError(f"{path}: field 'y' is missing: it must hold the class of each of the {len(x)} images.")
    low, high = float(x.min()), float(x.max())
    if low < 0.0 or high > 1.0:
        raise DataError(
            f"{path}: field 'x' lies between {low:g} and {high:g}: scale it to [0, 1] (divide by {high:g}?), the units of noise and radii."
        )
    if x.ndim == 4 and x.shape[-1] in (1, 3, 4) and x.shape[1] > 4:
        raise DataError(f"{path}: field 'x' has shape {x.shape}: its axes must be image, channel, height, width.")
    if x.ndim > 4:
        raise DataError(f"{path}: field 'x' has shape {x.shape}: images have at most the axes channel, height and width.")
    classes = tuple(str(label) for label in range(int(y.max()) + 1))
    if len(classes) < 2:
        raise DataError(f"{path}: field 'y' holds the one class 0: a classifier needs at least 2.")
    return Images(torch.from_numpy(x), torch.from_numpy(y), classes, tuple(x.shape[1:]), str(path))


def read_folder(folder: Path, size: int, held_out: float, seed: int) -> tuple[Images, Images]:
    """Pictures by sub-folder; train/ and val/ (or test/) are a split."""
    names = {each.name for each in folder.iterdir() if each.is_dir()}
    kept_back = next((name for name in HELD_OUT if name in names), None)
    if "train" not in names or kept_back is None:
        return split(_pictures(folder, size, None), held_out, seed)
    train = _pictures(folder / "train", size, None)
    return train, _pictures(folder / kept_back, size, train.classes)


def _pictures(folder: Path, size: int, classes: tuple[str, ...] | None) -> Images:
    """The pictures below `folder`, whose classes are its sub-folders in order of their names."""
    found = tuple(sorted(each.name for each in folder.iterdir() if each.is_dir() and not each.name.startswith(".")))
    if classes is None:
        classes = found
        if len(classes) < 2:
            raise DataError(f"{folder} has {len(classes)} sub-folders: a classifier needs 2 or more, one a class.")
    if unknown := sorted(set(found) - set(classes)):
        raise DataError(f"{folder / unknown[0]} is a class that the training images lack: remove it, or add it to train/.")
    files, y = [], []
    for label, name in enumerate(classes):
        own = sorted(each for each in (folder / name).glob("*") if each.suffix.lower() in SUFFIXES and not each.name.startswith("."))
        if not own:
            raise DataError(f"{folder / name} holds no pictures ({', '.join(SUFFIXES[:3])} ...): add some, or remove the folder.")
        files += own
        y += [label] * len(own)
    return Images(files, torch.tensor(y), classes, (3, size, size), str(folder))


def _picture(file: Path, side: int) -> Tensor:
    """One picture: its middle square, resized, `[3, side, side]` in [0, 1]; grey ones have three equal channels."""
    try:
        from PIL import Image, ImageOps
    except ImportError:
        raise MissingExtraError("pillow", "vision") from None
    try:
        with Image.open(file) as image:
            if image.mode[0] in "IF":  # Pillow would cut off all that is above 255
                raise ValueError(f"it has more than 8 bits a channel, mode {image.mode}")
            square = ImageOps.fit(image.convert("RGB"), (side, side), Image.Resampling.BICUBIC)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(f"{file} cannot be read as a picture ({str(error).rstrip('.')}): repair it, or remove it.") from None
    return torch.from_numpy(np.asarray(square, np.float32) / 255.0).permute(2, 0, 1).contiguous()
