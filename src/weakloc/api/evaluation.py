"""Runs and prediction files against the truth of a data set, with baselines beside them."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, get_args

import msgspec
import numpy as np

from weakloc.api.data_sets import Data, opened, require_same_classes
from weakloc.api.predictions import summary_beside
from weakloc.api.runs import SUFFIX, LoadedRun, load
from weakloc.data.readers.coco import read_coco_results
from weakloc.data.sources import ImageSource
from weakloc.files import ByName
from weakloc.geometry import GridTransform
from weakloc.localize.maps import resample
from weakloc.methods.method import PlaceRules
from weakloc.metrics.average_precision import Definition, RankingConvention
from weakloc.metrics.case import (
    ClassIndex,
    ClassMap,
    MetricSetup,
    OverlapConvention,
    pair_predictions,
)
from weakloc.metrics.evaluation import (
    METRICS,
    Evaluation,
    PredictedKind,
    TruthKind,
    predicted_kinds,
    truth_kinds,
)
from weakloc.metrics.max_box import READINGS, SIDE
from weakloc.metrics.result import EvaluationRecord, MetricRecord, MetricResult
from weakloc.output.exporters.jsonl import predictions_file, read_predictions
from weakloc.predictor.predictor import Predictor, wanted_classes
from weakloc.settings import DataSettings, EvaluateSettings, Look, Places
from weakloc.structures import PRESENT, BrokenImage, DataSet, Prediction, Sample
from weakloc.training.hub import folder_of
from weakloc.work import Progress, silent

# Metrics that read the places of the true classes and of the likeliest alone.
OF_FEW_CLASSES = {"classification", "accuracy", "single_object", "pixels"}
OF_FEW_CLASSES |= {convention.name for convention in READINGS}
EVERYTHING: frozenset[PredictedKind] = frozenset(("scores", "points", "boxes", "masks", "maps"))


@dataclass(frozen=True)
class Evaluated(EvaluationRecord):
    """The numbers of one run or file, with what others are compared with them by."""

    metrics: tuple[MetricResult, ...]

    def to_json(self) -> dict[str, Any]:
        written = {**vars(self), "metrics": tuple(result.record for result in self.metrics)}
        plain: dict[str, Any] = msgspec.to_builtins(EvaluationRecord(**written))
        return plain


def evaluate(
    source: str | Path | LoadedRun,
    data: Data,
    settings: EvaluateSettings = EvaluateSettings(),
    *,
    numbers: Collection[str] | None = None,
    look: Look = Look(),
    places: Places = Places(),
    reading: DataSettings = DataSettings(),
    on_progress: Progress = silent,
) -> Evaluated:
    """A run, exported file, predictions.jsonl or COCO results file against a split of the data.

    `numbers` names those that are wanted, to save the time of the others; None are all that the
    truth supports.
    """
    data_set = opened(data, reading)
    measuring = _Measuring(data_set, settings, chosen_metrics(settings, numbers))
    if isinstance(source, str | Path):
        path = folder_of(source)
        file = predictions_file(path)
        if path.suffix != SUFFIX and (file.is_file() or not path.is_dir()):
            return measuring.of_file(file)
        source = load(path)
    require_same_classes(
        source.class_names,
        data_set.class_names,
        of="the data set",
        location=str(source.path),
        remedy="Give --class-names in the order of the run, or evaluate a predictions.jsonl",
    )
    return measuring.of_run(source, look, places, on_progress)


def chosen_metrics(settings: EvaluateSettings, numbers: Collection[str] | None) -> tuple[str, ...]:
    """Those of the catalogue that yield a wanted number, by a reading that is asked for."""
    return tuple(
        name
        for name, metric in METRICS.items()
        if (numbers is None or not set(metric.headlines).isdisjoint(numbers))
        and (settings.compatible or not name.endswith("_compatible"))
    )


def document_of(evaluated: Sequence[Evaluated]) -> dict[str, Any]:
    """What metrics.json holds: one record, or a list of them under "runs"."""
    records = [numbers.to_json() for numbers in evaluated]
    return records[0] if len(records) == 1 else {"runs": records}


def markdown_of(evaluated: Sequence[EvaluationRecord]) -> str:
    """One row a number, one column a run, with the interval and the best baseline."""
    header, rows = ["metric", *(numbers.evaluated for numbers in evaluated), "best baseline"], []
    for result in evaluated[0].metrics:
        cells = [_markdown_cell(numbers, result.name) for numbers in evaluated]
        rows.append([result.name, *cells, best_baseline(result)])
    table = "\n".join(markdown_table(header, rows))
    return f"{table}\n" + "".join(
        f"\n{numbers.evaluated}: thresholds tuned by {numbers.thresholds_from}; "
        f"{numbers.num_images} images of {numbers.split}; "
        f"training began with weights from {numbers.weights_from}.\n"
        for numbers in evaluated
    )


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Its lines."""
    yield "| " + " | ".join(header) + " |"
    yield "|" + "---|" * len(header)
    yield from ("| " + " | ".join(row) + " |" for row in rows)


