"""Samples -> batches of normalised images and labels, from as many processes as wanted.

The same seed gives the same epoch for any number of workers: what is random about an image is
drawn from (seed, epoch, image), never from the worker. An image that cannot be read is recorded
in `SampleLoader.broken`. In training the next readable image of the list takes its place, so that
batches and ranks keep their sizes; in evaluation its batch is one smaller.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from multiprocessing.sharedctypes import RawArray
from typing import Literal, Protocol, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset, default_collate

from weakloc.data.augmentation import (
    Augmentation,
    DrawnAugmentation,
    FlipAction,
    InputFacts,
    InputImage,
)
from weakloc.data.images import read_or_record
from weakloc.data.sampling import (
    EpochBatches,
    EveryImageOnce,
    SampleKey,
    mixed_seed,
    repetition_weights,
)
from weakloc.data.transforms import (
    PixelArray,
    PixelSize,
    Placement,
    Preprocessing,
    lay_on_canvas,
    normalise,
    place_region,
    resample,
    resize_images,
)
from weakloc.errors import DataError, SettingError
from weakloc.geometry import GridTransform, clip_box, image_box_in_grid
from weakloc.structures import BrokenImage, LabelVector, Sample


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
    """Decodes the sample's file each time."""

    samples: Sequence[Sample]

    def read(self, index: int) -> Picture | BrokenImage:
        sample = self.samples[index]
        image = read_or_record(sample.name, sample.path)
        if isinstance(image, BrokenImage):
            return image
        return Picture(np.array(image), GridTransform.identity(image.size))


class PicturesInMemory:
    """Keeps every picture, as 8-bit pixels at the size the network sees, after its first use.

    The store is shared by the workers of one loader. A random crop is then taken from the picture
    at that size, which differs from a crop of the original unless they have the same size.
    """

    def __init__(self, samples: Sequence[Sample], preprocessing: Preprocessing) -> None:
        size = preprocessing.fixed_size
        if size is None:
            raise SettingError(
                "pictures of changing size cannot be kept in memory",
                remedy="Choose the resize mode warp, pad or crop, or no cache",
            )
        self._on_disk = PicturesOnDisk(samples)
        self._preprocessing, self._size = preprocessing, size
        self._shared_pixels = RawArray(ctypes.c_uint8, len(samples) * size[0] * size[1] * 3)
        self._shared_sizes = RawArray(ctypes.c_int32, len(samples) * 2)  # 0 until it is there

    def read(self, index: int) -> Picture | BrokenImage:
        width, height = self._sizes()[index].tolist()
        if width:
            placement = self._preprocessing.place((width, height))
            columns, rows = placement.content_size
            content = self._slot(index)[:rows, :columns].copy()
        else:
            picture = self._on_disk.read(index)
            if isinstance(picture, BrokenImage):
                return picture
            width, height = picture.size
            placement = self._preprocessing.place((width, height))
            columns, rows = placement.content_size
            content = resample(picture.pixels, placement).permute(1, 2, 0).numpy()
            self._slot(index)[:rows, :columns] = content
            self._sizes()[index] = width, height
        base = GridTransform.identity((width, height)).crop(placement.region_in_image)
        return Picture(content, base.resize(placement.content_size))

    def _slot(self, index: int) -> NDArray[np.uint8]:
        width, height = self._size
        pixels: NDArray[np.uint8] = np.ctypeslib.as_array(self._shared_pixels)
        slots = pixels.reshape(-1, height, width, 3)
        return np.asarray(slots[index])

    def _sizes(self) -> NDArray[np.int32]:
        sizes: NDArray[np.int32] = np.ctypeslib.as_array(self._shared_sizes)
        return sizes.reshape(-1, 2)


