"""The frozen backbone: its features are computed once, then only what is above them is trained.

An image is looked at in every asked scale, plain and mirrored; each look has a store of its own.
In training each batch draws a scale and each image whether it is mirrored; watched images are
taken at scale 1, unmirrored. Further augmentation needs pixels and does not apply.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import IO, Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from weakloc.data.images import is_member_path
from weakloc.data.loaders import Batch, SampleLoader, evaluation_loader
from weakloc.data.sampling import EpochBatches, EveryImageOnce, SampleKey, mixed_seed
from weakloc.data.transforms import Preprocessing, jittered_size
from weakloc.errors import FailureError, RunError, SettingError
from weakloc.files import open_whole
from weakloc.geometry import GridTransform, Size
from weakloc.model.backbones import Backbone
from weakloc.structures import BrokenImage, Sample
from weakloc.work import Progress

FORMAT = 1
Features: TypeAlias = NDArray[np.float16]


@dataclass(frozen=True, slots=True)
class Row:
    index: int
    image_size: Size


class FeatureStore:
    """`shape` is (rows, columns, channels) of one map, None until the first is written."""

    def __init__(self, folder: Path, description: Mapping[str, Any]) -> None:
        self.folder = folder
        self.shape: tuple[int, int, int] | None = None
        self._description = dict(description)
        self._rows: dict[str, Row] = {}
        self._maps: Features | None = None
        self._read()

    def __len__(self) -> int:
        return len(self._rows)

    def __contains__(self, image_key: str) -> bool:
        return image_key in self._rows

    def row(self, image_key: str) -> Row:
        return self._rows[image_key]

    def append(self, image_keys: Sequence[str], sizes: Sequence[Size], features: Features) -> None:
        """Adds maps (N, rows, columns, channels) of images that are not there yet."""
        if self.shape is None:
            self._create(features.shape[1:])
        elif features.shape[1:] != self.shape:
            raise RunError(
                f"feature maps of {features.shape[1:]} do not fit those of {self.shape}",
                where=str(self.folder),
                remedy="Delete this folder; it is computed again",
            )
        try:
            with self._data_path.open("ab") as file:
                _write_through(file, np.ascontiguousarray(features).tobytes())
            lines = "".join(
                f"{key} {size[0]:g} {size[1]:g}\n"
                for key, size in zip(image_keys, sizes, strict=True)
            )
            with self._index_path.open("ab") as file:
                _write_through(file, lines.encode())
        except OSError as error:
            raise FailureError(
                f"features cannot be written ({error.strerror})",
                where=str(self.folder),
                remedy="Free space, or give a folder elsewhere with --feature-cache",
            ) from error
        self._maps = None
        for key, size in zip(image_keys, sizes, strict=True):
            self._rows[key] = Row(len(self._rows), size)

    def maps(self) -> Features:
        """All maps, (N, rows, columns, channels), read from disk when touched."""
        assert self.shape is not None, "nothing was written yet"
        if self._maps is None:
            shape = (len(self._rows), *self.shape)
            self._maps = np.memmap(self._data_path, dtype=np.float16, mode="r", shape=shape)
        return self._maps

    def _create(self, shape: tuple[int, ...]) -> None:
        rows, columns, channels = shape
        self.shape = (rows, columns, channels)
        header = {"format": FORMAT, "shape": self.shape, "made_by": self._description}
        with open_whole(self.folder / "features.json") as file:
            json.dump(header, file, indent=2)

    def _read(self) -> None:
        """Takes up what is there and cuts off what a killed process left half-written."""
        header_path = self.folder / "features.json"
        if not header_path.is_file():
            self._index_path.unlink(missing_ok=True)
            self._data_path.unlink(missing_ok=True)
            return
        header = json.loads(header_path.read_text(encoding="utf-8"))
        rows, columns, channels = header["shape"]
        self.shape = (rows, columns, channels)
        row_bytes = 2 * rows * columns * channels
        index = self._index_path.read_bytes() if self._index_path.is_file() else b""
        lines = index[: index.rfind(b"\n") + 1].decode().splitlines()
        held = self._data_path.stat().st_size // row_bytes if self._data_path.is_file() else 0
        for line in lines[:held]:
            key, width, height = line.split()
            self._rows[key] = Row(len(self._rows), (float(width), float(height)))
        kept_bytes = len(self._rows) * row_bytes
        if self._data_path.is_file() and self._data_path.stat().st_size != kept_bytes:
            os.truncate(self._data_path, kept_bytes)
        kept = "".join(f"{line}\n" for line in lines[:held]).encode()
        if index != kept:
            self._index_path.write_bytes(kept)

    @property
    def _index_path(self) -> Path:
        return self.folder / "index.txt"

    @property
    def _data_path(self) -> Path:
        return self.folder / "features.f16"


def image_key(path: str) -> str:
    """Stands for the content of an image: its place, size and time of change."""
    container = path.rpartition("::")[0] if is_member_path(path) else path
    status = Path(container).stat()
    told = f"{Path(path).absolute()}\n{status.st_size}\n{status.st_mtime_ns}"
    return hashlib.sha256(told.encode("utf-8", "surrogateescape")).hexdigest()[:32]


@contextmanager
def one_writer(folder: Path) -> Iterator[None]:
    """Holds the folder; other processes wait here and then find what was written."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as file:
        try:
            import fcntl
        except ImportError:  # no such locks on Windows
            yield
            return
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _write_through(file: IO[bytes], content: bytes) -> None:
    file.write(content)
    file.flush()
    os.fsync(file.fileno())


