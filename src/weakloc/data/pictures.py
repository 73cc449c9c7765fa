"""Where the loaders get decoded pictures from: the disk, or memory after the first time."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.sharedctypes import RawArray
from typing import Literal, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from weakloc.data.images import image_size, read_or_record
from weakloc.data.transforms import PixelArray, PixelSize, Preprocessing, resample
from weakloc.errors import ImageError, SettingError
from weakloc.geometry import GridTransform
from weakloc.structures import BrokenImage, Sample

Decode: TypeAlias = Literal["exact", "reduced"]


@dataclass(frozen=True, eq=False)
class Picture:
    """Decoded pixels and the way to them from the original image."""

    pixels: PixelArray
    base: GridTransform

    @property
    def size(self) -> PixelSize:
        """(width, height)"""
        return self.pixels.shape[1], self.pixels.shape[0]


class Pictures(Protocol):
    def read(self, index: int) -> Picture | BrokenImage: ...


@dataclass(frozen=True)
class PicturesOnDisk:
    """Decodes the sample's file each time.

    `reduced` lets JPEG files decode at 1/2, 1/4 or 1/8, to no less than twice the size at which
    the network sees them: many times faster on large photographs, with slightly other pixels.
    """

    samples: Sequence[Sample]
    preprocessing: Preprocessing
    max_pixels: int
    decode: Decode = "exact"

    def read(self, index: int) -> Picture | BrokenImage:
        sample = self.samples[index]
        if self.decode == "exact" or self.preprocessing.fixed_size is None:
            image = read_or_record(sample.name, sample.path, max_pixels=self.max_pixels)
            if isinstance(image, BrokenImage):
                return image
            return Picture(np.array(image), GridTransform.identity(image.size))
        return self._read_reduced(sample)

    def _read_reduced(self, sample: Sample) -> Picture | BrokenImage:
        try:
            size = image_size(sample.path, max_pixels=self.max_pixels)
        except ImageError as error:
            return BrokenImage(sample.name, error.message)
        identity = GridTransform.identity(size)
        seen = self.preprocessing.place(size).transform(identity)
        enough = math.ceil(2 * seen.scale_x * size[0]), math.ceil(2 * seen.scale_y * size[1])
        image = read_or_record(
            sample.name, sample.path, max_pixels=self.max_pixels, shrink_to=enough
        )
        if isinstance(image, BrokenImage):
            return image
        return Picture(np.array(image), identity.resize(image.size))


class PicturesInMemory:
    """Keeps every picture, as 8-bit pixels at the size the network sees, after its first use.

    The store is shared by the workers of one loader. A random crop is then taken from the picture
    at that size, which differs from a crop of the original unless they have the same size.
    """

    def __init__(self, on_disk: PicturesOnDisk) -> None:
        size = on_disk.preprocessing.fixed_size
        if size is None:
            raise SettingError(
                "pictures of changing size cannot be kept in memory",
                remedy="Choose the resize mode warp, pad or crop, or no cache",
            )
        self._on_disk, self._size = on_disk, size
        num_samples = len(on_disk.samples)
        self._shared_pixels = RawArray(ctypes.c_uint8, num_samples * size[0] * size[1] * 3)
        self._shared_sizes = RawArray(ctypes.c_int32, num_samples * 4)  # 0 until it is there

    def read(self, index: int) -> Picture | BrokenImage:
        width, height, decoded_width, decoded_height = self._sizes()[index].tolist()
        if width == 0:
            return self._read_and_keep(index)
        placement = self._on_disk.preprocessing.place((decoded_width, decoded_height))
        columns, rows = placement.content_size
        content = self._slot(index)[:rows, :columns].copy()
        decoded = GridTransform.identity((width, height)).resize((decoded_width, decoded_height))
        base = decoded.crop(placement.region_in_image).resize(placement.content_size)
        return Picture(content, base)

    def _read_and_keep(self, index: int) -> Picture | BrokenImage:
        picture = self._on_disk.read(index)
        if isinstance(picture, BrokenImage):
            return picture
        placement = self._on_disk.preprocessing.place(picture.size)
        columns, rows = placement.content_size
        content = resample(picture.pixels, placement)
        self._slot(index)[:rows, :columns] = content.permute(1, 2, 0).numpy()
        self._sizes()[index] = (*picture.base.image_size, *picture.size)
        return self.read(index)

    def _slot(self, index: int) -> NDArray[np.uint8]:
        width, height = self._size
        pixels: NDArray[np.uint8] = np.ctypeslib.as_array(self._shared_pixels)
        slots = pixels.reshape(-1, height, width, 3)
        return np.asarray(slots[index])

    def _sizes(self) -> NDArray[np.int32]:
        sizes: NDArray[np.int32] = np.ctypeslib.as_array(self._shared_sizes)
        return sizes.reshape(-1, 4)