@dataclass(frozen=True, eq=False)
class PlacedImage:
    """8-bit content, not yet on its canvas, and all that will happen to it."""

    content: Tensor  # (3, h, w) uint8
    placement: Placement
    transform: GridTransform
    drawn: DrawnAugmentation
    preprocessing: Preprocessing

    @property
    def only_flips(self) -> bool:
        """Flips alone need no normalised values: they give the same before and after."""
        return all(isinstance(action, FlipAction) for action in self.drawn.actions)

    def view(self) -> InputImage:
        """Still 8-bit, the padding 0."""
        canvas = lay_on_canvas(self.content, self.placement)
        return self.drawn.apply(InputImage(canvas, self.transform))

    def normalised_view(self) -> InputImage:
        canvas = self.preprocessing.finish(self.content, self.placement)
        return self.drawn.apply(InputImage(canvas, self.transform))


@dataclass(frozen=True, eq=False)
class LoadedSample:
    image: PlacedImage | None  # None where no image could be read
    index: int
    name: str
    labels: LabelVector
    batch_seed: int
    broken: tuple[BrokenImage, ...]


class SampleReader(Dataset[LoadedSample]):
    """Where an image cannot be read, up to `replacements` following ones are tried."""

    def __init__(
        self,
        samples: Sequence[Sample],
        pictures: Pictures,
        preprocessing: Preprocessing,
        augmentation: Augmentation,
        *,
        seed: int,
        replacements: int,
    ) -> None:
        if augmentation.crop is not None and preprocessing.fixed_size is None:
            raise SettingError(
                "random crops need an input of fixed size",
                remedy="Choose the resize mode warp, pad or crop",
            )
        self._samples, self._pictures = samples, pictures
        self._preprocessing, self._augmentation = preprocessing, augmentation
        self._seed, self._replacements = seed, replacements

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, key: SampleKey) -> LoadedSample:
        broken: list[BrokenImage] = []
        index, image = key.index, None
        for attempt in range(min(self._replacements + 1, len(self._samples))):
            index = (key.index + attempt) % len(self._samples)
            picture = self._pictures.read(index)
            if isinstance(picture, Picture):
                image = self._place(picture, key)
                break
            broken.append(picture)
        sample = self._samples[index]
        batch_seed = mixed_seed(self._seed, key.epoch, key.step)
        return LoadedSample(image, index, sample.name, sample.labels, batch_seed, tuple(broken))

    def _place(self, picture: Picture, key: SampleKey) -> PlacedImage:
        preprocessing = self._preprocessing
        placement = preprocessing.place(picture.size)
        generator = Generator().manual_seed(
            mixed_seed(self._seed, key.epoch, key.index, key.num_repeat)
        )
        drawn = self._augmentation.draw(
            generator,
            picture_size=picture.size,
            canvas=InputFacts(placement.canvas_size, preprocessing.std),
            num_repeat=key.num_repeat,
        )
        if drawn.region_in_image is not None:
            placement = place_region(drawn.region_in_image, placement.canvas_size)
        content = resample(picture.pixels, placement)
        transform = placement.transform(picture.base)
        return PlacedImage(content, placement, transform, drawn, preprocessing)


Cache: TypeAlias = Literal["none", "memory"]

MOST_REPLACEMENTS = 100  # so many broken images in a row are no longer bad luck


@dataclass(frozen=True, eq=False)
class Batch:
    """What a network is trained or asked with.

    `seed` is what everything random about the batch as a whole follows from; it is the same on
    all ranks. A transform is None where the image was rotated.
    """

    images: Tensor  # (B, 3, H, W) float32
    labels: Tensor  # (B, C) int8: absent -1, unknown 0, present 1
    names: tuple[str, ...]
    transforms: tuple[GridTransform | None, ...]
    indices: Tensor  # (B,) int64, into the samples
    seed: int = 0
    broken: tuple[BrokenImage, ...] = ()

    def __len__(self) -> int:
        return len(self.names)

    def pin_memory(self) -> Batch:
        return replace(
            self,
            images=self.images.pin_memory(),
            labels=self.labels.pin_memory(),
            indices=self.indices.pin_memory(),
        )

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> Batch:
        return replace(
            self,
            images=self.images.to(device, non_blocking=non_blocking),
            labels=self.labels.to(device, non_blocking=non_blocking),
            indices=self.indices.to(device, non_blocking=non_blocking),
        )