def best_baseline(result: MetricRecord) -> str:
    best = result.best_baseline
    return "-" if best is None else f"{best[1]:.3f} ({best[0]})"


def _markdown_cell(evaluated: EvaluationRecord, name: str) -> str:
    for result in evaluated.metrics:
        if result.name == name and result.value is not None:
            spread = "" if result.interval is None else f" ({result.interval})"
            return f"{result.value:.3f}{spread}"
    return "-"


@dataclass(frozen=True)
class _Measuring:
    """Which numbers are measured on which images."""

    data_set: DataSet
    settings: EvaluateSettings
    metrics: Sequence[str]

    @cached_property
    def samples(self) -> Sequence[Sample]:
        return self.data_set.split(self.settings.split)

    @cached_property
    def truth(self) -> frozenset[TruthKind]:
        return truth_kinds(self.samples)

    @cached_property
    def reads(self) -> set[PredictedKind]:
        return {kind for name in self.metrics for kind in METRICS[name].predicted}

    def of_run(
        self, run: LoadedRun, look: Look, places: Places, on_progress: Progress
    ) -> Evaluated:
        paints = "masks" in self.truth and "masks" in self.reads
        masks = places.masks if places.masks != "none" else "threshold"
        predictor = run.predictor(look, replace(places, masks=masks if paints else "none"))
        predicted = EVERYTHING if paints else EVERYTHING - {"masks"}
        evaluation = self._evaluation(run.facts.looking.rules, predicted, self.metrics)
        num_images = 0
        for sample, prediction, maps in self._seen(predictor, on_progress):
            evaluation.update(evaluation.setup.case(sample, prediction, maps))
            num_images += 1
        results = evaluation.results(
            hidden_supervision=run.facts.num_boxes_used, in_training=run.facts.hidden_supervision
        )
        tuned_by = run.facts.thresholds_from
        if places.threshold is not None:
            tuned_by = f"--threshold {places.threshold:g}"
        supervision = tuned_by, run.facts.weights_from
        return self._evaluated(results, evaluation, run.name, supervision, num_images)

    def of_file(self, file: Path) -> Evaluated:
        is_coco = file.suffix == ".json"
        predictions = (
            read_coco_results(file, self.data_set) if is_coco else list(read_predictions(file))
        )
        without_maps = [name for name in self.metrics if "maps" not in METRICS[name].predicted]
        evaluation = self._evaluation(PlaceRules(), predicted_kinds(predictions), without_maps)
        listed = file.with_name("skipped.jsonl")
        lines = listed.read_text("utf-8").splitlines() if listed.is_file() else []
        skipped = {json.loads(line)["image"] for line in lines if line}
        left = [sample for sample in self.samples if sample.name not in skipped]
        for sample, prediction in pair_predictions(
            self._of_split(predictions),
            left,
            evaluation.setup.classes,
            when_missing="empty" if is_coco else "error",
        ):
            evaluation.update(evaluation.setup.case(sample, prediction))
        summary = summary_beside(file) if file.suffix == ".jsonl" else {}
        results = evaluation.results(hidden_supervision=summary.get("num_boxes_used", 0))
        tuned_by = summary.get("thresholds_from", "unknown")
        supervision = tuned_by, summary.get("weights_from", "unknown")
        return self._evaluated(results, evaluation, str(file), supervision, len(left))

    def _evaluation(
        self, rules: PlaceRules, predicted: Iterable[PredictedKind], metrics: Sequence[str]
    ) -> Evaluation:
        """By the definitions of the rules, unless the settings name others."""
        definition = self.settings.ap or rules.average_precision
        definitions = get_args(Definition) if definition == "all" else (definition,)
        setup = MetricSetup(
            ClassIndex(self.data_set.class_names),
            ranking=RankingConvention(definitions),
            overlap=OverlapConvention(edges=self.settings.box_edges or rules.box_edges),
            segmentation_values=self.data_set.segmentation_values,
            resamples=self.settings.resamples,
        )
        return Evaluation(setup, truth=self.truth, predicted=predicted, metrics=metrics)

    def _evaluated(
        self,
        results: tuple[MetricResult, ...],
        evaluation: Evaluation,
        name: str,
        supervision: tuple[str, str],  # what the thresholds and the weights are from
        num_images: int,
    ) -> Evaluated:
        reasons, split = evaluation.unavailable, self.settings.split
        tuned_by, weights = supervision
        counts = num_images, len(self.samples) - num_images
        return Evaluated(results, reasons, name, split, tuned_by, *counts, weights)

    def _seen(
        self, predictor: Predictor, on_progress: Progress
    ) -> Iterator[tuple[Sample, Prediction, list[ClassMap]]]:
        """What the predictor says of every image that is not broken, and its maps.

        Every class is asked for its places, whatever its score, as the rankings need it, or the
        true and the likeliest alone; masks are painted for the classes that count as present, as
        users get them. Maps are of the classes that are present, as the definitions say
        ("GT-known").
        """
        asks_all = not OF_FEW_CLASSES.issuperset(self.metrics)
        asks_maps = "maps" in self.reads and self.truth & {"boxes", "masks"}
        paints = predictor.places.masks != "none"
        by_name = {sample.name: sample for sample in self.samples}
        sources = [*map(ImageSource.of, self.samples)]
        for done, image in enumerate(predictor.see(sources), start=1):
            on_progress(done, len(sources))
            if isinstance(image, BrokenImage):
                continue
            sample = by_name[image.name]
            true = np.flatnonzero(sample.labels == PRESENT).tolist()
            classes = sorted({*true, int(image.probabilities.argmax())})
            if asks_all:
                classes = list(range(len(image.probabilities)))
            painted = wanted_classes(image.probabilities, None, predictor.places) if paints else []
            prediction = predictor.measurable(image, classes, painted)
            maps = []
            if true and asks_maps:
                heat = predictor.heat(image, true, predictor.look)
                grid = GridTransform.identity(image.picture.size).resize((SIDE, SIDE))
                maps = list(map(ClassMap, true, resample(heat, grid).values))
            yield sample, prediction, maps

    def _of_split(self, predictions: Sequence[Prediction]) -> Iterator[Prediction]:
        """The predictions of the split's images; those of its other splits are passed over.

        Predictions of a folder inside the data set are named from there, samples from its root.
        """
        names = {sample.name for sample in self.samples}
        real_names = ByName({sample.name: sample.name for sample in self.data_set.samples()})
        for prediction in predictions:
            named = real_names.get(prediction.image)
            if named is None or named in names:
                yield replace(prediction, image=named or prediction.image)
