"""The random half of the transforms: draws parameters from a generator, never touches a pixel.

An `Augmentation` is what a method asks for. `draw` fixes every number for one image, `apply`
carries them out through `transforms`; the same generator state gives the same picture.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
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


@dataclass(frozen=True)
class InputFacts:
    """What a step must know of the image before it exists."""

    size: PixelSize
    std: Channels


class Action(Protocol):
    """One change with all its numbers fixed."""

    def apply(self, view: InputImage) -> InputImage: ...


class Step(Protocol):
    """Draws an action, or None where this image is left alone."""

    def draw(self, generator: Generator, canvas: InputFacts) -> Action | None: ...


@dataclass(frozen=True)
class FlipAction:
    def apply(self, view: InputImage) -> InputImage:
        transform = view.transform.flip_horizontal() if view.transform else None
        return InputImage(transforms.flip_horizontal(view.pixels), transform)


@dataclass(frozen=True)
class CropAction:
    """`box_in_grid` in whole pixels, stretched to `size`."""

    box_in_grid: BoxLTRB
    size: PixelSize

    def apply(self, view: InputImage) -> InputImage:
        transform = view.transform
        if transform is not None:
            transform = transform.crop(self.box_in_grid).resize(self.size)
        pixels = transforms.crop_and_resize(view.pixels, self.box_in_grid, self.size)
        return InputImage(pixels, transform)


@dataclass(frozen=True, eq=False)
class HideAction:
    patch_size: int
    hidden: Tensor  # (rows, columns) of bool

    def apply(self, view: InputImage) -> InputImage:
        pixels = transforms.hide_tiles(view.pixels, self.hidden, patch_size=self.patch_size)
        return InputImage(pixels, view.transform)


@dataclass(frozen=True, eq=False)
class NoiseAction:
    noise: Tensor  # (3, H, W), in normalised units

    def apply(self, view: InputImage) -> InputImage:
        return InputImage(view.pixels + self.noise, view.transform)


@dataclass(frozen=True)
class RotateAction:
    """The result has no transform: a turned frame has no axis-aligned map to the image."""

    degrees: float

    def apply(self, view: InputImage) -> InputImage:
        return InputImage(transforms.rotate(view.pixels, self.degrees), None)


@dataclass(frozen=True)
class QuarterTurnAction:
    """Sides change places after an odd number of turns. The result has no transform, see above."""

    num_turns: int

    def apply(self, view: InputImage) -> InputImage:
        return InputImage(transforms.turn_by_quarters(view.pixels, self.num_turns), None)


@dataclass(frozen=True)
class HorizontalFlip:
    probability: float = 0.5

    def draw(self, generator: Generator, canvas: InputFacts) -> FlipAction | None:  # noqa: ARG002
        return FlipAction() if _happens(self.probability, generator) else None


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

    def draw(self, generator: Generator, canvas: InputFacts) -> CropAction:
        return CropAction(self.draw_box(generator, canvas.size, output=canvas.size), canvas.size)

    def draw_box(
        self, generator: Generator, image_size: PixelSize, *, output: PixelSize
    ) -> BoxLTRB:
        """The crop in whole pixels of an image of (width, height)."""
        width, height = image_size
        for _ in range(self.attempts):
            area = width * height * _uniform(self.smallest_area, 1.0, generator)
            aspect = _uniform(*self.aspects, generator)
            crop_width, crop_height = (
                round(math.sqrt(area * aspect)),
                round(math.sqrt(area / aspect)),
            )
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

    def draw(self, generator: Generator, canvas: InputFacts) -> HideAction | None:
        patch_size = self.patch_sizes[_integer_up_to(len(self.patch_sizes) - 1, generator)]
        if patch_size == 0:
            return None
        columns, rows = (math.ceil(side / patch_size) for side in canvas.size)
        hidden = torch.rand((rows, columns), generator=generator) < self.probability
        return HideAction(patch_size, hidden)


@dataclass(frozen=True)
class WhiteNoise:
    """Gaussian noise of `sigma` (of a range of 1), independent for each pixel and channel."""

    sigma: float = 10 / 255
    probability: float = 0.5

    def draw(self, generator: Generator, canvas: InputFacts) -> NoiseAction | None:
        if not _happens(self.probability, generator):
            return None
        width, height = canvas.size
        noise = torch.randn((3, height, width), generator=generator)
        return NoiseAction(noise * (self.sigma / torch.tensor(canvas.std)[:, None, None]))


@dataclass(frozen=True)
class Rotation:
    """Up to `degrees` either way. For training on labels: the image loses its transform."""

    degrees: float = 30.0
    probability: float = 0.5

    def draw(self, generator: Generator, canvas: InputFacts) -> RotateAction | None:  # noqa: ARG002
        if not _happens(self.probability, generator):
            return None
        return RotateAction(_uniform(-self.degrees, self.degrees, generator))


@dataclass(frozen=True)
class QuarterTurns:
    """0, 90, 180 or 270 degrees, exact to the pixel. For training on labels, as `Rotation`."""

    def draw(self, generator: Generator, canvas: InputFacts) -> QuarterTurnAction | None:  # noqa: ARG002
        num_turns = _integer_up_to(3, generator)
        return QuarterTurnAction(num_turns) if num_turns else None


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
class DrawnAugmentation:
    """Everything random about one image, decided."""

    region_in_image: BoxLTRB | None
    actions: tuple[Action, ...]

    def apply(self, view: InputImage) -> InputImage:
        """The actions in order; the region was taken before, from the decoded picture."""
        for action in self.actions:
            view = action.apply(view)
        return view


@dataclass(frozen=True)
class Augmentation:
    """What happens to training images, in this order.

    `crop` takes its region from the decoded picture, in place of the preprocessing's own resize;
    `steps` follow on the network's input; `duplicate_steps` only touch images that class
    balancing repeats; `scale_jitter` acts on the whole batch. "Hide-and-Seek after GoogLeNet
    resize" is `crop=GoogLeNetResize(), steps=(HideAndSeek(),)`, the other order is
    `steps=(HideAndSeek(), GoogLeNetResize())`.
    """

    crop: GoogLeNetResize | None = None
    steps: tuple[Step, ...] = ()
    duplicate_steps: tuple[Step, ...] = ()
    scale_jitter: ScaleJitter | None = None

    def draw(
        self, generator: Generator, *, picture_size: PixelSize, canvas: InputFacts, num_repeat: int
    ) -> DrawnAugmentation:
        """`num_repeat` is 0 for the first use of an image in an epoch."""
        region = None
        if self.crop is not None:
            region = self.crop.draw_box(generator, picture_size, output=canvas.size)
        steps: Sequence[Step] = self.steps + (self.duplicate_steps if num_repeat else ())
        drawn = [step.draw(generator, canvas) for step in steps]
        return DrawnAugmentation(region, tuple(action for action in drawn if action is not None))


def _uniform(low: float, high: float, generator: Generator) -> float:
    return low + (high - low) * float(torch.rand((), generator=generator, dtype=torch.float64))


def _happens(probability: float, generator: Generator) -> bool:
    return _uniform(0.0, 1.0, generator) < probability


def _integer_up_to(largest: int, generator: Generator) -> int:
    return int(torch.randint(largest + 1, (), generator=generator))
