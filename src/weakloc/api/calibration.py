"""Thresholds of a trained run from a few drawn boxes, and the weight of co-occurring classes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from weakloc.api.data_sets import Data, opened
from weakloc.api.fused_runs import held_out_of, in_words, scores_and_tags
from weakloc.api.runs import TrainedRun, opened_run, save_alpha
from weakloc.errors import DataError, SettingError
from weakloc.localize.calibration import (
    Calibration,
    ComponentLimits,
    DrawnHeat,
    calibrate_oracle,
    calibrate_with_boxes,
    require_boxes,
)
from weakloc.metrics.average_precision import tag_mean_average_precision
from weakloc.predictor.calibration_heat import choose_drawn, drawn_boxes, drawn_heat
from weakloc.predictor.predictor import Predictor
from weakloc.predictor.score_fusion import AlphaChoice, choose_alpha, shares_from_counts
from weakloc.settings import CalibrateSettings, Cut, DataSettings, Look, Places
from weakloc.structures import DataSet, Sample
from weakloc.training.plan import learned_split
from weakloc.training.run_folder import save_thresholds
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
    trained, data_set = opened_run(run), opened(data, reading)
    learned_from, judged = trained.run.settings.train_split, trained.run.settings.val_split
    split = settings.split or learned_split(data_set, learned_from)
    samples = data_set.split(split)
    tuning = _Tuning(_uncalibrated(trained, look, cut), settings, split, on_progress)
    kept = {sample.name for sample in data_set.splits.get(judged, ())}
    if split != learned_from and any(sample.name in kept for sample in samples):
        raise SettingError(
            f"this would look at the boxes of split {judged!r}, which is kept to judge",
            remedy="Give another --split, or --oracle for the upper bound",
        )
    return TrainedRun(save_thresholds(trained.run, tuning.with_boxes(samples).to_json()))


def oracle(
    run: str | Path | TrainedRun,
    data: Data,
    settings: CalibrateSettings = CalibrateSettings(),
    *,
    look: Look = Look(),
    cut: Cut = Cut(),
    reading: DataSettings = DataSettings(),
    on_progress: Progress = silent,
) -> Calibration:
    """The thresholds that fit the evaluated boxes best: an upper bound, which is never stored."""
    trained, data_set = opened_run(run), opened(data, reading)
    split = settings.split or trained.run.settings.val_split
    tuning = _Tuning(_uncalibrated(trained, look, cut), settings, split, on_progress)
    return tuning.oracle(data_set.split(split))


@dataclass(frozen=True)
class _Tuning:
    """How one run looks at the images of one split, and what is kept of its maps."""

    predictor: Predictor
    settings: CalibrateSettings
    split: str
    on_progress: Progress

    def with_boxes(self, samples: Sequence[Sample]) -> Calibration:
        heat = self._drawn_heat(
            samples,
            most_boxes=self.settings.boxes or math.inf,
            most_of_class=self.settings.boxes_per_class or math.inf,
        )
        random = np.random.default_rng(self.settings.seed)
        return self._named(calibrate_with_boxes(heat, random=random, **self._conditions))

    def oracle(self, samples: Sequence[Sample]) -> Calibration:
        return self._named(calibrate_oracle(self._drawn_heat(samples), **self._conditions))

    def _drawn_heat(
        self,
        samples: Sequence[Sample],
        *,
        most_boxes: float = math.inf,
        most_of_class: float = math.inf,
    ) -> Iterator[DrawnHeat]:
        num_classes = len(self.predictor.source.class_names)
        random = np.random.default_rng(self.settings.seed)
        drawn = choose_drawn(
            samples, num_classes, random, most_boxes=most_boxes, most_of_class=most_of_class
        )
        if not drawn:
            is_drawn = any(drawn_boxes(s, index) for s in samples for index in range(num_classes))
            raise DataError(
                f"every image of split {self.split!r} has more boxes than may be looked at"
                if is_drawn
                else f"split {self.split!r} holds no drawn box",
                remedy="Give more --boxes or --boxes-per-class"
                if is_drawn
                else "Name a split that does with --split, or give a review with --labels",
            )
        return drawn_heat(self.predictor, drawn, self.on_progress)

    @property
    def _conditions(self) -> dict[str, Any]:
        """Judged by all boxes where the run will name all, else by the largest."""
        places, rules = self.predictor.places, self.predictor.rules
        boxes = self.settings.boxes_of_a_class
        return {
            "num_classes": len(self.predictor.source.class_names),
            "counted": "all" if (rules.boxes if boxes == "auto" else boxes) == "all" else "largest",
            "threshold_mode": rules.threshold_mode,
            "limits": ComponentLimits(
                min_area=places.min_area, max_area=places.max_area, min_share=rules.min_share
            ),
            "granularity": self.settings.granularity,
        }

    def _named(self, tuned: Calibration) -> Calibration:
        return replace(tuned, maps=self.predictor.look.localiser, split=self.split)


def calibrate_rescoring(
    trained: TrainedRun,
    data_set: DataSet,
    *,
    look: Look = Look(),
    on_progress: Progress = silent,
) -> AlphaChoice:
    """The weight of co-occurring classes with the best classification mAP on held-out images.

    Image-level labels only; the weight and the images that chose it are kept in run.json.
    """
    held_out = held_out_of([trained], data_set)
    predictor = trained.predictor(look, Places(rescoring=0.0))
    scores, labels = scores_and_tags(predictor, held_out, on_progress, scores="probabilities")
    shares = shares_from_counts(trained.run.labels.co_occurrence)
    choice = choose_alpha(scores, labels, shares, tag_mean_average_precision)
    choice = replace(choice, chosen_on=in_words(held_out))
    save_alpha(trained.path, choice)
    return choice


def _uncalibrated(trained: TrainedRun, look: Look, cut: Cut) -> Predictor:
    """Without an earlier calibration, which would set the mode of the threshold."""
    run = TrainedRun(replace(trained.run, thresholds=None))
    return run.predictor(look, Places(**asdict(cut)))
