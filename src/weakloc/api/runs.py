"""A trained run as something that predicts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Protocol

from weakloc.api.rescored import stored_alpha
from weakloc.config import PredictSettings, TrainSettings
from weakloc.errors import SettingError
from weakloc.localize.beam_search import BeamSettings
from weakloc.localize.calibrate import Calibration
from weakloc.methods.beam import Beam
from weakloc.methods.method import Fuse, Localiser, MapNormalisation
from weakloc.model.losses import SoftmaxLoss
from weakloc.predictor.beam_heat import BeamHeat
from weakloc.predictor.cell_source import CellSource
from weakloc.predictor.co_occurring import Rescoring, shares_from_counts
from weakloc.predictor.heat import HeatMaker, fused_maps, maps_in_words
from weakloc.predictor.network_source import NetworkSource
from weakloc.predictor.predictor import Predictor
from weakloc.predictor.sources import ImageSource, find_images
from weakloc.predictor.tags import read_tags
from weakloc.structures import BrokenImage, Prediction
from weakloc.training.checkpoint import load_run
from weakloc.training.hardware import uses_bf16
from weakloc.training.run import Run

UNCALIBRATED_THRESHOLD = 0.3  # of a map's range; `weakloc calibrate` finds better ones
# Shares of the beam's greatest heat, and the probability that a cell is the object.
UNCALIBRATED = {"beam_search": 0.5, "cells": 0.5}


@dataclass(frozen=True)
class TrainedRun:
    """A run folder, loaded."""

    run: Run

    @property
    def path(self) -> Path:
        return self.run.path

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.run.class_names

    @property
    def calibration(self) -> Calibration | None:
        stored = self.run.thresholds
        return None if stored is None else Calibration.from_json(stored)

    @property
    def hidden_supervision(self) -> int:
        """Drawn boxes or masks that training or selection looked at."""
        return self.run.hidden_supervision

    @property
    def num_boxes_used(self) -> int:
        """Drawn boxes or masks that training, selection or calibration looked at."""
        calibration = self.calibration
        tuning = 0 if calibration is None else calibration.num_boxes_used
        return self.hidden_supervision + tuning

    @property
    def origin_of_thresholds(self) -> dict[str, str | int]:
        """What tuned the thresholds, for whoever keeps a record of predictions."""
        calibration = self.calibration
        tuned = "a fixed value" if calibration is None else calibration.supervision
        return {"thresholds_from": tuned, "num_boxes_used": self.num_boxes_used}

    def predictor(self, settings: PredictSettings | None = None) -> Predictor:
        """What sees images and names places with this run's network, method and thresholds."""
        wanted = self._filled_in(settings or PredictSettings())
        if wanted.rescoring is None:
            wanted = replace(wanted, rescoring=stored_alpha(self.path))
        source = self._source(wanted)
        calibration = self.calibration
        if calibration is not None and wanted.threshold is None:
            self._check_fits(calibration, wanted)
            wanted = replace(wanted, threshold_mode=calibration.threshold_mode)
        return Predictor(
            source,
            wanted,
            thresholds=self._thresholds(wanted),
            heat=self._heat(source, wanted),
            rescore=self._rescoring(wanted),
        )

    def predict(
        self,
        images: str | Path | Sequence[str | Path],
        *,
        tags: str | Path | None = None,
        settings: PredictSettings | None = None,
    ) -> Iterator[Prediction | BrokenImage]:
        """Predictions of a folder, a glob, a list, a table, shards, or of some paths."""
        return predictions_of(self.predictor(settings), images, tags)

    def _filled_in(self, settings: PredictSettings) -> PredictSettings:
        """Everything that was left to the run; cells where it has learned any."""
        if settings.localiser == "auto" and self.run.cells is not None:
            settings = replace(settings, localiser="cells")
        if settings.localiser != "cells":
            return as_the_method_says(settings, self.run.method)
        if self.run.cells is None:
            raise SettingError(
                f"--localiser is cells, and {self.path} has learned none",
                remedy="Run 'weakloc refine' first",
            )
        return replace(
            settings,
            threshold_mode="none",  # heat is a probability already
            fuse="mean" if settings.fuse == "auto" else settings.fuse,
            normalise="none" if settings.normalise == "auto" else settings.normalise,
            scales=settings.scales or (1.0,),
            map_scales=settings.map_scales or settings.scales or (1.0,),
        )

    def _check_fits(self, calibration: Calibration, settings: PredictSettings) -> None:
        asked = maps_in_words(settings)
        if calibration.maps not in ("", asked):
            raise SettingError(
                f"the thresholds of {self.path} were tuned for {calibration.maps}, not for {asked}",
                remedy="Run 'weakloc calibrate' with the same flags, or give --threshold",
            )

    def _source(self, settings: PredictSettings) -> NetworkSource:
        make: Callable[..., NetworkSource] = NetworkSource
        if settings.localiser == "cells" and self.run.cells is not None:
            make = partial(CellSource, self.run.cells)
        return make(
            self.run.network,
            settings,
            class_names=self.run.class_names,
            preprocessing=self.run.preprocessing,
            activation="softmax" if self._is_single_label else "sigmoid",
            uses_bf16=uses_bf16(TrainSettings(precision=settings.precision)),
            levels=() if settings.objectness == "none" else (settings.objectness_stride,),
        )

    @property
    def _is_single_label(self) -> bool:
        loss = self.run.method.build_loss(
            num_classes=len(self.class_names), single_label=self.run.labels.is_single_label
        )
        return isinstance(loss, SoftmaxLoss)

    def _rescoring(self, settings: PredictSettings) -> Rescoring | None:
        if not settings.rescoring:
            return None
        shares = shares_from_counts(self.run.labels.co_occurrence)
        return Rescoring(shares, settings.rescoring)

    def _thresholds(self, settings: PredictSettings) -> tuple[float, ...]:
        calibration = self.calibration
        if calibration is not None:
            return calibration.thresholds
        share = UNCALIBRATED.get(settings.localiser, UNCALIBRATED_THRESHOLD)
        return (share,) * len(self.class_names)

    def _heat(self, source: NetworkSource, settings: PredictSettings) -> HeatMaker:
        if settings.localiser != "beam_search":
            return fused_maps
        method = self.run.method
        return BeamHeat(source, method.search if isinstance(method, Beam) else BeamSettings())


