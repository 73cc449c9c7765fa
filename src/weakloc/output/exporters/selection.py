"""What of the predictions is exported: thresholds, the best few, tagged classes only."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, TypeAlias, TypeVar

from weakloc.config import ExportOptions
from weakloc.errors import PredictionsError, did_you_mean
from weakloc.structures import Box, Mask, Point, Prediction

MaskForm: TypeAlias = Literal["rle", "polygon"]
Place = TypeVar("Place", Point, Box, Mask)


@dataclass(frozen=True)
class Content:
    """What an exporter writes: predictions that were selected, and what is said besides."""

    predictions: Iterable[Prediction]
    class_names: Sequence[str]
    image_root: Path | None
    options: ExportOptions


def selected(
    predictions: Iterable[Prediction], *, class_names: Sequence[str], options: ExportOptions
) -> Iterator[Prediction]:
    """Each prediction with the places that the options let through, best first where cut."""
    known = frozenset(class_names)
    is_everything = options.score_threshold <= 0 and not options.tagged_only
    is_everything &= options.best_per_class is None and options.best_per_image is None
    for prediction in predictions:
        _check_classes(prediction, known)
        yield prediction if is_everything else _select(prediction, options)


def _check_classes(prediction: Prediction, known: frozenset[str]) -> None:
    for places in (prediction.points, prediction.boxes, prediction.masks):
        for place in places:
            if place.class_name not in known:
                raise PredictionsError(
                    f"there is no class {place.class_name!r}",
                    where=prediction.image,
                    remedy=did_you_mean(place.class_name, known),
                )


def _select(prediction: Prediction, options: ExportOptions) -> Prediction:
    wanted = _wanted_classes(prediction, options)

    def choose(places: Sequence[Place]) -> tuple[Place, ...]:
        return _choose(places, wanted, options)

    return replace(
        prediction,
        points=choose(prediction.points),
        boxes=choose(prediction.boxes),
        masks=choose(prediction.masks),
    )


def _wanted_classes(prediction: Prediction, options: ExportOptions) -> Callable[[str], bool]:
    if not options.tagged_only:
        return lambda _: True
    tags = prediction.extra.get("tags")
    if not isinstance(tags, list | tuple):
        raise PredictionsError(
            "was predicted without tags, and only tagged classes are asked for",
            where=prediction.image,
            remedy="Predict with --tags",
        )
    return frozenset(tags).__contains__


def _choose(
    places: Sequence[Place], is_wanted: Callable[[str], bool], options: ExportOptions
) -> tuple[Place, ...]:
    """Keeps the given order; among equal scores the first come is the better."""
    ranked = sorted(range(len(places)), key=lambda index: (-places[index].score, index))
    counts: dict[str, int] = {}
    kept: list[int] = []
    for index in ranked:
        place = places[index]
        if place.score < options.score_threshold or not is_wanted(place.class_name):
            continue
        counts[place.class_name] = counts.get(place.class_name, 0) + 1
        if options.best_per_class is None or counts[place.class_name] <= options.best_per_class:
            kept.append(index)
    return tuple(places[index] for index in sorted(kept[: options.best_per_image]))
