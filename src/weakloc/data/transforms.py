"""A picture -> a normalised tensor and the `GridTransform` that leads back; pure functions only.

Whatever is random is drawn in `augmentation` and only carried out here. Tensors are (3, height,
width); no function writes into its argument.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Literal, TypeAlias, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional

from weakloc.data.images import pixels_of
from weakloc.errors import require_setting
from weakloc.geometry import BoxLTRB, GridTransform, Size

PixelSize: TypeAlias = tuple[int, int]  # (width, height)
PixelArray: TypeAlias = NDArray[np.uint8]  # (height, width, 3)
Channels: TypeAlias = tuple[float, float, float]
ResizeMode: TypeAlias = Literal["warp", "pad", "crop", "none"]
PadPosition: TypeAlias = Literal["center", "corner"]

IMAGENET_MEAN: Channels = (0.485, 0.456, 0.406)
IMAGENET_STD: Channels = (0.229, 0.224, 0.225)


def channel_moments(picture: Image.Image) -> NDArray[np.float64]:
    """(2, 3): the mean of each channel of an RGB picture, from 0 to 1, and of its square."""
    levels = np.arange(256) / 255
    shares = np.reshape(picture.histogram(), (3, 256)) / (picture.width * picture.height)
    return np.stack([shares @ levels, shares @ np.square(levels)])


@dataclass(frozen=True, slots=True)
class Placement:
    """Which region of a picture, in whole pixels, is drawn where on the network's canvas."""

    region_in_image: BoxLTRB
    content_size: PixelSize
    corner: PixelSize  # (left, top) of the content on the canvas
    canvas_size: PixelSize

    def transform(self, base: GridTransform) -> GridTransform:
        """From the original image to the canvas; `base` leads to the picture that is placed."""
        left, top = self.corner
        right = self.canvas_size[0] - left - self.content_size[0]
        bottom = self.canvas_size[1] - top - self.content_size[1]
        content = base.crop(self.region_in_image).resize(self.content_size)
        return content.pad(left, top, right, bottom)


LARGEST_SIDE = 16_384


@dataclass(frozen=True)
class Preprocessing:
    """How a picture becomes the network's input.

    warp: both sides stretched to `size`. pad: the whole picture inside `size`, aspect kept.
    crop: the middle of the picture fills `size`, aspect kept. none: the picture as it is.
    An int is a square. Sides that are no multiple of `multiple_of` are enlarged to the next one:
    `size` itself, or with none the canvas. Padding is zero after normalisation: the mean colour.
    """

    size: int | PixelSize = 224
    resize: ResizeMode = "warp"
    pad_position: PadPosition = "center"
    multiple_of: int = 1
    mean: Channels = IMAGENET_MEAN
    std: Channels = IMAGENET_STD

    def __post_init__(self) -> None:
        require = partial(require_setting, self, "input of the network")
        remedy = f"Give 1 to {LARGEST_SIDE} pixels"
        require("size", all(1 <= side <= LARGEST_SIDE for side in self._sides), remedy)
        require("multiple_of", 1 <= self.multiple_of <= LARGEST_SIDE, remedy)
        modes = get_args(ResizeMode)
        require("resize", self.resize in modes, f"Choose one of: {', '.join(modes)}")
        require("std", min(self.std) > 0, "Give a positive number for each channel")

    @property
    def fixed_size(self) -> PixelSize | None:
        """(width, height) that every input has, or None where it follows the picture."""
        return None if self.resize == "none" else self._target

    def place(self, picture_size: PixelSize) -> Placement:
        """Where the picture goes on the canvas."""
        region: BoxLTRB = (0.0, 0.0, *picture_size)
        content = canvas = target = self._target
        if self.resize == "crop":
            region = middle_box(picture_size, shape=target)
        elif self.resize == "none":
            content, canvas = picture_size, self.round_up(picture_size)
        elif self.resize == "pad":
            factor = min(target[0] / picture_size[0], target[1] / picture_size[1])
            width = min(max(round(picture_size[0] * factor), 1), target[0])
            height = min(max(round(picture_size[1] * factor), 1), target[1])
            content = width, height
        corner = (0, 0)
        if self.pad_position == "center":
            corner = (canvas[0] - content[0]) // 2, (canvas[1] - content[1]) // 2
        return Placement(region, content, corner, canvas)

    def apply(
        self, picture: Image.Image, *, base: GridTransform | None = None
    ) -> tuple[Tensor, GridTransform]:
        """The float32 input (3, H, W) and its place in the image.

        `base` leads from the original image to `picture` where they differ: a tile, a picture
        decoded at reduced size.
        """
        placement = self.place(picture.size)
        content = resample(pixels_of(picture), placement)
        transform = placement.transform(base or GridTransform.identity(picture.size))
        return self.finish(content, placement), transform

    def finish(self, content: Tensor, placement: Placement) -> Tensor:
        """Normalise the resampled content and lay it on the zero canvas: (3, H, W)."""
        normalised = normalise(content, mean=self.mean, std=self.std)
        return lay_on_canvas(normalised, placement)

    def round_up(self, size: PixelSize) -> PixelSize:
        """The next multiple of `multiple_of`, each way."""
        width, height = (math.ceil(side / self.multiple_of) * self.multiple_of for side in size)
        return width, height

    @property
    def _sides(self) -> PixelSize:
        return (self.size, self.size) if isinstance(self.size, int) else self.size

    @cached_property
    def _target(self) -> PixelSize:
        return self.round_up(self._sides)


