"""A source of maps and settings -> predictions of any number of images."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from weakloc.config import PredictSettings
from weakloc.predictor.doubting import doubt_of
from weakloc.predictor.heat import HeatMaker, fused_maps
from weakloc.predictor.map_source import MapSource
from weakloc.predictor.places import Locating, name_places, wanted_classes
from weakloc.predictor.sources import ImageSource
from weakloc.predictor.streaming import SeenImage, see_images
from weakloc.predictor.tags import Tags
from weakloc.structures import BrokenImage, LabelVector, Prediction, ScoreMaps

ProbabilityMap: TypeAlias = Callable[[NDArray[np.float64]], NDArray[np.float64]]

Seer: TypeAlias = Callable[[Iterable[ImageSource]], Iterator[SeenImage | BrokenImage]]


@dataclass(frozen=True)
class Located:
    """A prediction with what it was made from: `heat` holds the maps of `classes`."""

    seen: SeenImage
    classes: tuple[int, ...]
    heat: ScoreMaps
    prediction: Prediction


class Predictor:
    """Says where the classes of a source are.

    `thresholds` are one a class. `heat` makes the map in which the places of an image's classes
    are looked for: the fused score maps, or a search like the beam's. `rescore` changes the class
    probabilities of an image. `seer` looks at images in place of the source alone.
    """

    def __init__(
        self,
        source: MapSource,
        settings: PredictSettings,
        *,
        thresholds: Sequence[float],
        heat: HeatMaker = fused_maps,
        rescore: ProbabilityMap | None = None,
        seer: Seer | None = None,
    ) -> None:
        self.source = source
        self.seer: Seer = seer or (lambda images: see_images(images, source, settings))
        self.rescore = rescore
        self.settings = settings
        self.heat = heat
        if settings.threshold is not None:
            thresholds = [settings.threshold] * len(source.class_names)
        self.locating = Locating(source.class_names, tuple(thresholds), settings)

    def see(self, images: Iterable[ImageSource]) -> Iterator[SeenImage | BrokenImage]:
        """Scores and maps only, in input order."""
        for seen in self.seer(images):
            if self.rescore is None or isinstance(seen, BrokenImage):
                yield seen
            else:
                yield replace(seen, probabilities=self.rescore(seen.probabilities))

    def predict(
        self, images: Iterable[ImageSource], tags: Tags | None = None
    ) -> Iterator[Prediction | BrokenImage]:
        """One answer an image, in input order; memory does not grow with their number."""
        for found in self.predict_with_heat(images, tags):
            yield found if isinstance(found, BrokenImage) else found.prediction

    def predict_with_heat(
        self, images: Iterable[ImageSource], tags: Tags | None = None
    ) -> Iterator[Located | BrokenImage]:
        """Like `predict`, with what each prediction was made from."""
        for seen in self.see(images):
            yield seen if isinstance(seen, BrokenImage) else self.locate_with_heat(seen, tags)

    def locate(self, seen: SeenImage, tags: Tags | None = None) -> Prediction:
        """The places in one image that has been seen."""
        return self.locate_with_heat(seen, tags).prediction

    def locate_with_heat(self, seen: SeenImage, tags: Tags | None = None) -> Located:
        labels = None if tags is None else tags.of(seen.name)
        classes = wanted_classes(seen.probabilities, labels, self.settings)
        found = self._places(seen, classes, labels)
        doubt = doubt_of(
            seen,
            found.heat,
            found.classes,
            labels,
            thresholds=self.locating.thresholds,
            threshold_mode=self.settings.threshold_mode,
        )
        return replace(found, prediction=replace(found.prediction, doubt=doubt))

    def measurable(self, seen: SeenImage, classes: Sequence[int]) -> Prediction:
        """The places of these classes; no doubt, which takes longest and which no metric reads."""
        return self._places(seen, classes, None).prediction

    def _places(
        self, seen: SeenImage, classes: Sequence[int], labels: LabelVector | None
    ) -> Located:
        heat = self.heat(seen, classes, self.settings)
        prediction = name_places(seen, heat, classes, labels, self.locating)
        return Located(seen, tuple(classes), heat, prediction)