_LARGEST_HALF = 65504.0


@dataclass(frozen=True, slots=True)
class Look:
    """One way of showing an image to the backbone."""

    scale: float = 1.0
    mirrored: bool = False


@dataclass(frozen=True)
class Extraction:
    """How features are computed, and where they are kept; `levels` are strides besides the last."""

    folder: Path
    preprocessing: Preprocessing
    batch_size: int
    workers: int
    device: torch.device
    in_bf16: bool
    levels: tuple[int, ...] = ()

    def preprocessing_at(self, scale: float) -> Preprocessing:
        size = self.preprocessing.fixed_size
        if size is None:
            raise SettingError(
                "--frozen needs an input of fixed size",
                remedy="Choose the resize mode warp, pad or crop",
            )
        multiple = self.preprocessing.multiple_of
        scaled = jittered_size(size, scale, multiple_of=multiple) if scale != 1 else size
        return replace(self.preprocessing, size=scaled)


class FeatureCache:
    """The stores of one backbone under one preprocessing."""

    def __init__(self, backbone: Backbone, extraction: Extraction, looks: Sequence[Look]) -> None:
        self.looks = tuple(looks)
        self._backbone, self._extraction = backbone, extraction
        self._weights_digest = digest_of_weights(backbone)
        self._keys: dict[str, str] = {}  # sample.path -> the image's key
        self._levels = tuple(dict.fromkeys((*extraction.levels, backbone.stride)))
        pairs = product(self.looks, self._levels)
        self._stores = {pair: FeatureStore(*self._place(*pair)) for pair in pairs}

    def fill(self, samples: Sequence[Sample], progress: Progress) -> list[BrokenImage]:
        """Computes what is not there yet; gives the images that could not be read."""
        broken = self._find(samples)
        total = len(samples) * len({look.scale for look in self.looks})
        done = 0
        for scale in sorted({look.scale for look in self.looks}):
            missing = self._missing(samples, scale)
            done += len(samples) - len(missing)
            progress(done, total)
            if not missing:
                continue
            loader = self._loader(missing, scale)
            for batch in loader:
                self._append(batch, [missing[i] for i in batch.indices.tolist()], scale)
                done += len(batch)
                progress(done, total)
            broken.extend(loader.broken)
        return list({each.name: each for each in broken}.values())

    def holds(self, sample: Sample) -> bool:
        key = self._keys.get(sample.path)
        return key is not None and all(key in store for store in self._stores.values())

    def read(
        self, samples: Sequence[Sample], looks: Sequence[Look], level: int
    ) -> tuple[Tensor, list[GridTransform]]:
        """Maps (B, D, h, w) in half precision, and the way to the network's input of each."""
        maps, transforms = [], []
        for sample, look in zip(samples, looks, strict=True):
            store = self._stores[look, level]
            row = store.row(self._keys[sample.path])
            maps.append(store.maps()[row.index])
            transforms.append(self._transform(row.image_size, look))
        return torch.from_numpy(np.stack(maps)).permute(0, 3, 1, 2), transforms

    def _find(self, samples: Sequence[Sample]) -> list[BrokenImage]:
        lost = []
        for sample in samples:
            try:
                self._keys[sample.path] = image_key(sample.path)
            except OSError as error:
                lost.append(BrokenImage(sample.name, f"cannot be opened ({error.strerror})"))
        return lost

    def _place(self, look: Look, level: int) -> tuple[Path, dict[str, Any]]:
        """The folder of one store, named by a digest of all that its content depends on."""
        how = self._extraction.preprocessing_at(look.scale)
        made_by = {
            "backbone": str(self._backbone.spec),
            "output_stride": self._backbone.spec.output_stride,
            "weights": self._weights_digest,
            "preprocessing": repr(how),
            "mirrored": look.mirrored,
            "level": level,
            "bf16": self._extraction.in_bf16,
        }
        digest = hashlib.sha256(repr(sorted(made_by.items())).encode()).hexdigest()[:16]
        return self._extraction.folder / digest, made_by

    def _missing(self, samples: Sequence[Sample], scale: float) -> list[Sample]:
        """The images, each once, that a store of this scale lacks."""
        stores = [store for (look, _), store in self._stores.items() if look.scale == scale]
        by_key = {self._keys[each.path]: each for each in samples if each.path in self._keys}
        return [
            sample for key, sample in by_key.items() if not all(key in store for store in stores)
        ]

    def _loader(self, samples: Sequence[Sample], scale: float) -> SampleLoader:
        return evaluation_loader(
            samples,
            self._extraction.preprocessing_at(scale),
            batch_size=self._extraction.batch_size,
            workers=self._extraction.workers,
        )

    def _append(self, batch: Batch, samples: Sequence[Sample], scale: float) -> None:
        keys = [self._keys[sample.path] for sample in samples]
        sizes = [place.image_size for place in batch.transforms if place is not None]
        for look in (each for each in self.looks if each.scale == scale):
            stores = {level: self._stores[look, level] for level in self._levels}
            lacking = {
                level: [i for i, key in enumerate(keys) if key not in store]
                for level, store in stores.items()
            }
            if not any(lacking.values()):
                continue
            features = self._compute(batch.images.flip(-1) if look.mirrored else batch.images)
            for level, new in lacking.items():
                if new:
                    new_keys, new_sizes = [keys[i] for i in new], [sizes[i] for i in new]
                    stores[level].append(new_keys, new_sizes, features[level][new])

    @torch.inference_mode()
    def _compute(self, images: Tensor) -> dict[int, Features]:
        how = self._extraction
        with torch.autocast(how.device.type, dtype=torch.bfloat16, enabled=how.in_bf16):
            outputs = self._backbone.forward_levels(images.to(how.device), how.levels)
        halves = {}
        for level, features in outputs.items():
            bounded = features.float().clamp(-_LARGEST_HALF, _LARGEST_HALF)
            halves[level] = bounded.permute(0, 2, 3, 1).half().cpu().numpy()  # (B, h, w, D)
        return halves

    def _transform(self, image_size: tuple[float, float], look: Look) -> GridTransform:
        how = self._extraction.preprocessing_at(look.scale)
        place = how.place((int(image_size[0]), int(image_size[1])))
        transform = place.transform(GridTransform.identity(image_size))
        return transform.flip_horizontal() if look.mirrored else transform