def middle_box(image_size: PixelSize, *, shape: PixelSize) -> BoxLTRB:
    """The largest box of whole pixels with the proportions of `shape`, in the middle."""
    width, height = image_size
    crop_width = min(width, max(round(height * shape[0] / shape[1]), 1))
    crop_height = min(height, max(round(width * shape[1] / shape[0]), 1))
    left, top = (width - crop_width) // 2, (height - crop_height) // 2
    return left, top, left + crop_width, top + crop_height


def resample(pixels: PixelArray, placement: Placement) -> Tensor:
    """The placed region at its content size, bilinear with antialiasing: uint8 (3, h, w)."""
    left, top, right, bottom = (int(edge) for edge in placement.region_in_image)
    region = torch.from_numpy(pixels).permute(2, 0, 1)[:, top:bottom, left:right]
    if region.shape[2:0:-1] == placement.content_size:
        return region.contiguous()
    # On 8-bit pixels this is twice as fast as Pillow, and equal but for one level now and then.
    return resize_images(region, placement.content_size)


def normalise(
    content: Tensor, *, mean: Channels, std: Channels, out: Tensor | None = None
) -> Tensor:
    """(value / 255 - mean) / std of each channel of a uint8 (3, h, w), as float32.

    `out` is where the result goes; a batch is filled in place, which halves the memory traffic.
    """
    factor = torch.tensor([1.0 / (255.0 * value) for value in std])[:, None, None]
    shift = torch.tensor([m / s for m, s in zip(mean, std, strict=True)])[:, None, None]
    values = content.float() if out is None else out.copy_(content)
    return values.mul_(factor).sub_(shift)


def lay_on_canvas(content: Tensor, placement: Placement) -> Tensor:
    """`content` (3, h, w) at its corner of a zero canvas (3, H, W)."""
    if placement.content_size == placement.canvas_size:
        return content
    (width, height), (left, top) = placement.content_size, placement.corner
    canvas = content.new_zeros((3, placement.canvas_size[1], placement.canvas_size[0]))
    canvas[:, top : top + height, left : left + width] = content
    return canvas


def resize_images(images: Tensor, size: PixelSize) -> Tensor:
    """Bilinear with antialiasing to (width, height), of (3, H, W) or (B, 3, H, W)."""
    batch = images if images.ndim == 4 else images[None]
    resized = functional.interpolate(
        batch, size=(size[1], size[0]), mode="bilinear", align_corners=False, antialias=True
    )
    return resized if images.ndim == 4 else resized[0]


def hide_tiles(images: Tensor, hidden: Tensor, *, patch_size: int) -> Tensor:
    """Zero the tiles where `hidden` (rows, columns) is true; the last ones are cut at the edge.

    Tiles are squares of `patch_size` pixels, the first in the top-left corner. Zero is the mean
    colour, which keeps the expected value of what the first layer sees (Hide-and-Seek).
    """
    height, width = images.shape[-2:]
    rows = hidden.repeat_interleave(patch_size, 0)[:height]
    mask = rows.repeat_interleave(patch_size, 1)[:, :width]  # (H, W)
    return images.masked_fill(mask, 0.0)


def rotate(image: Tensor, degrees: float) -> Tensor:
    """(3, H, W) turned counter-clockwise about the middle, bilinear, zero where nothing was."""
    height, width = image.shape[-2:]
    cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    # grid_sample counts both axes from -1 to 1, so the sides' ratio enters.
    to_source = image.new_tensor(
        [[cosine, -sine * height / width, 0.0], [sine * width / height, cosine, 0.0]]
    )
    grid = functional.affine_grid(to_source[None], [1, *image.shape], align_corners=False)
    return functional.grid_sample(image[None], grid, align_corners=False)[0]


def jittered_size(size: Size, factor: float, *, multiple_of: int = 1) -> PixelSize:
    """Both sides times the factor, to the nearest multiple and at least one of it."""
    width, height = (max(round(side * factor / multiple_of), 1) * multiple_of for side in size)
    return width, height
