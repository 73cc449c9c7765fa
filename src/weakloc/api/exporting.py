"""A trained run -> an ONNX file, and such a file as something that predicts without the run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from weakloc import __version__
from weakloc.api.runs import TrainedRun, as_the_method_says, predictions_of
from weakloc.config import PredictSettings, require
from weakloc.errors import SettingError
from weakloc.predictor.co_occurring import Rescoring, shares_from_counts
from weakloc.predictor.onnx_export import ExportedFile, write_onnx
from weakloc.predictor.onnx_record import Looking, OnnxRecord, pairs_of
from weakloc.predictor.onnx_source import OnnxSource
from weakloc.predictor.predictor import Predictor
from weakloc.structures import BrokenImage, Prediction

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

    def predictor(self, settings: PredictSettings | None = None) -> Predictor:
        """What names the places that the exported run would name."""
        record = self.record
        wanted = as_the_method_says(settings or PredictSettings(), record.looking)
        _require_what_the_file_holds(wanted)
        if wanted.rescoring is None:
            wanted = replace(wanted, rescoring=record.rescoring)
        if record.threshold_mode is not None and wanted.threshold is None:
            wanted = replace(wanted, threshold_mode=record.threshold_mode)
        rescoring = None
        if wanted.rescoring:
            rescoring = Rescoring(shares_from_counts(record.co_occurrence()), wanted.rescoring)
        return Predictor(self.source, wanted, thresholds=record.thresholds, rescore=rescoring)

    def predict(
        self,
        images: str | Path | Sequence[str | Path],
        *,
        tags: str | Path | None = None,
        settings: PredictSettings | None = None,
    ) -> Iterator[Prediction | BrokenImage]:
        """Predictions of a folder, a glob, a list, a table, shards, or of some paths."""
        return predictions_of(self.predictor(settings), images, tags)


def export(run: TrainedRun, out: Path) -> ExportedFile:
    """The run's network with all that is needed to use it, as one file checked against it."""
    if out.suffix != SUFFIX:
        raise SettingError(
            f"--out is {str(out)!r}", remedy=f"Give the file a name that ends in {SUFFIX}"
        )
    return write_onnx(run.run.network, out, describe(run))


def load_onnx(path: str | Path) -> ExportedNetwork:
    """The network in a file that `export` wrote."""
    return ExportedNetwork(OnnxSource(Path(path)))


def describe(run: TrainedRun) -> OnnxRecord:
    """What the file will say of itself."""
    # The file's places are looked for in its maps, whatever the method does.
    predictor = run.predictor(PredictSettings(localiser="score_map"))
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
        threshold_mode=None if calibration is None else predictor.settings.threshold_mode,
        thresholds_from=str(run.origin_of_thresholds["thresholds_from"]),
        num_boxes_used=run.num_boxes_used,
        hidden_supervision=run.hidden_supervision,
        smallest_side=backbone.min_input,
        version=__version__,
        rescoring=predictor.settings.rescoring or 0.0,
        together=pairs_of(run.run.labels.co_occurrence),
    )


def _require_what_the_file_holds(settings: PredictSettings) -> None:
    require(
        settings.localiser == "score_map",
        "localiser",
        settings.localiser,
        "The file holds no network for parts of an image: give score_map, or predict with the run",
    )
    require(
        settings.objectness == "none",
        "objectness",
        settings.objectness,
        "The file gives no feature maps: leave it out, or predict with the run",
    )
    require(not settings.compile, "compile", settings.compile, "An ONNX file is compiled already")
    require(
        settings.precision != "bf16",
        "precision",
        settings.precision,
        "An ONNX file computes in fp32: leave it out",
    )
