"""The batches of a plan: images from the loaders, or cached features under --frozen.

With a frozen backbone its features are computed once, then only what is above them is trained. An
image is looked at in every asked scale, plain and mirrored; each view has a store of its own.
In training each batch draws a scale and each image whether it is mirrored; watched images are
taken at scale 1, unmirrored. Further augmentation needs pixels and does not apply.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import TypeAlias

import numpy as np
import psutil
import torch
from numpy.typing import NDArray
from torch import Tensor

from weakloc.data.images import is_member_path
from weakloc.data.loaders import (
    Batch,
    Cache,
    EpochBatches,
    EveryImageOnce,
    SampleKey,
    SampleLoader,
    mixed_seed,
    repetition_weights,
)
from weakloc.data.transforms import PixelSize, Preprocessing, jittered_size, resize_images
from weakloc.errors import DataError, SettingError
from weakloc.files import append_synced, on_disk, path_of
from weakloc.geometry import GridTransform, Size
from weakloc.model.backbones import Backbone
from weakloc.model.network import fold_batch_norms
from weakloc.structures import BrokenImage, Sample
from weakloc.training.plan import TrainingPlan
from weakloc.work import Progress

FeatureMaps: TypeAlias = NDArray[np.float16]
_ROW = np.dtype([("key", "S32"), ("image_size", "f8", 2)])


class FeatureStore:
    """Maps of images, each of one shape (rows, columns, channels), and which images they are of.

    A map is on the disk before its row is; what a killed process left half-written is cut off.
    """

    def __init__(self, folder: Path, shape: Sequence[int]) -> None:
        self.rows: dict[str, tuple[int, Size]] = {}  # key of an image -> (number, image size)
        self._shape = shape
        self._rows_path, self._maps_path = folder / "images.rows", folder / "features.f16"
        paths = {self._rows_path: _ROW.itemsize, self._maps_path: 2 * math.prod(shape)}
        with on_disk(folder):
            folder.mkdir(parents=True, exist_ok=True)
            for path in paths:
                path.open("ab").close()
            num_whole = min(path.stat().st_size // size for path, size in paths.items())
            for path, size in paths.items():
                if path.stat().st_size > num_whole * size:
                    os.truncate(path, num_whole * size)
        self._take_up(np.fromfile(self._rows_path, _ROW))

    def append(
        self, image_keys: Sequence[str], sizes: Sequence[Size], features: FeatureMaps
    ) -> None:
        """Adds maps (N, rows, columns, channels) of images that are not there yet."""
        rows = np.array(list(zip(image_keys, sizes, strict=True)), _ROW)
        append_synced(self._maps_path, np.ascontiguousarray(features).tobytes())
        append_synced(self._rows_path, rows.tobytes())
        self._take_up(rows)

    def map_of(self, number: int) -> FeatureMaps:
        """(rows, columns, channels); read, since mapped files count as memory of the process."""
        count = math.prod(self._shape)
        values = np.fromfile(self._maps_path, np.float16, count, offset=2 * count * number)
        return values.reshape(self._shape)

    def _take_up(self, rows: NDArray[np.void]) -> None:
        for key, (width, height) in rows.tolist():
            self.rows[key.decode()] = len(self.rows), (width, height)


def content_key(path: str) -> str:
    """Stands for the content of an image: its place, size and time of change."""
    container = path.rpartition("::")[0] if is_member_path(path) else path
    status = path_of(container).stat()
    content = f"{path_of(path).absolute()}\n{status.st_size}\n{status.st_mtime_ns}"
    return hashlib.sha256(content.encode("utf-8", "surrogateescape")).hexdigest()[:32]


@contextmanager
def one_writer(folder: Path) -> Iterator[None]:
    """Holds the folder; other processes wait here and then find what was written."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as file:
        with suppress(ImportError):  # no such locks on Windows
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX)
        yield


_LARGEST_HALF = 65504.0


@dataclass(frozen=True, slots=True)
class FeatureView:
    """One way of showing an image to the backbone."""

    scale: float = 1.0
    mirrored: bool = False


