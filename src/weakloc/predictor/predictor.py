"""A source of maps and settings -> predictions of any number of images."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.special import log_softmax

from weakloc.data.sources import ImageSource
from weakloc.errors import SettingError
from weakloc.files import ByName
from weakloc.geometry import BoxLTRB, FloatArray, GridTransform, nearest_cells
from weakloc.localize.crf import CrfSettings, refine_unary
from weakloc.localize.maps import NORMALISATIONS, HeatMap, fuse, image_grid, resample, shared_out
from weakloc.localize.places import (
    Background,
    BoxLimits,
    HeatBox,
    LabelGrid,
    Peak,
    PointMap,
    PointMethod,
    class_masks,
    disagreements,
    doubt,
    find_boxes,
    heat_entropy,
    hottest_views,
    instability,
    labels_of_stack,
    locate_points,
    outermost_centers,
    pixel_centers,
    score_stack,
    segment,
    selected_boxes,
    voted_boxes,
    whole_image_box,
    without_specks,
)
from weakloc.methods.method import LEARNED, RULES, PlaceRules
from weakloc.predictor.views import MapSource, SeenImage, see_images
from weakloc.settings import Look, Places
from weakloc.structures import (
    PRESENT,
    UNKNOWN,
    Box,
    BrokenImage,
    LabelVector,
    Mask,
    Point,
    Prediction,
    ScoreMaps,
)

HeatMaker: TypeAlias = Callable[[SeenImage, Sequence[int], Look], ScoreMaps]


def wanted_classes(
    probabilities: NDArray[np.float64], tags: LabelVector | None, places: Places
) -> list[int]:
    """The classes that get places: those the tags say, and the likely ones where no tag speaks."""
    likely = probabilities >= places.min_score
    likely[np.argsort(-probabilities, kind="stable")[: places.top]] = True
    chosen = likely
    if tags is not None:
        chosen = (tags == PRESENT) | ((tags == UNKNOWN) & likely)
    return [int(index) for index in np.flatnonzero(chosen)]


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


REFINED_SIDE = 500  # pixels along the long side at which edges are followed


def _against_a_level(
    heat: ScoreMaps, thresholds: Sequence[float], rules: PlaceRules
) -> tuple[ScoreMaps, Background]:
    normalised = NORMALISATIONS[rules.threshold_mode](heat.values)
    if rules.background == "power":
        return ScoreMaps(normalised, heat.transform, "cam"), Background("power")
    # Shifted so that one background level stands for every class's own threshold.
    shares = np.asarray(thresholds, dtype=np.float32)
    level = float(shares.mean())
    shifted = ScoreMaps(normalised - shares[:, None, None] + level, heat.transform, "cam")
    return shifted, Background("threshold", level=level)


def _by_crf(
    maps: ScoreMaps, picture: Image.Image, background: Background, rules: PlaceRules
) -> LabelGrid:
    """Refined at a bounded size, then each pixel of the image takes the nearest label."""
    grid = image_grid(picture.size, long_side=REFINED_SIDE)
    columns, rows = (round(side) for side in grid.grid_size)
    pixels = np.asarray(picture.resize((columns, rows)))
    stack = score_stack(resample(maps, grid).values, background)
    likely = log_softmax(stack, axis=0)
    if rules.crf_unary == "shares" and background.mode != "class":
        positive = np.maximum(stack, 1e-3)
        likely = np.log(positive / positive.sum(axis=0))
    labels = labels_of_stack(refine_unary(np.asarray(-likely, np.float32), pixels, CrfSettings()))
    return np.asarray(labels[nearest_cells(labels.shape, picture.size)])


JUDGED_SIDE = 64  # cells along the long side: enough to see a box move
THRESHOLD_STEPS = (-0.1, 0.0, 0.1)
LARGEST = 1e30  # of a score: differences of two stay numbers of 32 bits
LIKELY = 0.5  # probability from which a class takes its place from others
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
        rescore: Callable[[FloatArray], FloatArray] | None = None,
        seer: Seer | None = None,
    ) -> None:
        self.source = source
        self.seer: Seer = seer or (lambda images: see_images(images, source, look))
        self.rescore = rescore
        self.look, self.places = look, places
        self.heat = heat
        self.rules = rules.with_settings(places)
        self.limits = BoxLimits(
            min_area=places.min_area, max_area=places.max_area, min_share=self.rules.min_share
        )
        if places.threshold is not None or not thresholds:
            thresholds = [self.rules.threshold] * len(source.class_names)
        self.thresholds = tuple(thresholds)  # one a class

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
            elif not np.isfinite(image.probabilities).all() or any(
                np.abs(view.maps.values).max(initial=0.0) > LARGEST for view in image.views
            ):
                yield BrokenImage(image.name, "its scores are not numbers, or far beyond all use")
            elif self.rescore is None:
                yield image
            else:
                yield replace(image, probabilities=self.rescore(image.probabilities))

    def predict(
        self, images: Iterable[ImageSource], tags: ByName[LabelVector] | None = None
    ) -> Iterator[Prediction | BrokenImage]:
        """One answer an image, in input order; memory does not grow with their number."""
        for located in self.predict_with_heat(images, tags):
            yield located if isinstance(located, BrokenImage) else located.prediction

    def predict_with_heat(
        self, images: Iterable[ImageSource], tags: ByName[LabelVector] | None = None
    ) -> Iterator[Located | BrokenImage]:
        """Like `predict`, with what each prediction was made from."""
        for image in self.see(images):
            if isinstance(image, BrokenImage):
                yield image
                continue
            labels = None if tags is None else tags.get(image.name)
            if tags is not None and labels is None:  # no line names it
                labels = np.full(len(self.source.class_names), UNKNOWN, dtype=np.int8)
            classes = wanted_classes(image.probabilities, labels, self.places)
            heat = self._heat_of(image, classes, labels)
            prediction = self._named(image, heat, classes, labels)
            doubt = self._doubt_of(image, heat, classes, labels)
            masks = self._masks(image, heat, classes)
            prediction = replace(prediction, masks=masks, doubt=doubt)
            yield Located(image, tuple(classes), heat, prediction)

    def measurable(
        self, image: SeenImage, classes: Sequence[int], painted: Sequence[int] = ()
    ) -> Prediction:
        """The places of some classes, with masks of the `painted` ones.

        There is no doubt, which takes longest and which no metric reads.
        """
        prediction = self._named(image, self._heat_of(image, classes, None), classes, None)
        masks = self._masks(image, self._heat_of(image, painted, None), painted)
        return replace(prediction, masks=masks)

    def _heat_of(
        self, image: SeenImage, classes: Sequence[int], tags: LabelVector | None
    ) -> ScoreMaps:
        """The map of each class; where objects were learned, against the others that are there:
        tagged, or likely where no tag speaks."""
        if self.look.localiser not in LEARNED or not classes:
            return self.heat(image, classes, self.look)
        there = wanted_classes(image.probabilities, tags, replace(self.places, min_score=LIKELY))
        together = sorted({*classes, *there})
        heat = self.heat(image, together, self.look)
        values = shared_out(heat.values, np.isin(together, there))
        return replace(heat, values=values[np.isin(together, classes)])

    def _doubt_of(
        self, image: SeenImage, heat: ScoreMaps, classes: Sequence[int], tags: LabelVector | None
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

        mode, limits = self.rules.threshold_mode, BoxLimits(min_area=0.0)
        find = partial(find_boxes, threshold_mode=mode, select="largest", limits=limits)

        def largest_box(class_map: HeatMap, threshold: float) -> BoxLTRB | None:
            boxes = find(class_map, grid, threshold=threshold)
            return boxes[0].box if boxes else None

        evidence: dict[int, list[float]] = {}
        for row, index in enumerate(classes):
            shares = np.clip([self.thresholds[index] + step for step in THRESHOLD_STEPS], 0.0, 0.95)
            boxes = [largest_box(small[row], float(share)) for share in shares]
            evidence[index] = [heat_entropy(small[row]), instability(itertools.pairwise(boxes))]
            if views:
                of_views = [largest_box(maps[row], self.thresholds[index]) for maps in views]
                evidence[index].append(instability((boxes[1], box) for box in of_views))
        return doubt(image.probabilities, evidence, labels=tags)

    def _named(
        self, image: SeenImage, heat: ScoreMaps, classes: Sequence[int], tags: LabelVector | None
    ) -> Prediction:
        """What is said of one image but its masks and doubt; `heat` holds the maps of `classes`."""
        if self.heat is fused_maps:
            maps = point_maps(image, classes, heat, self.look, self.rules.point_method)
        else:  # what was searched for has no views
            within = pixel_centers(heat.transform.image_size)
            maps = [(PointMap(v, heat.transform, within),) * 2 for v in heat.values]
        names, sure, proposals = self.source.class_names, self.places.sure, image.proposals
        probabilities: list[float] = image.probabilities.tolist()
        points: list[Point] = []
        boxes: list[Box] = []
        for class_map, own_maps, index in zip(heat.values, maps, classes, strict=True):
            name, probability = names[index], probabilities[index]
            weight = probability if self.rules.box_times_class else 1.0
            peaks, parts = self._peaks_and_parts(
                class_map,
                heat.transform,
                own_maps,
                threshold=self.thresholds[index],
                votes=None if proposals is None else (proposals.boxes, proposals.scores[index]),
                weight=weight,
                is_tagged=tags is not None and bool(tags[index] == PRESENT),
            )
            points += [Point(name, peak.x, peak.y, probability, peak.heat) for peak in peaks]
            boxes += [Box(name, part.box, part.score) for part in parts]
        prediction = Prediction(
            image=image.name,
            width=image.picture.width,
            height=image.picture.height,
            scores=dict(zip(names, probabilities, strict=True)),
            points=tuple(points),
            boxes=tuple(boxes),
        )
        if tags is None:
            return prediction
        return replace(
            prediction,
            disagreements=disagreements(
                image.probabilities, tags, names, missing_below=1.0 - sure, unexpected_above=sure
            ),
            extra={"tags": [names[index] for index in np.flatnonzero(tags == PRESENT)]},
        )

    def _peaks_and_parts(
        self,
        class_map: HeatMap,
        transform: GridTransform,
        own_maps: tuple[PointMap, PointMap],
        *,
        threshold: float,
        votes: tuple[FloatArray, FloatArray] | None,
        weight: float,
        is_tagged: bool,
    ) -> tuple[list[Peak], list[HeatBox]]:
        """The points of a class, and the parts of the image that get a box of it.

        Both are what the `votes` of a detector agree on, boxes and their scores, if there are some.
        """
        places, rules = self.places, self.rules
        find: Callable[..., list[HeatBox]]  # choice and limits -> boxes, best first
        if votes is None:
            peaks = locate_points(
                *own_maps,
                max_points=places.points,
                min_distance=places.peak_distance * max(transform.image_size),
                method=rules.point_method,
            )
            find = partial(
                find_boxes,
                class_map,
                transform,
                threshold=threshold,
                threshold_mode=rules.threshold_mode,
                score=rules.box_score,
                class_probability=weight,
            )
            parts = [] if rules.boxes == "none" else find(select=rules.boxes, limits=self.limits)
        else:
            boxes, scores = votes
            find = partial(voted_boxes, boxes, weight * scores, transform.image_size)
            parts = find(select="all", limits=self.limits)
            peaks = [
                Peak((left + right) / 2, (top + bottom) / 2, part.score)
                for part in parts[: places.points]
                for left, top, right, bottom in [part.box]
            ]
            parts = selected_boxes(parts, rules.boxes)
        if is_tagged and not parts and rules.boxes != "none":
            # The largest part whatever its size, else the whole image.
            parts = find(select="largest", limits=BoxLimits(min_area=0.0))
            parts = parts or [whole_image_box(transform, weight)]
        return peaks, parts

    def _masks(self, image: SeenImage, heat: ScoreMaps, classes: Sequence[int]) -> tuple[Mask, ...]:
        """Of the classes whose maps win pixels; each pixel belongs to one of them or to none.

        `heat` holds the maps of `classes`; that of a background class comes after all others.
        """
        names, places, rules = self.source.class_names, self.places, self.rules
        has_map = all(len(view.maps.values) > len(names) for view in image.views)
        if places.masks == "none":
            return ()
        if rules.background == "class" and not (has_map and self.heat is fused_maps):
            raise SettingError(
                "--background is 'class', and there is no map of a background class",
                remedy="Give threshold or power; or train with --set rules.background=class, "
                "and paint from the plain score maps",
            )
        if not classes:
            return ()
        if rules.background == "class":  # raw scores compete, with one another and with it
            behind = self.heat(image, [len(names)], self.look)
            maps = replace(heat, values=np.concatenate([heat.values, behind.values]))
            background = Background("class")
        else:
            maps, background = _against_a_level(heat, [self.thresholds[k] for k in classes], rules)
        if places.masks == "crf":
            labels = _by_crf(maps, image.picture, background, rules)
        else:
            labels = segment(maps, image_grid(image.picture.size), background=background)
        won = class_masks(without_specks(labels, min_area=places.min_area))
        masks = [(classes[row], rle) for row, rle in won.items()]
        return tuple(Mask(names[k], rle, float(image.probabilities[k])) for k, rle in masks)
