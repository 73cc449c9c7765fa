"""Thresholds and rescoring of a trained run, from tags alone or from a few drawn boxes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from weakloc.api.runs import TrainedRun, save_alpha
from weakloc.data.sources import ImageSource
from weakloc.errors import DataError, SettingError
from weakloc.geometry import FloatArray
from weakloc.localize import calibration as thresholds
from weakloc.localize.calibration import Calibration, Granularity
from weakloc.localize.rescoring import AlphaChoice, choose_alpha, shares_from_counts
from weakloc.localize.thresholds import Counted, Rule
from weakloc.metrics.average_precision import tag_mean_average_precision
from weakloc.predictor.places import least_share
from weakloc.predictor.predictor import Predictor, maps_in_words
from weakloc.predictor.tuning_heat import (
    DrawnImage,
    choose_drawn,
    drawn_boxes,
    drawn_heat,
    viewed_heat,
)
from weakloc.settings import Look, Places
from weakloc.structures import PRESENT, BrokenImage, DataSet, LabelMatrix, Sample
from weakloc.training.run_folder import save_thresholds
from weakloc.training.splits import divide
from weakloc.work import Progress, silent

RuleChoice: TypeAlias = Literal["auto", "fixed", "otsu", "mean_ratio", "area_prior", "stability"]
MOST_IMAGES = 500


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What thresholds are tuned on, and how.

    `num_boxes` of drawn boxes, or none and then by `rule`, where auto takes the rule whose boxes
    other sizes and the mirrored image agree on best.
    """

    split: str = "train"
    num_boxes: int = 0
    rule: RuleChoice = "auto"
    granularity: Granularity = "class"
    most_images: int = MOST_IMAGES
    seed: int = 0

    def __post_init__(self) -> None:
        if self.num_boxes < 0:
            raise SettingError(f"--boxes is {self.num_boxes}", remedy="Give 5 to 50, or leave out")
        if self.most_images < 1:
            raise SettingError(f"--most-images is {self.most_images}", remedy="Give 1 or more")
        if self.num_boxes and self.rule != "auto":
            raise SettingError(
                f"--rule is {self.rule!r} and --boxes is {self.num_boxes}",
                remedy="Drawn boxes need no rule: leave out one of them",
            )


def calibrate(
    trained: TrainedRun,
    data_set: DataSet,
    plan: Plan = Plan(),
    *,
    look: Look = Look(),
    places: Places = Places(),
    on_progress: Progress = silent,
) -> TrainedRun:
    """The run with thresholds, also on disk; drawn boxes are looked at only if asked for."""
    samples = data_set.split(plan.split)
    predictor = _uncalibrated(trained).predictor(look, places)
    if plan.num_boxes:
        if plan.split == trained.run.settings.val_split:
            raise SettingError(
                f"--boxes would look at the boxes of split {plan.split!r}, which is kept to judge",
                remedy="Give another --split, or --oracle for the upper bound",
            )
        found = _with_boxes(predictor, samples, plan, on_progress)
    else:
        found = _without_boxes(predictor, samples, plan, on_progress)
    return TrainedRun(save_thresholds(trained.run, _for_its_maps(found, predictor).to_json()))


def oracle(
    trained: TrainedRun,
    data_set: DataSet,
    plan: Plan,
    *,
    look: Look = Look(),
    places: Places = Places(),
    on_progress: Progress = silent,
) -> Calibration:
    """The thresholds that fit the evaluated boxes best: an upper bound, which is never stored."""
    predictor = _uncalibrated(trained).predictor(look, places)
    drawn = _drawn(data_set.split(plan.split), predictor, plan, None)
    found = thresholds.calibrate_oracle(
        drawn_heat(predictor, drawn, _counter(on_progress, len(drawn))),
        len(trained.class_names),
        threshold_mode=predictor.places.threshold_mode,
        counted=_counted(predictor.places),
        min_share=least_share(predictor.places, predictor.look.localiser),
        granularity=plan.granularity,
    )
    return _for_its_maps(found, predictor)


def _for_its_maps(found: Calibration, predictor: Predictor) -> Calibration:
    return replace(found, maps=maps_in_words(predictor.look))


