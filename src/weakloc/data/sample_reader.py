"""One key -> one decoded, placed and augmented image: what a loader's worker does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Generator, Tensor
from torch.utils.data import Dataset

from weakloc.data.augmentation import Augmentation, Canvas, DrawnAugmentation, FlipAction, View
from weakloc.data.pictures import Picture, Pictures
from weakloc.data.sampling import SampleKey, mixed_seed
from weakloc.data.transforms import (
    Placement,
    Preprocessing,
    lay_on_canvas,
    place_region,
    resample,
)
from weakloc.errors import SettingError
from weakloc.geometry import GridTransform
from weakloc.structures import BrokenImage, LabelVector, Sample


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

    def view(self) -> View:
        """Still 8-bit, the padding 0."""
        canvas = lay_on_canvas(self.content, self.placement)
        return self.drawn.apply(View(canvas, self.transform))

    def normalised_view(self) -> View:
        canvas = self.preprocessing.finish(self.content, self.placement)
        return self.drawn.apply(View(canvas, self.transform))


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
            canvas=Canvas(placement.canvas_size, preprocessing.std),
            num_repeat=key.num_repeat,
        )
        if drawn.region_in_image is not None:
            placement = place_region(drawn.region_in_image, placement.canvas_size)
        content = resample(picture.pixels, placement)
        transform = placement.transform(picture.base)
        return PlacedImage(content, placement, transform, drawn, preprocessing)