class SampleLoader:
    """Iterates over batches; in training, call `set_epoch` before each epoch."""

    def __init__(
        self,
        loader: DataLoader[LoadedSample],
        batches: EpochBatches | EveryImageOnce,
        preprocessing: Preprocessing,
        *,
        pin_memory: bool,
    ) -> None:
        self._loader, self._batches, self._preprocessing = loader, batches, preprocessing
        self._pin_memory = pin_memory
        self._broken: dict[str, BrokenImage] = {}

    @property
    def broken(self) -> list[BrokenImage]:
        """Every image met so far that could not be read, once."""
        return list(self._broken.values())

    def set_epoch(self, epoch: int, *, first_step: int = 0) -> None:
        if isinstance(self._batches, EpochBatches):
            self._batches.set_epoch(epoch, first_step=first_step)

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[Batch]:
        for batch in self._loader:
            for broken in batch.broken:
                self._broken.setdefault(broken.name, broken)
            if len(batch):
                finished = normalise_batch(batch, self._preprocessing, pin_memory=self._pin_memory)
                yield finished.pin_memory() if self._pin_memory else finished
            elif isinstance(self._batches, EpochBatches):
                raise DataError(
                    f"{len(batch.broken)} images in a row cannot be read; the first is "
                    f"{batch.broken[0].name}, which {batch.broken[0].reason}",
                    remedy="Check that the folder of the images is there",
                )


def training_loader(
    samples: Sequence[Sample],
    preprocessing: Preprocessing,
    augmentation: Augmentation,
    *,
    batch_size: int,
    seed: int,
    workers: int = 0,
    balance: bool = False,
    rank: int = 0,
    world_size: int = 1,
    cache: Cache = "none",
    pin_memory: bool = False,
) -> SampleLoader:
    """Shuffled, augmented batches; `balance` repeats images of rare classes.

    `augmentation.scale_jitter` is left to `augment_batch`, on the device of the network.
    """
    batches = EpochBatches(
        len(samples),
        batch_size=batch_size,
        seed=seed,
        weights=repetition_weights(samples) if balance else None,
        rank=rank,
        world_size=world_size,
    )
    pictures = _pictures(samples, preprocessing, cache)
    reader = SampleReader(
        samples,
        pictures,
        preprocessing,
        augmentation,
        seed=seed,
        replacements=MOST_REPLACEMENTS,
    )
    return SampleLoader(
        _data_loader(reader, batches, workers),
        batches,
        preprocessing,
        pin_memory=pin_memory,
    )


def evaluation_loader(
    samples: Sequence[Sample],
    preprocessing: Preprocessing,
    *,
    batch_size: int,
    workers: int = 0,
    rank: int = 0,
    world_size: int = 1,
    cache: Cache = "none",
    pin_memory: bool = False,
) -> SampleLoader:
    """Every readable image once, in order; over several ranks each image on one of them."""
    batches = EveryImageOnce(len(samples), batch_size=batch_size, rank=rank, world_size=world_size)
    pictures = _pictures(samples, preprocessing, cache)
    reader = SampleReader(samples, pictures, preprocessing, Augmentation(), seed=0, replacements=0)
    return SampleLoader(
        _data_loader(reader, batches, workers),
        batches,
        preprocessing,
        pin_memory=pin_memory,
    )


def augment_batch(batch: Batch, augmentation: Augmentation) -> Batch:
    """The part of the augmentation that all images of a batch share, on the batch's device."""
    if augmentation.scale_jitter is None:
        return batch
    generator = Generator().manual_seed(batch.seed)
    height, width = batch.images.shape[-2:]
    size = augmentation.scale_jitter.draw(generator, (width, height))
    transforms = tuple(t and t.resize(size) for t in batch.transforms)
    return replace(batch, images=resize_images(batch.images, size), transforms=transforms)


