"""A source of maps and settings -> predictions of any number of images."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from weakloc.data.sources import ImageSource
from weakloc.errors import SettingError
from weakloc.geometry import BoxLTRB
from weakloc.localize.maps import HeatMap, fuse, image_grid, resample, shared_out
from weakloc.localize.places import (
    PointMap,
    PointMethod,
    ThresholdMode,
    doubt,
    find_boxes,
    heat_entropy,
    hottest_views,
    instability,
    outermost_centers,
    pixel_centers,
)
from weakloc.methods.method import LEARNED, RULES, PlaceRules
from weakloc.predictor.places import Locating, Tags, find_masks, name_places, wanted_classes
from weakloc.predictor.views import MapSource, SeenImage, see_images
from weakloc.settings import Look, Places
from weakloc.structures import PRESENT, BrokenImage, LabelVector, Mask, Prediction, ScoreMaps

HeatMaker: TypeAlias = Callable[[SeenImage, Sequence[int], Look], ScoreMaps]


def fused_maps(image: SeenImage, classes: Sequence[int], look: Look) -> ScoreMaps:
    """The maps of some classes from the views meant for maps, on a grid over the image."""
    grid = image_grid(image.picture.size, long_side=look.map_side)
    maps = [replace(view.maps, values=view.maps.values[list(classes)]) for view in image.views]
    if len(maps) == 1:
        return resample(maps[0], grid)
    return fuse(
        maps,
        grid,
        combine="mean" if look.fuse == "auto" else look.fuse,
        normalise="none" if look.normalise == "auto" else look.normalise,
        windows=[view.view.tile or (0.0, 0.0, *image.picture.size) for view in image.views],
    )


def point_maps(
    image: SeenImage, classes: Sequence[int], heat: ScoreMaps, look: Look, method: PointMethod
) -> list[tuple[PointMap, PointMap]]:
    """Where the first point of each class is looked for, and where all further ones.

    `heat` holds the `fused_maps` of the classes; what is densest is an area, no cell of a view.
    Of one view, and of the greatest of several, the hottest place is a cell of a view. All sizes
    count whose greatest scores make the class score (Oquab et al.: one location for each class,
    the best of all positions and scales). What is hottest in a mean of views is known on the common
    grid alone.
    """
    has_best_view = look.fuse == "max"
    counted = (*image.views, *image.only_scored) if has_best_view else image.views
    views = [replace(view.maps, values=view.maps.values[list(classes)]) for view in counted]
    within = outermost_centers([view.transform for view in views])
    grids = [PointMap(values, heat.transform, within) for values in heat.values]
    if method == "densest" or not (has_best_view or len(views) == 1):
        return list(zip(grids, grids, strict=True))
    view_indices = hottest_views(views, "none" if look.normalise == "auto" else look.normalise)
    cells = [
        PointMap(views[index].values[row], views[index].transform, within)
        for row, index in enumerate(view_indices)
    ]
    return list(zip(cells, cells if len(views) == 1 else grids, strict=True))


JUDGED_SIDE = 64  # cells along the long side: enough to see a box move
THRESHOLD_STEPS = (-0.1, 0.0, 0.1)


def doubt_of(
    image: SeenImage,
    heat: ScoreMaps,
    classes: Sequence[int],
    tags: LabelVector | None,
    *,
    thresholds: Sequence[float],
    threshold_mode: ThresholdMode,
) -> float:
    """The doubt of one image whose `classes` have the maps in `heat`, in that order."""
    grid = image_grid(image.picture.size, long_side=JUDGED_SIDE)
    small = resample(heat, grid).values
    whole = [view.maps for view in image.views if view.view.tile is None]
    views = [
        resample(replace(maps, values=maps.values[list(classes)]), grid).values
        for maps in whole
        if len(whole) > 1 and classes
    ]

    def largest_box(class_map: HeatMap, threshold: float) -> BoxLTRB | None:
        boxes = find_boxes(
            class_map,
            grid,
            threshold=threshold,
            threshold_mode=threshold_mode,
            select="largest",
            min_area=0.0,
        )
        return boxes[0].box if boxes else None

    evidence: dict[int, list[float]] = {}
    for row, index in enumerate(classes):
        shares = np.clip([thresholds[index] + step for step in THRESHOLD_STEPS], 0.0, 0.95)
        boxes = [largest_box(small[row], float(share)) for share in shares]
        evidence[index] = [heat_entropy(small[row]), instability(itertools.pairwise(boxes))]
        if views:
            of_views = [largest_box(maps[row], thresholds[index]) for maps in views]
            evidence[index].append(instability((boxes[1], box) for box in of_views))
    return doubt(image.probabilities, evidence, labels=tags)


ProbabilityMap: TypeAlias = Callable[[NDArray[np.float64]], NDArray[np.float64]]

Seer: TypeAlias = Callable[[Iterable[ImageSource]], Iterator[SeenImage | BrokenImage]]


@dataclass(frozen=True)
class Located:
    """A prediction with what it was made from: `heat` holds the maps of `classes`."""

    image: SeenImage
    classes: tuple[int, ...]
    heat: ScoreMaps
    prediction: Prediction


class Predictor:
    """Says where the classes of a source are.

    `rules` say what the places leave open; `thresholds` are one a class, none where the rules' is
    for all. `heat` makes the map in which the places of an image's classes
    are looked for: the fused score maps, or a search like the beam's. `rescore` changes the class
    probabilities of an image. `seer` looks at images in place of the source alone.
    """

    def __init__(
        self,
        source: MapSource,
        look: Look,
        places: Places,
        *,
        rules: PlaceRules = RULES["score_map"],
        thresholds: Sequence[float] = (),
        heat: HeatMaker = fused_maps,
        rescore: ProbabilityMap | None = None,
        seer: Seer | None = None,
    ) -> None:
        self.source = source
        self.seer: Seer = seer or (lambda images: see_images(images, source, look))
        self.rescore = rescore
        self.look, self.places = look, places
        self.heat = heat
        self.rules = rules.with_settings(places)
        if places.threshold is not None or not thresholds:
            thresholds = [self.rules.threshold] * len(source.class_names)
        self.locating = Locating(source.class_names, tuple(thresholds), places, self.rules)

    @property
    def settings(self) -> dict[str, Any]:
        """Everything that was chosen, by name, for whoever keeps a record of predictions."""
        rules = {**asdict(self.rules), "threshold": self.places.threshold}
        places = {name: rules.get(name, value) for name, value in asdict(self.places).items()}
        return {**asdict(self.look), **places}

    def see(self, images: Iterable[ImageSource]) -> Iterator[SeenImage | BrokenImage]:
        """Scores and maps only, in input order."""
        for image in self.seer(images):
            if isinstance(image, BrokenImage):
                yield image
            elif not np.isfinite(image.probabilities).all():
                yield BrokenImage(image.name, "its scores are not numbers")
            elif self.rescore is None:
                yield image
            else:
                yield replace(image, probabilities=self.rescore(image.probabilities))

    def predict(
        self, images: Iterable[ImageSource], tags: Tags | None = None
    ) -> Iterator[Prediction | BrokenImage]:
        """One answer an image, in input order; memory does not grow with their number."""
        for located in self.predict_with_heat(images, tags):
            yield located if isinstance(located, BrokenImage) else located.prediction

    def predict_with_heat(
        self, images: Iterable[ImageSource], tags: Tags | None = None
    ) -> Iterator[Located | BrokenImage]:
        """Like `predict`, with what each prediction was made from."""
        for image in self.see(images):
            if isinstance(image, BrokenImage):
                yield image
                continue
            labels = None if tags is None else tags.of(image.name)
            classes = wanted_classes(image.probabilities, labels, self.places)
            heat = self.heat(image, classes, self.look)
            if labels is not None and self.look.localiser in LEARNED:
                values, rows = heat.values.copy(), labels[classes] == PRESENT
                values[rows] = shared_out(values[rows])  # all of them are there
                heat = replace(heat, values=values)
            prediction = self._named(image, heat, classes, labels)
            doubt = doubt_of(
                image,
                heat,
                classes,
                labels,
                thresholds=self.locating.thresholds,
                threshold_mode=self.rules.threshold_mode,
            )
            masks = self._masks(image, heat, classes)
            prediction = replace(prediction, masks=masks, doubt=doubt)
            yield Located(image, tuple(classes), heat, prediction)

    def measurable(
        self, image: SeenImage, classes: Sequence[int], painted: Sequence[int] = ()
    ) -> Prediction:
        """The places of some classes, with masks of the `painted` ones.

        There is no doubt, which takes longest and which no metric reads.
        """
        prediction = self._named(image, self.heat(image, classes, self.look), classes, None)
        masks = self._masks(image, self.heat(image, painted, self.look), painted)
        return replace(prediction, masks=masks)

    def _named(
        self, image: SeenImage, heat: ScoreMaps, classes: Sequence[int], tags: LabelVector | None
    ) -> Prediction:
        if self.heat is fused_maps:
            maps = point_maps(image, classes, heat, self.look, self.rules.point_method)
        else:  # what was searched for has no views
            within = pixel_centers(heat.transform.image_size)
            maps = [(PointMap(v, heat.transform, within),) * 2 for v in heat.values]
        return name_places(image, heat, classes, tags, self.locating, point_maps=maps)

    def _masks(self, image: SeenImage, heat: ScoreMaps, classes: Sequence[int]) -> tuple[Mask, ...]:
        """Where a background class stands against these, its map comes after all others."""
        behind, index = None, len(self.source.class_names)
        if self.places.masks == "none":
            return ()
        if self.rules.background == "class":
            has_map = all(len(view.maps.values) > index for view in image.views)
            if self.heat is not fused_maps or not has_map:
                raise SettingError(
                    "--background is 'class', and there is no map of a background class",
                    remedy="Give threshold or power; or train with --set rules.background=class, "
                    "and paint from the plain score maps",
                )
            behind = self.heat(image, [index], self.look)
        return find_masks(image, heat, classes, behind, self.locating)
