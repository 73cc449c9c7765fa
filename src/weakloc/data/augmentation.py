"""What is random about a training image: steps that act on the network's input in their order.

Every number is drawn from the generator that is given, so that the same state of it gives the
same picture. No step writes into the image that it is given.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Generator, Tensor

from weakloc.data import transforms
from weakloc.data.transforms import Channels, PixelSize
from weakloc.geometry import BoxLTRB, GridTransform


@dataclass(frozen=True, eq=False)
class InputImage:
    """A normalised image (3, H, W) and its place; None once no axis-aligned map describes it."""

    pixels: Tensor
    transform: GridTransform | None
    std: Channels  # what its channels are divided by

    @property
    def size(self) -> PixelSize:
        """(width, height)"""
        return self.pixels.shape[2], self.pixels.shape[1]

    def flip(self) -> InputImage:
        transform = self.transform and self.transform.flip_horizontal()
        return replace(self, pixels=self.pixels.flip(-1), transform=transform)

    def crop(self, box_in_grid: BoxLTRB, size: PixelSize) -> InputImage:
        """The box, in whole pixels, stretched to `size`."""
        transform = self.transform and self.transform.crop(box_in_grid).resize(size)
        left, top, right, bottom = map(int, box_in_grid)
        pixels = transforms.resize_images(self.pixels[:, top:bottom, left:right], size)
        return replace(self, pixels=pixels, transform=transform)


class Step(Protocol):
    """Draws a change of one image and makes it, or leaves the image alone."""

    def apply(self, image: InputImage, generator: Generator) -> InputImage: ...


@dataclass(frozen=True)
class HorizontalFlip:
    probability: float = 0.5

    def apply(self, image: InputImage, generator: Generator) -> InputImage:
        return image.flip() if _happens(self.probability, generator) else image


@dataclass(frozen=True)
class GoogLeNetResize:
    """Szegedy et al. 2015: a crop of 8 to 100 % of the area and an aspect of 3:4 to 4:3.

    Area and aspect (width / height) are uniform, and the sides change places half of the time;
    torchvision's RandomResizedCrop draws the logarithm of the aspect instead. After `attempts`
    crops that do not fit, the middle of the image is taken at the shape of the output.
    """

    smallest_area: float = 0.08
    aspects: tuple[float, float] = (3 / 4, 4 / 3)
    attempts: int = 10

    def apply(self, image: InputImage, generator: Generator) -> InputImage:
        return image.crop(self.draw_box(generator, image.size, output=image.size), image.size)

    def draw_box(
        self, generator: Generator, image_size: PixelSize, *, output: PixelSize
    ) -> BoxLTRB:
        """The crop in whole pixels of an image of (width, height)."""
        width, height = image_size
        for _ in range(self.attempts):
            area = width * height * _uniform(self.smallest_area, 1.0, generator)
            aspect = _uniform(*self.aspects, generator)
            crop_width = round(math.sqrt(area * aspect))
            crop_height = round(math.sqrt(area / aspect))
            if _happens(0.5, generator):
                crop_width, crop_height = crop_height, crop_width
            if 1 <= crop_width <= width and 1 <= crop_height <= height:
                left = _integer_up_to(width - crop_width, generator)
                top = _integer_up_to(height - crop_height, generator)
                return left, top, left + crop_width, top + crop_height
        return transforms.middle_box(image_size, shape=output)


@dataclass(frozen=True)
class HideAndSeek:
    """Singh and Lee 2017: one patch size for each image, 0 for none; each tile hidden or not."""

    patch_sizes: tuple[int, ...] = (0, 4, 8, 16)
    probability: float = 0.5

    def apply(self, image: InputImage, generator: Generator) -> InputImage:
        patch_size = self.patch_sizes[_integer_up_to(len(self.patch_sizes) - 1, generator)]
        if patch_size == 0:
            return image
        columns, rows = (math.ceil(side / patch_size) for side in image.size)
        hidden = torch.rand((rows, columns), generator=generator) < self.probability
        pixels = transforms.hide_tiles(image.pixels, hidden, patch_size=patch_size)
        return replace(image, pixels=pixels)


@dataclass(frozen=True)
class WhiteNoise:
    """Gaussian noise of `sigma` (of a range of 1), independent for each pixel and channel."""

    sigma: float = 10 / 255
    probability: float = 0.5

    def apply(self, image: InputImage, generator: Generator) -> InputImage:
        if not _happens(self.probability, generator):
            return image
        noise = torch.randn(image.pixels.shape, generator=generator)
        noise *= self.sigma / torch.tensor(image.std)[:, None, None]
        return replace(image, pixels=image.pixels + noise)


@dataclass(frozen=True)
class Rotation:
    """Up to `degrees` either way. For training on labels: the image loses its transform.

    A turned frame has no axis-aligned map to the image.
    """

    degrees: float = 30.0
    probability: float = 0.5

    def apply(self, image: InputImage, generator: Generator) -> InputImage:
        if not _happens(self.probability, generator):
            return image
        degrees = _uniform(-self.degrees, self.degrees, generator)
        return replace(image, pixels=transforms.rotate(image.pixels, degrees), transform=None)


@dataclass(frozen=True)
class QuarterTurns:
    """0, 90, 180 or 270 degrees, exact to the pixel. For training on labels, as `Rotation`.

    Turns are counter-clockwise; the sides change places after an odd number of them.
    """

    def apply(self, image: InputImage, generator: Generator) -> InputImage:
        num_turns = _integer_up_to(3, generator)
        if num_turns == 0:
            return image
        return replace(image, pixels=image.pixels.rot90(num_turns, (-2, -1)), transform=None)


@dataclass(frozen=True)
class ScaleJitter:
    """Oquab et al. 2015: one factor for the whole batch, uniform between the two."""

    smallest: float = 0.7
    largest: float = 1.4
    multiple_of: int = 1

    def draw(self, generator: Generator, size: PixelSize) -> PixelSize:
        factor = _uniform(self.smallest, self.largest, generator)
        return transforms.jittered_size(size, factor, multiple_of=self.multiple_of)


@dataclass(frozen=True)
class CutMix:
    """Yun et al. 2019: a box of every image of a batch shows another image of the batch.

    A share uniform in [0, 1] of the area, of the image's shape; the centre is uniform over the
    image, and what sticks out is cut off.
    """

    def draw_box(self, generator: Generator, size: PixelSize) -> tuple[int, int, int, int]:
        """Left, top, right and bottom in whole pixels of an image of (width, height)."""
        factor = math.sqrt(_uniform(0.0, 1.0, generator))
        edges = []
        for side in size:
            half, center = int(side * factor) // 2, _integer_up_to(side - 1, generator)
            edges.append((max(center - half, 0), min(center + half, side)))
        (left, right), (top, bottom) = edges
        return left, top, right, bottom


@dataclass(frozen=True)
class Augmentation:
    """What happens to training images, in this order.

    `crop` takes its region from the decoded picture, in place of the preprocessing's own resize;
    `steps` follow on the network's input; `duplicate_steps` only touch images that class
    balancing repeats; `scale_jitter` and `cut_mix` act on the whole batch. "Hide-and-Seek after
    GoogLeNet resize" is `crop=GoogLeNetResize(), steps=(HideAndSeek(),)`, the other order is
    `steps=(HideAndSeek(), GoogLeNetResize())`.
    """

    crop: GoogLeNetResize | None = None
    steps: tuple[Step, ...] = ()
    duplicate_steps: tuple[Step, ...] = ()
    scale_jitter: ScaleJitter | None = None
    cut_mix: CutMix | None = None

    def steps_of_use(self, num_repeat: int) -> tuple[Step, ...]:
        """`num_repeat` is 0 for the first use of an image in an epoch."""
        return self.steps + self.duplicate_steps if num_repeat else self.steps


def _uniform(low: float, high: float, generator: Generator) -> float:
    return low + (high - low) * float(torch.rand((), generator=generator, dtype=torch.float64))


def _happens(probability: float, generator: Generator) -> bool:
    return _uniform(0.0, 1.0, generator) < probability


def _integer_up_to(largest: int, generator: Generator) -> int:
    return int(torch.randint(largest + 1, (), generator=generator))