def predictions_of(
    predictor: Predictor,
    images: str | Path | Sequence[str | Path],
    tags: str | Path | None,
) -> Iterator[Prediction | BrokenImage]:
    """One answer an image, in input order; `tags` is a table of what is in them."""
    given = None if tags is None else read_tags(Path(tags), predictor.source.class_names)[0]
    return predictor.predict(_sources(images), given)


def load(path: str | Path) -> TrainedRun:
    """The run in a folder that `weakloc train` wrote."""
    return TrainedRun(load_run(Path(path)))


class WayOfLooking(Protocol):
    """What a method says of how images are looked at."""

    @property
    def score_scales(self) -> tuple[float, ...]: ...
    @property
    def map_scales(self) -> tuple[float, ...]: ...
    @property
    def map_fuse(self) -> Fuse: ...
    @property
    def map_normalisation(self) -> MapNormalisation: ...
    @property
    def localiser(self) -> Localiser: ...


def as_the_method_says(settings: PredictSettings, method: WayOfLooking) -> PredictSettings:
    """The settings with everything that was left to the method filled in."""
    own_scales = bool(settings.scales)
    fixed = method.localiser == "beam_search" or settings.localiser == "beam_search"
    filled = replace(
        settings,
        scales=settings.scales or method.score_scales,
        map_scales=settings.map_scales or (settings.scales if own_scales else method.map_scales),
        fuse=method.map_fuse if settings.fuse == "auto" else settings.fuse,
        normalise=method.map_normalisation if settings.normalise == "auto" else settings.normalise,
        localiser=method.localiser if settings.localiser == "auto" else settings.localiser,
    )
    if fixed and set(filled.scales) != {1.0}:
        raise SettingError(
            f"--scales is {filled.scales} but this method sees images at one size",
            remedy="Leave out --scales: the search looks at parts of the image instead",
        )
    return filled


def _sources(images: str | Path | Sequence[str | Path]) -> Iterator[ImageSource]:
    if isinstance(images, str | Path):
        return find_images(str(images))
    return (ImageSource(str(path).replace("\\", "/"), str(path)) for path in images)
