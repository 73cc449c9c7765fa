"""A source of maps and settings -> predictions of any number of images."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from weakloc.data.sources import ImageSource
from weakloc.geometry import BoxLTRB
from weakloc.localize.boxes import ThresholdMode, find_boxes
from weakloc.localize.doubt import (
    PlaceEvidence,
    doubt,
    heat_entropy,
    threshold_instability,
    view_instability,
)
from weakloc.localize.maps import HeatMap, image_grid, minmax, resample
from weakloc.localize.objectness import (
    axis_projection,
    bipartition,
    center_prior,
    feature_distance,
    fuse_product,
    principal_axis,
)
from weakloc.predictor.network_source import Floats, MapSource
from weakloc.predictor.places import Locating, Tags, name_places, wanted_classes
from weakloc.predictor.views import SeenImage, see_images
from weakloc.settings import Look, Places
from weakloc.structures import BrokenImage, LabelVector, Prediction, ScoreMaps

HeatMaker: TypeAlias = Callable[[SeenImage, Sequence[int], Look], ScoreMaps]


def fused_maps(seen: SeenImage, classes: Sequence[int], look: Look) -> ScoreMaps:
    """The maps of all views as one; weighed where the look says so."""
    maps = seen.fused(classes, look)
    if look.objectness == "none" and not look.center_prior:
        return maps
    heat = minmax(maps.values)
    if look.objectness != "none":
        heat = fuse_product(heat, _objectness(seen, maps, look))
    if look.center_prior:
        heat = fuse_product(heat, center_prior(maps.transform))
    return ScoreMaps(heat, maps.transform, "cam")


def maps_in_words(look: Look) -> str:
    """What thresholds are for: those of other maps do not fit."""
    factors: list[str] = [look.localiser]
    if look.localiser != "beam_search" and look.objectness != "none":
        factors.append(f"objectness {look.objectness} of stride {look.objectness_stride}")
    if look.localiser != "beam_search" and look.center_prior:
        factors.append("center prior")
    return " x ".join(factors)


def _objectness(seen: SeenImage, maps: ScoreMaps, look: Look) -> Floats:
    """What stands out in the features of each view of the whole image, averaged."""
    stride = look.objectness_stride
    found = []
    for view in seen.views:
        if view.view.tile is None and stride in view.features:
            features = view.features[stride]
            values = OBJECTNESS[look.objectness](features.values)
            alone = ScoreMaps(values[None], features.transform, "cam")
            found.append(resample(alone, maps.transform).values[0])
    if not found:
        raise ValueError(f"the source gave no features of stride {stride}")
    return np.asarray(np.mean(found, axis=0), dtype=np.float32)


def _axis(features: Floats) -> Floats:
    return axis_projection(features, principal_axis([features]))


OBJECTNESS: dict[str, Callable[[Floats], Floats]] = {
    "distance": feature_distance,
    "axis": _axis,
    "cut": bipartition,
}


JUDGED_SIDE = 64  # cells along the long side: enough to see a box move
THRESHOLD_STEPS = (-0.1, 0.0, 0.1)


def doubt_of(
    seen: SeenImage,
    heat: ScoreMaps,
    classes: Sequence[int],
    tags: LabelVector | None,
    *,
    thresholds: Sequence[float],
    threshold_mode: ThresholdMode,
) -> float:
    """The doubt of one image whose `classes` have the maps in `heat`, in that order."""
    grid = image_grid(seen.size, long_side=JUDGED_SIDE)
    small = resample(heat, grid)
    views = _view_maps(seen, classes, small)
    places = {
        index: _evidence(
            small, [view.values[row] for view in views], row, thresholds[index], threshold_mode
        )
        for row, index in enumerate(classes)
    }
    return doubt(seen.probabilities, places, labels=tags)


def _view_maps(seen: SeenImage, classes: Sequence[int], small: ScoreMaps) -> list[ScoreMaps]:
    """The maps of each view of the whole image, where there are several."""
    whole = [view.maps for view in seen.views if view.view.tile is None]
    if len(whole) < 2 or not classes:
        return []
    return [
        resample(ScoreMaps(maps.values[list(classes)], maps.transform, maps.kind), small.transform)
        for maps in whole
    ]


def _evidence(
    small: ScoreMaps,
    views: Sequence[HeatMap],
    row: int,
    threshold: float,
    threshold_mode: ThresholdMode,
) -> PlaceEvidence:
    def largest(heat: HeatMap, share: float) -> BoxLTRB | None:
        found = find_boxes(
            heat,
            small.transform,
            threshold=share,
            threshold_mode=threshold_mode,
            select="largest",
            min_area=0.0,
        )
        return found[0].box if found else None

    heat = small.values[row]
    shares = np.clip([threshold + step for step in THRESHOLD_STEPS], 0.0, 0.95)
    at_thresholds = [largest(heat, float(share)) for share in shares]
    of_views = [largest(view, threshold) for view in views]
    return PlaceEvidence(
        entropy=heat_entropy(heat),
        threshold_instability=threshold_instability(at_thresholds),
        view_instability=view_instability(at_thresholds[1], of_views),
    )


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
        look: Look,
        places: Places,
        *,
        thresholds: Sequence[float],
        heat: HeatMaker = fused_maps,
        rescore: ProbabilityMap | None = None,
        seer: Seer | None = None,
    ) -> None:
        self.source = source
        self.seer: Seer = seer or (lambda images: see_images(images, source, look))
        self.rescore = rescore
        self.look, self.places = look, places
        self.heat = heat
        if places.threshold is not None:
            thresholds = [places.threshold] * len(source.class_names)
        self.locating = Locating(source.class_names, tuple(thresholds), places, look.localiser)

    @property
    def settings(self) -> dict[str, Any]:
        """Everything that was chosen, by name, for whoever keeps a record of predictions."""
        return {**asdict(self.look), **asdict(self.places)}

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
        classes = wanted_classes(seen.probabilities, labels, self.places)
        found = self._places(seen, classes, labels)
        doubt = doubt_of(
            seen,
            found.heat,
            found.classes,
            labels,
            thresholds=self.locating.thresholds,
            threshold_mode=self.places.threshold_mode,
        )
        return replace(found, prediction=replace(found.prediction, doubt=doubt))

    def measurable(self, seen: SeenImage, classes: Sequence[int]) -> Prediction:
        """The places of these classes; no doubt, which takes longest and which no metric reads."""
        return self._places(seen, classes, None).prediction

    def _places(
        self, seen: SeenImage, classes: Sequence[int], labels: LabelVector | None
    ) -> Located:
        heat = self.heat(seen, classes, self.look)
        prediction = name_places(seen, heat, classes, labels, self.locating)
        return Located(seen, tuple(classes), heat, prediction)