@dataclass(frozen=True)
class Extraction:
    """How features are computed, and where they are kept."""

    folder: Path
    preprocessing: Preprocessing
    batch_size: int
    workers: int
    device: torch.device
    in_bf16: bool

    def size_at(self, scale: float) -> PixelSize:
        size = self.preprocessing.fixed_size
        if size is None:
            raise SettingError(
                "--frozen needs an input of fixed size",
                remedy="Choose the resize mode warp, pad or crop",
            )
        multiple = self.preprocessing.multiple_of
        return jittered_size(size, scale, multiple_of=multiple) if scale != 1 else size

    def preprocessing_at(self, scale: float) -> Preprocessing:
        """All of it, or what comes before a padded canvas is resized, as in training on pixels."""
        if scale != 1 and self.preprocessing.resize == "pad":
            return self.preprocessing
        return replace(self.preprocessing, size=self.size_at(scale))


class FeatureCache:
    """The stores of one backbone under one preprocessing."""

    def __init__(
        self, backbone: Backbone, extraction: Extraction, views: Sequence[FeatureView]
    ) -> None:
        folded = fold_batch_norms(backbone, side=backbone.probe_side)
        self._backbone = folded.to(memory_format=torch.channels_last)
        self._extraction = extraction
        self._keys: dict[str, str] = {}  # sample.path -> the image's key
        weights = backbone.weights_digest()
        self._stores = {view: self._store(view, weights) for view in views}

    @property
    def sides(self) -> list[bool]:
        """Whether images are mirrored: no, yes or both."""
        return sorted({view.mirrored for view in self._stores})

    def fill(self, samples: Sequence[Sample], on_progress: Progress) -> list[BrokenImage]:
        """Computes what is not there yet; gives the images that could not be read."""
        broken = []
        for sample in samples:
            try:
                self._keys[sample.path] = content_key(sample.path)
            except OSError as error:
                broken.append(BrokenImage(sample.name, f"cannot be opened ({error.strerror})"))
        by_key = {self._keys[s.path]: s for s in samples if s.path in self._keys}  # each once
        scales = sorted({view.scale for view in self._stores})
        done, total = 0, len(samples) * len(scales)
        for scale in scales:
            stores = [store for view, store in self._stores.items() if view.scale == scale]
            missing = [s for k, s in by_key.items() if not all(k in store.rows for store in stores)]
            done += len(samples) - len(missing)
            on_progress(done, total)
            if not missing:
                continue
            loader = SampleLoader(
                missing,
                self._extraction.preprocessing_at(scale),
                EveryImageOnce(len(missing), batch_size=self._extraction.batch_size),
                workers=self._extraction.workers,
            )
            for batch in loader:
                self._append(batch, [missing[i] for i in batch.indices.tolist()], scale)
                done += len(batch)
                on_progress(done, total)
            broken.extend(loader.broken)
        return list({image.name: image for image in broken}.values())

    def holds(self, sample: Sample) -> bool:
        key = self._keys.get(sample.path)
        return key is not None and all(key in store.rows for store in self._stores.values())

    def read(
        self, samples: Sequence[Sample], views: Sequence[FeatureView]
    ) -> tuple[Tensor, list[GridTransform]]:
        """Maps (B, D, h, w) in half precision, and the way to the network's input of each."""
        maps, transforms = [], []
        for sample, view in zip(samples, views, strict=True):
            store = self._stores[view]
            number, image_size = store.rows[self._keys[sample.path]]
            maps.append(store.map_of(number))
            preprocessing = self._extraction.preprocessing_at(view.scale)
            placement = preprocessing.place((int(image_size[0]), int(image_size[1])))
            transform = placement.transform(GridTransform.identity(image_size))
            transform = transform.resize(self._extraction.size_at(view.scale))
            transforms.append(transform.flip_horizontal() if view.mirrored else transform)
        return torch.from_numpy(np.stack(maps)).permute(0, 3, 1, 2), transforms

    def _store(self, view: FeatureView, weights_digest: str) -> FeatureStore:
        """Its folder is named by a digest of all that its content depends on."""
        size = self._extraction.size_at(view.scale)
        shape = self._compute(torch.zeros(1, 3, size[1], size[0])).shape[1:]
        preprocessing = self._extraction.preprocessing_at(view.scale)
        spec, in_bf16 = self._backbone.spec, self._extraction.in_bf16
        network = str(spec), spec.output_stride, weights_digest
        made_by = repr((*network, preprocessing, size, view.mirrored, shape, in_bf16))
        digest = hashlib.sha256(made_by.encode()).hexdigest()[:16]
        return FeatureStore(self._extraction.folder / digest, shape)

    def _append(self, batch: Batch, samples: Sequence[Sample], scale: float) -> None:
        keys = [self._keys[sample.path] for sample in samples]
        sizes = [transform.image_size for transform in batch.transforms if transform is not None]
        images, (width, height) = batch.images, self._extraction.size_at(scale)
        if images.shape[2:] != (height, width):
            images = resize_images(images, (width, height))
        for view, store in self._stores.items():
            new = [i for i, key in enumerate(keys) if key not in store.rows]
            if view.scale == scale and new:
                maps = self._compute(images.flip(-1) if view.mirrored else images)
                store.append([keys[i] for i in new], [sizes[i] for i in new], maps[new])

    @torch.inference_mode()
    def _compute(self, images: Tensor) -> FeatureMaps:
        device = self._extraction.device
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=self._extraction.in_bf16):
            features = self._backbone(images.to(device, memory_format=torch.channels_last))
        bounded = features.float().clamp(-_LARGEST_HALF, _LARGEST_HALF)
        maps: FeatureMaps = bounded.permute(0, 2, 3, 1).half().cpu().numpy()  # (B, h, w, D)
        return maps


