"""A trained run as something that predicts."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from weakloc import __version__
from weakloc.api.classifiers import TIMM, timm_predictor
from weakloc.data.sources import ImageSource, find_images
from weakloc.errors import DataError, RunError, SettingError
from weakloc.files import write_whole
from weakloc.geometry import FloatArray
from weakloc.localize.beam_search import BeamSettings
from weakloc.localize.calibration import Calibration
from weakloc.localize.rescoring import AlphaChoice, shares_from_counts
from weakloc.methods.beam import Beam
from weakloc.methods.method import Fuse, Localiser, MapNormalisation
from weakloc.metrics.average_precision import tag_mean_average_precision
from weakloc.model.losses import SoftmaxLoss
from weakloc.predictor.beam_heat import BeamHeat
from weakloc.predictor.network_source import CellSource, NetworkSource
from weakloc.predictor.onnx_export import ExportedFile, write_onnx
from weakloc.predictor.onnx_source import Looking, OnnxRecord, OnnxSource, pairs_of
from weakloc.predictor.places import read_tags
from weakloc.predictor.predictor import HeatMaker, Predictor, fused_maps, maps_in_words
from weakloc.predictor.score_fusion import (
    LateClassifier,
    Member,
    Rescoring,
    fit_late_classifier,
    joint_look,
    mean_scores,
    see_with_all,
)
from weakloc.predictor.views import SeenImage
from weakloc.settings import Look, Places, require
from weakloc.structures import BrokenImage, DataSet, Prediction, Sample
from weakloc.training.plan import divide, uses_bf16
from weakloc.training.run_folder import RECORD_NAME, Run, load_run, read_record, write_record
from weakloc.work import Progress, silent

KEY = "rescoring"


def save_alpha(run_folder: Path, choice: AlphaChoice, *, watched: str) -> None:
    found = {
        "alpha": choice.alpha,
        "by": f"classification mAP (tags only) of {watched}",
        "mean_average_precision": choice.mean_average_precision,
    }
    write_record(run_folder, {**read_record(run_folder), KEY: found})


def stored_alpha(run_folder: Path) -> float:
    """0 where nothing was calibrated."""
    found = read_record(run_folder).get(KEY)
    return 0.0 if found is None else float(found["alpha"])


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
        if self.run.thresholds is None:
            return None
        try:
            return Calibration.from_json(self.run.thresholds)
        except ValueError as error:
            raise RunError(
                f"its thresholds are damaged ({error})",
                where=str(self.path / RECORD_NAME),
                remedy="Calibrate again",
            ) from error

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

    def predictor(self, look: Look = Look(), places: Places = Places()) -> Predictor:
        """What sees images and names places with this run's network, method and thresholds."""
        look = self._filled_in(look)
        if look.localiser == "cells":
            places = replace(places, threshold_mode="none")  # heat is a probability already
        if places.rescoring is None:
            places = replace(places, rescoring=stored_alpha(self.path))
        source = self._source(look)
        calibration = self.calibration
        if calibration is not None and places.threshold is None:
            self._check_fits(calibration, look)
            places = replace(places, threshold_mode=calibration.threshold_mode)
        return Predictor(
            source,
            look,
            places,
            thresholds=self._thresholds(look),
            heat=self._heat(source, look),
            rescore=self._rescoring(places),
        )

    def predict(
        self,
        images: str | Path | Sequence[str | Path],
        *,
        tags: str | Path | None = None,
        look: Look = Look(),
        places: Places = Places(),
    ) -> Iterator[Prediction | BrokenImage]:
        """Predictions of a folder, a glob, a list, a table, shards, or of some paths."""
        return predictions_of(self.predictor(look, places), images, tags)

    def _filled_in(self, look: Look) -> Look:
        """Everything that was left to the run; cells where it has learned any."""
        if look.localiser == "auto" and self.run.cells is not None:
            look = replace(look, localiser="cells")
        if look.localiser != "cells":
            return as_the_method_says(look, self.run.method)
        if self.run.cells is None:
            raise SettingError(
                f"--localiser is cells, and {self.path} has learned none",
                remedy="Run 'weakloc refine' first",
            )
        return replace(
            look,
            fuse="mean" if look.fuse == "auto" else look.fuse,
            normalise="none" if look.normalise == "auto" else look.normalise,
            scales=look.scales or (1.0,),
            map_scales=look.map_scales or look.scales or (1.0,),
        )

    def _check_fits(self, calibration: Calibration, look: Look) -> None:
        asked = maps_in_words(look)
        if calibration.maps not in ("", asked):
            raise SettingError(
                f"the thresholds of {self.path} were tuned for {calibration.maps}, not for {asked}",
                remedy="Run 'weakloc calibrate' with the same flags, or give --threshold",
            )

    def _source(self, look: Look) -> NetworkSource:
        make: Callable[..., NetworkSource] = NetworkSource
        if look.localiser == "cells" and self.run.cells is not None:
            make = partial(CellSource, self.run.cells)
        return make(
            self.run.network,
            look,
            class_names=self.run.class_names,
            preprocessing=self.run.preprocessing,
            activation="softmax" if self._is_single_label else "sigmoid",
            uses_bf16=uses_bf16(look.precision),
            levels=() if look.objectness == "none" else (look.objectness_stride,),
        )

    @property
    def _is_single_label(self) -> bool:
        loss = self.run.method.build_loss(
            num_classes=len(self.class_names), single_label=self.run.labels.is_single_label
        )
        return isinstance(loss, SoftmaxLoss)

    def _rescoring(self, places: Places) -> Rescoring | None:
        if not places.rescoring:
            return None
        shares = shares_from_counts(self.run.labels.co_occurrence)
        return Rescoring(shares, places.rescoring)

    def _thresholds(self, look: Look) -> tuple[float, ...]:
        calibration = self.calibration
        if calibration is not None:
            return calibration.thresholds
        share = UNCALIBRATED.get(look.localiser, UNCALIBRATED_THRESHOLD)
        return (share,) * len(self.class_names)

    def _heat(self, source: NetworkSource, look: Look) -> HeatMaker:
        if look.localiser != "beam_search":
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
    if isinstance(images, str | Path):
        return predictor.predict(find_images(str(images)), given)
    sources = (ImageSource(str(path).replace("\\", "/"), str(path)) for path in images)
    return predictor.predict(sources, given)


