"""Runs and prediction files against the truth of a data set, with baselines beside them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from weakloc.api.data_sets import read, require_same_classes
from weakloc.api.predictions import predictions_file, summary_beside
from weakloc.api.runs import SUFFIX, ExportedNetwork, TrainedRun, load
from weakloc.data.readers.coco import read_coco_results
from weakloc.data.sources import ImageSource
from weakloc.files import ByName, open_whole, write_json
from weakloc.geometry import GridTransform, Size
from weakloc.localize.maps import resample
from weakloc.metrics.case import ClassIndex, ClassMap, Resolution, pair_predictions
from weakloc.metrics.evaluation import (
    METRICS,
    Evaluation,
    MetricSetup,
    PredictedKind,
    Report,
    compare_reports,
    predicted_kinds,
    truth_kinds,
)
from weakloc.metrics.max_box import READINGS, SIDE
from weakloc.metrics.result import EvaluationRecord
from weakloc.metrics.uncertainty import Difference, Resampling
from weakloc.output.exporters.jsonl import read_predictions
from weakloc.predictor.places import wanted_classes
from weakloc.predictor.predictor import Predictor
from weakloc.predictor.views import SeenImage
from weakloc.settings import Look, Places
from weakloc.structures import PRESENT, BrokenImage, DataSet, Prediction, Sample
from weakloc.work import Progress, silent

# Metrics that read the places of the true classes and of the likeliest alone.
OF_FEW_CLASSES = {"classification", "accuracy", "single_object", "pixels"}
OF_FEW_CLASSES |= {convention.name for convention in READINGS}
EVERYTHING: frozenset[PredictedKind] = frozenset(("scores", "points", "boxes", "masks", "maps"))


@dataclass(frozen=True)
class Evaluated:
    """The numbers of one run or file; `tuned_by` says what chose its thresholds."""

    name: str
    split: str
    report: Report
    tuned_by: str
    num_images: int
    num_broken: int = 0

    def to_json(self) -> dict[str, Any]:
        record = EvaluationRecord(
            metrics=tuple(result.record for result in self.report.results),
            unavailable=self.report.unavailable,
            evaluated=self.name,
            split=self.split,
            thresholds_from=self.tuned_by,
            num_images=self.num_images,
            num_broken=self.num_broken,
        )
        plain: dict[str, Any] = msgspec.to_builtins(record)
        return plain


@dataclass(frozen=True)
class Judging:
    """What all runs under comparison are judged by.

    `compatible` also reads score maps as the public evaluator of Choe et al. 2020 does, to the
    bit; `original_size` also at the size of the images. `numbers` are those that are wanted, to
    save the time of the others; None are all that the truth supports.
    """

    data_set: DataSet
    split: str
    num_resamples: int = 1000
    compatible: bool = False
    original_size: bool = False
    numbers: frozenset[str] | None = None

    @property
    def metrics(self) -> tuple[str, ...]:
        """Those of the catalogue that yield a wanted number, by a reading that is asked for."""
        return tuple(
            name
            for name, metric in METRICS.items()
            if (self.numbers is None or self.numbers & set(metric.headlines))
            and (self.compatible or not name.endswith("_compatible"))
            and (self.original_size or "_original" not in name)
        )

    @property
    def resolutions(self) -> tuple[Resolution, ...]:
        """Of the score maps that the metrics read."""
        if not any("maps" in METRICS[name].predicted for name in self.metrics):
            return ()
        return ("224", "original") if self.original_size else ("224",)

    @property
    def samples(self) -> Sequence[Sample]:
        return self.data_set.split(self.split)

    @property
    def setup(self) -> MetricSetup:
        return MetricSetup(
            ClassIndex(self.data_set.class_names),
            segmentation_values=self.data_set.segmentation_values,
            resampling=Resampling(self.num_resamples),
        )


def evaluate(
    what: str | Path | TrainedRun | ExportedNetwork,
    data: str | Path | DataSet,
    *,
    split: str = "val",
    look: Look = Look(),
    places: Places = Places(),
) -> Evaluated:
    """A run, exported file, predictions.jsonl or COCO results file against a split of the data."""
    data_set = data if isinstance(data, DataSet) else read(data)
    return judge(what, Judging(data_set, split), look=look, places=places)


def judge(
    what: str | Path | TrainedRun | ExportedNetwork,
    judging: Judging,
    *,
    look: Look = Look(),
    places: Places = Places(),
    on_progress: Progress = silent,
) -> Evaluated:
    """`evaluate` with all that can be chosen, for several runs that are judged alike."""
    if isinstance(what, TrainedRun | ExportedNetwork):
        return _evaluate_run(what, judging, look, places, on_progress)
    path = Path(what)
    file = predictions_file(path)
    if path.suffix == SUFFIX or (path.is_dir() and not file.is_file()):
        return _evaluate_run(load(path), judging, look, places, on_progress)
    if file.suffix == ".json":
        predictions = read_coco_results(file, judging.data_set)
        return _evaluate_file(predictions, file, judging, is_complete=False)
    return _evaluate_file(list(read_predictions(file)), file, judging, is_complete=True)


def compare(first: Evaluated, second: Evaluated) -> tuple[Difference, ...]:
    """First minus second, resampled in pairs over the same images."""
    return compare_reports(first.report, second.report)


def write_metrics(path: Path, evaluated: Sequence[Evaluated]) -> None:
    """One JSON document; with several runs a list under "runs"."""
    write_json(path, document_of(evaluated))


def document_of(evaluated: Sequence[Evaluated]) -> dict[str, Any]:
    """What metrics.json holds: one record, or a list of them under "runs"."""
    records = [numbers.to_json() for numbers in evaluated]
    return records[0] if len(records) == 1 else {"runs": records}


def write_markdown(path: Path, evaluated: Sequence[Evaluated]) -> None:
    """One row a number, one column a run, with the interval and the best baseline."""
    with open_whole(path) as file:
        file.write("| metric | " + " | ".join(numbers.name for numbers in evaluated))
        file.write(" | best baseline |\n|---|" + "---|" * (len(evaluated) + 1) + "\n")
        for result in evaluated[0].report.results:
            name = result.name
            cells = [_markdown_cell(numbers.report, name) for numbers in evaluated]
            best = max(result.baselines.items(), key=lambda item: item[1], default=None)
            shown = "-" if best is None else f"{best[1]:.3f} ({best[0]})"
            file.write(f"| {name} | {' | '.join(cells)} | {shown} |\n")
        for numbers in evaluated:
            file.write(f"\n{numbers.name}: thresholds tuned by {numbers.tuned_by}; ")
            file.write(f"{numbers.num_images} images of {numbers.split}.\n")


def _markdown_cell(report: Report, name: str) -> str:
    for result in report.results:
        if result.name == name and result.value is not None:
            interval = result.interval
            spread = "" if interval is None else f" ({interval.low:.3f} to {interval.high:.3f})"
            return f"{result.value:.3f}{spread}"
    return "-"


def _evaluate_run(
    run: TrainedRun | ExportedNetwork,
    judging: Judging,
    look: Look,
    places: Places,
    on_progress: Progress,
) -> Evaluated:
    require_same_classes(
        run.class_names,
        judging.data_set.class_names,
        of="the data set",
        where=str(run.path),
        remedy="Give --class-names in the order of the run, or evaluate a predictions.jsonl",
    )
    samples = judging.samples
    truth, metrics = truth_kinds(samples), judging.metrics
    masks = places.masks if places.masks != "none" else "threshold"
    paints = "masks" in truth and any("masks" in METRICS[name].predicted for name in metrics)
    predictor = run.predictor(look, replace(places, masks=masks if paints else "none"))
    predicted = EVERYTHING if paints else EVERYTHING - {"masks"}
    evaluation = Evaluation(judging.setup, truth=truth, predicted=predicted, metrics=metrics)
    seeing = _Seeing(
        predictor,
        evaluation,
        asks_all=not OF_FEW_CLASSES.issuperset(metrics),
        resolutions=judging.resolutions if truth & {"boxes", "masks"} else (),
    )
    num_broken = seeing.through(samples, on_progress)
    report = evaluation.report(
        hidden_supervision=run.num_boxes_used, in_training=run.hidden_supervision
    )
    tuned_by = str(run.origin_of_thresholds["thresholds_from"])
    if places.threshold is not None:
        tuned_by = f"--threshold {places.threshold:g}"
    num_images = len(samples) - num_broken
    return Evaluated(str(run.path), judging.split, report, tuned_by, num_images, num_broken)


@dataclass(frozen=True)
class _Seeing:
    """Every class is asked for its places, whatever its score, as the rankings need it, or the
    true and the likeliest alone; masks are painted for the classes that count as present, as users
    get them."""

    predictor: Predictor
    evaluation: Evaluation
    asks_all: bool
    resolutions: tuple[Resolution, ...]  # of the maps

    def through(self, samples: Sequence[Sample], on_progress: Progress) -> int:
        """The number of broken images, which no metric counts."""
        predictor = self.predictor
        by_name = {sample.name: sample for sample in samples}
        sources = [ImageSource(sample.name, sample.path) for sample in samples]
        without_masks = Predictor(
            predictor.source,
            predictor.look,
            replace(predictor.places, masks="none"),
            thresholds=predictor.locating.thresholds,
            heat=predictor.heat,
        )
        num_broken = 0
        for done, image in enumerate(predictor.see(sources), start=1):
            on_progress(done, len(samples))
            if isinstance(image, BrokenImage):
                num_broken += 1
                continue
            sample = by_name[image.name]
            true = np.flatnonzero(sample.labels == PRESENT).tolist()
            classes = sorted({*true, int(image.probabilities.argmax())})
            if self.asks_all:
                classes = list(range(len(image.probabilities)))
            prediction = without_masks.measurable(image, classes)
            if predictor.places.masks != "none":
                present = wanted_classes(image.probabilities, None, predictor.places)
                masks = predictor.measurable(image, present).masks
                prediction = replace(prediction, masks=masks)
            maps = self._maps(image, true) if true and self.resolutions else []
            self.evaluation.update(self.evaluation.setup.case(sample, prediction, maps))
        return num_broken

    def _maps(self, image: SeenImage, classes: Sequence[int]) -> list[ClassMap]:
        """Of the classes that are present, as the definitions say ("GT-known")."""
        heat = self.predictor.heat(image, classes, self.predictor.look)
        sizes: dict[Resolution, Size] = {"224": (SIDE, SIDE), "original": image.picture.size}
        identity = GridTransform.identity(image.picture.size)
        maps = {
            resolution: resample(heat, identity.resize(sizes[resolution])).values
            for resolution in self.resolutions
        }
        return [
            ClassMap(class_index, {name: values[row] for name, values in maps.items()})
            for row, class_index in enumerate(classes)
        ]


def _evaluate_file(
    predictions: list[Prediction], path: Path, judging: Judging, *, is_complete: bool
) -> Evaluated:
    samples = judging.samples
    evaluation = Evaluation(
        judging.setup,
        truth=truth_kinds(samples),
        predicted=predicted_kinds(predictions),
        metrics=[name for name, metric in METRICS.items() if "maps" not in metric.predicted],
    )
    listed = path.with_name("skipped.jsonl")
    lines = listed.read_text("utf-8").splitlines() if listed.is_file() else []
    skipped = {json.loads(line)["image"] for line in lines if line}
    left = [sample for sample in samples if sample.name not in skipped]
    pairs: Iterable[tuple[Sample, Prediction]] = pair_predictions(
        _of_split(predictions, samples, judging.data_set),
        left,
        judging.setup.classes,
        when_missing="error" if is_complete else "empty",
    )
    for sample, prediction in pairs:
        evaluation.update(judging.setup.case(sample, prediction))
    summary = summary_beside(path) if path.suffix == ".jsonl" else {}
    report = evaluation.report(hidden_supervision=int(summary.get("num_boxes_used", 0)))
    tuned_by = str(summary.get("thresholds_from", "unknown"))
    num_broken = len(samples) - len(left)
    return Evaluated(str(path), judging.split, report, tuned_by, len(left), num_broken)


def _of_split(
    predictions: Sequence[Prediction], samples: Sequence[Sample], data_set: DataSet
) -> Iterator[Prediction]:
    """The predictions of the split's images; those of its other splits are passed over.

    Predictions of a folder inside the data set are named from there, samples from its root.
    """
    names = {sample.name for sample in samples}
    real_names = ByName({sample.name: sample.name for sample in data_set.samples()})
    for prediction in predictions:
        named = real_names.get(prediction.image)
        if named is None or named in names:
            yield replace(prediction, image=named or prediction.image)