@dataclass(frozen=True)
class FeatureBatches:
    """Batches of cached features: of drawn views to learn from, or of plain ones to watch."""

    samples: Sequence[Sample]
    order: EpochBatches | EveryImageOnce
    cache: FeatureCache
    scales: tuple[float, ...]
    dtype: torch.dtype  # of the batches
    broken: Sequence[BrokenImage]  # of which there are no features

    def __len__(self) -> int:
        return len(self.order)

    def __iter__(self) -> Iterator[Batch]:
        for keys in self.order:
            plain = [FeatureView()] * len(keys)
            views = self._drawn_views(keys) if self.order.is_training else plain
            samples = [self.samples[key.index] for key in keys]
            features, transforms = self.cache.read(samples, views)
            labels = np.stack([sample.labels for sample in samples])
            yield Batch(
                images=features.float().to(self.dtype),  # half to bfloat16 at once is slower
                labels=torch.from_numpy(labels),
                names=tuple(sample.name for sample in samples),
                transforms=tuple(transforms),
                indices=torch.tensor([key.index for key in keys]),
            )

    def _drawn_views(self, keys: Sequence[SampleKey]) -> list[FeatureView]:
        """One scale for the batch, the same on all ranks; mirrored or not for each image."""
        sides = self.cache.sides
        step = (self.order.seed, keys[0].epoch, keys[0].step)
        scale = self.scales[mixed_seed(*step) % len(self.scales)]
        return [
            FeatureView(scale, sides[mixed_seed(*step, key.index, key.num_repeat) % len(sides)])
            for key in keys
        ]


_MEMORY_SHARE = 0.25


@dataclass(frozen=True)
class Inputs:
    learned: ResumableEpochs
    watched: ResumableEpochs | None

    @property
    def broken(self) -> list[BrokenImage]:
        """The images that could not be read so far."""
        broken = [*self.learned.broken, *(self.watched.broken if self.watched else ())]
        return list({image.name: image for image in broken}.values())