def collate(loaded: Sequence[LoadedSample]) -> Batch:
    """Stack what could be read; smaller images get a margin at the right and bottom.

    Where nothing but flips was drawn the images stay 8-bit until `SampleLoader` has them: a
    quarter of the bytes on the way between the processes.
    """
    readable = [(item, item.image) for item in loaded if item.image is not None]
    stay_bytes = all(image.only_flips for _, image in readable)
    views = [image.view() if stay_bytes else image.normalised_view() for _, image in readable]
    height = max((view.pixels.shape[1] for view in views), default=0)
    width = max((view.pixels.shape[2] for view in views), default=0)
    enlarged = [_enlarged(view, width, height) for view in views]
    labels = np.array([item.labels for item, _ in readable], dtype=np.int8)
    return Batch(
        # default_collate stacks straight into the memory that is shared with the main process.
        images=default_collate([view.pixels for view in enlarged])
        if views
        else torch.zeros(0, 3, 1, 1),
        labels=torch.from_numpy(labels.reshape(-1, len(loaded[0].labels))),
        names=tuple(item.name for item, _ in readable),
        transforms=tuple(view.transform for view in enlarged),
        indices=torch.tensor([item.index for item, _ in readable], dtype=torch.int64),
        seed=loaded[0].batch_seed,
        broken=tuple(record for item in loaded for record in item.broken),
    )


def normalise_batch(batch: Batch, preprocessing: Preprocessing, *, pin_memory: bool) -> Batch:
    """Make 8-bit images what `Preprocessing` makes of each; padding becomes exactly zero."""
    if batch.images.dtype == torch.float32:
        return batch
    images = torch.zeros(batch.images.shape, pin_memory=pin_memory)
    for pixels, transform, image in zip(batch.images, batch.transforms, images, strict=True):
        left, top, right, bottom = _content_box(transform, pixels)
        normalise(
            pixels[:, top:bottom, left:right],
            mean=preprocessing.mean,
            std=preprocessing.std,
            out=image[:, top:bottom, left:right],
        )
    return replace(batch, images=images)


def _content_box(transform: GridTransform | None, pixels: Tensor) -> tuple[int, int, int, int]:
    height, width = pixels.shape[1:]
    if transform is None:  # only 8-bit images come here, and those keep their transform
        raise ValueError("an image without a transform cannot be told from its padding")
    box = clip_box(image_box_in_grid(transform), (width, height))
    left, top, right, bottom = (round(edge) for edge in box)
    return left, top, right, bottom


def _enlarged(view: InputImage, width: int, height: int) -> InputImage:
    right, bottom = width - view.pixels.shape[2], height - view.pixels.shape[1]
    if right == 0 and bottom == 0:
        return view
    transform = view.transform.pad(0, 0, right, bottom) if view.transform else None
    return InputImage(functional.pad(view.pixels, (0, right, 0, bottom)), transform)


def _pictures(samples: Sequence[Sample], preprocessing: Preprocessing, cache: Cache) -> Pictures:
    if cache == "memory":
        return PicturesInMemory(samples, preprocessing)
    return PicturesOnDisk(samples)


def _data_loader(
    reader: SampleReader, batches: EpochBatches | EveryImageOnce, workers: int
) -> DataLoader[LoadedSample]:
    return DataLoader(
        reader,
        batch_sampler=batches,
        num_workers=workers,
        collate_fn=collate,
        persistent_workers=workers > 0,
        multiprocessing_context=start_method() if workers else None,
        generator=Generator(),  # or it would draw from the process's random state
    )


def start_method() -> str:
    """fork where it is safe to: from Python 3.12 on it warns in a process with threads."""
    methods = multiprocessing.get_all_start_methods()
    if "fork" in methods and sys.platform != "darwin" and sys.version_info < (3, 12):
        return "fork"
    return "forkserver" if "forkserver" in methods else "spawn"