def load_folder(path: str | Path) -> TrainedRun:
    """The run in a folder that `weakloc train` wrote."""
    return TrainedRun(load_run(Path(path)))


def opened_run(run: str | Path | TrainedRun) -> TrainedRun:
    """What a verb is given as its run, which may have been loaded already."""
    return run if isinstance(run, TrainedRun) else load_folder(run)


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


def as_the_method_says(look: Look, method: WayOfLooking) -> Look:
    """The look with everything that was left to the method filled in."""
    fixed = method.localiser == "beam_search" or look.localiser == "beam_search"
    filled = replace(
        look,
        scales=look.scales or method.score_scales,
        map_scales=look.map_scales or look.scales or method.map_scales,
        fuse=method.map_fuse if look.fuse == "auto" else look.fuse,
        normalise=method.map_normalisation if look.normalise == "auto" else look.normalise,
        localiser=method.localiser if look.localiser == "auto" else look.localiser,
    )
    if fixed and set(filled.scales) != {1.0}:
        raise SettingError(
            f"--scales is {filled.scales} but this method sees images at one size",
            remedy="Leave out --scales: the search looks at parts of the image instead",
        )
    return filled


SUFFIX = ".onnx"


@dataclass(frozen=True)
class ExportedNetwork:
    """A file of `weakloc export`, loaded."""

    source: OnnxSource

    @property
    def path(self) -> Path:
        return self.source.path

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.source.class_names

    @property
    def hidden_supervision(self) -> int:
        """Drawn boxes or masks that training or selection looked at."""
        return self.record.hidden_supervision

    @property
    def num_boxes_used(self) -> int:
        """Drawn boxes or masks that training, selection or calibration looked at."""
        return self.record.num_boxes_used

    @property
    def origin_of_thresholds(self) -> dict[str, str | int]:
        """What tuned the thresholds, for whoever keeps a record of predictions."""
        return {
            "thresholds_from": self.record.thresholds_from,
            "num_boxes_used": self.num_boxes_used,
        }

    @property
    def record(self) -> OnnxRecord:
        return self.source.record

    def predictor(self, look: Look = Look(), places: Places = Places()) -> Predictor:
        """What names the places that the exported run would name."""
        record = self.record
        look = as_the_method_says(look, record.looking)
        _require_what_the_file_holds(look)
        if places.rescoring is None:
            places = replace(places, rescoring=record.rescoring)
        if record.threshold_mode is not None and places.threshold is None:
            places = replace(places, threshold_mode=record.threshold_mode)
        rescoring = None
        if places.rescoring:
            rescoring = Rescoring(shares_from_counts(record.co_occurrence()), places.rescoring)
        return Predictor(self.source, look, places, thresholds=record.thresholds, rescore=rescoring)

    def predict(
        self,
        images: str | Path | Sequence[str | Path],
        *,
        tags: str | Path | None = None,
        look: Look = Look(),
        places: Places = Places(),
    ) -> Iterator[Prediction | BrokenImage]:
        """Predictions of a folder, a glob, a list, a table, shards, or of some paths."""
        return predictions_of(self.predictor(look, places), images, tags)


