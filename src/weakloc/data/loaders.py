"""Samples -> batches of normalised images and labels, from as many processes as wanted.

The same seed gives the same epoch for any number of workers: what is random about an image is
drawn from (seed, epoch, image), never from the worker. An image that cannot be read is recorded
in `SampleLoader.broken`. In training the next readable image of the list takes its place, so that
batches and ranks keep their sizes; in evaluation its batch is one smaller.
Which image is used when follows from (seed, epoch) alone as well: a run resumed at an epoch sees
the same images with the same random numbers.
"""

from __future__ import annotations

import ctypes
import math
import multiprocessing
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from multiprocessing.sharedctypes import RawArray
from typing import Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset, default_collate

from weakloc.data.augmentation import Augmentation, HorizontalFlip, InputImage
from weakloc.data.images import read_or_record
from weakloc.data.transforms import (
    PixelArray,
    PixelSize,
    Placement,
    Preprocessing,
    lay_on_canvas,
    normalise,
    resample,
    resize_images,
)
from weakloc.errors import DataError, SettingError
from weakloc.geometry import GridTransform, clip_box, image_box_in_grid
from weakloc.structures import PRESENT, BrokenImage, Sample

MOST_REPEATS = 10.0


@dataclass(frozen=True, slots=True)
class SampleKey:
    """One use of one image: all that its random numbers depend on, besides the seed."""

    index: int
    num_repeat: int  # 0 for the first use in an epoch
    epoch: int
    step: int


