"""Thresholds of a trained run from a few drawn boxes, and the weight of co-occurring classes.

Images are looked at one by one and on the capped grid of the settings, so that memory does not grow
with their size.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import zip_longest
from pathlib import Path

import msgspec
import numpy as np

from weakloc.api.data_sets import Data, opened
from weakloc.api.fused_runs import held_out_of, in_words, scores_and_tags
from weakloc.api.runs import TrainedRun, load_folder
from weakloc.data.sources import ImageSource
from weakloc.errors import DataError, SettingError
from weakloc.geometry import BoxLTRB
from weakloc.localize.calibration import Calibration, DrawnHeat, Tuning, require_boxes
from weakloc.metrics.average_precision import tag_mean_average_precision
from weakloc.predictor.predictor import Predictor
from weakloc.predictor.score_fusion import AlphaChoice, choose_alpha, shares_from_counts
from weakloc.predictor.views import map_scales, see_images
from weakloc.settings import CalibrateSettings, Cut, DataSettings, DrawnBoxes, Look, Places
from weakloc.structures import BrokenImage, DataSet, Sample
from weakloc.training.hub import require_local
from weakloc.training.plan import learned_split
from weakloc.training.run_folder import read_record, save_thresholds, write_record
from weakloc.work import Progress, silent


def calibrate(
    run: str | Path | TrainedRun,
    data: Data,
    settings: CalibrateSettings = CalibrateSettings(),
    *,
    look: Look = Look(),
    cut: Cut = Cut(),
    reading: DataSettings = DataSettings(),
    on_progress: Progress = silent,
) -> TrainedRun:
    """The run with thresholds from as many drawn boxes as are allowed, also on disk."""
    require_boxes(settings.boxes or settings.boxes_per_class)
    trained, data_set = load_folder(run), opened(data, reading)
    require_local(trained.path)
    split, samples = images_to_draw_in(trained, data_set, settings.split)
    predictor = _uncalibrated(trained, look, cut)
    drawn = drawn_images(samples, settings, split, len(trained.class_names))
    tuned = _tuning(predictor, settings).with_boxes(
        drawn_heat(predictor, drawn, on_progress), np.random.default_rng(settings.seed)
    )
    tuned = replace(tuned, maps=predictor.look.localiser, split=split)
    return TrainedRun(save_thresholds(trained.run, msgspec.to_builtins(tuned)))


def images_to_draw_in(
    trained: TrainedRun, data_set: DataSet, split: str | None
) -> tuple[str, Sequence[Sample]]:
    """The split whose boxes may be looked at, None standing for what the run learned from."""
    learned_from, judged = trained.run.settings.train_split, trained.run.settings.val_split
    split = split or learned_split(data_set, learned_from)
    samples = data_set.split(split)
    kept = {sample.name for sample in data_set.splits.get(judged, ())}
    if split != learned_from and any(sample.name in kept for sample in samples):
        raise SettingError(
            f"this would look at the boxes of split {judged!r}, which is kept to judge",
            remedy="Give another --split; 'weakloc calibrate --oracle' says the upper bound",
        )
    return split, samples


def oracle(
    trained: TrainedRun,
    data_set: DataSet,
    settings: CalibrateSettings,
    *,
    look: Look = Look(),
    cut: Cut = Cut(),
    on_progress: Progress = silent,
) -> Calibration:
    """The thresholds that fit the evaluated boxes best: an upper bound, which is never stored."""
    split = settings.split or trained.run.settings.val_split
    predictor = _uncalibrated(trained, look, cut)
    every = replace(settings, boxes=0, boxes_per_class=0)
    drawn = drawn_images(data_set.split(split), every, split, len(trained.class_names))
    tuned = _tuning(predictor, settings).oracle(drawn_heat(predictor, drawn, on_progress))
    return replace(tuned, maps=predictor.look.localiser, split=split)


def drawn_images(
    samples: Sequence[Sample], settings: DrawnBoxes, split: str, num_classes: int
) -> list[DrawnImage]:
    """Images with no more boxes than allowed in all and of each class, the classes in turn.

    Of an image and class either all boxes are taken or none, as a person would draw them.
    """
    queues: list[list[int]] = [[] for _ in range(num_classes)]
    for index in np.random.default_rng(settings.seed).permutation(len(samples)).tolist():
        for class_index in range(num_classes):
            if drawn_boxes(samples[index], class_index):
                queues[class_index].append(index)
    chosen: dict[int, list[int]] = {}
    left = settings.boxes or math.inf
    left_of_class = [settings.boxes_per_class or math.inf] * num_classes
    for turn in zip_longest(*queues):
        for class_index, index in enumerate(turn):
            if index is not None:
                needed = len(drawn_boxes(samples[index], class_index))
                if needed <= min(left, left_of_class[class_index]):
                    left -= needed
                    left_of_class[class_index] -= needed
                    chosen.setdefault(index, []).append(class_index)
    if not chosen:
        reason = f"split {split!r} holds no drawn box"
        remedy = "Name a split that does with --split, or give a review with --labels"
        if any(queues):
            reason = f"every image of split {split!r} has more boxes than may be looked at"
            remedy = "Give more --boxes or --boxes-per-class"
        raise DataError(reason, remedy=remedy)
    return [DrawnImage(samples[index], tuple(chosen[index])) for index in sorted(chosen)]


def _tuning(predictor: Predictor, settings: CalibrateSettings) -> Tuning:
    """Judged by all boxes where the run will name all, else by the largest."""
    rules, boxes = predictor.rules, settings.boxes_of_a_class
    return Tuning(
        num_classes=len(predictor.source.class_names),
        threshold_mode=rules.threshold_mode,
        counted="all" if (rules.boxes if boxes == "auto" else boxes) == "all" else "largest",
        limits=predictor.limits,
        granularity=settings.granularity,
    )


def calibrate_rescoring(
    trained: TrainedRun, data_set: DataSet, *, look: Look = Look(), on_progress: Progress = silent
) -> AlphaChoice:
    """The weight of co-occurring classes with the best classification mAP on held-out images.

    Image-level labels only; the weight and the images that chose it are kept in run.json.
    """
    require_local(trained.path)
    held_out = held_out_of([trained], data_set)
    predictor = trained.predictor(look, Places(rescoring=0.0))
    scores, labels = scores_and_tags(predictor, held_out, on_progress, scores="probabilities")
    shares = shares_from_counts(np.array(trained.run.labels.co_occurrence))
    choice = choose_alpha(scores, labels, shares, tag_mean_average_precision)
    choice = replace(choice, chosen_on=in_words(held_out))
    calibrated = {
        "alpha": choice.alpha,
        "by": f"classification mAP (tags only) of {choice.chosen_on}",
        "mean_average_precision": choice.mean_average_precision,
    }
    write_record(trained.path, {**read_record(trained.path), "rescoring": calibrated})
    return choice


def _uncalibrated(trained: TrainedRun, look: Look, cut: Cut) -> Predictor:
    """Without an earlier calibration, which would set the mode of the threshold."""
    run = TrainedRun(replace(trained.run, thresholds=None))
    predictor = run.predictor(look, Places(**asdict(cut)))
    if predictor.look.localiser == "detector":
        raise SettingError(
            f"the boxes of {trained.path} are its detector's, which no threshold cuts",
            remedy="Give --localiser cells or score_map",
        )
    return predictor


@dataclass(frozen=True)
class DrawnImage:
    """An image and those of its classes whose boxes may be looked at."""

    sample: Sample
    classes: tuple[int, ...]


def drawn_boxes(sample: Sample, class_index: int) -> list[BoxLTRB]:
    """The boxes drawn around single objects of a class that are plain to see."""
    return [
        drawn.box
        for drawn in sample.drawn.boxes
        if drawn.class_index == class_index and not drawn.difficult and not drawn.crowd
    ]


def drawn_heat(
    predictor: Predictor, drawn: Sequence[DrawnImage], on_progress: Progress
) -> Iterator[DrawnHeat]:
    """The heat of each drawn class; images that cannot be read are left out."""
    # Tagged classes are looked for whatever their score, so sizes for scores are not needed.
    scales = map_scales(predictor.look)
    looking = replace(predictor.look, scales=scales, map_scales=scales)
    sources = (ImageSource.of(image.sample) for image in drawn)
    seen_images = see_images(sources, predictor.source, looking)
    for done, (image, drawn_image) in enumerate(zip(seen_images, drawn, strict=True), start=1):
        on_progress(done, len(drawn))
        if isinstance(image, BrokenImage):
            continue
        heat = predictor.heat(image, drawn_image.classes, looking)
        for row, class_index in enumerate(drawn_image.classes):
            boxes = drawn_boxes(drawn_image.sample, class_index)
            yield DrawnHeat(class_index, heat.values[row], heat.transform, boxes)
