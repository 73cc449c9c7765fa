"""Run folders and exported files, each as something that predicts."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from weakloc import __version__
from weakloc.api.classifiers import TIMM
from weakloc.data.sources import ImageSource, find_images, read_tags
from weakloc.errors import RunError, SettingError
from weakloc.files import digest_of_file, fit_json
from weakloc.localize.beam_search import BeamSettings
from weakloc.localize.calibration import Calibration
from weakloc.localize.places import ThresholdMode
from weakloc.methods.beam import Beam
from weakloc.methods.method import LEARNED, Localiser, Looking, PlaceRules, settled
from weakloc.model.fine_layers import CellReading
from weakloc.model.weights import supervision_of_weights
from weakloc.predictor.beam_heat import BeamHeat
from weakloc.predictor.onnx_file import (
    Counts,
    ExportedFile,
    ExportedGraph,
    OnnxRecord,
    OnnxSource,
    pairs_of,
    write_onnx,
)
from weakloc.predictor.predictor import HeatMaker, Predictor, fused_maps
from weakloc.predictor.score_fusion import AlphaChoice, Rescoring, shares_from_counts
from weakloc.predictor.views import NetworkSource
from weakloc.settings import LocaliserChoice, Look, Places, require
from weakloc.structures import BrokenImage, Prediction
from weakloc.training.hub import folder_of, name_of
from weakloc.training.plan import uses_bf16
from weakloc.training.run_folder import RECORD_NAME, Run, load_run, read_record, write_record

KEY = "rescoring"


def save_alpha(run_folder: Path, choice: AlphaChoice) -> None:
    calibrated = {
        "alpha": choice.alpha,
        "by": f"classification mAP (tags only) of {choice.chosen_on}",
        "mean_average_precision": choice.mean_average_precision,
    }
    write_record(run_folder, {**read_record(run_folder), KEY: calibrated})


@dataclass(frozen=True)
class RunFacts:
    """What is known of a run in whatever form; `looking` also says how it is judged.

    `hidden_supervision` counts drawn boxes or masks that training or selection looked at,
    `num_boxes_used` those of calibration as well.
    """

    path: Path
    class_names: tuple[str, ...]
    looking: Looking
    hidden_supervision: int
    num_boxes_used: int
    thresholds_from: str
    weights_from: str  # what those that training began with were made from

    @property
    def supervision(self) -> dict[str, str | int]:
        """What was looked at beside tags, for whoever keeps a record of predictions."""
        names = ("thresholds_from", "num_boxes_used", "weights_from")
        return {name: getattr(self, name) for name in names}


class LoadedRun(ABC):
    """A trained network that predicts, with its method and its thresholds."""

    @property
    @abstractmethod
    def facts(self) -> RunFacts: ...

    @property
    def path(self) -> Path:
        return self.facts.path

    @property
    def name(self) -> str:
        return name_of(self.path)

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.facts.class_names

    @abstractmethod
    def predictor(self, look: Look = Look(), places: Places = Places()) -> Predictor:
        """What sees images and names places with this network, method and thresholds."""

    def predict(
        self,
        images: str | Path | Sequence[str | Path],
        *,
        tags: str | Path | None = None,
        look: Look = Look(),
        places: Places = Places(),
    ) -> Iterator[Prediction | BrokenImage]:
        """One answer an image of a folder, a glob, a list, a table, shards, or of some paths.

        In input order; `tags` is a table of what is in the images.
        """
        predictor = self.predictor(look, places)
        known = None if tags is None else read_tags(tags, self.class_names)[0]
        if isinstance(images, str | Path):
            return predictor.predict(find_images(str(images)), known)
        sources = (ImageSource(str(path).replace("\\", "/"), str(path)) for path in images)
        return predictor.predict(sources, known)


@dataclass(frozen=True)
class TrainedRun(LoadedRun):
    """A run folder, loaded."""

    run: Run

    @property
    def facts(self) -> RunFacts:
        run, calibration = self.run, self.calibration
        tuning = 0 if calibration is None else calibration.num_boxes_used
        return RunFacts(
            run.path,
            run.class_names,
            run.method.looking,
            run.hidden_supervision,
            num_boxes_used=run.hidden_supervision + tuning,
            thresholds_from="a fixed value" if calibration is None else calibration.supervision,
            weights_from=supervision_of_weights(run.network.backbone.loaded_weights),
        )

    @property
    def calibration(self) -> Calibration | None:
        if self.run.thresholds is None:
            return None
        try:
            calibration = fit_json(self.run.thresholds, Calibration)
            num_thresholds, num_classes = len(calibration.thresholds), len(self.run.class_names)
            if num_thresholds != num_classes:
                raise ValueError(f"{num_thresholds} for {num_classes} classes")
            return calibration
        except ValueError as error:
            raise RunError(
                f"its thresholds are damaged ({error})",
                location=str(self.run.path / RECORD_NAME),
                remedy="Calibrate again",
            ) from error

    def predictor(self, look: Look = Look(), places: Places = Places()) -> Predictor:
        learned = {"detector": self.run.detector, "cells": self.run.cells}
        if look.localiser in learned and learned[look.localiser] is None:
            command = {"detector": "distil", "cells": "refine"}[look.localiser]
            raise SettingError(
                f"--localiser is {look.localiser}, and {self.path} has learned none",
                remedy=f"Run 'weakloc {command}' first",
            )
        best = [
            looking
            for name, looking in LEARNED.items()
            if look.localiser in ("auto", name) and learned[name] is not None
        ]
        look, rules = settled(look, [*best, self.run.method.looking][0])
        thresholds: tuple[float, ...] = ()
        calibration = self.calibration
        if calibration is not None and places.threshold is None:
            if calibration.maps not in ("", look.localiser):
                raise SettingError(
                    f"the thresholds of {self.path} were tuned for {calibration.maps}, "
                    f"not for {look.localiser}",
                    remedy="Run 'weakloc calibrate' again with the flags of this command, "
                    "or give --threshold",
                )
            thresholds = calibration.thresholds
            rules = calibrated_rules(rules, calibration.threshold_mode, places, self.path)
        if places.rescoring is None:
            calibrated = read_record(self.path).get(KEY) or {"alpha": 0.0}
            places = replace(places, rescoring=float(calibrated["alpha"]))
        source = self._source(look)
        heat: HeatMaker = fused_maps
        if look.localiser == "beam_search":
            method = self.run.method
            heat = BeamHeat(source, method.search if isinstance(method, Beam) else BeamSettings())
        rescore = rescoring_by(np.array(self.run.labels.co_occurrence), places)
        return Predictor(
            source, look, places, rules=rules, thresholds=thresholds, heat=heat, rescore=rescore
        )

    def _source(self, look: Look) -> NetworkSource:
        reading = None
        if look.localiser in LEARNED and self.run.cells is not None:
            detector = self.run.detector if look.localiser == "detector" else None
            geometry = self.run.network.backbone.geometry
            reading = CellReading(self.run.cells, detector, geometry)
        loss = self.run.method.build_loss(
            num_classes=len(self.class_names), single_label=self.run.labels.is_single_label
        )
        return NetworkSource(
            self.run.network,
            look,
            class_names=self.run.class_names,
            preprocessing=self.run.preprocessing,
            activation=loss.activation,
            uses_bf16=uses_bf16(look.precision),
            reading=reading,
        )


def calibrated_rules(
    rules: PlaceRules, mode: ThresholdMode, places: Places, path: Path
) -> PlaceRules:
    """The rules with what calibrated thresholds are a share of."""
    require(
        places.threshold_mode in ("auto", mode),
        "threshold_mode",
        places.threshold_mode,
        f"The thresholds of {path} were tuned for {mode}: leave it out, or give --threshold",
    )
    return replace(rules, threshold_mode=mode)


def rescoring_by(co_occurrence: Counts, places: Places) -> Rescoring | None:
    """None where the places give the classes that were tagged together no weight."""
    if not places.rescoring:
        return None
    return Rescoring(shares_from_counts(co_occurrence), places.rescoring)


def load_folder(run: str | Path | TrainedRun) -> TrainedRun:
    """The run in a folder that `weakloc train` wrote, or on the hub; it may be loaded already."""
    return run if isinstance(run, TrainedRun) else TrainedRun(load_run(folder_of(run)))


SUFFIX = ".onnx"


@dataclass(frozen=True)
class ExportedNetwork(LoadedRun):
    """A file of `weakloc export`, loaded."""

    source: OnnxSource

    @property
    def facts(self) -> RunFacts:
        record = self.source.record
        of_record = {part.name: getattr(record, part.name) for part in fields(RunFacts)[1:]}
        return RunFacts(self.source.path, **of_record)

    def predictor(self, look: Look = Look(), places: Places = Places()) -> Predictor:
        record = self.source.record
        look, rules = settled(look, record.looking)
        localiser = record.looking.localiser
        localiser = "score_map" if localiser == "beam_search" else localiser
        remedy = f"The file knows {localiser} alone: give that, or use the run"
        require(look.localiser == localiser, "localiser", look.localiser, remedy)
        require(not look.compile, "compile", look.compile, "An ONNX file is compiled already")
        remedy = "An ONNX file computes in fp32: leave it out"
        require(look.precision != "bf16", "precision", look.precision, remedy)
        if places.rescoring is None:
            places = replace(places, rescoring=record.rescoring)
        if record.threshold_mode is not None and places.threshold is None:
            rules = calibrated_rules(rules, record.threshold_mode, places, self.path)
        return Predictor(
            self.source,
            look,
            places,
            rules=rules,
            thresholds=record.thresholds,
            rescore=rescoring_by(record.co_occurrence(), places),
        )


def export(
    run: str | Path | TrainedRun, out: str | Path, *, localiser: LocaliserChoice = "auto"
) -> ExportedFile:
    """The run's network with all that is needed to use it, as one file checked against it.

    It names places as the run would with this localiser; of one that searches, its class maps.
    """
    trained, out = load_folder(run), Path(out)
    if out.suffix != SUFFIX:
        raise SettingError(
            f"--out is {str(out)!r}", remedy=f"Give the file a name that ends in {SUFFIX}"
        )
    predictor = trained.predictor(Look(localiser=localiser))
    if predictor.look.localiser == "beam_search":
        predictor = trained.predictor(Look(localiser="score_map"))
    assert isinstance(predictor.source, NetworkSource)
    reading = predictor.source.reading
    graph = ExportedGraph(trained.run.network, reading and reading.cpu())
    return write_onnx(graph, out, describe(trained, predictor, graph))


def describe(run: TrainedRun, predictor: Predictor, graph: ExportedGraph) -> OnnxRecord:
    """What the file will say of itself."""
    calibration = run.calibration
    facts = dict(vars(run.facts))
    del facts["path"]
    if graph.reading is not None:
        name: Localiser = "cells" if graph.reading.detector is None else "detector"
        facts["looking"] = LEARNED[name]
    return OnnxRecord(
        **facts,
        activation=predictor.source.activation,
        method=run.run.method.name,
        preprocessing=run.run.preprocessing,
        geometry=predictor.source.geometry,
        thresholds=predictor.thresholds,
        threshold_mode=None if calibration is None else predictor.rules.threshold_mode,
        smallest_side=graph.network.backbone.min_input,
        version=__version__,
        rescoring=predictor.places.rescoring or 0.0,
        together=pairs_of(np.array(run.run.labels.co_occurrence)),
    )


def load(run: str | Path) -> TrainedRun | ExportedNetwork:
    """A run: the folder that `weakloc train` wrote, hf:USER/NAME, or a file of `weakloc export`.

    One of the Hugging Face Hub comes into its cache; @REVISION after the name is a branch, a tag
    or a commit.
    """
    path = folder_of(run)
    return ExportedNetwork(OnnxSource(path)) if path.suffix == SUFFIX else load_folder(path)


def version_of(predictor: Predictor, origin: Mapping[str, Any]) -> str:
    """A short name that changes when the predictions may: with the runs or with the settings."""
    runs = origin["run"], *origin.get("also", ())
    digest = hashlib.sha256(repr(predictor.settings).encode())
    for run in map(folder_of, runs):
        # Predictions may follow from everything in a run but the state for resuming.
        files = (
            [path for path in run.glob("[!.]*") if path.suffix != ".ckpt"]
            if run.is_dir()
            else [run]
        )
        for path in filter(Path.is_file, sorted(files)):
            digest.update(bytes.fromhex(digest_of_file(path)))
    first = runs[0] if runs[0].startswith(TIMM) else Path(runs[0]).resolve().stem
    return f"{first.removeprefix(TIMM)}-{digest.hexdigest()[:8]}"