def export(run: str | Path | TrainedRun, out: str | Path) -> ExportedFile:
    """The run's network with all that is needed to use it, as one file checked against it."""
    trained, out = opened_run(run), Path(out)
    if out.suffix != SUFFIX:
        raise SettingError(
            f"--out is {str(out)!r}", remedy=f"Give the file a name that ends in {SUFFIX}"
        )
    return write_onnx(trained.run.network, out, describe(trained))


def describe(run: TrainedRun) -> OnnxRecord:
    """What the file will say of itself."""
    # The file's places are looked for in its maps, whatever the method does.
    predictor = run.predictor(Look(localiser="score_map"))
    calibration = run.calibration
    method, backbone = run.run.method, run.run.network.backbone
    return OnnxRecord(
        class_names=run.class_names,
        activation=predictor.source.activation,
        method=method.name,
        preprocessing=run.run.preprocessing,
        geometry=backbone.geometry,
        looking=Looking(
            method.score_scales,
            method.map_scales,
            method.map_fuse,
            method.map_normalisation,
            method.localiser,
        ),
        thresholds=predictor.locating.thresholds,
        threshold_mode=None if calibration is None else predictor.places.threshold_mode,
        thresholds_from=str(run.origin_of_thresholds["thresholds_from"]),
        num_boxes_used=run.num_boxes_used,
        hidden_supervision=run.hidden_supervision,
        smallest_side=backbone.min_input,
        version=__version__,
        rescoring=predictor.places.rescoring or 0.0,
        together=pairs_of(run.run.labels.co_occurrence),
    )


def _require_what_the_file_holds(look: Look) -> None:
    require(
        look.localiser == "score_map",
        "localiser",
        look.localiser,
        "The file holds no network for parts of an image: give score_map, or predict with the run",
    )
    require(
        look.objectness == "none",
        "objectness",
        look.objectness,
        "The file gives no feature maps: leave it out, or predict with the run",
    )
    require(not look.compile, "compile", look.compile, "An ONNX file is compiled already")
    require(
        look.precision != "bf16",
        "precision",
        look.precision,
        "An ONNX file computes in fp32: leave it out",
    )


FILE_NAME = "fusion.npz"


@dataclass(frozen=True)
class FusedRuns:
    """Runs whose maps and scores become one; what was fitted for them lies in the first."""

    runs: tuple[TrainedRun, ...]

    def __post_init__(self) -> None:
        first = self.runs[0]
        for run in self.runs[1:]:
            if run.class_names != first.class_names:
                raise RunError(
                    f"it has other classes than {first.path}",
                    where=str(run.path),
                    remedy="Fuse runs that were trained on the same classes, in the same order",
                )

    def predictor(self, look: Look = Look(), places: Places = Places()) -> Predictor:
        """Scores by the fitted late classifier where there is one, else their mean."""
        predictors = self._predictors(look, places)
        members = [Member(own.source, own.look) for own in predictors]
        thresholds = np.mean([own.locating.thresholds for own in predictors], axis=0)
        late = self.late_classifier()
        fuse_scores = late or mean_scores(members[0].source.activation)
        return Predictor(
            members[0].source,
            joint_look(members),
            predictors[0].places,
            thresholds=thresholds.tolist(),
            rescore=predictors[0].rescore,
            seer=partial(see_with_all, members=members, fuse_scores=fuse_scores),
        )

    def late_classifier(self) -> LateClassifier | None:
        """What was fitted for exactly these networks in this order, if anything was."""
        path = self.runs[0].path / FILE_NAME
        if not path.is_file():
            return None
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as stored:
            if stored["networks"].tolist() != self._digests():
                return None
            return LateClassifier(
                **{name: stored[name] for name in ("means", "spreads", "weights", "biases")}
            )

    def fit(
        self,
        data_set: DataSet,
        *,
        split: str | None = None,
        look: Look = Look(),
        on_progress: Progress = silent,
    ) -> dict[str, float]:
        """Fits and keeps the late classifier; the classification mAP of every way to score.

        By tags alone, of the images kept back in training or, where those are a split of their
        own, of the training images. The late classifier is judged on one half of the images after
        it was fitted on the other.
        """
        samples = self._fitted_on(data_set, split)
        members = [Member(own.source, own.look) for own in self._predictors(look, Places())]
        logits, labels = _scores(members, samples, on_progress)
        if len(logits) < 2:
            raise DataError("there are too few images to fit a classifier of scores on")
        self._save(fit_late_classifier(logits, labels))
        found = {
            str(run.path): tag_mean_average_precision(logits[:, index], labels)
            for index, run in enumerate(self.runs)
        }
        late = np.zeros((len(logits), labels.shape[1]))
        halves = slice(0, None, 2), slice(1, None, 2)
        for fitted, judged in (halves, halves[::-1]):
            classifier = fit_late_classifier(logits[fitted], labels[fitted])
            late[judged] = [classifier(row) for row in logits[judged]]
        return {
            **found,
            "mean of scores": tag_mean_average_precision(logits.mean(axis=1), labels),
            "late classifier": tag_mean_average_precision(late, labels),
        }

    def _predictors(self, look: Look, places: Places) -> list[Predictor]:
        predictors = [run.predictor(look, places) for run in self.runs]
        for own, run in zip(predictors, self.runs, strict=True):
            if own.look.localiser == "beam_search":
                raise SettingError(
                    "runs that search for places have no maps to fuse",
                    where=str(run.path),
                    remedy="Fuse runs of other methods, or give --localiser score_map",
                )
        return predictors

    def _fitted_on(self, data_set: DataSet, split: str | None) -> Sequence[Sample]:
        own = self.runs[0].run.settings
        if split is not None:
            found: Sequence[Sample] = data_set.splits.get(split, ())
        elif data_set.splits.get(own.val_split):
            found = data_set.splits.get(own.train_split, ())
        else:
            found = divide(data_set, own).watched
        if not found:
            raise DataError("there are no images to fit on", where=str(data_set.root))
        return found

    def _digests(self) -> list[str]:
        return [
            hashlib.sha256((run.path / "model.safetensors").read_bytes()).hexdigest()
            for run in self.runs
        ]

    def _save(self, classifier: LateClassifier) -> None:
        with write_whole(self.runs[0].path / FILE_NAME) as temporary:
            np.savez_compressed(temporary, networks=self._digests(), **asdict(classifier))


