"""Samples -> batches of normalised images and labels, from as many processes as wanted.

The same seed gives the same epoch for any number of workers: what is random about an image is
drawn from (seed, epoch, image), never from the worker. An image that cannot be read is recorded
in `SampleLoader.broken`. In training the next readable image of the list takes its place, so that
batches and ranks keep their sizes; in evaluation its batch is one smaller.
"""

from __future__ import annotations

import multiprocessing
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

import numpy as np
import torch
from torch import Generator, Tensor
from torch.nn import functional
from torch.utils.data import DataLoader, default_collate

from weakloc.data.augmentation import Augmentation, View
from weakloc.data.images import DEFAULT_MAX_PIXELS
from weakloc.data.pictures import Decode, Pictures, PicturesInMemory, PicturesOnDisk
from weakloc.data.sample_reader import LoadedSample, SampleReader
from weakloc.data.sampling import EpochBatches, EveryImageOnce, repetition_weights
from weakloc.data.transforms import Preprocessing, normalise, resize_images
from weakloc.errors import DataError, ImageError
from weakloc.geometry import GridTransform, clip_box, image_box_in_grid
from weakloc.structures import BrokenImage, Sample

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
        strict: bool,
        pin_memory: bool,
    ) -> None:
        self._loader, self._batches, self._preprocessing = loader, batches, preprocessing
        self._strict, self._pin_memory = strict, pin_memory
        self._broken: dict[str, BrokenImage] = {}

    @property
    def broken(self) -> list[BrokenImage]:
        """Every image met so far that could not be read, once."""
        return list(self._broken.values())

    @property
    def sampler(self) -> EpochBatches | EveryImageOnce:
        """Where trainers look for `set_epoch`."""
        return self._batches

    def set_epoch(self, epoch: int, *, first_step: int = 0) -> None:
        if isinstance(self._batches, EpochBatches):
            self._batches.set_epoch(epoch, first_step=first_step)

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[Batch]:
        for batch in self._loader:
            self._record(batch)
            if len(batch):
                finished = normalise_batch(batch, self._preprocessing, pin_memory=self._pin_memory)
                yield finished.pin_memory() if self._pin_memory else finished
            elif isinstance(self._batches, EpochBatches):
                raise DataError(
                    f"{len(batch.broken)} images in a row cannot be read; the first is "
                    f"{batch.broken[0].name}, which {batch.broken[0].reason}",
                    remedy="Check that the folder of the images is there",
                )

    def _record(self, batch: Batch) -> None:
        for broken in batch.broken:
            self._broken.setdefault(broken.name, broken)
            if self._strict:
                raise ImageError(broken.reason, where=broken.name)


def training_loader(
    samples: Sequence[Sample],
    preprocessing: Preprocessing,
    augmentation: Augmentation,
    *,
    batch_size: int,
    seed: int,
    workers: int = 0,
    balance: bool = False,
    drop_last: bool = False,
    rank: int = 0,
    world_size: int = 1,
    cache: Cache = "none",
    decode: Decode = "exact",
    max_pixels: int = DEFAULT_MAX_PIXELS,
    strict: bool = False,
    pin_memory: bool = False,
    start_method: str | None = None,
) -> SampleLoader:
    """Shuffled, augmented batches; `balance` repeats images of rare classes.

    `augmentation.scale_jitter` is left to `augment_batch`, on the device of the network.
    """
    batches = EpochBatches(
        len(samples),
        batch_size=batch_size,
        seed=seed,
        weights=repetition_weights(samples) if balance else None,
        drop_last=drop_last,
        rank=rank,
        world_size=world_size,
    )
    pictures = _pictures(samples, preprocessing, cache, decode, max_pixels=max_pixels)
    reader = SampleReader(
        samples,
        pictures,
        preprocessing,
        augmentation,
        seed=seed,
        replacements=MOST_REPLACEMENTS,
    )
    return SampleLoader(
        _data_loader(reader, batches, workers, start_method),
        batches,
        preprocessing,
        strict=strict,
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
    decode: Decode = "exact",
    max_pixels: int = DEFAULT_MAX_PIXELS,
    strict: bool = False,
    pin_memory: bool = False,
    start_method: str | None = None,
) -> SampleLoader:
    """Every readable image once, in order; over several ranks each image on one of them."""
    batches = EveryImageOnce(len(samples), batch_size=batch_size, rank=rank, world_size=world_size)
    pictures = _pictures(samples, preprocessing, cache, decode, max_pixels=max_pixels)
    reader = SampleReader(samples, pictures, preprocessing, Augmentation(), seed=0, replacements=0)
    return SampleLoader(
        _data_loader(reader, batches, workers, start_method),
        batches,
        preprocessing,
        strict=strict,
        pin_memory=pin_memory,
    )


def augment_batch(batch: Batch, augmentation: Augmentation) -> Batch:
    """The part of the augmentation that all images of a batch share, on the batch's device."""
    if augmentation.scale_jitter is None:
        return batch
    generator = Generator().manual_seed(batch.seed)
    height, width = batch.images.shape[-2:]
    size = augmentation.scale_jitter.draw(generator, (width, height))
    places = tuple(place.resize(size) if place else None for place in batch.transforms)
    return replace(batch, images=resize_images(batch.images, size), transforms=places)


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


def _enlarged(view: View, width: int, height: int) -> View:
    right, bottom = width - view.pixels.shape[2], height - view.pixels.shape[1]
    if right == 0 and bottom == 0:
        return view
    transform = view.transform.pad(0, 0, right, bottom) if view.transform else None
    return View(functional.pad(view.pixels, (0, right, 0, bottom)), transform)


def _pictures(
    samples: Sequence[Sample],
    preprocessing: Preprocessing,
    cache: Cache,
    decode: Decode,
    *,
    max_pixels: int,
) -> Pictures:
    on_disk = PicturesOnDisk(samples, preprocessing, max_pixels, decode)
    return PicturesInMemory(on_disk) if cache == "memory" else on_disk


def _data_loader(
    reader: SampleReader,
    batches: EpochBatches | EveryImageOnce,
    workers: int,
    start_method: str | None,
) -> DataLoader[LoadedSample]:
    method = start_method or _default_start_method()
    return DataLoader(
        reader,
        batch_sampler=batches,
        num_workers=workers,
        collate_fn=collate,
        persistent_workers=workers > 0,
        multiprocessing_context=method if workers else None,
        generator=Generator(),  # or it would draw from the process's random state
    )


def _default_start_method() -> str:
    """fork where it is safe to: from Python 3.12 on it warns in a process with threads."""
    methods = multiprocessing.get_all_start_methods()
    if "fork" in methods and sys.platform != "darwin" and sys.version_info < (3, 12):
        return "fork"
    return "forkserver" if "forkserver" in methods else "spawn"