def inputs_of(
    plan: TrainingPlan, folder: Path, on_progress: Progress, *, rank: int = 0, world_size: int = 1
) -> Inputs:
    """`folder` is the run's, where features of a frozen backbone are kept.

    `rank` says which of the processes that train together this one is.
    """
    batches_of: Callable[..., SampleLoader | FeatureBatches] = partial(
        SampleLoader,
        preprocessing=plan.preprocessing,
        augmentation=plan.augmentation,
        workers=plan.hardware.num_workers,
        cache=_cache_kind(plan),
        pin_memory=plan.hardware.accelerator == "gpu",
    )
    learned, watched = plan.division.learned, plan.division.watched
    if plan.settings.frozen:
        cache, broken = _filled_cache(plan, folder, on_progress)
        learned = [sample for sample in learned if cache.holds(sample)]
        watched = [sample for sample in watched if cache.holds(sample)]
        batches_of = partial(
            FeatureBatches,
            cache=cache,
            scales=plan.settings.feature_scales,
            # Straight to what autocast would make of them.
            dtype=torch.bfloat16 if plan.hardware.in_bf16 else torch.float32,
            broken=broken,
        )
    if not learned:
        raise DataError("no training image can be read", remedy="Look at them with 'weakloc data'")
    shared = {"rank": rank, "world_size": world_size}
    order = EpochBatches(
        len(learned),
        batch_size=min(plan.optimisation.batch_size, len(learned)),
        seed=plan.settings.seed,
        weights=repetition_weights(learned) if plan.method.balance else None,
        **shared,
    )
    epochs = ResumableEpochs(batches_of(learned, order=order))
    if not watched:
        return Inputs(epochs, None)
    once = EveryImageOnce(len(watched), batch_size=plan.optimisation.batch_size, **shared)
    return Inputs(epochs, ResumableEpochs(batches_of(watched, order=once)))


def _cache_kind(plan: TrainingPlan) -> Cache:
    """Memory where the decoded images fit and a random crop is not taken from the original."""
    if plan.settings.cache != "auto":
        return plan.settings.cache
    size = plan.preprocessing.fixed_size
    if size is None or plan.augmentation.crop is not None:
        return "none"
    num_images = len(plan.division.learned) + len(plan.division.watched)
    needed = 3 * size[0] * size[1] * num_images
    return "memory" if needed <= _MEMORY_SHARE * psutil.virtual_memory().available else "none"


def _filled_cache(
    plan: TrainingPlan, folder: Path, on_progress: Progress
) -> tuple[FeatureCache, list[BrokenImage]]:
    """Of several processes one computes the features while the others wait."""
    settings, size = plan.settings, plan.optimisation.batch_size
    on_gpu = plan.hardware.accelerator == "gpu"
    extraction = Extraction(
        folder=Path(settings.feature_cache) if settings.feature_cache else folder / "features",
        preprocessing=plan.preprocessing,
        batch_size=size if on_gpu else min(size, 8),  # more gains a processor nothing
        workers=plan.hardware.num_workers,
        device=torch.device("cuda" if on_gpu else "cpu"),
        in_bf16=plan.hardware.in_bf16,
    )
    sides = (False, True) if settings.feature_flip else (False,)
    scales = dict.fromkeys((1.0, *settings.feature_scales))  # watched images are seen at scale 1
    views = [FeatureView(scale, mirrored) for scale, mirrored in product(scales, sides)]
    with one_writer(extraction.folder):
        cache = FeatureCache(plan.network.backbone.to(extraction.device), extraction, views)
        samples = [*plan.division.learned, *plan.division.watched]
        return cache, cache.fill(samples, on_progress)


class Carried:
    """One batch, closed to the engine, which would otherwise look into every field of it."""

    def __init__(self, batch: Batch) -> None:
        self.batch = batch

    def to(self, device: torch.device, *, non_blocking: bool = False) -> Carried:
        return Carried(self.batch.to(device, non_blocking=non_blocking))


class ResumableEpochs:
    """What the engine takes as its data loader; its position is saved with the weights.

    Nothing is read before the first batch is asked for, so that the position can still be set
    after the engine has made its iterator.
    """

    def __init__(self, batches: SampleLoader | FeatureBatches) -> None:
        self.epoch = 0
        self._first_batch = 0
        self._delivered = 0
        self._batches = batches

    @property
    def broken(self) -> Sequence[BrokenImage]:
        return self._batches.broken

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[Carried]:
        first, self._first_batch = self._first_batch, 0
        self._delivered = first
        self._batches.order.set_epoch(self.epoch, first_step=first)
        for batch in self._batches:
            self._delivered += 1
            yield Carried(batch)

    def state_dict(self) -> dict[str, int]:
        return {"epoch": self.epoch, "batch": self._delivered}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        finished, self._first_batch = divmod(state["batch"], len(self))
        self.epoch = state["epoch"] + finished