def mixed_seed(*numbers: int) -> int:
    """A seed of 64 bits from several small numbers; near ones give unrelated seeds."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0])


def repetition_weights(samples: Sequence[Sample]) -> NDArray[np.float64]:
    """How often each image should be used in an epoch, at least once: (N,).

    The largest of `median count / count` over the image's classes, at most `MOST_REPEATS`; that
    brings every class to the count of the median class. Images without a class count once.
    """
    present = np.stack([sample.labels for sample in samples]) == PRESENT  # (N, C)
    counts = present.sum(axis=0)
    if not counts.any():
        return np.ones(len(samples))
    median = float(np.median(counts[counts > 0]))
    class_weights = median / np.maximum(counts, 1)
    weights = np.where(present, class_weights, 1.0).max(axis=1)
    return np.asarray(weights.clip(1.0, MOST_REPEATS))


def draw_repeats(weights: NDArray[np.float64], random: np.random.Generator) -> NDArray[np.int64]:
    """Whole numbers of uses whose mean is the weight, and whose sum is always the same.

    Systematic sampling: the part above one is laid end to end and cut at every whole number,
    from a random start.
    """
    extra = weights - 1.0
    total = round(float(extra.sum()))
    if total == 0:
        return np.ones(len(weights), dtype=np.int64)
    ends = np.cumsum(extra) * (total / extra.sum())
    ends[-1] = total  # free of rounding, or the sum could be one short
    marks = np.floor(ends + random.random()).astype(np.int64)
    return np.asarray(1 + np.diff(marks, prepend=0))


class EpochBatches:
    """Lists of `SampleKey`, one list a batch: what a DataLoader calls a batch sampler.

    Every rank gets equally many batches in training: up to `world_size - 1` images are used twice
    to make the ranks' shares equal.
    """

    is_training = True

    def __init__(
        self,
        num_samples: int,
        *,
        batch_size: int,
        seed: int,
        weights: NDArray[np.float64] | None = None,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.epoch, self.first_step, self.seed = 0, 0, seed
        self._weights = np.ones(num_samples) if weights is None else weights
        self._batch_size = batch_size
        self._rank, self._world_size = rank, world_size
        num_uses = num_samples + round(float((self._weights - 1.0).sum()))
        self._num_own = math.ceil(num_uses / world_size)

    def set_epoch(self, epoch: int, *, first_step: int = 0) -> None:
        """`first_step` is where a run that stopped within the epoch goes on."""
        self.epoch, self.first_step = epoch, first_step

    def __len__(self) -> int:
        return math.ceil(self._num_own / self._batch_size)

    def __iter__(self) -> Iterator[list[SampleKey]]:
        epoch = self.epoch
        random = np.random.default_rng([self.seed, epoch])
        uses = draw_repeats(self._weights, random)
        indices = np.repeat(np.arange(len(uses)), uses)
        repeats = np.arange(len(indices)) - np.repeat(np.cumsum(uses) - uses, uses)
        order = np.resize(random.permutation(len(indices)), self._num_own * self._world_size)
        of_rank = order[self._rank :: self._world_size]
        for step in range(self.first_step, len(self)):
            in_batch = of_rank[step * self._batch_size : (step + 1) * self._batch_size]
            pairs = zip(indices[in_batch].tolist(), repeats[in_batch].tolist(), strict=True)
            yield [SampleKey(index, repeat, epoch, step) for index, repeat in pairs]


class EveryImageOnce:
    """The images in their order, each exactly once over all ranks: for evaluation."""

    is_training = False
    seed = 0

    def __init__(
        self, num_samples: int, *, batch_size: int, rank: int = 0, world_size: int = 1
    ) -> None:
        self._own = range(rank, num_samples, world_size)
        self._batch_size = batch_size

    def set_epoch(self, epoch: int, *, first_step: int = 0) -> None:
        """Every epoch is the same, and whole."""

    def __len__(self) -> int:
        return math.ceil(len(self._own) / self._batch_size)

    def __iter__(self) -> Iterator[list[SampleKey]]:
        for step in range(len(self)):
            in_batch = self._own[step * self._batch_size : (step + 1) * self._batch_size]
            yield [SampleKey(index, 0, 0, step) for index in in_batch]


@dataclass(frozen=True, eq=False)
class Picture:
    """Decoded pixels and the way to them from the original image."""

    pixels: PixelArray
    base: GridTransform

    @property
    def size(self) -> PixelSize:
        """(width, height)"""
        return self.pixels.shape[1], self.pixels.shape[0]


def read_picture(sample: Sample) -> Picture | BrokenImage:
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
        self._samples, self._preprocessing, self._size = samples, preprocessing, size
        self._shared_pixels = RawArray(ctypes.c_uint8, len(samples) * size[0] * size[1] * 3)
        self._shared_sizes = RawArray(ctypes.c_int32, len(samples) * 2)  # 0 until it is there

    def read(self, index: int) -> Picture | BrokenImage:
        size: PixelSize = tuple(self._sizes()[index].tolist())
        picture = None if size[0] else read_picture(self._samples[index])
        if isinstance(picture, BrokenImage):
            return picture
        size = picture.size if picture else size
        placement = self._preprocessing.place(size)
        columns, rows = placement.content_size
        width, height = self._size
        pixels: NDArray[np.uint8] = np.ctypeslib.as_array(self._shared_pixels)
        slots = pixels.reshape(-1, height, width, 3)
        content = np.asarray(slots[index])[:rows, :columns]
        if picture:
            content[:] = resample(picture.pixels, placement).permute(1, 2, 0).numpy()
            self._sizes()[index] = size
        base = GridTransform.identity(size).crop(placement.region_in_image)
        return Picture(content, base.resize(placement.content_size))

    def _sizes(self) -> NDArray[np.int32]:
        sizes: NDArray[np.int32] = np.ctypeslib.as_array(self._shared_sizes)
        return sizes.reshape(-1, 2)


Cache: TypeAlias = Literal["none", "memory"]

NO_IMAGES = torch.zeros(0, 3, 1, 1)
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
        return self._moved(Tensor.pin_memory)

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> Batch:
        return self._moved(lambda values: values.to(device, non_blocking=non_blocking))

    def _moved(self, move: Callable[[Tensor], Tensor]) -> Batch:
        images, labels, indices = map(move, (self.images, self.labels, self.indices))
        return replace(self, images=images, labels=labels, indices=indices)


@dataclass(frozen=True, eq=False)
class BatchReader(Dataset[Batch]):
    """The batch of some keys; for an unreadable image up to `replacements` next ones are tried.

    Where nothing but flips may happen the images stay 8-bit until `SampleLoader` has them: a
    quarter of the bytes on the way between the processes.
    """

    samples: Sequence[Sample]
    preprocessing: Preprocessing
    augmentation: Augmentation
    memory: PicturesInMemory | None
    seed: int
    replacements: int

    def __getitem__(self, keys: Sequence[SampleKey]) -> Batch:
        outcomes = [outcome for key in keys for outcome in self._read(key)]
        read = [outcome for outcome in outcomes if not isinstance(outcome, BrokenImage)]
        width = max((view.size[0] for _, view in read), default=0)
        height = max((view.size[1] for _, view in read), default=0)
        views = [_enlarged(view, width, height) for _, view in read]
        samples = [self.samples[index] for index, _ in read]
        labels = np.array([sample.labels for sample in samples], dtype=np.int8)
        # default_collate stacks straight into the memory that is shared with the main process.
        images = default_collate([view.pixels for view in views]) if views else NO_IMAGES
        return Batch(
            images=images,
            labels=torch.from_numpy(labels.reshape(-1, len(self.samples[0].labels))),
            names=tuple(sample.name for sample in samples),
            transforms=tuple(view.transform for view in views),
            indices=torch.tensor([index for index, _ in read], dtype=torch.int64),
            seed=mixed_seed(self.seed, keys[0].epoch, keys[0].step),
            broken=tuple(outcome for outcome in outcomes if isinstance(outcome, BrokenImage)),
        )

    def _read(self, key: SampleKey) -> Iterator[tuple[int, InputImage] | BrokenImage]:
        """The images that cannot be read, up to the first that can, with its index."""
        for attempt in range(min(self.replacements + 1, len(self.samples))):
            index = (key.index + attempt) % len(self.samples)
            read = self.memory.read(index) if self.memory else read_picture(self.samples[index])
            if isinstance(read, Picture):
                yield index, self._view(read, key)
                return
            yield read

    def _view(self, picture: Picture, key: SampleKey) -> InputImage:
        seed = mixed_seed(self.seed, key.epoch, key.index, key.num_repeat)
        generator = Generator().manual_seed(seed)
        placement = self.preprocessing.place(picture.size)
        if self.augmentation.crop is not None:
            canvas = placement.canvas_size
            region = self.augmentation.crop.draw_box(generator, picture.size, output=canvas)
            placement = Placement(region, canvas, (0, 0), canvas)
        content, transform = resample(picture.pixels, placement), placement.transform(picture.base)
        # Flips alone need no normalised values: they give the same before and after.
        steps = (*self.augmentation.steps, *self.augmentation.duplicate_steps)
        stays_bytes = all(isinstance(step, HorizontalFlip) for step in steps)
        on_canvas = lay_on_canvas if stays_bytes else self.preprocessing.finish
        view = InputImage(on_canvas(content, placement), transform, self.preprocessing.std)
        for step in self.augmentation.steps_of_use(key.num_repeat):
            view = step.apply(view, generator)
        return view


def _enlarged(view: InputImage, width: int, height: int) -> InputImage:
    """With a margin at the right and bottom."""
    right, bottom = width - view.size[0], height - view.size[1]
    if right == 0 and bottom == 0:
        return view
    transform = view.transform and view.transform.pad(0, 0, right, bottom)
    pixels = functional.pad(view.pixels, (0, right, 0, bottom))
    return replace(view, pixels=pixels, transform=transform)


class SampleLoader:
    """Iterates over batches; in training, set the epoch of `order` before each.

    Images are augmented, and broken ones replaced, where the order is one to learn in.
    `augmentation.scale_jitter` is left to `augment_batch`, on the device of the network.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        preprocessing: Preprocessing,
        order: EpochBatches | EveryImageOnce,
        *,
        augmentation: Augmentation = Augmentation(),
        workers: int = 0,
        cache: Cache = "none",
        pin_memory: bool = False,
    ) -> None:
        if augmentation.crop is not None and preprocessing.fixed_size is None:
            raise SettingError(
                "random crops need an input of fixed size",
                remedy="Choose the resize mode warp, pad or crop",
            )
        self.order, self._preprocessing = order, preprocessing
        self._pin_memory = pin_memory
        self._broken: dict[str, BrokenImage] = {}
        reader = BatchReader(
            samples,
            preprocessing,
            augmentation if order.is_training else Augmentation(),
            memory=PicturesInMemory(samples, preprocessing) if cache == "memory" else None,
            seed=order.seed,
            replacements=MOST_REPLACEMENTS if order.is_training else 0,
        )
        self._loader = DataLoader(
            reader,
            batch_size=None,  # the keys of a whole batch go to the reader
            sampler=order,
            num_workers=workers,
            persistent_workers=workers > 0,
            multiprocessing_context=start_method() if workers else None,
            generator=Generator(),  # or it would draw from the process's random state
        )

    @property
    def broken(self) -> list[BrokenImage]:
        """Every image met so far that could not be read, once."""
        return list(self._broken.values())

    def __len__(self) -> int:
        return len(self.order)

    def __iter__(self) -> Iterator[Batch]:
        for batch in self._loader:
            for broken in batch.broken:
                self._broken.setdefault(broken.name, broken)
            if len(batch):
                finished = normalise_batch(batch, self._preprocessing, pin_memory=self._pin_memory)
                yield finished.pin_memory() if self._pin_memory else finished
            elif self.order.is_training:
                raise DataError(
                    f"{len(batch.broken)} images in a row cannot be read; the first is "
                    f"{batch.broken[0].name}, which {batch.broken[0].reason}",
                    remedy="Check that the folder of the images is there",
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


def normalise_batch(batch: Batch, preprocessing: Preprocessing, *, pin_memory: bool) -> Batch:
    """Make 8-bit images what `Preprocessing` makes of each; padding becomes exactly zero."""
    if batch.images.dtype == torch.float32:
        return batch
    images = torch.zeros(batch.images.shape, pin_memory=pin_memory)
    for pixels, transform, image in zip(batch.images, batch.transforms, images, strict=True):
        assert transform is not None  # 8-bit images keep theirs
        box = clip_box(image_box_in_grid(transform), (pixels.shape[2], pixels.shape[1]))
        left, top, right, bottom = (round(edge) for edge in box)
        normalise(
            pixels[:, top:bottom, left:right],
            mean=preprocessing.mean,
            std=preprocessing.std,
            out=image[:, top:bottom, left:right],
        )
    return replace(batch, images=images)


def start_method() -> str:
    """fork where it is safe to: from Python 3.12 on it warns in a process with threads."""
    methods = multiprocessing.get_all_start_methods()
    if "fork" in methods and sys.platform != "darwin" and sys.version_info < (3, 12):
        return "fork"
    return "forkserver" if "forkserver" in methods else "spawn"