def _scores(
    members: Sequence[Member], samples: Sequence[Sample], on_progress: Progress
) -> tuple[FloatArray, NDArray[np.int8]]:
    """(N, S, C) raw scores and (N, C) tags of the images that can be read."""
    rows: list[FloatArray] = []
    labels = []
    kept: list[FloatArray] = []

    def keep(logits: FloatArray) -> FloatArray:
        kept.append(logits)
        return mean_scores("sigmoid")(logits)

    seen: Iterator[SeenImage | BrokenImage] = see_with_all(
        (ImageSource(sample.name, sample.path) for sample in samples), members, keep
    )
    for done, (answer, sample) in enumerate(zip(seen, samples, strict=True), start=1):
        on_progress(done, len(samples))
        if not isinstance(answer, BrokenImage):
            rows.append(kept.pop())
            labels.append(sample.labels)
    num_classes = len(members[0].source.class_names)
    stacked = np.array(rows).reshape(-1, len(members), num_classes)
    return stacked, np.array(labels, dtype=np.int8).reshape(-1, num_classes)


def load(run: str | Path) -> TrainedRun | ExportedNetwork:
    """A run: the folder that `weakloc train` wrote, or a file of `weakloc export`."""
    path = Path(run)
    return ExportedNetwork(OnnxSource(path)) if path.suffix == SUFFIX else load_folder(path)


def predictor_of(
    run: str, also: Sequence[str], look: Look, places: Places
) -> tuple[Predictor, dict[str, Any]]:
    """The predictor of a run folder, an exported file or `timm:NAME`, and a record of its origin.

    `also` are further runs on the same classes; all their maps and scores become one.
    """
    if also:
        return _fused(run, also, look, places)
    if run.startswith(TIMM):
        return timm_predictor(run, look, places), {"run": run, "thresholds_from": "fixed 0.2"}
    loaded = load(run)
    return loaded.predictor(look, places), {"run": run, **loaded.origin_of_thresholds}


def _fused(
    run: str, also: Sequence[str], look: Look, places: Places
) -> tuple[Predictor, dict[str, Any]]:
    runs = tuple(load_folder(path) for path in (run, *also))
    fused = FusedRuns(runs)
    scores_from = "mean of scores" if fused.late_classifier() is None else "late classifier"
    described = {
        "run": run,
        "also": list(also),
        "scores_from": scores_from,
        "thresholds_from": "mean of the runs'",
        "num_boxes_used": sum(each.num_boxes_used for each in runs),
    }
    return fused.predictor(look, places), described


def version_of(predictor: Predictor, runs: Sequence[str]) -> str:
    """A short name that changes when the predictions may: with the runs or with the settings."""
    digest = hashlib.sha256(repr(predictor.settings).encode())
    for run in runs:
        for path in _files_of(Path(run)):
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
    first = runs[0] if runs[0].startswith(TIMM) else Path(runs[0]).resolve().stem
    return f"{first.removeprefix(TIMM)}-{digest.hexdigest()[:8]}"


def _files_of(run: Path) -> list[Path]:
    """Everything that predictions may follow from; the state for resuming is not among it."""
    if run.is_dir():
        return sorted(each for each in run.iterdir() if each.is_file() and each.suffix != ".ckpt")
    return [run] if run.is_file() else []