def calibrate_rescoring(
    trained: TrainedRun,
    data_set: DataSet,
    *,
    look: Look = Look(),
    places: Places = Places(),
    on_progress: Progress = silent,
) -> AlphaChoice:
    """The weight of co-occurring classes with the best classification mAP on the watched images.

    Image-level labels only; the weight and the images that chose it are kept in run.json.
    """
    division = divide(data_set, trained.run.settings)
    if not division.watched:
        raise DataError(
            "no images are kept back whose tags could choose the weight of other classes",
            where=str(data_set.root),
            remedy="Give the data a validation split",
        )
    predictor = trained.predictor(look, replace(places, rescoring=0.0))
    scores, labels = _scores(predictor, division.watched, on_progress)
    shares = shares_from_counts(trained.run.labels.co_occurrence)
    choice = choose_alpha(scores, labels, shares, tag_mean_average_precision)
    save_alpha(trained.path, choice, watched=division.watched_name)
    return choice


def _with_boxes(
    predictor: Predictor, samples: Sequence[Sample], plan: Plan, on_progress: Progress
) -> Calibration:
    drawn = _drawn(samples, predictor, plan, plan.num_boxes)
    return thresholds.calibrate_with_boxes(
        drawn_heat(predictor, drawn, _counter(on_progress, len(drawn))),
        len(predictor.source.class_names),
        threshold_mode=predictor.places.threshold_mode,
        random=np.random.default_rng(plan.seed),
        counted=_counted(predictor.places),
        min_share=least_share(predictor.places, predictor.look.localiser),
        granularity=plan.granularity,
    )


def _without_boxes(
    predictor: Predictor, samples: Sequence[Sample], plan: Plan, on_progress: Progress
) -> Calibration:
    tagged = [sample for sample in samples if (sample.labels == PRESENT).any()]
    if not tagged:
        raise DataError(f"no image of split {plan.split!r} has a tag")
    order = np.random.default_rng(plan.seed).permutation(len(tagged))[: plan.most_images]
    chosen = [tagged[index] for index in sorted(order.tolist())]
    viewed = viewed_heat(predictor, chosen, _counter(on_progress, len(chosen)))
    num_classes = len(predictor.source.class_names)
    mode, granularity = predictor.places.threshold_mode, plan.granularity
    rule: Rule | None = None if plan.rule == "auto" else plan.rule
    return thresholds.calibrate_without_boxes(
        viewed, num_classes, rule=rule, threshold_mode=mode, granularity=granularity
    )


def _drawn(
    samples: Sequence[Sample], predictor: Predictor, plan: Plan, num_boxes: int | None
) -> list[DrawnImage]:
    num_classes = len(predictor.source.class_names)
    random = np.random.default_rng(plan.seed)
    drawn = choose_drawn(samples, num_classes, num_boxes, random)
    if not drawn:
        there = any(drawn_boxes(s, index) for s in samples for index in range(num_classes))
        raise DataError(
            f"split {plan.split!r} holds no drawn box"
            if not there
            else f"every image of split {plan.split!r} has more than {num_boxes} boxes",
            remedy="Leave out --boxes to tune on tags alone" if not there else "Give more --boxes",
        )
    return drawn


def _counted(places: Places) -> Counted:
    """What is judged while tuning: all boxes where the run will name all, else the largest."""
    return "all" if places.boxes == "all" else "largest"


def _uncalibrated(trained: TrainedRun) -> TrainedRun:
    """Without an earlier calibration, which would set the mode of the threshold."""
    return TrainedRun(replace(trained.run, thresholds=None))


def _counter(on_progress: Progress, total: int) -> Callable[[], None]:
    done = 0

    def count() -> None:
        nonlocal done
        done += 1
        on_progress(done, total)

    return count


def _scores(
    predictor: Predictor, samples: Sequence[Sample], on_progress: Progress
) -> tuple[FloatArray, LabelMatrix]:
    """The probabilities (N, C) and labels (N, C) of the images that can be read."""
    count = _counter(on_progress, len(samples))
    scores: list[NDArray[np.float64]] = []
    labels = []
    sources = (ImageSource(sample.name, sample.path) for sample in samples)
    for seen, sample in zip(predictor.see(sources), samples, strict=True):
        count()
        if not isinstance(seen, BrokenImage):
            scores.append(seen.probabilities)
            labels.append(sample.labels)
    num_classes = len(predictor.source.class_names)
    matrix = np.array(scores).reshape(-1, num_classes)
    return matrix, np.array(labels, dtype=np.int8).reshape(-1, num_classes)