@dataclass(frozen=True)
class FeatureBatches:
    """Batches of cached features, to learn from or to watch."""

    cache: FeatureCache
    samples: Sequence[Sample]
    level: int
    seed: int
    scales: tuple[float, ...]
    dtype: torch.dtype  # of the batches

    def learned(self, batches: EpochBatches) -> Callable[[int, int], Iterator[Batch]]:
        def epoch(number: int, first_batch: int) -> Iterator[Batch]:
            batches.set_epoch(number, first_step=first_batch)
            for keys in batches:
                yield self._batch(keys, self._drawn_looks(keys))

        return epoch

    def watched(self, batches: EveryImageOnce) -> Callable[[int, int], Iterator[Batch]]:
        def epoch(_number: int, _first_batch: int) -> Iterator[Batch]:
            for keys in batches:
                yield self._batch(keys, [Look()] * len(keys))

        return epoch

    def _drawn_looks(self, keys: Sequence[SampleKey]) -> list[Look]:
        """One scale for the batch, the same on all ranks; mirrored or not for each image."""
        sides = sorted({look.mirrored for look in self.cache.looks})
        place = (self.seed, keys[0].epoch, keys[0].step)
        scale = self.scales[mixed_seed(*place) % len(self.scales)]
        return [
            Look(scale, sides[mixed_seed(*place, key.index, key.num_repeat) % len(sides)])
            for key in keys
        ]

    def _batch(self, keys: Sequence[SampleKey], looks: Sequence[Look]) -> Batch:
        chosen = [self.samples[key.index] for key in keys]
        features, transforms = self.cache.read(chosen, looks, self.level)
        labels = np.stack([sample.labels for sample in chosen])
        return Batch(
            images=features.float().to(self.dtype),  # half to bfloat16 at once is slower
            labels=torch.from_numpy(labels),
            names=tuple(sample.name for sample in chosen),
            transforms=tuple(transforms),
            indices=torch.tensor([key.index for key in keys]),
        )


def fill_alone(
    make_cache: Callable[[], FeatureCache],
    folder: Path,
    samples: Sequence[Sample],
    progress: Progress,
) -> tuple[FeatureCache, list[BrokenImage]]:
    """The filled cache; of several processes one fills it while the others wait."""
    with one_writer(folder):
        cache = make_cache()
        return cache, cache.fill(samples, progress)


def digest_of_weights(backbone: Backbone) -> str:
    digest = hashlib.sha256()
    for name, value in sorted(backbone.trunk.state_dict().items()):
        digest.update(name.encode())
        flat = value.detach().cpu().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
